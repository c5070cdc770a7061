"""From a formula and a data frame to a fit that explains itself: reaction times of sleep-deprived drivers.

Eighteen people, allowed three hours in bed a night, took a vigilance test on ten days (Belenky et al. 2003).
The model gives each an intercept and a slope of their own, drawn from a common normal distribution.

    python examples/quickstart.py [--out FOLDER]
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd

import jaxmm as mm

OUTPUT = Path(__file__).parent / "output"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the pictures")
    out = parser.parse_args(arguments).out

    sleepstudy = mm.datasets.load("sleepstudy")
    model = mm.Model.from_formula("Reaction ~ Days + (Days | Subject)", sleepstudy)

    heading("The model, before fitting: print(model)")
    print(model)

    fit = model.fit()  # in one line: mm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy)
    heading("The fit: print(fit.summary())")
    print(fit.summary())

    heading("How much do people differ?  fit.varcorr().cov beside fit.ranef().cov()")
    print(beside(fit.varcorr().cov["Subject"], fit.ranef().cov("Subject")))

    heading("Why the two differ: print(fit.shrinkage())")
    print(fit.shrinkage())

    heading("Predictions for a person of the study and for a new one: fit.predict(...)")
    print(predictions(fit))

    heading("Pictures")
    for path in pictures(fit, out):
        print(path)


def beside(varcorr: pd.DataFrame, blups: pd.DataFrame) -> str:
    """Two covariance matrices of the same effects, side by side."""
    both = pd.concat({"VarCorr: the population": varcorr, "spread of the BLUPs": blups}, axis=1)
    return both.to_string(float_format="{:.2f}".format)


def predictions(fit: mm.Fit) -> str:
    """Days 0 to 9 of subject 308, who was measured, and of somebody who was not."""
    days = np.arange(10)
    table = pd.DataFrame({"Days": days})
    for subject in ("308", "new"):
        rows = pd.DataFrame({"Days": days, "Subject": subject})
        table[f"Subject {subject}"] = fit.predict(rows, new_levels="population")
    return table.to_string(index=False, float_format="{:.1f}".format)


def pictures(fit: mm.Fit, out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    drawn = {
        "shrinkage.png": mm.plots.shrinkage(fit),
        "shrinkage_arrows.png": mm.plots.shrinkage_arrows(fit).figure,
        "caterpillar.png": mm.plots.caterpillar(fit)[0].figure,
    }
    for name, figure in drawn.items():
        figure.savefig(out / name, dpi=120)
    return [out / name for name in drawn]


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


if __name__ == "__main__":
    main()
