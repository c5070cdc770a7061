"""The rows of generalised fits: predictions, simulations, refits, and the ways to give the data."""

import pickle

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from glmm_fits import cbpp, data, fitted, glmm, same
from helpers import close, says
from scipy import special

import jaxmm as mm
from jaxmm import DataError

KEY = jax.random.key(0)


# ---------------------------------------------------------------- predictions
def linear(fit: mm.Fit, x) -> np.ndarray:
    return fit.fixef.iloc[0] + fit.fixef.iloc[1] * np.asarray(x)


def test_predictions_of_new_rows():
    fit = fitted("slopes")
    new = pd.DataFrame({"x": [-1.0, 0.5, 2.0], "g": ["g03", "g00", "g03"]}, index=["a", "b", "c"])
    b = fit.ranef()["g"].loc[new["g"]].to_numpy()
    eta = linear(fit, new["x"]) + b[:, 0] + b[:, 1] * new["x"].to_numpy()
    link = fit.predict(new, scale="link")
    assert link.index.equals(new.index) and link.name == "predicted"
    close(link, eta, 1e-12)
    close(fit.predict(new), special.expit(eta), 1e-12)
    close(fit.predict(new, re="population", scale="link"), linear(fit, new["x"]), 1e-12)
    close(fit.predict(new.drop(columns="g"), re="population"), special.expit(linear(fit, new["x"])), 1e-12)
    close(fit.predict(re="population", scale="link"), linear(fit, data()["x"]), 1e-12)
    with pytest.raises(TypeError, match="needs a key"):
        fit.predict(new, interval="prediction")


def test_predictions_by_one_of_two_factors():
    fit = fitted("crossed")
    new = pd.DataFrame({"x": [0.0, 1.0], "g": ["g01", "g13"], "h": ["h5", "h0"]})
    own = {f: fit.ranef()[f].loc[new[f], "(Intercept)"].to_numpy() for f in "gh"}
    base = linear(fit, new["x"])
    close(fit.predict(new.drop(columns="h"), re=["g"], scale="link"), base + own["g"], 1e-12)
    close(fit.predict(new, re=["g", "h"]), np.exp(base + own["g"] + own["h"]), 1e-12)


def test_new_levels():
    """b = 0 is the typical new level; the average over new levels is another number."""
    fit = fitted("slopes")
    new = pd.DataFrame({"x": [1.5, 1.5], "g": ["g00", "nobody"]})
    with says(DataError, "has not seen the level 'nobody' of 'g'", "new_levels='population'"):
        fit.predict(new)
    both = fit.predict(new, new_levels="population")
    close(both[:1], fit.predict(new[:1]), 1e-12)
    close(both[1:], special.expit(linear(fit, [1.5])), 1e-12)
    average = fit.predict(new, re="marginal")
    assert average[0] == average[1] and 0.5 < average[1] < both[1]


def test_marginal_predictions_by_simulation():
    """The mean over 200000 draws of b, which come in pairs of opposite sign."""
    fit, x = fitted("slopes"), np.array([-2.0, 0.0, 1.0])
    b = np.random.default_rng(1).normal(size=(100_000, 2)) @ np.linalg.cholesky(fit.varcorr().cov["g"]).T
    b = np.vstack([b, -b])
    mean = special.expit(linear(fit, x) + b[:, :1] + b[:, 1:] * x).mean(axis=0)
    new = pd.DataFrame({"x": x, "g": "nobody"})
    np.testing.assert_allclose(fit.predict(new, re="marginal"), mean, atol=1e-3)
    np.testing.assert_allclose(fit.predict(new, re="marginal", scale="link"), special.logit(mean), atol=5e-3)
    assert np.all(np.abs(special.logit(mean[[0, 2]])) < np.abs(linear(fit, x[[0, 2]])))


def test_marginal_predictions_of_a_log_link():
    """E exp(η + b) = exp(η + v / 2), with the variances of all factors in v."""
    fit = fitted("crossed")
    expected = np.exp(linear(fit, data()["x"]) + np.sum(fit.theta**2) / 2)
    close(fit.predict(re="marginal"), expected, 1e-9)
    table = fit.marginal_coef()
    assert list(table.columns) == ["estimate", "std_error"] and table.index.equals(fit.fixef.index)
    close(table["estimate"], fit.fixef + np.array([np.sum(fit.theta**2) / 2, 0]), 1e-8)


