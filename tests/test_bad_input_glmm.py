"""Bad input to generalised models: responses, families, numbers of nodes, and answers that are separated."""

import numpy as np
import pandas as pd
import pytest
from helpers import says
from pupils import N, pupils

import jaxmm as mm
from jaxmm import DataError, FormulaError


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return pupils()


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


def test_a_rate_is_no_count(trials):
    with says(DataError, "takes whole numbers from 0; of a rate, model the count with offset(log(exposure))"):
        mm.glmm("count / t" + R, trials, "poisson")


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


NAMES = "Accepted: binomial, poisson, gamma, inverse_gaussian, nbinom1, nbinom2, beta, betabinomial, gaussian, tweedie"


@pytest.mark.parametrize(
    "family, parts",
    [
        ("binomal", ["family 'binomal' is not available", "did you mean 'binomial'?", NAMES]),
        ("negative_binomial", ["did you mean 'nbinom2'?"]),
        ("compois", ["family 'compois' is not available", NAMES, "or a Family of your own"]),
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
        ({"ziformula": "~1"}, ["no keyword 'ziformula': the formula for extra zeros is zero_inflation="]),
        ({"dispformula": "~x"}, ["no keyword 'dispformula': the formula for log φ is dispersion="]),
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


@pytest.mark.parametrize(
    "family, arguments, error, parts",
    [
        (
            "poisson",
            {"dispersion": "~ x"},
            ValueError,
            ["the poisson family has no dispersion", "leave dispersion= out"],
        ),
        ("gamma", {"zero_inflation": "~ x"}, ValueError, ["zero inflation is for counts", "the gamma family takes"]),
        ("poisson", {"zero_inflation": "x"}, FormulaError, ["zero_inflation is a formula", "write '~ x'"]),
        ("poisson", {"zero_inflation": "y ~ x"}, FormulaError, ["zero_inflation is a formula without a response"]),
        ("poisson", {"zero_inflation": True}, FormulaError, ["zero_inflation is a formula such as '~ x', not bool"]),
        (
            "poisson",
            {"zero_inflation": "~ ."},
            FormulaError,
            ["'.' stands for columns in the formula of the mean only"],
        ),
        ("poisson", {"zero_inflation": "~ 0"}, FormulaError, ["this formula leaves nothing"]),
        ("poisson", {"zero_inflation": "~ nowhere"}, DataError, ["nowhere"]),
        ("poisson", {"zero_inflation": "~ count"}, DataError, ["the response 'count' stands on the right of '~' too"]),
        ("poisson", {"zero_inflation": "~ 1", "n_agq": 5}, None, []),
        (
            "poisson",
            {"zero_inflation": "~ (1 | school)", "n_agq": 5},
            ValueError,
            ["n_agq=5 needs one grouping factor"],
        ),
    ],
)
def test_formulas_of_further_parameters(trials, family, arguments, error, parts):
    response = "count" if family == "poisson" else "amount"
    table = trials.assign(amount=trials["count"] + 0.5)
    if error is None:
        mm.Model.from_formula(response + R, table, family, **arguments)
    else:
        with says(error, *parts):
            mm.Model.from_formula(response + R, table, family, **arguments)


def test_formulas_of_a_linear_model(trials):
    with says(TypeError, "zero_inflation= is for generalised models of counts", "such as 'poisson'"):
        mm.Model.from_formula("count" + R, trials, zero_inflation="~ x")
    with says(FormulaError, "takes no random effects", "by maximum likelihood"):
        mm.Model.from_formula("count" + R, trials, dispersion="~ x + (1 | school)")


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
    shift = -(fit.fixef["(Intercept)"] - 20 * fit.fixef["x"])
    near_zero = mm.glmm(
        "quasi ~ x + arm + (1 | school)", trials.assign(x=trials["x"] + 20), "binomial", offset=np.full(60, -shift)
    )
    assert abs(near_zero.fixef["(Intercept)"]) < 0.1 and near_zero.bse["(Intercept)"] > 1
    assert next(r for r in near_zero.remarks if "separation" in r).startswith("separation: arm (")
    assert "(Intercept)" not in next(r for r in near_zero.remarks if "separation" in r)
    np.testing.assert_allclose(fit.bse[other.fixef.index], other.bse, rtol=1e-3)
    np.testing.assert_allclose(fit.theta, other.theta, atol=1e-4)
