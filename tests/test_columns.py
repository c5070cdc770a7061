"""Columns of numbers that lose nothing, and those of which something has to be said."""

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from design_frame import make

import jaxmm as mm
from jaxmm.design.columns import Table

FIRST = 2**53
SMALL, LARGE, HUGE = (
    [FIRST + 1, FIRST + 2, None, FIRST + 3, FIRST],
    [2**63 + 1, 2**63 + 2, None],
    [2**70 + 1, 2**70 + 2, None],
)


def series(values, dtype=object):
    return pd.DataFrame({"g": pd.Series(values, dtype=dtype)})


WAYS = {
    "list": lambda v: {"g": v},
    "tuple": lambda v: {"g": tuple(v)},
    "list with nan": lambda v: {"g": [np.nan if x is None else x for x in v]},
    "list with NA": lambda v: {"g": [pd.NA if x is None else x for x in v]},
    "array of objects": lambda v: {"g": np.array(v, dtype=object)},
    "pandas objects": series,
    "with a fraction": lambda v: {"g": [*v, 0.5]},
    "objects with a fraction": lambda v: series([*v, 0.5]),
    "decimals": lambda v: series([None if x is None else Decimal(x) for x in v]),
    "polars decimals": lambda v: pl.DataFrame({"g": [None if x is None else Decimal(x) for x in v]}),
    "arrow decimals": lambda v: pa.table({"g": [None if x is None else Decimal(x) for x in v]}),
    "pandas arrow decimals": lambda v: series(
        pd.array([None if x is None else Decimal(x) for x in v], dtype=pd.ArrowDtype(pa.decimal128(30))), dtype=None
    ),
    "polars": lambda v: pl.DataFrame({"g": v}, schema={"g": pl.Int128}),
    "category": lambda v: series(v).astype("category"),
}
SIGNED = {
    "Int64": lambda v: series(v, "Int64"),
    "int64[pyarrow]": lambda v: series(v, "int64[pyarrow]"),
    "polars Int64": lambda v: pl.DataFrame({"g": v}, schema={"g": pl.Int64}),
    "arrow": lambda v: pa.table({"g": pa.array(v, pa.int64())}),
    "mapping of arrow": lambda v: {"g": pa.array(v, pa.int64())},
}
UNSIGNED = {
    "UInt64": lambda v: series(v, "UInt64"),
    "uint64[pyarrow]": lambda v: series(v, "uint64[pyarrow]"),
    "polars UInt64": lambda v: pl.DataFrame({"g": v}, schema={"g": pl.UInt64}),
    "arrow uint64": lambda v: pa.table({"g": pa.array(v, pa.uint64())}),
}
CASES = [(n, w, v) for n, w in WAYS.items() for v in (SMALL, LARGE, HUGE)]
CASES += [(n, w, SMALL) for n, w in SIGNED.items()] + [(n, w, v) for n, w in UNSIGNED.items() for v in (SMALL, LARGE)]


@pytest.mark.parametrize(("name", "way", "values"), CASES)
def test_whole_numbers_of_any_size_are_levels_exactly(name, way, values):
    levels = Table(way(values)).column("g").levels
    found = [None if c < 0 else str(levels.labels[c]) for c in levels.codes[: len(values)]]
    assert found == [None if v is None else str(v) for v in values]
    assert [str(v) for v in levels.labels if v != "0.5"] == [str(v) for v in sorted(v for v in values if v is not None)]


def test_numbers_of_such_a_column():
    for values in (SMALL, LARGE, HUGE):
        column = Table({"g": values}).column("g")
        np.testing.assert_array_equal(column.numbers, np.array([np.nan if v is None else float(v) for v in values]))


def table_of_ids(**more) -> pd.DataFrame:
    ids = np.array([FIRST + k for k in range(8) for _ in range(6)], dtype=object)
    rng = np.random.default_rng(0)
    d = pd.DataFrame({"id": ids, "y": rng.normal(size=48), "x": rng.normal(size=48), **more})
    d.loc[5, "id"] = None
    return d


@pytest.mark.parametrize("formula", ["y ~ x + (1 | id)", "y ~ x + (1 | factor(id))"])
def test_a_grouping_factor_of_large_numbers(formula):
    design = make(formula, table_of_ids())
    assert design.factors[0].levels.tolist() == [str(FIRST + k) for k in range(8)] and len(design.y) == 47
    new = design.evaluate({"id": [FIRST + 3, FIRST + 9], "x": [0.0, 0.0]})
    assert new.codes[0].tolist() == [3, 8] and list(new.new_levels.values()) == [[str(FIRST + 9)]]


@pytest.mark.parametrize("call", ["factor", "as.factor", "ordered"])
def test_a_factor_of_large_numbers(call):
    design = make(f"y ~ 0 + {call}(id) + (1 | g)", table_of_ids(g=np.arange(48) % 5))
    assert design.X.shape == (47, 8) and np.linalg.matrix_rank(design.X) == 8
    if call == "factor":
        assert list(design.columns) == [f"factor(id){FIRST + k}" for k in range(8)]
        np.testing.assert_array_equal(design.evaluate({"id": [FIRST + 1], "g": [0]}).X, np.eye(8)[[1]])


def test_floating_point_keeps_what_it_can():
    """Below 2^53 every whole number."""
    labels = Table({"g": np.array([1e15 + 1, 1e15 + 2, np.nan])}).column("g").levels.labels
    assert labels.tolist() == ["1000000000000001", "1000000000000002"]