# ---------------------------------------------------------------- simulations and refits
def test_simulated_counts_of_successes():
    fit, size = fitted("cbpp"), cbpp()["size"].to_numpy()
    draws = fit.simulate(3000, key=KEY)
    assert draws.shape == (3000, 56) and np.all(draws == np.round(draws))
    assert np.all((draws >= 0) & (draws <= size))
    np.testing.assert_allclose(draws.mean(axis=0) / size, fit.predict(re="marginal"), atol=0.02)
    own = fit.simulate(3000, key=KEY, re="conditional")
    np.testing.assert_allclose(own.mean(axis=0) / size, fit.fitted(), atol=0.02)
    herd = np.flatnonzero(cbpp()["herd"] == "1")  # rows of one herd go together where its effect is drawn anew
    assert np.corrcoef(draws[:, herd[:2]].T)[0, 1] > 0.15 > abs(np.corrcoef(own[:, herd[:2]].T)[0, 1]) + 0.05


@pytest.mark.parametrize("re", ["new", "conditional"])
@pytest.mark.parametrize("name", ["cbpp", "slopes", "nbinom2"])
def test_a_replicate_depends_on_the_key_and_its_number(name, re):
    fit = fitted(name)
    few, many = (fit.simulate(n, key=KEY, re=re) for n in (2, 5))
    np.testing.assert_array_equal(many[:2], few)
    assert len(np.unique(many, axis=0)) == 5
    assert np.any(fit.simulate(2, key=jax.random.key(1), re=re) != few)
    np.testing.assert_array_equal(fit.simulate(700, key=KEY, re=re)[:5], many)  # in several blocks


def test_simulations_of_new_rows():
    """The trials of new rows are asked for, and are whole; levels that the fit has not seen have effects too."""
    fit = fitted("cbpp")
    new = pd.DataFrame({"period": ["1"] * 4, "herd": ["1", "1", "x", "x"], "size": [10_000] * 4})
    with says(DataError, "the fit had numbers of trials: pass weights="):
        fit.simulate(2, key=KEY, newdata=new)
    with says(DataError, "numbers of trials", "whole"):
        fit.simulate(2, key=KEY, newdata=new, weights=2.5)
    draws = fit.simulate(400, key=KEY, newdata=new, weights="size")
    np.testing.assert_array_equal(fit.simulate(400, key=KEY, newdata=new, weights=new["size"]), draws)
    shares = draws / 10_000
    assert np.all(np.abs(shares[:, 0] - shares[:, 1]) < 0.05) and np.all(np.abs(shares[:, 2] - shares[:, 3]) < 0.05)
    assert abs(np.corrcoef(shares[:, 0], shares[:, 2])[0, 1]) < 0.2
    np.testing.assert_allclose(special.logit(shares[:, [0, 2]]).std(axis=0), fit.theta[0], rtol=0.15)
    new["herd"] = ["1", "2", "14", "15"]
    known = fit.simulate(50, key=KEY, newdata=new, weights=10_000, re="conditional") / 10_000
    np.testing.assert_allclose(known.mean(axis=0), fit.predict(new), atol=0.003)
    assert set(np.unique(fitted("slopes").simulate(3, key=KEY, newdata=data()))) == {0.0, 1.0}


def use(fit: mm.Fit) -> list:
    return [str(fit), fit.ranef().cond_cov, fit.residuals("deviance"), str(fit.shrinkage()), fit.augment()]


@pytest.mark.parametrize("name", ["slopes", "nbinom2"])
def test_refit_compiles_nothing(name, programs):
    fit = fitted(name)
    draws = fit.simulate(3, key=KEY)
    use(fit)
    use(fit.refit(draws[0]))
    programs.clear()
    for y in draws[1:]:
        other = fit.refit(y)
        use(other)
        assert other.deviance != fit.deviance and other.nobs == fit.nobs
    fit.simulate(3, key=jax.random.key(7))
    assert programs == []


@pytest.mark.parametrize("name", ["cbpp", "nbinom2"])
def test_a_pickled_fit_says_the_same(name):
    fit = fitted(name)
    again = pickle.loads(pickle.dumps(fit))
    assert str(again) == str(fit) and str(again.model) == str(fit.model) and repr(again.family) == repr(fit.family)
    np.testing.assert_array_equal(again.simulate(key=KEY), fit.simulate(key=KEY))
    np.testing.assert_array_equal(again.predict(re="marginal"), fit.predict(re="marginal"))


