"""A start that is given, in the columns of the data -> where a search begins, in the scaled columns.

It is ``Parameters``: theta, and where they are known beta and log phi, which a linear model does without, since its
search is over theta alone.  ``xp`` is numpy or jax.numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmm.covariance import lower
from jaxmm.gram import Gram
from jaxmm.layout import Parameters
from jaxmm.objective.parameters import change_theta
from jaxmm.rows import Rows

FAR = 5.0  # in log phi, from a first guess: where a family turns into its limit the likelihood is flat
LEAST = 0.05  # of a standard deviation relative to the error's: a search that begins at zero is stuck there


def scaled_theta(theta: Any, arrays: Gram | Rows, xp: Any = np) -> Any:
    """theta as to Z_s, without a variance of zero, where a search would be stuck."""
    s, parts = arrays.structure, []
    scaled = change_theta(theta, [xp.linalg.inv(xp.asarray(t)) for t in arrays.T], arrays, xp)
    for term, at, own in zip(s.terms, s.slices(), arrays.inputs, strict=True):
        lam = term.covariance.lam(scaled[at], own)
        lam = lam if term.covariance.triangular else lower(lam)
        least = xp.maximum(xp.diagonal(lam), LEAST) - xp.diagonal(lam)
        raised = term.covariance.from_lower(lam + xp.diag(least), own)
        near_zero = xp.min(term.covariance.pivots(scaled[at], own)) < LEAST
        parts.append(xp.where(near_zero, raised, scaled[at]))
    return xp.concatenate([*parts, scaled[s.num_random :]])


def raised_theta(theta: Any, arrays: Gram | Rows, xp: Any = np) -> Any:
    """``scaled_theta`` in the columns of the data again."""
    return change_theta(scaled_theta(theta, arrays, xp), [xp.asarray(t) for t in arrays.T], arrays, xp)


def scaled_psi(start: Parameters, rows: Rows, guess: Any, xp: Any = np) -> Any:
    """psi of a generalised model; ``guess`` (p + m + k,) has what ``start`` lacks."""
    beta, _, log_phi = rows.layout.split(guess)
    if start.beta is not None:
        beta = xp.linalg.solve(xp.asarray(rows.T_X), xp.asarray(start.beta))
    if xp.size(xp.asarray(start.log_phi)):
        log_phi = xp.clip(xp.ravel(xp.asarray(start.log_phi)), log_phi - FAR, log_phi + FAR)
    return rows.layout.join(Parameters(beta, scaled_theta(start.theta, rows, xp), log_phi))


def as_start(start: Any, arrays: Gram | Rows) -> Parameters:
    """theta (m,), ``Parameters`` or a mapping with their names -> ``Parameters`` of JAX arrays; beta may be None.

    Raises:
        ValueError: another name, no theta, or a part of another shape than the model's.
    """
    s, dtype = arrays.structure, arrays.y.dtype if isinstance(arrays, Rows) else arrays.dtype
    num_phi = len(range(arrays.layout.size)[arrays.layout.at("log_phi")]) if isinstance(arrays, Rows) else 1
    if isinstance(start, Mapping):
        unknown = [name for name in start if name not in Parameters._fields]
        if unknown or "theta" not in start:
            wrong = f"has no {unknown[0]!r}" if unknown else "needs theta"
            raise ValueError(f"start: a mapping {wrong}: it holds theta, and may hold beta and log_phi")
        start = Parameters(start.get("beta"), start["theta"], start.get("log_phi", ()))  # pyright: ignore
    elif not isinstance(start, Parameters):
        start = Parameters(None, start)  # pyright: ignore
    theta = jnp.asarray(start.theta, dtype)
    beta = None if start.beta is None else jnp.asarray(start.beta, dtype)
    log_phi = jnp.ravel(jnp.asarray(start.log_phi, dtype))
    shapes = [("theta", theta.shape, s.num_theta), ("log_phi", log_phi.shape, num_phi)]
    shapes += [] if beta is None else [("beta", beta.shape, s.p)]
    for name, shape, length in shapes:
        if shape != (length,) and not (name == "log_phi" and shape == (0,)):
            raise ValueError(
                f"start: {name} has shape {shape}, and the model's has ({length},): start is theta, or Parameters of "
                "beta, theta and log_phi, in the columns of the data"
            )
    return Parameters(beta, theta, log_phi)  # pyright: ignore[reportArgumentType]
