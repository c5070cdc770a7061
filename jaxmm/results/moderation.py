"""Variances of many responses, each known with few degrees of freedom -> moderated ones: empirical Bayes.

Response k has an estimate s_k² with ν_k degrees of freedom of a variance σ_k² of its own, and

    s_k² | σ_k²  ~  σ_k² χ²(ν_k) / ν_k,           1 / σ_k²  ~  χ²(d0) / (d0 s0²)

so that the posterior of 1/σ_k² has the mean 1/s̃_k²,

    s̃_k² = (d0 s0² + ν_k s_k²) / (d0 + ν_k),      t̃_k = β̂_k / s̃_k   with d0 + ν_k degrees of freedom

(Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1), 3).  With e_k = log s_k² - ψ(ν_k/2) + log(ν_k/2), whose mean is
log s0² - ψ(d0/2) + log(d0/2),

    ψ'(d0/2) = Σ (e_k - ē)² / (n - 1) - mean ψ'(ν_k/2)

and d0 = ∞, s̃_k² = s0², where that is not positive.  With a trend ē is a natural spline in a covariate (Law et al. 2014,
Genome Biol. 15, R29, take the mean response), and s0² a number for each response.

*Of a mixed model s_k² is the squared standard error of a coefficient, and ν_k its Satterthwaite degrees of freedom*:
that s_k² is about a multiple of χ²(ν_k) is what these mean.  Of one coefficient of one design the squared errors of the
responses differ as their variances do.  Where a coefficient is estimated within levels its squared error is σ² times a
constant of the design, and this is the moderation of σ², with n less the ranks of X and Z degrees of freedom.  Where it
is estimated between few levels, σ² says nothing of its error, however well it is known, and is not what is moderated.

*Singular fits.*  Where the variance between levels is estimated as zero, Satterthwaite's ν_k is that of a model without
it, about n: right if it is zero, far too many if it is not, and with few levels one response in ten may look so.  The
prior is learnt with ν_k as it is, which fits the errors of such responses, being those of σ² alone; their own error
then counts with the degrees of freedom that the coefficient has in the responses that are not singular, the median, if
these are fewer.  Without this p is too small in the tails: 6 levels, a variance between of half of σ², 13 % singular,
gave 3.6 times as many p below 0.001 as there should be, and 0.9 times with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from scipy.special import digamma, polygamma

from jaxmm import _text
from jaxmm.results import exports, testing
from jaxmm.results.trend import covariate, trend_basis

Annotated = TypeVar("Annotated")  # an AnnData, given and returned
FLOOR = 1e-5  # of the median: variances below it are raised to it, since a logarithm is taken
LEAST_DF = 1e-6


class Prior(NamedTuple):
    """``d0`` degrees of freedom, may be infinite; ``s02`` (n,), the same for all without a trend."""

    d0: float
    s02: np.ndarray


def prior(s2: np.ndarray, df: np.ndarray, trend: np.ndarray | None = None) -> Prior:
    """From variances (n,) and their degrees of freedom; those that are not finite, or have none, are not used.

    Args:
        trend: (n,) a covariate on which log s0² depends.

    Raises:
        ValueError: fewer than three variances to learn from, or a covariate that is constant.
    """
    used = np.isfinite(s2) & (s2 >= 0) & (df > LEAST_DF) & np.isfinite(df)
    used &= True if trend is None else np.isfinite(trend)
    if used.sum() < 3:
        raise ValueError(f"moderation learns from the other responses: {used.sum()} usable variances are too few")
    x, half = np.maximum(s2[used], FLOOR * np.median(s2[used])), df[used] / 2
    if not np.all(x > 0):
        raise ValueError("more than half of the variances are zero: there is nothing to moderate")
    e = np.log(x) - digamma(half) + np.log(half)
    B, whole = trend_basis(used, trend)
    coef, _, rank, _ = np.linalg.lstsq(B, e, rcond=None)
    left = e - B @ coef
    extra = left @ left / (len(e) - rank) - np.mean(polygamma(1, half))
    mean = np.where(np.all(np.isfinite(whole), axis=1), whole @ coef, np.nan)
    if extra <= 0:
        return Prior(np.inf, np.exp(mean) if trend is not None else np.full(len(s2), np.mean(x)))
    d0 = 2 * inverse_trigamma(extra)
    return Prior(d0, np.exp(mean + digamma(d0 / 2) - np.log(d0 / 2)))


def inverse_trigamma(y: float) -> float:
    """x with ψ'(x) = y > 0: Newton's method on 1/ψ', which is convex and nearly linear (Smyth 2004, appendix)."""
    x = 0.5 + 1 / y
    for _ in range(50):
        value = polygamma(1, x)
        step = value * (1 - value / y) / polygamma(2, x)
        x += step
        if abs(step) < 1e-14 * x:
            break
    return float(x)


