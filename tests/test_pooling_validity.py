"""Intervals after multiple imputation hold what they are to hold as often as they say."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm

GROUPS, ROWS, SEEN = 30, 6, 4  # of each group's rows the last two have no response
TRUTH = {"fixef": [1.0, 0.5], "sd": {"g": 0.7}, "sigma": 1.0}


def imputed(Y: np.ndarray, fits: mm.FitBatch, X: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """(R, m, groups, rows): the responses of rows that are not seen, drawn given those that are: β, σ² and τ² from
    their approximate posterior, the effect of a group from its distribution given its rows."""
    R, left = len(Y), GROUPS * SEEN - GROUPS - 1
    s2, t2 = fits.sigma**2, fits.varcorr_sd[:, 0] ** 2
    seen = X[:, :SEEN]
    shape = (R, m)
    within = s2[:, None] * left / rng.chisquare(left, shape)
    between = (SEEN * t2 + s2)[:, None] * (GROUPS - 2) / rng.chisquare(GROUPS - 2, shape)
    tau2 = np.maximum((between - within) / SEEN, 0.0)
    share = tau2 / within
    sums = seen.sum(axis=1)
    XX, own = np.einsum("grp,grq->pq", seen, seen), np.einsum("gp,gq->pq", sums, sums)
    M = (XX - (share / (1 + SEEN * share))[..., None, None] * own) / within[..., None, None]
    L = np.linalg.cholesky(np.linalg.inv(M))
    beta = fits.fixef[:, None] + np.einsum("rmpq,rmq->rmp", L, rng.normal(size=(*shape, 2)))
    mean = np.einsum("gip,rmp->rmgi", X, beta)
    gap = np.mean(Y[:, None, :, :SEEN] - mean[..., :SEEN], axis=-1)
    effect = gap * (SEEN * share / (1 + SEEN * share))[..., None]
    effect += np.sqrt(tau2 / (1 + SEEN * share))[..., None] * rng.normal(size=effect.shape)
    drawn = mean + effect[..., None] + np.sqrt(within)[..., None, None] * rng.normal(size=mean.shape)
    return np.concatenate([np.broadcast_to(Y[:, None, :, :SEEN], (*shape, GROUPS, SEEN)), drawn[..., SEEN:]], axis=-1)


def coverage(replicates: int, m: int, key: int) -> tuple[float, float]:
    """Of the 95 % interval of the slope, and the mean share of the variance that is due to what is missing."""
    rng = np.random.default_rng(key)
    table = pd.DataFrame({"g": np.repeat(np.arange(GROUPS), ROWS), "x": rng.normal(size=GROUPS * ROWS)})
    seen = np.arange(len(table)) % ROWS < SEEN
    model, part = (mm.plan("y ~ x + (1 | g)", t) for t in (table, table[seen]))
    Y = np.asarray(mm.Simulated(model, TRUTH, replicates, key=key).block(0, replicates).y)
    fits = mm.fit_many(part, Y[:, seen], progress=False)
    X = np.stack([np.ones(len(table)), table["x"]], axis=1).reshape(GROUPS, ROWS, 2)
    filled = imputed(Y.reshape(-1, GROUPS, ROWS), fits, X, m, rng)
    batch = mm.fit_many(model, filled.reshape(replicates * m, -1), progress=False)
    held, lost = [], []
    for k in range(replicates):
        own = mm.pool(batch.take(slice(k * m, (k + 1) * m)), model=model)
        low, high = own.confint().loc["x"]
        held.append(low < TRUTH["fixef"][1] < high)
        lost.append(own.frame.loc["x", "lambda"])
    return float(np.mean(held)), float(np.mean(lost))


def test_coverage():
    share, missing = coverage(60, 5, 1)
    assert share > 0.83 and 0.15 < missing < 0.45


@pytest.mark.slow
def test_coverage_closely(claim):
    share, _ = coverage(2000, 10, 2)
    claim("coverage of a 95 % interval, 10 imputations, a third of the responses missing", share, 0.95, n=2000)
    assert abs(share - 0.95) < 3.5 * np.sqrt(0.95 * 0.05 / 2000)
