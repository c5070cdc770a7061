"""Poisson: Var y = mu."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from jaxmm._special import log_gamma, times
from jaxmm.families._base import Family, inside, whole
from jaxmm.links import log_cloglog_excess


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

    def log_of_eta_above_zero(self, y, eta, phi):
        log_mu = self.link.log_mu(eta)
        return inside(times(y - 1, log_mu) - self.link.inverse(eta) - log_cloglog_excess(log_mu))

    def log_constant(self, y, trials=1.0):
        return -log_gamma(y + 1.0)

    def variance(self, mu, phi, trials=1.0):
        return mu

    def sample(self, key, mu, phi, trials=1.0):
        return jax.random.poisson(key, mu).astype(mu.dtype)

    def sample_above_zero(self, key, mu, phi):
        """Of the arrivals of a process in one unit of time, the first, and those after it."""
        first, after = jax.random.split(key)
        left = 1 - first_arrival(first, mu)
        return 1 + jax.random.poisson(after, mu * left).astype(mu.dtype)

    def valid(self, y):
        return whole(y)

    def start_mu(self, y, trials=1.0):
        return np.asarray(y) + 0.1

    def unit_deviance(self, y, mu, phi, trials=1.0):
        return 2 * (xlogy(y, y / mu) - (y - mu))


def first_arrival(key, rate):
    """When it comes in a Poisson process of this rate, given that it comes before time 1: an exponential variate, cut
    off there."""
    u = jax.random.uniform(key, rate.shape, rate.dtype)
    return jnp.where(rate > 1e-300, -jnp.log1p(u * jnp.expm1(-rate)) / jnp.maximum(rate, 1e-300), u)
