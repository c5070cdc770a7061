"""Profile likelihood: closed forms, dense minimisation again, lme4's intervals, the ends of ranges, what it prints."""

import json
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import jaxmm as mm
from jaxmm.inference import paths, profile
from jaxmm.inference.paths import run
from jaxmm.inference.wald import quantile

REFERENCE = json.loads((Path(__file__).parent / "reference" / "profile.json").read_text())
Z95 = quantile(0.95)


@cache
def tables() -> dict[str, pd.DataFrame]:
    """Those of reference/profile.R."""
    load = mm.datasets.load
    slopes, ticks, cbpp = load("penicillin"), load("grouseticks"), load("cbpp")
    slopes["x"] = np.arange(1, len(slopes) + 1) * 37 % 17 / 10
    plate = pd.Categorical(slopes["plate"].astype(str)).codes.astype(int) + 1
    slopes["y"] = slopes["diameter"] + slopes["x"] * (plate * 7 % 11 - 5) / 5
    ticks["YEAR"], cbpp["period"] = (pd.Categorical(x.astype(str)) for x in (ticks["YEAR"], cbpp["period"]))
    own = {"slopes": slopes, "ticks": ticks, "cbpp": cbpp, "sleep": load("sleepstudy")}
    return own | {name: load(name) for name in ("dyestuff", "dyestuff2", "pastes", "penicillin")}


@cache
def fitted(formula: str, data: str, family: str | None = None) -> mm.Fit:
    if family is None:
        return mm.lmm(formula, tables()[data], reml=data in ("sleep", "dyestuff2"))
    return mm.glmm(formula, tables()[data], family)


@cache
def profiled(formula: str, data: str, family: str | None = None):
    return fitted(formula, data, family).profile()


SLEEP = ("Reaction ~ Days + (Days | Subject)", "sleep")
DYESTUFF = ("Yield ~ 1 + (1 | Batch)", "dyestuff")


# ---------------------------------------------------------------- closed forms
def anova_of(data: pd.DataFrame) -> tuple[int, int, float, float]:
    """Groups J, rows n of each, and the sums of squares within and between them."""
    groups = data.groupby("Batch", observed=True)["Yield"]
    means, within = groups.mean(), data["Yield"] - groups.transform("mean")
    J, n = len(means), len(data) // len(means)
    return J, n, float(np.sum(within**2)), float(n * J * means.var(ddof=0))


def test_balanced_one_way():
    """Balanced groups: with τ = σ² + n sd², the deviance is J(n-1) log σ² + W/σ² + J log τ + (B + Jn(ȳ - μ)²)/τ.

    So the profile of μ is J log(1 + Jn(ȳ - μ)²/B), and that of σ² its own terms.
    """
    table = profiled(*DYESTUFF).confint()
    J, n, W, B = anova_of(tables()["dyestuff"])
    half = np.sqrt(B / (J * n) * np.expm1(Z95**2 / J))
    mean = tables()["dyestuff"]["Yield"].mean()
    np.testing.assert_allclose(table.loc["(Intercept)", ["lower", "upper"]], [mean - half, mean + half], rtol=1e-8)
    for end in ("lower", "upper"):
        share = W / (J * (n - 1)) / table.loc["sigma", end] ** 2
        assert J * (n - 1) * (share - 1 - np.log(share)) == pytest.approx(Z95**2, rel=1e-6)
    sd = table.loc["sd_(Intercept)|Batch", "upper"]

    def criterion(log_s2: float, sd: float | None) -> float:
        s2 = np.exp(log_s2)
        tau = max(s2, B / J) if sd is None else s2 + n * sd**2
        return J * (n - 1) * log_s2 + W / s2 + J * np.log(tau) + B / tau

    def least(sd):
        return optimize.minimize_scalar(
            criterion, args=(sd,), bounds=(4, 12), method="bounded", options={"xatol": 1e-9}
        ).fun

    assert least(sd) - least(None) == pytest.approx(Z95**2, rel=1e-6)


