"""``toep``, Toeplitz: effects in order, a variance for each, and a correlation for each lag: toep(0 + time | g).

Any positive semidefinite Toeplitz R has partial autocorrelations π_k = sin α_k, free in [-1, 1], from which Durbin and
Levinson's recursion makes the coefficients φ of the best prediction of an effect from the k before it, its error v_k
and the correlations:

    ρ_k = π_k v_{k-1} + Σ_j φ_j ρ_{k-j},      φ_j <- φ_j - π_k φ_{k-j},  φ_k = π_k,      v_k = v_{k-1} (1 - π_k²)

The rows of the lower triangular root are the same predictions, L_k = Σ_j φ_j L_{k-j} + √v_k e_k with √v_k = Π cos α.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.covariance._base import moments, namespace, sd_ratios
from jaxmm.covariance._scaled import OwnScales, Scaled


class ByLag(Scaled):
    """A correlation for each lag, by the angles of partial autocorrelations."""

    triangular = True
    levels = True

    @property
    def num_angles(self) -> int:
        return self.q - 1

    def root(self, alpha: Any) -> Any:
        return root(alpha)

    def angles(self, lam: Any) -> Any:
        return angles(lam)


@dataclass(frozen=True)
class Toeplitz(ByLag, OwnScales):
    """theta is the roots t of the q standard deviations, then α_1 .. α_{q-1}; of one effect its standard deviation.

    Example:
        >>> lam = mm.covariance.Toeplitz(3).lam(np.array([1.0, 1.0, 1.0, 0.5, 0.1]), None)
        >>> (lam @ lam.T).round(2).tolist()
        [[1.0, 0.48, 0.31], [0.48, 1.0, 0.48], [0.31, 0.48, 1.0]]
    """

    name = "toep"

    def covariance(self, theta: Any, at: Any = None) -> Any:
        q = self.q
        if q == 1:
            return theta[None] ** 2
        return (theta[:q, None] * theta[None, :q]) ** 2 * of_lags(correlations(theta[q:]), q)

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        sd = np.sqrt(np.diag(self.covariance(np.asarray(theta, float))))
        return sd_ratios(sd, effects) | by_lag(theta[self.q :])


def _steps(alpha: Any) -> list[tuple[Any, Any, Any]]:
    """Before each lag k = 1 .. q-1 and after the last: φ (k-1, ..), √v_{k-1} (..), and ρ (k, ..) from lag 0."""
    xp = namespace(alpha)
    phi, spread, rho = alpha[:0], xp.ones_like(alpha[0]), xp.ones_like(alpha[:1])
    out = [(phi, spread, rho)]
    for a in alpha:
        pi = xp.sin(a)
        new = pi * spread**2 + xp.sum(phi * rho[:0:-1], axis=0)
        rho = xp.concatenate([rho, new[None]])
        phi = xp.concatenate([phi - pi * phi[::-1], pi[None]])
        spread = spread * xp.cos(a)
        out.append((phi, spread, rho))
    return out


def correlations(alpha: Any) -> Any:
    """ρ (q, ..) of lags 0 .. q-1 from α (q-1, ..)."""
    return _steps(alpha)[-1][2]


def root(alpha: Any) -> Any:
    """The lower triangular root (q, q, ..) of R from α (q-1, ..)."""
    xp, q = namespace(alpha), len(alpha) + 1
    unit = xp.asarray(np.eye(q), dtype=alpha.dtype).reshape(q, q, *(1,) * (alpha.ndim - 1))
    rows = xp.zeros((0, q, *alpha.shape[1:]), dtype=alpha.dtype)
    for k, (phi, spread, _) in enumerate(_steps(alpha)):
        row = xp.sum(phi[:, None] * rows[::-1], axis=0) + spread * unit[k]
        rows = xp.concatenate([rows, row[None]])
    return rows


def of_lags(rho: Any, q: int) -> Any:
    """(q, q, ..) with ρ_|i-j|."""
    return rho[np.abs(np.subtract.outer(np.arange(q), np.arange(q)))]


def angles(lam: Any) -> Any:
    """α (q-1, ..) of the correlations of each lag, on the average, from a lower triangular factor (q, q, ..); of the
    Toeplitz R nearest by its partial autocorrelations where these make none."""
    xp, q = namespace(lam), len(lam)
    sd, D, _ = moments(lam)
    phi, error, rho, out = lam[:0, 0], xp.ones_like(sd[0]), xp.ones_like(sd[:1]), []
    for k in range(1, q):
        together = xp.sum(sd[k:] * sd[:-k], axis=0)
        total = sum(D[j, j + k] for j in range(q - k))
        r = xp.where(together > 0, total / xp.where(together > 0, together, 1.0), 0.0)
        known = xp.sum(phi * rho[:0:-1], axis=0)
        real = error > 1e-14
        pi = xp.clip(xp.where(real, (r - known) / xp.where(real, error, 1.0), 0.0), -1.0, 1.0)
        rho = xp.concatenate([rho, (known + pi * error)[None]])
        phi = xp.concatenate([phi - pi * phi[::-1], pi[None]])
        error = error * (1 - pi) * (1 + pi)
        out.append(xp.arcsin(pi))
    return xp.stack(out)


def by_lag(alpha: np.ndarray) -> dict[str, float]:
    """The correlation of each lag, named."""
    if not len(alpha):
        return {}
    rho = correlations(np.asarray(alpha, float))
    return {f"rho{k}": float(rho[k]) for k in range(1, len(rho))}
