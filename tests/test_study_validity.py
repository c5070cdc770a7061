"""What studies say of a balanced one-way design, against closed forms that hold in finite samples.

J groups of m rows, half of them treated: y_ij = b0 + b1 x_j + u_j + e_ij, u_j ~ N(0, τ²), e_ij ~ N(0, σ²).  All that is
known of b1 is in the group means, which have the variance V = τ² + σ²/m.  With S² the variance of the group means about
the means of the two arms (J - 2 degrees of freedom), and as long as no variance is estimated as zero,

    REML          τ^² + σ^²/m = S²,   b1^ is the difference of the arms,   se² = 4 S²/J,   z = b1^/se
    hence         z has the noncentral t distribution with J - 2 degrees of freedom, noncentrality b1 / sqrt(4 V/J)
    Wald z        rejects where |z| > 1.96
    ML            the group means have V^ = S² (J - 2)/J, under b1 = 0 it is V^ (1 + z²/(J - 2)), hence
    LRT           J log(1 + z²/(J - 2)) > 3.84, that is |z| > sqrt((J - 2) (exp(3.84/J) - 1))

The between-group mean square m S² falls below the within-group one, where REML would estimate a variance of zero, with
the probability P(F_{J-2, J(m-1)} < σ²/(m V)); ML does so below J/(J - 2) times this.  It is three in ten thousand at 12
groups, by ML, and nothing elsewhere.
"""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln

from jaxmm.studies.designs import make_design, plan
from jaxmm.studies.power import power_curve
from jaxmm.studies.study import study

pytestmark = pytest.mark.slow

ROWS, TAU, SIGMA = 10, 1.0, 1.0
V = TAU**2 + SIGMA**2 / ROWS
N = 4000


def model_of(groups: int):
    return plan("y ~ x + (1 | g)", make_design({"g": groups}, between={"g": {"x": [0, 1]}}, repeats=ROWS))


def truth_of(effect: float) -> dict:
    return {"fixef": {"(Intercept)": 2.0, "x": effect}, "sd": {"g": TAU}, "sigma": SIGMA}


def limit(groups: int, test: str) -> float:
    """|z| beyond which the test rejects at 5 %."""
    if test == "Wald z":
        return stats.norm.isf(0.025)
    return np.sqrt((groups - 2) * np.expm1(stats.chi2.isf(0.05, 1) / groups))


def rejections(groups: int, test: str, effect: float) -> float:
    """The closed form."""
    t = stats.nct(groups - 2, effect / np.sqrt(4 * V / groups))
    c = limit(groups, test)
    return float(t.sf(c) + t.cdf(-c))


def boundary(groups: int) -> float:
    """Probability of a variance of zero, by ML, which has it more often."""
    ratio = SIGMA**2 / (ROWS * V) * groups / (groups - 2)
    return float(stats.f.cdf(ratio, groups - 2, groups * (ROWS - 1)))


@cache
def found(groups: int, effect: float):
    statistics = {"between": lambda b: b.varcorr_sd[:, 0] ** 2, "within": lambda b: b.sigma**2}
    key = jax.random.fold_in(jax.random.key(3), groups)
    return study(model_of(groups), truth_of(effect), N, key=key, lrt="x", statistics=statistics, progress=False)


def rate(result, test: str) -> float:
    table = result.tests.set_index(["test", "coef"])
    assert table.loc[(test, "x"), "n"] >= 0.999 * N
    return float(table.loc[(test, "x"), "rate"])


def agrees(rate: float, expected: float, groups: int, n: int = N) -> bool:
    return abs(rate - expected) < 4 * np.sqrt(expected * (1 - expected) / n) + boundary(groups)


