"""Results folders: what they hold, what is refused, what is continued."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from batches import assert_same, random_batch
from folders import DEAD, STUDY_A, contents, filled

from jaxmm.results import files
from jaxmm.results.result import concatenate
from jaxmm.results.store import STUDY, Store, load, plain, read_study


# ---------------------------------------------------------------- reading back
def test_parts_read_as_one_batch(tmp_path):
    """Whatever the order in which the parts were written."""
    store = filled(tmp_path / "a" / "b", (20, 50), (0, 20), (50, 57))
    whole = random_batch(0, 57)
    assert_same(store.read(), whole)
    assert_same(store.read(33), random_batch(0, 33))
    assert sorted(os.listdir(store.folder)) == [
        "part-000000000000-000000000019.parquet",
        "part-000000000020-000000000049.parquet",
        "part-000000000050-000000000056.parquet",
        "study.json",
    ]


def test_a_part_is_a_file_like_any_other(tmp_path):
    store = filled(tmp_path, (5, 9))
    assert_same(load(store.folder / "part-000000000005-000000000008.parquet"), random_batch(5, 9))


def test_load_of_a_folder(tmp_path):
    store = filled(tmp_path, (0, 60), (80, 100))
    with pytest.warns(UserWarning, match="holds 80 of 100 replicates"):
        assert_same(load(tmp_path), concatenate([random_batch(0, 60), random_batch(80, 100)]))
    store.write(random_batch(60, 80), 60, 80)
    before = contents(tmp_path)
    assert_same(load(tmp_path), random_batch(0, 100))
    assert contents(tmp_path) == before


def test_of_overlapping_parts_the_first_counts(tmp_path):
    store = Store(tmp_path, STUDY_A)
    for first, stop, mark in [(0, 10, 1.0), (5, 20, 2.0), (6, 8, 3.0), (20, 25, 4.0), (20, 22, 5.0)]:
        batch = random_batch(first, stop)
        batch.loglik[:] = mark
        store.write(batch, first, stop)
    back = store.read()
    np.testing.assert_array_equal(back.replicate, np.arange(25))
    np.testing.assert_array_equal(back.loglik, np.repeat([1.0, 2.0, 4.0], [10, 10, 5]))
    np.testing.assert_array_equal(store.read(7).loglik, [1.0] * 7)


def test_replicates_that_are_not_there(tmp_path):
    store = Store(tmp_path, STUDY_A)
    with pytest.raises(ValueError, match="holds no replicates yet"):
        store.read()
    filled(tmp_path, (0, 10), (20, 30))
    assert len(store.read()) == 20
    with pytest.raises(ValueError, match=r"lacks replicates 10 \.\. 19, 30 \.\. 39 of 40"):
        store.read(40)


def test_a_damaged_part_is_named(tmp_path):
    store = filled(tmp_path, (0, 10), (10, 20), (20, 30))
    path = tmp_path / "part-000000000010-000000000019.parquet"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\0" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"part-000000000010-000000000019.*remove it and run again"):
            store.read()
    path.unlink()
    (tmp_path / "part-000000000000-000000000009.parquet").rename(path)
    with pytest.raises(ValueError, match=r"000000000019.parquet' holds other replicates than its name says"):
        store.read()
    (tmp_path / "part-000000000020-000000000029.parquet").rename(tmp_path / "part-000000000020-000000000035.parquet")
    path.unlink()
    with pytest.raises(ValueError, match="has 10 rows, not the 16"):
        store.read()


def test_parts_of_different_columns(tmp_path):
    from dataclasses import replace

    store = filled(tmp_path, (0, 10))
    batch = random_batch(10, 20)
    replace(batch, names=replace(batch.names, fixef=("a", "b", "c"))).save(
        tmp_path / "part-000000000010-000000000019.parquet"
    )
    with pytest.raises(ValueError, match=r"000000000019.parquet' has other columns than the parts before it"):
        store.read()


def test_write_checks_the_numbers(tmp_path):
    store = Store(tmp_path, STUDY_A)
    with pytest.raises(ValueError, match=r"a part of replicates 0 \.\. 9 was given 10 \(5 \.\. 14\)"):
        store.write(random_batch(5, 15), 0, 10)
    with pytest.raises(ValueError, match="was given 0"):
        store.write(random_batch(5, 5), 5, 5)
    assert store.done() == []


def test_reading_takes_little_more_than_the_result(tmp_path):
    """Parts are read straight into their places, not joined."""
    size, number = 4000, 24
    one = random_batch(0, 1)
    store = Store(tmp_path, STUDY_A)
    for first in range(0, size * number, size):
        part = one.take(np.zeros(size, int))
        part.replicate[:] = np.arange(first, first + size)
        store.write(part, first, first + size)
    store.read(10)
    tracemalloc.start()
    batch = store.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    result = sum(x.nbytes for x in batch.arrays().values())
    assert len(batch) == size * number and result < peak < 1.5 * result


# ---------------------------------------------------------------- whose folder it is
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": [0, 2]}, r"key: \[0, 1\] there, \[0, 2\] now"),
        ({"truth": {"beta": [1.0, 0.5], "sigma": 2.0}}, r"truth\.sigma: 1\.0 there, 2\.0 now"),
        ({"extra": None}, r"extra: \(absent\) there, null now"),
        ({"formula": "y ~ 1"}, "formula: "),
    ],
)
def test_another_study_is_refused(tmp_path, change, message):
    filled(tmp_path, (0, 10))
    (tmp_path / f".jaxmm-{files._HOST}-{DEAD}-{'0' * 32}.tmp").write_text("a leftover")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        Store(tmp_path, STUDY_A | change)
    assert "nothing was overwritten" in str(caught.value) and "sigma: 1.0 there, 1.0" not in str(caught.value)
    assert contents(tmp_path) == before
    assert len(Store(tmp_path, STUDY_A).read()) == 10


def test_a_missing_entry_and_a_long_one(tmp_path):
    values = np.arange(1000.0)
    Store(tmp_path, STUDY_A | {"X": values})
    with pytest.raises(ValueError, match=r"X: \[0\.0, .*there, \(absent\) now"):
        Store(tmp_path, STUDY_A)
    values = values.copy()
    values[500] = -1
    with pytest.raises(ValueError) as caught:
        Store(tmp_path, STUDY_A | {"X": values})
    assert "500.0, 501.0" in str(caught.value) and "-1.0, 501.0" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "part-000000000000-000000000009.parquet", "folder/"])
def test_a_folder_of_other_things_is_refused(tmp_path, name):
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=rf"is not empty and has no study\.json \({name.rstrip('/')}\)"):
        Store(tmp_path, STUDY_A)
    assert sorted(tmp_path.iterdir()) == before
    assert name.endswith("/") or (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", '{"format": 1, "version": "1", "identity": 3}'])
def test_another_kind_of_study_json(tmp_path, text):
    (tmp_path / STUDY).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"study\.json' is not what jaxmm writes there"):
        Store(tmp_path, STUDY_A)
    assert contents(tmp_path) == before


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        Store(tmp_path / "a", STUDY_A)
    assert (tmp_path / "a").read_text() == "mine"


def test_a_folder_of_a_later_format(tmp_path):
    Store(tmp_path, STUDY_A)
    study = json.loads((tmp_path / STUDY).read_text())
    (tmp_path / STUDY).write_text(json.dumps(study | {"format": 2, "version": "9.9"}))
    for reader in (lambda: Store(tmp_path, STUDY_A), lambda: load(tmp_path)):
        with pytest.raises(ValueError, match=r"written by jaxmm 9\.9.*update it"):
            reader()


def test_a_folder_of_another_version_continues_with_a_warning(tmp_path, monkeypatch):
    filled(tmp_path, (0, 10))
    monkeypatch.setattr("jaxmm.results.files.version", lambda: "9.9")
    with pytest.warns(UserWarning, match=r"begun with jaxmm .*, and this is 9\.9"):
        assert Store(tmp_path, STUDY_A | {"n": 200}).done() == [(0, 10)]
    assert json.loads((tmp_path / STUDY).read_text())["version"] != "9.9"


def test_a_longer_run_continues_a_shorter_one(tmp_path):
    filled(tmp_path, (0, 100))
    longer = Store(tmp_path, STUDY_A | {"n": 250})
    assert longer.done() == [(0, 100)] and longer.missing(250, 100) == [(100, 100), (200, 50)]
    with pytest.raises(ValueError, match="holds a run of n = 250, and n = 100 is asked for"):
        Store(tmp_path, STUDY_A)
    study = read_study(tmp_path)
    assert study is not None and study["identity"] == STUDY_A | {"n": 250}
    with pytest.raises(ValueError, match="n: 250 there, 100 now"):
        Store(tmp_path, STUDY_A, extendable=())
    assert Store(tmp_path, STUDY_A | {"n": None}).identity["n"] == 250


def test_identity_is_compared_as_json(tmp_path):
    """Tuples, arrays and NumPy numbers are lists and numbers; NaN equals itself; the order of names does not matter."""
    Store(tmp_path, {"a": (1, 2.5), "b": np.array([np.nan, 0.1]), "c": np.float64(0.1), "n": np.int64(3)})
    Store(tmp_path, {"n": 3, "c": 0.1, "b": [float("nan"), 0.1], "a": [1, 2.5]})
    assert plain({"b": np.eye(2), 1: True}) == {"b": [[1.0, 0.0], [0.0, 1.0]], "1": True}
    with pytest.raises(TypeError, match=r"identity\['f'\]: JSON cannot hold <built-in"):
        Store(tmp_path / "new", {"f": len})
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- what is done
@pytest.mark.parametrize("seed", range(20))
def test_missing_and_done_make_up_the_whole(tmp_path, seed):
    """Random parts: the blocks cover what they leave, once each, within the cells of one grid."""
    rng = np.random.default_rng(seed)
    n, size = int(rng.integers(1, 300)), int(rng.integers(1, 60))
    store, have = Store(tmp_path, {"seed": seed}), np.zeros(400, bool)
    for _ in range(rng.integers(0, 8)):
        first = int(rng.integers(0, 350))
        stop = first + int(rng.integers(1, 50))
        (tmp_path / f"part-{first:012d}-{stop - 1:012d}.parquet").touch()
        have[first:stop] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], have, [0]])))
    assert store.done() == [tuple(pair) for pair in edges.reshape(-1, 2)]
    times = np.zeros(400, int)
    blocks = store.missing(n, size)
    for first, length in blocks:
        assert 1 <= length <= size and first // size == (first + length - 1) // size
        times[first : first + length] += 1
    np.testing.assert_array_equal(times[:n], ~have[:n])
    assert not times[n:].any() and blocks == sorted(blocks)


def test_missing_of_a_fresh_and_of_a_finished_folder(tmp_path):
    store = Store(tmp_path, STUDY_A)
    assert store.missing(10, 4) == [(0, 4), (4, 4), (8, 2)] and store.missing(0, 4) == []
    (tmp_path / "part-000000000000-000000000099.parquet").touch()
    assert store.missing(100, 7) == [] and store.missing(101, 7) == [(100, 1)]
    with pytest.raises(ValueError, match="size must be at least 1"):
        store.missing(10, 0)
