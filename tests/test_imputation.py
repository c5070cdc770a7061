"""Reference-based imputation: joint distributions against dense algebra, visits at the estimates against predictions,
cases that can be computed by hand, and where nothing is missing the fit itself."""

from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

import jaxmm as mm
from jaxmm.imputation.rules import RULES, Normal, completed, joined
from jaxmm.imputation.visits import read_visits

pytestmark = pytest.mark.usefixtures("few_lanes_singly")
VISITS = ["w2", "w4", "w8", "w12"]
LAG = np.abs(np.subtract.outer(range(4), range(4)))
C = 4 * 0.7**LAG
FORMULA = "y ~ base + arm * visit"


def trial(n, dropout=0.2, seed=3):
    """Complete, and with those who leave and a few visits missed between."""
    rng = np.random.default_rng(seed)
    arm = np.where(np.arange(n) % 2, "active", "control")
    base = rng.normal(size=n)
    effect = np.outer(arm == "active", [0.0, 0.5, 1.0, 1.5])
    y = np.array([0, 0.2, 0.3, 0.4]) + effect + base[:, None] + rng.normal(size=(n, 4)) @ np.linalg.cholesky(C).T
    stays = np.cumprod(np.column_stack([np.ones(n), rng.random((n, 3)) >= dropout]), axis=1) > 0
    stays[:, 1] &= rng.random(n) >= 0.1
    data = pd.DataFrame({
        "subject": np.repeat([f"s{k:03d}" for k in range(n)], 4), "visit": pd.Categorical(VISITS * n, VISITS),
        "arm": np.repeat(arm, 4), "base": np.repeat(base, 4), "y": y.ravel(),
    })  # fmt: skip
    return data, data.assign(y=np.where(stays.ravel(), data["y"], np.nan))


WHOLE, DATA = trial(40)


@pytest.fixture(scope="module")
def fit():
    return mm.lmm(FORMULA, DATA, residual="us(visit | subject)")


def imputed(fit, method="j2r", n=6, data=DATA, **keywords):
    return mm.impute_reference(
        fit, data, arm="arm", reference="control", method=method, n=n, key=keywords.pop("key", 1), progress=False
    )


def at_estimates(fit, method, data=DATA, z=0.0):
    visits = read_visits(fit, data, "arm", "control")
    z = np.broadcast_to(z, len(data))
    return visits.complete(fit.fixef.to_numpy(), fit.theta, fit.sigma, method, z)


# ---------------------------------------------------------------- the rules
def normal(seed, S=3, T=4):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(S, T, 2 * T))
    return Normal(rng.normal(size=(S, T)), A @ np.swapaxes(A, 1, 2))


@pytest.mark.parametrize("seen", range(5))
def test_what_follows_is_as_in_the_reference_arm_given_what_was_seen(seen):
    """Σ11 = A11, and the regression of 2 on 1 with what it leaves is that of R; a covariance in any case."""
    own, ref = normal(1), normal(2)
    S = joined(own.cov, ref.cov, seen)
    np.testing.assert_allclose(S, np.swapaxes(S, 1, 2), atol=1e-12)
    assert np.linalg.eigvalsh(S).min() > 0
    one, two = np.arange(seen), np.arange(seen, 4)
    for k in range(3):
        np.testing.assert_allclose(S[k][np.ix_(one, one)], own.cov[k][np.ix_(one, one)])
        B, rest = regression(ref.cov[k], one, two)
        ours, left = regression(S[k], one, two)
        np.testing.assert_allclose(ours, B, atol=1e-10)
        np.testing.assert_allclose(left, rest, atol=1e-10)


def regression(V, o, m):
    B = V[np.ix_(m, o)] @ np.linalg.inv(V[np.ix_(o, o)])
    return B, V[np.ix_(m, m)] - B @ V[np.ix_(o, m)]


