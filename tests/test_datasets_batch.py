"""fit_many(datasets, formula=): every data set of its own size as ``lmm`` or ``glmm`` of its own table has it."""

import numpy as np
import pandas as pd
import pytest
from folders import flipped

import jaxmm as mm
from jaxmm import costs
from jaxmm.batch.dataset_programs import filled_up


def table(k: int, levels: tuple[int, int] = (4, 9), rows: tuple[int, int] = (2, 7)) -> pd.DataFrame:
    """Data set k: other groups, other covariates, another size."""
    rng = np.random.default_rng(k)
    J = int(rng.integers(*levels))
    g = np.repeat(np.arange(J), rng.integers(*rows, J))
    n = len(g)
    x = rng.normal(size=n)
    b = rng.normal(size=(J, 2)) * [0.8, 0.5]
    eta = 0.3 + 0.5 * x + b[g, 0] + b[g, 1] * x
    trials = rng.integers(1, 6, n)
    s = rng.binomial(trials, 1 / (1 + np.exp(-eta)))
    return pd.DataFrame(
        {
            "y": eta + 0.6 * rng.normal(size=n),
            "x": x,
            "g": [f"{k}-{j}" for j in g],
            "f": np.array(["a", "b", "c"])[(np.arange(n) + k) % 3],
            "h": rng.integers(0, 4, n),
            "w": rng.uniform(0.5, 2.0, n),
            "o": 0.3 * rng.normal(size=n),
            "s": s,
            "fail": trials - s,
            "z": (rng.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(int),
            "c": rng.poisson(np.exp(eta)),
            "nb": rng.negative_binomial(2, 2 / (2 + np.exp(eta))),
        }
    )


@pytest.fixture(scope="module")
def tables() -> list[pd.DataFrame]:
    """Six of about 20 rows with missing values in two, and what cannot be fitted."""
    made = [table(k) for k in range(6)]
    made[1].loc[2:4, "y"] = np.nan
    made[2].loc[1, "x"] = np.nan
    none, one, single = table(6), table(7), table(8)
    none["y"] = none["c"] = np.nan
    one = one[one.g == "7-0"]
    single = single.groupby("g").head(1)
    flat, empty, infinite, constant = table(9), table(10)[:0], table(11), table(12)
    flat["y"], flat["c"] = 2.0, 0
    infinite.loc[0, "y"] = np.inf
    infinite["c"] = infinite["c"].astype(float)
    infinite.loc[0, "c"] = -1.0
    constant["x"] = 1.0
    return [*made, none, one, single, flat, empty, infinite, constant]


S = mm.Status
LINEAR = [S.TOO_FEW_ROWS, S.TOO_FEW_ROWS, S.TOO_FEW_ROWS, S.NO_VARIATION, S.TOO_FEW_ROWS, S.INVALID, S.ALIASED]


def agree(batch, k: int, fit) -> None:
    assert batch.converged[k] == fit.converged
    assert batch.deviance[k] == pytest.approx(fit.deviance, abs=1e-6)
    se = np.asarray(fit.bse)
    np.testing.assert_allclose(batch.bse[k], se, rtol=1e-3)
    assert np.max(np.abs(batch.fixef[k] - np.asarray(fit.fixef)) / se) < 1e-4
    np.testing.assert_allclose(batch.theta[k], fit.theta, atol=2e-3)
    assert batch.nobs[k] == fit.nobs
    assert batch.is_singular[k] == fit.is_singular
    if fit.model.likelihood.precisions:
        assert batch.sigma[k] == pytest.approx(fit.sigma, rel=1e-4)


DESIGNS = [
    ("y ~ x + (x | g)", {}),
    ("y ~ x * f + (1 | g)", {"contrasts": {"f": "sum"}}),
    ("y ~ poly(x, 2) + (1 | g)", {"weights": "w", "reml": False}),
]
SLOW = [
    ("y ~ x + (1 | g)", {}),
    ("y ~ x + (x || g)", {"reml": False}),
    ("y ~ scale(x) + offset(o) + (0 + x | g)", {"offset": "w"}),
    ("y ~ x + diag(x | g)", {}),
    ("y ~ 1 + cs(x | g)", {"weights": "w"}),
    ("y ~ x + homdiag(x | g)", {"reml": False}),
    ("log(s + 1) ~ x + (1 | g)", {}),
    ("y ~ x + (1 | g) + (1 | h)", {}),
    ("y ~ x + (1 | h / f)", {"reml": False}),
]


@pytest.mark.parametrize("formula, keywords", [*DESIGNS, *(pytest.param(*x, marks=pytest.mark.dear) for x in SLOW)])
def test_as_single_linear_fits(formula, keywords, tables):
    batch = mm.fit_many(tables[:6], formula=formula, progress=False, **keywords)
    for k in range(6):
        agree(batch, k, mm.lmm(formula, tables[k], **keywords))


@pytest.mark.parametrize(
    "formula, family, keywords",
    [
        ("cbind(s, fail) ~ x + (1 | g)", "binomial", {}),
        pytest.param("z ~ x + offset(o) + (1 | g)", "binomial", {}, marks=pytest.mark.dear),
        pytest.param("c ~ x * f + (1 | g)", "poisson", {"weights": "w"}, marks=pytest.mark.dear),
        pytest.param("c ~ x + (x | g)", "poisson", {"offset": "o"}, marks=pytest.mark.dear),
        pytest.param("nb ~ poly(x, 2) + (1 | g)", "nbinom2", {}, marks=pytest.mark.dear),
        pytest.param("c ~ x + (1 | g) + (1 | h)", "poisson", {}, marks=pytest.mark.dear),
    ],
)
def test_as_single_generalised_fits(formula, family, keywords, tables):
    batch = mm.fit_many(tables[:6], formula=formula, family=family, progress=False, **keywords)
    fitted = 0
    for k in range(6):
        try:
            fit = mm.glmm(formula, tables[k], family, **keywords)
        except mm.DataError:
            assert not batch.converged[k]
            continue
        if fit.converged:
            agree(batch, k, fit)
            fitted += 1
    assert fitted >= 4


def test_what_cannot_be_fitted_has_a_status(tables):
    batch = mm.fit_many(tables, formula="y ~ x + (x | g)", progress=False)
    assert batch.status[:6].tolist() == [S.CONVERGED] * 6
    assert batch.status[6:].tolist() == LINEAR
    assert np.isnan(batch.fixef[6:]).all()
    assert batch.nobs[6] == batch.nobs[10] == 0
    assert batch.nobs[1] == len(tables[1]) - 3
    for k in (6, 7, 8, 9, 10, 11):  # where a single fit is an error
        with pytest.raises(mm.DataError):
            mm.lmm("y ~ x + (x | g)", tables[k])


def test_status_of_counts(tables):
    batch = mm.fit_many(tables, formula="c ~ x + (1 | g)", family="poisson", progress=False)
    wanted = [S.TOO_FEW_ROWS, S.TOO_FEW_ROWS, S.CONVERGED, S.NO_VARIATION, S.TOO_FEW_ROWS, S.INVALID, S.ALIASED]
    assert batch.status[6:].tolist() == wanted


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("family", [None, "poisson"])
def test_data_sets_of_which_one_group_is_left(family, apart, tables, monkeypatch):
    """Also where the rows of other groups are there and their responses are not, and where data sets are fitted one by
    one."""
    one = tables[3].astype({"c": float})
    one.loc[one.g != "3-1", ["y", "c"]] = np.nan
    two = tables[3].astype({"c": float})
    two.loc[~two.index.isin([0, len(two) - 1]), ["y", "c"]] = np.nan
    if apart:
        monkeypatch.setattr("jaxmm.batch.dataset_programs.Linear.suits", False)
        monkeypatch.setattr("jaxmm.batch.dataset_programs.Generalised.suits", False)
    formula = "y ~ x + (1 | g)" if family is None else "c ~ x + (1 | g)"
    batch = mm.fit_many([tables[0], one, two], formula=formula, family=family, progress=False)
    assert batch.status.tolist() == [S.CONVERGED, S.TOO_FEW_ROWS, S.TOO_FEW_ROWS]
    assert batch.nobs[1:].tolist() == [(tables[3].g == "3-1").sum(), 2]


def test_nothing_depends_on_chunks_or_batches(tables, monkeypatch):
    formula = "y ~ poly(x, 2) + (x | g)"
    whole = mm.fit_many(tables, formula=formula, progress=False)
    monkeypatch.setattr(costs, "DATASETS_STACKED", 4)
    monkeypatch.setattr(costs, "DATASETS_BLOCK", 5)
    parts = mm.fit_many(iter(tables), formula=formula, progress=False, batch=3)
    for name, x in whole.arrays().items():
        if name != "iterations":
            np.testing.assert_allclose(parts.arrays()[name], x, rtol=1e-6, atol=1e-8, err_msg=name)


def test_a_generator_is_read_as_it_is_needed(monkeypatch):
    monkeypatch.setattr(costs, "DATASETS_STACKED", 2)
    monkeypatch.setattr(costs, "DATASETS_BLOCK", 2)
    taken = []

    def endless():
        for k in range(8):
            taken.append(k)
            yield table(k) if k < 7 else 3

    with pytest.raises(TypeError, match="data set 7 is a int"):
        mm.fit_many(endless(), formula="y ~ x + (1 | g)", progress=False)
    assert taken == list(range(8))


def test_kinds_of_tables(tables):
    pl = pytest.importorskip("polars")
    formula, some = "y ~ x + f + (1 | g)", tables[:3]
    wanted = mm.fit_many(some, formula=formula, progress=False)
    mappings = [{name: t[name].to_numpy() for name in t} for t in some]
    categorical = [t.assign(f=pd.Categorical(t.f, categories=["a", "b", "c"])) for t in some]
    for others in (mappings, [pl.from_pandas(t) for t in some], categorical):
        got = mm.fit_many(others, formula=formula, progress=False)
        np.testing.assert_allclose(got.fixef, wanted.fixef, rtol=1e-9)


def test_arrays(tables):
    whole = mm.fit_many(tables[:6], formula="y ~ x + (x | g)", progress=False)

    def arrays(t):
        X = np.column_stack([np.ones(len(t)), t.x])
        return t.y.to_numpy(), X, X, t.g.to_numpy()

    got = mm.fit_many((arrays(t) for t in tables[:6]), names=["one", "x"], progress=False)
    assert got.names.fixef == ("one", "x")
    np.testing.assert_allclose(got.deviance, whole.deviance, atol=1e-8)
    np.testing.assert_allclose(got.fixef, whole.fixef, rtol=1e-6)
    with pytest.raises(TypeError, match="leave formula= out"):
        mm.fit_many([arrays(tables[0])], formula="y ~ x + (1 | g)", progress=False)
    y, X, Z, codes = arrays(tables[0])
    with pytest.raises(mm.DataError, match="data set 1 must be y"):
        mm.fit_many([(y, X, Z, codes), (y[1:], X, Z, codes)], progress=False)


def test_a_code_of_no_level_takes_out_its_row(tables, monkeypatch):
    """-1 is what pandas gives a missing level: as NaN it is no group, also where data sets are fitted one by one."""
    made = []
    for t in tables[3:6]:
        codes = pd.factorize(t.g.where(t.index % 7 != 3))[0]
        made.append((t.y.to_numpy(), np.column_stack([np.ones(len(t)), t.x]), np.ones(len(t)), codes))
    assert all((codes == -1).any() for *_, codes in made)
    alone = [table[table.index % 7 != 3] for table in tables[3:6]]
    for _ in range(2):
        batch = mm.fit_many(made, progress=False)
        assert batch.nobs.tolist() == [len(t) for t in alone]
        for k, t in enumerate(alone):
            agree(batch, k, mm.lmm("y ~ x + (1 | g)", t))
        monkeypatch.setattr("jaxmm.batch.dataset_programs.Linear.suits", False)
    shifted = [(*rest, codes - 1) for *rest, codes in made]  # labels, of which -1 is one
    assert mm.fit_many(shifted[:1], progress=False).nobs[0] == len(tables[3])


def test_kept_and_written(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "DATASETS_BLOCK", 4)
    formula, out = "y ~ x + (x | g)", tmp_path / "runs"
    batch = mm.fit_many(tables, formula=formula, progress=False, keep=("vcov", "df"), out=out)
    fit = mm.lmm(formula, tables[0])
    np.testing.assert_allclose(batch.vcov(0), np.asarray(fit.vcov()), rtol=1e-3)
    first = sorted(out.glob("part-*"))[0]
    first.unlink()
    again = mm.fit_many(tables, formula=formula, progress=False, keep=("vcov", "df"), out=out)
    for name, x in batch.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], x, err_msg=name)
    flipped(first)
    with pytest.warns(UserWarning, match="is damaged.*computed anew"):
        again = mm.fit_many(tables, formula=formula, progress=False, keep=("vcov", "df"), out=out)
    for name, x in batch.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], x, err_msg=name)
    with pytest.raises(ValueError, match="can be counted"):
        mm.fit_many(iter(tables), formula=formula, progress=False, out=tmp_path / "other")
    with pytest.raises(ValueError, match="source"):
        mm.fit_many(tables[::-1], formula=formula, progress=False, keep=("vcov", "df"), out=out)


