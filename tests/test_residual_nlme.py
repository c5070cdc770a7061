"""Correlated and unequal errors against nlme's ``gls`` and ``lme`` on published tables: ``reference/residual`` has the
tables, scripts and numbers, and ``polish.py`` there says what they are."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm

FOLDER = Path(__file__).parent / "reference" / "residual"
CASES = json.loads((FOLDER / "fits.json").read_text())["fits"]
FACTORS = ("Rat", "Diet", "Mare", "Subject", "QB", "Lot", "Wafer", "Source", "Site", "Sex")


@cache
def table(name: str) -> pd.DataFrame:
    """``BodyWeightGaps`` is in whole weeks, of which every seventh row is away."""
    d = pd.read_csv(FOLDER / "data" / f"{name.removesuffix('Gaps')}.csv")
    d = d.astype({column: "category" for column in FACTORS if column in d})
    if name == "Ovary":
        d = d.assign(s=np.sin(2 * np.pi * d["Time"]), c=np.cos(2 * np.pi * d["Time"]))
    if name == "BodyWeightGaps":
        d = d[d["Time"] != 44].assign(Week=lambda f: (f["Time"] + 6) / 7)
        d = d[np.arange(1, len(d) + 1) % 7 != 0].reset_index(drop=True)
    return d


def correlation(fit: mm.Fit, structure: str) -> np.ndarray:
    """As nlme has it: of ``us`` by columns, of ``ou`` that at a distance of 1, of others that of neighbours."""
    if structure in ("exp", "gau"):
        return np.array([fit.residual.params["range"]])
    if structure == "ou":
        return np.exp(-np.array([fit.residual.params["rate"]]))
    R = fit.residual.corr.to_numpy()
    j, i = np.triu_indices(len(R), 1)
    return R[i, j] if structure == "us" else R[1:2, 0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_fit_is_nlmes(case):
    fit = mm.lmm(
        case["formula"], table(case["data"]), residual=case["residual"], dispersion=case["dispersion"],
        reml=case["method"] == "REML",
    )  # fmt: skip
    assert fit.converged
    assert fit.loglik == pytest.approx(case["loglik"], abs=1e-7)
    fixef, se = pd.Series(case["fixef"]), np.array(case["se"])
    assert list(fit.fixef.index) == list(fixef.index)
    np.testing.assert_allclose((fit.fixef - fixef) / se, 0, atol=1e-5)
    np.testing.assert_allclose(fit.bse, se, rtol=1e-5)
    if "sd" in case:
        np.testing.assert_allclose(fit.residual.sd, list(case["sd"].values()), rtol=1e-4)
    else:
        slopes = [] if case["dispersion"] is None else fit.coef_table(component="phi")["estimate"].iloc[1:]
        np.testing.assert_allclose([2 * np.log(fit.sigma), *slopes], list(case["log_phi"].values()), atol=1e-4)
    if "correlation" in case:
        structure = case["residual"].split("(")[0]
        np.testing.assert_allclose(correlation(fit, structure), case["correlation"], rtol=1e-4, atol=1e-5)
    found = list(fit.varcorr().cov.values())
    for D, own in zip(found, reversed(case.get("random", {}).values()), strict=True):
        unit = np.sqrt(np.outer(np.diag(own), np.diag(own)))
        np.testing.assert_allclose(D / unit, own / unit, atol=1e-4)
