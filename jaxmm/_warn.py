"""A warning that points at the caller's line, however deep inside jaxmm it arises."""

import sys
import warnings


def warn(message: str) -> None:
    """A UserWarning at the innermost frame outside this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "jaxmm":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