FORMULA = "y ~ x + f + (1 | g)"


@pytest.mark.parametrize(
    "change, keywords, error, said",
    [
        (lambda t: t, {"formula": None}, TypeError, "need formula="),
        (lambda t: [t[0], t[1].drop(columns="x")], {}, mm.DataError, "data set 1 has no column 'x'"),
        (lambda t: [t[0], t[1].assign(x="a")], {}, mm.DataError, "column 'x' holds numbers in data set 0"),
        (lambda t: [t[0], dict(t[1])], {}, TypeError, "data set 1 is a mapping, and data set 0 a pandas"),
        (lambda t: t[0], {}, TypeError, "give a list of tables"),
        (lambda t: [], {}, ValueError, "no data sets"),
        (lambda t: t, {"columns": {"x": 1}}, TypeError, "columns= is for responses of one design"),
        (lambda t: t, {"missing": "refuse"}, TypeError, "missing="),
        (lambda t: t, {"weights": np.ones(3)}, TypeError, "weights of data sets is the name of a column"),
        (lambda t: t, {"names": ["a"]}, TypeError, "names= is for data sets of arrays"),
        (lambda t: t, {"formula": "y ~ q + (1 | g)"}, mm.DataError, "no column 'q'"),
        (lambda t: t, {"formula": "y ~ x + (1 | g) + (1 | h)", "keep": "df"}, ValueError, "keep="),
        (lambda t: t, {"n_agq": 3}, TypeError, "n_agq"),
    ],
)
def test_errors_say_what_is_wrong(change, keywords, error, said, tables):
    with pytest.raises(error, match=said):
        mm.fit_many(change(tables[:3]), **{"formula": FORMULA, "progress": False, **keywords})


