"""A bar of progress, where there is somewhere to show it: standard error that is closed, before or meanwhile, is no
error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxmm._waiting import bars, can_write


@contextmanager
def progress_bar(progress: bool, n: int | None) -> Iterator[Any]:
    """A function that is told how many more replicates are done."""
    if not progress or not can_write():
        yield lambda count: None
        return
    lock, bar = threading.Lock(), bars()(total=n, unit=" fits", unit_scale=True)
    shown = [True]

    def tick(count: int) -> None:
        with lock:
            if shown[0]:
                try:
                    bar.update(count)
                except (OSError, ValueError):  # it has been closed
                    shown[0] = False

    try:
        yield tick
    finally:
        try:
            bar.close()
        except (OSError, ValueError):
            pass
