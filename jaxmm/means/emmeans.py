"""Estimated marginal means: what a fit says of the levels of some factors, averaged over those of the others.

specs, by, at ──grid──▶ rows x, weights w ──integrate──▶ Functions ──▶ Emmeans ──C──▶ Comparisons
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import diagnostics
from jaxmm.fitted import Fitted
from jaxmm.inference import wald
from jaxmm.inference.anova import TermTests
from jaxmm.links import Identity
from jaxmm.means import integrate as means_of
from jaxmm.means import joint
from jaxmm.means.functions import NOT_ESTIMABLE, Functions
from jaxmm.means.grid import Columns, Grid, reference_grid, slopes, undefined
from jaxmm.means.printing import level_text
from jaxmm.means.result import Emmeans

SCALES = ("link", "response")


# ---------------------------------------------------------------- what is asked for
def read_specs(specs: Any, by: Any) -> tuple[list[str], list[str]]:
    """Names of columns, or a formula "~ a * b | c", and ``by`` -> the columns of the means, and those they go by.

    Raises:
        ValueError: a formula with a left side, or a column that stands on both sides.
    """
    names, groups = _names(specs), _names(() if by is None else by)
    if isinstance(specs, str) and "~" in specs:
        left, right = specs.split("~", 1)
        if left.strip():
            raise ValueError(f"specs {specs!r}: write '~{right}', and .contrasts({left.strip()!r}) of what it gives")
        sides = right.split("|")
        if len(sides) > 2:
            raise ValueError(f"specs {specs!r} has more than one '|'")
        names, *own = (_split(side) for side in sides)
        groups = [*(own[0] if own else []), *groups]
    twice = [n for i, n in enumerate([*names, *groups]) if n in [*names, *groups][:i]]
    if twice:
        raise ValueError(f"specs and by name {twice[0]!r} twice")
    return names, groups


def _names(given: Any) -> list[str]:
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else [given]
    if any(not isinstance(n, str) for n in names):
        raise ValueError(f"specs and by are names of columns, or a formula such as '~ a | b', not {given!r}")
    return names


def _split(side: str) -> list[str]:
    return [n.strip().strip("`") for n in re.split(r"[*:+]", side) if n.strip() not in ("", "1")]


def _checked(grid: Grid, keep: list[str]) -> None:
    for name in keep:
        if name not in grid.names:
            shown = ", ".join(map(repr, grid.names)) or "none"
            raise ValueError(f"there is no {name!r} in the fixed effects; specs and by take their columns: {shown}")


# ---------------------------------------------------------------- the verbs
def emmeans(
    fit: Fitted, specs: Any, by: Any, at: Any, ddf: str | None, weights: Any, scale: str, integrate: bool,
    level: float, vcov: Any, cluster: Any = None,
) -> Emmeans:  # fmt: skip
    """See ``Fit.emmeans``."""
    wald.check_level(level)
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}, not {scale!r}")
    names, groups = read_specs(specs, by)
    curved = fit.family.link.difference != "difference"
    if integrate and curved and vcov is not None:
        raise ValueError(
            "integrate=True averages over the random effects, whose variances vcov= says nothing of: leave one out"
        )
    reference = fit.reference(ddf, vcov, cluster)
    if not fit.model.design.columns:
        raise ValueError("the model has no fixed effects: there are no marginal means of it")
    grid = reference_grid(fit, at, random=integrate and curved)
    keep = [*names, *groups]
    _checked(grid, keep)
    make = means_of.averaged if integrate and curved else means_of.linear
    functions = make(fit, grid, keep, grid.weights(keep, weights), reference)
    title = f"Marginal means of {_response(fit)}{_on(fit) if scale == 'link' else ''}"
    estimand = (
        "averaged over the random effects" if integrate and curved
        else "at b = 0" if curved
        else "at b = 0, which is the average over the random effects as well"
    )  # fmt: skip
    notes = _notes(fit, grid, keep, functions)
    if scale == "response" and "(" in fit.model.design.response and not curved:
        notes.append(f"on the scale of {fit.model.design.response}: nothing is carried back from a formula's response")
    if curved and not integrate:
        notes.append("a mean at b = 0 is that of a typical level of the groups, not the average over them: integrate=")
    return Emmeans(
        functions, _table(grid, keep), tuple(names), tuple(groups), "emmean", fit.family.link, scale, level,
        (f"{title}: {estimand}", *_about(fit, grid, keep, weights), *_offset(fit, grid)), tuple(notes),
    )  # fmt: skip


def emtrends(
    fit: Fitted,
    specs: Any,
    var: str,
    by: Any,
    at: Any,
    ddf: str | None,
    weights: Any,
    level: float,
    vcov: Any,
    cluster: Any = None,
) -> Emmeans:
    """See ``Fit.emtrends``."""
    wald.check_level(level)
    names, groups = read_specs(specs, by)
    seen = getattr(fit.model.design.spec, "seen", None)
    numbers = [n for n, c in seen.columns.items() if c.labels is None] if seen is not None else []
    if seen is not None and var not in numbers:
        shown = ", ".join(map(repr, numbers)) or "none"
        raise ValueError(f"var must be a column of numbers among the fixed effects, not {var!r}; they have {shown}")
    reference = fit.reference(ddf, vcov, cluster)
    at = dict(at or {})
    if seen is not None and var not in at and var not in [*names, *groups]:
        at[var] = seen.columns[var].mean
    grid = reference_grid(fit, at)
    keep = [*names, *groups]
    _checked(grid, [*keep, var])
    grid = slopes(fit, grid, var)
    functions = means_of.linear(fit, grid, keep, grid.weights(keep, weights), reference)
    notes = _notes(fit, grid, [*keep, var], functions)
    where = "" if var in keep else f", at {var} = {_shown(grid.axis(var).levels)}"
    return Emmeans(
        functions, _table(grid, keep), tuple(names), tuple(groups), "trend", Identity(), "link", level,
        (f"Slopes by {var} of {_response(fit)}{_on(fit)}{where}", *_about(fit, grid, [*keep, var], weights)),
        tuple(notes),
    )  # fmt: skip


def joint_tests(fit: Fitted, by: Any, at: Any, ddf: str | None, vcov: Any, cluster: Any = None) -> pd.DataFrame:
    """See ``Fit.joint_tests``."""
    _, groups = read_specs((), by)
    reference = fit.reference(ddf, vcov, cluster)
    grid = reference_grid(fit, at, spread=_around)
    _checked(grid, groups)
    axes = [a.name for a in grid.axes if len(a.levels) > 1 and a.name not in groups]
    found = []
    for chosen in joint.terms(fit.model.design.spec.matrix, axes):
        keep = [*chosen, *groups]
        functions = means_of.linear(fit, grid, keep, grid.weights(keep, "equal"), reference)
        C = joint.differences([len(grid.axis(n).levels) for n in chosen])
        found += joint.tested(":".join(chosen), functions, C, _table(grid, keep)[groups])
    table = TermTests(joint.table(found, groups))
    heading = f"Joint tests of marginal means: F tests, degrees of freedom: {reference.name}"
    nowhere = () if np.all(np.isfinite(grid.X)) else undefined(fit, grid)
    table.attrs = {"heading": heading, "notes": (*reference.notes, *nowhere, *diagnostics.remarks(fit))}
    return table


def _around(column: Any) -> tuple[float, float]:
    """The mean ± 1, or farther apart where 1 is little beside the mean."""
    step = max(1.0, 1e-3 * abs(column.mean))
    return column.mean - step, column.mean + step


# ---------------------------------------------------------------- words
def _on(fit: Fitted) -> str:
    """The scale of the linear predictor, where it is another one than that of the response."""
    link = fit.family.link
    words = f" ({link.called})" if link.called else ""
    return f", on the {link.name} scale{words}" if link.difference != "difference" else ""


def _response(fit: Fitted) -> str:
    zeros = f", before {fit.family.mu_before}" if fit.family.mu_before else ""
    return f"{fit.model.design.response}{zeros}"


def _shown(levels: Sequence[Any]) -> str:
    return ", ".join(level_text(v) for v in levels)


def _table(grid: Grid, keep: list[str]) -> pd.DataFrame:
    cells = grid.cells(keep)
    columns = {n: pd.Series(v, dtype=object if isinstance(v[0], str) else float) for n, v in cells.items()}
    return pd.DataFrame(columns, pd.RangeIndex(max(map(len, cells.values()), default=1)))


def _about(fit: Fitted, grid: Grid, keep: list[str], weights: Any) -> list[str]:
    """What is averaged over, and what is held where; the mean of a centred column is zero and no rounding error."""
    over, fixed, seen = grid.averaged(keep), grid.fixed_at(keep), Columns(fit).spec.seen.columns
    for n, v in fixed.items():
        if seen[n].labels is None and abs(v) < 1e-12 * (seen[n].high - seen[n].low):
            fixed[n] = 0.0
    how = f"{weights} weights" if isinstance(weights, str) else "weights as given"
    out = [f"averaged over the levels of {', '.join(over)}, {how}"] if over else []
    return [*out, *(["at " + ", ".join(f"{n} = {level_text(v)}" for n, v in fixed.items())] if fixed else [])]


def _offset(fit: Fitted, grid: Grid) -> list[str]:
    """What is added to every mean, where the columns of the offset are not among those that are told."""
    value = grid.offset[0] if len(grid.offset) and not grid.moved else 0.0
    return [f"offset = {level_text(float(value))}, its mean{_moving(fit)}"] if value != 0 else []


def _moving(fit: Fitted) -> str:
    """How to put the offset elsewhere."""
    column = next(iter(Columns(fit).offset), None)
    return "" if column is None else f" (at={{{column!r}: 1}} has the means where {column} is 1)"


def _notes(fit: Fitted, grid: Grid, keep: list[str], functions: Functions) -> list[str]:
    out = list(functions.reference.notes)
    over = joint.interacting(fit.model.design.spec.matrix, grid.averaged(keep), keep)
    if over:
        out.append(
            f"the average over {', '.join(over)} may mislead: the model has interactions of it with these levels"
        )
    if functions.untold:
        out.append(NOT_ESTIMABLE)
    if functions.undefined.any():
        out += undefined(fit, grid)
    return [*out, *diagnostics.remarks(fit)]
