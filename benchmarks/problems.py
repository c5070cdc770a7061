"""The tasks: name -> (formula, family, criterion, data, goals), with data from a seed kept as raw columns.

    stage(problem, cache) -> folder       every peer then reads the same bytes
        columns.tsv                       name, kind (f8 | i4 | factor), a factor's levels
        <name>.f8, <name>.i4              little-endian float64, int32; a factor's codes count from 0

A column is a float64 array, an int32 array (counts, labels that are whole numbers), or a pair (codes, levels).
Generators draw from one `numpy.random.Generator` in the order written. `goals` maps columns of the results to
the figure that jaxmm is to stay under, on two CPU cores: seconds, or megabytes.

    python problems.py TASK CACHE [FILE]  stages one task (the driver does it so, to stay a small process)
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SLEEPSTUDY = HERE.parent / "jaxmm" / "datasets" / "sleepstudy.csv"
CBPP = HERE.parent / "jaxmm" / "datasets" / "cbpp.csv"
COLUMNS = "columns.tsv"

Columns = dict[str, "np.ndarray | tuple[np.ndarray, list[str]]"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """One task. `make(rng, file)` gives its columns; `file` is a table where the task reads one.

    Without a family it is a linear mixed model, by REML or not; with one, a generalised model by Laplace's
    approximation. `trials` names the columns (successes, trials) of a grouped binomial response, for libraries
    that take a proportion (staged as `proportion`) with weights rather than `cbind`.
    """

    name: str
    formula: str
    reml: bool
    make: Callable[[np.random.Generator, str | None], Columns]
    seed: int
    goals: dict[str, float] = dataclasses.field(default_factory=dict)
    _: dataclasses.KW_ONLY
    family: str | None = None  # binomial | poisson | gamma
    link: str | None = None
    trials: tuple[str, str] | None = None
    needs: tuple[str, ...] = ()  # the columns of the table that it reads; without one, `<name>_like` is run
    table: Path | None = None  # the time is that of a new interpreter: import, read this table, fit, print
    labels: tuple[str, ...] = ()  # columns of that table that hold labels, though they look like numbers

    @property
    def whole_process(self) -> bool:
        return self.table is not None

    @property
    def proportion_formula(self) -> str:
        """The formula for a library that takes a proportion and the trials as weights."""
        return f"proportion ~{self.formula.partition('~')[2]}" if self.trials else self.formula

    @property
    def about(self) -> str:
        return " ".join((self.make.__doc__ or "").split())


def covariance_root(sd0: float, sd1: float, rho: float) -> np.ndarray:
    return np.array([[sd0, 0.0], [rho * sd1, np.sqrt(1 - rho**2) * sd1]])


def sleepstudy(rng, file):
    """180 reaction times of 18 subjects, correlated intercepts and slopes (Belenky et al. 2003)."""
    rows = _rows(SLEEPSTUDY)
    return {
        "Reaction": np.array(rows["Reaction"], float),
        "Days": np.array(rows["Days"], float),
        "Subject": _factor(rows["Subject"]),
    }


def insteval(rng, file):
    """Ratings of lecturers by students: columns s, d, service, dept, y of a table, all factors but y."""
    rows = _rows(Path(str(file)))
    factors = {name: _factor(rows[name]) for name in ("s", "d", "service", "dept")}
    return {"y": np.array(rows["y"], float), **factors}


def insteval_like(rng, file):
    """A look-alike of the lecturer ratings: 73,421 rows, 2,972 students, 1,128 lecturers within 14
    departments, a student and a lecturer at most once together, a student's ratings in a few departments."""
    n, students, lecturers, departments = 73_421, 2_972, 1_128, 14
    dept_of = rng.permutation(np.arange(lecturers) % departments)
    popularity = 0.15 + rng.gamma(0.8, 1.0, lecturers)
    per_student = _shares(rng.gamma(2.6, 1.0, students), n)
    liking = rng.gamma(0.25, 1.0, (students, departments)) + 0.01
    rank = np.log(popularity * liking[:, dept_of]) + rng.gumbel(size=(students, lecturers))
    order = np.argsort(-rank, axis=1)
    s = np.repeat(np.arange(students), per_student)
    d = np.concatenate([order[k, :count] for k, count in enumerate(per_student)])
    shuffle = rng.permutation(n)
    s, d = s[shuffle], d[shuffle]
    service = rng.integers(0, 2, n)
    effect = rng.normal(0, 0.33, students)[s] + rng.normal(0, 0.51, lecturers)[d]
    effect += rng.normal(0, 0.1, departments)[dept_of[d]] - 0.07 * service
    y = np.clip(np.rint(3.25 + effect + rng.normal(0, 1.18, n)), 1, 5)
    named = {"s": s, "d": d, "service": service, "dept": dept_of[d]}
    return {"y": y, **{name: _factor(codes.astype(str)) for name, codes in named.items()}}


