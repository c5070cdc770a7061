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

    def root(self, at: Any) -> Any:
        return np.eye(self.q) if at is None else at

    def root_beside(self, theta: Any, at: Any) -> Any:
        """The root (q, q, 1, ..) with as many axes as theta (m, ..) has lanes."""
        root = namespace(theta).asarray(self.root(at), dtype=theta.dtype)
        return root.reshape(*root.shape, *(1,) * (theta.ndim - 1))
