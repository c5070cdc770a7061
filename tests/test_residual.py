"""Errors that are correlated within subjects or of unequal variances: the likelihood written out densely, closed forms,
and invariances."""

import importlib
import pickle

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import jaxmm as mm
from jaxmm import DataError, FormulaError
from jaxmm.covariance import STRUCTURES
from jaxmm.errors import borne_text
from jaxmm.residual import PatternRows, PatternSums

ESTIMATE = importlib.import_module("jaxmm.estimate")  # jaxmm.estimate is a function

N, VISITS = 16, ["a", "b", "c", "d"]


def table(missing: float = 0.2) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    errors = rng.normal(size=(N, 4)) @ np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(range(4), range(4)))).T
    d = pd.DataFrame({
        "subject": np.repeat([f"s{k:02d}" for k in range(N)], 4),
        "visit": pd.Categorical(VISITS * N, VISITS),
        "time": np.tile([0.0, 1.0, 2.0, 3.0], N),
        "late": np.tile([0.0, 1.0, 2.5, 6.0], N),
        "arm": np.repeat(np.where(np.arange(N) % 2, "x", "y"), 4),
        "site": np.repeat([f"site{k // 4}" for k in range(N)], 4),
        "w": rng.uniform(0.5, 2, 4 * N),
    })  # fmt: skip
    d["y"] = 1 + 0.5 * d["time"] + errors.ravel() * np.tile([1.0, 1.2, 1.5, 1.9], N) + np.repeat(rng.normal(size=N), 4)
    return d[rng.random(4 * N) >= missing].reset_index(drop=True)


DATA = table()
MEAN = "y ~ time * arm"


