"""Satterthwaite's degrees of freedom of a prediction in a linear model, of its whole variance.

For a row with fixed effects' columns x, a level known to the fit with z, new ones with z_0, and the precision w,

    v(θ) = σ̂²(θ) u(θ),    u = (x + G'z)'(X'V^-1X)^-1(x + G'z) + z'Nz + z_0'ΛΛ'z_0 + 1/w

with the letters of ``inference.joint`` and σ̂² = r²/n_r profiled out.  As for the coefficients (``inference.ddf``),

    df = 2 / Var(log v̂) = 1 / (d'H^-1d + 1/n_r),    d = ∂ log v / ∂θ = ∂ log r² / ∂θ + (∂u/∂θ) / u

so that an interval counts, by the quantile of t, that its variance is estimated: with few levels much, where a level is
new, and little where it has many rows.  Parts that are not uncertain, or not asked for, are not in u.  Derivatives are
exact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs, solver
from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.design import NewData
from jaxmm.estimate import covariance_of_effects
from jaxmm.estimate_glmm import covariance_matrix
from jaxmm.fitted import Fitted
from jaxmm.gram import Gram
from jaxmm.inference.joint import Touched, level_blocks, pair_terms, some_levels
from jaxmm.objective.lmm import profile
from jaxmm.objective.parameters import resolved


def _size(theta: Array, gram: Gram, *_: Any) -> int:
    return gram.structure.solver.size(gram)


def _along(at: Any, theta: Array) -> Any:
    """Derivatives of a pytree by each element of theta, on the first axis."""
    _, push = jax.linearize(at, theta)
    return jax.lax.map(push, jnp.eye(len(theta), dtype=theta.dtype))


@partial(Program, size=_size)
def _moved(theta: Array, gram: Gram) -> Any:
    """By theta (m, ..): log r²; and relative to σ², in the data's columns, (X'V^-1X)^-1, and of each factor G, N of
    each level, and D."""
    p = gram.structure.p
    T_X = jnp.asarray(gram.T_X)

    def at(t):
        lams, alike = resolved(t, gram)
        found = profile(lams, alike)
        inverse = T_X @ jnp.linalg.solve(found.M_X, T_X.T) if p else jnp.zeros((0, 0), t.dtype)
        roots = [T @ lam for T, lam in zip(gram.T, lams, strict=True)]
        G = [
            -jnp.einsum("ab,jbr,rp->jap", T, x[:, :, :p], jnp.linalg.inv(T_X)) if p else x[:, :, :0]
            for T, x in zip(gram.T, solver.explained(lams, alike), strict=True)
        ]
        return found.log_sigma2, inverse, G, list(covariance_of_effects(t, gram)), [r @ r.T for r in roots]

    return _along(at, theta)


@partial(Program, size=_size)
def _moved_columns(theta: Array, gram: Gram, right: tuple[Array, ...]) -> tuple[Array, ...]:
    """By theta (m, c, q, J): N times the columns ``right`` (c, q, J)."""

    def at(t):
        lams, alike = resolved(t, gram)
        done = solver.factorise(lams, alike)
        roots = [T @ lam for T, lam in zip(gram.T, lams, strict=True)]
        own = tuple(jnp.einsum("ba,cbj->caj", root, r) for root, r in zip(roots, right, strict=True))
        x = jax.vmap(lambda r: solver.solve(done, lams, alike, r))(own)
        return tuple(jnp.einsum("ab,cbj->caj", root, part) for root, part in zip(roots, x, strict=True))

    return _along(at, theta)


def _columns(fit: Fitted, f: int, levels: np.ndarray) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Derivatives of N as ``joint.columns`` has N, with theta on the last axis."""
    gram, theta = fit.model.arrays, fit.estimates.theta_scaled
    shapes = [(len(T), J) for T, J in zip(gram.T, level_blocks(fit), strict=True)]
    q = shapes[f][0]
    for at, own, together in some_levels(levels, q * (1 + len(theta)) * sum(a * J for a, J in shapes)):
        right = [np.zeros((together, q, *shape)) for shape in shapes]
        right[f][np.arange(len(own)), :, :, own] = np.eye(q)
        flat = tuple(x.reshape(together * q, *x.shape[2:]) for x in right)
        with computing(fit.model.device):
            moved = [np.asarray(x) for x in _moved_columns(theta, gram, flat)]
        yield at, [np.moveaxis(x.reshape(len(x), together, q, *x.shape[2:]), 0, -1) for x in moved]