def squeezed(s2: np.ndarray, df: np.ndarray, given: Prior) -> tuple[np.ndarray, np.ndarray]:
    """s̃² (n,) and its degrees of freedom, at most those of all variances together; NaN where s² is."""
    total = np.nansum(np.where(np.isfinite(s2) & np.isfinite(df), df, 0.0))
    known = np.isfinite(s2) & (df > LEAST_DF)
    with np.errstate(invalid="ignore"):
        s2_post = given.s02 if np.isinf(given.d0) else (given.d0 * given.s02 + df * s2) / (given.d0 + df)
    return np.where(known, s2_post, np.nan), np.where(known, np.minimum(df + given.d0, total), np.nan)


@dataclass(frozen=True, eq=False, repr=False)
class Moderated(_text.Printed):
    """Fits whose squared standard errors are moderated: ``FitBatch.moderate``.

    Attributes:
        batch: the fits.
        d0 (p,): degrees of freedom that the other responses are worth, for each coefficient; may be infinite.
        s02 (n, p): what squared standard errors are drawn to; the same for all responses without a trend.
        bse (n, p): moderated standard errors.
        df (n, p): degrees of freedom of t.
        used: how many responses they were learnt from.

    Example:
        >>> batch = mm.fit_many(fit, fit.simulate(20, key=1), keep="df", progress=False)
        >>> list(batch.moderate().test_table("Days").columns[2:6])
        ['estimate', 'se', 'df', 't']
    """

    batch: Any
    d0: np.ndarray
    s02: np.ndarray
    bse: np.ndarray
    df: np.ndarray
    used: int

    def __len__(self) -> int:
        return len(self.batch)

    def test_table(
        self,
        coef: str | Sequence[str] | None = None,
        adjust: str | None = "fdr_bh",
        labels: Sequence[Any] | None = None,
        *,
        level: float | None = None,
        backend: str = "pandas",
    ) -> pd.DataFrame:
        """As ``FitBatch.test_table``, with the moderated standard errors and their degrees of freedom.

        Args:
            coef: a coefficient or several; all where None.
            adjust: how, see ``multiplicity.adjust``.
            labels: (n,) of the responses, in the place of those that they came with.
            level: of an interval of each estimate by itself, in the columns ``lower, upper``; none where None.
            backend: "pandas" or "polars".
        """
        return testing.table(
            self.batch,
            self.bse,
            self.df,
            coef=coef,
            adjust=adjust,
            labels=labels,
            level=level,
            backend=backend,
        )

    def annotate(self, adata: Annotated, prefix: str = "") -> Annotated:
        """As ``FitBatch.annotate``, with the moderated standard errors, their degrees of freedom and tests.

        Args:
            adata: whose variables were fitted.
            prefix: put before the names of the columns.
        """
        return exports.annotate(self.batch, self.test_table(), adata, prefix)

    def prior(self) -> pd.DataFrame:
        """A row per coefficient: ``d0``, and ``s0`` the root of the median s0²."""
        s0 = np.sqrt(np.nanmedian(self.s02, axis=0))
        return pd.DataFrame({"d0": self.d0, "s0": s0}, pd.Index(self.batch.names.fixef))

    def _parts(self) -> list[str | _text.Grid]:
        n, prior = len(self), self.prior()
        cells = [_text.number_column(prior[c].to_numpy(), 4) for c in ("d0", "s0")]
        parts: list[str | _text.Grid] = [f"Moderated standard errors of {n} responses, learnt from {self.used}"]
        parts += [f"  {n - self.used} without a converged fit are left out"] if self.used < n else []
        grid = _text.Grid([("", "d0", "s0"), *zip(prior.index, *cells, strict=True)], [False, True, True])
        return [*parts, "", grid, "d0: degrees of freedom that the others add; s0: the standard error drawn to"]


def moderate(batch: Any, trend: Any) -> Moderated:
    """See ``FitBatch.moderate``."""
    if not batch.names.linear:
        raise ValueError(
            "moderate() is for linear models, whose errors have a variance to moderate; dispersions of a generalised "
            "one are drawn together by shrink_dispersion(), after fit_many(..., keep='dispersion_se')"
        )
    if "df" not in batch.columns:
        raise ValueError("moderation needs degrees of freedom: fit_many(..., keep='df') keeps Satterthwaite's")
    good = batch.converged
    x = covariate(batch, trend)
    s2 = np.where(good[:, None], batch.bse**2, np.nan)
    columns = []
    for v, df, fewer in zip(s2.T, batch.df.T, _of_the_others(batch).T, strict=True):
        own = prior(v, df, x)
        columns.append((own.d0, own.s02, *squeezed(v, fewer, own)))
    d0, s02, posterior, df = (np.stack(x, axis=-1) for x in zip(*columns, strict=True))
    return Moderated(batch, d0, s02, np.sqrt(posterior), df, int(good.sum()))


def _of_the_others(batch: Any) -> np.ndarray:
    """(n, p) degrees of freedom, of a singular fit no more than the median of those that are not."""
    inside = batch.converged & ~batch.is_singular
    if not inside.any():
        return batch.df
    usual = np.nanmedian(batch.df[inside], axis=0)
    return np.where(batch.is_singular[:, None], np.fmin(batch.df, usual), batch.df)
