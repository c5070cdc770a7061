"""Where the search for a generalised model begins: a GLM without random effects, then moments of its residuals.

With the working weights W and residuals e = (y - μ) / (dμ/dη) of the GLM, B_j = z_j'We and A_j = z_j'Wz_j have
E[B_j²/A_j] = φ + d A_j for one effect of variance d: method of moments, one effect at a time.

What spread there is may be explained by the effects or by the dispersion, and the likelihood often has a maximum for
either: one inside, and one where an effect's variance is zero and the dispersion has taken it over.  A search that ends
at the latter (``ends_at_boundary``) is made once more, from effects that are large and a dispersion that leaves room
for them (``second_start``).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program, bucket, filled
from jaxmm.gram import Accumulator
from jaxmm.layout import Parameters, layout_of
from jaxmm.rows import Rows
from jaxmm.start import SECOND_SD, alike_theta, independent_theta, is_restricted, on_boundary

ITERATIONS = 25
PHI_GRID = np.arange(-6.0, 9.0, 1.5)  # of log phi, where its scale is not that of the data
SMALL, LARGE = 0.15, 4.0  # standard deviations of effects, as to Z_s, that a search starts from
SECOND_PHI = 4.0  # by how much the dispersion is made smaller in it


class Data(NamedTuple):
    """Rows in the data's order: ``y``, ``trials`` (1 without), ``weights``, ``offset`` (n,), ``X`` (n, p) as to X_s."""

    y: np.ndarray
    trials: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    X: np.ndarray


@partial(Program, static_argnums=(0,))
def _working_of_all(family: Any, eta, y, trials, weights, log_phi):
    mu, slope = jax.jvp(family.link.inverse, (eta,), (jnp.ones_like(eta),))
    phi, extras = family.constants(log_phi)
    W = weights * trials * slope**2 / family.variance(mu, phi, *((1.0, *extras) if extras else ()))
    density = family.density(y, eta, phi, trials, *extras)
    return W, (y / jnp.maximum(trials, 1e-300) - mu) / slope, jnp.sum(weights * density)


def _working(family: Any, eta, y, trials, weights, log_phi) -> tuple[np.ndarray, np.ndarray, float]:
    """Fisher weights, working residuals and log likelihood of a GLM at ``eta`` (n,)."""
    n, length = len(eta), bucket(len(eta))
    rows = (filled(x, length, x[-1]) for x in (eta, y, trials))
    W, e, value = map(np.asarray, _working_of_all(family, *rows, filled(weights, length, 0.0), log_phi))
    return W[:n], e[:n], float(value)


def start(family: Any, data: Data, accumulator: Accumulator, log_phi: np.ndarray) -> np.ndarray:
    """psi = (beta_s, theta_s, log phi) to begin with; ``log_phi`` (k,) is a first guess."""
    own, log_phi = family.glm, np.array(log_phi)
    first = log_phi[: len(log_phi) - family.num_extras + own.num_extras]
    beta, found, W, e = fit_glm(own, data, first)
    log_phi[: len(found)] = found
    scale = float(np.exp(log_phi[0])) if own.has_scale else 1.0
    s, sd = accumulator.structure, []
    for f, g in enumerate(accumulator.groupings):
        Z = accumulator.z(f, slice(0, accumulator.n))
        variances = []
        for z in Z.T:
            A = np.bincount(g.codes, z * z * W, g.levels)
            B = np.bincount(g.codes, z * W * e, g.levels)
            seen = A > 1e-8 * A.max(initial=1e-300)
            spread = np.sum(B[seen] ** 2 / A[seen]) - seen.sum() * scale
            variances.append(spread / A[seen].sum())
        sd.append(np.clip(np.sqrt(np.maximum(variances, 0.0)), SMALL, LARGE))
    theta: list[Any] = [
        term.covariance.from_factor(np.diag(sd[term.position][term.at : term.at + term.covariance.q]), own)
        for term, own in zip(s.terms, accumulator.inputs, strict=True)
    ]
    return layout_of(s, family).join(Parameters(beta, np.concatenate(theta), log_phi))  # pyright: ignore


def fit_glm(family: Any, data: Data, log_phi: np.ndarray):
    """Fisher scoring from a constant mean, halved where the likelihood falls: beta, log phi, W and e at the end."""
    y, trials, weights, offset, X = data
    total = weights * trials
    mean = np.sum(weights * y) / max(np.sum(total), 1e-300)
    level = float(family.link.link(np.asarray(family.start_mu(mean * np.ones(1), np.ones(1)))[0]))
    beta = _least_squares(X, level - offset, total) if X.shape[1] else np.zeros(0)

    def at(beta):
        return _working(family, offset + X @ beta, y, trials, weights, log_phi)

    W, e, value = at(beta)
    log_phi = _guess_phi(family, data, beta, log_phi, W, e)
    W, e, value = at(beta)
    for _ in range(ITERATIONS if X.shape[1] else 0):
        usable = np.isfinite(W) & np.isfinite(e)
        step = _least_squares(X, np.where(usable, e, 0.0), np.where(usable, W, 0.0))
        for _ in range(12):
            trial = at(beta + step)
            if np.isfinite(trial[2]) and (trial[2] >= value or not np.isfinite(value)):
                break
            step = 0.5 * step
        else:
            break
        gain, beta, (W, e, value) = trial[2] - value, beta + step, trial
        if gain < 1e-2:  # of the log likelihood: it is a start
            break
    log_phi = _guess_phi(family, data, beta, log_phi, W, e)
    W, e, _ = at(beta)
    usable = np.isfinite(W) & np.isfinite(e)
    return beta, log_phi, np.where(usable, W, 0.0), np.where(usable, e, 0.0)


