"""Tables from `results/*.csv`: the last row of each (task, peer, way), its deviance gap, jaxmm beside its goals.

    python benchmarks/report.py [RESULTS]   prints Markdown

The gap is −2 log-likelihood above the lowest that any peer reached on the task: a time is worth comparing
only where the gap is about zero. For many fits (`batches.py`) the figure is a rate, and beside it stands how many
of the responses that all peers fitted were left above the best.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import batches
import problems

HERE = Path(__file__).resolve().parent
TIMES = {
    "import_s": "import",
    "build_s": "build",
    "compile_s": "compile",
    "warm_s": "fit from arrays",
    "formula_s": "fit from formula",
}
PROCESSES = {"cold_s": "no cache", "cached_first_s": "filling the cache", "cached_s": "cache filled"}
GOALS = {
    "warm_s": "warm fit from arrays",
    "formula_s": "warm fit from formula",
    "build_s": "data frame to arrays",
    "compile_s": "compile",
    "peak_mb": "peak memory",
    "cold_s": "new process, no cache",
    "cached_s": "new process, cache filled",
}
SUBJECT = "jaxmm"


def number(row: dict, name: str) -> float | None:
    value = row.get(name)
    return None if value in (None, "") else float(value)


def duration(value: float | None) -> str:
    if value is None:
        return "–"
    for limit, unit, scale in ((1e-3, "µs", 1e6), (1.0, "ms", 1e3)):
        if value < limit:
            return f"{value * scale:.3g} {unit}"
    return f"{value:.3g} s"


def megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} MB"


def quantity(name: str, value: float | None) -> str:
    return megabytes(value) if name.endswith("_mb") else duration(value)


def verdict(row: dict) -> str:
    """Status in words; a finished fit that its library calls unconverged says so."""
    unconverged = str(row.get("converged", "")).lower() == "false"
    return "not converged" if row.get("status") == "ok" and unconverged else str(row.get("status", ""))


def line(row: dict) -> str:
    """One row as the driver prints it."""
    start = f"{row['task']:18} {row['peer']:12} "
    if row.get("status") != "ok":
        return start + f"{row.get('status')} {row.get('note', '')}".rstrip()
    times = {**TIMES, **PROCESSES}
    shown = [f"{title} {duration(number(row, name))}" for name, title in times.items() if number(row, name)]
    shown += [f"peak {megabytes(number(row, 'peak_mb'))}", f"−2ℓ {number(row, 'deviance'):.6f}", verdict(row)]
    return start + ", ".join(shown)


def latest(folder: Path) -> list[dict]:
    """The last row of each (task, peer, way), tasks in the order of `problems` and `batches`."""
    rows: dict[tuple[str, str, str], dict] = {}
    for task in (*problems.PROBLEMS, *batches.BATCHES):
        path = folder / f"{task}.csv"
        if path.exists():
            with path.open(newline="") as file:
                rows |= {(row["task"], row["peer"], row.get("way", "")): row for row in csv.DictReader(file)}
    return list(rows.values())


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def peers(rows: list[dict]) -> str:
    """One task: every peer's times, with deviance gap and status."""
    problem = problems.PROBLEMS[rows[0]["task"]]
    times = PROCESSES if problem.whole_process else TIMES
    reached = [number(row, "deviance") for row in rows if row["status"] == "ok"]
    best = min((value for value in reached if value is not None), default=None)
    body = []
    for row in rows:
        deviance = number(row, "deviance")
        gap = "–" if deviance is None or best is None else f"{max(0.0, deviance - best):.1e}"
        shown = "–" if deviance is None else f"{deviance:.6f}"
        cells = [duration(number(row, name)) for name in times]
        cells += [megabytes(number(row, "peak_mb")), shown, gap, verdict(row)]
        body.append([f"{row['peer']} {row['version'] or ''}".strip(), *cells])
    criterion = f"{problem.family} with {problem.link} link, Laplace" if problem.family else "ML"
    criterion = "REML" if problem.reml else criterion
    header = ["peer", *times.values(), "peak memory", "−2ℓ", "gap", "status"]
    return f"### {problem.name}\n`{problem.formula}`, {criterion}. {problem.about}\n\n{table(header, body)}\n"


