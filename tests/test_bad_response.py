"""Responses that a family cannot have, and exposures: the message names the column, the row and the remedy."""

import numpy as np
import pandas as pd
import pytest
from response_frame import BINOMIAL, GAMMA, POISSON, N, make, response_frame, says

from jaxmm.design import build
from jaxmm.design.formula import parse


@pytest.fixture
def frame() -> pd.DataFrame:
    return response_frame()


# --- bad responses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column, value, family, parts",
    [
        ("count", -1, POISSON, ["'count' is -1 at row 'r7'", "the poisson family", "whole numbers from 0"]),
        ("count", 2.5, POISSON, ["the response 'count' is 2.5 at row 'r7'", "whole numbers from 0"]),
        ("time", 0, GAMMA, ["the response 'time' is 0 at row 'r7'", "the gamma family takes positive numbers"]),
        ("time", np.inf, GAMMA, ["'time' is infinite at row 'r7'", "correct the value"]),
        ("up", -1, BINOMIAL, ["the response 'up' is -1 at row 'r7'", "the binomial family", "0 and 1", "cbind"]),
        ("p", 1.25, BINOMIAL, ["the response 'p' is 1.25 at row 'r7'", "a proportion", "between 0 and 1"]),
    ],
)
def test_outside_the_support(frame, column, value, family, parts):
    frame[column] = frame[column].astype(float)
    frame.loc["r7", column] = value
    with says(*parts):
        make(column, frame, family, weights="n" if column == "p" else None)


def test_the_first_of_several_bad_rows(frame):
    frame.loc[["r5", "r8", "r9"], "count"] = -3
    with says("'count' is -3 at row 'r5' and at 2 more"):
        make("count", frame, POISSON)
    design = make("count", frame, POISSON, weights=np.where(frame["count"] < 0, 0.0, 1.0))
    assert design.y_all[5] == -3 and (design.y >= 0).all()


def test_counts_without_trials(frame):
    with says("the response 's' is", "a count", "cbind(s, trials - s)", "weights= the numbers of trials"):
        make("s", frame)
    with says("weights= the numbers of trials"):
        make("s", frame, weights="n")
    frame["code"] = np.where(frame["up"], 2, 1)
    with says("the response 'code' is 2 at row 'r0'", "cbind", "factor(code)"):
        make("code", frame)


def test_proportions_without_weights(frame):
    i = int(np.argmax((frame["p"] > 0) & (frame["p"] < 1)))
    with says("the response 'p' holds proportions", f"at row 'r{i}'", "weights= the numbers of trials", "beta"):
        make("p", frame)


def test_weights_of_a_proportion(frame):
    frame["n"] = frame["n"] + 0.5
    with says("the weights of the proportion 'p' are its numbers of trials", "'r0'", "not a whole number"):
        make("p", frame, weights="n")


def test_a_proportion_of_no_whole_number_of_successes(frame):
    frame.loc["r2", ["p", "n"]] = [0.33, 6]
    with says("0.33 of 6 trials at row 'r2'", "1.98 successes", "cbind(successes, failures)"):
        make("p", frame, weights="n")


@pytest.mark.parametrize(
    "response, column, value, parts",
    [
        ("cbind(s, n - s)", "s", 20, ["'n - s', the failures", "at row 'r4'", "successes more than the trials"]),
        ("cbind(s, f)", "f", -1, ["'f', the failures", "is -1 at row 'r4'", "cannot be negative"]),
        ("cbind(s, f)", "s", -2, ["'s', the successes", "is -2 at row 'r4'", "cannot be negative"]),
        ("cbind(s, f)", "s", 1.5, ["'s', the successes", "is 1.5 at row 'r4'", "whole number"]),
        ("cbind(s, f)", "f", np.inf, ["'f' is infinite at row 'r4'"]),
        ("cbind(s, log(f))", "f", -1, ["'log(f)' is NaN at row 'r4'"]),
        ("cbind(s, word)", "s", 1, ["'word', the failures", "holds text or categories", "such as 'no'"]),
        ("cbind(s, poly(f, 2))", "s", 1, ["'poly(f, 2)', the failures", "2 columns"]),
    ],
)
def test_bad_counts(frame, response, column, value, parts):
    frame[["s", "f"]] = frame[["s", "f"]].astype(float) + 1
    frame["n"] = frame["s"] + frame["f"]
    frame.loc["r4", column] = value
    with says(*parts):
        make(response, frame)


def test_levels(frame):
    frame["three"] = np.tile(["a", "b", "c"], 4)
    frame["many"] = [f"{i}.5" for i in range(N)]
    with says("the response 'three' has the 3 levels 'a', 'b', 'c'", "binomial", "two", 'I(three == "c")'):
        make("three", frame)
    with says("the response 'many' has the 12 levels '0.5', '1.5'", "...", "pandas.to_numeric"):
        make("many", frame)
    frame["code"] = pd.array(np.tile([1, 2], 6))
    with says('factor(code, levels = "1")', "also holds '2'"):
        make('factor(code, levels = "1")', frame)
    with says("the response 'word' has the one level 'yes'", "nothing to explain"):
        make("word", frame[frame["up"]])


@pytest.mark.parametrize("column", ["word", "three"])
def test_text_for_a_family_of_numbers(frame, column):
    frame["three"] = pd.Categorical(np.tile(["a", "b", "c"], 4))
    with says(f"the response '{column}' holds text or categories", "the poisson family takes whole numbers from 0"):
        make(column, frame, POISSON)


def test_cbind_for_another_family(frame):
    with says("'cbind(s, f)'", "successes and failures", "the poisson family", "whole numbers from 0"):
        make("cbind(s, f)", frame, POISSON)
    with says("'cbind(s, f)' is the response of a binomial model, not for a linear mixed model", "glmm", "'binomial'"):
        make("cbind(s, f)", frame, None)


@pytest.mark.parametrize("family", [None, BINOMIAL, POISSON])
def test_a_matrix_is_no_response(frame, family):
    with says("the response 'poly(x, 2)' has several columns"):
        build(parse("poly(x, 2) ~ w + (1 | g)"), frame, family=family)


def test_dates_are_no_response(frame):
    frame["day"] = pd.date_range("2020-01-01", periods=N)
    with says("column 'day' holds dates or times"):
        make("day", frame)


# --- exposures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value, shown", [(-2.0, "NaN"), (0.0, "infinite")])
@pytest.mark.parametrize("offset", ["log(t)", "log(t/10)", "log10(t)"])
def test_an_exposure_that_is_not_positive(frame, offset, value, shown):
    frame["t"] = 1.0
    frame.loc["r6", "t"] = value
    formula = parse(f"count ~ x + offset({offset}) + (1 | g)")
    with says(f"'offset({offset})' is {shown} at row 'r6'", f"'t' is {value:.0f}", "exposure", "above zero"):
        build(formula, frame, family=POISSON)
    assert np.isfinite(build(formula, frame, family=POISSON, weights=(frame["t"] > 0).astype(float)).offset).all()


def test_an_offset_without_a_logarithm(frame):
    frame["t"] = 1.0
    frame.loc["r6", "t"] = -2.0
    with says("'offset(sqrt(t))' is NaN at row 'r6'", "'t' is -2", "correct the value, or leave the row out"):
        build(parse("count ~ x + offset(sqrt(t)) + (1 | g)"), frame, family=POISSON)
