"""``hetar1``, as ``ar1`` with a variance for each effect: hetar1(0 + time | g); sd = t², as in ``cs``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, moments, namespace
from jaxmm.covariance.ar1 import angle, decaying


@dataclass(frozen=True)
class HeterogeneousAutoregressive(Covariance):
    """theta is the roots t of the q standard deviations, then α; where q = 1 the standard deviation itself.

    Example:
        >>> lam = mm.covariance.HeterogeneousAutoregressive(2).lam(np.array([1.0, 2.0, 0.5]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 1.92], [1.92, 16.0]]
    """

    name = "hetar1"
    closed_under = "diagonal"
    lanes = True
    takes_inputs = False
    triangular = True
    levels = True

    @property
    def num_params(self) -> int:
        return self.q + (self.q > 1)

    @property
    def scale_power(self) -> np.ndarray:
        return np.array([2]) if self.q == 1 else np.array([4] * self.q + [0])

    def factor(self, theta: Any, at: Any = None) -> Any:
        q = self.q
        return theta[None] if q == 1 else theta[:q, None] ** 2 * decaying(theta[q], q)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        sd, _, _ = moments(lam)
        return sd if self.q == 1 else namespace(lam).concatenate([namespace(lam).sqrt(sd), angle(lam)[None]])
