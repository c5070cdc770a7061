"""``hetar1``, as ``ar1`` with a variance for each effect: hetar1(0 + time | g)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxmm.covariance._scaled import OwnScales
from jaxmm.covariance.ar1 import Falling


@dataclass(frozen=True)
class HeterogeneousAutoregressive(Falling, OwnScales):
    """theta is the roots t of the q standard deviations, then α; where q = 1 the standard deviation itself.

    Example:
        >>> lam = mm.covariance.HeterogeneousAutoregressive(2).lam(np.array([1.0, 2.0, 0.5]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 1.92], [1.92, 16.0]]
    """

    name = "hetar1"
