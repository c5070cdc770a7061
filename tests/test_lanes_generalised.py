"""Lanes of generalised models that differ in more than y: each is the single fit of its own data."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.sources.responses import ArrayResponses, Varying


class Own(ArrayResponses):
    """Rows of Y, each with what else it has of its own."""

    def __init__(self, Y: np.ndarray, **own):
        super().__init__(Y)
        self.own = Varying(Y, **own)
        self.varies = self.own.given()

    def block(self, first: int, size: int) -> Varying:
        return self.own.each(lambda x: x[first : first + size])


LANES, ROWS, GROUPS = 6, 150, 12


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Groups of unequal size, one of them of one row."""
    rng = np.random.default_rng(1)
    g = np.concatenate([[0], np.arange(1, GROUPS), rng.integers(1, GROUPS, ROWS - GROUPS)])
    return pd.DataFrame({"g": g, "s": g % 4, "h": rng.integers(0, 5, ROWS), "x": rng.normal(size=ROWS), "m": 6})


def responses(table: pd.DataFrame, kind: str, offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(LANES, ROWS); the last lane has no effects of the groups."""
    sd = np.append(np.linspace(0.9, 0.4, LANES - 1), 0.0)[:, None]
    eta = 0.3 + 0.4 * table["x"].to_numpy() + offset
    eta = eta + sd * (
        rng.normal(size=(LANES, GROUPS))[:, table["g"]] + 0.4 * rng.normal(size=(LANES, 5))[:, table["h"]]
    )
    p, mu = 1 / (1 + np.exp(-eta)), np.exp(eta)
    draw = {
        "binomial": lambda: rng.binomial(6, p),
        "bernoulli": lambda: rng.binomial(1, p),
        "poisson": lambda: rng.poisson(mu),
        "nbinom2": lambda: rng.poisson(mu * rng.gamma(1.5, 1 / 1.5, mu.shape)),
        "gamma": lambda: rng.gamma(3.0, mu / 3.0),
        "beta": lambda: np.clip(rng.beta(5 * p, 5 * (1 - p)), 1e-3, 1 - 1e-3),
        "zeros": lambda: rng.poisson(mu) * rng.binomial(1, 0.7, mu.shape),
    }[kind]
    return draw() + 0.0


def missing(table: pd.DataFrame) -> np.ndarray:
    """Weights (LANES, ROWS): 0, 1 and 30 % of the rows missing, a group without rows, one with a single row left."""
    rng = np.random.default_rng(5)
    W = np.ones((LANES, ROWS))
    W[1, rng.permutation(ROWS)[:2]] = 0.0
    W[2, rng.permutation(ROWS)[: ROWS * 3 // 10]] = 0.0
    W[3, table["g"] == 4] = 0.0
    W[4, np.flatnonzero(table["g"] == 5)[1:]] = 0.0
    W[5, rng.permutation(ROWS)[: ROWS * 3 // 10]] = 0.0
    return W


def same(batch: mm.FitBatch, lane: int, single: mm.Fit) -> None:
    assert batch.converged[lane] and single.converged
    assert batch.deviance[lane] == pytest.approx(single.deviance, abs=1e-6)
    np.testing.assert_allclose(batch.fixef[lane], single.fixef, atol=1e-4 * single.bse.min(), rtol=0)
    np.testing.assert_allclose(batch.bse[lane], single.bse, rtol=1e-4)
    np.testing.assert_allclose(batch.theta[lane], single.theta, atol=3e-4)


FORMULAS = {
    "binomial": ("cbind(y, m - y) ~ x + (1 | g)", mm.families.Binomial),
    "bernoulli": ("y ~ x + (1 | g)", mm.families.Binomial),
    "poisson": ("y ~ x + (1 | g)", mm.families.Poisson),
    "nbinom2": ("y ~ x + (1 | g)", mm.families.NegativeBinomial2),
    "gamma": ("y ~ x + (x | g)", lambda: mm.families.Gamma("log")),
    "beta": ("y ~ x + (1 | g)", mm.families.Beta),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_weights_offset_and_missing_rows(table, kind):
    """What stands in a row that weighs nothing is not looked at, NaN or not."""
    formula, family = FORMULAS[kind]
    rng = np.random.default_rng(2)
    offset = rng.normal(0, 0.4, (LANES, ROWS))
    Y = responses(table, kind, offset, rng)
    W = missing(table) * np.where(np.arange(LANES)[:, None] % 2, 1.0, rng.uniform(0.5, 2.0, (LANES, ROWS)))
    shown, moved = (np.where(W > 0, x, np.nan) for x in (Y, offset))
    model = mm.Model.from_formula(formula, table.assign(y=Y[0]), family=family())
    batch = mm.fit_many(model, Own(shown, weights=W, offset=moved), progress=False)
    if kind == "poisson":
        narrow = mm.fit_many(model, Own(shown, weights=W, offset=moved), batch=4, progress=False)
        np.testing.assert_allclose(narrow.deviance, batch.deviance, rtol=1e-12)
        np.testing.assert_allclose(narrow.fixef, batch.fixef, atol=1e-8)
    for lane in range(LANES):
        own = table.assign(y=Y[lane], t=offset[lane], w=W[lane])[W[lane] > 0]
        same(batch, lane, mm.glmm(f"{formula} + offset(t)", own, family(), weights=own["w"]))
