"""Standard deviations, correlations and scales of a fit, with their errors and intervals by the delta method.

With D = s λλ' the covariance of a factor's effects, s = σ² in a linear model and else 1, and ∂ by a parameter of theta
or log φ,

    ∂D    = s (∂λ λ' + λ ∂λ') + D ∂log s               σ:   ∂σ = σ/2 by log σ²
    ∂sd_a = ∂D_aa / 2 sd_a                             φ:   ∂φ = φ by log φ
    ∂r    = ∂D_ab / (sd_a sd_b) - r (∂D_aa / D_aa + ∂D_bb / D_bb) / 2

Intervals are symmetric for log sd, log σ, log φ, and Fisher's z = artanh r, and carried back: those of nlme
(Pinheiro & Bates 2000, section 2.4).  Where a term is singular its estimates lie on the boundary of what there is, and
no normal distribution holds: NaN, for each effect of the term.  Other terms have theirs, as if the singular one were
known.  A φ at its limit, where the likelihood is flat, has none either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm._context import computing
from jaxmm.diagnostics import SINGULAR
from jaxmm.fitted import Fitted
from jaxmm.inference import wald
from jaxmm.inference.information import Information, information, standard_errors
from jaxmm.likelihood import Curvature
from jaxmm.tables import pairs

COLUMNS = ["effect", "component", "group", "term", "estimate", "std_error", "scale"]

BEYOND = 350.0  # error of log φ: the ends of its interval leave what a float holds, φ is at its limit


class Moving(NamedTuple):
    """D (q, q) of one factor of the design, and ``slopes`` (k, q, q) of it by x = (theta_s, log φ); ``boundary`` (q,)
    True for the effects of a singular term."""

    D: np.ndarray
    slopes: np.ndarray
    boundary: np.ndarray


def moving(fit: Fitted, at: Curvature, f: int) -> Moving:
    """That of factor ``f`` of the design."""
    model, arrays = fit.model, fit.model.arrays
    position = model.elimination.order.index(f)
    T = np.asarray(arrays.T[position])
    q, k = len(T), len(at.theta) + len(at.log_phi)
    scale = model.likelihood.effects_scale(fit.estimates)
    lam, moves, boundary = np.zeros((q, q)), np.zeros((k, q, q)), np.zeros(q, bool)
    for (t, layout), own in zip(model.theta_terms(), model.structure.slices(), strict=True):
        if layout.position != position:
            continue
        inside, inputs = slice(layout.at, layout.at + layout.covariance.q), model.design.terms[t].inputs
        lam[inside, inside] = layout.covariance.lam(at.theta[own], inputs)
        moves[own, inside, inside] = layout.covariance.derivative(at.theta[own], inputs)
        boundary[inside] = np.min(layout.covariance.pivots(fit.theta[own], inputs)) < SINGULAR * model.unit
    lam, moves = T @ lam, T @ moves
    half = scale * np.einsum("kab,cb->kac", moves, lam)
    D, slopes = scale * lam @ lam.T, half + np.swapaxes(half, 1, 2)
    slopes += at.scale_moves[:, None, None] * D
    return Moving(D, slopes, boundary)


def table(fit: Fitted, errors: bool = True) -> pd.DataFrame:
    """A row for each standard deviation and correlation of the effects, for σ, φ and further parameters.

    ``std_error`` is NaN where ``errors`` is False, and on the boundary; ``scale``: on which its interval is symmetric.
    """
    at = fit._curvature if errors else None
    found = information(at.hessian) if at else None
    factors = {factor.name: (f, factor.predictor) for f, factor in enumerate(fit.model.design.factors)}
    rows: list[tuple] = []
    for block in fit.varcorr().blocks:
        f, predictor = factors[block.group]
        move = moving(fit, at, f) if at else None
        own = ("ran_pars", predictor, block.group)
        rows += [(*own, *row) for row in _of_block(block, move, found)]
    return pd.DataFrame(rows + list(_of_constants(fit, at, found)), columns=COLUMNS)


def _of_block(block: Any, move: Moving | None, found: Information | None) -> Iterator[tuple]:
    """term, estimate, std_error, scale of each standard deviation and correlation of a factor, in broom's order."""
    sd, corr, names = block.sd(), block.corr(), block.effects
    free = [(k, l) for k, l in pairs(len(names)) if block.estimated[l, k]]
    sd_errors, corr_errors = np.full(len(names), np.nan), np.full((len(names),) * 2, np.nan)
    if move is not None and found is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            by_sd = np.einsum("kaa->ak", move.slopes) / (2 * sd[:, None])
            sd_errors = np.where(move.boundary, np.nan, standard_errors(by_sd, found))
            for k, l in free:
                relative = by_sd[k] / sd[k] + by_sd[l] / sd[l]
                slope = move.slopes[:, k, l] / (sd[k] * sd[l]) - corr[l, k] * relative
                on_edge = move.boundary[k] or move.boundary[l]
                corr_errors[k, l] = np.nan if on_edge else standard_errors(slope[None], found)[0]
    for k, name in enumerate(names):
        yield f"sd__{name}", sd[k], sd_errors[k], "log"
        for first, l in free:
            if first == k:
                yield f"cor__{name}.{names[l]}", corr[l, k], corr_errors[k, l], "fisher"


