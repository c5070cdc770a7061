"""The solver against matrices written out: elimination = dense, the spd functions and their derivatives = plain
formulas, block_matmul = einsum."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, model, points, quick_jit, replanned
from problems import PROBLEMS

from jaxmm.objective.parameters import scaled_factors
from jaxmm.solver import reduce, spd
from jaxmm.solver.block_matmul import block_matmul

pytestmark = pytest.mark.usefixtures("x64")


# ---------------------------------------------------------------- elimination
@quick_jit
def eliminated(theta, arrays):
    return reduce(scaled_factors(theta, arrays), arrays)


@partial(quick_jit, static_argnums=3)
def densely(lams, Z, codes, levels, Xy, weights):
    """V = W^-1 + ΣZΛΛ'Z' is formed and factored, n by n."""
    V = jnp.diag(1 / weights)
    for lam, Zf, cf, J in zip(lams, Z, codes, levels, strict=True):
        own = (Zf @ lam)[:, None, :] * (cf[:, None] == jnp.arange(J))[:, :, None]
        V = V + jnp.einsum("nja,mja->nm", own, own)
    L = jnp.linalg.cholesky(V)
    U = jnp.linalg.solve(L, Xy)
    return 2 * jnp.sum(jnp.log(jnp.diagonal(L))) + jnp.sum(jnp.log(weights)), U.T @ U


def written_out(theta, m):
    """The same from the rows, in the columns in which the model works."""
    rows, groups = m.accumulator, m.accumulator.groupings
    everything = slice(None)
    y = m.design.y if m.design.offset is None else m.design.y - m.design.offset
    Xy = np.column_stack([rows.X.rows(everything), rows.least_squares(y)[1]])
    weights = np.ones(len(y)) if rows.weights is None else rows.weights
    Z = [rows.z(position, everything) for position in range(len(groups))]
    lams = scaled_factors(theta, m.arrays)
    return densely(lams, Z, [g.codes for g in groups], tuple(g.levels for g in groups), Xy, weights)


def assert_same_reduction(theta, m, arrays):
    logdet, C = eliminated(theta, arrays)
    expected_logdet, expected = written_out(theta, m)
    close(logdet, expected_logdet)
    size = np.sqrt(np.diag(expected))  # each element of C* beside the norms of its two columns
    np.testing.assert_allclose(C / np.outer(size, size), expected / np.outer(size, size), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_elimination_is_dense(name):
    m = model(name)
    for theta in (*points(m), 30.0 * points(m)[0]):
        assert_same_reduction(theta, m, m.arrays)


def test_the_sparse_coupling_is_the_dense_border():
    name = "chain and two crossed, cells"
    cells, border = model(name), replanned(model(name), sparse=False)
    assert cells.arrays.couplings.cells is not None and border.arrays.couplings.cells is None
    theta = points(cells)[0]
    for a, b in zip(eliminated(theta, cells.arrays), eliminated(theta, border.arrays), strict=True):
        close(a, b, 1e-12)


# ---------------------------------------------------------------- symmetric positive definite systems
def blocks_of(M):
    """(q, q, J) -> (J, q, q), where jnp.linalg works level by level."""
    return jnp.moveaxis(M, -1, 0)


def plain(name, alg, M, *R):
    """The formula through jnp.linalg."""
    if alg is spd.BLOCKS:
        M, *R = (blocks_of(x) for x in (M, *R))
    else:
        M, *R = (x[None] for x in (M, *R))
    value = {
        "inverse": lambda: jnp.linalg.inv(M),
        "logdet": lambda: jnp.sum(jnp.linalg.slogdet(M)[1]),
        "solve": lambda: jnp.linalg.solve(M, R[0]),
        "quad": lambda: jnp.sum(jnp.swapaxes(R[0], 1, 2) @ jnp.linalg.solve(M, R[0]), axis=0),
        "product": lambda: jnp.swapaxes(R[0], 1, 2) @ jnp.linalg.solve(M, R[-1]),
    }[name]()
    if name in ("logdet", "quad"):
        return value
    return jnp.moveaxis(value, 0, -1) if alg is spd.BLOCKS else value[0]


def a_curve(alg, q, columns, seed=0):
    """t -> M(t), R(t), S(t): smooth, M positive definite near 0."""
    rng = np.random.default_rng(seed)
    levels = (5,) if alg is spd.BLOCKS else ()
    root = rng.normal(size=(q, q, *levels))
    M0 = np.einsum("ij...,kj...->ik...", root, root) + np.eye(q).reshape(q, q, *(1 for _ in levels))
    dM = 0.1 * rng.normal(size=M0.shape)
    dM = dM + np.swapaxes(dM, 0, 1)
    R0, dR, S0, dS = rng.normal(size=(4, q, columns, *levels))
    return lambda t: (M0 + t * dM, R0 + jnp.sin(t) * dR, S0 + t**2 * dS)


def sides(name, M, R, S):
    return {"inverse": (), "logdet": (), "solve": (R,), "quad": (R,), "product": (R, S)}[name]


@pytest.mark.parametrize("alg", [spd.BLOCKS, spd.DENSE], ids=lambda a: a.name)
@pytest.mark.parametrize("name", ["inverse", "logdet", "solve", "quad", "product"])
def test_spd_functions_and_two_derivatives(name, alg):
    curve = a_curve(alg, 3, 2)
    Linv = alg.factor(curve(0.1)[0])

    def ours(t):
        M, R, S = curve(t)
        return jnp.sum(jnp.cos(getattr(spd, name)(alg, M, Linv, *sides(name, M, R, S))))

    def theirs(t):
        M, R, S = curve(t)
        return jnp.sum(jnp.cos(plain(name, alg, M, *sides(name, M, R, S))))

    def ladder(f):
        return quick_jit(lambda t: (f(t), jax.grad(f)(t), jax.jacfwd(jax.grad(f))(t)))(0.1)

    for a, b in zip(ladder(ours), ladder(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("alg", [spd.BLOCKS, spd.DENSE], ids=lambda a: a.name)
def test_spd_functions_are_told_which_arguments_vary(alg):
    """A derivative by one argument alone, with the others constant: symbolic zeros."""
    M, R, S = a_curve(alg, 3, 2)(0.1)
    Linv = alg.factor(M)
    for name in ("solve", "quad", "product"):
        right = sides(name, M, R, S)
        for k in range(len(right)):

            def ours(x, k=k, name=name, right=right):
                return jnp.sum(getattr(spd, name)(alg, M, Linv, *right[:k], x, *right[k + 1 :]) ** 2)

            def theirs(x, k=k, name=name, right=right):
                return jnp.sum(plain(name, alg, M, *right[:k], x, *right[k + 1 :]) ** 2)

            close(quick_jit(jax.grad(ours))(right[k]), quick_jit(jax.grad(theirs))(right[k]))


@pytest.mark.parametrize("q", [1, 2, 6, 7])
def test_inverse_root_of_blocks(q):
    M = np.asarray(a_curve(spd.BLOCKS, q, 1)(0.0)[0])
    Linv = blocks_of(quick_jit(spd.BLOCKS.inverse_root)(M))
    close(Linv, np.linalg.inv(np.linalg.cholesky(blocks_of(M))))


@pytest.mark.parametrize("n", [4, 400])  # one block; halves of halves
def test_inverse_root_of_a_dense_matrix(n):
    M = np.asarray(a_curve(spd.DENSE, n, 1)(0.0)[0])
    Linv, inverse = quick_jit(lambda M: (root := spd.DENSE.inverse_root(M), spd.DENSE.gram(root)))(M)
    close(Linv, np.linalg.inv(np.linalg.cholesky(M)))
    close(inverse, np.linalg.inv(M))


# ---------------------------------------------------------------- block_matmul
def einsum(A, B):
    return jnp.einsum("ik...,kj...->ij...", A, B)


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 3, 7)), rng.normal(size=(3, 4, 7)), rng.normal(size=(2, 4, 7))


def test_block_matmul_value_and_derivatives(factors):
    A, B, ct = factors
    close(block_matmul(A, B), einsum(A, B), 1e-14)
    for ours, theirs in zip(
        jax.jvp(block_matmul, (A, B), (2 * A, B + 1)), jax.jvp(einsum, (A, B), (2 * A, B + 1)), strict=True
    ):
        close(ours, theirs, 1e-14)
    for ours, theirs in zip(jax.vjp(block_matmul, A, B)[1](ct), jax.vjp(einsum, A, B)[1](ct), strict=True):
        close(ours, theirs, 1e-14)


@pytest.mark.parametrize("lanes", [(), (1,), (2, 3)])
def test_block_matmul_of_few_large_blocks(lanes):
    """Which are multiplied as matrices; so is the root of the only one."""
    rng = np.random.default_rng(1)
    A, B = rng.normal(size=(13, 14, *lanes)), rng.normal(size=(14, 15, *lanes))
    close(block_matmul(A, B), einsum(A, B), 1e-13)
    close(jax.jvp(block_matmul, (A, B), (2 * A, B))[1], 3 * einsum(A, B), 1e-13)
    M = np.cov(rng.normal(size=(100, 300)))
    L = np.asarray(spd.BLOCKS.factor(jnp.asarray(M)[:, :, None]))[:, :, 0]
    close(L @ M @ L.T, np.eye(100), 1e-10)
    assert not np.any(np.triu(L, 1))


def test_block_matmul_second_derivative(factors):
    A, B, ct = factors

    def bilinear(f):
        return lambda A, B: jnp.sum(ct * f(A, B) ** 2)

    second = [quick_jit(jax.jacfwd(jax.grad(bilinear(f)), argnums=1)) for f in (block_matmul, einsum)]
    close(second[0](A, B), second[1](A, B), 1e-13)


@pytest.mark.parametrize("axes", [(0, None), (None, 2), (3, 0)])
def test_block_matmul_vmap(factors, axes):
    A, B, _ = factors
    A, B = (x if a is None else np.stack([x, 2 * x, -x], axis=a) for x, a in zip((A, B), axes, strict=True))
    close(jax.vmap(block_matmul, axes)(A, B), jax.vmap(einsum, axes)(A, B), 1e-14)


def test_a_long_inner_axis_is_not_unrolled():
    """The derivative by lam of a dense border: its programs took a minute to compile."""
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(2, 300, 5)), rng.normal(size=(300, 2, 5))
    close(block_matmul(A, B), einsum(A, B), 1e-13)
    assert len(jax.jit(block_matmul).lower(A, B).as_text().splitlines()) < 30


def test_block_matmul_keeps_the_dtype_and_refuses_mixtures(factors):
    A, B, _ = factors
    single = jax.eval_shape(block_matmul, A.astype(np.float32), B.astype(np.float32))
    assert single.dtype == np.float32 and single.shape == (2, 4, 7)
    for other in (B.astype(np.float32), B[:2], B[..., :3]):
        with pytest.raises(TypeError, match="block_matmul of"):
            jax.eval_shape(block_matmul, A, other)
