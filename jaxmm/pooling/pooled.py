"""pool: the fits of several imputations of one data set -> one set of estimates, by Rubin's rules (``rules``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._keywords import known_keywords
from jaxmm._text import Grid, Printed, frame_parts, number_text, p_value, some
from jaxmm.frames import as_backend
from jaxmm.inference import wald
from jaxmm.inference.hypothesis import LinearTest
from jaxmm.inference.restrictions import restrictions
from jaxmm.pooling import rules
from jaxmm.pooling.at_pooled import neg2_logliks
from jaxmm.pooling.datasets import DataSets, gather
from jaxmm.tables import VarCorr

METHODS = ("D1", "D2", "D3")
_HINTS = {
    "object": "the fits come first: pool(fits)",
    "df_com": "dfcom=",
    "ddf": "dfcom= is the number of degrees of freedom of complete data",
    "data": "of a batch, model=model, Y=Y with what fit_many was given",
}


@known_keywords(_HINTS, required={"fits": "a list of fits, one of each imputation, or what fit_many returns of them"})
def pool(fits: Any, *, dfcom: float | None = None, model: Any = None, Y: Any = None) -> Pooled:
    """Pool the fits of several imputations of one data set by Rubin's rules.

        pool([mm.lmm(formula, table) for table in imputed])
        pool(mm.fit_many(model, Y, keep="vcov"), model=model)          imputed responses as lanes

    Args:
        fits: a list of fits of one model, or a ``FitBatch``, an imputation each. Fits that did not converge are left
            out, and the result says so. Tests of several coefficients need a batch with ``keep="vcov"``.
        dfcom: the degrees of freedom that the tests would have with complete data, ``math.inf`` for a normal
            distribution. By default n - p in a linear model, n the rows (the fewest of all fits) and p the
            coefficients of the mean, which is too many for what is told between few groups; ∞ in a generalised model.
        model: of a batch, what ``fit_many`` was given: terms may be tested by name then.
        Y: of a batch, the responses that ``fit_many`` was given: for the method "D3".

    Returns:
        ``Pooled``: ``frame``, ``coef_table()``, ``vcov()``, ``confint()``, ``varcorr()``, ``test(L)``,
        ``compare(null)``; print it.

    Raises:
        TypeError: what are no fits.
        ValueError: fits of different models, fewer than two that converged; a batch of a linear model from a
            file that does not say how many rows it had, without ``model`` or ``dfcom``; ``dfcom`` that is not above
            zero.

    Rubin (1987), Multiple Imputation for Nonresponse in Surveys; Barnard & Rubin (1999), Biometrika 86, 948-955.

    Example:
        >>> draws = fit.simulate(4, key=1)  # in the place of four imputations
        >>> pooled = mm.pool(mm.fit_many(fit, draws, progress=False), model=fit)
        >>> pooled.m, list(pooled.coef_table().columns)
        (4, ['estimate', 'se', 'df', 'statistic', 'p'])
    """
    sets = gather(fits, model, Y)
    if dfcom is None:
        dfcom = sets.residual_df
        if np.isnan(dfcom):
            raise ValueError(
                "this batch of a linear model does not know how many rows it had: give model=, for n - p degrees of "
                "freedom of complete data, or dfcom= (math.inf for a normal distribution)"
            )
    number = not isinstance(dfcom, bool) and isinstance(dfcom, int | float | np.number)
    if not number or not dfcom > 0:
        raise ValueError(f"dfcom must be a number above 0, or math.inf, not {dfcom!r}")
    return Pooled(sets, float(dfcom))


@dataclass(frozen=True, eq=False, repr=False)
class PooledTest(Printed):
    """A comparison of two pooled models: ``F`` with ``num_df`` and ``den_df``, ``p``; ``riv``, the relative increase in
    variance due to what is missing; ``method`` and ``notes``.

    Example:
        >>> draws = fit.simulate(3, key=1)  # in the place of three imputations
        >>> null = mm.lmm("Reaction ~ 1 + (Days | Subject)", mm.datasets.load("sleepstudy"))
        >>> test = mm.pool([fit.refit(y) for y in draws]).compare([null.refit(y) for y in draws])
        >>> test.num_df, test.method
        (1, 'D1')
    """

    F: float
    num_df: int
    den_df: float
    p: float
    riv: float
    method: str
    notes: tuple[str, ...] = ()

    def _parts(self) -> list[str | Grid]:
        F, den_df, riv = (number_text(x, ".5g") for x in (self.F, self.den_df, self.riv))
        joint = f"F = {F} on {self.num_df} and {den_df} df, p = {p_value(self.p)}"
        return [f"Test of pooled models ({self.method})", joint, f"relative increase in variance {riv}", *self.notes]


@dataclass(frozen=True, eq=False, repr=False)
class Pooled(Printed):
    """What ``pool`` found.

    Attributes:
        sets: what was read of the fits.
        dfcom: degrees of freedom of complete data.

    Example:
        >>> pooled = mm.pool([fit.refit(y) for y in fit.simulate(3, key=1)])
        >>> bool(0 < pooled.frame.loc["Days", "lambda"] < 1), pooled.test("Days = 10").num_df
        (True, 1)
    """

    sets: DataSets
    dfcom: float

    @property
    def m(self) -> int:
        """Imputations that are pooled."""
        return len(self.sets)

    @property
    def names(self) -> list[str]:
        """Of all coefficients, those of further predictors as "zi~x"."""
        return list(self.sets.design.coefficients)

    @cached_property
    def _scalars(self) -> rules.Scalars:
        return rules.scalars(self.sets.Q, np.diagonal(self.sets.U, axis1=1, axis2=2), self.dfcom)

    @property
    def fixef(self) -> pd.Series:
        """The pooled estimates, means over the imputations."""
        return pd.Series(self._scalars.estimate, self.names, name="estimate")

    params = fixef

    @property
    def bse(self) -> pd.Series:
        """Their standard errors: roots of the total variances."""
        return pd.Series(self._scalars.se, self.names, name="std_error")

    @property
    def frame(self) -> pd.DataFrame:
        """A row per coefficient: ``estimate, se, df, statistic, p``; the variances ``within`` and ``between`` the
        imputations and in ``total``; ``riv``, the relative increase in variance; ``lambda``, the share of the total
        that is due to what is missing; ``fmi``, the fraction of missing information."""
        s = self._scalars
        t = wald.each(s.estimate, s.se, s.df)
        columns = {
            "estimate": s.estimate, "se": s.se, "df": s.df, "statistic": t.statistic, "p": t.p, "within": s.within,
            "between": s.between, "total": s.total, "riv": s.riv, "lambda": s.lam, "fmi": s.fmi,
        }  # fmt: skip
        return pd.DataFrame(columns, self.names)

    def coef_table(self, *, backend: str = "pandas") -> pd.DataFrame:
        """``estimate, se, df, statistic, p``, a row per coefficient. ``backend``: "pandas", or "polars" with the names
        in a column ``term``."""
        return as_backend(self.frame.loc[:, ["estimate", "se", "df", "statistic", "p"]], backend, "term")

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``frame``. ``backend``: "pandas" or "polars"."""
        return as_backend(self.frame, backend, "term")

    def vcov(self) -> pd.DataFrame:
        """T, the covariance of the pooled estimates.

        Raises:
            ValueError: a batch that has standard errors alone, without ``keep="vcov"``.
        """
        self._check_covariances(np.ones(len(self.names), bool))
        T = rules.covariances(self.sets.Q, self.sets.U)[2]
        return pd.DataFrame(T, self.names, self.names)

    def confint(self, level: float = 0.95, *, backend: str = "pandas") -> pd.DataFrame:
        """``lower`` and ``upper`` of each coefficient, by t with the ``df`` of ``frame``.

        ``backend``: "pandas" or "polars".

        Raises:
            ValueError: a level that is not between 0 and 1.
        """
        s = self._scalars
        lower, upper = wald.interval(s.estimate, s.se, level, s.df)
        return as_backend(pd.DataFrame({"lower": lower, "upper": upper}, self.names), backend, "term")

    conf_int = confint

    def varcorr(self) -> VarCorr:
        """The means over the imputations of the covariances of the random effects, and of σ²; they have no errors."""
        return self.sets.varcorr()

    @property
    def dispersion(self) -> float | None:
        """The mean φ; None where the family has none."""
        return None if self.sets.dispersion is None else float(np.mean(self.sets.dispersion))

    @property
    def family_params(self) -> dict[str, float]:
        """The means of further parameters of the family."""
        return dict(zip(self.sets.params, np.mean(self.sets.family_params, axis=0).tolist(), strict=True))

    # ------------------------------------------------------------ tests
    def test(self, L: Any, method: str = "D1") -> LinearTest:
        """Test Lβ = value: t of each row with Barnard & Rubin's degrees of freedom, F of all together.

        Args:
            L: as in ``Fit.test``: "Days = 0", "a - b", a term of the formula (of a batch with ``model=``), a mapping
                of names to numbers, a list of these, or numbers (k, p).
            method: of the F: "D1" (Li, Raghunathan & Rubin 1991, JASA 86; with finite ``dfcom`` Reiter 2007, Biometrika
                94), or "D2", of the imputations' own χ² (Li, Meng, Raghunathan & Rubin 1991, Stat. Sinica 1).

        Raises:
            ValueError: names or numbers that do not fit the coefficients; rows of which one follows from others; a
                method of another name; several coefficients of a batch that has standard errors alone.
        """
        if method not in METHODS[:2]:
            raise ValueError(f"method must be 'D1' or 'D2', not {method!r}; 'D3' compares models: compare(null)")
        asked = restrictions(L, self.sets.design)
        if not np.all(asked.known):
            label = asked.labels[int(np.argmin(asked.known))]
            raise ValueError(f"the data do not tell {label!r}: its columns follow from others")
        Q, U = self._rows(asked.L)
        s = rules.scalars(Q, np.diagonal(U, axis1=1, axis2=2), self.dfcom)
        t = wald.each(s.estimate - asked.value, s.se, s.df)
        columns = {
            "estimate": s.estimate, "value": asked.value, "se": s.se, "df": s.df, "statistic": t.statistic, "p": t.p,
            "fmi": s.fmi,
        }  # fmt: skip
        found, notes = self._joint(Q, U, asked.value, method)
        frame = pd.DataFrame(columns, list(asked.labels))
        return LinearTest(frame, found.F, found.num_df, found.den_df, found.p, method, (*self._left_out(), *notes))

    def compare(self, null: Any, method: str = "D1", *, use: str | None = None) -> PooledTest:
        """Test a smaller model, pooled over the same imputations, against this one.

        Args:
            null: what ``pool`` gave of it, or takes: a list of fits, or a batch, of the same data sets in the same
                order.
            method: "D1", of the estimates that the smaller model lacks and their covariances; "D2", of each
                imputation's own statistic, which ``use`` names; "D3", likelihood ratios at the imputations' own
                estimates and at the pooled ones (Meng & Rubin 1992, Biometrika 79), by maximum likelihood: fits by
                REML are fitted again. "D3" needs the data: lists of fits, or ``pool(batch, model=model, Y=Y)``.
            use: of "D2", "wald" (the default) or "likelihood".

        An imputation that did not converge in either model is left out of both. "D3" and likelihoods also compare
        models that differ in random effects; the χ² behind them is conservative where a variance of zero is tested.

        Raises:
            ValueError: another method; a smaller model with a coefficient that this one has not, or with as many
                parameters; other data sets; a batch by REML, or without its data for "D3".
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, not {method!r}")
        if use is not None and (method != "D2" or use not in ("wald", "likelihood")):
            raise ValueError(f"use= is 'wald' or 'likelihood' of method='D2', not {use!r} of {method!r}")
        larger, smaller, notes = _side_by_side(self.sets, null.sets if isinstance(null, Pooled) else gather(null))
        if method == "D1" or (method == "D2" and use != "likelihood"):
            both = Pooled(larger, self.dfcom)
            tested = _only_in(larger, smaller)
            Q, U = both._rows(np.eye(len(both.names))[tested])
            found, more = both._joint(Q, U, np.zeros(len(tested)), method)
        else:
            found, more = _by_likelihood(larger, smaller, method)
        how = method if method != "D2" else f"D2, {use or 'wald'}"
        return PooledTest(*found, how, (*notes, *more))

    def _rows(self, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of Lβ the estimates (m, k) and covariances (m, k, k)."""
        touched = np.any(L != 0, axis=0)
        self._check_covariances(touched)
        own = L[:, touched]
        U = self.sets.U[:, touched][:, :, touched]
        return self.sets.Q @ L.T, own @ U @ own.T

    def _check_covariances(self, touched: np.ndarray) -> None:
        if not np.all(np.isfinite(self.sets.U[:, touched][:, :, touched])):
            raise ValueError(
                "the batch has standard errors alone, and a test of several coefficients needs their covariances: "
                "fit_many(..., keep='vcov') keeps them; or pool a list of fits"
            )

    def _joint(self, Q: np.ndarray, U: np.ndarray, value: Any, method: str) -> tuple[rules.Joint, tuple[str, ...]]:
        m, k = Q.shape
        if method == "D2":
            own = wald.together(np.eye(k), Q, U, value).statistic
            return rules.d2(own, k), ()
        found = rules.d1(Q, U, value, self.dfcom)
        if np.isfinite(self.dfcom) and not rules.has_small_sample(k * (m - 1), self.dfcom):
            few = f"with {m} imputations the denominator's degrees of freedom are those of large data sets"
            return found, (few,)
        return found, ()

    def _left_out(self) -> tuple[str, ...]:
        return _left_out(self.sets)

    def _parts(self) -> list[str | Grid]:
        complete = "∞" if np.isinf(self.dfcom) else number_text(self.dfcom, ".5g")
        shown = self.frame.loc[:, ["estimate", "se", "df", "statistic", "p", "riv", "fmi"]]
        named = shown.rename(columns={"statistic": self.sets.statistic if np.isinf(shown["df"]).all() else "t"})
        parts: list[str | Grid] = [
            f"Pooled over {self.m} imputations: {self.sets.what}",
            f"Rubin's rules; {complete} degrees of freedom of complete data",
            *self._left_out(),
            "",
            *frame_parts(named),
        ]
        vc = self.varcorr()
        if vc.blocks:
            parts += ["", "Random effects, means of the covariances:", *repr(vc).splitlines()]
        return parts


