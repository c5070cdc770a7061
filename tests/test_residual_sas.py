"""Correlated errors against SAS PROC MIXED, on the FEV example of mmrm: ``reference/mmrm`` has the numbers and their
source.

-2 log-likelihoods are known to eight decimals, differences of treatments with their errors and degrees of freedom in
full, the rest as it was printed.  SAS stops where its criterion is below 1e-8: its estimates are good to about 1e-5 of
a standard error.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dense_residual import ar1, dense, errors, hessian, kenward_roger

import jaxmm as mm
from jaxmm.covariance import STRUCTURES

FOLDER = Path(__file__).parent / "reference" / "mmrm"
CASES = json.loads((FOLDER / "sas.json").read_text())["cases"]
LEVELS = {"RACE": ["Asian", "Black or African American", "White"], "SEX": ["Male", "Female"], "ARMCD": ["PBO", "TRT"]}


def name(case: dict) -> str:
    return Path(case["listing"]).stem


@cache
def data() -> pd.DataFrame:
    d = pd.read_csv(FOLDER / "fev.csv")
    levels = {column: pd.CategoricalDtype(values) for column, values in LEVELS.items()}
    return d.astype(levels | {"AVISIT": "category"}).dropna(subset="FEV1").reset_index(drop=True)


@cache
def fitted(formula: str, residual: str, method: str, weights: str | None = None) -> mm.Fit:
    fit = mm.lmm(formula, data(), residual=residual, reml=method == "REML", weights=weights)
    assert fit.converged
    return fit


def of_case(case: dict) -> mm.Fit:
    return fitted(case["formula"], case["residual"], case["method"], case["weights"])


def visits(case: dict) -> list[int]:
    """SAS has the level of reference last."""
    return [1, 2, 3, 0] if "AVISIT VIS4" in {row[0] for row in case["fixed"]} else [0, 1, 2, 3]


def natural(fit: mm.Fit, group: str | None, label: str, order: list[int]) -> tuple[float, float]:
    """What SAS calls ``label``, from the covariance of the four visits, and its unit: that of the errors, or 1."""
    cov = fit.residual.cov
    C = (cov if group is None else cov[group]).to_numpy()[np.ix_(order, order)]
    R = C / np.sqrt(np.outer(np.diag(C), np.diag(C)))
    kind, *at = label.replace("(", ",").replace(")", "").split(",")
    k = [int(x) - 1 for x in at if x.isdigit()]
    if kind == "SP":
        return fit.residual.params["range"], 1.0
    if kind in ("CSH", "AR", "ARH"):
        return R[1, 0], 1.0
    if kind in ("Rho", "TOEPH"):
        return (R[k[0] + 1, k[0]] if kind == "Rho" else R[k[0] + 1, 0]), 1.0
    if kind in ("UN", "Var"):
        return C[k[0], k[-1]], np.sqrt(C[k[0], k[0]] * C[k[-1], k[-1]])
    if kind in ("CS", "TOEP"):
        return C[1 if kind == "CS" else k[0], 0], C[0, 0]
    assert kind in ("Variance", "Residual")
    return C[0, 0] - (C[1, 0] if fit.residual.text.startswith("homcs") else 0.0), C[0, 0]


def printed(value: float) -> float:
    """SAS prints six digits, and no more than four after the point, of numbers below 0.1 five."""
    text = repr(value)
    return 0.51 * 10.0 ** -max(len(text.split(".")[1]), 4 if abs(value) < 100 else 2)


def stopped(fit: mm.Fit, case: dict) -> float:
    """About how many standard errors SAS stopped from the maximum: √ of what -2 log-likelihood still had to fall, which
    is known to 1e-8."""
    return float(np.sqrt(max(case["neg2"] - fit.deviance, 0.0) + 1e-8))


def named(cases):
    return [pytest.param(c, id=name(c)) for c in cases]


@pytest.mark.parametrize("case", named(CASES))
def test_likelihood_and_covariance(case):
    """Never below SAS's, and above by no more than its criterion says."""
    fit = of_case(case)
    assert case["neg2"] - 2e-5 < fit.deviance < case["neg2"] + 1e-8
    assert len(case["covariance"]) == STRUCTURES[case["residual"].split("(")[0]](4).num_params * (
        1 + ("by" in case["residual"])
    )
    for label, group, value in case["covariance"]:
        found, unit = natural(fit, group, label, visits(case))
        # five or six digits were printed
        assert found == pytest.approx(value, rel=3e-5, abs=printed(value) + 0.3 * unit * stopped(fit, case)), label


