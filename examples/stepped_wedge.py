"""Is a stepped wedge with 12 clusters enough, and how many patients does it need in each?

Twelve hospitals take up a new treatment one after another: at each of four steps three more begin with it, in an order
that is drawn by lot, and in each of five periods new patients are seen in all. The effect is told within hospitals,
once periods are allowed for. For several numbers of patients in a hospital and period, 1,000 trials are simulated and
fitted; beside them stands the power by Hussey & Hughes's formula (2007, Contemp. Clin. Trials 28, 182-191), which takes
the variances for known, and below them how often the test rejects where there is no effect.

    python examples/stepped_wedge.py [--replicates 1000] [--patients 4 8 16 32] [--clusters 12] [--seed 1] [--out DIR]
"""

import argparse
import textwrap
from itertools import product
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import norm

import jaxmm as mm

OUTPUT = Path(__file__).parent / "output"
FORMULA = "score ~ factor(period) + treated + (1 | hospital)"
PERIODS, EFFECT, BETWEEN, WITHIN = 5, 0.3, 0.3, 1.0  # the effect and two standard deviations
PATIENTS = [4, 8, 16, 32]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000, help="trials simulated for each number of patients")
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS, help="in a hospital and period")
    parser.add_argument("--clusters", type=int, default=12, help="hospitals, a multiple of the four steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the picture")
    asked = parser.parse_args(arguments)

    def build(patients: int) -> mm.Model:
        return mm.plan(FORMULA, wedge(asked.clusters, patients))

    truth = {"fixef": effects(EFFECT), "sd": {"hospital": BETWEEN}, "sigma": WITHIN}
    curve = mm.power_curve(
        build, truth, asked.replicates, along={"patients": asked.patients}, key=asked.seed, test="treated",
        progress=False,
    )  # fmt: skip
    surface = curve.smooth() if len(asked.patients) > 1 else None
    null = truth | {"fixef": effects(0.0)}
    size = mm.power(build(max(asked.patients)), null, asked.replicates, key=asked.seed, test="treated", progress=False)

    print(f"{FORMULA}, {asked.clusters} hospitals, an effect of {EFFECT:g}\n")
    table = curve.table[["patients", "nobs", "power", "lower", "upper", "smooth"]].set_index("patients")
    table["formula"] = [hussey_hughes(asked.clusters, m) for m in table.index]
    print(table.round(3).to_string())
    rate, low, high = size.table.loc[size.table.index[0], ["rate", "lower", "upper"]]
    print(f"\nWithout an effect z rejects in {rate:.1%} of trials ({low:.1%} to {high:.1%}).\n")
    print("\n".join(textwrap.fill(line, 110) for line in in_words(surface, asked.clusters)))
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "stepped_wedge.png"
    draw(curve, surface, asked.clusters).savefig(path, dpi=120)
    print(f"\nPicture: {path}")


def wedge(clusters: int, patients: int) -> pd.DataFrame:
    """A row for each patient; the hospitals begin in equal shares after the first, second, .. period."""
    cells = list(product(range(clusters), range(PERIODS), range(patients)))
    table = pd.DataFrame(cells, columns=["hospital", "period", "patient"])
    begins = 1 + table["hospital"] * (PERIODS - 1) // clusters
    return table.assign(treated=(table["period"] >= begins).astype(float))


def effects(treated: float) -> dict[str, float]:
    """Scores rise a little from period to period, for all."""
    columns = mm.plan(FORMULA, wedge(PERIODS - 1, 2)).design.columns
    periods = [c for c in columns if c not in ("(Intercept)", "treated")]
    return {"(Intercept)": 0.0, "treated": treated} | {c: 0.05 * (k + 1) for k, c in enumerate(periods)}


def hussey_hughes(clusters: int, patients: float) -> float:
    """The power of the two-sided z test at 5 %, with the variances known."""
    X = wedge(clusters, 1).pivot(index="hospital", columns="period", values="treated").to_numpy()
    U, W, V = X.sum(), (X.sum(axis=0) ** 2).sum(), (X.sum(axis=1) ** 2).sum()
    (I, T), s2, t2 = X.shape, WITHIN**2 / patients, BETWEEN**2
    variance = I * s2 * (s2 + T * t2) / ((I * U - W) * s2 + (U**2 + I * T * U - T * W - I * V) * t2)
    z, q = EFFECT / np.sqrt(variance), norm.isf(0.025)
    return norm.cdf(z - q) + norm.cdf(-z - q)


def in_words(surface: mm.PowerSurface | None, clusters: int) -> list[str]:
    by_formula = next(m for m in range(1, 10_000) if hussey_hughes(clusters, m) >= 0.8)
    lines = [f"By the formula {by_formula} patients in each hospital and period give a power of 80 %."]
    if surface is None:
        return lines
    try:
        found = surface.smallest(0.8)
    except ValueError as error:
        return [*lines, f"By simulation: {error}."]
    slope = 100 * surface.gradient(patients=found["size"])["patients"]
    size, low, high = (f"{found[name]:,.0f}" for name in ("size", "lower", "upper"))
    lines.append(
        f"By simulation it takes {size} (between {low} and {high}); there, one patient more in each adds {slope:.1f} "
        "percentage points."
    )
    return lines


def draw(curve: mm.PowerCurve, surface: mm.PowerSurface | None, clusters: int) -> plt.Figure:
    """The design, and the power over the number of patients."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=[1, 1.5])
    X = wedge(clusters, 1).pivot(index="hospital", columns="period", values="treated").to_numpy()
    left.pcolormesh(X, cmap="Blues", vmin=-0.15, vmax=1.4, edgecolors="white")
    left.set(xlabel="period", ylabel="hospital", title="who has the treatment (dark)")
    left.set_xticks(np.arange(PERIODS) + 0.5, [str(k + 1) for k in range(PERIODS)])
    left.set_yticks(np.arange(0, clusters, 3) + 0.5, [str(k + 1) for k in range(0, clusters, 3)])
    left.invert_yaxis()
    table = curve.table
    fine = np.geomspace(table["patients"].min(), table["patients"].max(), 100)
    errors = [table["power"] - table["lower"], table["upper"] - table["power"]]
    right.errorbar(table["patients"], table["power"], errors, fmt="o", color="C0", capsize=3, label="simulated")
    if surface is not None:
        smooth = surface.at(patients=fine)
        right.plot(fine, smooth["power"], color="C0")
        right.fill_between(fine, smooth["lower"], smooth["upper"], color="C0", alpha=0.2, lw=0)
    right.plot(fine, [hussey_hughes(clusters, m) for m in fine], "k--", lw=1, label="Hussey & Hughes")
    right.axhline(0.8, color="grey", lw=0.8)
    right.set(xlabel="patients in a hospital and period", ylabel="power", ylim=(0, 1), title=f"{clusters} hospitals")
    right.legend(frameon=False, loc="lower right")
    return figure


if __name__ == "__main__":
    main()