class Moving(NamedTuple):
    """Of each row the variance ``v`` (m,) of its errors, without that of a response, ``own`` (m, k) = σ²∂u/∂θ and
    ``shared`` (m, k) = ∂ log r²/∂θ, the same in every row."""

    v: np.ndarray
    own: np.ndarray
    shared: np.ndarray

    def packed(self) -> np.ndarray:
        """(m, 1 + 2k)."""
        return np.column_stack(self)

    @staticmethod
    def unpacked(columns: np.ndarray) -> Moving:
        k = columns.shape[1] // 2
        return Moving(columns[:, 0], columns[:, 1 : 1 + k], columns[:, 1 + k :])


def moving(
    fit: Fitted, rows: NewData, effects_at: list[Touched], uncertain: Collection[str], sampled: bool, v: np.ndarray
) -> Moving:
    """How the variance ``v`` (m,) of each row moves with θ; the errors of the variances themselves are no part of it.
    The arguments as ``joint.covariances`` has them."""
    e, gram = fit.estimates, fit.model.arrays
    with computing(fit.model.device):
        log_r2, *moved = jax.tree.map(np.asarray, _moved(e.theta_scaled, gram))
        errors = fit.model.likelihood.errors(gram, e, False)
    scale = float(e.sigma) ** 2
    effects_at = effects_at if "random" in uncertain else []
    inverse = np.asarray(e.vcov) / scale * ("fixed" in uncertain)
    du = np.empty((len(rows.X), len(log_r2)))
    for first in range(0, len(rows.X), costs.PREDICTED_AT_ONCE):
        at = slice(first, first + costs.PREDICTED_AT_ONCE)
        some = [t._replace(Z=t.Z[at], codes=t.codes[at], known=t.known[at]) for t in effects_at]
        du[at] = _of_rows(rows.X[at], some, moved, errors.effects, inverse, sampled)
    for both, _, _, value in pair_terms(effects_at, partial(_columns, fit)):
        du[both] += 2 * value
    return Moving(v, scale * du, np.broadcast_to(log_r2, du.shape))


def satterthwaite(fit: Fitted, at: Moving, noise: Any = 0.0) -> np.ndarray:
    """Degrees of freedom (m,) of v + ``noise``, the latter a multiple of σ²; ∞ of a variance of zero."""
    e, total = fit.estimates, at.v + noise
    left = float(np.asarray(fit.model.arrays.n_obs)) - (fit.model.structure.p if fit.model.reml else 0)
    left = left if fit.model.structure.profiles_sigma else np.inf  # then σ² is known, or a part of θ
    with np.errstate(invalid="ignore", divide="ignore"):
        d = at.shared + at.own / total[:, None]
        spread = 0.5 * np.einsum("nk,kl,nl->n", d, covariance_matrix(np.asarray(e.hessian), 0), d)
        return np.where(total == 0, np.inf, 1 / (spread + 1 / left))


def _of_rows(
    X: np.ndarray,
    effects_at: list[Touched],
    moved: list[Any],
    effects: list[np.ndarray],
    inverse: np.ndarray,
    sampled: bool,
) -> np.ndarray:
    """(rows, k) derivatives of u, without what is between levels of two factors; ``inverse`` is zero where the fixed
    effects are known."""
    (dV, dG, dN, dD), a = moved, X.copy()
    for t in effects_at:
        a += np.where(t.known[:, None], np.einsum("nq,nqp->np", t.Z, effects[t.place][t.codes]), 0.0)
    aV = a @ inverse
    out = np.einsum("np,kpr,nr->nk", a, dV, a, optimize=True) if inverse.any() else np.zeros((len(X), len(dV)))
    for t in effects_at:
        for k in range(len(dV)):
            own = np.einsum("na,nab,nb->n", t.Z, dN[t.place][k][t.codes], t.Z)
            own += 2 * np.einsum("nq,nqp,np->n", t.Z, dG[t.place][k][t.codes], aV)
            new = np.einsum("na,ab,nb->n", t.Z, dD[t.place][k], t.Z) if sampled else 0.0
            out[:, k] += np.where(t.known, own, new)
    return out
