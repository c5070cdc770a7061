"""Rows of levels in a table -> the systems of each lane for the closed form: one grouping factor, Gaussian responses.

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


class Table(NamedTuple):
    """Rows in P pieces of H rows, each of one level; ``level`` (P,) tells which of the ``levels``, None where piece k
    is level k.  ``y`` (H, P, L) less the offset, ``W`` (H, P, ..) with zeros where there is no row, ``X`` and ``Z`` of
    columns (H, P, ..) each; the last axis is 1 where the lanes share it.  y, X and Z are finite everywhere."""

    y: Array
    W: Array
    X: list[Array]
    Z: list[Array]
    level: Array | None
    levels: int

    def collect(self, x: Array) -> Array:
        """Sums over the rows of each level: (H, P, ..) -> (J, ..)."""
        x = jnp.sum(x, axis=0)
        if self.level is None:
            return x
        empty = jnp.zeros((self.levels, *x.shape[1:]), x.dtype)
        return empty.at[self.level].add(x, indices_are_sorted=True, mode="promise_in_bounds")


class Squares(NamedTuple):
    """``beta0`` (p, L) and ``e`` (H, P, L) of least squares, ``XX`` = X'WX (p, p, ..)."""

    beta0: Array
    e: Array
    XX: Array


def cross_products(t: Table, copies: Array | None) -> Array:
    """X'WX (p, p, ..)."""
    return symmetric(lambda c, d: _over(t, t.W * t.X[c] * t.X[d], copies), len(t.X))


def least_squares(t: Table, copies: Array | None) -> Squares:
    """Weighted; twice, so that a large mean leaves no rounding behind.  ``copies`` (J, L)."""
    p, L = len(t.X), t.y.shape[-1]
    WX = [t.W * x for x in t.X]
    XX = cross_products(t, copies)
    beta0, e = jnp.zeros((p, L), t.y.dtype), t.y
    if p:
        Linv = BLOCKS.inverse_root(XX)
        inverse = BLOCKS.gram(Linv)
        for _ in range(2):
            right = jnp.stack([_over(t, x * e, copies) for x in WX])
            step = jnp.sum(inverse * right[None], axis=1)
            beta0, e = beta0 + step, e - sum(x * b for x, b in zip(t.X, step, strict=True))
    return Squares(beta0, e, XX)


def is_aliased(XX: Array) -> Array:
    """(L,) whether columns depend on those before them, from their cross-products (p, p, L)."""
    K = cholesky(XX, DEPENDENT)
    return jnp.any(jnp.stack([K[c, c] == 0 for c in range(len(XX))]), axis=0)


def made(t: Table, found: Squares, copies: Array | None, K: Array | None) -> tuple[Array, Array, BlockData, Array]:
    """``K`` (q, q, J, ..), made where it is None, ``B`` (q, p, J, ..), the data of ``closed_form``, and ``within``."""
    q, p, e = len(t.Z), len(t.X), found.e
    WZ = [t.W * z for z in t.Z]
    root_A: Any = K
    if K is None:
        root_A = cholesky(symmetric(lambda a, b: t.collect(WZ[a] * t.Z[b]), q), ROUNDING)
    zx = [[t.collect(z * x) for x in t.X] for z in WZ]
    root = 1.0 if copies is None else jnp.sqrt(copies)
    B, b = ([[root * x for x in r] for r in forward(root_A, Y)] for Y in (zx, [[t.collect(z * e)] for z in WZ]))
    We = t.W * e
    xy = [
        _over(t, x * We, copies) - sum(jnp.sum(B[a][c] * b[a][0], axis=0) for a in range(q)) for c, x in enumerate(t.X)
    ]
    yy = _over(t, e * We, copies) - sum(jnp.sum(r[0] * r[0], axis=0) for r in b)
    between = symmetric(lambda c, d: sum(jnp.sum(r[c] * r[d], axis=0) for r in B), p)
    data = BlockData(_stacked(b)[:, 0], None, jnp.stack(xy) if p else jnp.zeros_like(found.beta0), yy, found.beta0)
    return root_A, _stacked(B) if p else jnp.zeros((q, 0, *root_A.shape[2:])), data, found.XX - between


def symmetric(entry: Any, n: int) -> Array:
    """(n, n, ..) from (a, b) -> the entry there, b <= a."""
    if not n:
        return jnp.zeros((0, 0, 1))
    rows = [[entry(a, b) for b in range(a + 1)] for a in range(n)]
    return jnp.stack([jnp.stack([rows[max(a, b)][min(a, b)] for b in range(n)]) for a in range(n)])


def _over(t: Table, x: Array, copies: Array | None) -> Array:
    """The sum over all rows (H, P, ..), of levels that count ``copies`` (J, L) times."""
    return jnp.sum(x, axis=(0, 1)) if copies is None else jnp.sum(copies * t.collect(x), axis=0)


def _stacked(A: Matrix) -> Array:
    return jnp.stack([jnp.stack(r) for r in A])
