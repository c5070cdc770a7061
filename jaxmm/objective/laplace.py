"""-2 log-likelihood of a generalised linear mixed model by Laplace's approximation.

    -2l = -2 Σ w log p(y | û) + û'û + log|M(û)|,        M = Λ'Z'WZΛ + I,   W = -w d²log p/dη²  (observed)

û the conditional mode (``mode``), all constants of log p included; the (2π)^Q/2 of the prior and of the approximation
cancel.  theta is absolute here, not relative to phi.  (Tierney & Kadane 1986; with the observed curvature as in
Kristensen et al. 2016, where Bates et al. take the expected one.)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.layout import Parameters
from jaxmm.objective.density import Expansion, RowTerms, expand
from jaxmm.objective.mode import (
    Known,
    Point,
    attach,
    effects,
    find_mode,
    fixed_part,
    linear_predictors,
    terms_at,
    zero_effects,
)
from jaxmm.objective.parameters import original_factors, scaled_factors
from jaxmm.rows import Rows
from jaxmm.solver import Factorised, factorise


def scaled_point(psi: Array, rows: Rows) -> Point:
    """psi = (beta_s, theta_s, log phi) -> the point, as to X_s and Z_s."""
    beta, theta, log_phi = rows.layout.split(psi)
    return Point(beta, scaled_factors(theta, rows), log_phi)


class AtMode(NamedTuple):
    """The model at its conditional mode, differentiable in the point and in the rows."""

    u: tuple[Array, ...]
    terms: RowTerms
    gram: Gram
    done: Factorised


def at_mode(point: Point, rows: Rows, found: tuple[Array, ...], order: int | None = None) -> AtMode:
    """Everything at û, given its value ``found``.

    With ``order``, derivatives by the point up to ``order - 2`` come from an expansion of the log density
    (``density``); without, any derivative, also by y, through the family's formulas.
    """
    p, r, u = jax.lax.stop_gradient((point, rows, found))
    etas = linear_predictors(fixed_part(p, r), effects(p.lams, u), r)
    expansion = None if order is None else expand(etas, p.log_phi, r, order)
    before = _evaluate(p, r, u, expansion, None)
    u = attach(before.u, point, rows, Known(before.done, before.gram, expansion))
    return _evaluate(point, rows, u, expansion, before.done.roots)


def _evaluate(point: Point, rows: Rows, u: tuple[Array, ...], expansion: Expansion | None, roots) -> AtMode:
    etas = linear_predictors(fixed_part(point, rows), effects(point.lams, u), rows)
    terms = terms_at(etas, point, rows, expansion)
    gram = rows.gram(terms.W)
    return AtMode(u, terms, gram, factorise(point.lams, gram, roots))


def laplace(point: Point, rows: Rows, found: tuple[Array, ...], order: int | None = None) -> Array:
    """-2 log-likelihood at ``point``, where the mode is ``found``; ``order`` as in ``at_mode``."""
    a = at_mode(point, rows, found, order)
    if rows.copies is None:
        size, density = sum(jnp.sum(u * u) for u in a.u), jnp.sum(a.terms.log_density)
    else:
        size = sum(jnp.sum(c * u * u) for c, u in zip(rows.copies, a.u, strict=True))
        density = jnp.sum(rows.copies[0] * rows.main.collect(a.terms.log_density))
    return size - 2 * (density + rows.log_constant) + a.done.logdet


def original_point(parameters: Parameters, rows: Rows) -> Point:
    """The point of parameters in the data's columns."""
    s, dtype = rows.structure, rows.y.dtype
    beta = jnp.asarray(parameters.beta, dtype)
    lams = original_factors(jnp.asarray(parameters.theta, dtype), rows)
    log_phi = jnp.atleast_1d(jnp.asarray(parameters.log_phi, dtype))
    return Point(jnp.linalg.solve(rows.T_X, beta) if s.p else beta, lams, log_phi)


def neg2_loglik(parameters: Parameters, rows: Rows) -> Array:
    """-2 log-likelihood by Laplace at any parameters, in the data's columns; differentiable in all its arguments."""
    point = original_point(parameters, rows)
    return laplace(point, rows, find_mode(point, rows, zero_effects(rows)).u)
