"""Fitted values and predictions: g⁻¹ of Xβ, and of Zb for the grouping factors asked for.

conditional  g⁻¹(Xβ + Zb̂)      this subject: the modes of the levels that the fit has seen
population   g⁻¹(Xβ)           a typical subject, b = 0
marginal     E[g⁻¹(Xβ + Zb)]   the average over subjects; the same as population in a linear model only
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxmm._compiled import Elementwise
from jaxmm._context import computing
from jaxmm.design import DataError, NewData
from jaxmm.inference import wald

if TYPE_CHECKING:
    from jaxmm.fit import Fit

KINDS = ("conditional", "population", "marginal")


def factors_asked(fit: Fit, re: str | Collection[str]) -> set[str]:
    """The names of the grouping factors whose effects count.

    Raises:
        ValueError: neither one of KINDS nor a list of the model's factors.
    """
    names = [f.name for f in fit.model.design.factors]
    if isinstance(re, str):
        if re not in KINDS:
            hint = f"; did you mean [{re!r}]?" if re in names else ""
            raise ValueError(f"re must be one of {', '.join(map(repr, KINDS))} or a list of factors, not {re!r}{hint}")
        return set(names) if re == "conditional" else set()
    if not isinstance(re, Collection):
        raise ValueError(f"re must be one of {', '.join(map(repr, KINDS))} or a list of factors, not {re!r}")
    unknown = [g for g in re if g not in names]
    if unknown:
        raise ValueError(f"re: there is no grouping factor {unknown[0]!r}; the model has {', '.join(map(repr, names))}")
    return set(re)


def linear_predictor(fit: Fit, rows: NewData, asked: set[str]) -> np.ndarray:
    """Xβ + offset + Zb over the factors asked for; b = 0 for a level that the fit has not seen."""
    d = fit.model.design
    eta = rows.X @ fit.fixef.to_numpy() + rows.offset
    for b, codes, f in zip(fit.modes, rows.codes, d.factors, strict=True):
        if f.name not in asked:
            continue
        known = (codes >= 0) & (codes < len(f.levels))
        Z = [z for z, term in zip(rows.Z, d.terms, strict=True) if d.factors[term.factor].name == f.name]
        levels = b[np.where(known, codes, 0)]
        eta = eta + np.where(known, np.einsum("nq,nq->n", np.hstack(Z), levels), 0.0)
    return eta


def rows_used(fit: Fit) -> NewData:
    """The rows of positive weight, in the shape of new data."""
    d = fit.model.design
    offset = np.zeros(len(d.y)) if d.offset is None else d.offset
    codes = tuple(f.codes for f in d.factors)
    return NewData(d.X, tuple(t.Z for t in d.terms), codes, offset, d.index[d.kept], {})


def on_all_rows(fit: Fit, value: Callable[[NewData], np.ndarray]) -> np.ndarray:
    """``value`` over every row used, those of weight zero too, in the data's order."""
    d = fit.model.design
    own = value(rows_used(fit))
    values = np.empty((len(d.index), *own.shape[1:]))
    values[d.kept] = own
    if d.held_out is not None:
        values[~d.kept] = value(d.held_out)
    return values


_inverse = Elementwise(lambda link, eta: link.inverse(eta))
_link = Elementwise(lambda link, mu: link.link(mu))


def inverse_link(fit: Fit, eta: np.ndarray) -> np.ndarray:
    """μ at the linear predictor."""
    with computing(fit.model.device):
        return _inverse(fit.family.link, eta)


def link_of(fit: Fit, mu: np.ndarray) -> np.ndarray:
    """The linear predictor of a mean."""
    with computing(fit.model.device):
        return _link(fit.family.link, mu)


def fitted_values(fit: Fit) -> pd.Series:
    """See ``Fit.fitted``."""
    everyone = {f.name for f in fit.model.design.factors}
    eta = on_all_rows(fit, lambda rows: linear_predictor(fit, rows, everyone))
    return pd.Series(inverse_link(fit, eta), fit.model.design.index, name="fitted")


def predict(
    fit: Fit,
    newdata: Any,
    re: str | Collection[str],
    offset: Any,
    new_levels: str,
    scale: str,
    interval: str | None = None,
    level: float = 0.95,
) -> pd.Series | pd.DataFrame:
    """See ``Fit.predict``."""
    if scale not in ("response", "link"):
        raise ValueError(f"scale must be 'response' or 'link', not {scale!r}")
    asked = factors_asked(fit, re)
    averaged = isinstance(re, str) and re == "marginal"

    if interval is not None and (interval != "confidence" or asked or not isinstance(re, str)):
        raise NotImplementedError(
            "only interval='confidence' with re='population' or re='marginal' is available yet: an interval for given "
            "levels needs the joint distribution of their effects and the parameters"
        )

    def value(rows: NewData) -> np.ndarray:
        if interval is not None:
            return confidence(fit, rows, averaged, scale, level)
        eta = linear_predictor(fit, rows, asked)
        if not averaged:
            return eta if scale == "link" else inverse_link(fit, eta)
        mean = fit.model.likelihood.marginal_mean(fit, rows, eta)
        return mean if scale == "response" else link_of(fit, mean)

    if new_levels not in ("error", "population"):
        raise ValueError(f"new_levels must be 'error' or 'population', not {new_levels!r}")
    if newdata is None:
        if offset is not None:
            raise ValueError("offset= is for new data: the rows of the fit have their own")
        return labelled(on_all_rows(fit, value), fit.model.design.index)
    if fit.model.design.spec is None:
        raise DataError(
            "this model was made from arrays: predict(newdata) needs a formula; use X @ fit.fixef and ranef()"
        )
    rows = fit.model.design.evaluate(newdata, offset=offset, need_groups=True if averaged else asked)
    if new_levels == "error":
        for group, labels in rows.new_levels.items():
            if group in asked and labels:
                shown = ", ".join(map(repr, labels[:3])) + (", ..." if len(labels) > 3 else "")
                raise DataError(
                    f"the fit has not seen the level{'s' if len(labels) > 1 else ''} {shown} of '{group}': pass "
                    "new_levels='population' to predict with b = 0 there, or re='population' for every row"
                )
    return labelled(value(rows), rows.index)


def labelled(values: np.ndarray, index: pd.Index) -> pd.Series | pd.DataFrame:
    """(m,) -> a Series; (m, 3) -> a frame: predicted, lower, upper."""
    if values.ndim == 1:
        return pd.Series(values, index, name="predicted")
    return pd.DataFrame(values, index, ["predicted", "lower", "upper"])


def confidence(fit: Fit, rows: NewData, averaged: bool, scale: str, level: float) -> np.ndarray:
    """(m, 3) the mean and its Wald interval, made on the link scale and carried back: it stays inside the range."""
    likelihood = fit.model.likelihood
    eta = linear_predictor(fit, rows, set())
    if averaged:
        eta = link_of(fit, likelihood.marginal_mean(fit, rows, eta))
        se = likelihood.marginal_se(fit, rows)
    else:
        se = np.sqrt(wald.variances(rows.X, fit.vcov().to_numpy()))
    columns = np.stack([eta, *wald.interval(eta, se, level)], axis=1)
    if scale == "response":
        columns = np.array(inverse_link(fit, columns))
        columns[:, 1:] = np.sort(columns[:, 1:], axis=1)  # some links fall
    return columns
