"""Comparisons of fits: labels, criteria, which distribution a likelihood ratio has, and its bootstrap."""

import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import says
from scipy import stats

import jaxmm as mm
from jaxmm._compiled import STORE
from jaxmm.inference import boundary, nesting
from jaxmm.inference.compare import aicc

REFERENCE = json.loads((Path(__file__).parent / "reference" / "compare.json").read_text())
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def fits(sleepstudy):
    """Intercepts, intercepts and slopes apart, and correlated."""
    bars = ("(1 | Subject)", "(1 | Subject) + (0 + Days | Subject)", "(Days | Subject)")
    return [mm.lmm(f"Reaction ~ Days + {bar}", sleepstudy, reml=False) for bar in bars]


def test_a_correlated_slope(fits, sleep_reml):
    one, _, both = fits
    found = mm.anova(both, one, labels=["slopes", "intercepts"])
    frame = found.to_frame()
    assert list(frame.index) == ["intercepts", "slopes"]
    assert list(frame.columns[:8]) == ["npar", "aic", "aicc", "bic", "loglik", "deviance", "chisq", "df"]
    ref = REFERENCE["lrt"]
    np.testing.assert_allclose(frame[["aic", "bic"]].T, [ref["AIC"], ref["BIC"]], atol=1e-3)
    row = frame.loc["slopes"]
    assert row["chisq"] == pytest.approx(ref["Chisq"][1], abs=1e-4) and row["reference"] == "½χ²(1) + ½χ²(2)"
    assert row["p"] == pytest.approx(0.5 * stats.chi2.sf(row["chisq"], 1) + 0.5 * stats.chi2.sf(row["chisq"], 2))
    text = repr(found)
    assert "intercepts: Reaction ~ Days + (1 | Subject)" in text and "(18 here)" in text
    assert f"from χ²(2) it would be {ref['Pr(>Chisq)'][1]:.3g}" in text
    k, n = one.df, one.nobs
    assert aicc(one) == frame.loc["intercepts", "aicc"] == pytest.approx(one.aic + 2 * k * (k + 1) / (n - k - 1))
    assert "refitted" in mm.anova(one, sleep_reml).notes[0]


