"""A linear model with one grouping factor whose lanes have systems of their own: the search, by the closed form.

As ``linear_blocks``, with the systems of each lane (``systems``) in the place of shared ones wherever something of the
lane's own enters.  The lanes' own arrays alone have a lane axis.  Where the systems come from is left to
``linear_weighted`` (rows whose columns are shared), ``linear_own`` (whose columns are not) and ``segments``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.lanes.advance import Lanes, Value
from jaxmm.lanes.closed_form import BlockData, Systems, evaluate
from jaxmm.lanes.linear_lanes import doubtful_linear, further_linear, linear_found, nothing_linear, residual_linear
from jaxmm.lanes.moments import moments_of_systems
from jaxmm.lanes.problem import Found
from jaxmm.start import FEW


class OwnData(NamedTuple):
    """What a lane has of its own: ``own``, None where the lanes share it, and ``data``, as the closed form takes them;
    ``levels`` (L,) how many count; ``T_X`` (p, p, L) and ``T``, of the one factor (q, q, L), where X and Z are the
    lane's, else None."""

    own: Systems
    data: BlockData
    levels: Array
    T_X: Any
    T: Any


@dataclass(frozen=True)
class OwnSearch:
    """``gram`` of the model, whose response does not matter; ``shared``, the systems of all its levels; ``cells`` as of
    ``Blocks``."""

    gram: Gram
    harmless: Array
    shared: Systems
    cells: tuple[tuple[int, int], ...] | None = field(metadata={"static": True})
    takes_any = forgiving = True
    polished = False
    steady = 0.0
    temporaries = 4

    @property
    def library(self) -> frozenset[str]:
        large = self.gram.structure.p > costs.UNROLLED_ROOT
        return frozenset({"data", "evaluate"} if large else ())

    @property
    def rows_of_theta(self) -> list:
        return self.gram.structure.variance_rows()

    def _systems(self, data: OwnData) -> Systems:
        return Systems(*(s if own is None else own for own, s in zip(data.own, self.shared, strict=True)))

    def start(self, data: OwnData) -> Array:
        return moments_of_systems(self._systems(data), data.data, self.gram)

    def prepare(self, theta: Array, data: OwnData) -> Any:
        return *nothing_linear(self.gram.structure, data.data.yy), data.levels

    def guess(self, theta: Array) -> Array:
        return jnp.zeros((len(theta), *theta.shape), theta.dtype)

    def evaluate(self, theta: Array, data: OwnData, kept: Any) -> Value:
        at = evaluate(theta, data.data, self._systems(data), self.gram, self.cells)
        beta, sigma2, M_inverse = at.kept
        return at._replace(kept=(beta + data.data.beta0, sigma2, M_inverse, data.levels))

    def _few(self, s: Lanes) -> Array:
        parameters = self.gram.structure.num_theta
        return (s.kept[3] < FEW * parameters) & (parameters > 1)

    def doubtful(self, s: Lanes) -> Array:
        return doubtful_linear(s, self.gram, self._few(s))

    def again(self, s: Lanes) -> tuple[Array, Any, Array]:
        theta, number = further_linear(s, self.gram, self._few(s))
        return theta, s.kept, number

    def outcome(self, s: Lanes, data: OwnData) -> Any:
        return s.theta, s.value, s.kept[:3], s.status, data.T_X, data.T

    def residual(self, data: OwnData) -> Any:
        return residual_linear(self.gram.structure, self._systems(data).n_obs)

    def found(self, outcome: Any) -> Found:
        *ends, T_X, T = outcome
        return linear_found(tuple(ends), self.gram, T_X, T)
