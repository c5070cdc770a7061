"""Cross-validation: densities against refits and integrals written out, folds as lanes, and what cannot be done."""

import numpy as np
import pandas as pd
import pytest
from helpers import covariance_of, says
from scipy.stats import multivariate_normal

import jaxmm as mm
from jaxmm.crossval.density import estimated, predictive


@pytest.fixture(scope="module")
def loo(sleep_reml):
    return mm.cross_validate(sleep_reml)


def test_each_group_by_a_fit_without_it(sleepstudy, loo):
    """The exact normal density of the rows of a subject, and their means, from a fit to the others."""
    for subject in loo.folds.labels[[0, 7, 17]]:
        out = sleepstudy["Subject"] == subject
        fit = mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy[~out])
        left = sleepstudy[out]
        mean, Z = fit.predict(left, re="population"), np.column_stack([np.ones(10), left["Days"]])
        V = Z @ fit.varcorr().cov["Subject"].to_numpy() @ Z.T + fit.scale * np.eye(10)
        own = loo.frame.loc[subject]
        assert own["elpd"] == pytest.approx(multivariate_normal.logpdf(left["Reaction"], mean, V), abs=1e-4)
        assert own["rmse"] == pytest.approx(np.sqrt(np.mean((left["Reaction"] - mean) ** 2)), rel=1e-5)


def test_sums_and_errors(loo, sleep_ml):
    x = loo.density
    assert loo.elpd == pytest.approx(x.sum()) and loo.se == pytest.approx(np.sqrt(18 * np.var(x, ddof=1)))
    assert loo.optimism == pytest.approx(loo.inside.sum() - x.sum()) and 2 < loo.optimism < 30
    assert loo.rmse == pytest.approx(np.sqrt(np.mean(loo.frame["rmse"] ** 2)))  # 10 rows each
    shown = repr(loo)
    assert "18 groups, Subject, each left out by itself" in shown and "optimism" in shown
    by_ml = predictive(sleep_ml, loo.folds, mm.crossval.density.of_fit(sleep_ml, 18), np.ones(18, bool))[0]
    assert by_ml.sum() == pytest.approx(sleep_ml.loglik)  # the likelihood is the product of the groups'


def test_folds(sleep_reml, loo):
    found = mm.cross_validate(sleep_reml, folds=5, key=2)
    again = mm.cross_validate(sleep_reml, folds=5, key=2)
    assert found.folds.count == 5 and sorted(np.bincount(found.folds.fold)) == [3, 3, 4, 4, 4]
    np.testing.assert_array_equal(found.density, again.density)
    assert found.elpd == pytest.approx(loo.elpd, abs=3 * loo.se) and "left out in 5 folds" in repr(found)
    data = mm.datasets.load("sleepstudy")
    out = np.isin(data["Subject"], found.folds.labels[found.folds.fold == 0])
    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", data[~out])
    np.testing.assert_allclose(found.batch.fixef[0], fit.fixef, rtol=1e-5)
    labels = pd.Series(found.folds.fold[found.folds.codes])  # the same groups given as labels: each is a fold
    named = mm.cross_validate(sleep_reml, by=labels)
    np.testing.assert_allclose(named.elpd, found.elpd, rtol=1e-6)
    assert named.frame.index.name == "group" and "the groups given" in repr(named)


