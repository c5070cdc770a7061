"""Shards of one job, in one process or many: the numbers of one process, and what is told where some fail.

What other processes call stands in this file, which they import.
"""

import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from folders import contents, parts_of

import jaxmm as mm
from jaxmm import _random
from jaxmm.results.shards import Shard
from jaxmm.results.store import standing

pytest.importorskip("pyarrow")
N = 50
TRUTH = {"fixef": [250.0, 10.0], "sd": 20.0, "sigma": 25.0}


@cache
def model() -> mm.Model:
    return mm.Model.from_formula("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy"))


def source() -> mm.Simulated:
    return mm.Simulated(model(), TRUTH, N, key=7)


def fit(**options) -> mm.FitBatch:
    return mm.fit_many(model(), source(), **{"batch": 8, "progress": False, **options})


@cache
def whole() -> mm.FitBatch:
    return fit()


def assert_same_bits(a: mm.FitBatch, b: mm.FitBatch) -> None:
    for name, x in a.arrays().items():
        np.testing.assert_array_equal(x, b.arrays()[name], err_msg=name)


def second_fails(given, *, out, shard=None, progress=True) -> mm.FitBatch:
    if shard is not None and Shard.of(shard).number == 2:
        raise OSError("the disk of shard 2 is gone")
    return fit(out=out, shard=shard)


# ---------------------------------------------------------------- in this process
def test_shards_are_the_whole(tmp_path):
    parts = {k: fit(shard=(k, 3), out=tmp_path) for k in (3, 1)}
    for k, batch in parts.items():
        first, stop = Shard(k, 3).bounds(N)
        np.testing.assert_array_equal(batch.replicate, np.arange(first, stop))
        assert_same_bits(batch, whole().take(np.arange(first, stop)))
    with pytest.warns(UserWarning, match=r"shard 2 of 3 lacks 16 \.\. 32 \(it was never begun\)"):
        mm.load(tmp_path)
    assert standing(tmp_path)[1] is False
    assert len(fit(shard="2/3", out=tmp_path, collect=False)) == 0
    assert_same_bits(mm.load(tmp_path), whole())
    before = contents(tmp_path)
    assert_same_bits(fit(out=tmp_path), whole())  # nothing is left to do
    assert_same_bits(fit(shard="2/3", out=tmp_path), whole().take(np.arange(16, 33)))
    assert contents(tmp_path) == before and standing(tmp_path) == (f"'{tmp_path}': {N} of {N} replicates", True)


def test_a_shard_without_a_folder_and_with_labels():
    import pandas as pd

    y = np.array(source().block(0, 6).y)
    table = pd.DataFrame(y.T, columns=[f"voxel {k}" for k in range(6)])
    batch = mm.fit_many(model(), table, shard="2/3", batch=8, progress=False)
    assert batch.to_frame().iloc[:, 1].tolist() == ["voxel 2", "voxel 3"]
    assert len(mm.fit_many(model(), y[:2], shard="1/3", batch=8, progress=False)) == 0


def test_a_shard_of_a_stream():
    with pytest.raises(ValueError, match="shard 1 of 2 of an iterator"):
        mm.fit_many(model(), iter([np.zeros((1, 180))]), shard="1/2", progress=False)


def test_shards_of_a_study(tmp_path):
    options = {"key": 3, "lrt": "Days", "batch": 8, "progress": False}
    for k in (1, 2):
        part = mm.study(model(), TRUTH, 12, out=tmp_path, shard=f"{k}/2", **options)
        assert len(part) == 6
    one, joined = mm.study(model(), TRUTH, 12, **options), mm.study(model(), TRUTH, 12, out=tmp_path, **options)
    for name, batch in one.models.items():
        assert_same_bits(joined.models[name], batch)
    assert joined.tests.equals(one.tests)


def test_run_shards_in_threads(tmp_path):
    with ThreadPoolExecutor(2) as threads:
        found = mm.run_shards(
            mm.fit_many, model(), source(), shards=4, out=tmp_path, executor=threads, batch=8, control={}
        )
        assert_same_bits(found, whole())
        with pytest.raises(RuntimeError, match=r"of 3 shards these failed: 2; .*The first error: OSError: the disk"):
            mm.run_shards(second_fails, None, shards=3, out=tmp_path / "b", executor=threads)
        assert sum(b - a for a, b in parts_of(tmp_path / "b")) == N - 17
        with pytest.raises(ValueError, match="workers= is the number of processes"):
            mm.run_shards(mm.fit_many, model(), shards=2, out=tmp_path, executor=threads, workers=2)
    for wrong in (0, True, 2.0):
        with pytest.raises(ValueError, match="shards must be a positive whole number"):
            mm.run_shards(mm.fit_many, model(), shards=wrong, out=tmp_path)


# ---------------------------------------------------------------- in other processes
@pytest.fixture
def importable(monkeypatch):
    """This file, by other processes."""
    here, root = str(Path(__file__).parent), str(Path(mm.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, root, *sys.path[1:]]))


def same_numbers(a: mm.FitBatch, b: mm.FitBatch) -> None:
    """With ``batch`` given, whatever the cores: the same programs."""
    assert_same_bits(a, b)


def run(executor, folder) -> None:
    found = mm.run_shards(mm.fit_many, model(), source(), shards=3, out=folder, executor=executor, batch=8)
    same_numbers(found, whole())
    first = folder / "part-{:012d}-{:012d}.parquet".format(*(x - (k == 1) for k, x in enumerate(parts_of(folder)[0])))
    first.unlink()
    kept = contents(folder)
    again = mm.run_shards(mm.fit_many, model(), source(), shards=3, out=folder, executor=executor, batch=8)
    same_numbers(again, whole())
    assert {k: v for k, v in contents(folder).items() if k in kept and k.startswith("part-")}.items() <= kept.items()


@pytest.mark.slow
def test_local_processes(importable, tmp_path):
    run(None, tmp_path)


@pytest.mark.slow
def test_dask(importable, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        run(client.get_executor(), tmp_path)
        with pytest.raises(RuntimeError, match=r"these failed: 2; .*the disk of shard 2 is gone"):
            mm.run_shards(second_fails, None, shards=3, out=tmp_path / "b", executor=client.get_executor())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray(importable, tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        run(mm.RayExecutor(), tmp_path)
        with pytest.raises(RuntimeError, match=r"these failed: 2; .*the disk of shard 2 is gone"):
            mm.run_shards(second_fails, None, shards=3, out=tmp_path / "b", executor=mm.RayExecutor(num_cpus=1))
    finally:
        ray.shutdown()


def allocate() -> None:
    model = mm.plan("y ~ arm + (1 | g)", mm.make_design({"g": 4}, between={"g": {"arm": [0, 1]}}, repeats=2))
    truth = {"fixef": [0.0, 1.0], "sd": {"g": [1.0]}, "sigma": 1.0}
    mm.optimal_allocation(model, truth, coef="arm", cost={"g": 10, "rows": 1}, budget=500)


FORKED = {"fit": lambda: fit(), "key": lambda: _random.as_key(1), "allocation": allocate}


def answer(pipe, what: str) -> None:
    try:
        FORKED[what]()
        pipe.send("")
    except RuntimeError as error:
        pipe.send(str(error))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.parametrize("what", FORKED)
def test_a_fork_after_jax_has_started(what):
    assert len(whole()) == N
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process = context.Process(target=answer, args=(theirs, what))
        process.start()
    assert mine.poll(30)
    said = mine.recv()
    process.join(30)
    assert "forked after JAX had started" in said and 'get_context("spawn")' in said
