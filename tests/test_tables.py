"""VarCorr, RandomEffects, summary, tidy, glance and augment: what they hold and what they print."""

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from _standins import sleepstudy_fit

from jaxmm import _text
from jaxmm.summary import augment, glance, summary
from jaxmm.tables import Block, RandomEffects, VarCorr, correlation, sample_cov
from jaxmm.tidy import tidy

# print(VarCorr(fit)), lme4: Reaction ~ Days + (Days | Subject), sleepstudy
SLEEPSTUDY = """\
 Groups   Name        Std.Dev. Corr
 Subject  (Intercept) 24.7407
          Days         5.9221  0.066
 Residual             25.5918"""

# print(VarCorr(fit)), lme4: score ~ Machine + (0 + Machine | Worker), Machines
MACHINES = """\
 Groups   Name     Std.Dev. Corr
 Worker   MachineA 4.07920
          MachineB 8.62502  0.803
          MachineC 4.38968  0.622 0.771
 Residual          0.96157"""

# print(VarCorr(fit)), lme4: strength ~ 1 + (1 | batch/cask), Pastes
PASTES = """\
 Groups     Name        Std.Dev.
 cask:batch (Intercept) 2.90408
 batch      (Intercept) 1.28737
 Residual               0.82341"""

# summary(fit), lmerTest, without the names of the class and of the data, with p in the digits of all numbers here
SUMMARY = """\
Linear mixed model fit by REML
Formula: Reaction ~ Days + (Days | Subject)

REML criterion at convergence: 1743.6

Scaled residuals:
    Min      1Q  Median      3Q     Max
-3.9536 -0.4634  0.0231  0.4634  5.1793

Random effects:
 Groups   Name        Variance Std.Dev. Corr
 Subject  (Intercept) 612.10   24.741
          Days         35.07    5.922   0.07
 Residual             654.94   25.592
Number of obs: 180, groups: Subject, 18

Fixed effects:
            Estimate Std. Error df t value Pr(>|t|)
(Intercept)  251.405      6.825 17  36.838   <1e-16
Days          10.467      1.546 17   6.771 3.26e-06

Correlation of fixed effects:
     (Intr)
Days -0.138

degrees of freedom: Satterthwaite
computed on cpu:0 in float64"""


def block(group, effects, sd, corr=None, parts=None) -> Block:
    """``parts``: the sizes of the terms of the factor, between which there is no correlation."""
    sd = np.asarray(sd, dtype=float)
    corr = np.eye(len(sd)) if corr is None else np.asarray(corr, dtype=float)
    part = np.repeat(np.arange(len(parts or (1,))), parts or (len(sd),))
    return Block(group, tuple(effects), corr * np.outer(sd, sd), part[:, None] == part)


def sleepstudy_varcorr() -> VarCorr:
    return sleepstudy_fit().varcorr()


def machines_varcorr() -> VarCorr:
    cov = np.array(
        [
            [16.6398743241, 28.2419838834, 11.1458699205],
            [28.2419838834, 74.3909993605, 29.1846354091],
            [11.1458699205, 29.1846354091, 19.2692916987],
        ]
    )
    return VarCorr([Block("Worker", ("MachineA", "MachineB", "MachineC"), cov, np.ones((3, 3), bool))], 0.96156762498)


def test_varcorr_prints_as_lme4():
    assert repr(sleepstudy_varcorr()) == SLEEPSTUDY
    assert repr(machines_varcorr()) == MACHINES
    pastes = VarCorr(
        [
            block("cask:batch", ["(Intercept)"], [2.9040771]),
            block("batch", ["(Intercept)"], [1.2873662]),
        ],
        0.8234087,
    )
    assert repr(pastes) == PASTES


def test_varcorr_values():
    vc = sleepstudy_varcorr()
    assert list(vc.cov) == ["Subject"]
    assert vc.sd["Subject"]["Days"] == pytest.approx(5.92213766)
    assert vc.corr["Subject"].loc["Days", "(Intercept)"] == pytest.approx(0.06555124)
    assert vc.sigma == pytest.approx(25.5917957217)
    frame = vc.to_frame()
    assert list(frame.columns) == ["group", "effect1", "effect2", "cov", "sdcor"]
    assert frame["sdcor"].to_numpy() == pytest.approx([24.74065799, 5.92213766, 0.06555124, 25.59179572])
    assert frame["cov"].to_numpy() == pytest.approx([612.100158, 35.071714, 9.604409, 654.940008])
    assert frame["effect2"].isna().tolist() == [True, True, False, True]
    assert machines_varcorr().to_frame()["effect2"].dropna().tolist() == ["MachineB", "MachineC", "MachineC"]


