"""Expected information and allocations: against V written out, textbook formulas, and every design in reach."""

from itertools import product

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import covariance_of, says

import jaxmm as mm
from jaxmm.sources.truth import as_truth
from jaxmm.studies.information import information, unit_of


def trial(rho: float, clusters: int = 8, members: int = 5):
    """A cluster-randomised trial, of variance 1 in all."""
    table = mm.make_design({"cluster": clusters}, between={"cluster": {"arm": [0, 1]}}, repeats=members)
    truth = {"fixef": {"(Intercept)": 0.0, "arm": 0.4}, "sd": {"cluster": rho**0.5}, "sigma": (1 - rho) ** 0.5}
    return mm.plan("y ~ arm + (1 | cluster)", table), truth


def by_hand(model, truth) -> np.ndarray:
    true = as_truth(model, truth)
    V = covariance_of(model, true.theta(model)) * true.sigma**2
    return model.design.X.T @ np.linalg.solve(V, model.design.X)


def nested(schools=3, classes=2, pupils=4):
    table = mm.make_design(
        {"school": schools, "school/class": classes}, within={"time": [0, 1, 2]},
        between={"class": {"book": ["old", "new"]}}, repeats=pupils,
    )  # fmt: skip
    truth = {
        "fixef": [0.0, 0.3, 0.2], "sd": {"school": [0.5, 0.2], "class": 0.6}, "corr": {"school": 0.3}, "sigma": 1.1,
    }  # fmt: skip
    return mm.plan("y ~ time + book + (time | school) + (1 | class)", table), truth


def test_the_information_is_that_of_v_written_out():
    model, truth = nested()
    unit = unit_of(model, as_truth(model, truth))
    with jax.enable_x64(True):
        np.testing.assert_allclose(information(unit, 1.0, (1.0, 1.0)), by_hand(model, truth), rtol=1e-10)
        for schools, classes, pupils in ((6, 2, 4), (3, 4, 4), (3, 2, 12), (9, 6, 8)):
            found = information(unit, pupils / 4, (classes / 2, schools / 3))
            np.testing.assert_allclose(found, by_hand(nested(schools, classes, pupils)[0], truth), rtol=1e-9)


