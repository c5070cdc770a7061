"""Terms + a table -> Design, in three stages.

    formulas, names of columns   --written-->  the terms, bars and codings of every predictor
    missing values, weights      --choose-->   which rows are used, and which count
    these rows                   --build-->    y, X, Z, codes

The n rows are those with nothing missing in any column of the model, with a weight above zero and, where there are
trials, with a trial; levels and contrasts come from these rows alone, knots, centres and polynomials from all rows in
which their own columns are there. Columns, names and their order are those of R's `model.matrix`; aliased columns of X
are dropped as R's `qr` drops them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxmm.design import syntax as _syntax
from jaxmm.design import terms as _terms
from jaxmm.design.columns import DataError, Table
from jaxmm.design.design import Design, Spec, new_data
from jaxmm.design.errorbar import ErrorBar
from jaxmm.design.formula import Bar, Terms
from jaxmm.design.inputs import (
    Frame,
    argument_offset,
    check_contrasts,
    complete_rows,
    counted_rows,
    dot_columns,
    formula_offset,
    model_columns,
    row_weights,
)
from jaxmm.design.known import check_matrices
from jaxmm.design.modelmatrix import ModelMatrix
from jaxmm.design.predictor import MEAN, Bars, Predictor, constant, fit_predictor
from jaxmm.design.remarks import out_of_order, remarks
from jaxmm.design.residual import ResidualDesign, beside_sigma, fit_residual
from jaxmm.design.response import Response, any_trial, check_spelling, other_rows, read_response
from jaxmm.design.seen import Seen, see
from jaxmm.design.syntax import Expr, FormulaError, Name
from jaxmm.families import Family


class Written(NamedTuple):
    """What the formulas say of a table: ``terms`` and ``fixed`` of each predictor that has a formula, the mean's first;
    of every bar its predictor, itself, the terms on its left and the columns of its group; ``coding`` of factors."""

    terms: dict[str, Terms]
    fixed: dict[str, _terms.TermList]
    bars: list[tuple[str, Bar, _terms.TermList, tuple[Expr, ...]]]
    coding: dict[str, str]

    @property
    def parts(self) -> list[_terms.TermList]:
        return [*self.fixed.values(), *(left for _, _, left, _ in self.bars)]

    @property
    def groups(self) -> list[tuple[Expr, ...]]:
        return [exprs for *_, exprs in self.bars]


class Chosen(NamedTuple):
    """``used``: the rows of the table without a missing value (None: all); of those ``index`` labels, ``weights`` or
    None, and ``kept``, which count; ``frame`` and ``labels`` of the rows that do; ``holes`` are the columns in which
    values are missing."""

    used: np.ndarray | None
    index: pd.Index
    weights: np.ndarray | None
    kept: np.ndarray
    frame: Frame
    labels: pd.Index
    holes: tuple[str, ...]


def build(
    terms: Terms,
    data: Any,
    *,
    further: Mapping[str, Terms | None] | None = None,
    residual: ErrorBar | None = None,
    dispersion: Terms | None = None,
    matrices: Mapping[str, Any] | None = None,
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
        residual, dispersion: of a linear model, what the errors are like: a covariance within the levels of a factor,
            and a formula of log φ. With either the model needs no random effects.
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
    formulas = {MEAN: terms, **{name: part for name, part in further.items() if part is not None}}
    formulas |= {} if dispersion is None else {"phi": dispersion}
    if residual is None and dispersion is None and not any(part.bars for part in formulas.values()):
        raise DataError(
            f"'{terms.text}' has no random-effects term: add one such as (1 | group); "
            "for an ordinary regression use statsmodels"
        )
    check_spelling(terms.response, family)
    bars = [bar for part in formulas.values() for bar in part.bars] + ([] if residual is None else [residual])
    matrices = check_matrices(matrices, [bar.matrix for bar in bars if bar.matrix is not None])
    table = Table(data)
    if len(table) == 0:
        raise DataError("the table has no rows")
    says = _written(formulas, table, weights, offset, contrasts)
    rows = _choose(says, table, weights, offset, missing, _of_errors(residual))
    memory: dict[str, Any] = {}
    own = None if rows.weights is None else rows.weights[rows.kept]
    response = read_response(terms.response, rows.frame, memory, family, own, rows.labels)
    counted = own
    if response.weights_are_trials:
        rows, own = rows._replace(weights=None), None

    def predictor(name: str) -> Predictor:
        if name not in formulas:
            return constant(name, len(rows.labels))
        argument = offset if name == MEAN else None
        return fit_predictor(
            name, formulas[name], says.fixed[name], rows.frame, memory, says.coding, rows.labels, argument
        )

    mean = predictor(MEAN)
    _check_columns(mean, len(rows.labels), family)
    others = tuple(predictor(name) for name in further)
    random = Bars.none()
    for name, bar, left, exprs in says.bars:
        random.add(bar, left, exprs, name, rows.frame, memory, says.coding, rows.labels, matrices)
    errors = fit_residual(
        residual, None if dispersion is None else predictor("phi"), rows.frame, memory, rows.labels, matrices
    )
    bound = tuple(random.terms)
    if family is None:
        bound, errors = beside_sigma(bound, random.factors, errors)
    seen = _seen(says, rows.frame, len(rows.labels), counted, mean.offset, offset)
    assert mean.matrix is not None and mean.kept_columns is not None  # it has a formula
    exprs = [*says.fixed[MEAN].variables, *(e for _, _, left, _ in says.bars for e in left.variables), *terms.offsets]
    held = {name: rows.frame[name] for e in exprs for name in _syntax.names(e) if name in rows.frame}
    spec = Spec(
        mean.matrix, mean.kept_columns, terms.offsets, offset if isinstance(offset, str) else None,
        offset is not None and not isinstance(offset, str), tuple(random.matrices), tuple(random.groupings), memory,
        mean.aliases, seen, held,
    )  # fmt: skip
    design = Design(
        formula=terms.text,
        response=str(terms.response),
        y=response.y,
        X=mean.X,
        columns=mean.columns,
        dropped=mean.dropped,
        factors=tuple(random.factors),
        terms=bound,
        weights=own,
        offset=mean.offset,
        index=rows.index,
        kept=rows.kept,
        held_out=None,
        n_missing=len(table) - len(rows.index),
        holes=rows.holes,
        y_all=response.y,
        weights_all=rows.weights,
        spec=spec,
        trials=response.trials,
        trials_all=response.trials,
        success=None if response.levels is None else response.levels[1],
        weights_are_trials=response.weights_are_trials,
        remarks=(*remarks(table, says.parts, says.groups, says.coding), *_of_times(table, errors)),
        further=others,
        residual=errors,
    )
    return design if rows.kept.all() else _with_held_out(design, terms, table, rows.used, offset, family, response)


# ---------------------------------------------------------------- the stages
def _written(
    formulas: dict[str, Terms], table: Table, weights: Any, offset: Any, contrasts: Mapping[str, str] | None
) -> Written:
    terms = formulas[MEAN]
    fixed = {MEAN: _terms.expand(terms.fixed, dot=dot_columns(terms, table, weights, offset), text=terms.text)}
    fixed |= {name: _expanded(part) for name, part in formulas.items() if name != MEAN}
    bars = [
        (name, bar, _terms.expand(_syntax.read(bar.left), text=part.text), tuple(_syntax.read(g) for g in bar.group))
        for name, part in formulas.items()
        for bar in part.bars
    ]
    says = Written(formulas, fixed, bars, {})
    for part in says.parts:
        if any(str(v) == str(terms.response) for v in part.variables):
            raise DataError(f"the response '{terms.response}' stands on the right of '~' too: leave it out there")
    return says._replace(coding=check_contrasts(contrasts, says.parts, table))


def _of_times(table: Table, errors: ResidualDesign | None) -> list[str]:
    """A word about the times of errors whose covariance goes by their order."""
    if errors is None or errors.bar is None or errors.covariance is None or not errors.covariance.levels:
        return []
    if errors.covariance.known:  # whose levels have names
        return []
    time = errors.bar.time
    found = out_of_order(table.column(time.name)) if isinstance(time, Name) else None
    return [] if found is None else [found]


def _of_errors(bar: ErrorBar | None) -> list[tuple[Expr, str]]:
    """The expressions of the errors' covariance, whose columns the model needs, and what each is."""
    if bar is None:
        return []
    where = f"residual={bar.text!r}"
    time = [] if bar.time is None else [(bar.time, f"the time of {where}")]
    group = [(expr, f"behind the bar of {where}") for expr in bar.group]
    return [*time, *group, *((expr, f"by= of {where}") for expr in bar.by)]


