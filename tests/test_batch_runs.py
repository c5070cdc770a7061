"""One table, however it is computed: on one device or several, by one process or two, at once or with an end between.

What runs elsewhere is this file as a program: see the end.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from folders import contents

import jaxmm as mm
from jaxmm import costs
from jaxmm._context import computing
from jaxmm.optimize import Status
from jaxmm.sources.responses import ArrayResponses, Varying

pytest.importorskip("pyarrow")
WIDTH = 4
KEY = 3


# ---------------------------------------------------------------- what is computed
@cache
def sleep(formula: str = "Reaction ~ Days + (Days | Subject)") -> mm.Model:
    return mm.Model.from_formula(formula, mm.datasets.load("sleepstudy"))


@cache
def cbpp() -> mm.Model:
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    return mm.Model.from_formula(formula, mm.datasets.load("cbpp"), "binomial")


def source(name: str, n: int, key: int = KEY, slope: float = 10.0) -> mm.Simulated:
    if name == "cbpp":
        return mm.Simulated(cbpp(), {"fixef": [-1.4, -1.0, -1.1, -1.6], "sd": 0.6}, n, jax.random.key(key))
    truth = {"fixef": [250.0, slope], "sd": {"Subject": [20.0, 4.0]}, "corr": {"Subject": 0.2}, "sigma": 25.0}
    return mm.Simulated(sleep(), truth, n, jax.random.key(key))


def rows(n: int) -> np.ndarray:
    """Responses to the sleepstudy design, one of which lacks a row."""
    y = np.array(source("sleep", n).block(0, n).y)
    y[2, 5] = np.nan
    return y


def chunks(Y: np.ndarray, size: int = 7) -> Iterator[np.ndarray]:
    return (Y[a : a + size] for a in range(0, len(Y), size))


def fit(model: mm.Model, Y, **options) -> mm.FitBatch:
    return mm.fit_many(model, Y, **{"batch": WIDTH, "progress": False, **options})


RUNS: dict[str, Callable[[Path], mm.FitBatch]] = {
    "sleepstudy": lambda _: fit(sleep(), source("sleep", 22)),
    "sleepstudy, to a folder": lambda folder: fit(sleep(), source("sleep", 22), out=folder / "sleep"),
    "one response": lambda _: fit(sleep(), rows(3)[:1]),
    "stream": lambda folder: fit(sleep(), chunks(rows(150)), out=folder / "stream"),
    "cbpp": lambda _: fit(cbpp(), source("cbpp", 9)),
    "cbpp, to a folder": lambda folder: fit(cbpp(), source("cbpp", 9), out=folder / "cbpp"),
}


def hashes() -> list[str]:
    """Of simulated responses, as each device here gives them."""
    found = []
    for device in jax.local_devices():
        with computing(device):
            blocks = [source(name, 9).block(2, 5).y for name in ("sleep", "cbpp")]
            assert all(y.device == device for y in blocks)
            found.append(hashlib.sha256(b"".join(np.asarray(y).tobytes() for y in blocks)).hexdigest())
    return found


class OneFails(ArrayResponses):
    """Rows that the second process cannot read."""

    def block(self, first: int, size: int) -> Varying:
        if jax.process_index() == 1:
            raise OSError("the disk of process 1 is gone")
        return super().block(first, size)


class Slow(ArrayResponses):
    def block(self, first: int, size: int) -> Varying:
        time.sleep(0.02)
        return super().block(first, size)


# ---------------------------------------------------------------- comparing
def assert_equal(a: mm.FitBatch, b: mm.FitBatch) -> None:
    """Estimates to 1e-8 of a standard error; of variance components, of their spread over the replicates."""
    assert a.names == b.names
    np.testing.assert_array_equal(a.replicate, np.arange(len(b)))
    np.testing.assert_array_equal(b.replicate, np.arange(len(b)))
    np.testing.assert_array_equal(a.status, b.status)
    np.testing.assert_array_equal(a.is_singular, b.is_singular)
    good = b.converged
    for name, x in a.arrays().items():
        y = b.arrays()[name]
        assert x.dtype == y.dtype and x.shape == y.shape, name
        if name in ("replicate", "status", "is_singular", "iterations") or not y.size:
            continue
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y), err_msg=name)
        known = y[good & ~np.isnan(y).reshape(len(y), -1).any(axis=1)]
        error = b.bse if name == "fixef" else 1.0
        if name != "fixef" and len(known) > 2:
            error = np.maximum(np.std(known, axis=0), 1e-3 * np.max(np.abs(known)))
        assert np.nanmax(np.abs(x - y) / error, initial=0.0) < 1e-8, name


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> dict[str, mm.FitBatch]:
    """In this process, on one device."""
    assert jax.device_count() == 1
    folder = tmp_path_factory.mktemp("here")
    return {name: run(folder) for name, run in RUNS.items()}


# ---------------------------------------------------------------- processes
def start(job: str, folder: Path, processes: int = 1) -> list[subprocess.Popen]:
    """This file as a program in ``processes`` processes of two CPU devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    root = Path(mm.__file__).parents[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path[1:]]), "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [sys.executable, __file__, job, str(folder), str(processes), str(k), str(port)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for k in range(processes)
    ]  # fmt: skip


