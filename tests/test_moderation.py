"""Moderated variances: limma's numbers, Smyth's model itself, and the tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import polygamma

import jaxmm as mm
from jaxmm.optimize import Status
from jaxmm.results.moderation import inverse_trigamma, prior, squeezed

LIMMA = {k: np.array(v) for k, v in json.loads((Path(__file__).parent / "reference/limma.json").read_text()).items()}


@pytest.mark.parametrize(
    ("s2", "df", "trend", "what"),
    [("s2", "df", None, ""), ("trended_s2", "df", "mean", "trended_"), ("s2", "unequal_df", None, "unequal_")],
)
def test_as_limma(s2, df, trend, what):
    v = LIMMA[s2]
    nu = np.broadcast_to(LIMMA[df], v.shape).astype(float)
    own = prior(v, nu, None if trend is None else LIMMA[trend])
    assert own.d0 == pytest.approx(LIMMA[f"{what}d0"][0], rel=1e-8)
    np.testing.assert_allclose(own.s02, np.broadcast_to(LIMMA[f"{what}s02"], v.shape), rtol=1e-8)
    np.testing.assert_allclose(squeezed(v, nu, own)[0], LIMMA[f"{what}posterior"], rtol=1e-8)


def test_variances_that_are_alike():
    """Nothing beyond chance: d0 is infinite, and all become their mean."""
    v = LIMMA["alike_s2"]
    nu = np.full(v.shape, LIMMA["alike_df"][0])
    own = prior(v, nu)
    assert own.d0 == np.inf == LIMMA["alike_d0"][0]
    np.testing.assert_allclose(own.s02, LIMMA["alike_s02"][0], rtol=1e-8)
    s2, df = squeezed(v, nu, own)
    np.testing.assert_allclose(s2, v.mean(), rtol=1e-12)
    np.testing.assert_allclose(df, nu.sum())  # no more than they know together


@pytest.mark.parametrize("x", [1e-3, 0.4, 3.0, 200.0, 1e6])
def test_the_inverse_of_trigamma(x):
    assert inverse_trigamma(polygamma(1, x)) == pytest.approx(x, rel=1e-10)


def test_what_has_no_variance_is_left_out():
    v, nu = LIMMA["s2"].copy(), np.full(40, 6.0)
    own = prior(v[2:], nu[2:])
    v[0], nu[1] = np.nan, np.nan
    with_them = prior(v, nu)
    assert with_them.d0 == pytest.approx(own.d0) and with_them.s02[5] == pytest.approx(own.s02[0])
    s2, df = squeezed(v, nu, with_them)
    assert np.isnan(s2[:2]).all() and np.isnan(df[:2]).all() and np.isfinite(s2[2:]).all()
    with pytest.raises(ValueError, match="learns from the other responses: 2 usable variances are too few"):
        prior(v[:4], nu[:4])
    with pytest.raises(ValueError, match="trend: the column is constant"):
        prior(v, nu, np.ones(40))
    with pytest.raises(ValueError, match="more than half of the variances are zero"):
        prior(np.where(np.arange(40) < 30, 0.0, v), nu)


@pytest.fixture(scope="module")
def donors():
    """A treatment of whole donors, 3 against 3, with 4 samples each; 60 responses of different variance."""
    rng = np.random.default_rng(8)
    donor = np.repeat(np.arange(6), 4)
    frame = pd.DataFrame({"donor": donor, "treated": (donor >= 3) * 1.0, "y": rng.normal(size=24)})
    tau = np.sqrt(1 / stats.chi2.rvs(8, size=60, random_state=rng) * 8)
    Y = tau[:, None] * (rng.normal(size=(60, 6))[:, donor] + 1.4 * rng.normal(size=(60, 24)))
    Y[7] = 2.0  # nothing to fit
    model = mm.Model.from_formula("y ~ treated + (1 | donor)", frame)
    names = [f"gene{k}" for k in range(60)]
    return mm.fit_many(model, pd.DataFrame(Y.T, columns=pd.Index(names)), keep="df", progress=False), Y, names


def test_moderated_tests(donors):
    batch, Y, names = donors
    found = batch.moderate()
    good = batch.converged
    assert found.used == good.sum() == 59
    own = prior(batch.bse[good, 1] ** 2, batch.df[good, 1])
    assert found.d0[1] == own.d0 and 0 < own.d0 < 100
    table = found.test_table("treated", level=0.9)
    assert list(table[table.columns[0]]) == names
    usual = np.median(batch.df[good & ~batch.is_singular, 1])
    assert batch.is_singular.any() and usual == pytest.approx(4)
    nu = np.where(batch.is_singular, usual, batch.df[:, 1])
    np.testing.assert_allclose(table["df"][good], nu[good] + own.d0)
    s2 = (own.d0 * own.s02[0] + nu * batch.bse[:, 1] ** 2) / (own.d0 + nu)
    np.testing.assert_allclose(table["se"][good] ** 2, s2[good])
    t = batch.fixef[:, 1] / found.bse[:, 1]
    np.testing.assert_allclose(table["p"][good], 2 * stats.t.sf(np.abs(t), table["df"])[good])
    half = stats.t.ppf(0.95, table["df"]) * table["se"]
    np.testing.assert_allclose(table["upper"] - table["estimate"], half)
    assert np.isnan(table["p"][7]) and table["status"][7] == "no_variation"
    lines = repr(found).splitlines()
    assert lines[0] == "Moderated standard errors of 60 responses, learnt from 59"
    assert lines[1] == "  1 without a converged fit are left out" and lines[3].split() == ["d0", "s0"]
    by_mean = batch.moderate(trend=Y.mean(axis=1))
    assert by_mean.s02[:, 1].std() > 0
    named = batch.moderate(trend="(Intercept)")
    assert named.s02.shape == (60, 2) and np.isnan(named.s02[7]).all()


def test_a_failed_fit_changes_nothing_for_the_others(donors):
    batch, *_ = donors
    without = batch.take(batch.converged).moderate()
    np.testing.assert_allclose(batch.moderate().bse[batch.converged], without.bse, rtol=1e-12)


def test_tests_with_degrees_of_freedom(donors):
    batch, *_ = donors
    table, normal = batch.test_table("treated"), batch.test_table("treated", ddf="asymptotic", level=0.95)
    assert list(table.columns)[1:8] == ["coef", "estimate", "se", "df", "t", "p", "p_adjusted"]
    np.testing.assert_allclose(table["p"], 2 * stats.t.sf(np.abs(table["t"]), table["df"]))
    assert list(normal.columns)[1:] == [
        *["coef", "estimate", "se", "z", "p", "p_adjusted", "lower", "upper", "is_singular", "status"]
    ]
    np.testing.assert_allclose(normal["estimate"] - normal["lower"], stats.norm.ppf(0.975) * normal["se"])
    plain = batch.take(slice(0, 3))
    with pytest.raises(ValueError, match="ddf must be one of 'satterthwaite', 'asymptotic', not 'residual'"):
        plain.test_table(ddf="residual")


def test_what_cannot_be_moderated(donors, sleep_reml):
    batch, *_ = donors
    plain = mm.fit_many(sleep_reml, sleep_reml.simulate(2, key=1), progress=False)
    for call in (plain.moderate, lambda: plain.test_table(ddf="satterthwaite")):
        with pytest.raises(ValueError, match=r"degrees of freedom: fit_many\(..., keep='df'\) keeps Satterthwaite's"):
            call()
    with pytest.raises(
        ValueError, match=r"trend must be numbers or a coefficient, '\(Intercept\)', 'treated'; not 'mean'"
    ):
        batch.moderate(trend="mean")
    with pytest.raises(ValueError, match="trend must have a number for each of the 60 responses"):
        batch.moderate(trend=[1.0, 2.0])


def test_to_annotate(donors):
    anndata = pytest.importorskip("anndata")
    batch, Y, names = donors
    adata = anndata.AnnData(Y.T.copy(), var=pd.DataFrame(index=names))
    moderated = batch.moderate().annotate(adata.copy(), prefix="eb_").var
    np.testing.assert_array_equal(moderated["eb_se_treated"], batch.moderate().bse[:, 1])
    np.testing.assert_array_equal(moderated["eb_p_treated"], batch.moderate().test_table("treated")["p"])
    out = batch.annotate(adata)
    assert {"t_treated", "p_treated", "df_treated", "df_sigma"} <= set(out.var) and "z_treated" not in out.var
    assert Status(int(batch.status[7])).name.lower() == out.var["status"].iloc[7]
