"""A design and the covariance of its coefficients -> findings: few levels, columns that are left out, collinear terms.

The generalised variance inflation factor of a term with the coefficients 1, the others being 2, and R the correlation
matrix of all of them but the intercept's,

    GVIF = det R_11 det R_22 / det R,        of one coefficient  1 / (1 - its squared multiple correlation)

(Fox & Monette 1992, J. Am. Stat. Assoc. 87, 178-183) is the square of how much larger the confidence region of the term
is than if it were uncorrelated with the others; its (1/df)-th power is comparable with a VIF.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm.diagnose.finding import CAUTION, NOTE, Finding
from jaxmm.inference.wald import FEW_LEVELS, few_levels

VERY_FEW = 5  # levels, below which a variance is hardly estimated
INFLATED = 10.0  # a variance inflation factor worth a word: standard errors three times as large


def vif(fit: Any) -> pd.DataFrame:
    """Generalised variance inflation factors of the terms of the mean: ``gvif``, ``df``, ``vif`` = gvif^(1/df), a row
    each; empty with fewer than two terms.  NaN where the covariance is singular.

    >>> vif(fit)
    """
    V = fit.vcov()
    terms = {name: [c for c in columns if c != "(Intercept)"] for name, columns in fit.model.design.fixed_terms.items()}
    terms = {name: columns for name, columns in terms.items() if columns}
    rows = {}
    if len(terms) > 1:
        names = [c for columns in terms.values() for c in columns]
        sd = np.sqrt(np.diag(V.loc[names, names]))
        with np.errstate(invalid="ignore", divide="ignore"):
            R = pd.DataFrame(V.loc[names, names].to_numpy() / np.outer(sd, sd), names, names)
            for name, own in terms.items():
                others = [c for c in names if c not in own]
                dets = [np.linalg.det(R.loc[c, c].to_numpy()) for c in (own, others, names)]
                gvif = dets[0] * dets[1] / dets[2] if dets[2] > 0 else np.nan
                rows[name] = (gvif, len(own), gvif ** (1 / len(own)))
    return pd.DataFrame(list(rows.values()), list(rows), ["gvif", "df", "vif"])


def levels(fit: Any) -> list[Finding]:
    """Factors with few levels."""
    out = []
    few = {name: J for name, J in fit.n_groups.items() if J < VERY_FEW}
    if few:
        who = " and ".join(f"{name} ({J})" for name, J in few.items())
        text = f"few levels to estimate a variance from: {who}"
        advice = (
            "The variance is hardly known, and tests of what varies between these levels depend on it: make the factor "
            "a fixed effect, or give intervals by profile or bootstrap and tests by Kenward and Roger's method."
        )
        out.append(Finding("levels", CAUTION, text, advice))
    told = few_levels(fit.n_groups) if fit.model.likelihood.statistic == "z" else None
    if told:
        advice = f"With fewer than {FEW_LEVELS} levels test by parametric bootstrap, or with ddf='between-within'."
        out.append(Finding("levels", CAUTION, told, advice))
    return out


def columns(fit: Any) -> list[Finding]:
    """Columns of X that follow from others, or nearly so."""
    out = []
    if fit.dropped:
        text = f"columns that follow from others were left out: {', '.join(fit.dropped)}"
        out.append(Finding("collinearity", NOTE, text, "Their coefficients cannot be told from those of the others."))
    table = vif(fit)
    high = {name: v for name, v in zip(table.index, table["vif"].to_numpy(), strict=True) if not v <= INFLATED}
    if high:
        who = ", ".join(f"{name} ({v:.3g})" for name, v in high.items())
        text = f"terms that are nearly collinear, by their variance inflation factors: {who}"
        advice = (
            "Standard errors are √VIF times what they would be alone; tests of these terms together are not affected. "
            "Centre numbers that are in an interaction or a power; else leave out what says the same."
        )
        out.append(Finding("collinearity", CAUTION, text, advice))
    return out