def groups125k(rng, file):
    """500,000 rows, 125,000 groups of 4, correlated intercepts and slopes."""
    groups = 125_000
    g = np.repeat(np.arange(groups), 4)
    x = rng.normal(size=g.size)
    b = rng.normal(size=(groups, 2)) @ covariance_root(1, 0.5, 0.3).T
    y = 1 + 0.5 * x + b[g, 0] + b[g, 1] * x + rng.normal(size=g.size)
    return {"y": y, "x": x, "g": g.astype(np.int32)}


def nested3(rng, file):
    """1,000,000 rows in 20,000 classrooms (drawn uniformly) in 1,000 schools."""
    n, classrooms, schools = 1_000_000, 20_000, 1_000
    classroom = rng.integers(0, classrooms, n)
    school = classroom * schools // classrooms
    x = rng.normal(size=n)
    y = 1 + 0.5 * x + rng.normal(0, 0.5, schools)[school] + rng.normal(0, 0.4, classrooms)[classroom]
    y += rng.normal(size=n)
    return {"y": y, "x": x, "school": school.astype(np.int32), "classroom": classroom.astype(np.int32)}


def big_one_factor(rng, file):
    """2,000,000 rows in no order, 20,000 groups drawn uniformly, five fixed effects, random slopes."""
    n, groups = 2_000_000, 20_000
    g = rng.integers(0, groups, n)
    x = rng.normal(size=(4, n))
    b = rng.normal(size=(groups, 2)) @ covariance_root(1, 0.5, 0.3).T
    y = 1 + np.array([0.5, -0.3, 0.2, 0.1]) @ x + b[g, 0] + b[g, 1] * x[0] + rng.normal(0, 2, n)
    return {"y": y, **{f"x{k + 1}": x[k] for k in range(4)}, "g": g.astype(np.int32)}


def crossed_2000x1500(rng, file):
    """50,000 rows, 2,000 users crossed with 1,500 items, both drawn uniformly."""
    n, users, items = 50_000, 2_000, 1_500
    u, i = rng.integers(0, users, n), rng.integers(0, items, n)
    x = rng.normal(size=n)
    y = 3.5 + 0.1 * x + rng.normal(0, 0.4, users)[u] + rng.normal(0, 0.5, items)[i] + rng.normal(0, 0.9, n)
    return {"y": y, "x": x, "u": u.astype(np.int32), "i": i.astype(np.int32)}


def factor_slope4(rng, file):
    """7,200 rows, 300 groups, a factor of four levels with an unstructured covariance of its effects."""
    groups, levels = 300, 4
    g = np.repeat(np.arange(groups), 24)
    f = rng.integers(0, levels, g.size)
    root = np.tril(rng.normal(0, 0.3, (levels, levels)), -1) + np.diag([1.0, 0.7, 0.6, 0.5])
    b = rng.normal(size=(groups, levels)) @ root.T
    b[:, 1:] += b[:, :1]
    y = np.array([1.0, 1.5, 0.8, 1.2])[f] + b[g, f] + rng.normal(size=g.size)
    return {"y": y, "f": (f.astype(np.int32), list("abcd")), "g": g.astype(np.int32)}


def cbpp(rng, file):
    """New cases among cattle at risk, 56 visits to 15 herds (Lesnoff et al. 2004)."""
    rows = _rows(CBPP)
    incidence, size = np.array(rows["incidence"], np.int32), np.array(rows["size"], np.int32)
    labels = {name: _factor(rows[name]) for name in ("herd", "period")}
    return {"incidence": incidence, "size": size, "proportion": incidence / size, **labels}


def verbagg(rng, file):
    """7,584 answers, 316 persons x 24 items on verbal aggression: columns Anger, Gender, btype, situ, id,
    item, r2 of a table; r2 is 1 for Y."""
    rows = _rows(Path(str(file)))
    labels = {name: _factor(rows[name]) for name in ("Gender", "btype", "situ", "id", "item")}
    r2 = np.array([value == "Y" for value in rows["r2"]], float)
    return {"r2": r2, "Anger": np.array(rows["Anger"], float), **labels}


