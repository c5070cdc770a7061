"""Marginal means: closed forms, quadrature, what must hold whatever the model, and what is not understood."""

import pickle

import numpy as np
import pandas as pd
import pytest
from emmeans_cases import CBPP, HOLES, OATS, REFERENCE, SLEEP, TICKS, balanced, fitted, given, tables

import jaxmm as mm


def test_balanced_data_have_the_means_of_their_cells():
    data, fit = tables()["whole"], balanced()
    frame = fit.emmeans(["Variety", "N"]).frame
    cells = data.groupby(["nitro", "Variety"], observed=True)["yield"].mean()
    np.testing.assert_allclose(frame["emmean"], cells.to_numpy(), rtol=1e-10)
    for weights in ("equal", "proportional", "outer", "cells", [1, 1, 1, 1]):
        own = fit.emmeans("Variety", weights=weights).frame
        np.testing.assert_allclose(own["emmean"], data.groupby("Variety", observed=True)["yield"].mean(), rtol=1e-10)
    np.testing.assert_allclose(fit.emmeans([]).frame["emmean"], data["yield"].mean(), rtol=1e-10)
    pairs = fit.emmeans("Variety").contrasts()
    np.testing.assert_allclose(pairs["df"], 10, rtol=1e-4)  # whole plots: (blocks - 1)(varieties - 1)


def test_the_coding_and_the_order_of_rows_do_not_matter():
    data = tables()["oats"]
    other = mm.lmm(
        "yield ~ N * Variety + (1 | Block / Variety)", data.iloc[::-1], contrasts={"N": "sum", "Variety": "helmert"}
    )
    fit = fitted(OATS)
    for a, b in (
        (fit.emmeans("N").frame, other.emmeans("N").frame),
        (fit.emmeans("N", "Variety").contrasts("poly").frame, other.emmeans("~ N | Variety").contrasts("poly").frame),
    ):
        pd.testing.assert_frame_equal(a, b, rtol=1e-4)
    one, two = fit.joint_tests(), other.joint_tests()
    np.testing.assert_allclose(one["F"], two.loc[["Variety", "N", "N:Variety"], "F"], rtol=1e-4)


def test_joint_tests_are_type_three():
    for fit in (balanced(), fitted(OATS)):
        for ddf_ in ("satterthwaite", "kenward-roger"):
            np.testing.assert_allclose(
                fit.joint_tests(ddf=ddf_), fit.anova(type=3, ddf=ddf_).loc[["Variety", "N", "Variety:N"]], rtol=1e-6
            )


def test_contrasts_of_ones_own():
    means = balanced().emmeans("N")
    polynomial = means.contrasts("poly")
    own = means.contrasts({"linear": [-3, -1, 1, 3], "quadratic": [1, -1, -1, 1], "cubic": [-1, 3, -3, 1]})
    pd.testing.assert_frame_equal(polynomial.frame, own.frame)
    matrix = means.contrasts([[-1, 1, 0, 0], [0, -1, 1, 0], [0, 0, -1, 1]], adjust="none")
    np.testing.assert_allclose(matrix["estimate"], means.contrasts("consec")["estimate"])
    value = np.asarray(balanced().emmeans("Variety", at={"N": "0"}).contrasts(by=[])["estimate"])
    frame = balanced().emmeans("N", "Variety").contrasts(by="N").frame  # across the other factor
    assert list(frame.columns[:2]) == ["contrast", "N"] and len(frame) == 12
    np.testing.assert_allclose(frame["estimate"][:3], value)
    last = means.contrasts("trt.vs.ctrl", ref="0.6")
    assert list(last["contrast"]) == ["N0 - N0.6", "N0.2 - N0.6", "N0.4 - N0.6"]
    np.testing.assert_allclose(last["estimate"], means.contrasts("trt.vs.ctrl", ref=-1)["estimate"])
    assert "dunnett" in str(last) and "3 contrasts" in str(last)
    np.testing.assert_allclose(means.contrasts().joint().F, means.joint_tests()["F"], rtol=1e-8)


