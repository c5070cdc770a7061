"""Simulated residuals -> two pictures, one below the other: made for a column of a page, 8 cm wide."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm._axes import BLUP, DATA, FONT, OWN, POPULATION, axes_for, labelled, size_of

BAND = 1.36  # √n D of Kolmogorov's test at 5 %


def plot(sr: Any, axes: Any = None) -> Any:
    """See ``SimulatedResiduals.plot``.

    Raises:
        ImportError: without matplotlib.
        ValueError: another number of axes than two.
    """
    axes = axes_for(axes, 2, what=", for the Q-Q plot and the residuals")
    r = sr.residuals.to_numpy()
    _quantiles(axes[0], r)
    _along(axes[1], sr, r)
    for ax in axes:
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlim(-0.02, 1.02)
    return axes


def _quantiles(ax: Any, r: np.ndarray) -> None:
    m = len(r)
    ends = np.array([0.0, 1.0])
    half = BAND / np.sqrt(m)
    ax.fill_between(ends, ends - half, ends + half, color=BLUP, alpha=0.15, lw=0, label="95% band")
    ax.plot(ends, ends, color=POPULATION, lw=0.8)
    ax.plot((np.arange(m) + 0.5) / m, np.sort(r), "o", color=BLUP, ms=size_of(m), label="rows")
    labelled(ax, "Q-Q of simulated residuals", "uniform quantile", "simulated residual (0 to 1)")
    ax.legend(frameon=False, fontsize=FONT, loc="upper left")


def _along(ax: Any, sr: Any, r: np.ndarray) -> None:
    """The rows by the rank of their prediction, and the quartiles of residuals in bins of it."""
    m, n = len(r), len(sr.simulations)
    order = np.argsort(np.argsort(sr.predicted, kind="stable"), kind="stable")
    at = (order + 0.5) / m
    out = (r < 1 / (n + 1)) | (r > n / (n + 1))
    ax.plot(at[~out], r[~out], "o", color=DATA, ms=size_of(m), alpha=0.6, mew=0)
    if out.any():
        ax.plot(at[out], r[out], "D", color=OWN, ms=size_of(m) + 1.5, label="beyond all simulated", clip_on=False)
    bins = int(np.clip(m // 20, 1, 10))
    cut = np.minimum((at * bins).astype(int), bins - 1)
    middle = (np.arange(bins) + 0.5) / bins
    for q, style in ((0.25, "--"), (0.5, "-"), (0.75, "--")):
        ax.axhline(q, color=POPULATION, lw=0.6, ls=(0, (1, 2)))
        ax.plot(middle, [np.quantile(r[cut == b], q) for b in range(bins)], color=BLUP, lw=1.5, ls=style,
                label={0.5: "median", 0.25: "quartiles"}.get(q))  # fmt: skip
    labelled(ax, "", f"rank of the prediction of {sr.observed.name} (share of rows)", "simulated residual (0 to 1)")
    ax.legend(frameon=False, fontsize=FONT, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0,
              handlelength=1.6)  # fmt: skip
