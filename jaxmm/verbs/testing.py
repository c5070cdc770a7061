"""What is tested and estimated of a fit's parameters: intervals, hypotheses, tables of terms, shares of variance."""

from __future__ import annotations

from typing import Any

import pandas as pd

from jaxmm import diagnostics
from jaxmm._keywords import SHARES, known_keywords
from jaxmm.fitted import Fitted
from jaxmm.frames import as_backend
from jaxmm.inference import confint, r2
from jaxmm.inference.anova import TermTests, term_tests
from jaxmm.inference.hypothesis import LinearTest, linear_test
from jaxmm.inference.profile import Profile, profile
from jaxmm.inference.restrictions import restrictions


class Testing(Fitted):
    """See the module."""

    @known_keywords({"alpha": "level=1 - alpha", "nsim": "n=", "seed": "key=seed"})
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
        backend: str = "pandas",
    ) -> pd.DataFrame:
        """Confidence intervals: ``lower``, ``upper``, indexed as ``fixef``, or as ``parm`` says.

        Args:
            method: "wald", β̂ ± q se; "profile", where the likelihood falls to; or "bootstrap", percentiles of
                parametric replicates. See ``inference.confint``.
            level: the share of data sets in which an interval is to hold the parameter.
            parm: a coefficient or several; of "profile" and "bootstrap" "sd_Days|Subject" or "sigma" too, or "all".
            ddf, vcov, cluster: of "wald", as in ``coef_table``.
            key, n: of "bootstrap", a seed or a JAX key, and the number of replicates, 1999 unless given.
            backend: "pandas", or "polars" with the names in a column ``term``.

        Raises:
            ValueError: another method, an unknown parameter, a level that is not between 0 and 1, arguments of another
                method.
            TypeError: no key for a bootstrap.

        By the likelihood Venzon & Moolgavkar (1988), Appl. Stat. 37; Davison & Hinkley (1997) of the bootstrap.

        Example:
            >>> fit.confint("wald").round(1).loc["Days"].tolist()
            [7.2, 13.7]
        """
        table = confint.confint(self, method, level, parm, ddf=ddf, vcov=vcov, cluster=cluster, key=key, n=n)
        return as_backend(table, backend, "term")

    conf_int = confint

    def test(self, L: Any, ddf: str | None = None, vcov: Any = None, cluster: Any = None) -> LinearTest:
        """Test Lβ = value: t of each row, F of all together; z and χ² in a generalised model.

        Args:
            L: "Days = 0", "a - b", "2*a + b = 3", the name of a term, a mapping of names to numbers, a list of these,
                or numbers (k, p), a row per restriction.
            ddf, vcov, cluster: as in ``coef_table``.

        Raises:
            ValueError: names or numbers that do not fit the coefficients, or rows of which one follows from others.

        Of several rows F is Fai & Cornelius's (1996, J. Stat. Comput. Simul. 54) or Kenward & Roger's (1997, Biometrics
        53).

        Example:
            >>> round(fit.test("Days = 10").p, 2)
            0.77
        """
        reference = self.reference(ddf, vcov, cluster)
        return linear_test(restrictions(L, self.model.design), reference, diagnostics.remarks(self))

    def anova(
        self,
        type: int = 3,
        ddf: str | None = None,
        vcov: Any = None,
        cluster: Any = None,
        *,
        backend: str = "pandas",
    ) -> TermTests:
        """A table with an F test of each term of the formula: ``F``, ``num_df``, ``den_df``, ``p``; of a generalised
        model ``chisq``, ``df``, ``p``, unless ``ddf`` counts degrees of freedom.

        Args:
            type: 1, each term after those before it; 2, after all that do not contain it; 3, averaged with equal
                weights over the levels of other factors. None depends on how factors are coded (``inference.terms``).
            ddf, vcov, cluster: as in ``coef_table``.
            backend: "pandas" or "polars".

        Raises:
            ValueError: another type, or a ddf that the model has not.

        Goodnight (1980), SAS technical report R-101, on the types; the F of several rows is that of ``test``.

        Example:
            >>> fit.anova(type=2)["F"].round(2).tolist()
            [45.85]
        """
        reference = self.reference(ddf, vcov, cluster)
        chisq = reference.name == "asymptotic" == self.model.likelihood.ddf[0]
        return as_backend(term_tests(self.model.design, reference, type, chisq, diagnostics.remarks(self)), backend)

    @known_keywords({"which": "parm=", "alphamax": "level=1 - alphamax", "signames": "names are those of a bootstrap"})
    def profile(self, parm: Any = None, level: float = 0.99) -> Profile:
        """The profile likelihood of every parameter, or of those that ``parm`` names: ``frame``, ``confint()``,
        ``plot()``.

        A fit by REML is profiled by maximum likelihood. ``level``: how far, to the ends of its intervals. Parameters of
        the errors' covariance are profiled by name, or all with ``parm="errors_"``. See
        ``inference.profile``; Bates, Mächler, Bolker & Walker (2015), J. Stat. Softw. 67(1), 5.1.

        Raises:
            ValueError: an unknown parameter, or a level that is not between 0 and 1.

        Example:
            >>> fit.profile("Days").confint(level=0.95).round(1).loc["Days"].tolist()
            [7.4, 13.6, 10.5]
        """
        return profile(self, parm, level)

    @known_keywords(SHARES)
    def r2(
        self,
        *,
        interval: str | None = None,
        level: float = 0.95,
        n: int | None = None,
        key: Any = None,
        approximation: str | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Nakagawa's R², a Series: the shares of the variance on the scale of the linear predictor that fixed effects
        explain (``marginal``), and these with the random ones (``conditional``); see ``inference.r2``. Where errors
        have a covariance (``lmm(residual=)``), the residual part is the mean of their variances over the rows.

        Args:
            interval: "bootstrap", with a ``key``, for a frame ``estimate``, ``lower``, ``upper``, of percentiles.
            level: of that interval.
            n: its parametric replicates, 999 unless given.
            key: a seed, such as 1, or a key, such as ``jax.random.key(1)``.
            approximation: to the variance of a response: "latent" (π²/3 of a logit), "lognormal", "trigamma" or
                "delta", where family and link have it; the first by default.

        Raises:
            ValueError: an interval or approximation that there is not, a level or an ``n`` without an interval.
            TypeError: no key for a bootstrap.

        Nakagawa, Johnson & Schielzeth (2017), J. R. Soc. Interface 14.

        Example:
            >>> fit.r2().round(3)
            marginal       0.279
            conditional    0.799
            Name: r2, dtype: float64
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
    ) -> pd.Series | pd.DataFrame:
        """Intraclass correlations, a Series: ``adjusted``, the share of the random effects in the variance that fixed
        effects leave, and ``unadjusted``, in all; or ``by_group``, the adjusted share of each grouping factor.

        Args:
            by_group: whether to give the shares of the factors.
            interval, level, n, key, approximation: as in ``r2``.

        Raises:
            ValueError, TypeError: as ``r2``.

        Nakagawa, Johnson & Schielzeth (2017), J. R. Soc. Interface 14.

        Example:
            >>> fit.icc().round(3)
            adjusted      0.722
            unadjusted    0.521
            Name: icc, dtype: float64
        """
        return r2.icc(self, by_group, r2.How(interval, level, n, key, approximation))
