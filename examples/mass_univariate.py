"""Where in space and time does a condition matter? 20,000 responses of one design, and how many findings are false.

An EEG-like experiment: 20 subjects, 12 trials each, half of them in each condition; 100 electrodes × 200 samples make
20,000 responses. Subjects differ in level and in what the condition does to them: (1 + cond | subject). The condition
matters in one region of electrodes and samples, which is known here. Every response is fitted by itself, all of them in
one call; p-values are adjusted for the false discovery rate.

    python examples/mass_univariate.py [--electrodes 100] [--samples 200] [--seed 4] [--out FOLDER]
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
from scipy.stats import t as student

import jaxmm as mm
from jaxmm.results.multiplicity import adjust

OUTPUT = Path(__file__).parent / "output"
SUBJECTS, TRIALS = 20, 12
EFFECT, SD_LEVEL, SD_SLOPE, SIGMA = 1.2, 1.0, 1.0, 1.5
RATE = 0.05  # of false discoveries


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--electrodes", type=int, default=100)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the picture")
    asked = parser.parse_args(arguments)

    table = mm.make_design({"subject": SUBJECTS}, within={"cond": ["a", "b"]}, repeats=TRIALS // 2)
    effect = region(asked.electrodes, asked.samples)
    Y = responses(table, effect.ravel(), asked.seed)
    model = mm.plan("voltage ~ cond + (1 + cond | subject)", table)
    began = time.perf_counter()
    batch = mm.fit_many(model, Y, progress=False)
    seconds = time.perf_counter() - began

    found = batch.test_table("condb")
    found["truth"] = effect.ravel()
    found["p_t"] = 2 * student.sf(np.abs(found["z"]), SUBJECTS - 1)
    found["p_t_adjusted"] = adjust(found["p_t"].to_numpy())
    print(report(found, seconds, len(table)))
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "mass_univariate.png"
    picture(found, effect.shape).savefig(path, dpi=120)
    print(f"\nPicture: {path}")


def region(electrodes: int, samples: int) -> np.ndarray:
    """(electrodes, samples) the true effect: a bump, zero outside an ellipse."""
    e, s = np.meshgrid(np.linspace(-1, 1, electrodes), np.linspace(-1, 1, samples), indexing="ij")
    distance = ((e + 0.3) / 0.35) ** 2 + ((s - 0.1) / 0.3) ** 2
    return EFFECT * np.where(distance < 1, 0.5 + 0.5 * np.cos(np.pi * distance), 0.0)


def responses(table: pd.DataFrame, effect: np.ndarray, seed: int) -> np.ndarray:
    """(responses, rows): level and slope of each subject, and noise, drawn for each response."""
    rng = np.random.default_rng(seed)
    subject, cond = table["subject"].cat.codes.to_numpy(), table["cond"].cat.codes.to_numpy()
    level = rng.normal(0, SD_LEVEL, (len(effect), SUBJECTS))
    slope = rng.normal(0, SD_SLOPE, (len(effect), SUBJECTS)) + effect[:, None]
    Y = rng.normal(0, SIGMA, (len(effect), len(table)))
    Y += level[:, subject]
    Y += slope[:, subject] * cond
    return Y


def report(found: pd.DataFrame, seconds: float, rows: int) -> str:
    true = found["truth"] > 0
    strong = found["truth"] > EFFECT / 2
    lines = {}
    for name, column in (
        ("z, not adjusted", "p"),
        ("z, adjusted (Benjamini-Hochberg)", "p_adjusted"),
        (f"t with {SUBJECTS - 1} df, adjusted", "p_t_adjusted"),
    ):
        hits = found[column] <= RATE
        lines[name] = {
            "found": f"{hits.sum():,}",
            "of them false": f"{(hits & ~true).sum():,}",
            "false share": f"{(hits & ~true).sum() / max(1, hits.sum()):.1%}",
            "found of the true": f"{hits[true].mean():.1%}",
            "of the strong": f"{hits[strong].mean():.1%}",
        }
    table = pd.DataFrame.from_dict(lines, orient="index")
    shares = [float(lines[name]["false share"].rstrip("%")) for name in lines]
    head = [
        f"{len(found):,} responses of {rows} rows, voltage ~ cond + (1 + cond | subject); the condition matters in "
        f"{true.sum():,} ({true.mean():.1%}).",
        f"Fitted in {seconds:.1f} s with compiling, {len(found) / seconds:,.0f} responses a second; "
        f"{(found['status'] == 'converged').mean():.2%} converged, {found['is_singular'].mean():.1%} singular.",
        "",
        f"Called a finding where p <= {RATE:g}:",
        table.to_string(),
        "",
        "strong  more than half of the largest effect",
        "",
    ]
    words = (
        f"In plain words: without adjustment {shares[0]:.0f} % of the findings are false, for of many thousand "
        "responses without an effect one in twenty is called one. Adjusting for the false discovery rate is to keep "
        f"this share below {100 * RATE:g} %. With z it is {shares[1]:.1f} %: {SUBJECTS} subjects are few, the normal "
        "distribution takes their standard errors for known, and far out in its tails, where adjusted p-values are "
        f"decided, that matters most. In this balanced design z has the t distribution with {SUBJECTS - 1} degrees of "
        f"freedom instead (where no variance is estimated as zero); with it the share is {shares[2]:.1f} %."
    )
    return "\n".join([*head, textwrap.fill(words, 110)])


def picture(found: pd.DataFrame, shape: tuple[int, int]):
    """The true effect, the estimates, and what is called a finding."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
    truth, estimate = (found[c].to_numpy().reshape(shape) for c in ("truth", "estimate"))
    called = np.where(found["p_adjusted"] <= RATE, found["z"], np.nan).reshape(shape)
    limit = np.quantile(np.abs(estimate), 0.995)
    for axis, values, title, span in (
        (axes[0], truth, "true effect", limit),
        (axes[1], estimate, "estimates", limit),
        (axes[2], called, f"z where adjusted p <= {RATE:g}", 8.0),
    ):
        image = axis.imshow(values, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-span, vmax=span)
        figure.colorbar(image, ax=axis, shrink=0.8)
        axis.contour(truth, [1e-9], colors="#222222", linewidths=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("sample", fontsize=9)
    axes[0].set_ylabel("electrode", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
