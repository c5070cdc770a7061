"""The rows of many data sets, sorted by data set and level: what ``stacked`` and ``stacked_arrays`` make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Stacked(NamedTuple):
    """The rows of D data sets that are used, sorted by data set and level: ``y`` (N,), ``X`` (N, p), ``Z`` (N, q) of
    each term, ``weights``, ``offset`` and ``trials`` (N,) or None; ``dataset`` and ``level`` (N,) number the data sets,
    and within each its levels.  ``rows`` and ``levels`` (D,) count them.  ``bad`` (D,): data sets with a value that
    cannot be used, which have no rows here.  ``lost`` (D, p + q): columns of X and then of Z that a data set has not,
    for want of a level; ``aliased`` (D,): data sets whose other columns mean something else then."""

    y: np.ndarray
    X: np.ndarray
    Z: tuple[np.ndarray, ...]
    weights: np.ndarray | None
    offset: np.ndarray | None
    trials: np.ndarray | None
    dataset: np.ndarray
    level: np.ndarray
    rows: np.ndarray
    levels: np.ndarray
    bad: np.ndarray
    lost: np.ndarray
    aliased: np.ndarray

    def part(self, some: np.ndarray, lost: np.ndarray) -> Stacked:
        """Of the data sets ``some`` (K,), ascending, which count from 0 then, without the columns ``lost`` (p + q,)."""
        number = np.full(len(self.rows), -1)
        number[some] = np.arange(len(some))
        here, p = number[self.dataset] >= 0, self.X.shape[1]
        by_row = {
            name: None if x is None else x[here]
            for name in ("y", "weights", "offset", "trials", "level")
            for x in (getattr(self, name),)
        }
        by_dataset = {name: getattr(self, name)[some] for name in ("rows", "levels", "bad", "aliased")}
        ends = np.cumsum([p, *(z.shape[1] for z in self.Z)])
        Z = tuple(z[here][:, ~lost[at : at + z.shape[1]]] for at, z in zip(ends, self.Z, strict=False))
        columns: Any = {**by_row, **by_dataset, "X": self.X[here][:, ~lost[:p]], "Z": Z}
        return Stacked(**columns, dataset=number[self.dataset[here]], lost=self.lost[some][:, ~lost])


def sorted_rows(
    rows: Mapping[str, Any],
    Z: Sequence[np.ndarray],
    dataset: np.ndarray,
    codes: np.ndarray,
    bad: np.ndarray,
    lost: np.ndarray | None = None,
    aliased: np.ndarray | None = None,
) -> Stacked:
    """From rows in any order within their data sets; ``codes`` (N,) of the one grouping factor, from 0; those of data
    sets that are ``bad`` (D,) are left out."""
    key = dataset.astype(np.int64) * (int(codes.max(initial=0)) + 1) + codes
    order = np.argsort(key, kind="stable")
    order = order[~bad[dataset[order]]]
    key, dataset = key[order], dataset[order]
    fresh = np.ones(len(key), bool)
    fresh[1:] = key[1:] != key[:-1]
    count, levels = np.bincount(dataset, minlength=len(bad)), np.bincount(dataset[fresh], minlength=len(bad))
    before = np.cumsum(levels) - levels
    level = np.cumsum(fresh) - 1 - before[dataset]
    taken: Any = {name: None if x is None else x[order] for name, x in rows.items()}
    by_term = tuple(z[order] for z in Z)
    D, width = len(bad), rows["X"].shape[1] + sum(z.shape[1] for z in Z)
    return Stacked(
        **taken, Z=by_term, dataset=dataset, level=level, rows=count, levels=levels, bad=bad,
        lost=np.zeros((D, width), bool) if lost is None else lost,
        aliased=np.zeros(D, bool) if aliased is None else aliased,
    )  # fmt: skip
