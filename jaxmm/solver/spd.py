"""Symmetric positive definite systems, factored once and differentiated without differentiating the factorisation.

Given M and the inverse Linv = L^-1 of its Cholesky factor M = LL', with U = Linv R and X = M^-1 R:

    logdet(M)       =  -2 sum log diag Linv         d = tr(M^-1 dM)
    solve(M, R)     =  Linv' Linv R                 d = M^-1 (dR - dM X)
    quad(M, R)      =  U'U, summed over levels      d = dR'X + X'dR - X'dM X
    product(M,R,S)  =  (Linv R)'(Linv S), per level d = dR'X_S + X_R'dS - X_R'dM X_S

The right-hand sides are made of the same functions, so derivatives of every order follow and none sees the
Cholesky; Linv is a constant that stands beside M and is reused by all of them.  (The derivative of an unrolled
4 x 4 Cholesky took 18 s to compile; this takes a fraction of one.)

The formulas hold for two kinds of M, told apart by an ``Algebra``: ``DENSE``, one matrix (k, k), and ``BLOCKS``,
one small matrix per level with the levels last, (q, q, J).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.solver.block_matmul import block_matmul


@dataclass(frozen=True)
class Algebra:
    """Products of one kind of matrix.

    ``mm``: A B; ``t``: A'; ``tdot``: A'B summed over levels; ``inverse_root``: M -> Linv; ``gram``: Linv -> Linv'Linv.
    """

    name: str
    mm: Callable[[Array, Array], Array]
    t: Callable[[Array], Array]
    tdot: Callable[[Array, Array], Array]
    inverse_root: Callable[[Array], Array]
    gram: Callable[[Array], Array]
    diagonal: Callable[[Array], Array]

    def factor(self, M: Array) -> Array:
        """Linv of M; a constant to every derivative."""
        return self.inverse_root(jax.lax.stop_gradient(M))


# ---------------------------------------------------------------- small blocks, levels last


def _block_transpose(A: Array) -> Array:
    return jnp.swapaxes(A, 0, 1)


def _block_tdot(A: Array, B: Array) -> Array:
    if A.shape[1] * B.shape[1] <= 256:
        return jnp.sum(block_matmul(_block_transpose(A), B), axis=-1)
    return jnp.einsum("aij,akj->ik", A, B)  # many columns: one large product instead


def _block_diagonal(A: Array) -> Array:
    """(q, ..); element by element where there are few, as a gather compiles in less time where there are many."""
    if len(A) > costs.UNROLLED_ROOT:
        return jnp.moveaxis(jnp.diagonal(A), -1, 0)
    return jnp.stack([A[k, k] for k in range(len(A))])


def _block_inverse_root(M: Array) -> Array:
    """Cholesky and inversion of its factor entry by entry, each entry a vector over the levels."""
    q = M.shape[0]
    if q > costs.CHOLESKY_LEAF and M.shape[-1] == 1:
        return _dense_inverse_root(M[:, :, 0])[:, :, None]
    if q > costs.UNROLLED_ROOT:
        factor = jnp.linalg.cholesky(jnp.moveaxis(M, -1, 0))
        eye = jnp.broadcast_to(jnp.eye(q, dtype=M.dtype), factor.shape)
        return jnp.moveaxis(jax.lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True), 0, -1)
    L: list[list[Array]] = [[M[0, 0]] * q for _ in range(q)]
    X: list[list[Array]] = [[jnp.zeros_like(M[0, 0])] * q for _ in range(q)]
    for k in range(q):
        pivot = M[k, k]
        for s in range(k):
            pivot = pivot - L[k][s] * L[k][s]
        X[k][k] = jax.lax.rsqrt(pivot)
        for i in range(k + 1, q):
            value = M[i, k]
            for s in range(k):
                value = value - L[i][s] * L[k][s]
            L[i][k] = value * X[k][k]
        # keeps XLA from computing a column again wherever it is used
        column = jax.lax.optimization_barrier([L[i][k] for i in range(k + 1, q)] + [X[k][k]])
        for i in range(k + 1, q):
            L[i][k] = column[i - k - 1]
        X[k][k] = column[-1]
        for j in range(k):
            value = L[k][j] * X[j][j]
            for s in range(j + 1, k):
                value = value + L[k][s] * X[s][j]
            X[k][j] = -value * X[k][k]
    return jnp.stack([jnp.stack(row) for row in X])


BLOCKS = Algebra(
    name="blocks",
    mm=block_matmul,
    t=_block_transpose,
    tdot=_block_tdot,
    inverse_root=_block_inverse_root,
    gram=lambda Linv: block_matmul(_block_transpose(Linv), Linv),
    diagonal=_block_diagonal,
)


# ---------------------------------------------------------------- one dense matrix


def _dense_inverse_root(M: Array) -> Array:
    """L^-1 of M = LL' by halves, so that all but small blocks are products of matrices.

    With M = [[A, .], [B, C]] and A = L_A L_A': L = [[L_A, 0], [W, L_S]], W = B L_A^-T, S = C - WW' = L_S L_S', and
    L^-1 = [[L_A^-1, 0], [-L_S^-1 W L_A^-1, L_S^-1]].  As fast as the library's Cholesky and a triangular solve on an
    idle machine, and many times faster on a busy one, where the threads of that library wait for each other.
    """
    n = M.shape[-1]
    if n <= costs.CHOLESKY_LEAF:
        L = jnp.linalg.cholesky(M, symmetrize_input=False)
        return jax.lax.linalg.triangular_solve(L, jnp.eye(n, dtype=M.dtype), left_side=True, lower=True)
    h = n // 2
    top = _dense_inverse_root(M[:h, :h])
    W = M[h:, :h] @ top.T
    bottom = _dense_inverse_root(M[h:, h:] - W @ W.T)
    return jnp.block([[top, jnp.zeros((h, n - h), M.dtype)], [-bottom @ (W @ top), bottom]])


def _triangular_gram(L: Array) -> Array:
    """L'L for lower triangular L, a third of the work of a full product."""
    n = L.shape[-1]
    if n <= 192:
        return L.T @ L
    h = n // 2
    below, bottom = L[h:, :h], L[h:, h:]
    corner = bottom.T @ below
    return jnp.block([[_triangular_gram(L[:h, :h]) + below.T @ below, corner.T], [corner, _triangular_gram(bottom)]])


