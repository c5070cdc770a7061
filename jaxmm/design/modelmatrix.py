"""Terms + columns -> the model matrix that R's `model.matrix` gives, and the same matrix for new rows.

A term over variables v1, ..., vk is the row-wise product of their columns, v1's running fastest. A number
has one column, a factor the columns of its contrasts or one indicator for each level. R's rule which: a
factor is coded by contrasts in a term if what is left of the term without it is empty or contained in an
earlier term, else by indicators; and with no intercept, the first factor of the first term that has one is
coded by indicators.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design import contrasts as _contrasts
from jaxmm.design.columns import Column, DataError, Levels, row_text
from jaxmm.design.syntax import Expr, Name
from jaxmm.design.terms import TermList
from jaxmm.design.transforms import Frame, Matrix, as_number, evaluate


@dataclass(frozen=True)
class Coding:
    """How one factor enters one term: row j of `table` stands for level j, a last row of NaN for none."""

    table: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Variable:
    """A variable as the fit saw it: `labels` of a factor, or the names of a numeric variable's columns."""

    expr: Expr
    labels: np.ndarray | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class ModelMatrix:
    """What turns rows into a matrix: per term the (variable, coding) pairs, `columns` the names."""

    intercept: bool
    variables: tuple[Variable, ...]
    terms: tuple[tuple[tuple[int, Coding | None], ...], ...]
    columns: tuple[str, ...]

    def columns_of_terms(self) -> dict[str, tuple[str, ...]]:
        """The label of each term, and its columns; the intercept is none."""
        out, at = {}, int(self.intercept)
        for term in self.terms:
            count = int(np.prod([len(c.names if c else self.variables[k].names) for k, c in term]))
            out[":".join(str(self.variables[k].expr) for k, _ in term)] = self.columns[at : at + count]
            at += count
        return out

    def rows(self, frame: Frame, n: int, memory: dict[str, Any], *, unseen: str = "error") -> np.ndarray:
        """The matrix (n, p) of other rows; NaN in the rows with a missing value.

        unseen: "error" raises DataError for a level that the fit has not seen, "nan" makes the row NaN.
        """
        values = []
        for v in self.variables:
            value = evaluate(v.expr, frame, memory, fitting=False)
            if v.labels is not None:
                value = recoded(v, value, unseen)
            elif isinstance(value, Levels):
                value = as_number(value, f"'{v.expr}'")
            values.append(value)
        return self.filled(values, n)

    def filled(self, values: list, n: int) -> np.ndarray:
        """The matrix (n, p) from the value of each variable."""
        X = np.empty((n, len(self.columns)))
        for j, column in enumerate(self._generate(values, n)):
            X[:, j] = column
        return X

    def _generate(self, values: list, n: int) -> Iterator[np.ndarray | float]:
        if self.intercept:
            gone = np.zeros(n, dtype=bool)  # a row with a missing value is missing as a whole
            for value in values:
                gone |= _missing(value)
            yield np.where(gone, np.nan, 1.0) if gone.any() else 1.0
        for term in self.terms:
            product: list[np.ndarray] = []
            for k, coding in term:
                columns = _columns_of(values[k], coding)
                product = [a * b for b in columns for a in product] if product else columns
            yield from product


def fit_matrix(
    terms: TermList,
    frame: Frame,
    n: int,
    memory: dict[str, Any],
    contrasts: Mapping[str, str],
    labels: pd.Index,
) -> tuple[np.ndarray, ModelMatrix]:
    """The matrix (n, p) of the fit's rows, with what is needed to repeat it; `labels` name the rows in
    messages.

    Raises DataError for a factor of one level, a constant where a column is due, and a value that is not
    finite.
    """
    needed = 0
    for t in terms.terms:
        needed |= t
    values: list[Any] = []
    variables = []
    place = {}
    for k, expr in enumerate(terms.variables):
        if not needed >> k & 1:
            continue  # removed by a minus sign
        place[k] = len(variables)
        value = evaluate(expr, frame, memory, fitting=True)
        value, variable = _variable(expr, value, n, labels)
        values.append(value)
        variables.append(variable)
    codes = _codes(terms, {k for k, i in place.items() if variables[i].labels is not None})
    tables: dict[tuple[int, bool], Coding] = {}
    built = []
    for t, term in enumerate(terms.terms):
        parts = []
        for k in _bits(term):
            i = place[k]
            coding = None
            if variables[i].labels is not None:
                key = (i, codes[t, k])
                if key not in tables:
                    tables[key] = _coding(variables[i], values[i], codes[t, k], contrasts)
                coding = tables[key]
            parts.append((i, coding))
        built.append(tuple(parts))
    names = ["(Intercept)"] if terms.intercept else []
    for parts in built:
        product: list[str] = []
        for i, coding in parts:
            own = [f"{variables[i].expr}{s}" for s in (coding.names if coding else variables[i].names)]
            product = [f"{a}:{b}" for b in own for a in product] if product else own
        names += product
    matrix = ModelMatrix(terms.intercept, tuple(variables), tuple(built), tuple(names))
    return matrix.filled(values, n), matrix


def _bits(term: int) -> Iterator[int]:
    k = 0
    while term >> k:
        if term >> k & 1:
            yield k
        k += 1


def _codes(terms: TermList, factors: set[int]) -> dict[tuple[int, int], bool]:
    """(term, variable) -> True where the factor is coded by contrasts, False by indicators."""
    codes = {}
    for t, term in enumerate(terms.terms):
        for k in _bits(term):
            margin = term & ~(1 << k)
            codes[t, k] = margin == 0 or any(margin & ~earlier == 0 for earlier in terms.terms[:t])
    if not terms.intercept:
        for t, term in enumerate(terms.terms):
            first = next((k for k in _bits(term) if k in factors), None)
            if first is not None:
                codes[t, first] = False
                break
    return codes


