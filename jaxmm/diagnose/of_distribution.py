"""Residuals and modes -> findings: bent Q-Q plots, outliers, a spread that grows, over- and underdispersion, zeros.

With many rows any test rejects, with few hardly one: of a shape a finding is what is both unlikely, p < LEVEL, and
visible.  Outliers are those beyond what the largest of so many numbers should be, at LEVEL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr, stdtr

from jaxmm.diagnose import standardised
from jaxmm.diagnose.finding import CAUTION, NOTE, Finding
from jaxmm.diagnose.normality import straightness
from jaxmm.diagnose.residual_tests import ResidualTest
from jaxmm.diagnose.simulated import SimulatedResiduals

LEVEL = 0.01
VISIBLE = 0.98  # W' below it: a bend that one sees
FANNED = 0.15  # rank correlation of the residuals' size with the fitted values
MANY_LEVELS = 10  # to look at the distribution of their modes
SHOWN = 5  # outliers by name
SMALL = "Standard errors are too small:"
VARIANCE, ZEROS = "the variance is {:.3g} times the model's", "there are {:.3g} times as many as the model gives"


# ---------------------------------------------------------------- linear models
def residuals(fit: Any) -> list[Finding]:
    """Shape, outliers and spread of a linear model's residuals."""
    r, out = standardised.rows(fit), []
    x = r.to_numpy()
    W = straightness(x)
    if W.p < LEVEL and W.statistic < VISIBLE:
        heavy = np.mean(x**4) / np.mean(x**2) ** 2 > 3
        what = "tails heavier than normal" if heavy else "not normal"
        text = f"residuals: {what} (squared correlation of the Q-Q plot W' = {W.statistic:.3g}, p = {W.p:.2g})"
        advice = (
            "Look at fit.plot_residuals(). Coefficients and their tests bear this well unless rows are few; prediction "
            "intervals do not. A transformed response, such as its log, or another family may fit better."
        )
        out.append(Finding("residuals", CAUTION, text, advice))
    far = 2 * ndtr(-np.abs(x)) * len(x) < LEVEL
    if far.any():
        at = np.flatnonzero(far)
        named = r.iloc[at[np.argsort(-np.abs(x[at]), kind="stable")]]
        text = f"rows with residuals that {_no_chance(len(x))}: {_named(named, 'σ')}"
        advice = "Look them up: where they are mistakes, mend them; fit without them and say what changes."
        out.append(Finding("residuals", CAUTION, text, advice))
    return out + _spread(fit, np.abs(x))


def _spread(fit: Any, size: np.ndarray) -> list[Finding]:
    fitted = fit.fitted().to_numpy()[fit.model.design.kept]
    n = len(size)
    if n < 10 or not np.ptp(fitted) > 0:
        return []
    rho = float(np.corrcoef(_ranks(size), _ranks(fitted))[0, 1])
    p = 2 * float(stdtr(n - 2, -abs(rho) * np.sqrt((n - 2) / max(1 - rho**2, 1e-300))))
    if not (p < LEVEL and abs(rho) > FANNED):
        return []
    how = "grows" if rho > 0 else "falls"
    text = f"residuals: their spread {how} with the fitted value (rank correlation {rho:.2f})"
    advice = (
        "Give weights, take the log of the response, or a family whose variance grows with the mean (gamma); robust "
        "standard errors bear it."
    )
    return [Finding("residuals", CAUTION, text, advice)]


