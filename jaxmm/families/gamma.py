"""Gamma: Var y = phi mu^2, shape a = 1 / phi."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._special import expm1_excess, stirling_density
from jaxmm.families._base import Family, inside


class Gamma(Family):
    """log p = a log a - a - log Gamma(a) - a (e^r - 1 - r) - log y with r = log(y / mu).

    Example:
        >>> family = mm.families.Gamma(link="log")
        >>> family.link.name, float(family.variance(2.0, 0.5))
        ('log', 4.0)
    """

    name = "gamma"
    links = ("inverse", "log", "identity")
    num_phi = 1
    has_scale = True
    support = "positive numbers"
    mean_range = (1e-300, float("inf"))

    def log_density(self, y, eta, phi):
        r = jnp.log(y) - self.link.log_mu(eta)
        return inside(stirling_density(-jnp.log(phi)) - expm1_excess(r) / phi)

    def log_constant(self, y, trials=1.0):
        return -jnp.log(y)

    def variance(self, mu, phi, trials=1.0):
        return mu * mu

    def sample(self, key, mu, phi, trials=1.0):
        return mu * phi * jax.random.gamma(key, 1 / phi, mu.shape, mu.dtype)

    def valid(self, y):
        return np.isfinite(y) & (np.asarray(y) > 0)

    def start_mu(self, y, trials=1.0):
        return np.asarray(y)

    def unit_deviance(self, y, mu, phi, trials=1.0):
        return 2 * expm1_excess(jnp.log(y) - jnp.log(mu))
