"""``gau``, spatial and smooth: the correlation falls as a Gaussian of the distance, gau(pos(x, y) | g).

r_ij = exp(-(d_ij / range)²)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, distances, falling, moments, namespace, rooted

JITTER = 1e-13  # as far below one as rounding leaves the correlation of two near positions


@dataclass(frozen=True)
class GaussianDecay(Covariance):
    """theta is the standard deviation and log range; ``at`` (q, d) the positions.

    Example:
        >>> structure = mm.covariance.GaussianDecay(2)
        >>> structure.covariance(np.array([1.0, 0.0]), np.array([[0.0, 0.0], [0.6, 0.8]])).round(3).tolist()
        [[1.0, 0.368], [0.368, 1.0]]
    """

    name = "gau"
    positional = True
    lanes = True
    triangular = True

    @property
    def num_params(self) -> int:
        return min(self.q, 2)

    @property
    def scale_power(self) -> np.ndarray:
        return np.array([2, 0])[: self.num_params]

    def factor(self, theta: Any, at: Any = None) -> Any:
        xp = namespace(theta)
        return theta[0] * rooted(self.correlations(theta, self.places(at), xp), JITTER)

    def correlations(self, theta: Any, at: Any, xp: Any) -> Any:
        d = distances(xp.asarray(at), xp)
        d = d.reshape(*d.shape, *(1,) * (theta.ndim - 1))
        if self.q == 1:
            return xp.ones_like(d + theta[0])
        return xp.exp(-((d * xp.exp(-theta[1])) ** 2))

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        xp = namespace(lam)
        if self.q == 1:
            return moments(lam)[2][None]
        sd, rate = falling(lam, distances(xp.asarray(self.places(at)), xp) ** 2)
        return xp.stack([sd, -0.5 * xp.log(rate)])

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return {} if self.q == 1 else {"range": float(np.exp(theta[1]))}
