"""The degrees of freedom that a fit's conditional means have used: the trace of ŷ's derivative by y.

In a linear mixed model y - ŷ = Py with P = V⁻¹ - V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹, so that over data sets, their effects included,

    Var(y - ŷ) = σ²P,      E Σ(y - ŷ)² = σ² tr P = σ² (n - edf),      edf = p + Σ_j [q - tr(D⁻¹ Var(b_j - b^_j))]

summed over the levels of every factor (Hodges & Sargent 2001, Biometrika 88, 367-379): each level counts from 0 (all
shrunk) to q (not at all).  Where D is singular, directions without variance count nothing.  In a generalised model the
same holds to first order for Pearson residuals; there, and by maximum likelihood, Var(b_j - b^_j) is that given β, so
that edf is too large, by p at most.
"""

from __future__ import annotations

import numpy as np

from jaxmm.design.predictor import MEAN
from jaxmm.fitted import Fitted

NULL = 1e-10  # of the largest variance of a factor: a direction without any


def effective_df(fit: Fitted) -> float:
    """Coefficients and effects of the mean's predictor."""
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
