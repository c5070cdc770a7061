"""Bad options and bad new rows, as a user meets them: each message names the argument, the value and the remedy."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import says
from pupils import N, pupils

import jaxmm as mm
from jaxmm import DataError


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return pupils()


@pytest.fixture(scope="module")
def fit(data):
    return mm.lmm("score ~ x + f + (1 | school)", data)


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ({"REML": False}, ["lmm() has no keyword 'REML': reml=True or reml=False", "accepted: formula, data, reml"]),
        ({"rmel": False}, ["lmm() has no keyword 'rmel': did you mean 'reml'?"]),
        ({"weight": "t"}, ["did you mean 'weights'?"]),
        ({"family": "binomial"}, ["no keyword 'family'", "use glmm(formula, data, family)"]),
        ({"n_agq": 9}, ["no keyword 'n_agq'", "an argument of glmm"]),
        ({"groups": "school"}, ["no keyword 'groups'", "(1 | group)"]),
        (
            {"verbose": True},
            ["lmm() has no keyword 'verbose'\n    accepted: formula, data, reml, residual, dispersion"],
        ),
    ],
)
def test_unknown_keyword(data, arguments, parts):
    with says(TypeError, *parts):
        mm.lmm("score ~ x + (1 | school)", data, **arguments)


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda m, f: f.predict(re_form=None), ["predict() has no keyword 're_form'", "re='population'"]),
        (lambda m, f: f.predict(allow_new_levels=True), ["new_levels='population'"]),
        (lambda m, f: f.simulate(seed=1), ["simulate() has no keyword 'seed': key=seed"]),
        (lambda m, f: m.fit(contorl={}), ["fit() has no keyword 'contorl': did you mean 'control'?"]),
        (lambda m, f: mm.Model.from_formula("y ~ (1 | g)", {}, REML=1), ["from_formula() has no keyword 'REML'"]),
        (lambda m, f: mm.Model.from_arrays([], [], [], sigma=1), ["from_arrays() has no keyword 'sigma'"]),
        (lambda m, f: f.residuals(type="raw"), ["residuals() has no keyword 'type': kind="]),
        (lambda m, f: f.confint(alpha=0.1), ["confint() has no keyword 'alpha': level=1 - alpha"]),
        (lambda m, f: m.fit(control={"maxit": 3}), ["control has no setting 'maxit'", "max_iterations"]),
        (lambda m, f: m.fit(control=3), ["control must be a jaxmm.Control or a dict, not int"]),
    ],
)
def test_unknown_keywords_of_methods(fit, call, parts):
    with says(TypeError, *parts):
        call(fit.model, fit)


def test_a_keyword_checked_function_still_shows_its_signature():
    import inspect

    assert list(inspect.signature(mm.lmm).parameters)[:3] == ["formula", "data", "reml"]


@pytest.mark.parametrize("value", ["ML", 0, None])
def test_reml_is_true_or_false(data, value):
    with says(TypeError, f"reml must be True or False, not {value!r}"):
        mm.lmm("score ~ x + (1 | school)", data, reml=value)


def test_a_family_of_a_model(data):
    model = mm.Model.from_formula("row ~ x + (1 | school)", data, "poisson")
    assert model.likelihood.family.name == "poisson" and not model.reml
    with says(DataError, "'cbind(x, t)' is the response of a binomial model"):
        mm.lmm("cbind(x, t) ~ f + (1 | school)", data)


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda f: f.predict(re="fixed"), ["re must be one of 'conditional', 'population', 'marginal'", "'fixed'"]),
        (lambda f: f.predict(re=None), ["re must be one of", "not None"]),
        (lambda f: f.predict(re=["class"]), ["no grouping factor 'class'", "'school'"]),
        (
            lambda f: f.predict(new_levels="allow"),
            ["new_levels must be 'error', 'population' or", "not 'allow'"],
        ),
        (lambda f: f.predict(scale="logit"), ["scale must be one of 'response', 'link'", "not 'logit'"]),
        (lambda f: f.predict(interval="both"), ["interval must be None, 'confidence' or 'prediction', not 'both'"]),
        (lambda f: f.predict(level=95), ["level must lie between 0 and 1, not 95"]),
        (lambda f: f.residuals("raw"), ["kind must be 'response', 'pearson', 'deviance' or 'working', not 'raw'"]),
        (lambda f: f.confint("boots"), ["method must be 'wald'", "not 'boots'"]),
        (lambda f: f.confint(level=1.5), ["level must lie between 0 and 1, not 1.5"]),
        (lambda f: f.simulate(0, key=jax.random.key(1)), ["n must be a positive number of replicates, not 0"]),
        (lambda f: f.simulate("a", key=jax.random.key(1)), ["n must be a positive number of replicates, not 'a'"]),
        (lambda f: f.simulate(re="none", key=jax.random.key(1)), ["re must be 'new' or 'conditional', not 'none'"]),
        (lambda f: f.model.fit(start=[1.0, 2.0]), ["start must be 1 finite number", "fit.theta; got [1.0, 2.0]"]),
        (lambda f: f.model.fit(start=[np.nan]), ["start must be 1 finite number", "nan"]),
        (lambda f: f.model.fit(start="auto"), ["start must be 1 finite number", "'auto'"]),
        (lambda f: f.model.fit(control={"device": "gpu9"}), ["control.device must be 'auto', 'cpu'", "not 'gpu9'"]),
        (lambda f: mm.Model.from_formula("x ~ (1 | g)", {"x": [1, 2, 3.0], "g": [1, 1, 2]}, device="gpu9"), ["'gpu9'"]),
        (lambda f: mm.anova(f), ["anova compares two fits or more"]),
        (lambda f: mm.datasets.load("sleep"), ["no data set named 'sleep'", "sleepstudy"]),
    ],
)
def test_unknown_values(fit, call, parts):
    with says(ValueError, *parts):
        call(fit)


@pytest.mark.parametrize(
    "key, shown",
    [
        (1.0, "not 1.0"),
        (True, "not True"),
        ("1", "not '1'"),
        (None, "not None"),
        (jax.random.split(jax.random.key(0)), "(2,)"),
    ],
)
def test_wrong_key(fit, key, shown):
    with says(TypeError, "key must be a seed", shown):
        fit.simulate(3, key=key)


@pytest.mark.parametrize("key", [-1, 2**32])
def test_a_number_that_is_no_seed(fit, key):
    with says(ValueError, f"key={key} is no seed", "from 0 to 4294967295", "key=1", "jax.random.key(0)"):
        fit.simulate(3, key=key)


@pytest.mark.parametrize(
    "y, parts",
    [
        (np.arange(5.0), ["the response must have 60 values", "got shape (5,)"]),
        (np.ones((N, 2)), ["the response must have 60 values", "got shape (60, 2)"]),
        (np.where(np.arange(N) == 4, np.nan, np.arange(N)), ["the response is not finite in row 4"]),
        (np.ones(N), ["the response is constant"]),
        (["a"] * N, ["the response holds text or other things"]),
    ],
)
def test_responses_that_do_not_fit(fit, y, parts):
    with says(DataError, *parts):
        fit.refit(y)


# --- new rows -----------------------------------------------------------------------------------------------------


def test_new_level(data, fit):
    new = data.head(3).assign(school=["s0", "z1", "z2"])
    with says(DataError, "has not seen the levels 'z1', 'z2' of 'school'", "new_levels='population'"):
        fit.predict(new)
    with says(DataError, "has not seen the level 'z1'", "re='new'"):
        fit.simulate(1, key=jax.random.key(0), newdata=new, re="conditional")


def test_new_level_of_a_fixed_factor(data, fit):
    with says(DataError, "'f' holds 'd', which the fit has not seen", "'a', 'b', 'c'"):
        fit.predict(data.head(3).assign(f="d"))


@pytest.mark.parametrize("column", ["x", "f", "school"])
def test_missing_column_at_prediction(data, fit, column):
    with says(DataError, f"no column '{column}' in the new data"):
        fit.predict(data.drop(columns=column))


def test_text_at_prediction(data, fit):
    with says(DataError, "'x' holds text", "such as 'tall'"):
        fit.predict(data.head(2).assign(x="tall"))


def test_new_rows_of_a_model_made_from_arrays(data):
    fitted = mm.Model.from_arrays(data["score"], np.ones((N, 1)), [mm.Term(np.ones(N), data["school"])]).fit()
    with says(DataError, "made from arrays", "needs a formula"):
        fitted.predict(data)
    with says(DataError, "made from arrays", "needs a formula"):
        fitted.simulate(1, key=jax.random.key(0), newdata=data)
