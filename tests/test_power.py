"""Power: of one design, over sizes, and the smallest size that is enough."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from scipy import stats

import jaxmm as mm
from jaxmm.results.result import FitBatch
from jaxmm.results.schema import blank, names_of
from jaxmm.studies.designs import make_design, plan
from jaxmm.studies.extending import extend_model
from jaxmm.studies.hypotheses import WaldZ
from jaxmm.studies.power import power, power_curve
from jaxmm.studies.smallest import fit_curve, smallest_size
from jaxmm.studies.study import study

KEY = jax.random.key(5)
TRUTH = {"fixef": {"(Intercept)": 1.0, "condb": 0.6, "condc": 0.0}, "sd": {"s": 0.5}, "sigma": 1.0}


@pytest.fixture(scope="module")
def model():
    return plan("y ~ cond + (1 | s)", make_design({"s": 8}, within={"cond": ["a", "b", "c"]}, repeats=2))


def least_squares(model, source, **_):
    """In the place of ``fit_many``: fits without random effects, which take no time; what they find is not asked."""
    d = model.design
    y = np.asarray(source.block(0, source.n).y)
    n, p, names = len(y), d.X.shape[1], names_of(model)
    beta = y @ np.linalg.pinv(d.X).T
    rss = np.sum((y - beta @ d.X.T) ** 2, axis=1)
    sigma = np.sqrt(rss / (d.X.shape[0] - p))
    known = {
        "replicate": np.arange(n),
        "fixef": beta,
        "bse": sigma[:, None] * np.sqrt(np.diag(np.linalg.inv(d.X.T @ d.X))),
        "sigma": sigma,
        "dispersion": sigma**2,
        "loglik": -0.5 * len(d.y) * np.log(rss),
        "varcorr_sd": np.zeros((n, len(names.sd))),
        "is_singular": np.ones(n, bool),
    }
    return FitBatch(names, blank(names, n) | known)


@pytest.fixture(autouse=True, scope="module")
def _no_time():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxmm.studies.study.fit_many", least_squares)
        yield


# ---------------------------------------------------------------- one design
def test_power_is_the_rate_of_rejections(model):
    found = power(model, TRUTH, 10, key=KEY, progress=False)
    same = study(model, TRUTH, 10, key=KEY, progress=False)
    assert found.table["coef"].tolist() == ["condb", "condc"]  # not the intercept
    assert found.table["is"].tolist() == ["power", "type I error"]
    assert found.table["rate"].tolist() == same.tests["rate"].tolist()[1:]
    assert found.to_frame().equals(found.table) and found.rates.equals(same.rates)
    text = repr(found)
    assert "Power, 10 responses of 48 rows" in text and "type I error" in text and "singular" in text


def test_likelihood_ratios_test_terms_jointly(model):
    found = power(model, TRUTH, 4, key=KEY, method="lrt", test=["cond", "condb"], progress=False)
    assert found.table["coef"].tolist() == ["condb, condc", "condb"]
    assert list(found.rates.index) == ["full", "without condb, condc", "without condb"]
    assert "ML" in repr(found)
    wald = power(model, TRUTH, 4, key=KEY, test="cond", alpha=0.2, progress=False)
    assert wald.table["coef"].tolist() == ["condb", "condc"]
    own = power(model, TRUTH, 4, key=KEY, method=WaldZ(("condc",), name="mine"), progress=False)
    assert own.table["test"].tolist() == ["mine"]


def test_effects_replace_those_of_the_truth(sleep_reml):
    none = power(sleep_reml, n=3, key=KEY, effects={"Days": 0.0}, progress=False)
    assert none.table["truth"].tolist() == [0.0] and none.table["is"].tolist() == ["type I error"]
    large = power(sleep_reml, n=3, key=KEY, effects={"Days": 100.0}, progress=False)
    assert large.table["rate"].tolist() == [1.0]
    shift = large.study.batch.fixef[:, 1] - none.study.batch.fixef[:, 1]  # the same errors
    assert shift == pytest.approx([100.0] * 3, rel=1e-6)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"truth": None}, ValueError, "unfitted model has no parameters"),
        ({"method": "t"}, ValueError, "'wald', 'lrt' or a test object, not 't'"),
        ({"test": "x"}, ValueError, "no coefficient and no term 'x'"),
        ({"method": WaldZ(), "test": "condb"}, ValueError, "leave test= out"),
        ({"effects": {"cond": 1.0}}, ValueError, "effects names 'cond'"),
        ({"effects": {"condb": np.nan}}, ValueError, "must be a finite number"),
    ],
)
def test_powers_that_make_no_sense(model, changes, error, message):
    with pytest.raises(error, match=message):
        power(model, **{"truth": TRUTH, "n": 2, "key": KEY, "progress": False, **changes})


# ---------------------------------------------------------------- over sizes
@pytest.fixture(scope="module")
def curve(model):
    return power_curve(model, TRUTH, 8, along={"s": [16, 4, 8]}, key=KEY, test=["condb", "condc"], progress=False)


def test_a_curve_is_a_power_at_each_size(model, curve):
    table = curve.table
    assert table["s"].tolist() == [4, 4, 8, 8, 16, 16] and table["nobs"].tolist() == [24, 24, 48, 48, 96, 96]
    largest = power(extend_model(model, {"s": 16}), TRUTH, 8, key=KEY, progress=False).table
    assert table[table["s"] == 16]["power"].tolist() == largest["rate"].tolist()
    text = repr(curve)
    assert "Power over s: 8 responses at each size" in text
    assert text.count("a power of") == 2 and curve.to_frame().equals(table)


def test_levels_that_two_sizes_share_have_the_same_responses(model, monkeypatch):
    seen = {}

    def remember(here, source, **_):
        seen[len(here.design.factors[0].levels), len(here.design.y)] = here.design, np.asarray(source.block(0, 3).y)
        return least_squares(here, source)

    monkeypatch.setattr("jaxmm.studies.study.fit_many", remember)
    power_curve(model, TRUTH, 3, along={"s": [4, 20], "repeats": [1, 2]}, key=KEY, progress=False)
    assert list(seen) == [(4, 24), (4, 48), (20, 120), (20, 240)]
    largest, Y = seen[20, 240]
    for (levels, n), (design, y) in seen.items():
        rows = [np.flatnonzero(np.all(Y == column[:, None], axis=0)) for column in y.T]
        assert all(len(r) == 1 for r in rows)  # each of its responses is one of the largest's
        rows = np.concatenate(rows)
        assert np.array_equal(design.X, largest.X[rows])
        assert np.array_equal(design.factors[0].codes, largest.factors[0].codes[rows])
        assert len(np.unique(rows)) == n and len(design.factors[0].levels) == levels


def test_a_grid_of_two_factors_and_a_function_that_builds_designs():
    def build(s, i):
        table = make_design({"s": s, "i": i}, within={"cond": ["a", "b"]}, counterbalance=True)
        return plan("y ~ cond + (1 | s) + (1 | i)", table)

    truth = {"fixef": [0.0, 0.8], "sd": {"s": 0.5, "i": 0.5}, "sigma": 1.0}
    built = power_curve(build, truth, 3, along={"s": [4, 8], "i": [4, 6]}, key=KEY, progress=False)
    assert built.table[["s", "i"]].to_numpy().tolist() == [[4, 4], [4, 6], [8, 4], [8, 6]]
    assert built.smallest["i"].tolist() == [4, 6]
    grown = power_curve(build(4, 4), truth, 3, along={"s": [4, 8], "i": [4]}, key=KEY, progress=False)
    assert grown.table["nobs"].tolist() == [16, 32]
    with pytest.raises(ValueError, match="a function that builds models has no parameters"):
        power_curve(build, along={"s": [4]}, key=KEY)


def test_curves_over_repeats(model):
    found = power_curve(model, TRUTH, 2, along={"repeats": [1, 3]}, key=KEY, test="condb", progress=False)
    assert found.table["repeats"].tolist() == [1, 3] and found.table["nobs"].tolist() == [48, 144]


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"along": {}}, ValueError, "factor -> sizes"),
        ({"along": {"s": []}}, ValueError, "one size or more"),
        ({"along": {"s": [4, 4]}}, ValueError, "each of them once"),
        ({"along": {"t": [4]}}, mm.DataError, "'t', which is no grouping factor"),
        ({"along": {"s": [1]}}, mm.DataError, "at least 2, not 1"),
        ({"target": 0.01}, ValueError, "target must lie between alpha"),
        ({"truth": None}, ValueError, "unfitted model"),
    ],
)
def test_curves_that_make_no_sense(model, changes, error, message):
    with pytest.raises(error, match=message):
        power_curve(model, **{"truth": TRUTH, "n": 2, "along": {"s": [4]}, "key": KEY, "progress": False, **changes})


@pytest.mark.parametrize("call", [power, partial(power_curve, along={"s": [4]})], ids=["power", "power_curve"])
def test_the_power_of_no_model(call):
    with pytest.raises(TypeError, match=r"must be a jaxmm\.Model or a fit, not str"):
        call("y ~ cond + (1 | s)", TRUTH, 2, key=KEY)


def test_the_picture(curve):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ax = curve.plot()
    ax.figure.canvas.draw()
    points = next(c for c in ax.containers if c.get_label().startswith("condb")).lines[0]
    table = curve.table
    assert points.get_ydata().tolist() == table[table["coef"] == "condb"]["power"].tolist()
    assert ax.get_xlabel() == "levels of s" and all(float(t).is_integer() for t in ax.get_xticks())
    told = " ".join(t.get_text() for t in ax.get_legend().get_texts())
    assert "target 0.8" in told and "condb" in told
    assert told.count("interval of the size needed") == (curve.smallest["note"] == "").sum()
    reached = replace(curve, target=0.3)
    told = " ".join(t.get_text() for t in reached.plot().get_legend().get_texts())
    assert (reached.smallest["note"] == "").any() and "95% interval of the size needed, " in told
    assert curve.plot(ax) is ax
    plt.close("all")


# ---------------------------------------------------------------- the smooth curve
SIZES = np.array([10, 20, 40, 80])


def true_power(sizes, A=0.02, B=3.0, df=1, alpha=0.05):
    return stats.ncx2.sf(stats.chi2.isf(alpha, df), df, 1 / (A + B / np.asarray(sizes, float)))


@pytest.mark.parametrize("df", [1, 3])
def test_the_curve_through_the_truth_is_the_truth(df):
    n = 200_000
    p = true_power(SIZES, df=df)
    rejected = (np.arange(n)[:, None] < np.round(n * p)).astype(float)
    found = fit_curve(SIZES, rejected, df, 0.05)
    assert found.coefficients == pytest.approx([0.02, 3.0], rel=0.01)
    assert found.power(np.array([15, 60])) == pytest.approx(true_power([15, 60], df=df), abs=1e-4)


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_interval_covers_the_size_sought(shared):
    """Also where the replicates of all sizes have random numbers in common, which makes their rejections alike."""
    fine = np.linspace(10, 80, 70001)
    true = fine[np.searchsorted(true_power(fine), 0.8)]
    rng = np.random.default_rng(7)
    limits = stats.norm.ppf(true_power(SIZES))
    inside = []
    for _ in range(200):
        z = np.sqrt(shared) * rng.normal(size=(250, 1)) + np.sqrt(1 - shared) * rng.normal(size=(250, len(SIZES)))
        found = smallest_size(SIZES, (z < limits).astype(float), 1, 0.05, 0.8, 0.9)
        assert found.lower <= found.size <= found.upper
        inside.append(found.lower - 1 <= true <= found.upper)  # whole sizes, rounded up
    rate = np.mean(inside)
    assert abs(rate - 0.9) < 4 * np.sqrt(0.09 / 200) + 0.02  # what the rounding adds


def test_fits_without_a_p_value_are_left_out():
    rng = np.random.default_rng(1)
    rejected = (rng.uniform(size=(400, 4)) < true_power(SIZES)).astype(float)
    rejected[:100, 2] = np.nan
    found = smallest_size(SIZES, rejected, 1, 0.05, 0.8, 0.95)
    assert found.lower < 28 < found.upper and not found.note


def test_where_no_size_can_be_named():
    def found(rates, target=0.8):
        rejected = (np.arange(200)[:, None] < 200 * np.array(rates)).astype(float)
        return smallest_size(SIZES[: len(rates)], rejected, 1, 0.05, target, 0.95)

    assert found([0.1, 0.2, 0.3, 0.5]).note == "0.8 is not reached by 80"
    assert found([0.85, 0.9, 0.97, 1.0]).note == "0.8 is reached at 10 already"
    assert found([1.0, 1.0, 1.0, 1.0]).note == "0.8 is reached at 10 already"
    assert found([0.05, 0.05, 0.05, 0.05]).note == "0.8 is not reached by 80"
    assert found([0.6]).note == "0.8 is not reached by 10"
    assert found([0.9, 0.7, 0.85, 0.5]).note == "the power does not rise with the size"
    assert np.isnan(found([0.1, 0.2, 0.3, 0.5]).size)


def test_a_curve_that_does_not_fit_gives_way_to_the_sizes_tried():
    rejected = (np.arange(200)[:, None] < 200 * np.array([0.05, 0.1, 1.0, 1.0])).astype(float)
    found = smallest_size(SIZES, rejected, 1, 0.05, 0.8, 0.95)
    assert found == (40, 20, 40, "sizes tried", "")
    below = smallest_size(SIZES, rejected[:, ::-1], 1, 0.05, 0.8, 0.95)
    assert np.isnan(below.size)
