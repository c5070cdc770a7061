"""Families: densities and their derivatives against mpmath, moments, samplers, SciPy's densities."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from accuracy import assert_close, exact, jets
from scipy import special, stats
from test_links import EXACT, POSITIVE

from jaxmm import families
from jaxmm.families import FAMILIES, Family

pytestmark = pytest.mark.usefixtures("x64")

PAIRS = [(name, link) for name, family in FAMILIES.items() for link in family.links]
PHI = (1e-4, 0.3, 7.0, 1e8)
REAL = np.array([-40.0, -31.3, -17.0, -8.1, -3.02, -2.9, -0.7, 0.0, 0.6, 1.1, 2.9, 4.3, 11.0, 25.0, 40.0])

# rows to test: (y, trials)
ROWS = {
    "binomial": [(0, 1), (1, 1), (3, 10), (10, 10), (70, 1000)],
    "betabinomial": [(3, 10), (0, 12), (12, 12), (20, 60)],
    "poisson": [(0, 1), (1, 1), (7, 1), (5000, 1)],
    "nbinom1": [(0, 1), (1, 1), (7, 1), (5000, 1)],
    "nbinom2": [(0, 1), (1, 1), (7, 1), (5000, 1)],
    "gamma": [(1e-3, 1), (0.9, 1), (300.0, 1)],
    "inverse_gaussian": [(1e-3, 1), (0.9, 1), (300.0, 1)],
    "beta": [(1e-6, 1), (0.3, 1), (0.999, 1)],
    "gaussian": [(-3.0, 1), (0.4, 1), (50.0, 1)],
    "tweedie": [(0.0, 1), (0.02, 1), (0.9, 1), (300.0, 1)],
    "student_t": [(-3.0, 1), (0.4, 1), (50.0, 1)],
}
ROWS |= {f"truncated_{name}": [(1, 1), (2, 1), (7, 1), (5000, 1)] for name in ("poisson", "nbinom1", "nbinom2")}
EXTRAS = {"student_t": (9.0,), "tweedie": (1.5,)}  # of families that have parameters after phi
REALS = ("gaussian", "student_t")  # whose means may be any numbers


# ---------------------------------------------------------------- log densities, naively, to many digits
@cache
def _kept(f, x, precision):
    return f(x)


def kept(f, x):
    """f(x), looked up: rows differ in y and phi, and share their means."""
    return _kept(f, x, mp.mp.prec)


def lgamma(x):
    return kept(mp.loggamma, x)


def rising(a, y):
    return mp.log(mp.fprod(a + k for k in range(int(y)))) if y < 100 else lgamma(a + y) - lgamma(a)


def lchoose(n, y):
    return lgamma(n + 1) - lgamma(y + 1) - lgamma(n - y + 1)


def binomial(y, n, phi, lm, l1m):
    return y * lm() + (n - y) * l1m() + lchoose(n, y)


def poisson(y, n, phi, lm, l1m):
    return y * lm() - mp.exp(lm()) - lgamma(y + 1)


def negative_binomial(y, size, mu):
    return rising(size, y) - lgamma(y + 1) + size * mp.log(size / (size + mu)) + y * mp.log(mu / (size + mu))


def gamma(y, n, phi, lm, l1m):
    a, mu = 1 / phi, mp.exp(lm())
    return a * mp.log(a / mu) + (a - 1) * mp.log(y) - a * y / mu - lgamma(a)


def inverse_gaussian(y, n, phi, lm, l1m):
    mu = mp.exp(lm())
    return -mp.log(2 * mp.pi * phi * y**3) / 2 - (y - mu) ** 2 / (2 * phi * mu**2 * y)


def beta(y, n, phi, lm, l1m):
    a, b = phi * mp.exp(lm()), phi * mp.exp(l1m())
    return (a - 1) * mp.log(y) + (b - 1) * mp.log(1 - y) + lgamma(phi) - lgamma(a) - lgamma(b)


def student_t(y, mu, phi, df):
    constant = lgamma((df + 1) / 2) - lgamma(df / 2) - mp.log(mp.pi * df * phi) / 2
    return constant - (df + 1) / 2 * mp.log(1 + (y - mu) ** 2 / (df * phi))


def truncated(log_p):
    def given_above_zero(y, n, phi, lm, l1m):
        return log_p(y, n, phi, lm, l1m) - mp.log(-mp.expm1(log_p(mp.mpf(0), n, phi, lm, l1m)))

    return given_above_zero


def betabinomial(y, n, phi, lm, l1m):
    a, b = phi * mp.exp(lm()), phi * mp.exp(l1m())
    return lchoose(n, y) + rising(a, y) + rising(b, n - y) - rising(phi, n)


def tweedie(y, n, phi, lm, l1m):
    """Of power 3/2, where the series is a Bessel function; others in ``test_tweedie``."""
    root = mp.exp(lm() / 2)
    zero = -2 * root / phi
    if y == 0:
        return zero
    x = mp.sqrt(y) / phi
    return mp.log(2 * x * mp.besseli(1, 4 * x)) - mp.log(y) - 2 * y / (root * phi) + zero


NAIVE = {
    "binomial": binomial,
    "poisson": poisson,
    "gamma": gamma,
    "inverse_gaussian": inverse_gaussian,
    "nbinom1": lambda y, n, phi, lm, l1m: negative_binomial(y, mp.exp(lm()) / phi, mp.exp(lm())),
    "nbinom2": lambda y, n, phi, lm, l1m: negative_binomial(y, phi, mp.exp(lm())),
    "beta": beta,
    "betabinomial": betabinomial,
    "tweedie": tweedie,
}
NAIVE |= {f"truncated_{name}": truncated(NAIVE[name]) for name in ("poisson", "nbinom1", "nbinom2")}


def naive(name, link, y, n, eta, phi):
    y, n = mp.mpf(float(y)), mp.mpf(n)
    if name in REALS:
        mu = {"identity": lambda e: e, "log": mp.exp, "inverse": lambda e: 1 / e}[link](eta)
        if name in EXTRAS:
            return student_t(y, mu, mp.mpf(phi), mp.mpf(EXTRAS[name][0]))
        return -((y - mu) ** 2) / (2 * phi) - mp.log(2 * mp.pi * phi) / 2
    log_mu, log_1m_mu, _ = EXACT[link]
    return NAIVE[name](y, n, mp.mpf(phi), lambda: kept(log_mu, eta), lambda: kept(log_1m_mu, eta))


def domain(name, link) -> np.ndarray:
    """Values of eta all over where the mean is in the family's range."""
    if link == "log" and name == "binomial":
        return -POSITIVE[::3]
    if link in ("identity", "inverse", "sqrt", "1/mu^2") and not (name in REALS and link == "identity"):
        return POSITIVE[::3]
    if name.startswith("beta"):  # the naive formulas need as many digits as mu or 1 - mu has zeros
        return REAL[(REAL > (-12 if link == "probit" else -41)) & (REAL < {"probit": 12, "cloglog": 4.5}.get(link, 41))]
    return REAL


