"""fit.check: each finding where there is cause, none where there is not, and the numbers behind them."""

import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from glmm_fits import data, fitted

import jaxmm as mm
from jaxmm.diagnose import of_distribution, standardised
from jaxmm.diagnose.finding import Check, Finding
from jaxmm.diagnose.normality import straightness
from jaxmm.diagnose.of_design import vif
from jaxmm.diagnose.of_search import parameter_names
from jaxmm.sources.draw import Simulated

REFERENCE = json.loads((Path(__file__).parent / "reference" / "diagnose.json").read_text())


def clean(seed=2, J=30, M=8, error=None) -> pd.DataFrame:
    """Groups with an intercept and a slope each, all normal."""
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(J), M), np.tile(np.linspace(-1, 1, M), J)
    b = rng.normal(size=(J, 2))
    e = rng.normal(size=J * M) if error is None else error(rng, J * M)
    return pd.DataFrame({"g": g, "x": x, "y": 3 + x + b[g, 0] + b[g, 1] * x + 0.7 * e})


def names(check: Check) -> set[str]:
    return {f.name for f in check}


# ---------------------------------------------------------------- linear models
def test_nothing_is_found_in_a_clean_model():
    found = mm.lmm("y ~ x + (x | g)", clean()).check()
    assert found.ok and not len(found), found
    assert {"convergence", "singular", "curvature", "levels", "collinearity", "residuals"} <= set(found.in_order)
    text = repr(found)
    assert "nothing found" in text and "In order: convergence (the search ended at a maximum)" in text
    assert found.to_frame().empty and max(map(len, text.splitlines())) <= 100


def test_sleepstudy_has_far_rows(sleep_reml):
    """Its residuals have heavy tails, as is known: a subject's seventh day is five σ off."""
    found = sleep_reml.check()
    (heavy, far) = [f for f in found if f.name == "residuals"]
    assert "heavier than normal" in heavy.text and "56 (5.2 σ)" in far.text and not found.ok
    assert all(f.advice for f in found) and "plot_residuals" in repr(found)
    assert list(found.to_frame().columns) == ["name", "severity", "text", "advice"]


def test_a_far_level_and_a_fan():
    table = clean()
    table.loc[table["g"] == 4, "y"] += 12
    found = mm.lmm("y ~ x + (x | g)", table).check()
    assert any(f.name == "random effects" and "4 (p = " in f.text for f in found)
    noise = np.random.default_rng(3).normal(size=len(table))
    fanned = table.assign(y=4 * table["x"] + (1.3 + table["x"]) * noise + 0.3 * np.sin(table["g"]))
    told = [f.text for f in mm.lmm("y ~ x + (1 | g)", fanned).check() if f.name == "residuals"]
    assert any("their spread grows" in text for text in told)


def test_singular_few_levels_and_collinear_terms():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"g": np.repeat(np.arange(4), 10), "x": rng.normal(size=40)})
    table["z"] = table["x"] + 0.05 * rng.normal(size=40)
    table["y"] = table["x"] + rng.normal(size=40)
    table["y"] -= table.groupby("g")["y"].transform("mean")
    fit = mm.lmm("y ~ x + z + (1 | g)", table)
    found = fit.check()
    assert {"singular", "levels", "collinearity"} <= names(found)
    by = {f.name: f for f in found}
    assert "g: no effect has any variance" in by["singular"].text and "g (4)" in by["levels"].text
    expected = 1 / (1 - np.corrcoef(table["x"], table["z"])[0, 1] ** 2)  # without effects least squares
    assert vif(fit)["vif"].to_numpy() == pytest.approx([expected] * 2, rel=1e-6) and expected > 100
    assert f"x ({expected:.3g})" in by["collinearity"].text


def test_variance_inflation_is_cars():
    expected = REFERENCE["vif"]
    fit = mm.lmm("yield ~ Variety + nitro + I(nitro^2) + (1 | Block)", mm.datasets.load("oats"))
    np.testing.assert_allclose(vif(fit)["gvif"], expected["gvif"], rtol=1e-5)
    assert vif(fit)["df"].tolist() == expected["df"]
    assert vif(mm.lmm("yield ~ nitro + (1 | Block)", mm.datasets.load("oats"))).empty


def test_a_search_that_was_stopped(sleepstudy):
    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy, control={"max_iterations": 1})
    found = fit.check()
    assert found[0].severity == "problem" and found[0].name == "convergence" and "multistart" in found[0].advice
    assert "iteration limit" in found[0].text and not found.ok


def test_names_of_parameters(sleep_reml):
    assert parameter_names(sleep_reml) == ["(1 + Days | Subject)"] * 3
    assert parameter_names(fitted("nbinom2")) == ["(Intercept)", "x", "(1 | g)", "the dispersion"]


# ---------------------------------------------------------------- generalised models
def test_counts():
    right = fitted("poisson").check()
    assert right.ok and {"dispersion", "zeros", "simulated residuals", "separation"} <= set(right.in_order)
    over = mm.glmm("much ~ x + (1 | g)", data(), "poisson").check()
    told = next(f for f in over if f.name == "dispersion")
    assert "overdispersion" in told.text and "nbinom2" in told.advice
    assert over.findings == mm.glmm("much ~ x + (1 | g)", data(), "poisson").check(key=jax.random.key(0)).findings


