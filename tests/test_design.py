"""Terms + a table -> Design: R's matrices, grouping codes, missing values, new rows."""

import json
import pickle
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from design_frame import design_frame, make

from jaxmm.design import DataError, Design

REFERENCE = json.loads((Path(__file__).parent / "reference" / "model_matrices.json").read_text())


def reference_frame(columns) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    frame["f"] = pd.Categorical(frame["f"], ["r", "q", "s"])
    frame["o"] = pd.Categorical(frame["o"], ["lo", "mid", "hi", "top", "xx"], ordered=True)
    frame["y"], frame["g"] = np.arange(len(frame)) % 7.0, np.arange(len(frame)) % 4
    return frame


def listed(values):
    return values if isinstance(values, list) else [values]


@pytest.fixture
def frame() -> pd.DataFrame:
    return design_frame()


# --- the model matrix -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: c["formula"] + str(c.get("contrasts", "")))
def test_matrix_is_r_s(case):
    data, new = reference_frame(REFERENCE["data"]), reference_frame(REFERENCE["new"])
    design = make(f"y {case['formula']} + (1 | g)", data, contrasts=case.get("contrasts"))
    names, dropped = listed(case["names"]), listed(case["dropped"])
    keep = [i for i, name in enumerate(names) if name not in dropped]
    assert list(design.columns) == [names[i] for i in keep]
    assert list(design.dropped) == dropped
    np.testing.assert_allclose(design.X, np.reshape(case["X"], (len(data), -1))[:, keep], rtol=1e-10, atol=1e-10)
    if case.get("new"):
        expected = np.reshape(case["new"], (len(new), -1))[:, keep]
        np.testing.assert_allclose(design.evaluate(new).X, expected, rtol=1e-9, atol=1e-9)


def test_random_effects_use_the_same_machinery(frame):
    design = make("y ~ 1 + (f | g) + (0 + f | g) + (x * h || g) + (poly(x, 2) | h)", frame)
    effects = [t.effects for t in design.terms]
    assert effects[:2] == [("(Intercept)", "fb", "fc"), ("fa", "fb", "fc")]
    assert effects[2] == ("(Intercept)", "x", "hv", "x:hv")
    assert effects[3] == ("(Intercept)", "poly(x, 2)1", "poly(x, 2)2")
    assert [t.covariance.name for t in design.terms] == ["us", "us", "diag", "us"]
    assert [t.factor for t in design.terms] == [0, 0, 0, 1]
    assert [f.name for f in design.factors] == ["g", "h"]
    assert design.terms[1].Z.sum(axis=1).tolist() == [1.0] * 24


def test_no_fixed_column_at_all(frame):
    assert make("y ~ 0 + (1 | g)", frame).X.shape == (24, 0)


def test_dot_leaves_out_response_groups_weights_and_offsets(frame):
    design = make("y ~ . + offset(log(z)) + (1 | g)", frame, weights="w")
    assert design.columns == ("(Intercept)", "x", "fb", "fc", "hv")
    assert make("log(z) ~ . - f + (1 | g:h)", frame, offset="w").columns == ("(Intercept)", "y", "x")


def test_dot_with_awkward_names():
    data = {"y": [1.0, 2, 4, 3, 5, 6], "a b": [1.0, 2, 1, 2, 2, 1], "g": list("aabbcc")}
    assert make("y ~ . + (1 | g)", data).columns == ("(Intercept)", "`a b`")


def test_text_is_sorted_by_code_point_and_categories_keep_their_order(frame):
    frame["t"] = np.tile(["b", "B", "a", "10"], 6)
    frame["c"] = pd.Categorical(np.repeat(["m", "k"], 12), ["z", "m", "k"])
    assert make("y ~ t + c + (1 | g)", frame).columns == ("(Intercept)", "tB", "ta", "tb", "ck")


def test_rank_is_judged_as_r_does(frame):
    frame["x2"] = 2 * frame["x"]
    frame["near"] = frame["x"] + 1e-9 * frame["z"]
    frame["far"] = frame["x"] + 1e-5 * frame["z"]
    frame["year"] = 2000.0 + frame["g"]
    design = make("y ~ x + x2 + near + far + year + (1 | g)", frame)
    assert design.columns == ("(Intercept)", "x", "far", "year")
    assert design.dropped == ("x2", "near")


# --- grouping -------------------------------------------------------------------------------------


