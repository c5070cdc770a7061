"""What a fit says of itself beyond its numbers, and what it refuses to take in silence."""

import jax
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(30), 10), rng.normal(size=300)
    y = 1 + x + rng.normal(size=30)[g] + rng.normal(size=300)
    return pd.DataFrame({"y": y, "x": x, "g": g, "w": np.tile([100.0, 0.01], 150), "three": 3.0, "zero": 0.0})


@pytest.fixture(scope="module")
def weighted(table):
    return mm.lmm("y ~ x + (1 | g)", table, weights="w")


def test_an_ordinary_fit_has_no_remarks(sleep_reml):
    assert sleep_reml.remarks == []


@pytest.mark.parametrize("formula", ["y ~ factor(g) + (1 | g)", "y ~ x + (three | g)"])
def test_variances_that_the_data_do_not_identify(table, formula):
    fit = mm.lmm(formula, table)
    assert any("flat in some direction" in r for r in fit.remarks)
    assert "flat in some direction" in str(fit.summary())


def test_a_slope_of_zeros_is_refused(table):
    with pytest.raises(mm.DataError, match=r"'zero' .* is zero in every row.*leave it out"):
        mm.lmm("y ~ x + (zero | g)", table)


def test_a_response_without_residuals(table):
    """Made of its levels; one that is made of the fixed effects is refused."""
    fit = mm.lmm("y ~ x + (1 | g)", table.assign(y=1.0 * (table.g % 7) - 0.1 * table.g))
    assert any("almost exactly" in r for r in fit.remarks)
    assert "almost exactly" in str(fit.summary())


def test_new_rows_are_simulated_with_their_weights(table, weighted):
    key = jax.random.key(1)
    with pytest.raises(mm.DataError, match="the fit had weights: pass weights="):
        weighted.simulate(2, key=key, newdata=table)
    draws = weighted.simulate(4000, key=key, newdata=table[:2], re="conditional", weights="w")
    expected = weighted.scale / table["w"][:2]
    np.testing.assert_allclose(draws.var(axis=0), expected, rtol=5 * np.sqrt(2 / 4000))
    with pytest.raises(mm.DataError, match="positive"):
        weighted.simulate(2, key=key, newdata=table, weights=-1.0)
    with pytest.raises(ValueError, match="for new data"):
        weighted.simulate(2, key=key, weights="w")


def test_new_rows_are_simulated_with_their_offset(table):
    fit = mm.lmm("y ~ x + (1 | g)", table, offset=np.full(300, 5.0))
    key = jax.random.key(2)
    low, high = (fit.simulate(3, key=key, newdata=table, offset=value) for value in (0.0, 10.0))
    np.testing.assert_allclose(high - low, 10.0)


def test_a_series_with_other_labels_is_no_response(table, weighted):
    assert weighted.refit(table["y"]).deviance == pytest.approx(weighted.deviance, abs=1e-8)
    with pytest.raises(mm.DataError, match="other labels"):
        weighted.refit(table["y"].sample(frac=1, random_state=0))


def test_estimates_of_float32_arrays_are_float32(sleep_ml, x64):
    arrays = jax.tree.map(lambda x: x.astype("float32") if x.dtype == "float64" else x, sleep_ml.model.arrays)
    found = mm.estimate(arrays)
    assert {str(x.dtype) for x in jax.tree.leaves(found)} == {"float32", "int32"}
    np.testing.assert_allclose(found.theta, sleep_ml.theta, rtol=2e-2)


def test_a_level_only_in_rows_of_weight_zero_has_no_fitted_value(table):
    odd = table.assign(f=np.where(table.index < 20, "z", np.where(table.index % 2, "a", "b")))
    odd["w"] = np.where(odd.index < 20, 0.0, 1.0)
    fit = mm.lmm("y ~ x + f + (1 | g)", odd, weights="w")
    assert fit.fitted().isna().sum() == 20
    assert "20 rows of them without a fitted value" in str(fit.summary())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y": ["a"] * 300}, "y holds text"),
        ({"names": ["a", "a"]}, "names repeats 'a'"),
        ({"offset": np.ones(3)}, "offset must be one number or 300"),
        ({"terms": [(np.ones(300), np.arange(300) % 5)]}, r"must be a jaxmm.Term"),
        ({"terms": [mm.Term(np.ones(300), np.r_[np.nan, np.arange(299) % 5])]}, "missing in row 0"),
    ],
)
def test_arrays_are_checked_as_tables_are(table, change, message):
    given = {"y": table["y"], "X": np.c_[np.ones(300), table["x"]], "terms": [mm.Term(np.ones(300), table["g"])]}
    with pytest.raises((mm.DataError, TypeError), match=message):
        mm.Model.from_arrays(**(given | change))