def test_no_correlation_between_independent_parts():
    corr = [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    vc = VarCorr([block("g", ["(Intercept)", "x", "z"], [2, 1, 3], corr, (2, 1))], 1.0)
    assert len(vc.to_frame()) == 5
    assert vc.corr["g"].loc["z", "x"] == 0.0
    assert repr(vc).splitlines()[3].split() == ["z", "3"]
    diagonal = VarCorr([block("g", ["a", "b"], [2, 1], parts=(1, 1))], 1.0)
    assert "Corr" not in repr(diagonal)


def test_zero_variance():
    vc = VarCorr([Block("g", ("a", "b"), np.diag([0.0, 4.0]), np.ones((2, 2), bool))], 3.0)
    assert np.isnan(vc.corr["g"].loc["a", "b"]) and vc.corr["g"].loc["b", "b"] == 1.0
    assert "NaN" in repr(vc)
    tiny = VarCorr([block("g", ["a"], [1e-15])], 3.716)
    assert repr(tiny).splitlines()[1].split()[-1] == "0.000"


def test_without_residual():
    vc = VarCorr([block("g", ["a"], [2])], None)
    assert "Residual" not in repr(vc) and len(vc.to_frame()) == 1


def test_bad_block_and_component():
    with pytest.raises(ValueError, match="block 'g': 2 effects"):
        Block("g", ("a", "b"), np.eye(3), np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="unknown component 'corr'"):
        sleepstudy_varcorr().to_string(("corr",))


@pytest.fixture
def effects() -> tuple[RandomEffects, list]:
    calls = []
    rng = np.random.default_rng(3)
    tables = {
        "g": pd.DataFrame(rng.normal(size=(9, 2)), index=list("abcdefghi"), columns=["(Intercept)", "x"]),
        "h": pd.DataFrame(rng.normal(size=(3, 1)), index=list("uvw"), columns=["(Intercept)"]),
    }

    def cond_cov():
        calls.append(1)
        return {"g": np.tile(np.diag([4.0, 9.0]), (9, 1, 1)), "h": np.ones((3, 1, 1))}

    return RandomEffects(tables, cond_cov), calls


def test_random_effects(effects):
    re, calls = effects
    assert list(re) == ["g", "h"] and len(re) == 2 and "g" in re and "zz" not in re
    assert re["g"].shape == (9, 2) and not calls
    assert re.cond_sd["g"].loc["c", "x"] == 3.0
    assert re.cond_cov["g"].shape == (9, 2, 2) and len(calls) == 1
    assert re.cov("g").to_numpy() == pytest.approx(np.cov(re["g"].to_numpy().T))
    assert re.corr("g").to_numpy() == pytest.approx(np.corrcoef(re["g"].to_numpy().T))
    long = re.to_frame()
    assert list(long.columns) == ["group", "level", "effect", "mode", "cond_sd"] and len(long) == 21
    row = long[(long["group"] == "g") & (long["level"] == "d") & (long["effect"] == "x")]
    assert row["mode"].item() == re["g"].loc["d", "x"]
    assert "9 levels × 2 effects" in repr(re) and "3 more levels" in repr(re)
    with pytest.raises(KeyError, match="no grouping factor 'k'"):
        re["k"]
    with pytest.raises(ValueError, match="name one of 'g', 'h'"):
        re.cov()


def test_random_effects_pickle(effects):
    re, _ = effects
    again = pickle.loads(pickle.dumps(re))
    pd.testing.assert_frame_equal(again["g"], re["g"])
    assert (again.cond_cov["g"] == re.cond_cov["g"]).all()


def test_sample_cov_of_one_level_is_nan():
    assert np.isnan(sample_cov(np.ones((1, 2)))).all()
    assert np.isnan(correlation(np.zeros((2, 2)))).all()


def test_summary_prints_as_lme4():
    assert str(summary(sleepstudy_fit())) == SUMMARY
    assert repr(summary(sleepstudy_fit())) == SUMMARY


def test_summary_by_ml():
    fit = sleepstudy_fit(reml=False, aic=1762.003, bic=1777.968, loglik=-876.00163, deviance=1752.00326, df=5)
    text = str(summary(fit)).splitlines()
    assert text[0] == "Linear mixed model fit by maximum likelihood"
    at = next(k for k, line in enumerate(text) if "AIC" in line)
    assert text[at].split() == ["AIC", "BIC", "logLik", "deviance", "df.resid"]
    assert text[at + 1].split() == ["1762.0", "1778.0", "-876.0", "1752.0", "175"]


def test_summary_notes():
    fit = sleepstudy_fit(
        converged=False,
        is_singular=True,
        singular_terms=["(Days | Subject)"],
        dropped=("Days2",),
        diagnostics=SimpleNamespace(status_message="stopped at the iteration limit", device="cpu:0"),
    )
    fit.model.design.n_missing, fit.model.design.holes = 3, ("Reaction", "Days")
    fit.model.design.kept[7] = False
    text = str(summary(fit))
    for line in (
        "3 rows left out because of missing values in Reaction, Days",
        "1 row of weight zero: fitted values, but no part in the estimates",
        "rank-deficient fixed effects: dropped Days2 (it is a combination of other columns)",
        "boundary (singular) fit: (Days | Subject) has a variance of zero or a perfect correlation",
        "not converged: stopped at the iteration limit",
    ):
        assert line in text.splitlines()


def test_summary_leaves_out_a_large_correlation():
    names = [f"x{k}" for k in range(21)]
    ones = pd.Series(1.0, names)
    fit = sleepstudy_fit(fixef=ones, bse=ones, tvalues=ones, vcov=lambda: pd.DataFrame(np.eye(21), names, names))
    text = str(summary(fit))
    assert "Correlation of fixed effects:" not in text
    assert "correlation of the 21 fixed effects not shown: see vcov()" in text


def test_summary_without_fixed_effects():
    none = pd.Series([], dtype=float)
    fit = sleepstudy_fit(fixef=none, bse=none, tvalues=none, vcov=lambda: pd.DataFrame())
    assert "Fixed effects" not in str(summary(fit))
    assert "Estimate" not in summary(fit)._repr_html_()
    assert len(tidy(fit)) == 4


def test_html():
    fit = sleepstudy_fit()
    for thing in (fit.varcorr(), fit.ranef(), summary(fit)):
        page = thing._repr_html_()
        assert "<table>" in page and "Days" in page and page.count("<td") > 4
    assert "AIC 1755.6, BIC" in summary(sleepstudy_fit(reml=False))._repr_html_()
    strange = VarCorr([block("a<b", ["x&y"], [1])], 1.0)._repr_html_()
    assert "a&lt;b" in strange and "x&amp;y" in strange


def test_tidy():
    frame = tidy(sleepstudy_fit())
    own = ["effect", "component", "group", "term", "estimate", "std_error", "statistic"]
    assert list(frame.columns) == [*own, "df", "p_value"]
    assert frame["df"][:2].tolist() == [17, 17] and frame["df"][2:].isna().all() and frame["p_value"][2:].isna().all()
    assert frame["p_value"][1] == pytest.approx(3.2638e-6, rel=1e-4)  # lmerTest
    assert frame["term"].tolist() == [
        "(Intercept)",
        "Days",
        "sd__(Intercept)",
        "cor__(Intercept).Days",
        "sd__Days",
        "sd__Observation",
    ]
    assert frame["effect"].tolist() == ["fixed"] * 2 + ["ran_pars"] * 4
    assert frame["estimate"].to_numpy()[2:] == pytest.approx([24.740658, 0.065551, 5.922138, 25.591796], rel=1e-5)
    wide = tidy(sleepstudy_fit(), "fixed", conf_level=0.9)
    half = (wide["conf_high"] - wide["conf_low"])[0] / 2
    assert half == pytest.approx(1.7396067 * wide["std_error"][0])  # qt(0.95, 17)
    with pytest.raises(ValueError, match="conf_level must lie between 0 and 1"):
        tidy(sleepstudy_fit(), conf_level=95)


def test_glance_and_augment():
    fit = sleepstudy_fit()
    row = glance(fit).iloc[0]
    assert row["nobs"] == 180 and row["df_residual"] == 174 and row["converged"]
    frame = augment(fit)
    assert list(frame.columns) == ["Reaction", "fitted", "residual", "population"]
    assert (frame["fitted"] + frame["residual"]).to_numpy() == pytest.approx(frame["Reaction"].to_numpy())
    assert frame.index.equals(fit.model.design.index)


@pytest.mark.parametrize(
    ("values", "digits", "texts"),
    [
        ([612.100158, 35.071714, 654.940008], 4, ["612.10", " 35.07", "654.94"]),
        ([0.0, 13.81], 4, [" 0.00", "13.81"]),
        ([88.72, 6.8899], 4, ["88.72", " 6.89"]),
        ([1.0, 2.0], 5, ["1", "2"]),
        ([np.nan, -1.5], 4, [" NaN", "-1.5"]),
        ([1e-9, 1.5e7], 4, ["1.0e-09", "1.5e+07"]),
        ([-0.0], 4, ["0"]),
        ([], 4, []),
    ],
)
def test_number_column(values, digits, texts):
    assert _text.number_column(values, digits) == texts


@pytest.mark.parametrize(
    ("name", "length", "short"),
    [
        ("(Intercept)", 6, "(Intr)"),
        ("MachineB", 6, "MachnB"),
        ("poly(Days, 3)1", 11, "ply(Dys,3)1"),
        ("recipeB:temperature", 11, "rcpB:tmprtr"),
        ("treatmentplacebo", 6, "trtmnt"),
        ("Days", 6, "Days"),
    ],
)
def test_abbreviate_as_r(name, length, short):
    assert _text.abbreviate([name], length) == [short]


def test_abbreviations_differ():
    names = ["treatmentplacebo", "treatmentplacebic", "x"]
    short = _text.abbreviate(names, 6)
    assert len(set(short)) == 3 and short[2] == "x"
