"""A fit as text and tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from jaxmm import summary, tidy
from jaxmm._keywords import known_keywords
from jaxmm.fitted import Fitted
from jaxmm.frames import as_backend
from jaxmm.publish import interchange, one
from jaxmm.publish.hypertext import html
from jaxmm.publish.latex import latex
from jaxmm.publish.markdown import markdown

ELSEWHERE = {"label": "label= is for to_latex() alone"}


class Publishing(Fitted):
    """See the module."""

    def summary(self) -> summary.Summary:
        """lmerTest's summary: method, counts, variance components, fixed effects with df and p, flags.

        Example:
            >>> print(fit.summary())
            Linear mixed model fit by REML...
        """
        return summary.summary(self)

    @known_keywords(
        {
            "conf_int": "conf_level=0.95",
            "level": "conf_level=0.95",
            "exponentiate": "numpy.exp(fit.confint()) has the intervals of the ratios, numpy.exp(fit.fixef) the ratios",
        }
    )
    def tidy(
        self, conf_level: float | None = None, *, effects: str | None = None, backend: str = "pandas"
    ) -> pd.DataFrame:
        """One row per parameter, as broom.mixed: ``estimate``, ``std_error``, ``statistic``, ``df``, ``p_value``.

        ``effects``: "fixed", "ran_pars" (SDs, correlations, σ, with their errors) or "dispersion"; all by default, the
        errors of the variance parameters left out unless ``conf_level`` asks for intervals. ``backend``: "pandas" or
        "polars". See ``jaxmm.tidy``.

        Example:
            >>> fit.tidy(effects="fixed")["estimate"].round(2).tolist()
            [251.41, 10.47]
        """
        return as_backend(tidy.tidy(self, effects, conf_level), backend)

    def glance(self, *, backend: str = "pandas") -> pd.DataFrame:
        """One row for the whole fit. ``backend``: "pandas" or "polars".

        Example:
            >>> fit.glance().shape
            (1, 10)
        """
        return as_backend(summary.glance(self), backend)

    def augment(self, *, backend: str = "pandas") -> pd.DataFrame:
        """One row per row used: response, fitted value, residual. ``backend``: "pandas" or "polars".

        Example:
            >>> fit.augment().shape
            (180, 4)
        """
        return as_backend(summary.augment(self), backend)

    @known_keywords({}, one.sheet)
    def to_latex(self, label: str = "", **style: Any) -> str:
        """The fit as a table for a paper, a ``tabular`` with the rules of the package booktabs.

        Coefficients with standard errors, df, t or z, p and intervals; standard deviations and correlations of the
        random effects; counts and criteria.  With a ``caption`` or a ``label`` it stands in a ``table``, numbered so
        that ``\\ref{label}`` finds it.
        ``style``: ``digits``, ``level``, ``ddf``, ``vcov``, ``cluster``, ``stats``, ``exact_p``, ``names``,
        ``caption``, ``notes``; see ``publish.one.sheet``.  ``jaxmm.table`` sets several fits side by side.

        Raises:
            ValueError: a label that LaTeX cannot read; what ``publish.one.sheet`` says.
            TypeError: an unknown keyword.

        Example:
            >>> print(fit.to_latex(label="tab:sleep", digits=2).splitlines()[0])
            % \\usepackage{booktabs}
        """
        return latex(one.sheet(self, **style), label)

    @known_keywords(ELSEWHERE, one.sheet)
    def to_html(self, **style: Any) -> str:
        """The fit as an HTML table that needs no style sheet; ``style`` as in ``to_latex``.

        Example:
            >>> fit.to_html().startswith("<table")
            True
        """
        return html(one.sheet(self, **style))

    @known_keywords(ELSEWHERE, one.sheet)
    def to_markdown(self, **style: Any) -> str:
        """The fit as a pipe table of Markdown; ``style`` as in ``to_latex``.

        Example:
            >>> fit.to_markdown().count("Days") > 0
            True
        """
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

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()
