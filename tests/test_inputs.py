"""weights=, offset=, columns= and missing= of ``fit_many``: each lane is the fit of a table of its own."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.design.replaced import replaced
from jaxmm.optimize import Status
from jaxmm.sources.inputs import common_patterns, count_patterns, read_inputs
from jaxmm.sources.labelled import Labelled, SparseResponses
from jaxmm.sources.responses import ArrayResponses, fingerprint_of_lanes

QUIET = {"progress": False}
FORMULA = "y ~ z * x + f + (x | g)"


def table(seed: int = 0, groups: int = 12, rows: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    x, z = rng.normal(size=len(g)), rng.normal(size=len(g))
    f = np.array(["a", "b", "c"])[rng.integers(0, 3, len(g))]
    effects = rng.normal(size=(groups, 2)) @ np.array([[0.8, 0.0], [0.2, 0.5]])
    y = 1 + 0.5 * x - z + effects[g, 0] + effects[g, 1] * x + rng.normal(size=len(g))
    return pd.DataFrame({"y": y, "x": x, "z": z, "f": f, "g": g})


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def fit(data):
    return mm.lmm(FORMULA, data)


@pytest.fixture(scope="module")
def Y(fit) -> np.ndarray:
    return np.array(fit.simulate(5, key=1))


def same(lane, alone, dropped: tuple[str, ...] = ()):
    assert abs(lane.loglik - alone.loglik) < 5e-7
    left = [name for name in lane.fixef.index if name not in dropped]
    np.testing.assert_allclose(lane.fixef[left], alone.fixef[left], atol=1e-4 * float(alone.bse.min()), rtol=0)
    np.testing.assert_allclose(lane.bse[left], alone.bse[left], rtol=1e-4)


def test_missing_values_leave_their_rows(data, fit, Y):
    Y = Y.copy()
    Y[1, 3], Y[2, ::3], Y[3, :8], Y[4] = np.nan, np.nan, np.nan, np.nan
    batch = mm.fit_many(fit, Y, **QUIET)
    assert batch.nobs.tolist() == [96, 95, 64, 88, 0]
    assert batch.status[4] == Status.TOO_FEW_ROWS and np.isnan(batch.fixef[4]).all()
    for k in range(4):
        same(batch[k], mm.lmm(FORMULA, data.assign(y=Y[k])))
    refused = mm.fit_many(fit, Y, missing="refuse", **QUIET)
    assert refused.status.tolist() == [0] + 4 * [Status.INVALID]


def test_weights_and_offsets_of_each_lane(data, fit, Y):
    rng = np.random.default_rng(2)
    weights, offset = rng.gamma(2.0, size=Y.shape), rng.normal(size=Y.shape)
    weights[2, :8] = 0
    batch = mm.fit_many(fit, Y, weights=weights, offset=offset, **QUIET)
    assert batch.nobs.tolist() == [96, 96, 88, 96, 96]
    for k in (0, 2):
        same(batch[k], mm.lmm(FORMULA, data.assign(y=Y[k]), weights=weights[k], offset=offset[k]))
    shared = mm.fit_many(fit, Y, weights=weights[0], **QUIET)  # one row is the same for all
    np.testing.assert_allclose(shared.fixef[0], mm.lmm(FORMULA, data.assign(y=Y[0]), weights=weights[0]).fixef, 1e-6)


def test_columns_of_each_lane(data, fit, Y):
    rng = np.random.default_rng(3)
    x = 1e3 * rng.normal(size=Y.shape) + 5e3
    x[1, :3] = np.nan
    batch = mm.fit_many(fit, Y, columns={"x": x}, keep=("vcov", "df"), **QUIET)
    assert batch.nobs.tolist() == [96, 93, 96, 96, 96]
    for k in (0, 1):
        alone = mm.lmm(FORMULA, data.assign(y=Y[k], x=x[k]))
        same(batch[k], alone)
        np.testing.assert_allclose(batch.vcov(k), alone.vcov(), rtol=1e-3, atol=1e-6 * np.abs(alone.vcov()).max().max())


def test_what_a_single_fit_leaves_out_a_lane_leaves_out(data, fit, Y):
    """A level without rows, a column that does not vary: the coefficient is NaN and the others are fitted."""
    Y = Y.copy()
    Y[1, data.f == "c"] = np.nan
    batch = mm.fit_many(fit, Y, keep=("vcov",), **QUIET)
    alone = mm.lmm(FORMULA, data.assign(y=Y[1]).dropna())
    assert (
        batch.converged[1]
        and np.isnan(batch[1].fixef["fc"])
        and np.isnan(batch.vcov(1)[list(fit.fixef.index).index("fc")]).all()
    )
    same(batch[1], alone, ("fc",))
    z = np.array(np.broadcast_to(data.z, Y.shape))
    z[2] = 0.0
    batch = mm.fit_many(fit, Y[[0, 0, 0, 3, 4]], columns={"z": z}, **QUIET)
    with pytest.warns(UserWarning, match="rank-deficient"):
        alone = mm.lmm(FORMULA, data.assign(y=Y[0], z=0.0))
    same(batch[2], alone, ("z", "z:x"))
    assert batch[2].fixef[["z", "z:x"]].isna().all() and batch.converged.all()


@pytest.mark.parametrize("keep", [(), ("vcov", "df")], ids=["plain", "what is kept"])
def test_a_coefficient_that_has_lost_its_meaning_is_no_number(data, fit, Y, keep):
    """Without rows of the first level b - a and c - a are not told, though their difference is; nor is an intercept
    where another column is constant.  The others, and how well the model fits, are those of the lane's own fit."""
    Y = np.tile(Y[0], (5, 1))
    Y[1, data.f == "a"] = np.nan
    batch = mm.fit_many(fit, Y, keep=keep, **QUIET)
    alone = mm.lmm(FORMULA, data.assign(y=Y[1]).dropna())
    assert batch.converged.all() and abs(batch.loglik[1] - alone.loglik) < 5e-7
    assert batch.nobs[1] == (data.f != "a").sum()
    lost = batch[1].fixef.isna()
    assert lost[lost].index.tolist() == ["(Intercept)", "fb", "fc"]
    left = ["z", "x", "z:x"]
    np.testing.assert_allclose(batch[1].fixef[left], alone.fixef[left], atol=1e-4 * float(alone.bse.min()))
    np.testing.assert_allclose(batch[1].bse[left], alone.bse[left], rtol=1e-4)
    assert (np.isnan(batch.bse[1]) == lost).all()
    np.testing.assert_allclose(batch.theta[1], alone.theta, atol=2e-4)
    if not keep:
        return
    lost = lost.to_numpy()
    assert (np.isnan(batch.df[1]) == lost).all()
    assert np.array_equal(np.isnan(np.asarray(batch.vcov(1))), lost[:, None] | lost)
    z = np.tile(data.z, (2, 1))
    z[1] = 3.0
    constant = mm.fit_many(fit, Y[[0, 0]], columns={"z": z}, **QUIET)[1].fixef
    assert constant[constant.isna()].index.tolist() == ["(Intercept)", "z", "x", "z:x"]


