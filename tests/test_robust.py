"""Cluster-robust covariance: a closed form, dense algebra, clubSandwich's numbers, and what must hold."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from glmm_fits import fitted as glmm_fitted
from helpers import central, close, covariance_of, says
from scipy import stats

import jaxmm as mm
from jaxmm.inference import wald
from jaxmm.inference.robust import linear, scores
from jaxmm.inference.robust.clusters import clusters_of

REFERENCE = json.loads((Path(__file__).parent / "reference" / "robust.json").read_text())
KINDS = ("CR0", "CR1", "CR2", "CR3")


def every(name: str, k: int) -> pd.DataFrame:
    data = mm.datasets.load(name)
    return data[np.arange(1, len(data) + 1) % k != 0]


@cache
def tables() -> dict[str, pd.DataFrame]:
    """Those of reference/robust.R."""
    sleep = every("sleepstudy", 7)
    sleep["late"] = pd.Categorical(np.where(sleep["Days"] > 4, "late", "early"))
    sleep["pair"] = sleep["Subject"].astype(int) // 4
    return {"sleep": sleep, "oats": every("oats", 5), "machines": every("machines", 7)}


@cache
def fitted(formula: str, data: str) -> mm.Fit:
    return mm.lmm(formula, tables()[data])


def cluster_in(case: dict) -> object:
    return case["cluster"] if case["cluster"] != "pair" else tables()[case["data"]]["pair"]


# ---------------------------------------------------------------- linear models
def test_the_mean_of_balanced_groups():
    """CR0 is Σ (ȳ_i − ȳ)² / m², CR1 and CR2 the usual variance of a mean, CR3 the jackknife's without its factor."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(np.arange(9), 4), "y": rng.normal(size=36) + np.repeat(rng.normal(size=9), 4)})
    fit = mm.lmm("y ~ 1 + (1 | g)", data)
    means = data.groupby("g")["y"].mean().to_numpy()
    spread, m = np.sum((means - means.mean()) ** 2), 9
    expected = {"CR0": spread / m**2, "CR1": spread / m / (m - 1), "CR2": spread / m / (m - 1)}
    for kind, value in (expected | {"CR3": spread / (m - 1) ** 2}).items():
        np.testing.assert_allclose(fit.vcov(kind), [[value]], rtol=1e-10)
        table = fit.coef_table(vcov=kind)
        np.testing.assert_allclose(table["df"], m - 1, rtol=1e-10)
    usual = stats.ttest_1samp(means, 0)
    np.testing.assert_allclose(fit.coef_table(vcov="CR2")["p"], usual.pvalue, rtol=1e-8)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: c["formula"])
@pytest.mark.parametrize("kind", KINDS)
def test_as_in_r(case, kind):
    fit, r, cluster = fitted(case["formula"], case["data"]), case[kind], cluster_in(case)
    close(fit.vcov(kind, cluster), r["vcov"], 1e-4)
    table = fit.coef_table(vcov=kind, cluster=cluster)
    np.testing.assert_allclose(table["df"], r["df"], rtol=1e-4)
    np.testing.assert_allclose(table["p"], r["p"], rtol=2e-3)
    L = np.eye(len(table))[1:]
    reference = fit.reference(vcov=kind, cluster=cluster)
    scale, df = reference.denominator(L)
    assert df == pytest.approx(r["den_df"], rel=1e-4)
    tested = wald.together(L, reference.beta, reference.vcov)
    assert scale * tested.statistic / len(L) == pytest.approx(r["F"], rel=1e-3)


@cache
def weighted() -> mm.Fit:
    """Precisions, an offset, clusters of unequal size in which two factors are nested."""
    rng = np.random.default_rng(3)
    n = 70
    data = pd.DataFrame({"c": np.sort(rng.integers(0, 8, n)), "x": rng.normal(size=n), "w": rng.uniform(0.4, 2.5, n)})
    data["g"] = data["c"] * 3 + rng.integers(0, 3, n)
    data["o"] = rng.normal(size=n)
    data["y"] = data.o + 3 + data.x + rng.normal(size=8)[data.c] + rng.normal(size=24)[data.g] + rng.normal(size=n)
    return mm.lmm("y ~ x + (1 | c) + (x | g)", data, weights="w", offset="o")


