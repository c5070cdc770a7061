"""Sums over the subjects of each pattern -> [X y]'C^-1[X y] at any parameters, where there are no random effects.

With P_k = C_k^-1 of pattern k and x_is the row [X y] of subject i in slot s,

    [X y]'C^-1[X y]  =  Σ_k Σ_st P_k,st S_k,st        S_k,st = Σ_i x_is x_it'        over the subjects i of pattern k

so that one product of P, as a row, with a matrix of sums is all: its size does not depend on how many subjects there
are, and its derivatives are products of the same matrix.  P_k is symmetric: the pairs s <= t are enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._compiled import Program
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.residual.patterns import Patterns, Subjects, rounded
from jaxmm.solver import spd
from jaxmm.solver.block_matmul import block_matmul
from jaxmm.solver.spd import BLOCKS, DENSE
from jaxmm.structure import Structure


@partial(jax.tree_util.register_dataclass, data_fields=["patterns", "sums", "cells", "counts"], meta_fields=[])
@dataclass(frozen=True)
class PatternSums:
    """``sums`` (C, c(c + 1)/2), c = p + 1, of the pairs of columns, in each of the ``cells`` (3, C): slots s <= t and a
    pattern that has rows in both; ``counts`` (K,) of subjects."""

    patterns: Patterns
    sums: Array
    cells: Array
    counts: Array

    how = "sums of each"
    has_expected = True
    size = np.inf  # for the compiler: a fit takes milliseconds, and few programs are as small

    @property
    def work(self) -> int:
        """Numbers that an evaluation goes through, of those whose Hessian may be too dear; see ``expected``."""
        return int(np.prod(self.sums.shape))

    def gram(self, rho: Array, gram: Gram) -> Gram:
        """The statistics at ``rho``, of errors that are independent."""
        return self.whitened(self.covariances(rho), gram)

    def covariances(self, rho: Array) -> Array:
        """C (H, H, K)."""
        return self.patterns.covariances(self.patterns.layout.split(rho)[0])

    def whitened(self, C: Array, gram: Gram) -> Gram:
        """``gram`` for errors with covariances that are given."""
        s = gram.structure
        Linv = BLOCKS.factor(C)
        P, logdet = spd.inverse(BLOCKS, C, Linv), jnp.sum(self.counts * spd.logdets(C, Linv))
        flat = P[self.cells[0], self.cells[1], self.cells[2]] @ self.sums
        square = flat[places_of_packed(s.p + 1)]
        couplings = s.solver.with_response(gram, (), square[:-1, -1], square[-1, -1], square[:-1, :-1]).couplings
        return replace(gram, couplings=couplings, sum_log_weights=gram.sum_log_weights - logdet, residual=None)

    def expected(self, rho: Array) -> Array:
        """(k, k) the expected Hessian of -2 log-likelihood by ``rho``, σ² profiled and fixed effects aside:

        Σ tr P C_i P C_j - Σ tr P C_i Σ tr P C_j / n        over the subjects
        """
        C, dC = self.covariances(rho), jax.jacfwd(self.covariances)(rho)
        own = _times(spd.inverse(BLOCKS, C, BLOCKS.factor(C)), dC)  # (H, H, K, k)
        counted = own * self.counts[:, None]
        both = _by_parameter(jnp.swapaxes(own, 0, 1)).T @ _by_parameter(counted)
        trace = jnp.einsum("hhki->i", counted)
        return both - jnp.outer(trace, trace) / jnp.sum(self.counts * jnp.sum(self.patterns.there, axis=0))

    def has_hessian(self, structure: Structure) -> bool:
        """Whether there is room for what ``hessian`` makes, of a model that has one."""
        k, (H, K) = structure.num_theta, self.patterns.there.shape
        return structure.profiles_sigma and k > 0 and H * H * K * k <= costs.PATTERN_HESSIAN

    def hessian(self, rho: Array, gram: Gram, restricted: Array) -> Array:
        """(k, k) that of the profiled deviance, ``restricted`` as ``objective.lmm`` takes it; as autodiff has it.

        With A = [X y]'C^-1[X y], M its part of X, β = M^-1 A_Xy, a = (-β, 1), r² = a'Aa and df = n - p or n,

            f  =  df log r² + Σ n_k log|C_k| + log|M|
            V_i = P C_i P        Y_i = ∂_i A = -Σ V_i,st S_st        Q_st = df/r² a'S_st a + tr(M^-1 S_XX,st)

            ∂_ij f  =  Σ tr V_i C_j (2 P Q - n_k) + Σ tr C_ij (n_k P - P Q P)
                       - 2 df/r² (Y_i a)_X' M^-1 (Y_j a)_X - df/r⁴ a'Y_i a a'Y_j a - tr M^-1 Y_i,XX M^-1 Y_j,XX

        over the patterns k; by ML without what has M^-1 S and the last.
        """
        p, (i, j, k), n = gram.structure.p, self.cells, self.counts
        C, dC = self.covariances(rho), jax.jacfwd(self.covariances)(rho)
        P, places = spd.inverse(BLOCKS, C, BLOCKS.factor(C)), places_of_packed(p + 1)
        A = (P[i, j, k] @ self.sums)[places]
        M = spd.inverse(DENSE, A[:p, :p], DENSE.factor(A[:p, :p])) if p else A[:p, :p]
        a = jnp.concatenate([-M @ A[:p, -1], jnp.ones(1, A.dtype)])
        df = gram.n_obs - restricted * p
        scale = df / (a @ A @ a)
        s, t = np.triu_indices(p + 1)
        both = np.where(s == t, 1.0, 2.0) * (scale * a[s] * a[t] + restricted * jnp.pad(M, (0, 1))[s, t])
        half = 0.5 * (self.sums @ both)
        Q = jnp.zeros_like(C).at[i, j, k].add(half).at[j, i, k].add(half)
        PQ, eye = block_matmul(P, Q), jnp.eye(len(C), dtype=C.dtype)[:, :, None]
        V = _times(P, jnp.swapaxes(_times(P, dC), 0, 1))
        first = _by_parameter(V).T @ _by_parameter(_times(2 * jnp.swapaxes(PQ, 0, 1) - n * eye, dC))
        slope = n * P - block_matmul(PQ, P)  # of f by C
        bent = jax.hessian(lambda r: jnp.sum(self.covariances(r) * slope))(rho)
        Y = -(V[i, j, k].T @ self.sums)[:, places]  # (k, p + 1, p + 1)
        Ya = Y @ a
        moved, squares = Ya[:, :p], Ya @ a
        MY = jnp.einsum("ab,ibc->iac", M, Y[:, :p, :p])
        out = 0.5 * (first + first.T) + bent - restricted * jnp.einsum("iab,jba->ij", MY, MY)
        return out - 2 * scale * moved @ M @ moved.T - scale**2 / df * jnp.outer(squares, squares)


def _times(A: Array, B: Array) -> Array:
    """A_k B_k,i: (H, H, K) and (H, H, K, k), by one product of matrices for each pattern."""
    H, _, K, k = B.shape
    flat = jnp.moveaxis(A, 2, 0) @ jnp.transpose(B, (2, 0, 1, 3)).reshape(K, H, H * k)
    return jnp.transpose(flat.reshape(K, H, H, k), (1, 2, 0, 3))


def _by_parameter(A: Array) -> Array:
    """(H, H, K, k) as (H H K, k)."""
    return A.reshape(-1, A.shape[-1])


expected_hessian = Program(lambda rho, sums: sums.expected(rho))


def places_of_packed(c: int) -> np.ndarray:
    """(c, c): where each element of a symmetric matrix stands in its upper triangle, row by row."""
    out = np.zeros((c, c), int)
    out[np.triu_indices(c)] = np.arange(c * (c + 1) // 2)
    return np.maximum(out, out.T)


def cells_of(there: np.ndarray) -> np.ndarray:
    """(3, C) the slots s <= t in which each pattern has rows, ``there`` (H, K), and the pattern, one after another."""
    s, t = np.triu_indices(len(there))
    k, pair = np.nonzero((there[s] & there[t]).T)
    return np.stack([s[pair], t[pair], k]).astype(np.int32)


@lru_cache(maxsize=16)
def _places(h: int, c: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of an array (h, c, h, c) of products, flat: where those of the columns i <= j are, the first in slot s and the
    second in slot t, for s <= t; where those with the slots exchanged; and which have s = t."""
    (s, t), (i, j) = np.triu_indices(h), np.triu_indices(c)
    one = (s * c)[:, None] + i, (t * c)[:, None] + j
    other = (t * c)[:, None] + i, (s * c)[:, None] + j
    return one[0] * (h * c) + one[1], other[0] * (h * c) + other[1], s == t


