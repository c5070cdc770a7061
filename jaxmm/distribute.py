"""A call of ``fit_many`` or ``study`` -> the same as shards in many processes, by any pool that takes tasks.

    run_shards(study, model, truth, n, key=1, out=folder, shards=16, executor=pool)
        pool ── study(…, shard=(1, 16)), …, study(…, shard=(16, 16)) ──▶ folder ── study(…) ──▶ all of them

A task is a shard, and returns nothing: what it finds is in the folder that all of them see.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np

from jaxmm.results.shards import Shard

Returned = TypeVar("Returned")


def run_shards(
    verb: Callable[..., Returned],
    *args: Any,
    shards: int,
    out: Any,
    executor: Any = None,
    workers: int | None = None,
    **options: Any,
) -> Returned:
    """``verb(*args, out=out, **options)``, each of its shards a task in another process.

    A shard that was done, or was cut off, in an earlier call goes on from what is in the folder. Where shards fail, the
    others come to their end first.

    Args:
        verb: ``fit_many``, ``study``, or a function of one's own that has ``out``, ``shard`` and ``progress`` too, and
            that another process can import. What it is given is pickled: arrays, models, fits and sources can be.
        args, options: its own.
        shards: how many; a few for each worker, so that a slow one is not waited for.
        out: the folder, which all processes must see.
        executor: who runs the tasks: anything with ``submit(function, *args)`` that returns a future, as
            ``concurrent.futures`` have it, ``client.get_executor()`` of Dask, or ``RayExecutor()``. Where None, new
            processes of this machine that have a share of its cores each; a script then needs
            ``if __name__ == "__main__":``.
        workers: how many such processes; by default as many as cores.

    Returns:
        What ``verb`` returns for all replicates, to the numbers of one process.

    Raises:
        RuntimeError: shards failed; it names them, with the first one's error.
        ValueError: no positive number of shards, or ``workers`` beside an ``executor``.

    Example:
        >>> import tempfile
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as threads:
        ...     source = mm.Simulated(fit.model, fit, 4, key=1)
        ...     batch = mm.run_shards(mm.fit_many, fit, source, shards=2, out=folder, executor=threads)
        >>> len(batch)
        4
    """
    for name, number in {"shards": shards, "workers": 1 if workers is None else workers}.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{name} must be a positive whole number, not {number!r}")
    if executor is not None and workers is not None:
        raise ValueError("workers= is the number of processes where there is no executor: the executor has its own")
    quiet = {**options, "out": out, "progress": False}
    with _processes(min(shards, workers or shards)) if executor is None else nullcontext(executor) as pool:
        tasks = [pool.submit(_work, verb, args, quiet, k, int(shards)) for k in range(1, shards + 1)]
        failed = _failures(tasks)
    if failed:
        which = ", ".join(map(str, list(failed)[:8])) + (f" and {len(failed) - 8} more" if len(failed) > 8 else "")
        error = next(iter(failed.values()))
        raise RuntimeError(
            f"of {shards} shards these failed: {which}; what the others found is in '{os.fspath(out)}', and the same "
            f"call goes on from there. The first error: {_last_line(error)}"
        ) from error
    return verb(*args, **quiet)


def _work(verb: Callable[..., Any], args: tuple, options: dict[str, Any], number: int, count: int) -> None:
    verb(*args, shard=Shard(number, count), **options)


def _failures(tasks: list[Any]) -> dict[int, BaseException]:
    """Number of the shard -> its error, once all have ended."""
    failed: dict[int, BaseException] = {}
    try:
        for number, task in enumerate(tasks, 1):
            try:
                task.result()
            except Exception as error:
                failed[number] = error
    except BaseException:  # Ctrl-C: what has not begun does not begin
        for task in tasks:
            task.cancel()
        raise
    return failed


def _last_line(error: BaseException) -> str:
    """An error of another process may bring the lines of its traceback along."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if len(lines) > 1 else f"{type(error).__name__}: {error}"


# ---------------------------------------------------------------- pools
def _processes(most: int) -> ProcessPoolExecutor:
    """New processes, not forked, as JAX has threads; each on its own share of the cores, where that can be told."""
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = min(most, len(cores) or os.cpu_count() or 1)
    shares: Any = context.Queue()
    for k in range(count):
        shares.put(cores[k::count])
    return ProcessPoolExecutor(count, context, _settle, (shares,))


def _settle(shares: Any) -> None:
    if cores := shares.get():
        os.sched_setaffinity(0, cores)


class RayExecutor:
    """Tasks of Ray, for ``run_shards``: on the cluster that ``ray.init`` was told of, or on this machine.

        mm.run_shards(mm.study, model, truth, 100_000, key=1, out="/shared/results", shards=64,
                      executor=mm.RayExecutor(num_cpus=4))

    Args:
        options: of each task, as ``ray.remote`` takes them: ``num_cpus``, ``num_gpus``, ``resources``, …

    Raises:
        ImportError: Ray is not installed.

    Example:
        >>> mm.RayExecutor(num_cpus=4)  # doctest: +SKIP
    """

    def __init__(self, **options: Any):
        try:
            import ray  # pyright: ignore
        except ImportError as error:
            raise ImportError("RayExecutor needs Ray: pip install 'jaxmm[ray]'") from error
        self._ray, self.options = ray, options

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        """A future of ``function(*args)``."""
        remote = self._ray.remote(**self.options)(function) if self.options else self._ray.remote(function)
        return remote.remote(*args).future()
