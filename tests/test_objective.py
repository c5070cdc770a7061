"""The profiled deviance: the criterion written out, finite differences, closed forms, invariances at a fixed theta."""

import numpy as np
import pandas as pd
import pytest
from helpers import central, close, derivatives, model, oracle_deviance, points
from problems import PROBLEMS

import jaxmm as mm

CASES = [*((name, True) for name in PROBLEMS), ("one factor, q = 2", False)]


@pytest.mark.parametrize(("name", "reml"), CASES)
def test_deviance_is_the_criterion_written_out(name, reml):
    m = model(name, reml)
    expected = [oracle_deviance(m, theta) for theta in points(m)]
    np.testing.assert_allclose(derivatives(name, reml)[0], expected, rtol=1e-11)


@pytest.mark.parametrize(("name", "reml"), CASES)
def test_gradient_and_hessian_are_finite_differences(name, reml):
    """Of the criterion written out.  With steps h a fourth-order difference is off by about h^4 and 1e-13/h (the
    gradient's) or 1e-13/h² (the Hessian's)."""
    m, theta = model(name, reml), points(model(name, reml))[0]
    _, gradient, hessian = (x[0] for x in derivatives(name, reml))

    def slope(h):
        return lambda t: central(lambda s: oracle_deviance(m, s), t, h)

    close(gradient, slope(3e-4)(theta), 1e-8)
    close(hessian, central(slope(1e-3), theta, 1e-3), 1e-5)
    close(hessian, hessian.T, 1e-11)


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_even_in_each_column_of_lam_and_so_stationary_at_zero(name):
    value, gradient, _ = derivatives(name)
    np.testing.assert_allclose(value[1], value[0], rtol=1e-14)
    np.testing.assert_allclose(gradient[2], 0, atol=1e-12)


def test_nested_solved_as_crossed():
    """The chain's outer factor moved to the dense rest: the same value and derivatives."""
    name = "nested, 2 levels"
    inner, outer = model(name).elimination.chain
    for a, b in zip(derivatives(name), derivatives(name, chain=(inner,), rest=(outer,), sparse=True), strict=True):
        close(a, b, 1e-10)


# ---------------------------------------------------------------- closed forms
@pytest.fixture(scope="module", params=[True, False], ids=["REML", "ML"])
def dyestuff(request):
    data = mm.datasets.load("dyestuff")
    return data, mm.lmm("Yield ~ 1 + (1 | Batch)", data, reml=request.param)


def mean_squares(data: pd.DataFrame) -> tuple[int, int, float, float]:
    """Levels a, rows per level m, mean squares between and within."""
    groups = data.groupby("Batch", observed=True)["Yield"]
    a, m = groups.ngroups, len(data) // groups.ngroups
    between = m * np.sum((groups.mean() - data["Yield"].mean()) ** 2) / (a - 1)
    within = np.sum((data["Yield"] - groups.transform("mean")) ** 2) / (a * (m - 1))
    return a, m, between, within


def test_balanced_one_way_analysis_of_variance(dyestuff):
    """Searle, Casella & McCulloch (1992), §3.5-3.8: REML is the ANOVA estimate; ML divides MSA by a for a - 1."""
    data, fit = dyestuff
    a, m, between, within = mean_squares(data)
    shrunk = between if fit.reml else between * (a - 1) / a
    np.testing.assert_allclose(fit.scale, within, rtol=1e-9)
    np.testing.assert_allclose(fit.varcorr().cov["Batch"].iloc[0, 0], (shrunk - within) / m, rtol=1e-9)
    np.testing.assert_allclose(fit.fixef.iloc[0], data["Yield"].mean(), rtol=1e-14)
    np.testing.assert_allclose(fit.vcov().iloc[0, 0], shrunk / (a * m), rtol=1e-9)
    # eigenvalues of Cov(y): MSA-like once per level, sigma² for the rest
    total = (a - 1) * between / shrunk + a * (m - 1)
    logdet = a * np.log(shrunk) + a * (m - 1) * np.log(within)
    deviance = logdet + total + (len(data) - fit.reml) * np.log(2 * np.pi)
    deviance += np.log(a * m / shrunk) if fit.reml else 0.0
    np.testing.assert_allclose(fit.deviance, deviance, rtol=1e-12)


def test_shrinkage_of_the_means_is_the_reliability(dyestuff):
    data, fit = dyestuff
    D, m = fit.varcorr().cov["Batch"].iloc[0, 0], 5
    means = data.groupby("Batch", observed=True)["Yield"].mean() - data["Yield"].mean()
    close(fit.ranef()["Batch"].iloc[:, 0], means * m * D / (m * D + fit.scale), 1e-9)
    close(fit.ranef().cond_cov["Batch"].ravel(), np.full(6, D * fit.scale / (m * D + fit.scale)), 1e-9)


@pytest.mark.parametrize("reml", [True, False])
def test_without_random_effects_it_is_ordinary_least_squares(reml):
    name = "one factor, q = 2"
    X, y = model(name).design.X, model(name).design.y
    rss, df = np.sum((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2), len(y) - reml * X.shape[1]
    expected = df * (1 + np.log(2 * np.pi * rss / df)) + reml * np.linalg.slogdet(X.T @ X)[1]
    np.testing.assert_allclose(derivatives(name, reml)[0][2], expected, rtol=1e-13)
