"""Who does which replicates of a results folder, that nobody does them twice, and how far each has come.

shard 3 of 16                replicates ⌊2n/16⌋ .. ⌊3n/16⌋ - 1
.lock, .lock-shard-003-of-016   locked by who is at work: the whole folder by one, or each shard by one
shard-003-of-016.json        how far that shard has come, for ``load`` to tell
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmm.results import files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_TEXT = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")
_RECORD = re.compile(r"shard-(\d+)-of-(\d+)\.json")
_SHOWN = 5  # shards in a message


@dataclass(frozen=True)
class Shard:
    """One of ``count`` shares of the replicates, numbered from 1; by default all of them."""

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, given: Any) -> Shard:
        """None, "3/16", (3, 16), or a shard.

        Raises:
            ValueError: anything else, with what would be accepted.
        """
        if given is None:
            return cls()
        if isinstance(given, cls):
            return given
        found = _TEXT.fullmatch(given) if isinstance(given, str) else None
        pair: Any = tuple(map(int, found.groups())) if found else given
        whole = isinstance(pair, tuple | list) and len(pair) == 2 and all(_is_whole(x) for x in pair)
        if not whole or not 1 <= pair[0] <= pair[1]:
            raise ValueError(f"shard must be '3/16' or (3, 16), the third of sixteen, counted from 1, not {given!r}")
        return cls(int(pair[0]), int(pair[1]))

    def __str__(self) -> str:
        return f"shard {self.number} of {self.count}"

    @property
    def name(self) -> str:
        return f"shard-{self.number:03d}-of-{self.count:03d}"

    def bounds(self, n: int) -> tuple[int, int]:
        """The first of its replicates of 0 .. n - 1, and where they stop."""
        return n * (self.number - 1) // self.count, n * self.number // self.count


def _is_whole(x: Any) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


# ---------------------------------------------------------------- one at a time
@contextmanager
def at_work(folder: Path, shard: Shard, process: int = 0, processes: int = 1) -> Iterator[None]:
    """Holds the folder, or the shard of it, while this process writes to it; a process that ends holds nothing, however
    it ends.  Without locks (Windows, some network file systems) nobody is refused: parts are whole all the same.

    Raises:
        RuntimeError: another process, or another call in this one, is at work on it.
    """
    alone = shard.count == processes == 1
    own = shard.name + (f"-{process}-of-{processes}" if processes > 1 else "")
    with ExitStack() as held:
        held.enter_context(_locked(folder / ".lock", alone, f"'{folder}'"))
        if not alone:
            held.enter_context(_locked(folder / f".lock-{own}", True, f"{shard} of '{folder}'"))
        yield


@contextmanager
def _locked(path: Path, alone: bool, what: str) -> Iterator[None]:
    file = _lock(path, alone, what)
    try:
        if file is not None and alone:
            os.truncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        if file is not None:
            os.close(file)


def _lock(path: Path, alone: bool, what: str) -> int | None:
    """The open file that holds the lock; None where there are no locks, or no writing."""
    if fcntl is None:
        return None
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        raise
    except OSError:  # what can only be read holds no results to be
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 200, 0).decode(errors="replace")
        os.close(file)
        raise RuntimeError(
            f"{what} is being worked on by another call" + (f" ({holder})" if holder else "") + ": wait for its end, "
            "take another folder, or share the work, shard='1/2' in one and shard='2/2' in the other"
        ) from None
    except OSError:
        os.close(file)
        return None
    return file


# ---------------------------------------------------------------- how far each has come
@contextmanager
def recorded(folder: Path, shard: Shard) -> Iterator[None]:
    """Notes in the folder that the shard runs, has ended, or failed of what; an error says which shard it is."""
    if shard.count == 1:
        yield
        return

    def note(state: str, error: str = "") -> None:
        about = {"state": state, "error": error, "where": f"process {os.getpid()} on {socket.gethostname()}"}
        text = json.dumps(about).encode()
        files.publish(folder / f"{shard.name}.json", lambda file: file.write(text), overwrite=True)

    note("running")
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # the first error is the one to be told
            note("failed", f"{type(error).__name__}: {error}")
        error.add_note(f"in {shard} of '{folder}'")
        raise
    note("done")


def told(folder: Path, gaps: list[tuple[int, int]], n: int) -> str:
    """Which shards lack what of ``gaps``, in words; "" where the folder was not made by shards."""
    records = [(p, _RECORD.fullmatch(p.name)) for p in folder.iterdir()]
    found = [(p, Shard(int(m[1]), int(m[2]))) for p, m in records if m is not None]
    if not found:
        return ""
    last = max(found, key=lambda one: one[0].stat().st_mtime_ns)[1].count  # others are of an earlier call
    lines = []
    for number in range(1, last + 1):
        shard = Shard(number, last)
        a, b = shard.bounds(n)
        lacking = [(max(x, a), min(y, b)) for x, y in gaps if max(x, a) < min(y, b)]
        if lacking:
            shown = ", ".join(f"{x} .. {y - 1}" for x, y in lacking[:_SHOWN]) + (" .." if len(lacking) > _SHOWN else "")
            lines.append(f"{shard} lacks {shown} ({_state(folder / f'{shard.name}.json')})")
    more = [f"and {len(lines) - _SHOWN} shards more"] if len(lines) > _SHOWN else []
    return "".join(f"\n  {line}" for line in lines[:_SHOWN] + more)


def _state(path: Path) -> str:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        state, error, where = (str(about[name]) for name in ("state", "error", "where"))
    except FileNotFoundError:
        return "it was never begun"
    except (ValueError, KeyError, TypeError):
        return f"'{path.name}' is not what jaxmm writes there"
    texts = {"failed": f"it failed: {error}", "running": f"it runs, or was killed: {where}"}
    return texts.get(state, "it has ended, with fewer replicates or with a part that is gone")
