"""A column that a user names, or gives -> its values on the rows of a design, or its levels.

A name is that of a grouping factor or of a column in the formula; a design keeps no other column, and then its values
are given, one for each row that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxmm.design import DataError, Design
from jaxmm.design.columns import Levels


class Columns(Mapping[str, np.ndarray]):
    """The columns of a design by name: numbers, or the labels of a factor."""

    def __init__(self, design: Design):
        held = {} if design.spec is None else design.spec.held
        factors = {f.name: np.asarray(f.levels)[f.codes] for f in design.factors}
        self._values = factors | {name: _plain(x) for name, x in held.items()}

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
    """(n,) codes of the values of a column, and these, sorted.

    Raises:
        DataError: as ``values_of``.
    """
    labels, codes = np.unique(values_of(what, given, design), return_inverse=True)
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
