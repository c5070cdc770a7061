"""Many responses in pictures: `volcano`, `p_histogram`, `effects_by_response`, of a batch's tests.

Each takes what has a `test_table` (a batch, moderated fits) or such a table, and one coefficient of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm._axes import (
    BLUP,
    DATA,
    FONT,
    HEIGHT,
    NAMED,
    OWN,
    POPULATION,
    WIDTH,
    caption,
    folded,
    names_of,
    plain,
    pyplot,
)
from jaxmm._axes import size_of as marker
from jaxmm.inference.wald import check_level

LEAST = 1e-300  # a p-value of zero is drawn there
STEPS = 0.5  # p-values above it are taken for those of responses without an effect (Storey 2002)


def volcano(found: Any, coef: str | None = None, *, rate: float = 0.05, names: int = 5, ax: Any = None) -> Any:
    """Estimates of one coefficient against -log10 p, a point per response.

    Red, with a filled dot: the adjusted p is at most ``rate``; grey: it is not.

    Args:
        found: a ``FitBatch``, ``Moderated``, or their ``test_table()``, whose ``adjust`` counts.
        coef: the coefficient; where None the only one beside the intercept.
        rate: of false discoveries (or of family-wise error, as the table was adjusted).
        names: so many responses with the smallest p are named, of those that are found.
        ax: the axes to draw into.

    Returns:
        The axes.

    Raises:
        ValueError: several coefficients and none chosen, or a table that is none of tests.
        TypeError: what has no tests.

    Example:
        plots.volcano(batch, "treated")
    """
    check_level(rate, "rate", "0.05 for one false discovery in 20")
    table = _tests(found, coef)
    height = -np.log10(np.maximum(table["p"].to_numpy(), LEAST))
    called = table["p_adjusted"].to_numpy() <= rate
    estimate = table["estimate"].to_numpy()
    ax = _axes(ax)
    for which, colour, face in ((~called, DATA, "none"), (called, OWN, OWN)):
        style = {"ms": marker(len(table)), "color": colour, "mfc": face, "mew": 0.6, "ls": "none"}
        ax.plot(estimate[which], height[which], "o", rasterized=len(table) > 5000, **style)
    ax.axvline(0, color=POPULATION, lw=0.6)
    if called.any():
        ax.axhline(height[called].min(), color=OWN, lw=0.8, ls=(0, (4, 2)))
    first = np.argsort(-height, kind="stable")[: min(names, int(called.sum()))].tolist()
    _name_points(ax, estimate[first], height[first], names_of([_name(table, k) for k in first]))
    ax.set_xlabel(folded(str(table["coef"].iloc[0])), fontsize=FONT)
    ax.set_ylabel("−log₁₀ p", fontsize=FONT)
    caption(ax, [f"{called.sum():,} of {len(table):,} responses found, adjusted p ≤ {rate:g}", *_left_out(table)])
    return _finished(ax)


def p_histogram(found: Any, coef: str | None = None, *, bins: int = 20, ax: Any = None) -> Any:
    """The p-values of one coefficient, and how many there would be in each bin of responses without an effect.

    p-values of responses without an effect are level between 0 and 1; a peak at zero is of those with one. A slope
    that rises towards one, or a hump, is a sign of a test that does not hold its level. The line is level at the share
    of p above 0.5, twice (Storey 2002, J. R. Stat. Soc. B 64): so many responses may be without an effect.

    Args:
        found, coef, ax: as of ``volcano``.
        bins: of equal width.

    Returns:
        The axes.

    Example:
        plots.p_histogram(batch, "treated")
    """
    table = _tests(found, coef)
    p = table["p"].to_numpy()
    ax = _axes(ax)
    ax.hist(p, np.linspace(0, 1, bins + 1), color=BLUP, ec="white", lw=0.4)
    share = min(1.0, float(np.mean(p > STEPS)) / (1 - STEPS))
    ax.axhline(share * len(p) / bins, color=OWN, lw=1.2, ls=(0, (4, 2)))
    ax.set_xlim(0, 1)
    ax.set_xlabel(f"p of {table['coef'].iloc[0]}", fontsize=FONT)
    ax.set_ylabel("responses", fontsize=FONT)
    caption(ax, [f"{len(p):,} responses; line: about {share:.0%} without an effect", *_left_out(table)])
    return _finished(ax)


def effects_by_response(
    found: Any, coef: str | None = None, *, most: int = 40, level: float = 0.95, rate: float = 0.05, ax: Any = None
) -> Any:
    """Estimates of one coefficient with intervals, a line per response, sorted.

    Blue, with a filled dot: the adjusted p is at most ``rate``; grey, with an open one: it is not.

    Args:
        found, coef, rate, ax: as of ``volcano``; a table needs its intervals, ``test_table(level=0.95)``.
        most: so many responses are drawn, those with the smallest p.
        level: of the intervals, each for itself.

    Returns:
        The axes.

    Example:
        plots.effects_by_response(batch, "treated", most=20)
    """
    check_level(level)
    check_level(rate, "rate", "0.05 for one false discovery in 20")
    table = _tests(found, coef, level)
    if "lower" not in table:
        raise ValueError("the table has no intervals: make it with test_table(level=0.95)")
    count = len(table)
    table = table.sort_values("p", kind="stable").head(most).sort_values("estimate", kind="stable")
    called = table["p_adjusted"].to_numpy() <= rate
    places = np.arange(len(table))
    if ax is None:
        height = max(2.2, 1.1 + 0.16 * len(table)) if len(table) <= NAMED else 5.5
        _, ax = pyplot().subplots(figsize=(WIDTH, height), layout="constrained")
    size = 2.8 if len(table) <= NAMED else 1.2
    for which, colour, face in ((~called, DATA, "white"), (called, BLUP, BLUP)):
        own = table[which]
        ax.hlines(places[which], own["lower"], own["upper"], color=colour, lw=0.4 * size)
        ax.plot(own["estimate"], places[which], "o", color=colour, mfc=face, mew=0.8, ms=size)
    ax.axvline(0, color=POPULATION, lw=0.6)
    ax.set_ylim(-1, len(table))
    if len(table) <= NAMED:
        ax.set_yticks(places, names_of([_name(table, int(k)) for k in places]))
    else:
        ax.set_yticks([])
    of = "" if len(table) == count else f" of {count:,}, those with the smallest p"
    ax.set_xlabel(folded(f"{table['coef'].iloc[0]}, {100 * level:g}% intervals"), fontsize=FONT)
    caption(ax, [f"{len(table):,} responses{of}; blue: adjusted p ≤ {rate:g}"])
    return _finished(ax, 7)


def _name_points(ax: Any, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """One below the other at the side that the points leave free, with a line to each."""
    right = np.sum(x > 0) < len(x) / 2
    for row, (at, name) in enumerate(zip(zip(x, y, strict=True), names, strict=True)):
        ax.annotate(
            name,
            at,
            xytext=(0.98 if right else 0.02, 0.97 - 0.07 * row),
            textcoords="axes fraction",
            fontsize=FONT - 2,
            va="center",
            ha="right" if right else "left",
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": DATA},
        )


# ---------------------------------------------------------------- what they share
def _tests(found: Any, coef: str | None, level: float | None = None) -> pd.DataFrame:
    """The tests of one coefficient, whose p are numbers; ``attrs``: how many are not."""
    if hasattr(found, "test_table"):
        named = _chosen(list(found.test_table().coef.unique()), coef)
        table = found.test_table(named, level=level)
    elif hasattr(found, "columns") and {"coef", "estimate", "p", "p_adjusted"} <= set(found.columns):
        whole: Any = found if isinstance(found, pd.DataFrame) else found.to_pandas()
        table = whole[whole["coef"] == _chosen(list(dict.fromkeys(whole["coef"])), coef)]
    else:
        raise TypeError(f"pictures of tests are of a FitBatch or its test_table(), not of a {type(found).__name__}")
    known: Any = table[table["p"].notna()].reset_index(drop=True)
    if not len(known):
        raise ValueError(f"no response has a p-value: {len(table)} fits, of which none converged")
    known.attrs["without"] = len(table) - len(known)
    return known


def _chosen(names: list[str], coef: str | None) -> str:
    if coef is None:
        slopes = [name for name in names if name != "(Intercept)"] or names
        if len(slopes) > 1:
            raise ValueError(f"a picture is of one coefficient: name it, of {', '.join(map(repr, names))}")
        return slopes[0]
    if coef not in names:
        raise ValueError(f"there is no coefficient {coef!r}; the tests are of {', '.join(map(repr, names))}")
    return coef


def _name(table: pd.DataFrame, k: int) -> str:
    """Of the response in row k: what stands before the column of coefficients."""
    return ", ".join(str(table.iloc[k][name]) for name in table.columns[: list(table.columns).index("coef")])


def _left_out(table: pd.DataFrame) -> list[str]:
    without = table.attrs["without"]
    return [f"{without:,} more without a converged fit are left out"] if without else []


def _axes(ax: Any) -> Any:
    return pyplot().subplots(figsize=(WIDTH, HEIGHT), layout="constrained")[1] if ax is None else ax


def _finished(ax: Any, size: int = FONT) -> Any:
    ax.tick_params(labelsize=size)
    plain(ax)
    return ax
