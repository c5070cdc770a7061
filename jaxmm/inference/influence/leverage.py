"""Leverage: how much of its own fitted value each row makes, given the variances.

With the working weights W (the precisions of a linear model) and H the hat matrix of (β̂, b̂) together, the fitted values
ŷ = Hy of the working response,

    h_i = w_i x̃_i' (Ṽ)⁻¹ x̃_i,    x̃_i the row of [Z X],   Ṽ = [Z X]'W[Z X] + (D⁻¹, 0),
        = ∂/∂c_i (log|M| + log|X'V⁻¹X|),    W = diag(c_i w_i), at c = 1

as log|M| + log|X'V⁻¹X| is log|Ṽ| but for what W does not change: one backward pass, whatever the factors.  The sum of h
is the effective number of parameters of the fitted values, between p and p + Q.

The marginal leverage is that of X alone, the diagonal of X(X'V⁻¹X)⁻¹X'V⁻¹ (Nobre & Singer 2011, J. Appl. Stat. 38,
1063-1072); its sum is p.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.errors import check_alike
from jaxmm.estimate import explained
from jaxmm.fitted import Fitted
from jaxmm.gram import Gram
from jaxmm.objective.laplace import at_mode, scaled_point
from jaxmm.objective.lmm import eliminate
from jaxmm.objective.parameters import scaled_factors
from jaxmm.pure import gram_from_rows
from jaxmm.rows import Rows


def leverage(fit: Fitted) -> np.ndarray:
    """h (n,) of the rows that count; NaN where several predictors have effects or columns."""
    check_alike(fit.model, "leverage")
    model, e = fit.model, fit.estimates
    arrays: Any = model.arrays
    ones = np.ones(len(model.design.y))
    with computing(model.device):
        if not isinstance(arrays, Rows):
            return np.asarray(_linear(e.theta_scaled, arrays, model.rows, ones))
        if model.design.further:
            return np.nan * ones
        return np.asarray(_generalised(e.psi, arrays, e.u, ones))


def marginal_leverage(fit: Fitted) -> np.ndarray:
    """The diagonal of X(X'V⁻¹X)⁻¹X'V⁻¹ (n,) of a linear model: V⁻¹X = W(X − Z NB)."""
    check_alike(fit.model, "leverage")
    model, e, d = fit.model, fit.estimates, fit.model.design
    arrays: Any = model.arrays
    with computing(model.device):
        NB = [np.asarray(x) for x in explained(e.theta_scaled, arrays)]
    X, T = model.accumulator.X.rows(slice(0, len(d.y))), np.asarray(arrays.T_X)
    left = X.copy()
    for f, x in zip(model.elimination.order, NB, strict=True):
        Z = np.hstack([t.Z for t in d.terms if t.factor == f])
        left -= np.einsum("nq,nqp->np", Z, x[d.factors[f].codes][:, :, :-1])
    left = left if d.weights is None else left * d.weights[:, None]
    M = np.linalg.solve(T, np.linalg.solve(T, np.asarray(e.vcov)).T) / fit.scale
    return np.einsum("np,pk,nk->n", X, M, left)


def _log_determinant(lams: tuple[Array, ...], gram: Gram) -> Array:
    at = eliminate(lams, replace(gram, structure=replace(gram.structure, reml=True)))
    return at.logdet + at.logdet_X


@Program
def _linear(theta: Array, gram: Gram, rows: Rows, ones: Array) -> Array:
    lams = scaled_factors(theta, gram)
    return jax.grad(lambda c: _log_determinant(lams, gram_from_rows(gram, rows, counts=c)))(ones)


@Program
def _generalised(psi: Array, rows: Rows, u: tuple[Array, ...], ones: Array) -> Array:
    point = scaled_point(psi, rows)
    (W,) = jax.lax.stop_gradient(at_mode(point, rows, u, 2).terms.W)

    def value(c: Array) -> Array:
        weights = W * c[rows.source]
        columns = jnp.concatenate([rows.X, jnp.zeros_like(rows.y)[None]])
        couplings = rows.structure.solver.of_rows(rows, (weights,), columns)
        return _log_determinant(point.lams, replace(rows.gram((weights,)), couplings=couplings))

    return jax.grad(value)(ones)
