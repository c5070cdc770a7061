"""Responses: what a column says -> counts and trials, for each spelling of a binomial response; and arrays."""

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from response_frame import BINOMIAL, GAMMA, POISSON, N, arrays, make, response_frame, says

from jaxmm import datasets, families
from jaxmm.design import build
from jaxmm.design.checks import check_response
from jaxmm.design.formula import parse


@pytest.fixture
def frame() -> pd.DataFrame:
    return response_frame()


# --- the spellings of success and failure -------------------------------------------------------------------------


TWO_LEVELS = {
    "bool": lambda up: up,
    "int": lambda up: up.astype(int),
    "float": lambda up: up.astype(float),
    "nullable": lambda up: pd.array(up, dtype="boolean"),
    "text": lambda up: np.where(up, "yes", "no"),
    "category": lambda up: pd.Categorical(np.where(up, "yes", "no")),
    "order of the dtype": lambda up: pd.Categorical(np.where(up, "a", "b"), ["b", "a"]),
    "ordered": lambda up: pd.Categorical(np.where(up, "hi", "lo"), ["lo", "hi"], ordered=True),
    "unused levels": lambda up: pd.Categorical(np.where(up, "m", "k"), ["z", "k", "a", "m", "b"]),
    "texts of digits": lambda up: np.where(up, "1", "0"),
}


@pytest.mark.parametrize("values", TWO_LEVELS.values(), ids=TWO_LEVELS)
def test_zero_and_one(frame, values):
    frame["y"] = values(frame["up"].to_numpy())
    design = make("y", frame)
    np.testing.assert_array_equal(design.y, frame["up"])
    np.testing.assert_array_equal(design.trials, np.ones(N))
    assert design.y.dtype == design.trials.dtype == np.float64
    np.testing.assert_array_equal(design.observed, frame["up"])
    assert design.weights is None


@pytest.mark.parametrize(
    "formula",
    ['I(word == "yes")', 'word == "yes"', "I(s > f)", 'I(word %in% c("yes", "maybe"))', "!up", "factor(up)"],
)
def test_logical_expressions(frame, formula):
    expected = {"I(s > f)": frame["s"] > frame["f"], "!up": ~frame["up"]}.get(formula, frame["up"])
    np.testing.assert_array_equal(make(formula, frame).y, expected)


def test_numbers_of_two_values_as_a_factor(frame):
    frame["code"] = np.where(frame["up"], 2, 1)
    np.testing.assert_array_equal(make("factor(code)", frame).y, frame["up"])
    np.testing.assert_array_equal(make('factor(code, levels = c("2", "1"))', frame).y, ~frame["up"])


def test_the_success_level_is_remembered(frame):
    frame["c"] = pd.Categorical(frame["word"], ["yes", "no"])
    assert [make(r, frame).success for r in ("word", "c", "up", "p > 0.5")] == ["yes", "no", None, None]
    assert make("cbind(s, f)", frame).success is None
    assert build(parse("count ~ x + (1 | g)"), frame).success is None


def test_other_tables(frame):
    for table in (pl.from_pandas(frame), pl.from_pandas(frame).to_arrow(), frame.to_dict("list")):
        for response in ("up", "word", "cbind(s, f)", "cbind(s, n - s)"):
            ours, theirs = make(response, table), make(response, frame)
            np.testing.assert_array_equal(ours.y, theirs.y)
            np.testing.assert_array_equal(ours.trials, theirs.trials)
    enum = pl.from_pandas(frame).with_columns(pl.col("word").cast(pl.Enum(["yes", "no"])))
    np.testing.assert_array_equal(make("word", enum).y, ~frame["up"])
    categorical = pl.from_pandas(frame).with_columns(pl.col("word").cast(pl.Categorical))
    np.testing.assert_array_equal(make("word", categorical).y, frame["up"])