@pytest.mark.parametrize("kind", KINDS)
def test_dense_algebra(kind):
    """Matrices (n, n) written out; and CR2 is unbiased: its expectation under the model is σ²M."""
    fit = weighted()
    d, V = fit.model.design, covariance_of(fit.model, fit.theta)
    X, n = d.X, len(d.y)
    cluster = d.factors[[f.name for f in d.factors].index("c")].codes
    W = np.linalg.inv(V)
    M = np.linalg.inv(X.T @ W @ X)
    left = np.eye(n) - X @ M @ X.T @ W
    e = left @ (d.y - d.offset)
    rows = [np.flatnonzero(cluster == k) for k in range(cluster.max() + 1)]
    m, pulls = len(rows), []
    for i in rows:
        Vi, Ri = V[np.ix_(i, i)], (left @ V @ left.T)[np.ix_(i, i)]
        A = np.eye(len(i)) * (np.sqrt(m / (m - 1)) if kind == "CR1" else 1.0)
        if kind == "CR3":
            A = np.linalg.inv(left[np.ix_(i, i)])
        if kind == "CR2":
            D = np.linalg.cholesky(Vi).T
            w, Q = np.linalg.eigh(D @ Ri @ D.T)
            A = D.T @ (Q / np.sqrt(w)) @ Q.T @ D
            close(A @ Ri @ A.T, Vi, 1e-9)
        pull = np.zeros((2, n))
        pull[:, i] = M @ X[i].T @ np.linalg.inv(Vi) @ A
        pulls.append(pull)
    expected = sum(np.outer(p @ e, p @ e) for p in pulls)
    close(fit.vcov(kind, "c"), expected, 1e-8)
    if kind == "CR2":
        close(sum(p @ left @ V @ left.T @ p.T for p in pulls), M, 1e-8)
    reference = fit.reference(vcov=kind, cluster="c")
    for row in ([[1.0, 0.0]], [[0.3, -1.0]]):
        G = np.concatenate([np.asarray(row) @ p @ left for p in pulls])
        omega = G @ V @ G.T
        df = np.trace(omega) ** 2 / np.trace(omega @ omega)
        np.testing.assert_allclose(reference.df(np.asarray(row)), df, rtol=1e-8)
    # both rows: the variances of the elements of a standardised V^CR, by covariances of all pairs
    G = np.stack([p @ left for p in pulls])
    T = np.einsum("isa,ab,jtb->ijst", G, V, G)
    half = np.linalg.inv(np.linalg.cholesky(np.einsum("iist->st", T)))
    T = half @ T @ half.T
    eta = 6 / (np.einsum("ijst,ijts->", T, T) + np.sum(np.einsum("ijss->ij", T) ** 2))
    scale, df = reference.denominator(np.eye(2))
    assert (df, scale) == (pytest.approx(eta - 1, rel=1e-8), pytest.approx((eta - 1) / eta, rel=1e-8))


def test_large_clusters_in_the_space_of_their_columns(monkeypatch):
    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", tables()["sleep"])
    before = {kind: (fit.vcov(kind), fit.coef_table(vcov=kind)["df"]) for kind in KINDS}
    monkeypatch.setattr(linear, "LARGE", 2)
    for kind, (V, df) in before.items():
        found = linear.robust(fit.model, fit.estimates, kind, clusters_of(fit.model.design))
        close(found.vcov, V, 1e-10)
        np.testing.assert_allclose(found.df(np.eye(2)), df, rtol=1e-9)


def test_a_cluster_that_fits_itself():
    """A column that is zero but in one cluster leaves its residuals singular: numbers, and no exception."""
    data = tables()["sleep"].assign(own=lambda d: (d["Subject"].astype(str) == "308").astype(float))
    fit = mm.lmm("Reaction ~ Days + own + (1 | Subject)", data)
    for kind in KINDS:
        table = fit.coef_table(vcov=kind)
        assert np.isfinite(table.loc[["(Intercept)", "Days"]]).all(axis=None)
        assert table.loc["own", "se"] < 30


