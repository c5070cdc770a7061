"""The parts of a linear predictor on a fit's rows: its columns X, and its bars as grouping factors and columns Z.

    η = X β + offset + Z b        of the mean; of a further parameter of the distribution where it has a formula

A factor adds to one predictor: the subjects of the mean and those of the zeros are two factors with the same levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import covariance
from jaxmm.covariance import Covariance
from jaxmm.design import terms as _terms
from jaxmm.design.columns import DataError
from jaxmm.design.formula import Bar, Terms
from jaxmm.design.grouping import SeenFactor, fit_grouping
from jaxmm.design.inputs import Frame, formula_offset, row_offset
from jaxmm.design.known import known_root
from jaxmm.design.modelmatrix import ModelMatrix, fit_matrix, independent_columns
from jaxmm.design.positions import fit_positions
from jaxmm.design.syntax import Expr

MEAN = "mu"


@dataclass(frozen=True)
class Factor:
    """A grouping factor: `levels` (J,) texts, `codes` (n,) int32 into them; `predictor` is what its effects add to."""

    name: str
    levels: np.ndarray
    codes: np.ndarray
    predictor: str = MEAN


@dataclass(frozen=True)
class RandomTerm:
    """One bar: `factor` is an index into `Design.factors`, `effects` the names of the q columns of Z (n, q),
    `covariance` the structure of their covariance, `inputs` what it needs to know beside its parameters.
    """

    factor: int
    effects: tuple[str, ...]
    Z: np.ndarray
    covariance: Covariance
    inputs: np.ndarray | None = None


@dataclass(frozen=True)
class Predictor:
    """The fixed part of a parameter: X (n, p) with the names `columns`, the aliased ones named in `dropped`;
    offset (n,) or None. `matrix`, `kept_columns` and `offsets` make the same for new rows; matrix is None without a
    formula. `aliases` (k, d): the dropped columns are the kept ones times it.
    """

    name: str
    formula: str
    X: np.ndarray
    columns: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    offset: np.ndarray | None = None
    matrix: ModelMatrix | None = None
    kept_columns: np.ndarray | None = None
    offsets: tuple[Expr, ...] = ()
    aliases: np.ndarray | None = None

    def rows(self, frame: Frame, n: int, memory: dict[str, Any], *, unseen: str = "error") -> tuple[np.ndarray, ...]:
        """X (n, p) and the offset (n,) of other rows."""
        if self.matrix is None:
            return np.ones((n, len(self.columns))), np.zeros(n)
        X = self.matrix.rows(frame, n, memory, unseen=unseen)[:, self.kept_columns]
        return X, formula_offset(self.offsets, frame, memory, n)

    def take(self, rows: np.ndarray) -> Predictor:
        """Some rows of it."""
        return replace(self, X=self.X[rows], offset=None if self.offset is None else self.offset[rows])


def constant(name: str, n: int) -> Predictor:
    """A parameter that is the same in every row."""
    return Predictor(name, "~ 1", np.ones((n, 1)), ("(Intercept)",))


def fit_predictor(
    name: str,
    terms: Terms,
    fixed: _terms.TermList,
    frame: Frame,
    memory: dict[str, Any],
    coding: dict[str, str],
    labels: pd.Index,
    offset: Any = None,
) -> Predictor:
    """The fixed part of a parameter on the fit's rows, `labels`; as many columns as are independent. `offset` is an
    argument beside those of the formula: a column's name, or an array over the whole table."""
    n = len(labels)
    X, matrix = fit_matrix(fixed, frame, n, memory, coding, labels)
    kept = independent_columns(X)
    names = np.array(matrix.columns, dtype=object)
    total = row_offset(terms.offsets, offset, frame, memory, labels)
    aliases = None
    if len(kept) < len(names):
        whole, X = X, np.ascontiguousarray(X[:, kept])
        aliases = np.linalg.lstsq(X, np.delete(whole, kept, axis=1), rcond=None)[0]
    dropped = tuple(np.delete(names, kept))
    return Predictor(name, terms.text, X, tuple(names[kept]), dropped, total, matrix, kept, terms.offsets, aliases)


# ---------------------------------------------------------------- bars
@dataclass
class Bars:
    """Factors and terms of the bars of all predictors, in their order; bars of one predictor over the same columns
    share a factor. `matrices` of the terms and `groupings` of the factors make the same for new rows."""

    factors: list[Factor]
    groupings: list[SeenFactor]
    terms: list[RandomTerm]
    matrices: list[ModelMatrix]
    places: dict[tuple[str, ...], int]

    @classmethod
    def none(cls) -> Bars:
        return cls([], [], [], [], {})

    def add(
        self,
        bar: Bar,
        part: _terms.TermList,
        exprs: tuple[Expr, ...],
        predictor: str,
        frame: Frame,
        memory: dict[str, Any],
        coding: dict[str, str],
        labels: pd.Index,
        matrices: Mapping[str, Any],
    ) -> None:
        """One bar with `part` on its left, by the columns `exprs`; `matrices` that are known, by name."""
        key = (predictor, *bar.group)
        if key not in self.places:
            self.places[key] = len(self.factors)
            grouping, codes = fit_grouping(factor_name(predictor, bar.name), exprs, frame)
            self.groupings.append(grouping)
            self.factors.append(Factor(grouping.name, grouping.labels, codes, predictor))
        kind, inputs = covariance.STRUCTURES[bar.kind], None
        if kind.positional and kind.takes_inputs:
            Z, matrix, inputs = fit_positions(bar, part, kind, frame, memory, labels)
        else:
            Z, matrix = fit_matrix(part, frame, len(labels), memory, coding, labels)
        self.matrices.append(matrix)
        if kind.levels:
            _check_levels(bar, Z)
        if bar.matrix is not None:
            inputs = known_root(str(bar), bar.matrix, _level_names(bar, matrix), matrices[bar.matrix])
        structure = kind(Z.shape[1], **dict(bar.options))
        if structure.amiss is not None:
            raise DataError(f"{bar}: {structure.amiss}")
        self.terms.append(RandomTerm(self.places[key], matrix.columns, Z, structure, inputs))


def factor_name(predictor: str, name: str) -> str:
    """What a factor is called: "zi~site" for the zeros."""
    return name if predictor == MEAN else f"{predictor}~{name}"


def is_one_of_levels(Z: np.ndarray) -> bool:
    """Whether each row has one effect, as with the levels of one factor."""
    return bool(np.all((Z == 0) | (Z == 1)) and np.all(Z.sum(axis=1) == 1))


def _level_names(bar: Bar, matrix: ModelMatrix) -> Sequence[str]:
    """The levels that the columns of one factor's matrix stand for."""
    names = matrix.variables[matrix.terms[0][0][0]].labels if len(matrix.terms) == len(matrix.terms[0]) == 1 else None
    if names is None or len(names) != len(matrix.columns):
        raise DataError(f"{bar}: a known matrix is of the levels of one column: {bar.kind}(0 + f | {bar.name}, "
                        f"{bar.matrix}); make one of several first")  # fmt: skip
    return list(map(str, names))


def _check_levels(bar: Bar, Z: np.ndarray) -> None:
    """Whether each row has one of the effects, as with the levels of one factor."""
    if not is_one_of_levels(Z):
        raise DataError(
            f"{bar}: the effects of {bar.kind}(...) are the levels of one factor, in their order, and nothing else: "
            f"{bar.kind}(0 + time | {bar.name}), with factor(time) where the times are numbers"
        )
