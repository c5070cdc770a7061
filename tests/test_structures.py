"""Effects of reduced rank, ``rr(f | g, d = 2)``, with Matérn's correlation, ``mat(pos(x, y) | g)``, and of a covariance
that is known, ``equalto(0 + f | g, K)``: against dense algebra, scipy's K_ν, glmmTMB, and single fits."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.special import gamma, kv

import jaxmm as mm
from jaxmm import covariance
from jaxmm.covariance.mat import SMOOTHEST, Matern, matern

HERE = Path(__file__).parent / "reference"
REFERENCE = json.loads((HERE / "structures.json").read_text())
PLACES = list("abcdef")
K = pd.DataFrame(0.3 * 0.5 ** np.abs(np.subtract.outer(range(6), range(6))), PLACES, PLACES)


@pytest.fixture(scope="module")
def data():
    return pd.read_csv(HERE / "structures.csv")


# ---------------------------------------------------------------- Matérn's correlation
X = np.geomspace(1e-8, 40.0, 50)


def by_bessel(x, nu):
    return 2 ** (1 - nu) / gamma(nu) * x**nu * kv(nu, x)


@pytest.mark.parametrize("nu", [0.01, 0.3, 0.5, 1.0, 1.5, 2.5, 7.3, 20.0, 50.0])
def test_the_correlation_and_its_derivatives(nu):
    """By x those of Bessel's functions, by ν those of differences of the values."""
    with np.errstate(over="ignore", invalid="ignore"):
        expected, slope = by_bessel(X, nu), -X * X ** (nu - 1) * 2 ** (1 - nu) / gamma(nu) * X * kv(nu - 1, X)
    finite = np.isfinite(expected)
    np.testing.assert_allclose(matern(np, X, nu)[finite], expected[finite], rtol=1e-12)
    with jax.enable_x64(True):
        value, (by_x, by_nu) = jax.jit(jax.vmap(jax.value_and_grad(lambda x, n: matern(jnp, x, n), (0, 1)), (0, None)))(
            jnp.asarray(X), jnp.asarray(nu)
        )
        by_x, by_nu = np.asarray(by_x), np.asarray(by_nu)
        curved = jax.vmap(jax.grad(jax.grad(lambda x, n: matern(jnp, x, n), 1), 1), (0, None))(
            jnp.asarray(X), jnp.asarray(nu)
        )
        curved = np.asarray(curved)
    np.testing.assert_allclose(value, matern(np, X, nu), rtol=1e-12)
    np.testing.assert_allclose((X * by_x)[finite], slope[finite], atol=1e-13)
    h = 1e-4 * nu
    ahead, behind = matern(np, X, nu + h), matern(np, X, nu - h)
    np.testing.assert_allclose(nu * by_nu, nu * (ahead - behind) / (2 * h), atol=1e-8)
    second = (ahead - 2 * matern(np, X, nu) + behind) / h**2
    np.testing.assert_allclose(nu**2 * curved, nu**2 * second, atol=1e-5)


@pytest.mark.parametrize(
    ("nu", "closed"),
    [(0.5, lambda x: np.exp(-x)), (1.5, lambda x: (1 + x) * np.exp(-x)),
     (2.5, lambda x: (1 + x + x**2 / 3) * np.exp(-x))],
)  # fmt: skip
def test_closed_forms(nu, closed):
    np.testing.assert_allclose(matern(np, X, nu), closed(X), rtol=1e-13)
    at = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 9.0], [1.0, 1.0]])
    d = np.sqrt(np.sum((at[:, None] - at[None]) ** 2, axis=2))
    theta = np.array([2.0, np.log(3.0 * np.sqrt(2 * nu)), Matern.gamma(nu)])
    structure = covariance.get("mat", 4)
    np.testing.assert_allclose(structure.covariance(theta, at), 4.0 * closed(d / 3.0), rtol=2e-10)
    assert structure.parameters(theta, "abcd") == {"range": pytest.approx(3.0), "smoothness": pytest.approx(nu)}


def test_the_smooth_end():
    """An ordinary point, where the correlation is nearly that of ``gau``."""
    structure, at = covariance.get("mat", 4), np.arange(4.0)[:, None]
    theta = np.array([1.0, 0.7, np.pi / 2 * np.sqrt(SMOOTHEST)])
    gau = covariance.get("gau", 4).covariance(np.array([1.0, 0.7 + 0.5 * np.log(2.0)]), at)
    np.testing.assert_allclose(structure.covariance(theta, at), gau, atol=0.01)
    with jax.enable_x64(True):
        J = jax.jacfwd(lambda t: structure.covariance(t, at))(jnp.asarray(theta))
    assert np.isfinite(J).all() and np.abs(J[..., 2]).max() < 1e-12


@pytest.mark.parametrize("D", [np.eye(4), np.ones((4, 4)), np.zeros((4, 4))])
def test_effects_of_which_the_correlation_says_nothing(D):
    structure, at = covariance.get("mat", 4), 10 * np.arange(4.0)[:, None]
    theta = structure.from_factor(np.linalg.cholesky(D + 1e-14 * np.eye(4)), at)
    assert np.isfinite(theta).all() and np.isfinite(structure.lam(theta, at)).all()
    if D[0, 1] == 0 and D[0, 0] == 1:
        assert np.max(np.abs(structure.derivative(theta, at)[1])) > 0.01


