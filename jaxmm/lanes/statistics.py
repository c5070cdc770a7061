"""Responses -> what a linear model needs of them, with the lanes last: the part of ``Gram`` that depends on y.

    beta0 = (X_s'X_s)^-1 X_s'(y - offset),  e = y - offset - X_s beta0,     z_f = Z_f'We,  xy = X_s'We,  yy = e'We

as pure functions of y (n, L).  The rest of ``Gram`` is shared by all lanes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.gram import Accumulator, Gram
from jaxmm.rows import pieces
from jaxmm.structure import parents_of


class Resampled(NamedTuple):
    """What changes with the levels when they count several times: ``copies`` (J_i, L) of each chain factor, ``XX``
    (p, p, L), ``n_obs`` and ``sum_log_weights`` (L,)."""

    copies: tuple[Array, ...]
    XX: Array
    n_obs: Array
    sum_log_weights: Array


class Statistics(NamedTuple):
    """``z`` (q, J, L) per factor in elimination order, ``xy`` (p, L), ``yy`` (L,), ``beta0`` (p, L); ``resampled``
    where levels have copies."""

    z: tuple[Array, ...]
    xy: Array
    yy: Array
    beta0: Array
    resampled: Resampled | None


@partial(jax.tree_util.register_dataclass, data_fields=["there", "level"], meta_fields=["levels", "height"])
@dataclass(frozen=True)
class LevelSums:
    """How the rows of each level are added: rows ``there`` (H P,) (None: as they stand) in P pieces of ``height`` rows,
    of the levels ``level`` (None: piece k is level k)."""

    there: Array | None
    level: Array | None
    levels: int
    height: int


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["X", "project", "Z", "W", "offset", "sums", "outer", "parents"],
    meta_fields=[],
)
@dataclass(frozen=True)
class ResponseMap:
    """``X`` (p, n) as to X_s, ``project`` (p, n) = (X_s'X_s)^-1 X_s'W, ``Z[f]`` (q, H, P) with the weights in it,
    ``W`` (n,) or None, ``offset`` (n,) or None; ``outer`` (n,) the level of the outermost factor of the chain,
    ``parents`` as of ``structure.parents_of``."""

    X: Array
    project: Array
    Z: tuple[Array, ...]
    W: Array | None
    offset: Array | None
    sums: tuple[LevelSums, ...]
    outer: Array
    parents: tuple[tuple[Array, ...], ...]


def response_map(a: Accumulator, offset: np.ndarray | None) -> ResponseMap:
    """From the columns of a model; call it with x64 enabled."""
    everything = slice(0, a.n)
    X = a.X.rows(everything)
    W = np.ones(a.n) if a.weights is None else a.weights
    gram = X.T @ (X * W[:, None]) if a.structure.p else np.zeros((0, 0))
    project = np.linalg.solve(gram, (X * W[:, None]).T) if a.structure.p else np.zeros((0, a.n))
    Z, sums = [], []
    for f, g in enumerate(a.groupings):
        places, level, height = pieces(g.codes, g.levels)
        real = places >= 0
        source = np.where(real, places, 0).ravel()
        rows = (a.z(f, everything) * W[:, None])[source] * real.ravel()[:, None]
        Z.append(np.ascontiguousarray(rows.T).reshape(g.q, *places.shape))
        in_place = len(source) == a.n and np.array_equal(source, np.arange(a.n))
        there: Any = None if in_place else source.astype(np.int32)
        sums.append(LevelSums(there, level, g.levels, height))  # pyright: ignore
    outer = a.groupings[len(a.structure.chain) - 1].codes
    parents = tuple(tuple(x) for x in parents_of(a.plan))
    parts: Any = (np.ascontiguousarray(X.T), project, tuple(Z), a.weights, offset, tuple(sums), outer, parents)
    return jax.device_put(ResponseMap(*parts))


def level_sums(by: LevelSums, Z: Array, e: Array) -> Array:
    """Z'e per level: (q, J, L)."""
    rows = e if by.there is None else e[by.there]
    rows = rows.reshape(by.height, -1, e.shape[-1])
    total = jnp.stack([jnp.sum(z[:, :, None] * rows, axis=0) for z in Z])
    if by.level is None:
        return total
    empty = jnp.zeros((len(Z), by.levels, e.shape[-1]), e.dtype)
    return empty.at[:, by.level].add(total, indices_are_sorted=True, mode="promise_in_bounds")


def without_offset(y: Array, by: ResponseMap, offset: Array | None = None) -> Array:
    """y (n, L) less the lanes' own offset (n, L), or that of the model."""
    if offset is not None:
        return y - offset
    return y if by.offset is None else y - by.offset[:, None]


def counted(e: Array, rows: Array | None) -> Array:
    """e (n, L) with zeros in the ``rows`` (n, L) that count zero times, whatever stands there."""
    return e if rows is None else jnp.where(rows > 0, e, 0.0)


def statistics(y: Array, by: ResponseMap, copies: Array | None = None, offset: Array | None = None) -> Statistics:
    """Of responses y (n, L); ``copies`` (J, L) of the outermost factor; ``offset`` (n, L) in the place of the
    model's."""
    e = without_offset(y, by, offset)
    rows = None if copies is None else copies[by.outer]
    beta0 = jnp.zeros((len(by.X), y.shape[-1]), y.dtype)
    for _ in range(2 if len(by.X) else 0):  # twice, so that a large mean leaves no rounding behind
        e = counted(e, rows)
        step = by.project @ e
        beta0, e = beta0 + step, e - by.X.T @ step
    e = counted(e, rows)
    We = e if by.W is None else e * by.W[:, None]
    z = tuple(level_sums(s, Z, e) for s, Z in zip(by.sums, by.Z, strict=True))
    if copies is None or rows is None:
        return Statistics(z, by.X @ We, jnp.sum(e * We, axis=0), beta0, None)
    return Statistics(z, by.X @ (We * rows), jnp.sum(e * We * rows, axis=0), beta0, resampled(copies, by))


def resampled(copies: Array, by: ResponseMap) -> Resampled:
    """What ``copies`` (J, L) of the outermost factor change."""
    rows = copies[by.outer]
    XX = jnp.einsum("pn,kn,nl->pkl", by.X, by.X if by.W is None else by.X * by.W, rows)
    log_w = jnp.zeros_like(copies[0]) if by.W is None else jnp.log(by.W) @ rows
    levels = (*(copies[outer[-1]] for outer in by.parents[:-1]), copies)
    return Resampled(levels, XX, jnp.sum(rows, axis=0), log_w)


def gram_of(shared: Gram, own: Statistics) -> Gram:
    """The ``Gram`` of one lane, from ``shared`` (whose own response does not matter)."""
    r = own.resampled
    shared = replace(shared, beta0=own.beta0)
    gram = shared.structure.solver.with_response(shared, own.z, own.xy, own.yy, None if r is None else r.XX)
    if r is None:
        return gram
    return replace(gram, copies=r.copies, n_obs=r.n_obs, sum_log_weights=r.sum_log_weights)
