"""Rows -> GlmmEstimates: the joint search over beta, theta and the dispersion, with exact derivatives.

    psi = (beta_s, theta_s, log phi),  as to X_s and Z_s

Each evaluation finds the conditional mode from the last one and gives value, gradient and Hessian of -2 log-likelihood
there.  Var(psi) = 2 H^-1, so that the standard errors of beta include the uncertainty of the variance parameters.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._compiled import Program
from jaxmm._types import Array
from jaxmm.estimate import ZERO, covariance_of_effects, no_tangent
from jaxmm.layout import Parameters
from jaxmm.objective.laplace import at_mode, scaled_point
from jaxmm.objective.mode import Mode, effects, find_mode, zero_effects
from jaxmm.objective.parameters import change_theta
from jaxmm.objective.quadrature import neg2_loglik
from jaxmm.optimize import (
    FLAT,
    LOWER,
    Control,
    Objective,
    Search,
    Status,
    is_better,
    is_lower,
    minimise,
    minimise_in_loop,
    roughly,
)
from jaxmm.rows import Rows
from jaxmm.start import independent_theta
from jaxmm.start_glmm import begins_again, further_start


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "beta", "theta", "log_phi", "deviance", "vcov", "psi", "covariance", "u", "mode_found", "gradient", "hessian",
        "decrement", "eigenvalue", "iterations", "status",
    ],
    meta_fields=["n_agq"],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class GlmmEstimates:
    """A generalised fit as arrays, a pytree.

    ``beta`` (p,), ``vcov`` (p, p) and ``theta`` (m,) in the data's columns; ``log_phi`` (k,); ``psi`` where the search
    ended, in the scaled columns (and in units of eta, for a link that has one), with its ``covariance``, the
    ``gradient``, ``hessian``, Newton ``decrement`` and least ``eigenvalue`` of the deviance there; ``u`` the
    conditional mode (q, J) per factor, and ``mode_found``, whether its search ended; ``iterations`` of the search, and
    its ``status``, an ``optimize.Status``; ``n_agq`` the nodes per effect.

    Example:
        >>> herds.estimates.theta.round(2).tolist()
        [0.64]
    """

    beta: Array
    theta: Array
    log_phi: Array
    deviance: Array
    vcov: Array
    psi: Array
    covariance: Array
    u: tuple[Array, ...]
    mode_found: Array
    gradient: Array
    hessian: Array
    decrement: Array
    eigenvalue: Array
    iterations: Array
    status: Array
    n_agq: int = dataclasses.field(metadata={"static": True})


# ---------------------------------------------------------------- compiled programs, one per structure and family
def _criterion(psi: Array, rows: Rows, mode: Mode, n_agq: int, order: int) -> Array:
    """With ``order`` derivatives of the log density: 3 for a gradient, 4 for a Hessian."""
    return neg2_loglik(scaled_point(psi, rows), rows, mode.u, n_agq, order)


def value_and_derivatives(psi: Array, rows: Rows, u: tuple[Array, ...], n_agq: int, one_by_one: bool):
    """Value, gradient, Hessian, mode; the Hessian's columns at once, or one after another to save memory."""
    mode = find_mode(scaled_point(psi, rows), rows, u)

    def first(p):
        value, gradient = jax.value_and_grad(_criterion)(p, rows, mode, n_agq, 4)
        return gradient, value

    gradient, push, value = jax.linearize(first, psi, has_aux=True)
    eye = jnp.eye(len(psi), dtype=psi.dtype)
    columns = jax.lax.map(push, eye) if one_by_one else jax.vmap(push)(eye)
    return value, gradient, 0.5 * (columns + columns.T), mode


def _size(psi: Array, rows: Rows, u: tuple[Array, ...], n_agq: int = 1, *_: Any) -> int:
    return rows.y.size * n_agq + rows.structure.rest_size**2


derivatives = Program(value_and_derivatives, (3, 4), _size)


def gradient_and_mode(psi: Array, rows: Rows, u: tuple[Array, ...], n_agq: int):
    mode = find_mode(scaled_point(psi, rows), rows, u)
    value, gradient = jax.value_and_grad(_criterion)(psi, rows, mode, n_agq, 3)
    return value, gradient, mode


gradient_only = Program(gradient_and_mode, (3,), _size)


def _value_only(psi: Array, rows: Rows, u: tuple[Array, ...], n_agq: int) -> Array:
    """-2 log-likelihood with ``n_agq`` nodes, the mode searched from ``u``."""
    return _criterion(psi, rows, find_mode(scaled_point(psi, rows), rows, u), n_agq, 2)


