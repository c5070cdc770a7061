"""Simulated residuals: ranks, tests of them, what rows they have, and how often the tests reject a true model."""

import jax
import numpy as np
import pandas as pd
import pytest
from glmm_fits import data, fitted
from helpers import covariance_of, says
from scipy.special import ndtr
from scipy.stats import kstest

import jaxmm as mm
from jaxmm.design import DataError
from jaxmm.diagnose import pit, residual_tests
from jaxmm.diagnose.effective import effective_df, leverages
from jaxmm.diagnose.residual_tests import simulated_p

KEY = jax.random.key(7)


# ---------------------------------------------------------------- ranks
def test_ranks_of_a_row():
    """Of 3, 1, 3, 2, by hand: below + v ties over 4."""
    values, v = np.array([[3.0], [1.0], [3.0], [2.0]]), np.full((4, 1), 0.25)
    assert pit.transforms(values, v)[:, 0] == pytest.approx([2.5 / 4, 0.25 / 4, 2.5 / 4, 1.25 / 4])
    assert pit.transform(values[0], values[1:], v[0]) == pytest.approx([2.5 / 4])


@pytest.mark.parametrize("integer", [False, True])
def test_transforms_are_those_of_each_value(integer):
    rng = np.random.default_rng(0)
    values, v = rng.normal(size=(41, 30)), rng.random((41, 30))
    values = np.round(values) if integer else values
    found = pit.transforms(values, v)
    for k in (0, 17, 40):
        assert found[k] == pytest.approx(pit.transform(values[k], np.delete(values, k, 0), v[k]), abs=1e-14)


@pytest.mark.parametrize("mean", [0.2, 3.0, 1e6])
def test_exchangeable_values_are_uniform(mean):
    """Whatever their distribution: counts with many ties, and with hardly any."""
    rng = np.random.default_rng(1)
    values = rng.poisson(mean, (40, 4000)).astype(float)
    r = pit.transforms(values, rng.random(values.shape))[0]
    assert kstest(r, "uniform").pvalue > 1e-3 and 0 < r.min() and r.max() < 1


def test_no_residual_is_zero_or_one():
    r = pit.transform(np.array([9.0, -9.0]), np.zeros((20, 2)), np.array([1.0, 0.0]))
    assert 0 < r[1] < 1 / 21 and 20 / 21 < r[0] < 1


def test_p_by_simulation():
    simulated = np.arange(1.0, 20.0)
    assert simulated_p(19.5, simulated) == 1 / 20
    assert simulated_p(19.0, simulated) == 2 / 20  # equal counts
    assert simulated_p(0.0, simulated, "less") == 1 / 20
    assert simulated_p(0.0, simulated, "two-sided") == 2 / 20
    assert simulated_p(10.0, simulated, "two-sided") == 1.0
    with says(ValueError, "alternative must be one of 'two-sided', 'greater', 'less', not 'both'"):
        simulated_p(0.0, simulated, "both")


def test_kolmogorov():
    r = np.random.default_rng(2).random((3, 50))
    found = residual_tests.kolmogorov(r)
    expected = [kstest(row, "uniform") for row in r]
    assert found == pytest.approx([e.statistic for e in expected])
    assert residual_tests.kolmogorov_p(found[1], 50) == pytest.approx(expected[1].pvalue)


# ---------------------------------------------------------------- of a fit
def test_of_a_linear_model_they_are_phi_of_its_residuals(sleep_reml):
    sr = sleep_reml.simulated_residuals(2000, key=KEY)
    expected = ndtr(sleep_reml.residuals().to_numpy() / sleep_reml.sigma)
    assert np.max(np.abs(sr.residuals.to_numpy() - expected)) < 5 * np.sqrt(0.25 / 2000)
    assert sr.residuals.index.equals(sleep_reml.residuals().index)


def test_with_new_effects_they_are_those_of_the_marginal_distribution(sleep_reml):
    sr = sleep_reml.simulated_residuals(2000, key=KEY, re="new")
    sd = np.sqrt(sleep_reml.scale * np.diag(covariance_of(sleep_reml.model, sleep_reml.theta)))
    z = (sr.observed - sleep_reml.predict(re="population")) / sd
    assert np.max(np.abs(sr.residuals - ndtr(z))) < 5 * np.sqrt(0.25 / 2000)


