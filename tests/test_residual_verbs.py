"""What is done with a fit whose errors are correlated or of unequal variances: against V written out, and refits."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from dense_residual import dense, hessian
from scipy import optimize, stats

import jaxmm as mm
from jaxmm._random import as_key, words
from jaxmm.diagnose.effective import effective_df, leverages
from jaxmm.diagnose.multistart import random_starts
from jaxmm.inference.influence.leverage import leverage, marginal_leverage
from jaxmm.inference.of_errors import _told
from jaxmm.inference.r2 import Account
from jaxmm.permute.inputs import as_scheme
from jaxmm.permute.schemes import Permutations
from jaxmm.sources.resample import Case, Residual

VISITS = ["a", "b", "c", "d"]
N = 16


def table() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    root = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(range(4), range(4)))) * [[1.0], [1.2], [1.5], [1.9]]
    d = pd.DataFrame({
        "subject": np.repeat([f"s{k:02d}" for k in range(N)], 4),
        "visit": pd.Categorical(VISITS * N, VISITS),
        "time": np.tile([0.0, 1.0, 2.0, 3.0], N),
        "arm": np.repeat(np.where(np.arange(N) % 2, "x", "y"), 4),
        "site": np.repeat([f"site{k // 4}" for k in range(N)], 4),
        "w": rng.uniform(0.5, 2, 4 * N),
    })  # fmt: skip
    d["y"] = 1 + 0.5 * d["time"] + (rng.normal(size=(N, 4)) @ root.T).ravel() + np.repeat(rng.normal(size=4), N)
    return d[rng.random(4 * N) >= 0.15].reset_index(drop=True)


DATA = table()


@pytest.fixture(scope="module")
def alone():
    return mm.lmm("y ~ time * arm", DATA, residual="us(visit | subject)")


@pytest.fixture(scope="module")
def mixed():
    """With random effects, weights and a formula of log φ."""
    return mm.lmm(
        "y ~ time + (1 | site)", DATA, residual="ar1(visit | subject)", dispersion="~ time", weights="w", reml=False
    )


def errors_of(fit, data=DATA) -> np.ndarray:
    """Cov(ε) (n, n), from what the fit prints."""
    place, subject = data["visit"].cat.codes.to_numpy(), data["subject"].to_numpy()
    C = fit.residual.cov.to_numpy()
    s = np.ones(len(data))
    if "log phi~time" in fit.residual.params:
        s = np.exp(0.5 * fit.residual.params["log phi~time"] * data["time"].to_numpy())
    if fit.model.design.weights is not None:
        s = s / np.sqrt(data["w"].to_numpy())
    return np.outer(s, s) * (subject[:, None] == subject) * C[place[:, None], place]


def whole(fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """V, ZDZ' and X."""
    R = errors_of(fit)
    both = 0.0 * R
    if fit.model.design.factors:
        site = DATA["site"].to_numpy()
        both = float(fit.varcorr().cov["site"].iloc[0, 0]) * (site[:, None] == site)
    return R + both, both, fit.model.design.X


