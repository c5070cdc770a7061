"""The oracle of correlated errors: V written out, in NumPy and SciPy alone.

    y ~ N(Xβ, V),    V = ZDZ' + Cov(ε),    Cov(ε)_ij = s_i R(t_i, t_j) s_j within a subject, else 0

R comes from what a textbook calls its parameters, s² = exp(V γ) / w.  Nothing here knows how the library holds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular


# ---------------------------------------------------------------- likelihood and generalised least squares
class Dense(NamedTuple):
    """``loglik`` with all constants, by REML without log|X'X|; ``beta`` (p,) and its covariance ``vcov`` (p, p)."""

    loglik: float
    beta: np.ndarray
    vcov: np.ndarray


def dense(X: np.ndarray, y: np.ndarray, V: np.ndarray, reml: bool) -> Dense:
    """-2 loglik = df log 2π + log|V| + r'V^-1 r, and log|X'V^-1 X| by REML, where df = n - p; else df = n."""
    n, p = X.shape
    L = np.linalg.cholesky(V)
    Xw, yw = solve_triangular(L, X, lower=True), solve_triangular(L, y, lower=True)
    beta = np.linalg.lstsq(Xw, yw, rcond=None)[0] if p else np.zeros(0)
    r = yw - Xw @ beta
    M = Xw.T @ Xw
    value = 2 * np.log(np.diag(L)).sum() + r @ r + (n - p * reml) * np.log(2 * np.pi)
    value += np.linalg.slogdet(M)[1] if reml and p else 0.0
    return Dense(float(-0.5 * value), beta, np.linalg.inv(M))


# ---------------------------------------------------------------- covariances of the times
def ar1(sd: float, rho: float, times) -> np.ndarray:
    """ρ to the power of the distance of whole numbers, with gaps where these have gaps."""
    at = np.asarray(times)
    return sd**2 * float(rho) ** np.abs(np.subtract.outer(at, at))


# ---------------------------------------------------------------- of all rows
def errors(
    subject: np.ndarray,
    place: np.ndarray,
    C: np.ndarray | Callable[[int], np.ndarray],
    s: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Cov(ε) (n, n).  ``place`` (n,): which of the T times of ``C`` (T, T) a row has; ``C`` may be made from a row, by
    the set of parameters of its subject; ``s`` (n,) multiplies each error."""
    n = len(subject)
    V = np.zeros((n, n))
    for level in np.unique(subject):
        rows = np.flatnonzero(subject == level)
        own = C(rows[0]) if callable(C) else C
        V[np.ix_(rows, rows)] = own[np.ix_(place[rows], place[rows])]
    s = np.broadcast_to(s, (n,))
    return V * np.outer(s, s)


# ---------------------------------------------------------------- Kenward and Roger
class Adjusted(NamedTuple):
    """Covariance of β̂ (p, p) as adjusted, and ``df`` of each row of L."""

    vcov: np.ndarray
    df: np.ndarray


def kenward_roger(X: np.ndarray, V: np.ndarray, dV: np.ndarray, W: np.ndarray, L: np.ndarray) -> Adjusted:
    """Without second derivatives of V: from ``dV`` (k, n, n) and the covariance ``W`` (k, k) of k parameters, by the
    formulas of Kenward & Roger (1997), of one row of L at a time.

    W is the inverse of the expected information there, and of the observed one in SAS's PROC MIXED.
    """
    P_ = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ P_ @ X)
    A = [P_ @ D @ P_ for D in dV]
    P = np.stack([-X.T @ a @ X for a in A])
    inner = sum(
        W[i, j] * (X.T @ A[i] @ dV[j] @ P_ @ X - P[i] @ Phi @ P[j]) for i in range(len(dV)) for j in range(len(dV))
    )
    slopes = np.einsum("la,iab,lb->il", L @ Phi, P, L @ Phi)  # of l'Φl, with the sign turned
    variance = np.einsum("la,ab,lb->l", L, Phi, L)
    return Adjusted(Phi + 2 * Phi @ inner @ Phi, 2 * variance**2 / np.einsum("il,ij,jl->l", slopes, W, slopes))


def hessian(f: Callable[[np.ndarray], float], x: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Central differences."""
    k = len(x)
    E = np.diag(step)
    H = np.empty((k, k))
    at = f(x)
    for i in range(k):
        H[i, i] = (f(x + E[i]) - 2 * at + f(x - E[i])) / step[i] ** 2
        for j in range(i):
            corners = f(x + E[i] + E[j]) - f(x + E[i] - E[j]) - f(x - E[i] + E[j]) + f(x - E[i] - E[j])
            H[i, j] = H[j, i] = corners / (4 * step[i] * step[j])
    return H
