"""Predictions with intervals: what a fit knows of a mean, or of a response to come.

    confidence   of the mean:  g^-1 of  ζ̂ ± q se,   se² = f'Σf              by the delta method on the link scale
    prediction   of a new y:   the middle share of  y | ζ ~ F,  ζ ~ N(ζ̂, Σ)        see ``inference.predictive``

ζ are the linear predictors of a row, Σ the covariance of their errors (``inference.joint``), f the slopes of g(mean) by
them, q a normal quantile.  What is held uncertain is named: β̂ ("fixed"); the effects b ("random"), given the data where
the fit has seen the level, and of the population of levels where it has not and levels are sampled; the estimates of
variances and of the family's constants ("variances"); the response itself ("residual").  All else is taken for known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm._compiled import Program, bucket
from jaxmm._context import computing
from jaxmm._random import check_key
from jaxmm._types import Array
from jaxmm.design import NewData
from jaxmm.fitted import Fitted
from jaxmm.inference import wald
from jaxmm.inference.joint import PARTS, check_uncertain, covariances, touched
from jaxmm.inference.predictive import Ahead
from jaxmm.predict import (
    SCALES,
    Asked,
    Etas,
    check_scale,
    factors_asked,
    from_link,
    linear_predictors,
    link_for,
    new_rows,
    on_all_rows,
    point,
    predict,
)
from jaxmm.simulate import new_weights

DRAWS = 1000  # of each row's response
NEW_LEVELS = ("error", "population", "sample")
WORDS = {
    "fixed": "fixed effects",
    "random": "effects of the levels",
    "variances": "variances and constants of the family",
    "residual": "the response",
}


class Predictions(pd.DataFrame):
    """``predicted``, ``lower``, ``upper``; a DataFrame that prints what its intervals are, which ``attrs`` has too."""

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n{self.attrs['note']}" if "note" in self.attrs else super().__repr__()

    def _repr_html_(self) -> str | None:
        page = super()._repr_html_()  # pyright: ignore
        return f"{page}<p>{self.attrs['note']}</p>" if page and "note" in self.attrs else page


class Interval(NamedTuple):
    """``kind`` "confidence" or "prediction", ``level``, what is ``uncertain`` (None: the default of the kind), the
    ``weights`` of new responses, and the ``key`` and ``n`` of their draws."""

    kind: str | None
    level: float = 0.95
    uncertain: Any = None
    weights: Any = None
    key: Any = None
    n: int | None = None


# ---------------------------------------------------------------- what is asked for
def check_interval(asked: Asked, interval: Interval, scale: str) -> None:
    """Raises ValueError or TypeError for what does not go together."""
    wald.check_level(interval.level)
    if interval.kind not in (None, "confidence", "prediction"):
        raise ValueError(f"interval must be None, 'confidence' or 'prediction', not {interval.kind!r}")
    if asked.new_levels not in NEW_LEVELS:
        raise ValueError(f"new_levels must be {_listed(NEW_LEVELS)}, not {asked.new_levels!r}")
    if interval.kind is None and asked.new_levels == "sample":
        raise ValueError(
            "new_levels='sample' is for intervals: without interval= pass new_levels='population' for b = 0 at a new "
            "level, or re='marginal' for the mean over all levels"
        )
    if interval.kind is None and interval.uncertain is not None:
        raise ValueError("uncertain= says what an interval counts: pass interval='confidence' or 'prediction' with it")
    given = {"weights": interval.weights, "key": interval.key, "n": interval.n}
    for name, value in given.items() if interval.kind != "prediction" else ():
        if value is not None:
            raise ValueError(f"{name}= is for interval='prediction': leave it out")
    if interval.kind == "prediction" and scale != "response":
        raise ValueError(f"interval='prediction' is of a response: scale must be 'response', not {scale!r}")
    n = interval.n
    if n is not None and (isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1):
        raise ValueError(f"n must be a positive number of draws, not {n!r}")
    if n is not None and interval.key is None:
        raise TypeError("n= is the number of draws, which need a key, such as key=jax.random.key(0)")
    if asked.newdata is None and interval.weights is not None:
        raise ValueError("weights= is for new data: the rows of the fit have their own")


def _listed(names: Collection[str]) -> str:
    *most, last = map(repr, names)
    return f"{', '.join(most)} or {last}"


class Levels(NamedTuple):
    """Whose effects count in an interval: ``factors``, all their levels new or not, and new ones ``sampled`` from the
    population or at b = 0."""

    factors: set[str]
    all_new: bool
    sampled: bool


def levels_meant(fit: Fitted, asked: Asked, kind: str | None) -> Levels:
    """A mean over the levels has no effects in it; a response has those of its level, in every kind of mean but that
    at b = 0."""
    everyone = {f.name for f in fit.model.design.factors}
    sampled = asked.new_levels == "sample"
    if asked.averaged:
        return Levels(everyone if kind == "prediction" else set(), True, kind == "prediction")
    factors = factors_asked(fit, asked.re)
    if isinstance(asked.re, str) and asked.re == "population":
        return Levels(everyone if sampled else set(), True, sampled)
    return Levels(factors, False, sampled)


def is_constant(fit: Fitted, scale: str) -> bool:
    """Whether it is a constant of the family, which all rows share."""
    return scale == "dispersion" and "phi" not in fit.model.design.predictors


def what_is_uncertain(fit: Fitted, asked: Asked, interval: Interval, levels: Levels, scale: str) -> tuple[str, ...]:
    """``uncertain``, or the default.

    Raises:
        ValueError: what the interval cannot count.
    """
    response = interval.kind == "prediction"
    only = None  # what alone can be counted
    if is_constant(fit, scale):
        only = ("variances",)
    elif asked.averaged and not response:
        only = fit.model.likelihood.averaged_over
    if interval.uncertain is None:
        default = only or (("fixed", "random") if levels.factors else ("fixed",))
        return (*default, "residual") if response else default
    found = check_uncertain(interval.uncertain, (*PARTS, "residual"))
    if ("residual" in found) != response:
        raise ValueError(
            "uncertain: interval='prediction' counts 'residual', the response itself, and interval='confidence' does "
            f"not; got {found} with interval={interval.kind!r}"
        )
    if only and found != only:
        raise ValueError(f"uncertain: this interval counts {only} and can count nothing else; got {found}")
    if "random" in found and not levels.factors:
        raise ValueError(
            f"uncertain has 'random', but re={asked.re!r} has no effects in it, b = 0: new_levels='sample' counts them"
        )
    return found


def described(asked: Asked, interval: Interval, levels: Levels, uncertain: tuple[str, ...]) -> str:
    """The note under a table."""
    said = [WORDS[part] for part in uncertain]
    if "random" in uncertain:
        at = uncertain.index("random")
        given, new = "given the data", "those of new levels by their variance"
        said[at] += f" ({new if levels.all_new else given + ', ' + new if levels.sampled else given})"
    held = [WORDS[part] for part in (*PARTS, "residual") if part not in uncertain]
    if interval.kind == "confidence":
        held.remove(WORDS["residual"])
    if not levels.factors:
        held = [x for x in held if x != WORDS["random"]]
        held += [] if asked.averaged else ["b = 0"]
    elif not levels.sampled:
        held += ["b = 0 at new levels"] if asked.new_levels == "population" else []
    how = "normal quantiles" if interval.key is None else f"{interval.n or DRAWS} draws"
    return (
        f"{100 * interval.level:g} % {interval.kind} intervals, {how}. Uncertain: {', '.join(said)}. "
        f"Held: {', '.join(held) or 'nothing'}."
    )


# ---------------------------------------------------------------- the door
def predictions(fit: Fitted, asked: Asked, scale: str, interval: Interval) -> pd.Series | pd.DataFrame:
    """See ``Fit.predict``."""
    check_interval(asked, interval, scale)
    if interval.kind is None:
        return predict(fit, asked, scale)
    check_scale(fit, scale)
    levels = levels_meant(fit, asked, interval.kind)
    uncertain = what_is_uncertain(fit, asked, interval, levels, scale)
    everyone = {f.name for f in fit.model.design.factors}
    rows = new_rows(fit, asked, everyone if asked.averaged else levels.factors, not (asked.averaged or levels.all_new))
    of = Of(fit, asked, scale, interval, levels, uncertain)
    values = (_responses if interval.kind == "prediction" else _means)(of, rows)
    index = fit.model.design.index if rows is None else rows.index
    out = Predictions(values, index, ["predicted", "lower", "upper"])
    note = described(asked, interval, levels, uncertain)
    out.attrs = {"interval": interval.kind, "level": float(interval.level), "uncertain": uncertain, "note": note}
    return out


class Of(NamedTuple):
    """What is asked for, checked."""

    fit: Fitted
    asked: Asked
    scale: str
    interval: Interval
    levels: Levels
    uncertain: tuple[str, ...]


def _over(of: Of, rows: NewData | None, value: Callable[[NewData], np.ndarray]) -> np.ndarray:
    return on_all_rows(of.fit, value) if rows is None else value(rows)


def _means(of: Of, rows: NewData | None) -> np.ndarray:
    """(m, 3) means and their intervals."""
    fit, asked, scale = of.fit, of.asked, of.scale
    plain = asked.averaged or is_constant(fit, scale) or (not of.levels.factors and of.uncertain == ("fixed",))

    def value(rows: NewData) -> np.ndarray:
        if plain:
            found = fit.model.likelihood.mean_on_link(fit, rows, scale, asked.averaged)
        else:
            found = on_link(fit, scale, *_predictors(of, rows))
        return from_link(fit, scale, *found, of.interval.level)

    return _over(of, rows, value)


def _responses(of: Of, rows: NewData | None) -> np.ndarray:
    """(m, 3) means, and intervals of a response to each."""
    fit, interval = of.fit, of.interval
    names = list(fit.model.design.predictors)
    factors = set() if of.asked.averaged else factors_asked(fit, of.asked.re)

    def value(rows: NewData) -> np.ndarray:
        etas, covariance = _predictors(of, rows)
        mean = point(fit, rows, factors, of.asked.averaged, "response")
        return np.column_stack([mean, *etas.values(), covariance.reshape(len(mean), -1)])

    found = _over(of, rows, value)
    m, K = len(found), len(names)
    size = math.isqrt(found.shape[1] - 1 - K)
    etas = dict(zip(names, found[:, 1 : 1 + K].T, strict=True))
    given = new_weights(fit, of.asked.newdata, interval.weights, m) if rows is not None else own_weights(fit)
    ahead = Ahead(etas, found[:, 1 + K :].reshape(m, size, size), *given)
    draws = None if interval.key is None else (check_key(interval.key), int(interval.n or DRAWS))
    with computing(fit.model.device):
        ends = fit.model.likelihood.response_interval(fit.estimates, ahead, interval.level, draws)
    return np.column_stack([found[:, 0], ends])


def own_weights(fit: Fitted) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The weights and trials of all rows used, as ``new_weights`` has them."""
    d = fit.model.design
    return (d.weights_all if fit.model.likelihood.precisions else None), d.trials_all


