"""The path of constrained minima: for one parameter h of x, and one side of its estimate.

With f the deviance at x and f̂ its minimum,

    F(c) = min { f(x) : h(x) = c },        ζ(c) = ± √(F(c) - f̂)

and wanted are the c at which |ζ| has given values: the ends of intervals.  Every x that is looked at has h(x) = c.
With ∇h normal to that surface, V a basis of its tangent, μ = F'(c) Lagrange's multiplier and L = ∇²f - μ ∇²h,

    w = V'LV          what Newton's step dx = -V w⁻¹ V'∇f minimises by; F = f - ½ ∇f'V w⁻¹ V'∇f up to O(dx³)
    v = dx/dc         v'∇h = 1, V'Lv = 0: the direction of the path, F''(c) = v'Lv

(Venzon & Moolgavkar 1988 solve for an end at once; Bates & Watts 1988, §6.1, have ζ.)  A step goes along the path and
back to it at once, x + dx + v Δc, where Δc is Newton's for ζ, whose graph is nearly a straight line, at most ``STRIDE``
long, or within what encloses the end.  Where the path is lost, a trust region finds it again at that c.

A path is a generator: it asks for a point and is sent what is there, so that many paths can be followed at once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxmm.optimize import FLAT, region

CLOSE = 3e-4  # of ζ: the rest is one step, whose error is its square
MINIMISED = 1e-6  # a Newton decrement that changes ζ by no more than its root cubed
LOOSE = 0.05  # a decrement from which the minimum is sought before the path goes on
STRIDE = 1.0  # of ζ, the longest step along the path
MOVES = 60  # along the path, for each end
STEPS = 60  # of the trust region
SHORTER = 16  # times a step is shortened, to a quarter each, where its end is none: no likelihood there, or a cliff
CLIFF = 4.0  # of ζ: a step of ``STRIDE`` that rises by more began where the slope says nothing, as on a plateau
SHOWS = 1e-3  # of ζ: below it rounding hides F', and whether ζ falls
AWAY = 300.0  # steps of one in ζ, as the slope at the estimate has it, after which a profile has levelled off
LOWER = 1e-4  # of the deviance: below its minimum by more than this, it was none
REACHED = 1e-6  # of c: how nearly h must be what was asked for


class Point(NamedTuple):
    """What there is at an x: h, f, their slopes (n,) and Hessians (n, n); ``kept`` is what the next evaluation begins
    from."""

    x: np.ndarray
    h: float
    value: float
    g: np.ndarray
    H: np.ndarray
    dh: np.ndarray
    ddh: np.ndarray
    kept: Any

    @property
    def finite(self) -> bool:
        parts = (self.h, self.value, self.g, self.H, self.dh, self.ddh)
        return all(bool(np.all(np.isfinite(part))) for part in parts) and bool(np.any(self.dh))


class Asked(NamedTuple):
    """A point to evaluate: x, moved onto h(x) = c (NaN: where it is), from what was ``kept``."""

    x: np.ndarray
    c: float
    kept: Any


class Local(NamedTuple):
    """The letters of the module's head at a point; ``slope`` is V'∇f, ``back`` dx, ``along`` v, ``curvature`` F''."""

    at: Point
    w: np.ndarray
    V: np.ndarray
    slope: np.ndarray
    back: np.ndarray
    decrement: float
    mu: float
    along: np.ndarray
    curvature: float

    @property
    def lowest(self) -> float:
        """F(c)."""
        return self.at.value - self.decrement

    @property
    def is_saddle(self) -> bool:
        size = np.max(np.abs(self.w), initial=0.0)
        return bool(len(self.w)) and bool(self.w[0] < region.NEGATIVE * max(1.0, size))


def local(at: Point) -> Local:
    """The geometry at a point."""
    V = np.linalg.qr(at.dh[:, None], mode="complete")[0][:, 1:]
    square = at.dh @ at.dh
    L = at.H - (at.dh @ at.g / square) * at.ddh
    w, Q = np.linalg.eigh(V.T @ L @ V)
    V = V @ Q
    slope, size = V.T @ at.g, np.abs(w)
    known = size > FLAT * np.max(size, initial=0.0)  # along a ridge, as a singular Λ has one, nothing moves
    inverse = np.where(known, 1 / np.where(known, size, 1.0), 0.0)
    back, normal = -V @ (inverse * slope), at.dh / square
    along = normal - V @ (inverse * (V.T @ (L @ normal)))
    mu, decrement = normal @ (at.g + L @ back), 0.5 * np.sum(inverse * slope**2)
    return Local(at, w, V, slope, back, float(decrement), float(mu), along, float(along @ L @ along))


# ---------------------------------------------------------------- back to the path
Walk = Generator[Asked, Point, Any]


def settle(here: Local, c: float, tolerance: float) -> Generator[Asked, Point, Local]:
    """The minimum at fixed c, from a point there, by Newton's method in a trust region on the surface."""
    radius = 0.5
    for _ in range(STEPS):
        near = here.decrement <= tolerance
        if near and not here.is_saddle:
            break
        if near:
            lower = yield from leave_saddle(here, c)
            if lower is None:
                break
            here, radius = lower, 0.5
            continue
        step = region.newton_step(np, here.slope, (here.w, np.eye(len(here.w))), radius)
        point = yield Asked(here.at.x + here.V @ step.move, c, here.at.kept)
        ratio = -1.0
        if is_there(point, c):
            moved, trial = point.x - here.at.x, point.g - here.mu * point.dh
            gain = region.decrease(np, here.at.value, point.value, here.at.g - here.mu * here.at.dh, trial, moved)
            noise = region.noise(np, here.at.value, len(moved), region.rounding(np, np.float64))
            ratio = float(region.agreement(np, gain, step.predicted, noise, True))
        radius = float(region.next_radius(np, ratio, step.length, radius))
        if ratio > region.ACCEPTED:
            here = local(point)
        elif near or region.is_stuck(np, radius, here.at.x):
            break
    return here


