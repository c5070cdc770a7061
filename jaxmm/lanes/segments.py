"""Rows of data sets of any sizes, sorted by data set and level -> the systems of each as lanes of ``own_search``.

    rows (N,)  --sums over the segments-->  A_j = Z_j'WZ_j, Z_j'W[X e] of M levels  --padded-->  (.., J, L)

As ``systems`` has it, on the host: rows are gone before anything is padded, so that only the number of levels is a
shape.  X and Z of each data set are changed as ``own_columns`` changes them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxmm.design.checks import REPRODUCED
from jaxmm.design.stacked_rows import Stacked
from jaxmm.lanes.closed_form import BlockData, Systems
from jaxmm.lanes.entrywise import cholesky, forward
from jaxmm.lanes.linear_lanes import TINY
from jaxmm.lanes.own_columns import DEPENDENT
from jaxmm.lanes.own_rows import Effects
from jaxmm.lanes.own_search import OwnData
from jaxmm.lanes.systems import ROUNDING
from jaxmm.optimize import Status
from jaxmm.structure import Structure

Rows = np.ndarray


class Segments:
    """Rows (N,) in consecutive segments, none of them empty: sums over each, and a number of each for its rows."""

    def __init__(self, of: np.ndarray, count: int):
        self.of, self.count = of, count
        self.starts = np.searchsorted(of, np.arange(count))
        self.rows = np.bincount(of, minlength=count).astype(float)

    def total(self, x: Rows) -> np.ndarray:
        return np.add.reduceat(x, self.starts) if self.count else np.zeros(0)

    def largest(self, x: Rows) -> np.ndarray:
        return np.maximum.reduceat(x, self.starts) if self.count else np.zeros(0)

    def smallest(self, x: Rows) -> np.ndarray:
        return np.minimum.reduceat(x, self.starts) if self.count else np.zeros(0)


# ---------------------------------------------------------------- changes of columns
def orthogonal(columns: list[Rows], over: Segments) -> tuple[list[Rows], np.ndarray, np.ndarray]:
    """As ``own_columns.orthogonal``, of each segment: X_s, T (k, k, L), and which depend on those before (k, L)."""
    k, n, of = len(columns), over.rows, over.of
    done: list[Rows] = []
    changes: list[np.ndarray] = []
    dependent: list[np.ndarray] = []
    for j, given in enumerate(columns):
        size = over.largest(np.abs(given))
        unit = 1 / np.where(size > 0, size, 1.0)
        column, change = given * unit[of], np.zeros((k, over.count))
        change[j] = unit
        own, start = np.sqrt(over.total(column * column)), (column, change)
        for _ in range(2 if done else 0):
            for q, t, is_not in zip(done, changes, dependent, strict=True):
                c = np.where(is_not, 0.0, over.total(q * column) / n)
                column, change = column - c[of] * q, change - c * t
        left = np.sqrt(over.total(column * column))
        bad = ~(left >= DEPENDENT * np.where(own > 0, own, 1.0))
        scale = np.sqrt(n) / np.where(bad, np.where(own > 0, own, 1.0), left)
        if bad.any():
            column, change = np.where(bad[of], start[0], column), np.where(bad, start[1], change)
        done.append(column * scale[of])
        changes.append(change * scale)
        dependent.append(bad | (own == 0))
    T = np.stack(changes, axis=1) if k else np.zeros((0, 0, over.count))
    return done, T, np.stack(dependent) if k else np.zeros((0, over.count), bool)


def rescaled(columns: list[Rows], over: Segments, together: bool) -> tuple[list[Rows], np.ndarray]:
    """As ``own_columns.rescaled``."""
    k = len(columns)
    squares = [over.total(x * x) / over.rows for x in columns]
    if together:
        squares = [sum(squares) / k] * k
    T = np.zeros((k, k, over.count))
    for j, s in enumerate(squares):
        T[j, j] = 1 / np.sqrt(np.where(s > 0, s, 1.0))
    return [x * T[j, j][over.of] for j, x in enumerate(columns)], T


def changed_effects(columns: list[Rows], over: Segments, closed: str) -> tuple[list[Rows], np.ndarray]:
    """As ``own_columns.changed_effects``: of one term, as its structure survives it."""
    if closed == "linear":
        return orthogonal(columns, over)[:2]
    if closed == "none":
        return columns, np.broadcast_to(np.eye(len(columns))[:, :, None], (len(columns),) * 2 + (over.count,))
    return rescaled(columns, over, closed == "scalar")


# ---------------------------------------------------------------- which data sets can be fitted
def statuses(r: Stacked, s: Structure, p: int, has_residual: bool) -> np.ndarray:
    """(D,) what is known before any arithmetic: ``Status`` or -1, as of ``checks``; ``p`` columns of the mean's X."""
    few = (r.rows <= p) | (r.levels < 2)
    if has_residual:
        effects = max((t.covariance.q for t in s.terms if t.covariance.closed_under == "linear"), default=1)
        few |= r.levels * effects >= r.rows
    lacks = r.aliased.copy()
    for z in r.Z:
        for column in z.T:  # zero in all rows
            lacks |= np.bincount(r.dataset[column != 0], minlength=len(r.rows)) == 0
    status = np.where(lacks, Status.ALIASED, -1)
    status[few] = Status.TOO_FEW_ROWS
    status[r.bad] = Status.INVALID
    return status


