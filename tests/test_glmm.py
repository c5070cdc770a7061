"""Generalised fits as a user meets them: estimates, effects, what is printed, against formulas and lme4's numbers."""

import re

import numpy as np
import pandas as pd
import pytest
from glmm_fits import FITS, LME4, cbpp, data, fitted
from helpers import central, close, says
from scipy import special, stats

import jaxmm as mm
from jaxmm import plots


@pytest.fixture(params=FITS)
def name(request) -> str:
    return request.param


@pytest.fixture
def fit(name) -> mm.Fit:
    return fitted(name)


# ---------------------------------------------------------------- lme4's numbers
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
    assert fit.tvalues.name == "z" and fit.pvalues.name == "p"
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
    text = " ".join(str(account).split())
    assert "nearly so in a generalised model" in text and "exactly" not in text
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
        "Generalised linear mixed model, binomial (logit), Laplace approximation",
        "56 used", "99 successes of 842 trials", "X         4 columns", "(1 | herd)  15 levels x 1, us",
        "solver    blocks", "1 covariance parameter\n", "float64",
    ):  # fmt: skip
        assert part in text
    crossed = str(fitted("crossed").model)
    assert "then by Cholesky   h: dense 6 x 6" in crossed and "response" not in crossed
    model = mm.Model.from_formula("count ~ x + (1 | g)", data(), "poisson", n_agq=5)
    assert "poisson (log), adaptive Gauss-Hermite quadrature, 5 nodes" in str(model)


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
