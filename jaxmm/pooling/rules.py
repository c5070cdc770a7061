"""Rubin's rules: estimates of m imputations of one data set, with their covariances -> one estimate, and tests.

With Q_l (p,) and U_l (p, p) of imputation l, Q̄ and Ū their means, and B the covariance of the Q_l (divisor m - 1),

    T = Ū + (1 + 1/m) B          r = (1 + 1/m) B / Ū          λ = (1 + 1/m) B / T

of a coefficient by itself, r the relative increase in variance and λ the share of T that is due to what is missing
(Rubin 1987, Multiple Imputation for Nonresponse in Surveys, §3.3).  With ν the degrees of freedom of complete data t
has ν̃ of them (Barnard & Rubin 1999, Biometrika 86, 948-955), and γ is the fraction of missing information,

    1/ν̃ = λ²/(m - 1) + (ν + 3) / ((ν + 1) ν (1 - λ))          γ = (r + 2/(ν̃ + 3)) / (1 + r)

Of k coefficients at once an F with k and w degrees of freedom:

    D1   r = (1 + 1/m) tr(B Ū⁻¹)/k           F = Q̄'Ū⁻¹Q̄ / (k (1 + r))
    D2   r = (1 + 1/m) var(√d_l)             F = (d̄/k - r (m + 1)/(m - 1)) / (1 + r)
    D3   r = (d̄ - d̃) (m + 1)/(k (m - 1))     F = d̃ / (k (1 + r))

(Li, Raghunathan & Rubin 1991, JASA 86; Li, Meng, Raghunathan & Rubin 1991, Stat. Sinica 1; Meng & Rubin 1992,
Biometrika 79).  d_l is imputation l's own Wald or likelihood-ratio statistic, and d̃ the mean of the latter with both
models at their pooled parameters.  w of D1 and D3 is ``denominator``'s; of D1 with ν < ∞ Reiter's (2007, Biometrika 94,
502-508).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxmm.inference import wald


class Scalars(NamedTuple):
    """Of each coefficient (p,): the letters of the module's head, variances for covariances."""

    estimate: np.ndarray
    within: np.ndarray
    between: np.ndarray
    total: np.ndarray
    df: np.ndarray
    riv: np.ndarray
    lam: np.ndarray
    fmi: np.ndarray

    @property
    def se(self) -> np.ndarray:
        return np.sqrt(self.total)


class Joint(NamedTuple):
    """F with its degrees of freedom, p, and the relative increase in variance r."""

    F: float
    num_df: int
    den_df: float
    p: float
    riv: float


def scalars(Q: np.ndarray, U: np.ndarray, dfcom: float) -> Scalars:
    """Of estimates (m, p) with variances (m, p)."""
    m = len(Q)
    within, between = np.mean(U, axis=0), np.var(Q, axis=0, ddof=1)
    added = (1 + 1 / m) * between
    total = within + added
    with np.errstate(divide="ignore", invalid="ignore"):
        riv, lam = added / within, added / total
        df = barnard_rubin(m, lam, dfcom)
        fmi = np.where(np.isinf(riv), 1.0, (riv + 2 / (df + 3)) / (riv + 1))
    return Scalars(np.mean(Q, axis=0), within, between, total, df, riv, lam, fmi)


def barnard_rubin(m: int, lam: np.ndarray, dfcom: float) -> np.ndarray:
    """ν̃; without anything missing (λ = 0) it is (ν + 1) ν / (ν + 3), and ∞ where ν is."""
    with np.errstate(divide="ignore"):
        complete = 0.0 if np.isinf(dfcom) else (dfcom + 3) / ((dfcom + 1) * dfcom * (1 - lam))
        return 1 / (lam**2 / (m - 1) + complete)


