"""Derivatives of a function of one number beside those to 50 digits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
from helpers import quick_jit

mp.mp.dps = 50
TINY = 1e-290  # below, double precision has no relative accuracy to offer


def jets(f, x, *args, order: int = 4) -> np.ndarray:
    """f, f', ..., each (n,), by x alone: forward mode, nested, batched and compiled."""

    def derived(f):
        return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))

    def tower(x, *args):
        g = lambda x: f(x, *args)  # noqa: E731
        for _ in range(order):
            g = derived(g)
        return g(x)

    def firsts(tree, k):
        """(f^(j), f^(j+1)) nested: f^(j) is found by taking the last j times."""
        for _ in range(order - k):
            tree = tree[0]
        for _ in range(k):
            tree = tree[1]
        return tree

    out = quick_jit(jax.vmap(tower))(jnp.asarray(x), *map(jnp.asarray, args))
    return np.array([firsts(out, k) for k in range(order + 1)])


def exact(f, x: float, order: int = 4) -> list[float]:
    """f, f', ..., f^(order + 1) of an mpmath function; what overflows is infinite."""
    coefficients = mp.taylor(f, mp.mpf(float(x)), order + 1, chop=False)
    return [float(mp.re(c) * mp.factorial(k)) for k, c in enumerate(coefficients)]


def errors(actual, expected, x=None) -> np.ndarray:
    """Errors (order + 1, n) relative to the derivative, or to the next one where it crosses zero.

    With x, also to those before, over powers of x: an algebraic function's derivatives are found from such terms.
    """
    expected = np.asarray(expected, float).T
    scale = np.abs(expected[:-1]) + np.abs(expected[1:]) + TINY
    if x is not None:
        for k in range(1, len(scale)):
            scale[k] += sum(np.abs(expected[k - j]) / x**j for j in range(1, k + 1))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(actual == expected[:-1], 0.0, np.abs(actual - expected[:-1]) / scale)


def assert_close(actual, expected, rtol, x=None, at=None, atol=0.0) -> None:
    """``atol`` is for the values, not for the derivatives."""
    e = errors(actual, expected, x)
    e[0, np.abs(actual[0] - np.asarray(expected)[:, 0]) <= atol] = 0.0
    worst = np.unravel_index(np.argmax(np.where(np.isnan(e), np.inf, e)), e.shape)
    where = "" if at is None else f" at {tuple(map(float, np.atleast_1d(at[worst[1]])))}"
    assert np.all(e < rtol), (
        f"derivative {worst[0]}{where}: {actual[worst]:.17g}, not {np.asarray(expected)[worst[1]][worst[0]]:.17g}; "
        f"errors by order {np.max(e, axis=1)}"
    )