def test_counts_with_inputs_of_their_own(data):
    rng = np.random.default_rng(4)
    counts = data.assign(y=rng.poisson(np.exp(0.3 + 0.4 * data.x)), t=1.0)
    fit = mm.glmm("y ~ x + offset(log(t)) + (1 | g)", counts, "poisson")
    Y = np.array(fit.simulate(3, key=2), float)
    Y[1, ::7] = np.nan
    t = rng.uniform(0.5, 2.0, Y.shape)
    for given, alone in (({"columns": {"t": t}}, None), ({"offset": np.log(t)}, None)):
        batch = mm.fit_many(fit, Y, **given, **QUIET)
        for k in (0, 1):
            alone = mm.glmm("y ~ x + offset(log(t)) + (1 | g)", counts.assign(y=Y[k], t=t[k]), "poisson")
            same(batch[k], alone)


PROPORTIONS = {
    "one by one": ("s / t ~ x + (1 | g)", "binomial", {}, None),
    "blocks": ("s / t ~ x + (1 | g)", "binomial", {}, 4),
    "quadrature": ("s / t ~ x + (1 | g)", "binomial", {"n_agq": 3}, 4),
}


@pytest.mark.parametrize("name", PROPORTIONS)
def test_weights_of_proportions_are_the_trials_of_each_lane(data, name):
    """As they are of a single fit, its constants included; a row without trials or response is not there."""
    formula, family, more, at_once = PROPORTIONS[name]
    rng = np.random.default_rng(7)
    trials = rng.integers(2, 9, (3, len(data))).astype(float)
    p = 1 / (1 + np.exp(-(0.3 + 0.4 * data.x.to_numpy() + rng.normal(size=12)[data.g])))
    Y = rng.binomial(trials.astype(int), rng.beta(6 * p, 6 * (1 - p), trials.shape)) * 1.0
    own = data.assign(s=Y[2], t=trials[2])
    fit = mm.glmm(formula, own, family, weights="t", **more)
    trials[1, ::9], Y[1, ::9], Y[1, 4] = 0, 99, np.nan
    batch = mm.fit_many(fit, Y, weights=trials, batch=at_once, **QUIET)
    assert batch.nobs.tolist() == [96, 84, 96]
    same(batch[2], fit)
    for k in range(2):
        there = (trials[k] > 0) & ~np.isnan(Y[k])
        same(batch[k], mm.glmm(formula, data.assign(s=Y[k], t=trials[k])[there], family, weights="t", **more))


