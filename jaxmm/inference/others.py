"""Intervals of rows given the other rows of their subject, in a model without random effects: of visits that are
missing.

    confidence   of the mean x'β + k'(y_o - X_oβ):  ± q √(a'Φa),  which is linear in β̂
    prediction   of the response:                   ± q √v,       v = σ²(a'Ma + R_ii - k'R_oi),  M = (X'R^-1X)^-1

with the letters of ``given``; q is a quantile of t, of a prediction with Satterthwaite's degrees of freedom of the
whole variance v, 2 v² / g'Wg, with W the covariance of (θ, log σ²) and g the slopes of v by these, by differences.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm.design import NewData
from jaxmm.errors import row_errors
from jaxmm.estimate_glmm import covariance_matrix
from jaxmm.fitted import Fitted
from jaxmm.given import Given, given_others
from jaxmm.inference import wald
from jaxmm.inference.interval import Of

STEP = 1e-4  # of the differences, in standard errors and at most in units of the parameters


def values_given_others(of: Of, rows: NewData, weights: np.ndarray | None) -> np.ndarray:
    """(m, 4) means, their intervals, degrees of freedom.

    Raises:
        NotImplementedError: "variances" among what is uncertain.
    """
    fit = of.fit
    if "variances" in of.uncertain:
        raise NotImplementedError(
            "uncertain: given the other rows of a subject an interval counts 'fixed' and 'residual'; variances count "
            "in the degrees of freedom alone"
        )
    at = given_others(fit, rows, weights=weights)
    center = rows.X @ np.asarray(fit.estimates.beta) + rows.offset + at.shift
    if of.interval.kind == "confidence":
        se, df = np.sqrt(wald.variances(at.A, of.reference.vcov)), of.reference.df(at.A)
    else:
        se = np.sqrt(_variance(fit, at, fit.theta, "fixed" in of.uncertain) * fit.scale)
        df = np.full(len(se), np.inf)
        if of.ddf == "satterthwaite":
            df = _degrees(fit, rows, weights, "fixed" in of.uncertain)
    df = np.where(se == 0, np.inf, df)
    return np.column_stack([center, *wald.interval(center, se, of.interval.level, df), df])


def _variance(fit: Fitted, at: Given, theta: Any, uncertain: bool) -> np.ndarray:
    """v over σ² (m,); ``uncertain``: whether β̂ is."""
    if not uncertain:
        return at.left
    d = fit.model.design
    M = np.linalg.inv(d.X.T @ row_errors(fit.model, theta, d.residual, d.weights, len(d.y)).solved(d.X))
    return at.left + wald.variances(at.A, M)


def _degrees(fit: Fitted, rows: NewData, weights: np.ndarray | None, uncertain: bool) -> np.ndarray:
    theta = np.asarray(fit.theta, float)
    W = covariance_matrix(fit._curvature.hessian, 0)

    def variance(t: np.ndarray) -> np.ndarray:
        return _variance(fit, given_others(fit, rows, t, weights), t, uncertain)

    v, steps = variance(theta), np.minimum(np.sqrt(np.maximum(np.diag(W)[: len(theta)], 0.0)), 1.0) * STEP
    steps = np.where(np.isfinite(steps) & (steps > 0), steps, STEP)
    slopes = [(variance(theta + h) - variance(theta - h)) / (2 * h.sum()) for h in np.diag(steps)]
    if fit.model.structure.profiles_sigma:
        slopes.append(v)  # by log σ²
    g = np.array(slopes).reshape(len(W), len(v))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * v**2 / np.einsum("km,kl,lm->m", g, W, g)
