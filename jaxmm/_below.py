"""What a fit offers as methods and modules below it, which need fits, supply: imports go one way all the same."""

from collections.abc import Callable
from typing import Any

_FUNCTIONS: dict[str, Callable[..., Any]] = {}


def offers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function available by its name to the modules above its own."""
    _FUNCTIONS[function.__name__] = function
    return function


def offered(name: str) -> Callable[..., Any]:
    """The function of this name; the package imports every module that offers one."""
    return _FUNCTIONS[name]
