"""Power against closed forms: a balanced cluster-randomised trial, a stepped wedge; and against fits one by one."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtr
from scipy.stats import nct, norm, t

import jaxmm as mm


class TWith:
    """Each coefficient's t with degrees of freedom that are known."""

    name, without = "t", ()

    def __init__(self, coef: str, df: float):
        self.coef, self.df = coef, df

    def p_values(self, fits):
        j = fits.batch.names.fixef.index(self.coef)
        own = fits.batch.fixef[:, j] / fits.batch.bse[:, j]
        return {(self.coef,): np.where(fits.batch.converged, 2 * stdtr(self.df, -np.abs(own)), np.nan)}


# ---------------------------------------------------------------- a cluster-randomised trial
ARM, MEMBERS, RHO, EFFECT = 6, 20, 0.3, 1.0


@pytest.fixture(scope="module")
def clusters():
    table = mm.make_design({"cluster": 2 * ARM}, between={"cluster": {"arm": [0, 1]}}, repeats=MEMBERS)
    truth = {"fixef": {"(Intercept)": 0.0, "arm": EFFECT}, "sd": {"cluster": RHO**0.5}, "sigma": (1 - RHO) ** 0.5}
    return mm.plan("y ~ arm + (1 | cluster)", table), truth


def cluster_trial(clusters, n: int, key: int):
    """The simulated power and the exact one: means of clusters are compared, with 2 (k - 1) degrees of freedom."""
    model, truth = clusters
    df = 2 * (ARM - 1)
    found = mm.power(model, truth, n, key=key, method=TWith("arm", df), progress=False)  # pyright: ignore
    away = EFFECT / np.sqrt(2 * (RHO + (1 - RHO) / MEMBERS) / ARM)
    edge = t.isf(0.025, df)
    return found.table["rate"].iloc[0], nct.sf(edge, df, away) + nct.cdf(-edge, df, away)


def test_a_balanced_cluster_randomised_trial(clusters):
    rate, exact = cluster_trial(clusters, 1500, 1)
    assert 0.5 < exact < 0.95 and abs(rate - exact) < 3.5 * np.sqrt(exact * (1 - exact) / 1500)


@pytest.mark.slow
def test_a_balanced_cluster_randomised_trial_closely(clusters, claim):
    rate, exact = cluster_trial(clusters, 40_000, 2)
    claim("power of a cluster-randomised trial, t with 2(k - 1) df", rate, exact, n=40_000)
    assert abs(rate - exact) < 3.5 * np.sqrt(exact * (1 - exact) / 40_000)


# ---------------------------------------------------------------- a stepped wedge
CLUSTERS, PERIODS, ROWS, TAU, STEP = 24, 5, 10, 0.3, 0.25


@pytest.fixture(scope="module")
def wedge():
    cells = list(product(range(CLUSTERS), range(PERIODS), range(ROWS)))
    table = pd.DataFrame(cells, columns=["cluster", "period", "row"])
    table["treated"] = (table["period"] > table["cluster"] // (CLUSTERS // (PERIODS - 1))).astype(float)
    model = mm.plan("y ~ factor(period) + treated + (1 | cluster)", table)
    truth = {"fixef": STEP * (np.array(model.design.columns) == "treated"), "sd": {"cluster": TAU}, "sigma": 1.0}
    return model, truth, table


def hussey_hughes(table: pd.DataFrame) -> float:
    """The power of the z test by their (2007, Contemp. Clin. Trials 28, 182-191) variance."""
    X = table.groupby(["cluster", "period"])["treated"].first().unstack().to_numpy()
    U, W, V, s2, t2 = X.sum(), (X.sum(axis=0) ** 2).sum(), (X.sum(axis=1) ** 2).sum(), 1 / ROWS, TAU**2
    I, T = X.shape
    variance = I * s2 * (s2 + T * t2) / ((I * U - W) * s2 + (U**2 + I * T * U - T * W - I * V) * t2)
    z = STEP / np.sqrt(variance)
    return norm.cdf(z - norm.isf(0.025)) + norm.cdf(-z - norm.isf(0.025))


def test_a_stepped_wedge(wedge):
    model, truth, table = wedge
    exact = hussey_hughes(table)
    rate = mm.power(model, truth, 1500, key=1, test="treated", progress=False).table["rate"].iloc[0]
    assert 0.5 < exact < 0.95 and abs(rate - exact) < 3.5 * np.sqrt(exact * (1 - exact) / 1500)


@pytest.mark.slow
def test_a_stepped_wedge_closely(wedge, claim):
    """The formula takes the variances for known; z with estimated ones, and 24 clusters, rejects as often."""
    model, truth, table = wedge
    exact = hussey_hughes(table)
    rate = mm.power(model, truth, 40_000, key=2, test="treated", progress=False).table["rate"].iloc[0]
    claim("power of a stepped wedge, z", rate, exact, n=40_000)
    assert abs(rate - exact) < 3.5 * np.sqrt(exact * (1 - exact) / 40_000) + 0.005


def one_by_one(wedge, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The p-values of a power study, and those of a fit to each of its responses."""
    model, truth, _ = wedge
    found = mm.power(model, truth, n, key=3, test="treated", progress=False)
    source = mm.Simulated(model, truth, n, key=3)
    p = []
    for k in range(n):
        fit = model.with_response(np.asarray(source.block(k, 1).y)[0]).fit()
        p.append(2 * norm.sf(abs(fit.fixef["treated"] / fit.bse["treated"])))
    return found.study.p_values["Wald z", ("treated",)], np.array(p)


def test_one_by_one(wedge):
    lanes, single = one_by_one(wedge, 25)
    np.testing.assert_allclose(lanes, single, atol=1e-5)


@pytest.mark.slow
def test_two_thousand_one_by_one(wedge, claim):
    lanes, single = one_by_one(wedge, 2000)
    np.testing.assert_allclose(lanes, single, atol=1e-5)
    claim(
        "power of 2,000 stepped wedges, as lanes and one by one",
        np.mean(lanes <= 0.05),
        np.mean(single <= 0.05),
        n=2000,
    )
    assert np.array_equal(lanes <= 0.05, single <= 0.05)
