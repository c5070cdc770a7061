"""What block elimination keeps of the cross-products [Z X y]'W[Z X y]: by level, and dense where there is no structure.

columns of a linear model   ->  ``design``, ``response``  ->  ``Couplings``       on the host, once
rows of a generalised one, W  ->  ``of_rows``  ->  ``Couplings`` of Z'WZ          in a program, for each W
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._pieces import pick
from jaxmm._types import Array
from jaxmm.cells import Cells, cell_pairs
from jaxmm.gram import Accumulator
from jaxmm.rows import Rows
from jaxmm.solver import spd
from jaxmm.structure import parents_of


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["blocks", "links", "parents", "borders", "cells", "corner"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Couplings:
    """``blocks[i]`` (q, q, J): Z_i'WZ_i of chain factor i; ``links[i][k]`` (q_i, q, J_i): Z_i'WZ of its k-th outer
    chain factor, whose level is ``parents[i][k]`` (J_i,); ``borders[i]`` (q_i, r, J_i): Z_i'W[Z_rest X y], without
    Z_rest for the first factor when ``cells`` holds it; ``corner`` (Q_R + p + 1, same): [Z_rest X y]'W[Z_rest X y].
    Those of a generalised model have Z_rest alone for [Z_rest X y].
    """

    blocks: tuple[Array, ...]
    links: tuple[tuple[Array, ...], ...]
    parents: tuple[tuple[Array, ...], ...]
    borders: tuple[Array, ...]
    cells: Cells | None
    corner: Array


# ---------------------------------------------------------------- from columns, on the host
def response(a: Accumulator, residual: np.ndarray) -> dict[str, Any]:
    """What depends on the response (n,), less X_s beta0: the last column of each border and of the corner."""
    k, rest_positions = len(a.structure.chain), range(len(a.structure.chain), len(a.groupings))
    column = residual[:, None]
    borders = [a.per_level(i, lambda at: column[at])[:, 0] for i in range(k)]
    rest = [a.per_level(f, lambda at: column[at])[:, 0].T.ravel() for f in rest_positions]
    xy = a.total(a.X.rows, lambda at: column[at])[:, 0]
    yy = a.total(lambda at: column[at], lambda at: column[at])[0]
    return {"borders": borders, "corner": np.concatenate([*rest, xy, yy])}


def design(a: Accumulator) -> dict[str, Any]:
    """What does not depend on the response, with room for its column."""
    s = a.structure
    k, p, size = len(s.chain), s.p, s.rest_size
    blocks = [a.per_level(i, partial(a.z, i)) for i in range(k)]
    links = [[a.per_level(i, partial(a.z, o)) for o in range(i + 1, k)] for i in range(k)]
    borders = []
    for i in range(k):
        width = 0 if s.sparse and i == 0 else size
        border = np.zeros((s.chain[i], width + p + 1, a.groupings[i].levels))
        if p:
            border[:, width : width + p] = a.per_level(i, a.X.rows)
        if width:
            _fill_border(a, border, i)
        borders.append(border)
    corner = np.zeros((size + p + 1, size + p + 1))
    _fill_corner(a, corner)
    if p:
        corner[size:-1, size:-1] = a.total(a.X.rows, a.X.rows)
    return {
        "blocks": blocks,
        "links": links,
        "parents": parents_of(a.plan),
        "borders": borders,
        "cells": _cells(a) if s.sparse else None,
        "corner": corner,
    }


def joined(parts: dict[str, Any], own: dict[str, Any]) -> Couplings:
    """From ``design`` and ``response``."""
    borders = []
    for border, column in zip(parts["borders"], own["borders"], strict=True):
        border = border.copy()
        border[:, -1] = column
        borders.append(border)
    corner = parts["corner"].copy()
    corner[-1, :] = corner[:, -1] = own["corner"]
    return Couplings(
        tuple(parts["blocks"]),
        tuple(tuple(x) for x in parts["links"]),
        tuple(tuple(x) for x in parts["parents"]),
        tuple(borders),
        None if parts["cells"] is None else Cells(**parts["cells"]),
        corner,
    )


def _rest_offsets(a: Accumulator) -> list[tuple[int, int]]:
    """(position, first column) of each factor of the rest."""
    sizes = np.cumsum([0] + [levels * q for levels, q in a.structure.rest])
    return [(len(a.structure.chain) + f, int(sizes[f])) for f in range(len(a.structure.rest))]


def _fill_border(a: Accumulator, border: np.ndarray, i: int) -> None:
    for position, first in _rest_offsets(a):
        q = a.groupings[position].q
        level, other, values = a.cross(i, position)
        for b in range(q):
            border[:, first + other * q + b, level] = values[:, :, b].T


def _fill_corner(a: Accumulator, corner: np.ndarray) -> None:
    size, p = a.structure.rest_size, a.structure.p
    offsets = _rest_offsets(a)
    for position, first in offsets:
        g = a.groupings[position]
        if p:
            xs = a.per_level(position, a.X.rows)  # (q, p, J)
            rows = np.moveaxis(xs, -1, 0).reshape(g.levels * g.q, p)
            corner[first : first + len(rows), size : size + p] = rows
            corner[size : size + p, first : first + len(rows)] = rows.T
        own = a.per_level(position, partial(a.z, position))  # (q, q, J)
        at = first + np.arange(g.levels) * g.q
        for c in range(g.q):
            for b in range(g.q):
                corner[at + c, at + b] = own[c, b]
        for other, start in offsets:
            if other <= position:
                continue
            level, level_other, values = a.cross(position, other)
            q_other = a.groupings[other].q
            for c in range(g.q):
                for b in range(q_other):
                    rows_, cols_ = first + level * g.q + c, start + level_other * q_other + b
                    corner[rows_, cols_] = values[:, c, b]
                    corner[cols_, rows_] = values[:, c, b]


def _cells(a: Accumulator) -> dict[str, np.ndarray]:
    level, column, values = [], [], []
    for position, first in _rest_offsets(a):
        q = a.groupings[position].q
        own, other, block = a.cross(0, position)
        for b in range(q):
            level.append(own)
            column.append(first + other * q + b)
            values.append(block[:, :, b])
    values = np.concatenate(values)
    order, arrays = cell_pairs(np.concatenate(level), np.concatenate(column), a.structure.rest_size)
    room = len(arrays["level"]) - len(order)
    return {"values": np.pad(values[order].T, ((0, 0), (0, room))), **arrays}


# ---------------------------------------------------------------- from rows, in a program
def of_rows(rows: Rows, W: tuple[Array, ...], columns: Array | None = None) -> Couplings:
    """Z'WZ for working weights W (H, P) of the pairs of moving predictors; with ``columns`` (c, H, P) of the first of
    these [Z columns]'W[Z columns]."""
    s, dtype = rows.structure, W[0].dtype
    chain, size, k = len(s.chain), s.rest_size, 0 if columns is None else len(columns)
    blocks = tuple(_squares(rows, f, W) for f in range(chain))
    links = tuple(tuple(rows.collect(f, _products(rows, W, f, o)) for o in range(f + 1, chain)) for f in range(chain))
    tables = {
        (c.first, c.second): c.table(_products(rows, W, c.first, c.second))
        for c in rows.crossings
        if rows.cells is None or c.first > 0
    }
    borders = []
    for f in range(chain):
        wide = [_side(tables[f, chain + r]) for r in range(len(s.rest))] if (f, chain) in tables else []
        wide += [] if columns is None else [rows.collect(f, rows.Z[f][:, None] * (columns * W[0])[None])]
        empty = jnp.zeros((s.chain[f], 0, rows.levels_of(f)), dtype)
        borders.append(jnp.concatenate(wide, axis=1) if wide else empty)
    corner = jnp.zeros((size + k, size + k), dtype)
    for r, inside in enumerate(s.rest_places()):
        f = chain + r
        own = jnp.moveaxis(_squares(rows, f, W), -1, 0)
        corner = corner.at[inside[:, :, None], inside[:, None, :]].set(own)
        for other in range(r + 1, len(s.rest)):
            block = _flat(tables[f, chain + other], s.rest[r], s.rest[other])
            at, to = inside[0, 0], s.rest_places()[other][0, 0]
            corner = jax.lax.dynamic_update_slice(corner, block, (at, to))
            corner = jax.lax.dynamic_update_slice(corner, block.T, (to, at))
        if columns is not None:
            own = rows.collect(f, rows.Z[f][:, None] * (columns * W[0])[None])
            side = jnp.moveaxis(own, -1, 0).reshape(-1, k)
            corner = jax.lax.dynamic_update_slice(corner, side, (inside[0, 0], size))
            corner = jax.lax.dynamic_update_slice(corner, side.T, (size, inside[0, 0]))
    if columns is not None:
        square = jnp.tensordot(columns * W[0], columns, ((1, 2), (1, 2)))
        corner = jax.lax.dynamic_update_slice(corner, square, (size, size))
    found = Couplings(blocks, links, rows.parents, tuple(borders), _cell_values(rows, W), corner)
    return found if rows.mixed is None else _with_mixed(found, rows, W[0], columns)


