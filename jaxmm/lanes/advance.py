"""The trust-region search of ``optimize`` for many problems at once, the lanes, in steps of a fixed cost.

Every array has the lanes on its last axis, so that each operation is one long vector: theta (m, L), H (m, m, L).
A step evaluates at theta + move, accepts or not, and makes the next move; a lane that has ended stands still until it
is replaced.  The Hessian is exact where the problem has a cheap one, else improved by symmetric rank-one updates from
gradients (Nocedal & Wright 2006, §6.2).  After the stopping rule one more step is taken, so that where a lane stops
hardly moves its estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.optimize import region
from jaxmm.optimize.again import LOWER, ROUGH
from jaxmm.optimize.ends import RUNNING, Control
from jaxmm.optimize.region import NEGATIVE, PATIENCE, SETTLED

LAST = 9  # the number of a search after which there is none
SWEEPS = 6  # of rotations: they converge quadratically
POLISH = 1e2  # times the tolerance from which one step with the exact Hessian leads to rounding
NEARER = 1e-2  # of the tolerance, where the last step is one with a Hessian that was learnt


class Value(NamedTuple):
    """A criterion at theta: ``value`` (L,), ``gradient`` (m, L), ``hessian`` (m, m, L) or None, and what is kept from
    the best theta, a pytree with the lanes last."""

    value: Array
    gradient: Array
    hessian: Array | None
    kept: Any


class Lanes(NamedTuple):
    """The state of the search; ``fresh`` marks lanes that have not been evaluated yet, ``bar`` is the value that a
    further search must come below, ``round`` which search it is: 0 the first, LAST one after which there is none."""

    theta: Array
    value: Array
    gradient: Array
    hessian: Array
    kept: Any
    move: Array
    predicted: Array
    length: Array
    radius: Array
    decrement: Array
    iteration: Array
    kicks: Array
    closing: Array
    fresh: Array
    bar: Array
    round: Array
    status: Array


# ---------------------------------------------------------------- small symmetric matrices, lanes last
def eigh(H: Array) -> tuple[Array, Array]:
    """Eigenvalues (m, L), ascending, and eigenvectors (m, m, L) of symmetric H, by Jacobi's rotations.

    The library's routine goes matrix by matrix, and two programs that call it at once can wait for each other for ever
    (``Problem.library``).
    """
    m = len(H)
    eye = jnp.broadcast_to(jnp.eye(m, dtype=H.dtype)[:, :, None], H.shape)
    if m == 1:
        return H[0], eye
    sweep = _unrolled_sweep if m <= costs.UNROLLED_SWEEP else _looped_sweep
    A, Q = jax.lax.fori_loop(0, 1 if m == 2 else SWEEPS, lambda _, both: sweep(*both), (H, eye))
    w = jnp.stack([A[k, k] for k in range(m)])
    order = jnp.argsort(w, axis=0)
    return jnp.take_along_axis(w, order, axis=0), jnp.take_along_axis(Q, order[None], axis=1)


def _rotation(a: Array, b: Array, off: Array) -> tuple[Array, Array, Array]:
    """Tangent, cosine and sine that make ``off`` zero: the smaller root of t² + t (b - a)/off - 1 = 0 (Golub & Van Loan
    2013, §8.5)."""
    half = 0.5 * (b - a)
    root = jnp.sqrt(half * half + off * off)
    below = jnp.where(half >= 0, half + root, half - root)
    t = jnp.where(off == 0, 0.0, off / jnp.where(below == 0, 1.0, below))
    c = jax.lax.rsqrt(1 + t * t)
    return t, c, t * c


def _unrolled_sweep(H: Array, vectors: Array) -> tuple[Array, Array]:
    m = len(H)
    A, Q = ([[x[a, b] for b in range(m)] for a in range(m)] for x in (H, vectors))
    for a in range(m):
        for b in range(a + 1, m):
            off = A[a][b]
            t, c, s = _rotation(A[a][a], A[b][b], off)
            for k in range(m):
                if k not in (a, b):
                    x, z = A[k][a], A[k][b]
                    A[k][a] = A[a][k] = c * x - s * z
                    A[k][b] = A[b][k] = s * x + c * z
                x, z = Q[k][a], Q[k][b]
                Q[k][a], Q[k][b] = c * x - s * z, s * x + c * z
            A[a][a], A[b][b] = A[a][a] - t * off, A[b][b] + t * off
            A[a][b] = A[b][a] = jnp.zeros_like(off)
    return jnp.stack([jnp.stack(r) for r in A]), jnp.stack([jnp.stack(r) for r in Q])


def _looped_sweep(H: Array, vectors: Array) -> tuple[Array, Array]:
    pairs = jnp.asarray([(a, b) for a in range(len(H)) for b in range(a + 1, len(H))])

    def turn(i, both):
        A, Q = both
        a, b = pairs[i]
        _, c, s = _rotation(A[a, a], A[b, b], A[a, b])
        A = A.at[a].set(c * A[a] - s * A[b]).at[b].set(s * A[a] + c * A[b])
        A = A.at[:, a].set(c * A[:, a] - s * A[:, b]).at[:, b].set(s * A[:, a] + c * A[:, b])
        Q = Q.at[:, a].set(c * Q[:, a] - s * Q[:, b]).at[:, b].set(s * Q[:, a] + c * Q[:, b])
        return A, Q

    return jax.lax.fori_loop(0, len(pairs), turn, (H, vectors))


# ---------------------------------------------------------------- the search
def begin(theta: Array, hessian: Array, kept: Any) -> Lanes:
    """Lanes at ``theta`` (m, L), not yet evaluated; ``kept`` an example of what is, ``hessian`` (m, m, L) a first guess
    (used where the problem gives none)."""
    L = theta.shape[-1]
    zero = jnp.zeros(L, theta.dtype)
    return Lanes(
        theta=theta,
        value=zero + jnp.inf,
        gradient=jnp.zeros_like(theta),
        hessian=hessian,
        kept=kept,
        move=jnp.zeros_like(theta),
        predicted=zero,
        length=zero,
        radius=region.first_radius(jnp, theta),
        decrement=zero + jnp.inf,
        iteration=jnp.zeros(L, jnp.int32),
        kicks=jnp.zeros(L, jnp.int32),
        closing=jnp.zeros(L, jnp.int32),
        fresh=jnp.ones(L, bool),
        bar=zero + jnp.inf,
        round=jnp.zeros(L, jnp.int32),
        status=jnp.full(L, RUNNING, jnp.int32),
    )


def choose(mask: Array, new: Any, old: Any) -> Any:
    """Lane by lane ``new`` where the mask is true, in every leaf."""
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)


def retract(theta: Array, move: Array, rows: Sequence[Any]) -> Array:
    """theta + move, bent so that each of the ``rows`` turns at the length that the move gives it to first order.

    Where a variance is zero, rows of the other effects may turn at almost no change of D.  The likelihood then has a
    ridge that is a circle in theta, which straight steps could follow in very short ones only.
    """
    for row in rows:
        old, step = theta[row], move[row]
        length = jnp.sqrt(jnp.sum(old * old, axis=0))
        new = old + step
        wanted = length + jnp.sum(old * step, axis=0) / jnp.where(length == 0, 1.0, length)
        bent = new * (wanted / jnp.sqrt(jnp.sum(new * new, axis=0) + 1e-300))
        move = move.at[row].set(jnp.where(wanted > 0.25 * length, bent, new) - old)
    return theta + move


def advance(
    evaluate: Callable[[Array, Any], Value],
    s: Lanes,
    control: Control,
    rows: Sequence[Any] = (),
    polished: bool = False,
    steady: float = 0.0,
) -> Lanes:
    """One step of every running lane; ``evaluate``: (theta (m, L), kept) -> Value; ``rows`` as in ``retract``.

    ``polished``: a step with the exact Hessian follows the search, which may then end ``POLISH`` times as far away and
    takes no last step of its own.  ``steady``: others end where the next step would change the Hessian by less than
    this share of itself, as it changed with the step before.
    """
    share = region.rounding(jnp, s.theta.dtype)
    trial = retract(s.theta, s.move, rows)
    at = evaluate(trial, s.kept)
    hessian = at.hessian
    exact = hessian is not None
    if hessian is None:
        learnt = region.rank_one(jnp, s.hessian, trial - s.theta, at.gradient - s.gradient)
        hessian = jnp.where(s.fresh, s.hessian, learnt)
        usable = jnp.all(jnp.isfinite(at.gradient), axis=0)
        updated = jnp.where(usable, hessian, s.hessian)  # also where the step is refused: it has been learnt
    else:
        updated = s.hessian
    finite = region.is_finite(jnp, at.value, at.gradient, hessian)
    gain = region.decrease(jnp, s.value, at.value, s.gradient, at.gradient, trial - s.theta)
    noise = region.noise(jnp, at.value, len(s.theta), share)
    ratio = region.agreement(jnp, gain, s.predicted, noise, finite, s.fresh)
    # the closing step is shorter than rounding of the value can tell
    accept = (ratio > region.ACCEPTED) | (finite & (s.closing > 0) & (at.value <= s.value + 1e3 * noise))
    new = (trial, at.value, at.gradient, hessian, at.kept)
    theta, value, g, H, kept = choose(accept, new, (s.theta, s.value, s.gradient, updated, s.kept))
    radius = region.next_radius(jnp, ratio, s.length, s.radius)
    step = region.newton_step(jnp, g, eigh(H), radius)
    tolerance = region.visible(jnp, control.tolerance * (POLISH if polished else 1.0), value, share)
    near = step.decrement <= tolerance
    size = region.size_of(jnp, H)
    saddle = near & region.is_saddle(jnp, step, size, s.kicks)
    settled = (step.decrement <= SETTLED * tolerance) | (s.closing > 0) | polished
    if steady:
        moved = jnp.sqrt(jnp.sum((trial - s.theta) ** 2, axis=0) + 1e-300)
        rate = region.relative_change(jnp, H, s.hessian) / moved
        settled = (~s.fresh & (rate * step.length <= steady)) | (s.closing > 1)
    # a second search that comes to no lower minimum, as ``optimize.search_again``
    lost = (step.decrement <= ROUGH) & (value >= s.bar - LOWER) & (step.eigenvalue >= NEGATIVE * size)
    ended = ~saddle & ((near & (settled | ~accept)) | lost)
    stuck = region.is_stuck(jnp, radius, theta)
    last = s.iteration >= control.max_iterations
    # a limit at infinity, approached as far as rounding lets one see
    far = last & (step.decrement <= PATIENCE * control.tolerance)
    enough = ended | far | (stuck & (step.decrement <= PATIENCE * tolerance))
    step = region.leave_saddle(jnp, saddle, step, radius)
    after = Lanes(
        theta=theta,
        value=value,
        gradient=g,
        hessian=H,
        kept=kept,
        move=step.move,
        predicted=step.predicted,
        length=step.length,
        radius=radius,
        decrement=step.decrement,
        iteration=s.iteration + 1,
        kicks=s.kicks + saddle.astype(jnp.int32),
        closing=jnp.where(
            near & ~saddle & (step.decrement <= (1.0 if exact else NEARER) * tolerance), s.closing + 1, 0
        ),
        fresh=jnp.zeros_like(s.fresh),
        bar=s.bar,
        round=s.round,
        status=region.verdict(jnp, s.fresh & ~finite, enough, stuck, last),
    )
    return choose(s.status == RUNNING, after, s)
