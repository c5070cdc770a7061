"""Counts whose zeros come from elsewhere: with probability π a zero, else a count of the base distribution above zero.

    p(0) = π,        p(y) = (1 - π) p_base(y) / (1 - p_base(0))  for y > 0,        logit π = X_zi β_zi + Z_zi b

(Mullahy 1986, Journal of Econometrics 33, 341-365.)  η and φ are the base's.  Zeros tell of π alone and the other
counts, but for their number, of μ and φ alone: a fit is one of whether a count is zero and one of the counts above it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._special import softplus
from jaxmm.families._base import Family, Further
from jaxmm.families.truncated import Truncated, check_counts
from jaxmm.links import Logit

SHARED = ("links", "num_phi", "phi_names", "mean_range")


@dataclass(frozen=True, repr=False, init=False)
class Hurdle(Family):
    """A family of counts with a probability of a zero in each row, from which all zeros come;
    ``glmm(..., "truncated_poisson", zero_inflation="~ x")`` makes it.

    ``fitted`` and ``predict`` give the mean of y, (1 - π) μ / (1 - p_base(0)); ``scale="zero"`` π, and
    ``scale="conditional"`` the mean μ of the base distribution. The deviance residual of a zero is 0, since no mean
    explains it better or worse.

    Args:
        base: a family of counts, such as ``families.get("poisson")``, or what ``Truncated`` makes of one.
        link: of μ, in the place of the base's.

    Raises:
        TypeError: no family.
        ValueError: as ``Truncated``.

    Example:
        >>> mm.families.Hurdle(mm.families.get("poisson"))
        Hurdle(Poisson(link='log'))
    """

    counts: Any = None
    further = (Further("zi", Logit(), -1.0),)
    mu_before = "zeros are left out"
    support = "whole numbers from 0"

    def __init__(self, base: Family, link: Any = None):
        if not isinstance(base, Family) or not base.above_zero:
            check_counts(base, "Hurdle")
            base = Truncated(base)
        counts = base if link is None else replace(base, link=link)
        own = {"counts": counts, "link": counts.link, "name": f"hurdle {counts.glm.name}"}
        own["limit"] = counts.glm.limit and f"hurdle {counts.glm.limit}"
        for name, value in (own | {name: getattr(counts, name) for name in SHARED}).items():
            object.__setattr__(self, name, value)

    @property
    def glm(self) -> Family:
        return self.counts.glm

    def __repr__(self) -> str:
        return f"Hurdle({self.counts.glm!r})"

    def log_density(self, y, eta, phi, zi):
        return self.log_of_eta(y, eta, phi, zi) + self.log_of_phi(y, phi)

    def log_of_eta(self, y, eta, phi, zi):
        zero = y == 0
        eta = jnp.where(zero, self.link.link(jnp.ones_like(eta)), eta)  # of a zero nothing depends on it
        counts = self.counts.density_of_eta(jnp.where(zero, 1.0, y), eta, phi)
        return jnp.where(zero, -softplus(-zi), counts - softplus(zi))

    def log_of_phi(self, y, phi):
        return jnp.where(y == 0, 0.0, self.counts.log_of_phi(jnp.where(y == 0, 1.0, y), phi))

    def log_constant(self, y, trials=1.0):
        return self.counts.log_constant(y)  # of no zero

    def mean(self, mu, phi, zi=0.0):
        return (1 - zi) * self.counts.mean(mu, phi)

    def variance(self, mu, phi, trials: Any = 1.0, zi=0.0):
        return (1 - zi) * (self.counts.variance(mu, phi) + zi * self.counts.mean(mu, phi) ** 2)

    def sample(self, key, mu, phi, trials: Any = 1.0, zi=0.0):
        zeros, counts = jax.random.split(key)
        zero = jax.random.uniform(zeros, mu.shape, mu.dtype) < zi
        return jnp.where(zero, 0.0, self.counts.sample(counts, mu, phi))

    def valid(self, y):
        return self.counts.valid(y) | (np.asarray(y) == 0)

    def no_variation(self, y, total: Any = None):
        """Of zeros and ones alone the best mean is zero."""
        return self.counts.no_variation(y)

    def start_mu(self, y, trials: Any = 1.0):
        return self.counts.start_mu(y)

    def unit_deviance(self, y, mu, phi, trials: Any = 1.0, zi=0.0):
        """That of the counts above zero, whatever π is."""
        return jnp.where(y == 0, 0.0, self.counts.unit_deviance(jnp.where(y == 0, 1.0, y), mu, phi))
