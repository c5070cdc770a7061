"""What studies, tests of many responses and their folders cannot use is refused by its name, with what to do."""

import errno
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.results.files import publish
from jaxmm.results.shards import Shard, at_work

QUIET: Any = {"progress": False}
FORMULA = "Reaction ~ Days + (1 | Subject)"


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return mm.datasets.load("sleepstudy")[:60]


@pytest.fixture(scope="module")
def fit(data):
    return mm.lmm(FORMULA, data)


@pytest.fixture(scope="module")
def Y(fit):
    return np.asarray(fit.simulate(12, key=1))


@pytest.fixture(scope="module")
def batch(fit, Y):
    return mm.fit_many(fit, Y, keep="df", **QUIET)


@pytest.fixture(scope="module")
def curve(fit):
    return mm.power_curve(fit, n=20, along={"Subject": [4, 6, 8]}, key=1, test="Days", effects={"Days": 4.0}, **QUIET)


@pytest.fixture(scope="module")
def planned():
    table = mm.make_design({"subject": 6}, within={"cond": ["a", "b"]}, repeats=2)
    return mm.plan("y ~ cond + (1 | subject)", table)


# ---------------------------------------------------------------- studies
@pytest.mark.parametrize("name", ["Days", "sigma", "sd_(Intercept)|Subject"])
def test_a_statistic_is_not_called_as_a_parameter_is(name, fit):
    with pytest.raises(ValueError, match="give it another name"):
        mm.study(fit, None, 2, key=1, statistics={name: lambda b: b.sigma}, **QUIET)


def test_a_statistic_is_a_function(fit):
    with pytest.raises(TypeError, match="must be a function of a FitBatch, not 3"):
        mm.study(fit, None, 2, key=1, statistics={"x": 3}, **QUIET)


def test_another_model_has_its_rows_in_the_same_order(fit, data):
    mixed = data.sample(frac=1, random_state=1).reset_index(drop=True)
    for formula, column in (("Reaction ~ 1 + (1 | Subject)", "Subject"), ("Reaction ~ Days + (1 | g)", "Days")):
        other = mm.Model.from_formula(formula, mixed.assign(g=data.Subject.to_numpy()))
        with pytest.raises(mm.DataError, match=f"rows in another order, or of other data: '{column}'"):
            mm.study(fit, None, 2, key=1, fit=other, **QUIET)


def test_another_coding_of_the_same_rows_is_none(fit, data):
    same = mm.Model.from_formula("Reaction ~ scale(Days) + I(Days > 4) + (1 | Subject)", data)
    assert len(mm.study(fit, None, 2, key=1, fit=same, **QUIET)) == 2


def test_another_family_has_such_responses(fit, data):
    counts = mm.Model.from_formula("r ~ Days + (1 | Subject)", data.assign(r=data.Reaction.round()), "poisson")
    with pytest.raises(ValueError, match=r"fit= is a poisson model, .* such as .* in row 0"):
        mm.study(fit, None, 2, key=1, fit=counts, **QUIET)


def test_responses_that_another_family_has_not_are_invalid(fit, data):
    """Of normal responses about 2 standard deviations above zero few have no negative value."""
    gamma = mm.Model.from_formula(FORMULA, data, mm.families.Gamma(link="log"))
    truth = {"fixef": {"(Intercept)": 240.0, "Days": 0.0}, "sd": {"Subject": [1.0]}, "sigma": 100.0}
    found = mm.study(fit.model, truth, 8, key=1, fit=gamma, **QUIET).batch
    source = mm.Simulated(fit.model, truth, 8, key=1)
    invalid = (np.asarray(source.block(0, 8).y) <= 0).any(axis=1)
    assert 0 < invalid.sum() < 8
    np.testing.assert_array_equal(found.status == mm.Status.INVALID, invalid)


# ---------------------------------------------------------------- plans
def test_a_plan_without_a_response_is_not_fitted(planned):
    for attempt in (planned.fit, lambda: mm.cross_validate(planned), planned.by_ml().fit):
        with pytest.raises(mm.DataError, match=r"no response 'y'.*simulate from the model"):
            attempt()
    assert planned.with_response(np.arange(24.0) % 5).fit().converged


def test_a_plan_with_its_response_is(planned):
    table = mm.make_design({"subject": 6}, within={"cond": ["a", "b"]}, repeats=2).assign(y=np.arange(24.0) % 5)
    assert mm.plan("y ~ cond + (1 | subject)", table).fit().converged


