"""Student's t: its density far out and towards the normal, moments, glmmTMB's fits, degrees of freedom that are known
or estimated, and what is made of a fit."""

import json
from functools import cache
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pandas as pd
import pytest
from helpers import central, close, quick_jit
from scipy import stats

import jaxmm as mm
from jaxmm.families import Gaussian, StudentT
from jaxmm.sources.draw import Simulated

HERE = Path(__file__).parent / "reference"
REFERENCE = json.loads((HERE / "hurdle.json").read_text())
mp.mp.dps = 50


@cache
def data() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    table = pd.read_csv(HERE / "hurdle.csv").assign(high=lambda d: d["level"] + 6)
    return table.assign(
        normal=lambda d: 2 + 0.5 * d["x"] + rng.normal(size=24)[d["g"] - 1] + 0.4 * rng.normal(size=240)
    )


# ---------------------------------------------------------------- the density
@pytest.mark.usefixtures("x64")
def test_density_and_derivatives():
    """By the mean, log φ and log ν to second order: near and far out, for every ν up to the normal distribution's."""
    points = list(product((-3.0, 0.4, 1e4), (0.4 + 1e-6, 1.0), (1e-4, 2.0), (0.3, 1.0, 7.0, 1e3, 1e7)))

    def density(y, x):
        return StudentT().density(y, x[0], jnp.exp(x[1]), 1.0, jnp.exp(x[2])) + StudentT().log_constant(y)

    @quick_jit
    def jets(y, x):
        return jax.vmap(lambda y, x: (density(y, x), jax.jacfwd(density, 1)(y, x), jax.hessian(density, 1)(y, x)))(y, x)

    y = np.array([p[0] for p in points])
    x = np.array([(p[1], np.log(p[2]), np.log(p[3])) for p in points])
    value, slope, curve = map(np.asarray, jets(y, x))
    for k, count in enumerate(y):

        def f(mu, b, c, count=count):
            y, phi, df = mp.mpf(float(count)), mp.exp(b), mp.exp(c)
            constant = mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(mp.pi * df * phi) / 2
            return constant - (df + 1) / 2 * mp.log(1 + (y - mu) ** 2 / (df * phi))

        at = tuple(mp.mpf(float(v)) for v in x[k])
        z2 = float((count - x[k][0]) ** 2 / np.exp(x[k][1]))
        np.testing.assert_allclose(value[k], float(f(*at)), rtol=1e-12, atol=1e-13)
        orders = {(1, 0, 0): slope[k][0], (0, 1, 0): slope[k][1], (0, 0, 1): slope[k][2]}
        orders |= {(2, 0, 0): curve[k][0, 0], (1, 0, 1): curve[k][0, 2], (0, 0, 2): curve[k][2, 2]}
        for order, found in orders.items():
            noise = (
                1e-15 * min(z2, np.exp(x[k][2])) if order[2] else 0.0
            )  # of the terms of order z² that cancel in log ν
            np.testing.assert_allclose(
                found, float(mp.diff(f, at, order)), rtol=1e-9, atol=1e-13 + noise, err_msg=f"{k}"
            )


@pytest.mark.usefixtures("x64")
def test_limits():
    """Cauchy at ν = 1, normal as ν grows; the variance, and that there is none."""
    y, mu, phi = np.array([-3.0, 0.4, 50.0]), 0.7, 2.3
    own = lambda df: StudentT(df=df).density(y, mu, phi) + StudentT().log_constant(y)  # noqa: E731
    close(own(1), stats.cauchy.logpdf(y, mu, np.sqrt(phi)), 1e-12)
    close(own(1e13), Gaussian().density(y, mu, phi) + Gaussian().log_constant(y), 1e-9)
    assert float(StudentT(df=6).variance(0.0, phi)) == 1.5 and np.isnan(StudentT().variance(0.0, phi, 1.0, 2.0))
    close(StudentT(df=1e9).unit_deviance(y, mu, phi), (y - mu) ** 2, 1e-5)


