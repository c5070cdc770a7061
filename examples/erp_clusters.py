"""When and where does a condition change the voltage? Clusters in time and over channels, with family-wise error.

An ERP-like experiment: 16 subjects, 8 trials of each of two conditions, 16 channels on a ring × 60 samples. Subjects
differ in level and in what the condition does to them: (1 + cond | subject). The noise is smooth in time and over
channels. In each channel and sample the model is fitted, and fitted again to data in which whole subjects have changed
their sign; the mass of the largest cluster of each such permutation says how large one must be to be a finding.

    python examples/erp_clusters.py [--channels 16] [--samples 60] [--permutations 500] [--seed 2] [--out FOLDER]

With --out a picture is written to the folder.
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
from scipy.ndimage import gaussian_filter1d

import jaxmm as mm

SUBJECTS, TRIALS = 16, 8
EFFECT, SD_LEVEL, SD_SLOPE, SIGMA = 1.0, 1.0, 0.6, 2.0
LEVEL = 0.05


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--permutations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder of a picture; none is made without it")
    asked = parser.parse_args(arguments)

    table = mm.make_design({"subject": SUBJECTS}, within={"cond": ["a", "b"]}, repeats=TRIALS)
    truth = region(asked.samples, asked.channels)
    Y = responses(table, truth, asked.seed)
    model = mm.plan("voltage ~ cond + (1 + cond | subject)", table)
    neighbours = mm.adjacency_of(time=asked.samples, channel=ring(asked.channels))
    began = time.perf_counter()
    found = mm.permutation_test(
        model,
        Y.reshape(-1, len(table)),
        "cond",
        key=asked.seed,
        n=asked.permutations,
        statistic="cluster",
        threshold_p=0.01,
        adjacency=neighbours,
        progress=False,
    )
    seconds = time.perf_counter() - began
    print(found)
    print(report(found, truth, seconds))
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        path = asked.out / "erp_clusters.png"
        picture(found, truth).savefig(path, dpi=120)
        print(f"\nPicture: {path}")


def region(samples: int, channels: int) -> np.ndarray:
    """(samples, channels) the true effect: a bump in the middle third of the time, over a third of the ring."""
    time_, angle = np.linspace(-1, 1, samples), np.linspace(-np.pi, np.pi, channels, endpoint=False)
    bump = np.clip(np.cos(1.5 * np.pi * time_), 0, None) * (np.abs(time_) < 1 / 3)
    return EFFECT * bump[:, None] * (np.abs(angle) < np.pi / 3)


def ring(channels: int) -> np.ndarray:
    """(channels, channels) neighbours: those beside each other."""
    return np.roll(np.eye(channels, dtype=int), 1, axis=0) + np.roll(np.eye(channels, dtype=int), -1, axis=0)


def smooth(x: np.ndarray) -> np.ndarray:
    """Noise (.., samples, channels), smoothed along both, with its variance kept."""
    y = gaussian_filter1d(gaussian_filter1d(x, 2.0, axis=-2), 1.0, axis=-1, mode="wrap")
    return y / y.std()


def responses(table: pd.DataFrame, effect: np.ndarray, seed: int) -> np.ndarray:
    """(samples, channels, rows): level and slope of each subject, and noise, all smooth."""
    rng = np.random.default_rng(seed)
    subject, cond = table["subject"].cat.codes.to_numpy(), table["cond"].cat.codes.to_numpy()
    level, slope = (sd * smooth(rng.normal(size=(SUBJECTS, *effect.shape))) for sd in (SD_LEVEL, SD_SLOPE))
    noise = SIGMA * smooth(rng.normal(size=(len(table), *effect.shape)))
    return np.moveaxis(noise + level[subject] + (slope + effect)[subject] * cond[:, None, None], 0, -1)


def report(found: mm.PermutationResult, truth: np.ndarray, seconds: float) -> str:
    frame, clusters = found.frame, found.clusters
    called = (frame["p_fwe"] <= LEVEL).to_numpy()
    true = truth.ravel() > 0
    alone = (frame["p"] <= LEVEL).to_numpy()
    words = (
        f"In plain words: {int(np.sum(clusters['p_fwe'] <= LEVEL))} of {len(clusters)} clusters are larger than chance "
        f"makes them. {called[true].mean():.0%} of the {true.sum()} cells with an effect lie in them, and "
        f"{called[~true].mean():.1%} of the cells without one: a cluster has a p, its cells have none, so that its "
        f"margins are not findings. By itself at p <= {LEVEL:g} each cell would call {alone[~true].sum()} without an "
        f"effect. Every one of the {found.n:,} permutations of {len(found):,} cells is a fit of the model with its "
        f"own variances: {found.n * len(found):,} fits in {seconds:.0f} s, with compiling."
    )
    return "\n" + textwrap.fill(words, 110)


def picture(found: mm.PermutationResult, truth: np.ndarray):
    """t over time and channels, with the clusters that are findings, and the null distribution."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    frame = found.frame
    t, p = (frame[c].to_numpy().reshape(truth.shape).T for c in ("t", "p_fwe"))
    limit = np.nanmax(np.abs(t))
    image = axes[0].imshow(t, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes[0], label="t")
    if (p <= LEVEL).any():
        axes[0].contour(p <= LEVEL, [0.5], colors="#222222", linewidths=1.2)
    axes[0].contour(truth.T, [1e-9], colors="#222222", linewidths=0.8, linestyles=":")
    axes[0].set_title("clusters with p_fwe <= 0.05 (solid), true effect (dotted)", fontsize=9)
    axes[0].set_xlabel("sample", fontsize=9)
    axes[0].set_ylabel("channel", fontsize=9)
    found.plot(axes[1])
    return figure


if __name__ == "__main__":
    main()
