"""Fitted: a prepared model with its estimates, as numbers and labels; what predictions, tables and tests are made of.

``fit.Fit`` adds the verbs, those that fit again among them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import coefficients
from jaxmm._context import computing
from jaxmm.covariance import free
from jaxmm.errors import ResidualCovariance, residual_covariance
from jaxmm.families import Family
from jaxmm.frames import as_backend
from jaxmm.inference import ddf as ddf_methods
from jaxmm.inference import robust, wald
from jaxmm.inference.ddf import Reference
from jaxmm.likelihood import Curvature, Effects
from jaxmm.optimize import Control, Status
from jaxmm.prepared import Prepared
from jaxmm.tables import Block, RandomEffects, VarCorr


class Fitted:
    """The model and its estimates; ``estimates`` holds them as arrays, in the columns that the search worked in too."""

    def __init__(self, model: Prepared, estimates: Any, control: Control):
        self.model, self.estimates, self._control = model, estimates, control

    # ------------------------------------------------------------ estimates
    @property
    def formula(self) -> str:
        """The formula, as the design has it."""
        return self.model.design.formula

    @property
    def reml(self) -> bool:
        """Whether the likelihood is the restricted one."""
        return self.model.reml

    @property
    def fixef(self) -> pd.Series:
        """β̂, indexed by the columns of X."""
        return self._labelled(self.estimates.beta[: len(self.model.design.columns)], "estimate")

    @property
    def bse(self) -> pd.Series:
        """Standard errors of β̂: square roots of the diagonal of ``vcov()``."""
        return self._labelled(np.sqrt(np.diag(self.vcov())), "std_error")

    @property
    def tvalues(self) -> pd.Series:
        """β̂ over its standard error: called t in a linear model, z in a generalised one."""
        return self._labelled(wald.each(self.fixef, self.bse).statistic, self.model.likelihood.statistic)

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values, those of ``coef_table()``: of a linear model by t with Satterthwaite's degrees of
        freedom, of a generalised one by the normal distribution, which takes standard errors for known."""
        return self._labelled(self.coef_table()["p"], "p")

    def vcov(self, kind: str = "model", cluster: Any = None, component: str = "mu") -> pd.DataFrame:
        """Covariance matrix of β̂.

        Args:
            kind: "model", σ²(X'V⁻¹X)⁻¹ in a linear model, else from the joint Hessian of all parameters; or robust to
                what is wrong with V or the likelihood within clusters, as clubSandwich names them: "CR0", "CR1",
                "CR3", of linear models also "CR2", which is unbiased if the model is right. See ``inference.robust``.
            cluster: a grouping factor's name, or a column of labels, one for each row used; by default the factor with
                the fewest levels. No level of any factor may have rows in two clusters.
            component: of which coefficients, as in ``coef_table``; "all" for those of every predictor together, those
                of the zeros called "zi~x".

        Raises:
            ValueError: a kind that the model has not, an unknown cluster, or clusters that are not independent.

        Robust ones: Liang & Zeger (1986), Biometrika 73; CR2 and CR3: Bell & McCaffrey (2002), Surv. Methodol. 28.

        Example:
            >>> fit.vcov("CR2", cluster="Subject").shape
            (2, 2)
        """
        model = robust.check_kind(self.model, kind) == robust.MODEL and cluster is None
        V = self.estimates.vcov if model else self.reference(None, kind, cluster).vcov
        return coefficients.vcov(self.model.design, V, component)

    def reference(self, ddf: str | None = None, vcov: Any = None, cluster: Any = None) -> Reference:
        """What tests of the coefficients are made with: their covariance, which the method may adjust, and degrees of
        freedom; an ``inference.ddf.Reference``, computed once.  ``ddf``, ``vcov`` and ``cluster`` as in
        ``coef_table``.

        Example:
            >>> fit.reference("satterthwaite").name
            'satterthwaite'
        """
        if isinstance(vcov, str) and robust.check_kind(self.model, vcov) != robust.MODEL:
            vcov, cluster = self._robust(vcov, cluster), None
        if callable(getattr(vcov, "denominator", None)) and cluster is None:
            given: Any = vcov
            if ddf in (None, given.name):
                return given
            return ddf_methods.WithCovariance(self.reference(ddf), given.vcov, tuple(given.notes))
        if cluster is not None:
            raise ValueError("cluster= belongs to a robust covariance: give its kind too, such as vcov='CR2'")
        known = self.__dict__.setdefault("_references", {})
        if ddf not in known:
            known[ddf] = ddf_methods.reference(self.model, self.estimates, ddf)
        own = vcov is None or isinstance(vcov, str)
        return known[ddf] if own else ddf_methods.with_covariance(known[ddf], vcov, self.model.design.columns)

    def _robust(self, kind: str, cluster: Any) -> Reference:
        """That of a robust covariance; kept, but for clusters that are no factor's."""
        known = self.__dict__.setdefault("_robust_references", {})
        key = (kind, cluster) if cluster is None or isinstance(cluster, str) else None
        if key not in known:
            found = robust.reference(self.model, self.estimates, kind, cluster)
            if key is None:
                return found
            known[key] = found
        return known[key]

    def coef_table(
        self,
        ddf: str | None = None,
        component: str = "mu",
        vcov: Any = None,
        cluster: Any = None,
        *,
        backend: str = "pandas",
    ) -> pd.DataFrame:
        """The coefficients of one predictor: ``estimate``, ``se``, ``df``, ``statistic``, ``p``, a row each.

        Args:
            ddf: degrees of freedom. Of a linear model "satterthwaite" (the default), "kenward-roger" (standard errors
                change too), "kenward-roger-linear", "between-within", "residual" or "asymptotic", the normal
                distribution; of a generalised one "asymptotic" (the default), "between-within" or "residual". See
                ``inference.ddf``.
            component: "mu", the mean; "zi", the log-odds of an extra zero (``zero_inflation=``); "phi", log φ
                (``dispersion=``); a further parameter of the family; or "all".
            vcov: a covariance matrix in the place of the fit's, of all coefficients, or of those of the mean; a kind as
                ``Fit.vcov`` takes it; or a reference, such as ``fit.reference(vcov="CR2", cluster=column)``. With a
                kind "satterthwaite", the default of a linear model, is that of the robust variance (Bell & McCaffrey;
                several rows by Hotelling's T²).
            cluster: of a robust kind, as in ``vcov``.
            backend: "pandas", or "polars" with the names in a column ``term``.

        Raises:
            ValueError: a component, a ddf or a kind that the model has not, or a matrix of another shape.

        Satterthwaite's: Giesbrecht & Burns (1985), Biometrics 41; Kenward & Roger (1997), Biometrics 53. The formulas
        are in ``inference.ddf``.

        Example:
            >>> fit.coef_table().round(2)
                         estimate    se    df  statistic    p
            (Intercept)    251.41  6.82  17.0      36.84  0.0
            Days            10.47  1.55  17.0       6.77  0.0
        """
        own = self.model.design.residual
        if component == "phi" and own is not None and own.dispersion is not None:
            table = coefficients.log_phi_table(own, self._curvature, self.sigma)
        else:
            table = coefficients.coef_table(self.model.design, self.reference(ddf, vcov, cluster), component)
        return as_backend(table, backend, "term")

    @cached_property
    def _curvature(self) -> Curvature:
        """The Hessian by the parameters of the variances."""
        with computing(self.model.device):
            return self.model.likelihood.curvature(self.model.arrays, self.estimates)

    @property
    def theta(self) -> np.ndarray:
        """Covariance factor (relative to σ in ``lmm``): column-major lower triangle per term, by decreasing levels;
        then the parameters of the errors' covariance over σ², where they have one (``residual`` has them by name)."""
        return np.array(self.estimates.theta)

    @property
    def family(self) -> Family:
        """The ``families.Family``: Gaussian with the identity link in a linear model."""
        return self.model.likelihood.family

    @property
    def sigma(self) -> float:
        """Residual standard deviation, √φ; 1.0 where the family has no scale, NaN where φ has a formula."""
        return self.model.likelihood.sigma(self.estimates)

    @property
    def scale(self) -> float:
        """σ²."""
        return self.sigma**2

    @property
    def dispersion(self) -> float | None:
        """φ of the family, σ² of the Gaussian, the first where it has several; None where there is none, or a formula
        (``predict(scale="dispersion")`` has it then)."""
        return self.model.likelihood.dispersion(self.estimates)

    @property
    def family_params(self) -> dict[str, float]:
        """Further parameters of the family by name, all but the first of φ; {} where there are none.

        The power of a ``families.Tweedie`` is one, "power", and "df" of a ``families.StudentT``; a family of your own
        has some with ``extras``, or with ``num_phi`` above 1 and names in ``phi_names``.
        """
        return self.model.likelihood.family_params(self.estimates)

    @property
    def further(self) -> pd.Series:
        """Coefficients of the predictors after the mean's, "zi~x" of the zeros and "phi~x" of log φ; mostly empty."""
        d = self.model.design
        p = len(d.columns)
        return pd.Series(np.asarray(self.estimates.beta)[p:], list(d.coefficients[p:]), name="estimate", dtype=float)

    @property
    def deviance(self) -> float:
        """−2 log-likelihood with all constants; the restricted one (the REML criterion) when ``reml``."""
        return float(self.estimates.deviance)

    @property
    def loglik(self) -> float:
        """Log-likelihood with all constants, −deviance / 2; the restricted one when ``reml``."""
        return -0.5 * self.deviance

    @property
    def df(self) -> int:
        """Parameters: rank of X, length of θ, and σ or what dispersion the family has."""
        formula = "phi" in self.model.design.predictors
        known = not self.model.structure.profiles_sigma  # or a part of θ
        constants = self.family.num_phi - (formula or known) + self.family.num_extras
        return len(self.model.design.coefficients) + len(self.theta) + constants

    @property
    def nobs(self) -> int:
        """Rows of positive weight."""
        return len(self.model.design.y)

    @property
    def aic(self) -> float:
        """Akaike's criterion (1974), deviance + 2 df; smaller is better."""
        return self.deviance + 2 * self.df

    @property
    def bic(self) -> float:
        """Schwarz's criterion (1978), deviance + log(nobs) df; smaller is better."""
        return self.deviance + np.log(self.nobs) * self.df

    @property
    def n_groups(self) -> dict[str, int]:
        """Levels of each grouping factor, and of the one within which errors are correlated."""
        factors = (*self._factors_in_order(), *self.model.design.correlated_within)
        return {f.name: len(f.levels) for f in factors}

    @property
    def dropped(self) -> tuple[str, ...]:
        """Aliased columns of X that were left out; "phi~x" and "zi~x" of those of other predictors."""
        return self.model.design.all_dropped

    params = fe_params = fixef
    llf, cov_params = loglik, vcov

    @property
    def residual(self) -> ResidualCovariance | None:
        """The covariance of the errors within a subject, by time; None without ``residual=`` or ``dispersion=``."""
        s, d = self.model.structure, self.model.design.residual
        if d is None or s.residual is None or d.plain:
            return None
        return residual_covariance(d, s.residual, self.theta[s.num_random :], self.sigma)

    @property
    def converged(self) -> bool:
        """Whether the search ended at a maximum; ``diagnostics`` says how it ended."""
        return int(self.estimates.status) == Status.CONVERGED

    @property
    def n_agq(self) -> int:
        """Quadrature nodes per effect; 1 by Laplace's method and in a linear model."""
        return getattr(self.estimates, "n_agq", 1)

    # ------------------------------------------------------------ random effects
    def varcorr(self) -> VarCorr:
        """D by grouping factor, σ²ΛΛ' in a linear model and else ΛΛ': of the population of levels, before the data.

        Example:
            >>> print(fit.varcorr())
             Groups   Name        Std.Dev. Corr
             Subject  (Intercept) 24.7405
                      Days         5.9221  0.066
             Residual             25.5918
        """
        d, blocks = self.model.design, []
        scale = self.model.likelihood.effects_scale(self.estimates)
        for factor in self._factors_in_order():
            f = d.factors.index(factor)
            lam = self.factor_lam(f)
            terms = [t for t in d.terms if t.factor == f]
            effects = tuple(e for t in terms for e in t.effects)
            blocks.append(Block(factor.name, effects, scale * lam @ lam.T, free(terms)))
        return VarCorr(blocks, self.sigma if self.family.has_scale and not np.isnan(self.sigma) else None)

    @cached_property
    def effects(self) -> Effects:
        """Modes and conditional covariances per factor of the design, unlabelled."""
        arrays = self.model.arrays
        with computing(self.model.device):
            found = self.model.likelihood.effects(arrays, self.estimates)
        return Effects(*(self._by_design(x) for x in (found.modes, found.conditional, found.prediction)))

    @cached_property
    def modes(self) -> list[np.ndarray]:
        """Conditional modes per factor of the design, (J, q)."""
        if "effects" in self.__dict__:
            return self.effects.modes
        with computing(self.model.device):
            return self._by_design(self.model.likelihood.modes(self.model.arrays, self.estimates))

    def ranef(self) -> RandomEffects:
        """Conditional modes (BLUPs) per grouping factor: levels × effects. Henderson (1975), Biometrics 31.

        Example:
            >>> fit.ranef()["Subject"].shape
            (18, 2)
        """
        d, tables = self.model.design, {}
        for factor in self._factors_in_order():
            f = d.factors.index(factor)
            tables[factor.name] = pd.DataFrame(
                self.modes[f], pd.Index(factor.levels, name=factor.name), self._effects(f)
            )
        return RandomEffects(tables, self._named_covariances)

    def _named_covariances(self) -> dict[str, np.ndarray]:
        return {f.name: x for f, x in zip(self.model.design.factors, self.effects.conditional, strict=True)}

    def coef(self) -> dict[str, pd.DataFrame]:
        """Fixed plus random effects per level, by grouping factor: levels × effects of X and Z.

        Example:
            >>> fit.coef()["Subject"].round(1).loc["308"].tolist()
            [253.7, 19.7]
        """
        out = {}
        for name, table in self.ranef().items():
            columns = list(dict.fromkeys([*self.fixef.index, *table.columns]))
            base = pd.DataFrame(
                {c: np.full(len(table), self.fixef.get(c, 0.0)) for c in columns}, table.index, dtype=float
            )
            base[list(table.columns)] += table
            out[name] = base
        return out

    # ------------------------------------------------------------ labels and layouts
    def _labelled(self, values: Any, name: str) -> pd.Series:
        return pd.Series(np.asarray(values), list(self.model.design.columns), name=name, dtype=float)

    def _by_design(self, values: list) -> list:
        """From elimination order to the order of the design's factors."""
        order = self.model.elimination.order
        return [values[order.index(f)] for f in range(len(order))]

    def _factors_in_order(self) -> list:
        """The grouping factors in the order in which theta meets them."""
        d = self.model.design
        return [d.factors[f] for f in dict.fromkeys(term.factor for term, _ in self._term_layouts())]

    def _effects(self, f: int) -> list[str]:
        return [e for t in self.model.design.terms if t.factor == f for e in t.effects]

    def _term_layouts(self) -> list:
        """(term of the design, its layout), in theta's order."""
        return [(self.model.design.terms[t], layout) for t, layout in self.model.theta_terms()]

    def factor_lam(self, f: int) -> np.ndarray:
        """Λ's block of factor ``f`` of the design, (q, q), as ``theta``.

        Example:
            >>> (fit.sigma * fit.factor_lam(0)).round(1).tolist()
            [[24.7, 0.0], [0.4, 5.9]]
        """
        q = sum(len(t.effects) for t in self.model.design.terms if t.factor == f)
        lam = np.zeros((q, q))
        for (term, layout), at in zip(self._term_layouts(), self.model.structure.slices(), strict=True):
            if term.factor == f:
                inside = slice(layout.at, layout.at + layout.covariance.q)
                lam[inside, inside] = term.covariance.lam(self.theta[at], term.inputs)
        return lam

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k in ("model", "estimates", "_control")}


def check_fit(who: str, given: Any) -> None:
    """Raises TypeError, of the function ``who``, for what has not the verbs of a fit."""
    if not callable(getattr(given, "varcorr", None)):
        raise TypeError(f"{who} takes a fit, as from lmm(), glmm() or model.fit(), not {type(given).__name__}")
