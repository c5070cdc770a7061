"""Stated covariances of the errors: what is stated is what is drawn, and what a structure cannot have is refused."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.covariance import STRUCTURES
from jaxmm.errors import row_errors
from jaxmm.sources.truth import _effects, as_truth

VISITS = ["w2", "w4", "w8", "w12"]  # in this order, which is not that of the alphabet
TIMES = [0.0, 1.0, 3.0, 4.0]
FIXEF = {"(Intercept)": 1.0, "armb": 0.5}


def table(n=6):
    return pd.DataFrame({
        "subject": np.repeat([f"s{k:02d}" for k in range(n)], 4),
        "visit": pd.Categorical(VISITS * n, VISITS),
        "time": np.tile(TIMES, n),
        "arm": np.repeat(np.where(np.arange(n) % 2, "b", "a"), 4),
    })  # fmt: skip


def planned(residual, **keywords):
    return mm.plan("y ~ arm", table(), residual=residual, **keywords)


def covariance(model, truth, subject=0):
    """(4, 4) of the errors of a subject's four rows, of what was made of a truth."""
    true = as_truth(model, truth)
    errors = row_errors(model, true.theta(model), model.design.residual, model.design.weights, len(model.design.y))
    return true.sigma**2 * errors.blocks(4 * subject + np.arange(4))


OF_ERRORS = [name for name, kind in STRUCTURES.items() if kind(4).rank == 4 and not kind.absolute]


@pytest.mark.parametrize("name", OF_ERRORS)
def test_a_structure_has_the_covariance_that_is_stated(name):
    kind = STRUCTURES[name]
    time = "visit" if not kind.positional or kind.levels else "time"
    K = pd.DataFrame(np.diag([1.0, 2.0, 3.0, 4.0]) + 0.5, VISITS, VISITS)
    known = {"matrices": {"K": K}} if kind.known else {}
    model = planned(f"{name}({time} | subject{', K' if kind.known else ''})", **known)
    d = model.design.residual
    theta = np.random.default_rng(3).uniform(0.3, 1.2, d.covariance.num_params)
    C = np.asarray(d.covariance.covariance(theta, d.positions))
    labels = list(d.times)
    stated = pd.DataFrame(C, labels, labels).iloc[::-1, ::-1]
    np.testing.assert_allclose(covariance(model, {"fixef": FIXEF, "residual": stated}), C, rtol=1e-7)
    sd = np.sqrt(np.diag(C))
    parts = {"sd": dict(zip(labels, sd, strict=True)), "corr": C / np.outer(sd, sd)}
    np.testing.assert_allclose(covariance(model, {"fixef": FIXEF, "residual": parts}), C, rtol=1e-7)


@pytest.mark.parametrize(
    ("name", "R"),
    [
        ("homcs(visit | subject)", np.where(np.eye(4), 1, 0.6)),
        ("cs(visit | subject)", np.where(np.eye(4), 1, 0.6)),
        ("ar1(visit | subject)", 0.6 ** np.abs(np.subtract.outer(range(4), range(4)))),
        ("ar1(time | subject)", 0.6 ** np.abs(np.subtract.outer(TIMES, TIMES))),
        ("hetar1(visit | subject)", 0.6 ** np.abs(np.subtract.outer(range(4), range(4)))),
        ("ante(visit | subject)", 0.6 ** np.abs(np.subtract.outer(range(4), range(4)))),
        ("ou(time | subject)", 0.6 ** np.abs(np.subtract.outer(TIMES, TIMES))),
        ("exp(time | subject)", 0.6 ** np.abs(np.subtract.outer(TIMES, TIMES))),
        ("gau(time | subject)", 0.6 ** np.subtract.outer(TIMES, TIMES) ** 2),
    ],
)
def test_one_number_says_all_correlations(name, R):
    found = covariance(planned(name), {"fixef": FIXEF, "residual": {"sd": 2.0, "corr": 0.6}})
    np.testing.assert_allclose(found, 4 * R, rtol=1e-7)


