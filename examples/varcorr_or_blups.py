"""Are the variances to be read off VarCorr or off the BLUPs, and why do they differ?

A simulation with a known answer: 1,000 subjects with random intercepts of variance D, m measurements each
with error variance σ², a mean of 10. Four settings, several hundred data sets each.

    y_ij = 10 + b_j + e_ij,   b_j ~ N(0, D),   e_ij ~ N(0, σ²),   i = 1..m

Theory says that the BLUPs of such a data set have the variance D · D/(D + σ²/m) and not D, and that the
rest, D · (σ²/m)/(D + σ²/m), is the variance of b_j given the data: what m measurements leave unknown of one
subject.

    python examples/varcorr_or_blups.py [--replicates 300] [--subjects 1000] [--seed 2] [--out FOLDER]
"""

import argparse
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import jaxmm as mm

OUTPUT = Path(__file__).parent / "output"
MEAN = 10.0
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

    def blup_variance(self, D, sigma2):
        """The variance of the BLUPs, D · D/(D + σ²/m)."""
        return D**2 / (D + sigma2 / self.m)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=300, help="data sets per setting")
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the picture")
    asked = parser.parse_args(arguments)

    settings = [Setting(10, 1, 2), Setting(10, 1, 20), Setting(1, 10, 20), Setting(1, 10, 2)]
    for k, setting in enumerate(settings):
        run(setting, asked.subjects, asked.replicates, [asked.seed, k])

    print(report(settings, asked.subjects, asked.replicates))
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "varcorr_or_blups.png"
    picture(settings).savefig(path, dpi=120)
    print(f"\nPicture: {path}")


def run(setting: Setting, subjects: int, replicates: int, seed: list[int]) -> None:
    """Simulate and refit; data set r depends on the seed and on r alone."""
    subject = np.repeat(np.arange(subjects), setting.m)

    def response(r: int) -> np.ndarray:
        rng = np.random.default_rng([*seed, r])
        b = rng.normal(0, np.sqrt(setting.D), subjects)
        return MEAN + b[subject] + rng.normal(0, np.sqrt(setting.sigma2), len(subject))

    data = {"y": response(0), "subject": subject}
    model = mm.Model.from_formula("y ~ 1 + (1 | subject)", data)
    setting.first = model.fit()
    rows = []
    began = time.perf_counter()
    for r in range(replicates):
        fit = setting.first if r == 0 else setting.first.refit(response(r))  # compiles nothing
        blups = fit.ranef()
        rows.append(
            {
                "VarCorr": fit.varcorr().cov["subject"].iloc[0, 0],
                "sigma2": fit.sigma**2,
                "BLUPs": blups.cov("subject").iloc[0, 0],
                "conditional": blups.cond_cov["subject"].mean(),
            }
        )
    setting.seconds = time.perf_counter() - began
    setting.results = pd.DataFrame(rows)


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
    total, fits = sum(s.seconds for s in settings), replicates * len(settings)
    return "\n".join(
        [
            f"{subjects:,} subjects, m rows each; mean {MEAN:g}, prior variance D, error variance σ².",
            f"{replicates} data sets per setting, REML: means over the data sets ± their Monte-Carlo errors:",
            "",
            table.reset_index().to_string(index=False),
            "",
            "cond. variance  the mean over subjects of Var(b_j | data)",
            "D²/(D + σ²/m)   the closed form of the variance of the BLUPs, at the estimates of each data set",
            "at the truth    the same at the true D and σ²; it is convex in D, so that the mean over",
            "                uncertain estimates lies a little above",
            f"Largest difference between sum and VarCorr in any data set: {largest:.0e}.",
            f"{fits:,} data sets simulated and fitted in {total:.1f} s, {1e3 * total / fits:.1f} ms each.",
            "",
            *(textwrap.fill(paragraph, 110) for paragraph in in_words(settings)),
        ]
    )


def with_error(values: pd.Series) -> str:
    return f"{values.mean():.4f} ± {values.std() / np.sqrt(len(values)):.4f}"


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
    axes[1, 0].set_ylabel(f"{len(settings[0].results)} data sets:\ntheir estimates", fontsize=9)
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
