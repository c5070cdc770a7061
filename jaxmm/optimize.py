"""Minimising a deviance in few parameters: Newton's method inside a trust region, driven by exact derivatives.

With g the gradient, H = Q diag(w) Q' the Hessian, the step in the region |s| <= Delta is

    s = -Q (Q'g / (|w| + mu)),    mu >= 0 the smallest with |s| <= Delta

(absolute eigenvalues, so that saddles repel).  The search ends on the Newton decrement ½ g'|H|^-1 g, which is in
units of deviance whatever the scale of theta; then one more step is taken, which squares what error is left.
theta = 0 is always a stationary point, often a saddle: where the least eigenvalue is negative at the end, the
search leaves along it.

Where the Hessian is dear (``Objective.dear``) it is computed at the end, and at the start if there is no rough one to
begin with; in between it is improved by symmetric rank-one updates from gradients (Nocedal & Wright 2006, §6.2).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmm._types import Array

SETTLED = 1e-5  # of the tolerance: the one more step would change nothing
STEADY = 2e-7  # change of the Hessian, as a share of itself, that standard errors do not show
MU_STEPS = 12  # of Newton's method for the length of the step
ROUNDING = 1e3  # times the tolerance is near enough where no step lowers the value any more
FLAT = 1e-9  # a curvature, or its share of the largest where all parameters count alike, that is zero
KICK = 0.3  # first length of a step away from a saddle
ROUGH = 1e-3  # tolerance of a second search, until it is seen to lead lower
LOWER = 1e-6  # of the deviance: another minimum, not the same one reached again
MAX_KICKS = 5  # beside one for each parameter, which may all start at zero


class Status(enum.IntEnum):
    """How a search ended; kept as a number in arrays."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    NOT_FINITE = 2
    STALLED = 3
    RUNAWAY = 4
    INVALID = 5
    NO_VARIATION = 6

    @property
    def message(self) -> str:
        return {
            Status.CONVERGED: "converged",
            Status.MAX_ITERATIONS: "stopped at the iteration limit; raise control.max_iterations",
            Status.NOT_FINITE: "the deviance is not finite at the start: rescale the response, or give another start=",
            Status.INVALID: "the response holds values that are not finite, or that the family cannot have",
            Status.NO_VARIATION: "the response does not vary, or the fixed effects reproduce it exactly",
            Status.RUNAWAY: "the likelihood has no maximum: it rises as a coefficient of enormous SE goes to infinity",
            Status.STALLED: "no step lowers the deviance any further, yet the gradient is not zero",
        }[self]


@dataclass(frozen=True)
class Control:
    """Settings of the search.

    Attributes:
        tolerance: Newton decrement, in units of deviance, at which the search ends.
        max_iterations: trust-region steps, accepted or not.
        newton_limit: with more parameters than this, L-BFGS (optax) does the search and one exact Hessian
            is taken at the end.
        device: "auto" (a GPU only for problems with a large dense part), "cpu", "gpu", or a ``jax.Device``.
    """

    tolerance: float = 1e-9
    max_iterations: int = 200
    newton_limit: int = 30
    device: Any = "auto"

    def __post_init__(self):
        if not isinstance(self.tolerance, int | float | np.number) or not self.tolerance > 0:
            raise ValueError(f"control: tolerance must be a positive number, not {self.tolerance!r}")
        for name, least in (("max_iterations", 1), ("newton_limit", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"control: {name} must be a whole number of at least {least}, not {value!r}")


def as_control(control: Control | dict | None) -> Control:
    """None, a dictionary of settings, or a ``Control``.

    Raises:
        TypeError: for anything else, or an unknown setting (names the accepted ones).
    """
    if control is None:
        return Control()
    if isinstance(control, Control):
        return control
    if isinstance(control, dict):
        known = Control.__dataclass_fields__
        unknown = [k for k in control if k not in known]
        if unknown:
            raise TypeError(f"control has no setting {unknown[0]!r}; accepted: {', '.join(known)}")
        return Control(**control)
    raise TypeError(f"control must be a jaxmm.Control or a dict, not {type(control).__name__}")


class Search(NamedTuple):
    """Where a search ended.  ``eigenvalue`` is the least of the exact Hessian at ``theta``."""

    theta: Any
    value: Any
    gradient: Any
    hessian: Any
    decrement: Any
    eigenvalue: Any
    iterations: Any
    status: Any
    aux: Any


@dataclass(frozen=True)
class Objective:
    """theta -> value, derivatives and whatever else comes with the value, on the host.

    ``gradient`` returns (value, g, aux), ``hessian`` (value, g, H, aux).  ``dear``: the Hessian costs much more than
    the gradient; then ``rough`` may be given, theta -> a positive semidefinite stand-in for it to start from.
    """

    gradient: Callable[[np.ndarray], tuple[float, np.ndarray, Any]]
    hessian: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray, Any]]
    dear: bool = False
    rough: Callable[[np.ndarray], np.ndarray] | None = None


