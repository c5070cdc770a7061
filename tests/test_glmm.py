"""Generalised fits as a user meets them: what every method returns and prints, against formulas and lme4's numbers."""

import pickle
import re
from functools import cache

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import central, close
from scipy import special, stats

import jaxmm as mm
from jaxmm import DataError, plots
from jaxmm.families import Gamma

KEY = jax.random.key(0)
CBPP = "cbind(incidence, size - incidence) ~ period + (1 | herd)"


@cache
def data() -> pd.DataFrame:
    """14 levels of g with 12 rows each, crossed with 6 of h: counts, overdispersed ones, amounts, answers."""
    rng = np.random.default_rng(0)
    g, h, x = np.repeat(np.arange(14), 12), np.tile(np.arange(6), 28), rng.normal(size=168)
    b = rng.multivariate_normal([0, 0], [[1.2, 0.3], [0.3, 0.8]], 14)
    chance = special.expit(0.3 + 0.7 * x + b[g, 0] + b[g, 1] * x)
    mean = np.exp(0.3 + 0.4 * x + 0.5 * b[g, 0] + 0.4 * rng.normal(size=6)[h])
    t = rng.uniform(0.5, 3, 168)
    more = {"count": rng.poisson(mean), "much": rng.negative_binomial(2, 2 / (2 + mean))}
    more |= {"amount": mean * rng.gamma(4, 0.25, 168), "yes": rng.random(168) < chance}
    return pd.DataFrame({"g": [f"g{k:02d}" for k in g], "h": [f"h{k}" for k in h], "x": x, "t": t} | more)


def cbpp() -> pd.DataFrame:
    return mm.datasets.load("cbpp")


FITS = {
    "cbpp": (CBPP, "binomial"),
    "slopes": ("yes ~ x + (x | g)", "binomial"),
    "poisson": ("count ~ x + (1 | g)", "poisson"),
    "crossed": ("count ~ x + (1 | g) + (1 | h)", "poisson"),
    "nbinom2": ("much ~ x + (1 | g)", "nbinom2"),
    "gamma": ("amount ~ x + (1 | g)", Gamma("log")),
}


def glmm(name: str, table: pd.DataFrame | None = None, **arguments) -> mm.Fit:
    formula, family = FITS[name]
    if table is None:
        table = cbpp() if name == "cbpp" else data()
    return mm.glmm(formula, table, family, **arguments)


@cache
def fitted(name: str) -> mm.Fit:
    fit = glmm(name)
    assert fit.converged and not fit.is_singular and fit.remarks == []
    return fit


@pytest.fixture(params=FITS)
def name(request) -> str:
    return request.param


@pytest.fixture
def fit(name) -> mm.Fit:
    return fitted(name)


def says(error: type[Exception], *parts: str):
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


# ---------------------------------------------------------------- lme4's numbers
class LME4:
    """lme4 1.1-31 under R 4.2.2, tolPwrss=1e-12: glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp,
    binomial), its first six rows and levels; fixef_9 and theta_9 with nAGQ=9."""

    fixef = (-1.39853213151607, -0.992332716883148, -1.12867206401603, -1.58031385970849)
    se = (0.232471903069441, 0.306642290962743, 0.326637624931031, 0.427436270369383)
    p = (1.78869034218031e-09, 0.00121164405236464, 0.000549424471076992, 0.000217997665413611)
    lower = (-1.85416868894966, -1.59334056330698, -1.76887004487655, -2.41807355531861)
    theta, loglik, aic, bic = 0.642261435038019, -92.0262818714972, 194.052563742994, 204.17932219667
    ranef = (0.590020011567582, -0.298897221459701, 0.406255552997035, 0.0392773071646753, -0.190015353775365)
    cond_var = (0.121288547778286, 0.133632799731469, 0.0883982817283169, 0.173379115428621, 0.122779114570383)
    fitted = (0.308207644512199, 0.141748254584517, 0.125957529619855, 0.0840287496822663, 0.154801304659695)
    population = (0.198049143324554, 0.0838719552316275, 0.0739729338689243, 0.0483907420736916, 0.198049143324554)
    chisq, p_chisq = 25.6100634447196, 1.15093669430743e-05  # without period
    fixef_9 = (-1.39923019258896, -0.991403876505322, -1.12781967730874, -1.57947101616292)
    theta_9 = 0.647517712093312
    residuals = {  # noqa: RUF012
        "response": (
            -0.165350501655056,
            0.108251745415483,
            0.318486914824589,
            -0.0840287496822663,
            -0.0184376682960591,
        ),
        "pearson": (-1.33986163589652, 1.07512589673691, 2.87961557253057, -0.677264062839621, -0.239084059145041),
        "deviance": (-1.43803187857148, 0.988743172448236, 2.35699781460925, -0.936858051769704, -0.243184563474245),
        "working": (-0.775508124247831, 0.88982067479057, 2.89291000651473, -1.09173732216281, -0.140919976774562),
    }


