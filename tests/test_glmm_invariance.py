"""What a change of the data must change in the fit of a generalised model, and that it changes nothing else."""

import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import close, quick_jit, replanned
from scipy import special
from test_laplace import LOG_DENSITY

import jaxmm as mm
from jaxmm.families import Binomial, Gamma
from jaxmm.fit import Fit


@cache
def data() -> pd.DataFrame:
    """64 rows in 8 levels of ``g``, in 4 of ``h`` around them; responses with log or logit link, and a Gaussian one."""
    rng = np.random.default_rng(8)
    n = 64
    g = rng.permutation(np.concatenate([np.arange(8), rng.integers(0, 8, n - 8)]))
    x = rng.normal(size=n)
    eta = 0.4 + 0.5 * x + 0.8 * rng.normal(size=8)[g]
    trials = rng.integers(1, 7, n)
    successes = rng.binomial(trials, special.expit(eta))
    return pd.DataFrame(
        {
            "x": x,
            "g": np.array([f"level {k}" for k in rng.permutation(8)])[g],
            "h": np.array(list("abcd"))[g % 4],
            "trials": trials,
            "successes": successes,
            "share": successes / trials,
            "count": rng.poisson(np.exp(eta)),
            "amount": np.exp(eta) * rng.gamma(3.0, 1 / 3.0, n),
            "score": eta + 0.7 * rng.normal(size=n),
            "o": rng.uniform(-0.5, 0.5, n),
            "w": rng.integers(1, 4, n),
        }
    )


FAMILY = {"binomial": Binomial(), "poisson": "poisson", "gamma": Gamma("log"), "gaussian": "gaussian"}
RESPONSE = {
    "binomial": "cbind(successes, trials - successes)",
    "poisson": "count",
    "gamma": "amount",
    "gaussian": "score",
}


def glmm(family: str, table: pd.DataFrame | None = None, right: str = "x + (1 | g)", **arguments) -> Fit:
    return mm.glmm(f"{RESPONSE[family]} ~ {right}", data() if table is None else table, FAMILY[family], **arguments)


@cache
def fitted(family: str) -> Fit:
    fit = glmm(family)
    assert fit.converged and not fit.is_singular
    return fit


def assert_same(a: Fit, b: Fit, rtol=1e-5, constant=0.0):
    """Everything but the rows; ``rtol`` is of estimates, whose search ends some 1e-9 of deviance short of the end."""
    assert b.converged
    np.testing.assert_allclose(b.deviance, a.deviance + constant, atol=1e-7)
    for quantity in ("fixef", "bse", "theta"):
        close(getattr(b, quantity), getattr(a, quantity), rtol)
    if a.dispersion is not None:
        close(b.dispersion, a.dispersion, rtol)
    for group, table in a.ranef().items():
        where = [list(b.ranef()[group].index).index(label) for label in table.index]
        close(b.ranef()[group].iloc[where], table, rtol)
        close(b.ranef().cond_cov[group][where], a.ranef().cond_cov[group], rtol)


def test_fit_with_integer_weights_is_that_of_equal_rows():
    table, family = data(), "gamma"
    longer = table.loc[table.index.repeat(table["w"])].reset_index(drop=True)
    weighted, repeated = glmm(family, weights="w"), glmm(family, longer)
    assert_same(weighted, repeated)
    assert weighted.nobs == 64 and repeated.nobs == table["w"].sum()


