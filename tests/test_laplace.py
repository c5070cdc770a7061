"""The conditional mode, and Laplace's -2 log-likelihood with its derivatives, beside oracles without JAX.

Every family with every link goes through the whole of ``laplace``, its gradient and its Hessian, and so does every
structure; the oracle has 60 digits (``exact_laplace``).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_laplace import CODES, POSITIVE, case, exact
from helpers import central, close, quick_jit
from scipy import optimize, special, stats
from test_families import tweedie_of_power

import jaxmm as mm
from jaxmm import costs
from jaxmm.families import FAMILIES
from jaxmm.links import LINKS, Link
from jaxmm.objective import mode as mode_module
from jaxmm.objective.laplace import laplace
from jaxmm.objective.mode import Point, find_mode, zero_effects
from jaxmm.objective.parameters import original_factors

pytestmark = pytest.mark.usefixtures("x64")


# ---------------------------------------------------------------- one program for all links of a family
class AnyOf(Link):
    """The link number ``index`` of ``names``: a number that a compiled program is given."""

    name = "any of several"
    __hash__ = object.__hash__

    def __init__(self, names, index):
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "index", index)

    def __eq__(self, other):
        return self is other

    def _of(self, what, *args):
        if len(self.names) == 1:
            return getattr(LINKS[self.names[0]], what)(*args)
        return jax.lax.switch(self.index, [getattr(LINKS[n], what) for n in self.names], *args)

    def link(self, mu):
        return self._of("link", mu)

    def allows(self, y, eta):
        each = [lambda y, eta, n=n: jnp.broadcast_to(LINKS[n].allows(y, eta), jnp.shape(eta)) for n in self.names]
        return jax.lax.switch(self.index, each, y, eta)

    def inverse(self, eta):
        return self._of("inverse", eta)

    def log_mu(self, eta):
        return self._of("log_mu", eta)

    def log_1m_mu(self, eta):
        return self._of("log_1m_mu", eta)

    def log_binomial(self, y, failures, eta):
        return self._of("log_binomial", y, failures, eta)


def point_of(psi, rows):
    """The point of psi = (beta, theta, log phi), in the columns of the data."""
    s = rows.structure
    ends = s.p, s.p + s.num_theta
    lams = original_factors(psi[ends[0] : ends[1]], rows)
    return Point(jnp.linalg.solve(rows.T_X, psi[: ends[0]]), lams, psi[ends[1] :])


@partial(quick_jit, static_argnums=(3, 4))
def _derivatives(psi, rows, index, links, order):
    rows = dataclasses.replace(rows, family=type(rows.family)(AnyOf(links, index)))
    mode = find_mode(point_of(psi, rows), rows, zero_effects(rows))

    def gradient(psi):
        value, g = jax.value_and_grad(lambda psi: laplace(point_of(psi, rows), rows, mode.u, order))(psi)
        return g, (value, g)

    hessian, (value, g) = jax.jacfwd(gradient, has_aux=True)(psi)
    return value, g, hessian, mode


def derivatives(psi, rows, order=4):
    """Value, gradient and Hessian at psi, and the mode that was found; by an expansion of the density, as a fit does,
    or with ``order`` None directly."""
    family, link = rows.family.name, rows.family.link.name
    alone = family in DEAR or rows.structure.num_theta > 1 or order is None
    links = (link,) if alone else FAMILIES[family].links
    rows = dataclasses.replace(rows, family=FAMILIES[family](links[0]))
    return jax.tree.map(np.asarray, _derivatives(jnp.asarray(psi), rows, links.index(link), links, order))


# a link of these takes as long to trace and compile as all links of another: the default run has the first
DEAR = ("beta", "betabinomial", "nbinom1")
PAIRS = [
    pytest.param(name, link, marks=[pytest.mark.slow] if name in DEAR and link != family.links[0] else [])
    for name, family in FAMILIES.items()
    for link in family.links
]
OF_THREE_KINDS = [("binomial", "cauchit"), ("gamma", "inverse"), ("nbinom2", "log")]


def assert_exact(family, link, structure, order=4):
    c, (value, gradient, hessian, modes) = case(family, link, structure), exact(family, link, structure)
    actual = derivatives(c.psi, c.rows(), order)
    assert actual[3].converged
    for found, mode in zip(actual[3].u, modes, strict=True):
        np.testing.assert_allclose(found, mode, rtol=0, atol=1e-9)
    np.testing.assert_allclose(actual[0], value, rtol=1e-12, atol=1e-11)
    close(actual[1], gradient, 1e-10)
    close(actual[2], hessian, 1e-10)


@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_every_family_and_link(family, link):
    assert_exact(family, link, "one factor")


@pytest.mark.parametrize("structure", [s for s in CODES if s != "one factor"])
@pytest.mark.parametrize(("family", "link"), OF_THREE_KINDS)
def test_every_structure(family, link, structure):
    assert_exact(family, link, structure)


@pytest.mark.parametrize(("structure", "order"), [("nested", None), ("crossed", 4)])
def test_many_rows(structure, order, monkeypatch):
    """From some number of rows on, what each row has is computed apart and kept; that changes nothing."""
    c, (value, gradient, hessian, _) = case("poisson", "log", structure), exact("poisson", "log", structure)
    monkeypatch.setattr(costs, "HELD_ROWS", 1)
    program = quick_jit(lambda psi, rows: _derivatives.__wrapped__(psi, rows, 0, ("log",), order))
    actual = program(c.psi, c.rows())
    np.testing.assert_allclose(actual[0], value, rtol=1e-12)
    close(actual[1], gradient, 1e-10)
    close(actual[2], hessian, 1e-10)


DIRECT = [pytest.param(f, marks=[] if f in ("binomial", "gamma", "nbinom2") else [pytest.mark.slow]) for f in FAMILIES]


@pytest.mark.parametrize("family", DIRECT)
def test_every_family_without_an_expansion(family):
    assert_exact(family, FAMILIES[family].links[0], "one factor", None)


# ---------------------------------------------------------------- by scipy: densities, and modes of larger data
MEAN = {
    "logit": special.expit,
    "probit": special.ndtr,
    "cloglog": lambda e: -np.expm1(-np.exp(e)),
    "cauchit": lambda e: np.arctan(e) / np.pi + 0.5,
    "log": np.exp,
    "identity": lambda e: e,
    "inverse": lambda e: 1 / e,
    "sqrt": np.square,
    "1/mu^2": lambda e: 1 / np.sqrt(e),
}
LOG_DENSITY = {
    "binomial": lambda y, n, mu, phi: stats.binom.logpmf(y, n, mu),
    "poisson": lambda y, n, mu, phi: stats.poisson.logpmf(y, mu),
    "gamma": lambda y, n, mu, phi: stats.gamma.logpdf(y, 1 / phi, scale=mu * phi),
    "inverse_gaussian": lambda y, n, mu, phi: stats.invgauss.logpdf(y, mu * phi, scale=1 / phi),
    "nbinom1": lambda y, n, mu, phi: stats.nbinom.logpmf(y, mu / phi, 1 / (1 + phi)),
    "nbinom2": lambda y, n, mu, phi: stats.nbinom.logpmf(y, phi, phi / (phi + mu)),
    "beta": lambda y, n, mu, phi: stats.beta.logpdf(y, mu * phi, (1 - mu) * phi),
    "betabinomial": lambda y, n, mu, phi: stats.betabinom.logpmf(y, n, mu * phi, (1 - mu) * phi),
    "gaussian": lambda y, n, mu, phi: stats.norm.logpdf(y, mu, np.sqrt(phi)),
    "tweedie": lambda y, n, mu, phi: tweedie_of_power(y, mu, phi),
}


@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_without_random_effects_it_is_the_density(family, link):
    """theta = 0: all constants are there, and the criterion is even, so flat, in theta."""
    c = case(family, link)
    psi = np.concatenate([c.beta, [0.0], c.log_phi])
    value, gradient, hessian, mode = derivatives(psi, c.rows())
    mu, phi = MEAN[link](c.X @ c.beta + c.offset), np.exp(c.log_phi[0]) if len(c.log_phi) else 1.0
    np.testing.assert_allclose(value, -2 * c.weights @ LOG_DENSITY[family](c.y, c.trials, mu, phi), rtol=1e-10)
    assert gradient[2] == 0 and np.all(mode.u[0] == 0) and mode.converged
    assert np.all(np.delete(hessian[2], 2) == 0) and np.all(np.isfinite(hessian))


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Rows and a point, for h(u) = -2 Σ w log p + u'u by scipy; u is flat, level by level, term by term."""

    family: str
    link: str
    y: np.ndarray
    X: np.ndarray
    terms: tuple
    psi: np.ndarray
    trials: np.ndarray

    def model_rows(self, **changes):
        terms = [mm.Term(Z, codes, f"g{k}") for k, (Z, codes) in enumerate(self.terms)]
        trials = {"trials": self.trials} if FAMILIES[self.family].has_trials else {}
        return mm.Model.from_arrays(self.y, self.X, terms, FAMILIES[self.family](self.link), **trials, **changes).arrays

    def h(self, u, lams):
        at, eta = 0, self.X @ self.psi[: self.X.shape[1]]
        for (Z, codes), lam in zip(self.terms, lams, strict=True):
            b = u[at : at + Z.shape[1] * (codes.max() + 1)].reshape(-1, Z.shape[1]) @ lam.T
            eta, at = eta + np.sum(Z * b[codes], axis=1), at + b.size
        phi = np.exp(self.psi[-1]) if FAMILIES[self.family].num_phi else 1.0
        with np.errstate(all="ignore"):
            value = u @ u - 2 * np.sum(LOG_DENSITY[self.family](self.y, self.trials, MEAN[self.link](eta), phi))
        return value if np.isfinite(value) else 1e300

    def minimum(self, lams):
        size = sum(Z.shape[1] * (codes.max() + 1) for Z, codes in self.terms)
        return optimize.minimize(self.h, np.zeros(size), (lams,), method="BFGS", options={"gtol": 1e-7})


