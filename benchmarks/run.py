"""Time mixed models, linear and generalised: each (task, peer) in a child process of its own.

    python benchmarks/run.py TASK … [--peer PEER …] [--repeat N]

`TASK` is a name of `problems.py`, or `all`. Rows are appended to `results/<task>.csv`, and what they were
measured with (arguments, machine, versions) is written to `results/<run>.json`; `report.py` makes the tables.
Environment:

    JAXMM_BENCH_PYTHON     the interpreter of the Python peers, or one per peer: "glmm=/a/python,jaxmm=…"
    JAXMM_BENCH_INSTEVAL   a .csv or .csv.gz of the lecturer ratings: s, d, service, dept, y (or --data)
    JAXMM_BENCH_VERBAGG    the same of the answers on verbal aggression: r2, Anger, Gender, btype, situ, id, item
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import libraries
import problems
import report

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
MEGABYTE = 1024**2 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss differs
DATA = ("JAXMM_BENCH_INSTEVAL", "JAXMM_BENCH_VERBAGG")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "XLA_FLAGS")

FIELDS = [
    *("run", "task", "peer", "version", "status", "converged", "deviance", "rows", "repeats"),
    *(
        "import_s",
        "build_s",
        "build_again_s",
        "first_fit_s",
        "compile_s",
        "warm_s",
        "warm_min_s",
        "formula_s",
    ),
    *("cold_s", "cold_min_s", "cached_first_s", "cached_s", "cached_min_s"),
    *("base_mb", "peak_mb", "cpu_s", "wall_s", "load", "note"),
]


def spawn(command: list[str], timeout: float, environment: dict[str, str]) -> dict:
    """Run a command in its own process group: seconds, peak memory, CPU seconds, exit status, output."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        late = threading.Event()

        def stop():
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        alarm = threading.Timer(timeout, stop)
        alarm.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        alarm.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    trouble = f"timeout {timeout:g} s" if late.is_set() else f"exit status {process.returncode}"
    return {
        "wall_s": wall,
        "peak_mb": usage.ru_maxrss / MEGABYTE,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "trouble": trouble if process.returncode else "",
        "text": text,
    }


def pick(done: dict, *names: str) -> dict:
    return {name: done[name] for name in names}


