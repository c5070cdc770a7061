"""A fit as the package maketables asks for it, by attributes alone: neither package imports the other.

The protocol is that of its page "maketables Plug-in Format": a frame with b, se, t, p (and df, ci95l, ci95u), a number
or a text by the name of a statistic, the name of the response, which statistics there are by default.  Standard
deviations and correlations are statistics here, "Subject: SD Days": the protocol has no third part.

maketables 0.2.0 takes every object with statsmodels' names (params, bse, pvalues), as a fit has them, for one of
statsmodels', before it looks for the protocol: it shows coefficients, errors and p of a fit rightly, but intervals by
±1.96 standard errors, and nothing that is random. ``PlugIn(fit)`` has the protocol's attributes alone.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from jaxmm.fitted import Fitted
from jaxmm.inference import wald
from jaxmm.publish.one import random_name
from jaxmm.publish.parts import random_entries

_KEYS = {"N": "nobs", "ll": "loglik", "aic": "aic", "bic": "bic", "deviance": "deviance", "df_model": "df"}


def coefficient_table(fit: Fitted) -> pd.DataFrame:
    """A row per coefficient of every predictor: b, se, t, p, df, ci95l, ci95u; "zi~x" those of the zeros."""
    t = fit.coef_table(component="all")
    lower, upper = wald.interval(t["estimate"], t["se"], 0.95, t["df"])
    columns = {"b": t["estimate"], "se": t["se"], "t": t["statistic"], "p": t["p"], "df": t["df"]}
    return pd.DataFrame(columns | {"ci95l": lower, "ci95u": upper}).rename_axis("Coefficient")


def statistic(fit: Fitted, key: str) -> float | int | str | None:
    """What maketables shows in the row ``key``; None for what there is none of."""
    if key in _KEYS:
        return getattr(fit, _KEYS[key])
    return _effects(fit).get(key)


def default_keys(fit: Fitted) -> list[str]:
    return [*_effects(fit), "N", "ll", "aic"]


def _effects(fit: Fitted) -> dict[str, Any]:
    """Standard deviations and correlations, then levels of the factors, by their names in a table."""
    entries, _ = random_entries(fit)
    found: dict[str, Any] = {random_name(key, {}): e.estimate for key, e in entries.items()}
    return found | {f"Levels of {name}": levels for name, levels in fit.n_groups.items()}


class PlugIn:
    """A fit with no other attributes than the protocol's: ``maketables.ETable([PlugIn(fit)])``."""

    def __init__(self, fit: Fitted):
        self.__maketables_coef_table__ = coefficient_table(fit)
        self.__maketables_depvar__ = str(fit.model.design.response)
        self.__maketables_default_stat_keys__ = default_keys(fit)
        self._fit = fit

    def __maketables_stat__(self, key: str) -> float | int | str | None:
        return statistic(self._fit, key)
