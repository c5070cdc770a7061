"""Estimates without a row, or a level of the outermost factor, from derivatives at those of all.

At any θ the deviance without row i follows from what one backward pass gives for all rows at once.  With c_i how often
row i counts, h_i = ∂/∂c_i (log|M| + log|X'V⁻¹X|) its leverage and q_i = ∂r²/∂c_i = w_i e_i² (an envelope),

    log|M| + log|X'V⁻¹X|  +  log(1 − h_i)          r²  −  q_i / (1 − h_i)          β̂  −  (∂β̂/∂c_i) / (1 − h_i)

are exact, of rank one (Cook & Weisberg 1982, §3.4, in the mixed model equations).  log|M| and C* = [X y]'V⁻¹[X y] are
sums over the levels of the outermost factor, with parts ∂/∂c_i: subtracted, they give the deviance without level i.

g_i and H_i are its gradient and Hessian at θ̂, exact; with the third derivative T of the deviance of all, what is sought
is the root δ of

    g_i + H_i δ + ½ T[δ, δ] = 0,        θ̂ without i  ≈  θ̂ + δ

near −H_i⁻¹g_i, that Newton step itself where the search for the root does not end.  β̂ and σ̂² follow by their slopes.
In a generalised model δ is of (β, θ, log φ), and the deviance without a level the sum of the others'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program
from jaxmm._types import Array
from jaxmm.estimate import objective
from jaxmm.estimate_glmm import derivatives as of_generalised
from jaxmm.estimate_glmm import is_large
from jaxmm.fitted import Fitted
from jaxmm.gram import Gram
from jaxmm.inference.robust import Clusters, scores
from jaxmm.lanes.statistics import ResponseMap, gram_of, response_map, statistics
from jaxmm.objective.lmm import eliminate
from jaxmm.objective.parameters import scaled_factors
from jaxmm.pure import gram_from_rows
from jaxmm.rows import Rows
from jaxmm.solver import reduce, spd
from jaxmm.solver.spd import DENSE


class Step(NamedTuple):
    """Parameters without each (G, ..): β in the data's columns, θ as to Z_s, log φ."""

    beta: np.ndarray
    theta: np.ndarray
    log_phi: np.ndarray


# ---------------------------------------------------------------- linear models
def without_rows(fit: Fitted) -> Step:
    """Of a linear model, without each row that counts."""
    e = fit.estimates
    gram: Any = fit.model.arrays
    return _step(fit, _rows(e.theta_scaled, gram, fit.model.rows, np.ones(len(fit.model.design.y))))


def without_levels(fit: Fitted, codes: np.ndarray, count: int) -> Step:
    """Of a linear model, without each level of its outermost factor."""
    model, e = fit.model, fit.estimates
    by = response_map(model.accumulator, model.design.offset)
    sizes = np.bincount(codes, minlength=count).astype(float)
    return _step(fit, _levels(e.theta_scaled, model.arrays, by, model.design.y, sizes))


def _step(fit: Fitted, found: Any) -> Step:
    """From gradients (m, G) and Hessians (m, m, G) of the deviances, and (β_s, log σ²) with slopes (m, p + 1, G)."""
    e = fit.estimates
    gram: Any = fit.model.arrays
    g, H, rest, slopes = (np.moveaxis(np.asarray(x), -1, 0) for x in found)
    criterion = objective(gram)

    def hessian(theta: np.ndarray) -> np.ndarray:
        return criterion.hessian(theta)[2]

    move = roots(g, H, np.asarray(e.theta_scaled), np.asarray(e.hessian), hessian)
    rest = rest + np.einsum("gmr,gm->gr", slopes, move)
    return Step(rest[:, :-1] @ np.asarray(gram.T_X).T, np.asarray(e.theta_scaled) + move, rest[:, -1:])  # pyright: ignore


# ---------------------------------------------------------------- the root
TOLD = 1e-9  # of the largest eigenvalue of H: a direction in which the likelihood tells something
APART = 0.02  # standard errors, between the Hessians whose difference is T
STEPS = 8
FAR = 5.0  # standard errors: the expansion says nothing there


