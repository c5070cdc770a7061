"""``ante``, ante-dependence of order 1: effects in order, each with its own variance, of which one depends on those
before it by its neighbour alone: ante(0 + time | g).

R_ij = ρ_i ρ_{i+1} .. ρ_{j-1}, with a ρ_k = sin α_k for each pair of neighbours (Gabriel 1962, Ann. Math. Stat. 33,
201-212), is the covariance of e_1 and e_{k+1} = ρ_k e_k + √(1 - ρ_k²) z_{k+1}.  sd = t², as in ``cs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, moments, namespace, sd_ratios


@dataclass(frozen=True)
class AnteDependent(Covariance):
    """theta is the roots t of the q standard deviations, then α_1 .. α_{q-1}; of one effect its standard deviation.

    Example:
        >>> lam = mm.covariance.AnteDependent(3).lam(np.array([1.0, 1.0, 1.0, 0.5, 0.1]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 0.48, 0.05], [0.48, 1.0, 0.1], [0.05, 0.1, 1.0]]
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
        unit = xp.asarray(np.eye(q), dtype=theta.dtype).reshape(q, q, *(1,) * (theta.ndim - 1))
        rows = [xp.ones_like(theta[0]) * unit[0]]
        for k in range(1, q):
            alpha = theta[q + k - 1]
            rows.append(xp.sin(alpha) * rows[-1] + xp.cos(alpha) * unit[k])
        return theta[:q, None] ** 2 * xp.stack(rows)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        xp = namespace(lam)
        sd, D, _ = moments(lam)
        if self.q == 1:
            return sd
        size = sd[1:] * sd[:-1]
        beside = xp.stack([D[k, k + 1] for k in range(self.q - 1)])
        rho = xp.clip(xp.where(size > 0, beside / xp.where(size > 0, size, 1.0), 0.0), -1.0, 1.0)
        return xp.concatenate([xp.sqrt(sd), xp.arcsin(rho)])

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        if self.q == 1:
            return {}
        rho = np.sin(theta[self.q :])
        own = {f"cor {a}.{b}": float(r) for a, b, r in zip(effects[:-1], effects[1:], rho, strict=True)}
        return sd_ratios(np.asarray(theta[: self.q], float) ** 2, effects) | own
