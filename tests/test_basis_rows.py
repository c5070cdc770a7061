"""Splines, polynomials and centres come from every row that has their own columns, as in R's model frame."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from design_frame import design_frame, make

import jaxmm as mm

REFERENCE = pd.read_csv(Path(__file__).parent / "reference" / "basis_rows.csv", keep_default_na=False)
FORMULAS = [f for f in REFERENCE["formula"].unique() if f != "predict"]


def holey() -> pd.DataFrame:
    """The table of ``reference/basis_rows.R``."""
    d = mm.datasets.load("sleepstudy").reset_index(drop=True)
    i = np.arange(1, len(d) + 1)
    d["z"] = (i * 37) % 101 / 10
    d["w"] = np.where(i % 11 == 0, 0.0, 1.0 + i % 3)
    d.loc[(i % 7 == 0) | ((d["Days"] > 7) & (i % 3 == 0)), "Reaction"] = np.nan
    d.loc[i % 13 == 0, "z"] = np.nan
    return d


def expected(formula: str, what: str) -> pd.Series:
    rows = REFERENCE[(REFERENCE["formula"] == formula) & (REFERENCE["what"] == what)]
    return rows.set_index("name")["value"].astype(float)


@pytest.mark.parametrize("formula", FORMULAS)
def test_fits_are_those_of_lme4(formula):
    fit = mm.lmm(formula, holey(), reml=False)
    np.testing.assert_allclose(fit.loglik, expected(formula, "loglik").item(), atol=1e-6)
    theirs = expected(formula, "fixef")
    assert list(fit.fixef.index) == list(theirs.index)
    assert np.max(np.abs(fit.fixef - theirs) / fit.bse) < 1e-4


@pytest.mark.parametrize("formula", FORMULAS)
def test_rows_of_weight_zero_count_for_the_basis(formula):
    """The columns of X, told by a sum that weights each row differently."""
    design = make(formula, holey(), weights="w")
    sums = pd.Series(np.arange(1, len(design.y) + 1) @ design.X, design.columns)
    pd.testing.assert_series_equal(sums, expected(formula, "weighted"), check_names=False, rtol=1e-9)


def test_new_rows_have_the_basis_of_the_fit():
    fit = mm.lmm("Reaction ~ ns(Days, df = 3) + scale(z) + (1 | Subject)", holey(), reml=False)
    new = pd.DataFrame({"Days": [0.5, 3, 9, 12], "z": [1.0, 2, 3, 4]})
    np.testing.assert_allclose(fit.predict(new, re="population"), expected("predict", "new"), rtol=1e-6)
    own = fit.model.design.evaluate(holey()[["Days", "z", "Subject"]].dropna())
    kept = holey().dropna(subset=["z"])["Reaction"].notna().to_numpy()
    np.testing.assert_array_equal(own.X[kept], fit.model.design.X)


def test_a_variable_of_its_own_missing_values_has_the_rest():
    """Where R's poly stops."""
    d = design_frame()
    d.loc[3, "x"] = np.nan
    d.loc[5, "y"] = np.nan
    design = make("y ~ poly(x, 2) + I(z - mean(x * z)) + (1 | g)", d)
    x = d["x"].drop(3)
    curve = np.linalg.qr(np.vander(x, 3, increasing=True))[0][:, 1:]
    curve = np.delete(curve * np.sign(curve[-1] / design.X[-1, 1:3]), 4, axis=0)
    np.testing.assert_allclose(design.X[:, 1:3], curve, atol=1e-12)
    centred = d["z"] - np.mean(d["x"] * d["z"])
    np.testing.assert_allclose(design.X[:, 3], centred.drop([3, 5]), atol=1e-12)


def test_what_is_not_finite_teaches_nothing():
    """A row that goes for another column's sake may be out of the range of log; one that stays is named."""
    d = design_frame()
    d.loc[2, "z"] = 0.0
    d.loc[2, "y"] = np.nan
    design = make("y ~ scale(log(z)) + (1 | g)", d)
    logs = np.log(d["z"].drop(2))
    np.testing.assert_allclose(design.X[:, 1], (logs - logs.mean()) / logs.std(), atol=1e-12)
    d.loc[2, "y"] = 1.0
    with pytest.raises(ValueError, match=r"'scale\(log\(z\)\)' is infinite at row 2: correct"):
        make("y ~ scale(log(z)) + (1 | g)", d)


def test_the_response_and_offset_too():
    d = design_frame()
    d.loc[3, "x"] = np.nan
    design = make("scale(y) ~ x + offset(scale(z)) + (1 | g)", d)
    for ours, column in ((design.y, "y"), (design.offset, "z")):
        whole = (d[column] - d[column].mean()) / d[column].std()
        np.testing.assert_allclose(ours, whole.drop(3), atol=1e-12)