def cases(name, link, etas, phis=PHI):
    """Rows (eta, y, phi, trials) of every combination, as columns."""
    phis = phis if FAMILIES[name].num_phi else (1.0,)
    return [np.array(c) for c in zip(*[(e, y, p, n) for e, (y, n), p in product(etas, ROWS[name], phis)], strict=True)]


def full(family):
    """The log density with all constants, of eta first."""
    extras = EXTRAS.get(family.name, ())
    return lambda eta, y, phi, n: family.density(y, eta, phi, n, *extras) + family.log_constant(y, n)


@pytest.mark.parametrize(("name", "link"), PAIRS)
def test_derivatives_in_eta(name, link):
    family, columns = families.get(name, link), cases(name, link, domain(name, link))
    with mp.workdps(60):
        expected = [
            exact(lambda e, y=y, p=p, n=n: naive(name, link, y, n, e, p), eta)
            for eta, y, p, n in zip(*columns, strict=True)
        ]
    algebraic = link in ("identity", "inverse", "sqrt", "1/mu^2", "cauchit")
    x = np.maximum(np.abs(columns[0]), 1e-6) if algebraic else None
    x = np.ones_like(columns[0]) if name == "student_t" and link == "log" else x  # algebraic in the mean
    actual = jets(full(family), *columns)
    assert_close(actual, expected, 1e-11, x=x, atol=1e-13, at=list(zip(*columns, strict=True)))


