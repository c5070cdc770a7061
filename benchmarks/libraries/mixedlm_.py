"""mixedlm (Rust core): `lmer` and `glmer`, one step from formula and data frame. A grouped binomial response
goes in as a proportion with weights, since its formulas have no `cbind`."""

from libraries import THROUGHPUT, Outcome, in_python, one_by_one, python_process

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


# ---------------------------------------------------------------- many fits
own_threads = False


def many_command(python):
    return in_python("mixedlm", python, THROUGHPUT)


def refuses_many(batch):
    return "no simulation of its own, and its fits are slow" if batch.simulated else None


def ways(batch):
    return ("",)


def refits(batch, frame, way):
    """`refit` of a first fit."""
    import mixedlm

    frame = frame.assign(**{group: frame[group].astype(str) for group in batch.random})
    trials = frame[batch.trials].to_numpy("float64") if batch.trials else None
    frame["proportion"] = frame["y"] if trials is None else frame["y"] / trials
    if batch.family:
        family = getattr(mixedlm.families, FAMILIES[batch.family, batch.link])()
        weights = {} if trials is None else {"weights": trials}
        first = mixedlm.glmer(batch.proportion_formula, frame, family=family, **weights)
    else:
        first = mixedlm.lmer(batch.formula, frame, REML=batch.reml)

    def refit(y):
        fit = first.refit(newresp=y if trials is None else y / trials)
        return Outcome(-2 * float(fit.logLik().value), bool(fit.converged))

    return lambda Y, seconds: one_by_one(refit, Y, seconds)
