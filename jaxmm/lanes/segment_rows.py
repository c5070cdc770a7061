"""Rows of data sets of any sizes, sorted by data set and level -> tables (J, H, L), lanes of ``generalised_blocks``.

Each level has its rows first and then places whose weight is zero, each data set its levels first; X and Z of a data
set are changed as ``own_columns`` changes them, on the host.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxmm.design.stacked_rows import Stacked
from jaxmm.lanes.laplace_table import Own
from jaxmm.lanes.own_rows import Effects
from jaxmm.lanes.segments import Segments, changed_effects, orthogonal, statuses
from jaxmm.optimize import Status
from jaxmm.structure import Structure


class RowLanes(NamedTuple):
    """``status`` (D,); of the data sets ``at`` (L,) that can be fitted ``sizes`` (L, 2), their levels and the rows of
    the largest of these; row i is the ``height[i]``-th of level ``level[i]`` of data set ``lane[i]``, of which ``rows``
    (.., N) has y, weights, offset, trials, X and Z, and ``changes`` (.., L) T_X and T."""

    status: np.ndarray
    at: np.ndarray
    sizes: np.ndarray
    lane: np.ndarray
    level: np.ndarray
    height: np.ndarray
    rows: dict[str, np.ndarray | None]
    changes: dict[str, np.ndarray]
    scaled: np.ndarray

    def padded(self, some: np.ndarray, shape: tuple[int, ...], problem: Any) -> Own:
        """Of some (K,) of the L, ascending, in a table of this shape; what stands in the places without a row is the
        ``problem``'s own."""
        where = np.full(len(self.at), -1)
        where[some] = np.arange(len(some))
        mine = where[self.lane] >= 0
        place = self.level[mine], self.height[mine], where[self.lane[mine]]

        def laid(name: str, nothing: Any = 0.0) -> Any:
            x = self.rows[name]
            if x is None:
                return None
            out = np.full((*x.shape[:-1], *shape, len(some)), nothing)
            out[(..., *place)] = x[..., mine]
            return out

        unit = float(problem.unit)
        by = np.where(self.scaled, unit, 1.0)
        y, trials = (float(np.ravel(x)[0]) for x in (problem.rows.y, problem.rows.trials))
        T_X, T = (self.changes[name][..., some] for name in ("T_X", "T"))
        own: dict[str, Any] = dict(
            y=laid("y", y),
            constant=np.zeros(len(some)),
            weights=laid("weights"),
            offset=laid("offset"),
            trials=laid("trials", trials),
            X=unit * laid("X"),
            Z=by[:, None, None, None] * laid("Z"),
            T_X=unit * T_X,
            T=(by[None, :, None] * T,),
        )
        return Own(**own, copies=None)


def make_row_lanes(r: Stacked, s: Structure, effects: Effects, family: Any) -> RowLanes:
    """From the rows of all data sets; ``effects`` as of ``own_rows.effects_of_terms``."""
    p = r.X.shape[1]
    status = statuses(r, s, p, family.has_scale)
    starts = np.searchsorted(r.dataset, np.arange(len(r.rows) + 1))
    for k in np.flatnonzero(status < 0):
        own = slice(starts[k], starts[k + 1])
        if family.no_variation(r.y[own], None if r.trials is None else r.trials[own].sum()):
            status[k] = Status.NO_VARIATION
    at = np.flatnonzero(status < 0)
    of = np.full(len(r.rows), -1)
    of[at] = np.arange(len(at))
    here = of[r.dataset] >= 0
    lane, level = of[r.dataset[here]], r.level[here]
    over = Segments(lane, len(at))
    X, T_X, dependent = orthogonal(list(np.ascontiguousarray(r.X[here].T)), over)
    status[at[dependent.any(axis=0)]] = Status.ALIASED
    kinds = {(t.position, t.at): t.covariance.closed_under for t in s.terms}
    q = s.widths[0]
    Z: list[Any] = [None] * q
    T, scaled = np.zeros((q, q, len(at))), np.zeros(q, bool)
    for (f, first, stop), z in zip(effects, r.Z, strict=True):
        columns = list(np.ascontiguousarray(z[here].T))
        Z[first:stop], T[first:stop, first:stop] = changed_effects(columns, over, kinds[f, first])
        scaled[first:stop] = kinds[f, first] != "none"
    fresh = np.ones(len(lane), bool)
    fresh[1:] = (lane[1:] != lane[:-1]) | (level[1:] != level[:-1])
    begins = np.flatnonzero(fresh)
    height = np.arange(len(lane)) - np.repeat(begins, np.diff(np.append(begins, len(lane))))
    sizes = np.stack([r.levels[at], (over.largest(height) + 1).astype(int)], axis=1)
    n = len(lane)
    rows = {
        "y": r.y[here],
        "weights": np.ones(n) if r.weights is None else r.weights[here],
        "offset": None if r.offset is None else r.offset[here],
        "trials": None if r.trials is None else r.trials[here],
        "X": np.stack(X) if X else np.zeros((0, n)),
        "Z": np.stack(Z),
    }
    return RowLanes(status, at, sizes, lane, level, height, rows, {"T_X": T_X, "T": T}, scaled)
