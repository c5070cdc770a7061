"""fit_many: one design, many responses, as one program.

The replicates are cut into blocks, the blocks into pools of L lanes (``pool``).  There is a worker for each core, or
for each accelerator; several processes (``jax.distributed``) share the blocks among them.  Where there is a folder, a
part is written to it every few seconds, and what is there is not done again.

Lanes of one width share a program, in which no lane reads from another: the same replicate has the same bits, whatever
is beside it, and wherever blocks and parts end.  Programs of other widths may add in another order: estimates then
differ by 1e-15 to 1e-14 of themselves, 5e-14 of a standard error, where the likelihood is curved, and by up to 6e-9
where it is flat, as that of generalised lanes may be.

Where programs of lanes would not pay, lanes are searched one after another (``singly``), each to the bits of a single
fit: the number of all replicates and the model alone say whether, no matter which part or shard is asked for.  Between
the two ways stands what ends a search: 1e-8 of a standard error where the likelihood is curved; standard errors
differ by 6e-8 of themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmm import costs
from jaxmm._context import check_not_traced, computing, cores, devices_of
from jaxmm.batch import interrupts
from jaxmm.batch.datasets import are_datasets, check_absent, fit_datasets
from jaxmm.batch.progress import progress_bar
from jaxmm.batch.routes import PartRoutes, Ways
from jaxmm.batch.setup import scaled_start
from jaxmm.optimize import Control, as_control
from jaxmm.results.ahead import check_room, computed_and_read, examine
from jaxmm.results.kept import as_keep
from jaxmm.results.result import FitBatch, concatenate, no_fits
from jaxmm.results.schema import as_columns, names_of
from jaxmm.results.shards import Shard, at_work, recorded
from jaxmm.results.store import Store, gaps_between
from jaxmm.sources import labelled
from jaxmm.sources.direct import design_of
from jaxmm.sources.inputs import Inputs, read_inputs
from jaxmm.sources.responses import Responses, as_responses, unfitted


def fit_many(
    model: Any,
    Y: Any = None,
    *,
    formula: str | None = None,
    family: Any = None,
    reml: bool | None = None,
    n_agq: int | str | None = None,
    contrasts: dict[str, str] | None = None,
    names: Any = None,
    weights: Any = None,
    offset: Any = None,
    columns: Any = None,
    missing: str = "drop",
    start: Any = None,
    batch: int | None = None,
    out: Any = None,
    shard: Any = None,
    progress: bool = True,
    control: Control | dict | None = None,
    collapse: bool = True,
    collect: bool = True,
    keep: Any = (),
    dim: str | None = None,
    layer: str | None = None,
) -> FitBatch:
    """Fit one design to many responses, or many data sets of different sizes: ``fit_many(datasets, formula=...)``.

    Args:
        model: a ``Model``, or a ``Fit`` whose model is meant. Or data sets, in a list or from a generator: tables with
            the same columns (pandas, polars, pyarrow, mappings), each with its own rows, groups and missing values; or
            arrays (y, X, Z, codes) each, (n,), (n, p), (n, q), (n,), without a formula. Codes are labels of any kind;
            a row where one is NaN, or -1 among whole numbers from 0 on, is left out, as one is where y, X or Z is NaN.
        Y: (n, nobs), a response in each row: an array, a memory map; or an iterator of such arrays; or a source of
            responses such as ``Simulated`` and ``Generated``. Counts of successes where there are trials. Or responses
            with names: a table with a response in each column (or in each row), an ``xarray.DataArray`` with the
            observations along one dimension, an ``AnnData``, whose variables are the responses. Observations are
            matched by label where Y has the labels of all rows of the model, by position where it has none of them or
            they only count; labels of which some are the model's are an error.
        formula, family, reml, n_agq, contrasts: of data sets, as in ``lmm`` and ``glmm``; the levels of factors in X
            and Z are those of the first 1,000 data sets; the first that half of them have is what others are compared
            with. Of the arguments below, data sets take ``weights`` and ``offset``, names of columns, ``batch``,
            ``progress`` and ``control``; ``out`` and ``collect`` where they have a length; ``keep`` where they are
            lanes: one grouping factor, up to four effects of it in a linear model, Laplace's method in another. Data
            sets of any other model are fitted one by one.
        names: of the columns of X, where data sets are arrays; "x0", "x1", … unless given.
        weights: (n, nobs) of each lane, in the place of the model's: precisions in a linear model, else what multiplies
            a row's log density; a row of weight 0 is left out of the lane. Where the model's weights are the trials of
            its proportions, those of lanes are their trials, and Y counts successes. Also (nobs,), the same for all. A
            table or a Series, here and below, is matched by label as Y is; an array is in the order of the model.
        offset: (n, nobs) of the mean's linear predictor, in the place of the model's, such as the log of library
            sizes.
        columns: variables of the formula that each lane has values of its own for, ``{"x": array (n, nobs)}``. The
            model matrix of each lane, Z included, is that of a table with these values: interactions, transforms, and
            what transforms learn from a column (``poly``, ``scale``). Levels and contrasts are the model's. Of a model
            from arrays, columns of X and Z by their names.
        missing: "drop": a row in which Y or one of the columns is NaN is left out of its lane, and ``nobs`` says how
            many are left; "refuse": the lane has the status INVALID.
        start: where every search begins: a ``Fit``, theta (m,), a ``Truth`` or the mapping of one, as ``study`` takes
            it; by default moments of each response.
        batch: lanes that are searched at once; by default as many as suit the cache, or the accelerator's memory, the
            number of replicates and of cores. By default a few responses (some hundred of a small model), and
            generalised ones too long for the cache, are searched one after another, as single fits are: programs of
            lanes take longer to compile. A number asks for lanes. With the same number results are the same to the
            bit, however many cores, shards and processes there are. With another they differ by rounding, estimates by
            about 1e-15 to 1e-14 of themselves in linear models, up to 6e-9 where the likelihood of a generalised one is
            flat; between lanes and one after another by up to 1e-8 of a standard error.
        out: a folder for the results, a part every few seconds. A call with the same model and responses goes on where
            an interrupted or killed one stopped, to the same numbers, and a folder of something else is refused. Every
            part that is there is looked at first: one that is cut or damaged is moved aside, with a warning, and
            computed anew, and so is one whose numbers fail their checksums when they are read at the end; one of
            another version or of other columns is refused by its name. What is in memory is compared as a whole; of a
            memory map, and of what is read as it is needed, 64 rows are, of an iterator and of ``Generated`` the first
            response, of data sets 64. Whoever changes others takes another folder.
        shard: "3/16" or (3, 16): the third of sixteen shares of the replicates alone, to be called in as many
            processes or machines with one folder ``out``; the call without ``shard``, or ``load``, then has them all,
            to the numbers of one process. A share that has a part in the folder goes on as any call does.
        progress: whether to show a progress bar.
        control: ``Control`` or a dictionary of its settings; ``tolerance`` and ``max_iterations`` are those of a lane.
            ``device``: "auto" is all that JAX sees, of its default kind.
        collect: False returns an empty batch and leaves the results in the folder ``out``, for ``load``: memory then
            does not grow with the number of replicates.
        keep: what else to keep of each response, names: "vcov", the covariance of the fixed effects, for
            ``batch.vcov(k)``; "df", Satterthwaite's degrees of freedom of each coefficient in a linear model, which
            ``test_table`` then takes, and those of σ; "dispersion_se", the standard error of log φ.
        dim: along which the observations run, where Y leaves a doubt: a dimension of a DataArray; "rows" or "columns"
            of a table.
        layer: of an AnnData, in the place of its X.
        collapse: whether levels with equal cross-products share their factor (it changes rounding only).

    Several threads may call it. Beside it no other program of many matrices' ``jnp.linalg`` should run on the same CPU:
    jaxlib 0.10.2 lets two such programs wait for each other for ever.

    Returns:
        ``FitBatch``, by replicate, those of the shard where there is one, with the labels of Y, which ``to_frame()``,
        ``test_table()``, ``to_xarray()``, ``annotate(adata)`` and ``save`` give; the folder ``out`` has numbers alone.
        A response that is infinite, does not vary or cannot be fitted has a status that says so and NaN for estimates;
        it changes nothing for the others. A data set that lacks a level of a factor is fitted without the columns
        of it, which have NaN; where it lacks the level with which the others are compared it has the status ALIASED.

    Raises:
        DataError: responses of another length than the model has observations, or with labels of which only some are
            those of the model's rows; a table or a DataArray of which
            several axes may be the observations; weights, offset or columns of another shape than Y; weights that are
            negative or all zero, an offset that is not finite; a column that is not in the formula, or that lanes
            share; a data set without a column of the formula, or with a level or a kind of column that the first
            have not.
        ValueError: no data sets, or ``out`` for those of a generator; a folder that holds another study, or a part of
            another version; a shard of an iterator, or that there is not; something to ``keep`` that there is not; a
            model whose number of quadrature nodes is "auto".
        OSError: the folder takes no files or has no room for the results; FileNotFoundError: it is removed during the
            run.
        RuntimeError: another call is at work on the folder, or on the shard; the process was forked after JAX had
            started.
        TypeError: what is no model, no responses or no path; data sets of several kinds, tables without a formula, an
            argument that is for responses of one design, or for data sets; a call inside ``jax.jit``, ``grad`` or
            ``vmap``.

    Example:
        >>> Y = np.asarray(fit.simulate(2, key=1))
        >>> mm.fit_many(fit, Y, progress=False).fixef.shape
        (2, 2)
        >>> Y[1, :5] = np.nan
        >>> mm.fit_many(fit, Y, progress=False).nobs.tolist()
        [180, 175]
        >>> sleepstudy = mm.datasets.load("sleepstudy")
        >>> some = (sleepstudy.sample(n=n, random_state=n) for n in (80, 120))
        >>> mm.fit_many(some, formula="Reaction ~ Days + (1 | Subject)", progress=False).nobs.tolist()
        [80, 120]
    """
    check_not_traced("fit_many", Y, start)
    control = as_control(control)
    if not collect and out is None:
        raise ValueError("collect=False leaves results in a folder: give its path as out=")
    of_datasets = {"family": family, "reml": reml, "n_agq": n_agq, "contrasts": contrasts, "names": names}
    if are_datasets(model, formula, Y):
        other = {"Y": Y, "columns": columns, "start": start, "shard": shard, "dim": dim, "layer": layer}
        check_absent(other, "is for responses of one design: data sets of their own have all in their tables")
        if missing != "drop" or not collapse:
            raise TypeError("missing= and collapse= are for responses of one design: leave them out")
        given = {"weights": weights, "offset": offset, "batch": batch, "out": out, "progress": progress}
        return fit_datasets(model, formula, **of_datasets, **given, control=control, collect=collect, keep=keep)
    check_absent(of_datasets, "is for data sets, fit_many(datasets, formula=...): a model has it already")
    model = unfitted(model)
    own = labelled.read(Y, model.design, dim, layer)
    source, labels = as_responses(own.Y, len(model.design.y)), own.labels
    inputs = read_inputs(model.design, source, own, weights, offset, columns, missing, model.likelihood.exact)
    job = _Job(model, source, start, batch, control, collapse, inputs, as_keep(model, keep), Shard.of(shard))
    found = job.run(out, progress, collect)
    return found if labels is None or not len(found) else replace(found, labels=labels.take(found.replicate))


class _RunEndedError(Exception):
    """Ends the search of a part after Ctrl-C."""


class _Job:
    """One call of ``fit_many``: what is to be done, by whom, and what has been done."""

    def __init__(
        self,
        model: Any,
        source: Any,
        start: Any,
        batch: int | None,
        control: Control,
        collapse: bool,
        inputs: Inputs,
        keep: tuple[str, ...],
        shard: Shard,
    ):
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1):
            raise ValueError(f"batch must be a positive number of lanes, not {batch!r}")
        self.model, self.source, self.control, self.inputs, self.keep = model, source, control, inputs, keep
        self.shard = shard
        source.check(model)
        self.n = source.n
        if self.n is None and shard.count > 1:
            raise ValueError(
                f"{shard} of an iterator: who has only a share of the replicates must know how many there are; give an "
                "array, a memory map, or a source such as Simulated"
            )
        self.share = None if self.n is None else shard.bounds(self.n)
        with computing(model.device):
            self.start = scaled_start(model, start)
        self.names = names_of(model, keep)
        self.devices = devices_of(control.device)
        on_cpu = self.devices[0].platform == "cpu"
        workers = max(cores(), len(self.devices)) if on_cpu else len(self.devices)
        self.ways = Ways(model, source, inputs, self.start, batch, collapse, self.devices, workers, keep)
        self.way = self.ways.of(self.ways.common)
        if on_cpu and self.way.alone:
            workers = 1
        self.width = self.way.width
        most = workers if self.share is None else -(-(self.share[1] - self.share[0]) // self.width)
        self.workers = max(1, min(workers, most))

    @cached_property
    def block(self) -> int:
        """Replicates in a block, the same in all processes, however many cores each has."""
        most = costs.POOLS_IN_PART * self.width
        share = most
        if self.share is not None:
            share = -(-(self.share[1] - self.share[0]) // (self.workers * jax.process_count()))
        own = max(1, min(most, share))
        return own if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.asarray(own)))

    # ------------------------------------------------------------ running
    def run(self, out: Any, progress: bool, collect: bool) -> FitBatch:
        if jax.process_count() > 1:
            return self._with_others(out, progress, collect)
        if out is None:
            return concatenate([no_fits(self.names), *self._own(None, progress)[1]])
        if self.share is None:  # a stream cannot be read again
            return self._stored(self._own(out, progress)[0], collect)
        return computed_and_read(lambda: self._own(out, progress)[0], lambda store: self._stored(store, collect))

    def _stored(self, store: Any, collect: bool) -> FitBatch:
        first, stop = self.share or (0, self.n)  # of a stream the number is known by now
        return store.read(stop, first) if collect and stop != first else no_fits(self.names)

    def _own(self, out: Any, progress: bool) -> tuple[Store | None, list[FitBatch]]:
        """The folder, if there is one, and the parts of this process that are not written to it."""
        total = None if self.share is None else self.share[1] - self.share[0]
        if out is None:
            with progress_bar(progress, total) as tick:
                return None, self._all(None, tick)
        store = Store(out, self.identity)
        with at_work(store.folder, self.shard, jax.process_index(), jax.process_count()):
            examine(store, self.names)
            count = sum(size for _, size in self._missing(store))
            if count or total is None:
                check_room(store.folder, self.names, count)
            noted = recorded(store.folder, self.shard) if count else nullcontext()
            with noted, progress_bar(progress, total) as tick:
                return store, self._all(store, tick)

    def _with_others(self, out: Any, progress: bool, collect: bool) -> FitBatch:
        """The parts of all processes, in each of them; where one fails, none waits for it."""
        assert self.block
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
                    mine.search = PartRoutes(self.ways, mine.device, self.control, heard, self.keep)
            return mine.device

        def work(source: Responses, first: int, size: int, number: int) -> None:
            at = number

            def keep(results: Any) -> None:
                nonlocal at
                found, iterations = results
                batch = FitBatch(self.names, as_columns(self.model, found, iterations, at, self.keep))
                if store is None:
                    with lock:
                        done.append(batch)
                else:
                    store.write(batch, at, at + len(batch))
                at += len(batch)

            with computing(device()):
                deliver = None if store is None else keep
                keep(mine.search.run(source, first, size, deliver))

        with interrupts.remembered() as check, ThreadPoolExecutor(self.workers) as pool:
            waiting: set[Future] = set()
            try:
                for task in self._tasks(store, tick):
                    waiting.add(pool.submit(work, *task))
                    while len(waiting) >= 2 * self.workers:
                        waiting = interrupts.still_running(waiting, check)
                while waiting:
                    waiting = interrupts.still_running(waiting, check)
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
            for k, rows in enumerate(self.source.parts(self.block)):
                gaps = gaps_between(have, number, number + rows.n)
                tick(rows.n - sum(stop - first for first, stop in gaps))
                for first, stop in gaps if k % processes == me else []:
                    yield rows, first - number, stop - first, first
                number += rows.n
            if not number:
                raise ValueError("the iterator of responses gave none: there is nothing to fit")
            self.n = number
            return
        assert self.share is not None
        missing = self._missing(store)
        tick(self.share[1] - self.share[0] - sum(size for _, size in missing))
        for first, size in missing:
            if (first // self.block) % processes == me:
                yield self.source, first, size, first

    def _missing(self, store: Store | None) -> list[tuple[int, int]]:
        """Blocks (first, size) of the shard that are not done; none of a stream, of which nobody knows how many."""
        if self.share is None:
            return []
        first, stop = self.share
        if store is not None:
            return store.missing(stop, self.block, first)
        return [(at, min(self.block, stop - at)) for at in range(first, stop, self.block)]

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
            **({"keep": list(self.keep)} if self.keep else {}),
            **number,
            **self.inputs.identity(),
        }


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
