"""What intervals of predictions are worth: the share of new responses that they hold, over many data sets."""

from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import special

import jaxmm as mm

pytestmark = pytest.mark.slow

J, M, LEVEL = 8, 6, 0.95
G, X = np.repeat(np.arange(J), M), np.tile(np.linspace(-1, 1, M), J)
NEW = pd.DataFrame({"g": ["3", "new"], "x": [0.5, 0.5]})


@cache
def model(kind: str) -> mm.Model:
    data = pd.DataFrame({"y": np.random.default_rng(0).normal(size=J * M), "x": X, "g": G.astype(str)})
    if kind == "linear":
        return mm.Model.from_formula("y ~ x + (1 | g)", data)
    counts = np.random.default_rng(0).poisson(3.0, J * M)
    return mm.Model.from_formula("y ~ x + (1 | g)", data.assign(y=counts), family="poisson")


def test_new_responses_of_linear_models(claim):
    """Exact shares given each fit: y of the level 3 is N(1 + x/2 + b₃, 1), of a new one N(1 + x/2, 1 + τ²); τ = 1."""
    n, rng = 800, np.random.default_rng(3)
    held = {"satterthwaite": np.zeros((n, 2)), "asymptotic": np.zeros((n, 2))}
    mean_held = np.zeros(n)
    for k in range(n):
        b = rng.normal(size=J)
        y = 1 + 0.5 * X + b[G] + rng.normal(size=J * M)
        fit = model("linear").with_response(y).fit()
        center, spread = np.array([1.25 + b[3], 1.25]), np.array([1.0, np.sqrt(2)])
        for ddf, out in held.items():
            frame = fit.predict(NEW, interval="prediction", new_levels="sample", ddf=ddf).to_numpy()
            out[k] = special.ndtr((frame[:, 2] - center) / spread) - special.ndtr((frame[:, 1] - center) / spread)
        of_mean = fit.predict(NEW[:1], interval="confidence").to_numpy()[0]
        mean_held[k] = of_mean[1] <= center[0] <= of_mean[2]
    for ddf, out in held.items():
        share, error = out.mean(axis=0), out.std(axis=0) / np.sqrt(n)
        for which, value, e in zip(("a known level", "a new level"), share, error, strict=True):
            claim(f"share of new responses in prediction intervals, {ddf}, {which}", value, LEVEL, n=n, error=e)
        assert np.all(error < 0.005)
        if ddf == "satterthwaite":
            assert np.all(np.abs(share - LEVEL) < 4 * error + 0.005)
        else:
            assert share[1] < LEVEL - 4 * error[1] - 0.005  # eight levels: normal quantiles hold too little
    claim("coverage of confidence intervals of conditional means", mean_held.mean(), LEVEL, n=n)
    assert abs(mean_held.mean() - LEVEL) < 4 * np.sqrt(LEVEL * (1 - LEVEL) / n) + 0.01


def test_new_counts(claim):
    """Poisson counts, from 24 levels: no less than the share, and little more, since counts are whole numbers."""
    n, levels, rng = 100, 24, np.random.default_rng(4)
    g, x = np.repeat(np.arange(levels), M), np.tile(np.linspace(-1, 1, M), levels)
    data = pd.DataFrame({"y": rng.poisson(6.0, levels * M), "x": x, "g": g.astype(str)})
    made = mm.Model.from_formula("y ~ x + (1 | g)", data, family="poisson")
    nodes, mass = np.polynomial.hermite_e.hermegauss(40)
    held = np.zeros((n, 2))
    for k in range(n):
        b = 0.6 * rng.normal(size=levels)
        fit = made.with_response(rng.poisson(np.exp(2 + 0.5 * x + b[g]))).fit()
        frame = fit.predict(NEW, interval="prediction", new_levels="sample", key=jax.random.key(k), n=4000).to_numpy()
        low, high = np.maximum(frame[:, 1] - 1, 0), frame[:, 2]
        for row, effects, weights in ((0, b[3:4], np.ones(1)), (1, 0.6 * nodes, mass / mass.sum())):
            mean = np.exp(2.25 + effects)
            inside = special.pdtr(high[row], mean) - special.pdtr(low[row], mean) * (frame[row, 1] > 0)
            held[k, row] = inside @ weights
    share, error = held.mean(axis=0), held.std(axis=0) / np.sqrt(n)
    for which, value, e in zip(("a known level", "a new level"), share, error, strict=True):
        claim(f"share of new Poisson counts in prediction intervals, {which}", value, LEVEL, n=n, error=e)
    assert np.all(error < 0.008)
    assert np.all(share > LEVEL - 4 * error - 0.01) and np.all(share < LEVEL + 0.025)
