"""Replicates one by one: fits of what is left are the oracle, and lanes find the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from glmm_fits import fitted
from helpers import close

import jaxmm as mm
from jaxmm import costs, start_glmm
from jaxmm.batch import apart
from jaxmm.batch.engine import fit_many
from jaxmm.inference.r2 import null_intercept, null_model
from jaxmm.sources.resample import LeaveOneOut, WithoutRows

COLUMNS = ("fixef", "bse", "theta", "varcorr_sd", "varcorr_corr", "sigma", "loglik")


def without(fit, outermost=True):
    own = fit.model.design.factors[0]
    return apart.without_each(fit, own.codes, len(own.levels), outermost)


def agree(found, lone, k):
    one = found[k]
    close(one.fixef, lone.fixef, 1e-6)
    close(one.bse, lone.bse, 1e-6)
    close(one.theta, lone.theta, 1e-5)
    assert one.loglik == pytest.approx(lone.loglik, abs=1e-7) and one.sigma == pytest.approx(lone.sigma, rel=1e-6)
    for a, b in zip(one.varcorr().blocks, lone.varcorr().blocks, strict=True):
        close(a.cov, b.cov, 1e-5)


def test_a_linear_model_without_a_subject(sleepstudy, sleep_reml):
    found = without(sleep_reml)
    assert len(found) == 18 and found.converged.all()
    agree(found, mm.lmm(sleep_reml.formula, sleepstudy[sleepstudy["Subject"] != "309"]), 1)


def test_a_generalised_model_without_a_herd():
    fit = fitted("cbpp")
    found = without(fit)
    data = mm.datasets.load("cbpp")
    herd = fit.model.design.factors[0].levels[3]
    assert len(found) == 15 and found.converged.all()
    agree(found, mm.glmm(fit.formula, data[data["herd"] != herd], "binomial"), 3)


@pytest.mark.parametrize("name", ["linear", "crossed", "cbpp", "nbinom2"])
def test_lanes_find_the_same(name, sleep_reml):
    fit = sleep_reml if name == "linear" else fitted(name)
    own = fit.model.design.factors[0]
    rows = WithoutRows(fit, own.codes, len(own.levels))
    one_by_one = without(fit, name != "crossed")
    lanes = fit_many(fit.model, rows if name == "crossed" else LeaveOneOut(fit), start=fit, progress=False)
    np.testing.assert_array_equal(one_by_one.status, lanes.status)
    for column in (*COLUMNS, "dispersion"):
        np.testing.assert_allclose(getattr(one_by_one, column), getattr(lanes, column), rtol=2e-4, atol=1e-6)


def test_many_replicates_are_lanes(monkeypatch):
    fit = fitted("cbpp")
    assert apart.can_be_apart(fit, 15) and not apart.can_be_apart(fit, costs.APART + 1)
    monkeypatch.setattr(costs, "APART_ROWS", 15 * fit.model.arrays.y.size - 1)
    assert not apart.can_be_apart(fit, 15)


@pytest.mark.parametrize("name", ["cbpp", "nbinom2"])
def test_the_model_without_covariates_by_the_program_of_the_fit(name):
    fit = fitted(name)
    assert null_intercept(fit) == pytest.approx(null_model(fit.model).fit().fixef.iloc[0], abs=1e-6)


def test_a_further_start_of_lanes_with_zeros_can_be_traced():
    """Which way phi goes is known before a program runs, also where the variance has a predictor of its own."""
    counts = pd.DataFrame({"y": np.arange(24) % 5 * (np.arange(24) % 3 > 0), "g": np.arange(24) // 4})
    model = mm.Model.from_formula("y ~ 1 + (1 | g)", counts, "nbinom2", zero_inflation="~1")
    rows = model.arrays
    psi = np.zeros(rows.layout.size)
    with jax.enable_x64(True):
        traced = jax.jit(lambda psi: start_glmm.second_start(psi, rows, jnp))(psi)
    np.testing.assert_allclose(traced, start_glmm.second_start(psi, rows))
