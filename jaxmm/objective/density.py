"""The log density of each row and its derivatives by the predictors and log phi: directly, or expanded at a point.

    log p(y | η_0 .. η_m, log φ)        η_0 of the mean; further parameters have a predictor each, or are constants φ

Only predictors with random effects *move* as modes are sought: score and curvature are by these,

    score_a = w d log p / dη_a,        W_ab = -w d² log p / dη_a dη_b

A gradient of Laplace's approximation needs three derivatives of log p, a Hessian four.  Left to automatic
differentiation, each pass through the model would go through the family's formulas again, and most of a compilation
would be theirs.  Instead all derivatives at the point are computed once, as arrays, by forward mode:

    C[i.., j..]  =  Π d^i/dη^i  Π d^j/d (log φ)^j  log p          (N rows)

and ``term`` looks like log p to whatever differentiates it: its value is C[0, 0], its derivative by eta C[1, 0], and
so on.  Derivatives with respect to anything else (y) are those of the direct form only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations_with_replacement, product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxmm._pieces import apart, hold
from jaxmm._types import Array
from jaxmm.rows import Rows

Etas = tuple[Array, ...]  # of each predictor, (H, P)
Index = tuple[int, ...]  # orders by each eta and by each log phi
Expansion = dict[Index, Array]


class RowTerms(NamedTuple):
    """Per row (H, P): weighted log density, its derivative by each moving eta, and minus the second ones, by the pairs
    of ``pairs_of`` these."""

    log_density: Array
    score: tuple[Array, ...]
    W: tuple[Array, ...]


def pairs_of(count: int) -> list[tuple[int, int]]:
    """(a, b) with a <= b, in order."""
    return list(combinations_with_replacement(range(count), 2))


def safe_level(y: Array, weights: Array, trials: Array, family: Any) -> Array:
    """The link of the mean of y (n, m, ..): an eta where every row has a density."""
    mean = jnp.sum(weights * y, axis=(0, 1)) / jnp.sum(weights * trials, axis=(0, 1))
    return family.link.link(jnp.clip(mean, *family.mean_range))


def log_density(etas: Etas, log_phi: Array, rows: Rows) -> Array:
    """Unweighted, without the constant part.

    Beyond the edge of a link there may be no density: a row without weight has that of a predictor inside, so that
    nothing infinite is multiplied by zero.
    """
    if rows.family.has_edge:
        inside = safe_level(rows.y, rows.weights, rows.trials, rows.family)
        etas = (jnp.where(rows.weights > 0, etas[0], inside), *etas[1:])
    return density_of(rows.family, rows.structure.predictors.names, rows.y, etas, log_phi, rows.trials)


def density_of(family: Any, names: Sequence[str], y: Array, etas: Etas, log_phi: Array, trials: Array) -> Array:
    """The same of a family whose parameters ``names`` have the predictors ``etas``."""
    phi, extras = family.constants(log_phi)
    phi = jnp.exp(etas[names.index("phi")]) if "phi" in names else phi
    further = [eta for name, eta in zip(names, etas, strict=True) if name not in ("mu", "phi")]
    return family.density(y, etas[0], phi, trials, *further, *extras)


def two_derivatives(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array, Array]:
    """f, f' and f'' of an elementwise function."""

    def first(x):
        return jax.jvp(f, (x,), (jnp.ones_like(x),))

    (value, d1), (_, d2) = jax.jvp(first, (x,), (jnp.ones_like(x),))
    return value, d1, d2


def terms(etas: Etas, log_phi: Array, rows: Rows) -> RowTerms:
    """By forward mode through the family."""
    moving = rows.structure.predictors.moving
    if len(moving) == 1:
        at = moving[0]
        value, d1, d2 = two_derivatives(
            lambda e: log_density((*etas[:at], e, *etas[at + 1 :]), log_phi, rows), etas[at]
        )
        return RowTerms(rows.weights * value, (rows.weights * d1,), (-rows.weights * d2,))
    C = expansion(partial(log_density, rows=rows), etas, log_phi, 2, 2, moving)
    return _terms(C.__getitem__, len(etas) + len(log_phi), rows)


def expanded_terms(etas: Etas, log_phi: Array, rows: Rows, C: Expansion) -> RowTerms:
    """The same from an expansion at this very point."""
    return _terms(lambda index: term(index, etas, log_phi, C), len(etas) + len(log_phi), rows)


