"""How times grow: with rows, with levels, with replicates, with cores; jaxmm beside glmm, each in a process of its own.

    python benchmarks/scaling.py [AXIS ...]          rows to results/scaling.csv, what they were made with to a .json

A time is that of a warm fit from formula and data frame to the finished fit, the median of five or more, and beside it
the quartiles; with replicates it is that of all of them, and with cores the rate of the largest number of replicates.
Every row has the −2 log-likelihood that was reached. `JAXMM_BENCH_PYTHON` chooses interpreters as for `run.py`.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import sys

import measure
import numpy as np
import run as driver

AXES = {
    "rows": [1_000, 10_000, 100_000, 1_000_000],
    "levels": [100, 1_000, 10_000, 100_000],
    "crossed": [100, 300, 1_000, 2_000],
    "replicates": [1, 10, 100, 1_000, 10_000, 100_000],
    "cores": [1, 2, 4, 8, 16],
}
ABOUT = {
    "rows": "(x | g), rows in 100 groups",
    "levels": "(x | g), levels of 10 rows each",
    "crossed": "(1 | a) + (1 | b), levels of each factor, 20 rows for each level",
    "replicates": "responses of the sleepstudy design, (Days | Subject)",
    "cores": "the same, 50,000 responses, by the cores that are used",
}
FORMULA = {"crossed": "y ~ x + (1 | a) + (1 | b)"}
PEERS = ("jaxmm", "glmm")
FIELDS = "run axis size peer version status deviance repeats median_s lower_s upper_s load".split()
BUDGET = 30.0


def data(axis: str, size: int) -> dict[str, np.ndarray]:
    """Columns from a seed."""
    rng = np.random.default_rng([len(axis), size])
    if axis == "crossed":
        a, b = np.repeat(np.arange(size), 20), rng.integers(0, size, 20 * size)
        x = rng.normal(size=len(a))
        y = 1 + x + rng.normal(size=size)[a] + 0.7 * rng.normal(size=size)[b] + rng.normal(size=len(a))
        return {"y": y, "x": x, "a": a, "b": b}
    g = np.repeat(np.arange(100), size // 100) if axis == "rows" else np.repeat(np.arange(size), 10)
    x, b = rng.normal(size=len(g)), rng.normal(size=(g[-1] + 1, 2)) * [1.0, 0.5]
    return {"y": 1 + x + b[g, 0] + b[g, 1] * x + rng.normal(size=len(g)), "x": x, "g": g}


def sleepstudy():
    import pandas as pd
    import problems

    held = problems.sleepstudy(None, None)
    codes, levels = held["Subject"]
    held["Subject"] = np.asarray(levels)[codes]
    return pd.DataFrame(held)


def single(axis: str, size: int, peer: str):
    """() -> −2 log-likelihood, fitted again from the formula at every call."""
    import pandas as pd

    frame, formula = pd.DataFrame(data(axis, size)), FORMULA.get(axis, "y ~ x + (x | g)")
    if peer == "jaxmm":
        import jaxmm as mm

        return lambda: mm.lmm(formula, frame, reml=False).deviance
    import glmm
    from libraries.glmm_ import CHEAP

    return lambda: -2 * glmm.fit(frame, formula, "gaussian", reml=False, **CHEAP).loglik


def many(n: int, peer: str):
    """() -> −2 log-likelihood of the last of n responses."""
    frame = sleepstudy()
    rng = np.random.default_rng(1)
    subject, days = np.unique(frame["Subject"], return_inverse=True)[1], frame["Days"].to_numpy()
    b = rng.normal(size=(n, 18, 2)) * [24.0, 6.0]
    Y = 250 + 10 * days + b[:, subject, 0] + b[:, subject, 1] * days + rng.normal(0, 25, (n, 180))
    if peer == "jaxmm":
        import jaxmm as mm

        model = mm.Model.from_formula("Reaction ~ Days + (Days | Subject)", frame, reml=False)
        return lambda: float(np.asarray(mm.fit_many(model, Y, progress=False).deviance)[-1])
    import glmm
    from libraries.glmm_ import CHEAP

    columns = {name: frame[name].to_numpy() for name in frame}

    def run():
        for y in Y:
            columns["Reaction"] = y
            fit = glmm.fit(columns, "Reaction ~ Days + (Days | Subject)", "gaussian", reml=False, **CHEAP)
        return -2 * fit.loglik

    return run


def child(axis: str, size: int, peer: str) -> dict:
    if axis == "cores":
        os.sched_setaffinity(0, range(size))
    call = (
        many({"cores": 50_000}.get(axis, size), peer) if axis in ("replicates", "cores") else single(axis, size, peer)
    )
    _, times, deviance = measure.repeated(call, 5, BUDGET)
    lower, median, upper = np.quantile(times, [0.25, 0.5, 0.75])
    found = {"deviance": deviance, "repeats": len(times), "median_s": median, "lower_s": lower, "upper_s": upper}
    return {"status": "ok", "versions": measure.versions(), "version": version(peer), **found}


def version(peer: str) -> str:
    try:
        return measure.version(peer)
    except measure.PackageNotFoundError:
        return "checkout"


def main(axes: list[str]) -> None:
    name = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    rows, versions = [], {}
    for axis in axes:
        for size in AXES[axis]:
            if axis == "cores" and size > (os.cpu_count() or 1):
                continue
            for peer in PEERS[: 1 if axis == "cores" else None]:
                if peer == "glmm" and axis == "replicates" and size > 10_000:
                    continue  # one after the other: ten times as many take ten times as long
                command = [driver.interpreter(peer), __file__, "--child", axis, str(size), peer]
                load = os.getloadavg()[0]
                row = driver.measured(command, [], 300.0, driver.child_environment())
                versions[peer] = row.get("versions", versions.get(peer))
                rows.append({"run": name, "axis": axis, "size": size, "peer": peer, "load": load, **row})
                print(axis, size, peer, row.get("median_s"), row.get("deviance"), row.get("note", ""), flush=True)
    path = driver.HERE / "results" / "scaling.csv"
    known = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*(row for row in known if row["axis"] not in axes), *rows])
    about = {
        "run": name,
        "axes": {axis: ABOUT[axis] for axis in axes},
        "machine": driver.machine(),
        "versions": versions,
    }
    (driver.HERE / "results" / f"scaling-{name}.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print("RESULT " + json.dumps(child(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
    else:
        main(sys.argv[1:] or list(AXES))
