"""Binomial: y successes among trials, each with probability mu."""

from __future__ import annotations

import jax
import numpy as np
from jax.scipy.special import xlogy

from jaxmm._special import log_gamma
from jaxmm.families._base import Family, inside, whole


class Binomial(Family):
    """log p = y log mu + (trials - y) log(1 - mu) + log binomial coefficient.

    Example:
        >>> family = mm.families.Binomial(link="probit")
        >>> family.link.name, float(family.variance(0.5, None))
        ('probit', 0.25)
    """

    name = "binomial"
    links = ("logit", "probit", "cloglog", "cauchit", "log")
    has_trials = True
    support = "whole numbers of successes from 0"
    mean_range = (1e-3, 1 - 1e-3)

    def log_density(self, y, eta, phi, trials):
        return inside(self.link.log_binomial(y, trials - y, eta))

    def log_constant(self, y, trials=1.0):
        return log_choose(y, trials)

    def variance(self, mu, phi, trials=1.0):
        return mu * (1 - mu)

    def sample(self, key, mu, phi, trials=1.0):
        return jax.random.binomial(key, trials, mu, mu.shape, mu.dtype)

    def valid(self, y):
        return whole(y)

    def start_mu(self, y, trials=1.0):
        return (np.asarray(y) + 0.5) / (np.asarray(trials) + 1)

    def unit_deviance(self, y, mu, phi, trials=1.0):
        failures = trials - y
        return 2 * (xlogy(y, y / (trials * mu)) + xlogy(failures, failures / (trials * (1 - mu))))


def log_choose(y, trials):
    """log of the number of ways to have y successes."""
    return log_gamma(trials + 1.0) - log_gamma(y + 1.0) - log_gamma(trials - y + 1.0)
