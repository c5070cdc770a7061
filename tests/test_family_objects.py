"""Families as objects: printed, compared, found by name, with any link; and one of a user's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmm.links
from jaxmm import families
from jaxmm.families import FAMILIES, Family

pytestmark = pytest.mark.usefixtures("x64")


def test_print_compare_hash():
    assert repr(families.Binomial()) == "Binomial(link='logit')"
    assert repr(families.get("binomial", link="probit")) == "Binomial(link='probit')"
    assert families.Binomial(link="probit") == families.get("binomial", "probit") != families.Binomial()
    assert families.Poisson() != families.NegativeBinomial2() and len({families.Poisson(), families.Poisson()}) == 1
    f = jax.jit(lambda eta, family: family.density(1.0, eta, 1.0), static_argnums=1)
    assert f(0.0, families.Poisson()) == -1.0 and f(0.0, families.Gaussian()) == -0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_first_link_is_the_default(name):
    assert families.get(name).link == jaxmm.links.get(FAMILIES[name].links[0])


def test_instances_pass_through():
    own = families.Binomial(link="probit")
    assert families.get(own) is own
    assert families.get(own, link="cloglog") == families.Binomial("cloglog")


@pytest.mark.parametrize(
    ("name", "meant"),
    {
        "Gamma": "gamma",
        "inverse.gaussian": "inverse_gaussian",
        "negative binomial": "nbinom2",
        "Bernoulli": "binomial",
        "beta-binomial": "betabinomial",
        "poison": "poisson",
        "normal": "gaussian",
    }.items(),
)
def test_unknown_families(name, meant):
    with pytest.raises(ValueError, match=rf"did you mean '{meant}'\? Accepted: binomial, poisson, gamma"):
        families.get(name)


@pytest.mark.parametrize("unknown", ["", "zzz", None, 7])
def test_nothing_like_a_family(unknown):
    with pytest.raises(ValueError, match=r"is not available\. Accepted: binomial"):
        families.get(unknown)


@pytest.mark.parametrize("link", ["1/mu^2", "logitt", 3])
def test_links_that_a_family_does_not_accept(link):
    with pytest.raises(
        ValueError, match=r"binomial family has no link .*; accepted: logit, probit, cloglog, cauchit, log, or"
    ):
        families.Binomial(link=link)
    with pytest.raises(ValueError, match="accepted: inverse, log, identity"):
        families.get("gamma", link=link)


def test_any_link_object_is_accepted():
    assert repr(families.Poisson(jaxmm.links.InverseSquare())) == "Poisson(link='1/mu^2')"


class TruncatedPoisson(Family):
    """A family as a user writes one: Poisson without its zeros, by the rate."""

    name = "zero-truncated poisson"
    links = ("log",)
    support = "whole numbers from 1"

    def log_density(self, y, eta, phi):
        rate = self.link.inverse(eta)
        return y * self.link.log_mu(eta) - rate - jnp.log(-jnp.expm1(-rate))

    def variance(self, mu, phi, trials=1.0):
        return mu

    def sample(self, key, mu, phi, trials=1.0):
        first = -jnp.log1p(jax.random.uniform(key, mu.shape) * jnp.expm1(-mu))  # time of the first event, before 1
        return 1 + jax.random.poisson(key, mu - first)


def test_a_family_of_ones_own():
    family = families.get(TruncatedPoisson())
    assert repr(family) == "TruncatedPoisson(link='log')" and family == TruncatedPoisson(link="log")
    y = np.array([1.0, 2.0, 6.0])
    p = np.exp(family.density(np.arange(1.0, 60.0), jnp.log(3.0), 1.0)) / jax.scipy.special.gamma(np.arange(2.0, 61.0))
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)
    assert family.num_phi == 0 and not family.has_scale and not family.has_trials
    assert np.all(family.valid(y)) and not family.valid(np.array([np.nan]))[0]
    np.testing.assert_array_equal(family.start_mu(y), y)
    np.testing.assert_array_equal(family.log_constant(y), 0.0)
    d = family.unit_deviance(y, np.full(3, 3.0), 1.0)
    best = np.array([0.0, 1.593624260040040, 5.984901])  # the rate whose mean is y
    at_best = family.density(y[1:], np.log(best[1:]), 1.0)
    np.testing.assert_allclose(d[1:], 2 * (at_best - family.density(y[1:], jnp.log(3.0), 1.0)), rtol=1e-8)
    with pytest.raises(ValueError, match="zero-truncated poisson family has no link 'logit'; accepted: log, or"):
        TruncatedPoisson(link="logit")