def _terms(at: Callable[[Index], Array], count: int, rows: Rows) -> RowTerms:
    """From the derivatives of the log density by ``count`` things."""
    moving, w = rows.structure.predictors.moving, rows.weights

    def derivative(*by: int) -> Array:
        return at(tuple(by.count(place) for place in range(count)))

    second = [derivative(moving[a], moving[b]) for a, b in pairs_of(len(moving))]
    return RowTerms(w * derivative(), tuple(w * derivative(a) for a in moving), tuple(-w * x for x in second))


def expand(etas: Etas, log_phi: Array, rows: Rows, order: int, least: int = 2) -> Expansion:
    """All derivatives at the rows of a model; see ``expansion``."""
    etas, log_phi, rows = jax.lax.stop_gradient((etas, log_phi, rows))
    moving = rows.structure.predictors.moving
    return apart(lambda e: expansion(partial(log_density, rows=rows), e, log_phi, order, least, moving), etas)


def expansion(
    density: Callable[[Etas, Array], Array],
    etas: Etas,
    log_phi: Array,
    order: int,
    least: int = 2,
    moving: Sequence[int] = (0,),
) -> Expansion:
    """All derivatives of ``density(etas, log_phi)`` up to ``order`` in total, at most ``order - least`` of them by what
    does not move.

    ``log_phi`` (k, ..) and the etas go along, element by element. ``least`` is how many by the ``moving`` etas the
    criterion itself has: two in W, none at a node of a quadrature.
    """
    still = [place for place in range(len(etas) + len(log_phi)) if place not in moving]

    def start(values: Values) -> Array:
        return density(tuple(values[:-1]), values[-1])

    def by_still(most: int) -> Callable[[Values], dict[Index, Array]]:
        found = [(index, _repeatedly(start, still, index)) for index in _orders(len(still), most)]
        return lambda values: {index: f(values) for index, f in found}

    values, found = (*etas, log_phi), {}
    for moves in _orders(len(moving), order):
        f = _repeatedly(by_still(min(order - least, order - sum(moves))), moving, moves)
        for rests, value in f(values).items():
            index = dict(zip((*moving, *still), (*moves, *rests), strict=True))
            found[tuple(index[place] for place in sorted(index))] = value
    return found


Values = tuple[Array, ...]  # the etas, then log phi


def _repeatedly(f: Callable[[Values], Any], places: Sequence[int], orders: Index) -> Callable[[Values], Any]:
    for place, times in zip(places, orders, strict=True):
        for _ in range(times):
            f = _along(f, place)
    return f


def _along(f: Callable[[Values], Any], place: int) -> Callable[[Values], Any]:
    """The derivative of f by what stands at this place, element by element; each log phi has one after the etas."""

    def derivative(values: Values) -> Any:
        at = min(place, len(values) - 1)
        x = values[at]
        one = jnp.ones_like(x) if place < len(values) - 1 else jnp.zeros_like(x).at[place - at].set(1.0)
        return jax.jvp(lambda x: f((*values[:at], x, *values[at + 1 :])), (x,), (one,))[1]

    return derivative


def _orders(count: int, most: int) -> list[Index]:
    return [index for index in product(range(most + 1), repeat=count) if sum(index) <= most]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def term(index: Index, etas: Etas, log_phi: Array, C: Expansion) -> Array:
    """The derivative of log p of these orders, as a function of the etas and log phi."""
    return C[index]


@partial(term.defjvp, symbolic_zeros=True)
def _(index, primals, tangents):
    etas, log_phi, C = primals
    total = jnp.zeros_like(C[index])
    for place, tangent in enumerate(tangents[0]):
        if not isinstance(tangent, SymbolicZero):
            moved = hold(term(_next(index, place), etas, log_phi, C) * tangent)
            total = moved if place == 0 else total + moved
    if len(log_phi) and not isinstance(tangents[1], SymbolicZero):
        for j in range(len(log_phi)):
            total = total + term(_next(index, len(etas) + j), etas, log_phi, C) * tangents[1][j]
    return term(index, etas, log_phi, C), total


def _next(index: Index, place: int) -> Index:
    return (*index[:place], index[place] + 1, *index[place + 1 :])
