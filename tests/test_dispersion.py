"""Shrunken dispersions: closed forms of the prior, and counts whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import jaxmm as mm
from jaxmm.results.dispersion import _prior


def test_equal_errors_have_a_closed_form():
    rng = np.random.default_rng(1)
    l, se = rng.normal(1.0, 0.8, 50), np.full(50, 0.5)
    tau, (m,) = _prior(l, se, np.ones((50, 1)))
    assert m == pytest.approx(l.mean()) and tau**2 == pytest.approx(l.var() - 0.25)
    tau, (m,) = _prior(l, np.full(50, 2.0), np.ones((50, 1)))
    assert tau == 0.0 and m == pytest.approx(l.mean())


def test_the_marginal_likelihood_is_at_its_maximum():
    rng = np.random.default_rng(2)
    se = rng.uniform(0.2, 1.5, 80)
    x = rng.normal(size=80)
    l = 0.3 + 0.5 * x + rng.normal(size=80) * np.sqrt(0.6**2 + se**2)
    B = np.stack([np.ones(80), x], axis=1)

    def loss(p):
        return -np.sum(stats.norm.logpdf(l, B @ p[1:], np.sqrt(se**2 + p[0] ** 2)))

    best = optimize.minimize(loss, [0.5, 0.0, 0.0], tol=1e-12)
    tau, coef = _prior(l, se, B)
    assert loss([tau, *coef]) <= best.fun + 1e-9
    np.testing.assert_allclose([tau, *coef], best.x, rtol=1e-4)


@pytest.fixture(scope="module")
def counts():
    """Genes over the cells of eight donors, φ about 3."""
    rng = np.random.default_rng(5)
    n, donor = 60, np.repeat(np.arange(8), 6)
    phi = np.exp(np.log(3) + 0.3 * rng.normal(size=n))
    mu = np.exp(rng.uniform(0.5, 2.5, n)[:, None] + 0.3 * rng.normal(size=(n, 8))[:, donor])
    Y = rng.negative_binomial(phi[:, None], phi[:, None] / (phi[:, None] + mu)).astype(float)
    Y[3] = 0.0
    frame = pd.DataFrame({"donor": donor, "x": (donor >= 4) * 1.0, "y": Y[0]})
    model = mm.Model.from_formula("y ~ x + (1 | donor)", frame, family="nbinom2")
    return mm.fit_many(model, Y, keep="dispersion_se", progress=False), phi, Y


def test_counts(counts):
    batch, phi, Y = counts
    found = batch.shrink_dispersion()
    assert np.isnan(found.dispersion[3]) and not batch.converged[3]
    good = batch.converged

    def error(x):
        return np.median(np.abs(np.log(x[good]) - np.log(phi[good])))

    assert error(found.dispersion) < 0.7 * error(batch.dispersion)
    v = batch.log_dispersion_se**2
    known = good & (v > 0) & (v < 100)
    own = (found.tau**2 * np.log(batch.dispersion) + v * np.log(found.centre)) / (found.tau**2 + v)
    np.testing.assert_allclose(np.log(found.dispersion[known]), own[known])
    between = np.sign(np.log(batch.dispersion / found.dispersion) * np.log(found.dispersion / found.centre))
    assert np.all(between[known] >= 0) and np.all(found.log_se[known] <= batch.log_dispersion_se[known])
    assert 1.5 < found.centre[0] < 6 and found.used == known.sum()
    table = found.to_frame()
    assert list(table) == ["response", "dispersion", "shrunken", "centre", "log_se"] and len(table) == 60
    assert repr(found).startswith(f"Shrunken dispersions of 60 responses, learnt from {found.used}\n  drawn to ")
    trended = batch.shrink_dispersion(trend=np.log(Y.mean(axis=1) + 0.1))
    assert np.nanstd(trended.centre) > 0


def test_what_cannot_be_shrunk(counts):
    batch, *_ = counts
    with pytest.raises(ValueError, match="trend must have a number for each of the 60 responses"):
        batch.shrink_dispersion(trend=np.ones(3))
    with pytest.raises(ValueError, match="2 usable dispersions are too few"):
        batch.take([0, 1, 3]).shrink_dispersion()
    with pytest.raises(AttributeError, match="keep='df'"):
        _ = batch.df
