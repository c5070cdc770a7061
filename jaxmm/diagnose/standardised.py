"""Residuals and modes over their own standard deviations.

    rows      r_i = √w_i (y_i - ŷ_i) / σ          about N(0, 1) of a linear model, less what the fit has taken
    levels    b̂_j ~ N(0, D - C_j),   C_j = Var(b_j - b̂_j):    z_j = b̂_j / √diag,    d_j = b̂_j'(D - C_j)⁻¹b̂_j ~ χ²

Levels with more rows have modes that vary more: without C_j a Q-Q plot of modes compares unlike things.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import chdtrc

NULL = 1e-8  # of the largest variance: a direction in which the modes do not vary


class Modes(NamedTuple):
    """Of a factor: ``z`` levels × effects, NaN where an effect has no variance; ``distance`` (J,) with ``p`` (J,), of
    ``df`` (J,) directions."""

    z: pd.DataFrame
    distance: pd.Series
    p: pd.Series
    df: np.ndarray


def rows(fit: Any) -> pd.Series:
    """Of the rows that count, by their labels; Pearson's over σ."""
    r = fit.residuals("pearson") / fit.sigma
    return r[fit.model.design.kept].rename("standardised residual")


def modes(fit: Any, group: str) -> Modes:
    """See above; ``group`` names a factor of the fit."""
    d = fit.model.design
    f = [factor.name for factor in d.factors].index(group)
    b, table = fit.modes[f], fit.ranef()[group]
    lam = fit.factor_lam(f)
    D = fit.model.likelihood.effects_scale(fit.estimates) * lam @ lam.T
    V = D - fit.effects.prediction[f]
    variances = np.einsum("jkk->jk", V)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.where(variances > NULL * np.max(np.diag(D), initial=0.0), b / np.sqrt(variances), np.nan)
    w, Q = np.linalg.eigh(V)
    real = w > NULL * np.maximum(w[:, -1:], 1e-300)
    turned = np.einsum("jak,ja->jk", Q, b)
    distance = np.sum(np.where(real, turned**2 / np.where(real, w, 1.0), 0.0), axis=1)
    df = real.sum(axis=1)
    p = np.where(df > 0, chdtrc(np.maximum(df, 1), distance), np.nan)
    labels = table.index
    return Modes(
        pd.DataFrame(z, labels, table.columns),
        pd.Series(distance, labels, name="distance"),
        pd.Series(p, labels, name="p"),
        df,
    )
