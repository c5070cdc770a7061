"""Rows by level: sums, their transposes, cross-products and solves, beside dense matrices of every structure."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, quick_jit, replanned
from problems import PROBLEMS, Problem, labels, uneven
from scipy.linalg import block_diag

import jaxmm as mm
from jaxmm._pieces import pick
from jaxmm.rows import pieces_of
from jaxmm.solver import factorise, solve
from jaxmm.solver.couplings import of_rows

pytestmark = pytest.mark.usefixtures("x64")


# ---------------------------------------------------------------- more structures: sizes of levels, three effects
def _sizes(name: str, sizes, q: int, seed: int) -> Problem:
    """One factor whose levels have so many rows, in no order."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(codes)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    return Problem(name, np.zeros(n), X, (mm.Term(X[:, :q], labels(rng, codes), "g"),), ("g",))


def _three_crossed(sparse: bool, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    n = 60
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    a, b, c = (labels(rng, uneven(rng, J, n)) for J in (9, 5, 4))
    terms = (mm.Term(X[:, :1], a, "a"), mm.Term(X, b, "b"), mm.Term(X, c, "c"))
    return Problem(f"three crossed, {sparse}", np.zeros(n), X, terms, ("a",), ("b", "c"), sparse)


SKEWED = "one level has most rows"
_MORE = (
    _sizes("levels of one row", [1] * 12, 1, seed=21),
    _sizes("three effects", [1, 2, 9, 4, 6], 3, seed=22),
    _sizes(SKEWED, [40] + [1] * 79, 2, seed=23),
    _sizes("pieces of several rows", [700, 3, 90, 1, 1, 25, 500, 200], 2, seed=24),
    _three_crossed(True, seed=25),
    _three_crossed(False, seed=25),
)
ALL = PROBLEMS | {p.name: p for p in _MORE}


# ---------------------------------------------------------------- the rows of a problem, and the same densely
@cache
def made(name: str, **plan):
    """Model and Rows; the response is the number of the row, to say where each one went."""
    p = ALL[name]
    with jax.enable_x64(True):
        y = np.arange(len(p.y), dtype=float)
        model = mm.Model.from_arrays(y, p.X, p.terms, "poisson")
        changes = plan or ({} if p.sparse is None else {"sparse": p.sparse})
        model = replanned(model, **changes) if changes else model
        return model, model.arrays


def places(rows) -> tuple[np.ndarray, np.ndarray]:
    """Which row is at each place, and whether it is one or fills a piece."""
    return np.asarray(rows.y).astype(int), np.asarray(rows.weights) > 0


def placed(rows, x: np.ndarray):
    """Values (.., n) of the data's rows at their places, and nonsense in what fills the pieces, of weight zero."""
    at, real = places(rows)
    return np.where(real, x[..., at], 7.0)


def dense_parts(model) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """(columns of Z_s (n, q), codes, levels) of each factor in elimination order."""
    d, out = model.design, []
    for f, T in zip(model.elimination.order, model.arrays.T, strict=True):
        Z = np.hstack([t.Z for t in d.terms if t.factor == f]) @ np.asarray(T)
        out.append((Z, d.factors[f].codes, len(d.factors[f].levels)))
    return out


def dense_design(model) -> np.ndarray:
    """Z_s (n, Q), factor by factor, level by level."""
    blocks = []
    for Z, codes, levels in dense_parts(model):
        block = np.zeros((len(Z), levels, Z.shape[1]))
        block[np.arange(len(Z)), codes] = Z
        blocks.append(block.reshape(len(Z), -1))
    return np.hstack(blocks)


def flat(parts) -> np.ndarray:
    """(q, J) per factor -> (Q,)."""
    return np.concatenate([np.asarray(x).T.ravel() for x in parts])


def split(model, x: np.ndarray) -> list[np.ndarray]:
    """(Q,) -> (q, J) per factor."""
    out, at = [], 0
    for Z, _, levels in dense_parts(model):
        size = levels * Z.shape[1]
        out.append(x[at : at + size].reshape(levels, -1).T)
        at += size
    return out


def lams_of(model, rng) -> tuple[np.ndarray, ...]:
    return tuple(np.tril(rng.normal(size=(Z.shape[1],) * 2)) for Z, _, _ in dense_parts(model))


def dense_lambda(model, lams) -> np.ndarray:
    """Λ (Q, Q)."""
    parts = dense_parts(model)
    return block_diag(*(np.kron(np.eye(levels), lam) for lam, (_, _, levels) in zip(lams, parts, strict=True)))


# ---------------------------------------------------------------- collect, spread, effects, pull
@quick_jit
def _linear_maps(rows, x, b):
    """Every map at once, and its transpose by autodiff; x (2, rows), b (q, J) per factor."""
    factors = range(len(rows.Z))

    def maps(x, b):
        collected = [rows.collect(f, x) for f in factors]
        return collected, [rows.spread(f, v) for f, v in enumerate(b)], rows.effects(b)[0], rows.pull((x[0],))

    out, back = jax.vjp(maps, x, b)
    _, along = jax.jvp(maps, (x, b), (x, b))
    return out, along, back(out)


@pytest.mark.parametrize("name", ALL)
def test_sums_by_level(name):
    """Against bincount and indexing; linear, so the same as their derivatives; and each the transpose of the other."""
    model, rows = made(name)
    rng = np.random.default_rng(0)
    at, real = places(rows)
    assert sorted(at[real]) == list(range(len(ALL[name].y)))  # each row has one place
    x = rng.normal(size=(2, len(ALL[name].y)))
    parts, Z = dense_parts(model), dense_design(model)
    b = tuple(rng.normal(size=(z.shape[1], levels)) for z, _, levels in parts)
    there = placed(rows, x) * real
    (collected, spread, effects, pull), along, (x_back, b_back) = _linear_maps(rows, there, b)
    for f, (_, codes, levels) in enumerate(parts):
        close(collected[f], [np.bincount(codes, v, levels) for v in x], 1e-13)
        np.testing.assert_array_equal(np.asarray(spread[f])[..., real], b[f][:, codes][:, at[real]])
    close(np.asarray(effects)[real], (Z @ flat(b))[at[real]], 1e-12)
    close(flat(pull), Z.T @ x[0], 1e-12)
    jax.tree.map(lambda a, b: close(b, a, 1e-13), (collected, spread, effects, pull), tuple(along))
    # |A v|^2 = v'(A'A v), for the maps of x and for those of b
    norm = lambda tree: sum(float(np.sum(np.square(v))) for v in jax.tree.leaves(tree))  # noqa: E731
    np.testing.assert_allclose(np.sum(x_back * there), norm((collected, pull)), rtol=1e-12)
    np.testing.assert_allclose(sum(np.sum(v * w) for v, w in zip(b_back, b, strict=True)), norm((spread, effects)))


def test_layouts_of_the_problems():
    """All ways are gone: levels in one piece or in several, of one row or of many, with rows in place or picked."""
    main = {name: made(name)[1].main for name in ALL}
    assert main["levels of one row"].height == 1 and main["levels of one row"].level is None
    assert main[SKEWED].height == 1 and main[SKEWED].level is not None
    several = main["pieces of several rows"]
    assert several.height > 1 and several.level is not None
    assert main["one factor, q = 1"].height > 1 and main["one factor, q = 1"].level is None


@pytest.mark.parametrize(
    "sizes", [[1], [5], [1] * 70, [0, 3, 0, 2], [300, 1, 1, 0, 40] * 3, [2, 60] * 40, [3000, 5, 1]]
)
def test_pieces_of_any_codes(sizes):
    """Of a factor whose rows are elsewhere; levels without a row too."""
    rng = np.random.default_rng(1)
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    shape = (1, len(codes))
    layout = pieces_of(codes, len(sizes), shape)
    x, b = rng.normal(size=len(codes)), rng.normal(size=len(sizes))
    close(layout.collect(jnp.asarray(x.reshape(shape))), np.bincount(codes, x, len(sizes)), 1e-13)
    np.testing.assert_array_equal(np.ravel(layout.spread(jnp.asarray(b))), b[codes])


def test_pick():
    """A permutation with gaps: value, derivative, transpose, batches."""
    rng = np.random.default_rng(2)
    there = jnp.array([3, 0, 5, 5, 1], jnp.int32)  # 5 is out: nothing comes from there
    back = jnp.array([1, 4, 5, 0, 5], jnp.int32)
    P = np.zeros((5, 5))
    P[[0, 1, 4], [3, 0, 1]] = 1
    x, t, c = rng.normal(size=(3, 2, 5))

    @quick_jit
    def everything(x, t, c):
        f = lambda x: pick(x, there, back)  # noqa: E731
        value, along = jax.jvp(f, (x,), (t,))
        return value, along, jax.vjp(f, x)[1](c)[0], jax.vmap(f)(x), jax.vmap(f, 1, 1)(x.T).T, jax.jacrev(f)(x[0])

    value, along, back_, rows, columns, jacobian = everything(x, t, c)
    for actual, expected in ((value, x @ P.T), (along, t @ P.T), (back_, c @ P), (rows, x @ P.T), (columns, x @ P.T)):
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(jacobian, P)


# ---------------------------------------------------------------- cross-products
@quick_jit
def _solved(rows, W, lams, right):
    gram = rows.gram((W,))
    done = factorise(lams, gram)
    return gram.couplings, done.logdet, solve(done, lams, gram, right)


def dense_of(gram, model) -> np.ndarray:
    """Z'WZ written out from the couplings."""
    parts = dense_parts(model)
    sizes = [levels * Z.shape[1] for Z, _, levels in parts]
    starts, chain = np.cumsum([0, *sizes]), len(gram.blocks)
    A = np.zeros((starts[-1],) * 2)
    A[starts[chain] :, starts[chain] :] = gram.corner

    def put(rows, columns, values):
        A[np.ix_(rows, columns)] += values
        A[np.ix_(columns, rows)] += np.transpose(values)

    for f in range(chain):
        Z, _, levels = parts[f]
        q = Z.shape[1]
        for j in range(levels):
            own = starts[f] + j * q + np.arange(q)
            A[np.ix_(own, own)] = gram.blocks[f][:, :, j]
            for i, link in enumerate(gram.links[f]):
                o, width = f + 1 + i, parts[f + 1 + i][0].shape[1]
                put(own, starts[o] + gram.parents[f][i][j] * width + np.arange(width), link[:, :, j])
            border = gram.borders[f][:, :, j]
            put(own, np.arange(len(A) - border.shape[1], len(A)), border)
    if (cells := gram.cells) is not None:
        q = parts[0][0].shape[1]
        for level, column, values in zip(cells.level, cells.column, np.transpose(cells.values), strict=True):
            if np.any(values):  # the others fill the arrays up
                put(level * q + np.arange(q), [starts[chain] + column], np.asarray(values)[:, None])
    return A


def assert_dense(model, rows):
    """Couplings, log|M| and M^-1 of working weights, some negative, beside dense matrices."""
    rng = np.random.default_rng(3)
    n = len(model.design.y)
    w = rng.uniform(0.5, 2.0, n)
    w[:: max(n // 5, 1)] *= -0.02  # M stays positive definite
    Z, lams = dense_design(model), lams_of(model, rng)
    right = rng.normal(size=Z.shape[1])
    _, real = places(rows)
    gram, logdet, x = _solved(rows, placed(rows, w) * real, lams, tuple(split(model, right)))
    close(dense_of(gram, model), (Z.T * w) @ Z, 1e-12)
    L = dense_lambda(model, lams)
    M = L.T @ ((Z.T * w) @ Z) @ L + np.eye(len(L))
    assert np.linalg.eigvalsh(M)[0] > 0
    np.testing.assert_allclose(logdet, np.linalg.slogdet(M)[1], rtol=1e-11)
    close(flat(x), np.linalg.solve(M, right), 1e-10)


@pytest.mark.parametrize("name", ALL)
def test_cross_products_and_solves(name):
    assert_dense(*made(name))


def test_the_same_eliminated_in_other_ways():
    """A nested chain as crossed factors, either way round, with the coupling dense or as cells."""
    inner, outer = made("nested, 2 levels")[0].elimination.chain
    for sparse in (True, False):
        assert_dense(*made("nested, 2 levels", chain=(inner,), rest=(outer,), sparse=sparse))
    assert_dense(*made("nested, 2 levels", chain=(outer,), rest=(inner,), sparse=False))
    (subject,), (item,) = (getattr(made("crossed, q = 2 and 2, cells")[0].elimination, k) for k in ("chain", "rest"))
    assert_dense(*made("crossed, q = 2 and 2, cells", chain=(item,), rest=(subject,), sparse=True))


def test_derivatives_of_cross_products():
    """By the working weights, through the elimination: d log|M| / dw_i = z_i'ΛM^-1Λ'z_i, one row after the other."""
    model, rows = made("chain and two crossed, cells")
    rng = np.random.default_rng(4)
    n, Z, lams = len(model.design.y), dense_design(model), lams_of(model, rng)
    w = rng.uniform(0.5, 2.0, n)
    slope = quick_jit(jax.grad(lambda W: factorise(lams, rows.gram((W,))).logdet))(placed(rows, w) * places(rows)[1])
    ZL = Z @ dense_lambda(model, lams)
    leverage = np.sum(ZL * np.linalg.solve((ZL.T * w) @ ZL + np.eye(ZL.shape[1]), ZL.T).T, axis=1)
    at, real = places(rows)
    close(np.asarray(slope)[real], leverage[at[real]], 1e-10)


def test_what_fills_the_pieces_counts_nowhere():
    """Weights of zero, and values that the family may have: rows of the same level."""
    for name in ("one factor, q = 2", SKEWED, "pieces of several rows"):
        model, rows = made(name)
        at, real = places(rows)
        assert real.sum() == len(model.design.y) and np.all(np.isfinite(rows.X)) and np.all(np.isfinite(rows.y))
        _, codes, levels = dense_parts(model)[0]
        filled = np.asarray(rows.spread(0, jnp.arange(float(levels))))
        np.testing.assert_array_equal(filled[real], codes[at[real]])
        np.testing.assert_array_equal(filled, codes[at])


# ---------------------------------------------------------------- responses whose best fit lies at infinity
@pytest.mark.parametrize("family", ["binomial", "betabinomial", "poisson", "nbinom2", "beta", "gamma"])
def test_responses_without_variation_are_those_that_no_single_fit_takes(family):
    trials = np.array([1.0, 3.0, 2.0, 1.0, 2.0, 4.0, 2.0]) if "binomial" in family else None
    some = {"beta": 0.25, "gamma": 2.5}.get(family, 1.0)
    y = np.full(7, some)
    y[[1, 4]] = 0.75 if family == "beta" else 2.0
    codes = np.array([0, 0, 0, 0, 1, 1, 2])  # of unequal levels, so that rows of weight zero fill some up
    model = mm.Model.from_arrays(y, np.ones((7, 1)), [mm.Term(np.ones((7, 1)), codes, "g")], family, trials=trials)
    full = np.full(7, 3.0) if trials is None else trials
    Y = {
        "binomial": [y, 0 * y, full, np.minimum(full, 1.0), full - np.eye(7)[3]],
        "poisson": [y, 0 * y, full, np.eye(7)[2]],
        "beta": [y, np.full(7, some), np.full(7, 0.5)],
        "gamma": [y, np.full(7, some), np.full(7, 2.0)],
    }[{"betabinomial": "binomial", "nbinom2": "poisson"}.get(family, family)]

    def refused(y):
        try:
            model.with_response(y)
        except mm.DataError as error:
            return "constant" in str(error)
        return False

    found = np.asarray(model.arrays.no_variation(jnp.asarray(Y).T))
    assert found.tolist() == [refused(y) for y in Y]
    assert found.any() and not found.all()


def test_squares_of_many_effects():
    """Row by row what they are entry by entry."""
    rng = np.random.default_rng(4)
    Z, g = rng.normal(size=(60, 8)), rng.integers(0, 5, 60)
    model = mm.Model.from_arrays(rng.poisson(2.0, 60), np.ones((60, 1)), [mm.Term(Z, g, kind="diag")], family="poisson")
    rows = model.arrays
    W = jnp.asarray(rng.uniform(size=rows.weights.shape)) * (rows.weights > 0)
    found = np.asarray(of_rows(rows, (W,)).blocks[0])
    expected = [[np.asarray(rows.collect(0, a * b * W)) for b in rows.Z[0]] for a in rows.Z[0]]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