def _with_mixed(c: Couplings, rows: Rows, W: Array, columns: Array | None) -> Couplings:
    """``c`` of the chain, and the rest of rows that were mixed."""
    m, C = rows.mixed, len(rows.mixed.Z)
    others = [*rows.Z, *([] if columns is None else [columns])]
    right = jnp.concatenate([m.Z, *others]) * W
    each = spd.products(m.Z, jnp.swapaxes(right, 0, 1))  # (C, C + .., P): sums over the rows of each piece
    corner = m.square.table(each[:, :C].reshape(C * C, -1))
    corner = corner.reshape(len(m.side.there), -1)
    borders, at = [], C
    for own, Z, border in zip(m.borders, rows.Z, c.borders, strict=True):
        wide = own.table(jnp.swapaxes(each[:, at : at + len(Z)], 0, 1)).reshape(len(Z), len(corner), -1)
        borders.append(jnp.concatenate([wide, border], axis=1))
        at += len(Z)
    side = m.side.table(jnp.swapaxes(each[:, at:], 0, 1))  # (k, Q)
    return replace(c, borders=tuple(borders), corner=jnp.block([[corner, side.T], [side, c.corner]]))


def _products(rows: Rows, W: tuple[Array, ...], f: int, other: int) -> Array:
    """Of the columns of two factors, row by row: A_a B_b W (q_f, q_other, H, P)."""
    return rows.Z[f][:, None] * (rows.Z[other] * rows.between(W, f, other))[None]


