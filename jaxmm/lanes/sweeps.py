"""Inverses of symmetric positive definite matrices by exchanging one row after another, the lanes last.

Exchanging row k of A x = y, so that x_k is computed and y_k is given, changes A to

    A_ij - A_ik A_kj / A_kk,      A_kj / A_kk  in row k,      -A_ik / A_kk  in column k,      1 / A_kk  where they meet

(Goodnight 1979, The American Statistician 33, 149-158); after all rows A is its inverse, and the A_kk multiply to |A|.
Each exchange is one operation on the whole array: programs are short for matrices of any size, and no library's routine
is called, which would go matrix by matrix.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.solver.block_matmul import block_matmul


@jax.custom_jvp
def inverse(A: Array) -> tuple[Array, Array]:
    """A^-1 (k, k, ..) and log|A| (..) of A (k, k, ..)."""
    logdet, k = jnp.zeros(A.shape[2:], A.dtype), len(A)
    for i in range(k):
        row, column, pivot = A[i], A[:, i], A[i, i]
        here = np.arange(k).reshape(k, *[1] * (A.ndim - 2)) == i
        share = row / pivot
        inside = jnp.where(here, 1 / pivot, -column / pivot)
        A = jnp.where(here[:, None], share[None], A - column[:, None] * share[None])
        A = jnp.where(here[None], inside[:, None], A)
        logdet = logdet + jnp.log(pivot)
        A = jax.lax.optimization_barrier(A)  # or what follows computes it again wherever it is used
    return A, logdet


@inverse.defjvp
def _(primals, tangents):
    own, logdet = inverse(*primals)
    half = block_matmul(own, tangents[0])
    return (own, logdet), (-block_matmul(half, own), jnp.trace(half))
