"""Tables from a description, and more levels from those there are."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.families import FAMILIES
from jaxmm.studies.designs import make_design, plan
from jaxmm.studies.extending import extend, extend_model, order_of_levels

LATIN = {
    "levels": {"subject": 12, "item": 12},
    "within": {"cond": ["b", "a"]},
    "counterbalance": True,
    "between": {"subject": {"group": ["control", "patient"]}, "item": {"freq": ["low", "high"]}},
}


# ---------------------------------------------------------------- from a description
def test_a_latin_square_is_balanced_in_every_margin():
    table = make_design(**LATIN)
    assert len(table) == 144 and list(table.columns) == ["subject", "item", "group", "freq", "cond"]
    for margin, count in (("subject", 6), ("item", 6)):
        assert (pd.crosstab(table[margin], table["cond"]) == count).all(axis=None)
    assert (table.groupby(["group", "freq", "cond"], observed=True).size() == 18).all()
    assert (pd.crosstab(table["subject"], [table["freq"], table["cond"]]) == 3).all(axis=None)
    assert list(table["cond"].cat.categories) == ["b", "a"]  # the first value given is the reference


def test_a_latin_square_over_three_factors_and_two_conditions():
    table = make_design(
        {"s": 4, "i": 8, "day": 4}, within={"a": [0, 1], "b": ["x", "y"]}, counterbalance=["a", "b"], repeats=2
    )
    assert len(table) == 4 * 8 * 4 * 2
    for factor in ("s", "i", "day"):
        assert np.ptp(pd.crosstab(table[factor], [table["a"], table["b"]]).to_numpy()) == 0
    assert table["a"].dtype.kind == "i" and set(table["repeat"]) == {1, 2}


def test_conditions_within_cells_and_repeats_multiply_rows():
    table = make_design({"patient": 3}, within={"week": [0, 1.5], "side": ["l", "r"]}, repeats=2)
    assert len(table) == 3 * 2 * 2 * 2
    assert list(table["week"][:5]) == [0, 0, 0, 0, 1.5] and list(table["repeat"][:3]) == [1, 2, 1]
    assert not table.duplicated().any()


def test_nested_factors_have_names_that_are_used_once():
    table = make_design(
        {"school": 3, "school/class": 2, "school/class/pupil": 4, "test": 2},
        between={"class": {"book": ["old", "new"]}},
    )
    assert table.nunique().to_dict() == {"school": 3, "class": 6, "pupil": 24, "book": 2, "test": 2}
    assert (table.groupby("class", observed=True)["school"].nunique() == 1).all()
    assert (table.groupby("pupil", observed=True)["class"].nunique() == 1).all()
    assert (table.groupby("school", observed=True)["book"].nunique() == 2).all()


def test_covariates_depend_on_the_seed_and_their_name_alone():
    def draw(rng, n):
        return rng.normal(40, 10, n)

    def ages(size, **more):
        table = make_design({"subject": size, "item": 2}, covariates={"age": ("subject", draw), **more}, seed=3)
        assert (table.groupby("subject", observed=True)["age"].nunique() == 1).all()
        return table["age"].to_numpy()[::2]

    assert np.array_equal(ages(5), ages(9, noise=draw)[:5])
    assert make_design({"s": 4, "i": 3}, covariates={"x": draw}, seed=1)["x"].nunique() == 12


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"levels": {"subject": 0}}, "size of 'subject' must be a whole number of at least 1, not 0"),
        ({"levels": {"a/b": 2}}, "give the number of levels of 'a' before it"),
        ({"levels": {}}, "factor -> number of levels"),
        ({"levels": {"subject": 4}, "between": None}, "two crossed factors"),
        ({"between": {"word": {"g": [1, 2]}}}, "'word', which is no factor; there are 'subject', 'item'"),
        ({"within": {"item": [1, 2]}}, "called 'item'"),
        ({"within": {"cond": ["a"]}}, "'cond' needs two or more"),
        ({"counterbalance": ["conf"]}, "'conf', which is no condition of within; there are 'cond'"),
        ({"repeats": 1.5}, "size of 'repeats'"),
        ({"covariates": {"age": ("person", len)}, "seed": 1}, "'person', which is no factor"),
        ({"covariates": {"age": ("subject", lambda rng, n: np.ones(n))}}, "give seed="),
        ({"covariates": {"age": lambda rng, n: np.ones(3)}, "seed": 1}, "should give 144 values"),
    ],
)
def test_descriptions_that_make_no_sense(changes, message):
    with pytest.raises(mm.DataError, match=message):
        make_design(**{**LATIN, **changes})


@pytest.mark.parametrize("family", [None, *FAMILIES])
def test_a_model_without_a_response(family):
    table = make_design({"g": 5, "i": 4}, covariates={"x": lambda rng, n: rng.normal(size=n)}, seed=1)
    model = plan("y ~ x + (1 | g)", table, family)
    assert model.design.X.shape == (20, 2) and np.ptp(model.design.y) > 0
    given = plan("y ~ x + (1 | g)", table.assign(y=np.arange(1.0, 21) / 32), None)
    assert given.design.y[3] == 0.125
    with pytest.raises(mm.DataError, match="'z'"):
        plan("y ~ z + (1 | g)", table, family)


# ---------------------------------------------------------------- extended
def test_levels_are_recycled_in_order(sleepstudy):
    table = extend(sleepstudy, {"Subject": 40})
    assert table["Subject"].nunique() == 40 and len(table) == 400
    names = list(dict.fromkeys(table["Subject"].astype(str)))
    first = list(dict.fromkeys(sleepstudy["Subject"].astype(str)))
    assert names == first + [f"{s}.2" for s in first] + [f"{s}.3" for s in first[:4]]
    assert np.array_equal(table["Reaction"][180:360], sleepstudy["Reaction"])
    fewer = extend(sleepstudy, {"Subject": 5})
    assert list(dict.fromkeys(fewer["Subject"].astype(str))) == first[:5] and len(fewer) == 50
    twice = extend(sleepstudy, {"repeats": 2})
    assert len(twice) == 360 and np.array_equal(twice["Reaction"][::2], sleepstudy["Reaction"])


def test_groups_keep_their_proportions():
    assert list(order_of_levels(np.array([0, 0, 0, 0, 1, 1]))) == [0, 4, 1, 2, 5, 3]
    assert list(order_of_levels(np.zeros(4, int))) == [0, 1, 2, 3]
    table = pd.DataFrame({"s": np.repeat(np.arange(20), 3), "group": np.repeat(["a", "b"], 30), "y": np.arange(60)})
    for size, each in ((6, 3), (10, 5), (30, 15), (50, 25)):
        found = extend(table, {"s": size}).groupby("group")["s"].nunique()
        assert found["a"] == found["b"] == each


def test_what_is_nested_is_copied_with_its_level():
    table = make_design({"school": 2, "school/class": 2, "school/class/pupil": 3})
    grown = extend(table, {"school": 5})
    assert grown.astype(str).nunique().to_dict() == {"school": 5, "class": 10, "pupil": 30}
    numbered = table.assign(**{c: table[c].cat.codes for c in table.columns})
    wrong = extend(numbered, {"school": 5}).nunique()
    right = extend(numbered, {"school": 5}, nested=["class", "pupil"]).nunique()
    assert wrong["class"] == 4 and right.to_dict() == {"school": 5, "class": 10, "pupil": 30}


@pytest.mark.parametrize("library", ["polars", "pyarrow", "mapping"])
def test_tables_of_other_kinds(library):
    columns = {"g": ["a", "a", "b"], "y": [1.0, 2.0, 3.0]}
    if library == "mapping":
        table = columns
    elif library == "polars":
        table = pytest.importorskip("polars").DataFrame(columns)
    else:
        table = pytest.importorskip("pyarrow").table(columns)
    grown = extend(table, {"g": 3})
    assert list(grown["g"]) == ["a", "a", "b", "a.2", "a.2"] and list(grown["y"]) == [1, 2, 3, 1, 2]


def test_names_that_are_taken():
    grown = extend({"g": ["a", "a.2", "b"], "y": [1, 2, 3]}, {"g": 5})
    assert grown["g"].nunique() == 5


@pytest.mark.parametrize(
    "along, message",
    [
        ({"subjekt": 3}, "'subjekt', which is no column"),
        ({"Subject": 0}, "at least 1, not 0"),
        ({"Subject": 2.5}, "whole number"),
        ({"repeats": 0}, "'repeats' must be"),
    ],
)
def test_extensions_that_make_no_sense(sleepstudy, along, message):
    with pytest.raises(mm.DataError, match=message):
        extend(sleepstudy, along)


def test_a_factor_with_missing_values():
    with pytest.raises(mm.DataError, match="'g' has missing values"):
        extend({"g": ["a", None, "b"], "y": [1, 2, 3]}, {"g": 4})
    with pytest.raises(mm.DataError, match="nested names 'h'"):
        extend({"g": ["a", "b"]}, {"g": 4}, nested=["h"])


def test_a_model_is_extended_as_its_table_is(sleepstudy, sleep_ml):
    for along in ({"Subject": 30}, {"Subject": 7}, {"Subject": 20, "repeats": 2}):
        of_table = mm.lmm("Reaction ~ Days + (Days | Subject)", extend(sleepstudy, along), reml=False)
        of_model = extend_model(sleep_ml.model, along).fit()
        assert of_model.loglik == pytest.approx(of_table.loglik, abs=1e-8)
        assert of_model.n_groups == of_table.n_groups and of_model.nobs == of_table.nobs


def test_crossed_and_nested_models_are_extended():
    table = make_design(**LATIN)
    table["y"] = np.random.default_rng(1).normal(size=len(table))
    formula = "y ~ cond * group + (1 + cond | subject) + (1 | item)"
    model = mm.Model.from_formula(formula, table, reml=False)
    grown = extend_model(model, {"subject": 30, "item": 18})
    again = mm.Model.from_formula(formula, extend(table, {"subject": 30, "item": 18}), reml=False)
    assert grown.fit().loglik == pytest.approx(again.fit().loglik, abs=1e-7)

    nested = make_design({"school": 3, "school/class": 4}, repeats=3)
    nested["y"] = np.random.default_rng(2).normal(size=len(nested))
    for formula in ("y ~ 1 + (1 | school) + (1 | class)", "y ~ 1 + (1 | school/class)"):
        model = mm.Model.from_formula(formula, nested)
        grown = extend_model(model, {"school": 5})
        assert sorted(len(f.levels) for f in grown.design.factors) == [5, 20]
        assert grown.solver == "nested chain"


def test_a_smaller_design_is_the_beginning_of_a_larger_one(sleep_reml):
    small, large = (extend_model(sleep_reml.model, {"Subject": size}).design for size in (8, 30))
    n = len(small.y)
    assert np.array_equal(small.X, large.X[:n]) and np.array_equal(small.terms[0].Z, large.terms[0].Z[:n])
    assert np.array_equal(small.factors[0].codes, large.factors[0].codes[:n])


def test_models_that_cannot_be_extended(sleep_reml):
    with pytest.raises(
        mm.DataError, match="'subject', which is no grouping factor; there are 'Subject', and 'repeats'"
    ):
        extend_model(sleep_reml.model, {"subject": 20})
    with pytest.raises(mm.DataError, match="at least 2, not 1"):
        extend_model(sleep_reml.model, {"Subject": 1})
    table = make_design({"s": 8}, between={"s": {"g": list("abcd")}}, repeats=3)
    with pytest.raises(mm.DataError, match="with s = 3 the columns of X cannot be told apart"):
        extend_model(plan("y ~ g + (1 | s)", table), {"s": 3})


def test_a_design_with_fewer_rows_than_effects():
    table = make_design({"s": 10}, within={"cond": ["a", "b"]})
    with pytest.raises(mm.DataError, match="20 random effects and the data have 20 rows"):
        plan("y ~ cond + (1 + cond | s)", table)


# ---------------------------------------------------------------- by name
def test_a_stepped_wedge_begins_cluster_by_cluster():
    table = make_design("stepped wedge", clusters=12, periods=5, size=3)
    cells = table.groupby(["cluster", "period"], observed=True)["treated"].agg(["min", "max", "size"])
    assert (cells["min"] == cells["max"]).all() and set(cells["size"]) == {3}
    treated = cells["min"].to_numpy().reshape(12, 5)
    assert np.all(np.diff(treated, axis=1) >= 0) and treated[:, 0].max() == 0 and treated[:, -1].min() == 1
    assert treated.sum(axis=1).tolist() == np.repeat([4, 3, 2, 1], 3).tolist()
    late = make_design("stepped wedge", clusters=6, periods=5, size=1, sequences=2)["treated"].to_numpy().reshape(6, 5)
    assert late.sum(axis=1).tolist() == [4, 4, 4, 2, 2, 2]


@pytest.mark.parametrize(
    "name, sizes, formula, rows",
    [
        ("parallel", {"patients": 6, "visits": [0, 2, 6]}, "y ~ arm * visit + (1 | patient)", 18),
        ("crossover", {"patients": 8, "rows": 2}, "y ~ treatment + period + (1 | patient)", 32),
        ("cluster-randomised", {"clusters": 6, "size": 4}, "y ~ arm + (1 | cluster)", 24),
        ("stepped wedge", {"clusters": 6, "periods": 4, "size": 5}, "y ~ treated + period + (1 | cluster/period)", 120),
        ("longitudinal", {"patients": 6, "visits": 5}, "y ~ visit + (visit | patient)", 30),
        ("subjects × items", {"subjects": 8, "items": 6},
         "y ~ condition + (condition | subject) + (condition | item)", 48),
    ],
)  # fmt: skip
def test_a_named_design_takes_its_formula(name, sizes, formula, rows):
    assert plan(formula, make_design(name, **sizes)).design.X.shape[0] == rows


def test_crossover_and_items_are_balanced():
    table = make_design("crossover", patients=6, sequences=["ABC", "BCA", "CAB"])
    assert (pd.crosstab(table["period"], table["treatment"]) == 2).all(axis=None)
    items = make_design("subjects × items", subjects=4, items=6)
    assert (pd.crosstab(items["subject"], items["condition"]) == 3).all(axis=None)
    assert len(make_design("subjects × items", subjects=4, items=6, counterbalanced=False)) == 48


@pytest.mark.parametrize(
    "name, sizes, error, message",
    [
        (
            "stepped wedges",
            {},
            ValueError,
            "no design 'stepped wedges'; there are 'parallel', .* did you mean 'stepped w",
        ),
        ("parallel", {"patients": 4, "arm": 2}, TypeError, "'parallel' has no 'arm': it takes patients, visits, arms"),
        ("parallel", {}, TypeError, "the design 'parallel' needs patients="),
        ("parallel", {"patients": 4, "repeats": 2}, TypeError, "has no 'repeats'"),
        ("parallel", {"patients": 1}, mm.DataError, "patients must be a whole number of at least 2, not 1"),
        (
            "parallel",
            {"patients": 4, "visits": [2, 1]},
            mm.DataError,
            "visits must be a number of visits, or finite times one",
        ),
        (
            "crossover",
            {"patients": 4, "sequences": ["AB", "B"]},
            mm.DataError,
            "a letter for each of two or more periods",
        ),
        (
            "stepped wedge",
            {"clusters": 6, "periods": 3, "size": 1, "sequences": 4},
            mm.DataError,
            "there are at most 2",
        ),
    ],
)
def test_named_designs_that_make_no_sense(name, sizes, error, message):
    with pytest.raises(error, match=message):
        make_design(name, **sizes)
