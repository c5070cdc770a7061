"""The left of a bar whose structure knows positions -> an effect at each position that occurs, and where these are.

ou(0 + time | g)              time is numbers, or a factor whose levels are: times (q, 1) that increase
exp(0 + pos(x, y) | g)        coordinates (q, 2); "0 +" may be left out before pos(...)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxmm.covariance import Covariance
from jaxmm.design import contrasts as _contrasts
from jaxmm.design import terms as _terms
from jaxmm.design.columns import Column, DataError, Levels
from jaxmm.design.formula import Bar
from jaxmm.design.inputs import Frame
from jaxmm.design.modelmatrix import Coding, ModelMatrix, Variable, check_finite
from jaxmm.design.syntax import Call, Expr
from jaxmm.design.transforms import evaluate


def fit_positions(
    bar: Bar, part: _terms.TermList, structure: type[Covariance], frame: Frame, memory: dict[str, Any], labels: pd.Index
) -> tuple[np.ndarray, ModelMatrix, np.ndarray]:
    """Z (n, q) of the rows that count, what makes it for others, and the positions (q, d), sorted.

    Raises:
        DataError: another left than one variable, levels that are no numbers, positions where times are due.
    """
    expr = _variable(bar, part)
    value = _levels(expr, frame, memory, labels)
    found = [_numbers(str(label)) for label in value.labels]
    if any(own is None for own in found) or len({len(own) for own in found if own is not None}) > 1:
        raise DataError(
            f"{bar}: {bar.kind}(...) goes by the distance of positions, and '{expr}' is a factor{value.example}: make "
            f"a column of numbers of it, or take ar1(...), which goes by the order of its levels"
        )
    at = np.array(found, float)
    if structure.ordered and at.shape[1] > 1:
        raise DataError(
            f"{bar}: {bar.kind}(...) is for times, which are one number each, and '{expr}' has {at.shape[1]} "
            f"coordinates: take exp(0 + {expr} | {bar.name})"
        )
    order = np.lexsort(at.T[::-1])
    at = at[order]
    if len(at) > 1 and np.any(same := np.all(at[1:] == at[:-1], axis=1)):
        k = int(np.argmax(same))
        twice = " and ".join(repr(str(value.labels[order[k + i]])) for i in range(2))
        raise DataError(f"{bar}: the levels {twice} of '{expr}' are one position: make them one level")
    full, names = _contrasts.full(value.labels)
    coding = Coding(np.vstack([full, np.full(len(full), np.nan)])[:, order], tuple(names[k] for k in order))
    columns = tuple(f"{expr}{name}" for name in coding.names)
    matrix = ModelMatrix(False, (Variable(expr, value.labels, ()),), (((0, coding),),), columns)
    return matrix.filled([value], len(labels)), matrix, at


def _variable(bar: Bar, part: _terms.TermList) -> Expr:
    """The one variable on the left."""
    one = len(part.terms) == 1 and part.terms[0].bit_count() == 1
    expr = part.variables[part.terms[0].bit_length() - 1] if one else None
    if expr is None or (part.intercept and not (isinstance(expr, Call) and expr.func == "pos")):
        raise DataError(
            f"{bar}: the effects of {bar.kind}(...) are those at the positions of one variable, and nothing else: "
            f"{bar.kind}(0 + time | {bar.name}), or of coordinates {bar.kind}(0 + pos(x, y) | {bar.name})"
        )
    return expr


def _levels(expr: Expr, frame: Frame, memory: dict[str, Any], labels: pd.Index) -> Levels:
    value = evaluate(expr, frame, memory, fitting=True)
    if isinstance(value, Levels):
        return value.used()
    if not isinstance(value, np.ndarray) or value.shape != (len(labels),):
        raise DataError(f"'{expr}' is not a column of positions")
    check_finite(value, str(expr), labels)
    return Column(str(expr), "number", value, None).levels


def _numbers(label: str) -> list[float] | None:
    """The coordinates that a label "(1, 2)" or "5" says."""
    try:
        numbers = [float(x) for x in label.strip().removeprefix("(").removesuffix(")").split(",")]
    except ValueError:
        return None
    return numbers if np.all(np.isfinite(numbers)) else None