@pytest.mark.parametrize("link", FAMILIES["betabinomial"].links)
def test_one_trial_is_bernoulli(link):
    """Whatever phi: in value, and in derivatives over the whole range of eta."""
    eta, y, phi = (c.ravel() for c in np.meshgrid(REAL, [0.0, 1.0], [1e-4, 7.0, 1e8]))
    ones = np.ones_like(eta)
    mixed = jets(full(families.get("betabinomial", link)), eta, y, phi, ones)
    plain = jets(full(families.get("binomial", link)), eta, y, phi, ones)
    np.testing.assert_allclose(mixed[0], plain[0], rtol=1e-13, atol=1e-13)
    for order in range(1, 5):
        np.testing.assert_allclose(mixed[order], plain[order], rtol=1e-10, atol=1e-15)


def directions(name):
    return ["phi", "both"] if FAMILIES[name].num_phi else []


@pytest.mark.parametrize(("name", "way"), [(n, w) for n in FAMILIES for w in directions(n)])
def test_derivatives_in_log_phi(name, way):
    """Along log phi, and along the diagonal of (eta, log phi), to which the mixed derivatives contribute."""
    link = "log" if "log" in FAMILIES[name].links else FAMILIES[name].links[0]
    family, slope = families.get(name, link), float(way == "both")
    eta, y, phi, n = cases(name, link, [-5.0, -1.2, 0.4, 3.0], np.geomspace(1e-4, 1e8, 7))
    with mp.workdps(60):
        expected = [
            exact(lambda t, e=e, r=r, p=p, m=m: naive(name, link, r, m, e + slope * t, p * mp.exp(t)), 0.0, order=3)
            for e, r, p, m in zip(eta, y, phi, n, strict=True)
        ]

    def f(t, eta, y, phi, n):
        return full(family)(eta + slope * t, y, jnp.exp(jnp.log(phi) + t), n)

    actual = jets(f, np.zeros_like(eta), eta, y, phi, n, order=3)
    error = np.abs(actual - np.array(expected).T[:4]) / (1 + np.abs(y) + np.abs(expected).T[:4])
    assert error.max() < 1e-12
    if name.startswith("nbinom") and way == "phi":  # to what is left of them next to the Poisson limit, too
        assert_close(actual, expected, 1e-7, atol=1e-13, at=list(zip(eta, y, phi, n, strict=True)))


@pytest.mark.parametrize(("name", "link"), PAIRS)
def test_reverse_mode(name, link):
    """Hessian times vector by forward over reverse, compiled: what the Newton steps of a fit use."""
    family = families.get(name, link)
    eta, y, phi, n = map(jnp.asarray, cases(name, link, domain(name, link)))

    @jax.jit
    def derivatives(eta, phi):
        def total(eta, phi):
            return jnp.sum(family.density(y, eta, phi, n, *EXTRAS.get(name, ())))

        gradient = jax.grad(total, argnums=(0, 1))
        return jax.jvp(gradient, (eta, phi), (jnp.ones_like(eta), jnp.zeros_like(phi)))

    (score, by_phi), (curvature, mixed) = derivatives(eta, phi)
    expected = jets(full(family), eta, y, phi, n, order=2)
    np.testing.assert_allclose(score, expected[1], rtol=1e-9, atol=1e-280)
    np.testing.assert_allclose(curvature, expected[2], rtol=1e-6, atol=1e-9 * np.abs(expected[1]).max())
    assert np.isfinite(by_phi).all() and np.isfinite(mixed).all()


# ---------------------------------------------------------------- distributions
# name: mu, phi, trials; of moderate size, so that sums and integrals reach both tails
MODERATE = {
    "binomial": (0.3, 1.0, 12.0),
    "poisson": (4.2, 1.0, 1.0),
    "gamma": (2.5, 0.4, 1.0),
    "inverse_gaussian": (2.5, 0.2, 1.0),
    "nbinom1": (4.2, 1.7, 1.0),
    "nbinom2": (4.2, 1.7, 1.0),
    "beta": (0.3, 6.0, 1.0),
    "betabinomial": (0.3, 2.5, 12.0),
    "gaussian": (-0.8, 2.3, 1.0),
    "tweedie": (2.5, 0.8, 1.0),
    "student_t": (-0.8, 2.3, 1.0),
    "truncated_poisson": (1.2, 1.0, 1.0),
    "truncated_nbinom1": (1.2, 1.7, 1.0),
    "truncated_nbinom2": (1.2, 1.7, 1.0),
}


