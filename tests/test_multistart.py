"""Many starts: dispersed and reproducible, they lead to the fit where there is one optimum, and find a better one."""

import jax
import numpy as np
import pytest
from glmm_fits import fitted
from helpers import says

import jaxmm as mm
from jaxmm.diagnose import multistart as module
from jaxmm.diagnose.multistart import Starts, random_starts
from jaxmm.sources.draw import Simulated

KEY = jax.random.key(3)


def test_every_start_leads_to_the_fit(sleep_reml):
    found = sleep_reml.multistart(12, key=KEY)
    frame = found.frame
    assert len(frame) == 12 and frame["converged"].all() and not found.better and found.fit is sleep_reml
    assert np.max(np.abs(frame["gain"])) < 1e-6 and frame["distance"].max() < 1e-4
    assert len(found.optima) == 1 and found.optima["starts"].tolist() == [12]
    text = repr(found)
    assert "12 random starts of Reaction ~ Days + (Days | Subject)" in text and "no better optimum" in text
    assert found.to_frame().index.name == "start" and frame["iterations"].nunique() > 1


def test_starts_depend_on_the_key_and_their_number_alone(sleep_reml):
    few, many = random_starts(sleep_reml, 3, KEY), random_starts(sleep_reml, 8, KEY)
    np.testing.assert_array_equal(few, many[:3])
    assert not np.allclose(few, random_starts(sleep_reml, 3, jax.random.key(4)))
    assert np.unique(many, axis=0).shape == (8, 3)
    source = Starts(sleep_reml, 8, KEY)
    np.testing.assert_array_equal(source.block(2, 3).start, many[2:5])
    assert source.identity() != Starts(sleep_reml, 8, jax.random.key(4)).identity()


def test_of_a_generalised_model():
    fit = fitted("nbinom2")
    found = fit.multistart(8, key=KEY)
    assert found.frame["converged"].all() and not found.better
    assert np.max(np.abs(found.frame["gain"])) < 1e-6
    psi = random_starts(fit, 200, KEY)
    beta = fit.model.arrays.layout.at("beta")
    assert np.std(psi[:, beta], axis=0).min() > 0 and psi.shape[1] == len(fit.estimates.psi)


def test_a_fit_that_was_stopped_finds_the_optimum(sleepstudy, sleep_reml):
    """The original stands far from the optimum: the batch is made with the default number of steps."""
    worse = mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy)
    far = worse.model.fit(start=[0.5, 0.1, 0.5], control={"max_iterations": 1})
    far._control = worse._control
    found = far.multistart(6, key=KEY)
    assert found.better and found.fit.converged and "a better optimum was found" in repr(found)
    assert found.fit.loglik == pytest.approx(sleep_reml.loglik, abs=1e-8)
    np.testing.assert_allclose(found.fit.theta, sleep_reml.theta, rtol=1e-5)


def test_the_truth_of_a_lane_is_the_fit_itself():
    """What the better fit starts from: of one lane that ended where the fit did, its parameters."""
    for fit in (fitted("nbinom2"), fitted("cbpp")):
        lane = fit.multistart(2, key=KEY).fits[0]
        truth = module._truth(fit, lane)
        np.testing.assert_allclose(truth.theta(fit.model), fit.theta, rtol=1e-4)
        np.testing.assert_allclose(truth.beta, fit.fixef, rtol=1e-4)
        assert truth.phi == pytest.approx(fit.dispersion or 1.0, rel=1e-4)


def test_a_start_of_each_lane_is_where_it_begins(sleep_reml):
    """Lanes that begin at the optimum end there at once; a source that hides its starts is refused."""

    class AtOptimum(Starts):
        def __init__(self, fit, n):
            super().__init__(fit, n, KEY)
            self.starts = np.tile(np.asarray(fit.estimates.theta_scaled), (n, 1))

    found = mm.fit_many(sleep_reml.model, AtOptimum(sleep_reml, 4), progress=False)
    far = sleep_reml.multistart(4, key=KEY).fits
    assert found.converged.all() and found.iterations.max() < far.iterations.min()
    silent = AtOptimum(sleep_reml, 4)
    silent.varies = frozenset({"y"})
    with says(ValueError, "AtOptimum gives lanes start of their own"):
        mm.fit_many(sleep_reml.model, silent, progress=False)
    assert "start" not in Simulated.varies


def test_bad_input(sleep_reml):
    with says(ValueError, "n must be a positive number of starts, not 0"):
        sleep_reml.multistart(0, key=KEY)
    with says(TypeError, "has no keyword 'seed'", "key=seed"):
        sleep_reml.multistart(5, seed=1)
    with says(TypeError, "key must be a seed"):
        sleep_reml.multistart(5, key=3.0)
