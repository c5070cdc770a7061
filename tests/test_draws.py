"""Replicates of a bootstrap in ArviZ's hands: the same numbers under the names of the parameters."""

import dataclasses
import sys
import types
import warnings

import jax
import numpy as np
import pytest
import xarray


@pytest.fixture(scope="module")
def boot(sleep_reml):
    boot = sleep_reml.bootstrap(60, key=jax.random.key(2), progress=False)
    status = boot.status.copy()
    status[3] = 4  # as one that did not converge
    return boot.with_columns(status=status)


@pytest.fixture(scope="module")
def arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return pytest.importorskip("arviz")


def test_the_draws_have_the_names_of_the_parameters(boot, arviz):
    data = boot.to_arviz()
    draws = data["posterior"]
    kept = np.delete(np.arange(60), 3)
    assert dict(draws.sizes) == {"chain": 1, "draw": 59, "coef": 2, "sd": 2, "corr": 1}
    np.testing.assert_array_equal(draws["fixef"].sel(coef="Days")[0], boot.fixef[kept, 1])
    np.testing.assert_array_equal(draws["varcorr_sd"].sel(sd="Days|Subject")[0], boot.varcorr_sd[kept, 1])
    np.testing.assert_array_equal(draws["sigma"][0], boot.sigma[kept])
    assert "dispersion" not in draws and list(draws["draw"].to_numpy()) == kept.tolist()
    assert draws.attrs["failed"] == 1 and "not from a posterior" in draws.attrs["sampling"]
    np.testing.assert_array_equal(data["observed_data"]["Reaction"], boot.fit.model.design.y)


def test_arviz_summarises_them(boot, arviz):
    table = arviz.summary(boot.to_arviz(), kind="stats", round_to="none")
    np.testing.assert_allclose(table.loc["fixef[Days]", "mean"], boot.statistics["Days"].mean())
    np.testing.assert_allclose(table.loc["fixef[Days]", "sd"], boot.se["Days"])


def test_a_statistic_of_one_s_own(boot, arviz):
    own = dataclasses.replace(boot, statistic=lambda f: f.fixef["Days"] / f.sigma)
    draws = own.to_arviz()["posterior"]["statistic"]
    assert draws.dims == ("chain", "draw", "name")
    np.testing.assert_allclose(draws[0, :, 0], own.statistics.dropna().iloc[:, 0])


def test_a_newer_arviz_takes_a_tree(boot, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", types.ModuleType("arviz"))
    tree = boot.to_arviz()
    assert isinstance(tree, xarray.DataTree)
    np.testing.assert_array_equal(tree["posterior"]["fixef"].sel(coef="Days")[0, 0], boot.fixef[0, 1])


def test_arviz_is_asked_for(boot, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxmm\[arviz\]'"):
        boot.to_arviz()