@pytest.mark.parametrize("response, family", [("cbind(s, f)", "binomial"), ("s / n", "binomial"), ("log(y)", None)])
def test_a_plan_says_how_its_response_is_named(response, family):
    table = mm.make_design({"subject": 6}, within={"cond": ["a", "b"]}, repeats=2)
    with pytest.raises(mm.DataError, match=r"name the response alone.*weights='n'"):
        mm.plan(f"{response} ~ cond + (1 | subject)", table, family)
    trials = mm.plan("y ~ cond + (1 | subject)", table.assign(n=10), "binomial", weights="n")
    assert (trials.design.trials == 10).all()


# ---------------------------------------------------------------- folders
def test_a_folder_of_another_number_is_refused(fit, tmp_path):
    mm.fit_many(fit, mm.Simulated(fit.model, fit, 4, key=1), out=tmp_path, **QUIET)
    with pytest.raises(ValueError, match="n = 4, and n = 3 is asked for"):
        mm.fit_many(fit, mm.Simulated(fit.model, fit, 3, key=1), out=tmp_path, **QUIET)
    study = tmp_path / "study.json"
    told = json.loads(study.read_text())
    for n, said in ((999, "n = 999, and n = 4"), ("x", "says n = 'x'"), (-1, "says n = -1")):
        told["identity"]["n"] = n
        study.write_text(json.dumps(told))
        with pytest.raises(ValueError, match=said):
            mm.fit_many(fit, mm.Simulated(fit.model, fit, 4, key=1), out=tmp_path, **QUIET)
    with pytest.raises(ValueError, match="says n = -1"):
        mm.load(tmp_path)


def test_fewer_permutations_than_a_folder_has_are_refused(fit, Y, tmp_path):
    def test(n):
        return mm.permutation_test(fit, Y[:3], "Days", key=1, n=n, scheme="wild", out=tmp_path, **QUIET)

    found = test(12)
    with pytest.raises(ValueError, match="holds 12 permutations, and n = 6"):
        test(6)
    np.testing.assert_array_equal(test(12).frame.p_fwe, found.frame.p_fwe)


def test_a_test_has_its_folder_for_itself(fit, Y, tmp_path, monkeypatch):
    def test():
        return mm.permutation_test(fit, Y[:3], "Days", key=1, n=6, scheme="wild", out=tmp_path, **QUIET)

    with at_work(tmp_path, Shard()), pytest.raises(RuntimeError, match="is being worked on by another call"):
        test()
    found = test()
    (tmp_path / "permutations.npz").unlink()
    np.testing.assert_array_equal(test().frame.p_fwe, found.frame.p_fwe)  # what the lock leaves is no other file
    (tmp_path / "permutations.npz").unlink()

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jaxmm.results.files.try_writing", full)
    with pytest.raises(OSError, match=f"'{tmp_path}' takes no files .No space.*nothing was computed"):
        test()


def test_what_cannot_be_written_is_named(tmp_path):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    for overwrite in (True, False):
        with pytest.raises(OSError, match=f"'{tmp_path}/x' could not be written .No space") as caught:
            publish(tmp_path / "x", full, overwrite)
        assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


# ---------------------------------------------------------------- data sets
def twice(t: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([t, t[["Days"]]], axis=1)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: [twice(t), t], "data set 0 has several columns 'Days'"),
        (lambda t: [t, twice(t)], "data set 1 has several columns 'Days'"),
        (lambda t: [t, t.assign(Days=t.Days > 4)], "numbers in data set 0 and True and False in data set 1"),
        (lambda t: [t.assign(Reaction=np.inf)] * 2, "none of the first 2 data sets can be used; data set 0: "),
    ],
)
def test_data_sets_are_named(change, said, data):
    with pytest.raises(mm.DataError, match=said):
        mm.fit_many(change(data), formula=FORMULA, **QUIET)


def test_negative_weights_name_the_data_set(data):
    with pytest.raises(mm.DataError, match=r"data set 0: 'w' is -1"):
        mm.fit_many([data.assign(w=-1.0)] * 2, formula=FORMULA, weights="w", **QUIET)


# ---------------------------------------------------------------- arguments
CHAIN = np.diag(np.ones(11), 1) + np.diag(np.ones(11), -1)


def with_entry(x: float) -> np.ndarray:
    out = CHAIN.copy()
    out[0, 1] = out[1, 0] = x
    return out


def clusters(fit, Y, adjacency):
    return mm.permutation_test(
        fit, Y, "Days", key=1, n=6, scheme="wild", statistic="cluster", adjacency=adjacency, **QUIET
    )


