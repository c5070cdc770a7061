"""Lanes of linear models that differ in more than y: each is the single fit of its own data."""

import jax
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.lanes.linear_own import table_rows
from jaxmm.lanes.products import make_products
from jaxmm.optimize import Status
from jaxmm.sources.responses import ArrayResponses, Varying

LANES = 6


class Own(ArrayResponses):
    """Rows of Y, each with what it has of its own."""

    def __init__(self, Y: np.ndarray, **own):
        super().__init__(Y)
        self.own, self.varies = own, frozenset({"y", *own})

    def block(self, first: int, size: int) -> Varying:
        at = slice(first, first + size)
        own = {k: tuple(z[at] for z in x) if k == "Z" else x[at] for k, x in self.own.items()}
        return super().block(first, size)._replace(**own)


FORMULAS = {
    "intercept": ("y ~ x + (1 | g)", {}),
    "slope": ("y ~ x + f + (x | g)", {}),
    "slope by ml": ("y ~ x + (x | g)", {"reml": False}),
    "independent": ("y ~ x + (x || g)", {}),
    "symmetric": ("y ~ x + cs(x | g)", {}),
    "diag": ("y ~ x + diag(0 + f | g)", {}),
    "three effects": ("y ~ x * t + (x + t | g)", {}),
    "no columns": ("y ~ 0 + (1 | g)", {}),
    "nested": ("y ~ x + (1 | school / g)", {}),
    "crossed": ("y ~ x + (x | g) + (1 | h)", {"reml": False}),
}
FEW = ("intercept", "slope", "crossed")


@pytest.fixture(scope="module")
def table():
    """Levels of unequal size; one of a single row."""
    rng = np.random.default_rng(11)
    n = 260
    g = np.concatenate([[19], rng.integers(0, 19, n - 1)])
    x, t, h = rng.normal(size=n), rng.uniform(0, 3, n), rng.integers(0, 7, n)
    b, c = rng.normal(size=(20, 3)), rng.normal(size=7)
    y = 2.0 + 0.5 * x + b[g, 0] + 0.5 * b[g, 1] * x + 0.3 * b[g, 2] * t + 0.5 * c[h] + 0.8 * rng.normal(size=n)
    f = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    return pd.DataFrame({"y": y, "g": g, "h": h, "school": g % 5, "x": x, "t": t, "f": f})