def test_estimates_of_cbpp():
    fit = fitted("cbpp")
    close(fit.fixef, LME4.fixef, 1e-6)
    close(fit.bse, LME4.se, 1e-5)
    close(fit.pvalues, LME4.p, 1e-4)
    close(fit.confint()["lower"], LME4.lower, 1e-6)
    close(fit.theta, [LME4.theta], 1e-6)
    close([fit.loglik, fit.aic, fit.bic], [LME4.loglik, LME4.aic, LME4.bic], 1e-9)
    close(fit.ranef()["herd"].iloc[:5, 0], LME4.ranef, 1e-6)
    close(fit.ranef().cond_cov["herd"][:5, 0, 0], LME4.cond_var, 1e-6)
    close(fit.fitted()[:5], LME4.fitted, 1e-6)
    close(fit.predict(re="population")[:5], LME4.population, 1e-6)


@pytest.mark.parametrize("kind", LME4.residuals)
def test_residuals_of_cbpp(kind):
    close(fitted("cbpp").residuals(kind)[:5], LME4.residuals[kind], 1e-6)


# ---------------------------------------------------------------- estimates
PARAMETERS = {"cbpp": (4, 1, 0), "slopes": (2, 3, 0), "poisson": (2, 1, 0), "crossed": (2, 2, 0), "nbinom2": (2, 1, 1)}
PARAMETERS |= {"gamma": (2, 1, 1)}
COLUMNS = ["(Intercept)", "period2", "period3", "period4"]


def test_fixed_effects(name, fit):
    p = PARAMETERS[name][0]
    columns = COLUMNS if name == "cbpp" else ["(Intercept)", "x"]
    for series in (fit.fixef, fit.bse, fit.tvalues, fit.pvalues, fit.params, fit.fe_params):
        assert list(series.index) == columns
    V = fit.vcov()
    assert list(V.index) == list(V.columns) == columns and V.shape == (p, p)
    np.testing.assert_array_equal(V, V.T)
    assert np.linalg.eigvalsh(V).min() > 0
    close(fit.bse, np.sqrt(np.diag(V)), 1e-12)
    assert fit.tvalues.name == "z" and fit.pvalues.name == "p_normal"
    close(fit.tvalues, fit.fixef / fit.bse, 1e-12)
    close(fit.pvalues, 2 * stats.norm.sf(np.abs(fit.tvalues)), 1e-12)
    pd.testing.assert_frame_equal(fit.cov_params(), V)
    pd.testing.assert_frame_equal(fit.conf_int(level=0.9), fit.confint(level=0.9))
    np.testing.assert_allclose(fit.confint(level=0.9)["upper"], fit.fixef + stats.norm.ppf(0.95) * fit.bse)


def test_counts_and_criteria(name, fit):
    p, m, k = PARAMETERS[name]
    n = 56 if name == "cbpp" else 168
    assert fit.df == p + m + k and fit.nobs == n and len(fit.theta) == m
    assert fit.deviance == -2 * fit.loglik and fit.llf == fit.loglik
    np.testing.assert_allclose(fit.aic, fit.deviance + 2 * fit.df, rtol=1e-12)
    np.testing.assert_allclose(fit.bic, fit.deviance + np.log(n) * fit.df, rtol=1e-12)
    assert fit.n_groups == ({"herd": 15} if name == "cbpp" else {"g": 14} | ({"h": 6} if name == "crossed" else {}))
    assert fit.reml is False and fit.dropped == () and fit.n_agq == 1 and fit.refit_ml() is fit
    assert fit.diagnostics.status is mm.Status.CONVERGED and fit.diagnostics.eigenvalue > 0


def test_sigma_and_dispersion(name, fit):
    """One number where the family has one; sigma is its root where it is a scale, and 1 elsewhere."""
    assert fit.family_params == {}
    if name not in ("nbinom2", "gamma"):
        assert fit.dispersion is None and fit.sigma == fit.scale == 1.0
    elif name == "nbinom2":
        assert 1 < fit.dispersion < 4 and fit.sigma == 1.0
    else:
        assert 0.2 < fit.dispersion < 0.5
        np.testing.assert_allclose([fit.sigma, fit.scale], [np.sqrt(fit.dispersion), fit.dispersion], rtol=1e-12)


def test_variance_components(name, fit):
    """Theta is absolute: D = ΛΛ', with no sigma in it."""
    varcorr = fit.varcorr()
    lams = {"slopes": [[[fit.theta[0], 0], [fit.theta[1], fit.theta[2]]]]} if name == "slopes" else {}
    for (group, D), lam in zip(varcorr.cov.items(), lams.get(name, [[[v]] for v in fit.theta]), strict=True):
        close(D, np.array(lam) @ np.array(lam).T, 1e-12)
        close(varcorr.sd[group], np.sqrt(np.diag(D)), 1e-12)
    has_residual = name == "gamma"
    frame = varcorr.to_frame()
    assert (frame["group"] == "Residual").sum() == has_residual and ("Residual" in repr(varcorr)) == has_residual
    assert varcorr.sigma == (fit.sigma if has_residual else None)
    assert len(frame) == PARAMETERS[name][1] + has_residual
    if name == "slopes":
        rho = varcorr.corr["g"].loc["x", "(Intercept)"]
        assert frame["sdcor"].iloc[2] == rho and f"{rho:.3f}" in repr(varcorr)


