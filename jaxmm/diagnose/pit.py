"""Observed and simulated values -> probability integral transforms, by ranks.

Of row i there are n + 1 values: the observed one and n simulated ones.  With `below` of them smaller than x and `ties`
equal to it, x itself among these,

    r = (below + v · ties) / (n + 1),      v ~ U(0, 1)

is between the empirical distribution function just below x and at x (Dunn & Smyth 1996, J. Comput. Graph. Stat. 5,
236-244, with the distribution function by simulation).  Where x comes from what the others come from, the n + 1 values
are exchangeable and r is uniform on (0, 1) exactly, for any n and any kind of response.
"""

from __future__ import annotations

import numpy as np

EDGE = 1e-12  # no residual is nearer to 0 or 1: its normal quantile is a number


def transforms(values: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(k, m) values of m rows -> r (k, m) of each among the k of its row; ``v`` (k, m) uniform."""
    k = len(values)
    order = np.argsort(values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    place = np.arange(k)[:, None]
    new = np.ones(values.shape, bool)
    new[1:] = ranked[1:] != ranked[:-1]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=0)
    last = np.ones(values.shape, bool)
    last[:-1] = new[1:]
    end = np.minimum.accumulate(np.where(last, place, k)[::-1], axis=0)[::-1]
    below, ties = np.empty(values.shape), np.empty(values.shape)
    np.put_along_axis(below, order, first.astype(float), axis=0)
    np.put_along_axis(ties, order, (end - first + 1).astype(float), axis=0)
    return inside((below + v * ties) / k)


def transform(observed: np.ndarray, simulations: np.ndarray, v: np.ndarray) -> np.ndarray:
    """r (m,) of the observed values (m,) alone, among them and the simulated ones (n, m)."""
    below = np.sum(simulations < observed, axis=0)
    ties = 1 + np.sum(simulations == observed, axis=0)
    return inside((below + v * ties) / (len(simulations) + 1))


def inside(r: np.ndarray) -> np.ndarray:
    return np.clip(r, EDGE, 1 - EDGE)