def flat(u):
    return np.concatenate([np.asarray(x).T.ravel() for x in u])


find = quick_jit(lambda psi, rows, start: find_mode(point_of(psi, rows), rows, start))
SIZES = (1, 1, 2, 12, 8, 5, 3)  # rows of each level


def one_factor(family, link, beta, theta, log_phi=(), trials=1.0) -> Data:
    """Levels of very different sizes; responses spread more than the model expects."""
    rng = np.random.default_rng(4)
    codes = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    n = len(codes)
    X = np.column_stack([np.ones(n), rng.uniform(-0.3, 0.3, n)])
    mu = MEAN[link](X @ np.array(beta) + (0.3 if link in POSITIVE else 1.0) * rng.normal(size=len(SIZES))[codes])
    y = rng.binomial(int(trials), mu) if family == "binomial" else np.abs(mu) * rng.gamma(1.5, 1 / 1.5, n) + 0.01
    y = np.round(y) if family in ("poisson", "nbinom2") else y
    psi = np.concatenate([beta, [theta], log_phi])
    return Data(family, link, y.astype(float), X, ((X[:, :1], codes),), psi, np.full(n, float(trials)))


MODES = [
    ("binomial", "logit", (0.3, 1.0), 1.3, (), 3),
    ("binomial", "cauchit", (-2.0, 1.0), 1.5, (), 1),
    ("poisson", "log", (1.0, 1.0), 0.8, (), 1),
    ("gamma", "inverse", (1.0, 0.3), 0.3, (-1.0,), 1),
    ("gamma", "identity", (1.0, 0.3), 0.3, (-1.0,), 1),
]


