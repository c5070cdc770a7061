"""Predictions with intervals: what a fit knows of a mean, or of a response to come.

    confidence   of the mean:  g^-1 of  ζ̂ ± q se,   se² = f'Σf              by the delta method on the link scale
    prediction   of a new y:   the middle share of  y | ζ ~ F,  ζ ~ N(ζ̂, Σ)        see ``inference.predictive``

ζ are the linear predictors of a row, Σ the covariance of their errors (``inference.joint``), f the slopes of g(mean) by
them, q a quantile of t in a linear model (``inference.joint_df``) and else a normal one.  What is held uncertain is
named: β̂ ("fixed"); the effects b ("random"), given the data where the fit has seen the level, and of the population of
levels where it has not and levels are sampled; the estimates of variances and of the family's constants ("variances");
the response itself ("residual").  All else is taken for known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm._compiled import Program, bucket
from jaxmm._context import computing
from jaxmm._random import as_key
from jaxmm._text import Grid, Printed, frame_parts
from jaxmm._types import Array
from jaxmm.design import NewData
from jaxmm.fitted import Fitted
from jaxmm.inference import joint_df, wald
from jaxmm.inference.interval import DRAWS, Interval, Of, check_interval, checked, described, is_constant
from jaxmm.inference.joint import covariances, touched
from jaxmm.inference.others import values_given_others
from jaxmm.inference.predictive import Ahead
from jaxmm.predict import (
    Asked,
    Etas,
    factors_asked,
    from_link,
    linear_predictors,
    link_for,
    new_rows,
    point,
    predict,
    rows_used,
)
from jaxmm.simulate import errors_of, new_weights

SHOWN = 20  # rows in print


class Predictions(Printed, pd.DataFrame):
    """``predicted``, ``lower``, ``upper``; a DataFrame that prints what its intervals are, which ``attrs`` has too.

    Example:
        >>> fit.predict(re="population", interval="confidence").columns.tolist()
        ['predicted', 'lower', 'upper']
    """

    def _parts(self) -> list[str | Grid]:
        return [*frame_parts(self, most=SHOWN), *([self.attrs["note"]] if "note" in self.attrs else [])]


def predictions(fit: Fitted, asked: Asked, scale: str, interval: Interval) -> pd.Series | pd.DataFrame:
    """See ``Fit.predict``."""
    check_interval(asked, interval, scale)
    if interval.kind is None:
        return predict(fit, asked, scale)
    of = checked(fit, asked, scale, interval)
    levels, everyone = of.levels, {f.name for f in fit.model.design.factors}
    rows = new_rows(fit, asked, everyone if asked.averaged else levels.factors, not (asked.averaged or levels.all_new))
    rows = every_row(fit) if rows is None else rows
    given = are_given_others(of)
    if given:
        weights = (
            None if interval.kind != "prediction" else new_weights(fit, asked.newdata, interval.weights, len(rows.X))[0]
        )
        values = values_given_others(of, rows, weights)
    else:
        values = (_responses if interval.kind == "prediction" else _means)(of, rows)
    out = Predictions(values[:, :3], rows.index, ["predicted", "lower", "upper"])
    simulated = values.shape[1] == 3
    out.attrs = {
        "interval": interval.kind,
        "level": float(interval.level),
        "ddf": None if simulated else of.ddf,
        "uncertain": of.uncertain,
        "note": described(of, None if simulated else values[:, 3]) + " Given the other rows of the subject." * given,
    }
    return out


def are_given_others(of: Of) -> bool:
    """Whether new rows are predicted given those of their subject by the errors alone, as ``predict`` does."""
    d = of.fit.model.design
    alone = d.residual is not None and d.residual.subject is not None and not d.factors
    conditional = isinstance(of.asked.re, str) and of.asked.re == "conditional"
    return alone and conditional and of.asked.newdata is not None and of.scale != "dispersion"


def every_row(fit: Fitted) -> NewData:
    """All rows used, those of weight zero too, in the data's order."""
    d = fit.model.design
    own, other = rows_used(fit), d.held_out
    if other is None:
        return own

    def both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = np.empty((len(d.index), *a.shape[1:]), a.dtype)
        out[d.kept], out[~d.kept] = a, b
        return out

    def each(a: tuple, b: tuple) -> tuple:
        return tuple(both(x, y) for x, y in zip(a, b, strict=True))

    further = tuple(each(a, b) for a, b in zip(own.further, other.further, strict=True))
    sides = both(own.X, other.X), each(own.Z, other.Z), each(own.codes, other.codes), both(own.offset, other.offset)
    return NewData(*sides, d.index, {}, further)


def _means(of: Of, rows: NewData) -> np.ndarray:
    """(m, 4) means, their intervals, degrees of freedom."""
    fit, asked, scale = of.fit, of.asked, of.scale
    df: Any = np.inf
    if of.of_beta and of.component:
        center, se, df = _of_beta(of, of.component, rows)
    elif asked.averaged or is_constant(fit, scale) or (of.uncertain == ("fixed",) and not of.levels.factors):
        center, se = fit.model.likelihood.mean_on_link(fit, rows, scale, asked.averaged)
    else:
        etas, covariance, degrees = _predictors(of, rows)
        center, se = on_link(of, etas, covariance)
        df = degrees(0.0)
    df = np.where(se == 0, np.inf, df)
    return np.column_stack([from_link(fit, scale, center, se, of.interval.level, df), df])