def verbagg_like(rng, file):
    """A look-alike of the answers on verbal aggression: 316 persons, each with 24 items once."""
    persons, items = 316, 24
    person, item = np.tile(np.arange(persons), items), np.repeat(np.arange(items), persons)
    anger, gender = rng.integers(11, 40, persons).astype(float), rng.integers(0, 2, persons)
    btype, situ = np.arange(items) % 3, np.arange(items) // 12
    eta = 0.05 * (anger - 20) + 0.3 * gender + rng.normal(0, 1.3, persons)
    eta = eta[person] + (np.array([1.7, -0.4, 0.6])[btype] - situ + rng.normal(0, 0.6, items))[item]
    named = {"Gender": gender[person], "btype": btype[item], "situ": situ[item], "id": person, "item": item}
    factors = {name: _factor(codes.astype(str)) for name, codes in named.items()}
    return {"r2": _binary(rng, eta), "Anger": anger[person], **factors}


def binary_slopes(rng, file):
    """13,037 binary rows of 218 subjects with unequal numbers of trials, correlated intercepts and slopes."""
    n, subjects = 13_037, 218
    g = np.repeat(np.arange(subjects), _shares(rng.gamma(6.0, 1.0, subjects), n))
    x = rng.uniform(0, 5, n)
    b = rng.normal(size=(subjects, 2)) @ covariance_root(np.sqrt(0.245), np.sqrt(0.0321), -0.83).T
    eta = 1.493 - 0.322 * x + b[g, 0] + b[g, 1] * x
    return {"y": _binary(rng, eta), "x": x, "g": g.astype(np.int32)}


def binary_500k(rng, file):
    """500,000 binary rows in no order, 10,000 groups drawn uniformly, correlated intercepts and slopes."""
    n, groups = 500_000, 10_000
    g = rng.integers(0, groups, n).astype(np.int32)
    x = rng.normal(size=n)
    b = rng.normal(size=(groups, 2)) @ covariance_root(0.8, 0.4, 0.2).T
    return {"y": _binary(rng, -0.3 + 0.5 * x + b[g, 0] + b[g, 1] * x), "x": x, "g": g}


def binary_crossed(rng, file):
    """100,000 binary rows, 2,000 levels crossed with 2,000, both drawn uniformly."""
    n, levels = 100_000, 2_000
    a = rng.integers(0, levels, n).astype(np.int32)
    b = rng.integers(0, levels, n).astype(np.int32)
    x = rng.normal(size=n)
    eta = -0.3 + 0.5 * x + (0.8 * rng.normal(size=levels))[a] + (0.6 * rng.normal(size=levels))[b]
    return {"y": _binary(rng, eta), "x": x, "a": a, "b": b}


def poisson_40x10(rng, file):
    """400 counts, 40 groups of 10."""
    g = np.repeat(np.arange(40), 10)
    x = rng.normal(size=g.size)
    b = 0.6 * rng.normal(size=(300, 40))[0]  # the first of 300 responses that were drawn together
    y = rng.poisson(np.exp(0.5 + 0.3 * x + b[g]))
    return {"y": y.astype(np.int32), "x": x, "g": g.astype(np.int32)}


def gamma_60x15(rng, file):
    """900 positive values with a variance of a quarter of the squared mean, 60 groups of 15."""
    g = np.repeat(np.arange(60), 15)
    x = rng.normal(size=g.size)
    mean = np.exp(1 + 0.4 * x + rng.normal(0, 0.5, 60)[g])
    return {"y": rng.gamma(4.0, mean / 4), "x": x, "g": g.astype(np.int32)}


_SLEEP = "Reaction ~ Days + (Days | Subject)"
_RATINGS = "y ~ service + (1 | s) + (1 | d) + (1 | dept)"
_CBPP = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
_VERBAGG = "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
_CASES = ("incidence", "size")


