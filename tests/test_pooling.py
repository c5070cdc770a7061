"""Pooling: Rubin's rules on mice's and mitml's numbers, on batches and lists of fits."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import says
from scipy.stats import t

import jaxmm as mm
from jaxmm.pooling import rules

FOLDER = Path(__file__).parent / "reference"
R = json.loads((FOLDER / "pooling.json").read_text())
Q = np.array(R["Q"])
U = np.array(list(R["U"].values()) if isinstance(R["U"], dict) else R["U"])
FULL, NULL = "y ~ x * z + (x | g)", "y ~ x + (x | g)"


@pytest.fixture(scope="module")
def imputed():
    return [table for _, table in pd.read_csv(FOLDER / "pooling.csv").groupby("imp")]


@pytest.fixture(scope="module")
def fits(imputed):
    return [mm.lmm(FULL, table) for table in imputed]


@pytest.fixture(scope="module")
def nulls(imputed):
    return [mm.lmm(NULL, table) for table in imputed]


# ---------------------------------------------------------------- the rules, on stored estimates
@pytest.mark.parametrize("name, dfcom", [("pool", 86.0), ("pool_inf", math.inf)])
def test_the_rules_are_those_of_mice(name, dfcom):
    found = rules.scalars(Q, np.diagonal(U, axis1=1, axis2=2), dfcom)
    table = pd.DataFrame(R[name])
    for column, own in zip(table, found, strict=True):
        np.testing.assert_allclose(own, table[column], rtol=1e-8, err_msg=column)


def test_the_covariance_and_the_table_are_those_of_mitml():
    found = rules.scalars(Q, np.diagonal(U, axis1=1, axis2=2), math.inf)
    np.testing.assert_allclose(rules.covariances(Q, U)[2], R["vcov"], rtol=1e-8)
    theirs = np.array(R["mitml"])
    for k, own in ((1, found.se), (3, found.df), (5, found.riv), (6, found.fmi)):
        np.testing.assert_allclose(own, theirs[:, k], rtol=1e-8)


def test_the_joint_tests_are_those_of_mitml_and_mice():
    tested = np.array([2, 3])
    own, V = Q[:, tested], U[:, tested][:, :, tested]
    wald = np.einsum("mi,mij,mj->m", own, np.linalg.inv(V), own)
    for found, theirs in (
        (rules.d1(own, V, np.zeros(2), math.inf), R["D1"]),
        (rules.d1(own, V, np.zeros(2), 86.0), R["D1_df"]),
        (rules.d1(own, V, np.zeros(2), 86.0), R["mice_D1"]),
        (rules.d2(wald, 2), R["D2_wald"]),
        (rules.d2(wald, 2), R["mice_D2"]),
        (rules.d2(np.array(R["chisq"]), 2), R["D2_lr"]),
    ):
        np.testing.assert_allclose(found, theirs, rtol=1e-8)


def test_nothing_missing_is_the_complete_data():
    """Equal estimates: no variance between, and the degrees of freedom of one data set."""
    same = np.tile(Q[:1], (4, 1))
    found = rules.scalars(same, np.diagonal(np.tile(U[:1], (4, 1, 1)), axis1=1, axis2=2), 86.0)
    np.testing.assert_allclose(found.total, np.diag(U[0]))
    np.testing.assert_allclose(found.df, 87 / 89 * 86)
    joint = rules.d1(same, np.tile(U[:1], (4, 1, 1)), np.zeros(4), math.inf)
    assert joint.riv == 0 and joint.den_df == math.inf
    assert joint.F == pytest.approx(Q[0] @ np.linalg.solve(U[0], Q[0]) / 4)


def test_reiters_degrees_of_freedom_go_to_those_of_large_data():
    assert rules.reiter(12, 0.4, 1e9) == pytest.approx(rules.denominator(12, 3, 0.4), rel=1e-6)
    assert rules.reiter(12, 0.4, 30) < rules.reiter(12, 0.4, 300) < rules.denominator(12, 3, 0.4)
    assert np.isnan(rules.reiter(12, 3.0, 4.0))


# ---------------------------------------------------------------- fits
def test_a_list_of_fits(fits):
    found = mm.pool(fits)
    assert found.m == 6 and found.dfcom == 86
    table = pd.DataFrame(R["pool"])
    np.testing.assert_allclose(found.frame["estimate"], table["estimate"], rtol=1e-5)
    for own, theirs in (("within", "ubar"), ("between", "b"), ("total", "t"), ("df", "df"), ("fmi", "fmi")):
        np.testing.assert_allclose(found.frame[own], table[theirs], rtol=1e-4)
    np.testing.assert_allclose(found.vcov(), R["vcov"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.bse**2, np.diag(found.vcov()))
    half = (found.confint()["upper"] - found.confint()["lower"]) / 2
    np.testing.assert_allclose(half, found.bse * t.ppf(0.975, found.frame["df"]))
    assert found.coef_table(backend="polars").columns[0] == "term"
    D, sigma = found.varcorr().cov["g"].to_numpy(), found.varcorr().sigma or 0.0
    np.testing.assert_allclose(
        [D[0, 0], D[1, 1], D[0, 1], sigma**2], [R["mitml_vc"][k] for k in (0, 1, 2, 3)], rtol=1e-3, atol=1e-4
    )
    shown = repr(found)
    assert "Pooled over 6 imputations" in shown and "86 degrees of freedom" in shown and "Residual" in shown


def test_tests_of_fits(fits, nulls):
    found = mm.pool(fits)
    joint = found.test(["z", "x:z"])
    np.testing.assert_allclose([joint.F, joint.num_df, joint.den_df, joint.p], R["D1_df"][:4], rtol=1e-4)
    single = found.test("x:z = 0").frame.iloc[0]
    np.testing.assert_allclose(
        single[["estimate", "se", "df", "p"]].astype(float),
        found.frame.loc["x:z", ["estimate", "se", "df", "p"]].astype(float),
    )
    difference = found.test("x - z").frame.iloc[0]
    V = found.vcov()
    assert difference["se"] ** 2 == pytest.approx(V.loc["x", "x"] + V.loc["z", "z"] - 2 * V.loc["x", "z"])
    for method, use, name in (
        ("D1", None, "D1_df"),
        ("D2", None, "D2_wald"),
        ("D2", "likelihood", "D2_lr"),
        ("D3", None, "D3"),
    ):
        result = found.compare(nulls, method, use=use)
        np.testing.assert_allclose([result.F, result.num_df, result.den_df, result.p, result.riv], R[name], rtol=2e-3)
        assert ("again by maximum likelihood" in repr(result)) == (name in ("D2_lr", "D3"))
    same = mm.pool(fits, dfcom=math.inf).compare(mm.pool(nulls))
    np.testing.assert_allclose([same.F, same.den_df], [R["D1"][0], R["D1"][2]], rtol=1e-4)


def test_d3_of_models_that_differ_in_random_effects(imputed, fits):
    small = [mm.lmm("y ~ x + (1 | g)", table, reml=False) for table in imputed]
    result = mm.pool(fits).compare(small, "D3")
    np.testing.assert_allclose(
        [result.F, result.num_df, result.den_df, result.p, result.riv], R["D3_effects"], rtol=2e-3
    )


def test_generalised_models(imputed):
    fits = [mm.glmm("s ~ x + z + (1 | g)", table, "binomial") for table in imputed]
    found = mm.pool(fits)
    assert found.dfcom == math.inf and found.dispersion is None
    table = pd.DataFrame(R["glm_pool"])
    np.testing.assert_allclose(found.frame["estimate"], table["estimate"], rtol=1e-3)
    np.testing.assert_allclose(found.frame["total"], table["t"], rtol=5e-3)
    nulls = [mm.glmm("s ~ x + (1 | g)", table, "binomial") for table in imputed]
    result = found.compare(nulls, "D3")
    wald = found.compare(nulls, "D1")
    assert result.num_df == 1 and result.F == pytest.approx(wald.F, rel=0.15)


# ---------------------------------------------------------------- batches
@pytest.fixture(scope="module")
def drawn(sleep_reml):
    """Responses in the place of imputed ones: the rows of two subjects are drawn anew."""
    Y = np.tile(sleep_reml.model.design.y, (5, 1))
    Y[:, :20] = sleep_reml.simulate(5, key=4)[:, :20]
    return Y


@pytest.fixture(scope="module")
def pair(sleep_ml, drawn):
    """The model by ML and the one without Days: (model, batch) of each."""
    null = mm.Model.from_formula("Reaction ~ 1 + (Days | Subject)", mm.datasets.load("sleepstudy"), reml=False)
    return [(model, mm.fit_many(model, drawn, progress=False)) for model in (sleep_ml.model, null)]


def test_a_batch_is_its_fits(sleep_ml, pair, drawn):
    (model, batch), (null, batch0) = pair
    found, fits = mm.pool(batch, model=model, Y=drawn), [sleep_ml.refit(y) for y in drawn]
    nulls = [null.with_response(y).fit() for y in drawn]
    listed = mm.pool(fits)
    assert found.dfcom == listed.dfcom == 178
    np.testing.assert_allclose(found.frame, listed.frame, rtol=1e-3)
    np.testing.assert_allclose(found.varcorr().cov["Subject"], listed.varcorr().cov["Subject"], rtol=1e-3)
    whole = mm.pool(mm.fit_many(model, drawn, keep="vcov", progress=False), model=model)
    np.testing.assert_allclose(whole.vcov(), listed.vcov(), rtol=1e-3)
    both = ["(Intercept) = 250", "Days = 10"]
    for method in ("D1", "D2"):
        a, b = whole.test(both, method), listed.test(both, method)
        np.testing.assert_allclose([a.F, a.den_df], [b.F, b.den_df], rtol=2e-2)
    theirs = listed.compare(nulls, "D3")
    ours = found.compare(mm.pool(batch0, model=null, Y=drawn), "D3")
    np.testing.assert_allclose(ours.F, theirs.F, rtol=1e-3)
    np.testing.assert_allclose(ours.riv, theirs.riv, rtol=2e-2)
    for method, use in (("D1", None), ("D2", "wald"), ("D2", "likelihood")):
        a, b = found.compare(batch0, method, use=use), listed.compare(nulls, method, use=use)
        np.testing.assert_allclose([a.F, a.num_df, a.den_df], [b.F, b.num_df, b.den_df], rtol=2e-2)
    assert mm.pool(batch, dfcom=math.inf).test("Days").num_df == 1


def test_imputed_columns_as_lanes(imputed, fits):
    """x and y are imputed: the batch is the list of fits."""
    Y, x = (np.stack([table[name] for table in imputed]) for name in "yx")
    batch = mm.fit_many(fits[0].model, Y, columns={"x": x}, keep="vcov", progress=False)
    found, listed = mm.pool(batch, model=fits[0]), mm.pool(fits)
    np.testing.assert_allclose(found.frame, listed.frame, rtol=1e-3)
    np.testing.assert_allclose(found.vcov(), listed.vcov(), rtol=1e-3, atol=1e-6)
    a, b = found.test(["z", "x:z"]), listed.test(["z", "x:z"])
    np.testing.assert_allclose([a.F, a.den_df], [b.F, b.den_df], rtol=1e-3)


def test_fits_that_failed_are_left_out(pair, drawn):
    (model, batch), (_, batch0) = pair
    broken = batch.with_columns(status=np.array([0, 0, int(mm.Status.MAX_ITERATIONS), 0, 0]))
    found = mm.pool(broken, model=model)
    assert found.m == 4 and "1 of 5 fits did not converge and are left out: 2" in repr(found)
    np.testing.assert_allclose(found.fixef, batch.fixef[[0, 1, 3, 4]].mean(axis=0))
    result = mm.pool(batch, model=model).compare(mm.pool(batch0.with_columns(status=broken.status), dfcom=178))
    assert result.notes[0].startswith("1 of 5") and result.F == pytest.approx(found.test("Days = 0").F)
    with says(ValueError, "1 of 5 fits converged", "two at least"):
        mm.pool(batch.with_columns(status=np.array([0, 6, 6, 6, 6])), model=model)


def test_bad_input(fits, nulls, imputed, pair, sleep_reml, sleep_ml, drawn):
    (model, batch), (null, batch0) = pair
    found = mm.pool(batch, model=model)
    with says(TypeError, "a list of them or the FitBatch that fit_many returns, not a Fit"):
        mm.pool(sleep_reml)
    with says(TypeError, "not a list with a int"):
        mm.pool([1, 2])
    with says(ValueError, "nothing to pool"):
        mm.pool([])
    with says(ValueError, "of one model", "coefficients differ"):
        mm.pool([fits[0], nulls[0]])
    with says(ValueError, "criteria differ"):
        mm.pool([sleep_reml, sleep_ml])
    with says(ValueError, "does not know how many rows", "dfcom="):
        mm.pool(batch.with_columns(nobs=np.zeros(5, int)))  # as of a file from before
    assert mm.pool(batch).dfcom == 178
    with says(ValueError, "dfcom must be a number above 0", "-1"):
        mm.pool(batch, dfcom=-1)
    with says(ValueError, "model= and Y= are for a batch"):
        mm.pool(fits, model=model)
    with says(ValueError, "give model= too"):
        mm.pool(batch, Y=drawn, dfcom=3)
    with says(ValueError, "coefficients (Intercept)", "fit_many was given"):
        mm.pool(batch, model=null)
    with says(ValueError, "Y has 3 responses", "5 fits"):
        mm.pool(batch, model=model, Y=drawn[:3])
    with says(ValueError, "standard errors alone", "keep='vcov'", "list of fits"):
        found.test(["(Intercept)", "Days"])
    with says(ValueError, "standard errors alone"):
        found.vcov()
    with says(ValueError, "'D1' or 'D2'", "compare(null)"):
        found.test("Days", "D3")
    with says(ValueError, "one of 'D1', 'D2', 'D3'", "'D5'"):
        found.compare(batch0, "D5")
    with says(ValueError, "use= is 'wald' or 'likelihood' of method='D2'"):
        found.compare(batch0, "D1", use="wald")
    with says(ValueError, "method='D3' needs the likelihood", "Y=Y"):
        found.compare(batch0, "D3")
    with says(ValueError, "data set 0 has the deviance", "Y is not what fit_many was given"):
        mm.pool(batch, model=model, Y=drawn[::-1]).compare(mm.pool(batch0, model=null, Y=drawn), "D3")
    with says(ValueError, "not nested"):
        mm.pool(batch0, model=null).compare(found)
    with says(ValueError, "the same coefficients", "'D3'"):
        found.compare(found)
    with says(ValueError, "5 and 6 data sets"):
        found.compare(fits)
    with says(ValueError, "different responses", "same order"):
        mm.pool(fits).compare(nulls[::-1])
    by_reml = mm.pool(replace(batch, names=replace(batch.names, reml=True)), dfcom=9)
    with says(ValueError, "by REML", "by_ml()"):
        by_reml.compare(batch0, "D2", use="likelihood")
    with says(TypeError, "has no keyword 'df_com'", "dfcom="):
        mm.pool(fits, df_com=3)  # pyright: ignore