def finish(started: list[subprocess.Popen], seconds: float = 300) -> None:
    try:
        for process in started:
            _, err = process.communicate(timeout=seconds)
            assert process.returncode == 0, err[-4000:]
    finally:
        for process in started:
            process.kill()


@pytest.mark.parametrize("processes", [1, 2])
def test_devices_and_processes(processes, here, tmp_path):
    finish(start("runs", tmp_path, processes))
    (expected,) = hashes()
    for k in range(processes):
        told = json.loads((tmp_path / f"{k}.json").read_text())
        assert told["hashes"] == [expected] * 2 and told["devices"] == 2 * processes
        for name, batch in here.items():
            assert_equal(mm.load(tmp_path / f"{name}-{k}.parquet"), batch)
    for name in ("sleep", "cbpp", "stream"):
        parts = sorted(p.name for p in (tmp_path / name).glob("part-*"))
        assert len(parts) >= 2 and sum(_size(p) for p in parts) == len(mm.load(tmp_path / name))
    if processes == 2:
        failed = [json.loads((tmp_path / f"{k}.json").read_text())["failed"] for k in range(2)]
        assert failed == ["RuntimeError: fit_many failed in process 1, whose message says why",
                          "OSError: the disk of process 1 is gone"]  # fmt: skip


def _size(part: str) -> int:
    first, last = part.removesuffix(".parquet").split("-")[1:]
    return int(last) - int(first) + 1


N = 768  # in six parts


def test_killed_and_started_again(tmp_path):
    """On two devices until it is killed, on one to its end."""
    folder = tmp_path / "out"
    (process,) = start("slow", folder)
    until = time.monotonic() + 120
    while len(list(folder.glob("part-*"))) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    before = contents(folder)
    done = [name for name in before if name.startswith("part-")]
    assert process.returncode == -signal.SIGKILL, err[-4000:]
    assert 2 <= len(done) < 6, err[-4000:]

    batch = fit(sleep(), rows(N), out=folder)
    after = contents(folder)
    kept = ["study.json", *done]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert sum(_size(name) for name in after if name.startswith("part-")) == N
    assert batch.status[2] == Status.CONVERGED and batch.nobs[2] == 179
    assert_equal(batch, fit(sleep(), rows(N)))
    again = fit(sleep(), rows(N), out=folder)
    assert contents(folder) == after
    assert_equal(again, batch)


def test_a_stream_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "FIRST_PART_SECONDS", 600.0)  # on a slow machine too there is one part
    Y = rows(300)

    def torn() -> Iterator[np.ndarray]:
        yield from chunks(Y[:200], 50)
        raise OSError("the recording ends here")

    with pytest.raises(OSError, match="the recording ends here"):
        fit(sleep(), torn(), out=tmp_path)
    before = contents(tmp_path)
    assert [name for name in before if name.startswith("part-")] == ["part-000000000000-000000000127.parquet"]
    batch = fit(sleep(), chunks(Y), out=tmp_path)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 2
    assert_equal(batch, fit(sleep(), Y))
    assert_equal(fit(sleep(), chunks(Y), out=tmp_path), batch)
    assert contents(tmp_path) == after
    with pytest.raises(ValueError, match=r"source\.first"):  # not from its beginning
        fit(sleep(), chunks(Y[7:]), out=tmp_path)
    assert contents(tmp_path) == after


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    first = fit(sleep(), source("sleep", 9), out=tmp_path)
    before = contents(tmp_path)
    both = fit(sleep(), source("sleep", 22), out=tmp_path)
    after = contents(tmp_path)
    assert all(after[name] == before[name] for name in before if name.startswith("part-"))
    assert_equal(both.take(np.arange(9)), first)
    assert_equal(both, fit(sleep(), source("sleep", 22)))


# ---------------------------------------------------------------- whose folder it is
def shifted() -> mm.Model:
    """Another day for some row: with a slope of zero the mean of its responses is that of the first model."""
    table = mm.datasets.load("sleepstudy")
    table["Days"] = table["Days"].where(table.index != 3, 2.5)
    return mm.Model.from_formula("Reaction ~ Days + (1 | Subject)", table)


