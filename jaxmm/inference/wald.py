"""Wald intervals and p-values from the normal distribution: estimate ± z se; and which other intervals there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

if TYPE_CHECKING:
    from jaxmm.fit import Fit

REPLICATES = 1999  # of a bootstrap interval: the bounds of any usual level are then among them


def confint(fit: Fit, method: str, level: float, key: Any, n: int | None) -> pd.DataFrame:
    """Confidence intervals of β of a fit.

    Args:
        method: "wald"; or "bootstrap", the percentiles of ``n`` parametric replicates (1,999 by default) drawn with
            ``key``: ``bootstrap`` has the other kinds, intervals and parameters. "profile" is not available yet.

    Raises:
        ValueError: another method, a level outside (0, 1), or what the method has no use of.
        TypeError: a bootstrap without a key.
    """
    check_level(level)
    if method == "profile":
        raise NotImplementedError("confint(method='profile') is not available yet: use 'wald' or 'bootstrap'")
    if method == "bootstrap":
        if key is None:
            raise TypeError("confint(method='bootstrap') needs a key, such as key=jax.random.key(0)")
        found = fit.bootstrap(REPLICATES if n is None else n, key=key, progress=False)
        return found.confint("percentile", level, parm=list(fit.fixef.index))
    if method != "wald":
        raise ValueError(f"method must be 'wald', 'profile' or 'bootstrap', not {method!r}")
    if key is not None or n is not None:
        raise ValueError("key= and n= are for method='bootstrap': a Wald interval draws nothing")
    return interval(fit.fixef, fit.bse, level)


def check_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level!r}; 0.95 for a 95 % interval")
    return float(level)


def interval(estimate: pd.Series, se: pd.Series, level: float) -> pd.DataFrame:
    """``lower`` and ``upper``, indexed as ``estimate``."""
    z = float(ndtri(0.5 + check_level(level) / 2))
    return pd.DataFrame({"lower": estimate - z * se, "upper": estimate + z * se})


def p_values(statistic: pd.Series) -> pd.Series:
    """Two-sided, normal."""
    return pd.Series(2 * ndtr(-np.abs(statistic.to_numpy())), statistic.index, name="p_normal")
