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
        sparse = gram.cells if i == 0 else None
        if sparse is None:
            corner = corner - spd.quad(BLOCKS, M, Linv, R_b)
        else:
            corner = _eliminate_cells(corner, sparse, s, lam_t, M, Linv, R_b)
        for k, R_k in enumerate(R):
            outer, parent = i + 1 + k, gram.parents[i][k]
            blocks[outer] = _subtract(blocks[outer], parent, spd.product(BLOCKS, M, Linv, R_k, R_k))
            change = spd.product(BLOCKS, M, Linv, R_k, R_b)
            if sparse is None:
                borders[outer] = _subtract(borders[outer], parent, change)
            else:
                width = s.rest_size
                by_cell = _cell_product(sparse, lam_t, M, Linv, R_k)
                border = borders[outer].at[:, sparse.column, parent[sparse.level]].add(-by_cell)
                borders[outer] = border.at[:, width:, parent].add(-change)
            for l in range(k + 1, len(R)):
                change = spd.product(BLOCKS, M, Linv, R_k, R[l])
                links[outer][l - k - 1] = _subtract(links[outer][l - k - 1], parent, change)
    if not s.rest:
        return logdet, corner
    return _eliminate_rest(lams[len(s.chain) :], corner, logdet, s)


def _every_level(lam: Array, blocks: Array) -> Array:
    return jnp.broadcast_to(lam[:, :, None], blocks.shape)


def _subtract(total: Array, parent: Array, change: Array) -> Array:
    return total.at[..., parent].add(-change)


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


def _eliminate_cells(corner, cells: Cells, s: Structure, lam_t, M, Linv, R_b) -> Array:
    """The corner's Schur complement when the coupling to the rest is a list of cells: a scatter over their pairs."""
    size = s.rest_size
    R, X = _cell_columns(cells, lam_t, M, Linv)
    a, b = cells.pair_a, cells.pair_b
    lower = jnp.zeros((size, size), corner.dtype)
    pairs = sum(R[k, a] * X[k, b] for k in range(len(R)))
    lower = lower.at[cells.column[a], cells.column[b]].add(pairs)
    rest = lower + jnp.tril(lower, -1).T
    X_b = spd.solve(BLOCKS, M, Linv, R_b)  # (q, p + 1, J)
    side = sum(R[k][:, None] * X_b[k].T[cells.level] for k in range(len(R)))
    side = jnp.zeros((size, R_b.shape[1]), corner.dtype).at[cells.column].add(side)
    below = spd.quad(BLOCKS, M, Linv, R_b)
    return corner - jnp.block([[rest, side], [side.T, below]])


def _cell_columns(cells: Cells, lam_t, M, Linv) -> tuple[Array, Array]:
    """R = lam'z and M^-1 R of each cell, (q, cells)."""
    R = jnp.tensordot(lam_t[:, :, 0], cells.values, 1)
    at = cells.level
    X = spd.solve(BLOCKS, M[:, :, at], Linv[:, :, at], R[:, None])[:, 0]
    return R, X


def _cell_product(cells: Cells, lam_t, M, Linv, R_k) -> Array:
    """R_k'M^-1 R of each cell, (q_k, cells)."""
    _, X = _cell_columns(cells, lam_t, M, Linv)
    R_at = R_k[:, :, cells.level]
    return sum(R_at[a] * X[a] for a in range(R_at.shape[0]))
