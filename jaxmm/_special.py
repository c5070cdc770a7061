"""Special functions whose derivatives of any order are as accurate as their values.

Automatic differentiation of an accurate formula is not accurate: 1 - p, log1p(w) - w and log Gamma(a + y) -
log Gamma(a) cancel, and what they lose grows with the order.  Each function below states its derivative as a
formula of its own, made of terms that do not cancel, and JAX differentiates that one.  Nothing here calls lgamma
or polygamma of XLA, which are slow to compile.

    softplus(x)              log(1 + e^x)                    with sigmoid as derivative
    logaddexp(x, z)          log(e^x + e^z)
    softplus_excess(x)       softplus(x) - sigmoid(x)
    scaled_softplus(x, b)    e^b log(1 + e^(x - b)),         b -> oo: e^x
    log_softplus_excess(x)   log(softplus(x) / e^x)
    expm1_excess(r)          e^r - 1 - r
    log1p_excess(v)          v - log(1 + v)
    relative_entropy(r)      r e^r - e^r + 1
    log_gamma(x)             log Gamma(x)                    for x > 0
    stirling_density(la)     a log a - a - log Gamma(a)      for a = e^la
    log_rising(a, y)         log Gamma(a + y) - log Gamma(a)
    rising_excess(la, y)     the same - y log a,             a -> oo: y (y - 1) / (2 a)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


def bernoulli(n: int) -> list[Fraction]:
    """B_0, ..., B_n (B_1 = -1/2), exactly."""
    B = [Fraction(1)]
    for m in range(1, n + 1):
        B.append(-sum((math.comb(m + 1, k) * B[k] for k in range(m)), Fraction(0)) / (m + 1))
    return B


def polynomial(x, coefficients):
    """The sum of coefficients[k] x^k."""
    out = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        out = out * x + c
    return out


def derivatives(*functions: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The first function of one argument, with the next as its derivative, and so on; JAX derives the last."""
    *above, f = map(jax.jit, functions)  # traced once for each shape, however often they are met
    for g in reversed(above):
        f = _differentiated(g, f)
    return f


def _differentiated(f, df):
    f = jax.custom_jvp(f)
    f.defjvps(lambda t, value, x: df(x) * t)
    return f


def times(y, x):
    """y x, where 0 times -inf is 0: what did not happen may have had probability zero."""
    return jnp.where((y == 0) & (x == -jnp.inf), 0.0, y * x)


# ---------------------------------------------------------------- exponentials
@jax.custom_jvp
def sigmoid(x):
    """1 / (1 + e^-x), to relative accuracy in both tails, and so are its derivatives: p' = p (1 - p).

    Through e^-|x| like ``softplus``, so that a compiled program has one exponential for both and their derivatives.
    """
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x < 0, e, 1.0) / (1 + e)


sigmoid.defjvps(lambda t, p, x: p * sigmoid(-x) * t)  # pyright: ignore


def _log1p_to_1(e):
    """log(1 + e) = 2 artanh(e / (2 + e)) for 0 <= e <= 1, three times as fast as XLA's log1p on a CPU."""
    s = e / (2 + e)
    return 2 * s * polynomial(s * s, [1 / (2 * k + 1) for k in range(17)])


softplus = derivatives(lambda x: jnp.maximum(x, 0) + _log1p_to_1(jnp.exp(-jnp.abs(x))), sigmoid)


@jax.custom_jvp
def logaddexp(x, z):
    """log(e^x + e^z); the derivatives sigmoid(x - z) and sigmoid(z - x) never come from 1 - p."""
    return jnp.maximum(x, z) + _log1p_to_1(jnp.exp(-jnp.abs(x - z)))


logaddexp.defjvps(
    lambda t, value, x, z: sigmoid(x - z) * t,
    lambda t, value, x, z: sigmoid(z - x) * t,
)

expm1 = derivatives(jnp.expm1, jnp.exp)  # JAX's own derivative is expm1 + 1: nothing left of it at -40


