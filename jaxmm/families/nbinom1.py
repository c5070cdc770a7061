"""Negative binomial with linear variance: Var y = mu (1 + phi)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxmm._special import (
    log_gamma,
    log_softplus_excess,
    logaddexp,
    rising_excess,
    scaled_softplus,
    softplus,
    times,
)
from jaxmm.families._base import Family, inside, whole
from jaxmm.families.nbinom2 import clusters_above_zero, poisson_gamma
from jaxmm.links import log_cloglog_excess


class NegativeBinomial1(Family):
    """With the size s = mu / phi: log p = y log(mu / (1 + phi)) - s log(1 + phi) + log((s)_y / s^y) - log y!.

    (s)_y is the rising factorial.  Each term has a limit as phi -> 0, the Poisson distribution's.

    Example:
        >>> family = mm.families.NegativeBinomial1(link="log")
        >>> family.link.name, float(family.variance(2.0, 0.5))
        ('log', 3.0)
    """

    name = "nbinom1"
    links = ("log", "sqrt", "identity")
    num_phi = 1
    support = "whole numbers from 0"
    limit = "poisson"
    mean_range = (1e-3, float("inf"))

    def log_density(self, y, eta, phi):
        log_mu, log_phi = self.link.log_mu(eta), jnp.log(phi)
        log_size = log_mu - log_phi
        mean = times(y, log_mu) - y * softplus(log_phi) - scaled_softplus(log_mu, log_size)
        return inside(mean + rising_excess(log_size, y))

    def log_of_eta_above_zero(self, y, eta, phi):
        log_mu, log_phi = self.link.log_mu(eta), jnp.log(phi)
        log_size, excess = log_mu - log_phi, log_softplus_excess(log_phi)
        # (s)_y = s (s + 1)_(y - 1), and that s is in 1 - p(0) too
        rising = (y - 1) * logaddexp(log_phi, log_mu) + rising_excess(softplus(log_size), y - 1)
        odd = scaled_softplus(log_mu, log_size) + excess + log_cloglog_excess(log_mu + excess)
        return inside(rising - y * softplus(log_phi) - odd)

    def log_constant(self, y, trials=1.0):
        return -log_gamma(y + 1.0)

    def variance(self, mu, phi, trials=1.0):
        return mu * (1 + phi)

    def sample(self, key, mu, phi, trials=1.0):
        return poisson_gamma(key, mu, mu / phi)

    def sample_above_zero(self, key, mu, phi):
        return clusters_above_zero(key, mu, mu / phi)

    def valid(self, y):
        return whole(y)

    def start_mu(self, y, trials=1.0):
        return np.asarray(y) + (np.asarray(y) == 0) / 6
