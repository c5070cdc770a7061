"""Rows of lanes that share X and Z -> the sums that ``systems`` takes, as products with matrices that they share.

    A_j = Z_j'W_l Z_j    Z_j'W_l X    Z_j'W_l e    X'W_l X     each an entry of (products of columns) (weights of l)

A matrix product adds a row for about a hundred entries in the time that a pass over the rows takes for one.  Most of
the entries of a row are zero, as it is of one level: from some levels on they are taken by *tiles* of consecutive
levels, whose rows are filled up to equal numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.gram import Accumulator
from jaxmm.lanes.entrywise import Matrix, lower_pairs
from jaxmm.lanes.systems import Squares, Sums, least_squares, symmetric


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["X", "XX", "weights", "offset", "codes", "source", "place", "ZZ", "ZX", "Z", "there"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Products:
    """``X`` (p, n), ``XX`` (pairs of columns, n), ``weights`` and ``offset`` (n,) of the model, ``codes`` (n,) the
    levels.  By tiles of G levels and R rows each: ``source`` (T, R) the rows, None where there is one tile;
    ``ZZ`` (T, pairs of effects, G, R), ``ZX`` (T, q p, G, R), ``Z`` (T, q, G, R), ``there`` (T, 1, G, R), which are
    zero where a row is not of the level; ``place`` (J,) of each level in the tiles, None where they are in order.
    """

    X: Array
    XX: Array
    weights: Array
    offset: Array
    codes: Array
    source: Array | None
    place: Array | None
    ZZ: Array
    ZX: Array
    Z: Array
    there: Array

    def cross_products(self, W: Array) -> Array:
        """X'WX (p, p, L), of W (n, L)."""
        return _unpacked(self.XX @ W, len(self.X))

    def squares(self, y: Array, W: Array) -> Squares:
        """Of ``y`` (n, L) with W (n, L), into which what a level counts has been multiplied."""
        crossed, less = (lambda e: self.X @ (W * e)), (lambda e, b: e - self.X.T @ b)
        return least_squares(self.cross_products(W), y, crossed, less)

    def rows(self, x: Array) -> Array:
        """(n, L) -> (T, R, L)."""
        return x[None] if self.source is None else x[self.source]

    def collect(self, matrix: Array, rows: Array) -> Array:
        """(T, k, G, R) and rows (T, R, L) -> (k, J, L)."""
        T, k, G, R = matrix.shape
        found = jnp.matmul(matrix.reshape(T, k * G, R), rows).reshape(T, k, G, -1)
        found = jnp.moveaxis(found, 0, 1).reshape(k, T * G, -1)
        return found if self.place is None else found[:, self.place]

    def of_effects(self, rows: Array) -> Array:
        """A (q, q, J, L)."""
        return _unpacked(self.collect(self.ZZ, rows), self.Z.shape[1])

    def crossed(self, rows: Array) -> Matrix:
        """Z_j'WX (q, p) of (J, L) each."""
        p, found = len(self.X), self.collect(self.ZX, rows)
        return [[found[a * p + c] for c in range(p)] for a in range(self.Z.shape[1])]

    def sums(self, e: Array, W: Array, counted: Array) -> Sums:
        """``counted`` (n, L): W times what a level counts."""
        We = counted * e
        return Sums(list(self.collect(self.Z, self.rows(W * e))), list(self.X @ We), jnp.sum(e * We, axis=0))


def _unpacked(lower: Array, n: int) -> Array:
    """(pairs, ..) of a lower triangle by ``lower_pairs`` -> (n, n, ..)."""
    return symmetric(lambda a, b: lower[a * (a + 1) // 2 + b], n)


def make_products(a: Accumulator, offset: np.ndarray | None) -> Products:
    """From the columns of a model of one factor; call it with x64 enabled."""
    g, everything = a.groupings[0], slice(0, a.n)
    X, Z = a.X.rows(everything), a.z(0, everything)
    p, q = X.shape[1], Z.shape[1]
    per_level = q * (q + 1) // 2 + q * p + q + 1
    source, tile, slot, G = tiles(g.codes, g.levels, per_level)
    real = source >= 0
    rows = np.where(real, source, 0)
    of_level = 1.0 * (real[:, None] & (slot[g.codes[rows]][:, None] == np.arange(G)[:, None]))  # (T, G, R)

    def lay(columns: list[np.ndarray]) -> np.ndarray:
        if not columns:
            return np.zeros((len(source), 0, *of_level.shape[1:]))
        return np.stack([of_level * c[rows][:, None] for c in columns], axis=1)

    def pairs(A: np.ndarray) -> list[np.ndarray]:
        return [A[:, a] * A[:, b] for a, b in lower_pairs(A.shape[1])]

    place = tile * G + slot
    parts = (
        np.ascontiguousarray(X.T),
        np.stack(pairs(X)) if p else np.zeros((0, a.n)),
        np.ones(a.n) if a.weights is None else a.weights,
        np.zeros(a.n) if offset is None else offset,
        g.codes.astype(np.int32),
        None if len(source) == 1 else rows.astype(np.int32),
        None if np.array_equal(place, np.arange(len(source) * G)) else place.astype(np.int32),
        lay(pairs(Z)),
        lay([Z[:, k] * X[:, c] for k in range(q) for c in range(p)]),
        lay(list(Z.T)),
        of_level[:, None],
    )
    return Products(*jax.device_put(parts))


def tiles(codes: np.ndarray, levels: int, per_level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Consecutive levels in tiles with at most ``costs.TILE_ENTRIES`` entries of ``per_level`` each, and no more rows
    than the largest level or ``costs.TILE_ROWS`` need: the rows (T, R) of each, -1 where there is none, the tile and
    the place in it (J,) of each level, and the most levels of one."""
    if levels * per_level <= costs.TILE_ENTRIES:
        return np.arange(len(codes))[None], np.zeros(levels, int), np.arange(levels), levels
    counts = np.bincount(codes, minlength=levels)
    most = max(costs.TILE_ENTRIES // per_level, 1)
    room = max(int(counts.max()), costs.TILE_ROWS, int(1.2 * len(codes) * most / levels))
    tile, slot = np.zeros(levels, int), np.zeros(levels, int)
    now, filled, first = 0, 0, 0
    for j, c in enumerate(counts.tolist()):
        if j - first == most or filled + c > room:
            now, filled, first = now + 1, 0, j
        tile[j], slot[j], filled = now, j - first, filled + c
    order = np.argsort(codes, kind="stable")
    of = tile[codes[order]]
    starts = np.searchsorted(of, np.arange(now + 1))
    R = int(np.diff([*starts, len(codes)]).max())
    source = np.full((now + 1, R), -1)
    source[of, np.arange(len(codes)) - starts[of]] = order
    return source, tile, slot, int(slot.max()) + 1
