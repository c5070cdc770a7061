"""``matrices={"K": ...}`` -> the root of the known matrix that a structure names: propto(0 + species | g, K).

A table has the levels as the names of its rows and columns, in any order, and may have more of them; an array has
exactly the levels, in theirs: a categorical's own, else sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmm.covariance import lower
from jaxmm.design.columns import DataError, near
from jaxmm.design.syntax import number_text

ALIKE = 1e-8  # of the largest entry: what an entry may differ from its mirror image
NEGATIVE = 1e-8  # of the largest eigenvalue: how far below zero the least one may be


def check_matrices(matrices: Mapping[str, Any] | None, named: Sequence[str]) -> Mapping[str, Any]:
    """``matrices`` of a model that uses those ``named``.

    Raises:
        TypeError: it is no mapping.
        DataError: one is missing, or one is not used.
    """
    if matrices is None:
        matrices = {}
    if not isinstance(matrices, Mapping):
        raise TypeError(f"matrices is a mapping such as {{'K': K}}, not {type(matrices).__name__}")
    for name in named:
        if name not in matrices:
            has = (
                f"it has {', '.join(map(repr, matrices))}; {near(name, list(matrices))}" if matrices else "it is empty"
            )
            raise DataError(f"the matrix {name!r} is not in matrices=: {has}: give matrices={{'{name}': ...}}")
    unused = [name for name in matrices if name not in named]
    if unused:
        raise DataError(
            f"the matrix {unused[0]!r} of matrices= is not used: a structure names it, propto(0 + f | g, {unused[0]})"
        )
    return matrices


def known_root(shown: str, name: str, levels: Sequence[str], matrix: Any) -> np.ndarray:
    """L (q, q) lower triangular with LL' = K of the ``levels``, from the matrix called ``name``.

    Raises:
        DataError: levels that it lacks, another shape, not symmetric, a negative eigenvalue, not finite.
    """
    K = _of_levels(shown, name, list(map(str, levels)), matrix)
    if not np.isfinite(K).all():
        i, j = map(int, np.argwhere(~np.isfinite(K))[0])
        raise DataError(f"{shown}: {name} is not finite between {levels[i]!r} and {levels[j]!r}")
    gap = np.abs(K - K.T)
    if np.max(gap) > ALIKE * np.max(np.abs(K)):
        i, j = divmod(int(np.argmax(gap)), len(gap))
        raise DataError(
            f"{shown}: {name} is not symmetric: it has {K[i, j]:g} for {levels[i]!r} and {levels[j]!r}, and "
            f"{K[j, i]:g} the other way round: give a covariance or a correlation matrix"
        )
    K = 0.5 * (K + K.T)
    try:
        return np.linalg.cholesky(K)
    except np.linalg.LinAlgError:
        w, Q = np.linalg.eigh(K)
    if w[-1] <= 0 or w[0] < -NEGATIVE * w[-1]:
        raise DataError(
            f"{shown}: {name} is not positive semidefinite, its least eigenvalue is {w[0]:.4g} and its largest "
            f"{w[-1]:.4g}: it is no covariance matrix; of distances, exp(-distance) may be one"
        )
    return lower(Q * np.sqrt(np.maximum(w, 0.0)))


def _of_levels(shown: str, name: str, levels: list[str], matrix: Any) -> np.ndarray:
    """K (q, q) of the levels, in their order."""
    if hasattr(matrix, "index") and hasattr(matrix, "columns"):
        rows, columns = ([_text(x) for x in axis] for axis in (matrix.index, matrix.columns))
        for what, axis in (("rows", rows), ("columns", columns)):
            lacking = [level for level in levels if level not in set(axis)]
            if lacking:
                some = ", ".join(map(repr, lacking[:3])) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
                raise DataError(
                    f"{shown}: the {what} of {name} lack {some} of the levels of the data; the names that it has are "
                    f"such as {', '.join(map(repr, axis[:3]))}"
                )
            twice = next((x for x in levels if axis.count(x) > 1), None) if len(set(axis)) < len(axis) else None
            if twice is not None:
                raise DataError(f"{shown}: the {what} of {name} have {twice!r} twice")
        at = [{x: k for k, x in enumerate(axis)} for axis in (rows, columns)]
        picked = np.ix_([at[0][x] for x in levels], [at[1][x] for x in levels])
        return _numbers(shown, name, matrix.to_numpy())[picked]
    K, q = _numbers(shown, name, matrix), len(levels)
    if K.shape != (q, q):
        raise DataError(
            f"{shown}: {name} has shape {K.shape} and the data have {q} levels: give ({q}, {q}) in the order "
            f"{', '.join(map(repr, levels[:4]))}{', ..' if q > 4 else ''}, or a DataFrame with their names"
        )
    return K


def _text(label: Any) -> str:
    return number_text(float(label)) if isinstance(label, int | float | np.number) else str(label)


def _numbers(shown: str, name: str, matrix: Any) -> np.ndarray:
    try:
        return np.asarray(matrix, float)
    except (TypeError, ValueError):
        raise DataError(f"{shown}: {name} holds text or other things where numbers are due") from None
