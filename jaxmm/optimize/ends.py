"""What a search is told, and what it says at its end."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

RUNNING = -1  # in the place of a ``Status``, until there is one


class Status(enum.IntEnum):
    """How a search ended; kept as a number in arrays.

    Example:
        >>> mm.Status(int(fit.estimates.status)).message
        'converged'
    """

    CONVERGED = 0
    MAX_ITERATIONS = 1
    NOT_FINITE = 2
    STALLED = 3
    RUNAWAY = 4
    INVALID = 5
    NO_VARIATION = 6
    TOO_FEW_ROWS = 7
    ALIASED = 8

    @property
    def message(self) -> str:
        """What it means, and what to do."""
        return {
            Status.CONVERGED: "converged",
            Status.MAX_ITERATIONS: "stopped at the iteration limit; raise control.max_iterations",
            Status.NOT_FINITE: "the deviance is not finite at the start: rescale the response, or give another start=",
            Status.INVALID: "the response, or a weight of its own, is not finite or not what the family can have",
            Status.NO_VARIATION: "the response does not vary, or the fixed effects reproduce it exactly",
            Status.TOO_FEW_ROWS: "no rows are left, or too few to tell the effects from the error",
            Status.ALIASED: "columns of X depend on each other in the rows that are left",
            Status.RUNAWAY: "the likelihood has no maximum: it rises as a coefficient of enormous SE goes to infinity",
            Status.STALLED: "no step lowers the deviance any further, yet the gradient is not zero",
        }[self]


@dataclass(frozen=True)
class Control:
    """Settings of the search.

    Attributes:
        tolerance: Newton decrement, in units of deviance, at which the search ends.
        max_iterations: trust-region steps, accepted or not.
        newton_limit: with more parameters than this, L-BFGS (optax) does the search and one exact Hessian
            is taken at the end.
        device: "auto" (a GPU only for problems with a large dense part), "cpu", "gpu", or a ``jax.Device``.

    Example:
        >>> fit.model.fit(control=mm.Control(tolerance=1e-6)).converged
        True
    """

    tolerance: float = 1e-9
    max_iterations: int = 200
    newton_limit: int = 30
    device: Any = "auto"

    def __post_init__(self):
        if not isinstance(self.tolerance, int | float | np.number) or not self.tolerance > 0:
            raise ValueError(f"control: tolerance must be a positive number, not {self.tolerance!r}")
        for name, least in (("max_iterations", 1), ("newton_limit", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"control: {name} must be a whole number of at least {least}, not {value!r}")


def as_control(control: Control | dict | None) -> Control:
    """None, a dictionary of settings, or a ``Control``.

    Raises:
        TypeError: for anything else, or an unknown setting (names the accepted ones).
    """
    if control is None:
        return Control()
    if isinstance(control, Control):
        return control
    if isinstance(control, dict):
        known = Control.__dataclass_fields__
        unknown = [k for k in control if k not in known]
        if unknown:
            raise TypeError(f"control has no setting {unknown[0]!r}; accepted: {', '.join(known)}")
        return Control(**control)
    raise TypeError(f"control must be a jaxmm.Control or a dict, not {type(control).__name__}")


class Search(NamedTuple):
    """Where a search ended.  ``eigenvalue`` is the least of the exact Hessian at ``theta``."""

    theta: Any
    value: Any
    gradient: Any
    hessian: Any
    decrement: Any
    eigenvalue: Any
    iterations: Any
    status: Any
    aux: Any
