"""Errors that are correlated within subjects which cross the factors of the random effects: V written out, glmmTMB, and
the other solver."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from dense_residual import ar1, dense, errors, kenward_roger
from helpers import central, close, quick_jit

import jaxmm as mm
from jaxmm import DataError
from jaxmm.objective.lmm import scaled_deviance
from jaxmm.solver.dense import Dense

HERE = Path(__file__).parent / "reference"
AR1 = "ar1(trial | subject)"


def table() -> Any:
    """Subjects see some of the items in an order of their own, at sites that change; a few trials are missing."""
    rng = np.random.default_rng(5)
    S, T, items = 9, 6, 8
    d = pd.DataFrame({
        "subject": np.repeat(np.arange(S), T),
        "trial": np.tile(np.arange(T), S),
        "item": np.concatenate([rng.permutation(items)[:T] for _ in range(S)]),
        "site": rng.integers(0, 3, S * T),
        "x": rng.normal(size=S * T),
        "w": rng.uniform(0.5, 2, S * T),
    })  # fmt: skip
    d["school"] = d["subject"] % 4
    d["y"] = d["x"] + rng.normal(size=items)[d["item"]] + rng.normal(size=S)[d["subject"]] + rng.normal(size=S * T)
    return d[rng.random(S * T) > 0.15].sample(frac=1, random_state=1).reset_index(drop=True)


DATA = table()
ONE, SLOPE = np.ones((len(DATA), 1)), np.column_stack([np.ones(len(DATA)), DATA["x"]])


def of_factor(name: str, Z: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """ZΛΛ'Z'."""
    codes, ZL = DATA[name].to_numpy(), Z @ np.atleast_2d(lam)
    return (codes[:, None] == codes) * (ZL @ ZL.T)


def lower(t: np.ndarray) -> np.ndarray:
    return np.array([[t[0], 0.0], [t[1], t[2]]])


def correlated(alpha: float) -> np.ndarray:
    return errors(DATA["subject"].to_numpy(), DATA["trial"].to_numpy(), ar1(1, np.sin(alpha), range(6)))


def minus_2_loglik(model, V: np.ndarray) -> float:
    """At the best σ², for Var(y) = σ²V."""
    X, y, reml = model.design.X, model.design.y, model.reml
    L = np.linalg.cholesky(V)
    Xw, yw = np.linalg.solve(L, X), np.linalg.solve(L, y)
    r = yw - Xw @ np.linalg.lstsq(Xw, yw, rcond=None)[0]
    return -2 * dense(X, y, r @ r / (len(y) - reml * X.shape[1]) * V, reml).loglik


# theta has the factor with more levels first; V over σ² of theta as to the columns of the data
CASES = {
    "no chain": ("(1 | item)", lambda t: of_factor("item", ONE, t[0])),
    "subjects and slopes of items": (
        "(1 | subject) + (x | item)",
        lambda t: of_factor("subject", ONE, t[0]) + of_factor("item", SLOPE, lower(t[1:4])),
    ),
    "two crossed, of which one has several rows of a subject": (
        "(1 | item) + (x | site)",
        lambda t: of_factor("item", ONE, t[0]) + of_factor("site", SLOPE, lower(t[1:4])),
    ),
    "a chain of two, and one crossed": (
        "(1 | subject) + (1 | school) + (1 | site)",
        lambda t: of_factor("subject", ONE, t[0]) + of_factor("school", ONE, t[1]) + of_factor("site", ONE, t[2]),
    ),
}


def made(name: str, reml: bool = True, **more) -> mm.Model:
    return mm.Model.from_formula(f"y ~ x + {CASES[name][0]}", DATA, reml=reml, **{"residual": AR1, **more})


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_the_likelihood_written_out(name):
    """At several points, by REML and ML, and its gradient by differences."""
    f, g = quick_jit(mm.deviance), quick_jit(jax.grad(mm.deviance))
    for reml in (True, False):
        m = made(name, reml)
        for seed in range(3):
            theta = np.random.default_rng(seed).normal(size=m.structure.num_theta)
            V = CASES[name][1](theta) + correlated(theta[-1])
            assert float(f(theta, m.arrays)) == pytest.approx(minus_2_loglik(m, V), rel=1e-9)
    slope = central(lambda t: float(f(t, m.arrays)), theta, 1e-3)
    close(g(theta, m.arrays), slope, 1e-8)


@pytest.mark.usefixtures("x64")
def test_the_dense_solver_says_the_same():
    """The deviance with two derivatives, of a chain and a rest."""
    m = made("subjects and slopes of items")
    other = m.with_solver(Dense(tuple(g.levels for g in m.accumulator.groupings)))
    theta = np.random.default_rng(3).normal(size=m.structure.num_theta)

    def derivatives(t, arrays):
        first = jax.value_and_grad(scaled_deviance)
        return *first(t, arrays), jax.jacfwd(lambda u: first(u, arrays)[1])(t)

    for a, b in zip(quick_jit(derivatives)(theta, m.arrays), quick_jit(derivatives)(theta, other.arrays), strict=True):
        close(a, b, 1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("given", [{"weights": "w"}, {"weights": "w", "dispersion": "~ x"}, {"residual": None}])
def test_weights_and_unequal_variances(given):
    """Beside correlations that cross a factor, and, where ``residual`` is None, without any."""
    given = {"dispersion": "~ x", **given} if "residual" in given else given
    m = made("subjects and slopes of items", **given)
    theta = np.random.default_rng(4).normal(size=m.structure.num_theta)
    rho = theta[4:]
    R = np.eye(len(DATA)) if given.get("residual", AR1) is None else correlated(rho[0])
    s = np.exp(0.5 * DATA["x"] * rho[-1]) if "dispersion" in given else np.ones(len(DATA))
    s = s / np.sqrt(DATA["w"]) if "weights" in given else s
    # the weights' own logarithms are part of the density, not of V over σ²
    V = CASES["subjects and slopes of items"][1](theta) + np.outer(s, s) * R
    assert float(quick_jit(mm.deviance)(theta, m.arrays)) == pytest.approx(minus_2_loglik(m, V), rel=1e-9)


# ---------------------------------------------------------------- fits
REFERENCE = json.loads((HERE / "crossed.json").read_text())
BARS = {"item": "(1 | item)", "subject item": "(1 | subject) + (1 | item)"}


@pytest.mark.parametrize("key", [key for key in REFERENCE if key != "glmmTMB"])
def test_fits_are_glmmtmbs(key):
    """Whose standard errors are of the joint Hessian."""
    said, (kind, bars) = REFERENCE[key], key.split(" ", 1)
    d = pd.read_csv(HERE / "crossed.csv")
    fit: Any = mm.lmm(f"y ~ x + {BARS[bars]}", d, reml=kind == "REML", residual=AR1)
    assert fit.converged and fit.loglik == pytest.approx(said["loglik"], abs=2e-6)
    np.testing.assert_allclose(fit.fixef, said["fixef"], atol=1e-5)
    np.testing.assert_allclose(fit.bse, said["bse"], rtol=3e-3)
    sd = [np.sqrt(fit.varcorr().cov[name].iloc[0, 0]) for name in bars.split()]
    np.testing.assert_allclose(sd, np.atleast_1d(said["sd"]), rtol=1e-4)
    assert fit.sigma == pytest.approx(said["error_sd"], rel=1e-4)
    assert fit.residual.params["rho"] == pytest.approx(said["rho"], abs=1e-4)


@pytest.fixture(scope="module")
def fit():
    return mm.lmm("y ~ x + (1 | subject) + (1 | item)", DATA, residual=AR1)


def parts(fit: Any) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """V, and ZD of each factor, and R, of the estimates."""
    at = fit.varcorr().cov
    D = {name: float(at[name].iloc[0, 0]) for name in ("subject", "item")}
    R = fit.sigma**2 * correlated(np.arcsin(fit.residual.params["rho"]))
    V = R + sum(of_factor(name, ONE, np.sqrt(d)) for name, d in D.items())
    ZD = {name: d * np.eye(DATA[name].max() + 1)[DATA[name]] for name, d in D.items()}
    return V, ZD, R


def test_effects_and_predictions(fit):
    """Modes D Z'V^-1 r, their covariances, and what is made of them."""
    V, ZD, _ = parts(fit)
    X, y = fit.model.design.X, fit.model.design.y
    W = np.linalg.inv(V)
    r = y - X @ fit.fixef.to_numpy()
    eta = X @ fit.fixef.to_numpy()
    for f, factor in enumerate(fit.model.design.factors):
        own = ZD[factor.name]
        np.testing.assert_allclose(fit.ranef()[factor.name].iloc[:, 0], own.T @ W @ r, atol=1e-6)
        D = float(fit.varcorr().cov[factor.name].iloc[0, 0])
        given = D - np.einsum("nj,nm,mj->j", own, W, own)
        np.testing.assert_allclose(fit.effects.conditional[f][:, 0, 0], given, atol=1e-7)
        eta = eta + (own / D) @ (own.T @ W @ r)
    np.testing.assert_allclose(fit.fitted(), eta, atol=1e-6)
    new = DATA.iloc[:4].assign(item=[0, 1, 2, 99], trial=[0, 1, 2, 3])
    ahead = fit.predict(new, new_levels="population")
    item = fit.ranef()["item"].iloc[:, 0].reindex(["0", "1", "2", "99"]).fillna(0.0).to_numpy()
    subject = fit.ranef()["subject"].iloc[:, 0].loc[new["subject"].astype(str)].to_numpy()
    mean = fit.fixef.iloc[0] + fit.fixef.iloc[1] * new["x"].to_numpy()
    np.testing.assert_allclose(ahead, mean + item + subject, atol=1e-9)
    band = fit.predict(new.iloc[:3], interval="confidence")
    assert (band.iloc[:, 1] < band.iloc[:, 0]).all() and (band.iloc[:, 0] < band.iloc[:, 2]).all()


