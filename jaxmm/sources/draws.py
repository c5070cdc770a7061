"""Distributions by name: what effects, errors, covariates and sizes of clusters are drawn from.

    key, shape  ->  numbers with the mean ``mean`` and the standard deviation ``sd``

A distribution is one small class with these three.  Where effects and errors are drawn, (x - mean) / sd stands for a
standard normal number, so that the variances of the truth remain those of what is drawn, whatever the shape.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array


@runtime_checkable
class Draw(Protocol):
    """A distribution.  One of your own is a class with these three members.

    Example:
        >>> isinstance(mm.draws.StudentT(df=4), mm.draws.Draw)
        True
    """

    @property
    def mean(self) -> float:
        """Of the distribution."""
        ...

    @property
    def sd(self) -> float:
        """Its standard deviation."""
        ...

    @abstractmethod
    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """Numbers of that shape, a function of the key alone, of JAX operations."""
        ...


def _above(what: str, value: Any, least: float, why: str = "") -> None:
    """Raises ValueError for a number that is not finite and above ``least``."""
    if not isinstance(value, int | float | np.number) or not np.isfinite(value) or value <= least:
        raise ValueError(f"{what} must be a number above {least:g}{why}, not {value!r}")


@dataclass(frozen=True)
class Normal:
    """``mean`` and ``sd``.

    Example:
        >>> mm.draws.Normal(50, 10).sd
        10
    """

    mean: float = 0.0
    sd: float = 1.0

    def __post_init__(self):
        _above("sd of Normal", self.sd, 0)

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """As ``Draw.sample``: numbers of the ``shape``, from the ``key``."""
        return self.mean + self.sd * jax.random.normal(key, shape, jnp.float64)


@dataclass(frozen=True)
class StudentT:
    """Student's t with ``df`` above 2 degrees of freedom: tails heavier than the normal ones.

    Example:
        >>> mm.draws.StudentT(df=4).sd ** 2
        2.0000000000000004
    """

    df: float = 5.0
    mean: float = 0.0

    def __post_init__(self):
        _above("df of StudentT", self.df, 2, ", for a variance to exist")

    @property
    def sd(self) -> float:
        """√(df / (df - 2))."""
        return float(np.sqrt(self.df / (self.df - 2)))

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """As ``Draw.sample``: numbers of the ``shape``, from the ``key``."""
        return self.mean + jax.random.t(key, self.df, shape, jnp.float64)


@dataclass(frozen=True)
class SkewNormal:
    """Azzalini's (1985, Scand. J. Stat. 12, 171-178) of mean 0 and variance 1, by its ``skewness``, between -0.995 and
    0.995.

    Example:
        >>> mm.draws.SkewNormal(0.9).sd
        1.0
    """

    skewness: float = 0.8
    mean: float = 0.0
    sd: float = 1.0

    def __post_init__(self):
        if not -0.995 < self.skewness < 0.995:
            raise ValueError(
                f"skewness of SkewNormal must lie between -0.995 and 0.995, not {self.skewness!r}: Gamma(mean, cv) has "
                "the skewness 2 cv"
            )
        _above("sd of SkewNormal", self.sd, 0)

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """As ``Draw.sample``: numbers of the ``shape``, from the ``key``."""
        # δ|z0| + √(1 - δ²) z1 has the mean δ√(2/π), and the skewness (4 - π)/2 m³ / (1 - m²)^{3/2}, m that mean
        third = (2 * abs(self.skewness) / (4 - np.pi)) ** (2 / 3)
        m = np.sqrt(third / (1 + third))
        delta = np.sign(self.skewness) * m / np.sqrt(2 / np.pi)
        z = jax.random.normal(key, (2, *shape), jnp.float64)
        x = delta * jnp.abs(z[0]) + np.sqrt(1 - delta**2) * z[1]
        return self.mean + self.sd * (x - np.sign(self.skewness) * m) / np.sqrt(1 - m**2)


@dataclass(frozen=True)
class Mixture:
    """Normal distributions with ``means`` and ``sds``, taken with the probabilities ``shares``.

    Example:
        >>> mm.draws.Mixture(means=(-1, 1), sds=(0.5, 0.5), shares=(0.5, 0.5)).mean
        0.0
    """

    means: Sequence[float] = (-1.0, 1.0)
    sds: Sequence[float] = (0.5, 0.5)
    shares: Sequence[float] = (0.5, 0.5)

    def __post_init__(self):
        if not len(self.means) == len(self.sds) == len(self.shares) > 0:
            raise ValueError(
                f"Mixture needs as many means as sds and shares; got {len(self.means)}, {len(self.sds)} and "
                f"{len(self.shares)}"
            )
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares of Mixture must be probabilities with the sum 1, not {self.shares!r}")
        if min(self.sds) < 0 or self.sd == 0:
            raise ValueError(f"sds of Mixture must not be negative, nor all of it one number: {self.sds!r}")

    @property
    def mean(self) -> float:
        """Of all components."""
        return float(np.dot(self.shares, self.means))

    @property
    def sd(self) -> float:
        """Within the components and between them."""
        return float(np.sqrt(np.dot(self.shares, np.square(self.sds) + np.square(self.means)) - self.mean**2))

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """As ``Draw.sample``: numbers of the ``shape``, from the ``key``."""
        which, own = jax.random.split(key)
        k = jnp.searchsorted(jnp.cumsum(jnp.asarray(self.shares))[:-1], jax.random.uniform(which, shape, jnp.float64))
        return jnp.asarray(self.means, jnp.float64)[k] + jnp.asarray(self.sds, jnp.float64)[k] * jax.random.normal(
            own, shape, jnp.float64
        )


@dataclass(frozen=True)
class Gamma:
    """By its ``mean`` and coefficient of variation ``cv``; its skewness is 2 cv.

    Example:
        >>> mm.draws.Gamma(mean=20, cv=0.5).sd
        10.0
    """

    mean: float = 1.0
    cv: float = 1.0

    def __post_init__(self):
        _above("mean of Gamma", self.mean, 0)
        _above("cv of Gamma", self.cv, 0)

    @property
    def sd(self) -> float:
        """mean · cv."""
        return self.mean * self.cv

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """As ``Draw.sample``: numbers of the ``shape``, from the ``key``."""
        return self.mean * self.cv**2 * jax.random.gamma(key, 1 / self.cv**2, shape, jnp.float64)


@dataclass(frozen=True)
class Uniform:
    """Between ``low`` and ``high``.

    Example:
        >>> mm.draws.Uniform(18, 66).mean
        42.0
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        _above("high of Uniform", self.high, self.low)

    @property
    def mean(self) -> float:
        """(low + high) / 2."""
        return 0.5 * (self.low + self.high)

    @property
    def sd(self) -> float:
        """(high - low) / √12."""
        return float((self.high - self.low) / np.sqrt(12))

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """As ``Draw.sample``: numbers of the ``shape``, from the ``key``."""
        return jax.random.uniform(key, shape, jnp.float64, self.low, self.high)


