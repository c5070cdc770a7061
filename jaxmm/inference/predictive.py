"""The distribution of new responses, one row by itself, when the predictors of its parameters are uncertain.

    ζ = (η_1 .. η_K, log φ)  ~  N(ζ̂, Σ),        y | ζ ~ F

of which an interval holds the middle share ``level``.  A normal response has it in closed form,

    η̂ ± q √(Σ + σ²/w),       q = T_df^-1(½ + level / 2)

another by ``n`` draws of ζ and of y given ζ: the smallest values that the shares (1 ∓ level)/2 of the draws do not
exceed, so that an interval of counts holds at least its share.  The Monte-Carlo error of a share p is √(p(1 - p)/n).

Row i has keys of its own, and its draws depend on the key and on i alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._compiled import Program, bucket
from jaxmm._random import normals, replicate_keys
from jaxmm.families import Family
from jaxmm.inference import wald


class Ahead(NamedTuple):
    """What is known of new responses: the predictors ``etas`` (m,) by name, ``covariance`` (m, K + c, K + c) of their
    errors and of those of the constants, and ``weights`` or ``trials`` (m,), None where all are one; ``df``, degrees of
    freedom (m,) for a variance of the response itself."""

    etas: dict[str, np.ndarray]
    covariance: np.ndarray
    weights: np.ndarray | None
    trials: np.ndarray | None
    df: Callable[[Any], np.ndarray]


def normal_interval(ahead: Ahead, sigma2: float, level: float) -> np.ndarray:
    """(m, 3) of a normal response with variance σ²/w: the ends and the degrees of freedom."""
    with np.errstate(divide="ignore"):
        noise = sigma2 if ahead.weights is None else sigma2 / ahead.weights
    se, df = np.sqrt(ahead.covariance[:, 0, 0] + noise), ahead.df(noise)
    return np.stack([*wald.interval(ahead.etas["mu"], se, level, df), df], axis=1)


def one_response(family: Family, names: tuple[str, ...], key, etas, phi, trials, extras):
    """y of the shape of the ``etas`` of the parameters ``names``; ``phi`` where none of these is."""
    by = dict(zip(names, etas, strict=True))
    own = jnp.exp(by["phi"]) if "phi" in by else phi
    further = [p.link.inverse(by[p.name]) for p in family.further]
    return family.sample(key, family.link.inverse(by["mu"]), own, trials, *further, *extras)


@partial(Program, static_argnums=(0, 1))
def _responses(family: Family, names: tuple[str, ...], keys, etas, phi, trials, extras):
    """(m, n) for the etas (K, m, n) and trials (m,), a key for each row."""

    def one(key, etas, trials):
        return one_response(family, names, key, tuple(etas), phi, jnp.full_like(etas[0], trials), extras)

    return jax.vmap(one, (0, 1, 0))(keys, etas, trials)


def simulated_interval(
    family: Family, phi: Any, log_phi: np.ndarray, extras: Any, ahead: Ahead, level: float, draws: tuple[Any, int]
) -> np.ndarray:
    """(m, 2) from ``draws``, a key and how many; shares of the trials where there are any.  With constants in the
    covariance, the last predictor is ``log_phi``."""
    key, n = draws
    names, m = tuple(ahead.etas), len(ahead.covariance)
    center = np.stack(list(ahead.etas.values()), axis=1)
    if ahead.covariance.shape[1] > center.shape[1]:
        names, center = (*names, "phi"), np.hstack([center, np.broadcast_to(log_phi, (m, 1))])
    trials = np.ones(m) if ahead.trials is None else np.asarray(ahead.trials, float)
    there = np.isfinite(center).all(axis=1) & np.isfinite(ahead.covariance).all(axis=(1, 2)) & (trials > 0)
    out = np.full((m, 2), np.nan)
    shares, together = np.round([(1 - level) / 2, (1 + level) / 2], 12), max(1, costs.DRAWN_AT_ONCE // n)
    for first in range(0, m, together):
        at = np.arange(first, min(first + together, m))
        padded = np.resize(at, min(bucket(len(at)), together))
        ok = there[padded]
        w, Q = np.linalg.eigh(np.where(ok[:, None, None], ahead.covariance[padded], 0.0))
        root = Q * np.sqrt(np.maximum(w, 0.0))[:, None, :]
        for_predictors, for_response = replicate_keys(key, first, len(padded))
        z = np.asarray(normals(for_predictors, n * len(names))).reshape(len(padded), n, len(names))
        etas = np.where(ok[:, None], center[padded], 0.0).T[:, :, None] + np.einsum("mkl,mnl->kmn", root, z)
        y = _responses(family, names, for_response, etas, phi, np.where(ok, trials[padded], 1.0), extras)
        y = np.asarray(y)[: len(at)]
        if family.has_trials:
            y = y / np.where(there[at], trials[at], 1.0)[:, None]
        ends = np.quantile(y, shares, axis=1, method="inverted_cdf").T
        out[at] = np.where(there[at, None], ends, np.nan)
    return out
