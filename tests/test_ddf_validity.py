"""Size of t tests by their degrees of freedom, by simulation: a covariate between groups, few and many of them."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtr

import jaxmm as mm
from jaxmm.inference import ddf

pytestmark = pytest.mark.slow

REPLICATES, LEVEL = 1500, 0.05


@pytest.mark.parametrize("groups", [6, 12, 50])
def test_type_one_error(groups, claim):
    """Of a covariate between groups of unequal sizes: Kenward & Roger hold the level, Satterthwaite nearly, z does not
    with few groups; within three Monte-Carlo errors."""
    rng = np.random.default_rng(groups)
    g = np.repeat(np.arange(groups), 3 + np.arange(groups) % 4)
    x = (np.arange(groups) % 2)[g].astype(float)
    model = mm.Model.from_formula("y ~ x + (1 | g)", pd.DataFrame({"y": rng.normal(size=len(g)), "x": x, "g": g}))
    b, e = rng.normal(size=(REPLICATES, groups)), rng.normal(size=(REPLICATES, len(g)))
    p = {name: [] for name in ("kenward-roger", "satterthwaite", "asymptotic")}
    for y in b[:, g] + e:
        fit = model.with_response(y).fit()
        for name, own in p.items():
            r = ddf.reference(fit.model, fit.estimates, name)
            t = r.beta[1] / np.sqrt(r.vcov[1, 1])
            own.append(2 * stdtr(r.df(np.eye(2)[1:])[0], -abs(t)))
    rate = {name: np.mean(np.array(own) < LEVEL) for name, own in p.items()}
    for name, value in rate.items():
        claim(f"type I error of t tests, {name}, {groups} groups", value, LEVEL, n=REPLICATES)
    error = 3 * np.sqrt(LEVEL * (1 - LEVEL) / REPLICATES)
    assert abs(rate["kenward-roger"] - LEVEL) < error, rate
    assert LEVEL - error < rate["satterthwaite"] < LEVEL + error + 0.01, rate
    assert rate["asymptotic"] > rate["satterthwaite"], rate
    assert (rate["asymptotic"] > LEVEL + error) == (groups < 50), rate
