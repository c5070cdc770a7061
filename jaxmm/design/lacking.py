"""The levels of factors that occur in each of many data sets -> the columns of X and Z that a data set has not.

    codes (N,) of each factor, the data set of each row  -->  columns without a row (D, p); whether others say all (D,)

A data set that lacks a level lacks its columns, as a table by itself has none for it.  Coded by contrasts, the others
mean what they mean elsewhere only where the level is none that they are compared with: else the coefficients of the
data set have other meanings, and it cannot be fitted with the columns of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design.columns import Levels, Table
from jaxmm.design.modelmatrix import ModelMatrix


def empty_columns(
    matrix: ModelMatrix, X: np.ndarray, columns: np.ndarray, used: np.ndarray, dataset: np.ndarray, D: int
) -> np.ndarray:
    """(D, k): which ``columns`` (k,) of a factor are zero in all rows of a data set that are ``used`` (N,); ``X``
    (N, k) of these columns, ``dataset`` (N,)."""
    of_factors = [False] * int(matrix.intercept)
    for term in matrix.terms:
        count = int(np.prod([len(c.names if c else matrix.variables[k].names) for k, c in term]))
        of_factors += [any(c is not None for _, c in term)] * count
    empty = np.zeros((D, len(columns)), bool)
    for j, column in enumerate(columns):
        if of_factors[column]:
            empty[:, j] = np.bincount(dataset[used & (X[:, j] != 0)], minlength=D) == 0
    empty[np.bincount(dataset[used], minlength=D) == 0] = False
    return empty


def means_another(
    matrix: ModelMatrix, values: Sequence[Any], used: np.ndarray, dataset: np.ndarray, D: int
) -> np.ndarray:
    """(D,): data sets that lack a level with which others are compared, or have one level alone of a factor that is
    coded by contrasts; ``values`` of the matrix's variables."""
    found = np.zeros(D, bool)
    codings: Any = {(k, id(c)): (k, c) for term in matrix.terms for k, c in term if c is not None}
    for k, coding in codings.values():
        table = coding.table[:-1]
        if not isinstance(values[k], Levels) or table.shape[1] >= len(table):
            continue  # an indicator of each level is compared with none
        there = used & (values[k].codes >= 0)
        cells = np.bincount(dataset[there] * len(table) + values[k].codes[there], minlength=D * len(table))
        present = cells.reshape(D, len(table)) > 0
        for pattern in np.unique(present[~present.all(axis=1)], axis=0):
            left = table[pattern]
            if pattern.any() and (len(left) < 2 or (left != 0).any(axis=0).sum() != len(left) - 1):
                found |= (present == pattern).all(axis=1)
    return found


# ---------------------------------------------------------------- which level the others are compared with
def common_first(columns: Mapping[str, Any], names: Sequence[str], sizes: np.ndarray) -> dict[str, np.ndarray]:
    """name -> its levels, of the ``names`` whose first level most data sets lack: the first of those that the most have
    goes before all others.  ``columns`` of tables of ``sizes`` (D,) rows, one under the other.

    Ordered factors and logicals keep their order.
    """
    dataset = np.repeat(np.arange(len(sizes)), sizes)
    out = {}
    for name in names:
        column = pd.Series(columns[name])
        if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
            continue
        levels = Table({name: column}).column(name).levels
        if levels.ordered or levels.logical:
            continue
        there = levels.codes >= 0
        pairs = np.unique(np.stack([dataset[there], levels.codes[there]]), axis=1)
        count = np.bincount(pairs[1], minlength=len(levels.labels))
        occur = np.flatnonzero(count > 0)
        if not len(occur) or 2 * count[occur[0]] >= count.max():
            continue
        first = int(np.argmax(count))
        out[name] = np.array([levels.labels[first], *np.delete(levels.labels, first)], object)
    return out


def arranged(column: Any, labels: np.ndarray) -> pd.Series:
    """A column whose levels are these, in this order; the others after them."""
    column = pd.Series(column)
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype("category")
    texts = {str(x): x for x in column.cat.categories}
    known = [texts[str(label)] for label in labels if str(label) in texts]
    rest = [x for x in column.cat.categories if str(x) not in set(map(str, labels))]
    return column.cat.set_categories([*known, *rest])