def test_nested_groups_hold_the_observed_pairs_only():
    data = {"y": np.arange(6.0), "a": list("xxyyxx"), "b": [2, 2, 10, 1, 2, 3]}
    design = make("y ~ 1 + (1 | a/b)", data)
    assert [f.name for f in design.factors] == ["b:a", "a"]
    assert design.factors[0].levels.tolist() == ["1:y", "2:x", "3:x", "10:y"]
    assert design.factors[0].codes.tolist() == [1, 1, 3, 0, 1, 2]
    assert design.factors[0].codes.dtype == np.int32
    three = make("y ~ 1 + (1 | c/a/b)", {**data, "c": list("kkkkll")})
    assert [f.name for f in three.factors] == ["b:(a:c)", "a:c", "c"]
    assert three.factors[0].levels.tolist() == ["1:y:k", "2:x:k", "2:x:l", "3:x:l", "10:y:k"]


@pytest.mark.parametrize(
    "values, levels",
    [
        ([3, 1, 10, 1], ["1", "3", "10"]),
        ([2.0, 1.5, 2.0, 0.1 + 0.2], ["0.3", "1.5", "2"]),
        (["3", "1", "10", "1"], ["1", "10", "3"]),
        ([True, False, True, True], ["FALSE", "TRUE"]),
        ([2**60 + 1, 2**60, 2**60 + 1, 5], ["5", str(2**60), str(2**60 + 1)]),
        (pd.Categorical(["p", "q", "p", "p"], ["q", "x", "p"]), ["q", "p"]),
        (pd.array([2**60 + 1, 2**60, 5, 5], dtype="Int64"), ["5", str(2**60), str(2**60 + 1)]),
        (
            pd.to_datetime(["2020-01-02", "2020-01-01", "2020-01-02", "2020-01-01"]),
            ["2020-01-01", "2020-01-02"],
        ),
    ],
)
def test_levels_print_as_in_r(values, levels):
    design = make("y ~ 1 + (1 | g)", pd.DataFrame({"y": [1.0, 2, 3, 4], "g": values}))
    assert design.factors[0].levels.tolist() == levels


def test_levels_unused_after_dropping_rows_are_gone(frame):
    frame["f"] = pd.Categorical(frame["f"], ["zz", "c", "b", "a"])
    frame.loc[frame["f"] == "c", "x"] = np.nan
    frame.loc[frame["g"] == 2, "w"] = 0.0
    design = make("y ~ x + f + (f | g)", frame, weights="w")
    assert design.columns == ("(Intercept)", "x", "fa")
    assert design.terms[0].effects == ("(Intercept)", "fa")
    assert design.factors[0].levels.tolist() == ["0", "1", "3", "4", "5"]


# --- tables ---------------------------------------------------------------------------------------


def same(a: Design, b: Design) -> None:
    assert (a.columns, [f.levels.tolist() for f in a.factors]) == (
        b.columns,
        [f.levels.tolist() for f in b.factors],
    )
    np.testing.assert_array_equal(a.X, b.X)
    np.testing.assert_array_equal(a.y, b.y)
    for s, t in zip(a.factors, b.factors, strict=True):
        np.testing.assert_array_equal(s.codes, t.codes)


@pytest.mark.parametrize(
    "convert",
    [
        pl.from_pandas,
        lambda d: pl.from_pandas(d).to_arrow(),
        lambda d: {c: d[c].to_numpy() for c in d},
        lambda d: {c: d[c].tolist() for c in d},
        lambda d: {c: pl.from_pandas(d)[c] for c in d},
        lambda d: d.convert_dtypes(),
        lambda d: d.astype(object),
        lambda d: d.set_index(np.arange(100, 124)),
        lambda d: pl.from_pandas(d).with_columns(pl.col("f", "h").cast(pl.Categorical)),
        lambda d: pl.from_pandas(d).with_columns(pl.col("f").cast(pl.Enum(["a", "b", "c"]))),
        lambda d: pa.table({c: pa.array(d[c]).dictionary_encode() if c in "fh" else pa.array(d[c])
                            for c in d}),
    ],
)  # fmt: skip
def test_every_kind_of_table(frame, convert):
    formula = "y ~ x + f + (x | g) + (1 | g:h)"
    same(make(formula, convert(frame)), make(formula, frame))


def test_order_of_polars_enum_and_arrow_dictionary():
    values = ["lo", "hi", "hi", "lo", "lo", "hi"]
    base = {"y": [1.0, 2, 3, 5, 4, 9], "g": [1, 1, 2, 2, 3, 3]}
    enum = pl.DataFrame({**base, "d": values}, schema_overrides={"d": pl.Enum(["lo", "hi"])})
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1, 0, 0, 1]), pa.array(["lo", "hi"]))
    for table in (enum, pa.table({**base, "d": dictionary})):
        assert make("y ~ d + (1 | g)", table).columns == ("(Intercept)", "dhi")


