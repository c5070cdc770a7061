"""Model: the path from a formula and a table to arrays, one line per step, before any fitting.

    formula --parse--> Terms --build--> Design --analyse--> Structure --gram or rows--> arrays --estimate--> Fit

``lmm()`` and ``glmm()`` are ``Model.from_formula(...).fit()``.  What differs between them is in ``model.likelihood``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxmm._context import choose_device, computing
from jaxmm._keywords import FITTING, GENERALISED, known_keywords
from jaxmm._text import some
from jaxmm._warn import warn
from jaxmm.describe import describe, described_html
from jaxmm.design import DataError, build
from jaxmm.design.errorbar import checked_dispersion, parse_residual
from jaxmm.design.formula import Terms, parse, parse_part
from jaxmm.design.from_arrays import Term, design_from_arrays
from jaxmm.families import FAMILIES, Family, Hurdle, ZeroInflated
from jaxmm.fit import Fit
from jaxmm.kinds import check_flag, choose_likelihood
from jaxmm.layout import Parameters
from jaxmm.likelihood import Likelihood
from jaxmm.linear import Linear
from jaxmm.optimize import Control, as_control
from jaxmm.prepared import Prepared
from jaxmm.sources.truth import as_start

# what other modules read of a model: how its arrays are made, and steps from one model to another
_UNLISTED = frozenset(
    {"accumulator", "elimination", "groupings", "parts", "structure", "theta_terms", "unit",
     "with_arrays", "with_design", "with_likelihood"}
)  # fmt: skip


class Model(Prepared):
    """A mixed model that has its data but is not fitted.

    Make one with ``from_formula`` or ``from_arrays``; ``fit()`` fits it, ``arrays`` is what a program needs of it.
    ``print(model)`` shows how it will be computed.

    Attributes:
        design: y, X, and the columns of each bar, with their names.
        likelihood: the criterion and the family.
        device: where it computes, a ``jax.Device``.
        elimination: in which order the grouping factors are eliminated, and how; decided from the codes.

    Example:
        >>> model = mm.Model.from_formula("Reaction ~ Days + (Days | Subject)", mm.datasets.load("sleepstudy"))
        >>> model.solver, model.fit().converged
        ('blocks', True)
    """

    # ------------------------------------------------------------ ways in
    @classmethod
    @known_keywords(FITTING)
    def from_formula(
        cls,
        formula: str,
        data: Any,
        family: str | Family | None = None,
        *,
        reml: bool | None = None,
        n_agq: int | str | None = None,
        weights: Any = None,
        offset: Any = None,
        contrasts: dict[str, str] | None = None,
        missing: str = "drop",
        device: Any = "auto",
        dispersion: str | None = None,
        zero_inflation: str | None = None,
        residual: str | None = None,
        matrices: Mapping[str, Any] | None = None,
    ) -> Model:
        """The model of a formula on a table: linear without a ``family``, generalised with one.

        Args:
            formula, data, weights, offset, contrasts, missing: as in ``lmm`` and ``glmm``.
            residual, matrices: as in ``lmm``.
            reml: of a linear model, whether by restricted maximum likelihood; True unless given.
            family, n_agq, zero_inflation: as in ``glmm``.
            dispersion: as in ``lmm`` or in ``glmm``.
            device: where it computes: "auto", "cpu", "gpu" or a ``jax.Device``, as ``Control.device``.

        Raises:
            FormulaError: the formula cannot be read; the message names the token and the accepted spelling.
            DataError: the data cannot be used; the message names column, row and remedy.
            ValueError: an unknown family or link, or quadrature where it cannot be had.
            TypeError: a keyword of the other kind of model.

        Example:
            >>> mm.Model.from_formula("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff"), reml=False).reml
            False
        """
        terms = parse(formula)
        written = {"phi": ("dispersion", dispersion), "zi": ("zero_inflation", zero_inflation)}
        formulas = {p: parse_part(text, name) for p, (name, text) in written.items() if text is not None}
        likelihood = choose_likelihood(family, reml, n_agq)
        errors = None if residual is None else parse_residual(residual)
        of_errors = None
        if family is None:
            of_errors = formulas.pop("phi", None)
            of_errors = None if of_errors is None or is_constant(of_errors) else checked_dispersion(of_errors)
        elif errors is not None:
            raise TypeError(
                "residual= is for linear mixed models, where errors are added to the mean: leave family= out, or put "
                f"the structure around a random-effects term of the formula, {errors.text.replace('(', '(0 + ', 1)}"
            )
        likelihood, further = choose_further(likelihood, formulas)
        design = build(
            terms,
            data,
            further=further,
            residual=errors,
            dispersion=of_errors,
            matrices=matrices,
            family=None if family is None else likelihood.family,
            weights=weights,
            offset=offset,
            contrasts=contrasts,
            missing=missing,  # pyright: ignore
        )
        if design.dropped:
            warn(
                f"the fixed effects are rank-deficient: dropped {some(design.dropped)}, a combination of the "
                "columns before (fit.dropped)"
            )
        for p in design.beyond_mean:
            if p.dropped:
                warn(f"{p.formula} of {p.name} is rank-deficient: dropped {some(p.dropped)} (fit.dropped)")
        for remark in design.remarks:
            warn(remark)
        return cls(design, likelihood, device=device)

    @classmethod
    @known_keywords(FITTING)
    def from_arrays(
        cls,
        y: Any,
        X: Any,
        terms: Sequence[Term],
        family: str | Family | None = None,
        *,
        reml: bool | None = None,
        n_agq: int | str | None = None,
        trials: Any = None,
        weights: Any = None,
        offset: Any = None,
        names: Sequence[str] | None = None,
        device: Any = "auto",
    ) -> Model:
        """The model of plain arrays, with all of their rows.

        Args:
            y: (n,) the response; counts of successes where there are trials.
            X: (n, p) the columns of the fixed effects, the intercept's among them.
            terms: one ``Term`` per bar.
            family, reml, n_agq, device: as in ``from_formula``.
            trials: (n,) where y counts successes; 1 by default.
            weights: (n,) precisions in a linear model, else what multiplies the log density of a row.
            offset: (n,) added to Xβ.
            names: p names of the columns of X, "x0", "x1", … unless given.

        Raises:
            DataError: lengths that differ, values that are not finite or not the family's, too few or too many levels.
            TypeError: a keyword of the other kind of model.

        Example:
            >>> y, X = np.array([1.0, 2.0, 4.0, 6.0, 2.0, 3.0]), np.ones((6, 1))
            >>> mm.Model.from_arrays(y, X, [mm.Term(np.ones(6), [0, 0, 1, 1, 2, 2])], names=["mean"]).fit().fixef
            mean    3.0
            Name: estimate, dtype: float64
        """
        likelihood = choose_likelihood(family, reml, n_agq)
        of = None if family is None else likelihood.family
        design = design_from_arrays(y, X, terms, weights, offset, names, of, trials)
        return cls(design, likelihood, device=device)

    # ------------------------------------------------------------ fitting
    @known_keywords(FITTING)
    def fit(self, *, start: Any = None, control: Control | dict | None = None) -> Fit:
        """Fit by (restricted) maximum likelihood.

        Args:
            start: where the search begins; by default moments of the data. theta (m,), in the order of ``fit.theta``; a
                ``Fit`` of a model with the same columns, effects and family; a ``Truth`` or the mapping of one. All
                but theta give a generalised model its coefficients and dispersion too.
            control: ``jaxmm.Control`` or a dictionary of its settings.

        Raises:
            ValueError: a start of another model, with unknown names or numbers that are not finite.
            DataError: a model of ``plan`` without a response.

        Returns:
            A ``Fit``. One that did not converge or lies on the boundary is returned too, with its flags set.

        Example:
            >>> fit.model.fit(start=fit, control={"tolerance": 1e-6}).converged
            True
        """
        if self.design.stand_in:
            raise DataError(
                f"the table of this plan has no response {self.design.response!r}, and there is nothing to fit yet: "
                "simulate from the model (mm.study, mm.power, mm.Simulated), give fit_many(model, Y) the responses, or "
                "make the model of a table that has them"
            )
        settings = as_control(control)
        if settings.device != "auto" and choose_device(settings.device, self.structure) != self.device:
            raise ValueError(
                f"this model computes on {self.device}, not on control.device = {settings.device!r}: give device= when "
                "the model is made"
            )
        return self._fit_from(as_start(self, start), settings)

    def _fit_from(self, start: Parameters | None, settings: Control) -> Fit:
        arrays = self.arrays
        with computing(self.device):
            estimates = self.likelihood.estimate(self.accumulator, arrays, self.design, start, settings)
        return Fit(self, estimates, replace(settings, device="auto"))  # a refit goes where the model is

    def __dir__(self) -> list[str]:
        """What completion shows: all but what other modules read."""
        return sorted(set(super().__dir__()) - _UNLISTED)

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        return described_html(self)


@known_keywords(FITTING)
def lmm(
    formula: str,
    data: Any,
    *,
    reml: bool = True,
    residual: str | None = None,
    dispersion: str | None = None,
    matrices: Mapping[str, Any] | None = None,
    weights: Any = None,
    offset: Any = None,
    contrasts: dict[str, str] | None = None,
    missing: str = "drop",
    start: Any = None,
    control: Control | dict | None = None,
) -> Fit:
    """Fit a linear mixed model: y = Xβ + Zb + ε, b ~ N(0, D), ε ~ N(0, σ²/w), or ε ~ N(0, R) with ``residual``.

    Args:
        formula: in R's spelling, ``"Reaction ~ Days + (Days | Subject)"``.
        data: a pandas, polars or pyarrow table, or a mapping of columns.
        reml: restricted maximum likelihood (the default), or maximum likelihood.
        residual: the covariance of the errors within the levels of a factor, a structure around a bar:
            ``"us(visit | subject)"`` is the model for repeated measures of a trial (MMRM). On the left of the bar
            stands the time, a factor or a number, or 1 for the order of the rows; missing visits need no filling. With
            ``by=arm``, as in ``"us(visit | subject, by=arm)"``, each level of that factor has parameters of its own.
            The model then needs no random effects. Structures: us, diag, homdiag, cs, homcs, ar1, hetar1, toep,
            homtoep, ante, ou, exp, gau, mat, propto, equalto. With ``equalto(obs | study, V)`` the errors have the
            covariance V itself, and sigma is the root of its mean variance, which is known.
        dispersion: a one-sided formula for log φ, the logarithm of the errors' variance: ``"~ sex"`` gives unequal
            variances, ``"~ log(time)"`` a power of time. It needs no random effects either, and may have none,
            nor ``offset()``: what is known of log φ is a weight.
        matrices: known matrices by the names that the formula has for them, ``{"K": K}`` of ``propto(0 + f | g, K)``: a
            DataFrame with the levels as names of rows and columns, in any order, or an array in the levels' order: that
            of a categorical, else sorted, texts by their characters ("sp 10" before "sp 2").
        weights: precision weights, Var ε = σ²/w: a column's name or an array. A row of weight 0 counts nowhere
            and still gets a fitted value.
        offset: added to Xβ: a column's name or an array; ``offset(...)`` in the formula adds to it.
        contrasts: ``{"column": "treatment" | "sum" | "helmert" | "poly"}``; by default treatment, and polynomial
            for ordered categoricals.
        missing: "drop" rows with a missing value in a column of the model (the summary says how many), or "raise".
        start: where the search begins: theta, a ``Fit``, a ``Truth`` or the mapping of one; see ``Model.fit``.
        control: ``jaxmm.Control`` or a dictionary of its settings.

    Returns:
        A ``Fit``. A fit that did not converge or lies on the boundary is returned too, with its flags set.

    Raises:
        FormulaError, DataError: the message names the token or the column, the value and the remedy.

    The criterion is that of Bates, Mächler, Bolker & Walker (2015), J. Stat. Softw. 67(1), eqs. 34 and 42.

    Example:
        >>> fit = mm.lmm("Reaction ~ Days + (Days | Subject)", mm.datasets.load("sleepstudy"))
        >>> fit.fixef.round(2)
        (Intercept)    251.41
        Days            10.47
        Name: estimate, dtype: float64
    """
    settings = as_control(control)
    check_flag("reml", reml)
    model = Model.from_formula(
        formula, data, reml=reml, weights=weights, offset=offset, contrasts=contrasts, missing=missing,
        device=settings.device, residual=residual, dispersion=dispersion, matrices=matrices,
    )  # fmt: skip
    return model.fit(start=start, control=settings)


@known_keywords(
    GENERALISED, required={"family": f"one of {', '.join(FAMILIES)}; lmm(formula, data) is the Gaussian model"}
)
def glmm(
    formula: str,
    data: Any,
    family: str | Family,
    *,
    n_agq: int | str = 1,
    weights: Any = None,
    offset: Any = None,
    contrasts: dict[str, str] | None = None,
    missing: str = "drop",
    start: Any = None,
    control: Control | dict | None = None,
    dispersion: str | None = None,
    zero_inflation: str | None = None,
    matrices: Mapping[str, Any] | None = None,
) -> Fit:
    """Fit a generalised linear mixed model: y | b ~ family(μ, φ), g(μ) = Xβ + Zb + offset, b ~ N(0, D).

    By maximum likelihood, where the integral over b is Laplace's approximation or adaptive Gauss-Hermite quadrature.

    Args:
        formula: in R's spelling, ``"cbind(incidence, size - incidence) ~ period + (1 | herd)"``.
        data: a pandas, polars or pyarrow table, or a mapping of columns.
        family: a name of ``families.FAMILIES`` (with its first link), or a family such as
            ``mm.families.Binomial(link="probit")``, also one of your own.
        n_agq: nodes per effect; 1 is Laplace's method. More need one grouping factor with at most three effects.
            "auto" takes more and more until the estimates settle (Laplace's method where more cannot be had).
        weights: they multiply each row's log density, so that an integer is that many equal rows; the numbers of
            trials where the response is a proportion. A row of weight 0 counts nowhere and still gets a fitted value.
        offset, contrasts, missing: as in ``lmm``.
        start: where the search begins: theta, a ``Fit``, a ``Truth`` or the mapping of one; see ``Model.fit``.
        control: ``jaxmm.Control`` or a dictionary of its settings.
        dispersion: a one-sided formula for log φ (log σ² of a Gaussian), such as ``"~ DOY"``, with random effects and
            offset(...) as in ``formula``. By default φ is one number.
        zero_inflation: a one-sided formula for the logit of the probability of an extra zero, such as
            ``"~ mined + (1 | site)"``; for families of counts: poisson, nbinom1, nbinom2, binomial, betabinomial. With
            truncated_poisson, truncated_nbinom1 and truncated_nbinom2 all zeros are of that kind: a hurdle model.
        matrices: as in ``lmm``.

    Returns:
        A ``Fit``. One that did not converge, or whose coefficients run away (separation), is returned too, flagged.

    Raises:
        FormulaError, DataError: the message names the token or the column, the row, the value and the remedy.
        ValueError: an unknown family or link, or quadrature where it cannot be had.

    Laplace's method: Tierney & Kadane (1986), JASA 81; adaptive quadrature: Liu & Pierce (1994), Biometrika 81.

    Example:
        >>> cbpp = mm.datasets.load("cbpp")
        >>> herds = mm.glmm("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp, "binomial")
        >>> herds.fixef.round(2)
        (Intercept)   -1.40
        period2       -0.99
        period3       -1.13
        period4       -1.58
        Name: estimate, dtype: float64
    """
    settings = as_control(control)
    if family is None:
        raise ValueError("glmm needs a family, such as 'binomial'; for a linear mixed model use lmm")
    model = Model.from_formula(
        formula, data, family, n_agq=n_agq, weights=weights, offset=offset, contrasts=contrasts, missing=missing,
        device=settings.device, dispersion=dispersion, zero_inflation=zero_inflation, matrices=matrices,
    )  # fmt: skip
    return model.fit(start=start, control=settings)


# ---------------------------------------------------------------- the steps
def is_constant(formula: Terms) -> bool:
    """Whether a formula says "~ 1"."""
    return str(formula).replace(" ", "") == "~1"


def choose_further(likelihood: Likelihood, formulas: dict[str, Terms]) -> tuple[Likelihood, dict[str, Terms | None]]:
    """The likelihood with zero inflation where there is a formula for it, and the formulas of the parameters that have
    a predictor, None for "~ 1".  A formula "~ 1" for φ is a constant, which φ is without one.

    Raises:
        ValueError: a formula for what the family does not have.
    """
    family = likelihood.family
    if formulas and isinstance(likelihood, Linear):
        raise TypeError("zero_inflation= is for generalised models of counts: give a family, such as 'poisson'")
    if "zi" in formulas and not any(p.name == "zi" for p in family.further):
        family = (Hurdle if family.above_zero else ZeroInflated)(family)
        likelihood = replace(likelihood, family=family)  # pyright: ignore
    further: dict[str, Terms | None] = {}
    if "phi" in formulas and not is_constant(formulas["phi"]):
        if family.num_phi != 1:
            raise ValueError(
                f"the {family.name} family has {'no' if not family.num_phi else 'several parameters of'} dispersion: "
                "leave dispersion= out"
            )
        further["phi"] = formulas["phi"]
    return likelihood, further | {p.name: formulas.get(p.name) for p in family.further}