def leave_saddle(here: Local, c: float) -> Generator[Asked, Point, Local | None]:
    """A lower point along the direction of negative curvature: close enough there is one."""
    for length in region.KICK * 0.25 ** np.arange(6):
        point = yield Asked(here.at.x + length * here.V[:, 0], c, here.at.kept)
        if is_there(point, c) and point.value < here.at.value:
            return local(point)
    return None


def is_there(point: Point, c: float) -> bool:
    """Whether a point can be used, and h is what was asked for."""
    return point.finite and is_close(point.h, c)


def is_close(h: float, c: float) -> bool:
    return bool(np.isfinite(c)) and abs(h - c) <= REACHED * (1e-3 + abs(c))


# ---------------------------------------------------------------- along the path
@dataclass
class Side:
    """What was found on one side of an estimate.

    ``ends`` (c, dζ/dc) of each |ζ| in ``targets``, as far as the path came; ``stopped`` why it came no further:
    "boundary" of the parameter's range, "level" (ζ rises no more), "lost"; with the c and the ζ there.  ``lower``: the
    deviance fell by so much below its minimum.  ``falls``: somewhere ζ falls, so that the values with a smaller one are
    no interval, of which the nearest end is taken.
    """

    sign: int
    targets: tuple[float, ...]
    ends: list[tuple[float, float]] = field(default_factory=list)
    stopped: str | None = None
    last: tuple[float, float] = (np.nan, np.nan)
    lower: float = 0.0
    falls: bool = False


@dataclass
class Track:
    """Where a path is: the ζ there and its slope, what encloses the end that is sought, (c, ζ) on either side of it,
    and the last step."""

    here: Local
    zeta: float
    slope: float
    inner: tuple[float, float]
    outer: tuple[float, float] | None = None
    step: float = 0.0


def follow(
    start: Local, side: Side, minimum: float, limit: float, inner: float | None = None
) -> Generator[Asked, Point, Side]:
    """The ends on one side, from the estimate or, where that is at the edge ``inner`` of its range, from a minimum
    beside it.

    Args:
        minimum: f̂.
        limit: the last c that the path may come to.
    """
    track = place(start, side, minimum, (start.at.h if inner is None else inner, 0.0))
    origin, scale = track.inner[0], np.sqrt(max(start.curvature, 1e-300) / 2)
    for target in side.targets:
        goal = side.sign * target
        if track.outer is not None and side.sign * (track.outer[1] - goal) < 0:
            track.inner, track.outer = track.outer, None
        for _ in range(MOVES):
            gap = goal - track.zeta
            if abs(gap) <= CLOSE and track.here.decrement <= MINIMISED:
                side.ends.append((track.here.at.h + gap / track.slope, track.slope))
                break
            c = track.here.at.h
            if is_close(c, limit) and side.sign * gap > 0:
                side.stopped = "boundary"
            elif side.sign * gap > 0 and abs(c - origin) * scale > AWAY:
                side.stopped = "level"
            else:
                track = yield from move(track, side, minimum, goal, limit)
            if side.stopped:
                break
        else:
            side.stopped = "lost"
        if side.stopped:
            break
    side.last = track.here.at.h, track.zeta
    return side