def _expm1_excess(r):
    small = jnp.clip(r, -0.5, 0.5)
    series = small * small * polynomial(small, [1 / math.factorial(k) for k in range(2, 18)])
    return jnp.where(jnp.abs(r) < 0.5, series, jnp.expm1(r) - r)


expm1_excess = derivatives(_expm1_excess, expm1)
relative_entropy = derivatives(lambda r: r * jnp.expm1(r) - _expm1_excess(r), lambda r: r * jnp.exp(r))


def _log1p_excess(v):
    """log(1 + v) = 2 artanh p with p = v / (2 + v), and v - 2 p = v p."""
    small = jnp.clip(v, -0.5, 0.5)
    p = small / (2 + small)
    series = p * (small - 2 * p * p * polynomial(p * p, [1 / (2 * k + 3) for k in range(15)]))
    return jnp.where(jnp.abs(v) < 0.5, series, v - jnp.log1p(v))


log1p_excess = derivatives(_log1p_excess, lambda v: v / (1 + v), lambda v: 1 / (1 + v) ** 2)


def _softplus_excess(x):
    """With p = sigmoid(x): -log(1 - p) - p."""
    return jnp.where(x < -1, _log1p_excess(-sigmoid(jnp.minimum(x, -1.0))), softplus(x) - sigmoid(x))


softplus_excess = derivatives(_softplus_excess, lambda x: sigmoid(x) ** 2)


def _log_softplus_excess(x):
    """With w = e^x: log(1 + w) / w = 1 - (w - log(1 + w)) / w."""
    w = jnp.maximum(jnp.exp(jnp.minimum(x, 0.0)), jnp.finfo(jnp.result_type(float)).tiny)
    return jnp.where(x < 0, jnp.log1p(-_log1p_excess(w) / w), jnp.log(softplus(jnp.maximum(x, 0.0))) - x)


# With p = sigmoid(x), q = 1 - p, S = softplus(x), k = p / S and R = softplus_excess(x) / S the first derivative is -R:
#     R' = k (p - R),    k' = k (q - k),    (p - R)' = p q - k (p - R).
def _of_log_softplus(x):
    S, p = softplus(x), sigmoid(x)
    return p, sigmoid(-x), p / S, softplus_excess(x) / S


def _log_softplus_excess_2(x):
    p, _, k, R = _of_log_softplus(x)
    return -k * (p - R)


def _log_softplus_excess_3(x):
    p, q, k, R = _of_log_softplus(x)
    return -k * ((q - 2 * k) * (p - R) + p * q)


def _log_softplus_excess_4(x):
    p, q, k, R = _of_log_softplus(x)
    D = p - R
    within = (q - k) * ((q - 2 * k) * D + p * q) - (p * q + 2 * k * (q - k)) * D
    return -k * (within + (q - 2 * k) * (p * q - k * D) + p * q * (q - p))


log_softplus_excess = derivatives(
    _log_softplus_excess,
    lambda x: -_of_log_softplus(x)[3],
    _log_softplus_excess_2,
    _log_softplus_excess_3,
    _log_softplus_excess_4,
)


@jax.custom_jvp
def scaled_softplus(x, b):
    """e^b log(1 + e^(x - b))."""
    return jnp.exp(b) * softplus(x - b)


scaled_softplus.defjvps(
    lambda t, value, x, b: jnp.exp(b) * sigmoid(x - b) * t,
    lambda t, value, x, b: jnp.exp(b) * softplus_excess(x - b) * t,
)

# ---------------------------------------------------------------- the gamma function
# Gamma(x) = Gamma(x + 8) / (x (x + 1) ... (x + 7)), and for X = x + 8 the series of Stirling has converged:
#     log Gamma(X) = (X - 1/2) log X - X + log(2 pi) / 2 + s(X),    s(X) = sum_k B_2k / (2k (2k - 1) X^(2k - 1)).
# There is one formula for all x > 0, so nothing to select and no seam.  Of what derives from it the first four
# derivatives are written out: left to JAX, the product rule in eight factors is slow to compile, and to run.
SHIFT = 8
TERMS = 10
LOG_SHIFT = math.log(SHIFT)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_B = bernoulli(2 * TERMS)
# of s and its first four derivatives, in powers of 1 / X^2
STIRLING = [
    [float((-1) ** m * math.perm(2 * k - 2 + m, m) * _B[2 * k] / (2 * k * (2 * k - 1))) for k in range(1, TERMS + 1)]
    for m in range(5)
]


