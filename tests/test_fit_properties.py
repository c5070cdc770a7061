"""Identities that every fit satisfies: the decomposition of D, the boundary, nothing compiled twice, pickles."""

import pickle
from functools import cache

import jax
import numpy as np
import pytest
from helpers import close

import jaxmm as mm

FITS = {
    "one factor, q = 1": ("dyestuff", "Yield ~ 1 + (1 | Batch)"),
    "one factor, q = 2": ("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
    "independent effects": ("sleepstudy", "Reaction ~ Days + (Days || Subject)"),
    "crossed": ("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)"),
    "nested": ("pastes", "strength ~ 1 + (1 | batch/cask)"),
}


@cache
def fitted(name: str, reml: bool) -> mm.Fit:
    data, formula = FITS[name]
    return mm.lmm(formula, mm.datasets.load(data), reml=reml)


CASES = [(name, reml) for name in FITS for reml in (True, False) if reml or name != "independent effects"]


@pytest.fixture(params=CASES, ids=lambda p: f"{p[0]}, {'REML' if p[1] else 'ML'}")
def fit(request) -> mm.Fit:
    return fitted(*request.param)


# ---------------------------------------------------------------- shrinkage
def test_the_conditional_variance_and_the_modes_add_up_to_the_population(fit):
    """Exact at a stationary point, in the elements of D that are free."""
    assert fit.converged and not fit.is_singular
    account = fit.shrinkage()
    for group, D in account.D.items():
        gap, size = np.asarray(account.gap[group]), np.sqrt(np.diag(D))
        free = np.asarray(D) != 0
        np.testing.assert_allclose((gap / np.outer(size, size))[free], 0, atol=1e-6)
        assert np.all(np.diag(account.cov_modes[group]) < np.diag(D))
        assert np.all(account.factor[group] < 1) and np.all(account.by_level[group].iloc[:, :-1] > 0)
    assert "exactly so" in str(account)


def test_the_modes_are_centred_where_the_mean_is_free(fit):
    """X'V^-1(y - Xβ) = 0 makes the modes of an intercept, or of a slope beside its own fixed effect, sum to zero."""
    for table in fit.ranef().values():
        np.testing.assert_allclose(table.sum() / table.abs().sum(), 0, atol=1e-7)


# ---------------------------------------------------------------- the boundary
@pytest.fixture(scope="module", params=[True, False], ids=["REML", "ML"])
def boundary(request):
    """Box & Tiao's second dyestuff data: the variance between batches is estimated as zero."""
    return mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff2"), reml=request.param)


def test_a_variance_of_zero_is_an_ordinary_estimate(boundary):
    data = mm.datasets.load("dyestuff2")
    fit, y = boundary, data["Yield"].to_numpy()
    assert fit.converged and fit.is_singular and fit.singular_terms == ["(1 | Batch)"]
    np.testing.assert_allclose(fit.theta, 0, atol=1e-7)
    np.testing.assert_allclose(fit.sigma, np.std(y, ddof=int(fit.reml)), rtol=1e-12)
    np.testing.assert_allclose(fit.bse.iloc[0], fit.sigma / np.sqrt(30), rtol=1e-12)
    ranef = fit.ranef()
    np.testing.assert_allclose(ranef["Batch"], 0, atol=1e-10)
    np.testing.assert_allclose(ranef.cond_cov["Batch"], 0, atol=1e-10)
    close(fit.fitted(), np.full(30, y.mean()), 1e-10)
    close(fit.predict(data.iloc[:3]), np.full(3, y.mean()), 1e-10)
    assert np.all(np.isfinite(fit.simulate(2, key=jax.random.key(0))))
    assert fit.diagnostics.eigenvalue > 0  # a minimum, not a saddle


def test_every_table_of_a_singular_fit_is_finite_and_says_so(boundary):
    fit = boundary
    numbers = [fit.vcov(), fit.confint(), fit.pvalues, fit.augment(), fit.marginal_coef(), *fit.coef().values()]
    for table in numbers:
        assert np.all(np.isfinite(np.asarray(table, float)))
    assert np.all(np.isfinite([fit.aic, fit.bic, fit.loglik, fit.diagnostics.decrement]))
    account = fit.shrinkage()
    for part in (account.D, account.mean_cond_cov, account.cov_modes, account.factor, account.by_level, account.sum):
        numbers = part["Batch"].drop(columns="n_obs", errors="ignore")
        np.testing.assert_allclose(numbers, 0, atol=1e-10)
    assert "estimated as zero" in str(account)
    assert "singular" in str(fit) and "nan" not in str(fit).lower() and "nan" not in str(account).lower()


# ---------------------------------------------------------------- compiled once
def fitted_now(name: str) -> mm.Fit:
    """Not one of ``fitted``, whose programs may have been let go since."""
    data, formula = FITS[name]
    return mm.lmm(formula, mm.datasets.load(data))


def use(fit: mm.Fit) -> list:
    return [str(fit), fit.ranef().cond_cov, fit.fitted(), str(fit.shrinkage()), fit.predict(re="population")]


def test_the_listener_hears_a_compilation(programs):
    jax.jit(lambda x: x + 41)(1.0)
    assert programs


@pytest.mark.parametrize("name", ["one factor, q = 2", "crossed", "nested"])
def test_refit_compiles_nothing(name, programs):
    fit = fitted_now(name)
    use(fit)
    fit.simulate(3, key=jax.random.key(1))
    programs.clear()
    for row in fit.simulate(3, key=jax.random.key(2)):
        use(fit.refit(row))
    assert programs == []


def test_a_second_data_set_of_the_same_shapes_compiles_nothing(programs, sleepstudy):
    fit = fitted_now("one factor, q = 2")
    use(fit)
    rng = np.random.default_rng(0)
    new = sleepstudy.assign(Reaction=rng.normal(size=180), Days=rng.permutation(sleepstudy["Days"]) * 2.5)
    new["Subject"] = [f"person {k}" for k in rng.permutation(sleepstudy["Subject"].cat.codes)]
    programs.clear()
    use(mm.lmm("Reaction ~ Days + (Days | Subject)", new))
    fewer = new.iloc[::2].set_axis(["y", "age", "who"], axis=1)  # other names; rows are no shape of a program
    use(mm.lmm("y ~ age + (age | who)", fewer))
    assert programs == []


# ---------------------------------------------------------------- pickles
@pytest.mark.parametrize("name", ["one factor, q = 2", "crossed"])
def test_a_pickled_fit_says_the_same(name):
    fit = fitted(name, True)
    again = pickle.loads(pickle.dumps(fit))
    assert str(again) == str(fit) and str(again.shrinkage()) == str(fit.shrinkage())
    assert str(again.model) == str(fit.model)
    for group, table in fit.ranef().items():
        np.testing.assert_array_equal(again.ranef()[group], table)
        np.testing.assert_array_equal(again.ranef().cond_cov[group], fit.ranef().cond_cov[group])
    data = mm.datasets.load(FITS[name][0])
    np.testing.assert_array_equal(again.predict(data.iloc[:9]), fit.predict(data.iloc[:9]))
    y = fit.simulate(key=jax.random.key(5))[0]
    np.testing.assert_array_equal(again.simulate(key=jax.random.key(5))[0], y)
    assert again.refit(y).deviance == fit.refit(y).deviance


def test_a_pickled_fit_does_not_carry_its_statistics():
    assert len(pickle.dumps(fitted("one factor, q = 1", True))) < 20_000
