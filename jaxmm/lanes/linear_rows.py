"""A linear model of any structure whose lanes have weights, X, Z or offsets of their own: from the rows, by ``vmap``.

With W_l = diag(w_l) of lane l, Var ε = σ²/w and no row where w = 0, the cross-products [Z X_s e]'W_l[Z X_s e] are its
own, made once from the rows, where e = y - offset - X_s beta0 and beta0 = (X_s'W_l X_s)^-1 X_s'W_l (y - offset).  The
changes of columns are shared, but those of X and Z of a lane's own, which are the lane's (``own_columns``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.lanes import linear_lanes as common
from jaxmm.lanes.advance import Lanes, Value
from jaxmm.lanes.own_rows import Effects, Laid, lay_out, verdict
from jaxmm.lanes.problem import Found
from jaxmm.lanes.systems import is_aliased
from jaxmm.pure import least_squares
from jaxmm.rows import Rows
from jaxmm.sources.responses import Varying
from jaxmm.start import FEW, moment_start
from jaxmm.structure import Structure


class Crossed(NamedTuple):
    """``couplings``: the numbers in them, without the indices that the lanes share; ``beta0`` (p, L), ``log_weights``
    (L,) their sum over the ``n_obs`` (L,) rows that weigh something; ``few`` (L,) whether levels are; ``T_X`` (p, p, L)
    and ``T`` (q, q, L) of each factor, where X and Z are the lane's, else None."""

    couplings: tuple[Array, ...]
    beta0: Array
    log_weights: Array
    n_obs: Array
    few: Array
    T_X: Any
    T: Any


