"""Intervals of predictions of generalised models, beside dense algebra, differences, quadrature and R."""

import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import close, says
from prediction_cases import KEY, NORMAL, Q, counts, expanded, prior, table
from scipy import special

import jaxmm as mm
from jaxmm import DataError

REFERENCE = json.loads((Path(__file__).parent / "reference" / "predictions.json").read_text())


def test_the_joint_covariance_of_a_generalised_model():
    """N = (Z'WZ + D⁻¹)⁻¹ at the modes, and b̂ moves with β̂ by -NZ'WX."""
    fit = counts("crossed")
    d, Z, mu = fit.model.design, expanded(fit), fit.fitted().to_numpy()
    D = prior(fit)
    N = D - D @ Z.T @ np.linalg.solve(Z @ D @ Z.T + np.diag(1 / mu), Z @ D)
    G = np.vstack([np.eye(2), -N @ Z.T @ (mu[:, None] * d.X)])
    expected = G @ fit.vcov().to_numpy() @ G.T
    expected[2:, 2:] += N
    close(fit.joint_vcov(), expected, 1e-6)  # to what the modes' search leaves
    A = np.hstack([d.X, Z])
    se = np.sqrt(np.einsum("na,ab,nb->n", A, expected, A))
    frame, eta = fit.predict(interval="confidence"), fit.predict(scale="link")
    close(np.log(frame["upper"]) - eta, Q * se, 1e-6)
    close(eta - np.log(frame["lower"]), Q * se, 1e-6)
    new = pd.DataFrame({"x": [1.0], "g": ["who"], "h": ["who"]})
    v = np.ones(2) @ (fit.vcov() + fit.varcorr().cov["g"].to_numpy()) @ np.ones(2) + fit.varcorr().cov["h"].iloc[0, 0]
    link = fit.predict(new, scale="link", new_levels="sample", interval="confidence")
    close(link["upper"] - link["predicted"], [Q * np.sqrt(v)], 1e-9)


def test_the_modes_move_with_every_parameter():
    """By differences of modes found as roots of the score of each level, θ and φ uncertain too."""
    fit = counts("one", "nbinom2")
    d, e = fit.model.design, fit.estimates
    codes, y = d.factors[0].codes, d.y
    scales = [*np.asarray(fit.model.arrays.T_X), fit.theta[0] / e.psi[2]]

    def modes(psi):
        beta, theta, phi = np.array(scales[:2]) @ psi[:2], scales[2] * psi[2], np.exp(psi[3])
        b = np.zeros(len(d.factors[0].levels))
        for _ in range(50):
            mu = np.exp(d.X @ beta + b[codes])
            score = np.bincount(codes, (y - mu) / (1 + mu / phi)) - b / theta**2
            slope = np.bincount(codes, mu * (1 + y / phi) / (1 + mu / phi) ** 2) + 1 / theta**2
            b = b + score / slope
        return d.X @ beta + b[codes], 1 / slope

    eta, N = modes(np.asarray(e.psi))
    close(eta, fit.predict(scale="link"), 1e-8)
    steps = 1e-5 * np.eye(4)
    J = np.stack([(modes(e.psi + h)[0] - modes(e.psi - h)[0]) / 2e-5 for h in steps], axis=1)
    whole = ("fixed", "random", "variances")
    for uncertain, kept in {whole: slice(4), ("fixed", "random"): slice(2)}.items():
        V = np.asarray(e.covariance)[kept, kept]
        expected = np.einsum("nk,kl,nl->n", J[:, kept], V, J[:, kept]) + N[codes]
        frame = fit.predict(scale="link", interval="confidence", uncertain=uncertain)
        close(frame["upper"] - frame["predicted"], Q * np.sqrt(expected), 1e-6)
    drawn = [fit.predict(interval="prediction", key=KEY, uncertain=(*u, "residual")) for u in (whole, whole[:2])]
    assert (drawn[0] != drawn[1]).any().any()


