"""What is looked at before a run computes: each part that is there, locks, room; what was tampered with is refused."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from batches import assert_same, random_batch
from folders import STUDY_A, contents, filled, flipped

import jaxmm as mm
from jaxmm.results import files
from jaxmm.results.ahead import check_room, examine
from jaxmm.results.shards import Shard, at_work, recorded
from jaxmm.results.store import STUDY, Store, load

NAMES = random_batch(0, 1).names
MIDDLE = "part-000000000010-000000000019.parquet"


def three(folder: Path) -> Store:
    return filled(folder, (0, 10), (10, 20), (20, 30))


def rewritten(path: Path, about=None, table=None) -> None:
    """The file with other metadata or another table, as another program writes it."""
    old = pq.read_table(path)
    meta = json.loads(old.schema.metadata[files.KEY])
    meta = meta | about if isinstance(about, dict) else meta
    text = about if isinstance(about, bytes) else json.dumps(meta).encode()
    pq.write_table((table or old).replace_schema_metadata({files.KEY: text}), path)


# ---------------------------------------------------------------- parts that are there
def test_whole_parts_are_left_alone(tmp_path, recwarn):
    store = three(tmp_path)
    before = contents(tmp_path)
    examine(store, NAMES)
    assert contents(tmp_path) == before and not recwarn.list


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "cut in half": cut,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "without its last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "of other replicates": lambda path: shutil.copy(path.with_name("part-000000000000-000000000009.parquet"), path),
    "with too few rows": lambda path: rewritten(path, table=pq.read_table(path).slice(0, 9)),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_part_is_moved_aside(how, tmp_path):
    store = three(tmp_path)
    DAMAGES[how](tmp_path / MIDDLE)
    damaged = (tmp_path / MIDDLE).read_bytes()
    with pytest.warns(UserWarning, match=f"{MIDDLE}'.*computed anew, and the file is kept as 'damaged-part-"):
        examine(store, NAMES)
    (aside,) = tmp_path.glob("damaged-*")
    assert aside.read_bytes() == damaged and store.missing(30, 30) == [(10, 10)]
    store.write(random_batch(10, 20), 10, 20)
    assert_same(store.read(30), random_batch(0, 30))


def test_a_part_of_another_version_is_refused(tmp_path, monkeypatch):
    store = three(tmp_path)
    monkeypatch.setattr(files, "version", lambda: "8.8")
    random_batch(10, 20).write(tmp_path / MIDDLE)
    monkeypatch.undo()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"{MIDDLE}' was written by jaxmm 8\.8, and the rest by"):
        examine(store, NAMES)
    assert contents(tmp_path) == before
    rewritten(tmp_path / MIDDLE, {"format": files.FORMAT + 1, "version": "9.9"})
    with pytest.raises(ValueError, match=rf"{MIDDLE}' was written by jaxmm 9\.9.*update it"):
        examine(store, NAMES)


def test_a_part_of_other_columns_is_refused(tmp_path):
    store = three(tmp_path)
    batch = random_batch(10, 20)
    replace(batch, names=replace(batch.names, fixef=("a", "b", "c"))).write(tmp_path / MIDDLE)
    with pytest.raises(ValueError, match=f"{MIDDLE}' has other columns than this model"):
        examine(store, NAMES)
    pq.write_table(pq.read_table(tmp_path / MIDDLE).replace_schema_metadata({}), tmp_path / MIDDLE)
    with pytest.raises(ValueError, match=f"{MIDDLE}' is a Parquet file, but not one of results"):
        examine(store, NAMES)


def test_looking_is_cheap(tmp_path):
    """It reads the ends of files: of a part of 10^5 replicates less than a hundredth of what it holds."""
    one, n = random_batch(0, 1), 100_000
    part = one.take(np.zeros(n, int))
    part.replicate[:] = np.arange(n)
    rng = np.random.default_rng(1)
    part = part.with_columns(loglik=rng.normal(size=n), fixef=rng.normal(size=part.fixef.shape))
    store = Store(tmp_path, STUDY_A)
    store.write(part, 0, n)
    path = next(tmp_path.glob("part-*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # a bit within the numbers: told when they are read
    path.write_bytes(data)
    examine(store, NAMES)
    with pytest.raises(ValueError, match=r"part-.*damaged.*remove it and run again"):
        store.read()


def test_a_part_whose_numbers_were_changed_is_computed_anew(tmp_path, sleep_reml):
    Y = np.asarray(sleep_reml.simulate(6, key=1))
    given = {"out": tmp_path, "batch": 1, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxmm.costs.POOLS_IN_PART", 2)
        whole = mm.fit_many(sleep_reml, Y, **given)
        names = sorted(p.name for p in tmp_path.glob("part-*"))
        assert len(names) > 1
        for name in names[:2]:
            flipped(tmp_path / name)
        with pytest.raises(ValueError, match=r"part-.*remove it and run again"):
            load(tmp_path)
        with pytest.warns(UserWarning, match=r"part-.*' is damaged.*: its replicates are computed anew, and the file"):
            again = mm.fit_many(sleep_reml, Y, **given)
    assert_same(again, whole)
    assert len(list(tmp_path.glob("damaged-*"))) == 2 and sorted(p.name for p in tmp_path.glob("part-*")) == names


# ---------------------------------------------------------------- what was tampered with
@pytest.mark.parametrize(
    "about",
    [
        b"3", b"[]", b'"text"', b'{"layout": 3}', b"not JSON",
        {"format": "x"}, {"format": None}, {"layout": None}, {"layout": [["replicate", "<i8", []]]},
        {"layout": [["replicate", "O", []]]}, {"layout": [[1, 2]]}, {"names": None}, {"names": {"fixef": 3}},
        {"names": []}, {"labels": 3}, {"labels": {"x": None}},
    ],
)  # fmt: skip
def test_tampered_metadata(about, tmp_path):
    path = tmp_path / "a.parquet"
    random_batch(0, 10).save(path)
    rewritten(path, about)
    with pytest.raises(ValueError, match=r"a\.parquet'"):
        load(path)


def test_names_that_are_not_those_of_the_columns(tmp_path):
    path = tmp_path / "a.parquet"
    random_batch(0, 10).save(path)
    names = json.loads(pq.read_table(path).schema.metadata[files.KEY])["names"]
    rewritten(path, {"names": names | {"fixef": ["only one"]}})
    with pytest.raises(ValueError, match=r"a\.parquet' holds no fits"):
        load(path)


def test_a_null_status_is_no_success(tmp_path):
    import pyarrow as pa

    path = tmp_path / "a.parquet"
    random_batch(0, 4).save(path)
    table = pq.read_table(path)
    status = pa.array([0, None, 0, 0], pa.int8())
    table = table.set_column(table.schema.get_field_index("status"), pa.field("status", pa.int8()), status)
    rewritten(path, table=table)
    with pytest.raises(ValueError, match=r"a\.parquet' is damaged \(1 of status are null\)"):
        load(path)


# ---------------------------------------------------------------- room
def test_a_folder_that_takes_no_files(tmp_path, monkeypatch):
    store, original = three(tmp_path), open
    before = contents(tmp_path)

    def refused(path, *arguments, **options):
        if str(path).startswith(str(tmp_path)) and "x" in "".join(map(str, arguments)):
            raise OSError(errno.EROFS, "Read-only file system")
        return original(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(OSError, match=f"{tmp_path}' takes no files .Read-only.*nothing was computed") as caught:
        check_room(store.folder, NAMES, 10)
    assert caught.value.errno == errno.EROFS
    monkeypatch.undo()
    assert contents(tmp_path) == before
    check_room(store.folder, NAMES, 10)
    assert contents(tmp_path) == before


def test_a_disk_without_room(tmp_path):
    with pytest.raises(
        OSError, match=f"need about .* MB, and '{tmp_path}' has .* MB free: nothing was computed"
    ) as caught:
        check_room(tmp_path, NAMES, 2**50)
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


# ---------------------------------------------------------------- one at a time
locks = pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")


@locks
def test_a_folder_at_work_is_refused(tmp_path):
    whole, third, fourth = Shard(), Shard.of("3/16"), Shard.of((4, 16))
    with at_work(tmp_path, whole):
        for other in (whole, third):
            with pytest.raises(
                RuntimeError, match=rf"worked on by another call \(process {os.getpid()} on .*shard='1/2'"
            ):
                with at_work(tmp_path, other):
                    raise AssertionError
    with at_work(tmp_path, third), at_work(tmp_path, fourth):
        for other in (whole, third):
            with pytest.raises(RuntimeError, match=f"'{tmp_path}' is being worked on by another call"):
                with at_work(tmp_path, other):
                    raise AssertionError
    with at_work(tmp_path, whole, 0, 2), at_work(tmp_path, whole, 1, 2):  # two processes of jax.distributed
        pass
    with at_work(tmp_path, whole):
        pass


HOLDER = """
import sys
from pathlib import Path
from jaxmm.results.shards import Shard, at_work
with at_work(Path(sys.argv[1]), Shard()):
    print("holds", flush=True)
    input()
