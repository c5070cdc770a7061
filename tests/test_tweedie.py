"""The Tweedie family: its series against mpmath, for powers all over the interval; fits against glmmTMB, beside the
likelihood written out, in batches and through the verbs."""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pandas as pd
import pytest
from helpers import central, close, quick_jit
from scipy import special

import jaxmm as mm
from jaxmm import _wright
from jaxmm._wright import log_wright
from jaxmm.families.tweedie import LARGEST
from jaxmm.sources.draw import Simulated
from jaxmm.sources.truth import as_truth

HERE = Path(__file__).parent / "reference"
GLMMTMB = json.loads((HERE / "tweedie.json").read_text())
MODEL = "catch ~ x + (1 | site)"


# ---------------------------------------------------------------- the series
@cache
def _terms(p, first, last):
    a = (2 - p) / (p - 1)
    return [mp.loggamma(j + 1) + mp.loggamma(a * j) for j in range(first, last)]


def series(ell, p):
    """S(ℓ, p), term by term."""
    x = mp.exp(ell)
    J, log_z = x / (2 - p), (ell - (2 - p) * mp.log(p - 1)) / (p - 1) - mp.log(2 - p)
    reach = 14 * mp.sqrt((p - 1) * J)
    first = max(1, int(J - reach) // 10 * 10)
    last = (int(J + reach + 60) // 10 + 1) * 10
    gammas = _terms(p, first, last)
    logs = [j * log_z - g for j, g in zip(range(first, last), gammas, strict=True)]
    return mp.log(mp.fsum(mp.exp(t - x / ((p - 1) * (2 - p))) for t in logs))


# on both sides of where one way takes over from another: a first term that counts, x = 40, single terms near p = 1
XS = (1e-8, 0.05, 1.0, 4.0, 9.0, 14.0, 20.0, 39.9, 40.1, 60.0, 1000.0)


@pytest.mark.parametrize("p", [1.5, 1.002, 1.04, 1.2, 1.35, 1.8, 1.92, 1.99])
def test_the_series(p, x64):
    with mp.workdps(40):
        expected = [float(series(mp.log(mp.mpf(x)), mp.mpf(p))) for x in XS]
    np.testing.assert_allclose(quick_jit(log_wright)(np.log(XS), p), expected, rtol=2e-13, atol=2e-13)


def test_a_bessel_function(x64):
    """For p = 3/2 the sum is 2x I_1(4x)."""
    x = np.geomspace(1e-6, 1e6, 400)
    expected = np.log(2 * x * special.ive(1, 4 * x))
    np.testing.assert_allclose(quick_jit(log_wright)(np.log(x), 1.5), expected, rtol=1e-13, atol=1e-13)


def test_two_ways_agree_near_two(x64):
    """Where a first term is far off and there are too many to sum one by one."""
    ell = np.log([32.0, 36.0, 40.0])
    for p in (1.9999, LARGEST):
        near, far = quick_jit(lambda e, p=p: (_wright._near(e, p), _wright._asymptotic(e, p - 1)))(ell)
        np.testing.assert_allclose(near, far, rtol=0, atol=2e-12)


def along(f, place, times):
    def slope(*x):
        return jax.jvp(lambda v: f(*x[:place], v, *x[place + 1 :]), (x[place],), (1.0,))[1]

    return along(slope, place, times - 1) if times else f


ORDERS = [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3), (4, 0)]


@pytest.mark.parametrize("orders", [ORDERS[:5], ORDERS[5:]], ids=["to the second", "beyond"])
def test_derivatives_of_the_series(orders, x64):
    """By ℓ and p, of the sum and of the series in 1/x; relative to the largest term, as sums of them cancel."""
    points = [(x, p) for x in (0.3, 3.0, 20.0, 50.0) for p in (1.04, 1.4, 1.8)]
    h = mp.mpf(10) ** -8
    compiled = quick_jit(lambda ell, p: [along(along(log_wright, 0, i), 1, j)(ell, p) for i, j in orders])
    for x, p in points:
        ell = float(np.log(x))

        def difference(i, j, ell=ell, p=p):
            total = mp.mpf(0)
            for a in range(i + 1):
                for b in range(j + 1):
                    at = mp.mpf(ell) + (mp.mpf(i) / 2 - a) * h, mp.mpf(p) + (mp.mpf(j) / 2 - b) * h
                    total += (-1) ** (a + b) * mp.binomial(i, a) * mp.binomial(j, b) * series(*at)
            return float(total / h ** (i + j))

        with mp.workdps(55):
            expected = [difference(i, j) for i, j in orders]
        for (i, j), actual, value in zip(orders, compiled(ell, p), expected, strict=True):
            scale = 1 + abs(value) + (x / ((p - 1) * (2 - p))) ** ((i + j) / 2)
            assert abs(actual - value) < 1e-11 * scale, (x, p, i, j, actual, value)


# ---------------------------------------------------------------- the distribution
@pytest.mark.parametrize(("phi", "p", "mu"), [(0.7, 1.25, 1.8), (3.0, 1.85, 0.6), (0.05, 1.6, 2.0)])
def test_the_density_has_one_integral_and_its_moments(phi, p, mu, x64):
    family = mm.families.Tweedie()
    s = np.linspace(-300, 12, 20001)
    y, w = np.exp(s), np.exp(s) * (s[1] - s[0])
    log_p = quick_jit(lambda y: family.density(y, jnp.log(mu), phi, 1.0, p) + family.log_constant(y))
    mass, zero = w * np.exp(log_p(y)), np.exp(log_p(np.zeros(1)))[0]
    np.testing.assert_allclose(zero, np.exp(-(mu ** (2 - p)) / (phi * (2 - p))), rtol=1e-12)
    np.testing.assert_allclose(zero + mass.sum(), 1.0, rtol=1e-9)
    np.testing.assert_allclose(mass @ y, mu, rtol=1e-9)
    np.testing.assert_allclose(mass @ (y - mu) ** 2 + zero * mu**2, phi * mu**p, rtol=1e-9)


@pytest.mark.parametrize(("phi", "p", "mu"), [(0.7, 1.25, 1.8), (3.0, 1.85, 0.6), (0.05, 1.6, 2.0)])
def test_what_is_drawn(phi, p, mu, x64):
    """Share of zeros, mean and variance, within four and a half Monte-Carlo errors."""
    n = 40_000
    y = np.asarray(mm.families.Tweedie().sample(jax.random.key(4), jnp.full(n, mu), phi, 1.0, p))
    zero, variance = np.exp(-(mu ** (2 - p)) / (phi * (2 - p))), phi * mu**p
    assert abs(np.mean(y == 0) - zero) < 4.5 * np.sqrt(zero * (1 - zero) / n) + 1e-12
    assert abs(y.mean() - mu) < 4.5 * np.sqrt(variance / n)
    fourth = np.mean((y - mu) ** 4)
    assert abs(np.mean((y - mu) ** 2) - variance) < 4.5 * np.sqrt((fourth - variance**2) / n)


def test_small_phi_is_normal_and_power_two_gamma(x64):
    family, eta = mm.families.Tweedie(), jnp.log(2.0)
    phi, y = 1e-6, 2.0 + 1e-3 * np.linspace(-3, 3, 7)
    log_p = family.density(y, eta, phi, 1.0, 1.3) + family.log_constant(y)
    V = phi * 2**1.3
    np.testing.assert_allclose(log_p, -((y - 2) ** 2) / (2 * V) - 0.5 * np.log(2 * np.pi * V), atol=0.02)
    gamma, y = mm.families.Gamma("log"), np.array([0.2, 1.0, 5.0])
    near = family.density(y, eta, 0.6, 1.0, LARGEST) + family.log_constant(y)
    np.testing.assert_allclose(near, gamma.density(y, eta, 0.6) + gamma.log_constant(y), atol=1e-4)


def test_at_the_ends_nothing_is_a_number_in_silence(x64):
    """No finite log density where there is none, and no loop that does not end."""
    family = mm.families.Tweedie()
    for p in (1.0, 2.0):
        assert family.density(jnp.asarray(1.3), 0.2, 0.7, 1.0, p) == -np.inf
    assert family.density(jnp.asarray(1.3), 0.2, jnp.inf, 1.0, 1.5) == -np.inf


# ---------------------------------------------------------------- fits
@cache
def catches() -> pd.DataFrame:
    return pd.read_csv(HERE / "tweedie.csv")


@cache
def fitted() -> mm.Fit:
    return mm.glmm(MODEL, catches(), "tweedie")


def compare(fit, expected):
    """glmmTMB's search stops at a gradient of 1e-4 or so; its dispersion is φ, on the scale of its logarithm."""
    close(fit.loglik, expected["loglik"], 1e-7)
    assert fit.loglik > expected["loglik"] - 1e-7 and fit.df == expected["df"]
    se = np.array(expected["se"])
    assert np.max(np.abs(fit.fixef - expected["fixef"]) / se) < 1e-3
    close(fit.bse, se, 1e-3)
    assert abs(fit.family_params["power"] - expected["power"]) < 1e-4
    close(fit.varcorr().sd["site"].iloc[0], expected["sd"], 1e-3)
    np.testing.assert_allclose(fit.ranef()["site"].iloc[:, 0], expected["ranef"], atol=1e-3)
    scaled = fit.residuals("pearson")[:10] / (fit.sigma if fit.dispersion else 1.0)
    np.testing.assert_allclose(scaled, expected["pearson"], rtol=1e-4, atol=1e-6)


def test_glmmtmb():
    fit, expected = fitted(), GLMMTMB["constant"]
    compare(fit, expected)
    assert fit.converged and fit.sigma == pytest.approx(np.sqrt(fit.dispersion), rel=1e-12)
    close(np.log(fit.dispersion), expected["disp"], 1e-3)


def test_glmmtmb_with_a_formula_for_the_dispersion():
    fit = mm.glmm(MODEL, catches(), "tweedie", dispersion="~ x")
    compare(fit, GLMMTMB["dispersion"])
    close(fit.coef_table(component="phi")["estimate"], GLMMTMB["dispersion"]["disp"], 1e-3)


def test_the_likelihood_written_out():
    """By Gauss-Hermite quadrature of a density of NumPy: a maximum in all five parameters."""
    fit, d = mm.glmm(MODEL, catches(), "tweedie", n_agq=15), catches()
    nodes, mass = np.polynomial.hermite_e.hermegauss(60)
    y, j = d["catch"].to_numpy()[:, None], np.arange(1, 150)

    def loglik(x):
        mu = np.exp(x[0] + x[1] * d["x"].to_numpy()[:, None] + x[2] * nodes)
        phi, p = x[3], x[4]
        with np.errstate(divide="ignore"):
            a = (2 - p) / (p - 1)
            log_z = a * np.log(y) - a * np.log(p - 1) - np.log(phi) / (p - 1) - np.log(2 - p)
            W = special.logsumexp(j * log_z - special.gammaln(j + 1) - special.gammaln(a * j), axis=1)[:, None]
        own = np.where(y > 0, W - np.log(np.where(y > 0, y, 1.0)) + y * mu ** (1 - p) / ((1 - p) * phi), 0.0)
        log_p = own - mu ** (2 - p) / ((2 - p) * phi)
        return np.sum(np.log(np.exp(np.add.reduceat(log_p, np.arange(0, 200, 10), axis=0)) @ mass / mass.sum()))

    at = np.array([*fit.fixef, fit.varcorr().sd["site"].iloc[0], fit.dispersion, fit.family_params["power"]])
    close(fit.loglik, loglik(at), 1e-9)
    assert np.max(np.abs(central(loglik, at, 1e-5))) < 1e-3


def test_the_unit_of_y_changes_nothing_but_phi():
    fit = fitted()
    other = mm.glmm(MODEL, catches().assign(catch=lambda d: 1000 * d["catch"]), "tweedie")
    close(other.family_params["power"], fit.family_params["power"], 1e-6)
    close(other.dispersion, fit.dispersion * 1000 ** (2 - fit.family_params["power"]), 1e-5)
    positive = int((catches()["catch"] > 0).sum())
    close(other.loglik, fit.loglik - positive * np.log(1000), 1e-9)


def test_residuals_and_draws():
    fit, y = fitted(), catches()["catch"].to_numpy()
    mu, phi, p = fit.fitted().to_numpy(), fit.dispersion, fit.family_params["power"]
    np.testing.assert_allclose(fit.residuals("response"), y - mu, atol=1e-12)
    np.testing.assert_allclose(fit.residuals("pearson"), (y - mu) / np.sqrt(mu**p), rtol=1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = y * (y ** (1 - p) - mu ** (1 - p)) / (1 - p)
    d = 2 * (np.where(y > 0, part, 0.0) - (y ** (2 - p) - mu ** (2 - p)) / (2 - p))
    np.testing.assert_allclose(fit.residuals("deviance"), np.sign(y - mu) * np.sqrt(d), rtol=1e-8)
    np.testing.assert_allclose(fit.residuals("working"), (y - mu) / mu, rtol=1e-9)
    drawn = fit.simulate(400, key=1, re="conditional")
    zeros = np.exp(-(mu ** (2 - p)) / (phi * (2 - p)))
    assert abs(np.mean(drawn == 0) - zeros.mean()) < 4.5 * np.sqrt(np.mean(zeros * (1 - zeros)) / drawn.size)
    assert abs(np.mean(drawn - mu)) < 4.5 * np.sqrt(np.mean(phi * mu**p) / drawn.size)
    ratio = np.mean((drawn - mu) ** 2 / (phi * mu**p))
    assert abs(ratio - 1) < 0.03
    np.testing.assert_allclose(fit.predict(catches().head(3)), mu[:3], rtol=1e-9)


def test_what_is_printed_and_tabulated():
    fit = fitted()
    text = str(fit.summary())
    assert "Family: tweedie (log)" in text and "power of tweedie: 1.447" in text
    assert fit.glance()["power"].item() == fit.family_params["power"]
    tidy = fit.tidy().set_index("term")
    assert tidy.loc["power", "component"] == "power" and tidy.loc["power", "estimate"] == fit.family_params["power"]


def test_an_interval_for_the_power():
    """At its ends the deviance, maximised over the rest, is higher by the quantile."""
    fit = fitted()
    table = fit.confint("profile", parm="power")
    lower, upper = table.loc["power", ["lower", "upper"]]
    assert 1 < lower < fit.family_params["power"] < upper < 2
    for end in (lower, upper):
        held = type("Held", (mm.families.Tweedie,), {"extras": (), "log_density": _held(end)})()
        close(mm.glmm(MODEL, catches(), held).deviance, fit.deviance + 3.841459, 1e-4)


def _held(p):
    base = mm.families.Tweedie()
    return lambda self, y, eta, phi: base.log_density(y, eta, phi, p)


def test_lanes_are_their_own_fits():
    fit = fitted()
    source = Simulated(fit.model, fit, 5, jax.random.key(0))
    batch = mm.fit_many(fit.model, source, progress=False)
    assert batch.names.family_params == ("power",) and np.all(batch.converged)
    Y = np.asarray(source.block(0, 5).y)
    for k in (0, 3):
        again = fit.model.with_response(Y[k]).fit()
        np.testing.assert_allclose(batch.family_params[k], [again.family_params["power"]], atol=1e-5)
        close(-2 * batch.loglik[k], again.deviance, 1e-8)
        np.testing.assert_allclose(batch.fixef[k], again.fixef, atol=1e-5)


def test_stated_truths():
    truth = {"fixef": [0.5, 0.4], "sd": 0.5, "dispersion": 1.2, "family_params": {"power": 1.4}}
    model = fitted().model
    np.testing.assert_allclose(as_truth(model, truth).extras[0], 1.4)
    for impossible in (1.0, 2.0, 0.7):
        with pytest.raises(ValueError, match="cannot be"):
            as_truth(model, truth | {"family_params": {"power": impossible}})
    with pytest.raises(ValueError, match="truth lacks 'family_params', of 'power'"):
        as_truth(model, {key: value for key, value in truth.items() if key != "family_params"})


def test_what_cannot_be():
    d = catches()
    negative = d.assign(catch=d["catch"].where(d.index != 7, -1.0))
    with pytest.raises(mm.DataError, match="'catch' is -1 at row 7: the tweedie family takes numbers from 0"):
        mm.glmm(MODEL, negative, "tweedie")
    with pytest.raises(mm.DataError, match="0 in every row"):
        mm.glmm(MODEL, d.assign(catch=0.0), "tweedie")
    with pytest.raises(ValueError, match="tweedie family has no link 'logit'; accepted: log, identity, inverse"):
        mm.families.Tweedie(link="logit")
    with pytest.raises(ValueError, match="has parameters of its own"):
        mm.glmm(MODEL, d, "tweedie", zero_inflation="~ 1")


def test_without_zeros_the_power_may_run_to_its_end():
    """Gamma responses: as far as the family goes, with what the gamma family gives."""
    rng = np.random.default_rng(3)
    d = catches().assign(catch=lambda d: rng.gamma(0.8, np.exp(0.4 * d["x"])))
    fit, gamma = mm.glmm(MODEL, d, "tweedie"), mm.glmm(MODEL, d, mm.families.Gamma("log"))
    assert fit.converged and fit.loglik > gamma.loglik - 1e-3
    assert fit.family_params["power"] <= LARGEST


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phi", "p", "level"), [(1, 1.5, 0), (5, 1.5, 1), (1, 1.1, 1), (1, 1.03, 1), (1, 1.5, -3), (0.01, 1.5, 1)]
)
def test_the_power_comes_back(phi, p, level):
    """Means of 60 estimates within four Monte-Carlo errors, and every search converged."""
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(40), 15), rng.normal(size=600)
    model = mm.Model.from_formula("y ~ x + (1 | g)", {"g": g, "x": x, "y": rng.gamma(1, size=600)}, "tweedie")
    truth = {"fixef": [level, 0.3], "sd": 0.5, "dispersion": phi, "family_params": {"power": p}}
    batch = mm.fit_many(model, Simulated(model, truth, 60, jax.random.key(3)), progress=False)
    assert np.all(batch.converged)
    pairs = (batch.family_params[:, 0], p), (2 * np.log(batch.sigma), np.log(phi)), (batch.fixef[:, 1], 0.3)
    for found, true in pairs:
        assert abs(np.mean(found) - true) < 4 * np.std(found) / np.sqrt(60), (np.mean(found), true)
