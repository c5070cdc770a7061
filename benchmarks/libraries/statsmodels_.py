"""statsmodels: `MixedLM.from_formula` builds the model, `fit` fits it; one grouping factor."""

import re

from libraries import Outcome, in_python, python_process

distribution = "statsmodels"
needs_compiling = False

BAR = re.compile(r"\s*\+\s*\(([^|]*)\|\s*(\w+)\s*\)\s*$")


def fit_command(python):
    return in_python("statsmodels", python)


def process_command(python, problem):
    fixed, effects, group = _parts(problem.formula)
    fit = f"smf.mixedlm({fixed!r}, frame, groups={group!r}, re_formula={effects!r}).fit(reml={problem.reml})"
    return python_process(python, problem, "statsmodels.formula.api as smf", fit, "-2 * fit.llf")


def load():
    import statsmodels.formula.api  # noqa: F401


def refuses(problem):
    if problem.family:
        return "no likelihood of a generalised mixed model"
    one = problem.formula.count("|") == 1 and BAR.search(problem.formula)
    return None if one else "one grouping factor only"


def build(problem, frame):
    import statsmodels.formula.api as smf

    fixed, effects, group = _parts(problem.formula)
    return smf.mixedlm(fixed, frame, groups=group, re_formula=effects), problem.reml


def fit(built):
    model, reml = built
    fit = model.fit(reml=reml)
    return Outcome(-2 * float(fit.llf), bool(fit.converged))


def fit_formula(problem, frame):
    return fit(build(problem, frame))


def _parts(formula):
    """Fixed part, random effects, grouping factor."""
    found = BAR.search(formula)
    assert found, formula
    effects, group = found.groups()
    return BAR.sub("", formula), f"~{effects}", group