def tails(fit: mm.Fit, frame: pd.DataFrame, eta, v) -> tuple[np.ndarray, np.ndarray]:
    """P(y < lower) and P(y > upper) of Poisson counts whose log mean is N(eta, v), by quadrature."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(80)
    mean = np.exp(np.asarray(eta)[:, None] + np.sqrt(v)[:, None] * nodes)
    below = (
        special.pdtr(np.maximum(frame["lower"].to_numpy() - 1, 0)[:, None], mean) * (frame[["lower"]] > 0).to_numpy()
    )
    above = special.pdtrc(frame["upper"].to_numpy()[:, None], mean)
    return below @ mass / mass.sum(), above @ mass / mass.sum()


@pytest.mark.parametrize("new_levels", ["error", "sample"])
def test_simulated_responses(new_levels):
    """Both tails beside the mixture's own, within four Monte-Carlo errors: no more than (1 - level)/2, and more with
    one count less."""
    fit, n = counts("crossed"), 4000
    new = table()[:40] if new_levels == "error" else table()[:40].assign(g="who", h="who")
    eta = fit.predict(new, scale="link", new_levels="population")
    link = fit.predict(new, scale="link", interval="confidence", new_levels=new_levels)
    v = ((link["upper"] - link["predicted"]).to_numpy() / Q) ** 2
    frame = fit.predict(new, interval="prediction", new_levels=new_levels, key=KEY, n=n, level=0.9)
    error = 4 * np.sqrt(0.05 * 0.95 / n)
    for below in tails(fit, frame, eta, v):
        assert (below < 0.05 + error).all()
    inside = pd.DataFrame({"lower": frame["lower"] + 1, "upper": frame["upper"] - 1})
    for above in tails(fit, inside, eta, v):
        assert (above > 0.05 - error).all()
    # a row's draws are its own, and the key's
    again = fit.predict(new[:3], interval="prediction", new_levels=new_levels, key=KEY, n=n, level=0.9)
    pd.testing.assert_frame_equal(pd.DataFrame(again), pd.DataFrame(frame[:3]))
    other = fit.predict(new, interval="prediction", new_levels=new_levels, key=jax.random.key(5), n=n, level=0.9)
    assert (other["upper"] != frame["upper"]).any()


def test_shares_of_trials():
    """Ends of successes among trials are shares; the fit's own trials on its own rows."""
    data = table().assign(size=7, won=lambda d: np.minimum(d["count"], 7))
    fit = mm.glmm("cbind(won, size - won) ~ x + (1 | g)", data, "binomial")
    own = fit.predict(interval="prediction", key=KEY)
    assert own[["lower", "upper"]].stack().between(0, 1).all()
    close(np.round(7 * own["upper"]), 7 * own["upper"], 1e-12)
    many = fit.predict(data, interval="prediction", key=KEY, weights=1000)
    narrow = fit.predict(data, interval="confidence")
    assert (own["upper"] - own["lower"]).mean() > 1.5 * (many["upper"] - many["lower"]).mean()
    close((many["upper"] - many["lower"]).mean(), (narrow["upper"] - narrow["lower"]).mean(), 0.1)
    with says(DataError, "the fit had numbers of trials: pass weights="):
        fit.predict(data, interval="prediction", key=KEY)


def test_several_predictors():
    """Effects on the counts and on the zeros are correlated given the data; the mean has the errors of both."""
    from test_predictors import fitted as ponds_fit
    from test_predictors import ponds

    fit, data = ponds_fit("zeros"), ponds()
    C, rows = fit.joint_vcov(), data.iloc[[3, 200]]
    place = {label: k for k, label in enumerate(C.index)}
    assert abs(C.iloc[place["pond", "3", "(Intercept)"], place["zi~pond", "3", "(Intercept)"]]) > 1e-6
    frame = fit.predict(rows, interval="confidence")
    for k, (_, row) in enumerate(rows.iterrows()):
        pond, ends = str(row["pond"]), np.zeros((len(C), 2))
        ends[:2, 0] = 1, row["x"]
        ends[2:4, 1] = 1, row["bad"] == "yes"
        ends[place["pond", pond, "(Intercept)"], 0] = 1
        ends[place["zi~pond", pond, "(Intercept)"], 1] = 1
        S = ends.T @ C.to_numpy() @ ends
        pi = fit.predict(rows, scale="zero").iloc[k]
        f = np.array([1.0, -pi])  # log((1 - π) μ) by η and logit π
        half = Q * np.sqrt(f @ S @ f)
        close(
            np.log(frame.iloc[k, 1:].astype(float)), np.log(frame["predicted"].iloc[k]) + half * np.array([-1, 1]), 1e-9
        )
        zero = fit.predict(rows, scale="zero", interval="confidence").iloc[k]
        close(special.logit(zero["upper"]) - special.logit(pi), Q * np.sqrt(S[1, 1]), 1e-9)
    drawn = fit.predict(rows, interval="prediction", key=KEY)
    assert (drawn["lower"] == 0).all() and (drawn["upper"] > drawn["predicted"]).all()


@pytest.mark.parametrize("name", ["shares", "both"])
def test_dispersion_formulas(name):
    from test_predictors import fitted as ponds_fit
    from test_predictors import ponds

    fit, rows = ponds_fit(name), ponds().iloc[:5]
    frame = fit.predict(rows, interval="prediction", key=KEY, re="marginal")
    assert (frame["lower"] <= frame["predicted"]).all() and (frame["predicted"] <= frame["upper"]).all()
    phi = fit.predict(rows, scale="dispersion", interval="confidence")
    assert (phi["lower"] < phi["upper"]).all()


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: c["formula"])
def test_standard_errors_as_in_r(case):
    """Everything uncertain, at old and new levels and at b = 0."""
    data = mm.datasets.load(case["data"])
    data = data[np.arange(1, len(data) + 1) % {"sleepstudy": 7, "penicillin": 5, "grouseticks": 3}[case["data"]] != 0]
    groups = [c for c in ("Subject", "plate", "sample", "BROOD", "LOCATION") if c in data]
    data = data.astype(dict.fromkeys(groups, str))
    if case["family"] == "gaussian":
        fit = mm.lmm(case["formula"], data, reml=False)
    else:
        fit = mm.glmm(case["formula"], data.assign(height=(data["HEIGHT"] - 460) / 50), case["family"])
    options = {"scale": "link", "interval": "confidence", **NORMAL}
    whole, new = ("fixed", "random", "variances"), pd.DataFrame(case["new"])
    frame = fit.predict(new, new_levels="sample", uncertain=whole, **options)
    close(frame["predicted"], case["fit"], 1e-5)
    np.testing.assert_allclose((frame["upper"] - frame["predicted"]) / Q, case["se"], rtol=1e-4)
    zero = fit.predict(new, re="population", uncertain=("fixed", "variances"), **options)
    np.testing.assert_allclose((zero["upper"] - zero["predicted"]) / Q, case["se_at_zero"], rtol=1e-4)
