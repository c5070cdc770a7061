"""Small matrices written out entry by entry, where each entry is an array over levels and lanes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.covariance._base import namespace
from jaxmm.objective.parameters import scaled_factors
from jaxmm.solver.spd import BLOCKS

Matrix = list[list[Array]]  # a small matrix entry by entry, each over levels and lanes


def times(A: Matrix, B: Matrix) -> Matrix:
    return [[dot([A[i][k] for k in range(len(B))], [r[j] for r in B]) for j in range(len(B[0]))] for i in range(len(A))]


def dot(a: list, b: list) -> Array:
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def transpose(A: Matrix) -> Matrix:
    return [list(r) for r in zip(*A, strict=True)]


def lower_pairs(n: int) -> list[tuple[int, int]]:
    """The entries (a, b) of a symmetric matrix that tell all of it: b <= a."""
    return [(a, b) for a in range(n) for b in range(a + 1)]


def unpacked(packed: Array, n: int) -> Matrix:
    """Of a symmetric matrix the ``lower_pairs``, on the first axis -> entry by entry."""
    at = {pair: k for k, pair in enumerate(lower_pairs(n))}
    return [[packed[at[max(a, b), min(a, b)]] for b in range(n)] for a in range(n)]


def invert(S: Matrix) -> tuple[Array, Matrix]:
    """|S| and S^-1 of S = I + (positive semidefinite), by elimination entry by entry."""
    q = len(S)
    if q == 1:
        return S[0][0], [[1 / S[0][0]]]
    if q == 2:
        det = S[0][0] * S[1][1] - S[1][0] * S[1][0]
        r = 1 / det
        off = -S[1][0] * r
        return det, [[S[1][1] * r, off], [off, S[0][0] * r]]
    X = BLOCKS.inverse_root(jnp.stack([jnp.stack(r) for r in S]))
    inverse = BLOCKS.gram(X)
    diagonal = jnp.prod(jnp.stack([X[k, k] for k in range(q)]), axis=0)
    return 1 / (diagonal * diagonal), [[inverse[a, b] for b in range(q)] for a in range(q)]


def cholesky(A: Any, least: float = 1e-12) -> Any:
    """L with LL' = A for positive semidefinite A (q, q, ..), column by column; a column of zeros where a direction is
    missing: what is left of A_kk is at most ``least`` of it.  An array of NumPy or of JAX as A is."""
    xp, q = namespace(A), len(A)
    L = [[xp.zeros_like(A[0, 0])] * q for _ in range(q)]
    for k in range(q):
        pivot = A[k, k] - sum((L[k][c] ** 2 for c in range(k)), xp.zeros_like(A[0, 0]))
        real = pivot > least * A[k, k]
        L[k][k] = xp.sqrt(xp.where(real, pivot, 0.0))
        for i in range(k + 1, q):
            value = A[i, k] - sum((L[i][c] * L[k][c] for c in range(k)), xp.zeros_like(A[0, 0]))
            L[i][k] = xp.where(real, value / xp.where(real, L[k][k], 1.0), 0.0)
    return xp.stack([xp.stack(r) for r in L])


def forward(L: Any, Y: Matrix) -> Matrix:
    """L^+ Y for L (q, q, ..) of ``cholesky`` and Y in its range: substitution that skips what is missing."""
    xp, rows = namespace(L), []
    for a, row in enumerate(Y):
        there = L[a, a] > 0
        unit = xp.where(there, 1.0 / xp.where(there, L[a, a], 1.0), 0.0)
        rows.append([unit * (y - sum(L[a, k] * r[c] for k, r in enumerate(rows))) for c, y in enumerate(row)])
    return rows


def solve_semidefinite(A: Any, y: list[Any]) -> list[Any]:
    """x with Ax = y for positive semidefinite A (q, q, ..) and y in its range, zero where a direction is missing."""
    L = cholesky(A)
    half = [row[0] for row in forward(L, [[x] for x in y])]
    # L' from below: the transposed in the opposite order
    backward = jnp.swapaxes(L, 0, 1)[::-1, ::-1]
    return [row[0] for row in forward(backward, [[x] for x in half[::-1]])][::-1]


def cells_of_factor(arrays: Any) -> tuple[tuple[int, int], ...] | None:
    """Of one factor: the entry (row, column) of λ that each element of theta is; None where it is another function of
    theta, or has a column of zeros.  On the host."""
    out, m = [], arrays.structure.num_theta
    for k in range(m):
        lam = scaled_factors(np.eye(m)[k], arrays)[0]  # pyright: ignore
        at = np.argwhere(np.asarray(lam))
        if len(at) != 1 or np.asarray(lam)[tuple(at[0])] != 1.0:
            return None
        out.append((int(at[0][0]), int(at[0][1])))
    total = np.asarray(scaled_factors(2.0 * np.ones(m), arrays)[0])  # pyright: ignore
    plain = total.sum() == 2.0 * len(out) == 2.0 * len(set(out)) and total.any(axis=0).all()
    return tuple(out) if plain else None
