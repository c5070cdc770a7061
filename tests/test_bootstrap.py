"""Bootstrap: its intervals, its sources of responses, and the case bootstrap beside data frames with rows repeated."""

import dataclasses
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats

import jaxmm as mm
from jaxmm.batch.engine import fit_many
from jaxmm.batch.responses import ArrayResponses, Block
from jaxmm.batch.result import FitBatch
from jaxmm.batch.store import load
from jaxmm.optimize import Status
from jaxmm.studies import bootstrap as module
from jaxmm.studies import intervals
from jaxmm.studies.bootstrap import METHODS, Bootstrap, bootstrap, parameters
from jaxmm.studies.jackknife import leave_out
from jaxmm.studies.resample import Case, LeaveOneOut, Residual, outermost, reflate

KEY = jax.random.key(20)


# ---------------------------------------------------------------- intervals
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


# ---------------------------------------------------------------- reflation
@pytest.mark.parametrize("q", [1, 2, 3])
def test_reflated_modes_have_the_covariance(q):
    rng = np.random.default_rng(q)
    modes, root = rng.normal(size=(12, q)) @ rng.normal(size=(q, q)) + 3, rng.normal(size=(q, q))
    D = root @ root.T
    found = reflate(modes, D)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose(found.T @ found / 12, D, rtol=1e-12)
    centred = modes - modes.mean(axis=0)
    A = np.linalg.cholesky(D) @ np.linalg.inv(np.linalg.cholesky(centred.T @ centred / 12))  # of the paper
    np.testing.assert_allclose(found, centred @ A.T, rtol=1e-10)


@pytest.mark.parametrize(
    "L",
    [
        [[2.0, 0, 0], [1.0, 0, 0], [0.5, 0.3, 0]],
        [[0.0, 0, 0], [0.0, 1.5, 0], [0.0, 0.3, 1.0]],
        [[0.0, 0, 0], [3.0, 4.0, 0], [0.0, 0.0, 0]],
        [[1.0, 0, 0], [-2.0, 0, 0], [3.0, 0.0, 0]],
        [[0.0] * 3] * 3,
    ],
)
def test_reflation_to_a_singular_covariance(L):
    """The modes of a singular fit lie in the directions of D."""
    D = np.array(L) @ np.array(L).T
    modes = np.random.default_rng(1).normal(size=(30, 3)) @ D
    found = reflate(modes, D)
    np.testing.assert_allclose(found.T @ found / 30, D, atol=1e-12)


def test_reflation_needs_modes_that_vary():
    with pytest.raises(ValueError, match="2 levels do not vary in 2 directions"):
        reflate(np.random.default_rng(0).normal(size=(2, 2)), np.eye(2))
    with pytest.raises(ValueError, match="do not vary in 1 directions"):
        reflate(np.ones((5, 1)), np.eye(1))
    x = np.random.default_rng(0).normal(size=9)
    with pytest.raises(ValueError, match="do not vary in all directions"):
        reflate(np.column_stack([x, 2 * x]), np.eye(2))


# ---------------------------------------------------------------- sources
@pytest.fixture(scope="module")
def weighted():
    """Two crossed factors, one with two correlated effects; precisions and an offset."""
    rng = np.random.default_rng(8)
    n = 120
    data = pd.DataFrame({"g": np.arange(n) % 12, "h": rng.integers(0, 5, n), "x": rng.normal(size=n)})
    data["w"], data["o"] = rng.uniform(0.5, 3, n), rng.normal(size=n)
    b, c = rng.normal(size=(12, 2)) @ [[1.0, 0.4], [0, 0.8]], rng.normal(size=5)
    data["y"] = (
        2 + data.o + data.x + b[data.g, 0] + b[data.g, 1] * data.x + c[data.h] + rng.normal(size=n) / data.w**0.5
    )
    return mm.lmm("y ~ x + (x | g) + (1 | h)", data, weights="w", offset="o")


