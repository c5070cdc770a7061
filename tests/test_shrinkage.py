"""Shrinkage: D = mean conditional variance + mean square of the modes, in closed form, and what is printed.

Balanced one-way random effects, J levels of m rows: with MSW and SSB the within mean square and the between
sum of squares, sigma² = MSW and D = (SSB/J − MSW)/m by ML, (SSB/(J − 1) − MSW)/m by REML.
"""

import numpy as np
import pytest
from _standins import sleepstudy_fit

from jaxmm.shrinkage import GroupShrinkage, Shrinkage


def one_way(reml: bool, J: int = 12, m: int = 4) -> tuple[GroupShrinkage, float]:
    """Closed-form estimates; returns sigma² too."""
    rng = np.random.default_rng(8)
    y = 5 + 2 * rng.normal(size=(J, 1)) + rng.normal(size=(J, m))
    means, grand = y.mean(axis=1), y.mean()
    sigma2 = np.sum((y - means[:, None]) ** 2) / (J * (m - 1))
    D = (m * np.sum((means - grand) ** 2) / (J - reml) - sigma2) / m
    kept = D / (D + sigma2 / m)
    modes = kept * (means - grand)
    # by REML b^ has the error of β^ too, which is independent of b^(β) − b
    V = D * (1 - kept)
    if reml:
        V += kept**2 * (D + sigma2 / m) / J
    levels = [f"s{k}" for k in range(J)]
    cond = np.full((J, 1, 1), V)
    group = GroupShrinkage("s", ("(Intercept)",), levels, np.array([[D]]), cond, modes[:, None], np.full(J, m))
    return group, sigma2


@pytest.mark.parametrize("reml", [False, True])
def test_identity_in_closed_form(reml):
    group, sigma2 = one_way(reml)
    shrinkage = Shrinkage([group], reml)
    D = shrinkage.D["s"].iloc[0, 0]
    assert shrinkage.gap["s"].iloc[0, 0] == pytest.approx(0, abs=1e-12 * D)
    assert shrinkage.sum["s"].iloc[0, 0] == pytest.approx(D)
    if not reml:
        assert shrinkage.factor["s"]["(Intercept)"] == pytest.approx(D / (D + sigma2 / 4))
        assert shrinkage.by_level["s"]["(Intercept)"].to_numpy() == pytest.approx(D / (D + sigma2 / 4))
    assert shrinkage.by_level["s"]["n_obs"].tolist() == [4] * 12


@pytest.fixture
def sleep() -> Shrinkage:
    """By REML, at lme4's estimates, with the prediction variance from dense algebra."""
    fit = sleepstudy_fit()
    table = fit.ranef()["Subject"]
    D = fit.varcorr().cov["Subject"].to_numpy()
    names = tuple(table.columns)
    modes = table.to_numpy()
    group = GroupShrinkage("Subject", names, table.index, D, fit.prediction_cov, modes, np.full(18, 10))
    return Shrinkage([group], reml=True)


def test_identity_at_the_reml_estimates(sleep):
    gap, D = sleep.gap["Subject"].to_numpy(), sleep.D["Subject"].to_numpy()
    assert np.abs(gap / np.sqrt(np.outer(np.diag(D), np.diag(D)))).max() < 1e-5


def test_parts_and_correlations(sleep):
    modes = sleep.groups[0].modes
    assert sleep.cov_modes["Subject"].to_numpy() == pytest.approx(modes.T @ modes / 18)
    assert sleep.sample_cov_modes["Subject"].to_numpy() == pytest.approx(np.cov(modes.T))
    assert sleep.corr_modes["Subject"].iloc[0, 1] == pytest.approx(np.corrcoef(modes.T)[0, 1])
    assert sleep.corr_D["Subject"].iloc[0, 1] == pytest.approx(0.06555124)
    frame = sleep.to_frame()
    assert frame["effect2"].isna().tolist() == [True, True, False]
    assert frame["sum"].to_numpy() == pytest.approx(frame["D"].to_numpy(), rel=1e-4)
    assert (sleep.factor["Subject"] < 1).all()


def test_says_what_each_number_estimates(sleep):
    text = str(sleep)
    lines = text.splitlines()
    assert "Subject: 18 levels, 10 rows each" in lines
    (population,) = (line for line in lines if line.startswith("variance in the population"))
    assert population.split()[-2:] == ["612.10", "35.0717"]
    assert "do not report their variance or correlation" in " ".join(text.split())
    assert "exactly so at REML estimates" in " ".join(text.split())
    assert max(map(len, lines)) <= 100
    assert repr(sleep) == text
    assert "<table>" in sleep._repr_html_()


@pytest.mark.filterwarnings("error")
def test_zero_variance_divides_nothing_by_zero():
    D = np.diag([0.0, 4.0])
    modes = np.column_stack([np.zeros(5), [1.0, -1.0, 0.5, -0.5, 0.0]])
    group = GroupShrinkage("g", ("a", "b"), list("vwxyz"), D, np.tile(D / 2, (5, 1, 1)), modes, np.arange(1, 6))
    shrinkage = Shrinkage([group], reml=False)
    assert shrinkage.factor["g"]["a"] == 0.0 and shrinkage.by_level["g"]["a"].tolist() == [0.0] * 5
    assert np.isfinite(shrinkage.sum["g"].to_numpy()).all()
    assert np.isnan(shrinkage.corr_D["g"].loc["a", "b"])
    assert "The variance of a is estimated as zero: every level is shrunk onto the mean." in str(shrinkage)
    assert "g: 5 levels, 1 to 5 rows each" in str(shrinkage)
    assert len(shrinkage.to_frame()) == 3


def test_next_to_zero_prints_as_zero():
    D = np.array([[1e-49]])
    group = GroupShrinkage("g", ("a",), list("xyz"), D, np.full((3, 1, 1), 1e-49), np.zeros((3, 1)), np.full(3, 2))
    text = str(Shrinkage([group], reml=True))
    assert "e-49" not in text and "The variance of a is estimated as zero" in text