@pytest.mark.parametrize("arguments", MODES, ids=lambda a: f"{a[0]}-{a[1]}")
def test_mode_is_the_minimum(arguments):
    """From zero, and from starts beyond all reason: where means overflow, are negative, or are no numbers at all."""
    data = one_factor(*arguments)
    rows, lams = data.model_rows(), [np.array([[data.psi[2]]])]
    best = data.minimum(lams)
    convex = data.link in ("logit", "log", "inverse")
    for start in (0.0, 1.0, -30.0, 1e3, -1e8, np.inf, np.nan):
        mode = find(data.psi, rows, (jnp.full((1, len(SIZES)), start),))
        assert mode.converged, start
        u = flat(mode.u)
        slope = central(lambda u: data.h(u, lams), u, 1e-3)
        np.testing.assert_allclose(slope, 0, atol=1e-6)
        if convex or start == 0:
            assert data.h(u, lams) < best.fun + 1e-9
            np.testing.assert_allclose(u, best.x, atol=1e-5)


def test_mode_of_slopes_and_of_crossed_factors():
    rng = np.random.default_rng(5)
    n = 40
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    g, h = rng.permutation(np.arange(n) % 6), rng.permutation(np.arange(n) % 4)
    y = rng.poisson(np.exp(0.5 + rng.normal(size=6)[g] + 0.5 * rng.normal(size=4)[h])).astype(float)
    theta, of_g, of_h = [0.8, -0.3, 0.4], np.array([[0.8, 0.0], [-0.3, 0.4]]), np.array([[0.9]])
    slopes = Data("poisson", "log", y, X, ((X, g),), np.array([0.5, 0.1, *theta]), np.ones(n))
    crossed = dataclasses.replace(slopes, terms=((X, g), (X[:, :1], h)), psi=np.array([0.5, 0.1, *theta, 0.9]))
    for data, lams in ((slopes, [of_g]), (crossed, [of_g, of_h])):
        rows, best = data.model_rows(), data.minimum(lams)
        for start in (0.0, 5.0, -300.0, np.nan):
            mode = find(data.psi, rows, tuple(jnp.full_like(u, start) for u in zero_effects(rows)))
            assert mode.converged
            assert data.h(flat(mode.u), lams) < best.fun + 1e-9
            np.testing.assert_allclose(flat(mode.u), best.x, atol=1e-5)