# ---------------------------------------------------------------- leverage, influence
@pytest.mark.parametrize("name", ["alone", "mixed"])
def test_leverage_is_the_hat_matrix(name, request):
    fit = request.getfixturevalue(name)
    V, both, X = whole(fit)
    W = np.linalg.inv(V)
    of_beta = X @ np.linalg.solve(X.T @ W @ X, X.T @ W)
    H = of_beta + both @ W @ (np.eye(len(V)) - of_beta)
    np.testing.assert_allclose(H @ DATA["y"], fit.fitted(), rtol=1e-6)
    np.testing.assert_allclose(leverage(fit), np.diag(H), rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(marginal_leverage(fit), np.diag(of_beta), rtol=1e-6, atol=1e-10)
    assert effective_df(fit) == pytest.approx(np.trace(H), rel=1e-6)
    np.testing.assert_allclose(leverages(fit), np.diag(H).clip(0, 1), rtol=1e-6, atol=1e-10)


def test_unequal_variances_alone_have_leverage():
    fit = mm.lmm("y ~ time + (1 | site)", DATA, dispersion="~ time")
    s2 = fit.predict(scale="dispersion").to_numpy()
    gamma = fit.coef_table(component="phi")["estimate"]
    np.testing.assert_allclose(s2, np.exp(gamma["(Intercept)"] + gamma["time"] * DATA["time"]), rtol=1e-9)
    site = DATA["site"].to_numpy()
    V = np.diag(s2) + float(fit.varcorr().cov["site"].iloc[0, 0]) * (site[:, None] == site)
    W, X = np.linalg.inv(V), fit.model.design.X
    P = W - W @ X @ np.linalg.solve(X.T @ W @ X, X.T @ W)
    np.testing.assert_allclose(leverage(fit), 1 - s2 * np.diag(P), rtol=1e-6)


def test_influence_of_rows_is_that_of_fits_without(alone):
    found = alone.influence()
    without = mm.lmm("y ~ time * arm", DATA.drop(7), residual="us(visit | subject)")
    np.testing.assert_allclose(found.dfbeta.loc[7], alone.fixef - without.fixef, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.leverage, leverage(alone))
    with pytest.raises(NotImplementedError, match="refit=True fits again"):
        alone.influence("subject", refit=False)


# ---------------------------------------------------------------- shares of the variance
@pytest.mark.parametrize("name", ["alone", "mixed"])
def test_shares_of_the_variance(name, request):
    """Nakagawa's, with the errors' variance averaged over the rows, each of weight one."""
    fit = request.getfixturevalue(name)
    V, both, X = whole(fit)
    w = np.ones(len(DATA)) if fit.model.design.weights is None else DATA["w"].to_numpy()
    fixed, random, residual = np.var(X @ fit.fixef, ddof=1), both[0, 0], np.mean(np.diag(V - both) * w)
    total = fixed + random + residual
    np.testing.assert_allclose(fit.r2(), [fixed / total, (fixed + random) / total], rtol=1e-8)
    np.testing.assert_allclose(fit.icc(), [random / (random + residual), random / total], rtol=1e-8)


def test_shares_of_replicates(mixed):
    """A replicate's errors are its own."""
    y = mixed.simulate(1, key=1)
    one = mm.fit_many(mixed.model, y, progress=False)[0]
    np.testing.assert_allclose(Account(mixed, None).parts(one).r2(), mixed.refit(y[0]).r2(), rtol=1e-4)


def test_the_variance_of_each_row(alone, mixed):
    V, both, _ = whole(mixed)
    expected = np.diag(V - both) * DATA["w"]
    np.testing.assert_allclose(mixed.predict(scale="dispersion"), expected, rtol=1e-7)
    new = DATA.iloc[:4].assign(subject="new")
    np.testing.assert_allclose(mixed.predict(new, scale="dispersion", re="population"), expected[:4], rtol=1e-7)
    np.testing.assert_allclose(alone.predict(scale="dispersion", re="marginal"), np.diag(whole(alone)[0]), rtol=1e-7)


# ---------------------------------------------------------------- visits given the others
@pytest.fixture(scope="module")
def ar1():
    return mm.lmm("y ~ time * arm", DATA, residual="ar1(visit | subject)")


def conditional(fit, new, R_of) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the rows ``new`` of one subject the normal distribution's conditional mean, the slopes of that by β and the
    conditional variance, with ``R_of(a, b)`` the covariance of two tables' errors."""
    own = DATA[DATA["subject"] == new["subject"].iloc[0]]
    X = {len(t): fit.model.design.evaluate(t).X for t in (own, new)}
    K = R_of(new, own) @ np.linalg.inv(R_of(own, own))
    A = X[len(new)] - K @ X[len(own)]
    return A @ fit.fixef + K @ own["y"], A, np.diag(R_of(new, new) - K @ R_of(own, new))


def test_intervals_of_visits_given_the_others(ar1):
    """Against V written out, whose parameters are σ² and ρ: degrees of freedom do not depend on which they are."""
    subject = next(s for s, rows in DATA.groupby("subject") if len(rows) == 3)
    gone = next(v for v in VISITS if v not in set(DATA[DATA["subject"] == subject]["visit"]))
    new = (
        DATA[DATA["subject"] == subject]
        .iloc[[0]]
        .assign(visit=pd.Categorical([gone], VISITS), time=float(VISITS.index(gone)))
    )
    new = pd.concat([new, new.assign(subject="nobody")])
    X, y, code = ar1.model.design.X, DATA["y"].to_numpy(), pd.factorize(DATA["subject"])[0]

    def covariance(x):
        def of(a, b):
            at = [t["visit"].cat.codes.to_numpy() for t in (a, b)]
            same = a["subject"].to_numpy()[:, None] == b["subject"].to_numpy()
            return np.exp(x[0]) * x[1] ** np.abs(np.subtract.outer(*at)) * same

        return of

    def variance(x):
        M = np.linalg.inv(X.T @ np.linalg.solve(covariance(x)(DATA, DATA), X))
        _, A, left = conditional(ar1, new.iloc[:1], covariance(x))
        a = ar1.model.design.evaluate(new.iloc[1:]).X
        return np.array([A[0] @ M @ A[0] + left[0], a[0] @ M @ a[0] + np.exp(x[0])])

    at = np.array([2 * np.log(ar1.sigma), ar1.residual.params["rho"]])
    W = 2 * np.linalg.inv(
        hessian(lambda x: -2 * dense(X, y, covariance(x)(DATA, DATA), True).loglik, at, np.array([1e-3, 1e-3]))
    )
    slopes = np.array([(variance(at + h) - variance(at - h)) / 2e-5 for h in 1e-5 * np.eye(2)])
    df = 2 * variance(at) ** 2 / np.einsum("km,kl,lm->m", slopes, W, slopes)
    mean = np.append(conditional(ar1, new.iloc[:1], covariance(at))[0], ar1.predict(new, re="population").iloc[1])
    half = stats.t.ppf(0.975, df) * np.sqrt(variance(at))
    found = ar1.predict(new, interval="prediction")
    np.testing.assert_allclose(found["predicted"], mean, rtol=1e-6)
    np.testing.assert_allclose(found, np.column_stack([mean, mean - half, mean + half]), rtol=2e-4)
    np.testing.assert_allclose(found["predicted"], ar1.predict(new))
    assert "Given the other rows of the subject" in found.attrs["note"] and len(code) == len(y)


def test_intervals_of_means_are_linear_in_the_coefficients(ar1):
    """What was seen is known; of another visit by any covariance of the coefficients."""
    own = DATA[DATA["subject"] == "s03"]
    seen = ar1.predict(own, interval="prediction")
    np.testing.assert_allclose(seen, np.repeat(own[["y"]].to_numpy(), 3, axis=1), atol=1e-9)
    rest = own.iloc[1:]
    short = mm.lmm("y ~ time * arm", DATA.drop(own.index[0]), residual="ar1(visit | subject)")
    R = short.residual.cov.to_numpy()
    at = rest["visit"].cat.codes.to_numpy()
    k = np.linalg.solve(R[np.ix_(at, at)], R[at, own["visit"].cat.codes.iloc[0]])
    a = short.model.design.evaluate(own.iloc[:1]).X[0] - k @ short.model.design.evaluate(rest).X
    for given in ({}, {"ddf": "kenward-roger-linear"}, {"vcov": "CR2"}):
        table = short.predict(own.iloc[:1], interval="confidence", **given)
        reference = short.reference(given.get("ddf"), given.get("vcov"))
        se, df = np.sqrt(a @ reference.vcov @ a), reference.df(a[None])[0]
        half = (table["upper"] - table["lower"]).iloc[0] / 2
        assert half == pytest.approx(stats.t.ppf(0.975, df) * se, rel=1e-6)
    with pytest.raises(NotImplementedError, match="variances count "):
        short.predict(own, interval="prediction", uncertain=("fixed", "variances", "residual"))


# ---------------------------------------------------------------- many fits
@pytest.mark.parametrize("how", ["subjects", "visits"])
def test_groups_left_out(ar1, how):
    """The density of rows left out, from a fit to the others: of whole subjects, and of rows whose subjects stay."""
    by = {} if how == "subjects" else {"by": np.where(np.arange(len(DATA)) < 3, np.arange(len(DATA)), 3 + len(DATA))}
    found = mm.cross_validate(ar1, **by)
    out = (DATA["subject"] == "s00").to_numpy() if how == "subjects" else np.arange(len(DATA)) == 1
    rest = mm.lmm("y ~ time * arm", DATA[~out], residual="ar1(visit | subject)")
    R = errors_of(rest, DATA)
    e = DATA["y"].to_numpy() - rest.predict(DATA, re="population").to_numpy()
    K = R[np.ix_(out, ~out)] @ np.linalg.inv(R[np.ix_(~out, ~out)])
    mean, V = K @ e[~out], R[np.ix_(out, out)] - K @ R[np.ix_(~out, out)]
    expected = stats.multivariate_normal.logpdf(e[out], mean, V)
    at = list(found.folds.labels).index("s00" if how == "subjects" else 1)
    assert found.density[at] == pytest.approx(expected, abs=1e-3)
    assert how == "visits" or (found.good.all() and found.optimism > 0)


def test_subjects_left_out_beside_random_effects(mixed):
    """Which share the effect of their site with others."""
    found = mm.cross_validate(mixed, by="subject", folds=2, key=1)
    assert found.good.all() and np.isfinite(found.elpd)
    V = whole(mixed)[0]
    e = DATA["y"].to_numpy() - mixed.predict(re="population").to_numpy()
    inside = np.zeros(len(found.inside))
    K = np.linalg.inv(V)
    for k in range(2):
        left = np.flatnonzero(found.folds.of_rows == k)
        C = np.linalg.inv(K[np.ix_(left, left)])
        wrong = C @ (K[left] @ e)
        for g in np.unique(found.folds.codes[left]):
            own = found.folds.codes[left] == g
            inside[g] = stats.multivariate_normal.logpdf(wrong[own], cov=C[np.ix_(own, own)])
    np.testing.assert_allclose(found.inside, inside, rtol=1e-6)


def test_a_model_without_groups_is_told_what_to_leave_out():
    fit = mm.lmm("y ~ time", DATA, dispersion="~ time")
    with pytest.raises(ValueError, match="no grouping factor: say what is left out"):
        mm.cross_validate(fit)
    assert np.isfinite(mm.cross_validate(fit, by=DATA["site"]).elpd)


def test_residuals_that_are_whitened_come_back_coloured(alone):
    """Each draw is a residual, made white by L of LL' = R, with the errors' covariance over the draws."""
    source = Residual(alone, 4000, 3)
    R = errors_of(alone) / alone.scale
    e = DATA["y"].to_numpy() - alone.fitted().to_numpy()
    white = np.empty(len(e))
    for _, rows in DATA.groupby("subject").groups.items():
        white[rows] = np.linalg.solve(np.linalg.cholesky(R[np.ix_(rows, rows)]), e[rows])
    white -= white.mean()
    np.testing.assert_allclose(source.residuals, white * alone.sigma / np.sqrt(np.mean(white**2)), rtol=1e-7, atol=1e-9)
    drawn = np.asarray(source.block(0, 4000).y) - alone.fitted().to_numpy()
    own = np.flatnonzero(DATA["subject"] == "s03")
    np.testing.assert_allclose(np.cov(drawn[:, own].T), errors_of(alone)[np.ix_(own, own)], atol=0.35)
    assert np.abs(np.corrcoef(drawn[:, own[0]], drawn[:, 0])[0, 1]) < 0.06
    assert np.asarray(source.block(7, 1).y)[0] == pytest.approx(np.asarray(source.block(0, 8).y)[7], abs=1e-12)


def test_the_residual_bootstrap_runs(ar1):
    boot = mm.bootstrap(ar1, 20, key=1, kind="residual", progress=False)
    assert boot.converged.all() and 0.5 < (boot.se[ar1.fixef.index] / ar1.bse).mean() < 1.6


def test_searches_from_many_starts(ar1, mixed):
    """They end where the fit has ended."""
    for fit in (ar1, mixed):
        found = fit.multistart(4, key=1)
        assert not found.better and found.frame["gain"].max() < 1e-4
        assert found.frame.loc[found.frame["converged"], "gain"].abs().max() < 1e-3
    starts = random_starts(mixed, 2, 1)
    assert np.ptp(starts[:, -1]) > 0.1 and np.ptp(starts[:, 0]) > 0.1
    with pytest.raises(ValueError, match="batch= is for searches side by side"):
        mixed.multistart(2, key=1, batch=2)


def test_a_better_optimum_is_taken_over(ar1):
    worse = dataclasses.replace(ar1.estimates, deviance=ar1.estimates.deviance + 5)
    found = type(ar1)(ar1.model, worse, ar1._control).multistart(2, key=1)
    assert found.better and found.fit.loglik == pytest.approx(ar1.loglik, abs=1e-4)


def test_signs_of_whole_subjects(ar1):
    """|t| of every permutation is that of a fit to the residuals of the model without the term, rearranged."""
    y = DATA["y"].to_numpy()
    found = mm.permutation_test(ar1, y[None], "time:army", key=1, n=6, scheme="sign", progress=False)
    moves = Permutations(as_scheme(ar1.model, ("time:army",), "sign"), 6, words(as_key(1)))
    less = mm.lmm("y ~ time + arm", DATA, residual="ar1(visit | subject)").residuals().to_numpy()
    own = DATA["subject"].to_numpy()
    for k in range(1, 6):
        factor = moves[k].factor
        assert all(len(set(factor[own == s])) == 1 for s in set(own))
        again = mm.lmm("y ~ time * arm", DATA.assign(y=less * factor), residual="ar1(visit | subject)")
        assert found.null[k] == pytest.approx(abs(again.tvalues["time:army"]), rel=1e-3)
    for scheme in ("within", "groups"):
        with pytest.raises(NotImplementedError, match=f"scheme='{scheme}' cannot be had yet"):
            mm.permutation_test(ar1, y[None], "time", key=1, n=6, scheme=scheme, progress=False)


# ---------------------------------------------------------------- profiles of the errors' parameters
def ends_of(deviance, at: float, low: float, high: float) -> list[float]:
    """Where a profiled deviance is above its minimum by the quantile of χ²."""
    target = deviance(at) + stats.chi2.ppf(0.95, 1)
    return [optimize.brentq(lambda x: deviance(x) - target, *ends, xtol=1e-10) for ends in ((low, at), (at, high))]


def test_the_profile_of_a_correlation(ar1):
    """The deviance of ar1 alone is a function of ρ, everything else profiled out."""
    fit = ar1.model.by_ml().fit()
    X, y = fit.model.design.X, DATA["y"].to_numpy()
    same = DATA["subject"].to_numpy()[:, None] == DATA["subject"].to_numpy()
    lag = np.abs(np.subtract.outer(*[DATA["visit"].cat.codes.to_numpy()] * 2))

    def deviance(rho):
        V = rho**lag * same
        W = np.linalg.inv(V)
        e = y - X @ np.linalg.solve(X.T @ W @ X, X.T @ W @ y)
        return len(y) * np.log(e @ W @ e) + np.linalg.slogdet(V)[1]

    at = fit.residual.params["rho"]
    expected = ends_of(deviance, at, at - 0.5, 0.99)
    found = ar1.confint(method="profile", parm="cor_a.b|errors")
    np.testing.assert_allclose(found.iloc[0, :2], expected, rtol=1e-5)
    assert list(ar1.profile("errors_").curves) == ["cor_a.b|errors"]


def test_the_profile_of_log_phi():
    """Of unequal variances alone: a function of the slope of log φ."""
    fit = mm.lmm("y ~ time", DATA, dispersion="~ time", reml=False)

    def deviance(slope):
        with jax.enable_x64(True):
            return float(mm.deviance(np.array([slope]), fit.model.arrays))

    at = float(fit.coef_table(component="phi")["estimate"]["time"])
    expected = ends_of(deviance, at, at - 3, at + 3)
    np.testing.assert_allclose(fit.confint(method="profile", parm="phi~time").iloc[0, :2], expected, rtol=1e-5)


def test_the_profile_of_a_standard_deviation():
    """Of two visits and any covariance, against the least of the likelihood written out."""
    d = DATA[DATA["visit"].isin(["a", "d"])].reset_index(drop=True)
    d["visit"] = d["visit"].cat.remove_unused_categories()
    fit = mm.lmm("y ~ visit", d, residual="us(visit | subject)", reml=False)
    X, y, place = fit.model.design.X, d["y"].to_numpy(), d["visit"].cat.codes.to_numpy()
    same = d["subject"].to_numpy()[:, None] == d["subject"].to_numpy()

    def least(fixed, free):
        def value(x):
            sd, rho = np.exp(np.array([fixed, x[0]])), np.tanh(x[1])
            C = np.outer(sd, sd) * np.array([[1, rho], [rho, 1]])
            return -2 * dense(X, y, same * C[place[:, None], place], False).loglik

        return optimize.minimize(value, free, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).fun

    sd, R = fit.residual.sd, fit.residual.corr.iloc[0, 1]
    free = [np.log(sd.iloc[1]), np.arctanh(R)]
    found = fit.confint(method="profile", parm=["sd_a|errors", "sd_d|errors", "cor_a.d|errors"])
    for end in found.iloc[0, :2]:
        assert least(np.log(end), free) - fit.deviance == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-3)
    assert ((found["lower"] < [*sd, R]) & (found["upper"] > [*sd, R])).all()


