"""A model -> for each term of its formula the rows L of the hypothesis that "the term has no effect".

type 1   each term after those before it: the rows of R, X = QR, that belong to the term's columns
type 2   each term after all that do not contain it: the same, with the columns in the order (do not contain the term,
         the term, contain it).  A term contains another that has the same numbers and some of its factors
type 3   each term averaged with equal weights over the levels of the factors in other terms.  With X_s the model matrix
         with sums to zero in the place of the contrasts, X β = X_s β_s for every row there can be: the rows of
         L = X_s⁺ X that belong to the term

None of these depends on how the factors are coded (Goodnight 1980, SAS technical report R-101).  A number keeps its
scale: with x in an interaction, type 3 tests a factor at x = 0.

X_s⁺X is found from rows drawn at random, all combinations of levels among them, so that no data are needed; where some
combinations have no data, what remains of L are the combinations of its rows that the data tell.  A term of which they
tell nothing and that no other contains, such as x beside 2x, is tested in the model that was fitted, without what was
left out.  Where columns follow from others whatever the data, as those of a:b beside an intercept, X_s is
without them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.linalg import null_space

from jaxmm.design import Design
from jaxmm.design.columns import Levels
from jaxmm.design.contrasts import sum_to_zero
from jaxmm.design.modelmatrix import Coding, ModelMatrix, Variable, independent_columns
from jaxmm.design.transforms import Matrix
from jaxmm.inference.restrictions import SAME

Rows = dict[str, np.ndarray]
TYPES = {1: 1, 2: 2, 3: 3, "1": 1, "2": 2, "3": 3, "I": 1, "II": 2, "III": 3}


def type_number(kind: Any) -> int:
    """1, 2 or 3, in Roman numerals too.

    Raises:
        ValueError: another type.
    """
    if kind not in TYPES:
        raise ValueError(f"type must be 1, 2 or 3, not {kind!r}")
    return TYPES[kind]


def rows_of_terms(design: Design, kind: int, X: np.ndarray) -> Rows:
    """By term L (k, p) over the columns of X; no rows where the data tell nothing of the term.  ``X`` (.., p) is what
    types 1 and 2 go by: X of a linear model, any root of the information on β of a generalised one, whose rows count
    differently.  ``kind`` is 1, 2 or 3.
    """
    at = {term: [design.columns.index(c) for c in columns] for term, columns in design.fixed_terms.items()}
    if kind == 1:
        R = np.asarray(np.linalg.qr(X, mode="r"))
        return {term: _scaled(R[columns]) for term, columns in at.items()}
    if kind == 2:
        return {term: _after(X, columns, _containing(design, term, at)) for term, columns in at.items()}
    return _averaged(design, at)


def _scaled(rows: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(size > 0, size, 1.0)


# ---------------------------------------------------------------- type 2
def _containing(design: Design, term: str, at: dict[str, list[int]]) -> list[int]:
    """The columns of the terms that contain this one."""
    if design.spec is None:
        return []
    matrix: ModelMatrix = design.spec.matrix
    parts = dict(zip(matrix.columns_of_terms(), matrix.terms, strict=True))

    def split(name: str) -> tuple[set[int], set[int]]:
        inside = {k for k, _ in parts[name]}
        factors = {k for k in inside if matrix.variables[k].labels is not None}
        return factors, inside - factors

    factors, numbers = split(term)
    return [
        c
        for other, columns in at.items()
        if other != term and split(other)[0] > factors and split(other)[1] == numbers
        for c in columns
    ]


def _after(X: np.ndarray, own: list[int], containing: list[int]) -> np.ndarray:
    """The rows of R of the columns ``own``, after all but those of the terms that contain them."""
    first = [c for c in range(X.shape[1]) if c not in own and c not in containing]
    order = [*first, *own, *containing]
    R = np.asarray(np.linalg.qr(X[:, order], mode="r"))
    L = np.zeros((len(own), len(order)))
    L[:, order] = R[len(first) : len(first) + len(own)]
    return _scaled(L)


# ---------------------------------------------------------------- type 3
def _averaged(design: Design, at: dict[str, list[int]]) -> Rows:
    if design.spec is None:
        return {term: np.eye(len(design.columns))[columns] for term, columns in at.items()}
    matrix: ModelMatrix = design.spec.matrix
    coded = _by_sums(matrix)
    L, where = _map(matrix, coded), int(matrix.intercept)
    kept = design.spec.kept_columns
    out = {}
    for term, columns in coded.columns_of_terms().items():
        own = L[where : where + len(columns)]
        where += len(columns)
        own = own[np.any(own != 0, axis=1)]
        rows = own[:, kept]
        gap = design.spec.excess(own)
        if gap.shape[1]:
            gap[np.abs(gap) < SAME * np.abs(own).max(axis=1, keepdims=True)] = 0.0
            rows = null_space(gap.T).T @ rows
            if not len(rows) and not _containing(design, term, at):
                rows = np.eye(len(design.columns))[at[term]]
        out[term] = _scaled(rows)
    return out


def _by_sums(matrix: ModelMatrix) -> ModelMatrix:
    """The same terms, with contrasts that sum to zero in the place of any others; indicators stay."""

    def recoded(variable: Variable, coding: Coding | None) -> Coding | None:
        if coding is None or variable.labels is None or coding.table.shape[1] == len(variable.labels):
            return coding
        table, names = sum_to_zero(variable.labels)
        return Coding(np.vstack([table, np.full((1, table.shape[1]), np.nan)]), tuple(names))

    terms = tuple(tuple((k, recoded(matrix.variables[k], c)) for k, c in term) for term in matrix.terms)
    return replace(matrix, terms=terms)


def _map(matrix: ModelMatrix, coded: ModelMatrix) -> np.ndarray:
    """X_s⁺ X (p, p), from as many random rows as it takes for X_s to have full rank, or no more with twice as many."""
    rng, p = np.random.default_rng(0), len(matrix.columns)
    n, before = 64 + int(p * (np.log(p + 1) + 8)), -1
    while True:
        values = [_drawn(v, n, rng) for v in matrix.variables]
        X, X_s = matrix.filled(values, n), coded.filled(values, n)
        kept = independent_columns(X_s)
        if len(kept) in (p, before):
            L = np.zeros((p, p))
            L[kept] = np.linalg.lstsq(X_s[:, kept], X, rcond=None)[0]
            return L
        n, before = 2 * n, len(kept)


def _drawn(variable: Variable, n: int, rng: np.random.Generator) -> Levels | Matrix | np.ndarray:
    if variable.labels is not None:
        return Levels(rng.integers(0, len(variable.labels), n), variable.labels)
    if len(variable.names) > 1:
        return Matrix(rng.normal(size=(n, len(variable.names))), variable.names)
    return rng.normal(size=n)