# ---------------------------------------------------------------- random effects
def joint_log_density(name: str, fit: mm.Fit):
    """log p(y | b) + log p(b) without what does not depend on b, which runs over the factors, level by level."""
    d = fit.model.design
    sizes = [(len(f.levels), sum(len(t.effects) for t in d.terms if t.factor == i)) for i, f in enumerate(d.factors)]
    D = [np.linalg.inv(fit.varcorr().cov[f.name]) for f in d.factors]
    Z = [np.hstack([t.Z for t in d.terms if t.factor == i]) for i in range(len(d.factors))]
    y, phi = d.y, fit.dispersion
    density = {
        "binomial": lambda eta: y * eta - d.trials * np.log1p(np.exp(eta)),
        "poisson": lambda eta: y * eta - np.exp(eta),
        "nbinom2": lambda eta: y * eta - (y + phi) * np.log(phi + np.exp(eta)),
        "gamma": lambda eta: -(y * np.exp(-eta) + eta) / phi,
    }[fit.family.name]

    def value(b):
        eta, prior, at = d.X @ fit.fixef.to_numpy(), 0.0, 0
        for (J, q), inverse, z, factor in zip(sizes, D, Z, d.factors, strict=True):
            own = b[at : at + J * q].reshape(J, q)
            at += J * q
            eta = eta + np.sum(z * own[factor.codes], axis=1)
            prior -= 0.5 * np.sum((own @ inverse) * own)
        return np.sum(density(eta)) + prior

    return value, sizes


def test_modes_and_their_covariances(name, fit):
    """The maximum of the joint density of y and b, and blocks of its inverse curvature there."""
    value, sizes = joint_log_density(name, fit)
    ranef = fit.ranef()
    groups = [f.name for f in fit.model.design.factors]
    b = np.concatenate([ranef[g].to_numpy().ravel() for g in groups])
    np.testing.assert_allclose(central(value, b, 1e-3), 0, atol=1e-6)
    H = -central(lambda point: central(value, point, 3e-3), b, 3e-3)
    C, at = np.linalg.inv(0.5 * (H + H.T)), 0
    for g, (J, q) in zip(groups, sizes, strict=True):
        blocks = np.array([C[at + j * q : at + (j + 1) * q, at + j * q : at + (j + 1) * q] for j in range(J)])
        at += J * q
        close(ranef.cond_cov[g], blocks, 1e-5)
        close(ranef.cond_sd[g], np.sqrt(np.diagonal(blocks, axis1=1, axis2=2)), 1e-5)
        close(ranef.cov(g), np.cov(ranef[g].to_numpy().T), 1e-10)
        assert ranef[g].index.name == g and len(ranef[g]) == J
    assert len(ranef.to_frame()) == sum(J * q for J, q in sizes)


def test_coef(fit):
    for group, table in fit.coef().items():
        modes = fit.ranef()[group]
        for column in table:
            close(table[column], fit.fixef.get(column, 0.0) + modes.get(column, 0.0), 1e-12)
        assert list(table.columns) == list(fit.fixef.index)


def test_shrinkage(fit):
    """VarCorr is the sum of its parts nearly, and the text does not say exactly."""
    account = fit.shrinkage()
    for group, D in account.D.items():
        kept = account.factor[group]
        assert np.all((kept > 0) & (kept < 1))
        np.testing.assert_allclose(np.diag(account.sum[group]), np.diag(D), rtol=0.2)
        assert np.all(account.by_level[group].iloc[:, :-1] < 1)
    assert "nearly so in a generalised model" in str(account) and "exactly" not in str(account)
    assert "nearly so" in account._repr_html_()


