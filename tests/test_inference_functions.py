"""The criterion and the covariance of beta as functions of the variances, and Wald's test of Lβ: against dense algebra.

V (n, n) is written out (``helpers.covariance_of``) for one problem of each kind of elimination.
"""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import central, close, covariance_of, model, points, quick_jit, says
from scipy import stats

import jaxmm as mm
from jaxmm.inference import wald
from jaxmm.inference.compare import likelihood_ratio
from jaxmm.objective.lmm import criterion, vcov
from jaxmm.studies.hypotheses import Fits, WaldZ

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


# ---------------------------------------------------------------- Wald's test of Lβ
def estimates(*shape: int, p: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """β̂ (.., p) of very different sizes, and covariances (.., p, p)."""
    rng = np.random.default_rng(5)
    units = np.array([1e-4, 1.0, 30.0, 1e5])[:p]
    root = rng.normal(size=(*shape, p, p)) + 2 * np.eye(p)
    return units * rng.normal(size=(*shape, p)), units * (root @ np.swapaxes(root, -1, -2)) * units[:, None]


L = np.array([[0, 1.0, 0, 0], [0, -0.5, 0.2, 0], [1, 0, 1, -1]])


def test_each_row_by_itself_is_a_z_test():
    beta, V = estimates(3)
    se = np.sqrt(wald.variances(L, V))
    found = wald.each(beta @ L.T, se)
    expected = np.array([[l @ b / np.sqrt(l @ v @ l) for l in L] for b, v in zip(beta, V, strict=True)])
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-13)
    np.testing.assert_allclose(found.p, 2 * stats.norm.sf(np.abs(expected)), rtol=1e-12)
    assert found.df == 1


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_all_rows_together_are_a_chi_squared_test(shape):
    """The textbook (Lβ)'(LVL')^-1(Lβ), of each leading index by itself."""
    beta, V = estimates(*shape)
    found = wald.together(L, beta, V)
    assert found.df == 3 and found.statistic.shape == found.p.shape == shape
    for k in np.ndindex(shape):
        expected = (L @ beta[k]) @ np.linalg.solve(L @ V[k] @ L.T, L @ beta[k])
        np.testing.assert_allclose(found.statistic[k], expected, rtol=1e-9)
        np.testing.assert_allclose(found.p[k], stats.chi2.sf(expected, 3), rtol=1e-9)


def test_one_row_together_is_the_same_as_by_itself():
    beta, V = estimates(5)
    z, together = wald.each(beta @ L[2], np.sqrt(wald.variances(L[2:], V)[:, 0])), wald.together(L[2], beta, V)
    np.testing.assert_allclose(together.statistic, z.statistic**2, rtol=1e-12)
    np.testing.assert_allclose(together.p, z.p, rtol=1e-10)


def test_the_test_depends_on_the_hypothesis_alone():
    """Not on the units of a coefficient, nor on how the rows that span it are written."""
    beta, V = estimates()
    expected = wald.together(L, beta, V)
    units = np.array([1e6, 1e-6, 1, 1e3])
    np.testing.assert_allclose(wald.together(L / units, beta * units, V * np.outer(units, units)), expected, rtol=1e-9)
    mixed = np.array([[2.0, 0, 0], [1, -1, 0], [3, 0, 7]]) @ L
    np.testing.assert_allclose(wald.together(mixed, beta, V), expected, rtol=1e-9)


def test_what_has_no_test_is_nan_and_leaves_its_neighbours_alone():
    beta, V = estimates(5)
    expected = wald.together(L, beta, V)
    beta[0, 1], V[1, 2, 2], V[2], V[3] = np.nan, np.inf, 0.0, np.outer(beta[3], beta[3])  # the last of rank one
    found = wald.together(L, beta, V)
    assert np.isnan(found.statistic[:4]).all() and np.isnan(found.p[:4]).all()
    assert found.statistic[4] == expected.statistic[4]
    z, _, p = wald.each([0.0, 1.0, np.nan], [0.0, 0.0, 1.0])
    assert np.isnan(z).all() and np.isnan(p).all()  # no certainty, p = 0, from a standard error of zero


def test_a_hypothesis_that_is_none_is_refused():
    beta, V = estimates()
    with says(ValueError, "L has 3 columns for 4 coefficients"):
        wald.together(L[:, :3], beta, V)
    with says(ValueError, "rows of L are not independent", "leave out"):
        wald.together([*L, L[0] - L[1]], beta, V)
    with says(ValueError, "rows of L are not independent"):
        wald.together(np.zeros(4), beta, V)


def test_levels_and_intervals():
    np.testing.assert_allclose(wald.quantile(0.95), 1.959963984540054, rtol=1e-15)
    lower, upper = wald.interval(np.array([1.0, -2.0]), np.array([0.5, 0.0]), 0.9)
    np.testing.assert_allclose(lower, [1 - 0.5 * 1.6448536269514722, -2.0], rtol=1e-15)
    np.testing.assert_allclose(upper, [1 + 0.5 * 1.6448536269514722, -2.0], rtol=1e-15)
    for level in (0, 1, 95, -0.5, np.nan):
        with says(ValueError, "level must lie between 0 and 1, not", "0.95"):
            wald.check_level(level)


def test_likelihood_ratio():
    found = likelihood_ratio(np.array([12.0, 3.0]), np.array([8.0, 3.5]), 2)
    np.testing.assert_array_equal(found.statistic, [4.0, 0.0])
    np.testing.assert_allclose(found.p, [np.exp(-2.0), 1.0], rtol=1e-15)
    assert np.isnan(likelihood_ratio(3.0, 3.0, 0).p)


def test_fits_batches_and_studies_have_the_same_test(sleep_reml):
    """By z and p of each coefficient, that of L = I."""
    y = sleep_reml.model.design.y
    batch = mm.fit_many(sleep_reml.model, np.stack([y, y[::-1]]), progress=False)
    one = batch[0]
    z, _, p = wald.each(batch.fixef, batch.bse)
    np.testing.assert_array_equal(batch.zvalues, z)
    table = batch.test_table(adjust=None)
    np.testing.assert_array_equal(table["z"].to_numpy().reshape(2, 2), z.T)
    np.testing.assert_array_equal(table["p"].to_numpy().reshape(2, 2), p.T)
    by_column = WaldZ().p_values(Fits(sleep_reml.model, batch, None, {}))
    np.testing.assert_array_equal(np.stack([*by_column.values()], 1), p)
    for fit, df, name in ((one, np.inf, "p_normal"), (sleep_reml, sleep_reml.coef_table()["df"], "p")):
        found = wald.each(fit.fixef, fit.bse, df)
        pd.testing.assert_series_equal(fit.tvalues, pd.Series(found.statistic, fit.fixef.index, name="t"))
        pd.testing.assert_series_equal(fit.pvalues, pd.Series(found.p, fit.fixef.index, name=name))
    together = wald.together(np.eye(2)[1], sleep_reml.fixef, sleep_reml.vcov())
    np.testing.assert_allclose(together.p, sleep_reml.coef_table("asymptotic")["p"]["Days"], rtol=1e-10)
    np.testing.assert_allclose(wald.ratio(together.statistic, 1, 17.0), sleep_reml.pvalues["Days"], rtol=1e-6)
    frame = sleep_reml.tidy(conf_level=0.9)[:2]
    np.testing.assert_array_equal(frame["statistic"], sleep_reml.tvalues)
    np.testing.assert_array_equal(frame[["conf_low", "conf_high"]], sleep_reml.confint(level=0.9))
