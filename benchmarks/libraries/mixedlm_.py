"""mixedlm (Rust core): `lmer`, one step from formula and data frame."""

from libraries import Outcome, in_python

distribution = "mixedlm"
needs_compiling = False

PROCESS = """
import sys
import pandas as pd, mixedlm
frame = pd.read_csv(sys.argv[1], dtype={"Subject": str})
fit = mixedlm.lmer("Reaction ~ Days + (Days | Subject)", frame, REML=False)
print(fit.summary())
print("DEVIANCE", -2 * float(fit.logLik().value))
"""


def fit_command(python):
    return in_python("mixedlm", python)


def process_command(python):
    return [python, "-c", PROCESS]


def load():
    import mixedlm

    assert mixedlm.lmer  # the package imports its parts when they are first asked for


def refuses(problem):
    return None


def build(problem, frame):
    return None


def fit_formula(problem, frame):
    import mixedlm

    fit = mixedlm.lmer(problem.formula, frame, REML=problem.reml)
    return Outcome(-2 * float(fit.logLik().value), bool(fit.converged))