def test_each_level_has_its_own():
    model = planned("ar1(visit | subject, by=arm)")
    stated = {"b": {"sd": 3.0, "corr": -0.4}, "a": {"sd": 2.0, "corr": 0.5}}
    lag = np.abs(np.subtract.outer(range(4), range(4)))
    truth = {"fixef": FIXEF, "residual": stated}
    np.testing.assert_allclose(covariance(model, truth, 0), 4 * 0.5**lag, rtol=1e-9)
    np.testing.assert_allclose(covariance(model, truth, 1), 9 * (-0.4) ** lag, rtol=1e-9)
    both = {"fixef": FIXEF, "residual": stated["b"]}
    np.testing.assert_allclose(covariance(model, both, 0), covariance(model, both, 1), rtol=1e-9)


def test_a_formula_of_log_phi_multiplies():
    g = {"(Intercept)": 0.8, "armb": 0.5}
    alone = planned(None, dispersion="~ arm")
    for subject, log_phi in ((0, 0.8), (1, 1.3)):
        found = covariance(alone, {"fixef": FIXEF, "dispersion": g}, subject)
        np.testing.assert_allclose(found, np.exp(log_phi) * np.eye(4), rtol=1e-12)
    of_levels = {"fixef": FIXEF, "dispersion": {"arma": 0.8, "armb": 1.3}}
    cells = planned(None, dispersion="~ 0 + arm")
    np.testing.assert_allclose(covariance(cells, of_levels, 1), np.exp(1.3) * np.eye(4), rtol=1e-12)
    both = planned("homcs(visit | subject)", dispersion="~ arm")
    R = np.where(np.eye(4), 1, 0.3)
    truth = {"fixef": FIXEF, "residual": {"sd": 2.0, "corr": 0.3}, "dispersion": {"armb": 0.5}}
    np.testing.assert_allclose(covariance(both, truth, 0), 4 * R, rtol=1e-9)
    np.testing.assert_allclose(covariance(both, truth, 1), 4 * np.exp(0.5) * R, rtol=1e-9)
    np.testing.assert_allclose(covariance(both, truth | {"dispersion": g}, 1), 4 * np.exp(1.3) * R, rtol=1e-9)


def test_a_covariance_that_is_known_is_not_stated():
    K = np.diag([1.0, 2.0, 3.0, 4.0]) + 0.5
    model = planned("equalto(visit | subject, K)", matrices={"K": K})
    np.testing.assert_allclose(covariance(model, {"fixef": FIXEF}), K, rtol=1e-12)
    with pytest.raises(ValueError, match=r"the covariance of the errors is known, equalto.*: leave 'residual' out"):
        as_truth(model, {"fixef": FIXEF, "residual": K})
    subjects = pd.DataFrame(np.eye(6) + 0.2, *[[f"s{k:02d}" for k in range(6)]] * 2)
    beside = mm.plan("y ~ arm + equalto(0 + subject | all, S)", table().assign(all="all"), matrices={"S": subjects})
    sd, R = np.sqrt(1.2), subjects.to_numpy() / 1.2
    effects = {name: dict.fromkeys(names, sd) for name, names in _effects(beside).items()}
    truth = {"fixef": FIXEF, "sd": effects, "corr": dict.fromkeys(effects, R), "sigma": 0.5}
    np.testing.assert_allclose(covariance(beside, truth), 0.25 * np.eye(4), rtol=1e-12)
    assert as_truth(beside, truth).theta(beside) == pytest.approx([np.log(0.5)])


@pytest.fixture(scope="module")
def pilot():
    rng = np.random.default_rng(5)
    data = table(30)
    L = np.linalg.cholesky(4 * 0.7 ** np.abs(np.subtract.outer(range(4), range(4))))
    data["y"] = 1 + 0.5 * (data["arm"] == "b") + (rng.normal(size=(30, 4)) @ L.T).ravel()
    return mm.lmm("y ~ arm", data, residual="us(visit | subject)")


def test_the_estimates_of_a_fit_can_be_stated(pilot):
    stated = {"fixef": pilot.fixef, "residual": pilot.residual.cov}
    ours, theirs = as_truth(pilot.model, stated), as_truth(pilot.model, pilot)
    assert ours.sigma == pytest.approx(theirs.sigma, rel=1e-10) and ours.phi == pytest.approx(theirs.phi, rel=1e-10)
    np.testing.assert_allclose(ours.rho, theirs.rho, rtol=1e-8)
    again = pilot.model.fit(start=stated)
    assert again.loglik == pytest.approx(pilot.loglik, abs=1e-8) and again.diagnostics.iterations <= 2