def test_the_stepped_wedge_of_hussey_and_hughes():
    """Their (2007, Contemp. Clin. Trials 28, eq. 8) variance of the effect, with means of the rows of a period."""
    clusters, periods, rows, tau, sigma = 12, 5, 10, 0.3, 1.0
    table = pd.DataFrame(
        list(product(range(clusters), range(periods), range(rows))), columns=["cluster", "period", "row"]
    )
    table["treated"] = (table["period"] > table["cluster"] // 3).astype(float)
    model = mm.plan("y ~ factor(period) + treated + (1 | cluster)", table)
    truth = {"fixef": np.zeros(6), "sd": {"cluster": tau}, "sigma": sigma}
    unit = unit_of(model, as_truth(model, truth))
    with jax.enable_x64(True):
        found = np.linalg.inv(np.asarray(information(unit, 1.0, (1.0,))))[-1, -1]
    X = table.groupby(["cluster", "period"])["treated"].first().unstack().to_numpy()
    U, W, V, s2 = X.sum(), (X.sum(axis=0) ** 2).sum(), (X.sum(axis=1) ** 2).sum(), sigma**2 / rows
    I, T, t2 = clusters, periods, tau**2
    variance = I * s2 * (s2 + T * t2) / ((I * U - W) * s2 + (U**2 + I * T * U - T * W - I * V) * t2)
    assert found == pytest.approx(variance, rel=1e-10)


@pytest.mark.parametrize("rho, dear", [(0.05, 20), (0.1, 10), (0.02, 50)])
def test_the_members_of_a_cluster_are_the_textbooks(rho, dear):
    model, truth = trial(rho)
    found = mm.optimal_allocation(model, truth, coef="arm", cost={"cluster": dear, "rows": 1}, budget=3000)
    exact = np.sqrt((1 - rho) / rho * dear)  # Raudenbush 1997
    assert found.continuous["rows per cluster"] == pytest.approx(exact, rel=1e-5)
    assert found.continuous["cost"] == pytest.approx(3000)
    k, m = found.continuous["cluster"], exact
    assert found.continuous["se"] == pytest.approx(np.sqrt(4 * (rho + (1 - rho) / m) / k))
    best = found.best
    assert best["cluster"] % 2 == 0 and best["rows per cluster"] % 1 == 0 and best["cost"] <= 3000
    every = [(4 * (rho + (1 - rho) / m) / k, k, m) for m in range(1, 300) if (k := 2 * int(3000 / (dear + m) / 2)) > 0]
    assert best["se"] ** 2 == pytest.approx(min(every)[0])  # of all whole numbers


def test_for_a_power():
    model, truth = trial(0.05, clusters=4)
    found = mm.optimal_allocation(model, truth, coef="arm", cost={"cluster": 20, "rows": 1}, power=0.8)
    assert found.continuous["power"] == pytest.approx(0.8, abs=1e-5) and found.best["power"] >= 0.8
    costs = []
    for k, m in product(range(2, 200, 2), range(1, 80)):
        if (4 * (0.05 + 0.95 / m) / k) <= (0.4 / (1.959963984540054 + 0.8416212335729143)) ** 2:
            costs.append(k * (20 + m))
    assert found.best["cost"] == pytest.approx(min(costs))
    more = mm.optimal_allocation(
        model, truth, coef="arm", cost={"cluster": 20, "rows": 1}, power=0.8, effects={"arm": 0.2}
    )
    assert more.continuous["cost"] == pytest.approx(4 * found.continuous["cost"])


def schools(schools=4, classes=2, pupils=3):
    """Schools have one of two arms."""
    table = mm.make_design(
        {"school": schools, "school/class": classes}, between={"school": {"arm": [0, 1]}}, repeats=pupils
    )
    truth = {"fixef": [0.0, 0.3], "sd": {"school": 0.3, "class": 0.4}, "sigma": 1.0}
    return mm.plan("y ~ arm + (1 | school) + (1 | class)", table), truth


def test_three_levels(headless):
    """The textbook's numbers (Moerbeek, van Breukelen & Berger 2000), and the best of all whole ones."""
    cost = {"school": 300, "class": 20, "rows": 1}
    found = mm.optimal_allocation(*schools(), coef="arm", cost=cost, budget=20000)
    at, best = found.continuous, found.best
    assert at["rows per class"] == pytest.approx(np.sqrt(1 / 0.16 * 20), rel=1e-4)
    assert at["class per school"] == pytest.approx(np.sqrt(0.16 / 0.09 * 300 / 20), rel=1e-4)
    every = []
    for c, m in product(range(1, 15), range(1, 40)):
        k = 2 * int(20000 / (300 + c * (20 + m)) / 2)
        every.append(4 * (0.09 + (0.16 + 1 / m) / c) / k)
    assert best["se"] ** 2 == pytest.approx(min(every)) and best["cost"] <= 20000
    assert "Optimal allocation for arm" in repr(found) and found.inner.min() == pytest.approx(1)
    assert found.plot().get_xlabel() == "rows per class"


def test_where_more_is_always_better():
    """Of what is compared within schools more classes cost less than more schools."""
    model, truth = nested()
    what = {"coef": "booknew", "cost": {"school": 100, "class": 20, "rows": 1}, "budget": 5000}
    with says(ValueError, "the more 'class' within a level the better", "most={'class': number}"):
        mm.optimal_allocation(model, truth, **what)
    found = mm.optimal_allocation(model, truth, **what, most={"class": 6})
    assert found.continuous["class per school"] == pytest.approx(6) and found.best["class per school"] == 6
    assert found.best["cost"] <= 5000 and found.best["rows per class"] % 3 == 0
    with says(ValueError, "most['class'] must be a number of at least 2, one of each kind, not 1"):
        mm.optimal_allocation(model, truth, **what, most={"class": 1})
    with says(ValueError, "most names 'school'", "'rows', 'class'"):
        mm.optimal_allocation(model, truth, **what, most={"school": 1})


def test_bad_input(sleep_reml, weighted):
    model, truth = trial(0.1)
    fine = {"coef": "arm", "cost": {"cluster": 2, "rows": 1}}
    with says(ValueError, "give one of budget=", "power="):
        mm.optimal_allocation(model, truth, **fine)
    with says(ValueError, "give one of budget="):
        mm.optimal_allocation(model, truth, **fine, budget=3, power=0.8)
    with says(ValueError, "budget must be a number above 0", "-1"):
        mm.optimal_allocation(model, truth, **fine, budget=-1)
    with says(ValueError, "budget=5 is less than one level of each kind costs"):
        mm.optimal_allocation(model, truth, **fine, budget=5)
    with says(ValueError, "power must lie between alpha = 0.05 and 1"):
        mm.optimal_allocation(model, truth, **fine, power=1.0)
    with says(ValueError, "no design finds that", "effects="):
        mm.optimal_allocation(model, truth, **fine, power=0.8, effects={"arm": 0.0})
    with says(ValueError, "effects names 'x'"):
        mm.optimal_allocation(model, truth, **fine, power=0.8, effects={"x": 0.0})
    with says(ValueError, "one coefficient or contrast", "is 2"):
        mm.optimal_allocation(model, truth, **(fine | {"coef": ["arm", "(Intercept)"]}), budget=100)
    with says(ValueError, "cost names 'site'", "'rows', 'cluster'"):
        mm.optimal_allocation(model, truth, **(fine | {"cost": {"site": 1}}), budget=100)
    with says(ValueError, "cost['rows'] must be a number from 0"):
        mm.optimal_allocation(model, truth, **(fine | {"cost": {"rows": -1}}), budget=100)
    with says(ValueError, "zero throughout"):
        mm.optimal_allocation(model, truth, **(fine | {"cost": {"rows": 0}}), budget=100)
    with says(ValueError, "there is no optimum: the more 'rows' within a level the better"):
        mm.optimal_allocation(model, truth, **(fine | {"cost": {"cluster": 1}}), budget=100)
    with says(ValueError, "are crossed", "nested in each other"):
        mm.optimal_allocation(weighted, coef="x", cost={"rows": 1}, budget=100)
    with says(ValueError, "no parameters: give truth="):
        mm.optimal_allocation(model, **fine, budget=100)
    with says(TypeError, "needs cost=", "such as"):
        mm.optimal_allocation(model, truth, coef="arm", budget=3)  # pyright: ignore
    table = mm.make_design({"cluster": 8}, between={"cluster": {"arm": [0, 1]}}, repeats=5)
    counts = mm.plan("y ~ arm + (1 | cluster)", table, "poisson")
    with says(ValueError, "of linear models", "poisson", "power_curve()"):
        mm.optimal_allocation(counts, {"fixef": [0, 1], "sd": 1}, **fine, budget=100)
