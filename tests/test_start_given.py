"""A start means the same at every door: theta, a fit, a truth or the mapping of one; beta and log phi in programs."""

import jax
import numpy as np
import pandas as pd
import pytest
from glmm_fits import FITS, data, fitted, glmm
from helpers import close

import jaxmm as mm
from jaxmm.batch.setup import scaled_start
from jaxmm.estimate_glmm import first_guess
from jaxmm.sources.truth import as_start, as_truth

FORMULA = "Reaction ~ Days + (Days | Subject)"
SLEEP = {"fixef": [251.4, 10.5], "sd": {"Subject": [24.7, 5.9]}, "corr": {"Subject": 0.07}, "sigma": 25.6}


def linear_starts(fit):
    return {"theta": fit.theta, "fit": fit, "truth": as_truth(fit.model, SLEEP), "mapping": SLEEP}


@pytest.mark.parametrize("kind", ["theta", "fit", "truth", "mapping"])
def test_every_door_of_a_linear_model(sleep_reml, sleepstudy, kind):
    """Near the optimum the search is short, and ends there."""
    start = linear_starts(sleep_reml)[kind]
    for fit in (mm.lmm(FORMULA, sleepstudy, start=start), sleep_reml.model.fit(start=start)):
        assert fit.converged and fit.diagnostics.iterations < sleep_reml.diagnostics.iterations
        close(fit.theta, sleep_reml.theta, 1e-5)
    y = np.asarray(sleep_reml.model.design.y)[None]
    batch = mm.fit_many(sleep_reml, y, start=start, progress=False)
    close(batch.theta[0], sleep_reml.theta, 1e-4)
    close(batch.loglik[0], sleep_reml.loglik, 1e-7)


