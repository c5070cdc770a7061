"""Lanes of models with correlated errors, side by side: what is found is what a single fit finds, and its derivatives
are those of the criterion."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm._context import computing
from jaxmm.batch import routes
from jaxmm.batch.setup import make_problem
from jaxmm.lanes.linear_errors import LinearErrors
from jaxmm.lanes.linear_patterns import LinearPatterns
from jaxmm.lanes.sweeps import inverse
from jaxmm.objective.lmm import scaled_deviance
from jaxmm.optimize import Status
from jaxmm.sources.responses import Responses, Varying

N, T = 24, 4
MEAN = "y ~ time * arm"
# by sums over patterns, where there are no random effects and no formula of the variance, else by rows
CASES = {
    "us": (MEAN, {"residual": "us(visit | subject)"}),
    "toep, ML": (MEAN, {"residual": "toep(visit | subject)", "reml": False}),
    "by arm, weights": (MEAN, {"residual": "cs(visit | subject, by=arm)", "weights": "w"}),
    "distances": (MEAN, {"residual": "ou(time | subject)"}),
    "order of the rows": (MEAN, {"residual": "ar1(1 | subject)"}),
    "intercepts": (MEAN + " + (1 | subject)", {"residual": "ar1(visit | subject)"}),
    "slopes, ML": (MEAN + " + (time || subject)", {"dispersion": "~ arm", "reml": False}),
    "both, weights": (MEAN, {"residual": "ou(time | subject)", "dispersion": "~ arm", "weights": "w"}),
}


def table() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    d = pd.DataFrame({
        "subject": np.repeat([f"s{k:02d}" for k in range(N)], T),
        "visit": pd.Categorical(list("abcd") * N),
        "time": np.tile([0.0, 1.0, 2.5, 6.0], N),
        "arm": np.repeat(np.where(np.arange(N) % 2, "x", "y"), T),
        "w": rng.uniform(0.5, 2, T * N),
    })  # fmt: skip
    d["y"] = 100 + d["time"] + rng.normal(size=T * N) + np.repeat(rng.normal(size=N), T)
    return d[rng.random(T * N) >= 0.1].reset_index(drop=True)


DATA = table()


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def fit(case):
    return mm.lmm(case[0], DATA, **case[1])


@pytest.fixture
def together(monkeypatch):
    """Lanes are searched side by side, however few."""
    monkeypatch.setattr(routes, "are_better_singly", lambda *_: False)


def responses(fit, n: int = 6) -> np.ndarray:
    """Some of which lack rows: two the same ones, two others of their own."""
    Y = np.array(fit.simulate(n, key=3))
    gone = np.random.default_rng(5).random(Y.shape) < 0.15
    Y[2:4, 1::9] = np.nan
    Y[4:][gone[4:]] = np.nan
    return Y


def test_lanes_are_single_fits(case, fit, together):
    Y = responses(fit)
    batch = mm.fit_many(fit, Y, keep=("vcov", "df"), progress=False)
    assert batch.converged.all() and batch.nobs.tolist() == np.sum(~np.isnan(Y), axis=1).tolist()
    for k in (0,) if fit.residual.text == "ar1(1 | subject)" else (0, 3, 5):  # a row that is missing keeps its place
        there = ~np.isnan(Y[k])
        data = DATA.assign(y=Y[k])[there]
        one = mm.lmm(case[0], data, **case[1])
        assert batch.loglik[k] == pytest.approx(one.loglik, abs=1e-8)
        np.testing.assert_allclose(batch.fixef[k], one.fixef, atol=1e-6)
        np.testing.assert_allclose(batch.bse[k], one.bse, rtol=1e-5)
        assert batch.sigma[k] == pytest.approx(one.sigma, rel=1e-5)
        np.testing.assert_allclose(np.abs(batch.theta[k]), np.abs(one.theta), atol=2e-5)
        np.testing.assert_allclose(batch.df[k], one.coef_table("satterthwaite")["df"], rtol=2e-4)


def test_derivatives_are_those_of_the_criterion(fit):
    """At a point that is no optimum, by another way of writing the criterion; with shared rows and with own."""
    model, Y = fit.model, responses(fit)[:2]
    by_rows = bool(model.design.terms) or model.design.residual.V is not None
    with computing(model.device):
        theta = jnp.asarray(1.1 * np.asarray(fit.theta)[:, None] + np.array([[0.0, 0.05]]))
        for varies in (frozenset({"y"}), frozenset({"y", "weights"})):
            problem = make_problem(model, None, True, varies)
            assert isinstance(problem, LinearErrors if by_rows else LinearPatterns)
            w = np.ones(Y.shape) if model.design.weights is None else np.tile(model.design.weights, (2, 1))
            if "weights" in varies:
                w = np.where(np.random.default_rng(1).random(w.shape) < 0.2, 0.0, w)
            own = Varying(jnp.asarray(Y.T), weights=jnp.asarray(w.T) if "weights" in varies else None)
            at = jax.jit(lambda p, own: p.evaluate(theta, p.data(own), p.prepare(theta, p.data(own))))(problem, own)
            for k in range(2):
                arrays = model.likelihood.arrays_of_lane(model.accumulator, model.design, Y[k], w[k], None)
                value, g = jax.value_and_grad(scaled_deviance)(theta[:, k], arrays)
                assert float(at.value[k]) == pytest.approx(float(value), abs=1e-9)
                np.testing.assert_allclose(at.gradient[:, k], g, atol=1e-8 * (1 + np.abs(g).max()))


def test_results_do_not_depend_on_the_batch(together):
    fit = mm.lmm(MEAN, DATA, residual="us(visit | subject)")
    Y = np.tile(responses(fit), (12, 1))
    whole, few = mm.fit_many(fit, Y, progress=False), mm.fit_many(fit, Y[:20], batch=16, progress=False)
    np.testing.assert_allclose(whole.loglik[:20], few.loglik, rtol=0, atol=1e-9)
    np.testing.assert_allclose(whole.fixef[:20], few.fixef, rtol=0, atol=1e-8)


def test_one_bad_lane_harms_no_other(together):
    fit = mm.lmm(MEAN, DATA, residual="us(visit | subject)")
    Y = responses(fit)
    bad = Y.copy()
    bad[1], bad[3, 5], bad[4, 3:], bad[5] = 7.0, np.inf, np.nan, np.nan
    found, good = mm.fit_many(fit, bad, progress=False), mm.fit_many(fit, Y, progress=False)
    expected = [Status.NO_VARIATION, Status.INVALID, Status.TOO_FEW_ROWS, Status.TOO_FEW_ROWS]
    assert found.status[[1, 3, 4, 5]].tolist() == expected
    for k in (0, 2):
        assert found.loglik[k] == pytest.approx(good.loglik[k], abs=1e-9)


def test_offsets_and_starts_of_their_own(together):
    fit = mm.lmm(MEAN, DATA, residual="hetar1(visit | subject)")
    Y = responses(fit)[:2]
    own = np.random.default_rng(1).normal(size=Y.shape)
    plain, moved = mm.fit_many(fit, Y, progress=False), mm.fit_many(fit, Y + own, offset=own, start=fit, progress=False)
    np.testing.assert_allclose(plain.loglik, moved.loglik, atol=1e-8)
    np.testing.assert_allclose(plain.fixef, moved.fixef, atol=1e-6)


class FromStarts(Responses):
    """Each lane begins at its own theta."""

    varies = frozenset({"y", "start"})

    def __init__(self, Y: np.ndarray, starts: np.ndarray):
        self.Y, self.starts, self.n = Y, starts, len(Y)

    def block(self, first: int, size: int) -> Varying:
        some = slice(first, first + size)
        return Varying(self.Y[some], start=self.starts[some])

    def identity(self) -> dict:
        return {}


def test_a_start_of_each_lane(together):
    fit = mm.lmm(MEAN, DATA, residual="hetar1(visit | subject)")
    Y = responses(fit)[:2]
    starts = np.asarray(fit.theta) * np.array([[1.0], [1.2]])
    found, plain = (mm.fit_many(fit, each, progress=False) for each in (FromStarts(Y, starts), Y))
    np.testing.assert_allclose(found.loglik, plain.loglik, atol=1e-8)
    np.testing.assert_allclose(found.fixef, plain.fixef, atol=1e-6)


def test_a_bootstrap_side_by_side(together):
    fit = mm.lmm(MEAN, DATA, residual="ar1(visit | subject)", reml=False)
    assert mm.bootstrap(fit, 20, key=1, progress=False).converged.all()


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_inverse_by_exchange(k):
    rng = np.random.default_rng(k)
    A = rng.normal(size=(3, k, k))
    A = A @ np.swapaxes(A, 1, 2) + 0.1 * np.eye(k)
    with jax.enable_x64(True):
        lanes = jnp.moveaxis(jnp.asarray(A), 0, -1)
        own, logdet = inverse(lanes)
        np.testing.assert_allclose(np.moveaxis(np.asarray(own), -1, 0), np.linalg.inv(A), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(logdet, np.linalg.slogdet(A)[1], rtol=1e-12, atol=1e-12)
        move = jnp.asarray(np.swapaxes(A, 0, 2).reshape(lanes.shape)) * 1e-6
        _, (d_own, d_logdet) = jax.jvp(inverse, (lanes,), (move,))
        after, before = inverse(lanes + 0.5 * move), inverse(lanes - 0.5 * move)
        np.testing.assert_allclose(d_own, after[0] - before[0], rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(d_logdet, after[1] - before[1], rtol=1e-4, atol=1e-9)