def _of_constants(fit: Fitted, at: Curvature | None, found: Information | None) -> Iterator[tuple]:
    """σ, φ where it is no residual variance, and the family's further parameters."""
    sigma, further = fit.varcorr().sigma, list(fit.family_params.items())
    phi = fit.dispersion
    values, slopes = [], np.zeros((0, 0))
    if at is not None and found is not None:
        values, slopes = _constants(fit, at)
    errors = iter(np.full(len(further) + 1, np.nan))
    if found is not None and len(values):
        errors = iter(standard_errors(slopes, found))
    if phi is not None:
        error = float(next(errors))
        if sigma is not None:
            yield "ran_pars", "mu", "Residual", "sd__Observation", sigma, error / (2 * sigma), "log"
        if not fit.family.has_scale:
            error = error if error < BEYOND * phi else np.nan
            yield "dispersion", "phi", None, "phi", phi, error, "log"
    for name, value in further:
        yield "dispersion", name, None, name, value, float(next(errors)), "identity"


def _constants(fit: Fitted, at: Curvature) -> tuple[np.ndarray, np.ndarray]:
    """φ and the family's further parameters in a row, and their derivatives by x."""
    family, m = fit.family, len(at.theta)
    if not len(at.log_phi):  # σ² that is known, or theta's
        scale = np.full(int(np.any(at.scale_moves)), fit.dispersion)
        return scale, scale[:, None] * at.scale_moves

    def values(raw: Any) -> Any:
        phi, extras = family.constants(raw)
        numbers = [jnp.ravel(phi)] if len(at.log_phi) > family.num_extras else []
        return jnp.concatenate([*numbers, *map(jnp.ravel, extras)])

    with computing(fit.model.device):
        raw = jnp.asarray(at.log_phi)
        value, slope = np.asarray(values(raw)), np.asarray(jax.jacfwd(values)(raw))
    return value, np.hstack([np.zeros((len(value), m)), slope])


def interval(frame: pd.DataFrame, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of each row of ``table``."""
    half = wald.quantile(level) * frame["std_error"].to_numpy(float)
    x, scale = frame["estimate"].to_numpy(float), frame["scale"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # an error beyond measure: (0, ∞)
        z, factor = np.arctanh(x), np.exp(half / x)
        lower = np.select([scale == "log", scale == "fisher"], [x / factor, np.tanh(z - half / (1 - x * x))], x - half)
        upper = np.select([scale == "log", scale == "fisher"], [x * factor, np.tanh(z + half / (1 - x * x))], x + half)
    return lower, upper
