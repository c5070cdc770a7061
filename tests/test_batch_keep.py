"""``fit_many(..., keep=)``: what is kept of each lane is what its single fit says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_batch_weights import Weighted

import jaxmm as mm
from jaxmm.results.result import concatenate
from jaxmm.results.store import load
from jaxmm.sources.labelled import Labels


@pytest.fixture(scope="module")
def table():
    """Levels of unequal size; g explains something, h little."""
    rng = np.random.default_rng(11)
    n = 120
    g, h, x = rng.integers(0, 9, n), rng.integers(0, 5, n), rng.normal(size=n)
    y = 2 + 0.5 * x + rng.normal(size=9)[g] + 0.4 * rng.normal(size=9)[g] * x + rng.normal(size=n)
    k = rng.negative_binomial(2.0, 2.0 / (2.0 + np.exp(1 + 0.3 * x + 0.4 * rng.normal(size=9)[g])))
    return pd.DataFrame({"g": g, "h": h, "x": x, "z": (g % 2).astype(float), "y": y, "k": k})


def agrees(batch, k, single):
    """df to 1e-6, where both searches have ended within rounding; covariance to 1e-6 of its scale."""
    table = single.coef_table()
    np.testing.assert_allclose(batch.df[k], table["df"], rtol=1e-6)
    V = single.vcov().to_numpy()
    np.testing.assert_allclose(batch.vcov(k), V, atol=1e-6 * V.max())
    np.testing.assert_allclose(np.sqrt(np.diag(batch.vcov(k))), batch.bse[k], rtol=1e-12)


@pytest.mark.parametrize(
    ("formula", "reml"),
    [
        ("y ~ x + z + (x | g)", True),
        ("y ~ x + z + (1 | g)", False),
        ("y ~ x + (1 | g) + (1 | h)", True),
    ],
    ids=["slopes", "by ML", "crossed"],
)
def test_lanes_have_the_df_of_single_fits(table, formula, reml):
    """Also singular ones: of the last response the means of levels are all zero."""
    fit = mm.lmm(formula, table, reml=reml)
    rng = np.random.default_rng(3)
    y = fit.model.design.y
    noise = pd.Series(rng.normal(size=len(y)))
    Y = np.stack([y, y + noise, 1.5 * y - 2 * table["x"], noise - noise.groupby(table["g"]).transform("mean")])
    batch = mm.fit_many(fit, Y, keep=("df", "vcov"), progress=False)
    assert batch.is_singular.any() and not batch.is_singular.all() and batch.converged.all()
    for k in range(len(Y)):
        agrees(batch, k, fit.refit(Y[k]))


def test_with_weights_of_their_own(table):
    rng = np.random.default_rng(5)
    fit, n = mm.lmm("y ~ x + (1 | g)", table), len(table)
    W = rng.uniform(0.5, 2, (2, n))
    W[1, :9] = 0.0
    Y = np.tile(fit.model.design.y, (2, 1))
    batch = mm.fit_many(fit, Weighted(Y, W), keep=("vcov", "df"), progress=False)
    for k in range(2):
        agrees(batch, k, mm.lmm("y ~ x + (1 | g)", table, weights=W[k]))


def test_df_of_sigma():
    """Of a balanced layout with one effect of each level: n less the levels, of what varies within them, exactly."""
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(8), 5)
    frame = pd.DataFrame({"g": g, "y": 2 * rng.normal(size=8)[g] + rng.normal(size=40)})
    fit = mm.lmm("y ~ 1 + (1 | g)", frame)
    nothing = frame["y"] - frame["y"].groupby(frame["g"]).transform("mean")  # between levels there is less than chance
    batch = mm.fit_many(fit, np.stack([frame["y"], nothing]), keep="df", progress=False)
    np.testing.assert_allclose(batch.df_sigma, [40 - 8, 40 - 1], rtol=1e-8)
    np.testing.assert_allclose(batch.df[:, 0], [8 - 1, 40 - 1], rtol=1e-8)


def test_generalised_lanes(table):
    fit = mm.glmm("k ~ x + (1 | g)", table, "nbinom2")
    rng = np.random.default_rng(3)
    k = fit.model.design.y
    Y = np.stack([k, k[rng.permutation(len(k))]])
    batch = mm.fit_many(fit, Y, keep=("dispersion_se", "vcov"), progress=False)
    for lane in range(2):
        single = fit.refit(Y[lane])
        V = single.vcov().to_numpy()
        np.testing.assert_allclose(batch.vcov(lane), V, atol=1e-5 * V.max())
        arrays: Any = fit.model.arrays
        at = arrays.layout.at("log_phi")
        se = np.sqrt(np.asarray(single.estimates.covariance)[at, at]).item()
        assert batch.log_dispersion_se[lane] == pytest.approx(se, rel=1e-5)
        assert batch[lane].log_dispersion_se == batch.log_dispersion_se[lane]


@pytest.fixture(scope="module")
def kept(sleep_reml):
    Y = sleep_reml.simulate(5, key=1)
    Y = np.array(Y)
    Y[3] = 1.0  # nothing to fit
    return Y, mm.fit_many(sleep_reml, Y, keep=("df", "vcov"), progress=False)


def test_nothing_is_kept_unasked(sleep_reml, kept):
    Y, batch = kept
    plain = mm.fit_many(sleep_reml, Y, progress=False)
    assert set(batch.columns) - set(plain.columns) == {"df", "df_sigma", "fixef_cov"}
    for name, x in plain.columns.items():
        np.testing.assert_array_equal(x, batch.columns[name])
    with pytest.raises(AttributeError, match=r"there is no 'df': it was not asked for; fit_many\(..., keep='df'\)"):
        _ = plain.df
    with pytest.raises(AttributeError, match=r"keep='vcov'\) keeps it"):
        plain.vcov()
    with pytest.raises(AttributeError, match=r"keep='vcov'\) keeps it"):
        plain[0].vcov()
    with pytest.raises(AttributeError, match=r"keep='df'\) keeps it"):
        _ = plain[0].df


def test_what_is_kept_stands_everywhere(kept, tmp_path):
    _, batch = kept
    assert np.isnan(batch.df[3]).all() and np.isnan(batch.vcov(3)).all() and np.isfinite(batch.df[0]).all()
    assert batch.to_frame()["df_Days"].tolist()[0] == batch.df[0, 1]
    np.testing.assert_array_equal(batch[2].vcov(), batch.vcov()[2])
    assert batch[2].df["Days"] == batch.df[2, 1] and batch[2].df_sigma == batch.df_sigma[2]
    np.testing.assert_array_equal(batch.take([2, 0]).vcov(1), batch.vcov(0))
    joined = concatenate([batch.take(slice(3, 5)), batch.take(slice(0, 3))])
    batch.save(tmp_path / "a.parquet")
    for other in (joined, load(tmp_path / "a.parquet")):
        assert other.names == batch.names
        for name, x in batch.columns.items():
            np.testing.assert_array_equal(other.columns[name], x)


def test_with_other_libraries(kept):
    _, batch = kept
    xarray, anndata = pytest.importorskip("xarray"), pytest.importorskip("anndata")
    data = batch.to_xarray()
    assert isinstance(data, xarray.Dataset) and data["df"].dims == ("replicate", "coef")
    np.testing.assert_array_equal(data["fixef_cov"].sel(coef_pair="Days, (Intercept)"), batch.vcov()[:, 1, 0])
    assert data["df_sigma"].dims == ("replicate",)
    names = [f"gene{k}" for k in range(5)]
    named = replace(batch, labels=Labels.of("var", names))
    out = named.take([2, 0]).annotate(anndata.AnnData(np.zeros((180, 5)), var=pd.DataFrame(index=pd.Index(names))))
    np.testing.assert_array_equal(out.varm["fixef_cov"][2], batch.fixef_cov[2])
    assert np.isnan(out.varm["fixef_cov"][1]).all() and out.var["df_Days"].iloc[0] == batch.df[0, 1]


def test_a_folder_knows_what_was_kept(sleep_reml, kept, tmp_path):
    Y, batch = kept
    first = mm.fit_many(sleep_reml, Y, keep=("vcov", "df"), out=tmp_path / "a", progress=False)
    np.testing.assert_array_equal(first.df, batch.df)
    np.testing.assert_array_equal(load(tmp_path / "a").vcov(), batch.vcov())
    with pytest.raises(ValueError, match=r"another study:\n  keep: "):
        mm.fit_many(sleep_reml, Y, out=tmp_path / "a", progress=False)


def test_what_cannot_be_kept(sleep_reml, table):
    Y = np.zeros((1, 180))
    with pytest.raises(ValueError, match="keep must have names of 'vcov', 'df', 'dispersion_se', not 'ddf'"):
        mm.fit_many(sleep_reml, Y, keep=("vcov", "ddf"))
    with pytest.raises(ValueError, match="keep='dispersion_se' is for generalised models: keep='df' tells"):
        mm.fit_many(sleep_reml, Y, keep="dispersion_se")
    fit = mm.glmm("k ~ x + (1 | g)", table, "poisson")
    with pytest.raises(ValueError, match="keep='df' is for linear models"):
        mm.fit_many(fit, np.zeros((1, 120)), keep="df")
    with pytest.raises(ValueError, match="keep='dispersion_se' is for a φ that is one number; this model, of the poi"):
        mm.fit_many(fit, np.zeros((1, 120)), keep="dispersion_se")
