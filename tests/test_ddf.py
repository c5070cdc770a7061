"""Degrees of freedom: dense algebra with V (n, n) written out, numbers of lmerTest and pbkrtest, and what must hold."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.inference import ddf

REFERENCE = json.loads((Path(__file__).parent / "reference" / "tests.json").read_text())
METHODS = {"satterthwaite": "Satterthwaite", "kenward-roger": "Kenward-Roger"}


def every(name: str, k: int) -> pd.DataFrame:
    data = mm.datasets.load(name)
    return data[np.arange(1, len(data) + 1) % k != 0].reset_index(drop=True)


@cache
def tables() -> dict[str, pd.DataFrame]:
    """Those of reference/tests.R."""
    oats, sleep = every("oats", 5), every("sleepstudy", 7)
    oats["N"] = oats["nitro"].astype(str).astype("category")
    oats["x"] = np.arange(1, len(oats) + 1) * 37 % 17 / 10
    sleep["late"] = pd.Categorical(np.where(sleep["Days"] > 4, "late", "early"))
    penicillin = every("penicillin", 5)
    plate = pd.Categorical(penicillin["plate"].astype(str)).codes
    penicillin["half"] = pd.Categorical(np.where(plate % 2 == 1, "even", "odd"))
    return {"oats": oats, "sleep": sleep, "machines": every("machines", 7), "penicillin": penicillin}


@cache
def fitted(formula: str, data: str) -> mm.Fit:
    return mm.lmm(formula, tables()[data])


@pytest.mark.parametrize("ddf", METHODS)
@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: c["formula"])
def test_coefficients_as_in_r(case, ddf):
    table = fitted(case["formula"], case["data"]).coef_table(ddf)
    expected = case[METHODS[ddf]]["coef"]
    np.testing.assert_allclose(table["se"], expected["se"], rtol=2e-5)
    np.testing.assert_allclose(table["df"], expected["df"], rtol=1e-4)
    np.testing.assert_allclose(table["p"], expected["p"], rtol=2e-3)


# ---------------------------------------------------------------- dense algebra
def dense(fit: mm.Fit, v: np.ndarray, directions: list[np.ndarray]) -> np.ndarray:
    """V (n, n) with the variances v."""
    return np.tensordot(v, np.stack(directions), 1)


def variances(fit: mm.Fit) -> tuple[np.ndarray, list[np.ndarray]]:
    """v and what each multiplies in V: of one-number terms by factor, then the residual."""
    directions, v = [], []
    for term in fit.model.design.terms:
        factor = fit.model.design.factors[term.factor]
        Z = np.eye(len(factor.levels))[factor.codes]
        q = term.Z.shape[1]
        for a in range(q):
            for b in range(a, q):
                e = np.zeros((q, q))
                e[a, b] = e[b, a] = 1
                directions.append((Z @ Z.T) * (term.Z @ e @ term.Z.T))
                v.append(fit.varcorr().cov[factor.name].to_numpy()[a, b])
    w = fit.model.design.weights
    return np.array([*v, fit.sigma**2]), [*directions, np.diag(1 / (np.ones(fit.nobs) if w is None else w))]


def kenward_roger_dense(fit: mm.Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Φ_A, and the degrees of freedom and scale of F for each coefficient by the products of n × n matrices."""
    v, directions = variances(fit)
    X = fit.model.design.X
    Vi = np.linalg.inv(dense(fit, v, directions))
    Phi = np.linalg.inv(X.T @ Vi @ X)
    ViD = [Vi @ D for D in directions]
    P = [-X.T @ A @ Vi @ X for A in ViD]
    k = range(len(v))
    Q = [[X.T @ ViD[i] @ ViD[j] @ Vi @ X for j in k] for i in k]
    info = np.array([
        [
            np.trace(ViD[i] @ ViD[j]) - 2 * np.trace(Phi @ Q[i][j]) + np.trace(Phi @ P[i] @ Phi @ P[j]) for j in k
        ] for i in k
    ])  # fmt: skip
    W = 2 * np.linalg.inv(info)
    adjusted = Phi + 2 * Phi @ sum(W[i, j] * (Q[i][j] - P[i] @ Phi @ P[j]) for i in k for j in k) @ Phi
    df = []
    for row in np.eye(len(Phi)):
        T = np.outer(row, row) / (row @ Phi @ row)
        A2 = sum(W[i, j] * np.trace(T @ Phi @ P[i] @ Phi @ T @ Phi @ P[j] @ Phi) for i in k for j in k)
        df.append(2 / A2)
    return adjusted, np.array(df), Phi


DENSE = [c for c in REFERENCE if "half" in c["formula"] or "(Days |" in c["formula"]]