def test_counts_and_proportions_are_one_response(frame):
    spelled = [
        make("cbind(s, f)", frame),
        make("cbind(s, n - s)", frame),
        make("cbind(successes = s, failures = f)", frame),
        make("p", frame, weights="n"),
        make("s/n", frame, weights="n"),
        make("I(s / n)", frame, weights=frame["n"].to_numpy()),
        make("p", frame.astype({"p": np.float32}), weights="n"),
    ]
    for design in spelled:
        np.testing.assert_array_equal(design.y, frame["s"])
        np.testing.assert_array_equal(design.trials, frame["n"])
        np.testing.assert_allclose(design.observed, frame["p"])
        assert design.weights is None and design.weights_all is None and design.held_out is None
        assert design.y.flags.c_contiguous and design.y.flags.writeable


def test_cbind_of_a_number(frame):
    np.testing.assert_array_equal(make("cbind(up, 9)", frame).trials, 9 + frame["up"])
    np.testing.assert_array_equal(make("base::cbind(up, !up)", frame).y, frame["up"])


def test_cbind_of_a_known_data_set():
    design = build(parse("cbind(incidence, size - incidence) ~ period + (1 | herd)"), datasets.load("cbpp"),
                   family=BINOMIAL)  # fmt: skip
    assert (design.y.sum(), design.trials.sum()) == (99.0, 842.0)
    assert design.response == "cbind(incidence, size - incidence)"


@pytest.mark.parametrize("response", ["up", "word", "cbind(s, f)"])
def test_weights_of_whole_rows_stay_weights(frame, response):
    design = make(response, frame, weights="w")
    np.testing.assert_array_equal(design.weights, frame["w"])
    np.testing.assert_array_equal(design.trials, make(response, frame).trials)


def test_dot_leaves_out_both_columns_of_the_response(frame):
    data = frame[["s", "f", "x", "g"]]
    assert build(parse("cbind(s, f) ~ . + (1 | g)"), data, family=BINOMIAL).columns == ("(Intercept)", "x")


# --- rows that are missing, or do not count -----------------------------------------------------------------------


def test_missing_rows_are_dropped(frame):
    frame["word"] = pd.Categorical(frame["word"].where(frame.index != "r3"))
    frame["s"] = frame["s"].astype(float).where(frame.index != "r5")
    frame["f"] = frame["f"].astype("Int64").where(frame.index != "r7")
    for response, gone in (("word", ["r3"]), ("cbind(s, f)", ["r5", "r7"]), ("s/n", ["r5"])):
        design = make(response, frame, weights="n" if response == "s/n" else None)
        assert [r for r in frame.index if r not in design.index] == gone and design.n_missing == len(gone)
        assert len(design.y) == len(design.trials) == N - len(gone)
    table = pl.from_pandas(frame.reset_index(drop=True))
    assert make("word", table).n_missing == 1
    with says("missing values in 'word' 1"):
        make("word", frame, missing="raise")


def test_a_third_level_of_missing_rows_only(frame):
    frame.loc["r0", ["word", "x"]] = ["maybe", np.nan]
    np.testing.assert_array_equal(make("word", frame).y, frame["up"].iloc[1:])


def test_rows_of_weight_zero(frame):
    frame.loc[["r1", "r4"], "w"] = 0.0
    for response, count, trials in (("up", "up", None), ("word", "up", None), ("cbind(s, f)", "s", "n")):
        design = make(response, frame, weights="w")
        assert len(design.y) == len(design.trials) == N - 2 and len(design.y_all) == len(design.trials_all) == N
        np.testing.assert_array_equal(design.y_all, frame[count])
        np.testing.assert_array_equal(design.y, design.y_all[design.kept])
        np.testing.assert_array_equal(design.trials_all, 1.0 if trials is None else frame[trials])
        np.testing.assert_array_equal(design.trials, design.trials_all[design.kept])


def test_a_level_of_rows_of_weight_zero_only(frame):
    frame.loc["r1", ["word", "w"]] = ["maybe", 0.0]
    design = make("word", frame, weights="w")
    assert design.success == "yes" and np.isnan(design.y_all[1]) and np.isnan(design.observed[1])


