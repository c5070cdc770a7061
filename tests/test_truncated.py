"""Counts above zero and hurdles: densities and derivatives in many digits, moments, glmmTMB's fits, and what is made of
a fit, beside the two models that a hurdle is."""

import json
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pandas as pd
import pytest
from helpers import close, quick_jit
from scipy import stats
from test_predictors import log_p, mean_of

import jaxmm as mm
from jaxmm import families
from jaxmm.crossval import density
from jaxmm.families import Family, Hurdle, Truncated
from jaxmm.sources.draw import Simulated

HERE = Path(__file__).parent / "reference"
REFERENCE = json.loads((HERE / "hurdle.json").read_text())
COUNTS = ("poisson", "nbinom1", "nbinom2")
mp.mp.dps = 40


@cache
def data() -> pd.DataFrame:
    return pd.read_csv(HERE / "hurdle.csv")


# ---------------------------------------------------------------- the density of a hurdle
def hurdle(name: str, y: int, eta, phi, zi) -> mp.mpf:
    base, pi = log_p(name, y, 1, mean_of(name, eta), phi), 1 / (1 + mp.exp(-zi))
    if y == 0:
        return mp.log(pi)
    return mp.log(1 - pi) + base - mp.log(1 - mp.exp(log_p(name, 0, 1, mean_of(name, eta), phi)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", COUNTS)
def test_density_and_derivatives(name):
    """By η, log φ and the logit of π, also where zeros are rare or nearly certain, and means tiny."""
    family = Hurdle(families.get(name))
    points = list(product((0, 1, 4), (-9.0, 0.4, 2.5), (0.3, 20.0), (-20.0, 1.3, 15.0)))

    def density(y, x):
        return family.density(y, x[0], jnp.exp(x[1]), 1.0, x[2]) + family.log_constant(y)

    @quick_jit
    def jets(y, x):
        return jax.vmap(lambda y, x: (density(y, x), jax.jacfwd(density, 1)(y, x), jax.hessian(density, 1)(y, x)))(y, x)

    y, x = np.array([p[0] for p in points], float), np.array([(p[1], np.log(p[2]), p[3]) for p in points])
    value, slope, curve = map(np.asarray, jets(y, x))
    for k, (count, eta, phi, zi) in enumerate(points):

        def f(a, b, c, count=count):
            return hurdle(name, count, a, mp.exp(b), c)

        at = (mp.mpf(eta), mp.log(mp.mpf(phi)), mp.mpf(zi))
        np.testing.assert_allclose(value[k], float(f(*at)), rtol=1e-12, atol=1e-14)
        orders = {(1, 0, 0): slope[k][0], (0, 0, 1): slope[k][2], (2, 0, 0): curve[k][0, 0], (0, 0, 2): curve[k][2, 2]}
        orders |= {(0, 1, 0): slope[k][1], (1, 1, 0): curve[k][0, 1]} if family.num_phi else {}
        for order, found in orders.items():
            np.testing.assert_allclose(found, float(mp.diff(f, at, order)), rtol=1e-8, atol=1e-14)
        assert curve[k][0, 2] == 0  # what zeros tell of the counts


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", COUNTS)
def test_moments_and_draws_of_a_hurdle(name):
    family, y = Hurdle(families.get(name)), np.arange(600.0)
    mu, phi, zi = 1.3, 1.7, 0.4
    p = np.exp(
        family.density(y, family.link.link(jnp.asarray(mu)), phi, 1.0, np.log(zi / (1 - zi))) + family.log_constant(y)
    )
    mean = np.sum(p * y)
    moments = [np.sum(p * (y - mean) ** k) for k in (2, 4)]
    close(
        [np.sum(p), p[0], mean, moments[0]],
        [1.0, zi, family.mean(mu, phi, zi), family.variance(mu, phi, 1.0, zi)],
        1e-10,
    )
    n = 40_000
    drawn = np.asarray(family.sample(jax.random.key(3), jnp.full(n, mu), phi, 1.0, zi))
    assert abs(drawn.mean() - mean) < 4.5 * np.sqrt(moments[0] / n)
    assert abs(np.mean((drawn - mean) ** 2) - moments[0]) < 4.5 * np.sqrt((moments[1] - moments[0] ** 2) / n)
    assert abs(np.mean(drawn == 0) - zi) < 4.5 * np.sqrt(0.25 / n)


# ---------------------------------------------------------------- without what a family says itself
class Plain(families.NegativeBinomial2):
    """With nothing but its density."""

    name = "plain"
    log_of_eta_above_zero = Family.log_of_eta_above_zero
    sample_above_zero = Family.sample_above_zero


@pytest.mark.usefixtures("x64")
def test_a_family_of_counts_of_ones_own():
    """The derived density is the written one, and so are draws by inversion: counts of each value, by chi squared."""
    own, known = Truncated(Plain()), Truncated(families.NegativeBinomial2())
    y, eta = map(jnp.ravel, jnp.meshgrid(jnp.array([1.0, 2.0, 9.0]), jnp.array([-3.0, 0.5, 4.0, -800.0])))
    close(own.density(y[:-3], eta[:-3], 1.7), known.density(y[:-3], eta[:-3], 1.7), 1e-12)
    assert np.all(own.density(y[-3:], eta[-3:], 1.7) < 0)  # where p(0) rounds to one
    for mu, phi in ((0.05, 1.7), (1.3, 0.3), (9.0, 20.0)):
        at = jnp.arange(1.0, 2000)
        p = np.exp(known.density(at, known.link.link(jnp.full(1999, mu)), phi) + known.log_constant(at))
        for family in (own, known):
            drawn = np.asarray(family.sample(jax.random.key(5), jnp.full(20_000, mu), phi))
            shown = 1 + np.flatnonzero(20_000 * p > 20)[-1]  # from then on together
            counts = np.append(
                np.bincount(drawn.astype(int), minlength=shown + 1)[1 : shown + 1], np.sum(drawn > shown)
            )
            expected = 20_000 * np.append(p[:shown], 1 - np.sum(p[:shown]))
            if expected[-1] < 5:
                counts, expected = (np.append(x[:-2], x[-2:].sum()) for x in (counts, expected))
            assert counts.sum() == 20_000 and stats.chisquare(counts, expected).pvalue > 1e-4, (mu, phi, family)


@pytest.mark.usefixtures("x64")
def test_samples_of_extreme_parameters():
    mu = jnp.array([1e-300, 1e-12, 1e-3, 1.0, 1e6])
    for name, phi in product(COUNTS, (1e-4, 1e6)):
        drawn = Truncated(families.get(name)).sample(jax.random.key(0), mu, phi)
        assert np.all(np.isfinite(drawn) & (drawn >= 1) & (drawn == np.round(drawn))), (name, phi)


# ---------------------------------------------------------------- objects and bad input
def test_objects():
    poisson = families.get("truncated_poisson")
    assert (
        poisson
        == Truncated(families.get("poisson"))
        == families.TruncatedPoisson()
        != families.get("truncated_nbinom2")
    )
    assert hash(poisson) == hash(Truncated(families.get("poisson")))
    assert (
        families.get(poisson, link="sqrt")
        == Truncated(families.get("poisson", "sqrt"))
        == Truncated(poisson.base, "sqrt")
    )
    assert Hurdle(poisson) == Hurdle(poisson.base) and Hurdle(poisson, link="identity").link.name == "identity"
    assert (poisson.limit, families.get("truncated_nbinom2").limit) == (None, "truncated_poisson")
    assert Hurdle(families.get("nbinom1")).limit == "hurdle poisson"
    with pytest.raises(ValueError, match="did you mean 'truncated_nbinom2'"):
        families.get("truncatednbinom2")


@pytest.mark.parametrize("wrapper", [Truncated, Hurdle])
def test_what_has_no_zeros_to_leave_out(wrapper):
    with pytest.raises(
        ValueError, match=f"{wrapper.__name__} takes a family of counts, and the gamma family takes positive"
    ):
        wrapper(families.get("gamma"))
    with pytest.raises(ValueError, match="without an upper end, and the binomial family counts successes among trials"):
        wrapper(families.get("binomial"))
    with pytest.raises(ValueError, match="has parameters of its own after these"):
        wrapper(families.ZeroInflated(families.get("poisson")))
    with pytest.raises(TypeError, match=f"{wrapper.__name__} takes a family, such as"):
        wrapper("poisson")
    with pytest.raises(ValueError, match="takes a family of counts"):
        Truncated(families.get("truncated_poisson"))


def test_responses_that_are_none():
    table = data()
    with pytest.raises(mm.DataError, match=r"'seen' is 0 .*the truncated_poisson family takes whole numbers from 1"):
        mm.glmm("seen ~ x + (1 | g)", table, "truncated_poisson")
    with pytest.raises(mm.DataError, match=r"'x' is .*whole numbers from 0"):
        mm.glmm("x ~ 1 + (1 | g)", table, "truncated_poisson", zero_inflation="~ 1")
    for formula, further in (("stays ~ x + (1 | g)", {}), ("seen ~ x + (1 | g)", {"zero_inflation": "~ 1"})):
        few = table.assign(stays=1, seen=table["seen"].clip(upper=1))
        with pytest.raises(mm.DataError, match=r"is constant .1 in every row.|no count above 1 in any row"):
            mm.glmm(formula, few, "truncated_poisson", **further)


# ---------------------------------------------------------------- fits
FITS = {
    "truncated_poisson": ("stays ~ x + (1 | g)", "truncated_poisson", {}),
    "truncated_nbinom1": ("days ~ x + (1 | g)", "truncated_nbinom1", {}),
    "truncated_nbinom2": ("days ~ x + (1 | g)", "truncated_nbinom2", {}),
    "hurdle poisson": ("seen ~ x + (1 | g)", "truncated_poisson", {"zero_inflation": "~ wet + (1 | g)"}),
    "hurdle nbinom2": ("much ~ x + (1 | g)", "truncated_nbinom2", {"zero_inflation": "~ wet", "dispersion": "~ wet"}),
}


@cache
def fitted(name: str) -> mm.Fit:
    formula, family, further = FITS[name]
    return mm.glmm(formula, data(), family, **further)


@pytest.mark.parametrize("name", FITS)
def test_fits_are_glmmtmbs(name):
    fit, said = fitted(name), REFERENCE[name]
    assert fit.converged and fit.df == said["df"]
    assert abs(fit.loglik - said["loglik"]) < 1e-7
    assert np.max(np.abs(fit.fixef - said["fixef"]) / said["se"]) < 1e-4
    np.testing.assert_allclose(fit.bse, said["se"], rtol=1e-4)
    np.testing.assert_allclose(fit.varcorr().sd["g"], said["sd"], rtol=1e-4)
    np.testing.assert_allclose(fit.fitted()[:6], said["fitted"], rtol=2e-5)
    if fit.dispersion is not None:
        np.testing.assert_allclose(fit.dispersion, said["sigma"], rtol=1e-4)
    for component, key in (("zi", "zi"), ("phi", "disp")):
        if component in fit.model.design.predictors:
            np.testing.assert_allclose(fit.coef_table(component=component)["estimate"], said[key], atol=1e-4)
    if said["zi"]:  # the mean of the counts above zero is theirs that is called conditional
        above = fit.predict() / (1 - fit.predict(scale="zero"))
        np.testing.assert_allclose(above[:6], said["conditional"], rtol=2e-5)


def test_a_hurdle_is_two_models():
    """Whether a count is zero, and how many there are if it is not."""
    whole, table = fitted("hurdle poisson"), data()
    some = table[table["seen"] > 0]
    counts = mm.glmm("seen ~ x + (1 | g)", some, "truncated_poisson")
    zeros = mm.glmm("zero ~ wet + (1 | g)", table.assign(zero=(table["seen"] == 0) + 0), "binomial")
    close(whole.deviance, counts.deviance + zeros.deviance, 1e-9)
    np.testing.assert_allclose(whole.fixef, counts.fixef, atol=1e-5)
    np.testing.assert_allclose(whole.coef_table(component="zi")["estimate"], zeros.fixef, atol=1e-5)
    kept = whole.model.design.y > 0
    own = whole.residuals("deviance")  # with the sign of y less its mean, zeros counted
    np.testing.assert_allclose(np.abs(own[kept]), np.abs(counts.residuals("deviance")), atol=1e-5)
    assert np.all(own[~kept] == 0) and np.all(np.sign(own[kept]) == np.sign(whole.residuals()[kept]))


def test_a_hurdle_by_its_object():
    formula = "seen ~ x + (1 | g)"
    named = mm.glmm(formula, data(), "truncated_poisson", zero_inflation="~ 1")
    made = mm.glmm(formula, data(), Hurdle(families.get("poisson")))
    assert made.family == named.family and made.deviance == named.deviance
    assert "hurdle poisson (log)" in str(made.summary())


@pytest.mark.parametrize("name", ["truncated_nbinom2", "hurdle poisson", "hurdle nbinom2"])
def test_draws_predictions_and_residuals(name):
    """Draws at the modes have the moments of the fit, within five of their Monte-Carlo errors."""
    fit, n = fitted(name), 400
    draws = fit.simulate(n, key=2, re="conditional")
    mean, observed = fit.fitted().to_numpy(), fit.model.design.y
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * (draws.std(axis=0) / np.sqrt(n) + 1e-3))
    close(fit.residuals(), observed - mean, 1e-12)
    pearson = (fit.residuals("pearson") / (observed - mean)).to_numpy()
    scaled = ((draws - mean) * pearson).ravel()
    assert abs(np.mean(scaled**2) - 1) < 5 * np.std(scaled**2) / np.sqrt(len(scaled))
    assert fit.residuals("deviance").notna().all() and fit.residuals("working").notna().all()
    mu = np.exp(fit.predict(scale="link"))
    np.testing.assert_allclose(fit.predict(scale="conditional"), mu, rtol=1e-12)
    new = data().iloc[:4]
    inner = fit.predict(new, interval="prediction", key=1)
    assert np.all(inner["lower"] >= (0 if "hurdle" in name else 1)) and np.all(inner["upper"] > inner["predicted"])
    np.testing.assert_allclose(fit.predict(new), mean[:4], rtol=1e-12)


@pytest.mark.parametrize("name", ["truncated_nbinom2", "hurdle poisson"])
def test_means_over_the_levels(name):
    """E of the mean of y over the effects, which is not the mean at E μ; errors by differences of it."""
    fit, new = fitted(name), data().iloc[[0, 150]]
    nodes, mass = np.polynomial.hermite_e.hermegauss(60)
    mass = mass / mass.sum()
    phi = fit.dispersion

    def mean_of_y(beta, sd, log_phi=0.0, zi=None, zi_sd=0.0):
        mu = np.exp((beta[0] + beta[1] * new["x"].to_numpy())[:, None] + sd * nodes)
        p0 = np.exp(-mu) if phi is None else (1 + mu / np.exp(log_phi)) ** -np.exp(log_phi)
        count = mu / (1 - p0) @ mass
        if zi is None:
            return count
        logit = zi[0] + zi[1] * (new["wet"] == "yes").to_numpy()
        return count * (1 - 1 / (1 + np.exp(-logit[:, None] - zi_sd * nodes)) @ mass)

    sd = {k: float(x.iloc[0]) for k, x in fit.varcorr().sd.items()}
    at = [fit.fixef.to_numpy(), sd["g"], 0.0 if phi is None else np.log(phi)]
    at += [fit.coef_table(component="zi")["estimate"].to_numpy(), sd["zi~g"]] if "hurdle" in name else []
    frame = fit.predict(new, re="marginal", interval="confidence")
    np.testing.assert_allclose(frame["predicted"], mean_of_y(*at), rtol=1e-8)
    if phi is not None:  # psi = (beta, theta, log phi)
        psi, V = np.array([*fit.fixef, sd["g"], np.log(phi)]), np.asarray(fit.estimates.covariance)
        J = np.eye(4)  # from what the search moves
        J[:2, :2], J[2, 2] = np.asarray(fit.model.arrays.T_X), sd["g"] / np.asarray(fit.estimates.psi)[2]

        def log_mean(x):
            return np.log(mean_of_y(x[:2], x[2], x[3]))

        slopes = np.stack([(log_mean(psi + h) - log_mean(psi - h)) / 2e-5 for h in 1e-5 * np.eye(4)])
        se = np.sqrt(np.diag(slopes.T @ J @ V @ J.T @ slopes))
        ends = np.log(frame["predicted"].to_numpy()[:, None]) + np.outer(se, [-1, 1]) * stats.norm.ppf(0.975)
        np.testing.assert_allclose(np.log(frame[["lower", "upper"]]), ends, rtol=1e-4)
    means = fit.emmeans("x", scale="response")
    assert "before zeros are left out" in str(means)


@pytest.mark.parametrize("name", ["truncated_poisson", "hurdle poisson"])
def test_predictions_of_rows_left_out(name):
    """At the parameters of the fit they are those averaged over the levels."""
    fit = fitted(name)
    found = density._means(fit, SimpleNamespace(of_rows=np.zeros(240, int)), density.of_fit(fit, 1))  # pyright: ignore
    np.testing.assert_allclose(found, fit.predict(re="marginal"), rtol=1e-9)


def test_intervals_of_the_mean_at_an_effect_of_zero():
    """By the delta method: the slope of the mean of y, not of μ."""
    fit, new = fitted("truncated_poisson"), data().iloc[[3, 7]]
    X = np.column_stack([np.ones(2), new["x"]])
    eta = X @ fit.fixef.to_numpy()
    se = np.sqrt(np.sum(X @ fit.vcov().to_numpy() * X, axis=1))

    def log_mean(e):
        return e - np.log(-np.expm1(-np.exp(e)))

    slope = (log_mean(eta + 1e-6) - log_mean(eta - 1e-6)) / 2e-6
    for uncertain in ("fixed", None):
        frame = fit.predict(new, re="population", interval="confidence", uncertain=uncertain)
        ends = np.exp(log_mean(eta)[:, None] + np.outer(slope * se, [-1, 1]) * stats.norm.ppf(0.975))
        np.testing.assert_allclose(frame["predicted"], np.exp(log_mean(eta)), rtol=1e-10)
        np.testing.assert_allclose(frame[["lower", "upper"]], ends, rtol=1e-5)


# ---------------------------------------------------------------- many at once
TRUTHS = {
    "truncated_nbinom2": {"fixef": [0.8, 0.4], "sd": {"g": 0.4}, "dispersion": 1.5},
    "hurdle poisson": {"fixef": [0.6, 0.3], "sd": {"g": 0.4, "zi~g": 0.6}, "zero_inflation": [-1.0, 0.8]},
}


@pytest.mark.parametrize("name", TRUTHS)
def test_each_lane_is_its_own_single_fit(name):
    model = fitted(name).model
    source = Simulated(model, TRUTHS[name], 4, jax.random.key(5))
    batch, Y = mm.fit_many(model, source, progress=False), np.asarray(source.block(0, 4).y)
    for k, y in enumerate(Y[:2]):
        fit = model.with_response(y).fit()
        assert fit.converged and batch.converged[k]
        close(-2 * batch.loglik[k], fit.deviance, 1e-8)
        assert np.max(np.abs(batch.fixef[k] - fit.fixef) / fit.bse) < 1e-4
        np.testing.assert_allclose(batch.bse[k], fit.bse, rtol=1e-4)
    ones = np.vstack([np.where(Y[0] > 0, 1.0, 0.0) if "hurdle" in name else np.ones_like(Y[0]), Y[1]])
    flat = mm.fit_many(model, ones, progress=False)
    assert not flat.converged[0] and flat.converged[1]


def test_tables_profiles_and_truths():
    fit = fitted("truncated_nbinom2")
    assert {"mu", "phi"} >= set(fit.model.design.predictors) and "truncated_nbinom2" in str(fit.summary())
    table = fit.confint(method="profile", parm="dispersion")
    assert table["lower"].item() < fit.dispersion < table["upper"].item()
    close(fit.model.fit(start=fit).deviance, fit.deviance, 1e-9)
    checked = mm.glmm("seen ~ x + (1 | g)", data(), "truncated_poisson", zero_inflation="~ 1")
    drawn = checked.simulated_residuals(100, key=1)
    assert drawn.test_zero_inflation().p > 0.2  # as many as there are, by construction
