"""The left side of a formula -> the numbers that a likelihood takes: y (n,), and for some families trials (n,).

    family without trials       numbers                                   y = them, a logical as 0 and 1
    family with trials          0/1, logical, factor of two levels        y = 0 or 1,             trials = 1
                                cbind(successes, failures)                y = successes,          trials = their sum
                                a proportion, weights= its trials         y = proportion × trials

With trials y is the count of successes, a whole number. Success is the second level of a factor, in the order of a
categorical dtype, else sorted, once the levels that no row has are dropped. A column is one of proportions where a
value lies strictly between 0 and 1; then the weights are the trials and nothing else, and everywhere else they stay
weights. 0 of 0 says nothing: such a row counts nowhere, as one of weight zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design.columns import DataError, Levels, row_text
from jaxmm.design.modelmatrix import check_finite
from jaxmm.design.syntax import Call, Expr, number_text
from jaxmm.design.transforms import Frame, Matrix, as_number, evaluate
from jaxmm.families import Family

_PARTS = ("successes", "failures")
_TRIALS = "cbind(successes, failures), or a proportion with weights= the numbers of trials"


@dataclass(frozen=True)
class Response:
    """y (n,) and trials (n,) or None. `levels` are a factor's (failure, success); `weights_are_trials` says that the
    weights of the fit went into `trials` and are no weights any more.
    """

    y: np.ndarray
    trials: np.ndarray | None = None
    levels: tuple[str, str] | None = None
    weights_are_trials: bool = False


# ---------------------------------------------------------------- from a formula
def check_spelling(expr: Expr, family: Family | None) -> None:
    """Raises DataError, before any data, where cbind stands for a family that has no trials."""
    if not _is_cbind(expr) or (family is not None and family.has_trials):
        return
    if family is None:
        raise DataError(
            f"'{expr}' is the response of a binomial model, not for a linear mixed model: "
            "use glmm with family='binomial'"
        )
    raise DataError(
        f"the response '{expr}' counts successes and failures, and the {family.name} family takes {family.support}: "
        "name one column, or use a family with trials such as 'binomial'"
    )


def any_trial(expr: Expr, frame: Frame, n: int) -> np.ndarray | None:
    """(n,) False where both counts of a cbind are zero; None where every row says something."""
    if not _is_cbind(expr):
        return None
    successes, failures = _counts(expr, frame, {}, n, fitting=True)
    some = (successes != 0) | (failures != 0)
    return None if some.all() else some


def read_response(
    expr: Expr,
    frame: Frame,
    memory: dict[str, Any],
    family: Family | None,
    weights: np.ndarray | None,
    labels: pd.Index,
) -> Response:
    """The response of the rows that count.

    Args:
        weights: (n,) above zero, or None.
        labels: the rows' names in messages.

    Raises:
        DataError: a value that the family does not take; the message names the first such row, and the remedy.
    """
    n = len(labels)
    if _is_cbind(expr):
        counts = []
        for part, name, values in zip(
            _columns(expr), _PARTS, _counts(expr, frame, memory, n, fitting=True), strict=True
        ):
            check_finite(values, str(part), labels)
            counts.append(_whole(values, f"'{part}', the {name} of the response,", labels))
        _check(counts[0], family, expr, labels)
        return Response(counts[0], counts[0] + counts[1])
    value = evaluate(expr, frame, memory, fitting=True)
    if _is_factor(value) and family is not None and family.has_trials:
        return _of_levels(value.used(), expr, family, labels)
    y = _numbers(value, expr, family, n)
    check_finite(y, str(expr), labels)
    trials = None
    if family is not None and family.has_trials:
        if not np.all((y == 0) | (y == 1)):
            return _of_proportions(y, expr, family, weights, labels)
        trials = np.ones(n)
    _check(y, family, expr, labels)
    return Response(y, trials)


def other_rows(
    expr: Expr, frame: Frame, memory: dict[str, Any], family: Family | None, fitted: Response, n: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """(y, trials) of n rows that do not count, read as those that do were: unchecked, NaN where there is no answer."""
    if _is_cbind(expr):
        successes, failures = _counts(expr, frame, memory, n, fitting=False)
        return successes, successes + failures
    if fitted.weights_are_trials:  # which are zero
        return np.zeros(n), np.zeros(n)
    value = evaluate(expr, frame, memory, fitting=False)
    if fitted.levels is not None:
        codes = value.onto(np.array(fitted.levels, dtype=object))[0].codes
        return np.where(codes < 0, np.nan, codes), np.ones(n)
    y = _numbers(value, expr, family, n)
    return y, None if fitted.trials is None else np.ones(n)


def _is_cbind(expr: Expr) -> bool:
    return isinstance(expr, Call) and expr.func.split("::")[-1] == "cbind"


def _columns(expr: Expr) -> tuple[Expr, ...]:
    assert isinstance(expr, Call)
    return tuple(part for _, part in expr.args)


def _counts(expr: Expr, frame: Frame, memory: dict[str, Any], n: int, *, fitting: bool) -> list[np.ndarray]:
    found = []
    for part, name in zip(_columns(expr), _PARTS, strict=True):
        value = as_number(
            evaluate(part, frame, memory, fitting=fitting), f"'{part}', the {name} of the response '{expr}',"
        )
        found.append(np.array(np.broadcast_to(value, (n,)), dtype=np.float64))
    return found


def _is_factor(value: Any) -> bool:
    return isinstance(value, Levels) and not value.logical


def _numbers(value: Any, expr: Expr, family: Family | None, n: int) -> np.ndarray:
    """(n,) numbers; a logical counts 0 and 1."""
    if isinstance(value, Matrix):
        raise DataError(f"the response '{expr}' has several columns")
    if _is_factor(value) and family is not None:
        raise DataError(
            f"the response '{expr}' holds text or categories{value.example}, and the "
            f"{family.name} family takes {family.support}: if the texts are numbers, convert the column "
            "(pandas.to_numeric)"
        )
    y = as_number(value, f"the response '{expr}'")
    if np.shape(y) != (n,):
        raise DataError(f"the response '{expr}' is not a column")
    return np.array(y, dtype=np.float64)


def _of_levels(value: Levels, expr: Expr, family: Family, labels: pd.Index) -> Response:
    if (value.codes < 0).any():
        row = row_text(labels[int(np.argmax(value.codes < 0))])
        raise DataError(f"the response '{expr}' is missing at row {row}, though its columns are not")
    levels = [str(v) for v in value.labels]
    if len(levels) == 1:
        raise DataError(
            f"the response '{expr}' has the one level {levels[0]!r} in the rows used: there is nothing to explain"
        )
    if len(levels) > 2:
        shown = ", ".join(map(repr, levels[:5])) + (", ..." if len(levels) > 5 else "")
        raise DataError(
            f"the response '{expr}' has the {len(levels)} levels {shown} in the rows used: the {family.name} family "
            f'takes two, failure and success; compare with one of them, as in I({expr} == "{levels[-1]}"), or, if '
            "these are numbers, convert the column (pandas.to_numeric)"
        )
    y = value.codes.astype(np.float64)
    _check(y, family, expr, labels)
    return Response(y, np.ones(len(labels)), (levels[0], levels[1]))


def _of_proportions(
    y: np.ndarray, expr: Expr, family: Family, weights: np.ndarray | None, labels: pd.Index
) -> Response:
    """Numbers that are not all 0 and 1."""
    where = _labelled(labels)
    if (y < 0).any():
        value, place = _first(y, y < 0, where)
        raise DataError(
            f"the response '{expr}' is {value} {place}: the {family.name} family takes 0 and 1, a factor of two "
            f"levels, {_TRIALS}"
        )
    if (y > 1).any():
        value, place = _first(y, y > 1, where)
        if (y != np.round(y)).any():
            raise DataError(
                f"the response '{expr}' is {value} {place}: a proportion lies between 0 and 1, and counts are "
                "written cbind(successes, failures)"
            )
        classes = np.unique(y)
        raise DataError(
            f"the response '{expr}' is {value} {place}, a count: the {family.name} family needs the trials too; write "
            f"cbind({expr}, trials - {expr}) ~ ..., or {expr}/trials with weights= the numbers of trials"
            + (f"; if its two values are classes, write factor({expr})" if len(classes) == 2 else "")
        )
    if weights is None:
        value, place = _first(y, (y > 0) & (y < 1), where)
        raise DataError(
            f"the response '{expr}' holds proportions ({value} {place}): pass weights= the numbers of trials, or "
            "write cbind(successes, failures) ~ ...; proportions that count nothing have family='beta'"
        )
    trials = np.round(weights)
    bad = _apart(weights, trials)
    if bad.any():
        value, place = _first(weights, bad, where)
        raise DataError(
            f"the weights of the proportion '{expr}' are its numbers of trials, and {value} {place} is not a whole "
            "number"
        )
    successes = y * trials
    bad = _apart(successes, np.round(successes), trials)
    if bad.any():
        i = int(np.argmax(bad))
        value, place = _first(successes, bad, where)
        raise DataError(
            f"the response '{expr}': {_text(y[i])} of {_trials_text(trials[i])} {place} is {value} successes, not a "
            "whole number; correct the trials (weights=), or write cbind(successes, failures) ~ ..."
        )
    _check(np.round(successes), family, expr, labels)
    return Response(np.round(successes), trials, weights_are_trials=True)


# ---------------------------------------------------------------- checks of numbers
Where = Callable[[int], str]


def _labelled(labels: pd.Index) -> Where:
    return lambda i: f"at row {row_text(labels[i])}"


def _check(y: np.ndarray, family: Family | None, expr: Expr, labels: pd.Index) -> None:
    check_support(y, family, f"the response '{expr}'", _labelled(labels))


def by_position(i: int) -> str:
    """A row of arrays, in a message."""
    return f"at row {i} (from 0)"


def check_support(y: np.ndarray, family: Family | None, what: str, where: Where) -> None:
    """Raises DataError, naming the first row, where the family does not take a value."""
    if family is None:
        return
    bad = ~np.asarray(family.valid(y))
    if bad.any():
        value, place = _first(y, bad, where)
        counts = family.support.startswith("whole numbers") and np.all(y[bad] >= 0)
        rate = "; of a rate, model the count with offset(log(exposure))" if counts else ""
        raise DataError(f"{what} is {value} {place}: the {family.name} family takes {family.support}{rate}")


def check_counts(y: np.ndarray, trials: np.ndarray, what: str, where: Where, remedy: str = "") -> None:
    """Raises DataError, naming the first row, where y is no count of successes in so many trials."""
    bad = (y < 0) | (y != np.round(y))
    if bad.any():
        value, place = _first(y, bad, where)
        raise DataError(f"{what} is {value} {place}: counts of successes are due, whole numbers from 0 to the trials")
    bad = y > trials
    if bad.any():
        value, place = _first(y, bad, where)
        raise DataError(
            f"{what} is {value} {place}, more than its {_trials_text(trials[int(np.argmax(bad))])}: counts of "
            f"successes are due, whole numbers from 0 to the trials{remedy}"
        )


def check_varies(y: np.ndarray, trials: np.ndarray | None, family: Family | None, what: str) -> None:
    """Raises DataError where the best fit lies at infinity (``Family.no_variation``), or nothing varies."""
    if np.ptp(y) == 0 if family is None else family.no_variation(y, None if trials is None else trials.sum()):
        shown = f"{_text(y[0])} in every row"
        if trials is not None:
            shown = "no failure in any row" if y.any() else "no success in any row"
        elif np.ptp(y) > 0:
            shown = f"no count above {_text(y.max())} in any row"
        raise DataError(f"{what} is constant ({shown}): there is nothing to explain")


def _whole(values: np.ndarray, what: str, labels: pd.Index) -> np.ndarray:
    """Counts, rounded."""
    counts = np.round(values)
    bad = (counts < 0) | _apart(values, counts)
    if not bad.any():
        return counts
    value, place = _first(values, bad, _labelled(labels))
    negative = counts[int(np.argmax(bad))] < 0
    raise DataError(
        f"{what} is {value} {place}: "
        + ("counts cannot be negative, nor successes more than the trials" if negative else "counts are whole numbers")
    )


def _apart(values: np.ndarray, whole: np.ndarray, size: np.ndarray | None = None) -> np.ndarray:
    """Where a number is no whole one but for rounding, relative to its size."""
    return np.abs(values - whole) > 1e-6 * np.maximum(1.0, whole if size is None else size)


def _first(values: np.ndarray, bad: np.ndarray, where: Where) -> tuple[str, str]:
    """The first bad value and its place, with the number of others."""
    i, others = int(np.argmax(bad)), int(bad.sum()) - 1
    return _text(values[i]), where(i) + (f" and at {others} more" if others else "")


def _text(value: Any) -> str:
    return number_text(float(value))


def _trials_text(count: float) -> str:
    return f"{_text(count)} trial{'s' if count != 1 else ''}"
