"""What is read off at the end of a search, against matrices written out: beta, its covariance, modes, covariances."""

import jax
import numpy as np
import pytest
from helpers import close, covariance_of, model
from problems import PROBLEMS

import jaxmm as mm
from jaxmm.estimate import conditional_covariance, explained, moment_start, original_theta, scaled_theta

NAMES = ("nested, 3 levels", "crossed, q = 2 and 2, cells", "chain and two crossed, dense border", "weights and offset")


def written_out(fit: mm.Fit) -> dict:
    """Henderson's quantities at the fit's theta and sigma, from V (n, n)."""
    d = fit.model.design
    y = d.y if d.offset is None else d.y - d.offset
    V = fit.scale * covariance_of(fit.model, fit.theta)
    vcov = np.linalg.inv(d.X.T @ np.linalg.solve(V, d.X))
    beta = vcov @ d.X.T @ np.linalg.solve(V, y)
    residual = np.linalg.solve(V, y - d.X @ beta)
    modes, cond = [], []
    for f, factor in enumerate(d.factors):
        Z = np.hstack([t.Z for t in d.terms if t.factor == f])
        D = fit.scale * fit.factor_lam(f) @ fit.factor_lam(f).T
        indicator = (factor.codes[:, None] == np.arange(len(factor.levels))).astype(float)
        modes.append((indicator.T @ (Z * residual[:, None])) @ D)
        Zj = indicator.T[:, :, None] * Z  # (J, n, q)
        cond.append(D - D @ np.swapaxes(Zj, 1, 2) @ np.linalg.solve(V, Zj @ D))
    return {"beta": beta, "vcov": vcov, "modes": modes, "cond": cond}


@pytest.mark.parametrize("name", NAMES)
def test_estimates_are_those_of_matrices_written_out(name):
    fit = model(name).fit()
    expected = written_out(fit)
    close(fit.fixef, expected["beta"], 1e-9)
    close(fit.vcov(), expected["vcov"], 1e-9)
    ranef = fit.ranef()
    for f, factor in enumerate(fit.model.design.factors):
        close(ranef[factor.name], expected["modes"][f], 1e-8)
        close(ranef.cond_cov[factor.name], expected["cond"][f], 1e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_start_is_inside_and_theta_goes_to_the_scaled_columns_and_back(name):
    m = model(name)
    start, T = moment_start(m.arrays), [np.asarray(t) for t in m.arrays.T]
    assert start.shape == (m.structure.num_theta,)
    for term, at in zip(m.structure.terms, m.structure.slices(), strict=True):
        assert np.all(np.diag(term.covariance.factor(start[at])) > 0)
    close(scaled_theta(original_theta(start, T, m.structure), T, m.structure), start, 1e-10)


def test_derivatives_outside_a_fit_match_those_inside():
    """explained and conditional_covariance are pure functions of arrays: jit of jit, and a batch of theta."""
    m = model("weights and offset")
    with jax.enable_x64(True):
        theta = np.stack([moment_start(m.arrays), 2 * moment_start(m.arrays)])
        for function in (explained, conditional_covariance):
            batched = jax.vmap(function, (0, None))(theta, m.arrays)
            for k, x in enumerate(function(theta[1], m.arrays)):
                close(batched[k][1], x, 1e-12)
