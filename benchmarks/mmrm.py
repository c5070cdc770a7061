"""Repeated measures of trials: unstructured errors over the visits, jaxmm beside nlme's gls and glmmTMB.

    python mmrm.py jaxmm [--case fev bcva ...] [--replicates 10] [--repeats 5]
    python mmrm.py r     [--case ...] [--replicates 1] [--peer gls glmmTMB] [--timeout 1800]     seconds to an hour
    python mmrm.py table                                                                       what was found, as text

Rows go to results/mmrm.csv, each with -2 log restricted likelihood, whether the search says that it converged, the
first call and the median of the warm ones (from formula and data frame to the fit), and the load of the machine. Cases:

    fev        200 subjects x 4 visits, 537 values     FEV1 ~ RACE + ARMCD * AVISIT, 10 parameters of the errors
    bcva       1,000 x 10, 8,605 values                BCVA_CHG ~ RACE + BCVA_BL + ARMCD * AVISIT, 55 parameters
    200x4-none, -mild, -moderate, -high, 200x10-none, ..., 1000x10-none, ...     made-up trials like bcva, ten of each

The first two are the artificial trials of the R package mmrm (Apache License 2.0), whose vignette "Implementations of
MMRM" compares programs on them, and on trials of 200 subjects with the other levels of missingness. Made-up trials
follow its description: baseline N(75, 10²), three strata of shares 0.3, 0.3, 0.4, arms by a coin; the change from
baseline has mean 5 - [stratum 2] + [stratum 3] + ¼ (arm + visit + arm visit) and a random covariance with variances
1, 1.5, ..., 5.5; a value is missing at random, 1 to 3 % at the first visit and 16 % (mild), 37 % (moderate) or 65 %
(high) at the last, 6, 13 and 26 % of all. Each value is missing by itself: 1,000 subjects have about 67, 120 and 176
patterns of visits. Trials of four visits have the first, fourth, seventh and tenth of these ten.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import jaxmm as mm

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "mmrm.csv"
FEV_DATA = HERE.parent / "tests" / "reference" / "mmrm" / "fev.csv"
COLUMNS = "case replicate peer version rows neg2_loglik converged first_s warm_s load when".split()
ERRORS = "us(AVISIT | USUBJID)"
FEV, BCVA = "FEV1 ~ RACE + ARMCD * AVISIT", "BCVA_CHG ~ RACE + BCVA_BL + ARMCD * AVISIT"
MISSING = {"none": None, "mild": (0.3, 0.2), "moderate": (0.4, 0.5), "high": (0.5, 1.0)}  # by visit, by control arm
SIZES = ("200x4", "200x10", "1000x10")
CASES = ["fev", "bcva", *(f"{size}-{level}" for size in SIZES for level in MISSING)]
VISITS = 10
QUIET = 3.0  # load of the machine's two cores up to which a time says something


# ---------------------------------------------------------------- data
def covariance(rng: np.random.Generator) -> np.ndarray:
    """The absolute values of a random matrix's correlations (eigenvalues 1 to 10, axes uniform), if that is positive
    definite, with variances 1, 1.5, ..."""
    while True:
        U = np.linalg.qr(rng.normal(size=(VISITS, VISITS)))[0]
        A = np.abs((U * rng.uniform(1, 10, VISITS)) @ U.T)
        sd = np.sqrt(1 + 0.5 * np.arange(VISITS)) / np.sqrt(np.diag(A))
        C = sd[:, None] * A * sd
        if np.linalg.eigvalsh(C)[0] > 1e-3:
            return C


def trial(subjects: int, visits: int, level: str, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng([seed, subjects, list(MISSING).index(level)])
    base, stratum = rng.normal(75, 10, subjects), rng.choice(3, subjects, p=[0.3, 0.3, 0.4])
    arm, visit = rng.integers(0, 2, subjects), np.arange(1, VISITS + 1)
    mean = 5 - (stratum == 1) + 1.0 * (stratum == 2) + 0.25 * arm
    mean = mean[:, None] + 0.25 * (1 + arm[:, None]) * visit
    change = mean + rng.multivariate_normal(np.zeros(VISITS), covariance(rng), subjects)
    if MISSING[level] is not None:
        by_visit, by_arm = MISSING[level]
        stays = 5 - 0.01 * base + 0.5 * (stratum == 1) + 1.0 * (stratum == 2) - by_arm * (arm == 0)
        logit = stays[:, None] - by_visit * visit
        change[rng.uniform(size=change.shape) > 1 / (1 + np.exp(-logit))] = np.nan
    kept = np.rint(np.linspace(0, VISITS - 1, visits)).astype(int)
    names = pd.Categorical.from_codes
    table = pd.DataFrame(
        {
            "USUBJID": np.repeat(np.arange(subjects), visits).astype(str),
            "ARMCD": names(np.repeat(arm, visits), ["CTL", "TRT"]),
            "RACE": names(np.repeat(stratum, visits), ["Black", "Asian", "White"]),
            "AVISIT": names(np.tile(np.arange(visits), subjects), [f"VIS{k:02d}" for k in visit[kept]]),
            "BCVA_BL": np.repeat(base, visits),
            "BCVA_CHG": change[:, kept].ravel(),
        }
    )
    return table.dropna(ignore_index=True)


def bcva() -> pd.DataFrame:
    wide = pd.read_csv(HERE / "data" / "bcva.csv.gz", dtype={"USUBJID": str})
    labels = ["USUBJID", "ARMCD", "RACE", "BCVA_BL"]
    long = wide.melt(labels, var_name="AVISIT", value_name="BCVA_CHG").dropna()
    long = long.iloc[np.lexsort([long["AVISIT"], long["USUBJID"].astype(int)])].reset_index(drop=True)
    return long.astype({"ARMCD": "category", "RACE": "category", "AVISIT": "category"})


def task(case: str, replicate: int) -> tuple[pd.DataFrame, str]:
    """Data and formula."""
    if case == "fev":
        return pd.read_csv(FEV_DATA).dropna(subset="FEV1", ignore_index=True), FEV
    if case == "bcva":
        return bcva(), BCVA
    size, level = case.split("-")
    subjects, visits = map(int, size.split("x"))
    return trial(subjects, visits, level, 1 + replicate), BCVA


# ---------------------------------------------------------------- measured
def record(**row: object) -> None:
    row |= {"load": round(os.getloadavg()[0], 2), "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print("  ".join(f"{key}={row[key]}" for key in COLUMNS if key in row and key != "when"), flush=True)


def ours(case: str, replicate: int, repeats: int) -> None:
    data, formula = task(case, replicate)
    times = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        found = mm.lmm(formula, data, residual=ERRORS)
        deviance = found.deviance  # a number: the search is over
        times.append(time.perf_counter() - began)
    record(
        case=case, replicate=replicate, peer="jaxmm", version=mm.__version__, rows=found.nobs,
        neg2_loglik=round(deviance, 8), converged=found.converged, first_s=round(times[0], 4),
        warm_s=round(float(np.median(times[1:])), 5),
    )  # fmt: skip


def others(case: str, replicate: int, peers: list[str], repeats: int, limit: float) -> None:
    data, formula = task(case, replicate)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        data.to_csv(path, index=False)
        for peer in peers:
            command = ["Rscript", str(HERE / "mmrm.R"), peer, str(path), formula, str(repeats)]
            row = {"case": case, "replicate": replicate, "peer": peer, "rows": len(data)}
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
            except subprocess.TimeoutExpired:
                record(**row, converged="timeout", warm_s=limit)
                continue
            if done.returncode != 0:
                record(**row, converged=done.stderr.strip().splitlines()[-1][:80])
                continue
            neg2, converged, seconds, version = done.stdout.split()[-4:]
            record(**row, neg2_loglik=neg2, converged=converged.capitalize(), warm_s=seconds, version=version)


# ---------------------------------------------------------------- read
def found() -> pd.DataFrame:
    """The latest row of each case, replicate and peer, with ``gap``: by how much -2 log-likelihood is above the least
    that any program has reached."""
    absent, text = {"neg2_loglik": [""], "warm_s": [""]}, {"version": str, "converged": str}
    rows = pd.read_csv(RESULTS, dtype=text, keep_default_na=False, na_values=absent)
    rows = rows.drop_duplicates(["case", "replicate", "peer"], keep="last")
    return rows.assign(gap=rows["neg2_loglik"] - rows.groupby(["case", "replicate"])["neg2_loglik"].transform("min"))


def summary() -> pd.DataFrame:
    """One row per case and program; ``seconds`` of rows that were taken on a quiet machine alone."""
    rows = found()
    rows["case"] = pd.Categorical(rows["case"], CASES)
    out = []
    for (case, peer), own in rows.groupby(["case", "peer"], observed=True):
        done = own.dropna(subset="neg2_loglik")
        quiet = done["warm_s"][done["load"] < QUIET]
        out.append(
            {
                "case": case,
                "program": f"{peer} {own['version'].iloc[-1]}",
                "converged": f"{(own['converged'] == 'True').sum()} of {len(own)}",
                "values": round(own["rows"].mean()),
                "seconds": quiet.median(),
                "slowest": quiet.max(),
                "gap": done["gap"].max(),
                "load": own["load"].median(),
            }
        )
    return pd.DataFrame(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["jaxmm", "r", "table"])
    parser.add_argument("--case", nargs="*", default=CASES, choices=CASES)
    parser.add_argument("--replicates", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", nargs="*", default=["glmmTMB", "gls"])
    parser.add_argument("--timeout", type=float, default=1800)
    asked = parser.parse_args()
    if asked.what == "table":
        return print(summary().to_string(index=False))
    for case in asked.case:
        for replicate in range(1 if case in ("fev", "bcva") else asked.replicates):
            if asked.what == "jaxmm":
                ours(case, replicate, asked.repeats)
            else:
                others(case, replicate, asked.peer, asked.repeats, asked.timeout)


if __name__ == "__main__":
    main()