def test_a_row_without_trials_counts_nowhere_and_is_fitted(frame):
    """0 of 0 says nothing, however it is spelled: such a row is treated as one of weight zero."""
    frame.loc["r4", ["s", "f", "n"]] = 0
    with np.errstate(invalid="ignore"):
        frame["p"] = frame["s"] / frame["n"]
    frame["n0"], frame["p0"] = frame["n"], frame["p"].fillna(0.25)
    for design in (
        make("cbind(s, f)", frame),
        make("cbind(s, n - s)", frame),
        make("s/n", frame, weights="n"),
        make("p0", frame, weights="n"),
    ):
        assert design.kept.tolist() == [i != 4 for i in range(N)]
        assert (design.y_all[4], design.trials_all[4]) == (0.0, 0.0) and np.isnan(design.observed[4])
        assert np.isfinite(np.delete(design.observed, 4)).all()
        assert (design.trials >= 1).all() and len(design.trials) == N - 1
        assert design.held_out is not None and design.held_out.index.tolist() == ["r4"]
        np.testing.assert_array_equal(design.held_out.X, [[1.0, frame["x"]["r4"]]])
        assert design.weights is None
    with says("no row has a trial"):
        make("cbind(s, f)", frame.assign(s=0, f=0))


def test_weights_and_rows_without_trials_together(frame):
    frame.loc["r4", ["s", "f"]] = 0
    frame.loc["r6", "w"] = 0.0
    design = make("cbind(s, f)", frame, weights="w")
    assert np.flatnonzero(~design.kept).tolist() == [4, 6]
    np.testing.assert_array_equal(design.weights, frame["w"].to_numpy()[design.kept])
    np.testing.assert_array_equal(design.weights_all, frame["w"])


# --- families without trials --------------------------------------------------------------------------------------


def test_numbers(frame):
    for response, family in (("count", POISSON), ("time", GAMMA), ("log(time)", None), ("up", POISSON)):
        design = make(response, frame, family, weights="w")
        expected = np.log(frame["time"]) if response == "log(time)" else frame[response]
        np.testing.assert_allclose(design.y, expected)
        np.testing.assert_array_equal(design.weights, frame["w"])
        assert design.trials is design.trials_all is None
        np.testing.assert_array_equal(design.observed, design.y_all)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_takes_trials_or_numbers(frame, name):
    family = families.get(name)
    if family.has_trials:
        np.testing.assert_array_equal(make("cbind(s, f)", frame, family).trials, frame["n"])
        return
    frame["inside"] = 1.0 if family.valid(np.ones(1)) else 0.5
    assert make("inside", frame, family).trials is None
    with says("'cbind(s, f)'", f"the {name} family takes {family.support}"):
        make("cbind(s, f)", frame, family)


class AtLeastOne(families.Binomial):
    """A family of a user's own, with trials and a support of its own."""

    name = "positive_binomial"
    support = "whole numbers of successes from 1"

    def valid(self, y):
        return super().valid(y) & (y > 0)


@pytest.mark.parametrize("response, weights", [("cbind(s, f)", None), ("p", "n"), ("up", None), ("word", None)])
def test_a_support_of_one_s_own_is_asked_of_counts(frame, response, weights):
    with says(f"the response '{response}' is 0 at row 'r1'", "the positive_binomial family", "successes from 1"):
        make(response, frame, AtLeastOne(), weights=weights)
    design = make(response, frame, weights=weights)
    with says("the response is 0 at row 1 (from 0)", "the positive_binomial family"):
        check_response(design, AtLeastOne(), design.y)
    with says("y is 0 at row 1 (from 0)", "the positive_binomial family"):
        arrays(design.y, AtLeastOne(), design.trials)


# --- arrays -------------------------------------------------------------------------------------------------------


def test_arrays(frame):
    design = arrays(frame["s"], BINOMIAL, frame["n"])
    np.testing.assert_array_equal(design.trials, frame["n"])
    np.testing.assert_allclose(design.observed, frame["p"])
    assert arrays(frame["up"], BINOMIAL).trials.tolist() == [1.0] * N
    assert arrays(frame["count"], POISSON, weights=frame["w"]).trials is None


def at_2(value):
    return np.where(np.arange(N) == 2, value, np.arange(N) % 2)


