"""Parameters that no predictor serves: maps to an unbounded scale, and families of one's own with thresholds, whose
number the data tell, and with a power between two ends."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import central, close, quick_jit
from scipy import special

import jaxmm as mm
from jaxmm._special import sigmoid
from jaxmm.families.extras import Extra, Increasing, Interval, Positive
from jaxmm.sources.draw import Simulated
from jaxmm.sources.truth import as_truth

MAPS = {
    "positive": (Positive(), [0.3, 7.0]),
    "interval": (Interval(1, 2), [1.2, 1.9]),
    "increasing": (Increasing(), [-1.0, 0.5, 0.6]),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_an_inverse(name):
    m, values = MAPS[name]
    with jax.enable_x64(True):
        raw = m.raw(np.array(values))
        close(m.values(jnp.asarray(raw)), values, 1e-12)
        lanes = m.values(jnp.stack([jnp.asarray(raw), jnp.asarray(raw) + 1.0], axis=1))
        close(lanes[:, 0], values, 1e-12)  # lanes last
        slope = jax.jacfwd(m.values)(jnp.asarray(raw))
        close(slope, np.stack([central(lambda r, i=i: m.values(r)[i], raw, 1e-6) for i in range(len(raw))]), 1e-7)


# ---------------------------------------------------------------- thresholds: as many as the data have steps
class Cumulative(mm.families.Family):
    """P(Y <= k) = 1 / (1 + exp(eta - t_k)), with y = 0, 1, .. K: a latent logistic variable cut at thresholds."""

    name = "cumulative"
    links = ("identity",)
    support = "whole numbers from 0"
    steps: int = 1

    def bind(self, y):
        bound = type(self)(self.link)
        K = int(np.max(y))
        labels = tuple(f"{k}|{k + 1}" for k in range(K))
        share = np.cumsum(np.bincount(np.asarray(y, int), minlength=K + 1))[:-1] / len(y)
        object.__setattr__(bound, "extras", (Extra(labels, Increasing(), tuple(special.logit(share).tolist())),))
        return bound

    def log_density(self, y, eta, phi, cuts):
        cuts = jnp.atleast_1d(cuts)
        k = y.astype(int)
        upper = cuts[jnp.minimum(k, len(cuts) - 1)] - eta
        lower = cuts[jnp.maximum(k - 1, 0)] - eta
        top, bottom = k == len(cuts), k == 0
        return jnp.log(jnp.where(top, 1.0, sigmoid(upper)) - jnp.where(bottom, 0.0, sigmoid(lower)))

    def variance(self, mu, phi, trials=1.0, cuts=0.0):
        return 0 * mu + np.pi**2 / 3

    def sample(self, key, mu, phi, trials=1.0, cuts=0.0):
        latent = mu + jax.random.logistic(key, mu.shape, mu.dtype)
        return jnp.sum(latent[..., None] > jnp.atleast_1d(cuts), axis=-1).astype(mu.dtype)


@cache
def ratings() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    judge, warm = np.repeat(np.arange(30), 12), np.tile([0.0, 1.0], 180)
    latent = 1.2 * warm + 0.8 * rng.normal(size=30)[judge] + rng.logistic(size=360)
    return pd.DataFrame({"judge": judge, "warm": warm, "y": np.searchsorted([-1.0, 0.4, 2.0], latent).astype(float)})


@cache
def ordered() -> mm.Fit:
    return mm.glmm("y ~ 0 + warm + (1 | judge)", ratings(), Cumulative(), n_agq=15)


def test_thresholds_beside_a_direct_maximum():
    """The same likelihood by Gauss-Hermite quadrature in SciPy is at its maximum, and no parameter is free of it."""
    fit, d = ordered(), ratings()
    assert fit.converged and fit.dispersion is None
    assert list(fit.family_params) == ["0|1", "1|2", "2|3"] and fit.df == 5
    nodes, mass = np.polynomial.hermite_e.hermegauss(60)
    mass = mass / mass.sum()

    def loglik(x):
        beta, sd, cuts = x[0], x[1], np.concatenate([[-np.inf], x[2:], [np.inf]])
        eta = beta * d["warm"].to_numpy()[:, None] + sd * nodes
        k = d["y"].to_numpy(int)
        p = special.expit(cuts[k + 1][:, None] - eta) - special.expit(cuts[k][:, None] - eta)
        return np.sum(np.log(np.exp(np.add.reduceat(np.log(p), np.arange(0, 360, 12), axis=0)) @ mass))

    at = np.array([fit.fixef["warm"], fit.varcorr().sd["judge"].iloc[0], *fit.family_params.values()])
    close(fit.loglik, loglik(at), 1e-9)
    assert np.max(np.abs(central(loglik, at, 1e-5))) < 1e-3
    assert np.all(np.abs(at - [1.2, 0.8, -1.0, 0.4, 2.0]) < 0.6)
    text = str(fit.summary())
    assert "0|1 of cumulative" in text and fit.glance()["1|2"].item() == fit.family_params["1|2"]


def test_thresholds_in_batches_and_truths():
    fit = ordered()
    source = Simulated(fit.model, fit, 4, jax.random.key(0))
    batch = mm.fit_many(fit.model, source, progress=False)
    assert batch.names.family_params == ("0|1", "1|2", "2|3")
    y = np.asarray(source.block(0, 1).y)[0]
    again = fit.model.with_response(y).fit()
    np.testing.assert_allclose(batch.family_params[0], list(again.family_params.values()), atol=1e-5)
    close(-2 * batch.loglik[0], again.deviance, 1e-8)
    stated = {"fixef": fit.fixef, "sd": fit.varcorr().sd["judge"].iloc[0], "family_params": fit.family_params}
    np.testing.assert_allclose(as_truth(fit.model, stated).extras[0], list(fit.family_params.values()), rtol=1e-12)
    with pytest.raises(ValueError, match=r"truth lacks 'family_params', of '0\|1'"):
        as_truth(fit.model, {"fixef": fit.fixef, "sd": 0.5})
    with pytest.raises(ValueError, match="cannot be"):
        as_truth(fit.model, stated | {"family_params": [1.0, 0.0, 2.0]})
    close(fit.model.fit(start=fit).deviance, fit.deviance, 1e-9)
    assert np.bincount(y.astype(int), minlength=4).min() > 0


# ---------------------------------------------------------------- one number between two ends, beside phi
class Power(mm.families.Family):
    """A normal distribution of variance phi mu^p, 0 < p < 3."""

    name = "power"
    links = ("log",)
    num_phi = 1
    support = "any numbers"
    extras = (Extra(("p",), Interval(0, 3), (1.0,)),)

    def log_density(self, y, eta, phi, p):
        mu = self.link.inverse(eta)
        V = phi * mu**p
        return -0.5 * (y - mu) ** 2 / V - 0.5 * jnp.log(2 * jnp.pi * V)

    def variance(self, mu, phi, trials=1.0, p=1.0):
        return phi * mu**p

    def sample(self, key, mu, phi, trials=1.0, p=1.0):
        return mu + jnp.sqrt(phi * mu**p) * jax.random.normal(key, mu.shape, mu.dtype)


def test_a_power_beside_phi():
    rng = np.random.default_rng(5)
    g, x = np.repeat(np.arange(40), 25), rng.normal(size=1000)
    mu = np.exp(1.0 + 0.5 * x + 0.3 * rng.normal(size=40)[g])
    table = pd.DataFrame({"g": g, "x": x, "y": mu + np.sqrt(0.2 * mu**1.5) * rng.normal(size=1000)})
    fit = mm.glmm("y ~ x + (1 | g)", table, Power())
    assert fit.converged and abs(fit.family_params["p"] - 1.5) < 0.25 and abs(fit.dispersion - 0.2) < 0.05
    scaled = fit.residuals("pearson")
    assert abs(np.mean(scaled**2) - 1) < 0.1
    drawn = fit.simulate(300, key=jax.random.key(1), re="conditional")
    expected = fit.dispersion * fit.fitted() ** fit.family_params["p"]
    assert np.all(np.abs(drawn.var(axis=0) / expected - 1) < 6 * np.sqrt(2 / 300))
    tidy = fit.tidy().set_index("term")
    assert tidy.loc["p", "component"] == "p" and tidy.loc["p", "estimate"] == fit.family_params["p"]
    # with a formula for log phi the power stays
    both = mm.glmm("y ~ x + (1 | g)", table, Power(), dispersion="~ x")
    assert both.converged and both.deviance <= fit.deviance + 1e-6 and both.df == fit.df + 1
    e = both.estimates
    assert len(e.psi) == both.df
    with jax.enable_x64(True):
        at = mm.Parameters(*map(jnp.asarray, (e.beta, e.theta, e.log_phi)))
        close(quick_jit(mm.neg2_loglik)(at, both.model.arrays), both.deviance, 1e-9)
