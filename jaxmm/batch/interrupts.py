"""Ctrl-C that is not lost.

Python calls the handler of a signal in the main thread, between any two instructions.  Where these belong to a callback
of the garbage collector, as JAX has one, or to a destructor, what the handler raises is printed and forgotten, and a
long run would go on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager

HEARING = 0.2  # seconds of waiting at a time: one without end hears nothing of Ctrl-C if another thread gets the signal


@contextmanager
def remembered() -> Iterator[Callable[[], None]]:
    """Yields a function that raises ``KeyboardInterrupt`` once Ctrl-C has been pressed within.

    The first Ctrl-C raises at once as ever.  In another thread than the main one, or where the program has a handler of
    its own, nothing is changed and the function does nothing.
    """
    pressed = threading.Event()

    def handler(*_) -> None:
        pressed.set()
        raise KeyboardInterrupt

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    own = here and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if own:
        signal.signal(signal.SIGINT, handler)
    try:
        yield check
    finally:
        if own:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def still_running(parts: set[Future], check: Callable[[], None]) -> set[Future]:
    """What is left as soon as some have ended; raises what they raise, and what ``check`` raises meanwhile."""
    ended: set[Future] = set()
    while not ended:
        check()
        ended, parts = wait(parts, HEARING, FIRST_COMPLETED)
    for future in ended:
        future.result()
    return parts
