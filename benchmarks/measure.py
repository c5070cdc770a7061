"""One (task, Python peer) measurement in a process of its own; prints one line `RESULT {json}`.

    python measure.py PEER TASK FOLDER REPEAT BUDGET ...

In order: import the library in an otherwise empty interpreter; read the staged columns into a data frame
(not timed); build, twice; fit, the first time and then again; fit from the formula. A step is repeated REPEAT
times after its first time, or as often as half a second allows when that is more (at most 100 times), or as
the budget allows when that is less, and the median of the repeats taken. Compile time is the first fit less
that median.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import libraries


def seconds(call):
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def repeated(call, repeat: int, budget: float):
    """Seconds of the first call, seconds of the repeats (of the first if there is no time for any), value."""
    first, value = seconds(call)
    times: list[float] = []
    spent = first
    while sum(times) + spent < budget:
        spent, value = seconds(call)
        times.append(spent)
        if len(times) >= repeat and (sum(times) > 0.5 or len(times) >= 100):
            break
    return first, times or [first], value


def memory_mb(field: str) -> float | None:
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))
    except OSError:
        return None


def data_frame(folder):
    """The staged columns as a user would hold them: floats, whole numbers, categoricals."""
    from pathlib import Path

    import pandas as pd
    import problems

    held = {}
    for name, column in problems.read(Path(folder)).items():
        if isinstance(column, tuple):
            held[name] = pd.Categorical.from_codes(*column)
        else:
            held[name] = column.astype("int64") if column.dtype.kind == "i" else column
    return pd.DataFrame(held)


def versions(names=("jax", "jaxlib", "numpy", "pandas", "scipy")) -> str:
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([f"Python {sys.version.split()[0]}", *found])


def measure(peer: str, task: str, folder: str, repeat: int, budget: float) -> dict:
    library = libraries.get(peer)
    try:
        import_s, _ = seconds(library.load)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == library.distribution:
            return {"status": "not installed"}
        raise
    result: dict = {"import_s": import_s, "versions": versions()}
    try:
        result["version"] = version(library.distribution)
    except PackageNotFoundError:
        result["version"] = "checkout"

    import problems

    problem = problems.PROBLEMS[task]
    frame = data_frame(folder)
    result |= {"rows": len(frame), "base_mb": memory_mb("VmRSS")}

    result["build_s"], built = seconds(lambda: library.build(problem, frame))
    if built is None:
        del result["build_s"]
    else:
        again, built = seconds(lambda: library.build(problem, frame))
        first, times, outcome = repeated(lambda: library.fit(built), repeat, budget)
        result |= {
            "build_again_s": again,
            "first_fit_s": first,
            "warm_s": statistics.median(times),
            "warm_min_s": min(times),
            "repeats": len(times),
        }
        if library.needs_compiling:
            result["compile_s"] = max(0.0, first - result["warm_s"])
    built = None
    first, times, outcome = repeated(lambda: library.fit_formula(problem, frame), repeat, budget)
    result["formula_s"] = statistics.median(times)
    result.setdefault("first_fit_s", first)
    result.setdefault("repeats", len(times))
    deviance, converged = outcome
    return result | {"status": "ok", "deviance": float(deviance), "converged": bool(converged)}


if __name__ == "__main__":
    name, task, folder, repeat, budget = sys.argv[1:6]
    try:
        found = measure(name, task, folder, int(repeat), float(budget))
    except Exception as error:
        found = {"status": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    print("\nRESULT " + json.dumps(found), flush=True)
    os._exit(0)
