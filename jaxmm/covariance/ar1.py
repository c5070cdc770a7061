"""``ar1``, effects in order, of one variance, whose correlation falls with their distance: ar1(0 + time | g).

R_ij = ρ^|i-j| is the covariance of e_1, e_2 = ρe_1 + √(1 - ρ²) z_2, .., with ρ = sin α: at ρ = ±1 an ordinary point,
where the root changes its sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxmm.covariance._base import moments, namespace
from jaxmm.covariance._decaying import falling
from jaxmm.covariance._scaled import OneScale, Scaled


class Falling(Scaled):
    """Correlations that fall by the same factor from each effect to the next."""

    triangular = True
    levels = True

    @property
    def num_angles(self) -> int:
        return 1

    def root(self, alpha: Any) -> Any:
        return decaying(alpha[0], self.q)

    def angles(self, lam: Any) -> Any:
        return angle(lam)[None]

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return self.one_correlation(theta, effects)


@dataclass(frozen=True)
class Autoregressive(Falling, OneScale):
    """theta is the standard deviation and, where q > 1, α.

    Example:
        >>> lam = mm.covariance.Autoregressive(2).lam(np.array([2.0, 0.5]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[4.0, 1.92], [1.92, 4.0]]
    """

    name = "ar1"
    positional = True

    def covariance(self, theta: Any, at: Any = None) -> Any:
        if self.q == 1 and at is None:
            return theta[None] ** 2
        place = np.arange(self.q)[:, None] if at is None else at
        lag = abs(place[:, None, 0] - place[None, :, 0])
        lag = lag.reshape(*lag.shape, *(1,) * (theta.ndim - lag.ndim + 1))
        if len(theta) == 1:
            return theta[0] ** 2 + 0.0 * lag
        return theta[0] ** 2 * power(namespace(theta).sin(theta[1]), lag)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        """Of places (q, 1) that are further apart than one step each, by their distances."""
        if self.q == 1 or at is None or isinstance(at, Tracer) or np.max(np.diff(np.asarray(at)[:, 0])) <= 1:
            return super().from_lower(lam, at)
        xp, (_, _, pooled) = namespace(lam), moments(lam)
        places = np.asarray(at, float)[:, 0]
        apart = np.abs(places[:, None] - places)[np.triu_indices(self.q, 1)]
        slope, known = falling(xp, lam, xp.asarray(apart.reshape(-1, *(1,) * (lam.ndim - 2)), dtype=lam.dtype))
        return xp.stack([pooled, xp.where(known, xp.arcsin(xp.exp(-slope)), 0.0)])

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return {} if self.q == 1 else {"rho": float(np.sin(theta[1]))}


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


def power(rho: Any, lag: Any) -> Any:
    """ρ^lag of whole numbers >= 0, with derivatives also at ρ = 0."""
    if isinstance(rho, np.ndarray | np.generic) and isinstance(lag, np.ndarray):
        return rho**lag
    return _power(jnp.asarray(rho), jnp.asarray(lag).astype(int))


@jax.custom_jvp
def _power(rho: Any, lag: Any) -> Any:
    return jax.lax.pow(*jnp.broadcast_arrays(rho, lag))


@_power.defjvp
def _power_jvp(primals: Any, tangents: Any) -> Any:
    """JAX's own second derivative of 0^1 is not a number."""
    rho, lag = primals
    return _power(rho, lag), lag * _power(rho, jnp.maximum(lag - 1, 0)) * tangents[0]


def angle(lam: Any) -> Any:
    """α (..) of the correlation of neighbours, on the average, from a lower triangular factor (q, q, ..)."""
    xp = namespace(lam)
    sd, D, _ = moments(lam)
    together = xp.sum(sd[1:] * sd[:-1], axis=0)
    total = sum(D[k, k + 1] for k in range(len(sd) - 1))
    return xp.arcsin(xp.clip(xp.where(together > 0, total / xp.where(together > 0, together, 1.0), 0.0), -1.0, 1.0))
