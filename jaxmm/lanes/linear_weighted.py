"""A linear model of any structure whose lanes have precision weights of their own: Var ε = σ²/w; no row where w = 0.

With W_l = diag(w_l) of lane l the cross-products [Z X_s e]'W_l[Z X_s e] are its own, made once from the rows, where
e = y - offset - X_s beta0 and beta0 = (X_s'W_l X_s)^-1 X_s'W_l (y - offset).  The changes of columns are shared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.lanes import linear_lanes as common
from jaxmm.lanes.advance import Lanes, Value
from jaxmm.lanes.problem import Found
from jaxmm.lanes.statistics import ResponseMap
from jaxmm.optimize import Status
from jaxmm.pure import least_squares
from jaxmm.rows import Rows
from jaxmm.sources.responses import Varying
from jaxmm.start import moment_start


class Weighed(NamedTuple):
    """``couplings``: the numbers in them, without the indices that the lanes share; ``beta0`` (p, L), ``log_weights``
    (L,) their sum over the ``n_obs`` (L,) rows that weigh something."""

    couplings: tuple[Array, ...]
    beta0: Array
    log_weights: Array
    n_obs: Array


@partial(jax.tree_util.register_dataclass, data_fields=["gram", "rows", "by", "harmless", "hessian"], meta_fields=[])
@dataclass(frozen=True)
class LinearWeighted:
    """``gram`` and ``rows`` of the model, whose response and weights do not matter; the rest as of ``LinearLanes``."""

    gram: Gram
    rows: Rows
    by: ResponseMap
    harmless: Array
    hessian: Array
    accepts = frozenset({"y", "weights"})
    takes_any = True
    library = frozenset({"data", "start", "evaluate"})
    polished = False
    steady = 0.0

    @property
    def temporaries(self) -> int:
        return costs.LANE_TEMPORARIES + costs.DENSE_TEMPORARIES

    @property
    def rows_of_theta(self) -> list:
        return self.gram.structure.variance_rows()

    def data(self, own: Varying) -> Weighed:
        def one(y: Array, w: Array) -> Weighed:
            rows = self.rows
            W = jnp.where(rows.weights > 0, w[rows.source], 0.0)  # what fills the pieces weighs nothing
            beta0, e = least_squares(rows, W, y[rows.source] - rows.offset)
            log_weights = jnp.sum(jnp.where(W > 0, jnp.log(jnp.where(W > 0, W, 1.0)), 0.0))
            return Weighed(_numbers(self._couplings(W, e)), beta0, log_weights, jnp.sum(w > 0).astype(y.dtype))

        return jax.vmap(one, -1, -1)(own.y, own.weights)

    def _couplings(self, W: Array, e: Array) -> Any:
        columns = jnp.concatenate([self.rows.X, e[None]])
        return self.gram.structure.solver.of_rows(self.rows, (W,), columns)

    def _gram(self, own: Weighed) -> Gram:
        """Of one lane."""
        leaves, tree = jax.tree.flatten(self._couplings(self.rows.weights, self.rows.y))
        numbers = iter(own.couplings)
        leaves = [next(numbers) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in leaves]
        couplings = jax.tree.unflatten(tree, leaves)
        return replace(
            self.gram, couplings=couplings, beta0=own.beta0, sum_log_weights=own.log_weights, n_obs=own.n_obs
        )

    def refuse(self, own: Varying) -> Array:
        usable = jnp.all(jnp.isfinite(own.weights) & (own.weights >= 0), axis=0)
        return jnp.where(usable, common.refuse(own.y, self.by), Status.INVALID).astype(jnp.int32)

    def start(self, data: Weighed) -> Array:
        return jax.vmap(lambda own: moment_start(self._gram(own), jnp), -1, -1)(data)

    def prepare(self, theta: Array, data: Weighed) -> Any:
        return common.nothing_linear(self.gram.structure, data.log_weights)

    def guess(self, theta: Array) -> Array:
        return jnp.broadcast_to(self.hessian[:, :, None], (*self.hessian.shape, theta.shape[-1]))

    def evaluate(self, theta: Array, data: Weighed, kept: Any) -> Value:
        return common.evaluate_lanes(theta, data, self._gram)

    def doubtful(self, s: Lanes) -> Array:
        return common.doubtful_linear(s, self.gram)

    def again(self, s: Lanes) -> tuple[Array, Any, Array]:
        theta, number = common.further_linear(s, self.gram)
        return theta, s.kept, number

    def outcome(self, s: Lanes, data: Any) -> Any:
        return common.linear_outcome(s)

    def found(self, outcome: Any) -> Found:
        return common.linear_found(outcome, self.gram)

    def residual(self, data: Weighed) -> Any:
        return common.residual_linear(self.gram.structure, data.n_obs)


def _numbers(couplings: Any) -> tuple[Array, ...]:
    return tuple(x for x in jax.tree.leaves(couplings) if jnp.issubdtype(x.dtype, jnp.floating))
