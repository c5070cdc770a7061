"""glmm (Rust): one step from formula and data frame, at its cheapest settings: no Satterthwaite pass,
standard errors from the cross-products, no stored likelihood-ratio tests. A grouped binomial response goes in
as a proportion with weights, since its `cbind` takes no expressions."""

from libraries import Outcome, in_python, python_process

distribution = "glmm"
needs_compiling = False

CHEAP = {"satterthwaite": False, "wald_se": "rx", "anova_test": "Wald"}


def fit_command(python):
    return in_python("glmm", python)


def process_command(python, problem):
    if problem.family:
        weights = f"frame[{problem.trials[1]!r}].to_numpy('float64')" if problem.trials else None
        fit = f"glmm.fit(frame, {problem.proportion_formula!r}, {problem.family!r}, weights={weights})"
    else:
        fit = f"glmm.fit(frame, {problem.formula!r}, reml={problem.reml})"
    return python_process(python, problem, "glmm", fit, "-2 * fit.loglik")


def load():
    import glmm  # noqa: F401


def refuses(problem):
    return None


def build(problem, frame):
    return None


def fit_formula(problem, frame):
    import glmm

    if problem.family:
        weights = frame[problem.trials[1]].to_numpy("float64") if problem.trials else None
        options = {"link": problem.link, "weights": weights}
        fit = glmm.fit(frame, problem.proportion_formula, problem.family, **options, **CHEAP)
    else:
        fit = glmm.fit(frame, problem.formula, "gaussian", reml=problem.reml, **CHEAP)
    return Outcome(-2 * fit.loglik, bool(fit.converged))