def test_missing_values_in_other_tables():
    columns = {"y": [1.0, 2, None, 4, 5, 6], "k": [1, None, 3, 4, 5, 7], "g": ["a", "a", "b", "b", None, "c"]}
    for table in (pl.DataFrame(columns), pl.DataFrame(columns).to_arrow(), columns, pd.DataFrame(columns)):
        design = make("y ~ k + (1 | g)", table)
        assert (design.n_missing, design.index.tolist()) == (3, [0, 3, 5])
        assert design.X[:, 1].tolist() == [1.0, 4.0, 7.0]


# --- missing values, weights, offsets -------------------------------------------------------------


def test_only_the_model_s_columns_count(frame):
    frame["extra"] = np.nan
    frame.index = [f"r{i}" for i in range(24)]
    frame.loc["r3", "x"] = np.nan
    frame.loc["r5", "y"] = np.nan
    design = make("y ~ x + (1 | g)", frame)
    assert (design.n_missing, len(design.y), len(design.index)) == (2, 22, 22)
    assert design.index[:4].tolist() == ["r0", "r1", "r2", "r4"]
    with pytest.raises(DataError, match="'y' 1, 'x' 1; missing='drop'"):
        make("y ~ x + (1 | g)", frame, missing="raise")


def test_a_row_of_weight_zero_is_held_out(frame):
    frame["w"] = np.where(frame["g"] == 5, 0.0, 2.0)
    frame.loc[frame["g"] == 5, "f"] = "only here"
    frame.loc[0, "w"] = 0.0
    design = make("y ~ x + f + offset(z) + (x | g)", frame, weights="w")
    without = make("y ~ x + f + offset(z) + (x | g)", frame[frame["w"] > 0])
    same(design, without)
    assert design.weights is not None and design.weights.tolist() == [2.0] * 19
    assert design.kept.sum() == 19 and len(design.index) == 24 and len(design.y_all) == 24
    np.testing.assert_array_equal(design.y_all, frame["y"])
    held = design.held_out
    assert held is not None and held.index.tolist() == [0, 20, 21, 22, 23]
    assert held.codes[0].tolist() == [0, 5, 5, 5, 5]  # one unseen level
    assert np.isnan(held.X[1:]).any(axis=1).all() and np.isfinite(held.X[0]).all()
    np.testing.assert_array_equal(held.Z[0][:, 1], frame["x"].iloc[[0, 20, 21, 22, 23]])
    np.testing.assert_array_equal(held.offset, frame["z"].iloc[[0, 20, 21, 22, 23]])
    assert without.held_out is None


def test_a_missing_weight_drops_the_row(frame):
    frame.loc[2, "w"] = np.nan
    assert make("y ~ x + (1 | g)", frame, weights="w").n_missing == 1


def test_offsets_add_up(frame):
    design = make("y ~ x + offset(z) + offset(log(z)) + (1 | g)", frame, offset="w")
    np.testing.assert_allclose(design.offset, frame["z"] + np.log(frame["z"]) + 1)
    array = make("y ~ x + (1 | g)", frame, offset=np.arange(24.0))
    np.testing.assert_array_equal(array.offset, np.arange(24.0))
    assert make("y ~ x + (1 | g)", frame).offset is None


# --- new rows -------------------------------------------------------------------------------------


def test_new_rows(frame):
    design = make("y ~ x + f + offset(log(z)) + (1 + x | g) + (1 | h/g)", frame)
    new = pd.DataFrame({"x": [1.0, np.nan, 2.0, 3.0], "f": ["a", "b", None, "c"], "g": [5, 0, 1, 77],
                        "h": list("uvuv"), "z": [1.0, 1, 1, np.e]}, index=list("ABCD"))  # fmt: skip
    found = design.evaluate(new)
    assert np.isnan(found.X).any(axis=1).tolist() == [False, True, True, False]
    np.testing.assert_array_equal(found.X[[0, 3]], [[1, 1, 0, 0], [1, 3, 0, 1]])
    assert found.codes[0].tolist() == [5, 0, 1, len(design.factors[0].levels)]
    assert design.factors[1].levels[found.codes[1][0]] == "5:u"
    assert found.new_levels == {"g": ["77"], "g:h": ["77:v"]}
    np.testing.assert_allclose(found.offset, [0, 0, 0, 1])
    assert found.index.tolist() == list("ABCD")


