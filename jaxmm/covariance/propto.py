"""``propto``, a known covariance matrix K but for its size: propto(0 + species | g, K) with ``matrices={"K": ...}``.

D = sd² K, as with the relationship matrix of a pedigree, a phylogeny, kinship.  K may be singular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, moments, namespace


@dataclass(frozen=True)
class Proportional(Covariance):
    """theta is the standard deviation of an effect whose own entry of K is 1; ``at`` a lower triangular root of K
    (``known_root``).

    Example:
        >>> K = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> mm.covariance.Proportional(2).covariance(np.array([2.0]), np.linalg.cholesky(K)).round(2).tolist()
        [[4.0, 2.0], [2.0, 4.0]]
    """

    name = "propto"
    closed_under = "scalar"
    lanes = True
    triangular = True
    levels = True
    known = True

    @property
    def num_params(self) -> int:
        return 1

    @property
    def restricted(self) -> bool:
        """There is one variance, as of a single effect."""
        return False

    def factor(self, theta: Any, at: Any = None) -> Any:
        root = namespace(theta).asarray(self._root(at), dtype=theta.dtype)
        return theta[0] * root.reshape(*root.shape, *(1,) * (theta.ndim - 1))

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        _, _, pooled = moments(lam)
        root = self._root(at)
        own = namespace(root).sqrt(namespace(root).sum(root**2) / self.q)
        return (pooled / own)[None]

    def pivots(self, theta: Any, at: Any = None) -> Any:
        """Of what is estimated: K may be singular, which says nothing of the data."""
        xp = namespace(theta)
        return xp.abs(theta[0]) * xp.ones((self.q, *(1,) * (theta.ndim - 1)), dtype=theta.dtype)

    def free(self, at: Any = None) -> np.ndarray:
        root = np.asarray(self._root(at))
        K = root @ root.T
        return (np.abs(K) > 1e-12 * np.max(np.diag(K))) | np.eye(self.q, dtype=bool)

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return {}

    def _root(self, at: Any) -> Any:
        return np.eye(self.q) if at is None else at