def test_residual_responses_have_the_moments_of_the_model(weighted):
    """The mean is Xβ + offset and the covariance ZDZ' + σ²/w, as exactly as can be seen in 20,000 of them."""
    d, n = weighted.model.design, 20_000
    y = np.asarray(Residual(weighted, n, KEY).block(0, n).y)
    V = np.diag(weighted.sigma**2 / d.weights)
    for f, factor in enumerate(d.factors):
        Z = np.hstack([t.Z for t in d.terms if t.factor == f])
        D = weighted.varcorr().cov[factor.name].to_numpy()
        V += (factor.codes[:, None] == factor.codes) * (Z @ D @ Z.T)
    e = y - (d.X @ weighted.fixef.to_numpy() + d.offset)
    assert np.max(np.abs(e.mean(axis=0)) / np.sqrt(np.diag(V) / n)) < 4.5
    square = np.einsum("ki,kj->ij", e, e) / n
    spread = np.sqrt(np.maximum(np.einsum("ki,kj->ij", e**2, e**2) / n - square**2, 0) / n)
    assert np.max(np.abs(square - V) / spread) < 5.5


def test_residuals_and_modes_are_reflated(weighted):
    source = Residual(weighted, 5, KEY)
    np.testing.assert_allclose(source.residuals.mean(), 0, atol=1e-14)
    np.testing.assert_allclose(source.residuals.std(), weighted.sigma)
    for factor, u in zip(weighted.model.design.factors, source.effects, strict=True):
        np.testing.assert_allclose(u.T @ u / len(u), weighted.varcorr().cov[factor.name], rtol=1e-10)


@pytest.mark.parametrize("make", [Residual, Case])
def test_a_replicate_depends_on_its_number_alone(sleep_reml, make):
    source = make(sleep_reml, 100, KEY)
    whole = [np.asarray(x) for x in source.block(0, 64) if x is not None]
    for first, size in ((0, 1), (3, 1), (5, 7), (10, 33), (1, 63)):
        part = [np.asarray(x) for x in make(sleep_reml, 9, KEY).block(first, size) if x is not None]
        for a, b in zip(part, whole, strict=True):
            assert a.dtype == np.float64
            np.testing.assert_array_equal(a, b[first : first + size])
    last = [np.asarray(x) for x in source.block(0, 2) if x is not None][-1]
    assert not np.array_equal(last[0], last[1])
    other = [np.asarray(x) for x in make(sleep_reml, 100, jax.random.key(21)).block(0, 1) if x is not None][-1]
    assert not np.array_equal(last[:1], other)


def test_identities_tell_sources_apart(sleep_reml, weighted):
    made = [make(fit, 9, jax.random.key(k)) for make in (Residual, Case) for fit in (sleep_reml,) for k in (0, 1)]
    made += [Residual(weighted, 9, jax.random.key(0)), LeaveOneOut(sleep_reml)]
    told = [str({k: v for k, v in s.identity().items() if k != "n"}) for s in made]
    assert len(set(told)) == len(told)
    assert made[0].identity() == Residual(sleep_reml, 9, jax.random.key(0)).identity()


def test_copies_are_multinomial(sleep_reml):
    n, J = 20_000, 18
    y, copies = Case(sleep_reml, n, KEY).block(0, n)
    copies = np.asarray(copies)
    np.testing.assert_array_equal(y[7], sleep_reml.model.design.y)
    np.testing.assert_array_equal(copies.sum(axis=1), J)
    assert np.array_equal(copies, np.round(copies)) and copies.min() == 0
    cov = np.cov(copies, rowvar=False)
    np.testing.assert_allclose(copies.mean(axis=0), 1, atol=4.5 / np.sqrt(n))
    np.testing.assert_allclose(cov, np.eye(J) - 1 / J, atol=0.06)
    counts = np.bincount(copies.astype(int).ravel(), minlength=19)[:5] / copies.size
    np.testing.assert_allclose(counts, scipy.stats.binom.pmf(np.arange(5), J, 1 / J), atol=0.005)


# ---------------------------------------------------------------- the case bootstrap beside repeated rows
@pytest.fixture(scope="module")
def schools():
    """Pupils in classes in schools, of unequal sizes, with a covariate and counts."""
    rng = np.random.default_rng(11)
    school = np.repeat(np.arange(9), rng.integers(10, 25, 9))
    klass = 3 * school + rng.integers(0, 3, len(school))
    data = pd.DataFrame({"school": school, "klass": klass, "x": rng.normal(size=len(school))})
    eta = 0.5 * data.x + rng.normal(size=9)[school] + 0.7 * rng.normal(size=27)[klass]
    data["y"] = eta + rng.normal(size=len(school))
    data["k"] = rng.poisson(np.exp(0.5 * eta))
    data["w"] = rng.uniform(0.5, 2, len(school))
    return data