@pytest.mark.parametrize("df", [0, -1.0, np.inf, np.nan, "4", True, (3.0,)])
def test_degrees_of_freedom_that_are_none(df):
    with pytest.raises(ValueError, match="df must be a positive number"):
        StudentT(df=df)


def test_objects():
    assert StudentT(df=4) == StudentT("identity", 4.0) != StudentT() == mm.families.get("student_t")
    assert mm.families.get(StudentT(df=4), link="log") == StudentT("log", 4)
    assert StudentT(df=4).num_extras == 0 and StudentT().constant_names == ("df",)
    with pytest.raises(ValueError, match="did you mean 'student_t'"):
        mm.families.get("studentt")
    with pytest.raises(mm.DataError, match="'level' is infinite at row 3"):
        table = data().assign(level=np.where(np.arange(240) == 3, np.inf, data()["level"]))
        mm.glmm("level ~ x + (1 | g)", table, "student_t")


# ---------------------------------------------------------------- fits
FITS = {"t": ("level", "student_t"), "t log": ("high", StudentT("log"))}


@cache
def fitted(name: str) -> mm.Fit:
    response, family = FITS[name]
    return mm.glmm(f"{response} ~ x + (1 | g)", data(), family)


@pytest.mark.parametrize("name", FITS)
def test_fits_are_glmmtmbs(name):
    fit, said = fitted(name), REFERENCE[name]
    assert fit.converged and fit.df == said["df"] and abs(fit.loglik - said["loglik"]) < 1e-7
    assert np.max(np.abs(fit.fixef - said["fixef"]) / said["se"]) < 1e-4
    np.testing.assert_allclose(fit.bse, said["se"], rtol=1e-3)
    np.testing.assert_allclose(fit.varcorr().sd["g"], said["sd"], rtol=1e-4)
    np.testing.assert_allclose([fit.sigma, fit.dispersion], [said["sigma"], said["sigma"] ** 2], rtol=1e-4)
    np.testing.assert_allclose(fit.family_params["df"], said["extra"], rtol=1e-4)
    np.testing.assert_allclose(fit.fitted()[:6], said["fitted"], rtol=1e-5)


def test_a_fit_beside_a_direct_maximum():
    """The same likelihood by many nodes and SciPy's density is at its maximum, and no parameter is free of it."""
    fit, d = mm.glmm("level ~ x + (1 | g)", data(), "student_t", n_agq=25), data()
    nodes, mass = np.polynomial.hermite_e.hermegauss(150)
    mass = mass / mass.sum()

    def loglik(x):
        eta = (x[0] + x[1] * d["x"]).to_numpy()[:, None] + x[2] * nodes
        rows = stats.t.logpdf(d["level"].to_numpy()[:, None], x[4], eta, x[3])
        return np.sum(np.log(np.exp(np.add.reduceat(rows, np.arange(0, 240, 10), axis=0)) @ mass))

    at = np.array([*fit.fixef, fit.varcorr().sd["g"].iloc[0], fit.sigma, fit.family_params["df"]])
    close(fit.loglik, loglik(at), 1e-7)
    assert np.max(np.abs(central(loglik, at, 1e-5))) < 1e-2


def test_known_degrees_of_freedom():
    """At the estimate the same fit, elsewhere a worse one with a parameter less."""
    free = fitted("t")
    known = mm.glmm("level ~ x + (1 | g)", data(), StudentT(df=free.family_params["df"]))
    close(known.deviance, free.deviance, 1e-9)
    assert known.df == free.df - 1 and known.family_params == {}
    worse = mm.glmm("level ~ x + (1 | g)", data(), StudentT(df=30))
    assert worse.converged and worse.deviance > free.deviance
    assert "df=30" in repr(worse.family) and worse.residuals("pearson").notna().all()


