"""The exact restricted likelihood ratio test: against F of a balanced layout, RLRsim, and dense algebra."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import says
from scipy import stats

import jaxmm as mm
from jaxmm.inference import boundary, exact

REFERENCE = json.loads((Path(__file__).parent / "reference" / "compare.json").read_text())
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def weak(sleepstudy):
    """As in compare.R: a variance that hardly shows, of levels of different sizes."""
    code = sleepstudy["Subject"].cat.codes + 1
    some = sleepstudy[(sleepstudy["Days"] <= 3) & ~((code % 3 == 0) & (sleepstudy["Days"] > 1))].copy()
    some["y"] = some["Reaction"] + 90 * np.sin(7 * np.arange(1, len(some) + 1))
    assert len(some) == REFERENCE["weak_rows"]
    return mm.lmm("y ~ Days + (1 | Subject)", some)


def mc(p, n):
    return 4 * np.sqrt(p * (1 - p) * (1 / n + 1e-5))  # RLRsim drew 1e5


def test_a_balanced_layout_is_tested_by_f():
    """There the statistic is a function of F = MSA / MSE, above one where the estimate is not zero."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(8), 5)
    y = rng.normal(size=40) + 0.4 * rng.normal(size=8)[g]
    found = mm.exact_rlrt(mm.lmm("y ~ 1 + (1 | g)", {"y": y, "g": g}), key=KEY, n=40_000)
    means = y.reshape(8, 5).mean(axis=1)
    F = 5 * means.var(ddof=1) / (y.reshape(8, 5).var(axis=1, ddof=1).mean())
    p = float(stats.f.sf(F, 7, 32))
    assert 0.002 < p < 0.2 and F > 1
    assert found.p == pytest.approx(p, abs=4 * np.sqrt(p / 40_000))
    zero = stats.f.cdf(1, 7, 32)
    assert found.zero == pytest.approx(zero, abs=4 * np.sqrt(0.25 / 40_000)) and zero > 0.55
    assert "variance of (1 | g) is zero" in repr(found) and found.notes == ()


def test_each_draw_is_the_largest_of_its_curve():
    """Against the ratio maximised in one draw after the other, from the same numbers."""
    from scipy.optimize import minimize_scalar

    mu = np.array([9.0, 5.0, 5.0, 0.7])
    found = exact.draw(mu, 20, 200, KEY)
    rng = np.random.Generator(np.random.Philox(key=np.asarray(exact.words(KEY), np.uint64)))
    w, rest = rng.chisquare([1.0, 2.0, 1.0], (200, 3)), rng.chisquare(16, 200)
    values, counts = np.array([9.0, 5.0, 0.7]), np.array([1, 2, 1])
    for k in range(200):

        def height(log_lam, k=k):
            a = np.exp(log_lam) * values
            down = np.sum(w[k] / (1 + a)) + rest[k]
            return -20 * np.log((w[k].sum() + rest[k]) / down) + counts @ np.log1p(a)

        best = min(minimize_scalar(height, bounds=(c - 3, c + 3), method="bounded").fun for c in range(-15, 15, 3))
        assert found[k] == pytest.approx(max(0.0, -best), abs=1e-4)


def test_spectrum_is_that_of_dense_algebra():
    rng = np.random.default_rng(1)
    codes, X, z, w = rng.integers(0, 6, 30), rng.normal(size=(30, 2)), rng.normal(size=(30, 1)), rng.uniform(1, 3, 30)
    mu = exact.spectrum(X, z, codes, 6, w)
    root = np.sqrt(w)[:, None]
    Z, A = root * z * (codes[:, None] == np.arange(6)), root * X
    P = np.eye(30) - A @ np.linalg.solve(A.T @ A, A.T)
    np.testing.assert_allclose(mu, np.sort(np.linalg.eigvalsh(Z.T @ P @ Z))[::-1][: len(mu)], rtol=1e-9)


