"""Which rows are left out together: groups of rows, a group or several in each fold.

by = a grouping factor, or a label for each row   ->  the group of each row
folds = K                                          ->  the fold of each group, at random and of nearly one size
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmm._random import as_key
from jaxmm.design import DataError, Design


@dataclass(frozen=True, eq=False)
class Folds:
    """``codes`` (n,) the group of each row that counts, of those called ``labels``, ``name`` them all; ``fold`` of each
    group, 0 .. ``count`` - 1; ``apart``: whether no random effect is shared between groups, nor an error correlated."""

    codes: np.ndarray
    labels: np.ndarray
    name: str
    fold: np.ndarray
    apart: bool

    @property
    def count(self) -> int:
        return int(self.fold.max()) + 1

    @property
    def of_rows(self) -> np.ndarray:
        """(n,) the fold of each row."""
        return self.fold[self.codes]

    @property
    def alone(self) -> bool:
        """Whether each group is a fold of its own."""
        return self.count == len(self.fold)


def make_folds(design: Design, by: Any, folds: int | None, key: Any, outermost: int | None) -> Folds:
    """See ``cross_validate``.

    Raises:
        ValueError: a name that is no grouping factor, no ``by`` where factors are crossed, fewer than two groups; a
            number of folds below two or above that of the groups; a key without folds.
        TypeError: folds without a key.
        DataError: labels of another length, or missing ones.
    """
    codes, labels, name = _groups(design, by, outermost)
    if len(labels) < 2:
        raise ValueError(f"cross_validate leaves groups out, and there is one only of {name}: two are needed")
    if folds is None:
        if key is not None:
            raise ValueError("key= is for folds=K, groups put together at random: each group is left out by itself")
        fold = np.arange(len(labels))
    else:
        fold = _at_random(len(labels), folds, key)
    apart = all(_lies_in(f.codes, len(f.levels), codes) for f in design.correlated_within)
    return Folds(codes, labels, name, fold, apart)


def _groups(design: Design, by: Any, outermost: int | None) -> tuple[np.ndarray, np.ndarray, str]:
    factors = design.correlated_within
    names = list(dict.fromkeys(f.name for f in factors))
    if by is None and not factors:
        raise ValueError(
            "the model has no grouping factor: say what is left out, a label for each row, by=data['group']"
        )
    if by is None and not design.factors:
        by = names[0]
    if by is None:
        if outermost is None:
            shown = ", ".join(map(repr, names))
            raise ValueError(f"the factors {shown} are crossed: name what is left out, by={names[0]!r}")
        by = names[outermost]
    if isinstance(by, str):
        if by not in names:
            raise ValueError(
                f"by must be a grouping factor of the model ({', '.join(map(repr, names))}) or a label for each row "
                f"used, not {by!r}: the fit keeps no other columns, so give by=data[{by!r}]"
            )
        factor = next(f for f in factors if f.name == by)
        return factor.codes.astype(np.int64), np.asarray(factor.levels), by
    index = design.index
    if isinstance(by, pd.Series) and by.index.is_unique and index.isin(by.index).all():
        by = by.loc[index]
    given = np.asarray(by)
    if given.shape == index.shape:
        given = given[design.kept]
    if given.shape != design.y.shape:
        raise DataError(f"by must hold a label for each of the {len(index)} rows used, not {given.shape}")
    codes, labels = pd.factorize(given)
    if np.any(codes < 0):
        raise DataError(f"by has {int(np.sum(codes < 0))} missing labels: every row needs one")
    return codes.astype(np.int64), np.asarray(labels), "the groups given"


def _at_random(groups: int, folds: Any, key: Any) -> np.ndarray:
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or not 2 <= folds <= groups:
        raise ValueError(f"folds must be a whole number from 2 to {groups}, the number of groups, not {folds!r}")
    if key is None:
        raise TypeError("folds=K puts groups together at random: it needs a key, such as key=1")
    with jax.enable_x64(True):
        order = np.asarray(jax.random.permutation(as_key(key), groups))
    fold = np.empty(groups, np.int64)
    fold[order] = np.arange(groups) % folds
    return fold


def _lies_in(inner: np.ndarray, levels: int, outer: np.ndarray) -> bool:
    """Whether each level of ``inner`` has rows of one group only."""
    own = np.zeros(levels, np.int64)
    own[inner] = outer
    return bool(np.all(own[inner] == outer))
