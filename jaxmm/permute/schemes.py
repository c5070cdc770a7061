"""Ways to rearrange what the null model leaves of a response: y* = offset + s r_π, row by row.

With r = y - X₀β̂₀ - offset the marginal residuals of the null model (Freedman & Lane 1983, J. Bus. Econ. Stat. 1), a
scheme says for each permutation which row's residual comes to row i, π(i), and times what, s(i):

    sign      s = ±1, one for each group                   groups independent and symmetric about zero, variances free
    wild      s drawn, one for each group                  the same (Cameron, Gelbach & Miller 2008)
    within    π within the cells of equal random part      errors of a cell exchangeable
    groups    π whole groups of equal layout               groups exchangeable

X₀β̂₀ itself is left out of y*: it lies in the columns of the model that is fitted to it, so that the coefficients that
are tested, and their errors, are the same without it.  A row that is missing, and a weight, go with the residual.

Number 0 is the data as they are.  Where a scheme has no more distinct arrangements than permutations are asked for,
each is made once; else they are drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np

from jaxmm.errors import check_alike
from jaxmm.permute.exchange import Exchange
from jaxmm.permute.layout import Groups, blocks_of, cells_of, groups_of, kinds, layouts_of, rows_of_groups

MANY = 4096  # distinct arrangements from which on nobody need know their number


class Move(NamedTuple):
    """Of one permutation: ``index`` (nobs,) the row whose residual comes to each row, None for its own; ``factor``
    (nobs,) what it is multiplied by, None for 1."""

    index: np.ndarray | None = None
    factor: np.ndarray | None = None


class Scheme(Protocol):
    """``count``: distinct arrangements; ``units``: random numbers that a draw takes; ``notes`` for the reader."""

    @property
    def count(self) -> float: ...
    @property
    def units(self) -> int: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def numbered(self, k: int) -> Move:
        """Arrangement k of ``count``; 0 is the data as they are."""
        ...

    def drawn(self, numbers: np.ndarray) -> Move:
        """One made of ``numbers`` (units,), uniform on 0 .. 2^64 - 1."""
        ...


# ---------------------------------------------------------------- of whole groups, in their place
MAMMEN = (1 + 5**0.5) / 2, (5**0.5 + 1) / (2 * 5**0.5)  # Mammen (1993, Ann. Stat. 21): this one's negative inverse
WEBB = tuple(sign * root**0.5 for sign in (-1, 1) for root in (0.5, 1.0, 1.5))  # with this probability; Webb (2023)


def rademacher(numbers: np.ndarray) -> np.ndarray:
    """±1, each with probability a half."""
    return np.where(numbers >> np.uint64(63), -1.0, 1.0)


def mammen(numbers: np.ndarray) -> np.ndarray:
    """Two values with the moments 0, 1 and 1."""
    large, chance = MAMMEN
    return np.where(numbers * 2.0**-64 < chance, -1 / large, large)


def webb(numbers: np.ndarray) -> np.ndarray:
    """Six values, for few groups."""
    return np.array(WEBB)[(numbers >> np.uint64(32)).astype(int) * 6 >> 32]


@dataclass(frozen=True)
class Multiplied:
    """Each group times a number that ``law`` makes.  Those that are numbered are signs, of which the first is positive:
    |t| is the same where all groups change their sign."""

    groups: Groups
    law: Callable[[np.ndarray], np.ndarray]
    count: float
    notes: tuple[str, ...] = ()

    @property
    def units(self) -> int:
        return self.groups.count

    def numbered(self, k: int) -> Move:
        bits = np.array([0, *(k >> g & 1 for g in range(self.groups.count - 1))])
        return Move(factor=(1.0 - 2.0 * bits)[self.groups.codes])

    def drawn(self, numbers: np.ndarray) -> Move:
        return Move(factor=self.law(numbers)[self.groups.codes])


def sign_flips(model: Any, columns: tuple[str, ...]) -> Multiplied:
    """Whole groups change their sign."""
    groups = _independent(model, "sign")
    distinct = _power(2, groups.count - 1)
    return Multiplied(groups, rademacher, distinct, _few(distinct, groups))


def _wild(law: Callable[[np.ndarray], np.ndarray], distinct: Callable[[int], float]) -> Any:
    def make(model: Any, columns: tuple[str, ...]) -> Multiplied:
        groups = _independent(model, "wild")
        return Multiplied(groups, law, inf, _few(distinct(groups.count), groups))

    return make


def _independent(model: Any, name: str) -> Groups:
    """The groups of a model.

    Raises:
        ValueError: crossed factors, or one group.
    """
    groups = groups_of(model)
    if groups is None and not model.design.factors:
        raise ValueError(f"scheme={name!r} takes whole independent groups, and the model has no factor of them")
    if groups is None:
        raise ValueError(
            f"scheme={name!r} takes whole independent groups, and {_crossed(model)} are crossed, so that there are "
            "none: use scheme='within' where several rows share the levels of all factors; else "
            "bootstrap(fit, n, key=...) tests by simulation"
        )
    if groups.count < 2:
        raise ValueError(f"scheme={name!r} needs two groups at least, and {groups.name!r} has one")
    return groups


def _power(base: int, exponent: int) -> float:
    return float(np.power(float(base), min(exponent, 300)))


def _few(distinct: float, groups: Groups) -> tuple[str, ...]:
    notes: list[str] = []
    if distinct < MANY:
        notes.append(
            f"{groups.count} groups of {groups.name!r} have {distinct:,.0f} distinct arrangements: "
            f"no p can be below {1 / distinct:.2g}"
        )
    return tuple(notes)


# ---------------------------------------------------------------- rows and groups that change places
@dataclass(frozen=True)
class Exchanged:
    """Units of ``exchange`` change places; ``rows`` of each unit, those of a class as many and in the same order."""

    exchange: Exchange
    rows: tuple[np.ndarray, ...]
    nobs: int
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> float:
        return self.exchange.count

    @property
    def units(self) -> int:
        return len(self.rows)

    def numbered(self, k: int) -> Move:
        return self._move(self.exchange.numbered(k))

    def drawn(self, numbers: np.ndarray) -> Move:
        return self._move(self.exchange.drawn(numbers))

    def _move(self, source: np.ndarray) -> Move:
        index = np.arange(self.nobs)
        for unit in np.flatnonzero(source != np.arange(len(source))):
            index[self.rows[unit]] = self.rows[source[unit]]
        return Move(index=index)


def within_cells(model: Any, columns: tuple[str, ...]) -> Exchanged:
    """Rows change places with others of their cell."""
    check_alike(model, "a permutation test with scheme='within'")
    d = model.design
    cells, tested = cells_of(model), kinds(_tested(model, columns))
    if not Exchange.of(cells, tested).classes:
        _refuse_within(model, columns, cells, tested)
    exchange = Exchange.of(cells, kinds(d.X))
    return Exchanged(exchange, tuple(np.arange(len(cells))[:, None]), len(cells), _rare(exchange))


def whole_groups(model: Any, columns: tuple[str, ...]) -> Exchanged:
    """Groups of one layout change places."""
    check_alike(model, "a permutation test with scheme='groups'")
    d, groups = model.design, _independent(model, "groups")
    others = d.X[:, [j for j, name in enumerate(d.columns) if name not in columns]]
    rows = rows_of_groups(model, groups, others)
    layouts, tested = layouts_of(model, groups, rows), blocks_of(_tested(model, columns), rows)
    able = Exchange.of(layouts, tested)
    if not able.classes:
        _refuse_groups(columns, groups, layouts)
    exchange = Exchange.of(layouts, blocks_of(d.X, rows))
    notes = list(_rare(exchange))
    alone = int(np.sum(np.bincount(layouts)[layouts] == 1))
    if alone:
        notes.append(
            f"{alone} of {groups.count} groups of {groups.name!r} stay where they are: no other has as many rows with "
            "the same random effects"
        )
    return Exchanged(exchange, tuple(rows), len(d.y), tuple(notes))


def _tested(model: Any, columns: tuple[str, ...]) -> np.ndarray:
    d = model.design
    return d.X[:, [d.columns.index(name) for name in columns]]


def _rare(exchange: Exchange) -> tuple[str, ...]:
    notes: list[str] = []
    if exchange.count < MANY:
        notes.append(f"there are {exchange.count:,} distinct arrangements: no p can be below {1 / exchange.count:.2g}")
    return tuple(notes)


def _refuse_within(model: Any, columns: tuple[str, ...], cells: np.ndarray, tested: np.ndarray) -> NoReturn:
    """Raises ValueError with the reason why no row that changes its place changes the term."""
    names, groups = ", ".join(map(repr, columns)), groups_of(model)
    if groups is not None and not Exchange.of(groups.codes, tested).classes:
        raise ValueError(
            f"scheme='within' permutes rows within groups, and {names} is constant in every group of {groups.name!r}: "
            "use scheme='groups', or scheme='sign' where groups have variances of their own"
        )
    remedy = "use scheme='sign'" if groups is not None else "bootstrap(fit, n, key=...) tests by simulation"
    if len(np.unique(cells)) == len(cells):
        raise ValueError(
            "scheme='within' permutes rows of equal random part, and no two rows have the same levels of all factors "
            f"and the same random effects: {remedy}"
        )
    raise ValueError(
        f"scheme='within' permutes rows of equal random part, and {names} is constant among the rows that have the "
        f"same levels of all factors and the same random effects: {remedy}"
    )


def _refuse_groups(columns: tuple[str, ...], groups: Groups, layouts: np.ndarray) -> NoReturn:
    """Raises ValueError with the reason why no group that changes its place changes the term."""
    if len(np.unique(layouts)) == len(layouts):
        raise ValueError(
            f"scheme='groups' permutes groups with equal rows, and no two groups of {groups.name!r} have as many rows "
            "with the same random effects: use scheme='sign'"
        )
    raise ValueError(
        f"scheme='groups' permutes groups with equal rows, and {', '.join(map(repr, columns))} is the same in each of "
        "them: use scheme='within' where it varies within groups, or scheme='sign'"
    )


def _crossed(model: Any) -> str:
    return " and ".join(repr(f.name) for f in model.design.factors)


SCHEMES: dict[str, Callable[[Any, tuple[str, ...]], Any]] = {
    "sign": sign_flips,
    "within": within_cells,
    "groups": whole_groups,
    "wild": _wild(rademacher, lambda J: _power(2, J - 1)),
    "wild-mammen": _wild(mammen, lambda J: _power(2, J)),
    "wild-webb": _wild(webb, lambda J: _power(6, J) / 2),
}


# ---------------------------------------------------------------- all permutations of a test
class Permutations:
    """Permutations 0 .. n - 1 of a scheme: each depends on the key and its number alone.

    ``asked``: how many; where there are no more arrangements than that, ``n`` is their number, each comes once, and
    ``complete`` is True.  ``key``: the words (2,) of a key.
    """

    def __init__(self, scheme: Scheme, asked: int, key: np.ndarray):
        self.scheme, self._key = scheme, int(key[0]) << 32 | int(key[1])
        self.complete = scheme.count <= asked
        self.n = int(scheme.count) if self.complete else asked

    def __getitem__(self, k: int) -> Move:
        if self.complete:
            return self.scheme.numbered(k)
        if k == 0:
            return Move()
        bits = np.random.Philox(key=self._key, counter=[0, 0, 0, k])  # whose stream no version of NumPy changes
        return self.scheme.drawn(np.asarray(bits.random_raw(self.scheme.units), np.uint64))
