"""Satterthwaite's degrees of freedom: twice the squared mean of a variance over the variance of its estimate.

With θ̂ the variance parameters and σ̂² = r²(θ) / n_r profiled out, V(θ) = σ̂² (X'V⁻¹X)⁻¹ is the covariance of β̂.  The
profiled deviance has the Hessian H at θ̂; the information of (θ, log σ²) in blocks gives, for f = l V l',

    Var(log f̂) = 2 d'H⁻¹d + 2 / n_r,    d = ∂ log f / ∂θ,        df = 2 / Var(log f̂) = 1 / (d'H⁻¹d + 1 / n_r)

(Giesbrecht & Burns 1985, Biometrics 41; Fai & Cornelius 1996, J. Stat. Comput. Simul. 54: k rows at once, each of k
independent directions having its own ν, so that F has 2E / (E − k) with E = Σ ν / (ν − 2), all ν > 2).  H is the
search's own and ∂V/∂θ exact; it does not matter in what coordinates θ is.  Where σ² is known, or a part of θ, its own
term is not there.

The directions are those in which L V L' and L (X'X)⁻¹ L' are diagonal both.  Those of L V L' alone, which lmerTest
takes, depend on the rows that a hypothesis is written with, and so on the coding of factors: in the third digit of ν.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import eigh

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.inference.ddf._base import Denominator
from jaxmm.inference.wald import variances
from jaxmm.objective.lmm import profile
from jaxmm.objective.parameters import resolved

FLAT = 1e-9  # of the largest eigenvalue of H: a direction in which the likelihood does not tell θ
LEAST = 1e-6  # degrees of freedom below it: the variance of the estimate is not told by the data
ALIKE = 1e-8  # relative: degrees of freedom that are equal
NAN = "Satterthwaite's degrees of freedom are NaN: the derivatives at the estimates are not finite"
UNTOLD = (
    "the data do not tell the variances that standard errors rest on: there Satterthwaite's degrees of freedom are NaN"
)
CURVED = (
    "the likelihood curves the wrong way at the estimates of the variances: Satterthwaite's degrees of freedom leave "
    "that direction out"
)


@partial(Program, size=lambda theta, gram: gram.structure.solver.size(gram))
def _slopes(theta: Array, gram: Gram) -> tuple[Array, Array, Array]:
    """M_X, and by each element of theta its derivative (m, p, p) and that of log σ² (m,)."""

    def at(t):
        found = profile(*resolved(t, gram))
        return found.M_X, found.log_sigma2

    (M_X, _), push = jax.linearize(at, theta)
    return M_X, *jax.lax.map(push, jnp.eye(len(theta), dtype=theta.dtype))


@dataclass(frozen=True, eq=False)
class Satterthwaite:
    """``moves`` (m, p, p) the derivatives of ``vcov`` by θ; ``inverse`` (m, m) that of H; ``residual`` n_r;
    ``X`` (n, p)."""

    beta: np.ndarray
    vcov: np.ndarray
    moves: np.ndarray
    inverse: np.ndarray
    residual: float
    X: np.ndarray
    notes: tuple[str, ...] = ()
    name = "satterthwaite"

    @cached_property
    def ordinary(self) -> np.ndarray:
        """(X'X)⁻¹ (p, p); a pass over the rows that only several rows of L at once need."""
        unit = np.sqrt(np.einsum("ij,ij->j", self.X, self.X))
        return np.linalg.inv((self.X / unit).T @ (self.X / unit)) / np.outer(unit, unit)

    def df(self, L: np.ndarray) -> np.ndarray:
        f = variances(L, self.vcov)
        with np.errstate(invalid="ignore", divide="ignore"):
            d = np.einsum("kp,mpr,kr->km", L, self.moves, L) / f[:, None]
            df = 1 / (np.einsum("km,mn,kn->k", d, self.inverse, d) + 1 / self.residual)
        return np.where(df < LEAST, np.nan, df)

    def denominator(self, L: np.ndarray) -> Denominator:
        if len(L) == 1:
            return Denominator(1.0, float(self.df(L)[0]))
        V, S = L @ self.vcov @ L.T, L @ self.ordinary @ L.T
        if not np.all(np.isfinite(V)):
            return Denominator(1.0, np.nan)
        nu = self.df(eigh(V, S)[1].T @ L)
        if np.ptp(nu) <= ALIKE * np.max(nu):
            return Denominator(1.0, float(np.mean(nu)))
        if np.any(np.isnan(nu)):
            return Denominator(1.0, np.nan)
        if np.any(nu <= 2):
            return Denominator(1.0, 2.0)
        E = np.sum(nu / (nu - 2))
        return Denominator(1.0, float(2 * E / (E - len(nu))))


def satterthwaite(model: Any, estimates: Any) -> Satterthwaite:
    """Of a linear model, by REML or ML."""
    e, gram = estimates, model.arrays
    beta, vcov, m = np.asarray(e.beta), np.asarray(e.vcov), len(e.theta_scaled)
    residual = float(np.asarray(gram.n_obs)) - (len(beta) if model.reml else 0)
    residual = residual if gram.structure.profiles_sigma else np.inf
    X = model.design.X
    if not len(beta):
        return Satterthwaite(beta, vcov, np.zeros((m, 0, 0)), np.zeros((m, m)), residual, X)
    with computing(model.device):
        M_X, moved, log_sigma2 = (np.asarray(x) for x in _slopes(e.theta_scaled, gram))
    if not (np.all(np.isfinite(moved)) and np.all(np.isfinite(e.hessian))):
        return Satterthwaite(beta, vcov, np.full((m, *vcov.shape), np.nan), np.eye(m), residual, X, (NAN,))
    half = np.linalg.solve(M_X, np.asarray(gram.T_X).T)  # σ² T M_X⁻¹ T' is vcov
    moves = log_sigma2[:, None, None] * vcov - float(e.sigma) ** 2 * half.T @ moved @ half
    w, Q = np.linalg.eigh(np.asarray(e.hessian))
    least = FLAT * max(np.max(np.abs(w), initial=0.0), np.finfo(float).tiny)
    told = w > least
    inverse = (Q[:, told] / w[told]) @ Q[:, told].T
    notes = (CURVED,) if np.any(w < -least) else ()
    found = Satterthwaite(beta, vcov, moves, inverse, residual, X, notes)
    return replace(found, notes=(*notes, UNTOLD)) if np.any(np.isnan(found.df(np.eye(len(beta))))) else found