def test_the_key_decides(sleep_reml):
    a, b = (sleep_reml.simulated_residuals(50, key=KEY).residuals for _ in range(2))
    assert a.equals(b) and not a.equals(sleep_reml.simulated_residuals(50, key=jax.random.key(8)).residuals)


@pytest.mark.parametrize("name", ["weighted", "sleep_reml"])
def test_effective_degrees_of_freedom(name, request):
    """n - tr(RP), written out, of crossed factors with weights too."""
    fit = request.getfixturevalue(name)
    d, V = fit.model.design, covariance_of(fit.model, fit.theta)
    inverse = np.linalg.inv(V)
    P = inverse - inverse @ d.X @ np.linalg.solve(d.X.T @ inverse @ d.X, d.X.T @ inverse)
    R = np.ones(len(d.y)) if d.weights is None else 1 / d.weights
    assert effective_df(fit) == pytest.approx(len(d.y) - R @ np.diag(P), rel=1e-8)
    assert leverages(fit).sum() == pytest.approx(effective_df(fit), rel=1e-10)
    exact = 1 - R * np.diag(P)
    if len(d.factors) == 1:
        np.testing.assert_allclose(leverages(fit), exact, rtol=2e-3)
    assert np.corrcoef(leverages(fit), exact)[0, 1] > 0.9


def test_rows_of_weight_zero_are_left_out():
    table = mm.datasets.load("sleepstudy").assign(w=1.0)
    table.loc[[3, 40], "w"] = 0.0
    fit = mm.lmm("Reaction ~ Days + (1 | Subject)", table, weights="w")
    sr = fit.simulated_residuals(30, key=KEY)
    assert len(sr.residuals) == 178 and not {3, 40} & set(sr.residuals.index)
    days = sr.test_autocorrelation(table["Days"], by=table["Subject"])
    assert days.statistic == sr.test_autocorrelation("Days", by="Subject").statistic
    assert sr.test_autocorrelation(table["Days"].to_numpy(), by="Subject").statistic == days.statistic


def test_trials():
    sr = fitted("cbpp").simulated_residuals(60, key=KEY)
    assert sr.simulations.max() > 1 and sr.observed.max() > 1  # counts
    assert "56 rows" in repr(sr.test_uniformity()) and "zeros" in repr(sr)


def test_zero_inflation_is_seen_and_is_explained():
    """Extra zeros in Poisson counts: found by a Poisson model's test, no longer by that of the right model's."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(20), 15)
    y = rng.poisson(np.exp(1.2 + 0.3 * rng.normal(size=20)[g])) * (rng.random(300) > 0.35)
    table = pd.DataFrame({"y": y, "g": g})
    plain = mm.glmm("y ~ 1 + (1 | g)", table, "poisson").simulated_residuals(200, key=KEY)
    right = mm.glmm("y ~ 1 + (1 | g)", table, "poisson", zero_inflation="~ 1").simulated_residuals(200, key=KEY)
    assert plain.test_zero_inflation().p == 2 / 201 and plain.test_zero_inflation().statistic > 2
    assert plain.test_dispersion().p < 0.05 and plain.test_uniformity().p < 1e-6
    assert right.test_zero_inflation().p > 0.05 and right.test_uniformity().p > 0.05
    assert right.test_zero_inflation().statistic == pytest.approx(1, abs=0.15)


def test_overdispersion_is_seen():
    fit = mm.glmm("much ~ x + (1 | g)", data(), "poisson")
    sr = fit.simulated_residuals(100, key=KEY)
    assert sr.test_dispersion().p == 2 / 101 and sr.test_dispersion("greater").p == 1 / 101
    assert sr.test_dispersion().statistic > 1.5 and sr.test_outliers().statistic > 2 / 101
    assert fitted("nbinom2").simulated_residuals(100, key=KEY).test_dispersion().p > 0.05


def test_dispersion_is_a_ratio_of_variances():
    """Σ (y - μ)² / Σ V (1 - h), V = μ of the model itself, to the simulations' error."""
    fit = mm.glmm("much ~ x + (1 | g)", data(), "poisson")
    sr = fit.simulated_residuals(2000, key=KEY)
    r, V = fit.residuals().to_numpy(), fit.fitted().to_numpy()
    expected = r @ r / np.sum(V * (1 - leverages(fit)))
    assert sr.test_dispersion().statistic == pytest.approx(expected, rel=0.02)


