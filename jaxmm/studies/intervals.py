"""Replicates of an estimate -> confidence intervals.

With t the estimate, t* its n replicates, b = mean t* - t, s their standard deviation (divisor n - 1), q(p) their
p-quantile and z_p that of the normal distribution, the intervals of level 1 - 2α are

    percentile   q(α), q(1 - α)
    basic        2t - q(1 - α), 2t - q(α)
    normal       t - b + z_α s, t - b + z_{1-α} s
    bca          q(Φ(w_α)), q(Φ(w_{1-α})),    w_p = z0 + (z0 + z_p)/(1 - a(z0 + z_p))

                 z0 = Φ^-1(the share of t* below t; a tie counts half)                 the bias of the median
                 a  = Σd³/(6(Σd²)^1.5),  d = mean of the jackknife values - each       the acceleration

(Efron 1987, JASA 82; Davison & Hinkley 1997, ch. 5).  q(p) is the (n + 1)p-th smallest replicate, with linear
interpolation where that is no whole number, because each of the n + 1 gaps between replicates is as likely to hold the
next one; n = 999 or 1,999 makes it whole at the usual levels.  Percentile and BCa intervals follow a monotone
transformation of the parameter; the other two do not, and may leave its range.

Arrays are (n, k) for k parameters; NaN is a replicate that a parameter does not have.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

TIE = 1e-10  # of estimate and spread: apart by rounding only, as correlations of one are


def quantiles(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(k, l): quantiles of each column of ``values`` (n, k) at its own ``levels`` (k, l); NaN where there is none."""
    out = np.full(np.shape(levels), np.nan)
    for j, (x, p) in enumerate(zip(values.T, levels, strict=True)):
        x = x[~np.isnan(x)]
        known = ~np.isnan(p)
        if len(x) and known.any():
            out[j, known] = np.quantile(x, p[known], method="weibull")
    return out


def mean_and_sd(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) each, over the replicates that there are; NaN for a standard deviation of fewer than two."""
    mean, sd = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    for j, x in enumerate(values.T):
        x = x[~np.isnan(x)]
        mean[j] = x.mean() if len(x) else np.nan
        sd[j] = x.std(ddof=1) if len(x) > 1 else np.nan
    return mean, sd


def tails(level: float) -> np.ndarray:
    """(2,) α and 1 - α."""
    return np.array([0.5 - level / 2, 0.5 + level / 2])


# ---------------------------------------------------------------- the intervals, (k, 2) each
def percentile(values: np.ndarray, level: float) -> np.ndarray:
    """The quantiles of the replicates (n, k)."""
    return quantiles(values, np.broadcast_to(tails(level), (values.shape[1], 2)))


def basic(estimate: np.ndarray, values: np.ndarray, level: float) -> np.ndarray:
    """The percentile interval reflected about ``estimate`` (k,)."""
    return 2 * estimate[:, None] - percentile(values, level)[:, ::-1]


def normal(estimate: np.ndarray, values: np.ndarray, level: float) -> np.ndarray:
    """``estimate`` (k,) corrected for its bias, and the standard deviation of the replicates (n, k)."""
    mean, sd = mean_and_sd(values)
    return (2 * estimate - mean)[:, None] + sd[:, None] * ndtri(tails(level))


def bca(estimate: np.ndarray, values: np.ndarray, acceleration: np.ndarray, level: float) -> np.ndarray:
    """Bias-corrected and accelerated; NaN where all replicates (n, k) lie on one side of ``estimate`` (k,)."""
    return quantiles(values, bca_levels(median_bias(estimate, values), acceleration, level))


def median_bias(estimate: np.ndarray, values: np.ndarray) -> np.ndarray:
    """z0 (k,): infinite where all replicates lie on one side, NaN where there are none."""
    out = np.full(len(estimate), np.nan)
    for j, (t, x) in enumerate(zip(estimate, values.T, strict=True)):
        x = x[~np.isnan(x)]
        if len(x) and not np.isnan(t):
            tie = np.abs(x - t) <= TIE * (abs(t) + np.std(x))
            out[j] = ndtri(np.mean(np.where(tie, 0.5, x < t)))
    return out


def acceleration(jackknife: np.ndarray) -> np.ndarray:
    """a (k,) from the estimates (J, k) without each of the J groups; 0 where they do not differ."""
    mean, _ = mean_and_sd(jackknife)
    d = mean - jackknife
    square, cube = np.nansum(d**2, axis=0), np.nansum(d**3, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.sqrt(square) > TIE * np.abs(mean), cube / (6 * square**1.5), 0.0)


def bca_levels(z0: np.ndarray, a: np.ndarray, level: float) -> np.ndarray:
    """(k, 2): the levels of the quantiles.  NaN where z0 is not finite, or a so large that they are not in order."""
    shifted = z0[:, None] + ndtri(tails(level))
    with np.errstate(invalid="ignore", divide="ignore"):
        room = 1 - a[:, None] * shifted
        levels = ndtr(z0[:, None] + shifted / room)
    usable = np.isfinite(z0) & np.all(room > 0, axis=1)
    return np.where(usable[:, None], levels, np.nan)
