"""Whether the data tell the parameters of the errors apart: against the rank of all derivatives of V, written out by
differences."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm import DataError

VISITS = ["a", "b", "c", "d"]


def table(n: int = 12, never: tuple[str, str] | None = None) -> pd.DataFrame:
    """Complete, or no subject with both visits of ``never``."""
    rng = np.random.default_rng(3)
    d = pd.DataFrame({
        "subject": np.repeat(np.arange(n), 4),
        "visit": pd.Categorical(VISITS * n, VISITS),
        "time": np.tile([0.0, 1.0, 2.0, 4.0], n),
        "place": np.tile([0.0, 1.0, 2.0, 3.0], n),
        "arm": np.repeat(np.where(np.arange(n) % 2, "x", "y"), 4),
        "site": np.repeat(np.arange(n) // 3, 4),
        "y": rng.normal(size=4 * n),
    })  # fmt: skip
    if never is not None:
        half = d["subject"] < n // 2
        d = d[~(half & (d["visit"] == never[0])) & ~(~half & (d["visit"] == never[1]))]
    return d.reset_index(drop=True)


def model(d=None, formula="y ~ arm", **given):
    return mm.Model.from_formula(formula, table() if d is None else d, **given)


def rank(d) -> tuple[int, int]:
    """Of the derivatives of V (n, n) by its parameters, at a point drawn at random, and how many these are."""
    r, n = d.residual, len(d.y)
    sets = np.zeros(n, int) if r.sets is None else r.sets.codes
    V = np.zeros((n, 0)) if r.V is None else r.V - r.V.mean(axis=0)
    m, count = r.covariance.num_params, int(sets.max()) + 1
    sizes = [count * m, V.shape[1], *(t.covariance.num_params for t in d.terms)]
    x = np.random.default_rng(2).uniform(0.3, 1.0, sum(sizes))

    def covariance(x):
        rho, gamma, *thetas = np.split(x, np.cumsum(sizes)[:-1])
        C = np.stack([r.covariance.covariance(t, r.positions) for t in rho.reshape(count, m)])
        s = np.exp(0.5 * V @ gamma)
        same = r.subject.codes[:, None] == r.subject.codes
        out = same * np.outer(s, s) * C[sets[:, None], r.place[:, None], r.place]
        for theta, t in zip(thetas, d.terms, strict=True):
            codes, half = d.factors[t.factor].codes, t.Z @ t.covariance.lam(theta, t.inputs)
            out = out + (codes[:, None] == codes) * (half @ half.T)
        return out.ravel()

    J = np.stack([(covariance(x + h) - covariance(x - h)) / 2e-6 for h in 1e-6 * np.eye(len(x))])
    s = np.linalg.svd(J / np.maximum(np.linalg.norm(J, axis=1), 1e-12)[:, None])[1]
    return int(np.sum(s > 1e-6 * s[0])), len(x)


def unchecked(monkeypatch, *args, **given):
    """The design of a model that may be refused."""
    monkeypatch.setattr("jaxmm.design.checks.check_told_apart", lambda design: None)
    design = model(*args, **given).design
    monkeypatch.undo()
    return design


@pytest.mark.parametrize(("given", "words"), [
    ({"residual": "us(visit | subject)"}, ["has rows at both 'a' and 'd' of 'visit'", "homcs or ar1"]),
    ({"residual": "us(visit | subject, by=arm)"}, ["no level of 'subject' of 'arm' 'x'", "'a' and 'd'"]),
    ({"residual": "toep(place | subject)"}, ["rows at both '0' and '3' of 'place'"]),
])  # fmt: skip
def test_a_pair_of_times_that_no_subject_has(given, words, monkeypatch):
    found, k = rank(unchecked(monkeypatch, table(never=("a", "d")), **given))
    assert found < k
    with pytest.raises(DataError) as raised:
        model(table(never=("a", "d")), **given)
    assert [w for w in words if w not in str(raised.value)] == []
    assert "such as toep" not in str(raised.value)  # which is one of those that are not told


@pytest.mark.parametrize("residual", [
    "ante(visit | subject)", "cs(visit | subject)", "hetar1(visit | subject)", "ar1(visit | subject)",
    "ou(time | subject)", "diag(visit | subject)", "gau(time | subject, by=arm)",
])  # fmt: skip
def test_other_structures_bear_it(residual):
    for d in (table(never=("a", "d")), table()):
        found, k = rank(model(d, residual=residual).design)
        assert found == k


def test_one_row_of_each_subject():
    d = table().assign(subject=np.arange(48))
    for residual in ("ar1(visit | subject)", "homcs(visit | subject)", "ou(time | subject)"):
        with pytest.raises(DataError, match="'subject' has one row only"):
            model(d, residual=residual)
    model(d, residual="diag(visit | subject)")


def test_fewer_subjects_than_rows_of_one():
    few = table(3)
    with pytest.raises(DataError, match="there are 3 levels of 'subject', and one has 4 rows"):
        model(few, "y ~ 1", residual="us(visit | subject)")
    with pytest.raises(DataError, match="there are 3 levels of 'subject' of 'arm' 'x'"):
        model(table(6), "y ~ 1", residual="us(visit | subject, by=arm)")
    model(few, "y ~ 1", residual="toep(visit | subject)")


@pytest.mark.parametrize(("residual", "dispersion", "told"), [
    ("diag(visit | subject)", "~ factor(place)", False),
    ("diag(visit | subject)", "~ place", False),
    ("us(visit | subject)", "~ time + arm", False),
    ("diag(visit | subject)", "~ arm", True),
    ("us(visit | subject)", "~ arm", True),
    ("ar1(visit | subject)", "~ factor(place)", True),
    ("us(visit | subject, by=arm)", "~ arm", False),
])  # fmt: skip
def test_the_errors_and_log_phi(residual, dispersion, told, monkeypatch):
    found, k = rank(unchecked(monkeypatch, residual=residual, dispersion=dispersion))
    assert (found == k) == told
    if told:
        model(residual=residual, dispersion=dispersion)
        return
    with pytest.raises(DataError) as raised:
        model(residual=residual, dispersion=dispersion)
    for words in (residual, dispersion, "both have parameters of the same variances", "leave dispersion= out"):
        assert words in str(raised.value)


@pytest.mark.parametrize(("bar", "residual", "told"), [
    ("(1 | visit)", "us(visit | subject)", True), ("(1 | visit)", "homcs(visit | subject)", True),
    ("(1 | subject)", "us(visit | subject)", False),
    ("(1 | subject)", "homcs(visit | subject)", False),
    ("(1 | subject)", "cs(visit | subject)", True),
    ("(1 | subject)", "hetar1(visit | subject)", True),
    ("(1 | subject)", "toep(visit | subject)", True),
    ("(1 | subject)", "homtoep(visit | subject)", False),
    ("(1 | site)", "us(visit | subject)", True),
    ("(time | site) + (1 | subject)", "us(visit | subject)", False),
    ("(time | site) + (1 | subject)", "ar1(visit | subject)", True),
    ("(1 | site)", "us(visit | subject, by=arm)", True),
])  # fmt: skip
def test_the_errors_and_random_effects(bar, residual, told, monkeypatch):
    found, k = rank(unchecked(monkeypatch, formula=f"y ~ arm + {bar}", residual=residual))
    assert (found == k) == told
    if told:
        model(formula=f"y ~ arm + {bar}", residual=residual)
        return
    with pytest.raises(DataError, match=r"random effects \(1 \| subject\) and the errors, residual=.*say the same"):
        model(formula=f"y ~ arm + {bar}", residual=residual)


def test_many_times_are_looked_at_in_part():
    rng = np.random.default_rng(1)
    d = pd.DataFrame({"g": np.repeat(np.arange(900), 4), "t": rng.uniform(0, 9, 3600), "y": rng.normal(size=3600)})
    model(d, "y ~ 1", residual="ou(t | g)")
    model(d, "y ~ 1 + (1 | g)", residual="exp(t | g)")
