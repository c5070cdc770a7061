"""What lanes of generalised models have of their own -> their rows, laid out as the model's, and who cannot be fitted.

A row of weight zero is not there: whatever stands in it.  X and Z of a lane are changed by ``own_columns``, so that a
column of another scale or far from zero loses no digits; X is that of the mean, further predictors keep the model's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.lanes.entrywise import lower_pairs
from jaxmm.lanes.linear_lanes import too_few
from jaxmm.lanes.own_columns import changed_effects, orthogonal
from jaxmm.lanes.own_rows import Effects
from jaxmm.optimize import Status
from jaxmm.rows import Rows
from jaxmm.sources.responses import Varying

DEPENDENT = 1e-12  # of a column's square: what is left of one that depends on others, in cross-products


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["y", "constant", "copies", "weights", "offset", "trials", "X", "Z", "T_X", "T"],
    meta_fields=[],
)
@dataclass(frozen=True)
class RowData:
    """``y`` (H, P, L) in the layout of the rows, ``constant`` (L,) the part of the log density without parameters,
    ``copies`` (J_i, L) of each chain factor or None.  Where they are not the model's: ``weights``, ``offset`` of the
    mean and ``trials`` (H, P, L), ``X`` (p, H, P, L) and ``Z`` of each factor (q, H, P, L), with the changes that made
    them, ``T_X`` (p, p, L) and ``T`` (q, q, L) of each factor; else None."""

    y: Array
    constant: Array
    copies: tuple[Array, ...] | None
    weights: Array | None = None
    offset: Array | None = None
    trials: Array | None = None
    X: Array | None = None
    Z: tuple[Array, ...] | None = None
    T_X: Array | None = None
    T: tuple[Array, ...] | None = None

    def own(self) -> dict[str, Any]:
        """The arrays of rows, by name."""
        names = ("y", "weights", "offset", "trials", "X", "Z")
        return {name: x for name in names if (x := getattr(self, name)) is not None}

    def each(self, function: Callable[[Array], Array]) -> RowData:
        """``function`` of every array of rows."""
        return replace(self, **jax.tree.map(function, self.own()))


def row_data(own: Varying, rows: Rows, effects: Effects, unit: Array) -> RowData:
    """From what lanes have of their own, the lanes last.  ``effects`` of ``own_rows.effects_of_terms``; ``unit``: what
    the model's parameters are searched in units of.

    A row that weighs nothing has the model's numbers, and what is not finite in a lane that is refused is replaced.
    """
    y, copies, W, weights, offset = own.y[rows.source], own.copies, rows.weights[..., None], None, None
    if own.weights is not None:
        W = weights = jnp.where(W > 0, own.weights[rows.source], 0.0)  # what fills the pieces weighs nothing
        y = jnp.where(W > 0, y, rows.y[..., None])
    if own.offset is not None:
        offset = own.offset[rows.source]
        offset = jnp.where((W > 0) & jnp.isfinite(offset), offset, rows.offset[..., None])
    X = Z = T_X = T = None
    if own.X is not None:
        X, T_X, _ = _own_X(own, rows, W)
        X, T_X = X.at[: own.X.shape[1]].multiply(unit), T_X.at[: own.X.shape[1]].multiply(unit)
    if own.Z is not None:
        Z, T = _own_Z(own, rows, W, effects, unit)
    trials = None if own.trials is None else own.trials[rows.source]
    if trials is not None:
        trials = jnp.where(W > 0, trials, rows.trials[..., None])
    constant = W * rows.family.log_constant(y, rows.trials[..., None] if trials is None else trials)
    rest: dict[str, Any] = dict(weights=weights, offset=offset, trials=trials, X=X, Z=Z, T_X=T_X, T=T)
    if copies is None:
        return RowData(y, jnp.sum(constant, axis=(0, 1)), None, **rest)
    levels = (*(copies[outer[-1]] for outer in rows.parents[:-1]), copies)
    by_level = jax.vmap(rows.main.collect, -1, -1)(constant)
    return RowData(y, jnp.sum(by_level * levels[0], axis=0), levels, **rest)


def _laid(A: Array, rows: Rows, W: Array) -> list[Array]:
    """The columns of A (n, k, L) at the rows, zero in those that are not there."""
    columns = [A[:, j][rows.source] for j in range(A.shape[1])]
    return [jnp.where((W > 0) & jnp.isfinite(x), x, 0.0) for x in columns]


def _own_X(own: Varying, rows: Rows, W: Array) -> tuple[Array, Array, Array]:
    """X_s (p, H, P, L), T_X (p, p, L), and (L,) whether columns of the mean depend on each other."""
    L, k, p = own.X.shape[-1], own.X.shape[1], rows.structure.p
    made, T, dependent = orthogonal(_laid(own.X, rows, W), (W > 0).astype(W.dtype))
    further = jnp.broadcast_to(rows.X[k:, ..., None], (p - k, *rows.X.shape[1:], L))
    X = jnp.concatenate([jnp.stack(made), further]) if made else further
    T_X = jnp.broadcast_to(jnp.asarray(rows.T_X)[:, :, None], (p, p, L)).at[:k, :k].set(T)
    return X, T_X, jnp.any(dependent, axis=0)


def _own_Z(own: Varying, rows: Rows, W: Array, effects: Effects, unit: Array) -> tuple[Any, Any]:
    """Z_s (q, H, P, L) and T (q, q, L) of each factor."""
    s, L = rows.structure, own.Z[0].shape[-1]
    kinds: dict[Any, Any] = {(t.position, t.at): t.covariance.closed_under for t in s.terms}
    parts: list[list[Any]] = [[None] * q for q in s.widths]
    T = [jnp.zeros((q, q, L)) for q in s.widths]
    for (f, first, stop), Z in zip(effects, own.Z, strict=True):
        closed = kinds[f, first]
        made, change = changed_effects(_laid(Z, rows, W), (W > 0).astype(W.dtype), closed)
        by = unit if closed != "none" and s.predictors.of(f) == 0 else 1.0
        parts[f][first:stop] = [x * by for x in made]
        T[f] = T[f].at[first:stop, first:stop].set(change * by)
    return tuple(jnp.stack(x) for x in parts), tuple(T)


def refuse(own: Varying, rows: Rows) -> Array:
    """(L,) a status for lanes whose numbers cannot be fitted, else -1; rows that weigh nothing are not looked at."""
    counts = True if own.weights is None else own.weights > 0
    same = rows.no_variation(own.y, None if counts is True else counts, own.trials)
    status = jnp.where(same, Status.NO_VARIATION, -1)
    good = jnp.all(jnp.isfinite(own.y) | ~jnp.asarray(counts), axis=0)
    if own.offset is not None:
        good = good & jnp.all(jnp.isfinite(own.offset) | ~jnp.asarray(counts), axis=0)
    for A in (*(() if own.X is None else (own.X,)), *(own.Z or ())):
        there = counts if counts is True else counts[:, None]
        good = good & jnp.all(jnp.isfinite(A) | ~jnp.asarray(there), axis=(0, 1))
    W = rows.weights[..., None]
    if own.weights is not None:
        good = good & jnp.all(jnp.isfinite(own.weights) & (own.weights >= 0), axis=0)
        W = jnp.where(W > 0, own.weights[rows.source], 0.0)
    if own.X is not None:
        status = jnp.where(_own_X(own, rows, W)[2], Status.ALIASED, status)
    if own.weights is not None:
        status = jnp.where(_dependent(rows, W > 0, 0 if own.X is None else 1), Status.ALIASED, status)
        count, s = jnp.sum(W > 0, axis=(0, 1)), rows.structure
        mean = s.predictors.slices(s.p)[0]
        few = too_few(count, _levels(rows, W > 0), s, status == Status.ALIASED, mean.stop, rows.family.has_scale)
        status = jnp.where(few, Status.TOO_FEW_ROWS, status)
    return jnp.where(good, status, Status.INVALID).astype(jnp.int32)


def _levels(rows: Rows, there: Array) -> list[Array]:
    """Of each factor how many levels (L,) have a row among those (H, P, L) that are there."""
    collected = (jax.vmap(partial(rows.collect, f), -1, -1)(1.0 * there) for f in range(rows.structure.num_factors))
    return [jnp.sum(x > 0.5, axis=0) for x in collected]


def _dependent(rows: Rows, there: Array, first: int) -> Array:
    """(L,) whether columns of X_s of a predictor, from the ``first`` on, depend on each other in the rows (H, P, L)
    that are there: by the pivots of their cross-products."""
    found = jnp.zeros(there.shape[-1], bool)
    for at in rows.structure.predictors.slices(rows.structure.p)[first:]:
        X = rows.X[at].reshape(at.stop - at.start, -1)
        pairs = lower_pairs(len(X))
        if not pairs:
            continue
        products = jnp.stack([X[a] * X[b] for a, b in pairs])
        packed = products @ there.reshape(-1, there.shape[-1]).astype(products.dtype)
        entry = dict(zip(pairs, packed, strict=True))
        for k in range(len(X)):
            found = found | (entry[k, k] <= DEPENDENT * packed[pairs.index((k, k))])
            share = {i: entry[i, k] / jnp.where(entry[k, k] > 0, entry[k, k], 1.0) for i in range(k + 1, len(X))}
            for i, j in pairs:
                if j > k:
                    entry[i, j] = entry[i, j] - share[i] * entry[j, k]
    return found


def lane(data: RowData, rows: Rows) -> Rows:
    """The rows of one lane."""
    return replace(rows, log_constant=data.constant, copies=data.copies, **data.own())
