"""How many subjects does an experiment need, and would more items do as well?

Reading times in two conditions: every subject reads every item once, in one of the two, by a Latin square. Subjects
differ in speed and in what the condition does to them, and so do items: random slopes for both. How many subjects find
an effect of 30 ms in four such experiments out of five, with 12 items and with 24? At each number of subjects 1,000
experiments are simulated and fitted with the model that made them.

    python examples/power_curve.py [--replicates 1000] [--subjects 20 40 ..] [--items 12 24] [--seed 1] [--out FOLDER]
"""

import argparse
import textwrap
import time
from pathlib import Path

import jax
import matplotlib

matplotlib.use("Agg")

import numpy as np
from scipy.stats import norm

import jaxmm as mm

OUTPUT = Path(__file__).parent / "output"
FORMULA = "rt ~ cond + (1 + cond | subject) + (1 + cond | item)"
TRUTH = {
    "fixef": {"(Intercept)": 500.0, "condhard": 30.0},
    "sd": {
        "subject": {"(Intercept)": 80.0, "condhard": 30.0},
        "item": {"(Intercept)": 50.0, "condhard": 20.0},
    },
    "corr": {"subject": 0.3, "item": 0.0},
    "sigma": 150.0,
}
SUBJECT_SLOPES, ITEM_SLOPES, NOISE = 30.0**2, 20.0**2, 150.0**2
SUBJECTS = [20, 40, 60, 90, 135]
ITEMS = [12, 24]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000, help="experiments simulated for each point")
    parser.add_argument("--subjects", type=int, nargs="+", default=SUBJECTS)
    parser.add_argument("--items", type=int, nargs="+", default=ITEMS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the picture")
    asked = parser.parse_args(arguments)

    began = time.perf_counter()
    curve = mm.power_curve(
        experiment(min(asked.subjects), min(asked.items)),
        TRUTH,
        asked.replicates,
        along={"subject": asked.subjects, "item": asked.items},
        key=jax.random.key(asked.seed),
        test="condhard",
        progress=False,
    )
    seconds = time.perf_counter() - began

    fits = asked.replicates * len(curve.table)
    print(f"{FORMULA}, an effect of {TRUTH['fixef']['condhard']:g} ms\n")
    print(curve)
    print(f"\n{fits:,} experiments simulated and fitted in {seconds:.0f} s, with what compiling took.\n")
    print("\n".join(textwrap.fill(paragraph, 110) for paragraph in in_words(curve)))
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "power_curve.png"
    ax = curve.plot()
    ax.set_xlabel("subjects")
    ax.figure.savefig(path, dpi=120)
    print(f"\nPicture: {path}")


def experiment(subject: int, item: int) -> mm.Model:
    """The smallest of them; the larger ones have copies of its subjects and items."""
    table = mm.make_design({"subject": subject, "item": item}, within={"cond": ["easy", "hard"]}, counterbalance=True)
    return mm.plan(FORMULA, table)


def in_words(curve: mm.PowerCurve) -> list[str]:
    found = []
    for row in curve.smallest.to_dict("records"):
        if row["note"]:
            found.append(f"with {row['item']} items a power of {row['note']} subjects")
        else:
            found.append(
                f"with {row['item']} items the experiment needs {row['size']:,.0f} subjects (between "
                f"{row['lower']:,.0f} and {row['upper']:,.0f}), with variances known it would be "
                f"{by_formula(row['item']):,.0f}"
            )
    fewest = min(curve.smallest["item"])
    floor = np.sqrt(ITEM_SLOPES / fewest)
    return [
        f"In plain words: {'; '.join(found)}.",
        "The variance of the estimated effect has three parts: the slopes of subjects over their number, "
        f"{SUBJECT_SLOPES:,.0f}/S; the slopes of items over theirs, {ITEM_SLOPES:,.0f}/I; and the noise, "
        f"{4 * NOISE:,.0f}/(S I). Subjects shrink the first and the last, never the second: with {fewest} items the "
        f"standard error stays above {floor:.1f} ms, however many subjects are invited.",
    ]


def by_formula(items: int, power: float = 0.8) -> float:
    """The subjects needed if the variances were known: effect / se = z(0.975) + z(power)."""
    effect = TRUTH["fixef"]["condhard"] / (norm.ppf(0.975) + norm.ppf(power))
    rest = effect**2 - ITEM_SLOPES / items
    return np.ceil((SUBJECT_SLOPES + 4 * NOISE / items) / rest) if rest > 0 else np.inf


if __name__ == "__main__":
    main()