def drifting(seed=5):
    """Groups of 12 rows in time, with errors of correlation 0.7, and another variance in half of the groups."""
    rng = np.random.default_rng(seed)
    J, M = 30, 12
    e = rng.normal(size=(J, M))
    for t in range(1, M):
        e[:, t] = 0.7 * e[:, t - 1] + np.sqrt(1 - 0.49) * e[:, t]
    arm = np.arange(J) % 2
    e = np.where(arm[:, None] == 1, 3.0, 1.0) * e
    table = {"g": np.repeat(np.arange(J), M), "t": np.tile(np.arange(M), J), "arm": np.repeat(arm, M)}
    return pd.DataFrame(table | {"y": (2 * rng.normal(size=J)[:, None] + e).ravel()})


def test_autocorrelation_and_unequal_variances_are_seen():
    table = drifting()
    sr = mm.lmm("y ~ 1 + (1 | g)", table).simulated_residuals(100, key=KEY)
    found = sr.test_autocorrelation(table["t"], by="g")
    assert found.p == 1 / 101 and found.statistic > 0.3 and "along t: r = " in repr(found)
    by = sr.test_by(table["arm"])
    assert by.p == 1 / 101 and by.table.index.tolist() == [0, 1] and by.table["n"].tolist() == [180, 180]
    assert by.table["below 0.25"][1] > 0.25 > by.table["below 0.25"][0]
    shuffled = table["t"].sample(frac=1, random_state=0).to_numpy()
    assert sr.test_autocorrelation(shuffled, by="g").p > 0.05
    tied = sr.test_autocorrelation(table["t"])  # means of 30 rows at each of 12 times
    assert np.isfinite(tied.statistic) and tied.p > 0.01


def test_quantiles_say_where():
    """The spread grows with the prediction, which the model does not know."""
    rng = np.random.default_rng(6)
    g, x = np.repeat(np.arange(20), 20), rng.uniform(0, 3, 400)
    table = pd.DataFrame({"g": g, "x": x, "y": 2 * x + rng.normal(size=20)[g] + x * rng.normal(size=400)})
    sr = mm.lmm("y ~ x + (1 | g)", table).simulated_residuals(100, key=KEY)
    found = sr.test_quantiles(5)
    assert found.p == 1 / 101 and len(found.table) == 5
    assert found.table["below 0.25"].iloc[0] < 0.15 < 0.3 < found.table["below 0.25"].iloc[-1]


def test_quantiles_say_why_bins_are_few(sleep_reml):
    alike = mm.lmm("Reaction ~ 1 + (1 | Subject)", mm.datasets.load("sleepstudy")).simulated_residuals(50, key=KEY)
    assert "(1 bin: the prediction is the same in every" in repr(alike.test_quantiles())
    sr = sleep_reml.simulated_residuals(50, key=KEY)
    assert sr.test_quantiles(40).how.startswith("10 bins of the prediction, which ties in many rows")
    assert sr.test_quantiles(1).how.startswith("1 bin, as asked for")
    few = mm.lmm("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy")[:30])
    assert few.simulated_residuals(50, key=KEY).test_quantiles().how.startswith("1 bin: fewer than 40 rows")


def test_what_is_printed(sleep_reml):
    sr = sleep_reml.simulated_residuals(100, key=KEY)
    text = repr(sr)
    assert "100 simulations of 180 rows, given the fitted random effects" in text
    for part in ("uniformity: D = ", "dispersion: ratio = ", "outliers: share = ", "quantiles: chi2 = ", "16 % of the"):
        assert part in text
    assert "zeros" not in text and sr.test_zero_inflation().reason
    frame = sr.to_frame()
    assert list(frame.index) == ["uniformity", "dispersion", "outliers", "quantiles"]
    assert "with new random effects" in repr(sleep_reml.simulated_residuals(40, key=KEY, re="new"))
    assert "not tested, neither" in repr(sr.test_zero_inflation())


