"""``ou``, a process of Ornstein and Uhlenbeck: effects at times, of one variance, whose correlation is
exp(-rate |t - s|): ou(0 + time | g).

It is ``ar1`` in continuous time: with ρ_k = exp(-rate (t_k - t_{k-1})) the root is that of
e_k = ρ_k e_{k-1} + √(1 - ρ_k²) z_k.  The times increase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._decaying import Decaying


@dataclass(frozen=True)
class OrnsteinUhlenbeck(Decaying):
    """theta is the standard deviation and, where q > 1, log rate; ``at`` the times (q, 1).

    Example:
        >>> D = mm.covariance.OrnsteinUhlenbeck(2).covariance(np.array([2.0, np.log(0.1)]), np.array([[0.0], [5.0]]))
        >>> D.round(3).tolist()
        [[4.0, 2.426], [2.426, 4.0]]
    """

    name = "ou"
    triangular = True
    ordered = True
    sign = -1
    called = "rate"

    def factor(self, theta: Any, at: Any = None) -> Any:
        if len(theta) == 1:
            return theta[None]
        xp, apart = self.apart(theta, at, theta.ndim - 1)
        rate = xp.exp(theta[1])
        gaps = xp.stack([apart[k, k - 1] for k in range(1, self.q)])
        own = xp.sqrt(-xp.expm1(-2 * rate * gaps))
        own = xp.concatenate([xp.ones_like(own[:1]), own])
        below = np.tril(np.ones((self.q, self.q))).reshape(self.q, self.q, *(1,) * (theta.ndim - 1))
        return theta[0] * xp.exp(-rate * apart) * own[None] * xp.asarray(below, dtype=theta.dtype)
