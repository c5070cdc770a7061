"""R² and ICC: against the variance of rows written out, performance, and a bootstrap of single fits."""

import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import says

import jaxmm as mm
from jaxmm.inference import r2 as shares

REFERENCE = json.loads((Path(__file__).parent / "reference" / "shares.json").read_text())
HERDS = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
KEY = jax.random.key(2)


def test_parts_are_those_of_the_rows(weighted):
    """Xβ and ZDZ' of every row, written out."""
    d = weighted.model.design
    fixed = np.var(d.X @ weighted.fixef.to_numpy(), ddof=1)
    D, h = weighted.varcorr().cov["g"].to_numpy(), weighted.varcorr().cov["h"].to_numpy()[0, 0]
    g = np.mean([z @ D @ z for z in np.column_stack([np.ones(len(d.y)), d.X[:, 1]])])
    total = fixed + g + h + weighted.sigma**2
    r2, icc = weighted.r2(), weighted.icc()
    np.testing.assert_allclose(r2, [fixed / total, (fixed + g + h) / total], rtol=1e-12)
    np.testing.assert_allclose(icc, [(g + h) / (total - fixed), (g + h) / total], rtol=1e-12)
    assert list(r2.index) == ["marginal", "conditional"] and list(icc.index) == ["adjusted", "unadjusted"]
    by_group = weighted.icc(by_group=True)
    np.testing.assert_allclose(by_group[["g", "h"]], np.array([g, h]) / (total - fixed), rtol=1e-12)


def agrees(fit, name, tolerance=1e-4):
    ref = REFERENCE[name]
    np.testing.assert_allclose(fit.r2(), [ref["marginal"], ref["conditional"]], atol=tolerance)
    np.testing.assert_allclose(fit.icc(), [ref["adjusted"], ref["unadjusted"]], atol=tolerance)


def test_performance(sleep_reml):
    agrees(sleep_reml, "sleep")
    oats = mm.lmm("yield ~ nitro + Variety + (1 | Block/Variety)", mm.datasets.load("oats"))
    agrees(oats, "oats")
    found = oats.icc(by_group=True)
    for name, value in REFERENCE["oats"]["by_group"].items():
        assert found[name] == pytest.approx(value, abs=1e-4)


def test_independent_slopes(sleepstudy):
    """performance of glmmTMB's diag(Days | Subject); of lmer's || insight 0.19.0 leaves the slopes out."""
    fit = mm.lmm("Reaction ~ Days + (Days || Subject)", sleepstudy, reml=False)
    np.testing.assert_allclose(fit.r2(), [0.292751433824163, 0.789647456703224], atol=1e-6)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_performance_of_trials(link):
    fit = mm.glmm(HERDS, mm.datasets.load("cbpp"), mm.families.Binomial(link=link))
    agrees(fit, "cbpp" if link == "logit" else f"cbpp_{link}", 2e-3)


@pytest.mark.parametrize("name", ["ticks", "ticks_sqrt", "ticks_rows", "ticks_nb"])
def test_performance_of_counts(name):
    formula, family = {
        "ticks": ("YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", "poisson"),
        "ticks_sqrt": ("cHEIGHT + (1 | LOCATION)", mm.families.Poisson(link="sqrt")),
        "ticks_rows": ("YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)", "poisson"),
        "ticks_nb": ("cHEIGHT + (1 | LOCATION)", "nbinom2"),
    }[name]
    # lme4's Laplace takes the expected curvature of nbinom2: other estimates (glmmTMB's are ours)
    agrees(mm.glmm(f"TICKS ~ {formula}", mm.datasets.load("grouseticks"), family), name, 6e-3 if "nb" in name else 2e-3)


