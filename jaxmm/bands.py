"""Predictions over one column of new rows, with the bands of their intervals: made for a column of a page, 8 cm wide.

line or points    predict(newdata)              band or bars    its interval
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design import DataError
from jaxmm.diagnose.canvas import DARK, FONT, axes_for, plain

# Okabe & Ito's colours, which the colour-blind tell apart, and lines for what is printed without
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", DARK)
DASHES = ("-", "--", "-.", ":")


def bands(
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

    >>> plots.bands(fit, pd.DataFrame({"Days": range(10)}), "Days", re="population")  # doctest: +SKIP
    """
    table = pd.DataFrame(newdata)
    for name in (x, by):
        if name is not None and name not in table.columns:
            raise DataError(f"newdata has no column {name!r}; it has {', '.join(map(repr, table.columns))}")
    if interval is None:
        raise ValueError("interval must be 'confidence' or 'prediction': a band is an interval")
    groups = [None] if by is None else list(dict.fromkeys(table[by]))
    if len(groups) > len(COLOURS):
        raise ValueError(f"by={by!r} has {len(groups)} values, and {len(COLOURS)} lines are the most in one picture")
    frame = fit.predict(table, interval=interval, **options)
    (ax,) = axes_for(ax, 1)
    numeric = pd.api.types.is_numeric_dtype(table[x])
    names = [] if numeric else list(dict.fromkeys(table[x].astype(str)))
    at = table[x].to_numpy(float) if numeric else np.array([names.index(v) for v in table[x].astype(str)], float)
    for k, group in enumerate(groups):
        own = np.flatnonzero(np.ones(len(table), bool) if by is None else (table[by] == group).to_numpy())
        own = own[np.argsort(at[own], kind="stable")]
        shift = 0.0 if numeric else 0.5 * ((k + 1) / (len(groups) + 1) - 0.5)
        _drawn(ax, at[own] + shift, frame.iloc[own], k, numeric, None if by is None else str(group))
    if names:
        ax.set_xticks(range(len(names)), names)
        ax.set_xlim(-0.5, len(names) - 0.5)
    what = options.get("scale", "response")
    name = fit.model.design.response if what == "response" else f"{fit.model.design.response}, {what}"
    plain(ax, f"{100 * frame.attrs['level']:g} % {interval} intervals", x, name)
    if by is not None:
        ax.legend(title=by, frameon=False, fontsize=FONT, title_fontsize=FONT)
    return ax


def _drawn(ax: Any, at: np.ndarray, frame: pd.DataFrame, k: int, numeric: bool, label: str | None) -> None:
    middle, low, high = frame.to_numpy().T
    colour = COLOURS[k]
    if numeric:
        ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
        ax.plot(at, middle, DASHES[k % len(DASHES)], color=colour, lw=1.6, label=label)
    else:
        ax.errorbar(at, middle, [middle - low, high - middle], fmt="o", color=colour, ms=4, lw=1.4, label=label)
