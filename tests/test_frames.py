"""Tables of results in the library that is asked for: the same columns and numbers, the index as a column."""

import builtins

import numpy as np
import pandas as pd
import pytest

from jaxmm.frames import as_backend

pl = pytest.importorskip("polars")


def test_pandas_is_left_alone():
    frame = pd.DataFrame({"x": [1.0]}, index=["a"])
    assert as_backend(frame, "pandas") is frame


def test_columns_keep_their_types_and_what_is_missing():
    frame = pd.DataFrame(
        {
            "n": [1, 2],
            "x": [0.5, np.nan],
            "yes": [True, False],
            "text": ["u", None],
            "level": pd.Categorical(["b", "a"], ["b", "a", "c"]),
            3: [1.0, 2.0],
        }
    )
    out = as_backend(frame, "polars")
    assert out.schema == {
        "n": pl.Int64, "x": pl.Float64, "yes": pl.Boolean, "text": pl.String, "level": pl.Enum(["b", "a", "c"]),
        "3": pl.Float64,
    }  # fmt: skip
    assert out["text"].to_list() == ["u", None] and out["level"].to_list() == ["b", "a"]
    assert np.isnan(out["x"][1]) and out["x"].null_count() == 0


@pytest.mark.parametrize(
    ("index", "names"),
    [
        (pd.RangeIndex(2), ["x"]),
        (pd.Index(["a", "b"]), ["term", "x"]),
        (pd.Index(["a", "b"], name="level"), ["level", "x"]),
        (pd.Index(["a", "b"], name="x"), ["x_", "x"]),
        (pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["g", None]), ["g", "term1", "x"]),
    ],
)
def test_an_index_is_a_column_unless_it_counts(index, names):
    out = as_backend(pd.DataFrame({"x": [1.0, 2.0]}, index), "polars", "term")
    assert out.columns == names and out["x"].to_list() == [1.0, 2.0]


def test_other_names_and_a_library_that_is_not_there(monkeypatch):
    with pytest.raises(ValueError, match="backend must be one of 'pandas', 'polars', not 'arrow'"):
        as_backend(pd.DataFrame(), "arrow")
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "polars":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jaxmm\[polars\]'"):
        as_backend(pd.DataFrame(), "polars")


TABLES = {
    "tidy": lambda fit, **b: fit.tidy(**b),
    "glance": lambda fit, **b: fit.glance(**b),
    "augment": lambda fit, **b: fit.augment(**b),
    "coef_table": lambda fit, **b: fit.coef_table("residual", **b),
    "confint": lambda fit, **b: fit.confint(ddf="residual", **b),
    "anova": lambda fit, **b: fit.anova(ddf="residual", **b),
    "joint_tests": lambda fit, **b: fit.joint_tests(ddf="residual", **b),
    "re_pca": lambda fit, **b: fit.re_pca().to_frame(**b),
    "varcorr": lambda fit, **b: fit.varcorr().to_frame(**b),
    "ranef": lambda fit, **b: fit.ranef().to_frame(**b),
    "shrinkage": lambda fit, **b: fit.shrinkage().to_frame(**b),
    "emmeans": lambda fit, **b: fit.emmeans("Days", at={"Days": [0, 9]}, ddf="residual").to_frame(**b),
    "contrasts": lambda fit, **b: (
        fit.emmeans("Days", at={"Days": [0, 9]}, ddf="residual").contrasts("consec", adjust="none").to_frame(**b)
    ),
}


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_of_a_fit(sleep_reml, table):
    expected, out = TABLES[table](sleep_reml), TABLES[table](sleep_reml, backend="polars")
    assert isinstance(expected, pd.DataFrame) and isinstance(out, pl.DataFrame) and len(out) == len(expected)
    assert out.columns[-expected.shape[1] :] == [str(c) for c in expected.columns]
    for name in expected.select_dtypes("number"):
        np.testing.assert_array_equal(out[name].to_numpy(), expected[name].to_numpy(), err_msg=name)


def test_coefficients_are_named_in_a_column(sleep_reml):
    assert sleep_reml.coef_table("residual", backend="polars")["term"].to_list() == ["(Intercept)", "Days"]
    with pytest.raises(ValueError, match="not 'Polars'"):
        sleep_reml.tidy(backend="Polars")