def test_approximations():
    """Of a Poisson response with a log link and an intercept alone: closed forms of its mean."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(10), 12)
    fit = mm.glmm("y ~ 1 + (1 | g)", {"y": rng.poisson(np.exp(1 + 0.5 * rng.normal(size=10))[g]), "g": g}, "poisson")
    D, mu = fit.varcorr().cov["g"].to_numpy()[0, 0], np.exp(fit.fixef.iloc[0])
    from scipy.special import polygamma

    for name, expected in {"lognormal": np.log1p(1 / mu), "delta": 1 / mu, "trigamma": polygamma(1, mu)}.items():
        assert fit.icc(approximation=name)["adjusted"] == pytest.approx(D / (D + expected), rel=1e-9)
    assert fit.r2()["marginal"] == 0 and fit.r2()["conditional"] == fit.icc()["unadjusted"]
    with says(ValueError, "approximation must be one of 'lognormal', 'trigamma', 'delta', not 'latent'"):
        fit.r2(approximation="latent")


def test_a_dispersion_by_rows():
    """Unequal variances: the mean of the rows' counts."""
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 8), "f": np.tile(["a", "b"], 48)})
    spread = np.where(data["f"] == "a", 1.0, 2.0)
    data["y"] = rng.normal(size=12)[data["g"]] + spread * rng.normal(size=96)
    fit = mm.glmm("y ~ 1 + (1 | g)", data, "gaussian", dispersion="~ f")
    D = fit.varcorr().cov["g"].to_numpy()[0, 0]
    assert fit.icc()["adjusted"] == pytest.approx(D / (D + np.mean(fit.predict(scale="dispersion"))), rel=1e-9)


def test_a_singular_fit_has_shares():
    flat = mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff2"))
    np.testing.assert_allclose([*flat.r2(), *flat.icc()], 0, atol=1e-8)


def test_intervals(sleep_reml):
    """The percentiles of what single refits have."""
    frame = sleep_reml.r2(interval="bootstrap", key=KEY, n=60, level=0.8)
    assert list(frame.columns) == ["estimate", "lower", "upper"] and list(frame["estimate"]) == list(sleep_reml.r2())
    refits = [sleep_reml.refit(y).r2()["marginal"] for y in sleep_reml.simulate(60, key=KEY)]
    low, high = np.quantile(refits, [0.1, 0.9], method="weibull")
    np.testing.assert_allclose(frame.loc["marginal", ["lower", "upper"]].astype(float), [low, high], atol=2e-3)
    icc = sleep_reml.icc(by_group=True, interval="bootstrap", key=KEY, n=60, level=0.8)
    assert icc.loc["Subject", "lower"] < icc.loc["Subject", "estimate"] < icc.loc["Subject", "upper"]


def test_intervals_of_counts():
    """The model without covariates is fitted to every replicate too."""
    rng = np.random.default_rng(6)
    data = {"g": np.repeat(np.arange(9), 8), "x": rng.normal(size=72)}
    data["y"] = rng.poisson(np.exp(0.5 + 0.4 * data["x"] + 0.5 * rng.normal(size=9)[data["g"]]))
    fit = mm.glmm("y ~ x + (1 | g)", data, "poisson")
    account = shares.Account(fit, None)
    account.follow(4, KEY)
    y = fit.simulate(4, key=KEY)[3]
    assert account.null_beta[3] == pytest.approx(
        shares.null_model(fit.model.with_response(y)).fit().fixef.iloc[0], abs=1e-5
    )
    frame = fit.r2(interval="bootstrap", key=KEY, n=40, level=0.8)
    assert np.all(frame["lower"] < frame["upper"])


def test_bad_input(sleep_reml):
    with says(ValueError, "interval must be None or 'bootstrap', not 'wald'"):
        sleep_reml.r2(interval="wald")
    with says(TypeError, "interval='bootstrap' needs a key"):
        sleep_reml.icc(interval="bootstrap")
    with says(ValueError, "key= and n= are for interval='bootstrap'"):
        sleep_reml.r2(n=10)
    with says(ValueError, "level must lie between 0 and 1"):
        sleep_reml.r2(level=95)
    with says(ValueError, "level=0.9 is the share of an interval: pass interval='bootstrap' with it"):
        sleep_reml.icc(level=0.9)
    with says(TypeError, "r2() has no keyword 'ci'"):
        sleep_reml.r2(ci=True)