def _choose(
    says: Written, table: Table, weights: Any, offset: Any, missing: str, of_errors: list[tuple[Expr, str]]
) -> Chosen:
    response = says.terms[MEAN].response
    offsets = [expr for part in says.terms.values() for expr in part.offsets]
    sources = model_columns(response, table, says.parts, offsets, says.groups, weights, offset, of_errors)
    used = complete_rows(sources, len(table), missing)
    values = row_weights(weights, table, used)
    index = table.index if used is None else table.index[used]
    kept = np.ones(len(index), dtype=bool) if values is None else values > 0
    if not kept.any():
        raise DataError("all weights are zero: no row is left")
    some = any_trial(response, Frame(table, used, ""), len(index))
    if some is not None:
        kept = kept & some
        if not kept.any():
            raise DataError(f"no row has a trial: '{response}' is zero of zero in each that counts")
    frame = Frame(table, counted_rows(used, kept, len(table)), "")
    holes = tuple(c.name for c in sources if c.missing is not None)
    return Chosen(used, index, values, kept, frame, index if kept.all() else index[kept], holes)


def _seen(
    says: Written, frame: Frame, n: int, weights: np.ndarray | None, total: np.ndarray | None, offset: Any
) -> Seen:
    """The columns of the mean's fixed and random parts and of its offsets, in the rows that count."""
    exprs = [*says.fixed[MEAN].variables, *says.terms[MEAN].offsets]
    exprs += [e for name, _, left, _ in says.bars if name == MEAN for e in left.variables]
    if isinstance(offset, str):
        exprs.append(Name(offset))
    argument = 0.0 if offset is None or isinstance(offset, str) else float(np.mean(argument_offset(offset, frame)))
    found = see(frame, exprs, n, weights)
    return replace(found, offset=0.0 if total is None else float(np.mean(total)), argument=argument)


def _check_columns(mean: Predictor, n: int, family: Family | None) -> None:
    """Raises DataError where the columns of X leave nothing to estimate a variance from."""
    if len(mean.columns) >= n:
        raise DataError(
            f"X has {len(mean.columns) + len(mean.dropped)} columns and the data have {n} rows: there is nothing left "
            f"to estimate {'the residual variance' if family is None else 'a variance'} from; "
            f"{_widest(mean.matrix)}use fewer terms or more rows"  # pyright: ignore
        )


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
    new = new_data(design, frame, X, total, further, index, {f.name for f in design.factors}, "nan")
    y, trials = other_rows(terms.response, frame, spec.memory, family, response, n)
    y_all, trials_all = _over_all(design.kept, design.y, y), None
    if design.trials is not None and trials is not None:
        trials_all = _over_all(design.kept, design.trials, trials)
    return replace(design, held_out=new, y_all=y_all, trials_all=trials_all)


def _over_all(kept: np.ndarray, counted: np.ndarray, others: np.ndarray) -> np.ndarray:
    values = np.empty(len(kept))
    values[kept], values[~kept] = counted, others
    return values
