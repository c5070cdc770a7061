"""Covariances that are known themselves in linear models, ``residual="equalto(obs | study, V)"`` and
``equalto(0 + study | g, V)``: against dense algebra, the closed form, and each other."""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, multivariate_normal, norm, t

import jaxmm as mm
from jaxmm.inference.variances import table as variance_table
from jaxmm.sources.resample import Residual

HERE = Path(__file__).parent / "reference"
REFERENCE = json.loads((HERE / "structures.json").read_text())


def trials(seed: int, tau: float = 0.4, studies: int = 14) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One to three estimates of each study, whose errors are correlated by 0.5 within it, and their covariance V."""
    rng = np.random.default_rng(seed)
    study = np.repeat(np.arange(studies), rng.integers(1, 4, studies))
    n = len(study)
    sd = rng.uniform(0.1, 0.5, n)
    V = np.outer(sd, sd) * np.where(study[:, None] == study, 0.5, 0.0)
    np.fill_diagonal(V, sd**2)
    names = [f"e{k}" for k in range(n)]
    table = pd.DataFrame({"study": [f"s{k}" for k in study], "obs": names, "x": rng.normal(size=n), "one": 1})
    table["y"] = (
        0.3 + 0.2 * table.x + tau * rng.normal(size=studies)[study] + np.linalg.cholesky(V) @ rng.normal(size=n)
    )
    return table, pd.DataFrame(V, names, names)


@pytest.fixture(scope="module")
def data():
    return trials(1)


RESIDUAL = "equalto(obs | study, V)"


@pytest.fixture(scope="module")
def fit(data):
    """No word about the order of its levels, which have names."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return mm.lmm("y ~ x + (1 | study)", data[0], residual=RESIDUAL, matrices={"V": data[1]})


class Dense:
    """-2 log-likelihood and what goes with it, of y ~ x with Var(y) = V + τ² ZZ'."""

    def __init__(self, table, V, reml=True):
        self.X, self.y, self.reml = np.column_stack([np.ones(len(table)), table.x]), table.y.to_numpy(), reml
        study = table.study.to_numpy()
        self.V, self.B = np.asarray(V), (study[:, None] == study).astype(float)

    def at(self, tau2):
        W = np.linalg.inv(self.V + tau2 * self.B)
        M = self.X.T @ W @ self.X
        beta = np.linalg.solve(M, self.X.T @ W @ self.y)
        e = self.y - self.X @ beta
        rest = np.linalg.slogdet(M)[1] - 2 * np.log(2 * np.pi) if self.reml else 0.0
        value = -np.linalg.slogdet(W)[1] + len(e) * np.log(2 * np.pi) + e @ W @ e + rest
        return value, beta, np.linalg.inv(M)

    def best(self):
        found = minimize_scalar(lambda t: self.at(t)[0], bounds=(0.0, 4.0), options={"xatol": 1e-12}, method="bounded")
        return found.x, found.fun


@pytest.mark.parametrize("reml", [True, False])
def test_estimates_of_several_studies(data, fit, reml):
    """Their spread beside errors that are known."""
    table, V = data
    found = fit if reml else mm.lmm("y ~ x + (1 | study)", table, reml=False, residual=RESIDUAL, matrices={"V": V})
    dense = Dense(table, V, reml)
    tau2, value = dense.best()
    assert found.converged and not found.is_singular and found.df == 3
    assert found.deviance == pytest.approx(value, abs=1e-8)
    assert found.varcorr().cov["study"].iloc[0, 0] == pytest.approx(tau2, rel=1e-4)
    _, beta, vcov = dense.at(found.varcorr().cov["study"].iloc[0, 0])
    np.testing.assert_allclose(found.fixef, beta, rtol=1e-7)
    np.testing.assert_allclose(found.vcov(), vcov, rtol=1e-7)
    np.testing.assert_allclose(found.residual.cov.loc[V.index, V.columns], V, atol=1e-14)


