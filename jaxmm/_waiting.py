"""Who waits is told: bars of progress, and in a first call that takes more than a second a line with the reason.

Programs are compiled at their first call. Where somebody is looking (a terminal, a notebook), and only there, a line on
standard error tells that it is compiling and, the first time in a process, how programs are kept on disk.  The
environment variable ``JAXMM_QUIET`` leaves it out.  It takes the place of the bar while there is one, by carriage
returns alone: notebooks do not know the movements by which a terminal has several lines.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

PATIENCE = 1.0  # seconds without a word
LINE = "jaxmm is compiling for a new shape of data or model, {elapsed}"
KEEP = (
    "jaxmm compiles once for each shape: later calls start at once. To keep compiled programs for later processes, set "
    "the environment variable JAX_COMPILATION_CACHE_DIR to a folder. (JAXMM_QUIET=1 leaves such lines out.)"
)
_told = threading.Event()
_shown = threading.Lock()  # one line, however many threads compile


def can_write() -> bool:
    """Whether there is a standard error: a service may have none, or have closed it."""
    return sys.stderr is not None and not getattr(sys.stderr, "closed", False)


def looked_at() -> bool:
    """Whether a person sees standard error."""
    if os.environ.get("JAXMM_QUIET") or not can_write():
        return False
    return "ipykernel" in sys.modules or sys.stderr.isatty()


def _tell(done: threading.Event) -> None:
    """A line with the time that has passed, which goes away when it is done."""
    if done.wait(PATIENCE) or not _shown.acquire(blocking=False):
        return
    from tqdm import tqdm  # whose bars go away for what is written by it, and come back

    begun, width = time.monotonic() - PATIENCE, shutil.get_terminal_size().columns - 1
    try:
        if not _told.is_set() and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
            tqdm.write(textwrap.fill(KEEP, width), file=sys.stderr)
        _told.set()
        while True:
            text = LINE.format(elapsed=tqdm.format_interval(time.monotonic() - begun))
            with tqdm.get_lock():
                _over(text[:width].ljust(width))
            if done.wait(0.5):
                break
        with tqdm.external_write_mode(file=sys.stderr):
            _over(" " * width + "\r")
    finally:
        _shown.release()


def _over(text: str) -> None:
    """In the place of the last line."""
    sys.stderr.write("\r" + text)
    sys.stderr.flush()


def bars() -> Any:
    """tqdm's bars, those of notebooks where there are widgets for them, and no word about it where there are none."""
    from tqdm import TqdmWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm
    return tqdm


class FirstCall:
    """A jitted function, whose first call may take long."""

    def __init__(self, function: Callable):
        self.function, self.ready = function, False

    def __call__(self, *args: Any) -> Any:
        first, self.ready = not self.ready, True
        if not first or not looked_at():  # nobody asks at the calls of a search whether somebody looks
            return self.function(*args)
        done = threading.Event()
        watch = threading.Thread(target=_tell, args=(done,), daemon=True)
        watch.start()
        try:
            return self.function(*args)
        finally:
            done.set()
            watch.join()
