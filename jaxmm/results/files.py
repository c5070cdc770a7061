"""Arrays with one leading axis <-> one Parquet file, exactly: a column per number, their order kept in its metadata.

A file appears under its name whole or not at all: it is written under a temporary name in the same folder, flushed to
the disk, and then renamed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT = 1
KEY = b"jaxmm"
ROWS = 2**17  # of a row group: what is held in memory besides the arrays themselves
OLD = 3600.0  # seconds after which a temporary file has no living writer

_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())
_TEMPORARY = re.compile(r"\.jaxmm-(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{32}\.tmp")


def version() -> str:
    """Of the running package, which is imported by the time that anybody asks."""
    return sys.modules[__name__.partition(".")[0]].__version__


def parquet() -> Any:
    """The module pyarrow.parquet.

    Raises:
        ImportError: pyarrow is not installed, with how to install it.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("results in files need pyarrow: pip install 'jaxmm[parquet]'") from error
    return pyarrow.parquet


# ---------------------------------------------------------------- arrays <-> a table
def write_arrays(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    labels: Mapping[str, Sequence[str]],
    about: Mapping[str, Any],
    overwrite: bool = True,
) -> None:
    """Write arrays (n,) or (n, k) as the columns of a Parquet file.

    Args:
        labels: the names of the k columns of each array (n, k).
        about: JSON, kept in the file's metadata.

    Raises:
        FileExistsError: there is a file, and ``overwrite`` is False.
    """
    pq = parquet()
    import pyarrow as pa

    layout, names, n = [], [], 0
    for name, x in arrays.items():
        n = len(x)
        layout.append([name, x.dtype.str, list(x.shape[1:])])
        names += [name] if x.ndim == 1 else [f"{name}[{label}]" for label in labels[name]]
    seen: dict[str, int] = {}
    for k, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        names[k] = name if seen[name] == 1 else f"{name}#{seen[name]}"

    def table(rows: slice) -> Any:
        parts = (x[rows, None] if x.ndim == 1 else x[rows] for x in arrays.values())
        return [pa.array(np.ascontiguousarray(part[:, j])) for part in parts for j in range(part.shape[1])]

    meta = {"format": FORMAT, "version": version(), "layout": layout, **about}
    types = [column.type for column in table(slice(0, 0))]
    schema = pa.schema(
        [pa.field(name, type_, nullable=False) for name, type_ in zip(names, types, strict=True)],
        metadata={KEY: json.dumps(meta).encode()},
    )

    def write(file: BinaryIO) -> None:
        options = {"use_dictionary": False, "compression": "zstd", "write_page_checksum": True}
        with pq.ParquetWriter(file, schema, **options) as writer:
            for first in range(0, n, ROWS):
                writer.write_table(pa.Table.from_arrays(table(slice(first, first + ROWS)), schema=schema))

    publish(path, write, overwrite)


class DamagedError(ValueError):
    """A file that is cut, unreadable, or not what its name says: the one at ``path``."""

    def __init__(self, message: str, path: Path | None = None):
        super().__init__(message)
        self.path = path


