"""MixedRegressor against the library itself and scikit-learn's own checks, pipelines and cross-validation."""

import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import _num_samples

import jaxmm as mm
from jaxmm.sklearn import MixedRegressor


@pytest.fixture
def table(sleepstudy):
    return sleepstudy[["Days", "Subject"]], sleepstudy["Reaction"]


@pytest.fixture(scope="module")
def fitted(sleepstudy):
    model = MixedRegressor(groups="Subject", random_slopes="Days")
    return model.fit(sleepstudy[["Days", "Subject"]], sleepstudy["Reaction"])


def test_the_estimates_are_those_of_the_formula(fitted, sleep_reml):
    np.testing.assert_allclose(fitted.intercept_, sleep_reml.fixef["(Intercept)"], rtol=1e-9)
    np.testing.assert_allclose(fitted.coef_, [sleep_reml.fixef["Days"]], rtol=1e-9)
    assert list(fitted.coef_names_) == ["Days"]
    assert fitted.n_features_in_ == 2 and list(fitted.feature_names_in_) == ["Days", "Subject"]
    assert fitted.formula_ == "`y` ~ `Days` + (1 + `Days` | `Subject`)"


def test_seen_groups_have_their_own_line_and_others_the_population_s(fitted, sleep_reml, table):
    X, _ = table
    np.testing.assert_allclose(fitted.predict(X), sleep_reml.fitted(), rtol=1e-9)
    new = X.assign(Subject=["unseen", *X["Subject"][1:]])
    expected = np.append(sleep_reml.predict(re="population")[:1], sleep_reml.fitted()[1:])
    np.testing.assert_allclose(fitted.predict(new), expected, rtol=1e-9)


def test_groups_beside_an_array(fitted, table):
    X, y = table
    numbers, groups = X[["Days"]].to_numpy(), X["Subject"].to_numpy()
    model = MixedRegressor(random_slopes=[0]).fit(numbers, y, groups=groups)
    np.testing.assert_allclose(model.predict(numbers, groups=groups), fitted.predict(X), rtol=1e-9)
    population = model.intercept_ + numbers @ model.coef_
    np.testing.assert_allclose(model.predict(numbers), population, rtol=1e-12)
    with pytest.raises(ValueError, match=r"groups must be \(180,\).*shape \(3,\)"):
        model.predict(numbers, groups=groups[:3])


def test_a_column_by_number_and_a_formula(fitted, table):
    X, y = table
    numbers = X.to_numpy().astype(float)
    by_number = MixedRegressor(groups=1, random_slopes=0).fit(numbers, y)
    np.testing.assert_allclose(by_number.predict(numbers), fitted.predict(X), rtol=1e-9)
    by_formula = MixedRegressor(formula="~ Days + (Days | Subject)").fit(X, y)
    np.testing.assert_allclose(by_formula.predict(X), fitted.predict(X), rtol=1e-9)
    named = MixedRegressor(formula="Reaction ~ Days + (Days | Subject)").fit(X, y)
    assert named.fit_.model.design.response == "Reaction"


def test_a_polars_table(fitted, table):
    pl = pytest.importorskip("polars")
    X = pl.DataFrame({"Days": table[0]["Days"].to_numpy(), "Subject": table[0]["Subject"].astype(str).to_list()})
    model = clone(fitted).fit(X, table[1])
    np.testing.assert_allclose(model.predict(X), fitted.predict(table[0]), rtol=1e-9)


def test_text_is_a_factor_and_an_aliased_column_has_zero():
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"a": rng.choice(["u", "v", "w"], 60), "x": rng.normal(size=60), "g": np.arange(60) % 6})
    X["twice"] = 2 * X["x"]
    y = X["x"] + rng.normal(size=60) + rng.normal(size=6)[X["g"]]
    with pytest.warns(UserWarning, match="rank-deficient: dropped"):
        model = MixedRegressor(groups="g").fit(X, y)
    assert dict(zip(model.coef_names_, model.coef_, strict=True))["twice"] == 0.0
    assert set(model.coef_names_) == {"av", "aw", "x", "twice"}


