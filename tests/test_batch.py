"""Many fits at once: every lane agrees with its own single fit, whatever its neighbours are."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.optimize import Status

LANES = 40


def simulated(fit: mm.Fit, n: int = LANES, seed: int = 1) -> np.ndarray:
    return fit.simulate(n, key=jax.random.key(seed))


def unbalanced() -> pd.DataFrame:
    """50 subjects with 3-12 visits."""
    rng = np.random.default_rng(5)
    visits = rng.integers(3, 13, 50)
    subject = np.repeat(np.arange(50), visits)
    x = rng.uniform(0, 10, len(subject))
    b = rng.normal(size=(50, 2)) * [2.0, 0.5]
    return pd.DataFrame(
        {"y": 10 + x + b[subject, 0] + b[subject, 1] * x + rng.normal(0, 2, len(x)), "x": x, "g": subject}
    )


def crossed() -> pd.DataFrame:
    """12 subjects x 10 items, a condition within both; variances so small that many fits are singular."""
    rng = np.random.default_rng(6)
    s, i = (a.ravel() for a in np.meshgrid(np.arange(12), np.arange(10), indexing="ij"))
    c = np.where((s + i) % 2 == 0, 0.5, -0.5)
    y = 0.3 * c + 0.7 * rng.normal(size=12)[s] + 0.4 * rng.normal(size=10)[i] + rng.normal(size=len(s))
    return pd.DataFrame({"y": y, "c": c, "s": s, "i": i})


def nested() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    pupil = np.arange(240) // 2
    cls, school = pupil // 5, pupil // 15
    x = rng.normal(size=240)
    y = x + rng.normal(size=8)[school] + rng.normal(size=24)[cls] + rng.normal(size=120)[pupil] + rng.normal(size=240)
    return pd.DataFrame({"y": y, "x": x, "pupil": pupil, "cls": cls, "school": school})


def counts(slope: bool) -> pd.DataFrame:
    rng = np.random.default_rng(8)
    g, x = np.repeat(np.arange(30), 10), rng.normal(size=300)
    eta = 0.5 + 0.3 * x + 0.6 * rng.normal(size=30)[g] + (0.5 * rng.normal(size=30)[g] * x if slope else 0)
    y = rng.uniform(size=300) < 1 / (1 + np.exp(-eta)) if slope else rng.poisson(np.exp(eta))
    return pd.DataFrame({"y": y.astype(float), "x": x, "g": g})


@cache
def fitted(name: str) -> mm.Fit:
    sleep, cbpp = mm.datasets.load("sleepstudy"), mm.datasets.load("cbpp")
    return {
        "sleepstudy": lambda: mm.lmm("Reaction ~ Days + (Days | Subject)", sleep),
        "unbalanced": lambda: mm.lmm("y ~ x + (x | g)", unbalanced(), reml=False),
        "crossed": lambda: mm.lmm("y ~ c + (1 + c | s) + (1 + c | i)", crossed(), reml=False),
        "nested": lambda: mm.lmm("y ~ x + (1 | school/cls/pupil)", nested()),
        "cbpp": lambda: mm.glmm("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp, "binomial"),
        "poisson": lambda: mm.glmm("y ~ x + (1 | g)", counts(False), "poisson"),
        "binary slopes": lambda: mm.glmm("y ~ x + (x | g)", counts(True), "binomial"),
    }[name]()


NAMES = ("sleepstudy", "unbalanced", "crossed", "nested", "cbpp", "poisson", "binary slopes")


@cache
def batch_of(name: str) -> mm.FitBatch:
    """One batch of each design, from its own fit."""
    fit = fitted(name)
    return mm.fit_many(fit.model, simulated(fit), start=fit, progress=False)


# ---------------------------------------------------------------- lanes and single fits
@pytest.mark.parametrize("name", NAMES)
def test_a_lane_is_its_own_single_fit(name):
    fit, batch = fitted(name), batch_of(name)
    Y = simulated(fit)
    singular = np.flatnonzero(batch.is_singular)[:3]
    for k in {0, 1, 2, 3, *singular.tolist()}:
        single = fit.refit(Y[k])
        assert bool(batch.converged[k]) == single.converged
        assert batch.deviance[k] == pytest.approx(single.deviance, abs=1e-6)
        np.testing.assert_allclose(batch.fixef[k], single.fixef, atol=1e-4 * single.bse.min(), rtol=0)
        np.testing.assert_allclose(batch.bse[k], single.bse, rtol=1e-4)
        np.testing.assert_allclose(batch.theta[k], single.theta, atol=2e-4)
        assert batch.sigma[k] == pytest.approx(single.sigma, rel=1e-5)
        v = single.varcorr()
        np.testing.assert_allclose(
            batch.varcorr_sd[k], [v.sd[g][e] for g, e in batch.names.sd], atol=1e-4 * single.sigma
        )
        assert bool(batch.is_singular[k]) == single.is_singular


def test_some_lanes_were_singular():
    assert batch_of("crossed").is_singular.mean() > 0.1
    assert batch_of("binary slopes").is_singular.any()


@pytest.mark.parametrize("name", ["sleepstudy", "crossed", "cbpp"])
def test_moments_lead_where_a_warm_start_leads(name):
    fit = fitted(name)
    cold = mm.fit_many(fit.model, simulated(fit), progress=False)
    warm = batch_of(name)
    assert np.array_equal(cold.converged, warm.converged)
    np.testing.assert_allclose(cold.deviance, warm.deviance, atol=1e-6)


def test_without_collapse_the_same():
    fit = fitted("sleepstudy")
    whole = mm.fit_many(fit.model, simulated(fit), start=fit, progress=False, collapse=False)
    np.testing.assert_allclose(whole.loglik, batch_of("sleepstudy").loglik, atol=1e-9)
    np.testing.assert_allclose(whole.fixef, batch_of("sleepstudy").fixef, atol=1e-8 * fit.bse.min())


# ---------------------------------------------------------------- neighbours
@pytest.mark.parametrize("name", ["sleepstudy", "crossed", "cbpp"])
def test_a_lane_does_not_depend_on_its_neighbours(name):
    """Another batch size, another order, bad neighbours: the same to 1e-8 of a standard error."""
    fit, batch = fitted(name), batch_of(name)
    Y = simulated(fit)
    order = np.random.default_rng(0).permutation(len(Y))[:17]
    mixed = np.insert(Y[order], 5, np.nan, axis=0)
    other = mm.fit_many(fit.model, mixed, start=fit, batch=8, progress=False)
    assert other.status[5] == Status.TOO_FEW_ROWS and np.isnan(other.fixef[5]).all()
    other = other.take(np.delete(np.arange(18), 5))
    np.testing.assert_allclose(other.fixef, batch.fixef[order], atol=1e-8 * fit.bse.min(), rtol=0)
    np.testing.assert_allclose(other.theta, batch.theta[order], atol=1e-7, rtol=0)
    np.testing.assert_allclose(other.bse, batch.bse[order], rtol=1e-7)


def test_what_cannot_be_fitted_says_why():
    fit = fitted("sleepstudy")
    Y = np.ma.array(simulated(fit)[:6], mask=False)
    Y[1, 7] = np.ma.masked
    Y[2] = 5.0
    Y[3] = 1e6 + 3 * fit.model.design.X[:, 1]  # the fixed effects reproduce it
    batch = mm.fit_many(fit.model, Y, start=fit, missing="refuse", progress=False)
    assert [Status(int(s)).name for s in batch.status] == [
        "CONVERGED", "INVALID", "NO_VARIATION", "NO_VARIATION", "CONVERGED", "CONVERGED",
    ]  # fmt: skip
    assert np.isnan(batch.fixef[1:4]).all() and np.isnan(batch.loglik[1:4]).all()
    np.testing.assert_allclose(batch.fixef[[0, 4, 5]], batch_of("sleepstudy").fixef[[0, 4, 5]], rtol=1e-9)


def test_separated_and_impossible_counts():
    fit = fitted("cbpp")
    d = fit.model.design
    Y = simulated(fit)[:5].copy()
    Y[1] = np.where(d.X[:, 1] == 1, 0, Y[1])  # no case at all in the second period
    Y[2, 0] = -1
    Y[3, 0] = d.trials[0] + 1
    batch = mm.fit_many(fit.model, Y, start=fit, progress=False)
    assert batch.status.tolist() == [0, Status.RUNAWAY, Status.INVALID, Status.INVALID, 0]
    np.testing.assert_allclose(batch.fixef[[0, 4]], batch_of("cbpp").fixef[[0, 4]], rtol=1e-7)


# ---------------------------------------------------------------- where responses come from
def test_arrays_streams_and_sources(tmp_path):
    fit, batch = fitted("sleepstudy"), batch_of("sleepstudy")
    Y = simulated(fit)
    path = tmp_path / "Y.npy"
    np.save(path, Y)
    forms = {
        "memory map": np.load(path, mmap_mode="r"),
        "JAX": jnp.asarray(Y, jnp.float32),
        "iterator": (Y[a : a + 7] for a in range(0, LANES, 7)),
        "list": Y[:5].tolist(),
    }
    for name, form in forms.items():
        found = mm.fit_many(fit.model, form, start=fit, progress=False)
        count = 5 if name == "list" else LANES
        assert len(found) == count and found.replicate.tolist() == list(range(count))
        np.testing.assert_allclose(found.loglik, batch.loglik[:count], rtol=1e-6 if name == "JAX" else 1e-12)


def test_responses_of_another_length():
    fit = fitted("sleepstudy")
    with pytest.raises(mm.DataError, match="one response of 180 numbers in each row; got shape"):
        mm.fit_many(fit.model, np.zeros((3, 179)), progress=False)
    with pytest.raises(mm.DataError, match=r"pass Y\.T"):
        mm.fit_many(fit.model, np.zeros((180, 3)), progress=False)
    with pytest.raises(mm.DataError, match="no rows"):
        mm.fit_many(fit.model, np.zeros((0, 180)), progress=False)
    with pytest.raises(ValueError, match="start must be 3 finite numbers"):
        mm.fit_many(fit.model, np.zeros((1, 180)), start=[1.0], progress=False)
    with pytest.raises(mm.DataError, match=r"one response of 180 numbers in each row; got shape \(\d+, 56\)"):
        herds = fitted("cbpp")
        mm.fit_many(fit, mm.Simulated(herds, herds, 3, jax.random.key(0)), progress=False)
    with pytest.raises(TypeError, match=r"model must be a jaxmm\.Model or a fit, not str"):
        mm.fit_many("sleepstudy", np.zeros((1, 180)))
    with pytest.raises(ValueError, match=r"control\.device must be 'auto'"):
        mm.fit_many(fit, simulated(fit), control={"device": 3}, progress=False)
    with pytest.raises(ValueError, match="batch must be a positive number"):
        mm.fit_many(fit.model, simulated(fit), batch=0, progress=False)


def test_a_weight_an_offset_and_an_uncorrelated_slope():
    data = unbalanced()
    rng = np.random.default_rng(3)
    data["w"], data["o"] = rng.uniform(0.5, 2, len(data)), rng.normal(size=len(data))
    fit = mm.lmm("y ~ x + (x || g)", data, weights="w", offset="o")
    Y = simulated(fit, 6)
    batch = mm.fit_many(fit.model, Y, progress=False)
    for k in range(3):
        single = fit.refit(Y[k])
        assert batch.deviance[k] == pytest.approx(single.deviance, abs=1e-6)
        np.testing.assert_allclose(batch.fixef[k], single.fixef, atol=1e-4 * single.bse.min())


def test_results_left_in_their_folder(tmp_path):
    fit, batch = fitted("sleepstudy"), batch_of("sleepstudy")
    Y = simulated(fit)
    left = mm.fit_many(fit.model, Y, start=fit, out=tmp_path / "study", collect=False, progress=False)
    assert len(left) == 0 and left.names == batch.names
    np.testing.assert_array_equal(mm.load(tmp_path / "study").fixef, batch.fixef)
    with pytest.raises(ValueError, match="give its path as out="):
        mm.fit_many(fit.model, Y, collect=False)


def test_counts_that_do_not_vary():
    """Nothing but failures or successes: the likelihood has no maximum, and a single fit refuses them."""
    fit = fitted("cbpp")
    Y = simulated(fit)[:5].copy()
    Y[1], Y[3] = 0, fit.model.design.trials
    batch = mm.fit_many(fit.model, Y, start=fit, progress=False)
    assert batch.status.tolist() == [0, Status.NO_VARIATION, 0, Status.NO_VARIATION, 0]
    np.testing.assert_allclose(batch.fixef[[0, 2, 4]], batch_of("cbpp").fixef[[0, 2, 4]], rtol=1e-7)
    assert np.isnan(batch.bse[1]).all() and np.isnan(batch.bse[3]).all()


def test_a_start_where_the_family_turns_into_its_limit():
    """There the likelihood is flat in the dispersion: a search that begins so far out would stay."""
    data = counts(False)
    model = mm.Model.from_formula("y ~ x + (1 | g)", data, family="nbinom2")
    rng = np.random.default_rng(3)
    mean = np.exp(0.5 + 0.3 * data["x"].to_numpy() + 0.6 * rng.normal(size=(40, 30))[:, data["g"]])
    Y = rng.poisson(mean) + 0.0  # some are overdispersed by chance, and only a little
    far = {"fixef": [0.5, 0.3], "sd": {"g": [0.6]}, "dispersion": 8e9}
    stuck, free = (mm.fit_many(model, Y, start=s, progress=False) for s in (far, None))
    assert stuck.converged.all() and free.converged.all()
    np.testing.assert_allclose(stuck.loglik, free.loglik, rtol=0, atol=1e-6)