def _logit(name: str, formula: str, make, seed: int, goals: dict[str, float], **rest) -> Problem:
    return Problem(name, formula, False, make, seed, goals, family="binomial", link="logit", **rest)


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("sleepstudy", _SLEEP, False, sleepstudy, 0, {"warm_s": 0.003, "formula_s": 0.020}),
        Problem("insteval", _RATINGS, True, insteval, 0, {"warm_s": 2.0}, needs=("s", "d", "service", "dept", "y")),
        Problem("insteval_like", _RATINGS, True, insteval_like, 202, {"warm_s": 2.0}),
        Problem("groups125k", "y ~ x + (x | g)", False, groups125k, 203, {"warm_s": 0.5, "peak_mb": 1500.0}),
        Problem("nested3", "y ~ x + (1 | school/classroom)", False, nested3, 204, {"warm_s": 1.0}),
        Problem(
            "big_one_factor",
            "y ~ x1 + x2 + x3 + x4 + (x1 | g)",
            False,
            big_one_factor,
            205,
            {"warm_s": 1.0, "build_s": 4.0},
        ),
        Problem("crossed_2000x1500", "y ~ x + (1 | u) + (1 | i)", False, crossed_2000x1500, 206),
        Problem("factor_slope4", "y ~ f + (f | g)", False, factor_slope4, 207, {"compile_s": 5.0}),
        Problem(
            "cold_start",
            _SLEEP,
            False,
            sleepstudy,
            0,
            {"cold_s": 3.5, "cached_s": 2.0},
            table=SLEEPSTUDY,
            labels=("Subject",),
        ),
        _logit("cbpp", _CBPP, cbpp, 0, {"warm_s": 0.005}, trials=_CASES),
        _logit(
            "verbagg",
            _VERBAGG,
            verbagg,
            0,
            {"warm_s": 0.150},
            needs=("r2", "Anger", "Gender", "btype", "situ", "id", "item"),
        ),
        _logit("verbagg_like", _VERBAGG, verbagg_like, 301, {"warm_s": 0.150}),
        _logit("binary_slopes", "y ~ x + (x | g)", binary_slopes, 302, {"warm_s": 0.080}),
        _logit("binary_500k", "y ~ x + (x | g)", binary_500k, 113, {"warm_s": 3.0}),
        _logit("binary_crossed", "y ~ x + (1 | a) + (1 | b)", binary_crossed, 114, {"warm_s": 20.0}),
        Problem("poisson_40x10", "y ~ x + (1 | g)", False, poisson_40x10, 104, family="poisson", link="log"),
        Problem("gamma_60x15", "y ~ x + (1 | g)", False, gamma_60x15, 303, family="gamma", link="log"),
        _logit(
            "cold_cbpp",
            _CBPP,
            cbpp,
            0,
            {"cold_s": 6.0, "cached_s": 2.5},
            trials=_CASES,
            table=CBPP,
            labels=("herd", "period"),
        ),
    )
}


def choose(task: str, files: Sequence[str] = ()) -> tuple[Problem, str | None]:
    """The problem of this name and the file that it reads; its look-alike where no file has the columns."""
    if task not in PROBLEMS:
        raise ValueError(f"no task named {task!r}; there are {', '.join(PROBLEMS)}")
    problem = PROBLEMS[task]
    file = next((file for file in files if set(problem.needs) <= set(_header(Path(file)))), None)
    if not problem.needs:
        return problem, None
    return (problem, file) if file else (PROBLEMS[f"{task}_like"], None)


def stage(problem: Problem, cache: Path, file: str | None = None) -> Path:
    """The folder with the problem's columns, made where it is not there yet, or anew from a file."""
    folder = cache / problem.name
    if (folder / COLUMNS).exists() and not file:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, problem.make(np.random.default_rng(problem.seed), file))
    return folder


def write(folder: Path, columns: Columns) -> None:
    lines = []
    for name, column in columns.items():
        values, levels = column if isinstance(column, tuple) else (column, [])
        kind = "i4" if values.dtype.kind == "i" else "f8"
        values.astype("<" + kind).tofile(folder / f"{name}.{kind}")
        lines.append("\t".join([name, "factor" if levels else kind, *levels]))
    (folder / COLUMNS).write_text("\n".join(lines) + "\n")


def read(folder: Path) -> Columns:
    """The columns that `stage` wrote."""
    columns: Columns = {}
    for line in (folder / COLUMNS).read_text().splitlines():
        name, kind, *levels = line.split("\t")
        stored = "i4" if kind == "factor" else kind
        values = np.fromfile(folder / f"{name}.{stored}", "<" + stored)
        columns[name] = (values, levels) if levels else values
    return columns


def _open(path: Path):
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def _header(path: Path) -> list[str]:
    with _open(path) as file:
        return next(csv.reader(file))


def _rows(path: Path) -> dict[str, list[str]]:
    with _open(path) as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def _factor(labels) -> tuple[np.ndarray, list[str]]:
    """Codes and levels; levels by value where all are whole numbers, else by name."""
    distinct = {str(label) for label in labels}
    levels = sorted(distinct, key=int if all(label.isdigit() for label in distinct) else str)
    code = {level: k for k, level in enumerate(levels)}
    return np.array([code[str(label)] for label in labels], np.int32), levels


def _binary(rng: np.random.Generator, eta: np.ndarray) -> np.ndarray:
    """0 or 1 with the logit eta."""
    return (rng.uniform(size=eta.size) < 1 / (1 + np.exp(-eta))).astype(float)


def _shares(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers of at least 1, in proportion to the weights, with this sum."""
    counts = np.maximum(1, np.floor(weights / weights.sum() * total).astype(int))
    short = total - counts.sum()
    counts[np.argsort(-weights)[: abs(short)]] += np.sign(short)
    return counts


if __name__ == "__main__":
    task, cache, *files = sys.argv[1:]
    problem, file = choose(task, files)
    print(stage(problem, Path(os.path.abspath(cache)), file))