def test_a_generalised_model_predicts_means():
    cbpp = mm.datasets.load("cbpp")
    X = cbpp.loc[cbpp.index.repeat(cbpp["size"]), ["period", "herd"]].reset_index(drop=True)
    y = np.concatenate([np.arange(n) < k for n, k in zip(cbpp["size"], cbpp["incidence"], strict=True)]).astype(float)
    model = MixedRegressor(groups="herd", family="binomial").fit(X, y)
    fit = mm.glmm("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp, "binomial")
    np.testing.assert_allclose(model.coef_, fit.fixef.iloc[1:], atol=1e-5)
    assert np.all((model.predict(X) > 0) & (model.predict(X) < 1))


# ---------------------------------------------------------------- in scikit-learn's hands
def test_cross_validation_by_groups(table):
    X, y = table
    model = MixedRegressor(groups="Subject", random_slopes=["Days"])
    scores = cross_val_score(model, X, y, groups=X["Subject"], cv=GroupKFold(3))
    assert scores.shape == (3,) and np.all(np.isfinite(scores))
    predicted = cross_val_predict(model, X, y, groups=X["Subject"], cv=GroupKFold(3))
    for train, test in GroupKFold(3).split(X, y, X["Subject"]):
        fit = mm.lmm("Reaction ~ Days + (Days | Subject)", X.iloc[train].assign(Reaction=y.iloc[train]))
        line = fit.fixef["(Intercept)"] + fit.fixef["Days"] * X["Days"].iloc[test]
        np.testing.assert_allclose(predicted[test], line, rtol=1e-7)


def test_groups_are_routed(table):
    X, y = table
    groups = X["Subject"].to_numpy()
    with config_context(enable_metadata_routing=True):
        model = MixedRegressor().set_fit_request(groups=True)
        scores = cross_val_score(model, X[["Days"]], y, params={"groups": groups}, cv=GroupKFold(3))
    assert np.all(np.isfinite(scores))
    with pytest.raises(ValueError, match="which rows belong together"):
        MixedRegressor().fit(X[["Days"]], y)


def test_in_a_pipeline_with_tables(table):
    X, y = table
    numbers = X.to_numpy().astype(float)
    scaled = make_pipeline(StandardScaler(), MixedRegressor(groups=1)).fit(numbers, y)
    plain = MixedRegressor(groups=1).fit(numbers, y)
    np.testing.assert_allclose(scaled.predict(numbers), plain.predict(numbers), rtol=1e-7)
    tables = make_pipeline(StandardScaler(), MixedRegressor(groups="Subject")).set_output(transform="pandas")
    tables.fit(X.assign(Subject=X["Subject"].astype(int)), y)
    assert list(tables[-1].feature_names_in_) == ["Days", "Subject"]


def test_clones_and_pickles(fitted, table):
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params() and not hasattr(twin, "fit_")
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(table[0]), fitted.predict(table[0]))


class Grouped(MixedRegressor):
    """scikit-learn's checks have no groups: here every third row belongs to one."""

    def fit(self, X, y, groups=None):
        return super().fit(X, y, np.arange(_num_samples(X)) % 3)


EXPECTED = {"check_regressors_no_decision_function": "y is a column of X there: nothing is left for a mixed model"}


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_s_own_checks():
    results = check_estimator(Grouped(), expected_failed_checks=EXPECTED, on_skip=None)
    status = {r["check_name"]: r["status"] for r in results}
    assert {name for name, s in status.items() if s == "xfail"} == set(EXPECTED)
    assert sum(s == "passed" for s in status.values()) >= 45


@pytest.mark.parametrize(
    ("options", "groups", "message"),
    [
        ({"groups": "subject"}, None, "groups: X has no column 'subject'; it has 'Days', 'Subject'"),
        ({"groups": 5}, None, "groups: X has no column 5"),
        ({"groups": "Subject", "random_slopes": ["day"]}, None, "random_slopes: X has no column 'day'"),
        ({"groups": "Subject"}, np.zeros(180), "groups are given twice"),
        ({"groups": "Subject", "formula": "~ Days + (1 | Subject)"}, None, "give one or the other"),
    ],
)
def test_mistakes_are_named(table, options, groups, message):
    with pytest.raises(ValueError, match=message):
        MixedRegressor(**options).fit(*table, groups=groups)


def test_it_is_imported_when_it_is_asked_for():
    """No other module of the library names scikit-learn, and the package itself only on demand."""
    root = Path(mm.__file__).parent
    named = {p.name for p in root.rglob("*.py") if re.search(r"^\s*(from|import) sklearn\b", p.read_text(), re.M)}
    assert named == {"sklearn.py"}
    assert mm.sklearn.MixedRegressor is MixedRegressor
    with pytest.raises(AttributeError, match="has no attribute 'sklern'"):
        _ = mm.sklern