def test_numbers_that_are_no_trials(data):
    rng = np.random.default_rng(7)
    own = data.assign(s=rng.binomial(4, 0.4, len(data)) / 4, t=4)
    fit = mm.glmm("s ~ x + (1 | g)", own, "binomial", weights="t")
    Y, trials = np.tile(4.0 * own.s, (2, 1)), np.full((2, len(data)), 4.0)
    Y[1, 5] = 6.0
    assert mm.fit_many(fit, Y, weights=trials, **QUIET).status.tolist() == [0, Status.INVALID]
    trials[1, 3] = 0.5
    with pytest.raises(
        mm.DataError, match=r"trials of its proportions.*0\.5\)? of lane 1 at row 3.*whole number; .*cbind"
    ):
        mm.fit_many(fit, Y, weights=trials, **QUIET)


def test_the_columns_of_lanes_are_those_of_their_tables(data):
    """Interactions, transforms and what these learn from a column, factors, Z and offsets."""
    formula = "y ~ f * poly(x, 2) + I(x^2):z + scale(z) + offset(x) + (scale(x) + f || g)"
    rng = np.random.default_rng(5)
    x, f = rng.normal(size=(3, len(data))), np.array(["a", "b", "c"])[rng.integers(0, 3, (3, len(data)))]
    x[1, 4] = np.nan
    design = mm.Model.from_formula(formula, data).design
    lanes = replaced(design, ["x", "f"]).lanes({"x": x, "f": f})
    for k in range(3):
        own = mm.Model.from_formula(formula, data.assign(x=x[k], f=f[k])).design
        rows = ~lanes.gone[k]
        np.testing.assert_allclose(lanes.X[k][rows], own.X, atol=1e-12)
        np.testing.assert_allclose(lanes.offset[k][rows], own.offset, atol=1e-12)
        for mine, term in zip(lanes.Z, own.terms, strict=True):
            np.testing.assert_allclose(mine[k][rows], term.Z, atol=1e-12)
    assert lanes.gone.sum() == 1 and not lanes.impossible.any()


def test_columns_that_are_impossible(data):
    fit = mm.lmm("y ~ log(t) + (1 | g)", data.assign(t=1.5 + data.index / 50))
    Y, t = np.array(fit.simulate(2, key=1)), np.full((2, len(data)), 2.0) + np.arange(len(data)) / 50
    t[1, 5] = -1.0
    assert mm.fit_many(fit, Y, columns={"t": t}, **QUIET).status.tolist() == [0, Status.INVALID]
    weights, missing = np.ones(Y.shape), Y.copy()
    weights[1, 5], missing[1, 5] = 0.0, np.nan  # what stands in a row that is not there is not looked at
    left_out = mm.fit_many(fit, Y, columns={"t": t}, weights=weights, **QUIET)
    assert left_out.converged.all() and left_out.nobs.tolist() == [96, 95]
    np.testing.assert_allclose(mm.fit_many(fit, missing, columns={"t": t}, **QUIET).loglik, left_out.loglik, rtol=1e-12)


def test_arrays_beside_a_table_in_another_order(data, fit, Y):
    """Whose rows are those of the table, or of the model: nobody knows."""
    table = pd.DataFrame(Y.T, index=data.index)
    W = np.random.default_rng(1).gamma(2.0, size=Y.shape)
    order = np.random.default_rng(2).permutation(len(data))
    shuffled, own = table.iloc[order], pd.DataFrame(W.T, index=data.index).iloc[order]
    for call in (mm.fit_many, lambda *a, **k: mm.permutation_test(*a, "z", key=1, n=4, progress=False, weights=W)):
        with pytest.raises(mm.DataError, match="order of the model's rows by its labels, and weights has none"):
            call(fit, shuffled, **({"weights": W} | QUIET if call is mm.fit_many else {}))
    there, plain = (mm.fit_many(fit, y, weights=w, **QUIET) for y, w in ((shuffled, own), (Y, W)))
    np.testing.assert_allclose(there.loglik, plain.loglik, rtol=1e-12)
    with pytest.raises(mm.DataError, match="have some labels twice, as 0"):
        mm.fit_many(fit, table.set_axis([0, *data.index[:-1]]), **QUIET)


