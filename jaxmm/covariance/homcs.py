"""``homcs``, compound symmetry with one variance: homcs(0 + f | g)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxmm.covariance._scaled import OneScale
from jaxmm.covariance.cs import Alike


@dataclass(frozen=True)
class HomogeneousCompoundSymmetric(Alike, OneScale):
    """theta is the standard deviation and, where q > 1, α.

    Example:
        >>> lam = mm.covariance.HomogeneousCompoundSymmetric(2).lam(np.array([2.0, 0.5]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[4.0, 2.16], [2.16, 4.0]]
    """

    name = "homcs"
