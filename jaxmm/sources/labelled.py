"""Responses with labels -> rows (n, nobs), and what each row is called.

    table         observations × responses (or responses × observations)     labels: its columns (its index)
    DataArray     any dimensions, one of them the observations               labels: the coordinates of the others
    AnnData       obs × var, X or a layer                                    labels: var_names

They are recognised by what they have: neither xarray nor anndata nor a library of tables is imported.  Observations are
matched by label where the labels of the model's rows are all there, by position where none is, or where labels only
count; where some are, nobody can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmm.design import DataError, Design
from jaxmm.sources.responses import Responses, Varying, fingerprint_of_lanes


@dataclass(frozen=True, eq=False)
class Labels:
    """What the replicates are called: the cells of a grid of one dimension or several.

    Attributes:
        shape: name of a dimension -> its length, in the order in which replicates are counted, the last fastest.
        coords: name -> (dimensions, values); one with the name of a dimension labels it.
        place: (n,) the cell of each replicate.
    """

    shape: Mapping[str, int]
    coords: Mapping[str, tuple[tuple[str, ...], Any]]
    place: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, name: str, values: Any) -> Labels:
        """Of one dimension."""
        values = np.asarray(values)
        return cls({name: len(values)}, {name: ((name,), values)}, np.arange(len(values)))

    def take(self, index: Any) -> Labels:
        """Of the replicates of an index or mask."""
        return replace(self, place=self.place[index])

    def columns(self) -> dict[str, np.ndarray]:
        """Dimension -> (n,) the label of each replicate, its number where the dimension has none."""
        places = np.unravel_index(self.place, tuple(self.shape.values()))
        return {
            dim: np.asarray(self.coords[dim][1])[at] if dim in self.coords else at
            for dim, at in zip(self.shape, places, strict=True)
        }

    def as_json(self) -> dict[str, Any]:
        """For a file: labels that are no numbers as texts."""
        coords = {name: [list(dims), _plain(values)] for name, (dims, values) in self.coords.items()}
        return {"shape": dict(self.shape), "coords": coords, "place": self.place.tolist()}

    @classmethod
    def of_json(cls, kept: Mapping[str, Any] | None) -> Labels | None:
        """As ``as_json`` gave them; None where there are none."""
        if kept is None:
            return None
        coords = {name: (tuple(dims), np.array(values)) for name, (dims, values) in kept["coords"].items()}
        return cls(kept["shape"], coords, np.array(kept["place"], int))


def _plain(values: Any) -> list[Any]:
    values = np.asarray(values)
    return values.tolist() if values.dtype.kind in "biuf" else values.astype(str).tolist()


class SparseResponses(Responses):
    """The columns of a sparse matrix (nobs, n) of scipy, made dense a block at a time."""

    def __init__(self, matrix: Any):
        self.rows, self.n = matrix.T.tocsr(), matrix.shape[1]

    def block(self, first: int, size: int) -> Varying:
        return Varying(np.asarray(self.rows[first : first + size].toarray(), float))

    def identity(self) -> dict[str, Any]:
        parts = (self.rows.data, self.rows.indices, self.rows.indptr)
        return {"responses": "array", "n": self.n, "rows": [fingerprint_of_lanes(x) for x in parts]}


class Labelled(NamedTuple):
    """Responses as ``as_responses`` takes them, and their labels, None where they have none; whether their observations
    were ``moved``, by their labels, into the order of the model's."""

    Y: Any
    labels: Labels | None
    moved: bool = False


def read(Y: Any, design: Design, dim: str | None = None, layer: str | None = None, what: str = "Y") -> Labelled:
    """The responses of an object with labels as rows; anything else as it is.

    Args:
        dim: along which the observations run: a dimension of a DataArray, "rows" or "columns" of a table. Needed where
            several are as long as the model has observations.
        layer: of an AnnData, in the place of its X.
        what: its name in messages.

    Raises:
        DataError: no axis, or several, that may be the observations; columns without numbers.
        ValueError: ``dim`` or ``layer`` for what has none.
    """
    of_anndata = all(hasattr(Y, name) for name in ("obs_names", "var_names", "layers", "X"))
    if layer is not None and not of_anndata:
        raise ValueError(f"layer= is for an AnnData: Y is a {type(Y).__name__}")
    if of_anndata:
        if dim is not None:
            raise ValueError("dim= is not for an AnnData: its observations are obs")
        return _of_anndata(Y, design, layer, what)
    if all(hasattr(Y, name) for name in ("dims", "coords", "transpose", "to_numpy")):
        return _of_dataarray(Y, design, dim, what)
    if all(hasattr(Y, name) for name in ("columns", "to_numpy", "shape")):
        return _of_table(Y, design, dim, what)
    if dim is not None:
        raise ValueError(f"dim= is for a DataArray or a table: Y is a {type(Y).__name__}, with a response in each row")
    return Labelled(Y, None)


