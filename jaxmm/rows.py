"""Design columns + Structure -> Rows: the data of a generalised model, laid out for sums over levels.

A linear model needs cross-products only; here the working weights change with the parameters, so the rows stay, and

    spread   b (.., J) -> b[codes] (.., H, P)      collect   x (.., H, P) -> sums over the rows of each level (.., J)

are needed again and again, each the transpose of the other.  Scattering rows one by one is slow everywhere, so the
rows are cut into *pieces* of equal height, each of one level, padded with rows of weight zero: a sum is then a sum
over a short axis and a scatter of a few pieces.  The first factor to be eliminated has its rows in place, in P pieces
of height H, and every array of rows is (.., H, P); the other factors of the chain follow it through their parents;
those of the rest have pieces of their own, reached by a permutation (``_pieces.pick``).

The columns are changed as in ``gram``: X_s = XT_X, Z_s = ZT.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import block_diag

from jaxmm import _runs, costs
from jaxmm._compiled import bucket
from jaxmm._pieces import pick, repeat_pieces, sum_pieces
from jaxmm._types import Array
from jaxmm.cells import Cells, cell_pairs
from jaxmm.gram import Accumulator, Gram
from jaxmm.layout import Layout, layout_of
from jaxmm.structure import Structure, parents_of


@partial(
    jax.tree_util.register_dataclass, data_fields=["there", "back", "level"], meta_fields=["levels", "height", "rows"]
)
@dataclass(frozen=True)
class Pieces:
    """Where the rows of each level of one factor are.

    Piece k holds ``height`` rows of the level ``level[k]``; ``level`` is None where piece k is level k.  ``there`` and
    ``back`` lead from the order of the rows, whose arrays are ``rows`` = (H, P), to that of the pieces and back; None
    where they are the same.
    """

    there: Array | None
    back: Array | None
    level: Array | None
    levels: int
    height: int
    rows: tuple[int, int]

    def collect(self, x: Array) -> Array:
        if self.there is not None:
            x = pick(x.reshape(*x.shape[:-2], -1), self.there, self.back)  # pyright: ignore
            x = x.reshape(*x.shape[:-1], self.height, -1)
        x = sum_pieces(x)
        if self.level is None:
            return x
        total = jnp.zeros((*x.shape[:-1], self.levels), x.dtype)
        return total.at[..., self.level].add(x, indices_are_sorted=True, mode="promise_in_bounds")

    def spread(self, b: Array) -> Array:
        if self.level is not None:
            b = b.at[..., self.level].get(indices_are_sorted=True, mode="promise_in_bounds")
        b = repeat_pieces(b, self.height)
        if self.there is None:
            return b
        b = pick(b.reshape(*b.shape[:-2], -1), self.back, self.there)  # pyright: ignore
        return b.reshape(*b.shape[:-1], *self.rows)


@partial(
    jax.tree_util.register_dataclass, data_fields=["pieces", "there", "back"], meta_fields=["first", "second", "shape"]
)
@dataclass(frozen=True)
class Crossing:
    """The pairs of levels of two factors that occur, ``first`` and ``second`` in elimination order.

    ``pieces`` collects rows into pairs; ``there`` and ``back`` place the pairs in the dense table ``shape``
    (levels of second, levels of first).
    """

    pieces: Pieces
    there: Array
    back: Array
    first: int
    second: int
    shape: tuple[int, int]

    def table(self, x: Array) -> Array:
        """Rows x (.., H, P) -> sums (.., J_second, J_first)."""
        return pick(self.pieces.collect(x), self.there, self.back).reshape(*x.shape[:-2], *self.shape)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "y", "trials", "weights", "offset", "X", "Z", "main", "others", "parents", "crossings", "cells", "cell_order",
        "T", "T_X", "source", "log_constant", "n_obs", "inputs", "copies", "further_offsets", "mixed",
    ],
    meta_fields=["chain_levels", "structure", "family"],
)  # fmt: skip
@dataclass(frozen=True)
class Rows:
    """The rows of a generalised model; a pytree whose static fields are ``structure``, ``family`` and
    ``chain_levels``, the number of levels of each factor of the chain.

    ``y``, ``trials``, ``weights``, ``offset`` (H, P) and ``further_offsets`` of the predictors after the first, ``X``
    (p, H, P), ``Z[f]`` (q_f, H, P) of each factor in elimination order; rows of weight zero fill the pieces.  ``main``
    lays out the first factor, ``others`` those of the rest; ``parents[i][k]`` as in ``Gram``.  ``crossings``: pairs of
    levels for couplings to and within the rest; ``cells`` where the first of these are kept as a list, whose values
    stand in ``cell_order`` (there, back).  ``source`` (H, P): the row of the data at each place.  ``log_constant``: the
    part of the log density that depends on no parameter, weighted and summed.  ``inputs`` and ``copies`` as in
    ``Gram``.  ``mixed``, a ``mixed.Mixed``: where rows of a piece have been mixed, the factors of the rest, of which
    nothing stands elsewhere then, nor in ``structure``.
    """

    y: Array
    trials: Array
    weights: Array
    offset: Array
    X: Array
    Z: tuple[Array, ...]
    main: Pieces
    others: tuple[Pieces, ...]
    parents: tuple[tuple[Array, ...], ...]
    crossings: tuple[Crossing, ...]
    cells: Cells | None
    cell_order: tuple[Array, Array] | None
    T: tuple[Any, ...]
    T_X: Any
    source: Array
    log_constant: Any
    n_obs: Any
    inputs: tuple[Any, ...]
    chain_levels: tuple[int, ...] = field(metadata={"static": True})
    structure: Structure = field(metadata={"static": True})
    family: Any = field(metadata={"static": True})
    copies: tuple[Array, ...] | None = None
    further_offsets: tuple[Array, ...] = ()
    mixed: Any = None

    @property
    def layout(self) -> Layout:
        """Of psi, the parameters that the likelihood has."""
        return layout_of(self.structure, self.family)

    def with_response(self, y: Array) -> Rows:
        """The same rows with another response (n,), in the order of the data; pure, safe under ``jit`` and ``vmap``."""
        return self.with_data(y)

    def with_data(
        self,
        y: Array | None = None,
        weights: Array | None = None,
        offset: Array | None = None,
        trials: Array | None = None,
    ) -> Rows:
        """The same with another response, weights, offset of the mean or trials (n,), None for those at hand; pure."""
        dtype, changed = self.weights.dtype, {}
        if weights is not None:  # what fills the pieces weighs nothing
            own = jnp.asarray(weights, dtype)[self.source]
            changed["weights"] = jnp.where(self.weights > 0, own, 0.0)
        if offset is not None:
            changed["offset"] = jnp.asarray(offset, dtype)[self.source]
        if trials is not None:
            changed["trials"] = jnp.asarray(trials, dtype)[self.source]
        rows = replace(self, y=self.y if y is None else jnp.asarray(y, dtype)[self.source], **changed)
        constant = jnp.sum(rows.weights * self.family.log_constant(rows.y, rows.trials))
        return replace(rows, log_constant=constant)

    def no_variation(self, y: Array, counts: Array | None = None, trials: Array | None = None) -> Array:
        """(..) which of the responses y (n, ..), in the order of the data, have their best fit at infinity, by the rows
        that ``counts`` (n, ..) names, None for all; ``trials`` (n, ..) in the place of the model's."""
        if trials is not None:
            there = True if counts is None else counts
            return self.family.no_variation(jnp.where(there, y, 0.0), jnp.sum(jnp.where(there, trials, 0.0), axis=0))
        if counts is None:
            return self.family.no_variation(y, jnp.sum(jnp.where(self.weights > 0, self.trials, 0.0)))
        if self.family.has_trials:  # a row that does not count has neither success nor trial
            there = (self.weights > 0).reshape(self.weights.shape + (1,) * (counts.ndim - 1)) & counts[self.source]
            trials = self.trials.reshape(self.trials.shape + (1,) * (counts.ndim - 1))
            return self.family.no_variation(jnp.where(counts, y, 0.0), jnp.sum(jnp.where(there, trials, 0.0), (0, 1)))
        first = jnp.take_along_axis(y, jnp.argmax(counts, axis=0)[None], axis=0)
        return self.family.no_variation(jnp.where(counts, y, first))

    # ------------------------------------------------------------ rows and levels
    def levels_of(self, f: int) -> int:
        """The number of levels of factor ``f`` in elimination order."""
        chain = len(self.structure.chain)
        return self.chain_levels[f] if f < chain else self.others[f - chain].levels

    def collect(self, f: int, x: Array) -> Array:
        """Sums of x (.., H, P) over the rows of each level of factor ``f``."""
        chain = len(self.structure.chain)
        if f >= chain:
            return self.others[f - chain].collect(x)
        return self.outwards(f, self.main.collect(x))

    def outwards(self, f: int, x: Array) -> Array:
        """Sums over the levels of the first factor -> sums over those of chain factor ``f``."""
        if f == 0:
            return x
        total = jnp.zeros((*x.shape[:-1], self.levels_of(f)), x.dtype)
        return total.at[..., self.parents[0][f - 1]].add(x, mode="promise_in_bounds")

    def inwards(self, f: int, b: Array) -> Array:
        """What each level of the first factor has of chain factor ``f``."""
        return b if f == 0 else b.at[..., self.parents[0][f - 1]].get(mode="promise_in_bounds")

    def spread(self, f: int, b: Array) -> Array:
        """The element of b (.., J) that each row belongs to: (.., H, P)."""
        chain = len(self.structure.chain)
        return self.others[f - chain].spread(b) if f >= chain else self.main.spread(self.inwards(f, b))

    def effects(self, b: tuple[Array, ...]) -> tuple[Array | None, ...]:
        """Zb (H, P) of each predictor for b (q, J) of each factor, None where no factor adds to it; term by term, since
        a sum over a short first axis is slow."""
        of = self.structure.predictors
        terms: list[list[Array]] = [[] for _ in of.names]
        for f, x in enumerate(b):
            terms[of.of(f)] += [z * self.spread(f, x[k]) for k, z in enumerate(self.Z[f])]
        return tuple(sum(t[1:], t[0]) if t else None for t in terms)

    def pull(self, x: tuple[Array, ...]) -> tuple[Array, ...]:
        """Z'x: (q, J) of each factor, x of the predictor that it adds to among the moving ones."""
        of = self.structure.predictors
        at = [of.moving.index(of.of(f)) for f in range(len(self.Z))]
        return tuple(jnp.stack([self.collect(f, z * x[at[f]]) for z in Z]) for f, Z in enumerate(self.Z))

    def between(self, W: tuple[Array, ...], f: int, other: int) -> Array:
        """The weights of two factors' columns, from those of all pairs of moving predictors (``density.pairs_of``)."""
        of = self.structure.predictors
        a, b = sorted(of.moving.index(of.of(k)) for k in (f, other))
        return W[a * len(of.moving) - a * (a - 1) // 2 + b - a]

    # ------------------------------------------------------------ cross-products
    def gram(self, W: tuple[Array, ...]) -> Gram:
        """Z'WZ for working weights W (H, P) of the pairs of moving predictors, as the structure's solver keeps it."""
        zero = jnp.zeros((), W[0].dtype)
        couplings = self.structure.solver.of_rows(self, W)
        return Gram(couplings, self.T, self.T_X, zero, zero, self.n_obs, zero, self.inputs, self.structure, self.copies)


# ---------------------------------------------------------------- making them, on the host


def choose_height(counts: np.ndarray) -> int:
    """The height of the pieces that makes padded rows and scattered pieces cheapest."""
    n, most = int(counts.sum()), int(counts.max(initial=1))
    if most * len(counts) <= 1.2 * n + 64 and (len(counts) >= 64 or n <= 4096):
        return most
    heights = [h for h in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if h == 1 or n >= h * costs.FEW_PIECES]
    if len(counts) >= 64:
        heights.append(most)

    def cost(h: int) -> float:
        pieces = int(np.sum(-(-counts // h)))
        return h * pieces + (0.0 if h == most else costs.PIECE_ROWS * pieces)

    return min(heights, key=cost)


def rounded(height: int, digits: int) -> int:
    """A height of at least this, of so many binary digits: designs of nearly one height share their programs."""
    step = 1 << max(0, (height - 1).bit_length() - digits)
    return -(-height // step) * step


def pieces(
    codes: np.ndarray, levels: int, digits: int | None = None, height: int | None = None
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """(height, pieces) the row at each place, -1 where there is none; the levels of the pieces; their height.

    The ``height`` is chosen where it is not given.  With ``digits`` it is ``rounded``, and pieces without rows fill
    their number up to its ``bucket``.
    """
    counts = np.bincount(codes, minlength=levels)
    height = choose_height(counts) if height is None else height
    height = rounded(height, digits) if digits else height
    each = np.maximum(-(-counts // height), 1)
    if digits and each.sum() > levels:
        each[-1] += bucket(int(each.sum())) - each.sum()
    level = np.repeat(np.arange(levels), each)
    first = np.cumsum(counts) - counts
    piece = _runs.places(each)
    inside = piece[None, :] * height + np.arange(height)[:, None]
    order = np.argsort(codes, kind="stable")
    places = np.where(inside < counts[level], order[np.minimum(first[level] + inside, len(codes) - 1)], -1)
    return places, None if len(level) == levels else level.astype(np.int32), height


def pieces_of(codes: np.ndarray, levels: int, rows: tuple[int, int], room: bool = False) -> Pieces:
    """The pieces of a factor whose rows, (H, P), are not in its order: ``codes`` (H P,), ``room`` of ``make_rows``."""
    places, level, height = pieces(codes, levels, 2 if room else None)
    there = places.ravel()
    back = np.full(len(codes), len(there), np.int32)
    real = there >= 0
    back[there[real]] = np.flatnonzero(real)
    return Pieces(np.where(real, there, len(codes)).astype(np.int32), back, level, levels, height, rows)  # pyright: ignore


class Laid(NamedTuple):
    """Rows whose place is given: ``places`` (H, P) the row at each, -1 for none, ``source`` (H P,) a row of the same
    level there too; ``level`` (P,) of the first factor, None where piece k is level k."""

    places: np.ndarray
    source: np.ndarray
    level: np.ndarray | None


def make_rows(
    accumulator: Accumulator, family: Any, y, trials, offsets, room: bool = True, laid: Laid | None = None
) -> Rows:
    """The pytree, from the columns of a model, without its ``log_constant``; call it with x64 enabled.

    ``y``, ``trials`` and the ``offsets`` of each predictor (n,) in the order of the data; the weights are the
    accumulator's.  With ``room``,
    small designs that differ in their rows, or in which levels of crossed factors meet, have arrays of equal shapes.
    Without it, for lanes, the rows of a level of the one factor are one piece, unless that fills too much.
    """
    a, s = accumulator, accumulator.structure
    found = _lay_out(a, room) if laid is None else laid
    (places, source, level), height = found, len(found.places)
    room = room and a.n < costs.SMALL_PROGRAM
    real = places >= 0
    shape = places.shape
    everything = slice(0, a.n)
    weights = np.ones(a.n) if a.weights is None else a.weights
    codes = [g.codes[source] for g in a.groupings]
    chain = len(s.chain)
    others = tuple(pieces_of(codes[f], a.groupings[f].levels, shape, room) for f in range(chain, len(codes)))
    crossings, pairs = _crossings(a, codes, chain, shape, room)
    cells, cell_order = _cells(pairs, crossings, a, chain) if s.sparse else (None, None)

    def lay(values: np.ndarray) -> np.ndarray:
        """(n,) -> (H, P), or (n, k) -> (k, H, P)."""
        return np.ascontiguousarray(values[source].T).reshape(*values.shape[1:], *shape)

    parts: dict[str, Any] = dict(
        y=lay(np.asarray(y, float)),
        trials=lay(np.asarray(trials, float)),
        weights=np.where(real, lay(weights), 0.0),
        offset=lay(np.asarray(offsets[0], float)),
        X=lay(np.hstack([columns.rows(everything) for columns in (a.X, *a.further)])),
        Z=tuple(lay(a.z(f, everything)) for f in range(len(codes))),
        main=Pieces(None, None, level, a.groupings[0].levels if chain else shape[1], height, shape),  # pyright: ignore
        others=others,
        parents=tuple(tuple(x) for x in parents_of(a.plan)),
        crossings=crossings,
        cells=cells,
        cell_order=cell_order,
        T=tuple(a.changes()),
        T_X=block_diag(*(columns.T for columns in (a.X, *a.further) if len(columns.T))) if s.p else a.X.T,
        inputs=a.inputs,
        source=source.reshape(shape).astype(np.int32),
        log_constant=np.asarray(0.0),
        n_obs=np.asarray(float(a.n)),
        chain_levels=tuple(g.levels for g in a.groupings[:chain]),
        structure=s,
        family=family,
        further_offsets=tuple(lay(np.asarray(offset, float)) for offset in offsets[1:]),
    )
    return jax.device_put(Rows(**parts))


def _lay_out(a: Accumulator, room: bool) -> Laid:
    """In pieces of the first factor, or of one row each where there is none."""
    if not a.groupings:
        return Laid(np.arange(a.n)[None], np.arange(a.n), None)
    most, only = int(np.bincount(a.groupings[0].codes).max()), len(a.groupings) == 1
    whole = not room and only and a.groupings[0].levels * most <= costs.TABLE_FILL * a.n
    room = room and a.n < costs.SMALL_PROGRAM
    height = most if whole else None
    places, level, _ = pieces(a.groupings[0].codes, a.groupings[0].levels, 3 if room else None, height)
    # what fills a piece is a copy of a row of the same level, which is in the family's support
    some = np.empty(a.groupings[0].levels, np.int64)
    some[a.groupings[0].codes] = np.arange(a.n)
    source = np.where(places >= 0, places, some if level is None else some[level]).ravel()
    return Laid(places, source, level)


def _crossings(a: Accumulator, codes: list[np.ndarray], chain: int, shape: tuple[int, int], room: bool):
    """Every pair of factors of which one is of the rest, and the levels (first, second) of its pairs that occur."""
    crossings, pairs = [], {}
    for second in range(chain, len(codes)):
        for first in range(second):
            J, K = a.groupings[first].levels, a.groupings[second].levels
            found, at = np.unique(codes[first].astype(np.int64) * K + codes[second], return_inverse=True)
            pairs[first, second] = found // K, found % K
            kept = bucket(len(found)) if room else len(found)  # the pairs beyond those found have no rows
            dense = first > 0 or not a.structure.sparse
            place = (found % K) * J + found // K
            there = np.full(J * K if dense else 0, kept, np.int32)
            back = np.full(kept if dense else 0, J * K, np.int64)
            if dense:
                there[place], back[: len(found)] = np.arange(len(found)), place
            pieces = pieces_of(at.astype(np.int64), kept, shape, room)
            crossings.append(
                Crossing(pieces, there, back.astype(np.int32), first, second, (K, J))  # pyright: ignore
            )
    return tuple(crossings), pairs


def _cells(pairs: dict, crossings: tuple[Crossing, ...], a: Accumulator, chain: int):
    """The cells of the first factor with the rest, in the order of ``Gram``, and how to get their values there."""
    level, column, place, total = [], [], [], 0
    for position, inside in enumerate(a.structure.rest_places()):
        own, other = pairs[0, chain + position]
        kept = next(c.pieces.levels for c in crossings if (c.first, c.second) == (0, chain + position))
        for b in range(inside.shape[1]):
            level.append(own)
            column.append(inside[other, b])
            place.append(total + np.arange(len(own)))
            total += kept
    order, arrays = cell_pairs(np.concatenate(level), np.concatenate(column), a.structure.rest_size)
    there = np.full(len(arrays["level"]), total, np.int32)  # no value: zero
    there[: len(order)] = np.concatenate(place)[order]
    back = np.full(total, len(there), np.int32)
    back[there[: len(order)]] = np.arange(len(order))
    return Cells(values=np.zeros((0, 0)), **arrays), (there, back)  # pyright: ignore