def test_a_standard_deviation_of_zero():
    """Dyestuff2: the estimate is at the end of its range, and so is the lower end; the upper one by the closed form."""
    found = profiled("Yield ~ 1 + (1 | Batch)", "dyestuff2")
    J, n, W, B = anova_of(tables()["dyestuff2"])
    s2 = (W + B) / (J * n)
    lower, upper, estimate = found.confint().loc["sd_(Intercept)|Batch"]
    assert (lower, estimate) == (0.0, pytest.approx(0.0, abs=1e-6))
    free = optimize.minimize_scalar(
        lambda v: J * (n - 1) * v + W / np.exp(v) + J * np.log(t := np.exp(v) + n * upper**2) + B / t,
        bounds=(np.log(s2) - 2, np.log(s2) + 2),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert free.fun - J * n * (np.log(s2) + 1) == pytest.approx(Z95**2, rel=1e-6)
    assert any("is at the end of its range, 0" in note for note in found.notes)
    assert not found.failures


# ---------------------------------------------------------------- dense algebra
DAYS = np.column_stack([np.ones(10), np.arange(10.0)])


def dense(values: dict[str, float], Y: np.ndarray) -> float:
    """The deviance of sleepstudy, whose subjects (a row of Y each) share one X = Z; the least over what of beta is not
    given."""
    a, b, r = values["sd_(Intercept)|Subject"], values["sd_Days|Subject"], values["cor_(Intercept).Days|Subject"]
    V = DAYS @ np.array([[a * a, r * a * b], [r * a * b, b * b]]) @ DAYS.T + values["sigma"] ** 2 * np.eye(10)
    W, given = np.linalg.inv(V), [k for k, name in enumerate(("(Intercept)", "Days")) if name in values]
    known = sum((DAYS[:, k] * values[("(Intercept)", "Days")[k]] for k in given), np.zeros(10))
    X = np.delete(DAYS, given, axis=1)
    R = Y - known - X @ np.linalg.solve(X.T @ W @ X, X.T @ W @ (Y.mean(0) - known))
    return len(Y) * (10 * np.log(2 * np.pi) + np.linalg.slogdet(V)[1]) + np.einsum("ji,ik,jk->", R, W, R)


def test_minimised_again_with_dense_algebra():
    """At every end of the 95 % intervals of sleepstudy the least deviance is the minimum and the squared quantile."""
    table, fit = profiled(*SLEEP).confint(), profiled(*SLEEP).fit
    Y = tables()["sleep"]["Reaction"].to_numpy().reshape(-1, 10)
    variance = [name for name in table.index if name not in fit.fixef.index]

    def natural(name, x):
        return np.tanh(x) if name.startswith("cor") else np.exp(x)

    for name in table.index:
        for end in ("lower", "upper"):
            free = [v for v in variance if v != name]
            start = [(np.arctanh if v.startswith("cor") else np.log)(table.loc[v, "estimate"]) for v in free]

            def held(x, free=free, name=name, c=table.loc[name, end]):
                return dense({name: c} | {v: natural(v, value) for v, value in zip(free, x, strict=True)}, Y)

            least = optimize.minimize(held, start, method="BFGS", options={"gtol": 1e-6}).fun
            assert least - fit.deviance == pytest.approx(Z95**2, abs=2e-5), (name, end)


# ---------------------------------------------------------------- lme4
def key(name: str) -> tuple:
    """A parameter's name whatever the order of the two effects of a correlation, or of the factors of a nesting."""
    what, _, group = name.removeprefix("cor_").partition("|")
    parts = sorted(what.split(".")) if name.startswith("cor_") else [what]
    return (*parts, *sorted(group.split(":")))


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c['data']}: {c['formula']}")
def test_as_in_lme4(case):
    """To a share of the width: lme4 interpolates."""
    table = profiled(case["formula"], case["data"], case.get("family")).confint()
    ours = {key(name): row for name, row in zip(table.index, table.to_numpy(), strict=True)}
    assert len(ours) == len(case["lower"])
    for name in case["lower"]:
        expected = np.array([case["lower"][name], case["upper"][name]], float)
        share = 3e-4 * np.ptp(expected)
        np.testing.assert_allclose(ours[key(name)][:2], expected, atol=share, rtol=0, err_msg=name)


# ---------------------------------------------------------------- what must hold
def test_the_profile():
    found, fit = profiled(*SLEEP), profiled(*SLEEP).fit
    frame = found.frame
    assert list(frame) == ["parameter", "value", "zeta", "deviance"]
    assert list(found.curves) == list(fit.bootstrap(2, key=jax.random.key(1), progress=False).observed.index)
    np.testing.assert_allclose(frame["deviance"], fit.deviance + frame["zeta"] ** 2)
    for _, own in frame.groupby("parameter"):
        assert np.all(np.diff(own["value"]) > 0) and np.all(np.diff(own["zeta"]) > 0)
        assert own["zeta"].min() == pytest.approx(-quantile(0.99)) and own["zeta"].max() == pytest.approx(
            quantile(0.99)
        )
    narrow, usual, wide = (found.confint(level) for level in (0.7, 0.95, 0.995))  # solved for again but the second
    assert np.all(narrow["lower"] > usual["lower"]) and np.all(wide["upper"] > usual["upper"])
    assert "by maximum likelihood" in repr(found) and "97.5 %" in repr(found)
    assert repr(found).count("\n") == 11
    some = fitted(*SLEEP).profile(["sigma", "Days"], level=0.8)
    assert list(some.curves) == ["sigma", "Days"]
    assert "10 %" in repr(some)


