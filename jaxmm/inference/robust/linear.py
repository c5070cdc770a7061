"""Cluster-robust covariance of β̂ of a linear model, and degrees of freedom of tests with it.

Of m clusters with rows X_i and V_i (relative to σ²; the fitted model's, which is the working model), M = (X'V⁻¹X)⁻¹ and
e_i = y_i − X_iβ̂,

    V^CR = Σ_i (E_i e_i)(E_i e_i)',      E_i = M X_i'V_i⁻¹A_i

    CR0   A_i = I
    CR1   A_i = √(m / (m − 1)) I
    CR2   A_i = D_i' (D_i R_i D_i')^{+1/2} D_i,  D_i'D_i = V_i        unbiased where the working model is right
    CR3   A_i = V_i R_i⁺                                              about the jackknife

with R_i = V_i − X_iMX_i', the covariance of e_i under the model (Bell & McCaffrey 2002, Survey Methodology 28, 169-181;
Pustejovsky & Tipton 2018, J. Bus. Econ. Stat. 36, 672-683, eqs. 7-9).  A_i of CR2 does not depend on the root D_i.

Under the working model l'E_i e_i and l'E_j e_j have the covariance  δ_ij l'b_i l − l'α_iα_j'l,  with b_i = E_iV_iE_i'
and α_i = E_iX_iM^½: p × p matrices are all that is kept.  A row has 2 (mean)² / variance of Σ(l'E_ie_i)² degrees of
freedom (Bell & McCaffrey); q rows at once have, with E[LV^CRL'] made I, and T_ij (q, q) these covariances,

    η = q (q + 1) / Σ_ij [tr T_ijT_ij + (tr T_ij)²],      F = (η − q + 1) / (ηq) Wald  on q and η − q + 1

which is Hotelling's T² (Pustejovsky & Tipton 2018, eqs. 13-17).

The matrices are n_i × n_i, of clusters of equal size together.  A large cluster whose weights are equal is turned into
the space of its [Z_iΛ X_i], outside of which V_i is a multiple of I and A_i is I.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from jaxmm.errors import RowErrors, row_errors
from jaxmm.inference.ddf._base import Denominator
from jaxmm.inference.robust.clusters import Clusters

KINDS = ("CR0", "CR1", "CR2", "CR3")
AT_ONCE = 1 << 22  # numbers in the n_i × n_i matrices of clusters of equal size that are worked on together
LARGE = 200  # rows of a cluster that is worth turning
ALONE = 1e-9  # share of a variance's mean that is left where residuals of a cluster are zero by its own coefficient
SINGLE = "degrees of freedom are NaN where a single cluster alone determines a coefficient: its errors cannot be seen"
ZERO = 1e-12  # of the largest eigenvalue: a combination of residuals that the model makes zero


class Stack(NamedTuple):
    """Clusters of one size: ``X`` (c, n, p) as to X_s, ``V`` (c, n, n), ``e`` (c, n), and which they are (c,)."""

    X: np.ndarray
    V: np.ndarray
    e: np.ndarray
    which: np.ndarray


@dataclass(frozen=True, eq=False)
class Robust:
    """``b`` and ``alpha`` (m, p, p) of the module's head, in the data's columns: a ``ddf.Reference``."""

    beta: np.ndarray
    vcov: np.ndarray
    b: np.ndarray
    alpha: np.ndarray
    notes: tuple[str, ...] = ()
    name = "satterthwaite"

    def df(self, L: np.ndarray) -> np.ndarray:
        return np.array([self._eta(row[None]) for row in np.asarray(L, float)])

    def denominator(self, L: np.ndarray) -> Denominator:
        q, eta = len(L), self._eta(np.asarray(L, float))
        left = eta - q + 1
        return Denominator(left / eta, left) if left > 0 else Denominator(np.nan, np.nan)

    def _eta(self, L: np.ndarray) -> float:
        own, move = L @ self.b @ L.T, L @ self.alpha
        mean = np.sum(own, axis=0) - np.einsum("msa,mta->st", move, move)
        unit = np.sqrt(np.diag(mean))
        if np.any(np.diag(mean) <= ALONE * np.einsum("mss->s", own)):
            return np.nan
        with np.errstate(invalid="ignore", divide="ignore"):
            S = mean / np.outer(unit, unit)
        if not np.all(np.isfinite(S)) or np.linalg.eigvalsh(S)[0] <= ZERO:
            return np.nan
        half = np.linalg.cholesky(S)

        def standard(x: np.ndarray) -> np.ndarray:
            return np.linalg.solve(half, x / unit[:, None])

        own, move = standard(np.swapaxes(standard(own), 1, 2)), standard(move)
        inside = np.einsum("msa,mta->mst", move, move)
        flat = move.reshape(len(move), -1)
        K = (flat.T @ flat).reshape(*move.shape[1:], *move.shape[1:])  # Σ_i of all products of elements of α_i
        total = np.sum(K**2) + np.einsum("satb,tasb->", K, K) + _both(own - inside) - _both(inside)
        q = len(L)
        return q * (q + 1) / total


def _both(T: np.ndarray) -> float:
    """Σ_i tr T_iT_i + (tr T_i)²."""
    return float(np.einsum("mst,mts->", T, T) + np.sum(np.trace(T, axis1=1, axis2=2) ** 2))


def robust(model: Any, estimates: Any, kind: str, clusters: Clusters) -> Robust:
    """The covariance of the kind, one of ``KINDS``."""
    T, sigma2 = np.asarray(model.arrays.T_X), float(estimates.sigma) ** 2
    beta, p, m = np.asarray(estimates.beta), len(T), clusters.count
    M = np.linalg.solve(T, np.linalg.solve(T, np.asarray(estimates.vcov)).T) / sigma2
    half = np.linalg.cholesky(0.5 * (M + M.T)) if p and np.all(np.isfinite(M)) else M
    pull, b, alpha = np.zeros((m, p)), np.zeros((m, p, p)), np.zeros((m, p, p))
    for stack in stacks(model, estimates, clusters):
        E = T @ _weights(stack, M, kind)
        pull[stack.which] = np.einsum("cpn,cn->cp", E, stack.e)
        b[stack.which] = E @ stack.V @ np.swapaxes(E, 1, 2)
        alpha[stack.which] = E @ stack.X @ half
    factor = m / (m - 1) if kind == "CR1" else 1.0
    found = Robust(beta, factor * pull.T @ pull, b, alpha, (clusters.note(kind),))
    if np.any(np.isnan(found.df(np.eye(len(beta))))):
        return replace(found, notes=(*found.notes, SINGLE))
    return found


def _weights(stack: Stack, M: np.ndarray, kind: str) -> np.ndarray:
    """E_i (c, p, n), but for the factor of CR1, which no degree of freedom depends on."""
    Xt = np.swapaxes(stack.X, 1, 2)
    if kind in ("CR0", "CR1"):
        return M @ np.swapaxes(np.linalg.solve(stack.V, stack.X), 1, 2)
    R = stack.V - stack.X @ M @ Xt
    if kind == "CR3":
        return M @ Xt @ _power(R, -1.0)
    L = np.linalg.cholesky(stack.V)
    Lt = np.swapaxes(L, 1, 2)
    white = np.stack([solve_triangular(l, x, lower=True) for l, x in zip(L, stack.X, strict=True)])
    return M @ np.swapaxes(white, 1, 2) @ _power(Lt @ R @ L, -0.5) @ Lt


def _power(S: np.ndarray, power: float) -> np.ndarray:
    """A power of symmetric matrices, the pseudo-inverse's where they are singular."""
    w, Q = np.linalg.eigh(0.5 * (S + np.swapaxes(S, 1, 2)))
    there = w > ZERO * w[:, -1:]
    w = np.where(there, np.where(there, w, 1.0) ** power, 0.0)
    return (Q * w[:, None, :]) @ np.swapaxes(Q, 1, 2)