def crossed() -> pd.DataFrame:
    rng, row = np.random.default_rng(1), np.arange(240)
    columns = {"x": rng.normal(size=240), "z": rng.normal(size=240), "c": np.where(rng.random(240) < 0.5, "u", "v")}
    return pd.DataFrame(
        {"y": rng.normal(size=240), "g": row % 12, "h": row // 12 % 10, "half": row % 12 // 2, **columns}
    )


@pytest.mark.parametrize(
    ("smaller", "larger", "obstacle", "doubt"),
    [
        ("x + (1 | g)", "x + z + (1 | g)", None, False),
        ("x + (1 | g)", "x + (x | g)", None, False),
        ("x + (x || g)", "x + (x | g)", None, False),
        ("x + (1 | g)", "x + (x || g)", None, False),
        ("x + (1 | g)", "x + (1 | g) + (1 | h)", None, False),
        ("c + (c | g)", "0 + c + (0 + c | g) + (1 | h)", None, False),
        ("x + (1 | half)", "x + (1 | half / g)", None, False),
        ("x + (1 | g) + (1 | g:c)", "x + (0 + c | g)", None, True),  # is nested, by an equality of two variances
        ("x + (1 | g)", "z + (x | g)", "fixed effects", False),
        ("x + (1 | g)", "x + (1 | h)", "random effects", True),
        ("x + (1 | g)", "x + (0 + x | g) + (1 | h)", "random effects", True),
        ("x + (1 | half)", "x + (x | g)", "random effects", True),
        ("x + (1 | g)", "x + offset(z) + (x | g)", "offsets", False),
        ("x + (1 | g)", "x * z + offset(z) + (x | g)", None, False),
    ],
)
def test_what_is_nested(smaller, larger, obstacle, doubt):
    data = crossed()
    a, b = (mm.Model.from_formula(f"y ~ {text}", data) for text in (smaller, larger))
    found = nesting.obstacle(a, b)
    assert found is None if obstacle is None else found is not None and obstacle in found
    assert (nesting.doubt(a, b) is not None) == doubt


@pytest.mark.parametrize(
    ("smaller", "larger", "known"),
    [
        ({"residual": "ar1(v | h)"}, {"residual": "ar1(v | h)", "dispersion": "~ arm"}, True),
        ({"residual": "ar1(v | h)"}, {"residual": "ar1(v | h, by=arm)"}, True),
        ({"residual": "ar1(v | h)", "dispersion": "~ arm"}, {"residual": "ar1(v | h, by=arm)"}, True),
        ({"residual": "ar1(v | h)", "dispersion": "~ arm + v2"}, {"residual": "ar1(v | h, by=arm)"}, False),
        ({"residual": "ar1(v | h, by=arm)"}, {"residual": "ar1(v | h)", "dispersion": "~ arm"}, False),
        ({"residual": "ar1(v | h, by=arm)"}, {"residual": "ar1(v | h, by=site)"}, True),  # a site has one arm
        ({"residual": "ar1(v | h, by=site)"}, {"residual": "ar1(v | h, by=arm)"}, False),
        ({"residual": "ar1(v | h)"}, {"residual": "homcs(v | h)", "dispersion": "~ arm"}, False),
        ({"residual": "ar1(v | h)"}, {"residual": "ar1(v | g)", "dispersion": "~ arm"}, False),
        ({"residual": "ar1(v | h)", "dispersion": "~ v2"}, {"residual": "us(v | h)"}, True),
        ({"residual": "ar1(v | h)", "dispersion": "~ z"}, {"residual": "us(v | h)"}, False),
        ({"residual": "us(v | h, by=arm)"}, {"residual": "us(v | h)"}, False),
        ({"residual": "ar1(v | h, by=arm)"}, {"residual": "us(v | h, by=arm)"}, True),
        ({"dispersion": "~ arm"}, {"dispersion": "~ arm * z"}, True),
        ({"dispersion": "~ z"}, {"dispersion": "~ arm"}, False),
        ({"dispersion": "~ factor(v)"}, {"residual": "diag(v | h)"}, True),
        ({"dispersion": "~ factor(v)"}, {"residual": "homcs(v | h)"}, False),
        ({"dispersion": "~ arm"}, {"residual": "homcs(v | h, by=arm)"}, True),
        ({"dispersion": "~ arm"}, {"residual": "propto(v | h, K)"}, False),
        ({}, {"residual": "propto(v | h, K)"}, False),
        ({}, {"residual": "homcs(v | h)"}, True),
    ],
)
def test_which_errors_are_nested(smaller, larger, known):
    """With a term of random effects for the ones that have nothing else."""
    rng = np.random.default_rng(2)
    d = pd.DataFrame({"h": np.repeat(np.arange(24), 4), "v": np.tile(np.arange(4), 24), "y": rng.normal(size=96)})
    d = d.assign(z=rng.normal(size=96), v2=d.v**2, arm=d.h % 2, site=d.h % 4, g=(d.h + 5 * d.v) % 24)
    d[["arm", "site"]] = d[["arm", "site"]].astype(str)
    a, b = (
        mm.Model.from_formula(
            "y ~ 1 + (1 | g)", d, **given, matrices={"K": 0.3 + np.eye(4)} if "K" in given.get("residual", "") else None
        )
        for given in (smaller, larger)
    )
    assert (nesting.doubt(a, b) is None) == known


def test_refits_by_ml_compile_nothing(sleepstudy):
    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy)
    before = set(STORE.kept)
    assert fit.refit_ml().deviance != fit.deviance
    assert set(STORE.kept) == before


