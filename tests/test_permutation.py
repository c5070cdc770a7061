"""Permutation tests: each permutation is a single fit of its own, rearranged here by hand; p by counting."""

import itertools

import numpy as np
import pandas as pd
import pytest

import jaxmm as mm
from jaxmm.permute.enhance import clusters, masses, tfce
from jaxmm.permute.exchange import Exchange
from jaxmm.permute.schemes import SCHEMES, Permutations

FORMULA = "y ~ x + age + (1 | g)"
GROUPS, REPEATS = 5, 4


@pytest.fixture(scope="module")
def table():
    """Five groups of four rows: ``x`` varies within them, ``arm`` and ``age`` between them."""
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(GROUPS), REPEATS)
    table = pd.DataFrame({"g": g, "x": np.tile([0.0, 0.0, 1.0, 1.0], GROUPS), "age": rng.normal(size=GROUPS)[g]})
    table["arm"] = np.array([0.0, 1, 0, 1, 1])[g]
    table["y"] = rng.normal(size=GROUPS)[g] + rng.normal(size=len(g))
    return table


@pytest.fixture(scope="module")
def Y(table):
    rng = np.random.default_rng(6)
    return rng.normal(size=(3, GROUPS))[:, table.g] + rng.normal(size=(3, len(table))) + 0.5 * table.x.to_numpy()


def by_hand(table, formula, without, column, y, rearranged, weights=None):
    """|t| of ``column`` in a single fit to each of the ``rearranged`` residuals of the null model, with its fitted part
    added again; ``rearranged``: r (n,) -> that of each permutation."""
    null, full = (mm.Model.from_formula(f, table, weights=weights) for f in (without, formula))
    fitted = null.with_response(y).fit().predict(re="population").to_numpy()
    return np.array([abs(full.with_response(fitted + r).fit().tvalues[column]) for r in rearranged(y - fitted)])


def flips(codes, count):
    def make(r):
        for signs in itertools.product([1.0, -1.0], repeat=count - 1):
            yield r * np.array([1.0, *signs])[codes]

    return make


def test_sign_flips_are_those_made_one_by_one(table, Y):
    found = mm.permutation_test(
        mm.lmm(FORMULA, table), Y, "x", key=1, n=100, statistic="max", progress=False, step_down=True
    )
    assert found.complete and found.n == 2 ** (GROUPS - 1)
    t = np.array([by_hand(table, FORMULA, "y ~ age + (1 | g)", "x", y, flips(table.g, GROUPS)) for y in Y])
    np.testing.assert_allclose(found.null[0], t[:, 0].max(), rtol=1e-6)
    np.testing.assert_allclose(np.sort(found.null), np.sort(t.max(axis=0)), rtol=1e-5)
    least = t[:, :1] * (1 - 1e-6)
    np.testing.assert_allclose(found.frame.p, (t >= least).mean(axis=1))
    order = np.argsort(-t[:, 0])
    steps = [(t[order[k:]].max(axis=0) >= least[order[k]]).mean() for k in range(len(Y))]
    np.testing.assert_allclose(found.frame.p_fwe.to_numpy()[order], np.maximum.accumulate(steps))
    single = mm.permutation_test(mm.lmm(FORMULA, table), Y, "x", key=1, n=100, progress=False)
    np.testing.assert_allclose(single.frame.p_fwe, (t.max(axis=0) >= least).mean(axis=1))
    assert np.all(single.frame.p_fwe >= found.frame.p_fwe)


def test_weights_of_each_response_are_those_of_single_fits(table, Y):
    W = np.random.default_rng(3).uniform(0.3, 3.0, Y.shape)
    W[1, 4] = 0.0
    model = mm.Model.from_formula("y ~ x + (1 | g)", table)
    found = mm.permutation_test(model, Y[:2], "x", key=1, n=16, weights=W[:2], progress=False)
    assert found.frame.missing.tolist() == [0, 1]
    t = by_hand(table, "y ~ x + (1 | g)", "y ~ 1 + (1 | g)", "x", Y[0], flips(table.g, GROUPS), weights=W[0])
    np.testing.assert_allclose(abs(found.frame.t[0]), t[0], rtol=1e-6)
    alone = mm.permutation_test(model, Y[:1], "x", key=1, n=16, weights=W[:1], progress=False)
    np.testing.assert_allclose(np.sort(alone.null), np.sort(t), rtol=1e-5)


