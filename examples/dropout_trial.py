"""What does dropout do to a trial?

Patients in two arms are seen at five visits; the treated ones improve faster, by the coefficient of arm:visit. Who does
badly may leave. Four trials with the same patients: nobody leaves; by chance, twice as often among the treated; by the
last response that was seen (at random: the likelihood is right); by the response that is not seen (not at random). Of
each the bias of the effect, its power, and the type I error where there is none, by Kenward and Roger's test.

    python examples/dropout_trial.py [--replicates 500] [--patients 40] [--seed 1] [--out FOLDER]
"""

import argparse
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

import jaxmm as mm

OUTPUT = Path(__file__).parent / "output"
FORMULA = "y ~ arm * visit + (visit | patient)"
EFFECT = "armtreated:visit"
SD = {"patient": {"(Intercept)": 1.0, "visit": 0.3}}


def patterns() -> dict[str, object]:
    """Low responses are bad: a unit less raises the odds of leaving."""
    who = {"unit": "patient", "visit": "visit"}
    return {
        "nobody leaves": None,
        "by chance and arm": mm.missing.Dropout({"control": 0.1, "treated": 0.2}, by="arm", **who),
        "by the last response": mm.missing.DropoutByResponse(-2.2, previous=-0.9, **who),
        "by the one not seen": mm.missing.DropoutByResponse(-2.2, current=-0.9, **who),
    }


def truth(effect: float) -> dict:
    fixef = {"(Intercept)": 0.0, "armtreated": 0.0, "visit": 0.1, EFFECT: effect}
    return {"fixef": fixef, "sd": SD, "corr": {"patient": -0.2}, "sigma": 1.0}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=500, help="trials simulated for each pattern")
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the picture")
    asked = parser.parse_args(arguments)

    model = mm.plan(FORMULA, mm.make_design("parallel", patients=asked.patients, visits=5))
    rows = {}
    for name, pattern in patterns().items():
        mechanism = mm.Mechanism(missing=pattern)
        options = {"key": asked.seed, "mechanism": mechanism, "tests": ["kenward-roger"], "of": EFFECT}
        found, null = (mm.study(model, truth(x), asked.replicates, progress=False, **options) for x in (0.3, 0.0))
        recovery = found.recovery.loc[EFFECT]
        rows[name] = {
            "bias": recovery["bias"],
            "± ": recovery["bias_mc"],
            "power": found.tests["rate"][0],
            "±": found.tests["rate_mc"][0],
            "type I": null.tests["rate"][0],
            " ±": null.tests["rate_mc"][0],
            "bias of visit": recovery_of(found, "visit"),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    print(f"{FORMULA}, {asked.patients} patients, {asked.replicates} trials for each pattern, effect 0.3\n")
    print(table.round(3).to_string())
    print()
    print(textwrap.fill(in_words(table), 110))
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "dropout_trial.png"
    picture(table).savefig(path, dpi=120)
    print(f"\nPicture: {path}")


def recovery_of(found: mm.StudyResult, name: str) -> float:
    return found.recovery.loc[name, "bias"]


def in_words(table: pd.DataFrame) -> str:
    whole, least = table.loc["nobody leaves"], table["power"].drop("nobody leaves").idxmin()
    other = table.loc["by the one not seen"]
    return (
        f"In plain words: with everybody there the trial finds the effect in {100 * whole['power']:.0f} % of cases, "
        f"and in {100 * table.loc[least, 'power']:.0f} % where patients leave {least}. Where what is seen says who "
        "leaves, the estimates stay right: rows are lost, not truth. Where the response that nobody sees decides, the "
        f"slope of the control arm is off by {other['bias of visit']:+.2f} and the effect by {other['bias']:+.2f}; no "
        "analysis of what is seen can tell this trial from the one before."
    )


def picture(table: pd.DataFrame) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8), sharey=True, layout="constrained")
    at = range(len(table))
    left.errorbar(table["bias"], at, xerr=2 * table["± "], fmt="o", color="C0")
    left.axvline(0.0, color="0.6", lw=0.8)
    left.set_xlabel("bias of the effect")
    left.set_yticks(list(at), table.index)
    left.invert_yaxis()
    right.errorbar(100 * table["power"], at, xerr=200 * table["±"], fmt="o", color="C0", label="power")
    right.errorbar(100 * table["type I"], at, xerr=200 * table[" ±"], fmt="s", color="C1", label="type I error")
    right.axvline(5.0, color="0.6", lw=0.8)
    right.set_xlabel("rejections, %")
    right.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
