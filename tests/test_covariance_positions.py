"""Structures with a correlation for each lag or pair of neighbours, and those that know positions: by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmm as mm
from jaxmm import covariance
from jaxmm.covariance import STRUCTURES

POSITIONAL = [name for name, kind in STRUCTURES.items() if kind.positional]
TIMES = np.array([[0.0], [0.7], [1.0], [3.5]])
PLANE = np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 2.0], [0.3, 1.8]])


def decay(name: str, theta: np.ndarray, at: np.ndarray) -> np.ndarray:
    d = np.sqrt(np.sum((at[:, None] - at[None]) ** 2, axis=2))
    scaled = {"ou": d * np.exp(theta[1]), "exp": d / np.exp(theta[1]), "gau": (d / np.exp(theta[1])) ** 2}
    if name == "ar1":
        return theta[0] ** 2 * np.sin(theta[1]) ** d
    return theta[0] ** 2 * np.exp(-scaled[name])


@pytest.mark.parametrize(("name", "at"), [("ou", TIMES), ("exp", TIMES), ("exp", PLANE), ("gau", PLANE)])
def test_correlations_that_fall_with_a_distance(name, at):
    structure, theta = covariance.get(name, 4), np.array([1.7, 0.4])
    D = decay(name, theta, at)
    np.testing.assert_allclose(structure.covariance(theta, at), D, rtol=1e-9)
    lam = structure.lam(theta, at)
    np.testing.assert_allclose(lam @ lam.T, D, rtol=1e-9)
    np.testing.assert_allclose(structure.from_lower(lam, at), theta, rtol=1e-8)
    np.testing.assert_allclose(structure.from_factor(3.0 * lam, at), theta * [3, 1], rtol=1e-8)
    assert structure.free(1e3 * at).all()


@pytest.mark.parametrize("name", ["toep", "homtoep"])
def test_partial_autocorrelations(name):
    """Durbin and Levinson's recursion, against the solution of the equations of Yule and Walker."""
    q, rng = 5, np.random.default_rng(0)
    structure = covariance.get(name, q)
    theta = rng.normal(size=structure.num_params)
    D = structure.covariance(theta)
    sd = np.sqrt(np.diag(D))
    R, alpha = D / np.outer(sd, sd), theta[-(q - 1) :]
    for lag in range(1, q):
        np.testing.assert_allclose(np.diag(R, lag), R[0, lag], rtol=1e-12)
        phi = np.linalg.solve(R[:lag, :lag], R[0, 1 : lag + 1])
        assert phi[-1] == pytest.approx(np.sin(alpha[lag - 1]), rel=1e-9)
    named = structure.parameters(theta, [f"t{k}" for k in range(q)])
    np.testing.assert_allclose([named[f"rho{k}"] for k in range(1, q)], R[0, 1:], rtol=1e-12)
    expected = theta[:q] ** 2 if name == "toep" else np.full(q, abs(theta[0]))
    np.testing.assert_allclose(sd, expected, rtol=1e-12)
    assert ("sd ratio t1" in named) == (name == "toep")


