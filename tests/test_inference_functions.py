"""The criterion and the covariance of beta as functions of the variances, and Wald's test of Lβ: against dense algebra.

V (n, n) is written out (``helpers.covariance_of``) for one problem of each kind of elimination.
"""

import jax
import numpy as np
import pytest
from helpers import central, close, covariance_of, model, points, quick_jit

import jaxmm as mm
from jaxmm.objective.lmm import criterion, vcov

CASES = [
    ("one factor, q = 2", True),
    ("one factor, q = 2", False),
    ("nested, 2 levels", True),
    ("weights and offset", True),
    ("weights and offset", False),
]
LOG_SIGMA2 = np.array([-1.3, 0.2, 0.9])


def normal_criterion(m: mm.Model, theta: np.ndarray, log_sigma2: float) -> float:
    """-2 log of the density of y ~ N(Xβ, σ²V) at the best β; the determinant of X'(σ²V)^-1X and its 2π by REML."""
    d = m.design
    y = d.y if d.offset is None else d.y - d.offset
    V = np.exp(log_sigma2) * covariance_of(m, theta)
    information = d.X.T @ np.linalg.solve(V, d.X)
    residual = y - d.X @ np.linalg.solve(information, d.X.T @ np.linalg.solve(V, y))
    value = len(y) * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + residual @ np.linalg.solve(V, residual)
    return value + (np.linalg.slogdet(information / (2 * np.pi))[1] if m.reml else 0.0)


def normal_vcov(m: mm.Model, theta: np.ndarray, log_sigma2: float) -> np.ndarray:
    V = np.exp(log_sigma2) * covariance_of(m, theta)
    return np.linalg.inv(m.design.X.T @ np.linalg.solve(V, m.design.X))


def _everything(theta, log_sigma2, arrays):
    return {
        "criterion": criterion(theta, log_sigma2, arrays),
        "slopes": jax.grad(criterion, (0, 1))(theta, log_sigma2, arrays),
        "vcov": vcov(theta, log_sigma2, arrays),
        "moves": jax.jacfwd(vcov, (0, 1))(theta, log_sigma2, arrays),
        "profiled": mm.deviance(theta, arrays),
    }


_at_points = quick_jit(jax.vmap(_everything, (0, 0, None)))  # under jit and vmap at once


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    """The model, three points, and all that is asked at them."""
    m = model(*request.param)
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, _at_points(points(m), LOG_SIGMA2, m.arrays))
    return m, points(m), found


def test_criterion_is_the_density_written_out(case):
    m, thetas, found = case
    expected = [normal_criterion(m, *at) for at in zip(thetas, LOG_SIGMA2, strict=True)]
    np.testing.assert_allclose(found["criterion"], expected, rtol=1e-11)


def test_slopes_are_finite_differences_of_the_density(case):
    m, thetas, found = case
    at = np.append(thetas[0], LOG_SIGMA2[0])
    expected = central(lambda x: normal_criterion(m, x[:-1], x[-1]), at, 3e-4)
    close(np.append(found["slopes"][0][0], found["slopes"][1][0]), expected, 1e-8)


def test_vcov_is_generalised_least_squares(case):
    m, thetas, found = case
    for k, at in enumerate(zip(thetas, LOG_SIGMA2, strict=True)):
        close(found["vcov"][k], normal_vcov(m, *at), 1e-10)
        np.testing.assert_array_equal(found["vcov"][k], found["vcov"][k].T)


def test_moves_of_vcov_are_finite_differences(case):
    m, thetas, found = case
    expected = central(lambda x: normal_vcov(m, x, LOG_SIGMA2[0]), thetas[0], 3e-4)
    close(found["moves"][0][0], np.moveaxis(expected, 0, -1), 1e-8)
    close(found["moves"][1][0], found["vcov"][0], 1e-13)


def test_the_deviance_is_the_least_criterion(case):
    """By log σ², at pwrss / df; there its slope is zero and elsewhere the value larger."""
    m, thetas, found = case
    df = len(m.design.y) - (m.design.X.shape[1] if m.reml else 0)
    pwrss = np.exp(LOG_SIGMA2) * (df - found["slopes"][1])  # slope by log σ² = df - pwrss / σ²
    best = np.log(pwrss / df)
    with jax.enable_x64(True):
        there = jax.tree.map(np.asarray, _at_points(thetas, best, m.arrays))
    np.testing.assert_allclose(there["criterion"], found["profiled"], rtol=1e-13)
    np.testing.assert_allclose(there["slopes"][1], 0, atol=1e-11 * df)
    close(there["slopes"][0], _profiled_slopes(m, thetas), 1e-10)
    assert np.all(found["criterion"] > found["profiled"])


def _profiled_slopes(m: mm.Model, thetas: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(quick_jit(jax.vmap(jax.grad(mm.deviance), (0, None)))(thetas, m.arrays))


@pytest.mark.parametrize("reml", [True, False])
def test_a_fit_has_the_vcov_and_deviance_of_its_estimates(reml, sleep_reml, sleep_ml):
    fit = sleep_reml if reml else sleep_ml
    with jax.enable_x64(True):
        at = fit.theta, np.log(fit.scale), fit.model.arrays
        np.testing.assert_allclose(vcov(*at), fit.vcov(), rtol=1e-10)
        np.testing.assert_allclose(criterion(*at), fit.deviance, rtol=1e-13)


def test_without_fixed_effects(x64):
    m = model("no fixed effects")
    theta = points(m)[0]
    np.testing.assert_allclose(criterion(theta, 0.3, m.arrays), normal_criterion(m, theta, 0.3), rtol=1e-12)
    assert vcov(theta, 0.3, m.arrays).shape == (0, 0)


def test_arrays_of_more_digits_than_jax_has_are_refused():
    m = model("one factor, q = 2")
    for function in (criterion, vcov):
        with pytest.raises(TypeError, match="32-bit mode"):
            function(np.zeros(3), 0.0, m.arrays)