def test_bernoulli_rows_are_trials():
    """The likelihoods differ by the numbers of orders of successes and failures, which depend on no parameter."""
    table, fit = data(), fitted("binomial")
    rows = table.loc[table.index.repeat(table["trials"])].reset_index(drop=True)
    number = rows.groupby(table.index.repeat(table["trials"])).cumcount()
    single = rows.assign(successes=(number < rows["successes"]).astype(int), trials=1)
    orders = 2 * np.sum(np.log(special.comb(table["trials"], table["successes"])))
    bernoulli = glmm("binomial", single)
    assert_same(fit, bernoulli, constant=orders)
    direct = mm.glmm("successes ~ x + (1 | g)", single, "binomial")
    assert_same(bernoulli, direct, 1e-9)
    assert_same(fit, mm.glmm("share ~ x + (1 | g)", table, "binomial", weights="trials"), 1e-9)
    close(direct.fitted().groupby(table.index.repeat(table["trials"])).first(), fit.fitted(), 1e-6)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_fit_of_shuffled_rows_and_other_labels(family):
    table, fit = data(), fitted(family)
    shuffled = table.sample(frac=1, random_state=3)
    other = glmm(family, shuffled)
    assert_same(fit, other)
    close(other.fitted()[table.index], fit.fitted(), 1e-6)
    renamed = glmm(family, table.assign(g=table["g"].str[6:].map(lambda k: f"{9 - int(k)}")))
    np.testing.assert_allclose(renamed.deviance, fit.deviance, atol=1e-7)
    close(renamed.ranef()["g"].iloc[::-1], fit.ranef()["g"], 1e-5)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_fit_with_an_offset(family):
    """A shift of the linear predictor, and a part of a coefficient."""
    table, fit = data(), fitted(family)
    other = glmm(family, offset=0.7 + 0.25 * table["x"].to_numpy())
    np.testing.assert_allclose(other.deviance, fit.deviance, atol=1e-7)
    close(other.fixef + np.array([0.7, 0.25]), fit.fixef, 1e-5)
    close(other.bse, fit.bse, 1e-5)
    close(other.theta, fit.theta, 1e-5)
    close(other.fitted(), fit.fitted(), 1e-6)


def test_fit_of_failures():
    table, fit = data(), fitted("binomial")
    other = glmm("binomial", table.assign(successes=table["trials"] - table["successes"]))
    np.testing.assert_allclose(other.deviance, fit.deviance, atol=1e-7)
    close(-other.fixef, fit.fixef, 1e-5)
    close(-other.ranef()["g"], fit.ranef()["g"], 1e-5)
    close(1 - other.fitted(), fit.fitted(), 1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 0.0), (-1e-3, 0.0), (3.0, 40.0)])
def test_fit_of_another_unit_of_the_predictor(scale, shift):
    """With x = A (1, x)', b turns into A'^-1 b: intercepts and slopes, whose zero moves."""
    fit = _slopes()
    other = glmm("poisson", data().assign(x=lambda d: scale * d["x"] + shift), right="x + (x | g)")
    back = np.array([[1.0, shift], [0.0, scale]])
    np.testing.assert_allclose(other.deviance, fit.deviance, atol=1e-7)
    close(back @ other.fixef, fit.fixef, 1e-5)
    close(back @ other.vcov() @ back.T, fit.vcov(), 1e-4)
    close(back @ other.varcorr().cov["g"] @ back.T, fit.varcorr().cov["g"], 1e-4)
    close(other.ranef()["g"] @ back.T, fit.ranef()["g"], 1e-4)
    close(other.fitted(), fit.fitted(), 1e-6)


@cache
def _slopes() -> Fit:
    fit = glmm("poisson", right="x + (x | g)")
    assert fit.converged
    return fit


def test_nested_solved_as_crossed():
    fit = glmm("poisson", right="x + (1 | h) + (1 | g)")
    inner, outer = fit.model.elimination.chain
    crossed = replanned(fit.model, chain=(inner,), rest=(outer,), sparse=False)
    assert fit.model.solver == "nested chain" and crossed.solver == "Schur complement"
    assert_same(fit, crossed.fit())