# ---------------------------------------------------------------- reduced rank
@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_nearest_of_a_rank(d):
    """That of the largest eigenvalues; and no change of columns leads out of the structure."""
    structure, rng = covariance.ReducedRank(4, d), np.random.default_rng(d)
    A = rng.normal(size=(4, 4))
    w, Q = np.linalg.eigh(A @ A.T)
    nearest = (Q[:, -d:] * w[-d:]) @ Q[:, -d:].T
    theta = structure.from_factor(A)
    np.testing.assert_allclose(structure.covariance(theta), nearest, atol=1e-12)
    assert len(theta) == structure.num_params == 4 * d - d * (d - 1) // 2
    T = rng.normal(size=(4, 4))
    np.testing.assert_allclose(structure.covariance(structure.changed(theta, T)), T @ nearest @ T.T, atol=1e-11)
    assert structure.pivots(theta).min() > 0.1
    if d > 1:
        lost = structure.from_factor(np.outer(A[0], np.eye(4)[0]))
        assert structure.pivots(lost).min() < 1e-12 and np.abs(structure.covariance(lost)).max() > 0.1


# ---------------------------------------------------------------- models
LINEAR = {
    "mat": "field ~ z + mat(pos(x, y) | g)",
    "mat REML": "field ~ z + mat(0 + pos(x, y) | g)",
    "rr": "traits ~ z + rr(0 + place | g, d = 2)",
    "rr 1": "traits ~ z + rr(0 + place | g, 1)",
}
GENERALISED = {
    "poisson rr": ("count ~ z + rr(0 + place | g)", "poisson"),
    "equalto": ("field ~ z + equalto(0 + place | g, K)", "gaussian"),
    "poisson equalto": ("count ~ z + equalto(0 + place | g, K)", "poisson"),
}


def dense_deviance(fit, data, by=""):
    """-2 log-likelihood of a linear model at its covariance, β̂ and σ, written out."""
    d, V = fit.model.design, fit.sigma**2 * np.eye(len(data))
    for term in d.terms:
        codes = d.factors[term.factor].codes
        D = fit.varcorr().cov[d.factors[term.factor].name].to_numpy()
        V = V + (codes[:, None] == codes) * (term.Z @ D @ term.Z.T)
    W, X = np.linalg.inv(V), d.X
    e = d.y - X @ fit.fixef.to_numpy()
    n = len(e) - fit.reml * X.shape[1]
    rest = np.linalg.slogdet(X.T @ W @ X)[1] if fit.reml else 0.0
    return np.linalg.slogdet(V)[1] + e @ W @ e + n * np.log(2 * np.pi) + rest


