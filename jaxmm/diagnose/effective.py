"""The degrees of freedom that a fit's conditional means have used: the trace of ŷ's derivative by y.

In a linear mixed model y - ŷ = Py with P = V⁻¹ - V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹, so that over data sets, their effects included,

    Var(y - ŷ) = σ²P,      E Σ(y - ŷ)² = σ² tr P = σ² (n - edf),      edf = p + Σ_j [q - tr(D⁻¹ Var(b_j - b^_j))]

summed over the levels of every factor (Hodges & Sargent 2001, Biometrika 88, 367-379): each level counts from 0 (all
shrunk) to q (not at all).  Where D is singular, directions without variance count nothing.  In a generalised model the
same holds to first order for Pearson residuals; there, and by maximum likelihood, Var(b_j - b^_j) is that given β, so
that edf is too large, by p at most.

Rows take different parts of it, their leverages h_i, so that Var(y_i - ŷ_i) = V_i (1 - h_i) to first order: with the
working weights W of the rows and the blocks C_j of Var(b_j - b^_j) they are as

    W_i [z_i'C_j z_i + x_i'(X'WX)⁻¹x_i],        scaled to sum to edf

since a count of large mean has much to say of its level.  With one factor they are nearly exact (to 1e-3 of
themselves for sleepstudy); the covariances between crossed factors are left out.  Where errors have a covariance both
are of ŷ's derivative itself, ``inference.influence.leverage``.
"""

from __future__ import annotations

import numpy as np

from jaxmm.design.predictor import MEAN
from jaxmm.fitted import Fitted
from jaxmm.inference.influence.leverage import leverage
from jaxmm.residuals import residuals

NULL = 1e-10  # of the largest variance of a factor: a direction without any


def effective_df(fit: Fitted) -> float:
    """Coefficients and effects of the mean's predictor."""
    if fit.model.design.residual is not None:
        return float(np.sum(leverage(fit)))
    d, scale = fit.model.design, fit.model.likelihood.effects_scale(fit.estimates)
    total = float(len(d.columns))
    for f, factor in enumerate(d.factors):
        if factor.predictor != MEAN:
            continue
        lam = fit.factor_lam(f)
        w, Q = np.linalg.eigh(scale * lam @ lam.T)
        real = w > NULL * max(float(w[-1]), 1e-300)
        unknown = np.einsum("ak,jab,bk->k", Q, fit.effects.prediction[f], Q)[real] / w[real]
        total += float(np.sum(len(factor.levels) - unknown))
    return total


def leverages(fit: Fitted) -> np.ndarray:
    """(n,) of the rows that count, between 0 and 1: each row's part of ``effective_df``."""
    if fit.model.design.residual is not None:
        return np.clip(leverage(fit), 0.0, 1.0)
    d, X = fit.model.design, fit.model.design.X
    W = working_weights(fit)
    with np.errstate(all="ignore"):
        own = np.einsum("ip,pq,iq->i", X, np.linalg.pinv(X.T @ (W[:, None] * X)), X)
    for f, factor in enumerate(d.factors):
        if factor.predictor == MEAN:
            Z = np.hstack([t.Z for t in d.terms if t.factor == f])
            own = own + np.einsum("ia,iab,ib->i", Z, fit.effects.conditional[f][factor.codes], Z)
    h, edf = W * own, effective_df(fit)
    total = float(np.sum(h))
    return np.clip(h * (edf / total) if np.isfinite(total) and total > 0 else np.full(len(h), edf / len(h)), 0.0, 1.0)


def working_weights(fit: Fitted) -> np.ndarray:
    """(n,) (dμ/dη)² over the variance of a row, from its residuals of two kinds; the median where they are zero."""
    kept = fit.model.design.kept
    pearson, working = (residuals(fit, kind).to_numpy()[kept] for kind in ("pearson", "working"))
    scale = fit.scale if fit.family.has_scale and np.isfinite(fit.scale) else 1.0
    with np.errstate(all="ignore"):
        W = (pearson / working) ** 2 / scale
    known = np.isfinite(W)
    return np.where(known, W, np.median(W[known]) if known.any() else 1.0)
