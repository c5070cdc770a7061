"""FitBatch: its file, its tables, and one replicate of it beside a fit."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from batches import NAMES, assert_same, batch_of, random_batch

import jaxmm as mm
from jaxmm.optimize import Status
from jaxmm.results.files import write_arrays
from jaxmm.results.result import FitBatch
from jaxmm.results.schema import Names
from jaxmm.results.store import load


@pytest.fixture(scope="module")
def crossed():
    """A factor with two terms (one of them uncorrelated effects) and a factor with one: every kind of block."""
    rng = np.random.default_rng(5)
    n = 600
    data = pd.DataFrame({"g": np.arange(n) % 30, "h": np.arange(n) // 50, "x": rng.normal(size=n)})
    data["z"] = rng.normal(size=n)
    b, c = rng.normal(size=(30, 3)) * [1.0, 0.7, 0.5], rng.normal(size=12)
    effects = b[data.g, 0] + b[data.g, 1] * data.x + b[data.g, 2] * data.z + c[data.h]
    data["y"] = 1 + data.x + effects + rng.normal(size=n)
    data["k"] = rng.poisson(np.exp(0.3 * effects))
    data["a"] = np.exp(0.2 * effects) * rng.gamma(4.0, 0.25, n)
    return data


# ---------------------------------------------------------------- files
def test_round_trip_is_exact(tmp_path):
    batch = random_batch(0, 200)
    special = [np.nan, np.inf, -np.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2]
    batch.fixef[: len(special), 1] = special
    batch.sigma[: len(special)] = special
    batch.save(tmp_path / "a.parquet")
    back = load(tmp_path / "a.parquet")
    assert_same(batch, back)
    assert set(np.unique(back.status)) == {0, 1, 2} and np.any(back.is_singular)
    pd.testing.assert_frame_equal(back.to_frame(), batch.to_frame())
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_round_trip_of_a_selection_and_of_nothing(tmp_path):
    """Rows out of order, views of other arrays, no rows, no columns."""
    few = random_batch(0, 50).take(np.array([7, 3, 3, 40]))
    few.save(tmp_path / "few")
    assert_same(few, load(str(tmp_path / "few")))
    none = few.take(slice(0, 0))
    none.save(tmp_path / "none")
    assert_same(none, load(tmp_path / "none"))
    names = dataclasses.replace(NAMES, fixef=(), corr=(), has_scale=False, has_phi=False, reml=False)
    bare = random_batch(3, 9, names)
    bare.save(tmp_path / "bare")
    assert_same(bare, load(tmp_path / "bare"))


def test_a_file_of_several_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmm.results.files.ROWS", 7)
    batch = random_batch(0, 50)
    batch.save(tmp_path / "a")
    assert_same(batch, load(tmp_path / "a"))


def test_names_that_collide_keep_their_columns_apart(tmp_path):
    """Two pairs (group, effect) of one spelling: the columns are told apart by their order."""
    names = dataclasses.replace(NAMES, sd=(("b|c", "a"), ("c", "a|b")), corr=())
    batch = random_batch(0, 5, names)
    assert len(set(names.columns()["varcorr_sd"])) == 1
    batch.save(tmp_path / "a")
    assert_same(batch, load(tmp_path / "a"))
    import pyarrow.parquet as pq

    assert pq.ParquetFile(tmp_path / "a").schema_arrow.names.count("varcorr_sd[a|b|c]") == 1


def test_other_programs_read_the_file(tmp_path):
    batch = random_batch(0, 20)
    batch.save(tmp_path / "a.parquet")
    table = pd.read_parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(table["fixef[Days]"], batch.fixef[:, 1])
    np.testing.assert_array_equal(table["varcorr_sd[Days|Subject]"], batch.varcorr_sd[:, 1])
    np.testing.assert_array_equal(table["is_singular"], batch.is_singular)


def test_save_replaces_only_when_told(tmp_path):
    path = tmp_path / "a.parquet"
    random_batch(0, 5).save(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.parquet' exists: .*overwrite=True"):
        random_batch(5, 9).save(path)
    assert path.read_bytes() == before
    random_batch(5, 9).save(path, overwrite=True)
    assert_same(load(path), random_batch(5, 9))
    with pytest.raises(IsADirectoryError, match="give the name of a file"):
        random_batch(0, 5).save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'"):
        random_batch(0, 5).save(tmp_path / "nowhere" / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_load_says_what_is_not_ours(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no '.*absent'"):
        load(tmp_path / "absent")
    text = tmp_path / "notes.txt"
    text.write_text("not a table")
    with pytest.raises(ValueError, match=r"notes\.txt' is not a whole Parquet file"):
        load(text)
    foreign = tmp_path / "foreign.parquet"
    pd.DataFrame({"fixef[x]": [1.0]}).to_parquet(foreign)
    with pytest.raises(ValueError, match="not one of results that jaxmm wrote"):
        load(foreign)
    with pytest.raises(ValueError, match=r"not a folder of results: it has no study\.json"):
        load(tmp_path)


def test_a_damaged_file_is_noticed(tmp_path):
    """Cut short, or one byte of the numbers changed: never other numbers."""
    path = tmp_path / "a.parquet"
    random_batch(0, 100).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"a\.parquet' is not a whole"):
        load(path)
    for at in range(200, len(whole) // 2, 997):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            back = load(path)
        except ValueError as error:
            assert "a.parquet" in str(error)
        else:
            assert_same(back, random_batch(0, 100))


def test_a_file_from_before_the_statistic_had_a_name(tmp_path):
    """It is read as it was: t where there is a residual variance."""
    for has_scale, statistic in ((True, "t"), (False, "z")):
        batch = random_batch(0, 5, dataclasses.replace(NAMES, has_scale=has_scale, statistic=statistic))
        names = dataclasses.asdict(batch.names)
        del names["statistic"]
        write_arrays(tmp_path / "old", batch.arrays(), batch.names.columns(), {"names": names})
        assert_same(load(tmp_path / "old"), batch)
        assert load(tmp_path / "old")[0].tvalues.name == statistic


def test_a_file_of_a_later_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr("jaxmm.results.files.FORMAT", 99)
        random_batch(0, 5).save(tmp_path / "a")
    with pytest.raises(ValueError, match="update it"):
        load(tmp_path / "a")


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxmm\[parquet\]'"):
        random_batch(0, 5).save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- tables
def test_summary_is_over_the_converged():
    batch = random_batch(0, 300)
    frame = batch.to_frame()
    frame = frame[frame.converged]
    table = batch.summary()
    assert 0 < len(frame) < 300
    assert list(table.index) == [
        "(Intercept)", "Days", "β|x, y", "sd_(Intercept)|Subject", "sd_Days|Subject", "sd_(Intercept)|item",
        "cor_(Intercept).Days|Subject", "sigma",
    ]  # fmt: skip
    for name, row in table.iterrows():
        np.testing.assert_allclose([row["mean"], row["sd"]], [frame[name].mean(), frame[name].std()], rtol=1e-12)
    np.testing.assert_allclose(table.loc["Days", "mean_se"], frame["se_Days"].mean(), rtol=1e-12)
    assert np.isnan(table.loc["sigma", "mean_se"])


def test_repr_counts_every_status():
    batch = random_batch(0, 300)
    text = repr(batch)
    assert text.startswith("FitBatch of 300 replicates, by restricted likelihood\n")
    for status in (Status.CONVERGED, Status.MAX_ITERATIONS, Status.NOT_FINITE):
        assert f" {np.sum(batch.status == status)} {status.message} " in " ".join(text.split())
    assert f"  {batch.is_singular.sum()} singular\n" in text
    assert "of the converged  " in text
    line = next(line for line in text.splitlines() if line.startswith("Days"))
    mean, sd = map(float, line.split()[1:])
    np.testing.assert_allclose([mean, sd], batch.summary().loc["Days", ["mean", "sd"]].astype(float), rtol=1e-3)
    assert max(map(len, text.splitlines())) <= 80


def test_repr_of_odd_batches():
    """None, all failed, one, and more estimates than one wants to see."""
    some = random_batch(0, 40)
    assert "0 replicates" in repr(some.take(slice(0, 0)))
    failed = repr(some.take(~some.converged))
    assert "mean" not in failed and "converged" not in failed
    one = repr(some.take(some.converged).take(slice(0, 1)))
    assert "1 replicate," in one and "NaN" in one
    many = dataclasses.replace(NAMES, fixef=tuple(f"x{k}" for k in range(30)))
    assert repr(random_batch(0, 9, many)).endswith("... 23 more: summary()")


# ---------------------------------------------------------------- one replicate
@pytest.mark.parametrize(
    "formula",
    ["y ~ x + (x | g) + (1 | h)", "y ~ x + (x || g)", "y ~ x + (1 + x | g) + (0 + z | g) + (1 | h)", "y ~ 1 + (1 | h)"],
)
def test_a_replicate_is_as_its_fit(crossed, formula):
    fit = mm.lmm(formula, crossed)
    same_as_fit(batch_of([fit, fit])[1], fit)


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("k ~ x + (x | g)", "poisson"),
        ("k ~ x + (x | g)", "nbinom2"),
        ("a ~ x + (1 | g)", mm.families.Gamma("log")),
        ("a ~ x + (1 | g)", mm.families.InverseGaussian("log")),
        ("y ~ x + (1 | g)", "gaussian"),
    ],
)
def test_a_replicate_of_a_generalised_fit(crossed, formula, family):
    """Also of a family with a scale, whose statistic is z all the same."""
    fit = mm.glmm(formula, crossed, family)
    same_as_fit(batch_of([fit])[0], fit)


def same_as_fit(replicate, fit):
    for name in ("fixef", "bse", "tvalues"):
        pd.testing.assert_series_equal(getattr(replicate, name), getattr(fit, name))
    np.testing.assert_array_equal(replicate.pvalues, fit.coef_table("asymptotic")["p"])
    for name in ("sigma", "scale", "dispersion", "loglik", "deviance", "converged", "is_singular", "reml"):
        a, b = getattr(replicate, name), getattr(fit, name)
        assert a == b and type(a) is type(b), name
    assert replicate.status == fit.diagnostics.status
    np.testing.assert_array_equal(replicate.theta, fit.theta)
    mine, theirs = replicate.varcorr(), fit.varcorr()
    assert mine.sigma == theirs.sigma
    assert [(b.group, b.effects) for b in mine.blocks] == [(b.group, b.effects) for b in theirs.blocks]
    for a, b in zip(mine.blocks, theirs.blocks, strict=True):
        np.testing.assert_allclose(a.cov, b.cov, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(a.estimated, b.estimated)
    assert repr(mine) == repr(theirs)
    group = theirs.blocks[0].group
    statistic = lambda f: f.varcorr().cov[group].iloc[0, 0] / f.sigma**2  # noqa: E731
    np.testing.assert_allclose(statistic(replicate), statistic(fit), rtol=1e-12)


def test_a_singular_and_a_failed_replicate():
    batch = random_batch(0, 2)
    batch.varcorr_sd[:] = [[2.0, 0.0, 1.0], [np.nan] * 3]
    batch.varcorr_corr[:] = np.nan
    batch.sigma[1], batch.status[:] = np.nan, [Status.CONVERGED, Status.NOT_FINITE]
    np.testing.assert_array_equal(batch[0].varcorr().cov["Subject"], [[4.0, 0.0], [0.0, 0.0]])
    assert np.isnan(batch[0].varcorr().corr["Subject"].iloc[0, 1])
    assert np.all(np.isnan(batch[1].varcorr().cov["Subject"])) and not batch[1].converged


def test_effects_of_one_name_in_two_terms():
    """(1 | g) + (1 + x | g): the correlation belongs to the second intercept."""
    names = dataclasses.replace(
        NAMES, sd=(("g", "(Intercept)"), ("g", "(Intercept)"), ("g", "x")), corr=(("g", "(Intercept)", "x"),)
    )
    batch = random_batch(0, 1, names)
    batch.varcorr_sd[0], batch.varcorr_corr[0] = [1.0, 2.0, 3.0], 0.5
    (block,) = batch[0].varcorr().blocks
    np.testing.assert_array_equal(block.estimated, [[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    np.testing.assert_array_equal(block.cov, [[1, 0, 0], [0, 4, 3], [0, 3, 9]])


def test_indexing():
    batch = random_batch(10, 30)
    assert batch[3].replicate == 13 and batch[np.int64(-1)].replicate == 29
    assert [r.replicate for r in batch] == list(range(10, 30))
    with pytest.raises(IndexError, match="no replicate 20: the batch has 20"):
        batch[20]
    with pytest.raises(TypeError, match="take"):
        batch[batch.converged]  # type: ignore[index]
    with pytest.raises(AttributeError, match=r"no 'ranef'.*refit"):
        batch[0].ranef  # noqa: B018
    assert "Days" in repr(batch[0])


def test_a_replicate_does_not_change_its_batch():
    batch = random_batch(0, 3)
    kept = batch.fixef.copy(), batch.theta.copy()
    fixef, theta = batch[0].fixef, batch[0].theta
    fixef.iloc[:], theta[:] = 0.0, 0.0
    np.testing.assert_array_equal(batch.theta, kept[1])
    np.testing.assert_array_equal(batch.fixef, kept[0])


def test_names_know_their_columns():
    assert isinstance(NAMES, Names) and isinstance(random_batch(0, 1), FitBatch)
    for name, labels in NAMES.columns().items():
        assert getattr(random_batch(0, 1), name).shape == (1, len(labels))
