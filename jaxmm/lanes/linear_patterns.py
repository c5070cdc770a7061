"""A linear model without random effects whose errors are correlated: many responses, from sums over patterns.

As ``residual.sums``: with P_k = C_k^-1 of pattern k, and S of a *cell* (s, t, k), s <= t, the sum over the subjects of
that pattern of the products of their columns [X e] in the slots s and t,

    [X e]'C^-1[X e]  =  Σ P_k,st S_stk         over the cells

of which the part of X is shared where the rows that count are.  Where lanes miss rows of their own a subject's pattern
is the lane's too, and there is a cell for each that may occur.

With M = X'C^-1X, r² = e'C^-1e - β'Mβ, df and the share of log|M| (1 by REML, else 0) as in ``objective.lmm``,

    ∂ criterion / ∂ C_k  =  n_k P_k - P_k G_k P_k,      G_st = Σ S_stk · (df/r² [-β 1]'[-β 1] + share [M^-1 0])

so that the derivatives by theta cost no more than another pass through the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._runs import ranks
from jaxmm._types import Array
from jaxmm.design.residual import ResidualDesign
from jaxmm.gram import Accumulator, Gram
from jaxmm.lanes.advance import Lanes, Value, eigh
from jaxmm.lanes.entrywise import cholesky
from jaxmm.lanes.linear_lanes import linear_found, linear_outcome, nothing_linear, residual_linear
from jaxmm.lanes.linear_rows import LinearRows
from jaxmm.lanes.problem import Found
from jaxmm.lanes.sweeps import inverse
from jaxmm.optimize import Status
from jaxmm.residual import PatternSums, layout_of
from jaxmm.residual.patterns import Patterns, every_pattern, number_of, patterns, subjects
from jaxmm.residual.starts import LEAST, MOST_TIMES, in_unit_of_first, moments_of_sums, usual
from jaxmm.residual.sums import cells_of, pattern_sums, places_of_packed
from jaxmm.solver.block_matmul import block_matmul
from jaxmm.sources.responses import Varying

ACCEPTED = frozenset({"y", "offset", "weights"})  # what lanes may have of their own


class Counted(NamedTuple):
    """What the rows that count make, of all lanes or of each: ``XX`` (C, p(p + 1)/2) or (C, .., L) of the columns;
    ``counts`` (K, 1 or L) of subjects; ``n_obs`` and ``log_weights``, the sum of their logarithms, () or (L,)."""

    XX: Any
    counts: Array
    n_obs: Array
    log_weights: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["source", "root", "offset", "X", "patterns", "sets", "rows", "cells", "at", "members", "chosen"],
    meta_fields=[],
)
@dataclass(frozen=True)
class PatternTable:
    """The rows of P subjects in H slots and the cells of their K patterns; shared by all lanes.

    ``source`` (H, P) the row of the data in each slot; ``root`` (H, P) of its weight, 0 for a gap; ``offset`` (H, P);
    ``X`` (p, H, P) as to X_s; ``sets`` (P,) of parameters; ``rows``, what the model's own make, without XX where lanes
    have rows of their own.  ``cells`` (3, C) as of ``PatternSums``, ``at`` (H, H, K) the one that each element of P is
    in, C for none.  ``members`` (N, M) the patterns that have rows in both slots of each pair, and -1; ``chosen`` (C,)
    where among them each cell is.
    """

    source: Array
    root: Array
    offset: Array
    X: Array
    patterns: Patterns
    sets: Array
    rows: Counted
    cells: Array
    at: Array
    members: Array
    chosen: Array


class PatternData(NamedTuple):
    """``Y`` (C, p + 1, L) of the response with the columns and itself; ``beta0`` (p, L); ``own``, what the lanes' own
    rows make, or None."""

    Y: Array
    beta0: Array
    own: Counted | None


def pattern_table(a: Accumulator, d: ResidualDesign, offset: np.ndarray | None, own: bool) -> PatternTable:
    """Of the columns of a model and its errors; ``own``: lanes may miss rows of their own.  With x64 enabled."""
    assert d.subject is not None and d.place is not None and a.structure.residual is not None
    weights, X = np.ones(a.n) if a.weights is None else a.weights, a.X.rows(slice(0, a.n))
    laid = subjects(d.subject.codes, d.place, len(d.times), None, weights > 0)
    sets = None if d.sets is None else d.sets.codes
    if own:
        found = every_pattern(laid, d.positions, sets, a.structure.residual)
    else:
        found = patterns(laid, d.place, d.positions, sets, a.structure.residual)
    there, pattern = np.asarray(found.there) > 0, np.asarray(found.pattern)
    (H, K), cells = there.shape, cells_of(there)
    s, t, k = cells
    pair, C = places_of_packed(H)[s, t], cells.shape[1]
    rank = ranks(pair)  # of a cell among those of its pair
    members = np.full((H * (H + 1) // 2, int(rank.max(initial=0)) + 1), -1)
    members[pair, rank] = k
    at = np.full((H, H, K), C)
    at[s, t, k] = at[t, s, k] = np.arange(C)
    XX: Any = None if own else np.asarray(pattern_sums(laid, found, X * np.sqrt(weights)[:, None]).sums)[:C]
    counts = np.bincount(pattern[pattern >= 0], minlength=K).astype(float)
    logs = np.log(weights[weights > 0])
    real = laid.rows >= 0
    source = np.where(real, laid.rows, laid.first)
    parts: Any = (
        source.astype(np.int32),
        np.where(real, np.sqrt(weights)[source], 0.0),
        np.zeros(source.shape) if offset is None else offset[source],
        np.ascontiguousarray(np.moveaxis(np.where(real[:, :, None], X[source], 0.0), -1, 0)),
        found,
        np.zeros(len(laid.first), np.int32) if sets is None else sets[laid.first].astype(np.int32),
        Counted(XX, counts[:, None], np.asarray(float(len(logs))), np.asarray(np.sum(logs))),  # pyright: ignore
        cells,
        at.astype(np.int32),
        members.astype(np.int32),
        (pair * members.shape[1] + rank).astype(np.int32),
    )
    return jax.device_put(PatternTable(*parts))


def suits(model: Any, varies: frozenset[str]) -> bool:
    """Whether lanes of a model with a covariance of the errors can be searched side by side at all: what they have of
    their own can be had, there are parameters and not too many, and σ is none of them."""
    s = model.structure
    return varies <= ACCEPTED and 0 < s.num_theta <= costs.PATTERN_PARAMETERS and s.profiles_sigma


def can_have_patterns(model: Any, varies: frozenset[str]) -> bool:
    """Whether lanes of a model can be searched by sums over patterns."""
    own, d = model.arrays.residual, model.design.residual
    if not isinstance(own, PatternSums) or not suits(model, varies):
        return False
    if "weights" not in varies:
        return True
    H = len(d.times)
    cells = d.num_sets * (H * (H + 3) * 2 ** max(H - 3, 0)) if H < 30 else np.inf  # Σ over the pairs s <= t
    fits = cells * (model.structure.p + 1) ** 2 / 2 <= costs.PATTERN_CELLS
    return bool(fits and own.patterns.place is None)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["gram", "table", "starts", "harmless", "checks"],
    meta_fields=[],
)
@dataclass(frozen=True)
class LinearPatterns:
    """``gram`` of the model, whose response does not matter; ``starts`` (S, m) that suit any lane; ``checks`` says
    which lanes are refused."""

    gram: Gram
    table: PatternTable
    starts: Array
    harmless: Array
    checks: LinearRows
    accepts = ACCEPTED
    takes_any = forgiving = True
    library = frozenset({"data"})
    polished = False
    steady = 0.0
    temporaries = 1

    @property
    def rows_of_theta(self) -> list:
        return []

    # ------------------------------------------------------------ what lanes have
    def refuse(self, own: Varying) -> Array:
        """Also lanes that have no more rows than parameters."""
        status, s = self.checks.refuse(own), self.gram.structure
        real = self.table.root > 0
        there = real[:, :, None] if own.weights is None else real[:, :, None] & (own.weights[self.table.source] > 0)
        count = jnp.sum(there, axis=(0, 1))
        few = ((status < 0) & (count <= s.p + s.num_theta)) | ((status == Status.ALIASED) & (count == 0))
        return jnp.where(few, Status.TOO_FEW_ROWS, status).astype(jnp.int32)

    def data(self, own: Varying) -> PatternData:
        t = self.table
        root, number = t.root[:, :, None], t.patterns.pattern[:, None]
        if own.weights is not None:
            root = jnp.where(root > 0, jnp.sqrt(own.weights[t.source]), 0.0)
        there = root > 0
        offset = t.offset[:, :, None] if own.offset is None else own.offset[t.source]
        e = jnp.where(there, own.y[t.source] - offset, 0.0)
        beta0, e = self._centred(e, there, root)
        if own.weights is None:
            return PatternData(self._sums(e, root, number)[1], beta0, None)
        number, K = number_of(there, t.sets[:, None]), t.patterns.there.shape[1]
        counts = jnp.sum(number[None] == jnp.arange(K)[:, None, None], axis=1).astype(e.dtype)
        logs = 2 * jnp.sum(jnp.log(jnp.where(there, root, 1.0)), axis=(0, 1))
        XX, Y = self._sums(e, root, number)
        return PatternData(Y, beta0, Counted(XX, counts, jnp.sum(there, axis=(0, 1)).astype(e.dtype), logs))

    def _centred(self, e: Array, there: Array, root: Array) -> tuple[Array, Array]:
        """beta0 (p, L) of least squares and e less X beta0, where there are rows; twice, so that a large mean leaves no
        rounding behind."""
        X, W = self.table.X, root * root
        p = len(X)
        beta0 = jnp.zeros((p, e.shape[-1]), e.dtype)
        if not p:
            return beta0, e
        s, t = np.triu_indices(p)
        flat = X.reshape(p, -1)
        packed = (flat[s] * flat[t]) @ W.reshape(-1, W.shape[-1])
        solve = inverse(packed[places_of_packed(p)])[0]
        for _ in range(2):
            step = jnp.sum(solve * (flat @ (W * e).reshape(-1, e.shape[-1]))[None], axis=1)
            beta0, e = beta0 + step, jnp.where(there, e - jnp.tensordot(X, step, (0, 0)), 0.0)
        return beta0, e

    def _sums(self, e: Array, root: Array, number: Array) -> tuple[Array, Array]:
        """``XX`` and ``Y``, pair of slots by pair."""
        t = self.table
        i, j = np.triu_indices(len(t.X))

        def of_pair(given: tuple[Array, Array]) -> tuple[Array, Array]:
            (a, b), members = given
            half = jnp.where(a == b, 0.5, 1.0)
            w = half * (number[None] == members[:, None, None]) * (root[a] * root[b])[None]  # (M, P, 1 or L)
            X_a, X_b, e_a, e_b = t.X[:, a], t.X[:, b], e[a], e[b]
            XX = _dot(w, X_a[i] * X_b[j] + X_a[j] * X_b[i])
            if w.shape[-1] == 1:
                w = w[..., 0]
                both = [jnp.tensordot(w[:, None] * x[None], y, (2, 0)) for x, y in ((X_a, e_b), (X_b, e_a))]
                yy = 2 * jnp.tensordot(w, e_a * e_b, (1, 0))
            else:
                both = [_dot(w * y[None], x) for x, y in ((X_a, e_b), (X_b, e_a))]
                yy = 2 * jnp.sum(w * (e_a * e_b)[None], axis=1)
            return XX, jnp.concatenate([both[0] + both[1], yy[:, None]], axis=1)

        pairs = np.stack(np.triu_indices(len(t.root)), axis=1)
        XX, Y = jax.lax.map(of_pair, (pairs, t.members))
        return tuple(x.reshape(-1, *x.shape[2:])[t.chosen] for x in (XX, Y))  # pyright: ignore

    # ------------------------------------------------------------ the search
    def covariances(self, theta: Array) -> Array:
        """C (H, H, K, L) at theta (m, L)."""
        p = self.table.patterns
        return p.covariances(p.layout.split(theta)[0])

    def start(self, data: PatternData) -> Array:
        """The best of the shared ones, and of what the moments of the residuals say."""
        L = data.Y.shape[-1]
        given = jnp.broadcast_to(self.starts[:, :, None], (*self.starts.shape, L))
        if (own := self._moments(data)) is not None:
            given = jnp.concatenate([given, own[None]])
        values = jax.lax.map(lambda theta: self.evaluate(theta, data, None).value, given)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf), axis=0)
        return jnp.take_along_axis(given, best[None, None], axis=0)[0]

    def _moments(self, data: PatternData) -> Array | None:
        """theta of the means of e_s e_t (m, L); None where slots are not times, or are too many."""
        t, structure = self.table, self.table.patterns.layout.covariance
        H = len(t.root)
        if t.patterns.place is not None or H > MOST_TIMES or structure is None:
            return None
        squares = jnp.concatenate([data.Y[:, -1], jnp.zeros((1, data.Y.shape[-1]))])[t.at]  # (H, H, K, L)
        squares = squares * (0.5 + 0.5 * np.eye(H))[:, :, None, None]
        there = t.patterns.there
        counts = (there[:, None] * there[None])[..., None] * (data.own or t.rows).counts
        thetas = []
        for own in t.patterns.sets:
            S = moments_of_sums(*(jnp.sum(own[:, None] * x, axis=2) for x in (counts, squares)))
            w, Q = eigh(S)
            w = jnp.maximum(w, LEAST * jnp.trace(S) / H)
            root = cholesky(jnp.sum(Q[:, None] * (w[None] * Q)[None], axis=2))
            thetas.append(structure.from_lower(root, t.patterns.positions))
        thetas = in_unit_of_first(structure, thetas)
        return jnp.concatenate([thetas[0][1:], *thetas[1:]])

    def prepare(self, theta: Array, data: PatternData) -> Any:
        return nothing_linear(self.gram.structure, data.Y[0, 0])

    def guess(self, theta: Array) -> Array:
        """The expected Hessian of ``PatternSums.expected``, were the rows the model's."""
        t, m = self.table, len(theta)
        units = jnp.broadcast_to(jnp.eye(m, dtype=theta.dtype)[:, :, None], (m, *theta.shape))
        dC = jax.vmap(lambda u: jax.jvp(self.covariances, (theta,), (u,))[1])(units)  # (m, H, H, K, L)
        P = inverse(self.covariances(theta))[0]
        own = jnp.sum(P[None, :, :, None] * dC[:, None], axis=2)
        counted = own * t.rows.counts
        both = jax.lax.map(lambda x: jnp.sum(x[None] * jnp.swapaxes(counted, 1, 2), axis=(1, 2, 3)), own)
        trace = jnp.sum(jnp.trace(counted, axis1=1, axis2=2), axis=1)
        return both - trace[:, None] * trace[None] / self.gram.n_obs

    def evaluate(self, theta: Array, data: PatternData, kept: Any) -> Value:
        t, s, rows = self.table, self.gram.structure, data.own or self.table.rows
        p, share = s.p, float(s.reml)
        C, pull = jax.vjp(self.covariances, theta)
        P, logs = inverse(C)
        a, b, k = t.cells
        flat = P[a, b, k]  # (C, L)
        Y = jnp.sum(flat[:, None] * data.Y, axis=0)
        right, r2 = Y[:p], Y[p]
        df, logdet_X = rows.n_obs, 0.0
        M_inverse, beta = jnp.zeros((0, 0, theta.shape[-1]), theta.dtype), right
        if p:
            packed = _tall(rows.XX, flat)
            M_inverse, logdet_M = inverse(packed[places_of_packed(p)])
            beta = jnp.sum(M_inverse * right[None], axis=1)
            r2 = r2 - jnp.sum(right * beta, axis=0)
            df, logdet_X = df - share * p, share * (logdet_M - 2 * self.gram.logdet_T)
        logdet = jnp.sum(rows.counts * logs, axis=0)
        value = logdet + df * (1 + jnp.log(2 * jnp.pi * r2 / df)) + logdet_X - rows.log_weights

        kappa = df / r2
        slope = jnp.sum(data.Y * jnp.concatenate([-2 * kappa * beta, kappa[None]])[None], axis=1)  # by each P
        if p:
            i, j = np.triu_indices(p)
            by_M = kappa * beta[i] * beta[j] + share * M_inverse[i, j]
            slope = slope + _wide(rows.XX, by_M * np.where(i == j, 1.0, 2.0)[:, None])
        slope = slope * jnp.where(a == b, 1.0, 0.5)[:, None]
        G = jnp.concatenate([slope, jnp.zeros((1, slope.shape[-1]), slope.dtype)])[t.at]
        (gradient,) = pull(rows.counts * P - block_matmul(block_matmul(P, G), P))
        return Value(value, gradient, None, (beta + data.beta0, r2 / df, M_inverse))

    def doubtful(self, s: Lanes) -> Array:
        """As of a single fit the best of the starts is enough."""
        return jnp.zeros(s.status.shape, bool)

    def again(self, s: Lanes) -> tuple[Array, Any, Array]:
        return s.theta, s.kept, s.round

    def outcome(self, s: Lanes, data: PatternData) -> Any:
        return linear_outcome(s)

    def found(self, outcome: Any) -> Found:
        return linear_found(outcome, self.gram)

    def residual(self, data: PatternData) -> Any:
        return residual_linear(self.gram.structure, (data.own or self.table.rows).n_obs)


def linear_patterns(
    a: Accumulator, gram: Gram, d: Any, checks: LinearRows, harmless: np.ndarray, own: bool
) -> LinearPatterns:
    """Of a model's columns, arrays and design ``d``."""
    table, layout = pattern_table(a, d.residual, d.offset, own), layout_of(d.residual)
    starts = np.stack(usual(table.patterns, layout, [1.0] * layout.sets))
    return LinearPatterns(gram, table, starts, harmless, checks)  # pyright: ignore


def _dot(w: Array, x: Array) -> Array:
    """w (M, P, L) and x (c, P) -> (M, c, L)."""
    return jnp.einsum("mpl,xp->mxl", w, x)


def _tall(XX: Any, flat: Array) -> Array:
    """Σ over the cells: (c, L)."""
    return jnp.tensordot(XX, flat, (0, 0)) if XX.ndim == 2 else jnp.sum(flat[:, None] * XX, axis=0)


def _wide(XX: Any, by: Array) -> Array:
    """Σ over the columns: (C, L)."""
    return XX @ by if XX.ndim == 2 else jnp.sum(XX * by[None], axis=1)
