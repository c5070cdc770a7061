"""Columns of many tables, one under the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design.columns import DataError, Table, near


def columns_of(table: Any) -> list[str]:
    if isinstance(table, Mapping):
        return [str(c) for c in table]
    if hasattr(table, "columns"):
        return [str(c) for c in (getattr(table, "column_names", None) or table.columns)]
    return Table(table).names


def stack(tables: Sequence[Any], names: tuple[str, ...], first: int) -> tuple[dict[str, pd.Series], np.ndarray]:
    """The columns of tables of one kind, one under the other, and how many rows each has.

    Raises:
        DataError: a table lacks a column; a column of numbers in one and of text in another.
    """
    for k, t in enumerate(tables):
        has = t if isinstance(t, Mapping | pd.DataFrame) else columns_of(t)
        twice = [n for n in names if list(has).count(n) > 1] if isinstance(t, pd.DataFrame) else []
        if twice:
            raise DataError(f"data set {first + k} has several columns {twice[0]!r}: rename or drop all but one")
        lacking = [n for n in names if n not in has]
        if lacking:
            raise DataError(
                f"data set {first + k} has no column {lacking[0]!r}; {near(lacking[0], list(map(str, has)))}"
            )
    sizes: Any = None
    columns = {}
    for name in names:
        pieces = [_column(t, name) for t in tables]
        lengths = np.array([len(x) for x in pieces], np.int64)
        if sizes is not None and (lengths != sizes).any():
            k = int(np.argmax(lengths != sizes))
            raise DataError(f"data set {first + k}: its columns have different lengths: {name!r} has {lengths[k]} rows")
        sizes = lengths
        columns[name] = _joined_column(name, pieces, first)
    return columns, np.zeros(len(tables), np.int64) if sizes is None else sizes


def is_numeric(x: Any) -> bool:
    return pd.api.types.is_numeric_dtype(x.dtype) and not pd.api.types.is_bool_dtype(x.dtype)


def _column(table: Any, name: str) -> Any:
    if isinstance(table, pd.DataFrame):
        return table[name]
    if isinstance(table, Mapping) and isinstance(table[name], np.ndarray):
        return table[name]
    whole = Table({name: table[name]} if isinstance(table, Mapping) else table)
    return whole._fetch(whole._place[name])


def _joined_column(name: str, pieces: list[Any], first: int) -> pd.Series:
    kinds = {x.dtype for x in pieces}
    if all(isinstance(d, np.dtype) and d.kind in "fiu" for d in kinds):
        return pd.Series(np.concatenate([np.asarray(x) for x in pieces]))
    of_numbers = np.array([is_numeric(x) for x in pieces])
    empty = np.array([len(x) == 0 or bool(pd.isna(x).all()) for x in pieces])
    numbers, others = np.flatnonzero(of_numbers & ~empty), np.flatnonzero(~of_numbers & ~empty)
    if len(numbers) and len(others):
        kind = pieces[others[0]].dtype
        what = "True and False" if pd.api.types.is_bool_dtype(kind) else f"values of the type {kind}"
        raise DataError(
            f"column {name!r} holds numbers in data set {first + numbers[0]} and {what} in data set "
            f"{first + others[0]}: give all data sets the same kind, by pandas.to_numeric, astype(int) or astype(str)"
        )
    series = [pd.Series(x) for x, none in zip(pieces, empty, strict=True) if len(kinds) == 1 or not none] or pieces
    if len(kinds) > 1 and all(isinstance(x.dtype, pd.CategoricalDtype) for x in series):
        joined: Any = pd.api.types.union_categoricals(series, ignore_order=True)  # pyright: ignore
        series = [pd.Series(pd.Categorical(x, categories=joined.categories)) for x in series]
    if len(series) < len(pieces):  # columns of nothing but missing values have no kind
        filled = iter(series)
        series = [
            pd.Series([None] * len(x), dtype=series[0].dtype) if none else next(filled)
            for x, none in zip(pieces, empty, strict=True)
        ]
    return pd.concat(series, ignore_index=True)
