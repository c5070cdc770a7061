"""Criteria to minimise: -2 log-likelihood as a pure function of parameters and arrays."""
