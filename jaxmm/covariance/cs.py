"""``cs``, compound symmetry: a variance for each effect, and the same correlation of any two: cs(0 + f | g).

R = (1 - ρ) I + ρ 11' has the eigenvalue a² = 1 + (q - 1)ρ for the mean of the effects and g² = 1 - ρ beside it, of
which a² + (q - 1) g² = q, so that ρ is in [-1/(q - 1), 1].  With an angle α,

    a = √q cos α,      g = √(q/(q - 1)) sin α,      R's symmetric root is g I + (a - g) 11'/q

and either end is an ordinary point, where a or g changes its sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import moments, namespace
from jaxmm.covariance._scaled import OwnScales, Scaled


class Alike(Scaled):
    """The same correlation of any two effects."""

    @property
    def num_angles(self) -> int:
        return 1

    def root(self, alpha: Any) -> Any:
        q, xp = self.q, namespace(alpha)
        a, g = np.sqrt(q) * xp.cos(alpha[0]), np.sqrt(q / (q - 1)) * xp.sin(alpha[0])
        return g * xp.eye(q, dtype=a.dtype).reshape(q, q, *(1,) * a.ndim) + (a - g) / q

    def angles(self, lam: Any) -> Any:
        q, xp = self.q, namespace(lam)
        sd, D, _ = moments(lam)
        between = xp.sum(sd, axis=0) ** 2 - xp.sum(sd**2, axis=0)
        total = xp.sum(D, axis=(0, 1)) - xp.sum(sd**2, axis=0)
        rho = xp.clip(xp.where(between > 0, total / xp.where(between > 0, between, 1.0), 0.0), -1 / (q - 1), 1.0)
        return xp.arctan2(xp.sqrt((q - 1) * (1 - rho)), xp.sqrt(xp.maximum(1 + (q - 1) * rho, 0.0)))[None]

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return self.one_correlation(theta, effects)


@dataclass(frozen=True)
class CompoundSymmetric(Alike, OwnScales):
    """theta is the roots t of the q standard deviations, then α; where q = 1 the standard deviation itself.

    Example:
        >>> lam = mm.covariance.CompoundSymmetric(2).lam(np.array([1.0, 2.0, 0.5]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 2.16], [2.16, 16.0]]
    """

    name = "cs"