def test_bad_input(sleep_reml):
    with says(ValueError, "n must be a number of simulations, at least 20, not 5"):
        sleep_reml.simulated_residuals(5, key=KEY)
    with says(ValueError, "re must be 'new' or 'conditional', not 'both'"):
        sleep_reml.simulated_residuals(key=KEY, re="both")
    with says(TypeError, "has no keyword 'seed'", "key=seed"):
        sleep_reml.simulated_residuals(seed=1)
    sr = sleep_reml.simulated_residuals(20, key=KEY)
    with says(ValueError, "column='Time'", "'Subject'", "'Days'", "data['Time']"):
        sr.test_by("Time")
    with says(DataError, "give one value for each of the 180 rows"):
        sr.test_autocorrelation(np.arange(5))
    with says(DataError, "must be numbers to go along"):
        sr.test_autocorrelation(np.array(["a"] * 180))
    with says(ValueError, "bins must be a positive number"):
        sr.test_quantiles(0)
    assert sr.test_autocorrelation(np.zeros(180)).reason == "no two places follow each other"


def test_picture():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sr = mm.glmm("much ~ x + (1 | g)", data(), "poisson").simulated_residuals(50, key=KEY)
    axes = sr.plot()
    axes[0].figure.canvas.draw()
    line = next(line for line in axes[0].get_lines() if line.get_label() == "rows")
    assert line.get_ydata() == pytest.approx(np.sort(sr.residuals))
    assert "much" in axes[1].get_xlabel()
    with says(ValueError, "axes must be 2"):
        sr.plot(axes[0])
    plt.close("all")


# ---------------------------------------------------------------- how often the tests reject a true model
TESTS = {
    "uniformity": lambda sr, t: sr.test_uniformity(),
    "dispersion": lambda sr, t: sr.test_dispersion(),
    "outliers": lambda sr, t: sr.test_outliers(),
    "quantiles": lambda sr, t: sr.test_quantiles(),
    "zeros": lambda sr, t: sr.test_zero_inflation(),
    "by": lambda sr, t: sr.test_by("g"),
    "autocorrelation": lambda sr, t: sr.test_autocorrelation(t, by="g"),
}


@pytest.mark.slow
@pytest.mark.parametrize("re", ["conditional", "new"])
@pytest.mark.parametrize("family", ["gaussian", "poisson", "binomial"])
def test_type_one_errors(family, re, claim, J=40, M=5, sets=200, level=0.05):
    """No test rejects a true model more often than ``level``, by four Monte-Carlo errors; most are conservative, since
    the model was fitted to the same response."""
    rng = np.random.default_rng(9)
    g, t = np.repeat(np.arange(J), M), np.tile(np.arange(M), J)
    x = rng.uniform(-1, 1, J * M)

    def draw():
        eta = 0.5 + 0.5 * x + 0.7 * rng.normal(size=J)[g]
        if family == "gaussian":
            return eta + rng.normal(size=J * M)
        return (rng.poisson(np.exp(eta)) if family == "poisson" else rng.binomial(8, 1 / (1 + np.exp(-eta)))) * 1.0

    table = pd.DataFrame({"g": g, "x": x, "y": draw(), "n": 8})
    left = "cbind(y, n - y)" if family == "binomial" else "y"
    model = mm.Model.from_formula(f"{left} ~ x + (1 | g)", table, None if family == "gaussian" else family)
    p = []
    for k in range(sets):
        sr = model.with_response(draw()).fit().simulated_residuals(99, key=jax.random.key(k), re=re)
        p.append([test(sr, t).p for test in TESTS.values()])
    rates = np.nanmean(np.array(p) <= level, axis=0)
    for name, rate in zip(TESTS, rates, strict=True):
        if np.isfinite(rate):
            claim(f"type I error of simulated residuals, {name}, {family}, re={re!r}", rate, level, n=sets)
    assert np.all(rates < level + 4 * np.sqrt(level * (1 - level) / sets)), dict(zip(TESTS, rates, strict=True))
