"""Responses with names: which axis is that of the observations, which rows are meant, and names that come back."""

import jax
import numpy as np
import pandas as pd
import pytest
import xarray

import jaxmm as mm
from jaxmm.design import DataError
from jaxmm.sources.labelled import read

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model(sleepstudy):
    return mm.Model.from_formula("Reaction ~ Days + (Days | Subject)", sleepstudy)


@pytest.fixture(scope="module")
def Y(sleep_reml):
    return sleep_reml.simulate(6, key=jax.random.key(1))


@pytest.fixture(scope="module")
def plain(model, Y):
    return mm.fit_many(model, Y, **QUIET)


@pytest.fixture
def wide(Y, sleepstudy):
    return pd.DataFrame(Y.T, sleepstudy.index, [f"gene{k}" for k in range(6)])


def same(batch, other):
    np.testing.assert_array_equal(batch.fixef, other.fixef)
    np.testing.assert_array_equal(batch.loglik, other.loglik)


# ---------------------------------------------------------------- tables
def test_a_table_of_responses_keeps_its_names(model, wide, plain):
    batch = mm.fit_many(model, wide, **QUIET)
    same(batch, plain)
    frame = batch.to_frame()
    assert list(frame.columns[:2]) == ["replicate", "response"] and list(frame["response"]) == list(wide.columns)
    assert list(batch.test_table("Days")["response"]) == list(wide.columns)
    assert list(batch.test_table("Days", labels=range(6))["response"]) == list(range(6))
    assert list(batch.take([4, 1]).to_frame()["response"]) == ["gene4", "gene1"]
    assert "response" not in plain.to_frame()


def test_a_response_in_each_row_of_a_table(model, wide, plain):
    batch = mm.fit_many(model, wide.T.rename_axis("electrode"), **QUIET)
    same(batch, plain)
    assert list(batch.to_frame()["electrode"]) == list(wide.columns)


def test_a_polars_table(model, wide, plain):
    pl = pytest.importorskip("polars")
    batch = mm.fit_many(model, pl.DataFrame({c: wide[c].to_numpy() for c in wide}), **QUIET)
    same(batch, plain)
    assert batch.to_frame(backend="polars")["response"].to_list() == list(wide.columns)


def test_rows_are_matched_by_label_where_all_are_there(model, wide, sleepstudy):
    shuffled = wide.sample(frac=1, random_state=2)
    np.testing.assert_array_equal(read(shuffled, model.design).Y, wide.to_numpy().T)
    other = wide.set_index(pd.Index([f"row{k}" for k in range(180)]))
    np.testing.assert_array_equal(read(other.iloc[::-1], model.design).Y, wide.to_numpy().T[:, ::-1])
    holes = sleepstudy.assign(Days=sleepstudy["Days"].where(sleepstudy.index != 7))
    fewer = mm.Model.from_formula("Reaction ~ Days + (1 | Subject)", holes)
    np.testing.assert_array_equal(read(wide, fewer.design).Y, np.delete(wide.to_numpy().T, 7, 1))
    with pytest.raises(DataError, match="Y has 180 observations and the model 179, whose labels are not those of Y"):
        read(other, fewer.design)


def test_labels_that_are_the_models_in_part_are_refused(model, wide, sleepstudy):
    """Nobody can tell whether the others are those of other rows, or only written otherwise."""
    moved = wide.set_axis(np.arange(1, 181))
    with pytest.raises(
        DataError, match=r"labels of 179 of the 180 rows of the model, and not 0; of its own 180 are none"
    ):
        read(moved, model.design)
    with pytest.raises(DataError, match="labels of 179 of the 180 rows of the model, and not 0"):
        read(moved.T, model.design)
    by_name = mm.Model.from_formula("Reaction ~ Days + (1 | Subject)", sleepstudy.set_index("Subject", drop=False))
    twice = wide.set_index(sleepstudy["Subject"])
    np.testing.assert_array_equal(read(twice, by_name.design).Y, wide.to_numpy().T)  # as the table has them
    with pytest.raises(DataError, match=r"some are there twice, as '308', '308', '308', \.\.\., in another order"):
        read(twice.iloc[::-1], by_name.design)
    # labels that only count say nothing of a table from which rows were taken before
    some = mm.Model.from_formula("Reaction ~ Days + (1 | Subject)", sleepstudy.iloc[5:])
    np.testing.assert_array_equal(read(wide.iloc[5:].reset_index(drop=True), some.design).Y, wide.to_numpy().T[:, 5:])
    d = model.design
    arrays = mm.Model.from_arrays(d.y, d.X, [mm.Term(np.ones(180), d.factors[0].codes)])
    np.testing.assert_array_equal(read(moved, arrays.design).Y, wide.to_numpy().T)