DENSE = Algebra(
    name="dense",
    mm=jnp.matmul,
    t=jnp.transpose,
    tdot=lambda A, B: A.T @ B,
    inverse_root=_dense_inverse_root,
    gram=_triangular_gram,
    diagonal=jnp.diagonal,
)


# ---------------------------------------------------------------- the four functions
def _told(tangent: Array | SymbolicZero) -> bool:
    return not isinstance(tangent, SymbolicZero)


def _total(terms: list[Array], like: Array) -> Array:
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(like)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def inverse(alg: Algebra, M: Array, Linv: Array) -> Array:
    """M^-1 from its factor."""
    return alg.gram(Linv)


@partial(inverse.defjvp, symbolic_zeros=True)
def _(alg, primals, tangents):
    Minv = inverse(alg, *primals)
    if not _told(tangents[0]):
        return Minv, jnp.zeros_like(Minv)
    return Minv, -alg.mm(alg.mm(Minv, tangents[0]), Minv)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def logdet(alg: Algebra, M: Array, Linv: Array) -> Array:
    """log|M|, summed over levels."""
    return -2.0 * jnp.sum(jnp.log(alg.diagonal(Linv)))


@partial(logdet.defjvp, symbolic_zeros=True)
def _(alg, primals, tangents):
    value = logdet(alg, *primals)
    if not _told(tangents[0]):
        return value, jnp.zeros_like(value)
    return value, jnp.sum(inverse(alg, *primals) * tangents[0])


