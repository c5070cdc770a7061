"""Bootstrap: case replicates beside data frames with rows repeated, what it returns, prints and refuses."""

import dataclasses
import warnings

import jax
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.batch.engine import fit_many
from jaxmm.optimize import Status
from jaxmm.results.result import FitBatch
from jaxmm.results.store import load
from jaxmm.sources.resample import Case, outermost
from jaxmm.sources.responses import ArrayResponses
from jaxmm.studies import bootstrap as module
from jaxmm.studies import intervals
from jaxmm.studies.bootstrap import METHODS, Bootstrap, bootstrap, parameters
from jaxmm.studies.jackknife import leave_out

KEY = jax.random.key(20)
WIDTH = 64  # of short runs by default: long ones of the same width take their programs


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
    return {kind: small_boot(sleep_reml, 399, kind=kind, batch=WIDTH) for kind in ("parametric", "residual", "case")}


@pytest.mark.parametrize("kind", ["parametric", "residual", "case"])
def test_a_bootstrap_is_a_batch_and_more(boots, sleep_reml, kind):
    boot = boots[kind]
    assert isinstance(boot, FitBatch) and isinstance(boot, Bootstrap) and len(boot) == 399
    names = [c for c in boot.to_frame() if not c.startswith("se_")][1:-6]
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
    se = small_boot(sleep_reml, 999, re="conditional", batch=WIDTH).se
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
    own = dataclasses.replace(boot, kind="case", statistic=lambda f: f.loglik)
    assert np.isnan(own.statistics).sum().item() == 20


def test_a_correlation_that_does_not_exist(boots):
    boot = boots["parametric"]
    assert "  of" not in repr(boot)
    corr = boot.varcorr_corr.copy()
    corr[:10] = np.nan
    some = boot.with_columns(varcorr_corr=corr)
    line = [x for x in repr(some).splitlines() if x.startswith("cor_")][-1]  # of the last columns
    assert line.split()[-1] == "389"
    assert np.all(np.isfinite(some.confint()))


def test_printed_form(boots):
    lines = repr(boots["residual"]).splitlines()
    assert lines[0] == "Residual bootstrap of Reaction ~ Days + (Days | Subject)"
    assert lines[1].startswith("399 replicates, ")
    assert lines[3].split() == ["estimate", "bias", "SE", "2.5", "%", "97.5", "%"]
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
    with pytest.raises(TypeError, match="key must be a seed"):
        bootstrap(sleep_reml, 9, key=1.0)
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
    with pytest.raises(ValueError, match=r"no parameter 'days'; there are .*'Days'"):
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