"""


@locks
def test_a_killed_process_holds_nothing(tmp_path):
    env = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], env=env, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        with pytest.raises(RuntimeError, match=f"process {process.pid} on"), at_work(tmp_path, Shard()):
            raise AssertionError
        process.kill()
    with at_work(tmp_path, Shard()):
        pass


# ---------------------------------------------------------------- shards
@pytest.mark.parametrize("n", [0, 1, 5, 16, 1000, 12_345_678_901])
def test_shards_make_up_the_whole(n):
    bounds = [Shard(k, 16).bounds(n) for k in range(1, 17)]
    assert bounds[0][0] == 0 and bounds[-1][1] == n
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    sizes = [b - a for a, b in bounds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("given", ["3", "0/16", "17/16", (3,), (0, 2), (1.0, 2), (True, 2), 3, "a/b", "-1/4", [1, 0]])
def test_what_is_no_shard(given):
    with pytest.raises(ValueError, match=r"shard must be '3/16' or \(3, 16\)"):
        Shard.of(given)


def test_load_tells_which_shards_lack_what(tmp_path):
    store = Store(tmp_path, STUDY_A)  # of 100 replicates
    with recorded(tmp_path, Shard(1, 4)):
        store.write(random_batch(0, 25), 0, 25)
    with pytest.raises(OSError, match="the disk") as caught, recorded(tmp_path, Shard(2, 4)):
        store.write(random_batch(25, 30), 25, 30)
        raise OSError("the disk is gone")
    assert caught.value.__notes__ == [f"in shard 2 of 4 of '{tmp_path}'"]
    with pytest.warns(UserWarning) as told:
        assert len(load(tmp_path)) == 30
    text = str(told[0].message)
    assert "holds 30 of 100 replicates" in text and "shard 1" not in text
    assert "shard 2 of 4 lacks 30 .. 49 (it failed: OSError: the disk is gone)" in text
    assert "shard 3 of 4 lacks 50 .. 74 (it was never begun)" in text and "shard 4 of 4 lacks 75 .. 99" in text
    (tmp_path / "shard-003-of-004.json").write_text("[]")
    with pytest.warns(UserWarning, match=r"shard-003-of-004\.json' is not what jaxmm writes there"):
        load(tmp_path)
    assert read_names(tmp_path) >= {STUDY, "shard-001-of-004.json"}


def read_names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}
