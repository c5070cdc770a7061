"""More levels of a factor, or fewer: recycled from those that a table or a model has.

    extend(data, {"subject": 80})            table -> table
    extend_model(model, {"subject": 80})     the same of a model: its rows of X, Z, weights and offset
    first_levels(model, {"subject": 40})     a model with the first levels of another

Level J + 1 is a copy of the first level with all its rows, and so on; what is nested in a copied level is copied too.
Where levels fall into groups (patients and controls), ``order_of_levels`` says which are the first.  simr recycles
levels in the same way (Green & MacLeod 2016, Methods Ecol. Evol. 7(4)).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design import Design
from jaxmm.design.columns import DataError
from jaxmm.model import Model
from jaxmm.studies.designs import as_pandas, check_size, rank_in_group

REPEATS = "repeats"  # in ``along``: how often every row occurs


def order_of_levels(groups: np.ndarray) -> np.ndarray:
    """(J,) the levels in the order in which they are taken and recycled: as they stand, but spread by group.

    ``groups`` (J,) numbers the kinds of levels (patients and controls, say). The k-th of the m levels of a kind has the
    place (k + 1/2) / m, so that the first levels taken, and the copies, have the kinds in the proportions of the whole.
    """
    rank = rank_in_group(groups)
    share = np.bincount(groups)[groups]
    return np.lexsort((np.arange(len(groups)), (rank + 0.5) / share))


def recycled(codes: np.ndarray, groups: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of ``size`` levels made from those of a factor.

    Args:
        codes: (n,) level of each row, 0..J-1; groups: (J,) see ``order_of_levels``.

    Returns:
        rows (n',) into the n; level (n',) 0..size-1; sources (size,) the level that each one is or copies. Rows are
        sorted by level, so that those of fewer levels are the first of those of more.
    """
    order = order_of_levels(groups)
    sources = order[np.arange(size) % len(order)]
    by_level = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=len(order))
    starts = np.cumsum(counts) - counts
    rows = np.concatenate([by_level[starts[s] : starts[s] + counts[s]] for s in sources])
    return rows, np.repeat(np.arange(size), counts[sources]), sources


