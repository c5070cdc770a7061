"""Arrays -> Estimates: the search, and what is read off at its end.

Everything is a derivative of ``solver.reduce``.  With e = y - X beta and C*_ee the entry of C* at it,

    modes       b = NB_e = -½ dC*_ee/dB_e                 (the BLUPs)
    covariance  Var(b | y, beta, theta) = sigma² N_jj,    N_jj = d log|M| / dA_jj

in the columns Z_s, carried back by b = T b_s.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.objective.lmm import Profile, check_precision, profile, scaled_deviance, scaled_factors
from jaxmm.optimize import Control, Objective, Search, Status, minimise, newton_step, saddle_threshold
from jaxmm.solver import reduce
from jaxmm.structure import Structure


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "beta", "theta", "sigma", "deviance", "vcov", "theta_scaled", "gradient", "hessian",
        "decrement", "eigenvalue", "iterations", "status",
    ],
    meta_fields=[],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Estimates:
    """A fit as arrays, a pytree.

    ``beta`` (p,) and ``vcov`` (p, p) in the data's columns; ``theta`` (m,) relative covariance factor in the
    data's columns, rectified; ``theta_scaled`` where the search ended, as to Z_s, with the ``gradient``,
    ``hessian``, Newton ``decrement`` and least ``eigenvalue`` there; ``status`` an ``optimize.Status``.
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


# ---------------------------------------------------------------- compiled programs, one per structure
def _value_and_derivatives(theta: Array, gram: Gram, one_by_one: bool):
    """Deviance, gradient and Hessian; the columns of the Hessian at once, or one after another to save memory."""
    (value, gradient), push = jax.linearize(lambda t: jax.value_and_grad(scaled_deviance)(t, gram), theta)
    eye = jnp.eye(len(theta), dtype=theta.dtype)
    columns = jax.lax.map(lambda e: push(e)[1], eye) if one_by_one else jax.vmap(lambda e: push(e)[1])(eye)
    return value, gradient, 0.5 * (columns + columns.T)


derivatives = jax.jit(_value_and_derivatives, static_argnums=2)
gradient_only = jax.jit(jax.value_and_grad(scaled_deviance))


class Solution(NamedTuple):
    """The profiled parameters at theta: beta and its covariance in the data's columns."""

    beta: Array
    sigma: Array
    vcov: Array


def _solution(theta: Array, gram: Gram) -> Solution:
    s = gram.structure
    at: Profile = profile(scaled_factors(theta, s), gram)
    df = gram.n_obs - s.p if s.reml else gram.n_obs
    sigma2 = at.pwrss / df
    inverse = jnp.linalg.inv(at.M_X) if s.p else at.M_X
    return Solution(
        gram.T_X @ (at.beta + gram.beta0), jnp.sqrt(sigma2), sigma2 * gram.T_X @ (0.5 * (inverse + inverse.T)) @ gram.T_X.T
    )


solution = jax.jit(_solution)


def residual_gram(theta: Array, gram: Gram) -> Gram:
    """The statistics of e = y - X beta at theta, with no X: one column in each border."""
    s = gram.structure
    beta = profile(scaled_factors(theta, s), gram).beta
    weights = jnp.concatenate([-beta, jnp.ones(1, beta.dtype)])
    size, q0 = s.rest_size, 0

    def narrow(border: Array) -> Array:
        width = border.shape[1] - len(weights)
        e = jnp.einsum("qrj,r->qj", border[:, width:], weights)[:, None]
        return jnp.concatenate([border[:, :width], e], axis=1)

    corner_e = gram.corner[:, size:] @ weights
    ee = corner_e[size:] @ weights
    side = corner_e[:size]
    corner = jnp.block([[gram.corner[:size, :size], side[:, None]], [side[None], ee[None, None]]])
    return dataclasses.replace(
        gram,
        borders=tuple(narrow(b) for b in gram.borders),
        corner=corner,
        structure=dataclasses.replace(s, p=q0, reml=False),
    )


def _split_rest(flat: Array, s: Structure) -> list[Array]:
    """(Q_R,) -> (q, J) of each factor of the rest."""
    out, at = [], 0
    for levels, q in s.rest:
        out.append(flat[at : at + levels * q].reshape(levels, q).T)
        at += levels * q
    return out


def _modes(theta: Array, gram: Gram) -> tuple[Array, ...]:
    s, narrow = gram.structure, residual_gram(theta, gram)
    lams = scaled_factors(theta, s)

    def explained(columns, side):
        borders = tuple(
            jnp.concatenate([b[:, :-1], c[:, None]], axis=1) for b, c in zip(narrow.borders, columns, strict=True)
        )
        corner = narrow.corner.at[:-1, -1].set(side).at[-1, :-1].set(side)
        return reduce(lams, dataclasses.replace(narrow, borders=borders, corner=corner))[1][0, 0]

    columns, side = jax.grad(explained, argnums=(0, 1))(
        tuple(b[:, -1] for b in narrow.borders), narrow.corner[:-1, -1]
    )
    b_s = [-0.5 * c for c in columns] + _split_rest(-0.5 * side, s)
    return tuple((T @ b).T for T, b in zip(gram.T, b_s, strict=True))


modes = jax.jit(_modes)


def _conditional_covariance(theta: Array, gram: Gram) -> tuple[Array, ...]:
    s, narrow = gram.structure, residual_gram(theta, gram)
    lams = scaled_factors(theta, s)

    def logdet(blocks, corner):
        return reduce(lams, dataclasses.replace(narrow, blocks=blocks, corner=corner))[0]

    blocks, corner = jax.grad(logdet, argnums=(0, 1))(narrow.blocks, narrow.corner)
    out, at = [jnp.moveaxis(b, -1, 0) for b in blocks], 0
    for levels, q in s.rest:
        start = at + q * jnp.arange(levels)
        inside = start[:, None] + jnp.arange(q)
        out.append(corner[inside[:, :, None], inside[:, None, :]])
        at += levels * q
    return tuple(T @ (0.5 * (N + jnp.swapaxes(N, 1, 2))) @ T.T for T, N in zip(gram.T, out, strict=True))


conditional_covariance = jax.jit(_conditional_covariance)


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
    pairs += zip(_split_rest(np.diag(corner)[:size], s), _split_rest(corner[:size, -1], s), strict=True)
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


def is_dear(s: Structure, levels: int) -> bool:
    """Whether a Hessian costs so much more than a gradient that a second program is worth compiling."""
    return s.rest_size > 300 or levels * (s.chain[0] + s.p) * s.num_theta > 500_000
