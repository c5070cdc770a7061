"""Columns of a batch are declared once: one that is added stands in tables, files, parts and replicates."""

import numpy as np
import pytest
from batches import NAMES, assert_same, random_batch

import jaxmm as mm
from jaxmm.lanes.problem import Found
from jaxmm.optimize import Status
from jaxmm.results import schema
from jaxmm.results.files import write_arrays
from jaxmm.results.result import FitBatch, concatenate, no_fits
from jaxmm.results.schema import Column, as_columns, names_of
from jaxmm.results.store import Store, load


@pytest.fixture
def with_df(monkeypatch):
    """Degrees of freedom of each coefficient: the whole of what a new column takes."""
    monkeypatch.setitem(
        schema.DECLARED,
        "df",
        lambda names: Column(names.fixef, shown=tuple(f"df_{name}" for name in names.fixef), optional=True),
    )


def numbered(first: int, stop: int) -> FitBatch:
    df = np.arange(first, stop)[:, None] + np.array([0.1, 0.2, 0.3])
    return random_batch(first, stop).with_columns(df=df)


@pytest.mark.usefixtures("with_df")
def test_a_column_is_one_declaration(tmp_path):
    batch = numbered(0, 9)
    assert batch.to_frame()["df_Days"].tolist() == batch.df[:, 1].tolist() and "df" in dir(batch)
    assert "df_Days" not in batch.summary().index
    np.testing.assert_array_equal(batch.take(np.array([4, 2])).df, batch.df[[4, 2]])
    assert_same(concatenate([numbered(5, 9), numbered(0, 5)]), batch)
    assert no_fits(NAMES).df.shape == (0, 3)
    batch.save(tmp_path / "a")
    assert_same(load(tmp_path / "a"), batch)
    store = Store(tmp_path / "folder", {"n": 9})
    for first, stop in ((0, 4), (4, 9)):
        store.write(numbered(first, stop), first, stop)
    assert_same(store.read(9), batch)
    assert batch[3].df["Days"] == 3.2 and list(batch[3].df.index) == list(NAMES.fixef)


@pytest.mark.usefixtures("with_df")
def test_a_file_from_before_a_column_is_read(tmp_path):
    """Also where later parts of the same run have it."""
    before = {name: x for name, x in random_batch(0, 4).arrays().items() if name != "df"}
    store = Store(tmp_path, {"n": 9})
    about = {"names": {k: v for k, v in vars(NAMES).items()}}
    write_arrays(tmp_path / "part-000000000000-000000000003.parquet", before, NAMES.columns(), about)
    store.write(numbered(4, 9), 4, 9)
    df = store.read(9).df
    assert np.isnan(df[:4]).all() and np.array_equal(df[4:], numbered(4, 9).df)


@pytest.mark.usefixtures("with_df")
def test_lanes_fill_a_column_by_its_name(sleep_reml):
    """NaN where the fit failed, and where a problem has no such number."""
    model, L = sleep_reml.model, 2
    lams, two = (np.ones((2, 2, L)),), np.ones((2, L))
    found = Found(two, two, np.ones((3, L)), lams, np.ones(L), np.ones(L), np.array([0, Status.NOT_FINITE]))
    df = np.array([[16.0, 17.0], [18.0, 19.0]])
    batch = FitBatch(names_of(model), as_columns(model, found._replace(columns={"df": df}), np.ones(L), 5))  # pyright: ignore
    np.testing.assert_array_equal(batch.df, [[16.0, 18.0], [np.nan, np.nan]])
    assert batch.replicate.tolist() == [5, 6]
    assert np.isnan(FitBatch(names_of(model), as_columns(model, found, np.ones(L), 5)).df).all()


def test_a_batch_is_whole():
    arrays = random_batch(0, 3).arrays()
    with pytest.raises(ValueError, match=r"a batch has no column 'dof': its columns are replicate, fixef, "):
        FitBatch(NAMES, arrays | {"dof": np.zeros(3)})
    with pytest.raises(ValueError, match="a batch lacks 'sigma'"):
        FitBatch(NAMES, {name: x for name, x in arrays.items() if name != "sigma"})
    with pytest.raises(AttributeError, match="'FitBatch' object has no attribute 'dof'"):
        _ = random_batch(0, 1).dof
    with pytest.raises(AttributeError, match="cannot assign to field 'sigma'"):
        random_batch(0, 1).sigma = np.ones(1)  # pyright: ignore
    assert {"fixef", "family_params", "save"} <= set(dir(random_batch(0, 1)))


def test_a_batch_is_pickled(sleep_reml):
    import copy
    import pickle

    batch = mm.fit_many(sleep_reml, sleep_reml.simulate(2, key=0 + np.zeros(2, np.uint32)), progress=False)
    for other in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch)):
        assert_same(other, batch)
