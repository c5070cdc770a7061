"""The power at several sizes -> the smallest size that reaches a target, with an interval.

The estimate of a coefficient has, in a balanced design of N subjects (or items, repeats), a variance A + B / N: of its
parts B shrinks with N, A does not.  Of a test with k degrees of freedom and critical value c the power is then

    π(N) = P(χ²_k(λ) > c),    1/λ = u = A + B / N    in units of the squared effect,

a smooth rising curve with two parameters.  They maximise the binomial likelihood of the rejections at all sizes.  The
sizes have random numbers in common, so that their rejections are not independent: with s_r the score of replicate r,
summed over sizes, and I the information, the covariance of (A, B) is I⁻¹ (Σ s_r s_r') I⁻¹ (Liang & Zeger 1986,
Biometrika 73, working independence).  The size sought solves π(N) = target; the delta method gives the interval of its
logarithm.

Where the curve does not fit the rates (Pearson's X², of S - 2 degrees of freedom, beyond its 99.9 % quantile; so with
designs that are not balanced in the same way at each size), the sizes tried bracket the one sought instead.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc, chdtri, chndtr

from jaxmm.inference.wald import quantile
from jaxmm.studies.montecarlo import exact_interval

STEPS = 100
CLIP = 1e-9
MISFIT = 1e-3


class SizeCurve(NamedTuple):
    """``coefficients`` (A, B) and their covariance (2, 2); ``df`` and ``alpha`` of the test."""

    coefficients: np.ndarray
    covariance: np.ndarray
    df: int
    alpha: float

    def power(self, sizes: np.ndarray) -> np.ndarray:
        """π at the sizes; NaN where A + B / N is not positive (an extrapolation too far)."""
        u = self.coefficients[0] + self.coefficients[1] / np.asarray(sizes, float)
        return np.where(u > 0, power_at(np.where(u > 0, u, 1.0), self.df, self.alpha)[0], np.nan)


class Size(NamedTuple):
    """The smallest whole ``size`` that reaches the target and its interval, by the "curve", or by the "sizes tried"
    where it does not fit; a ``note`` where there is none (NaN)."""

    size: float
    lower: float
    upper: float
    by: str
    note: str

    @staticmethod
    def none(note: str) -> Size:
        return Size(np.nan, np.nan, np.nan, "", note)


def power_at(u: np.ndarray, df: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """π and dπ/du; dF/dλ = (F_{k+2} - F_k) / 2 for the noncentral χ² distribution function F_k."""
    c, lam = chdtri(df, alpha), 1 / u
    below, further = chndtr(c, df, lam), chndtr(c, df + 2, lam)
    return np.clip(1 - below, CLIP, 1 - CLIP), -(below - further) / 2 * lam**2


@cache
def inverse_power(df: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """π rising and the u that gives it, to interpolate in."""
    u = np.geomspace(1e4, 1e-4, 20001)
    return power_at(u, df, alpha)[0], u


def fit_curve(sizes: np.ndarray, rejected: np.ndarray, df: int, alpha: float) -> SizeCurve | None:
    """The curve through ``rejected`` (n, S), 1 or 0, NaN where a fit gave no p-value; None where no curve that rises
    with the size fits."""
    sizes = np.asarray(sizes, float)
    counts, rates = counted(rejected)
    if len(np.unique(sizes)) < 2 or np.ptp(rates) == 0:
        return None
    typical = np.exp(np.mean(np.log(sizes)))
    x = np.column_stack([np.ones(len(sizes)), typical / sizes])  # so that A and B are of one size
    w, covariance, condition = maximised(x, rejected, df, alpha, _start(x, rates, counts, df, alpha))
    if not w[1] > 0 or condition > 1e12:
        return None
    units = np.array([1.0, typical])
    return SizeCurve(w * units, covariance * np.outer(units, units), df, alpha)


def counted(rejected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many p-values each size has (S,), and the share of rejections."""
    known = np.isfinite(rejected)
    return known.sum(axis=0), np.nanmean(np.where(known, rejected, np.nan), axis=0)


