"""A results folder: many fits in parts, so that a run that was cut off goes on where it stopped, from the files alone.

    study.json                                      what was to be computed: the identity, and who wrote it
    part-000000000000-000000000999.parquet          replicates 0 .. 999

A part is there whole or not at all. Several processes may open one folder and write their parts into it at once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxmm._warn import warn
from jaxmm.results import files, shards
from jaxmm.results.files import DamagedError
from jaxmm.results.result import FitBatch

STUDY = "study.json"
_PART = re.compile(r"part-(\d{12,})-(\d{12,})\.parquet")
_ABSENT = "(absent)"


class Store:
    """A results folder, opened to write to it: made if need be, continued if it is of the same study.

    Args:
        folder: its path; parents are made too.
        identity: what makes the study this one and no other: names and values that JSON can hold (arrays become
            lists). A folder is continued only where they are equal.
        extendable: entries that may differ, as the number of replicates ``n``: a longer run continues a shorter one;
            a shorter one than is there is refused.

    Raises:
        ValueError: the folder holds another study (the message says in which entries) or other files; nothing in it
            is touched.
        NotADirectoryError: the path is a file.
        TypeError: no path.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, folder: str | os.PathLike, identity: Mapping[str, Any], extendable: Sequence[str] = ("n",)):
        files.parquet()
        self.folder, self.identity, self.extendable = as_folder(folder), plain(identity), tuple(extendable)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"'{self.folder}' is a file: results need a folder of their own")
        self.folder.mkdir(parents=True, exist_ok=True)
        if read_study(self.folder) is None:
            self._begin()
        self.version = self._continue()
        files.remove_leftovers(self.folder)

    def _begin(self) -> None:
        others = sorted(p.name for p in self.folder.iterdir() if not files.is_temporary(p.name))
        if others and read_study(self.folder) is None:  # looked for again: another process may just have begun
            raise ValueError(
                f"'{self.folder}' is not empty and has no {STUDY} ({_listed(others)}): "
                "choose a new or an empty folder for results; nothing was touched"
            )
        try:
            self._record(files.version(), overwrite=False)
        except FileExistsError:  # another process was faster
            pass

    def _continue(self) -> str:
        """The version that began the study."""
        study = read_study(self.folder)
        assert study is not None
        old = study["identity"]
        differing = _differences(
            *({k: v for k, v in entries.items() if k not in self.extendable} for entries in (old, self.identity))
        )
        if differing:
            shown = [(name, *_contrast(a, b)) for name, a, b in differing[:10]]
            lines = "\n".join(f"  {name}: {a} there, {b} now" for name, a, b in shown)
            more = f"\n  and {len(differing) - 10} more" if len(differing) > 10 else ""
            raise ValueError(
                f"'{self.folder}' holds the results of another study:\n{lines}{more}\n"
                "Choose another folder, or remove this one; nothing was overwritten."
            )
        if study["version"] != files.version():
            warn(
                f"'{self.folder}' was begun with jaxmm {study['version']}, and this is {files.version()}: "
                "the replicates added now may differ in their last digits"
            )
        for k in self.extendable:
            there, asked = old.get(k), self.identity.get(k)
            if there is not None and asked is not None and asked < there:
                raise ValueError(
                    f"'{self.folder}' holds a run of {k} = {there}, and {k} = {asked} is asked for: ask for {there} or "
                    "more, take another folder, or read the first of them, "
                    f"mm.load(folder).take(range({asked})); nothing was overwritten"
                )
        longer = {k for k in self.extendable if _exceeds(self.identity.get(k), old.get(k))}
        self.identity |= {k: old[k] for k in self.extendable if k in old and k not in longer}
        if longer:
            self._record(study["version"], overwrite=True)
        return study["version"]

    def _record(self, version: str, overwrite: bool) -> None:
        study = {"format": files.FORMAT, "version": version, "identity": self.identity}
        text = json.dumps(study, indent=1).encode()
        files.publish(self.folder / STUDY, lambda file: file.write(text), overwrite)

    def done(self) -> list[tuple[int, int]]:
        """The replicates in the folder: sorted ranges (first, stop), those that touch merged."""
        with self._still_there():
            return _merged((first, stop) for first, stop, _ in parts(self.folder))

    def missing(self, n: int, size: int, start: int = 0) -> list[tuple[int, int]]:
        """Blocks (first, size) that make up what is not done of replicates ``start`` .. n - 1.

        Each has at most ``size`` replicates and lies within one of [0, size), [size, 2 size), …, so that every
        process and every restart cuts at the same places.
        """
        if n < 0 or size < 1:
            raise ValueError(f"n must not be negative and size must be at least 1, not {n} and {size}")
        blocks = []
        for at, stop in gaps_between(self.done(), start, n):
            while at < stop:
                end = min(at - at % size + size, stop)
                blocks.append((at, end - at))
                at = end
        return blocks

    def write(self, batch: FitBatch, first: int, stop: int) -> None:
        """Add replicates first .. stop - 1 as a part, durable when this returns.

        Raises:
            ValueError: the batch holds other replicates.
            FileNotFoundError: the folder is gone.
        """
        if not 0 <= first < stop or not np.array_equal(batch.replicate, np.arange(first, stop)):
            held = f"{batch.replicate[0]} .. {batch.replicate[-1]}" if len(batch) else "none"
            raise ValueError(f"a part of replicates {first} .. {stop - 1} was given {len(batch)} ({held})")
        name = f"part-{first:012d}-{stop - 1:012d}.parquet"
        with self._still_there():
            batch.write(self.folder / name)

    def read(self, n: int | None = None, first: int = 0) -> FitBatch:
        """The replicates sorted by number: all of them, or ``first`` .. n - 1.

        Raises:
            DamagedError: a damaged part.
            ValueError: one of other columns, or fewer replicates than ``n``, or none at all.
        """
        with self._still_there():
            return read_parts(self.folder, n, first)

    @contextmanager
    def _still_there(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if self.folder.is_dir():
                raise
            raise FileNotFoundError(
                f"'{self.folder}' was removed or moved while the run wrote to it: what it held is gone with it; run "
                "again, with a folder that stays where it is"
            ) from error


def as_folder(out: Any) -> Path:
    """Raises TypeError for what is no path."""
    if not isinstance(out, str | os.PathLike):
        raise TypeError(f"out must be the path of a folder, not {out!r}")
    return Path(out)


# ---------------------------------------------------------------- reading
def load(path: str | os.PathLike) -> FitBatch:
    """What ``FitBatch.save`` wrote to a file, or a run with ``out=`` to a folder; nothing there is changed.

    Args:
        path: the file's or the folder's.

    Returns:
        ``FitBatch``. Of a folder whose run has not ended, the replicates so far, with a warning that says which
        shards lack what, where it is done by shards.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: something else is there, or it is damaged; the message names the file.
        ImportError: pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mm.fit_many(fit, fit.simulate(4, key=1), progress=False).save(f"{folder}/fits.parquet")
        ...     print(len(mm.load(f"{folder}/fits.parquet")))
        4
    """
    path = Path(path)
    files.parquet()
    if not path.exists():
        raise FileNotFoundError(f"there is no '{path}'")
    if not path.is_dir():
        with files.ArrayFile(path) as file:
            arrays = file.empty(file.n)
            file.read_into(arrays, slice(0, file.n), 0)
            return FitBatch.of_file(file, arrays)
    study = read_study(path)
    if study is None:
        raise ValueError(f"'{path}' is not a folder of results: it has no {STUDY}")
    batch, n = read_parts(path), study["identity"].get("n")
    if isinstance(n, int) and len(batch) < n:
        gaps = gaps_between(_merged((a, b) for a, b, _ in parts(path)), 0, n)
        warn(
            f"'{path}' holds {len(batch)} of {n} replicates: its run has not ended; the same call continues it"
            + shards.told(path, gaps, n)
        )
    return batch


def read_study(folder: Path) -> dict[str, Any] | None:
    """The contents of study.json; None where there is none.

    Raises:
        ValueError: it cannot be read, says an impossible number of replicates, or is of a later format.
    """
    try:
        study = json.loads((folder / STUDY).read_text(encoding="utf-8"))
        if not isinstance(study["identity"], dict) or not isinstance(study["version"], str):
            raise TypeError
        form = int(study["format"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{folder / STUDY}' is not what jaxmm writes there: choose another folder") from error
    n = study["identity"].get("n")
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 0):
        raise ValueError(f"'{folder / STUDY}' says n = {n!r}, which jaxmm does not write there: choose another folder")
    if form > files.FORMAT:
        raise ValueError(
            f"'{folder}' was written by jaxmm {study['version']}, and this is {files.version()}: update it"
        )
    return study


def standing(folder: Path) -> tuple[str, bool]:
    """How many replicates the folder holds, which shards lack what, in words; and whether it has all of them."""
    study, done = read_study(folder), _merged((a, b) for a, b, _ in parts(folder))
    n = study["identity"].get("n") if study is not None else None
    if not isinstance(n, int):
        return f"'{folder}': {sum(b - a for a, b in done)} replicates, of a stream", True
    gaps = gaps_between(done, 0, n)
    lacking = sum(b - a for a, b in gaps)
    return f"'{folder}': {n - lacking} of {n} replicates" + (shards.told(folder, gaps, n) if gaps else ""), not gaps


def parts(folder: Path) -> list[tuple[int, int, Path]]:
    """(first, stop, path) of the parts, sorted; of several that begin together the longest first."""
    found = ((p, _PART.fullmatch(p.name)) for p in folder.iterdir())
    ranges = [(int(m[1]), int(m[2]) + 1, p) for p, m in found if m is not None]
    return sorted(((a, b, p) for a, b, p in ranges if a < b), key=lambda part: (part[0], -part[1]))


def read_parts(folder: Path, n: int | None = None, start: int = 0) -> FitBatch:
    """As ``Store.read``."""
    if n is not None:
        gaps = gaps_between(_merged((a, b) for a, b, _ in parts(folder)), start, n)
        if gaps:
            shown = _listed([f"{a} .. {b - 1}" for a, b in gaps])
            raise ValueError(f"'{folder}' lacks replicates {shown} of {n}: continue the run first")
    pieces, covered = [], start
    for first, stop, path in parts(folder):
        lo, hi = max(first, covered), stop if n is None else min(stop, n)
        if lo < hi:
            pieces.append((path, first, stop, lo, hi))
            covered = hi
    if not pieces:
        raise ValueError(f"'{folder}' holds no replicates yet")
    total, at, batch = sum(hi - lo for *_, lo, hi in pieces), 0, None
    for path, first, stop, lo, hi in pieces:
        try:
            with files.ArrayFile(path) as file:
                if batch is None:
                    batch = FitBatch.of_file(file, file.empty(total))
                _check_part(file, batch, stop - first)
                file.read_into(batch.arrays(), slice(lo - first, hi - first), at)
            if not np.array_equal(batch.replicate[at : at + hi - lo], np.arange(lo, hi)):
                raise DamagedError(f"'{path}' holds other replicates than its name says")
        except ValueError as error:
            message = f"{error}; remove it and run again: its replicates are computed anew"
            if isinstance(error, DamagedError):
                raise DamagedError(message, path) from error
            raise ValueError(message) from error
        at += hi - lo
    assert batch is not None
    return batch


def _check_part(file: files.ArrayFile, batch: FitBatch, n: int) -> None:
    """Whether a part has n rows and fits the batch that it is read into.

    Raises:
        ValueError: it has or does not.
    """
    if file.n != n:
        raise ValueError(f"'{file.path}' has {file.n} rows, not the {n} that its name says")
    mine = FitBatch.of_file(file, file.empty(0))
    same = all(mine.arrays()[k].shape[1:] == x.shape[1:] for k, x in batch.arrays().items())
    if mine.names != batch.names or not same:
        raise ValueError(f"'{file.path}' has other columns than the parts before it")


# ---------------------------------------------------------------- ranges and identities
def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted ranges (first, stop), those that touch or overlap as one."""
    out: list[tuple[int, int]] = []
    for first, stop in sorted(ranges):
        if out and first <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], stop))
        else:
            out.append((first, stop))
    return out


def gaps_between(done: list[tuple[int, int]], first: int, stop: int) -> list[tuple[int, int]]:
    """What merged ranges leave of [first, stop)."""
    edges = [first, *(edge for pair in done for edge in pair), stop]
    gaps = ((max(a, first), min(b, stop)) for a, b in zip(edges[::2], edges[1::2], strict=True))
    return [(a, b) for a, b in gaps if a < b]


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity as JSON gives it back: tuples and arrays as lists, names as strings.

    Raises:
        TypeError: an entry that JSON cannot hold.
    """

    def default(x: Any) -> Any:
        if hasattr(x, "tolist"):
            return np.asarray(x).tolist()
        raise TypeError(f"{type(x).__name__}")

    out = {}
    for name, value in identity.items():
        try:
            out[str(name)] = json.loads(json.dumps(value, default=default))
        except (TypeError, ValueError) as error:
            raise TypeError(f"identity[{name!r}]: JSON cannot hold {value!r}; give numbers, text or lists") from error
    return out


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, old, new) of the entries that differ, those of nested dictionaries as a.b."""
    flat_old, flat_new = _flat(old), _flat(new)
    return [
        (name, flat_old.get(name, _ABSENT), flat_new.get(name, _ABSENT))
        for name in dict.fromkeys([*flat_old, *flat_new])
        if flat_old.get(name, _ABSENT) != flat_new.get(name, _ABSENT)
    ]


def _flat(entries: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    out = {}
    for name, value in entries.items():
        if isinstance(value, dict) and value:
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = json.dumps(value)  # as text a NaN equals itself
    return out


def _exceeds(new: Any, old: Any) -> bool:
    return new is not None and (old is None or new > old)


def _contrast(a: str, b: str, length: int = 60) -> tuple[str, str]:
    """Two texts cut to what is about their first difference."""
    common = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    at = max(0, common - length // 3)

    def cut(text: str) -> str:
        if len(text) <= length:
            return text
        return ("…" if at else "") + text[at : at + length] + ("…" if at + length < len(text) else "")

    return cut(a), cut(b)


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