@pytest.mark.parametrize("name", ["slopes", "nbinom2", "gamma"])
def test_a_fit_gives_a_generalised_model_all_of_its_parameters(name):
    """Theta alone leaves beta and the dispersion to be searched."""
    fit = fitted(name)
    for again in (glmm(name, start=fit), fit.model.fit(start=fit)):
        assert again.converged and again.diagnostics.iterations <= 2 < fit.diagnostics.iterations
        close(again.fixef, fit.fixef, 1e-6)
    s = fit.model.structure
    with jax.enable_x64(True):
        psi, alone = scaled_start(fit.model, fit), scaled_start(fit.model, fit.theta)
        guess = np.asarray(first_guess(fit.model.arrays))
    np.testing.assert_allclose(psi, fit.estimates.psi, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(alone[s.p : s.p + s.num_theta], psi[s.p : s.p + s.num_theta])
    np.testing.assert_allclose(alone[: s.p], guess[: s.p], rtol=1e-12, atol=1e-15)  # zero but for rounding
    np.testing.assert_allclose(alone[s.p + s.num_theta :], guess[s.p + s.num_theta :], rtol=1e-12)


def test_a_truth_and_its_mapping_say_the_same():
    fit = fitted("nbinom2")
    stated = {"fixef": fit.fixef, "sd": {"g": fit.varcorr().sd["g"]}, "dispersion": fit.dispersion}
    starts = [as_start(fit.model, x) for x in (fit, as_truth(fit.model, stated), stated)]
    for start in starts:
        close(start.beta, fit.fixef, 1e-12)
        close(start.theta, fit.theta, 1e-9)
        close(start.log_phi, fit.estimates.log_phi, 1e-9)
    assert glmm("nbinom2", start=stated).diagnostics.iterations <= 2


def test_a_fit_by_the_other_likelihood_of_the_same_family(sleep_reml, sleepstudy):
    """Its theta is relative to sigma, and a generalised model's is not."""
    same = mm.glmm(FORMULA, sleepstudy, "gaussian", start=sleep_reml)
    close(as_start(same.model, sleep_reml).theta, sleep_reml.theta * sleep_reml.sigma, 1e-9)
    close(as_start(same.model, sleep_reml).log_phi, [2 * np.log(sleep_reml.sigma)], 1e-12)
    assert same.converged


def test_a_variance_of_zero_is_no_place_to_stay():
    """Where a search from there would be stuck, at every door."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"g": np.repeat(np.arange(20), 10)})
    table["y"] = rng.normal(size=20)[table.g] + rng.normal(size=200)
    table["k"] = rng.poisson(np.exp(0.5 * table.y))
    linear, counts = mm.lmm("y ~ 1 + (1 | g)", table), mm.glmm("k ~ 1 + (1 | g)", table, "poisson")
    for fit in (linear, counts):
        close(fit.model.fit(start=[0.0]).theta, fit.theta, 1e-5)
        with jax.enable_x64(True):
            close(mm.estimate(fit.model.arrays, start=np.zeros(1)).theta, fit.theta, 1e-4)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (
            [1.0, 2.0],
            ["start must be 3 finite numbers", "fit.theta", "a Fit, a Truth, or a mapping with 'fixef', 'sd'"],
        ),
        ({"sd": {"Subject": [1, 2]}}, ["start: truth lacks 'fixef', of '(Intercept)', 'Days'"]),
        ({"beta": 1.0}, ["start: truth has no key 'beta'; accepted: 'fixef'"]),
        ({**SLEEP, "sigma": 0.0}, ["start: theta is relative to sigma, and sigma is 0"]),
        ("poisson", ["start: truth is the fit of another model", "give its theta alone, start=fit.theta"]),
    ],
)
def test_what_is_no_start_of_the_model(sleep_reml, start, words):
    """The same words at every door."""
    start = fitted("poisson") if isinstance(start, str) else start
    for door in (
        lambda: sleep_reml.model.fit(start=start),
        lambda: mm.lmm(FORMULA, mm.datasets.load("sleepstudy"), start=start),
        lambda: mm.fit_many(sleep_reml, np.zeros((1, 180)), start=start, progress=False),
    ):
        with pytest.raises(ValueError) as raised:
            door()
        for word in words:
            assert word in str(raised.value)


# ---------------------------------------------------------------- programs
def as_point(fit):
    return mm.Parameters(fit.estimates.beta, fit.estimates.theta, getattr(fit.estimates, "log_phi", ()))


@pytest.mark.parametrize("name", ["linear", "slopes", "nbinom2"])
def test_programs_start_in_the_columns_of_the_data(x64, sleep_reml, name):
    fit = sleep_reml if name == "linear" else fitted(name)
    arrays, free = fit.model.arrays, None
    free = mm.estimate(arrays)
    parameters = as_point(fit)
    for start in (parameters, parameters._asdict()):
        found = jax.jit(lambda a, s: mm.estimate(a, start=s))(arrays, start)
        assert int(found.status) == 0 and int(found.iterations) <= 2 < int(free.iterations)
        close(found.theta, fit.theta, 1e-6)
    alone = mm.estimate(arrays, start=fit.theta)
    assert int(alone.status) == 0 and int(alone.iterations) <= int(free.iterations)
    close(alone.theta, fit.theta, 1e-4)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (np.zeros(5), r"theta has shape \(5,\), and the model's has \(1,\)"),
        ({"psi": np.zeros(4)}, "has no 'psi'"),
        ({"beta": np.zeros(2)}, "needs theta"),
        (mm.Parameters(np.zeros(3), np.ones(1)), r"beta has shape \(3,\), and the model's has \(2,\)"),
        (mm.Parameters(np.zeros(2), np.ones(1), np.zeros(2)), r"log_phi has shape \(2,\), and the model's has \(1,\)"),
    ],
)
def test_what_is_no_start_of_a_program(x64, start, words):
    """Among them psi of the scaled columns, as one array."""
    formula, family = FITS["nbinom2"]
    arrays = mm.Model.from_formula(formula, data(), family).arrays
    with pytest.raises(ValueError, match=f"start: .*{words}"):
        mm.estimate(arrays, start=start)