def _s(X, m=0):
    """The m-th derivative of s; in powers of 1 / X, whose derivatives stay in the range of single precision."""
    r = 1 / X
    return polynomial(r * r, STIRLING[m]) * r ** (m + 1)


def _product(x):
    """(x + 1) ... (x + 7) / (x + 8)^7, between 0.002 and 1."""
    r = 1 / (x + SHIFT)
    out = (x + 1) * r
    for k in range(2, SHIFT):
        out = out * ((x + k) * r)
    return out


def _log_gamma(x):
    X = x + SHIFT
    return (x - 0.5) * jnp.log(X) - X + HALF_LOG_2PI + _s(X) - jnp.log(x / X) - jnp.log(_product(x))


def digamma(x):
    """The derivative of ``log_gamma``."""
    X = x + SHIFT
    return jnp.log(X) - 0.5 / X + _s(X, 1) - sum(1 / (x + k) for k in range(SHIFT))


log_gamma = derivatives(_log_gamma, digamma)


# Functions of a are differentiated by la = log a, by T = a d/da.
def _exp(la):
    """e^la, held where its powers are finite: beyond, the functions below have reached their limits."""
    limit = math.log(jnp.finfo(la.dtype).max) / 4.7
    return jnp.exp(jnp.clip(la, -limit, limit))


POWERS = {1: (1,), 2: (1, 1), 3: (1, 3, 1), 4: (1, 7, 6, 1)}  # T^j = sum_m POWERS[j][m - 1] a^m (d/da)^m


def _by_log(a, D):
    """T^j f from the first j derivatives of f."""
    return a * polynomial(a, [c * d for c, d in zip(POWERS[len(D)], D, strict=True)])


def _logistic(p, q, j):
    """T^j p for p = k / (a + k) and q = a / (a + k) = 1 - p."""
    if j == 0:
        return p
    return -p * q * (1, p - q, (p - q) ** 2 - 2 * p * q)[j - 1]


# a log a - a - log Gamma(a), with A = a + 8 and a log(a / A) = -a w where w = log(1 + 8 / a):
#     8 - a w + log(A) / 2 - log(2 pi) / 2 - s(A) - w + the sum of log((a + k) / A) over 1 <= k < 8
def _stirling_density(la):
    a = _exp(la)
    A = a + SHIFT
    w = softplus(LOG_SHIFT - la)
    return SHIFT - a * w + 0.5 * jnp.log(A) - HALF_LOG_2PI - _s(A) - w + jnp.log(_product(a))


def _stirling_density_slope(la):
    a = _exp(la)
    A = a + SHIFT
    ratios = sum((SHIFT - k) * a / (a + k) for k in range(1, SHIFT))
    return 0.5 + (0.5 * SHIFT + ratios) / A - a * (softplus_excess(LOG_SHIFT - la) + _s(A, 1))


def _stirling_density_derivative(j):
    """T^j for j > 1.  Since T w = -p, T (-a w) = -a (w - p), and -a (w - p - ...) with the terms below from then on."""

    def derivative(la):
        a = _exp(la)
        A = a + SHIFT
        p, q = SHIFT / A, a / A
        w = softplus_excess(LOG_SHIFT - la) - (p * p, 2 * p**3, p * p + p**3 * (2 - 6 * q))[j - 2]
        factors = sum(_logistic(k / (a + k), a / (a + k), j - 1) for k in range(1, SHIFT))
        return 7.5 * _logistic(p, q, j - 1) - factors - a * w - _by_log(a, [_s(A, m) for m in range(1, j + 1)])

    return derivative


