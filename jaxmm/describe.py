"""A model in words: what was decided about it, what it needs, where it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxmm.design import Design
    from jaxmm.model import Model


def spell(effects: Sequence[str]) -> str:
    """The left side of a bar with these effects: "1 + Days", "0 + x"."""
    rest = [e for e in effects if e != "(Intercept)"]
    return " + ".join(["1" if len(rest) < len(effects) else "0", *rest])


def gram_bytes(model: Model) -> int:
    """Bytes of the arrays, estimated before they are made."""
    s, plan, groups = model.structure, model.elimination, model.groupings
    columns, size = s.p + 1, s.rest_size
    total = 8 * (size + columns) ** 2
    for i, f in enumerate(plan.chain):
        g = groups[f]
        wide = columns + (0 if s.sparse and i == 0 else size)
        total += 8 * g.levels * g.q * (g.q * (len(plan.chain) - i) + wide)
    return total + 8 * plan.pairs


def check_size(model: Model) -> None:
    """Refuse what cannot be held: with the derivatives, about ten times the arrays where there is a dense part."""
    size = model.structure.rest_size
    need = (10 if size else 1) * gram_bytes(model)
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # pragma: no cover
        return
    if need > have:
        rest = ", ".join(repr(model.groupings[f].name) for f in model.elimination.rest)
        raise MemoryError(
            f"the crossed factors {rest} leave a dense part of {size:,} x {size:,}, which with its derivatives takes "
            f"about {need / 2**30:,.0f} GiB; this machine has {have / 2**30:,.0f} GiB. Use a coarser factor or fewer "
            "effects per level"
        )


def describe(model: Model) -> str:
    """What ``print(model)`` shows: terms, levels, elimination, sizes, device."""
    d, s, plan = model.design, model.structure, model.elimination
    lines = [
        f"{model.likelihood.kind}, not fitted",
        f"  formula   {d.formula}",
        f"  rows      {len(d.y):,} used" + (f", {d.n_missing:,} dropped for missing values" if d.n_missing else ""),
        *_about_response(d),
        f"  X         {s.p} columns" + (f", aliased and dropped: {', '.join(d.dropped)}" if d.dropped else ""),
        "  terms",
    ]
    for t in (t for t, _ in model.theta_terms()):
        term = d.terms[t]
        factor = d.factors[term.factor]
        lines.append(
            f"    ({spell(term.effects)} | {factor.name})  {len(factor.levels):,} levels x {len(term.effects)}, "
            f"{term.covariance.name}"
        )
    names = [model.groupings[f] for f in plan.chain]
    nested = " inside ".join(g.name for g in names)
    lines.append(f"  eliminated first   {nested}: block diagonal, {sum(g.levels * g.q for g in names):,} effects")
    if plan.rest:
        rest = " + ".join(model.groupings[f].name for f in plan.rest)
        coupling = "list of the cells that occur" if s.sparse else "dense border"
        lines.append(f"  then by Cholesky   {rest}: dense {s.rest_size:,} x {s.rest_size:,}; coupling as {coupling}")
    parameters = f"{s.num_theta} covariance parameter{'s' if s.num_theta > 1 else ''}"
    lines.append(f"  solver    {model.solver}; arrays {_bytes(gram_bytes(model))}; {parameters}")
    lines.append(f"  device    {model.device.platform}:{model.device.id}, float64")
    return "\n".join(lines)


def _about_response(d: Design) -> list[str]:
    """What is a success, and of how many trials, where successes are counted."""
    if d.success is not None:
        return [f"  response  {d.response}: {d.success!r} is success"]
    if d.trials is not None and np.any(d.trials != 1):
        return [f"  response  {d.y.sum():,.0f} successes of {d.trials.sum():,.0f} trials"]
    return []


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} GB"
