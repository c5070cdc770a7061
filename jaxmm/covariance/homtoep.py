"""``homtoep``, as ``toep`` with one variance: homtoep(0 + time | g)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, moments, namespace
from jaxmm.covariance.toep import angles, stationary


@dataclass(frozen=True)
class HomogeneousToeplitz(Covariance):
    """theta is the standard deviation, then α_1 .. α_{q-1} as of ``Toeplitz``.

    Example:
        >>> lam = mm.covariance.HomogeneousToeplitz(2).lam(np.array([2.0, np.arcsin(0.5)]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[4.0, 2.0], [2.0, 4.0]]
    """

    name = "homtoep"
    closed_under = "scalar"
    lanes = True
    takes_inputs = False
    triangular = True
    levels = True

    @property
    def num_params(self) -> int:
        return self.q

    @property
    def scale_power(self) -> np.ndarray:
        return np.array([2] + [0] * (self.q - 1))

    def factor(self, theta: Any, at: Any = None) -> Any:
        return theta[None] if self.q == 1 else theta[0] * stationary(theta[1:])

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        xp, (_, _, pooled) = namespace(lam), moments(lam)
        return pooled[None] if self.q == 1 else xp.concatenate([pooled[None], angles(lam)])

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        if self.q == 1:
            return {}
        R = np.asarray(stationary(np.asarray(theta[1:], float)))
        rho = (R @ R.T)[0]
        return {f"rho{k}": float(rho[k]) for k in range(1, self.q)}
