"""One module per peer: how a mixed model, linear or generalised, is fitted with it.

A module is read twice: by the driver, which asks it for the command of a child process, and, if it is a
Python library, within that child by `measure.py`. It must therefore import its library inside its functions
only. To the driver it supplies

    needs_compiling                    its first fit compiles: the driver also times a new process, cache filled
    refuses(problem)                   why it cannot fit this model, or None
    fit_command(python)                the command of a measurement, less its arguments; None where it cannot run
    process_command(python, problem)   the command of a process that fits the problem, less the path of the table

and, in the child,

    distribution                       the name whose version is reported
    load()                             import the library
    build(problem, frame)              data frame -> whatever `fit` takes, None where the two are one step
    fit(built) -> Outcome              the fit from there, finished on return
    fit_formula(problem, frame)        -> Outcome, the fit from formula and data frame

Adding a peer takes one such module and its name in `PEERS`. An R package takes, for the second half, a file
of functions that `measure.R` sources (see there).

A peer that makes many fits of one design (`batches.py`) is in `MANY` too, and supplies to the driver

    refuses_many(batch)                why it takes no part in this task, or None
    ways(batch)                        names of the ways in which it is measured, "" for the only one
    own_threads                        whether it is left its threads; else it has one, and a fit is on one core
    many_command(python)               as `fit_command`, of `throughput.py` or `throughput.R`

and, in the child (for R see `throughput.R`), whichever of these it does not refuse:

    refits(batch, frame, way)          -> function (Y, seconds) -> Many, the fits of the rows of Y, or of the first
                                       of them when the seconds are over
    simulates(batch, frame, way)       -> function (n, seconds) -> Many, of responses that it draws itself
    streams(batch, frame, way, out)    fit as many data sets as the way says, to a folder
"""

from __future__ import annotations

import importlib
import shutil
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

PEERS = ("jaxmm", "glmm", "mixedlm", "statsmodels", "lme4", "glmmTMB")
MANY = ("jaxmm", "glmm", "mixedlm", "lme4", "mcpower")
HERE = Path(__file__).resolve().parent.parent
MEASURE = HERE / "measure.py"
THROUGHPUT = HERE / "throughput.py"
PROCESSES = "2 processes"  # a way: two at once, each with half of the responses


class Outcome(NamedTuple):
    """What stands beside every time: −2 log-likelihood (restricted under REML), the library's own verdict."""

    deviance: float
    converged: bool


class Many(NamedTuple):
    """Of many fits, in order: −2 log-likelihood and the library's own verdict, arrays of one length; in a
    simulation instead the share of data sets in which |z| of the last coefficient passes 1.96."""

    count: int
    deviance: Any = None
    converged: Any = None
    power: float | None = None


def get(peer: str) -> ModuleType:
    known = tuple(dict.fromkeys([*PEERS, *MANY]))
    if peer not in known:
        raise ValueError(f"no peer named {peer!r}; there are {', '.join(known)}")
    return importlib.import_module(f"libraries.{peer.lower()}_")


def in_python(peer: str, python: str, script: Path = MEASURE) -> list[str]:
    """The `fit_command` of a Python library."""
    return [python, "-W", "ignore", str(script), peer]


def in_r(peer: str, script: Path = MEASURE) -> list[str] | None:
    """The `fit_command` of an R package."""
    rscript = shutil.which("Rscript")
    return [rscript, str(script.with_suffix(".R")), peer] if rscript else None


def one_by_one(fit, Y, seconds: float) -> Many:
    """The fits of the rows of Y one after another, until the time is over; `fit(y)` gives an `Outcome`."""
    outcomes = []
    started = time.perf_counter()
    for y in Y:
        outcomes.append(fit(y))
        if time.perf_counter() - started > seconds:
            break
    deviances, verdicts = zip(*outcomes, strict=True)
    return Many(len(outcomes), list(deviances), list(verdicts))


def python_process(python: str, problem, imports: str, fit: str, deviance: str) -> list[str]:
    """The `process_command` of a Python library: expressions of `frame`, and of the `fit` that comes of it."""
    lines = [
        "import sys",
        f"import pandas as pd, {imports}",
        f"frame = pd.read_csv(sys.argv[1], dtype={dict.fromkeys(problem.labels, 'str')})",
        f"fit = {fit}",
        "print(fit.summary())",
        f"print('DEVIANCE', float({deviance}))",
    ]
    if problem.trials:
        successes, trials = problem.trials
        lines.insert(3, f"frame['proportion'] = frame['{successes}'] / frame['{trials}']")
    return [python, "-c", "\n".join(lines)]


def r_process(problem, package: str, fit: str) -> list[str] | None:
    """The `process_command` of an R package."""
    rscript = shutil.which("Rscript")
    labels = ", ".join(f'{name} = "factor"' for name in problem.labels)
    lines = [
        f"suppressMessages(library({package}))",
        f"frame <- read.csv(commandArgs(TRUE)[1], colClasses = c({labels}))",
        f"fit <- {fit}",
        "print(summary(fit))",
        'cat("DEVIANCE", format(-2 * as.numeric(logLik(fit)), digits = 15), "\\n")',
    ]
    return [rscript, "-e", "\n".join(lines)] if rscript else None
