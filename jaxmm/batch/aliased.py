"""Lanes in whose own data columns of X depend on others -> fits without these, as a single fit leaves them out.

X_l  --as R's qr keeps columns-->  which are kept  --lanes of the model without the others-->  NaN in their places

A coefficient that is kept means what the model calls it only where the rows of X_l tell it: e_k is in their span, so
that no column that was left out has a part of column k.  It is NaN elsewhere: without rows of the first level of a
factor, what is left of b - a and c - a is b - c.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm.design.modelmatrix import independent_columns
from jaxmm.lanes.kept import triangle
from jaxmm.lanes.problem import Found
from jaxmm.optimize import Status
from jaxmm.sources.responses import Varying

TOLD = 1e-6  # of a column's length: the part of another one in it that is none but for rounding

Kept = tuple[int, ...]


def kept_columns(found: Found, own: Varying, X: np.ndarray) -> dict[Kept, np.ndarray]:
    """Which columns are kept -> the lanes (k,) that keep these, of the lanes that have the status ALIASED; ``X`` (n, p)
    of the model, for lanes that have none of their own."""
    sets: dict[Kept, list[int]] = {}
    for lane in np.flatnonzero(np.asarray(found.status) == Status.ALIASED):
        kept = tuple(independent_columns(_rows(own, int(lane), X)).tolist())
        if 0 < len(kept) < X.shape[1]:
            sets.setdefault(kept, []).append(int(lane))
    return {kept: np.array(lanes) for kept, lanes in sets.items()}


def _rows(own: Varying, lane: int, X: np.ndarray) -> np.ndarray:
    """X of a lane in the rows that count."""
    mine = X if own.X is None else np.asarray(own.X[lane])
    return mine if own.weights is None else mine[np.asarray(own.weights[lane]) > 0]


def estimable(own: Varying, X: np.ndarray, kept: Kept) -> np.ndarray:
    """(p, L) which coefficients of lanes that keep these columns their rows tell."""
    at = np.array(kept)
    out = np.zeros((X.shape[1], len(own.y)), bool)
    for lane in range(len(own.y)):
        A = _rows(own, lane, X)
        length = np.linalg.norm(A, axis=0)
        A = A / np.where(length > 0, length, 1.0)
        part = np.linalg.lstsq(A[:, at], np.delete(A, at, axis=1), rcond=None)[0]
        out[at, lane] = np.all(np.abs(part) <= TOLD, axis=1)
    return out


def expanded(found: Found, kept: Kept, told: np.ndarray) -> Found:
    """With NaN in the places of the columns of the mean that are not kept, or that ``told`` (p, L) does not name."""
    p = len(told)
    further = len(found.beta) - len(kept)
    at = np.array([*kept, *range(p, p + further)])
    whole = p + further

    known = np.concatenate([told, np.ones((further, told.shape[1]), bool)])

    def put(x: Any, size: int, places: Any, known: np.ndarray) -> np.ndarray:
        out = np.full((size, x.shape[-1]), np.nan)
        out[places] = x
        return np.where(known, out, np.nan)

    columns: dict[str, Any] = dict(found.columns)
    if "df" in columns:
        columns["df"] = put(columns["df"], p, np.array(kept), told)
    if "fixef_cov" in columns:
        place = {pair: k for k, pair in enumerate(triangle(whole))}
        places = [place[int(at[a]), int(at[b])] for a, b in triangle(len(at))]
        both = np.array([known[a] & known[b] for a, b in place])
        columns["fixef_cov"] = put(columns["fixef_cov"], len(place), places, both)
    return found._replace(beta=put(found.beta, whole, at, known), bse=put(found.bse, whole, at, known), columns=columns)
