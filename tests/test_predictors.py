"""Distributions with several predictors: zero inflation and dispersion formulas, beside oracles in many digits."""

import pickle
from collections.abc import Callable
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pandas as pd
import pytest
from helpers import close, quick_jit

import jaxmm as mm
from jaxmm import families
from jaxmm.estimate_glmm import value_and_derivatives
from jaxmm.families import ZeroInflated
from jaxmm.objective.mode import zero_effects

COUNTS = ("poisson", "nbinom1", "nbinom2", "binomial", "betabinomial")
mp.mp.dps = 40


# ---------------------------------------------------------------- the density
def log_p(name: str, y: int, n: int, mu, phi) -> mp.mpf:
    """Textbook densities of counts."""
    if name == "poisson":
        return y * mp.log(mu) - mu - mp.loggamma(y + 1)
    if name in ("nbinom1", "nbinom2"):
        size = phi if name == "nbinom2" else mu / phi
        constant = mp.loggamma(y + size) - mp.loggamma(size) - mp.loggamma(y + 1)
        return constant + size * mp.log(size / (size + mu)) + y * mp.log(mu / (size + mu))
    choose = mp.log(mp.binomial(n, y))
    if name == "binomial":
        return choose + y * mp.log(mu) + (n - y) * mp.log(1 - mu)
    a, b = mu * phi, (1 - mu) * phi
    return choose + mp.log(mp.beta(y + a, n - y + b)) - mp.log(mp.beta(a, b))


def mean_of(name: str, eta):
    return mp.exp(eta) if name in COUNTS[:3] else 1 / (1 + mp.exp(-eta))


def inflated(name: str, y: int, n: int, eta, phi, zi) -> mp.mpf:
    """log p of a count with extra zeros."""
    base, pi = log_p(name, y, n, mean_of(name, eta), phi), 1 / (1 + mp.exp(-zi))
    return mp.log(pi * (y == 0) + (1 - pi) * mp.exp(base))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", COUNTS)
