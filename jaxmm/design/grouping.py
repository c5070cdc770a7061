"""The columns of a grouping factor -> int32 codes of the combinations that occur.

The levels of `a:b` are the pairs seen in the data, a's levels varying slowest, labelled "a:b"; they are
found through one integer key per row, never through a table of all pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from jaxmm.design.columns import Column, DataError, Levels
from jaxmm.design.syntax import Call, Expr, Name
from jaxmm.design.transforms import evaluate


@dataclass(frozen=True)
class SeenFactor:
    """A grouping factor as the fit saw it.

    parts: the labels of each column's levels; keys (J,) sorted int64, the mixed-radix number of each level's
    combination; labels (J,) its text.
    """

    name: str
    exprs: tuple[Expr, ...]
    parts: tuple[np.ndarray, ...]
    keys: np.ndarray
    labels: np.ndarray

    def rows(self, frame) -> tuple[np.ndarray, list[str], np.ndarray]:
        """On other rows: codes (m,), the labels of the levels that the fit has not seen, which rows are missing.

        The k-th unseen level has code J + k, a missing one -1.
        """
        values = [_levels(e, frame) for e in self.exprs]
        missing = np.zeros(len(values[0].codes), dtype=bool)
        for v in values:
            missing |= v.codes < 0
        known = [v.onto(labels)[0].codes for v, labels in zip(values, self.parts, strict=True)]
        inside = np.ones(len(missing), dtype=bool)
        for codes in known:
            inside &= codes >= 0
        keys = _keys(known, self.parts)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        inside &= self.keys[place] == keys
        codes = np.where(inside, place, -1).astype(np.int32)
        lost = np.flatnonzero(~inside & ~missing)
        if not len(lost):
            return codes, [], missing
        rows = np.column_stack([v.codes[lost] for v in values])
        cells, place = np.unique(rows, axis=0, return_inverse=True)
        texts = [":".join(str(v.labels[c]) for v, c in zip(values, cell, strict=True)) for cell in cells]
        number, labels = pd.factorize(np.array(texts, dtype=object)[place.ravel()])
        codes[lost] = len(self.keys) + number
        return codes, [str(label) for label in labels], missing


def fit_grouping(name: str, exprs: Sequence[Expr], frame) -> tuple[SeenFactor, np.ndarray]:
    """The factor of the fit's rows (nothing missing) and its codes (n,) int32."""
    values = [_levels(e, frame).used() for e in exprs]
    parts = tuple(v.labels for v in values)
    if len(values) == 1:
        codes = values[0].codes.astype(np.int32, copy=False)
        return SeenFactor(name, tuple(exprs), parts, np.arange(len(parts[0])), parts[0]), codes
    if float(np.prod([float(len(p)) for p in parts])) > 2.0**62:
        raise DataError(f"the grouping factor '{name}' crosses too many levels; make its column first")
    keys = _keys([v.codes for v in values], parts)
    found, uniques = pd.factorize(keys)
    order = np.argsort(uniques)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    uniques = uniques[order]
    rest, digits = uniques, []
    for labels in reversed(parts):
        digits.append(labels[rest % len(labels)])
        rest = rest // len(labels)
    columns = digits[::-1]
    texts = np.array([":".join(combination) for combination in zip(*columns, strict=True)], dtype=object)
    return SeenFactor(name, tuple(exprs), parts, uniques, texts), rank[found]


def _keys(codes: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> np.ndarray:
    keys = np.zeros(len(codes[0]), dtype=np.int64)
    for own, labels in zip(codes, parts, strict=True):
        keys = keys * len(labels) + own
    return keys


def _levels(expr: Expr, frame) -> Levels:
    """A column as a factor, whatever it holds; numbers are levels too."""
    if isinstance(expr, Name):
        return frame.levels(expr.name)
    if isinstance(expr, Call) and isinstance(expr.args[0][1], Name) and len(expr.args) == 1:
        return frame.levels(expr.args[0][1].name)
    value = evaluate(expr, frame, {}, fitting=True)
    if isinstance(value, Levels):
        return value
    return Column(str(expr), "number", np.asarray(value), None).levels
