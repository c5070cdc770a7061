"""Correlations that fall with a distance: positions and one number -> exp(-(d / r)^p), what ``ou``, ``exp``, ``gau``
have in common.

theta is the standard deviation and, where q > 1, the logarithm of 1/r or of r.  The positions are (k, d) numbers, or
(k, d, ..) where they differ between lanes; without them they are 0 .. q-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxmm.covariance._base import Covariance, moments, namespace

APART = 1e-9  # correlations below it say nothing of a range,
DISTINCT = 0.1  # and then it is such that effects next to each other have this one
SAME = 1e-12  # of -log ρ: less is taken for it


@dataclass(frozen=True)
class Decaying(Covariance):
    """``power`` p; ``sign`` 1 where theta has log r and -1 where log 1/r; ``called`` what people call it.  ``nugget``:
    what of the correlation of an effect with itself is its own, where a matrix of R is singular by rounding alone."""

    closed_under = "scalar"
    lanes = True
    positional = True
    power: ClassVar[int] = 1
    sign: ClassVar[int] = 1
    called: ClassVar[str] = "range"
    nugget: ClassVar[float] = 0.0

    @property
    def num_params(self) -> int:
        return min(self.q, 2)

    @property
    def scale_power(self) -> np.ndarray:
        return np.array([2, 0])[: self.num_params]

    def correlation(self, theta: Any, at: Any = None) -> Any:
        """R (k, k, ..) of the positions (k, d, ..), by default 0 .. q-1."""
        xp, apart = self.apart(theta, at, theta.ndim - 1)
        if len(theta) == 1:
            return xp.ones_like(apart * theta[0])
        off = xp.asarray(apart > 0, dtype=theta.dtype)
        return xp.exp(-((apart * xp.exp(-self.sign * theta[1])) ** self.power)) * (1 - self.nugget * off)

    def covariance(self, theta: Any, at: Any = None) -> Any:
        return theta[0] ** 2 * self.correlation(theta, at)

    def factor(self, theta: Any, at: Any = None) -> Any:
        return theta[0] * cholesky(self.correlation(theta, at))

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        """By least squares of the correlations' logarithms, weighted so that it is nearly one of theirs."""
        xp, apart = self.apart(lam, at, lam.ndim - 2)
        _, _, pooled = moments(lam)
        if self.q == 1:
            return pooled[None]
        x = apart[np.triu_indices(self.q, 1)] ** self.power
        slope, known = falling(xp, lam, x, self.nugget)
        found = xp.where(known, xp.maximum(slope, SAME / xp.max(x, axis=0)), -np.log(DISTINCT) / xp.min(x, axis=0))
        return xp.stack([pooled, -self.sign * xp.log(found) / self.power])

    def pivots(self, theta: Any, at: Any = None) -> Any:
        """(2, ..) zero where the variance is, and where all correlations are 1 but for what is an effect's own: the
        factor may have smaller elements where many effects are alike without that."""
        if len(theta) == 1:
            return abs(theta)
        xp = namespace(theta)
        least = xp.min(self.correlation(theta, at), axis=(0, 1)) / (1 - self.nugget)
        return abs(theta[0]) * xp.stack([xp.ones_like(least), xp.sqrt(xp.maximum(1 - least**2, 0.0))])

    def changed(self, theta: Any, T: Any, at: Any = None) -> Any:
        """One unit for all effects."""
        xp = namespace(theta)
        return xp.concatenate([xp.abs(theta[:1] * T[0, 0]), theta[1:]])

    def free(self, at: Any = None) -> np.ndarray:
        return np.ones((self.q, self.q), bool)

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        return {} if len(theta) == 1 else {self.called: float(np.exp(theta[1]))}

    def apart(self, x: Any, at: Any, lanes: int) -> tuple[Any, Any]:
        """The namespace of arrays as x (.., lanes) is, and the distances (k, k, ..) of the positions, with as many axes
        of lanes, or more."""
        if at is None:
            at = np.arange(self.q, dtype=float)[:, None]
        xp = jnp if isinstance(at, Tracer) else namespace(x)
        apart = distances(xp.asarray(at, dtype=x.dtype))
        return xp, apart.reshape(*apart.shape, *(1,) * (lanes - apart.ndim + 2))


def falling(xp: Any, lam: Any, x: Any, nugget: float = 0.0) -> tuple[Any, Any]:
    """a (..) of the correlations exp(-a x) nearest to those of lam lam', of the pairs of effects that are x (pairs, ..)
    apart, row by row; and whether there are any that are not zero.  By the functions of ``xp``."""
    sd, D, _ = moments(lam)
    i, j = np.triu_indices(len(lam), 1)
    size = sd[i] * sd[j]
    R = xp.where(size > 0, D[i, j] / xp.where(size > 0, size, 1.0), 0.0) / (1 - nugget)
    R = xp.where(R > APART, xp.minimum(R, 1.0), 0.0)
    y = -xp.log(xp.where(R > 0, R, 1.0))
    known = xp.max(R, axis=0) > 0
    return xp.sum(R**2 * x * y, axis=0) / xp.where(known, xp.sum((R * x) ** 2, axis=0), 1.0), known


def distances(at: Any) -> Any:
    """(k, k, ..) of positions (k, d, ..)."""
    xp = namespace(at)
    step = at[:, None] - at[None]
    return xp.abs(step[:, :, 0]) if at.shape[1] == 1 else xp.sqrt(xp.sum(step**2, axis=2))


def cholesky(R: Any) -> Any:
    """The lower triangular factor of a positive definite (q, q, ..)."""
    xp, q = namespace(R), len(R)
    if R.ndim == 2:
        return xp.linalg.cholesky(R)
    columns = []
    for k in range(q):
        below = xp.asarray(np.arange(q) >= k, dtype=R.dtype).reshape(q, *(1,) * (R.ndim - 2))
        column = below * R[:, k] / xp.sqrt(R[k, k])
        columns.append(column)
        R = R - column[:, None] * column[None]
    return xp.stack(columns, axis=1)