def maximised(
    x: np.ndarray, rejected: np.ndarray, df: int, alpha: float, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Where the likelihood of u = x w, x (S, t), is largest: w (t,), its covariance, and the condition of the
    information."""
    counts, rates = counted(rejected)

    def likelihood(w: np.ndarray) -> float:
        u = x @ w
        if np.any(u <= 0):
            return -np.inf
        p = power_at(u, df, alpha)[0]
        return float(np.sum(counts * (rates * np.log(p) + (1 - rates) * np.log1p(-p))))

    w, value = start, likelihood(start)
    information = np.eye(len(w))
    for _ in range(STEPS):
        p, slope = power_at(x @ w, df, alpha)
        information = (x * (counts * slope**2 / (p * (1 - p)))[:, None]).T @ x
        gradient = x.T @ (counts * (rates - p) * slope / (p * (1 - p)))
        step = np.linalg.lstsq(information, gradient, rcond=None)[0]
        halves = next((h for h in range(40) if likelihood(w + step * 0.5**h) >= value), None)
        if halves is None:
            break
        w = w + step * 0.5**halves
        gained, value = likelihood(w) - value, likelihood(w)
        if gained < 1e-10 and halves == 0:
            break
    p, slope = power_at(x @ w, df, alpha)
    scores = (np.where(np.isfinite(rejected), rejected - p, 0.0) * slope / (p * (1 - p))) @ x
    bread = np.linalg.pinv(information, rcond=1e-13, hermitian=True)
    return w, bread @ (scores.T @ scores) @ bread, float(np.linalg.cond(information))


def _start(x: np.ndarray, rates: np.ndarray, counts: np.ndarray, df: int, alpha: float) -> np.ndarray:
    """A = 0 and the B of the size whose power says most: the one nearest to a half."""
    u = np.interp(rates, *inverse_power(df, alpha))
    return np.array([0.0, (u / x[:, 1])[np.argmin(np.abs(rates - 0.5) / counts)]])


def smallest_size(sizes: np.ndarray, rejected: np.ndarray, df: int, alpha: float, target: float, level: float) -> Size:
    """See the top of the module. No size is named outside the range of those tried."""
    sizes = np.asarray(sizes, float)
    rates = np.nanmean(rejected, axis=0)
    nowhere = Size.none(f"{target:g} is not reached by {sizes.max():g}")
    everywhere = Size.none(f"{target:g} is reached at {sizes.min():g} already")
    curve = fit_curve(sizes, rejected, df, alpha)
    if curve is None:
        same = nowhere if np.all(rates < target) else everywhere if np.all(rates >= target) else None
        return same or Size.none("the power does not rise with the size")
    if not _fits(curve, sizes, rates, np.isfinite(rejected).sum(axis=0)):
        return _bracket(sizes, rejected, target, level) or nowhere
    wanted = float(np.interp(target, *inverse_power(df, alpha)))  # u
    B, gap = curve.coefficients[1], wanted - curve.coefficients[0]
    exact = B / gap if gap > 0 else np.inf
    if exact > sizes.max():
        return nowhere
    if exact < sizes.min():
        return everywhere
    direction = np.array([1 / gap, 1 / B])  # d log N / d (A, B)
    half = quantile(level) * np.sqrt(direction @ curve.covariance @ direction)
    lower, upper = exact * np.exp(-half), exact * np.exp(half)
    return Size(*(float(np.ceil(v - 1e-9)) for v in (exact, lower, upper)), by="curve", note="")


def _fits(curve: SizeCurve, sizes: np.ndarray, rates: np.ndarray, counts: np.ndarray) -> bool:
    if len(sizes) < 3:
        return True
    p = curve.power(sizes)
    return bool(chdtrc(len(sizes) - 2, np.sum(counts * (rates - p) ** 2 / (p * (1 - p)))) > MISFIT)


def _bracket(sizes: np.ndarray, rejected: np.ndarray, target: float, level: float) -> Size | None:
    """The smallest size tried from which on the rates reach the target; its limits are the largest size whose exact
    interval lies below the target, and the smallest from which on it lies above. None where none reaches it."""
    order = np.argsort(sizes)
    sizes, columns = sizes[order], [x[np.isfinite(x)] for x in rejected.T[order]]
    limits = np.array([exact_interval(int(x.sum()), len(x), level) for x in columns])
    reached = np.flatnonzero(np.cumprod([x.mean() >= target for x in columns[::-1]])[::-1])
    if not len(reached):
        return None
    below = sizes[limits[:, 1] < target]
    above = np.flatnonzero(np.cumprod((limits[:, 0] > target)[::-1])[::-1])
    lower = float(below.max()) if len(below) else float(sizes[0])
    upper = float(sizes[above[0]]) if len(above) else np.inf
    return Size(float(sizes[reached[0]]), lower, upper, "sizes tried", "")
