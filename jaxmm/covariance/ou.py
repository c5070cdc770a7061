"""``ou``, Ornstein and Uhlenbeck's process: the correlation falls with the distance in time, ou(0 + time | g).

    r_ij = exp(-rate |t_i - t_j|)

which is ``ar1`` where times are equally far apart, of a correlation that is not negative; nlme's corCAR1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, distances, falling, moments, namespace


@dataclass(frozen=True)
class OrnsteinUhlenbeck(Covariance):
    """theta is the standard deviation and log rate; ``at`` (q, 1) the times, in their order.

    Example:
        >>> structure = mm.covariance.OrnsteinUhlenbeck(2)
        >>> structure.covariance(np.array([2.0, np.log(0.5)]), np.array([[0.0], [1.0]])).round(2).tolist()
        [[4.0, 2.43], [2.43, 4.0]]
    """

    name = "ou"
    positional = True
    lanes = True
    triangular = True

    @property
    def num_params(self) -> int:
        return min(self.q, 2)

    @property
    def scale_power(self) -> np.ndarray:
        return np.array([2, 0])[: self.num_params]

    def factor(self, theta: Any, at: Any = None) -> Any:
        if self.q == 1:
            return theta[None]
        xp, eye = namespace(theta), np.eye(self.q)
        steps = xp.diff(xp.asarray(self.places(at))[:, 0]).reshape(-1, *(1,) * (theta.ndim - 1))
        fallen = xp.exp(theta[1]) * steps
        rho, left, like = xp.exp(-fallen), xp.sqrt(-xp.expm1(-2 * fallen)), xp.zeros_like(theta[0])
        rows = [xp.stack([like + x for x in eye[0]])]
        for k in range(1, self.q):
            rows.append(rho[k - 1] * rows[-1] + xp.stack([left[k - 1] * x + like for x in eye[k]]))
        return theta[0] * xp.stack(rows)

    def correlations(self, theta: Any, at: Any, xp: Any) -> Any:
        d = distances(xp.asarray(at), xp)
        d = d.reshape(*d.shape, *(1,) * (theta.ndim - 1))
        return xp.ones_like(d + theta[0]) if self.q == 1 else xp.exp(-d * xp.exp(theta[1]))

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        xp = namespace(lam)
        if self.q == 1:
            return moments(lam)[2][None]
        sd, rate = falling(lam, distances(xp.asarray(self.places(at)), xp))
        return xp.stack([sd, xp.log(rate)])

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return {} if self.q == 1 else {"rate": float(np.exp(theta[1]))}
