"""A generalised model of any structure, many responses: the criterion of one response through ``vmap``.

The search learns the Hessian from gradients; at its end the exact one gives the standard errors, and one Newton step
with it brings the estimate from the tolerance to rounding.  ``generalised_found`` serves ``generalised_blocks`` too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.estimate import ZERO
from jaxmm.estimate_glmm import (
    covariance_matrix,
    final_status,
    first_guess,
    gradient_and_mode,
    value_and_derivatives,
)
from jaxmm.lanes.advance import LAST, Lanes, Value, eigh
from jaxmm.lanes.problem import Found, original_theta
from jaxmm.objective.mode import zero_effects
from jaxmm.optimize import Status
from jaxmm.optimize.region import NEGATIVE
from jaxmm.rows import Rows
from jaxmm.sources.responses import Varying
from jaxmm.start_glmm import begins_again, further_start


@partial(jax.tree_util.register_dataclass, data_fields=["y", "constant", "copies", "weights", "offset"], meta_fields=[])
@dataclass(frozen=True)
class RowData:
    """``y`` (H, P, L) in the layout of the rows, ``constant`` (L,) the part of the log density without parameters,
    ``copies`` (J_i, L) of each chain factor or None; ``weights`` and ``offset`` of the mean (H, P, L), or None where
    they are the model's."""

    y: Array
    constant: Array
    copies: tuple[Array, ...] | None
    weights: Array | None = None
    offset: Array | None = None

    def each(self, function: Callable[[Array], Array]) -> RowData:
        """``function`` of every array of rows."""
        arrays = {name: x for name in ("y", "weights", "offset") if (x := getattr(self, name)) is not None}
        return replace(self, **{name: function(x) for name, x in arrays.items()})


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "harmless", "hessian"],
    meta_fields=["n_agq"],
)
@dataclass(frozen=True)
class GeneralisedLanes:
    """``rows`` of the model, whose response does not matter; ``hessian`` (k, k) to begin with."""

    rows: Rows
    harmless: Array
    hessian: Array
    n_agq: int
    accepts = frozenset({"y", "weights", "offset", "copies"})
    takes_any = False
    polished = True
    steady = 0.0
    temporaries = 8

    @property
    def library(self) -> frozenset[str]:
        large = bool(self.rows.structure.rest) or max(self.rows.structure.chain) > costs.UNROLLED_ROOT
        return frozenset({"start", "evaluate", "found"} if large else {"start", "found"})

    @property
    def rows_of_theta(self) -> list:
        return rows_of_theta(self.rows)

    def data(self, own: Varying) -> RowData:
        return row_data(own, self.rows)

    def refuse(self, own: Varying) -> Array:
        return refuse(own, self.rows)

    def start(self, data: RowData) -> Array:
        return start(data, self.rows)

    def prepare(self, theta: Array, data: RowData) -> Any:
        L = data.constant.shape[-1]
        u = tuple(jnp.broadcast_to(x[..., None], (*x.shape, L)) for x in zero_effects(self.rows))
        return u, jnp.ones(L, bool)

    def guess(self, theta: Array) -> Array:
        return jnp.broadcast_to(self.hessian[:, :, None], (*self.hessian.shape, theta.shape[-1]))

    def evaluate(self, theta: Array, data: RowData, kept: Any) -> Value:
        return self.derivatives(theta, data, kept[0], False)

    def derivatives(self, theta: Array, data: RowData, u: tuple[Array, ...], exact: bool) -> Value:
        def one(psi, d, u):
            if exact:
                value, g, H, mode = value_and_derivatives(psi, lane(d, self.rows), u, self.n_agq, False)
                return value, g, H, (mode.u, mode.converged)
            value, g, mode = gradient_and_mode(psi, lane(d, self.rows), u, self.n_agq)
            return value, g, None, (mode.u, mode.converged)

        return Value(*jax.vmap(one, -1, -1)(theta, data, u))

    def doubtful(self, s: Lanes) -> Array:
        return doubtful(s, self.rows)

    def again(self, s: Lanes) -> tuple[Array, Any, Array]:
        u, found = s.kept
        psi = further_start(s.theta, s.status == Status.CONVERGED, self.rows, jnp)
        return psi, (from_zero_where_failed(u, s), found), s.round + LAST

    def outcome(self, s: Lanes, data: RowData) -> Any:
        return s.theta, s.kept[0], s.status, data

    def found(self, outcome: Any) -> Found:
        psi, u, status, data = outcome
        at = self.derivatives(psi, data, u, True)
        psi = psi + jnp.where(status == Status.CONVERGED, small_step(at, self.rows), 0.0)
        return generalised_found(psi, self.derivatives(psi, data, at.kept[0], True), status, self.rows)


# ---------------------------------------------------------------- what blocks have in common with it
def rows_of_theta(rows: Rows) -> list:
    return [rows.layout.at("theta").start + row for row in rows.structure.variance_rows()]


