"""``exp``, effects at positions, of one variance, whose correlation is exp(-d / range) at the distance d:
exp(0 + time | g), exp(0 + pos(x, y) | g).

The range is where the correlation has fallen to 1/e; the field is continuous and nowhere smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxmm.covariance._decaying import Decaying


@dataclass(frozen=True)
class Exponential(Decaying):
    """theta is the standard deviation and, where q > 1, log range; ``at`` the positions (q, d).

    Example:
        >>> D = mm.covariance.Exponential(2).covariance(np.array([2.0, np.log(3.0)]), np.array([[0.0, 0], [3, 4]]))
        >>> D.round(3).tolist()
        [[4.0, 0.756], [0.756, 4.0]]
    """

    name = "exp"
    triangular = True
    nugget = 1e-12