def child_environment(**changes: str | None) -> dict[str, str]:
    """Ours, with the checkout importable; a change to None removes a variable."""
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    merged = {**os.environ, "PYTHONPATH": path, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def interpreter(peer: str) -> str:
    """The Python of this peer, by JAXMM_BENCH_PYTHON."""
    chosen = sys.executable
    for part in filter(None, os.environ.get("JAXMM_BENCH_PYTHON", "").split(",")):
        name, equals, path = part.partition("=")
        if not equals:
            chosen = name
        elif name == peer:
            return path
    return chosen


def time_fit(problem: problems.Problem, folder: Path, peer: str, options) -> dict:
    """Build and fit in one process, by the library's own clock."""
    command = libraries.get(peer).fit_command(interpreter(peer))
    if command is None:
        return {"status": "not installed"}
    arguments = [problem.name, str(folder), str(options.repeat), str(options.budget)]
    model = [problem.formula, str(problem.reml), problem.family or "gaussian", problem.link or "identity"]
    done = spawn([*command, *arguments, *model], options.timeout, child_environment())
    found = [line for line in done["text"].splitlines() if line.startswith("RESULT ")]
    if done["trouble"] or not found:
        row = {"status": done["trouble"] or "failed", "note": " ".join(done["text"].split())[-200:]}
    else:
        row = json.loads(found[-1].removeprefix("RESULT "))
    return row | pick(done, "wall_s", "peak_mb", "cpu_s")


def time_process(problem: problems.Problem, folder: Path, peer: str, options) -> dict:
    """Whole processes by the driver's clock: without a compilation cache, then with one that is filled."""
    library = libraries.get(peer)
    python = interpreter(peer)
    command = library.process_command(python, problem)
    if command is None:
        return {"status": "not installed"}
    command = [*command, str(problem.table)]
    never = {"JAX_COMPILATION_CACHE_DIR": None, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    cold = [spawn(command, options.timeout, child_environment(**never)) for _ in range(options.repeat)]
    row = _deviance(cold[-1])
    if row["status"] != "ok":
        return row
    row["cold_s"] = statistics.median(done["wall_s"] for done in cold)
    row["cold_min_s"] = min(done["wall_s"] for done in cold)
    row |= pick(cold[-1], "peak_mb", "cpu_s") | {"repeats": len(cold)}
    if library.needs_compiling:
        with tempfile.TemporaryDirectory() as cache:
            environment = child_environment(JAX_COMPILATION_CACHE_DIR=cache)
            first, *cached = [spawn(command, options.timeout, environment) for _ in range(options.repeat + 1)]
        row["cached_first_s"] = first["wall_s"]
        row["cached_s"] = statistics.median(done["wall_s"] for done in cached)
        row["cached_min_s"] = min(done["wall_s"] for done in cached)
        row |= pick(_deviance(cached[-1]), "status")
    return row


def _deviance(done: dict) -> dict:
    text = done["text"]
    if done["trouble"]:
        tail = " ".join(text.split())[-200:]
        missing = "No module named" in tail or "there is no package called" in tail
        return {"status": "not installed" if missing else done["trouble"], "note": tail}
    lines = [line.split() for line in text.splitlines() if line.startswith("DEVIANCE ")]
    return {"status": "ok", "deviance": float(lines[-1][1])}


def machine() -> dict:
    model = platform.processor()
    memory = None
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    if hasattr(os, "sysconf"):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cores": cores, "memory_gb": memory, "system": platform.platform()}


def commit() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    asked = [git, "-C", str(HERE), "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def save(row: dict, out: Path) -> None:
    path = out / f"{row['task']}.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, extrasaction="ignore", lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) and k != "deviance" else v for k, v in row.items()})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="+", help=f"all, or of {', '.join(problems.PROBLEMS)}")
    parser.add_argument("--peer", nargs="+", default=list(libraries.PEERS), metavar="PEER")
    parser.add_argument("--repeat", type=int, default=5, help="fits, or processes, that a median is taken of")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one child process")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of repeats of one step")
    parser.add_argument("--data", action="append", metavar="FILE", help="a table that a task reads; may be repeated")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    everything = [name for name in problems.PROBLEMS if not name.endswith("_like")]
    options.task = everything if "all" in options.task else options.task
    given = options.data or []
    options.data = [*given, *(os.environ[name] for name in DATA if os.environ.get(name))]
    try:
        used = [problems.choose(name, options.data)[1] for name in options.task]
        for file in set(given).difference(used):
            raise ValueError(f"no task asked for reads {file}")
        for name in options.peer:
            libraries.get(name)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    run = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    config = {
        "run": run,
        "commit": commit(),
        "arguments": {k: v for k, v in vars(options).items() if k not in ("data", "out")},
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "machine": machine(),
        "versions": {},
    }
    for task in options.task:
        problem, file = problems.choose(task, options.data)
        staging = [sys.executable, str(HERE / "problems.py"), problem.name, str(CACHE), *filter(None, [file])]
        subprocess.run(staging, check=True, stdout=subprocess.DEVNULL)  # its memory is not to count as ours
        timed = time_process if problem.whole_process else time_fit
        for peer in options.peer:
            row = {"run": run, "task": problem.name, "peer": peer, "load": os.getloadavg()[0]}
            reason = libraries.get(peer).refuses(problem)
            row |= {"status": f"cannot: {reason}"} if reason else timed(problem, CACHE / problem.name, peer, options)
            save(row, options.out)
            print(report.line(row), flush=True)
            if row.get("versions"):
                config["versions"][peer] = f"{peer} {row.get('version')}, {row['versions']}"
            (options.out / f"{run}.json").write_text(json.dumps(config, indent=1) + "\n")
        print(report.goals([row for row in report.latest(options.out) if row["run"] == run]))


if __name__ == "__main__":
    main()
