"""Bad input, as a user meets it: each message names the column or argument, the value and the remedy."""

import re

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest

import jaxmm as mm
from jaxmm import DataError, FormulaError

N = 60


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "score": rng.normal(size=N),
            "x": rng.normal(size=N),
            "t": rng.uniform(1, 2, N),
            "f": np.tile(list("abc"), N // 3),
            "school": np.repeat([f"s{i}" for i in range(12)], N // 12),
            "text": np.tile(["1.5", "2.5", "n/a"], N // 3),
            "digits": [f"{v}.5" for v in range(N)],
            "day": pd.date_range("2020-01-01", periods=N),
            "one": "only",
            "row": np.arange(N),
            "same": 3.5,
        }
    )


@pytest.fixture(scope="module")
def fit(data):
    return mm.lmm("score ~ x + f + (1 | school)", data)


def says(error: type[Exception], *parts: str):
    """An error of exactly this kind, with these parts in its message, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


# --- columns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "formula, parts",
    [
        ("score ~ X + (1 | school)", ["no column 'X'", "did you mean 'x'?"]),
        ("scor ~ x + (1 | school)", ["no column 'scor', the response", "did you mean 'score'"]),
        ("score ~ x + (1 | skool)", ["no column 'skool', a grouping factor", "did you mean 'school'?"]),
        ("score ~ x + (zz | school)", ["no column 'zz'", "the table has 'score', 'x', 't'"]),
        ("score ~ log(age) + (1 | school)", ["no column 'age' in 'log(age)'"]),
    ],
)
def test_unknown_column(data, formula, parts):
    with says(DataError, *parts):
        mm.lmm(formula, data)


@pytest.mark.parametrize("argument", ["weights", "offset"])
def test_unknown_column_of_an_argument(data, argument):
    with says(DataError, f"no column 'tt' for {argument}="):
        mm.lmm("score ~ x + (1 | school)", data, **{argument: "tt"})


@pytest.mark.parametrize(
    "formula, arguments, parts",
    [
        ("text ~ x + (1 | school)", {}, ["the response 'text' holds text", "such as '1.5'", "pandas.to_numeric"]),
        (
            "score ~ log(text) + (1 | school)",
            {},
            ["log(text)", "numbers are due", "such as '1.5'", "pandas.to_numeric"],
        ),
        ("score ~ offset(f) + (1 | school)", {}, ["offset(f) holds text", "such as 'a'"]),
        ("score ~ x + (1 | school)", {"weights": "f"}, ["column 'f' holds text", "such as 'a'"]),
        ("score ~ x + (1 | school)", {"offset": "f"}, ["column 'f' holds text", "such as 'a'"]),
        ("score ~ x + (1 | school)", {"weights": ["a"] * N}, ["weights holds text", "numbers are due"]),
        ("score ~ day + (1 | school)", {}, ["column 'day' holds dates or times", "days since the start"]),
        ("score ~ digits + (1 | school)", {}, ["'digits' is a factor of 60 levels", "pandas.to_numeric"]),
    ],
)
def test_text_where_numbers_are_due(data, formula, arguments, parts):
    with says(DataError, *parts):
        mm.lmm(formula, data, **arguments)


def test_duplicate_column_names(data):
    twice = data.rename(columns={"t": "x"})
    with says(DataError, "several columns named 'x'", "rename"):
        mm.lmm("score ~ x + (1 | school)", twice)


def test_the_response_on_both_sides(data):
    with says(DataError, "the response 'score' stands on the right of '~' too"):
        mm.lmm("score ~ x + score + (1 | school)", data)


# --- levels and rows ----------------------------------------------------------------------------------------------


def test_one_level(data):
    with says(DataError, "grouping factor 'one' has the one level 'only'", "leave the term out"):
        mm.lmm("score ~ x + (1 | one)", data)


@pytest.mark.parametrize("formula, factor", [("score ~ (1 | row)", "row"), ("score ~ (1 | school/row)", "row:school")])
def test_as_many_levels_as_rows(data, formula, factor):
    with says(DataError, f"grouping factor '{factor}' has 60 levels and the data have 60 rows", "coarser"):
        mm.lmm(formula, data)


def test_as_many_random_effects_as_rows(data):
    with says(DataError, "((Intercept) + x + t + fb + fc | school) has 12 levels × 5 effects = 60", "(1 | school)"):
        mm.lmm("score ~ x + (x + t + f | school)", data)


def test_a_factor_of_one_level_in_the_fixed_part(data):
    with says(DataError, "'one' has the one level 'only'", "leave it out"):
        mm.lmm("score ~ x + one + (1 | school)", data)


def test_more_columns_than_rows(data):
    with says(DataError, "X has 17 columns and the data have 15 rows", "fewer terms or more rows"):
        mm.lmm("score ~ poly(x, 8) + f * poly(t, 2) + (1 | school)", data.head(15))


def test_aliased_columns_are_named(data):
    with pytest.warns(UserWarning, match="rank-deficient: dropped twice, a combination") as caught:
        found = mm.lmm("score ~ x + twice + (1 | school)", data.assign(twice=2 * data["x"]))
    assert caught[0].filename == __file__  # the caller's own line
    assert found.dropped == ("twice",) and "dropped twice" in str(found.summary())


def test_constant_response(data):
    with says(DataError, "the response 'same' is constant (3.5 in every row)"):
        mm.lmm("same ~ x + (1 | school)", data)


def test_empty_table(data):
    with says(DataError, "the table has no rows"):
        mm.lmm("score ~ x + (1 | school)", data.head(0))


@pytest.mark.parametrize("nothing", [np.nan, None, pd.NA])
def test_empty_after_dropping_missing_values(data, nothing):
    with says(DataError, "no row is left after dropping missing values", "'x' 60 of 60 rows"):
        mm.lmm("score ~ x + (1 | school)", data.assign(x=nothing))


@pytest.mark.parametrize(
    "table, parts",
    [
        ("data.csv", ["data must be a pandas, polars or pyarrow table or a mapping of columns, not str"]),
        (np.ones((5, 2)), ["not ndarray"]),
        (pl.DataFrame({"score": [1.0]}).lazy(), ["data is a LazyFrame", "data.collect()"]),
        ({"score": [1.0, 2.0], "x": [1.0], "school": [1, 2]}, ["different lengths", "'x' 1"]),
    ],
)
def test_no_table(table, parts):
    with says(DataError, *parts):
        mm.lmm("score ~ x + (1 | school)", table)


# --- formulas -----------------------------------------------------------------------------------------------------


def test_no_bar(data):
    with says(DataError, "'score ~ x' has no random-effects term", "(1 | group)", "statsmodels"):
        mm.lmm("score ~ x", data)


@pytest.mark.parametrize(
    "formula, parts",
    [
        ("score ~ log(1 | school)", ["a bar inside a call", "(1 | school)"]),
        ("score ~ I((1 | school)) + x", ["a bar inside a call"]),
        ("score ~ x + (1 | school", ["a '(' is not closed", "^"]),
        ("score ~ x) + (1 | school)", ["a ')' without its '('", "^"]),
        ("score ~ log(x + (1 | school)", ["a '(' is not closed"]),
        ("score ~ x + 1 | school", ["needs its own brackets: (x + 1 | school)"]),
        ("score ~ s(x) + (1 | school)", ["'s(...)' is not known", "ns(x, 3)"]),
        ("", ["the formula is empty"]),
    ],
)
def test_formulas_that_cannot_be_read(data, formula, parts):
    with says(FormulaError, *parts):
        mm.lmm(formula, data)


def test_arguments_the_wrong_way_round(data):
    with says(FormulaError, "a formula is a text such as 'y ~ x + (1 | g)', not DataFrame"):
        mm.lmm(data, "score ~ x + (1 | school)")


def test_structures_that_are_not_available(data):
    with says(ValueError, "covariance structure 'cs' is not available", "us, diag"):
        mm.lmm("score ~ x + cs(0 + f | school)", data)


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("column", ["score", "x", "t"])
def test_infinity_in_a_column(data, column, value):
    bad = data.assign(**{column: data[column].where(data["row"] != 7, value)})
    bad.index = [f"r{i}" for i in range(N)]
    with says(DataError, f"'{column}' is infinite at row 'r7'", "correct the value, or leave the row out"):
        mm.lmm("score ~ x + (1 | school)", bad, weights="t")
    if column == "t":
        with says(DataError, "'offset(t)' is infinite at row 'r7'"):
            mm.lmm("score ~ x + offset(t) + (1 | school)", bad)
        with says(DataError, "'t' is infinite at row 'r7'"):
            mm.lmm("score ~ x + (1 | school)", bad, offset="t")


@pytest.mark.parametrize("value, shown", [(np.nan, "NaN"), (np.inf, "infinite")])
@pytest.mark.parametrize("argument", ["weights", "offset"])
def test_arrays_that_are_not_finite(data, argument, value, shown):
    array = np.ones(N)
    array[[3, 5]] = value
    with says(DataError, f"'{argument}' is {shown} at row 3 and at 1 more"):
        mm.lmm("score ~ x + (1 | school)", data, **{argument: array})


def test_nan_in_a_column_is_missing_and_said_so(data):
    holes = data.assign(score=data["score"].where(data["row"] > 1), x=data["x"].where(data["row"] != 9))
    found = mm.lmm("score ~ x + (1 | school)", holes)
    assert found.nobs == N - 3 and "3 rows left out because of missing values" in str(found.summary())
    assert "3 dropped for missing values" in str(found.model)
    with says(DataError, "missing values in 'score' 2, 'x' 1", "missing='drop'"):
        mm.lmm("score ~ x + (1 | school)", holes, missing="raise")


def test_values_that_become_nan(data):
    with says(DataError, "'log(x)' is NaN at row"):
        mm.lmm("score ~ log(x) + (1 | school)", data)


@pytest.mark.parametrize("weights, name", [(np.where(np.arange(N) == 3, -2.0, 1.0), "weights"), ("w", "w")])
def test_negative_weights(data, weights, name):
    with says(DataError, f"'{name}' is -2 at row 3", "cannot be negative (zero leaves the row out)"):
        mm.lmm("score ~ x + (1 | school)", data.assign(w=np.where(data["row"] == 3, -2.0, 1.0)), weights=weights)


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ({"weights": np.zeros(N)}, ["all weights are zero"]),
        ({"weights": np.ones(5)}, ["weights has shape (5,) and the data have 60 rows"]),
        ({"offset": 2.0}, ["offset has shape () and the data have 60 rows"]),
        ({"contrasts": {"f": "contr.sum"}}, ["contrasts['f'] is 'contr.sum'", "'treatment', 'sum', 'helmert', 'poly'"]),
        ({"contrasts": {"q": "sum"}}, ["contrasts names 'q'", "it has 'f', 'x'"]),
        ({"contrasts": "sum"}, ["contrasts is a mapping such as {'column': 'sum'}"]),
        ({"missing": "ignore"}, ["missing must be 'drop' or 'raise', not 'ignore'"]),
    ],
)
def test_bad_arguments(data, arguments, parts):
    with says(DataError, *parts):
        mm.lmm("score ~ x + f + (1 | school)", data, **arguments)


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
        ({"verbose": True}, ["lmm() has no keyword 'verbose'\n    accepted: formula, data, reml, weights, offset"]),
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
        (lambda m, f: f.simulate(seed=1), ["simulate() has no keyword 'seed': key=jax.random.key(seed)"]),
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
        (lambda f: f.predict(new_levels="allow"), ["new_levels must be 'error' or 'population', not 'allow'"]),
        (lambda f: f.predict(scale="logit"), ["scale must be 'response' or 'link', not 'logit'"]),
        (lambda f: f.predict(interval="both"), ["interval must be None, 'confidence' or 'prediction', not 'both'"]),
        (lambda f: f.predict(level=95), ["level must lie between 0 and 1, not 95"]),
        (lambda f: f.residuals("raw"), ["kind must be 'response', 'pearson', 'deviance' or 'working', not 'raw'"]),
        (lambda f: f.confint("boot"), ["method must be 'wald'", "not 'boot'"]),
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
    "key, shown", [(1, "not 1"), (None, "not None"), (jax.random.split(jax.random.key(0)), "(2,)")]
)
def test_wrong_key(fit, key, shown):
    with says(TypeError, "key must be one JAX key such as jax.random.key(0)", shown):
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


# --- generalised models -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trials(data) -> pd.DataFrame:
    """Counts, and answers that depend on school and x; the columns of zeros and ones that follow are separated."""
    rng = np.random.default_rng(2)
    p = 1 / (1 + np.exp(-data["x"] - np.repeat(rng.normal(0, 1.5, 12), 5)))
    arm = np.tile([0, 1, 0], N // 3)
    yes = (rng.random(N) < p).astype(int)
    more = {"count": rng.poisson(2, N), "hits": rng.integers(0, 4, N), "size": 3, "zero": 0, "arm": arm, "yes": yes}
    more |= {"quasi": np.where(arm == 1, 1, yes), "apart": (data["x"] > 0.1).astype(int)}
    return data.assign(**more).set_index(pd.Index([f"r{i}" for i in range(N)]))


R = " ~ x + (1 | school)"


def at_7(table: pd.DataFrame, column: str, value: float) -> pd.DataFrame:
    return table.assign(**{column: table[column].astype(float).where(table["row"] != 7, value)})


@pytest.mark.parametrize(
    "family, column, value, shown, support",
    [
        ("poisson", "count", -1, "-1", "whole numbers from 0"),
        ("poisson", "count", 1.5, "1.5", "whole numbers from 0"),
        ("nbinom2", "count", 0.5, "0.5", "whole numbers from 0"),
        ("gamma", "t", 0, "0", "positive numbers"),
        ("inverse_gaussian", "t", -2, "-2", "positive numbers"),
        ("beta", "share", 1, "1", "numbers strictly between 0 and 1"),
        ("binomial", "yes", -1, "-1", "0 and 1, a factor of two levels, cbind(successes, failures)"),
    ],
)
def test_response_outside_the_support(trials, family, column, value, shown, support):
    table = at_7(trials.assign(share=0.3 + 0.01 * trials["row"] % 0.6), column, value)
    with says(DataError, f"the response '{column}' is {shown} at row 'r7'", f"the {family} family takes {support}"):
        mm.glmm(column + R, table, family)


@pytest.mark.parametrize(
    "response, changes, parts",
    [
        ("cbind(hits, size - hits)", {"hits": 4}, ["'size - hits', the failures", "is -1 at row 'r7'", "trials"]),
        ("cbind(hits, size)", {"size": -2}, ["'size', the failures", "is -2 at row 'r7'", "cannot be negative"]),
        ("cbind(hits, size)", {"hits": 1.5}, ["'hits', the successes", "is 1.5 at row 'r7'", "whole numbers"]),
        ("hits", {}, ["the response 'hits' is", "a count", "cbind(hits, trials - hits)"]),
        ("f", {}, ["the response 'f' has the 3 levels 'a', 'b', 'c'", 'I(f == "c")']),
        ("share", {}, ["holds proportions", "pass weights= the numbers of trials", "family='beta'"]),
        ("text", {}, ["the response 'text' has the 3 levels '1.5', '2.5', 'n/a'", "pandas.to_numeric"]),
    ],
)
def test_responses_of_trials(trials, response, changes, parts):
    table = trials.assign(share=trials["hits"] / 3)
    for column, value in changes.items():
        table = at_7(table, column, value)
    with says(DataError, *parts):
        mm.glmm(response + R, table, "binomial")


@pytest.mark.parametrize(
    "response, weights, parts",
    [
        ("share", np.full(N, 2), ["trials at row", "successes, not a whole number"]),
        ("share", np.full(N, 2.5), ["the weights of the proportion 'share'", "2.5 at row 'r0' and at 59 more"]),
    ],
)
def test_trials_that_do_not_fit_the_proportion(trials, response, weights, parts):
    with says(DataError, *parts):
        mm.glmm(response + R, trials.assign(share=trials["hits"] / 3), "binomial", weights=weights)


def test_successes_and_failures_of_another_family(trials):
    with says(DataError, "counts successes and failures", "poisson family", "a family with trials such as 'binomial'"):
        mm.glmm("cbind(hits, size)" + R, trials, "poisson")


@pytest.mark.parametrize(
    "response, family, shown",
    [
        ("zero", "poisson", "0 in every row"),
        ("zero", "binomial", "no success in any row"),
        ("arm == arm", "binomial", "no failure in any row"),
        ("cbind(hits, zero)", "binomial", "no failure in any row"),
        ("same", "gamma", "3.5 in every row"),
    ],
)
def test_constant_response_of_a_family(trials, response, family, shown):
    with says(DataError, "is constant", f"({shown})", "nothing to explain"):
        mm.glmm(response + R, trials[trials["hits"] > 0], family)


@pytest.mark.parametrize("value, shown", [(-1, "NaN"), (0, "infinite")])
def test_exposure_without_a_logarithm(trials, value, shown):
    with says(DataError, f"'offset(log(t))' is {shown} at row 'r7'", f"'t' is {value}", "must be above zero"):
        mm.glmm("count ~ x + offset(log(t)) + (1 | school)", at_7(trials, "t", value), "poisson")


NAMES = "Accepted: binomial, poisson, gamma, inverse_gaussian, nbinom1, nbinom2, beta, betabinomial, gaussian"


@pytest.mark.parametrize(
    "family, parts",
    [
        ("binomal", ["family 'binomal' is not available", "did you mean 'binomial'?", NAMES]),
        ("negative_binomial", ["did you mean 'nbinom2'?"]),
        ("tweedie", ["family 'tweedie' is not available", NAMES, "or a Family of your own"]),
        (3, ["family 3 is not available", NAMES]),
        (mm.families.Poisson, ["family is the class Poisson: make an instance, Poisson()"]),
        ({"y": [1.0]}, ["family of type dict is not available", "glmm(formula, data, family)"]),
        (None, ["glmm needs a family, such as 'binomial'", "lmm"]),
    ],
)
def test_unknown_family(trials, family, parts):
    with says(ValueError, *parts):
        mm.glmm("count" + R, trials, family)


@pytest.mark.parametrize(
    "name, link, parts",
    [
        ("binomial", "identity", ["binomial family has no link 'identity'", "logit, probit, cloglog, cauchit, log"]),
        ("poisson", "logit", ["poisson family has no link 'logit'", "accepted: log, identity, sqrt"]),
        ("gamma", 1, ["gamma family has no link 1", "accepted: inverse, log, identity, or a Link of your own"]),
    ],
)
def test_unknown_link(name, link, parts):
    with says(ValueError, *parts):
        mm.families.get(name, link=link)


@pytest.mark.parametrize("n_agq", [0, 2.5, True, "many", -3, 201, [9]])
def test_number_of_nodes(trials, n_agq):
    with says(ValueError, "n_agq must be a whole number from 1 to 200, or 'auto', not " + repr(n_agq)):
        mm.glmm("count" + R, trials, "poisson", n_agq=n_agq)


def test_quadrature_where_it_cannot_be_had(trials):
    with says(ValueError, "n_agq=5 needs one grouping factor, and the model has 2", "n_agq=1"):
        mm.glmm("count ~ x + (1 | school) + (1 | f)", trials, "poisson", n_agq=5)
    with says(ValueError, "n_agq=5 needs 3 random effects per level at most, and the factor has 4", "n_agq=1"):
        mm.glmm("count ~ x + (x + t + row | school)", trials, "poisson", n_agq=5)


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ({"nAGQ": 9}, ["glmm() has no keyword 'nAGQ': n_agq=1 is Laplace's method", "accepted: formula, data, family"]),
        ({"REML": False}, ["no keyword 'REML': generalised models are fitted by maximum likelihood"]),
        ({"reml": False}, ["no keyword 'reml': generalised models are fitted by maximum likelihood"]),
        ({"ziformula": "~1"}, ["no keyword 'ziformula': zero_inflation="]),
        ({"dispformula": "~x"}, ["no keyword 'dispformula': dispersion="]),
        ({"link": "log"}, ["no keyword 'link': the family has it", "mm.families.get('binomial', link='probit')"]),
        ({"trials": "size"}, ["no keyword 'trials': cbind(successes, failures)"]),
        ({"exposure": "t"}, ["no keyword 'exposure': offset(log(exposure))"]),
        ({"weight": "t"}, ["did you mean 'weights'?"]),
        ({"verbose": 1}, ["glmm() has no keyword 'verbose'\n", "n_agq, weights, offset", "dispersion, zero_inflation"]),
    ],
)
def test_unknown_keyword_of_a_generalised_model(trials, arguments, parts):
    with says(TypeError, *parts):
        mm.glmm("count" + R, trials, "poisson", **arguments)


def test_keywords_of_the_other_kind_of_model(trials):
    with says(TypeError, "reml is for linear mixed models", "fitted by ML"):
        mm.Model.from_formula("count" + R, trials, "poisson", reml=True)
    with says(TypeError, "n_agq is for generalised models: give a family"):
        mm.Model.from_formula("count" + R, trials, n_agq=1)
    with says(TypeError, "fit() has no keyword 'n_agq'", "an argument of glmm"):
        mm.Model.from_formula("count" + R, trials, "poisson").fit(n_agq=9)


@pytest.mark.parametrize("argument", ["dispersion", "zero_inflation"])
def test_what_is_not_available_yet(trials, argument):
    with says(NotImplementedError, f"{argument}= is not available yet"):
        mm.glmm("count" + R, trials, "poisson", **{argument: "~ x"})


def test_complete_separation(trials):
    """The best fit reproduces every answer, with coefficients at infinity: a fit, flagged, and no exception."""
    fit = mm.glmm("apart ~ x + arm + (1 | school)", trials, "binomial")
    assert fit.diagnostics.status is mm.Status.RUNAWAY and not fit.converged
    assert fit.deviance < 1e-6 and fit.fixef["x"] > 30
    assert any("separation" in r and "x (" in r for r in fit.remarks)
    text = str(fit)
    assert "not converged: the likelihood has no maximum" in text and "separation: " in text
    assert "nan" not in text.lower()
    for kind in ("response", "pearson", "deviance"):
        np.testing.assert_allclose(fit.residuals(kind), 0, atol=1e-3)


def test_quasi_separation(trials):
    """Everyone in one arm says yes: its coefficient runs away, and the rest is the fit of the other arm."""
    fit = mm.glmm("quasi ~ x + arm + (1 | school)", trials, "binomial")
    assert fit.diagnostics.status is mm.Status.RUNAWAY and not fit.converged
    assert fit.fixef["arm"] > 10 and fit.bse["arm"] > 1000
    remark = next(r for r in fit.remarks if "separation" in r)
    assert remark.startswith("separation: arm (") and " x (" not in remark and "(Intercept)" not in remark
    other = mm.glmm("quasi ~ x + (1 | school)", trials[trials["arm"] == 0], "binomial")
    assert other.converged and other.theta[0] > 0.3
    np.testing.assert_allclose(fit.deviance, other.deviance, atol=1e-6)
    np.testing.assert_allclose(fit.fixef[other.fixef.index], other.fixef, atol=1e-4)
    np.testing.assert_allclose(fit.bse[other.fixef.index], other.bse, rtol=1e-3)
    np.testing.assert_allclose(fit.theta, other.theta, atol=1e-4)


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


# --- arrays -------------------------------------------------------------------------------------------------------


def arrays(**changes):
    rng = np.random.default_rng(0)
    given = {"y": rng.normal(size=N), "X": np.ones((N, 1)), "weights": None, "offset": None}
    given |= {"terms": [mm.Term(np.ones(N), np.arange(N) % 12)]} | changes
    return mm.Model.from_arrays(given.pop("y"), given.pop("X"), given.pop("terms"), **given)


def spoiled(value):
    return np.where(np.arange(N) == 2, value, np.arange(N) + 1.0)


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"y": spoiled(np.nan)}, ["y is not finite in row 2"]),
        ({"X": spoiled(np.inf)[:, None]}, ["X is not finite in row 2"]),
        ({"offset": spoiled(np.nan)}, ["offset is not finite in row 2"]),
        ({"weights": spoiled(np.inf)}, ["weights is not finite in row 2"]),
        ({"weights": spoiled(-1.0)}, ["weights must be n positive numbers"]),
        ({"X": np.ones((N, 2))}, ["X must have fewer columns than rows and full column rank"]),
        ({"X": np.ones((5, 1))}, ["y must be (n,) and X (n, p); got (60,) and (5, 1)"]),
        ({"terms": []}, ["give at least one Term"]),
        ({"terms": [mm.Term(np.ones(5), np.arange(N))]}, ["term 0", "must have 60 rows"]),
        ({"terms": [mm.Term(np.ones(N), np.arange(N))]}, ["60 levels and the data have 60 rows"]),
        ({"terms": [mm.Term(np.ones(N), np.zeros(N))]}, ["the one level"]),
        ({"terms": [mm.Term(spoiled(np.nan), np.arange(N) % 12)]}, ["Z of term 0 is not finite in row 2"]),
        ({"names": ["a", "b"]}, ["names has 2 entries for 1 columns"]),
    ],
)
def test_bad_arrays(changes, parts):
    with says(DataError, *parts):
        arrays(**changes)