def points(name):
    """y and the weight of each: all whole numbers, or trapezoids on a scale where the density dies out quickly."""
    s = np.linspace(-60, 60, 4001)
    step = s[1] - s[0]
    if name in ("binomial", "betabinomial"):
        y = np.arange(MODERATE[name][2] + 1)
        return y, np.ones_like(y)
    if name in ("poisson", "nbinom1", "nbinom2"):
        return np.arange(400.0), np.ones(400)
    if name.startswith("truncated"):
        return np.arange(1.0, 400), np.ones(399)
    if name == "beta":
        s = s[np.abs(s) < 30]
        y = 1 / (1 + np.exp(-s))
        return y, y / (1 + np.exp(s)) * step
    if name == "gaussian":
        return s, np.full_like(s, step)
    if name == "tweedie":  # the density of y > 0 is finite at zero, where there is a probability besides
        s = s[np.abs(s) < 45]
        return np.append(0.0, np.exp(s)), np.append(1.0, np.exp(s) * step)
    if name == "student_t":
        return np.sinh(s), np.cosh(s) * step
    return np.exp(s), np.exp(s) * step


@pytest.mark.parametrize("name", FAMILIES)
def test_density_and_moments(name):
    """The density sums to one; its mean is mu or what ``mean`` says, its variance what ``variance`` says."""
    family, (mu, phi, trials) = families.get(name), MODERATE[name]
    y, weight = points(name)
    p = weight * np.exp(full(family)(family.link.link(jnp.asarray(mu)), y, phi, trials))
    extras = EXTRAS.get(name, ())
    variance = trials * family.variance(jnp.asarray(mu), phi, trials, *extras) * (phi if family.has_scale else 1.0)
    mean = trials * family.mean(mu, phi, *extras)
    np.testing.assert_allclose(np.sum(p), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.sum(p * y), mean, rtol=1e-11)
    np.testing.assert_allclose(np.sum(p * (y - mean) ** 2), variance, rtol=1e-10)
    assert (mean != mu * trials) == family.mean_apart
    assert np.all(family.valid(y[p > 0]))


@pytest.mark.parametrize("name", FAMILIES)
def test_samples(name):
    """Mean, variance and three points of the distribution function within Monte Carlo error."""
    family, (mu, phi, trials) = families.get(name), MODERATE[name]
    keys = jax.random.split(jax.random.key(sum(map(ord, name))), 200)

    @jax.jit
    @jax.vmap
    def draws(key):
        return family.sample(key, jnp.full(200, mu), phi, jnp.full(200, trials), *EXTRAS.get(name, ()))

    y = np.asarray(draws(keys)).ravel()
    assert y.dtype == np.float64 and np.all(family.valid(y))
    at, weight = points(name)
    p = weight * np.exp(full(family)(family.link.link(jnp.asarray(mu)), at, phi, trials))
    mean = np.sum(p * at)
    moments = [np.sum(p * (at - mean) ** k) for k in (2, 4)]
    assert abs(y.mean() - mean) < 4.5 * np.sqrt(moments[0] / len(y))
    assert abs(np.mean((y - mean) ** 2) - moments[0]) < 4.5 * np.sqrt((moments[1] - moments[0] ** 2) / len(y))
    for q in (0.1, 0.5, 0.9):  # the distribution function where it passes q
        k = np.searchsorted(np.cumsum(p), q)
        assert abs(np.mean(y <= at[k]) - np.sum(p[: k + 1])) < 4.5 * np.sqrt(0.25 / len(y)) + p[k]


def test_samples_of_extreme_parameters():
    """Probabilities near 0 and 1, shapes that underflow: in the support, never nan."""
    key = jax.random.key(1)
    mu = jnp.array([1e-12, 1e-4, 0.5, 1 - 1e-4, 1 - 1e-12])
    for phi in (1e-3, 1e6):
        y = families.Beta().sample(key, mu, phi)
        assert np.all(families.Beta().valid(y))
        counts = families.BetaBinomial().sample(key, mu, phi, jnp.full(5, 20.0))
        assert np.all((counts >= 0) & (counts <= 20))
    counts = families.Binomial().sample(key, mu, 1.0, jnp.array([0.0, 1.0, 7.0, 50.0, 5000.0]))
    assert np.all((counts >= 0) & (counts <= np.array([0, 1, 7, 50, 5000])))
    positive = jnp.array([1e-8, 1.0, 1e6])
    for name in ("gamma", "inverse_gaussian", "nbinom1", "nbinom2", "poisson", "tweedie"):
        for phi in (1e-3, 1e3):
            y = families.get(name).sample(key, positive, phi)
            assert np.all(np.isfinite(y) & (y >= 0)), (name, phi)


