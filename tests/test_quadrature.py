"""Adaptive Gauss-Hermite quadrature beside brute force: integrals over a dense grid, with densities from SciPy."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_laplace import Case, case, exact, lams_of
from helpers import central, close, quick_jit
from scipy import special
from test_laplace import LOG_DENSITY, MEAN, point_of

from jaxmm import costs
from jaxmm.families import FAMILIES
from jaxmm.objective import quadrature
from jaxmm.objective.mode import find_mode, zero_effects

pytestmark = pytest.mark.usefixtures("x64")


def value(psi, rows, n_agq):
    """Without derivatives in mind."""
    point = point_of(psi, rows)
    mode = find_mode(point, rows, zero_effects(rows))
    return quadrature.neg2_loglik(point, rows, mode.u, n_agq)


compiled = quick_jit(value, static_argnums=2)


@partial(quick_jit, static_argnums=(2, 3))
def derivatives(psi, rows, n_agq, order=4):
    """Gradient and Hessian, the mode once found; by expansions of the density, as a fit does, or directly."""
    mode = find_mode(point_of(psi, rows), rows, zero_effects(rows))

    def gradient(psi):
        g = jax.grad(lambda psi: quadrature.neg2_loglik(point_of(psi, rows), rows, mode.u, n_agq, order))(psi)
        return g, g

    return jax.jacfwd(gradient, has_aux=True)(psi)[::-1]


def brute_force(c: Case, reach: float, points: int) -> float:
    """-2 Σ log ∫ p(y_j | u) φ(u) du by the trapezoidal rule in each of the q directions."""
    (Z, codes), lam = c.terms[0], np.array(c.lams[0])
    q = Z.shape[1]
    axis = np.linspace(-reach, reach, points)
    u = np.stack(np.meshgrid(*[axis] * q, indexing="ij"), axis=-1).reshape(-1, q)
    eta = (c.X @ c.beta + c.offset)[:, None] + Z @ lam @ u.T
    phi = np.exp(c.log_phi[0]) if len(c.log_phi) else 1.0
    density = LOG_DENSITY[c.family](c.y[:, None], c.trials[:, None], MEAN[c.link](eta), phi)
    prior = -0.5 * np.sum(u**2, axis=1) - 0.5 * q * np.log(2 * np.pi) + q * np.log(axis[1] - axis[0])
    return -2 * sum(
        special.logsumexp(c.weights[codes == j] @ density[codes == j] + prior) for j in range(codes.max() + 1)
    )


@cache
def three_effects() -> Case:
    """(1 + x + z | g): three effects in each of three levels."""
    c, rng = case("poisson", "log", "slopes"), np.random.default_rng(6)
    Z = np.column_stack([c.X, rng.uniform(-1, 1, len(c.y))])
    theta = np.array([0.6, -0.2, 0.1, 0.4, 0.2, -0.3])
    changes = {"structure": "three effects", "terms": ((Z, c.terms[0][1]),), "theta": theta}
    return Case(**{**c.__dict__, **changes})


# family, link, structure, nodes, reach and points of the grid, accuracy
INTEGRALS = [
    ("binomial", "logit", "one factor", 41, 12.0, 1201, 1e-9),
    ("poisson", "log", "one factor", 41, 12.0, 1201, 1e-9),
    ("gamma", "log", "one factor", 41, 12.0, 1201, 1e-9),
    ("binomial", "logit", "slopes", 25, 9.0, 181, 1e-8),
    ("poisson", "log", "slopes", 25, 9.0, 181, 1e-8),
]


@pytest.mark.parametrize(("family", "link", "structure", "nodes", "reach", "points", "accuracy"), INTEGRALS)
def test_many_nodes_are_the_integral(family, link, structure, nodes, reach, points, accuracy):
    c = case(family, link, structure)
    expected = brute_force(c, reach, points)
    np.testing.assert_allclose(compiled(c.psi, c.rows(), nodes), expected, atol=accuracy)
    assert abs(exact(family, link, structure)[0] - expected) > 1e-3  # Laplace's method is not


def test_many_nodes_are_the_integral_over_three_effects():
    c = three_effects()
    np.testing.assert_allclose(compiled(c.psi, c.rows(), 11), brute_force(c, 7.0, 57), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    """In the value alone; the derivatives go the way of the density's."""
    c = case(family, FAMILIES[family].links[0])
    reach = 6.0 if family in ("gamma", "inverse_gaussian") else 12.0  # beyond, these links have no mean
    np.testing.assert_allclose(compiled(c.psi, c.rows(), 21), brute_force(c, reach, 1201), atol=2e-5)


# ---------------------------------------------------------------- one node
@pytest.mark.parametrize(("family", "link", "structure"), [i[:3] for i in INTEGRALS])
def test_one_node_is_laplace(family, link, structure, monkeypatch):
    """By the name, and by the formula."""
    c, (expected, gradient, hessian, _) = case(family, link, structure), exact(family, link, structure)
    np.testing.assert_allclose(compiled(c.psi, c.rows(), 1), expected, atol=1e-10)
    one = quadrature.nodes(1, c.terms[0][0].shape[1])
    monkeypatch.setattr(quadrature, "nodes", lambda n_agq, q: one)
    formula = quick_jit(lambda psi, rows: (value(psi, rows, 2), *derivatives.__wrapped__(psi, rows, 2)))
    actual = formula(c.psi, c.rows())
    np.testing.assert_allclose(actual[0], expected, atol=1e-10)
    close(actual[1], gradient, 1e-9)
    close(actual[2], hessian, 1e-9)


