"""Errors of standard deviations, correlations and scales: against the Hessian by these themselves, and glmmTMB."""

import json
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit, says

import jaxmm as mm
from jaxmm.objective.lmm import criterion

REFERENCE = json.loads((Path(__file__).parent / "reference" / "variances.json").read_text())


def _natural(x, arrays):
    """The criterion of two correlated effects and an intercept of another factor, by (log sds, atanh r, log σ)."""
    sd, r, sigma = jnp.exp(x[:3]), jnp.tanh(x[3]), jnp.exp(x[4])
    theta = jnp.stack([sd[0], r * sd[1], jnp.sqrt(1 - r * r) * sd[1], sd[2]]) / sigma
    return criterion(theta, 2 * x[4], arrays)


_hessian = quick_jit(jax.hessian(_natural))


@pytest.mark.parametrize("reml", [True, False])
def test_errors_are_those_of_the_hessian_by_the_parameters_themselves(weighted, reml):
    """By log sd, artanh r and log σ, differentiated through the criterion in the columns of the data."""
    fit = weighted if reml else weighted.refit_ml()
    frame = fit.tidy(0.9, effects="ran_pars").set_index("term")
    g = frame[frame["group"] == "g"]["estimate"].to_numpy()  # sd, cor, sd
    h, sigma = frame[frame["group"] == "h"]["estimate"].iloc[0], fit.sigma
    x = np.array([np.log(g[0]), np.log(g[2]), np.log(h), np.arctanh(g[1]), np.log(sigma)])
    with jax.enable_x64(True):
        se = np.sqrt(np.diag(2 * np.linalg.inv(_hessian(x, fit.model.arrays))))
    ours = frame["std_error"].to_numpy()  # in broom's order: sd, cor, sd, sd, sigma
    expected = [g[0] * se[0], (1 - g[1] ** 2) * se[3], g[2] * se[1], h * se[2], sigma * se[4]]
    np.testing.assert_allclose(ours, expected, rtol=2e-5)
    z = 1.6448536269514722
    ends = np.exp(np.log(sigma) + z * se[4] * np.array([-1, 1]))
    np.testing.assert_allclose(frame.loc["sd__Observation", ["conf_low", "conf_high"]].astype(float), ends, rtol=1e-6)
    ends = np.tanh(x[3] + z * se[3] * np.array([-1, 1]))
    row = frame.loc["cor__(Intercept).x", ["conf_low", "conf_high"]].astype(float)
    np.testing.assert_allclose(row, ends, rtol=1e-5)