def _squares(rows: Rows, f: int, W: tuple[Array, ...]) -> Array:
    """Z'WZ (q, q, J) of each level of one factor; what is symmetric is summed once."""
    Z, q, own = rows.Z[f], len(rows.Z[f]), rows.between(W, f, f)
    if q > costs.UNROLLED_ROOT:  # row by row: a sum for each entry takes long to compile
        each = [rows.collect(f, Z[a] * (Z[: a + 1] * own)) for a in range(q)]
        low = jnp.stack([jnp.pad(row, ((0, q - len(row)), (0, 0))) for row in each])
        return low + jnp.swapaxes(low, 0, 1) * (1 - jnp.eye(q, dtype=low.dtype))[:, :, None]
    below = [[rows.collect(f, Z[a] * (Z[b] * own)) for b in range(a + 1)] for a in range(q)]
    return jnp.stack([jnp.stack([below[max(a, b)][min(a, b)] for b in range(q)]) for a in range(q)])


def _cell_values(rows: Rows, W: tuple[Array, ...]) -> Cells | None:
    if rows.cells is None:
        return None
    parts = []
    for c in (c for c in rows.crossings if c.first == 0):
        x = c.pieces.collect(_products(rows, W, 0, c.second))
        parts.append(x.reshape(len(x), -1))
    there, back = rows.cell_order  # pyright: ignore
    c = rows.cells
    return Cells(pick(jnp.concatenate(parts, axis=1), there, back), c.level, c.column, c.pair_a, c.pair_b)


def _side(table: Array) -> Array:
    """(q, q_r, J_r, J) -> (q, J_r q_r, J): the columns of a rest factor level by level."""
    q, q_r, J_r, J = table.shape
    return jnp.moveaxis(table, 2, 1).reshape(q, J_r * q_r, J)


def _flat(table: Array, first: tuple[int, int], second: tuple[int, int]) -> Array:
    """(q_a, q_b, J_b, J_a) -> (J_a q_a, J_b q_b)."""
    (J_a, q_a), (J_b, q_b) = first, second
    return jnp.transpose(table, (3, 0, 2, 1)).reshape(J_a * q_a, J_b * q_b)
