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
from jaxmm.lanes.generalised_rows import RowData, refuse, row_data
from jaxmm.lanes.laplace_blocks import value_and_derivatives
from jaxmm.lanes.laplace_table import Kept, Own, RowTable, modes_from_zero
from jaxmm.lanes.own_rows import Effects
from jaxmm.lanes.problem import Found
from jaxmm.optimize import STEADY
from jaxmm.rows import Rows
from jaxmm.sources.responses import Varying
from jaxmm.start_glmm import second_start


@partial(jax.tree_util.register_dataclass, data_fields=["rows", "table", "harmless", "unit"], meta_fields=["effects"])
@dataclass(frozen=True)
class GeneralisedBlocks:
    """``rows`` of the model, whose response does not matter, and the same rows as a ``table``; ``unit`` and ``effects``
    as of ``generalised_rows.row_data``."""

    rows: Rows
    table: RowTable
    harmless: Array
    unit: Array
    effects: Effects
    accepts = frozenset({"y", "X", "Z", "weights", "offset", "copies", "trials"})
    takes_any = False
    forgiving = False
    polished = False
    steady = STEADY  # and ``found`` takes the last step
    temporaries = 6
    library = frozenset({"start", "found"})

    @property
    def rows_of_theta(self) -> list:
        return common.rows_of_theta(self.rows)

    def data(self, own: Varying) -> Own:
        if own.made is not None:  # by ``segment_rows``
            return self._with_constant(own.made)
        data = row_data(own, self.rows, self.effects, self.unit).each(_turned)
        weights = data.weights
        if weights is not None:
            weights = weights / jnp.where(self._weights > 0, self._weights, 1.0)
        copies, Z = None if data.copies is None else data.copies[0], None if data.Z is None else data.Z[0]
        return Own(data.y, data.constant, copies, weights, data.offset, data.trials, data.X, Z, data.T_X, data.T)

    def _with_constant(self, own: Own) -> Own:
        trials = self.table.trials[..., None] if own.trials is None else own.trials
        constant = own.weigh(self._weights * self.rows.family.log_constant(own.y, trials))
        return own._replace(constant=jnp.sum(constant, axis=(0, 1)))

    @property
    def _weights(self) -> Array:
        """Of the rows of the model, (J, H, 1): those in the products of the table."""
        return jnp.swapaxes(self.table.products.one, 1, 2)

    def refuse(self, own: Varying) -> Array:
        return refuse(own, self.rows)

    def start(self, data: Own) -> Array:
        weights = None if data.weights is None else data.weights * self._weights
        Z = None if data.Z is None else (data.Z,)
        rows = RowData(data.y, data.constant, None, weights, data.offset, data.trials, data.X, Z)
        return common.start(rows.each(_turned), self.rows)

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
        return s.theta, Value(s.value, s.gradient, s.hessian, None), s.status, (data.T_X, data.T)

    def found(self, outcome: Any) -> Found:
        psi, at, status, changes = outcome
        return common.generalised_found(psi, at, status, self.rows, *changes)


def _turned(x: Array) -> Array:
    """Rows of the model's layout (.., H, P, L) as those of a table (.., J, H, L), and back."""
    return jnp.swapaxes(x, -3, -2)
