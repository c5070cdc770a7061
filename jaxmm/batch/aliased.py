"""Lanes in whose own data columns of X depend on others -> fits without these, as a single fit leaves them out.

X_l  --as R's qr keeps columns-->  which are kept  --lanes of the model without the others-->  NaN in their places
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm.design.modelmatrix import independent_columns
from jaxmm.lanes.kept import triangle
from jaxmm.lanes.problem import Found
from jaxmm.optimize import Status
from jaxmm.sources.responses import Varying

Kept = tuple[int, ...]


def kept_columns(found: Found, own: Varying, X: np.ndarray) -> dict[Kept, np.ndarray]:
    """Which columns are kept -> the lanes (k,) that keep these, of the lanes that have the status ALIASED; ``X`` (n, p)
    of the model, for lanes that have none of their own."""
    sets: dict[Kept, list[int]] = {}
    for lane in np.flatnonzero(np.asarray(found.status) == Status.ALIASED):
        mine = X if own.X is None else np.asarray(own.X[lane])
        rows = slice(None) if own.weights is None else np.asarray(own.weights[lane]) > 0
        kept = tuple(independent_columns(mine[rows]).tolist())
        if 0 < len(kept) < X.shape[1]:
            sets.setdefault(kept, []).append(int(lane))
    return {kept: np.array(lanes) for kept, lanes in sets.items()}


def expanded(found: Found, kept: Kept, p: int) -> Found:
    """With NaN in the places of the columns of the mean, p in all, that are not kept."""
    further = len(found.beta) - len(kept)
    at = np.array([*kept, *range(p, p + further)])
    whole = p + further

    def put(x: Any, size: int, places: Any) -> np.ndarray:
        out = np.full((size, x.shape[-1]), np.nan)
        out[places] = x
        return out

    columns: dict[str, Any] = dict(found.columns)
    if "df" in columns:
        columns["df"] = put(columns["df"], p, np.array(kept))
    if "fixef_cov" in columns:
        place = {pair: k for k, pair in enumerate(triangle(whole))}
        columns["fixef_cov"] = put(
            columns["fixef_cov"], len(place), [place[int(at[a]), int(at[b])] for a, b in triangle(len(at))]
        )
    return found._replace(beta=put(found.beta, whole, at), bse=put(found.bse, whole, at), columns=columns)
