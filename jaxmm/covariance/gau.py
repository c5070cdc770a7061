"""``gau``, effects at positions, of one variance, whose correlation is exp(-(d / range)²) at the distance d:
gau(0 + time | g), gau(0 + pos(x, y) | g).

The field is so smooth that few positions tell of all others: R is singular by rounding where the range is a few times
the distances.  So a part of 1e-10 of each effect is its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxmm.covariance._decaying import Decaying


@dataclass(frozen=True)
class Gaussian(Decaying):
    """theta is the standard deviation and, where q > 1, log range; ``at`` the positions (q, d).

    Example:
        >>> D = mm.covariance.Gaussian(2).covariance(np.array([2.0, np.log(5.0)]), np.array([[0.0, 0.0], [3.0, 4.0]]))
        >>> D.round(3).tolist()
        [[4.0, 1.472], [1.472, 4.0]]
    """

    name = "gau"
    triangular = True
    power = 2
    nugget = 1e-10