class ArrayFile:
    """A file of ``write_arrays``, open for reading: ``about`` (its metadata) and ``n`` rows.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not whole.
        ValueError: a file of another kind, or one of a later format; the message names it.
    """

    def __init__(self, path: Path):
        self.path, pq = path, parquet()
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            kept = (self._file.schema_arrow.metadata or {}).get(KEY)
            self.about: dict[str, Any] = {} if kept is None else json.loads(kept)
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, ValueError) as error:  # pyarrow's own derive from these
            raise DamagedError(f"'{path}' is not a whole Parquet file ({_first_line(error)})") from error
        try:
            self._check_about()
        except ValueError:
            self.close()
            raise
        self.n: int = self._file.metadata.num_rows

    def _check_about(self) -> None:
        """Raises ValueError for metadata that jaxmm does not write, as of this file's columns."""
        if not isinstance(self.about, dict) or "layout" not in self.about:
            raise ValueError(f"'{self.path}' is a Parquet file, but not one of results that jaxmm wrote")
        about, columns = self.about, 0
        try:
            written, form = str(about["version"]), int(about["format"])
            for name, dtype, shape in about["layout"] if form <= FORMAT else []:
                columns += int(np.prod([int(k) for k in shape], initial=1))
                if not isinstance(name, str) or np.dtype(dtype).kind not in "fiub" or len(shape) > 1:
                    raise TypeError
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"'{self.path}' has metadata that jaxmm does not write: it was changed") from error
        if form > FORMAT:
            raise ValueError(f"'{self.path}' was written by jaxmm {written}; this is {version()}: update it")
        if columns != self._file.metadata.num_columns:
            there = self._file.metadata.num_columns
            raise ValueError(f"'{self.path}' has {there} columns, and its metadata {columns}: it was changed")

    def check_rows(self, name: str, first: int, stop: int) -> None:
        """Whether the rows are numbered ``first`` .. ``stop`` - 1 by the column ``name``, as far as the end of the file
        tells: their number, the smallest and the largest.

        Raises:
            DamagedError: they are not.
        """
        if self.n != stop - first:
            raise DamagedError(f"'{self.path}' has {self.n} rows, not the {stop - first} that its name says")
        at, meta, given = self._file.schema_arrow.get_field_index(name), self._file.metadata, first
        for group in range(meta.num_row_groups if at >= 0 else 0):
            known, rows = meta.row_group(group).column(at).statistics, meta.row_group(group).num_rows
            if known is not None and known.has_min_max and (known.min, known.max) != (given, given + rows - 1):
                raise DamagedError(f"'{self.path}' holds other replicates than its name says")
            given += rows

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close(force=True)

    def empty(self, n: int) -> dict[str, np.ndarray]:
        """Arrays of n rows to read into."""
        return {name: np.empty((n, *shape), dtype) for name, dtype, shape in self.about["layout"]}

    def read_into(self, arrays: Mapping[str, np.ndarray], rows: slice, at: int) -> None:
        """Copy ``rows`` of the file into the arrays, from row ``at`` on, one row group in memory at a time.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            first = 0
            for group in range(self._file.num_row_groups):
                stop = first + self._file.metadata.row_group(group).num_rows
                lo, hi = max(first, rows.start), min(stop, rows.stop)
                if lo < hi:
                    columns = iter(self._file.read_row_group(group).columns)
                    for name, _, shape in self.about["layout"]:
                        target = arrays[name][at + lo - rows.start : at + hi - rows.start]
                        for part in target.T if shape else [target]:
                            column = next(columns)
                            if column.null_count:  # a status that is not there would be 0, which is success
                                raise ValueError(f"{column.null_count} of {name} are null")
                            part[:] = column.to_numpy()[lo - first : hi - first]
                first = stop
        except (OSError, ValueError) as error:
            raise DamagedError(f"'{self.path}' is damaged ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------- whole files or none
def publish(path: Path, write: Callable[[BinaryIO], object], overwrite: bool) -> None:
    """Make a file of what ``write`` writes, durably and at once.

    Raises:
        FileExistsError: there is a file, and ``overwrite`` is False.
        OSError: it cannot be written, by its name.
    """
    for attempt in range(3):
        temporary = path.parent / f".jaxmm-{_HOST}-{os.getpid()}-{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, path)
            else:
                _link(temporary, path)
            break
        except FileNotFoundError:
            # taken for a leftover by a process that cannot see this one, as from another container
            if attempt == 2 or not path.parent.is_dir():
                raise
        except FileExistsError:
            raise
        except OSError as error:
            what = error.strerror or str(error)
            raise OSError(error.errno, f"'{path}' could not be written ({what})") from error
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def try_writing(folder: Path) -> None:
    """Makes a file in the folder and removes it; raises OSError where that cannot be done."""
    temporary = folder / f".jaxmm-{_HOST}-{os.getpid()}-{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(b"jaxmm")
    finally:
        with suppress(OSError):
            temporary.unlink()


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name unless that is taken."""
    try:
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:  # a file system without links: a look and a renaming, not quite at once
        if path.exists():
            raise FileExistsError(f"'{path}' exists") from error
        os.replace(temporary, path)


def is_temporary(name: str) -> bool:
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that are dead: of this host by their process, else by their age."""
    for path in folder.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found is None:
            continue
        with suppress(FileNotFoundError):
            dead = found["host"] == _HOST and not _is_alive(int(found["pid"]))
            if dead or time.time() - path.stat().st_mtime > OLD:
                path.unlink()


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere there is no harmless signal to ask with
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
