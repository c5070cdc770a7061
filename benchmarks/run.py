"""Time mixed models, linear and generalised, one fit or many: each (task, peer) in a child process of its own.

    python benchmarks/run.py TASK … [--peer PEER …] [--repeat N]

`TASK` is a name of `problems.py` (or `all`), or one of `batches.py`, many fits of one design (or `batch_all`). Rows
are appended to `results/<task>.csv`, and what they were measured with (arguments, machine, versions) is written to
`results/<run>.json`; `report.py` makes the tables.
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
from collections.abc import Callable
from pathlib import Path

import batches
import libraries
import many
import problems
import report

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
MEGABYTE = 1024**2 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss differs
DATA = ("JAXMM_BENCH_INSTEVAL", "JAXMM_BENCH_VERBAGG")
NAMES = (*problems.PROBLEMS, *batches.BATCHES)
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
    arguments = [problem.name, str(folder), str(options.repeat), str(options.budget)]
    model = [problem.formula, str(problem.reml), problem.family or "gaussian", problem.link or "identity"]
    return measured(command, [*arguments, *model], options.timeout, child_environment())


def measured(command: list[str] | None, arguments: list[str], timeout: float, environment: dict[str, str]) -> dict:
    """The row that a child process prints, with what it took."""
    if command is None:
        return {"status": "not installed"}
    done = spawn([*command, *arguments], timeout, environment)
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


def save(row: dict, out: Path, fields: list[str] = FIELDS) -> None:
    path = out / f"{row['task']}.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) and k != "deviance" else v for k, v in row.items()})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="+", help=f"all, {batches.EVERYTHING}, or of {', '.join(NAMES)}")
    parser.add_argument("--peer", nargs="+", metavar="PEER", help="by default every one that there is for a task")
    parser.add_argument("--repeat", type=int, default=5, help="fits, or processes, that a median is taken of")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one child process")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of repeats of one step")
    parser.add_argument("--seconds", type=float, default=1.5, help="of one pass of many fits; there are a few")
    parser.add_argument("--data", action="append", metavar="FILE", help="a table that a task reads; may be repeated")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    everything = [name for name in problems.PROBLEMS if not name.endswith("_like")]
    all_batches = [name for name, batch in batches.BATCHES.items() if batch.kind != "stream"]
    expanded = {"all": everything, batches.EVERYTHING: all_batches}
    options.task = list(dict.fromkeys(name for task in options.task for name in expanded.get(task, [task])))
    given = options.data or []
    options.data = [*given, *(os.environ[name] for name in DATA if os.environ.get(name))]
    try:
        for name in set(options.task).difference(NAMES):
            raise ValueError(f"no task named {name!r}; there are {', '.join(NAMES)}")
        used = [problems.choose(name, options.data)[1] for name in options.task if name not in batches.BATCHES]
        for file in set(given).difference(used):
            raise ValueError(f"no task asked for reads {file}")
        for name in options.peer or ():
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

    def record(row: dict, fields: list[str] = FIELDS) -> None:
        save(row, options.out, fields)
        if row.get("versions"):
            config["versions"][row["peer"]] = f"{row['peer']} {row.get('version')}, {row['versions']}"
        (options.out / f"{run}.json").write_text(json.dumps(config, indent=1) + "\n")

    for task in options.task:
        if task in batches.BATCHES:
            run_batch(batches.BATCHES[task], run, record, options)
        else:
            run_problem(task, run, record, options)
    shown = [row for row in report.latest(options.out) if row["run"] == run]
    print(report.goals(shown) + report.rate_goals(shown))


def run_problem(task: str, run: str, record: Callable, options) -> None:
    problem, file = problems.choose(task, options.data)
    stage("problems.py", problem.name, *filter(None, [file]))
    timed = time_process if problem.whole_process else time_fit
    for peer in options.peer or libraries.PEERS:
        row = {"run": run, "task": problem.name, "peer": peer, "load": os.getloadavg()[0]}
        reason = libraries.get(peer).refuses(problem)
        row |= {"status": f"cannot: {reason}"} if reason else timed(problem, CACHE / problem.name, peer, options)
        record(row)
        print(report.line(row), flush=True)


def run_batch(batch: batches.Batch, run: str, record: Callable, options) -> None:
    """Every peer in every way; then the deviances are compared, lane by lane, and the rows recorded."""
    stage("batches.py", batch.name)
    folder = CACHE / batch.name
    rows = []
    for peer in options.peer or libraries.MANY:
        for way, reason in many.ways(peer, batch):
            row = {"run": run, "task": batch.name, "peer": peer, "way": way, "load": os.getloadavg()[0]}
            if reason:
                row["status"] = f"left out: {reason}"
            else:
                environment = child_environment(**many.threads(batch, peer))
                command = libraries.get(peer).many_command(interpreter(peer))
                given = many.arguments(batch, folder, peer, way, options.seconds)
                row |= measured(command, given, options.timeout, environment)
            print(report.rate_line(row), flush=True)
            rows.append(row)
    for row in many.compared(rows, folder):
        record(row, many.FIELDS)
        if "above" in row:
            print(report.compared_line(row), flush=True)


def stage(script: str, *given: str) -> None:
    """Make the data in another process: its memory is not to count as ours."""
    name, *rest = given
    command = [sys.executable, str(HERE / script), name, str(CACHE), *rest]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
