"""The predictive density of the rows of each group, at the parameters that were estimated without its fold.

Linear, groups that share no random effect: N(X_gβ, V_g), V_g = Σ ZDZ' + σ²R, its effects averaged over; R is diag(1/w)
where errors have no covariance of their own.  Groups that share some (a subject left out of subjects × items), or whose
errors are correlated with others', are predicted from the rows that stay, h of those left out:

    y_h | y  ~  N(y_h - K_hh⁻¹(K e)_h, K_hh⁻¹),      K = V⁻¹ of all rows, e = y - Xβ

(Rasmussen & Williams 2006, §5.4.2).  Generalised: the marginal likelihood of the group by the model's own method,
Laplace's or quadrature.  Each is a plug-in density: the errors of the estimates are not in it.

The prediction of a row is the mean of its response: E g⁻¹(Xβ + Zb) over b, linear also given the rows that stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm.crossval.folds import Folds
from jaxmm.errors import RowErrors, row_errors
from jaxmm.fitted import Fitted
from jaxmm.inference.marginal import GRID, MASS
from jaxmm.layout import Parameters
from jaxmm.objective import laplace, quadrature
from jaxmm.objective.mode import find_mode, zero_effects
from jaxmm.predict import _inverse, rows_used
from jaxmm.results.result import FitBatch
from jaxmm.rows import Pieces, Rows
from jaxmm.sources.truth import Truth, as_start

AT_ONCE = 1 << 18  # rows times nodes of levels that are evaluated together
LARGEST = 3000  # rows of a linear model whose groups share effects: K is a full matrix


@dataclass(frozen=True, eq=False)
class Estimated:
    """Parameters without each of K folds: ``beta`` (K, p) of all coefficients, ``lams`` (K, q, q) of each factor of the
    design, absolute, ``sigma`` (K,), ``phi`` (K,) and ``extras`` (K, k); ``theta`` (K, m) as of a fit."""

    beta: np.ndarray
    lams: tuple[np.ndarray, ...]
    sigma: np.ndarray
    phi: np.ndarray
    extras: np.ndarray
    theta: np.ndarray

    def truth(self, k: int, family: Any) -> Truth:
        """Of one fold."""
        values, at = [], 0
        for e in family.extras:
            own = self.extras[k, at : at + len(e.labels)]
            values.append(own[0] if len(own) == 1 else own)
            at += len(e.labels)
        return Truth(self.beta[k], tuple(x[k] for x in self.lams), self.sigma[k], self.phi[k], tuple(values))


def estimated(fit: Fitted, batch: FitBatch) -> Estimated:
    """Those of a batch of the fit's model."""
    model, d = fit.model, fit.model.design
    sigma = np.where(np.isnan(batch.sigma), 1.0, batch.sigma)
    scale = sigma if model.likelihood.precisions else np.ones(len(batch))
    lams = [np.zeros((len(batch), q, q)) for q in _effects(d)]
    for (t, layout), at in zip(model.theta_terms(), model.structure.slices(), strict=True):
        inside, term = slice(layout.at, layout.at + layout.covariance.q), d.terms[t]
        own = np.asarray(layout.covariance.lam(np.ascontiguousarray(batch.theta[:, at].T), term.inputs))
        lams[term.factor][:, inside, inside] = np.moveaxis(own, -1, 0) * scale[:, None, None]
    phi = np.where(np.isnan(batch.dispersion), 1.0, batch.dispersion)
    beta = np.hstack([batch.fixef, batch.further])
    return Estimated(beta, tuple(lams), sigma, phi, batch.family_params.reshape(len(batch), -1), batch.theta)