# ---------------------------------------------------------------- rows
def test_fitted_and_residuals(name, fit):
    """Residuals by the mean, the variance, the density and the slope of the link, written out."""
    d, mu = fit.model.design, fit.fitted()
    table = cbpp() if name == "cbpp" else data()
    assert mu.index.equals(table.index) and np.all(mu > 0)
    if fit.family.has_trials:
        assert np.all(mu < 1)
    trials = d.trials if fit.family.has_trials else 1.0
    y = d.y / trials
    one = pd.Series(1.0, mu.index)
    variance = {"binomial": mu * (1 - mu), "poisson": mu, "gamma": mu**2}
    variance["nbinom2"] = mu + mu**2 / (fit.dispersion or 1.0)
    slope = mu * (1 - mu) if fit.family.name == "binomial" else mu
    phi, log_ratio = fit.dispersion or 1.0, special.xlogy(y, y / mu)
    unit = {
        "binomial": trials * 2 * (log_ratio + special.xlogy(1 - y, (1 - y) / (1 - mu))),
        "poisson": 2 * (log_ratio - (y - mu)),
        "nbinom2": 2 * (log_ratio - (y + phi) * np.log((y + phi) / (mu + phi))),
        "gamma": 2 * ((y - mu) / mu - np.log(np.where(y > 0, y, 1.0) / mu)),
    }[fit.family.name]
    close(fit.residuals(), y - mu, 1e-12)
    close(fit.residuals("pearson"), (y - mu) * np.sqrt(trials / variance[fit.family.name]), 1e-10)
    close(fit.residuals("deviance"), np.sign(y - mu) * np.sqrt(np.maximum(unit, 0)), 1e-9)
    close(fit.residuals("working"), (y - mu) / slope, 1e-10)
    assert fit.residuals("pearson").index.equals(one.index)
    close(fit.predict(), mu, 1e-12)


def linear(fit: mm.Fit, x) -> np.ndarray:
    return fit.fixef.iloc[0] + fit.fixef.iloc[1] * np.asarray(x)


def test_predictions_of_new_rows():
    fit = fitted("slopes")
    new = pd.DataFrame({"x": [-1.0, 0.5, 2.0], "g": ["g03", "g00", "g03"]}, index=["a", "b", "c"])
    b = fit.ranef()["g"].loc[new["g"]].to_numpy()
    eta = linear(fit, new["x"]) + b[:, 0] + b[:, 1] * new["x"].to_numpy()
    link = fit.predict(new, scale="link")
    assert link.index.equals(new.index) and link.name == "predicted"
    close(link, eta, 1e-12)
    close(fit.predict(new), special.expit(eta), 1e-12)
    close(fit.predict(new, re="population", scale="link"), linear(fit, new["x"]), 1e-12)
    close(fit.predict(new.drop(columns="g"), re="population"), special.expit(linear(fit, new["x"])), 1e-12)
    close(fit.predict(re="population", scale="link"), linear(fit, data()["x"]), 1e-12)
    with pytest.raises(NotImplementedError, match="interval"):
        fit.predict(new, interval="prediction")


def test_predictions_by_one_of_two_factors():
    fit = fitted("crossed")
    new = pd.DataFrame({"x": [0.0, 1.0], "g": ["g01", "g13"], "h": ["h5", "h0"]})
    own = {f: fit.ranef()[f].loc[new[f], "(Intercept)"].to_numpy() for f in "gh"}
    base = linear(fit, new["x"])
    close(fit.predict(new.drop(columns="h"), re=["g"], scale="link"), base + own["g"], 1e-12)
    close(fit.predict(new, re=["g", "h"]), np.exp(base + own["g"] + own["h"]), 1e-12)


def test_new_levels():
    """b = 0 is the typical new level; the average over new levels is another number."""
    fit = fitted("slopes")
    new = pd.DataFrame({"x": [1.5, 1.5], "g": ["g00", "nobody"]})
    with says(DataError, "has not seen the level 'nobody' of 'g'", "new_levels='population'"):
        fit.predict(new)
    both = fit.predict(new, new_levels="population")
    close(both[:1], fit.predict(new[:1]), 1e-12)
    close(both[1:], special.expit(linear(fit, [1.5])), 1e-12)
    average = fit.predict(new, re="marginal")
    assert average[0] == average[1] and 0.5 < average[1] < both[1]


def test_marginal_predictions_by_simulation():
    """The mean over 200000 draws of b, which come in pairs of opposite sign."""
    fit, x = fitted("slopes"), np.array([-2.0, 0.0, 1.0])
    b = np.random.default_rng(1).normal(size=(100_000, 2)) @ np.linalg.cholesky(fit.varcorr().cov["g"]).T
    b = np.vstack([b, -b])
    mean = special.expit(linear(fit, x) + b[:, :1] + b[:, 1:] * x).mean(axis=0)
    new = pd.DataFrame({"x": x, "g": "nobody"})
    np.testing.assert_allclose(fit.predict(new, re="marginal"), mean, atol=1e-3)
    np.testing.assert_allclose(fit.predict(new, re="marginal", scale="link"), special.logit(mean), atol=5e-3)
    assert np.all(np.abs(special.logit(mean[[0, 2]])) < np.abs(linear(fit, x[[0, 2]])))


def test_marginal_predictions_of_a_log_link():
    """E exp(η + b) = exp(η + v / 2), with the variances of all factors in v."""
    fit = fitted("crossed")
    expected = np.exp(linear(fit, data()["x"]) + np.sum(fit.theta**2) / 2)
    close(fit.predict(re="marginal"), expected, 1e-9)
    table = fit.marginal_coef()
    assert list(table.columns) == ["estimate", "std_error"] and table.index.equals(fit.fixef.index)
    close(table["estimate"], fit.fixef + np.array([np.sum(fit.theta**2) / 2, 0]), 1e-8)


