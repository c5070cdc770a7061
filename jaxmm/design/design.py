"""Design: the arrays of a mixed model, and what is needed to make them for new rows.

    y (n,), trials (n,), X (n, p), per random-effects term Z (n, q) with the codes of its grouping factor,
    weights (n,), offset (n,)

Z is never expanded over levels: the row i of a term touches the q effects of level `codes[i]`. `building.build` makes
it of formulas and a table, `from_arrays` of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design.columns import DataError, Levels, Table, near
from jaxmm.design.grouping import SeenFactor
from jaxmm.design.inputs import Frame, formula_offset, new_offset
from jaxmm.design.modelmatrix import ModelMatrix
from jaxmm.design.predictor import MEAN, Factor, Predictor, RandomTerm
from jaxmm.design.residual import ResidualDesign
from jaxmm.design.seen import Seen
from jaxmm.design.syntax import Expr, names


@dataclass(frozen=True)
class NewData:
    """A design evaluated on m other rows.

    X (m, p), NaN in a row with a missing value; Z (m, q) per term; codes (m,) int32 per factor: J + k for
    the k-th level of `new_levels`, which the fit has not seen; -1 for a missing one, and for a factor that was
    not asked for (its terms' Z is zero then); offset (m,), zero without offsets; of each further predictor X and its
    offset; ``errors`` gives the errors of these rows, where the model has a covariance of them.
    """

    X: np.ndarray
    Z: tuple[np.ndarray, ...]
    codes: tuple[np.ndarray, ...]
    offset: np.ndarray
    index: pd.Index
    new_levels: dict[str, list[str]]
    further: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    errors: Callable[[], ResidualDesign] | None = None


@dataclass(frozen=True)
class Spec:
    """What the fit remembers for new rows; `aliases` (k, d): the columns left out of X are the kept ones times it;
    `seen`: the columns of the table behind the mean; `held`: their values in the rows that count."""

    matrix: ModelMatrix
    kept_columns: np.ndarray
    offsets: tuple[Expr, ...]
    offset_column: str | None
    offset_array: bool
    bars: tuple[ModelMatrix, ...]
    groupings: tuple[SeenFactor, ...]
    memory: dict[str, Any]
    aliases: np.ndarray | None = None
    seen: Seen | None = None
    held: Mapping[str, np.ndarray | Levels] = field(default_factory=dict)

    def excess(self, L: np.ndarray) -> np.ndarray:
        """Of rows over all columns (.., k + d) what the ones left out have beyond what the kept ones imply (.., d): the
        data tell a row whose excess is zero."""
        if self.aliases is None:
            return np.zeros((len(L), 0))
        return np.delete(L, self.kept_columns, axis=1) - L[:, self.kept_columns] @ self.aliases


@dataclass(frozen=True)
class Design:
    """The arrays of a model on its n rows; see the fields' shapes.

    y (n,) float64, the count of successes where there are trials (n,), else trials is None; `success` is the level
    of a factor that counts as success. X (n, p) with the names `columns`, the aliased ones named in `dropped`;
    `factors` and `terms` as in the formula; weights (n,) above zero or None; offset (n,) or None. `index` labels
    every row used, also those of weight zero or without trials, and `kept` is True where a row counts: y, X and the
    codes are the rows `index[kept]`. `y_all`, `trials_all` and `weights_all` run over `index`; `held_out` is the
    design of the rows that do not count, or None. `n_missing` rows went because of a missing value, in one of the
    columns `holes`. `weights_are_trials`: the weights of a proportion went into
    `trials`. `remarks`: what the columns' user may not know of them, a sentence each. `further`: predictors of
    parameters after the mean; X, columns and offset are the mean's. `stand_in`: y is there for its length alone, and
    nothing can be fitted to it. `residual`: the covariance of the errors, where they are not independent of one
    variance. `held`: of rows copied from another design, without `spec`, the columns of its formulas.
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
    holes: tuple[str, ...] = ()
    weights_are_trials: bool = False
    stand_in: bool = False
    residual: ResidualDesign | None = None
    held: Mapping[str, np.ndarray | Levels] = field(default_factory=dict)

    @property
    def correlated_within(self) -> tuple[Factor, ...]:
        """The factors within whose levels rows are correlated: of the random effects, then of the errors."""
        subject = None if self.residual is None else self.residual.subject
        return self.factors if subject is None else (*self.factors, subject)

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
    def beyond_mean(self) -> tuple[Predictor, ...]:
        """The predictors of all other parameters, also of a linear model's log φ, which has no coefficients here."""
        log_phi = None if self.residual is None else self.residual.dispersion
        return self.further if log_phi is None else (*self.further, log_phi)

    @property
    def all_dropped(self) -> tuple[str, ...]:
        """The aliased columns of all predictors: "x" of the mean, "phi~x" of log φ."""
        return (*self.dropped, *(f"{p.name}~{column}" for p in self.beyond_mean for column in p.dropped))

    @property
    def fixed_terms(self) -> dict[str, tuple[str, ...]]:
        """The terms of the mean's fixed part, without the intercept, and the columns of X that each has; of a model
        from arrays every column is a term."""
        if self.spec is None:
            return {name: (name,) for name in self.columns if name != "(Intercept)"}
        kept = set(self.columns)
        return {
            name: tuple(c for c in columns if c in kept)
            for name, columns in self.spec.matrix.columns_of_terms().items()
        }

    def without(self, columns: Collection[str]) -> Design:
        """The same without some columns of X."""
        left = np.array([j for j, name in enumerate(self.columns) if name not in columns], int)
        held_out = None if self.held_out is None else replace(self.held_out, X=self.held_out.X[:, left])
        spec: Any = self.spec and replace(self.spec, kept_columns=self.spec.kept_columns[left], aliases=None)
        return replace(
            self,
            formula=f"{self.formula}, without {', '.join(columns)}",
            X=np.ascontiguousarray(self.X[:, left]),
            columns=tuple(self.columns[j] for j in left),
            held_out=held_out,
            spec=spec,
        )

    @property
    def observed(self) -> np.ndarray:
        """The response over `index` as fitted values are: proportions where there are trials, NaN for 0 of 0."""
        if self.trials_all is None:
            return self.y_all
        with np.errstate(invalid="ignore"):
            return self.y_all / self.trials_all

    def evaluate(
        self,
        newdata: Any,
        *,
        offset: Any = None,
        need_groups: bool | Collection[str] = True,
        need_levels: bool = True,
    ) -> NewData:
        """The design on other rows: the fit's levels, contrasts, knots and centres.

        Args:
            newdata: a table of any accepted kind; response and weights are not needed.
            offset: stands in for the `offset` argument of the fit: a column's name, an array or a number.
            need_groups: whether the grouping factors are needed, or the names of those that are.
            need_levels: False for Z of those alone: their levels are not looked for, and all codes are -1.

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
        found = new_data(self, frame, X, total, further, table.index, needed, levels=need_levels)
        own = self.residual
        if own is None:
            return found
        return replace(found, errors=lambda: own.at_rows(frame, spec.memory, table.index))

    def _needed(self, need_groups: bool | Collection[str]) -> set[str]:
        names = [f.name for f in self.factors]
        if isinstance(need_groups, bool):
            return set(names) if need_groups else set()
        unknown = [g for g in need_groups if g not in names]
        if unknown:
            raise DataError(f"there is no grouping factor {unknown[0]!r}; the model has {', '.join(map(repr, names))}")
        return set(need_groups)


def new_data(
    design: Design,
    frame: Frame,
    X: np.ndarray,
    offset: np.ndarray,
    further: tuple[tuple[np.ndarray, ...], ...],
    index: pd.Index,
    needed: set[str],
    unseen: str = "error",
    levels: bool = True,
) -> NewData:
    spec = design.spec
    n = len(index)
    codes, new_levels = [], {}
    gone = np.zeros(n, dtype=bool)
    for factor, grouping in zip(design.factors, spec.groupings, strict=True):
        if factor.name not in needed or not levels:
            codes.append(np.full(n, -1, dtype=np.int32))
            continue
        absent = [name for e in grouping.exprs for name in names(e) if name not in frame]
        if absent:
            raise DataError(
                f"there is no column {absent[0]!r}{frame.where}, which says whose random effects to add: "
                f"re='population' leaves them out; {near(absent[0], frame.table.names)}"
            )
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
