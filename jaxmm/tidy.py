"""A fit -> one table of its parameters, a row each, as broom.mixed's `tidy`.

What needs the curvature of the likelihood, the errors of standard deviations and correlations, is computed only where
it is asked for, and then once for a fit (`inference.variances`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm.inference import variances, wald

EFFECTS = ("fixed", "ran_pars", "dispersion")
COLUMNS = ["effect", "component", "group", "term", "estimate", "std_error", "statistic", "df", "p_value"]


def tidy(fit: Any, effects: str | None = None, conf_level: float | None = None) -> pd.DataFrame:
    """One row per parameter: effect ("fixed", "ran_pars", "dispersion"), component, group, term, estimate, std_error,
    statistic, df, p_value.

    The last two, of coefficients, are those of ``coef_table()``: by t with Satterthwaite's degrees of freedom in a
    linear model, by z, whose df is infinite, in a generalised one.
    ``component`` is the parameter whose predictor it belongs to: "mu" the mean, "zi" the log-odds of an extra zero,
    "phi" log φ (φ itself where it is one number).

    Args:
        effects: the rows of one kind: "fixed", the coefficients; "ran_pars", standard deviations and correlations of
            the random effects and σ; "dispersion", φ and further parameters; by default all.
        conf_level: adds the columns conf_low and conf_high, intervals of this level: of coefficients by their df,
            symmetric on the log scale for standard deviations, σ and φ, by Fisher's z for correlations.

    The errors of the variance parameters are by the delta method, NaN in a singular term and of a φ at its limit, as
    ``attrs["notes"]`` of the table says. They are in the table where
    ``effects`` is "ran_pars" or "dispersion", or ``conf_level`` is given; else NaN stands there, since a linear model
    needs a gradient more for them, of a program that is compiled first.

    Raises:
        ValueError: another kind of effects, or a level outside (0, 1).

    Example:
        >>> fit.tidy(effects="ran_pars", conf_level=0.95)
    """
    if effects is not None and effects not in EFFECTS:
        raise ValueError(f"effects must be one of {', '.join(map(repr, EFFECTS))} or None, not {effects!r}")
    if conf_level is not None:
        wald.check_level(conf_level, "conf_level")
    parts = []
    if effects in (None, "fixed"):
        parts.append(_fixed(fit, conf_level))
    if effects != "fixed":
        parts.append(_variances(fit, effects, conf_level))
    parts = [part for part in parts if len(part)] or parts[:1]
    columns = COLUMNS + (["conf_low", "conf_high"] if conf_level is not None else [])
    out = pd.DataFrame(pd.concat(parts, ignore_index=True), columns=columns)
    out.attrs["notes"] = _notes(fit)
    return out


def _notes(fit: Any) -> tuple[str, ...]:
    """Why numbers are missing, or mean little."""
    singular = [f"no errors of {t}: a variance of zero, or a perfect correlation" for t in fit.singular_terms]
    return (*singular, *fit.remarks)


def _fixed(fit: Any, level: float | None) -> pd.DataFrame:
    rows = []
    for component in fit.model.design.predictors:
        table = fit.coef_table(component=component)
        columns = (table[name].to_numpy() for name in ("estimate", "se", "statistic", "df", "p"))
        rows += [("fixed", component, None, *row) for row in zip(table.index, *columns, strict=True)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if level is not None:
        estimate, se, df = (frame[name].to_numpy(float) for name in ("estimate", "std_error", "df"))
        frame["conf_low"], frame["conf_high"] = wald.interval(estimate, se, level, df)
    return frame


def _variances(fit: Any, effects: str | None, level: float | None) -> pd.DataFrame:
    frame = variances.table(fit, errors=effects is not None or level is not None)
    frame[["statistic", "df", "p_value"]] = np.nan
    if level is not None:
        frame["conf_low"], frame["conf_high"] = variances.interval(frame, level)
    return frame if effects is None else frame.loc[frame["effect"] == effects]