def test_separation():
    table = data().assign(always=lambda t: np.where(t["x"] > 0.8, "a", "b"))
    table["yes"] = table["yes"] | (table["always"] == "a")
    found = mm.glmm("yes ~ always + (1 | g)", table, "binomial").check()
    told = [f for f in found if f.name == "separation"]
    assert told and "always" in told[0].text and "anova" in told[0].advice
    assert "two values" in found.skipped["dispersion"] and "Not looked into" in repr(found)
    assert "convergence" in names(found) and not {"convergence", "curvature", "approximation"} & set(found.in_order)


def test_one_bin_has_nothing_to_change_along():
    """A prediction that is the same in every row: residuals that are not uniform are told of once."""
    table = data().assign(y=lambda t: np.exp(3 * np.random.default_rng(1).normal(size=len(t))))
    sr = mm.lmm("y ~ 1 + (1 | g)", table).simulated_residuals(200, key=jax.random.key(1))
    assert sr.test_quantiles().p < 0.01
    (told,) = of_distribution.uniformity(sr)
    assert "not uniform" in told.text


def test_amounts_are_no_counts():
    found = fitted("gamma").check()
    assert found.skipped["zeros"] == "the response is no count" and "simulated residuals" in found.looked_into


# ---------------------------------------------------------------- the parts
def test_findings_print_with_their_advice():
    one = Finding("levels", "caution", "few levels", "Take more.")
    assert str(one) == "- caution: few levels\n  -> Take more."
    check = Check("y ~ 1", (one,), {"levels": "enough"}, {"zeros": "no count"})
    assert (
        not check.ok and check.in_order == [] and check[0] is one and "Not looked into: zeros: no count" in repr(check)
    )
    assert Check("y ~ 1", (Finding("data", "note", "x"),), {}, {}).ok


@pytest.mark.parametrize("n", [10, 50, 1000])
def test_straightness_rejects_normal_numbers_at_its_level(n):
    rng = np.random.default_rng(0)
    p = np.array([straightness(x).p for x in rng.normal(3, 2, (2000, n))])
    for level in (0.05, 0.01):
        assert np.mean(p < level) == pytest.approx(level, abs=4 * np.sqrt(level / 2000) + 0.1 * level)
    assert straightness(rng.exponential(size=n)).p < (0.5 if n == 10 else 1e-3)
    assert np.isnan(straightness(np.ones(n)).p) and np.isnan(straightness(rng.normal(size=3)).statistic)


def test_straightness_of_more_numbers_than_royston_has():
    assert straightness(np.random.default_rng(1).normal(size=20000)).p > 0.01


def test_standardised_modes_vary_as_they_should(sleep_reml):
    """D - C_j = Cov(b, y) P Cov(y, b), written out."""
    d, lam = sleep_reml.model.design, sleep_reml.factor_lam(0)
    D, n = sleep_reml.scale * lam @ lam.T, len(d.y)
    Z = np.zeros((n, 36))
    for k in range(2):
        Z[np.arange(n), 2 * d.factors[0].codes + k] = d.terms[0].Z[:, k]
    G = np.kron(np.eye(18), D)
    inverse = np.linalg.inv(Z @ G @ Z.T + sleep_reml.scale * np.eye(n))
    P = inverse - inverse @ d.X @ np.linalg.solve(d.X.T @ inverse @ d.X, d.X.T @ inverse)
    V, b = G @ Z.T @ P @ Z @ G, (G @ Z.T @ P @ d.y).reshape(18, 2)
    m = standardised.modes(sleep_reml, "Subject")
    np.testing.assert_allclose(m.z, b / np.sqrt(np.diag(V)).reshape(18, 2), rtol=1e-6)
    own = [b[j] @ np.linalg.solve(V[2 * j : 2 * j + 2, 2 * j : 2 * j + 2], b[j]) for j in range(18)]
    np.testing.assert_allclose(m.distance, own, rtol=1e-6)
    assert set(m.df) == {2}


# ---------------------------------------------------------------- false alarms
@pytest.mark.slow
@pytest.mark.parametrize("family", [None, "poisson"])
def test_right_models_are_found_in_order(family, claim, sets=150):
    """Of data sets from the model itself few have a finding that is no note: six looks or so at levels of 1 % each."""
    model = mm.Model.from_formula("y ~ x + (x | g)", clean().assign(y=lambda t: np.round(np.exp(t["y"] / 3))), family)
    sd = {"fixef": {"(Intercept)": 1.0, "x": 0.5}, "sd": {"g": [0.7, 0.6]}, "corr": {"g": 0.3}}
    truth = sd | ({"sigma": 0.8} if family is None else {})
    Y = Simulated(model, truth, sets, jax.random.key(5)).block(0, sets).y
    found = [model.with_response(np.asarray(y)).fit().check(key=jax.random.key(k)) for k, y in enumerate(np.asarray(Y))]
    alarms = [{f.name for f in c if f.severity != "note"} - {"singular"} for c in found]
    share = np.mean([bool(a) for a in alarms])
    counts = {name: sum(name in a for a in alarms) for name in set().union(*alarms)}
    claim(f"right models in which check() finds something, {family or 'linear'}", share, 0.06, n=sets)
    assert share < 0.06 + 4 * np.sqrt(0.06 * 0.94 / sets), counts
