"""``cs``, compound symmetry: a variance for each effect, and the same correlation of any two: cs(0 + f | g).

R = (1 - ρ) I + ρ 11' has the eigenvalue a² = 1 + (q - 1)ρ for the mean of the effects and g² = 1 - ρ beside it, of
which a² + (q - 1) g² = q, so that ρ is in [-1/(q - 1), 1].  With an angle α,

    a = √q cos α,      g = √(q/(q - 1)) sin α,      lam = diag(sd) (g I + (a - g) 11'/q)

and either end is an ordinary point, where a or g changes its sign.  sd = t², since beside a standard deviation that
changes its sign the correlation would change its own: a likelihood that is highest at sd = 0 is level there in t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, moments, namespace
from jaxmm.covariance.homcs import alike


@dataclass(frozen=True)
class CompoundSymmetric(Covariance):
    """theta is the roots t of the q standard deviations, then α; where q = 1 the standard deviation itself.

    Example:
        >>> lam = mm.covariance.CompoundSymmetric(2).lam(np.array([1.0, 2.0, 0.5]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 2.16], [2.16, 16.0]]
    """

    name = "cs"
    closed_under = "diagonal"
    lanes = True
    takes_inputs = False

    @property
    def num_params(self) -> int:
        return self.q + (self.q > 1)

    @property
    def scale_power(self) -> np.ndarray:
        return np.array([2]) if self.q == 1 else np.array([4] * self.q + [0])

    def factor(self, theta: Any, at: Any = None) -> Any:
        q, xp = self.q, namespace(theta)
        if q == 1:
            return theta[None]
        a, g = np.sqrt(q) * xp.cos(theta[q]), np.sqrt(q / (q - 1)) * xp.sin(theta[q])
        return theta[:q, None] ** 2 * alike(a, g, q)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        q, xp = self.q, namespace(lam)
        sd, D, _ = moments(lam)
        if q == 1:
            return sd
        between = xp.sum(sd, axis=0) ** 2 - xp.sum(sd**2, axis=0)
        total = xp.sum(D, axis=(0, 1)) - xp.sum(sd**2, axis=0)
        rho = xp.clip(xp.where(between > 0, total / xp.where(between > 0, between, 1.0), 0.0), -1 / (q - 1), 1.0)
        angle = xp.arctan2(xp.sqrt((q - 1) * (1 - rho)), xp.sqrt(xp.maximum(1 + (q - 1) * rho, 0.0)))
        return xp.concatenate([xp.sqrt(sd), angle[None]])
