"""Intervals of predictions of linear models, and the joint covariance of β̂ and b̂, beside Henderson's matrix written
out; what is printed, and misuse."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from helpers import central, close, says
from prediction_cases import KEY, LINEAR, NORMAL, Q, counts, expanded, fitted, prior, t_of, table
from scipy import special

import jaxmm as mm
from jaxmm import DataError


@cache
def joint(name: str) -> np.ndarray:
    """Var [β̂ - β; b̂ - b]: the inverse of the mixed-model equations' matrix; where D has none, from V = ZDZ' + W⁻¹."""
    fit = fitted(name)
    d, Z, D = fit.model.design, expanded(fit), prior(fit)
    W = np.diag(np.ones(len(d.y)) if d.weights is None else d.weights) / fit.scale
    p = d.X.shape[1]
    if name != "all":
        both = np.hstack([d.X, Z])
        C = both.T @ W @ both
        C[p:, p:] += np.linalg.inv(D)
        return np.linalg.inv(C)
    V = np.linalg.inv(Z @ D @ Z.T + np.linalg.inv(W))
    beta = np.linalg.inv(d.X.T @ V @ d.X)
    P = V - V @ d.X @ beta @ d.X.T @ V
    side = -beta @ d.X.T @ V @ Z @ D
    return np.block([[beta, side], [side.T, D - D @ Z.T @ P @ Z @ D]])


@pytest.mark.parametrize("name", LINEAR)
def test_the_joint_covariance_is_the_inverse_of_hendersons_matrix(name):
    fit, expected = fitted(name), joint(name)
    found = fit.joint_vcov()
    close(found, expected, 1e-9)
    assert found.index.equals(found.columns) and found.index[1] == ("fixed", "", "x")
    name = fit.model.design.factors[0].name
    wanted = [fit.model.design.factors[0].levels[k] for k in (3, 1)]
    some = fit.joint_vcov({name: wanted})
    assert list(some.index[2:].get_level_values("level").unique()) == wanted
    close(some, found.loc[some.index, some.index], 1e-12)
    close(fit.joint_vcov({}), fit.vcov(), 1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_intervals_of_the_fits_own_levels(name):
    """On the fit's rows: a'C⁻¹a, plus σ²/w for a response."""
    fit, C = fitted(name), joint(name)
    d = fit.model.design
    A = np.hstack([d.X, expanded(fit)])
    variance = np.einsum("na,ab,nb->n", A, C, A)
    frame = fit.predict(interval="confidence", **NORMAL)
    np.testing.assert_array_equal(frame["predicted"], fit.predict())
    close(frame["upper"] - frame["predicted"], Q * np.sqrt(variance), 1e-9)
    close(frame["predicted"] - frame["lower"], Q * np.sqrt(variance), 1e-9)
    w = 1.0 if d.weights is None else d.weights
    frame = fit.predict(interval="prediction", **NORMAL, level=0.8)
    close((frame["upper"] - frame["lower"]) / 2, special.ndtri(0.9) * np.sqrt(variance + fit.scale / w), 1e-9)


# ---------------------------------------------------------------- new rows, new levels
def test_rows_with_old_and_new_levels():
    """An old level has its errors given the data, a new one none, or the variance of the population."""
    fit, C = fitted("crossed"), joint("crossed")
    d = fit.model.design
    new = pd.DataFrame({"x": [0.5, -1.0, 0.5], "g": ["g3", "who", "who"], "h": [2, 2, 99], "o": [1.0, 0.0, 0.0]})
    D, x = fit.varcorr().cov, np.column_stack([np.ones(3), new["x"]])
    a = np.zeros((3, len(C)))
    a[:, :2] = x
    names = [f.name for f in d.factors]
    sizes = [len(f.levels) * q for f, q in zip(d.factors, (2, 1), strict=True)]
    assert names == ["g", "h"]
    g3, h2 = list(d.factors[0].levels).index("g3"), list(map(str, d.factors[1].levels)).index("2")
    a[0, 2 + 2 * g3 : 4 + 2 * g3] = x[0]
    a[:2, 2 + sizes[0] + h2] = 1.0
    old = np.einsum("na,ab,nb->n", a, C, a)
    added = np.array([0, x[1] @ D["g"] @ x[1], x[2] @ D["g"] @ x[2] + D["h"].iloc[0, 0]])
    for new_levels, extra in {"population": 0.0, "sample": added}.items():
        frame = fit.predict(new, new_levels=new_levels, interval="confidence", **NORMAL)
        close(frame["upper"] - frame["predicted"], Q * np.sqrt(old + extra), 1e-9)
        w = np.array([2.0, 1.0, 0.5])
        frame = fit.predict(new, new_levels=new_levels, interval="prediction", **NORMAL, weights=w)
        close(frame["upper"] - frame["predicted"], Q * np.sqrt(old + extra + fit.scale / w), 1e-9)
        np.testing.assert_array_equal(frame["predicted"], fit.predict(new, new_levels="population"))
    # one factor's effects alone; a part held
    frame = fit.predict(new[:1].drop(columns="g"), re=["h"], interval="confidence", **NORMAL)
    a[0, 2 + 2 * g3 : 4 + 2 * g3] = 0
    close(frame["upper"] - frame["predicted"], Q * np.sqrt(a[:1] @ C @ a[0]), 1e-9)
    fixed = fit.predict(new[:1], interval="confidence", **NORMAL, uncertain="fixed")
    close(fixed["upper"] - fixed["predicted"], Q * np.sqrt(x[0] @ fit.vcov() @ x[0])[None], 1e-9)
    given = fit.predict(new[:1].assign(x=0.0), re=["h"], interval="confidence", **NORMAL, uncertain=["random"])
    close(given["upper"] - given["predicted"], Q * fit.ranef().cond_sd["h"].to_numpy()[[h2], 0], 1e-9)


def test_responses_of_a_new_level_need_no_level():
    """Averaged over the levels, or with every level a new one: x'Vx + z'Dz + σ²/w, without a grouping column."""
    fit = fitted("nested")
    new = pd.DataFrame({"x": [0.0, 2.0], "o": [1.0, 0.0]}, index=["a", "b"])
    x = np.column_stack([np.ones(2), new["x"]])
    between = sum(float(v.iloc[0, 0]) for v in fit.varcorr().cov.values())
    mean = np.einsum("na,ab,nb->n", x, fit.vcov(), x)
    close(fit.predict(new, re="marginal"), x @ fit.fixef + new["o"], 1e-12)
    for frame in (fit.predict(new, re=re, interval="confidence", **NORMAL) for re in ("marginal", "population")):
        close(frame["upper"] - frame["predicted"], Q * np.sqrt(mean), 1e-9)
        assert frame.attrs["uncertain"] == ("fixed",)
    whole = [
        fit.predict(new, re="marginal", interval="prediction", **NORMAL, weights=2.0),
        fit.predict(new, re="population", new_levels="sample", interval="prediction", **NORMAL, weights=2.0),
    ]
    for frame in whole:
        close(frame["upper"] - frame["predicted"], Q * np.sqrt(mean + between + fit.scale / 2), 1e-9)
        assert frame.attrs["uncertain"] == ("fixed", "random", "residual") and list(frame.index) == ["a", "b"]
    typical = fit.predict(new, re="population", interval="prediction", **NORMAL, weights=2.0)
    close(typical["upper"] - typical["predicted"], Q * np.sqrt(mean + fit.scale / 2), 1e-9)
    assert "b = 0" in repr(typical) and "b = 0" not in repr(whole[0])
    own = fit.predict(re="marginal", interval="confidence", **NORMAL)
    assert len(own) == 140 and (own["upper"] > own["lower"]).all()


def test_errors_of_the_variances():
    """What θ's error does to β̂(θ) and b̂(θ), by differences of the equations solved at other θ."""
    fit = mm.lmm("y ~ x + (1 | g)", table())
    d, e, Z = fit.model.design, fit.estimates, expanded(fit)

    def predictor(theta):
        V = np.linalg.inv(theta**2 * Z @ Z.T + np.eye(len(d.y)))
        beta = np.linalg.solve(d.X.T @ V @ d.X, d.X.T @ V @ d.y)
        return d.X @ beta + theta**2 * Z @ Z.T @ V @ (d.y - d.X @ beta)

    h = 1e-5 * fit.theta[0]
    slope = (predictor(fit.theta[0] + h) - predictor(fit.theta[0] - h)) / (2 * h) * fit.theta[0] / e.theta_scaled[0]
    wide, narrow = (
        ((lambda f: (f["upper"] - f["predicted"]) / Q)(fit.predict(interval="confidence", **NORMAL, uncertain=u)) ** 2)
        for u in (("fixed", "random", "variances"), None)
    )
    close(wide - narrow, slope**2 * 2 / e.hessian[0, 0], 1e-6)