def test_without_random_effects_there_is_nothing_to_search(data):
    """The weighted mean, and the standard error that it has."""
    table, V = data
    independent = pd.DataFrame(np.diag(np.diag(V)), V.index, V.columns)
    fit = mm.lmm("y ~ 1", table, residual="equalto(obs | obs, V)", matrices={"V": independent})
    w = 1 / np.diag(V)
    assert fit.fixef.iloc[0] == pytest.approx(np.sum(w * table.y) / w.sum(), rel=1e-10)
    assert fit.bse.iloc[0] == pytest.approx(w.sum() ** -0.5, rel=1e-10) and fit.df == 1 and fit.converged
    assert np.isinf(fit.coef_table()["df"].iloc[0])
    assert np.isinf(fit.coef_table(ddf="kenward-roger")["df"].iloc[0])


@pytest.mark.parametrize("kind", ["equalto", "propto"])
def test_prediction_intervals_where_nothing_is_searched(kind):
    """Of new subjects, and of a visit given the others, by dense algebra: normal where σ is known, else t."""
    rng = np.random.default_rng(6)
    table = pd.DataFrame({"g": np.repeat(np.arange(8), 3), "at": np.tile(["a", "b", "c"], 8), "x": rng.normal(size=24)})
    K = np.array([[2.0, 0.9, 0.5], [0.9, 1.5, 0.8], [0.5, 0.8, 1.0]])
    table["y"] = table.x + (rng.normal(size=(8, 3)) @ np.linalg.cholesky(K).T).ravel()
    seen, new = table.iloc[:-1], table.iloc[[-1]]
    fit = mm.lmm("y ~ x", seen, residual=f"{kind}(at | g, K)", matrices={"K": pd.DataFrame(K, *2 * [list("abc")])})
    X, R = np.column_stack([np.ones(23), seen.x]), np.kron(np.eye(8), K)[:23, :23]
    M = np.linalg.inv(X.T @ np.linalg.solve(R, X))
    e = seen.y - X @ (M @ X.T @ np.linalg.solve(R, seen.y))
    scale, law = (1.0, norm()) if kind == "equalto" else (e @ np.linalg.solve(R, e) / 21, t(21))
    k = np.linalg.solve(K[:2, :2], K[:2, 2])
    others = ("population", new.assign(g="new"), 0 * k), ("conditional", new, k)
    for re, rows, k in others:
        a = np.array([1.0, new.x.iloc[0]]) - k @ X[-2:]
        se = np.sqrt(scale * (a @ M @ a + K[2, 2] - k @ K[:2, 2]))
        found = fit.predict(rows, re=re, interval="prediction").iloc[0]
        middle = np.array([1.0, new.x.iloc[0]]) @ fit.fixef.to_numpy() + k @ e[-2:]
        expected = [middle, middle - law.ppf(0.975) * se, middle + law.ppf(0.975) * se]
        np.testing.assert_allclose(found, expected, rtol=1e-7)


def both_sides(data, size: float):
    """Errors that are known beside effects that are to be estimated, and the other way round: of one estimate a study,
    whose response is so large."""
    table, V = data
    own = table.drop_duplicates("study").head(8).assign(level=lambda d: d.obs, y=lambda d: size * d.y)
    V = V.loc[own.obs, own.obs]
    errors = mm.lmm("y ~ x + (1 | study)", own, residual="equalto(obs | study, V)", matrices={"V": V})
    return errors, mm.lmm("y ~ x + equalto(0 + level | one, V)", own, matrices={"V": V}), V


@pytest.mark.parametrize("nothing", [False, True])
def test_the_same_from_the_other_side(data, nothing):
    """σ of the one is τ of the other, also at nothing."""
    errors, effects, V = both_sides(data, 0.1 if nothing else 1.0)
    assert errors.converged and effects.converged and errors.df == effects.df == 3
    assert errors.is_singular == effects.is_singular == nothing
    assert errors.deviance == pytest.approx(effects.deviance, abs=1e-6)
    np.testing.assert_allclose(errors.fixef, effects.fixef, rtol=1e-4)
    np.testing.assert_allclose(np.sort(np.diag(effects.varcorr().cov["one"])), np.sort(np.diag(V)), rtol=1e-9)
    if not nothing:
        assert effects.sigma == pytest.approx(errors.varcorr().sd["study"].iloc[0], rel=1e-4)
        a, b = (f.coef_table()[["se", "df"]] for f in (errors, effects))
        np.testing.assert_allclose(a, b, rtol=1e-3)
        spread = (variance_table(f).query("group == 'study' or group == 'Residual'") for f in (errors, effects))
        a, b = (t.loc[t["std_error"] > 0, "std_error"].iloc[0] for t in spread)
        assert a == pytest.approx(b, rel=1e-3)


