"""A fit -> what may be wrong with it: simulated residuals, a list of findings, components, further starts."""
