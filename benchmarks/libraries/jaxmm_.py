"""jaxmm: `build` makes the unfitted model with its arrays, `fit` is `model.fit()` on arrays that exist.
Many fits: `fit_many` from the true theta, on responses in memory or on those of a source, drawing included."""

from libraries import THROUGHPUT, Many, Outcome, in_python, python_process

distribution = "jaxmm"
needs_compiling = True


def fit_command(python):
    return in_python("jaxmm", python)


def process_command(python, problem):
    if problem.family:
        fit = f"mm.glmm({problem.formula!r}, frame, {problem.family!r})"
    else:
        fit = f"mm.lmm({problem.formula!r}, frame, reml={problem.reml})"
    return python_process(python, problem, "jaxmm as mm", fit, "fit.deviance")


def load():
    import jaxmm  # noqa: F401


def refuses(problem):
    return None


def build(problem, frame):
    import jax

    import jaxmm as mm

    model = mm.Model.from_formula(problem.formula, frame, **_options(problem))
    jax.block_until_ready(model.arrays)
    return model


def fit(model):
    return _outcome(model.fit())


def fit_formula(problem, frame):
    import jaxmm as mm

    return _outcome((mm.glmm if problem.family else mm.lmm)(problem.formula, frame, **_options(problem)))


def _options(problem):
    if not problem.family:
        return {"reml": problem.reml}
    import jaxmm as mm

    return {"family": mm.families.get(problem.family, link=problem.link)}


def _outcome(fit):
    # Reading the deviance as a Python number waits for the device.
    return Outcome(float(fit.deviance), bool(fit.converged))


# ---------------------------------------------------------------- many fits
own_threads = True

WAYS = {"collapsed": {}, "general": {"collapse": False}}  # arguments of `fit_many`
SOURCES = {"simulated": "Simulated", "stream": "Simulated", "direct": "DirectlySimulated"}  # of jaxmm
STREAMED = ("100000", "1000000")


def many_command(python):
    return in_python("jaxmm", python, THROUGHPUT)


def refuses_many(batch):
    return None


def ways(batch):
    if batch.kind == "stream":
        return STREAMED
    return tuple(WAYS) if set(WAYS) == set(batch.goals) else ("",)


def refits(batch, frame, way, **options):
    model = build(batch, frame)
    return lambda Y, seconds: _many(_fit_many(model, batch, way, Y, **options))


def simulates(batch, frame, way, **options):
    model = build(batch, frame)
    at, _ = batch.tested
    seeds = iter(range(1 << 30))

    def run(n, seconds):
        found = _fit_many(model, batch, way, source(batch, model, n, next(seeds)), **options)
        rejected = abs(found.zvalues[found.converged, at]) > 1.96
        return _many(found)._replace(power=float(rejected.mean()))

    return run


def streams(batch, frame, way, out):
    model = build(batch, frame)
    _fit_many(model, batch, "", source(batch, model, int(way), 0), out=out, collect=False)
    return int(way)


def source(batch, model, n, seed):
    """Responses that are drawn from the truth as they are fitted."""
    import jax

    import jaxmm as mm
    from jaxmm.sources.truth import as_truth

    return getattr(mm, SOURCES[batch.kind])(model, as_truth(model, batch.truth), n, jax.random.key(seed))


def _fit_many(model, batch, way, responses, **options):
    from jaxmm.batch.engine import fit_many

    # The results are NumPy arrays: the device has finished.
    return fit_many(model, responses, start=batch.theta, progress=False, **WAYS.get(way, {}), **options)


def _many(found):
    return Many(len(found), found.deviance, found.converged)