def test_normal_data_are_at_the_limit():
    """The fit is the normal one's, and says so."""
    fit = mm.glmm("normal ~ x + (1 | g)", data(), "student_t")
    plain = mm.glmm("normal ~ x + (1 | g)", data(), "gaussian")
    assert fit.deviance < plain.deviance + 1e-5
    if fit.family_params["df"] > 1e6:
        assert any("df is at its limit" in r and "gaussian family" in r for r in fit.remarks)
        np.testing.assert_allclose(fit.fixef, plain.fixef, atol=1e-4)
    scaled = mm.glmm("normal ~ x + (1 | g)", data().assign(normal=1e-9 * data()["level"]), "student_t")
    assert scaled.converged and not any("at its limit" in r for r in scaled.remarks)  # φ is small, which is nothing
    np.testing.assert_allclose(scaled.family_params["df"], fitted("t").family_params["df"], rtol=1e-3)


def test_residuals_draws_and_predictions():
    fit = fitted("t")
    df, mean, y = fit.family_params["df"], fit.fitted().to_numpy(), fit.model.design.y
    close(fit.residuals("pearson"), (y - mean) / np.sqrt(df / (df - 2)), 1e-10)
    deviance = np.sign(y - mean) * fit.sigma * np.sqrt((df + 1) * np.log1p((y - mean) ** 2 / (df * fit.dispersion)))
    close(fit.residuals("deviance"), deviance, 1e-10)
    close(fit.residuals("working"), y - mean, 1e-12)
    draws = (fit.simulate(200, key=3, re="conditional") - mean) / fit.sigma
    assert stats.kstest(draws.ravel(), stats.t(df).cdf).pvalue > 1e-4
    heavy = mm.glmm("level ~ x + (1 | g)", data(), StudentT(df=1.5))
    assert heavy.residuals("pearson").isna().all() and heavy.residuals("deviance").notna().all()
    new = data().iloc[:3]
    frame = fit.predict(new, interval="prediction", key=1, n=4000)
    half = (frame["upper"] - frame["lower"]) / 2
    assert np.all(half > 0.9 * fit.sigma * stats.t.ppf(0.975, df)) and np.all(
        half < 2 * fit.sigma * stats.t.ppf(0.975, df)
    )
    np.testing.assert_allclose(fit.predict(new, re="marginal"), fit.predict(new, re="population"), rtol=1e-9)


def test_tables_profiles_and_truths():
    fit = fitted("t")
    text = str(fit.summary())
    assert "df of student_t" in text and "Residual" in text
    tidy = fit.tidy().set_index("term")
    assert tidy.loc["df", "estimate"] == fit.family_params["df"]
    table = fit.confint(method="profile", parm="df")
    lower, upper = table["lower"].item(), table["upper"].item()
    assert lower < fit.family_params["df"] < upper
    at = mm.glmm("level ~ x + (1 | g)", data(), StudentT(df=lower))
    close(at.deviance - fit.deviance, stats.chi2.ppf(0.95, 1), 1e-3)
    close(fit.model.fit(start=fit).deviance, fit.deviance, 1e-9)


def test_each_lane_is_its_own_single_fit():
    model = fitted("t").model
    truth = {"fixef": [2.0, 0.5], "sd": {"g": 0.6}, "sigma": 0.4, "family_params": {"df": 4.0}}
    source = Simulated(model, truth, 4, jax.random.key(8))
    batch, Y = mm.fit_many(model, source, progress=False), np.asarray(source.block(0, 4).y)
    assert batch.names.family_params == ("df",)
    for k, y in enumerate(Y[:2]):
        fit = model.with_response(y).fit()
        assert fit.converged and batch.converged[k]
        close(-2 * batch.loglik[k], fit.deviance, 1e-8)
        assert np.max(np.abs(batch.fixef[k] - fit.fixef) / fit.bse) < 1e-4
        np.testing.assert_allclose(batch.family_params[k, 0], fit.family_params["df"], rtol=1e-3)
        np.testing.assert_allclose(batch.sigma[k], fit.sigma, rtol=1e-4)
