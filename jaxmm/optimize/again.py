"""A second search, where the first may have ended in the wrong place, and which of the two ends to keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from jaxmm.optimize.ends import Control, Search, Status
from jaxmm.optimize.host import Objective, minimise

ROUGH = 1e-3  # tolerance of a second search, until it is seen to lead lower
LOWER = 1e-6  # of the deviance: another minimum, not the same one reached again


def is_lower(value: Any, than: Any) -> Any:
    """Whether a value is that of another, lower minimum; numbers or arrays."""
    return value < than - LOWER


def is_better(value: Any, status: Any, first: Any, first_status: Any) -> Any:
    """Whether to keep an end rather than the ``first`` one: where it has converged and that has not, or it is lower and
    has not failed alone."""
    converged, failed = status == Status.CONVERGED, first_status != Status.CONVERGED
    return (failed & converged) | (is_lower(value, first) & (converged | failed))


def roughly(control: Control) -> Control:
    """The settings of a search that only looks where a start leads."""
    return replace(control, tolerance=max(control.tolerance, ROUGH))


def search_again(objective: Objective, found: Search, start: np.ndarray, control: Control) -> Search:
    """The better of ``found`` and of a search from ``start``, which is made to its end only where it leads lower, by
    more than what both values may be wrong by."""
    other = minimise(objective, start, roughly(control))
    if not is_lower(other.value, found.value - 2 * objective.noise):
        return found
    other = minimise(objective, other.theta, control)
    if not is_better(other.value + 2 * objective.noise, other.status, found.value, found.status):
        return found
    return other._replace(iterations=found.iterations + other.iterations)
