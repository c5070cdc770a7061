"""A linear model with one grouping factor whose lanes have X or Z of their own, and what else may be theirs.

A weight of zero is no row, and X and Z are changed lane by lane (``own_columns``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.gram import Accumulator
from jaxmm.lanes.closed_form import Systems
from jaxmm.lanes.entrywise import cholesky
from jaxmm.lanes.linear_lanes import too_few
from jaxmm.lanes.own_rows import Effects, Laid, lay_out, verdict
from jaxmm.lanes.own_search import OwnData, OwnSearch
from jaxmm.lanes.systems import ROUNDING, is_aliased, made, whitened
from jaxmm.lanes.table import Table
from jaxmm.rows import pieces
from jaxmm.sources.responses import Varying


@partial(
    jax.tree_util.register_dataclass, data_fields=["source", "W", "X", "Z", "offset", "level"], meta_fields=["levels"]
)
@dataclass(frozen=True)
class TableRows:
    """The model's rows as a ``table.Table`` has them: ``source`` (H, P) the row of the data at each place, ``W`` (H,
    P) with zeros where there is none, ``X`` (p, H, P), ``Z`` (q, H, P), ``offset`` (H, P)."""

    source: Array
    W: Array
    X: Array
    Z: Array
    offset: Array
    level: Array | None
    levels: int


def table_rows(a: Accumulator, offset: np.ndarray | None) -> TableRows:
    """From the columns of a model of one factor; call it with x64 enabled."""
    g, everything = a.groupings[0], slice(0, a.n)
    places, level, _ = pieces(g.codes, g.levels, height=_height(np.bincount(g.codes, minlength=g.levels)))
    real = places >= 0
    source = np.where(real, places, 0)
    weights = np.ones(a.n) if a.weights is None else a.weights

    def lay(values: np.ndarray) -> np.ndarray:
        return np.where(real, np.moveaxis(values[source], -1, 0) if values.ndim > 1 else values[source], 0.0)

    parts: Any = (
        source.astype(np.int32),
        lay(weights),
        lay(a.X.rows(everything)),
        lay(a.z(0, everything)),
        lay(np.zeros(a.n) if offset is None else offset),
        level,
    )
    return TableRows(*jax.device_put(parts), levels=g.levels)


def _height(counts: np.ndarray) -> int:
    """Of the pieces: of all rows of a level, unless that fills the table with too many that are none."""
    most = int(counts.max(initial=1))
    heights = sorted({most, *(h for h in (1, 2, 4, 8, 16, 32, 64, 128) if h < most)}, reverse=True)
    cost = [
        h * int(np.sum(-(-counts // h))) + (0 if h == most else costs.TABLE_PIECE * np.sum(-(-counts // h)))
        for h in heights
    ]
    return heights[int(np.argmin(cost))]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["gram", "harmless", "shared", "rows"],
    meta_fields=["cells", "effects"],
)
@dataclass(frozen=True)
class LinearOwn(OwnSearch):
    """As ``OwnSearch``; ``rows`` of the model, ``effects`` of ``own_rows.effects_of_terms``."""

    rows: TableRows
    effects: Effects = field(metadata={"static": True})
    accepts = frozenset({"y", "weights", "X", "Z", "offset", "copies"})

    def _laid(self, own: Varying) -> tuple[Laid, Table]:
        rows, s = self.rows, self.gram.structure
        copies = own.copies if own.copies is None or rows.level is None else own.copies[rows.level]
        laid = lay_out(own, rows.source, rows.W, rows.offset, copies, s, self.effects)
        X = rows.X[..., None] if laid.X is None else laid.X
        Z = rows.Z[..., None] if laid.Z is None else laid.Z[0]
        return laid, Table(laid.e, laid.W, list(X), list(Z), rows.level, rows.levels)

    def data(self, own: Varying) -> OwnData:
        if own.made is not None:  # by ``segments``
            return own.made
        laid, t = self._laid(own)
        same = own.weights is None and own.Z is None
        K = self.shared.K if same else cholesky(t.of_effects(), ROUNDING)
        found, B = t.squares(own.copies), whitened(K, t.crossed(), own.copies)
        data, within = made(K, B, t.sums(found.e, own.copies), found, own.copies)
        count, logs, levels = self._counts(t, own.copies)
        if own.weights is None and own.copies is None:
            count = logs = None
        T_X = laid.T_X
        logdet = (
            jnp.sum(jnp.log(jnp.stack([x[c] for c, x in enumerate(T_X)])), axis=0)
            if own.X is not None and len(T_X)
            else None
        )
        systems = Systems(None if same else K, B, own.copies, within, count, logs, logdet)
        return OwnData(systems, data, jnp.broadcast_to(levels, data.yy.shape), T_X, laid.T)

    def _counts(self, t: Table, copies: Array | None) -> tuple[Array, Array, Array]:
        """Rows, the sum of log w over them, and levels that have any."""
        there = t.W > 0
        each, logs = t.collect(1.0 * there), t.collect(jnp.log(jnp.where(there, t.W, 1.0)))
        c = 1.0 if copies is None else copies
        return tuple(jnp.sum(c * x, axis=0) for x in (each, logs, 1.0 * (each > 0)))  # pyright: ignore

    def refuse(self, own: Varying) -> Array:
        """Lanes with numbers that are not finite where there is a row, with too few rows, with columns of X that depend
        on each other; else as ``linear_lanes.refuse``."""
        laid, t = self._laid(own)
        found, aliased = t.squares(own.copies), laid.aliased
        if aliased is None:
            XX = found.XX if own.weights is None else t._replace(W=1.0 * laid.there).cross_products(own.copies)
            aliased = is_aliased(XX) if len(XX) else jnp.asarray(False)
        (count, _, levels), s = self._counts(t, own.copies), self.gram.structure
        return verdict(laid, found.e, aliased, too_few(count, [levels], s, aliased, s.p))
