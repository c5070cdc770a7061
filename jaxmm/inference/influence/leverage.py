"""Leverage: how much of its own fitted value each row makes, given the variances.

With the working weights W (the precisions of a linear model) and H the hat matrix of (β̂, b̂) together, the fitted values
ŷ = Hy of the working response,

    h_i = w_i x̃_i' (Ṽ)⁻¹ x̃_i,    x̃_i the row of [Z X],   Ṽ = [Z X]'W[Z X] + (D⁻¹, 0),
        = ∂/∂c_i (log|M| + log|X'V⁻¹X|),    W = diag(c_i w_i), at c = 1

as log|M| + log|X'V⁻¹X| is log|Ṽ| but for what W does not change: one backward pass, whatever the factors.  The sum of h
is the effective number of parameters of the fitted values, between p and p + Q.

Where errors have a covariance R, H = I - RP with P = V⁻¹ - V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹, which is the derivative of
log|V| + log|X'V⁻¹X| by R: h_i = ∂ŷ_i/∂y_i = 1 - Σ_j R_ij P_ij over the rows j of the subject, again of one pass.

The marginal leverage is that of X alone, the diagonal of X(X'V⁻¹X)⁻¹X'V⁻¹ (Nobre & Singer 2011, J. Appl. Stat. 38,
1063-1072); its sum is p.  Without random effects both are the same.
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
from jaxmm.errors import row_errors
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
    model, e = fit.model, fit.estimates
    if model.design.residual is not None:
        return _of_errors(fit) if model.design.factors else marginal_leverage(fit)
    arrays: Any = model.arrays
    ones = np.ones(len(model.design.y))
    with computing(model.device):
        if not isinstance(arrays, Rows):
            return np.asarray(_linear(e.theta_scaled, arrays, model.rows, ones))
        if model.design.further:
            return np.nan * ones
        return np.asarray(_generalised(e.psi, arrays, e.u, ones))


def marginal_leverage(fit: Fitted) -> np.ndarray:
    """The diagonal of X(X'V⁻¹X)⁻¹X'V⁻¹ (n,) of a linear model: V⁻¹X = R⁻¹(X − Z NB)."""
    model, e, d = fit.model, fit.estimates, fit.model.design
    arrays: Any = model.arrays
    with computing(model.device):
        NB = [np.asarray(x) for x in explained(e.theta_scaled, arrays)]
    X, T = model.accumulator.X.rows(slice(0, len(d.y))), np.asarray(arrays.T_X)
    left = X.copy()
    for f, x in zip(model.elimination.order, NB, strict=True):
        Z = np.hstack([t.Z for t in d.terms if t.factor == f])
        left -= np.einsum("nq,nqp->np", Z, x[d.factors[f].codes][:, :, :-1])
    left = row_errors(model, fit.theta, d.residual, d.weights, len(d.y)).solved(left)
    M = np.linalg.solve(T, np.linalg.solve(T, np.asarray(e.vcov)).T) / fit.scale
    return np.einsum("np,pk,nk->n", X, M, left)


def _of_errors(fit: Fitted) -> np.ndarray:
    """h of a model with random effects and a covariance of the errors."""
    model, theta = fit.model, fit.estimates.theta_scaled
    gram: Any = model.arrays
    with computing(model.device):
        own = np.asarray(_by_subject(theta, gram)).ravel()
    out, real = np.empty(len(model.design.y)), np.asarray(gram.residual.rows.weights).ravel() > 0
    out[np.asarray(gram.residual.rows.source).ravel()[real]] = own[real]
    return out


def _log_determinant(lams: tuple[Array, ...], gram: Gram) -> Array:
    at = eliminate(lams, replace(gram, structure=replace(gram.structure, reml=True)))
    return at.logdet + at.logdet_X


@Program
def _linear(theta: Array, gram: Gram, rows: Rows, ones: Array) -> Array:
    lams = scaled_factors(theta, gram)
    return jax.grad(lambda c: _log_determinant(lams, gram_from_rows(gram, rows, counts=c)))(ones)


@Program
def _by_subject(theta: Array, gram: Gram) -> Array:
    """h in the slots of each subject (H, P)."""
    lams, own = scaled_factors(theta, gram), gram.residual
    R = own.covariances(theta[gram.structure.num_random :])

    def value(R: Array) -> Array:
        alike = own.whitened(0.5 * (R + jnp.swapaxes(R, 0, 1)) if R.ndim == 3 else R, gram)
        return _log_determinant(lams, alike) - alike.sum_log_weights

    P = jax.grad(value)(R)
    return 1 - (jnp.sum(R * P, axis=1) if R.ndim == 3 else R * P)


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