# ---------------------------------------------------------------- simulations and refits
def test_simulated_counts_of_successes():
    fit, size = fitted("cbpp"), cbpp()["size"].to_numpy()
    draws = fit.simulate(3000, key=KEY)
    assert draws.shape == (3000, 56) and np.all(draws == np.round(draws))
    assert np.all((draws >= 0) & (draws <= size))
    np.testing.assert_allclose(draws.mean(axis=0) / size, fit.predict(re="marginal"), atol=0.02)
    own = fit.simulate(3000, key=KEY, re="conditional")
    np.testing.assert_allclose(own.mean(axis=0) / size, fit.fitted(), atol=0.02)
    herd = np.flatnonzero(cbpp()["herd"] == "1")  # rows of one herd go together where its effect is drawn anew
    assert np.corrcoef(draws[:, herd[:2]].T)[0, 1] > 0.15 > abs(np.corrcoef(own[:, herd[:2]].T)[0, 1]) + 0.05


@pytest.mark.parametrize("re", ["new", "conditional"])
@pytest.mark.parametrize("name", ["cbpp", "slopes", "nbinom2"])
def test_a_replicate_depends_on_the_key_and_its_number(name, re):
    fit = fitted(name)
    few, many = (fit.simulate(n, key=KEY, re=re) for n in (2, 5))
    np.testing.assert_array_equal(many[:2], few)
    assert len(np.unique(many, axis=0)) == 5
    assert np.any(fit.simulate(2, key=jax.random.key(1), re=re) != few)
    np.testing.assert_array_equal(fit.simulate(700, key=KEY, re=re)[:5], many)  # in several blocks


def test_simulations_of_new_rows():
    """The trials of new rows are asked for, and are whole; levels that the fit has not seen have effects too."""
    fit = fitted("cbpp")
    new = pd.DataFrame({"period": ["1"] * 4, "herd": ["1", "1", "x", "x"], "size": [10_000] * 4})
    with says(DataError, "the fit had numbers of trials: pass weights="):
        fit.simulate(2, key=KEY, newdata=new)
    with says(DataError, "numbers of trials", "whole"):
        fit.simulate(2, key=KEY, newdata=new, weights=2.5)
    draws = fit.simulate(400, key=KEY, newdata=new, weights="size")
    np.testing.assert_array_equal(fit.simulate(400, key=KEY, newdata=new, weights=new["size"]), draws)
    shares = draws / 10_000
    assert np.all(np.abs(shares[:, 0] - shares[:, 1]) < 0.05) and np.all(np.abs(shares[:, 2] - shares[:, 3]) < 0.05)
    assert abs(np.corrcoef(shares[:, 0], shares[:, 2])[0, 1]) < 0.2
    np.testing.assert_allclose(special.logit(shares[:, [0, 2]]).std(axis=0), fit.theta[0], rtol=0.15)
    new["herd"] = ["1", "2", "14", "15"]
    known = fit.simulate(50, key=KEY, newdata=new, weights=10_000, re="conditional") / 10_000
    np.testing.assert_allclose(known.mean(axis=0), fit.predict(new), atol=0.003)
    assert set(np.unique(fitted("slopes").simulate(3, key=KEY, newdata=data()))) == {0.0, 1.0}


def use(fit: mm.Fit) -> list:
    return [str(fit), fit.ranef().cond_cov, fit.residuals("deviance"), str(fit.shrinkage()), fit.augment()]


@pytest.mark.parametrize("name", ["slopes", "nbinom2"])
def test_refit_compiles_nothing(name, programs):
    fit = fitted(name)
    draws = fit.simulate(3, key=KEY)
    use(fit)
    use(fit.refit(draws[0]))
    programs.clear()
    for y in draws[1:]:
        other = fit.refit(y)
        use(other)
        assert other.deviance != fit.deviance and other.nobs == fit.nobs
    fit.simulate(3, key=jax.random.key(7))
    assert programs == []


@pytest.mark.parametrize("name", ["cbpp", "nbinom2"])
def test_a_pickled_fit_says_the_same(name):
    fit = fitted(name)
    again = pickle.loads(pickle.dumps(fit))
    assert str(again) == str(fit) and str(again.model) == str(fit.model) and repr(again.family) == repr(fit.family)
    np.testing.assert_array_equal(again.simulate(key=KEY), fit.simulate(key=KEY))
    np.testing.assert_array_equal(again.predict(re="marginal"), fit.predict(re="marginal"))


