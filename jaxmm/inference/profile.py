"""Profile likelihood: how the least deviance rises as one parameter ψ is held away from its estimate.

    F(ψ) = min of the deviance with ψ held,      ζ(ψ) = sign(ψ - ψ̂) √(F(ψ) - F(ψ̂))

ζ is to ψ what a z is: standard normal in large samples, a straight line where the likelihood is normal, and the
interval of level 1 - α is where |ζ| is below the normal quantile (Bates & Watts 1988, §6.1; Bates et al. 2015, §5.1,
who fit a spline to a grid).  Here the ends are solved for (``paths``), every parameter and both sides at once.

The likelihood is the full one: a fit by REML is fitted by ML first.  At the end of a parameter's range, a standard
deviation of zero or a correlation of one, ζ may be short of what is asked for: the interval ends there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm._warn import warn
from jaxmm.fitted import Fitted
from jaxmm.inference.of_errors import error_quantities
from jaxmm.inference.paths import LOWER, MINIMISED, Asked, Point, Side, follow, local, run, settle
from jaxmm.inference.profile_plot import plot_profile
from jaxmm.inference.quantities import CORRELATION, EDGE, SD, Quantities, chosen
from jaxmm.inference.surfaces import Surface, surface
from jaxmm.inference.wald import check_level, quantile
from jaxmm.optimize import Status

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)  # whose ends every profile has that goes so far
GAP = 0.4  # of ζ between points of a profile, at most
SHOWN = 30  # parameters in a printed profile


# ---------------------------------------------------------------- the result
@dataclass(frozen=True, eq=False)
class Curve:
    """ζ of one parameter: ``value``, ``zeta`` and ``slope`` dζ/dvalue (k,), ascending; ``ends`` (lower, upper) of each
    |ζ| that was asked for."""

    name: str
    estimate: float
    value: np.ndarray
    zeta: np.ndarray
    slope: np.ndarray
    ends: dict[float, tuple[float, float]]


@dataclass(frozen=True, eq=False, repr=False)
class Profile(_text.Printed):
    """The profiles of a fit's parameters; ``Fit.profile`` makes one.

    Attributes:
        fit: by maximum likelihood, whose parameters these are.
        curves: by name of the parameter.
        level: how far the profiles go: to the ends of the intervals of this level.
        notes: what the reader must know, a sentence each.
        failures: those of the notes that say what there is no answer to.

    Example:
        >>> list(fit.profile("Days").curves)
        ['Days']
    """

    fit: Fitted
    curves: dict[str, Curve]
    level: float
    notes: tuple[str, ...] = field(default=())
    failures: tuple[str, ...] = field(default=())

    @cached_property
    def frame(self) -> pd.DataFrame:
        """``parameter``, ``value``, ``zeta``, ``deviance``: the points of each profile, ascending."""
        least = self.fit.deviance
        parts = [
            pd.DataFrame({"parameter": c.name, "value": c.value, "zeta": c.zeta, "deviance": least + c.zeta**2})
            for c in self.curves.values()
        ]
        columns = ("parameter", "value", "zeta", "deviance")
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns, dtype=float)

    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """``lower``, ``upper`` and the ``estimate`` by maximum likelihood, for each parameter profiled.

        Solved for, whatever the level. ±inf where the likelihood does not fall that far, 0 or ±1 where the range of a
        standard deviation or a correlation ends before; NaN where the profile could not be followed. ``notes`` say so,
        and are in ``attrs["notes"]``.
        """
        z = quantile(level)
        if not all(z in c.ends or not len(c.value) for c in self.curves.values()):
            return _solve(self.fit, list(self.curves), (z,), self.level).confint(level)
        ends = np.array([c.ends.get(z, (np.nan, np.nan)) for c in self.curves.values()]).reshape(-1, 2)
        estimate = [c.estimate for c in self.curves.values()]
        table = pd.DataFrame({"lower": ends[:, 0], "upper": ends[:, 1], "estimate": estimate}, list(self.curves))
        table.attrs["notes"] = self.notes
        return table

    def plot(self, parm: Any = None, level: float | None = None, axes: Any = None) -> Any:
        """ζ against the value of each parameter, or of those that ``parm`` names: straight where the likelihood is
        normal. With the ends of the interval of ``level`` (0.95, or how far the profile goes). ``axes``: as many as
        there are parameters, to draw into.
        """
        names = chosen(self.fit, parm, list(self.curves), _of_errors(self.fit))
        lacking = [name for name in names if name not in self.curves]
        if lacking:
            raise ValueError(f"{lacking[0]!r} is not among what was profiled: {', '.join(map(repr, self.curves))}")
        level = min(0.95, self.level) if level is None else check_level(level)
        return plot_profile([self.curves[name] for name in names], self.confint(level), level, axes)

    def _parts(self) -> list[str | _text.Grid]:
        level = min(0.95, self.level)
        table, shown = self.confint(level), list(self.curves)[:SHOWN]
        cells = [_text.number_column(table.loc[shown, c], 4) for c in ("estimate", "lower", "upper")]
        header = ("", "estimate", f"{50 * (1 - level):.3g} %", f"{50 * (1 + level):.3g} %")
        rows = [header, *zip(map(str, shown), *cells, strict=True)]
        more = len(self.curves) - len(shown)
        rest = [f"... {more} more: confint()"] if more > 0 else []
        table = _text.Grid(rows, [False, True, True, True])
        return [
            f"Profile likelihood of {self.fit.formula}",
            "",
            table,
            *rest,
            *([""] if self.notes else []),
            *self.notes,
        ]


def profile(fit: Fitted, parm: Any = None, level: float = 0.99) -> Profile:
    """Profile the parameters of a fit.

    Args:
        parm: a parameter or several, of "Days", "sd_Days|Subject", "cor_(Intercept).Days|Subject", "sigma",
            "dispersion", "zi~x" (the names of a bootstrap); "beta_" for all coefficients, "theta_" for all others; by
            default all that are estimated. Of a covariance of the errors also "sd_week 2|errors",
            "cor_week 2.week 4|errors", "phi~x", or "errors_" for all of them.
        level: how far: to the ends of the intervals of this level.

    Returns:
        ``Profile``: ``frame``, ``confint(level)``, ``plot()``; print it. What cannot be had is NaN: a note says why.

    Raises:
        ValueError: a parameter that there is not.
        ValueError: a level outside (0, 1).

    >>> fit.profile().confint()
    """
    reach = quantile(level)
    marks = sorted({quantile(x) for x in LEVELS if quantile(x) < reach} | {reach})
    targets, before = [], 0.0
    for z in marks:
        pieces = int(np.ceil((z - before) / GAP))
        targets += [before + (z - before) * (i + 1) / pieces for i in range(pieces - 1)] + [z]
        before = z
    names = None if parm is None else chosen(fit, parm, (), _of_errors(fit))
    return _solve(fit, names, tuple(targets), level)


def intervals(fit: Fitted, parm: Any, level: float) -> pd.DataFrame:
    """``Profile.confint`` of one level alone, of the coefficients of the mean unless ``parm`` says more; a warning
    where some could not be had."""
    found = _solve(fit, chosen(fit, parm, list(fit.fixef.index), _of_errors(fit)), (quantile(level),), level)
    for failure in found.failures:
        warn(failure)
    return found.confint(level)


def _of_errors(fit: Fitted) -> list[str]:
    """The names of the parameters of the errors' covariance."""
    found = error_quantities(fit)
    return [] if found is None else found.names


