"""What is kept of lanes beside their estimates, where it is asked for: lanes that have ended -> columns of ``Found``.

    "vcov"            V (p, p), the covariance of β̂               lower triangle, column by column
    "df"              Satterthwaite's degrees of freedom (p,) of β̂, and those of σ̂²
    "dispersion_se"   the standard error of log φ̂

Degrees of freedom are those of ``inference.ddf.satterthwaite``: with the search's own criterion, whose Hessian by θ is
H, and f either a squared standard error or σ̂², which has n_r degrees of freedom were θ known,

    df = 1 / (d'H⁻¹d + 1 / n_r),      d = ∂ log f / ∂θ

Any problem whose lanes are linear gives it: f is what ``found`` makes of ``evaluate`` at θ, differentiated once; where
``evaluate`` has no Hessian, so is its gradient.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.estimate import ZERO
from jaxmm.inference.ddf.satterthwaite import FLAT, LEAST
from jaxmm.lanes.advance import Lanes, begin, eigh
from jaxmm.lanes.problem import Found

Keep = tuple[str, ...]
OF_DATA = frozenset({"df"})  # what needs the lanes' data again


def triangle(p: int) -> list[tuple[int, int]]:
    """The entries (a, b) of the lower triangle of a symmetric matrix, column by column."""
    return [(a, b) for b in range(p) for a in range(b, p)]


def outcome(problem: Any, s: Lanes, data: Any, keep: Keep) -> Any:
    """What ``found`` needs of lanes that have ended: a pytree with the lanes last."""
    whole = (s.theta, s.kept, data) if OF_DATA & set(keep) else None
    return problem.outcome(s, data), whole


def found(problem: Any, ends: Any, keep: Keep) -> Found:
    """With the columns that are kept, by the names of ``schema.DECLARED``."""
    own, whole = ends
    out: Found = problem.found(own)
    columns = dict(out.columns)
    if "vcov" in keep:
        columns["fixef_cov"] = jnp.stack([out.vcov[a, b] for a, b in triangle(len(out.vcov))])
    if "df" in keep:
        each = satterthwaite(problem, *whole)
        columns["df"], columns["df_sigma"] = each[:-1], each[-1]
    if "dispersion_se" in keep:
        columns["log_dispersion_se"] = out.log_phi_se
    return out._replace(columns=columns, vcov=(), log_phi_se=())


def satterthwaite(problem: Any, theta: Array, kept: Any, data: Any) -> Array:
    """(p + 1, L): of each coefficient, and last of σ̂²; NaN where the data do not tell."""
    theta = jnp.where(jnp.abs(theta) < ZERO, 0.0, theta)
    H = problem.evaluate(theta, data, kept).hessian

    def variances(t: Array) -> tuple[Array, Array | None]:
        at = problem.evaluate(t, data, kept)
        s = begin(t, jnp.zeros((len(t), *t.shape), t.dtype), at.kept)._replace(value=at.value)
        out = problem.found(problem.outcome(s, data))
        log_f = jnp.concatenate([2 * jnp.log(out.bse), jnp.log(out.phi)[None]])
        return log_f, at.gradient if H is None else None

    push = jax.linearize(variances, theta)[1]
    units = jnp.eye(len(theta), dtype=theta.dtype)[:, :, None] * jnp.ones_like(theta)
    d, columns = jax.lax.map(push, units)  # (m, p + 1, L), (m, m, L)
    if columns is not None:
        H = 0.5 * (columns + jnp.swapaxes(columns, 0, 1))
    w, Q = eigh(H)
    size = jnp.max(jnp.abs(w), axis=0)
    told = w > FLAT * size
    turned = jnp.einsum("mkl,mfl->kfl", Q, d, precision="highest")
    spread = jnp.sum(jnp.where(told, 1 / jnp.where(told, w, 1.0), 0.0)[:, None] * turned**2, axis=0)
    df = 1 / (spread + 1 / problem.residual(data))
    return jnp.where(jnp.isfinite(size) & (df >= LEAST), df, jnp.nan)
