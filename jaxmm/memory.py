"""How much memory the arrays of a model take, told from its structure before they are made."""

from __future__ import annotations

import os

from jaxmm.structure import Elimination, Grouping, Structure


def gram_bytes(s: Structure, plan: Elimination, groups: list[Grouping]) -> int:
    """Bytes of the arrays, estimated before they are made."""
    columns, size = s.p + 1, s.rest_size
    total = 8 * (size + columns) ** 2
    for i, f in enumerate(plan.chain):
        g = groups[f]
        wide = columns + (0 if s.sparse and i == 0 else size)
        total += 8 * g.levels * g.q * (g.q * (len(plan.chain) - i) + wide)
    return total + 8 * plan.pairs


def check_size(s: Structure, plan: Elimination, groups: list[Grouping]) -> None:
    """Refuse what cannot be held: with the derivatives, about ten times the arrays where there is a dense part."""
    size = s.rest_size
    need = (10 if size else 1) * gram_bytes(s, plan, groups)
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # pragma: no cover
        return
    if need > have:
        rest = ", ".join(repr(groups[f].name) for f in plan.rest)
        raise MemoryError(
            f"the crossed factors {rest} leave a dense part of {size:,} x {size:,}, which with its derivatives takes "
            f"about {need / 2**30:,.0f} GiB; this machine has {have / 2**30:,.0f} GiB. Use a coarser factor or fewer "
            "effects per level"
        )


def shown_bytes(count: int) -> str:
    """A number of bytes with its unit."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} GB"
