"""The coefficients of each predictor of a fit, with their errors: of the mean, and of what else has a formula.

component   "mu" the mean;  "zi" the log-odds of an extra zero;  "phi" log φ;  or a further parameter's name
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design import Design
from jaxmm.design.residual import ResidualDesign
from jaxmm.errors import log_phi
from jaxmm.estimate_glmm import covariance_matrix
from jaxmm.families import Family
from jaxmm.inference import wald
from jaxmm.inference.ddf import Reference
from jaxmm.likelihood import Curvature

ALL = "all"


def place(design: Design, component: str) -> slice:
    """Which of all coefficients a component has; of ``ALL`` every one.

    Raises:
        ValueError: a component that the model has not.
    """
    places = design.predictors
    if component == ALL:
        return slice(0, len(design.coefficients))
    if not isinstance(component, str) or component not in places:
        more = "; it has coefficients where dispersion= says more than '~ 1'"
        hint = {"zi": "; zero_inflation='~ 1' adds it", "phi": more}
        raise ValueError(
            f"component must be one of {', '.join(map(repr, (*places, ALL)))}, not {component!r}"
            + (hint.get(component, "") if isinstance(component, str) else "")
        )
    return places[component]


def names(design: Design, component: str) -> list[str]:
    """The columns of a component; of ``ALL`` those of further ones have its name before them, "zi~x"."""
    own = {p.name: p.columns for p in design.further} | {"mu": design.columns, ALL: design.coefficients}
    return list(own[component])


def vcov(design: Design, whole: Any, component: str) -> pd.DataFrame:
    """The part of a component in the covariance matrix of all coefficients."""
    at = place(design, component)
    labels = names(design, component)
    return pd.DataFrame(np.asarray(whole)[at, at], labels, labels)


def coef_table(design: Design, reference: Reference, component: str) -> pd.DataFrame:
    """See ``Fit.coef_table``."""
    at = place(design, component)
    L = np.eye(len(reference.beta))[at]
    estimate = reference.beta[at]
    with np.errstate(invalid="ignore"):  # NaN of a variance below zero, as a covariance of one's own may have it
        se, df = np.sqrt(np.diag(reference.vcov[at, at])), reference.df(L)
    tested = wald.each(estimate, se, df)
    columns = {"estimate": estimate, "se": se, "df": df, "statistic": tested.statistic, "p": tested.p}
    return pd.DataFrame(columns, names(design, component))


def title(design: Design, family: Family, component: str) -> str:
    """What a summary calls it."""
    formula = next(p.formula for p in design.further if p.name == component)
    links = {p.name: p.link.name for p in family.further}
    what = {"zi": "Zero inflation", "phi": "Dispersion"}.get(component, f"Parameter {component}")
    return f"{what} ({links.get(component, 'log')}), {formula}:"


def log_phi_table(own: ResidualDesign, at: Curvature, sigma: float) -> pd.DataFrame:
    """The table of a linear model's log φ: by the normal distribution, errors from the Hessian of the (restricted)
    likelihood by θ and log σ²."""
    assert own.dispersion is not None and own.constant is not None
    m, k = len(at.theta), len(own.constant)
    slopes = np.zeros((k, m + 1))
    slopes[:, m] = own.constant
    slopes[np.delete(np.arange(k), own.left), np.arange(m - k + 1, m)] = 1.0
    V = slopes @ covariance_matrix(at.hessian, 0) @ slopes.T
    estimate, se = log_phi(own, at.theta[m - k + 1 :], sigma), np.sqrt(np.diag(V))
    found = wald.each(estimate, se, np.full(k, np.inf))
    columns = {"estimate": estimate, "se": se, "df": np.inf, "statistic": found.statistic, "p": found.p}
    return pd.DataFrame(columns, list(own.dispersion.columns))