# ---------------------------------------------------------------- what is printed
def test_summary(name, fit):
    text, page = str(fit), fit._repr_html_()
    assert text == repr(fit) == str(fit.summary())
    lines = text.splitlines()
    assert lines[0] == "Generalized linear mixed model fit by maximum likelihood (Laplace approximation)"
    link = "logit" if fit.family.name == "binomial" else "log"
    assert lines[1] == f"Family: {fit.family.name} ({link})" and lines[2] == f"Formula: {FITS[name][0]}"
    header = next(line for line in lines if "Estimate" in line)
    assert re.split(r"\s{1,}", header.strip()) == "Estimate Std. Error z value Pr(>|z|)".split()
    assert any(line.split() == "AIC BIC logLik deviance df.resid".split() for line in lines)
    assert ("Residual" in text) == (name == "gamma") and "REML" not in text
    assert ("Dispersion of nbinom2: " in text) == (name == "nbinom2") == ("<p>Dispersion of" in page)
    assert f"<p>Family: {fit.family.name} ({link})</p>" in page and "Pr(&gt;|z|)" in page and "<h4>General" in page
    assert ("quadrature nodes the log-likelihood" in text) == (name != "crossed")
    if name == "cbpp":
        assert "Number of obs: 56, groups: herd, 15" in text
        assert " herd   (Intercept) 0.4125   0.6423" in text
        assert "(Intercept)  -1.3985     0.2325  -6.016 1.79e-09" in text
    if name == "nbinom2":
        assert f"Dispersion of nbinom2: {fit.dispersion:.4g}" in lines


def test_tidy_and_glance(name, fit):
    frame = fit.tidy(conf_level=0.95)
    fixed = frame[frame["effect"] == "fixed"]
    np.testing.assert_array_equal(fixed["statistic"], fit.tvalues)
    np.testing.assert_allclose(fixed[["conf_low", "conf_high"]], fit.confint(), rtol=1e-12)
    others = list(frame["term"][len(fixed) :])
    expected = {"gamma": ["sd__(Intercept)", "sd__Observation"], "nbinom2": ["sd__(Intercept)", "phi"]}
    expected |= {"slopes": ["sd__(Intercept)", "cor__(Intercept).x", "sd__x"], "crossed": ["sd__(Intercept)"] * 2}
    assert others == expected.get(name, ["sd__(Intercept)"])
    if name == "nbinom2":
        assert tuple(frame.iloc[-1][["effect", "estimate"]]) == ("dispersion", fit.dispersion)
    row = fit.glance().iloc[0]
    assert row["df"] == fit.df and row["sigma"] == fit.sigma and not row["reml"] and row["converged"]
    assert row["df_residual"] == fit.nobs - fit.df and row["loglik"] == fit.loglik


def test_augment(name, fit):
    """The response is on the scale of the fitted values: proportions where there are trials."""
    frame = fit.augment()
    response = FITS[name][0].split(" ~")[0]
    assert list(frame.columns) == [response, "fitted", "residual", "population"]
    np.testing.assert_allclose(frame["fitted"] + frame["residual"], frame[response], rtol=1e-12)
    np.testing.assert_array_equal(frame["population"], fit.predict(re="population"))
    if name == "cbpp":
        np.testing.assert_array_equal(frame[response], cbpp()["incidence"] / cbpp()["size"])


def test_the_model_in_words():
    text = str(fitted("cbpp").model)
    for part in (
        "Generalised linear mixed model, binomial (logit), Laplace approximation, not fitted",
        "56 used", "99 successes of 842 trials", "X         4 columns", "(1 | herd)  15 levels x 1, us",
        "solver    blocks", "1 covariance parameter\n", "float64",
    ):  # fmt: skip
        assert part in text
    crossed = str(fitted("crossed").model)
    assert "then by Cholesky   h: dense 6 x 6" in crossed and "response" not in crossed
    model = mm.Model.from_formula("count ~ x + (1 | g)", data(), "poisson", n_agq=5)
    assert "poisson (log), adaptive Gauss-Hermite quadrature, 5 nodes" in str(model)


# ---------------------------------------------------------------- quadrature
def exact_loglik(fit: mm.Fit) -> float:
    """The integral over each herd's effect, on a fine grid."""
    d, sd = fit.model.design, fit.theta[0]
    t = np.linspace(-9, 9, 3601)
    eta = (d.X @ fit.fixef.to_numpy())[:, None] + sd * t
    rows = stats.binom.logpmf(d.y[:, None], d.trials[:, None], special.expit(eta))
    herds = np.array([rows[d.factors[0].codes == j].sum(axis=0) for j in range(15)])
    return float(np.sum(np.log(np.exp(herds) @ stats.norm.pdf(t) * (t[1] - t[0]))))


def test_accuracy_of_laplace():
    """The number of the text is the log-likelihood at the same estimates, and how much it is higher."""
    fit = fitted("cbpp")
    exact = exact_loglik(fit)
    found = re.search(r"with 15 quadrature nodes .* is (\S+), (\S+) (higher|lower)", fit.accuracy())
    assert found[1] == f"{exact:.2f}" and found[2] == f"{abs(exact - fit.loglik):.2g}" and found[3] == "higher"
    assert fit.accuracy() in str(fit) and fitted("crossed").accuracy() is None


