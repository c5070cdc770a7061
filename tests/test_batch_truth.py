"""as_truth: parameters stated or fitted -> beta, lams, sigma, phi; what cannot be is refused by name."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.sources.truth import Truth, as_truth

RNG = np.random.default_rng(0)
N = 240
DATA = pd.DataFrame(
    {
        "y": RNG.normal(size=N),
        "n": RNG.poisson(3.0, N),
        "x": RNG.normal(size=N),
        "z": RNG.normal(size=N),
        "g": np.repeat([f"g{i:02}" for i in range(24)], 10),
        "h": np.tile([f"h{i}" for i in range(8)], 30),
    }
)
GOOD = {"fixef": [1.0, 2.0], "sd": {"g": [3.0, 0.5]}, "sigma": 2.0}


def model(formula="y ~ x + (x | g)", family=None) -> mm.Model:
    return mm.Model.from_formula(formula, DATA, family)


SLOPES = model()
CROSSED = model("y ~ x + (1 | h) + (x || g)")
THREE = model("y ~ 1 + (x + z | g)")


# ---------------------------------------------------------------- what it means
def test_covariances_are_those_stated():
    t = as_truth(SLOPES, GOOD | {"corr": {"g": -0.3}})
    np.testing.assert_array_equal(t.beta, [1, 2])
    np.testing.assert_allclose(t.lams[0] @ t.lams[0].T, [[9, -0.45], [-0.45, 0.25]], rtol=1e-15)
    assert t.lams[0][0, 1] == 0 and (t.sigma, t.phi) == (2.0, 4.0)
    np.testing.assert_allclose(t.theta(SLOPES), [1.5, -0.075, 0.25 * np.sqrt(1 - 0.09)], rtol=1e-14)


@pytest.mark.parametrize(
    "same",
    [
        {"fixef": {"x": 2.0, "(Intercept)": 1.0}},
        {"fixef": pd.Series({"x": 2.0, "(Intercept)": 1.0})},
        {"sd": {"g": {"x": 0.5, "(Intercept)": 3.0}}},
        {"sd": {"g": pd.Series({"x": 0.5, "(Intercept)": 3.0})}},
        {"corr": {"g": [[1.0, 0.5], [0.5, 1.0]]}},
        {"corr": {"g": {("x", "(Intercept)"): 0.5}}},
        {"corr": {"g": pd.DataFrame([[1, 0.5], [0.5, 1]], ["x", "(Intercept)"], ["x", "(Intercept)"])}},
    ],
)
def test_spellings(same):
    given = GOOD | {"corr": {"g": 0.5}}
    one, other = as_truth(SLOPES, given), as_truth(SLOPES, given | same)
    np.testing.assert_array_equal(other.beta, one.beta)
    np.testing.assert_array_equal(other.lams[0], one.lams[0])


def test_a_variance_is_one_spelling_of_the_dispersion():
    assert as_truth(SLOPES, {k: v for k, v in GOOD.items() if k != "sigma"} | {"dispersion": 4.0}).sigma == 2.0


def test_numbers_alone():
    m = model("y ~ 1 + (1 | g)")
    t = as_truth(m, {"fixef": 1.5, "sd": 0.7, "sigma": 1})
    assert t.beta.tolist() == [1.5] and t.lams[0].tolist() == [[0.7]]


def test_factors_in_the_order_of_the_design():
    """theta meets them by decreasing number of levels, the design as the formula does."""
    t = as_truth(CROSSED, {"fixef": [0, 0], "sd": {"g": [2.0, 3.0], "h": 1.0}, "sigma": 2.0})
    assert [lam.tolist() for lam in t.lams] == [[[1.0]], [[2.0, 0.0], [0.0, 3.0]]]
    np.testing.assert_array_equal(t.theta(CROSSED), [1.0, 1.5, 0.5])


@pytest.mark.parametrize("r", [1.0, -1.0])
def test_a_perfect_correlation(r):
    t = as_truth(SLOPES, GOOD | {"corr": {"g": r}})
    np.testing.assert_allclose(t.lams[0] @ t.lams[0].T, [[9, 1.5 * r], [1.5 * r, 0.25]], rtol=1e-14)
    np.testing.assert_allclose(t.theta(SLOPES), [1.5, 0.25 * r, 0], atol=1e-15)


def test_a_singular_matrix_of_three():
    R = np.array([[1, 0.6, 0.8], [0.6, 1, 0.0], [0.8, 0.0, 1]])  # of rank two
    t = as_truth(THREE, {"fixef": 0, "sd": {"g": [1, 2, 3]}, "corr": {"g": R}, "sigma": 1})
    np.testing.assert_allclose(t.lams[0] @ t.lams[0].T, R * np.outer([1, 2, 3], [1, 2, 3]), atol=1e-14)
    assert np.all(np.triu(t.lams[0], 1) == 0) and np.all(np.diag(t.lams[0]) >= 0)


def test_no_variance():
    t = as_truth(SLOPES, GOOD | {"sd": {"g": [0.0, 0.5]}, "corr": {"g": [[np.nan, np.nan], [np.nan, 1]]}})
    np.testing.assert_array_equal(t.lams[0], [[0, 0], [0, 0.5]])
    np.testing.assert_array_equal(t.theta(SLOPES), [0, 0, 0.25])


# ---------------------------------------------------------------- fits
def fit_of(name: str) -> mm.Fit:
    """One of the search, and one of stated estimates: what counts is how they are read."""
    if name == "linear":
        return model("y ~ x + (x | g) + (1 | h)").fit()
    stated = SimpleNamespace(beta=np.array([0.5, -1.0]), theta=np.array([0.3, 0.0]), log_phi=np.array([0.7]))
    return mm.Fit(model("n ~ x + (x || g)", name), stated, mm.Control())


@pytest.mark.parametrize("name", ["linear", "nbinom2"])
def test_of_a_fit(name):
    fit = fit_of(name)
    t = as_truth(fit.model, fit)
    np.testing.assert_allclose(t.theta(fit.model), fit.theta, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(t.beta, fit.fixef)
    assert t.sigma == fit.sigma and t.phi == (fit.dispersion or 1.0)
    v = fit.varcorr()
    for factor, lam in zip(fit.model.design.factors, t.lams, strict=True):
        np.testing.assert_allclose(lam @ lam.T, v.cov[factor.name], rtol=1e-12, atol=1e-15)
    # its tables, read back, are the same truth
    stated = {"fixef": fit.fixef, "sd": v.sd, "corr": v.corr}
    stated |= {"sigma": fit.sigma} if fit.family.has_scale else {}
    stated |= {"dispersion": fit.dispersion} if fit.family.num_phi and not fit.family.has_scale else {}
    again = as_truth(fit.model, stated)
    for a, b in zip(again.lams, t.lams, strict=True):
        np.testing.assert_allclose(a @ a.T, b @ b.T, rtol=1e-7, atol=1e-12)


def test_a_truth_is_itself():
    t = as_truth(SLOPES, GOOD)
    again = as_truth(SLOPES, t)
    np.testing.assert_array_equal(again.lams[0], t.lams[0])
    assert (again.sigma, again.phi) == (t.sigma, t.phi)


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"theta": [1.0]}, "truth has no key 'theta'; accepted: 'fixef', 'sd', 'corr', 'sigma', 'dispersion'"),
        ({"fixef": {"(Intercept)": 1.0}}, "fixef lacks 'x'; it needs '(Intercept)', 'x'"),
        ({"fixef": {"(Intercept)": 1.0, "z": 1.0}}, "fixef has no column 'z'; accepted: '(Intercept)', 'x'"),
        ({"fixef": 1.0}, "fixef must be 2 numbers, of '(Intercept)', 'x'; got one number"),
        ({"fixef": [1.0, np.nan]}, "fixef: the number of 'x' is nan, and must be finite"),
        ({"fixef": ["a", "b"]}, "fixef must be numbers"),
        ({"sd": 1.0}, "sd must be a mapping grouping factor"),
        ({"sd": {}}, "sd lacks the grouping factor 'g', with the effects '(Intercept)', 'x'"),
        ({"sd": {"g": [1.0, 1.0], "k": 1.0}}, "sd has no grouping factor 'k'; accepted: 'g'"),
        ({"sd": {"g": {"x": 1.0}}}, "sd of 'g' lacks '(Intercept)'; it needs '(Intercept)', 'x'"),
        ({"sd": {"g": {"x": 1.0, "z": 1.0}}}, "sd of 'g' has no effect 'z'"),
        ({"sd": {"g": 1.0}}, "sd of 'g' must be 2 numbers, of '(Intercept)', 'x'; got one number"),
        ({"sd": {"g": [1.0, -1.0]}}, "the standard deviation of 'x' is negative, -1"),
        ({"sd": {"g": [1.0, np.inf]}}, "sd of 'g': the number of 'x' is inf, and must be finite"),
        ({"corr": 0.5}, "corr must be a mapping"),
        ({"corr": {"h": 0.5}}, "corr has no grouping factor 'h'; accepted: 'g'"),
        ({"corr": {"g": 1.5}}, "the correlation of '(Intercept)' and 'x' is 1.5, not in [-1, 1]"),
        ({"corr": {"g": np.nan}}, "corr of 'g' must be a finite number"),
        ({"corr": {"g": [[1, 0.5], [0.4, 1]]}}, "symmetric with ones on its diagonal"),
        ({"corr": {"g": [[1, np.nan], [np.nan, 1]]}}, "not finite"),
        ({"corr": {"g": [1.0, 0.5]}}, "a matrix of '(Intercept)', 'x'; got shape (2,)"),
        ({"corr": {"g": {("x", "z"): 0.5}}}, "('x', 'z') is no pair of two effects"),
        ({"corr": {"g": {("x", "(Intercept)"): 0.5, ("(Intercept)", "x"): 0.4}}}, "two values for"),
        ({"sigma": None}, "truth lacks 'sigma', the residual standard deviation"),
        ({"sigma": -1.0}, "sigma must be positive, not -1"),
        ({"sigma": np.nan}, "sigma must be a finite number"),
        ({"dispersion": 4.0}, "both 'sigma' and 'dispersion'"),
    ],
)
def test_refused(wrong, words):
    with pytest.raises(ValueError) as e:
        as_truth(SLOPES, GOOD | wrong)
    assert words in str(e.value)


def test_fixed_effects_and_deviations_are_needed():
    for name in ("fixef", "sd"):
        with pytest.raises(ValueError, match=f"truth lacks '{name}'"):
            as_truth(SLOPES, {k: v for k, v in GOOD.items() if k != name})


def test_an_impossible_matrix():
    R = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    with pytest.raises(ValueError, match="corr of 'g' is impossible"):
        as_truth(THREE, {"fixef": 0, "sd": {"g": [1, 2, 3]}, "corr": {"g": R}, "sigma": 1})
    with pytest.raises(ValueError, match="a number is for two effects, and there are"):
        as_truth(THREE, {"fixef": 0, "sd": {"g": [1, 2, 3]}, "corr": {"g": 0.2}, "sigma": 1})


def test_a_correlation_that_the_model_does_not_have():
    words = "no correlation of '\\(Intercept\\)' and 'x' within 'g'"
    given = {"fixef": [0, 0], "sd": {"g": [1.0, 1.0], "h": 1.0}, "sigma": 1.0}
    with pytest.raises(ValueError, match=words):
        as_truth(CROSSED, given | {"corr": {"g": 0.2}})
    t = as_truth(CROSSED, given)
    with pytest.raises(ValueError, match=words):
        as_truth(CROSSED, replace(t, lams=(t.lams[0], np.array([[1.0, 0.0], [0.5, 1.0]]))))
    assert as_truth(CROSSED, given | {"corr": {"g": 0.0}}).lams[1].tolist() == t.lams[1].tolist()


def test_a_dispersion_where_the_family_has_one():
    given = {"fixef": 0.0, "sd": 1.0}
    poisson, nbinom = model("n ~ 1 + (1 | g)", "poisson"), model("n ~ 1 + (1 | g)", "nbinom2")
    assert as_truth(poisson, given).phi == 1.0
    for name in ("sigma", "dispersion"):
        with pytest.raises(ValueError, match=f"the poisson family has no {name}: leave '{name}' out"):
            as_truth(poisson, given | {name: 1.0})
    t = as_truth(nbinom, given | {"dispersion": 3.0})
    assert (t.sigma, t.phi) == (1.0, 3.0)
    with pytest.raises(ValueError, match="truth lacks 'dispersion', the family's φ"):
        as_truth(nbinom, given)
    with pytest.raises(ValueError, match="the nbinom2 family has no sigma; it has 'dispersion'"):
        as_truth(nbinom, given | {"sigma": 1.0})
    with pytest.raises(ValueError, match="dispersion must be positive, not 0"):
        as_truth(nbinom, given | {"dispersion": 0.0})


def test_theta_is_relative_to_sigma():
    exact = as_truth(SLOPES, GOOD | {"sigma": 0.0})
    with pytest.raises(ValueError, match="sigma is 0"):
        exact.theta(SLOPES)


def test_the_fit_of_another_model(sleep_reml):
    with pytest.raises(ValueError, match=r"the fit of another model: its fixed effects are '\(Intercept\)', 'Days'"):
        as_truth(SLOPES, sleep_reml)
    fit = SLOPES.fit()
    with pytest.raises(ValueError, match="the fit of another model: its random effects are"):
        as_truth(CROSSED, fit)
    with pytest.raises(ValueError, match="the fit of another model: its family is"):
        as_truth(model("n ~ x + (x | g)", "poisson"), fit)


def test_objects_of_another_kind():
    with pytest.raises(TypeError, match="truth must be a Fit, or a mapping with 'fixef'"):
        as_truth(SLOPES, [1.0, 2.0])  # pyright: ignore
    with pytest.raises(ValueError, match="truth has beta of shape"):
        as_truth(SLOPES, Truth(np.zeros(3), (np.eye(2),), 1.0, 1.0))
    with pytest.raises(ValueError, match="truth has lams of shapes"):
        as_truth(SLOPES, Truth(np.zeros(2), (np.eye(1),), 1.0, 1.0))
    with pytest.raises(ValueError, match="not finite"):
        as_truth(SLOPES, Truth(np.zeros(2), (np.eye(2),), np.nan, 1.0))