def test_what_there_is_to_profile():
    """As many as the parameters tell apart."""
    counts = {"us": (4, 6), "toep": (4, 3), "homtoep": (1, 3), "cs": (4, 1), "homcs": (1, 1), "ante": (4, 3)}
    for name, expected in (counts | {"diag": (4, 0), "ar1": (1, 1)}).items():
        model = mm.Model.from_formula("y ~ time", DATA, residual=f"{name}(visit | subject)")
        layout = model.structure.residual
        times, pairs = _told(layout.covariance, model.design.residual.positions, 4)
        assert (len(times), len(pairs)) == expected, name


# ---------------------------------------------------------------- cases
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cases_are_fits_to_repeated_subjects(ar1):
    """A draw is the table in which each subject stands as often, each copy a subject of its own."""
    found = mm.bootstrap(ar1, 3, key=4, kind="case", progress=False)
    copies = np.asarray(Case(ar1, 3, 4).block(0, 3).copies)
    levels = list(ar1.model.design.residual.subject.levels)
    for k in range(3):
        parts = [
            DATA[DATA["subject"] == s].assign(subject=f"{s} {copy}")
            for s, count in zip(levels, copies[k], strict=True)
            for copy in range(int(count))
        ]
        one = mm.lmm("y ~ time * arm", pd.concat(parts, ignore_index=True), residual="ar1(visit | subject)")
        np.testing.assert_allclose(found.fixef[k], one.fixef, rtol=1e-4, atol=1e-6)
        assert found.loglik[k] == pytest.approx(one.loglik, abs=1e-6) and found.nobs[k] == len(one.model.design.y)
    jackknifed = found.confint("bca", parm="time")
    assert jackknifed.loc["time", "lower"] <= jackknifed.loc["time", "upper"]
    with pytest.raises(ValueError, match="out= is not for cases"):
        mm.bootstrap(ar1, 3, key=4, kind="case", out="x", progress=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cases_of_sites(mixed):
    """Levels of the factor of the random effects, with the subjects in them; a column that they lose is no error."""
    found = mm.bootstrap(mixed, 2, key=2, kind="case", progress=False)
    copies = np.asarray(Case(mixed, 2, 2).block(0, 2).copies)
    sites = list(mixed.model.design.factors[0].levels)
    for k in range(2):
        parts = [
            DATA[DATA["site"] == s].assign(subject=lambda d, c=c: d["subject"] + f" {c}", site=f"{s} {c}")
            for s, count in zip(sites, copies[k], strict=True)
            for c in range(int(count))
        ]
        one = mm.lmm(
            "y ~ time + (1 | site)", pd.concat(parts, ignore_index=True), residual="ar1(visit | subject)",
            dispersion="~ time", weights="w", reml=False,
        )  # fmt: skip
        assert found.loglik[k] == pytest.approx(one.loglik, abs=1e-5)
