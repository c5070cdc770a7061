"""mixedlm (Rust core): `lmer` and `glmer`, one step from formula and data frame. A grouped binomial response
goes in as a proportion with weights, since its formulas have no `cbind`."""

from libraries import Outcome, in_python, python_process

distribution = "mixedlm"
needs_compiling = False

FAMILIES = {("binomial", "logit"): "Binomial", ("poisson", "log"): "Poisson"}


def fit_command(python):
    return in_python("mixedlm", python)


def process_command(python, problem):
    if problem.family:
        family = f"mixedlm.families.{FAMILIES[problem.family, problem.link]}()"
        weights = problem.trials and problem.trials[1]
        fit = f"mixedlm.glmer({problem.proportion_formula!r}, frame, family={family}, weights={weights!r})"
    else:
        fit = f"mixedlm.lmer({problem.formula!r}, frame, REML={problem.reml})"
    return python_process(python, problem, "mixedlm", fit, "fit.logLik().value * -2")


def load():
    import mixedlm

    assert mixedlm.lmer  # the package imports its parts when they are first asked for


def refuses(problem):
    if problem.family == "gamma":
        return "its likelihood has no dispersion to estimate"
    return None


def build(problem, frame):
    return None


def fit_formula(problem, frame):
    import mixedlm

    if problem.family:
        family = getattr(mixedlm.families, FAMILIES[problem.family, problem.link])()
        weights = problem.trials and problem.trials[1]
        fit = mixedlm.glmer(problem.proportion_formula, frame, family=family, weights=weights)
    else:
        fit = mixedlm.lmer(problem.formula, frame, REML=problem.reml)
    return Outcome(-2 * float(fit.logLik().value), bool(fit.converged))