def odd(t: pd.DataFrame, level: str) -> pd.DataFrame:
    """With another level of f in a quarter of its rows."""
    return t.assign(f=np.where(np.arange(len(t)) % 4 == 0, level, t.f))


def test_one_odd_level_leaves_all_others_as_they_are(tables):
    usual = tables[:4]
    wanted = mm.fit_many(usual, formula=FORMULA, progress=False)
    for level in ("d", "A"):  # after and before all others
        batch = mm.fit_many([*usual, odd(tables[4], level)], formula=FORMULA, progress=False)
        assert batch.names.fixef[2:] == (("fb", "fc", "fd") if level == "d" else ("fA", "fb", "fc"))
        at = [batch.names.fixef.index(c) for c in wanted.names.fixef]
        assert batch.converged.all()
        np.testing.assert_allclose(batch.fixef[:4, at], wanted.fixef, rtol=1e-6)
        np.testing.assert_allclose(batch.deviance[:4], wanted.deviance, atol=1e-8)
        assert np.isnan(np.delete(batch.fixef[:4], at, 1)).all()
        fit = mm.lmm(FORMULA, odd(tables[4], level))
        assert batch.deviance[4] == pytest.approx(fit.deviance, abs=1e-6)
        assert np.isfinite(batch.fixef[4]).all()


