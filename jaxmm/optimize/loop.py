"""The search as a compiled loop with one copy of the objective, for ``jit`` and ``vmap``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.optimize import region
from jaxmm.optimize.ends import RUNNING, Control, Search


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


def minimise_in_loop(evaluate: Callable, start: Array, control: Control, carried: Any = None) -> Search:
    """``host.minimise`` as a compiled loop.

    ``evaluate``: theta, carried -> (value, g, H, carried), where what is carried is kept from the best theta so far
    and returned as ``aux``.  Every pass evaluates at theta + move, accepts or not, and makes the next move; a saddle
    is left along the eigenvector like any other step.
    """
    m, dtype = len(start), start.dtype
    share = region.rounding(jnp, dtype)

    def body(s: _Loop) -> _Loop:
        trial = s.theta + s.move
        value, g, H, carried = evaluate(trial, s.carried)
        first = s.iteration == 0
        finite = region.is_finite(jnp, value, g, H)
        gain = region.decrease(jnp, s.value, value, s.g, g, s.move)
        noise = region.noise(jnp, value, m, share)
        ratio = region.agreement(jnp, gain, s.predicted, noise, finite, first)
        accept = ratio > region.ACCEPTED
        new, old = (trial, value, g, H, carried), (s.theta, s.value, s.g, s.H, s.carried)
        theta, value, g, H, carried = jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)
        radius = region.next_radius(jnp, ratio, s.length, s.radius)
        step = region.newton_step(jnp, g, jnp.linalg.eigh(H), radius)
        tolerance = region.visible(jnp, control.tolerance, value, share)
        near = step.decrement <= tolerance
        saddle = near & region.is_saddle(jnp, step, region.size_of(jnp, H), s.kicks)
        ended = near & ~saddle & (s.closing | (step.decrement <= region.SETTLED * tolerance) | ~accept)
        stuck = region.is_stuck(jnp, radius, theta)
        last = s.iteration >= control.max_iterations
        step = region.leave_saddle(jnp, saddle, step, radius)
        return _Loop(
            theta=theta,
            value=value,
            g=g,
            H=H,
            move=step.move,
            predicted=step.predicted,
            length=step.length,
            radius=radius,
            iteration=s.iteration + 1,
            kicks=s.kicks + saddle.astype(jnp.int32),
            closing=near & ~saddle,
            status=region.verdict(jnp, first & ~finite, ended & ~stuck, stuck, last),
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
        radius=region.first_radius(jnp, start),
        iteration=jnp.zeros((), jnp.int32),
        kicks=jnp.zeros((), jnp.int32),
        closing=jnp.zeros((), bool),
        status=jnp.full((), RUNNING, jnp.int32),
        carried=carried,
    )
    s = jax.lax.while_loop(lambda s: s.status == RUNNING, body, state)
    step = region.newton_step(jnp, s.g, jnp.linalg.eigh(s.H), jnp.asarray(jnp.inf, dtype))
    return Search(s.theta, s.value, s.g, s.H, step.decrement, step.eigenvalue, s.iteration - 1, s.status, s.carried)
