"""What lanes have of their own -> rows laid out in pieces, the lanes last, and which lanes cannot be fitted.

A row of weight zero, or of a level that counts zero times, is not there: whatever stands in it.  X and Z of a lane are
changed by ``own_columns``; what the lanes share is left to the problem, which has it laid out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.design import Design
from jaxmm.lanes.linear_lanes import left_status
from jaxmm.lanes.own_columns import changed_effects, orthogonal
from jaxmm.optimize import Status
from jaxmm.sources.responses import Varying
from jaxmm.structure import Structure

Effects = tuple[tuple[int, int, int], ...]


class Laid(NamedTuple):
    """``y`` (H, P, L) and ``e``, y less the offset, zero where a row is not ``there`` (H, P, L); ``W`` (H, P, L);
    ``X`` (p, H, P, L) and ``Z`` of each factor in elimination order (q, H, P, L), None where they are shared, with
    their changes ``T_X`` (p, p, L) and ``T`` (q, q, L) each; ``aliased`` (L,) whether columns of such an X depend on
    each other; ``usable`` (L,).  Where all lanes share it, the last axis of ``W`` and ``there`` is 1."""

    y: Array
    e: Array
    W: Array
    there: Array
    X: Any
    Z: Any
    T_X: Any
    T: Any
    aliased: Any
    usable: Array


def effects_of_terms(design: Design, order: tuple[int, ...]) -> Effects:
    """Of each term of the design the place of its factor in elimination order, and which effects of that are its own:
    first, stop."""
    out, ends = [], dict.fromkeys(order, 0)
    for term in design.terms:
        start, ends[term.factor] = ends[term.factor], ends[term.factor] + term.Z.shape[1]
        out.append((order.index(term.factor), start, ends[term.factor]))
    return tuple(out)


def lay_out(
    own: Varying, source: Array, weights: Array, offset: Array, copies: Array | None, s: Structure, effects: Effects
) -> Laid:
    """``source`` (H, P) is the row of the data at each place, ``weights`` (H, P) the model's with zeros where there is
    none, ``offset`` (H, P) the model's; ``copies`` (P, L) of the pieces, or None."""

    def lay(x: Array) -> Array:
        return x[source.ravel()].reshape(*source.shape, -1)

    W = weights[..., None] if own.weights is None else jnp.where(weights[..., None] > 0, lay(own.weights), 0.0)
    there = W > 0 if copies is None else (W > 0) & (copies > 0)
    y = lay(own.y)
    e = y - (offset[..., None] if own.offset is None else lay(own.offset))
    good = jnp.all(jnp.isfinite(e) | ~there, axis=(0, 1))
    for x in (own.weights, own.copies):
        good = good if x is None else good & jnp.all(jnp.isfinite(x) & (x >= 0), axis=0)

    def columns(A: Array) -> list[Array]:
        nonlocal good
        rows = [jnp.where(there, lay(A[:, j]), 0.0) for j in range(A.shape[1])]
        for x in rows:
            good = good & jnp.all(jnp.isfinite(x), axis=(0, 1))
        return rows

    X = Z = T_X = T = aliased = None
    if own.X is not None:
        made, T_X, dependent = orthogonal(columns(own.X), there)
        X = jnp.stack(made) if made else jnp.zeros((0, *e.shape))
        aliased = jnp.any(dependent, axis=0)
    if own.Z is not None:
        kinds: dict[Any, Any] = {(t.position, t.at): t.covariance.closed_under for t in s.terms}
        parts: list[list[Any]] = [[None] * q for q in s.widths]
        T = [jnp.zeros((q, q, e.shape[-1])) for q in s.widths]
        for (f, first, stop), Z_t in zip(effects, own.Z, strict=True):
            parts[f][first:stop], change = changed_effects(columns(Z_t), there, kinds[f, first])
            T[f] = T[f].at[first:stop, first:stop].set(change)
        Z, T = tuple(jnp.stack(x) for x in parts), tuple(T)
    return Laid(jnp.where(there, y, 0.0), jnp.where(there, e, 0.0), W, there, X, Z, T_X, T, aliased, good)


def verdict(laid: Laid, left: Array, aliased: Array, too_few: Array) -> Array:
    """(L,) a ``Status``, or -1: ``left`` (.., L) of the response after least squares, ``aliased`` and ``too_few``
    (L,)."""
    there, y, rows = laid.there, laid.y, tuple(range(laid.y.ndim - 1))
    highest, lowest = (
        jnp.max(jnp.where(there, y, -jnp.inf), axis=rows),
        jnp.min(jnp.where(there, y, jnp.inf), axis=rows),
    )
    status = left_status(laid.e, jnp.where(there, left, 0.0))
    status = jnp.where(highest <= lowest, Status.NO_VARIATION, status)
    status = jnp.where(aliased, Status.ALIASED, status)
    status = jnp.where(too_few, Status.TOO_FEW_ROWS, status)
    return jnp.where(laid.usable, status, Status.INVALID).astype(jnp.int32)