def test_means():
    own, ref = normal(1), normal(2)
    assert RULES["mar"](own, ref, 2) is own and RULES["cr"](own, ref, 2) is ref
    np.testing.assert_array_equal(RULES["j2r"](own, ref, 2).mean, np.c_[own.mean[:, :2], ref.mean[:, 2:]])
    cir = RULES["cir"](own, ref, 2).mean
    np.testing.assert_allclose(np.diff(cir[:, 1:], axis=1), np.diff(ref.mean[:, 1:], axis=1), atol=1e-12)
    np.testing.assert_array_equal(cir[:, :2], own.mean[:, :2])
    for name in ("j2r", "cir", "cr"):  # never seen
        found = RULES[name](own, ref, 0)
        assert np.array_equal(found.mean, ref.mean) and np.array_equal(found.cov, ref.cov)
        same = RULES[name](own, own, 3)
        np.testing.assert_allclose(same.mean, own.mean, atol=1e-12)
        np.testing.assert_allclose(same.cov, own.cov, atol=1e-9)


def test_what_is_drawn_is_conditional():
    of, there = normal(4, S=1), np.array([True, False, True, False])
    y, n = np.array([[0.5, np.nan, -1.0, np.nan]]), 20_000
    z = np.random.default_rng(1).normal(size=(n, 4))
    many = Normal(*(np.broadcast_to(x, (n, *x.shape[1:])) for x in of))
    found = completed(np.broadcast_to(y, (n, 4)), there, many, z)
    B, left = regression(of.cov[0], [0, 2], [1, 3])
    mean = of.mean[0, [1, 3]] + B @ (y[0, [0, 2]] - of.mean[0, [0, 2]])
    error = np.sqrt(np.diag(left) / n)
    assert np.all(np.abs(found[:, [1, 3]].mean(axis=0) - mean) < 4 * error)
    np.testing.assert_allclose(np.cov(found[:, [1, 3]].T), left, rtol=0.05)
    assert np.all(found[:, [0, 2]] == y[0, [0, 2]])


# ---------------------------------------------------------------- of a fit
def test_missing_at_random_is_the_prediction_given_the_other_visits(fit):
    found, gone = at_estimates(fit, "mar"), DATA["y"].isna().to_numpy()
    np.testing.assert_allclose(found[gone], fit.predict(DATA)[gone], atol=1e-8)
    assert np.array_equal(found[~gone], DATA["y"][~gone])


@pytest.mark.parametrize("by", [None, "arm"])
@pytest.mark.parametrize("method", ["j2r", "cir", "cr"])
def test_those_who_left_by_dense_algebra(fit, method, by):
    if by is not None:
        fit = mm.lmm(FORMULA, DATA, residual="hetar1(visit | subject, by=arm)")
    found, beta = at_estimates(fit, method).reshape(-1, 4), fit.fixef
    covs = fit.residual.cov if by else dict.fromkeys(("active", "control"), fit.residual.cov)
    R, tested = covs["control"].to_numpy(), 0
    for k, (_, own) in enumerate(DATA.groupby("subject")):
        there = own["y"].notna().to_numpy()
        if there.all() or own["arm"].iloc[0] == "control":
            continue
        d = int(np.flatnonzero(there)[-1]) + 1
        visit = np.r_[0.0, beta[[f"visit{v}" for v in VISITS[1:]]]]
        m = beta["(Intercept)"] + visit + beta["base"] * own["base"].iloc[0]
        # in the order of the formula's levels the first arm is the active one
        sign = -1 if "armcontrol" in beta else 1
        step = np.r_[0.0, beta[[c for c in beta.index if ":" in c]]] + beta["armcontrol" if sign < 0 else "armactive"]
        mu, ref = (m, m + step) if sign < 0 else (m + step, m)
        kept = np.r_[mu[:d], mu[d - 1] + ref[d:] - ref[d - 1]]
        mean = {"j2r": np.r_[mu[:d], ref[d:]], "cir": kept, "cr": ref}[method]
        V = R if method == "cr" else joined(covs["active"].to_numpy()[None], R[None], d)[0]
        o, gone = np.flatnonzero(there), np.flatnonzero(~there)
        expected = mean[gone] + regression(V, o, gone)[0] @ (own["y"].to_numpy()[o] - mean[o])
        np.testing.assert_allclose(found[k, gone], expected, atol=1e-8)
        tested += 1
    assert tested > 5


def test_in_the_reference_arm_all_rules_are_one(fit):
    control, z = (DATA["arm"] == "control").to_numpy(), np.random.default_rng(1).normal(size=len(DATA))
    mar = at_estimates(fit, "mar", z=z)
    for method in ("j2r", "cir", "cr"):
        other = at_estimates(fit, method, z=z)
        np.testing.assert_allclose(other[control], mar[control], atol=1e-9)
        assert np.abs(other - mar)[~control].max() > 0.1


