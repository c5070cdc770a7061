"""The arguments of a fit -> which columns of the table it needs, which rows it uses, and how much each
counts.

A row is used when no column of the model is missing in it; it counts when its weight is above zero.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design import contrasts as _contrasts
from jaxmm.design import syntax as _syntax
from jaxmm.design import terms as _terms
from jaxmm.design.columns import Column, DataError, Levels, Table, row_text
from jaxmm.design.formula import Terms
from jaxmm.design.modelmatrix import check_finite
from jaxmm.design.syntax import Call, Expr, Name
from jaxmm.design.transforms import as_number, evaluate


class Frame(Mapping):
    """The columns of some rows of a table, converted when they are asked for."""

    def __init__(self, table: Table, rows: np.ndarray | None, where: str):
        self.table, self.rows, self.where = table, rows, where
        self._values: dict[str, np.ndarray | Levels] = {}

    def __getitem__(self, name: str) -> np.ndarray | Levels:
        if name not in self._values:
            value = self.table.column(name, self.where).natural
            if self.rows is not None:
                value = value.take(self.rows) if isinstance(value, Levels) else value[self.rows]
            self._values[name] = value
        return self._values[name]

    def levels(self, name: str) -> Levels:
        return self.table.column(name, self.where).levels.take(self.rows)

    def present(self, names: Iterable[str]) -> "Frame":
        """The rows of the table in which none of these columns is missing; itself where it has them all."""
        if self.rows is None:
            return self
        gone = np.zeros(len(self.table), dtype=bool)
        for name in names:
            missing = self.table.column(name, self.where).missing
            if missing is not None:
                gone |= missing
        return Frame(self.table, ~gone if gone.any() else None, self.where)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.table

    def __iter__(self):
        return iter(self.table.names)

    def __len__(self) -> int:
        return len(self.table.names)


def dot_columns(terms: Terms, table: Table, weights: Any, offset: Any) -> list[str] | None:
    """The columns that '.' stands for: all but response, grouping, weights and offset columns."""
    if "." not in _syntax.names(terms.fixed):
        return None
    taken = {*_syntax.names(terms.response)}
    for expr in (*terms.offsets, *(_syntax.read(g) for b in terms.bars for g in b.group)):
        taken.update(_syntax.names(expr))
    taken.update(a for a in (weights, offset) if isinstance(a, str))
    columns = [n for n in table.names if n not in taken]
    if not columns:
        raise DataError(
            f"'.' in '{terms.text}' stands for no column: the table has no other than "
            f"{', '.join(map(repr, table.names))}"
        )
    return columns


def check_contrasts(
    contrasts: Mapping[str, str] | None, parts: Iterable[_terms.TermList], table: Table
) -> dict[str, str]:
    if contrasts is None:
        return {}
    if not isinstance(contrasts, Mapping):
        raise DataError(f"contrasts must be a mapping such as {{'column': 'sum'}}, not {contrasts!r}")
    known = {v.name if isinstance(v, Name) else str(v) for part in parts for v in part.variables}
    for column, name in contrasts.items():
        if column not in known:
            raise DataError(
                f"contrasts names {column!r}, which is no variable of the formula; it has "
                f"{', '.join(map(repr, sorted(known))) or 'none'}"
            )
        if not isinstance(name, str) or name not in _contrasts.CODINGS:
            raise DataError(f"contrasts[{column!r}] is {name!r}; known are {', '.join(map(repr, _contrasts.CODINGS))}")
        if column in table and table.column(column).kind in ("number", "time"):
            raise DataError(
                f"contrasts names {column!r}, which holds numbers; write factor({column}) in the formula "
                f"and contrasts={{'factor({column})': {name!r}}}"
            )
    return dict(contrasts)


def _names(expr: Expr, table: Table) -> list[str]:
    """The columns of a variable; pi, T and F are constants inside a call where no column has the name."""
    constants = () if isinstance(expr, Name) else ("pi", "T", "F")
    return [n for n in _syntax.names(expr) if n in table or n not in constants]


def model_columns(
    response: Expr,
    table: Table,
    parts: list[_terms.TermList],
    offsets: list[Expr],
    groups: list[tuple[Expr, ...]],
    weights: Any,
    offset: Any,
    others: Iterable[tuple[Expr, str]] = (),
) -> list[Column]:
    """The columns of the model, of whose ``others`` it is said what they are. Raises DataError for one that the table
    does not have."""
    wanted: dict[str, str] = {}
    for name in _names(response, table):
        wanted.setdefault(name, ", the response")
    for expr in (*offsets, *(v for part in parts for v in part.variables)):
        for name in _names(expr, table):
            wanted.setdefault(name, f" in '{expr}'" if not isinstance(expr, Name) else "")
    for group in groups:
        for expr in group:
            for name in _names(expr, table):
                wanted.setdefault(name, ", a grouping factor")
    for expr, what in others:
        for name in _names(expr, table):
            wanted.setdefault(name, f", {what}")
    for argument, name in (("weights", weights), ("offset", offset)):
        if isinstance(name, str):
            wanted.setdefault(name, f" for {argument}=")
    return [table.column(name, why) for name, why in wanted.items()]


def complete_rows(sources: list[Column], n: int, missing: str) -> np.ndarray | None:
    """True for the rows without a missing value; None where no row has one."""
    holes = [c for c in sources if c.missing is not None]
    if not holes:
        return None
    if missing == "raise":
        raise DataError(f"{missing_text(sources)}; missing='drop' leaves these rows out")
    gone = np.zeros(n, dtype=bool)
    for c in holes:
        gone |= c.missing
    if gone.all():
        raise DataError(f"no row is left after dropping missing values: {missing_text(sources)} of {n} rows")
    return ~gone


def missing_text(sources: list[Column]) -> str:
    counts = [f"{c.name!r} {int(c.missing.sum())}" for c in sources if c.missing is not None]
    return f"missing values in {', '.join(counts)}"


def counted_rows(used: np.ndarray | None, kept: np.ndarray, n: int) -> np.ndarray | None:
    """The rows of the table that count, as a mask or None for all."""
    if kept.all():
        return used
    if used is None:
        return kept
    rows = np.zeros(n, dtype=bool)
    rows[np.flatnonzero(used)[kept]] = True
    return rows


def row_values(values: Any, name: str, table: Table) -> np.ndarray:
    """The array given as `weights` or `offset`, as (N,) finite float64."""
    if isinstance(values, pd.Series) and not values.index.equals(table.index):
        raise DataError(
            f"the index of {name} is not that of the data; pass {name}.to_numpy() if the rows are in the same order"
        )
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name} holds text or other things where numbers are due") from None
    if array.shape != (len(table),):
        raise DataError(f"{name} has shape {array.shape} and the data have {len(table)} rows")
    check_finite(array, name, table.index)
    return array


def row_weights(weights: Any, table: Table, used: np.ndarray | None) -> np.ndarray | None:
    """(rows used,) not negative."""
    if weights is None:
        return None
    if isinstance(weights, str):
        what, array = weights, table.column(weights).numbers
    else:
        what, array = "weights", row_values(weights, "weights", table)
    if used is not None:
        array = array[used]
    labels = table.index if used is None else table.index[used]
    check_finite(array, what, labels)
    if (array < 0).any():
        i = int(np.argmax(array < 0))
        raise DataError(
            f"'{what}' is {_syntax.number_text(float(array[i]))} at row {row_text(labels[i])}: weights "
            "cannot be negative (zero leaves the row out)"
        )
    return array


def row_offset(
    exprs: Iterable[Expr], argument: Any, frame: Frame, memory: dict[str, Any], labels: pd.Index
) -> np.ndarray | None:
    """(n,) the sum of the formula's offsets and the argument; None where there is neither."""
    parts = []
    for expr in exprs:
        value = np.asarray(as_number(evaluate(expr, frame, memory, fitting=True), f"offset({expr})"), dtype=float)
        value = np.broadcast_to(value, (len(labels),))
        check_finite(value, f"offset({expr})", labels, _offset_remedy(expr, frame))
        parts.append(value)
    if argument is not None:
        array = argument_offset(argument, frame)
        check_finite(array, argument if isinstance(argument, str) else "offset", labels)
        parts.append(array)
    return np.sum(parts, axis=0) if parts else None


