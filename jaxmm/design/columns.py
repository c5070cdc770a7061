"""A table of any kind -> columns of numbers or of levels.

Only the columns that are asked for are converted. A column of numbers keeps its own dtype until it is used
(large integer identifiers stay exact as grouping factors); text, categories and booleans become int32 codes
into the tuple of their labels, with -1 for a missing value. The order of the levels is that of a categorical
dtype, else sorted (numbers by size, text by code point); labels are texts as R prints them.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design.syntax import is_number, number_text

EXACT = 2.0**53  # whole numbers from here on are not all to be had in float64


class DataError(ValueError):
    """Data that cannot be used as asked; the message names the column, the value and the remedy."""


@dataclass(frozen=True)
class Levels:
    """Values of a factor: int32 codes (n,) into `labels` (J,), -1 where missing or unknown."""

    codes: np.ndarray
    labels: np.ndarray
    ordered: bool = False
    logical: bool = False

    def take(self, rows: np.ndarray | None) -> "Levels":
        return self if rows is None else replace(self, codes=self.codes[rows])

    def used(self) -> "Levels":
        """Without the levels that no row has; their order stays."""
        present = np.zeros(len(self.labels) + 1, dtype=bool)  # the last slot takes the missing
        present[self.codes] = True
        present = present[:-1]
        if present.all():
            return self
        recode = np.append(np.cumsum(present) - 1, -1).astype(np.int32)
        return replace(self, codes=recode[self.codes], labels=self.labels[present])

    def onto(self, labels: np.ndarray) -> tuple["Levels", list[str]]:
        """The same values coded into other labels, and the labels found here that are not among them."""
        if len(labels) == len(self.labels) and (labels == self.labels).all():
            return self, []
        place = {label: i for i, label in enumerate(labels)}
        recode = np.array([place.get(v, -1) for v in self.labels] + [-1], dtype=np.int32)
        codes = recode[self.codes]
        lost = (codes < 0) & (self.codes >= 0)
        unknown = [str(self.labels[k]) for k in np.unique(self.codes[lost])] if lost.any() else []
        return Levels(codes, labels, self.ordered, self.logical), unknown

    @property
    def example(self) -> str:
        """A label in brackets, for a message that wants numbers: one that is none, where there is one."""
        shown = next((v for v in self.labels if not is_number(v)), *self.labels[:1])
        return f" (such as {str(shown)!r})" if len(self.labels) else ""

    def numbers(self) -> np.ndarray:
        """A logical as 0 and 1, NaN where missing; a factor's codes from 1."""
        shift = 0.0 if self.logical else 1.0
        return np.where(self.codes < 0, np.nan, self.codes + shift)


def logical(truth: np.ndarray, missing: np.ndarray | None = None) -> Levels:
    codes = truth.astype(np.int32)
    if missing is not None and missing.any():
        codes = np.where(missing, np.int32(-1), codes)
    return Levels(codes, LOGICAL, logical=True)


LOGICAL = np.array(["FALSE", "TRUE"], dtype=object)