def test_nodes():
    fit, laplace = glmm("cbpp", n_agq=5), fitted("cbpp")
    assert fit.converged and fit.n_agq == 5 and fit.accuracy() is None
    assert "(adaptive Gauss-Hermite quadrature, 5 nodes)" in str(fit) and "Laplace" not in str(fit)
    np.testing.assert_allclose(fit.loglik, exact_loglik(fit), atol=1e-3)
    assert abs(laplace.loglik - exact_loglik(laplace)) > 0.04
    np.testing.assert_allclose(fit.fixef, LME4.fixef_9, atol=1e-3)
    assert fit.ranef()["herd"].shape == (15, 1) and fit.shrinkage().factor["herd"].iloc[0] < 1


def test_as_many_nodes_as_are_needed():
    fit = glmm("cbpp", n_agq="auto")
    assert fit.converged and fit.n_agq == 9 and "9 nodes" in str(fit)
    close(fit.fixef, LME4.fixef_9, 1e-5)
    close(fit.theta, [LME4.theta_9], 1e-5)
    np.testing.assert_allclose(fit.loglik, exact_loglik(fit), atol=1e-5)
    assert "nodes as needed" in str(fit.model) and fit.remarks == []


def test_laplace_where_nodes_cannot_be_had():
    fit = glmm("crossed", n_agq="auto")
    assert fit.converged and fit.n_agq == 1 and fit.deviance == fitted("crossed").deviance
    remark = "n_agq='auto': Laplace's method, since quadrature needs one grouping factor with at most 3 effects"
    assert fit.remarks == [remark] and remark in str(fit) and "(Laplace approximation)" in str(fit)


# ---------------------------------------------------------------- comparisons
def test_likelihood_ratio():
    fit = fitted("cbpp")
    without = mm.glmm("cbind(incidence, size - incidence) ~ 1 + (1 | herd)", cbpp(), "binomial")
    comparison = mm.anova(fit, without)
    table = comparison.to_frame()
    assert list(table.index) == ["fit1", "fit0"] and list(table["npar"]) == [2, 5] and comparison.notes == ()
    last = table.loc["fit0"]
    close([last["chisq"], last["df"]], [LME4.chisq, 3], 1e-6)
    np.testing.assert_allclose(last["p"], LME4.p_chisq, rtol=1e-4)
    assert FITS["cbpp"][0] in repr(comparison) and "binomial" not in repr(comparison)


def test_families_of_one_response_are_compared():
    fit = fitted("nbinom2")
    poisson = mm.glmm(fit.formula, data(), "poisson")
    comparison = mm.anova(poisson, fit)
    last = comparison.to_frame().iloc[-1]
    np.testing.assert_allclose(last["chisq"], poisson.deviance - fit.deviance, rtol=1e-12)
    assert last["df"] == 1 and last["p"] < 1e-4
    assert "(1 | g), poisson (log)\n" in repr(comparison) and "(1 | g), nbinom2 (log)\n" in repr(comparison)


def test_likelihoods_that_cannot_be_compared():
    counts = data().assign(yes=data()["yes"].astype(int))
    with says(ValueError, "different responses: binomial and poisson", "successes among trials"):
        mm.anova(fitted("slopes"), mm.glmm("yes ~ x + (1 | g)", counts, "poisson"))
    with says(ValueError, "gaussian and poisson", "probabilities", "densities"):
        mm.anova(mm.lmm("count ~ x + (1 | g)", data()), fitted("poisson"))
    with says(ValueError, "different numbers of trials"):
        mm.anova(fitted("cbpp"), glmm("cbpp", cbpp().assign(size=cbpp()["size"] + 1)))
    with says(ValueError, "different responses", "'count'", "'much'"):
        mm.anova(fitted("poisson"), fitted("nbinom2"))
    notes = mm.anova(fitted("cbpp"), glmm("cbpp", n_agq=5)).notes
    assert len(notes) == 1 and notes[0].startswith("likelihoods by 1 and 5 quadrature nodes")


# ---------------------------------------------------------------- ways to give the data
def same(a: mm.Fit, b: mm.Fit) -> None:
    np.testing.assert_allclose(a.deviance, b.deviance, atol=1e-8)
    close(a.fixef, b.fixef, 1e-7)
    close(a.theta, b.theta, 1e-6)


def test_other_tables_and_spellings_of_trials():
    fit, table = fitted("cbpp"), cbpp()
    same(glmm("cbpp", pl.from_pandas(table)), fit)
    same(glmm("cbpp", {c: table[c].to_numpy() for c in table}), fit)
    share = table.assign(share=table["incidence"] / table["size"])
    by_share = mm.glmm("share ~ period + (1 | herd)", share, "binomial", weights="size")
    same(by_share, fit)
    close(by_share.residuals("pearson"), fit.residuals("pearson"), 1e-6)
    by_array = mm.glmm("incidence/size ~ period + (1 | herd)", table, "binomial", weights=table["size"].to_numpy())
    same(by_array, fit)
    np.testing.assert_array_equal(by_share.simulate(2, key=KEY), fit.simulate(2, key=KEY))


