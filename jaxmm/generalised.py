"""The generalised linear mixed model as a likelihood: y | b ~ family(μ, φ), g(μ) = Xβ + Zb, b ~ N(0, ΛΛ').

By Laplace's method, or adaptive Gauss-Hermite quadrature with ``n_agq`` nodes per effect where there is one factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm import start_glmm
from jaxmm.checks import check_glmm
from jaxmm.design import Design, NewData
from jaxmm.estimate import change_theta
from jaxmm.estimate_glmm import GlmmEstimates, estimate_on_host, random_effects, value_only
from jaxmm.families import Family
from jaxmm.gram import Accumulator
from jaxmm.inference import marginal
from jaxmm.likelihood import Effects
from jaxmm.objective.quadrature import MAX_EFFECTS
from jaxmm.optimize import Control, Status
from jaxmm.rows import Rows, make_rows
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
    def parts(self, accumulator: Accumulator, design: Design) -> Rows:
        offset = np.zeros(len(design.y)) if design.offset is None else design.offset
        return make_rows(accumulator, self.family, design.y, _trials(design), offset)

    def arrays(self, accumulator: Accumulator, parts: Rows, design: Design) -> Rows:
        return _with_response(parts, jnp.asarray(design.y))

    def estimate(
        self, accumulator: Accumulator, arrays: Rows, design: Design, start: Any, control: Control
    ) -> GlmmEstimates:
        s = arrays.structure
        psi = start_glmm.start(
            self.family, _start_data(accumulator, design), accumulator, np.zeros(self.family.num_phi)
        )
        if start is not None:
            inverse = [np.linalg.inv(np.asarray(t)) for t in arrays.T]
            psi[s.p : s.p + s.num_theta] = change_theta(start, inverse, s)
        if self.n_agq != "auto":
            return estimate_on_host(arrays, psi, control, int(self.n_agq))
        found = estimate_on_host(arrays, psi, control, 1)
        for n in AUTO_NODES if can_have_nodes(s) else ():
            before, found = found, estimate_on_host(arrays, found.psi, control, n)
            se = np.sqrt(np.maximum(np.diag(found.covariance), 1e-300))
            if np.max(np.abs(found.psi - before.psi) / se) < SETTLED:
                break
        return found

    # ------------------------------------------------------------ what is read off
    def dispersion(self, e: GlmmEstimates) -> float | None:
        return float(np.exp(e.log_phi[0])) if self.family.num_phi else None

    def sigma(self, e: GlmmEstimates) -> float:
        return float(np.exp(0.5 * e.log_phi[0])) if self.family.has_scale else 1.0

    def effects_scale(self, e: GlmmEstimates) -> float:
        return 1.0

    def effects(self, arrays: Rows, e: GlmmEstimates) -> Effects:
        """Modes and the covariances of the effects given the data and all parameters (inverse curvature)."""
        modes, cond = random_effects(jnp.asarray(e.psi), arrays, tuple(map(jnp.asarray, e.u)))
        cond = [np.asarray(x) for x in cond]
        return Effects([np.asarray(x) for x in modes], cond, cond)

    def marginal_coef(self, fit: Any) -> pd.DataFrame:
        return marginal.coefficients(fit)

    def marginal_mean(self, fit: Any, rows: NewData, eta: np.ndarray) -> np.ndarray:
        return marginal.mean(fit, rows)

    def marginal_se(self, fit: Any, rows: NewData) -> np.ndarray:
        """Of ``marginal_mean`` on the link scale, by the delta method."""
        return marginal.mean_se(fit, rows)

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
            spread = fit.bse > np.maximum(10 * np.abs(fit.fixef), 1.0)
            names = [f"{name} ({value:.3g})" for name, value in fit.fixef[spread].items()]
            who = ", ".join(names) or "a combination of the coefficients"
            out.append(
                f"separation: {who} run{'s' if len(names) < 2 else ''} away, for the likelihood rises on and on in "
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
        if self.family.limit and abs(float(e.log_phi[0])) > LIMIT:
            out.append(
                f"the dispersion is at its limit ({np.exp(e.log_phi[0]):.1g}): the data show no overdispersion, and "
                f"the {self.family.limit} family gives the same fit"
            )
        return out

    def accuracy(self, fit: Any) -> str | None:
        """By how much more nodes change the log-likelihood, at the estimates; where that can be had."""
        s: Structure = fit.model.structure
        if fit.estimates.n_agq > 1 or not can_have_nodes(s) or not fit.converged:
            return None
        nodes = ACCURACY_NODES[s.chain[0]]
        e = fit.estimates
        deviance = value_only(jnp.asarray(e.psi), fit.model.arrays, tuple(map(jnp.asarray, e.u)), nodes)
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

    def draw(self, keys: jax.Array, eta: np.ndarray, e: GlmmEstimates, weights: Any, trials: Any) -> np.ndarray:
        """Responses (n, m) at the linear predictors ``eta`` (n, m), one key for each; counts where there are trials."""
        trials = np.ones(eta.shape[-1]) if trials is None else trials
        phi = jnp.asarray(self.dispersion(e) or 1.0)
        return np.asarray(_sample(self.family, keys, jnp.asarray(eta), phi, jnp.asarray(trials)))


NOTHING = 1e-6  # a change of the log-likelihood that is rounding: Laplace's method is exact
POOR = 0.5  # a change of the log-likelihood worth a second look


def can_have_nodes(s: Structure) -> bool:
    return s.num_factors == 1 and s.chain[0] <= MAX_EFFECTS


def _method(n_agq: int | str) -> str:
    if n_agq == 1:
        return "Laplace approximation"
    nodes = "as many nodes as needed, where one factor allows them" if n_agq == "auto" else f"{n_agq} nodes"
    return f"adaptive Gauss-Hermite quadrature, {nodes}"


_with_response = jax.jit(Rows.with_response)


@partial(jax.jit, static_argnums=0)
def _sample(family: Family, keys, eta, phi, trials):
    return jax.vmap(lambda key, x: family.sample(key, family.link.inverse(x), phi, trials))(keys, eta)


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
