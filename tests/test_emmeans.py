"""Marginal means, contrasts and joint tests against the numbers of R's emmeans."""

import numpy as np
import pytest
from emmeans_cases import NUMBERS, REFERENCE, column, fitted, given, means

from jaxmm.means import adjust

TABLES = [(k, j) for k, case in enumerate(REFERENCE) for j in range(len(case["means"]))]


def name(at: tuple[int, int]) -> str:
    case = REFERENCE[at[0]]
    table = case["means"][at[1]]
    return f"{case['formula']}-{table.get('trend') or ''}{table['specs']}|{table.get('by')}-{at[1]}"


@pytest.mark.parametrize("at", TABLES, ids=name)
def test_means_and_contrasts_as_in_r(at):
    """Given R's coefficients and covariance all is algebra; p-values given R's t and degrees of freedom."""
    table = REFERENCE[at[0]]["means"][at[1]]
    found = means(given(at[0], table), table)
    frame, rows = found.frame, table["frame"]
    for factor in (*table["specs"], *(table.get("by") or ())):
        theirs = [r[factor] for r in rows]
        own = [float(v) for v in theirs] if frame[factor].dtype == float else [_text(v) for v in theirs]
        assert list(frame[factor]) == own
    np.testing.assert_allclose(frame[found.what], column(rows, "value"), rtol=1e-8)
    np.testing.assert_allclose(frame["se"], column(rows, "se"), rtol=1e-8)
    for contrast in table["contrasts"]:
        own, r = found.contrasts(**_contrast(contrast)), contrast["table"]
        np.testing.assert_allclose(own["estimate"], column(r, "estimate"), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(own["se"], column(r, "se"), rtol=1e-8)
        np.testing.assert_allclose(own["statistic"], column(r, "statistic"), rtol=1e-7, atol=1e-12)
        _adjusted(own, r)


def _text(value) -> str:
    return {True: "TRUE", False: "FALSE"}[value] if isinstance(value, bool) else str(value)


def _contrast(contrast: dict) -> dict:
    ref = contrast.get("ref")
    return {
        "method": contrast["method"], "adjust": contrast.get("adjust"), "ref": None if ref is None else ref - 1
    }  # fmt: skip


def _adjusted(own, rows: list[dict]) -> None:
    """p and the ends of the intervals of each group, by R's t and degrees of freedom; R's mvt is by Monte Carlo, with
    whole degrees of freedom."""
    at, t, df = 0, column(rows, "statistic"), column(rows, "df")
    value, upper = (np.log(column(rows, n)) if own.ratio else column(rows, n) for n in ("estimate", "upper"))
    rough = own.adjust == "mvt"
    whole = df if np.isfinite(t).all() else np.floor(df)  # R's p-values have whole ones there too
    for family in own.families:
        here = slice(at, at + family.m)
        at += family.m
        theirs = [adjust.Family(t[here], x[here], family.k, family.R) for x in (whole, df)]
        p = adjust.p_values(theirs[0], own.adjust)
        told = np.isfinite(t[here])
        bounds = {"rtol": 5e-3, "atol": 5e-4} if rough else {"rtol": 1e-6, "atol": 1e-9}
        np.testing.assert_allclose(p, column(rows, "p")[here], **bounds)
        if at > 6:  # one family has shown it
            continue
        c, half = adjust.critical(theirs[1], own.adjust, 0.95), (upper[here] - value[here]) / own.functions.se[here]
        np.testing.assert_allclose(c[told], half[told], rtol=5e-3 if rough else 2e-5)


WHOLE = [(k, j) for k, j in TABLES if j < 2 and REFERENCE[k].get("family") in (None, ["binomial", "logit"])]


@pytest.mark.parametrize("at", WHOLE, ids=name)
def test_the_whole_way_as_in_r(at):
    """With each program's own estimates, degrees of freedom among them: as near as the optimisers are."""
    case = REFERENCE[at[0]]
    table = case["means"][at[1]]
    found, rows = means(fitted(at[0]), table, ddf=table.get("ddf")), table["frame"]
    frame = found.frame
    tolerance = 1e-3 if case.get("family") else 2e-5
    np.testing.assert_allclose(frame[found.what], column(rows, "value"), rtol=tolerance, atol=1e-3)
    np.testing.assert_allclose(frame["se"], column(rows, "se"), rtol=20 * tolerance)
    np.testing.assert_allclose(frame["df"], column(rows, "df"), rtol=1e-3)
    np.testing.assert_allclose(frame["lower"], column(rows, "lower"), rtol=20 * tolerance, atol=2e-3)


@pytest.mark.parametrize("k", [k for k, case in enumerate(REFERENCE) if case["joint"]], ids=str)
def test_joint_tests_as_in_r(k):
    """emmeans takes the fewest degrees of freedom of some rows for those of F, so that these are near only."""
    for table in REFERENCE[k]["joint"]:
        fit = fitted(k) if not REFERENCE[k].get("family") else given(k, table)
        found = fit.joint_tests(by=table.get("by"), ddf=table.get("ddf"))
        theirs = {n: np.atleast_1d(table[n]) for n in ("term", "F", "df1", "df2", "p")}
        own = theirs["term"] != "(confounded)"
        assert list(found.index) == list(theirs["term"][own])
        np.testing.assert_allclose(found["F"], theirs["F"][own].astype(float), rtol=2e-4, atol=6e-4)  # printed so
        np.testing.assert_array_equal(found["num_df"], theirs["df1"][own])
        den = [NUMBERS.get(x, x) for x in theirs["df2"][own].tolist()]
        np.testing.assert_allclose(found["den_df"], np.array(den, float), rtol=2e-2)
        np.testing.assert_allclose(found["p"], theirs["p"][own].astype(float), rtol=0.1)
        assert ("note" in found) == (table.get("note") is not None)