def test_a_fit_of_another_order_of_rows(fit):
    shuffled = DATA.sample(frac=1, random_state=2)
    again = at_estimates(fit, "j2r", data=shuffled)
    np.testing.assert_allclose(pd.Series(again, shuffled.index).sort_index(), at_estimates(fit, "j2r"), atol=1e-10)


def test_parameters_are_refits_and_a_data_set_depends_on_its_number_alone(fit):
    few, more = imputed(fit, n=2), imputed(fit, n=5)
    assert np.array_equal(few.Y, more.Y[:2]) and not np.array_equal(imputed(fit, n=2, key=2).Y, few.Y)
    assert np.array_equal(imputed(fit, n=2, key=jax.random.key(1)).Y, few.Y)
    assert few.parameters.converged.all() and len({*more.parameters.sigma}) == 5
    again = few[1]
    assert list(again) == list(DATA) and np.array_equal(again["y"], few.Y[1]) and len(list(few)) == 2
    assert np.array_equal(few.Y[:, ~few.missing], np.tile(DATA["y"].dropna(), (2, 1)))
    assert "jump to reference, reference 'control'" in repr(few)


def test_nothing_missing_is_the_fit_itself():
    whole = mm.lmm(FORMULA, WHOLE, residual="us(visit | subject)")
    found = imputed(whole, n=3, data=WHOLE)
    assert np.array_equal(found.Y, np.tile(WHOLE["y"], (3, 1))) and not found.missing.any()
    pooled = mm.pool(mm.fit_many(whole, found.Y, keep=(), progress=False), model=whole)
    np.testing.assert_allclose(pooled.fixef, whole.fixef, rtol=1e-6)
    np.testing.assert_allclose(pooled.bse, whole.bse, rtol=1e-5)
    np.testing.assert_allclose(pooled.frame["between"], 0, atol=1e-12)


def last_visit(table):
    return table[(table["visit"] == "w12").to_numpy()]


def ancova(found):
    """The arms at the last visit, adjusted by the baseline, pooled."""
    at = (DATA["visit"] == "w12").to_numpy()
    model = mm.plan("y ~ base + arm", last_visit(DATA).drop(columns="y"), residual="homdiag(visit | subject)")
    return mm.pool(mm.fit_many(model, found.Y[:, at], progress=False), model=model)


def test_missing_at_random_agrees_with_the_model_of_what_was_seen(fit):
    """The pooled difference at the last visit, within what a few imputations leave to chance, and its error."""
    found, m = imputed(fit, "mar", n=25), 25
    model = mm.plan(FORMULA, DATA.drop(columns="y"), residual="us(visit | subject)")
    pooled = mm.pool(mm.fit_many(model, found.Y, start=fit, progress=False), model=model)
    L = np.zeros(len(fit.fixef))
    names = list(fit.fixef.index)
    L[[names.index("armcontrol"), names.index("armcontrol:visitw12")]] = 1
    each = pooled.sets.Q @ L
    assert abs(each.mean() - L @ fit.fixef.to_numpy()) < 4 * each.std(ddof=1) / np.sqrt(m)
    # what is between the imputations is what complete data would not have: T = within + between
    within = mm.lmm(FORMULA, found[0], residual="us(visit | subject)").vcov().to_numpy()
    total = L @ within @ L + (1 + 1 / m) * each.var(ddof=1)
    assert total == pytest.approx(L @ fit.vcov().to_numpy() @ L, rel=0.3) and each.var() > 0.05 * total