def test_answers_in_words():
    """Success is the second level, and the fit says which that is."""
    fit = fitted("slopes")
    words = pd.Categorical(np.where(data()["yes"], "pass", "fail"), ["pass", "fail"])
    by_name = glmm("slopes", data().assign(yes=np.where(data()["yes"], "pass", "fail")))
    same(by_name, fit)
    assert "yes = 'pass' is success" in str(by_name) and "response  yes: 'pass' is success" in str(by_name.model)
    turned = glmm("slopes", data().assign(yes=words))
    close(-turned.fixef, fit.fixef, 1e-6)
    assert "yes = 'fail' is success" in str(turned) and "is success" not in str(fit)
    same(glmm("slopes", data().assign(yes=data()["yes"].astype(int))), fit)


def test_rows_of_weight_zero_have_fitted_values():
    out = np.arange(168) % 12 == 5
    table = data().assign(w=np.where(out, 0.0, 1.0))
    fit, fewer = glmm("poisson", table, weights="w"), glmm("poisson", table[~out])
    same(fit, fewer)
    assert fit.nobs == 154 and len(fit.fitted()) == 168
    close(fit.fitted()[out], fewer.predict(table[out]), 1e-6)
    close(fit.residuals()[out], table["count"][out] - fit.fitted()[out], 1e-12)
    np.testing.assert_array_equal(fit.residuals("pearson")[out], 0)
    assert "14 rows of weight zero: fitted values, but no part in the estimates" in str(fit)
    assert len(fit.augment()) == 168 and np.all(np.isfinite(fit.predict(re="marginal")))


def test_rows_without_trials():
    """0 of 0 says nothing: such a row counts nowhere, and has a fitted value."""
    nothing = cbpp().iloc[[3, 30]].assign(incidence=0, size=0)
    table = pd.concat([nothing, cbpp()], ignore_index=True)
    fit = glmm("cbpp", table)
    same(fit, fitted("cbpp"))
    assert fit.nobs == 56 and fit.fitted().notna().all() and fit.simulate(key=KEY).shape == (1, 56)
    close(fit.fitted()[:2], fitted("cbpp").fitted().iloc[[3, 30]], 1e-6)
    assert fit.residuals()[:2].isna().all() and fit.residuals()[2:].notna().all()
    assert "2 rows of weight zero" in str(fit)


def test_offsets_add_up():
    """One in the formula, one as an argument; at prediction the first is taken from the new rows."""
    table = data().assign(o=np.log(data()["t"]) + 0.3)
    fit = mm.glmm("count ~ x + offset(log(t)) + (1 | g)", table, "poisson", offset=np.full(168, 0.3))
    other = mm.glmm("count ~ x + (1 | g)", table, "poisson", offset="o")
    same(fit, other)
    close(fit.fitted(), other.fitted(), 1e-7)
    new = table.head(2).assign(t=[1.0, 2.0])
    link = fit.predict(new, re="population", scale="link", offset=0.0)
    close(link, linear(fit, new["x"]) + np.log([1.0, 2.0]), 1e-12)
    close(fit.predict(new, re="marginal", offset=0.0), np.exp(link + fit.theta[0] ** 2 / 2), 1e-9)
    later = table.assign(t=2.0)
    draws = fit.simulate(500, key=KEY, newdata=later, offset=1.0, re="conditional")
    np.testing.assert_allclose(draws.mean(), fit.predict(later, offset=1.0).mean(), rtol=0.02)


# ---------------------------------------------------------------- the search
def test_start_and_control():
    fit = fitted("slopes")
    again = glmm("slopes", start=fit.theta)
    same(again, fit)
    assert glmm("slopes", start=2 * fit.theta).converged
    rough = glmm("slopes", control={"tolerance": 1e-3})
    assert rough.converged and 0 <= rough.deviance - fit.deviance + 1e-9 < 1e-2
    assert rough.diagnostics.iterations <= fit.diagnostics.iterations
    short = glmm("slopes", control=mm.Control(max_iterations=1))
    assert short.diagnostics.status is mm.Status.MAX_ITERATIONS and not short.converged
    assert "not converged: stopped at the iteration limit" in str(short) and short.accuracy() is None


# ---------------------------------------------------------------- pictures
def test_pictures():
    """Modes with intervals for any fit; the lines of the other pictures are straight in a linear model only."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    fit = fitted("slopes")
    axes = plots.caterpillar(fit)
    assert [a.get_title() for a in axes] == ["g: (Intercept)", "g: x"]
    plots.caterpillar(fitted("crossed"), "h").figure.canvas.draw()
    for picture in (plots.shrinkage, plots.shrinkage_arrows):
        with says(ValueError, "under the identity link only, and the fit has binomial (logit)", "caterpillar(fit)"):
            picture(fit)
    import matplotlib.pyplot as plt

    plt.close("all")