@pytest.mark.parametrize("test", ["Wald z", "likelihood ratio"])
@pytest.mark.parametrize("groups", [12, 200])
def test_type_one_errors_are_the_closed_forms(groups, test, claim):
    """At 12 groups both reject a true hypothesis in 8 % of the data sets where 5 % are asked for, at 200 in 5 %."""
    expected = rejections(groups, test, 0.0)
    assert expected == pytest.approx({12: 0.08, 200: 0.0515}[groups], abs=0.003)
    seen = rate(found(groups, 0.0), test)
    claim(f"type I error in a study, {test}, {groups} groups, beside its closed form", seen, expected, n=N)
    assert agrees(seen, expected, groups)
    table = found(groups, 0.0).tests
    assert (table[table["coef"] == "x"]["is"] == "type I error").all()
    if groups == 12:
        assert seen > 0.05 + 4 * np.sqrt(0.05 * 0.95 / N)  # anticonservative beyond doubt
    else:
        assert abs(seen - 0.05) < 4 * np.sqrt(0.05 * 0.95 / N)


@pytest.mark.parametrize("test", ["Wald z", "likelihood ratio"])
@pytest.mark.parametrize("groups, effect", [(12, 1.5), (30, 1.0)])
def test_power_is_the_closed_form(groups, effect, test, claim):
    expected = rejections(groups, test, effect)
    assert 0.6 < expected < 0.8
    seen = rate(found(groups, effect), test)
    claim(f"power in a study, {test}, {groups} groups, beside its closed form", seen, expected, n=N)
    assert agrees(seen, expected, groups)


def test_estimates_and_errors_recover_the_truth():
    """REML's variances are unbiased here, the standard error of a coefficient is that of its distribution."""
    groups, effect = 30, 1.0
    table = found(groups, effect).recovery
    true = {"x": effect, "between": TAU**2, "within": SIGMA**2}
    for name, value in true.items():
        row = table.loc[name]
        assert row["truth"] == pytest.approx(value) and abs(row["bias"]) < 4 * row["bias_mc"]
    sd = {
        "x": np.sqrt(4 * V / groups),
        "within": SIGMA**2 * np.sqrt(2 / (groups * (ROWS - 1))),
        "between": np.sqrt(2 * V**2 / (groups - 2) + 2 * SIGMA**4 / (ROWS**2 * groups * (ROWS - 1))),
    }
    for name, value in sd.items():  # four errors; the variances are chi-squared, whose spread has a larger one
        assert table.loc[name, "sd"] == pytest.approx(value, abs=6 * table.loc[name, "sd_mc"])
        assert table.loc[name, "rmse"] == pytest.approx(value, abs=4 * table.loc[name, "rmse_mc"])
    k = groups - 2
    c4 = np.sqrt(2 / k) * np.exp(gammaln((k + 1) / 2) - gammaln(k / 2))  # E chi_k / sqrt(k)
    assert table.loc["x", "mean_se"] == pytest.approx(c4 * sd["x"], abs=4 * table.loc["x", "mean_se_mc"])
    covered = 1 - rejections(groups, "Wald z", 0.0)
    assert agrees(table.loc["x", "coverage"], covered, groups)


def test_the_smallest_size_is_the_one_of_the_closed_form():
    """Sizes that share random numbers; the curve assumes a known variance, which is off by little from 20 groups on."""
    sizes = [20, 30, 44, 60]
    curve = power_curve(
        model_of(20), truth_of(1.0), 2000, along={"g": sizes}, key=jax.random.key(8), test="x", progress=False
    )
    for row in curve.table.to_dict("records"):
        assert agrees(row["power"], rejections(row["g"], "Wald z", 1.0), row["g"], n=2000)
        assert abs(row["smooth"] - rejections(row["g"], "Wald z", 1.0)) < 0.03
    true = next(g for g in range(20, 60, 2) if rejections(g, "Wald z", 1.0) >= 0.8)
    row = curve.smallest.iloc[0]
    assert row["lower"] - 2 <= true <= row["upper"] + 2 and row["by"] == "curve"
    assert row["upper"] - row["lower"] < 8