def _of_beta(of: Of, component: str, rows: NewData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One predictor of the rows, the standard error that β̂ gives it, and degrees of freedom."""
    fit, levels = of.fit, of.levels
    d, reference = fit.model.design, of.reference
    L = np.zeros((len(rows.X), len(reference.beta)))
    L[:, d.predictors[component]] = _sides(fit, rows)[component]
    eta = linear_predictors(fit, rows, set() if levels.all_new else levels.factors)[component]
    return eta, np.sqrt(wald.variances(L, reference.vcov)), reference.df(L)


def _sides(fit: Fitted, rows: NewData) -> dict[str, np.ndarray]:
    """X of each predictor."""
    return dict(zip(fit.model.design.predictors, (rows.X, *(X for X, _ in rows.further)), strict=True))


def _responses(of: Of, rows: NewData) -> np.ndarray:
    """(m, 3) means, and intervals of a response to each; degrees of freedom after these where it is not simulated."""
    fit, interval, newdata = of.fit, of.interval, of.asked.newdata
    factors = set() if of.asked.averaged else factors_asked(fit, of.asked.re)
    etas, covariance, degrees = _predictors(of, rows)
    mean = point(fit, rows, factors, of.asked.averaged, "response")
    given = own_weights(fit) if newdata is None else new_weights(fit, newdata, interval.weights, len(mean))
    if fit.model.design.residual is not None:
        errors = errors_of(fit, rows, given[0])
        given = None if errors is None else 1 / errors.sd**2, None
    draws = None if interval.key is None else (as_key(interval.key), int(interval.n or DRAWS))
    with computing(fit.model.device):
        ahead = Ahead(etas, covariance, *given, degrees)
        found = fit.model.likelihood.response_interval(fit.estimates, ahead, interval.level, draws)
    return np.column_stack([mean, found])


def own_weights(fit: Fitted) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The weights and trials of all rows used, as ``new_weights`` has them."""
    d = fit.model.design
    return (d.weights_all if fit.model.likelihood.precisions else None), d.trials_all


def _predictors(of: Of, rows: NewData) -> tuple[Etas, np.ndarray, Callable[[Any], np.ndarray]]:
    """The linear predictors of rows, the covariance of their errors, and degrees of freedom for a variance of the
    response beside them; NaN where a level of the fit's own rows, held out of it, has no mode and nothing was said of
    such."""
    fit, levels, uncertain = of.fit, of.levels, of.uncertain
    factors = set() if levels.all_new else levels.factors
    at = touched(fit, rows, levels.factors, levels.all_new)
    covariance = covariances(fit, rows, at, uncertain, levels.sampled)
    degrees: Callable[[Any], Any] = lambda noise: np.full(len(covariance), np.inf)  # noqa: E731
    if of.ddf == "satterthwaite":
        known = [part for part in uncertain if part != "variances"]
        own = covariance if len(known) == len(uncertain) else covariances(fit, rows, at, known, levels.sampled)
        moves = joint_df.moving(fit, rows, at, known, levels.sampled, own[:, 0, 0])
        degrees = partial(joint_df.satterthwaite, fit, moves)
    if of.asked.new_levels == "error" and not levels.all_new:
        for t in at:
            covariance[~t.known] = np.nan
    return linear_predictors(fit, rows, factors), covariance, degrees


# ---------------------------------------------------------------- by the delta method
class Target(NamedTuple):
    """What a compiled program is for: static."""

    family: Any
    names: tuple[str, ...]
    scale: str
    link: Any


@partial(Program, static_argnums=(0,))
def _slopes(of: Target, etas: Array, raw: Array) -> tuple[Array, Array]:
    """g of the mean of the response (m,), or of the base's, and its derivatives by the etas and the constants
    (K + c, m): etas (K, m), ``raw`` (c, m)."""
    K = len(of.names)

    def value(x):
        by = dict(zip(of.names, x[:K], strict=True))
        mu = of.family.link.inverse(by["mu"])
        further = [p.link.inverse(by[p.name]) for p in of.family.further]
        phi, extras = of.family.constants(x[K:])
        phi = jnp.exp(by["phi"]) if "phi" in by else phi
        return of.link.link(of.family.mean(mu, phi, *further, *extras))

    x = jnp.concatenate([etas, raw])
    found, push = jax.linearize(value, x)
    each = [push(jnp.zeros_like(x).at[k].set(1.0)) for k in range(len(x))]
    return found, jnp.stack(each)


def on_link(of: Of, etas: Etas, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the scale means on its link (m,), and its standard error."""
    fit, scale, names = of.fit, of.scale, list(etas)
    if of.component:
        k = names.index(of.component)
        return etas[of.component], np.sqrt(covariance[:, k, k])
    m, raw = len(covariance), np.asarray(fit.estimates.log_phi)
    padded = np.resize(np.arange(m), bucket(m)) if m else np.arange(0)
    with computing(fit.model.device):
        target = Target(fit.family, tuple(names), scale, link_for(fit, scale))
        both = np.stack(list(etas.values()))[:, padded], np.repeat(raw[:, None], len(padded), axis=1)
        value, slopes = (np.asarray(x)[..., :m] for x in _slopes(target, *both))
    slopes = slopes[: covariance.shape[1]]
    return value, np.sqrt(np.einsum("km,mkl,lm->m", slopes, covariance, slopes))
