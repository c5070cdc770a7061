"""A linear model with one grouping factor whose lanes share X and Z: weights, offsets or copies of levels of their own.

A weight of zero is no row, whatever stands in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.lanes.closed_form import Systems
from jaxmm.lanes.entrywise import cholesky
from jaxmm.lanes.linear_lanes import too_few
from jaxmm.lanes.own_rows import Laid, verdict
from jaxmm.lanes.own_search import OwnData, OwnSearch
from jaxmm.lanes.products import Products
from jaxmm.lanes.systems import ROUNDING, is_aliased, made, whitened
from jaxmm.sources.responses import Varying


@partial(jax.tree_util.register_dataclass, data_fields=["gram", "harmless", "shared", "by"], meta_fields=["cells"])
@dataclass(frozen=True)
class LinearWeighted(OwnSearch):
    """As ``OwnSearch``; ``by`` the products of the model's columns."""

    by: Products
    accepts = frozenset({"y", "weights", "offset", "copies"})

    def data(self, own: Varying) -> OwnData:
        by, (laid, counted) = self.by, self._laid(own)
        K, B = self.shared.K, self.shared.B
        if own.weights is not None:
            rows = by.rows(laid.W)
            K = cholesky(by.of_effects(rows), ROUNDING)
            B = whitened(K, by.crossed(rows), own.copies)
        elif own.copies is not None:
            B = jnp.sqrt(own.copies) * B
        found = by.squares(laid.e, counted)
        data, within = made(K, B, by.sums(found.e, laid.W, counted), found, own.copies)
        count, logs, levels = self._counts(laid, own.copies)
        systems = Systems(None if own.weights is None else K, B, own.copies, within, count, logs, None)
        return OwnData(systems, data, jnp.broadcast_to(levels, data.yy.shape), None, None)

    def _laid(self, own: Varying) -> tuple[Laid, Array]:
        """The rows, and their weights times what their levels count."""
        by, y = self.by, own.y
        W, offset = by.weights[:, None], by.offset[:, None] if own.offset is None else own.offset
        copies = None if own.copies is None else own.copies[by.codes]
        e, good = y - offset, True
        there = jnp.broadcast_to(W > 0, y.shape) if own.weights is None else (W > 0) & (own.weights > 0)
        there = there if copies is None else there & (copies > 0)
        for x in (own.weights, own.copies):
            good = good if x is None else good & jnp.all(jnp.isfinite(x) & (x >= 0), axis=0)
        good = good & jnp.all(jnp.isfinite(e) | ~there, axis=0)
        y, e = jnp.where(there, y, 0.0), jnp.where(there, e, 0.0)
        W = jnp.where(there, W if own.weights is None else own.weights, 0.0)
        return Laid(y, e, W, there, None, None, None, None, None, good), W if copies is None else W * copies

    def _counts(self, laid: Laid, copies: Array | None) -> tuple[Array, Array, Array]:
        """Rows, the sum of log w over them, and levels that have any."""
        there, logs = 1.0 * laid.there, jnp.log(jnp.where(laid.there, laid.W, 1.0))
        some = self.by.collect(self.by.there, self.by.rows(there))[0] > 0
        if copies is None:
            return jnp.sum(there, axis=0), jnp.sum(logs, axis=0), jnp.sum(1.0 * some, axis=0)
        c = copies[self.by.codes]
        return jnp.sum(c * there, axis=0), jnp.sum(c * logs, axis=0), jnp.sum(copies * some, axis=0)

    def refuse(self, own: Varying) -> Array:
        """Lanes with numbers that are not finite where there is a row, with too few rows, with columns of X that depend
        on each other; else as ``linear_lanes.refuse``."""
        by, (laid, counted) = self.by, self._laid(own)
        aliased = is_aliased(by.cross_products(1.0 * laid.there)) if len(by.X) else jnp.asarray(False)
        (count, _, levels), s = self._counts(laid, own.copies), self.gram.structure
        left = by.squares(laid.e, counted).e
        return verdict(laid, left, aliased, too_few(count, [levels], s, aliased, s.p))