# ---------------------------------------------------------------- ways to give the data
def test_other_tables_and_spellings_of_trials():
    fit, table = fitted("cbpp"), cbpp()
    same(glmm("cbpp", pl.from_pandas(table)), fit)
    same(glmm("cbpp", {c: table[c].to_numpy() for c in table}), fit)
    share = table.assign(share=table["incidence"] / table["size"])
    by_share = mm.glmm("share ~ period + (1 | herd)", share, "binomial", weights="size")
    same(by_share, fit)
    close(by_share.residuals("pearson"), fit.residuals("pearson"), 1e-6)
    by_array = mm.glmm("incidence/size ~ period + (1 | herd)", table, "binomial", weights=table["size"].to_numpy())
    same(by_array, fit)
    np.testing.assert_array_equal(by_share.simulate(2, key=KEY), fit.simulate(2, key=KEY))


def test_answers_in_words():
    """Success is the second level, and the fit says which that is."""
    fit = fitted("slopes")
    words = pd.Categorical(np.where(data()["yes"], "pass", "fail"), ["pass", "fail"])
    by_name = glmm("slopes", data().assign(yes=np.where(data()["yes"], "pass", "fail")))
    same(by_name, fit)
    assert "yes = 'pass' is success" in str(by_name) and "response  yes: 'pass' is success" in str(by_name.model)
    turned = glmm("slopes", data().assign(yes=words))
    close(-turned.fixef, fit.fixef, 1e-6)
    assert "yes = 'fail' is success" in str(turned) and "is success" not in str(fit)
    same(glmm("slopes", data().assign(yes=data()["yes"].astype(int))), fit)


def test_rows_of_weight_zero_have_fitted_values():
    out = np.arange(168) % 12 == 5
    table = data().assign(w=np.where(out, 0.0, 1.0))
    fit, fewer = glmm("poisson", table, weights="w"), glmm("poisson", table[~out])
    same(fit, fewer)
    assert fit.nobs == 154 and len(fit.fitted()) == 168
    close(fit.fitted()[out], fewer.predict(table[out]), 1e-6)
    close(fit.residuals()[out], table["count"][out] - fit.fitted()[out], 1e-12)
    np.testing.assert_array_equal(fit.residuals("pearson")[out], 0)
    assert "14 rows of weight zero: fitted values, but no part in the estimates" in str(fit)
    assert len(fit.augment()) == 168 and np.all(np.isfinite(fit.predict(re="marginal")))


def test_rows_without_trials():
    """0 of 0 says nothing: such a row counts nowhere, and has a fitted value."""
    nothing = cbpp().iloc[[3, 30]].assign(incidence=0, size=0)
    table = pd.concat([nothing, cbpp()], ignore_index=True)
    fit = glmm("cbpp", table)
    same(fit, fitted("cbpp"))
    assert fit.nobs == 56 and fit.fitted().notna().all() and fit.simulate(key=KEY).shape == (1, 56)
    close(fit.fitted()[:2], fitted("cbpp").fitted().iloc[[3, 30]], 1e-6)
    assert fit.residuals()[:2].isna().all() and fit.residuals()[2:].notna().all()
    assert "2 rows of weight zero" in str(fit)


def test_offsets_add_up():
    """One in the formula, one as an argument; at prediction the first is taken from the new rows."""
    table = data().assign(o=np.log(data()["t"]) + 0.3)
    fit = mm.glmm("count ~ x + offset(log(t)) + (1 | g)", table, "poisson", offset=np.full(168, 0.3))
    other = mm.glmm("count ~ x + (1 | g)", table, "poisson", offset="o")
    same(fit, other)
    close(fit.fitted(), other.fitted(), 1e-7)
    new = table.head(2).assign(t=[1.0, 2.0])
    link = fit.predict(new, re="population", scale="link", offset=0.0)
    close(link, linear(fit, new["x"]) + np.log([1.0, 2.0]), 1e-12)
    close(fit.predict(new, re="marginal", offset=0.0), np.exp(link + fit.theta[0] ** 2 / 2), 1e-9)
    later = table.assign(t=2.0)
    draws = fit.simulate(500, key=KEY, newdata=later, offset=1.0, re="conditional")
    np.testing.assert_allclose(draws.mean(), fit.predict(later, offset=1.0).mean(), rtol=0.02)