SCIPY = {
    "binomial": lambda y, mu, phi, n: stats.binom.logpmf(y, n, mu),
    "poisson": lambda y, mu, phi, n: stats.poisson.logpmf(y, mu),
    "gamma": lambda y, mu, phi, n: stats.gamma.logpdf(y, 1 / phi, scale=mu * phi),
    "inverse_gaussian": lambda y, mu, phi, n: stats.invgauss.logpdf(y, mu * phi, scale=1 / phi),
    "nbinom1": lambda y, mu, phi, n: stats.nbinom.logpmf(y, mu / phi, 1 / (1 + phi)),
    "nbinom2": lambda y, mu, phi, n: stats.nbinom.logpmf(y, phi, phi / (phi + mu)),
    "beta": lambda y, mu, phi, n: stats.beta.logpdf(y, mu * phi, (1 - mu) * phi),
    "betabinomial": lambda y, mu, phi, n: stats.betabinom.logpmf(y, n, mu * phi, (1 - mu) * phi),
    "gaussian": lambda y, mu, phi, n: stats.norm.logpdf(y, mu, np.sqrt(phi)),
    "tweedie": lambda y, mu, phi, n: tweedie_of_power(y, mu, phi),
    "student_t": lambda y, mu, phi, n: stats.t.logpdf(y, EXTRAS["student_t"][0], mu, np.sqrt(phi)),
}


def tweedie_of_power(y, mu, phi):
    """Of power 3/2."""
    x, zero = np.sqrt(np.maximum(y, 1e-300)) / phi, np.sqrt(mu) / phi
    series = np.log(2 * x * special.ive(1, 4 * x) / np.maximum(y, 1e-300))
    return np.where(y > 0, series - 2 * (x - zero) ** 2 / zero, -2 * zero)


def above_zero(log_p):
    return lambda y, mu, phi, n: log_p(y, mu, phi, n) - np.log(-np.expm1(log_p(0 * y, mu, phi, n)))


SCIPY |= {f"truncated_{name}": above_zero(SCIPY[name]) for name in ("poisson", "nbinom1", "nbinom2")}


@pytest.mark.parametrize(("name", "link"), PAIRS)
def test_against_scipy(name, link):
    family, (mu, phi, _) = families.get(name, link), MODERATE[name]
    mu = abs(mu) if link == "log" else mu
    y, n = np.array(ROWS[name], float).T
    actual = full(family)(family.link.link(jnp.asarray(mu)), y, phi, n)
    np.testing.assert_allclose(actual, SCIPY[name](y, mu, phi, n), rtol=1e-9)


@pytest.mark.parametrize("name", ["nbinom1", "nbinom2", "betabinomial"])
def test_limits_without_dispersion(name):
    """Poisson and binomial: the difference is of the order of the excess variance, and nothing is lost to it."""
    excess = 1e-12
    family, limit = families.get(name), families.get("binomial" if name == "betabinomial" else "poisson")
    phi = excess if name == "nbinom1" else 1 / excess
    y, n = np.array([0.0, 1.0, 4.0, 30.0]), 40.0
    eta = family.link.link(jnp.asarray(0.3 if family.has_trials else 9.0))
    actual, expected = (full(f)(eta, y, phi, n) for f in (family, limit))
    np.testing.assert_allclose(actual, expected, atol=1e-9)
    with mp.workdps(60):
        digits = [float(naive(name, family.link.name, v, n, mp.mpf(float(eta)), phi)) for v in y]
    np.testing.assert_allclose(actual, digits, rtol=2e-14, atol=1e-14)