def test_density_and_derivatives(name):
    """Values, slopes and curvatures by η, log φ and the logit of π, also where zeros are rare or nearly certain."""
    family, n = ZeroInflated(families.get(name)), 9
    points = list(product((0, 4), (-9.0, 0.4, 2.5), (0.3, 20.0), (-20.0, 1.3, 15.0)))
    trials = (float(n),) if family.has_trials else ()

    def density(y, x):
        value = family.log_density(y, x[0], jnp.exp(x[1]), *trials, x[2])
        return value + family.log_constant(y, float(n))

    @quick_jit
    def jets(y, x):
        return jax.vmap(lambda y, x: (density(y, x), jax.jacfwd(density, 1)(y, x), jax.hessian(density, 1)(y, x)))(y, x)

    y, x = np.array([p[0] for p in points], float), np.array([(p[1], np.log(p[2]), p[3]) for p in points])
    value, slope, curve = map(np.asarray, jets(y, x))
    scale = family.num_phi  # without φ there is no derivative by it
    for k, (count, eta, phi, zi) in enumerate(points):

        def f(a, b, c, count=count):
            return inflated(name, count, n, a, mp.exp(b), c)

        at = (mp.mpf(eta), mp.log(mp.mpf(phi)), mp.mpf(zi))
        np.testing.assert_allclose(value[k], float(f(*at)), rtol=1e-12, atol=1e-14)
        orders = {(1, 0, 0): slope[k][0], (0, 0, 1): slope[k][2], (1, 0, 1): curve[k][0, 2], (2, 0, 0): curve[k][0, 0]}
        orders |= {(0, 0, 2): curve[k][2, 2]}
        orders |= {(0, 1, 0): slope[k][1], (1, 1, 0): curve[k][0, 1], (0, 1, 1): curve[k][1, 2]} if scale else {}
        for order, found in orders.items():
            np.testing.assert_allclose(found, float(mp.diff(f, at, order)), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", COUNTS)
def test_a_zero_has_no_constant_part(name):
    """The mixture adds probabilities of zero: what ``log_constant`` holds back must be nothing there."""
    with jax.enable_x64(True):
        assert abs(float(families.get(name).log_constant(jnp.zeros(()), jnp.full((), 7.0)))) < 1e-14


@pytest.mark.parametrize("name", ["gaussian", "gamma", "beta", "inverse_gaussian"])
def test_only_counts_have_extra_zeros(name):
    with pytest.raises(ValueError, match=f"zero inflation is for counts, and the {name} family takes"):
        ZeroInflated(families.get(name))
    with pytest.raises(TypeError, match="takes a family, such as"):
        ZeroInflated("poisson")  # pyright: ignore
    with pytest.raises(ValueError, match="is zero-inflated already"):
        ZeroInflated(ZeroInflated(families.get("poisson")))


# ---------------------------------------------------------------- Laplace's approximation with several predictors
@cache
def small() -> pd.DataFrame:
    """Sixteen rows of four levels of g and two of h."""
    rng = np.random.default_rng(3)
    x, g = rng.normal(size=16), np.repeat(np.arange(4), 4)
    y = rng.poisson(np.exp(0.8 + 0.4 * x)) * (rng.random(16) < 0.7)
    part = np.round(1 / (1 + np.exp(-x - rng.normal(size=16))), 3)
    fails = 9 - np.minimum(y, 9)
    return pd.DataFrame({"y": np.minimum(y, 9), "fails": fails, "part": part, "x": x, "g": g, "h": np.tile([0, 1], 8)})


def row_density(name: str) -> Callable:
    """log p of one row at (η, log φ, logit π)."""
    if name == "beta":

        def beta(y, eta, log_phi, zi):
            mu, phi = mean_of("binomial", eta), mp.exp(log_phi)
            a, b = mu * phi, (1 - mu) * phi
            return (a - 1) * mp.log(y) + (b - 1) * mp.log(1 - y) - mp.log(mp.beta(a, b))

        return beta
    return lambda y, eta, log_phi, zi: inflated(name, int(y), 9, eta, mp.exp(log_phi), zi)


CASES = {
    "zeros by the same levels": ("poisson", "y ~ x + (1 | g)", {"zero_inflation": "~ h + (1 | g)"}),
    "zeros by crossed levels": ("binomial", "cbind(y, fails) ~ x + (1 | g)", {"zero_inflation": "~ x + (1 | h)"}),
    "zeros alone": ("nbinom1", "y ~ x", {"zero_inflation": "~ 1 + (1 | g)"}),
    "dispersion": ("beta", "part ~ 1 + (x | g)", {"dispersion": "~ x + offset(h / 3)"}),
    "three predictors": ("nbinom2", "y ~ x + (1 | g)", {"zero_inflation": "~ 1", "dispersion": "~ h + (1 | g)"}),
}


def neg2_loglik(model: mm.Model, name: str, psi: np.ndarray, start: list) -> mp.mpf:
    """-2 log-likelihood by Laplace's method from its definition, in the data's columns; ``start`` is û, kept."""
    d, layout = model.design, model.arrays.layout
    beta, theta, log_phi = layout.split(psi)
    density, y = row_density(name), d.y
    sides = {"mu": (d.X, d.offset)} | {p.name: (p.X, p.offset) for p in d.further}
    fixed = {k: sides[k][0] @ beta[at] + (0 if sides[k][1] is None else sides[k][1]) for k, at in d.predictors.items()}
    blocks, column = [], 0
    for (t, lay), at in zip(model.theta_terms(), model.structure.slices(), strict=True):
        term = d.terms[t]
        lam = np.asarray(lay.covariance.lam(np.asarray(theta)[at], None))
        blocks.append((d.factors[term.factor], term.Z @ lam, column))
        column += len(d.factors[term.factor].levels) * lam.shape[1]

    def h(u):
        total = sum(v * v for v in u)
        for i in range(len(y)):
            eta = {k: mp.mpf(float(v[i])) for k, v in fixed.items()}
            for factor, ZL, first in blocks:
                for a in range(ZL.shape[1]):
                    eta[factor.predictor] += float(ZL[i, a]) * u[first + int(factor.codes[i]) * ZL.shape[1] + a]
            phi = eta.get("phi", float(log_phi[0]) if len(log_phi) else 0.0)
            total -= 2 * density(float(y[i]), eta["mu"], phi, eta.get("zi", mp.mpf(-1e3)))
        return total

    u, step = list(start) or [mp.mpf(0)] * column, mp.mpf(10) ** -12
    for _ in range(12):
        at0 = h(u)
        moved = [h([v + step * (i == a) for i, v in enumerate(u)]) for a in range(column)]
        back = [h([v - step * (i == a) for i, v in enumerate(u)]) for a in range(column)]
        H = mp.matrix(column)
        for a in range(column):
            H[a, a] = (moved[a] - 2 * at0 + back[a]) / step**2
            for b in range(a):
                both = h([v + step * ((i == a) + (i == b)) for i, v in enumerate(u)])
                H[a, b] = H[b, a] = (both - moved[a] - moved[b] + at0) / step**2
        g = mp.matrix([(m - b) / (2 * step) for m, b in zip(moved, back, strict=True)])
        move = mp.lu_solve(H, g)
        u = [v - m for v, m in zip(u, move, strict=True)]
        if mp.norm(move) < 1e-18:
            break
    start[:] = u
    return h(u) + mp.log(mp.det(H / 2))


@pytest.mark.parametrize("case", CASES)
def test_likelihood_and_derivatives(case):
    """Value, gradient and Hessian along a direction."""
    name, formula, further = CASES[case]
    model = mm.Model.from_formula(formula, small(), name, **further)
    rows, rng = model.arrays, np.random.default_rng(8)
    psi = 0.3 * rng.normal(size=rows.layout.size)
    psi[rows.layout.at("theta")] = 0.6
    direction = rng.normal(size=len(psi))
    direction /= np.linalg.norm(direction)
    u: list = []
    low, mid, high = (neg2_loglik(model, name, psi + k * 1e-4 * direction, u) for k in (-1, 0, 1))
    with jax.enable_x64(True):

        @quick_jit
        def along(psi, direction):
            def first(x):
                return jax.jvp(lambda x: mm.neg2_loglik(rows.layout.split(x), rows), (x,), (direction,))

            (value, slope), (_, curve) = jax.jvp(first, (psi,), (direction,))
            return value, slope, curve

        value, push, curve = along(psi, direction)
    close(value, float(mid), 1e-11)
    close(push, float((high - low) / 2e-4), 1e-6)
    close(curve, float((high - 2 * mid + low) / 1e-8), 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_search_differentiates_the_same_function(case):
    """By the expansion of the density and one direction at a time: the Hessian that standard errors come from."""
    name, formula, further = CASES[case]
    model = mm.Model.from_formula(formula, small(), name, **further)
    with jax.enable_x64(True):
        rows = model.arrays
        psi = jnp.full(rows.layout.size, 0.3)

        @quick_jit
        def derivatives(psi):
            value, gradient, hessian, _ = value_and_derivatives(psi, rows, zero_effects(rows), 1, False)
            return value, gradient, hessian

        _, gradient, hessian = derivatives(psi)
        for k in range(len(psi)):
            up, down = derivatives(psi.at[k].add(1e-5)), derivatives(psi.at[k].add(-1e-5))
            close(gradient[k], (up[0] - down[0]) / 2e-5, 1e-7)
            close(hessian[k], (up[1] - down[1]) / 2e-5, 1e-6)


# ---------------------------------------------------------------- fits
@cache
def ponds() -> pd.DataFrame:
    """Counts of 40 ponds of 12 visits, zeros too many where the water is bad; shares whose spread depends on it."""
    rng = np.random.default_rng(11)
    pond, bad, x = np.repeat(np.arange(40), 12), np.repeat(rng.random(40) < 0.4, 12), rng.normal(size=480)
    mean = np.exp(0.9 + 0.4 * x + 0.4 * rng.normal(size=40)[pond])
    zero = rng.random(480) < 1 / (1 + np.exp(1.0 - 1.8 * bad - 0.8 * rng.normal(size=40)[pond]))
    p = 1 / (1 + np.exp(-0.3 - 0.5 * x - 0.5 * rng.normal(size=40)[pond]))
    phi = np.exp(2.5 - 1.2 * bad)
    columns = {"frogs": np.where(zero, 0, rng.poisson(mean)), "share": rng.beta(p * phi, (1 - p) * phi)}
    columns |= {"much": np.where(zero, 0, rng.negative_binomial(phi / 4, phi / 4 / (phi / 4 + mean)))}
    return pd.DataFrame(columns | {"pond": pond, "bad": np.where(bad, "yes", "no"), "x": x})


FITS = {
    "zeros": ("frogs ~ x + (1 | pond)", "poisson", {"zero_inflation": "~ bad + (1 | pond)"}),
    "shares": ("share ~ x + (1 | pond)", "beta", {"dispersion": "~ bad"}),
    "both": ("much ~ x + (1 | pond)", "nbinom2", {"zero_inflation": "~ bad", "dispersion": "~ bad"}),
}


@cache
def fitted(name: str) -> mm.Fit:
    formula, family, further = FITS[name]
    fit = mm.glmm(formula, ponds(), family, **further)
    assert fit.converged, fit.diagnostics
    return fit


@pytest.mark.parametrize("name", FITS)
def test_tables_of_every_predictor(name):
    """Tables, covariance matrices and the summary have a part for each; all coefficients together have one matrix."""
    fit = fitted(name)
    names = list(fit.model.design.predictors)
    whole, tidy = fit.vcov(component="all"), fit.tidy()
    assert list(whole) == [*fit.fixef.index, *(f"{c}~{x}" for c in names[1:] for x in ("(Intercept)", "badyes"))]
    for component in names:
        table = fit.coef_table(component=component)
        np.testing.assert_allclose(table["se"], np.sqrt(np.diag(fit.vcov(component=component))))
        fixed = tidy[(tidy["effect"] == "fixed") & (tidy["component"] == component)]
        assert list(fixed["term"]) == list(table.index)
        np.testing.assert_array_equal(fixed["estimate"], table["estimate"])
    np.testing.assert_array_equal(fit.coef_table()["estimate"], fit.fixef)
    np.testing.assert_array_equal(fit.coef_table()["p"], fit.pvalues)
    text, page = str(fit.summary()), fit.summary()._repr_html_()
    for shown in {"zi": ["Zero inflation (logit), ~ bad"], "phi": ["Dispersion (log), ~ bad:"]}[names[1]]:
        assert shown in text and shown in page
    assert fit.df == len(whole) + len(fit.theta) + (fit.family.num_phi - ("phi" in names))
    assert fit.dispersion is None or "phi" not in names
    with pytest.raises(ValueError, match="component must be one of 'mu'"):
        fit.coef_table(component="nu")
    with pytest.raises(ValueError, match="is for linear mixed models"):
        fit.coef_table(ddf="satterthwaite")


def test_effects_of_each_predictor():
    """The same levels have effects on the mean and on the zeros: two factors, by name."""
    fit = fitted("zeros")
    assert list(fit.n_groups) == ["pond", "zi~pond"] == list(fit.varcorr().cov) == list(fit.ranef())
    tidy = fit.tidy()
    spread = tidy[tidy["effect"] == "ran_pars"].set_index("group")
    assert dict(spread["component"]) == {"pond": "mu", "zi~pond": "zi"}
    assert "  X of zi     2 columns, ~ bad + (1 | pond)\n" in repr(fit.model)
    assert "zi~pond" in str(fit.summary()) and "zi~pond" in str(fit.shrinkage()) and "zi~pond" in repr(fit.model)


@pytest.mark.parametrize("name", FITS)
def test_scales_of_predictions(name):
    """The mean of the response from its parts, on the fit's rows and on new ones."""
    fit, new = fitted(name), ponds().iloc[[3, 100, 479]].drop(columns=["frogs", "much", "share"])
    link, mu = fit.predict(scale="link"), fit.predict(scale="conditional")
    with jax.enable_x64(True):
        np.testing.assert_allclose(mu, fit.family.link.inverse(link.to_numpy()), rtol=1e-12)
    if "zi" in fit.model.design.predictors:
        zero = fit.predict(scale="zero")
        assert zero.between(0, 1).all() and zero.nunique() > 1
        np.testing.assert_allclose(fit.predict(), (1 - zero) * mu, rtol=1e-12)
        np.testing.assert_allclose(fit.predict(new, scale="zero"), zero.loc[new.index], rtol=1e-12)
    else:
        with pytest.raises(ValueError, match="probability of an extra zero, which the model has not"):
            fit.predict(scale="zero")
    np.testing.assert_array_equal(fit.fitted(), fit.predict())
    np.testing.assert_allclose(fit.predict(new), fit.fitted().loc[new.index], rtol=1e-12)
    phi = fit.predict(new, re="population", scale="dispersion") if fit.family.num_phi else None
    if phi is None:
        with pytest.raises(ValueError, match="has no dispersion"):
            fit.predict(scale="dispersion")
    else:
        table = fit.coef_table(component="phi")["estimate"]
        np.testing.assert_allclose(phi, np.exp(table.iloc[0] + table.iloc[1] * (new["bad"] == "yes")), rtol=1e-12)
    with pytest.raises(ValueError, match="scale must be one of 'response', 'link', 'conditional'"):
        fit.predict(scale="probability")


def test_means_over_the_levels():
    """E (1 - π) μ over independent effects, by a rule in many nodes; its interval holds it, and covers."""
    fit, new = fitted("zeros"), ponds().iloc[[0, 50]]
    nodes, mass = np.polynomial.hermite_e.hermegauss(60)
    mass = mass / mass.sum()
    sd = {name: float(x.iloc[0]) for name, x in fit.varcorr().sd.items()}
    mu = fit.coef_table()["estimate"]
    zi = fit.coef_table(component="zi")["estimate"]
    eta = mu.iloc[0] + mu.iloc[1] * new["x"].to_numpy()
    logit = zi.iloc[0] + zi.iloc[1] * (new["bad"] == "yes").to_numpy()
    count = np.exp(eta[:, None] + sd["pond"] * nodes) @ mass
    extra = 1 / (1 + np.exp(-logit[:, None] - sd["zi~pond"] * nodes)) @ mass
    for scale, expected in {"response": (1 - extra) * count, "conditional": count, "zero": extra}.items():
        np.testing.assert_allclose(fit.predict(new, re="marginal", scale=scale), expected, rtol=1e-9)
        frame = fit.predict(new, re="marginal", scale=scale, interval="confidence")
        assert (frame["lower"] < expected).all() and (expected < frame["upper"]).all()
        np.testing.assert_allclose(frame["predicted"], expected, rtol=1e-9)
    # at b = 0 the interval of π is that of its own predictor
    frame = fit.predict(new, re="population", scale="zero", interval="confidence")
    row = np.array([1.0, 1.0 if new["bad"].iloc[0] == "yes" else 0.0])
    se = np.sqrt(row @ fit.vcov(component="zi").to_numpy() @ row)
    ends = 1 / (1 + np.exp(-(row @ zi.to_numpy() + np.array([-1, 1]) * 1.959963984540054 * se)))
    np.testing.assert_allclose(frame.iloc[0, 1:], ends, rtol=1e-9)


@pytest.mark.parametrize("name", FITS)
def test_simulated_responses_have_the_moments_of_the_fit(name):
    """Mean, variance and zeros of draws at the modes, within five of their Monte-Carlo errors; Pearson residuals of
    draws have variance one."""
    fit, n = fitted(name), 400
    draws = fit.simulate(n, key=jax.random.key(2), re="conditional")
    mean = fit.fitted().to_numpy()
    error = draws.std(axis=0) / np.sqrt(n) + 1e-3
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * error)
    observed = fit.model.design.y
    pearson = (fit.residuals("pearson") / (observed - mean)).to_numpy()  # one over the root of the variance
    scaled = ((draws - mean) * pearson).ravel()
    assert abs(np.mean(scaled**2) - 1) < 5 * np.std(scaled**2) / np.sqrt(len(scaled))
    assert fit.residuals("deviance").notna().all() and fit.residuals("working").notna().all()
    if name == "zeros":
        p = fit.predict(scale="zero") + (1 - fit.predict(scale="zero")) * np.exp(-fit.predict(scale="conditional"))
        assert abs((draws == 0).mean() - p.mean()) < 5 * np.sqrt(0.25 / draws.size)


def test_a_constant_dispersion_is_the_same_with_and_without_a_formula():
    formula = "share ~ x + (1 | pond)"
    plain, written = (mm.glmm(formula, ponds(), "gamma", dispersion=d) for d in (None, "~ 1"))
    assert plain.deviance == written.deviance and plain.dispersion == written.dispersion
    # "~ 0 + bad" and "~ bad" are one model; a formula for one level of two is another
    same = [mm.glmm(formula, ponds(), "gamma", dispersion=d) for d in ("~ bad", "~ 0 + bad")]
    close(same[0].deviance, same[1].deviance, 1e-10)
    a, b = (f.coef_table(component="phi")["estimate"].to_numpy() for f in same)
    close([a[0], a[0] + a[1]], b, 1e-6)


def test_a_dispersion_formula_of_a_gaussian_is_a_fit_with_weights():
    """With the estimated ratio of the variances as weights, a linear mixed model by ML has the same maximum."""
    data = ponds().assign(y=lambda d: np.log(d["share"] / (1 - d["share"])))
    fit = mm.glmm("y ~ x + (1 | pond)", data, "gaussian", dispersion="~ bad")
    ratio = np.exp(-fit.coef_table(component="phi")["estimate"].iloc[1] * (data["bad"] == "yes"))
    linear = mm.lmm("y ~ x + (1 | pond)", data, reml=False, weights=ratio.to_numpy())
    close(fit.deviance, linear.deviance, 1e-8)
    close(fit.fixef, linear.fixef, 1e-6)
    close(fit.varcorr().cov["pond"], linear.varcorr().cov["pond"], 1e-5)
    assert np.isnan(fit.sigma) and fit.varcorr().sigma is None
    close(fit.residuals("pearson"), linear.residuals("pearson") / linear.sigma, 1e-5)


def test_no_extra_zeros_in_the_data():
    """The probability runs to nothing: the deviance of the model without, and a flag."""
    data = ponds().assign(y=lambda d: np.random.default_rng(1).poisson(np.exp(1.5 + 0.2 * d["x"])))
    plain = mm.glmm("y ~ x + (1 | pond)", data, "poisson")
    fit = mm.glmm("y ~ x + (1 | pond)", data, "poisson", zero_inflation="~ 1")
    assert plain.deviance - 4 < fit.deviance < plain.deviance + 1e-6
    assert fit.predict(scale="zero").max() < 0.05
    assert fit.converged or any(r.startswith("no extra zeros, or nothing but them") for r in fit.remarks)
    everywhere = mm.glmm("frogs ~ x + (1 | pond)", ponds(), "nbinom1", zero_inflation="~ x * bad")
    assert everywhere.converged or everywhere.remarks


def test_a_fit_is_the_same_from_another_start_and_after_pickling():
    fit = fitted("zeros")
    again = fit.model.fit(start=fit)
    close(again.deviance, fit.deviance, 1e-10)
    kept = pickle.loads(pickle.dumps(fit))
    pd.testing.assert_frame_equal(kept.vcov(component="all"), fit.vcov(component="all"))
    np.testing.assert_array_equal(kept.predict(scale="zero"), fit.predict(scale="zero"))