@pytest.mark.parametrize("how", [{"method": "lrt"}, {"method": "boot", "key": KEY, "n": 9}])
def test_no_test_and_its_reason(fits, sleepstudy, how):
    """Of models that are not nested, and of one model written in two ways."""
    one, _, both = fits
    squares = mm.lmm("Reaction ~ I(Days^2) + (1 | Subject)", sleepstudy, reml=False)
    other = mm.lmm("Reaction ~ I(2 * Days) + (1 | Subject)", sleepstudy, reml=False)
    for fit, reason in ((both, "not nested, its fixed effects"), (one, "not nested"), (other, "nothing to test")):
        found = mm.anova(other if fit is other else squares, one if fit is other else fit, **how)
        row = found.to_frame().iloc[1]
        assert np.isnan(row["p"]) and row["reference"] == ""
        assert reason in found.notes[0] and "mm.compare()" in found.notes[0]


def test_which_distribution(fits, sleepstudy):
    one, apart, both = fits
    assert boundary.mixture(one, apart) == boundary.Mixture(0, ("Subject", 18))
    assert boundary.mixture(one, both) == boundary.Mixture(1, ("Subject", 18))
    assert boundary.mixture(apart, both) is None and boundary.mixture(one, one) is None
    other = mm.lmm("Reaction ~ 1 + (1 | Subject)", sleepstudy, reml=False)
    assert boundary.mixture(other, both) is None  # X differs too
    table = mm.anova(other, both).to_frame()
    assert table["reference"].iloc[1] == "χ²(3)"
    assert table["p"].iloc[1] == pytest.approx(stats.chi2.sf(table["chisq"].iloc[1], 3))
    assert "conservative where a variance is zero" in mm.anova(other, both).notes[0]
    assert mm.anova(other, one).notes == ()  # fixed effects alone
    assert float(boundary.Mixture(0, ("g", 9)).p(0.0)) == 1.0
    assert float(boundary.Mixture(0, ("g", 9)).p(2.0)) == pytest.approx(0.5 * stats.chi2.sf(2.0, 1))
    squares = mm.lmm("Reaction ~ I(Days^2) + (1 | Subject)", sleepstudy, reml=False)
    assert "fixed effects do not include those of the other" in mm.anova(one, squares).notes[0]
    assert mm.anova(one, one).notes == ()


def test_restricted_likelihoods_as_they_are(sleepstudy, sleep_reml, fits):
    """Of the same X: the difference of the REML criteria, as anova(refit = FALSE) of lme4."""
    smaller = mm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy)
    found = mm.anova(smaller, sleep_reml, refit=False)
    row = found.to_frame().iloc[1]
    assert row["chisq"] == pytest.approx(REFERENCE["reml_chisq"], abs=1e-4) and row["reference"] == "½χ²(1) + ½χ²(2)"
    assert len(found.notes) == 1
    with says(ValueError, "different fixed effects", "refit=True"):
        mm.anova(mm.lmm("Reaction ~ 1 + (1 | Subject)", sleepstudy), sleep_reml, refit=False)
    with says(ValueError, "some fits are by REML and some by ML"):
        mm.anova(fits[0], sleep_reml, refit=False)


def test_crossed_factors_and_singular_models():
    rng = np.random.default_rng(2)
    data = {"g": np.repeat(np.arange(8), 6), "h": np.tile(np.arange(6), 8)}
    data["y"] = rng.normal(size=48) + rng.normal(size=8)[data["g"]] + 0.3 * rng.normal(size=6)[data["h"]]
    data["k"] = data["g"] // 2
    one = mm.lmm("y ~ 1 + (1 | g)", data, reml=False)
    crossed = mm.anova(one, mm.lmm("y ~ 1 + (1 | g) + (1 | h)", data, reml=False))
    assert crossed.to_frame()["reference"].iloc[1] == "χ²(1)" and "crossed factors" in crossed.notes[0]
    nested = mm.lmm("y ~ 1 + (1 | k/g)", data, reml=False)
    assert boundary.mixture(one, nested) == boundary.Mixture(0, ("k", 4))
    means = np.array([data["y"][data["g"] == k].mean() for k in range(8)])
    flat = one.refit(data["y"] - means[data["g"]])
    assert flat.is_singular
    assert boundary.mixture(flat, nested.refit(flat.model.design.y)) == "the smaller model is singular itself"


