"""Block elimination of the random effects: chain by chain factor, then the dense rest.

With N = ΛM^-1Λ', M = Λ'AΛ + I, one function gives

    log|M|   and   C* = C - B'NB = [X y]'V^-1[X y]        V = ZΛΛ'Z' + W^-1

and everything else is a derivative of it (``solver``): the covariance of the effects given the data is
N = d log|M| / dA, their modes are -½ d C*/dB at the residual, and so for every structure at once.

Eliminating chain factor i, with R_k = lam_i'(link to outer factor k) and R_b = lam_i'border_i:

    outer k:  block_k  -= Σ R_k'M_i^-1 R_k        link_kl -= Σ R_k'M_i^-1 R_l       sums over the levels of i
    border k: border_k -= Σ R_k'M_i^-1 R_b        corner  -= Σ R_b'M_i^-1 R_b        in each level of k

Where levels stand for several copies of themselves (``Gram.copies``), what goes into the corner and into log|M| counts
as often; a level of an outer factor has its own inner levels once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.cells import Cells
from jaxmm.gram import Accumulator, Gram
from jaxmm.plan import Plan, plan_of
from jaxmm.rows import Rows
from jaxmm.solver import couplings, spd
from jaxmm.solver.couplings import Couplings
from jaxmm.solver.spd import BLOCKS, DENSE
from jaxmm.structure import Elimination, Grouping, Structure

IN_BOUNDS = "promise_in_bounds"  # the indices are ours: no masks, no checks


class Step(NamedTuple):
    """One eliminated chain factor: ``lam`` (q, q, J), M and its inverse root (q, q, J), R_b and the R_k.

    ``parents[k]`` (J,) is the level of the k-th outer factor.  With ``cells``, R_b lacks the part of the rest.
    """

    lam: Array
    M: Array
    Linv: Array
    R_b: Array
    R: tuple[Array, ...]
    parents: tuple[Array, ...]


class Eliminated(NamedTuple):
    """All steps, log|M|, what is left of the corner after them (p + 1, p + 1), and M and root of the rest, if any."""

    steps: tuple[Step, ...]
    logdet: Array
    corner: Array
    rest: tuple[Array, Array] | None

    @property
    def roots(self) -> tuple[Array, ...]:
        """The inverse Cholesky factors: constants, for ``eliminate`` at the same point."""
        return tuple(step.Linv for step in self.steps) + (() if self.rest is None else self.rest[1:])


def reduce(lams: tuple[Array, ...], gram: Gram) -> tuple[Array, Array]:
    """log|M| and C* (p + 1, p + 1), for the factors ``lams`` (q, q) of each grouping factor, as to Z_s."""
    done = eliminate(lams, gram)
    return done.logdet, done.corner


def eliminate(lams: tuple[Array, ...], gram: Gram, roots: tuple[Array, ...] | None = None) -> Eliminated:
    """The whole elimination; ``roots`` saves the factorisations when they are known at this point."""
    s, c = gram.structure, gram.couplings
    blocks, borders = list(c.blocks), list(c.borders)
    links = [list(outer) for outer in c.links]
    corner, logdet = c.corner, jnp.zeros((), c.corner.dtype)
    steps: list[Step] = []
    for i in range(len(s.chain)):
        lam = _every_level(lams[i], blocks[i])
        lam_t = BLOCKS.t(lam)
        M = BLOCKS.mm(BLOCKS.mm(lam_t, blocks[i]), lam)
        M = M + jnp.eye(s.chain[i], dtype=M.dtype)[:, :, None]
        Linv = BLOCKS.factor(M) if roots is None else roots[i]
        copies = None if gram.copies is None else gram.copies[i]
        if copies is None:
            logdet = logdet + spd.logdet(BLOCKS, M, Linv)
        else:
            logdet = logdet + jnp.sum(copies * spd.logdets(M, Linv))
        R_b = BLOCKS.mm(lam_t, borders[i])
        R = [BLOCKS.mm(lam_t, link) for link in links[i]]
        steps.append(Step(lam, M, Linv, R_b, tuple(R), c.parents[i]))
        cells = c.cells if i == 0 else None
        N = BLOCKS.mm(BLOCKS.mm(lam, spd.inverse(BLOCKS, M, Linv)), lam_t)  # used, and computed, with cells only
        if cells is None:
            corner = corner - spd.quad(BLOCKS, M, Linv, R_b if copies is None else R_b * jnp.sqrt(copies))
        else:
            corner = _eliminate_cells(corner, cells, s, N, borders[i], spd.quad(BLOCKS, M, Linv, R_b))
        for k, R_k in enumerate(R):
            outer, parent = i + 1 + k, c.parents[i][k]
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
        return Eliminated(tuple(steps), logdet, corner, None)
    size = s.rest_size
    half = rest_rows(lams[len(s.chain) :], corner[:size, :], s)  # Λ'[A B]
    M = rest_rows(lams[len(s.chain) :], half[:, :size].T, s) + jnp.eye(size, dtype=corner.dtype)
    Linv = DENSE.factor(M) if roots is None else roots[-1]
    left = corner[size:, size:] - spd.quad(DENSE, M, Linv, half[:, size:])
    return Eliminated(tuple(steps), logdet + spd.logdet(DENSE, M, Linv), left, (M, Linv))


def solve(done: Eliminated, lams: tuple[Array, ...], gram: Gram, right: tuple[Array, ...]) -> tuple[Array, ...]:
    """M^-1 right, for ``right`` one array (q, J) per grouping factor; linear in it, the rest are constants to it.

    The columns beside Z of a linear model's ``gram`` are left alone.

    Forward through the chain, the dense rest, and back:

        r_k -= lam_k'Σ R_k'M_i^-1 r_i      r_rest -= Λ_rest'Σ R_b'M_i^-1 r_i
        x_i  = M_i^-1 (r_i - R_b b_rest - Σ R_k b_k),    b = Λx
    """
    s, cells = gram.structure, gram.couplings.cells
    size, chain = s.rest_size, len(s.chain)
    r = [x[:, None] for x in right[:chain]]
    dense = jnp.zeros((size, 1), right[0].dtype)
    for i, step in enumerate(done.steps):
        x = spd.solve(BLOCKS, step.M, step.Linv, r[i])
        for k, (R_k, parent) in enumerate(zip(step.R, step.parents, strict=True)):
            outer = i + 1 + k
            change = jnp.zeros_like(r[outer]).at[..., parent].add(BLOCKS.mm(BLOCKS.t(R_k), x), mode=IN_BOUNDS)
            r[outer] = r[outer] - BLOCKS.mm(BLOCKS.t(done.steps[outer].lam), change)
        if size:
            dense = dense - _onto_rest(step, x, cells if i == 0 else None, size)
    b_rest, x_rest = None, ()
    if size:
        own = jnp.concatenate([x.T.ravel() for x in right[chain:]])[:, None]
        M, Linv = done.rest  # pyright: ignore
        flat = spd.solve(DENSE, M, Linv, own + rest_rows(lams[chain:], dense, s))
        x_rest = tuple(x[:, :, 0].T for x in s.split_rest(flat))
        transposed = tuple(lam.T for lam in lams[chain:])
        b_rest = rest_rows(transposed, flat, s)[:, 0]
    xs: list[Array] = [jnp.zeros(())] * chain
    for i in reversed(range(chain)):
        step, left = done.steps[i], r[i]
        if b_rest is not None:
            left = left - _from_rest(step, b_rest, cells if i == 0 else None)
        for k, (R_k, parent) in enumerate(zip(step.R, step.parents, strict=True)):
            outer = i + 1 + k
            b = BLOCKS.mm(done.steps[outer].lam, xs[outer])
            left = left - BLOCKS.mm(R_k, _take(b, parent))
        xs[i] = spd.solve(BLOCKS, step.M, step.Linv, left)
    return tuple(x[:, 0] for x in xs) + x_rest


def _onto_rest(step: Step, x: Array, cells: Cells | None, size: int) -> Array:
    """R_b'x summed over the levels: (Q_R, 1)."""
    if cells is None:
        return jnp.einsum("arj,aj->r", step.R_b[:, :size], x[:, 0])[:, None]
    b = _take(BLOCKS.mm(step.lam, x)[:, 0], cells.level)
    return jnp.zeros((size, 1), x.dtype).at[cells.column, 0].add(jnp.sum(cells.values * b, axis=0), mode=IN_BOUNDS)