# ---------------------------------------------------------------- a linear model by both ways
def test_gaussian_is_the_linear_model():
    """Laplace's method is exact there.  Its standard errors include the uncertainty of the variances."""
    fit, linear = fitted("gaussian"), mm.lmm("score ~ x + (1 | g)", data(), reml=False)
    np.testing.assert_allclose(fit.deviance, linear.deviance, atol=1e-7)
    close(fit.fixef, linear.fixef, 1e-5)
    close(fit.sigma, linear.sigma, 1e-5)
    close(fit.varcorr().cov["g"], linear.varcorr().cov["g"], 1e-4)
    close(fit.theta, linear.theta * linear.sigma, 1e-5)
    close(fit.ranef()["g"], linear.ranef()["g"], 1e-4)
    close(fit.fitted(), linear.fitted(), 1e-5)
    close(fit.residuals("deviance"), linear.residuals(), 1e-4)
    assert fit.df == linear.df and fit.nobs == linear.nobs
    arrays, theta = linear.model.arrays, linear.theta
    parameters = np.concatenate([linear.fixef, theta, [2 * np.log(linear.sigma)]])
    with jax.enable_x64(True):
        joint = quick_jit(jax.hessian(lambda x: mm.neg2_loglik(mm.Parameters(x[:2], x[2:3], x[3]), arrays)))(parameters)
    close(fit.vcov(), 2 * np.linalg.inv(joint)[:2, :2], 1e-4)
    assert np.all(fit.bse > linear.bse) and np.all(fit.bse < 1.05 * linear.bse)


# ---------------------------------------------------------------- residuals
VARIANCE = {"binomial": lambda m: m * (1 - m), "poisson": lambda m: m, "gamma": np.square, "gaussian": np.ones_like}
SLOPE = {"binomial": lambda m: m * (1 - m), "poisson": lambda m: m, "gamma": lambda m: m, "gaussian": np.ones_like}


@pytest.mark.parametrize("family", RESPONSE)
def test_residuals(family):
    """Squares of deviance residuals add up to -2 (log likelihood - the best for each row), times phi."""
    fit, table = fitted(family), data()
    mu = fit.fitted().to_numpy()
    trials = table["trials"].to_numpy() if family == "binomial" else np.ones(64)
    raw = {"binomial": "successes", "poisson": "count", "gamma": "amount", "gaussian": "score"}[family]
    counts = table[raw].to_numpy(float)
    y, phi = counts / trials, fit.dispersion or 1.0
    given = [LOG_DENSITY[family](counts, trials, m, phi) for m in (y, mu)]
    deviance = 2 * (given[0] - given[1]) * (phi if fit.family.has_scale else 1.0)
    residual = fit.residuals("deviance")
    close(residual**2, deviance, 1e-9)
    assert np.all(np.sign(residual) == np.sign(y - mu))
    close(fit.residuals(), y - mu, 1e-12)
    close(fit.residuals("pearson"), (y - mu) * np.sqrt(trials / VARIANCE[family](mu)), 1e-10)
    close(fit.residuals("working"), (y - mu) / SLOPE[family](mu), 1e-9)
    # of the deviance, log|M| is left: the effects given the data have the covariance ΛM⁻¹Λ'
    log_M = -np.sum(np.log(fit.ranef().cond_cov["g"][:, 0, 0] / fit.theta[0] ** 2))
    np.testing.assert_allclose(fit.deviance, -2 * np.sum(given[1]) + np.sum(fit.estimates.u[0] ** 2) + log_M, rtol=1e-9)


def test_residuals_of_a_weighted_fit():
    table = data()
    fit = glmm("gamma", weights="w")
    y, mu = table["amount"].to_numpy(), fit.fitted().to_numpy()
    close(fit.residuals("pearson"), (y - mu) * np.sqrt(table["w"]) / mu, 1e-10)
    unit = 2 * ((y - mu) / mu - np.log(y / mu))
    close(fit.residuals("deviance") ** 2, table["w"] * unit, 1e-9)


# ---------------------------------------------------------------- simulations
MANY = 4000


