"""The generalised linear mixed model as a likelihood: y | b ~ family(μ, φ), g(μ) = Xβ + Zb, b ~ N(0, ΛΛ').

By Laplace's method, or adaptive Gauss-Hermite quadrature with ``n_agq`` nodes per effect where there is one factor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm import costs, start_apart, start_glmm
from jaxmm._compiled import Program
from jaxmm._text import some
from jaxmm.design import Design, NewData
from jaxmm.design.checks import check_glmm
from jaxmm.estimate_glmm import GlmmEstimates, estimate_on_host, random_effects, value_only
from jaxmm.families import Family
from jaxmm.gram import Accumulator
from jaxmm.inference import joint, marginal, wald
from jaxmm.inference.predictive import Ahead, one_response, simulated_interval
from jaxmm.inference.robust import scores
from jaxmm.likelihood import Curvature, Effects
from jaxmm.objective.quadrature import MAX_EFFECTS
from jaxmm.optimize import Control, Status
from jaxmm.predict import SCALES, linear_predictors
from jaxmm.rows import Rows, make_rows
from jaxmm.start_given import scaled_psi
from jaxmm.structure import Structure

WIDE = 6.0  # a standard deviation of effects, at the rows, on a scale without unit
LIMIT = 14.0  # of log phi
AUTO_NODES = (5, 9, 15, 25, 41, 61)
SETTLED = 1e-3  # of a standard error: what more nodes may still change with n_agq="auto"
ACCURACY_NODES = {1: 15, 2: 9, 3: 5}  # by effects per level


@dataclass(frozen=True)
class Generalised:
    """The likelihood of a generalised linear mixed model.

    Attributes:
        family: a ``families.Family``.
        n_agq: quadrature nodes per effect; 1 is Laplace's method; "auto" for as many as the estimates need.
    """

    family: Family
    n_agq: int | str = 1
    reml = False
    precisions = False  # whether weights divide the variance of a response
    ddf = ("asymptotic", "between-within", "residual")
    averaged_over = ("fixed", "variances")  # whose errors the interval of a mean over the levels has
    sandwiches = scores.KINDS
    exact = False  # whether VarCorr is the sum of its two parts exactly

    def __post_init__(self):
        if self.n_agq == "auto":
            return
        if isinstance(self.n_agq, bool) or not isinstance(self.n_agq, int | np.integer) or not 1 <= self.n_agq <= 200:
            raise ValueError(f"n_agq must be a whole number from 1 to 200, or 'auto', not {self.n_agq!r}")

    def title(self, e: GlmmEstimates) -> str:
        about = f"Family: {self.family.name} ({self.family.link.name})"
        return f"Generalized linear mixed model fit by maximum likelihood ({_method(e.n_agq)})\n{about}"

    @property
    def price(self) -> costs.Price:
        return costs.GENERALISED

    @property
    def kind(self) -> str:
        about = f"{self.family.name} ({self.family.link.name}), {_method(self.n_agq)}"
        return f"Generalised linear mixed model, {about}"

    @property
    def statistic(self) -> str:
        return "z"

    def by_ml(self) -> Generalised:
        return self

    def unit(self, design: Design) -> float:
        """What counts as one on the scale of eta: 1 for a link without unit, else the spread of y carried over.

        Parameters are searched in it, so that a fit does not depend on the unit of y.
        """
        link = self.family.link
        if link.unit_free:
            return 1.0
        observed = design.y / _trials(design)
        mean, spread = float(np.mean(observed)), float(np.std(observed))
        slope = float(jax.jvp(link.link, (jnp.asarray(mean),), (jnp.ones(()),))[1])
        return abs(slope) * spread if np.isfinite(slope) and slope and spread else 1.0

    def check(self, design: Design) -> None:
        check_glmm(design, self.family)

    def check_structure(self, structure: Structure) -> None:
        """Raises ValueError where ``n_agq`` nodes per effect cannot be had."""
        if self.n_agq in (1, "auto"):
            return
        if structure.num_factors > 1:
            raise ValueError(
                f"n_agq={self.n_agq} needs one grouping factor, and the model has {structure.num_factors}: use "
                "n_agq=1, Laplace's method"
            )
        if structure.chain[0] > MAX_EFFECTS:
            raise ValueError(
                f"n_agq={self.n_agq} needs {MAX_EFFECTS} random effects per level at most, and the factor has "
                f"{structure.chain[0]}: use n_agq=1, Laplace's method"
            )

    # ------------------------------------------------------------ arrays
    def parts(self, accumulator: Accumulator, design: Design, room: bool = True) -> Rows:
        """``room`` as in ``make_rows``."""
        offsets = [
            np.zeros(len(design.y)) if x is None else x for x in (design.offset, *(p.offset for p in design.further))
        ]
        return make_rows(accumulator, self.family, design.y, _trials(design), offsets, room)

    def arrays(self, accumulator: Accumulator, parts: Rows, design: Design) -> Rows:
        return _with_response(parts, design.y)

    def rows(self, accumulator: Accumulator, arrays: Rows, design: Design) -> Rows:
        return arrays

    def arrays_for(self, arrays: Rows, rows: Rows, y: Any, weights: Any, offset: Any, trials: Any = None) -> Rows:
        return rows.with_data(y, weights, offset, trials)

    def estimate(
        self, accumulator: Accumulator, arrays: Rows, design: Design, start: Any, control: Control
    ) -> GlmmEstimates:
        psi = self.begin(accumulator, arrays, design)
        return self.search(arrays, psi if start is None else scaled_psi(start, arrays, psi), control)

    def begin(self, accumulator: Accumulator, arrays: Rows, design: Design) -> np.ndarray:
        data = _start_data(accumulator, design)
        if design.further:
            return start_apart.start(self.family, data, arrays, [p.offset for p in design.further], accumulator)
        return start_glmm.start(self.family, data, accumulator, self.family.start_constants(self.family.num_phi))

    def search(self, arrays: Rows, start: np.ndarray, control: Control) -> GlmmEstimates:
        psi = np.asarray(start)
        if self.n_agq != "auto":
            return estimate_on_host(arrays, psi, control, int(self.n_agq))
        found = estimate_on_host(arrays, psi, control, 1)
        for n in AUTO_NODES if can_have_nodes(arrays.structure) else ():
            before, found = found, estimate_on_host(arrays, found.psi, control, n)
            se = np.sqrt(np.maximum(np.diag(found.covariance), 1e-300))
            if np.max(np.abs(found.psi - before.psi) / se) < SETTLED:
                break
        return found

    # ------------------------------------------------------------ what is read off
    def dispersion(self, e: GlmmEstimates) -> float | None:
        phi = np.ravel(self.phi(e))
        return float(phi[0]) if self._has_phi(e) else None

    def _has_phi(self, e: GlmmEstimates) -> bool:
        """Whether φ is a number: there is one, and it has no formula."""
        return len(e.log_phi) > self.family.num_extras

    def phi(self, e: GlmmEstimates) -> np.ndarray:
        """As a family takes it: a number, 1 where there is none, or (k,) of several."""
        return np.asarray(self._constants(e)[0])

    def _constants(self, e: GlmmEstimates) -> tuple[Any, tuple[Any, ...]]:
        with jax.enable_x64(True):
            phi, extras = self.family.constants(jnp.asarray(e.log_phi))
        return np.asarray(phi), tuple(map(np.asarray, extras))

    def extras(self, e: GlmmEstimates) -> tuple[np.ndarray, ...]:
        """The values of ``Family.extras``."""
        return self._constants(e)[1]

    def family_params(self, e: GlmmEstimates) -> dict[str, float]:
        """What the family has after φ, by name."""
        phi, extras = self._constants(e)
        values = np.concatenate([np.ravel(phi)[1:], *map(np.ravel, extras)])
        return dict(zip(self.family.constant_names, values.tolist(), strict=True))

    def bind(self, design: Design) -> Generalised:
        """With the sizes that the family has from the data."""
        return replace(self, family=self.family.bind(design.y))

    def sigma(self, e: GlmmEstimates) -> float:
        if self.family.has_scale and not self._has_phi(e):
            return float("nan")  # it has a formula
        return float(np.exp(0.5 * e.log_phi[0])) if self.family.has_scale else 1.0

    def effects_scale(self, e: GlmmEstimates) -> float:
        return 1.0

    def curvature(self, arrays: Rows, e: GlmmEstimates) -> Curvature:
        """Of the likelihood at its best β, the Schur complement of β's block."""
        layout, H = arrays.layout, np.asarray(e.hessian)
        _, theta, log_phi = layout.split(np.asarray(e.psi))
        p = layout.at("theta").start
        own, mixed = H[p:, p:], H[:p, p:]
        if p and np.all(np.isfinite(H)):
            own = own - mixed.T @ np.linalg.pinv(H[:p, :p], hermitian=True) @ mixed
        return Curvature(np.asarray(theta), np.asarray(log_phi), own, np.zeros(len(own)))

    def modes(self, arrays: Rows, e: GlmmEstimates) -> list[np.ndarray]:
        """Those of ``effects``."""
        return self.effects(arrays, e).modes

    def effects(self, arrays: Rows, e: GlmmEstimates) -> Effects:
        """Modes and the covariances of the effects given the data and all parameters (inverse curvature)."""
        modes, cond = random_effects(e.psi, arrays, e.u)
        cond = [np.asarray(x) for x in cond]
        return Effects([np.asarray(x) for x in modes], cond, cond)

    def marginal_coef(self, fit: Any) -> pd.DataFrame:
        return marginal.coefficients(fit)

    def marginal_mean(self, fit: Any, rows: NewData, scale: str) -> np.ndarray:
        return marginal.mean(fit, rows, scale)

    def mean_on_link(self, fit: Any, rows: NewData, scale: str, averaged: bool) -> tuple[np.ndarray, np.ndarray]:
        """g of the mean of each row and its standard error: of a predictor itself, else by the delta method."""
        component = SCALES[scale] or "mu"
        d, own = fit.model.design, component in fit.model.design.predictors
        if averaged or not own or (scale == "response" and self.family.mean_apart):
            return marginal.on_link(fit, rows, scale, averaged)
        eta, at = linear_predictors(fit, rows, set())[component], d.predictors[component]
        X = dict(zip(d.predictors, (rows.X, *(X for X, _ in rows.further)), strict=True))[component]
        return eta, np.sqrt(wald.variances(X, np.asarray(fit.estimates.vcov)[at, at]))

    def errors(self, arrays: Rows, e: GlmmEstimates, variances: bool) -> joint.Errors:
        """How the estimates' errors move what is predicted; see ``inference.joint``."""
        return joint.generalised_errors(arrays, e, variances)

    def factored(self, arrays: Rows, e: GlmmEstimates) -> joint.Factored:
        """M at the modes."""
        return joint.generalised_factored(arrays, e)

    def response_interval(self, e: GlmmEstimates, ahead: Ahead, level: float, draws: Any) -> np.ndarray:
        """(m, 2) of new responses, by simulation.

        Raises:
            TypeError: no key.
            NotImplementedError: the errors of several constants.
        """
        if draws is None:
            raise TypeError(
                "interval='prediction' of a generalised model is simulated and needs a key, such as "
                "key=1 or key=jax.random.key(1); n= is the number of draws"
            )
        phi, extras = self._constants(e)
        if ahead.covariance.shape[1] > len(ahead.etas) + 1 or (extras and ahead.covariance.shape[1] > len(ahead.etas)):
            raise NotImplementedError(
                f"uncertain='variances' in a prediction interval of the {self.family.name} family, which has several "
                "constants: leave 'variances' out"
            )
        return simulated_interval(self.family, phi, np.asarray(e.log_phi), extras, ahead, level, draws)

    def remarks(self, fit: Any) -> list[str]:
        e, out = fit.estimates, []
        if self.n_agq == "auto" and not can_have_nodes(fit.model.structure):
            out.append(
                "n_agq='auto': Laplace's method, since quadrature needs one grouping factor with at most "
                f"{MAX_EFFECTS} effects"
            )
        if not bool(e.mode_found):
            out.append("the search for the conditional modes did not end: the log-likelihood is not exact")
        if int(e.status) == Status.RUNAWAY:
            table = fit.coef_table(component="all")
            spread = table["se"] > np.maximum(10 * np.abs(table["estimate"]), max(1.0, 1e-3 * table["se"].max()))
            names = [f"{name} ({value:.3g})" for name, value in table["estimate"][spread].items()]
            who = some(names) or "a combination of the coefficients"
            zeros = spread.index[spread].str.startswith("zi~")
            what = "no extra zeros, or nothing but them, in some rows" if len(zeros) and zeros.all() else "separation"
            out.append(
                f"{what}: {who} run{'s' if len(names) < 2 else ''} away, for the likelihood rises on and on in "
                "that direction; estimate and standard error mean nothing there"
            )
        design, link = fit.model.design, self.family.link
        for f, factor in enumerate(design.factors if link.unit_free else ()):
            Z = np.hstack([t.Z for t in design.terms if t.factor == f])
            sd = float(np.sqrt(np.mean(np.sum((Z @ fit.factor_lam(f)) ** 2, axis=1))))
            if sd > WIDE:
                out.append(
                    f"the effects of '{factor.name}' have a standard deviation of {sd:.3g} on the {link.name} scale: "
                    "the responses of many levels are all alike or separated, the likelihood is nearly flat, and "
                    "Laplace's method is poor there"
                )
        if int(e.status) == Status.STALLED and self.family.has_edge:
            out.append(
                f"the search came to the edge of what the {link.name} link allows, where a mean leaves the family's "
                "range: a link without an edge, such as log or logit, may do better"
            )
        if self.family.limit and self._has_phi(e) and abs(float(e.log_phi[0])) > LIMIT:
            out.append(
                f"the dispersion is at its limit ({np.exp(e.log_phi[0]):.1g}): the data show no overdispersion, and "
                f"the {self.family.limit} family gives the same fit"
            )
        for extra, value in zip(self.family.extras, map(np.max, self.extras(e)), strict=True):
            if extra.limit and value > np.exp(LIMIT):
                label = extra.labels[-1]
                out.append(f"{label} is at its limit ({value:.1g}): the {extra.limit} family gives the same fit")
        return out

    def accuracy(self, fit: Any) -> str | None:
        """By how much more nodes change the log-likelihood, at the estimates; where that can be had."""
        s: Structure = fit.model.structure
        if fit.estimates.n_agq > 1 or not can_have_nodes(s) or not fit.converged:
            return None
        nodes = ACCURACY_NODES[s.chain[0]]
        e = fit.estimates
        deviance = value_only(e.psi, fit.model.arrays, e.u, nodes)
        loglik = -0.5 * float(deviance)
        change = fit.loglik - loglik
        if abs(change) < NOTHING:
            return None
        verdict = "Laplace's approximation is poor here" if abs(change) > POOR else "Laplace approximation"
        return (
            f"{verdict}: with {nodes} quadrature nodes the log-likelihood at these estimates is "
            f"{loglik:.2f}, {abs(change):.2g} {'lower' if change > 0 else 'higher'}"
            + (f"; fit with n_agq={nodes} to see what that does to the estimates" if abs(change) > POOR else "")
        )

    def robust(self, model: Any, e: GlmmEstimates, kind: str, clusters: Any) -> Any:
        return scores.robust(model, e, kind, clusters)

    def draw(
        self, keys: jax.Array, etas: dict[str, np.ndarray], e: GlmmEstimates, weights: Any, trials: Any, few: bool
    ) -> np.ndarray:
        """Responses (n, m) at the linear predictors (n, m), one key for each; counts where there are trials."""
        trials = np.ones(etas["mu"].shape[-1]) if trials is None else trials
        phi, extras = self._constants(e)
        return np.asarray(_drawn(self.family, tuple(etas), keys, tuple(etas.values()), phi, trials, extras, few))