def test_degrees_of_freedom(fit):
    """Kenward and Roger's by the formulas of the paper, with the expected information on σ²_subject, σ²_item, σ², ρ."""
    V, ZD, R = parts(fit)
    X, rho = fit.model.design.X, float(fit.residual.params["rho"])
    at = fit.varcorr().cov
    dV = [ZD[name] @ ZD[name].T / float(at[name].iloc[0, 0]) ** 2 for name in ("subject", "item")]
    step = 1e-5
    moved = correlated(np.arcsin(rho + step)) - correlated(np.arcsin(rho - step))
    dV = np.stack([*dV, R / fit.sigma**2, fit.sigma**2 * moved / (2 * step)])
    W = np.linalg.inv(V)
    P = W - W @ X @ np.linalg.solve(X.T @ W @ X, X.T @ W)
    PV = P @ dV
    information = 0.5 * np.einsum("iab,jba->ij", PV, PV)
    said = kenward_roger(X, V, dV, np.linalg.inv(information), np.eye(2))
    table = fit.coef_table("kenward-roger-linear")
    np.testing.assert_allclose(table["se"], np.sqrt(np.diag(said.vcov)), rtol=1e-4)
    np.testing.assert_allclose(table["df"], said.df, rtol=1e-3)
    df = fit.coef_table("satterthwaite")["df"]
    assert 1 < df.iloc[0] < len(DATA) and 1 < df.iloc[1] < len(DATA)


