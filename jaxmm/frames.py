"""A table of results, made with pandas -> the same in the library of tables that is asked for.

What stands in a pandas index is a column elsewhere, the first, unless it only counts the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

BACKENDS = ("pandas", "polars")


def as_backend(frame: pd.DataFrame, backend: str, index: str = "index") -> Any:
    """The frame as it is, or as a ``polars.DataFrame``.

    Args:
        frame: (n, k), with any index.
        backend: "pandas" or "polars".
        index: what the column of an index without a name is called.

    A categorical column becomes a ``polars.Enum`` of its categories. NaN stays NaN: it is a result, and not a value
    that is missing; where a text is missing there is null.

    Raises:
        ValueError: another backend.
        ImportError: polars is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, not {backend!r}")
    if backend == "pandas":
        return frame
    try:
        import polars as pl
    except ImportError as error:
        raise ImportError("backend='polars' needs polars: pip install 'jaxmm[polars]'") from error
    counts_rows = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    if not counts_rows:
        names = [name or (index if k == 0 else f"{index}{k}") for k, name in enumerate(frame.index.names)]
        frame = frame.reset_index(names=[_free(str(name), frame) for name in names])
    return pl.DataFrame([_series(pl, str(name), column) for name, column in frame.items()])


def _free(name: str, frame: pd.DataFrame) -> str:
    while name in frame.columns:
        name += "_"
    return name


def _series(pl: Any, name: str, column: pd.Series) -> Any:
    """One column, without pyarrow."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        texts = [None if gone else str(v) for v, gone in zip(column, column.isna(), strict=True)]
        return pl.Series(name, texts, dtype=pl.Enum([str(c) for c in column.cat.categories]))
    values = column.to_numpy()
    if values.dtype.kind in "biufM":
        return pl.Series(name, np.ascontiguousarray(values))
    gone = column.isna().to_numpy()
    return pl.Series(name, [None if g else v for v, g in zip(column.tolist(), gone, strict=True)], strict=False)