stirling_density = derivatives(
    _stirling_density, _stirling_density_slope, *(_stirling_density_derivative(j) for j in (2, 3, 4))
)


# log Gamma(a + y) - log Gamma(a) - y log a, with A = a + 8 and v = y / A: from the formula of log Gamma,
#     y log(A / a) + (A + y) log(1 + v) - y - log(1 + v) / 2 + s(A + y) - s(A)
# less the logarithms of (a + k + y) / (a + k), k < 8; among these, log(1 + y / a) is finite for any e^la.
def _rising_excess(la, y):
    a = _exp(la)
    A = a + SHIFT
    v = y / A
    smooth = (y - 0.5 - (SHIFT - 1)) * jnp.log1p(v) - A * _log1p_excess(v) + _s(A + y) - _s(A)
    shifted = y * softplus(LOG_SHIFT - la) - softplus(jnp.log(y) - la)
    return shifted + smooth - jnp.log(_product(a + y) / _product(a))


def _rising_excess_derivative(j):
    """T^j.  With x = 1 / (a + k), z = 1 / (a + k + y) the m-th derivative of log(x / z) is a multiple of

        x^m - z^m = d (x^(m-1) + x^(m-2) z + ... + z^(m-1)),    d = x - z = y x z,

    and those of (A + y) log(1 + y / A) - y, where x = 1 / A, have y x d as a factor from the second on.
    """

    def derivative(la, y):
        a = _exp(la)
        A = a + SHIFT
        differences = [0.0] * j
        for k in range(1, SHIFT + 1):
            x, z = 1 / (a + k), 1 / (a + k + y)
            d = y * x * z * (1 if k < SHIFT else 0.5)
            terms = (1, x + z, x * x + x * z + z * z, (x + z) * (x * x + z * z))
            differences = [before + d * terms[m] for m, before in enumerate(differences)]
        x, z = 1 / A, 1 / (A + y)
        entropy = [-log1p_excess(y * x)]
        entropy += [y * x * (y * x * z) * c for c in (1, -(2 * x + z), 2 * (3 * x * x + 2 * x * z + z * z))]
        D = [
            (-1) ** (m - 1) * math.factorial(m - 1) * differences[m - 1] + entropy[m - 1] + _s(A + y, m) - _s(A, m)
            for m in range(1, j + 1)
        ]
        first = _logistic(y / (a + y), a / (a + y), j - 1) - y * _logistic(SHIFT / A, a / A, j - 1)
        return first + _by_log(a, D)

    return derivative


def _by_y(f):
    return lambda la, y: jax.jvp(lambda y: f(la, y), (y,), (jnp.ones_like(y),))[1]


def _with_slopes(value, slope_la, slope_y):
    """A function of (la, y) with its two derivatives; y is data as a rule, and then costs nothing."""

    def rule(primals, tangents):
        out = f(*primals)
        tangent = jnp.zeros_like(out)
        for slope, t in zip((slope_la, slope_y), tangents, strict=True):
            if not isinstance(t, SymbolicZero):
                tangent = tangent + slope(*primals) * t
        return out, tangent

    f = jax.custom_jvp(jax.jit(value))
    f.defjvp(rule, symbolic_zeros=True)
    return f


_rising = jax.jit(_rising_excess_derivative(4))
for _j in (3, 2, 1):
    _rising = _with_slopes(_rising_excess_derivative(_j), _rising, _by_y(_rising_excess_derivative(_j)))
_rising = _with_slopes(_rising_excess, _rising, lambda la, y: digamma(_exp(la) + y) - la)


def rising_excess(la, y):
    """``log_rising(a, y) - y log a`` for a = e^la: the sum of log(1 + k / a) over k < y."""
    return _rising(la, y)


def log_rising(a, y):
    """log Gamma(a + y) - log Gamma(a) for a > 0, y >= 0: the logarithm of a (a + 1) ... (a + y - 1)."""
    la = jnp.log(a)
    return y * la + _rising(la, y)
