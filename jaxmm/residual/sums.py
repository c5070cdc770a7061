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

from jaxmm._compiled import Program
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.residual.patterns import Patterns, Subjects, rounded
from jaxmm.solver import spd
from jaxmm.solver.block_matmul import block_matmul
from jaxmm.solver.spd import BLOCKS


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
        P = spd.inverse(BLOCKS, C, BLOCKS.factor(C))
        own = block_matmul(jnp.broadcast_to(P[..., None], dC.shape), dC)  # (H, H, K, k)
        counted = own * self.counts[:, None]
        k = own.shape[-1]
        both = jnp.swapaxes(own, 0, 1).reshape(-1, k).T @ counted.reshape(-1, k)
        trace = jnp.einsum("hhki->i", counted)
        return both - jnp.outer(trace, trace) / jnp.sum(self.counts * jnp.sum(self.patterns.there, axis=0))


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
