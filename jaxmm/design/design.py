"""Terms + a table -> Design: the arrays of a mixed model, and what is needed to make them for new rows.

    y (n,), trials (n,), X (n, p), per random-effects term Z (n, q) with the codes of its grouping factor,
    weights (n,), offset (n,)

The n rows are those with nothing missing in any column of the model, with a weight above zero and, where there are
trials, with a trial; levels and contrasts come from these rows alone, knots, centres and polynomials from all rows in
which their own columns are there. Z is never expanded over
levels: the row i of a term touches the q effects of level `codes[i]`. Columns, names and their order are those of R's
`model.matrix`; aliased columns of X are dropped as R's `qr` drops them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from jaxmm.design import syntax as _syntax
from jaxmm.design import terms as _terms
from jaxmm.design.columns import DataError, Table
from jaxmm.design.formula import Terms
from jaxmm.design.grouping import Grouping
from jaxmm.design.inputs import (
    Frame,
    argument_offset,
    check_contrasts,
    complete_rows,
    counted_rows,
    dot_columns,
    formula_offset,
    model_columns,
    new_offset,
    row_offset,
    row_weights,
)
from jaxmm.design.modelmatrix import ModelMatrix, fit_matrix, independent_columns
from jaxmm.design.predictor import MEAN, Bars, Factor, Predictor, RandomTerm, constant, fit_predictor
from jaxmm.design.remarks import remarks
from jaxmm.design.response import Response, any_trial, check_spelling, other_rows, read_response
from jaxmm.design.syntax import Expr, FormulaError
from jaxmm.families import Family

__all__ = ["DataError", "Design", "Factor", "NewData", "RandomTerm", "build"]


@dataclass(frozen=True)
class NewData:
    """A design evaluated on m other rows.

    X (m, p), NaN in a row with a missing value; Z (m, q) per term; codes (m,) int32 per factor: J + k for
    the k-th level of `new_levels`, which the fit has not seen; -1 for a missing one, and for a factor that was
    not asked for (its terms' Z is zero then); offset (m,), zero without offsets; of each further predictor X and its
    offset.
    """

    X: np.ndarray
    Z: tuple[np.ndarray, ...]
    codes: tuple[np.ndarray, ...]
    offset: np.ndarray
    index: pd.Index
    new_levels: dict[str, list[str]]
    further: tuple[tuple[np.ndarray, np.ndarray], ...] = ()


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

    y (n,) float64, the count of successes where there are trials (n,), else trials is None; `success` is the level
    of a factor that counts as success. X (n, p) with the names `columns`, the aliased ones named in `dropped`;
    `factors` and `terms` as in the formula; weights (n,) above zero or None; offset (n,) or None. `index` labels
    every row used, also those of weight zero or without trials, and `kept` is True where a row counts: y, X and the
    codes are the rows `index[kept]`. `y_all`, `trials_all` and `weights_all` run over `index`; `held_out` is the
    design of the rows that do not count, or None. `n_missing` rows went because of a missing value. `remarks`: what
    the columns' user may not know of them, a sentence each. `further`: predictors of parameters after the mean; X,
    columns and offset are the mean's.
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
    trials: np.ndarray | None = None
    trials_all: np.ndarray | None = None
    success: str | None = None
    remarks: tuple[str, ...] = ()
    further: tuple[Predictor, ...] = ()

    @property
    def predictors(self) -> dict[str, slice]:
        """Which of all coefficients each parameter's predictor has, the mean's first."""
        sizes = {MEAN: len(self.columns), **{p.name: len(p.columns) for p in self.further}}
        ends = np.cumsum(list(sizes.values())).tolist()
        return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}

    @property
    def coefficients(self) -> tuple[str, ...]:
        """The names of all coefficients: "x" of the mean, "zi~x" of the zeros."""
        return (*self.columns, *(f"{p.name}~{column}" for p in self.further for column in p.columns))

    @property
    def observed(self) -> np.ndarray:
        """The response over `index` as fitted values are: proportions where there are trials, NaN for 0 of 0."""
        if self.trials_all is None:
            return self.y_all
        with np.errstate(invalid="ignore"):
            return self.y_all / self.trials_all

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
        total = formula_offset(spec.offsets, frame, spec.memory, n)
        if offset is None and spec.offset_column is not None:
            offset = spec.offset_column
        if offset is None and spec.offset_array:
            raise DataError("the fit had an offset given as an array: pass offset= for the new rows (0 for none)")
        if offset is not None:
            total = total + new_offset(offset, frame, n)
        further = tuple(p.rows(frame, n, spec.memory) for p in self.further)
        return _new_data(self, frame, X, total, further, table.index, needed)

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
    further: Mapping[str, Terms | None] | None = None,
    family: Family | None = None,
    weights: Any = None,
    offset: Any = None,
    contrasts: Mapping[str, str] | None = None,
    missing: Literal["drop", "raise"] = "drop",
) -> Design:
    """The design of a formula on a table.

    Args:
        terms: from `formula.parse`.
        further: parameters after the mean that have a predictor: their formulas, None for "~ 1".
        data: a pandas, polars or pyarrow table, or a mapping of columns. Only the model's columns are looked
        at.
        family: what the response must be; None for a linear mixed model, which takes any numbers.
        weights, offset: a column's name, or an array (N,) over the rows of `data`. The weights of a proportion are
        its trials.
        contrasts: column -> "treatment", "sum", "helmert" or "poly"; they hold in X and in Z.
        missing: what to do with a missing value in a column of the model.

    Raises:
        DataError: the data cannot be used; the message names column, row and remedy.
        FormulaError: the formula has no bar, or '.' where no column is left.
    """
    if missing not in ("drop", "raise"):
        raise DataError(f"missing must be 'drop' or 'raise', not {missing!r}")
    further = further or {}
    written = {name: part for name, part in further.items() if part is not None}
    if not terms.bars and not any(part.bars for part in written.values()):
        raise DataError(
            f"'{terms.text}' has no random-effects term: add one such as (1 | group); "
            "for an ordinary regression use statsmodels"
        )
    check_spelling(terms.response, family)
    table = Table(data)
    if len(table) == 0:
        raise DataError("the table has no rows")
    fixed = {MEAN: _terms.expand(terms.fixed, dot=dot_columns(terms, table, weights, offset), text=terms.text)}
    fixed |= {name: _expanded(part) for name, part in written.items()}
    bars = [(name, part.text, b) for name, part in {MEAN: terms, **written}.items() for b in part.bars]
    left = [_terms.expand(_syntax.read(b.left), text=text) for _, text, b in bars]
    parts = [*fixed.values(), *left]
    for part in parts:
        if any(str(v) == str(terms.response) for v in part.variables):
            raise DataError(f"the response '{terms.response}' stands on the right of '~' too: leave it out there")
    group_exprs = [tuple(_syntax.read(g) for g in b.group) for _, _, b in bars]
    coding = check_contrasts(contrasts, parts, table)

    offsets = [expr for part in (terms, *written.values()) for expr in part.offsets]
    sources = model_columns(terms.response, table, parts, offsets, group_exprs, weights, offset)
    used = complete_rows(sources, len(table), missing)
    weight_values = row_weights(weights, table, used)
    index = table.index if used is None else table.index[used]
    kept = np.ones(len(index), dtype=bool) if weight_values is None else weight_values > 0
    if not kept.any():
        raise DataError("all weights are zero: no row is left")
    some = any_trial(terms.response, Frame(table, used, ""), len(index))
    if some is not None:
        kept = kept & some
        if not kept.any():
            raise DataError(f"no row has a trial: '{terms.response}' is zero of zero in each that counts")
    rows = counted_rows(used, kept, len(table))
    labels = index if kept.all() else index[kept]
    n = len(labels)
    frame = Frame(table, rows, "")

    memory: dict[str, Any] = {}
    response = read_response(
        terms.response, frame, memory, family, None if weight_values is None else weight_values[kept], labels
    )
    if response.weights_are_trials:
        weight_values = None
    X, matrix = fit_matrix(fixed[MEAN], frame, n, memory, coding, labels)
    kept_columns = independent_columns(X)
    names = np.array(matrix.columns, dtype=object)
    dropped = tuple(np.delete(names, kept_columns))
    if len(kept_columns) >= n:
        raise DataError(
            f"X has {X.shape[1]} columns and the data have {n} rows: there is nothing left to estimate "
            f"{'the residual variance' if family is None else 'a variance'} from; {_widest(matrix)}use fewer terms or "
            "more rows"
        )
    if dropped:
        X = np.ascontiguousarray(X[:, kept_columns])

    others = tuple(
        constant(name, n) if part is None else fit_predictor(name, part, fixed[name], frame, memory, coding, labels)
        for name, part in further.items()
    )
    random = Bars.none()
    for (name, _, bar), part, exprs in zip(bars, left, group_exprs, strict=True):
        random.add(bar, part, exprs, name, frame, memory, coding, labels)
    spec = Spec(
        matrix=matrix,
        kept_columns=kept_columns,
        offsets=terms.offsets,
        offset_column=offset if isinstance(offset, str) else None,
        offset_array=offset is not None and not isinstance(offset, str),
        bars=tuple(random.matrices),
        groupings=tuple(random.groupings),
        memory=memory,
    )
    design = Design(
        formula=terms.text,
        response=str(terms.response),
        y=response.y,
        X=X,
        columns=tuple(names[kept_columns]),
        dropped=dropped,
        factors=tuple(random.factors),
        terms=tuple(random.terms),
        weights=None if weight_values is None else weight_values[kept],
        offset=row_offset(terms.offsets, offset, frame, memory, labels),
        index=index,
        kept=kept,
        held_out=None,
        n_missing=len(table) - len(index),
        y_all=response.y,
        weights_all=weight_values,
        spec=spec,
        trials=response.trials,
        trials_all=response.trials,
        success=None if response.levels is None else response.levels[1],
        remarks=remarks(table, parts, group_exprs, coding),
        further=others,
    )
    return design if kept.all() else _with_held_out(design, terms, table, used, offset, family, response)


def _expanded(part: Terms) -> _terms.TermList:
    """The fixed part of a further parameter.

    Raises:
        FormulaError: '.', which stands for the columns of the mean alone; or nothing on the right.
    """
    if "." in _syntax.names(part.fixed):
        raise FormulaError("'.' stands for columns in the formula of the mean only: name them here", part.text, 0)
    fixed = _terms.expand(part.fixed, text=part.text)
    if not fixed.terms and not fixed.intercept:
        raise FormulaError("this formula leaves nothing: leave the argument out, or write '~ 1'", part.text, 0)
    return fixed


def _widest(matrix: ModelMatrix) -> str:
    """A word about a factor of many levels: mostly it is numbers that were read as text."""
    wide = max(matrix.variables, key=lambda v: 0 if v.labels is None else len(v.labels), default=None)
    if wide is None or wide.labels is None or len(wide.labels) < 10:
        return ""
    return (
        f"'{wide.expr}' is a factor of {len(wide.labels)} levels (such as {str(wide.labels[0])!r}): if these are "
        "numbers, convert the column (pandas.to_numeric), or let it be a grouping factor; else "
    )


def _new_data(
    design: Design,
    frame: Frame,
    X: np.ndarray,
    offset: np.ndarray,
    further: tuple[tuple[np.ndarray, ...], ...],
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
    return NewData(X, Z, tuple(codes), offset, index, new_levels, further)  # pyright: ignore


def _with_held_out(
    design: Design,
    terms: Terms,
    table: Table,
    used: np.ndarray | None,
    offset: Any,
    family: Family | None,
    response: Response,
) -> Design:
    """The same design with the rows that do not count evaluated: they still get a fitted value."""
    spec = design.spec
    out = ~design.kept
    rows = np.flatnonzero(used)[out] if used is not None else np.flatnonzero(out)
    frame = Frame(table, rows, "")
    index = design.index[out]
    n = len(index)
    X = spec.matrix.rows(frame, n, spec.memory, unseen="nan")[:, spec.kept_columns]
    total = formula_offset(spec.offsets, frame, spec.memory, n)
    if offset is not None:
        total = total + argument_offset(offset, frame)
    further = tuple(p.rows(frame, n, spec.memory, unseen="nan") for p in design.further)
    new = _new_data(design, frame, X, total, further, index, {f.name for f in design.factors}, "nan")
    y, trials = other_rows(terms.response, frame, spec.memory, family, response, n)
    y_all, trials_all = _over_all(design.kept, design.y, y), None
    if design.trials is not None and trials is not None:
        trials_all = _over_all(design.kept, design.trials, trials)
    return replace(design, held_out=new, y_all=y_all, trials_all=trials_all)


def _over_all(kept: np.ndarray, counted: np.ndarray, others: np.ndarray) -> np.ndarray:
    values = np.empty(len(kept))
    values[kept], values[~kept] = counted, others
    return values
