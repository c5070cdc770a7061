"""Wald intervals and p-values from the normal distribution: estimate ± z se."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri


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