class Step(NamedTuple):
    step: Any
    predicted: Any  # reduction of the quadratic model
    decrement: Any
    eigenvalue: Any
    direction: Any  # eigenvector of the least eigenvalue
    length: Any


def newton_step(xp, g, H, radius) -> Step:
    """The step of the module's head; ``xp`` is numpy or jax.numpy."""
    w, Q = xp.linalg.eigh(H)
    size = xp.abs(w)
    size = xp.maximum(size, 1e-10 * xp.max(size) + 1e-100)
    slope = Q.T @ g
    decrement = 0.5 * xp.sum(slope**2 / size)

    # |s(mu)| falls with mu: Newton on 1/|s| - 1/Delta converges from the left, monotonically
    def tighten(mu):
        length = xp.sqrt(xp.sum((slope / (size + mu)) ** 2) + 1e-300)
        rate = xp.maximum(xp.sum(slope**2 / (size + mu) ** 3), 1e-300)
        return xp.where(length > radius, mu + (length / radius - 1) * length**2 / rate, mu)

    mu = xp.zeros((), g.dtype)
    if xp is np:
        for _ in range(MU_STEPS):
            before, mu = mu, tighten(mu)
            if mu == before:
                break
    else:
        mu = jax.lax.fori_loop(0, MU_STEPS, lambda _, mu: tighten(mu), mu)
    s = -(slope / (size + mu))
    predicted = -xp.sum(slope * s) - 0.5 * xp.sum(w * s**2)
    return Step(Q @ s, predicted, decrement, w[0], Q[:, 0], xp.sqrt(xp.sum(s**2)))


def decrease(xp, value, trial, g, trial_g, move):
    """value - trial, and where that is lost in the rounding of values -½ (g + trial_g)'move instead (g (m, ..)).

    Gradients tell of steps whose gain is far below the rounding of two values of a large deviance, or of one that is a
    small difference of large numbers.
    """
    seen = value - trial
    by_slope = -0.5 * xp.sum((g + trial_g) * move, axis=0)
    small = float(xp.finfo(g.dtype).eps) ** 0.5 * (xp.abs(value) + 1.0)
    return xp.where((xp.abs(seen) < small) & (xp.abs(by_slope) < small), by_slope, seen)


def first_radius(xp, theta):
    """Half the length of the start: moments are within that of the optimum more often than not."""
    return xp.maximum(0.5, 0.5 * xp.sqrt(xp.sum(theta**2)))


def saddle_threshold(xp, H):
    """An eigenvalue below this is taken for negative, not for rounding."""
    return -1e-6 * xp.maximum(1.0, xp.max(xp.abs(H)))


def is_flat(H: np.ndarray) -> bool:
    """Whether the Hessian has a direction without curvature, whatever the units of the parameters."""
    curvature = np.abs(np.diag(H))
    if curvature.min(initial=1.0) <= FLAT or not np.all(np.isfinite(H)):
        return True
    return float(np.linalg.eigvalsh(H / np.sqrt(np.outer(curvature, curvature)))[0]) <= FLAT


def relative_change(xp: Any, new: Any, old: Any) -> Any:
    """From one Hessian to another, as a share of the new one: (), or (L,) with lanes last."""
    scale = xp.sqrt(xp.abs(xp.stack([new[k, k] for k in range(len(new))])) + 1e-300)
    return xp.max(xp.abs(new - old) / (scale[:, None] * scale), axis=(0, 1))


def minimise(objective: Objective, start: np.ndarray, control: Control) -> Search:
    """Search from the host, one compiled evaluation at a time: no loop to compile, and nothing to wait for."""
    with np.errstate(all="ignore"):  # what is not finite is looked for, and has its status
        if len(start) > control.newton_limit:
            start = _quasi_newton(objective, start, control)
        return _trust_region(objective, np.asarray(start, float), control)


def search_again(objective: Objective, found: Search, start: np.ndarray, control: Control) -> Search:
    """The better of ``found`` and of a search from ``start``, which is made to its end only where it leads lower."""
    rough = minimise(objective, start, replace(control, tolerance=max(control.tolerance, ROUGH)))
    if not rough.value < found.value - LOWER:
        return found
    other = minimise(objective, rough.theta, control)
    better = other.status == Status.CONVERGED or found.status != Status.CONVERGED
    return other._replace(iterations=found.iterations + other.iterations) if better else found


