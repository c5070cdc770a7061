"""A model in words: what was decided about it, what it needs, where it runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxmm._text import html_table, paragraph
from jaxmm.design import Design
from jaxmm.prepared import Prepared


def spell(effects: Sequence[str]) -> str:
    """The left side of a bar with these effects: "1 + Days", "0 + x"."""
    rest = [e for e in effects if e != "(Intercept)"]
    return " + ".join(["1" if len(rest) < len(effects) else "0", *rest])


def describe(model: Prepared) -> str:
    """What ``print(model)`` shows: terms, levels, elimination, sizes, device."""
    d, s, plan = model.design, model.structure, model.plan
    lines = [
        model.likelihood.kind,
        f"  formula   {d.formula}",
        f"  rows      {len(d.y):,} used" + (f", {d.n_missing:,} dropped for missing values" if d.n_missing else ""),
        *_about_response(d),
        f"  X         {_columns(d.columns, d.dropped)}",
        *(f"  X of {p.name:<6} {_columns(p.columns, p.dropped)}, {p.formula}" for p in d.further),
        "  terms",
    ]
    for t in (t for t, _ in model.theta_terms()):
        term = d.terms[t]
        factor = d.factors[term.factor]
        lines.append(
            f"    ({spell(term.effects)} | {factor.name})  {len(factor.levels):,} levels x {len(term.effects)}, "
            f"{term.covariance.name}"
        )
    if d.residual is not None and not d.residual.plain:
        lines.append(f"  errors    {d.residual.shown}{_about_errors(model)}")
    lines += [f"  {line}" for line in str(plan).splitlines()]
    parameters = f"{s.num_theta} covariance parameter{'s' if s.num_theta > 1 else ''}"
    lines.append(f"  solver    {plan.name}; arrays {plan.memory}; {parameters}")
    lines.append(f"  device    {model.device.platform}:{model.device.id}, float64")
    return "\n".join(lines)


def _about_errors(model: Prepared) -> str:
    """Subjects, times, and how they are gone through."""
    d, own = model.design.residual, model.arrays.residual  # pyright: ignore
    if d is None or d.subject is None:
        return ""
    kept = int(np.sum(np.any(np.asarray(own.patterns.there) > 0, axis=0)))
    return (
        f"  {len(d.subject.levels):,} of '{d.subject.name}' at {len(d.times):,} times, in {kept:,} "
        f"pattern{'s' if kept != 1 else ''}, as {own.how}"
    )


def described_html(model: Prepared) -> str:
    """The same as a table of what and how, for notebooks."""
    heading, *lines = describe(model).splitlines()
    rows = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines]
    return paragraph(heading) + html_table(["", ""], [[*row, ""][:2] for row in rows], names=2)


def _columns(names: tuple[str, ...], dropped: tuple[str, ...]) -> str:
    own = f"{len(names)} column{'s' if len(names) != 1 else ''}"
    return own + (f", aliased and dropped: {', '.join(dropped)}" if dropped else "")


def _about_response(d: Design) -> list[str]:
    """What is a success, and of how many trials, where successes are counted."""
    if d.success is not None:
        return [f"  response  {d.response}: {d.success!r} is success"]
    if d.trials is not None and np.any(d.trials != 1):
        return [f"  response  {d.y.sum():,.0f} successes of {d.trials.sum():,.0f} trials"]
    return []