def roots(
    g: np.ndarray, H: np.ndarray, at: np.ndarray, whole: np.ndarray, hessian: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """δ (G, k) of the module's head, for g (G, k) and H (G, k, k) at ``at``, where that of all is ``whole``; found in
    units of standard errors, in the directions that the likelihood tells."""
    w, Q = np.linalg.eigh(whole)
    told = w > TOLD * np.max(np.abs(w), initial=1e-300)
    S = Q[:, told] * np.sqrt(2 / w[told])
    k = S.shape[1]
    ahead, behind = (np.array([hessian(at + sign * APART * s) for s in S.T]) for sign in (1, -1))
    T = np.einsum("kab,ai,bj->ijk", (ahead - behind) / (2 * APART), S, S) if k else np.zeros((0, 0, 0))
    T = sum(np.transpose(T, axes) for axes in permutations(range(3))) / 6
    g, H = g @ S, S.T @ H @ S
    usable = np.all(np.isfinite(H), axis=(1, 2)) & np.all(np.isfinite(g), axis=1)
    usable[usable] &= np.linalg.eigvalsh(H[usable])[:, 0] > TOLD
    H = np.where(usable[:, None, None], H, 2 * np.eye(k))
    newton = -np.linalg.solve(H, g[:, :, None])[:, :, 0]
    delta, last, lost = newton, newton, np.zeros(len(newton), bool)
    for _ in range(STEPS):
        bent = np.einsum("abc,gc->gab", T, delta)
        slope = g + np.einsum("gab,gb->ga", H + 0.5 * bent, delta)
        J = H + bent
        down = np.linalg.eigvalsh(J)[:, 0] > 0.1
        J = np.where(down[:, None, None], J, H)
        last = np.linalg.solve(J, slope[:, :, None])[:, :, 0]
        lost |= ~(np.linalg.norm(delta - last, axis=1) < 10 * FAR)  # NaN too
        delta = np.where(lost[:, None], 0.0, delta - last)
    size = np.linalg.norm(delta, axis=1)
    ended = ~lost & (np.linalg.norm(last, axis=1) < 1e-3 * (1 + size)) & (size < FAR)
    return np.where(ended[:, None], delta, newton) @ S.T


@partial(Program, size=lambda theta, gram, rows, ones: rows.y.size)
def _rows(theta: Array, gram: Gram, rows: Rows, ones: Array) -> tuple[Array, ...]:
    s = gram.structure
    df = gram.n_obs - (s.p if s.reml else 0) - 1

    def without(t: Array) -> tuple[Array, Array]:
        def parts(c: Array) -> Array:
            own = gram_from_rows(gram, rows, counts=c)
            at = eliminate(scaled_factors(t, gram), replace(own, structure=replace(s, reml=True)))
            return jnp.concatenate([jnp.stack([at.logdet, at.logdet_X, at.pwrss]), at.beta])

        (logdet, logdet_X, pwrss, *beta), pull = jax.vjp(parts, ones)
        by_c = jax.vmap(lambda x: pull(x)[0])(jnp.eye(3 + s.p, dtype=ones.dtype))
        left = 1 - by_c[0] - by_c[1]
        log_M = logdet + jnp.log(1 - by_c[0])
        logs = logdet + logdet_X + jnp.log(left) if s.reml else log_M
        log_r2 = jnp.log(pwrss - by_c[2] / left)
        beta = jnp.stack([*beta])[:, None] + gram.beta0[:, None] - by_c[3:] / left if s.p else by_c[3:]
        return logs + df * log_r2, jnp.concatenate([beta, (log_r2 - jnp.log(df))[None]])

    return _derivatives(without, theta)


@partial(Program, size=lambda theta, gram, by, y, sizes: y.size)
def _levels(theta: Array, gram: Gram, by: ResponseMap, y: Array, sizes: Array) -> tuple[Array, ...]:
    s = gram.structure
    k = s.p + 1

    def without(t: Array) -> tuple[Array, Array]:
        def parts(c: Array) -> tuple[Array, Array]:
            own = jax.tree.map(lambda x: x[..., 0], statistics(y[:, None], by, c[:, None]))
            counted = gram_of(gram, own)
            logdet, C = reduce(scaled_factors(t, gram), counted)
            return jnp.append(C.ravel(), logdet), counted.beta0

        value, pull, beta0 = jax.vjp(parts, jnp.ones_like(sizes), has_aux=True)
        by_c = jax.vmap(lambda x: pull(x)[0])(jnp.eye(k * k + 1, dtype=y.dtype))

        def one(total: Array, size: Array) -> tuple[Array, Array]:
            C, logs = total[:-1].reshape(k, k), total[-1]
            M_X, right, pwrss = C[:-1, :-1], C[:-1, -1:], C[-1, -1]
            df, beta = gram.n_obs - size - (s.p if s.reml else 0), beta0
            if s.p:
                Linv = DENSE.factor(M_X)
                pwrss = pwrss - spd.quad(DENSE, M_X, Linv, right)[0, 0]
                beta = beta + spd.solve(DENSE, M_X, Linv, right)[:, 0]
                logs = logs + spd.logdet(DENSE, M_X, Linv) if s.reml else logs
            log_r2 = jnp.log(pwrss)
            return logs + df * log_r2, jnp.append(beta, log_r2 - jnp.log(df))

        return jax.vmap(one, (-1, 0), -1)(value[:, None] - by_c, sizes)

    return _derivatives(without, theta)


def _derivatives(without: Callable[[Array], tuple[Array, Array]], theta: Array) -> tuple[Array, ...]:
    """Of deviances (G,) the gradient (m, G) and Hessian (m, m, G), of the rest (p + 1, G) its value and slopes."""
    eye = jnp.eye(len(theta), dtype=theta.dtype)

    def first(t: Array) -> tuple[Array, tuple[Array, Array]]:
        (_, rest), push = jax.linearize(without, t)
        g, slopes = jax.vmap(push)(eye)
        return g, (rest, slopes)

    g, push, (rest, slopes) = jax.linearize(first, theta, has_aux=True)
    return g, jax.vmap(push)(eye), rest, slopes


# ---------------------------------------------------------------- generalised models
def without_clusters(fit: Fitted, codes: np.ndarray, count: int, by: str) -> Step:
    """Of a generalised model, without each level of its outermost factor."""
    e = fit.estimates
    rows: Any = fit.model.arrays
    g, H = scores.derivatives(fit.model, e, Clusters(codes, count, by), True)
    large = is_large(rows)

    def hessian(psi: np.ndarray) -> np.ndarray:
        return np.asarray(of_generalised(psi, rows, e.u, e.n_agq, large)[2])

    psi = np.asarray(e.psi)
    move = roots(-g, np.asarray(e.hessian) - H, psi, np.asarray(e.hessian), hessian)
    found = rows.layout.split((psi + move).T)
    return Step(found.beta.T @ np.asarray(rows.T_X).T, found.theta.T, found.log_phi.T)
