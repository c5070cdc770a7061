"""The trust region: from derivatives at theta to the next step, and from a trial to what is thought of it.

Functions of arrays: ``xp`` is numpy, for one search, or jax.numpy, for one or for many, the lanes, on the last axis of
every argument.  So g is (m, ..), H (m, m, ..), and what is a number of a search (..).  A driver evaluates at
theta + move and asks

    ratio = agreement(..)           how much of the predicted gain there is; above ACCEPTED the trial is taken
    radius = next_radius(..)
    step = newton_step(..)          from the derivatives where the search is now
    near, saddle, stuck             its decrement below the tolerance; ``is_saddle``, ``is_stuck``
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmm.optimize.ends import RUNNING, Status

# the trial
ACCEPTED = 1e-4  # of the predicted gain: the trial is taken
POOR, GOOD = 0.25, 0.75  # of the predicted gain: below the one the region shrinks, above the other it may grow
REACHED = 0.8  # of the radius: the step was as long as the region let it be
SHRINK, GROW = 0.25, 2.5  # the radius, by these
UNSEEN = 0.5  # stands for the ratio of a first evaluation: it is taken, and the region stays as it is
DIGITS = 500  # units in the last place, for each parameter, that a value is wrong by
# the step
MU_STEPS = 12  # of Newton's method for its length
LEAST = 1e-10  # of the largest curvature, which none counts below
# the end
SETTLED = 1e-5  # of the tolerance: the one more step would change nothing
STEADY = 2e-7  # change of the Hessian, as a share of itself, that standard errors do not show
PATIENCE = 1e3  # times the tolerance is near enough where no step lowers the value any more
STUCK = 1e-12  # a radius, relative to theta, that leads nowhere
FLAT = 1e-9  # a curvature, or its share of the largest where all parameters count alike, that is zero
# a saddle
NEGATIVE = -1e-6  # of the size of the Hessian: an eigenvalue below this is negative, not rounding
KICK = 0.3  # first length of a step away
MAX_KICKS = 5  # beside one for each parameter, which may all start at zero


# ---------------------------------------------------------------- the step
class Step(NamedTuple):
    """A step from theta, and what the derivatives there say."""

    move: Any
    predicted: Any  # reduction of the quadratic model
    decrement: Any
    eigenvalue: Any
    direction: Any  # eigenvector of the least eigenvalue
    length: Any


def newton_step(xp: Any, g: Any, eigen: tuple[Any, Any], radius: Any) -> Step:
    """The step at the head of ``optimize``; ``eigen`` is (w, Q) of H = Q diag(w) Q', w ascending."""
    w, Q = eigen
    size = xp.abs(w)
    size = xp.maximum(size, LEAST * xp.max(size, axis=0) + 1e-100)
    slope = Q.T @ g if g.ndim == 1 else xp.sum(Q * g[:, None], axis=0)
    decrement = 0.5 * xp.sum(slope**2 / size, axis=0)

    # |s(mu)| falls with mu: Newton on 1/|s| - 1/Delta converges from the left, monotonically
    def tighten(mu: Any) -> Any:
        shifted = 1 / (size + mu)
        scaled = (slope * shifted) ** 2
        length = xp.sqrt(xp.sum(scaled, axis=0) + 1e-300)
        rate = xp.maximum(xp.sum(scaled * shifted, axis=0), 1e-300)
        return xp.where(length > radius, mu + (length / radius - 1) * length**2 / rate, mu)

    mu = _repeat(xp, tighten, xp.zeros(g.shape[1:], g.dtype))
    s = -(slope / (size + mu))
    predicted = -xp.sum(slope * s, axis=0) - 0.5 * xp.sum(w * s**2, axis=0)
    return Step(_times(xp, Q, s), predicted, decrement, w[0], Q[:, 0], xp.sqrt(xp.sum(s**2, axis=0)))


def _times(xp: Any, A: Any, x: Any) -> Any:
    """A x, of many searches without a product of matrices each."""
    return A @ x if x.ndim == 1 else xp.sum(A * x[None], axis=1)


def _repeat(xp: Any, tighten: Any, mu: Any) -> Any:
    if xp is not np:
        return jax.lax.fori_loop(0, MU_STEPS, lambda _, mu: tighten(mu), mu)
    for _ in range(MU_STEPS):
        before, mu = mu, tighten(mu)
        if mu == before:
            break
    return mu


def first_radius(xp: Any, theta: Any) -> Any:
    """Half the length of the start: moments are within that of the optimum more often than not."""
    return xp.maximum(0.5, 0.5 * xp.sqrt(xp.sum(theta**2, axis=0)))


def rank_one(xp: Any, H: Any, s: Any, y: Any) -> Any:
    """The symmetric rank-one update, H s = y afterwards; skipped where its denominator is not safe."""
    r = y - _times(xp, H, s)
    scale = xp.sum(r * s, axis=0)
    safe = xp.abs(scale) > 1e-8 * xp.sqrt(xp.sum(r * r, axis=0) * xp.sum(s * s, axis=0))
    return xp.where(safe, H + r[:, None] * r[None] / xp.where(safe, scale, 1.0), H)


