"""Many tables with the same columns, one under the other -> the rows of the model in each: one evaluation for all.

    tables  --concatenated-->  N rows  --the formula's variables-->  y (N,), X (N, p), Z (N, q) by term, codes (N,)

Names and contrasts are those of the ``design`` that all have in common, which has the levels of all the first.  Of its
own each data set has the levels of its grouping factor, the rows that are used, and what transforms learn from a column
(poly, scale), as a table by itself would have; the columns of levels that it lacks are none of its own (``lacking``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmm.design import syntax as _syntax
from jaxmm.design.building import build
from jaxmm.design.columns import DataError, Levels, Table
from jaxmm.design.design import Design
from jaxmm.design.formula import Terms
from jaxmm.design.functions import Matrix, as_number
from jaxmm.design.grouping import fit_grouping
from jaxmm.design.inputs import Frame, model_columns
from jaxmm.design.joined import columns_of, is_numeric, stack
from jaxmm.design.lacking import arranged, common_first, empty_columns, means_another
from jaxmm.design.modelmatrix import recoded
from jaxmm.design.response import Response, any_trial, other_rows
from jaxmm.design.stacked_rows import Stacked, sorted_rows
from jaxmm.design.transforms import evaluate, learns
from jaxmm.families import Family


@dataclass(frozen=True)
class Stacker:
    """How tables are read: by the formula ``terms``, with the levels and contrasts of ``design``; ``names`` are the
    columns that each must have, those in ``numeric`` numbers, ``of_levels`` the labels of a response that is a
    factor, ``order`` the levels of columns that have them in another order than by themselves."""

    terms: Terms
    design: Design
    names: tuple[str, ...]
    numeric: frozenset[str]
    family: Family | None
    weights: str | None
    offset: str | None
    contrasts: Mapping[str, str] | None
    of_levels: tuple[str, str] | None
    order: Mapping[str, np.ndarray]

    @property
    def can_stack(self) -> bool:
        """Whether the rows of all data sets can be made together: one grouping factor, and a response of which nothing
        is learnt."""
        d = self.design
        grouping = d.spec.groupings[0].exprs
        learnt = any(learns(e, self.names) for e in (self.terms.response, *self.terms.offsets, *grouping))
        placed = any(t.inputs is not None for t in d.terms)  # positions of each table's own
        return len(d.factors) == 1 and not learnt and not placed

    def build(self, data: Any) -> Design:
        """The design of one table, as a single fit has it."""
        if self.order:
            columns = stack([data], self.names, 0)[0]
            data = {**columns, **{name: arranged(columns[name], x) for name, x in self.order.items()}}
        return _build(self.terms, data, self.family, self.weights, self.offset, self.contrasts)

    def levels(self, data: Any) -> list[int]:
        """Of one table, of each grouping factor how many occur in the rows that are used."""
        rows = _Rows(self, *stack([data], self.names, 0), 0)
        used = rows.used(rows.weights)
        if not used.any():
            return [0 for _ in self.design.spec.groupings]
        frame = Frame(rows.table, used, "")
        return [len(fit_grouping(g.name, g.exprs, frame)[0].keys) for g in self.design.spec.groupings]

    def rows(self, tables: Sequence[Any], first: int) -> Stacked:
        """Of the data sets first, first + 1, ..

        Raises:
            DataError: a table without one of the columns; a level of a factor in X that the design has not.
        """
        whole, sizes = stack(tables, self.names, first)
        for name, x in whole.items():
            if is_numeric(x) != (name in self.numeric) and not x.isna().all():
                was, now = ("numbers", "others") if name in self.numeric else ("no numbers", "numbers")
                raise DataError(
                    f"column {name!r} holds {was} in the first data sets and {now} among the data sets {first} to "
                    f"{first + len(tables) - 1}: give all the same kind, by pandas.to_numeric or astype(str)"
                )
        return _Rows(self, whole, sizes, first).stacked()


def stacker(
    terms: Terms,
    tables: Sequence[Any],
    further: Any,
    family: Family | None,
    weights: str | None,
    offset: str | None,
    contrasts: Mapping[str, str] | None,
) -> Stacker:
    """From the first tables, whose levels all others must have.

    Raises:
        DataError: none of them can be used; the message is that of a single fit to the first.
    """
    names = _names(terms, tables[0], weights, offset)

    def design_of(table: Any) -> Design:
        return _build(terms, table, family, weights, offset, contrasts, further)

    whole, sizes = stack(tables, names, 0)
    numeric = frozenset(name for name, x in whole.items() if is_numeric(x))
    of_matrices = [n for n in names if n in _of_matrices(terms, names)]
    order = common_first(whole, of_matrices, sizes)
    try:
        design = design_of(_in_order(whole, order))
    except DataError as error:
        says = [_problem(lambda t=t: design_of(stack([t], names, 0)[0])) for t in tables]
        used = [t for t, problem in zip(tables, says, strict=True) if problem is None]
        if not used and len(tables) > 1:
            raise DataError(f"none of the first {len(tables)} data sets can be used; data set 0: {says[0]}") from error
        if not used:
            raise
        whole, sizes = stack(used, names, 0)
        order = common_first(whole, of_matrices, sizes)
        design = design_of(_in_order(whole, order))
    value = None
    if design.success is not None:
        value = evaluate(terms.response, Frame(Table(whole), None, ""), {}, fitting=True).used()
    levels = None if value is None else tuple(map(str, value.labels))
    return Stacker(terms, design, names, numeric, family, weights, offset, contrasts, levels, order)  # pyright: ignore


def _of_matrices(terms: Terms, names: tuple[str, ...]) -> set[str]:
    """The columns of the table that stand in X or Z."""
    said = {*_syntax.names(terms.fixed), *(n for b in terms.bars for n in _syntax.names(_syntax.read(b.left)))}
    return set(names) - {*_syntax.names(terms.response)} if "." in said else said


def _in_order(columns: dict[str, pd.Series], order: Mapping[str, np.ndarray]) -> dict[str, pd.Series]:
    return {**columns, **{name: arranged(columns[name], labels) for name, labels in order.items()}}


def _build(
    terms: Terms, data: Any, family: Any, weights: Any, offset: Any, contrasts: Any, further: Any = None
) -> Design:
    return build(
        terms, data, further=further, family=family, weights=weights, offset=offset, contrasts=contrasts
    )  # fmt: skip


def _problem(make: Callable[[], Any]) -> DataError | None:
    """What is wrong with it, None where it can be made."""
    try:
        make()
    except DataError as error:
        return error
    return None


def _names(terms: Terms, table: Any, weights: str | None, offset: str | None) -> tuple[str, ...]:
    """The columns of the table that the formula names, all of them where it has a '.'."""
    has = columns_of(table)
    said = [*_syntax.names(terms.response), *_syntax.names(terms.fixed)]
    said += [n for e in terms.offsets for n in _syntax.names(e)]
    said += [n for b in terms.bars for e in (b.left, *b.group) for n in _syntax.names(_syntax.read(e))]
    said += [n for n in (weights, offset) if n is not None]
    return tuple(has) if "." in said else tuple(n for n in dict.fromkeys(said) if n in has)


class _Some(Mapping):
    """Rows of one data set, of the columns that a transform learns from."""

    def __init__(self, frame: Frame, at: slice):
        self.frame, self.at = frame, at

    def __getitem__(self, name: str) -> Any:
        value = self.frame[name]
        return replace(value, codes=value.codes[self.at]) if isinstance(value, Levels) else value[self.at]

    def levels(self, name: str) -> Levels:
        value = self.frame.levels(name)
        return replace(value, codes=value.codes[self.at])

    def __contains__(self, name: object) -> bool:
        return name in self.frame

    def __iter__(self) -> Iterator[str]:
        return iter(self.frame)

    def __len__(self) -> int:
        return len(self.frame)


class _Rows:
    """One evaluation: of the stacked ``table``, data sets of ``sizes`` (D,) rows."""

    def __init__(self, by: Stacker, whole: dict[str, pd.Series], sizes: np.ndarray, first: int):
        self.by, self.first, self.spec = by, first, by.design.spec
        self.table, self.sizes = Table(whole), sizes
        self.n = int(sizes.sum())
        self.frame = Frame(self.table, None, "")
        self.stops = np.cumsum(sizes)
        self.dataset = np.repeat(np.arange(len(sizes)), sizes)
        self.bad = np.zeros(len(sizes), bool)

    @property
    def weights(self) -> np.ndarray | None:
        by = self.by.weights
        return None if by is None else np.asarray(self.table.column(by).numbers, float)

    def used(self, weights: np.ndarray | None) -> np.ndarray:
        """The rows that count; data sets with a weight that is none are ``bad`` then."""
        used = self._complete()
        if weights is not None:
            self._refuse(used & ~(np.isfinite(weights) & (weights >= 0)))
            used &= weights > 0
        some = any_trial(self.by.terms.response, self.frame, self.n)
        return used if some is None else used & some

    def stacked(self) -> Stacked:
        spec, weights = self.spec, self.weights
        used = self.used(weights)
        y, trials, weights = self._response(weights, used)
        matrices = [spec.matrix, *spec.bars]
        columns = [spec.kept_columns, *(np.arange(len(m.columns)) for m in spec.bars)]
        values = [[self._coded(v, self._variable(v), used) for v in m.variables] for m in matrices]
        X, *Z = (self._filled(m, v)[:, at] for m, v, at in zip(matrices, values, columns, strict=True))
        D, dataset = len(self.sizes), self.dataset
        lost = [empty_columns(m, x, at, used, dataset, D) for m, x, at in zip(matrices, [X, *Z], columns, strict=True)]
        aliased = [means_another(m, v, used, dataset, D) for m, v in zip(matrices, values, strict=True)]
        offset = self._offset()
        for x in (X, *Z, *(() if offset is None else (offset[:, None],))):
            self._refuse(used & ~np.isfinite(x).all(axis=1))
        rows = {"y": y, "X": X, "weights": weights, "offset": offset, "trials": trials}
        rows = {name: None if x is None else x[used] for name, x in rows.items()}
        codes = np.zeros(0, np.int32)
        if used.any():
            grouping = spec.groupings[0]
            codes = fit_grouping(grouping.name, grouping.exprs, Frame(self.table, used, ""))[1]
        return sorted_rows(
            rows, [z[used] for z in Z], dataset[used], codes, self.bad, np.hstack(lost), np.any(aliased, axis=0)
        )

    def _refuse(self, rows: np.ndarray) -> None:
        self.bad[self.dataset[rows]] = True

    def _complete(self) -> np.ndarray:
        """The rows in which nothing is missing."""
        by, spec = self.by, self.spec
        bars = [v.expr for m in spec.bars for v in m.variables]
        parts: Any = [_Part([v.expr for v in spec.matrix.variables]), _Part(bars)]
        groups = [g.exprs for g in spec.groupings]
        sources = model_columns(by.terms.response, self.table, parts, list(spec.offsets), groups, by.weights, by.offset)
        used = np.ones(self.n, bool)
        for column in sources:
            if column.missing is not None:
                used &= ~column.missing
        return used

    def _response(self, weights: Any, used: np.ndarray) -> tuple[np.ndarray, Any, Any]:
        by, d = self.by, self.by.design
        of_trials = d.trials is not None and d.weights is None and by.weights is not None
        if of_trials:
            share = np.asarray(as_number(self.frame_value(by.terms.response), str(by.terms.response)), float)
            trials, weights = np.round(weights), None
            y = share * trials
            whole = np.abs(y - np.round(y)) <= 1e-6 * np.maximum(1.0, trials)
            self._refuse(used & ~whole)
            y = np.round(y)
        else:
            fitted = Response(d.y, d.trials, by.of_levels)
            memory = dict(self.spec.memory)
            y, trials = other_rows(by.terms.response, self.frame, memory, by.family, fitted, self.n)
            trials = trials if d.trials is not None else None
        y = np.asarray(y, float)
        good = np.isfinite(y)
        if by.family is not None:
            with np.errstate(invalid="ignore"):
                good = good & np.asarray(by.family.valid(np.where(good, y, 0.0)))
                good = good & (y <= (np.inf if trials is None else trials))
        self._refuse(used & ~good)
        return y, trials, weights

    def frame_value(self, expr: Any) -> Any:
        return evaluate(expr, self.frame, dict(self.spec.memory), fitting=False)

    def _offset(self) -> np.ndarray | None:
        exprs, argument = self.spec.offsets, self.by.offset
        if not exprs and argument is None:
            return None
        total = np.zeros(self.n)
        with np.errstate(all="ignore"):
            for e in exprs:
                total = total + np.asarray(as_number(self.frame_value(e), f"offset({e})"), float)
        return total if argument is None else total + self.table.column(argument).numbers

    # ------------------------------------------------------------ the columns of X and Z
    def _filled(self, matrix: Any, values: list[Any]) -> np.ndarray:
        with np.errstate(all="ignore"):
            return matrix.filled(values, self.n)

    def _variable(self, v: Any) -> Any:
        if not learns(v.expr, self.by.names):
            return self.frame_value(v.expr)
        starts = self.stops - self.sizes
        return _joined([self._learnt(v, slice(a, b)) for a, b in zip(starts, self.stops, strict=True)], self.sizes)

    def _learnt(self, v: Any, at: slice) -> Any:
        """Of one data set, with what its own column teaches; None where nothing can be learnt."""
        try:
            return evaluate(v.expr, _Some(self.frame, at), dict(self.spec.memory), fitting=True, anew=self.by.names)
        except (DataError, ValueError, np.linalg.LinAlgError):
            return None

    def _coded(self, v: Any, value: Any, used: np.ndarray) -> Any:
        if v.labels is None:
            return as_number(value, f"'{v.expr}'") if isinstance(value, Levels) else value
        coded = recoded(v, value, "nan")
        lost = used & (coded.codes < 0)
        if isinstance(value, Levels):
            lost &= value.codes >= 0
        if lost.any():
            i = int(np.argmax(lost))
            what = str(value.labels[value.codes[i]]) if isinstance(value, Levels) else f"{np.asarray(value)[i]:g}"
            known = ", ".join(repr(str(x)) for x in v.labels[:10]) + (", ..." if len(v.labels) > 10 else "")
            raise DataError(
                f"'{v.expr}' holds {what!r} in data set {self.first + self.dataset[i]}, which the first data sets have "
                f"not: their levels are {known}; make the column categorical, with the same levels in all data sets"
            )
        return coded


class _Part(NamedTuple):
    """As ``terms.TermList`` for who asks for its variables alone."""

    variables: list[Any]


def _joined(values: list[Any], sizes: np.ndarray) -> Any:
    """The values of data sets one after another, NaN where there are none."""
    there = [v for v in values if v is not None]
    if not there:
        raise DataError("no data set has values of which the transforms in the formula can be made")
    if isinstance(there[0], Levels):
        none = [np.full(n, -1, np.int32) for n in sizes]
        return replace(
            there[0], codes=np.concatenate([x if v is None else v.codes for v, x in zip(values, none, strict=True)])
        )
    if isinstance(there[0], Matrix):
        k = there[0].values.shape[1]
        parts = [np.full((n, k), np.nan) if v is None else v.values for v, n in zip(values, sizes, strict=True)]
        return replace(there[0], values=np.concatenate(parts))
    return np.concatenate(
        [np.full(n, np.nan) if v is None else np.asarray(v) for v, n in zip(values, sizes, strict=True)]
    )
