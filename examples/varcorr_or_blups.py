"""Are the variances to be read off VarCorr or off the BLUPs, and why do they differ?

A simulation with a known answer: 1,000 subjects with random intercepts of variance D, m measurements each
with error variance σ², a mean of 10. Four settings, 10,000 data sets each.

    y_ij = 10 + b_j + e_ij,   b_j ~ N(0, D),   e_ij ~ N(0, σ²),   i = 1..m

Theory says that the BLUPs of such a data set have the variance D · D/(D + σ²/m) and not D, and that the
rest, D · (σ²/m)/(D + σ²/m), is the variance of b_j given the data: what m measurements leave unknown of one
subject.

    python examples/varcorr_or_blups.py [--replicates 10000] [--subjects 1000] [--seed 2] [--out FOLDER]
"""

import argparse
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import jax
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import jaxmm as mm

OUTPUT = Path(__file__).parent / "output"
MEAN = 10.0
NUMBERS = 5_000_000  # of responses in memory at once: 40 MB
DATA, POPULATION, BLUPS = "#8a8a8a", "#222222", "#0072b2"


@dataclass
class Setting:
    """One design, and what its data sets gave: a row per data set in `results`."""

    D: float
    sigma2: float
    m: int
    results: pd.DataFrame = field(default_factory=pd.DataFrame)
    first: mm.Fit | None = None
    seconds: float = 0.0

    @property
    def title(self) -> str:
        return f"D = {self.D:g}, σ² = {self.sigma2:g}, m = {self.m}"

    def share(self, D, sigma2):
        """What a BLUP keeps of the distance of its subject's mean from the mean of all: D/(D + σ²/m)."""
        return D / (D + sigma2 / self.m)

    def blup_variance(self, D, sigma2):
        """The variance of the BLUPs, D · D/(D + σ²/m)."""
        return D * self.share(D, sigma2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=10_000, help="data sets per setting")
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the picture")
    asked = parser.parse_args(arguments)

    settings = [Setting(10, 1, 2), Setting(10, 1, 20), Setting(1, 10, 20), Setting(1, 10, 2)]
    for k, setting in enumerate(settings):
        run(setting, asked.subjects, asked.replicates, jax.random.fold_in(jax.random.key(asked.seed), k))

    print(report(settings, asked.subjects, asked.replicates))
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "varcorr_or_blups.png"
    picture(settings).savefig(path, dpi=120)
    print(f"\nPicture: {path}")