def test_errors_do_not_depend_on_the_parameters_of_a_structure(sleepstudy, sleep_reml):
    """Of two effects compound symmetry has every covariance matrix, by a standard deviation each and a correlation."""
    found = mm.lmm("Reaction ~ Days + cs(Days | Subject)", sleepstudy).tidy(0.95, effects="ran_pars")
    known = sleep_reml.tidy(0.95, effects="ran_pars")
    assert list(found["term"]) == list(known["term"])
    columns = ["estimate", "std_error", "conf_low", "conf_high"]
    np.testing.assert_allclose(found[columns].astype(float), known[columns].astype(float), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_errors_of_glmmtmb(method, sleep_reml, sleep_ml):
    """Its theta are log standard deviations and t with r = t / sqrt(1 + t²), its dispersion is the log variance."""
    found = (sleep_reml if method == "REML" else sleep_ml).tidy(effects="ran_pars").set_index("term")
    ref = REFERENCE[f"sleepstudy_{method}"]
    ours = (found["std_error"] / found["estimate"])[["sd__(Intercept)", "sd__Days", "sd__Observation"]]
    np.testing.assert_allclose(ours, [*ref["theta"][:2], ref["disp"] / 2], rtol=1e-4)
    t, cor = ref["est"][2], found.loc["cor__(Intercept).Days"]
    assert cor["estimate"] == pytest.approx(t / np.sqrt(1 + t * t), abs=1e-4)
    assert cor["std_error"] == pytest.approx(ref["theta"][2] * (1 + t * t) ** -1.5, rel=1e-4)


@pytest.mark.parametrize("name", ["cbpp", "ticks"])
def test_errors_of_glmmtmb_for_counts(name):
    if name == "cbpp":
        fit = mm.glmm("cbind(incidence, size - incidence) ~ period + (1 | herd)", mm.datasets.load(name), "binomial")
    else:
        fit = mm.glmm("TICKS ~ cHEIGHT + (1 | LOCATION)", mm.datasets.load("grouseticks"), "nbinom2")
    ref, frame = REFERENCE[name], fit.tidy(0.95)
    sd = frame[frame["effect"] == "ran_pars"].iloc[0]
    assert sd["std_error"] / sd["estimate"] == pytest.approx(ref["theta"], rel=1e-3)
    assert np.log(sd["estimate"]) == pytest.approx(ref["est"], abs=1e-3)
    if name == "ticks":
        phi = fit.tidy(effects="dispersion", conf_level=0.95).iloc[0]
        assert len(fit.tidy(effects="dispersion")) == 1
        assert phi["estimate"] == pytest.approx(ref["phi"], rel=1e-4)
        assert phi["std_error"] / phi["estimate"] == pytest.approx(ref["disp"], rel=1e-3)
        assert phi["conf_high"] / phi["estimate"] == pytest.approx(np.exp(1.959964 * ref["disp"]), rel=1e-3)


def test_a_singular_term_has_no_errors_and_others_have():
    rng = np.random.default_rng(3)
    g, h = np.repeat(np.arange(12), 8), np.tile(np.arange(8), 12)
    y = rng.normal(size=96) + rng.normal(size=12)[g]
    means = np.array([y[h == k].mean() for k in range(8)])
    fit = mm.lmm("y ~ 1 + (1 | g) + (1 | h)", {"y": y - means[h], "g": g, "h": h})  # nothing is left between the h
    assert fit.is_singular
    frame = fit.tidy(0.95, effects="ran_pars").set_index("group")
    assert np.isnan(frame.loc["h", "std_error"]) and np.isnan(frame.loc["h", "conf_high"])
    alone = mm.lmm("y ~ 1 + (1 | g)", {"y": y - means[h], "g": g}).tidy(effects="ran_pars").set_index("group")
    np.testing.assert_allclose(frame.loc[["g", "Residual"], "std_error"], alone["std_error"], rtol=1e-4)


def test_a_dispersion_at_its_limit_has_no_error(recwarn):
    """Counts less spread than Poisson's: φ is NaN in its error and interval, with the reason, without a warning."""
    rng = np.random.default_rng(1)
    table = {"y": rng.binomial(4, 0.5, 120), "g": np.repeat(np.arange(12), 10)}
    frame = mm.glmm("y ~ 1 + (1 | g)", table, "nbinom2").tidy(0.95)
    assert frame[frame["effect"] == "dispersion"][["std_error", "conf_low", "conf_high"]].isna().all(axis=None)
    assert "no errors of (1 | g): a variance of zero" in frame.attrs["notes"][0]
    assert "the dispersion is at its limit" in frame.attrs["notes"][1] and not len(recwarn)


def test_what_is_computed_when(sleep_reml):
    """The errors are computed on request, once, and are no part of a pickle."""
    fit = pickle.loads(pickle.dumps(sleep_reml))
    assert np.isnan(fit.tidy()["std_error"][2:]).all() and "_curvature" not in vars(fit)
    first = fit.tidy(effects="ran_pars")
    kept = vars(fit)["_curvature"]
    assert first["std_error"].notna().all()
    fit.tidy(0.9)
    assert vars(fit)["_curvature"] is kept and "_curvature" not in vars(pickle.loads(pickle.dumps(fit)))
    assert set(fit.tidy(effects="fixed")["effect"]) == {"fixed"} and not len(fit.tidy(effects="dispersion"))
    assert list(fit.tidy(effects="dispersion", conf_level=0.9).columns) == list(fit.tidy(0.9).columns)


def test_a_second_print_computes_nothing(sleep_reml, programs):
    first = str(sleep_reml)
    reference = sleep_reml.reference()
    programs.clear()
    assert str(sleep_reml) == first and not programs
    assert sleep_reml.reference() is reference


@pytest.mark.slow
def test_coverage(claim):
    """Of 95 % intervals of standard deviations, the correlation and σ, with 60 levels."""
    rng = np.random.default_rng(11)
    g, x = np.repeat(np.arange(60), 8), rng.normal(size=480)
    L, sigma, n = np.array([[1.0, 0.0], [0.24, 0.55]]), 1.5, 600
    b = rng.normal(size=(n, 60, 2)) @ L.T
    Y = b[:, g, 0] + b[:, g, 1] * x + sigma * rng.normal(size=(n, 480))
    truth = [1.0, 0.24 / np.hypot(0.24, 0.55), np.hypot(0.24, 0.55), sigma]
    fit = mm.lmm("y ~ x + (x | g)", {"y": Y[0], "x": x, "g": g})
    ends = np.array([fit.refit(y).tidy(0.95, effects="ran_pars")[["conf_low", "conf_high"]] for y in Y], float)
    known = np.isfinite(ends).all(axis=2)
    assert known.mean() > 0.99
    covered = (ends[..., 0] <= truth) & (truth <= ends[..., 1])
    rates = covered.sum(axis=0) / known.sum(axis=0)
    for what, share in zip(("SD of intercepts", "correlation", "SD of slopes", "sigma"), rates, strict=True):
        claim(f"coverage of Wald intervals, 60 groups, {what}", share, 0.95, n=n)
    np.testing.assert_allclose(rates, 0.95, atol=4 * np.sqrt(0.95 * 0.05 / n))


def test_bad_input(sleep_reml):
    with says(ValueError, "effects must be one of 'fixed', 'ran_pars', 'dispersion'", "'random'"):
        sleep_reml.tidy(effects="random")
    with says(TypeError, "tidy() has no keyword 'exponentiate'", "numpy.exp(fit.confint())"):
        sleep_reml.tidy(exponentiate=True)
    with says(TypeError, "tidy() has no keyword 'conf_int'", "conf_level=0.95"):
        sleep_reml.tidy(conf_int=True)
