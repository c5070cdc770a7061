"""Dispersions of many responses -> shrunken ones: a normal prior on log φ, learnt from all of them.

Response k has l_k = log φ̂_k with the standard error s_k, and

    l_k | λ_k  ~  N(λ_k, s_k²),      λ_k  ~  N(m_k, τ²)

m_k is a constant, or a natural spline in a covariate (the mean count, as a rule); both are the maximum of the marginal
likelihood, l_k ~ N(m_k, s_k² + τ²), whose derivative by τ² is zero or, at τ = 0, points outwards:

    Σ 1 / v_k = Σ (l_k - m_k)² / v_k²,     v_k = s_k² + τ²

The mode of the posterior is λ̃_k = (τ² l_k + s_k² m_k) / v_k with the standard error τ s_k / √v_k.  The scheme is that
of DESeq2 (Love, Huber & Anders 2014, Genome Biol. 15, 550) with the likelihood of log φ replaced by its quadratic at
the maximum.  That is poor where the data do not tell φ from its limit, no extra variation: there l_k is far away with
an s_k that is farther, and λ̃_k is m_k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from jaxmm import _text
from jaxmm.results.testing import named
from jaxmm.results.trend import covariate, trend_basis

FAR = 10.0  # a standard error of log φ beyond which the data do not tell it at all


@dataclass(frozen=True, eq=False, repr=False)
class ShrunkenDispersions(_text.Printed):
    """``FitBatch.shrink_dispersion``.

    The estimates of the batch stay those with each response's own φ: coefficients and standard errors given the
    shrunken φ would need another fit.

    Attributes:
        batch: the fits.
        dispersion (n,): shrunken φ; NaN where the fit did not converge.
        log_se (n,): the posterior standard deviation of its logarithm.
        centre (n,): exp(m), what φ is drawn to.
        tau: SD of log φ about it, over the responses.
        used: how many responses it was learnt from.

    Example:
        >>> data = mm.datasets.load("sleepstudy").assign(k=lambda d: d["Reaction"] // 50)
        >>> counts = mm.glmm("k ~ Days + (1 | Subject)", data, "nbinom2")  # doctest: +SKIP
        >>> batch = mm.fit_many(counts, counts.simulate(50, key=1), keep="dispersion_se")  # doctest: +SKIP
        >>> batch.shrink_dispersion().to_frame()  # doctest: +SKIP
    """

    batch: Any
    dispersion: np.ndarray
    log_se: np.ndarray
    centre: np.ndarray
    tau: float
    used: int

    def to_frame(self) -> pd.DataFrame:
        """A row per response: its labels, ``dispersion`` as estimated, ``shrunken``, ``centre``, ``log_se``."""
        own = {"dispersion": self.batch.dispersion, "shrunken": self.dispersion}
        return pd.DataFrame({**named(self.batch, None), **own, "centre": self.centre, "log_se": self.log_se})

    def _parts(self) -> list[str | _text.Grid]:
        n = len(self.batch)
        low, middle, high = np.nanquantile(self.dispersion, [0.25, 0.5, 0.75])
        return [
            f"Shrunken dispersions of {n} responses, learnt from {self.used}",
            f"  drawn to {np.nanmedian(self.centre):.4g} (median), SD of log φ {self.tau:.4g}",
            f"  quartiles {low:.4g}, {middle:.4g}, {high:.4g}",
        ]


def shrink(batch: Any, trend: Any) -> ShrunkenDispersions:
    """See ``FitBatch.shrink_dispersion``."""
    if batch.names.linear:
        raise ValueError(
            "shrink_dispersion() is for the φ of generalised models; the variances of linear ones are drawn together "
            "by moderate(), after fit_many(..., keep='df')"
        )
    se = batch.log_dispersion_se
    with np.errstate(divide="ignore", invalid="ignore"):
        log_phi = np.where(batch.converged, np.log(batch.dispersion), np.nan)
    x = covariate(batch, trend)
    used = np.isfinite(log_phi) & (se > 0) & (se < FAR)
    used &= True if x is None else np.isfinite(x)
    if used.sum() < 5:
        raise ValueError(f"the prior is learnt from the other responses: {used.sum()} usable dispersions are too few")
    B, whole = trend_basis(used, x)
    tau, coef = _prior(log_phi[used], se[used], B)
    centre = np.where(np.isfinite(log_phi) & np.all(np.isfinite(whole), axis=1), whole @ coef, np.nan)
    v = se**2 + tau**2
    with np.errstate(invalid="ignore"):
        own = np.where(used, (tau**2 * log_phi + se**2 * centre) / v, centre)
        log_se = np.where(used, tau * se / np.sqrt(v), np.where(np.isfinite(centre), tau, np.nan))
    return ShrunkenDispersions(batch, np.exp(own), log_se, np.exp(centre), tau, int(used.sum()))


def _prior(value: np.ndarray, se: np.ndarray, B: np.ndarray) -> tuple[float, np.ndarray]:
    """τ and the coefficients of m, of greatest marginal likelihood."""

    def mean(tau2: float) -> tuple[np.ndarray, np.ndarray]:
        v = se**2 + tau2
        root = 1 / np.sqrt(v)
        return np.linalg.lstsq(B * root[:, None], value * root, rcond=None)[0], v

    def slope(tau2: float) -> float:
        coef, v = mean(tau2)
        return float(np.sum((value - B @ coef) ** 2 / v**2) - np.sum(1 / v))

    high = float(np.var(value)) + 1e-12
    while slope(high) > 0:
        high *= 2
    tau2: Any = brentq(slope, 0.0, high, xtol=1e-14) if slope(0.0) > 0 else 0.0
    return float(np.sqrt(tau2)), mean(tau2)[0]