@pytest.mark.parametrize("family", RESPONSE)
def test_simulations_at_the_modes(family):
    fit = fitted(family)
    trials = data()["trials"].to_numpy() if family == "binomial" else np.ones(64)
    mu = fit.fitted().to_numpy()
    draws = fit.simulate(MANY, key=jax.random.key(0), re="conditional")
    assert draws.shape == (MANY, 64)
    variance = trials * VARIANCE[family](mu) * (fit.dispersion or 1.0)
    score = (draws.mean(axis=0) - trials * mu) / np.sqrt(variance / MANY)
    assert np.max(np.abs(score)) < 4.5 and 0.6 < np.mean(score**2) < 1.5
    ratio = draws.var(axis=0) / variance
    assert abs(np.mean(ratio) - 1) < 0.02 and np.max(np.abs(ratio - 1)) < 0.3


@pytest.mark.parametrize("family", RESPONSE)
def test_simulations_with_new_effects(family):
    """Means are the marginal ones; rows of a level go together as their common effect says, those of others do not."""
    fit, table = fitted(family), data()
    trials = table["trials"].to_numpy() if family == "binomial" else np.ones(64)
    draws = fit.simulate(MANY, key=jax.random.key(1)) / trials
    mean = fit.predict(re="marginal").to_numpy()
    score = (draws.mean(axis=0) - mean) / (draws.std(axis=0) / np.sqrt(MANY))
    assert np.max(np.abs(score)) < 4.5
    g, v = table["g"].to_numpy(), float(fit.theta[0] ** 2)
    first, second = np.flatnonzero(g == g[0])[:2]
    other = np.flatnonzero(g != g[0])[0]
    together, apart = (np.cov(draws[:, first], draws[:, k])[0, 1] for k in (second, other))
    z, w = np.polynomial.hermite_e.hermegauss(41)
    eta = fit.predict(re="population", scale="link").to_numpy()[[first, second], None] + np.sqrt(v) * z
    m = np.asarray(fit.family.link.inverse(jnp.asarray(eta)))
    w = w / w.sum()
    expected = (m[0] * m[1]) @ w - (m[0] @ w) * (m[1] @ w)
    error = np.sqrt(np.prod(draws[:, [first, second]].var(axis=0)) / MANY)
    assert abs(together - expected) < 4 * error < expected and abs(apart) < 4 * error
    if family == "gaussian":
        sizes = pd.Series(g).value_counts()
        means = pd.DataFrame((draws - mean).T).groupby(g).mean()
        close(means.std(axis=1), np.sqrt(v + fit.sigma**2 / sizes[means.index]), 0.05)


def use(fit: Fit) -> list:
    return [str(fit), fit.ranef().cond_cov, fit.fitted(), fit.residuals("deviance"), fit.marginal_coef()]


@pytest.mark.parametrize("family", ["binomial", "gamma"])
def test_refit_of_a_simulation(family, programs):
    fit = fitted(family)
    draws = fit.simulate(4, key=jax.random.key(2))
    use(fit)
    use(fit.refit(draws[0]))
    programs.clear()
    refits = [fit.refit(y) for y in draws[1:]]
    for other in refits:
        use(other)
    assert programs == []
    table = data()
    y = draws[1]
    column = {"binomial": "successes", "gamma": "amount"}[family]
    assert_same(glmm(family, table.assign(**{column: y})), refits[0], 1e-9)


@pytest.mark.parametrize("family", ["binomial", "gamma"])
def test_a_pickled_fit_says_the_same(family):
    fit = fitted(family)
    again = pickle.loads(pickle.dumps(fit))
    assert str(again) == str(fit) and str(again.model) == str(fit.model)
    np.testing.assert_array_equal(again.ranef().cond_cov["g"], fit.ranef().cond_cov["g"])
    np.testing.assert_array_equal(again.marginal_coef(), fit.marginal_coef())
    y = fit.simulate(key=jax.random.key(5))[0]
    np.testing.assert_array_equal(again.simulate(key=jax.random.key(5))[0], y)
    assert again.refit(y).deviance == fit.refit(y).deviance


