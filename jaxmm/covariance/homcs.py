"""``homcs``, compound symmetry with one variance: homcs(0 + f | g).

D = g² I + (a² - g²) 11'/q, lam its symmetric root.  Each of a and g may be zero: ρ = (a² - g²)/(a² + (q - 1) g²) is 1
where g is, and -1/(q - 1) where a is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxmm.covariance._base import Covariance, moments, namespace


@dataclass(frozen=True)
class HomogeneousCompoundSymmetric(Covariance):
    """theta is a and, where q > 1, g: what √q times the mean of the effects, and what their contrasts spread.

    Example:
        >>> lam = mm.covariance.HomogeneousCompoundSymmetric(2).lam(np.array([2.0, 1.0]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[2.5, 1.5], [1.5, 2.5]]
    """

    name = "homcs"
    closed_under = "scalar"
    lanes = True
    takes_inputs = False

    @property
    def num_params(self) -> int:
        return min(self.q, 2)

    def factor(self, theta: Any, at: Any = None) -> Any:
        return theta[None] if self.q == 1 else alike(theta[0], theta[1], self.q)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        q, xp = self.q, namespace(lam)
        sd, D, _ = moments(lam)
        if q == 1:
            return sd
        mean = xp.sum(D, axis=(0, 1)) / q
        beside = xp.maximum(xp.sum(sd**2, axis=0) - mean, 0.0) / (q - 1)
        return xp.sqrt(xp.stack([xp.maximum(mean, 0.0), beside]))


def alike(a: Any, g: Any, q: int) -> Any:
    """g I + (a - g) 11'/q: (q, q, ..) from numbers (..)."""
    xp = namespace(a)
    return g * xp.eye(q, dtype=a.dtype).reshape(q, q, *(1,) * a.ndim) + (a - g) / q
