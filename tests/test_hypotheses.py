"""Tests of Lβ and tables of terms: numbers of lmerTest, invariance under the coding of factors, and what is said of
what cannot be tested."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_ddf import METHODS, REFERENCE, fitted, tables

import jaxmm as mm
from jaxmm.inference.restrictions import restrictions

COLUMNS = {"num_df": 1e-12, "den_df": 2e-4, "F": 5e-4, "p": 5e-3}


@pytest.mark.parametrize("ddf", METHODS)
@pytest.mark.parametrize(
    "case", [c for c in REFERENCE if "late" in c["formula"] or "Va" in c["formula"]], ids=lambda c: c["formula"]
)
def test_terms_as_in_r(case, ddf):
    fit = fitted(case["formula"], case["data"])
    for kind in (1, 2, 3):
        table, expected = fit.anova(kind, ddf), case[METHODS[ddf]][f"type{kind}"]
        assert list(table.index) == list(np.atleast_1d(expected["term"]))
        for column, tol in COLUMNS.items():
            if ddf == "satterthwaite" and column == "den_df":  # see inference.ddf.satterthwaite
                tol = 2e-4 if np.max(table["num_df"]) == 1 else 5e-3
            np.testing.assert_allclose(
                table[column], np.atleast_1d(expected[column]), rtol=tol, err_msg=f"{kind} {column}"
            )


CODED = "yield ~ Variety * N + (1 | Block)"


def test_no_coding_matters():
    """Neither contrasts, nor the order of the levels, nor indicators in the place of an intercept."""
    data, usual = tables()["oats"], fitted(CODED, "oats")
    turned = data.assign(N=data["N"].cat.reorder_categories(list(data["N"].cat.categories)[::-1]))
    others = [
        mm.lmm(CODED, data, contrasts={"Variety": "sum", "N": "helmert"}),
        mm.lmm(CODED, turned, contrasts={"N": "poly"}),
    ]
    for kind in (1, 2, 3):
        for other in others:
            np.testing.assert_allclose(other.anova(kind), usual.anova(kind), rtol=1e-5)
    without = mm.lmm("yield ~ 0 + Variety * N + (1 | Block)", data).anova()
    assert list(without["num_df"]) == [3, 3, 6]
    np.testing.assert_allclose(without.loc[["N", "Variety:N"]], usual.anova().loc[["N", "Variety:N"]], rtol=1e-5)


def test_cells_without_data():
    """What the data tell of an interaction is tested, and a term of which they tell nothing is NaN, with the reason."""
    data = tables()["oats"]
    some = data[~((data["Variety"] == "Victory") & (data["nitro"] == 0.6))]
    with pytest.warns(UserWarning, match="rank"):
        table = mm.lmm(CODED, some).anova()
    assert table.loc["Variety:N", "num_df"] == 5 and np.isfinite(table.loc["Variety:N", "F"])
    twice = data.assign(A=data["Variety"].astype(str), B="level" + data["Variety"].astype(str))
    with pytest.warns(UserWarning, match="rank"):
        fit = mm.lmm("yield ~ A + B + (1 | Block)", twice)
    table = fit.anova()
    assert np.isnan(table.loc["B", "F"]) and "do not tell B" in repr(table)
    alone = mm.lmm("yield ~ A + (1 | Block)", twice).anova()
    np.testing.assert_allclose(table.loc["A", "F"], alone.loc["A", "F"], rtol=1e-5)
    name = fit.dropped[0]
    found = fit.test(f"{name} = 0")
    assert np.isnan(found.p) and np.isnan(found.frame["estimate"].iloc[0]) and f"do not tell {name} = 0" in repr(found)


def test_one_row_is_the_table_of_coefficients(sleep_reml):
    for ddf in (None, "kenward-roger", "asymptotic"):
        row, found = sleep_reml.coef_table(ddf).loc["Days"], sleep_reml.test("Days = 0", ddf)
        assert found.frame.index[0] == "Days = 0" and found.num_df == 1
        np.testing.assert_allclose(found.F, row["statistic"] ** 2)
        np.testing.assert_allclose([found.p, found.den_df], [row["p"], row["df"]])
        np.testing.assert_allclose(sleep_reml.anova(3, ddf).loc["Days", "F"], found.F)
    moved = sleep_reml.test("Days = 10")
    t = (sleep_reml.fixef["Days"] - 10) / sleep_reml.bse["Days"]
    np.testing.assert_allclose(moved.p, 2 * stats.t.sf(abs(t), moved.den_df), rtol=1e-9)
    assert "F = " in repr(moved) and "satterthwaite" in repr(moved)


def test_what_can_be_written():
    design = fitted("yield ~ Variety * x + N + (1 | Block)", "oats").model.design
    names = list(design.columns)
    a, b = names[1], names[2]
    unit = {n: np.eye(len(names))[names.index(n)] for n in names}
    for text, row, value in [
        (f"{a}", unit[a], 0),
        (f"{a} = {b}", unit[a] - unit[b], 0),
        (f"2*{a} + {b}/4 = 3", 2 * unit[a] + unit[b] / 4, 3),
        (f"-{a} - -2 {b} - 1 == 1/2", None, None),
        (f"{a}:x - x = -1e-3", unit[f"{a}:x"] - unit["x"], -1e-3),
        (f"1/3*{a} = 2 - {b}", unit[a] / 3 + unit[b], 2),
        ("(Intercept) + x*2", unit["(Intercept)"] + 2 * unit["x"], 0),
    ]:
        if row is None:
            with pytest.raises(ValueError, match="more than one ="):
                restrictions(text, design)
            continue
        found = restrictions(text, design)
        np.testing.assert_allclose(found.L, row[None], err_msg=text)
        np.testing.assert_allclose(found.value, value)
    assert restrictions("N", design).labels == tuple(n for n in names if n.startswith("N"))
    two = restrictions([f"{a} = 0", {b: 1, "x": -2}], design)
    np.testing.assert_allclose(two.L, [unit[a], unit[b] - 2 * unit["x"]])
    np.testing.assert_allclose(restrictions(f"{a}, {b} = 1", design).value, [0, 1])
    np.testing.assert_allclose(restrictions(np.eye(len(names))[2], design).L, unit[b][None])
    frame = pd.DataFrame({"x": [1.0], a: [2.0]}, ["mine"])
    assert restrictions(frame, design).labels == ("mine",)
    for wrong, message in {
        "Dayz = 0": "no coefficient 'Dayz'",
        f"{a} +": "cannot read",
        f"{a} {b}": "cannot read",
        f"2**{a}": "cannot read",
        "x - x": "restricts nothing",
        "": "has no rows",
    }.items():
        with pytest.raises(ValueError, match=message):
            restrictions(wrong, design)
    with pytest.raises(ValueError, match=r"3 numbers in a row and must have 9"):
        restrictions(np.eye(3), design)
    with pytest.raises(ValueError, match="no coefficient 'y'"):
        restrictions({"y": 1}, design)


def test_names_with_signs_and_commas():
    data = mm.datasets.load("sleepstudy").assign(g=lambda d: np.where(d["Days"] % 2 == 0, "a - b", "b"))
    design = mm.Model.from_formula("Reaction ~ poly(Days, 2) + I(Days^3) + g + (1 | Subject)", data).design
    names = list(design.columns)
    assert "poly(Days, 2)1" in names
    found = restrictions("poly(Days, 2)1 - 2*I(Days^3), poly(Days, 2)2 = 1", design)
    assert found.L[0, names.index("poly(Days, 2)1")] == 1 and found.L[0, names.index("I(Days^3)")] == -2
    assert found.L[1, names.index("poly(Days, 2)2")] == 1 and found.value[1] == 1


def test_generalised_models_have_chi_squared(sleep_reml):
    data = mm.datasets.load("cbpp")
    fit = mm.glmm("cbind(incidence, size - incidence) ~ period + (1 | herd)", data, "binomial")
    table, together = fit.anova(), fit.test("period")
    assert list(table.columns) == ["chisq", "df", "p"] and table.loc["period", "df"] == 3
    np.testing.assert_allclose(table.loc["period", "chisq"], together.chisq)
    assert "chi-squared" in repr(table) and "chi-squared = " in repr(together)
    assert list(fit.anova(ddf="residual").columns) == ["F", "num_df", "den_df", "p"]
    with pytest.raises(ValueError, match="type must be 1, 2 or 3"):
        sleep_reml.anova(4)
    with pytest.raises(ValueError, match="not independent"):
        sleep_reml.test([[1, 0], [2, 0]])
    assert np.isfinite(sleep_reml.anova("II", vcov=np.eye(2))["F"]).all()


def test_a_table_without_terms_says_so():
    fit = mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff"))
    assert len(fit.anova()) == 0 and "no terms" in str(fit.anova())


def test_a_generalised_model_counts_its_own_information():
    """Type 2 of a main effect is nearly its test in the model without the interaction, where X'X would be far off."""
    rng = np.random.default_rng(3)
    d = pd.DataFrame({"g": np.arange(200) % 20, "a": rng.choice(["p", "q"], 200, p=[0.3, 0.7])})
    d["b"] = rng.choice(["u", "v", "w"], 200)
    d["y"] = rng.poisson(np.exp(0.3 + 1.5 * (d.b == "w") + 0.3 * (d.a == "q") + rng.normal(0, 0.3, 20)[d.g]))
    both = mm.glmm("y ~ a * b + (1 | g)", d, "poisson").anova(type=2)
    alone = mm.glmm("y ~ a + b + (1 | g)", d, "poisson").anova()
    np.testing.assert_allclose(both.loc[["a", "b"], "chisq"], alone["chisq"], rtol=0.05)


