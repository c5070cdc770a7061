"""Tweedie: a Poisson sum of gamma variates, zero with a probability of its own, Var y = phi mu^p with 1 < p < 2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._special import expm1_excess
from jaxmm._wright import log_wright
from jaxmm.families._base import Family, inside
from jaxmm.families.extras import Extra, Interval

POWER = 1.5  # where a search begins
LARGEST = 1.99999  # beyond, sums that cancel leave too few digits to second derivatives


class Tweedie(Family):
    """The sum of N gamma variates, N ~ Poisson(mu^(2 - p) / (phi (2 - p))), each of shape (2 - p) / (p - 1) and scale
    phi (p - 1) mu^(p - 1): amounts of which some are exactly zero, as rain, catches, claims.

    The mean is mu, Var y = phi mu^p, and P(y = 0) = exp(-mu^(2 - p) / (phi (2 - p))).  phi is estimated, and so is the
    power p, in ``Fit.family_params`` as "power".  With d = 2 (y (y^(1 - p) - mu^(1 - p)) / (1 - p) - (y^(2 - p) -
    mu^(2 - p)) / (2 - p)), the unit deviance,

        log p = -d / (2 phi) + S(y^(2 - p) / phi, p) - log y    for y > 0,

    where no mean enters S, the logarithm of a series (Dunn & Smyth 2005, Statistics and Computing 15, 267-280; see
    ``jaxmm._wright``), which is exact for every p and phi.  The search is for 1 < p < 1.99999.  A power that runs to
    the upper end says that the responses are gamma distributed, without zeros to speak of.  Near 1 the density of
    y > 0 has spikes at the multiples of phi: there may be several maxima (``Fit.multistart``), and of counts, or of
    multiples of another number, the likelihood has none, and the search does not converge.

    Example:
        >>> family = mm.families.Tweedie()
        >>> family.link.name, float(family.variance(4.0, 0.5))
        ('log', 8.0)
    """

    name = "tweedie"
    links = ("log", "identity", "inverse")  # with sqrt, a zero has no curvature at eta = 0
    num_phi = 1
    has_scale = True
    support = "numbers from 0"
    mean_range = (1e-300, float("inf"))
    extras = (Extra(("power",), Interval(1.0, LARGEST), (POWER,)),)

    def log_density(self, y, eta, phi, p=POWER):
        return inside(self.log_of_eta(y, eta, phi, p) + self.log_of_phi(y, phi, p))

    def log_of_eta(self, y, eta, phi, p=POWER):
        return -0.5 * _deviance(y, self.link.log_mu(eta), jnp.log(phi), p)

    def log_of_phi(self, y, phi, p=POWER):
        log_y = jnp.log(jnp.where(y > 0, y, 1.0))
        return jnp.where(y > 0, log_wright((2 - p) * log_y - jnp.log(phi), p), 0.0)

    def log_constant(self, y, trials=1.0):
        return -jnp.log(jnp.where(y > 0, y, 1.0))

    def variance(self, mu, phi, trials=1.0, p=POWER):
        return mu**p

    def sample(self, key, mu, phi, trials=1.0, p=POWER):
        count, size = jax.random.split(key)
        N = jax.random.poisson(count, mu ** (2 - p) / (phi * (2 - p)), mu.shape).astype(mu.dtype)
        shape = (2 - p) / (p - 1) * jnp.maximum(N, 1.0)
        total = phi * (p - 1) * mu ** (p - 1) * jax.random.gamma(size, shape, mu.shape, mu.dtype)
        return jnp.where(N > 0, total, 0.0)

    def valid(self, y):
        return np.isfinite(y) & (np.asarray(y) >= 0)

    def start_mu(self, y, trials=1.0):
        y = np.asarray(y, float)
        return np.where(y > 0, y, (np.mean(y) or 1.0) / 6)

    def unit_deviance(self, y, mu, phi, trials=1.0, p=POWER):
        return _deviance(y, jnp.log(mu), 0.0, p)


def _deviance(y, log_mu, log_phi, p):
    """d / phi, with s = log(mu / y): two terms above zero."""
    log_y = jnp.log(jnp.where(y > 0, y, 1.0))
    s = jnp.where(y > 0, log_mu - log_y, 0.0)
    some = expm1_excess((2 - p) * s) / (2 - p) + expm1_excess((1 - p) * s) / (p - 1)
    none = jnp.exp((2 - p) * jnp.where(y > 0, 0.0, log_mu) - log_phi) / (2 - p)
    return 2 * jnp.where(y > 0, jnp.exp((2 - p) * log_y - log_phi) * some, none)