def test_what_the_data_do_not_tell():
    fit = fitted(HOLES)
    means = fit.emmeans(["Variety", "N"])
    lost = means.frame["emmean"].isna()
    assert list(means.labels(["Variety", "N"])[i] for i in np.flatnonzero(lost)) == ["Victory N0.6"]
    assert "not estimable" in str(means) and np.isnan(means.frame["p" if "p" in means.frame else "se"][lost]).all()
    whole = fit.emmeans("Variety", at={"N": ["0", "0.2", "0.4"]})
    assert np.isfinite(whole.frame["emmean"]).all() and "not estimable" not in str(whole)
    told = fit.emmeans("Variety", weights="cells").frame["emmean"]  # where no rows are there is no weight
    assert np.isfinite(told).all()
    pairs = fit.emmeans("Variety").contrasts()
    assert np.isfinite(pairs["p"][0]) and pairs["p"][1:].isna().all() and "not estimable" in str(pairs)
    assert "a family of 3 means" in str(pairs)
    assert "adjusted" not in str(fit.emmeans("Variety").contrasts(adjust="mvt"))  # one contrast is left


def test_levels_as_the_data_have_them():
    """Numbers, texts and truths are found by what they look like."""
    fit = given(SLEEP, REFERENCE[SLEEP]["means"][0])
    whole = fit.emmeans("long").frame
    for value in (True, np.True_, "TRUE", [True], pd.Series([True])):
        one = fit.emmeans("long", at={"long": value}).frame
        assert list(one["long"]) == ["TRUE"] and one["emmean"][0] == whole["emmean"][1]
    assert list(fit.emmeans("odd", at={"odd": [1]}).frame["odd"]) == [1.0]
    days = fit.emmeans("Days", at={"Days": range(3)}).frame
    np.testing.assert_allclose(np.diff(days["emmean"]), fit.emtrends([], "Days").frame["trend"][0])
    year = given(TICKS, REFERENCE[TICKS]["means"][0]).emmeans("YEAR", at={"YEAR": [97, 95]}).frame
    assert list(year["YEAR"]) == ["97", "95"]


def test_nothing_to_compare():
    means = balanced().emmeans("N", at={"N": "0"})
    for method in ("pairwise", "trt.vs.ctrl", "consec", "poly", "eff"):
        assert len(means.contrasts(method).frame) == (method == "eff") and str(means.contrasts(method))
    assert means.joint_tests().empty and str(balanced().emmeans([]).contrasts())


# ---------------------------------------------------------------- scales
def test_ratios_and_differences_on_the_scale_of_the_response():
    fit = fitted(CBPP)
    link, response = fit.emmeans("period"), fit.emmeans("period", scale="response")
    p = 1 / (1 + np.exp(-link.frame["emmean"]))
    np.testing.assert_allclose(response.frame["emmean"], p)
    np.testing.assert_allclose(response.frame["se"], p * (1 - p) * link.frame["se"])
    np.testing.assert_allclose(response.frame["lower"], 1 / (1 + np.exp(-link.frame["lower"])))
    odds = response.contrasts()
    np.testing.assert_allclose(np.log(odds["estimate"]), link.contrasts()["estimate"])
    assert odds["contrast"][0] == "period1 / period2" and "odds ratio" in str(odds)
    difference = response.regrid().contrasts()
    np.testing.assert_allclose(difference["estimate"][0], p[0] - p[1])
    J, V = np.diag(p * (1 - p)), link.vcov().to_numpy()
    np.testing.assert_allclose(difference["se"][0] ** 2, [1, -1, 0, 0] @ J @ V @ J @ [1, -1, 0, 0])
    probit = given(CBPP + 1, REFERENCE[CBPP + 1]["means"][0]).emmeans("period", scale="response").contrasts()
    assert "on the probit scale" in str(probit)


