"""Maps of a statistic over neighbouring responses -> clusters, their mass, and threshold-free enhancement.

With t (V,) on the responses and a graph of neighbours, a cluster at height h is a connected component of those with
t >= h; those of -t are found apart, so that a cluster has one sign.

    mass     Σ |t| over a cluster at one height           (Bullmore et al. 1999; Maris & Oostenveld 2007)
    tfce     Σ over h = δ, 2δ, .. <= |t| of e(h)^E h^H δ      e(h): how many responses its cluster at h has
                                                          (Smith & Nichols 2009, NeuroImage 44, 83-98)

A response without a statistic (NaN) is in no cluster, and joins none.
"""

from __future__ import annotations

import numpy as np

EXTENT, HEIGHT, STEP = 0.5, 2.0, 0.1  # E, H and δ, as Smith & Nichols have them, for t


def clusters(t: np.ndarray, pairs: np.ndarray, height: float) -> np.ndarray:
    """(V,) the number 0, 1, .. of each response's cluster at |t| >= ``height``, -1 where it is in none."""
    labels, count = np.full(len(t), -1), 0
    for sign in (1.0, -1.0):
        above = np.flatnonzero(sign * t >= height)
        own, number = _components(above, pairs, len(t))
        labels[above] = own + count
        count += number
    return labels


def masses(t: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Σ |t| of each cluster of ``clusters``."""
    inside = labels >= 0
    return np.bincount(labels[inside], np.abs(t[inside]))


def tfce(t: np.ndarray, pairs: np.ndarray, step: float = STEP) -> np.ndarray:
    """(V,) the enhanced statistic, never negative; NaN where t is."""
    out = np.where(np.isnan(t), np.nan, 0.0)
    for sign in (1.0, -1.0):
        signed = np.where(np.isnan(t), -np.inf, sign * t)
        left, h = pairs, 0.0
        for k in range(1, int(np.floor(signed.max(initial=0.0) / step + 1e-9)) + 1):
            h = k * step
            above = np.flatnonzero(signed >= h)
            left = left[(signed[left[:, 0]] >= h) & (signed[left[:, 1]] >= h)]
            own, _ = _components(above, left, len(t))
            out[above] += np.bincount(own)[own] ** EXTENT * h**HEIGHT * step
    return out


def _components(nodes: np.ndarray, pairs: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """The component 0, 1, .. of each of the ``nodes``, joined by those of the ``pairs`` that have both ends there."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place = np.full(size, -1)
    place[nodes] = np.arange(len(nodes))
    i, j = place[pairs[:, 0]], place[pairs[:, 1]]
    both = (i >= 0) & (j >= 0)
    i, j = i[both], j[both]
    graph = coo_array((np.ones(len(i), np.int8), (i, j)), (len(nodes), len(nodes)))
    count, own = connected_components(graph, directed=False)
    return own, count
