"""What is looked at before a run computes: the parts that are there, and whether the folder can take the others.

Of each part the end of the file is read, which a file that was cut has not, and which has the number of rows, the first
and the last replicate, the columns and the version; the numbers themselves are compared with their checksums when they
are read, at the end of a run that gives them back.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxmm._warn import warn
from jaxmm.results import files
from jaxmm.results.result import FitBatch
from jaxmm.results.schema import Names, blank
from jaxmm.results.store import Store, parts


def examine(store: Store, names: Names) -> None:
    """Looks at every part of the folder.

    One that is cut, unreadable, or holds other replicates than its name says is moved aside, as "damaged-…", with a
    warning that names it: its replicates are then missing, and are computed anew.

    Raises:
        ValueError: a part of another version of jaxmm than began the folder or runs now, or of other columns, or a file
            that jaxmm did not write; the message names it, and nothing is touched.
    """
    for first, stop, path in parts(store.folder):
        try:
            with files.ArrayFile(path) as file:
                file.check_rows("replicate", first, stop)
                _check_kind(file, names, {store.version, files.version()})
        except FileNotFoundError:  # another process has just moved it aside
            continue
        except files.DamagedError as damage:
            _put_aside(path, damage)


def computed_and_read(compute: Callable[[], Any], read: Callable[[Any], FitBatch]) -> FitBatch:
    """What ``read`` reads of the folder that ``compute`` fills, in which a part is moved aside with a warning, and
    computed anew, where its numbers are not those that were written.

    Raises:
        ValueError: a part that is damaged again.
    """
    aside: set[Path] = set()
    while True:
        store = compute()
        try:
            return read(store)
        except files.DamagedError as damage:
            if damage.path is None or damage.path in aside:
                raise
            aside.add(damage.path)
            _put_aside(damage.path, damage.__cause__ or damage)


def _put_aside(path: Path, damage: BaseException) -> None:
    aside = path.with_name(f"damaged-{path.stem}-{uuid.uuid4().hex[:8]}.parquet")
    os.replace(path, aside)
    warn(f"{damage}: its replicates are computed anew, and the file is kept as '{aside.name}'")


def _check_kind(file: files.ArrayFile, names: Names, versions: set[str]) -> None:
    version = file.about["version"]
    if version not in versions:
        raise ValueError(
            f"'{file.path}' was written by jaxmm {version}, and the rest by {' and '.join(sorted(versions))}: remove "
            "it and run again, or choose another folder"
        )
    if FitBatch.of_file(file, file.empty(0)).names != names:
        raise ValueError(f"'{file.path}' has other columns than this model: remove it and run again")


def check_takes_files(folder: Path) -> None:
    """Raises OSError, by its name and with the number of the operating system, where the folder takes no files."""
    try:
        files.try_writing(folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"'{folder}' takes no files ({error.strerror}), and nothing was computed: choose another folder",
        ) from error


def check_room(folder: Path, names: Names, count: int) -> None:
    """Whether the folder takes files, and has room for the results of ``count`` replicates.

    Raises:
        OSError: it does not or has not, by its name; with the number of the operating system.
    """
    check_takes_files(folder)
    needed = count * sum(x.nbytes for x in blank(names, 1).values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the results of {count} replicates need about {needed / 1e6:.3g} MB, and '{folder}' has "
            f"{free / 1e6:.3g} MB free: nothing was computed",
        )
