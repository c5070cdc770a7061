"""The infinitesimal jackknife: what leaving out a row, or a level, does to every parameter, to first order.

Let c_i be how often row i counts, its density given the random effects to the power c_i; or, of the levels of the
outermost factor, how often level i counts, its marginal likelihood to the power c_i.  With d(ψ, c) the deviance and H
its Hessian at ψ̂, the implicit function theorem gives

    dψ̂/dc_i = −H⁻¹ ∂²d/∂ψ∂c_i          ψ̂ without i  ≈  ψ̂ − dψ̂/dc_i

(Jaeckel 1972; Giordano, Stephenson, Liu, Jordan & Broderick 2019).  In a linear model ψ is θ, and β̂(θ, c) and σ̂²(θ, c)
follow by the chain rule; in a generalised one it is all of (β, θ, log φ).  Standard deviations and correlations are
functions of these.  The levels of a factor that is not the outermost are the sums over their rows.

``derivative`` goes as far as the whole row or level by one Newton step (``newton``) where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.fitted import Fitted
from jaxmm.gram import Gram
from jaxmm.inference.influence.leverage import leverage
from jaxmm.inference.influence.newton import Step, without_clusters, without_levels, without_rows
from jaxmm.inference.robust import Clusters, scores
from jaxmm.lanes.statistics import ResponseMap, gram_of, response_map, statistics
from jaxmm.objective.laplace import scaled_point
from jaxmm.objective.lmm import profile, scaled_deviance
from jaxmm.objective.parameters import scaled_factors
from jaxmm.objective.quadrature import neg2_loglik
from jaxmm.pure import gram_from_rows
from jaxmm.results.schema import names_of, schema, spread
from jaxmm.rows import Rows

SMALL = 1e-6  # of the way: what is not linear in ψ is so there
FLAT = 1e-9  # of the largest eigenvalue of H: a direction in which the likelihood does not tell θ


class Groups(NamedTuple):
    """What is left out, one after another: ``codes`` (n,) of the rows that count, ``labels`` (count,), what ``by`` is
    called; ``outermost``: whether they are the levels of a factor in which all others lie."""

    codes: np.ndarray
    labels: np.ndarray
    by: str
    outermost: bool

    @property
    def count(self) -> int:
        return len(self.labels)


def labels_of(model: Any) -> list[str]:
    """The names of all parameters, as batches have them in tables."""
    return [name for column in schema(names_of(model)).values() if column.estimate for name in column.shown]


def derivative(fit: Fitted, groups: Groups) -> np.ndarray:
    """Changes (G, k) of the parameters ``labels_of`` without each row or level, by one Newton step; to first order
    where several levels of other factors share it, and of the rows of a generalised model, whose leverage is counted
    in: −dψ̂/dc / (1 − h)."""
    linear = not isinstance(fit.model.arrays, Rows)
    with computing(fit.model.device):
        if groups.outermost and linear:
            step = without_levels(fit, groups.codes, groups.count)
        elif groups.outermost:
            step = without_clusters(fit, groups.codes, groups.count, groups.by)
        elif groups.count == len(groups.codes) and linear:
            step = without_rows(fit)
        else:
            step = _first_order(fit, groups)
    return changed(fit, step)


def infinitesimal(fit: Fitted, groups: Groups) -> np.ndarray:
    """−dψ̂/dc (G, k), of the parameters ``labels_of``."""
    with computing(fit.model.device):
        return changed(fit, _first_order(fit, groups, SMALL)) / SMALL


def changed(fit: Fitted, step: Step) -> np.ndarray:
    """The parameters ``labels_of`` after steps, less those of the fit (G, k)."""
    names, p, arrays = names_of(fit.model), len(fit.model.design.columns), fit.model.arrays
    start = _at(fit)
    with computing(fit.model.device):
        after, before = (_factors(x.theta.T, arrays) for x in (step, start))
    columns = [step.beta[:, :p] - start.beta[:, :p]]
    columns += [a - b for a, b in zip(_spread(fit, after, step), _spread(fit, before, start), strict=True)]
    if names.has_scale or names.has_phi:
        power = 0.5 if names.has_scale else 1.0
        value = fit.sigma if names.has_scale else fit.dispersion
        columns.append(value * np.expm1(power * (step.log_phi[:, :1] - start.log_phi[:, :1])))
    if names.family_params:
        columns.append(np.full((len(step.beta), len(names.family_params)), np.nan))
    return np.hstack([*columns, step.beta[:, p:] - start.beta[:, p:]])


def _at(fit: Fitted) -> Step:
    """The estimates, as one step of no length."""
    e, arrays = fit.estimates, fit.model.arrays
    if isinstance(arrays, Rows):
        theta, log_phi = np.asarray(arrays.layout.split(e.psi).theta), np.asarray(e.log_phi)
    else:
        theta, log_phi = np.asarray(e.theta_scaled), 2 * np.log(np.atleast_1d(np.asarray(e.sigma)))
    return Step(np.asarray(e.beta)[None], theta[None], log_phi[None])


@Program
def _factors(theta: Array, arrays: Any) -> list[Array]:
    """λ (q, q, G) of each factor in the data's columns, of theta (m, G)."""
    return [jnp.einsum("ab,bcg->acg", T, lam) for T, lam in zip(arrays.T, scaled_factors(theta, arrays), strict=True)]