@pytest.mark.parametrize("case", named(c for c in CASES if "difference" not in c))
def test_effects_by_satterthwaite(case):
    fit = of_case(case)
    table = fit.coef_table("satterthwaite")
    assert len(table) == len(case["fixed"])
    recoded = visits(case) == [0, 1, 2, 3]  # then AVISIT and ARMCD mean other contrasts
    for label, estimate, se, df in case["fixed"]:
        if len(case["fixed"]) > 1 and recoded and not label.startswith(("RACE", "SEX")):
            continue
        row, far = table.loc[ours(label)], stopped(fit, case)
        assert row["estimate"] == pytest.approx(estimate, abs=5.1e-5 + far * se)
        assert row["se"] == pytest.approx(se, abs=5.1e-5 + far * se)
        if (
            case["weights"] is None
        ):  # with weights SAS has others (519 of RACE, for 200 subjects); mmrm has ours, 186.62
            assert row["df"] == pytest.approx(df, abs=0.501 + 0.3 * far * df)


def ours(label: str) -> str:
    """The name of SAS's effect: "AVISIT*ARMCD VIS2 TRT" is "ARMCDTRT:AVISITVIS2"."""
    if label == "Intercept":
        return "(Intercept)"
    effect, *levels = label.split(" ", 1)
    parts = effect.split("*")
    values = levels if len(parts) == 1 else levels[0].split(" ")
    return ":".join(sorted(a + b for a, b in zip(parts, values, strict=True)))


LINEAR = [c for c in CASES if "difference" in c and c["se"].startswith("Prasad")]
WHOLE = [c for c in CASES if "difference" in c and not c["se"].startswith("Prasad")]
FREE = ("us", "homcs", "homtoep")  # whose covariances are linear in SAS's parameters


@pytest.mark.parametrize(("case", "ddf"), [
    *[pytest.param(c, "kenward-roger-linear", id=name(c)) for c in LINEAR],
    *[pytest.param(c, "kenward-roger", id=name(c)) for c in WHOLE if c["residual"].startswith(FREE)],
])  # fmt: skip
def test_differences_by_kenward_and_roger(case, ddf):
    """SAS's ddfm=kr, and kr(linear), whose errors SAS calls Prasad, Rao, Jeske, Kackar and Harville's."""
    fit = of_case(case)
    estimate, se, df = case["difference"]
    row, far = fit.coef_table(ddf).loc["ARMCDTRT"], stopped(fit, case)
    assert row["estimate"] == pytest.approx(estimate, abs=0.2 * far * se)
    assert row["se"] == pytest.approx(se, rel=0.2 * far)
    assert row["df"] == pytest.approx(df, rel=0.3 * far)


@pytest.mark.parametrize("case", [pytest.param(c, id=name(c)) for c in LINEAR])
def test_differences_by_satterthwaite(case):
    """Of one difference Kenward and Roger's df are Satterthwaite's, with the same covariance of the parameters."""
    fit = of_case(case)
    estimate, _, df = case["difference"]
    row, far = fit.coef_table("satterthwaite").loc["ARMCDTRT"], stopped(fit, case)
    assert row["estimate"] == pytest.approx(estimate, abs=0.2 * far * row["se"])
    assert row["df"] == pytest.approx(df, rel=0.3 * far)


def test_the_observed_information_is_what_sas_has():
    """By finite differences of the likelihood written out: ddfm=kr(linear) of ar1 to the precision of SAS."""
    case = next(c for c in LINEAR if name(c) == "kr1_ar1")
    fit, d = of_case(case), data()
    X, y = fit.model.design.X, fit.model.design.y
    codes, place = pd.factorize(d["USUBJID"])[0], d["AVISIT"].cat.codes.to_numpy()
    at, step = np.array([fit.residual.cov.iloc[0, 0], fit.residual.corr.iloc[1, 0]]), np.array([0.08, 1e-3])

    def V(x):
        return errors(codes, place, ar1(np.sqrt(x[0]), x[1], range(4)))

    dV = np.stack([(V(at + e) - V(at - e)) / (2 * e.sum()) for e in np.diag(step)])
    W = np.linalg.inv(hessian(lambda x: -dense(X, y, V(x), True).loglik, at, step))
    found = kenward_roger(X, V(at), dV, W, np.eye(2))
    _, se, df = case["difference"]
    assert np.sqrt(found.vcov[1, 1]) == pytest.approx(se, rel=1e-5) and found.df[1] == pytest.approx(df, rel=1e-5)