def test_differences(sleep_reml, loo):
    small = mm.cross_validate(mm.lmm("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy")))
    found = loo.compare(small)
    d = loo.density - small.density
    assert found.elpd == pytest.approx(d.sum()) and found.se == pytest.approx(np.sqrt(18 * np.var(d, ddof=1)))
    assert found.elpd > found.se and "of 18 groups" in repr(found)
    folded = loo.compare(mm.cross_validate(sleep_reml, folds=5, key=2))
    assert folded.other_folds and "adds chance" in repr(folded)
    with says(TypeError, "not Fit"):
        loo.compare(sleep_reml)
    with says(ValueError, "different responses"):
        loo.compare(mm.cross_validate(sleep_reml.refit(sleep_reml.model.design.y + 1.0)))
    with says(ValueError, "the groups left out differ"):
        loo.compare(mm.cross_validate(sleep_reml, by=np.arange(180) // 20))


def test_as_lanes_of_a_batch(sleep_reml, monkeypatch):
    """Many groups go through the lanes, by copies of levels and by weights of rows; a few one by one: one result."""
    from jaxmm.batch import apart

    few = mm.cross_validate(sleep_reml, folds=4, key=1)
    monkeypatch.setattr(apart, "can_be_apart", lambda fit, count: False)
    many = mm.cross_validate(sleep_reml, folds=4, key=1)
    rows = apart.without_each(sleep_reml, many.folds.of_rows, 4, False)
    np.testing.assert_allclose(many.density, few.density, atol=1e-4)
    np.testing.assert_allclose(rows.fixef, many.batch.fixef, rtol=1e-5)


# ---------------------------------------------------------------- crossed, nested, weights
def test_crossed_factors_are_predicted_from_the_rows_that_stay(weighted):
    """The conditional normal density, from V of all rows cut by hand."""
    found = mm.cross_validate(weighted, by="g", folds=6, key=3)
    at, d, k = estimated(weighted, found.batch), weighted.model.design, 2
    V = covariance_of(weighted.model, found.batch.theta[k]) * at.sigma[k] ** 2
    e = d.y - d.X @ at.beta[k] - d.offset
    g = int(np.flatnonzero(found.folds.fold == k)[0])
    left, own = found.folds.of_rows == k, found.folds.codes == g
    B = V[np.ix_(own, ~left)] @ np.linalg.inv(V[np.ix_(~left, ~left)])
    mean, cov = B @ e[~left], V[np.ix_(own, own)] - B @ V[np.ix_(~left, own)]
    assert found.density[g] == pytest.approx(multivariate_normal.logpdf(e[own], mean, cov))
    np.testing.assert_allclose(found.predicted[own], (d.y - e)[own] + mean)


def test_nested_factors_and_precisions():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"a": np.repeat(np.arange(8), 12), "b": np.repeat(np.arange(24), 4), "x": rng.normal(size=96)})
    data["w"] = rng.uniform(0.5, 2, 96)
    data["y"] = data.x + rng.normal(size=8)[data.a] + rng.normal(size=24)[data.b] + rng.normal(size=96) / data.w**0.5
    fit = mm.lmm("y ~ x + (1 | a/b)", data, weights="w", reml=False)
    found = mm.cross_validate(fit)
    assert found.folds.name == "a" and found.inside.sum() == pytest.approx(fit.loglik)
    other = mm.lmm("y ~ x + (1 | a/b)", data[data.a != 3], weights="w", reml=False)
    all_of_it = mm.neg2_loglik
    import jax

    with jax.enable_x64(True):
        at = mm.Parameters(np.array(other.fixef), other.theta, np.log(other.scale))
        whole = -0.5 * float(all_of_it(at, fit.model.arrays))
    assert found.density[3] == pytest.approx(whole - other.loglik, abs=1e-4)


# ---------------------------------------------------------------- generalised
@pytest.fixture(scope="module")
def herds():
    cbpp = mm.datasets.load("cbpp")
    return {
        n: mm.glmm("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp, "binomial", n_agq=n)
        for n in (1, 9)
    }


@pytest.mark.parametrize("n_agq", [1, 9])
def test_a_generalised_model(herds, n_agq):
    fit = herds[n_agq]
    found = mm.cross_validate(fit)
    assert found.inside.sum() == pytest.approx(fit.loglik, abs=1e-8)  # the likelihood is the product of the groups'
    cbpp, herd = mm.datasets.load("cbpp"), found.folds.labels[4]
    other = mm.glmm(fit.formula, cbpp[cbpp["herd"] != herd], "binomial", n_agq=n_agq)
    left = cbpp[cbpp["herd"] == herd]
    eta, sd = other.predict(left, re="population", scale="link").to_numpy(), float(other.theta[0])
    z, w = np.polynomial.hermite_e.hermegauss(101)
    from scipy.stats import binom

    p = 1 / (1 + np.exp(-(eta[:, None] + sd * z)))
    terms = binom.logpmf(left["incidence"].to_numpy()[:, None], left["size"].to_numpy()[:, None], p).sum(axis=0)
    exact = np.log(np.sum(w * np.exp(terms)) / np.sqrt(2 * np.pi))
    assert found.density[4] == pytest.approx(exact, abs=0.05 if n_agq == 1 else 1e-4)
    mean = (p @ w) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(found.predicted[found.folds.codes == 4], mean, atol=1e-5)
    shares = left["incidence"] / left["size"]
    assert found.frame["rmse"].iloc[4] == pytest.approx(np.sqrt(np.mean((shares - mean) ** 2)), abs=1e-5)


def test_nested_factors_of_a_generalised_model():
    """Level by level where there is one factor, else by weights of zero: the same likelihood."""
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"a": np.repeat(np.arange(6), 10), "b": np.repeat(np.arange(12), 5)})
    data["y"] = rng.poisson(np.exp(0.5 + rng.normal(size=6)[data.a] + 0.3 * rng.normal(size=12)[data.b]))
    fit = mm.glmm("y ~ 1 + (1 | a/b)", data, "poisson")
    found = mm.cross_validate(fit)
    assert found.inside.sum() == pytest.approx(fit.loglik, abs=1e-8) and found.elpd < found.inside.sum()
    with says(ValueError, "b", "have no density", "every level of every factor lies wholly"):
        mm.cross_validate(mm.glmm("y ~ 1 + (1 | a) + (1 | b)", data.assign(b=data.index % 5), "poisson"), by="b")


