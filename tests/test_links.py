"""Links: log mu and log(1 - mu) and their derivatives to order four against mpmath, in both tails."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from accuracy import assert_close, exact, jets

from jaxmm import links
from jaxmm.links import LINKS

pytestmark = pytest.mark.usefixtures("x64")

REAL = np.concatenate(
    [np.linspace(-40, 40, 33), [-38.0, -8.3, -3.001, -2.999, -0.31, -1e-4, 1e-9, 0.02, 0.9, 3.3, 6.1]]
)
POSITIVE = np.concatenate([np.geomspace(1e-6, 40, 25), [1.0]])
SQRT_2 = mp.sqrt(2)

ALGEBRAIC = ("cauchit", "identity", "inverse", "sqrt", "1/mu^2")

# name: log mu, log(1 - mu) or None where means are positive, eta
EXACT = {
    "logit": (lambda e: -mp.log1p(mp.exp(-e)), lambda e: -mp.log1p(mp.exp(e)), REAL),
    "probit": (lambda e: log_phi(e), lambda e: log_phi(-e), REAL),
    "cloglog": (lambda e: log_1m_exp(-mp.exp(e)), lambda e: -mp.exp(e), REAL),
    "cauchit": (
        lambda e: mp.log(mp.atan2(1, -e) / mp.pi),
        lambda e: mp.log(mp.atan2(1, e) / mp.pi),
        np.concatenate([REAL, [-1e6, 1e6]]),
    ),
    "log": (lambda e: e, lambda e: log_1m_exp(e), -POSITIVE),
    "identity": (mp.log, None, POSITIVE),
    "inverse": (lambda e: -mp.log(e), None, POSITIVE),
    "sqrt": (lambda e: 2 * mp.log(e), None, POSITIVE),
    "1/mu^2": (lambda e: -mp.log(e) / 2, None, POSITIVE),
}


def log_phi(x):
    return mp.log(mp.erfc(-x / SQRT_2) / 2) if x < 0 else mp.log1p(-mp.erfc(x / SQRT_2) / 2)


def log_1m_exp(x):
    return mp.log(-mp.expm1(x)) if x > -1 else mp.log1p(-mp.exp(x))


def test_every_link_is_tested():
    assert set(EXACT) == set(LINKS)


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("which", ["log_mu", "log_1m_mu"])
def test_logarithms_and_their_derivatives(name, which):
    log_mu, log_1m_mu, eta = EXACT[name]
    reference = log_mu if which == "log_mu" else log_1m_mu
    if reference is None:
        pytest.skip("means are not probabilities")
    with mp.workdps(60):
        expected = [exact(reference, e) for e in eta]
    x = np.maximum(np.abs(eta), 0.1 if name == "cauchit" else 0) if name in ALGEBRAIC else None
    assert_close(jets(getattr(LINKS[name], which), eta), expected, 3e-12 if name == "probit" else 2e-13, x=x, at=eta)


@pytest.mark.parametrize("name", LINKS)
def test_means_and_back(name):
    log_mu, _, eta = EXACT[name]
    link = LINKS[name]
    mean = [float(mp.exp(log_mu(mp.mpf(float(e))))) for e in eta]
    np.testing.assert_allclose(link.inverse(jnp.asarray(eta)), mean, rtol=5e-13, atol=1e-300)
    eta = eta[np.abs(eta) < 3]
    np.testing.assert_allclose(link.link(link.inverse(jnp.asarray(eta))), eta, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LINKS)
def test_derivatives_of_the_mean(name):
    log_mu, _, eta = EXACT[name]
    if name == "probit":
        eta = eta[np.abs(eta) < 18]
    with mp.workdps(130 if name == "probit" else 60):  # the upper tail is that close to one
        expected = [exact(lambda e: mp.exp(log_mu(e)), e) for e in eta]
    x = np.maximum(np.abs(eta), 0.1 if name == "cauchit" else 0) if name in ALGEBRAIC else None
    assert_close(jets(LINKS[name].inverse, eta), expected, 1e-12, x=x, at=eta)


@pytest.mark.parametrize("name", ["logit", "probit", "cloglog", "cauchit"])
def test_absurd_predictors(name):
    """A line search may try anything: no nan in values or derivatives, and the tails keep their shape."""
    eta = np.array([-1e5, -800.0, 800.0, 1e5])
    for f in (LINKS[name].log_mu, LINKS[name].log_1m_mu):
        d = jets(f, eta, order=2)
        assert not np.isnan(d).any() and np.all(d[0] <= 0)
    assert LINKS[name].log_mu(eta[1]) > LINKS[name].log_mu(eta[0])


@pytest.mark.parametrize("name", ["log", "identity", "inverse", "1/mu^2"])
def test_outside_of_the_range_is_nan(name):
    """No mean in (0, 1) for log, none that is positive for the others."""
    f, eta = (LINKS["log"].log_1m_mu, 0.5) if name == "log" else (LINKS[name].log_mu, -0.5)
    assert jnp.isnan(f(jnp.asarray(eta)))


def test_single_precision():
    eta = jnp.linspace(-9, 9, 13, dtype=jnp.float32)
    for name in ("logit", "probit", "cloglog", "cauchit"):
        for f in (LINKS[name].log_mu, LINKS[name].log_1m_mu):
            single = jets(f, eta, order=3)
            assert single.dtype == np.float32
            np.testing.assert_allclose(single, jets(f, eta.astype(float), order=3), rtol=2e-4, atol=2e-4)


def test_a_link_of_ones_own():
    """``link`` and ``inverse`` suffice."""

    class HalfLogit(links.Link):
        name = "half-logit"

        def link(self, mu):
            return 2 * LINKS["logit"].link(mu)

        def inverse(self, eta):
            return LINKS["logit"].inverse(eta / 2)

    own = HalfLogit()
    eta = jnp.linspace(-3, 3, 5)
    np.testing.assert_allclose(own.log_mu(eta), LINKS["logit"].log_mu(eta / 2), rtol=1e-14)
    np.testing.assert_allclose(own.log_1m_mu(eta), LINKS["logit"].log_1m_mu(eta / 2), rtol=1e-14)
    assert links.get(own) is own and own == HalfLogit() and hash(own) == hash(HalfLogit())
    assert own != LINKS["logit"]


def test_static_arguments():
    f = jax.jit(lambda eta, link: link.inverse(eta), static_argnums=1)
    assert f(0.0, links.Logit()) == 0.5 and f(0.0, links.Log()) == 1.0


@pytest.mark.parametrize("unknown", ["logitt", 3, None])
def test_unknown_links(unknown):
    with pytest.raises(ValueError, match=r"accepted: logit, probit, cloglog.*1/mu\^2"):
        links.get(unknown)
