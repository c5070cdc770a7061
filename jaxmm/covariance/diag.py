"""``diag``, independent effects, each with its own variance: (x || g), diag(x | g)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, fill


@dataclass(frozen=True)
class Diagonal(Covariance):
    """theta is the diagonal of lam, q standard deviations.

    Example:
        >>> lam = mm.covariance.Diagonal(2).lam(np.array([1.0, 2.0]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 0.0], [0.0, 4.0]]
    """

    name = "diag"
    closed_under = "diagonal"
    lanes = True
    takes_inputs = False
    free_form = True
    triangular = True

    @property
    def num_params(self) -> int:
        return self.q

    def factor(self, theta: Any, at: Any = None) -> Any:
        return fill(self.q, np.diag_indices(self.q), theta)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        return lam[np.diag_indices(self.q)]
