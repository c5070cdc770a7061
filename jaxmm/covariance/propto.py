"""``propto``, a known covariance matrix K but for its size: propto(0 + species | g, K) with ``matrices={"K": ...}``.

D = sd² K, as with the relationship matrix of a pedigree, a phylogeny, kinship.  K may be singular.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxmm.covariance._base import namespace
from jaxmm.covariance._known import Known


@dataclass(frozen=True)
class Proportional(Known):
    """theta is the standard deviation of an effect whose own entry of K is 1; ``at`` a lower triangular root of K.

    Example:
        >>> K = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> mm.covariance.Proportional(2).covariance(np.array([2.0]), np.linalg.cholesky(K)).round(2).tolist()
        [[4.0, 2.0], [2.0, 4.0]]
    """

    name = "propto"
    closed_under = "scalar"

    @property
    def num_params(self) -> int:
        return 1

    def factor(self, theta: Any, at: Any = None) -> Any:
        return theta[0] * self.root_beside(theta, at)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        return self.size(lam, at)[None]

    def pivots(self, theta: Any, at: Any = None) -> Any:
        """Of what is estimated: K may be singular, which says nothing of the data."""
        xp = namespace(theta)
        return xp.abs(theta[0]) * xp.ones((self.q, *(1,) * (theta.ndim - 1)), dtype=theta.dtype)