@jax.custom_jvp
def inverse_root(M: Array) -> Array:
    """L^-1 of each block, M = LL', to be differentiated: with N = L^-1 dM L^-T, d L^-1 = -low(N) L^-1, where low takes
    the lower triangle and half of the diagonal (Murray 2016, arXiv:1602.07527, eq. 8)."""
    return BLOCKS.inverse_root(M)


@inverse_root.defjvp
def _(primals, tangents):
    Linv = inverse_root(*primals)
    N = products(products(Linv, tangents[0]), _block_transpose(Linv))
    q = len(Linv)
    low = jnp.tril(jnp.ones((q, q), Linv.dtype), -1) + 0.5 * jnp.eye(q, dtype=Linv.dtype)
    return Linv, -products(N * low[:, :, None], Linv)


def products(A: Array, B: Array) -> Array:
    """A B of each block: written out over the blocks along a short inner axis, along a longer one block by block."""
    if A.shape[1] <= costs.UNROLLED_BLOCKS:
        return block_matmul(A, B)
    return jnp.moveaxis(jnp.moveaxis(A, -1, 0) @ jnp.moveaxis(B, -1, 0), 0, -1)


@jax.custom_jvp
def logdets(M: Array, Linv: Array) -> Array:
    """log|M_j| of each block: (J,)."""
    return -2.0 * jnp.sum(jnp.log(BLOCKS.diagonal(Linv)), axis=0)


@partial(logdets.defjvp, symbolic_zeros=True)
def _(primals, tangents):
    value = logdets(*primals)
    if not _told(tangents[0]):
        return value, jnp.zeros_like(value)
    return value, jnp.sum(inverse(BLOCKS, *primals) * tangents[0], axis=(0, 1))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve(alg: Algebra, M: Array, Linv: Array, R: Array) -> Array:
    """M^-1 R."""
    return alg.mm(alg.t(Linv), alg.mm(Linv, R))


@partial(solve.defjvp, symbolic_zeros=True)
def _(alg, primals, tangents):
    M, Linv, R = primals
    dM, _, dR = tangents
    X = solve(alg, M, Linv, R)
    right = [dR] if _told(dR) else []
    if _told(dM):
        right.append(-alg.mm(dM, X))
    # the inverse, not another solve: a transposed solve would be taken for Linv'Linv with Linv constant, and the
    # next derivative would miss the part of M
    return X, alg.mm(inverse(alg, M, Linv), _total(right, R)) if right else jnp.zeros_like(X)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def quad(alg: Algebra, M: Array, Linv: Array, R: Array) -> Array:
    """R'M^-1 R, summed over levels: as U'U, which cancels less than R'X."""
    U = alg.mm(Linv, R)
    return alg.tdot(U, U)


@partial(quad.defjvp, symbolic_zeros=True)
def _(alg, primals, tangents):
    M, Linv, R = primals
    dM, _, dR = tangents
    value = quad(alg, M, Linv, R)
    X = solve(alg, M, Linv, R)
    terms = []
    if _told(dR):
        half = alg.tdot(X, dR)
        terms.append(half + half.T)
    if _told(dM):
        terms.append(-alg.tdot(X, alg.mm(dM, X)))
    return value, _total(terms, value)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def product(alg: Algebra, M: Array, Linv: Array, R: Array, S: Array) -> Array:
    """R'M^-1 S for each level."""
    return alg.mm(alg.t(alg.mm(Linv, R)), alg.mm(Linv, S))


@partial(product.defjvp, symbolic_zeros=True)
def _(alg, primals, tangents):
    M, Linv, R, S = primals
    dM, _, dR, dS = tangents
    value = product(alg, M, Linv, R, S)
    XR, XS = solve(alg, M, Linv, R), solve(alg, M, Linv, S)
    terms = []
    if _told(dR):
        terms.append(alg.mm(alg.t(dR), XS))
    if _told(dS):
        terms.append(alg.mm(alg.t(XR), dS))
    if _told(dM):
        terms.append(-alg.mm(alg.t(XR), alg.mm(dM, XS)))
    return value, _total(terms, value)
