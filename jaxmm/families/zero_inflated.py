"""Counts with extra zeros: with probability π a zero, else a count of the base distribution, maybe zero too.

    p(0) = π + (1 - π) p_base(0),        p(y) = (1 - π) p_base(y)  for y > 0,        logit π = X_zi β_zi + Z_zi b

(Lambert 1992, Technometrics 34, 1-14.)  η and φ are the base's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._special import logaddexp, softplus
from jaxmm.families._base import Family, Further
from jaxmm.links import Logit

SHARED = ("links", "num_phi", "phi_names", "has_trials", "support", "mean_range")


@dataclass(frozen=True, repr=False, init=False)
class ZeroInflated(Family):
    """A family of counts with a probability of an extra zero in each row; ``glmm(..., zero_inflation="~ x")`` makes it
    of the family that is given.

    Args:
        base: a family of counts, such as ``families.get("poisson")``, ``"nbinom1"``, ``"nbinom2"`` or ``"binomial"``.
        link: of the mean, in the place of the base's.

    Raises:
        TypeError: no family.
        ValueError: a family whose responses are not whole numbers from 0: a zero has no probability there.

    >>> import jaxmm as mm
    >>> mm.families.ZeroInflated(mm.families.get("poisson"))
    ZeroInflated(Poisson(link='log'))
    """

    base: Any = None

    def __init__(self, base: Family, link: Any = None):
        if not isinstance(base, Family):
            raise TypeError(f"ZeroInflated takes a family, such as families.get('poisson'), not {base!r}")
        if base.further or base.extras:
            raise ValueError(f"{base!r} is zero-inflated already, or has parameters of its own")
        if np.any(base.valid(np.array([0.5, -1.0]))) or not np.all(base.valid(np.zeros(1))):
            raise ValueError(
                f"zero inflation is for counts, and the {base.name} family takes {base.support}: an extra zero needs a "
                "distribution in which zero has a probability"
            )
        base = base if link is None else replace(base, link=link)
        own = {"base": base, "link": base.link, "name": f"zero-inflated {base.name}"}
        own["limit"] = base.limit and f"zero-inflated {base.limit}"
        for name, value in (own | {name: getattr(base, name) for name in SHARED}).items():
            object.__setattr__(self, name, value)

    further = (Further("zi", Logit(), -1.0),)

    @property
    def glm(self) -> Family:
        return self.base

    def __repr__(self) -> str:
        return f"ZeroInflated({self.base!r})"

    def log_density(self, y, eta, phi, *trials_and_zi):
        *trials, zi = trials_and_zi
        counts = self.base.density(y, eta, phi, *trials)
        return jnp.where(y == 0, logaddexp(zi, counts), counts) - softplus(zi)

    def log_constant(self, y, trials=1.0):
        return self.base.log_constant(y, trials)  # of no zero

    def mean(self, mu, zi=0.0):
        return (1 - zi) * mu

    def variance(self, mu, phi, trials: Any = 1.0, zi=0.0):
        return (1 - zi) * (self.base.variance(mu, phi, trials) + zi * mu * mu * trials)

    def sample(self, key, mu, phi, trials: Any = 1.0, zi=0.0):
        zeros, counts = jax.random.split(key)
        extra = jax.random.uniform(zeros, mu.shape, mu.dtype) < zi
        return jnp.where(extra, 0.0, self.base.sample(counts, mu, phi, trials))

    def valid(self, y):
        return self.base.valid(y)

    def no_variation(self, y, total: Any = None):
        return self.base.no_variation(y, total)

    def start_mu(self, y, trials: Any = 1.0):
        return self.base.start_mu(y, trials)

    def unit_deviance(self, y, mu, phi, trials: Any = 1.0, zi=0.0):
        """The best mean explains a zero wholly, and any other count as the base's best does."""
        zi = jnp.log(zi) - jnp.log1p(-zi)
        best = jnp.where(y == 0, 0.0, self.base.saturated(y, phi, trials) - softplus(zi))
        return 2 * jnp.maximum(best - self.density(y, self.link.link(jnp.asarray(mu)), phi, trials, zi), 0.0)