def test_means_averaged_over_the_random_effects():
    """The integral by Gauss & Hermite's nodes; errors those of predict, and of averages by the means' covariance."""
    fit = fitted(CBPP)
    means = fit.emmeans("period", scale="response", integrate=True)
    x, w = np.polynomial.hermite_e.hermegauss(60)
    eta = fit.emmeans("period").frame["emmean"].to_numpy()[:, None] + fit.varcorr().sd["herd"].iloc[0] * x
    np.testing.assert_allclose(means.frame["emmean"], (1 / (1 + np.exp(-eta))) @ w / w.sum(), rtol=1e-8)
    rows = pd.DataFrame({"period": ["1", "2", "3", "4"], "herd": "1"})
    predicted = fit.predict(rows, re="marginal", interval="confidence")
    np.testing.assert_allclose(means.frame[["lower", "upper"]], predicted[["lower", "upper"]], rtol=1e-8)
    again = pickle.loads(pickle.dumps(means))
    assert str(again) == str(means) and str(again.contrasts()) == str(means.contrasts())
    assert means.header[0].endswith("averaged over the random effects") and "at b = 0" in str(fit.emmeans("period"))
    one = fit.emmeans([], scale="response", integrate=True).regrid().frame
    each = means.regrid()
    np.testing.assert_allclose(one["emmean"], means.frame["emmean"].mean(), rtol=1e-10)
    np.testing.assert_allclose(one["se"] ** 2, each.vcov().to_numpy().mean(), rtol=1e-8)
    with pytest.raises(ValueError, match="vcov= says nothing of"):
        fit.emmeans("period", integrate=True, vcov=fit.vcov())


def test_a_linear_model_has_one_mean():
    plain, averaged = balanced().emmeans("N"), balanced().emmeans("N", integrate=True)
    pd.testing.assert_frame_equal(plain.frame, averaged.frame)
    assert "at b = 0, which is the average over the random effects as well" in plain.header[0]


def test_the_offset_is_at_its_mean_unless_told():
    fit, data = given(TICKS, REFERENCE[TICKS]["means"][0]), tables()["ticks"]
    usual, moved = (fit.emmeans("YEAR", at=at).frame["emmean"] for at in (None, {"HEIGHT": 500, "H": data["H"].mean()}))
    mean = np.log(data["HEIGHT"] / 100).mean()
    np.testing.assert_allclose(moved - usual, np.log(5) - mean, rtol=1e-9)
    shown = str(fit.emmeans("YEAR"))
    assert f"offset = {mean:.7g}, its mean" in shown and "at={'HEIGHT': 1}" in shown
    assert "offset" not in str(fit.emmeans("YEAR", at={"HEIGHT": 500}))


def test_slopes_are_derivatives():
    data = tables()["whole"]
    fit = mm.lmm("yield ~ poly(nitro, 2) * Variety + (1 | Block)", data)
    found = fit.emtrends("Variety", "nitro", at={"nitro": 0.2})
    a, b = (fit.emmeans("Variety", at={"nitro": 0.2 + h}).frame["emmean"] for h in (-1e-2, 1e-2))
    np.testing.assert_allclose(found.frame["trend"], (b - a) / 2e-2, rtol=1e-9)  # exact of a parabola
    assert "Slopes by nitro of yield" in str(found) and "nitro = 0.2" in str(found)


def test_another_covariance():
    fit = balanced()
    wide = fit.emmeans("N", vcov=4 * fit.vcov()).frame
    np.testing.assert_allclose(wide["se"], 2 * fit.emmeans("N").frame["se"])
    robust = fit.emmeans("N", vcov="CR0", cluster="Block").contrasts()
    C, V = robust.functions.rows, fit.vcov(kind="CR0", cluster="Block").to_numpy()
    np.testing.assert_allclose(robust["se"], np.sqrt(np.diag(C @ V @ C.T)))
    assert str(robust).count("standard errors") == 1 and "clusters: CR0, 6 of 'Block'" in str(robust)
    assert str(fit.emmeans("N", vcov=4 * fit.vcov(), ddf="residual")).count("by the covariance given") == 1
    assert str(fit.emmeans("N", vcov="CR1", ddf="residual")).count("clusters: CR1, 6 of 'Block'") == 1
    few = fit.joint_tests(vcov="CR2", cluster="Block")  # six blocks do not tell six interactions' covariance
    assert np.isnan(few.loc["Variety:N", "F"]) and "singular" in few.loc["Variety:N", "note"]