CALLS = {
    "design": (lambda f: mm.make_design("foo"), ValueError, "there is no design 'foo'; there are 'parallel'"),
    "visits": (lambda f: mm.make_design("longitudinal", patients=4, visits=[0, np.nan]), mm.DataError, "finite times"),
    "term None": (lambda f: mm.permutation_test(f.fit, f.Y, None, key=1), TypeError, "term must be a column .*None"),
    "term 3": (lambda f: mm.permutation_test(f.fit, f.Y, [3], key=1), TypeError, "term must be a column"),
    "keep": (lambda f: mm.fit_many(f.fit, f.Y, keep=3), TypeError, "keep must be names of 'vcov'.*not 3"),
    "grid": (lambda f: mm.grid_adjacency(()), ValueError, "shape has no length"),
    "nan": (lambda f: clusters(f.fit, f.Y, with_entry(np.nan)), ValueError, "adjacency has an entry nan"),
    "negative": (lambda f: clusters(f.fit, f.Y, with_entry(-1)), ValueError, "adjacency has an entry -1"),
    "pair": (lambda f: clusters(f.fit, f.Y, [(-1, 2)]), ValueError, "a pair with response -1"),
    "terms": (lambda f: f.curve.smooth(terms=lambda s: 3), ValueError, r"a list such as \[1 / s\['Subject'\].*not 3"),
    "no terms": (lambda f: f.curve.smooth(terms=lambda s: []), ValueError, r"not \[\]"),
    "terms of others": (lambda f: f.curve.smooth(terms=lambda s: [s["x"]]), ValueError, "asked for 'x'"),
    "no function": (lambda f: f.curve.smooth(terms="x"), TypeError, "terms must be a function of the sizes"),
    "at": (lambda f: f.curve.smooth().at(Subject=-5), ValueError, "Subject must be above zero"),
    "built": (
        lambda f: mm.power_curve(lambda size: None, f.fit, n=4, along={"size": [6]}, key=1, test="Days", **QUIET),
        TypeError,
        "the function gave a NoneType for size=6",
    ),
    "alpha": (
        lambda f: mm.optimal_allocation(f.fit, coef="Days", cost={"rows": 1}, budget=60, alpha=2),
        ValueError,
        "alpha must lie between 0 and 1, not 2",
    ),
    "budget": (
        lambda f: mm.optimal_allocation(f.fit, coef="Days", cost={"rows": 1}, budget="x"),
        TypeError,
        "budget must be a number, not 'x'",
    ),
    "hazard": (
        lambda f: mm.Simulated(
            f.fit, f.fit, 2, 1, mechanism=mm.Mechanism(missing=mm.missing.Dropout(1.5, unit="Subject", visit="Days"))
        ),
        ValueError,
        "hazard of Dropout must be probabilities, not 1.5",
    ),
    "trend": (
        lambda f: f.batch.moderate(np.r_[np.nan, np.arange(11.0)]),
        ValueError,
        "trend is nan for response 0",
    ),
    "dispersion": (lambda f: f.batch.shrink_dispersion(), ValueError, r"moderate\(\), after .*keep='df'"),
    "table": (lambda f: mm.pool(f.batch.to_frame()), TypeError, "the FitBatch that fit_many returns, not a DataFrame"),
    "tables": (lambda f: mm.pool([f.batch.to_frame()] * 2), TypeError, "of imputed tables: pool"),
    "objects": (lambda f: mm.fit_many(f.fit, f.Y.astype(object)), mm.DataError, r"Y.astype\(float\)"),
}


class Given:
    """The fixtures by name."""

    def __init__(self, request):
        self.request = request

    def __getattr__(self, name):
        return self.request.getfixturevalue(name)


@pytest.mark.parametrize("case", CALLS)
def test_arguments_are_named_with_what_to_do(case, request):
    call, error, said = CALLS[case]
    with pytest.raises(error, match=said):
        call(Given(request))


def test_moderation_is_of_linear_models():
    counts = pd.DataFrame({"g": np.repeat(np.arange(8), 6), "y": np.random.default_rng(1).poisson(3, 48)})
    model = mm.Model.from_formula("y ~ 1 + (1 | g)", counts, "poisson")
    batch = mm.fit_many(model, counts.y.to_numpy()[None], **QUIET)
    with pytest.raises(ValueError, match=r"moderate\(\) is for linear models.*shrink_dispersion"):
        batch.moderate()


def test_all_leave_after_the_first_visit(fit):
    """A hazard of one is a hazard."""
    gone = mm.Mechanism(missing=mm.missing.Dropout(1.0, unit="Subject", visit="Days"))
    there = mm.Simulated(fit.model, fit, 2, 1, mechanism=gone).block(0, 1).weights[0]
    assert np.asarray(there).sum() == 6
