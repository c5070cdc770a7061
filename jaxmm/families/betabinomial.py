"""Beta-binomial: successes among trials whose probability is beta distributed, shapes mu phi and (1 - mu) phi."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._special import rising_excess
from jaxmm.families._base import Family, inside, whole
from jaxmm.families.beta import beta_variate
from jaxmm.families.binomial import log_choose


class BetaBinomial(Family):
    """log p = y log mu + (n - y) log(1 - mu) + R(mu phi, y) + R((1 - mu) phi, n - y) - R(phi, n) + log choose.

    R(a, y) = log((a)_y / a^y), with the rising factorial, vanishes as a -> oo: phi -> oo is the binomial.

    Example:
        >>> family = mm.families.BetaBinomial(link="logit")
        >>> family.link.name, float(family.variance(0.5, 4.0))
        ('logit', 0.25)
    """

    name = "betabinomial"
    links = ("logit", "probit", "cloglog", "cauchit")
    num_phi = 1
    has_trials = True
    support = "whole numbers of successes from 0"
    limit = "binomial"
    mean_range = (1e-3, 1 - 1e-3)

    def log_density(self, y, eta, phi, trials):
        log_mu, log_1m_mu, log_phi = self.link.log_mu(eta), self.link.log_1m_mu(eta), jnp.log(phi)
        binomial = self.link.log_binomial(y, trials - y, eta)
        mixed = rising_excess(log_mu + log_phi, y) + rising_excess(log_1m_mu + log_phi, trials - y)
        return inside(binomial + mixed - rising_excess(log_phi, trials))

    def log_constant(self, y, trials=1.0):
        return log_choose(y, trials)

    def variance(self, mu, phi, trials=1.0):
        return mu * (1 - mu) * (1 + (trials - 1) / (1 + phi))

    def sample(self, key, mu, phi, trials=1.0):
        probability, successes = jax.random.split(key)
        p = beta_variate(probability, mu, phi)
        return jax.random.binomial(successes, trials, p, mu.shape, mu.dtype)

    def valid(self, y):
        return whole(y)

    def start_mu(self, y, trials=1.0):
        return (np.asarray(y) + 0.5) / (np.asarray(trials) + 1)
