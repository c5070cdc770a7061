"""Tests of many responses with few levels: how often they find what is not there.

Donors, half of them treated (or each in half of its samples), variances of responses by Smyth's model with 4 prior
degrees of freedom; between donors ``ratio`` times that within, by response between a half and twice so much.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import jaxmm as mm

PRIOR = 4
LEVELS = (0.05, 0.01, 0.001)


def simulated(n, donors, samples, ratio, within, key, effect=0.0, share=0.0):
    """A batch of n responses, and which of them have an effect."""
    rng = np.random.default_rng(key)
    donor = np.repeat(np.arange(donors), samples)
    x = (np.tile(np.arange(samples) % 2, donors) if within else donor >= donors // 2) * 1.0
    sigma = np.sqrt(PRIOR / stats.chi2.rvs(PRIOR, size=n, random_state=rng))[:, None]
    tau = np.sqrt(ratio * rng.uniform(0.5, 2, n))[:, None]
    there = rng.random(n) < share
    Y = tau * rng.normal(size=(n, donors))[:, donor] + rng.normal(size=(n, len(donor)))
    Y = sigma * (Y + effect * there[:, None] * x)
    model = mm.Model.from_formula("y ~ x + (1 | donor)", pd.DataFrame({"donor": donor, "x": x, "y": Y[0]}))
    return mm.fit_many(model, Y, keep="df", progress=False), there


def rates(table):
    p = table["p"].to_numpy()
    assert np.mean(np.isfinite(p)) > 0.999
    return [np.mean(p[np.isfinite(p)] < level) for level in LEVELS]


def within_error(seen, stated, n, width=4.0):
    return abs(seen - stated) <= width * np.sqrt(stated * (1 - stated) / n)


def test_moderated_tests_hold_their_level():
    """The small sibling; a treatment within donors, where σ² is what is moderated."""
    n = 4_000
    batch, _ = simulated(n, 6, 4, 0.5, True, key=1)
    found = batch.moderate()
    assert found.d0[1] == pytest.approx(PRIOR, rel=0.25)
    for seen, stated in zip(rates(found.test_table("x")), LEVELS, strict=True):
        assert within_error(seen, stated, n)
    z = rates(batch.test_table("x", ddf="asymptotic"))
    assert z[2] > 3 * LEVELS[2]  # what the normal distribution makes of it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("donors", "samples", "ratio", "within"),
    [(6, 4, 0.5, True), (6, 4, 0.5, False), (10, 4, 0.5, False), (8, 20, 0.05, False), (4, 6, 0.3, False)],
)
def test_moderated_type_one_errors(donors, samples, ratio, within, claim):
    """Also where one fit in ten and more is singular.  With a variance between that is small beside its error they are
    too few, as ever with a variance that is not negative: so from above only, 4 standard errors and a tenth."""
    n = 40_000
    batch, _ = simulated(n, donors, samples, ratio, within, key=2)
    found = batch.moderate()
    what = "within" if within else "between"
    for seen, stated in zip(rates(found.test_table("x")), LEVELS, strict=True):
        claim(f"type I error of moderated tests at {stated}, {what} {donors} donors, ratio {ratio}", seen, stated, n=n)
        error = np.sqrt(stated * (1 - stated) / n)
        assert seen < stated * 1.1 + 4 * error, (seen, stated)
        assert seen > 0.7 * stated or stated < 0.05, (seen, stated)


@pytest.mark.slow
def test_type_one_errors_of_satterthwaite(claim):
    """Exact where the variance between is large, and within donors; beyond it in the tails where fits are singular."""
    n = 40_000
    for ratio, within in ((20.0, False), (20.0, True)):
        batch, _ = simulated(n, 6, 4, ratio, within, key=3)
        assert batch.is_singular.mean() < 1e-3
        for seen, stated in zip(rates(batch.test_table("x")), LEVELS, strict=True):
            where = "within" if within else "between"
            claim(f"type I error by Satterthwaite's df at {stated}, {where} 6 donors", seen, stated, n=n)
            assert within_error(seen, stated, n), (seen, stated)
    batch, _ = simulated(n, 6, 4, 0.5, False, key=3)
    tail = rates(batch.test_table("x"))[2]
    assert 0.1 < batch.is_singular.mean() < 0.2 and 3 * LEVELS[2] < tail < 8 * LEVELS[2]


@pytest.mark.slow
@pytest.mark.parametrize("within", [True, False])
def test_false_discoveries(within, claim):
    """Of 40,000 responses a tenth has an effect: of those found at 0.05 by Benjamini & Hochberg 0.045 are false; more
    are found than without moderation."""
    batch, there = simulated(40_000, 8, 4, 0.5, within, key=4, effect=1.1 if within else 2.5, share=0.1)
    table, plain = batch.moderate().test_table("x"), batch.test_table("x")
    found = table["p_adjusted"].to_numpy() <= 0.05
    false, stated = np.mean(~there[found]), 0.05 * np.mean(~there)
    where = "within" if within else "between"
    claim(f"false discoveries of moderated tests, {where} 8 donors", false, stated, n=int(found.sum()))
    assert false <= stated + 4 * np.sqrt(stated * (1 - stated) / found.sum())
    assert np.sum(found & there) > 1.01 * np.sum((plain["p_adjusted"].to_numpy() <= 0.05) & there)
