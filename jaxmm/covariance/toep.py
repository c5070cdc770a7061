"""``toep``, Toeplitz: a variance for each effect, and a correlation for each distance of two effects in their order.

Any partial autocorrelations π_k = sin α_k in [-1, 1] are those of one matrix R_ij = ρ_|i-j| (Barndorff-Nielsen & Schou
1973, J. Multivar. Anal. 3, 408-419).  Durbin and Levinson's recursion makes of them the coefficients of the best
prediction of an effect from the k before it, and so the lower triangular root of R, row by row:

    φ_kk = π_k,   φ_kj = φ_{k-1,j} - π_k φ_{k-1,k-j},      l_t = Σ_j φ_{t-1,j} l_{t-j} + Π_{j<t} cos α_j e_t

so that π_k = ±1 is an ordinary point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import Covariance, moments, namespace


@dataclass(frozen=True)
class Toeplitz(Covariance):
    """theta is the roots t of the q standard deviations, sd = t², then α_1 .. α_{q-1}; where q = 1 the standard
    deviation itself.

    Example:
        >>> lam = mm.covariance.Toeplitz(3).lam(np.array([1.0, 1.0, 1.0, np.arcsin(0.5), 0.0]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 1.0]]
    """

    name = "toep"
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
        q = self.q
        return theta[None] if q == 1 else theta[:q, None] ** 2 * stationary(theta[q:])

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        xp, (sd, _, _) = namespace(lam), moments(lam)
        return sd if self.q == 1 else xp.concatenate([xp.sqrt(sd), angles(lam)])

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        if self.q == 1:
            return {}
        return super().parameters(theta, effects) if self.q < 3 else spelt(theta, self.q, effects)


def spelt(theta: np.ndarray, q: int, effects: Sequence[str]) -> dict[str, float]:
    """Ratios of standard deviations, and the correlation at each distance."""
    sd, R = theta[:q] ** 2, stationary(theta[q:])
    rho = (R @ R.T)[0]
    own = {f"sd ratio {e}": float(x / sd[0]) for e, x in zip(effects, sd, strict=True)}
    return own | {f"rho{k}": float(rho[k]) for k in range(1, q)}


def stationary(alpha: Any) -> Any:
    """The lower triangular root of R, (q, q, ..), from α (q - 1, ..)."""
    xp, q = namespace(alpha), len(alpha) + 1
    like = xp.zeros_like(alpha[0])
    pi, cos = xp.sin(alpha), xp.cos(alpha)
    eye = np.eye(q)
    rows = [xp.stack([like + x for x in eye[0]])]
    phi: list[Any] = []
    left = like + 1.0
    for k in range(1, q):
        phi = [phi[j] - pi[k - 1] * phi[k - 2 - j] for j in range(k - 1)] + [pi[k - 1]]
        left = left * cos[k - 1]
        row = xp.stack([left * x for x in eye[k]])
        for j in range(k):
            row = row + phi[j] * rows[k - 1 - j]
        rows.append(row)
    return xp.stack(rows)


def angles(lam: Any) -> Any:
    """α (q - 1, ..) of the mean correlation at each distance, from a factor (q, q, ..): as near as partial
    autocorrelations within [-1, 1] lead."""
    xp, (sd, D, _) = namespace(lam), moments(lam)
    q = len(sd)
    rho = []
    for k in range(1, q):
        together = sum(sd[i] * sd[i + k] for i in range(q - k))
        total = sum(D[i, i + k] for i in range(q - k))
        rho.append(xp.where(together > 0, total / xp.where(together > 0, together, 1.0), 0.0))
    phi: list[Any] = []
    out, left = [], xp.ones_like(rho[0])
    for k in range(1, q):
        excess = rho[k - 1] - sum(phi[j] * rho[k - 2 - j] for j in range(k - 1))
        pi = xp.clip(xp.where(left > 1e-12, excess / xp.where(left > 1e-12, left, 1.0), 0.0), -1.0, 1.0)
        phi = [phi[j] - pi * phi[k - 2 - j] for j in range(k - 1)] + [pi]
        left = left * (1 - pi**2)
        out.append(xp.arcsin(pi))
    return xp.stack(out)
