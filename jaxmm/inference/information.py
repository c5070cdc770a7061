"""The covariance of the estimated variances, from the curvature of the likelihood, and the delta method.

    x = (theta_s, log φ)        as the search has them; φ is σ² in a linear model
    Var(x) = 2 H⁻¹              H of -2 log-likelihood by x, β profiled (ML) or integrated out (REML)
    Var f(x) = f' Var(x) f

D is a smooth function of theta, also where theta is rotation-invariant: H has flat directions then, along which no D
moves.  They are left out; what does move along one, the data do not tell, and its error is NaN.  So it is at a point
that is no minimum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxmm.optimize import FLAT

MOVES = 1e-3  # the share of a gradient along flat directions from which it is not rounding


class Information(NamedTuple):
    """``covariance`` (k, k) of the parameters, and an orthonormal basis (k, j) of what is flat, in units ``scale`` (k,)
    of each."""

    covariance: np.ndarray
    flat: np.ndarray
    scale: np.ndarray


def information(hessian: Any) -> Information:
    """From the Hessian (k, k) of -2 log-likelihood at its minimum; NaN where that is none."""
    H = np.asarray(hessian, float)
    k = len(H)
    nothing = Information(np.full((k, k), np.nan), np.zeros((k, 0)), np.ones(k))
    if not np.all(np.isfinite(H)) or not k:
        return nothing
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(H)), 1e-300))  # so that no parameter counts by its units
    w, Q = np.linalg.eigh(H * np.outer(scale, scale))
    known = w > FLAT * w[-1]
    if w[0] < -np.sqrt(FLAT) * abs(w[-1]):
        return nothing
    root = scale[:, None] * Q[:, known] * np.sqrt(2 / w[known])
    return Information(root @ root.T, Q[:, ~known], scale)


def standard_errors(slopes: np.ndarray, found: Information) -> np.ndarray:
    """(r,) of r functions with the derivatives ``slopes`` (r, k) by the parameters."""
    variance = np.einsum("rk,kl,rl->r", slopes, found.covariance, slopes)
    units = slopes * found.scale
    astray = np.linalg.norm(units @ found.flat, axis=1) > MOVES * np.linalg.norm(units, axis=1)
    return np.where(astray, np.nan, np.sqrt(np.maximum(variance, 0.0)))
