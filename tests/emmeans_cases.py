"""What tests of marginal means share: the data and models of reference/emmeans.R, and fits with R's estimates."""

import json
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

import jaxmm as mm
from jaxmm.inference import ddf

REFERENCE = json.loads((Path(__file__).parent / "reference" / "emmeans.json").read_text())


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
def model(k: int) -> mm.Model:
    case = REFERENCE[k]
    family = mm.families.get(case["family"][0], link=case["family"][1]) if case.get("family") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns dropped
        return mm.Model.from_formula(case["formula"], tables()[case["data"]], family)


@cache
def fitted(k: int) -> mm.Fit:
    return model(k).fit()


class Given(mm.Fit):
    """A fit with R's coefficients and their covariance; degrees of freedom are infinite."""

    def reference(self, ddf_=None, vcov=None, cluster=None):
        beta = np.asarray(self.estimates.beta)
        return ddf.Constant("given", beta, np.asarray(self.estimates.vcov), np.full(len(beta), np.inf))


def given(k: int, table: dict) -> mm.Fit:
    nothing_to_remark = {"sigma": 1.0, "status": 0, "mode_found": True, "hessian": np.eye(1), "log_phi": np.zeros(0)}
    theta = np.ones(model(k).structure.num_theta)
    e = SimpleNamespace(
        beta=np.array(table["beta"]), vcov=np.array(table["V"]), theta=theta, theta_scaled=theta, **nothing_to_remark
    )
    return Given(model(k), e, mm.Control())


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


OATS = next(k for k, c in enumerate(REFERENCE) if c["formula"] == "yield ~ Variety * N + (1 | Block/Variety)")
HOLES = next(k for k, c in enumerate(REFERENCE) if c["data"] == "holes")
CBPP = next(k for k, c in enumerate(REFERENCE) if c["data"] == "cbpp")
SLEEP = next(k for k, c in enumerate(REFERENCE) if "long" in c["formula"])
TICKS = next(k for k, c in enumerate(REFERENCE) if "offset" in c["formula"])


@cache
def balanced() -> mm.Fit:
    data = tables()["whole"].copy()
    data["N"] = data["nitro"].map("{:g}".format)
    return mm.lmm("yield ~ Variety * N + (1 | Block / Variety)", data)