def _trust_region(objective: Objective, theta: np.ndarray, control: Control) -> Search:
    exact = objective.rough is None  # whether H is the Hessian at theta, not a stand-in
    if objective.rough is None:
        value, g, H, aux = objective.hessian(theta)
    else:
        (value, g, aux), H = objective.gradient(theta), objective.rough(theta)
    if not _finite(value, g, H):
        nan = float("nan")
        return Search(theta, value, g, H, nan, nan, 0, Status.NOT_FINITE, aux)
    radius, kicks, closing, rate = first_radius(np, theta), 0, 0, 0.0
    status, iteration, tolerance = Status.MAX_ITERATIONS, 0, control.tolerance
    for iteration in range(1, control.max_iterations + 1):  # noqa: B007 (reported afterwards)
        step = newton_step(np, g, H, radius)
        near = step.decrement <= tolerance
        if near and not exact:
            value, g, H, aux = objective.hessian(theta)
            exact = True
            continue
        if near and step.eigenvalue < saddle_threshold(np, H) and kicks < MAX_KICKS + len(theta):
            kicks += 1
            lower = _leave_saddle(objective, theta, value, step.direction)
            if lower is not None:
                theta, (value, g, H, aux) = lower
                radius, closing, tolerance = max(radius, KICK), 0, control.tolerance
                continue
        steady = rate * step.length <= STEADY or closing > 1
        if near and steady and (closing or step.decrement <= SETTLED * tolerance):
            status = Status.CONVERGED
            break
        move = step.step
        if near and objective.dear:
            # the last step is too short to change the Hessian: only the gradient is taken again
            trial = objective.gradient(theta + move)
            if _finite(*trial[:2]):
                theta, (value, g, aux) = theta + move, trial
            status = Status.CONVERGED
            break
        if objective.dear:
            trial_value, trial_g, trial_aux = objective.gradient(theta + move)
            trial_H = _rank_one(H, move, trial_g - g) if np.isfinite(trial_value) else H
        else:
            trial_value, trial_g, trial_H, trial_aux = objective.hessian(theta + move)
        noise = 1e-13 * (abs(value) + 1.0) * len(theta)
        finite = _finite(trial_value, trial_g, trial_H)
        gain = decrease(np, value, trial_value, g, trial_g, move)
        ratio = (gain + noise) / (step.predicted + noise) if finite else -1.0
        if ratio > 1e-4:
            rate = float(relative_change(np, trial_H, H) / (step.length + 1e-300))
            theta, value, g, H, aux = theta + move, trial_value, trial_g, trial_H, trial_aux
            exact, closing = near or not objective.dear, closing + 1 if near else 0
            if ratio > 0.75 and step.length > 0.8 * radius:
                radius *= 2.5
        elif near:
            status = Status.CONVERGED  # only rounding is left
            break
        elif not exact:
            value, g, H, aux = objective.hessian(theta)
            exact = True
        if ratio < 0.25:
            radius = 0.25 * min(radius, float(step.length))
            if radius < 1e-12 * (1 + float(np.linalg.norm(theta))):
                if step.decrement > ROUNDING * tolerance or tolerance > control.tolerance:
                    status = Status.STALLED
                    break
                tolerance, radius = ROUNDING * tolerance, KICK  # near, as far as rounding lets one see
    if not exact:
        value, g, H, aux = objective.hessian(theta)
    step = newton_step(np, g, H, np.inf)
    if status == Status.MAX_ITERATIONS and step.decrement <= ROUNDING * control.tolerance:
        status = Status.CONVERGED  # a limit at infinity, approached as far as rounding lets one see
    return Search(theta, value, g, H, float(step.decrement), float(step.eigenvalue), iteration, status, aux)


class _Loop(NamedTuple):
    theta: Any
    value: Any
    g: Any
    H: Any
    move: Any
    predicted: Any
    length: Any
    radius: Any
    iteration: Any
    kicks: Any
    closing: Any
    status: Any
    carried: Any


RUNNING = -1


