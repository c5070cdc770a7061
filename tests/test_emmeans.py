"""Marginal means against the cells of balanced data, numbers of R's emmeans, and what must hold whatever the model."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.inference import ddf
from jaxmm.means import adjust

REFERENCE = json.loads((Path(__file__).parent / "reference" / "emmeans.json").read_text())
METHODS = {"dunnettx": "dunnett"}


def every(name: str, k: int) -> pd.DataFrame:
    data = mm.datasets.load(name)
    return data[np.arange(1, len(data) + 1) % k != 0].reset_index(drop=True)


@cache
def tables() -> dict[str, pd.DataFrame]:
    """Those of reference/emmeans.R."""
    oats, sleep, whole = every("oats", 5), every("sleepstudy", 7), mm.datasets.load("oats")
    oats["N"] = oats["nitro"].map("{:g}".format).astype("category")
    oats["O"] = pd.Categorical(oats["N"], ordered=True)
    oats["x"] = np.arange(1, len(oats) + 1) * 37 % 17 / 10
    sleep["late"] = pd.Categorical(np.where(sleep["Days"] > 4, "late", "early"))
    sleep["odd"], sleep["long"] = sleep["Days"] % 2, sleep["Days"] > 6
    ticks = mm.datasets.load("grouseticks")
    ticks["YEAR"] = ticks["YEAR"].astype(str).astype("category")
    ticks["H"] = (ticks["HEIGHT"] - 450) / 100
    cbpp = mm.datasets.load("cbpp")
    cbpp["period"] = cbpp["period"].astype(str).astype("category")
    holes = oats[~((oats["Variety"] == "Victory") & (oats["nitro"] == 0.6))].reset_index(drop=True)
    return {
        "oats": oats, "whole": whole, "holes": holes, "sleep": sleep, "machines": every("machines", 7), "cbpp": cbpp,
        "ticks": ticks,
    }  # fmt: skip


@cache
def fitted(k: int) -> mm.Fit:
    case = REFERENCE[k]
    data = tables()[case["data"]]
    if not case.get("family"):
        return mm.lmm(case["formula"], data)
    name, link = case["family"]
    return mm.glmm(case["formula"], data, mm.families.get(name, link=link))


class Given(mm.Fit):
    """A fit with R's coefficients and their covariance; degrees of freedom are infinite."""

    def reference(self, ddf_=None, vcov=None):
        return ddf.Constant("given", *self.r)


def given(fit: mm.Fit, table: dict) -> mm.Fit:
    out = Given(fit.model, fit.estimates, fit._control)
    beta, V = np.asarray(fit.estimates.beta).copy(), np.asarray(fit.estimates.vcov).copy()
    k = len(table["beta"])
    beta[:k], V[:k, :k] = table["beta"], table["V"]
    out.r = (beta, V, np.full(len(beta), np.inf))
    return out


def asked(table: dict) -> dict:
    """The arguments of a table of the reference."""
    args = table.get("args") or {}
    out = {"by": table.get("by")}
    if "at" in args:
        out["at"] = args["at"]
    if "weights" in args:
        out["weights"] = args["weights"]
    return out


def means(fit: mm.Fit, table: dict, **more):
    if table.get("trend"):
        return fit.emtrends(table["specs"], table["trend"], **asked(table), **more)
    return fit.emmeans(table["specs"], **asked(table), scale=table["type"], **more)


NUMBERS = {"NaN": np.nan, "NA": np.nan, "Inf": np.inf}


def column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([NUMBERS.get(r.get(name), r.get(name)) for r in rows], float)


TABLES = [(k, j) for k, case in enumerate(REFERENCE) for j in range(len(case["means"]))]


def name(at: tuple[int, int]) -> str:
    case = REFERENCE[at[0]]
    table = case["means"][at[1]]
    return f"{case['formula']}-{table.get('trend') or ''}{table['specs']}|{table.get('by')}-{at[1]}"


@pytest.mark.parametrize("at", TABLES, ids=name)
def test_means_and_contrasts_as_in_r(at):
    """Given R's coefficients and covariance all is algebra; p-values given R's t and degrees of freedom."""
    table = REFERENCE[at[0]]["means"][at[1]]
    found = means(given(fitted(at[0]), table), table)
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


@pytest.mark.parametrize("at", TABLES, ids=name)
def test_the_whole_way_as_in_r(at):
    """With each program's own estimates, degrees of freedom among them: as near as the optimisers are."""
    case = REFERENCE[at[0]]
    table = case["means"][at[1]]
    found, rows = means(fitted(at[0]), table, ddf=table.get("ddf")), table["frame"]
    frame = found.frame
    tolerance = 1e-3 if case.get("family") else 2e-5
    np.testing.assert_allclose(frame[found.what], column(rows, "value"), rtol=tolerance, atol=1e-3)
    np.testing.assert_allclose(frame["se"], column(rows, "se"), rtol=20 * tolerance)
    if (case.get("family") or [""])[0] != "nbinom2":  # n less the parameters in that version
        np.testing.assert_allclose(frame["df"], column(rows, "df"), rtol=1e-3)
    np.testing.assert_allclose(frame["lower"], column(rows, "lower"), rtol=20 * tolerance, atol=2e-3)
