"""A number, or coordinates, on the left of a bar -> the positions that occur, and which of them each row has.

    ou(0 + time | g), exp(0 + pos(x, y) | g)  ->  Z (n, q) of zeros and ones,  at (q, d) the positions in their order

The effects are those of the positions, whose covariance depends on how far they are apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.design import syntax as _syntax
from jaxmm.design.columns import Column, DataError, Levels
from jaxmm.design.syntax import Binary, Call, Expr, Name, Number, Paren
from jaxmm.design.transforms import as_number, evaluate


def alone(left: Expr) -> Expr | None:
    """What stands on the left of a bar beside "0 +"; None where that is a 1, or more than one thing."""
    if isinstance(left, Binary) and left.op == "+":
        rest = [side for side in (left.left, left.right) if not (isinstance(side, Number) and side.value == 0)]
        return alone(rest[0]) if len(rest) == 1 else None
    if isinstance(left, Binary) and left.op == "-" and isinstance(left.right, Number) and left.right.value == 1:
        return alone(left.left)
    if isinstance(left, Paren):
        return alone(left.arg)
    return left if isinstance(left, Name | Call) else None


def coordinates(expr: Expr, frame: Mapping, memory: dict[str, Any], n: int, fitting: bool, who: str) -> np.ndarray:
    """(n, d) of each row.

    Raises:
        DataError: a factor, where numbers are due.
    """
    args = [arg for _, arg in expr.args] if isinstance(expr, Call) and expr.func == "pos" else [expr]
    parts = []
    for arg in args:
        value = frame[arg.name] if isinstance(arg, Name) else evaluate(arg, frame, memory, fitting=fitting)
        if isinstance(value, Levels):
            raise DataError(
                f"{who} goes by distances of numbers, and '{arg}' is a factor{value.example}: make a column of numbers "
                "of it, or take ar1(...), which goes by the order of its levels"
            )
        parts.append(np.broadcast_to(np.asarray(as_number(value, str(arg)), float), (n,)))
    return np.column_stack(parts)


def labels_of(at: np.ndarray, name: str) -> tuple[str, ...]:
    """Names of positions (q, d)."""
    if at.shape[1] == 1:
        return tuple(map(str, Column(name, "number", at[:, 0], None).levels.labels))
    return tuple("(" + ", ".join(_syntax.number_text(float(v)) for v in row) + ")" for row in at)


@dataclass(frozen=True)
class SeenPositions:
    """The positions ``at`` (q, d) of a fit, in the place of a model matrix; ``columns`` their names."""

    expr: Expr
    text: str
    at: np.ndarray
    columns: tuple[str, ...]
    variables = ()

    def rows(self, frame: Mapping, n: int, memory: dict[str, Any], *, unseen: str = "error") -> np.ndarray:
        """Z (n, q) of other rows.

        Raises:
            DataError: a position that the fit has not seen.
        """
        own = coordinates(self.expr, frame, memory, n, False, self.text)
        found, back = np.unique(np.vstack([self.at, own]), axis=0, return_inverse=True)
        place = np.full(len(found), -1)
        place[back.ravel()[: len(self.at)]] = np.arange(len(self.at))
        at = place[back.ravel()[len(self.at) :]]
        lost = at < 0
        if lost.any() and unseen == "error":
            shown = labels_of(own[lost][:1], str(self.expr))[0]
            raise DataError(f"{self.text}: the fit has not seen '{self.expr}' {shown}, and has no effect of it")
        Z = np.zeros((n, len(self.at)))
        Z[np.flatnonzero(~lost), at[~lost]] = 1.0
        Z[lost] = np.nan
        return Z


def fit_positions(
    expr: Expr, frame: Mapping, memory: dict[str, Any], n: int, text: str
) -> tuple[np.ndarray, SeenPositions]:
    """Z (n, q) of a fit's rows, and what makes it of others."""
    own = coordinates(expr, frame, memory, n, True, text)
    at, place = np.unique(own, axis=0, return_inverse=True)
    Z = np.zeros((n, len(at)))
    Z[np.arange(n), place.ravel()] = 1.0
    names = labels_of(at, str(expr))
    return Z, SeenPositions(expr, text, at, tuple(f"{expr}{x}" for x in names))
