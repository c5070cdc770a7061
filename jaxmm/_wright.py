"""The series in the density of a Poisson sum of gamma variates, which no mean enters.

With p between 1 and 2, a = (2 - p) / (p - 1) and y^(2 - p) / φ = x = e^ℓ, the density of y > 0 where its mean is y
is e^S / y,

    S(ℓ, p) = log Σ_j z^j / (j! Γ(a j)) - x / ((p - 1) (2 - p)),    j = 1, 2, ..,
    log z = (ℓ - (2 - p) log(p - 1)) / (p - 1) - log(2 - p)

(Dunn & Smyth 2005, Statistics and Computing 15, 267-280; the sum is Wright's function).  The terms and what is taken
off are large where x is.  By Stirling's formula the difference is one of terms that are not: with J = x / (2 - p), near
which the largest term is, and D(log b) = b log b - b - log Γ(b),

    S = log Σ_j e^(t_j),    t_j = -j / (p - 1) (J / j - 1 - log(J / j)) + D(log(a j)) + D(log j) - log j.

The terms look like a normal density of variance (p - 1) J.  Those within e^-40 of the largest are summed; where the
first is not among these, COARSE of them at most, in steps that may be more than one, times the step: the trapezoidal
rule of a smooth function that vanishes at both ends, as exact as the sum.  For large x, unless p is so near 1 that
single terms stand out,

    S = log(x / 2π) / 2 + c_1 / x + c_2 / x² + ..,    c_k polynomials in (p - 1) (2 - p),

Stirling's series for p = 1 and p = 2: the integral of e^t by Laplace's method, its expansion in 1 / x.  Derivatives are
those of the logarithm of a sum, mean and covariance of the terms' derivatives.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxmm._special import expm1, expm1_excess, polynomial, stirling_density
from jaxmm._types import Array

DEPTH = 40.0
TERMS = 124  # at most: the first is among them up to J = 45
COARSE = 32
FAR = 40.0  # x from which on the series in 1 / x and its derivatives are exact to rounding
SMOOTH = 3.0  # variance of j from which on a sum over whole numbers is an integral, to e^(-2 π² 3)
# of c_1, .., c_7 in powers of (p - 1) (2 - p)
COEFFICIENTS = (
    (-1 / 12, -1 / 24),
    (0.0, -1 / 24, -1 / 48),
    (1 / 360, -7 / 1440, -17 / 288, -161 / 5760),
    (0.0, 1 / 80, -17 / 720, -41 / 288, -367 / 5760),
    (-1 / 1260, 11 / 3360, 20687 / 362880, -4081 / 34560, -33667 / 69120, -120257 / 580608),
    (0.0, -5 / 504, 47 / 1120, 167 / 567, -11627 / 17280, -37303 / 17280, -39793 / 45360),
    (
        1 / 1680, -2299 / 604800, -112927 / 1209600, 37288591 / 87091200, 4736191 / 2721600, -36479537 / 8294400,
        -81830645 / 6967296, -6389072441 / 1393459200,
    ),
)  # fmt: skip


def log_wright(ell, p):
    """S(ℓ, p), of the shape of ℓ and p together."""
    x, q = jnp.exp(ell), p - 1
    far = (x > FAR) & (x * q > SMOOTH * (1 - q))
    return jnp.where(far, _asymptotic(jnp.where(far, ell, math.log(FAR)), q), _near(jnp.where(far, -3.0, ell), p))


def _asymptotic(ell, q):
    r, v = jnp.exp(-ell), q * (1 - q)
    return 0.5 * (ell - math.log(2 * math.pi)) + r * polynomial(r, [polynomial(v, c) for c in COEFFICIENTS])


# ---------------------------------------------------------------- the sum
def _positions(J, q):
    """The first j, the step, and how many."""
    reach, tail = jnp.sqrt(2 * DEPTH * q * J), DEPTH * q / 3
    first = jnp.maximum(jnp.floor(J - reach), 1.0)
    width = jnp.maximum(J + tail + jnp.sqrt(tail**2 + reach**2), 2.0) - first
    begins = J - 1 - jnp.log(J) < DEPTH * q  # with a term that counts
    step = jnp.maximum(width / (jnp.where(begins | (J < 1), TERMS, COARSE) - 1), 1.0)
    count = jnp.minimum(jnp.ceil(width / step) + 1, TERMS)
    return first, step, jnp.where(count > 0, count, 0.0)  # where p is at an end, nothing is a number


def _stirling(z, order):
    """D and its first ``order`` derivatives."""
    found, f = [], stirling_density
    for _ in range(order + 1):
        found.append(f(z))
        f = partial(lambda f, z: jax.jvp(f, (z,), (jnp.ones_like(z),))[1], f)
    return found


def _term(j, ell, p, order) -> tuple[Array, list[Array], list[Array]]:
    """t_j, [∂ℓ, ∂p] of it, and [∂ℓℓ, ∂ℓp, ∂pp], as far as ``order`` goes."""
    q, u = p - 1, 2 - p
    log_j = jnp.log(j)
    rho = ell - jnp.log(u) - log_j  # log(J / j)
    D = _stirling(jnp.log(u) - jnp.log(q) + log_j, order)
    E, e = expm1_excess(rho), expm1(rho)
    t = -(j / q) * E + D[0] + stirling_density(log_j) - log_j
    if order == 0:
        return t, [], []
    by_ell, slope = -(j / q) * e, -1 / (u * q)
    by_p = (j / q) * (E / q - e / u) + D[1] * slope
    if order == 1:
        return t, [by_ell, by_p], []
    J = j * (e + 1)
    mixed = -(by_ell + J / u) / q
    twice = -2 * (j / q) * (E / q - e / u) / q - (J + j * e) / (q * u * u)
    twice = twice + D[2] * slope * slope + D[1] * (1 / (q * q) - 1 / (u * u))
    return t, [by_ell, by_p], [-J / q, mixed, twice]


def _sums(ell, p, order, fixed=False) -> list[Array]:
    """[S], or its derivatives of this order, 1 or 2; ``fixed``: in TERMS rounds, a loop that has derivatives itself."""
    ell, p = jnp.broadcast_arrays(jnp.asarray(ell), jnp.asarray(p))
    J, q = jax.lax.stop_gradient((jnp.exp(ell) / (2 - p), p - 1))
    first, step, count = _positions(J, q)
    top, level, _ = _term(jnp.maximum(J, 1.0), *jax.lax.stop_gradient((ell, p)), min(order, 1))

    def add(k, sums):
        t, firsts, seconds = _term(first + step * k, ell, p, order)
        w = jnp.where(k < count, jnp.exp(t - top), 0.0)
        firsts = [x - c for x, c in zip(firsts, level, strict=True)]
        if seconds:
            seconds = [d + x for d, x in zip(seconds, _products(firsts), strict=True)]
        return [s + w * x for s, x in zip(sums, [1.0, *firsts, *seconds], strict=True)]

    zeros = [jnp.zeros_like(ell)] * (1, 3, 6)[order]
    most = TERMS if fixed else jnp.max(count, initial=0).astype(int)
    total, *sums = jax.lax.fori_loop(0, most, add, zeros)
    if order == 0:
        return [top + jnp.log(total) + jnp.log(step)]
    means = [x / total for x in sums]
    if order == 1:
        return [x + c for x, c in zip(means, level, strict=True)]
    return [x - y for x, y in zip(means[2:], _products(means[:2]), strict=True)]


def _products(x):
    a, b = x
    return [a * a, a * b, b * b]


@jax.custom_jvp
def _bends(ell, p):
    return _sums(ell, p, 2)


_bends.defjvp(lambda primals, tangents: jax.jvp(partial(_sums, order=2, fixed=True), primals, tangents))


def _along(slopes, tangents):
    """The sum of slopes times tangents, without those that are no data's."""
    total = jnp.zeros_like(slopes[0])
    for slope, t in zip(slopes, tangents, strict=True):
        total = total if isinstance(t, SymbolicZero) else total + slope * t
    return total


@jax.custom_jvp
def _slopes(ell, p):
    return _sums(ell, p, 1)


@partial(_slopes.defjvp, symbolic_zeros=True)
def _(primals, tangents):
    ell, mixed, p = _bends(*primals)
    return _slopes(*primals), [_along([ell, mixed], tangents), _along([mixed, p], tangents)]


@jax.custom_jvp
def _near(ell, p):
    return _sums(ell, p, 0)[0]


@partial(_near.defjvp, symbolic_zeros=True)
def _(primals, tangents):
    return _near(*primals), _along(_slopes(*primals), tangents)
