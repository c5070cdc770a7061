"""Columns that lanes have of their own -> better conditioned ones that span the same, with the change of each lane.

    X_s = X T,   <X_s a, X_s b> = n δ_ab over the n rows that are there

by Gram and Schmidt's method, twice, so that a column far from zero or on another scale loses no digits: with a constant
before it a column is centred.  T is upper triangular, (k, k, L).  A column whose part outside those before it is tiny
depends on them, as in ``modelmatrix.independent_columns``.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.covariance import Closed

DEPENDENT = 1e-7  # of a column's length: what is left of one that depends on those before it


def orthogonal(columns: list[Array], there: Array) -> tuple[list[Array], Array, Array]:
    """``columns`` (H, P, L) each, zero where ``there`` (H, P, L or 1) is -> X_s, T (k, k, L), and which depend on those
    before them (k, L): these are only scaled."""
    k = len(columns)
    n = jnp.maximum(_total(there), 1.0)
    done: list[Array] = []
    changes: list[Array] = []
    dependent: list[Array] = []
    for j, given in enumerate(columns):
        size = jnp.max(jnp.abs(given), axis=(0, 1))
        unit = 1 / jnp.where(size > 0, size, 1.0)
        column = given * unit
        change = jnp.zeros((k, *unit.shape)).at[j].set(unit)
        own, start = jnp.sqrt(_total(column * column)), (column, change)
        for _ in range(2 if done else 0):
            for q, t, is_not in zip(done, changes, dependent, strict=True):
                c = jnp.where(is_not, 0.0, _total(q * column) / n)
                column, change = column - c * q, change - c * t
        left = jnp.sqrt(_total(column * column))
        bad = ~(left >= DEPENDENT * jnp.where(own > 0, own, 1.0))
        length = jnp.where(bad, jnp.where(own > 0, own, 1.0), left)
        column, change = (
            jnp.where(bad, a, b) * (jnp.sqrt(n) / length) for a, b in zip(start, (column, change), strict=True)
        )
        done.append(column)
        changes.append(change)
        dependent.append(bad)
    return done, jnp.stack(changes, axis=1) if k else jnp.zeros((0, 0, 1)), _stacked(dependent, n)


def rescaled(columns: list[Array], there: Array, together: bool) -> tuple[list[Array], Array]:
    """The same with unit mean squares, of each column or of all ``together``, and T (k, k, L)."""
    n = jnp.maximum(_total(there), 1.0)
    largest = [jnp.max(jnp.abs(x), axis=(0, 1)) for x in columns]
    if together:
        largest = [jnp.max(jnp.stack(largest), axis=0)] * len(columns)
    unit = [1 / jnp.where(x > 0, x, 1.0) for x in largest]
    squares = [_total((x * u) ** 2) / n for x, u in zip(columns, unit, strict=True)]
    if together:
        squares = [sum(squares[1:], squares[0]) / len(squares)] * len(squares)
    unit = [u / jnp.sqrt(jnp.where(x > 0, x, 1.0)) for u, x in zip(unit, squares, strict=True)]
    T = jnp.zeros((len(columns), len(columns), *unit[0].shape))
    for j, u in enumerate(unit):
        T = T.at[j, j].set(u)
    return [x * u for x, u in zip(columns, unit, strict=True)], T


def changed_effects(columns: list[Array], there: Array, closed: Closed) -> tuple[list[Array], Array]:
    """The columns of one term, changed as its structure survives it, and T (q, q, L)."""
    if closed == "linear":
        made, T, _ = orthogonal(columns, there)
        return made, T
    if closed == "none":
        one = jnp.ones_like(jnp.max(columns[0], axis=(0, 1)))
        return columns, jnp.eye(len(columns))[:, :, None] * one
    return rescaled(columns, there, closed == "scalar")


def _total(x: Any) -> Array:
    return jnp.sum(x, axis=(0, 1))


def _stacked(dependent: list[Array], like: Array) -> Array:
    return jnp.stack(dependent) if dependent else jnp.zeros((0, *like.shape), bool)