def test_nodes():
    """The rule integrates polynomials against exp(-z'z), the weights given as log w + z'z."""
    for n, q in ((1, 1), (4, 1), (5, 2), (3, 3)):
        z, log_w = quadrature.nodes(n, q)
        assert z.shape == (n**q, q) and log_w.shape == (n**q,)
        w = np.exp(log_w - np.sum(z**2, axis=1))
        np.testing.assert_allclose(np.sum(w), np.pi ** (q / 2))
        np.testing.assert_allclose(w @ z, 0, atol=1e-12)
        if n > 1:
            np.testing.assert_allclose((w[:, None] * z).T @ z, np.eye(q) * 0.5 * np.pi ** (q / 2), atol=1e-12)


# ---------------------------------------------------------------- derivatives and symmetries
@pytest.mark.parametrize(
    ("family", "link", "structure", "nodes"),
    [("binomial", "logit", "one factor", 7), ("nbinom2", "log", "one factor", 7), ("poisson", "log", "slopes", 4)],
)
def test_derivatives(family, link, structure, nodes):
    """Those of few nodes, not of the integral: how the nodes move with the mode and M counts."""
    c = case(family, link, structure)
    rows = c.rows()
    gradient, hessian = derivatives(c.psi, rows, nodes)
    close(gradient, central(lambda psi: compiled(psi, rows, nodes), c.psi, 2e-3), 1e-7)
    close(hessian, central(lambda psi: derivatives(psi, rows, nodes)[0], c.psi, 2e-3), 1e-7)
    close(hessian, np.transpose(hessian), 1e-12)


@pytest.mark.parametrize("structure", ["slopes", "three effects"])
def test_the_sign_of_a_column_of_lam_does_not_matter(structure):
    c = three_effects() if structure == "three effects" else case("nbinom2", "log", "slopes")
    rows, q = c.rows(), c.terms[0][0].shape[1]
    n = 4 if q == 2 else 3
    one, flipped = compiled(c.psi, rows, n), []
    for column in range(q):
        sign = lams_of(np.arange(len(c.theta)), [q])[0]
        theta = c.theta.copy()
        theta[[int(row[column]) for k, row in enumerate(sign) if k >= column]] *= -1
        flipped.append(compiled(np.concatenate([c.beta, theta, c.log_phi]), rows, n))
    np.testing.assert_allclose(flipped, float(one), rtol=1e-13)


def test_node_after_node(monkeypatch):
    """Where all nodes at once would take too much memory."""
    c = case("poisson", "log", "slopes")
    rows = c.rows()
    at_once = compiled(c.psi, rows, 4), *derivatives(c.psi, rows, 4)
    monkeypatch.setattr(costs, "NODES_AT_ONCE", 10)
    one_by_one = quick_jit(lambda psi, rows: (value(psi, rows, 4), *derivatives.__wrapped__(psi, rows, 4)))
    for a, b in zip(at_once, one_by_one(c.psi, rows), strict=True):
        close(b, a, 1e-12)


def test_more_nodes_converge():
    """The error of a binary response falls with every further node, and its first few are far better than Laplace's."""
    c = case("binomial", "logit")
    rows, expected = c.rows(), brute_force(c, 12.0, 1201)
    errors = [abs(float(compiled(c.psi, rows, n)) - expected) for n in (1, 3, 7, 21)]
    assert errors[1] < 0.2 * errors[0] and errors[2] < 0.1 * errors[1] and errors[3] < 1e-3 * errors[2]


@pytest.mark.parametrize("structure", ["nested", "crossed"])
def test_several_factors_are_refused(structure):
    c = case("poisson", "log", structure)
    with pytest.raises(ValueError, match="needs one grouping factor"):
        c.model(n_agq=3)
    with pytest.raises(ValueError, match="whole number from 1 to 200"):
        c.model(n_agq=0)


def test_levels_in_several_pieces():
    """One level with most of the rows: its sums are taken over several pieces."""
    rng = np.random.default_rng(7)
    sizes = np.array([40] + [1] * 79)
    codes = rng.permutation(np.repeat(np.arange(80), sizes))
    n = len(codes)
    c = case("binomial", "logit")
    X = np.column_stack([np.ones(n), rng.uniform(-1, 1, n)])
    trials = rng.integers(1, 6, n).astype(float)
    y = rng.binomial(trials.astype(int), 0.4).astype(float)
    changes = {"y": y, "trials": trials, "weights": np.ones(n), "offset": np.zeros(n), "X": X}
    skewed = Case(**{**c.__dict__, **changes, "terms": ((X[:, :1], codes),)})
    rows = skewed.rows()
    assert rows.main.level is not None
    np.testing.assert_allclose(compiled(c.psi, rows, 41), brute_force(skewed, 12.0, 1201), rtol=1e-11)


def test_constants():
    """theta = 0: the density itself, whatever the nodes."""
    c = case("poisson", "log")
    psi = jnp.asarray([*c.beta, 0.0])
    expected = -2 * c.weights @ LOG_DENSITY["poisson"](c.y, 1, np.exp(c.X @ c.beta + c.offset), 1)
    np.testing.assert_allclose(compiled(psi, c.rows(), 41), expected, rtol=1e-12)
