"""Block elimination of the random effects: chain by chain factor, then the dense rest.

With N = ΛM^-1Λ', M = Λ'AΛ + I, one function gives

    log|M|   and   C* = C - B'NB = [X y]'V^-1[X y]        V = ZΛΛ'Z' + W^-1

and everything else is a derivative of it, taken by the caller: the covariance of the effects given the data is
N = d log|M| / dA, their modes are -½ d C*/dB at the residual, and so for every structure at once.

Eliminating chain factor i, with R_k = lam_i'(link to outer factor k) and R_b = lam_i'border_i:

    outer k:  block_k  -= Σ R_k'M_i^-1 R_k        link_kl -= Σ R_k'M_i^-1 R_l       sums over the levels of i
    border k: border_k -= Σ R_k'M_i^-1 R_b        corner  -= Σ R_b'M_i^-1 R_b        in each level of k
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.gram import Cells, Gram
from jaxmm.solver import spd
from jaxmm.solver.spd import BLOCKS, DENSE
from jaxmm.structure import Structure

IN_BOUNDS = "promise_in_bounds"  # the indices are ours: no masks, no checks


def reduce(lams: tuple[Array, ...], gram: Gram) -> tuple[Array, Array]:
    """log|M| and C* (p + 1, p + 1), for the factors ``lams`` (q, q) of each grouping factor, as to Z_s."""
    s = gram.structure
    blocks, borders = list(gram.blocks), list(gram.borders)
    links = [list(outer) for outer in gram.links]
    corner, logdet = gram.corner, jnp.zeros((), gram.corner.dtype)
    for i in range(len(s.chain)):
        lam = _every_level(lams[i], blocks[i])
        lam_t = BLOCKS.t(lam)
        M = BLOCKS.mm(BLOCKS.mm(lam_t, blocks[i]), lam)
        M = M + jnp.eye(s.chain[i], dtype=M.dtype)[:, :, None]
        Linv = BLOCKS.factor(M)
        logdet = logdet + spd.logdet(BLOCKS, M, Linv)
        R_b = BLOCKS.mm(lam_t, borders[i])
        R = [BLOCKS.mm(lam_t, link) for link in links[i]]
        cells = gram.cells if i == 0 else None
        N = BLOCKS.mm(BLOCKS.mm(lam, spd.inverse(BLOCKS, M, Linv)), lam_t)  # used, and computed, with cells only
        if cells is None:
            corner = corner - spd.quad(BLOCKS, M, Linv, R_b)
        else:
            corner = _eliminate_cells(corner, cells, s, N, borders[i], spd.quad(BLOCKS, M, Linv, R_b))
        for k, R_k in enumerate(R):
            outer, parent = i + 1 + k, gram.parents[i][k]
            blocks[outer] = _subtract(blocks[outer], parent, spd.product(BLOCKS, M, Linv, R_k, R_k))
            change = spd.product(BLOCKS, M, Linv, R_k, R_b)
            if cells is None:
                borders[outer] = _subtract(borders[outer], parent, change)
            else:
                at_cells = _take(BLOCKS.mm(BLOCKS.t(links[i][k]), N), cells.level)
                by_cell = BLOCKS.mm(at_cells, cells.values[:, None])[:, 0]
                border = borders[outer].at[:, cells.column, parent[cells.level]].add(-by_cell, mode=IN_BOUNDS)
                borders[outer] = border.at[:, s.rest_size :, parent].add(-change, mode=IN_BOUNDS)
            for l in range(k + 1, len(R)):
                change = spd.product(BLOCKS, M, Linv, R_k, R[l])
                links[outer][l - k - 1] = _subtract(links[outer][l - k - 1], parent, change)
    if not s.rest:
        return logdet, corner
    return _eliminate_rest(lams[len(s.chain) :], corner, logdet, s)


def _every_level(lam: Array, blocks: Array) -> Array:
    return jnp.broadcast_to(lam[:, :, None], blocks.shape)


def _subtract(total: Array, parent: Array, change: Array) -> Array:
    return total.at[..., parent].add(-change, mode=IN_BOUNDS)


def _eliminate_rest(lams, corner: Array, logdet: Array, s: Structure) -> tuple[Array, Array]:
    size = s.rest_size
    half = _rest_rows(lams, corner[:size, :], s)  # Λ'[A B]
    M = _rest_rows(lams, half[:, :size].T, s) + jnp.eye(size, dtype=corner.dtype)
    Linv = DENSE.factor(M)
    C = corner[size:, size:] - spd.quad(DENSE, M, Linv, half[:, size:])
    return logdet + spd.logdet(DENSE, M, Linv), C


def _rest_rows(lams, rows: Array, s: Structure) -> Array:
    """Λ_rest' rows, for rows (Q_R, k): each factor's rows come level by level."""
    parts, at = [], 0
    for lam, (levels, q) in zip(lams, s.rest, strict=True):
        part = rows[at : at + levels * q]
        if q == 1:
            parts.append(lam[0, 0] * part)
        else:
            mixed = jnp.einsum("ab,jak->jbk", lam, part.reshape(levels, q, -1))
            parts.append(mixed.reshape(levels * q, -1))
        at += levels * q
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _take(x: Array, at: Array) -> Array:
    return x.at[..., at].get(mode=IN_BOUNDS)


def _eliminate_cells(corner: Array, cells: Cells, s: Structure, N: Array, border: Array, below: Array) -> Array:
    """The corner's Schur complement when the coupling to the rest is a list of cells.

    A pair of cells of level j with columns k and l adds v_k'N_j v_l to the rest: a scatter over the pairs.
    ``N`` (q, q, J) is lam M^-1 lam', ``below`` the part of X and y.
    """
    size, q = s.rest_size, N.shape[0]
    a, b = cells.pair_a, cells.pair_b
    v_a, v_b = _take(cells.values, a), _take(cells.values, b)
    N_j = _take(N, _take(cells.level, a))
    pairs = sum(v_a[i] * v_b[k] * N_j[i, k] for i in range(q) for k in range(q))
    target = _take(cells.column, a) * size + _take(cells.column, b)
    lower = jnp.zeros(size * size, corner.dtype).at[target].add(pairs, mode=IN_BOUNDS).reshape(size, size)
    rest = lower + jnp.tril(lower, -1).T
    NB = _take(BLOCKS.mm(N, border), cells.level)  # (q, p + 1, cells)
    each = jnp.sum(cells.values[:, None] * NB, axis=0).T
    side = jnp.zeros((size, border.shape[1]), corner.dtype).at[cells.column].add(each, mode=IN_BOUNDS)
    return corner - jnp.block([[rest, side], [side.T, below]])
