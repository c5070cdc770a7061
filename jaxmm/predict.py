"""Fitted values and predictions: g⁻¹ of Xβ, and of Zb for the grouping factors asked for.

conditional  g⁻¹(Xβ + Zb̂)      this subject: the modes of the levels that the fit has seen
population   g⁻¹(Xβ)           a typical subject, b = 0
marginal     E[g⁻¹(Xβ + Zb)]   the average over subjects; the same as population in a linear model only

What is predicted is the mean of the response, or one of the distribution's parameters (``SCALES``), each of which may
have a predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmm._compiled import Elementwise
from jaxmm._context import computing
from jaxmm.design import DataError, NewData
from jaxmm.errors import RowErrors, row_errors
from jaxmm.fitted import Fitted
from jaxmm.given import given_others
from jaxmm.inference import wald
from jaxmm.links import Link, Log

KINDS = ("conditional", "population", "marginal")
SCALES = {"response": "", "link": "mu", "conditional": "mu", "zero": "zi", "dispersion": "phi"}  # the parameter meant


def factors_asked(fit: Fitted, re: str | Collection[str]) -> set[str]:
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


Etas = dict[str, np.ndarray]  # the linear predictor (m,) of each parameter that has one, the mean's "mu" first


def linear_predictors(fit: Fitted, rows: NewData, asked: set[str]) -> Etas:
    """Xβ + offset + Zb over the factors asked for; b = 0 for a level that the fit has not seen."""
    d, beta = fit.model.design, np.asarray(fit.estimates.beta)
    sides = [(rows.X, rows.offset), *rows.further]
    etas = {name: X @ beta[at] + offset for (name, at), (X, offset) in zip(d.predictors.items(), sides, strict=True)}
    if not asked:
        return etas
    for b, codes, f in zip(fit.modes, rows.codes, d.factors, strict=True):
        if f.name not in asked:
            continue
        known = (codes >= 0) & (codes < len(f.levels))
        Z = [z for z, term in zip(rows.Z, d.terms, strict=True) if d.factors[term.factor].name == f.name]
        levels = b[np.where(known, codes, 0)]
        etas[f.predictor] = etas[f.predictor] + np.where(known, np.einsum("nq,nq->n", np.hstack(Z), levels), 0.0)
    return etas


def linear_predictor(fit: Fitted, rows: NewData, asked: set[str]) -> np.ndarray:
    """That of the mean alone."""
    return linear_predictors(fit, rows, asked)["mu"]


class Parameters(NamedTuple):
    """Of each row: the mean ``mu`` on which the link is, φ (one number, where it has no predictor), and the values of
    ``Family.further``; and those of ``Family.extras``, which all rows share."""

    mu: np.ndarray
    phi: Any
    further: tuple[np.ndarray, ...]
    extras: tuple[np.ndarray, ...]


def parameters(fit: Fitted, etas: Etas) -> Parameters:
    """From the linear predictors."""
    family = fit.family
    likelihood, e = fit.model.likelihood, fit.estimates
    phi = np.exp(etas["phi"]) if "phi" in etas else likelihood.phi(e)
    with computing(fit.model.device):
        further = tuple(_inverse(p.link, etas[p.name]) for p in family.further)
        return Parameters(_inverse(family.link, etas["mu"]), phi, further, likelihood.extras(e))


def on_scale(fit: Fitted, etas: Etas, scale: str) -> np.ndarray:
    """What ``scale`` means, of each row, at the linear predictors."""
    if scale == "link":
        return etas["mu"]
    p = parameters(fit, etas)
    if scale == "dispersion":
        return p.phi + np.zeros_like(p.mu)
    if scale == "zero":
        return p.further[[q.name for q in fit.family.further].index("zi")]
    return p.mu if scale == "conditional" else mean(fit, p)


def mean(fit: Fitted, p: Parameters) -> np.ndarray:
    """Of the response."""
    with computing(fit.model.device):
        return np.asarray(fit.family.mean(p.mu, p.phi, *p.further, *p.extras))


def link_for(fit: Fitted, scale: str) -> Link:
    """The link on which an interval of this scale is made."""
    if scale == "dispersion":
        return Log()
    return next((p.link for p in fit.family.further if p.name == SCALES[scale]), fit.family.link)


def check_scale(fit: Fitted, scale: str) -> None:
    """Raises ValueError for an unknown scale, or one of a parameter that the model has not."""
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}, not {scale!r}")
    if scale == "zero" and "zi" not in fit.model.design.predictors:
        raise ValueError("scale='zero' is the probability of an extra zero, which the model has not: zero_inflation=")
    if scale == "dispersion" and not fit.family.num_phi:
        raise ValueError(f"scale='dispersion': the {fit.family.name} family has no dispersion")


def rows_used(fit: Fitted) -> NewData:
    """The rows of positive weight, in the shape of new data."""
    d = fit.model.design
    offset, *others = (np.zeros(len(d.y)) if x is None else x for x in (d.offset, *(p.offset for p in d.further)))
    further = tuple((p.X, own) for p, own in zip(d.further, others, strict=True))
    codes = tuple(f.codes for f in d.factors)
    return NewData(d.X, tuple(t.Z for t in d.terms), codes, offset, d.index[d.kept], {}, further)


def on_all_rows(fit: Fitted, value: Callable[[NewData], np.ndarray]) -> np.ndarray:
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


def link_of(fit: Fitted, mu: np.ndarray) -> np.ndarray:
    """The linear predictor of a mean."""
    with computing(fit.model.device):
        return _link(fit.family.link, mu)


def fitted_predictors(fit: Fitted) -> Etas:
    """The linear predictors of every row used, with the modes of all factors."""
    d = fit.model.design
    everyone = {f.name for f in d.factors}
    values = on_all_rows(fit, lambda rows: np.stack(list(linear_predictors(fit, rows, everyone).values()), axis=1))
    return dict(zip(d.predictors, values.T, strict=True))


def fitted_values(fit: Fitted) -> pd.Series:
    """See ``Fit.fitted``."""
    values = on_scale(fit, fitted_predictors(fit), "response")
    return pd.Series(values, fit.model.design.index, name="fitted")


class Asked(NamedTuple):
    """Which rows, and what is meant by them: ``newdata`` (None: the fit's), ``re``, ``offset`` and ``new_levels`` as in
    ``Fit.predict``."""

    newdata: Any
    re: str | Collection[str]
    offset: Any
    new_levels: str

    @property
    def averaged(self) -> bool:
        return isinstance(self.re, str) and self.re == "marginal"


def new_rows(fit: Fitted, asked: Asked, factors: set[str], need_levels: bool) -> NewData | None:
    """The rows of ``newdata``, with Z and, where they are needed, the levels of ``factors``; None for those of the fit.

    Raises:
        DataError: what is missing in them; an unseen level.
        ValueError: an offset for the fit's rows.
    """
    if asked.newdata is None:
        if asked.offset is not None:
            raise ValueError("offset= is for new data: the rows of the fit have their own")
        return None
    if fit.model.design.spec is None:
        raise DataError(
            "this model was made from arrays: predict(newdata) needs a formula; use X @ fit.fixef and ranef()"
        )
    rows = fit.model.design.evaluate(asked.newdata, offset=asked.offset, need_groups=factors, need_levels=need_levels)
    for group, labels in rows.new_levels.items() if asked.new_levels == "error" else ():
        if group in factors and labels:
            shown = ", ".join(map(repr, labels[:3])) + (", ..." if len(labels) > 3 else "")
            raise DataError(
                f"the fit has not seen the level{'s' if len(labels) > 1 else ''} {shown} of '{group}': pass "
                "new_levels='population' to predict with b = 0 there, a typical level; re='marginal' for the mean over "
                "all levels; re='population' for b = 0 in every row; or, with interval=, new_levels='sample' for the "
                "spread of new levels"
            )
    return rows


def predict(fit: Fitted, asked: Asked, scale: str) -> pd.Series:
    """See ``Fit.predict``; without an interval."""
    check_scale(fit, scale)
    factors = factors_asked(fit, asked.re)
    everyone = {f.name for f in fit.model.design.factors}
    rows = new_rows(fit, asked, everyone if asked.averaged else factors, not asked.averaged)

    def value(rows: NewData) -> np.ndarray:
        mean = point(fit, rows, factors, asked.averaged, scale)
        alone = not fit.model.design.factors and rows.errors is not None
        own = alone and isinstance(asked.re, str) and asked.re == "conditional"
        return mean + given_others(fit, rows).shift if own else mean

    if rows is None:
        return pd.Series(on_all_rows(fit, value), fit.model.design.index, name="predicted")
    return pd.Series(value(rows), rows.index, name="predicted")


def errors_at(fit: Fitted, rows: NewData, weights: np.ndarray | None) -> RowErrors:
    """The errors of rows, of a model with a covariance of them; of the fit's own where these are not new."""
    d = fit.model.design
    assert d.residual is not None
    if rows.errors is None and len(rows.X) != len(d.y):
        raise NotImplementedError("rows of weight zero have no errors of their own here: leave them out of the data")
    own = d.residual if rows.errors is None else rows.errors()
    return row_errors(fit.model, fit.theta, own, weights, len(rows.X))


def point(fit: Fitted, rows: NewData, factors: set[str], averaged: bool, scale: str) -> np.ndarray:
    """(m,) with the modes of ``factors``, or averaged over the effects of all."""
    if scale == "dispersion" and fit.model.design.residual is not None:
        return fit.scale * errors_at(fit, rows, None).sd ** 2
    if not averaged:
        return on_scale(fit, linear_predictors(fit, rows, factors), scale)
    mean = fit.model.likelihood.marginal_mean(fit, rows, scale)
    return link_of(fit, mean) if scale == "link" else mean


def from_link(fit: Fitted, scale: str, value: np.ndarray, se: np.ndarray, level: float, df: Any = np.inf) -> np.ndarray:
    """(m, 3) a prediction and its interval, by t or normal, made on the link scale and carried back: it stays inside
    the range."""
    columns = np.stack([value, *wald.interval(value, se, level, df)], axis=1)
    if scale == "link":
        return columns
    with computing(fit.model.device):
        columns = np.array(_inverse(link_for(fit, scale), columns))
    columns[:, 1:] = np.sort(columns[:, 1:], axis=1)  # some links fall
    return columns