def test_a_data_set_that_lacks_a_level_has_no_column_for_it(tables, monkeypatch):
    lacking = tables[3][tables[3].f != "c"]
    without_first, alone = tables[3][tables[3].f != "a"], tables[3][tables[3].f == "b"]
    batch = mm.fit_many(
        [*tables[:3], lacking, without_first, alone], formula=FORMULA, keep=("vcov", "df"), progress=False
    )
    assert batch.status.tolist() == [S.CONVERGED] * 4 + [S.ALIASED] * 2
    fit = mm.lmm(FORMULA, lacking)
    own = [batch.names.fixef.index(c) for c in fit.fixef.index]
    agree(batch.take([3]).with_columns(fixef=batch.fixef[[3]][:, own], bse=batch.bse[[3]][:, own]), 0, fit)
    assert np.isnan(batch.fixef[3]).tolist() == [c == "fc" for c in batch.names.fixef]
    np.testing.assert_allclose(batch.vcov(3)[np.ix_(own, own)], np.asarray(fit.vcov()), rtol=1e-3)
    assert np.isfinite(batch.df[3, own]).all()
    monkeypatch.setattr(costs, "DATASETS_STACKED", 2)
    new = tables[3].assign(f=np.where(tables[3].f == "c", "d", tables[3].f))
    with pytest.raises(mm.DataError, match="'f' holds 'd' in data set 3"):
        mm.fit_many([*tables[:3], new], formula=FORMULA, progress=False)