def goals(rows: list[dict]) -> str:
    """jaxmm's figures beside their goals; empty where it has no row or the task no goal."""
    body = []
    for row in rows:
        if row["peer"] != SUBJECT or row["task"] not in problems.PROBLEMS:
            continue
        for name, goal in problems.PROBLEMS[row["task"]].goals.items():
            actual = number(row, name)
            met = "–" if actual is None else "met" if actual <= goal else f"missed, {actual / goal:.2g} ×"
            body.append([row["task"], GOALS[name], quantity(name, goal), quantity(name, actual), met])
    return table(["task", "figure", "goal", "actual", ""], body) + "\n" if body else ""


# ---------------------------------------------------------------- many fits
def rate(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def named(row: dict) -> str:
    return " ".join(filter(None, [row["peer"], row.get("version"), row["way"] and f"({row['way']})"]))


def rate_line(row: dict) -> str:
    """One row of many fits as the driver prints it."""
    start = f"{row['task']:24} {row['peer'] + ' ' + row['way']:20} "
    if row.get("status") != "ok":
        return start + f"{row.get('status')} {row.get('note', '')}".rstrip()
    shown = [f"{rate(number(row, 'rate'))}/s (best {rate(number(row, 'rate_best'))}), {row['lanes']} fits"]
    shown += [f"compile {duration(number(row, 'compile_s'))}"] if number(row, "compile_s") else []
    shown += [f"power {number(row, 'power'):.3f}"] if number(row, "power") else []
    shown += [f"{row['not_converged']} of {row['compared']} not converged"] if row.get("compared") else []
    return start + ", ".join([*shown, f"peak {megabytes(number(row, 'peak_mb'))}"])


def compared_line(row: dict) -> str:
    start = f"{row['task']:24} {row['peer'] + ' ' + row['way']:20} "
    gap = number(row, "largest_gap")
    largest = "" if gap is None else f", largest gap {gap:.1e}"
    return start + f"{row['above']} of {row['compared']} above the best{largest}"


def rates(rows: list[dict]) -> str:
    """One task of many fits: every peer's rate in each of its ways."""
    batch = batches.BATCHES[rows[0]["task"]]
    body = []
    for row in rows:
        gap, power = number(row, "largest_gap"), number(row, "power")
        of = f" of {row['compared']}" if row["compared"] else ""
        cells = [rate(number(row, "rate")), rate(number(row, "rate_best")), row["lanes"] or "–"]
        cells += [duration(number(row, "compile_s")), megabytes(number(row, "peak_mb"))]
        if batch.simulated:
            cells += ["–" if power is None else f"{power:.3f}"]
        else:
            cells += [f"{row['above']}{of}" if row["above"] else "–", "–" if gap is None else f"{gap:.1e}"]
            cells += [f"{row['not_converged']}{of}" if row["not_converged"] else "–"]
        body.append([named(row), *cells, verdict(row)])
    checks = ["power"] if batch.simulated else ["above the best", "largest gap", "not converged"]
    header = ["peer", "fits/s", "best pass", "fits in a pass", "compile", "peak memory", *checks, "status"]
    criterion = f"{batch.family} with {batch.link} link, Laplace" if batch.family else "ML"
    criterion = "REML" if batch.reml else criterion
    drawn = ", responses drawn too" if batch.simulated else ""
    return f"### {batch.name}\n`{batch.formula}`, {criterion}{drawn}. {batch.about}\n\n{table(header, body)}\n"


def rate_goals(rows: list[dict]) -> str:
    """jaxmm's rates beside their goals, as `goals`."""
    body = []
    for row in rows:
        goals = batches.BATCHES[row["task"]].goals if row["task"] in batches.BATCHES else {}
        if row["peer"] == SUBJECT and row.get("way") in goals:
            goal, actual = goals[row["way"]], number(row, "rate")
            met = "–" if actual is None else "met" if actual >= goal else f"missed, {actual / goal:.2g} ×"
            body.append([row["task"], row["way"], rate(goal), rate(actual), met])
    return table(["task", "way", "goal, fits/s", "actual", ""], body) + "\n" if body else ""


def main() -> None:
    rows = latest(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results")
    for task in dict.fromkeys(row["task"] for row in rows):
        show = rates if task in batches.BATCHES else peers
        print(show([row for row in rows if row["task"] == task]))
    print(f"### Goals\n\n{goals(rows)}\n{rate_goals(rows)}")


if __name__ == "__main__":
    main()