def test_other_units():
    """Ends move with the units of y, of x, and with the origin of x."""
    data = tables()["sleep"].assign(
        Days=tables()["sleep"]["Days"] * 7 + 100, Reaction=tables()["sleep"]["Reaction"] / 1e4
    )
    ours = mm.lmm(SLEEP[0], data).confint("profile", parm=["Days", "sd_Days|Subject", "sigma"])
    expected = profiled(*SLEEP).confint().loc[ours.index]
    scale = np.array([[1 / 7e4], [1 / 7e4], [1e-4]])
    np.testing.assert_allclose(ours, expected * scale, rtol=1e-5)


def test_another_model_of_the_same_shape_compiles_nothing(programs):
    fit = fitted(*SLEEP)
    fit.profile()
    other = fit.refit(np.asarray(fit.fitted())[::-1] + np.random.default_rng(2).normal(0, 20, fit.nobs))
    before = len(programs)
    other.profile()
    assert len(programs) == before


# ---------------------------------------------------------------- hard cases
def test_a_range_that_ends():
    """Pastes: |ζ| of the batches' standard deviation does not reach two."""
    found = profiled("strength ~ 1 + (1 | batch / cask)", "pastes")
    assert found.confint().loc["sd_(Intercept)|batch", "lower"] == 0
    assert any("is 0.638 at 0, the end of its range" in note for note in found.notes)
    assert found.confint(0.4).loc["sd_(Intercept)|batch", "lower"] > 0


@pytest.fixture(scope="module")
def no_slopes():
    """Slopes of variance zero, and correlation of a term that has no slope."""
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"g": np.repeat(np.arange(8), 10), "x": np.tile(np.arange(10.0), 8)})
    data["y"] = 2 * rng.normal(size=8)[data["g"]] + rng.normal(size=80)
    data["y"] -= (data["x"] - 4.5) * data.groupby("g")["x"].transform(
        lambda x: np.polyfit(x, data.loc[x.index, "y"], 1)[0]
    )
    return mm.lmm("y ~ x + (x | g)", data, reml=False)


def test_a_correlation_may_be_anything_where_a_standard_deviation_is_zero(no_slopes):
    """Its profile is nowhere above what the slopes' is at zero."""
    data, rng = no_slopes.model.design, np.random.default_rng(2)
    u, x = rng.normal(size=8)[data.factors[0].codes], data.X[:, 1]
    fit = no_slopes.refit(np.asarray(data.y) + 0.07 * (x - 4.5) * u)
    found = fit.profile()
    assert found.confint().loc["sd_x|g", "lower"] == 0 < found.confint().loc["sd_x|g", "estimate"]
    assert list(found.confint().loc["cor_(Intercept).x|g"].iloc[:2]) == [-1, 1]
    curves = found.curves
    most = np.abs(curves["sd_x|g"].zeta[0])
    assert 0 < most < Z95
    assert np.all(np.abs(curves["cor_(Intercept).x|g"].zeta) <= most)
    assert list(fit.confint("profile", parm="cor_(Intercept).x|g").iloc[0, :2]) == [-1, 1]


def test_no_coefficients():
    data = tables()["dyestuff"].assign(y=lambda d: d["Yield"] - 1500)
    table = mm.lmm("y ~ 0 + (1 | Batch)", data).profile().confint()
    assert list(table.index) == ["sd_(Intercept)|Batch", "sigma"]
    assert np.all(np.isfinite(table))


def test_no_correlation_and_one_of_one(no_slopes):
    assert no_slopes.is_singular
    found = no_slopes.profile()
    table = found.confint()
    assert table.loc["sd_x|g", "lower"] == 0 and np.isfinite(table.loc["sd_x|g", "upper"])
    cor = table.loc["cor_(Intercept).x|g"]
    assert np.isnan(cor["lower"]) or (-1 <= cor["lower"] <= cor["upper"] <= 1)
    assert np.all(np.isfinite(table.drop(index="cor_(Intercept).x|g")))
    assert found.notes
    found.plot()