def test_an_order_in_doubt_is_asked_for(wide, sleepstudy):
    """A table of simulated responses, wrapped without labels: its rows are those of the shuffled table, or are they?"""
    design = mm.Model.from_formula("Reaction ~ Days + (1 | Subject)", sleepstudy.sample(frac=1, random_state=1)).design
    with pytest.raises(DataError, match=r"the rows of Y are only counted.*give Y the index of that table"):
        read(wide.reset_index(drop=True), design)
    labelled = wide.set_index(np.arange(180)).iloc[::-1]
    np.testing.assert_array_equal(read(labelled, design).Y, wide.to_numpy().T[:, design.index])


def test_an_axis_in_doubt_is_asked_for(model, wide):
    square = pd.concat([wide] * 30, axis=1).set_axis(range(180), axis=1)
    with pytest.raises(DataError, match=r"both its rows and its columns may be they; say dim='rows' or dim='columns'"):
        read(square, model.design)
    np.testing.assert_array_equal(read(square, model.design, "rows").Y, square.to_numpy().T)
    np.testing.assert_array_equal(read(square, model.design, "columns").Y, square.to_numpy())
    with pytest.raises(DataError, match=r"20 rows and 6 columns.*180 observations: neither"):
        read(wide.iloc[:20], model.design)
    with pytest.raises(DataError, match="column 'who' of Y holds no numbers: leave it out"):
        read(wide.assign(who="a"), model.design)
    with pytest.raises(ValueError, match=r"dim must be 'rows' or 'columns'.*not 'obs'"):
        read(wide, model.design, "obs")
    with pytest.raises(ValueError, match="dim= is for a DataArray or a table: Y is a ndarray"):
        read(wide.to_numpy().T, model.design, "rows")


def test_missing_numbers_of_a_nullable_column(model, wide):
    wide["gene0"] = wide["gene0"].round().astype("Int64").mask(wide.index == 3)
    rows = read(wide, model.design).Y
    assert np.isnan(rows[0, 3]) and np.isfinite(np.delete(rows[0], 3)).all()


# ---------------------------------------------------------------- xarray
@pytest.fixture
def grid(Y):
    return xarray.DataArray(
        Y.reshape(2, 3, 180).transpose(0, 2, 1),
        dims=("electrode", "trial", "time"),
        coords={"electrode": ["Cz", "Pz"], "time": [0.1, 0.2, 0.3], "region": ("electrode", ["central", "parietal"])},
    )


def test_a_grid_comes_back_as_a_grid(model, grid, plain):
    batch = mm.fit_many(model, grid, **QUIET)
    same(batch, plain)
    out = batch.to_xarray()
    assert out["fixef"].dims == ("electrode", "time", "coef") and out["sigma"].dims == ("electrode", "time")
    assert list(out["region"].to_numpy()) == ["central", "parietal"]
    one = out.sel(electrode="Pz", time=0.2)
    np.testing.assert_array_equal(one["bse"].sel(coef="Days"), plain.bse[4, 1])
    np.testing.assert_array_equal(one["varcorr_sd"].sel(sd="Days|Subject"), plain.varcorr_sd[4, 1])
    assert out["is_singular"].dtype == bool and out["status"].dtype == np.int8
    frame = batch.test_table("Days")
    assert list(frame["electrode"]) == ["Cz"] * 3 + ["Pz"] * 3 and list(frame["time"]) == [0.1, 0.2, 0.3] * 2
    assert list(frame.columns[:3]) == ["electrode", "time", "coef"]


def test_cells_without_a_replicate_are_missing(model, grid, plain):
    out = mm.fit_many(model, grid, **QUIET).take([0, 5]).to_xarray()
    assert out["fixef"].notnull().sum() == 4 and out["status"].notnull().sum() == 2
    np.testing.assert_array_equal(out["loglik"].sel(electrode="Pz", time=0.3), plain.loglik[5])
    unnamed = plain.to_xarray()
    assert unnamed["fixef"].dims == ("replicate", "coef")
    np.testing.assert_array_equal(unnamed["fixef"], plain.fixef)


