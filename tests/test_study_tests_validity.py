"""Type I errors of the tests of a study: 10 clusters of unequal size, and longitudinal data with dropout at random.

Of 10 clusters, half of them treated, the arm is told between clusters: Kenward & Roger's and Satterthwaite's t, the
bootstrap and sign flips are nominal, or nearly so; z and the likelihood ratio are not, since with 8 degrees of freedom
P(|t| > 1.96) is 8.6 %.  Dropout that depends on the last response seen is at random: the likelihood of what is seen is
right, and so are the tests of arm within visits.
"""

import numpy as np
import pytest
from scipy import stats

import jaxmm as mm

pytestmark = pytest.mark.slow

TESTS = ["z", "satterthwaite", "kenward-roger", "lrt", "bootstrap", "permutation"]
NOMINAL = ("Satterthwaite", "Kenward-Roger", "bootstrap", "permutation")
N = 2000


def rates(found):
    return found.tests.set_index("test")["rate"]


def clusters(n, tests):
    model = mm.plan("y ~ arm + (1 | cluster)", mm.make_design("cluster-randomised", clusters=10, size=30))
    truth = {"fixef": [0.0, 0.0], "sd": {"cluster": 0.5}, "sigma": 1.0}
    unequal = mm.Mechanism(missing=mm.missing.ClusterSizes("cluster", mm.draws.Gamma(12, 0.6), least=3))
    return mm.study(model, truth, n, key=4, tests=tests, of="armtreated", mechanism=unequal, progress=False)


def trial(n, tests, **weight):
    of = "armtreated" if tests else None
    table = mm.make_design("parallel", patients=20, visits=4)
    model = mm.plan("y ~ arm + visit + (1 | patient)", table)
    truth = {"fixef": [0.0, 0.0, 0.5], "sd": {"patient": 1.0}, "sigma": 1.0}
    leaves = mm.missing.DropoutByResponse(-1.5, "patient", "visit", centre=0.5, **weight)
    return mm.study(model, truth, n, key=9, tests=tests, of=of, mechanism=mm.Mechanism(missing=leaves), progress=False)


def test_ten_clusters_of_unequal_size(claim):
    found = rates(clusters(N, TESTS))
    for name in TESTS_SHOWN:
        claim(f"type I error of {name}, 10 clusters of unequal size", found[name], 0.05, n=N)
    error = (0.05 * 0.95 / N) ** 0.5
    for name in NOMINAL:
        assert abs(found[name] - 0.05) < 4 * error + 0.005, name
    assert found["Wald z"] > 0.07 and found["likelihood ratio"] > 0.06


def test_dropout_at_random(claim):
    found = rates(trial(N, TESTS, previous=0.8))
    for name in TESTS_SHOWN:
        claim(f"type I error of {name}, dropout at random, 20 patients", found[name], 0.05, n=N)
    error = (0.05 * 0.95 / N) ** 0.5
    for name in NOMINAL:
        assert abs(found[name] - 0.05) < 4 * error + 0.005, name
    assert abs(found["Wald z"] - 2 * stats.t.sf(1.96, 18)) < 4 * error + 0.005


def test_slopes_are_biased_only_where_dropout_is_not_at_random(claim):
    random = trial(N, [], previous=0.8).recovery.loc["visit"]
    assert abs(random["bias"]) < 4 * random["bias_mc"]
    claim("bias of a slope, dropout at random", random["bias"], 0.0, n=N, error=random["bias_mc"])
    other = trial(N, [], current=0.8).recovery.loc["visit"]
    assert other["bias"] < -10 * other["bias_mc"]  # who does badly is not seen


TESTS_SHOWN = ("Wald z", "likelihood ratio", *NOMINAL)


def test_a_stepped_wedge_has_the_power_of_its_closed_form(claim):
    """Hussey & Hughes (2007): the variance of the effect with known variances, by generalised least squares."""
    model = mm.plan(
        "y ~ treated + period + (1 | cluster)", mm.make_design("stepped wedge", clusters=24, periods=5, size=8)
    )
    d, tau, sigma = model.design, 0.4, 1.0
    at = d.columns.index("treated")
    V = tau**2 * (d.factors[0].codes[:, None] == d.factors[0].codes) + sigma**2 * np.eye(len(d.y))
    se = np.sqrt(np.linalg.inv(d.X.T @ np.linalg.solve(V, d.X))[at, at])
    fixef = np.where(np.arange(len(d.columns)) == at, 2.5 * se, 0.1)
    truth = {"fixef": fixef, "sd": {"cluster": tau}, "sigma": sigma}
    found = mm.power(model, truth, N, key=2, test="treated", method="satterthwaite", progress=False)
    stated = stats.norm.sf(stats.norm.isf(0.025) - 2.5)
    claim("power of a stepped wedge, 24 clusters", found.table["rate"][0], stated, n=N)
    assert abs(found.table["rate"][0] - stated) < 4 * np.sqrt(stated * (1 - stated) / N) + 0.01