@partial(jax.tree_util.register_dataclass, data_fields=["gram", "rows", "harmless", "hessian"], meta_fields=["effects"])
@dataclass(frozen=True)
class LinearRows:
    """``gram`` and ``rows`` of the model, whose response and weights do not matter; ``effects`` as of
    ``effects_of_terms``; the rest as of ``LinearLanes``."""

    gram: Gram
    rows: Rows
    harmless: Array
    hessian: Array
    effects: Effects = field(metadata={"static": True})
    accepts = frozenset({"y", "weights", "X", "Z", "offset"})
    takes_any = forgiving = True
    library = frozenset({"data", "start", "evaluate"})
    polished = False
    steady = 0.0

    @property
    def temporaries(self) -> int:
        return costs.LANE_TEMPORARIES + costs.DENSE_TEMPORARIES

    @property
    def rows_of_theta(self) -> list:
        return self.gram.structure.variance_rows()

    # ------------------------------------------------------------ what lanes have
    def _laid(self, own: Varying) -> Laid:
        return laid_out(self.rows, self.rows.offset, own, self.gram.structure, self.effects)

    def _of_lane(self, own: Laid) -> Rows:
        rows = self.rows if own.X is None else replace(self.rows, X=own.X)
        return rows if own.Z is None else replace(rows, Z=own.Z)

    def data(self, own: Varying) -> Crossed:
        def one(own: Laid) -> Crossed:
            rows, s = self._of_lane(own), self.gram.structure
            at = centred(rows, own)
            couplings = s.solver.of_rows(rows, (own.W,), jnp.concatenate([rows.X, at.e[None]]))
            return Crossed(
                _numbers(couplings), at.beta0, at.log_weights, at.n_obs, self._few(own.there), own.T_X, own.T
            )

        return jax.vmap(one, -1, -1)(self._laid(own))

    def _levels(self, there: Array) -> list[Array]:
        """How many levels of each factor have rows, of one lane."""
        counts = (self.rows.collect(f, 1.0 * there) for f in range(self.gram.structure.num_factors))
        return [jnp.sum(x > 0.5) for x in counts]

    def _few(self, there: Array) -> Array:
        """As ``start.has_few_levels``, of the levels that have rows."""
        s, few = self.gram.structure, jnp.asarray(False)
        for f, levels in enumerate(self._levels(there)):
            parameters = sum(t.covariance.num_params for t in s.terms if t.position == f)
            few = few | ((levels < FEW * parameters) & (parameters > 1))
        return few

    def _gram(self, own: Crossed) -> Gram:
        """Of one lane."""
        s, columns = self.gram.structure, jnp.concatenate([self.rows.X, self.rows.y[None]])
        leaves, tree = jax.tree.flatten(s.solver.of_rows(self.rows, (self.rows.weights,), columns))
        numbers = iter(own.couplings)
        leaves = [next(numbers) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in leaves]
        gram = replace(
            self.gram,
            couplings=jax.tree.unflatten(tree, leaves),
            beta0=own.beta0,
            sum_log_weights=own.log_weights,
            n_obs=own.n_obs,
        )
        if own.T_X is None:
            return gram
        return replace(gram, T_X=own.T_X, logdet_T=jnp.sum(jnp.log(jnp.diagonal(own.T_X))))

    def refuse(self, own: Varying) -> Array:
        """Lanes with numbers that are not finite where there is a row, with too few rows, with columns of X that depend
        on each other; else as ``linear_lanes.refuse``."""
        laid = self._laid(own)

        def one(own: Laid) -> tuple[Array, Array, Array]:
            rows, s = self._of_lane(own), self.gram.structure
            left, aliased = least_squares(rows, own.W, own.e)[1], own.aliased
            if aliased is None:
                X = rows.X * own.there
                aliased = is_aliased(jnp.tensordot(X, X, ((1, 2), (1, 2)))) if s.p else jnp.asarray(False)
            return left, aliased, common.too_few(jnp.sum(own.there), self._levels(own.there), s, aliased, s.p)

        return verdict(laid, *jax.vmap(one, -1, -1)(laid))

    # ------------------------------------------------------------ the search
    def start(self, data: Crossed) -> Array:
        return jax.vmap(lambda own: moment_start(self._gram(own), jnp), -1, -1)(data)

    def prepare(self, theta: Array, data: Crossed) -> Any:
        return *common.nothing_linear(self.gram.structure, data.log_weights), data.few

    def guess(self, theta: Array) -> Array:
        return jnp.broadcast_to(self.hessian[:, :, None], (*self.hessian.shape, theta.shape[-1]))

    def evaluate(self, theta: Array, data: Crossed, kept: Any) -> Value:
        at = common.evaluate_lanes(theta, data, self._gram)
        return at._replace(kept=(*at.kept, data.few))

    def doubtful(self, s: Lanes) -> Array:
        return common.doubtful_linear(s, self.gram, s.kept[3])

    def again(self, s: Lanes) -> tuple[Array, Any, Array]:
        theta, number = common.further_linear(s, self.gram, s.kept[3])
        return theta, s.kept, number

    def outcome(self, s: Lanes, data: Crossed) -> Any:
        return s.theta, s.value, s.kept[:3], s.status, data.T_X, data.T

    def residual(self, data: Crossed) -> Any:
        return common.residual_linear(self.gram.structure, data.n_obs)

    def found(self, outcome: Any) -> Found:
        *ends, T_X, T = outcome
        return common.linear_found(tuple(ends), self.gram, T_X, T)


class Centred(NamedTuple):
    """Of one lane ``e`` (H, P), what least squares leave of the response, and ``beta0`` (p,); ``log_weights`` (), the
    sum over the ``n_obs`` () rows that are there."""

    e: Array
    beta0: Array
    log_weights: Array
    n_obs: Array


def centred(rows: Rows, own: Laid) -> Centred:
    """Of a lane's rows as they are laid out, whose X these ``rows`` have."""
    beta0, e = least_squares(rows, own.W, own.e)
    logs = jnp.sum(jnp.where(own.there, jnp.log(jnp.where(own.there, own.W, 1.0)), 0.0))
    return Centred(e, beta0, logs, jnp.sum(own.there).astype(e.dtype))


def laid_out(rows: Rows, offset: Array, own: Varying, s: Structure, effects: Effects) -> Laid:
    """The rows of lanes in the pieces of the model's ``rows``, whose ``offset`` (H, P) is the model's."""
    laid = lay_out(own, rows.source, rows.weights, offset, None, s, effects)
    return laid._replace(**{k: jnp.broadcast_to(getattr(laid, k), laid.e.shape) for k in ("W", "there")})


def _numbers(couplings: Any) -> tuple[Array, ...]:
    return tuple(x for x in jax.tree.leaves(couplings) if jnp.issubdtype(x.dtype, jnp.floating))