def place(here: Local, side: Side, minimum: float, inner: Any, outer: Any = None) -> Track:
    """The ζ at a point of the path and its slope, from F' or, at the estimate, from F''."""
    rise = here.lowest - minimum
    side.lower = max(side.lower, minimum - here.at.value)
    size = np.sqrt(max(rise, 0.0))
    by_curvature = np.sqrt(max(here.curvature, 0.0) / 2)
    slope = side.sign * here.mu / (2 * size) if size > SHOWS else by_curvature
    return Track(here, side.sign * size, float(slope), inner, outer)


def move(track: Track, side: Side, minimum: float, goal: float, limit: float) -> Generator[Asked, Point, Track]:
    """One step along the path towards the goal, and back to it."""
    here, c, sign = track.here, track.here.at.h, side.sign
    gap = sign * (goal - track.zeta)
    # beside the path ζ is not known well enough to say on which side of the end a point near it lies
    if here.decrement <= MINIMISED or abs(gap) > max(CLOSE, here.decrement**0.5):
        if gap > 0:
            track.inner = c, track.zeta
        else:
            track.outer = c, track.zeta
    step = length_of_step(track, goal, sign)
    aim = limit if sign * (c + step - limit) >= 0 else c + step
    back = here.back if here.decrement <= LOOSE else np.zeros_like(here.back)
    most = minimum + (max(abs(track.zeta), abs(goal)) + CLIFF) ** 2
    for _ in range(SHORTER):
        point = yield Asked(here.at.x + back + here.along * (aim - c), aim, here.at.kept)
        if is_there(point, aim) and point.value <= most:
            break
        aim = c + 0.25 * (aim - c)
    else:
        side.stopped = "lost"
        return track
    there = local(point)
    if there.decrement > LOOSE or there.is_saddle:
        there = yield from settle(there, aim, MINIMISED)
    side.falls |= track.slope <= 0 and abs(track.zeta) > SHOWS
    after = place(there, side, minimum, track.inner, track.outer)
    after.step = aim - c
    return after


def length_of_step(track: Track, goal: float, sign: int) -> float:
    """Newton's step for ζ, of second order, within what encloses the end, or ``STRIDE`` where nothing does yet."""
    c, gap = track.here.at.h, goal - track.zeta
    if track.slope > 0:
        near = float(np.clip(gap, -STRIDE, STRIDE)) if track.outer is None else gap
        step = near / track.slope
        if track.zeta:
            bend = (track.here.curvature / 2 - track.slope**2) / track.zeta
            step *= float(np.clip(1 - 0.5 * bend * near / track.slope**2, 0.5, 2.0))
    else:  # the profile falls: on, and twice as far
        step = sign * max(2 * abs(track.step), STRIDE * 1e-2)
    if track.outer is None:
        return step
    a, b = sorted((track.inner[0], track.outer[0]))
    if not a < c + step < b:
        (ca, za), (cb, zb) = track.inner, track.outer
        share = (goal - za) / (zb - za) if zb != za else 0.5
        step = ca + float(np.clip(share, 0.1, 0.9)) * (cb - ca) - c
    return step


# ---------------------------------------------------------------- many at once
def run(paths: Sequence[Walk], evaluate: Any) -> list[Any]:
    """What each path returns; ``evaluate`` takes (its number, what it asks for) of all that wait, and gives a point
    for each."""
    found: list[Any] = [None] * len(paths)
    waiting: dict[int, Asked] = {}

    def on(k: int, point: Point | None) -> None:
        try:
            waiting[k] = paths[k].send(point)  # pyright: ignore
        except StopIteration as end:
            waiting.pop(k, None)
            found[k] = end.value

    for k in range(len(paths)):
        on(k, None)
    while waiting:
        asked = list(waiting.items())
        for (k, _), point in zip(asked, evaluate(asked), strict=True):
            on(k, point)
    return found
