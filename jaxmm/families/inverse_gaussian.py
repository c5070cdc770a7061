"""Inverse Gaussian: Var y = phi mu^3."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._special import HALF_LOG_2PI, expm1
from jaxmm.families._base import Family, inside


class InverseGaussian(Family):
    """log p = -(y / mu - 1)^2 / (2 phi y) - log(2 pi phi y^3) / 2.

    Example:
        >>> family = mm.families.InverseGaussian(link="log")
        >>> family.link.name, float(family.variance(2.0, 0.5))
        ('log', 8.0)
    """

    name = "inverse_gaussian"
    links = ("1/mu^2", "inverse", "log", "identity")
    num_phi = 1
    has_scale = True
    support = "positive numbers"
    mean_range = (1e-300, float("inf"))

    def log_density(self, y, eta, phi):
        excess = expm1(jnp.log(y) - self.link.log_mu(eta))
        return inside(-(excess**2) / (2 * phi * y) - 0.5 * jnp.log(phi))

    def log_constant(self, y, trials=1.0):
        return -1.5 * jnp.log(y) - HALF_LOG_2PI

    def variance(self, mu, phi, trials=1.0):
        return mu**3

    def sample(self, key, mu, phi, trials=1.0):
        """Michael, Schucany & Haas (1976), Am. Stat. 30(2): the smaller root of a quadratic, or its mirror image."""
        normal, choice = jax.random.split(key)
        t = 0.5 * phi * mu * jax.random.normal(normal, mu.shape, mu.dtype) ** 2
        root = 1 / (1 + t + jnp.sqrt(t * (2 + t)))  # relative to mu; the other is its inverse
        smaller = jax.random.uniform(choice, mu.shape, mu.dtype) * (1 + root) < 1
        return mu * jnp.where(smaller, root, 1 / root)

    def valid(self, y):
        return np.isfinite(y) & (np.asarray(y) > 0)

    def start_mu(self, y, trials=1.0):
        return np.asarray(y)

    def unit_deviance(self, y, mu, phi, trials=1.0):
        return (y / mu - 1) ** 2 / y
