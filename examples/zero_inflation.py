"""Extra zeros: a pond without frogs, or a visit on which none was seen?

Counts of frogs at visits to many ponds, some of them mined. A Poisson model has one mean for all of it. A zero-inflated
one asks two questions: is the pond fit to live in (the logit of an extra zero, with a formula and effects of its own),
and how many frogs are there if it is. The counts are simulated, so that the answers are known.

    python examples/zero_inflation.py [--ponds 120] [--seed 1]
"""

import argparse
import textwrap

import numpy as np
import pandas as pd

import jaxmm as mm

VISITS = 8  # of each pond
MEAN = {"(Intercept)": 0.8, "wet": 0.3}  # log of the mean where frogs live
ABSENT = {"(Intercept)": -1.2, "minedyes": 1.6}  # logit of a pond without them at that visit
SD = {"pond": 0.5, "zi~pond": 0.7}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ponds", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)

    frogs = simulate(asked.ponds, np.random.default_rng(asked.seed))
    formula = "count ~ wet + (1 | pond)"
    inflated = mm.glmm(formula, frogs, "poisson", zero_inflation="~ mined + (1 | pond)")
    plain = mm.glmm("count ~ wet + mined + (1 | pond)", frogs, "poisson")
    print(inflated.summary())
    print()
    print(beside_truth(inflated))
    print()
    print(comparison(inflated, plain, frogs))


def simulate(ponds: int, rng: np.random.Generator) -> pd.DataFrame:
    """Ponds half of which are mined, visited on wet and dry days."""
    pond = np.repeat(np.arange(ponds), VISITS)
    mined, wet = pond % 2, rng.normal(size=len(pond))
    b, z = (sd * rng.normal(size=ponds) for sd in SD.values())
    mean = np.exp(MEAN["(Intercept)"] + MEAN["wet"] * wet + b[pond])
    absent = 1 / (1 + np.exp(-ABSENT["(Intercept)"] - ABSENT["minedyes"] * mined - z[pond]))
    count = np.where(rng.random(len(pond)) < absent, 0, rng.poisson(mean))
    return pd.DataFrame({"pond": pond, "mined": np.where(mined, "yes", "no"), "wet": wet, "count": count})


def beside_truth(fit: mm.Fit) -> str:
    """Estimates beside what the counts were made of, and how many standard errors they are off."""
    rows = []
    for component, truth in (("mu", MEAN), ("zi", ABSENT)):
        table = fit.coef_table(component=component)
        for name, value in truth.items():
            estimate, se = table.loc[name, ["estimate", "se"]]
            rows.append((component, name, value, estimate, f"{(estimate - value) / se:+.1f} s.e."))
    rows += [("SD", g, value, fit.varcorr().sd[g].iloc[0], "") for g, value in SD.items()]
    table = pd.DataFrame(rows, columns=["part", "term", "truth", "estimate", "off by"])
    return table.to_string(index=False, float_format="{:.3f}".format)


def comparison(inflated: mm.Fit, plain: mm.Fit, frogs: pd.DataFrame) -> str:
    """Zeros in the data and by the models, and what an average pond has, of ponds mined and not."""
    new = pd.DataFrame({"wet": 0.0, "mined": ["no", "yes"], "pond": 0})
    table = pd.DataFrame(
        {
            "zeros in the data": [(frogs.loc[frogs.mined == m, "count"] == 0).mean() for m in new.mined],
            "P(extra zero)": inflated.predict(new, re="marginal", scale="zero").to_numpy(),
            "mean, if any live there": inflated.predict(new, re="marginal", scale="conditional").to_numpy(),
            "mean": inflated.predict(new, re="marginal").to_numpy(),
            "mean by Poisson": plain.predict(new, re="marginal").to_numpy(),
        },
        index=pd.Index(new.mined, name="mined"),
    )
    sds = [fit.varcorr().sd["pond"].iloc[0] for fit in (plain, inflated)]
    words = (
        f"AIC {inflated.aic:.1f} with extra zeros, {plain.aic:.1f} by Poisson alone, which takes the ponds' zeros for "
        f"their spread: the standard deviation of the ponds on the log scale is {sds[0]:.2f} there, and {sds[1]:.2f} "
        "here."
    )
    return f"{table.T.to_string(float_format='{:.3f}'.format)}\n\n{textwrap.fill(words, 110)}"


if __name__ == "__main__":
    main()
