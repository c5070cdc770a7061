"""The linear mixed model as a likelihood: y = Xβ + Zb + ε, b ~ N(0, σ²ΛΛ'), ε ~ N(0, σ²/w), by REML or ML."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm import costs
from jaxmm._random import normals
from jaxmm.design import Design, NewData
from jaxmm.design.checks import check_left, check_lmm
from jaxmm.errors import borne_text
from jaxmm.estimate import Estimates, conditional_covariance, estimate_on_host, explained, joint_hessian
from jaxmm.families import Gaussian
from jaxmm.gram import Accumulator, Gram, assemble
from jaxmm.inference import joint, wald
from jaxmm.inference.predictive import Ahead, normal_interval
from jaxmm.inference.robust import linear as sandwich
from jaxmm.likelihood import Curvature, Effects
from jaxmm.objective.parameters import change_theta
from jaxmm.optimize import Control
from jaxmm.pure import gram_from_rows
from jaxmm.residual import prepare
from jaxmm.rows import Rows, make_rows
from jaxmm.start_given import raised_theta
from jaxmm.structure import Structure

FLAT = 1e-9  # least eigenvalue of the errors' covariance, over its trace: it is singular
EXACT = 1e-9  # a residual variance below this share of the response's: rounding shows


def _log_sigma2_slope(theta: np.ndarray, s: Structure) -> np.ndarray:
    return np.asarray(jax.grad(s.log_sigma2)(jnp.asarray(theta)))


@dataclass(frozen=True)
class Linear:
    """The likelihood of a linear mixed model, restricted or not."""

    reml: bool = True
    family = Gaussian()
    precisions = True  # whether weights divide the variance of a response
    ddf = ("satterthwaite", "kenward-roger", "kenward-roger-linear", "between-within", "residual", "asymptotic")
    averaged_over = ("fixed",)  # whose errors the interval of a mean over the levels has
    sandwiches = sandwich.KINDS
    exact = True  # whether VarCorr is the sum of its two parts exactly

    def title(self, e: Estimates) -> str:
        return f"Linear mixed model fit by {'REML' if self.reml else 'maximum likelihood'}"

    @property
    def price(self) -> costs.Price:
        return costs.LINEAR

    @property
    def kind(self) -> str:
        return f"Linear mixed model, {'REML' if self.reml else 'ML'}"

    @property
    def statistic(self) -> str:
        return "t"

    def by_ml(self) -> Linear:
        return Linear(False)

    def unit(self, design: Design) -> float:
        """theta is relative to sigma."""
        return 1.0

    def check(self, design: Design) -> None:
        check_lmm(design)

    def check_structure(self, structure: Any) -> None:
        """Every structure has an exact likelihood."""

    # ------------------------------------------------------------ arrays
    def parts(self, accumulator: Accumulator, design: Design) -> dict:
        return accumulator.structure.solver.design(accumulator)

    def arrays(self, accumulator: Accumulator, parts: dict, design: Design) -> Gram:
        offset = 0.0 if design.offset is None else design.offset
        return self._arrays(accumulator, parts, design, design.y - offset)

    def arrays_of_lane(self, accumulator: Accumulator, design: Design, y: Any, weights: Any, offset: Any) -> Gram:
        """On the host, of a response, weights and offset (n,), None for those at hand; rows of weight zero are not
        there, whatever their response."""
        w = accumulator.weights if weights is None else np.asarray(weights, float)
        there = np.ones(len(design.y), bool) if w is None else w > 0
        given = design.offset if offset is None else offset
        response = np.where(there, design.y if y is None else y, 0.0) - (0.0 if given is None else given)
        own = replace(accumulator, weights=w)
        return self._arrays(own, own.structure.solver.design(own), design, response)

    def _arrays(self, accumulator: Accumulator, parts: dict, design: Design, response: np.ndarray) -> Gram:
        """Of a response (n,) less the offset."""
        gram = assemble(accumulator, parts, response)
        if design.residual is None:
            return gram
        d = design.residual
        known = np.asarray(2 * np.log(d.sigma)) if d.sigma is not None else None
        own = prepare(accumulator, gram, d, response, self.family)
        return replace(gram, residual=own, log_sigma2=known)

    def rows(self, accumulator: Accumulator, arrays: Gram, design: Design) -> Rows:
        offset = np.zeros(len(design.y)) if design.offset is None else design.offset
        return make_rows(accumulator, self.family, design.y, np.ones(len(design.y)), [offset], room=False)

    def arrays_for(self, arrays: Gram, rows: Rows, y: Any, weights: Any, offset: Any, trials: Any = None) -> Gram:
        assert trials is None
        return gram_from_rows(arrays, rows, y, weights, offset)

    def estimate(self, accumulator: Accumulator, arrays: Gram, design: Design, start: Any, control: Control):
        left = float(np.asarray(arrays.total)[-1, -1])
        check_left(design, lambda: accumulator.X.rows(slice(0, accumulator.n)), left)
        theta = None if start is None else raised_theta(start.theta, arrays)
        return estimate_on_host(arrays, theta, control)

    def begin(self, accumulator: Accumulator, arrays: Gram, design: Design) -> None:
        """``search`` itself tries what the statistics say."""
        return

    def search(self, arrays: Gram, start: np.ndarray | None, control: Control) -> Estimates:
        theta = start
        if theta is not None:
            theta = change_theta(np.asarray(theta), [np.asarray(t) for t in arrays.T], arrays)
        return estimate_on_host(arrays, theta, control)

    # ------------------------------------------------------------ what is read off
    def dispersion(self, e: Estimates) -> float:
        return float(e.sigma) ** 2

    def phi(self, e: Estimates) -> float:
        """As a family takes it."""
        return self.dispersion(e)

    def sigma(self, e: Estimates) -> float:
        return float(e.sigma)

    def extras(self, e: Estimates) -> tuple[np.ndarray, ...]:
        return ()

    def family_params(self, e: Estimates) -> dict[str, float]:
        return {}

    def bind(self, design: Design) -> Linear:
        return self

    def effects_scale(self, e: Estimates) -> float:
        return self.dispersion(e)

    def curvature(self, arrays: Gram, e: Estimates) -> Curvature:
        """Restricted by REML, else of the likelihood at its best β."""
        log_sigma2, s, theta = np.array([2 * np.log(float(e.sigma))]), arrays.structure, np.asarray(e.theta_scaled)
        moves = np.zeros(len(theta) + s.profiles_sigma)
        if s.profiles_sigma:
            moves[-1] = 1.0
        elif arrays.log_sigma2 is None:
            moves = np.array(_log_sigma2_slope(theta, s))
        return Curvature(theta, log_sigma2[: s.profiles_sigma], joint_hessian(e, arrays), moves)

    def modes(self, arrays: Gram, e: Estimates) -> list[np.ndarray]:
        """Per factor in elimination order (J, q); a program of its own, the covariances' takes as long to compile."""
        weights = np.append(-np.asarray(e.beta_scaled), 1.0)
        return [np.asarray(x) @ weights for x in explained(e.theta_scaled, arrays)]

    def effects(self, arrays: Gram, e: Estimates) -> Effects:
        """Modes and conditional covariances per factor in elimination order; by REML what beta's own error adds."""
        NB = [np.asarray(x) for x in explained(e.theta_scaled, arrays)]
        cond = [self.dispersion(e) * np.asarray(x) for x in conditional_covariance(e.theta_scaled, arrays)]
        prediction = cond
        if self.reml and arrays.structure.p:
            T_X = np.asarray(arrays.T_X)
            vcov = np.linalg.solve(T_X, np.linalg.solve(T_X, np.asarray(e.vcov)).T)
            prediction = [
                c + np.einsum("jap,pk,jbk->jab", x[:, :, :-1], vcov, x[:, :, :-1])
                for c, x in zip(cond, NB, strict=True)
            ]
        return Effects(self.modes(arrays, e), cond, prediction)

    def marginal_coef(self, fit: Any) -> pd.DataFrame:
        """β̂: with an identity link what holds for a subject holds on average."""
        return pd.DataFrame({"estimate": fit.fixef, "std_error": fit.bse})

    def marginal_mean(self, fit: Any, rows: NewData, scale: str) -> np.ndarray:
        """Xβ + offset, or σ²."""
        eta = rows.X @ np.asarray(fit.estimates.beta) + rows.offset
        return eta if scale != "dispersion" else np.full_like(eta, fit.scale)

    def mean_on_link(self, fit: Any, rows: NewData, scale: str, averaged: bool) -> tuple[np.ndarray, np.ndarray]:
        """Xβ + offset and its standard error.

        Raises:
            NotImplementedError: of σ².
        """
        if scale == "dispersion":
            raise NotImplementedError("an interval of the dispersion is not available yet")
        return self.marginal_mean(fit, rows, scale), np.sqrt(wald.variances(rows.X, np.asarray(fit.estimates.vcov)))

    def errors(self, arrays: Gram, e: Estimates, variances: bool) -> joint.Errors:
        """How the estimates' errors move what is predicted; see ``inference.joint``."""
        return joint.linear_errors(arrays, e, variances)

    def factored(self, arrays: Gram, e: Estimates) -> joint.Factored:
        """M at the estimates."""
        return joint.linear_factored(arrays, e)

    def response_interval(self, e: Estimates, ahead: Ahead, level: float, draws: Any) -> np.ndarray:
        """(m, 3) of new responses, in closed form, and their degrees of freedom.

        Raises:
            ValueError: a key or a number of draws.
        """
        if draws is not None:
            raise ValueError("key= and n= are for simulation: in a linear model the interval is in closed form")
        return normal_interval(ahead, self.dispersion(e), level)

    def remarks(self, fit: Any) -> list[str]:
        d = fit.model.design
        own = fit.residual
        if own is not None and any(np.linalg.eigvalsh(V)[0] <= FLAT * np.trace(V) for V in own.matrices):
            return [f"the covariance of the errors is singular, or nearly so: {borne_text(d.residual)}"]
        spread = float(np.var(d.y - (0.0 if d.offset is None else d.offset)))
        if fit.scale > EXACT * spread or not fit.model.structure.profiles_sigma:
            return []
        return [
            f"the model reproduces the response almost exactly: the residual variance is {fit.scale / spread:.0e} "
            "of the response's, so that rounding limits the likelihood, the standard errors and the modes"
        ]

    def accuracy(self, fit: Any) -> str | None:
        """The likelihood is exact."""
        return None

    def robust(self, model: Any, e: Estimates, kind: str, clusters: Any) -> sandwich.Robust:
        return sandwich.robust(model, e, kind, clusters)

    def draw(
        self, keys: jax.Array, etas: dict[str, np.ndarray], e: Estimates, weights: Any, trials: Any, few: bool
    ) -> np.ndarray:
        """Responses (n, m) at the linear predictor (n, m), one key for each."""
        eta = etas["mu"]
        noise = np.asarray(normals(keys, eta.shape[-1]))
        return eta + self.sigma(e) * (noise if weights is None else noise / np.sqrt(weights))