# ---------------------------------------------------------------- the paths
def _solve(fit: Fitted, names: list[str] | None, targets: tuple[float, ...], level: float) -> Profile:
    notes, failures = [], []
    if fit.reml:
        fit = fit.model.by_ml().fit(control=fit._control)
        notes.append("a fit by REML is profiled by maximum likelihood: estimates and intervals are those of ML")
    if not fit.converged:
        why = Status(int(fit.estimates.status)).message
        failures.append(f"the fit did not converge ({why}): profiles may be wrong")
    on = surface(fit)
    of = on.of
    usual = [k for k in range(of.usual) if k not in of.known]
    which = usual if names is None else [of.names.index(name) for name in names]
    beside = [k for k in _spreads(of, which) if k not in which]
    followed = _follow(on, which + beside, targets)
    _cap(of, followed)
    found = followed[: len(which)]
    lower = max((side.lower for both in found for side in both.sides), default=0.0)
    if lower > LOWER:
        failures.append(
            f"the deviance is lower by {lower:.3g} elsewhere: the fit has not found its minimum, and these are not the "
            "profiles of the best fit; fit again from another start="
        )
    for both in found:
        for note, failed in _notes(of, both):
            (failures if failed else notes).append(note)
    curves = {of.names[both.k]: _curve(of, both) for both in found}
    return Profile(fit, curves, level, (*notes, *failures), tuple(failures))