def responses(table: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """The last without effects: a singular fit in most models."""
    rng = np.random.default_rng(seed)
    Y = table["y"].to_numpy() + 0.4 * rng.normal(size=(LANES, len(table)))
    Y[-1] = 1.0 + rng.normal(size=len(table))
    return Y


def weights(table: pd.DataFrame) -> np.ndarray:
    """Precisions, none, missing rows, levels without rows or with one, and precisions of every scale."""
    rng = np.random.default_rng(5)
    n, g = len(table), table["g"].to_numpy()
    W = np.ones((LANES, n))
    W[0] = rng.gamma(2.0, 0.5, n)
    W[1, rng.permutation(n)[: n // 100 + 1]] = 0.0
    W[2, rng.permutation(n)[: 3 * n // 10]] = 0.0
    W[3] = np.exp(rng.uniform(np.log(1e-6), np.log(1e6), n))
    W[4, np.isin(g, [3, 8])] = 0.0
    W[4, np.flatnonzero(g == 5)[1:]] = 0.0
    W[5] = rng.gamma(2.0, 0.5, n) * (rng.random(n) > 0.05)
    return W


def same_as_singles(batch, tables, formula, more, W=None) -> None:
    for k, own in enumerate(tables):
        single = mm.lmm(formula, own, weights=None if W is None else W[k], **more)
        assert batch.converged[k] and single.converged
        assert batch.deviance[k] == pytest.approx(single.deviance, abs=1e-6)
        assert np.all(np.abs(batch.fixef[k] - single.fixef) <= 1e-4 * single.bse)
        np.testing.assert_allclose(batch.bse[k], single.bse, rtol=1e-4)
        assert batch.sigma[k] == pytest.approx(single.sigma, rel=1e-4)
        sd = np.concatenate([x.to_numpy() for x in single.varcorr().sd.values()])
        np.testing.assert_allclose(batch.varcorr_sd[k], sd, atol=3e-4 * single.sigma, rtol=1e-4)


# ---------------------------------------------------------------- weights and rows that are missing
@pytest.mark.parametrize("name", FORMULAS)
def test_weights_and_missing_rows(table, name):
    """Whatever stands in a row of weight zero."""
    formula, more = FORMULAS[name]
    model, Y, W = mm.Model.from_formula(formula, table, **more), responses(table), weights(table)
    filled = np.where(W > 0, Y, np.nan)
    batch = mm.fit_many(model, Own(filled, weights=W), progress=False)
    same_as_singles(batch, [table.assign(y=y) for y in Y], formula, more, W)


def test_levels_of_very_unequal_size():
    """Whose rows are cut into pieces, so that no table is filled up to the largest level, and whose products are taken
    by tiles of levels."""
    rng = np.random.default_rng(6)
    g = np.concatenate([np.zeros(150, int), np.repeat(np.arange(1, 31), 3)])
    x = rng.normal(size=len(g))
    skewed = pd.DataFrame({"g": g, "x": x, "y": 1.0 + x + rng.normal(size=31)[g] + rng.normal(size=len(g))})
    model = mm.Model.from_formula("y ~ x + (1 | g)", skewed)
    with jax.enable_x64(True):
        rows = table_rows(model.accumulator, None)
    assert rows.level is not None and rows.source.size < 2 * len(g)
    Y = skewed["y"].to_numpy() + rng.normal(size=(4, len(g)))
    W = rng.gamma(2.0, 0.5, Y.shape) * (rng.random(Y.shape) > 0.1)
    tables, copies = [skewed.assign(y=y) for y in Y], np.ones((4, 31))
    same_as_singles(mm.fit_many(model, Own(Y, weights=W), progress=False), tables, "y ~ x + (1 | g)", {}, W)
    copies[np.arange(4), np.arange(4)] = 0.0
    batch = mm.fit_many(model, Own(np.where(copies[:, g] > 0, Y, np.nan), copies=copies), progress=False)
    same_as_singles(batch, tables, "y ~ x + (1 | g)", {}, copies[:, g])
    X = np.tile(model.design.X, (4, 1, 1))
    batch = mm.fit_many(model, Own(Y, X=X, weights=W), progress=False)
    same_as_singles(batch, tables, "y ~ x + (1 | g)", {}, W)


@pytest.mark.parametrize("levels", [1, 9, 60, 400])
def test_products_are_the_sums_over_rows(levels):
    """By one tile and by several, of levels of unequal size in any order; the last row's alone."""
    rng = np.random.default_rng(levels)
    n = max(300, 3 * levels)
    g = rng.permutation(np.concatenate([np.arange(levels), rng.integers(0, max(levels // 3, 1), n - levels)]))
    data = pd.DataFrame({"g": g, "x": rng.normal(size=n), "y": rng.normal(size=n)})
    if levels == 1:
        data.loc[0, "g"] = 1
    with jax.enable_x64(True):
        a = mm.Model.from_formula("y ~ x + (x | g)", data).accumulator
        by, code, rows = make_products(a, None), a.groupings[0].codes, slice(0, n)
        W, e = rng.gamma(2.0, 0.5, (n, 3)), rng.normal(size=(n, 3))
        A, zx, found = by.of_effects(by.rows(W)), by.crossed(by.rows(W)), by.sums(e, W, 2 * W)
    assert levels < 60 or by.source is not None
    X, Z, of = a.X.rows(rows), a.z(0, rows), 1.0 * (code == np.arange(a.groupings[0].levels)[:, None])
    for lane in range(3):
        w, we = W[:, lane], W[:, lane] * e[:, lane]
        np.testing.assert_allclose(A[..., lane], np.einsum("jn,n,na,nb->abj", of, w, Z, Z), atol=1e-10)
        np.testing.assert_allclose(np.array(zx)[..., lane], np.einsum("jn,n,na,nc->acj", of, w, Z, X), atol=1e-10)
        np.testing.assert_allclose(np.array(found.ze)[..., lane], np.einsum("jn,n,na->aj", of, we, Z), atol=1e-10)
        np.testing.assert_allclose(np.array(found.xe)[..., lane], 2 * X.T @ we, atol=1e-10)
        assert found.ee[lane] == pytest.approx(2 * we @ e[:, lane])


# ---------------------------------------------------------------- columns
def of_tables(formula, tables, more) -> dict:
    models = [mm.Model.from_formula(formula, own, **more) for own in tables]
    terms = range(len(models[0].design.terms))
    return {
        "X": np.stack([m.design.X for m in models]),
        "Z": tuple(np.stack([m.design.terms[t].Z for m in models]) for t in terms),
    }


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("also", ["X", "X Z", "X Z weights"])
def test_a_column_of_each_lane(table, name, also):
    """On other scales and far from zero too; in Z where it has a slope."""
    formula, more = FORMULAS[name]
    rng, Y = np.random.default_rng(2), responses(table)
    if "Z" not in also:
        formula = formula.replace("(x | g)", "(1 | g)")
    scales = [(0, 1), (0, 1), (0, 1e6), (1e4, 1), (0, 1e-6), (3, 2)]
    tables = [table.assign(y=y, x=m + s * rng.normal(size=len(table))) for y, (m, s) in zip(Y, scales, strict=True)]
    own = of_tables(formula, tables, more)
    own = {key: own[key] for key in ("X", "Z") if key in also}
    W = weights(table) if "weights" in also else None
    if W is not None:
        own["weights"] = W
    model = mm.Model.from_formula(formula, table, **more)
    batch = mm.fit_many(model, Own(Y, **own), progress=False)
    same_as_singles(batch, tables, formula, more, W)


@pytest.mark.parametrize("name", FEW)
def test_an_offset_of_each_lane(table, name):
    formula, more = FORMULAS[name]
    Y, offset = responses(table), np.random.default_rng(3).normal(size=(LANES, len(table)))
    with_offset = formula.replace("(", "offset(o) + (", 1)
    tables = [table.assign(y=y, o=o) for y, o in zip(Y, offset, strict=True)]
    model = mm.Model.from_formula(with_offset, tables[0].assign(o=-1.0), **more)
    batch = mm.fit_many(model, Own(Y, offset=offset), progress=False)
    same_as_singles(batch, tables, with_offset, more)
    W = np.ones_like(Y)
    beside = mm.fit_many(model, Own(Y, offset=offset, weights=W), progress=False)
    np.testing.assert_allclose(beside.deviance, batch.deviance, atol=1e-7)


# ---------------------------------------------------------------- whole groups
@pytest.mark.parametrize("name", ["intercept", "slope", "slope by ml", "nested"])
def test_groups_left_out(table, name):
    """As copies of 0 and 1 and as weights; what stands in them does not matter."""
    formula, more = FORMULAS[name]
    model, Y = mm.Model.from_formula(formula, table, **more), responses(table)
    outer = "school" if "school" in formula else "g"
    codes = table[outer].to_numpy()
    copies = np.ones((LANES, codes.max() + 1))
    copies[np.arange(LANES), np.arange(LANES) % len(copies[0])] = 0.0
    if outer == "g":
        copies[3, :12] = 0.0
    W = copies[:, codes]
    batch = mm.fit_many(model, Own(np.where(W > 0, Y, 1e8), copies=copies), progress=False)
    same_as_singles(batch, [table.assign(y=y) for y in Y], formula, more, W)


# ---------------------------------------------------------------- lanes that cannot be fitted
def spoilt(table: pd.DataFrame) -> tuple[dict, list]:
    """What goes wrong with the weights of a lane, with X and with Z, and the status of each lane; the last is sound."""
    g, n = table["g"].to_numpy(), len(table)
    W = np.ones((11, n))
    W[0] = 0.0
    W[1, 2:] = 0.0  # as many rows as columns
    W[2, g != 4] = 0.0  # one level
    first = np.unique(g, return_index=True)[1]
    W[3] = np.isin(np.arange(n), first)  # a row each
    W[4, 3], W[5, 3] = -1.0, np.nan
    X = np.stack([np.ones(n), table["x"]], axis=-1)[None].repeat(len(W), 0)
    X[6, :, 1] = 3.7  # a changed column that does not vary
    X[7, 5, 1] = np.inf
    Z = np.ones((len(W), n, 1))
    Z[8, 9] = np.nan
    W[9, g > 12], X[9, g <= 12, 1] = 0.0, 2.0  # one that does not vary where there are rows
    few, bad = Status.TOO_FEW_ROWS, Status.INVALID
    aliased = Status.ALIASED
    return {"weights": W, "X": X, "Z": (Z,)}, [
        few,
        few,
        few,
        few,
        bad,
        bad,
        aliased,
        bad,
        bad,
        aliased,
        Status.CONVERGED,
    ]


@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", "y ~ x + (1 | g) + (1 | h)"], ids=["one factor", "crossed"])
def test_lanes_that_cannot_be_fitted_say_why(table, formula):
    """A status, never an error, and nothing changes for the lane beside them."""
    own, wanted = spoilt(table)
    model = mm.Model.from_formula(formula, table)
    Y = np.broadcast_to(responses(table)[0], own["weights"].shape)
    if "h" in formula:
        own["Z"] = (*own["Z"], np.ones((*Y.shape, 1)))
    batch = mm.fit_many(model, Own(Y, **own), progress=False)
    assert batch.status.tolist() == wanted
    assert np.isnan(batch.fixef[:-1]).all() and np.isnan(batch.loglik[:-1]).all()
    alone = mm.fit_many(model, Y[-1:], progress=False)
    assert batch.deviance[-1] == pytest.approx(alone.deviance[0], abs=1e-7)


def test_responses_of_which_nothing_is_left(table):
    model, Y, W = mm.Model.from_formula("y ~ x + (1 | g)", table), responses(table)[:4].copy(), np.ones((4, len(table)))
    W[:, :20] = 0.0
    Y[0, 20:], Y[1, 20:] = 4.0, 1.0 - 2.0 * table["x"][20:]
    Y[2] *= 1e200
    batch = mm.fit_many(model, Own(Y, weights=W), progress=False)
    assert batch.status.tolist() == [Status.NO_VARIATION, Status.NO_VARIATION, Status.NOT_FINITE, Status.CONVERGED]


@pytest.mark.parametrize("by", ["weights", "copies"])
def test_a_level_of_a_factor_that_is_gone(table, by):
    """The columns of X that all lanes share are dependent in the rows of one of them."""
    kinds = np.where(table["g"] < 3, "c", np.where(table["g"] % 2, "a", "b"))
    model, Y = mm.Model.from_formula("y ~ k + (1 | g)", table.assign(k=kinds)), responses(table)[:2]
    copies = np.ones((2, 20))
    copies[0, :3] = 0.0
    own = copies if by == "copies" else copies[:, table["g"]]
    batch = mm.fit_many(model, Own(Y, **{by: own}), progress=False)
    assert batch.status.tolist() == [Status.ALIASED, Status.CONVERGED]


# ---------------------------------------------------------------- what does not matter
def test_lanes_do_not_depend_on_those_beside_them(table):
    formula = "y ~ x + (x | g)"
    model, Y, W = mm.Model.from_formula(formula, table), responses(table), weights(table)
    own = of_tables(formula, [table.assign(x=(k + 1) * table["x"]) for k in range(LANES)], {})
    wide = mm.fit_many(model, Own(Y, weights=W, **own), batch=32, progress=False)
    narrow = mm.fit_many(model, Own(Y, weights=W, **own), batch=3, progress=False)
    np.testing.assert_allclose(wide.deviance, narrow.deviance, atol=1e-9)
    np.testing.assert_allclose(wide.fixef, narrow.fixef, atol=1e-9)
    np.testing.assert_allclose(wide.theta, narrow.theta, atol=1e-7)


def test_weights_of_one_are_the_shared_design(table):
    model, Y = mm.Model.from_formula("y ~ x + (x | g)", table), responses(table)
    plain = mm.fit_many(model, Y, progress=False)
    for own in ({"weights": np.ones_like(Y)}, {"copies": np.ones((LANES, 20))}):
        same = mm.fit_many(model, Own(Y, **own), progress=False)
        np.testing.assert_allclose(same.deviance, plain.deviance, atol=1e-8)
        np.testing.assert_allclose(same.fixef, plain.fixef, atol=1e-6 * plain.bse.min())


def test_a_level_that_counts_twice_is_two_levels(table):
    formula = "y ~ x + (x | g)"
    model, Y, copies = mm.Model.from_formula(formula, table), responses(table)[:2], np.ones((2, 20))
    copies[0, 4], copies[0, 7], copies[1, 2] = 2.0, 0.0, 3.0
    batch = mm.fit_many(model, Own(Y, copies=copies), progress=False)
    for k, y in enumerate(Y):
        own, g = table.assign(y=y), table["g"]
        parts = [own[g == j].assign(g=100 * c + j) for j in range(20) for c in range(int(copies[k, j]))]
        single = mm.lmm(formula, pd.concat(parts, ignore_index=True))
        assert batch.deviance[k] == pytest.approx(single.deviance, abs=1e-6)
        np.testing.assert_allclose(batch.fixef[k], single.fixef, atol=1e-4 * single.bse.min())


# ---------------------------------------------------------------- shapes
@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"X": np.ones((2, 260, 3))}, r"X of shape \(2, 260, 3\).*\(2, 260, 2\)"),
        ({"Z": (np.ones((2, 260, 2)),)}, r"Z of shape \(2, 260, 2\).*\(2, 260, 1\)"),
        ({"Z": ()}, r"Z of 0 terms.*1"),
        ({"copies": np.ones((2, 7))}, r"copies of shape \(2, 7\).*\(2, 20\)"),
        ({"offset": np.ones((2, 7))}, r"offset of shape \(2, 7\)"),
    ],
)
def test_arrays_of_another_shape(table, own, words):
    model = mm.Model.from_formula("y ~ x + (1 | g)", table)
    with pytest.raises(mm.DataError, match=words):
        mm.fit_many(model, Own(responses(table)[:2], **own), progress=False)
