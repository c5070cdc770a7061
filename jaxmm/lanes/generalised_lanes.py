"""A generalised model of any structure, many responses: the criterion of one response through ``vmap``.

The search learns the Hessian from gradients; at its end the exact one gives the standard errors, and one Newton step
with it brings the estimate from the tolerance to rounding.  ``generalised_found`` serves ``generalised_blocks`` too.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from jaxmm.lanes.generalised_rows import RowData, lane, refuse, row_data
from jaxmm.lanes.own_rows import Effects
from jaxmm.lanes.problem import Found, original_theta
from jaxmm.objective.mode import zero_effects
from jaxmm.optimize import Status
from jaxmm.optimize.region import NEGATIVE
from jaxmm.rows import Rows
from jaxmm.sources.responses import Varying
from jaxmm.start_glmm import begins_again, further_start


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "harmless", "hessian", "unit"],
    meta_fields=["n_agq", "effects"],
)
@dataclass(frozen=True)
class GeneralisedLanes:
    """``rows`` of the model, whose response does not matter; ``hessian`` (k, k) to begin with; ``unit`` and ``effects``
    as of ``generalised_rows.row_data``."""

    rows: Rows
    harmless: Array
    hessian: Array
    unit: Array
    n_agq: int
    effects: Effects
    accepts = frozenset({"y", "X", "Z", "weights", "offset", "copies", "trials"})
    takes_any = False
    forgiving = False
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
        return row_data(own, self.rows, self.effects, self.unit)

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
        at = self.derivatives(psi, data, at.kept[0], True)
        return generalised_found(psi, at, status, self.rows, data.T_X, data.T)


# ---------------------------------------------------------------- what blocks have in common with it
def rows_of_theta(rows: Rows) -> list:
    return [rows.layout.at("theta").start + row for row in rows.structure.variance_rows()]


def doubtful(s: Lanes, rows: Rows) -> Array:
    """(L,) as in ``estimate_glmm.estimate_on_host``."""
    return (s.round == 0) & begins_again(s.theta, s.status == Status.CONVERGED, rows, jnp)


def from_zero_where_failed(u: Any, s: Lanes) -> Any:
    """The modes (.., L) for a second search to begin with."""
    return jax.tree.map(lambda x: jnp.where(s.status == Status.CONVERGED, x, 0.0), u)


def start(data: RowData, rows: Rows) -> Array:
    return jax.vmap(lambda d: first_guess(lane(d, rows)), -1, -1)(data)


def small_step(at: Value, rows: Rows) -> Array:
    """Newton's (k, L) from derivatives ``at`` a point close to the end, zero where that is not finite."""

    def one(H, g):
        return -0.5 * covariance_matrix(H, rows.structure.p, jnp) @ g

    step = jax.vmap(one, -1, -1)(at.hessian, at.gradient)
    return jnp.where(jnp.all(jnp.isfinite(step), axis=0), step, 0.0)


def generalised_found(psi: Array, at: Value, status: Array, rows: Rows, T_X: Any = None, T: Any = None) -> Found:
    """One Newton step from psi (k, L), where the derivatives are ``at``, and the estimates there.

    ``T_X`` (p, p, L) and ``T`` (q, q, L) of each factor where the changes of columns are the lanes' own."""
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
    theta, lams = original_theta(jnp.where(jnp.abs(theta) < ZERO, 0.0, theta), rows, T)
    phi, extras = rows.family.constants(log_phi)
    phi = jnp.broadcast_to(phi, (*jnp.shape(phi)[:-1], *value.shape))
    further = [*(phi[1:] if phi.ndim > 1 else ()), *(x for e in extras for x in jnp.atleast_2d(e))]
    T_X = jnp.asarray(rows.T_X)[:, :, None] if T_X is None else T_X
    half = jnp.sum(T_X[:, :, None] * covariance[None, :p, :p], axis=1)
    vcov = jnp.sum(half[:, None] * T_X[None], axis=2)
    constants = rows.layout.at("log_phi")
    known = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance[constants, constants]).T, 0.0))
    return Found(
        beta=jnp.sum(T_X * beta[None], axis=1),
        bse=jnp.sqrt(jnp.maximum(jnp.diagonal(vcov).T, 0.0)),
        theta=theta,
        lams=lams,
        phi=phi[0] if phi.ndim > 1 else phi,
        deviance=value,
        status=status,
        further=jnp.stack(further) if further else (),
        vcov=vcov,
        log_phi_se=known[0] if len(known) else (),
    )
