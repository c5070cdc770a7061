"""``ante``, ante-dependence of the first order: a variance for each effect, and a correlation of each with the next.

Given the one before it an effect depends on no earlier one, so that r_ij is the product of the correlations between
them.  With r_{t,t-1} = sin α_t the rows of the root of R are

    l_t = sin α_t l_{t-1} + cos α_t e_t

(Gabriel 1962, Ann. Math. Stat. 33, 201-212).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, moments, namespace


@dataclass(frozen=True)
class AnteDependent(Covariance):
    """theta is the roots t of the q standard deviations, sd = t², then α_2 .. α_q; where q = 1 the standard deviation
    itself.

    Example:
        >>> lam = mm.covariance.AnteDependent(3).lam(np.array([1.0, 1.0, 1.0, np.arcsin(0.5), np.arcsin(0.8)]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 0.5, 0.4], [0.5, 1.0, 0.8], [0.4, 0.8, 1.0]]
    """

    name = "ante"
    closed_under = "diagonal"
    lanes = True
    takes_inputs = False
    triangular = True
    levels = True

    @property
    def num_params(self) -> int:
        return 2 * self.q - 1

    @property
    def scale_power(self) -> np.ndarray:
        return np.array([2]) if self.q == 1 else np.array([4] * self.q + [0] * (self.q - 1))

    def factor(self, theta: Any, at: Any = None) -> Any:
        q, xp = self.q, namespace(theta)
        if q == 1:
            return theta[None]
        like, eye = xp.zeros_like(theta[0]), np.eye(q)
        rows = [xp.stack([like + x for x in eye[0]])]
        for k in range(1, q):
            own = xp.stack([xp.cos(theta[q + k - 1]) * x for x in eye[k]])
            rows.append(xp.sin(theta[q + k - 1]) * rows[-1] + own)
        return theta[:q, None] ** 2 * xp.stack(rows)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        q, xp = self.q, namespace(lam)
        sd, D, _ = moments(lam)
        if q == 1:
            return sd
        out = []
        for k in range(q - 1):
            both = sd[k] * sd[k + 1]
            r = xp.where(both > 0, D[k, k + 1] / xp.where(both > 0, both, 1.0), 0.0)
            out.append(xp.arcsin(xp.clip(r, -1.0, 1.0)))
        return xp.concatenate([xp.sqrt(sd), xp.stack(out)])