@dataclass(frozen=True)
class Both:
    """The sides of quantity k, down and up; () where it has no estimate.  ``h`` at the estimate and dζ/dh there."""

    k: int
    h: float
    slope: float
    sides: tuple[Side, ...]


def _follow(on: Surface, which: list[int], targets: tuple[float, ...]) -> list[Both]:
    """Both sides of every parameter."""
    first = on.evaluate([(k, Asked(on.x, np.nan, on.kept)) for k in which])
    minimum = min((p.value for p in first), default=np.nan)
    found, paths, owners = [], [], []
    for k, point in zip(which, first, strict=True):
        edge = None if k in on.of.known else _edge(on.of, k)
        if edge is None:
            found.append(Both(k, np.nan, np.nan, ()))
            continue
        sides, ends, slope = (Side(-1, targets), Side(1, targets)), on.of.ends(k, point.h), np.nan
        for side, (limit, _) in zip(sides, ends, strict=True):
            if edge == side.sign:
                side.stopped, side.last = "boundary", (point.h, 0.0)
            elif edge:
                paths.append(_from_edge(on, k, side, point, minimum, limit))
                owners.append(k)
            elif point.finite:
                here = local(point)
                slope = float(np.sqrt(max(here.curvature, 0.0) / 2))
                paths.append(follow(here, side, minimum, limit))
                owners.append(k)
            else:
                side.stopped = "lost"
        found.append(Both(k, point.h, slope, sides))
    run(paths, lambda asked: on.evaluate([(owners[i], q) for i, q in asked]))
    return found


def _spreads(of: Quantities, which: list[int]) -> list[int]:
    """The standard deviations of the correlations among ``which``."""
    start, found = of.shape.columns, []
    for k in which:
        if of.kinds[k] == CORRELATION:
            f, *pair = of.place(k)
            found += [start + of.shape.sds.index((f, a)) for a in pair]
    return list(dict.fromkeys(found))


def _cap(of: Quantities, found: list[Both]) -> None:
    """Where a standard deviation is zero a correlation may be anything: its |ζ| is nowhere above what there is there,
    and beyond that its intervals are the whole range."""
    at_zero = {b.k: abs(b.sides[0].last[1]) for b in found if b.sides and b.sides[0].stopped == "boundary"}
    for both in found:
        if of.kinds[both.k] != CORRELATION or not both.sides:
            continue
        cap = min((at_zero.get(k, np.inf) for k in _spreads(of, [both.k])), default=np.inf)
        for side, (limit, _) in zip(both.sides, of.ends(both.k, both.h), strict=True):
            within = sum(target < cap for target in side.targets)
            at_end = side.stopped == "boundary" and side.last[1] == 0
            if not at_end and within < len(side.targets) and len(side.ends) >= within:
                side.ends, side.last = side.ends[:within], (limit, side.sign * cap)
                side.stopped, side.falls = "boundary", False


