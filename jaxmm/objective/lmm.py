"""The profiled deviance of a linear mixed model, from sufficient statistics.

With C* = [X y]'V^-1[X y] = R'R and r the last diagonal element of R (Bates et al. 2015, eqs. 34 and 42):

    ML    -2l = log|M| + n (1 + log(2π r²/n)) - Σ log w
    REML  -2l = log|M| + (n - p)(1 + log(2π r²/(n - p))) + log|X'V^-1 X| - Σ log w

beta and sigma² are profiled out; r² is the penalised weighted residual sum of squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.objective.parameters import (
    Parameters,
    as_parameters,
    check_precision,
    original_factors,
    scaled_factors,
)
from jaxmm.solver import reduce, spd
from jaxmm.solver.spd import DENSE


class Profile(NamedTuple):
    """What profiling leaves behind, in the columns X_s: beta_s and M_X = X_s'V^-1 X_s."""

    deviance: Array
    pwrss: Array
    beta: Array
    M_X: Array
    logdet: Array


def profile(lams: tuple[Array, ...], gram: Gram) -> Profile:
    """The criterion and the profiled parameters at the factors ``lams``."""
    s = gram.structure
    logdet, C = reduce(lams, gram)
    M_X, right, pwrss = C[:-1, :-1], C[:-1, -1:], C[-1, -1]
    df, logdet_X, beta = gram.n_obs, jnp.zeros_like(pwrss), jnp.zeros_like(right[:, 0])
    if s.p:
        Linv = DENSE.factor(M_X)
        pwrss = pwrss - spd.quad(DENSE, M_X, Linv, right)[0, 0]
        beta = spd.solve(DENSE, M_X, Linv, right)[:, 0]
        if s.reml:
            df = gram.n_obs - s.p
            logdet_X = spd.logdet(DENSE, M_X, Linv) - 2 * gram.logdet_T
    deviance = logdet + df * (1 + jnp.log(2 * jnp.pi * pwrss / df)) + logdet_X - gram.sum_log_weights
    return Profile(deviance, pwrss, beta, M_X, logdet)


def scaled_deviance(theta: Array, gram: Gram) -> Array:
    """-2 log-likelihood, restricted if the structure says so, at theta as to Z_s: what the search minimises."""
    return profile(scaled_factors(theta, gram), gram).deviance


def deviance(theta: Array, arrays: Gram) -> Array:
    """The profiled deviance at ``theta``, in the columns of the data.

    A pure function of its arguments: safe under ``jit``, ``grad``, ``hessian``, ``vmap``.

    Args:
        theta: (m,) relative covariance factor, column-major lower triangle per term (``fit.theta``).
        arrays: ``model.arrays``.

    Returns:
        -2 log-likelihood with all constants; the restricted one when the model was made with ``reml=True``.

    Raises:
        TypeError: for float64 arrays while JAX is in 32-bit mode, which would truncate them in silence.
    """
    check_precision(arrays.corner.dtype)
    return profile(original_factors(jnp.asarray(theta, arrays.corner.dtype), arrays), arrays).deviance


def neg2_loglik(parameters: Parameters | Mapping[str, Array], arrays: Gram) -> Array:
    """-2 log-likelihood at any parameters, nothing profiled out: log|V| + e'V^-1 e / σ² + n log 2πσ² - Σ log w.

    The full likelihood, also of a model made with ``reml=True``. A pure function, as ``deviance``.

    Args:
        parameters: ``Parameters``, or a mapping with its three names.
        arrays: ``model.arrays``.
    """
    check_precision(arrays.corner.dtype)
    parameters = as_parameters(parameters)
    s, dtype = arrays.structure, arrays.corner.dtype
    logdet, C = reduce(original_factors(jnp.asarray(parameters.theta, dtype), arrays), arrays)
    e = jnp.ones(1, dtype)
    if s.p:
        beta = jnp.linalg.solve(arrays.T_X, jnp.asarray(parameters.beta, dtype)) - arrays.beta0
        e = jnp.concatenate([-beta, e])
    log_phi = jnp.asarray(parameters.log_phi, dtype)
    n = arrays.n_obs
    return logdet + n * (jnp.log(2 * jnp.pi) + log_phi) + e @ C @ e * jnp.exp(-log_phi) - arrays.sum_log_weights
