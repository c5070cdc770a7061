"""``us``, any covariance matrix: (x | g), us(x | g)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, fill, lower_cells


@dataclass(frozen=True)
class Unstructured(Covariance):
    """theta is the column-major lower triangle of lam, q (q + 1) / 2 numbers (Bates et al. 2015, J. Stat. Softw. 67(1),
    eq. 4).

    Example:
        >>> lam = mm.covariance.Unstructured(2).lam(np.array([1.0, 0.5, 2.0]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 0.5], [0.5, 4.25]]
    """

    name = "us"
    closed_under = "linear"
    lanes = True
    takes_inputs = False
    free_form = True
    triangular = True

    @property
    def num_params(self) -> int:
        return self.q * (self.q + 1) // 2

    def variance_rows(self) -> list[np.ndarray]:
        rows, _ = lower_cells(self.q)
        return [np.flatnonzero(rows == i) for i in range(1, self.q)]

    def factor(self, theta: Any, at: Any = None) -> Any:
        return fill(self.q, lower_cells(self.q), theta)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        return lam[lower_cells(self.q)]
