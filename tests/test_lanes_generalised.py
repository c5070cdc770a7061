"""Lanes of generalised models that differ in more than y: each is the single fit of its own data."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm._context import computing
from jaxmm.batch.setup import make_problem
from jaxmm.optimize import Status
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
    np.testing.assert_allclose(batch.fixef[lane] / single.bse, single.fixef / single.bse, atol=1e-4, rtol=0)
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


def own_columns(table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """A column x of each lane: as the table's, far from zero, on another scale, the same."""
    x = rng.normal(size=(LANES, ROWS)) + 0.3 * table["x"].to_numpy()
    x[1] = 2e5 + x[1]
    x[2] = 1e6 * x[2]
    x[3] = 1e-5 * x[3]
    x[4] = table["x"]
    return x


@pytest.mark.parametrize(("kind", "formula"), [("poisson", "y ~ x + (1 | g)"), ("gamma", "y ~ x + (x | g)")])
def test_columns_of_a_lane(table, kind, formula):
    """X, and Z where it has the column; with missing rows, in which anything may stand."""
    family = FORMULAS[kind][1]
    rng = np.random.default_rng(4)
    x = own_columns(table, rng)
    Y, W = responses(table, kind, np.zeros((LANES, ROWS)), rng), missing(table)
    X = np.stack([np.ones_like(x), np.where(W > 0, x, np.nan)], axis=2)
    own = {"weights": W, "X": X}
    if "(x" in formula:
        own["Z"] = (X,)
    model = mm.Model.from_formula(formula, table.assign(y=Y[0]), family=family())
    batch = mm.fit_many(model, Own(Y, **own), progress=False)
    for lane in range(LANES):
        data = table.assign(y=Y[lane], x=x[lane])[W[lane] > 0]
        single = mm.glmm(formula, data, family())
        assert batch.converged[lane] and single.converged
        assert batch.deviance[lane] == pytest.approx(single.deviance, abs=1e-6)
        np.testing.assert_allclose(batch.fixef[lane] / single.bse, single.fixef / single.bse, atol=1e-4)
        np.testing.assert_allclose(batch.bse[lane], single.bse, rtol=1e-4)
        sd = np.concatenate([v.to_numpy() for v in single.varcorr().sd.values()])
        np.testing.assert_allclose(batch.varcorr_sd[lane], sd, atol=3e-4 * (sd.max() or 1.0))


ANY = {
    "crossed": ("y ~ x + (1 | g) + (1 | h)", "poisson", {}),
    "nested": ("y ~ x + (1 | s / g)", "poisson", {}),
    "zeros": ("y ~ x + (1 | g)", "zeros", {"zero_inflation": "~ x"}),
    "quadrature": ("y ~ x + (1 | g)", "bernoulli", {"n_agq": 5}),
}


@pytest.mark.parametrize("name", ANY)
def test_any_structure(table, name):
    """Weights, missing rows, an offset and a column of each lane, where the criterion is that of a single fit."""
    formula, kind, more = ANY[name]
    family = mm.families.Binomial() if kind == "bernoulli" else "poisson"
    rng = np.random.default_rng(9)
    offset = rng.normal(0, 0.3, (LANES, ROWS))
    x = own_columns(table, rng)
    Y, W = responses(table, kind, offset, rng), missing(table)
    W = W * rng.uniform(0.7, 1.5, W.shape)
    seen = W > 0
    X = np.stack([np.ones_like(x), np.where(seen, x, np.nan)], axis=2)
    lanes = [0, 1, 2] if name == "zeros" else range(4)
    model = mm.Model.from_formula(formula, table.assign(y=Y[0]), family=family, **more)
    source = Own(np.where(seen, Y, np.nan), weights=W, offset=np.where(seen, offset, np.inf), X=X)
    batch = mm.fit_many(model, source, progress=False)
    for lane in lanes:
        data = table.assign(y=Y[lane], t=offset[lane], w=W[lane], xx=x[lane])[seen[lane]]
        single = mm.glmm(formula.replace("x", "xx") + " + offset(t)", data, family, weights=data["w"], **more)
        same(batch, lane, single)


