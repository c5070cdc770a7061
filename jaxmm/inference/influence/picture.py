"""The picture of an ``Influence``: Cook's distance over leverage, the points that stand out with their names.

Where a model has no leverages, the points stand in the order of the rows or levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm._axes import BLUP, DATA, FONT, HEIGHT, OWN, WIDTH, labelled, pyplot

FIRST = 5  # that are named


def draw(cook: pd.Series, leverage: pd.Series, by: str, ax: Any) -> Any:
    """Axes with a point for each row or level; the largest distances are named."""
    if ax is None:
        _, ax = pyplot().subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    x, y = leverage.to_numpy(dtype=float), cook.to_numpy(dtype=float)
    levered = bool(np.isfinite(x).any())
    x = x if levered else np.arange(1.0, len(y) + 1)
    there = np.isfinite(x) & np.isfinite(y)
    first = [k for k in np.argsort(-np.where(there, y, -np.inf))[:FIRST] if there[k]]
    rest = np.setdiff1d(np.flatnonzero(there), first)
    ax.plot(x[rest], y[rest], "o", color=BLUP, ms=3, alpha=0.7, mec="none")
    ax.plot(x[first], y[first], "o", color=OWN, ms=5, mec="none")
    for k, side in _sides(x, y, first):
        ax.annotate(
            str(cook.index[k]),
            (x[k], y[k]),
            xytext=(6 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=FONT - 1,
        )
    ax.axhline(0.0, color=DATA, lw=0.8, zorder=0)
    ax.margins(x=0.12)
    ax.locator_params(axis="x", nbins=5)
    what = "row" if by == "case" else f"level of {by}"
    labelled(ax, "", f"leverage (of a {what})" if levered else f"number of the {what}, in order", "Cook's distance")
    return ax


def _sides(x: np.ndarray, y: np.ndarray, first: list[int]) -> list[tuple[int, int]]:
    """Of the points ``first`` those whose name has room, 1 to their right or -1 to their left."""
    width, height = (max(float(np.ptp(v[np.isfinite(v)])), 1e-12) for v in (x, y)) if first else (1.0, 1.0)
    taken: list[tuple[float, float]] = []
    found = []
    middle = np.nanmin(x) + width / 2 if first else 0.0
    for k in first:
        for side in (1, -1) if x[k] <= middle else (-1, 1):
            left, up = x[k] / width + 0.15 * side, y[k] / height
            points = ((x[o] / width, y[o] / height) for o in first if o != k)
            clear = all(abs(left - a) > 0.14 or abs(up - b) > 0.06 for a, b in points)
            if clear and all(abs(left - a) > 0.28 or abs(up - b) > 0.09 for a, b in taken):
                taken.append((left, up))
                found.append((k, side))
                break
    return found
