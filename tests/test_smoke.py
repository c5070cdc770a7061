"""What a newcomer tries first, on any Python and JAX: a few minutes with nothing compiled before.

pytest tests/test_smoke.py
"""

import jax
import numpy as np
import pytest

import jaxmm as mm


@pytest.fixture(scope="module")
def sleepstudy():
    return mm.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def cbpp():
    return mm.datasets.load("cbpp")


CBPP = "cbind(incidence, size - incidence) ~ period + (1 | herd)"


def test_a_linear_model_and_what_is_read_off_it(sleepstudy):
    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy)
    assert fit.converged and not fit.is_singular
    assert fit.deviance == pytest.approx(1743.6282719, abs=1e-6)  # lme4
    np.testing.assert_allclose(fit.fixef, [251.4051048, 10.4672860], atol=1e-6)
    np.testing.assert_allclose(fit.varcorr().sd["Subject"], [24.7405, 5.9221], atol=1e-3)
    assert "VarCorr" in str(fit.shrinkage())
    assert "Reaction ~ Days" in str(fit)
    assert fit.predict(sleepstudy.head(3)).shape == (3,)
    assert fit.simulate(2, key=jax.random.key(1)).shape == (2, 180)
    assert fit.refit(2 * sleepstudy.Reaction).sigma == pytest.approx(2 * fit.sigma, rel=1e-6)


def test_crossed_and_nested_factors():
    rng = np.random.default_rng(1)
    data = {"g": np.repeat(np.arange(12), 10), "h": np.tile(np.arange(10), 12), "x": rng.normal(size=120)}
    data["y"] = 1 + data["x"] + rng.normal(size=12)[data["g"]] + rng.normal(size=10)[data["h"]] + rng.normal(size=120)
    fit = mm.lmm("y ~ x + (x | g) + (1 | h)", data, reml=False)
    assert fit.converged
    assert fit.loglik >= mm.lmm("y ~ x + (1 | g) + (1 | h)", data, reml=False).loglik - 1e-8
    data["a"] = data["g"] * 10 + data["h"] // 5
    assert mm.lmm("y ~ x + (1 | g/a)", data).converged


def test_a_generalised_model_and_what_is_read_off_it(cbpp):
    fit = mm.glmm(CBPP, cbpp, "binomial")
    assert fit.converged
    assert fit.loglik == pytest.approx(-92.02628, abs=1e-4)  # glmmTMB
    assert np.all(np.abs(fit.marginal_coef()["estimate"]) < np.abs(fit.fixef))
    assert "herd" in str(fit)
    assert np.all((fit.fitted() > 0) & (fit.fitted() < 1))
    for kind in ("pearson", "deviance", "working"):
        assert np.all(np.isfinite(fit.residuals(kind)))
    assert fit.simulate(2, key=jax.random.key(1)).shape == (2, 56)


@pytest.mark.parametrize("family", ["poisson", "nbinom2", "gamma"])
def test_other_families(family):
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(15), 8)
    mu = np.exp(1 + 0.5 * rng.normal(size=15)[g])
    y = mu * rng.gamma(2.0, 0.5, len(g)) if family == "gamma" else rng.poisson(mu * rng.gamma(2.0, 0.5, len(g)))
    of = mm.families.get(family, "log")
    assert mm.glmm("y ~ 1 + (1 | g)", {"y": y, "g": g}, of).converged


def test_quadrature(cbpp):
    fit = mm.glmm(CBPP, cbpp, "binomial", n_agq=9)
    assert fit.converged
    assert fit.loglik == pytest.approx(-91.98337, abs=1e-3)


def test_a_batch_of_a_linear_model(sleepstudy):
    model = mm.Model.from_formula("Reaction ~ Days + (Days | Subject)", sleepstudy)
    fit = model.fit()
    many = mm.fit_many(model, fit.simulate(20, key=jax.random.key(2)), progress=False)
    assert many.converged.all()
    again = mm.fit_many(model, sleepstudy.Reaction.to_numpy()[None], progress=False)
    assert again.loglik[0] == pytest.approx(fit.loglik, abs=1e-7)


def test_a_batch_of_a_generalised_model(cbpp):
    model = mm.Model.from_formula(CBPP, cbpp, "binomial")
    fit = model.fit()
    many = mm.fit_many(model, fit.simulate(20, key=jax.random.key(3)), progress=False)
    assert many.converged.mean() > 0.9
    again = mm.fit_many(model, cbpp.incidence.to_numpy()[None], progress=False)
    assert again.loglik[0] == pytest.approx(fit.loglik, abs=1e-6)


def test_a_bootstrap_and_a_study(sleepstudy):
    fit = mm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy)
    assert mm.bootstrap(fit, 20, key=jax.random.key(4), progress=False).converged.all()
    assert mm.study(fit.model, fit, 20, key=jax.random.key(5), progress=False) is not None


def test_pictures(sleepstudy):
    pytest.importorskip("matplotlib").use("Agg")
    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy)
    assert mm.plots.shrinkage(fit) is not None


def test_programs(sleepstudy):
    model = mm.Model.from_formula("Reaction ~ Days + (Days | Subject)", sleepstudy)
    with jax.enable_x64(True):
        theta = np.array([0.9, 0.02, 0.2])
        value, gradient = jax.jit(jax.value_and_grad(mm.deviance))(theta, model.arrays)
        H = jax.jit(jax.hessian(mm.deviance))(theta, model.arrays)
    assert np.isfinite(value) and np.all(np.isfinite(gradient)) and np.all(np.isfinite(H))
    assert not jax.config.jax_enable_x64
