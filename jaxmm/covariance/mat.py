"""``mat``, Matérn's correlation of effects at positions, of one variance: mat(0 + pos(x, y) | g).

    r(d) = 2^(1-ν)/Γ(ν) x^ν K_ν(x)      x = d/range

with smoothness ν: the field has ⌈ν⌉ - 1 derivatives, and ν = 1/2 is ``exp``.  With K_ν's integral over e^s,

    r(d) = 1/Γ(ν) ∫ exp(νs - e^s - (x²/4) e^-s) ds        over all s,

whose derivatives by ν and x are integrals of the same kind.  The trapezoidal rule has them to rounding, since the
integrand falls doubly exponentially or like a normal density (Goodwin 1949, Proc. Camb. Phil. Soc. 45, 241-245).

With range = l/√(2ν), r is a mean of exp(-(d/l)²/2 ν/T) over a gamma variable T of shape ν: of large ν it is that of
``gau``.  ν = N sin²(γ/√N), nearly γ², is at most N = 50, and near 0 effects are independent: both are ordinary points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._special import log_gamma
from jaxmm.covariance._base import each, least_squares, moments, namespace
from jaxmm.covariance._decaying import APART, Decaying

SMOOTHEST = 50.0  # N
ROUGHEST = 1e-6  # ν that stands for none
NEAREST = 1e-10  # x, nearer than which the correlation is that there
NODES = np.arange(201) / 200  # of s, from the first to the last that count
LEFT = 40.0  # log of what an integrand that does not count is less than the largest
MOST_PAIRS = 200  # that a range and a smoothness are looked for from
STEPS = 30  # of the search for them
ALIKE = 1e-9  # what correlations differ from 1 that are taken for it


@dataclass(frozen=True)
class Matern(Decaying):
    """theta is the standard deviation and, where q > 1, log l = log(range √(2ν)) and, where q > 2, γ ≈ √ν; of two
    effects, whose one correlation says nothing of ν, that is 1/2.  ``at`` are the positions (q, d).

    Example:
        >>> at = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 9.0]])
        >>> theta = np.array([2.0, np.log(5.0), mm.covariance.Matern.gamma(1.5)])
        >>> mm.covariance.Matern(3).covariance(theta, at).round(2).tolist()
        [[4.0, 1.93, 0.73], [1.93, 4.0, 1.6], [0.73, 1.6, 4.0]]
    """

    name = "mat"
    triangular = True
    nugget = 1e-10

    @property
    def num_params(self) -> int:
        return min(self.q, 3)

    @property
    def scale_power(self) -> np.ndarray:
        return np.array([2, 0, 0])[: self.num_params]

    @staticmethod
    def gamma(nu: Any) -> Any:
        """γ of ν."""
        return math.sqrt(SMOOTHEST) * np.arcsin(np.sqrt((nu - ROUGHEST) / (SMOOTHEST - ROUGHEST)))

    @staticmethod
    def smoothness(theta: Any) -> Any:
        """ν of theta (m, ..)."""
        if len(theta) < 3:
            return 0.5
        return ROUGHEST + (SMOOTHEST - ROUGHEST) * namespace(theta).sin(theta[2] / math.sqrt(SMOOTHEST)) ** 2

    def correlation(self, theta: Any, at: Any = None) -> Any:
        xp, apart = self.apart(theta, at, theta.ndim - 1)
        if len(theta) == 1:
            return xp.ones_like(apart * theta[0])
        k = len(apart)
        i, j = np.triu_indices(k, 1)
        r = self._falling(xp, apart[i, j], theta) * (1 - self.nugget)
        place = np.full((k, k), len(i))
        place[i, j] = place[j, i] = np.arange(len(i))
        return xp.concatenate([r, xp.ones((1, *r.shape[1:]), dtype=r.dtype)])[place]

    def _falling(self, xp: Any, apart: Any, theta: Any) -> Any:
        """r at distances (k, ..)."""
        nu = self.smoothness(theta)
        return matern(xp, apart * xp.exp(-theta[1]) * xp.sqrt(2.0 * nu), nu)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        """By least squares of the correlations, of some where there are many."""
        if self.q < 3:
            return Decaying.from_lower(self, lam, at)
        return each(partial(_from_lower, structure=self, at=at), lam, 2, at)

    def parameters(self, theta: np.ndarray, effects: Sequence[str]) -> dict[str, float]:
        if len(theta) == 1:
            return {}
        nu = float(self.smoothness(np.asarray(theta, float)))
        return {"range": float(np.exp(theta[1])) / math.sqrt(2 * nu), "smoothness": nu}


def matern(xp: Any, x: Any, nu: Any) -> Any:
    """r of x (..) >= 0 and ν (..), arrays of the namespace ``xp``."""
    # the integrand of s less its largest, at s = log((ν + c)/2), is -c(cosh s - 1) - ν(sinh s - s) with c² = ν² + x²
    y = xp.maximum(x, NEAREST) ** 2 / 4
    nu = nu * xp.ones_like(y)
    at, held = (jax.lax.stop_gradient(y), jax.lax.stop_gradient(nu)) if xp is jnp else (y, nu)
    c = xp.sqrt(held**2 + 4 * at)
    right = xp.arccosh(1 + LEFT / c)
    left = xp.minimum(xp.arccosh(1 + LEFT * (c + held) / (4 * at)), 1 + LEFT / held)
    left = xp.where(held > 3 * LEFT, xp.minimum(left, xp.sqrt(3 * LEFT / held)), left)
    width = left + right
    s = xp.log((held + c) / 2) - left + width * NODES.reshape(-1, *(1,) * y.ndim)
    lgamma = log_gamma(nu) if xp is jnp else np.vectorize(math.lgamma, otypes=[float])(nu)
    return xp.sum(xp.exp(nu * s - xp.exp(s) - y * xp.exp(-s) - lgamma), axis=0) * (width * NODES[1])


@partial(jax.jit, static_argnames="structure")
def _from_lower(lam: Any, *, structure: Matern, at: Any) -> Any:
    """theta (3,) by least squares, from exponential correlations and from smooth ones."""
    sd, D, pooled = moments(lam)
    _, apart = structure.apart(lam, at, 0)
    i, j = np.triu_indices(structure.q, 1)
    some = np.unique(np.linspace(0, len(i) - 1, min(len(i), MOST_PAIRS)).astype(int))
    i, j = i[some], j[some]
    size = sd[i] * sd[j]
    R = jnp.where(size > 0, D[i, j] / jnp.where(size > 0, size, 1.0), 0.0) / (1 - structure.nugget)

    def residual(p):
        return structure._falling(jnp, apart[i, j], jnp.concatenate([pooled[None], p])) - R

    exponential = Decaying.from_lower(structure, lam, at)[1]
    shapes = [Matern.gamma(0.5), Matern.gamma(2.5)]
    first = jnp.stack([jnp.stack([exponential, jnp.asarray(g, lam.dtype)]) for g in shapes])
    best = least_squares(residual, first, STEPS)
    says = (jnp.max(R) > APART) & (jnp.min(R) < 1 - ALIKE)
    log_l, gamma = jnp.where(says, best, first[0])
    root = math.sqrt(SMOOTHEST)
    return jnp.stack([pooled, log_l, root * jnp.arcsin(jnp.abs(jnp.sin(gamma / root)))])
