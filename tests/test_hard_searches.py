"""Links with an edge, and generalised searches that may end in the wrong place: fits and lanes alike."""

import numpy as np
import pytest

import jaxmm as mm
from jaxmm.start_glmm import ends_at_boundary, second_start


def one_factor(family, link, y, x, g, intercept=True, slopes=None):
    X = np.column_stack([np.ones(len(x)), x] if intercept else [x])
    Z = np.ones(len(x)) if slopes is None else np.column_stack([np.ones(len(x)), slopes])
    return mm.Model.from_arrays(y, X, [mm.Term(Z, g, "g")], mm.families.get(family, link))


def both(model, Y):
    """Every response by itself, and all of them as lanes: they must agree."""
    fits = [model.with_response(y).fit() for y in Y]
    lanes = mm.fit_many(model, Y, progress=False)
    assert [int(f.estimates.status) for f in fits] == list(lanes.status)
    np.testing.assert_allclose(lanes.loglik, [f.loglik for f in fits], rtol=0, atol=1e-6)
    return fits


def square_roots(count: int):
    """30 groups of 5 to 15 counts with means near 1, whose linear predictors come near zero."""
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(30), rng.integers(5, 16, 30))
    x = rng.normal(size=len(g))
    Y = []
    for k in range(count):
        r = np.random.default_rng([7, k])
        Y.append(r.poisson((1 + 0.2 * x + 0.4 * r.normal(size=30)[g]) ** 2) + 0.0)
    return one_factor("poisson", "sqrt", Y[0], x, g), np.array(Y)


def test_counts_with_a_square_root_link_converge():
    fits = both(*square_roots(12))
    assert all(f.converged for f in fits)
    assert max(f.diagnostics.gradient_norm for f in fits) < 1e-3


@pytest.mark.slow
def test_195_data_sets_of_counts_with_a_square_root_link_converge():
    model, Y = square_roots(195)
    assert sum(f.converged for f in both(model, Y)) >= 190


def test_zero_counts_have_no_cliff_where_a_square_root_crosses_zero(x64):
    family = mm.families.get("poisson", "sqrt")
    eta = np.array([-0.2, -0.1, 0.1, 0.2])
    np.testing.assert_allclose(family.density(np.zeros(4), eta, 1.0), -(eta**2), rtol=1e-12)
    assert not np.any(~family.link.allows(np.zeros(4), eta))
    assert list(family.link.allows(np.ones(4), eta)) == [False, False, True, True]


def test_an_inverse_link_without_an_intercept():
    """At u = 0 no row has a mean: the search for the modes begins at the least-squares fit."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(20), 8), rng.normal(size=160)
    Y = []
    for k in range(4):
        r = np.random.default_rng([9, k])
        Y.append(r.gamma(4.0, 0.25, 160) / np.clip(0.15 * x + 1.5 + 0.3 * r.normal(size=20)[g], 0.1, None))
    fits = both(one_factor("gamma", "inverse", Y[0], x, g, intercept=False), np.array(Y))
    assert all(f.converged for f in fits)
    assert min(f.theta[0] for f in fits) > 1.0


# ---------------------------------------------------------------- the second start
def overdispersed(ks, family="inverse_gaussian"):
    rng = np.random.default_rng(3)
    g = np.sort(np.concatenate([np.arange(20), rng.integers(0, 20, 159)]))
    x, t = rng.normal(size=len(g)), rng.normal(size=len(g))
    Y = []
    for k in ks:
        r = np.random.default_rng([11, k])
        sd, rho = (r.uniform(0.2, 1.2), r.uniform(0.2, 1.0)), r.uniform(-0.9, 0.9)
        b = r.normal(size=(20, 2))
        b = np.column_stack([sd[0] * b[:, 0], sd[1] * (rho * b[:, 0] + np.sqrt(1 - rho**2) * b[:, 1])])
        mu = np.exp(r.uniform(-0.5, 1.5) + 0.3 * x + b[g, 0] + b[g, 1] * t)
        if family == "nbinom2":
            phi = r.choice([0.15, 0.3, 0.6])
            Y.append(r.poisson(mu * r.gamma(phi, 1 / phi, len(g))) + 0.0)
        else:
            Y.append(r.wald(mu, r.choice([1, 2, 4, 8]) * 1.0))
    return one_factor(family, "log", Y[0], x, g, slopes=t), np.array(Y)


def started_elsewhere(model, y):
    """The best log-likelihood from several starts."""
    starts = ([1.0, 0.0, 1.0], [0.3, 0.0, 1.0], [1.0, 0.0, 0.3])
    fits = [model.with_response(y).fit(start=s) for s in starts]
    return max((f.loglik for f in fits if f.converged), default=-np.inf)


def test_a_fit_at_the_boundary_is_not_the_worse_of_two_ends():
    model, Y = overdispersed((26, 0, 5))
    for fit, y in zip(both(model, Y), Y, strict=True):
        assert fit.converged
        assert fit.loglik > started_elsewhere(model, y) - 1e-4


@pytest.mark.slow
def test_no_fit_of_many_ends_in_the_wrong_place_unflagged():
    model, Y = overdispersed(range(1000), "nbinom2")
    missed = 0
    for y in Y:
        fit = model.with_response(y).fit()
        at_boundary = fit.is_singular and fit.converged
        missed += at_boundary and fit.loglik < started_elsewhere(model, y) - 1e-3
    assert missed == 0


def test_which_ends_are_at_the_boundary_and_where_it_begins_again(x64):
    model, _ = overdispersed((0,), "nbinom2")
    rows = model.arrays
    inside, boundary = np.array([0.1, 0.2, 0.5, 0.1, 0.4, 0.7]), np.array([0.1, 0.2, 0.5, 0.1, 1e-6, 0.7])
    both_of_them = np.stack([inside, boundary], axis=1)
    np.testing.assert_array_equal(ends_at_boundary(both_of_them, rows), [False, True])
    again = second_start(both_of_them, rows)
    np.testing.assert_allclose(again[:, 0], second_start(inside, rows))
    less = 0.7 + np.log(4.0)  # nbinom2: a larger phi is less dispersion
    np.testing.assert_allclose(again[:, 1], [0.1, 0.2, 1.0, 0.0, 1.0, less])
