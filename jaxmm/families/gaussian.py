"""Gaussian: Var y = phi = sigma^2."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmm._special import HALF_LOG_2PI
from jaxmm.families._base import Family


class Gaussian(Family):
    """log p = -(y - mu)^2 / (2 phi) - log(2 pi phi) / 2.

    Example:
        >>> family = mm.families.Gaussian(link="log")
        >>> family.link.name, float(family.variance(2.0, 0.5))
        ('log', 1.0)
    """

    name = "gaussian"
    links = ("identity", "log", "inverse")
    num_phi = 1
    has_scale = True
    support = "finite numbers"

    def log_density(self, y, eta, phi):
        return -((y - self.link.inverse(eta)) ** 2) / (2 * phi) - 0.5 * jnp.log(phi)

    def log_constant(self, y, trials=1.0):
        return jnp.full(jnp.shape(y), -HALF_LOG_2PI)

    def variance(self, mu, phi, trials=1.0):
        return 0 * mu + 1.0

    def sample(self, key, mu, phi, trials=1.0):
        return mu + jnp.sqrt(phi) * jax.random.normal(key, mu.shape, mu.dtype)

    def unit_deviance(self, y, mu, phi, trials=1.0):
        return (y - mu) ** 2
