"""What the pictures here have in common: a column of a page, 8 cm wide; colours that the colour-blind tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm._axes import BLUP, DATA, OWN, POPULATION, pyplot
from jaxmm._axes import plain as no_frame

POINTS, LINES, OUT, DARK = DATA, BLUP, OWN, POPULATION
FONT = 8  # points
WIDTH, HEIGHT = 3.4, 2.8  # inches of a panel
MANY = 500  # points from which they are drawn small


def axes_for(given: Any, panels: int, columns: int = 1, what: str = "") -> np.ndarray:
    """(panels,) the axes ``given``, or new ones, ``columns`` side by side.

    Raises:
        ImportError: without matplotlib. ValueError: another number of axes than panels.
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


def plain(ax: Any, title: str, x: str, y: str) -> None:
    ax.set_title(title, fontsize=FONT + 1)
    ax.set_xlabel(x, fontsize=FONT)
    ax.set_ylabel(y, fontsize=FONT)
    ax.tick_params(labelsize=FONT)
    no_frame(ax)


def size_of(points: int) -> float:
    """Of a marker."""
    return 1.2 if points > MANY else 2.8
