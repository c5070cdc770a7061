"""Many fits of one design with one Python peer, in a process of its own; prints one line `RESULT {json}`.

    python throughput.py PEER WAY TASK FOLDER SECONDS COMMON DEVIANCES

A first call, which compiles where the library does, and a second one tell how many fits the seconds allow; then
PASSES calls of that many. Rates are fits per second of the median pass and of the best; compile time is what the calls
took longer than that rate. What the peer reached on the first COMMON responses is written to DEVIANCES. Two processes
share the responses and start each pass together.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import batches
import libraries
import measure
import numpy as np

PASSES = 3
FIRST = 1000  # data sets in the first call of a simulation


def data_frame(batch: batches.Batch, folder: Path):
    """The design with a response in it."""
    columns = batches.problems.read(folder)
    rng = np.random.default_rng(0)
    first = batches.draw(batch, columns, 1, rng) if batch.simulated else batches.responses(batch, folder)
    return measure.data_frame(folder).assign(y=np.array(first[0]))


def worker(peer: str, way: str, batch: batches.Batch, folder: Path, part: slice):
    """(frame, function): the function makes the first n fits of a part of the responses, within some seconds."""
    library = libraries.get(peer)
    frame = data_frame(batch, folder)
    if batch.simulated:
        return frame, library.simulates(batch, frame, way)
    fits = library.refits(batch, frame, way)
    Y = batches.responses(batch, folder)[part]
    held = {}

    def run(n: int, seconds: float) -> libraries.Many:
        return fits(held[n], seconds)

    def prepare(n: int) -> None:
        held.clear()
        held[n] = np.array(Y[:n])  # in memory, and not counted

    run.prepare = prepare
    return frame, run


def timed(run, n: int, seconds: float) -> tuple[float, libraries.Many]:
    if hasattr(run, "prepare"):
        run.prepare(n)
    return measure.seconds(lambda: run(n, seconds))


def passes(run, probe: int, most: int, seconds: float) -> dict:
    """Fits per second, from calls of ``probe`` to ``most`` fits; seconds of the first and of compiling; what was found.

    A pass that is over before half of the seconds is made anew with more fits.
    """
    first, _ = timed(run, probe, seconds)
    again, found = timed(run, probe, seconds)
    short: list[tuple[float, libraries.Many]] = []
    while True:
        n = min(most, max(probe, int(found.count / again * seconds)))
        again, found = timed(run, n, seconds)
        if again > seconds / 2 or n == most:
            break
        short.append((again, found))
    done = [(again, found), *(timed(run, n, seconds) for _ in range(PASSES - 1))]
    rate = statistics.median(many.count / spent for spent, many in done)
    return {
        "first_s": first,
        "compile_s": max(0.0, first - probe / rate) + sum(max(0.0, s - m.count / rate) for s, m in [*short, done[0]]),
        "lanes": found.count,
        "repeats": PASSES,
        "rate": rate,
        "rate_best": max(many.count / spent for spent, many in done),
        "found": done[-1][1],
    }


def one_of_two(peer, way, batch, folder, part, seconds, gate, results) -> None:
    _, run = worker(peer, way, batch, folder, part)
    timed(run, 10, seconds)
    for _ in range(PASSES):
        if hasattr(run, "prepare"):
            run.prepare(batch.lanes)
        gate.wait()
        started = time.monotonic()
        found = run(batch.lanes, seconds)
        results.put((started, time.monotonic(), found.count, found.power))
        gate.wait()


def two_processes(peer: str, way: str, batch: batches.Batch, folder: Path, seconds: float) -> dict:
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    parts = [slice(k, batch.lanes, 2) for k in range(2)]
    arguments = [(peer, way, batch.name, folder, part, seconds, gate, results) for part in parts]
    children = [context.Process(target=_named, args=given) for given in arguments]
    for child in children:
        child.start()
    rates, power = [], []
    for _ in range(PASSES):
        pair = [results.get(timeout=10 * seconds + 120) for _ in children]
        spent = max(end for _, end, *_ in pair) - min(start for start, *_ in pair)
        rates.append(sum(count for _, _, count, _ in pair) / spent)
        power += [p for *_, p in pair if p is not None]
        lanes = sum(count for _, _, count, _ in pair)
    for child in children:
        child.join()
    return {
        "lanes": lanes,
        "repeats": PASSES,
        "rate": statistics.median(rates),
        "rate_best": max(rates),
        "power": statistics.mean(power) if power else None,
    }


def _named(peer, way, task, *rest) -> None:
    # A task travels by its name: it holds functions.
    one_of_two(peer, way, batches.BATCHES[task], *rest)


def streamed(library, frame, batch: batches.Batch, way: str) -> dict:
    """One call that writes to a folder; the memory of the process is what it is for."""
    with tempfile.TemporaryDirectory() as out:
        spent, count = measure.seconds(lambda: library.streams(batch, frame, way, out))
    return {"lanes": count, "repeats": 1, "rate": count / spent, "rate_best": count / spent, "first_s": spent}


def throughput(peer: str, way: str, task: str, folder: Path, seconds: float, common: int, deviances: str) -> dict:
    library, batch = libraries.get(peer), batches.BATCHES[task]
    try:
        import_s, _ = measure.seconds(library.load)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == library.distribution:
            return {"status": "not installed"}
        raise
    result: dict = {"status": "ok", "import_s": import_s, "versions": measure.versions()}
    try:
        result["version"] = version(library.distribution)
    except PackageNotFoundError:
        result["version"] = "checkout"
    frame = data_frame(batch, folder)
    result |= {"rows": len(frame), "base_mb": measure.memory_mb("VmRSS")}
    if batch.kind == "stream":
        return result | streamed(library, frame, batch, way)
    if way == libraries.PROCESSES:
        return result | two_processes(peer, way, batch, folder, seconds)
    _, run = worker(peer, way, batch, folder, slice(None))
    result |= passes(run, min(batch.lanes, batch.common or FIRST), batch.lanes, seconds)
    found = result.pop("found")
    if not library.needs_compiling:
        del result["compile_s"]
    if found.deviance is not None and not batch.simulated:
        reached = np.asarray(found.deviance, float)[:common]
        reached.astype("<f8").tofile(deviances)
        result |= {"compared": len(reached), "not_converged": int(np.sum(~np.asarray(found.converged)[:common]))}
    return result | ({} if found.power is None else {"power": found.power})


if __name__ == "__main__":
    peer, way, task, folder, seconds, common, deviances = sys.argv[1:8]
    way = "" if way == "-" else way
    try:
        row = throughput(peer, way, task, Path(folder), float(seconds), int(common), deviances)
    except Exception as error:
        row = {"status": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    print("\nRESULT " + json.dumps(row), flush=True)
    os._exit(0)