# ---------------------------------------------------------------- marginal coefficients
def _by_hand(fit: Fit, X: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """Least squares of the link of means over many draws of b, the same for every row and in pairs of opposite sign."""
    b = np.random.default_rng(9).normal(size=(200_000, Z.shape[1])) @ np.linalg.cholesky(fit.varcorr().cov["g"]).T
    b = np.vstack([b, -b])
    mean = [
        np.mean(fit.family.link.inverse(jnp.asarray(x @ fit.fixef.to_numpy() + b @ z)))
        for x, z in zip(X, Z, strict=True)
    ]
    eta = np.asarray(fit.family.link.link(jnp.asarray(mean)))
    return np.linalg.lstsq(X, eta, rcond=None)[0]


def test_marginal_coefficients_by_simulation():
    fit, x = fitted("binomial"), data()["x"].to_numpy()
    X = np.column_stack([np.ones(64), x])
    with jax.enable_x64(True):
        close(fit.marginal_coef()["estimate"], _by_hand(fit, X, X[:, :1]), 2e-3)
    assert np.all(np.abs(fit.marginal_coef()["estimate"]) < np.abs(fit.fixef))


def test_marginal_coefficients_of_a_log_link():
    """E exp(z'b) = exp(z'Dz / 2): intercepts move by v / 2, and slopes where the effects of x vary."""
    fit = fitted("poisson")
    table = fit.marginal_coef()
    close(table["estimate"], fit.fixef + np.array([fit.theta[0] ** 2 / 2, 0]), 1e-8)
    slopes, x = _slopes(), data()["x"].to_numpy()
    X = np.column_stack([np.ones(64), x])
    D = slopes.varcorr().cov["g"]
    expected = slopes.fixef + np.linalg.lstsq(X, 0.5 * np.einsum("na,ab,nb->n", X, D, X), rcond=None)[0]
    close(slopes.marginal_coef()["estimate"], expected, 1e-8)
    # the standard error is that of intercept + theta² / 2, whose derivative by theta is theta
    C, T = np.asarray(fit.estimates.covariance), np.asarray(fit.model.arrays.T_X)
    slope = np.array([*T[0], fit.theta[0]])
    np.testing.assert_allclose(table["std_error"].iloc[0], np.sqrt(slope @ C @ slope), rtol=1e-8)
    np.testing.assert_allclose(table["std_error"].iloc[1], fit.bse.iloc[1], rtol=1e-8)


def test_marginal_coefficients_of_a_probit_link():
    """E Phi(eta + sd t) = Phi(eta / √(1 + v)); at the estimates of another link, for it holds at any."""
    logit = fitted("binomial")
    model = mm.Model.from_formula(logit.formula, data(), Binomial("probit"))
    fit = Fit(model, logit.estimates, logit._control)
    shrunk = fit.fixef / np.sqrt(1 + fit.theta[0] ** 2)
    close(fit.marginal_coef()["estimate"], shrunk, 1e-8)
    close(fit.predict(re="marginal"), special.ndtr(shrunk.iloc[0] + shrunk.iloc[1] * data()["x"]), 1e-9)


def test_identity_links_average_to_themselves():
    fit = fitted("gaussian")
    close(fit.marginal_coef()["estimate"], fit.fixef, 1e-9)
    close(fit.marginal_coef()["std_error"], fit.bse, 1e-8)


@pytest.mark.parametrize("family", [None, "binomial", "gamma"])
def test_arrays_may_first_be_read_inside_jit(family, x64):
    """What a model keeps of its data is no tracer, whoever asks first."""
    rng = np.random.default_rng(0)
    y = rng.uniform(size=24) < 0.5 if family == "binomial" else rng.gamma(2.0, size=24)
    model = mm.Model.from_arrays(y * 1.0, np.ones((24, 1)), [mm.Term(np.ones(24), np.arange(24) % 4)], family)
    k = model.likelihood.family.num_phi

    def value(beta):
        parameters = mm.Parameters(jnp.full(1, beta), jnp.ones(1), 0.0 if family is None else jnp.zeros(k))
        return mm.neg2_loglik(parameters, model.arrays)

    np.testing.assert_allclose(quick_jit(value)(0.7), value(0.7), rtol=1e-12)