def repeated(data: pd.DataFrame, factor: str, copies: np.ndarray, inner: tuple[str, ...] = ()) -> pd.DataFrame:
    """Each level as often as ``copies`` says, every copy a level of its own, and so the levels in it."""
    parts = []
    for level, times in zip(np.unique(data[factor]), copies.astype(int), strict=True):
        for k in range(times):
            own = data[data[factor] == level].copy()
            for name in (factor, *inner):
                own[name] = own[name].astype(str) + f".{k}"
            parts.append(own)
    return pd.concat(parts, ignore_index=True)


def same_fit(replicate, fit, has_theta=True):
    np.testing.assert_allclose(replicate.fixef, fit.fixef, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(replicate.bse, fit.bse, rtol=1e-4)
    np.testing.assert_allclose(replicate.loglik, fit.loglik, rtol=0, atol=1e-5)
    np.testing.assert_allclose(parameters(replicate), parameters(fit), rtol=1e-4, atol=1e-5)
    if has_theta:
        np.testing.assert_allclose(replicate.theta, fit.theta, rtol=1e-4, atol=1e-5)


MODELS = {
    "intercepts": (lambda d, **k: mm.lmm("y ~ x + (1 | school)", d, **k), ()),
    "slopes": (lambda d, **k: mm.lmm("y ~ x + (x | school)", d, reml=False, **k), ()),
    "weights": (lambda d, **k: mm.lmm("y ~ x + (1 | school)", d, weights="w", **k), ()),
    "nested": (lambda d, **k: mm.lmm("y ~ x + (1 | klass) + (1 | school)", d, **k), ("klass",)),
    "poisson": (lambda d, **k: mm.glmm("k ~ x + (1 | school)", d, "poisson", **k), ()),
    "poisson nested": (lambda d, **k: mm.glmm("k ~ x + (1 | klass) + (1 | school)", d, "poisson", **k), ("klass",)),
}


@pytest.mark.parametrize("name", MODELS)
def test_case_replicates_are_fits_of_repeated_rows(schools, name):
    make, inner = MODELS[name]
    fit = make(schools)
    assert fit.model.design.factors[outermost(fit.model)].name == "school"
    source = Case(fit, 3, KEY)
    batch = fit_many(fit.model, source, start=fit, progress=False)
    for k, copies in enumerate(np.asarray(source.block(0, 3).copies)):
        same_fit(batch[k], make(repeated(schools, "school", copies, inner)))


@pytest.mark.parametrize("name", ["slopes", "nested", "poisson"])
def test_leaving_out_a_level(schools, name):
    make, _ = MODELS[name]
    fit = make(schools)
    batch = leave_out(fit)
    assert isinstance(batch, FitBatch) and len(batch) == 9
    for j in (0, 5):
        same_fit(batch[j], make(schools[schools.school != j]))


def test_leaving_out_of_crossed_factors(weighted):
    """The levels of the factor with the fewest, by smaller models."""
    fits = list(leave_out(weighted))
    d = weighted.model.design
    assert [len(f.levels) for f in d.factors] == [12, 5] and len(fits) == 5
    frame = pd.DataFrame({f.name: f.codes for f in d.factors})
    frame = frame.assign(y=d.y, x=d.X[:, 1], w=d.weights, o=d.offset)
    direct = mm.lmm("y ~ x + (x | g) + (1 | h)", frame[frame.h != 2], weights="w", offset="o")
    np.testing.assert_allclose(parameters(fits[2]), parameters(direct), rtol=1e-4, atol=1e-6)
    a = intervals.acceleration(np.array([f.fixef for f in fits]))
    boot = small_boot(weighted)
    np.testing.assert_allclose(boot.acceleration[["(Intercept)", "x"]], a)


# ---------------------------------------------------------------- bootstrap()
def small_boot(fit, n=60, **options) -> Bootstrap:
    return bootstrap(fit, n, key=KEY, progress=False, **options)


@pytest.fixture(scope="module")
def boots(sleep_reml):
    return {kind: small_boot(sleep_reml, 399, kind=kind) for kind in ("parametric", "residual", "case")}


@pytest.mark.parametrize("kind", ["parametric", "residual", "case"])
def test_a_bootstrap_is_a_batch_and_more(boots, sleep_reml, kind):
    boot = boots[kind]
    assert isinstance(boot, FitBatch) and isinstance(boot, Bootstrap) and len(boot) == 399
    names = [c for c in boot.to_frame() if not c.startswith("se_")][1:-5]
    assert list(boot.observed.index) == list(boot.statistics) == names
    np.testing.assert_array_equal(boot.observed, parameters(sleep_reml))
    for k in (0, 398):
        np.testing.assert_allclose(boot.statistics.loc[k], parameters(boot[k]), rtol=1e-12)
    values = boot.to_frame()[names]
    np.testing.assert_allclose(boot.se, values.std(), rtol=1e-12)
    np.testing.assert_allclose(boot.bias, values.mean() - boot.observed, atol=1e-12)
    # the same order of magnitude as what the likelihood says
    np.testing.assert_allclose(boot.se[:2], sleep_reml.bse, rtol=0.2)
    for method in METHODS:
        table = boot.confint(method)
        assert list(table.columns) == ["lower", "upper", "estimate"] and list(table.index) == names
        assert np.all(table.lower < table.upper)
        inner = boot.confint(method, level=0.5)
        assert np.all((table.lower < inner.lower) & (inner.upper < table.upper))
    np.testing.assert_allclose(boot.confint()["lower"], np.quantile(values, 0.025, axis=0, method="weibull"))


def test_replicates_do_not_depend_on_how_many_there_are(boots, sleep_reml):
    for kind, boot in boots.items():
        few = bootstrap(sleep_reml, 20, key=KEY, kind=kind, progress=False, batch=7)
        np.testing.assert_allclose(few.fixef, boot.fixef[:20], atol=1e-8 * sleep_reml.bse.max())
        other = bootstrap(sleep_reml, 2, key=jax.random.key(1), kind=kind, progress=False)
        assert not np.any(other.fixef == boot.fixef[:2])


def test_parametric_replicates_are_simulated_and_refitted(sleep_reml):
    for re in ("new", "conditional"):
        boot = small_boot(sleep_reml, 2, re=re)
        for k, y in enumerate(sleep_reml.simulate(2, key=KEY, re=re)):
            np.testing.assert_allclose(parameters(boot[k]), parameters(sleep_reml.refit(y)), rtol=1e-4)


def test_conditional_replicates_are_about_these_subjects(sleep_reml):
    """The design is balanced, so that the intercept is the mean of the subjects' own: only the error is left in it."""
    se = small_boot(sleep_reml, 999, re="conditional").se
    expected = sleep_reml.sigma * np.sqrt((1 / 10 + 4.5**2 / 82.5) / 18)
    np.testing.assert_allclose(se["(Intercept)"], expected, rtol=4.5 / np.sqrt(2 * 999))


def test_a_generalised_model(schools):
    fit = MODELS["poisson"][0](schools)
    for kind in ("parametric", "case"):
        boot = small_boot(fit, 99, kind=kind)
        assert list(boot.observed.index) == ["(Intercept)", "x", "sd_(Intercept)|school"]
        np.testing.assert_allclose(boot.se["x"], fit.bse["x"], rtol=0.5)
        assert np.all(np.isfinite(boot.confint("bca")))
    with pytest.raises(
        ValueError, match=r"for models of lmm.*a poisson model of glmm.*kind='parametric' or kind='case'"
    ):
        small_boot(fit, kind="residual")


def test_a_fit_without_variance_between_groups():
    """Replicates of a singular fit are as likely to be singular; ties of zeros do not harm."""
    fit = mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff2"))
    sd = "sd_(Intercept)|Batch"
    assert fit.is_singular
    for kind in ("parametric", "residual"):
        boot = small_boot(fit, 199, kind=kind)
        assert boot.singular > 50 and f"{boot.singular} singular" in repr(boot)
        table = boot.confint("bca", parm=sd)
        assert table.loc[sd, "lower"] == 0 and table.loc[sd, "upper"] > 0.3


# ---------------------------------------------------------------- statistics
def ratio(fit):
    return fit.varcorr().cov["Subject"].iloc[1, 1] / fit.sigma**2


def test_statistics_of_ones_own(sleep_reml):
    boot = small_boot(sleep_reml, statistic=ratio)
    assert list(boot.observed.index) == ["ratio"]
    np.testing.assert_allclose(boot.observed.iloc[0], ratio(sleep_reml))
    np.testing.assert_allclose(boot.statistics["ratio"], boot.varcorr_sd[:, 1] ** 2 / boot.sigma**2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = boot.confint("bca")
    assert table.loc["ratio", "lower"] < table.loc["ratio", "estimate"] < table.loc["ratio", "upper"]
    several = small_boot(sleep_reml, 9, statistic=lambda f: np.append(f.fixef, f.deviance))
    assert list(several.observed.index) == ["statistic[0]", "statistic[1]", "statistic[2]"]
    np.testing.assert_allclose(several.statistics["statistic[2]"], several.deviance)
    named = small_boot(sleep_reml, 9, statistic=lambda f: f.fixef * 2)
    pd.testing.assert_series_equal(named.observed, 2 * sleep_reml.fixef, check_names=False)
    np.testing.assert_allclose(named.statistics["Days"], 2 * named.fixef[:, 1])


def test_statistics_that_are_none(sleep_reml):
    for bad in ("text", [[1.0]], None, pd.DataFrame({"a": [1.0]})):
        with pytest.raises(TypeError, match=r"must return a number, an array \(k,\) or a Series"):
            small_boot(sleep_reml, statistic=lambda f, bad=bad: bad)
    with pytest.raises(TypeError, match="statistic must be a function of a fit"):
        small_boot(sleep_reml, statistic=3)
    with pytest.raises(AttributeError, match="no 'ranef'"):
        _ = small_boot(sleep_reml, 2, statistic=lambda f: f.ranef()["Subject"].iloc[0, 0]).statistics
    sizes = iter(range(1, 100))
    uneven = small_boot(sleep_reml, 2, statistic=lambda f: np.ones(next(sizes)))
    with pytest.raises(ValueError, match=r"statistic returned .*\[0\].* for the fit, but .* for replicate 0"):
        _ = uneven.statistics


# ---------------------------------------------------------------- failures, selections, files
@pytest.fixture
def failing(monkeypatch):
    """Every third response is not a number."""

    def spoiled(fit, n, key, kind, re):
        y = fit.simulate(n, key=key)
        y[::3] = np.nan
        return ArrayResponses(y)

    monkeypatch.setattr(module, "_source", spoiled)


@pytest.mark.usefixtures("failing")
def test_failed_replicates_are_left_out(sleep_reml):
    with pytest.warns(UserWarning, match=r"20 of 60 replicates failed and are left out \(33.3 %\)"):
        boot = small_boot(sleep_reml)
    assert boot.failed == 20 and np.all(np.isnan(boot.statistics.iloc[::3]))
    assert "20 failed and are left out" in repr(boot)
    kept = boot.take(boot.converged)
    assert isinstance(kept, Bootstrap) and len(kept) == 40 and kept.failed == 0
    for method in ("percentile", "basic", "normal"):
        pd.testing.assert_frame_equal(boot.confint(method), kept.confint(method))
    np.testing.assert_array_equal(boot.bias, kept.bias)
    own = Bootstrap(**boot.arrays(), names=boot.names, fit=sleep_reml, kind="case", statistic=lambda f: f.loglik)
    assert np.isnan(own.statistics).sum().item() == 20


def test_a_correlation_that_does_not_exist(boots):
    boot = boots["parametric"]
    assert "  of" not in repr(boot)
    corr = boot.varcorr_corr.copy()
    corr[:10] = np.nan
    some = dataclasses.replace(boot, varcorr_corr=corr)
    line = next(x for x in repr(some).splitlines() if x.startswith("cor_"))
    assert line.split()[-1] == "389"
    assert np.all(np.isfinite(some.confint()))


def test_printed_form(boots):
    lines = repr(boots["residual"]).splitlines()
    assert lines[0].startswith("Residual bootstrap of Reaction ~ Days + (Days | Subject): 399 replicates, ")
    assert lines[2].split() == ["estimate", "bias", "SE", "2.5", "%", "97.5", "%"]
    days = next(line for line in lines if line.startswith("Days")).split()
    boot = boots["residual"]
    expected = [10.467286, boot.bias["Days"], boot.se["Days"], *boot.confint().loc["Days", ["lower", "upper"]]]
    np.testing.assert_allclose(np.array(days[1:], float), expected, rtol=2e-3)
    assert max(map(len, lines)) < 100


def test_results_in_a_folder_go_on(sleep_reml, tmp_path, boots):
    first = bootstrap(sleep_reml, 50, key=KEY, progress=False, out=tmp_path / "b")
    again = bootstrap(sleep_reml, 120, key=KEY, progress=False, out=tmp_path / "b")
    assert isinstance(again, Bootstrap) and len(again) == 120
    np.testing.assert_array_equal(again.fixef[:50], first.fixef)
    np.testing.assert_allclose(again.fixef, boots["parametric"].fixef[:120], atol=1e-7)
    with pytest.raises(ValueError, match="another study"):
        bootstrap(sleep_reml, 120, key=KEY, kind="residual", progress=False, out=tmp_path / "b")
    again.save(tmp_path / "file")
    np.testing.assert_array_equal(load(tmp_path / "file").theta, again.theta)


# ---------------------------------------------------------------- what is refused
def test_bad_input(sleep_reml, weighted):
    good = {"key": KEY, "progress": False}
    for n in (1, 0, -3, 2.5, True, None):
        with pytest.raises(ValueError, match="n must be a number of replicates, at least 2"):
            bootstrap(sleep_reml, n, **good)
    with pytest.raises(TypeError, match="key must be one JAX key"):
        bootstrap(sleep_reml, 9, key=1)
    with pytest.raises(TypeError, match=r"takes a fit.*not Model"):
        bootstrap(sleep_reml.model, 9, **good)
    with pytest.raises(ValueError, match="kind must be one of 'parametric', 'residual', 'case', not 'wild'"):
        bootstrap(sleep_reml, 9, kind="wild", **good)
    with pytest.raises(ValueError, match="re must be 'new' or 'conditional', not 'old'"):
        bootstrap(sleep_reml, 9, re="old", **good)
    with pytest.raises(ValueError, match="re='conditional' is for kind='parametric'"):
        bootstrap(sleep_reml, 9, kind="case", re="conditional", **good)
    with pytest.raises(ValueError, match=r"'g' and 'h' are crossed.*use kind='parametric', or kind='residual'"):
        bootstrap(weighted, 9, kind="case", **good)
    with pytest.raises(TypeError, match=r"no keyword 'nsim': the number of replicates is n="):
        bootstrap(sleep_reml, 9, nsim=3, **good)


def test_bad_questions(boots):
    boot = boots["parametric"]
    with pytest.raises(ValueError, match="method must be one of 'percentile', 'basic', 'normal', 'bca', not 'perc'"):
        boot.confint("perc")
    for level in (0, 1, 95, -0.1, np.nan):
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            boot.confint(level=level)
    with pytest.raises(KeyError, match=r"no parameter 'days'; there are .*'Days'"):
        boot.confint(parm="days")
    assert list(boot.confint(parm=["sigma", "Days"]).index) == ["sigma", "Days"]
    with pytest.raises(TypeError, match="level=1 - alpha"):
        boot.confint(alpha=0.1)


def test_too_few_replicates_for_the_level(boots):
    boot = boots["parametric"]
    with pytest.warns(UserWarning, match="38 replicates are too few for intervals of level 0.95.*n = 39"):
        boot.take(slice(0, 38)).confint()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boot.take(slice(0, 39)).confint()
        boot.take(slice(0, 38)).confint("normal")


def test_no_bca_interval_says_so(boots):
    boot = boots["parametric"]
    high = boot.take(boot.sigma > boot.fit.sigma)
    with pytest.warns(UserWarning, match="no BCa interval for sigma: all replicates lie on one side"):
        table = high.confint("bca")
    assert np.isnan(table.loc["sigma", ["lower", "upper"]]).all() and np.isfinite(table.loc["Days"]).all()


def test_a_fit_that_did_not_converge(sleepstudy):
    model = mm.Model.from_formula("Reaction ~ Days + (Days | Subject)", sleepstudy)
    fit = model.fit(control={"max_iterations": 1})
    assert not fit.converged
    with pytest.warns(UserWarning, match=r"the fit did not converge \(stopped at the iteration limit"):
        boot = small_boot(fit, 9)
    assert np.all(boot.status == Status.CONVERGED)


def test_blocks_are_what_the_engine_takes(sleep_reml):
    block = LeaveOneOut(sleep_reml).block(3, 2)
    assert isinstance(block, Block)
    np.testing.assert_array_equal(block.copies, 1 - np.eye(18)[3:5])
    assert block.y.shape == (2, 180)