OTHERS = {
    "formula": lambda: (sleep("Reaction ~ Days + (1 | Subject)"), source("sleep", 5), {}),
    "likelihood": lambda: (sleep().by_ml(), source("sleep", 5), {}),
    "family": lambda: (cbpp(), source("cbpp", 5), {}),
    "start": lambda: (sleep(), source("sleep", 5), {"start": np.array([1.0, 0.1, 0.5])}),
    "tolerance": lambda: (sleep(), source("sleep", 5), {"control": {"tolerance": 1e-4}}),
    "source.key": lambda: (sleep(), source("sleep", 5, key=4), {}),
    "source.truth": lambda: (sleep(), source("sleep", 5, slope=9.0), {}),
    "source.responses": lambda: (sleep(), rows(5), {}),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    fit(sleep(), source("sleep", 5), out=folder)
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_another_study(name, finished):
    model, Y, options = OTHERS[name]()
    before = contents(finished)
    with pytest.raises(ValueError, match=f"another study:(.|\n)* {name}: "):
        fit(model, Y, out=finished, **options)
    assert contents(finished) == before


def test_a_folder_of_another_design_with_the_same_means(tmp_path):
    """Where the slope is zero the responses tell nothing of the days."""
    model, other = sleep("Reaction ~ Days + (1 | Subject)"), shifted()
    truth = {"fixef": [250.0, 0.0], "sd": 20.0, "sigma": 25.0}
    fit(model, mm.Simulated(model, truth, 3, jax.random.key(1)), out=tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=" design: "):
        fit(other, mm.Simulated(other, truth, 3, jax.random.key(1)), out=tmp_path)
    assert contents(tmp_path) == before


# ---------------------------------------------------------------- threads and memory
def test_matrix_routines_in_a_response_of_ones_own():
    """Two workers that call them at once would wait for each other for ever."""
    program = "import test_batch_runs; test_batch_runs.many_matrices()"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])}
    subprocess.run([sys.executable, "-c", program], env=env, check=True, timeout=240)


def many_matrices() -> None:
    import jax.numpy as jnp

    subject = np.arange(24) // 6
    model = mm.Model.from_formula("y ~ 1 + (1 | g)", {"y": np.sin(np.arange(24)), "g": subject})

    def correlated(key):
        scale, key = jax.random.exponential(key) + 1.0, jax.random.fold_in(key, 1)
        V = scale * (jnp.eye(6) + 0.5)
        return jax.random.multivariate_normal(key, jnp.zeros(6), V, (4,)).ravel()

    batch = fit(model, mm.Generated(correlated, 2**17, jax.random.key(0)), batch=4096)
    assert batch.converged.mean() > 0.99


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory as Linux tells it")
def test_memory_does_not_grow_with_the_replicates(tmp_path):
    """All but the result itself, which is returned."""
    peaks = {}
    for n in (20_000, 200_000):
        finish(start(f"memory {n}", tmp_path / str(n)))
        told = json.loads((tmp_path / str(n) / "memory.json").read_text())
        peaks[n] = told["peak"] - told["table"]
        assert told["table"] == 70 * n
    assert peaks[200_000] < peaks[20_000] + 10e6, peaks


# ---------------------------------------------------------------- this file as a program
def runs(folder: Path) -> None:
    for name, run in RUNS.items():
        run(folder).save(folder / f"{name}-{jax.process_index()}.parquet")
    told = {"hashes": hashes(), "devices": jax.device_count(), "failed": None}
    if jax.process_count() > 1:
        try:
            fit(sleep(), OneFails(rows(8)))
        except (OSError, RuntimeError) as error:
            told["failed"] = f"{type(error).__name__}: {error}"
    (folder / f"{jax.process_index()}.json").write_text(json.dumps(told))


def memory(folder: Path, n: int) -> None:
    model = mm.Model.from_formula("y ~ 1 + (1 | g)", {"y": np.sin(np.arange(20)), "g": np.arange(20) // 4})
    truth = {"fixef": 1.0, "sd": 1.0, "sigma": 1.0}
    batch = fit(model, mm.Simulated(model, truth, n, jax.random.key(0)), batch=256, out=folder)
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    table = sum(x.nbytes for x in batch.arrays().values())
    (folder / "memory.json").write_text(json.dumps({"peak": 1024 * int(line.split()[1]), "table": table}))


def every_process_caches() -> None:
    """JAX lets only the first process write what it has compiled to the cache, and its programs are of no use to
    devices of another one: the second would compile everything in every run of the tests."""
    from jax._src import compiler, distributed

    write, state = compiler._cache_write, distributed.global_state

    def as_the_first(*arguments):
        number, state.process_id = state.process_id, 0
        try:
            write(*arguments)
        finally:
            state.process_id = number

    compiler._cache_write = as_the_first


def main(job: str, folder: str, processes: str, me: str, port: str) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    if int(processes) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", int(processes), int(me))
        every_process_caches()
    jobs = {
        "runs": runs,
        "slow": lambda out: fit(sleep(), Slow(rows(N)), out=out),
        "memory": lambda out: memory(out, int(job.split()[1])),
    }
    jobs[job.split()[0]](Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
