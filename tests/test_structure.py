"""The plan of elimination, decided from codes, and what print(model) says of it."""

import dataclasses
import pickle
from itertools import permutations

import numpy as np
import pytest
from helpers import model, model_of
from problems import PROBLEMS

import jaxmm as mm
from jaxmm.structure import Grouping, analyse, parent_levels


def grouping(name, codes, q=1):
    codes = np.asarray(codes, np.int32)
    return Grouping(name, codes, int(codes.max()) + 1, q)


@pytest.fixture
def factors():
    """pupil < class < school; item and day crossed with all of them."""
    rng = np.random.default_rng(0)
    n = 400
    pupil = rng.permutation(np.concatenate([np.arange(60), rng.integers(0, 60, n - 60)]))
    of_class = rng.permutation(np.arange(60) % 12)
    school = rng.permutation(np.arange(12) % 3)
    item, day = rng.integers(0, 20, n), rng.integers(0, 5, n)
    codes = {"pupil": pupil, "class": of_class[pupil], "school": school[of_class[pupil]], "item": item, "day": day}
    return {name: grouping(name, c) for name, c in codes.items()}


def names(plan, groupings):
    return [groupings[f].name for f in plan.chain], [groupings[f].name for f in plan.rest]


@pytest.mark.parametrize("order", [*permutations(["pupil", "class", "school"])])
def test_nesting_is_found_from_the_codes_in_any_order(factors, order):
    groupings = [factors[name] for name in order]
    assert names(analyse(groupings), groupings) == (["pupil", "class", "school"], [])


@pytest.mark.parametrize("order", [*permutations(["pupil", "school", "item", "day"])])
def test_the_longest_chain_is_eliminated_and_the_rest_sorted_by_size(factors, order):
    groupings = [factors[name] for name in order]
    assert names(analyse(groupings), groupings) == (["pupil", "school"], ["item", "day"])


def test_the_chain_is_the_one_with_most_effects(factors):
    small_chain = [factors["class"], factors["school"], factors["item"]]
    assert names(analyse(small_chain), small_chain) == (["item"], ["class", "school"])  # 20 > 12 + 3
    wide = [factors["class"]._replace(q=2), factors["school"], factors["item"]]
    assert names(analyse(wide), wide) == (["class", "school"], ["item"])  # 24 + 3 > 20


def test_parents_say_in_which_outer_level_each_inner_one_lies(factors):
    pupil, school = factors["pupil"], factors["school"]
    parent = parent_levels(pupil, school)
    np.testing.assert_array_equal(parent[pupil.codes], school.codes)
    assert parent_levels(school, pupil) is None
    assert parent_levels(pupil, factors["item"]) is None
    plan = analyse([school, factors["class"], pupil])
    assert plan.chain == (2, 1, 0)
    assert {*plan.parents} == {(2, 1), (2, 0), (1, 0)}
    np.testing.assert_array_equal(plan.parents[2, 0], parent)


def test_two_names_for_the_same_levels_are_nested_in_each_other(factors):
    twin = factors["class"]._replace(name="twin", codes=11 - factors["class"].codes)
    plan = analyse([factors["class"], twin])
    assert plan.chain == (0, 1) and plan.rest == ()


def test_one_row_more_breaks_the_nesting(factors):
    pupil, school = factors["pupil"], factors["school"]
    codes = school.codes.copy()
    twice = np.flatnonzero(pupil.codes == pupil.codes[0])
    codes[twice[0]] = (codes[twice[0]] + 1) % 3
    assert len(twice) > 1 and parent_levels(pupil, school._replace(codes=codes)) is None


def test_the_coupling_is_a_list_of_cells_where_few_occur():
    rng = np.random.default_rng(0)
    subject, item = rng.integers(0, 3000, 9000), rng.integers(0, 400, 9000)
    sparse = analyse([grouping("subject", subject), grouping("item", item)])
    subject, item = (x.ravel() for x in np.mgrid[:300, :30])
    dense = analyse([grouping("subject", subject), grouping("item", item)])
    assert sparse.sparse and not dense.sparse
    assert not analyse([grouping("subject", subject)]).sparse


# ---------------------------------------------------------------- of a model
@pytest.mark.parametrize("name", PROBLEMS)
def test_plan_of_each_problem(name):
    p, m = PROBLEMS[name], model(name)
    order = [m.design.factors[f].name for f in m.elimination.order]
    assert tuple(order) == p.chain + p.rest
    assert m.solver == p.solver
    assert m.structure.num_factors == len(order)
    assert sum(at.stop - at.start for at in m.structure.slices()) == m.structure.num_theta
    if p.sparse is not None:
        assert m.structure.sparse == p.sparse == (m.arrays.couplings.cells is not None)


@pytest.mark.parametrize("name", PROBLEMS)
def test_structure_is_static(name):
    """Equal and hashed alike when made anew, so that a second data set of the same shapes finds the program."""
    s = model(name).structure
    again = model_of(PROBLEMS[name]).structure
    assert s is not again and s == again and hash(s) == hash(again)
    assert pickle.loads(pickle.dumps(s)) == s
    assert dataclasses.replace(s, reml=False) != s


@pytest.mark.parametrize("name", PROBLEMS)
def test_print_says_how_it_will_be_computed(name):
    p, m = PROBLEMS[name], model(name)
    text = str(m)
    assert f"{p.solver}; arrays" in text
    assert " inside ".join(p.chain) + ": block diagonal" in text
    for factor in m.design.factors:
        assert f"| {factor.name})" in text and f"{len(factor.levels)} levels" in text
    if p.rest:
        size = m.structure.rest_size
        assert f"{' + '.join(p.rest)}: dense {size} x {size}" in text
        assert ("list of the cells" if m.structure.sparse else "dense border") in text
    else:
        assert "Cholesky" not in text


def test_terms_of_theta_stand_by_levels_then_by_formula():
    m = model("several terms per factor")
    effects = [
        (m.design.factors[m.design.terms[t].factor].name, m.design.terms[t].covariance.name) for t, _ in m.theta_terms()
    ]
    assert effects == [("g", "us"), ("g", "us"), ("h", "diag")]
    assert [layout.at for _, layout in m.theta_terms()] == [0, 1, 0]


def test_a_dense_part_that_does_not_fit_is_refused_before_it_is_made():
    rng = np.random.default_rng(0)
    n = 400_000
    terms = [mm.Term(np.ones(n), np.arange(n) % k) for k in (150_000, 149_999)]
    with pytest.raises(MemoryError, match="dense part of 149,999 x 149,999"):
        mm.Model.from_arrays(rng.normal(size=n), np.ones((n, 1)), terms)
