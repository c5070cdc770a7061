"""Families of distributions: y | eta ~ F(mu = g^-1(eta), phi), with trials where y counts successes.

A family is one small class.  ``log_density`` is the one defining method, elementwise in y, eta and, for a scalar
phi, in nothing else; ``variance`` and ``sample`` serve residuals and simulation.  Score and curvature in eta, and
the derivatives in log phi, are derived from ``log_density`` by JAX, up to the fourth order: it has to be written
from ``link.log_mu`` and ``link.log_1m_mu`` in terms that do not cancel (see ``_special``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import links
from jaxmm._types import Array
from jaxmm.families.extras import Extra

NEWTON_STEPS = 60  # of the generic saturated density
HALVINGS = 12  # of each step; the best of them is taken


class Further(NamedTuple):
    """A parameter after mu and phi that has a linear predictor of its own: its ``name``, its ``link``, and the eta that
    a search begins with, ``start``."""

    name: str
    link: Any
    start: float = 0.0


@dataclass(frozen=True, repr=False)
class Family:
    """What a family supplies; a class of one's own needs ``name``, ``links``, ``support`` and three methods.

    Attributes:
        link: an instance, or a name in ``links``; the first of them unless given.
        name: what the family is called.
        links: the names of the links that it accepts.
        num_phi: number of dispersion parameters, estimated as log phi.  phi is a scalar when there is one,
            ignored when there is none, an array (num_phi,) otherwise. The first is ``Fit.dispersion``.
        phi_names: what the others are called in ``Fit.family_params``, num_phi - 1 names; "phi2", … unless given.
        has_scale: Var y = phi V(mu), and ``variance`` is V; sigma is then the root of phi.
        has_trials: y counts the successes among ``trials``, and mu is the probability of one.
        support: what y may be, in words.
        further: parameters after mu and phi, each with a linear predictor ("~ 1" unless the model has a formula for
            it): ``log_density`` takes their etas after the trials, the other methods their values.
        above_zero: y is a count given that it is not zero, of which ``glmm(..., zero_inflation=)`` makes a ``Hurdle``.
        mu_before: where mu is not the mean of y, what it is the mean before, as "zeros are added".
        extras: parameters that no predictor serves, and phi neither; every method takes them last. An instance may
            have them from the data (``bind``).
    """

    link: Any = None  # a links.Link, once the family is made

    name: ClassVar[str]
    links: ClassVar[tuple[str, ...]]
    num_phi: ClassVar[int] = 0
    phi_names: ClassVar[tuple[str, ...]] = ()
    has_scale: ClassVar[bool] = False
    has_trials: ClassVar[bool] = False
    support: ClassVar[str]
    limit: ClassVar[str | None] = None  # the family that this one becomes at an end of phi's range
    mean_range: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))  # of means to start a search from
    further: ClassVar[tuple[Further, ...]] = ()
    above_zero: ClassVar[bool] = False
    mu_before: ClassVar[str] = ""
    extras: ClassVar[tuple[Extra, ...]] = ()

    def __post_init__(self):
        link = self.links[0] if self.link is None else self.link
        if not isinstance(link, links.Link) and link not in self.links:
            accepted = ", ".join(self.links)
            raise ValueError(
                f"the {self.name} family has no link {link!r}; accepted: {accepted}, or a Link of your own"
            )
        object.__setattr__(self, "link", links.get(link))
        further = max(self.num_phi - 1, 0)
        if isinstance(self.phi_names, str) or len(self.phi_names) not in (0, further):
            raise ValueError(
                f"the {self.name} family has num_phi = {self.num_phi} and phi_names = {self.phi_names!r}: phi_names is "
                f"a tuple of {further} name{'s' if further != 1 else ''}, of the parameters after the first"
            )

    @property
    def further_names(self) -> tuple[str, ...]:
        """The names of phi[1:]."""
        return tuple(self.phi_names) or tuple(f"phi{k}" for k in range(2, self.num_phi + 1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(link={self.link.name!r})"

    # ------------------------------------------------------------ defining
    def log_density(self, y, eta, phi, *trials_and_further) -> Array:
        """The part of log p(y | eta, phi) that depends on a parameter; the trials follow where there are any, then the
        eta of each of ``further``, then ``extras``."""
        raise NotImplementedError

    def variance(self, mu, phi, trials: Any = 1.0, *further):
        """Var y per trial; without phi where ``has_scale``."""
        raise NotImplementedError

    def sample(self, key, mu, phi, trials: Any = 1.0, *further) -> Array:
        """Random y of the shape of mu."""
        raise NotImplementedError

    # ------------------------------------------------------------ with defaults
    def log_of_phi(self, y, phi, *trials_and_extras) -> Array:
        """A part of ``log_density`` that no eta moves, where it is worth computing by itself: a search over eta does
        without, and it is differentiated by phi alone. A family that has one gives the rest in ``log_of_eta``."""
        return jnp.zeros_like(y)

    def log_of_eta(self, y, eta, phi, *trials_and_further) -> Array:
        """``log_density`` less ``log_of_phi``."""
        return self.log_density(y, eta, phi, *trials_and_further)

    def mean(self, mu, phi, *further):
        """The mean of y, per trial, where it is not mu itself; linear in each of ``further``."""
        return mu

    def log_of_eta_above_zero(self, y, eta, phi) -> Array:
        """``log_of_eta`` of a count y given that it is not zero: less log(1 - p(0))."""
        rate = -self.density(jnp.zeros_like(eta), eta, phi)  # p(0) = e^-rate
        rate = jnp.maximum(rate, jnp.finfo(eta.dtype).tiny)
        return self.log_of_eta(y, eta, phi) - links.log_cloglog(jnp.log(rate))

    def sample_above_zero(self, key, mu, phi) -> Array:
        """Random counts of the shape of mu given that they are not zero: the distribution function, inverted from 1
        on, which takes as many steps as the largest count."""
        eta = self.link.link(mu)
        odd = jnp.exp(self.density(jnp.zeros_like(mu), eta, phi))
        left = jax.random.uniform(key, mu.shape, mu.dtype) * (1 - odd)

        def add(state):
            y, left = state
            p = jnp.exp(self.density(y, eta, phi) + self.log_constant(y))
            return jnp.where(left > p, y + 1, y), jnp.where(left > p, left - p, -1.0)

        return jax.lax.while_loop(lambda state: jnp.any(state[1] >= 0), add, (jnp.ones_like(mu), left))[0]

    def log_constant(self, y, trials: Any = 1.0):
        """The part of log p that depends on neither eta nor phi."""
        return jnp.zeros_like(y)

    def valid(self, y) -> np.ndarray:
        """Whether each y lies in the support."""
        return np.isfinite(y)

    def no_variation(self, y, total: Any = None):
        """Whether the best fit to y (n, ..) lies at infinity: no success, no failure, no count, no residual.

        ``total`` is the sum of the trials. Another count in every row is a rate like any other and has its estimate,
        unless the family has a scale.
        """
        if self.has_trials:
            successes = y.sum(axis=0)
            return (successes == 0) | (successes == total)
        first = y[0]
        return (y == first).all(axis=0) & (self.has_scale | (first == 0) | (first != first.round()))

    def start_mu(self, y, trials: Any = 1.0) -> np.ndarray:
        """Means to start a GLM from: y where it may be a mean, else the average of those."""
        y, eta = np.asarray(y, float), self.link.link(jnp.asarray(y, float))
        phi = jnp.ones(self.num_phi if self.num_phi > 1 else ())
        extras = [jnp.asarray(e.start).reshape(-1 if len(e.start) > 1 else ()) for e in self.extras]
        value = self.density(jnp.asarray(y), eta, phi, trials, *(p.start for p in self.further), *extras)
        inside = np.asarray(jnp.isfinite(eta) & jnp.isfinite(value))
        return np.where(inside, y, np.mean(y[inside]) if inside.any() else 1.0)

    def unit_deviance(self, y, mu, phi, trials: Any = 1.0, *further):
        """2 (log density at the best mean for this y alone - at mu); times phi where ``has_scale``."""
        eta = self.link.link(jnp.asarray(mu))
        gain = self.saturated(y, phi, trials, *further) - self.density(y, eta, phi, trials, *further)
        return 2 * jnp.maximum(gain, 0.0) * (jnp.ravel(phi)[0] if self.has_scale else 1.0)

    def bind(self, y: np.ndarray) -> Family:
        """The family for a response (n,): with the sizes that it has from the data."""
        return self

    @property
    def glm(self) -> Family:
        """The family of the GLM, of a mean and φ alone, that a search begins with; itself where its extras are few."""
        return self

    # ------------------------------------------------------------ derived
    @property
    def mean_apart(self) -> bool:
        """Whether the mean of y is another than mu."""
        return type(self).mean is not Family.mean

    @property
    def num_extras(self) -> int:
        """How many numbers ``extras`` are."""
        return sum(len(e.start) for e in self.extras)

    @property
    def constant_names(self) -> tuple[str, ...]:
        """Of ``Fit.family_params``: phi[1:], then ``extras``."""
        return (*self.further_names, *(label for e in self.extras for label in e.labels))

    def start_constants(self, num_phi: int) -> np.ndarray:
        """(k,) where a search begins: log phi of as many, and ``extras`` as the search moves them."""
        return np.concatenate([np.zeros(num_phi), *(e.map.raw(np.array(e.start)) for e in self.extras)])

    def constants(self, raw: Array) -> tuple[Any, tuple[Array, ...]]:
        """(k, ..) as the search moves them -> phi as ``log_density`` takes it, a number for k = 1 and 1 for k = 0, and
        the values of ``extras``."""
        at = raw.shape[0] - self.num_extras
        phi = jnp.exp(raw[:at]) if at else jnp.ones((), raw.dtype)
        values = []
        for e in self.extras:
            own = e.map.values(raw[at : at + len(e.start)])
            values.append(own[0] if len(e.start) == 1 else own)
            at += len(e.start)
        return phi[0] if phi.shape[:1] == (1,) else phi, tuple(values)

    def density(self, y, eta, phi, trials: Any = 1.0, *further) -> Array:
        """``log_density`` with or without trials; -inf where eta has no mean."""
        return self._inside(self.log_density, y, eta, phi, trials, *further)

    def density_of_eta(self, y, eta, phi, trials: Any = 1.0, *further) -> Array:
        """``log_of_eta``, as ``density``."""
        return self._inside(self.log_of_eta, y, eta, phi, trials, *further)

    def density_of_phi(self, y, phi, trials: Any = 1.0, *extras) -> Array:
        """``log_of_phi`` with or without trials."""
        return self.log_of_phi(y, phi, *((trials,) if self.has_trials else ()), *extras)

    def _inside(self, log_p: Any, y, eta, phi, trials, *further) -> Array:
        counts = (trials,) if self.has_trials else ()
        value = log_p(y, eta, phi, *counts, *further)
        return inside(jnp.where(self.link.allows(y, eta), value, -jnp.inf))

    @property
    def has_edge(self) -> bool:
        """Whether some eta have no mean in the family's range."""
        return not self.link.unit_free or (self.mean_range[1] < 1 and _exceeds_one(self.link))

    def saturated(self, y, phi, trials: Any = 1.0, *further) -> Array:
        """The maximum of ``density`` over eta for each y: Newton steps, the best of their halves.

        Where the maximum is at infinity (y = 0) the steps walk towards it, one in log mu at a time.
        """
        start = self.start_mu(np.asarray(y), np.asarray(trials))
        eta = self.link.link(jnp.asarray(start))
        y, trials = jnp.broadcast_to(jnp.asarray(y, eta.dtype), eta.shape), jnp.asarray(trials, eta.dtype)

        def value(e):
            return self.density(y, e, phi, trials, *further)

        def slope(e):
            return jax.jvp(value, (e,), (jnp.ones_like(e),))[1]

        def step(_, e):
            g, h = jax.jvp(slope, (e,), (jnp.ones_like(e),))
            newton = jnp.where(h < 0, -g / jnp.where(h < 0, h, -1.0), jnp.sign(g))
            newton = jnp.clip(newton, -3.0, 3.0)

            def halve(k, found):
                best, at = found
                there = e + newton * 0.5**k
                f = value(there)
                return jnp.maximum(f, best), jnp.where(f > best, there, at)

            return jax.lax.fori_loop(0, HALVINGS, halve, (value(e), e))[1]

        return value(jax.lax.fori_loop(0, NEWTON_STEPS, step, eta))


def inside(value: Array) -> Array:
    """-inf for nan: the links give nan where eta has no mean inside the family's range."""
    return jnp.where(jnp.isnan(value), -jnp.inf, value)


def whole(y) -> np.ndarray:
    """Whether each y is a whole number from 0."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(y) & (y >= 0) & (np.asarray(y) == np.round(y))


@cache
def _exceeds_one(link: Any) -> bool:
    """Whether the link has means above one; to be asked once outside ``vmap``, in which no number is known."""
    with jax.ensure_compile_time_eval():
        return float(link.inverse(30.0)) > 1