def test_patterns_that_many_responses_have(fit, Y, monkeypatch):
    many = np.tile(Y, (6, 1))
    many[::3, :4], many[1::3, 5:9], many[2, 7] = np.nan, np.nan, np.nan
    monkeypatch.setattr("jaxmm.costs.PATTERN_WORK", 5 * 96 * 8)
    patterns = common_patterns(count_patterns(ArrayResponses(many)), fit.model.design)
    assert patterns.shape == (2, 96) and (~patterns).sum() == 8
    shared = mm.fit_many(fit, many, **QUIET)
    monkeypatch.setattr("jaxmm.costs.PATTERN_WORK", 1 << 27)
    own = mm.fit_many(fit, many, **QUIET)
    np.testing.assert_allclose(shared.loglik, own.loglik, atol=1e-8)
    np.testing.assert_allclose(shared.fixef, own.fixef, atol=1e-7)
    assert shared.nobs.tolist() == own.nobs.tolist()


def test_results_do_not_depend_on_the_batch(fit, Y, tmp_path):
    many = np.tile(Y, (5, 1))
    many[::4, ::5], many[3] = np.nan, np.nan
    weights = np.random.default_rng(1).gamma(3.0, size=many.shape)
    whole = mm.fit_many(fit, many, weights=weights, **QUIET)
    parts = mm.fit_many(fit, many, weights=weights, batch=8, out=tmp_path / "out", **QUIET)
    np.testing.assert_allclose(whole.fixef, parts.fixef, atol=1e-9)
    with pytest.raises(ValueError, match="another study"):
        mm.fit_many(fit, many, weights=2 * weights, batch=8, out=tmp_path / "out", **QUIET)


def test_a_folder_knows_every_number_that_is_in_memory(data, fit, tmp_path):
    """One of 200 lanes is enough; a memory map is told by some of its rows alone."""
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(200, len(data)))
    texts = np.array(["a", "b", "c"], object)[rng.integers(0, 3, Y.shape)]
    given = {"Y": Y, "weights": np.ones(Y.shape), "offset": np.zeros(Y.shape), "x": 1.0 * Y, "f": texts}

    def identity(Y, weights, offset, x, f):
        source = ArrayResponses(Y)
        inputs = read_inputs(
            fit.model.design, source, Labelled(Y, None), weights, offset, {"x": x, "f": f}, "drop", True
        )
        return {**source.identity(), **inputs.identity()}

    before = identity(**given)
    assert before == identity(**{name: x.copy(order="F") for name, x in given.items()})
    for name, x in given.items():
        other = x.copy()
        other[77, 5] = "b" if other[77, 5] == "a" else "a" if name == "f" else 2.0
        after = identity(**{**given, name: other})
        assert [key for key in before if before[key] != after[key]] == [
            {"Y": "rows", "x": "column x", "f": "column f"}.get(name, name)
        ]
    np.save(tmp_path / "Y.npy", Y)
    mapped = np.load(tmp_path / "Y.npy", mmap_mode="r+")
    told = ArrayResponses(mapped).identity()
    mapped[77] += 1.0
    assert told == ArrayResponses(np.asarray(mapped)).identity() == ArrayResponses(mapped[:]).identity()
    mapped[0, 0] += 1.0
    assert told != ArrayResponses(mapped).identity()


def test_sparse_responses_and_masks_are_told_apart():
    from scipy import sparse

    Y = np.arange(12.0).reshape(3, 4)
    one, other = (SparseResponses(sparse.csr_matrix(x.T)).identity() for x in (Y, np.where(Y == 5, 6, Y)))
    assert one == SparseResponses(sparse.csc_matrix(Y.T)).identity() != other
    masked = np.ma.masked_equal(Y, 5)
    assert ArrayResponses(masked).identity() == ArrayResponses(masked.filled(np.nan)).identity()
    shared = np.broadcast_to(Y[0], (1000, 4))
    assert fingerprint_of_lanes(shared) != fingerprint_of_lanes(shared[:999])
    assert fingerprint_of_lanes(jnp.asarray(Y, float)) == fingerprint_of_lanes(np.asarray(jnp.asarray(Y, float)))


