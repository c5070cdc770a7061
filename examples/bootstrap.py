"""How far can the estimates of a mixed model be trusted, if its assumptions may not hold?

Eighteen people, allowed three hours in bed a night, took a vigilance test on ten days (Belenky et al. 2003). The model
gives each a reaction time and a daily slowing of their own. Wald intervals exist for the fixed effects and believe the
whole model. Three bootstraps fit it again to responses made from the fit, and believe less and less of it:

    parametric   normal random effects and errors, drawn with the fitted variances
    residual     the fitted variances, but effects and errors as they are in the data
    case         people only: eighteen drawn with replacement, each with all ten days

    python examples/bootstrap.py [--replicates 1999] [--seed 1] [--out FOLDER]
"""

import argparse
import textwrap
import time
from pathlib import Path

import jax
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import norm

import jaxmm as mm

OUTPUT = Path(__file__).parent / "output"
KINDS = {"parametric": "#0072b2", "residual": "#009e73", "case": "#d55e00"}
WALD, ESTIMATE = "#8a8a8a", "#222222"
NAMES = {
    "(Intercept)": "mean at day 0, ms",
    "Days": "mean slowing, ms a day",
    "sd_(Intercept)|Subject": "SD of people at day 0, ms",
    "sd_Days|Subject": "SD of people's slowing",
    "cor_(Intercept).Days|Subject": "correlation of the two",
    "sigma": "residual SD, ms",
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1999, help="of each bootstrap")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the picture")
    asked = parser.parse_args(arguments)

    fit = mm.lmm("Reaction ~ Days + (Days | Subject)", mm.datasets.load("sleepstudy"))
    key, boots, seconds = jax.random.key(asked.seed), {}, {}
    for kind in KINDS:
        began = time.perf_counter()
        boots[kind] = mm.bootstrap(fit, asked.replicates, key=key, kind=kind, progress=False)
        seconds[kind] = time.perf_counter() - began

    print(f"{fit.formula}, {asked.replicates:,} replicates of each bootstrap, 95 % percentile intervals:\n")
    print(intervals(fit, boots).to_string())
    print("\nStandard errors, and the bias that the parametric bootstrap finds:\n")
    print(errors(fit, boots).to_string(na_rep="", float_format="{:.3f}".format))
    print("\nA number of one's own, Φ(slope / SD of slopes), the share of the population that slows down:\n")
    print(of_ones_own(fit, asked.replicates, key).to_string(float_format="{:.3f}".format))
    print("\nFitted, compilation included: " + ", ".join(f"{kind} {s:.1f} s" for kind, s in seconds.items()) + ".\n")
    print("\n\n".join(textwrap.fill(paragraph, 110) for paragraph in in_words(fit, boots)))

    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "bootstrap.png"
    picture(fit, boots).savefig(path, dpi=120)
    print(f"\nPicture: {path}")


def intervals(fit: mm.Fit, boots: dict[str, mm.FitBatch]) -> pd.DataFrame:
    def spell(table: pd.DataFrame) -> pd.Series:
        return pd.Series({name: f"{row.lower:.2f} .. {row.upper:.2f}" for name, row in table.iterrows()})

    columns = {"estimate": boots["parametric"].observed.map("{:.2f}".format), "Wald": spell(fit.confint())}
    columns |= {kind: spell(boot.confint()) for kind, boot in boots.items()}
    return pd.DataFrame(columns).loc[list(NAMES)].fillna("").rename(NAMES)


def errors(fit: mm.Fit, boots: dict[str, mm.FitBatch]) -> pd.DataFrame:
    columns = {"Wald": fit.bse, **{kind: boot.se for kind, boot in boots.items()}, "bias": boots["parametric"].bias}
    return pd.DataFrame(columns).loc[list(NAMES)].rename(NAMES)


def share_that_slows(fit: mm.Fit) -> float:
    return norm.cdf(fit.fixef["Days"] / fit.varcorr().sd["Subject"]["Days"])


def of_ones_own(fit: mm.Fit, replicates: int, key: jax.Array) -> pd.DataFrame:
    boot = mm.bootstrap(fit, replicates, key=key, statistic=share_that_slows, progress=False)
    methods = ("percentile", "basic", "normal", "bca")
    return pd.concat([boot.confint(method) for method in methods], keys=methods).droplevel(1)


def in_words(fit: mm.Fit, boots: dict[str, mm.FitBatch]) -> list[str]:
    se = {kind: boot.se for kind, boot in boots.items()}
    wald = fit.bse["Days"]
    ratio = se["case"]["sigma"] / se["parametric"]["sigma"]
    low, high = boots["parametric"].confint(parm="cor_(Intercept).Days|Subject").iloc[0, :2]
    return [
        f"In plain words: the mean slowing is known to about ±{wald:.1f} ms a day, and it hardly matters who says so: "
        f"Wald {wald:.2f}, " + ", ".join(f"{kind} {s['Days']:.2f}" for kind, s in se.items()) + ". Such a mean over "
        "eighteen people does not hang on a normal distribution.",
        "Variances do. The model takes the errors of all people for draws from one normal distribution, and so thinks "
        f"their SD known to ±{se['parametric']['sigma']:.1f} ms. Some people are far less regular than others; which "
        f"of them are in the sample makes the uncertainty {ratio:.1f} times as large, as the case bootstrap sees.",
        f"And eighteen people say next to nothing about the correlation: anything from {low:.2f} to {high:.2f}. "
        "Estimates of a variance are skewed, too: intervals of the form estimate ± 2 standard errors, which basic and "
        'normal ones resemble, may leave their range. Percentile and BCa intervals (confint("bca")) do not.',
    ]


def picture(fit: mm.Fit, boots: dict[str, mm.FitBatch]):
    """For each parameter the replicates of the three bootstraps, and the intervals below them."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    wald = fit.confint()
    ends = {kind: boot.confint() for kind, boot in boots.items()}
    for axis, (name, title) in zip(axes.ravel(), NAMES.items(), strict=True):
        every = np.concatenate([boot.statistics[name].dropna() for boot in boots.values()])
        bins = np.linspace(*np.quantile(every, [0.001, 0.999]), 50)
        height = 0.0
        for kind, colour in KINDS.items():
            counts, _, _ = axis.hist(boots[kind].statistics[name], bins, density=True, histtype="step", color=colour)
            height = max(height, counts.max())
        rows = [(WALD, wald.loc[name])] if name in wald.index else []
        rows += [(colour, ends[kind].loc[name]) for kind, colour in KINDS.items()]
        for k, (colour, row) in enumerate(rows):
            axis.plot(row[["lower", "upper"]], [-height * (0.08 + 0.07 * k)] * 2, color=colour, lw=3)
        axis.axvline(boots["case"].observed[name], color=ESTIMATE, lw=1)
        axis.set_title(title, fontsize=10)
        axis.set_yticks([])
        axis.tick_params(labelsize=8)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    handles = [plt.Line2D([], [], color=colour, lw=3) for colour in (*KINDS.values(), WALD, ESTIMATE)]
    figure.legend(
        handles, [*KINDS, "Wald", "estimate"], loc="outside upper center", ncols=5, frameon=False, fontsize=9
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    main()