# ---------------------------------------------------------------- the systems
class Lanes(NamedTuple):
    """``status`` (D,); of the data sets ``at`` (L,) that can be fitted ``levels`` (L,), and their systems by level,
    of M levels in all: level k is ``place[k]`` of data set ``lane[k]``."""

    status: np.ndarray
    at: np.ndarray
    levels: np.ndarray
    lane: np.ndarray
    place: np.ndarray
    by_level: tuple[np.ndarray, np.ndarray, np.ndarray]
    by_lane: dict[str, Any]

    @property
    def sizes(self) -> np.ndarray:
        """(L, 1) what a program's shapes depend on: levels."""
        return self.levels[:, None]

    def padded(self, some: np.ndarray, shape: tuple[int, ...], problem: Any) -> OwnData:
        """Of some (K,) of the L, ascending, with at most so many levels each."""
        (J,) = shape
        where = np.full(len(self.at), -1)
        where[some] = np.arange(len(some))
        mine = where[self.lane] >= 0
        place, lane = self.place[mine], where[self.lane[mine]]

        def laid(x: np.ndarray) -> Any:
            out = np.zeros((*x.shape[:-1], J, len(some)))
            out[..., place, lane] = x[..., mine]
            return out

        K, B, b = map(laid, self.by_level)
        levels: Any = self.levels[some].astype(float)
        o = {name: x[..., some] for name, x in self.by_lane.items()}
        systems = Systems(K, B, None, o["within"], o["n"], o["logs"], o["logdet"])
        data = BlockData(b, None, o["xy"], o["yy"], o["beta0"])
        return OwnData(systems, data, levels, o["T_X"], (o["T"],))


def make_lanes(r: Stacked, s: Structure, effects: Effects) -> Lanes:
    """From the rows of all data sets; ``effects`` as of ``own_rows.effects_of_terms``."""
    status, at = _varies(r, statuses(r, s, s.p, True))
    of = np.full(len(r.rows), -1)
    of[at] = np.arange(len(at))
    here = of[r.dataset] >= 0
    lane, level = of[r.dataset[here]], r.level[here]
    over = Segments(lane, len(at))
    e = r.y[here] if r.offset is None else (r.y - r.offset)[here]
    W = np.ones(len(e)) if r.weights is None else r.weights[here]
    X, T_X, dependent = orthogonal(list(np.ascontiguousarray(r.X[here].T)), over)
    status[at[dependent.any(axis=0)]] = Status.ALIASED
    kinds = {(t.position, t.at): t.covariance.closed_under for t in s.terms}
    q = s.widths[0]
    Z: list[Any] = [None] * q
    T = np.zeros((q, q, len(at)))
    for (f, first, stop), z in zip(effects, r.Z, strict=True):
        columns = list(np.ascontiguousarray(z[here].T))
        Z[first:stop], T[first:stop, first:stop] = changed_effects(columns, over, kinds[f, first])
    beta0, left, XX = _least_squares(X, W, e, over, np.any(dependent, axis=0))
    found = _left(e, left, over)
    status[at] = np.where((status[at] < 0) & (found >= 0), found, status[at])
    by_level, sums, lane_of, place = _levels(X, Z, W, left, XX, lane, level, over)
    by_lane = {
        **sums,
        "beta0": beta0,
        "n": over.rows,
        "logs": over.total(np.log(W)),
        "logdet": np.sum(np.log([T_X[c, c] for c in range(s.p)]), axis=0) if s.p else np.zeros(len(at)),
        "T_X": T_X,
        "T": T,
    }
    return Lanes(status, at, r.levels[at], lane_of, place, by_level, by_lane)