def test_levels_that_floating_point_has_merged_are_remarked_on():
    d = table_of_ids()
    d["f"] = d["id"].astype(float)
    for formula in ("y ~ x + (1 | f)", "y ~ x + (1 | f:id)", "y ~ factor(f) + (1 | id)"):
        (remark,) = make(formula, d).remarks
        assert "'f' gives levels, and holds floating-point numbers of 9.01e+15" in remark and "as integers" in remark
    assert make("y ~ f + (1 | id)", d).remarks == make("y ~ x + (1 | id)", d).remarks == ()


# ---------------------------------------------------------------- a stray text
def with_strays(*strays, n=60, column=None) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    x = np.round(rng.normal(size=n), 2).astype(object) if column is None else np.array(column, dtype=object)
    x[: len(strays)] = strays
    return pd.DataFrame({"x": x, "y": rng.normal(size=n), "g": np.arange(n) % 6, "z": rng.normal(size=n)})


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", "y ~ z + x:z + (1 | g)", "y ~ z + (0 + x | g)"])
def test_a_stray_text_among_numbers(formula, as_text):
    """As a reader of CSV leaves it: texts all, or numbers and a text."""
    d = with_strays("n/a", "13,5", "n/a", column=np.round(np.arange(60) % 20 / 7, 2))
    if as_text:
        d["x"] = d["x"].astype(str)
    (remark,) = make(formula, d).remarks
    assert "'x' is taken for a factor of 22 levels: '13,5', 'n/a' (in 3 rows) is no number" in remark
    assert "pandas.to_numeric(..., errors='coerce')" in remark and "write factor(x)" in remark


def test_the_remark_is_a_warning_and_stays_with_the_fit():
    d = with_strays("?", column=np.arange(60) % 4)
    with pytest.warns(UserWarning, match=r"'x' is taken for a factor of 5 levels: '\?' \(in 1 row\)"):
        fit = mm.lmm("y ~ x + (1 | g)", d)
    assert len(fit.remarks) == 1 and fit.remarks[0] in str(fit)


@pytest.mark.parametrize(
    ("formula", "column", "arguments"),
    [
        ("y ~ factor(x) + (1 | g)", None, {}),
        ("y ~ as.factor(x) + (1 | g)", None, {}),
        ("y ~ x + (1 | g)", None, {"contrasts": {"x": "sum"}}),
        ("y ~ z + (1 | x)", None, {}),
        ("y ~ x + (1 | g)", ["a", "b", "n/a"] * 20, {}),
        ("y ~ x + (1 | g)", ["0", "10", "20", "control"] * 15, {}),
        ("y ~ x + (1 | g)", ["1", "2", "10"] * 20, {}),
        ("y ~ x + (1 | g)", ["1", None, "2"] * 20, {}),
    ],
)
def test_levels_that_are_meant_are_not_remarked_on(formula, column, arguments):
    d = with_strays("n/a", column=np.arange(60) % 5) if column is None else with_strays(column=column)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(formula, d, **arguments).remarks == ()


def test_a_categorical_is_meant():
    d = with_strays("n/a", column=np.arange(60) % 5)
    assert make("y ~ x + (1 | g)", d.astype({"x": str}).astype({"x": "category"})).remarks == ()


def of_texts(*labels):
    n = 60
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"x": np.resize(labels, n), "y": rng.normal(size=n), "g": np.resize(["s1", "s2", "s3", "s4", "s5"], n)}
    )


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("word", "word ", "other"), "'x' has levels that differ in blanks or capitals alone: 'word', 'word '; "),
        (("Forest", "forest", "FOREST", "a  b", "a b"), "'FOREST', 'Forest', 'forest' and 1 more such; "),
        (
            ("01/03/2024", "02/03/2024", "15/03/2024"),
            "'x' is text (such as '01/03/2024') and is taken for a factor of 3",
        ),
        (("2024-03-01", "2024-03-02 12:00"), "pandas.to_datetime(data['x'])"),
        (("1,5", "2,5", "3"), "decimal=','"),
    ],
)
def test_texts_that_are_not_what_they_look_like(labels, said):
    (remark,) = make("y ~ x + (1 | g)", of_texts(*labels)).remarks
    assert said in remark


@pytest.mark.parametrize("labels", [("AA", "Aa", "aa"), ("low", "high"), ("1.5.2", "1.5.3 b"), ("a,b", "c")])
def test_texts_that_are_levels(labels):
    assert make("y ~ x + (1 | g)", of_texts(*labels)).remarks == ()


def test_blanks_in_a_grouping_factor_and_in_categories():
    d = of_texts("low", "high")
    d.loc[3, "g"] = "s4 "
    assert "'g' has levels that differ in blanks" in make("y ~ x + (1 | g)", d).remarks[0]
    d = of_texts("even", "even ", "odd")
    assert make("y ~ factor(x) + (1 | g)", d.assign(x=d["x"].astype("category"))).remarks
    assert not make("y ~ x + (1 | g)", d[d["x"] != "even "].assign(x=lambda t: t["x"].astype("category"))).remarks


def test_the_text_shown_where_numbers_are_due_is_no_number():
    d = of_texts("1.5", "-999", "timeout").rename(columns={"x": "y", "y": "x"})
    with pytest.raises(mm.DataError, match="such as 'timeout'"):
        make("y ~ x + (1 | g)", d)
