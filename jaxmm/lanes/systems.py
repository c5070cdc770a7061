"""Sums over the rows of each level -> the systems of each lane for the closed form: one grouping factor, Gaussian
responses.

With W_l the weights of lane l, zero where a row is missing, and A_j = Z_j'W_l Z_j of level j,

    A_j = KK'    B_j = K^+ Z_j'W_l X    b_j = K^+ Z_j'W_l e      e = y - offset - X beta0,  beta0 by least squares

K by a Cholesky factorisation whose columns are zero where a direction is missing, so that levels without rows, or with
too few, are ordinary.  Nothing is subtracted but the part within levels.  What lanes share keeps a last axis of 1.

Where level j counts c_j times, K stays, B_j and b_j are √c_j times as large, log|S_j| counts c_j times, and all other
sums run over the copies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.lanes.closed_form import BlockData
from jaxmm.lanes.entrywise import Matrix, cholesky, forward
from jaxmm.solver.spd import BLOCKS

ROUNDING = 1e-14  # of a diagonal element: what rounding leaves of a direction that is not there
DEPENDENT = 1e-13  # the same of the columns of X, by their cross-products


class Squares(NamedTuple):
    """``beta0`` (p, L) and ``e`` (.., L) of least squares, ``XX`` = X'WX (p, p, ..)."""

    beta0: Array
    e: Array
    XX: Array


class Sums(NamedTuple):
    """Of each level ``ze`` (J, L) = Z_j'We of each effect; of all rows ``xe`` (L,) = X'We of each column and ``ee``
    (L,) = e'We."""

    ze: list[Array]
    xe: list[Array]
    ee: Array


def least_squares(XX: Array, y: Array, crossed: Any, less: Any) -> Squares:
    """Weighted; twice, so that a large mean leaves no rounding behind.  ``crossed`` is e -> X'We (p, L) and ``less``
    (e, b) -> e - Xb."""
    p = len(XX)
    beta0, e = jnp.zeros((p, y.shape[-1]), y.dtype), y
    if p:
        Linv = BLOCKS.inverse_root(XX)
        inverse = BLOCKS.gram(Linv)
        for _ in range(2):
            step = jnp.sum(inverse * crossed(e)[None], axis=1)
            beta0, e = beta0 + step, less(e, step)
    return Squares(beta0, e, XX)


def is_aliased(XX: Array) -> Array:
    """(L,) whether columns depend on those before them, from their cross-products (p, p, L)."""
    K = cholesky(XX, DEPENDENT)
    return jnp.any(jnp.stack([K[c, c] == 0 for c in range(len(XX))]), axis=0)


def whitened(K: Any, zx: Matrix, copies: Array | None) -> Array:
    """B (q, p, J, ..) of the cross-products ``zx`` = Z_j'WX (q, p) of (J, ..) each."""
    q = len(zx)
    if not zx[0]:
        return jnp.zeros((q, 0, *K[0][0].shape))
    B = stacked(forward(K, zx))
    return B if copies is None else jnp.sqrt(copies) * B


def made(K: Any, B: Array, sums: Sums, found: Squares, copies: Array | None) -> tuple[BlockData, Array]:
    """The data of ``closed_form``, and ``within``; ``K`` (q, q, J, ..)."""
    q, p = len(sums.ze), len(sums.xe)
    b = [r[0] for r in forward(K, [[x] for x in sums.ze])]
    if copies is not None:
        b = [jnp.sqrt(copies) * x for x in b]
    xy = [x - sum(jnp.sum(B[a, c] * b[a], axis=0) for a in range(q)) for c, x in enumerate(sums.xe)]
    yy = sums.ee - sum(jnp.sum(x * x, axis=0) for x in b)
    between = symmetric(lambda c, d: sum(jnp.sum(B[a, c] * B[a, d], axis=0) for a in range(q)), p)
    data = BlockData(jnp.stack(b), None, jnp.stack(xy) if p else jnp.zeros_like(found.beta0), yy, found.beta0)
    return data, found.XX - between


def symmetric(entry: Any, n: int) -> Array:
    """(n, n, ..) from (a, b) -> the entry there, b <= a."""
    if not n:
        return jnp.zeros((0, 0, 1))
    rows = [[entry(a, b) for b in range(a + 1)] for a in range(n)]
    return jnp.stack([jnp.stack([rows[max(a, b)][min(a, b)] for b in range(n)]) for a in range(n)])


def stacked(A: Matrix) -> Array:
    return jnp.stack([jnp.stack(r) for r in A])
