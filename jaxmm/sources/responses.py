"""What lanes have of their own, and where it comes from: each source gives replicate k by its number alone."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from mmap import mmap
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxmm._context import cores
from jaxmm.design import DataError

HASHED = 1 << 22  # bytes that are hashed at a time


class Varying(NamedTuple):
    """What L lanes have of their own; None is what they all share with the model.  A source gives it with the lanes
    first, NumPy or JAX, and a ``Problem`` takes it with the lanes last.

    ``start`` (L, m) is where the search of each lane begins, in the scaled columns: theta or psi.
    ``y`` (L, nobs), counts of successes where there are trials; ``X`` (L, nobs, p) of the mean and ``Z``, of each term
    of the design (L, nobs, q), in the data's columns; ``weights`` (L, nobs), zero where a row is left out; ``offset``
    (L, nobs) of the mean, in the place of the model's; ``copies`` (L, J) how often each level of the outermost factor
    of the chain counts, for a case bootstrap; ``trials`` (L, nobs) in the place of the model's, above zero.
    ``y`` is always there, unless ``statistics`` of a linear model are,
    drawn without responses (``direct.Drawn``), or they were ``made`` on the host: the data of the problem, the lanes
    last."""

    y: Any = None
    X: Any = None
    Z: Any = None
    weights: Any = None
    offset: Any = None
    copies: Any = None
    statistics: Any = None
    start: Any = None
    made: Any = None
    trials: Any = None

    def given(self) -> frozenset[str]:
        """What it holds, by name."""
        return frozenset(name for name, x in self._asdict().items() if x is not None)

    def each(self, function: Callable[[Any], Any]) -> Varying:
        """``function`` of every array in it; statistics as they are."""
        arrays = {name: getattr(self, name) for name in self.given() - {"statistics", "made"}}
        return self._replace(**{n: tuple(map(function, x)) if n == "Z" else function(x) for n, x in arrays.items()})


@runtime_checkable
class Responses(Protocol):
    """A source, which says where it differs from the values here.

    ``n`` is the number of replicates.  ``varies``: what its blocks hold, names of ``Varying``.  ``endless``: whether a
    block may go beyond n.  ``trusted``: whether every response is one of the family's, so that nobody need look.
    ``library``: whether ``block`` calls the library's matrix routines (``pool.LIBRARY``).  ``of_many``: whether its
    lanes are a part of many more, so that the program of lanes is worth compiling however few they are.
    """

    n: int
    varies: frozenset[str] = frozenset({"y"})
    endless: bool = False
    trusted: bool = False
    library: bool = False
    of_many: bool = False

    @abstractmethod
    def block(self, first: int, size: int) -> Varying:
        """Replicates first .. first + size - 1."""
        ...

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells it from another source (JSON), so that a results folder is not continued with something else."""
        ...

    def check(self, model: Any) -> None:
        """Raises ValueError where it is made for another model."""
        return


def fingerprint(*arrays: Any) -> str:
    """A hash of arrays, shapes included."""
    digest = hashlib.sha256()
    for x in arrays:
        x = np.ascontiguousarray(x)
        digest.update(f"{x.dtype}{x.shape}".encode())
        digest.update(x.data if x.dtype.kind in "fiubc" else x.tobytes())
    return digest.hexdigest()