def test_several_columns_are_tested_by_F(table, Y):
    """``dose`` has three levels: F = b'V⁻¹b / 2, of single fits to the residuals with their signs changed."""
    own = table.assign(dose=np.tile(list("abcb"), GROUPS), y=Y[0])
    found = mm.permutation_test(mm.lmm("y ~ dose + (1 | g)", own), Y[:1], "dose", key=1, n=16, progress=False)
    assert found.columns == ("doseb", "dosec")
    null, full = (mm.Model.from_formula(f, own) for f in ("y ~ 1 + (1 | g)", "y ~ dose + (1 | g)"))
    r = Y[0] - null.fit().predict(re="population").to_numpy()
    expected = []
    for rearranged in flips(table.g, GROUPS)(r):
        fit = full.with_response(rearranged).fit()
        b, V = fit.fixef.to_numpy()[1:], fit.vcov().to_numpy()[1:, 1:]
        expected.append(b @ np.linalg.solve(V, b) / 2)
    np.testing.assert_allclose(found.null[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(np.sort(found.null), np.sort(expected), rtol=1e-5)
    assert found.frame.columns[1:6].tolist() == ["estimate_doseb", "se_doseb", "estimate_dosec", "se_dosec", "F"]


def test_whole_groups_are_exchanged_as_one_by_one(table, Y):
    """``arm`` alone: 5! / (2! 3!) arrangements; in each, groups come to places of one arm or the other."""
    formula = "y ~ arm + (1 | g)"
    found = mm.permutation_test(mm.lmm(formula, table), Y[:2], "arm", key=1, scheme="groups", progress=False)
    assert found.complete and found.n == 10

    def make(r):
        blocks = r.reshape(GROUPS, REPEATS)
        ones = np.flatnonzero(table.arm[::REPEATS])
        for chosen in itertools.combinations(range(GROUPS), 3):
            out = np.empty_like(blocks)
            out[ones] = blocks[list(chosen)]
            out[np.setdiff1d(range(GROUPS), ones)] = blocks[np.setdiff1d(range(GROUPS), chosen)]
            yield out.ravel()

    t = np.array([by_hand(table, formula, "y ~ 1 + (1 | g)", "arm", y, make) for y in Y[:2]])
    np.testing.assert_allclose(np.sort(found.null), np.sort(t.max(axis=0)), rtol=1e-5)


def test_rows_within_groups_are_exchanged_as_one_by_one(table, Y):
    """Two groups of four rows, two of each kind: 6² arrangements."""
    few = table[table.g < 2]
    y = Y[:1, : len(few)]
    formula = "y ~ x + (1 | g)"
    found = mm.permutation_test(mm.lmm(formula, few), y, "x", key=1, scheme="within", progress=False)
    assert found.complete and found.n == 36

    def make(r):
        a, b = r.reshape(2, REPEATS)
        for one in itertools.combinations(range(4), 2):
            for other in itertools.combinations(range(4), 2):
                rest = [np.setdiff1d(range(4), c) for c in (one, other)]
                yield np.concatenate([a[rest[0]], a[list(one)], b[rest[1]], b[list(other)]])

    t = by_hand(few, formula, "y ~ 1 + (1 | g)", "x", y[0], make)
    np.testing.assert_allclose(np.sort(found.null), np.sort(t), rtol=1e-5)


def test_missing_rows_go_with_their_residuals(table, Y):
    """Three values are missing; the single fits are of tables without those rows."""
    y = Y[:2].copy()
    y[0, 3] = y[0, 9] = y[1, 5] = np.nan
    found = mm.permutation_test(
        mm.lmm("y ~ arm + (1 | g)", table), y, "arm", key=1, scheme="groups", statistic="max", progress=False
    )
    assert found.frame.missing.tolist() == [2, 1]
    null = []
    for values in y:
        kept = table.assign(y=values).dropna()
        r = np.full(len(table), np.nan)
        r[kept.index] = kept.y - mm.lmm("y ~ 1 + (1 | g)", kept).predict(re="population")
        own = []
        for chosen in itertools.combinations(range(GROUPS), 3):
            places = np.argsort(-np.array([0, 1, 0, 1, 1]), kind="stable")
            source = np.empty(GROUPS, int)
            source[places] = [*chosen, *np.setdiff1d(range(GROUPS), chosen)]
            moved = table.assign(y=r.reshape(GROUPS, REPEATS)[source].ravel()).dropna()
            own.append(abs(mm.lmm("y ~ arm + (1 | g)", moved).tvalues["arm"]))
        null.append(own)
    np.testing.assert_allclose(np.sort(found.null), np.sort(np.max(null, axis=0)), rtol=1e-5)
    with pytest.raises(mm.DataError, match="the first in response 0, row 3"):
        mm.permutation_test(mm.lmm(FORMULA, table), y, "x", key=1, missing="refuse")


@pytest.fixture(scope="module")
def many(table):
    """40 responses, on a grid of 5 × 8, with an effect in a corner; one that is missing, one that lacks a row, and one
    that is constant."""
    rng = np.random.default_rng(7)
    Y = rng.normal(size=(40, GROUPS))[:, table.g] + rng.normal(size=(40, len(table)))
    Y[np.arange(40) % 8 < 2] += 3 * table.x.to_numpy()
    Y[7], Y[12], Y[20, 3] = np.nan, 3.0, np.nan
    return Y


@pytest.mark.parametrize("statistic", ["max", "cluster", "tfce"])
def test_neither_batch_nor_blocks_change_the_result(table, many, statistic, monkeypatch):
    model = mm.lmm("y ~ x + (x | g)", table).model
    more = {} if statistic == "max" else {"adjacency": mm.grid_adjacency((5, 8))}
    options = dict(key=3, n=12, scheme="wild", statistic=statistic, progress=False, **more)
    whole = mm.permutation_test(model, many, "x", **options)
    monkeypatch.setattr("jaxmm.costs.PERMUTED_AT_ONCE", 120)
    parts = mm.permutation_test(model, many, "x", batch=16, **options)
    np.testing.assert_allclose(parts.null, whole.null, rtol=1e-7)
    pd.testing.assert_frame_equal(parts.frame, whole.frame, rtol=1e-7)
    frame = whole.frame
    assert frame.status[[7, 12]].tolist() == ["too_few_rows", "no_variation"] and frame.p_fwe[[7, 12]].isna().all()
    assert "2 of 40 responses could not be fitted" in repr(whole)


def test_a_run_that_was_cut_off_goes_on(table, many, tmp_path, monkeypatch):
    model = mm.lmm("y ~ x + (x | g)", table).model
    options = dict(n=12, scheme="wild", progress=False)
    whole = mm.permutation_test(model, many, "x", key=3, **options)
    monkeypatch.setattr("jaxmm.costs.PERMUTED_AT_ONCE", 120)
    folder = tmp_path / "test"
    calls = []
    from jaxmm.permute import run

    fit_many = run.fit_many

    def broken(*args, **kwargs):
        calls.append(args)
        if len(calls) == 5:  # in the second block
            raise KeyboardInterrupt
        return fit_many(*args, **kwargs)

    monkeypatch.setattr(run, "fit_many", broken)
    with pytest.raises(KeyboardInterrupt):
        mm.permutation_test(model, many, "x", key=3, out=folder, **options)
    again = mm.permutation_test(model, many, "x", key=3, out=folder, **options)
    np.testing.assert_allclose(again.null, whole.null, rtol=1e-7)
    pd.testing.assert_frame_equal(again.frame, whole.frame, rtol=1e-7)
    done = len(calls)
    assert mm.permutation_test(model, many, "x", key=3, out=folder, **options).n == 12
    assert len(calls) == done  # nothing is fitted again
    longer = mm.permutation_test(model, many, "x", key=3, out=folder, **{**options, "n": 15})
    np.testing.assert_array_equal(longer.null[:12], again.null)
    assert longer.n == 15 and len(calls) == done + 4  # the null model and what is new, each of two kinds of lanes
    with pytest.raises(ValueError, match="holds another test: key"):
        mm.permutation_test(model, many, "x", key=4, out=folder, **options)
    (folder / "permutations.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is damaged"):
        mm.permutation_test(model, many, "x", key=3, out=folder, **options)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        mm.permutation_test(model, many, "x", key=3, out=tmp_path / "other", **options)


# ---------------------------------------------------------------- arrangements
def test_arrangements_are_numbered_without_repetition():
    exchange = Exchange.of(np.array([0, 0, 0, 1, 1, 0, 2, 2]), np.array([2, 1, 1, 5, 6, 2, 3, 3]))
    assert exchange.count == 6 * 2
    goes = set()
    for k in range(exchange.count):
        source = exchange.numbered(k)
        assert sorted(source) == list(range(8))
        label = np.empty(8, int)
        label[source] = exchange.labels  # where each unit's data go
        goes.add(tuple(label))
    assert len(goes) == exchange.count
    assert exchange.numbered(0).tolist() == list(range(8))


def test_drawn_arrangements_are_uniform(table):
    """Of 3,000 draws each of the 10 arrangements of ``arm`` comes 300 times, to four standard errors."""
    model = mm.Model.from_formula("y ~ arm + (1 | g)", table)
    drawn = Permutations(SCHEMES["groups"](model, ("arm",)), 9, np.array([0, 1], np.uint32))
    assert not drawn.complete
    arm = table.arm.to_numpy()
    codes = [tuple(np.sort(drawn[k].index[arm == 1][::REPEATS] // REPEATS)) for k in range(1, 3001)]
    counts = pd.Series(codes).value_counts()
    assert len(counts) == 10 and np.all(np.abs(counts - 300) < 4 * np.sqrt(3000 * 0.09))
    signs = Permutations(SCHEMES["wild-webb"](model, ("arm",)), 9, np.array([0, 1], np.uint32))
    values = np.concatenate([signs[k].factor[::REPEATS] for k in range(1, 1001)])
    assert abs(values.mean()) < 4 / 5000**0.5 and abs(np.mean(values**2) - 1) < 4 * 0.41 / 5000**0.5
    two = Permutations(SCHEMES["wild-mammen"](model, ("arm",)), 9, np.array([0, 1], np.uint32))
    values = np.concatenate([two[k].factor[::REPEATS] for k in range(1, 1001)])
    assert len(np.unique(values)) == 2 and abs(np.mean(values)) < 4 / 5000**0.5
    assert abs(np.mean(values**3) - 1) < 4 * 2 / 5000**0.5


# ---------------------------------------------------------------- neighbours
def dense_components(inside, A):
    """Sets of those ``inside`` that a path through ``inside`` connects, by walking."""
    left, found = set(np.flatnonzero(inside).tolist()), []
    while left:
        front = [left.pop()]
        own = set(front)
        while front:
            near = {j for j in left if A[front[-1], j]}
            front = front[:-1] + list(near)
            own |= near
            left -= near
        found.append(own)
    return found


@pytest.fixture(scope="module")
def map_and_neighbours():
    rng = np.random.default_rng(11)
    t = rng.normal(scale=1.5, size=60)
    t[[4, 40]] = np.nan
    A = np.triu(rng.uniform(size=(60, 60)) < 0.05, 1)
    return t, A | A.T


def test_clusters_and_masses_are_those_found_by_walking(map_and_neighbours):
    t, A = map_and_neighbours
    pairs = np.argwhere(np.triu(A))
    labels = clusters(t, pairs, 1.0)
    mine = {frozenset(np.flatnonzero(labels == k)): m for k, m in enumerate(masses(t, labels))}
    walked = [frozenset(c) for sign in (1, -1) for c in dense_components(sign * np.nan_to_num(t) >= 1.0, A)]
    assert set(mine) == set(walked) and len(walked) > 3
    for own, mass in mine.items():
        assert mass == pytest.approx(np.abs(t[list(own)]).sum())


def test_enhancement_is_the_sum_over_heights(map_and_neighbours):
    t, A = map_and_neighbours
    expected = np.where(np.isnan(t), np.nan, 0.0)
    for sign in (1, -1):
        for h in 0.1 * np.arange(1, 80):
            for own in dense_components(sign * np.nan_to_num(t) >= h, A):
                expected[list(own)] += len(own) ** 0.5 * h**2 * 0.1
    np.testing.assert_allclose(tfce(t, np.argwhere(np.triu(A))), expected, rtol=1e-12)


def test_grids_and_products():
    line = mm.adjacency_of(time=4)
    assert line.pairs.tolist() == [[0, 1], [1, 2], [2, 3]] and line.shape == {"time": 4}
    grid = mm.grid_adjacency((3, 4, 2))
    where = np.array(list(np.ndindex(3, 4, 2)))
    steps = np.abs(where[:, None] - where[None])
    np.testing.assert_array_equal(grid.to_sparse().toarray() == 1, steps.sum(axis=2) == 1)
    corners = mm.grid_adjacency((3, 4, 2), diagonal=True).to_sparse().toarray() == 1
    np.testing.assert_array_equal(corners, steps.max(axis=2) == 1)
    channels = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    both = mm.adjacency_of(time=4, channel=channels).to_sparse().toarray()
    expected = np.kron(line.to_sparse().toarray(), np.eye(3)) + np.kron(np.eye(4), channels)
    np.testing.assert_array_equal(both, expected)


def test_clusters_of_a_test(table, many):
    from scipy.sparse import csr_matrix

    model = mm.lmm("y ~ x + (x | g)", table).model
    neighbours = mm.grid_adjacency((5, 8))
    options = dict(key=3, n=16, statistic="cluster", threshold=2.0, progress=False)
    found = mm.permutation_test(model, many, "x", adjacency=csr_matrix(neighbours.to_sparse()), **options)
    assert found.complete
    pairs = mm.permutation_test(model, many, "x", adjacency=neighbours.pairs.tolist(), **options)
    pd.testing.assert_frame_equal(found.frame, pairs.frame)
    frame, table = found.frame, found.clusters
    assert np.all(np.diff(table.mass) <= 0) and table.cluster.tolist() == list(range(1, len(table) + 1))
    first = frame[frame.cluster == 1]
    assert table.mass[0] == pytest.approx(first.t.abs().sum()) and table["size"][0] == len(first) > 3
    assert set(first.index) <= {8 * a + b for a in range(5) for b in range(8)} and np.all(first.t >= 2.0)
    assert table.p_fwe[0] == np.mean(found.null >= table.mass[0] * (1 - 1e-6)) == first.p_fwe.iloc[0]
    assert frame.p_fwe[(frame.cluster == 0) & frame.t.notna()].eq(1.0).all()
    assert f"{len(table)} clusters of |t| >= 2" in repr(found)


# ---------------------------------------------------------------- labels and pictures
def test_labels_are_kept(table, many):
    xarray = pytest.importorskip("xarray")
    array = xarray.DataArray(
        many.reshape(5, 8, -1), dims=("time", "channel", "row"), coords={"channel": list("abcdefgh")}
    )
    model = mm.lmm("y ~ x + (x | g)", table).model
    options = dict(key=3, n=8, statistic="tfce", scheme="wild", progress=False)
    found = mm.permutation_test(model, array, "x", adjacency=mm.adjacency_of(time=5, channel=8), **options)
    assert found.frame.columns[:2].tolist() == ["time", "channel"] and found.frame.channel[9] == "b"
    cube = found.to_xarray()
    assert cube["p_fwe"].dims == ("time", "channel") and cube["t"].sel(channel="c")[1] == found.frame.t[10]
    with pytest.raises(ValueError, match=r"counts its dimensions as channel, time"):
        mm.permutation_test(model, array, "x", adjacency=mm.adjacency_of(channel=8, time=5), **options)


def test_picture(table, many, headless):
    model = mm.lmm("y ~ x + (x | g)", table).model
    found = mm.permutation_test(model, many, "x", key=3, n=16, progress=False)
    ax = found.plot()
    assert ax.get_xlabel() == "largest |t|" and len(ax.patches) >= 5
    assert sum(p.get_height() for p in ax.patches) == found.n
    assert found.critical(0.01) == np.inf
    bar = found.critical(0.25)
    assert (
        np.mean(found.null >= bar) <= 0.25 and (found.frame.p_fwe <= 0.25).sum() == (found.frame.t.abs() >= bar).sum()
    )


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("formula", "term", "scheme", "message"),
    [
        ("y ~ arm + (1 | g)", "arm", "within", "'arm' is constant in every group of 'g': use scheme='groups'"),
        ("y ~ x + (x | g)", "x", "within", "the same levels of all factors and the same random effects: use .*'sign'"),
        ("y ~ x + (1 | g)", "x", "groups", "'x' is the same in each of them: use scheme='within'"),
        ("y ~ arm + (z | g)", "arm", "groups", "no two groups of 'g' have as many rows .* use scheme='sign'"),
        ("y ~ x + (1 | g) + (1 | h)", "x", "sign", "'g' and 'h' are crossed"),
        ("y ~ x + (1 | g) + (1 | h)", "x", "within", "no two rows have the same levels .* bootstrap"),
    ],
)
def test_schemes_that_the_design_forbids(table, Y, formula, term, scheme, message):
    rng = np.random.default_rng(1)
    own = table.assign(z=rng.normal(size=len(table)), h=np.tile(np.arange(REPEATS), GROUPS))
    with pytest.raises(ValueError, match=message):
        mm.permutation_test(mm.Model.from_formula(formula, own), Y, term, key=1, scheme=scheme)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"scheme": "flip"}, ValueError, "scheme must be one of 'sign', 'within'"),
        ({"statistic": "mean"}, ValueError, "statistic must be one of 'max', 'cluster', 'tfce'"),
        ({"statistic": "cluster"}, ValueError, "needs adjacency=, the neighbours among the 3 responses"),
        ({"adjacency": np.eye(3)}, ValueError, "adjacency= is for statistic='cluster' and 'tfce'"),
        ({"statistic": "tfce", "adjacency": np.eye(4)}, ValueError, r"adjacency must be a matrix \(3, 3\)"),
        ({"statistic": "tfce", "adjacency": [[0, 3]]}, ValueError, "a pair with response 3: there are 0 to 2"),
        ({"statistic": "tfce", "adjacency": np.eye(3, k=1)}, ValueError, "1 is a neighbour of 0, but 0 is none of 1"),
        ({"statistic": "tfce", "adjacency": mm.grid_adjacency((2, 2))}, ValueError, "of 4 responses, and Y has 3"),
        ({"threshold": 2.0}, ValueError, "threshold= is for statistic='cluster'"),
        ({"statistic": "cluster", "adjacency": np.eye(3), "threshold": -1}, ValueError, "threshold must be a positive"),
        (
            {"statistic": "cluster", "adjacency": np.eye(3), "threshold": 2, "threshold_p": 0.1},
            ValueError,
            "say the same",
        ),
        ({"statistic": "tfce", "adjacency": np.eye(3), "step_down": True}, ValueError, "step_down=True is for"),
        ({"n": 1}, ValueError, "n must be a number of permutations"),
        ({"missing": "keep"}, ValueError, "missing must be 'drop' or 'refuse'"),
        ({"weights": np.ones((2, 20))}, mm.DataError, r"weights must have a number for each of Y, \(3, 20\)"),
        ({"weights": -np.ones((3, 20))}, mm.DataError, "response 0 has -1 in row 0"),
        ({"weights": np.zeros((3, 20))}, mm.DataError, "weights of response 0 are all zero"),
        ({"nperm": 3}, TypeError, "the number of permutations is n="),
    ],
)
def test_arguments_that_are_refused(table, Y, options, kind, message):
    with pytest.raises(kind, match=message):
        mm.permutation_test(mm.Model.from_formula(FORMULA, table), Y, "x", key=1, **options)


def test_models_and_terms_that_are_refused(table, Y):
    model = mm.Model.from_formula(FORMULA, table)
    with pytest.raises(ValueError, match="there is no coefficient and no term 'z'"):
        mm.permutation_test(model, Y, "z", key=1)
    with pytest.raises(TypeError, match="needs key="):
        mm.permutation_test(model, Y, "x")
    with pytest.raises(TypeError, match="an iterator"):
        mm.permutation_test(model, iter([Y]), "x", key=1)
    with pytest.raises(mm.DataError, match="none of the 1 responses can be fitted: "):
        mm.permutation_test(model, np.full((1, 20), np.nan), "x", key=1)
    counts = mm.Model.from_formula("k ~ x + (1 | g)", table.assign(k=np.arange(20) % 3), "poisson")
    with pytest.raises(ValueError, match="is for linear models"):
        mm.permutation_test(counts, Y, "x", key=1)
