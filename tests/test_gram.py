"""Changes of columns, sums over the rows of levels, and data of any size and mean."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import close, derivatives, derivatives_of, model, model_of, oracle_deviance, points, replanned
from problems import PROBLEMS

import jaxmm as mm
from jaxmm import costs, gram
from jaxmm.gram import change_columns

ALL = slice(None)


@pytest.fixture
def columns():
    """A constant, raw years, a tiny column, one nearly their combination."""
    rng = np.random.default_rng(0)
    n = 200
    year, tiny = rng.integers(2000, 2021, n).astype(float), 1e-8 * rng.normal(size=n)
    return np.column_stack([year, np.full(n, 3.0), tiny, 5 * year + 1e-3 * rng.normal(size=n)])


@pytest.mark.parametrize("closed", ["linear", "diagonal", "scalar", "none"])
def test_a_change_of_columns_is_A_times_T(columns, closed):
    change = change_columns(columns, closed)
    rows, A = change.rows(ALL), columns.astype(np.longdouble)
    np.testing.assert_allclose(np.asarray(A @ change.T, float), rows, atol=1e-7 if closed == "linear" else 1e-14)
    squares = np.mean(rows**2, axis=0)
    if closed in ("linear", "diagonal"):
        np.testing.assert_allclose(squares, 1.0, rtol=1e-9)
    elif closed == "scalar":
        assert np.mean(squares) == pytest.approx(1) and np.array_equal(change.T, change.T[0, 0] * np.eye(4))
    else:
        np.testing.assert_array_equal(rows, columns)


def test_recombined_columns_are_orthogonal(columns):
    rows = change_columns(columns, "linear").rows(ALL)
    close(rows.T @ rows / len(rows), np.eye(4), 1e-8)
    plain = change_columns(columns[:, [0, 2]], "linear").rows(ALL)  # no intercept: not centred, orthogonal all the same
    close(plain.T @ plain / len(plain), np.eye(2), 1e-9)


def test_columns_without_recombination_are_scaled_only(columns):
    T = change_columns(columns, "diagonal").T
    close(T, np.diag(1 / np.sqrt(np.mean(columns**2, axis=0))), 1e-14)


@pytest.mark.parametrize("A", [np.zeros((9, 2)), np.ones((9, 2)), np.zeros((9, 0))], ids=["zero", "twice", "none"])
def test_columns_that_cannot_be_orthogonal_stay_finite(A):
    change = change_columns(A, "linear")
    assert np.all(np.isfinite(change.T))
    close(A @ change.T, change.rows(ALL))


# ---------------------------------------------------------------- sums over rows
def naive(m: mm.Model) -> dict:
    """[Z X y]'W[Z X y] from Z written out (n, Q), factor by factor in elimination order."""
    rows = m.accumulator
    Z = []
    for position, g in enumerate(rows.groupings):
        z = rows.z(position, ALL)
        full = np.zeros((len(z), g.levels, g.q))
        full[np.arange(len(z)), g.codes] = z
        Z.append(full.reshape(len(z), -1))
    y = m.design.y if m.design.offset is None else m.design.y - m.design.offset
    Xy = np.column_stack([rows.X.rows(ALL), rows.least_squares(y)[1]])
    W = np.ones(len(y)) if rows.weights is None else rows.weights
    return {"Z": Z, "Xy": Xy, "W": W[:, None]}


@pytest.mark.parametrize("name", PROBLEMS)
def test_statistics_are_the_cross_products(name):
    m = model(name)
    a, s, groups = m.arrays.couplings, m.structure, m.accumulator.groupings
    rows = naive(m)
    chain, rest = rows["Z"][: len(s.chain)], rows["Z"][len(s.chain) :]
    R = np.hstack([*rest, rows["Xy"]])
    close(a.corner, R.T @ (rows["W"] * R), 1e-12)
    for i, Z in enumerate(chain):
        levels, q = groups[i].levels, groups[i].q
        cross = Z.T @ (rows["W"] * np.hstack([Z, R]))
        at = np.arange(levels)
        blocks = cross[:, : levels * q].reshape(levels, q, levels, q)[at, :, at]
        close(a.blocks[i], np.moveaxis(blocks, 0, -1), 1e-12)
        border = np.moveaxis(cross[:, levels * q :].reshape(levels, q, -1), 0, -1)
        if s.sparse and i == 0:
            close(np.asarray(a.borders[i]), border[:, s.rest_size :], 1e-12)
            c, filled = a.cells, np.zeros_like(border)
            np.add.at(filled, (slice(None), np.asarray(c.column), np.asarray(c.level)), c.values)
            close(filled[:, : s.rest_size], border[:, : s.rest_size], 1e-12)
        else:
            close(a.borders[i], border, 1e-12)