def constant_within(codes: np.ndarray, columns: Sequence[np.ndarray], levels: int) -> np.ndarray:
    """(J,) the kinds of levels: by those columns (n,) of numbers that tell levels apart, but not rows of a level, and
    take at most half as many values as there are levels (a score that everyone has a value of their own for is no
    group)."""
    first = np.zeros(levels, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    keys = []
    for column in columns:
        own = column[first]
        if np.array_equal(own[codes], column) and 2 * len(np.unique(own)) <= levels:
            keys.append(own)
    if not keys:
        return np.zeros(levels, np.int64)
    return np.unique(np.column_stack(keys), axis=0, return_inverse=True)[1].reshape(-1)


def is_nested(inner: np.ndarray, outer: np.ndarray) -> bool:
    """Whether each inner level lies in one outer level."""
    return len(np.unique(np.column_stack([inner, outer]), axis=0)) == len(np.unique(inner))


def extend(data: Any, along: Mapping[str, int], *, nested: Sequence[str] = ()) -> pd.DataFrame:
    """The table with another number of levels of some factors.

        extend(data, {"subject": 80})                  80 subjects: those there are, then copies of them in order
        extend(data, {"subject": 80, "repeats": 2})    and every row twice

    Args:
        data: a table of any kind.
        along: factor -> number of levels, "repeats" -> how often every row occurs (unless a column has the name).
            Fewer levels than there are: the first ones, spread over the text columns that tell levels apart
            (``order_of_levels``).
        nested: columns of numbers that number levels nested in such a factor. Text columns are looked at: one whose
            values each lie in one level of the factor is nested, and its copies get names of their own.

    Returns:
        A pandas table, sorted by the factor's levels. Copies of the level "s7" are called "s7.2", "s7.3", ..; those of
        whole numbers are moved up by a multiple of their range.

    Raises:
        DataError: an unknown column, a size that is no whole number of at least 1, a factor with missing values.

    Example:
        >>> mm.extend(mm.datasets.load("dyestuff"), {"Batch": 8}).shape
        (40, 2)
    """
    table = as_pandas(data)
    for name in nested:
        _check_column(table, name, "nested")
    for name, size in along.items():
        check_size(name, size)
        if name == REPEATS and name not in table.columns:
            table = table.iloc[np.repeat(np.arange(len(table)), size)].reset_index(drop=True)
            continue
        _check_column(table, name, "along")
        codes, labels = _factorized(pd.Series(table[name]))
        others = {c: column for c, column in table.items() if c != name}
        text = {str(c): _factorized(column)[0] for c, column in others.items() if _is_text(column)}
        groups = constant_within(codes, list(text.values()), len(labels))
        rows, level, _ = recycled(codes, groups, int(size))
        new = table.iloc[rows].reset_index(drop=True)
        copies = level // len(labels)
        inner = [c for c, own in text.items() if own.max() > codes.max() and is_nested(own, codes)]
        for column in [name, *inner, *(c for c in nested if c not in (name, *inner))]:
            new[column] = _renamed(new[column], copies)
        table = new
    return table


def _check_column(table: pd.DataFrame, name: str, argument: str) -> None:
    if name not in table.columns:
        known = ", ".join(map(repr, table.columns))
        raise DataError(f"{argument} names {name!r}, which is no column of the data; there are {known}")
    if pd.isna(table[name]).to_numpy().any():
        raise DataError(f"{argument}: the column {name!r} has missing values; drop these rows first")


def _is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_datetime64_any_dtype(column)


def _factorized(column: pd.Series) -> tuple[np.ndarray, Any]:
    """Codes in the order of first appearance, a missing value as a level; the levels."""
    codes, labels = pd.factorize(column, use_na_sentinel=False)
    return codes, labels


def _renamed(column: pd.Series, copies: np.ndarray) -> pd.Series:
    """Level x of copy k > 0 becomes "x.k+1"; a number moves up by k ranges."""
    codes, labels = _factorized(column)
    if np.all(copies == 0):
        return column.cat.remove_unused_categories() if isinstance(column.dtype, pd.CategoricalDtype) else column
    if pd.api.types.is_integer_dtype(column):
        span = int(column.max()) - int(column.min()) + 1
        return column + span * copies
    old = [str(x) for x in labels]
    dot = next(mark for mark in (".", "_", "#", "~", " copy ") if not _clash(old, mark, int(copies.max())))
    names = np.array([old, *([f"{x}{dot}{k + 1}" for x in old] for k in range(1, int(copies.max()) + 1))], object)
    values = names[copies, codes]
    return pd.Series(pd.Categorical(values, list(dict.fromkeys(values))), column.index, name=column.name)


def _clash(labels: list[str], mark: str, copies: int) -> bool:
    return bool({f"{x}{mark}{k + 1}" for x in labels for k in range(1, copies + 1)} & set(labels))


def extend_model(model: Model, along: Mapping[str, int]) -> Model:
    """The model of ``extend``: its rows copied as they stand, so that every coefficient keeps its meaning.

    Knots, centres and contrasts are those of the model given. The factors of ``along`` are its grouping factors, and
    that within which errors are correlated; what is nested in one of them is copied with its levels; "repeats" is as in
    ``extend``. The response is copied too: this is a model to simulate from, not to fit.

    Raises:
        DataError: an unknown factor, fewer than two levels, or too few for the columns of X; "repeats" of rows whose
            errors are correlated by time.
    """
    design = model.design
    for name, size in along.items():
        factor = next((f for f, x in enumerate(design.correlated_within) if x.name == name), None)
        if factor is None and name != REPEATS:
            known = ", ".join(repr(name) for name in dict.fromkeys(f.name for f in design.correlated_within))
            raise DataError(f"along names {name!r}, which is no grouping factor; there are {known}, and {REPEATS!r}")
        check_size(name, size, 1 if factor is None else 2)
        if factor is None:
            own = design.residual
            if own is not None and own.subject is not None and size > 1:
                raise DataError(
                    f"along repeats rows, and {own.text} has one row of '{own.subject.name}' at each time: plan the "
                    "table with more times, or more levels"
                )
            rows = np.repeat(np.arange(len(design.y)), int(size))
            design = _of_rows(design, rows, [(f.codes[rows], f.levels) for f in design.correlated_within])
        else:
            design = _extended(design, factor, int(size))
    return _model_of(design, model, along)


def first_levels(model: Model, along: Mapping[str, int], repeats: int = 1) -> tuple[Model, np.ndarray]:
    """The model with the first levels of some factors only, and its rows among those of the model given.

    ``repeats`` is that of the model given, where it was extended by repeats last and ``along`` wants fewer.

    Raises:
        DataError: fewer than two levels, or too few for the columns of X.
    """
    design = model.design
    keep = np.ones(len(design.y), bool)
    for name, size in along.items():
        factor = next((f for f in design.correlated_within if f.name == name), None)
        check_size(name, size, 1 if factor is None else 2)
        keep &= (np.arange(len(keep)) % repeats if factor is None else factor.codes) < size
    rows = np.flatnonzero(keep)
    coded = [
        _compact(f.codes[rows].astype(np.int64), lambda k, f=f: str(f.levels[k])) for f in design.correlated_within
    ]
    return _model_of(_of_rows(design, rows, coded), model, along), rows


def _model_of(design: Design, model: Model, along: Mapping[str, int]) -> Model:
    p = design.X.shape[1]
    if p and (p >= len(design.y) or np.linalg.matrix_rank(design.X) < p):
        raise DataError(
            f"with {', '.join(f'{name} = {size}' for name, size in along.items())} the columns of X cannot be told "
            "apart: start from more levels"
        )
    return model.with_design(design)


def _extended(design: Design, f: int, size: int) -> Design:
    factor, own = design.correlated_within[f], design.residual
    sets = [] if own is None or own.sets is None else [own.sets.codes]
    groups = constant_within(factor.codes, [*design.X.T, *sets], len(factor.levels))
    rows, level, _ = recycled(factor.codes, groups, size)
    copies = level // len(factor.levels)
    coded = []
    for g, other in enumerate(design.correlated_within):
        own = other.codes[rows].astype(np.int64)
        if g == f:
            names = [str(factor.levels[k]) for k in order_of_levels(groups)]
            coded.append((level, np.array([_copy_name(names, k) for k in range(size)], object)))
        elif is_nested(other.codes, factor.codes):
            coded.append(_compact(own + len(other.levels) * copies, lambda k, o=other: _copy_name(list(o.levels), k)))
        else:
            coded.append(_compact(own, lambda k, o=other: str(o.levels[k])))
    return _of_rows(design, rows, coded)


def _copy_name(names: list, k: int) -> str:
    copy, at = divmod(k, len(names))
    return f"{names[at]}.{copy + 1}" if copy else str(names[at])


def _compact(codes: np.ndarray, name: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
    """Codes numbered anew by first appearance, so that more levels do not renumber the first."""
    codes, used = pd.factorize(codes)
    return codes, np.array([name(int(k)) for k in used], object)


def _of_rows(design: Design, rows: np.ndarray, coded: list[tuple[np.ndarray, np.ndarray]]) -> Design:
    def take(x: Any) -> Any:
        return None if x is None else x[rows]

    weights, trials = take(design.weights), take(design.trials)
    y = _varying(design.y, rows, trials)
    held = design.held if design.spec is None else design.spec.held
    factors = zip(design.factors, coded, strict=False)  # and last the factor within which errors are correlated
    return replace(
        design, y=y, X=design.X[rows], weights=weights, offset=take(design.offset), trials=trials,
        factors=tuple(replace(f, levels=names, codes=codes.astype(np.int32)) for f, (codes, names) in factors),
        terms=tuple(replace(t, Z=t.Z[rows]) for t in design.terms),
        further=tuple(p.take(rows) for p in design.further),
        held={name: x.take(rows) for name, x in held.items()},
        residual=None if design.residual is None else design.residual.take(rows, *coded[len(design.factors) :]),
        index=pd.RangeIndex(len(rows)), kept=np.ones(len(rows), bool), held_out=None, n_missing=0,
        y_all=y, weights_all=weights, trials_all=trials, spec=None,  # pyright: ignore
    )  # fmt: skip


def _varying(y: np.ndarray, rows: np.ndarray, trials: np.ndarray | None) -> np.ndarray:
    """The rows' responses; where a few rows happen to have one and the same, others that the family takes."""
    if np.ptp(y[rows]) > 0:
        return y[rows]
    turn = np.arange(len(rows)) % 2
    return turn * trials if trials is not None else np.array([y.min(), y.max()])[turn]
