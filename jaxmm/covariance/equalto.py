"""``equalto``, a known covariance matrix K itself: equalto(0 + study | g, K) with ``matrices={"K": ...}``.

D = K in the units of the predictor, as of estimates whose errors are known: nothing of it is estimated, and it is not
relative to sigma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, namespace
from jaxmm.covariance._known import Known

LEAST = 1e-6  # of deviations relative to K's


@dataclass(frozen=True)
class Equal(Known):
    """theta is empty; ``at`` a lower triangular root of K.

    Example:
        >>> K = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> mm.covariance.Equal(2).covariance(np.zeros(0), np.linalg.cholesky(K)).round(2).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """

    name = "equalto"
    absolute = True

    @property
    def num_params(self) -> int:
        return 0

    def factor(self, theta: Any, at: Any = None) -> Any:
        return self.root_beside(theta, at) * namespace(theta).ones((1, 1, *theta.shape[1:]), dtype=theta.dtype)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        return lam[:0, 0]

    def pivots(self, theta: Any, at: Any = None) -> Any:
        """Never zero: nothing is estimated that could be."""
        return namespace(theta).ones((self.q, *theta.shape[1:]), dtype=theta.dtype)

    def beside_sigma(self) -> Covariance:
        return EqualBesideSigma(self.q)

    def derivative(self, theta: np.ndarray, at: Any = None) -> np.ndarray:
        return np.zeros((0, self.q, self.q))


@dataclass(frozen=True)
class EqualBesideSigma(Known):
    """The same of a linear model that estimates sigma beside it: theta is log sigma, and lam lam' = K/sigma²."""

    name = "equalto"
    absolute = True

    @property
    def num_params(self) -> int:
        return 1

    def factor(self, theta: Any, at: Any = None) -> Any:
        return namespace(theta).exp(-theta[0]) * self.root_beside(theta, at)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        xp = namespace(lam)
        return -xp.log(xp.maximum(self.size(lam, at), LEAST))[None]

    def pivots(self, theta: Any, at: Any = None) -> Any:
        """(1, ..) sigma over K's own deviation: zero where nothing is left to be estimated."""
        xp, root = namespace(theta), self.root(at)
        return xp.exp(theta[:1]) / namespace(root).sqrt(namespace(root).sum(root**2) / self.q)

    @property
    def scale_power(self) -> np.ndarray:
        return np.zeros(1)

    def log_sigma(self, theta: Any) -> Any:
        return theta[0]
