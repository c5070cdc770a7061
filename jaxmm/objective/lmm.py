"""The likelihood of a linear mixed model, from sufficient statistics: with beta, or sigma² too, taken out.

With C* = [X y]'V^-1[X y] = R'R, r the last diagonal element of R and M_X = X'V^-1 X, Var(y) = σ²V, beta is profiled
out by ML and integrated out by REML (Bates et al. 2015, eqs. 34 and 42):

    ML    criterion(theta, log σ²) = log|M| + n log 2πσ² + r²/σ² - Σ log w                          df = n
    REML  criterion(theta, log σ²) = log|M| + (n - p) log 2πσ² + r²/σ² + log|M_X| - Σ log w         df = n - p

r² is the penalised weighted residual sum of squares.  The minimum by σ² lies at r²/df, where the middle terms are
df (1 + log(2π r²/df)): the profiled ``deviance``, which the search minimises.  Where σ² is known, or a part of theta,
it is the criterion there.  ``vcov(theta, log σ²)`` = σ² M_X^-1 is
the covariance of beta at given variances.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.layout import Parameters
from jaxmm.objective.parameters import (
    as_parameters,
    check_precision,
    original_factors,
    resolved,
    whitened,
)
from jaxmm.solver import reduce, spd
from jaxmm.solver.spd import DENSE


class Profile(NamedTuple):
    """What profiling leaves behind, in the columns X_s: beta_s and M_X = X_s'V^-1 X_s; log σ², also where known."""

    deviance: Array
    pwrss: Array
    beta: Array
    M_X: Array
    logdet: Array
    log_sigma2: Array


class Unprofiled(NamedTuple):
    """The random effects and beta eliminated, sigma² not yet: the letters of the module's head, in the columns X_s."""

    logdet: Array
    logdet_X: Array
    df: Any
    pwrss: Array
    beta: Array
    M_X: Array


def eliminate(lams: tuple[Array, ...], gram: Gram, restricted: Array | None = None) -> Unprofiled:
    """What the criterion is made of, at the factors ``lams``.  ``restricted``: 1 by REML, 0 by ML, so that one program
    serves both; by default as the structure says."""
    s = gram.structure
    share = s.reml if restricted is None else restricted
    logdet, C = reduce(lams, gram)
    M_X, right, pwrss = C[:-1, :-1], C[:-1, -1:], C[-1, -1]
    df, logdet_X, beta = gram.n_obs, jnp.zeros_like(pwrss), jnp.zeros_like(right[:, 0])
    if s.p:
        Linv = DENSE.factor(M_X)
        pwrss = pwrss - spd.quad(DENSE, M_X, Linv, right)[0, 0]
        beta = spd.solve(DENSE, M_X, Linv, right)[:, 0]
        if share is not False:
            df = gram.n_obs - share * s.p
            logdet_X = share * (spd.logdet(DENSE, M_X, Linv) - 2 * gram.logdet_T)
    return Unprofiled(logdet, logdet_X, df, pwrss, beta, M_X)


def profile(lams: tuple[Array, ...], gram: Gram, restricted: Array | None = None) -> Profile:
    """The criterion and the profiled parameters at the factors ``lams``; ``restricted`` as ``eliminate`` takes it."""
    at = eliminate(lams, gram, restricted)
    if gram.log_sigma2 is None:
        log_sigma2 = jnp.log(at.pwrss / at.df)
        spread = at.df * (1 + jnp.log(2 * jnp.pi * at.pwrss / at.df))
    else:
        log_sigma2 = gram.log_sigma2
        spread = _spread(at, log_sigma2)
    deviance = at.logdet + spread + at.logdet_X - gram.sum_log_weights
    return Profile(deviance, at.pwrss, at.beta, at.M_X, at.logdet, log_sigma2)


def _spread(at: Unprofiled, log_sigma2: Array) -> Array:
    return at.df * (jnp.log(2 * jnp.pi) + log_sigma2) + at.pwrss * jnp.exp(-log_sigma2)


def scaled_deviance(theta: Array, gram: Gram) -> Array:
    """-2 log-likelihood, restricted if the structure says so, at theta as to Z_s: what the search minimises."""
    return profile(*resolved(theta, gram)).deviance


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

    Bates, Mächler, Bolker & Walker (2015), J. Stat. Softw. 67(1), eqs. 34 and 42.

    Example:
        >>> with jax.enable_x64(True):
        ...     print(round(float(mm.deviance(fit.theta, fit.model.arrays)), 2))
        1743.63
    """
    return profile(*resolved_of_data(theta, arrays)).deviance


def resolved_of_data(theta: Array, arrays: Gram) -> tuple[tuple[Array, ...], Gram]:
    """As ``resolved``, of a theta as to the data; of float64 arrays in 64-bit mode only."""
    check_precision(arrays.dtype)
    theta = jnp.asarray(theta, arrays.dtype)
    return original_factors(theta, arrays), whitened(theta, arrays)


def criterion(theta: Array, log_sigma2: Array, arrays: Gram) -> Array:
    """-2 log-likelihood at ``theta`` and log σ², of the best beta by ML, restricted if the structure says so.

    A pure function, as ``deviance``, which is its minimum by ``log_sigma2`` ().  Its Hessian by both is twice the
    observed information of the variance parameters.
    """
    factors, arrays = resolved_of_data(theta, arrays)
    at = eliminate(factors, arrays)
    spread = _spread(at, jnp.asarray(log_sigma2, arrays.dtype))
    return at.logdet + spread + at.logdet_X - arrays.sum_log_weights


def vcov(theta: Array, log_sigma2: Array, arrays: Gram) -> Array:
    """σ²(X'V^-1X)^-1 (p, p): the covariance of beta in the data's columns, were ``theta`` and log σ² () known.

    A pure function, as ``deviance``: X'V^-1X = T_X^-T M_X T_X^-1 with M_X as to X_s.
    """
    factors, arrays = resolved_of_data(theta, arrays)
    T_X, p = jnp.asarray(arrays.T_X), arrays.structure.p
    if not p:
        return jnp.zeros((0, 0), arrays.dtype)
    M_X = reduce(factors, arrays)[1][:p, :p]
    inverse = spd.quad(DENSE, M_X, DENSE.factor(M_X), T_X.T)
    return jnp.exp(jnp.asarray(log_sigma2, arrays.dtype)) * inverse


def neg2_loglik(parameters: Parameters | Mapping[str, Array], arrays: Gram) -> Array:
    """-2 log-likelihood at any parameters, nothing profiled out: log|V| + e'V^-1 e / σ² + n log 2πσ² - Σ log w.

    The full likelihood, also of a model made with ``reml=True``. A pure function, as ``deviance``.

    Args:
        parameters: ``Parameters``, or a mapping with its three names.
        arrays: ``model.arrays``.
    """
    parameters = as_parameters(parameters)
    s, dtype = arrays.structure, arrays.dtype
    factors, arrays = resolved_of_data(parameters.theta, arrays)
    logdet, C = reduce(factors, arrays)
    e = jnp.ones(1, dtype)
    if s.p:
        beta = jnp.linalg.solve(arrays.T_X, jnp.asarray(parameters.beta, dtype)) - arrays.beta0
        e = jnp.concatenate([-beta, e])
    log_phi = jnp.asarray(parameters.log_phi, dtype)
    n = arrays.n_obs
    return logdet + n * (jnp.log(2 * jnp.pi) + log_phi) + e @ C @ e * jnp.exp(-log_phi) - arrays.sum_log_weights
