"""What is said of odd input to ``residual=`` and ``dispersion=``: models are made, and nothing is fitted."""

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm import DataError

VISITS = ["a", "b", "c", "d"]
N = 12


def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    d = pd.DataFrame({
        "subject": np.repeat([f"s{k:02d}" for k in range(N)], 4),
        "visit": pd.Categorical(VISITS * N, VISITS),
        "time": np.tile([0.0, 1.0, 2.0, 3.0], N),
        "arm": np.repeat(np.where(np.arange(N) % 2, "x", "y"), 4),
        "y": rng.normal(size=4 * N),
    })  # fmt: skip
    d["skipped"] = d["time"].map({0: 0, 1: 1, 2: 2, 3: 5})
    d["endless"] = d["time"].where(d["time"] != 3, np.inf)
    d["huge"] = d["time"].where(d["time"] != 3, 1e300)
    d["text"] = d["visit"].map({"a": "week 2", "b": "week 4", "c": "week 8", "d": "week 12"}).astype(str)
    d["date"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(d["time"], "D")
    return d


DATA = table()
K = pd.DataFrame(np.eye(4) + 0.5, VISITS, VISITS)


def model(**given):
    return mm.Model.from_formula(given.pop("formula", "y ~ time * arm"), DATA, **given)


def said(error, **given) -> str:
    with pytest.raises(error) as raised:
        model(**given)
    return str(raised.value)


@pytest.mark.parametrize(("residual", "words"), [
    ("us(vist | subject)", ["'vist', the time of residual='us(vist | subject)'", "did you mean 'visit'"]),
    ("us(visit | subjct)", ["'subjct', behind the bar of residual=", "did you mean 'subject'"]),
    ("us(visit | subject, by=amr)", ["'amr', by= of residual=", "did you mean 'arm'"]),
    ("hetar1(skipped | subject)", ["none of 'skipped' between 2 and 5", "factor(skipped)", "ou(skipped | subject)"]),
    ("toep(skipped | subject)", ["parameters of each step", "ar1(skipped | subject)"]),
    ("ou(endless | subject)", ["the time 'endless' is missing or not finite in row 3", "correct the value"]),
    ("ar1(huge | subject)", ["the time '1e+300' is 1e+300 steps from the first", "correct the value"]),
    ("ou(date | subject)", ["'date' holds dates or times", "days since the start"]),
    ("ou(text | subject)", ["needs times that are numbers", "'text' is a factor"]),
    ("propto(visit | subject)", ["takes the name of a matrix after the bar"]),
    ("us(C(time) | subject)", ["'C(...)' is not known to a formula", "write factor(x)"]),
    ("ou(nope(time) | subject)", ["'nope(...)' is not known to a formula", "make the column first"]),
    ("exp(pos(sqr(time), time) | subject)", ["'sqr(...)' is not known to a formula", "did you mean sqrt"]),
    ("us(offset(time) | subject)", ["on the left of the bar of residual stands the time alone"]),
])  # fmt: skip
def test_the_bar(residual, words):
    message = said((DataError, mm.FormulaError), residual=residual)
    assert [w for w in words if w not in message] == []


@pytest.mark.parametrize(("matrix", "words"), [
    (K.iloc[:3, :3], ["the rows of K lack 'd'"]),
    (K + np.triu(np.ones((4, 4)), 1), ["is not symmetric", "for 'a' and 'b'"]),
    (K - 2 * np.eye(4), ["is not positive semidefinite", "its least eigenvalue"]),
    (0 * K + 1, ["K is singular at the times of 'subject' 's00'", "add a little to its diagonal"]),
    (K.to_numpy()[:3, :3], ["shape (3, 3) and the data have 4 levels"]),
    (K.where(K > 1), ["is not finite between 'a' and 'b'"]),
])  # fmt: skip
def test_a_known_matrix(matrix, words):
    message = said(DataError, residual="propto(visit | subject, K)", matrices={"K": matrix})
    assert [w for w in words if w not in message] == []


@pytest.mark.parametrize(("time", "group", "effects"), [
    ("visit", "subject", "propto(0 + visit | subject, K)"),
    ("time", "subject", "propto(0 + factor(time) | subject, K)"),
    ("row", "1", "propto(0 + row | one, K)"),
    ("1", "subject", None),
])  # fmt: skip
def test_the_remedy_of_a_singular_matrix_is_a_model(time, group, effects):
    """Where there is one: the order of the rows is no column."""
    data = DATA.assign(one=1, row=[f"r{k}" for k in range(len(DATA))])
    levels = data[time].unique() if time in data else range(1, 5)
    given = {"matrices": {"K": pd.DataFrame(np.ones(2 * [len(levels)]), levels, levels)}}
    with pytest.raises(DataError, match="K is singular at the times of") as raised:
        mm.Model.from_formula("y ~ arm", data, residual=f"propto({time} | {group}, K)", **given)
    assert ("random effects" in str(raised.value)) == (effects is not None)
    if effects is not None:
        assert effects in str(raised.value)
        mm.Model.from_formula(f"y ~ arm + {effects}", data, **given)


def test_times_that_are_texts_have_another_order():
    with pytest.warns(UserWarning, match="'text' are texts.*'week 12', 'week 2'"):
        model(residual="ar1(text | subject)")


def test_a_visit_that_is_there_twice():
    """Rows by their labels, where these tell them apart; a number where there are several."""
    twice = pd.concat([DATA, DATA.iloc[[5]]])
    for data, words in (
        (twice, "'visit' 'b' (both rows are called 5): keep"),
        (twice.reset_index(drop=True), "(rows 5 and 48): keep"),
        (pd.concat([DATA, DATA]), "(both rows are called 0), one of 48 such pairs: keep"),
    ):
        with pytest.raises(DataError) as raised:
            mm.Model.from_formula("y ~ arm", data, residual="us(visit | subject)")
        assert words in str(raised.value)


def test_other_functions_say_where_it_is():
    with pytest.raises(TypeError, match=r"lmm\(formula, data, residual=...\)"):
        mm.glmm("y ~ 1 + (1 | subject)", DATA, "gaussian", residual="us(visit | subject)")
    with pytest.raises(TypeError, match=r"residual='ar1\(visit"):
        mm.lmm("y ~ 1", DATA, correlation="ar1")


@pytest.mark.parametrize("dispersion", ["~ offset(time)", "~ arm + offset(time)"])
def test_what_is_known_of_log_phi_is_a_weight(dispersion):
    """It is not left out in silence."""
    message = said(mm.FormulaError, formula="y ~ time + (1 | subject)", dispersion=dispersion)
    assert "takes no offset(time)" in message and "exp(-(time))" in message and "weights=" in message


def test_new_rows_without_a_time():
    """In text as in numbers: no other time stands in."""
    d = mm.Model.from_formula("y ~ arm", DATA, residual="cs(visit | subject)").design
    rows = DATA.iloc[:2].assign(visit=pd.Categorical(["a", None], VISITS))
    with pytest.raises(DataError, match="the time 'visit' is missing or not finite in row 1"):
        d.evaluate(rows).errors()
    steps = mm.Model.from_formula("y ~ arm", DATA, residual="ar1(time | subject)").design
    with pytest.raises(DataError, match=r"the time '1e\+300' is 1e\+300 steps from the first"):
        steps.evaluate(DATA.iloc[:1].assign(time=1e300)).errors()