def test_tables_and_arrays_keep_their_names(data, fit, Y):
    table = pd.DataFrame(Y.T, columns=list("aacde"), index=data.index)  # a name may be there twice
    assert mm.fit_many(fit, table, **QUIET).to_frame()["response"].tolist() == list("aacde")
    table.columns = list("abcde")
    weights = pd.DataFrame(np.ones_like(Y.T), columns=list("abcde"), index=data.index)
    assert mm.fit_many(fit, table, weights=weights, **QUIET).to_frame()["response"].tolist() == list("abcde")
    with pytest.raises(mm.DataError, match="weights has other labels than Y"):
        mm.fit_many(fit, table, weights=weights[list("edcba")], **QUIET)


def test_what_stands_beside_the_responses_is_matched_by_label_too(data):
    """A Series or a table in another order, of numbers or levels; other labels are refused by the argument's name."""
    named = data.set_axis([f"r{k}" for k in range(len(data))])
    design = mm.Model.from_formula(FORMULA, named).design
    source, order = ArrayResponses(np.tile(design.y, (2, 1))), np.random.default_rng(1).permutation(len(data))

    def read(**given):
        given = {"weights": None, "offset": None, "columns": None, **given}
        return read_inputs(design, source, Labelled(Y, None), *given.values(), "drop", True)

    series = named.z**2 + 0.1
    one = read(weights=series.iloc[order], offset=named.x.iloc[order], columns={"f": named.f.iloc[order]})
    np.testing.assert_array_equal(one.weights, np.tile(series, (2, 1)))
    np.testing.assert_array_equal(one.offset[1], named.x)
    assert one.columns["f"][1].tolist() == named.f.tolist()
    wide = pd.DataFrame({"a": named.f, "b": named.f}).iloc[order]
    assert read(columns={"f": wide}).columns["f"][0].tolist() == named.f.tolist()
    moved = series.set_axis([f"r{k}" for k in range(2, 2 + len(data))])
    for name, other in (("weights", {"weights": moved}), (r"columns\['x'\]", {"columns": {"x": moved}})):
        with pytest.raises(
            mm.DataError, match=rf"{name} has the labels of 94 of the 96 rows of the model, and not 'r0'"
        ):
            read(**other)
    with pytest.raises(mm.DataError, match="offset has 95 observations and the model 96"):
        read(offset=series.iloc[1:].set_axis(range(95)))
    with pytest.raises(mm.DataError, match="column 'a' of weights holds no numbers"):
        read(weights=wide)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"weights": np.ones((5, 95))}, r"weights must have the shape of Y, \(5, 96\), and has \(5, 95\)"),
        ({"weights": np.ones((96, 5))}, r"pass weights\.T"),
        ({"weights": -np.ones((5, 96))}, r"weights of lane 0 are negative at row 0"),
        ({"weights": np.full((5, 96), np.nan)}, r"weights of lane 0 are not finite"),
        ({"weights": np.zeros((5, 96))}, "weights are all zero"),
        ({"weights": np.full((5, 96), "a")}, "where numbers are due"),
        ({"offset": np.full((5, 96), np.inf)}, "offset of lane 0 is not finite at row 0"),
        ({"columns": {"w": np.ones((5, 96))}}, "'w' is no column of the formula"),
        ({"columns": {"y": np.ones((5, 96))}}, "'y' is the response"),
        ({"columns": {"g": np.ones((5, 96))}}, r"'g' is a grouping factor.*fit_many\(tables, formula=...\)"),
        ({"columns": {"f": np.full((5, 96), "d")}}, "'f' holds 'd', which the fit has not seen"),
        ({"columns": {"x": np.ones(3)}}, r"columns\['x'\] must have the shape of Y"),
        ({"missing": "raise"}, "missing must be 'drop' or 'refuse'"),
    ],
)
def test_bad_inputs(fit, Y, given, says):
    with pytest.raises(ValueError, match=says):
        mm.fit_many(fit, Y, **given, **QUIET)


def test_more_bad_inputs(data, fit, Y):
    with pytest.raises(TypeError, match="columns must map a name to its values"):
        mm.fit_many(fit, Y, columns=np.ones(Y.shape), **QUIET)
    with pytest.raises(mm.DataError, match="need an array Y, whose lanes can be counted"):
        mm.fit_many(fit, iter([Y]), weights=np.ones(Y.shape), **QUIET)
