"""Kenward and Roger's tests and intervals in repeated measures with dropout, by simulation: 20 and 50 subjects in two
arms, four visits, any covariance, a mean of each arm and visit. A fifth leaves by the last visit, the sooner the lower
the last value that was seen (missing at random)."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import jaxmm as mm

REPLICATES, LEVEL, VISITS = 2000, 0.05, 4
COVARIANCE = np.array([[1.0, 0.6, 0.5, 0.35], [0.6, 1.3, 0.8, 0.6], [0.5, 0.8, 1.8, 1.1], [0.35, 0.6, 1.1, 2.4]])
MEANS = 10 - 0.5 * np.arange(VISITS)
STAYS, BY_LAST = 2.84, 0.8  # of the logit, and for one standard deviation of the last value
METHODS = ("kenward-roger", "satterthwaite", "asymptotic")
FORMULA, RESIDUAL = "y ~ arm * visit", "us(visit | subject)"
INTERACTION = np.eye(8)[5:]
LAST = [  # the difference of the arms, and the mean of the second one
    "armnew + armnew:visitd = 0",
    f"(Intercept) + armnew + visitd + armnew:visitd = {MEANS[-1]}",
]


def trial(rng: np.random.Generator, n: int, dropout: bool = True) -> pd.DataFrame:
    """The arms are alike."""
    e = rng.normal(size=(n, VISITS)) @ np.linalg.cholesky(COVARIANCE).T
    logit = STAYS + BY_LAST * e[:, :-1] / np.sqrt(np.diag(COVARIANCE))[:-1]
    stays = rng.random((n, VISITS - 1)) < 1 / (1 + np.exp(-logit))
    there = np.cumprod(np.column_stack([np.ones(n, bool), stays if dropout else np.ones_like(stays)]), axis=1) > 0
    table = pd.DataFrame({
        "subject": np.repeat(np.arange(n), VISITS),
        "visit": pd.Categorical(np.tile(list("abcd"), n)),
        "arm": np.repeat(np.where(np.arange(n) % 2, "new", "control"), VISITS),
        "y": (MEANS + e).ravel(),
    })  # fmt: skip
    return table[there.ravel()].reset_index(drop=True)


def p_values(fit: mm.Fit, method: str) -> np.ndarray:
    """Of the interaction, of the difference at the last visit, and of the mean there against its truth."""
    return np.array([fit.test(INTERACTION, ddf=method).p, *fit.test(LAST, ddf=method).frame["p"]])


@pytest.mark.slow
@pytest.mark.parametrize("subjects", [20, 50])
def test_size_and_coverage(subjects, claim):
    rng = np.random.default_rng(subjects)
    p, gone, converged = np.empty((REPLICATES, len(METHODS), 3)), 0, 0
    for k in range(REPLICATES):
        data = trial(rng, subjects)
        fit = mm.lmm(FORMULA, data, residual=RESIDUAL)
        converged += fit.converged
        gone += subjects - (data["visit"] == "d").sum()
        p[k] = [p_values(fit, method) for method in METHODS]
    assert converged == REPLICATES and gone / subjects / REPLICATES == pytest.approx(0.2, abs=0.01)
    rejected = dict(zip(METHODS, np.mean(p < LEVEL, axis=0), strict=True))
    for method, (interaction, last, mean) in rejected.items():
        of = f"{method}, {subjects} subjects with a fifth gone"
        claim(f"type I error in MMRM of arm by visit, {of}", interaction, LEVEL, n=REPLICATES)
        claim(f"type I error in MMRM at the last visit, {of}", last, LEVEL, n=REPLICATES)
        claim(f"coverage in MMRM of a mean at the last visit, {of}", 1 - mean, 1 - LEVEL, n=REPLICATES)
    error = 3 * np.sqrt(LEVEL * (1 - LEVEL) / REPLICATES)
    assert np.all(np.abs(rejected["kenward-roger"] - LEVEL) < error), rejected
    assert np.all(rejected["kenward-roger"] < rejected["satterthwaite"]), rejected
    assert np.all(rejected["satterthwaite"] < rejected["asymptotic"]), rejected
    assert rejected["asymptotic"][0] > LEVEL + 2 * error, rejected


def test_complete_data_are_hotellings():
    """Without dropout the test of arm by visit is Hotelling's T² of the differences between visits."""
    data = trial(np.random.default_rng(1), 20, dropout=False)
    fit = mm.lmm(FORMULA, data, residual=RESIDUAL)
    wide = data.pivot(index="subject", columns="visit", values="y").diff(axis=1).iloc[:, 1:].to_numpy()
    a, b = wide[::2], wide[1::2]
    pooled = (9 * np.cov(a.T) + 9 * np.cov(b.T)) / 18
    apart = b.mean(axis=0) - a.mean(axis=0)
    T2 = apart @ np.linalg.solve(pooled, apart) * 10 * 10 / 20
    found = fit.test(INTERACTION, ddf="kenward-roger")
    assert found.p == pytest.approx(stats.f.sf(T2 * 16 / (18 * 3), 3, 16), rel=1e-5)


def test_dropout_leaves_kenward_and_roger_the_most_cautious():
    """As the simulation has it at length, here of a few trials: the same path, whose p values are in order."""
    rng = np.random.default_rng(2)
    for _ in range(2):
        fit = mm.lmm(FORMULA, trial(rng, 20), residual=RESIDUAL)
        p = np.array([p_values(fit, method) for method in METHODS])
        assert fit.converged and np.all(np.diff(p, axis=0) < 1e-12), p
