"""What structures with a known matrix K have in common: ``propto``, ``equalto``.

``at`` is a lower triangular root of K (q, q) (``known_root``), of one effect a level of a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, namespace


@dataclass(frozen=True)
class Known(Covariance):
    """A multiple of K, or K."""

    lanes = True
    triangular = True
    levels = True
    known = True

    @property
    def restricted(self) -> bool:
        """There is one variance at most, as of a single effect."""
        return False

    def free(self, at: Any = None) -> np.ndarray:
        root = np.asarray(self.root(at))
        K = root @ root.T
        return (np.abs(K) > 1e-12 * np.max(np.diag(K))) | np.eye(self.q, dtype=bool)

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return {}

    def from_factor(self, lam: Any, at: Any = None) -> Any:
        """Nothing but the size of lam lam' is looked at, which any factor has."""
        return self.from_lower(lam, at)

    def size(self, lam: Any, at: Any) -> Any:
        """(..) the root of the mean variance of lam lam' (q, q, ..), over that of K."""
        xp, root = namespace(lam), self.root(at)
        own = namespace(root).sum(root**2)
        return xp.sqrt(xp.sum(lam * lam, axis=(0, 1)) / own)

    def root(self, at: Any) -> Any:
        return np.eye(self.q) if at is None else at

    def root_beside(self, theta: Any, at: Any) -> Any:
        """The root (q, q, 1, ..) with as many axes as theta (m, ..) has lanes."""
        root = namespace(theta).asarray(self.root(at), dtype=theta.dtype)
        return root.reshape(*root.shape, *(1,) * (theta.ndim - 1))