def test_a_coefficient_without_end(monkeypatch):
    """All successes where x = 1: the likelihood falls to one side alone."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 6), "x": np.tile([0, 0, 0, 0, 1, 1], 10)})
    data["y"] = np.where(data["x"] == 1, 1, rng.integers(0, 2, 60))
    fit = mm.glmm("y ~ x + (1 | g)", data, "binomial")
    found = fit.profile(["(Intercept)", "x"], level=0.95)
    lower, upper = found.confint().loc["x", ["lower", "upper"]]
    assert upper == np.inf
    odds = data["y"][data["x"] == 0].mean()

    def glm(b: float, a: float) -> float:  # the random effects have no variance there
        p = np.array([1, np.exp(-a)]) / (1 + np.exp(-a))
        return -2 * (40 * (odds * np.log(p[0]) + (1 - odds) * np.log(p[1])) - 20 * np.log1p(np.exp(-a - b)))

    def least(b: float) -> float:
        return optimize.minimize_scalar(lambda a: glm(b, a), bounds=(-5, 5), method="bounded").fun

    assert least(lower) - least(50) == pytest.approx(Z95**2, rel=1e-3)
    assert np.all(np.isfinite(found.confint().loc["(Intercept)"]))
    assert any("rises to 0 and no further" in note for note in found.notes)
    rounds = []
    monkeypatch.setattr(profile, "run", lambda paths, evaluate: run(paths, lambda q: rounds.append(0) or evaluate(q)))
    with pytest.warns(UserWarning, match="did not converge"):
        direct = fit.confint("profile", parm="x")
    np.testing.assert_allclose(direct.loc["x", ["lower", "upper"]].astype(float), [lower, np.inf], rtol=1e-6)
    assert len(rounds) < 40  # from a plateau, where ζ has no slope that says where to go
    assert not any("another mode" in note for note in direct.attrs["notes"])


@pytest.mark.slow
def test_coverage(claim):
    """Balanced groups: the mean is covered as t says of J log(1 + t²/(J - 1)) < z², σ as χ² does of its own terms."""
    J, n, level, times = 12, 5, 0.9, 400
    rng = np.random.default_rng(7)
    data = pd.DataFrame({"g": np.repeat(np.arange(J), n), "y": rng.normal(size=J * n)})
    fit, z, hits = mm.lmm("y ~ 1 + (1 | g)", data, reml=False), quantile(level), np.zeros(3)
    truth = {"(Intercept)": 3.0, "sd_(Intercept)|g": 1.5, "sigma": 1.0}
    for _ in range(times):
        y = 3 + 1.5 * rng.normal(size=J)[data["g"]] + rng.normal(size=J * n)
        table = fit.refit(y).confint("profile", level, parm="all").loc[list(truth)]
        value = np.array(list(truth.values()))
        hits += np.asarray((table["lower"] < value) & (value < table["upper"]))
    df = J * (n - 1)
    ends = [optimize.brentq(lambda q: q / df - 1 - np.log(q / df) - z**2 / df, *b) for b in ((1, df), (df, 5 * df))]
    exact = [2 * stats.t.cdf(np.sqrt((J - 1) * np.expm1(z**2 / J)), J - 1) - 1, np.diff(stats.chi2.cdf(ends, df))[0]]
    for what, share, p in zip(
        ("mean", "SD of intercepts", "sigma"), hits / times, [exact[0], level, exact[1]], strict=True
    ):
        claim(f"coverage of 90 % profile intervals, 12 groups, {what}", share, p, n=times)
    error = 3.5 * np.sqrt(level * (1 - level) / times)
    np.testing.assert_allclose(hits[[0, 2]] / times, exact, atol=error)
    assert abs(hits[1] / times - level) < error + 0.03  # the standard deviation's is of large samples


# ---------------------------------------------------------------- the verb
def test_methods_of_confint():
    fit = fitted(*SLEEP)
    by_profile = fit.confint("profile")
    assert list(by_profile.index) == list(fit.fixef.index) and list(by_profile)[:2] == ["lower", "upper"]
    pd.testing.assert_frame_equal(by_profile, profiled(*SLEEP).confint().loc[fit.fixef.index], rtol=1e-6)
    assert "maximum likelihood" in by_profile.attrs["notes"][0]
    everything = fit.confint("profile", parm="all", level=0.8)
    assert list(fit.confint("profile", parm="theta_", level=0.8).index) == list(everything.index[2:])
    random = fit.confint("boot", key=jax.random.key(4), n=60, level=0.8, parm=["sd_Days|Subject", "sigma"])
    assert list(random.index) == ["sd_Days|Subject", "sigma"]
    assert np.all(random["lower"] < random["upper"])
    for how in ({"method": "wald"}, {"method": "profile"}, {"method": "boot", "key": jax.random.key(4)}):
        assert fit.confint(**how, parm=[]).shape[0] == 0
    assert fit.profile([]).frame.empty
    wald = fit.confint(parm="Days")
    assert list(wald) == ["lower", "upper"] and list(wald.index) == ["Days"]
    for options in ({}, {"ddf": "kenward-roger"}, {"vcov": "CR2", "cluster": "Subject"}):
        ours, row = fit.confint(parm="Days", **options).loc["Days"], fit.coef_table(**options).loc["Days"]
        half = quantile(0.95, row["df"]) * row["se"]
        np.testing.assert_allclose(ours, [row["estimate"] - half, row["estimate"] + half])
    normal = fit.confint(ddf="asymptotic").loc["Days"]
    assert normal["upper"] == pytest.approx(fit.fixef["Days"] + Z95 * fit.bse["Days"])
    assert list(fit.confint(parm="all").index) == list(fit.fixef.index)


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda f: f.confint("profil"), ValueError, "method must be 'wald', 'profile' or 'bootstrap', not 'profil'"),
        (
            lambda f: f.confint("profile", parm="days"),
            ValueError,
            "no parameter 'days'; parm takes '(Intercept)', 'Days'",
        ),
        (lambda f: f.profile(3), ValueError, "no parameter 3; parm takes"),
        (lambda f: f.confint("profile", level=95), ValueError, "level must lie between 0 and 1, not 95"),
        (lambda f: f.profile(level=1.0), ValueError, "level must lie between 0 and 1, not 1.0"),
        (lambda f: f.confint("profile", n=9), ValueError, "n= is for method='bootstrap': method='profile' has no use"),
        (
            lambda f: f.confint("boot", ddf="residual"),
            ValueError,
            "ddf= is for method='wald': method='boot'",
        ),
        (lambda f: f.confint("boot"), TypeError, "confint(method='bootstrap') needs a key"),
        (lambda f: f.confint(parm="sigma"), ValueError, "for 'sigma' use method='profile' or 'bootstrap'"),
        (lambda f: f.profile(which="Days"), TypeError, "profile() has no keyword 'which': parm="),
    ],
)
def test_what_is_refused(ask, error, says):
    with pytest.raises(error) as caught:
        ask(fitted(*SLEEP))
    assert says in str(caught.value).replace('"', "").replace("\\", "")


# ---------------------------------------------------------------- the picture
def test_the_picture():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = profiled(*SLEEP)
    axes = found.plot()
    axes[0].figure.canvas.draw()
    assert [a.get_title() for a in axes] == list(found.curves)
    curve = max(axes[1].get_lines(), key=lambda line: len(line.get_xdata()))
    x, y = curve.get_data()
    assert np.all(np.diff(y) > 0)
    np.testing.assert_allclose(np.interp(found.confint().loc["Days"].iloc[:2], x, y), [-Z95, Z95], atol=1e-3)
    _, ax = plt.subplots()
    assert list(found.plot("sigma", 0.9, ax)) == [ax]
    with pytest.raises(ValueError, match="axes must be 2, one for each profile, not 1"):
        found.plot(["sigma", "Days"], axes=ax)
    plt.close("all")


def test_a_point_beside_the_path_encloses_nothing():
    """There ζ is only nearly known: taken for the far side of an end, it would keep the path short of it."""

    def at(x):  # least at a = 0 for every c, where F = c²; of third order in a
        c, a = x
        value, g, H = c * c + np.exp(a) - a - 1, np.array([2 * c, np.expm1(a)]), np.diag([2.0, np.exp(a)])
        return paths.Point(np.array(x), c, value, g, H, np.array([1.0, 0.0]), np.zeros((2, 2)), None)

    for a, encloses in ((0.25, False), (1e-5, True)):
        side = paths.Side(1, (1.0,))
        track = paths.place(paths.local(at([1.0, a])), side, 0.0, (0.0, 0.0))
        goal = track.zeta - 4e-4  # a little nearer than the point seems to be
        walk = paths.move(track, side, 0.0, goal, 50.0)
        asked = next(walk)
        with pytest.raises(StopIteration) as end:
            walk.send(at([asked.c, asked.x[1]]))
        assert (end.value.value.outer is not None) == encloses
