"""The driver's part in many fits of one design: what a child process is told, what its deviances are worth.

The first responses are the same for all peers. The best of a response is the lowest −2 log-likelihood that any peer
reached on it, in this run or the last one of that peer (the files stay in the cache); a fit that is more than OFF above
it has missed the maximum.
"""

from __future__ import annotations

from pathlib import Path

import libraries
import numpy as np
from batches import Batch

OFF = 0.01
FIELDS = [
    *("run", "task", "peer", "way", "version", "status", "rows", "lanes", "repeats"),
    *("rate", "rate_best", "first_s", "compile_s"),
    *("compared", "above", "largest_gap", "not_converged", "power"),
    *("import_s", "base_mb", "peak_mb", "cpu_s", "wall_s", "load", "note"),
]


def ways(peer: str, batch: Batch) -> list[tuple[str, str | None]]:
    """(way, why not) of a peer; one pair with the reason where it takes no part."""
    if peer not in libraries.MANY:
        return [("", "no adapter for many fits")]
    library = libraries.get(peer)
    reason = library.refuses_many(batch)
    return [("", reason)] if reason else [(way, None) for way in library.ways(batch)]


def threads(batch: Batch, peer: str) -> dict[str, str]:
    """One thread for a library that makes one small fit after another, whose threads would only wait for each other."""
    single = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    return {} if libraries.get(peer).own_threads else dict.fromkeys(single, "1")


def deviances(folder: Path, peer: str, way: str) -> Path:
    return folder / "deviances" / f"{peer}-{way.replace(' ', '_')}.f8"


def arguments(batch: Batch, folder: Path, peer: str, way: str, seconds: float) -> list[str]:
    file = deviances(folder, peer, way)
    file.unlink(missing_ok=True)
    call = [way or "-", batch.name, str(folder), str(seconds), str(batch.common), str(file)]
    formula = batch.proportion_formula
    return [*call, formula, str(batch.reml), batch.family or "gaussian", batch.link or "identity", batch.trials or "-"]


def compared(rows: list[dict], folder: Path) -> list[dict]:
    """The rows, with the number of fits above the best by more than OFF (failed ones among them), the largest gap."""
    reached = {path: np.fromfile(path, "<f8") for path in (folder / "deviances").glob("*.f8")}
    if not reached:
        return rows
    best = np.full(max(map(len, reached.values())), np.inf)
    for values in reached.values():
        best[: len(values)] = np.fmin(best[: len(values)], values)
    done = []
    for row in rows:
        values = reached.get(deviances(folder, row["peer"], row["way"]))
        if values is not None and row.get("status") == "ok":
            gaps = values - best[: len(values)]
            finite = gaps[np.isfinite(gaps)]
            row = row | {
                "above": int(np.sum(~(gaps <= OFF))),
                "largest_gap": float(finite.max()) if finite.size else None,
            }
        done.append(row)
    return done
