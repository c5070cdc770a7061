"""Covariances diag(sd) R diag(sd) whose correlations come from angles alone, in two kinds.

OwnScales  cs, hetar1, toep, ante   theta is the roots t of the q standard deviations, then the angles
OneScale   ar1, homtoep             theta is one standard deviation, then the angles

Of one effect theta is its standard deviation, and there are no angles.  sd = t², since beside a standard deviation that
changes its sign the correlations would change theirs: a likelihood that is highest at sd = 0 is level there in t.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, moments, namespace, sd_ratios


@dataclass(frozen=True)
class Scaled(Covariance):
    """What a structure of either kind supplies, for q > 1."""

    lanes = True
    takes_inputs = False

    @property
    @abstractmethod
    def num_angles(self) -> int:
        """a, how many angles make R."""

    @abstractmethod
    def root(self, alpha: Any) -> Any:
        """A root of R (q, q, ..) from angles (a, ..)."""

    @abstractmethod
    def angles(self, lam: Any) -> Any:
        """(a, ..) of a lower triangular factor (q, q, ..): of the R nearest to that of lam lam'."""

    def one_correlation(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        """``parameters`` where one number says all correlations, that of the first two effects."""
        if self.q == 1:
            return {}
        k, theta = self.num_scales, np.asarray(theta, float)
        root = self.root(theta[k:])
        return ({} if k == 1 else sd_ratios(theta[:k] ** 2, effects)) | {"rho": float(root[0] @ root[1])}

    @property
    def num_params(self) -> int:
        return self.num_scales + (self.num_angles if self.q > 1 else 0)

    @property
    @abstractmethod
    def num_scales(self) -> int:
        """How many of theta's elements are sizes, the first ones."""


class OwnScales(Scaled):
    """A variance for each effect."""

    closed_under = "diagonal"

    @property
    def num_scales(self) -> int:
        return self.q

    @property
    def scale_power(self) -> np.ndarray:
        return np.where(np.arange(self.num_params) < self.q, 4 if self.q > 1 else 2, 0)

    def factor(self, theta: Any, at: Any = None) -> Any:
        q = self.q
        return theta[None] if q == 1 else theta[:q, None] ** 2 * self.root(theta[q:])

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        sd, _, _ = moments(lam)
        xp = namespace(lam)
        return sd if self.q == 1 else xp.concatenate([xp.sqrt(sd), self.angles(lam)])


class OneScale(Scaled):
    """The same variance for all effects."""

    closed_under = "scalar"

    @property
    def num_scales(self) -> int:
        return 1

    @property
    def scale_power(self) -> np.ndarray:
        return np.where(np.arange(self.num_params) < 1, 2, 0)

    def factor(self, theta: Any, at: Any = None) -> Any:
        return theta[None] if self.q == 1 else theta[0] * self.root(theta[1:])

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        _, _, pooled = moments(lam)
        return pooled[None] if self.q == 1 else namespace(lam).concatenate([pooled[None], self.angles(lam)])