def test_with_other_degrees_of_freedom():
    fit = fitted(REFERENCE[0]["formula"], "sleep")
    V = fit.vcov("CR2")
    pd.testing.assert_frame_equal(fit.coef_table("residual", vcov="CR2"), fit.coef_table("residual", vcov=V))
    assert np.isinf(fit.coef_table("asymptotic", vcov="CR2")["df"]).all()
    pd.testing.assert_frame_equal(fit.coef_table(vcov="model"), fit.coef_table())
    np.testing.assert_allclose(fit.coef_table(vcov=V)["df"], fit.coef_table()["df"])
    whole = fit.reference(vcov="CR2", cluster=fit.model.design.factors[0].codes)
    for table in (fit.coef_table(vcov=whole), fit.coef_table(vcov="CR2")):
        np.testing.assert_allclose(table["df"], REFERENCE[0]["CR2"]["df"], rtol=1e-4)
    tested = fit.test("Days = 10", vcov="CR2", cluster="Subject")
    assert tested.frame["df"].iloc[0] == pytest.approx(REFERENCE[0]["CR2"]["df"][1], rel=1e-4)
    assert "CR2, 18 of 'Subject'" in repr(tested)
    assert fit.anova(vcov="CR2")["den_df"].iloc[0] == pytest.approx(REFERENCE[0]["CR2"]["den_df"], rel=1e-4)
    assert fit.reference(vcov="CR2") is fit.reference("satterthwaite", vcov="CR2", cluster=None)


# ---------------------------------------------------------------- generalised models
def herd_deviance(psi: np.ndarray, y: np.ndarray, size: np.ndarray, X: np.ndarray) -> float:
    """-2 log-likelihood of one herd by Laplace, without constants: one standardised effect, binomial with logit."""
    u = 0.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-(X @ psi[:-1] + psi[-1] * u)))
        slope, curve = psi[-1] * np.sum(y - size * p) - u, psi[-1] ** 2 * np.sum(size * p * (1 - p)) + 1
        u += slope / curve
    eta = X @ psi[:-1] + psi[-1] * u
    p = 1 / (1 + np.exp(-eta))
    M = psi[-1] ** 2 * np.sum(size * p * (1 - p)) + 1
    return -2 * np.sum(y * eta - size * np.logaddexp(0, eta)) + u**2 + np.log(M)


def test_scores_of_a_generalised_model():
    """Against finite differences of each herd's own likelihood."""
    fit = glmm_fitted("cbpp")
    d = fit.model.design
    psi, codes = np.append(fit.fixef, fit.theta), d.factors[0].codes
    m, k = codes.max() + 1, len(psi)

    def each(x):
        return np.array([herd_deviance(x, d.y[codes == i], d.trials[codes == i], d.X[codes == i]) for i in range(m)])

    g = central(each, psi, 1e-3).T
    hessians = np.moveaxis(central(lambda x: central(each, x, 1e-3), psi, 1e-3), 2, 0)
    H = hessians.sum(axis=0)
    steps = np.linalg.solve(H, g.T)
    jack = np.stack([np.linalg.solve(H - hessians[i], g[i]) for i in range(m)], axis=1)
    expected = {"CR0": steps @ steps.T, "CR1": m / (m - 1) * steps @ steps.T, "CR3": jack @ jack.T}
    for kind, V in expected.items():
        close(fit.vcov(kind), V[: k - 1, : k - 1], 1e-5)
    table = fit.coef_table(vcov="CR1")
    assert np.isinf(table["df"]).all() and "few" in fit.reference(vcov="CR1").notes[1]
    np.testing.assert_allclose(table["se"], np.sqrt(np.diag(expected["CR1"]))[: k - 1], rtol=1e-5)


def test_scores_add_up(monkeypatch):
    """To the gradient and the Hessian of the whole; one cluster after another gives the same."""
    fit = glmm_fitted("slopes")
    clusters = clusters_of(fit.model.design)
    g, H = scores.derivatives(fit.model, fit.estimates, clusters, True)
    np.testing.assert_allclose(g.sum(axis=0), fit.estimates.gradient, atol=1e-7)
    close(H.sum(axis=0), fit.estimates.hessian, 1e-8)
    monkeypatch.setattr(scores, "are_few", lambda rows, count: False)
    together = scores.derivatives(fit.model, fit.estimates, clusters, True)
    close(together[0], g, 1e-8)
    close(together[1], H, 1e-8)


