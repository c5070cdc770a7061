"""Structures of covariance: what each must satisfy, and one of a user's own."""

from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm import covariance
from jaxmm.covariance import STRUCTURES, Covariance
from jaxmm.covariance._base import fill

EVERY = [(name, q) for name in STRUCTURES for q in (1, 2, 4)]


@pytest.mark.parametrize(("name", "q"), EVERY)
def test_a_factor_and_back(name, q):
    structure = covariance.get(name, q)
    theta = np.random.default_rng(q).normal(size=structure.num_params)
    lam = structure.factor(theta)
    back = structure.factor(structure.from_factor(lam))
    np.testing.assert_allclose(back @ back.T, lam @ lam.T, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(jax.jit(structure.factor)(theta)), lam.astype(np.float32))
    np.testing.assert_array_equal(structure.free(), np.abs(lam @ lam.T) > 0)
    assert hash(structure) == hash(covariance.get(name, q)) and not np.any(structure.factor(0 * theta))


@dataclass(frozen=True)
class Apart(Covariance):
    """Three effects, the last independent of the others, as ``(1 + x | g) + (0 + z | g)`` has them."""

    name = "apart"
    cells = (np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]))

    @property
    def num_params(self):
        return 4

    def variance_rows(self):
        return [np.array([1, 2])]

    def factor(self, theta):
        return fill(3, self.cells, theta)

    def from_factor(self, lam, xp=np):
        D = lam @ lam.T
        a = xp.sqrt(D[0, 0])
        b = xp.where(a > 0, D[1, 0] / xp.where(a > 0, a, 1.0), 0.0)
        return xp.stack([a, b, xp.sqrt(xp.maximum(D[1, 1] - b**2, 0.0)), xp.sqrt(D[2, 2])])

    def from_lower(self, lam):
        return lam[self.cells]


@pytest.fixture(scope="module")
def two():
    """The same model with a structure of one's own, and with two terms."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(30), 12)
    Z = np.column_stack([np.ones(360), rng.normal(size=(360, 2))])
    b = rng.normal(size=(30, 3)) @ np.array([[1.0, 0.5, 0], [0, 0.6, 0], [0, 0, 0.4]])
    y = 1 + Z[:, 1] + np.sum(Z * b[g], axis=1) + rng.normal(size=360)
    effects = ("(Intercept)", "x", "z")
    own = [mm.Term(Z, g, "g", effects, Apart(3))]
    terms = [mm.Term(Z[:, :2], g, "g", effects[:2]), mm.Term(Z[:, 2:], g, "g", effects[2:])]
    return y, [mm.Model.from_arrays(y, Z[:, :2], of) for of in (own, terms)]


def test_a_structure_of_ones_own(two):
    _, models = two
    own, terms = (model.fit() for model in models)
    assert own.converged and own.deviance == pytest.approx(terms.deviance, abs=1e-8)
    for table in ("tidy", "varcorr"):
        a, b = (getattr(fit, table)() for fit in (own, terms))
        a, b = (x if table == "tidy" else x.to_frame() for x in (a, b))
        pd.testing.assert_frame_equal(a, b, rtol=1e-5)
    assert "apart" in repr(models[0])
    np.testing.assert_array_equal(own.varcorr().blocks[0].estimated, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


def test_a_structure_of_ones_own_in_a_batch(two):
    y, models = two
    fit = models[1].fit()
    Y = np.stack([y, *fit.simulate(5, key=jax.random.key(0))])
    own, terms = (mm.fit_many(model, Y, progress=False) for model in models)
    assert own.converged.all() and own.names.corr == terms.names.corr
    np.testing.assert_allclose(own.deviance, terms.deviance, atol=1e-7)
    np.testing.assert_allclose(own.varcorr_corr, terms.varcorr_corr, atol=1e-6)
    pd.testing.assert_frame_equal(own[0].varcorr().to_frame(), models[0].fit().varcorr().to_frame(), rtol=1e-4)


def test_what_is_no_structure():
    with pytest.raises(TypeError, match=r"instance of jaxmm\.covariance\.Covariance, not 3"):
        covariance.get(3, 2)  # pyright: ignore
    with pytest.raises(ValueError, match="for 3 effects, the term has 2"):
        covariance.get(Apart(3), 2)
