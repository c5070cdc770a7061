"""Bad input, as a user meets it: each message names the column or argument, the value and the remedy."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import says
from pupils import N, pupils

import jaxmm as mm
from jaxmm import DataError, FormulaError


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return pupils()


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
        ("text ~ x + (1 | school)", {}, ["the response 'text' holds text", "such as 'n/a'", "pandas.to_numeric"]),
        (
            "score ~ log(text) + (1 | school)",
            {},
            ["log(text)", "numbers are due", "such as 'n/a'", "pandas.to_numeric"],
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


def test_many_aliased_columns_are_counted(data):
    again = data.assign(f2=data["school"], f3=data["school"])
    with pytest.warns(UserWarning, match=r"dropped f3\S+, .*, \.\.\. \(11 in all\), a combination"):
        found = mm.lmm("score ~ f2 + f3 + (1 | f)", again)
    assert len(found.dropped) == 11 and "(11 in all)" in str(found.summary())


def test_a_family_for_a_linear_model_by_position(data):
    with says(TypeError, "lmm() takes formula, data by position", "use glmm(formula, data, family)", "accepted: "):
        mm.lmm("score ~ x + (1 | school)", data, "poisson")
    with says(TypeError, "lmm() takes formula, data by position and all else by name\n"):
        mm.lmm("score ~ x + (1 | school)", data, False)


@pytest.mark.parametrize(
    "formula", ["score ~ my x + (1 | school)", "score ~ x + (1 | my x)", "my x ~ t + (1 | school)", "score ~ log(my x)"]
)
def test_a_column_with_a_blank_in_its_name(data, formula):
    with says(FormulaError, "put between backticks: `my x`"):
        mm.lmm(formula, data)


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
    with says(FormulaError, "around it may stand a structure", "us, diag"):
        mm.lmm("score ~ x + spatial(0 + f | school)", data)


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
        ({"contrasts": "sum"}, ["contrasts must be a mapping such as {'column': 'sum'}"]),
        ({"missing": "ignore"}, ["missing must be 'drop' or 'raise', not 'ignore'"]),
    ],
)
def test_bad_arguments(data, arguments, parts):
    with says(DataError, *parts):
        mm.lmm("score ~ x + f + (1 | school)", data, **arguments)


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
