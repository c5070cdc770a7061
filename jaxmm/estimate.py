"""Arrays -> Estimates: the search, and what is read off at its end.

Everything is a derivative of ``solver.reduce``.  With B = Z'W[X y] and A = Z'WZ,

    modes       b = NB (-beta, 1),                        NB = -½ d tr C* / dB     (the BLUPs)
    covariance  Var(b | y, beta, theta) = sigma² N_jj,    N_jj = d log|M| / dA_jj

in the columns Z_s, carried back by b = T b_s.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.objective.lmm import Profile, check_precision, profile, scaled_factors
from jaxmm.optimize import Control, Objective, Search, Status, minimise, newton_step, saddle_threshold
from jaxmm.solver import reduce
from jaxmm.structure import Structure


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "beta", "theta", "sigma", "deviance", "vcov", "theta_scaled", "gradient", "hessian",
        "decrement", "eigenvalue", "iterations", "status", "beta_scaled",
    ],
    meta_fields=[],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Estimates:
    """A fit as arrays, a pytree.

    ``beta`` (p,) and ``vcov`` (p, p) in the data's columns; ``theta`` (m,) relative covariance factor in the
    data's columns, rectified; ``theta_scaled`` where the search ended, as to Z_s, with the ``gradient``,
    ``hessian``, Newton ``decrement`` and least ``eigenvalue`` there; ``status`` an ``optimize.Status``;
    ``beta_scaled`` as to X_s, beside beta0.
    """

    beta: Array
    theta: Array
    sigma: Array
    deviance: Array
    vcov: Array
    theta_scaled: Array
    gradient: Array
    hessian: Array
    decrement: Array
    eigenvalue: Array
    iterations: Array
    status: Array
    beta_scaled: Array


# ---------------------------------------------------------------- compiled programs, one per structure
def _criterion(theta: Array, gram: Gram) -> tuple[Array, Profile]:
    at = profile(scaled_factors(theta, gram.structure), gram)
    return at.deviance, at


def _value_and_derivatives(theta: Array, gram: Gram, one_by_one: bool):
    """Deviance, gradient, Hessian, profile; the Hessian's columns at once, or one after another to save memory."""

    def first(t):
        (value, at), gradient = jax.value_and_grad(_criterion, has_aux=True)(t, gram)
        return gradient, (value, at)

    gradient, push, (value, at) = jax.linearize(first, theta, has_aux=True)
    eye = jnp.eye(len(theta), dtype=theta.dtype)
    columns = jax.lax.map(push, eye) if one_by_one else jax.vmap(push)(eye)
    return value, gradient, 0.5 * (columns + columns.T), at


derivatives = jax.jit(_value_and_derivatives, static_argnums=2)
gradient_only = jax.jit(jax.value_and_grad(_criterion, has_aux=True))


def objective(gram: Gram) -> Objective:
    """The criterion on the host: NumPy in, NumPy out."""
    dear = is_dear(gram)

    def gradient(theta):
        (value, at), g = gradient_only(theta, gram)
        return float(value), np.asarray(g), at

    def hessian(theta):
        value, g, H, at = derivatives(theta, gram, dear)
        return float(value), np.asarray(g), np.asarray(H), at

    return Objective(gradient, hessian, dear)


def is_dear(gram: Gram) -> bool:
    """Whether a Hessian costs so much more than a gradient that a second program is worth compiling."""
    s = gram.structure
    work = gram.borders[0].size * s.num_theta
    return s.rest_size > 300 or work > 500_000


def _split_rest(flat: Array, s: Structure) -> list:
    """(Q_R, ...) -> (J, q, ...) of each factor of the rest."""
    out, at = [], 0
    for levels, q in s.rest:
        out.append(flat[at : at + levels * q].reshape(levels, q, *flat.shape[1:]))
        at += levels * q
    return out


@jax.jit
def explained(theta: Array, gram: Gram) -> tuple[Array, ...]:
    """NB = ΛM^-1Λ'Z'W[X_s y] at ``theta`` (as to Z_s), per factor (J, q, p + 1), in the data's columns of Z.

    The modes are NB (-beta_s, 1): what of the residual the random effects take up.  d tr C* / dB = -2 NB.
    """
    s = gram.structure
    lams, width = scaled_factors(theta, s), s.p + 1

    def trace(borders, corner):
        C = reduce(lams, dataclasses.replace(gram, borders=borders, corner=corner))[1]
        return jnp.trace(C)

    borders, corner = jax.grad(trace, argnums=(0, 1))(gram.borders, gram.corner)
    NB = [jnp.moveaxis(-0.5 * b[:, -width:], -1, 0) for b in borders]
    NB += _split_rest(-0.5 * corner[: s.rest_size, s.rest_size :], s)
    return tuple(jnp.einsum("ab,jbr->jar", T, x) for T, x in zip(gram.T, NB, strict=True))


