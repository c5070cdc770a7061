"""Formulas, values, arguments and tables of which no design can be made."""

import numpy as np
import pandas as pd
import pytest
from design_frame import design_frame, make

from jaxmm.design import DataError
from jaxmm.design.checks import check_lmm


@pytest.fixture
def frame() -> pd.DataFrame:
    return design_frame()


@pytest.mark.parametrize(
    "formula, said",
    [
        ("y ~ xx + (1 | g)", "there is no column 'xx'; did you mean 'x'"),
        ("yy ~ x + (1 | g)", "there is no column 'yy', the response"),
        ("y ~ x + (1 | G)", "there is no column 'G', a grouping factor; did you mean 'g'"),
        ("y ~ log(q9) + (1 | g)", "there is no column 'q9' in 'log"),
        ("y ~ T + (1 | g)", "there is no column 'T'"),
        ("y ~ x", r"no random-effects term: add one such as \(1 \| group\).*statsmodels"),
        ("cbind(y, x) ~ z + (1 | g)", "not for a linear mixed model"),
        ("f ~ x + (1 | g)", "the response 'f' holds text.*such as 'a'"),
        (
            "y ~ log(f) + (1 | g)",
            r"log\(f\): .* holds text or categories where numbers are due \(such as 'a'\)",
        ),
        ("y ~ poly(f, 2) + (1 | g)", "holds text.*numbers are due"),
        ("y ~ I(f + 1) + (1 | g)", "f holds text"),
        ("y ~ offset(f) + (1 | g)", r"offset\(f\) holds text"),
        ("y ~ log(x) + (1 | g)", r"'log\(x\)' is NaN at row"),
        ("y ~ log(g) + (1 | h)", r"'log\(g\)' is infinite at row 0 and at 3 more"),
        ("log(x) ~ z + (1 | g)", r"'log\(x\)' is NaN at row"),
        ("y ~ I(2) + (1 | g)", "same value in every row"),
        ("y ~ poly(x, 30) + (1 | g)", "more than 30 distinct values"),
        ("y ~ poly(x, z) + (1 | g)", "the degree is a single number"),
        ("y ~ poly(x, degre = 2) + (1 | g)", r"poly takes \(x, degree, raw, simple\)"),
        ("y ~ log(poly(x, 2)) + (1 | g)", "2 columns where one is due"),
        ("y ~ scale(w) + (1 | g)", "is constant and cannot be scaled"),
        ("y ~ ns(w, 3) + (1 | g)", "the column is constant"),
        ("y ~ bs(x, 2) + (1 | g)", "df is at least 3"),
        ("y ~ x + k + (1 | g)", "'k' has the one level 'only'"),
        ("y ~ when + (1 | g)", "column 'when' holds dates or times"),
        ("y ~ poly(x, 10) + poly(z, 10) + f * h * x + (1 | g)", "X has 32 columns and the data have 24 rows"),
    ],
)
def test_bad_formula_for_the_data(frame, formula, said):
    frame["k"] = "only"
    frame["when"] = pd.date_range("2020-01-01", periods=24)
    with pytest.raises(DataError, match=f"(?s){said}"):
        make(formula, frame)


@pytest.mark.parametrize(
    "column, value, said",
    [
        ("y", np.inf, "'y' is infinite at row 'r7'"),
        ("x", -np.inf, "'x' is infinite at row 'r7'"),
        ("w", np.inf, "'w' is infinite at row 'r7'"),
        ("z", np.inf, r"'offset\(z\)' is infinite at row 'r7'"),
        ("w", -1.0, "'w' is -1 at row 'r7'.*cannot be negative"),
    ],
)
def test_bad_values(frame, column, value, said):
    frame.index = [f"r{i}" for i in range(24)]
    frame.loc["r7", column] = value
    with pytest.raises(DataError, match=said):
        make("y ~ x + offset(z) + (x | g)", frame, weights="w")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"weights": [1.0] * 23}, r"weights has shape \(23,\) and the data have 24 rows"),
        ({"weights": np.r_[np.nan, np.ones(23)]}, "'weights' is NaN at row 0"),
        ({"weights": np.r_[-1, np.ones(23)]}, "'weights' is -1 at row 0"),
        ({"weights": np.zeros(24)}, "all weights are zero"),
        ({"weights": "f"}, "column 'f' holds text"),
        ({"weights": "nope"}, "there is no column 'nope' for weights="),
        (
            {"weights": pd.Series(np.ones(24), index=np.arange(24)[::-1])},
            "index of weights is not that of the data",
        ),
        ({"offset": np.r_[np.inf, np.ones(23)]}, "'offset' is infinite at row 0"),
        ({"offset": np.r_[np.nan, np.ones(23)]}, "'offset' is NaN at row 0"),
        ({"offset": ["a"] * 24}, "offset holds text"),
        ({"contrasts": {"ff": "sum"}}, "'ff', which is no variable of the formula; it has 'f', 'x'"),
        ({"contrasts": {"f": "contr.sum"}}, "known are 'treatment', 'sum', 'helmert', 'poly'"),
        ({"contrasts": {"x": "sum"}}, r"write factor\(x\)"),
        ({"missing": "ignore"}, "'drop' or 'raise'"),
    ],
)
def test_bad_arguments(frame, arguments, said):
    with pytest.raises(DataError, match=said):
        make("y ~ x + f + (1 | g)", frame, **arguments)


@pytest.mark.parametrize(
    "data, said",
    [
        (pd.DataFrame({"y": [], "x": [], "g": []}), "the table has no rows"),
        ({}, "the table has no rows"),
        (pd.DataFrame({"y": [1.0, None], "x": [None, 1.0], "g": ["a", "b"]}),
         "no row is left after dropping missing values: missing values in 'y' 1, 'x' 1"),
        (pd.DataFrame([[1, 2, 3, 4]], columns=["y", "x", "x", "g"]), "several columns named 'x'"),
        ({"y": [1.0, 2.0], "x": [1.0], "g": [1, 2]}, "different lengths: 'y' 2, 'x' 1, 'g' 2"),
        ({"y": [1.0, 2.0], "x": 1.0, "g": [1, 2]}, "'x' of the mapping is a single value"),
        ({"y": [1.0, 2.0], "x": np.ones((2, 2)), "g": [1, 2]}, r"'x' has shape \(2, 2\)"),
        ([1, 2, 3], "not list"),
        (None, "not NoneType"),
        (pd.DataFrame({"y": [1.0, 2.0], "x": [1j, 2j], "g": [1, 2]}), "'x' holds complex numbers"),
    ],
)  # fmt: skip
def test_bad_tables(data, said):
    with pytest.raises(DataError, match=said):
        make("y ~ x + (1 | g)", data)


@pytest.mark.parametrize(
    "formula, said",
    [
        ("w ~ x + (1 | g)", r"the response 'w' is constant \(1 in every row\)"),
        ("y ~ x + (1 | one)", "the grouping factor 'one' has the one level 'k'"),
        ("y ~ x + (1 | row)", "'row' has 24 levels and the data have 24 rows"),
        (
            "y ~ x + (x + z + h | g)",
            r"the term \(\(Intercept\) \+ x \+ z \+ hv \| g\) has 6 levels × 4 effects = 24",
        ),
    ],
)
def test_what_a_linear_mixed_model_needs(frame, formula, said):
    frame["one"], frame["row"] = "k", np.arange(24)
    design = make(formula, frame)
    with pytest.raises(DataError, match=said):
        check_lmm(design)


def test_uncorrelated_effects_are_counted_one_by_one(frame):
    check_lmm(make("y ~ x + (x + z + h || g)", frame))