FAMILIES = {
    "slopes, offset, weights": ("y ~ x + (x | g)", "nbinom2", {"offset": "o", "weights": "w"}),
    "zeros": ("z ~ x + (1 | g)", "poisson", {"zero_inflation": "~ x"}),
    "effects of the zeros": ("z ~ x + (1 | g)", "poisson", {"zero_inflation": "~ 1 + (1 | g)"}),
    "dispersion": ("y ~ x + (1 | g)", "nbinom2", {"dispersion": "~ x"}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families(name):
    """The densities of all groups at the estimates of all rows make the likelihood."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 8), "x": rng.normal(size=160)})
    data["o"], data["w"] = 0.3 * rng.normal(size=160), rng.integers(1, 4, 160).astype(float)
    mu = np.exp(0.5 + 0.3 * data["x"] + data["o"] + 0.6 * rng.normal(size=20)[data["g"]])
    data["y"] = rng.negative_binomial(2, 2 / (2 + mu))
    data["z"] = np.where(rng.random(160) < 0.3, 0, rng.poisson(mu))
    formula, family, options = FAMILIES[name]
    fit = mm.glmm(formula, data, family, **options)
    found = mm.cross_validate(fit, folds=4, key=1)
    assert found.good.all() and found.inside.sum() == pytest.approx(fit.loglik, abs=1e-8)
    assert found.elpd < found.inside.sum() and found.rmse < 1.5 * np.std(found.observed)


# ---------------------------------------------------------------- folds that cannot be fitted, and bad input
def test_a_group_without_which_a_coefficient_has_no_data(sleepstudy):
    data = sleepstudy.assign(one=(sleepstudy["Subject"] == "308").astype(float))
    found = mm.cross_validate(mm.lmm("Reaction ~ Days + one + (1 | Subject)", data))
    assert found.frame.loc["308", "status"] == "not estimable" and np.isnan(found.frame.loc["308", "elpd"])
    assert np.isfinite(found.elpd) and np.isfinite(found.rmse)
    assert "1 of 18 folds have no estimates (0): their 1 groups are left out of the sums" in " ".join(
        repr(found).split()
    )


def test_bad_input(sleep_reml, weighted):
    with says(ValueError, "crossed: name what is left out", "by='g'"):
        mm.cross_validate(weighted)
    with says(ValueError, "by must be a grouping factor of the model ('Subject')", "by=data['item']"):
        mm.cross_validate(sleep_reml, by="item")
    with says(mm.DataError, "a label for each of the 180 rows", "(3,)"):
        mm.cross_validate(sleep_reml, by=[1, 2, 3])
    with says(mm.DataError, "180 missing labels"):
        mm.cross_validate(sleep_reml, by=[None] * 180)
    with says(ValueError, "there is one only of the groups given"):
        mm.cross_validate(sleep_reml, by=np.zeros(180))
    with says(ValueError, "folds must be a whole number from 2 to 18", "19"):
        mm.cross_validate(sleep_reml, folds=19, key=1)
    with says(TypeError, "needs a key"):
        mm.cross_validate(sleep_reml, folds=3)
    with says(ValueError, "key= is for folds=K"):
        mm.cross_validate(sleep_reml, key=3)
    with says(TypeError, "no keyword 'k'", "folds="):
        mm.cross_validate(sleep_reml, k=3)  # pyright: ignore
    with says(TypeError, "must be a jaxmm.Model or a fit"):
        mm.cross_validate(3)
