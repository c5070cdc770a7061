"""Poisson: Var y = mu."""

from __future__ import annotations

import jax
import numpy as np
from jax.scipy.special import xlogy

from jaxmm._special import log_gamma, times
from jaxmm.families._base import Family, inside, whole


class Poisson(Family):
    """log p = y log mu - mu - log y!.

    Example:
        >>> family = mm.families.Poisson(link="sqrt")
        >>> family.link.name, float(family.variance(2.0, None))
        ('sqrt', 2.0)
    """

    name = "poisson"
    links = ("log", "identity", "sqrt")
    support = "whole numbers from 0"
    mean_range = (1e-3, float("inf"))

    def log_density(self, y, eta, phi):
        return inside(times(y, self.link.log_mu(eta)) - self.link.inverse(eta))

    def log_constant(self, y, trials=1.0):
        return -log_gamma(y + 1.0)

    def variance(self, mu, phi, trials=1.0):
        return mu

    def sample(self, key, mu, phi, trials=1.0):
        return jax.random.poisson(key, mu).astype(mu.dtype)

    def valid(self, y):
        return whole(y)

    def start_mu(self, y, trials=1.0):
        return np.asarray(y) + 0.1

    def unit_deviance(self, y, mu, phi, trials=1.0):
        return 2 * (xlogy(y, y / mu) - (y - mu))
