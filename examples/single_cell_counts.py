"""Which genes does a treatment change? Counts of many genes in single cells of few donors.

A study as of single-cell RNA: 8 donors, 4 of them treated, 25 cells each, and 300 genes counted in every cell. Cells
differ in how many molecules were caught at all, which is an offset; donors differ in every gene; counts vary more than
Poisson ones. Each gene has a negative binomial model, count ~ treated + (1 | donor), and all are fitted in one call.
Cells of a donor are no independent replicates: the second table counts what is called a finding when they are taken for
such. The dispersions of genes are shrunk towards what is usual at their mean.

    python examples/single_cell_counts.py [--genes 300] [--cells 25] [--seed 3] [--out FOLDER]
"""

import argparse
import textwrap
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter
from scipy.stats import norm

import jaxmm as mm
from jaxmm.results.multiplicity import adjust

OUTPUT = Path(__file__).parent / "output"
DONORS = 8
EFFECT, SHARE, SD_DONOR = 0.9, 0.2, 0.3  # of log counts; a fifth of the genes responds
RATE = 0.05  # of false discoveries


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--genes", type=int, default=300)
    parser.add_argument("--cells", type=int, default=25, help="of each donor")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the picture")
    asked = parser.parse_args(arguments)

    cells, Y, truth = simulated(asked.genes, asked.cells, asked.seed)
    genes = pd.DataFrame(Y.T, columns=truth.index)
    cells["count"] = Y[0]
    model = mm.Model.from_formula("count ~ treated + (1 | donor)", cells, family="nbinom2", offset="log_size")
    began = time.perf_counter()
    batch = mm.fit_many(model, genes, keep="dispersion_se", progress=False)
    seconds = time.perf_counter() - began
    shrunken = batch.shrink_dispersion(trend=np.log(Y.mean(axis=1)))
    tests = batch.test_table("treated")
    print(report(batch, tests, shrunken, truth, cells, seconds))

    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "single_cell_counts.png"
    picture(batch, shrunken, Y).savefig(path, dpi=120)
    print(f"\nPicture: {path}")


def simulated(genes: int, each: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """The cells, counts (genes, cells), and of each gene the true effect and dispersion."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(DONORS), each)
    treated = (donor >= DONORS // 2) * 1.0
    log_size = 0.4 * rng.normal(size=len(donor))
    effect = EFFECT * (rng.random(genes) < SHARE)
    mean = rng.uniform(0.5, 2.5, genes)
    phi = np.exp(0.2 + 0.4 * mean + 0.3 * rng.normal(size=genes))  # less variation where counts are large
    eta = mean[:, None] + effect[:, None] * treated + log_size
    mu = np.exp(eta + SD_DONOR * rng.normal(size=(genes, DONORS))[:, donor])
    Y = rng.negative_binomial(phi[:, None], phi[:, None] / (phi[:, None] + mu)).astype(float)
    cells = pd.DataFrame({"donor": donor, "treated": treated, "log_size": log_size})
    return cells, Y, pd.DataFrame({"effect": effect, "phi": phi}, pd.Index([f"gene{k:04d}" for k in range(genes)]))


def report(batch, tests, shrunken, truth, cells, seconds) -> str:
    there = truth["effect"].to_numpy() > 0
    good = batch.converged
    rows = {"with donors": tests["p_adjusted"] <= RATE}
    rows["cells as replicates"] = naive(batch, cells) <= RATE
    lines = {
        name: {
            "found": f"{hits.sum():,}",
            "of them false": f"{(hits & ~there).sum():,}",
            "found of the true": f"{hits[there].mean():.0%}",
        }
        for name, hits in rows.items()
    }
    phi = truth["phi"].to_numpy()
    off = [np.median(np.abs(np.log(x[good] / phi[good]))) for x in (batch.dispersion, shrunken.dispersion)]
    head = [
        f"{len(batch):,} genes, {len(cells):,} cells of {DONORS} donors; {there.sum():,} genes respond to treatment.",
        f"Fitted in {seconds:.1f} s with compiling; {good.mean():.1%} converged.",
        "",
        f"Called a finding where adjusted p <= {RATE:g}:",
        pd.DataFrame.from_dict(lines, orient="index").to_string(),
        "",
        repr(shrunken),
        f"  median error of log dispersion: {off[0]:.2f} as estimated, {off[1]:.2f} shrunk",
        "",
    ]
    words = (
        "In plain words: a treatment of whole donors is tested by the donors, of whom there are few, however many "
        "cells they give. Taken for independent, the cells make findings of what are differences between donors. "
        "With 8 donors z is still too bold: it takes standard errors for known."
    )
    return "\n".join([*head, textwrap.fill(words, 110)])


def naive(batch, cells: pd.DataFrame) -> np.ndarray:
    """Adjusted p without donors: standard errors of the difference as if all cells were independent, from the
    information that each has about the log of its mean."""
    mu = np.exp(batch.fixef @ np.stack([np.ones(len(cells)), cells["treated"]]) + cells["log_size"].to_numpy())
    weight = mu / (1 + mu / batch.dispersion[:, None])
    treated = cells["treated"].to_numpy() > 0
    se = np.sqrt(1 / weight[:, treated].sum(axis=1) + 1 / weight[:, ~treated].sum(axis=1))
    return adjust(2 * norm.sf(np.abs(batch.fixef[:, 1]) / se))


def picture(batch, shrunken, Y: np.ndarray):
    """Volcano, p-values, and the dispersions before and after."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    mm.plots.volcano(batch, "treated", ax=axes[0])
    mm.plots.p_histogram(batch, "treated", ax=axes[1])
    mean = Y.mean(axis=1)
    order = np.argsort(mean)
    axes[2].loglog(mean, batch.dispersion, "o", color="#8a8a8a", ms=2, label="as estimated")
    axes[2].loglog(mean, shrunken.dispersion, "o", color="#0072b2", ms=2, label="shrunk")
    axes[2].loglog(mean[order], shrunken.centre[order], color="#d55e00", label="usual at this mean")
    axes[2].set(xlabel="mean count", ylabel="φ", ylim=np.nanquantile(shrunken.dispersion, [0, 1]) * [0.4, 3])
    axes[2].xaxis.set_minor_formatter(NullFormatter())
    axes[2].legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    main()