def test_kenward_and_roger_from_the_other_side(data):
    errors, effects, _ = both_sides(data, 1.0)
    a, b = (f.coef_table(ddf="kenward-roger")[["se", "df"]] for f in (errors, effects))
    np.testing.assert_allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize("key", ["equalto", "equalto REML"])
def test_effects_are_as_in_glmmtmb(key):
    places = list("abcdef")
    K = pd.DataFrame(0.3 * 0.5 ** np.abs(np.subtract.outer(range(6), range(6))), places, places)
    table, said = pd.read_csv(HERE / "structures.csv"), REFERENCE[key]
    fit = mm.lmm("field ~ z + equalto(0 + place | g, K)", table, reml="REML" in key, matrices={"K": K})
    assert fit.converged and fit.df == said["df"] and fit.loglik == pytest.approx(said["loglik"], abs=1e-7)
    np.testing.assert_allclose(fit.fixef, said["fixef"], atol=1e-5)
    assert fit.sigma == pytest.approx(said["sigma"], abs=1e-6)
    assert "errors" not in repr(fit.model) and fit.residual is None


def test_satterthwaite(data, fit):
    """2 f² over the variance of f, by differences of the dense likelihood."""
    dense, tau2, h = Dense(*data), fit.varcorr().cov["study"].iloc[0, 0], 1e-3
    values = [dense.at(tau2 + k * h) for k in (-1, 0, 1)]
    H = (values[0][0] - 2 * values[1][0] + values[2][0]) / h**2
    f = np.array([np.diag(v[2]) for v in values])
    slope = (f[2] - f[0]) / (2 * h)
    np.testing.assert_allclose(fit.coef_table()["df"], f[1] ** 2 / (slope**2 / H), rtol=1e-3)


def test_kenward_and_roger(data, fit):
    """The formulas of the paper, with the one variance that is estimated."""
    dense, tau2 = Dense(*data), fit.varcorr().cov["study"].iloc[0, 0]
    W0, X, B = np.linalg.inv(dense.V + tau2 * dense.B), dense.X, dense.B
    Phi, P, Q = np.linalg.inv(X.T @ W0 @ X), -X.T @ W0 @ B @ W0 @ X, X.T @ W0 @ B @ W0 @ B @ W0 @ X
    information = 0.5 * (np.trace(W0 @ B @ W0 @ B) - 2 * np.trace(Phi @ Q) + np.trace(Phi @ P @ Phi @ P))
    adjusted = Phi + 2 * Phi @ (Q - P @ Phi @ P) @ Phi / information
    table = fit.coef_table(ddf="kenward-roger")
    np.testing.assert_allclose(table["se"], np.sqrt(np.diag(adjusted)), rtol=1e-6)
    A2 = (np.diag(Phi @ P @ Phi) / np.diag(Phi)) ** 2 / information
    np.testing.assert_allclose(table["df"], 2 / A2, rtol=1e-6)


