"""jaxmm: `build` makes the unfitted model with its arrays, `fit` is `model.fit()` on arrays that exist."""

from libraries import Outcome, in_python

distribution = "jaxmm"
needs_compiling = True

PROCESS = """
import sys
import pandas as pd, jaxmm as mm
frame = pd.read_csv(sys.argv[1], dtype={"Subject": str})
fit = mm.lmm("Reaction ~ Days + (Days | Subject)", frame, reml=False)
print(fit.summary())
print("DEVIANCE", float(fit.deviance))
"""


def fit_command(python):
    return in_python("jaxmm", python)


def process_command(python):
    return [python, "-c", PROCESS]


def load():
    import jaxmm  # noqa: F401


def refuses(problem):
    return None


def build(problem, frame):
    import jax

    import jaxmm as mm

    model = mm.Model.from_formula(problem.formula, frame, reml=problem.reml)
    jax.block_until_ready(model.arrays)
    return model


def fit(model):
    return _outcome(model.fit())


def fit_formula(problem, frame):
    import jaxmm as mm

    return _outcome(mm.lmm(problem.formula, frame, reml=problem.reml))


def _outcome(fit):
    # Reading the deviance as a Python number waits for the device.
    return Outcome(float(fit.deviance), bool(fit.converged))