def row_data(own: Varying, rows: Rows) -> RowData:
    """From responses (n, L), weights and offsets (n, L) and copies (levels of the outermost factor, L) where there are
    any.  A row that weighs nothing has the model's numbers, whatever stands there."""
    y, copies, W, weights, offset = own.y[rows.source], own.copies, rows.weights[..., None], None, None
    if own.weights is not None:
        W = weights = jnp.where(W > 0, own.weights[rows.source], 0.0)  # what fills the pieces weighs nothing
        y = jnp.where(W > 0, y, rows.y[..., None])
    if own.offset is not None:
        offset = own.offset[rows.source]
        offset = jnp.where((W > 0) & jnp.isfinite(offset), offset, rows.offset[..., None])  # also of refused lanes
    constant = W * rows.family.log_constant(y, rows.trials[..., None])
    if copies is None:
        return RowData(y, jnp.sum(constant, axis=(0, 1)), None, weights, offset)
    levels = (*(copies[outer[-1]] for outer in rows.parents[:-1]), copies)
    by_level = jax.vmap(rows.main.collect, -1, -1)(constant)
    return RowData(y, jnp.sum(by_level * levels[0], axis=0), levels, weights, offset)


def refuse(own: Varying, rows: Rows) -> Array:
    """(L,) a status for lanes whose responses (n, L) cannot be fitted, or whose weights or offsets are none, else -1;
    rows that weigh nothing are not looked at."""
    if own.weights is None:
        status = jnp.where(rows.no_variation(own.y), Status.NO_VARIATION, -1)
        numbers = jnp.isfinite(own.y)
    else:
        counts = own.weights > 0
        status = jnp.where(rows.no_variation(own.y, counts), Status.NO_VARIATION, -1)
        status = jnp.where(jnp.any(counts, axis=0), status, Status.TOO_FEW_ROWS)
        numbers = jnp.isfinite(own.weights) & (own.weights >= 0) & (~counts | jnp.isfinite(own.y))
    if own.offset is not None:
        numbers = numbers & (jnp.isfinite(own.offset) | (False if own.weights is None else ~(own.weights > 0)))
    return jnp.where(jnp.all(numbers, axis=0), status, Status.INVALID).astype(jnp.int32)


def doubtful(s: Lanes, rows: Rows) -> Array:
    """(L,) as in ``estimate_glmm.estimate_on_host``."""
    return (s.round == 0) & begins_again(s.theta, s.status == Status.CONVERGED, rows, jnp)


def from_zero_where_failed(u: Any, s: Lanes) -> Any:
    """The modes (.., L) for a second search to begin with."""
    return jax.tree.map(lambda x: jnp.where(s.status == Status.CONVERGED, x, 0.0), u)


def lane(data: RowData, rows: Rows) -> Rows:
    """The rows of one lane."""
    own = {name: x for name in ("weights", "offset") if (x := getattr(data, name)) is not None}
    return replace(rows, y=data.y, log_constant=data.constant, copies=data.copies, **own)


def start(data: RowData, rows: Rows) -> Array:
    return jax.vmap(lambda d: first_guess(lane(d, rows)), -1, -1)(data)


def small_step(at: Value, rows: Rows) -> Array:
    """Newton's (k, L) from derivatives ``at`` a point close to the end, zero where that is not finite."""

    def one(H, g):
        return -0.5 * covariance_matrix(H, rows.structure.p, jnp) @ g

    step = jax.vmap(one, -1, -1)(at.hessian, at.gradient)
    return jnp.where(jnp.all(jnp.isfinite(step), axis=0), step, 0.0)


def generalised_found(psi: Array, at: Value, status: Array, rows: Rows) -> Found:
    """One Newton step from psi (k, L), where the derivatives are ``at``, and the estimates there."""
    p = rows.structure.p
    H: Any = at.hessian
    w, _ = eigh(H)
    status = jnp.where((status == Status.CONVERGED) & (w[0] < NEGATIVE * w[-1]), Status.STALLED, status)  # a saddle

    def finish(H, g, status):
        covariance = covariance_matrix(H, p, jnp)
        return covariance, -0.5 * covariance @ g, final_status(status, covariance, rows, jnp)

    covariance, step, status = jax.vmap(finish, -1, -1)(H, at.gradient, status)
    small = (status == Status.CONVERGED) & jnp.all(jnp.isfinite(step), axis=0)
    step = jnp.where(small, step, 0.0)
    psi = psi + step
    value = at.value + 0.5 * jnp.sum(at.gradient * step, axis=0)
    beta, theta, log_phi = rows.layout.split(psi)
    theta, lams = original_theta(jnp.where(jnp.abs(theta) < ZERO, 0.0, theta), rows)
    phi, extras = rows.family.constants(log_phi)
    phi = jnp.broadcast_to(phi, (*jnp.shape(phi)[:-1], *value.shape))
    further = [*(phi[1:] if phi.ndim > 1 else ()), *(x for e in extras for x in jnp.atleast_2d(e))]
    T_X = jnp.asarray(rows.T_X)
    variance = jnp.einsum("ja,abl,jb->jl", T_X, covariance[:p, :p], T_X)
    constants = rows.layout.at("log_phi")
    known = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance[constants, constants]).T, 0.0))
    return Found(
        beta=T_X @ beta,
        bse=jnp.sqrt(jnp.maximum(variance, 0.0)),
        theta=theta,
        lams=lams,
        phi=phi[0] if phi.ndim > 1 else phi,
        deviance=value,
        status=status,
        further=jnp.stack(further) if further else (),
        vcov=jnp.einsum("ja,abl,kb->jkl", T_X, covariance[:p, :p], T_X),
        log_phi_se=known[0] if len(known) else (),
    )
