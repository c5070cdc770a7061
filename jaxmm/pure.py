"""Rows of a linear model -> ``Gram``: a pure function of y, weights and offset, to be differentiated by these.

    e = y - offset - X_s beta0,    [Z X_s e]'W[Z X_s e],    Σ c and Σ c log w over the rows

with W = diag(c w): w are precisions, Var ε = σ²/w, and c is how often each row counts: its density given the random
effects to the power c, so that c goes from one to zero as a row leaves the model.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.rows import Rows
from jaxmm.solver import spd
from jaxmm.solver.spd import DENSE


def least_squares(rows: Rows, W: Array, e: Array) -> tuple[Array, Array]:
    """beta0 (p,) and e - X_s beta0, of e and weights (H, P); twice, so that a large mean leaves no rounding behind."""
    X, beta0 = rows.X, jnp.zeros(len(rows.X), e.dtype)
    if len(X):
        XX = jnp.tensordot(X * W, X, ((1, 2), (1, 2)))
        root = DENSE.factor(XX)
        for _ in range(2):
            step = spd.solve(DENSE, XX, root, jnp.tensordot(X, W * e, 2)[:, None])[:, 0]
            beta0, e = beta0 + step, e - jnp.tensordot(step, X, 1)
    return beta0, e


def gram_from_rows(
    shared: Gram,
    rows: Rows,
    y: Array | None = None,
    weights: Array | None = None,
    offset: Array | None = None,
    counts: Array | None = None,
) -> Gram:
    """``shared`` with cross-products of its own; (n,) each, in the order of the data, None for what the rows have.

    A row of weight zero does not count.
    ``counts`` keep beta0: what has left the model changes it no more.
    """
    real = rows.weights > 0  # what fills the pieces weighs nothing
    e = (rows.y if y is None else y[rows.source]) - (rows.offset if offset is None else offset[rows.source])
    w = rows.weights if weights is None else jnp.where(real, weights[rows.source], 0.0)
    there = w > 0
    logs = jnp.where(there, jnp.log(jnp.where(there, w, 1.0)), 0.0)
    if counts is None:
        beta0, e = least_squares(rows, w, e)
        n_obs, sum_log = shared.n_obs if weights is None else jnp.sum(there, dtype=w.dtype), jnp.sum(logs)
    else:
        c = jnp.where(real, counts[rows.source], 0.0)
        beta0, e = shared.beta0, e - jnp.tensordot(shared.beta0, rows.X, 1)
        n_obs, sum_log, w = jnp.sum(counts), jnp.sum(c * logs), w * c
    couplings = shared.structure.solver.of_rows(rows, (w,), jnp.concatenate([rows.X, e[None]]))
    return replace(shared, couplings=couplings, beta0=beta0, n_obs=n_obs, sum_log_weights=sum_log)
