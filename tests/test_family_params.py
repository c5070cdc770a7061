"""A family of one's own with two dispersion parameters: the second has a name, in a fit and in a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.scipy.special import gammaln

import jaxmm as mm


class StudentT(mm.families.Family):
    """y = mu + sqrt(phi[0]) t, t of phi[1] degrees of freedom."""

    name = "student_t"
    links = ("identity",)
    support = "any numbers"
    num_phi = 2
    phi_names = ("nu",)

    def log_density(self, y, eta, phi):
        scale, nu = phi[0], phi[1]
        constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * jnp.log(jnp.pi * nu * scale)
        return constant - 0.5 * (nu + 1) * jnp.log1p((y - eta) ** 2 / (nu * scale))

    def variance(self, mu, phi, trials=1.0):
        return jnp.ones_like(mu) * phi[0] * phi[1] / jnp.maximum(phi[1] - 2, 0.1)  # a search may begin below 2

    def sample(self, key, mu, phi, trials=1.0):
        return mu + jnp.sqrt(phi[0]) * jax.random.t(key, phi[1], mu.shape, mu.dtype)


class Unnamed(StudentT):
    phi_names = ()


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(40), 25), rng.normal(size=1000)
    y = 1 + 0.5 * x + rng.normal(size=40)[g] + 0.5 * rng.standard_t(4, size=1000)
    return pd.DataFrame({"g": g, "x": x, "y": y})


@pytest.fixture(scope="module")
def fit(table):
    return mm.glmm("y ~ x + (1 | g)", table, StudentT())


def test_a_fit_has_both(fit):
    phi = np.exp(fit.estimates.log_phi)  # two numbers at once: the last digit may differ from that of one
    assert fit.converged and fit.dispersion == pytest.approx(phi[0], rel=1e-14)
    assert fit.family_params == {"nu": pytest.approx(phi[1], rel=1e-14)}
    assert abs(np.log(phi[1] / 4)) < 0.5 and fit.df == 5
    assert f"Dispersion of student_t: {phi[0]:.4g}; nu of student_t: {phi[1]:.4g}" in str(fit.summary())
    assert fit.glance()["nu"].item() == pytest.approx(phi[1], rel=1e-14)
    tidy = fit.tidy().set_index("term")
    assert (tidy.loc["phi", "estimate"], tidy.loc["nu", "estimate"]) == pytest.approx(tuple(phi), rel=1e-14)


def test_residuals_and_simulation_take_both(fit):
    phi = np.exp(fit.estimates.log_phi)
    pearson = fit.residuals("response") / np.sqrt(phi[0] * phi[1] / (phi[1] - 2))
    pd.testing.assert_series_equal(fit.residuals("pearson"), pearson)
    wide = (phi[1] + 1) * np.log1p(fit.residuals("response") ** 2 / (phi[0] * phi[1]))
    np.testing.assert_allclose(fit.residuals("deviance") ** 2, wide, rtol=1e-6, atol=1e-9)
    drawn = fit.simulate(2000, key=jax.random.key(1), re="conditional") - fit.fitted().to_numpy()
    inner = [
        np.mean(np.abs(x) < np.sqrt(phi[0]))
        for x in (drawn, np.sqrt(phi[0]) * np.random.default_rng(0).standard_t(phi[1], 10**6))
    ]
    assert abs(inner[0] - inner[1]) < 3e-3


def test_a_batch_has_both(fit, table, tmp_path):
    batch = mm.fit_many(fit.model, np.stack([table["y"], np.full(1000, np.nan)]), progress=False)
    assert batch.family_params.shape == (2, 1) and np.isnan(batch.family_params[1, 0])
    assert batch[0].family_params == pytest.approx(fit.family_params, rel=1e-6)
    assert batch[0].dispersion == pytest.approx(fit.dispersion, rel=1e-6)
    assert batch.to_frame()["nu"][0] == batch.family_params[0, 0] == batch.summary().loc["nu", "mean"]
    batch.save(tmp_path / "a")
    np.testing.assert_array_equal(mm.load(tmp_path / "a").family_params, batch.family_params)


def test_a_bootstrap_has_both(fit):
    boot = mm.bootstrap(fit, 3, key=jax.random.key(0), kind="case", progress=False)
    assert boot.observed["nu"] == fit.family_params["nu"]
    np.testing.assert_array_equal(boot.statistics["nu"], boot.family_params[:, 0])


def test_names_by_default_and_their_number():
    assert Unnamed().further_names == ("phi2",) and mm.families.get("gamma").further_names == ()
    with pytest.raises(ValueError, match=r"num_phi = 2 and phi_names = \('a', 'b'\): phi_names is a tuple of 1 name,"):
        type("Wrong", (StudentT,), {"phi_names": ("a", "b")})()


def test_nothing_further_in_other_families(sleep_reml):
    assert sleep_reml.family_params == {} and "of gaussian" not in str(sleep_reml)
