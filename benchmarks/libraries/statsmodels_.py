"""statsmodels: `MixedLM.from_formula` builds the model, `fit` fits it; one grouping factor."""

import re

from libraries import Outcome, in_python

distribution = "statsmodels"
needs_compiling = False

PROCESS = """
import sys
import pandas as pd, statsmodels.formula.api as smf
frame = pd.read_csv(sys.argv[1], dtype={"Subject": str})
fit = smf.mixedlm("Reaction ~ Days", frame, groups="Subject", re_formula="~Days").fit(reml=False)
print(fit.summary())
print("DEVIANCE", -2 * fit.llf)
"""

BAR = re.compile(r"\s*\+\s*\(([^|]*)\|\s*(\w+)\s*\)\s*$")


def fit_command(python):
    return in_python("statsmodels", python)


def process_command(python):
    return [python, "-c", PROCESS]


def load():
    import statsmodels.formula.api  # noqa: F401


def refuses(problem):
    one = problem.formula.count("|") == 1 and BAR.search(problem.formula)
    return None if one else "one grouping factor only"


def build(problem, frame):
    import statsmodels.formula.api as smf

    effects, group = BAR.search(problem.formula).groups()
    fixed = BAR.sub("", problem.formula)
    return smf.mixedlm(fixed, frame, groups=group, re_formula=f"~{effects}"), problem.reml


def fit(built):
    model, reml = built
    fit = model.fit(reml=reml)
    return Outcome(-2 * float(fit.llf), bool(fit.converged))


def fit_formula(problem, frame):
    return fit(build(problem, frame))