def minimise_in_loop(evaluate: Callable, start: Array, control: Control, carried: Any = None) -> Search:
    """The same search as a compiled loop with one copy of the objective, for ``jit`` and ``vmap``.

    ``evaluate``: theta, carried -> (value, g, H, carried), where what is carried is kept from the best theta so far
    and returned as ``aux``.  Every pass evaluates at theta + move, accepts or not, and makes the next move; a saddle
    is left along the eigenvector like any other step.
    """
    m, dtype = len(start), start.dtype
    rounding = 500 * float(jnp.finfo(dtype).eps)

    def body(s: _Loop) -> _Loop:
        value, g, H, carried = evaluate(s.theta + s.move, s.carried)
        first = s.iteration == 0
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(g)) & jnp.all(jnp.isfinite(H))
        noise = rounding * (jnp.abs(value) + 1.0) * m
        gain = decrease(jnp, s.value, value, s.g, g, s.move)
        ratio = jnp.where(first, 0.5, (gain + noise) / (s.predicted + noise))
        accept = finite & (ratio > 1e-4)
        theta, value, g, H = (
            jnp.where(accept, new, old)
            for new, old in ((s.theta + s.move, s.theta), (value, s.value), (g, s.g), (H, s.H))
        )
        carried = jax.tree.map(lambda new, old: jnp.where(accept, new, old), carried, s.carried)
        radius = jnp.where(accept & (ratio > 0.75) & (s.length > 0.8 * s.radius), 2.5 * s.radius, s.radius)
        shorter = 0.25 * jnp.minimum(s.radius, s.length)
        radius = jnp.where(finite & (ratio >= 0.25), radius, jnp.where(first, radius, shorter))
        step = newton_step(jnp, g, H, radius)
        tolerance = jnp.maximum(control.tolerance, rounding * jnp.abs(value))
        near = step.decrement <= tolerance
        saddle = near & (step.eigenvalue < saddle_threshold(jnp, H)) & (s.kicks < MAX_KICKS + m)
        away = step.direction * jnp.minimum(radius, KICK)
        ended = near & ~saddle & (s.closing | (step.decrement <= SETTLED * tolerance) | ~accept)
        stalled = radius < 1e-12 * (1 + jnp.sqrt(jnp.sum(theta**2)))
        status = jnp.where(first & ~finite, Status.NOT_FINITE, RUNNING)
        status = jnp.where((status == RUNNING) & stalled, Status.STALLED, status)
        status = jnp.where((status == RUNNING) & ended, Status.CONVERGED, status)
        status = jnp.where((status == RUNNING) & (s.iteration >= control.max_iterations), Status.MAX_ITERATIONS, status)
        return _Loop(
            theta=theta,
            value=value,
            g=g,
            H=H,
            move=jnp.where(saddle, away, step.step),
            predicted=jnp.where(saddle, 0.0, step.predicted),
            length=jnp.where(saddle, radius, step.length),
            radius=radius,
            iteration=s.iteration + 1,
            kicks=s.kicks + saddle.astype(jnp.int32),
            closing=near & ~saddle,
            status=status.astype(jnp.int32),
            carried=carried,
        )

    zero = jnp.zeros((), dtype)
    state = _Loop(
        theta=start,
        value=zero + jnp.inf,
        g=jnp.zeros(m, dtype),
        H=jnp.eye(m, dtype=dtype),
        move=jnp.zeros(m, dtype),
        predicted=zero,
        length=zero,
        radius=first_radius(jnp, start),
        iteration=jnp.zeros((), jnp.int32),
        kicks=jnp.zeros((), jnp.int32),
        closing=jnp.zeros((), bool),
        status=jnp.full((), RUNNING, jnp.int32),
        carried=carried,
    )
    s = jax.lax.while_loop(lambda s: s.status == RUNNING, body, state)
    step = newton_step(jnp, s.g, s.H, jnp.asarray(jnp.inf, dtype))
    return Search(s.theta, s.value, s.g, s.H, step.decrement, step.eigenvalue, s.iteration - 1, s.status, s.carried)


def _leave_saddle(objective: Objective, theta: np.ndarray, value: float, direction: np.ndarray):
    """A lower point along a direction of negative curvature, and the derivatives there: close enough there is one."""
    for length in KICK * 0.25 ** np.arange(8):
        trial = objective.hessian(theta + length * direction)
        if trial[0] < value:
            return theta + length * direction, trial
    return None


def _finite(*values) -> bool:
    return all(np.all(np.isfinite(v)) for v in values)


def _rank_one(H: np.ndarray, s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The symmetric rank-one update: H s = y afterwards.  Skipped where its denominator is not safe."""
    r = y - H @ s
    scale = r @ s
    if abs(scale) <= 1e-8 * np.linalg.norm(r) * np.linalg.norm(s):
        return H
    return H + np.outer(r, r) / scale


def _quasi_newton(objective: Objective, theta: np.ndarray, control: Control) -> np.ndarray:
    """L-BFGS directions (optax) with backtracking, until the steps are small: the trust region does the rest."""
    scaling = optax.scale_by_lbfgs(memory_size=min(30, len(theta)))
    state, update = scaling.init(jnp.asarray(theta)), jax.jit(scaling.update)
    value, g, _ = objective.gradient(theta)
    for _ in range(control.max_iterations):
        direction, state = update(jnp.asarray(g), state, jnp.asarray(theta))
        move = -np.asarray(direction)
        if move @ g >= 0:
            move = -g
        for _ in range(30):
            trial_value, trial_g, _ = objective.gradient(theta + move)
            if trial_value <= value + 1e-4 * (move @ g):
                break
            move = 0.5 * move
        else:
            return theta
        gain = value - trial_value
        theta, value, g = theta + move, trial_value, trial_g
        if gain < 1e-3:
            break
    return theta