value_only = Program(_value_only, (3,), lambda *arguments: _size(*arguments) // costs.CALLED_ONCE)


def objective(rows: Rows, n_agq: int) -> Objective:
    """The criterion on the host: NumPy in, NumPy out; every mode is searched from the one at the lowest value so far.

    Not from the last one: a step that is refused may have gone where h has another minimum, and the same psi would then
    have another value than before.
    """
    lowest: list[Any] = [np.inf, zero_effects(rows, np)]
    large, like = is_large(rows), np.zeros(rows.layout.size)
    u = lowest[1]
    first, second = gradient_only.bind(like, rows, u, n_agq), derivatives.bind(like, rows, u, n_agq, large)

    def keep(value: float, mode: Mode) -> None:
        if -np.inf < value <= lowest[0]:
            lowest[:] = value, mode.u

    def gradient(psi):
        value, g, mode = first(psi, rows, lowest[1], n_agq)
        keep(value := float(value), mode)
        return value, np.asarray(g), mode

    def hessian(psi):
        value, g, H, mode = second(psi, rows, lowest[1], n_agq, large)
        keep(value := float(value), mode)
        return value, np.asarray(g), np.asarray(H), mode

    return Objective(gradient, hessian, dear=rows.structure.rest_size > costs.DEAR_REST)


def is_large(rows: Rows) -> bool:
    """Whether the columns of a Hessian together would take too much memory."""
    s = rows.structure
    return (rows.y.size + s.rest_size**2) * (s.p + s.num_theta) > costs.HESSIAN_AT_ONCE


def are_few(rows: Rows, count: int) -> bool:
    """Whether so many evaluations, or searches, one by one take less time than to compile one program for all."""
    return count <= costs.APART and count * rows.y.size <= costs.APART_ROWS


def _random_effects(psi: Array, rows: Rows, u: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Modes (J, q) and conditional covariances (J, q, q) of each factor, in the data's columns of Z."""
    point = scaled_point(psi, rows)
    a = at_mode(point, rows, u, 2)
    modes = tuple((jnp.asarray(T) @ b).T for T, b in zip(rows.T, effects(point.lams, a.u), strict=True))
    return modes, covariance_of_effects(psi[rows.layout.at("theta")], a.gram)


random_effects = Program(_random_effects, size=_size)


# ---------------------------------------------------------------- the search
def estimate_on_host(rows: Rows, start: Any, control: Control, n_agq: int) -> GlmmEstimates:
    """The search from the host, and NumPy estimates; call it with x64 enabled.  ``start`` is psi."""
    found = minimise(objective(rows, n_agq), start, control)
    if begins_again(found.theta, found.status == Status.CONVERGED, rows):
        found = once_more(found, rows, control, n_agq)
    return finish(found, rows, n_agq)


def estimate_within(rows: Rows, basis: np.ndarray, start: np.ndarray, control: Control, n_agq: int) -> Search | None:
    """The best psi = ``basis`` x, by the program of psi's own search: what a smaller model finds, whose own would have
    to be compiled.  ``start`` and the result are x (j,); None where a search from one place does not do."""
    whole = objective(rows, n_agq)

    def gradient(x):
        value, g, mode = whole.gradient(basis @ x)
        return value, basis.T @ g, mode

    def hessian(x):
        value, g, H, mode = whole.hessian(basis @ x)
        return value, basis.T @ g, basis.T @ H @ basis, mode

    found = minimise(dataclasses.replace(whole, gradient=gradient, hessian=hessian), start, control)
    return None if begins_again(basis @ found.theta, found.status == Status.CONVERGED, rows) else found


def once_more(found: Search, rows: Rows, control: Control, n_agq: int) -> Search:
    """``found``, or what a search from a further start (``start_glmm``) finds, if that has converged and is better.

    The second search goes to its end only where it leads lower.  A search that has failed is taken for worse, however
    low it came, unless its value is the same with the modes searched from zero: where h has several minima they depend
    on where they were searched from, and as one of them vanishes log|M| has a pole, down which a search may fall.
    """
    criterion = objective(rows, n_agq)
    other = minimise(criterion, further_start(found.theta, found.status == Status.CONVERGED, rows), roughly(control))
    if other.status != Status.CONVERGED:
        return found
    level = found.value
    if found.status != Status.CONVERGED:
        again = objective(rows, n_agq).hessian(found.theta)[0]
        level = level if abs(again - level) <= LOWER * (1.0 + abs(again)) else np.inf
    if is_lower(other.value, level):
        other = minimise(criterion, other.theta, control)
        if other.status == Status.CONVERGED and is_better(other.value, other.status, level, found.status):
            return other._replace(iterations=found.iterations + other.iterations)
    return found


RUNAWAY = 1e3  # a standard error, where eta has no unit, as to columns of unit mean square


def covariance_matrix(H: Any, p: int, xp: Any = np) -> Any:
    """2 H^-1, where the first p parameters are beta.

    Directions of theta in which the likelihood is flat are left out (a singular Λ is rotation-invariant); a flat
    direction of beta is kept, and its variance enormous.
    """
    if not len(H):  # nothing is searched
        return H
    finite = xp.all(xp.isfinite(H))
    H = xp.where(finite, H, xp.eye(len(H), dtype=H.dtype))
    scale = xp.sqrt(xp.maximum(xp.abs(xp.diagonal(H)), 1e-30))  # so that no parameter counts by its units
    w, Q = xp.linalg.eigh(H / (scale[:, None] * scale))
    of_beta = xp.sum(Q[:p] ** 2, axis=0) > 0.01
    inverse = xp.where((w > FLAT * w[-1]) | of_beta, 1 / xp.maximum(w, 1e-14 * w[-1]), 0.0)
    return xp.where(finite, 2 * (Q * inverse) @ Q.T / (scale[:, None] * scale), xp.nan)


def final_status(status: Any, covariance: Any, rows: Rows, xp: Any = np) -> Any:
    """RUNAWAY where a coefficient on a scale without unit has no standard error to speak of."""
    if not rows.structure.p or not rows.family.link.unit_free:
        return status
    away = xp.max(xp.diagonal(covariance)[: rows.structure.p]) > RUNAWAY**2
    return xp.where((status == Status.CONVERGED) & away, Status.RUNAWAY, status)


def finish(found: Search, rows: Rows, n_agq: int, xp: Any = np) -> GlmmEstimates:
    """Estimates in the data's columns from where the search ended; ``xp`` is numpy or jax.numpy."""
    beta, theta, log_phi = rows.layout.split(found.theta)
    theta = xp.where(xp.abs(theta) < ZERO, 0.0, theta)
    covariance = covariance_matrix(found.hessian, len(beta), xp)
    T_X, own = xp.asarray(rows.T_X), rows.layout.at("beta")
    vcov = T_X @ covariance[own, own] @ T_X.T
    parts: dict[str, Any] = dict(
        beta=T_X @ beta,
        theta=change_theta(theta, [xp.asarray(t) for t in rows.T], rows, xp),
        log_phi=log_phi,
        deviance=found.value,
        vcov=0.5 * (vcov + vcov.T),
        psi=rows.layout.join(Parameters(beta, theta, log_phi)),
        covariance=covariance,
        u=tuple(xp.asarray(u) for u in found.aux.u),
        mode_found=xp.asarray(found.aux.converged),
        gradient=found.gradient,
        hessian=found.hessian,
        decrement=found.decrement,
        eigenvalue=found.eigenvalue,
        iterations=found.iterations,
        status=final_status(found.status, covariance, rows, xp),
    )
    return GlmmEstimates(**parts, n_agq=n_agq)


# ---------------------------------------------------------------- the same as one program
def estimate(arrays: Rows, *, start: Array | None = None, control: Control | None = None) -> GlmmEstimates:
    """See ``programs.estimate``; by Laplace's method.  ``start`` is psi in the scaled columns, by default a constant
    mean."""
    control = control or Control()
    psi = first_guess(arrays) if start is None else jnp.asarray(start, arrays.y.dtype)
    found = _argmin(arrays, jax.lax.stop_gradient(psi), control)
    value = neg2_loglik(scaled_point(found.theta, arrays), arrays, found.aux.u, 1)
    return finish(found._replace(value=value), arrays, 1, jnp)


FIRST_SD = 0.5  # of every effect


def first_guess(rows: Rows) -> Array:
    """psi of a constant mean, effects of standard deviation a half, and a scale that fits these."""
    s, family, W = rows.structure, rows.family, rows.weights
    total = jnp.sum(W * rows.trials)
    mean = jnp.sum(W * rows.y) / total
    level = family.link.link(jnp.clip(mean, *family.mean_range))
    constants = {"mu": level, "phi": 0.0, **{p.name: p.start for p in family.further}}
    beta = []
    sides = zip(s.predictors.names, s.predictors.slices(s.p), (rows.offset, *rows.further_offsets), strict=True)
    for name, at, offset in sides:
        X = rows.X[at]
        gram = jnp.tensordot(X * W, X, ((1, 2), (1, 2)))
        right = jnp.tensordot(X, W * (constants[name] - offset), 2)
        beta.append(jnp.linalg.solve(gram, right) if len(X) else right)
    theta = independent_theta(rows, FIRST_SD, jnp)
    num_phi = family.num_phi - ("phi" in s.predictors.names)
    log_phi = jnp.asarray(family.start_constants(num_phi), W.dtype)
    if family.has_scale and num_phi:
        spread = jnp.sum(W * (rows.y - mean) ** 2) / total / family.glm.variance(mean, 1.0)
        log_phi = log_phi.at[0].set(jnp.log(jnp.maximum(spread, 1e-12)))
    return rows.layout.join(Parameters(jnp.concatenate(beta), theta.astype(W.dtype), log_phi))


guess_on_host = Program(first_guess)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _argmin(rows: Rows, start: Array, control: Control) -> Search:
    def evaluate(psi, mode):
        return value_and_derivatives(psi, rows, mode.u, 1, False)

    nothing = Mode(zero_effects(rows), jnp.ones((), bool), jnp.zeros((), jnp.int32))
    return minimise_in_loop(evaluate, start, control, nothing)


@_argmin.defjvp
def _(control, primals, tangents):
    rows, start = primals
    found = _argmin(rows, start, control)

    def slope(r):
        return jax.grad(lambda psi: neg2_loglik(scaled_point(psi, r), r, found.aux.u, 1))(found.theta)

    _, mixed = jax.jvp(slope, (rows,), (tangents[0],))
    moved = -jnp.linalg.pinv(found.hessian, rtol=FLAT, hermitian=True) @ mixed
    return found, jax.tree.map(no_tangent, found)._replace(theta=moved)