def test_moving_what_was_imputed_moves_the_estimate(fit):
    found, at = imputed(fit, n=4), (DATA["visit"] == "w12").to_numpy()
    active = (DATA["arm"] == "active").to_numpy()
    moved = found.shift(-2.0)
    assert np.array_equal(moved.Y != found.Y, np.tile(found.after & active, (4, 1)))
    assert found.after.sum() < found.missing.sum() and not np.any(found.after & ~found.missing)
    mean = lambda x, rows: x.Y[:, at & rows].mean()  # noqa: E731
    share = (found.after & active & at).sum() / (active & at).sum()
    assert mean(moved, active) - mean(found, active) == pytest.approx(-2 * share)
    both = found.shift({"active": -2.0, "control": 1.0})
    assert np.array_equal(both.Y[:, active], moved.Y[:, active]) and mean(both, ~active) > mean(found, ~active)
    assert np.array_equal(found.shift(np.where(active, -2.0, 0.0)).Y, moved.Y)
    X = np.column_stack([np.ones(40), last_visit(DATA)["base"], last_visit(DATA)["arm"] == "control"])
    by_hand = np.linalg.lstsq(X, moved.Y[:, at].T, rcond=None)[0].mean(axis=1)
    np.testing.assert_allclose(ancova(moved).fixef, by_hand, rtol=1e-6)


# ---------------------------------------------------------------- misuse
def test_what_cannot_be_imputed(fit):
    first = DATA.index[0]
    for data, message in (
        (DATA.drop(columns="y"), "data has no column 'y', the response"),
        (DATA.drop(index=first), r"data has no row of subject s000 at the visit 'w2'.* a missing response"),
        (DATA.assign(base=DATA["base"].where(DATA.index != 7)), r"explanatory variable .* missing at row 7"),
        (DATA.assign(y=DATA["y"] + 1), "data has the response .* of s000 at the visit 'w2', and the fit"),
        (WHOLE, "and the fit nan"),
        (DATA.assign(arm=np.where(DATA.index == first, "active", DATA["arm"])), "subject s000 is in several arms"),
    ):
        with pytest.raises(mm.DataError, match=message):
            imputed(fit, data=data)
    with pytest.raises(mm.DataError, match="reference='placebo' is no value of 'arm': it has 'control', 'active'"):
        mm.impute_reference(fit, DATA, arm="arm", reference="placebo", n=2, key=1)
    with pytest.raises(mm.DataError, match=r"no value of 'base': it has -?[\d.e-]+, .*\.\.\. \(\d+ in all\)$"):
        mm.impute_reference(fit, DATA, arm="base", reference="control", n=2, key=1)
    some = DATA[DATA["subject"].isin(DATA["subject"].unique()[5:])]
    with pytest.raises(mm.DataError, match="data has no row of s000, one of 5 of 'subject' that the fit has"):
        imputed(fit, data=some)
    with pytest.raises(mm.DataError, match="arm='site' is not in the formula"):
        mm.impute_reference(fit, DATA.assign(site=DATA["arm"]), arm="site", reference="control", n=2, key=1)
    with pytest.raises(ValueError, match="method must be one of 'mar', 'j2r', 'cir', 'cr', not 'locf'"):
        imputed(fit, "locf")
    with pytest.raises(TypeError, match=r"impute_reference\(\) has no keyword 'delta'.*shift"):
        mm.impute_reference(fit, DATA, arm="arm", reference="control", n=2, key=1, delta=1.0)
    found = imputed(fit, n=2)
    for delta in ({"placebo": 1.0}, np.nan, [1.0, 2.0]):
        with pytest.raises(ValueError, match="delta"):
            found.shift(delta)


@pytest.mark.parametrize(
    ("formula", "keywords", "message"),
    [
        ("y ~ arm + (1 | subject)", {}, "has no covariance of the visits: fit it with residual="),
        ("y ~ arm + (1 | subject)", {"residual": "ar1(visit | subject)"}, "has random effects too"),
        ("y ~ arm", {"residual": "ar1(1 | subject)"}, "goes by the order of the rows"),
        ("y ~ arm", {"residual": "ar1(visit | subject)", "weights": np.full(len(DATA), 2.0)}, "has weights"),
    ],
)
def test_models_that_are_not_of_repeated_measures(formula, keywords, message):
    other = mm.Model.from_formula(formula, DATA, **keywords)
    with pytest.raises(ValueError, match=message):
        read_visits(type("Fitted", (), {"model": other}), DATA, "arm", "control")


