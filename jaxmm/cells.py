"""The cells of two factors that occur, as a list: what is kept of a coupling that has few of them.

(level, column) of each cell, by level   ->   ``Cells``, with the pairs of cells of one level
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from jaxmm._compiled import bucket
from jaxmm._runs import places
from jaxmm._types import Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "level", "column", "pair_a", "pair_b"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Cells:
    """The coupling of the first chain factor to the dense rest, as the cells that occur.

    ``values`` (q, cells): Z_first'W z of one column of the rest; ``level`` and ``column`` (cells,): where;
    ``pair_a``, ``pair_b``: all pairs of cells of one level with column[a] >= column[b].
    """

    values: Array
    level: Array
    column: Array
    pair_a: Array
    pair_b: Array


def cell_pairs(level: np.ndarray, column: np.ndarray, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The order in which cells are kept, by level, and ``Cells``' arrays of indices in it; ``size`` is Q_R.

    The arrays go on after the cells that there are, up to the length of their ``bucket``: with further ones at the last
    level and column, whose values are to be zero, so that designs in which other cells occur share their programs.
    """
    order = np.lexsort((column, level))
    level, column = level[order], column[order]
    # all pairs a >= b within a level: cell a pairs with those from the start of its level up to itself
    start = np.searchsorted(level, level)
    reach = np.arange(len(level)) - start + 1
    pair_a = np.repeat(np.arange(len(level)), reach)
    pair_b = places(reach) + start[pair_a]
    by_target = np.argsort(column[pair_a].astype(np.int64) * size + column[pair_b])
    n = len(level)
    more, more_pairs = bucket(n + 1) - n, bucket(len(pair_a)) - len(pair_a)  # one of them at least, for the pairs
    return order, {
        "level": np.append(level, np.full(more, level[-1])).astype(np.int32),
        "column": np.append(column, np.full(more, size - 1)).astype(np.int32),
        "pair_a": np.append(pair_a[by_target], np.full(more_pairs, n)).astype(np.int32),
        "pair_b": np.append(pair_b[by_target], np.full(more_pairs, n)).astype(np.int32),
    }
