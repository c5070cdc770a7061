"""The picture of an ``Influence``: Cook's distance over leverage, the points that stand out with their names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm._axes import BLUP, DATA, OWN, plain, pyplot

FIRST = 5  # that are named


def draw(cook: pd.Series, leverage: pd.Series, by: str, ax: Any) -> Any:
    """Axes with a point for each row or level; the largest distances are named."""
    if ax is None:
        _, ax = pyplot().subplots(figsize=(5.0, 3.6), layout="constrained")
    x, y = leverage.to_numpy(dtype=float), cook.to_numpy(dtype=float)
    there = np.isfinite(x) & np.isfinite(y)
    first = [k for k in np.argsort(-np.where(there, y, -np.inf))[:FIRST] if there[k]]
    rest = np.setdiff1d(np.flatnonzero(there), first)
    ax.plot(x[rest], y[rest], "o", color=BLUP, ms=3, alpha=0.7, mec="none")
    ax.plot(x[first], y[first], "o", color=OWN, ms=5, mec="none")
    right = np.median(x[there]) if len(first) else 0.0
    for k in first:
        left = x[k] > right
        ax.annotate(
            str(cook.index[k]),
            (x[k], y[k]),
            xytext=(-6 if left else 6, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=9,
        )
    ax.axhline(0.0, color=DATA, lw=0.8, zorder=0)
    ax.margins(x=0.12)
    plain(ax)
    what = "row" if by == "case" else f"level of {by}"
    ax.set_xlabel(f"leverage (of a {what})", fontsize=10)
    ax.set_ylabel("Cook's distance", fontsize=10)
    ax.tick_params(labelsize=9)
    return ax
