"""glmm (Rust): one step from formula and data frame, at its cheapest settings: no Satterthwaite pass,
standard errors from the cross-products, no stored likelihood-ratio tests."""

from libraries import Outcome, in_python

distribution = "glmm"
needs_compiling = False

CHEAP = {"satterthwaite": False, "wald_se": "rx", "anova_test": "Wald"}

PROCESS = """
import sys
import pandas as pd, glmm
frame = pd.read_csv(sys.argv[1], dtype={"Subject": str})
fit = glmm.fit(frame, "Reaction ~ Days + (Days | Subject)", reml=False)
print(fit.summary())
print("DEVIANCE", -2 * fit.loglik)
"""


def fit_command(python):
    return in_python("glmm", python)


def process_command(python):
    return [python, "-c", PROCESS]


def load():
    import glmm  # noqa: F401


def refuses(problem):
    return None


def build(problem, frame):
    return None


def fit_formula(problem, frame):
    import glmm

    fit = glmm.fit(frame, problem.formula, "gaussian", reml=problem.reml, **CHEAP)
    return Outcome(-2 * fit.loglik, bool(fit.converged))