def test_neighbours_alone():
    theta = np.array([1.0, 1.5, 0.5, 2.0, 0.3, -0.8, 1.2])
    D, sd, rho = covariance.get("ante", 4).covariance(theta), theta[:4] ** 2, np.sin(theta[4:])
    R = [[np.prod(rho[min(i, j) : max(i, j)]) for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(D, np.outer(sd, sd) * R, rtol=1e-12)
    inverse = np.linalg.inv(D)
    assert np.abs(inverse[np.abs(np.subtract.outer(np.arange(4), np.arange(4))) > 1]).max() < 1e-12


@pytest.mark.parametrize("alpha", [np.pi / 2, -np.pi / 2, 0.0])
@pytest.mark.parametrize("name", ["toep", "homtoep", "ante", "ar1"])
def test_ends_of_the_range_are_ordinary_points(name, alpha):
    """A correlation of 1, -1 and 0: D and its first two derivatives are finite, by theta and from lam."""
    structure = covariance.get(name, 4)
    theta = np.where(structure.scale_power > 0, 1.3, alpha)
    with jax.enable_x64(True):
        for f in (structure.covariance, lambda t: structure.lam(t) @ structure.lam(t).T):
            first, second = jax.jacfwd(f)(jnp.asarray(theta)), jax.hessian(f)(jnp.asarray(theta))
            assert np.isfinite(first).all() and np.isfinite(second).all() and np.any(first)
    D = structure.covariance(theta)
    np.testing.assert_allclose(D, structure.lam(theta) @ structure.lam(theta).T, atol=1e-14)
    np.testing.assert_allclose(np.abs(D / D[0, 0]), 1.0 if alpha else np.eye(4), atol=1e-14)
    assert not np.any(structure.covariance(0 * theta))
    back = structure.lam(structure.from_factor(structure.lam(theta)))
    np.testing.assert_allclose(back @ back.T, D, atol=1e-7)


@pytest.mark.parametrize("name", [name for name, kind in STRUCTURES.items() if kind(4).num_params])
def test_derivatives_and_scale(name):
    """Those of D by theta are those of finite differences; theta[0] with all that is a size makes D larger."""
    structure = covariance.get(name, 4)
    theta = np.random.default_rng(2).normal(0.8, 0.2, size=structure.num_params)
    with jax.enable_x64(True):
        J = np.asarray(jax.jacfwd(structure.covariance)(jnp.asarray(theta)))
    for k, e in enumerate(1e-6 * np.eye(len(theta))):
        numeric = (structure.covariance(theta + e) - structure.covariance(theta - e)) / 2e-6
        np.testing.assert_allclose(J[..., k], numeric, atol=1e-7)
    lam, dlam = structure.lam(theta), structure.derivative(theta)
    half = np.einsum("ik,mjk->ijm", lam, dlam)
    np.testing.assert_allclose(half + half.swapaxes(0, 1), J, atol=1e-10)
    power = structure.scale_power
    assert power[0] > 0
    scaled = theta * np.where(power > 0, 3.0 ** (2 / np.maximum(power, 1)), 1.0)
    np.testing.assert_allclose(structure.covariance(scaled), 9 * structure.covariance(theta), rtol=1e-12)


@pytest.mark.parametrize("name", POSITIONAL)
def test_some_of_the_positions(name):
    """Of any list of positions it is a part of the whole, of several lists at once too, at one theta and at several."""
    structure = covariance.get(name, 7)
    theta = np.array([1.3, -0.4, 0.9])[: structure.num_params]
    at = np.arange(7)[:, None] if structure.levels else np.random.default_rng(3).uniform(0, 5, (7, 2))
    at = np.sort(at[:, :1], axis=0) if structure.ordered else at
    whole = structure.covariance(theta, at)
    np.testing.assert_allclose(whole, structure.covariance(theta, at + 2), rtol=1e-12)
    if structure.levels:
        np.testing.assert_allclose(whole, structure.covariance(theta), rtol=1e-12)
    lists = np.array([[0, 1, 2], [1, 4, 6], [0, 3, 5], [2, 3, 6]])
    several = np.moveaxis(at[lists], 0, -1)
    parts = np.stack([whole[np.ix_(own, own)] for own in lists], axis=-1)
    np.testing.assert_allclose(structure.covariance(theta, several), parts, rtol=1e-12)
    with jax.enable_x64(True):
        compiled = jax.jit(structure.covariance)
        np.testing.assert_allclose(compiled(jnp.asarray(theta), jnp.asarray(several)), parts, rtol=1e-9)
        lanes = np.stack([theta, theta * [2, 1, 1][: len(theta)]], axis=-1)
        np.testing.assert_allclose(compiled(jnp.asarray(lanes), jnp.asarray(at)), whole[..., None] * [1, 4], rtol=1e-9)


def test_powers_of_no_correlation():
    """ρ^lag at ρ = 0, with lag 0 and 1, and of a negative ρ."""
    structure, at = covariance.get("ar1", 3), np.array([[0], [1], [3]])
    with jax.enable_x64(True):
        J = jax.jacfwd(structure.covariance)(jnp.array([1.0, 0.0]), jnp.asarray(at))
        np.testing.assert_allclose(J[..., 1], [[0, 1, 0], [1, 0, 0], [0, 0, 0]], atol=1e-15)
        D = structure.covariance(jnp.array([1.0, -0.5]), jnp.asarray(at))
    rho = np.sin(-0.5)
    np.testing.assert_allclose(D, [[1, rho, rho**3], [rho, 1, rho**2], [rho**3, rho**2, 1]], rtol=1e-12)


@pytest.mark.parametrize("name", ["ou", "exp", "gau"])
def test_effects_of_which_the_correlation_says_nothing(name):
    """Independent ones, and ones that are all the same, have a theta from which a search can go on."""
    structure = covariance.get(name, 4)
    for D in (np.eye(4), np.ones((4, 4)), np.zeros((4, 4))):
        theta = structure.from_factor(np.linalg.cholesky(D + 1e-14 * np.eye(4)), 10 * TIMES)
        assert np.isfinite(theta).all() and np.isfinite(structure.lam(theta, 10 * TIMES)).all()
        if D[0, 1] == 0 and D[0, 0] == 1:
            assert np.max(np.abs(structure.derivative(theta, 10 * TIMES)[1])) > 0.01


def test_names_of_what_they_say():
    theta = np.array([1.0, np.log(0.3)])
    assert covariance.get("ou", 3).parameters(theta, "abc") == {"rate": pytest.approx(0.3)}
    assert covariance.get("gau", 3).parameters(theta, "abc") == {"range": pytest.approx(0.3)}
    named = covariance.get("ante", 3).parameters(np.array([1.0, 2.0, 1.0, 0.5, 0.1]), "abc")
    assert set(named) == {"sd ratio a", "sd ratio b", "sd ratio c", "cor a.b", "cor b.c"}
    assert mm.covariance.get("toep", 1).parameters(np.ones(1), "a") == {}