# ---------------------------------------------------------------- validity
@pytest.mark.slow
def test_a_published_trial_at_random_and_by_reference():
    """The forced expiratory volume of the R package mmrm: 263 of 800 visits are missing, some between others."""
    data = pd.read_csv(Path(__file__).parent / "reference/mmrm/fev.csv")
    fit = mm.lmm("FEV1 ~ AVISIT * (SEX + ARMCD)", data, residual="us(AVISIT | USUBJID)")
    at, names = (data["AVISIT"] == "VIS4").to_numpy(), list(fit.fixef.index)
    L = np.zeros(len(names))
    L[[names.index("ARMCDTRT"), names.index("AVISITVIS4:ARMCDTRT")]] = 1
    direct, se = float(L @ fit.fixef.to_numpy()), float(np.sqrt(L @ fit.vcov().to_numpy() @ L))
    last = data[at].drop(columns="FEV1")
    model = mm.plan("FEV1 ~ SEX + ARMCD", last, residual="homdiag(AVISIT | USUBJID)")
    rows = {}
    for method in ("mar", "cir", "j2r", "cr"):
        found = mm.impute_reference(
            fit, data, arm="ARMCD", reference="PBO", method=method, n=100, key=1, progress=False
        )
        rows[method] = mm.pool(mm.fit_many(model, found.Y[:, at], progress=False), model=model).frame.loc["ARMCDTRT"]
    mar = rows["mar"]
    assert abs(mar["estimate"] - direct) < 4 * np.sqrt(mar["between"] / 100)
    assert mar["se"] == pytest.approx(se, rel=0.15)
    assert max(rows[m]["estimate"] for m in ("cir", "j2r", "cr")) < mar["estimate"]


@pytest.mark.slow
def test_jump_to_reference_has_the_effect_of_those_who_stay(claim):
    """Of an effect of 1.5 at the last visit those who left lose all: the share who stay keep it."""
    effects, n = [], 60
    for seed in range(n):
        _, data = trial(100, dropout=0.15, seed=seed)
        mmrm = mm.lmm(FORMULA, data, residual="us(visit | subject)")
        found = mm.impute_reference(mmrm, data, arm="arm", reference="control", n=5, key=seed, progress=False)
        at = (data["visit"] == "w12").to_numpy()
        X = np.column_stack([np.ones(100), data["base"][at], data["arm"][at] == "active"])
        effects.append(np.linalg.lstsq(X, found.Y[:, at].T, rcond=None)[0][2].mean())
    expected = 1.5 * 0.85**3
    error = np.std(effects) / np.sqrt(n)
    claim("effect after a jump to reference", np.mean(effects), expected, n=n, error=error)
    assert abs(np.mean(effects) - expected) < 4 * error


@pytest.mark.slow
def test_rubins_intervals_over_repeated_trials(claim):
    """At random they cover the effect as stated; after a jump to reference they are those of an analysis that has lost
    information, while the estimate borrows from the reference arm and varies less (Cro, Carpenter & Kenward 2019)."""
    n, truth = 300, {"mar": 1.5, "j2r": 1.5 * 0.85**3}
    estimate, se, covers = ({rule: np.zeros(n) for rule in truth} for _ in range(3))
    for k in range(n):
        _, data = trial(100, dropout=0.15, seed=1000 + k)
        mmrm = mm.lmm(FORMULA, data, residual="us(visit | subject)")
        at = (data["visit"] == "w12").to_numpy()
        model = mm.plan("y ~ base + arm", data[at].assign(y=np.arange(100.0)), residual="homdiag(visit | subject)")
        for rule, effect in truth.items():
            found = imputed(mmrm, rule, 20, data, key=k)
            # the first level of the arm is the active one
            row = mm.pool(mm.fit_many(model, found.Y[:, at], progress=False), model=model).frame.loc["armcontrol"]
            estimate[rule][k], se[rule][k] = -row["estimate"], row["se"]
            covers[rule][k] = abs(-row["estimate"] - effect) < row["se"] * t.ppf(0.975, row["df"])
    claim("coverage of Rubin's intervals at random", covers["mar"].mean(), 0.95, n=n)
    assert abs(covers["mar"].mean() - 0.95) < 4 * np.sqrt(0.95 * 0.05 / n)
    ratio = {rule: np.mean(se[rule]) / np.std(estimate[rule], ddof=1) for rule in truth}
    error = 1 / np.sqrt(2 * n)  # of a standard deviation over itself
    claim("Rubin's standard error over the spread, at random", ratio["mar"], 1.0, n=n, error=error)
    assert abs(ratio["mar"] - 1) < 4 * error
    assert ratio["j2r"] > 1 + 4 * error and covers["j2r"].mean() > 0.95