def run(setting: Setting, subjects: int, replicates: int, key: jax.Array) -> None:
    """Simulate and fit, some data sets at a time; data set r depends on the key and on r alone."""
    subject = np.repeat(np.arange(subjects), setting.m)
    model = mm.Model.from_formula("y ~ 1 + (1 | subject)", {"y": np.sin(np.arange(len(subject))), "subject": subject})
    truth = {"fixef": MEAN, "sd": np.sqrt(setting.D), "sigma": np.sqrt(setting.sigma2)}
    source = mm.Simulated(model, truth, replicates, key)
    size = min(replicates, max(1, NUMBERS // len(subject)))
    began = time.perf_counter()
    blocks = []
    for first in range(0, replicates, size):
        y = np.asarray(source.block(first, size).y)[: replicates - first]
        blocks.append(variances(setting, y, mm.fit_many(model, y, progress=False)))
    setting.seconds = time.perf_counter() - began
    setting.results = pd.concat(blocks, ignore_index=True)
    setting.first = model.with_response(np.asarray(source.block(0, 1).y)[0]).fit()


def variances(setting: Setting, y: np.ndarray, fits: mm.FitBatch) -> pd.DataFrame:
    """Of data sets y (k, subjects · m) and their fits.

    With m measurements of each subject b_j = D/(D + σ²/m) (ȳ_j - μ), and Var(b_j | data) = D (1 - D/(D + σ²/m)), the
    same for all: the BLUPs of all data sets at once, without a loop over fits.
    """
    means = y.reshape(len(y), -1, setting.m).mean(axis=2)
    D, sigma2 = fits.varcorr_sd[:, 0] ** 2, fits.sigma**2
    share = setting.share(D, sigma2)
    blups = share[:, None] * (means - fits.fixef)
    return pd.DataFrame(
        {"VarCorr": D, "sigma2": sigma2, "BLUPs": blups.var(axis=1, ddof=1), "conditional": D * (1 - share)}
    )


def difference_from_ranef(setting: Setting) -> float:
    """How far the formulas are from the BLUPs of a fit of the first data set."""
    modes = setting.first.ranef()
    own = np.array([modes.cov("subject").iloc[0, 0], modes.cond_cov["subject"].mean()])
    return np.abs(setting.results.loc[0, ["BLUPs", "conditional"]] - own).max()


def report(settings: list[Setting], subjects: int, replicates: int) -> str:
    rows = {}
    for s in settings:
        found = s.results
        closed = s.blup_variance(found["VarCorr"], found["sigma2"])
        rows[f"{s.D:g}", f"{s.sigma2:g}", f"{s.m}"] = {
            "VarCorr": with_error(found["VarCorr"]),
            "variance of BLUPs": with_error(found["BLUPs"]),
            "+ cond. variance": with_error(found["conditional"]),
            "= sum": with_error(found["BLUPs"] + found["conditional"]),
            "D²/(D + σ²/m)": with_error(closed),
            "at the truth": f"{s.blup_variance(s.D, s.sigma2):.4f}",
        }
    largest = max(
        (s.results[["BLUPs", "conditional"]].sum(axis=1) - s.results["VarCorr"]).abs().max() for s in settings
    )
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.names = ["D", "σ²", "m"]
    check = max(difference_from_ranef(s) for s in settings)
    converged = sum(s.results["VarCorr"].count() for s in settings)
    total, fits = sum(s.seconds for s in settings), replicates * len(settings)
    return "\n".join(
        [
            f"{subjects:,} subjects, m rows each; mean {MEAN:g}, prior variance D, error variance σ².",
            f"{replicates:,} data sets per setting, REML: means over the data sets ± their Monte-Carlo errors:",
            "",
            table.reset_index().to_string(index=False),
            "",
            "cond. variance  the mean over subjects of Var(b_j | data)",
            "D²/(D + σ²/m)   the closed form of the variance of the BLUPs, at the estimates of each data set",
            "at the truth    the same at the true D and σ²; it is convex in D, so that uncertain estimates",
            "                lie a little above it in the long run",
            f"Largest difference between sum and VarCorr in any data set: {largest:.0e};",
            f"and between these formulas and fit.ranef() of the first data sets: {check:.0e}.",
            f"{fits:,} data sets simulated and fitted in {total:.1f} s, {fits / total:,.0f} in a second; "
            f"{converged:,} of the fits converged.",
            "",
            *(textwrap.fill(paragraph, 110) for paragraph in in_words(settings)),
        ]
    )


def with_error(values: pd.Series) -> str:
    return f"{values.mean():.4f} ± {values.std() / np.sqrt(values.count()):.4f}"


def in_words(settings: list[Setting]) -> list[str]:
    by_share = sorted(settings, key=lambda s: s.results["BLUPs"].mean() / s.D)
    least, most = by_share[0], by_share[-1]
    share_least, share_most = (s.results["BLUPs"].mean() / s.D for s in (least, most))
    return [
        "In plain words: read the variance off VarCorr. It estimates how much subjects differ in the "
        "population, and it is right in every setting, however little each subject was measured. The BLUPs "
        "are predictions of the subjects at hand: each is pulled towards the mean by as much as its own data "
        "leave in doubt, and so they spread less than the subjects do. They are not wrong: the smaller "
        "spread is what makes them the best predictions. They answer another question.",
        "How much they spread depends on D against σ²/m, the variance of a subject's own mean. With "
        f"{most.title} the BLUPs keep {share_most:.0%} of the variance and either reading would do; with "
        f"{least.title} they keep {share_least:.0%}, and whoever took their spread for the population's "
        f"would be wrong by a factor of {1 / share_least:.1f}. What is missing is the conditional variance: "
        "the two add up to VarCorr, in each single data set. fit.shrinkage() prints this account for any "
        "model.",
    ]


def picture(settings: list[Setting]):
    """Above: the subjects of one data set. Below: both variances over all data sets."""
    figure, axes = plt.subplots(2, len(settings), figsize=(3.1 * len(settings), 5.6), layout="constrained")
    for s, above, below in zip(settings, *axes, strict=True):
        blups = s.first.ranef()["subject"].iloc[:, 0]
        x = np.linspace(-3.5, 3.5, 201) * np.sqrt(s.D)
        above.hist(blups, bins=30, range=(x[0], x[-1]), density=True, color=BLUPS, alpha=0.5, label="BLUPs")
        above.plot(x, normal(x, s.D), color=POPULATION, lw=1.5, label="population, N(0, D)")
        above.set_title(s.title, fontsize=10)
        above.set_xlabel("effect of a subject", fontsize=9)
        values = s.results[["VarCorr", "BLUPs"]]
        low, high = min(values.min().min(), s.D), max(values.max().max(), s.D)
        margin = 0.05 * (high - low)
        bins = np.linspace(low - margin, high + margin, 60)
        below.hist(values["BLUPs"], bins, color=BLUPS, alpha=0.5, label="variance of the BLUPs")
        below.hist(values["VarCorr"], bins, color=DATA, alpha=0.6, label="VarCorr")
        closed = s.blup_variance(s.D, s.sigma2)
        below.axvline(closed, color=BLUPS, ls=(0, (4, 2)), lw=1.2, label="D²/(D + σ²/m)")
        below.axvline(s.D, color=POPULATION, lw=1.5, label="D, the truth")
        below.set_xlabel("variance", fontsize=9)
        for axis in (above, below):
            axis.set_yticks([])
            axis.tick_params(labelsize=8)
            for side in ("top", "right", "left"):
                axis.spines[side].set_visible(False)
    axes[0, 0].set_ylabel("one data set:\nits subjects", fontsize=9)
    axes[1, 0].set_ylabel(f"{len(settings[0].results):,} data sets:\ntheir estimates", fontsize=9)
    handles = [axis.get_legend_handles_labels() for axis in axes[:, 0]]
    figure.legend(
        handles[0][0] + handles[1][0], handles[0][1] + handles[1][1],
        loc="outside upper center", ncols=6, frameon=False, fontsize=9,
    )  # fmt: skip
    return figure


def normal(x: np.ndarray, variance: float) -> np.ndarray:
    return np.exp(-0.5 * x**2 / variance) / np.sqrt(2 * np.pi * variance)


if __name__ == "__main__":
    main()
