"""What was decided about a model's grouping factors, as data: ``print(model.plan)``.

(Structure, Elimination, groupings)  ->  Plan: how each factor is eliminated, how it is coupled, what it takes
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from jaxmm import costs
from jaxmm.design.columns import DataError
from jaxmm.design.residual import ResidualDesign
from jaxmm.structure import Elimination, Grouping, Structure

BLOCK, DENSE = "block diagonal", "dense"
NONE = "no random effects"
CELLS, BORDER = "list of the cells that occur", "dense border"


@dataclass(frozen=True)
class Part:
    """One grouping factor: ``how`` it is eliminated, its levels, its effects per level."""

    factor: str
    how: str
    levels: int
    q: int

    @property
    def size(self) -> int:
        return self.levels * self.q


@dataclass(frozen=True)
class Plan:
    """``parts`` in elimination order; ``coupling`` of the first of them to the dense ones, None where there are none;
    ``numbers``, how many of them the arrays hold."""

    parts: tuple[Part, ...]
    coupling: str | None
    numbers: int

    @property
    def chain(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.how == BLOCK)

    @property
    def rest(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.how == DENSE)

    @property
    def name(self) -> str:
        """What it comes to: "blocks", "nested chain", "Schur complement"; where there are no blocks, ``how``."""
        if not self.parts:
            return NONE
        if not self.chain:
            return self.parts[0].how
        if self.rest:
            return "Schur complement"
        return "nested chain" if len(self.chain) > 1 else "blocks"

    @property
    def bytes(self) -> int:
        return 8 * self.numbers

    @property
    def memory(self) -> str:
        """The bytes with their unit."""
        value = float(self.bytes)
        for unit in ("B", "kB", "MB"):
            if value < 1000:
                return f"{value:.3g} {unit}"
            value /= 1000
        return f"{value:,.3g} GB"

    def __str__(self) -> str:
        if not self.parts:
            return f"eliminated         {NONE}"
        if not self.chain:
            factors, size = " + ".join(part.factor for part in self.parts), _size(self.parts)
            return f"all at once   {factors}: {self.name}, {size:,} effects"
        nested, size = " inside ".join(part.factor for part in self.chain), _size(self.chain)
        lines = [f"eliminated first   {nested}: {BLOCK}, {size:,} effects"]
        if self.rest:
            rest, size = " + ".join(part.factor for part in self.rest), _size(self.rest)
            lines.append(f"then by Cholesky   {rest}: {DENSE} {size:,} x {size:,}; coupling as {self.coupling}")
        return "\n".join(lines)


def _size(parts: tuple[Part, ...]) -> int:
    """The effects of all their levels."""
    return sum(part.size for part in parts)


def plan_of(s: Structure, elimination: Elimination, groups: list[Grouping]) -> Plan:
    """The plan of an analysed model."""
    how = [*((f, BLOCK) for f in elimination.chain), *((f, DENSE) for f in elimination.rest)]
    parts = tuple(Part(groups[f].name, kind, groups[f].levels, groups[f].q) for f, kind in how)
    coupling = None if not (elimination.rest and elimination.chain) else CELLS if s.sparse else BORDER
    return Plan(parts, coupling, _numbers(s, elimination, groups))


def _numbers(s: Structure, elimination: Elimination, groups: list[Grouping]) -> int:
    """Of the arrays, estimated before they are made."""
    columns, size = s.p + 1, s.rest_size
    total = (size + columns) ** 2
    for i, f in enumerate(elimination.chain):
        g = groups[f]
        wide = columns + (0 if s.sparse and i == 0 else size)
        total += g.levels * g.q * (g.q * (len(elimination.chain) - i) + wide)
    return total + elimination.pairs


def check_size(plan: Plan) -> None:
    """Refuse what cannot be held: with the derivatives, about ten times the arrays where there is a dense part."""
    need = (10 if plan.rest else 1) * plan.bytes
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # pragma: no cover
        return
    if need > have:
        rest, size = ", ".join(repr(part.factor) for part in plan.rest), _size(plan.rest)
        crossed = "crossed " if plan.chain else ""
        raise MemoryError(
            f"the {crossed}factors {rest} leave a dense part of {size:,} x {size:,}, which with its derivatives takes "
            f"about {need / 2**30:,.0f} GiB; this machine has {have / 2**30:,.0f} GiB. Use a coarser factor or fewer "
            "effects per level"
        )


def check_mixed(plan: Plan, errors: ResidualDesign | None) -> None:
    """Refuse factors that cross the subjects of the ``errors`` and have many effects.

    Raises:
        DataError: more than ``costs.MIXED_COLUMNS`` of them.
    """
    size = _size(plan.rest)
    if errors is None or errors.subject is None or size <= costs.MIXED_COLUMNS:
        return
    rest = ", ".join(f"{part.factor!r} ({part.levels:,} levels x {part.q})" for part in plan.rest)
    raise DataError(
        f"{errors.text}: rows of one '{errors.subject.name}', whose errors are correlated, lie in several levels of "
        f"{rest}: such factors are held as a dense part, here of {size:,} columns, and {costs.MIXED_COLUMNS:,} are the "
        "most. Use a coarser factor or fewer effects per level, or correlate errors within a finer factor, each of "
        "whose levels lies in one level of these"
    )
