"""weights, offset and columns of each lane, and what is missing -> ``Varying``, and which kind each lane is of.

    SHARED    all rows count, and nothing but y and the offset is the lane's own
    1, 2, ..  the rows that are missing are those of many other lanes too, which share what depends on them
    OWN       the cross-products are the lane's own

A row in which the response or a replaced column is missing weighs nothing in its lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxmm import costs
from jaxmm.design import DataError, Design
from jaxmm.design.modelmatrix import independent_columns
from jaxmm.design.replaced import Replaced, replaced
from jaxmm.sources import labelled
from jaxmm.sources.labelled import Labelled
from jaxmm.sources.responses import ArrayResponses, Varying, fingerprint_of_lanes

SHARED, OWN = 0, -1
MISSING = ("drop", "refuse")


@dataclass
class Inputs:
    """What lanes have of their own beside what their source gives.

    Attributes:
        design: of the model.
        n: lanes; None where that is not known beforehand, and nothing but what is missing can be their own.
        weights, offset: (n, nobs) or None.
        columns: name -> (n, nobs).
        drop: whether a missing value takes its row out of its lane, or the lane is refused.
        patterns: (K, nobs) the rows that count in lanes of kind 1 .. K.
        may_lack: whether a response may have a missing value.
    """

    design: Design
    n: int | None
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    drop: bool = True
    patterns: np.ndarray | None = None
    may_lack: bool = True

    def __post_init__(self):
        self.of_trials = self.weights is not None and self.design.weights_are_trials
        self.replaced: Replaced | None = replaced(self.design, list(self.columns)) if self.columns else None
        if self.replaced is not None and self.replaced.in_offset and self.offset is not None:
            raise DataError("offset= and the offset in the formula, which columns= changes, are both of each lane")

    @property
    def always(self) -> frozenset[str]:
        """What every lane has of its own, names of ``Varying``."""
        names = {"offset"} if self.offset is not None else set()
        if self.of_trials:
            names.add("trials")
        if self.replaced is not None:
            r = self.replaced
            names |= {name for name, own in (("X", r.in_X), ("Z", r.bars), ("offset", r.in_offset)) if own}
        return frozenset(names)

    @property
    def of_own(self) -> frozenset[str]:
        """What lanes of the kind OWN have of their own."""
        return self.always | {"weights"}

    @property
    def plain(self) -> bool:
        """Whether no lane has anything of its own, wherever nothing is missing."""
        return not self.always and self.weights is None

    def lanes(self, own: Varying, first: int) -> tuple[Varying, np.ndarray]:
        """The lanes first, first + 1, .. of a source, with all that is theirs, and the kind (L,) of each."""
        y = np.asarray(own.y)
        at = slice(first, first + len(y))
        gone = np.isnan(y) if self.drop else np.zeros(y.shape, bool)
        weights = self._weights(own, at)
        made = None
        if self.replaced is not None:
            made = self.replaced.lanes({name: np.asarray(x[at]) for name, x in self.columns.items()})
            gone = gone | made.gone
        kind = np.full(len(y), SHARED if weights is None and not self.always - {"offset"} else OWN)
        if gone.any():
            kind = np.where(gone.any(axis=1) & (kind == SHARED), self._pattern(gone), kind)
            model = np.ones(y.shape[1]) if self.design.weights is None else self.design.weights
            weights = np.where(gone, 0.0, model if weights is None else weights)
        trials = own.trials
        if self.of_trials:
            assert weights is not None and self.design.trials is not None
            trials, weights = np.where(weights > 0, np.round(weights), self.design.trials), 1.0 * (weights > 0)
        if weights is not None:
            # what is not there is filled with the model's own response, which its family can have
            y = np.where((weights == 0) | gone, self.design.y, y)
        if made is not None and made.impossible.any():
            counts = ~gone if weights is None else ~gone & (weights > 0)
            y = np.where(np.any(made.impossible & counts, axis=1, keepdims=True), np.nan, y)
        offset = None if self.offset is None else np.asarray(self.offset[at], float)
        own = own._replace(y=y, weights=weights, trials=trials, offset=offset if offset is not None else own.offset)
        if made is not None:
            own = own._replace(X=made.X, Z=made.Z, offset=own.offset if made.offset is None else made.offset)
        return own, kind

    def _weights(self, own: Varying, at: slice) -> np.ndarray | None:
        if self.weights is None:
            return None if own.weights is None else np.asarray(own.weights, float)
        weights = np.asarray(self.weights[at], float)
        check_weights(weights, at.start, self.of_trials)
        return weights

    def _pattern(self, gone: np.ndarray) -> np.ndarray:
        """The number of the pattern that each lane has, OWN where it is not one of them."""
        kind = np.full(len(gone), OWN)
        if self.patterns is None:
            return kind
        for k, pattern in enumerate(self.patterns, 1):
            kind[(gone == ~pattern).all(axis=1)] = k
        return kind

    def identity(self) -> dict[str, Any]:
        """What tells them from others, in a folder of results."""
        if self.plain:
            return {} if self.drop else {"missing": "refuse"}
        arrays = {"weights": self.weights, "offset": self.offset, **{f"column {k}": x for k, x in self.columns.items()}}
        given = {name: fingerprint_of_lanes(x) for name, x in arrays.items() if x is not None}
        return {**given, "missing": "drop" if self.drop else "refuse"}


# ---------------------------------------------------------------- from the arguments of fit_many
def read_inputs(
    design: Design, source: Any, Y: Labelled, weights: Any, offset: Any, columns: Any, missing: Any, shared: bool
) -> Inputs:
    """From the arguments, the responses as ``labelled`` has read them; ``shared``: whether lanes that share a
    pattern can share its work.

    Raises:
        DataError: another shape than Y, weights that are negative or all zero, an offset that is not finite, a column
            that is not in the formula.
        TypeError: columns that are no mapping.
        ValueError: another ``missing``.
    """
    if missing not in MISSING:
        raise ValueError(f"missing must be 'drop' or 'refuse', not {missing!r}")
    if columns is not None and not isinstance(columns, Mapping):
        raise TypeError(
            f"columns must map a name to its values, {{'x': array (n, nobs)}}, not {type(columns).__name__}"
        )
    n, nobs = source.n, len(design.y)
    if n is None and not (weights is None and offset is None and not columns):
        raise DataError("weights=, offset= and columns= of each lane need an array Y, whose lanes can be counted")

    def rows(name: str, values: Any) -> Any:
        if values is None:
            return None
        assert n is not None  # which lanes have inputs of their own are counted
        return _rows(name, values, n, nobs, design, Y)

    inputs = Inputs(
        design,
        n,
        rows("weights", weights),
        rows("offset", offset),
        {str(k): rows(f"columns[{k!r}]", x) for k, x in (columns or {}).items()},
        missing == "drop",
    )
    if inputs.weights is not None:
        check_weights(inputs.weights[:1], 0, inputs.of_trials)
        if isinstance(inputs.weights, np.ndarray) and not isinstance(inputs.weights, np.memmap):
            check_weights(inputs.weights, 0, inputs.of_trials)
            if not np.any(inputs.weights):
                raise DataError("weights are all zero: no row of any lane is left")
    if isinstance(inputs.offset, np.ndarray) and not isinstance(inputs.offset, np.memmap):
        _check_finite("offset", inputs.offset)
    if source.trusted:
        inputs.may_lack = False
    elif isinstance(source, ArrayResponses) and source.Y.nbytes <= costs.SCANNED_BYTES:
        counts = count_patterns(source)
        inputs.may_lack = bool(counts)
        if shared and inputs.plain and inputs.drop:
            inputs.patterns = common_patterns(counts, design)
    return inputs


def _rows(name: str, values: Any, n: int, nobs: int, design: Design, Y: Labelled) -> Any:
    """(n, nobs) of values that look as Y does: an array, or what has labels; (nobs,) is the same for all lanes."""
    values, own, _ = labelled.read_beside(values, design, name, Y.moved)
    if own is not None and Y.labels is not None and not _same(own, Y.labels):
        raise DataError(f"{name} has other labels than Y: give it those of the responses, in their order")
    if hasattr(values, "block"):  # sparse
        values = values.block(0, values.n).y
    if not hasattr(values, "shape"):
        values = np.asarray(values)
    if np.shape(values) == (nobs,) and n != nobs:
        values = np.broadcast_to(values, (n, nobs))
    if np.shape(values) != (n, nobs):
        hint = f": pass {name}.T" if np.shape(values) == (nobs, n) else ""
        raise DataError(f"{name} must have the shape of Y, ({n}, {nobs}), and has {np.shape(values)}{hint}")
    of_column = name.startswith("columns")
    if np.dtype(values.dtype).kind not in ("fiubOUS" if of_column else "fiub"):
        raise DataError(f"{name} holds {values.dtype} where numbers are due")
    return values


def _same(a: Any, b: Any) -> bool:
    ours, theirs = a.columns(), b.columns()
    if len(ours) == len(theirs) == 1:  # whatever their one dimension is called
        return np.array_equal(*ours.values(), *theirs.values())
    return all(name in theirs and np.array_equal(x, theirs[name]) for name, x in ours.items())


def check_weights(weights: np.ndarray, first: int, of_trials: bool) -> None:
    """Raises DataError for the first lane that has a weight which is none, or no number of trials where it is that."""
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        k, i = map(int, np.argwhere(bad)[0])
        shown = "negative" if weights[k, i] < 0 else "not finite"
        raise DataError(
            f"weights of lane {first + k} are {shown} at row {i}, both from 0: {weights[k, i]:g}; give a row that "
            "is to be left out the weight 0"
        )
    if of_trials and (apart := np.abs(weights - np.round(weights)) > 1e-6 * np.maximum(1.0, weights)).any():
        k, i = map(int, np.argwhere(apart)[0])
        raise DataError(
            f"the model's weights are the trials of its proportions, and so are those of lanes: {weights[k, i]:g} of "
            f"lane {first + k} at row {i}, both from 0, is no whole number; write the model with cbind(successes, "
            "failures) for weights that multiply"
        )


def _check_finite(name: str, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        k, i = map(int, np.argwhere(bad)[0])
        raise DataError(f"{name} of lane {k} is not finite at row {i}, both from 0: {values[k, i]:g}")


def count_patterns(source: ArrayResponses) -> dict[bytes, int]:
    """How many responses have each pattern of missing values, as packed bits; of those that lack some."""
    counts: dict[bytes, int] = {}
    if np.dtype(source.Y.dtype).kind != "f":
        return counts
    step = max(1, costs.CHUNK_ROWS // source.Y.shape[1])
    for first in range(0, source.n, step):
        gone = np.isnan(ArrayResponses.block(source, first, min(step, source.n - first)).y)
        some = gone.any(axis=1)
        if some.any():
            packed, number = np.unique(np.packbits(gone[some], axis=1), axis=0, return_counts=True)
            for row, count in zip(packed, number, strict=True):
                counts[row.tobytes()] = counts.get(row.tobytes(), 0) + int(count)
    return counts


def common_patterns(counts: Mapping[bytes, int], design: Design) -> np.ndarray | None:
    """(K, nobs) which rows count, of the patterns that many responses have; None where there are none.

    A pattern in which columns of X depend on each other is not one of them.
    """
    nobs, p = design.X.shape
    least = costs.PATTERN_WORK / (nobs * (p + sum(t.Z.shape[1] for t in design.terms)))
    many = sorted((key for key, count in counts.items() if count >= least), key=lambda key: -counts[key])
    patterns = [~np.unpackbits(np.frombuffer(key, np.uint8))[:nobs].astype(bool) for key in many[: costs.PATTERNS]]
    usable = [x for x in patterns if x.sum() > p and len(independent_columns(design.X[x])) == p]
    return np.array(usable) if usable else None
