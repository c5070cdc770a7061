"""Which responses are neighbours: a sparse matrix, pairs, or a grid of dimensions -> pairs (i, j), i < j."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Neighbours among responses: what ``grid_adjacency`` and ``adjacency_of`` give.

    Attributes:
        pairs: (E, 2) numbers i < j of responses that are neighbours, each pair once.
        size: the number of responses.
        shape: name of a dimension -> its length, in the order in which responses are counted, the last fastest; empty
            where dimensions have no names.

    Example:
        >>> mm.grid_adjacency((2, 3)).pairs.tolist()
        [[0, 1], [0, 3], [1, 2], [1, 4], [2, 5], [3, 4], [4, 5]]
    """

    pairs: np.ndarray = field(repr=False)
    size: int
    shape: Mapping[str, int] = field(default_factory=dict)

    def to_sparse(self) -> csr_array:
        """The symmetric matrix (size, size) of scipy, 1 where two responses are neighbours.

        Example:
            >>> mm.grid_adjacency((2, 3)).to_sparse().shape
            (6, 6)
        """
        from scipy.sparse import coo_array

        i, j = self.pairs.T
        there = np.ones(2 * len(i), np.int8)
        return coo_array((there, (np.r_[i, j], np.r_[j, i])), (self.size, self.size)).tocsr()


def as_adjacency(given: Any, size: int, shape: Mapping[str, int] | None = None) -> Adjacency:
    """Pairs among ``size`` responses, of what a user gives.

    Args:
        given: an ``Adjacency``; a symmetric matrix (V, V), sparse or dense, not zero where two are neighbours; pairs of
            numbers of responses (E, 2).
        shape: the dimensions of the responses, where they came with such.

    Raises:
        ValueError: another number of responses, dimensions in another order, a matrix that is not symmetric or has
            negative numbers or NaN, numbers of responses that there are not.
    """
    if isinstance(given, Adjacency):
        if given.size != size:
            raise ValueError(f"adjacency is of {given.size} responses, and Y has {size}")
        if given.shape and shape and dict(given.shape) == dict(shape) and list(given.shape) != list(shape):
            raise ValueError(
                f"adjacency counts its dimensions as {', '.join(given.shape)}, and the responses of Y as "
                f"{', '.join(shape)}: give adjacency_of() the dimensions in that order"
            )
        return given
    if hasattr(given, "tocoo"):
        if given.shape != (size, size):
            raise ValueError(f"adjacency has shape {given.shape}: for {size} responses it must be ({size}, {size})")
        found = given.tocoo()
        _check_entries(found.data)
        there = found.data != 0
        return _symmetric(found.coords[0][there], found.coords[1][there], size)
    if len(given) == 0:
        return Adjacency(np.zeros((0, 2), np.int64), size)
    array = np.asarray(given)
    if array.shape == (size, size) and array.dtype.kind in "biuf":
        _check_entries(array)
        i, j = np.nonzero(array)
        return _symmetric(i, j, size)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"adjacency must be a matrix ({size}, {size}), sparse or not, or pairs of numbers of responses (E, 2); got "
            f"an array of {array.dtype} and shape {array.shape}"
        )
    if array.min() < 0 or array.max() >= size:
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"adjacency has a pair with response {wrong}: there are 0 to {size - 1}")
    return Adjacency(_unique(array), size)


def _check_entries(entries: np.ndarray) -> None:
    """Raises ValueError for what says neither that two are neighbours nor that they are not."""
    with np.errstate(invalid="ignore"):
        wrong = entries[~(np.isfinite(entries) & (entries >= 0))]
    if wrong.size:
        raise ValueError(
            f"adjacency has an entry {wrong.ravel()[0]}: give 1 (or another number above zero) where two are "
            "neighbours, and 0 elsewhere"
        )


