"""fit_many: one design, many responses, as one program.

The replicates are cut into parts, the parts into pools of L lanes (``pool``).  Each lane's arithmetic is its own:
what it finds does not depend on its neighbours, nor on L.  There is a worker for each core, or for each accelerator;
several processes (``jax.distributed``) share the parts among them.  Where there is a folder, each part is written to
it as soon as it is done, and what is there is not done again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmm import costs
from jaxmm._context import check_not_traced, computing
from jaxmm._waiting import bars
from jaxmm.batch import interrupts
from jaxmm.batch.pool import PartSearch
from jaxmm.batch.setup import example, make_problem, scaled_start
from jaxmm.optimize import Control, as_control
from jaxmm.results.result import FitBatch, concatenate, no_fits
from jaxmm.results.schema import as_columns, names_of
from jaxmm.results.store import Store
from jaxmm.sources import labelled
from jaxmm.sources.direct import design_of
from jaxmm.sources.responses import Responses, Varying, as_responses, unfitted


def fit_many(
    model: Any,
    Y: Any,
    *,
    start: Any = None,
    batch: int | None = None,
    out: Any = None,
    progress: bool = True,
    control: Control | dict | None = None,
    collapse: bool = True,
    collect: bool = True,
    dim: str | None = None,
    layer: str | None = None,
) -> FitBatch:
    """Fit one design to many responses.

    Args:
        model: a ``Model``, or a ``Fit`` whose model is meant.
        Y: (n, nobs), a response in each row: an array, a memory map; or an iterator of such arrays; or a source of
            responses such as ``Simulated`` and ``Generated``. Counts of successes where there are trials. Or responses
            with names: a table with a response in each column (or in each row), an ``xarray.DataArray`` with the
            observations along one dimension, an ``AnnData``, whose variables are the responses. Observations are
            matched by label where Y has the labels of all rows of the model, else by position.
        start: where every search begins: a ``Fit``, theta (m,), a ``Truth`` or the mapping of one, as ``study`` takes
            it; by default moments of each response.
        batch: lanes that are searched at once; by default as many as suit the cache, or the accelerator's memory.
        out: a folder for the results, part by part. A call with the same model and responses goes on where an
            interrupted one stopped, also after Ctrl-C, and a folder of something else is refused. Of the responses
            only some are compared: 64 rows of an array, the first of an iterator or of ``Generated``. Whoever changes
            others takes another folder.
        progress: whether to show a progress bar.
        control: ``Control`` or a dictionary of its settings; ``tolerance`` and ``max_iterations`` are those of a lane.
            ``device``: "auto" is all that JAX sees, of its default kind.
        collect: False returns an empty batch and leaves the results in the folder ``out``, for ``load``: memory then
            does not grow with the number of replicates.
        dim: along which the observations run, where Y leaves a doubt: a dimension of a DataArray; "rows" or "columns"
            of a table.
        layer: of an AnnData, in the place of its X.
        collapse: whether levels with equal cross-products share their factor (it changes rounding only).

    Several threads may call it. Beside it no other program of many matrices' ``jnp.linalg`` should run on the same CPU:
    jaxlib 0.10.2 lets two such programs wait for each other for ever.

    Returns:
        ``FitBatch``, by replicate, with the labels of Y, which ``to_frame()``, ``test_table()``, ``to_xarray()``,
        ``annotate(adata)`` and ``save`` give; the folder ``out`` has numbers alone. A response that is not finite, does
        not vary or cannot be fitted has a status that says so and NaN for estimates; it changes nothing for the others.

    Raises:
        DataError: responses of another length than the model has observations; a table or a DataArray of which
            several axes may be the observations.
        ValueError: a folder that holds another study; a model whose number of quadrature nodes is "auto".
        FileNotFoundError: the folder is removed during the run.
        TypeError: what is no model, no responses or no path; a call inside ``jax.jit``, ``grad`` or ``vmap``.

    Example:
        >>> mm.fit_many(fit, fit.simulate(2, key=1), progress=False).fixef.shape
        (2, 2)
    """
    check_not_traced("fit_many", Y, start)
    model = unfitted(model)
    control = as_control(control)
    Y, labels = labelled.read(Y, model.design, dim, layer)
    source = as_responses(Y, len(model.design.y))
    job = _Job(model, source, start, batch, control, collapse)
    if not collect and out is None:
        raise ValueError("collect=False leaves results in a folder: give its path as out=")
    found = job.run(out, progress, collect)
    return found if labels is None or not len(found) else replace(found, labels=labels)


HEARING = 0.2  # seconds of waiting at a time: one without end hears nothing of Ctrl-C if another thread gets the signal


class _RunEndedError(Exception):
    """Ends the search of a part after Ctrl-C."""


class _Job:
    """One call of ``fit_many``: what is to be done, by whom, and what has been done."""

    def __init__(self, model: Any, source: Any, start: Any, batch: int | None, control: Control, collapse: bool):
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1):
            raise ValueError(f"batch must be a positive number of lanes, not {batch!r}")
        self.model, self.source, self.control, self.collapse = model, source, control, collapse
        source.check(model)
        self.n = source.n
        with computing(model.device):
            self.start = scaled_start(model, start)
            self.problem = make_problem(model, self.start, collapse, source.varies)
        self.names = names_of(model)
        self.devices = _devices(control.device)
        on_cpu = self.devices[0].platform == "cpu"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(cores, len(self.devices)) if on_cpu else len(self.devices)
        if on_cpu and "evaluate" in self.problem.library:
            workers = 1
        self.width = int(batch or (self._width_on_cpu(workers) if on_cpu else self._width_on_accelerator()))
        self.workers = workers if self.n is None else max(1, min(workers, -(-self.n // self.width)))

    @property
    def check(self) -> Any:
        """Which responses (L, n) are not the family's; None for a source that has none."""
        family, trials = self.model.likelihood.family, self.model.design.trials
        if self.source.trusted or self.problem.takes_any:
            return None

        def invalid(y: Any) -> np.ndarray:
            y = np.asarray(y)
            with np.errstate(invalid="ignore"):
                good = np.asarray(family.valid(y)) & (y <= (np.inf if trials is None else trials))
            return ~np.all(good, axis=1)

        return invalid

    @cached_property
    def example(self) -> Varying:
        """The shapes of what one lane has of its own, the lane last."""
        return example(self.model, self.source.varies)

    def _bytes(self) -> int:
        """Of the data of one lane."""
        with computing(self.model.device):
            data = jax.eval_shape(lambda problem, own: problem.data(own), self.problem, self.example)
        return 8 * sum(x.size for x in jax.tree.leaves(data))

    def _width_on_cpu(self, workers: int) -> int:
        each = self._bytes() * self.problem.temporaries
        rows = 8 * sum(x.size for x in jax.tree.leaves(self.example))
        widths, most = costs.BATCH_WIDTHS, (costs.CACHE_BYTES, costs.RESPONSE_BYTES)
        fits = [w for w in widths if w * each <= most[0] and w * rows <= most[1]] or [widths[0]]
        wanted = fits[-1] if self.n is None else max(-(-self.n // (costs.FILLINGS * workers)), 64)
        return next((w for w in fits if w >= wanted), fits[-1])

    def _width_on_accelerator(self) -> int:
        stats = self.devices[0].memory_stats() or {}
        room = stats.get("bytes_limit", 1 << 34) // 64
        most = 1 << max(6, int(np.log2(max(room // (self._bytes() * self.problem.temporaries), 1))))
        wanted = costs.ACCELERATOR_LANES if self.n is None else 1 << max(6, int(np.ceil(np.log2(max(self.n, 1)))))
        return min(most, costs.ACCELERATOR_LANES, wanted)

    @cached_property
    def part(self) -> int:
        """Replicates in a part, the same in all processes, however many cores each has."""
        most = costs.POOLS_IN_PART * self.width
        share = most if self.n is None else -(-self.n // (self.workers * jax.process_count()))
        own = max(1, min(most, share))
        return own if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.asarray(own)))

    # ------------------------------------------------------------ running
    def run(self, out: Any, progress: bool, collect: bool) -> FitBatch:
        if jax.process_count() > 1:
            return self._with_others(out, progress, collect)
        store, done = self._own(out, progress)
        return concatenate(done) if store is None else self._stored(store, collect)

    def _stored(self, store: Store, collect: bool) -> FitBatch:
        return store.read(self.n) if collect else no_fits(self.names)

    def _own(self, out: Any, progress: bool) -> tuple[Store | None, list[FitBatch]]:
        """The folder, if there is one, and the parts of this process that are not written to it."""
        store = None if out is None else Store(out, self.identity)
        with progress_bar(progress, self.n) as tick:
            return store, self._all(store, tick)

    def _with_others(self, out: Any, progress: bool, collect: bool) -> FitBatch:
        """The parts of all processes, in each of them; where one fails, none waits for it."""
        assert self.part
        failure, store, done = None, None, []
        try:
            store, done = self._own(out, progress)
        except Exception as problem:
            failure = problem
        failed = np.ravel(multihost_utils.process_allgather(np.asarray(failure is not None)))
        if failure is not None:
            raise failure
        if failed.any():
            raise RuntimeError(f"fit_many failed in process {np.flatnonzero(failed)[0]}, whose message says why")
        own = concatenate([no_fits(self.names), *done])
        return _gathered(own) if store is None else self._stored(store, collect)

    def _all(self, store: Store | None, tick: Any) -> list[FitBatch]:
        done: list[FitBatch] = []
        mine, stop = threading.local(), threading.Event()
        lock, turn = threading.Lock(), iter(range(1 << 30))

        def heard(count: int) -> None:
            if stop.is_set():
                raise _RunEndedError
            tick(count)

        def device() -> Any:
            if not hasattr(mine, "search"):
                with lock:
                    mine.device = self.devices[next(turn) % len(self.devices)]
                with computing(mine.device):
                    problem = jax.device_put(self.problem, mine.device)
                    settings = self.start, self.width, self.control, self.check, heard, self.example
                    mine.search = PartSearch(problem, *settings)
            return mine.device

        def work(source: Responses, first: int, size: int, number: int) -> None:
            with computing(device()):
                found, iterations = mine.search.run(source, first, size)
            batch = FitBatch(self.names, as_columns(self.model, found, iterations, number))
            if store is None:
                with lock:
                    done.append(batch)
            else:
                store.write(batch, number, number + size)

        with interrupts.remembered() as check, ThreadPoolExecutor(self.workers) as pool:
            waiting: set[Future] = set()
            try:
                for task in self._tasks(store, tick):
                    waiting.add(pool.submit(work, *task))
                    while len(waiting) >= 2 * self.workers:
                        waiting = _still_running(waiting, check)
                while waiting:
                    waiting = _still_running(waiting, check)
            except BaseException as reason:
                if not isinstance(reason, Exception):  # after Ctrl-C nobody waits for parts to be done
                    stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return done

    def _tasks(self, store: Store | None, tick: Any) -> Iterator[tuple[Any, int, int, int]]:
        """(source, first replicate in it, how many, number of the first) of the parts of this process."""
        processes, me = jax.process_count(), jax.process_index()
        if self.n is None:  # a stream: it gives its own parts
            number = 0
            have = store.done() if store else []
            for k, rows in enumerate(self.source.parts(self.part)):
                known = any(a <= number and number + rows.n <= b for a, b in have)
                if k % processes == me and not known:
                    yield rows, 0, rows.n, number
                elif known:
                    tick(rows.n)
                number += rows.n
            if not number:
                raise ValueError("the iterator of responses gave none: there is nothing to fit")
            self.n = number
            return
        assert self.n is not None
        missing = [(f, min(self.part, self.n - f)) for f in range(0, self.n, self.part)]
        if store is not None:
            missing = store.missing(self.n, self.part)
            tick(self.n - sum(size for _, size in missing))
        for first, size in missing:
            if (first // self.part) % processes == me:
                yield self.source, first, size, first

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a results folder belongs to."""
        d, lik = self.model.design, self.model.likelihood
        source = dict(self.source.identity())
        number = {"n": source.pop("n")} if "n" in source else {}
        return {
            "formula": d.formula,
            "likelihood": lik.kind,
            "family": f"{lik.family!r}",
            "columns": list(d.columns),
            "terms": [f"{t.covariance.name}({' + '.join(t.effects)} | {d.factors[t.factor].name})" for t in d.terms],
            "design": design_of(self.model, d.offset, d.trials),
            "start": None if self.start is None else [float(x) for x in self.start],
            "tolerance": self.control.tolerance,
            "max_iterations": self.control.max_iterations,
            "source": source,
            **number,
        }


def _still_running(parts: set[Future], check: Callable[[], None]) -> set[Future]:
    """What is left as soon as some have ended; raises what they raise, and what ``check`` raises meanwhile."""
    ended: set[Future] = set()
    while not ended:
        check()
        ended, parts = wait(parts, HEARING, FIRST_COMPLETED)
    for future in ended:
        future.result()
    return parts


def _gathered(own: FitBatch) -> FitBatch:
    """What all processes have, in each of them."""
    counts = np.ravel(multihost_utils.process_allgather(np.asarray(len(own))))

    def padded(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((max(counts) - len(x), *x.shape[1:]), x.dtype)])

    with jax.enable_x64(True):
        all_of_them = {name: multihost_utils.process_allgather(padded(x)) for name, x in own.arrays().items()}
    parts = [
        FitBatch(own.names, {name: np.asarray(x)[k, :count] for name, x in all_of_them.items()})
        for k, count in enumerate(counts)
    ]
    return concatenate(parts)


def _devices(wanted: Any) -> list[Any]:
    """The local devices to compute on.

    Raises:
        ValueError: a device that JAX does not see here.
    """
    if isinstance(wanted, jax.Device):
        return [wanted]
    if wanted == "auto":
        return jax.local_devices()
    if not isinstance(wanted, str):
        raise ValueError(f"control.device must be 'auto', 'cpu', 'gpu' or a jax.Device, not {wanted!r}")
    try:
        return jax.local_devices(backend=wanted)
    except (RuntimeError, TypeError) as problem:
        raise ValueError(f"control.device is {wanted!r}, but JAX sees no such device here") from problem


@contextmanager
def progress_bar(progress: bool, n: int | None) -> Iterator[Any]:
    """A function that is told how many more replicates are done."""
    if not progress:
        yield lambda count: None
        return
    lock = threading.Lock()
    with bars()(total=n, unit=" fits", unit_scale=True) as bar:

        def tick(count: int) -> None:
            with lock:
                bar.update(count)

        yield tick