# ---------------------------------------------------------------- two models
def _left_out(sets: DataSets) -> tuple[str, ...]:
    gone = np.setdiff1d(np.arange(sets.given), sets.kept)
    if not len(gone):
        return ()
    return (f"{len(gone)} of {sets.given} fits did not converge and are left out: {some([str(k) for k in gone])}",)


def _side_by_side(larger: DataSets, smaller: DataSets) -> tuple[DataSets, DataSets, tuple[str, ...]]:
    """The data sets that both have, with notes.

    Raises:
        ValueError: of another number of data sets, or of other responses.
    """
    if larger.given != smaller.given:
        raise ValueError(f"the models are of {larger.given} and {smaller.given} data sets: fit both to the same ones")
    kept = np.intersect1d(larger.kept, smaller.kept)
    if len(kept) < 2:
        raise ValueError(f"{len(kept)} of {larger.given} data sets have fits of both models that converged: two needed")
    larger, smaller = (s.take(np.searchsorted(s.kept, kept)) for s in (larger, smaller))
    for k, a, b in zip(kept, larger.fits, smaller.fits, strict=False):
        if not np.array_equal(a.model.design.y, b.model.design.y):
            raise ValueError(f"the fits {k} of the two models are to different responses: give them in the same order")
    return larger, smaller, _left_out(larger)


