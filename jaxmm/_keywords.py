"""A keyword that a function does not have, or an argument that it lacks -> an error with the remedy."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

FITTING = {
    "REML": "reml=True or reml=False",
    "method": "reml=False is maximum likelihood",
    "family": "lmm fits the Gaussian family; for another one use glmm(formula, data, family)",
    "n_agq": "it is an argument of glmm; the likelihood of a linear model is exact",
    "groups": "the grouping factor stands in the formula: y ~ x + (1 | group)",
    "re_formula": "random effects stand in the formula: y ~ x + (x | group)",
    "vc_formula": "random effects stand in the formula: y ~ x + (1 | a) + (1 | b)",
    "na_action": "missing='drop' or missing='raise'",
    "subset": "select the rows of the table first",
    "df": "the table is data=",
    "frame": "the table is data=",
    "correlation": "the covariance of the errors is residual='ar1(visit | subject)'",
    "cov_struct": "the covariance of the errors is residual='ar1(visit | subject)'",
    "repeated": "the covariance of the errors is residual='us(visit | subject)'",
    "dispformula": "the formula for log φ is dispersion=",
}
_OF_LINEAR = (
    "errors that are added to the mean are of linear mixed models, lmm(formula, data, residual=...); here the "
    "structure stands around a random-effects term of the formula, ar1(0 + time | subject)"
)
_BY_ML = "generalised models are fitted by maximum likelihood; n_agq= says how well the integral is taken"
GENERALISED = FITTING | {
    "REML": _BY_ML,
    "reml": _BY_ML,
    "method": _BY_ML,
    "nAGQ": "n_agq=1 is Laplace's method, n_agq=9 takes 9 quadrature nodes per effect",
    "link": "the family has it: family=mm.families.get('binomial', link='probit')",
    "trials": "cbind(successes, failures) ~ ..., or a proportion with weights= the numbers of trials",
    "exposure": "offset(log(exposure)) in the formula",
    "residual": _OF_LINEAR,
    "correlation": _OF_LINEAR,
    "cov_struct": _OF_LINEAR,
    "repeated": _OF_LINEAR,
    "dispformula": "the formula for log φ is dispersion=",
    "ziformula": "the formula for extra zeros is zero_inflation=",
}
PREDICTING = {
    "re_form": "re='population' leaves the random effects out, re=['group'] keeps some of them",
    "allow_new_levels": "new_levels='population'",
    "type": "scale='response' or scale='link'",
    "data": "the table is newdata=",
    "exog": "the table is newdata=",
    "seed": "key=seed",
    "nsim": "the number of draws is n=",
    "n_sims": "the number of draws is n=",
    "se_fit": "interval='confidence'",
    "df": "ddf='satterthwaite' or 'asymptotic'",
    "sample_new_levels": "new_levels='sample'",
}
AVERAGING = {
    "type": "scale='response' or scale='link'",
    "adjust": "it is an argument of .contrasts(method, adjust=...)",
    "method": "fit.emmeans(specs).contrasts(method)",
    "regrid": "fit.emmeans(specs).regrid()",
    "mode": "the degrees of freedom are ddf=",
    "lmer_df": "the degrees of freedom are ddf=",
    "bias_adj": "integrate=True averages over the random effects exactly",
    "cov_reduce": "at={'x': values} says where a covariate is",
    "data": "the means are those of the fit's own columns; at={'x': values} changes them",
}
SIMULATING = {
    "seed": "key=seed",
    "rng": "key=1, a seed, or key=jax.random.key(1)",
    "nsim": "the number of replicates is n=",
    "use_u": "re='conditional' keeps the random effects at their modes",
}

STUDYING = {
    "seed": "key=seed",
    "nsim": "the number of simulated responses is n=",
    "n_sims": "the number of simulated responses is n=",
    "reps": "the number of simulated responses is n=",
    "effect_size": "effects={'x': value}",
    "fixed": "test='x' names what is tested, effects={'x': value} the size of its effect",
    "data": "the rows are those of the model: jaxmm.plan(formula, table)",
    "breaks": "along={'subject': [20, 40, 80]}",
}

# what is put in the place of an argument that must be given
REQUIRED = {
    "key": "a whole number of your choice, such as key=1; the same number gives the same results",
    "along": "factor -> sizes, such as {'subject': [20, 40, 80]}",
    "formula": "a text such as 'y ~ x + (1 | group)'",
    "data": "the table whose columns the formula names",
    "model": "a fit, or a model as from jaxmm.plan() or jaxmm.Model.from_formula()",
    "n": "the number of them, such as n=1000",
    "truth": "a fit, or {'fixef': ..., 'sd': ..., 'sigma': ...}; None for the fit that comes first",
}

SHARES = {
    "ci": "interval='bootstrap', level=0.95",
    "by_group": "icc(by_group=True)",
    "tolerance": "a singular fit has its shares like any other",
}


def known_keywords(
    hints: Mapping[str, str], passes: Callable | None = None, required: Mapping[str, str] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function raise TypeError for an unknown keyword, with the hint or what is accepted, and for an argument
    that it needs and is not given, with what to put in its place, ``required`` or REQUIRED; a function that ``passes``
    its ``**options`` on accepts the keywords of the other one too."""
    remedies = REQUIRED | dict(required or {})

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = list(inspect.signature(function).parameters.values())
        named = [p for p in own if p.name not in ("self", "cls") and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        accepted = [p.name for p in named]
        places = [p.name for p in own if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        any_number = any(p.kind is p.VAR_POSITIONAL for p in own)
        inner = inspect.signature(passes).parameters.values() if passes else ()
        accepted += [p.name for p in inner if p.kind is p.KEYWORD_ONLY and p.name not in accepted]
        # (name, how many arguments by position are enough to give it)
        needed = [(p.name, math.inf if p.kind is p.KEYWORD_ONLY else k)
                  for k, p in enumerate(own, 1) if p in named and p.default is p.empty]  # fmt: skip
        name_of = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in accepted:
                    raise TypeError(_message(name_of, name, accepted, hints))
            for name, enough in needed:
                if len(args) < enough and name not in kwargs:
                    remedy = f", {remedies[name]}" if name in remedies else f"; arguments: {', '.join(accepted)}"
                    raise TypeError(f"{name_of}() needs {name}={remedy}")
            if len(args) > len(places) and not any_number:
                raise TypeError(_too_many(name_of, args[len(places)], places, accepted, hints))
            return function(*args, **kwargs)

        return checked

    return decorate


def unknown_keyword(name_of: str, name: str, function: Callable, hints: Mapping[str, str]) -> TypeError:
    """The error of a keyword ``name`` of a function that takes any, and knows not this one."""
    own = inspect.signature(function).parameters.values()
    return TypeError(_message(name_of, name, [p.name for p in own if p.kind is not p.VAR_KEYWORD], hints))


def _message(function: str, name: str, accepted: list[str], hints: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name.lower(), accepted, 1, 0.75)
    remedy = f": {hints[name]}" if name in hints else f": did you mean {close[0]!r}?" if close else ""
    return f"{function}() has no keyword {name!r}{remedy}\n    accepted: {', '.join(accepted)}"


def _too_many(function: str, surplus: object, places: list[str], accepted: list[str], hints: Mapping[str, str]) -> str:
    a_family = isinstance(surplus, str) and "family" in hints and "family" not in accepted
    remedy = f": {hints['family']}" if a_family else ""
    shown = ", ".join(p for p in places if p not in ("self", "cls"))
    taken = f"{function}() takes {shown or 'nothing'} by position and all else by name{remedy}"
    return f"{taken}\n    accepted: {', '.join(accepted)}"
