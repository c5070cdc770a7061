"""Predictions over one column of new rows, with the bands of their intervals: `predictions`.

line or points    predict(newdata)              band or bars    its interval
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm._axes import FONT, HEIGHT, SEVERAL, STYLES, WIDTH, folded, name_ticks, plain, pyplot, scale_of
from jaxmm.design import DataError
from jaxmm.fitted import check_fit


def predictions(
    fit: Any,
    newdata: pd.DataFrame,
    x: str,
    *,
    by: str | None = None,
    interval: str = "confidence",
    ax: Any = None,
    **options: Any,
) -> Any:
    """Predictions over the column ``x`` with their intervals: lines with bands where x is a number, else points with
    bars.

    Args:
        newdata: the rows; one for each value of x, and of ``by``.
        by: a column, each value of which has a line of its own; seven at most.
        interval: "confidence" of the mean, or "prediction" of a new response.
        ax: the axes to draw into.
        options: of ``Fit.predict``: ``re``, ``scale``, ``new_levels``, ``level``, ``key`` and the rest.

    Returns:
        The axes.

    Raises:
        DataError: a column that is not there.
        ValueError: more lines than colours, no interval.

    >>> plots.predictions(fit, pd.DataFrame({"Days": range(10)}), "Days", re="population")  # doctest: +SKIP
    """
    check_fit("predictions", fit)
    table = pd.DataFrame(newdata)
    for name in (x, by):
        if name is not None and name not in table.columns:
            raise DataError(f"newdata has no column {name!r}; it has {', '.join(map(repr, table.columns))}")
    if interval is None:
        raise ValueError("interval must be 'confidence' or 'prediction': a band is an interval")
    groups = [None] if by is None else list(dict.fromkeys(table[by]))
    if len(groups) > len(SEVERAL):
        raise ValueError(f"by={by!r} has {len(groups)} values, and {len(SEVERAL)} lines are the most in one picture")
    frame = fit.predict(table, interval=interval, **options)
    if ax is None:
        _, ax = pyplot().subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    numeric = pd.api.types.is_numeric_dtype(table[x])
    names = [] if numeric else list(dict.fromkeys(table[x].astype(str)))
    at = table[x].to_numpy(float) if numeric else np.array([names.index(v) for v in table[x].astype(str)], float)
    for k, group in enumerate(groups):
        own = np.flatnonzero(np.ones(len(table), bool) if by is None else (table[by] == group).to_numpy())
        own = own[np.argsort(at[own], kind="stable")]
        shift = 0.0 if numeric else 0.5 * ((k + 1) / (len(groups) + 1) - 0.5)
        _drawn(ax, at[own] + shift, frame.iloc[own], k, numeric, None if by is None else str(group))
    if names:
        name_ticks(ax, range(len(names)), names)
        ax.set_xlim(-0.5, len(names) - 0.5)
    scale, response = options.get("scale", "response"), fit.model.design.response
    name = response if scale == "response" else scale_of(fit)
    what = f"{100 * frame.attrs['level']:g} % {interval} intervals"
    ax.set_xlabel(x, fontsize=FONT)
    ax.set_ylabel(folded(name), fontsize=FONT)
    ax.tick_params(labelsize=7)
    if by is None:
        ax.set_title(what, fontsize=8)
    else:  # above the axes, where nothing is drawn
        style = {"frameon": False, "fontsize": 7, "title_fontsize": 8, "columnspacing": 1.2}
        columns = min(4, len(groups))
        ax.legend(title=f"{what}, by {by}", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, **style)
    plain(ax)
    return ax


def _drawn(ax: Any, at: np.ndarray, frame: pd.DataFrame, k: int, numeric: bool, label: str | None) -> None:
    middle, low, high = frame.to_numpy().T
    colour = SEVERAL[k]
    if numeric:
        ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
        ax.plot(at, middle, color=colour, ls=STYLES[k % len(STYLES)], lw=1.6, label=label)
    else:
        ax.errorbar(at, middle, [middle - low, high - middle], fmt="o", color=colour, ms=4, lw=1.4, label=label)
