"""Numbers that a user gives by name -> arrays in the model's order, or an error that says what is due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def vector(what: str, kind: str, given: Any, names: tuple[str, ...]) -> np.ndarray:
    """One finite number for each name."""
    if hasattr(given, "to_dict") and hasattr(given, "index"):
        given = given.to_dict()
    if isinstance(given, Mapping):
        check_names(what, given, names, kind)
        lacking = [name for name in names if name not in given]
        if lacking:
            raise ValueError(f"{what} lacks {listed(lacking)}; it needs {listed(names)}")
        given = [given[name] for name in names]
    values = numbers(what, given)
    if values.ndim == 0 and len(names) == 1:
        values = values[None]
    if values.shape != (len(names),):
        got = "one number" if values.ndim == 0 else f"an array of shape {values.shape}"
        raise ValueError(f"{what} must be {len(names)} numbers, of {listed(names)}; got {got}")
    if not np.all(np.isfinite(values)):
        i = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{what}: the number of {names[i]!r} is {values[i]}, and must be finite")
    return values


def matrix(what: str, given: Any, names: tuple[str, ...]) -> np.ndarray:
    """(q, q); a labelled table by its labels."""
    if hasattr(given, "loc"):
        if set(given.index) != set(names) or set(given.columns) != set(names):
            raise ValueError(f"{what} must have the rows and columns {listed(names)}")
        given = given.loc[list(names), list(names)]
    values = numbers(what, given)
    if values.shape != (len(names), len(names)):
        raise ValueError(f"{what} must be a matrix of {listed(names)}; got shape {values.shape}")
    return values


def number(what: str, given: Any) -> float:
    value = numbers(what, given)
    if value.ndim or not np.isfinite(value):
        raise ValueError(f"{what} must be a finite number, not {given!r}")
    return float(value)


def numbers(what: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given, float)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be numbers, not {given!r}") from None


def check_names(what: str, given: Any, accepted: Any, kind: str = "key") -> None:
    unknown = [name for name in given if name not in accepted]
    if unknown:
        raise ValueError(f"{what} has no {kind} {unknown[0]!r}; accepted: {listed(accepted)}")


def listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
