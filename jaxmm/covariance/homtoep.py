"""``homtoep``, as ``toep`` with one variance: homtoep(0 + time | g)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._scaled import OneScale
from jaxmm.covariance.toep import angles, by_lag, correlations, of_lags, root


@dataclass(frozen=True)
class HomogeneousToeplitz(OneScale):
    """theta is the standard deviation, then the angles α_1 .. α_{q-1} of partial autocorrelations.

    Example:
        >>> lam = mm.covariance.HomogeneousToeplitz(3).lam(np.array([2.0, 0.5, 0.1]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[4.0, 1.92, 1.23], [1.92, 4.0, 1.92], [1.23, 1.92, 4.0]]
    """

    name = "homtoep"
    triangular = True
    levels = True

    @property
    def num_angles(self) -> int:
        return self.q - 1

    def root(self, alpha: Any) -> Any:
        return root(alpha)

    def angles(self, lam: Any) -> Any:
        return angles(lam)

    def covariance(self, theta: Any, at: Any = None) -> Any:
        return theta[None] ** 2 if self.q == 1 else theta[0] ** 2 * of_lags(correlations(theta[1:]), self.q)

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return by_lag(theta[1:])
