"""Many data sets of arrays (y, X, Z, codes) -> the rows of all; as ``stacked`` of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design.columns import DataError
from jaxmm.design.design import Design
from jaxmm.design.from_arrays import Term, design_from_arrays, numbers
from jaxmm.design.stacked_rows import Stacked, sorted_rows
from jaxmm.families import Family


@dataclass(frozen=True)
class ArrayStacker:
    """How data sets (y, X, Z, codes) are read: with the columns of ``design``."""

    design: Design
    family: Family | None
    can_stack = True

    def build(self, data: Any) -> Design:
        """The design of one data set."""
        return _of_arrays(_arrays(data, 0), self.design.columns, self.family)

    def levels(self, data: Any) -> list[int]:
        """Of one data set."""
        y, X, Z, codes = _arrays(data, 0)
        return [int(pd.Series(codes[_there(y, X, Z, codes)]).nunique())]

    def rows(self, datasets: Sequence[Any], first: int) -> Stacked:
        """As ``Stacker.rows``; NaN in y, X or Z, and a code that is missing, takes out its row."""
        d, parts = self.design, [_arrays(x, first + k) for k, x in enumerate(datasets)]
        p, q = d.X.shape[1], d.terms[0].Z.shape[1]
        for k, (_, X, Z, _) in enumerate(parts):
            if X.shape[1] != p or Z.shape[1] != q:
                raise DataError(
                    f"data set {first + k} has {X.shape[1]} columns of X and {Z.shape[1]} of Z where the first has {p} "
                    f"and {q}"
                )
        sizes = np.array([len(y) for y, *_ in parts], np.int64)
        dataset = np.repeat(np.arange(len(parts)), sizes)
        y, X, Z = (np.concatenate([part[j] for part in parts]) for j in range(3))
        codes = np.concatenate([pd.factorize(part[3], sort=True)[0] for part in parts])
        used = ~(np.isnan(y) | np.isnan(X).any(axis=1) | np.isnan(Z).any(axis=1) | (codes < 0))
        good = np.isfinite(y) & np.isfinite(X).all(axis=1) & np.isfinite(Z).all(axis=1)
        if self.family is not None:
            good &= np.asarray(self.family.valid(np.where(good, y, 0.0))) & (
                ~np.isfinite(y) | (d.trials is None) | (y <= 1)
            )
        bad = np.zeros(len(parts), bool)
        bad[dataset[used & ~good]] = True
        trials = None if d.trials is None else np.ones(int(used.sum()))
        rows = {"y": y[used], "X": X[used], "weights": None, "offset": None, "trials": trials}
        return sorted_rows(rows, [Z[used]], dataset[used], codes[used], bad)


def array_stacker(datasets: Sequence[Any], names: Sequence[str] | None, family: Family | None) -> ArrayStacker:
    """From the first of them that can be used.

    Raises:
        DataError: none can; the message is that of a single fit.
    """
    problem: Exception | None = None
    for k, data in enumerate(datasets):
        try:
            return ArrayStacker(_of_arrays(_arrays(data, k), names, family), family)
        except DataError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _of_arrays(data: Any, names: Any, family: Family | None) -> Design:
    y, X, Z, codes = data
    there = _there(*data)
    return design_from_arrays(y[there], X[there], [Term(Z[there], codes[there], "g")], None, None, names, family)


def _there(y: np.ndarray, X: np.ndarray, Z: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The rows in which nothing is missing."""
    return ~(np.isnan(y) | np.isnan(X).any(axis=1) | np.isnan(Z).any(axis=1) | pd.isna(codes))


def _arrays(data: Any, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """y (n,), X (n, p), Z (n, q), codes (n,)."""
    y, X, Z = (numbers(f"{name} of data set {k}", x) for name, x in zip("yXZ", data, strict=False))
    codes = _codes(data[3])
    Z = Z[:, None] if Z.ndim == 1 else Z
    n = len(y) if y.ndim == 1 else -1
    if X.ndim != 2 or Z.ndim != 2 or len(X) != n or len(Z) != n or codes.shape != (n,):
        raise DataError(
            f"data set {k} must be y (n,), X (n, p), Z (n, q) and codes (n,), not {y.shape}, {X.shape}, {Z.shape} and "
            f"{codes.shape}"
        )
    return y, X, Z, codes


def _codes(given: Any) -> np.ndarray:
    """NaN where one is missing: NaN, or -1 among whole numbers from 0 on, as pandas has it."""
    codes = np.asarray(given)
    if codes.dtype.kind != "i" or not np.any(codes == -1) or codes.min() < -1:
        return codes
    return np.where(codes == -1, np.nan, codes.astype(object))
