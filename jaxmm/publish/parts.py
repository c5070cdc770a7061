"""A fit -> what a table for a paper has of it: coefficients, standard deviations and correlations, counts and criteria.

Every part is a mapping, (section, name) → what stands there, in the order of the rows; so tables of several fits are
unions of mappings.  The section of a coefficient is "" for the mean and the title of its predictor else; that of a
standard deviation is its grouping factor, "" for the residual and constants of the family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxmm import coefficients, diagnostics
from jaxmm._text import number_text
from jaxmm.fitted import Fitted
from jaxmm.inference import wald
from jaxmm.tables import pairs

Key = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """NaN is what there is none of."""

    estimate: float
    se: float = math.nan
    df: float = math.nan
    statistic: float = math.nan
    p: float = math.nan
    lower: float = math.nan
    upper: float = math.nan


@dataclass(frozen=True, eq=False)
class Content:
    """What a table has of one fit; ``notes`` are sentences on its numbers, ``tests`` how its p-values are had."""

    fixed: dict[Key, Entry]
    random: dict[Key, Entry]
    correlations: frozenset[Key]
    statistics: dict[str, Any]
    tests: str
    notes: tuple[str, ...]


Statistic = Callable[[Any], Any]  # of a Fit


class Errors(NamedTuple):
    """Degrees of freedom and covariance of the coefficients, as ``Fit.coef_table`` takes them."""

    ddf: str | None = None
    vcov: Any = None
    cluster: Any = None


AS_FITTED = Errors()


def content(fit: Fitted, stats: Any, errors: Errors = AS_FITTED, level: float = 0.95) -> Content:
    """See ``Content``; ``stats`` as ``read_statistics`` takes them."""
    random, correlations = random_entries(fit)
    return Content(
        _fixed(fit, errors, wald.check_level(level)),
        random,
        correlations,
        {label: value for f in read_statistics(stats).values() for label, value in f(fit).items()},
        _tests(fit, errors),
        tuple(_notes(fit, errors)),
    )


def _fixed(fit: Fitted, errors: Errors, level: float) -> dict[Key, Entry]:
    found = {}
    for component in fit.model.design.predictors:
        table = fit.coef_table(errors.ddf, component, errors.vcov, errors.cluster)
        lower, upper = wald.interval(table["estimate"], table["se"], level, table["df"])
        columns = (table[name] for name in ("estimate", "se", "df", "statistic", "p"))
        for name, *values in zip(table.index, *columns, lower, upper, strict=True):
            found[section(fit, component), str(name)] = Entry(*map(float, values))
    return found


def section(fit: Fitted, component: str) -> str:
    """ "" for the mean; of another predictor its name and its link."""
    design = fit.model.design
    if component not in {p.name for p in design.further}:
        return ""
    return coefficients.title(design, fit.family, component).partition(",")[0]


def random_entries(fit: Fitted) -> tuple[dict[Key, Entry], frozenset[Key]]:
    """Standard deviations, the correlations that the model has, and which keys are correlations."""
    found, correlations = {}, set()
    varcorr = fit.varcorr()
    for block in varcorr.blocks:
        names, sd, corr = block.effects, block.sd(), block.corr()
        found |= {(block.group, f"SD {name}"): Entry(float(s)) for name, s in zip(names, sd, strict=True)}
        for k, l in pairs(len(names)):
            if block.estimated[l, k]:
                key = (block.group, f"Corr. {names[k]}, {names[l]}")
                found[key] = Entry(float(corr[l, k]))
                correlations.add(key)
    if varcorr.sigma is not None:
        found["", "Residual SD"] = Entry(varcorr.sigma)
    if fit.dispersion is not None and not fit.family.has_scale:
        found["", "Dispersion φ"] = Entry(float(fit.dispersion))
    found |= {("", name): Entry(float(value)) for name, value in fit.family_params.items()}
    return found, frozenset(correlations)


# ---------------------------------------------------------------- statistics
STATISTICS: dict[str, Statistic] = {
    "response": lambda fit: {"Response": fit.model.design.response},
    "family": lambda fit: {"Family": f"{fit.family.name} ({fit.family.link.name})"},
    "method": lambda fit: {"Fitted by": fit.model.likelihood.kind.rsplit(", ", 1)[-1]},
    "nobs": lambda fit: {"Observations": fit.nobs},
    "groups": lambda fit: {f"Levels of {name}": levels for name, levels in fit.n_groups.items()},
    "df": lambda fit: {"Parameters": fit.df},
    "loglik": lambda fit: {"Log-likelihood": fit.loglik},
    "deviance": lambda fit: {"Deviance": fit.deviance},
    "aic": lambda fit: {"AIC": fit.aic},
    "bic": lambda fit: {"BIC": fit.bic},
    "r2": lambda fit: {f"R² ({kind})": value for kind, value in fit.r2().items()},
    "icc": lambda fit: {"ICC": fit.icc()["adjusted"]},
}
DEFAULT = ("nobs", "groups", "loglik", "aic")
CRITERIA = frozenset({"Log-likelihood", "Deviance", "AIC", "BIC"})


def read_statistics(stats: str | Sequence[str] | Mapping[str, Statistic] | None) -> dict[str, Statistic]:
    """Names of ``STATISTICS``, or a mapping: a label → a function of a fit, or one of these names.

    Raises:
        ValueError: a name that is not known.
    """
    chosen = DEFAULT if stats is None else (stats,) if isinstance(stats, str) else stats
    if isinstance(chosen, Mapping):
        return {label: _labelled(label, f) if callable(f) else _known(f) for label, f in chosen.items()}
    return {name: _known(name) for name in chosen}


def _known(name: Any) -> Statistic:
    if name not in STATISTICS:
        raise ValueError(
            f"stats: unknown {name!r}; there are {', '.join(map(repr, STATISTICS))}, and in a mapping "
            "{'label': function of a fit}"
        )
    return STATISTICS[name]


def _labelled(label: str, f: Statistic) -> Statistic:
    return lambda fit: {label: f(fit)}


def statistic_text(label: str, value: Any, digits: int) -> str:
    """Counts and texts as they are, criteria with two decimals, others with ``digits`` of them."""
    if value is None or isinstance(value, str):
        return value or ""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool | int):
        return str(value)
    return number_text(float(value), ".2f" if label in CRITERIA else f".{digits}f")


# ---------------------------------------------------------------- sentences
def _tests(fit: Fitted, errors: Errors) -> str:
    """Of the coefficients: which degrees of freedom."""
    if not len(fit.fixef):
        return ""
    reference = fit.reference(*errors)
    if np.isinf(reference.df(np.eye(len(reference.beta)))).all():
        return "Tests and intervals by the normal distribution"
    return f"Tests and intervals by t with {reference.name.title()} degrees of freedom"


def _notes(fit: Fitted, errors: Errors) -> list[str]:
    notes = []
    if fit.dropped:
        notes.append(f"left out as combinations of other columns: {', '.join(fit.dropped)}")
    singular = diagnostics.singular_terms(fit)
    if singular:
        notes.append(f"singular: {', '.join(singular)} with a variance of zero or a perfect correlation")
    if not fit.converged:
        notes.append(f"not converged: {diagnostics.diagnostics(fit).status_message}")
    return [*notes, *fit.reference(*errors).notes]
