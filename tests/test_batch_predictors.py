"""Batches of models with several predictors: each lane beside its own single fit, truths, and what is made of them."""

from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import close

import jaxmm as mm
from jaxmm.sources.draw import Simulated
from jaxmm.sources.truth import as_truth


@cache
def visits() -> pd.DataFrame:
    """24 sites of 10 visits."""
    rng = np.random.default_rng(4)
    site, x = np.repeat(np.arange(24), 10), rng.normal(size=240)
    table = pd.DataFrame({"site": site, "x": x, "wet": np.where(rng.random(240) < 0.5, "a", "b")})
    mean = np.exp(1.1 + 0.3 * x + 0.4 * rng.normal(size=24)[site])
    table["count"] = np.where(rng.random(240) < 0.3, 0, rng.poisson(mean))
    p = 1 / (1 + np.exp(-0.2 - 0.4 * x - 0.4 * rng.normal(size=24)[site]))
    table["share"] = np.clip(rng.beta(9 * p, 9 * (1 - p)), 1e-3, 1 - 1e-3)
    table["time"] = rng.gamma(3.0, mean / 3.0)
    return table


MODELS = {
    "zeros": ("count ~ x + (1 | site)", "poisson", {"zero_inflation": "~ wet"}),
    "zeros by site": ("count ~ x + (1 | site)", "poisson", {"zero_inflation": "~ 1 + (1 | site)"}),
    "shares": ("share ~ x + (1 | site)", "beta", {"dispersion": "~ wet"}),
    "times": ("time ~ x + (1 | site)", mm.families.Gamma("log"), {"dispersion": "~ wet"}),
}
TRUTHS = {
    "zeros": {"fixef": [1.1, 0.3], "sd": {"site": 0.4}, "zero_inflation": {"(Intercept)": -1.0, "wetb": 0.8}},
    "zeros by site": {"fixef": [1.1, 0.3], "sd": {"site": 0.4, "zi~site": 0.7}, "zero_inflation": -0.8},
    "shares": {"fixef": [0.2, 0.4], "sd": {"site": 0.4}, "dispersion": {"(Intercept)": 2.2, "wetb": -0.7}},
    "times": {"fixef": [1.1, 0.3], "sd": {"site": 0.4}, "dispersion": {"(Intercept)": -1.5, "wetb": 0.7}},
}


@cache
def model(name: str) -> mm.Model:
    formula, family, further = MODELS[name]
    return mm.Model.from_formula(formula, visits(), family, **further)


@cache
def batch(name: str) -> tuple[mm.FitBatch, np.ndarray]:
    source = Simulated(model(name), TRUTHS[name], 6, jax.random.key(5))
    return mm.fit_many(model(name), source, progress=False), np.asarray(source.block(0, 6).y)


@pytest.mark.parametrize("name", MODELS)
def test_each_lane_is_its_own_single_fit(name):
    found, Y = batch(name)
    labels = model(name).design.coefficients[2:]
    assert found.names.further == labels and found.further.shape == (6, len(labels))
    assert np.isnan(found.dispersion).all()  # none, or a formula
    for k, y in enumerate(Y[:3]):
        fit = model(name).with_response(y).fit()
        assert fit.converged and found.converged[k]
        close(-2 * found.loglik[k], fit.deviance, 1e-8)
        table = fit.coef_table(component="all")
        estimates = np.concatenate([found.fixef[k], found.further[k]])
        errors = np.concatenate([found.bse[k], found.further_bse[k]])
        assert np.max(np.abs(estimates - table["estimate"]) / table["se"]) < 1e-4
        np.testing.assert_allclose(errors, table["se"], rtol=1e-4)
        np.testing.assert_allclose(found.varcorr_sd[k], [x.iloc[0] for x in fit.varcorr().sd.values()], atol=1e-5)
        assert list(found[k].further.index) == list(fit.further.index) == list(labels)
    frame = found.to_frame()
    assert {*labels, *(f"se_{name}" for name in labels)} <= set(frame.columns)


def test_a_batch_keeps_its_columns(tmp_path):
    found, _ = batch("zeros")
    found.save(tmp_path / "batch.npz")
    kept = mm.load(tmp_path / "batch.npz")
    assert kept.names == found.names
    np.testing.assert_array_equal(kept.further, found.further)


@pytest.mark.parametrize("name", MODELS)
def test_responses_have_the_moments_of_the_truth(name):
    """Over 4,000 replicates: the mean of each row, by quadrature over the effects, within five errors."""
    m, n = model(name), 4000
    Y = np.asarray(Simulated(m, TRUTHS[name], n, jax.random.key(1)).block(0, n).y)
    truth, d = as_truth(m, TRUTHS[name]), m.design
    nodes, mass = np.polynomial.hermite_e.hermegauss(30)
    mass = mass / mass.sum()
    spread = {f.predictor: lam[0, 0] for f, lam in zip(d.factors, truth.lams, strict=True)}
    eta = {
        k: X @ truth.beta[at] for (k, at), X in zip(d.predictors.items(), (d.X, *(p.X for p in d.further)), strict=True)
    }
    inverse = {
        "mu": np.exp if name != "shares" else lambda e: 1 / (1 + np.exp(-e)),
        "zi": lambda e: 1 / (1 + np.exp(-e)),
    }
    means = {k: inverse[k](e[:, None] + spread.get(k, 0.0) * nodes) @ mass for k, e in eta.items() if k != "phi"}
    expected = means["mu"] * (1 - means.get("zi", 0.0))
    assert np.all(np.abs(Y.mean(axis=0) - expected) < 5 * Y.std(axis=0) / np.sqrt(n))
    if "dispersion" in MODELS[name][2]:  # rows of the other level vary more about their level's mean
        wet = d.further[0].X[:, 1] == 1
        assert Y[:, wet].var(axis=0).mean() > 1.1 * Y[:, ~wet].var(axis=0).mean()
    # and they are those of Fit.simulate, but for rounding
    fit = m.fit()
    ours = np.asarray(Simulated(m, fit, 3, jax.random.key(3)).block(0, 3).y)
    theirs = fit.simulate(3, key=jax.random.key(3))
    assert np.mean(np.abs(ours - theirs) > 1e-9) < 0.01  # a count may flip on a rounded mean


def test_bootstrap_study_and_power():
    """All coefficients come through: names of a bootstrap and rows of a study."""
    fit = model("zeros").fit()
    boot = mm.bootstrap(fit, 20, key=jax.random.key(0), progress=False)
    assert {"zi~(Intercept)", "zi~wetb"} <= set(boot.confint("percentile").index)
    study = mm.study(model("zeros"), TRUTHS["zeros"], 20, key=jax.random.key(0), progress=False)
    rows = study.recovery
    np.testing.assert_allclose(rows.loc[["zi~(Intercept)", "zi~wetb"], "truth"], [-1.0, 0.8])
    assert rows.loc["zi~wetb", "mean_se"] > 0


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("zeros", {"zero_inflation": None}, "zero_inflation"),
        ("zeros", {"zero_inflation": {"(Intercept)": 1.0, "dry": 2.0}}, "has no column 'dry'"),
        ("shares", {"dispersion": 3.0}, "dispersion must be 2 numbers"),
        ("shares", {"sigma": 1.0}, "there is no one sigma"),
        ("shares", {"zero_inflation": 1.0}, "the model has no zero inflation"),
    ],
)
def test_truths_that_are_none(name, changes, message):
    with pytest.raises(ValueError, match=message):
        as_truth(model(name), TRUTHS[name] | changes)