def _coding(variable: Variable, value: Levels, by_contrasts: bool, contrasts: Mapping[str, str]) -> Coding:
    labels = variable.labels
    assert labels is not None
    if not by_contrasts:
        table, names = _contrasts.full(labels)
    else:
        if len(labels) < 2:
            raise DataError(
                f"'{variable.expr}' has the one level {str(labels[0])!r} in the rows used: it has no "
                "contrast to estimate; leave it out of the formula"
            )
        default = "poly" if value.ordered else "treatment"
        name = variable.expr.name if isinstance(variable.expr, Name) else str(variable.expr)
        table, names = _contrasts.CODINGS[contrasts.get(name, default)](labels)
    table = np.vstack([table, np.full((1, table.shape[1]), np.nan)])
    return Coding(table, tuple(names))


def _variable(expr: Expr, value: Any, n: int, labels: pd.Index) -> tuple[Any, Variable]:
    if isinstance(value, Levels):
        # A logical has both its levels always, as in R.
        value = value if value.logical else value.used()
        if (value.codes < 0).any():
            row = labels[int(np.argmax(value.codes < 0))]
            raise DataError(f"'{expr}' is missing at row {row_text(row)}, though its columns are not")
        return value, Variable(expr, value.labels, ())
    if isinstance(value, Matrix):
        check_finite(value.values.sum(axis=1), str(expr), labels)
        # R shows a matrix of one column under the bare name
        return value, Variable(expr, None, value.names if len(value.names) > 1 else ("",))
    if not isinstance(value, np.ndarray) or value.shape != (n,):
        raise DataError(f"'{expr}' is not a column: it has the same value in every row")
    check_finite(value, str(expr), labels)
    return value, Variable(expr, None, ("",))


def check_finite(values: np.ndarray, what: str, labels: pd.Index, remedy: Callable[[int], str] | None = None) -> None:
    """Raises DataError, naming the first row i, where a value is not finite; `remedy(i)` says what to do."""
    total = float(np.sum(values))
    if np.isfinite(total):  # one pass; NaN and infinity survive a sum
        return
    bad = ~np.isfinite(values)
    if bad.any():
        i = int(np.argmax(bad))
        shown = "NaN" if np.isnan(values[i]) else "infinite"
        advice = "correct the value, or leave the row out" if remedy is None else remedy(i)
        raise DataError(f"'{what}' is {shown} at row {row_text(labels[i])}{_count(bad)}: {advice}")


def _count(bad: np.ndarray) -> str:
    k = int(bad.sum())
    return f" and at {k - 1} more" if k > 1 else ""


def recoded(variable: Variable, value: Any, unseen: str) -> Levels:
    assert variable.labels is not None
    if not isinstance(value, Levels):  # numbers, or booleans in other clothes: compare by their labels
        value = np.asarray(value)
        value = Column(str(variable.expr), "number", value, np.isnan(value) if np.isnan(value).any() else None).levels
    value, unknown = value.onto(variable.labels)
    if unknown and unseen == "error":
        known = ", ".join(repr(str(v)) for v in variable.labels[:10]) + (", ..." if len(variable.labels) > 10 else "")
        raise DataError(f"'{variable.expr}' holds {unknown[0]!r}, which the fit has not seen; its levels are {known}")
    return value


def _missing(value: Any) -> Any:
    if isinstance(value, Levels):
        return value.codes < 0
    if isinstance(value, Matrix):
        return np.isnan(value.values).any(axis=1)
    return np.asarray(np.isnan(value))


def _columns_of(value: Any, coding: Coding | None) -> list[np.ndarray]:
    if coding is not None:
        return [coding.table[:, j][value.codes] for j in range(coding.table.shape[1])]
    if isinstance(value, Matrix):
        return list(value.values.T)
    return [value]


def independent_columns(X: np.ndarray, tol: float = 1e-7) -> np.ndarray:
    """The columns that R's `qr` keeps, in order: those whose part outside the earlier kept ones is not tiny.

    A column goes when that part's norm is below `tol` times its own norm.
    """
    p = X.shape[1]
    if X.size == 0:
        return np.arange(0)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = X.T @ X
        size = np.sqrt(np.diag(gram))
    if np.isfinite(gram).all() and (size > 0).all() and X.shape[0] >= p:
        # The diagonal of this Cholesky factor is the quantity compared; well above 1e-8 it can be trusted.
        try:
            if np.diag(np.linalg.cholesky(gram / np.outer(size, size))).min() > 1e-3:
                return np.arange(p)
        except np.linalg.LinAlgError:
            pass
    scale = np.abs(X).max(axis=0)
    R = np.asarray(np.linalg.qr(X / np.where(scale > 0, scale, 1.0), mode="r"))
    kept: list[int] = []
    basis = np.empty((R.shape[0], 0))
    for j in range(p):
        column = R[:, j]
        own = float(np.linalg.norm(column))
        rest = column
        for _ in range(2):  # twice is enough
            rest = rest - basis @ (basis.T @ rest)
        left = float(np.linalg.norm(rest))
        if left >= tol * (own if own > 0 else 1.0) and basis.shape[1] < R.shape[0]:
            kept.append(j)
            basis = np.column_stack([basis, rest / left])
    return np.array(kept, dtype=int)