@pytest.mark.parametrize(
    "y, family, trials, parts",
    [
        (at_2(-1), POISSON, None, ["y is -1 at row 2", "the poisson family takes whole numbers from 0"]),
        (at_2(0), GAMMA, None, ["y is 0 at row 0 (from 0) and at 5 more", "positive numbers"]),
        (at_2(3), BINOMIAL, None, ["y is 3 at row 2", "1 trial", "trials="]),
        (at_2(3), BINOMIAL, np.full(N, 2), ["y is 3 at row 2", "2 trials"]),
        (at_2(0.5), BINOMIAL, np.full(N, 2), ["y is 0.5 at row 2", "counts of successes"]),
        (at_2(-1), BINOMIAL, np.full(N, 2), ["y is -1 at row 2", "counts of successes"]),
        (at_2(1), BINOMIAL, np.ones(5), ["trials must be one number or 12", "(5,)"]),
        (at_2(1), BINOMIAL, at_2(1.5), ["trials is", "whole numbers above 0"]),
        (at_2(1), BINOMIAL, ["a"] * N, ["trials holds text"]),
        (at_2(1), POISSON, np.ones(N), ["the poisson family has no trials"]),
        (at_2(1), None, np.ones(N), ["trials", "family"]),
    ],
)
def test_bad_arrays(y, family, trials, parts):
    with says(*parts):
        arrays(y, family, trials)


# --- another response for the same design -------------------------------------------------------------------------


def test_another_response(frame):
    frame.loc["r4", "w"] = 0.0
    design = make("cbind(s, f)", frame, weights="w")
    y = design.trials - design.y
    np.testing.assert_array_equal(check_response(design, BINOMIAL, y), y)
    assert check_response(design, BINOMIAL, y.astype(int).tolist()).dtype == np.float64
    labelled = pd.Series(y, design.index[design.kept])
    np.testing.assert_array_equal(check_response(design, BINOMIAL, labelled), y)
    np.testing.assert_array_equal(check_response(design, BINOMIAL, labelled.reset_index(drop=True)), y)
    counts = make("count", frame, POISSON)
    np.testing.assert_array_equal(check_response(counts, POISSON, np.arange(N)), np.arange(N))
    np.testing.assert_array_equal(check_response(make("time", frame, None), None, np.arange(N)), np.arange(N))


@pytest.mark.parametrize(
    "family, y, parts",
    [
        (BINOMIAL, np.ones(N), ["must have 11 values", "without the 1 of weight zero", "got shape (12,)"]),
        (BINOMIAL, ["a"] * 11, ["text or other things where numbers are due"]),
        (BINOMIAL, np.r_[np.nan, np.ones(10)], ["the response is not finite in row 0 (from 0)"]),
        (BINOMIAL, np.r_[0, 0.5, np.ones(9)], ["the response is 0.5 at row 1", "counts of successes"]),
        (BINOMIAL, np.r_[0, 0, 50, np.ones(8)], ["the response is 50 at row 2", "trials"]),
        (BINOMIAL, np.zeros(11), ["constant", "nothing to explain"]),
        (BINOMIAL, "trials", ["constant", "nothing to explain"]),
        (BINOMIAL, pd.Series(np.ones(11), index=[f"q{i}" for i in range(11)]), ["other labels", "reindex"]),
        (POISSON, np.r_[-1, np.ones(10)], ["the response is -1 at row 0", "the poisson family takes whole numbers"]),
        (POISSON, np.zeros(11), ["constant", "nothing to explain"]),
        (GAMMA, np.ones(11), ["constant", "nothing to explain"]),
        (None, np.ones(11), ["constant", "nothing to explain"]),
    ],
)
def test_another_response_that_does_not_fit(frame, family, y, parts):
    frame.loc["r4", "w"] = 0.0
    response = "cbind(s, f)" if family is BINOMIAL else "time" if family in (GAMMA, None) else "count"
    design = make(response, frame, family, weights="w")
    with says(*parts):
        check_response(design, family, design.trials if isinstance(y, str) else y)


def test_a_response_at_its_bound_for_some_rows_is_not_constant(frame):
    design = replace(make("cbind(s, f)", frame), trials=np.full(N, 2.0))
    np.testing.assert_array_equal(check_response(design, BINOMIAL, np.ones(N)), np.ones(N))
