"""Counts of which no zero is seen: those of the base distribution, given that they are above zero.

    p(y) = p_base(y) / (1 - p_base(0)),    y = 1, 2, ..,        E y = m = μ / (1 - p_base(0))

η and φ are the base's: μ is its mean, zeros counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxmm.families._base import Family
from jaxmm.families.nbinom1 import NegativeBinomial1
from jaxmm.families.nbinom2 import NegativeBinomial2
from jaxmm.families.poisson import Poisson

SHARED = ("links", "num_phi", "phi_names", "mean_range")


@dataclass(frozen=True, repr=False, init=False, eq=False)
class Truncated(Family):
    """A family of counts, given that they are not zero, as the sizes of groups or the days of a stay are.

    ``fit.fixef`` are of log μ, the mean of the base distribution; ``fitted`` and ``predict`` give the mean of y, μ /
    (1 - p(0)), and with ``scale="conditional"`` μ itself.

    Args:
        base: a family of counts, such as ``families.get("poisson")``, ``"nbinom1"`` or ``"nbinom2"``.
        link: of μ, in the place of the base's.

    Raises:
        TypeError: no family.
        ValueError: a family whose responses are not whole numbers from 0 on, without an upper end; one that has
            parameters after φ.

    Example:
        >>> family = mm.families.Truncated(mm.families.get("poisson"))
        >>> family == mm.families.get("truncated_poisson")
        True
        >>> round(float(family.mean(1.0, 1.0)), 3)
        1.582
    """

    base: Any = None
    above_zero = True
    mu_before = "zeros are left out"

    def __init__(self, base: Family, link: Any = None):
        check_counts(base, "Truncated")
        base = base if link is None else replace(base, link=link)
        own = {"base": base, "link": base.link, "name": f"truncated_{base.name}", "support": "whole numbers from 1"}
        own["limit"] = base.limit and f"truncated_{base.limit}"
        for name, value in (own | {name: getattr(base, name) for name in SHARED}).items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Truncated) and self.base == other.base

    def __hash__(self) -> int:
        return hash((Truncated, self.base))

    def __repr__(self) -> str:
        return f"Truncated({self.base!r})"

    @property
    def glm(self) -> Family:
        return self.base

    def log_density(self, y, eta, phi):
        return self.log_of_eta(y, eta, phi) + self.log_of_phi(y, phi)

    def log_of_eta(self, y, eta, phi):
        return self.base.log_of_eta_above_zero(y, eta, phi)

    def log_of_phi(self, y, phi):
        return self.base.log_of_phi(y, phi)

    def log_constant(self, y, trials=1.0):
        return self.base.log_constant(y)

    def _seen(self, mu, phi):
        """The probability of a count above zero."""
        eta = self.link.link(jnp.asarray(mu))
        return -jnp.expm1(self.base.density(jnp.zeros_like(eta), eta, phi))

    def mean(self, mu, phi):
        return mu / self._seen(mu, phi)

    def variance(self, mu, phi, trials: Any = 1.0):
        """V/μ m + m (μ - m), with the V of the base."""
        m = self.mean(mu, phi)
        return jnp.maximum(m * (self.base.variance(mu, phi) / mu + (mu - m)), 0.0)

    def sample(self, key, mu, phi, trials: Any = 1.0):
        return self.base.sample_above_zero(key, mu, phi)

    def valid(self, y):
        return self.base.valid(y) & (np.asarray(y) > 0)

    def no_variation(self, y, total: Any = None):
        """Of ones alone the best mean is zero."""
        return (y <= 1).all(axis=0)

    def start_mu(self, y, trials: Any = 1.0):
        y = np.maximum(np.asarray(y, float), 1.0)
        return y - 0.5 / y


class _Named(Truncated):
    """``Truncated`` of one family, ``of``, that is found by a name and a link."""

    of: ClassVar[type[Family]]

    def __init__(self, link: Any = None, base: Any = None):
        super().__init__(base or self.of(), link)


class TruncatedPoisson(_Named):
    """``Truncated`` of a Poisson distribution.

    Example:
        >>> mm.families.TruncatedPoisson(link="log")
        Truncated(Poisson(link='log'))
    """

    name, of, links = "truncated_poisson", Poisson, Poisson.links


class TruncatedNegativeBinomial1(_Named):
    """``Truncated`` of a negative binomial distribution with linear variance, ``NegativeBinomial1``.

    Example:
        >>> mm.families.TruncatedNegativeBinomial1(link="log")
        Truncated(NegativeBinomial1(link='log'))
    """

    name, of, links = "truncated_nbinom1", NegativeBinomial1, NegativeBinomial1.links
    num_phi = 1


class TruncatedNegativeBinomial2(_Named):
    """``Truncated`` of a negative binomial distribution with quadratic variance, ``NegativeBinomial2``.

    Example:
        >>> mm.families.TruncatedNegativeBinomial2(link="log")
        Truncated(NegativeBinomial2(link='log'))
    """

    name, of, links = "truncated_nbinom2", NegativeBinomial2, NegativeBinomial2.links
    num_phi = 1


def check_counts(base: Any, wrapper: str) -> None:
    """Raises what ``Truncated`` says."""
    if not isinstance(base, Family):
        raise TypeError(f"{wrapper} takes a family, such as families.get('poisson'), not {base!r}")
    if base.further or base.extras:
        raise ValueError(
            f"{wrapper} takes a family of a mean and φ alone; {base!r} has parameters of its own after these"
        )
    if base.has_trials:
        raise ValueError(
            f"{wrapper} takes counts without an upper end, and the {base.name} family counts successes among trials"
        )
    if np.any(base.valid(np.array([0.5, -1.0]))) or not np.all(base.valid(np.zeros(1))):
        raise ValueError(
            f"{wrapper} takes a family of counts, and the {base.name} family takes {base.support}: there must be a "
            "zero to leave out"
        )