# ---------------------------------------------------------------- effects
def effects(fit: Any) -> list[Finding]:
    """Shape and outliers of the modes of each factor."""
    out = []
    for factor in fit.model.design.factors:
        group, J = factor.name, len(factor.levels)
        m = standardised.modes(fit, group)
        far = m.p * J < LEVEL
        if far.any():
            text = f"levels of {group} whose effects {_no_chance(J)}: {_named(m.p.loc[far].sort_values(), '', 'p = ')}"
            advice = "Look them up: a level like these may come from another population; fit without it and compare."
            out.append(Finding("random effects", CAUTION, text, advice))
        for effect in m.z.columns if J >= MANY_LEVELS else ():
            W = straightness(m.z[effect].to_numpy())
            if W.p < LEVEL and W.statistic < VISIBLE:
                text = f"modes of {effect} by {group} are not normal (W' = {W.statistic:.3g}, p = {W.p:.2g})"
                advice = (
                    f"Look at jaxmm.plots.qq_ranef(fit, {group!r}). Coefficients bear it (McCulloch & Neuhaus 2011); "
                    "two heaps of levels speak for a predictor of the levels that is missing."
                )
                out.append(Finding("random effects", NOTE, text, advice))
    return out


def _no_chance(n: int) -> str:
    return f"no one of {n} should have (p < {LEVEL:g} for the largest)"


def _named(x: Any, unit: str, before: str = "") -> str:
    names = [f"{label} ({before}{v:.2g}{' ' if unit else ''}{unit})" for label, v in x.iloc[:SHOWN].items()]
    more = f" and {len(x) - SHOWN} more" if len(x) > SHOWN else ""
    return ", ".join(names) + more


def _ranks(x: np.ndarray) -> np.ndarray:
    """Mean ranks where numbers tie."""
    _, at, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[np.ravel(at)]


# ---------------------------------------------------------------- by simulation
def dispersion(sr: SimulatedResiduals) -> list[Finding]:
    """Whether the response varies more, or less, than the family does."""
    test, family = sr.test_dispersion(), sr.fit.family
    if not test.p < LEVEL:
        return []
    more, design = test.statistic > 1, sr.fit.model.design
    text = f"{'over' if more else 'under'}dispersion: {_told(test, VARIANCE)}"
    if not more:
        advice = "Standard errors are too large rather than too small; look for responses that depend on each other."
    elif family.num_phi:
        advice = "φ does not follow: look for outliers, a predictor that is missing, or give φ a formula, dispersion=."
    elif design.trials is not None:
        advice = "Standard errors are too small: take family='betabinomial', or an effect for each row, (1 | row)."
    else:
        advice = (
            "Standard errors are too small: take family='nbinom2' or 'nbinom1', or an effect for each row, (1 | row)."
        )
    return [Finding("dispersion", CAUTION, text, advice)]


def zeros(sr: SimulatedResiduals) -> list[Finding]:
    """Whether there are more zeros, or fewer, than the model gives."""
    test = sr.test_zero_inflation()
    if not test.p < LEVEL:
        return []
    more = test.statistic > 1
    text = f"zeros: {_told(test, ZEROS)}"
    advice = (
        "If the response is overdispersed too, mend that first and check again; else give zero_inflation='~ 1'."
        if more
        else "Zeros may not be possible, or come from another process than the counts."
    )
    return [Finding("zeros", CAUTION, text, advice)]


def uniformity(sr: SimulatedResiduals) -> list[Finding]:
    """Whether simulated residuals are uniform, also along the prediction."""
    out, along = [], sr.test_quantiles()
    for test, what in (
        (sr.test_uniformity(), "simulated residuals are not uniform"),
        (along, "simulated residuals change along the prediction"),
    ):
        one_bin = test is along and (along.table is None or len(along.table) < 2)  # nothing to change along
        if test.p < LEVEL and not one_bin:
            text = f"{what} ({test.symbol} = {test.statistic:.3g}, p = {test.p:.2g})"
            advice = (
                "Look at fit.simulated_residuals(key=1).plot(): a bend speaks for a missing term or "
                "another link, a fan for another family."
            )
            out.append(Finding("simulated residuals", CAUTION, text, advice))
    return out


def _told(test: ResidualTest, what: str) -> str:
    return f"{what.format(test.statistic)} (p = {test.p:.2g})"
