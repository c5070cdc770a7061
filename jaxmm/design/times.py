"""The time on the left of ``residual="ar1(time | subject)"`` -> which time each row has, and what a structure is told
of the times: their order, whole steps from the first, or their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.covariance import Covariance
from jaxmm.design import syntax as _syntax
from jaxmm.design.columns import EXACT, Column, DataError, Levels, row_text
from jaxmm.design.errorbar import ErrorBar
from jaxmm.design.syntax import Call, Expr, Name
from jaxmm.design.transforms import as_number, evaluate

STEP = 1e-6  # of the least distance of times: what may be amiss with a multiple of it


def read_times(
    time: Expr, frame: Mapping, memory: dict[str, Any], rows: pd.Index
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray | None]:
    """The place (n,) of each row among the times, the names of these, and their numbers (T, d), None of a factor."""
    if isinstance(time, Call) and time.func == "pos":
        found, place = np.unique(_coordinates(time, frame, memory, rows), axis=0, return_inverse=True)
        return place.ravel(), _labels(found, str(time)), found
    value = frame[time.name] if isinstance(time, Name) else evaluate(time, frame, memory, fitting=True)
    if isinstance(value, Levels):
        used = value.used()
        _check_there(time, used.codes >= 0, rows)
        return used.codes.astype(np.int64), tuple(map(str, used.labels)), None
    numbers = np.broadcast_to(np.asarray(as_number(value, str(time)), float), (len(rows),))
    _check_there(time, np.isfinite(numbers), rows)
    found, place = np.unique(numbers, return_inverse=True)
    return place, _labels(found[:, None], str(time)), found[:, None]


def _coordinates(expr: Call, frame: Mapping, memory: dict[str, Any], rows: pd.Index) -> np.ndarray:
    """(n, d) of pos(x, y)."""
    parts = []
    for _, arg in expr.args:
        value = frame[arg.name] if isinstance(arg, Name) else evaluate(arg, frame, memory, fitting=True)
        if isinstance(value, Levels):
            raise DataError(f"{expr} takes coordinates that are numbers, and '{arg}' is a factor{value.example}")
        parts.append(np.broadcast_to(np.asarray(as_number(value, str(arg)), float), (len(rows),)))
        _check_there(arg, np.isfinite(parts[-1]), rows)
    return np.column_stack(parts)


def _check_there(time: Expr, there: np.ndarray, rows: pd.Index) -> None:
    """Raises DataError where one of the ``rows`` has no time."""
    if not there.all():
        raise DataError(
            f"the time '{time}' is missing or not finite in row {row_text(rows[int(np.argmin(there))])}: correct the "
            "value, or leave the row out"
        )


def _labels(at: np.ndarray, name: str) -> tuple[str, ...]:
    """Names of positions (T, d)."""
    if at.shape[1] == 1:
        return tuple(map(str, Column(name, "number", at[:, 0], None).levels.labels))
    return tuple(_syntax.position_text(row) for row in at)


def positions_of(bar: ErrorBar, structure: Covariance, times: tuple[str, ...], values: np.ndarray | None) -> Any:
    """What the structure is told of the times."""
    if structure.levels:  # places in an order: whole numbers
        if values is None:
            return np.arange(len(times))[:, None]
        return _places(bar, structure, times, values)
    if structure.positional and structure.takes_inputs:
        if bar.time is not None and values is None:
            raise DataError(
                f"{bar.text}: {bar.kind}(...) needs times that are numbers, and '{bar.time}' is a factor "
                f"(with levels such as {times[0]!r}): make a column of numbers of it, or take ar1(...), which goes by "
                "their order"
            )
        return np.arange(len(times), dtype=float)[:, None] if values is None else values
    return None


def _places(bar: ErrorBar, structure: Covariance, times: tuple[str, ...], values: np.ndarray) -> np.ndarray:
    """(T, 1) whole numbers, of times that are multiples of a step."""
    if values.shape[1] > 1 or len(values) < 2:
        return np.arange(len(values))[:, None]
    steps = (values - values[0]) / np.min(np.diff(values[:, 0]))
    places = np.round(steps)
    if np.max(np.abs(steps - places)) > STEP:
        shown = ", ".join(_syntax.number_text(float(v)) for v in values[:4, 0]) + ", .." * (len(values) > 4)
        raise DataError(
            f"{bar.text}: {bar.kind}(...) is for times in equal steps, and those of '{bar.time}' are not ({shown}): "
            f"write factor({bar.time}) to go by their order, or ou({bar.time} | {bar.name}), whose correlation falls "
            "with the distance"
        )
    skipped = np.flatnonzero(np.diff(places[:, 0]) > 1)
    if not structure.positional and len(skipped):
        before, after = (_syntax.number_text(float(v)) for v in values[skipped[0] : skipped[0] + 2, 0])
        raise DataError(
            f"{bar.text}: {bar.kind}(...) has parameters of each step from the first time to the last, and there is "
            f"none of '{bar.time}' between {before} and {after}: write factor({bar.time}) to take these for "
            f"neighbours, or ar1({bar.time} | {bar.name}) or ou({bar.time} | {bar.name}), which count how far they are "
            "apart"
        )
    return whole_steps(bar.text, steps, times)


def whole_steps(text: str, steps: np.ndarray, times: Sequence[str]) -> np.ndarray:
    """``steps`` (T, 1) from the first time, as integers, which they nearly are.

    Raises:
        DataError: so many that whole numbers are not told apart.
    """
    far = np.flatnonzero(np.abs(steps[:, 0]) >= EXACT)
    if len(far):
        raise DataError(
            f"{text}: the time {times[far[0]]!r} is {abs(steps[far[0], 0]):.3g} steps from the first: correct the "
            "value, or leave the row out"
        )
    return np.round(steps).astype(int)