def formula_offset(exprs: Iterable[Expr], frame: Frame, memory: dict[str, Any], n: int) -> np.ndarray:
    """(n,) the sum of the formula's offsets on other rows, unchecked."""
    total = np.zeros(n)
    for expr in exprs:
        total = total + np.asarray(as_number(evaluate(expr, frame, memory, fitting=False), f"offset({expr})"))
    return total


def argument_offset(argument: Any, frame: Frame) -> np.ndarray:
    """The rows' values of a column, or of an array over the whole table."""
    if isinstance(argument, str):
        numbers = frame.table.column(argument, frame.where).numbers
    else:
        numbers = row_values(argument, "offset", frame.table)
    return numbers if frame.rows is None else numbers[frame.rows]


def new_offset(offset: Any, frame: Frame, n: int) -> np.ndarray:
    """The same for new rows, where it may be one number for all."""
    if not isinstance(offset, str) and np.ndim(offset) == 0:
        return np.full(n, float(offset))
    return argument_offset(offset, frame)


def _offset_remedy(expr: Expr, frame: Frame) -> Callable[[int], str]:
    """What to do about an offset that is not finite in a row: it tells the columns' values there."""

    def remedy(i: int) -> str:
        values = {c: frame[c] for c in _names(expr, frame.table)}
        shown = [f"'{c}' is {_syntax.number_text(float(v[i]))}" for c, v in values.items() if isinstance(v, np.ndarray)]
        there = f"there {' and '.join(shown)}; " if shown else ""
        if any(isinstance(node, Call) and node.func.startswith("log") for node in _syntax.walk(expr)):
            there = there.replace(";", ", and an exposure must be above zero to have a logarithm;")
        return f"{there}correct the value, or leave the row out"

    return remedy