def test_beside_errors_that_are_estimated():
    """Var(y) = σ² R + ZKZ', of which K is known."""
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"g": np.repeat(np.arange(15), 4), "visit": np.tile(list("abcd"), 15), "one": 1})
    table["k"], table["x"] = table.g.astype(str).str.zfill(2).str[0], rng.normal(size=60)
    table["y"] = table.x + np.repeat(rng.normal(size=15), 4) + rng.normal(size=60)
    K = pd.DataFrame([[0.4, 0.1], [0.1, 0.3]], ["0", "1"], ["0", "1"])
    fit = mm.lmm("y ~ x + equalto(0 + k | one, K)", table, residual="homcs(visit | g)", matrices={"K": K})
    X, Z = np.column_stack([np.ones(60), table.x]), pd.get_dummies(table.k).to_numpy(float)

    def deviance(scale, rho):
        V = scale * np.kron(np.eye(15), (1 - rho) * np.eye(4) + rho) + Z @ K.to_numpy() @ Z.T
        W = np.linalg.inv(V)
        e = table.y.to_numpy() - X @ np.linalg.solve(X.T @ W @ X, X.T @ W @ table.y.to_numpy())
        rest = np.linalg.slogdet(X.T @ W @ X)[1]
        return np.linalg.slogdet(V)[1] + e @ W @ e + rest + 58 * np.log(2 * np.pi)

    s2, rho = fit.residual.cov.iloc[0, 0], fit.residual.corr.iloc[0, 1]
    assert fit.converged and fit.deviance == pytest.approx(deviance(s2, rho), abs=1e-8) and fit.df == 4
    around = [deviance(s2 * a, rho + b) for a, b in ((1.02, 0), (0.98, 0), (1, 0.01), (1, -0.01))]
    assert min(around) > fit.deviance
    np.testing.assert_allclose(fit.varcorr().cov["one"], K, rtol=1e-9)


def test_units_do_not_matter(data, fit):
    table, V = data
    small = mm.lmm("y ~ x + (1 | study)", table.assign(y=1e-4 * table.y), residual=RESIDUAL, matrices={"V": 1e-8 * V})
    assert small.converged and small.sigma == pytest.approx(1e-4 * fit.sigma)
    np.testing.assert_allclose(small.fixef, 1e-4 * fit.fixef, rtol=1e-7)
    assert small.deviance == pytest.approx(fit.deviance + 2 * (len(table) - 2) * np.log(1e-4), abs=1e-6)


def test_no_spread_between_studies():
    table, V = trials(3, tau=0.0)
    table["y"] = 0.3 + 0.2 * table.x + 0.3 * (table.y - 0.3 - 0.2 * table.x)
    fit = mm.lmm("y ~ x + (1 | study)", table, residual=RESIDUAL, matrices={"V": V})
    assert fit.converged and fit.is_singular
    assert fit.deviance == pytest.approx(Dense(table, V).at(0.0)[0], abs=1e-8)


def test_verbs(data, fit):
    """What is drawn has the covariance that is said; modes, intervals and further responses."""
    table, V = data
    drawn = np.asarray(fit.simulate(4000, key=1)).T
    covariance = np.asarray(V) + fit.varcorr().cov["study"].iloc[0, 0] * Dense(*data).B
    error = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / 4000)
    assert np.max(np.abs(np.cov(drawn) - covariance) / error) < 5
    Z = pd.get_dummies(table.study).to_numpy(float)
    tau2 = fit.varcorr().cov["study"].iloc[0, 0]
    e = table.y - Dense(*data).X @ fit.fixef.to_numpy()
    modes = tau2 * Z.T @ np.linalg.inv(covariance) @ e
    np.testing.assert_allclose(fit.ranef()["study"].iloc[:, 0].loc[sorted(set(table.study))], modes, rtol=1e-6)
    batch = mm.fit_many(fit.model, drawn.T[:3], progress=False)
    for k in range(3):
        again = fit.refit(drawn[:, k])
        assert batch.deviance[k] == pytest.approx(again.deviance, abs=1e-7) and again.sigma == fit.sigma
    assert np.isfinite(fit.confint().to_numpy(float)).all()
    assert "Residual covariance" in str(fit.summary())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"residual": "equalto(obs | study, V, by=one)"}, "has no parameters that could differ: leave by= out"),
        ({"dispersion": "~ x"}, "says how large each error is, and dispersion='~ x' would say it again"),
        ({"V": np.ones((5, 5))}, r"V has shape \(5, 5\) and the data have"),
        ({"V": "singular"}, "V is singular at the times of 'study'"),
        ({"residual": "equalto(obs | study)"}, "takes the name of a matrix after the bar"),
    ],
)
def test_what_cannot_be(data, change, said):
    table, V = data
    V = change.pop("V", V) if "V" in change else V
    V = np.ones((len(table), len(table))) if isinstance(V, str) else V
    with pytest.raises((mm.DataError, mm.FormulaError), match=said):
        mm.lmm("y ~ x + (1 | study)", table, **({"residual": RESIDUAL} | change), matrices={"V": V})


