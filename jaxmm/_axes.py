"""What pictures share: colours that every eye tells apart (Okabe & Ito 2008), panels of a column of a page (8 cm wide),
what their axes and levels are called, matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmm._text import abbreviate
from jaxmm.links import Identity

OWN, BLUP, POPULATION, DATA = "#d55e00", "#0072b2", "#222222", "#8a8a8a"
SEVERAL = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))  # so that lines are told apart in grey too
NAMED = 60  # with more levels than this they are drawn small and without names
FONT = 8  # points
WIDTH, HEIGHT = 3.4, 2.8  # inches of a panel
MANY = 500  # points from which they are drawn small
LETTERS = 36  # of FONT along a panel
NAME = 20  # letters of a level's name beside an axis
FOLD = 15  # letters of one below an axis, in a line


def scale_of(fit: Any) -> str:
    """In which unit effects are: that of the response, or on the scale of the link, as "log odds of y"."""
    link, response = fit.family.link, fit.model.design.response
    return response if isinstance(link, Identity) else f"{link.spoken} of {response}"


def pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install jaxmm[plot]") from error
    return plt


def axes_for(given: Any, panels: int, columns: int = 1, what: str = "") -> np.ndarray:
    """(panels,) the axes ``given``, or new ones, ``columns`` side by side.

    Raises:
        ImportError: without matplotlib.
        ValueError: another number of axes than panels.
    """
    plt = pyplot()
    if given is None:
        rows = -(-panels // columns)
        size = (WIDTH * columns, HEIGHT * rows)
        _, given = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for empty in np.ravel(given)[panels:]:
            empty.set_visible(False)
        given = np.ravel(given)[:panels]
    axes = np.ravel(np.asarray(given, dtype=object))
    if len(axes) != panels:
        raise ValueError(f"axes must be {panels}{what}, not {len(axes)}")
    return axes


def plain(axis: Any) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def labelled(ax: Any, title: str, x: str, y: str) -> None:
    """Plain axes with their words, in lines that have room."""
    ax.set_title(title, fontsize=FONT + 1)
    ax.set_xlabel(folded(x), fontsize=FONT)
    ax.set_ylabel(folded(y), fontsize=FONT)
    ax.tick_params(labelsize=FONT)
    plain(ax)


def folded(text: str, width: int = LETTERS) -> str:
    return textwrap.fill(text, width)


def caption(ax: Any, sentences: Sequence[str], width: int = LETTERS + 14) -> None:
    """Above the axes in small letters: what the numbers are of."""
    ax.set_title("\n".join(folded(s, width) for s in sentences), fontsize=FONT - 1, loc="left")


def names_of(levels: Sequence[Any], most: int = NAME) -> list[str]:
    """Names of levels, long ones abbreviated to different names."""
    names = [str(level) for level in levels]
    return abbreviate(names, most) if max(map(len, names), default=0) > most else names


def name_ticks(axis: Any, at: Sequence[float] | np.ndarray, names: Sequence[Any]) -> None:
    """Levels along x, in lines, and turned where they have no room beside each other."""
    texts = [folded(name, FOLD) for name in names_of(names, 2 * FOLD)]
    axis.set_xticks(at, texts, fontsize=FONT)
    if turned(texts):
        for tick in axis.get_xticklabels():
            tick.set(rotation=35, ha="right", rotation_mode="anchor")


def turned(names: Sequence[str]) -> bool:
    """Whether so many letters have no room in a line."""
    return sum(2 + max(map(len, str(name).split("\n"))) for name in names) > LETTERS - 6


def size_of(points: int) -> float:
    """Of a marker."""
    return 1.2 if points > MANY else 2.8
