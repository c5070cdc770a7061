"""What is random in studies beyond normal effects: shapes, spread, covariates, missing rows; another model fitted."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxmm as mm
from jaxmm.sources.draws import NAMED
from jaxmm.sources.missing import as_patterns

N = 6
TRUTH = {"fixef": {"(Intercept)": 1.0, "armb": 0.0, "v": 0.3}, "sd": {"s": 1.0}, "sigma": 0.8}


@pytest.fixture(scope="module")
def table():
    return mm.make_design({"s": 30}, within={"v": [0, 1, 2, 3]}, between={"s": {"arm": ["a", "b"]}})


@pytest.fixture(scope="module")
def model(table):
    return mm.plan("y ~ arm + v + (1 | s)", table)


def drawn(model, size=1, key=1, truth=TRUTH, **mechanism):
    return mm.Simulated(model, truth, 10_000, key, mechanism=mm.Mechanism(**mechanism)).block(0, size)


# ---------------------------------------------------------------- distributions
@pytest.mark.parametrize(
    "draw", [*NAMED.values(), mm.draws.SkewNormal(-0.6), mm.draws.Mixture((0, 3), (1, 2), (0.8, 0.2))]
)
def test_mean_and_sd_are_those_of_what_is_drawn(draw, x64):
    x = np.asarray(draw.sample(jax.random.key(3), (200_000,)))
    fourth = np.std((x - x.mean()) ** 2) / (2 * x.std())  # of the standard error of the standard deviation
    assert abs(x.mean() - draw.mean) < 4 * x.std() / np.sqrt(len(x))
    assert abs(x.std() - draw.sd) < 6 * fourth / np.sqrt(len(x)) + 1e-12


def test_the_skewness_is_what_is_asked_for(x64):
    x = np.asarray(mm.draws.SkewNormal(0.8).sample(jax.random.key(3), (400_000,)))
    assert stats.skew(x) == pytest.approx(0.8, abs=0.03)
    assert stats.kstest(mm.draws.StudentT(4).sample(jax.random.key(1), (5000,)), stats.t(4).cdf).pvalue > 1e-3


# ---------------------------------------------------------------- effects and errors
def test_normal_numbers_are_those_of_a_plain_study(model):
    plain = np.asarray(mm.Simulated(model, TRUTH, 100, 1).block(3, 70).y)
    found = mm.Simulated(model, TRUTH, 100, 1, mechanism=mm.Mechanism(missing=mm.missing.AtRandom(0.2))).block(3, 70)
    np.testing.assert_allclose(found.y, plain, rtol=1e-12, atol=1e-12)


def test_variances_are_those_of_the_truth_whatever_the_shape(model):
    y = drawn(model, 640, effects="t", errors=mm.draws.SkewNormal(0.9)).y.reshape(-1, 4)
    y = y - 0.3 * np.arange(4) - 1.0
    within = np.mean(np.var(y, axis=1, ddof=1))
    between = np.var(y.mean(axis=1)) - within / 4
    assert within == pytest.approx(0.64, rel=0.03) and between == pytest.approx(1.0, rel=0.06)
    assert stats.skew((y - y.mean(axis=1, keepdims=True)).ravel()) > 0.15
    assert stats.kurtosis(y.mean(axis=1)) > 0.8  # 6 (1 / 1.16)² of t with 5 degrees, estimated low


def test_a_function_and_one_factor_of_several(table):
    crossed = mm.plan("y ~ 1 + (1 | s) + (1 | v)", table)
    truth = {"fixef": 0.0, "sd": {"s": 1.0, "v": 2.0}, "sigma": 0.0}
    found = drawn(crossed, 3, truth=truth, effects={"v": lambda key, shape: jnp.full(shape, 0.5)}).y
    plain = np.asarray(mm.Simulated(crossed, truth | {"sd": {"s": 1.0, "v": 0.0}}, 3, 1).block(0, 3).y)
    np.testing.assert_allclose(found, plain + 1.0, atol=1e-12)


def test_spread_keeps_the_mean_variance(model, table):
    y = drawn(model, 640, spread=mm.Spread("arm", {"a": 1.0, "b": 3.0})).y.reshape(640, 30, 4) - 0.3 * np.arange(4)
    within = np.var(y, axis=2, ddof=1).mean(axis=0)
    a = (np.arange(30) % 2) == 0
    assert within[~a].mean() / within[a].mean() == pytest.approx(9.0, rel=0.08)
    assert within.mean() == pytest.approx(0.64, rel=0.04)
    linear = drawn(model, 640, spread=lambda c: 1 + c["v"]).y.reshape(640 * 30, 4)
    assert np.diff(np.var(linear - linear.mean(axis=1, keepdims=True), axis=0)).min() > 0


# ---------------------------------------------------------------- covariates
def test_columns_give_X_with_interactions_and_transforms(table):
    table = table.assign(x=np.linspace(0.0, 1.0, len(table)))
    model = mm.plan("y ~ arm * I(x^2) + (x | s)", table)
    truth = {
        "fixef": dict(zip(model.design.columns, (1.0, 0.5, 2.0, -1.0), strict=True)),
        "sd": {"s": [0.0, 0.0]}, "sigma": 0.0,
    }  # fmt: skip
    source = mm.Simulated(model, truth, 8, 1, mechanism=mm.Mechanism(columns={"x": mm.draws.Per("s", "uniform")}))
    own, columns = source.mechanised.block(0, 2)
    x = columns["x"]
    assert source.varies == {"y", "X", "Z"} and np.ptp(x.reshape(2, 30, 4), axis=2).max() == 0
    assert np.ptp(x[0]) > 0.5 and not np.allclose(x[0], x[1])
    b = (table.arm == "b").to_numpy() * 1.0
    np.testing.assert_allclose(own.y, 1 + 0.5 * b + 2 * x**2 - b * x**2, atol=1e-12)
    np.testing.assert_allclose(own.X[1], np.column_stack([np.ones(120), b, x[1] ** 2, b * x[1] ** 2]), atol=1e-12)
    np.testing.assert_allclose(own.Z[0][1], np.column_stack([np.ones(120), x[1]]), atol=1e-12)
    fewer = source.on(mm.plan("y ~ x + (1 | s)", table)).block(0, 2)
    np.testing.assert_allclose(fewer.X[0], np.column_stack([np.ones(120), x[0]]), atol=1e-12)
    assert fewer.Z is None or np.all(fewer.Z[0] == 1)


# ---------------------------------------------------------------- missing rows
def test_a_replicate_does_not_depend_on_how_a_study_is_cut(model):
    source = mm.Simulated(
        model, TRUTH, 300, 1,
        mechanism=mm.Mechanism(effects="t", missing=mm.missing.DropoutByResponse(-2, "s", "v", current=0.5)),
    )  # fmt: skip
    whole = source.block(0, 200)
    for first, size in ((0, 1), (63, 2), (130, 70), (17, 64)):
        part = source.block(first, size)
        assert np.array_equal(part.y, whole.y[first : first + size])
        assert np.array_equal(part.weights, whole.weights[first : first + size])


def test_rates_and_patterns_of_missing_rows(model):
    def there(pattern, size=640):
        return drawn(model, size, missing=pattern).weights.reshape(size, 30, 4)

    by_arm = there(mm.missing.AtRandom({"a": 0.1, "b": 0.4}, by="arm")).mean(axis=(0, 2))
    assert by_arm[::2].mean() == pytest.approx(0.9, abs=0.01) and by_arm[1::2].mean() == pytest.approx(0.6, abs=0.015)
    whole = there(mm.missing.AtRandom(0.3, per="s"))
    assert np.ptp(whole, axis=2).max() == 0 and whole.mean() == pytest.approx(0.7, abs=0.02)
    left = there(mm.missing.Dropout({"a": [0.1, 0.2, 0.3], "b": 0.5}, "s", "v", by="arm"))
    assert np.all(np.diff(left, axis=2) <= 0) and left[:, :, 0].min() == 1
    stays = left.mean(axis=0)
    np.testing.assert_allclose(stays[::2].mean(axis=0), np.cumprod([1, 0.9, 0.8, 0.7]), atol=0.015)
    np.testing.assert_allclose(stays[1::2].mean(axis=0), 0.5 ** np.arange(4), atol=0.02)
    sizes = there(mm.missing.ClusterSizes("s", np.r_[np.ones(20), np.full(10, 4)])).sum(axis=2)
    assert np.all(np.sort(sizes, axis=1) == np.r_[np.ones(20), np.full(10, 4)]) and np.ptp(sizes, axis=0).min() > 0
    few = there(mm.missing.ClusterSizes("s", mm.draws.Poisson(2), least=1)).sum(axis=2)
    assert set(np.unique(few)) == {1, 2, 3, 4} and np.all(np.diff(there(mm.missing.ClusterSizes("s", "poisson"))) <= 0)


def test_dropout_by_the_response_has_the_hazard_of_its_formula(model):
    found = drawn(model, 1280, missing=mm.missing.DropoutByResponse(-1, "s", "v", previous=0.7, current=0.4, centre=1))
    y, there = found.y.reshape(-1, 4) - 1, found.weights.reshape(-1, 4)
    assert np.all(np.diff(there, axis=1) <= 0)
    for v in (1, 2, 3):
        hazard = 1 / (1 + np.exp(1 - 0.7 * y[:, v - 1] - 0.4 * y[:, v]))
        seen = there[:, v - 1] > 0
        for low, high in ((0.0, 0.2), (0.2, 0.35), (0.35, 1.0)):
            some = seen & (hazard >= low) & (hazard < high)
            error = np.sqrt(np.mean(hazard[some] * (1 - hazard[some])) / some.sum())
            assert abs(np.mean(there[some, v] == 0) - hazard[some].mean()) < 4 * error


def test_of_several_rows_of_a_visit_the_mean_counts(x64):
    twice = mm.plan("y ~ v + (1 | s)", mm.make_design({"s": 8}, within={"v": [0, 1, 2]}, repeats=2))
    pattern = mm.missing.DropoutByResponse(0, "s", "v", previous=1e3).on(twice.design)
    y = np.zeros((8, 3, 2))
    y[:4, 0], y[4:, 0, 0], y[4:, 0, 1] = 1.0, -3.0, 1.0
    there = np.asarray(pattern(jax.random.key(1), y.ravel())).reshape(8, 3, 2)
    assert not there[:4, 1:].any() and there[4:, 1].all()


# ---------------------------------------------------------------- a study with it
def test_lanes_are_fits_of_the_rows_that_are_there(model, table):
    mechanism = mm.Mechanism(missing=mm.missing.Dropout(0.3, "s", "v"), columns={"v": mm.draws.Normal(1, 1)})
    source = mm.Simulated(model, TRUTH, N, 1, mechanism=mechanism)
    batch = mm.fit_many(model, source, progress=False)
    own, columns = source.mechanised.block(0, N)
    for k in (0, N - 1):
        rows = table.assign(y=own.y[k], v=columns["v"][k])[own.weights[k] > 0]
        single = mm.lmm("y ~ arm + v + (1 | s)", rows)
        assert batch.deviance[k] == pytest.approx(single.deviance, abs=1e-6)
        np.testing.assert_allclose(batch.fixef[k], single.fixef, atol=1e-4 * single.bse.min())


def test_another_model_is_fitted(model, table):
    other = mm.plan("y ~ arm + (1 | s)", table)
    found = mm.study(model, TRUTH, N, key=1, fit=other, progress=False)
    assert found.recovery.loc["armb", "truth"] == 0.0
    y = np.asarray(mm.Simulated(model, TRUTH, N, 1).block(0, N).y)
    expected = [other.with_response(x).fit().fixef["armb"] for x in y]
    np.testing.assert_allclose(found.batch.fixef[:, 1], expected, atol=1e-5)
    row = found.recovery.loc["sigma"]
    assert np.isnan(row["truth"]) and np.isnan(row["bias"]) and row["mean"] > 0
    text = repr(found)
    assert "nan" not in text and "y ~ arm + (1 | s)" in text
    more = mm.plan("y ~ arm * v + (1 | s)", table)
    found = mm.study(model, TRUTH, 2, key=1, fit=more, progress=False)
    assert found.tests.set_index("coef")["is"].to_dict() == {
        "(Intercept)": "power", "armb": "type I error", "v": "power", "armb:v": "no truth",
    }  # fmt: skip


def test_a_model_of_other_rows_is_refused(model, table):
    with pytest.raises(mm.DataError, match="a model of 119 rows, and the responses are of the 120 rows"):
        mm.study(model, TRUTH, 2, key=1, fit=mm.plan("y ~ arm + (1 | s)", table[:-1]))


# ---------------------------------------------------------------- what makes no sense
@pytest.mark.parametrize(
    ("mechanism", "error", "message"),
    [
        ({"effects": "cauchy"}, ValueError, "effects: there is no distribution 'cauchy'; there are 'normal', 't'"),
        ({"errors": 3}, TypeError, "errors must be a distribution such as mm.draws.StudentT"),
        ({"effects": {"g": "t"}}, ValueError, "effects has no grouping factor 'g'; there are 's'"),
        ({"spread": [1.0, 2.0]}, ValueError, "spread must be a positive number for each of 120 rows"),
        ({"spread": mm.Spread("arm", {"a": 1.0})}, ValueError, "ratios of Spread lacks the level 'b'"),
        ({"spread": lambda c: c["w"]}, mm.DataError, "no column 'w' in the formula: there are 's', 'arm', 'v'"),
        ({"columns": {"w": "normal"}}, mm.DataError, "'w'"),
        ({"columns": ["v"]}, TypeError, "columns must map a name"),
        ({"columns": {"v": lambda key: jnp.zeros(3)}}, mm.DataError, r"must give 120 numbers.* it gave shape \(3,\)"),
        ({"missing": 0.1}, TypeError, "missing must be a pattern such as mm.missing.AtRandom"),
        ({"missing": mm.missing.AtRandom(1.5)}, ValueError, "p of AtRandom must be a probability below 1, not 1.5"),
        ({"missing": mm.missing.AtRandom({"a": 0.1, "b": 0.2})}, ValueError, "given by level: say of which column"),
        ({"missing": mm.missing.AtRandom({"a": 0.1, "c": 0.2}, by="arm")}, ValueError, "has no level 'c'"),
        ({"missing": mm.missing.Dropout([0.1, 0.2], "s", "v")}, ValueError, "one number, or 3, one for each visit"),
        ({"missing": mm.missing.Dropout(0.1, "s", "visit")}, mm.DataError, "visit of Dropout: there is no column"),
        ({"missing": mm.missing.ClusterSizes("s", [1, 2])}, ValueError, "sizes of ClusterSizes must be 30 whole"),
    ],
)  # fmt: skip
def test_mechanisms_that_make_no_sense(model, mechanism, error, message):
    with pytest.raises(error, match=message):
        drawn(model, 1, **mechanism)


def test_what_a_model_or_a_study_does_not_allow(table, model, sleep_reml):
    counts = mm.plan("y ~ arm + (1 | s)", table, "poisson")
    truth = {"fixef": [0.0, 0.0], "sd": {"s": 1.0}}
    with pytest.raises(ValueError, match="errors are those of a linear model; of a poisson response the family draws"):
        drawn(counts, truth=truth, errors="t")
    with pytest.raises(ValueError, match="leave re='conditional' out"):
        mm.Simulated(sleep_reml.model, sleep_reml, 2, 1, "conditional", mechanism=mm.Mechanism(errors="t"))
    with pytest.raises(TypeError, match="mechanism must be a Mechanism"):
        mm.Simulated(model, TRUTH, 2, 1, mechanism={"errors": "t"})
    with pytest.raises(ValueError, match="df of StudentT must be a number above 2, for a variance to exist, not 2"):
        mm.draws.StudentT(2)
    assert len(as_patterns([mm.missing.AtRandom(0.1), mm.missing.Dropout(0.1, "s", "v")])) == 2


def test_counts_have_effects_of_another_shape(table):
    counts = mm.plan("y ~ arm + (1 | s)", table, "poisson")
    truth = {"fixef": [1.0, 0.0], "sd": {"s": 0.5}}
    found = drawn(counts, 64, truth=truth, effects="mixture", missing=mm.missing.AtRandom(0.5))
    assert np.array_equal(found.y, np.round(found.y)) and set(np.unique(found.weights)) == {0.0, 1.0}
    other = replace(mm.Mechanism(effects="mixture"), effects="gamma")
    assert other.effects == "gamma"
