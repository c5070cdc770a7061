"""The log density of each row and its derivatives by eta and log phi: directly, or as an expansion at a point.

A gradient of Laplace's approximation needs three derivatives of log p, a Hessian four.  Left to automatic
differentiation, each pass through the model would go through the family's formulas again, and most of a compilation
would be theirs.  Instead all derivatives at the point are computed once, as arrays, by forward mode:

    C[i, j]  =  d^i/d eta^i  d^j/d (log phi)^j  log p          (N rows)

and ``term`` looks like log p to whatever differentiates it: its value is C[0, 0], its derivative by eta C[1, 0], and
so on.  Derivatives with respect to anything else (y) are those of the direct form only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxmm._pieces import apart, hold
from jaxmm._types import Array
from jaxmm.rows import Rows

Index = tuple[int, ...]  # orders by eta and by each log phi
Expansion = dict[Index, Array]


class Terms(NamedTuple):
    """Per row (H, P): weighted log density, its first derivative by eta, and minus its second."""

    log_density: Array
    score: Array
    W: Array


def as_phi(log_phi: Array) -> Array:
    """log phi (k,) -> phi as a family takes it: a number for k = 1, 1 for k = 0, else (k,)."""
    if log_phi.shape[0] == 0:
        return jnp.ones((), log_phi.dtype)
    phi = jnp.exp(log_phi)
    return phi[0] if log_phi.shape[0] == 1 else phi


def log_density(eta: Array, log_phi: Array, rows: Rows) -> Array:
    """Unweighted, without the constant part."""
    return rows.family.density(rows.y, eta, as_phi(log_phi), rows.trials)


def two_derivatives(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array, Array]:
    """f, f' and f'' of an elementwise function."""

    def first(x):
        return jax.jvp(f, (x,), (jnp.ones_like(x),))

    (value, d1), (_, d2) = jax.jvp(first, (x,), (jnp.ones_like(x),))
    return value, d1, d2


def terms(eta: Array, log_phi: Array, rows: Rows) -> Terms:
    """By forward mode through the family."""
    value, d1, d2 = two_derivatives(lambda e: log_density(e, log_phi, rows), eta)
    return Terms(rows.weights * value, rows.weights * d1, -rows.weights * d2)


def expanded_terms(eta: Array, log_phi: Array, rows: Rows, C: Expansion) -> Terms:
    """The same from an expansion at this very point."""
    zero = (0,) * len(log_phi)
    value, d1, d2 = (term((i, *zero), eta, log_phi, C) for i in range(3))
    return Terms(rows.weights * value, rows.weights * d1, -rows.weights * d2)


def expand(eta: Array, log_phi: Array, rows: Rows, order: int, least: int = 2) -> Expansion:
    """All derivatives at the rows of a model; see ``expansion``."""
    eta, log_phi, rows = jax.lax.stop_gradient((eta, log_phi, rows))
    return apart(lambda e: expansion(partial(log_density, rows=rows), e, log_phi, order, least), eta)


def expansion(
    density: Callable[[Array, Array], Array], eta: Array, log_phi: Array, order: int, least: int = 2
) -> Expansion:
    """All derivatives of ``density(eta, log_phi)`` up to ``order`` in total, at most ``order - least`` by log phi.

    ``log_phi`` (k, ..) and eta go along, element by element. ``least`` is how many by eta the criterion itself has: two
    in W, none at a node of a quadrature.
    """
    k = len(log_phi)

    def by_phi(e: Array, most: int) -> dict[Index, Array]:
        def nested(index: Index):
            f = partial(density, e)
            for j, times in enumerate(index):
                for _ in range(times):
                    f = partial(_along, f, jnp.zeros_like(log_phi).at[j].set(1.0))
            return f(log_phi)

        return {index: nested(index) for index in _indices(k, most)}

    found: Expansion = {}
    for i in range(order + 1):
        f: Any = partial(by_phi, most=min(order - least, order - i))
        for _ in range(i):
            f = partial(_along, f, jnp.ones_like(eta))
        found |= {(i, *index): value for index, value in f(eta).items()}
    return found


def _along(f: Any, direction: Array, x: Array) -> Any:
    return jax.jvp(f, (x,), (direction,))[1]


def _indices(k: int, order: int) -> list[Index]:
    if k == 0:
        return [()]
    return [(j, *rest) for j in range(order + 1) for rest in _indices(k - 1, order - j)]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def term(index: Index, eta: Array, log_phi: Array, C: Expansion) -> Array:
    """The derivative of log p of these orders, as a function of eta and log phi."""
    return C[index]


@partial(term.defjvp, symbolic_zeros=True)
def _(index, primals, tangents):
    eta, log_phi, C = primals
    total = jnp.zeros_like(C[index])
    if not isinstance(tangents[0], SymbolicZero):
        total = hold(term(_next(index, 0), eta, log_phi, C) * tangents[0])
    if len(log_phi) and not isinstance(tangents[1], SymbolicZero):
        for j in range(len(log_phi)):
            total = total + term(_next(index, j + 1), eta, log_phi, C) * tangents[1][j]
    return term(index, eta, log_phi, C), total


def _next(index: Index, place: int) -> Index:
    return (*index[:place], index[place] + 1, *index[place + 1 :])
