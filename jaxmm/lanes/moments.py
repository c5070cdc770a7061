"""Joint moments of one factor, lane by lane: where the search of a linear model begins; see ``start``.

The equations of ``start.moment_equations`` where each lane has systems of its own; and D, however it was solved for,
-> theta.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.lanes.advance import eigh
from jaxmm.lanes.closed_form import BlockData, Systems
from jaxmm.lanes.entrywise import Matrix, cholesky, dot, invert, lower_pairs, solve_semidefinite, times
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
    """theta (m, L); ``data`` without a collapse."""
    q, L = len(own.K), data.yy.shape[-1]
    K = [[own.K[a, b] for b in range(q)] for a in range(q)]
    A = times(K, [list(r) for r in zip(*K, strict=True)])
    _, R = invert([[WEIGHT * A[a][b] + (1.0 if a == b else 0.0) for b in range(q)] for a in range(q)])
    R = [[WEIGHT * x for x in r] for r in R]  # (A + I/v)^-1
    G, h = times(R, A), times(R, times(K, [[x] for x in data.b]))
    counts = own.counts

    def total(x: Any) -> Array:
        return jnp.sum(counts * x, axis=0)

    rank = total(sum(1.0 * (K[a][a] > 0) for a in range(q)))
    noise = times_total(G, R, total)
    every = jnp.maximum(data.yy + jnp.sum(data.b * data.b, axis=(0, 1)), 1e-300)
    sigma2 = error_variance(data.yy, every, own.n_obs, own.n_obs - rank, jnp)
    left = [[jnp.sum(h[a][0] * h[b][0], axis=0) / sigma2 - noise[a][b] for b in range(q)] for a in range(q)]
    pairs = [p for p in lower_pairs(q) if free_effects(gram)[p]]
    # as to an orthonormal basis of the symmetric matrices, so that the equations are symmetric
    unit = [1.0 if a == b else np.sqrt(2.0) for a, b in pairs]
    M: list[list[Any]] = [[None] * len(pairs) for _ in pairs]
    for i, (a, b) in enumerate(pairs):
        for k, (c, d) in enumerate(pairs[: i + 1]):
            both = G[a][c] * G[b][d] + G[a][d] * G[b][c]
            M[i][k] = M[k][i] = total(both) * (0.5 * unit[i] * unit[k])
    solved = solve_semidefinite(
        jnp.stack([jnp.stack(r) for r in M]), [u * left[a][b] for u, (a, b) in zip(unit, pairs, strict=True)]
    )
    D = jnp.zeros((q, q, L))
    for x, u, (a, b) in zip(solved, unit, pairs, strict=True):
        D = D.at[a, b].set(x / u).at[b, a].set(x / u)
    return theta_near(D, gram)


def times_total(A: Matrix, B: Matrix, total: Any) -> Matrix:
    """The entries of AB, summed over the levels."""
    return [[total(dot(r, [x[j] for x in B])) for j in range(len(B[0]))] for r in A]


def free_effects(gram: Gram) -> np.ndarray:
    """(q, q) which variances and covariances of the one factor may differ from zero."""
    free = np.zeros((gram.structure.chain[0],) * 2, bool)
    for term, at in zip(gram.structure.terms, gram.inputs, strict=True):
        own = np.arange(term.at, term.at + term.covariance.q)
        free[np.ix_(own, own)] |= term.covariance.free(at)
    return free