def of_fit(fit: Fitted, count: int) -> Estimated:
    """The fit's own parameters in every fold."""
    scale = np.sqrt(fit.model.likelihood.effects_scale(fit.estimates))
    lams = [scale * fit.factor_lam(f) for f in range(len(fit.model.design.factors))]
    sigma = 1.0 if np.isnan(fit.sigma) else fit.sigma
    phi = 1.0 if fit.dispersion is None else fit.dispersion
    extras = np.array(list(fit.family_params.values()), float)
    each = [np.asarray(fit.estimates.beta, float), *lams, np.asarray(sigma), np.asarray(phi), extras, fit.theta]
    beta, *lams, sigma, phi, extras, theta = (np.broadcast_to(x, (count, *x.shape)) for x in each)
    return Estimated(beta, tuple(lams), sigma, phi, extras, theta)


def _effects(design: Any) -> list[int]:
    return [sum(len(t.effects) for t in design.terms if t.factor == f) for f in range(len(design.factors))]


def predictive(fit: Fitted, folds: Folds, at: Estimated, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log density of each group (G,), and the prediction of each row (n,), shares where there are trials.  NaN in
    folds that are not ``good`` (K,)."""
    if fit.model.likelihood.exact:
        value, mean = (_linear if folds.apart else _linear_given)(fit, folds, at, good)
    else:
        value, mean = _generalised(fit, folds, at, good), _means(fit, folds, at)
    known = good[folds.fold]
    return np.where(known, value, np.nan), np.where(known[folds.codes], mean, np.nan)


def rows_of(codes: np.ndarray, count: int) -> list[np.ndarray]:
    """The rows of each group."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes, minlength=count))[:-1])


# ---------------------------------------------------------------- linear
def _normal(e: np.ndarray, V: np.ndarray) -> float:
    """log N(e; 0, V)."""
    L = np.linalg.cholesky(V)
    z = np.linalg.solve(L, e)
    return -0.5 * float(z @ z) - float(np.sum(np.log(np.diag(L)))) - 0.5 * len(e) * np.log(2 * np.pi)


def _columns(fit: Fitted) -> tuple[Any, list[np.ndarray]]:
    """The rows of the fit, and Z (n, q) of each factor of the design."""
    d, rows = fit.model.design, rows_used(fit)
    return rows, [np.hstack([t.Z for t in d.terms if t.factor == f]) for f in range(len(d.factors))]


def _errors(fit: Fitted, at: Estimated, k: int) -> RowErrors:
    """At the parameters of fold k."""
    d = fit.model.design
    return row_errors(fit.model, at.theta[k], d.residual, d.weights, len(d.y))


def _covariance(
    fit: Fitted, Z: list[np.ndarray], at: Estimated, k: int, errors: RowErrors, rows: np.ndarray
) -> np.ndarray:
    """V of some rows at the parameters of fold k, whose ``errors`` these are."""
    V = at.sigma[k] ** 2 * errors.blocks(rows)
    for factor, z, lam in zip(fit.model.design.factors, Z, at.lams, strict=True):
        half, codes = z[rows] @ lam[k], factor.codes[rows]
        V += (codes[:, None] == codes[None, :]) * (half @ half.T)
    return V


def _linear(fit: Fitted, folds: Folds, at: Estimated, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    d, (used, Z) = fit.model.design, _columns(fit)
    of_rows = folds.of_rows
    mean = np.einsum("np,np->n", used.X, at.beta[of_rows]) + used.offset
    value, of_groups = np.full(len(folds.fold), np.nan), rows_of(folds.codes, len(folds.fold))
    for k in np.flatnonzero(good):
        errors = _errors(fit, at, int(k))
        for g in np.flatnonzero(folds.fold == k):
            rows = of_groups[g]
            value[g] = _normal(d.y[rows] - mean[rows], _covariance(fit, Z, at, int(k), errors, rows))
    return value, mean


def _linear_given(fit: Fitted, folds: Folds, at: Estimated, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of groups that share random effects.

    Raises:
        ValueError: more rows than a full matrix is made of.
    """
    d, (used, Z) = fit.model.design, _columns(fit)
    n = len(d.y)
    if n > LARGEST:
        raise ValueError(
            f"{folds.name}: groups that share a random effect are predicted from a full matrix of all rows, and {n:,} "
            f"are more than {LARGEST:,}: take groups in which every level of every factor lies wholly"
        )
    value, mean, every = np.full(len(folds.fold), np.nan), np.full(n, np.nan), np.arange(n)
    of_groups = rows_of(folds.codes, len(folds.fold))
    for k in np.flatnonzero(good):
        groups = np.flatnonzero(folds.fold == k)
        left = np.concatenate([of_groups[g] for g in groups])
        K = np.linalg.inv(_covariance(fit, Z, at, int(k), _errors(fit, at, int(k)), every))
        e = d.y - used.X @ at.beta[k] - used.offset
        V = np.linalg.inv(K[np.ix_(left, left)])
        wrong = V @ (K[left] @ e)  # y_h less its prediction
        mean[left] = d.y[left] - wrong
        start = 0
        for g in groups:
            own = slice(start, start + len(of_groups[g]))
            value[g], start = _normal(wrong[own], V[own, own]), own.stop
    return value, mean


# ---------------------------------------------------------------- generalised
def _generalised(fit: Fitted, folds: Folds, at: Estimated, good: np.ndarray) -> np.ndarray:
    """Raises ValueError where groups share random effects."""
    if not folds.apart:
        raise ValueError(
            f"{folds.name}: in a generalised model groups that share a random effect with others have no density of "
            "their own: take groups in which every level of every factor lies wholly"
        )
    model, K = fit.model, folds.count
    points = [as_start(model, at.truth(k, fit.family)) if good[k] else None for k in range(K)]
    some = next((p for p in points if p is not None), None)
    if some is None:
        return np.full(len(folds.fold), np.nan)
    each = zip(*(some if p is None else p for p in points), strict=True)
    stacked = Parameters(*(np.stack([np.asarray(x, float) for x in own]) for own in each))  # pyright: ignore
    rows: Any = model.arrays
    with computing(model.device):
        if len(model.design.factors) == 1:
            of_level = _by_levels(fit, folds, stacked, rows)
            codes = model.design.factors[0].codes
            group = np.zeros(len(of_level), np.int64)
            group[codes] = folds.codes
            return np.bincount(group, of_level, len(folds.fold))
        own = np.ones(len(folds.codes)) if model.design.weights is None else model.design.weights
        value = [
            _alone(
                Parameters(*(x[folds.fold[g]] for x in stacked)), rows, np.where(folds.codes == g, own, 0.0), fit.n_agq
            )
            for g in range(len(folds.fold))
        ]
    return -0.5 * np.array([float(x) for x in value])


def _neg2(parameters: Parameters, rows: Rows, n_agq: int) -> Any:
    point = laplace.original_point(parameters, rows)
    return quadrature.neg2_loglik(point, rows, find_mode(point, rows, zero_effects(rows)).u, n_agq)


@partial(Program, static_argnums=(3,))
def _alone(parameters: Parameters, rows: Rows, weights: Any, n_agq: int) -> Any:
    """Of the rows that weigh something: levels without any have the density one."""
    return _neg2(parameters, rows.with_data(weights=weights), n_agq)


# Of a model of one factor each level is a small model of its own: its rows, filled up to one number, make the pieces of
# one level, and many levels are evaluated at once.
def _by_levels(fit: Fitted, folds: Folds, points: Parameters, rows: Rows) -> np.ndarray:
    """The log density of each level (J,) at the parameters of its fold."""
    factor = fit.model.design.factors[0]
    levels = len(factor.levels)
    place = np.empty(len(factor.codes), np.int64)
    source, weighs = np.asarray(rows.source).ravel(), np.asarray(rows.weights).ravel() > 0
    place[source[weighs]] = np.flatnonzero(weighs)
    by_level = rows_of(factor.codes, levels)
    height = max(len(r) for r in by_level)
    at = np.stack([place[np.resize(r, height)] for r in by_level])  # (J, H), filled with copies of its own rows
    real = np.arange(height)[None] < np.array([len(r) for r in by_level])[:, None]
    fold = folds.of_rows[np.array([r[0] for r in by_level])]

    def laid(x: Any) -> np.ndarray:
        x = np.asarray(x)
        return x.reshape(*x.shape[:-2], -1)[..., at]

    arrays = (rows.y, rows.trials, rows.weights, rows.offset, rows.X, rows.Z[0])
    own = _Level(*map(laid, arrays), tuple(map(laid, rows.further_offsets)))  # pyright: ignore
    own = own._replace(weights=np.where(real, own.weights, 0.0))
    found, together = [], max(1, AT_ONCE // (height * fit.n_agq))
    for first in range(0, levels, together):
        some = np.resize(np.arange(first, min(first + together, levels)), min(together, levels))
        here = jax.tree.map(lambda x, some=some: x[..., some, :], own)
        theirs = Parameters(*(x[fold[some]] for x in points))
        found.append(np.asarray(_levels(theirs, here, rows, fit.n_agq))[: min(first + together, levels) - first])
    return -0.5 * np.concatenate(found)


class _Level(NamedTuple):
    """Rows by level (.., J, H), as in ``Rows``."""

    y: Any
    trials: Any
    weights: Any
    offset: Any
    X: Any
    Z: Any
    further_offsets: tuple[Any, ...]


@partial(Program, static_argnums=(3,))
def _levels(points: Parameters, own: _Level, rows: Rows, n_agq: int) -> Any:
    """(J,)"""
    height = own.y.shape[-1]

    def one(parameters: Parameters, level: _Level) -> Any:
        lay = jax.tree.map(lambda x: x[..., None], level)
        small = replace(
            rows, y=lay.y, trials=lay.trials, weights=lay.weights, offset=lay.offset, X=lay.X, Z=(lay.Z,),
            further_offsets=lay.further_offsets, main=Pieces(None, None, None, 1, height, (height, 1)),  # pyright: ignore
            chain_levels=(1,), source=jnp.zeros((height, 1), jnp.int32), copies=None,
            log_constant=jnp.sum(lay.weights * rows.family.log_constant(lay.y, lay.trials)),
        )  # fmt: skip
        return _neg2(parameters, small, n_agq)

    axes = _Level(0, 0, 0, 0, 1, 1, tuple(0 for _ in own.further_offsets))
    return jax.vmap(one, (0, axes))(points, own)


def _means(fit: Fitted, folds: Folds, at: Estimated) -> np.ndarray:
    """E of each row's response over the effects, as ``inference.marginal`` has it."""
    d, (used, Z) = fit.model.design, _columns(fit)
    of_rows, family = folds.of_rows, fit.family
    sides = [(used.X, used.offset), *used.further]
    etas, spreads = {}, {}
    for (name, columns), (X, offset) in zip(d.predictors.items(), sides, strict=True):
        etas[name] = np.einsum("np,np->n", X, at.beta[of_rows][:, columns]) + offset
        own = [f for f, factor in enumerate(d.factors) if factor.predictor == name]
        parts = (np.sum(np.einsum("nq,nqr->nr", Z[f], at.lams[f][of_rows]) ** 2, axis=1) for f in own)
        spreads[name] = np.sqrt(sum(parts, np.zeros(len(X))))

    def average(name: str, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        if not spreads[name].any():
            return np.asarray(f(etas[name]))
        values = (m * np.asarray(f(etas[name] + t * spreads[name])) for t, m in zip(GRID, MASS, strict=True))
        return sum(values, np.zeros(len(etas[name])))

    extras = [at.extras[of_rows][:, k] for k in range(at.extras.shape[1])]
    with computing(fit.model.device):
        further = [average(p.name, partial(_inverse, p.link)) for p in family.further]

        def mean(phi: np.ndarray) -> np.ndarray:
            return average("mu", lambda eta: family.mean(_inverse(family.link, eta), phi, *further, *extras))

        return average("phi", lambda eta: mean(np.exp(eta))) if "phi" in etas else mean(at.phi[of_rows])