def test_it_takes_no_time(programs):
    """Warm, an emmeans of a 4 × 3 design with its contrasts compiles nothing."""
    fit = balanced()
    fit.emmeans(["N", "Variety"]).contrasts()
    programs.clear()
    assert len(fit.emmeans("N", "Variety").contrasts().frame) == 18
    assert programs == []


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.emmeans("Varietie"), r"no 'Varietie' in the fixed effects; .* 'Variety', 'N'"),
        (lambda f: f.emmeans("N", by="N"), "'N' twice"),
        (lambda f: f.emmeans("pairwise ~ N"), r"\.contrasts\('pairwise'\)"),
        (lambda f: f.emmeans("N", at={"Variety": "Vic"}), "the level 'Vic'; its levels are 'Golden Rain'"),
        (lambda f: f.emmeans("N", at={"Block": "I"}), "'Block', which is no column of the fixed effects"),
        (lambda f: f.emmeans("N", weights="even"), "weights must be one of 'equal', 'proportional'"),
        (lambda f: f.emmeans("N", weights=[1, 2]), "weights must be 3 numbers"),
        (lambda f: f.emmeans("N", scale="log"), "scale must be one of 'link', 'response', not 'log'"),
        (lambda f: f.emmeans("N", ddf="kr"), "ddf must be one of"),
        (lambda f: f.emmeans("N", level=95), "level must lie between 0 and 1"),
        (lambda f: f.emmeans("N").contrasts("tukey"), "method must be one of 'pairwise', 'revpairwise'"),
        (lambda f: f.emmeans("N").contrasts(adjust="tuckey"), "adjust must be one of 'tukey', 'dunnett'"),
        (lambda f: f.emmeans("N").contrasts("poly", adjust="tukey"), "'mvt' holds for any contrasts"),
        (lambda f: f.emmeans("N").contrasts("pairwise", adjust="dunnett"), "'mvt' holds for any contrasts"),
        (lambda f: f.emmeans("N").contrasts("trt.vs.ctrl", ref="1"), "ref must be one of the levels 'N0'"),
        (lambda f: f.emmeans("N").contrasts("pairwise", ref="0"), "'pairwise' has none"),
        (lambda f: f.emmeans("N").contrasts([[1, -1]]), "a contrast has 4 numbers"),
        (lambda f: f.emmeans("N").contrasts(by="Block"), "by names 'Block'"),
        (lambda f: f.emtrends("N", "Variety"), "var must be a column of numbers"),
        (lambda f: f.joint_tests(by="Block"), "no 'Block' in the fixed effects"),
        (lambda f: f.emmeans("N").plot(x="nitro"), "x must be one of 'N'"),
    ],
)  # fmt: skip
def test_what_is_not_understood(call, message):
    with pytest.raises(ValueError, match=message):
        call(balanced())


def test_a_model_from_arrays_has_no_factors(sleepstudy):
    y, days = sleepstudy["Reaction"].to_numpy(), sleepstudy["Days"].to_numpy(float)
    X = np.stack([np.ones_like(days), days], axis=1)
    fit = mm.Model.from_arrays(y, X, [mm.Term(np.ones((len(y), 1)), sleepstudy["Subject"].to_numpy())]).fit()
    with pytest.raises(mm.DataError, match="made from arrays"):
        fit.emmeans("Days")
    with pytest.raises(TypeError, match=r"scale='response'"):
        fit.emmeans("Days", type="response")


def test_pictures(tmp_path):
    fit = fitted(CBPP)
    ax = fit.emmeans("period", scale="response").plot()
    assert ax.get_xlabel() == "period" and "95% interval" in ax.get_ylabel()
    axes = balanced().emmeans("N", "Variety").plot(arrows=True)
    assert axes.get_legend() is None and len(axes.figure.legends) == 1
    panels = balanced().emmeans(["N", "Variety"]).plot(trace=None, x="N")
    assert panels is not None
    with pytest.raises(ValueError, match="arrows=True compares means on the link scale"):
        fit.emmeans("period", scale="response").plot(arrows=True)