def test_rlrsim(weak):
    ref = REFERENCE["weak"]
    found = mm.exact_rlrt(weak, "Subject", key=KEY, n=40_000)
    assert found.statistic == pytest.approx(ref["statistic"], abs=1e-4)
    assert found.p == pytest.approx(ref["p"], abs=mc(ref["p"], 40_000))
    d = weak.model.design
    draws = exact.draw(exact.spectrum(d.X, d.terms[0].Z, d.factors[0].codes, 18, None), len(d.y) - 2, 40_000, KEY)
    for level, q in zip((0.8, 0.9, 0.95, 0.99), REFERENCE["weak_quantiles"], strict=True):
        assert np.mean(draws <= q) == pytest.approx(level, abs=mc(level, 40_000))
    dye = mm.exact_rlrt(mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff")), key=KEY)
    assert dye.statistic == pytest.approx(REFERENCE["dye"]["statistic"], abs=1e-4)
    assert dye.p == pytest.approx(REFERENCE["dye"]["p"], abs=mc(REFERENCE["dye"]["p"], 10_000) + 1e-4)


def test_one_of_several_variances(sleepstudy):
    """Between two fits, and with the smaller one fitted here."""
    whole = mm.lmm("Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)", sleepstudy)
    smaller = mm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy)
    found = mm.exact_rlrt(whole, "(0 + Days | Subject)", key=KEY, n=2000)
    assert found.statistic == pytest.approx(REFERENCE["slopes"]["statistic"], abs=1e-4)
    assert found.p == pytest.approx(1 / 2001) and "taken for known" in found.notes[0]
    table = mm.anova(smaller, whole, method="exact", key=KEY, n=2000)
    row = table.to_frame().iloc[1]
    assert row["chisq"] == pytest.approx(found.statistic, abs=1e-6) and row["p"] == found.p
    assert (
        row["reference"] == "exact, 2000 draws" and "taken for known" in repr(table) and "refitted" not in repr(table)
    )
    with says(ValueError, "term must be one of '(1 | Subject)', '(0 + Days | Subject)'"):
        mm.exact_rlrt(whole, key=KEY)
    with says(ValueError, "no one term 'Subject'"):
        mm.exact_rlrt(whole, "Subject", key=KEY)
    with says(ValueError, "differ by one uncorrelated term"):
        mm.anova(smaller, mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy), method="exact", key=KEY)


def test_a_variance_of_zero(sleepstudy):
    flat = mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff2"))
    found = mm.exact_rlrt(flat, key=KEY, n=500)
    assert found.statistic == pytest.approx(0, abs=1e-8) and found.p > 0.3


@pytest.mark.slow
def test_level_with_six_levels(claim):
    """No variance between unequal levels in truth: the share of data sets beyond the draws' quantiles is as claimed,
    where the limit of many levels rejects too rarely."""
    n, sizes = 4000, [2, 3, 4, 6, 8, 12]
    g = np.repeat(np.arange(6), sizes)
    rng = np.random.default_rng(7)
    x, Y = rng.normal(size=35), rng.normal(size=(n, 35))
    model = mm.lmm("y ~ x + (1 | g)", {"y": Y[0], "x": x, "g": g}).model
    batch = mm.fit_many(model, Y, progress=False)
    X = np.column_stack([np.ones(35), x])
    rss = np.sum((Y - Y @ X @ np.linalg.solve(X.T @ X, X.T)) ** 2, axis=1)
    null = 33 * (1 + np.log(2 * np.pi * rss / 33)) + np.linalg.slogdet(X.T @ X)[1]
    statistic = np.maximum(null + 2 * batch.loglik, 0.0)
    draws = exact.draw(exact.spectrum(X, np.ones((35, 1)), g, 6, None), 33, 100_000, KEY)
    assert np.mean(statistic < 1e-7) == pytest.approx(np.mean(draws == 0), abs=4 * np.sqrt(0.25 / n))
    for alpha in (0.01, 0.05, 0.1, 0.2):
        rate = np.mean(statistic > np.quantile(draws, 1 - alpha))
        claim(f"type I error of the exact restricted likelihood ratio, 6 levels, at {alpha:g}", rate, alpha, n=n)
        assert rate == pytest.approx(alpha, abs=4 * np.sqrt(alpha * (1 - alpha) / n))
    assert np.mean(boundary.Mixture(0, ("g", 6)).p(statistic) <= 0.1) < 0.09


def test_bad_input(sleep_reml, sleep_ml):
    with says(ValueError, "one variance, and (1 + Days | Subject) has 2 effects"):
        mm.exact_rlrt(sleep_reml, key=KEY)
    with says(ValueError, "restricted likelihoods of linear models", "reml=True"):
        mm.exact_rlrt(sleep_ml, key=KEY)
    with says(ValueError, "n must be a positive number of draws, not 0"):
        mm.exact_rlrt(sleep_reml, key=KEY, n=0)
    with says(TypeError, "takes a fit, as from lmm(), not Model"):
        mm.exact_rlrt(sleep_reml.model, key=KEY)
    with says(TypeError, "key must be a seed"):
        mm.exact_rlrt(mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff")), key=3.0)
