"""Elements in runs, one group after another: the place of each within its own."""

from __future__ import annotations

import numpy as np


def places(sizes: np.ndarray) -> np.ndarray:
    """0, 1, .. within each run, of the ``sizes`` (runs,) of these."""
    return np.arange(int(np.sum(sizes))) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def ranks(codes: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """(n,) how many of its group stand before each element: as they come, or in an ``order`` (n,) in which their
    ``codes`` (n,) do not fall."""
    order = np.argsort(codes, kind="stable") if order is None else order
    out = np.empty(len(codes), np.int64)
    out[order] = places(np.bincount(codes))
    return out


def same_size(codes: np.ndarray) -> list[np.ndarray]:
    """The elements of each group, (groups, k) of those that have k."""
    order = np.argsort(codes, kind="stable")
    _, sizes = np.unique(codes[order], return_counts=True)
    first = np.cumsum(sizes) - sizes
    return [order[first[sizes == k][:, None] + np.arange(k)] for k in np.unique(sizes)]