# ---------------------------------------------------------------- the clusters
def stacks(model: Any, estimates: Any, clusters: Clusters) -> Iterator[Stack]:
    """The clusters, those of equal size together."""
    d = model.design
    everything = slice(0, len(d.y))
    e = d.y - (0.0 if d.offset is None else d.offset) - d.X @ np.asarray(estimates.beta)
    noise = row_errors(model, np.asarray(estimates.theta), d.residual, d.weights, len(d.y))
    X, terms = model.accumulator.X.rows(everything), _scaled_terms(model, np.asarray(estimates.theta))
    order = np.argsort(clusters.codes, kind="stable")
    sizes = np.bincount(clusters.codes, minlength=clusters.count)
    first = np.cumsum(sizes) - sizes
    for n in np.unique(sizes):
        same = np.flatnonzero(sizes == n)
        each = max(1, AT_ONCE // int(n) ** 2)
        for at in range(0, len(same), each):
            which = same[at : at + each]
            rows = order[first[which][:, None] + np.arange(n)]
            if n >= LARGE and d.residual is None:
                yield from (_turned(X, terms, noise, e, own, k) for own, k in zip(rows, which, strict=True))
            else:
                yield Stack(X[rows], _covariance(terms, noise, rows), e[rows], which)


def _scaled_terms(model: Any, theta: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """ZΛ (n, q) and codes (n,) of each term."""
    d, out = model.design, []
    for (t, _), at in zip(model.theta_terms(), model.structure.slices(), strict=True):
        term = d.terms[t]
        out.append((term.Z @ term.covariance.lam(theta[at], term.inputs), d.factors[term.factor].codes))
    return out


def _covariance(terms: list, noise: RowErrors, rows: np.ndarray) -> np.ndarray:
    """V_i (c, n, n) of clusters with the rows (c, n)."""
    V = noise.blocks(rows)
    for ZL, codes in terms:
        own, level = ZL[rows], codes[rows]
        V += (level[:, :, None] == level[:, None, :]) * (own @ np.swapaxes(own, 1, 2))
    return V


def _turned(X: np.ndarray, terms: list, noise: RowErrors, e: np.ndarray, rows: np.ndarray, which: int) -> Stack:
    """One large cluster, in the space of its [ZΛ X] where that is smaller and the noise is the same all over."""
    n, parts = len(rows), []
    for ZL, codes in terms:
        own, level = np.unique(codes[rows], return_inverse=True)
        parts.append((np.eye(len(own))[level.ravel()][:, :, None] * ZL[rows][:, None, :]).reshape(n, -1))
    ZL, scale = np.hstack(parts), noise.s[rows[0]] ** 2
    if ZL.shape[1] + X.shape[1] >= n or np.any(noise.s[rows] != noise.s[rows[0]]):
        return Stack(X[rows][None], _covariance(terms, noise, rows[None]), e[rows][None], np.array([which]))
    Q, R = np.linalg.qr(np.hstack([ZL, X[rows]]))
    RZ, RX = R[:, : ZL.shape[1]], R[:, ZL.shape[1] :]
    V = scale * np.eye(len(R)) + RZ @ RZ.T
    return Stack(RX[None], V[None], (Q.T @ e[rows])[None], np.array([which]))
