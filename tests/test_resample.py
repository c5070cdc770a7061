"""Resampling: modes reflated to a covariance, and the sources of resampled responses."""

import jax
import numpy as np
import pytest
import scipy.stats

from jaxmm.sources.resample import Case, LeaveOneOut, Residual, reflate
from jaxmm.sources.responses import Varying

KEY = jax.random.key(20)


# ---------------------------------------------------------------- reflation
@pytest.mark.parametrize("q", [1, 2, 3])
def test_reflated_modes_have_the_covariance(q):
    rng = np.random.default_rng(q)
    modes, root = rng.normal(size=(12, q)) @ rng.normal(size=(q, q)) + 3, rng.normal(size=(q, q))
    D = root @ root.T
    found = reflate(modes, D)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose(found.T @ found / 12, D, rtol=1e-12)
    centred = modes - modes.mean(axis=0)
    A = np.linalg.cholesky(D) @ np.linalg.inv(np.linalg.cholesky(centred.T @ centred / 12))  # of the paper
    np.testing.assert_allclose(found, centred @ A.T, rtol=1e-10)


@pytest.mark.parametrize(
    "L",
    [
        [[2.0, 0, 0], [1.0, 0, 0], [0.5, 0.3, 0]],
        [[0.0, 0, 0], [0.0, 1.5, 0], [0.0, 0.3, 1.0]],
        [[0.0, 0, 0], [3.0, 4.0, 0], [0.0, 0.0, 0]],
        [[1.0, 0, 0], [-2.0, 0, 0], [3.0, 0.0, 0]],
        [[0.0] * 3] * 3,
    ],
)
def test_reflation_to_a_singular_covariance(L):
    """The modes of a singular fit lie in the directions of D."""
    D = np.array(L) @ np.array(L).T
    modes = np.random.default_rng(1).normal(size=(30, 3)) @ D
    found = reflate(modes, D)
    np.testing.assert_allclose(found.T @ found / 30, D, atol=1e-12)


def test_reflation_needs_modes_that_vary():
    with pytest.raises(ValueError, match="2 levels do not vary in 2 directions"):
        reflate(np.random.default_rng(0).normal(size=(2, 2)), np.eye(2))
    with pytest.raises(ValueError, match="do not vary in 1 directions"):
        reflate(np.ones((5, 1)), np.eye(1))
    x = np.random.default_rng(0).normal(size=9)
    with pytest.raises(ValueError, match="do not vary in all directions"):
        reflate(np.column_stack([x, 2 * x]), np.eye(2))


# ---------------------------------------------------------------- sources
def test_residual_responses_have_the_moments_of_the_model(weighted):
    """The mean is Xβ + offset and the covariance ZDZ' + σ²/w, as exactly as can be seen in 20,000 of them."""
    d, n = weighted.model.design, 20_000
    y = np.asarray(Residual(weighted, n, KEY).block(0, n).y)
    V = np.diag(weighted.sigma**2 / d.weights)
    for f, factor in enumerate(d.factors):
        Z = np.hstack([t.Z for t in d.terms if t.factor == f])
        D = weighted.varcorr().cov[factor.name].to_numpy()
        V += (factor.codes[:, None] == factor.codes) * (Z @ D @ Z.T)
    e = y - (d.X @ weighted.fixef.to_numpy() + d.offset)
    assert np.max(np.abs(e.mean(axis=0)) / np.sqrt(np.diag(V) / n)) < 4.5
    square = np.einsum("ki,kj->ij", e, e) / n
    spread = np.sqrt(np.maximum(np.einsum("ki,kj->ij", e**2, e**2) / n - square**2, 0) / n)
    assert np.max(np.abs(square - V) / spread) < 5.5


def test_residuals_and_modes_are_reflated(weighted):
    source = Residual(weighted, 5, KEY)
    np.testing.assert_allclose(source.residuals.mean(), 0, atol=1e-14)
    np.testing.assert_allclose(source.residuals.std(), weighted.sigma)
    for factor, u in zip(weighted.model.design.factors, source.effects, strict=True):
        np.testing.assert_allclose(u.T @ u / len(u), weighted.varcorr().cov[factor.name], rtol=1e-10)


@pytest.mark.parametrize("make", [Residual, Case])
def test_a_replicate_depends_on_its_number_alone(sleep_reml, make):
    source = make(sleep_reml, 100, KEY)
    whole = [np.asarray(x) for x in source.block(0, 64) if x is not None]
    for first, size in ((0, 1), (3, 1), (5, 7), (10, 33), (1, 63)):
        part = [np.asarray(x) for x in make(sleep_reml, 9, KEY).block(first, size) if x is not None]
        for a, b in zip(part, whole, strict=True):
            assert a.dtype == np.float64
            np.testing.assert_array_equal(a, b[first : first + size])
    last = [np.asarray(x) for x in source.block(0, 2) if x is not None][-1]
    assert not np.array_equal(last[0], last[1])
    other = [np.asarray(x) for x in make(sleep_reml, 100, jax.random.key(21)).block(0, 1) if x is not None][-1]
    assert not np.array_equal(last[:1], other)


def test_identities_tell_sources_apart(sleep_reml, weighted):
    made = [make(fit, 9, jax.random.key(k)) for make in (Residual, Case) for fit in (sleep_reml,) for k in (0, 1)]
    made += [Residual(weighted, 9, jax.random.key(0)), LeaveOneOut(sleep_reml)]
    told = [str({k: v for k, v in s.identity().items() if k != "n"}) for s in made]
    assert len(set(told)) == len(told)
    assert made[0].identity() == Residual(sleep_reml, 9, jax.random.key(0)).identity()


def test_copies_are_multinomial(sleep_reml):
    n, J = 20_000, 18
    own = Case(sleep_reml, n, KEY).block(0, n)
    y, copies = own.y, np.asarray(own.copies)
    assert own.given() == Case.varies
    np.testing.assert_array_equal(y[7], sleep_reml.model.design.y)
    np.testing.assert_array_equal(copies.sum(axis=1), J)
    assert np.array_equal(copies, np.round(copies)) and copies.min() == 0
    cov = np.cov(copies, rowvar=False)
    np.testing.assert_allclose(copies.mean(axis=0), 1, atol=4.5 / np.sqrt(n))
    np.testing.assert_allclose(cov, np.eye(J) - 1 / J, atol=0.06)
    counts = np.bincount(copies.astype(int).ravel(), minlength=19)[:5] / copies.size
    np.testing.assert_allclose(counts, scipy.stats.binom.pmf(np.arange(5), J, 1 / J), atol=0.005)


def test_blocks_are_what_the_engine_takes(sleep_reml):
    block = LeaveOneOut(sleep_reml).block(3, 2)
    assert isinstance(block, Varying)
    np.testing.assert_array_equal(block.copies, 1 - np.eye(18)[3:5])
    assert block.y.shape == (2, 180)