def work(laid: Subjects, patterns: Patterns, c: int) -> tuple[int, int]:
    """Numbers that ``pattern_sums`` keeps of c columns, and those that the rows would be."""
    sizes = np.sum(np.asarray(patterns.there), axis=0)
    return int(np.sum(sizes * (sizes + 1) / 2)) * (c * (c + 1) // 2), laid.rows.size * c


def pattern_sums(laid: Subjects, patterns: Patterns, columns: np.ndarray) -> PatternSums:
    """Of the ``columns`` [X y] (n, c), which weights have multiplied; on the host."""
    there, pattern, c = np.asarray(patterns.there) > 0, np.asarray(patterns.pattern), columns.shape[1]
    rows = laid.rows[:, np.argsort(pattern, kind="stable")]
    counts = np.bincount(pattern, minlength=there.shape[1])
    ends, sizes, cells = np.cumsum(counts), there.sum(axis=0), cells_of(there)
    starts = np.cumsum(sizes * (sizes + 1) // 2) - sizes * (sizes + 1) // 2
    more = rounded(cells.shape[1]) - cells.shape[1]  # as of patterns: what fills up adds nothing
    out = np.zeros((cells.shape[1] + more, c * (c + 1) // 2))
    for k in np.flatnonzero(sizes):
        own = columns[rows[np.flatnonzero(there[:, k]), ends[k] - counts[k] : ends[k]]]  # (h, P_k, c)
        h = len(own)
        flat = own.transpose(0, 2, 1).reshape(h * c, -1)
        square, (one, other, same) = (flat @ flat.T).ravel(), _places(h, c)
        kept = out[starts[k] : starts[k] + len(one)]
        np.add(square.take(one), square.take(other), out=kept)
        kept[same] *= 0.5
    return PatternSums(patterns, out, np.pad(cells, ((0, 0), (0, more))), counts.astype(float))  # pyright: ignore
