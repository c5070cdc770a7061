"""Columns of a formula with other values in each lane -> X, Z and the offset of each lane.

    x (L, n)  --the formula's variables on the rows of L lanes-->  X (L, n, p), Z (L, n, q) by term, offset (L, n)

What a formula learns from a whole column (poly, scale, splines) it learns anew from that of each lane, so that a lane
has the columns that a table of its own would have.  Levels and contrasts are those of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from jaxmm.design import syntax as _syntax
from jaxmm.design.columns import Column, DataError, Levels, Table, near
from jaxmm.design.design import Design
from jaxmm.design.functions import Matrix, as_number
from jaxmm.design.modelmatrix import ModelMatrix, recoded
from jaxmm.design.transforms import evaluate, learns

AT_ONCE = 1 << 20  # rows of all lanes that are evaluated together


class LaneColumns(NamedTuple):
    """Of L lanes: ``X`` (L, n, p), ``Z`` of each term (L, n, q), ``offset`` (L, n); None where they are the model's.
    ``gone`` (L, n): rows in which a column is missing; ``impossible`` (L, n): other rows whose columns are not
    finite, all of a lane of which a transform cannot be made.  X and Z are zero in both."""

    X: np.ndarray | None
    Z: tuple[np.ndarray, ...] | None
    offset: np.ndarray | None
    gone: np.ndarray
    impossible: np.ndarray


class _Rows(Mapping):
    """Columns by name, as the evaluation of a formula asks for them."""

    def __init__(self, columns: Mapping[str, np.ndarray | Levels]):
        self.columns = columns

    def __getitem__(self, name: str) -> np.ndarray | Levels:
        return self.columns[name]

    def levels(self, name: str) -> Levels:
        value = self.columns[name]
        if isinstance(value, Levels):
            return value
        missing = np.isnan(value)
        return Column(name, "number", value, missing if missing.any() else None).levels

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class Replaced:
    """Which parts of a design the columns ``names`` enter: X, the terms ``bars``, the offset."""

    design: Design
    names: frozenset[str]
    in_X: bool
    bars: tuple[int, ...]
    in_offset: bool

    def lanes(self, values: Mapping[str, np.ndarray]) -> LaneColumns:
        """From values (L, n) of each column, of numbers or labels."""
        L, n = next(iter(values.values())).shape
        step = max(1, AT_ONCE // max(n, 1))
        parts = [self._lanes({k: x[at : at + step] for k, x in values.items()}) for at in range(0, L, step)]
        if len(parts) == 1:
            return parts[0]
        Z = None if parts[0].Z is None else tuple(map(np.concatenate, zip(*(p.Z for p in parts), strict=True)))
        X, offset = (
            None if getattr(parts[0], name) is None else np.concatenate([getattr(p, name) for p in parts])
            for name in ("X", "offset")
        )
        gone, impossible = (np.concatenate([getattr(p, name) for p in parts]) for name in ("gone", "impossible"))
        return LaneColumns(X, Z, offset, gone, impossible)

    def _lanes(self, values: Mapping[str, np.ndarray]) -> LaneColumns:
        d = self.design
        L, n = next(iter(values.values())).shape
        lanes: Any = _Lanes(d, values, L, n) if d.spec is not None else None
        X = lanes.matrix(d.spec.matrix)[..., d.spec.kept_columns] if lanes and self.in_X else None
        Z: Any = [np.broadcast_to(t.Z, (L, *t.Z.shape)) for t in d.terms] if self.bars else None
        for t in self.bars if lanes else ():
            Z[t] = lanes.matrix(d.spec.bars[t])
        if lanes is None:  # a model from arrays has columns by name
            X = _by_name(d.X, d.columns, values, L) if self.in_X else None
            for t in self.bars:
                Z[t] = _by_name(d.terms[t].Z, d.terms[t].effects, values, L)
        offset = lanes.offset() if lanes and self.in_offset else None
        gone = np.zeros((L, n), bool)
        for x in values.values():
            gone |= _missing(x)
        bad = np.zeros((L, n), bool)
        for x in (X, *(Z[t] for t in self.bars), offset):
            if x is not None:
                bad |= ~np.isfinite(x) if x.ndim == 2 else ~np.isfinite(x).all(axis=2)
        impossible, out = bad & ~gone, bad | gone
        if out.any():
            X = None if X is None else np.where(out[..., None], 0.0, X)
            offset = None if offset is None else np.where(out, 0.0, offset)
            for t in self.bars:
                Z[t] = np.where(out[..., None], 0.0, Z[t])
        return LaneColumns(X, None if Z is None else tuple(Z), offset, gone, impossible)


def replaced(design: Design, names: list[str]) -> Replaced:
    """Where the columns enter.

    Raises:
        DataError: a column that is not in the formula, or that is one of what lanes share: the response, a grouping
            factor, the formula of a further parameter; one whose columns of X the model has not, since they depend on
            others in its own table.
    """
    if design.spec is None:
        return _of_arrays(design, names)
    spec, wanted = design.spec, frozenset(names)
    response = set(_syntax.names(_syntax.read(design.response)))
    groups = {n for g in spec.groupings for e in g.exprs for n in _syntax.names(e)}
    further = {n for p in design.further if p.matrix for v in p.matrix.variables for n in _syntax.names(v.expr)}
    for name in names:
        if name in response:
            raise DataError(f"columns: {name!r} is the response: its values are the rows of Y")
        if name in groups:
            raise DataError(
                f"columns: {name!r} is a grouping factor, which lanes of one design share: fit tables of their own, "
                "fit_many(tables, formula=...)"
            )
        if name in further:
            raise DataError(f"columns: {name!r} is in the formula of a further parameter, which lanes share")
        if name not in spec.held:
            raise DataError(f"columns: {name!r} is no column of the formula; {near(name, list(spec.held))}")
    in_X = _enters(spec.matrix, wanted)
    bars = tuple(t for t, m in enumerate(spec.bars) if _enters(m, wanted))
    in_offset = any(wanted & set(_syntax.names(e)) for e in spec.offsets)
    lost = [c for c in _columns_with(spec.matrix, wanted) if c in design.dropped]
    if lost:
        raise DataError(
            f"columns: {lost[0]!r} depends on other columns in the model's own table, so that the model has it not: "
            "make the model with a table in which it varies, such as that of one lane"
        )
    return Replaced(design, wanted, in_X, bars, in_offset)


def _of_arrays(design: Design, names: list[str]) -> Replaced:
    known = {*design.columns, *(e for t in design.terms for e in t.effects)}
    for name in names:
        if name not in known:
            raise DataError(f"columns: {name!r} is no column of X or Z; {near(name, sorted(known))}")
    wanted = frozenset(names)
    bars = tuple(t for t, term in enumerate(design.terms) if wanted & set(term.effects))
    return Replaced(design, wanted, bool(wanted & set(design.columns)), bars, False)


def _by_name(columns: np.ndarray, names: tuple[str, ...], values: Mapping[str, np.ndarray], L: int) -> np.ndarray:
    whole = np.array(np.broadcast_to(columns, (L, *columns.shape)))
    for j, name in enumerate(names):
        if name in values:
            whole[..., j] = values[name]
    return whole


def _enters(matrix: ModelMatrix, wanted: frozenset[str]) -> bool:
    return any(wanted & set(_syntax.names(v.expr)) for v in matrix.variables)


def _columns_with(matrix: ModelMatrix, wanted: frozenset[str]) -> list[str]:
    """The columns of the terms that a wanted column enters."""
    out = []
    for term, columns in zip(matrix.terms, matrix.columns_of_terms().values(), strict=True):
        if any(wanted & set(_syntax.names(matrix.variables[k].expr)) for k, _ in term):
            out += columns
    return out


def _missing(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "f":
        return np.isnan(x)
    if x.dtype.kind == "O":
        return np.array([[v is None or v != v for v in row] for row in x])
    return np.zeros(x.shape, bool)


class _Lanes:
    """The rows of L lanes, one lane after another."""

    def __init__(self, design: Design, values: Mapping[str, np.ndarray], L: int, n: int):
        self.spec, self.L, self.n, self.values = design.spec, L, n, values
        self.design, self.anew = design, frozenset(values)
        # numbers as they are; labels become codes, as a table's column would
        texts = {k: x.reshape(-1) for k, x in values.items() if x.dtype.kind not in "fiub"}
        table = Table(texts)
        own: dict[str, Any] = {k: table.column(k).natural for k in texts}
        own |= {k: np.asarray(x, float).reshape(-1) for k, x in values.items() if k not in texts}
        self.own = own
        self.shared = _Rows(self.spec.held)
        self.all = _Rows({**{k: _tiled(x, L) for k, x in self.spec.held.items() if k not in own}, **own})

    def matrix(self, matrix: ModelMatrix) -> np.ndarray:
        """(L, n, columns); NaN where a value is missing or cannot be had."""
        values = [self._variable(v) for v in matrix.variables]
        with np.errstate(all="ignore"):
            return matrix.filled(values, self.L * self.n).reshape(self.L, self.n, -1)

    def _variable(self, v: Any) -> Any:
        if not self.anew & set(_syntax.names(v.expr)):
            value = evaluate(v.expr, self.shared, self.spec.memory, fitting=False)
            return _tiled(self._coded(v, value), self.L)
        if not learns(v.expr, self.anew):
            return self._coded(v, evaluate(v.expr, self.all, self.spec.memory, fitting=False))
        return _joined([self._learnt(v, lane) for lane in range(self.L)], self.n)

    def _learnt(self, v: Any, lane: int) -> Any:
        """Of one lane, with what its own column teaches; None where nothing can be learnt."""
        at = slice(lane * self.n, (lane + 1) * self.n)
        own = {k: replace(x, codes=x.codes[at]) if isinstance(x, Levels) else x[at] for k, x in self.own.items()}
        frame = _Rows({**self.spec.held, **own})
        try:
            value = evaluate(v.expr, frame, dict(self.spec.memory), fitting=True, anew=self.anew)
        except (DataError, ValueError, np.linalg.LinAlgError):
            return None
        return self._coded(v, value)

    def _coded(self, v: Any, value: Any) -> Any:
        if v.labels is not None:
            return recoded(v, value, "error")
        return as_number(value, f"'{v.expr}'") if isinstance(value, Levels) else value

    def offset(self) -> np.ndarray:
        """(L, n): the formula's, and what the argument offset= has put beside it."""
        d = self.design
        with np.errstate(all="ignore"):
            of_model, of_lanes = (
                sum(np.asarray(as_number(evaluate(e, rows, self.spec.memory, fitting=False), f"offset({e})"), float)
                    for e in self.spec.offsets)
                for rows in (self.shared, self.all)
            )  # fmt: skip
        argument = np.asarray(d.offset) - of_model
        return np.reshape(of_lanes, (self.L, self.n)) + np.where(np.abs(argument) > 1e-12, argument, 0.0)


def _tiled(value: Any, L: int) -> Any:
    if isinstance(value, Levels):
        return replace(value, codes=np.tile(value.codes, L))
    if isinstance(value, Matrix):
        return replace(value, values=np.tile(value.values, (L, 1)))
    return np.tile(value, L)


def _joined(values: list[Any], n: int) -> Any:
    """The values of lanes one after another, NaN where there are none."""
    there = [v for v in values if v is not None]
    if not there:
        raise DataError("columns: no lane has values of which the transforms in the formula can be made")
    if isinstance(there[0], Levels):
        none = np.full(n, -1, np.int32)
        return replace(there[0], codes=np.concatenate([none if v is None else v.codes for v in values]))
    if isinstance(there[0], Matrix):
        none = np.full_like(there[0].values, np.nan)
        return replace(there[0], values=np.concatenate([none if v is None else v.values for v in values]))
    return np.concatenate([np.full(n, np.nan) if v is None else v for v in values])