def _only_in(larger: DataSets, smaller: DataSets) -> np.ndarray:
    """Which coefficients the smaller model lacks.

    Raises:
        ValueError: it has one that the larger has not, or all of them.
    """
    names, others = list(larger.design.coefficients), list(smaller.design.coefficients)
    strange = [name for name in others if name not in names]
    if strange:
        raise ValueError(f"the smaller model has a coefficient {strange[0]!r} that the larger has not: not nested")
    if len(others) == len(names):
        raise ValueError("both models have the same coefficients: method='D3', or 'D2' with use='likelihood'")
    return np.array([k for k, name in enumerate(names) if name not in others])


def _by_likelihood(larger: DataSets, smaller: DataSets, method: str) -> tuple[rules.Joint, tuple[str, ...]]:
    """D2 of likelihood ratios, or D3."""
    notes = ("fitted again by maximum likelihood",) if larger.reml or smaller.reml else ()
    larger, smaller = larger.by_ml(), smaller.by_ml()
    k = larger.num_params - smaller.num_params
    if k <= 0:
        raise ValueError(f"the smaller model has {smaller.num_params} parameters and the larger {larger.num_params}")
    own = np.maximum(smaller.deviance - larger.deviance, 0.0)
    if method == "D2":
        return rules.d2(own, k), notes
    found = rules.d3(own, neg2_logliks(smaller) - neg2_logliks(larger), k)
    if found.riv < 0:
        negative = "the estimated increase in variance is below zero, and taken for zero: more imputations are needed"
        notes = (*notes, negative)
    return found, notes
