"""The closed forms of a batch against the derivatives of the single fit, and the search against its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import model_of, quick_jit
from problems import PROBLEMS
from scipy import stats

import jaxmm as mm
from jaxmm.batch.setup import make_problem
from jaxmm.covariance._base import gram_schmidt
from jaxmm.estimate import derivatives
from jaxmm.lanes import advance as lanes
from jaxmm.lanes.closed_form import block_data, can_have_blocks, evaluate, make_blocks
from jaxmm.lanes.statistics import response_map, statistics
from jaxmm.optimize.region import newton_step
from jaxmm.sources.direct import draw_statistics
from jaxmm.sources.responses import Varying

ONE_FACTOR = [name for name, p in PROBLEMS.items() if not p.rest and len(p.chain) == 1]


def balanced(q: int, levels: int = 12, rows: int = 6) -> mm.Model:
    """Every level with the same rows: one pattern; a second covariate differs between levels."""
    rng = np.random.default_rng(q)
    codes = np.repeat(np.arange(levels), rows)
    x = np.tile(rng.normal(size=rows), levels)
    X = np.column_stack([np.ones(len(x)), x, rng.normal(size=levels)[codes]])
    Z = np.column_stack([x**k for k in range(q)])
    return mm.Model.from_arrays(rng.normal(size=len(x)), X, [mm.Term(Z, codes, "g")])


def compare(model: mm.Model, collapse: bool) -> int:
    """Value, gradient and Hessian of three lanes with those of single fits; the number of levels after the collapse."""
    rng = np.random.default_rng(1)
    Y = np.stack([model.design.y + k * rng.normal(size=len(model.design.y)) for k in range(3)])
    with jax.enable_x64(True):
        arrays = model.arrays
        shared = make_blocks(arrays, collapse)
        data = block_data(statistics(jnp.asarray(Y.T), response_map(model.accumulator, model.design.offset)), shared)
        theta = jnp.asarray(rng.normal(size=(model.structure.num_theta, 3)))
        found = quick_jit(lambda *x: evaluate(*x, arrays, shared.cells))(theta, data, shared.systems(arrays))
        for k in range(3):
            value, g, H, _ = derivatives(theta[:, k], model.with_response(Y[k]).arrays, False)
            assert float(found.value[k]) == pytest.approx(float(value), abs=1e-9)
            scale = 1 + float(jnp.max(jnp.abs(H)))
            np.testing.assert_allclose(found.gradient[:, k], g, atol=1e-10 * scale)
            np.testing.assert_allclose(found.hessian[:, :, k], H, atol=1e-10 * scale)
    return shared.K.shape[-1]


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("name", ONE_FACTOR)
def test_closed_form_derivatives(name, reml):
    model = model_of(PROBLEMS[name], reml=reml)
    if not can_have_blocks(model.structure):
        pytest.skip("too many effects for the closed form")
    compare(model, False)


@pytest.mark.parametrize("q", [1, 2, 3])
def test_a_pattern_costs_few_levels(q):
    """At most pq + what differs between levels, instead of twelve."""
    assert compare(balanced(q), True) <= 2
    assert compare(balanced(q), False) == 12


def test_some_levels_alike_and_some_not():
    """Two patterns, one of a single level, and levels whose Z has not full rank."""
    rng = np.random.default_rng(4)
    codes = np.concatenate([np.repeat(np.arange(8), 4), np.repeat([8, 9, 10], 1), np.repeat([11], 7)])
    x = np.concatenate([np.tile(rng.normal(size=4), 8), np.full(3, 0.3), rng.normal(size=7)])
    X = np.column_stack([np.ones(len(x)), x])
    model = mm.Model.from_arrays(rng.normal(size=len(x)), X, [mm.Term(X, codes, "g")])
    assert compare(model, True) < 12


# ---------------------------------------------------------------- small matrices, lanes last
@pytest.mark.parametrize("m", [1, 2, 3, 5, 6, 9])
def test_eigenvalues_by_rotations(m):
    rng = np.random.default_rng(m)
    A = rng.normal(size=(m, m, 40))
    A = (A + np.swapaxes(A, 0, 1)) * 10.0 ** rng.uniform(-3, 3, 40)
    A[:, :, 0], A[:, :, 1] = np.eye(m), 0.0
    with jax.enable_x64(True):
        w, Q = map(np.asarray, quick_jit(lanes.eigh)(jnp.asarray(A)))
    scale = 1e-300 + np.abs(A).max(axis=(0, 1))
    np.testing.assert_allclose(w / scale, np.linalg.eigvalsh(np.moveaxis(A, -1, 0)).T / scale, atol=1e-13)
    np.testing.assert_allclose(np.einsum("abl,bcl->acl", A, Q) / scale, Q * w / scale, atol=1e-12)
    np.testing.assert_allclose(np.einsum("abl,acl->bcl", Q, Q), np.eye(m)[:, :, None] + np.zeros(40), atol=1e-12)


def test_the_step_is_that_of_a_single_search():
    rng = np.random.default_rng(2)
    H = rng.normal(size=(3, 3, 20))
    H, g, radius = H + np.swapaxes(H, 0, 1), rng.normal(size=(3, 20)), rng.uniform(0.1, 3, 20)
    with jax.enable_x64(True):
        step = quick_jit(lambda g, H, radius: newton_step(jnp, g, lanes.eigh(H), radius))
        many = jax.tree.map(np.asarray, step(*map(jnp.asarray, (g, H, radius))))
    for k in range(20):
        one = newton_step(np, g[:, k], np.linalg.eigh(H[:, :, k]), radius[k])
        np.testing.assert_allclose(many.move[:, k], one.move, atol=1e-9)
        assert float(many.decrement[k]) == pytest.approx(one.decrement, rel=1e-10)
        assert float(many.predicted[k]) == pytest.approx(one.predicted, rel=1e-8)


def test_gram_schmidt_of_a_singular_matrix():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(3, 3, 5))
    A[:, 2, 0] = A[:, 1, 0]
    A[:, :, 1] = 0.0
    with jax.enable_x64(True):
        L = np.asarray(gram_schmidt(jnp.asarray(A)))
    np.testing.assert_allclose(np.einsum("abl,cbl->acl", L, L), np.einsum("abl,cbl->acl", A, A), atol=1e-12)
    assert np.all(L[np.triu_indices(3, 1)] == 0) and np.all(np.diagonal(L) >= 0)
    assert L[2, 2, 0] < 1e-12 and np.all(L[:, :, 1] == 0)


# ---------------------------------------------------------------- statistics drawn directly
TRUTH = {"fixef": [1.0, -0.5, 0.3], "sd": {"g": [0.8, 0.4]}, "corr": {"g": -0.3}, "sigma": 0.7}


@pytest.mark.parametrize("collapse", [True, False])
def test_statistics_drawn_directly_have_the_distribution_of_the_plain_ones(collapse):
    """The same means and covariances as of responses that were drawn, and the same law of the sums of squares."""
    model, n = balanced(2), 20_000
    direct = mm.DirectlySimulated(model, TRUTH, n, jax.random.key(7))
    plain = mm.Simulated(model, TRUTH, n, jax.random.key(8))
    with jax.enable_x64(True):
        problem = make_problem(model, None, collapse, frozenset({"y"}))
        shared = problem.blocks
        drawn = draw_statistics(direct.words(0, n), direct.parameters(), shared)
        made = block_data(statistics(jnp.asarray(plain.block(0, n).y).T, problem.by), shared)
        # both as to the true coefficients
        d = made.beta0 - direct.parameters()[0][:, None]
        b = made.b + jnp.einsum("apr,pl->arl", shared.B, d)
        xy = made.xy + shared.within @ d
        yy = made.yy + 2 * jnp.sum(made.xy * d, axis=0) + jnp.einsum("pl,pk,kl->l", d, shared.within, d)
        columns = [np.concatenate([np.asarray(x.b if hasattr(x, "b") else x).reshape(-1, n)]) for x in (drawn.b, b)]
        more = [(drawn.xy, drawn.yy, drawn.rest), (xy, yy, made.rest)]
    one, two = (
        np.vstack(
            [c, np.asarray(m[0]), np.asarray(m[1])[None]] + ([] if m[2] is None else [np.asarray(m[2]).reshape(-1, n)])
        )
        for c, m in zip(columns, more, strict=True)
    )
    moving = two.std(axis=1) > 1e-9
    assert np.array_equal(moving, one.std(axis=1) > 1e-9)
    one, two = one[moving], two[moving]
    error = two.std(axis=1) * np.sqrt(2 / n)
    assert np.all(np.abs(one.mean(axis=1) - two.mean(axis=1)) < 5 * error)
    spread = np.sqrt(np.outer(two.var(axis=1), two.var(axis=1)))
    assert np.all(np.abs(np.cov(one) - np.cov(two)) < 6 * spread * np.sqrt(4 / n))
    for x, y in zip(one, two, strict=True):
        assert stats.ks_2samp(x, y).pvalue > 1e-5


def test_fits_of_directly_drawn_statistics():
    model = balanced(2)
    found = [
        mm.fit_many(model, source(model, TRUTH, 4000, jax.random.key(3)), progress=False)
        for source in (mm.DirectlySimulated, mm.Simulated)
    ]
    assert all(f.converged.all() for f in found)
    for name in ("fixef", "bse", "sigma", "varcorr_sd", "loglik"):
        x, y = (getattr(f, name).reshape(4000, -1) for f in found)
        for j in range(x.shape[1]):
            assert stats.ks_2samp(x[:, j], y[:, j]).pvalue > 1e-5, name


def test_what_cannot_be_drawn_directly():
    data = {"y": np.arange(20) % 3, "g": np.arange(20) % 5}
    poisson = mm.Model.from_formula("y ~ 1 + (1 | g)", data, "poisson")
    with pytest.raises(ValueError, match=r"one grouping factor.*use Simulated"):
        mm.DirectlySimulated(poisson, {"fixef": 0.1, "sd": 0.5}, 10, jax.random.key(0))
    other = mm.DirectlySimulated(balanced(2, levels=10), TRUTH, 10, jax.random.key(0))
    with pytest.raises(ValueError, match="drawn for another design"):
        mm.fit_many(balanced(2), other, progress=False)


# ---------------------------------------------------------------- crossed levels that are alike
@pytest.mark.parametrize("reml", [False, True])
def test_subjects_who_see_the_same_items_are_replaced_by_a_few(reml):
    """The same value and gradient from fewer levels, also where some subjects are unlike the others."""
    rng = np.random.default_rng(9)
    s, i = (a.ravel() for a in np.meshgrid(np.arange(14), np.arange(6), indexing="ij"))
    keep = ~((s == 3) & (i > 2))
    s, i = s[keep], i[keep]
    c = np.where((s + i) % 2 == 0, 0.5, -0.5)
    X = np.column_stack([np.ones(len(c)), c])
    terms = [mm.Term(X, s, "s"), mm.Term(X, i, "i")]
    model = mm.Model.from_arrays(rng.normal(size=len(c)), X, terms, reml=reml)
    with jax.enable_x64(True):
        collapsed, plain = (make_problem(model, None, collapse, frozenset({"y"})) for collapse in (True, False))
        assert collapsed.alike is not None and plain.alike is None
        assert collapsed.searched.couplings.blocks[0].shape[-1] == 1 + 2 * 3
        Y = jnp.asarray(rng.normal(size=(len(c), 4)))
        start = plain.start(plain.data(Varying(Y)))
        np.testing.assert_allclose(collapsed.start(collapsed.data(Varying(Y))), start, rtol=1e-10)
        theta = jnp.asarray(rng.normal(size=start.shape))
        one, two = (
            quick_jit(lambda t, y, p=p: p.evaluate(t, p.data(Varying(y)), None))(theta, Y) for p in (collapsed, plain)
        )
        np.testing.assert_allclose(one.value, two.value, atol=1e-10)
        np.testing.assert_allclose(one.gradient, two.gradient, atol=1e-9)
        np.testing.assert_allclose(one.kept[0], two.kept[0], atol=1e-10)


def test_a_search_along_a_ridge():
    """One variance is zero: D hardly depends on how the rows of the other effects are turned, the search follows."""
    model = balanced(2)
    found = mm.fit_many(model, mm.DirectlySimulated(model, TRUTH, 4000, jax.random.key(3)), progress=False)
    assert found.converged.all() and found.iterations.max() < 60