def _from_rest(step: Step, b_rest: Array, cells: Cells | None) -> Array:
    """R_b b_rest: (q, 1, J)."""
    if cells is None:
        return jnp.einsum("arj,r->aj", step.R_b[:, : len(b_rest)], b_rest)[:, None]
    each = cells.values * _take(b_rest, cells.column)
    total = jnp.zeros((each.shape[0], step.M.shape[-1]), each.dtype).at[:, cells.level].add(each, mode=IN_BOUNDS)
    return BLOCKS.mm(BLOCKS.t(step.lam), total[:, None])


def _every_level(lam: Array, blocks: Array) -> Array:
    return jnp.broadcast_to(lam[:, :, None], blocks.shape)


def _subtract(total: Array, parent: Array, change: Array) -> Array:
    return total.at[..., parent].add(-change, mode=IN_BOUNDS)


def rest_rows(lams, rows: Array, s: Structure) -> Array:
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


# ---------------------------------------------------------------- the solver
@dataclass(frozen=True)
class BlockElimination:
    """See ``_base.Solver``; its couplings are ``Couplings``."""

    name = "block elimination"
    by_level = True

    def design(self, a: Accumulator) -> dict[str, Any]:
        return couplings.design(a)

    def couplings(self, a: Accumulator, parts: dict[str, Any], residual: np.ndarray) -> Couplings:
        return couplings.joined(parts, couplings.response(a, residual))

    def of_rows(self, rows: Rows, W: tuple[Array, ...], columns: Array | None = None) -> Couplings:
        return couplings.of_rows(rows, W, columns)

    def with_response(self, gram: Gram, z: tuple[Array, ...], xy: Array, yy: Array, XX: Array | None = None) -> Gram:
        chain, size, c = len(gram.structure.chain), gram.structure.rest_size, gram.couplings
        borders = tuple(b.at[:, -1].set(x) for b, x in zip(c.borders, z[:chain], strict=True))
        column = jnp.concatenate([*[x.T.ravel() for x in z[chain:]], xy, yy[None]])
        corner = c.corner.at[:, -1].set(column).at[-1, :].set(column)
        corner = corner if XX is None else corner.at[size:-1, size:-1].set(XX)
        return replace(gram, couplings=replace(c, borders=borders, corner=corner))

    def reduce(self, lams: tuple[Array, ...], gram: Gram) -> tuple[Array, Array]:
        return reduce(lams, gram)

    def factorise(self, lams: tuple[Array, ...], gram: Gram, roots: Any = None) -> Eliminated:
        return eliminate(lams, gram, roots)

    def solve(self, done: Eliminated, lams: tuple[Array, ...], gram: Gram, right: tuple[Array, ...]) -> tuple:
        return solve(done, lams, gram, right)

    def level_matrices(self, done: Eliminated, gram: Gram) -> Array:
        return done.steps[0].M

    def total(self, gram: Gram) -> Array:
        size = gram.structure.rest_size
        return gram.couplings.corner[size:, size:]

    def levels(self, gram: Gram) -> list[tuple[Array, Array]]:
        c, s, size = gram.couplings, gram.structure, gram.structure.rest_size
        wide = [0 if i == 0 and c.cells is not None else size for i in range(len(s.chain))]
        chain = [(A, border[:, at:]) for A, border, at in zip(c.blocks, c.borders, wide, strict=True)]
        places = s.rest_places()
        own = [c.corner[inside[:, :, None], inside[:, None, :]].transpose(1, 2, 0) for inside in places]
        side = [c.corner[inside, size:].transpose(1, 2, 0) for inside in places]
        return [*chain, *zip(own, side, strict=True)]

    def size(self, gram: Gram) -> int:
        c = gram.couplings
        return c.borders[0].size if c.borders else c.corner.size

    def plan(self, s: Structure, elimination: Elimination, groups: list[Grouping]) -> Plan:
        return plan_of(s, elimination, groups)

    def border(self, gram: Gram) -> Array | None:
        c, s = gram.couplings, gram.structure
        return c.borders[0] if len(s.chain) == 1 and s.rest and c.cells is None else None

    def with_levels(self, gram: Gram, A: Any, border: Any) -> Couplings:
        return replace(gram.couplings, blocks=(A,), borders=(border,))
