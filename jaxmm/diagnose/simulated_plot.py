"""Simulated residuals -> two pictures, one below the other: made for a column of a page, 8 cm wide."""

from __future__ import annotations

from typing import Any

import numpy as np

_POINTS, _LINES, _OUT, _DARK = "#8a8a8a", "#0072b2", "#d55e00", "#222222"
_BAND = 1.36  # √n D of Kolmogorov's test at 5 %
_MANY = 500  # points from which they are drawn small
_FONT = 8


def plot(sr: Any, axes: Any = None) -> Any:
    """See ``SimulatedResiduals.plot``.

    Raises:
        ImportError: without matplotlib. ValueError: another number of axes than two.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install jaxmm[plot]") from error
    if axes is None:
        _, axes = plt.subplots(2, 1, figsize=(3.4, 5.8), layout="constrained")
    axes = np.ravel(np.asarray(axes, dtype=object))
    if len(axes) != 2:
        raise ValueError(f"axes must be two, for the Q-Q plot and the residuals, not {len(axes)}")
    r = sr.residuals.to_numpy()
    m = len(r)
    size = 1.2 if m > _MANY else 2.8
    _quantiles(axes[0], r, size)
    _along(axes[1], sr, r, size)
    for ax in axes:
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlim(-0.02, 1.02)
        ax.tick_params(labelsize=_FONT)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    return axes


def _quantiles(ax: Any, r: np.ndarray, size: float) -> None:
    m = len(r)
    ends = np.array([0.0, 1.0])
    half = _BAND / np.sqrt(m)
    ax.fill_between(ends, ends - half, ends + half, color=_LINES, alpha=0.15, lw=0, label="95% band")
    ax.plot(ends, ends, color=_DARK, lw=0.8)
    ax.plot((np.arange(m) + 0.5) / m, np.sort(r), "o", color=_LINES, ms=size, label="rows")
    ax.set_xlabel("uniform quantile", fontsize=_FONT)
    ax.set_ylabel("simulated residual (0 to 1)", fontsize=_FONT)
    ax.set_title("Q-Q of simulated residuals", fontsize=_FONT + 1)
    ax.legend(frameon=False, fontsize=_FONT, loc="upper left")


def _along(ax: Any, sr: Any, r: np.ndarray, size: float) -> None:
    """The rows by the rank of their prediction, and the quartiles of residuals in bins of it."""
    m, n = len(r), len(sr.simulations)
    order = np.argsort(np.argsort(sr.predicted, kind="stable"), kind="stable")
    at = (order + 0.5) / m
    out = (r < 1 / (n + 1)) | (r > n / (n + 1))
    ax.plot(at[~out], r[~out], "o", color=_POINTS, ms=size, alpha=0.6, mew=0)
    if out.any():
        ax.plot(at[out], r[out], "D", color=_OUT, ms=size + 1.5, label="beyond all simulated", clip_on=False)
    bins = int(np.clip(m // 20, 1, 10))
    cut = np.minimum((at * bins).astype(int), bins - 1)
    middle = (np.arange(bins) + 0.5) / bins
    for q, style in ((0.25, "--"), (0.5, "-"), (0.75, "--")):
        ax.axhline(q, color=_DARK, lw=0.6, ls=(0, (1, 2)))
        ax.plot(middle, [np.quantile(r[cut == b], q) for b in range(bins)], color=_LINES, lw=1.5, ls=style,
                label={0.5: "median", 0.25: "quartiles"}.get(q))  # fmt: skip
    ax.set_xlabel(f"rank of the prediction of {sr.observed.name} (share of rows)", fontsize=_FONT)
    ax.set_ylabel("simulated residual (0 to 1)", fontsize=_FONT)
    ax.legend(frameon=False, fontsize=_FONT, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0,
              handlelength=1.6)  # fmt: skip