# ---------------------------------------------------------------- the trial
def is_finite(xp: Any, value: Any, g: Any, H: Any) -> Any:
    """Whether all of the derivatives at a trial are numbers to work with."""
    return xp.isfinite(value) & xp.all(xp.isfinite(g), axis=0) & xp.all(xp.isfinite(H), axis=(0, 1))


def rounding(xp: Any, dtype: Any) -> float:
    """The share of a value, for each parameter, that may be rounding."""
    return DIGITS * float(xp.finfo(dtype).eps)


def noise(xp: Any, value: Any, m: int, share: float) -> Any:
    """What a value is wrong by, of which ``share`` is rounding for each of m parameters."""
    return share * (xp.abs(value) + 1.0) * m


def decrease(xp: Any, value: Any, trial: Any, g: Any, trial_g: Any, move: Any) -> Any:
    """value - trial, and where that is lost in the rounding of values -½ (g + trial_g)'move instead (g (m, ..)).

    Gradients tell of steps whose gain is far below the rounding of two values of a large deviance, or of one that is a
    small difference of large numbers.
    """
    seen = value - trial
    by_slope = -0.5 * xp.sum((g + trial_g) * move, axis=0)
    small = float(xp.finfo(g.dtype).eps) ** 0.5 * (xp.abs(value) + 1.0)
    return xp.where((xp.abs(seen) < small) & (xp.abs(by_slope) < small), by_slope, seen)


def agreement(xp: Any, gain: Any, predicted: Any, noise: Any, finite: Any, fresh: Any = None) -> Any:
    """The share of the predicted gain that there is, one where both are rounding; -1 at a trial that is not finite, and
    UNSEEN at the first evaluation of a search that is ``fresh``."""
    ratio = (gain + noise) / (predicted + noise)
    if fresh is not None:
        ratio = xp.where(fresh, UNSEEN, ratio)
    return xp.where(finite, ratio, -1.0)


def next_radius(xp: Any, ratio: Any, length: Any, radius: Any) -> Any:
    """After a step of that length, and that agreement."""
    longer = xp.where((ratio > GOOD) & (length > REACHED * radius), GROW * radius, radius)
    return xp.where(ratio >= POOR, longer, SHRINK * xp.minimum(radius, length))


def relative_change(xp: Any, new: Any, old: Any) -> Any:
    """From one Hessian to another, as a share of the new one."""
    scale = xp.sqrt(xp.abs(xp.stack([new[k, k] for k in range(len(new))])) + 1e-300)
    return xp.max(xp.abs(new - old) / (scale[:, None] * scale), axis=(0, 1))


# ---------------------------------------------------------------- where the search is
def visible(xp: Any, tolerance: float, value: Any, share: float) -> Any:
    """The tolerance, raised to what rounding lets one see of the value."""
    return xp.maximum(tolerance, share * xp.abs(value))


def size_of(xp: Any, H: Any) -> Any:
    """The largest element, which negative eigenvalues are held against."""
    return xp.max(xp.abs(H), axis=(0, 1))


def is_saddle(xp: Any, step: Step, size: Any, kicks: Any) -> Any:
    """Whether there is a direction of negative curvature to leave along; ``size`` of the Hessian, ``kicks`` so far."""
    return (step.eigenvalue < NEGATIVE * xp.maximum(1.0, size)) & (kicks < MAX_KICKS + len(step.move))


def leave_saddle(xp: Any, saddle: Any, step: Step, radius: Any) -> Step:
    """The step, where there is a ``saddle`` one along the direction of negative curvature, of which nothing is
    predicted."""
    return step._replace(
        move=xp.where(saddle, step.direction * xp.minimum(radius, KICK), step.move),
        predicted=xp.where(saddle, 0.0, step.predicted),
        length=xp.where(saddle, radius, step.length),
    )


def is_stuck(xp: Any, radius: Any, theta: Any) -> Any:
    """Whether a step in the region could not move theta any more."""
    return radius < STUCK * (1 + xp.sqrt(xp.sum(theta**2, axis=0)))


def verdict(xp: Any, broken: Any, ended: Any, stuck: Any, last: Any) -> Any:
    """The ``Status`` of a search, or RUNNING; of what is true the first counts."""
    status = xp.where(last, Status.MAX_ITERATIONS, RUNNING)
    status = xp.where(stuck, Status.STALLED, status)
    status = xp.where(ended, Status.CONVERGED, status)
    return xp.where(broken, Status.NOT_FINITE, status).astype(np.int32)


def is_flat(H: np.ndarray) -> bool:
    """Whether the Hessian has a direction without curvature, whatever the units of the parameters."""
    if not len(H):
        return False
    curvature = np.abs(np.diag(H))
    if curvature.min() <= FLAT or not np.all(np.isfinite(H)):
        return True
    return float(np.linalg.eigvalsh(H / np.sqrt(np.outer(curvature, curvature)))[0]) <= FLAT
