"""Results folders of the tests: one study, with parts of random batches."""

from pathlib import Path

import pyarrow.parquet as pq
from batches import random_batch

from jaxmm.results.store import Store

STUDY_A = {"formula": "y ~ x + (1 | g)", "key": [0, 1], "truth": {"beta": [1.0, 0.5], "sigma": 1.0}, "n": 100}
DEAD = 2**22 + 12345  # above the largest process number of Linux


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Name -> bytes and time of the last change, but for the locks."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir() if not p.name.startswith(".lock")}


def filled(folder: Path, *ranges: tuple[int, int], **changes) -> Store:
    store = Store(folder, STUDY_A | changes)
    for first, stop in ranges:
        store.write(random_batch(first, stop), first, stop)
    return store


def parts_of(folder: Path) -> list[tuple[int, int]]:
    """(first, stop) of the parts that are there, sorted."""
    names = sorted(p.stem.split("-") for p in folder.glob("part-*.parquet"))
    return [(int(first), int(last) + 1) for _, first, last in names]


def flipped(path: Path) -> None:
    """One bit changed in the last number of the first column of a part."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
