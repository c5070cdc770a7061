"""``ar1``, effects in order, of one variance, whose correlation falls with their distance: ar1(0 + time | g).

R_ij = ρ^|i-j| is the covariance of e_1, e_2 = ρe_1 + √(1 - ρ²) z_2, .., with ρ = sin α: at ρ = ±1 an ordinary point,
where the root changes its sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmm.covariance._base import Covariance, moments, namespace


@dataclass(frozen=True)
class Autoregressive(Covariance):
    """theta is the standard deviation and, where q > 1, α.

    Example:
        >>> lam = mm.covariance.Autoregressive(2).lam(np.array([2.0, 0.5]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[4.0, 1.92], [1.92, 4.0]]
    """

    name = "ar1"
    closed_under = "scalar"
    lanes = True
    takes_inputs = False
    triangular = True
    levels = True
    positional = True

    @property
    def num_params(self) -> int:
        return min(self.q, 2)

    @property
    def scale_power(self) -> np.ndarray:
        return np.array([2, 0])[: self.num_params]

    def factor(self, theta: Any, at: Any = None) -> Any:
        return theta[None] if self.q == 1 else theta[0] * decaying(theta[1], self.q)

    def correlations(self, theta: Any, at: Any, xp: Any) -> Any:
        """ρ to the power of the distance of places, which are whole numbers."""
        steps = xp.abs(at[:, None, 0] - at[None, :, 0])
        if self.q == 1:
            return xp.ones(steps.shape)
        if xp is np:
            return np.sin(theta[1]) ** steps.astype(int)
        rho = jnp.sin(theta[1])  # the derivatives of a power are not finite at zero, those of products are
        powers = jnp.concatenate([jnp.ones(1, rho.dtype), jnp.cumprod(jnp.full(self.q - 1, rho))])
        return powers[steps]

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return {} if self.q == 1 else {"rho": float(np.sin(theta[1]))}

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        _, _, pooled = moments(lam)
        return pooled[None] if self.q == 1 else namespace(lam).stack([pooled, angle(lam)])


def decaying(alpha: Any, q: int) -> Any:
    """The lower triangular root of R: (q, q, ..) from α (..)."""
    xp = namespace(alpha)
    rho, powers = xp.sin(alpha), [xp.ones_like(alpha)]
    for _ in range(q - 1):
        powers.append(powers[-1] * rho)
    apart = np.arange(q)[:, None] - np.arange(q)
    shape = (q, q, *(1,) * alpha.ndim)
    lam = xp.stack(powers)[np.maximum(apart, 0)] * xp.asarray((apart >= 0), alpha.dtype).reshape(shape)
    first = xp.asarray(np.broadcast_to(np.arange(q) == 0, (q, q)).reshape(shape), alpha.dtype)
    return lam * (first + (1 - first) * xp.cos(alpha))


def angle(lam: Any) -> Any:
    """α (..) of the correlation of neighbours, on the average, from a lower triangular factor (q, q, ..)."""
    xp = namespace(lam)
    sd, D, _ = moments(lam)
    together = xp.sum(sd[1:] * sd[:-1], axis=0)
    total = sum(D[k, k + 1] for k in range(len(sd) - 1))
    return xp.arcsin(xp.clip(xp.where(together > 0, total / xp.where(together > 0, together, 1.0), 0.0), -1.0, 1.0))