def covariances(Q: np.ndarray, U: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ū, B and T (p, p) of estimates (m, p) with covariances (m, p, p)."""
    within = np.mean(U, axis=0)
    apart = Q - np.mean(Q, axis=0)
    between = apart.T @ apart / (len(Q) - 1)
    return within, between, within + (1 + 1 / len(Q)) * between


def d1(Q: np.ndarray, U: np.ndarray, value: np.ndarray, dfcom: float) -> Joint:
    """Of estimates (m, k) with covariances (m, k, k), all equal to ``value`` (k,) under the hypothesis."""
    m, k = Q.shape
    within, between, _ = covariances(Q, U)
    r = (1 + 1 / m) * float(np.trace(np.linalg.solve(within, between))) / k
    chisq = float(wald.together(np.eye(k), np.mean(Q, axis=0), within, value).statistic)
    t = k * (m - 1)
    w = reiter(t, r, dfcom) if has_small_sample(t, dfcom) else denominator(t, k, r)
    return joint(chisq / (k * (1 + r)), k, w, r)


def d2(statistics: np.ndarray, k: int) -> Joint:
    """Of the imputations' own χ² (m,) with k degrees of freedom."""
    m = len(statistics)
    r = (1 + 1 / m) * float(np.var(np.sqrt(statistics), ddof=1))
    F = (float(np.mean(statistics)) / k - (m + 1) / (m - 1) * r) / (1 + r)
    w = k ** (-3 / m) * (m - 1) * (1 + 1 / r) ** 2 if r > 0 else np.inf
    return joint(F, k, w, r)


def d3(own: np.ndarray, pooled: np.ndarray, k: int) -> Joint:
    """Of the likelihood-ratio statistics (m,) at the imputations' own estimates and at the pooled ones; an r below zero
    is taken for zero, and the result has it as it is."""
    m = len(own)
    estimated = (m + 1) / (k * (m - 1)) * float(np.mean(own) - np.mean(pooled))
    r = max(estimated, 0.0)
    found = joint(float(np.mean(pooled)) / (k * (1 + r)), k, denominator(k * (m - 1), k, r), r)
    return found._replace(riv=estimated)


def joint(F: float, k: int, w: float, r: float) -> Joint:
    """The test of F; one below zero, as D2 may give, says nothing against the hypothesis."""
    return Joint(float(F), k, float(w), float(wald.ratio(k * max(F, 0.0), k, w)), float(r))


def denominator(t: float, k: int, r: float) -> float:
    """w of D1 and D3 for large data sets, t = k (m - 1) (Li, Raghunathan & Rubin 1991, eqs. 1.17 and 1.18)."""
    if r <= 0:
        return np.inf
    return 4 + (t - 4) * (1 + (1 - 2 / t) / r) ** 2 if t > 4 else t * (1 + 1 / k) * (1 + 1 / r) ** 2 / 2


def has_small_sample(t: float, dfcom: float) -> bool:
    """Whether Reiter's w exists: t = k (m - 1) > 4, and ν is finite."""
    return t > 4 and bool(np.isfinite(dfcom))


# With a = r t / (t - 2), ν* = ν (ν + 1) / (ν + 3), c = ν* - 4 (1 + a) and e = ν* - 2 (1 + a),
#
#     1 / (w - 4) = 1/c + [a² e / ((1 + a)² c) + 8 a² e / ((1 + a) c²) + 4 a² / ((1 + a) c)
#                          + 4 a² / (c e) + 16 a² e / c³ + 8 a² / c²] / (t - 4)
def reiter(t: float, r: float, dfcom: float) -> float:
    """w of D1 with ν degrees of freedom of complete data (Reiter 2007); NaN where ν is too small for it, c <= 0."""
    a = r * t / (t - 2)
    c, e = ((dfcom + 1) / (dfcom + 3) * dfcom - s * (1 + a) for s in (4, 2))
    if c <= 0:
        return np.nan
    first = a**2 * e / ((1 + a) ** 2 * c) + 8 * a**2 * e / ((1 + a) * c**2) + 4 * a**2 / ((1 + a) * c)
    second = 4 * a**2 / (c * e) + 16 * a**2 * e / c**3 + 8 * a**2 / c**2
    return 4 + 1 / (1 / c + (first + second) / (t - 4))
