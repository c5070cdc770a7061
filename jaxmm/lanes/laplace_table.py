"""A generalised model with one grouping factor as a table of rows, and the conditional modes of all lanes at once.

The rows stand in a table (J, H, L) of J levels, H rows each, and L lanes, so that every operation is one long vector;
sums over the rows of a level are products of a matrix that the lanes share with numbers of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._pieces import sum_pieces
from jaxmm._types import Array
from jaxmm.lanes.entrywise import Matrix, cells_of_factor, dot, invert, lower_pairs, times, transpose, unpacked
from jaxmm.layout import Layout
from jaxmm.objective.density import RowTerms, safe_level, two_derivatives
from jaxmm.objective.mode import SLACK, TOLERANCE, Newton, clipped, pull_inside, search
from jaxmm.objective.parameters import factors
from jaxmm.rows import Rows
from jaxmm.structure import Structure


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Products:
    """Products of the columns of the rows, times their weights.  For sums over the rows of a level (J, columns, H):
    ``one``, ``z``, ``zz``, ``zr`` with r = (x, z), and ``zzr``; over all rows (columns, J, H): ``x`` and ``xx``.  Of
    ``zz`` and ``xx`` each pair stands there once, in the order of ``lower_pairs``."""

    one: Array
    z: Array
    zz: Array
    zr: Array
    zzr: Array
    x: Array
    xx: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["X", "Z", "offset", "trials", "products"],
    meta_fields=["structure", "layout", "family", "cells"],
)
@dataclass(frozen=True)
class RowTable:
    """What all lanes share of the rows: ``X`` (p, J, H), ``Z`` (q, J, H) in the scaled columns, the others (J, H); rows
    of weight zero fill the shorter levels.  ``cells``: the entry (row, column) of λ that each element of theta is."""

    X: Array
    Z: Array
    offset: Array
    trials: Array
    products: Products
    structure: Structure
    layout: Layout
    family: Any
    cells: tuple[tuple[int, int], ...]


class Own(NamedTuple):
    """What a lane has of its own: ``y`` (J, H, L), ``constant`` (L,) the part of the log density without parameters,
    ``copies`` (J, L) how often each level counts, or None; ``weights`` (J, H, L), relative to those in the products of
    the table; in the place of the table's, ``offset`` and ``trials`` (J, H, L), ``X`` (p, J, H, L) and ``Z``
    (q, J, H, L), with the changes ``T_X`` (p, p, L) and ``T`` ((q, q, L),) that made them; each may be None."""

    y: Array
    constant: Array
    copies: Array | None
    weights: Array | None = None
    offset: Array | None = None
    trials: Array | None = None
    X: Array | None = None
    Z: Array | None = None
    T_X: Array | None = None
    T: tuple[Array, ...] | None = None

    def weigh(self, x: Array) -> Array:
        """Numbers of the rows (J, H, L) as often as each row counts; what a row without weight has is not looked at."""
        return x if self.weights is None else jnp.where(self.weights > 0, self.weights * x, 0.0)


class Kept(NamedTuple):
    """At the last point that was accepted: ``psi`` (k, L), the modes ``u`` (J, q, L) and their derivatives ``slope``
    (J, q, k, L)."""

    psi: Array
    u: Array
    slope: Array


# ---------------------------------------------------------------- on the host
def can_have_table(rows: Rows) -> bool:
    """Whether the closed form applies: one factor and one predictor, levels of about one size, few effects, each entry
    of λ free."""
    s = rows.structure
    one = s.num_factors == 1 and len(s.predictors.names) == 1
    if not one or rows.main.level is not None or s.chain[0] > costs.TABLE_EFFECTS:
        return False
    q, r = s.chain[0], s.p + s.chain[0]
    columns = (q + len(lower_pairs(q))) * (r + 1) + s.p + len(lower_pairs(s.p))
    return columns * rows.weights.size <= costs.TABLE_PRODUCTS and cells_of_factor(rows) is not None


def make_table(rows: Rows) -> RowTable:
    """From the rows of a model, on the host."""
    X, Z = (np.swapaxes(np.asarray(a), 1, 2) for a in (rows.X, rows.Z[0]))
    w, offset, trials = (np.broadcast_to(a, rows.weights.shape).T for a in (rows.weights, rows.offset, rows.trials))

    def product(name: str) -> np.ndarray:
        rows = [w * (left * right) for left, rights in monomials(name, X, Z) for right in rights]
        return np.array(rows).reshape(-1, *w.shape)

    by_level = (np.ascontiguousarray(np.swapaxes(product(name), 0, 1)) for name in ("one", "z", "zz", "zr", "zzr"))
    products = Products(*by_level, product("x"), product("xx"))  # pyright: ignore
    cells = cells_of_factor(rows)
    return RowTable(X, Z, offset, trials, products, rows.structure, rows.layout, rows.family, cells)  # pyright: ignore


def monomials(name: str, X: Any, Z: Any) -> list[tuple[Any, list[Any]]]:
    """The products of columns that ``Products`` has by this name, in its order, each left one with its right ones."""
    r = [*X, *Z]
    return {
        "one": lambda: [(1.0, [1.0])],
        "z": lambda: [(1.0, list(Z))],
        "zz": lambda: [(z, list(Z[: a + 1])) for a, z in enumerate(Z)],
        "zr": lambda: [(z, r) for z in Z],
        "zzr": lambda: [(Z[a] * Z[b], r) for a, b in lower_pairs(len(Z))],
        "x": lambda: [(1.0, list(X))],
        "xx": lambda: [(x, list(X[: a + 1])) for a, x in enumerate(X)],
    }[name]()


# ---------------------------------------------------------------- sums over rows
class Sums(NamedTuple):
    """Weighted sums over rows of numbers (J, H, L) times products of columns: of those that the lanes share by products
    of matrices, of others as they are."""

    own: Own
    table: RowTable

    @property
    def X(self) -> Array:
        """(p, J, H, L), or (p, J, H, 1) where the lanes share it."""
        return self.table.X[..., None] if self.own.X is None else self.own.X

    @property
    def Z(self) -> Array:
        return self.table.Z[..., None] if self.own.Z is None else self.own.Z

    def by_level(self, name: str, values: Array) -> Array:
        """The ``Products`` of this name over the rows of each level: (J, H, L) -> (J, F, L)."""
        if self._shared(name):
            columns = getattr(self.table.products, name)
            return jnp.einsum("jfh,jhl->jfl", columns, values, precision="highest")
        return jnp.moveaxis(self._each(name, values), 0, 1)

    def total(self, name: str, values: Array, copies: Array | None) -> Array:
        """Over all rows: (J, H, L) -> (F, L)."""
        values = values if copies is None else values * copies[:, None]
        if self._shared(name):
            columns = getattr(self.table.products, name)
            return jnp.einsum("fjh,jhl->fl", columns, values, precision="highest")
        return jnp.sum(self._each(name, values), axis=1)

    def _shared(self, name: str) -> bool:
        return (self.own.X is None or not set(name) & {"x", "r"}) and (self.own.Z is None or not set(name) & {"z", "r"})

    def _each(self, name: str, values: Array) -> Array:
        """(F, J, L)."""
        values = jnp.swapaxes(self.table.products.one, 1, 2) * values
        found = [
            sum_pieces(jnp.stack([right * (left * values) for right in rights]))
            for left, rights in monomials(name, self.X, self.Z)
            if rights
        ]
        return jnp.concatenate(found) if found else jnp.zeros((0, len(values), values.shape[-1]), values.dtype)


# ---------------------------------------------------------------- the modes


def factor(theta: Array, s: Structure) -> Matrix:
    """λ entry by entry, (L,)."""
    lam = factors(theta, s, (None,) * len(s.terms))[0]
    return [list(row) for row in lam]


def linear_predictor(beta: Array, u: Array, lam: Matrix, own: Own, t: RowTable) -> Array:
    """(J, H, L)."""
    q, s = len(lam), Sums(own, t)
    eta = t.offset[..., None] if own.offset is None else own.offset
    for k in range(len(beta)):
        eta = eta + s.X[k] * beta[k]
    return eta + sum(s.Z[a] * dot(lam[a], [u[:, c] for c in range(q)])[:, None] for a in range(q))


def log_density(eta: Array, log_phi: Array, own: Own, t: RowTable) -> Array:
    """Of each row (J, H, L), unweighted, without what no eta moves."""
    phi, extras = t.family.constants(log_phi)
    return t.family.density_of_eta(own.y, eta, phi, trials(own, t), *extras)


def log_of_phi(log_phi: Array, own: Own, t: RowTable) -> Array:
    """What no eta moves of the log density of each row (J, H, L), unweighted, without the constant part."""
    phi, extras = t.family.constants(log_phi)
    return t.family.density_of_phi(own.y, phi, trials(own, t), *extras)


def trials(own: Own, t: RowTable) -> Array:
    """(J, H, L), or (J, H, 1) where the lanes share them."""
    return t.trials[..., None] if own.trials is None else own.trials


def root(A: Matrix, lam: Matrix) -> tuple[Array, Matrix]:
    """|S| and S^-1."""
    S = times(transpose(lam), times(A, lam))
    return invert([[S[a][b] + (1.0 if a == b else 0.0) for b in range(len(S))] for a in range(len(S))])


def find_modes(psi: Array, own: Own, start: Array, t: RowTable) -> Array:
    """û (J, q, L) of every level and lane from ``start``; a level in a lane is a part."""
    q, over = len(t.Z), Sums(own, t)
    beta, theta, log_phi = t.layout.split(psi)
    lam = factor(theta, t.structure)
    weights = own.weigh(jnp.swapaxes(t.products.one, 1, 2))
    has_edge = t.family.has_edge
    level = safe_level(own.y, weights, trials(own, t), t.family) if has_edge else None

    def evaluate(u: Array) -> tuple[Array, tuple[Array, RowTerms]]:
        eta = linear_predictor(beta, u, lam, own, t)
        log_p, d1, d2 = map(own.weigh, two_derivatives(lambda e: log_density(e, log_phi, own, t), eta))
        h = jnp.sum(u * u, axis=1) - 2 * over.by_level("one", log_p)[:, 0]
        return h, (eta, RowTerms(log_p, (d1,), (-d2,)))

    def step(u: Array, at: tuple[Array, RowTerms], seeking: Array | None, clip: Array) -> tuple[Array, Array]:
        (eta, now), prior = at, u
        if level is not None and seeking is not None:
            now, prior = pull_inside(now, eta, level, seeking[:, None]), jnp.where(seeking[:, None], 0.0, u)
        (W,), (score,) = clipped(now.W, clip[:, None], 1), now.score
        _, inverse = root(unpacked(jnp.moveaxis(over.by_level("zz", W), 1, 0), q), lam)
        pull = over.by_level("z", score)
        right = [dot([lam[a][c] for a in range(q)], [pull[:, a] for a in range(q)]) - prior[:, c] for c in range(q)]
        full = [dot(row, right) for row in inverse]
        return jnp.stack(full, axis=1), dot(right, full)

    def where(chosen: Array, a: Array, b: Array) -> Array:
        return jnp.where(chosen[:, None], a, b)

    infinite = jnp.full_like(start[:, 0], jnp.inf)
    return search(Newton(evaluate, step, where), start, infinite, has_edge, TOLERANCE, SLACK).u


def modes_from_zero(psi: Array, own: Own, t: RowTable) -> Kept:
    """The modes at psi (k, L), of which is not known how they move."""
    J, _, L = own.y.shape
    zero = jnp.zeros((J, len(t.Z), L), psi.dtype)
    return Kept(psi, find_modes(psi, own, zero, t), jnp.zeros((*zero.shape[:2], *psi.shape), psi.dtype))
