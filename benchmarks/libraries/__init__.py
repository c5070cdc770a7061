"""One module per peer: how a linear mixed model is fitted with it.

A module is read twice: by the driver, which asks it for the command of a child process, and, if it is a
Python library, within that child by `measure.py`. It must therefore import its library inside its functions
only.

    distribution                 the name whose version is reported
    needs_compiling              its first fit compiles: the driver also times a new process with a warm cache
    fit_command(python)          the command of a measurement, less its arguments; None where it cannot run
    process_command(python)      the command of a process that fits sleepstudy, less the path of the table

and, in the child,

    load()                       import the library
    refuses(problem)             why it cannot fit this model, or None
    build(problem, frame)        data frame -> whatever `fit` takes, None where the two are one step
    fit(built) -> Outcome        the fit from there, finished on return
    fit_formula(problem, frame)  -> Outcome, the fit from formula and data frame

Adding a peer takes one such module and its name in `PEERS`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

PEERS = ("jaxmm", "glmm", "mixedlm", "statsmodels", "lme4")
MEASURE = str(Path(__file__).resolve().parent.parent / "measure.py")


class Outcome(NamedTuple):
    """What stands beside every time: −2 log-likelihood (restricted under REML), the library's own verdict."""

    deviance: float
    converged: bool


def get(peer: str) -> ModuleType:
    if peer not in PEERS:
        raise ValueError(f"no peer named {peer!r}; there are {', '.join(PEERS)}")
    return importlib.import_module(f"libraries.{peer}_")


def in_python(peer: str, python: str) -> list[str]:
    """The `fit_command` of a Python library."""
    return [python, "-W", "ignore", MEASURE, peer]