def read_beside(values: Any, design: Design, what: str, moved: bool) -> Labelled:
    """What stands beside the responses, as ``read`` takes them; or of one dimension, a number or a text for each
    observation, which all responses share: a Series, a DataArray.

    Raises:
        DataError: as of ``read``; no labels beside responses that were ``moved``.
    """
    if moved and not (hasattr(values, "to_numpy") or hasattr(values, "obs_names")):
        raise DataError(
            f"Y is put into the order of the model's rows by its labels, and {what} has none: give {what} as a table "
            "with the labels of Y, or Y as an array with a response in each row, both in the order of the model's table"
        )
    if not hasattr(values, "to_numpy") or np.ndim(values) != 1:
        return read(values, design, what=what)
    index = getattr(values, "index", None)
    if hasattr(values, "dims"):
        index = values.indexes.get(values.dims[0])
    return Labelled(_values(values)[_observations(index, len(values), design, what)], None)


# ---------------------------------------------------------------- which observations
def _lengths(design: Design) -> set[int]:
    """Of an axis of observations: the rows that count, or all rows of the table."""
    return {len(design.y), len(design.index) + design.n_missing}


def _observations(labels: Any, n: int, design: Design, what: str) -> Any:
    """Which of n observations the model has, in its order: all, or by label.

    Raises:
        DataError: a number of observations that is not the model's, without its labels; labels of which the model has
            some; labels that only count and would put the rows in another order.
    """
    own = design.index[design.kept]
    if labels is not None:
        given = pd.Index(labels)
        counted = isinstance(given, pd.RangeIndex) and given.equals(pd.RangeIndex(n))
        if given.is_unique and own.is_unique:
            at = given.get_indexer(own)
            if np.all(at >= 0):
                if counted and np.any(np.diff(at) < 0):
                    raise DataError(
                        f"the rows of {what} are only counted, and those of the model's table have such labels in "
                        f"another order: give {what} the index of that table, or pass an array, with a response in "
                        "each row, in the order of the table"
                    )
                return slice(None) if np.array_equal(at, np.arange(n)) else at
        in_order = counted and (own.is_monotonic_increasing or not own.is_unique)
        if n == len(own) and design.spec is not None and not in_order:  # rows of arrays have no labels
            _check_disjoint(given, own, what)
    if n != len(own):
        raise DataError(
            f"{what} has {n} observations and the model {len(own)}, whose labels are not those of {what}: label {what} "
            "as the table of the model is, or leave out what the model has left out (fit.fitted().index has its rows)"
        )
    return slice(None)


def _moves(at: Any) -> bool:
    """Whether observations that are taken so are in another order."""
    return isinstance(at, np.ndarray) and bool(np.any(np.diff(at) < 0))


def _check_disjoint(given: pd.Index, own: pd.Index, what: str) -> None:
    """Raises DataError where some of the labels are those of the model, but for labels that are equal one by one."""
    found = own.isin(given)
    if not found.any() or given.equals(own):
        return
    remedy = "pass an array, with a response in each row, in the order of the table"
    if found.all():
        raise DataError(
            f"the rows of {what} have labels of the model's table of which some are there twice, as "
            f"{_some(own[found])}, in another order: {remedy}"
        )
    if not given.is_unique:
        raise DataError(f"the rows of {what} have some labels twice, as {_some(given[given.duplicated()])}: {remedy}")
    raise DataError(
        f"{what} has the labels of {found.sum()} of the {len(own)} rows of the model, and not {_some(own[~found])}; of "
        f"its own {_some(given[~given.isin(own)])} are none of the model's: label {what} as the table of the model is, "
        f"or {remedy}"
    )


def _some(labels: pd.Index) -> str:
    return ", ".join(repr(x) for x in labels[:3].tolist()) + (", ..." if len(labels) > 3 else "")