def test_simulated_responses_have_the_covariance(fit):
    V, _, _ = parts(fit)
    Y = fit.simulate(4000, key=1) - fit.predict(re="population").to_numpy()
    rows = np.r_[0:6]
    np.testing.assert_allclose(np.cov(Y[:, rows].T), V[np.ix_(rows, rows)], atol=0.12 * V.max())


@pytest.mark.parametrize("bars", ["(1 | item)", "(1 | subject) + (1 | item)"])
def test_lanes_are_single_fits(bars):
    """Also of a model that has no factor to eliminate by its levels, and with a missing row."""
    one = mm.lmm(f"y ~ x + {bars}", DATA, residual=AR1)
    Y = one.simulate(2, key=2)
    Y[1, 5] = np.nan
    batch = mm.fit_many(one.model, Y, progress=False)
    for k in range(2):
        there = ~np.isnan(Y[k])
        single = mm.lmm(one.formula, DATA.assign(y=Y[k])[there], residual=AR1)
        assert batch.loglik[k] == pytest.approx(single.loglik, abs=1e-6) and batch.converged[k]
        np.testing.assert_allclose(batch.fixef[k], single.fixef, atol=1e-4)


def test_other_verbs(fit):
    again = fit.refit(2 * fit.model.design.y)
    np.testing.assert_allclose(again.varcorr().cov["item"], 4 * fit.varcorr().cov["item"], rtol=1e-3)
    assert "item: dense, 8 effects" in str(mm.lmm("y ~ x + (1 | item)", DATA, residual=AR1).model.plan)
    with pytest.raises(ValueError, match="cluster"):
        fit.vcov("CR2", cluster="subject")


def test_subjects_left_out_and_profiles(fit):
    moved = fit.influence("subject", refit=True).frame
    without = mm.lmm(fit.formula, DATA[DATA["subject"] != 3], residual=AR1)
    move = (fit.fixef - without.fixef).to_numpy()
    cook = move @ np.linalg.solve(fit.vcov().to_numpy(), move) / 2
    assert moved.loc["3", "cooks_distance"] == pytest.approx(cook, rel=1e-2)
    profile = fit.confint("profile")
    assert (profile.iloc[:, 0] < fit.fixef).all() and (fit.fixef < profile.iloc[:, 1]).all()


def test_a_dear_hessian_is_learnt(fit, monkeypatch):
    """From gradients, between an exact one at the start and one at the end."""
    monkeypatch.setattr("jaxmm.costs.DEAR_REST", 1)
    other = fit.model.fit()
    assert other.converged and other.loglik == pytest.approx(fit.loglik, abs=1e-7)
    np.testing.assert_allclose(other.fixef, fit.fixef, atol=1e-5)


def test_many_crossed_effects_are_refused(monkeypatch):
    monkeypatch.setattr("jaxmm.costs.MIXED_COLUMNS", 10)
    with pytest.raises(DataError, match=r"several levels of 'item' \(8 levels x 2\).*16 columns, and 10 are the most"):
        made("subjects and slopes of items")