@pytest.mark.parametrize("case", DENSE, ids=lambda c: c["formula"])
def test_kenward_roger_by_dense_algebra(case):
    """One row: the F of the paper has 2 / A2 degrees of freedom and scale 1."""
    fit = fitted(case["formula"], case["data"])
    adjusted, df, Phi = kenward_roger_dense(fit)
    np.testing.assert_allclose(fit.vcov(), Phi, rtol=1e-7)
    for name in ("kenward-roger", "kenward-roger-linear"):
        reference = fit.reference(name)
        np.testing.assert_allclose(reference.vcov, adjusted, rtol=1e-6)
        np.testing.assert_allclose(reference.df(np.eye(len(df))), df, rtol=1e-6)


def test_kenward_roger_by_dense_algebra_with_weights():
    """Precisions of their own for each row, where pbkrtest takes them all for one."""
    case = DENSE[-1]
    data = tables()[case["data"]]
    fit = mm.lmm(case["formula"], data, weights=1 + np.arange(len(data)) % 4)
    adjusted, df, Phi = kenward_roger_dense(fit)
    np.testing.assert_allclose(fit.vcov(), Phi, rtol=1e-7)
    np.testing.assert_allclose(fit.reference("kenward-roger").vcov, adjusted, rtol=1e-6)
    np.testing.assert_allclose(fit.coef_table("kenward-roger")["df"], df, rtol=1e-6)


def test_satterthwaite_by_finite_differences():
    """2 f² / Var f̂, the variances' covariance from the restricted likelihood of dense V, differentiated numerically."""
    case = DENSE[-1]
    fit = fitted(case["formula"], case["data"])
    v, directions = variances(fit)
    X, y = fit.model.design.X, fit.model.design.y

    def both(logv):
        V = dense(fit, np.exp(logv), directions)
        Vi = np.linalg.inv(V)
        M = X.T @ Vi @ X
        r = y - X @ np.linalg.solve(M, X.T @ Vi @ y)
        return np.linalg.slogdet(V)[1] + np.linalg.slogdet(M)[1] + r @ Vi @ r, np.linalg.inv(M)

    h, u = 1e-3, np.eye(len(v))
    at = np.log(v)
    f = lambda *moves: both(at + h * sum(moves))  # noqa: E731
    H = np.array([[
        (f(a, b)[0] - f(a, -b)[0] - f(-a, b)[0] + f(-a, -b)[0]) / (4 * h * h) for b in u] for a in u])  # fmt: skip
    d = np.stack([np.diag(f(a)[1] - f(-a)[1]) / (2 * h) for a in u])
    variance = np.einsum("ik,ij,jk->k", d, 2 * np.linalg.inv(H), d)
    np.testing.assert_allclose(fit.coef_table()["df"], 2 * np.diag(fit.vcov()) ** 2 / variance, rtol=1e-4)


