"""jaxmm: `build` makes the unfitted model with its arrays, `fit` is `model.fit()` on arrays that exist."""

from libraries import Outcome, in_python, python_process

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
