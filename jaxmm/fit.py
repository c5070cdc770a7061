"""Fit: a fitted model with its labels.  Every method delegates to the module that does the work."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Self

import numpy as np
import pandas as pd

from jaxmm import diagnostics, shrinkage, simulate, summary
from jaxmm._context import computing
from jaxmm._keywords import PREDICTING, SIMULATING, known_keywords
from jaxmm.fitted import Fitted
from jaxmm.inference import confint, wald
from jaxmm.inference.influence import Influence, influence
from jaxmm.predict import fitted_values, predict
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
        with computing(self.model.device):
            return self.model.likelihood.accuracy(self)

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
    ) -> pd.Series | pd.DataFrame:
        """Predictions on the rows of ``newdata``, or of the fit.

        Args:
            re: "conditional" (with the modes of the levels), "population" (b = 0: a typical level), "marginal" (the
                mean over all levels; "population" in a linear model), or a list of the factors whose modes count.
            offset: for new data, in the place of the fit's offset argument.
            scale: "response" (the mean; a proportion where there are trials), "link", "conditional" (the mean of the
                counts before zeros are added), "zero" (the probability of an extra zero) or "dispersion" (φ).
            new_levels: "error" for a level that the fit has not seen, or "population": b = 0 there.
            interval: "confidence" for a frame with ``lower`` and ``upper``, what the parameters' errors make of it,
                where ``re`` is "population" or "marginal". "prediction", with its ``weights``, is not available yet.

        Raises:
            DataError: a missing column, an unseen level; the message names it and the remedy.
        """
        wald.check_level(level)
        if interval not in (None, "confidence", "prediction"):
            raise ValueError(f"interval must be None, 'confidence' or 'prediction', not {interval!r}")
        if weights is not None:
            raise NotImplementedError("weights= is for prediction intervals, which are not available yet: leave it out")
        return predict(self, newdata, re, offset, new_levels, scale, interval, level)

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

    @known_keywords({"parm": "every fixed effect is in the table; select its rows", "alpha": "level=1 - alpha"})
    def confint(
        self, method: str = "wald", level: float = 0.95, *, key: Any = None, n: int | None = None
    ) -> pd.DataFrame:
        """Confidence intervals of β: ``lower``, ``upper``, indexed as ``fixef``; see ``inference.confint``."""
        return confint.confint(self, method, level, key, n)

    conf_int = confint

    def summary(self) -> summary.Summary:
        """lme4's summary: method, counts, variance components, fixed effects, flags."""
        return summary.summary(self)

    def tidy(self, conf_level: float | None = None) -> pd.DataFrame:
        """One row per fixed effect and variance parameter, as broom.mixed."""
        return summary.tidy(self, conf_level)

    def glance(self) -> pd.DataFrame:
        """One row for the whole fit."""
        return summary.glance(self)

    def augment(self) -> pd.DataFrame:
        """One row per row used: response, fitted value, residual."""
        return summary.augment(self)

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