def test_a_dimension_in_doubt_is_asked_for(model, grid):
    twice = grid.rename(trial="a").isel(time=0).expand_dims(b=180)
    with pytest.raises(DataError, match=r"'b' 180, 'electrode' 2, 'a' 180.*several may be .*say which by dim="):
        read(twice, model.design)
    assert read(twice, model.design, "a").labels.shape == {"b": 180, "electrode": 2}
    with pytest.raises(DataError, match="none of them is the observations"):
        read(grid.isel(trial=slice(7)), model.design)
    with pytest.raises(ValueError, match="Y has no dimension 'trials'"):
        read(grid, model.design, "trials")
    with pytest.raises(DataError, match=r"a single response: fit\.refit\(Y\)"):
        read(grid[0, :, 0], model.design)
    clash = mm.fit_many(model, grid.rename(time="coef"), **QUIET)
    with pytest.raises(ValueError, match="dimension or coordinate 'coef', as the results have: rename it"):
        clash.to_xarray()


def test_labels_are_kept_in_files(model, grid, plain, tmp_path):
    pytest.importorskip("pyarrow")
    batch = mm.fit_many(model, grid, out=tmp_path / "folder", **QUIET)
    same(batch, plain)
    batch.save(tmp_path / "all.parquet")
    again = mm.load(tmp_path / "all.parquet")
    xarray.testing.assert_identical(again.to_xarray(), batch.to_xarray())
    pd.testing.assert_frame_equal(again.take([3]).to_frame(), batch.take([3]).to_frame())


# ---------------------------------------------------------------- AnnData
@pytest.fixture(scope="module")
def cells(Y, sleepstudy):
    anndata = pytest.importorskip("anndata")
    from scipy import sparse

    obs = sleepstudy.set_axis([f"cell{k}" for k in range(180)])
    names = pd.DataFrame(index=[f"gene{k}" for k in range(6)])
    return anndata.AnnData(Y.T.copy(), obs=obs, var=names, layers={"sparse": sparse.csr_matrix(Y.T), "half": Y.T / 2})


def test_variables_are_responses_and_get_their_results(cells, plain):
    model = mm.Model.from_formula("Reaction ~ Days + (Days | Subject)", cells.obs)
    order = np.random.default_rng(0).permutation(180)
    batch = mm.fit_many(model, cells[order], **QUIET)
    same(batch, plain)
    out = batch.annotate(cells.copy(), prefix="mm_")
    np.testing.assert_array_equal(out.var["mm_Days"], plain.fixef[:, 1])
    tests = plain.test_table("Days")
    np.testing.assert_array_equal(out.var["mm_p_adjusted_Days"], tests["p_adjusted"])
    assert list(out.var["mm_status"]) == ["converged"] * 6
    some = batch.take([1, 3]).annotate(cells.copy())
    assert list(some.var["Days"].notna()) == [False, True, False, True, False, False]
    with pytest.raises(ValueError, match="the variables of adata are not those that were fitted"):
        batch.annotate(cells[:, :3].copy())
    with pytest.raises(ValueError, match=r"no names of variables: fit_many\(model, adata\)"):
        plain.annotate(cells)


def test_layers_and_sparse_matrices(cells, model, plain):
    batch = mm.fit_many(model, cells, layer="sparse", **QUIET)
    same(batch, plain)
    assert list(batch.to_frame()["var"]) == list(cells.var_names)
    np.testing.assert_array_equal(read(cells, model.design, layer="half").Y, cells.X.T / 2)
    assert batch.labels.shape == {"var": 6}
    with pytest.raises(DataError, match="Y has no layer 'counts'; it has 'sparse', 'half'"):
        read(cells, model.design, layer="counts")
    with pytest.raises(ValueError, match="layer= is for an AnnData: Y is a ndarray"):
        mm.fit_many(model, np.zeros((2, 180)), layer="half")


def test_an_annotated_object_can_be_written(cells, model, tmp_path):
    anndata = pytest.importorskip("anndata")
    out = mm.fit_many(model, cells, **QUIET).annotate(cells.copy())
    out.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(again.var["p_Days"], out.var["p_Days"])


def test_a_plan_matches_responses_by_the_labels_of_its_table():
    rng = np.random.default_rng(0)
    table = mm.make_design({"g": 8}, within={"v": [0, 1, 2, 3]}).set_index(pd.Index([f"r{i}" for i in range(32)]))
    Y = pd.DataFrame(rng.normal(size=(32, 2)), index=table.index, columns=["a", "b"])
    model = mm.plan("y ~ v + (1 | g)", table)
    mixed = Y.iloc[rng.permutation(32)]
    there, back = (mm.fit_many(model, each, progress=False).fixef for each in (Y, mixed))
    np.testing.assert_array_equal(there, back)
