"""A column that a user names, or gives -> its values on the rows of a design, or its levels.

A name is that of a grouping factor, of a column in the formula, or of the times, the subject and the levels that errors
differ by; a design keeps no other column, and then its values are given, one for each row that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxmm.design import DataError, Design
from jaxmm.design.columns import Levels
from jaxmm.design.syntax import Name


class Columns(Mapping[str, np.ndarray]):
    """The columns of a design by name: numbers, or the labels of a factor.  ``order``: those of factors in order."""

    def __init__(self, design: Design):
        held = design.held if design.spec is None else design.spec.held
        factors = _of_errors(design) | {f.name: Levels(f.codes, np.asarray(f.levels)) for f in design.factors}
        both = factors | dict(held)
        self._values = {name: _plain(x) for name, x in both.items()}
        self.order = {name: list(x.labels) for name, x in both.items() if isinstance(x, Levels)}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._values:
            raise DataError(
                f"there is no column {name!r} in the formula: there are {', '.join(map(repr, self._values))}; give the "
                "values of another one, an array with a number or a label for each row"
            )
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _of_errors(design: Design) -> dict[str, np.ndarray | Levels]:
    """What the covariance of the errors goes by."""
    own = design.residual
    if own is None:
        return {}
    found: dict[str, Any] = {f.name: Levels(f.codes, np.asarray(f.levels)) for f in (own.subject, own.sets) if f}
    if own.bar is not None and isinstance(own.bar.time, Name) and own.place is not None:
        labels = np.asarray(own.times, object)
        found[own.bar.time.name] = Levels(own.place, labels) if own.values is None else own.values[own.place, 0]
    return found


def _plain(x: np.ndarray | Levels) -> np.ndarray:
    return np.asarray(x.labels)[x.codes] if isinstance(x, Levels) else np.asarray(x)


def values_of(what: str, given: Any, design: Design) -> np.ndarray:
    """(n,) the values of a column, by its name or as they are.

    Raises:
        DataError: a column that there is not, another length.
    """
    if isinstance(given, str):
        try:
            return Columns(design)[given]
        except DataError as error:
            raise DataError(f"{what}: {error}") from None
    values = np.asarray(given)
    n = len(design.y)
    if values.shape != (n,):
        raise DataError(f"{what} has shape {values.shape}: give the name of a column, or a value for each of {n} rows")
    return values


def levels_of(what: str, given: Any, design: Design) -> tuple[np.ndarray, list[Any]]:
    """(n,) codes of the values of a column, and these: in the order of a factor's levels, else sorted.

    Raises:
        DataError: as ``values_of``.
    """
    values = values_of(what, given, design)
    labels, codes = np.unique(values, return_inverse=True)
    order = Columns(design).order.get(given) if isinstance(given, str) else None
    if order is not None:
        place = {label: k for k, label in enumerate(order)}
        by = np.argsort([place[label] for label in labels.tolist()])
        labels, codes = labels[by], np.argsort(by)[codes]
    return np.ravel(codes), [x.item() if isinstance(x, np.generic) else x for x in labels]


def by_level(what: str, given: Mapping[Any, Any], labels: list[Any]) -> list[Any]:
    """What is given for each of some levels, in their order; numbers may be given as numbers or as texts.

    Raises:
        ValueError: a level that there is not, one that is lacking.
    """
    known = {str(label): label for label in labels}
    asked = {str(label): value for label, value in given.items()}
    if unknown := [label for label in given if str(label) not in known]:
        raise ValueError(f"{what} has no level {unknown[0]!r}; there are {', '.join(map(repr, labels))}")
    if lacking := [known[label] for label in known if label not in asked]:
        raise ValueError(f"{what} lacks the level {lacking[0]!r}; it needs {', '.join(map(repr, labels))}")
    return [asked[label] for label in known]
