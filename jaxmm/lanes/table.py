"""Rows in a table, a level in each piece, with columns of the lanes' own -> the sums that ``systems`` takes."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.lanes.entrywise import Matrix
from jaxmm.lanes.systems import Squares, Sums, least_squares, symmetric


class Table(NamedTuple):
    """Rows in P pieces of H rows, each of one level; ``level`` (P,) tells which of the ``levels``, None where piece k
    is level k.  ``y`` (H, P, L) less the offset, ``W`` (H, P, ..) with zeros where there is no row, ``X`` and ``Z`` of
    columns (H, P, ..) each; the last axis is 1 where the lanes share it.  y, X and Z are finite everywhere."""

    y: Array
    W: Array
    X: list[Array]
    Z: list[Array]
    level: Array | None
    levels: int

    def collect(self, x: Array) -> Array:
        """Sums over the rows of each level: (H, P, ..) -> (J, ..)."""
        x = jnp.sum(x, axis=0)
        if self.level is None:
            return x
        empty = jnp.zeros((self.levels, *x.shape[1:]), x.dtype)
        return empty.at[self.level].add(x, indices_are_sorted=True, mode="promise_in_bounds")

    def over(self, x: Array, copies: Array | None) -> Array:
        """The sum over all rows (H, P, ..), of levels that count ``copies`` (J, L) times."""
        return jnp.sum(x, axis=(0, 1)) if copies is None else jnp.sum(copies * self.collect(x), axis=0)

    def cross_products(self, copies: Array | None) -> Array:
        """X'WX (p, p, ..)."""
        return symmetric(lambda c, d: self.over(self.W * self.X[c] * self.X[d], copies), len(self.X))

    def squares(self, copies: Array | None) -> Squares:
        WX = [self.W * x for x in self.X]
        return least_squares(
            self.cross_products(copies),
            self.y,
            lambda e: jnp.stack([self.over(x * e, copies) for x in WX]),
            lambda e, b: e - sum(x * step for x, step in zip(self.X, b, strict=True)),
        )

    def of_effects(self) -> Array:
        """A (q, q, J, ..)."""
        return symmetric(lambda a, b: self.collect(self.W * self.Z[a] * self.Z[b]), len(self.Z))

    def crossed(self) -> Matrix:
        """Z_j'WX (q, p) of (J, ..) each."""
        return [[self.collect(self.W * z * x) for x in self.X] for z in self.Z]

    def sums(self, e: Array, copies: Array | None) -> Sums:
        We = self.W * e
        ze = [self.collect(z * We) for z in self.Z]
        return Sums(ze, [self.over(x * We, copies) for x in self.X], self.over(e * We, copies))
