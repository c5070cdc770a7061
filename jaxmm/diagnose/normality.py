"""Numbers -> how straight their normal Q-Q plot is.

With x_(i) in order and m_i = Φ⁻¹((i - 3/8) / (n + 1/4)), the expected ones,

    W' = corr(x_(i), m_i)²                          Shapiro & Francia 1972, J. Am. Stat. Assoc. 67, 215-216
    log(1 - W') ~ N(-1.2725 + 1.0521 (v - u), (1.0308 - 0.26758 (v + 2/u))²),    u = log n, v = log u

for normal numbers, nearly, where 5 <= n <= 5000 (Royston 1993, Stat. Comput. 3, 117-119).  Of more numbers as many
quantiles are taken.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

LEAST, MOST = 5, 5000


class Straightness(NamedTuple):
    """``statistic`` W', ``p``; NaN with fewer than LEAST numbers, or equal ones."""

    statistic: float
    p: float


def scores(n: int) -> np.ndarray:
    """(n,) the expected normal numbers, in order."""
    return ndtri((np.arange(1, n + 1) - 0.375) / (n + 0.25))


def straightness(x: np.ndarray) -> Straightness:
    x = np.sort(np.asarray(x, float))
    x = x[np.isfinite(x)]
    if len(x) > MOST:
        x = np.quantile(x, (np.arange(MOST) + 0.5) / MOST)
    n = len(x)
    if n < LEAST or not np.ptp(x) > 0:
        return Straightness(np.nan, np.nan)
    W = float(np.corrcoef(x, scores(n))[0, 1] ** 2)
    u = np.log(n)
    v = np.log(u)
    z = (np.log(max(1 - W, 1e-300)) + 1.2725 - 1.0521 * (v - u)) / (1.0308 - 0.26758 * (v + 2 / u))
    return Straightness(W, float(ndtr(-z)))
