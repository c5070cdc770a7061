"""Estimated marginal means: the reference grid, means and slopes, their contrasts and adjustments, pictures."""
