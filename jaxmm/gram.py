"""Design columns + Structure -> Gram: the cross-products [Z X y]'W[Z X y], all that a fit needs of the data.

One pass over the rows, in chunks; the size of the result does not depend on n.  Forming cross-products squares
the condition number, so the columns are changed first, and the change is carried along:

    X_s = XT_X   centred where there is an intercept, scaled, then made orthogonal (QR of the centred columns)
    Z_s = ZT     the same per unstructured term (D takes any value there); other terms are scaled only
    y_s = y - offset - X_s beta0   with beta0 from least squares, added back to beta afterwards

b = T b_s and lam = T lam_s up to a rotation; beta = T_X (beta_s + beta0); and the restricted likelihood of X is
that of X_s with log|X_s'V^-1 X_s| - 2 log|det T_X| in the place of log|X'V^-1 X|.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp

from jaxmm._compiled import bucket
from jaxmm._types import Array
from jaxmm.covariance import Closed
from jaxmm.structure import Elimination, Grouping, Structure

CHUNK = 1 << 18  # rows in flight: a few of its columns fit the second-level cache


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "level", "column", "pair_a", "pair_b"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Cells:
    """The coupling of the first chain factor to the dense rest, as the cells that occur.

    ``values`` (q, cells): Z_first'W z of one column of the rest; ``level`` and ``column`` (cells,): where;
    ``pair_a``, ``pair_b``: all pairs of cells of one level with column[a] >= column[b].
    """

    values: Array
    level: Array
    column: Array
    pair_a: Array
    pair_b: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "blocks", "links", "parents", "borders", "cells", "corner", "T", "T_X", "beta0",
        "logdet_T", "n_obs", "sum_log_weights", "inputs", "copies",
    ],
    meta_fields=["structure"],
)  # fmt: skip
@dataclass(frozen=True)
class Gram:
    """Sufficient statistics of a linear mixed model; a pytree whose one static field is ``structure``.

    ``blocks[i]`` (q, q, J): Z_i'WZ_i of chain factor i; ``links[i][k]`` (q_i, q, J_i): Z_i'WZ of its k-th outer
    chain factor, whose level is ``parents[i][k]`` (J_i,); ``borders[i]`` (q_i, r, J_i): Z_i'W[Z_rest X y], without
    Z_rest for the first factor when ``cells`` holds it; ``corner`` (Q_R + p + 1, same): [Z_rest X y]'W[Z_rest X y].
    ``T`` per factor (q, q), ``T_X`` (p, p), ``beta0`` (p,): the changes of columns of the module's head.
    ``n_obs`` and ``sum_log_weights`` run over the rows of positive weight.  ``copies`` (J_i,) of each chain factor: how
    often each level counts, None for once each.  ``inputs``: what the structure of each term, in the order of theta,
    needs to know beside its parameters, mostly None.
    """

    blocks: tuple[Array, ...]
    links: tuple[tuple[Array, ...], ...]
    parents: tuple[tuple[Array, ...], ...]
    borders: tuple[Array, ...]
    cells: Cells | None
    corner: Array
    T: tuple[Any, ...]
    T_X: Any
    beta0: Any
    logdet_T: Any
    n_obs: Any
    sum_log_weights: Any
    inputs: tuple[Any, ...]
    structure: Structure = field(metadata={"static": True})
    copies: tuple[Array, ...] | None = None


# ---------------------------------------------------------------- changes of columns
@dataclass(frozen=True)
class Columns:
    """Columns A (n, k) and their change AT, applied a chunk at a time: ((A - mean) / scale) rotation."""

    A: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    rotation: np.ndarray
    T: np.ndarray

    def rows(self, at: slice) -> np.ndarray:
        if len(self.A) <= CHUNK:
            return self._whole[at]
        return self._changed(at)

    @cached_property
    def _whole(self) -> np.ndarray:
        return self._changed(slice(None))

    def times(self, unit: float) -> Columns:
        """The changed columns multiplied by a number: their coefficients are then in units of it."""
        return self if unit == 1.0 else replace(self, rotation=unit * self.rotation, T=unit * self.T)

    def _changed(self, at: slice) -> np.ndarray:
        rows = (self.A[at] - self.mean) / self.scale
        if len(self.rotation) == 1:
            return rows * self.rotation
        return np.einsum("nk,kj->nj", rows, self.rotation) if len(self.rotation) <= 8 else rows @ self.rotation


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))


def change_columns(A: np.ndarray, change: Closed) -> Columns:
    """Better conditioned columns spanning those of A: rescaled each, or together ("scalar"); centred and orthogonal
    too where any change will do ("linear"); as they are ("none")."""
    recombine = change == "linear"
    n, k = A.shape
    mean, rotation = np.zeros(k), np.eye(k)
    constant = np.array([np.all(A[:, j] == A[0, j]) and A[0, j] != 0 for j in range(k)], bool)
    centre = recombine and bool(constant.any())
    if centre:
        mean = np.where(constant, 0.0, A.mean(axis=0))
    square = np.zeros(k)
    for at in _chunks(n):
        square += np.sum((A[at] - mean) ** 2, axis=0)
    scale = np.sqrt(square / n)
    if change == "scalar":
        scale[:] = np.sqrt(np.mean(scale**2))
    scale[(scale == 0) | (change == "none")] = 1.0
    if recombine and k > 1:
        R = np.zeros((0, k))
        for at in _chunks(n):  # QR of a tall matrix chunk by chunk
            R = np.linalg.qr(np.vstack([R, (A[at] - mean) / scale]), mode="r")
        pivots = np.abs(np.diag(R))
        if len(pivots) == k and pivots.min() > 1e-10 * np.sqrt(n):
            rotation = np.linalg.inv(R) * np.sqrt(n)
    T = np.diag(1 / scale)
    if centre:
        j = int(np.argmax(constant))  # a column minus its mean = column - (mean / c) x the constant column c
        shift = np.eye(k)
        shift[j] -= mean / A[0, j]
        T = shift @ T
    return Columns(A, mean, scale, rotation, T @ rotation)


# ---------------------------------------------------------------- sums over the rows of each level
def _level_sums(codes: np.ndarray, levels: int, n: int, rows) -> np.ndarray:
    """Sum of ``rows(at)`` (rows of the chunk, k) over the rows of each level: (levels, k)."""
    total = 0.0
    for at in _chunks(n):
        c = codes[at]
        indicator = sp.csc_matrix((np.ones(len(c)), c, np.arange(len(c) + 1)), shape=(levels, len(c)))
        total = total + indicator @ rows(at)
    return np.asarray(total)


def _cross_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a'b.  Narrow ones without BLAS, whose threads wait for each other when the cores are busy."""
    if a.shape[1] * b.shape[1] <= 64:
        return np.einsum("ni,nj->ij", a, b)
    return a.T @ b


