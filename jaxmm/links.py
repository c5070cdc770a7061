"""Links: eta = g(mu), the mean of a response on the scale of the linear predictor.

A link is one small class.  ``link`` and ``inverse`` define it; families work with ``log_mu`` and ``log_1m_mu``,
which follow from ``inverse`` and are written out where the logarithm of a rounded mean would have lost the tail:
values and derivatives of any order are then right for every eta.  Where eta has no mean inside the family's range
(eta < 0 under ``identity``, when means are positive), both are nan, which ``Family.density`` takes for -inf; so it does
where ``allows`` says so.

    name      mu                      name       mu             name        mu
    logit     1 / (1 + exp(-eta))     log        exp(eta)       inverse     1 / eta
    probit    Phi(eta)                identity   eta            1/mu^2      eta^(-1/2)
    cloglog   1 - exp(-exp(eta))      sqrt       eta^2
    cauchit   1/2 + arctan(eta) / pi

What a response varies about its mean, on the scale of eta, is ``Link.spreads``: by the delta method V(y) g'(mu)^2, and
where the link knows better by that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import erfc, ndtri, polygamma

from jaxmm._normal import log_cdf
from jaxmm._special import bernoulli, derivatives, expm1, polynomial, sigmoid, softplus, times


@dataclass(frozen=True)
class Link:
    """What a link supplies: ``name``, ``link`` and ``inverse``.  Instances are hashable.

    ``called``: what eta is called in words, where that is not the name, as "log odds"; ``spoken`` is either.

    ``unit_free``: eta has no unit, as a logit or a logarithm has none, so that 20 is far out whatever the data are.
    ``latent_variance``: where mu is a probability, Var e of a latent e with P(eta + e > 0) = mu; None where there is no
    such e, or no variance of it.
    ``difference``: what a difference of two eta is for the means, "difference" of them, or what its exponential is, as
    "ratio"; "" where it is neither.
    """

    name: ClassVar[str]
    called: ClassVar[str] = ""
    unit_free: ClassVar[bool] = False
    latent_variance: ClassVar[float | None] = None
    difference: ClassVar[str] = ""

    @property
    def spoken(self) -> str:
        return self.called or self.name

    def link(self, mu):
        """eta for a mean."""
        raise NotImplementedError

    def inverse(self, eta):
        """The mean for an eta."""
        raise NotImplementedError

    def log_mu(self, eta):
        """log of the mean."""
        return jnp.log(self.inverse(eta))

    def log_1m_mu(self, eta):
        """log of 1 - mean."""
        return jnp.log1p(-self.inverse(eta))

    def allows(self, y, eta):
        """Whether y may come from this eta, where the formulas of the mean go on beyond the range."""
        return True

    def log_binomial(self, y, failures, eta):
        """y log mu + failures log(1 - mu)."""
        return times(y, self.log_mu(eta)) + times(failures, self.log_1m_mu(eta))

    @property
    def spreads(self) -> dict[str, Callable[[Any, Any], Any]]:
        """Name -> approximation to Var g(y), of the mean and the variance of y; the best first."""
        return {"delta": self._delta}

    def _delta(self, mu, variance):
        mu = jnp.asarray(mu)
        _, slope = jax.jvp(self.link, (mu,), (jnp.ones_like(mu),))
        return variance * slope**2


class Logit(Link):
    """mu = 1 / (1 + exp(-eta)).

    Example:
        >>> round(float(mm.links.Logit().inverse(1.0)), 3)
        0.731
    """

    name = "logit"
    called = "log odds"
    unit_free = True
    latent_variance = math.pi**2 / 3  # of the logistic distribution
    difference = "odds ratio"

    def link(self, mu):
        return jnp.log(mu) - jnp.log1p(-mu)

    def inverse(self, eta):
        return sigmoid(eta)

    def log_mu(self, eta):
        return -softplus(-eta)

    def log_1m_mu(self, eta):
        return -softplus(eta)

    def log_binomial(self, y, failures, eta):
        """y eta - trials log(1 + e^eta), and where all succeed -trials log(1 + e^-eta), which keeps that tail."""
        every = failures == 0
        return jnp.where(every, 0.0, y) * eta - (y + failures) * softplus(jnp.where(every, -eta, eta))


class Probit(Link):
    """mu = Phi(eta).

    Example:
        >>> round(float(mm.links.Probit().inverse(1.0)), 3)
        0.841
    """

    name = "probit"
    unit_free = True
    latent_variance = 1.0

    def link(self, mu):
        return ndtri(mu)

    def inverse(self, eta):
        return 0.5 * erfc(-eta / math.sqrt(2))

    def log_mu(self, eta):
        return log_cdf(eta)

    def log_1m_mu(self, eta):
        return log_cdf(-eta)


# ---------------------------------------------------------------- log(1 - exp(-e^eta)) and its derivatives
# With t = e^eta the first is r = t / (e^t - 1) = sum_k B_k t^k / k!, and each further one is t d/dt of the one
# before: the k-th term times k.  For t > 1, where the series is slow, with q = 1 - t - r:
#     t r' = r q,    t q' = -t - r q.
BERNOULLI = bernoulli(26)
LARGE = 750.0  # e^t is then infinite and r zero; t^3 has to stay finite


def _series(j):
    """The k-th term times k^j; without k = 0."""
    terms = [float(b / math.factorial(k) * Fraction(k) ** j) for k, b in enumerate(BERNOULLI) if k > 0]
    return lambda t: t * polynomial(t, terms)


def _joined(j, constant, closed):
    series = _series(j)

    def f(eta):
        t = jnp.exp(jnp.minimum(eta, math.log(LARGE)))
        return jnp.where(t < 1, constant(eta) + series(jnp.minimum(t, 1.0)), closed(jnp.maximum(t, 1.0)))

    return f


def _rq(t):
    r = t / jnp.expm1(t)
    return r, 1 - t - r


def _c2(t):
    r, q = _rq(t)
    return r * q


def _c3(t):
    r, q = _rq(t)
    return r * (q * q - r * q - t)


def _c4(t):
    r, q = _rq(t)
    return r * (q * (q * q - r * q - t) - (2 * q - r) * (t + r * q) - r * q * q - t)


log_cloglog = derivatives(
    _joined(-1, lambda eta: eta, lambda t: jnp.log1p(-jnp.exp(-t))),
    _joined(0, lambda eta: 1.0, lambda t: _rq(t)[0]),
    _joined(1, lambda eta: 0.0, _c2),
    _joined(2, lambda eta: 0.0, _c3),
    _joined(3, lambda eta: 0.0, _c4),
)


# log((1 - e^-t) / t): what is left of the above without its first term
log_cloglog_excess = derivatives(
    lambda eta: jnp.where(eta < 0, _series(-1)(jnp.exp(jnp.minimum(eta, 0.0))), log_cloglog(eta) - eta),
    _joined(0, lambda eta: 0.0, lambda t: _rq(t)[0] - 1),
    _joined(1, lambda eta: 0.0, _c2),
    _joined(2, lambda eta: 0.0, _c3),
    _joined(3, lambda eta: 0.0, _c4),
)


class CLogLog(Link):
    """mu = 1 - exp(-exp(eta)).

    Example:
        >>> round(float(mm.links.CLogLog().inverse(1.0)), 3)
        0.934
    """

    name = "cloglog"
    unit_free = True
    latent_variance = math.pi**2 / 6  # of Gumbel's distribution

    def link(self, mu):
        return jnp.log(-jnp.log1p(-mu))

    def inverse(self, eta):
        return -expm1(-jnp.exp(eta))

    def log_mu(self, eta):
        return log_cloglog(eta)

    def log_1m_mu(self, eta):
        return -jnp.exp(eta)


# the angle of (-eta, 1) is pi mu, to relative accuracy
angle = derivatives(lambda eta: jnp.arctan2(1.0, -eta), lambda eta: 1 / (1 + eta * eta))


def _log_cauchit(eta):
    tail = jnp.arctan2(1.0, jnp.abs(eta)) / math.pi
    return jnp.where(eta > 0, jnp.log1p(-tail), jnp.log(tail))


log_cauchit = derivatives(_log_cauchit, lambda eta: 1 / ((1 + eta * eta) * angle(eta)))


class Cauchit(Link):
    """mu = 1/2 + arctan(eta) / pi.

    Example:
        >>> round(float(mm.links.Cauchit().inverse(1.0)), 3)
        0.75
    """

    name = "cauchit"
    unit_free = True

    def link(self, mu):
        return jnp.where(mu < 0.5, -1 / jnp.tan(math.pi * mu), 1 / jnp.tan(math.pi * (1 - mu)))

    def inverse(self, eta):
        return angle(eta) / math.pi

    def log_mu(self, eta):
        return log_cauchit(eta)

    def log_1m_mu(self, eta):
        return log_cauchit(-eta)


# log(1 - e^eta), eta < 0: with the odds m = mu / (1 - mu) the first derivative is -m, and m' = m (1 + m)
def _odds(eta):
    return jnp.exp(eta) / -jnp.expm1(eta)


odds = derivatives(_odds, lambda eta: odds(eta) * (1 + odds(eta)))
log_1m_exp = derivatives(
    lambda eta: jnp.where(eta > -0.7, jnp.log(-jnp.expm1(eta)), jnp.log1p(-jnp.exp(eta))), lambda eta: -odds(eta)
)


class Log(Link):
    """mu = exp(eta).

    Example:
        >>> round(float(mm.links.Log().inverse(1.0)), 3)
        2.718
    """

    name = "log"
    unit_free = True
    difference = "ratio"

    def link(self, mu):
        return jnp.log(mu)

    def inverse(self, eta):
        return jnp.exp(eta)

    def log_mu(self, eta):
        return eta

    def log_1m_mu(self, eta):
        return log_1m_exp(eta)

    @property
    def spreads(self):
        """Var log y of a lognormal y, log(1 + V / mu^2); of a gamma variate, the trigamma function of mu^2 / V; and by
        the delta method, V / mu^2 (Nakagawa, Johnson & Schielzeth 2017, tables 1 and 2)."""
        return {
            "lognormal": lambda mu, variance: jnp.log1p(variance / mu**2),
            "trigamma": lambda mu, variance: polygamma(1, mu**2 / variance),
            "delta": self._delta,
        }


class Identity(Link):
    """mu = eta.

    Example:
        >>> round(float(mm.links.Identity().inverse(1.0)), 3)
        1.0
    """

    name = "identity"
    difference = "difference"

    def link(self, mu):
        return mu

    def inverse(self, eta):
        return eta


class Inverse(Link):
    """mu = 1 / eta.

    Example:
        >>> round(float(mm.links.Inverse().inverse(2.0)), 3)
        0.5
    """

    name = "inverse"

    def link(self, mu):
        return 1 / mu

    def inverse(self, eta):
        return 1 / eta

    def log_mu(self, eta):
        return -jnp.log(eta)


class Sqrt(Link):
    """mu = eta^2, eta > 0 where y > 0.

    At y = 0 the log density rises to its maximum at eta = 0 and falls again, like -eta^2.  Rows of y = 0 often lie
    there, and an end of the range at 0 would leave them, and with them the likelihood, without derivatives.

    Example:
        >>> round(float(mm.links.Sqrt().inverse(2.0)), 3)
        4.0
    """

    name = "sqrt"

    def link(self, mu):
        return jnp.sqrt(mu)

    def inverse(self, eta):
        return eta * eta

    def log_mu(self, eta):
        return 2 * jnp.log(jnp.abs(eta))

    def allows(self, y, eta):
        return (eta > 0) | (y == 0)


class InverseSquare(Link):
    """mu = eta^(-1/2), eta > 0.

    Example:
        >>> round(float(mm.links.InverseSquare().inverse(4.0)), 3)
        0.5
    """

    name = "1/mu^2"

    def link(self, mu):
        return 1 / (mu * mu)

    def inverse(self, eta):
        return 1 / jnp.sqrt(eta)

    def log_mu(self, eta):
        return -0.5 * jnp.log(eta)


LINKS: dict[str, Link] = {
    link.name: link
    for link in (Logit(), Probit(), CLogLog(), Cauchit(), Log(), Identity(), Inverse(), Sqrt(), InverseSquare())
}


def get(link: str | Link) -> Link:
    """The link called ``link``, or ``link`` itself when it is one.

    Raises:
        ValueError: for a name that is not in ``LINKS``, or what is neither a name nor a ``Link``.
    """
    if isinstance(link, Link):
        return link
    if link not in LINKS:
        raise ValueError(f"link {link!r} is not available; accepted: {', '.join(LINKS)}, or a Link of your own")
    return LINKS[link]
