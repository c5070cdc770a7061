"""``homtoep``, as ``toep`` with one variance: homtoep(0 + time | g)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._scaled import OneScale
from jaxmm.covariance.toep import ByLag, by_lag, correlations, of_lags


@dataclass(frozen=True)
class HomogeneousToeplitz(ByLag, OneScale):
    """theta is the standard deviation, then the angles α_1 .. α_{q-1} of partial autocorrelations.

    Example:
        >>> lam = mm.covariance.HomogeneousToeplitz(3).lam(np.array([2.0, 0.5, 0.1]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[4.0, 1.92, 1.23], [1.92, 4.0, 1.92], [1.23, 1.92, 4.0]]
    """

    name = "homtoep"

    def covariance(self, theta: Any, at: Any = None) -> Any:
        return theta[None] ** 2 if self.q == 1 else theta[0] ** 2 * of_lags(correlations(theta[1:]), self.q)

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return by_lag(theta[1:])