def _outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise products, (rows, ka * kb)."""
    return (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)


@dataclass(frozen=True)
class Accumulator:
    """The rows of one model: columns by factor in elimination order, ready to be summed.

    ``response(y)`` returns what depends on y alone, so that a new response costs one pass over it.
    """

    plan: Elimination
    structure: Structure
    groupings: tuple[Grouping, ...]  # in elimination order
    Z: tuple[tuple[Columns, ...], ...]  # per factor, its terms
    X: Columns
    weights: np.ndarray | None
    inputs: tuple[Any, ...]
    further: tuple[Columns, ...] = ()  # of predictors after the first

    @property
    def n(self) -> int:
        return len(self.X.A)

    def z(self, position: int, at: slice) -> np.ndarray:
        parts = [columns.rows(at) for columns in self.Z[position]]
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    def weighted(self, rows: np.ndarray, at: slice) -> np.ndarray:
        return rows if self.weights is None else rows * self.weights[at, None]

    def _total(self, left, right) -> np.ndarray:
        """Sum over the rows of left'W right."""
        return np.sum([_cross_product(left(at), self.weighted(right(at), at)) for at in _chunks(self.n)], axis=0)

    def _per_level(self, position: int, right) -> np.ndarray:
        """Z'W right, (q, k, J)."""
        g = self.groupings[position]
        sums = _level_sums(
            g.codes, g.levels, self.n, lambda at: _outer(self.z(position, at), self.weighted(right(at), at))
        )
        return np.ascontiguousarray(np.moveaxis(sums.reshape(g.levels, g.q, -1), 0, -1))

    def _cross(self, a: int, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Z_a'WZ_b over the pairs of levels that occur: levels of a, levels of b, values (pairs, q_a, q_b)."""
        ga, gb = self.groupings[a], self.groupings[b]
        keys = ga.codes.astype(np.int64) * gb.levels + gb.codes
        pairs, codes = np.unique(keys, return_inverse=True)
        sums = _level_sums(
            codes, len(pairs), self.n, lambda at: _outer(self.z(a, at), self.weighted(self.z(b, at), at))
        )
        return pairs // gb.levels, pairs % gb.levels, sums.reshape(len(pairs), ga.q, gb.q)

    # ------------------------------------------------------------ the parts of Gram
    def least_squares(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """beta0 (p,) and y - X_s beta0; twice, so that a large mean leaves no rounding behind."""
        p = self.structure.p
        beta0, residual = np.zeros(p), y.astype(float)
        if p == 0:
            return beta0, residual
        gram = self._total(self.X.rows, self.X.rows)
        for _ in range(2):
            right = self._total(self.X.rows, lambda at, r=residual: r[at, None])
            step = np.linalg.lstsq(gram, right[:, 0], rcond=None)[0]
            beta0 = beta0 + step
            residual = np.concatenate([residual[at] - self.X.rows(at) @ step for at in _chunks(self.n)])
        return beta0, residual

    def response(self, y: np.ndarray) -> dict[str, object]:
        """What depends on the response: beta0, the last column of each border and of the corner."""
        beta0, residual = self.least_squares(y)
        k, rest_positions = len(self.structure.chain), range(len(self.structure.chain), len(self.groupings))
        column = residual[:, None]
        borders = [self._per_level(i, lambda at: column[at])[:, 0] for i in range(k)]
        rest = [self._per_level(f, lambda at: column[at])[:, 0].T.ravel() for f in rest_positions]
        xy = self._total(self.X.rows, lambda at: column[at])[:, 0]
        yy = self._total(lambda at: column[at], lambda at: column[at])[0]
        return {"beta0": beta0, "borders": borders, "corner": np.concatenate([*rest, xy, yy])}

    def design(self) -> dict[str, object]:
        """What does not depend on the response, with room for its column."""
        s = self.structure
        k, p, size = len(s.chain), s.p, s.rest_size
        blocks = [self._per_level(i, partial(self.z, i)) for i in range(k)]
        links = [[self._per_level(i, partial(self.z, o)) for o in range(i + 1, k)] for i in range(k)]
        borders = []
        for i in range(k):
            width = 0 if s.sparse and i == 0 else size
            border = np.zeros((s.chain[i], width + p + 1, self.groupings[i].levels))
            if p:
                border[:, width : width + p] = self._per_level(i, self.X.rows)
            if width:
                self._fill_border(border, i)
            borders.append(border)
        corner = np.zeros((size + p + 1, size + p + 1))
        self._fill_corner(corner)
        if p:
            corner[size:-1, size:-1] = self._total(self.X.rows, self.X.rows)
        return {
            "blocks": blocks,
            "links": links,
            "parents": self.parents(),
            "borders": borders,
            "cells": self._cells() if s.sparse else None,
            "corner": corner,
        }

    def parents(self) -> list[list[np.ndarray]]:
        """As in ``Gram``: the level of each outer factor of the chain, for each inner one."""
        chain = self.plan.chain
        return [[self.plan.parents[inner, outer] for outer in chain[i + 1 :]] for i, inner in enumerate(chain)]

    def changes(self) -> list[np.ndarray]:
        """T (q, q) of each factor: block diagonal over its terms."""
        out = []
        for columns in self.Z:
            size = sum(len(c.T) for c in columns)
            block, at = np.zeros((size, size)), 0
            for c in columns:
                block[at : at + len(c.T), at : at + len(c.T)] = c.T
                at += len(c.T)
            out.append(block)
        return out

    def _rest_offsets(self) -> list[tuple[int, int]]:
        """(position, first column) of each factor of the rest."""
        sizes = np.cumsum([0] + [levels * q for levels, q in self.structure.rest])
        return [(len(self.structure.chain) + f, int(sizes[f])) for f in range(len(self.structure.rest))]

    def _fill_border(self, border: np.ndarray, i: int) -> None:
        for position, first in self._rest_offsets():
            q = self.groupings[position].q
            level, other, values = self._cross(i, position)
            for b in range(q):
                border[:, first + other * q + b, level] = values[:, :, b].T

    def _fill_corner(self, corner: np.ndarray) -> None:
        size, p = self.structure.rest_size, self.structure.p
        offsets = self._rest_offsets()
        for position, first in offsets:
            g = self.groupings[position]
            if p:
                xs = self._per_level(position, self.X.rows)  # (q, p, J)
                rows = np.moveaxis(xs, -1, 0).reshape(g.levels * g.q, p)
                corner[first : first + len(rows), size : size + p] = rows
                corner[size : size + p, first : first + len(rows)] = rows.T
            own = self._per_level(position, partial(self.z, position))  # (q, q, J)
            at = first + np.arange(g.levels) * g.q
            for a in range(g.q):
                for b in range(g.q):
                    corner[at + a, at + b] = own[a, b]
            for other, start in offsets:
                if other <= position:
                    continue
                level, level_other, values = self._cross(position, other)
                q_other = self.groupings[other].q
                for a in range(g.q):
                    for b in range(q_other):
                        rows_, cols_ = first + level * g.q + a, start + level_other * q_other + b
                        corner[rows_, cols_] = values[:, a, b]
                        corner[cols_, rows_] = values[:, a, b]

    def _cells(self) -> dict[str, np.ndarray]:
        level, column, values = [], [], []
        for position, first in self._rest_offsets():
            q = self.groupings[position].q
            own, other, block = self._cross(0, position)
            for b in range(q):
                level.append(own)
                column.append(first + other * q + b)
                values.append(block[:, :, b])
        values = np.concatenate(values)
        order, arrays = cell_pairs(np.concatenate(level), np.concatenate(column), self.structure.rest_size)
        room = len(arrays["level"]) - len(order)
        return {"values": np.pad(values[order].T, ((0, 0), (0, room))), **arrays}


def cell_pairs(level: np.ndarray, column: np.ndarray, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The order in which cells are kept, by level, and ``Cells``' arrays of indices in it; ``size`` is Q_R.

    The arrays go on after the cells that there are, up to the length of their ``bucket``: with further ones at the last
    level and column, whose values are to be zero, so that designs in which other cells occur share their programs.
    """
    order = np.lexsort((column, level))
    level, column = level[order], column[order]
    # all pairs a >= b within a level: cell a pairs with those from the start of its level up to itself
    start = np.searchsorted(level, level)
    reach = np.arange(len(level)) - start + 1
    pair_a = np.repeat(np.arange(len(level)), reach)
    pair_b = np.arange(len(pair_a)) - np.repeat(np.cumsum(reach) - reach, reach) + start[pair_a]
    by_target = np.argsort(column[pair_a].astype(np.int64) * size + column[pair_b])
    n = len(level)
    more, more_pairs = bucket(n + 1) - n, bucket(len(pair_a)) - len(pair_a)  # one of them at least, for the pairs
    return order, {
        "level": np.append(level, np.full(more, level[-1])).astype(np.int32),
        "column": np.append(column, np.full(more, size - 1)).astype(np.int32),
        "pair_a": np.append(pair_a[by_target], np.full(more_pairs, n)).astype(np.int32),
        "pair_b": np.append(pair_b[by_target], np.full(more_pairs, n)).astype(np.int32),
    }


def assemble(accumulator: Accumulator, parts: dict, response: dict) -> Gram:
    """The pytree, from ``Accumulator.design()`` and ``Accumulator.response(y)``; call it with x64 enabled."""
    a, s = accumulator, accumulator.structure
    borders = []
    for border, column in zip(parts["borders"], response["borders"], strict=True):
        border = border.copy()
        border[:, -1] = column
        borders.append(border)
    corner = parts["corner"].copy()
    corner[-1, :] = corner[:, -1] = response["corner"]
    tree: Any = Gram(
        blocks=tuple(parts["blocks"]),
        links=tuple(tuple(x) for x in parts["links"]),
        parents=tuple(tuple(x) for x in parts["parents"]),
        borders=tuple(borders),
        cells=None if parts["cells"] is None else Cells(**parts["cells"]),
        corner=corner,
        T=tuple(a.changes()),
        T_X=a.X.T,
        beta0=np.asarray(response["beta0"]),
        logdet_T=np.asarray(np.linalg.slogdet(a.X.T)[1] if s.p else 0.0),
        n_obs=np.asarray(float(a.n)),
        sum_log_weights=np.asarray(0.0 if a.weights is None else float(np.sum(np.log(a.weights)))),
        inputs=a.inputs,
        structure=s,
    )
    return jax.device_put(tree)