@pytest.mark.slow
def test_intervals_of_averaged_means_cover(claim):
    """60 groups of 8 yes and no, an effect with a standard deviation of 1.2: 1,200 fits, three Monte-Carlo errors."""
    rng = np.random.default_rng(60_812)
    data = pd.DataFrame({"g": np.repeat(np.arange(60), 8), "a": np.tile(list("uv"), 240)})
    eta = np.where(data["a"] == "u", -0.5, 0.6)
    x, w = np.polynomial.hermite_e.hermegauss(60)
    truth = (1 / (1 + np.exp(-(np.array([[-0.5], [0.6]]) + 1.2 * x)))) @ w / w.sum()

    def draw() -> np.ndarray:
        b = 1.2 * rng.normal(size=60)[data["g"]]
        return (rng.uniform(size=len(data)) < 1 / (1 + np.exp(-eta - b))).astype(float)

    fit = mm.glmm("y ~ a + (1 | g)", data.assign(y=draw()), "binomial", n_agq=9)
    inside, averaged = np.zeros(2), []
    n = 1200
    for _ in range(n):
        frame = fit.refit(draw()).emmeans("a", scale="response", integrate=True).frame
        inside += (frame["lower"] < truth) & (truth < frame["upper"])
        averaged.append(frame["emmean"])
    spread = np.std(averaged, axis=0) / np.sqrt(n)
    for level, share, mean, true, error in zip("uv", inside / n, np.mean(averaged, axis=0), truth, spread, strict=True):
        claim(f"coverage of intervals of averaged means, 60 groups, level {level}", share, 0.95, n=n)
        claim(f"averaged mean, 60 groups, level {level}", mean, true, n=n, error=error)
    assert np.all(np.abs(inside / n - 0.95) < 3 * np.sqrt(0.95 * 0.05 / n)), inside / n
    assert np.all(np.abs(np.mean(averaged, axis=0) - truth) < 3 * spread), (np.mean(averaged, axis=0) - truth) / spread


def test_the_mean_of_a_model_without_columns():
    """An intercept alone: one mean, and it is the intercept."""
    fit = mm.lmm("yield ~ 1 + (1 | Block)", tables()["whole"])
    frame = fit.emmeans([]).frame
    np.testing.assert_allclose(frame[["emmean", "se"]], [[fit.fixef.iloc[0], fit.bse.iloc[0]]])
    assert "nothing to compare" in str(fit.emmeans([]).contrasts()) and fit.joint_tests().empty


def test_values_at_which_the_model_is_not_defined(recwarn):
    """NaN, and which function has no value where; nothing is said of the data, and nothing warns from within."""
    data = tables()["whole"].assign(nitro=lambda d: d["nitro"] + 0.1)
    fit = mm.lmm("yield ~ log(nitro) * Variety + (1 | Block)", data)
    found = fit.emmeans("Variety", at={"nitro": [0, 0.5, -1]}, by="nitro")
    told = found.frame["emmean"].notna()
    assert told.equals(found.frame["nitro"] == 0.5)
    reason = "NaN: not defined, for log(nitro) has no value at nitro = 0"
    pairs = found.contrasts()
    assert pairs["estimate"].notna().sum() == 3 and pairs["estimate"][3:6].notna().all()
    for shown in (
        found,
        pairs,
        fit.emmeans("Variety", at={"nitro": 0}),
        fit.emtrends("Variety", "nitro", at={"nitro": 0}),
    ):
        assert reason in str(shown) and "not estimable" not in str(shown) and "normal" not in str(shown)
    joint = fit.joint_tests(at={"nitro": [0, 1]})
    assert joint.attrs["notes"][0] == reason and "not defined" in joint.loc["Variety", "note"]
    assert found.joint_tests()["note"].str.contains("not defined").tolist() == [True, False, True]
    assert not len(recwarn)


def test_a_coefficient_that_runs_away():
    """Every table of means says so, as the summary does."""
    data = pd.DataFrame({"f": np.tile(list("abc"), 40), "g": np.repeat(np.arange(12), 10)})
    data["y"] = (data["f"] == "a") | (np.random.default_rng(2).random(120) < 0.5)
    fit = mm.glmm("y ~ f + (1 | g)", data, "binomial")
    means = fit.emmeans("f")
    shown = (means, means.contrasts(), means.regrid(), fit.joint_tests())
    assert all(str(x).count("separation: (Intercept)") == 1 for x in shown)
