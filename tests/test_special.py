"""Special functions and their derivatives to order four against mpmath."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from accuracy import assert_close, exact, jets

from jaxmm import _special as sp

pytestmark = pytest.mark.usefixtures("x64")

ETA = np.concatenate([np.linspace(-40, 40, 33), [-1.001, -0.999, -0.1, -1e-6, 1e-9, 0.3, 0.7, 250.0, -250.0]])
SHAPES = np.array([1e-15, 1e-8, 1e-3, 0.1, 0.5, 1.0, 2.0, 3.7, 8.0, 25.0, 1e3, 1e6, 1e10, 1e15])


def softplus(x):
    return mp.log1p(mp.exp(x))


FUNCTIONS = {
    "sigmoid": (sp.sigmoid, lambda x: 1 / (1 + mp.exp(-x)), ETA, 1e-14),
    "softplus": (sp.softplus, softplus, ETA, 1e-14),
    "softplus_excess": (sp.softplus_excess, lambda x: softplus(x) - 1 / (1 + mp.exp(-x)), ETA, 1e-14),
    "log_softplus_excess": (sp.log_softplus_excess, lambda x: mp.log(softplus(x)) - x, ETA, 1e-12),
    "expm1": (sp.expm1, mp.expm1, ETA, 1e-14),
    "expm1_excess": (sp.expm1_excess, lambda r: mp.expm1(r) - r, ETA, 1e-14),
    "relative_entropy": (sp.relative_entropy, lambda r: r * mp.exp(r) - mp.expm1(r), ETA, 1e-14),
    "log1p_excess": (sp.log1p_excess, lambda v: v - mp.log1p(v), np.append(SHAPES, [-0.3, -0.6, -0.9]), 1e-14),
    "log_gamma": (sp.log_gamma, mp.loggamma, SHAPES, 1e-13),
    "stirling_density": (
        sp.stirling_density,
        lambda la: mp.exp(la) * la - mp.exp(la) - mp.loggamma(mp.exp(la)),
        np.linspace(-40, 40, 41),
        2e-12,
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_number(name):
    f, reference, x, rtol = FUNCTIONS[name]
    with mp.workdps(60 if name in ("log_gamma", "stirling_density") else 350):
        expected = [exact(reference, v) for v in x]
    assert_close(jets(f, x), expected, rtol, at=x)


def grid(a, y):
    return (m.ravel() for m in np.meshgrid(a, y))


COUNTS = np.array([1.0, 2.0, 5.0, 40.0, 1e3, 1e6])


def test_log_rising():
    nothing = jets(sp.log_rising, SHAPES, np.zeros_like(SHAPES))
    assert np.all(np.abs(nothing) * SHAPES ** np.arange(5)[:, None] < 1e-13)
    a, y = grid(SHAPES, COUNTS)
    with mp.workdps(80):
        expected = [exact(lambda v, n=n: mp.loggamma(v + n) - mp.loggamma(v), m) for m, n in zip(a, y, strict=True)]
    assert_close(jets(sp.log_rising, a, y), expected, 1e-13, x=a, at=list(zip(a, y, strict=True)))


def test_log_rising_by_the_count():
    a, y = grid(SHAPES, [1e-8, 0.3, 2.0, 1e3])
    with mp.workdps(80):
        expected = [exact(lambda n, v=v: mp.loggamma(n + v) - mp.loggamma(v), n) for v, n in zip(a, y, strict=True)]
    swapped = jets(lambda y, a: sp.log_rising(a, y), y, a)
    assert_close(swapped, expected, 1e-13, x=np.maximum(a, y), at=list(zip(a, y, strict=True)))
    assert np.isfinite(jax.grad(sp.log_rising, 1)(2.0, 0.0))


def test_rising_excess():
    """The sum of log(1 + k / a): to 1e-15 in value, relatively in its derivatives up to the limit a -> oo."""
    la, y = grid(np.linspace(-40, 30, 15), [0.0, 1.0, 2.0, 5.0, 40.0, 1000.0])
    expected = []
    with mp.workdps(100):
        for v, n in zip(la, y, strict=True):
            f = lambda v, n=n: mp.loggamma(mp.exp(v) + n) - mp.loggamma(mp.exp(v)) - n * v  # noqa: E731
            expected.append(exact(f, v))
    actual, expected = jets(sp.rising_excess, la, y), np.array(expected)
    np.testing.assert_allclose(actual[0], expected[:, 0], rtol=1e-14, atol=1e-14)
    few = y < 2  # empty sums: zero up to the rounding of terms of the size y / a
    assert np.all(np.abs(actual[1:, few]) < 1e-13 * np.minimum(1, 16 * np.exp(-la[few])))
    actual[0] = expected[:, 0]
    assert_close(actual[:, ~few], expected[~few], 1e-12, at=list(zip(la[~few], y[~few], strict=True)))


def test_far_beyond_the_limits():
    """Shapes that underflow or overflow: values still right, derivatives finite."""
    la = np.array([-800.0, -300.0, 300.0, 800.0])
    for y in (0.0, 1.0, 7.0):
        d = jets(sp.rising_excess, la, np.full(4, y))
        assert np.isfinite(d).all()
        limit = (1 - y) * la[:2] + float(mp.loggamma(y)) if y else np.zeros(2)
        np.testing.assert_allclose(d[0, :2], limit, rtol=1e-13, atol=1e-12)
        np.testing.assert_allclose(d[1, :2], 1 - y if y else 0.0, atol=1e-13)
        np.testing.assert_allclose(d[:, 2:], 0.0, atol=1e-40)
    d = jets(sp.stirling_density, la)
    np.testing.assert_allclose(d[0, :2], la[:2], rtol=1e-14)
    np.testing.assert_allclose(d[1], [1, 1, 0.5, 0.5], rtol=1e-13)
    assert np.isfinite(d).all()


@pytest.mark.parametrize("of", ["x", "b", "both"])
def test_scaled_softplus(of):
    """Each derivative of e^b log(1 + e^(x - b)) by one argument, and along the line where both grow."""
    x, b = grid([-30.0, -3.0, 0.5, 4.0, 30.0], [-20.0, -1.0, 0.0, 3.0, 25.0])
    moves = {"x": (1, 0), "b": (0, 1), "both": (1, 1)}[of]

    def moved(t, x, b, f):
        return f(x + moves[0] * t, b + moves[1] * t)

    expected = []
    for u, v in zip(x, b, strict=True):
        f = lambda u, v: mp.exp(v) * mp.log1p(mp.exp(u - v))  # noqa: E731
        expected.append(exact(lambda t, u=u, v=v, f=f: moved(t, u, v, f), 0.0))
    actual = jets(lambda t, x, b: moved(t, x, b, sp.scaled_softplus), np.zeros_like(x), x, b)
    assert_close(actual, expected, 1e-13)


def test_logaddexp():
    x, z = grid([-30.0, -3.0, 0.5, 4.0, 30.0], [-20.0, -1.0, 0.0, 3.0, 25.0])
    expected = [exact(lambda u, v=v: mp.log(mp.exp(u) + mp.exp(v)), u) for u, v in zip(x, z, strict=True)]
    assert_close(jets(sp.logaddexp, x, z), expected, 1e-14)
    assert_close(jets(lambda x, z: sp.logaddexp(z, x), x, z), expected, 1e-14)


def test_bernoulli_numbers():
    assert [float(b) for b in sp.bernoulli(30)[1:]] == [float(mp.bernoulli(n)) for n in range(1, 31)]


def test_reverse_mode_agrees():
    """Gradients of Hessian-vector products, as the fit takes them."""
    la, y = jnp.linspace(-5, 5, 7), jnp.arange(7.0)

    def f(la):
        return jnp.sum(sp.rising_excess(la, y) + sp.stirling_density(la) + sp.scaled_softplus(la, 1.0))

    hessian_vector = jax.jvp(jax.grad(f), (la,), (jnp.ones(7),))[1]
    elementwise = lambda la, y: sp.rising_excess(la, y) + sp.stirling_density(la) + sp.scaled_softplus(la, 1.0)  # noqa: E731
    np.testing.assert_allclose(hessian_vector, jets(elementwise, la, y)[2], rtol=1e-12)


def test_single_precision():
    la, y = jnp.linspace(-15, 15, 9, dtype=jnp.float32), jnp.arange(9, dtype=jnp.float32)
    for f in (sp.rising_excess, lambda la, y: sp.stirling_density(la), lambda la, y: sp.softplus(la)):
        single = jets(f, la, y)
        assert single.dtype == np.float32
        double = jets(f, la.astype(float), y.astype(float))
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4)