@jax.jit
def conditional_covariance(theta: Array, gram: Gram) -> tuple[Array, ...]:
    """N_jj, the covariance of the effects of each level given the data, beta and theta, over sigma²: (J, q, q)."""
    s = gram.structure
    lams = scaled_factors(theta, s)

    def logdet(blocks, corner):
        return reduce(lams, dataclasses.replace(gram, blocks=blocks, corner=corner))[0]

    blocks, corner = jax.grad(logdet, argnums=(0, 1))(gram.blocks, gram.corner)
    N, at = [jnp.moveaxis(b, -1, 0) for b in blocks], 0
    for levels, q in s.rest:
        inside = at + q * jnp.arange(levels)[:, None] + jnp.arange(q)
        N.append(corner[inside[:, :, None], inside[:, None, :]])
        at += levels * q
    return tuple(T @ (0.5 * (x + jnp.swapaxes(x, 1, 2))) @ T.T for T, x in zip(gram.T, N, strict=True))


# ---------------------------------------------------------------- the start and the search
def moment_start(gram: Gram) -> np.ndarray:
    """A rough theta (m,) as to Z_s from one pass over the statistics, on the host.

    For one effect with columns of unit mean square, S = Σ_j (z_j'e)²/z_j'z_j has expectation (v - d) J + d n when
    v is the total variance and d the effect's: method of moments, one effect at a time.  Never zero, where the
    search would be stuck.
    """
    s, n = gram.structure, float(gram.n_obs)
    corner = np.asarray(gram.corner)
    pairs = [
        (np.stack([np.asarray(A)[k, k] for k in range(A.shape[0])]), np.asarray(b)[:, -1])
        for A, b in zip(gram.blocks, gram.borders, strict=True)
    ]
    size = s.rest_size
    rest = zip(_split_rest(np.diag(corner)[:size], s), _split_rest(corner[:size, -1], s), strict=True)
    pairs += [(square.T, cross.T) for square, cross in rest]
    total = max(corner[-1, -1] / n, np.finfo(corner.dtype).tiny)
    variances = []
    for square, cross in pairs:
        seen = square > 1e-12 * square.max(initial=0.0)
        explained = np.sum(np.where(seen, cross**2 / np.where(seen, square, 1.0), 0.0), axis=1)
        levels = seen.sum(axis=1)
        variances.append(np.clip((explained - levels * total) / np.maximum(n - levels, 1.0), 0.0, total))
    residual = max(total - sum(v.sum() for v in variances), 0.02 * total)
    theta = []
    for term in s.terms:
        own = variances[term.position][term.at : term.at + term.covariance.q]
        lam = np.diag(np.clip(np.sqrt(own / residual), 0.05, 20.0))
        theta.append(term.covariance.from_factor(lam))
    return np.concatenate(theta)


def scaled_theta(theta: np.ndarray, T: list[np.ndarray], s: Structure) -> np.ndarray:
    """theta as to the data's columns -> theta as to Z_s."""
    return _change(theta, [np.linalg.inv(t) for t in T], s)


def original_theta(theta: np.ndarray, T: list[np.ndarray], s: Structure) -> np.ndarray:
    """theta as to Z_s -> theta as to the data's columns, diagonals non-negative."""
    return _change(theta, T, s)


def _change(theta: np.ndarray, T: list[np.ndarray], s: Structure) -> np.ndarray:
    out = []
    for term, at in zip(s.terms, s.slices(), strict=True):
        inside = slice(term.at, term.at + term.covariance.q)
        lam = term.covariance.factor(np.asarray(theta)[at])
        out.append(term.covariance.from_factor(T[term.position][inside, inside] @ lam))
    return np.concatenate(out)


def estimate_on_host(gram: Gram, start: np.ndarray | None, control: Control) -> Estimates:
    """The search from the host, and NumPy estimates; call it with x64 enabled."""
    s = gram.structure
    T = [np.asarray(t) for t in gram.T]
    theta = moment_start(gram) if start is None else scaled_theta(start, T, s)
    found = minimise(objective(gram), theta, control)
    return _estimates(found, gram, T)


def _estimates(found: Search, gram: Gram, T: list[np.ndarray]) -> Estimates:
    s, at = gram.structure, found.aux
    df = float(gram.n_obs) - (s.p if s.reml else 0)
    sigma2 = float(at.pwrss) / df
    T_X = np.asarray(gram.T_X)
    vcov = np.linalg.inv(np.asarray(at.M_X)) if s.p and np.all(np.isfinite(at.M_X)) else np.asarray(at.M_X)
    vcov = sigma2 * T_X @ (0.5 * (vcov + vcov.T)) @ T_X.T
    return Estimates(
        beta=T_X @ (np.asarray(at.beta) + np.asarray(gram.beta0)),
        theta=original_theta(found.theta, T, s),
        sigma=np.sqrt(sigma2),
        deviance=found.value,
        vcov=vcov,
        theta_scaled=found.theta,
        gradient=found.gradient,
        hessian=found.hessian,
        decrement=found.decrement,
        eigenvalue=found.eigenvalue,
        iterations=found.iterations,
        status=found.status,
        beta_scaled=np.asarray(at.beta),
    )