def fingerprint_of_lanes(x: Any) -> str:
    """A hash of an array (n, ..) of numbers or texts: all of it where it is in memory; 64 rows of a memory map, and of
    what is read as it is needed.  A gigabyte takes a second or two."""
    shape = tuple(map(int, np.shape(x)))
    if not _is_held(x):
        some = np.unique(np.linspace(0, len(x) - 1, min(len(x), 64)).astype(int))
        return fingerprint(np.array(shape), _plain(x[some]))
    x = x if isinstance(x, np.ndarray) else np.asarray(x)
    x = x[:1] if len(x) and x.strides[0] == 0 else x  # one row, which all lanes share
    step = max(1, HASHED // max(1, 8 * int(np.prod(x.shape[1:]))))
    with ThreadPoolExecutor(cores()) as pool:  # hashes of large buffers let other threads go on
        pieces = pool.map(lambda at: fingerprint(_plain(x[at : at + step])), range(0, len(x), step))
        return hashlib.sha256("".join([f"{shape}", *pieces]).encode()).hexdigest()


def _is_held(x: Any) -> bool:
    """Whether it is in memory as a whole."""
    if not isinstance(x, np.ndarray):
        return isinstance(x, Sequence) or hasattr(x, "addressable_shards")  # JAX's
    while isinstance(x, np.ndarray) and not isinstance(x, np.memmap):
        x = x.base
    return not isinstance(x, np.memmap | mmap)


def _plain(rows: Any) -> np.ndarray:
    """Contiguous rows: numbers in double precision, NaN where they are masked, else texts."""
    if isinstance(rows, np.ma.MaskedArray):
        rows = np.ma.filled(rows.astype(float), np.nan)
    if np.dtype(getattr(rows, "dtype", float)).kind in "OUS":
        return np.asarray(rows).astype(str)
    # another order in memory would be another program, with other digits
    return np.ascontiguousarray(rows, float)


class ArrayResponses(Responses):
    """The rows of an array (n, nobs): NumPy, JAX or a memory map, of which a few rows at a time are read."""

    def __init__(self, Y: Any):
        self.Y, self.n = Y, len(Y)

    def block(self, first: int, size: int) -> Varying:
        return Varying(_plain(self.Y[first : first + size]))

    def identity(self) -> dict[str, Any]:
        """Told by its rows, some of them where it is a memory map, which may be larger than memory."""
        return {"responses": "array", "n": self.n, "rows": fingerprint_of_lanes(self.Y)}


class StreamResponses:
    """Arrays (k, nobs) one after another, from an iterator; their number is not known before the end."""

    n, varies, trusted, of_many = None, Responses.varies, False, True

    def __init__(self, chunks: Iterable[Any], nobs: int):
        self.chunks, self.nobs = (_chunk(chunk, nobs) for chunk in chunks), nobs

    def parts(self, size: int) -> Iterator[ArrayResponses]:
        """The same rows in arrays of ``size`` rows, the last one shorter."""
        held: list[np.ndarray] = []
        count = 0
        for chunk in self.chunks:
            while len(chunk):
                piece, chunk = chunk[: size - count], chunk[size - count :]
                held.append(np.array(piece))
                count += len(piece)
                if count == size:
                    yield ArrayResponses(np.concatenate(held))
                    held, count = [], 0
        if count:
            yield ArrayResponses(np.concatenate(held))

    def identity(self) -> dict[str, Any]:
        """Told by its first row, the only one that is known before the end."""
        first = next((chunk for chunk in self.chunks if len(chunk)), np.zeros((0, self.nobs)))
        self.chunks = chain([first], self.chunks)
        return {"responses": "stream", "first": fingerprint(first[:1])}

    def check(self, model: Any) -> None:
        return


def unfitted(model: Any) -> Any:
    """A model as it is, the model of a fit.

    Raises:
        TypeError: anything else.
    """
    model = getattr(model, "model", model)
    if not hasattr(model, "design") or not hasattr(model, "likelihood"):
        raise TypeError(f"model must be a jaxmm.Model or a fit, not {type(model).__name__}")
    return model


def check_rows(Y: Any, nobs: int) -> Any:
    """Y if it is (n, nobs).

    Raises:
        DataError: another shape, with both lengths.
    """
    shape = np.shape(Y)
    if len(shape) != 2 or shape[1] != nobs:
        hint = ": one response is Y[None]" if shape == (nobs,) else ""
        hint = ": the responses are its columns, pass Y.T" if len(shape) == 2 and shape[0] == nobs else hint
        raise DataError(f"Y must hold one response of {nobs} numbers in each row; got shape {shape}{hint}")
    return Y


def _chunk(chunk: Any, nobs: int) -> np.ndarray:
    try:
        rows = np.asarray(chunk, float)
    except (TypeError, ValueError):
        raise DataError(
            f"the iterator Y gave a {type(chunk).__name__} of no numbers: give arrays (k, {nobs})"
        ) from None
    return check_rows(rows, nobs)


def as_responses(Y: Any, nobs: int) -> Responses | StreamResponses:
    """A source as it is; an array's rows; an iterator's arrays.

    Raises:
        DataError: rows of another length than the model has observations, no rows, or text.
        TypeError: what holds no responses, as the name of a file, or a function.
    """
    if hasattr(Y, "identity") and hasattr(Y, "n"):
        if not isinstance(Y, Responses | StreamResponses):
            kind = type(Y).__name__
            raise TypeError(f"{kind} is no source of responses: make it a subclass of jaxmm.sources.Responses")
        return Y
    if hasattr(Y, "to_numpy"):
        Y = Y.to_numpy()
    _check_kind(Y)
    if isinstance(Y, Iterator) or not (hasattr(Y, "shape") or isinstance(Y, list | tuple)):
        return StreamResponses(Y, nobs)
    rows: Any = Y
    if not hasattr(Y, "shape"):
        _check_lengths(Y, nobs)
        try:
            rows = np.asarray(Y, float)
        except (TypeError, ValueError):
            raise DataError("Y holds text or other things where numbers are due") from None
    if np.dtype(rows.dtype).kind not in "fiub":
        raise DataError(
            f"Y holds values of the type {rows.dtype} where numbers are due: give Y.astype(float), or "
            "table.apply(pandas.to_numeric) of a table whose columns were read as text"
        )
    check_rows(rows, nobs)
    if not len(rows):
        raise DataError("Y has no rows: there is nothing to fit")
    return ArrayResponses(rows)


def _check_kind(Y: Any) -> None:
    """Raises TypeError, with the remedy, for what no responses can be read from."""
    if isinstance(Y, str | os.PathLike):
        name = os.fspath(Y)
        raise TypeError(f"Y is the name of a file: pass what it holds, such as np.load({name!r}, mmap_mode='r')")
    if callable(Y):
        raise TypeError(
            "Y is a function: pass Generated(function, n, key) of one that maps a key to a response, or what it returns"
        )
    if isinstance(Y, Mapping | Set | bytes) or not (hasattr(Y, "shape") or isinstance(Y, Iterable)):
        raise TypeError(
            f"Y is a {type(Y).__name__}: pass an array (n, nobs), a table of numbers, an iterator of arrays, or a "
            "source such as Simulated and Generated"
        )


def _check_lengths(Y: list | tuple, nobs: int) -> None:
    """Raises DataError where the rows of a list are no single responses, all of one length."""
    if any(np.ndim(row) > 1 for row in Y if hasattr(row, "ndim")):
        raise DataError("Y is a list of arrays of several responses each: pass np.concatenate(Y), or iter(Y)")
    lengths = sorted({len(row) for row in Y if hasattr(row, "__len__")})
    if len(lengths) > 1:
        raise DataError(
            f"Y has rows of the lengths {', '.join(map(str, lengths[:5]))}: each must be one response of {nobs} numbers"
        )