# ---------------------------------------------------------------- the kinds
def _of_table(Y: Any, design: Design, dim: str | None, what: str) -> Labelled:
    if dim not in (None, "rows", "columns"):
        raise ValueError(f"dim must be 'rows' or 'columns', along which the observations of a table run, not {dim!r}")
    may = _lengths(design)
    fits = [axis for axis, n in zip(("rows", "columns"), Y.shape, strict=True) if n in may]
    if dim is None and len(fits) != 1:
        why = "neither its rows nor its columns are they"
        if fits:
            why = "both its rows and its columns may be they; say dim='rows' or dim='columns'"
        raise DataError(
            f"{what} is a table of {Y.shape[0]} rows and {Y.shape[1]} columns, and the model has {len(design.y)} "
            f"observations: {why}"
        )
    index = getattr(Y, "index", None)
    values = _numbers(Y, what)
    if (dim or fits[0]) == "rows":
        at = _observations(index, len(values), design, what)
        labels = Labels.of(_name(getattr(Y.columns, "name", None), "response"), _single(Y.columns))
        return Labelled(values[at].T, labels, _moves(at))
    at = _observations(Y.columns, values.shape[1], design, what)
    labels = None if index is None else Labels.of(_name(index.name, "response"), _single(index))
    return Labelled(values[:, at], labels, _moves(at))


def _numbers(Y: Any, what: str) -> np.ndarray:
    """The values of a table; of columns of a formula also labels.

    Raises:
        DataError: a column of responses that holds no numbers, by name.
    """
    columns = []
    for k, name in enumerate(Y.columns):
        columns.append(_values(Y.iloc[:, k] if hasattr(Y, "iloc") else Y[name]))  # names may be there twice
        if columns[-1].dtype != float and not what.startswith("columns"):
            raise DataError(f"column {name!r} of {what} holds no numbers: leave it out, every column is a response")
    return np.column_stack(columns) if columns else np.empty(Y.shape)


def _values(column: Any) -> np.ndarray:
    """Numbers, NaN where one is missing, if they are any."""
    missing = {"dtype": float, "na_value": np.nan} if hasattr(column, "iloc") else {}
    try:
        return np.asarray(column.to_numpy(**missing), float)
    except (TypeError, ValueError):
        return np.asarray(column.to_numpy(), object)


def _single(labels: Any) -> np.ndarray:
    """Labels of one level: those of several joined by commas."""
    if getattr(labels, "nlevels", 1) > 1:
        return np.array([", ".join(map(str, label)) for label in labels], dtype=object)
    return np.asarray(labels)


def _name(given: Any, other: str) -> str:
    return other if given is None else str(given)


def _of_dataarray(Y: Any, design: Design, dim: str | None, what: str) -> Labelled:
    sizes = dict(zip(Y.dims, Y.shape, strict=True))
    shown = ", ".join(f"{name!r} {n}" for name, n in sizes.items())
    fits = [name for name, n in sizes.items() if n in _lengths(design)]
    if dim is not None and dim not in sizes:
        raise ValueError(f"dim: {what} has no dimension {dim!r}; it has {shown}")
    if dim is None and len(fits) != 1:
        why = "several may be" if fits else "none of them is"
        raise DataError(
            f"{what} has the dimensions {shown}, and the model has {len(design.y)} observations: {why} the observations"
            + ("; say which by dim=" if fits else "")
        )
    dim = dim or fits[0]
    others = [name for name in Y.dims if name != dim]
    if not others:
        raise DataError(f"Y has one dimension, {dim!r}, a single response: fit.refit(Y), or Y.expand_dims('response')")
    at = _observations(Y.indexes[dim] if dim in Y.indexes else None, sizes[dim], design, what)
    rows = Y.transpose(*others, dim).to_numpy()[..., at]
    coords = {
        str(name): (tuple(map(str, c.dims)), c.to_numpy())
        for name, c in Y.coords.items()
        if c.dims and dim not in c.dims and not isinstance(Y.indexes.get(name), pd.MultiIndex)
    }
    shape = {str(name): sizes[name] for name in others}
    places = np.arange(int(np.prod(rows.shape[:-1])))
    return Labelled(rows.reshape(-1, rows.shape[-1]), Labels(shape, coords, places), _moves(at))


def _of_anndata(Y: Any, design: Design, layer: str | None, what: str) -> Labelled:
    if getattr(Y, "isbacked", False):
        raise DataError("Y is an AnnData on disk: read it by Y.to_memory()")
    if layer is not None and layer not in Y.layers:
        raise DataError(f"layer: Y has no layer {layer!r}; it has {', '.join(map(repr, Y.layers)) or 'none'}")
    matrix = Y.X if layer is None else Y.layers[layer]
    if matrix is None:
        raise DataError("Y has no X: say layer=")
    at = _observations(Y.obs_names, matrix.shape[0], design, what)
    labels = Labels.of(_name(Y.var_names.name, "var"), Y.var_names)
    if hasattr(matrix, "tocsr"):
        return Labelled(SparseResponses(matrix.tocsr()[at]), labels, _moves(at))
    return Labelled(np.asarray(matrix)[at].T, labels, _moves(at))
