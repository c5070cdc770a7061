"""The oracle: log|M| and C* from Z written out, (n, Q).  Only for small data, to test every other path against."""

from __future__ import annotations

import jax.numpy as jnp

from jaxmm._types import Array


def indicator_columns(Z: Array, codes: Array, levels: int) -> Array:
    """Z (n, q) and codes (n,) -> the full (n, levels * q) matrix, level by level."""
    n, q = Z.shape
    full = jnp.zeros((n, levels, q), Z.dtype).at[jnp.arange(n), codes].set(Z)
    return full.reshape(n, levels * q)


def reduce(lams, Z, codes, levels, Xy: Array, weights: Array) -> tuple[Array, Array]:
    """As ``elimination.reduce``, from rows: V = W^-1 + ΣZΛΛ'Z' is formed and factored, n by n."""
    V = jnp.diag(1 / weights)
    for lam, Zf, cf, J in zip(lams, Z, codes, levels, strict=True):
        ZL = indicator_columns(Zf @ lam, cf, J)
        V = V + ZL @ ZL.T
    L = jnp.linalg.cholesky(V)
    U = jnp.linalg.solve(L, Xy)
    logdet_M = 2 * jnp.sum(jnp.log(jnp.diagonal(L))) + jnp.sum(jnp.log(weights))
    return logdet_M, U.T @ U
