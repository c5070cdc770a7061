"""What a change of the data or of the way of solving must change in a fit, and that it changes nothing else."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import close, replanned

import jaxmm as mm

FORMULA = "Reaction ~ Days + (Days | Subject)"
CROSSED = "diameter ~ 1 + (1 | plate) + (1 | sample)"


@pytest.fixture(scope="module", params=[True, False], ids=["REML", "ML"])
def pair(request, sleep_reml, sleep_ml):
    """A fit, and the same fit of other data."""
    fit = sleep_reml if request.param else sleep_ml
    return fit, lambda data, formula=FORMULA, **arguments: mm.lmm(formula, data, reml=request.param, **arguments)


@pytest.fixture(scope="module")
def penicillin():
    data = mm.datasets.load("penicillin")
    return data, mm.lmm(CROSSED, data)


def assert_same(a: mm.Fit, b: mm.Fit, rtol=1e-7):
    """Everything but the rows: estimates, their covariance, the deviance, the random effects by label."""
    np.testing.assert_allclose(b.deviance, a.deviance, rtol=1e-11)
    for quantity in ("fixef", "bse", "theta", "sigma"):
        close(getattr(b, quantity), getattr(a, quantity), rtol)
    for group, table in a.ranef().items():
        other = b.ranef()[group].loc[table.index]
        close(other, table, rtol)
        where = [list(b.ranef()[group].index).index(label) for label in table.index]
        close(b.ranef().cond_cov[group][where], a.ranef().cond_cov[group], rtol)
        close(b.varcorr().cov[group], a.varcorr().cov[group], rtol)


# ---------------------------------------------------------------- the rows
def test_shuffled_rows(pair, sleepstudy):
    fit, again = pair
    shuffled = sleepstudy.sample(frac=1, random_state=1)
    other = again(shuffled)
    assert_same(fit, other)
    assert list(other.fitted().index) == list(shuffled.index)
    close(other.fitted()[sleepstudy.index], fit.fitted(), 1e-9)
    close(other.residuals()[sleepstudy.index], fit.residuals(), 1e-7)


def test_relabelled_levels(pair, sleepstudy):
    """Other names, and so another order: Subject 308 becomes s92, and the largest comes first."""
    fit, again = pair
    names = {s: f"s{400 - int(s)}" for s in sleepstudy["Subject"].unique()}
    other = again(sleepstudy.assign(Subject=sleepstudy["Subject"].astype(str).map(names)))
    assert list(other.ranef()["Subject"].index) == sorted(names.values())
    close(other.ranef()["Subject"].loc[list(names.values())], fit.ranef()["Subject"].loc[list(names)], 1e-7)
    np.testing.assert_allclose(other.deviance, fit.deviance, rtol=1e-12)
    close(other.theta, fit.theta, 1e-7)
    close(other.fitted(), fit.fitted(), 1e-9)


def test_shuffled_rows_and_relabelled_levels_of_crossed_factors(penicillin):
    data, fit = penicillin
    shuffled = data.sample(frac=1, random_state=2)
    assert_same(fit, mm.lmm(CROSSED, shuffled))
    assert_same(fit, mm.lmm("diameter ~ 1 + (1 | sample) + (1 | plate)", data))
    turned = data.assign(plate=data["plate"].astype(str).map(lambda s: chr(255 - ord(s))))
    other = mm.lmm(CROSSED, turned)
    np.testing.assert_allclose(other.deviance, fit.deviance, rtol=1e-12)
    close(other.fitted(), fit.fitted(), 1e-9)


def test_a_weight_of_zero_is_the_row_left_out(pair, sleepstudy):
    again = pair[1]
    keep = np.ones(len(sleepstudy))
    keep[[0, 17, 60, 61, 179]] = 0
    weighted, shorter = again(sleepstudy, weights=keep), again(sleepstudy[keep > 0])
    assert weighted.nobs == shorter.nobs == 175
    assert_same(shorter, weighted, 1e-9)
    np.testing.assert_allclose(weighted.bic, shorter.bic, rtol=1e-12)
    assert len(weighted.fitted()) == 180  # the row left out is predicted
    close(weighted.fitted()[keep > 0], shorter.fitted(), 1e-10)
    close(weighted.fitted()[keep == 0], shorter.predict(sleepstudy[keep == 0]), 1e-10)


def test_all_weights_times_a_number(pair, sleepstudy):
    """Var ε = σ²/w: σ² takes up the number, D and everything else stay."""
    again = pair[1]
    w = np.random.default_rng(0).uniform(0.5, 2, len(sleepstudy))
    one, many = again(sleepstudy, weights=w), again(sleepstudy, weights=100 * w)
    np.testing.assert_allclose(many.deviance, one.deviance, rtol=1e-12)
    np.testing.assert_allclose(many.scale, 100 * one.scale, rtol=1e-8)
    close(many.theta, one.theta / 10, 1e-7)
    for a, b in ((many.fixef, one.fixef), (many.bse, one.bse), (many.fitted(), one.fitted())):
        close(a, b, 1e-8)
    close(many.varcorr().cov["Subject"], one.varcorr().cov["Subject"], 1e-7)
    close(many.ranef().cond_cov["Subject"], one.ranef().cond_cov["Subject"], 1e-7)


# ---------------------------------------------------------------- the columns
@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (1.0, 5000.0), (-1e-3, 0.0), (10.0, -2000.0)])
def test_a_linear_change_of_the_predictor(pair, sleepstudy, scale, shift):
    """Days -> scale Days + shift. With x = A (1, Days)', b turns into A'^-1 b; REML gains 2 log|scale|."""
    fit, again = pair
    other = again(sleepstudy.assign(Days=scale * sleepstudy["Days"] + shift))
    back = np.array([[1.0, shift], [0.0, scale]])  # (1, Days) coefficients from the new ones
    gain = 2 * np.log(abs(scale)) if fit.reml else 0.0
    np.testing.assert_allclose(other.deviance, fit.deviance + gain, rtol=1e-10)
    np.testing.assert_allclose(other.sigma, fit.sigma, rtol=1e-8)
    close(back @ other.fixef, fit.fixef, 1e-8)
    close(back @ other.vcov() @ back.T, fit.vcov(), 1e-6)
    close(back @ other.varcorr().cov["Subject"] @ back.T, fit.varcorr().cov["Subject"], 1e-6)
    close(other.ranef()["Subject"] @ back.T, fit.ranef()["Subject"], 1e-6)
    close(other.fitted(), fit.fitted(), 1e-9)


@pytest.mark.parametrize("shift", [1e6, -300.0])
def test_a_shifted_response(pair, sleepstudy, shift):
    fit, again = pair
    other = again(sleepstudy.assign(Reaction=sleepstudy["Reaction"] + shift))
    np.testing.assert_allclose(other.deviance, fit.deviance, atol=1e-8)
    close(other.fixef - [shift, 0], fit.fixef, 1e-8)
    for quantity in ("bse", "theta", "sigma"):
        close(getattr(other, quantity), getattr(fit, quantity), 1e-6)
    close(other.residuals(), fit.residuals(), 1e-7)


def test_a_response_in_another_unit(pair, sleepstudy):
    fit, again = pair
    other = again(sleepstudy.assign(Reaction=sleepstudy["Reaction"] / 1000))
    df = 180 - (2 if fit.reml else 0)
    np.testing.assert_allclose(other.deviance, fit.deviance - 2 * df * np.log(1000), rtol=1e-11)
    close(other.theta, fit.theta, 1e-7)
    for quantity in ("fixef", "bse", "sigma"):
        close(getattr(other, quantity) * 1000, getattr(fit, quantity), 1e-8)


def test_an_offset_is_taken_from_the_response(pair, sleepstudy):
    again = pair[1]
    offset = np.random.default_rng(0).normal(size=180)
    with_offset = again(sleepstudy, offset=offset)
    taken = again(sleepstudy.assign(Reaction=sleepstudy["Reaction"] - offset))
    assert_same(taken, with_offset, 1e-10)
    close(with_offset.fitted() - offset, taken.fitted(), 1e-10)


# ---------------------------------------------------------------- the way of solving
@pytest.fixture(scope="module")
def pastes():
    return mm.lmm("strength ~ 1 + (1 | batch/cask)", mm.datasets.load("pastes"))


def test_nested_solved_as_crossed(pastes):
    inner, outer = pastes.model.elimination.chain
    crossed = replanned(pastes.model, chain=(inner,), rest=(outer,))
    assert pastes.model.solver == "nested chain" and crossed.solver == "Schur complement"
    fit = crossed.fit()
    assert_same(pastes, fit, 1e-6)
    close(fit.fitted(), pastes.fitted(), 1e-7)


def test_nesting_written_in_other_ways(pastes):
    data = mm.datasets.load("pastes")
    data["sample"] = data["batch"].astype(str) + ":" + data["cask"].astype(str)
    for formula in ("strength ~ 1 + (1 | batch) + (1 | sample)", "strength ~ 1 + (1 | sample) + (1 | batch)"):
        other = mm.lmm(formula, data)
        assert other.model.solver == "nested chain"
        np.testing.assert_allclose(other.deviance, pastes.deviance, rtol=1e-13)
        close(other.theta, pastes.theta, 1e-8)
        close(other.fitted(), pastes.fitted(), 1e-9)
    explicit = mm.lmm("strength ~ 1 + (1 | batch) + (1 | cask:batch)", data)
    assert_same(pastes, explicit)


def test_a_term_twice_as_two_terms_of_one_factor(sleepstudy):
    """(Days || Subject) is (1 | Subject) + (0 + Days | Subject)."""
    double = mm.lmm("Reaction ~ Days + (Days || Subject)", sleepstudy)
    apart = mm.lmm("Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)", sleepstudy)
    assert_same(double, apart, 1e-9)


# ---------------------------------------------------------------- another response, another data set
def test_refit_is_a_fit_of_that_response(pair, sleepstudy):
    fit, again = pair
    y = fit.simulate(key=jax.random.key(3))[0]
    assert_same(again(sleepstudy.assign(Reaction=y)), fit.refit(y), 1e-9)
    assert_same(fit, fit.refit(sleepstudy["Reaction"]), 1e-9)
    with_gaps = pd.Series(np.where(np.arange(180) % 7, 1.0, np.nan))
    with pytest.raises(mm.DataError, match="not finite in row 0"):
        fit.refit(with_gaps)
