"""Results folders between processes: what a failed, a killed or a second writer leaves."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from batches import assert_same, random_batch
from folders import DEAD, STUDY_A, contents, filled

from jaxmm.results import files
from jaxmm.results.store import Store, read_study


def test_leftovers_are_removed_when_nobody_writes_them(tmp_path):
    Store(tmp_path, STUDY_A)

    def leave(host, pid, age):
        path = tmp_path / f".jaxmm-{host}-{pid}-{os.urandom(16).hex()}.tmp"
        path.write_text("half a part")
        os.utime(path, (time.time() - age,) * 2)
        return path

    gone = [leave(files._HOST, DEAD, 0), leave(files._HOST, os.getpid(), 4000), leave("elsewhere", 1, 4000)]
    kept = [leave(files._HOST, os.getpid(), 0), leave("elsewhere", DEAD, 0), tmp_path / "notes.tmp"]
    kept[-1].write_text("of somebody else")
    os.utime(kept[-1], (0, 0))
    Store(tmp_path, STUDY_A)
    assert not any(p.exists() for p in gone) and all(p.exists() for p in kept)


def test_a_writer_whose_file_is_taken_for_a_leftover_writes_again(tmp_path, monkeypatch):
    """A process of another container may have the same host name, and numbers that are not seen here."""
    store, fsync, removed = Store(tmp_path, STUDY_A), os.fsync, []

    def fsync_and_lose(descriptor):
        fsync(descriptor)
        if not removed:
            removed.extend(p for p in tmp_path.iterdir() if files.is_temporary(p.name))
            removed[0].unlink()

    monkeypatch.setattr(os, "fsync", fsync_and_lose)
    store.write(random_batch(0, 10), 0, 10)
    assert removed
    assert_same(store.read(10), random_batch(0, 10))


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path, STUDY_A)
    before = contents(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(random_batch(0, 10), 0, 10)
    assert contents(tmp_path) == before


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    filled(tmp_path / "a", (0, 10))
    assert_same(Store(tmp_path / "a", STUDY_A).read(), random_batch(0, 10))


def start(folder: Path, program: str, **values) -> subprocess.Popen:
    """A Python process with the folder as ``folder`` and the study as ``study``."""
    head = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(files.__file__).parents[2])]!r}\n"
    head += "from batches import random_batch\nfrom jaxmm.results.store import Store\n"
    head += "".join(f"{k} = {v!r}\n" for k, v in {"folder": str(folder), "study": STUDY_A, **values}.items())
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        text=True,
    )


def together(processes: list[subprocess.Popen]) -> list[str]:
    """What they print when they go on at one moment, each from its "ready"."""
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        found.append(out)
    return found


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_writer_leaves_whole_parts(tmp_path):
    """Killed at a moment of its own choice and at others: what is there is whole, and the run goes on."""
    writer = """
        store = Store(folder, study)
        print("ready", flush=True)
        for first, size in store.missing(20_000, 10):
            store.write(random_batch(first, first + size), first, first + size)
    """
    writers = [start(tmp_path / str(k), writer) for k in range(3)]
    for k, process in enumerate(writers):
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        until = time.monotonic() + 20
        while len(list((tmp_path / str(k)).glob("part-*"))) < 5 and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.003 * k)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        folder = tmp_path / str(k)
        store = Store(folder, STUDY_A)
        (done,) = store.done()
        assert done[0] == 0 and 50 <= done[1] < 20_000
        assert_same(store.read(), random_batch(*done))
        assert not [p for p in folder.iterdir() if files.is_temporary(p.name)]
        for first, size in store.missing(done[1] + 30, 10):
            store.write(random_batch(first, first + size), first, first + size)
        assert_same(store.read(done[1] + 30), random_batch(0, done[1] + 30))


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_with_a_part_half_written(tmp_path):
    writer = """
        import os
        store = Store(folder, study)
        store.write(random_batch(0, 10), 0, 10)
        os.fsync = lambda _: os.kill(os.getpid(), 9)
        store.write(random_batch(10, 20), 10, 20)
    """
    process = start(tmp_path, writer)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (leftover,) = [p for p in tmp_path.iterdir() if files.is_temporary(p.name)]
    assert_same(Store(tmp_path, STUDY_A).read(10), random_batch(0, 10))
    assert not leftover.exists()


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "iterdir")])
def test_another_process_begins_in_between(tmp_path, monkeypatch, owner, call):
    """Between the look at an empty folder and the beginning of a study in it, another one begins: it stays."""
    original, begun = getattr(owner, call), []

    def begin_first(x):
        if not begun:
            begun.append(True)
            filled(tmp_path, (0, 10), key=[7, 7])
        return original(x)

    monkeypatch.setattr(owner, call, begin_first)
    with pytest.raises(ValueError, match=r"key: \[7, 7\] there, \[0, 1\] now"):
        Store(tmp_path, STUDY_A)
    assert begun
    assert_same(Store(tmp_path, STUDY_A | {"key": [7, 7]}).read(), random_batch(0, 10))


def test_two_processes_open_and_write_at_once(tmp_path):
    writer = """
        print("ready", flush=True)
        input()
        for k in range(40):
            store = Store(f"{folder}/{k}", study)
        for first, size in store.missing(200, 10):
            if first // 10 % 2 == me or first >= 180:
                store.write(random_batch(first, first + size), first, first + size)
        print(len(Store(folder + "/39", study).done()) > 0)
    """
    assert together([start(tmp_path, writer, me=me) for me in range(2)]) == ["True\n"] * 2
    store = Store(tmp_path / "39", STUDY_A)
    assert store.done() == [(0, 200)]
    assert_same(store.read(200), random_batch(0, 200))
    for k in range(40):
        assert read_study(tmp_path / str(k)) == read_study(tmp_path / "0")
        assert not [p for p in (tmp_path / str(k)).iterdir() if files.is_temporary(p.name)]


def test_two_processes_with_different_studies(tmp_path):
    """One of them begins, and the other is refused."""
    opener = """
        print("ready", flush=True)
        input()
        refused = 0
        for k in range(40):
            try:
                Store(f"{folder}/{k}", study | {"key": me})
            except ValueError as error:
                assert "another study" in str(error), error
                refused += 1
        print(refused)
    """
    assert sum(map(int, together([start(tmp_path, opener, me=me) for me in range(2)]))) == 40