# ---------------------------------------------------------------- what must hold
def test_two_degrees_of_freedom():
    """Three blocks of two whole plots: 2 between them, where F has no mean, and 20 within, for one row and several."""
    rng, plot = np.random.default_rng(1), np.repeat(np.arange(6), 5)
    data = pd.DataFrame({"block": plot // 2, "harvest": plot % 2, "sow": np.tile(np.arange(5), 6)}).astype("category")
    data["y"] = rng.normal(size=6)[plot] + rng.normal(size=30)
    fit = mm.lmm("y ~ block + sow + harvest + (1 | block:harvest)", data)
    for name in METHODS:
        np.testing.assert_allclose(fit.coef_table(name)["df"].iloc[1:], [2, 2, *4 * [20], 2], rtol=1e-6)
        np.testing.assert_allclose(fit.anova(ddf=name)["den_df"], [2, 20, 2], rtol=1e-6)


def paired(structure: str) -> tuple[mm.Fit, pd.DataFrame]:
    """Two visits of each subject, with a difference of unequal variances."""
    rng = np.random.default_rng(3)
    wide = rng.multivariate_normal([3.0, 3.8], [[1.0, 0.7], [0.7, 2.5]], size=14)
    data = pd.DataFrame({"y": wide.ravel(), "visit": ["a", "b"] * 14, "id": np.repeat(np.arange(14), 2)})
    return mm.lmm(f"y ~ visit + {structure}", data), wide


@pytest.mark.parametrize("structure", ["(1 | id)", "cs(0 + visit | id)"])
def test_the_paired_t_test(structure):
    """Of two visits the difference has 13 degrees of freedom and the standard error of the paired t test."""
    fit, wide = paired(structure)
    difference = wide[:, 1] - wide[:, 0]
    for name in ("satterthwaite", "kenward-roger-linear"):
        row = fit.coef_table(name).loc["visitb"]
        np.testing.assert_allclose(row["df"], 13, rtol=1e-5)
        np.testing.assert_allclose(row["se"], np.std(difference, ddof=1) / np.sqrt(14), rtol=1e-5)


def test_balanced_data_have_the_analysis_of_variance():
    """Whole plots and subplots: 10 degrees of freedom between, 51 within, whatever the method."""
    data = mm.datasets.load("oats")
    fit = mm.lmm("yield ~ Variety + nitro + (1 | Block / Variety)", data)
    for name in ("satterthwaite", "kenward-roger", "between-within"):
        df = fit.coef_table(name)["df"]
        np.testing.assert_allclose(df.iloc[1:3], 10, rtol=1e-5)
        np.testing.assert_allclose(df["nitro"], 53, rtol=1e-5)
        for kind in (1, 2, 3):  # rounding in the rows of a hypothesis makes no within effect one between
            np.testing.assert_allclose(fit.anova(type=kind, ddf=name)["den_df"], [10, 53], rtol=1e-5)
    assert np.all(fit.coef_table("residual")["df"] == 72 - 4)
    assert np.all(np.isinf(fit.coef_table("asymptotic")["df"]))


def test_a_variance_of_zero():
    """On the boundary Kenward & Roger's derivatives are extrapolated: those of a D that is close to it."""
    fit = mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff2"))
    assert fit.is_singular
    adjusted, df, _ = kenward_roger_dense(fit)
    found = fit.reference("kenward-roger")
    np.testing.assert_allclose(found.vcov, adjusted, rtol=1e-5)
    np.testing.assert_allclose(found.df(np.eye(1)), df, rtol=1e-5)
    assert np.isfinite(fit.coef_table()["df"]).all()


def test_units_do_not_matter(sleep_reml):
    data = mm.datasets.load("sleepstudy")
    data["Reaction"], data["Days"] = data["Reaction"] * 1e-9, data["Days"] * 1e6
    small = mm.lmm("Reaction ~ Days + (Days | Subject)", data)
    for name in METHODS:
        np.testing.assert_allclose(small.coef_table(name)["df"], sleep_reml.coef_table(name)["df"], rtol=1e-4)
    np.testing.assert_allclose(sleep_reml.pvalues["Days"], 3.2638e-06, rtol=1e-4)


def test_weights_are_as_many_equal_rows_in_the_means():
    """Precisions: a weight of 4 is a response with half the standard deviation, and degrees of freedom count rows."""
    case = DENSE[0]
    data = tables()[case["data"]]
    fit = fitted(case["formula"], case["data"])
    same = mm.lmm(case["formula"], data, weights=np.full(len(data), 4.0))
    for name in METHODS:
        np.testing.assert_allclose(same.coef_table(name), fit.coef_table(name), rtol=1e-4)


def test_what_cannot_be_had(sleep_ml, sleep_reml):
    with pytest.raises(ValueError, match=r"ddf must be one of 'satterthwaite', 'kenward-roger', .*, not 'kr'"):
        sleep_reml.coef_table("kr")
    with pytest.raises(ValueError, match="is for fits by REML: fit with reml=True"):
        sleep_ml.coef_table("kenward-roger")
    crossed = fitted(REFERENCE[-1]["formula"], "penicillin")
    with pytest.raises(ValueError, match="'plate' is not nested in 'sample'"):
        crossed.coef_table("between-within")
    assert crossed.reference() is crossed.reference() and crossed.reference().name == "satterthwaite"
    assert set(ddf.METHODS) == set(crossed.model.likelihood.ddf)


def test_a_covariance_of_ones_own(sleep_reml):
    """It takes the place of the fit's; degrees of freedom stay."""
    V = 4 * sleep_reml.vcov()
    table, usual = sleep_reml.coef_table(vcov=V), sleep_reml.coef_table()
    np.testing.assert_allclose(table["se"], 2 * usual["se"])
    np.testing.assert_array_equal(table["df"], usual["df"])
    with pytest.raises(ValueError, match=r"vcov must be a matrix \(2, 2\), not of shape \(3, 3\)"):
        sleep_reml.coef_table(vcov=np.eye(3))
    with pytest.raises(ValueError, match="must be a symmetric matrix"):
        sleep_reml.coef_table(vcov=[[1.0, 0.5], [0.0, 1.0]])


def test_a_variance_that_the_data_do_not_tell():
    """Two levels that a column of X tells apart: nothing is left of the factor's variance; no exact zero of df."""
    rng = np.random.default_rng(0)
    g = np.arange(20) % 2
    data = pd.DataFrame({"y": rng.normal(size=20), "z": g.astype(float), "g": g})
    fit = mm.lmm("y ~ z + (1 | g)", data)
    table = fit.coef_table()
    assert table[["df", "p"]].isna().all().all() and table["se"].notna().all()
    assert fit.confint().isna().all().all()
    assert any("do not tell the variances" in note for note in fit.reference().notes)
    assert np.isnan(fit.anova()["p"]["z"]) and "F = " in str(fit.test("z = 0")) and "nan" not in str(fit.test("z = 0"))


def test_errors_that_are_none(sleep_reml):
    """A covariance with a negative variance tests nothing: it is refused, and never p = 0."""
    with pytest.raises(ValueError, match="vcov is no covariance matrix"):
        sleep_reml.coef_table(vcov=np.diag([-1.0, 4.0]))
