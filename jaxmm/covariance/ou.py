"""``ou``, Ornstein and Uhlenbeck's process: the correlation falls with the distance in time, ou(0 + time | g).

    r_ij = exp(-rate |t_i - t_j|)

which is ``ar1`` where times are equally far apart, of a correlation that is not negative; nlme's corCAR1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmm.covariance._base import Covariance, distances


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
        fallen, eye = jnp.exp(theta[1]) * jnp.diff(jnp.asarray(self.places(at))[:, 0]), jnp.eye(self.q)
        rho, left = jnp.exp(-fallen), jnp.sqrt(-jnp.expm1(-2 * fallen))
        rows = [eye[0]]
        for k in range(1, self.q):
            rows.append(rho[k - 1] * rows[-1] + left[k - 1] * eye[k])
        return theta[0] * jnp.stack(rows)

    def correlations(self, theta: Any, at: Any, xp: Any) -> Any:
        if self.q == 1:
            return xp.ones_like(distances(at, xp))
        return xp.exp(-xp.exp(theta[1]) * distances(at, xp))

    def begin(self, size: Any, at: Any) -> list[Any]:
        return (
            [size[None]]
            if self.q == 1
            else [jnp.stack([size, -jnp.log(length)]) for length in typical(self.places(at))]
        )

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return {} if self.q == 1 else {"rate": float(np.exp(theta[1]))}


def typical(at: Any) -> list[Any]:
    """A short, a middling and a long distance of positions (q, d)."""
    d = distances(jnp.asarray(at, float), jnp)
    most = jnp.maximum(jnp.max(d), 1e-12)
    least = jnp.min(jnp.where(d > 0, d, most))
    return [least, jnp.sqrt(least * most), most]