NOTHING = 1e-6  # a change of the log-likelihood that is rounding: Laplace's method is exact
POOR = 0.5  # a change of the log-likelihood worth a second look


def can_have_nodes(s: Structure) -> bool:
    return s.num_factors == 1 and s.chain[0] <= MAX_EFFECTS


def _method(n_agq: int | str) -> str:
    if n_agq == 1:
        return "Laplace approximation"
    nodes = "as many nodes as needed, where one factor allows them" if n_agq == "auto" else f"{n_agq} nodes"
    return f"adaptive Gauss-Hermite quadrature, {nodes}"


_with_response = Program(Rows.with_response)


@partial(Program, static_argnums=(0, 1, 7), size=lambda *arguments: 0 if arguments[-1] else costs.SMALL_PROGRAM)
def _drawn(family: Family, names: tuple[str, ...], keys, etas, phi, trials, extras, few: bool):
    return sample(family, names, keys, etas, phi, trials, extras)


def sample(family: Family, names: tuple[str, ...], keys, etas, phi, trials, extras):
    """Responses (n, m) of a family whose parameters ``names`` have the predictors ``etas`` (n, m)."""

    return jax.vmap(lambda key, own: one_response(family, names, key, own, phi, trials, extras))(keys, etas)


def _trials(design: Design) -> np.ndarray:
    return np.ones(len(design.y)) if design.trials is None else design.trials


def _start_data(accumulator: Accumulator, design: Design) -> start_glmm.Data:
    n = len(design.y)
    return start_glmm.Data(
        y=design.y,
        trials=_trials(design),
        weights=np.ones(n) if design.weights is None else design.weights,
        offset=np.zeros(n) if design.offset is None else design.offset,
        X=accumulator.X.rows(slice(0, n)),
    )
