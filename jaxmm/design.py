"""Terms + a table -> Design: the arrays of a mixed model, and what is needed to make them for new rows.

    y (n,), X (n, p), per random-effects term Z (n, q) with the codes of its grouping factor, weights, offset

The n rows are those with nothing missing in any column of the model, and with a weight above zero; levels,
contrasts, knots and centres come from these rows alone. Z is never expanded over levels: the row i of a term
touches the q effects of level `codes[i]`. Columns, names and their order are those of R's `model.matrix`;
aliased columns of X are dropped as R's `qr` drops them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from . import _syntax, _terms
from ._columns import DataError, Table
from ._grouping import Grouping, fit_grouping
from ._inputs import (
    Frame,
    check_contrasts,
    complete_rows,
    counted_rows,
    dot_columns,
    model_columns,
    row_values,
    row_weights,
)
from ._modelmatrix import ModelMatrix, check_finite, fit_matrix, independent_columns
from ._syntax import Call, Expr
from ._transforms import Matrix, as_number, evaluate
from .formula import Terms

__all__ = ["DataError", "Design", "Factor", "NewData", "RandomTerm", "build", "check_lmm"]


@dataclass(frozen=True)
class Factor:
    """A grouping factor: `levels` (J,) texts, `codes` (n,) int32 into them."""

    name: str
    levels: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True)
class RandomTerm:
    """One bar: `factor` is an index into `Design.factors`, `effects` the names of the q columns of Z (n,
    q).
    """

    factor: int
    effects: tuple[str, ...]
    Z: np.ndarray
    kind: str


@dataclass(frozen=True)
class NewData:
    """A design evaluated on m other rows.

    X (m, p), NaN in a row with a missing value; Z (m, q) per term; codes (m,) int32 per factor: J + k for
    the k-th level of `new_levels`, which the fit has not seen; -1 for a missing one, and for a factor that was
    not asked for (its terms' Z is zero then); offset (m,), zero without offsets.
    """

    X: np.ndarray
    Z: tuple[np.ndarray, ...]
    codes: tuple[np.ndarray, ...]
    offset: np.ndarray
    index: pd.Index
    new_levels: dict[str, list[str]]


@dataclass(frozen=True)
class Spec:
    """What the fit remembers for new rows."""

    matrix: ModelMatrix
    kept_columns: np.ndarray
    offsets: tuple[Expr, ...]
    offset_column: str | None
    offset_array: bool
    bars: tuple[ModelMatrix, ...]
    groupings: tuple[Grouping, ...]
    memory: dict[str, Any]


@dataclass(frozen=True)
class Design:
    """The arrays of a model on its n rows; see the fields' shapes.

    y (n,) float64; X (n, p) with the names `columns`, the aliased ones named in `dropped`; `factors` and
    `terms` as in the formula; weights (n,) above zero or None; offset (n,) or None. `index` labels every row
    used, also those of weight zero, and `kept` is True where a row counts: y, X and the codes are the rows
    `index[kept]`. `y_all` and `weights_all` run over `index`; `held_out` is the design of the rows of weight
    zero, or None. `n_missing` rows went because of a missing value.
    """

    formula: str
    response: str
    y: np.ndarray
    X: np.ndarray
    columns: tuple[str, ...]
    dropped: tuple[str, ...]
    factors: tuple[Factor, ...]
    terms: tuple[RandomTerm, ...]
    weights: np.ndarray | None
    offset: np.ndarray | None
    index: pd.Index
    kept: np.ndarray
    held_out: NewData | None
    n_missing: int
    y_all: np.ndarray
    weights_all: np.ndarray | None
    spec: Spec

    def evaluate(self, newdata: Any, *, offset: Any = None, need_groups: bool | Collection[str] = True) -> NewData:
        """The design on other rows: the fit's levels, contrasts, knots and centres.

        Args:
            newdata: a table of any accepted kind; response and weights are not needed.
            offset: stands in for the `offset` argument of the fit: a column's name, an array or a number.
            need_groups: whether the grouping factors are needed, or the names of those that are.

        Raises:
            DataError: a missing column, a level of a fixed-effects factor that the fit has not seen.
        """
        table = Table(newdata)
        spec = self.spec
        needed = self._needed(need_groups)
        frame = Frame(table, None, " in the new data")
        n = len(table)
        X = spec.matrix.rows(frame, n, spec.memory)[:, spec.kept_columns]
        total = _formula_offset(spec, frame, n)
        if offset is None and spec.offset_column is not None:
            offset = spec.offset_column
        if offset is None and spec.offset_array:
            raise DataError("the fit had an offset given as an array: pass offset= for the new rows (0 for none)")
        if offset is not None:
            total = total + _new_offset(offset, frame, n)
        return _new_data(self, frame, X, total, table.index, needed)

    def _needed(self, need_groups: bool | Collection[str]) -> set[str]:
        names = [f.name for f in self.factors]
        if isinstance(need_groups, bool):
            return set(names) if need_groups else set()
        unknown = [g for g in need_groups if g not in names]
        if unknown:
            raise DataError(f"there is no grouping factor {unknown[0]!r}; the model has {', '.join(map(repr, names))}")
        return set(need_groups)


def build(
    terms: Terms,
    data: Any,
    *,
    weights: Any = None,
    offset: Any = None,
    contrasts: Mapping[str, str] | None = None,
    missing: Literal["drop", "raise"] = "drop",
) -> Design:
    """The design of a formula on a table.

    Args:
        terms: from `formula.parse`.
        data: a pandas, polars or pyarrow table, or a mapping of columns. Only the model's columns are looked
        at. weights, offset: a column's name, or an array (N,) over the rows of `data`.
        contrasts: column -> "treatment", "sum", "helmert" or "poly"; they hold in X and in Z.
        missing: what to do with a missing value in a column of the model.

    Raises:
        DataError: the data cannot be used; the message names column, row and remedy.
        FormulaError: the formula has no bar, or '.' where no column is left.
    """
    if missing not in ("drop", "raise"):
        raise DataError(f"missing must be 'drop' or 'raise', not {missing!r}")
    if not terms.bars:
        raise DataError(
            f"'{terms.text}' has no random-effects term: add one such as (1 | group); "
            "for an ordinary regression use statsmodels OLS"
        )
    if isinstance(terms.response, Call) and terms.response.func == "cbind":
        raise DataError(
            f"'{terms.response}' is the response of a binomial model, not for a linear mixed model; "
            "generalised models are not available yet"
        )
    table = Table(data)
    if len(table) == 0:
        raise DataError("the table has no rows")
    fixed = _terms.expand(terms.fixed, dot=dot_columns(terms, table, weights, offset), text=terms.text)
    left = [_terms.expand(_syntax.read(b.left), text=terms.text) for b in terms.bars]
    for part in (fixed, *left):
        if any(str(v) == str(terms.response) for v in part.variables):
            raise DataError(f"the response '{terms.response}' stands on the right of '~' too: leave it out there")
    group_exprs = [tuple(_syntax.read(g) for g in b.group) for b in terms.bars]
    coding = check_contrasts(contrasts, [fixed, *left], table)

    sources = model_columns(terms, table, fixed, left, group_exprs, weights, offset)
    used = complete_rows(sources, len(table), missing)
    weight_values = row_weights(weights, table, used)
    index = table.index if used is None else table.index[used]
    kept = np.ones(len(index), dtype=bool) if weight_values is None else weight_values > 0
    if not kept.any():
        raise DataError("all weights are zero: no row is left")
    rows = counted_rows(used, kept, len(table))
    labels = index if kept.all() else index[kept]
    n = len(labels)
    frame = Frame(table, rows, "")

    memory: dict[str, Any] = {}
    response = str(terms.response)
    y = _response(evaluate(terms.response, frame, memory, fitting=True), terms.response, n)
    check_finite(y, response, labels)
    X, matrix = fit_matrix(fixed, frame, n, memory, coding, labels)
    kept_columns = independent_columns(X)
    names = np.array(matrix.columns, dtype=object)
    dropped = tuple(np.delete(names, kept_columns))
    if len(kept_columns) >= n:
        raise DataError(
            f"X has {X.shape[1]} columns and the data have {n} rows: there is nothing left to estimate the "
            f"residual variance from; {_widest(matrix)}use fewer terms or more rows"
        )
    if dropped:
        X = np.ascontiguousarray(X[:, kept_columns])

    factors, groupings, random, bars = _random(terms, left, group_exprs, frame, n, memory, coding, labels)
    all_offset = _offset(terms.offsets, offset, table, frame, rows, memory, labels)
    spec = Spec(
        matrix=matrix,
        kept_columns=kept_columns,
        offsets=terms.offsets,
        offset_column=offset if isinstance(offset, str) else None,
        offset_array=offset is not None and not isinstance(offset, str),
        bars=bars,
        groupings=groupings,
        memory=memory,
    )
    design = Design(
        formula=terms.text,
        response=response,
        y=y,
        X=X,
        columns=tuple(names[kept_columns]),
        dropped=dropped,
        factors=factors,
        terms=random,
        weights=None if weight_values is None else weight_values[kept],
        offset=all_offset,
        index=index,
        kept=kept,
        held_out=None,
        n_missing=len(table) - len(index),
        y_all=y,
        weights_all=weight_values,
        spec=spec,
    )
    return design if kept.all() else _with_held_out(design, terms, table, used, offset)


def check_lmm(design: Design) -> None:
    """What a linear mixed model needs beyond a design; raises DataError as lme4 does.

    Each grouping factor has two levels or more and fewer levels than there are rows; an unstructured term has
    fewer random effects (levels × effects) than rows; the response varies.
    """
    n = len(design.y)
    seen: set[tuple[int, str]] = set()
    for term in design.terms:
        for effect in term.effects:
            if (term.factor, effect) in seen:
                raise DataError(
                    f"two terms give the grouping factor '{design.factors[term.factor].name}' the same effect "
                    f"{effect!r}: their variances cannot be told apart; write it in one term only (0 + x leaves the "
                    "intercept out)"
                )
            seen.add((term.factor, effect))
    if np.ptp(design.y) == 0:
        raise DataError(
            f"the response '{design.response}' is constant ({_syntax.number_text(float(design.y[0]))} in "
            "every row): there is nothing to explain"
        )
    for term in design.terms:
        factor = design.factors[term.factor]
        for effect, column in zip(term.effects, term.Z.T, strict=True):
            if not column.any():
                raise DataError(
                    f"the effect {effect!r} of ({' + '.join(term.effects)} | {factor.name}) is zero in every row: its "
                    "variance cannot be estimated; leave it out"
                )
        J, q = len(factor.levels), len(term.effects)
        if J < 2:
            raise DataError(
                f"the grouping factor '{factor.name}' has the one level {str(factor.levels[0])!r}: its "
                "variance cannot be estimated; leave the term out"
            )
        if J >= n:
            raise DataError(
                f"the grouping factor '{factor.name}' has {J} levels and the data have {n} rows: the number "
                "of levels must be below the number of observations, or the random effects cannot be "
                "told from the residuals; group by something coarser"
            )
        if term.kind == "us" and J * q >= n:
            some = [*term.effects[:4], "..."] if q > 5 else term.effects
            shown = f"({' + '.join(some)} | {factor.name})"
            raise DataError(
                f"the term {shown} has {J} levels × {q} effects = {J * q} random effects and the data have "
                f"{n} rows: they cannot be told from the residuals; use fewer effects, such as "
                f"(1 | {factor.name})"
            )


def _widest(matrix: ModelMatrix) -> str:
    """A word about a factor of many levels: mostly it is numbers that were read as text."""
    wide = max(matrix.variables, key=lambda v: 0 if v.labels is None else len(v.labels), default=None)
    if wide is None or wide.labels is None or len(wide.labels) < 10:
        return ""
    return (
        f"'{wide.expr}' is a factor of {len(wide.labels)} levels (such as {str(wide.labels[0])!r}): if these are "
        "numbers, convert the column (pandas.to_numeric), or let it be a grouping factor; else "
    )


def _response(value: Any, expr: Expr, n: int) -> np.ndarray:
    """(n,) numbers; a logical counts 0 and 1."""
    if isinstance(value, Matrix):
        raise DataError(f"the response '{expr}' has several columns")
    y = as_number(value, f"the response '{expr}'")
    if np.shape(y) != (n,):
        raise DataError(f"the response '{expr}' is not a column")
    return np.array(y, dtype=np.float64)


def _random(
    terms: Terms,
    left: list[_terms.TermList],
    group_exprs: list[tuple[Expr, ...]],
    frame: Frame,
    n: int,
    memory: dict[str, Any],
    coding: dict[str, str],
    labels: pd.Index,
) -> tuple:
    """Factors and terms of the bars; bars over the same columns share one factor."""
    places: dict[tuple[str, ...], int] = {}
    factors, groupings, random, bars = [], [], [], []
    for bar, part, exprs in zip(terms.bars, left, group_exprs, strict=True):
        if bar.group not in places:
            places[bar.group] = len(factors)
            grouping, codes = fit_grouping(bar.name, exprs, frame)
            groupings.append(grouping)
            factors.append(Factor(bar.name, grouping.labels, codes))
        Z, matrix = fit_matrix(part, frame, n, memory, coding, labels)
        bars.append(matrix)
        random.append(RandomTerm(places[bar.group], matrix.columns, Z, bar.kind))
    return tuple(factors), tuple(groupings), tuple(random), tuple(bars)


def _offset(
    exprs: tuple[Expr, ...],
    argument: Any,
    table: Table,
    frame: Frame,
    rows: np.ndarray | None,
    memory: dict[str, Any],
    labels: pd.Index,
) -> np.ndarray | None:
    """(n,) the sum of the formula's offsets and the argument; None where there is neither."""
    parts = []
    for expr in exprs:
        value = np.asarray(as_number(evaluate(expr, frame, memory, fitting=True), f"offset({expr})"), dtype=float)
        value = np.broadcast_to(value, (len(labels),))
        check_finite(value, f"offset({expr})", labels)
        parts.append(value)
    if argument is not None:
        if isinstance(argument, str):
            array = table.column(argument).numbers
        else:
            array = row_values(argument, "offset", table)
        array = array if rows is None else array[rows]
        check_finite(array, argument if isinstance(argument, str) else "offset", labels)
        parts.append(array)
    return np.sum(parts, axis=0) if parts else None


def _formula_offset(spec: Spec, frame: Frame, n: int) -> np.ndarray:
    total = np.zeros(n)
    for expr in spec.offsets:
        total = total + np.asarray(as_number(evaluate(expr, frame, spec.memory, fitting=False), f"offset({expr})"))
    return total


def _new_offset(offset: Any, frame: Frame, n: int) -> np.ndarray:
    if isinstance(offset, str):
        numbers = frame.table.column(offset, frame.where).numbers
        return numbers if frame.rows is None else numbers[frame.rows]
    if np.ndim(offset) == 0:
        return np.full(n, float(offset))
    return row_values(offset, "offset", frame.table)


def _new_data(
    design: Design,
    frame: Frame,
    X: np.ndarray,
    offset: np.ndarray,
    index: pd.Index,
    needed: set[str],
    unseen: str = "error",
) -> NewData:
    spec = design.spec
    n = len(index)
    codes, new_levels = [], {}
    gone = np.zeros(n, dtype=bool)
    for factor, grouping in zip(design.factors, spec.groupings, strict=True):
        if factor.name not in needed:
            codes.append(np.full(n, -1, dtype=np.int32))
            continue
        own, unknown, missing = grouping.rows(frame)
        codes.append(own)
        gone |= missing
        if unknown:
            new_levels[factor.name] = unknown
    if gone.any():
        X = np.where(gone[:, None], np.nan, X)
    Z = tuple(
        matrix.rows(frame, n, spec.memory, unseen=unseen)
        if design.factors[term.factor].name in needed
        else np.zeros((n, len(term.effects)))
        for term, matrix in zip(design.terms, spec.bars, strict=True)
    )
    return NewData(X, Z, tuple(codes), offset, index, new_levels)


def _with_held_out(design: Design, terms: Terms, table: Table, used: np.ndarray | None, offset: Any) -> Design:
    """The same design with its rows of weight zero evaluated: they still get a fitted value."""
    spec = design.spec
    out = ~design.kept
    rows = np.flatnonzero(used)[out] if used is not None else np.flatnonzero(out)
    frame = Frame(table, rows, "")
    index = design.index[out]
    n = len(index)
    X = spec.matrix.rows(frame, n, spec.memory, unseen="nan")[:, spec.kept_columns]
    total = _formula_offset(spec, frame, n)
    if isinstance(offset, str):
        total = total + table.column(offset).numbers[rows]
    elif offset is not None:
        total = total + row_values(offset, "offset", table)[rows]
    new = _new_data(design, frame, X, total, index, {f.name for f in design.factors}, "nan")
    y_all = np.empty(len(design.index))
    y_all[design.kept] = design.y
    y_all[out] = _response(evaluate(terms.response, frame, spec.memory, fitting=False), terms.response, n)
    return replace(design, held_out=new, y_all=y_all)