def _symmetric(i: np.ndarray, j: np.ndarray, size: int) -> Adjacency:
    """Raises ValueError where one is a neighbour of another that is not one of it."""
    codes, mirrored = i.astype(np.int64) * size + j, j.astype(np.int64) * size + i
    alone = np.flatnonzero(~np.isin(codes, mirrored))
    if len(alone):
        a, b = int(i[alone[0]]), int(j[alone[0]])
        raise ValueError(f"adjacency is not symmetric: {b} is a neighbour of {a}, but {a} is none of {b}")
    return Adjacency(_unique(np.column_stack([i, j])), size)


def _unique(pairs: np.ndarray) -> np.ndarray:
    """Each once, the smaller number first, nobody with itself."""
    pairs = np.sort(pairs.astype(np.int64), axis=1)
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)


def grid_adjacency(shape: Sequence[int], diagonal: bool = False) -> Adjacency:
    """Neighbours on a regular grid.

    Args:
        shape: the length of each dimension; the responses are its cells, counted with the last dimension fastest, as
            ``Y.reshape(-1, nobs)`` of an array (..., nobs) counts them.
        diagonal: whether cells that share a corner are neighbours too (26 in space in the place of 6).

    Raises:
        ValueError: a length that is no positive whole number; no length.

    Example:
        >>> mm.grid_adjacency((20, 30, 20)).size
        12000
    """
    lengths = [_length("grid_adjacency: shape", n) for n in (shape if np.ndim(shape) else [shape])]
    if not lengths:
        raise ValueError("grid_adjacency: shape has no length: give one for each dimension, such as (20, 30)")
    number = np.arange(int(np.prod(lengths))).reshape(lengths)
    steps = [np.array(step) - 1 for step in np.ndindex(*[3] * len(lengths))]
    forward = [s for s in steps if tuple(s) > (0,) * len(s) and (diagonal or np.abs(s).sum() == 1)]
    pairs = []
    for step in forward:
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, lengths, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, lengths, strict=True))
        pairs.append(np.column_stack([number[here].ravel(), number[there].ravel()]))
    return Adjacency(_unique(np.concatenate(pairs)), number.size)


def adjacency_of(**dimensions: Any) -> Adjacency:
    """Neighbours among the cells of several dimensions, such as time and channel: two cells are neighbours where they
    are in one dimension, and are the same in all others.

    Args:
        dimensions: name -> its length, for a line such as time, or the neighbours along it as ``permutation_test``
            takes them (a sparse matrix, such as that of channels, or an ``Adjacency``). In the order in which responses
            are counted, the last fastest: that of the dimensions of a DataArray, without the observations.

    Raises:
        ValueError: no dimension, or neighbours that cannot be read.

    Example:
        >>> channels = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
        >>> mm.adjacency_of(time=50, channel=channels)
        Adjacency(size=150, shape={'time': 50, 'channel': 3})
    """
    if not dimensions:
        raise ValueError("adjacency_of needs dimensions: adjacency_of(time=200, channel=matrix)")
    parts = {name: _along(name, given) for name, given in dimensions.items()}
    sizes = [part.size for part in parts.values()]
    number = np.arange(int(np.prod(sizes))).reshape(sizes)
    pairs = []
    for axis, part in enumerate(parts.values()):
        moved = np.moveaxis(number, axis, 0)
        i, j = part.pairs.T
        pairs.append(np.column_stack([moved[i].ravel(), moved[j].ravel()]))
    return Adjacency(_unique(np.concatenate(pairs)), number.size, dict(zip(parts, sizes, strict=True)))


def _along(name: str, given: Any) -> Adjacency:
    if isinstance(given, Adjacency):
        return given
    if np.ndim(given) == 0 and not hasattr(given, "tocoo"):
        return grid_adjacency((_length(f"adjacency_of: {name}", given),))
    if len(getattr(given, "shape", ())) != 2 and not isinstance(given, list | tuple):
        raise ValueError(f"adjacency_of: {name} must be a length, or a matrix of neighbours, not {given!r}")
    matrix: Any = given if hasattr(given, "tocoo") else np.asarray(given)
    return as_adjacency(matrix, matrix.shape[0])


def _length(what: str, n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"{what} needs positive whole numbers, not {n!r}")
    return int(n)
