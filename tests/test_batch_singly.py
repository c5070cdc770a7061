"""Few lanes, searched one after another: a single fit of a lane's data is the oracle, and lanes find the same."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import close

import jaxmm as mm
from jaxmm import costs
from jaxmm.batch import singly
from jaxmm.batch.engine import fit_many
from jaxmm.optimize import Status
from jaxmm.sources.responses import ArrayResponses

pytestmark = pytest.mark.usefixtures("few_lanes_singly")
COLUMNS = ("fixef", "bse", "theta", "varcorr_sd", "sigma", "dispersion", "loglik", "nobs", "is_singular", "status")


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(12), 6)
    return {"g": g, "x": rng.normal(size=72), "e": rng.uniform(0.5, 2.0, 72), "u": 0.7 * rng.normal(size=12)[g]}


@pytest.fixture(scope="module")
def linear(table):
    rng = np.random.default_rng(6)
    Y = 50 + table["u"] + table["x"] + rng.normal(size=(6, 72))
    return mm.Model.from_formula("y ~ x + (1 | g)", {**table, "y": Y[0]}), Y


@pytest.fixture(scope="module")
def counts(table):
    rng = np.random.default_rng(7)
    Y = rng.negative_binomial(2, 2 / (2 + np.exp(1 + table["u"])), size=(6, 72)).astype(float)
    return mm.Model.from_formula("y ~ x + (1 | g)", {**table, "y": Y[0]}, "nbinom2"), Y


def pieces(Y, table):
    """Weights, offsets and holes: a lane with whole groups missing, one without a row."""
    rng = np.random.default_rng(8)
    weights, Y = rng.uniform(0.5, 2.0, Y.shape), Y.copy()
    Y[1, ::7] = np.nan
    Y[2, table["g"] > 3] = np.nan
    Y[3] = np.nan
    weights[4, :5] = 0.0
    return Y, weights, np.log(rng.uniform(0.5, 2.0, Y.shape))


def lanes_and_singles(model, Y, **options):
    one_by_one = fit_many(model, Y, progress=False, **options)
    return one_by_one, fit_many(model, Y, progress=False, batch=16, **options)


def agree(a, b):
    for name in ("status", "nobs", "is_singular"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    good = a.converged
    for name in set(COLUMNS) - {"status", "nobs", "is_singular", "bse"}:
        x, y = (np.asarray(getattr(f, name)) for f in (a, b))
        if name == "fixef":
            x, y = x / a.bse, y / a.bse
        np.testing.assert_allclose(x[good], y[good], rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.isnan(x[a.status == Status.TOO_FEW_ROWS]).all()


# ---------------------------------------------------------------- the choice
def test_few_lanes_are_searched_one_by_one_and_many_are_not(linear, monkeypatch):
    model, Y = linear
    searched = []
    monkeypatch.setattr(singly, "search", lambda *a, real=singly.search: searched.append(1) or real(*a))
    fit_many(model, Y[:2], progress=False)
    assert len(searched) == 2
    monkeypatch.setattr(costs, "LINEAR", costs.LINEAR._replace(compiled=1.5 * costs.LINEAR.least))
    fit_many(model, Y[:2], progress=False)
    fit_many(model, Y[:1], progress=False, batch=2)
    fit_many(model, Y[:1], progress=False, keep="vcov")
    assert len(searched) == 2


def test_the_choice_is_by_the_model_and_n_alone(linear, counts):
    for model, _ in (linear, counts):
        price = model.likelihood.price
        most = int(price.compiled / price.least)
        assert singly.are_better_singly(model, most // 2) and not singly.are_better_singly(model, 2 * most)


def test_lanes_that_leave_the_cache_are_searched_one_by_one_however_many():
    binomial = SimpleNamespace(
        structure=SimpleNamespace(p=2, num_theta=1, rest_size=0),
        likelihood=SimpleNamespace(price=costs.GENERALISED),
        design=SimpleNamespace(y=np.zeros(30_000)),
    )
    assert singly.are_better_singly(binomial, 100_000)
    binomial.design.y = np.zeros(10_000)
    assert singly.are_better_singly(binomial, 200) and not singly.are_better_singly(binomial, 2000)
    binomial.structure.rest_size = costs.DEAR_REST + 1
    assert not singly.are_better_singly(binomial, 2)


# ---------------------------------------------------------------- what is found
def test_a_lane_is_the_single_fit_of_its_response(linear, counts):
    for model, Y in (linear, counts):
        batch = fit_many(model, Y, progress=False)
        alone = model.with_response(Y[4]).fit()
        close(batch.fixef[4], alone.fixef, 1e-8)
        assert batch.loglik[4] == pytest.approx(alone.loglik, abs=1e-8)
        assert batch.iterations[4] == alone.estimates.iterations


def test_lanes_find_the_same(linear, counts, table):
    for model, Y in (linear, counts):
        holes, weights, offset = pieces(Y, table)
        agree(*lanes_and_singles(model, holes, weights=weights, offset=offset))


def test_a_lane_with_holes_is_the_fit_of_what_is_left(linear, table):
    model, Y = linear
    holes, weights, offset = pieces(Y, table)
    batch = fit_many(model, holes, progress=False, weights=weights, offset=offset)
    for k in (1, 2, 4):
        kept = np.isfinite(holes[k]) & (weights[k] > 0)
        rows = {name: x[kept] for name, x in table.items()}
        data = {**rows, "y": Y[k][kept], "w": weights[k][kept], "o": offset[k][kept]}
        alone = mm.lmm("y ~ x + offset(o) + (1 | g)", data, weights="w")
        close(batch.fixef[k], alone.fixef, 1e-7)
        close(batch.bse[k], alone.bse, 1e-6)
        assert batch.loglik[k] == pytest.approx(alone.loglik, abs=1e-8) and batch.nobs[k] == kept.sum()


def test_what_cannot_be_fitted_has_the_status_of_lanes(linear, counts):
    for model, Y in (linear, counts):
        bad = Y.copy()
        bad[0, 0], bad[1], bad[2, 3:] = np.inf, 2.0, np.nan
        bad[3, 5] = np.nan
        bad[4] = 0.0
        same = {"weights": np.ones(Y.shape), "offset": np.zeros(Y.shape)}  # as above: the same programs
        one_by_one, lanes = lanes_and_singles(model, bad, **same)
        np.testing.assert_array_equal(one_by_one.status, lanes.status)
        refused = lanes.status != Status.CONVERGED
        assert refused.sum() >= 2 and np.isnan(one_by_one.loglik[refused]).all()
        np.testing.assert_array_equal(one_by_one.iterations[refused], lanes.iterations[refused])


def test_a_start_of_the_call_and_of_each_lane(linear):
    model, Y = linear
    at = fit_many(model, Y, progress=False, start=model.fit())
    agree(at, fit_many(model, Y, progress=False))

    class Starts(ArrayResponses):
        varies = frozenset({"y", "start"})

        def block(self, first, size):
            return super().block(first, size)._replace(start=np.full((size, 1), 0.7))

    agree(fit_many(model, Starts(Y), progress=False), at)


# ---------------------------------------------------------------- parts and folders
def test_a_folder_is_continued_to_the_same_bits(linear, tmp_path, monkeypatch):
    model, Y = linear
    whole = fit_many(model, Y, progress=False)
    monkeypatch.setattr(costs, "FIRST_PART_SECONDS", 0.0)
    monkeypatch.setattr(costs, "PART_SECONDS", 0.0)
    calls = []

    def until(*a, real=singly.search):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*a)

    with monkeypatch.context() as m:
        m.setattr(singly, "search", until)
        with pytest.raises(KeyboardInterrupt):
            fit_many(model, Y, progress=False, out=tmp_path / "fits")
    assert len(list((tmp_path / "fits").glob("*.parquet"))) >= 1
    again = fit_many(model, Y, progress=False, out=tmp_path / "fits")
    assert len(calls) == 4
    np.testing.assert_array_equal(again.loglik, whole.loglik)
    shards = [fit_many(model, Y, progress=False, shard=(k, 2)) for k in (1, 2)]
    np.testing.assert_array_equal(np.concatenate([s.loglik for s in shards]), whole.loglik)
