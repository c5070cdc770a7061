"""Intervals from replicates: order statistics, SciPy's BCa, transformations, what has no answer."""

import numpy as np
import pytest
import scipy.stats

from jaxmm.studies import intervals


def columns(*x):
    return np.column_stack(x).astype(float)


def test_quantiles_are_order_statistics():
    """999 replicates: the ends of a 95 % interval are the 25th from either end."""
    x = np.random.default_rng(0).permutation(999) + 1.0
    np.testing.assert_allclose(intervals.percentile(x[:, None], 0.95), [[25, 975]])
    quarters = np.quantile(x[:100], [0.25, 0.75], method="weibull")
    np.testing.assert_allclose(intervals.percentile(x[:100, None], 0.5), [quarters])
    np.testing.assert_allclose(intervals.quantiles(columns([1, 2, 3]), np.array([[0.001, 0.5, 0.999]])), [[1, 2, 3]])


def test_basic_and_normal():
    x = np.random.default_rng(1).normal(size=(999, 2)) * [1, 5]
    t = np.array([0.5, -2.0])
    lower, upper = intervals.percentile(x, 0.9).T
    np.testing.assert_allclose(intervals.basic(t, x, 0.9), columns(2 * t - upper, 2 * t - lower))
    ends, z = intervals.normal(t, x, 0.9), scipy.stats.norm.ppf(0.95)
    np.testing.assert_allclose(ends.mean(axis=1), t - (x.mean(axis=0) - t))
    np.testing.assert_allclose(np.diff(ends)[:, 0], 2 * z * x.std(axis=0, ddof=1))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_bca_is_that_of_scipy(level):
    """A mean of skewed numbers: the levels, and with scipy's rule for quantiles the interval."""
    x = np.random.default_rng(2).lognormal(size=25)
    theirs = scipy.stats.bootstrap(
        (x,), np.mean, n_resamples=2000, confidence_level=level, method="BCa", rng=np.random.default_rng(3)
    )
    values, t = theirs.bootstrap_distribution[:, None], np.array([x.mean()])
    jackknife = np.array([[np.delete(x, i).mean()] for i in range(len(x))])
    a, d = intervals.acceleration(jackknife), x - x.mean()
    np.testing.assert_allclose(a, np.sum(d**3) / (6 * np.sum(d**2) ** 1.5))
    levels = intervals.bca_levels(intervals.median_bias(t, values), a, level)
    ends = np.quantile(values[:, 0], levels[0])
    np.testing.assert_allclose(ends, theirs.confidence_interval, rtol=1e-12)
    mine = np.quantile(values[:, 0], levels[0], method="weibull")
    np.testing.assert_array_equal(intervals.bca(t, values, a, level)[0], mine)


def test_bca_without_bias_is_percentile():
    x = np.random.default_rng(4).gamma(2.0, size=(999, 1))
    middle = np.median(x, axis=0)
    np.testing.assert_array_equal(intervals.median_bias(middle, x), [0.0])
    np.testing.assert_allclose(intervals.bca(middle, x, np.zeros(1), 0.95), intervals.percentile(x, 0.95), rtol=1e-9)
    moved = intervals.bca(middle, x, np.full(1, 0.1), 0.95)
    assert np.all(moved > intervals.percentile(x, 0.95))


@pytest.mark.parametrize("transform", [np.exp, np.cbrt, lambda x: 3 * x - 1], ids=["exp", "cbrt", "affine"])
def test_percentile_and_bca_follow_a_monotone_transformation(transform):
    rng = np.random.default_rng(5)
    x, t, jackknife = rng.normal(size=(999, 1)) + 0.3, np.array([0.1]), rng.normal(size=(30, 1))
    np.testing.assert_allclose(
        transform(intervals.percentile(x, 0.95)), intervals.percentile(transform(x), 0.95), rtol=1e-9
    )
    z0, a = intervals.median_bias(t, x), intervals.acceleration(jackknife)
    assert z0[0] == intervals.median_bias(transform(t), transform(x))[0] != 0
    # between the same two replicates
    order = np.sort(x[:, 0])
    both = intervals.bca(t, x, a, 0.95), intervals.bca(transform(t), transform(x), a, 0.95)
    for end, other in np.concatenate(both).T:
        k = np.searchsorted(order, end)
        assert transform(order[k - 1]) - 1e-12 <= other <= transform(order[k]) + 1e-12


def test_acceleration_has_no_unit():
    """Of a location and scale, and its sign is that of the skewness."""
    x = np.random.default_rng(6).normal(size=(40, 1)) ** 3 + 1
    np.testing.assert_allclose(intervals.acceleration(5 - 3 * x), -intervals.acceleration(x))
    constant = np.full((5, 1), 0.1) + columns([0, 1e-17, 0, 0, 0])
    np.testing.assert_array_equal(intervals.acceleration(constant), [0.0])


def test_ties_count_half():
    z0 = intervals.median_bias(np.array([0.0, 1.0]), columns([0, 0, 1, 2], [1 - 1e-14, 1 + 1e-14, 0.5, 0.2]))
    np.testing.assert_allclose(z0, scipy.stats.norm.ppf([0.25, 0.75]))


def test_intervals_without_an_answer():
    """All on one side, an acceleration that turns the levels round, parameters without replicates."""
    x = columns(np.arange(1.0, 100), np.arange(1.0, 100), np.full(99, np.nan))
    t, a = np.array([0.0, 50.0, 1.0]), np.array([0.0, 2.0, 0.0])
    assert np.all(np.isnan(intervals.bca(t, x, a, 0.9)))
    for ends in (intervals.percentile(x, 0.9), intervals.basic(t, x, 0.9), intervals.normal(t, x, 0.9)):
        np.testing.assert_array_equal(np.isnan(ends), [[False] * 2, [False] * 2, [True] * 2])


def test_missing_replicates_are_left_out():
    x = np.random.default_rng(7).normal(size=200)
    some = x.copy()
    some[::5] = np.nan
    one = x[~np.isnan(some)][:, None]
    t, a = np.array([0.2]), np.array([0.05])
    for f in (
        lambda v: intervals.percentile(v, 0.8),
        lambda v: intervals.basic(t, v, 0.8),
        lambda v: intervals.normal(t, v, 0.8),
        lambda v: intervals.bca(t, v, a, 0.8),
    ):
        np.testing.assert_array_equal(f(some[:, None]), f(one))
