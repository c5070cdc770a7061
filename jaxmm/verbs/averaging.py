"""Means and coefficients over levels: of other factors, or of the random effects."""

from __future__ import annotations

from typing import Any

import pandas as pd

from jaxmm import shrinkage
from jaxmm._keywords import AVERAGING, known_keywords
from jaxmm.fitted import Fitted
from jaxmm.frames import as_backend
from jaxmm.means import emmeans
from jaxmm.means.result import Emmeans


class Averaging(Fitted):
    """See the module."""

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
        cluster: Any = None,
    ) -> Emmeans:
        """Estimated marginal means: over the levels of ``specs``, averaged over those of the other factors.

        Args:
            specs, by: names of columns, or "~ a * b | c". [] for the mean of all.
            at: {"x": value or values} in the place of a covariate's mean (both values, where it has two) or a factor's
                levels. An offset is at its mean, unless a column of it is given.
            ddf, vcov, cluster: as in ``coef_table``.
            weights: of the levels averaged over: "equal", "proportional", "outer", "cells", "flat" (as R's emmeans),
                or numbers, the first factor's levels fastest.
            level: of the intervals.
            scale: "response" for means and intervals carried back from the link scale; contrasts are ratios then,
                under a log or logit link.
            integrate: E[g⁻¹(xβ + offset + zb)] in the place of g⁻¹(xβ + offset) at b = 0, over the effects b of all
                grouping factors of the mean together, b ~ N(0, D̂), β at β̂: the mean of the population of levels,
                before zeros are added or left out. Averaged over other factors it is on the response scale, shown as g
                of it unless ``scale="response"``. Its standard error counts the errors of β̂ and D̂ (delta method), the
                covariance of the model; under an identity link it is the mean at b = 0 itself.

        Returns:
            ``Emmeans``: ``.frame``, ``.contrasts("pairwise")``, ``.joint_tests()``, ``.plot()``. A mean that the data
            do not tell is NaN, and a note says so. ``fit.emmeans("Machine").contrasts("trt.vs.ctrl", ref="A")``

        Raises:
            ValueError, DataError: an unknown column, level, weight or scale; those known are named.

        Searle, Speed & Milliken (1980), Am. Stat. 34: means over a reference grid.

        Example:
            >>> herds.emmeans("period").frame.shape
            (4, 6)
        """
        return emmeans.emmeans(self, specs, by, at, ddf, weights, scale, integrate, level, vcov, cluster)

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
        cluster: Any = None,
    ) -> Emmeans:
        """Slopes of the covariate ``var`` on the link scale, over the levels of ``specs``: ``frame`` has ``trend``.

        ``fit.emtrends("Variety", "nitro").contrasts("pairwise")`` compares slopes.

        Args:
            specs, by: names of columns, or "~ a * b | c". [] for the mean slope.
            var: the covariate; its slope is taken at its mean, unless ``at`` says where.
            at, weights: as in ``emmeans``.
            ddf, vcov, cluster: as in ``coef_table``.
            level: of the intervals.

        Raises:
            ValueError, DataError: an unknown column, level or weight, or a ``var`` that is no covariate.

        They are averaged as means are: Searle, Speed & Milliken (1980), Am. Stat. 34.

        Example:
            >>> fit.emtrends([], "Days").frame.shape
            (1, 5)
        """
        return emmeans.emtrends(self, specs, var, by, at, ddf, weights, level, vcov, cluster)

    @known_keywords(AVERAGING)
    def joint_tests(
        self,
        by: Any = None,
        at: Any = None,
        ddf: str | None = None,
        vcov: Any = None,
        cluster: Any = None,
        *,
        backend: str = "pandas",
    ) -> pd.DataFrame:
        """F tests of every term by its marginal means, in each group of ``by``: ``F``, ``num_df``, ``den_df``, ``p``.

        Equal weights, covariates at their mean ± 1: type III, whatever the coding. What the data do not tell is left
        out of a test, and a column ``note`` says of how many contrasts. F and degrees of freedom are those of
        ``reference(ddf)``: Fai & Cornelius's by Satterthwaite's method (1996, J. Stat. Comput. Simul. 54), the scaled F
        by Kenward & Roger's (1997, Biometrics 53).

        Args:
            by: columns at whose levels the other terms are tested.
            at: as in ``emmeans``.
            ddf, vcov, cluster: as in ``coef_table``.
            backend: "pandas" or "polars".

        Raises:
            ValueError, DataError: an unknown column or level, a ddf or a vcov that the model has not.

        Example:
            >>> herds.joint_tests().index.tolist()
            ['period']
        """
        return as_backend(emmeans.joint_tests(self, by, at, ddf, vcov, cluster), backend, "term")

    def marginal_coef(self) -> pd.DataFrame:
        """Population-averaged coefficients: ``estimate``, ``std_error``; β̂ in a linear model.

        What a unit of x does to the average over levels, where β̂ says what it does within one level: nearer to zero in
        a logistic model, the more so the larger the variance of the effects. See ``inference.marginal``; Hedeker, du
        Toit, Demirtas & Gibbons (2018), Biometrics 74.

        Example:
            >>> herds.marginal_coef().round(2)
                         estimate  std_error
            (Intercept)     -1.29       0.22
            period2         -0.94       0.30
            period3         -1.07       0.32
            period4         -1.51       0.42
        """
        return self.model.likelihood.marginal_coef(self)

    def shrinkage(self) -> shrinkage.Shrinkage:
        """VarCorr beside the spread of the BLUPs, and why they differ.

        Example:
            >>> shares = fit.shrinkage()  # print it
        """
        return shrinkage.shrinkage(self)