# ---------------------------------------------------------------- degrees of freedom
def theta_of(fit: mm.Fit) -> np.ndarray:
    """θ in the order of the design's terms, where it is a lower triangle each."""
    places = {id(t): at for (t, _), at in zip(fit._term_layouts(), fit.model.structure.slices(), strict=True)}
    return np.concatenate([fit.theta[places[id(t)]] for t in fit.model.design.terms])


def at_theta(fit: mm.Fit, theta: np.ndarray):
    """The profiled deviance, and the dense parts at θ with σ² profiled: D of a level by factor, Var [β̂ - β; b̂ - b]."""
    d, Z, at, D, lams = fit.model.design, expanded(fit), 0, [], []
    for f, factor in enumerate(d.factors):
        q = sum(t.Z.shape[1] for t in d.terms if t.factor == f)
        lam = np.zeros((q, q))
        lam.T[np.triu_indices(q)] = theta[at : at + q * (q + 1) // 2]
        at += q * (q + 1) // 2
        D.append(lam @ lam.T)
        lams.append(np.kron(np.eye(len(factor.levels)), lam))
    L, ends = np.zeros((Z.shape[1],) * 2), np.cumsum([0] + [len(x) for x in lams])
    for k, x in zip(ends, lams, strict=False):
        L[k : k + len(x), k : k + len(x)] = x
    w = np.ones(len(d.y)) if d.weights is None else d.weights
    y, both, p = d.y if d.offset is None else d.y - d.offset, np.hstack([d.X, Z]), d.X.shape[1]
    C, left, inner = (both.T * w) @ both, len(y) - p, np.linalg.inv(L)
    C[p:, p:] += inner.T @ inner
    joined, right = np.linalg.inv(C), both.T @ (w * y)
    s2 = (y @ (w * y) - right @ joined @ right) / left
    deviance = np.linalg.slogdet(C)[1] - 2 * np.linalg.slogdet(inner)[1] + left * np.log(s2)
    return deviance, [s2 * x for x in D], s2 * joined, s2


def degrees(fit: mm.Fit, variance) -> np.ndarray:
    """Satterthwaite's for ``variance(θ)`` (m,), by differences of dense algebra."""
    theta = theta_of(fit)
    H = central(lambda t: central(lambda s: at_theta(fit, s)[0], t, 1e-3), theta, 1e-3)
    d = central(lambda t: np.log(variance(t)), theta, 1e-3)
    left = fit.nobs - len(fit.fixef)
    return 1 / (np.einsum("kn,kl,ln->n", d, np.linalg.inv(H), d) + 1 / left)


@pytest.mark.parametrize("name", ["slopes", "crossed"])
def test_degrees_of_freedom_of_the_whole_variance(name):
    """Old levels, one new and one old, all new: of a mean, and with the response's own variance."""
    fit, d = fitted(name), fitted(name).model.design
    new = table()[:12].copy()
    new.loc[4:7, "g"], new.loc[6:9, "h"] = "who", 77
    rows = d.evaluate(new, offset=None)
    w = 1.0 if d.weights is None else new["w"].to_numpy()

    def variance(theta, noise):
        _, D, C, s2 = at_theta(fit, theta)
        A, added, at = np.zeros((len(new), len(C))), s2 / w * noise, 2
        A[:, :2] = rows.X
        for f, factor in enumerate(d.factors):
            Z = np.hstack([z for z, t in zip(rows.Z, d.terms, strict=True) if t.factor == f])
            old = rows.codes[f] < len(factor.levels)
            added = added + np.where(old, 0.0, np.einsum("na,ab,nb->n", Z, D[f], Z))
            for k in np.flatnonzero(old):
                own = at + rows.codes[f][k] * Z.shape[1]
                A[k, own : own + Z.shape[1]] = Z[k]
            at += len(factor.levels) * Z.shape[1]
        return np.einsum("na,ab,nb->n", A, C, A) + added

    for kind, weights, noise in (("confidence", None, 0.0), ("prediction", w, 1.0)):
        frame = fit.predict(new, new_levels="sample", interval=kind, weights=weights)
        df = degrees(fit, lambda t, noise=noise: variance(t, noise))
        se = np.sqrt(variance(theta_of(fit), noise))
        close(t_of(frame, se), special.stdtrit(df, 0.975), 1e-6)
        assert "satterthwaite" in repr(frame) and f"{df.min():.3g} to {df.max():.3g} degrees" in repr(frame)


def test_degrees_of_freedom_of_a_balanced_design():
    """Of a new response in a new level: v = c₁ MSB + c₂ MSE, the textbook's Satterthwaite."""
    J, n, rng = 6, 5, np.random.default_rng(2)
    g = np.repeat(np.arange(J), n)
    data = pd.DataFrame({"g": g, "y": 2 * rng.normal(size=J)[g] + rng.normal(size=J * n)})
    fit = mm.lmm("y ~ 1 + (1 | g)", data)
    means = data.groupby("g")["y"].mean()
    msb, mse = n * means.var(), np.sum((data["y"] - means.loc[g].to_numpy()) ** 2) / (J * (n - 1))
    c = np.array([(1 + 1 / J) / n, 1 - 1 / n])
    v = c @ [msb, mse]
    df = v**2 / (c**2 @ [msb**2 / (J - 1), mse**2 / (J * (n - 1))])
    for options in ({"re": "marginal"}, {"new_levels": "sample"}):
        frame = fit.predict(pd.DataFrame({"g": ["new"]}), interval="prediction", **options)
        close(
            frame[["lower", "upper"]],
            means.mean() + special.stdtrit(df, 0.975) * np.sqrt(v) * np.array([[-1, 1]]),
            1e-6,
        )
    frame = fit.predict(data[:1], re="population", interval="confidence")
    close(t_of(frame, np.sqrt(msb / J / n)), [special.stdtrit(J - 1, 0.975)], 1e-6)


def test_methods_of_degrees_of_freedom():
    """Of what β̂ says alone every method of the table of coefficients; else Satterthwaite's or none."""
    fit = fitted("crossed")
    new = table()[:3]
    X = fit.model.design.X[:3]
    for ddf in ("satterthwaite", "kenward-roger", "residual"):
        reference = fit.reference(ddf)
        frame = fit.predict(new, re="population", interval="confidence", ddf=ddf)
        se = np.sqrt(np.einsum("na,ab,nb->n", X, reference.vcov, X))
        close(t_of(frame, se), special.stdtrit(reference.df(X), 0.975), 1e-9)
    own = fit.predict(new, interval="confidence", uncertain="fixed", ddf="residual")
    close(t_of(own, np.sqrt(np.einsum("na,ab,nb->n", X, fit.vcov(), X))), special.stdtrit([138] * 3, 0.975), 1e-9)
    with says(ValueError, "ddf='kenward-roger' is of the coefficients alone", "'satterthwaite' or 'asymptotic'"):
        fit.predict(new, interval="confidence", ddf="kenward-roger")
    with says(ValueError, "ddf must be one of 'satterthwaite'", "not 'exact'"):
        fit.predict(new, interval="confidence", ddf="exact")
    with says(ValueError, "ddf= is for intervals"):
        fit.predict(new, ddf="residual")
    poisson = counts("one")
    with says(ValueError, "ddf='satterthwaite' is for linear mixed models"):
        poisson.predict(interval="confidence", ddf="satterthwaite")
    wide, narrow = (
        poisson.predict(new, scale="link", re="population", interval="confidence", ddf=ddf)
        for ddf in ("residual", None)
    )
    close(t_of(wide, 1.0) / t_of(narrow, 1.0), special.stdtrit([138] * 3, 0.975) / Q, 1e-9)


def test_levels_of_rows_that_do_not_count():
    """Rows of weight zero may be of levels that the fit has not: no interval there, unless it is said what they are."""
    data = table().assign(w=lambda d: np.where(d["g"] == "g4", 0.0, d["w"]))
    fit = mm.lmm("y ~ x + (1 | g)", data, weights="w")
    out = (data["g"] == "g4").to_numpy()
    frame = fit.predict(interval="confidence", **NORMAL)
    assert frame.loc[out, "lower"].isna().all() and frame.loc[~out].notna().all().all()
    sampled = fit.predict(interval="prediction", **NORMAL, new_levels="sample")
    assert np.isinf(sampled.loc[out, "upper"]).all() and np.isfinite(sampled[~out]).all().all()
    assert fit.predict(interval="confidence", **NORMAL, new_levels="sample").notna().all().all()


# ---------------------------------------------------------------- what is printed, and misuse
def test_what_is_uncertain_is_said():
    frame = fitted("slopes").predict(interval="confidence", uncertain=["random", "fixed"])
    assert frame.attrs == {
        "interval": "confidence",
        "level": 0.95,
        "ddf": "satterthwaite",
        "uncertain": ("fixed", "random"),
        "note": frame.attrs["note"],
    }
    note = (
        "degrees of freedom (satterthwaite). Uncertain: fixed effects, effects of the levels (given the "
        "data). Held: variances and constants of the family, which count in t alone."
    )
    assert " ".join(repr(frame).split()).endswith(" ".join(note.split())) and note in frame._repr_html_()
    assert "95 % confidence intervals, quantiles of t, " in repr(frame)
    assert repr(frame[["lower"]].head(2)).count("\n") >= 2
    drawn = counts("one").predict(interval="prediction", key=KEY, n=200, re="marginal")
    assert "200 draws" in repr(drawn) and "those of new levels" in repr(drawn)


@pytest.mark.parametrize(
    "error, options, parts",
    [
        (ValueError, {"interval": "both"}, ["interval must be None, 'confidence' or 'prediction', not 'both'"]),
        (ValueError, {"new_levels": "draw"}, ["new_levels must be 'error', 'population' or 'sample', not 'draw'"]),
        (ValueError, {"new_levels": "sample"}, ["new_levels='sample' is for intervals", "re='marginal'"]),
        (ValueError, {"uncertain": "fixed"}, ["uncertain= says what an interval counts"]),
        (ValueError, {"weights": 2.0}, ["weights= is for interval='prediction'"]),
        (ValueError, {"level": 0.9}, ["level=0.9 is the share of an interval: pass interval='confidence' or"]),
        (ValueError, {"vcov": "CR2"}, ["vcov= and cluster= are for intervals"]),
        (ValueError, {"interval": "confidence", "key": KEY}, ["key= is for interval='prediction'"]),
        (
            ValueError,
            {"interval": "confidence", "uncertain": "beta"},
            ["uncertain may hold 'fixed', 'random'", "'beta'"],
        ),
        (ValueError, {"interval": "confidence", "uncertain": []}, ["uncertain must hold one or more", "not []"]),
        (ValueError, {"interval": "confidence", "uncertain": "residual"}, ["counts 'residual'", "does not"]),
        (ValueError, {"interval": "prediction", "uncertain": "fixed"}, ["counts 'residual'", "('fixed',)"]),
        (ValueError, {"interval": "confidence", "uncertain": "random", "re": "population"}, ["b = 0", "'sample'"]),
        (ValueError, {"interval": "confidence", "uncertain": "random", "re": "marginal"}, ["counts ('fixed',)"]),
        (ValueError, {"interval": "prediction", "scale": "link"}, ["scale must be 'response', not 'link'"]),
        (ValueError, {"interval": "prediction", "key": KEY}, ["in a linear model the interval is in closed form"]),
        (ValueError, {"interval": "prediction", "key": KEY, "n": 0}, ["n must be a positive number of draws, not 0"]),
        (TypeError, {"interval": "prediction", "n": 10}, ["n= is the number of draws, which need a key"]),
        (ValueError, {"interval": "prediction", "weights": 1.0}, ["weights= is for new data"]),
        (NotImplementedError, {"interval": "confidence", "scale": "dispersion"}, ["dispersion is not available"]),
        (TypeError, {"interval": "prediction", "seed": 1}, ["no keyword 'seed': key=seed"]),
    ],
)
def test_misuse(error, options, parts):
    with says(error, *parts):
        fitted("slopes").predict(**options)


def test_more_misuse():
    fit, new = counts("one"), pd.DataFrame({"x": [1.0], "g": ["who"]})
    with says(TypeError, "is simulated and needs a key, such as key=1"):
        fit.predict(interval="prediction")
    with says(TypeError, "key must be a seed", "not 3.0"):
        fit.predict(interval="prediction", key=3.0)
    with says(DataError, "not seen the level 'who' of 'g'", "'population'", "re='marginal' for the mean", "'sample'"):
        fit.predict(new, interval="confidence")
    with says(DataError, "weights of a generalised model count rows"):
        fit.predict(table(), interval="prediction", key=KEY, weights=2)
    with says(DataError, "the fit had weights: pass weights="):
        fitted("slopes").predict(table(), interval="prediction")
    with says(ValueError, "no grouping factor 'h'; the model has 'g'"):
        fit.joint_vcov({"h": [1]})
    with says(ValueError, "levels['g']: the fit has not seen 'who'; its levels are 'g0'"):
        fit.joint_vcov({"g": ["g1", "who"]})
    with says(ValueError, "levels['g'] must be a list of levels, not 'g1'"):
        fit.joint_vcov({"g": "g1"})
    with says(TypeError, "levels must be a mapping such as {'g': [...]}"):
        fit.joint_vcov(["g1"])
    with says(ValueError, "uncertain may hold 'fixed', 'random', 'variances', and has 'residual'"):
        fit.joint_vcov(uncertain=["residual"])


def test_a_matrix_that_would_be_too_large(monkeypatch):
    monkeypatch.setattr("jaxmm.inference.joint.LARGEST", 10)
    with says(ValueError, "would have 22 rows, and 10 are the most: name fewer levels, as levels={'g': [...]}"):
        fitted("slopes").joint_vcov()


def test_another_covariance_of_the_coefficients():
    """x'Vx of the covariance given, its own degrees of freedom, wherever the coefficients alone are uncertain."""
    fit, new = fitted("slopes"), table()[:4]
    X, robust = fit.model.design.X[:4], fit.reference(vcov="CR2")
    se = np.sqrt(np.einsum("na,ab,nb->n", X, fit.vcov("CR2"), X))
    for options in ({"re": "population"}, {"re": "marginal"}, {"uncertain": "fixed"}):
        frame = fit.predict(new, interval="confidence", vcov="CR2", **options)
        close((frame["upper"] - frame["lower"]) / 2, special.stdtrit(robust.df(X), 0.975) * se, 1e-9)
        assert " ".join(repr(frame).split()).endswith("Standard errors robust within clusters: CR2, 10 of 'g'.")
    V = 4 * fit.vcov()
    options = {"re": "population", "interval": "confidence", "ddf": "residual"}
    once, twice = (fit.predict(new, **options, **more) for more in ({}, {"vcov": V}))
    close(twice["upper"] - twice["lower"], 2 * (once["upper"] - once["lower"]), 1e-9)
    assert "covariance given" in twice.attrs["note"] and "Standard errors" not in once.attrs["note"]
    poisson = counts("one")
    frame = poisson.predict(new, scale="link", re="population", interval="confidence", vcov="CR1", cluster="g")
    close((frame["upper"] - frame["lower"]) / 2, Q * np.sqrt(np.einsum("na,ab,nb->n", X, poisson.vcov("CR1"), X)), 1e-9)
    assert "10 clusters are few" in frame.attrs["note"]
    with says(
        ValueError, "vcov= is the covariance of the coefficients alone", "'fixed' and 'random'", "re='population'"
    ):
        fit.predict(new, interval="confidence", vcov="CR2")
    with says(ValueError, "coefficients alone", "'fixed' and 'variances'"):
        poisson.predict(new, re="marginal", interval="confidence", vcov="CR1")
    with says(ValueError, "coefficients alone", "'residual'"):
        fit.predict(new, re="population", interval="prediction", vcov="CR2")
    with says(ValueError, "cluster= belongs to a robust covariance"):
        fit.predict(new, re="population", interval="confidence", cluster="g")