@pytest.mark.parametrize(("name", "link"), PAIRS)
def test_outside_of_the_range_of_means(name, link):
    """-inf and not nan, so that a line search turns back; for y = 0 and y = trials too."""
    family = families.get(name, link)
    if len(domain(name, link)) == len(REAL) or name.startswith("beta") or name in REALS:
        pytest.skip("every eta has a mean")
    y, n = np.array(ROWS[name], float).T
    eta = 0.5 if name == "binomial" else -0.5
    if link == "sqrt":  # its mean has another eta, which is not a row's unless y = 0
        assert np.array_equal(family.density(y, jnp.full_like(y, eta), 0.7, n) == -np.inf, y > 0)
        return
    assert np.all(family.log_density(y, jnp.full_like(y, eta), 0.7, *([n] if family.has_trials else [])) == -np.inf)
    assert np.all(family.density(y, jnp.full_like(y, eta), 0.7, n) == -np.inf)


@pytest.mark.parametrize("name", ["binomial", "poisson", "nbinom1", "nbinom2", "betabinomial", "gaussian"])
def test_whole_numbers_as_integers(name):
    """Counts may come as integers: densities and gradients are those of the same numbers as floats."""
    family, y = families.get(name), np.arange(4)
    f = jax.value_and_grad(lambda eta, y, n: jnp.sum(full(family)(eta, y, 0.7, n)))
    for actual, expected in zip(f(0.3, y, 5), f(0.3, y.astype(float), 5.0), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-14)


# ---------------------------------------------------------------- deviance, starting values, support
@pytest.mark.parametrize("name", FAMILIES)
def test_unit_deviance(name):
    """The written formula, where there is one, agrees with the search for the best mean."""
    family, (mu, phi, _) = families.get(name), MODERATE[name]
    y, n = np.array(ROWS[name], float).T
    extras = EXTRAS.get(name, ())
    d = family.unit_deviance(y, np.full_like(y, mu), phi, n, *extras)
    searched = Family.unit_deviance(family, y, np.full_like(y, mu), phi, n, *extras)
    np.testing.assert_allclose(d, searched, rtol=1e-9, atol=1e-9)
    assert np.all(d >= 0)


@pytest.mark.parametrize("name", ["binomial", "poisson", "gamma", "inverse_gaussian", "nbinom2", "gaussian", "tweedie"])
def test_deviance_of_a_perfect_fit(name):
    family = families.get(name)
    y, n = np.array([1.0, 3.0, 7.0]), np.full(3, 10.0)
    np.testing.assert_allclose(family.unit_deviance(y, y / (n if family.has_trials else 1), 0.7, n), 0.0, atol=1e-14)


@pytest.mark.parametrize(("name", "link"), PAIRS)
def test_start(name, link):
    """Every y of the support gives a mean with a finite density."""
    family = families.get(name, link)
    y, n = np.array(ROWS[name], float).T
    mu = family.start_mu(y, n)
    assert isinstance(mu, np.ndarray) and mu.shape == y.shape
    eta = family.link.link(jnp.asarray(mu))
    assert np.isfinite(family.density(y, eta, 1.0, n, *EXTRAS.get(name, ()))).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_valid(name):
    family = families.get(name)
    y = np.array([-1.0, 0.0, 0.3, 1.0, 2.0, np.nan, np.inf])
    counts, positive = [0, 1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0, 0]
    expected = {"gamma": positive, "inverse_gaussian": positive, "beta": [0, 0, 1, 0, 0, 0, 0]}
    expected |= {
        "gaussian": [1, 1, 1, 1, 1, 0, 0],
        "student_t": [1, 1, 1, 1, 1, 0, 0],
        "tweedie": [0, 1, 1, 1, 1, 0, 0],
    }
    expected |= {name: [0, 0, 0, 1, 1, 0, 0] for name in FAMILIES if name.startswith("truncated")}
    assert isinstance(family.valid(y), np.ndarray)
    np.testing.assert_array_equal(family.valid(y), np.array(expected.get(name, counts), bool))


def test_starting_means_are_clipped():
    """A Gaussian y below zero has no logarithm: the average of the others starts it."""
    np.testing.assert_array_equal(families.Gaussian("log").start_mu(np.array([-1.0, 2.0, 4.0])), [3.0, 2.0, 4.0])
    np.testing.assert_array_equal(families.Gaussian("inverse").start_mu(np.array([-1.0, 0.0, 4.0])), [-1.0, 1.5, 4.0])
