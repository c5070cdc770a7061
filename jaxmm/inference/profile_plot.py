"""Pictures of profiles: ζ against the value of a parameter, in panels.

Between its points a profile is Hermite's cubic, from ζ and dζ/dvalue.  The grey line is what ζ would be were the
likelihood normal, (ψ - ψ̂) dζ/dψ: where the two part, a Wald interval misleads.  Horizontal lines stand at ± z; where
the profile meets them the interval ends, and a line leads down to the axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._axes import BLUP, DATA, OWN, plain, pyplot

FINE = np.linspace(0, 1, 12)  # between two points of a profile
COLUMNS = 3  # panels side by side


def plot_profile(curves: Sequence[Any], ends: pd.DataFrame, level: float, axes: Any = None) -> Any:
    """A panel for each of ``curves`` (``inference.profile.Curve``).

    Args:
        ends: ``lower``, ``upper`` by name: those of the intervals of ``level``.
        axes: as many axes to draw into; by default a figure is made.

    Returns:
        The axes, an array of them.

    Raises:
        ValueError: fewer axes than curves.
    """
    if axes is None:
        columns = min(COLUMNS, len(curves))
        rows = math.ceil(len(curves) / columns)
        size = (0.4 + 2.2 * columns, 0.3 + 2.0 * rows)
        _, grid = pyplot().subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
        axes = grid.ravel()
        for empty in axes[len(curves) :]:
            empty.set_visible(False)
        for axis in grid[:, 0]:
            axis.set_ylabel("ζ", fontsize=10)
    axes = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if len(axes) < len(curves):
        raise ValueError(f"axes has {len(axes)} axes for {len(curves)} profiles: pass more, or name fewer in parm=")
    z = float(np.max([abs(c.zeta[k]) for c in curves for k in range(len(c.zeta))], initial=0.0))
    for axis, curve in zip(axes, curves, strict=False):
        _panel(axis, curve, tuple(ends.loc[curve.name, ["lower", "upper"]]), level, 1.08 * z or 1.0)
    return axes[: len(curves)]


def _panel(axis: Any, curve: Any, ends: tuple[float, float], level: float, top: float) -> None:
    from scipy.special import ndtri

    axis.set_title(curve.name, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.locator_params(axis="x", nbins=4)
    axis.set_ylim(-top, top)
    plain(axis)
    z = float(ndtri(0.5 + level / 2))
    axis.axhline(0.0, color=DATA, lw=0.6)
    for y in (-z, z):
        axis.axhline(y, color=DATA, lw=0.8, ls=(0, (4, 3)))
    if len(curve.value) < 2:
        axis.text(0.5, 0.5, "no profile", transform=axis.transAxes, ha="center", va="center", fontsize=9)
        return
    x, y = smooth(curve)
    at = int(np.flatnonzero(curve.zeta == 0)[0])
    if np.isfinite(curve.slope[at]):
        span = np.array([x[0], x[-1]])
        axis.plot(span, curve.slope[at] * (span - curve.estimate), color=DATA, lw=1.0)
    axis.plot(x, y, color=BLUP, lw=1.6)
    axis.plot([curve.estimate], [0.0], "o", color=BLUP, ms=4)
    for end in ends:
        if np.isfinite(end):
            height = float(np.clip(np.interp(end, x, y), -top, top))
            axis.plot([end, end], [-top, height], color=OWN, lw=1.0)
    axis.margins(x=0.04)


def smooth(curve: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and ζ along a profile; a slope that is not known is the secant's."""
    xs, ys = [curve.value[:1]], [curve.zeta[:1]]
    for k in range(len(curve.value) - 1):
        (a, b), (ya, yb), slopes = curve.value[k : k + 2], curve.zeta[k : k + 2], curve.slope[k : k + 2]
        if not b > a:
            continue
        da, db = np.where(np.isfinite(slopes), slopes * (b - a), yb - ya)
        t = FINE[1:]
        xs.append(a + (b - a) * t)
        ys.append(ya + t * da + t**2 * (3 * (yb - ya) - 2 * da - db) + t**3 * (da + db - 2 * (yb - ya)))
    return np.concatenate(xs), np.concatenate(ys)
