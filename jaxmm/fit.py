"""Fit: a fitted model with its labels.  Every method delegates to the module that does the work."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd

from jaxmm import diagnostics, shrinkage, simulate, summary, tidy
from jaxmm._context import computing
from jaxmm._keywords import AVERAGING, PREDICTING, SHARES, SIMULATING, known_keywords
from jaxmm.diagnose import check, components, finding, multistart, pictures, simulated
from jaxmm.fitted import Fitted
from jaxmm.inference import confint, joint, r2
from jaxmm.inference.anova import TermTests, term_tests
from jaxmm.inference.hypothesis import LinearTest, linear_test
from jaxmm.inference.influence import Influence, influence
from jaxmm.inference.interval import Interval
from jaxmm.inference.prediction import predictions
from jaxmm.inference.profile import Profile, profile
from jaxmm.inference.restrictions import restrictions
from jaxmm.means import emmeans
from jaxmm.means.result import Emmeans
from jaxmm.predict import Asked, fitted_values
from jaxmm.publish import interchange, one
from jaxmm.publish.hypertext import html
from jaxmm.publish.latex import latex
from jaxmm.publish.markdown import markdown
from jaxmm.residuals import residuals
from jaxmm.studies.bootstrap import Bootstrap, bootstrap


class Fit(Fitted):
    """A fitted mixed model; ``lmm``, ``glmm`` or ``Model.fit`` makes one.  Values are properties, the rest methods.

    ``estimates`` holds the same as arrays, in the columns that the search worked in too.
    """

    # ------------------------------------------------------------ how it went
    @property
    def singular_terms(self) -> list[str]:
        """The terms with a diagonal element of Λ below 1e-4, as they are written in the formula."""
        return diagnostics.singular_terms(self)

    @property
    def is_singular(self) -> bool:
        """Whether some diagonal element of a term's triangular Λ is below 1e-4 (times the unit of η, where there is
        one)."""
        return bool(self.singular_terms)

    @property
    def diagnostics(self) -> diagnostics.Diagnostics:
        """How the search ended and where it ran."""
        return diagnostics.diagnostics(self)

    @property
    def remarks(self) -> list[str]:
        """What limits the meaning of the estimates, one sentence each; empty for most fits."""
        return diagnostics.remarks(self)

    def accuracy(self) -> str | None:
        """What more nodes would do to the log-likelihood of a Laplace fit, in a sentence; None with several factors."""
        if "_accuracy" not in self.__dict__:  # once: printing computes nothing
            with computing(self.model.device):
                self.__dict__["_accuracy"] = self.model.likelihood.accuracy(self)
        return self.__dict__["_accuracy"]

    def shrinkage(self) -> shrinkage.Shrinkage:
        """VarCorr beside the spread of the BLUPs, and why they differ."""
        return shrinkage.shrinkage(self)

    def marginal_coef(self) -> pd.DataFrame:
        """Population-averaged coefficients: ``estimate``, ``std_error``; β̂ in a linear model.

        What a unit of x does to the average over levels, where β̂ says what it does within one level: nearer to zero in
        a logistic model, the more so the larger the variance of the effects. See ``inference.marginal``.
        """
        return self.model.likelihood.marginal_coef(self)

    # ------------------------------------------------------------ rows
    def fitted(self) -> pd.Series:
        """g⁻¹(Xβ̂ + Zb̂ + offset) on the labels of the rows used (also those of weight zero), in the data's order.

        The response's scale; proportions where the response counts successes; with zero inflation the zeros count.
        """
        return fitted_values(self)

    @known_keywords({"type": "kind='response', 'pearson', 'deviance' or 'working'"})
    def residuals(self, kind: str = "response") -> pd.Series:
        """Residuals on the labels of the rows used.

        "response": y − μ (proportions where there are trials); "pearson": (y − μ)√w/√V(μ), w with the trials, as
        lme4's not divided by σ; "deviance": the signed roots of the unit deviances; "working": (y − μ) dη/dμ.
        With zero inflation, y less the mean and over the variance that include the zeros; with a formula for a scale φ,
        V includes it.
        """
        return residuals(self, kind)

    @known_keywords(PREDICTING)
    def predict(
        self,
        newdata: Any = None,
        *,
        re: str | Collection[str] = "conditional",
        offset: Any = None,
        weights: Any = None,
        scale: str = "response",
        new_levels: str = "error",
        interval: str | None = None,
        level: float = 0.95,
        ddf: str | None = None,
        uncertain: str | Collection[str] | None = None,
        key: Any = None,
        n: int | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Predictions on the rows of ``newdata``, or of the fit.

        Args:
            re: "conditional" (with the modes of the levels), "population" (b = 0: a typical level), "marginal" (the
                mean over all levels; "population" in a linear model), or a list of the factors whose modes count.
            offset: for new data, in the place of the fit's offset argument.
            scale: "response" (the mean; a proportion where there are trials), "link", "conditional" (the mean of the
                counts before zeros are added), "zero" (the probability of an extra zero) or "dispersion" (φ).
            new_levels: "error" for a level that the fit has not seen; "population": b = 0 there, a typical level; or,
                in an interval, "sample": b of such a level has the variance of the population of levels. With
                ``re="population"`` every level is a new one.
            interval: "confidence" of the mean, or "prediction" of a new response: a frame with ``predicted``,
                ``lower`` and ``upper``, and in ``attrs`` and under it what they are.
            level: the share of an interval.
            ddf: its degrees of freedom in a linear model: "satterthwaite" (the default), of the whole variance; or
                "asymptotic", normal quantiles, the default of a generalised model; or, where β̂ alone is uncertain, any
                method of ``coef_table``.
            uncertain: what an interval counts, of "fixed" (β̂), "random" (the levels' effects, given the data where they
                have any), "variances" (estimates of variances and dispersion) and "residual" (a new response): all but
                "variances" unless given. The rest is taken for known. See ``inference.prediction``.
            weights: of new responses, for "prediction": precisions, or numbers of trials; a column's name, an array.
            key, n: for "prediction" in a generalised model, which is simulated: a JAX key, and the draws of each row,
                1000 unless given. Row i depends on the key and i alone. Shares where there are trials.

        >>> fit.predict(new, interval="prediction", new_levels="sample")  # doctest: +SKIP

        Raises:
            DataError: a missing column, an unseen level, missing weights; the message names it and the remedy.
            TypeError: no key for a simulation.
        """
        asked = Asked(newdata, re, offset, new_levels)
        return predictions(self, asked, scale, Interval(interval, level, uncertain, weights, key, n, ddf))

    def joint_vcov(
        self, levels: Mapping[str, Any] | None = None, *, uncertain: str | Collection[str] = ("fixed", "random")
    ) -> pd.DataFrame:
        """The covariance matrix of the errors of β̂ and b̂ together, as lme4's ``vcov(full=TRUE)``: σ² times the inverse
        of Henderson's matrix in a linear model, from the curvature at the modes in a generalised one.

        ``levels`` of each factor, as {"Subject": ["308", "309"]}, or all of them (up to 4000 rows in all);
        ``uncertain`` as in ``predict``. Rows are labelled (part, level, effect), β's ("fixed", "", name). See
        ``inference.joint``.

        Raises:
            ValueError: a factor or level that the fit has not; too many rows.
        """
        return joint.joint_vcov(self, levels, uncertain)

    @known_keywords(SIMULATING)
    def simulate(
        self,
        n: int = 1,
        *,
        key: Any,
        newdata: Any = None,
        re: str = "new",
        weights: Any = None,
        offset: Any = None,
    ) -> np.ndarray:
        """``n`` new responses (n, nobs): random effects drawn anew ("new"), or at their modes ("conditional").

        Replicate k depends on ``key`` and k alone. On ``newdata`` every level, seen or not, gets its own draw;
        ``weights`` (precisions, or the numbers of trials; asked for if the fit had any) and ``offset`` are those of the
        new rows. Counts of successes where the response has trials.
        """
        return simulate.simulate(self, n, key, newdata, re, weights, offset)

    # ------------------------------------------------------------ what may be wrong
    @known_keywords(SIMULATING)
    def simulated_residuals(self, n: int = 250, *, key: Any, re: str = "conditional") -> simulated.SimulatedResiduals:
        """Randomised quantile residuals: the place of each response among ``n`` that the fit would give, in (0, 1).

        Args:
            key: such as ``jax.random.key(0)``; it alone decides the simulations and how ties are broken.
            re: "conditional", given the fitted effects of the levels at hand (the default of DHARMa since 0.5), or
                "new", with effects drawn anew (its default before). See ``diagnose.simulated`` on what each finds.

        Print it for its tests: uniformity, dispersion, outliers, zeros, quantiles; ``test_by(column)``,
        ``test_autocorrelation(column)``; ``plot()``.
        """
        return simulated.simulated_residuals(self, n, key, re)

    # ------------------------------------------------------------ fits again
    def refit(self, y: Any) -> Self:
        """The same model with another response (nobs,); nothing is compiled again."""
        return self.model.with_response(y).fit(control=self._control)

    def refit_ml(self) -> Self:
        """The same model by maximum likelihood; itself if it is that already."""
        return self.model.by_ml().fit(control=self._control) if self.reml else self

    # ------------------------------------------------------------ tests and tables
    def bootstrap(self, n: int, *, key: Any, **options: Any) -> Bootstrap:
        """``jaxmm.bootstrap`` of this fit."""
        return bootstrap(self, n, key=key, **options)

    @known_keywords({"alpha": "level=1 - alpha", "nsim": "n=", "seed": "key=jax.random.key(seed)"})
    def confint(
        self,
        method: str = "wald",
        level: float = 0.95,
        *,
        parm: Any = None,
        ddf: str | None = None,
        vcov: Any = None,
        cluster: Any = None,
        key: Any = None,
        n: int | None = None,
    ) -> pd.DataFrame:
        """Confidence intervals: ``lower``, ``upper``, indexed as ``fixef``, or as ``parm`` says.

        ``method``: "wald" (with ``ddf``, ``vcov``, ``cluster``), "profile", or "bootstrap" (with ``key`` and ``n``).
        ``parm``: a coefficient or several; of "profile" and "bootstrap" "sd_Days|Subject" or "sigma" too, or "all". See
        ``inference.confint``.

        >>> fit.confint("profile", parm="all")
        """
        return confint.confint(self, method, level, parm, ddf=ddf, vcov=vcov, cluster=cluster, key=key, n=n)

    conf_int = confint

    def test(self, L: Any, ddf: str | None = None, vcov: Any = None, cluster: Any = None) -> LinearTest:
        """Test Lβ = value: t of each row, F of all together; z and χ² in a generalised model.

        Args:
            L: "Days = 0", "a - b", "2*a + b = 3", the name of a term, a mapping of names to numbers, a list of these,
                or numbers (k, p), a row per restriction.
            ddf, vcov, cluster: as in ``coef_table``.

        Raises:
            ValueError: names or numbers that do not fit the coefficients, or rows of which one follows from others.

        Example:
            >>> fit.test("Days = 10").p
        """
        reference = self.reference(ddf, vcov, cluster)
        return linear_test(restrictions(L, self.model.design), reference)

    def anova(self, type: int = 3, ddf: str | None = None, vcov: Any = None, cluster: Any = None) -> TermTests:
        """A table with an F test of each term of the formula: ``F``, ``num_df``, ``den_df``, ``p``; of a generalised
        model ``chisq``, ``df``, ``p``, unless ``ddf`` counts degrees of freedom.

        Args:
            type: 1, each term after those before it; 2, after all that do not contain it; 3, averaged with equal
                weights over the levels of other factors. None depends on how factors are coded (``inference.terms``).
            ddf, vcov, cluster: as in ``coef_table``.

        Raises:
            ValueError: another type, or a ddf that the model has not.
        """
        reference = self.reference(ddf, vcov, cluster)
        chisq = reference.name == "asymptotic" == self.model.likelihood.ddf[0]
        return term_tests(self.model.design, reference, type, chisq)

    def summary(self) -> summary.Summary:
        """lmerTest's summary: method, counts, variance components, fixed effects with df and p, flags."""
        return summary.summary(self)

    @known_keywords({"conf_int": "conf_level=0.95", "level": "conf_level=0.95"})
    def tidy(self, conf_level: float | None = None, *, effects: str | None = None) -> pd.DataFrame:
        """One row per parameter, as broom.mixed: ``estimate``, ``std_error``, ``statistic``, ``df``, ``p_value``.

        ``effects``: "fixed", "ran_pars" (SDs, correlations, σ, with their errors) or "dispersion"; all by default, the
        errors of the variance parameters left out unless ``conf_level`` asks for intervals. See ``jaxmm.tidy``.
        """
        return tidy.tidy(self, effects, conf_level)

    def glance(self) -> pd.DataFrame:
        """One row for the whole fit."""
        return summary.glance(self)

    def augment(self) -> pd.DataFrame:
        """One row per row used: response, fitted value, residual."""
        return summary.augment(self)

    @known_keywords(SHARES)
    def r2(
        self,
        *,
        interval: str | None = None,
        level: float = 0.95,
        n: int | None = None,
        key: Any = None,
        approximation: str | None = None,
    ) -> Any:
        """Nakagawa's R², a Series: the shares of the variance on the scale of the linear predictor that fixed effects
        explain (``marginal``), and these with the random ones (``conditional``); see ``inference.r2``.

        ``interval="bootstrap"`` with a ``key``: a frame ``estimate``, ``lower``, ``upper``, from ``n=999`` parametric
        replicates. ``approximation`` to the variance of a response: "latent" (π²/3 of a logit), "lognormal",
        "trigamma" or "delta", where family and link have it; the first by default. ``fit.r2()["marginal"]``
        """
        return r2.r2(self, r2.How(interval, level, n, key, approximation))

    @known_keywords(SHARES)
    def icc(
        self,
        *,
        by_group: bool = False,
        interval: str | None = None,
        level: float = 0.95,
        n: int | None = None,
        key: Any = None,
        approximation: str | None = None,
    ) -> Any:
        """Intraclass correlations, a Series: ``adjusted``, the share of the random effects in the variance that fixed
        effects leave, and ``unadjusted``, in all; or ``by_group``, the adjusted share of each grouping factor.

        The other arguments as in ``r2``.
        """
        return r2.icc(self, by_group, r2.How(interval, level, n, key, approximation))

    @known_keywords({"which": "parm=", "alphamax": "level=1 - alphamax", "signames": "names are those of a bootstrap"})
    def profile(self, parm: Any = None, level: float = 0.99) -> Profile:
        """The profile likelihood of every parameter, or of those that ``parm`` names: ``frame``, ``confint()``,
        ``plot()``.

        A fit by REML is profiled by maximum likelihood. ``level``: how far, to the ends of its intervals. See
        ``inference.profile``.

        >>> fit.profile().plot()
        """
        return profile(self, parm, level)

    # ------------------------------------------------------------ marginal means
    @known_keywords(AVERAGING)
    def emmeans(
        self,
        specs: Any,
        by: Any = None,
        at: Any = None,
        ddf: str | None = None,
        weights: Any = "equal",
        scale: str = "link",
        integrate: bool = False,
        level: float = 0.95,
        vcov: Any = None,
    ) -> Emmeans:
        """Estimated marginal means: over the levels of ``specs``, averaged over those of the other factors.

        Args:
            specs, by: names of columns, or "~ a * b | c". [] for the mean of all.
            at: {"x": value or values} in the place of a covariate's mean (both values, where it has two) or a factor's
                levels.
            ddf, vcov: as in ``coef_table``.
            weights: of the levels averaged over: "equal", "proportional", "outer", "cells", "flat" (as R's emmeans),
                or numbers, the first factor's levels fastest.
            scale: "response" for means and intervals carried back from the link scale; contrasts are ratios then,
                under a log or logit link.
            integrate: the mean averaged over the random effects, on the response scale, in the place of that at b = 0.

        Returns:
            ``Emmeans``: ``.frame``, ``.contrasts("pairwise")``, ``.joint_tests()``, ``.plot()``. A mean that the data
            do not tell is NaN, and a note says so. ``fit.emmeans("Machine").contrasts("trt.vs.ctrl", ref="A")``

        Raises:
            ValueError, DataError: an unknown column, level, weight or scale; those known are named.
        """
        return emmeans.emmeans(self, specs, by, at, ddf, weights, scale, integrate, level, vcov)

    @known_keywords(AVERAGING)
    def emtrends(
        self,
        specs: Any,
        var: str,
        by: Any = None,
        at: Any = None,
        ddf: str | None = None,
        weights: Any = "equal",
        level: float = 0.95,
        vcov: Any = None,
    ) -> Emmeans:
        """Slopes of the covariate ``var`` on the link scale, over the levels of ``specs``: ``frame`` has ``trend``.

        At the mean of ``var`` unless ``at`` says where; the other arguments are those of ``emmeans``.
        ``fit.emtrends("Variety", "nitro").contrasts("pairwise")`` compares slopes.
        """
        return emmeans.emtrends(self, specs, var, by, at, ddf, weights, level, vcov)

    @known_keywords(AVERAGING)
    def joint_tests(self, by: Any = None, at: Any = None, ddf: str | None = None, vcov: Any = None) -> pd.DataFrame:
        """F tests of every term by its marginal means, in each group of ``by``: ``F``, ``num_df``, ``den_df``, ``p``.

        Equal weights, covariates at their mean ± 1: type III, whatever the coding. What the data do not tell is left
        out of a test, and a column ``note`` says of how many contrasts. F and degrees of freedom are those of
        ``reference(ddf)``: Fai & Cornelius's by Satterthwaite's method, the scaled F by Kenward & Roger's.
        """
        return emmeans.joint_tests(self, by, at, ddf, vcov)

    @known_keywords({"groups": "by='Subject'", "group": "by='Subject'", "exact": "refit=True or refit=False"})
    def influence(self, by: str = "case", *, refit: bool = True) -> Influence:
        """What each row, or each level of a factor, does to the estimates: Cook's distance, dfbetas, leverage.

        Args:
            by: "case", or the name of a grouping factor.
            refit: whether to fit again without each of them, all as one batch; else from derivatives at the estimates.

        Returns:
            ``Influence``: ``frame``, ``exact`` and ``derivative`` (the change of every parameter), ``plot()``.

        >>> fit.influence("Subject").frame.nlargest(5, "cooks_distance")
        """
        return influence(self, by, refit)

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    # ------------------------------------------------------------ what may be wrong
    def check(self, *, key: Any = None) -> finding.Check:
        """What is the matter with the fit, and what to do about each: print it.

        Looks into convergence, separation, singular covariances, flat directions, levels, collinear terms, and whether
        residuals and random effects are distributed as the model says: of counts by simulation, with ``key``
        (``jax.random.key(0)`` where None). A sequence of ``Finding`` with ``severity``, ``text``, ``advice``; ``ok``
        where there is nothing but notes. See ``diagnose.check``.

        >>> print(mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy).check())
        """
        return check.check(self, key)

    def re_pca(self) -> components.RePCA:
        """Principal components of each factor's random effects: how many dimensions the data ask for.

        By factor ``sd``, ``proportion``, ``loadings``; ``to_frame()`` has standard deviations over σ too, which are
        what lme4's ``rePCA`` gives. See ``diagnose.components``.
        """
        return components.re_pca(self)

    @known_keywords({"seed": "key=jax.random.key(seed)"})
    def multistart(self, n: int = 20, *, key: Any, batch: int | None = None) -> multistart.Multistart:
        """The same search from ``n`` random starts as one batch: whether there is a better optimum.

        ``key``: such as ``jax.random.key(0)``; start k depends on it and on k alone. ``batch`` as in ``fit_many``.
        ``frame`` has a row per start: log-likelihood, distance from this fit, whether it converged; ``better`` says
        whether one is better, and ``fit`` is the better one. See ``diagnose.multistart`` on how starts are drawn.

        Raises:
            ValueError: no positive ``n``; a model by ``n_agq="auto"``, which batches cannot have.
        """
        return multistart.multistart(self, n, key, batch)

    def plot_residuals(self, axes: Any = None) -> np.ndarray:
        """Residuals against fitted values and, of a linear model, their normal Q-Q plot; see ``jaxmm.plots``.

        ``axes``: as many to draw into. Returns them, an array. ``simulated_residuals(key=...).plot()`` serves every
        family alike; ``jaxmm.plots.qq_ranef(fit)`` has the random effects.
        """
        return pictures.plot_residuals(self, axes)

    # ------------------------------------------------------------ tables for papers
    def to_latex(self, label: str = "", **style: Any) -> str:
        """The fit as a table for a paper, a ``tabular`` with the rules of the package booktabs.

        Coefficients with standard errors, df, t or z, p and intervals; standard deviations and correlations of the
        random effects; counts and criteria.  With a ``caption`` or a ``label`` it stands in a ``table``.
        ``style``: ``digits``, ``level``, ``ddf``, ``vcov``, ``stats``, ``exact_p``, ``names``, ``caption``, ``notes``;
        see ``publish.one.sheet``.  ``jaxmm.table`` sets several fits side by side.
        """
        return latex(one.sheet(self, **style), label)

    def to_html(self, **style: Any) -> str:
        """The fit as an HTML table that needs no style sheet; ``style`` as in ``to_latex``."""
        return html(one.sheet(self, **style))

    def to_markdown(self, **style: Any) -> str:
        """The fit as a pipe table of Markdown; ``style`` as in ``to_latex``."""
        return markdown(one.sheet(self, **style))

    @property
    def __maketables_coef_table__(self) -> pd.DataFrame:
        return interchange.coefficient_table(self)

    def __maketables_stat__(self, key: str) -> float | int | str | None:
        return interchange.statistic(self, key)

    @property
    def __maketables_depvar__(self) -> str:
        return str(self.model.design.response)

    @property
    def __maketables_default_stat_keys__(self) -> list[str]:
        return interchange.default_keys(self)

    @property
    def endog_names(self) -> str:
        """The response, as statsmodels calls it."""
        return str(self.model.design.response)