def _edge(of: Quantities, k: int) -> int | None:
    """At which end of its range an estimate is: -1, 1, or 0 for neither; None where a correlation has a standard
    deviation of zero."""
    estimate = of.estimates[k]
    if of.kinds[k] == SD:
        return -1 if estimate <= EDGE * of.units[k] else 0
    if of.kinds[k] == CORRELATION:
        if np.isnan(estimate) or any(_edge(of, sd) for sd in _spreads(of, [k])):
            return None
        return int(np.sign(estimate)) if np.arccos(min(abs(estimate), 1.0)) <= 3 * EDGE else 0
    return 0


def _from_edge(on: Surface, k: int, side: Side, point: Point, minimum: float, limit: float):
    """``follow`` from an estimate at the end of its range, where h has no slope: from the least deviance at an h beside
    it, one that raises the deviance by about one in each direction of θ."""
    own, x = on.thetas[on.of.place(k)[0]], point.x.copy()
    steps = np.minimum(0.5, np.sqrt(2 / np.maximum(np.diag(point.H)[own], 1e-300)))
    x[own] += steps * np.cos(1.0 + np.arange(len(own)))  # in no direction that is special
    beside = yield Asked(x, np.nan, point.kept)
    if not beside.finite:
        side.stopped = "lost"
        return side
    here = yield from settle(local(beside), beside.h, MINIMISED)
    edge = 0.0 if on.of.kinds[k] == SD else -side.sign * np.pi / 2
    return (yield from follow(here, side, minimum, limit, edge))


# ---------------------------------------------------------------- what is made of them
def _curve(of: Quantities, both: Both) -> Curve:
    """The points of both sides in the units of the data, and the ends."""
    k, estimate = both.k, float(of.estimates[both.k])
    if not both.sides:
        none = np.zeros(0)
        return Curve(of.names[k], estimate, none, none, none, {})
    points, ends = [(both.h, 0.0, both.slope)], []
    for side, (_, last) in zip(both.sides, of.ends(k, both.h), strict=True):
        points += [(c, side.sign * z, slope) for z, (c, slope) in zip(side.targets, side.ends, strict=False)]
        if side.stopped == "boundary" and np.isfinite(last) and side.last[1]:
            points.append((*side.last, np.nan))
        beyond = np.nan if side.stopped == "lost" else last
        values = [float(of.value(k, c)) for c, _ in side.ends]
        ends.append(values + [beyond] * (len(side.targets) - len(values)))
    h, zeta, slope = np.array(sorted(points, key=lambda point: point[0])).T
    value = np.where(zeta == 0, estimate, of.value(k, h))
    pairs = {z: (lower, upper) for z, lower, upper in zip(both.sides[0].targets, *ends, strict=True)}
    return Curve(of.names[k], estimate, value, zeta, slope / of.slope(k, h), pairs)


def _notes(of: Quantities, both: Both) -> list[tuple[str, bool]]:
    """What there is to say of how a profile ended, and whether an end is missing for it."""
    name, out = of.names[both.k], []
    if both.k in of.known:
        return [(f"{name}: it is known, and has no profile", False)]
    if not both.sides:
        return [(f"{name}: a standard deviation is zero, and there is no correlation", True)]
    for side, (_, last) in zip(both.sides, of.ends(both.k, both.h), strict=True):
        which, zeta = ("lower" if side.sign < 0 else "upper"), f"{abs(side.last[1]):.3g}"
        if side.stopped == "boundary" and side.last[1] == 0:
            if abs(last - of.estimates[both.k]) > 1e-3 * max(1.0, abs(last)):
                continue  # the other end of a correlation that is at one of them
            out.append((f"{name}: the estimate is at the end of its range, {last:g}, and so is the {which} end", False))
        elif side.stopped == "boundary":
            out.append((f"{name}: |ζ| is {zeta} at {last:g}, the end of its range, where wider intervals end", False))
        elif side.stopped == "level":
            out.append((f"{name}: |ζ| rises to {zeta} and no further: wider intervals have no {which} end", False))
        elif side.stopped:
            note = f"{name}: its profile could not be followed beyond |ζ| = {zeta}: no {which} end of wider intervals"
            out.append((note, True))
        if side.falls:
            out.append((f"{name}: ζ falls somewhere beyond the {which} end: the likelihood has another mode", False))
    return out
