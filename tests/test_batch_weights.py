"""Lanes with weights of their own: each is the single fit with these weights."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.optimize import Status
from jaxmm.sources.responses import ArrayResponses, Varying


class Weighted(ArrayResponses):
    """Rows of Y, each with its weights."""

    varies = frozenset({"y", "weights"})

    def __init__(self, Y: np.ndarray, weights: np.ndarray):
        super().__init__(Y)
        self.weights = weights

    def block(self, first: int, size: int) -> Varying:
        return super().block(first, size)._replace(weights=self.weights[first : first + size])


@pytest.fixture(scope="module")
def table():
    """Levels of unequal size, so that the pieces of rows are filled up."""
    rng = np.random.default_rng(4)
    n = 230
    g, h, x = rng.integers(0, 14, n), rng.integers(0, 6, n), rng.normal(size=n)
    eta = 0.4 + 0.3 * x + 0.6 * rng.normal(size=14)[g] + 0.3 * rng.normal(size=6)[h]
    return pd.DataFrame({"g": g, "h": h, "x": x, "k": rng.poisson(np.exp(eta)), "a": rng.gamma(3, np.exp(eta) / 3)})


@pytest.mark.parametrize(
    ("formula", "family", "more"),
    [
        ("k ~ x + (1 | g)", "poisson", {}),
        ("k ~ x + (1 | g)", "poisson", {"n_agq": 5}),
        ("a ~ x + (1 | g) + (1 | h)", mm.families.Gamma("log"), {}),
    ],
    ids=["one factor", "quadrature", "crossed"],
)
def test_a_lane_with_weights_is_its_own_single_fit(table, formula, family, more):
    rng = np.random.default_rng(7)
    fit, n = mm.glmm(formula, table, family, **more), len(table)
    Y = np.stack([fit.model.design.y, *(fit.model.design.y[rng.permutation(n)] for _ in range(2))])
    Y = np.concatenate([Y, Y])
    W = rng.uniform(0.3, 2.0, (6, n))
    W[3:, :] = 1.0
    W[4, 7], W[5, 9] = -0.1, np.nan
    W[2, 3:9] = 0.0
    batch = mm.fit_many(fit.model, Weighted(Y, W), batch=4, progress=False)
    assert batch.status[4:].tolist() == [Status.INVALID] * 2 and np.isnan(batch.fixef[4:]).all()
    for k in range(4):
        own = table.assign(**{formula[0]: Y[k]})
        single = mm.glmm(formula, own, family, weights=W[k], **more)
        assert batch.converged[k] and single.converged
        assert batch.deviance[k] == pytest.approx(single.deviance, abs=1e-6)
        np.testing.assert_allclose(batch.fixef[k], single.fixef, atol=1e-4 * single.bse.min(), rtol=0)
        np.testing.assert_allclose(batch.bse[k], single.bse, rtol=1e-4)
        np.testing.assert_allclose(batch.theta[k], single.theta, atol=2e-4)
    plain = mm.fit_many(fit.model, Y[3:4], progress=False)
    np.testing.assert_allclose(batch.fixef[3], plain.fixef[0], atol=1e-6 * plain.bse.min())


@pytest.fixture(scope="module")
def amounts(table):
    rng = np.random.default_rng(8)
    school = table["g"] % 5
    y = 2.0 + 0.5 * table["x"] + rng.normal(size=14)[table["g"]] + 0.6 * rng.normal(size=6)[table["h"]]
    return table.assign(y=y + 0.8 * rng.normal(size=len(table)), school=school, t=rng.normal(size=len(table)))


LINEAR = {
    "slopes": ("y ~ x + (x | g)", {}),
    "by ml": ("y ~ x + (1 | g)", {"reml": False}),
    "crossed": ("y ~ x + offset(t) + (1 | g) + (1 | h)", {}),
    "nested": ("y ~ 1 + (1 | school / g)", {}),
    "structure": ("y ~ x + cs(0 + factor(h) | g)", {}),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_lane_with_weights_is_its_own_single_fit(amounts, name):
    """Also with weights that differ a million times, and beside lanes whose weights are none."""
    formula, more = LINEAR[name]
    rng, n = np.random.default_rng(3), len(amounts)
    model = mm.Model.from_formula(formula, amounts, **more)
    Y = np.stack([model.design.y] + [model.design.y + 0.3 * rng.normal(size=n) for _ in range(5)])
    W = rng.gamma(2.0, 0.5, (6, n))
    W[1] = np.exp(rng.uniform(-7, 7, n))
    W[4, 7], W[5, 9] = -1.0, np.inf
    W[2, amounts["g"] == 3] = 0.0  # a level without rows
    batch = mm.fit_many(model, Weighted(Y, W), batch=4, progress=False)
    assert batch.status[4:].tolist() == [Status.INVALID] * 2 and np.isnan(batch.fixef[4:]).all()
    for k in range(4):
        single = mm.lmm(formula, amounts.assign(y=Y[k]), weights=W[k], **more)
        assert batch.converged[k] and single.converged
        assert batch.deviance[k] == pytest.approx(single.deviance, abs=1e-6)
        np.testing.assert_allclose(batch.fixef[k], single.fixef, atol=1e-4 * single.bse.min(), rtol=0)
        np.testing.assert_allclose(batch.bse[k], single.bse, rtol=1e-4)
        assert batch.sigma[k] == pytest.approx(single.sigma, rel=1e-4)
        sd = np.concatenate([x.to_numpy() for x in single.varcorr().sd.values()])
        np.testing.assert_allclose(batch.varcorr_sd[k], sd, atol=2e-4 * single.sigma, rtol=1e-4)


def test_weights_of_one_are_no_weights(amounts):
    """To rounding the lanes without weights, and the same whatever stands beside them."""
    model = mm.Model.from_formula("y ~ x + (1 | g) + (1 | h)", amounts)
    Y = model.design.y + np.random.default_rng(0).normal(size=(5, len(amounts)))
    plain = mm.fit_many(model, Y, progress=False)
    one = mm.fit_many(model, Weighted(Y, np.ones(Y.shape)), progress=False)
    np.testing.assert_allclose(one.deviance, plain.deviance, atol=1e-7)
    np.testing.assert_allclose(one.fixef, plain.fixef, atol=1e-5 * plain.bse.min())
    alone = mm.fit_many(model, Weighted(Y[2:3], np.ones((1, len(amounts)))), progress=False)
    np.testing.assert_allclose(alone.fixef[0], one.fixef[2], atol=1e-8 * one.bse.min())


def test_weights_that_do_not_fit(table):
    fit = mm.glmm("k ~ x + (1 | g)", table, "poisson")
    with pytest.raises(mm.DataError, match=r"weights of shape \(1, 3\) for responses of shape \(1, 230\)"):
        mm.fit_many(fit.model, Weighted(fit.model.design.y[None], np.ones((1, 3))), progress=False)
