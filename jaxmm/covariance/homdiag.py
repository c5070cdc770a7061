"""``homdiag``, independent effects of one variance: homdiag(0 + f | g)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, fill, moments


@dataclass(frozen=True)
class HomogeneousDiagonal(Covariance):
    """theta is the standard deviation.

    Example:
        >>> lam = mm.covariance.HomogeneousDiagonal(2).lam(np.array([2.0]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[4.0, 0.0], [0.0, 4.0]]
    """

    name = "homdiag"
    closed_under = "scalar"
    lanes = True
    takes_inputs = False
    triangular = True

    @property
    def num_params(self) -> int:
        return 1

    def factor(self, theta: Any, at: Any = None) -> Any:
        return fill(self.q, np.diag_indices(self.q), theta)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        _, _, pooled = moments(lam)
        return pooled[None]
