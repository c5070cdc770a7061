"""What an interval of predictions is asked to be: checked, completed, and said in words.

Whose effects count, what is held uncertain, and by which degrees of freedom; see ``inference.prediction``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from jaxmm.fitted import Fitted
from jaxmm.inference import wald
from jaxmm.inference.ddf import Reference
from jaxmm.inference.joint import PARTS, check_uncertain
from jaxmm.predict import SCALES, Asked, check_scale, factors_asked

DRAWS = 1000  # of each row's response
NEW_LEVELS = ("error", "population", "sample")
WORDS = {
    "fixed": "fixed effects",
    "random": "effects of the levels",
    "variances": "variances and constants of the family",
    "residual": "the response",
}


class Interval(NamedTuple):
    """``kind`` "confidence" or "prediction", ``level``, what is ``uncertain`` (None: the default of the kind), the
    ``weights`` of new responses, the ``key`` and ``n`` of their draws, the degrees of freedom ``ddf``, and ``vcov`` of
    β̂ with its ``cluster``."""

    kind: str | None
    level: float = 0.95
    uncertain: Any = None
    weights: Any = None
    key: Any = None
    n: int | None = None
    ddf: Any = None
    vcov: Any = None
    cluster: Any = None


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
    if interval.kind is None and interval.ddf is not None:
        raise ValueError("ddf= is for intervals: pass interval='confidence' or 'prediction' with it")
    if interval.kind is None and (interval.vcov is not None or interval.cluster is not None):
        raise ValueError("vcov= and cluster= are for intervals: pass interval='confidence' with them")
    wald.check_no_level(interval.level, interval.kind, "'confidence' or 'prediction'")
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
        raise TypeError("n= is the number of draws, which need a key, such as key=1 or key=jax.random.key(1)")
    if asked.newdata is None and interval.weights is not None:
        raise ValueError("weights= is for new data: the rows of the fit have their own")


def _listed(names: Collection[str], word: str = "or") -> str:
    *most, last = map(repr, names)
    return f"{', '.join(most)} {word} {last}" if most else last


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


def degrees_meant(fit: Fitted, ddf: Any, of_beta: bool) -> str:
    """The name of the method of degrees of freedom.

    Raises:
        ValueError: one that the model has not, or that is for coefficients alone where an interval is not ``of_beta``.
    """
    accepted = fit.model.likelihood.ddf
    name = accepted[0] if ddf is None else ddf.lower() if isinstance(ddf, str) else ddf
    whole = [known for known in ("satterthwaite", "asymptotic") if known in accepted]
    if of_beta or name in whole:
        return name
    fit.reference(ddf)  # says what is accepted
    raise ValueError(
        f"ddf={ddf!r} is of the coefficients alone, and this interval counts more than their errors: pass "
        f"{' or '.join(map(repr, whole))}, or uncertain='fixed'"
    )


# ---------------------------------------------------------------- all of it
class Of(NamedTuple):
    """What is asked for, checked."""

    fit: Fitted
    asked: Asked
    scale: str
    interval: Interval
    levels: Levels
    uncertain: tuple[str, ...]
    ddf: str

    @property
    def component(self) -> str | None:
        """The predictor that ``scale`` is the value of, on its link; None where it is of several, or a constant."""
        component, fit = SCALES[self.scale] or "mu", self.fit
        several = self.scale == "response" and fit.family.mean_apart
        return component if component in fit.model.design.predictors and not several else None

    @property
    def of_beta(self) -> bool:
        """Whether β̂ of one predictor is all that is uncertain."""
        return self.uncertain == ("fixed",) and self.component is not None

    @property
    def reference(self) -> Reference:
        """What the interval of a linear function of β̂ is made with."""
        return self.fit.reference(self.ddf, self.interval.vcov, self.interval.cluster)


def checked(fit: Fitted, asked: Asked, scale: str, interval: Interval) -> Of:
    """What is asked for, completed.

    Raises:
        ValueError: an unknown scale; what does not go together.
    """
    check_scale(fit, scale)
    levels = levels_meant(fit, asked, interval.kind)
    uncertain = what_is_uncertain(fit, asked, interval, levels, scale)
    of = Of(fit, asked, scale, interval, levels, uncertain, "")
    if (interval.vcov is not None or interval.cluster is not None) and not of.of_beta:
        raise ValueError(
            f"vcov= is the covariance of the coefficients alone, and this interval counts {_listed(uncertain, 'and')}"
            f"{'' if uncertain != ('fixed',) else ' of several predictors'}: pass interval='confidence' with "
            "re='population' or uncertain='fixed', or leave vcov= out"
        )
    return of._replace(ddf=degrees_meant(fit, interval.ddf, of.of_beta))


def described(of: Of, degrees: np.ndarray | None) -> str:
    """The note under a table; ``degrees`` None where it is simulated."""
    fit, asked, interval, levels, uncertain = of.fit, of.asked, of.interval, of.levels, of.uncertain
    said = [WORDS[part] for part in uncertain]
    if "random" in uncertain:
        at = uncertain.index("random")
        given, new = "given the data", "those of new levels by their variance"
        said[at] += f" ({new if levels.all_new else given + ', ' + new if levels.sampled else given})"
    held = [WORDS[part] for part in (*PARTS, "residual") if part not in uncertain]
    if interval.kind == "confidence":
        held.remove(WORDS["residual"])
    if degrees is not None and np.any(np.isfinite(degrees)):
        held = [x + ", which count in t alone" * (x == WORDS["variances"]) for x in held]
    if not levels.factors:
        held = [x for x in held if x != WORDS["random"]]
        held += [] if asked.averaged else ["b = 0"]
    else:
        held += [f"b = 0 of {f.name}" for f in fit.model.design.factors if f.name not in levels.factors]
        held += ["b = 0 at new levels"] if asked.new_levels == "population" and not levels.all_new else []
    return (
        f"{100 * interval.level:g} % {interval.kind} intervals, {_quantiles(of, degrees)}. Uncertain: "
        f"{', '.join(said)}. Held: {'; '.join(held) or 'nothing'}.{_covariance(of)}"
    )


def _covariance(of: Of) -> str:
    """Sentences on a covariance other than the model's."""
    notes = of.reference.notes if of.interval.vcov is not None else ()
    return "".join(f" {note[:1].upper()}{note[1:]}." for note in notes)


def _quantiles(of: Of, degrees: np.ndarray | None) -> str:
    if degrees is None:
        return f"{of.interval.n or DRAWS} draws"
    finite = degrees[np.isfinite(degrees)]
    if not len(finite):
        unknown = len(degrees) and np.all(np.isnan(degrees))
        return f"NaN: no degrees of freedom can be had ({of.ddf})" if unknown else "normal quantiles"
    least, most = np.min(finite), np.max(finite)
    span = f"{least:.3g}" if most - least < 5e-3 * most else f"{least:.3g} to {most:.3g}"
    return f"quantiles of t, {span} degrees of freedom ({of.ddf})"