def _least_squares(X: np.ndarray, y: np.ndarray, W: np.ndarray) -> np.ndarray:
    WX = X * W[:, None]
    return np.linalg.lstsq(np.einsum("ni,nj->ij", WX, X) if X.shape[1] <= 8 else WX.T @ X, WX.T @ y, rcond=1e-12)[0]


def _guess_phi(family: Any, data: Data, beta: np.ndarray, log_phi: np.ndarray, W: np.ndarray, e: np.ndarray):
    """log phi from Pearson residuals where phi is the scale, else the best of a grid."""
    if not family.num_phi:
        return log_phi
    if family.has_scale:
        usable = np.isfinite(W) & np.isfinite(e)
        pearson = np.sum(np.where(usable, W * e**2, 0.0)) / max(np.sum(data.weights) - len(beta), 1.0)
        return np.append(np.log(max(pearson, 1e-12)), log_phi[1:])
    eta = data.offset + data.X @ beta
    grid = [np.append(np.full(family.num_phi, g), log_phi[family.num_phi :]) for g in PHI_GRID]
    values = [_working(family, eta, data.y, data.trials, data.weights, one)[2] for one in grid]
    return grid[int(np.nanargmax(np.where(np.isfinite(values), values, -np.inf)))]


# ---------------------------------------------------------------- once more from inside
def ends_at_boundary(psi: Any, rows: Rows, xp: Any = np) -> Any:
    """Whether a factor of D at psi (k, ..) is singular, (..); ``xp`` is numpy or jax.numpy."""
    return on_boundary(psi[rows.layout.at("theta")], rows, xp)


def begins_again(psi: Any, converged: Any, rows: Rows, xp: Any = np) -> Any:
    """Whether a search that has ended at psi (k, ..) is made once more, (..); ``xp`` as above."""
    return ~xp.asarray(converged) | ends_at_boundary(psi, rows, xp) | is_restricted(rows.structure)


def further_start(psi: Any, converged: Any, rows: Rows, xp: Any = np) -> Any:
    """Where from, psi (k, ..) -> (k, ..): ``second_start``, but where the end is one inside and only the structure is
    restricted, from ``start.alike_theta``."""
    second = second_start(psi, rows, xp)
    if not is_restricted(rows.structure):
        return second
    theta = xp.asarray(alike_theta(rows, xp), psi.dtype).reshape(-1, *(1,) * (psi.ndim - 1))
    beta, _, log_phi = rows.layout.split(psi)
    alike = rows.layout.join(Parameters(beta, xp.broadcast_to(theta, (len(theta), *psi.shape[1:])), log_phi))
    return xp.where(~xp.asarray(converged) | ends_at_boundary(psi, rows, xp), second, alike)


def second_start(psi: Any, rows: Rows, xp: Any = np) -> Any:
    """Where to begin again after a search has ended at the boundary, psi (k, ..) -> (k, ..); ``xp`` as above.

    Independent effects as of ``start.independent_theta``, the fixed effects as they were, and one dispersion that is
    ``SECOND_PHI`` times smaller: phi goes where the family's variance is.
    """
    family = rows.family
    beta, _, log_phi = rows.layout.split(psi)
    theta = xp.asarray(independent_theta(rows, SECOND_SD, xp), psi.dtype).reshape(-1, *(1,) * (psi.ndim - 1))
    if len(log_phi) - family.num_extras == 1:
        mean = family.mean_range[0] + 0.5 if family.mean_range[1] <= 1 else 1.0
        values = [np.array(e.start).reshape(-1 if len(e.start) > 1 else ()) for e in family.extras]
        with jax.ensure_compile_time_eval():  # numbers, also where a program is traced
            others = [p.link.inverse(p.start) for p in family.further]
            twice, once = (float(family.variance(mean, phi, 2.0, *others, *values)) for phi in (2.0, 1.0))
        change = np.zeros(len(log_phi))
        change[0] = (1.0 if family.has_scale or twice > once else -1.0) * np.log(SECOND_PHI)
        log_phi = log_phi - change.reshape(-1, *(1,) * (psi.ndim - 1))
    return rows.layout.join(Parameters(beta, xp.broadcast_to(theta, (len(theta), *psi.shape[1:])), log_phi))
