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
from jaxmm._types import Array
from jaxmm.lanes.entrywise import Matrix, cells_of_factor, dot, invert, lower_pairs, times, transpose, unpacked
from jaxmm.layout import Layout
from jaxmm.objective.density import RowTerms, two_derivatives
from jaxmm.objective.mode import SLACK, TOLERANCE, Newton, clipped, pull_inside, safe_level, search
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
    the table, and ``offset`` and ``trials`` (J, H, L) in the place of the table's, or None."""

    y: Array
    constant: Array
    copies: Array | None
    weights: Array | None = None
    offset: Array | None = None
    trials: Array | None = None

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
    one, r = np.ones_like(w)[None], np.concatenate([X, Z])
    zz, xx = (np.array([side[a] * side[b] for a, b in lower_pairs(len(side))]).reshape(-1, *w.shape) for side in (Z, X))

    def product(left: np.ndarray, right: np.ndarray = one) -> np.ndarray:
        return w * (left[:, None] * right).reshape(-1, *w.shape)

    by_level = (product(one), product(Z), product(zz), product(Z, r), product(zz, r))
    by_level = (np.ascontiguousarray(np.swapaxes(columns, 0, 1)) for columns in by_level)
    products = Products(*by_level, product(X), product(xx))  # pyright: ignore
    cells = cells_of_factor(rows)
    return RowTable(X, Z, offset, trials, products, rows.structure, rows.layout, rows.family, cells)  # pyright: ignore


# ---------------------------------------------------------------- the modes
def sums(columns: Array, values: Array) -> Array:
    """Over the rows of each level: (J, F, H), (J, H, L) -> (J, F, L)."""
    return jnp.einsum("jfh,jhl->jfl", columns, values, precision="highest")


def factor(theta: Array, s: Structure) -> Matrix:
    """λ entry by entry, (L,)."""
    lam = factors(theta, s, (None,) * len(s.terms))[0]
    return [list(row) for row in lam]


def linear_predictor(beta: Array, u: Array, lam: Matrix, own: Own, t: RowTable) -> Array:
    """(J, H, L)."""
    q = len(lam)
    eta = t.offset[..., None] if own.offset is None else own.offset
    for k in range(len(beta)):
        eta = eta + t.X[k][..., None] * beta[k]
    return eta + sum(t.Z[a][..., None] * dot(lam[a], [u[:, c] for c in range(q)])[:, None] for a in range(q))


def log_density(eta: Array, log_phi: Array, own: Own, t: RowTable) -> Array:
    """Of each row (J, H, L), unweighted, without the constant part."""
    phi, extras = t.family.constants(log_phi)
    return t.family.density(own.y, eta, phi, trials(own, t), *extras)


def trials(own: Own, t: RowTable) -> Array:
    """(J, H, L), or (J, H, 1) where the lanes share them."""
    return t.trials[..., None] if own.trials is None else own.trials


def root(A: Matrix, lam: Matrix) -> tuple[Array, Matrix]:
    """|S| and S^-1."""
    S = times(transpose(lam), times(A, lam))
    return invert([[S[a][b] + (1.0 if a == b else 0.0) for b in range(len(S))] for a in range(len(S))])


def find_modes(psi: Array, own: Own, start: Array, t: RowTable) -> Array:
    """û (J, q, L) of every level and lane from ``start``; a level in a lane is a part."""
    q = len(t.Z)
    beta, theta, log_phi = t.layout.split(psi)
    lam = factor(theta, t.structure)
    weights = own.weigh(jnp.swapaxes(t.products.one, 1, 2))
    has_edge = t.family.has_edge
    level = safe_level(own.y, weights, trials(own, t), t.family) if has_edge else None

    def evaluate(u: Array) -> tuple[Array, tuple[Array, RowTerms]]:
        eta = linear_predictor(beta, u, lam, own, t)
        log_p, d1, d2 = map(own.weigh, two_derivatives(lambda e: log_density(e, log_phi, own, t), eta))
        h = jnp.sum(u * u, axis=1) - 2 * sums(t.products.one, log_p)[:, 0]
        return h, (eta, RowTerms(log_p, (d1,), (-d2,)))

    def step(u: Array, at: tuple[Array, RowTerms], seeking: Array | None, clip: Array) -> tuple[Array, Array]:
        (eta, now), prior = at, u
        if level is not None and seeking is not None:
            now, prior = pull_inside(now, eta, level, seeking[:, None]), jnp.where(seeking[:, None], 0.0, u)
        (W,), (score,) = clipped(now.W, clip[:, None], 1), now.score
        _, inverse = root(unpacked(jnp.moveaxis(sums(t.products.zz, W), 1, 0), q), lam)
        pull = sums(t.products.z, score)
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
