"""A design -> which of its rows, and which of its groups of rows, have the same distribution but for the fixed effects.

groups    the levels of the outermost factor, or without any those within which errors are correlated: their residuals
          Zb + ε are independent of each other
cells     rows with the same levels of all factors and the same rows of Z: given b they differ by ε alone
layout    what a group's covariance depends on: its rows of Z, and which of them share levels of inner factors
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.sources.resample import outermost


@dataclass(frozen=True)
class Groups:
    """The levels of the factor ``name``: ``codes`` (nobs,) of the rows, ``count`` of them."""

    name: str
    codes: np.ndarray
    count: int


def groups_of(model: Any) -> Groups | None:
    """The independent groups of a model; None where its factors are crossed, or there is none."""
    d, outer = model.design, outermost(model)
    if outer is None and (d.factors or not d.correlated_within):
        return None
    factor = d.correlated_within[0 if outer is None else outer]
    return Groups(factor.name, np.asarray(factor.codes), len(factor.levels))


def cells_of(model: Any) -> np.ndarray:
    """(nobs,) the cell of each row."""
    d = model.design
    codes = np.column_stack([f.codes for f in d.factors]).astype(float)
    return kinds(np.column_stack([codes, *(t.Z for t in d.terms)]))


def rows_of_groups(model: Any, groups: Groups, fixed: np.ndarray) -> list[np.ndarray]:
    """The rows of each group in an order by which groups of one layout correspond: by inner levels, the smaller first,
    then by Z, by the columns ``fixed`` (nobs, k), and as they stand."""
    d = model.design
    Z = np.column_stack([t.Z for t in d.terms])
    inner = [f.codes for f in d.factors if f.name != groups.name]
    out = []
    for level in range(groups.count):
        rows = np.flatnonzero(groups.codes == level)
        ranks = [_by_size(codes[rows]) for codes in inner]
        keys = [*ranks, *Z[rows].T, *fixed[rows].T]
        out.append(rows[np.lexsort(keys[::-1])] if keys else rows)
    return out


def layouts_of(model: Any, groups: Groups, rows: list[np.ndarray]) -> np.ndarray:
    """(J,) a number for each group, the same where the layout is."""
    d = model.design
    Z = np.column_stack([t.Z for t in d.terms])
    inner = [f.codes for f in d.factors if f.name != groups.name]
    return _numbers([np.column_stack([*(_by_size(c[own]) for c in inner), Z[own]]).tobytes() for own in rows])


def blocks_of(X: np.ndarray, rows: list[np.ndarray]) -> np.ndarray:
    """(J,) a number for each group, the same where its rows of X are."""
    return _numbers([np.ascontiguousarray(X[own] + 0.0).tobytes() for own in rows])


def kinds(rows: np.ndarray) -> np.ndarray:
    """(n,) a number for each row of (n, k), the same where the row is."""
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()


def _numbers(keys: list[bytes]) -> np.ndarray:
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys])


def _by_size(codes: np.ndarray) -> np.ndarray:
    """Levels as numbers from 0: the smaller first, then as they appear."""
    _, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(first), int)
    rank[np.lexsort([first, counts])] = np.arange(len(first))
    return rank[inverse.ravel()]
