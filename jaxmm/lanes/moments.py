"""Joint moments of one factor, lane by lane: where the search of a linear model begins; see ``start``.

The equations of ``start.moment_equations`` where each lane has systems of its own; and D, however it was solved for,
-> theta.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.lanes.advance import eigh
from jaxmm.lanes.closed_form import BlockData, Systems
from jaxmm.lanes.entrywise import cholesky, invert, lower_pairs, solve_semidefinite
from jaxmm.start import LARGEST_SD, LEAST_SD, WEIGHT, error_variance


def theta_near(D: Array, gram: Gram) -> Array:
    """theta (m, L) of effects whose covariance is D (q, q, L), relative to the error's, as far as it is one."""
    w, Q = eigh(0.5 * (D + jnp.swapaxes(D, 0, 1)))
    root = Q * jnp.clip(jnp.sqrt(jnp.maximum(w, 0.0)), LEAST_SD, LARGEST_SD)
    terms = gram.structure.terms
    rows = [root[t.at : t.at + t.covariance.q] for t in terms]
    theta: list[Any] = [
        t.covariance.from_lower(cholesky(jnp.sum(own[:, None] * own[None], axis=2)), at)
        for t, own, at in zip(terms, rows, gram.inputs, strict=True)
    ]
    return jnp.concatenate(theta)


def moments_of_systems(own: Systems, data: BlockData, gram: Gram) -> Array:
    """theta (m, L); ``data`` without a collapse.

    Sums over levels are written as few large products: entry by entry they take thrice as long to compile."""
    K, counts, q = own.K, own.counts, len(own.K)
    A = jnp.sum(K[:, None] * K[None], axis=2)
    scaled = WEIGHT * A + jnp.eye(q)[:, :, None, None]
    _, inverse = invert([[scaled[a, b] for b in range(q)] for a in range(q)])
    R = WEIGHT * jnp.stack([jnp.stack(r) for r in inverse])  # (A + I/v)^-1
    G = jnp.sum(R[:, :, None] * A[None], axis=1)
    G, R, counts = jax.lax.optimization_barrier((G, R, counts))
    h = jnp.sum(R[:, :, None] * (K * data.b[None])[None], axis=(1, 2))
    rank = jnp.sum(counts * sum(1.0 * (K[a, a] > 0) for a in range(q)), axis=0)
    every = jnp.maximum(data.yy + jnp.sum(data.b * data.b, axis=(0, 1)), 1e-300)
    sigma2 = error_variance(data.yy, every, own.n_obs, own.n_obs - rank, jnp)
    noise = jnp.sum(counts * jnp.sum(G[:, :, None] * R[None], axis=1), axis=2)
    left = jnp.sum(h[:, None] * h[None], axis=2) / sigma2 - noise
    return theta_near(_solved(jnp.sum(counts * (G[:, None, :, None] * G[None, :, None]), axis=4), left, gram), gram)


def _solved(M: Array, left: Array, gram: Gram) -> Array:
    """D (q, q, L) with Σ_cd M_abcd D_cd = ``left``_ab, for what of D may differ from zero."""
    pairs = [pair for pair in lower_pairs(len(M)) if free_effects(gram)[pair]]
    a, b = np.array(pairs).T
    # as to an orthonormal basis of the symmetric matrices, so that the equations are symmetric
    unit = np.where(a == b, 1.0, np.sqrt(2.0))
    rows, columns = (a[:, None], b[:, None]), (a[None], b[None])
    both = 0.5 * (M[(*rows, *columns)] + M[(*rows, *columns[::-1])])
    solved = solve_semidefinite(
        both * (unit[:, None] * unit)[:, :, None], [u * left[i, k] for u, i, k in zip(unit, a, b, strict=True)]
    )
    D = jnp.zeros(left.shape)
    for x, u, i, k in zip(solved, unit, a, b, strict=True):
        D = D.at[i, k].set(x / u).at[k, i].set(x / u)
    return D


def free_effects(gram: Gram) -> np.ndarray:
    """(q, q) which variances and covariances of the one factor may differ from zero."""
    free = np.zeros((gram.structure.chain[0],) * 2, bool)
    for term, at in zip(gram.structure.terms, gram.inputs, strict=True):
        own = np.arange(term.at, term.at + term.covariance.q)
        free[np.ix_(own, own)] |= term.covariance.free(at)
    return free