@dataclass(frozen=True)
class Bernoulli:
    """1 with the probability ``p``, else 0.

    Example:
        >>> mm.draws.Bernoulli(0.5).sd
        0.5
    """

    p: float = 0.5

    def __post_init__(self):
        if not 0 < self.p < 1:
            raise ValueError(f"p of Bernoulli must lie between 0 and 1, not {self.p!r}")

    @property
    def mean(self) -> float:
        """p."""
        return self.p

    @property
    def sd(self) -> float:
        """√(p (1 - p))."""
        return float(np.sqrt(self.p * (1 - self.p)))

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """As ``Draw.sample``: numbers of the ``shape``, from the ``key``."""
        return 1.0 * (jax.random.uniform(key, shape, jnp.float64) < self.p)


@dataclass(frozen=True)
class Poisson:
    """Counts with the expectation ``mean``.

    Example:
        >>> mm.draws.Poisson(16).sd
        4.0
    """

    mean: float = 1.0

    def __post_init__(self):
        _above("mean of Poisson", self.mean, 0)

    @property
    def sd(self) -> float:
        """√mean."""
        return float(np.sqrt(self.mean))

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """As ``Draw.sample``: numbers of the ``shape``, from the ``key``."""
        return jax.random.poisson(key, self.mean, shape).astype(jnp.float64)


@dataclass(frozen=True)
class Per:
    """A covariate with one number for each level of ``unit``: a grouping factor, a column of the formula, or labels.

    Example:
        >>> mm.draws.Per("Subject", mm.draws.Normal(50, 10)).unit
        'Subject'
    """

    unit: Any
    draw: Any


NAMED = {
    "normal": Normal(),
    "t": StudentT(),
    "skew-normal": SkewNormal(),
    "mixture": Mixture(),
    "gamma": Gamma(),
    "uniform": Uniform(),
    "bernoulli": Bernoulli(),
    "poisson": Poisson(),
}


def as_draw(what: str, given: Any) -> Draw:
    """A distribution, by its name or as it is.

    Raises:
        ValueError: an unknown name.
        TypeError: what is no distribution.
    """
    if isinstance(given, str):
        if given not in NAMED:
            known = ", ".join(map(repr, NAMED))
            raise ValueError(f"{what}: there is no distribution {given!r}; there are {known}, and those of mm.draws")
        return NAMED[given]
    if isinstance(given, type) or not isinstance(given, Draw):
        raise TypeError(f"{what} must be a distribution such as mm.draws.StudentT(df=4), or its name; not {given!r}")
    return given


def standardised(what: str, given: Any) -> Callable[[jax.Array, tuple[int, ...]], Array]:
    """key, shape -> numbers of mean 0 and variance 1; a function of these two is taken as it is.

    Raises:
        ValueError, TypeError: as ``as_draw``.
    """
    if callable(given) and not isinstance(given, type) and not isinstance(given, Draw):
        own: Any = given
        return own
    draw = as_draw(what, given)
    return lambda key, shape: (draw.sample(key, shape) - draw.mean) / draw.sd
