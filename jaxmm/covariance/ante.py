"""``ante``, ante-dependence of order 1: effects in order, each with its own variance, of which one depends on those
before it by its neighbour alone: ante(0 + time | g).

R_ij = ρ_i ρ_{i+1} .. ρ_{j-1}, with a ρ_k = sin α_k for each pair of neighbours (Gabriel 1962, Ann. Math. Stat. 33,
201-212), is the covariance of e_1 and e_{k+1} = ρ_k e_k + √(1 - ρ_k²) z_{k+1}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import moments, namespace, sd_ratios
from jaxmm.covariance._scaled import OwnScales


@dataclass(frozen=True)
class AnteDependent(OwnScales):
    """theta is the roots t of the q standard deviations, then α_1 .. α_{q-1}; of one effect its standard deviation.

    Example:
        >>> lam = mm.covariance.AnteDependent(3).lam(np.array([1.0, 1.0, 1.0, 0.5, 0.1]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 0.48, 0.05], [0.48, 1.0, 0.1], [0.05, 0.1, 1.0]]
    """

    name = "ante"
    triangular = True
    levels = True

    @property
    def num_angles(self) -> int:
        return self.q - 1

    def root(self, alpha: Any) -> Any:
        q, xp = self.q, namespace(alpha)
        unit = xp.asarray(np.eye(q), dtype=alpha.dtype).reshape(q, q, *(1,) * (alpha.ndim - 1))
        rows = [xp.ones_like(alpha[0]) * unit[0]]
        for k, a in enumerate(alpha, 1):
            rows.append(xp.sin(a) * rows[-1] + xp.cos(a) * unit[k])
        return xp.stack(rows)

    def angles(self, lam: Any) -> Any:
        xp = namespace(lam)
        sd, D, _ = moments(lam)
        size = sd[1:] * sd[:-1]
        beside = xp.stack([D[k, k + 1] for k in range(self.q - 1)])
        return xp.arcsin(xp.clip(xp.where(size > 0, beside / xp.where(size > 0, size, 1.0), 0.0), -1.0, 1.0))

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        if self.q == 1:
            return {}
        rho = np.sin(theta[self.q :])
        own = {f"cor {a}.{b}": float(r) for a, b, r in zip(effects[:-1], effects[1:], rho, strict=True)}
        return sd_ratios(np.asarray(theta[: self.q], float) ** 2, effects) | own
