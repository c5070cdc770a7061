"""The reference grid of a fit: each combination of the levels of its factors, with the other columns at their means.

    axes      a column each: a factor's levels, both values of a covariate that has two, the mean of any other
    rows      all combinations, the first axis fastest: X (m, P) by the fit's own contrasts and knots, offset (m,)
    average   (m,) → (k,): over the axes that are not kept, with weights w that sum to one in each of k cells

so that a marginal mean is a row of coefficients, l = Σ w x, whatever the data's own balance (Searle, Speed & Milliken
1980, Am. Stat. 34, 216-221).  A covariate of two values is a factor here: its mean would be nobody's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxmm.design import DataError
from jaxmm.design.columns import Levels, Table
from jaxmm.design.functions import Matrix
from jaxmm.design.inputs import formula_offset
from jaxmm.design.predictor import MEAN
from jaxmm.design.seen import SeenColumn
from jaxmm.design.syntax import names
from jaxmm.design.transforms import evaluate
from jaxmm.fitted import Fitted

STEP = 1e-3  # of a covariate's range, in which its slopes are taken
LIMIT = 50_000_000  # numbers in the grid's model matrix
WEIGHTS = ("equal", "proportional", "outer", "cells", "flat")


@dataclass(frozen=True, eq=False)
class Axis:
    """``levels``: texts of a factor, else numbers; ``codes``: their places among those the fit saw, -1 for none."""

    column: SeenColumn
    levels: tuple[Any, ...]
    codes: np.ndarray

    @property
    def name(self) -> str:
        return self.column.name

    def take(self, index: np.ndarray) -> Levels | np.ndarray:
        """Its values in the rows that have these places on it, as formulas read them."""
        c = self.column
        if c.labels is None:
            return np.array(self.levels, float)[index]
        return Levels(self.codes[index].astype(np.int32), c.labels, c.ordered, c.logical)


@dataclass(frozen=True, eq=False)
class Grid:
    """``index`` (m, a) the place of each row on each axis; ``frame`` the columns; ``X`` (m, P) with those left out of
    the fit; ``offset`` (m,), ``moved`` where it is not at its mean; ``counts`` (m,) of the data's rows with the same
    levels."""

    axes: tuple[Axis, ...]
    index: np.ndarray
    frame: dict[str, Levels | np.ndarray]
    X: np.ndarray
    offset: np.ndarray
    counts: np.ndarray
    moved: bool = False

    @property
    def names(self) -> list[str]:
        return [a.name for a in self.axes]

    @property
    def sizes(self) -> list[int]:
        return [len(a.levels) for a in self.axes]

    def axis(self, name: str) -> Axis:
        return self.axes[self.names.index(name)]

    def spread(self, values: np.ndarray, keep: Sequence[str]) -> np.ndarray:
        """(m, ..) → (k, r, ..): k combinations of the levels of ``keep``, r of the others, the first ones fastest."""
        places = [self.names.index(n) for n in keep]
        rest = [j for j in range(len(self.axes)) if j not in places]
        a, sizes = len(self.axes), self.sizes
        whole = values.reshape((*sizes[::-1], *values.shape[1:]))  # axis j of the grid is dimension a - 1 - j
        order = [a - 1 - j for j in (*places[::-1], *rest[::-1])]
        k = int(np.prod([sizes[j] for j in places]))
        moved = np.transpose(whole, (*order, *range(a, whole.ndim)))
        return moved.reshape(k, len(values) // k, *values.shape[1:])

    def weights(self, keep: Sequence[str], weights: Any) -> np.ndarray:
        """(k, r) summing to one over the levels that are averaged over; NaN where no row of the data has any.

        Raises:
            ValueError: neither one of ``WEIGHTS`` nor as many numbers as combinations are averaged over.
        """
        counts = self.spread(self.counts, keep)
        k, r = counts.shape
        if isinstance(weights, str):
            if weights not in WEIGHTS:
                raise ValueError(
                    f"weights must be one of {', '.join(map(repr, WEIGHTS))} or an array of the {r} combinations that "
                    f"are averaged over, not {weights!r}"
                )
            w = {"equal": np.ones_like, "cells": lambda c: c, "flat": lambda c: (c > 0).astype(float)}.get(
                weights, lambda c: np.tile(c.sum(axis=0), (k, 1))
            )(counts)
            w = self._outer(keep, k) if weights == "outer" else w
        else:
            w = np.asarray(weights, float)
            if w.shape != (r,) or not np.all(np.isfinite(w)) or np.any(w < 0) or w.sum() <= 0:
                raise ValueError(
                    f"weights must be {r} numbers, not negative, of the combinations of "
                    f"{', '.join(n for n in self.averaged(keep)) or 'nothing'} that are averaged over, not an array of "
                    f"shape {w.shape}"
                )
            w = np.tile(w, (k, 1))
        total = w.sum(axis=1, keepdims=True)
        return np.divide(w, total, out=np.full_like(w, np.nan), where=total > 0)

    def _outer(self, keep: Sequence[str], k: int) -> np.ndarray:
        w = np.ones(len(self.counts))
        for j, axis in enumerate(self.axes):
            if axis.name not in keep:
                w *= np.bincount(self.index[:, j], self.counts)[self.index[:, j]]
        return self.spread(w, keep)

    def averaged(self, keep: Sequence[str]) -> list[str]:
        """The axes of several levels that are averaged over."""
        return [a.name for a in self.axes if a.name not in keep and len(a.levels) > 1]

    def fixed_at(self, keep: Sequence[str]) -> dict[str, Any]:
        """The axes of one level, with it."""
        return {a.name: a.levels[0] for a in self.axes if a.name not in keep and len(a.levels) == 1}

    def cells(self, keep: Sequence[str]) -> dict[str, list[Any]]:
        """The levels of each of ``keep`` in the k cells."""
        out, before = {}, 1
        total = int(np.prod([len(self.axis(n).levels) for n in keep]))
        for name in keep:
            levels = self.axis(name).levels
            out[name] = [levels[i // before % len(levels)] for i in range(total)]
            before *= len(levels)
        return out


@dataclass(frozen=True, eq=False)
class Columns:
    """Which columns of the table the mean of a fit is made of: of its fixed part, its offsets, and its bars."""

    fit: Fitted

    @cached_property
    def fixed(self) -> list[str]:
        return self._seen([n for v in self.spec.matrix.variables for n in names(v.expr)])

    @cached_property
    def offset(self) -> list[str]:
        column = self.spec.offset_column
        return self._seen([*(n for e in self.spec.offsets for n in names(e)), *([column] if column else [])])

    @cached_property
    def random(self) -> list[str]:
        d = self.fit.model.design
        bars = [m for m, t in zip(self.spec.bars, d.terms, strict=True) if d.factors[t.factor].predictor == MEAN]
        return self._seen([n for m in bars for v in m.variables for n in names(v.expr)])

    @property
    def spec(self) -> Any:
        return self.fit.model.design.spec

    def _seen(self, found: list[str]) -> list[str]:
        return [n for n in dict.fromkeys(found) if n in self.spec.seen.columns]


def reference_grid(
    fit: Fitted,
    at: Mapping[str, Any] | None = None,
    *,
    random: bool = False,
    spread: Callable[[SeenColumn], Sequence[float]] | None = None,
) -> Grid:
    """The grid of a fit.

    Args:
        at: values of columns in the place of their own: one or several.
        random: whether the columns of the random effects have axes too.
        spread: the values of a covariate, in the place of its mean.

    Raises:
        DataError: a model from arrays; a column that ``at`` names and the fixed effects have not, or a level that the
            fit has not seen.
        ValueError: a grid too large to hold.
    """
    d = fit.model.design
    if d.spec is None or d.spec.seen is None:
        raise DataError("this model was made from arrays: marginal means need a formula, whose factors they are of")
    columns = Columns(fit)
    at = _checked(at, list(dict.fromkeys([*columns.fixed, *columns.offset, *(columns.random if random else ())])))
    moved = [n for n in columns.offset if n in at]
    wanted = list(
        dict.fromkeys([*columns.fixed, *(columns.offset if moved else ()), *(columns.random if random else ())])
    )
    axes = tuple(_axis(d.spec.seen.columns[n], at.get(n), spread) for n in wanted)
    sizes = [len(a.levels) for a in axes]
    m, P = int(np.prod(sizes)), len(d.spec.matrix.columns)
    if m * P > LIMIT:
        shown = ", ".join(f"{a.name} ({s})" for a, s in zip(axes, sizes, strict=True) if s > 1)
        raise ValueError(
            f"the reference grid has {m} rows, every combination of {shown}: give some of them fewer values with at="
        )
    index = np.stack(np.unravel_index(np.arange(m), sizes, order="F"), axis=1) if axes else np.zeros((m, 0), int)
    frame = {a.name: a.take(index[:, j]) for j, a in enumerate(axes)}
    spec = d.spec
    X, offset = _evaluated(spec, frame, m, bool(moved))
    return Grid(axes, index, frame, X, offset, _counts(spec.seen, axes, index), bool(moved))


def _evaluated(spec: Any, frame: dict[str, Levels | np.ndarray], m: int, moved: bool) -> tuple[np.ndarray, np.ndarray]:
    """X (m, P) and the offset (m,) on the rows of ``frame``; the offset is at its mean unless it was ``moved``."""
    with np.errstate(invalid="ignore", divide="ignore"):
        X, offset = spec.matrix.rows(frame, m, spec.memory), np.full(m, spec.seen.offset)
        if moved:
            offset = formula_offset(spec.offsets, frame, spec.memory, m) + spec.seen.argument  # pyright: ignore
        if moved and spec.offset_column is not None:
            offset = offset + np.asarray(frame[spec.offset_column])
    return _finite(X), _finite(offset)


def _finite(values: np.ndarray) -> np.ndarray:
    """NaN, with which sums and products warn of nothing, in the place of ±∞."""
    return np.where(np.isfinite(values), values, np.nan)


def undefined(fit: Fitted, grid: Grid) -> list[str]:
    """Which functions of which columns have no value in some rows of the grid, and where first, a sentence each."""
    spec: Any = fit.model.design.spec
    exprs = [v.expr for v in spec.matrix.variables if v.labels is None] + list(spec.offsets if grid.moved else ())
    out = []
    for expr in exprs:
        with np.errstate(invalid="ignore", divide="ignore"):
            value = evaluate(expr, grid.frame, spec.memory, fitting=False)
        if isinstance(value, Levels):
            continue
        numbers = np.asarray(value.values if isinstance(value, Matrix) else value, float)
        bad = ~np.isfinite(numbers if numbers.ndim < 2 else numbers.sum(axis=1)) & np.ones(len(grid.X), bool)
        if bad.any():
            row = int(np.argmax(bad))
            own = {n: grid.frame[n] for n in names(expr) if n in grid.frame}
            at = [f"{n} = {x[row]:.7g}" for n, x in own.items() if not isinstance(x, Levels)]
            out.append(f"NaN: not defined, for {expr} has no value at {', '.join(at)}")
    return out or ["NaN: not defined, for a column of the model has no value there, or too near for a slope"]


def slopes(fit: Fitted, grid: Grid, var: str) -> Grid:
    """The same grid with the derivatives of X and of the offset by a covariate: central differences of fourth order
    over a thousandth of its range, exact for polynomials of degree four."""
    column = grid.axis(var).column
    x, h = np.asarray(grid.frame[var], float), STEP * ((column.high - column.low) or 1.0)

    def at(k: int) -> tuple[np.ndarray, np.ndarray]:
        return _evaluated(fit.model.design.spec, {**grid.frame, var: x + k * h}, len(x), grid.moved)

    near, far = zip(at(1), at(-1), strict=True), zip(at(2), at(-2), strict=True)
    X, offset = ((8 * (a - b) - (c - d)) / (12 * h) for (a, b), (c, d) in zip(near, far, strict=True))
    return replace(grid, X=X, offset=offset)


def _checked(at: Mapping[str, Any] | None, known: list[str]) -> Mapping[str, Any]:
    if at is None:
        return {}
    if not isinstance(at, Mapping):
        raise DataError(f"at must be a mapping such as {{'x': [0, 1]}}, not {type(at).__name__}")
    for name in at:
        if name not in known:
            shown = ", ".join(map(repr, known)) or "none"
            raise DataError(f"at names {name!r}, which is no column of the fixed effects; they have {shown}")
    return at


def _axis(column: SeenColumn, given: Any, spread: Callable | None) -> Axis:
    if given is not None:
        values = list(given) if isinstance(given, list | tuple | np.ndarray | set | range) else [given]
        if hasattr(given, "tolist") and not isinstance(given, np.ndarray):
            values = np.atleast_1d(np.asarray(given)).tolist()
        if not values:
            raise DataError(f"at gives {column.name!r} no value")
        return _given(column, list(dict.fromkeys(values)))
    levels = column.values if column.labels is None else column.labels
    if levels is not None:
        own = tuple(levels.tolist())
        return Axis(column, own, np.arange(len(own)))
    numbers = (column.mean,) if spread is None else tuple(map(float, spread(column)))
    return Axis(column, numbers, np.full(len(numbers), -1))


def _given(column: SeenColumn, values: list[Any]) -> Axis:
    """The axis of values from outside.

    Raises:
        DataError: a level that the fit has not seen; what is not a number where numbers are due.
    """
    if column.labels is None:
        numbers = Table({column.name: values}).column(column.name).numbers
        if not np.all(np.isfinite(numbers)):
            raise DataError(f"at gives {column.name!r} a value that is not finite: {values!r}")
        seen = {v: i for i, v in enumerate(() if column.values is None else column.values.tolist())}
        own = tuple(numbers.tolist())
        return Axis(column, own, np.array([seen.get(v, -1) for v in own]))
    found = [Table({"x": [v]}).column("x").levels for v in values]
    texts = [str(levels.labels[levels.codes[0]]) for levels in found]
    seen = {str(v): i for i, v in enumerate(column.labels)}
    unknown = [t for t in texts if t not in seen]
    if unknown:
        shown = ", ".join(map(repr, [str(v) for v in column.labels[:10]])) + (", ..." if column.size > 10 else "")
        raise DataError(f"at gives {column.name!r} the level {unknown[0]!r}; its levels are {shown}")
    codes = np.array([seen[t] for t in texts])
    return Axis(column, tuple(column.labels[codes].tolist()), codes)


def _counts(seen: Any, axes: tuple[Axis, ...], index: np.ndarray) -> np.ndarray:
    """How many rows of the data have the levels of each row of the grid; continuous columns do not count."""
    own = [j for j, a in enumerate(axes) if a.name in seen.discrete]
    if not own:
        return np.full(len(index), float(np.sum(seen.counts)))
    sizes = [axes[j].column.size for j in own]
    met = seen.codes[:, [seen.discrete.index(axes[j].name) for j in own]]
    keys, place = np.unique(np.ravel_multi_index(tuple(met.T), sizes), return_inverse=True)
    totals = np.bincount(place.ravel(), seen.counts, len(keys))
    codes = np.stack([axes[j].codes[index[:, j]] for j in own], axis=1)
    asked = np.ravel_multi_index(tuple(np.maximum(codes, 0).T), sizes)
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where((keys[at] == asked) & np.all(codes >= 0, axis=1), totals[at], 0.0)
