"""A generalised model with one grouping factor, many responses: Newton's method with ``laplace_blocks``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.lanes import generalised_lanes as common
from jaxmm.lanes.advance import LAST, Lanes, Value
from jaxmm.lanes.generalised_lanes import RowData
from jaxmm.lanes.laplace_blocks import value_and_derivatives
from jaxmm.lanes.laplace_table import Kept, Own, RowTable, modes_from_zero
from jaxmm.lanes.problem import Found
from jaxmm.optimize import STEADY
from jaxmm.rows import Rows
from jaxmm.sources.responses import Varying
from jaxmm.start_glmm import second_start


@partial(jax.tree_util.register_dataclass, data_fields=["rows", "table", "harmless"], meta_fields=[])
@dataclass(frozen=True)
class GeneralisedBlocks:
    """``rows`` of the model, whose response does not matter, and the same rows as a ``table``."""

    rows: Rows
    table: RowTable
    harmless: Array
    accepts = frozenset({"y", "weights", "offset", "copies"})
    takes_any = False
    polished = False
    steady = STEADY  # and ``found`` takes the last step
    temporaries = 6
    library = frozenset({"start", "found"})

    @property
    def rows_of_theta(self) -> list:
        return common.rows_of_theta(self.rows)

    def data(self, own: Varying) -> Own:
        data = common.row_data(own, self.rows)
        table = data.each(lambda x: jnp.swapaxes(x, 0, 1))
        weights = None if data.weights is None else table.weights / jnp.where(self._weights > 0, self._weights, 1.0)
        copies = None if data.copies is None else data.copies[0]
        return Own(table.y, data.constant, copies, weights, table.offset)

    @property
    def _weights(self) -> Array:
        """Of the rows of the model, (J, H, 1): those in the products of the table."""
        return jnp.swapaxes(self.table.products.one, 1, 2)

    def refuse(self, own: Varying) -> Array:
        return common.refuse(own, self.rows)

    def start(self, data: Own) -> Array:
        weights = None if data.weights is None else data.weights * self._weights
        rows = RowData(data.y, data.constant, None, weights, data.offset)
        return common.start(rows.each(lambda x: jnp.swapaxes(x, 0, 1)), self.rows)

    def prepare(self, theta: Array, data: Own) -> Kept:
        return modes_from_zero(theta, data, self.table)

    def guess(self, theta: Array) -> Array:
        return jnp.zeros((len(theta), *theta.shape), theta.dtype)

    def evaluate(self, theta: Array, data: Own, kept: Kept) -> Value:
        return value_and_derivatives(theta, data, kept, self.table)

    def doubtful(self, s: Lanes) -> Array:
        return common.doubtful(s, self.rows)

    def again(self, s: Lanes) -> tuple[Array, Kept, Array]:
        psi = second_start(s.theta, self.rows, jnp)
        kept = Kept(psi, common.from_zero_where_failed(s.kept.u, s), jnp.zeros_like(s.kept.slope))
        return psi, kept, s.round + LAST

    def outcome(self, s: Lanes, data: Own) -> Any:
        return s.theta, Value(s.value, s.gradient, s.hessian, None), s.status

    def found(self, outcome: Any) -> Found:
        psi, at, status = outcome
        return common.generalised_found(psi, at, status, self.rows)