def test_bootstrap(fits, sleepstudy):
    """Fixed effects: the statistic is about χ²₁; and what each replicate has is what a single fit has."""
    one = fits[0]
    null = mm.lmm("Reaction ~ 1 + (1 | Subject)", sleepstudy, reml=False)
    found = mm.anova(null, one, labels=["none", "days"], method="boot", key=KEY, n=199)
    row, draws = found.to_frame().loc["days"], found.replicates["days"]
    assert row["p"] == 1 / 200 and row["reference"] == "bootstrap, 199 replicates" and draws.shape == (199,)
    assert np.mean(draws) == pytest.approx(1, abs=4 * np.sqrt(2 / 199)) and np.all(draws >= 0)
    y = null.simulate(3, key=KEY)[2]
    assert draws[2] == pytest.approx(max(0.0, null.refit(y).deviance - one.refit(y).deviance), abs=1e-6)
    again = mm.anova(null, one, method="bootstrap", key=KEY, n=199)
    np.testing.assert_array_equal(again.replicates["fit1"], draws)


@pytest.mark.slow
def test_level_of_the_mixture(sleepstudy, claim):
    """No slopes in truth: half of the statistics are from χ²₁ and half from χ²₂, about."""
    one = mm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy, reml=False)
    both = mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy, reml=False)
    draws = mm.anova(one, both, method="bootstrap", key=KEY, n=4000).replicates["fit1"]
    p = boundary.Mixture(1, ("Subject", 18)).p(draws)
    rate = np.mean(p <= 0.05)
    claim("type I error by the mixture of χ²₁ and χ²₂, 18 levels", rate, 0.05, n=4000)
    assert 0.03 < rate < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 4000)  # 18 levels: a little conservative


def test_compare(fits, sleepstudy):
    one, apart, both = fits
    other = mm.lmm("Reaction ~ 1 + (Days | Subject)", sleepstudy)
    found = mm.compare(one, both, other, apart, labels=list("abcd"))
    frame = found.to_frame()
    assert list(frame.index) == ["d", "b", "c", "a"] and frame["delta"].iloc[0] == 0
    assert frame["weight"].sum() == pytest.approx(1) and "p" not in frame
    np.testing.assert_allclose(frame["delta"], frame["aic"] - apart.aic, atol=1e-9)
    assert frame.loc["c", "deviance"] == pytest.approx(other.refit_ml().deviance) and "refitted" in repr(found)
    assert mm.compare(one, both, criterion="bic").to_frame()["delta"].iloc[1] == pytest.approx(one.bic - both.bic)
    assert "<table" in found._repr_html_()


def test_bad_input(fits):
    one, _, both = fits
    with says(ValueError, "method must be 'lrt', 'bootstrap' or 'exact', not 'wald'"):
        mm.anova(one, both, method="wald")
    with says(TypeError, "method='boot' needs a key"):
        mm.anova(one, both, method="boot")
    with says(ValueError, "method='lrt' draws nothing"):
        mm.anova(one, both, n=10)
    with says(ValueError, "n must be a positive number of replicates, not 0"):
        mm.anova(one, both, method="boot", key=KEY, n=0)
    with says(ValueError, "labels must be 2 different texts"):
        mm.anova(one, both, labels=["a", "a"])
    with says(ValueError, "criterion must be one of 'aic', 'aicc', 'bic', not 'dic'"):
        mm.compare(one, both, criterion="dic")
    with says(ValueError, "compare compares two fits or more"):
        mm.compare(one)
    with says(ValueError, "restricted likelihoods", "reml=True"):
        mm.anova(one, both, method="exact", key=KEY)
    with says(TypeError, "anova() has no keyword 'test'", "method='lrt'"):
        mm.anova(one, both, test="LRT")
