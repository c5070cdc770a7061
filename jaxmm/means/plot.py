"""The picture of marginal means: a line over x for each level of a trace, a panel for each group of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._axes import DATA, SEVERAL, caption, folded, name_ticks, plain, pyplot, turned
from jaxmm.means.printing import level_text

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_TRACES = 12


def arrow_lengths(se: np.ndarray, half: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(k,) lengths a, not negative, with a_i + a_j as near as can be to the least significant difference of each pair:
    two arrows then overlap where the means do not differ by so much."""
    from scipy.optimize import nnls

    a = np.zeros(len(se))
    used = np.isfinite(half)
    if used.any():
        A = np.zeros((int(used.sum()), len(se)))
        A[np.arange(len(A)), pairs[used, 0]] = A[np.arange(len(A)), pairs[used, 1]] = 1.0
        a = nnls(A / half[used, None], np.ones(len(A)))[0]
    return a


def plot(
    frame: pd.DataFrame,
    columns: Sequence[str],
    what: str,
    x: str | None,
    trace: str | None,
    arrows: np.ndarray | None,
    label: str,
    about: Sequence[str],
    ax: Any,
) -> Any:
    """See ``result.Emmeans.plot``; ``columns`` are those of the levels, ``arrows`` (k,) half the lengths of
    arrows, ``about`` what is averaged over and held."""
    plt = pyplot()
    x, trace, others = _roles(columns, x, trace)
    levels = {n: list(dict.fromkeys(frame[n])) for n in columns}
    keys = list(zip(*(frame[n] for n in others), strict=True)) if others else [()] * len(frame)
    panels = list(dict.fromkeys(keys))
    if ax is not None and len(panels) > 1:
        raise ValueError(
            f"there are {len(panels)} panels, of {', '.join(others)}: leave ax out, or choose levels by at="
        )
    if ax is None:
        across = min(len(panels), 3)
        down = -(-len(panels) // across)
        room = 0.15 * len(about) + (0.5 if trace else 0.0)  # for what stands above
        long = x is not None and isinstance(levels[x][0], str) and turned(levels[x])
        size = (0.8 + 2.6 * across, 0.7 + (2.9 if long else 2.3) * down + room)
        figure, grid = plt.subplots(
            down, across, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
        )
        axes = grid.ravel()
        for empty in axes[len(panels) :]:
            empty.set_visible(False)
    else:
        figure, axes = ax.figure, np.array([ax])
    for axis, key in zip(axes, panels, strict=False):
        own = np.array([k == key for k in keys])
        _panel(axis, frame[own], what, x, trace, levels, None if arrows is None else arrows[own])
        if others:
            axis.set_title(", ".join(f"{n} = {level_text(v)}" for n, v in zip(others, key, strict=True)), fontsize=9)
    for axis in axes[: len(panels)]:
        axis.tick_params(labelbottom=True)
    _labels(figure, axes[: len(panels)], x, trace, label, about, own_figure=ax is None)
    return axes[0] if len(panels) == 1 else axes[: len(panels)]


def _roles(columns: Sequence[str], x: str | None, trace: str | None) -> tuple[str | None, str | None, list[str]]:
    for name, given in (("x", x), ("trace", trace)):
        if given is not None and given not in columns:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, columns))}, not {given!r}")
    left = [n for n in columns if n not in (x, trace)]
    if x is None and left:
        x = left.pop(0)
    if trace is None and left:
        trace = left.pop(0)
    return x, trace, left


def _panel(
    axis: Any, frame: Any, what: str, x: str | None, trace: str | None, levels: dict[str, list[Any]],
    arrows: np.ndarray | None,
) -> None:  # fmt: skip
    places = levels[x] if x is not None else [""]
    numbers = x is not None and not isinstance(places[0], str)
    at = np.array([p if numbers else i for i, p in enumerate(places)], float)
    gap = float(np.min(np.diff(np.sort(at)))) if len(at) > 1 else 1.0
    lines = levels[trace] if trace is not None else [None]
    if len(lines) > MOST_TRACES:
        raise ValueError(f"{trace!r} has {len(lines)} levels, more lines than can be told apart: make it x=")
    for j, line in enumerate(lines):
        own = np.ones(len(frame), bool) if trace is None else np.asarray(frame[trace] == line)
        rows = frame[own]
        where = np.zeros(len(rows), int) if x is None else np.array([places.index(v) for v in rows[x]])
        shift = gap * 0.5 * ((j + 0.5) / len(lines) - 0.5) if len(lines) > 1 else 0.0
        spots, value = at[where] + shift, rows[what].to_numpy()
        colour, marker = SEVERAL[j % len(SEVERAL)], MARKERS[j % len(MARKERS)]
        ends = np.abs(np.stack([value - rows["lower"], rows["upper"] - value]))
        style = "-" if j < len(SEVERAL) else "--"
        name = None if line is None else level_text(line)
        axis.plot(spots, value, style if len(at) > 1 else "", color=colour, lw=1.0, alpha=0.7)
        axis.errorbar(spots, value, ends, fmt=marker, ms=4.5, color=colour, lw=1.3, capsize=2, label=name)
        if arrows is not None:
            _arrows(axis, spots + 0.08 * gap, value, arrows[own])
    if not numbers:
        name_ticks(axis, at, places)
        axis.set_xlim(at[0] - 0.6, at[-1] + 0.6)
    axis.tick_params(labelsize=8)
    plain(axis)


def _arrows(axis: Any, spots: np.ndarray, value: np.ndarray, half: np.ndarray) -> None:
    for s, v, a in zip(spots, value, half, strict=True):
        if np.isfinite(v) and a > 0:
            style = {"arrowstyle": "<|-|>", "color": DATA, "lw": 1.2, "mutation_scale": 6, "shrinkA": 0}
            axis.annotate("", (s, v + a), (s, v - a), arrowprops={**style, "shrinkB": 0})


def _labels(
    figure: Any, axes: Any, x: str | None, trace: str | None, label: str, about: Sequence[str], own_figure: bool
) -> None:
    label = folded(label, 30)
    if own_figure and len(axes) > 1:
        figure.supylabel(label, fontsize=8)
        figure.supxlabel(x or "", fontsize=9)
    else:
        axes[0].set_ylabel(label, fontsize=8)
        axes[0].set_xlabel(x or "", fontsize=9)
    if len(axes) == 1:
        caption(axes[0], about)
    elif about and own_figure:
        figure.suptitle("\n".join(about), fontsize=7)
    if trace is None:
        return
    handles = axes[0].get_legend_handles_labels()
    words: dict[str, Any] = {"title": trace, "frameon": False, "fontsize": 8, "title_fontsize": 8}
    if own_figure:
        longest = max(len(text) for text in handles[1])
        ncols = int(np.clip(26 * len(axes) // (longest + 4), 1, 4))
        figure.legend(*handles, loc="outside upper center", ncols=ncols, **words)
    else:
        axes[0].legend(*handles, **words)
