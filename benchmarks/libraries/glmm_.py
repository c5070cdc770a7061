"""glmm (Rust): one step from formula and data frame, at its cheapest settings: no Satterthwaite pass,
standard errors from the cross-products, no stored likelihood-ratio tests. A grouped binomial response goes in
as a proportion with weights, since its `cbind` takes no expressions."""

import time

from libraries import PROCESSES, THROUGHPUT, Many, Outcome, in_python, one_by_one, python_process

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
    return _outcome(fit)


# ---------------------------------------------------------------- many fits
own_threads = False


def many_command(python):
    return in_python("glmm", python, THROUGHPUT)


def refuses_many(batch):
    return "it fits responses, not statistics of them" if batch.kind in ("direct", "stream") else None


def ways(batch):
    return ("", PROCESSES)


def refits(batch, frame, way):
    fit = _refit(batch, frame)
    return lambda Y, seconds: one_by_one(lambda y: _outcome(fit(y)), Y, seconds)


def simulates(batch, frame, way):
    """Responses drawn with NumPy, a few hundred at once, and fitted one by one."""
    import batches
    import numpy as np

    fit = _refit(batch, frame)
    columns = {name: frame[name].to_numpy() for name in frame}
    at, _ = batch.tested

    def run(n, seconds):
        rng = np.random.default_rng()
        done, rejected = 0, 0
        started = time.perf_counter()
        while done < n and time.perf_counter() - started < seconds:
            for y in batches.draw(batch, columns, min(n - done, 200), rng):
                found = fit(y)
                rejected += bool(abs(found.beta[at]) > 1.96 * found.se[at])
                done += 1
        return Many(done, power=rejected / done)

    return run


def _refit(batch, frame):
    """y -> fit, from arrays: the cheapest form of the data."""
    import glmm

    columns = {name: frame[name].to_numpy() for name in frame}
    trials = columns[batch.trials].astype("float64") if batch.trials else None
    options = {"link": batch.link, "weights": trials} if batch.family else {"reml": batch.reml}
    response = batch.proportion_formula.partition(" ")[0]

    def fit(y):
        columns[response] = y if trials is None else y / trials
        return glmm.fit(columns, batch.proportion_formula, batch.family or "gaussian", **options, **CHEAP)

    return fit


def _outcome(fit):
    return Outcome(-2 * fit.loglik, bool(fit.converged))
