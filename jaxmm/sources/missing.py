"""Which rows a replicate lacks: a design, a key, a response -> True where a row is there.

    AtRandom            rows, or whole levels, by chance, with a probability that may depend on what is always seen
    Dropout             from some visit on, with a hazard for each visit, by arm
    DropoutByResponse   logit of that hazard linear in the last response and in the one that is not seen
    ClusterSizes        the first rows of each cluster, as many as its size, which is drawn

A pattern is one small class with ``on(design)``, which gives a function of a key and the response (n,), of JAX
operations; several are combined: a row is there where all say so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.design import DataError, Design
from jaxmm.sources.columns import by_level, levels_of
from jaxmm.sources.draws import as_draw

There = Callable[[jax.Array, Array], Array]


@runtime_checkable
class Pattern(Protocol):
    """What makes rows missing.  One of your own is a class with this method.

    Example:
        >>> isinstance(mm.missing.AtRandom(0.1), mm.missing.Pattern)
        True
    """

    @abstractmethod
    def on(self, design: Design) -> There:
        """Of a ``design`` with n rows: key, y (n,) -> (n,) whether each row is there."""
        ...


@dataclass(frozen=True)
class AtRandom:
    """Rows are missing by chance, each by itself, with the probability ``p``.

    Args:
        p: the probability; or level of ``by`` -> probability, of what is seen of every row, such as the arm.
        by: a column of the formula, a grouping factor, or labels (n,).
        per: a column or factor as ``by``, whose levels are missing as a whole.

    Example:
        >>> lost = mm.Mechanism(missing=mm.missing.AtRandom(0.25))
        >>> float(mm.Simulated(fit.model, fit, 400, key=1, mechanism=lost).block(0, 400).weights.mean().round(2))
        0.75
    """

    p: float | Mapping[Any, float]
    by: Any = None
    per: Any = None

    def on(self, design: Design) -> There:
        """As ``Pattern.on``, of a ``design``.

        Raises:
            ValueError: a probability outside [0, 1).
            DataError: a column that there is not.
        """
        p = np.array(_each("p of AtRandom", self.p, self.by, design, 0), float)
        if not np.all((p >= 0) & (p < 1)):
            raise ValueError(f"p of AtRandom must be a probability below 1, not {self.p!r}")
        if self.per is None:
            return lambda key, y: jax.random.uniform(key, p.shape, jnp.float64) >= p
        codes, labels = levels_of("per of AtRandom", self.per, design)
        return lambda key, y: jax.random.uniform(key, (len(labels),), jnp.float64)[codes] >= p


@dataclass(frozen=True)
class Dropout:
    """Units leave for good: who is there at one visit is missing from the next one on with the probability ``hazard``.

    The first visit of the design is always there.  What is missing depends on no response: completely at random, or
    given the arm.

    Args:
        hazard: one number, or one for each visit after the first; or level of ``by`` -> either.
        unit: who leaves: a grouping factor, a column of the formula, or labels (n,).
        visit: the column of the visits, in whose order units leave.
        by: the column whose levels have hazards of their own.

    Example:
        >>> leave = mm.Mechanism(missing=mm.missing.Dropout(0.1, unit="Subject", visit="Days"))
        >>> there = mm.Simulated(fit.model, fit, 2, key=1, mechanism=leave).block(0, 1).weights[0].reshape(18, 10)
        >>> bool(np.all(np.diff(there) <= 0) and np.all(there[:, 0] == 1))
        True
    """

    hazard: Any
    unit: Any
    visit: Any
    by: Any = None

    def on(self, design: Design) -> There:
        """As ``Pattern.on``, of a ``design``.

        Raises:
            ValueError: a hazard outside [0, 1], another number of them than there are visits after the first.
            DataError: a column that there is not.
        """
        grid = _Grid.of("Dropout", self.unit, self.visit, design)
        hazard = grid.each("hazard of Dropout", self.hazard, self.by, design)
        if not np.all((hazard >= 0) & (hazard <= 1)):
            raise ValueError(f"hazard of Dropout must be probabilities, not {self.hazard!r}")

        def there(key: jax.Array, y: Array) -> Array:
            stays = jax.random.uniform(key, hazard.shape, jnp.float64) >= hazard
            return jnp.cumprod(stays, axis=0)[grid.visit, grid.unit] > 0

        return there


@dataclass(frozen=True)
class DropoutByResponse:
    """Units leave with a hazard that depends on their responses.

        logit hazard = intercept + previous · (last response seen) + current · (the one that would be seen next)

    With ``current`` = 0 rows are missing at random: likelihoods remain right.  Else they are missing not at random, and
    no analysis of what is seen can tell.  The first visit is always there; of several rows of a visit the mean counts.

    Args:
        intercept: one number, or one for each visit after the first; or level of ``by`` -> either.
        unit, visit, by: as of ``Dropout``.
        previous, current: of the logit, per unit of the response.
        centre: taken off both responses first, so that ``intercept`` is the logit at an ordinary one.

    Example:
        >>> worse = mm.missing.DropoutByResponse(-2, unit="Subject", visit="Days", previous=0.02, centre=300)
        >>> there = mm.Simulated(fit.model, fit, 2, key=1, mechanism=mm.Mechanism(missing=worse)).block(0, 1).weights
        >>> bool(there.min() == 0)
        True
    """

    intercept: Any
    unit: Any
    visit: Any
    by: Any = None
    previous: float = 0.0
    current: float = 0.0
    centre: float = 0.0

    def on(self, design: Design) -> There:
        """As ``Pattern.on``, of a ``design``.

        Raises:
            ValueError: numbers that are not finite, another number of them than there are visits after the first.
            DataError: a column that there is not.
        """
        for name in ("previous", "current", "centre"):
            value = getattr(self, name)
            if not isinstance(value, int | float | np.number) or not np.isfinite(value):
                raise ValueError(f"{name} of DropoutByResponse must be a finite number, not {value!r}")
        grid = _Grid.of("DropoutByResponse", self.unit, self.visit, design)
        intercept = grid.each("intercept of DropoutByResponse", self.intercept, self.by, design)
        if not np.all(np.isfinite(intercept)):
            raise ValueError(f"intercept of DropoutByResponse must be finite, not {self.intercept!r}")
        cell, count = grid.visit * grid.units + grid.unit, np.zeros((grid.visits, grid.units))
        np.add.at(count, (grid.visit, grid.unit), 1)

        def there(key: jax.Array, y: Array) -> Array:
            sums = jax.ops.segment_sum(y - self.centre, cell, grid.visits * grid.units).reshape(count.shape)
            means = sums / np.maximum(count, 1)
            u = jax.random.uniform(key, count.shape, jnp.float64)
            stays, last, out = jnp.ones(grid.units, bool), jnp.zeros(grid.units), []
            for v in range(grid.visits):  # who has no row at a visit cannot leave at it
                seen = count[v] > 0
                if v:
                    hazard = jax.nn.sigmoid(intercept[v] + self.previous * last + self.current * means[v])
                    stays = stays & ((u[v] >= hazard) | ~seen | (np.cumsum(count, 0)[v - 1] == 0))
                last = jnp.where(seen, means[v], last)
                out.append(stays)
            return jnp.stack(out)[grid.visit, grid.unit]

        return there


@dataclass(frozen=True)
class ClusterSizes:
    """Each cluster has the first rows of its own in the design, as many as its size.

    The design has the largest size; sizes above that are cut to it.

    Args:
        unit: the clusters: a grouping factor, a column of the formula, or labels (n,).
        sizes: a distribution, as mm.draws.Gamma(mean=20, cv=0.6), whose numbers are rounded; or a whole number for each
            cluster, given to the clusters in an order that is drawn anew.
        least: the smallest size.

    Example:
        >>> few = mm.missing.ClusterSizes("Subject", mm.draws.Poisson(6), least=2)
        >>> there = mm.Simulated(fit.model, fit, 2, key=1, mechanism=mm.Mechanism(missing=few)).block(0, 1).weights
        >>> bool(there[0].reshape(18, 10).sum(1).min() >= 2)
        True
    """

    unit: Any
    sizes: Any
    least: int = 1

    def on(self, design: Design) -> There:
        """As ``Pattern.on``, of a ``design``.

        Raises:
            ValueError: another number of sizes than there are clusters, sizes that are no whole numbers.
            DataError: a column that there is not.
        """
        codes, labels = levels_of("unit of ClusterSizes", self.unit, design)
        if isinstance(self.least, bool) or not isinstance(self.least, int | np.integer) or self.least < 0:
            raise ValueError(f"least of ClusterSizes must be a whole number of rows, not {self.least!r}")
        rank = np.empty(len(codes), int)
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(labels)))
        rank[order] = np.arange(len(codes)) - starts[codes[order]]
        if isinstance(self.sizes, str) or not np.iterable(self.sizes):
            draw = as_draw("sizes of ClusterSizes", self.sizes)
            return lambda key, y: (
                jnp.asarray(rank) < jnp.maximum(jnp.round(draw.sample(key, (len(labels),))), self.least)[codes]
            )
        sizes = np.asarray(self.sizes, float)
        if sizes.shape != (len(labels),) or not np.all((sizes >= self.least) & (sizes == np.round(sizes))):
            raise ValueError(
                f"sizes of ClusterSizes must be {len(labels)} whole numbers of at least {self.least}, one for each "
                f"cluster, not {self.sizes!r}"
            )
        return lambda key, y: jnp.asarray(rank) < jax.random.permutation(key, sizes)[codes]


# ---------------------------------------------------------------- what they have in common
@dataclass(frozen=True, eq=False)
class _Grid:
    """Which unit and which visit each row (n,) is of, among ``units`` and ``visits``."""

    unit: np.ndarray
    visit: np.ndarray
    units: int
    visits: int

    @classmethod
    def of(cls, who: str, unit: Any, visit: Any, design: Design) -> _Grid:
        u, units = levels_of(f"unit of {who}", unit, design)
        v, visits = levels_of(f"visit of {who}", visit, design)
        if len(visits) < 2:
            raise DataError(f"visit of {who} has one value, {visits[0]!r}: nobody can leave after the only visit")
        return cls(u, v, len(units), len(visits))

    def each(self, what: str, given: Any, by: Any, design: Design) -> np.ndarray:
        """(visits, units) what is given for each, zero at the first visit."""
        rows = _each(what, given, by, design, self.visits - 1)
        out = np.zeros((self.visits, self.units))
        for row, unit in enumerate(self.unit):
            out[1:, unit] = rows[row]
        if by is not None:
            codes, _ = levels_of(f"by, of {what}", by, design)
            both = np.unique(np.stack([self.unit, codes]), axis=1)
            if both.shape[1] > self.units:
                raise DataError(f"{what}: by= differs between the rows of one unit: who leaves has one level of it")
        return out


def _each(what: str, given: Any, by: Any, design: Design, several: int) -> list[Any]:
    """For each row what is given: a number; of ``several``, if any, as many numbers; or one of these by level."""

    def checked(value: Any) -> Any:
        try:
            x = np.asarray(value, float)
        except (TypeError, ValueError):
            raise ValueError(f"{what} must be numbers, not {value!r}") from None
        if x.ndim and (not several or x.shape != (several,)):
            due = f"one number, or {several}, one for each visit after the first" if several else "one number"
            raise ValueError(f"{what} must be {due}, not {value!r}")
        return x

    n = len(design.y)
    if isinstance(given, Mapping):
        if by is None:
            raise ValueError(f"{what} is given by level: say of which column, by=")
        codes, labels = levels_of(f"by, of {what}", by, design)
        values = [checked(x) for x in by_level(what, given, labels)]
        return [values[c] for c in codes]
    if by is not None:
        raise ValueError(f"{what} is one for all levels of by={by!r}: give level -> number, or leave by= out")
    return [checked(given)] * n


def as_patterns(given: Any) -> tuple[Pattern, ...]:
    """One pattern, or several.

    Raises:
        TypeError: what is none.
    """
    several: Sequence[Any] = () if given is None else given if isinstance(given, list | tuple) else (given,)
    for one in several:
        if isinstance(one, type) or not isinstance(one, Pattern):
            raise TypeError(f"missing must be a pattern such as mm.missing.AtRandom(0.1), or a list; not {one!r}")
    return tuple(several)
