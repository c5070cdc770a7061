"""Negative binomial with quadratic variance: Var y = mu + mu^2 / phi."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from jaxmm._special import log_gamma, log_softplus_excess, rising_excess, scaled_softplus, softplus
from jaxmm.families._base import Family, inside, whole
from jaxmm.families.poisson import first_arrival
from jaxmm.links import log_cloglog, log_cloglog_excess


class NegativeBinomial2(Family):
    """log p = y log(mu / (1 + mu / phi)) - phi log(1 + mu / phi) + log((phi)_y / phi^y) - log y!.

    (phi)_y is the rising factorial.  Each term has a limit as phi -> oo, the Poisson distribution's.

    Example:
        >>> family = mm.families.NegativeBinomial2(link="log")
        >>> family.link.name, float(family.variance(2.0, 0.5))
        ('log', 10.0)
    """

    name = "nbinom2"
    links = ("log", "sqrt", "identity")
    num_phi = 1
    support = "whole numbers from 0"
    limit = "poisson"
    mean_range = (1e-3, float("inf"))

    def log_density(self, y, eta, phi):
        return inside(self.log_of_eta(y, eta, phi) + self.log_of_phi(y, phi))

    def log_of_eta(self, y, eta, phi):
        log_mu, log_phi = self.link.log_mu(eta), jnp.log(phi)
        # by mu / phi alone, so that all derivatives come from one exponential
        return y * (log_mu - softplus(log_mu - log_phi)) - scaled_softplus(log_mu, log_phi)

    def log_of_eta_above_zero(self, y, eta, phi):
        """Where -log p(0) is small, log(1 - p(0)) is log mu and little more: nothing is lost at y = 1."""
        log_mu, log_phi = self.link.log_mu(eta), jnp.log(phi)
        x = log_mu - log_phi
        excess = log_softplus_excess(x)
        log_rate = log_mu + excess  # of -log p(0) = phi log(1 + mu / phi)
        few = -softplus(x) - excess - log_cloglog_excess(jnp.minimum(log_rate, 0.0))
        share = jnp.where(x > 0, log_phi - softplus(-x), log_mu - softplus(x))  # of log mu / (1 + mu / phi)
        many = share - log_cloglog(log_rate)
        return inside((y - 1) * share + jnp.where(log_rate < 0, few, many) - scaled_softplus(log_mu, log_phi))

    def log_of_phi(self, y, phi):
        return rising_excess(jnp.log(phi), y)

    def log_constant(self, y, trials=1.0):
        return -log_gamma(y + 1.0)

    def variance(self, mu, phi, trials=1.0):
        return mu + mu * mu / phi

    def sample(self, key, mu, phi, trials=1.0):
        return poisson_gamma(key, mu, jnp.broadcast_to(phi, mu.shape))

    def sample_above_zero(self, key, mu, phi):
        return clusters_above_zero(key, mu, jnp.broadcast_to(phi, mu.shape))

    def valid(self, y):
        return whole(y)

    def start_mu(self, y, trials=1.0):
        return np.asarray(y) + (np.asarray(y) == 0) / 6

    def unit_deviance(self, y, mu, phi, trials=1.0):
        return 2 * (xlogy(y, y / mu) + (y + phi) * jnp.log1p((mu - y) / (y + phi)))


def poisson_gamma(key, mu, size):
    """Poisson counts whose means are gamma distributed around mu with shape ``size``."""
    mixing, counts = jax.random.split(key)
    rate = mu / size * jax.random.gamma(mixing, size, mu.shape, mu.dtype)
    return jax.random.poisson(counts, rate).astype(mu.dtype)


def clusters_above_zero(key, mu, size):
    """Negative binomial counts given that they are not zero.

    Such a count is that of a process in one unit of time in which clusters arrive at the rate size log(1 + mu / size),
    their sizes from the logarithmic distribution: the first cluster, and a count of the time after it. A cluster by
    Kemp (1981), Appl. Stat. 30, 249-253, algorithm LS.
    """
    first, chance, share, after = jax.random.split(key, 4)
    log_odds = jnp.log1p(mu / size)
    left = 1 - first_arrival(first, size * log_odds)
    u, v = (jax.random.uniform(k, mu.shape, mu.dtype) for k in (chance, share))
    q = -jnp.expm1(-u * log_odds)
    cluster = jnp.floor(1 + jnp.log1p(-v) / jnp.log(jnp.maximum(q, jnp.finfo(mu.dtype).tiny)))
    return jnp.maximum(cluster, 1.0) + poisson_gamma(after, mu * left, size * left)