def test_what_cannot_be_beside_a_sigma(data):
    table, V = data[0].iloc[:8], data[1].iloc[:8, :8]
    two = "y ~ x + equalto(0 + obs | one, V) + equalto(0 + obs | all, V)"
    with pytest.raises(mm.DataError, match="one term of a covariance that is known itself: add their matrices"):
        mm.lmm(two, table.assign(all=1), matrices={"V": V})
    with pytest.raises(mm.DataError, match="together with dispersion= cannot be had yet"):
        mm.lmm("y ~ x + equalto(0 + obs | one, V)", table, dispersion="~ x", matrices={"V": V})
    fit = mm.lmm("y ~ x + equalto(0 + obs | one, V)", table, matrices={"V": V})
    said = "cannot be had yet of a model with a covariance that is known"
    with pytest.raises(NotImplementedError, match=f"a permutation test {said}"):
        mm.permutation_test(fit, fit.simulate(2, key=1), "x", key=1, n=20, progress=False)


def test_density_of_studies_left_out(data, fit):
    """Normal, of the variance between studies that the others tell and the errors that are known."""
    table, V = data
    found = mm.cross_validate(fit, by="study").frame
    for study in ("s0", "s3"):
        rest, own = table[table.study != study], table[table.study == study]
        other = mm.lmm("y ~ x + (1 | study)", rest, residual=RESIDUAL, matrices={"V": V})
        mean = other.fixef.iloc[0] + other.fixef.iloc[1] * own.x
        covariance = V.loc[own.obs, own.obs].to_numpy() + other.varcorr().cov["study"].iloc[0, 0]
        expected = multivariate_normal.logpdf(own.y, mean, covariance)
        assert found.loc[study, "elpd"] == pytest.approx(expected, abs=1e-5)


def test_profiles_are_of_the_dense_likelihood(data, fit):
    """τ beside errors that are known, and a coefficient: where the least deviance has risen by the quantile."""
    table, V = data
    dense, profile = Dense(table, V, reml=False), fit.profile(level=0.95)
    least = dense.best()[1]
    ends = profile.confint()
    assert list(ends.index) == ["(Intercept)", "x", "sd_(Intercept)|study"]  # σ is known
    for end in ends.loc["sd_(Intercept)|study", ["lower", "upper"]]:
        assert dense.at(end**2)[0] - least == pytest.approx(chi2.ppf(0.95, 1), abs=1e-5)
    for end in ends.loc["x", ["lower", "upper"]]:
        offset = table.assign(y=table.y - end * table.x)
        held = Dense(offset, V, reml=False)
        held.X = held.X[:, :1]
        assert held.best()[1] - least == pytest.approx(chi2.ppf(0.95, 1), abs=1e-5)
    known = fit.confint(method="profile", parm="sigma")
    assert known[["lower", "upper"]].isna().all(axis=None) and "it is known" in known.attrs["notes"][-1]


def test_a_profile_from_the_other_side(data):
    """σ of the one is τ of the other."""
    errors, effects, _ = both_sides(data, 1.0)
    a, b = errors.profile(level=0.95), effects.profile(level=0.95)
    assert list(b.curves) == ["(Intercept)", "x", "sigma"]
    np.testing.assert_allclose(a.confint(), b.confint(), rtol=1e-4)


def test_residuals_are_drawn_again_with_the_errors_covariance(data, fit):
    """Of many replicates Var(y) is V and the spread of the studies."""
    n = 20_000
    Y = np.asarray(Residual(fit, n, 1).block(0, n).y)
    expected = data[1].to_numpy() + fit.varcorr().cov["study"].iloc[0, 0] * Dense(*data).B
    found, sd = np.cov(Y.T), np.sqrt(np.diag(expected))
    # the standard error of a covariance, of draws whose fourth moments are at most about five times a normal's
    assert np.max(np.abs(found - expected) / np.outer(sd, sd)) < 5 * np.sqrt(10 / n)
    np.testing.assert_allclose(Y.mean(axis=0), fit.predict(re="population"), atol=5 * np.max(sd) / np.sqrt(n))
