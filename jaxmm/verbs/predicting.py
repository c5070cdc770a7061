"""What a fit says of rows: fitted values, residuals, predictions, responses drawn from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import simulate
from jaxmm._keywords import PREDICTING, SIMULATING, known_keywords
from jaxmm.fitted import Fitted
from jaxmm.inference import joint
from jaxmm.inference.interval import Interval
from jaxmm.inference.prediction import predictions
from jaxmm.predict import Asked, fitted_values
from jaxmm.residuals import residuals


class Predicting(Fitted):
    """See the module."""

    def fitted(self) -> pd.Series:
        """g⁻¹(Xβ̂ + Zb̂ + offset) on the labels of the rows used (also those of weight zero), in the data's order.

        The response's scale; proportions where the response counts successes; with zero inflation the zeros count.

        Example:
            >>> fit.fitted().round(1).head(2).tolist()
            [253.7, 273.3]
        """
        return fitted_values(self)

    @known_keywords({"type": "kind='response', 'pearson', 'deviance' or 'working'"})
    def residuals(self, kind: str = "response") -> pd.Series:
        """Residuals on the labels of the rows used, (nobs,).

        Args:
            kind: "response", y − μ (proportions where there are trials); "pearson", (y − μ)√w/√V(μ), w with the trials,
                as lme4's not divided by σ (with ``residual=`` or ``dispersion=``, over the row's own SD in units of σ);
                "deviance", the signed roots of the unit deviances; "working", (y − μ) dη/dμ. With zero inflation,
                y less the mean and over the variance that include the zeros; with a formula for a scale φ, V includes
                it.

        Raises:
            ValueError: another kind, or one that the family has not.

        Example:
            >>> fit.residuals("pearson").shape
            (180,)
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
        vcov: Any = None,
        cluster: Any = None,
        uncertain: str | Collection[str] | None = None,
        key: Any = None,
        n: int | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Predictions on the rows of ``newdata``, or of the fit.

        Args:
            re: "conditional" (with the modes of the levels; for new rows of a model without random effects whose errors
                are correlated, given the other rows of their subject: what was seen, where it was), "population"
                (b = 0: a typical level), "marginal" (the mean over all levels; "population" in a linear model), or a
                list of the factors whose modes count.
            offset: for new data, in the place of the fit's offset argument.
            scale: "response" (the mean; a proportion where there are trials), "link", "conditional" (g⁻¹ of the mean's
                predictor: the mean before zeros are added, or left out), "zero" (the probability of an extra zero, of a
                hurdle that of any) or "dispersion" (φ).
            new_levels: "error" for a level that the fit has not seen; "population": b = 0 there, a typical level; or,
                in an interval, "sample": b of such a level has the variance of the population of levels, and
                ``predicted`` is at b = 0. With ``re="population"`` every level is a new one.
            interval: "confidence" of the mean, or "prediction" of a new response: a frame with ``predicted``,
                ``lower`` and ``upper``, and in ``attrs`` and under it what they are.
            level: the share of an interval; for an interval alone.
            ddf: its degrees of freedom in a linear model: "satterthwaite" (the default), of the whole variance; or
                "asymptotic", normal quantiles, the default of a generalised model; or, where β̂ alone is uncertain, any
                method of ``coef_table``.
            vcov, cluster: the covariance of β̂, as in ``coef_table``, for an interval in which β̂ alone is uncertain: a
                confidence interval with ``re="population"``, in a linear model "marginal" too, or
                ``uncertain="fixed"``.
            uncertain: what an interval counts, of "fixed" (β̂), "random" (the levels' effects, given the data where they
                have any), "variances" (estimates of variances and dispersion) and "residual" (a new response): all but
                "variances" unless given. The rest is taken for known. See ``inference.prediction``.
            weights: of new responses, for "prediction": precisions, or numbers of trials; a column's name, an array.
            key, n: for "prediction" in a generalised model, which is simulated: a seed or a JAX key; draws of each row,
                1000 unless given. Row i depends on the key and i alone. Shares where there are trials.

        Raises:
            DataError: a missing column, an unseen level, missing weights; the message names it and the remedy.
            ValueError: arguments that do not go together, as a level or a vcov without an interval that it is of.
            TypeError: no key for a simulation.

        The errors of β̂ and b̂ together are Henderson's (1975), Biometrics 31; see ``inference.joint``.

        Example:
            >>> new = pd.DataFrame({"Days": [0, 9], "Subject": ["308", "new"]})
            >>> fit.predict(new, new_levels="population").round(1).tolist()
            [253.7, 345.6]
            >>> fit.predict(new, interval="prediction", new_levels="sample").shape
            (2, 3)
        """
        asked = Asked(newdata, re, offset, new_levels)
        return predictions(
            self, asked, scale, Interval(interval, level, uncertain, weights, key, n, ddf, vcov, cluster)
        )

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

        Henderson (1975), Biometrics 31.

        Example:
            >>> fit.joint_vcov({"Subject": ["308"]}).shape  # of two coefficients and two effects
            (4, 4)
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
        """``n`` new responses (n, nobs), drawn from the fitted model: counts of successes where there are trials.

        Args:
            n: how many.
            key: a seed, such as 1, or a key, such as ``jax.random.key(1)``; response k depends on it and on k alone.
            newdata: rows in the place of the fit's; every level, seen or not, gets its own draw.
            re: "new", random effects drawn anew, or "conditional", at their modes.
            weights: of the new rows, if the fit had any: precisions, or the numbers of trials.
            offset: of the new rows, in the place of the fit's offset argument.

        Raises:
            DataError: new rows that cannot be used, or lack weights.
            ValueError: another ``re``, no positive ``n``.
            TypeError: no key.

        Example:
            >>> fit.simulate(2, key=1).shape
            (2, 180)
        """
        return simulate.simulate(self, n, key, newdata, re, weights, offset)
