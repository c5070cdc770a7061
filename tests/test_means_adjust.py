"""Adjustments: special cases with a closed form, other programs' distributions, and that they are what they say."""

import numpy as np
import pytest
from scipy.special import stdtr

from jaxmm.means import adjust, contrasts


def family(k: int, t, df: float) -> adjust.Family:
    C = contrasts.contrasts("pairwise", [str(i) for i in range(k)]).C
    t = np.resize(np.asarray(t, float), len(C))
    return adjust.Family(t, np.full(len(C), df), k, C @ C.T / 2)


@pytest.mark.parametrize("df", [1.0, 4.5, 60.0, np.inf])
def test_two_means_have_the_t_test(df):
    """Also far out: the tail keeps its digits."""
    for q in (0.4, 2.0, 9.0, 30.0):
        np.testing.assert_allclose(adjust.range_tail(np.sqrt(2) * q, 2, df), 2 * stdtr(df, -q), rtol=1e-6)
    assert adjust.range_tail(0.0, 3, df) == 1.0


def test_the_range_of_three_and_more():
    """R's ptukey, to its digits; two levels' half of the bivariate normal is 1/3 for three means at zero."""
    known = [
        (3.5, 3, 10.0, 0.0771033108384), (3.5, 4, 25.3, 0.0885055615660), (5.0, 12, 7.0, 0.151397601438),
        (2.0, 3, np.inf, 0.333499324540), (8.0, 20, 50.0, 0.000121590891), (8.0, 3, 2.5, 0.0338554956529),
    ]  # fmt: skip
    for q, k, df, p in known:
        np.testing.assert_allclose(adjust.range_tail(q, k, df), p, rtol=1e-8)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_mvt_of_all_pairs_is_tukey_within_its_error(k):
    f = family(k, [0.7, 2.2, 3.4, 5.0], 9.5)
    p, exact = adjust.p_values(f, "mvt"), adjust.p_values(f, "tukey")
    assert np.max(np.abs(p - exact)) <= 5 * adjust.error(f, "mvt") + 1e-12
    assert adjust.error(f, "mvt") < 2e-4
    np.testing.assert_allclose(adjust.critical(f, "mvt", 0.95), adjust.critical(f, "tukey", 0.95), rtol=2e-3)
    np.testing.assert_array_equal(p, adjust.p_values(family(k, [0.7, 2.2, 3.4, 5.0], 9.5), "mvt"))  # the same each time


def test_mvt_of_independent_contrasts():
    """A product of marginals with infinite degrees of freedom: Sidak's."""
    f = adjust.Family(np.array([1.0, 2.5, 3.0]), np.full(3, np.inf), 4, np.eye(3))
    np.testing.assert_allclose(adjust.p_values(f, "mvt"), adjust.p_values(f, "sidak"), rtol=1e-3)


@pytest.mark.parametrize("name", [m for m in adjust.METHODS if m not in adjust.STEPWISE])
def test_intervals_and_p_values_agree(name):
    """A contrast at the end of its interval has p = 1 - level."""
    f = family(4, 1.0, 17.0)
    c = adjust.critical(f, name, 0.9)
    at_end = adjust.Family(c, f.df, f.k, f.R)
    np.testing.assert_allclose(adjust.p_values(at_end, name), 0.1, rtol=1e-6)


def test_what_could_not_be_tested_does_not_count():
    f = family(3, [2.0, np.nan, 3.0], 12.0)
    two = adjust.Family(f.t[[0, 2]], f.df[[0, 2]], 3, f.R[np.ix_([0, 2], [0, 2])])
    for name in adjust.METHODS:
        p = adjust.p_values(f, name)
        assert np.isnan(p[1])
        np.testing.assert_allclose(p[[0, 2]], adjust.p_values(two, name))
    none = adjust.Family(np.full(2, np.nan), np.full(2, np.nan), 2, np.eye(2))
    assert np.isnan(adjust.p_values(none, "mvt")).all() and np.isnan(adjust.critical(none, "mvt", 0.95)).all()


def test_polynomials_are_orthogonal_and_whole():
    for k in range(2, 9):
        C, names, _ = contrasts.contrasts("poly", [str(i) for i in range(k)])
        G = C @ C.T
        assert np.array_equal(C, np.round(C)) and np.array_equal(G, np.diag(np.diag(G)))
        np.testing.assert_array_equal(C.sum(axis=1), 0)
        assert (C[:, -1] > 0).all() and len(names) == min(k - 1, 6)