@dataclass(frozen=True)
class Column:
    """One column: `kind` says what it holds, `values` are numbers (numpy; Python's own where no dtype has them
    exactly), or anything that pandas factorizes.
    """

    name: str
    kind: str  # "number", "logical", "text", "category", "time"
    values: Any
    missing: np.ndarray | None  # bool (n,), None where nothing is missing
    ordered: bool = False

    @cached_property
    def levels(self) -> Levels:
        if self.kind == "category":
            codes, categories = self.values
            return _labelled(codes, _labels(categories), self.ordered)
        if self.kind == "logical":
            return logical(self.values, self.missing)
        values = self.values
        if self.kind == "number" and self.missing is not None and values.dtype.kind in "iuO":
            codes, uniques = pd.factorize(values[~self.missing])
            full = np.full(len(values), -1, dtype=codes.dtype)
            full[~self.missing] = codes
            codes = full
        else:
            codes, uniques = pd.factorize(values, use_na_sentinel=True)
        uniques = np.asarray(uniques)
        order = np.argsort(uniques, kind="stable")
        rank = np.empty(len(order) + 1, dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        rank[-1] = -1
        return _labelled(rank[codes], _labels(uniques[order]), False)

    @cached_property
    def numbers(self) -> np.ndarray:
        """float64 (n,), NaN where missing. Raises DataError for anything but numbers and booleans."""
        if self.kind not in ("number", "logical"):
            raise DataError(
                f"column {self.name!r} holds {_HOLDS[self.kind]} where numbers are due"
                f"{self.levels.example if self.kind in ('text', 'category') else ''}; {_REMEDY[self.kind]}"
            )
        numbers = np.asarray(self.values, dtype=np.float64)
        if self.missing is not None and self.values.dtype.kind in "iubO":
            numbers = np.where(self.missing, np.nan, numbers)
        return numbers

    @property
    def natural(self) -> np.ndarray | Levels:
        """What R's model frame would hold: numbers, or levels for text, categories and booleans."""
        if self.kind == "number":
            return self.numbers
        if self.kind == "time":
            raise DataError(
                f"column {self.name!r} holds dates or times, which have no unit in a model: make a number "
                "of it first (days since the start, for one), or a text for a factor"
            )
        return self.levels


_HOLDS = {"text": "text", "category": "categories", "time": "dates or times"}
_REMEDY = {
    "text": "if the texts are numbers, convert them (pandas.to_numeric)",
    "category": "if the categories are numbers, convert them (pandas.to_numeric)",
    "time": "make a number of it first (days since the start, for one)",
}


def _labelled(codes: np.ndarray, labels: np.ndarray, ordered: bool) -> Levels:
    """Levels with distinct labels: values that print alike are one level, as in R."""
    codes = np.asarray(codes, dtype=np.int32)
    merged, uniques = pd.factorize(labels)
    if len(uniques) < len(labels):
        codes = np.append(merged, -1).astype(np.int32)[codes]
        labels = np.asarray(uniques, dtype=object)
    return Levels(codes, labels, ordered)


def _labels(values: Any) -> np.ndarray:
    """Labels as R prints them, object dtype."""
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        return values.astype(str).astype(object)
    if values.dtype.kind == "M":
        return np.array([str(pd.Timestamp(v)).removesuffix(" 00:00:00") for v in values], dtype=object)
    return np.array([_label(v) for v in values], dtype=object)


def _label(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() and abs(value) < EXACT else number_text(float(value))
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else number_text(float(value))
    return str(value)


class Table:
    """Read-only access to the columns of a pandas, polars or pyarrow table, or of a mapping of columns."""

    def __init__(self, data: Any):
        self._columns: dict[str, Column] = {}
        if isinstance(data, pd.DataFrame):
            if isinstance(data.columns, pd.MultiIndex):
                raise DataError("the table's columns have several levels of names; flatten them first")
            self.names = [str(c) for c in data.columns]
            self.index = data.index
            self._fetch = lambda i: data.iloc[:, i]
        elif isinstance(data, Mapping):
            self.names = [str(c) for c in data]
            columns = [_plain(n, c) for n, c in zip(self.names, data.values(), strict=True)]
            lengths = {n: len(c) for n, c in zip(self.names, columns, strict=True)}
            if len(set(lengths.values())) > 1:
                shown = ", ".join(f"{n!r} {k}" for n, k in lengths.items())
                raise DataError(f"the columns have different lengths: {shown}")
            self.index = pd.RangeIndex(next(iter(lengths.values()), 0))
            self._fetch = lambda i: columns[i]
        else:
            frame = _foreign(data)
            self.names = [str(c) for c in frame.columns]
            self.index = pd.RangeIndex(len(frame))
            self._fetch = lambda i: _from_narwhals(frame[frame.columns[i]])
        repeated = (
            sorted({n for n in self.names if self.names.count(n) > 1}) if len(set(self.names)) < len(self.names) else []
        )
        if repeated:
            raise DataError(f"the table has several columns named {', '.join(map(repr, repeated))}; rename them")
        self._place = {n: i for i, n in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def column(self, name: str, wanted_by: str = "") -> Column:
        """Raises DataError, with the closest names, where there is no such column."""
        if name not in self._place:
            raise DataError(f"there is no column {name!r}{wanted_by}; {near(name, self.names)}")
        if name not in self._columns:
            self._columns[name] = _column(name, self._fetch(self._place[name]))
        return self._columns[name]


def row_text(label: Any) -> str:
    """A row's label in a message, without numpy's own dress."""
    return repr(label.item() if isinstance(label, np.generic) else label)


def near(name: str, names: Sequence[str]) -> str:
    """'did you mean ...?', or all the names if none is close."""
    close = difflib.get_close_matches(name, names, 3, 0.6)
    lower = [n for n in names if n.lower() == name.lower() and n not in close]
    if close or lower:
        return "did you mean " + " or ".join(map(repr, lower + close)) + "?"
    shown = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
    return f"the table has {shown or 'no columns'}"


def _plain(name: str, values: Any) -> Any:
    if isinstance(values, pd.Series | pd.Index):
        return pd.Series(values).reset_index(drop=True)
    if isinstance(values, pd.api.extensions.ExtensionArray):
        return pd.Series(values)
    if hasattr(values, "__dataframe__") or type(values).__module__.split(".")[0] in ("polars", "pyarrow"):
        import narwhals as nw

        if type(values).__module__ == "pyarrow.lib" and hasattr(values, "null_count") and hasattr(values, "buffers"):
            import pyarrow as pa

            values = pa.chunked_array([values])
        return _from_narwhals(nw.from_native(values, series_only=True))
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise DataError(f"column {name!r} of the mapping is a single value; give one value for each row")
    if isinstance(values, np.ndarray):
        array = values
    elif hasattr(values, "__array__"):
        array = np.asarray(values)
    else:
        values = list(values)  # pandas makes floats of whole numbers where one is missing
        as_they_are = any(isinstance(v, str) for v in values) or (
            any(isinstance(v, int | np.integer) for v in values)
            and any(pd.api.types.is_scalar(v) and pd.isna(v) for v in values)
        )
        return pd.Series(values, dtype=object if as_they_are else None)
    if array.ndim != 1:
        raise DataError(f"column {name!r} has shape {array.shape}; a column is one-dimensional")
    return pd.Series(array.astype(object) if array.dtype.kind in "US" else array)


def _foreign(data: Any) -> Any:
    import narwhals as nw

    if hasattr(data, "collect") and not hasattr(data, "__len__"):
        raise DataError(f"data is a {type(data).__name__}, which holds no rows yet: pass data.collect()")
    try:
        return nw.from_native(data, eager_only=True)
    except TypeError:
        remedy = "; read the file first: pandas.read_csv(path)" if isinstance(data, str | os.PathLike) else ""
        if isinstance(data, np.ndarray):
            remedy = "; give its columns names: pandas.DataFrame(array, columns=[...])"
        kind = type(data).__name__
        raise DataError(
            f"data must be a pandas, polars or pyarrow table or a mapping of columns, not {kind}{remedy}"
        ) from None


def _from_narwhals(series: Any) -> pd.Series:
    """A pandas Series without going through pyarrow where that is not needed."""
    import narwhals as nw

    dtype = series.dtype
    if isinstance(dtype, nw.Enum | nw.Categorical):
        native = series.to_native()
        if type(native).__module__.split(".")[0] == "pyarrow":
            native = native.combine_chunks() if hasattr(native, "combine_chunks") else native
            chunks = native.chunks if hasattr(native, "chunks") else [native]
            if len(chunks) == 1:
                codes = chunks[0].indices.to_pandas().fillna(-1).to_numpy(dtype=np.int32)
                categories = chunks[0].dictionary.to_pylist()
                return pd.Series(pd.Categorical.from_codes(codes, categories, ordered=native.type.ordered))
        texts = pd.Series(series.to_list(), dtype=object)
        if isinstance(dtype, nw.Enum):
            return pd.Series(pd.Categorical(texts, categories=list(dtype.categories)))
        return texts  # polars' own order of a Categorical is that of appearance: sort as text
    if isinstance(dtype, nw.Int128 | nw.UInt128):
        return pd.Series(series.to_list(), dtype=object)
    if dtype.is_integer() and series.null_count():
        return pd.Series(pd.array(series.to_list(), dtype="UInt64" if dtype.is_unsigned_integer() else "Int64"))
    if dtype.is_numeric() and not isinstance(dtype, nw.Decimal):
        return pd.Series(series.to_numpy())
    if isinstance(dtype, nw.Boolean) and not series.null_count():
        return pd.Series(series.to_numpy())
    if isinstance(dtype, nw.String):
        return pd.Series(series.to_list(), dtype=object)
    return pd.Series(series.to_list())


def _column(name: str, series: pd.Series) -> Column:
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        codes = series.cat.codes.to_numpy()
        missing = codes < 0
        return Column(name, "category", (codes, series.cat.categories), _some(missing), bool(dtype.ordered))
    if dtype.kind == "O" and isinstance(dtype, np.dtype):
        return _object_column(name, series)
    if pd.api.types.is_bool_dtype(dtype):
        if isinstance(dtype, np.dtype):
            return Column(name, "logical", series.to_numpy(), None)
        return Column(name, "logical", series.to_numpy(dtype=bool, na_value=False), _some(series.isna().to_numpy()))
    if pd.api.types.is_complex_dtype(dtype):
        raise DataError(f"column {name!r} holds complex numbers; split it into its parts")
    if pd.api.types.is_numeric_dtype(dtype):
        if isinstance(dtype, np.dtype):
            values = series.to_numpy()
            return Column(name, "number", values, _some(np.isnan(values)) if dtype.kind == "f" else None)
        if "decimal" in str(dtype):
            return _object_column(name, series.astype(object))
        missing = series.isna().to_numpy()
        if pd.api.types.is_integer_dtype(dtype):
            own = np.uint64 if pd.api.types.is_unsigned_integer_dtype(dtype) else np.int64
            return Column(name, "number", series.to_numpy(dtype=own, na_value=0), _some(missing))
        return Column(name, "number", series.to_numpy(dtype=np.float64, na_value=np.nan), _some(missing))
    missing = series.isna().to_numpy()
    if pd.api.types.is_string_dtype(dtype):
        return Column(name, "text", series.astype(object).to_numpy(), _some(missing))
    if getattr(dtype, "kind", "") in "mM" or isinstance(dtype, pd.PeriodDtype | pd.IntervalDtype):
        if getattr(dtype, "kind", "") == "M" and not isinstance(dtype, pd.PeriodDtype):
            return Column(name, "time", series.to_numpy(dtype="datetime64[ns]"), _some(missing))
        return Column(name, "time", _texts(series, missing), _some(missing))
    return _object_column(name, series.astype(object))


def _object_column(name: str, series: pd.Series) -> Column:
    inferred = pd.api.types.infer_dtype(series, skipna=True)
    missing = series.isna().to_numpy()
    if inferred == "boolean":
        return Column(name, "logical", series.fillna(False).to_numpy(dtype=bool), _some(missing))
    if inferred in ("integer", "floating", "mixed-integer-float", "decimal", "empty"):
        values = series.mask(missing, np.nan).to_numpy(dtype=np.float64)
        if inferred == "integer" and (not missing.any() or _large(values)):
            return Column(name, "number", _integers(series.mask(missing, 0)), _some(missing))
        if inferred in ("mixed-integer-float", "decimal") and _large(values):
            return Column(name, "number", series.mask(missing, 0).to_numpy(), _some(missing))
        return Column(name, "number", values, _some(np.isnan(values)))
    if inferred in ("datetime", "datetime64", "date", "timedelta", "timedelta64", "time", "period"):
        return Column(name, "time", _texts(series, missing), _some(missing))
    if inferred == "string":
        return Column(name, "text", series.to_numpy(), _some(missing))
    return Column(name, "text", _texts(series, missing), _some(missing))


def _large(values: np.ndarray) -> bool:
    """Whether there are whole numbers that float64 may not tell apart."""
    return bool(np.any(np.abs(values) >= EXACT))


def _integers(series: pd.Series) -> np.ndarray:
    """Whole numbers of any size, exactly."""
    for dtype in (np.int64, np.uint64):
        try:
            return np.array(series.tolist(), dtype=dtype)
        except OverflowError:
            continue
    return series.to_numpy()


def _texts(series: pd.Series, missing: np.ndarray) -> np.ndarray:
    return np.array([None if gone else _label(v) for v, gone in zip(series, missing, strict=True)], dtype=object)


def _some(missing: np.ndarray) -> np.ndarray | None:
    return missing if missing.any() else None
