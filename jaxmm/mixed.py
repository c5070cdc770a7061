"""Rows that were mixed within their pieces -> sums by level of the factors that cross the pieces.

Errors that are correlated within a subject are made independent by a matrix of the subject's own, and a row of L^-1 Z
has entries at all the levels that rows of its subject had.  Of the factors of the rest, Q columns in all, a piece keeps
those that it has rows in, C at most:

    Z (C, H, P)      column (C, P)  which of the Q columns each is, -1 for none

Products over the rows of a piece, such as Z'Z (C, C, P), are then ``Placed`` in tables by column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from jaxmm._pieces import pick
from jaxmm._runs import ranks
from jaxmm._types import Array
from jaxmm.gram import Accumulator
from jaxmm.rows import Laid, Pieces, pieces


@partial(jax.tree_util.register_dataclass, data_fields=["pieces", "there", "back"], meta_fields=[])
@dataclass(frozen=True)
class Placed:
    """Where numbers (A, P) go in a flat table: ``pieces`` sums those that go to one place, ``there`` and ``back`` lead
    from the sums to the table."""

    pieces: Pieces
    there: Array
    back: Array

    def table(self, x: Array) -> Array:
        """Sums (.., size) of x (.., A, P)."""
        return pick(self.pieces.collect(x), self.there, self.back)


@partial(jax.tree_util.register_dataclass, data_fields=["Z", "column", "square", "side", "borders"], meta_fields=[])
@dataclass(frozen=True)
class Mixed:
    """``Z`` and ``column`` of the module's head; ``square`` places pairs of columns (C C, P) among Q Q, ``side``
    columns (C, P) among Q, ``borders[f]`` columns and the piece's level of chain factor f among Q J_f."""

    Z: Array
    column: Array
    square: Placed
    side: Placed
    borders: tuple[Placed, ...]


# ---------------------------------------------------------------- on the host
def make_mixed(a: Accumulator, laid: Laid) -> Mixed:
    """Of the factors of the rest, of rows that lie in pieces as ``laid``."""
    s, places = a.structure, laid.places
    chain, size, there = len(s.chain), s.rest_size, places >= 0
    source = laid.source.reshape(places.shape)
    Z, columns = [], []
    for f, inside in enumerate(s.rest_places(), chain):
        own, level = _levels_within(a.groupings[f].codes[source], there)
        z = np.moveaxis(a.z(f, slice(0, a.n))[source], -1, 0)  # (q, H, P)
        at = (own == np.arange(len(level))[:, None, None]) & there  # (K, H, P)
        Z.append((z[None] * at[:, None]).reshape(-1, *places.shape))
        column = np.where(level[:, :, None] >= 0, inside[level], -1)  # (K, P, q)
        columns.append(np.moveaxis(column, -1, 1).reshape(-1, places.shape[1]))
    column = np.concatenate(columns)
    real = column >= 0
    pairs = np.where(real[:, None] & real[None], column[:, None] * size + column[None], -1)
    first = np.arange(places.shape[1]) if laid.level is None else laid.level
    borders = []
    for f, g in enumerate(a.groupings[:chain]):
        level = first if f == 0 else a.plan.parents[a.plan.chain[0], a.plan.chain[f]][first]
        borders.append(_placed(np.where(real, column * g.levels + level, -1), size * g.levels))
    return Mixed(
        np.concatenate(Z),  # pyright: ignore
        column.astype(np.int32),  # pyright: ignore
        _placed(pairs.reshape(-1, pairs.shape[-1]), size * size),
        _placed(column, size),
        tuple(borders),
    )


def _levels_within(codes: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, P) which of the levels of its piece each row has, and (K, P) these levels, -1 where a piece has fewer."""
    J = int(codes.max()) + 1
    piece = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)
    found, at = np.unique(piece[there] * J + codes[there], return_inverse=True)
    of, level = found // J, found % J
    rank = ranks(of)
    own = np.zeros(codes.shape, int)
    own[there] = rank[at]
    levels = np.full((int(rank.max()) + 1, codes.shape[1]), -1)
    levels[rank, of] = level
    return own, levels


def _placed(target: np.ndarray, size: int) -> Placed:
    """From the place (A, P) that each number goes to, -1 for none, of ``size``."""
    flat = target.ravel()
    real = np.flatnonzero(flat >= 0)
    found, at = np.unique(flat[real], return_inverse=True)
    places, level, height = pieces(at, len(found))
    there = np.where(places >= 0, real[places], len(flat)).ravel()
    back = np.full(len(flat), len(there), np.int32)
    back[there[there < len(flat)]] = np.flatnonzero(there < len(flat))
    to = np.full(size, len(found), np.int32)
    to[found] = np.arange(len(found))
    summed = Pieces(there.astype(np.int32), back, level, len(found), height, target.shape)  # pyright: ignore
    return Placed(summed, to, found.astype(np.int32))  # pyright: ignore
