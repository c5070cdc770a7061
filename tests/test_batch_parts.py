"""Parts are cut by time while lanes go on: whatever the cuts, the same bits; what a kill leaves is kept."""

import io
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from folders import parts_of

import jaxmm as mm
from jaxmm import costs
from jaxmm.batch import pool
from jaxmm.sources.responses import ArrayResponses, Varying

pytest.importorskip("pyarrow")
N, WIDTH = 300, 8


@cache
def model() -> mm.Model:
    return mm.Model.from_formula("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy"))


@cache
def responses() -> np.ndarray:
    truth = {"fixef": [250.0, 10.0], "sd": 20.0, "sigma": 25.0}
    y = np.array(mm.Simulated(model(), truth, N, key=5).block(0, N).y)
    y[[0, 7, 150]] += 1e3 * np.arange(180)  # lanes that take longer than their neighbours
    return y


def fit(Y=None, **options) -> mm.FitBatch:
    return mm.fit_many(model(), responses() if Y is None else Y, **{"batch": WIDTH, "progress": False, **options})


@cache
def whole() -> mm.FitBatch:
    return fit()


def assert_same_bits(a: mm.FitBatch, b: mm.FitBatch) -> None:
    for name, x in a.arrays().items():
        np.testing.assert_array_equal(x, b.arrays()[name], err_msg=name)


@pytest.fixture
def at_once(monkeypatch):
    """A part whenever one can be cut."""
    monkeypatch.setattr(costs, "FIRST_PART_SECONDS", 0.0)
    monkeypatch.setattr(costs, "PART_SECONDS", 0.0)


@pytest.mark.parametrize("of", ["array", "stream"])
def test_results_do_not_depend_on_the_cut(of, at_once, tmp_path):
    batch = fit(responses() if of == "array" else iter([responses()]), out=tmp_path)
    parts = parts_of(tmp_path)
    assert len(parts) > 20 and parts[0][0] == 0 and parts[-1][1] == N
    assert [stop for _, stop in parts[:-1]] == [first for first, _ in parts[1:]]  # nothing twice, nothing left out
    assert_same_bits(batch, whole())


def test_what_is_left_of_a_block_is_done_alone(at_once, tmp_path):
    """Also of a stream, whose arrays are cut where blocks begin."""
    fit(out=tmp_path)
    for first, stop in parts_of(tmp_path)[3:9:2]:
        (tmp_path / f"part-{first:012d}-{stop - 1:012d}.parquet").unlink()
    kept = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("part-*")}
    assert_same_bits(fit(out=tmp_path), whole())
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("part-*")}.items() >= kept.items()


def test_a_part_every_few_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pool, "monotonic", lambda: now[0])
    clock, due = pool.Clock(), []
    for k in range(500):
        now[0] = 100.0 + k / 10
        if clock.is_due():
            due.append(k)
            clock.begin()
    assert due[:7] == [5, 15, 35, 75, 125, 175, 225]  # tenths of a second


class Slow(ArrayResponses):
    def block(self, first: int, size: int) -> Varying:
        time.sleep(0.05)
        return super().block(first, size)


def start(folder: Path) -> subprocess.Popen:
    """This file as a program, which fits slowly into the folder."""
    root = Path(mm.__file__).parents[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path[1:]]), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, __file__, str(folder)], env=env)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_again_and_again(tmp_path):
    """A job that takes longer than it is let live comes to its end, with the bits of one that was left alone."""
    done = [0]
    for _ in range(3):
        process = start(tmp_path)
        until = time.monotonic() + 60
        while sum(b - a for a, b in parts_of(tmp_path)) <= done[-1] and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done.append(sum(b - a for a, b in parts_of(tmp_path)))
    assert 0 < done[1] < done[2] < done[3] < N
    before = {p.name: p.read_bytes() for p in tmp_path.glob("part-*")}
    batch = fit(out=tmp_path)
    assert all((tmp_path / name).read_bytes() == x for name, x in before.items())
    assert_same_bits(batch, whole())


# ---------------------------------------------------------------- what is in the way
def test_a_part_that_was_cut_in_half_is_done_again(at_once, tmp_path):
    """Also where nothing is read: no call says that all is done which the next ``load`` cannot read."""
    fit(out=tmp_path)
    first, stop = parts_of(tmp_path)[2]
    path = tmp_path / f"part-{first:012d}-{stop - 1:012d}.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=f"{path.name}'.*computed anew"):
        fit(out=tmp_path, collect=False)
    assert_same_bits(mm.load(tmp_path), whole())


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_a_second_call_on_a_folder_is_refused(tmp_path):
    """By another process, which goes on undisturbed."""
    process = start(tmp_path)
    while not parts_of(tmp_path):
        assert process.poll() is None
        time.sleep(0.005)
    with pytest.raises(RuntimeError, match=f"being worked on by another call .process {process.pid} on"):
        fit(out=tmp_path)
    assert process.wait() == 0
    assert_same_bits(mm.load(tmp_path), whole())


@pytest.mark.parametrize("how", ["none", "closed", "closed meanwhile"])
def test_standard_error_closed_is_no_error(how, monkeypatch):
    class Errors(io.StringIO):
        def isatty(self) -> bool:
            return True

    errors = None if how == "none" else Errors()
    if how == "closed":
        errors.close()
    monkeypatch.setattr(sys, "stderr", errors)

    class Closes(ArrayResponses):
        def block(self, first: int, size: int) -> Varying:
            if first >= 16 and errors is not None:
                errors.close()
            return super().block(first, size)

    batch = fit(Closes(responses()), progress=True)
    monkeypatch.undo()
    assert_same_bits(batch, whole())


if __name__ == "__main__":
    costs.FIRST_PART_SECONDS = 0.05  # pyright: ignore
    fit(Slow(responses()), out=sys.argv[1])
