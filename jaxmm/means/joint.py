"""Tests of all contrasts of a term at once: F of the differences between the marginal means of its factors.

For a set S of axes with levels in order, the contrasts are products of differences of successive levels, one factor of
the product for each axis in S: all of them are zero iff the means have no interaction of S (no differences, for a
single axis).  The means are averaged over the other axes with equal weights, so that the tests do not depend on the
coding nor on how many rows a cell has: type III (Searle 1987, Linear Models for Unbalanced Data, §5.3).

Of contrasts that the data do not tell all, those combinations are tested that they do tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmm.design.modelmatrix import ModelMatrix
from jaxmm.design.syntax import names
from jaxmm.inference import wald
from jaxmm.means.functions import TOLERANCE, Functions

SINGULAR = "no F: the covariance of the contrasts is singular"
UNDEFINED = "no F: the contrasts are not defined at these values"
RANK = 1e-8  # of the largest singular value of the rows


class Joint(NamedTuple):
    """F with ``num_df`` and ``den_df`` degrees of freedom; ``told``: how many contrasts the data do not tell."""

    F: float
    num_df: int
    den_df: float
    p: float
    untold: int


def differences(sizes: Sequence[int]) -> np.ndarray:
    """(Π (s - 1), Π s): products of differences of successive levels, the first axis fastest."""
    C = np.ones((1, 1))
    for s in sizes:
        C = np.kron(np.diff(np.eye(s), axis=0), C)
    return C


def test(functions: Functions) -> Joint:
    """All of them are zero."""
    known = np.isfinite(functions.value)
    f = functions if known.all() else functions.combine(np.eye(len(known))[known])
    C = _estimable(f)
    tested = f.combine(C) if len(C) else f
    se = np.sqrt(np.maximum(np.diag(f.reference.vcov), 0.0))
    unit = np.where(se > 0, se, 1.0)  # of a coefficient: rows in it do not depend on the unit of a covariate
    rank_all = _independent(np.hstack([f.rows * unit, f.excess])) if len(f.value) else np.zeros((0, 0))
    if len(C):
        tested = tested.combine(_independent(tested.rows * unit))
    k = len(tested.value) if len(C) else 0
    untold = len(rank_all) - k
    if not k:
        return Joint(np.nan, 0, np.nan, np.nan, untold)
    scale, df = tested.reference.denominator(tested.rows)
    unit = np.sqrt(np.maximum(np.diag(tested.vcov), 1e-300))
    chisq = scale * float(wald.together(np.eye(k), tested.value / unit, tested.vcov / np.outer(unit, unit)).statistic)
    return Joint(chisq / k, k, df, float(wald.ratio(chisq, k, df)), untold)


def _estimable(f: Functions) -> np.ndarray:
    """C (m, k): the combinations whose excess is zero, all of the rows where it is zero everywhere."""
    if f.estimable.all():
        return np.eye(len(f.value))
    scale = float(np.max(f.size, initial=1e-300))
    U, s, _ = np.linalg.svd(f.excess / scale)
    rank = int(np.sum(s > 1e3 * TOLERANCE))
    return U[:, rank:].T


def _independent(rows: np.ndarray) -> np.ndarray:
    """C (r, k): combinations that span the same as the rows."""
    size = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
    U, s, _ = np.linalg.svd(rows / size[:, None], full_matrices=False)
    return U[:, s > RANK * np.max(s, initial=1e-300)].T / size


def terms(matrix: ModelMatrix, axes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The sets of axes that stand together in some term of the model, small ones first."""
    together = [
        {n for k, _ in term for n in names(matrix.variables[k].expr)} & set(axes) for term in matrix.terms
    ]  # fmt: skip
    for size in range(1, max(map(len, together), default=0) + 1):
        for chosen in combinations(axes, size):
            if any(set(chosen) <= t for t in together):
                yield chosen


def interacting(matrix: ModelMatrix, averaged: Sequence[str], kept: Sequence[str]) -> list[str]:
    """The axes that are averaged over though a term joins them to one that is kept."""
    found = []
    for term in matrix.terms:
        own = {n for k, _ in term for n in names(matrix.variables[k].expr)}
        if own & set(kept):
            found += [a for a in averaged if a in own and a not in found]
    return found


def tested(term: str, functions: Functions, C: np.ndarray, by: Any) -> list[dict[str, Any]]:
    """A row for each group of C's columns, which go by ``by``."""
    out, size = [], C.shape[1]
    for g in range(len(functions.value) // size):
        whole = np.zeros((len(C), len(functions.value)))
        whole[:, g * size : (g + 1) * size] = C
        t = test(functions.combine(whole))
        own = {} if by.empty else by.iloc[g * size].to_dict()
        out.append({"term": term, **own, "F": t.F, "num_df": t.num_df, "den_df": t.den_df, "p": t.p, "lost": t.untold})
    return out


def table(found: list[dict[str, Any]], groups: Sequence[str]) -> pd.DataFrame:
    out = pd.DataFrame(found, columns=["term", *groups, "F", "num_df", "den_df", "p", "lost"]).set_index("term")
    lost = np.asarray(out.pop("lost"), int)
    singular = np.isnan(np.asarray(out["F"], float)) & (np.asarray(out["num_df"]) > 0)
    nothing = np.isnan(np.asarray(out["F"], float)) & (np.asarray(out["num_df"]) == 0) & (lost == 0)
    if lost.any() or singular.any() or nothing.any():
        words = [
            [f"{k} not estimable"] * (k > 0) + [SINGULAR] * bad + [UNDEFINED] * none
            for k, bad, none in zip(lost.tolist(), singular.tolist(), nothing.tolist(), strict=True)
        ]
        out["note"] = ["; ".join(w) for w in words]
    return out