def test_crossed_within_clusters():
    """Two copies of crossed factors, far apart: a cluster each."""
    fit = glmm_fitted("crossed")
    with says(ValueError, "cluster: the level", "of 'g'", "several of 'h'", "not independent", "coarser"):
        fit.vcov("CR1")
    data = pd.DataFrame({"y": fit.model.design.y, "g": fit.model.design.factors[0].codes})
    data["h"] = np.tile(np.arange(6), 28)
    other = data.assign(g=data["g"] + 14, h=data["h"] + 6, y=np.random.default_rng(1).permutation(data["y"]))
    both = pd.concat([data.assign(c=0), other.assign(c=1)])
    two = mm.glmm("y ~ 1 + (1 | g) + (1 | h)", both, "poisson")
    clusters = clusters_of(two.model.design, both["c"].to_numpy())
    g, _ = scores.derivatives(two.model, two.estimates, clusters, False)
    assert g.shape == (2, 3) and np.abs(g).max() > 0.1
    np.testing.assert_allclose(g.sum(axis=0), two.estimates.gradient, atol=1e-6)


# ---------------------------------------------------------------- what is given
def test_clusters_and_kinds_that_there_are_not(sleep_reml, sleepstudy):
    with says(ValueError, "must be one of 'model', 'CR0', 'CR1', 'CR2', 'CR3', not 'HC1'"):
        sleep_reml.vcov("HC1")
    with says(ValueError, "not 'mu'", "component='mu'"):
        sleep_reml.vcov("mu")
    with says(ValueError, "grouping factor of the model ('Subject')", "not 'Days'", "data['Days']"):
        sleep_reml.coef_table(vcov="CR2", cluster="Days")
    with says(ValueError, "level", "'Subject'", "several of the clusters given"):
        sleep_reml.vcov("CR2", sleepstudy["Days"])
    with says(ValueError, "one cluster only"):
        sleep_reml.vcov("CR2", np.zeros(180))
    with says(mm.DataError, "each of the 180 rows used, not (3,)"):
        sleep_reml.vcov("CR2", np.zeros(3))
    with says(mm.DataError, "2 missing labels"):
        sleep_reml.vcov("CR2", sleepstudy["Subject"].astype(object).where(np.arange(180) > 1))
    with says(ValueError, "cluster=", "vcov='CR2'"):
        sleep_reml.coef_table(cluster="Subject")
    with says(ValueError, "one of 'model', 'CR0', 'CR1', 'CR3', not 'CR2'", "CR3 is near it"):
        glmm_fitted("cbpp").vcov("CR2")
    with says(ValueError, "ddf must be one of"):
        sleep_reml.coef_table("welch", vcov="CR2")


def test_a_column_is_taken_by_its_labels(sleep_reml, sleepstudy):
    by_name = sleep_reml.vcov("CR2", "Subject")
    pd.testing.assert_frame_equal(sleep_reml.vcov("CR2"), by_name)
    shuffled = sleepstudy["Subject"].sample(frac=1, random_state=1)
    for column in (shuffled, sleepstudy["Subject"].to_numpy(), list(sleepstudy["Subject"])):
        close(sleep_reml.vcov("CR2", column), by_name, 1e-12)


# ---------------------------------------------------------------- what it promises
@pytest.mark.slow
def test_the_level_of_tests_with_ten_clusters(claim):
    """CR2 with its degrees of freedom keeps 5 % where the variance of slopes is left out of the model; the model's own
    standard errors do not.  A column between and one within clusters; 1,000 data sets, four Monte-Carlo errors."""
    rng, m, n = np.random.default_rng(5), 10, 12
    g, x = np.repeat(np.arange(m), n), np.tile(np.linspace(-1, 1, n), m)
    between = (g % 2 == 0).astype(float)
    data = pd.DataFrame({"g": g, "x": x, "z": between, "y": rng.normal(size=m * n)})
    model = mm.Model.from_formula("y ~ z + x + (1 | g)", data)
    wrong = {"CR2": np.zeros(2), "model": np.zeros(2)}
    for _ in range(1000):
        u = rng.normal(size=(m, 2))
        fit = model.with_response(u[g, 0] + u[g, 1] * x + rng.normal(size=m * n)).fit()
        for kind in wrong:
            wrong[kind] += fit.coef_table(vcov=kind)["p"].to_numpy()[1:] < 0.05
    for kind, counts in wrong.items():
        for column, count in zip(("between", "within"), counts, strict=True):
            claim(
                f"type I error, 10 clusters, slopes left out, vcov {kind}, a column {column}",
                count / 1000,
                0.05,
                n=1000,
            )
    error = np.sqrt(0.05 * 0.95 * 1000)
    assert np.all(np.abs(wrong["CR2"] - 50) < 4 * error), wrong
    assert wrong["model"][1] > 150, wrong