@pytest.mark.parametrize("theta", [0.0, 1e-8, -1.3, 1e3])
@pytest.mark.parametrize("what", ["none", "all", "none and all in turn", "a level without weight"])
def test_mode_where_levels_are_separated(what, theta):
    data = one_factor(*MODES[0])
    codes = data.terms[0][1]
    rows, psi = data.model_rows(), np.array([*data.psi[:2], theta])
    level = rows.spread(0, jnp.arange(float(len(SIZES))))
    if what == "a level without weight":
        rows = dataclasses.replace(rows, weights=rows.weights * (level != 3))
    else:
        all_of = {"none": np.zeros(7), "all": np.ones(7), "none and all in turn": np.arange(7) % 2}[what]
        rows = dataclasses.replace(rows, y=rows.spread(0, jnp.asarray(all_of)) * rows.trials)
        data = dataclasses.replace(data, y=all_of[codes] * data.trials)
    mode = find(psi, rows, zero_effects(rows))
    u = np.asarray(mode.u[0][0])
    assert mode.converged and np.all(np.isfinite(u))
    if theta == 0:
        assert np.all(u == 0)
    if what == "a level without weight":
        assert u[3] == 0
        return
    lams = [np.array([[theta]])]
    slope = central(lambda u: data.h(u, lams), u, 1e-3 if abs(theta) < 10 else 1e-4)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_mode_of_large_counts():
    """Counts of a million: h is of that size, and its changes near the minimum are rounding."""
    data = one_factor(*MODES[2])
    data = dataclasses.replace(data, y=np.round(data.y * 1e6) + 3)
    rows = data.model_rows()
    for beta in (1.0, 14.0):
        psi = np.array([beta, 1.0, 0.8])
        mode = find(psi, rows, zero_effects(rows))
        assert mode.converged
        # exact for one mean per level: Σy = Σ exp(fixed + theta u) + u / theta
        fixed, codes = data.X @ psi[:2], data.terms[0][1]
        u = np.asarray(mode.u[0][0])
        residual = np.bincount(codes, data.y - np.exp(fixed + 0.8 * u[codes])) - u / 0.8
        assert np.all(np.abs(residual) < 1e-9 * np.bincount(codes, data.y))


def test_mode_that_is_not_found_is_said(monkeypatch):
    data = one_factor(*MODES[0])
    rows = data.model_rows()
    assert not find(np.array([np.nan, 1.0, 1.0]), rows, zero_effects(rows)).converged
    monkeypatch.setattr(mode_module, "MAX_ITERATIONS", 2)
    early = quick_jit(lambda psi, rows, start: find_mode(point_of(psi, rows), rows, start))
    mode = early(data.psi, rows, zero_effects(rows))
    assert not mode.converged and mode.iterations == 2


def test_mode_in_single_precision():
    data = one_factor(*MODES[0])
    rows = data.model_rows()
    exact_mode = find(data.psi, rows, zero_effects(rows))
    single = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, rows)
    parameters, whole = mm.Parameters(data.psi[:2], data.psi[2:]), quick_jit(mm.neg2_loglik)
    with jax.enable_x64(False):
        mode = find(jnp.asarray(data.psi, jnp.float32), single, zero_effects(single))
        value = whole(parameters, single)
    assert mode.u[0].dtype == value.dtype == jnp.float32 and mode.converged
    np.testing.assert_allclose(mode.u[0], exact_mode.u[0], atol=1e-4)
    np.testing.assert_allclose(value, whole(parameters, rows), rtol=1e-5)


# ---------------------------------------------------------------- as a function of the data, and of many points
def test_derivatives_in_the_data():
    """By weights and offsets, through the mode: what the influence of a row is made of."""
    c = case("poisson", "log")
    rows = c.rows()

    def value(weights, offset):
        changed = dataclasses.replace(rows, weights=weights, offset=offset)
        point = point_of(jnp.asarray(c.psi), changed)
        return laplace(point, changed, find_mode(point, changed, zero_effects(changed)).u)

    compiled, shape = quick_jit(value), rows.y.shape
    gradients = quick_jit(jax.grad(value, (0, 1)))(rows.weights, rows.offset)
    weights, offset = rows.weights.ravel(), rows.offset.ravel()
    close(gradients[0].ravel(), central(lambda w: compiled(w.reshape(shape), rows.offset), weights, 1e-3), 1e-8)
    close(gradients[1].ravel(), central(lambda o: compiled(rows.weights, o.reshape(shape)), offset, 1e-3), 1e-8)
    shift = derivatives(c.psi, rows)[1][0]  # an offset for all is the intercept
    np.testing.assert_allclose(np.sum(gradients[1]), shift, rtol=1e-9)


def test_many_points_at_once():
    c = case("poisson", "log", "crossed")
    rows, psi = c.rows(), c.psi * np.linspace(0.5, 1.5, 4)[:, None]

    def value(psi):
        point = point_of(psi, rows)
        return laplace(point, rows, find_mode(point, rows, zero_effects(rows)).u)

    close(quick_jit(jax.vmap(value))(psi), [derivatives(x, rows)[0] for x in psi], 1e-12)
