"""log Phi(x), the normal distribution function's logarithm, with four derivatives that keep their digits."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax.scipy.special import erfc

from jaxmm._special import derivatives

# ---------------------------------------------------------------- log Phi(x) and its derivatives
# Lower tail, t = -x: let I_n = ∫ (u - t)^n / n! phi(u) du over u > t, with I_-1 = phi(t), I_0 = Phi(x), and
# r_n = I_n / I_{n-1}.  From I_n' = -I_{n-1} and (n + 1) I_{n+1} = I_{n-1} - t I_n,
#     r_n = 1 / (t + (n + 1) r_{n+1})    (Laplace's continued fraction),
#     dr_n/dx = r_n e_n,                 e_n = (n + 1) r_{n+1} - n r_n > 0.
# With h = 1 / r_0 the derivatives of log Phi are
#     h,    -h r_1,    2 h r_1 (r_1 - r_2) = 2 h r_1^2 r_2 e_2,    the last times 2 e_1 - r_1 + e_2 + e_2' / e_2.
# All that would cancel has done so on paper.  Elsewhere, with h = phi / Phi and s = x + h:
#     h,    -h s,      h (s^2 + h s - 1),                          h (3 s + h - s (s^2 + 4 h s + h^2)).
# The fraction is run backwards without divisions, J_n = t^n I_n up to a factor: J_{n-1} = J_n + (n+1) J_{n+1} / t^2.
TAIL = -3.0  # where the two forms lose equally little
DEPTH = 56  # of the continued fraction: r_4 has converged for t > 3


def _ratios(t):
    """r_0, ..., r_4."""
    u = 1 / t
    w = u * u
    J = [jnp.zeros_like(t), jnp.ones_like(t)]  # J_n for n = DEPTH + 1, DEPTH, ..., -1
    for n in range(DEPTH, -1, -1):
        J.append(J[-1] + ((n + 1) * w) * J[-2])
    return [u * J[DEPTH + 1 - n] / J[DEPTH + 2 - n] for n in range(5)]


def _phi(x):
    return jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _mills(x):
    """h and s = x + h, not in the lower tail."""
    h = _phi(x) / (0.5 * erfc(-x / math.sqrt(2)))
    return h, x + h


def _split(lower, upper):
    """One function from its form in the lower tail, of t = -x, and its form elsewhere."""
    return lambda x: jnp.where(x < TAIL, lower(jnp.maximum(-x, -TAIL)), upper(jnp.maximum(x, TAIL)))


def _log_cdf_lower(t):
    return -0.5 * t * t - 0.5 * math.log(2 * math.pi) + jnp.log(_ratios(t)[0])


def _log_cdf_upper(x):
    tail = 0.5 * erfc(jnp.abs(x) / math.sqrt(2))
    return jnp.where(x > 0, jnp.log1p(-tail), jnp.log(tail))


def _d1_lower(t):
    return 1 / _ratios(t)[0]


def _d2_lower(t):
    r = _ratios(t)
    return -r[1] / r[0]


def _d3_lower(t):
    r = _ratios(t)
    return 2 * r[1] ** 2 * r[2] * (3 * r[3] - 2 * r[2]) / r[0]


def _d4_lower(t):
    r = _ratios(t)
    e1, e2, e3 = (k * r[k] - (k - 1) * r[k - 1] for k in (2, 3, 4))
    return _d3_lower(t) * (2 * e1 - r[1] + e2 + (3 * r[3] * e3 - 2 * r[2] * e2) / e2)


def _d2_upper(x):
    h, s = _mills(x)
    return -h * s


def _d3_upper(x):
    h, s = _mills(x)
    return h * (s * s + h * s - 1)


def _d4_upper(x):
    h, s = _mills(x)
    return h * (3 * s + h - s * (s * s + 4 * h * s + h * h))


log_cdf = derivatives(
    _split(_log_cdf_lower, _log_cdf_upper),
    _split(_d1_lower, lambda x: _mills(x)[0]),
    _split(_d2_lower, _d2_upper),
    _split(_d3_lower, _d3_upper),
    _split(_d4_lower, _d4_upper),
)
