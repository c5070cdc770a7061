"""Genes counted in the cells of donors: many fits whose lanes differ in more than y, beside loops over other programs.

2,000 genes × 500 cells of 20 donors, y ~ group + (1 | donor): Gaussian with precision weights of each gene and cell, by
REML; and nbinom2 with the log of library sizes as an offset and a dispersion of each gene. jaxmm fits all genes, in a
first call and in later ones; glmm and statsmodels (Gaussian) or glmmTMB (counts; Rscript) fit some of them in a loop,
and the rest is in proportion. All in one run, one process of each at a time.

    python genes.py [--genes 2000] [--cells 500] [--donors 20] [--alone 40] [--repeats 3]

prints seconds per gene, how many times as long as jaxmm takes on as many cores as it uses, and the largest and smallest
difference in log-likelihood (theirs less ours) over the genes that both have fitted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import jaxmm as mm

GLMMTMB = """
suppressMessages(library(glmmTMB))
d <- read.csv("table.csv"); Y <- as.matrix(read.csv("genes.csv"))
f <- function(k) { d$y <- Y[k, ]; suppressWarnings(glmmTMB(y ~ group + (1 | donor) + offset(log_size), d, nbinom2)) }
invisible(f(1))
took <- system.time(fits <- lapply(seq_len(nrow(Y)), f))[["elapsed"]]
cat(jsonlite::toJSON(list(seconds = took, loglik = sapply(fits, function(m) -m$fit$objective)), digits = NA))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("genes", 2000), ("cells", 500), ("donors", 20), ("alone", 40), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    rng = np.random.default_rng(1)
    donor = np.sort(rng.integers(0, asked.donors, asked.cells))
    table = pd.DataFrame({"donor": donor, "group": 1.0 * (donor % 2), "log_size": rng.normal(0, 0.3, asked.cells)})
    gaussian(asked, table, rng)
    counts(asked, table, rng)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def gaussian(asked: argparse.Namespace, table: pd.DataFrame, rng: np.random.Generator) -> None:
    shape = (asked.genes, asked.cells)
    weights = rng.gamma(4.0, 0.25, shape)
    effects = rng.normal(size=(asked.genes, asked.donors)) * rng.uniform(0, 1, (asked.genes, 1))
    Y = 5 + effects[:, table.donor] + rng.normal(size=shape) / np.sqrt(weights)
    model = mm.Model.from_formula("y ~ group + (1 | donor)", table.assign(y=Y[0]))
    batch = ours(
        "Gaussian, weights of each gene", asked, lambda: mm.fit_many(model, Y, weights=weights, progress=False)
    )

    def by_glmm(k: int) -> float:
        import glmm

        data = {"y": Y[k], "group": table.group.to_numpy(), "donor": table.donor.astype(str).tolist()}
        cheap = {"satterthwaite": False, "wald_se": "rx", "anova_test": "Wald"}
        return glmm.fit(data, "y ~ group + (1 | donor)", weights=weights[k], reml=True, **cheap).loglik

    def by_statsmodels(k: int) -> float:
        from statsmodels.regression.mixed_linear_model import MixedLM

        root = np.sqrt(weights[k])  # rows divided by their standard deviations have equal errors
        X = np.column_stack([np.ones(len(root)), table.group]) * root[:, None]
        fit = MixedLM(Y[k] * root, X, table.donor.to_numpy(), exog_re=root[:, None]).fit(reml=True)
        return fit.llf + np.sum(np.log(root))

    theirs("glmm", asked, batch, by_glmm)
    theirs("statsmodels", asked, batch, by_statsmodels)


def counts(asked: argparse.Namespace, table: pd.DataFrame, rng: np.random.Generator) -> None:
    level, size = rng.uniform(-1, 3, asked.genes), np.exp(rng.normal(0.5, 0.7, asked.genes))[:, None]
    effects = 0.5 * rng.normal(size=(asked.genes, asked.donors))
    mu = np.exp(level[:, None] + effects[:, table.donor] + table.log_size.to_numpy())
    Y = 1.0 * rng.negative_binomial(np.broadcast_to(size, mu.shape), size / (size + mu))
    offsets = np.tile(table.log_size.to_numpy(), (asked.genes, 1))
    first = table.assign(y=Y[0])
    model = mm.Model.from_formula("y ~ group + (1 | donor)", first, family="nbinom2")
    batch = ours("nbinom2, offsets", asked, lambda: mm.fit_many(model, Y, offset=offsets, progress=False))

    def by_glmm(k: int) -> float:
        import glmm

        data = {"y": Y[k], "group": table.group.to_numpy(), "donor": table.donor.astype(str).tolist()}
        cheap = {"satterthwaite": False, "wald_se": "rx", "anova_test": "Wald"}
        return glmm.fit(data, "y ~ group + (1 | donor)", "negativebinomial", offset=offsets[k], **cheap).loglik

    theirs("glmm", asked, batch, by_glmm)
    if shutil.which("Rscript"):
        with tempfile.TemporaryDirectory() as folder:
            few = min(asked.alone, asked.genes)
            table.to_csv(Path(folder) / "table.csv", index=False)
            pd.DataFrame(Y[:few]).to_csv(Path(folder) / "genes.csv", index=False)
            done = subprocess.run(["Rscript", "-e", GLMMTMB], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                print("  glmmTMB          ", done.stderr.strip().splitlines()[-1:])
                return
            found = json.loads(done.stdout.strip().splitlines()[-1])
        report("glmmTMB", asked, batch, found["seconds"][0] / few, np.array(found["loglik"]))


seconds: dict[str, float] = {}


def ours(what: str, asked: argparse.Namespace, call: Callable[[], mm.FitBatch]) -> mm.FitBatch:
    times = []
    for _ in range(asked.repeats + 1):
        began = time.perf_counter()
        batch = call()
        times.append(time.perf_counter() - began)
    seconds["ours"] = min(times[1:]) / asked.genes
    print(
        f"{what}: {asked.genes} genes, {asked.cells} cells, {asked.donors} donors; {batch.converged.mean():.2%} converged"
    )
    print(
        f"  jaxmm             {1e3 * seconds['ours']:9.3f} ms a gene (first call {times[0]:.1f} s in all, then {min(times[1:]):.2f})"
    )
    return batch


def theirs(name: str, asked: argparse.Namespace, batch: mm.FitBatch, one: Callable[[int], float]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one(0)
            began = time.perf_counter()
            logliks = np.array([one(k) for k in range(min(asked.alone, asked.genes))])
            report(name, asked, batch, (time.perf_counter() - began) / len(logliks), logliks)
    except ImportError:
        print(f"  {name:16s}  is not installed")


def report(name: str, asked: argparse.Namespace, batch: mm.FitBatch, each: float, logliks: np.ndarray) -> None:
    gap = logliks - batch.loglik[: len(logliks)]
    times = each / seconds["ours"]
    print(
        f"  {name:16s}  {1e3 * each:9.3f} ms a gene: {times:6.1f} times, {times / os.cpu_count():6.1f} per core; "
        f"log-likelihood less ours {np.nanmin(gap):.1e} .. {np.nanmax(gap):.1e}"
    )


if __name__ == "__main__":
    main()
