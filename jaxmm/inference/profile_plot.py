"""Pictures of profiles: ζ against the value of a parameter, in panels.

Between its points a profile is Hermite's cubic, from ζ and dζ/dvalue.  The grey line is what ζ would be were the
likelihood normal, (ψ - ψ̂) dζ/dψ: where the two part, a Wald interval misleads.  Dashed lines stand at ± z; where the
profile meets them the interval ends, and a line leads down to the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._axes import BLUP, DATA, FONT, OWN, axes_for, labelled
from jaxmm.inference.wald import quantile

FINE = np.linspace(0, 1, 13)[1:]  # from one point of a profile to the next
FEW, COLUMNS = 4, 3  # panels in columns of two; side by side at most


def plot_profile(curves: Sequence[Any], ends: pd.DataFrame, level: float, axes: Any = None) -> Any:
    """A panel for each of ``curves`` (``inference.profile.Curve``).

    Args:
        ends: ``lower``, ``upper`` by name: those of the intervals of ``level``.
        axes: as many axes to draw into; by default a figure is made.

    Returns:
        The axes, an array of them.

    Raises:
        ValueError: another number of axes than curves.
    """
    columns = min(2 if len(curves) <= FEW else COLUMNS, len(curves))
    axes = axes_for(axes, len(curves), columns, ", one for each profile")
    z = np.max([abs(x) for c in curves for x in c.zeta], initial=quantile(level))
    for axis, curve in zip(axes, curves, strict=True):
        _panel(axis, curve, ends.loc[curve.name, ["lower", "upper"]], quantile(level), 1.08 * z)
        labelled(axis, curve.name, f"value and its {100 * level:g}% interval", "ζ")
    if axes[0].get_legend_handles_labels()[0]:
        style = {"framealpha": 1.0, "edgecolor": "none", "borderaxespad": 0.0}  # before the dashed line
        axes[0].legend(fontsize=FONT, loc="upper left", handlelength=1.2, **style)
    return axes


def _panel(axis: Any, curve: Any, ends: Any, z: float, top: float) -> None:
    axis.set_ylim(-top, top)
    axis.axhline(0.0, color=DATA, lw=0.6)
    for y in (-z, z):
        axis.axhline(y, color=DATA, lw=0.8, ls=(0, (4, 3)))
    if len(curve.value) < 2:
        axis.text(0.5, 0.6, "no profile", transform=axis.transAxes, ha="center", fontsize=FONT)
        return
    axis.locator_params(axis="x", nbins=5)
    x, y = smooth(curve)
    slope = curve.slope[curve.zeta == 0]
    if np.all(np.isfinite(slope)):
        span = np.array([x[0], x[-1]])
        axis.plot(span, slope * (span - curve.estimate), color=DATA, lw=1.2, label="were it normal")
    axis.plot(x, y, color=BLUP, lw=1.6, label="profile")
    axis.plot([curve.estimate], [0.0], "o", color=BLUP, ms=4)
    for end in ends:
        if np.isfinite(end):
            axis.plot([end, end], [-top, np.interp(end, x, y)], color=OWN, lw=1.0)
    axis.margins(x=0.04)


def smooth(curve: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and ζ along a profile; a slope that is not known is the secant's."""
    value, zeta, slope = curve.value, curve.zeta, curve.slope
    xs, ys = [value[:1]], [zeta[:1]]
    for k in range(len(value) - 1):
        dx, dy = value[k + 1] - value[k], zeta[k + 1] - zeta[k]
        da, db = np.where(np.isfinite(slope[k : k + 2]), slope[k : k + 2] * dx, dy)
        xs.append(value[k] + dx * FINE)
        ys.append(zeta[k] + FINE * da + FINE**2 * (3 * dy - 2 * da - db) + FINE**3 * (da + db - 2 * dy))
    return np.concatenate(xs), np.concatenate(ys)
