"""The verbs of a fit, by what they are for; ``Fit`` has them all.  Each delegates to the module that does the work."""
