"""What n simulated fits say of an estimator, each number with its Monte-Carlo standard error.

With e_k = estimate_k - truth, s² the variance of the estimates, over the n fits that gave one:

    bias       mean e                 s / sqrt(n)
    rmse       sqrt(mean e²)          sd(e²) / (2 rmse sqrt(n)), the delta method
    sd         s                      s / sqrt(2 (n - 1))
    mean_se    mean se                sd(se) / sqrt(n)
    coverage   share covered = c      sqrt(c (1 - c) / n)

(Morris, White & Crowther 2019, Stat. Med. 38, Table 6).  A share that is 0 or 1 has the error 0 by this formula;
``exact_interval`` (Clopper & Pearson 1934) says what it leaves open.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import betaincinv

from jaxmm.inference.wald import quantile


def share(hits: Any) -> dict[str, float]:
    """``n``, ``rate`` and ``rate_mc`` of (n,) truth values; NaN without any."""
    n = len(hits)
    rate = float(np.mean(hits)) if n else np.nan
    return {"n": n, "rate": rate, "rate_mc": float(np.sqrt(rate * (1 - rate) / n)) if n else np.nan}


def exact_interval(hits: int, n: int, level: float) -> tuple[float, float]:
    """The Clopper-Pearson interval of a probability, of which ``hits`` of ``n`` were seen; 0 to 1 where n is 0."""
    tail = (1 - level) / 2
    lower = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    upper = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return lower, upper


def accuracy(estimates: np.ndarray, truth: float, se: np.ndarray | None, level: float) -> dict[str, float]:
    """The numbers above of one parameter: ``estimates`` and ``se`` (n,), NaN where a fit gave none."""
    known = np.isfinite(estimates)
    x = estimates[known]
    n = len(x)
    out: dict[str, float] = {"truth": truth, "n": n}
    if n == 0:
        return out
    error = x - truth
    root = np.sqrt(n)
    sd = float(np.std(x, ddof=1)) if n > 1 else np.nan
    if not np.isfinite(truth):  # nothing to compare with
        out |= {"mean": float(np.mean(x)), "sd": sd, "sd_mc": sd / np.sqrt(2 * (n - 1)) if n > 1 else np.nan}
        return out | ({} if se is None else {"mean_se": float(np.mean(se[known]))})
    rmse = float(np.sqrt(np.mean(error**2)))
    square = float(np.std(error**2, ddof=1)) if n > 1 else np.nan
    out |= {
        "mean": float(np.mean(x)),
        "bias": float(np.mean(error)),
        "bias_mc": sd / root,
        "rmse": rmse,
        "rmse_mc": square / (2 * rmse * root) if rmse > 0 else 0.0,
        "sd": sd,
        "sd_mc": sd / np.sqrt(2 * (n - 1)) if n > 1 else np.nan,
    }
    if se is not None:
        own = se[known]
        covered = share(np.abs(error) <= quantile(level) * own)
        out |= {
            "mean_se": float(np.mean(own)),
            "mean_se_mc": float(np.std(own, ddof=1)) / root if n > 1 else np.nan,
            "coverage": covered["rate"],
            "coverage_mc": covered["rate_mc"],
        }
    return out