def dense_loglik(fit, R: np.ndarray, D: np.ndarray | None = None, by: str = "subject") -> float:
    """At β̂ by ML; restricted by REML without log|X'X|; R (n, n), D the variance of an intercept ``by`` a column."""
    d, X = fit.model.design, fit.model.design.X
    V = R.copy()
    if D is not None:
        codes = pd.factorize(DATA[by])[0]
        V += D * (codes[:, None] == codes)
    W = np.linalg.inv(V)
    beta = np.linalg.solve(X.T @ W @ X, X.T @ W @ d.y)
    np.testing.assert_allclose(fit.fixef, beta, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(fit.vcov(), np.linalg.inv(X.T @ W @ X), rtol=1e-6, atol=1e-10)
    e = d.y - X @ beta
    value = np.linalg.slogdet(V)[1] + e @ W @ e
    n = len(e)
    if fit.reml:
        value, n = value + np.linalg.slogdet(X.T @ W @ X)[1], n - X.shape[1]
    return -0.5 * (value + n * np.log(2 * np.pi))


def within_subjects(fit, data=None, by=None) -> np.ndarray:
    """R (n, n) from ``fit.residual.cov``."""
    data = DATA if data is None else data
    place = data["visit"].cat.codes.to_numpy()
    covs = fit.residual.cov
    subject = data["subject"].to_numpy()
    R = np.zeros((len(data), len(data)))
    for i in range(len(data)):
        C = covs if by is None else covs[data[by].iloc[i]]
        R[i] = (subject[i] == subject) * C.to_numpy()[place[i], place]
    return R


def best_within(fit, loglik) -> None:
    """No scaling of the covariance does better."""
    at = loglik(1.0)
    assert max(loglik(0.98), loglik(1.02)) < at


OF_ERRORS = [name for name, kind in STRUCTURES.items() if kind(4).rank == 4 and not kind.absolute]


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", OF_ERRORS)
def test_the_likelihood_written_out(name, reml):
    kind = STRUCTURES[name]
    time = "visit" if not kind.positional or kind.levels else "time"
    K = pd.DataFrame(np.diag([1.0, 2.0, 3.0, 4.0]) + 0.5, VISITS, VISITS)
    known = {"matrices": {"K": K}} if kind.known else {}
    residual = f"{name}({time} | subject{', K' if kind.known else ''})"
    fit = mm.lmm(MEAN, DATA, residual=residual, reml=reml, **known)
    assert fit.converged and isinstance(fit.model.arrays.residual, PatternSums)
    R = within_subjects(fit)
    assert fit.loglik == pytest.approx(dense_loglik(fit, R), abs=1e-7)
    best_within(fit, lambda c: dense_loglik_of(fit, c * R))
    structure = STRUCTURES[name](4)
    assert fit.df == 4 + structure.num_params
    assert fit.residual.sd.to_numpy() == pytest.approx(np.sqrt(np.diag(fit.residual.cov)))


@pytest.mark.parametrize(
    ("mean", "residual", "keywords"),
    [
        (MEAN, "us(visit | subject)", {}),
        (MEAN, "ou(time | subject, by=arm)", {"reml": False}),
        ("y ~ 0", "toep(visit | subject)", {"weights": np.linspace(0.5, 2, len(DATA))}),
        ("y ~ 1", "hetar1(1 | subject)", {"missing": "drop"}),
    ],
)
def test_the_hessian_in_closed_form_is_that_of_autodiff(mean, residual, keywords):
    """Away from the maximum."""
    fit = mm.lmm(mean, DATA, residual=residual, **keywords)
    arrays, theta = fit.model.arrays, np.asarray(fit.estimates.theta_scaled) * 1.05 + 0.02
    assert arrays.residual.has_hessian(arrays.structure)
    with jax.enable_x64(True):
        expected = jax.hessian(mm.deviance)(theta, arrays)
        value, gradient, found, _ = ESTIMATE.derivatives(
            theta, ESTIMATE.either(arrays), False, np.asarray(float(fit.reml))
        )
        assert value == pytest.approx(float(mm.deviance(theta, arrays)), rel=1e-12)
        np.testing.assert_allclose(gradient, jax.grad(mm.deviance)(theta, arrays), atol=1e-9 * np.max(np.abs(expected)))
    np.testing.assert_allclose(found, expected, atol=1e-11 * np.max(np.abs(expected)))


def dense_loglik_of(fit, V) -> float:
    d, X = fit.model.design, fit.model.design.X
    W = np.linalg.inv(V)
    e = d.y - X @ np.linalg.solve(X.T @ W @ X, X.T @ W @ d.y)
    rest = np.linalg.slogdet(X.T @ W @ X)[1] if fit.reml else 0.0
    return -0.5 * (np.linalg.slogdet(V)[1] + e @ W @ e + rest)


@pytest.mark.parametrize(("bar", "by"), [("(1 | site)", "site"), ("(1 | subject)", "subject")])
def test_with_random_effects(bar, by):
    fit = mm.lmm(f"{MEAN} + {bar}", DATA, residual="hetar1(visit | subject)")
    assert fit.converged and isinstance(fit.model.arrays.residual, PatternRows)
    D = float(fit.varcorr().cov[by].iloc[0, 0])
    assert fit.loglik == pytest.approx(dense_loglik(fit, within_subjects(fit), D, by), abs=1e-7)
    without = mm.lmm(MEAN, DATA, residual="hetar1(visit | subject)")
    assert fit.loglik >= without.loglik - 1e-9


def test_rows_and_sums_are_one_likelihood(monkeypatch):
    monkeypatch.setattr("jaxmm.costs.PATTERN_SUMS", 0)
    by_rows = mm.lmm(MEAN, DATA, residual="us(visit | subject)")
    assert isinstance(by_rows.model.arrays.residual, PatternRows)
    monkeypatch.undo()
    by_sums = mm.lmm(MEAN, DATA, residual="us(visit | subject)")
    assert by_rows.loglik == pytest.approx(by_sums.loglik, abs=1e-8)
    np.testing.assert_allclose(by_rows.residual.cov, by_sums.residual.cov, rtol=1e-4)


def test_parameters_of_each_arm():
    fit = mm.lmm(MEAN, DATA, residual="cs(visit | subject, by=arm)")
    R = within_subjects(fit, by="arm")
    assert fit.converged and fit.loglik == pytest.approx(dense_loglik(fit, R), abs=1e-7)
    assert fit.df == 4 + 2 * 5 and list(fit.residual.cov) == ["x", "y"]


def test_weights_are_precisions():
    fit = mm.lmm(MEAN, DATA, residual="ar1(visit | subject)", weights="w")
    w = 1 / np.sqrt(DATA["w"].to_numpy())
    assert fit.loglik == pytest.approx(dense_loglik(fit, w[:, None] * within_subjects(fit) * w), abs=1e-7)


def test_unequal_variances():
    """With a formula for log φ, by itself, with random effects, and beside correlations."""
    fit = mm.lmm(MEAN, DATA, dispersion="~ arm + time")
    gamma = fit.coef_table(component="phi")["estimate"]
    arm = (DATA["arm"] == "y").to_numpy()
    phi = np.exp(gamma["(Intercept)"] + gamma["army"] * arm + gamma["time"] * DATA["time"].to_numpy())
    assert fit.loglik == pytest.approx(dense_loglik(fit, np.diag(phi)), abs=1e-7)
    both = mm.lmm(MEAN + " + (1 | site)", DATA, dispersion="~ time", residual="ar1(visit | subject)")
    s = np.exp(0.5 * both.coef_table(component="phi")["estimate"]["time"] * DATA["time"].to_numpy())
    D = float(both.varcorr().cov["site"].iloc[0, 0])
    R = s[:, None] * within_subjects(both) * s
    assert both.loglik == pytest.approx(dense_loglik(both, R, D, "site"), abs=1e-7)


def test_a_formula_of_log_phi_is_coded_as_one_likes():
    fits = [mm.lmm(MEAN, DATA, dispersion=f, reml=False) for f in ("~ arm", "~ 0 + arm")]
    assert fits[0].loglik == pytest.approx(fits[1].loglik, abs=1e-8)
    a, b = (f.coef_table(component="phi")["estimate"] for f in fits)
    np.testing.assert_allclose([a.iloc[0], a.iloc[0] + a.iloc[1]], b, atol=1e-5)


def test_aliased_columns_of_log_phi_are_named():
    """In a warning, ``dropped`` and print; the fit is that of the columns that are left."""
    with pytest.warns(UserWarning, match=r"~ arm\+I\(2 \* time\)\+time of phi is rank-deficient: dropped time"):
        fit = mm.lmm(MEAN, DATA, dispersion="~ arm+I(2 * time)+time")
    left = mm.lmm(MEAN, DATA, dispersion="~ arm + time")
    assert fit.loglik == pytest.approx(left.loglik, abs=1e-8)
    assert fit.dropped == ("phi~time",) and left.dropped == ()
    assert "dropped phi~time" in str(fit.summary())
    for shown in (str(fit.summary()), str(fit.residual), str(fit.model)):
        assert "~ arm+I(2 * time)+time, without time" in shown
    with pytest.warns(UserWarning, match="dropped one"):
        data = DATA.assign(one=1.0)
        both = mm.Model.from_formula(MEAN, data, residual="cs(visit | subject)", dispersion="~ one")
    assert "cs(visit | subject); ~ one, without one" in str(both)


def test_independent_errors_of_one_variance_are_a_regression():
    fit = mm.lmm(MEAN, DATA, residual="homdiag(visit | subject)")
    X, y = fit.model.design.X, fit.model.design.y
    beta, rss = np.linalg.lstsq(X, y, rcond=None)[:2]
    assert fit.sigma**2 == pytest.approx(rss[0] / (len(y) - 4), rel=1e-9)
    np.testing.assert_allclose(fit.fixef, beta, rtol=1e-9)
    unequal = mm.lmm(MEAN, DATA, residual="diag(visit | subject)")
    same = mm.lmm(MEAN, DATA, dispersion="~ visit")
    assert unequal.loglik == pytest.approx(same.loglik, abs=1e-8)


def test_one_correlation_is_a_random_intercept():
    fit = mm.lmm(MEAN, DATA, residual="homcs(visit | subject)")
    other = mm.lmm(MEAN + " + (1 | subject)", DATA)
    assert fit.loglik == pytest.approx(other.loglik, abs=1e-8)
    np.testing.assert_allclose(fit.bse, other.bse, rtol=1e-5)
    np.testing.assert_allclose(fit.coef_table("satterthwaite"), other.coef_table("satterthwaite"), rtol=1e-4)
    # of the observed information and of the expected one
    np.testing.assert_allclose(fit.coef_table("kenward-roger"), other.coef_table("kenward-roger"), rtol=0.03)


ORDERED = ("us", "diag", "homdiag", "cs", "homcs", "ar1", "hetar1", "toep", "homtoep", "ante")


@pytest.mark.parametrize("structure", ORDERED)
def test_sigma_is_the_standard_deviation_at_the_first_time(structure):
    one = mm.lmm(MEAN, DATA, residual=f"{structure}(visit | subject)")
    assert one.sigma == pytest.approx(one.residual.sd.iloc[0], rel=1e-12) == one.residual.params["sigma"]
    two = mm.lmm(MEAN, DATA, residual=f"{structure}(visit | subject, by=arm)").residual
    first, second = two.sd.values()
    assert two.params["sigma"] == pytest.approx(first.iloc[0], rel=1e-12)
    of_second = [name for name in two.params.index if name.startswith("sd ratio (")]
    assert [two.params[name] for name in of_second] == pytest.approx([second.iloc[0] / first.iloc[0]], rel=1e-12)


@pytest.mark.parametrize("late", [1, 12])
def test_a_visit_a_little_late(late):
    """Days as steps are then many, of which few have a visit: ar1 is ou as long as its correlations are positive."""
    d = DATA.assign(day=84 * DATA["visit"].cat.codes.to_numpy(int))
    d.loc[d.index[7], "day"] += late
    ar1, ou = (mm.lmm(MEAN, d, residual=f"{structure}(day | subject)") for structure in ("ar1", "ou"))
    assert ar1.converged and ar1.loglik == pytest.approx(ou.loglik, abs=1e-6)
    assert ar1.residual.params["rho"] == pytest.approx(np.exp(-late * ou.residual.params["rate"]), abs=1e-5)
    np.testing.assert_allclose(ar1.residual.corr, ou.residual.corr, atol=1e-4)


def test_times_in_seconds():
    """As steps they are more than a matrix of all of them could be made for."""
    rng = np.random.default_rng(3)
    d = DATA.assign(second=86_400 * DATA["visit"].cat.codes.to_numpy(int) + rng.integers(0, 60, len(DATA)))
    ar1, ou = (mm.lmm(MEAN, d, residual=f"{structure}(second | subject)") for structure in ("ar1", "ou"))
    assert ar1.converged and ar1.loglik == pytest.approx(ou.loglik, abs=1e-6)


def test_one_visit_of_each_subject_is_a_regression():
    d = DATA[DATA["visit"] == "b"]
    X = np.column_stack([np.ones(len(d)), d["arm"] == "y"])
    e = d["y"] - X @ np.linalg.lstsq(X, d["y"], rcond=None)[0]
    for residual in ("homdiag", "us", "ar1"):
        fit = mm.lmm("y ~ arm", d, residual=f"{residual}(visit | subject)")
        assert fit.sigma == pytest.approx(np.sqrt(np.sum(e**2) / (len(d) - 2)), rel=1e-10)
        assert fit.converged and not fit.remarks and f"Residual covariance: {residual}" in str(fit)


def test_a_row_of_weight_zero_is_not_there():
    w = np.ones(len(DATA))
    w[3] = 0.0
    fit, without = (mm.lmm(MEAN, d, residual="us(visit | subject)", weights=v) for d, v in (
        (DATA, w), (DATA.drop(index=DATA.index[3]), np.ones(len(DATA) - 1))
    ))  # fmt: skip
    assert fit.loglik == pytest.approx(without.loglik, abs=1e-9)
    pearson = fit.residuals("pearson")
    assert pearson.iloc[3] == 0.0 and "1 row of weight zero" in str(fit)
    np.testing.assert_allclose(pearson.drop(index=DATA.index[3]), without.residuals("pearson"), rtol=1e-6)


def test_two_visits_are_a_paired_t_test():
    d = table(0.0)
    d = d[d["visit"].isin(["a", "d"])]
    fit = mm.lmm("y ~ visit", d, residual="us(visit | subject)")
    wide = d.pivot(index="subject", columns="visit", values="y")
    expected = stats.ttest_rel(wide["d"], wide["a"])
    for ddf in ("satterthwaite", "kenward-roger", "kenward-roger-linear"):
        row = fit.coef_table(ddf).iloc[1]
        assert row["statistic"] == pytest.approx(expected.statistic, rel=1e-6)
        assert row["df"] == pytest.approx(N - 1, rel=1e-5) and row["p"] == pytest.approx(expected.pvalue, rel=1e-5)


def test_complete_data_have_a_closed_form():
    """A mean for each visit and any covariance: those of the sample."""
    d = table(0.0)
    fit = mm.lmm("y ~ 0 + visit", d, residual="us(visit | subject)")
    wide = d.pivot(index="subject", columns="visit", values="y")
    np.testing.assert_allclose(fit.residual.cov, wide.cov(), rtol=1e-5)
    np.testing.assert_allclose(fit.fixef, wide.mean(), rtol=1e-9)


def test_the_order_of_the_rows_and_units_do_not_matter():
    fit = mm.lmm(MEAN, DATA, residual="us(visit | subject)")
    other = DATA.sample(frac=1, random_state=1).assign(y=lambda d: 1000 * d["y"])
    moved = mm.lmm(MEAN, other, residual="us(visit | subject)")
    np.testing.assert_allclose(moved.fixef / 1000, fit.fixef, rtol=1e-6)
    np.testing.assert_allclose(moved.residual.cov / 1e6, fit.residual.cov, rtol=1e-4)
    in_order = mm.lmm(MEAN, table(0.0), residual="ar1(1 | subject)")
    assert in_order.loglik == pytest.approx(mm.lmm(MEAN, table(0.0), residual="ar1(visit | subject)").loglik, abs=1e-9)


def test_numbers_are_times():
    """In equal steps, of which some are missing, for ar1; as they are for ou, where both are the same model."""
    d = table(0.0)
    d = d[d["visit"] != "b"]
    by_place = mm.lmm("y ~ arm", d, residual="ar1(time | subject)")
    by_time = mm.lmm("y ~ arm", d, residual="ou(time | subject)")
    by_order = mm.lmm("y ~ arm", d, residual="ar1(visit | subject)")
    assert by_place.loglik == pytest.approx(by_time.loglik, abs=1e-8)
    assert abs(by_order.loglik - by_time.loglik) > 1e-4
    with pytest.raises(DataError, match=r"equal steps.*factor\(late\).*ou\(late"):
        mm.lmm("y ~ arm", DATA, residual="ar1(late | subject)")


def test_many_times_are_looked_at_by_subject():
    rng = np.random.default_rng(3)
    g, t = np.repeat(np.arange(30), 4), rng.uniform(0, 10, 120)
    d = pd.DataFrame({"g": g, "t": t, "y": rng.normal(size=120) + np.repeat(rng.normal(size=30), 4)})
    fit = mm.lmm("y ~ t", d, residual="exp(t | g)", reml=False)
    assert fit.model.arrays.residual.patterns.place is not None
    sd, length = fit.sigma, fit.residual.params["range"]
    V = sd**2 * np.exp(-np.abs(np.subtract.outer(t, t)) / length) * (g[:, None] == g)
    e = d["y"] - np.column_stack([np.ones(120), t]) @ fit.fixef.to_numpy()
    dense = -0.5 * (np.linalg.slogdet(2 * np.pi * V)[1] + e @ np.linalg.solve(V, e))
    assert fit.loglik == pytest.approx(dense, abs=1e-7)


# ---------------------------------------------------------------- what is read off
@pytest.fixture(scope="module")
def fit():
    return mm.lmm(MEAN, DATA, residual="us(visit | subject)")


def test_visits_that_are_missing(fit):
    """Given the others: the normal distribution's conditional mean; what was seen where it was."""
    seen = DATA[DATA["subject"] == "s01"]
    gone = next(s for s in DATA["subject"].unique() if (DATA["subject"] == s).sum() < 4)
    own = DATA[DATA["subject"] == gone]
    visit = next(v for v in VISITS if v not in set(own["visit"]))
    np.testing.assert_allclose(fit.predict(seen), seen["y"], atol=1e-9)
    new = own.iloc[:1].assign(visit=pd.Categorical([visit], VISITS), time=float(VISITS.index(visit)))
    C, at = fit.residual.cov, list(own["visit"])
    e = own["y"].to_numpy() - fit.predict(own, re="population").to_numpy()
    ahead = C.loc[visit, at].to_numpy() @ np.linalg.solve(C.loc[at, at].to_numpy(), e)
    assert fit.predict(new).iloc[0] == pytest.approx(fit.predict(new, re="population").iloc[0] + ahead)


def test_residuals_and_simulation(fit):
    sd = DATA["visit"].map(fit.residual.sd).astype(float).to_numpy()
    np.testing.assert_allclose(fit.residuals("pearson") / fit.sigma, fit.residuals() / sd)
    Y = fit.simulate(4000, key=1) - fit.fitted().to_numpy()
    own = np.flatnonzero(DATA["subject"] == "s01")
    expected = within_subjects(fit)[np.ix_(own, own)]
    np.testing.assert_allclose(np.cov(Y[:, own].T), expected, atol=0.12 * expected.max())
    other = np.flatnonzero(DATA["subject"] == "s02")
    assert np.abs(np.corrcoef(Y[:, own[0]], Y[:, other[0]])[0, 1]) < 0.06
    drawn = mm.Simulated(fit.model, fit, 3, key=5).block(0, 3).y
    np.testing.assert_allclose(drawn, fit.simulate(3, key=5), rtol=1e-9)


def test_cluster_robust_errors_are_the_sandwich(fit):
    X, y, V = fit.model.design.X, fit.model.design.y, within_subjects(fit)
    W = np.linalg.inv(V)
    M, e = np.linalg.inv(X.T @ W @ X), y - X @ fit.fixef.to_numpy()
    same = DATA["subject"].to_numpy()[:, None] == DATA["subject"].to_numpy()
    np.testing.assert_allclose(fit.vcov("CR0"), M @ X.T @ W @ (same * np.outer(e, e)) @ W @ X @ M, rtol=1e-6)


def test_other_verbs(fit):
    between = fit.coef_table("between-within")["df"]
    assert between["army"] == N - 2 and between["time"] == len(DATA) - N - 2
    again = fit.refit(2 * fit.model.design.y)
    np.testing.assert_allclose(again.residual.cov, 4 * fit.residual.cov, rtol=1e-4)
    assert fit.model.fit(start=fit).loglik == pytest.approx(fit.loglik, abs=1e-9)
    assert pickle.loads(pickle.dumps(fit)).residual.cov.equals(fit.residual.cov)
    assert "us(visit | subject)" in str(fit.summary()) and " patterns, as sums" in str(fit.model)
    assert fit.n_groups == {"subject": N} and fit.confint("profile").shape[0] == 4


def test_lanes_are_single_fits():
    """Also with missing rows, whose patterns are the lane's own."""
    fit = mm.lmm(MEAN, DATA, residual="hetar1(visit | subject)")
    Y = fit.simulate(3, key=2)
    Y[1, ::9] = np.nan
    batch = mm.fit_many(fit.model, Y, progress=False)
    for k in range(3):
        one = mm.lmm(MEAN, DATA.assign(y=Y[k])[~np.isnan(Y[k])], residual="hetar1(visit | subject)")
        assert batch.loglik[k] == pytest.approx(one.loglik, abs=1e-7) and batch.converged[k]
        np.testing.assert_allclose(batch.fixef[k], one.fixef, atol=1e-5)
    with pytest.raises(NotImplementedError, match=r"cannot have (columns|X)"):
        mm.fit_many(fit.model, Y, columns={"time": np.tile(DATA["time"], (3, 1))}, progress=False)


def test_more_parameters_than_the_data_bear():
    """No bound on the likelihood where hardly a subject is seen at all visits: no convergence, and a note."""
    few = DATA.groupby("subject").head(2)
    few = pd.concat([few, DATA[DATA["subject"] == "s03"]]).drop_duplicates()
    fit = mm.lmm("y ~ time", few, residual="us(visit | subject)")
    assert not fit.converged or any("covariance of the errors is singular" in r for r in fit.remarks)


def test_what_the_data_have_for_the_parameters():
    """None of the structures that are named has as many as the model's own."""

    def said(data, residual) -> str:
        own = mm.Model.from_formula("y ~ 1", data, residual=residual).design.residual
        assert own is not None
        return borne_text(own)

    two = DATA[DATA["subject"].isin(["s02", "s03"])]
    assert said(two, "toep(visit | subject)") == (
        "toep(visit | subject) has 7 parameters, sigma among them, and of 2 levels of 'subject' 1 has 4 rows and none "
        "has more; cs, homcs, ar1 have fewer"
    )
    assert "has 5 parameters for each of 2 levels of 'arm'" in said(DATA, "cs(visit | subject, by=arm)")
    for name in ("cs", "hetar1", "diag", "homtoep"):
        assert said(two, f"{name}(visit | subject)").endswith("; homcs, ar1 have fewer")
    for text in ("ar1(visit | subject)", "homcs(visit | subject)", "ou(time | subject)"):
        assert said(two, text).endswith("; no structure of correlations has fewer")
    assert "add a little to its diagonal" in borne_text(
        mm.Model.from_formula("y ~ 1", DATA, residual="propto(visit | subject, K)", matrices={"K": np.eye(4)})
        .design.residual  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def test_influence_of_subjects(fit):
    found = fit.influence("subject").frame
    without = mm.lmm(MEAN, DATA[DATA["subject"] != "s03"], residual="us(visit | subject)")
    move = (fit.fixef - without.fixef).to_numpy()
    cook = move @ np.linalg.solve(fit.vcov().to_numpy(), move) / 4
    assert found.loc["s03", "cooks_distance"] == pytest.approx(cook, rel=1e-3)
    with pytest.raises(NotImplementedError, match="refit=True fits again"):
        fit.influence(refit=False)


@pytest.mark.parametrize(("name", "own"), [
    ("homcs", ["rho"]),
    ("cs", ["sd ratio a", "sd ratio b", "sd ratio c", "sd ratio d", "rho"]),
    ("ar1", ["rho"]),
    ("hetar1", ["sd ratio a", "sd ratio b", "sd ratio c", "sd ratio d", "rho"]),
])  # fmt: skip
def test_one_correlation_has_one_name(name, own):
    """With ``by`` one for each set."""
    structure = STRUCTURES[name](4)
    theta = np.linspace(0.6, 1.1, structure.num_params)
    D = np.asarray(structure.covariance(theta))
    found = structure.parameters(theta, VISITS)
    assert list(found) == own
    assert found["rho"] == pytest.approx(D[0, 1] / np.sqrt(D[0, 0] * D[1, 1]), rel=1e-12)
    for k, x in enumerate(VISITS):
        assert found.get(f"sd ratio {x}", 1.0) == pytest.approx(np.sqrt(D[k, k] / D[0, 0]), rel=1e-12)
    assert STRUCTURES[name](1).parameters(np.ones(1), VISITS[:1]) == {}


def test_nested_structures_are_compared(fit):
    small = mm.lmm(MEAN, DATA, residual="homcs(visit | subject)")
    assert mm.anova(small, fit).table["df"].iloc[-1] == 8
    other = mm.lmm(MEAN, DATA, residual="ar1(visit | subject)")
    assert "not known" in str(mm.anova(other, mm.lmm(MEAN, DATA, residual="cs(visit | subject)")))


def test_what_is_not_there_is_refused(fit):
    with pytest.raises(NotImplementedError, match="errors are correlated or of unequal variances"):
        mm.DirectlySimulated(fit.model, fit, 2, key=1)
    with pytest.raises(ValueError, match="it has coefficients where dispersion= says more than '~ 1'"):
        fit.coef_table(component="phi")


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(("given", "error", "words"), [
    ({"residual": "us(visit)"}, FormulaError, ["a structure around a bar", "us(visit | subject)"]),
    ({"residual": "un(visit | subject)"}, FormulaError, ["un(...) is not available", "us, diag"]),
    ({"residual": "us(visit + arm | subject)"}, FormulaError, ["the time alone", "visit + arm"]),
    ({"residual": "us(visit | subject, group=arm)"}, FormulaError, ["takes by=", "group = arm"]),
    ({"residual": "us(visit | patient)"}, DataError, ["patient"]),
    ({"residual": "us(arm | subject)"}, DataError, ["'subject' 's00' has two rows at 'arm' 'y'", "rows 0 and 1"]),
    ({"residual": "us(visit | subject, by=visit)"}, DataError, ["rows in several levels of 'visit'"]),
    ({"residual": "ou(visit | subject)"}, DataError, ["needs times that are numbers", "'visit' is a factor"]),
    ({"dispersion": "~ 0 + time"}, DataError, ["has no intercept"]),
    ({"dispersion": "~ time + (1 | site)"}, FormulaError, ["no random effects", "glmm(formula, data, 'gaussian'"]),
    ({"matrices": {"K": np.eye(3)}}, DataError, ["the matrix 'K' of matrices= is not used"]),
])  # fmt: skip
def test_bad_input(given, error, words):
    given = {"formula": MEAN} | ({"residual": "us(visit | subject)"} if "matrices" in given else {}) | given
    with pytest.raises(error) as raised:
        mm.lmm(data=DATA, **given)
    assert [w for w in words if w not in str(raised.value)] == []


def test_other_families_have_no_errors():
    with pytest.raises(TypeError, match="residual= is for linear mixed models"):
        mm.Model.from_formula("y ~ time + (1 | subject)", DATA, "gaussian", residual="us(visit | subject)")


@pytest.mark.parametrize(
    ("residual", "said"),
    [
        ("rr(visit | subject, d = 2)", r"has rank 2, and errors at 4 times are no combinations of 2: take us"),
        ("rr(visit | subject, d = 5)", "d = 5 columns of loadings are more than the 4 effects there are"),
    ],
)
def test_errors_of_reduced_rank_are_refused(residual, said):
    with pytest.raises(mm.DataError, match=said):
        mm.lmm(MEAN, DATA, residual=residual)