def test_groups_that_are_not_needed(frame):
    design = make("y ~ x + (z | g) + (1 | h)", frame)
    found = design.evaluate({"x": [1.0, 2.0]}, need_groups=False)
    assert [c.tolist() for c in found.codes] == [[-1, -1], [-1, -1]]
    assert found.Z[0].tolist() == [[0, 0], [0, 0]]
    found = design.evaluate({"x": [1.0, 2.0], "h": ["v", None]}, need_groups=["h"])
    assert found.codes[1].tolist() == [1, -1] and np.isnan(found.X[1]).all()
    with pytest.raises(DataError, match="no grouping factor 'k'"):
        design.evaluate({"x": [1.0]}, need_groups=["k"])


def test_numbers_and_texts_that_print_alike_are_one_level(frame):
    design = make("y ~ x + factor(g) + (1 | h)", frame)
    found = design.evaluate({"x": [1.0, 1.0], "g": [2, 0], "h": ["u", "u"]})
    assert found.X[:, 3].tolist() == [1.0, 0.0]
    grouped = make("y ~ x + (1 | g)", frame)
    assert grouped.evaluate({"x": [1.0, 1.0], "g": ["2", "9"]}).codes[0].tolist() == [
        2,
        len(grouped.factors[0].levels),
    ]


def test_statistics_inside_are_remembered(frame):
    design = make("y ~ I(x - mean(x)) + I(z / sd(z)) + I((x - min(x)) / (max(x) - median(x))) + (1 | g)", frame)
    part = design.evaluate(frame.iloc[:3])
    np.testing.assert_allclose(part.X, design.X[:3])


@pytest.mark.parametrize(
    "new, said",
    [
        ({"f": ["a"], "g": [1]}, "there is no column 'x' in the new data"),
        ({"x": [1.0], "g": [1]}, "there is no column 'f' in the new data"),
        ({"x": [1.0], "f": ["a"]}, "there is no column 'g' in the new data, .*: re='population' leaves them out"),
        (
            {"x": [1.0], "f": ["q"], "g": [1]},
            "'f' holds 'q', which the fit has not seen; its levels are 'a', 'b', 'c'",
        ),
        ({"x": ["one"], "f": ["a"], "g": [1]}, "'x'.*numbers are due"),
    ],
)
def test_bad_new_rows(frame, new, said):
    with pytest.raises(DataError, match=said):
        make("y ~ x + f + (1 | g)", frame).evaluate(new)


def test_offset_of_new_rows(frame):
    new = {"x": [1.0, 2.0], "g": [1, 1], "w": [3.0, 4.0]}
    by_column = make("y ~ x + (1 | g)", frame, offset="w")
    assert by_column.evaluate(new).offset.tolist() == [3.0, 4.0]
    assert by_column.evaluate(new, offset=[5.0, 6.0]).offset.tolist() == [5.0, 6.0]
    by_array = make("y ~ x + (1 | g)", frame, offset=np.zeros(24))
    assert by_array.evaluate(new, offset=2).offset.tolist() == [2.0, 2.0]
    with pytest.raises(DataError, match="pass offset= for the new rows"):
        by_array.evaluate(new)


# --- the object -----------------------------------------------------------------------------------


def test_a_logical_response_counts_zero_and_one(frame):
    frame["up"] = frame["y"] > 0
    assert set(make("up ~ x + (1 | g)", frame).y) == {0.0, 1.0}


def test_a_design_can_be_pickled(frame):
    design = make("y ~ poly(x, 2) * f + (x | g/h)", frame)
    again = pickle.loads(pickle.dumps(design))
    np.testing.assert_array_equal(again.evaluate(frame).X, design.X)


def test_no_new_row_at_all(frame):
    found = make("y ~ ns(x, 3) + f + (x | g/h)", frame).evaluate(frame.iloc[:0])
    assert found.X.shape == (0, 6) and [c.shape for c in found.codes] == [(0,), (0,)]


@pytest.mark.slow
def test_two_million_rows_in_a_second_and_a_half():
    rng = np.random.default_rng(0)
    n = 2_000_000
    data = pd.DataFrame(rng.normal(size=(n, 5)), columns=["y", "a", "b", "c", "d"])
    data["g"] = rng.integers(0, 20_000, n)
    start = time.perf_counter()
    design = make("y ~ a + b + c + d + (a | g)", data)
    assert time.perf_counter() - start < 1.5
    assert design.X.shape == (n, 5) and len(design.factors[0].levels) == 20_000


def test_the_data_are_not_changed(frame):
    before = frame.copy()
    design = make("y ~ x + (1 | g)", frame)
    design.y[:] = 0
    design.X[:] = 0
    pd.testing.assert_frame_equal(frame, before)