def _spread(fit: Fitted, lams: Any, step: Step) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations and correlations (G, ..)."""
    unit = np.exp(0.5 * step.log_phi[:, 0]) if fit.model.likelihood.exact else np.ones(len(step.beta))
    sd, corr = spread(fit.model, [unit * np.asarray(lam) for lam in lams])
    return tuple(np.stack(x, axis=1) if x else np.zeros((len(step.beta), 0)) for x in (sd, corr))  # pyright: ignore


# ---------------------------------------------------------------- linear models
def _first_order(fit: Fitted, groups: Groups, share: float = 1.0) -> Step:
    """So much of −dψ̂/dc beyond the estimates; whole rows of a generalised model by their leverage."""
    start = _at(fit)
    if not isinstance(fit.model.arrays, Rows):
        move = _linear(fit, groups)
    else:
        move = _generalised(fit, groups)
        if share == 1.0 and groups.count == len(groups.codes):
            left = 1 - np.nan_to_num(leverage(fit))[:, None]
            move = Step(*(x / left for x in move))
    return Step(*(a + share * b for a, b in zip(start, move, strict=True)))


def _linear(fit: Fitted, groups: Groups) -> Step:
    """−dψ̂/dc."""
    model, e = fit.model, fit.estimates
    gram: Any = model.arrays
    if groups.outermost:
        by = response_map(model.accumulator, model.design.offset)
        found = _by_level(e.theta_scaled, gram, by, model.design.y, groups.count)
    else:
        found = _by_row(e.theta_scaled, gram, model.rows, groups.codes, groups.count)
    mixed, by_theta, by_count = (np.asarray(x) for x in found)
    w, Q = np.linalg.eigh(np.asarray(e.hessian))
    told = np.abs(w) > FLAT * np.max(np.abs(w), initial=1e-300)
    theta = -(Q[:, told] / w[told]) @ Q[:, told].T @ mixed
    rest = by_count + by_theta @ theta
    return Step(-rest[:-1].T @ np.asarray(gram.T_X).T, -theta.T, -rest[-1:].T)


@partial(Program, static_argnums=(4,), size=lambda theta, gram, rows, *_: gram.structure.solver.size(gram))
def _by_row(theta: Array, gram: Gram, rows: Rows, codes: Array, count: int) -> tuple[Array, ...]:
    return _slopes(theta, lambda c: gram_from_rows(gram, rows, counts=c[codes]), count)


@partial(Program, static_argnums=(4,), size=lambda theta, gram, rows, *_: gram.structure.solver.size(gram))
def _by_level(theta: Array, gram: Gram, by: ResponseMap, y: Array, count: int) -> tuple[Array, ...]:
    def counted(c: Array) -> Gram:
        own = statistics(y[:, None], by, c[:, None])
        return gram_of(gram, jax.tree.map(lambda x: x[..., 0], own))

    return _slopes(theta, counted, count)


def _slopes(theta: Array, counted: Callable[[Array], Gram], count: int) -> tuple[Array, Array, Array]:
    """∂²d/∂θ∂c (m, G), and of (β_s, log σ²) the derivatives by θ (p + 1, m) and by c (p + 1, G)."""
    ones, eye = jnp.ones(count, theta.dtype), jnp.eye(len(theta), dtype=theta.dtype)

    def deviance(c: Array, t: Array) -> Array:
        return scaled_deviance(t, counted(c))

    def rest(t: Array, c: Array) -> Array:
        gram = counted(c)
        at, s = profile(scaled_factors(t, gram), gram), gram.structure
        df = gram.n_obs - (s.p if s.reml else 0)
        return jnp.append(at.beta + gram.beta0, jnp.log(at.pwrss / df))

    _, push = jax.linearize(partial(jax.grad(deviance), ones), theta)
    return jax.vmap(push)(eye), jax.jacfwd(rest)(theta, ones), jax.jacrev(rest, 1)(theta, ones)


# ---------------------------------------------------------------- generalised models
def _generalised(fit: Fitted, groups: Groups) -> Step:
    """−dψ̂/dc."""
    model, e = fit.model, fit.estimates
    rows: Any = model.arrays
    if groups.outermost:
        clusters = Clusters(groups.codes, groups.count, groups.by)
        mixed = scores.derivatives(model, e, clusters, False)[0].T
    else:
        mixed = np.asarray(_by_row_of_density(e.psi, rows, e.u, groups.codes, groups.count, e.n_agq))
    moved = rows.layout.split(0.5 * (np.asarray(e.covariance) @ mixed))  # 2 H⁻¹ is the covariance
    return Step(moved.beta.T @ np.asarray(rows.T_X).T, moved.theta.T, moved.log_phi.T)


@partial(Program, static_argnums=(4, 5))
def _by_row_of_density(psi: Array, rows: Rows, u: tuple[Array, ...], codes: Array, count: int, n_agq: int) -> Array:
    """∂²d/∂ψ∂c (k, G)."""

    def value(c: Array, psi: Array) -> Array:
        counted = replace(rows, weights=rows.weights * c[codes][rows.source])
        return neg2_loglik(scaled_point(psi, counted), counted, u, n_agq, 4)

    _, push = jax.linearize(partial(jax.grad(value), jnp.ones(count, psi.dtype)), psi)
    return jax.vmap(push)(jnp.eye(len(psi), dtype=psi.dtype))