@pytest.mark.parametrize("name", [n for n, p in PROBLEMS.items() if p.sparse])
def test_pairs_of_cells_are_all_the_pairs_of_a_level_once(name):
    c = model(name).arrays.couplings.cells
    level, column = np.asarray(c.level), np.asarray(c.column)
    a, b = np.asarray(c.pair_a), np.asarray(c.pair_b)
    real = np.any(np.asarray(c.values) != 0, axis=0)  # the others fill the arrays up, at their end
    assert np.all(np.diff(real.astype(int)) <= 0) and np.array_equal(real[a], real[b])
    a, b = a[real[a]], b[real[b]]
    assert np.all(level[a] == level[b]) and np.all(column[a] >= column[b])
    counts = np.bincount(level[real])
    assert len({*zip(a, b, strict=True)}) == len(a) == np.sum(counts * (counts + 1) // 2)


@pytest.mark.parametrize("family", [None, "poisson"])
def test_designs_in_which_other_cells_occur_share_their_shapes(family):
    def shapes(seed):
        rng, n = np.random.default_rng(seed), 100 + seed
        g, h = np.append(np.arange(40), rng.integers(0, 40, n)), np.append(np.arange(40) % 6, rng.integers(0, 6, n))
        terms = [mm.Term(np.ones(n + 40), g, "g"), mm.Term(np.ones(n + 40), h, "h")]
        m = mm.Model.from_arrays(rng.poisson(2.0, n + 40), np.ones((n + 40, 1)), terms, family)
        leaves, tree = jax.tree.flatten((m if m.structure.sparse else replanned(m, sparse=True)).arrays)
        return tree, tuple(map(np.shape, leaves))

    assert len({shapes(seed) for seed in range(12)}) <= 6


@pytest.mark.parametrize("name", ["chain and two crossed, cells", "weights and offset"])
def test_chunks_of_rows_add_up(name, monkeypatch):
    whole = model(name).arrays
    monkeypatch.setattr(costs, "CHUNK_ROWS", 7)
    pieces = model_of(PROBLEMS[name]).arrays
    for field in dataclasses.fields(gram.Gram):
        if field.name not in ("parents", "structure"):
            for x, y in zip(*(jax.tree.leaves(getattr(a, field.name)) for a in (whole, pieces)), strict=True):
                # the columns of a QR have no sign
                close(np.abs(y), np.abs(x), 1e-11)


# ---------------------------------------------------------------- size and mean of the data
@pytest.mark.parametrize(("mean", "atol"), [(1e6, 1e-8), (-1e9, 1e-5)])
def test_a_large_mean_loses_no_deviance(mean, atol):
    """The same deviance as that of y + mean - mean, which keeps only what rounding has left of y."""
    p = PROBLEMS["one factor, q = 2"]
    rounded = model_of(p, y=(p.y + mean) - mean)
    ours, _, _ = derivatives_of(model_of(p, y=p.y + mean))
    np.testing.assert_allclose(ours[0], oracle_deviance(rounded, points(rounded)[0]), rtol=0, atol=atol)


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1e100])
def test_the_unit_of_the_response_adds_its_logarithm(scale):
    p = PROBLEMS["one factor, q = 2"]
    df = len(p.y) - 2
    change = derivatives_of(model_of(p, y=p.y * scale))[0] - derivatives("one factor, q = 2")[0]
    np.testing.assert_allclose(change, 2 * df * np.log(scale), rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_units_of_the_predictors_change_theta_and_the_constant(scale):
    """X and Z times s: theta / s is the same model, and log|X'V^-1 X| gains 2 p log s."""
    p = PROBLEMS["one factor, q = 2"]
    term = dataclasses.replace(p.terms[0], Z=p.terms[0].Z * scale)
    m = model_of(p, X=p.X * scale, terms=(term,))
    expected = derivatives("one factor, q = 2")[0][0] + 2 * 2 * np.log(scale)
    np.testing.assert_allclose(derivatives_of(m, points(m) / scale)[0][0], expected, rtol=1e-11)
