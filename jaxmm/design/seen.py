"""The columns that the fixed effects are made of, as a fit saw them: what a reference grid is made of.

a factor     its levels in the rows that count
numbers      their mean and range; every value, as of a factor, where there are two or the formula makes levels
cells        how many rows (or how much weight) each combination of levels has
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxmm.design.columns import Levels
from jaxmm.design.functions import LEVELLING
from jaxmm.design.inputs import Frame
from jaxmm.design.syntax import Call, Expr, names, walk

DENSE = 1 << 20  # combinations of levels that are counted one by one


@dataclass(frozen=True)
class SeenColumn:
    """``labels`` of a factor; else ``mean``, ``low``, ``high``, and ``values``, sorted, where they are few."""

    name: str
    labels: np.ndarray | None = None
    ordered: bool = False
    logical: bool = False
    mean: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    values: np.ndarray | None = None

    @property
    def size(self) -> int:
        """How many levels it has; 0 of numbers that are not taken for levels."""
        levels = self.values if self.labels is None else self.labels
        return 0 if levels is None else len(levels)


@dataclass(frozen=True)
class Seen:
    """``columns`` by name; ``codes`` (m, k) the combinations of levels of ``discrete`` that were met, with their
    ``counts`` (m,), weights summed where there are any; ``offset``: the mean of all offsets, ``argument`` that of one
    given as an array."""

    columns: Mapping[str, SeenColumn]
    discrete: tuple[str, ...]
    codes: np.ndarray
    counts: np.ndarray
    offset: float = 0.0
    argument: float = 0.0


def see(frame: Frame, exprs: Iterable[Expr], n: int, weights: np.ndarray | None) -> Seen:
    """What the n rows of ``frame`` hold in the columns that ``exprs`` name."""
    exprs = list(exprs)
    levelled = {
        name for e in exprs for node in walk(e) if isinstance(node, Call) and node.func in LEVELLING
        for name in names(node)
    }  # fmt: skip
    columns, codes = {}, []
    for name in dict.fromkeys(name for e in exprs for name in names(e) if name in frame):
        column, own = _see(frame, name, name in levelled)
        columns[name] = column
        if own is not None:
            codes.append(own)
    discrete = tuple(name for name, c in columns.items() if c.size)
    return Seen(columns, discrete, *_cells(codes, [columns[d].size for d in discrete], n, weights))


def _see(frame: Frame, name: str, levelled: bool) -> tuple[SeenColumn, np.ndarray | None]:
    value = frame[name]
    if isinstance(value, Levels):
        value = value if value.logical else value.used()
        return SeenColumn(name, value.labels, value.ordered, value.logical), value.codes
    low, high = float(np.min(value)), float(np.max(value))
    if levelled:
        values, codes = np.unique(value, return_inverse=True)
    elif low < high and np.all((value == low) | (value == high)):
        values, codes = np.array([low, high]), (value == high).astype(np.int32)
    else:
        values, codes = None, None
    return SeenColumn(name, None, False, False, float(np.mean(value)), low, high, values), codes


def _cells(
    codes: list[np.ndarray], sizes: list[int], n: int, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The combinations that occur, and their counts."""
    if not codes:
        return np.zeros((1, 0), np.int32), np.array([float(n) if weights is None else np.sum(weights)])
    total = float(np.prod([float(s) for s in sizes]))
    if total <= DENSE:
        counts = np.bincount(np.ravel_multi_index(tuple(codes), sizes), weights, int(total)).astype(float)
        met = np.flatnonzero(counts)
        return np.stack(np.unravel_index(met, sizes), axis=1).astype(np.int32), counts[met]
    met, place = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)
    return met.astype(np.int32), np.bincount(place.ravel(), weights, len(met)).astype(float)
