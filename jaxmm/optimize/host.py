"""The search from the host, one compiled evaluation at a time: no loop to compile, and nothing to wait for.

Where the Hessian is dear (``Objective.dear``) it is computed at the end, and at the start if there is no rough one to
begin with; in between it is improved by symmetric rank-one updates from gradients (Nocedal & Wright 2006, §6.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm.optimize import region
from jaxmm.optimize.ends import Control, Search, Status
from jaxmm.optimize.region import KICK, PATIENCE, SETTLED, STEADY

SHARE = 1e-13  # of a value, for each parameter, that may be rounding


@dataclass(frozen=True)
class Objective:
    """theta -> value, derivatives and whatever else comes with the value, on the host.

    ``gradient`` returns (value, g, aux), ``hessian`` (value, g, H, aux).  ``dear``: the Hessian costs much more than
    the gradient; then ``rough`` may be given, theta -> a positive semidefinite stand-in for it to start from.
    ``noise``: how far off a value may be, beside rounding, where it is an estimate: the search ends within it.
    """

    gradient: Callable[[np.ndarray], tuple[float, np.ndarray, Any]]
    hessian: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray, Any]]
    dear: bool = False
    rough: Callable[[np.ndarray], np.ndarray] | None = None
    noise: float = 0.0


def minimise(objective: Objective, start: np.ndarray, control: Control) -> Search:
    """Search from ``start``; beyond ``control.newton_limit`` parameters L-BFGS goes first."""
    if not len(start):  # nothing to search for: the errors have a known covariance
        at = _exact(objective, np.asarray(start, float))
        status = Status.CONVERGED if np.isfinite(at.value) else Status.NOT_FINITE
        return Search(*at[:4], 0.0, float("nan"), 0, status, at.aux)
    with np.errstate(all="ignore"):  # what is not finite is looked for, and has its status
        if len(start) > control.newton_limit:
            start = _quasi_newton(objective, start, control)
        return _trust_region(objective, np.asarray(start, float), control)


# ---------------------------------------------------------------- points
class _At(NamedTuple):
    theta: np.ndarray
    value: float
    g: np.ndarray
    H: np.ndarray
    aux: Any

    @property
    def finite(self) -> bool:
        return bool(region.is_finite(np, self.value, self.g, self.H))

    def step(self, radius: float) -> region.Step:
        return region.newton_step(np, self.g, np.linalg.eigh(self.H), radius)


def _exact(objective: Objective, theta: np.ndarray) -> _At:
    return _At(theta, *objective.hessian(theta))


def _first(objective: Objective, theta: np.ndarray) -> _At:
    if objective.rough is None:
        return _exact(objective, theta)
    value, g, aux = objective.gradient(theta)
    return _At(theta, value, g, objective.rough(theta), aux)


def _trial(objective: Objective, at: _At, move: np.ndarray) -> _At:
    """The derivatives at the end of a move; a dear Hessian is learnt from the gradients."""
    theta = at.theta + move
    if not objective.dear:
        return _exact(objective, theta)
    value, g, aux = objective.gradient(theta)
    return _At(theta, value, g, region.rank_one(np, at.H, move, g - at.g) if np.isfinite(value) else at.H, aux)


def _closing(objective: Objective, at: _At, move: np.ndarray) -> _At:
    """The last step where a Hessian is dear: too short to change it, so that only the gradient is taken again."""
    value, g, aux = objective.gradient(at.theta + move)
    last = _At(at.theta + move, value, g, at.H, aux)
    return last if last.finite else at


def _leave_saddle(objective: Objective, at: _At, direction: np.ndarray) -> _At | None:
    """A lower point along a direction of negative curvature: close enough there is one."""
    for length in KICK * 0.25 ** np.arange(8):
        trial = _exact(objective, at.theta + length * direction)
        if trial.value < at.value - 2 * objective.noise:
            return trial
    return None


# ---------------------------------------------------------------- the search
def _trust_region(objective: Objective, theta: np.ndarray, control: Control) -> Search:
    at, exact = _first(objective, theta), objective.rough is None  # whether H is the Hessian there, not a stand-in
    if not at.finite:
        nan = float("nan")
        return Search(*at[:4], nan, nan, 0, Status.NOT_FINITE, at.aux)
    radius, kicks, closing, rate = float(region.first_radius(np, theta)), 0, 0, 0.0
    status, iteration = Status.MAX_ITERATIONS, 0
    least = tolerance = max(control.tolerance, objective.noise)  # a decrement below the noise shows nothing
    for iteration in range(1, control.max_iterations + 1):  # noqa: B007 (reported afterwards)
        step = at.step(radius)
        near = step.decrement <= tolerance
        if near and not exact:
            at, exact = _exact(objective, at.theta), True
            continue
        if near and region.is_saddle(np, step, region.size_of(np, at.H), kicks):
            kicks += 1
            lower = _leave_saddle(objective, at, step.direction)
            if lower is not None:
                at, radius, closing, tolerance = lower, max(radius, KICK), 0, least
                continue
        steady = rate * step.length <= STEADY or closing > 1
        if near and steady and (closing or step.decrement <= SETTLED * tolerance):
            status = Status.CONVERGED
            break
        if near and objective.dear:
            at, status = _closing(objective, at, step.move), Status.CONVERGED
            break
        trial = _trial(objective, at, step.move)
        gain = region.decrease(np, at.value, trial.value, at.g, trial.g, step.move)
        noise = region.noise(np, at.value, len(theta), SHARE) + 2 * objective.noise
        ratio = float(region.agreement(np, gain, step.predicted, noise, trial.finite))
        if ratio > region.ACCEPTED:
            rate = float(region.relative_change(np, trial.H, at.H) / (step.length + 1e-300))
            at, exact, closing = trial, near or not objective.dear, closing + 1 if near else 0
        elif near:
            status = Status.CONVERGED  # only rounding is left
            break
        elif not exact:
            at, exact = _exact(objective, at.theta), True
        radius = float(region.next_radius(np, ratio, step.length, radius))
        if ratio < region.POOR and region.is_stuck(np, radius, at.theta):
            if step.decrement > PATIENCE * tolerance or tolerance > least:
                status = Status.STALLED
                break
            tolerance, radius = PATIENCE * tolerance, KICK  # near, as far as rounding lets one see
    if not exact:
        at = _exact(objective, at.theta)
    step = at.step(np.inf)
    if status == Status.MAX_ITERATIONS and step.decrement <= PATIENCE * least:
        status = Status.CONVERGED  # a limit at infinity, approached as far as rounding lets one see
    return Search(*at[:4], float(step.decrement), float(step.eigenvalue), iteration, status, at.aux)


def _quasi_newton(objective: Objective, theta: np.ndarray, control: Control) -> np.ndarray:
    """L-BFGS directions (optax) with backtracking, until the steps are small: the trust region does the rest."""
    import optax  # a quarter of a second, which few searches need

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
            if trial_value <= value + 1e-4 * (move @ g) + 2 * objective.noise:
                break
            move = 0.5 * move
        else:
            return theta
        gain = value - trial_value
        theta, value, g = theta + move, trial_value, trial_g
        if gain < max(1e-3, 2 * objective.noise):
            break
    return theta