@pytest.mark.parametrize("formula", ["y ~ x + (0 + f | g)", "y ~ x + f + (1 | g) + (1 | h)"])
def test_levels_that_lack_in_random_effects_and_in_single_fits(formula, tables):
    large = [table(k, (8, 9), (6, 8)) for k in range(2)]
    lacking = large[1][large[1].f != "c"]
    batch = mm.fit_many([large[0], lacking], formula=formula, progress=False)
    fit = mm.lmm(formula, lacking)
    assert batch.status[1] == S.CONVERGED
    assert batch.deviance[1] == pytest.approx(fit.deviance, abs=1e-6)
    assert np.isnan(batch.varcorr_sd[1]).sum() == (1 if "0 + f" in formula else 0)


def test_contrasts_that_compare_with_all_levels_need_them(tables):
    lacking = tables[3][tables[3].f != "b"]
    batch = mm.fit_many([*tables[:2], lacking], formula=FORMULA, contrasts={"f": "sum"}, progress=False)
    assert batch.status.tolist() == [S.CONVERGED] * 2 + [S.ALIASED]
    with pytest.warns(UserWarning, match="2 of 3 data sets that were looked at lack a level of a factor"):
        batch = mm.fit_many([*tables[:2], odd(tables[4], "d")], formula=FORMULA, contrasts={"f": "sum"}, progress=False)
    assert batch.status[:2].tolist() == [S.ALIASED] * 2


def test_a_model_takes_nothing_of_data_sets():
    model = mm.Model.from_formula("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy"))
    with pytest.raises(TypeError, match="family= is for data sets"):
        mm.fit_many(model, model.design.y[None], family="poisson", progress=False)
    with pytest.raises(TypeError, match="a model has its own"):
        mm.fit_many(model, model.design.y[None], formula="y ~ x + (1 | g)", progress=False)


def test_sizes_are_filled_up_to_few():
    sizes = np.arange(1, 3000)
    for step, most in ((1, 10), (2, 6)):
        filled = filled_up(sizes, step)
        assert (filled >= sizes).all() and (filled[8:] < sizes[8:] * 2**step).all()
        assert len(np.unique(filled)) <= most


def test_twice_the_rows_of_any_size(monkeypatch):
    """Data sets of 5 to 500 rows in one call."""
    mixed = [table(k, (3, 5), (2, 3)) for k in range(2)] + [table(9, (30, 31), (12, 20))]
    batch = mm.fit_many(mixed, formula="y ~ x + (1 | g)", progress=False)
    assert batch.nobs[2] > 400 > 10 > batch.nobs[:2].max() - 1
    for k, data in enumerate(mixed):
        agree(batch, k, mm.lmm("y ~ x + (1 | g)", data))