def check(fit, key):
    """As ``structures.R`` has it."""
    said = REFERENCE[key]
    assert fit.converged and not fit.is_singular and fit.df == said["df"]
    assert fit.loglik == pytest.approx(said["loglik"], abs=1e-6)
    np.testing.assert_allclose(fit.fixef, said["fixef"], atol=1e-4)
    found = fit.varcorr().blocks[0].cov
    np.testing.assert_allclose(np.sort(found.ravel()), np.sort(said["cov"]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("key", LINEAR)
def test_linear_models_are_as_in_glmmtmb(data, key):
    fit = mm.lmm(LINEAR[key], data, reml="REML" in key)
    check(fit, key)
    assert fit.deviance == pytest.approx(dense_deviance(fit, data), abs=1e-7)
    if key == "mat":  # standard deviation, range, smoothness as logarithms
        term = fit.model.design.terms[0].covariance
        own = [np.sqrt(fit.varcorr().cov["g"].iloc[0, 0]), *term.parameters(fit.theta, PLACES).values()]
        np.testing.assert_allclose(np.log(own), REFERENCE[key]["theta"], atol=1e-4)
    if key == "mat REML":
        assert "smoothness" not in str(fit.varcorr()) and "mat(0 + pos(x, y) | g)" in repr(fit.model)


@pytest.mark.parametrize("key", GENERALISED)
def test_generalised_models_are_as_in_glmmtmb(data, key):
    formula, family = GENERALISED[key]
    fit = mm.glmm(formula, data, family, matrices={"K": K} if "K" in formula else None)
    check(fit, key)
    if "K" in formula:
        np.testing.assert_allclose(fit.varcorr().cov["g"], K, rtol=1e-9)
        assert len(fit.theta) == 0


def small(seed: int) -> pd.DataFrame:
    """Three places of each of 25 levels, two rows each."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"g": np.repeat(np.arange(25), 6), "t": np.tile([0.0, 0.0, 1.0, 1.0, 3.0, 3.0], 25)})
    b = np.repeat(rng.normal(size=(25, 3)) @ rng.normal(size=(3, 3)), 2, axis=1).ravel()
    table["x"] = rng.normal(size=150)
    table["place"] = "at" + table.t.astype(int).astype(str)
    table["y"] = table.x + b + 0.5 * rng.normal(size=150)
    return table


@pytest.mark.parametrize("bar", ["rr(0 + place | g, 1)", "mat(0 + t | g)"])
def test_lanes_are_as_single_fits(bar):
    table, rng = small(1), np.random.default_rng(2)
    model = mm.Model.from_formula(f"y ~ x + {bar}", table)
    Y = np.stack([table.y, table.y[::-1], rng.permutation(table.y), rng.normal(size=150)])
    batch = mm.fit_many(model, Y, progress=False)
    for k, y in enumerate(Y):
        fit = model.with_response(y).fit()
        assert batch.converged[k] and fit.converged and batch.is_singular[k] == fit.is_singular
        assert batch.deviance[k] == pytest.approx(fit.deviance, abs=1e-5)
        np.testing.assert_allclose(batch.bse[k], fit.bse, rtol=1e-3)


# ---------------------------------------------------------------- the ends
def test_a_column_of_loadings_that_adds_nothing():
    """Two columns where the effects move together in one direction, up to less than sampling would give."""
    table = small(3)
    within = np.repeat(np.repeat(np.random.default_rng(4).normal(size=25), 3), 2)
    noise = np.tile([0.5, -0.5], 75)  # the two rows of a place have the same mean, and nothing else differs
    table["y"] = within * (1 + 0.5 * table.t) + noise * np.random.default_rng(5).choice([-1, 1], 75).repeat(2)
    one, two = (mm.lmm(f"y ~ x + rr(0 + place | g, {d})", table, reml=False) for d in (1, 2))
    assert two.converged and two.is_singular and not one.is_singular
    assert two.deviance == pytest.approx(one.deviance, abs=1e-6)


def test_a_range_without_end_and_one_of_nothing():
    """Effects that are all alike are a random intercept; effects of a level's places that are independent."""
    rng, table = np.random.default_rng(6), small(3)
    intercept = 2 * np.repeat(rng.normal(size=25), 6)
    apart = 2 * np.repeat(rng.permuted(np.tile([-1.0, 0.0, 1.0], (25, 1)), axis=1), 2, axis=1).ravel()
    error = 0.3 * rng.normal(size=150)
    for y, bar, singular in ((intercept + error, "(1 | g)", True), (apart + error, "homdiag(0 + place | g)", False)):
        fit = mm.lmm("y ~ x + mat(0 + t | g)", table.assign(y=y))
        limit = mm.lmm(f"y ~ x + {bar}", table.assign(y=y))
        assert fit.converged and fit.deviance < limit.deviance + 1e-4
        if singular and fit.deviance > limit.deviance - 1e-4:
            assert fit.is_singular


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("formula", "error", "said"),
    [
        ("rr(0 + place | g, d = 7)", mm.DataError,
         r"rr\(0 \+ place \| g, d = 7\): d = 7 columns of loadings are more than the 6 effects there are: give"),
        ("rr(1 | g)", mm.DataError, "are more than the one effect there is: give d = 1"),
        ("rr(0 + place | g, 0)", mm.DataError, "d = 0 is no number of columns of loadings"),
        ("rr(0 + place | g, d = 1.5)", mm.FormulaError, "d of rr.* is a whole number, d = 2, not '1.5'"),
        ("rr(0 + place | g, d = z)", mm.FormulaError, "d of rr.* is a whole number"),
        ("rr(0 + place | g, 2, 3)", mm.FormulaError, r"takes a random-effects term and the option d = 2 alone"),
        ("mat(0 + place | g)", mm.DataError, r"'place' is a factor .*: make a column of numbers of it, or take ar1"),
        ("equalto(0 + place | g)", mm.FormulaError, r"takes the name of a matrix after the bar"),
    ],
)  # fmt: skip
def test_what_cannot_be(data, formula, error, said):
    with pytest.raises(error, match=said):
        mm.Model.from_formula(f"traits ~ z + {formula}", data)


def test_more_directions_than_the_data_bear():
    """Each row an effect of its own, as many columns as effects."""
    table = small(1).drop_duplicates(["g", "place"])
    assert mm.Model.from_formula("y ~ x + rr(0 + place | g, 1)", table).structure.num_theta == 3
    with pytest.raises(mm.DataError, match="cannot be told from the residuals"):
        mm.Model.from_formula("y ~ x + rr(0 + place | g, 3)", table)


def test_arrays():
    """Without a formula, an instance says d."""
    table = small(1)
    Z = pd.get_dummies(table.place).to_numpy(float)
    X = np.column_stack([np.ones(150), table.x])
    term = mm.Term(Z, table.g.to_numpy(), kind=covariance.ReducedRank(3, 1))
    a = mm.Model.from_arrays(table.y, X, [term]).fit()
    b = mm.lmm("y ~ x + rr(0 + place | g, 1)", table)
    assert a.deviance == pytest.approx(b.deviance, abs=1e-9)
    with pytest.raises(mm.DataError, match="term 0: d = 4 columns of loadings are more than the 3 effects"):
        mm.Model.from_arrays(table.y, X, [mm.Term(Z, table.g.to_numpy(), kind=covariance.ReducedRank(3, 4))])