def test_a_level_without_rows_where_a_link_has_an_edge():
    """By quadrature: the mean would be negative in the rows that are not there, and they add nothing."""
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(8), 6), np.linspace(0.0, 1.0, 48)
    mu = 1 / np.maximum(1.2 - x + 0.2 * rng.normal(size=8)[g], 0.1)
    table = pd.DataFrame({"g": g, "x": x, "y": rng.gamma(5.0, mu / 5.0)})
    formula, family, there = "y ~ x + (1 | g)", mm.families.Gamma("inverse"), (g != 7) & (np.arange(48) != 3)
    model = mm.Model.from_formula(formula, table, family=family, n_agq=5)
    columns = {"x": np.where(there, x, 5.0)[None]}
    batch = mm.fit_many(model, table[["y"]].T.to_numpy(), weights=1.0 * there, columns=columns, batch=2, progress=False)
    same(batch, 0, mm.glmm(formula, table[there], family, n_agq=5))


def test_lanes_that_cannot_be_fitted(table):
    """No row, dependent columns, no count in the rows that are there, an offset or a column that is no number."""
    rng = np.random.default_rng(6)
    Y = responses(table, "poisson", np.zeros((LANES, ROWS)), rng)
    W, offset = np.ones((LANES, ROWS)), np.zeros((LANES, ROWS))
    X = np.stack([np.ones((LANES, ROWS)), np.tile(table["x"], (LANES, 1))], axis=2)
    W[0] = 0.0
    X[1, :, 1] = 3.0
    W[2, Y[2] > 0] = 0.0
    offset[3, 5] = np.inf
    X[4, 7, 1] = np.nan
    model = mm.Model.from_formula("y ~ x + (1 | g)", table.assign(y=Y[5]), family="poisson")
    batch = mm.fit_many(model, Own(Y, weights=W, offset=offset, X=X), progress=False)
    wanted = [Status.TOO_FEW_ROWS, Status.ALIASED, Status.NO_VARIATION, Status.INVALID, Status.INVALID]
    assert batch.status.tolist() == [*wanted, Status.CONVERGED]
    assert np.isnan(batch.fixef[:5]).all()
    same(batch, 5, mm.glmm("y ~ x + (1 | g)", table.assign(y=Y[5]), "poisson"))


def test_lanes_with_too_few_rows(table):
    """Of one group alone, or of no more rows than columns: a single fit is an error.  Without a column that depends on
    others two rows may be enough of counts."""
    formula, rng = "y ~ x + (1 | g)", np.random.default_rng(6)
    table = table.assign(x=np.arange(ROWS) % 3 * 1.0, y=rng.poisson(3, ROWS))
    here = {(g, x): np.flatnonzero((table["g"] == g) & (table["x"] == x))[0] for g in (4, 5) for x in (1, 2)}
    W = np.zeros((4, ROWS))
    W[0, table["g"] == 4] = 1.0
    W[1, [here[4, 1], here[5, 2]]] = 1.0
    W[2, [here[4, 1], here[5, 1]]] = 1.0
    W[3] = 1.0
    Y = np.tile(table["y"], (4, 1)) * 1.0
    Y[2, here[4, 1]], Y[2, here[5, 1]] = 1.0, 14.0
    model = mm.Model.from_formula(formula, table, family="poisson")
    batch = mm.fit_many(model, Y, weights=W, batch=4, progress=False)
    assert batch.status[[0, 1]].tolist() == [Status.TOO_FEW_ROWS] * 2 and batch.converged[3]
    for k in range(2):
        with pytest.raises(mm.DataError):
            mm.glmm(formula, table.assign(y=Y[k])[W[k] > 0], "poisson")
    with pytest.warns(UserWarning, match="rank-deficient"):
        alone = mm.glmm(formula, table.assign(y=Y[2])[W[2] > 0], "poisson")
    assert batch.converged[2] and batch.deviance[2] == pytest.approx(alone.deviance, abs=1e-6)
    crossed = mm.Model.from_formula("y ~ x + (1 | g) + (1 | h)", table, family="poisson")
    W[1] = table["h"] == 2
    with computing(crossed.device):
        lanes = make_problem(crossed, None, False, frozenset({"y", "weights"}))
        found = np.asarray(lanes.refuse(Varying(y=jnp.asarray(Y.T), weights=jnp.asarray(W.T))))
    assert found.tolist() == [Status.TOO_FEW_ROWS, Status.TOO_FEW_ROWS, Status.ALIASED, -1]
