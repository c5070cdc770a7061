"""Marginal means as rows of coefficients, and as averages over the random effects.

    at b = 0      η = Σ w (xβ + offset),  a linear function of β: g⁻¹(η) is the mean of a typical level
    averaged      μ = Σ w E[g⁻¹(xβ + offset + zb)],  b ~ N(0, D): the mean of the population of levels (``marginal``)

Under a link that is not the identity these are not alike (Jensen; Zeger, Liang & Albert 1988, Biometrics 44,
1049-1060).  The second is taken as g(μ), so that its intervals stay inside the range, with the covariance of the
delta method over all parameters, β and those of D.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxmm.design import NewData
from jaxmm.design.predictor import MEAN
from jaxmm.fitted import Fitted
from jaxmm.inference import marginal
from jaxmm.inference.ddf import Reference
from jaxmm.means.functions import TOLERANCE, Functions
from jaxmm.means.grid import Grid


def linear(fit: Fitted, grid: Grid, keep: Sequence[str], weights: np.ndarray, reference: Reference) -> Functions:
    """Σ w (xβ + offset) of each of the k cells, ``weights`` (k, r)."""
    spec = fit.model.design.spec
    used = weights > 0
    L = np.einsum("kr,krp->kp", np.where(used, weights, 0.0), _where(used, grid.spread(grid.X, keep)))
    offset = np.sum(np.where(used, weights * grid.spread(grid.offset, keep), 0.0), axis=1)
    rows = np.zeros((len(L), len(reference.beta)))
    rows[:, : len(spec.kept_columns)] = L[:, spec.kept_columns]
    value = np.where(np.isnan(weights).any(axis=1), np.nan, rows @ reference.beta + offset)
    size = np.max(np.abs(L), axis=1, initial=0.0)
    return Functions(value, rows @ reference.vcov @ rows.T, rows, spec.excess(L), size, reference)


def averaged(fit: Fitted, grid: Grid, keep: Sequence[str], weights: np.ndarray, reference: Reference) -> Functions:
    """g of Σ w E[g⁻¹(xβ + offset + zb)] of each of the k cells; degrees of freedom are those of the rows Σ w x."""
    d, spec = fit.model.design, fit.model.design.spec
    at_zero = linear(fit, grid, keep, weights, reference)
    m, order = len(grid.X), grid.spread(np.arange(len(grid.X)), keep).ravel()
    Z = tuple(
        matrix.rows(grid.frame, m, spec.memory)[order]
        if d.factors[term.factor].predictor == MEAN
        else np.zeros((m, len(term.effects)))
        for term, matrix in zip(d.terms, spec.bars, strict=True)
    )
    further = tuple((np.zeros((m, len(p.columns))), np.zeros(m)) for p in d.further)
    used = (weights > 0).ravel()[:, None]
    X, Z = np.where(used, grid.X[order], 0.0), tuple(np.where(used, z, 0.0) for z in Z)
    rows = NewData(X[:, spec.kept_columns], Z, (), grid.offset[order], np.arange(m), {}, further)  # pyright: ignore
    value, V = marginal.averages(fit, rows, np.where(weights > 0, weights, 0.0))
    excess = np.max(np.abs(spec.excess(X)), axis=1, initial=0.0).reshape(weights.shape)
    size = np.max(np.abs(X), where=np.isfinite(X), initial=0.0)
    told = np.all((excess <= TOLERANCE * size) | ~(weights > 0), axis=1)
    value = np.where(told & np.isfinite(at_zero.value), value, np.nan)
    return Functions(value, V, at_zero.rows, np.zeros((len(value), 0)), at_zero.size, reference)


def _where(used: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Zero in rows that have no weight: what cannot be evaluated there does no harm."""
    return X if used.all() else np.where(used[:, :, None], X, 0.0)