def test_what_is_drawn_has_the_covariance_that_is_stated(pilot):
    C = pilot.residual.cov.to_numpy()
    y = np.asarray(mm.Simulated(pilot.model, {"fixef": FIXEF, "residual": C}, 400, key=1).block(0, 400).y)
    e = (y - 1 - 0.5 * (table(30)["arm"] == "b").to_numpy()).reshape(-1, 4)
    error = np.sqrt((C**2 + np.outer(np.diag(C), np.diag(C))) / len(e))
    assert np.all(np.abs(e.T @ e / len(e) - C) < 4 * error)


GOOD = {"sd": 2.0, "corr": 0.5}
AR1 = "ar1(visit | subject)"


@pytest.mark.parametrize(
    ("residual", "truth", "message"),
    [
        (AR1, {}, "truth lacks 'residual', the covariance of the errors by ar1"),
        (AR1, {"residual": GOOD, "sigma": 1.0}, "'residual' says how large the errors are: leave 'sigma' out"),
        (AR1, {"residual": GOOD, "dispersion": 1.0}, "no formula of log φ: leave 'dispersion' out"),
        (AR1, {"residual": np.eye(3)}, "residual must be a matrix of 'w2', 'w4', 'w8', 'w12'; got shape"),
        (AR1, {"residual": pd.DataFrame(np.eye(4))}, "residual must have the rows and columns 'w2'"),
        (AR1, {"residual": np.eye(4) + np.triu(np.ones((4, 4)))}, "residual must be symmetric"),
        (AR1, {"residual": np.full((4, 4), np.nan)}, "residual has numbers that are not finite"),
        (AR1, {"residual": 2 * np.ones((4, 4)) - np.eye(4)}, "no covariance of errors, as its least eigenvalue is -1"),
        (AR1, {"residual": np.where(np.eye(4), 1, 0.5)}, "ar1.* cannot have this covariance; near to it are .* us"),
        (AR1, {"residual": {"sd": [1, 2, 3, 4]}}, "ar1.* cannot have this covariance"),
        (AR1, {"residual": {"corr": 0.5}}, "residual lacks 'sd'"),
        (AR1, {"residual": {"sd": -1.0}}, "sd of residual must be above zero, and that of 'w2' is -1"),
        (AR1, {"residual": {"sd": [1.0, 2.0]}}, "sd of residual must be 4 numbers"),
        (AR1, {"residual": {"sd": 1.0, "rho": 0.5}}, "residual has no key 'rho'; accepted: 'sd', 'corr'"),
        (AR1, {"residual": {"sd": 1.0, "corr": 1.0}}, "corr of residual must lie between -1 and 1, not 1"),
        (AR1, {"residual": {"sd": 1.0, "corr": 2 * np.eye(4)}}, "corr of residual must have ones on its diagonal"),
        ("us(visit | subject)", {"residual": GOOD}, "one number says not which correlations us"),
        ("toep(visit | subject)", {"residual": GOOD}, "one number says not which correlations toep"),
        ("diag(visit | subject)", {"residual": GOOD}, "one number says not which correlations diag"),
        ("ou(time | subject)", {"residual": {"sd": 1.0, "corr": -0.5}}, "one number says not which correlations ou"),
        ("ar1(visit | subject, by=arm)", {"residual": {"a": GOOD}}, "residual lacks 'b' of 'arm'"),
        ("ar1(visit | subject, by=arm)", {"residual": {"a": GOOD, "c": GOOD}}, "residual has no level of 'arm' 'c'"),
        (None, {"residual": GOOD}, "the model has errors that are independent: leave 'residual' out"),
        (None, {}, "truth lacks 'dispersion', the coefficients of log φ"),
    ],
)
def test_what_is_no_truth_of_the_model(residual, truth, message):
    model = planned(residual, **({} if residual else {"dispersion": "~ arm"}))
    with pytest.raises(ValueError, match=message):
        as_truth(model, {"fixef": FIXEF, **truth})


def test_errors_that_are_alike_have_none():
    model = mm.plan("y ~ arm + (1 | subject)", table())
    with pytest.raises(ValueError, match="independent and of one variance: leave 'residual' out of truth"):
        as_truth(model, {"fixef": FIXEF, "sd": 1.0, "residual": GOOD})