def _varies(r: Stacked, status: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the response takes several values; and the data sets that are left."""
    over = Segments(r.dataset, len(r.rows))
    there = np.flatnonzero(over.rows > 0)
    starts = over.starts[there]
    same = np.zeros(len(r.rows), bool)
    if len(there):
        same[there] = np.maximum.reduceat(r.y, starts) <= np.minimum.reduceat(r.y, starts)
    status = np.where((status < 0) & same, Status.NO_VARIATION, status)
    return status, np.flatnonzero(status < 0)


def _least_squares(X: list[Rows], W: Rows, e: Rows, over: Segments, bad: np.ndarray) -> tuple[Any, Rows, np.ndarray]:
    """As ``systems.least_squares``: twice, so that a large mean leaves no rounding behind."""
    p = len(X)
    beta0 = np.zeros((p, over.count))
    WX = [W * x for x in X]
    XX = np.zeros((p, p, over.count))
    for c in range(p):
        for d in range(c + 1):
            XX[c, d] = XX[d, c] = over.total(WX[c] * X[d])
    if not p:
        return beta0, e, XX
    solvable = np.where(bad, np.eye(p)[:, :, None], XX)
    inverse = np.moveaxis(np.linalg.inv(np.moveaxis(solvable, -1, 0)), 0, -1)
    for _ in range(2):
        right = np.stack([over.total(x * e) for x in WX])
        step = np.sum(inverse * right[None], axis=1)
        beta0 = beta0 + step
        for x, b in zip(X, step, strict=True):
            e = e - x * b[over.of]
    return beta0, e, XX


def _left(e: Rows, left: Rows, over: Segments) -> np.ndarray:
    """As ``linear_lanes.left_status``."""
    size = over.total(e * e)
    status = np.where(over.total(left * left) <= REPRODUCED * size, Status.NO_VARIATION, -1)
    lost = np.isinf(size) | ((size < TINY) & (over.largest(np.abs(e)) > 0))
    return np.where(lost, Status.NOT_FINITE, status)


def _levels(
    X: list[Rows], Z: list[Rows], W: Rows, e: Rows, XX: np.ndarray, lane: Rows, level: Rows, over: Segments
) -> tuple[Any, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """As ``systems.made``: K (q, q, M), B (q, p, M), b (q, M), and what is summed over levels of each lane."""
    p, q = len(X), len(Z)
    fresh = np.ones(len(lane), bool)
    fresh[1:] = (lane[1:] != lane[:-1]) | (level[1:] != level[:-1])
    inside = Segments(np.cumsum(fresh) - 1, int(fresh.sum()))
    lane_of, place = lane[fresh], level[fresh]
    levels = Segments(lane_of, over.count)
    WZ = [W * z for z in Z]
    A = np.zeros((q, q, inside.count))
    for a in range(q):
        for c in range(a + 1):
            A[a, c] = A[c, a] = inside.total(WZ[a] * Z[c])
    K = np.asarray(cholesky(A, ROUNDING))
    zx: Any = [[inside.total(z * x) for x in X] for z in WZ]
    ze: Any = [[inside.total(z * e)] for z in WZ]
    B: Any = forward(K, zx) if p else [[] for _ in range(q)]
    b: Any = [row[0] for row in forward(K, ze)]
    We = W * e
    yy = over.total(e * We) - sum(levels.total(x * x) for x in b)
    xy = [over.total(x * We) - sum(levels.total(B[a][c] * b[a]) for a in range(q)) for c, x in enumerate(X)]
    within = np.array(XX)
    for c in range(p):
        for d in range(p):
            within[c, d] -= sum(levels.total(B[a][c] * B[a][d]) for a in range(q))
    none = np.zeros((0, over.count))
    sums = {"within": within, "xy": np.stack(xy) if p else none, "yy": yy}
    stacked = np.array(B) if p else np.zeros((q, 0, inside.count))
    return (K, stacked, np.stack(b)), sums, lane_of, place