def test_an_interaction_without_its_main_effects():
    """All cells are equal: one less than there are, as without the factors' names."""
    data = tables()["oats"].assign(cell=lambda d: d["Variety"].astype(str) + d["N"].astype(str))
    with pytest.warns(UserWarning, match="rank"):
        table = mm.lmm("yield ~ Variety:N + (1 | Block)", data).anova()
    cells = mm.lmm("yield ~ cell + (1 | Block)", data).anova()
    np.testing.assert_allclose(table.to_numpy(), cells.to_numpy(), rtol=1e-4)


def test_a_covariance_by_names(sleep_reml):
    turned = sleep_reml.vcov().iloc[::-1, ::-1]
    np.testing.assert_allclose(sleep_reml.coef_table(vcov=turned), sleep_reml.coef_table())
    for wrong in (np.zeros((2, 2)), -np.eye(2), [[1.0, 2.0], [2.0, 1.0]]):
        with pytest.raises(ValueError, match="no covariance matrix"):
            sleep_reml.test("Days", vcov=wrong)
    with pytest.raises(ValueError, match=r"must be '\(Intercept\)', 'Days'"):
        sleep_reml.coef_table(vcov=pd.DataFrame(np.eye(2)))


def test_a_term_with_a_comma():
    model = mm.Model.from_formula("Reaction ~ poly(Days, 2) + (1 | Subject)", mm.datasets.load("sleepstudy"))
    assert restrictions("poly(Days, 2)", model.design).L.shape == (2, 3)
