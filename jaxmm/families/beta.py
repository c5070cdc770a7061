"""Beta: Var y = mu (1 - mu) / (1 + phi), with shapes mu phi and (1 - mu) phi."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._special import logaddexp, relative_entropy, stirling_density
from jaxmm.families._base import Family


class Beta(Family):
    """log p = N(mu phi) + N((1 - mu) phi) - N(phi) - phi K - log y (1 - y), with N(a) = a log a - a - log Gamma(a).

    K is the relative entropy of mu to y, mu log(mu / y) + (1 - mu) log((1 - mu) / (1 - y)).  Since the means of
    e^r - 1 over the two outcomes cancel, it is also the mean of r e^r - e^r + 1, of which no part is negative.

    Example:
        >>> family = mm.families.Beta(link="logit")
        >>> family.link.name, float(family.variance(0.5, 4.0))
        ('logit', 0.05)
    """

    name = "beta"
    links = ("logit", "probit", "cloglog", "cauchit")
    num_phi = 1
    support = "numbers strictly between 0 and 1"
    mean_range = (1e-3, 1 - 1e-3)

    def log_density(self, y, eta, phi):
        log_mu, log_1m_mu, log_phi = self.link.log_mu(eta), self.link.log_1m_mu(eta), jnp.log(phi)
        K = y * relative_entropy(log_mu - jnp.log(y)) + (1 - y) * relative_entropy(log_1m_mu - jnp.log1p(-y))
        shapes = stirling_density(log_mu + log_phi) + stirling_density(log_1m_mu + log_phi)
        return shapes - stirling_density(log_phi) - phi * K

    def log_constant(self, y, trials=1.0):
        return -jnp.log(y) - jnp.log1p(-y)

    def variance(self, mu, phi, trials=1.0):
        return mu * (1 - mu) / (1 + phi)

    def sample(self, key, mu, phi, trials=1.0):
        return beta_variate(key, mu, phi)

    def valid(self, y):
        return (np.asarray(y) > 0) & (np.asarray(y) < 1)

    def start_mu(self, y, trials=1.0):
        return np.asarray(y)


def beta_variate(key, mu, phi):
    """From two gamma variates, by their logarithms: small shapes give numbers that underflow.  Never 0 or 1."""
    first, second = jax.random.split(key)
    x = jax.random.loggamma(first, mu * phi, mu.shape, mu.dtype)
    z = jax.random.loggamma(second, (1 - mu) * phi, mu.shape, mu.dtype)
    limits = jnp.finfo(mu.dtype)
    return jnp.clip(jnp.exp(x - logaddexp(x, z)), limits.tiny, 1 - limits.epsneg)