def _predictors(of: Of, rows: NewData) -> tuple[Etas, np.ndarray]:
    """The linear predictors of rows, and the covariance of their errors; NaN where a level of the fit's own rows, held
    out of it, has no mode and nothing was said of such."""
    fit, levels = of.fit, of.levels
    factors = set() if levels.all_new else levels.factors
    at = touched(fit, rows, levels.factors, levels.all_new)
    covariance = covariances(fit, rows, at, of.uncertain, levels.sampled)
    if of.asked.new_levels == "error" and not levels.all_new:
        for t in at:
            covariance[~t.known] = np.nan
    return linear_predictors(fit, rows, factors), covariance


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
        return of.link.link(of.family.mean(mu, *further, *of.family.constants(x[K:])[1]))

    x = jnp.concatenate([etas, raw])
    found, push = jax.linearize(value, x)
    each = [push(jnp.zeros_like(x).at[k].set(1.0)) for k in range(len(x))]
    return found, jnp.stack(each)


def on_link(fit: Fitted, scale: str, etas: Etas, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``scale`` means on its link (m,), and its standard error."""
    names, family, component = list(etas), fit.family, SCALES[scale] or "mu"
    if component in names and not (scale == "response" and family.further):
        k = names.index(component)
        return etas[component], np.sqrt(covariance[:, k, k])
    m, raw = len(covariance), np.asarray(fit.estimates.log_phi)
    padded = np.resize(np.arange(m), bucket(m)) if m else np.arange(0)
    with computing(fit.model.device):
        target = Target(family, tuple(names), scale, link_for(fit, scale))
        both = np.stack(list(etas.values()))[:, padded], np.repeat(raw[:, None], len(padded), axis=1)
        value, slopes = (np.asarray(x)[..., :m] for x in _slopes(target, *both))
    slopes = slopes[: covariance.shape[1]]
    return value, np.sqrt(np.einsum("km,mkl,lm->m", slopes, covariance, slopes))
