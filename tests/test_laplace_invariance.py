"""What a change of the data must change in Laplace's criterion and its derivatives, and that it changes nothing else.

For every family and link.
"""

import dataclasses

import jax
import numpy as np
import pytest
from exact_laplace import Case, case
from helpers import close
from test_laplace import PAIRS, derivatives

from jaxmm.families import FAMILIES


def changed(c: Case, **changes) -> Case:
    return dataclasses.replace(c, **changes)


def of(c: Case, beta=None, log_phi=None):
    """Value, gradient and Hessian of a case, in float64."""
    psi = np.concatenate([c.beta if beta is None else beta, c.theta, c.log_phi if log_phi is None else log_phi])
    with jax.enable_x64(True):
        return derivatives(psi, c.rows())[:3]


def assert_equal(a, b, rtol=1e-10):
    np.testing.assert_allclose(b[0], a[0], rtol=1e-12)
    close(b[1], a[1], rtol)
    close(b[2], a[2], rtol)


def rows_of(c: Case, at) -> Case:
    """The case of the rows ``at``, which may repeat."""
    terms = tuple((Z[at], codes[at]) for Z, codes in c.terms)
    parts = {k: getattr(c, k)[at] for k in ("y", "trials", "weights", "offset", "X")}
    return changed(c, terms=terms, **parts)


@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_integer_weights_are_equal_rows(family, link):
    """Two rows, three times and twice: as 2 + 1 and 2, or as 3 and 1 + 1, in each of two levels."""
    c = case(family, link)
    (a, b, other), (d, e) = (np.flatnonzero(c.terms[0][1] == j)[:k] for j, k in ((0, 3), (2, 2)))
    one = changed(rows_of(c, [a, a, b, d, d, e, other, 3, 6]), weights=np.array([2.0, 1, 2, 2, 1, 2, 1, 1, 1]))
    two = changed(rows_of(c, [a, b, b, d, e, e, other, 3, 6]), weights=np.array([3.0, 1, 1, 3, 1, 1, 1, 1, 1]))
    assert_equal(of(one), of(two))


@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_order_of_rows_and_of_levels(family, link):
    c = case(family, link)
    shuffled = rows_of(c, np.random.default_rng(0).permutation(len(c.y)))
    (Z, codes), names = c.terms[0], np.array([2, 1, 0])
    assert_equal(of(c), of(shuffled))
    assert_equal(of(c), of(changed(c, terms=((Z, names[codes]),))))


@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_an_offset_for_all_is_the_intercept(family, link):
    c = case(family, link)
    moved = changed(c, offset=c.offset + 0.3, beta=c.beta - [0.3, 0])
    assert_equal(of(c), of(moved), 1e-9)


@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_a_change_of_the_predictor(family, link):
    """x -> 10 x - 3, its coefficient a tenth, the intercept moved."""
    c = case(family, link)
    A = np.array([[1.0, -3.0], [0.0, 10.0]])  # X A are the new columns
    X = c.X @ A
    other = changed(c, X=X, terms=((X[:, :1], c.terms[0][1]),), beta=np.linalg.solve(A, c.beta))
    (value, gradient, hessian), new = of(c), of(other)
    J = np.eye(len(gradient))
    J[:2, :2] = A  # d psi / d psi of the other
    assert_equal((value, J.T @ gradient, J.T @ hessian @ J), new, 1e-9)


SYMMETRIC = [p for p in PAIRS if p.values[1] in ("logit", "probit", "cauchit")]


@pytest.mark.parametrize(("family", "link"), SYMMETRIC)
def test_failures_in_the_place_of_successes(family, link):
    """Signs turn, all else stays, for links with g(1 - mu) = -g(mu)."""
    c = case(family, link)
    turned = changed(c, y=(c.trials if FAMILIES[family].has_trials else 1.0) - c.y, offset=-c.offset, beta=-c.beta)
    (value, gradient, hessian), other = of(c), of(turned)
    sign = np.ones(len(gradient))
    sign[:2] = -1
    assert_equal((value, sign * gradient, hessian * np.outer(sign, sign)), other)


@pytest.mark.parametrize(
    ("family", "limit", "link", "log_phi"),
    [
        ("nbinom2", "poisson", "log", 10.0), ("nbinom2", "poisson", "sqrt", 10.0), ("nbinom1", "poisson", "log", -10.0),
        ("betabinomial", "binomial", "logit", 10.0),
    ],
)  # fmt: skip
def test_limits(family, limit, link, log_phi):
    """phi at its end, ten powers of ten away: the family without a dispersion."""
    c = case(limit, link)
    value, gradient, hessian = of(c)
    wide = changed(c, family=family, log_phi=np.array([log_phi * np.log(10.0)]))
    other = of(wide)
    np.testing.assert_allclose(other[0], value, rtol=1e-8)
    close(other[1][:3], gradient, 1e-8)
    close(other[2][:3, :3], hessian, 1e-8)
    assert np.all(np.abs(other[1][3:]) < 1e-7) and np.all(np.abs(other[2][3]) < 1e-7)
