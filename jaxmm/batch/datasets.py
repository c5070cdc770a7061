"""fit_many(datasets, formula=): data sets of different sizes, as lanes of a few programs.

    data sets --Stacker, a thousand at a time--> rows --sums by level--> lanes of as many levels --PartSearch--> results

The levels of a data set are filled up to a power of two, where an empty level changes nothing: one program serves all
data sets between two such numbers.  Data sets that lack the same levels of factors have a model of their own, without
the columns of these (``lacking``).  What no lanes can be made of is fitted one by one, by the same models.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice, repeat
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmm import costs
from jaxmm._compiled import quick_options, unfused_options
from jaxmm._context import computing, cores, devices_of
from jaxmm._text import some
from jaxmm._warn import warn
from jaxmm.batch import interrupts
from jaxmm.batch.lacking import placed, without_columns
from jaxmm.batch.pool import PartSearch
from jaxmm.batch.progress import progress_bar
from jaxmm.batch.setup import make_problem
from jaxmm.batch.singly import found_of, side_by_side
from jaxmm.batch.width import lanes_at_once
from jaxmm.design import DataError, Design
from jaxmm.design.formula import parse
from jaxmm.design.predictor import Factor, constant
from jaxmm.design.stacked import array_stacker, stacker
from jaxmm.fitted import Fitted
from jaxmm.kinds import choose_likelihood
from jaxmm.lanes.closed_form import can_have_blocks
from jaxmm.lanes.laplace_table import can_have_table
from jaxmm.lanes.own_rows import effects_of_terms
from jaxmm.lanes.segment_rows import make_row_lanes
from jaxmm.lanes.segments import make_lanes
from jaxmm.optimize import Control, Status
from jaxmm.prepared import Prepared
from jaxmm.results.ahead import check_room, computed_and_read, examine
from jaxmm.results.kept import as_keep
from jaxmm.results.result import FitBatch, concatenate, no_fits
from jaxmm.results.schema import as_columns, blank, names_of
from jaxmm.results.shards import Shard, at_work, recorded
from jaxmm.results.store import Store
from jaxmm.sources.responses import Responses, Varying, fingerprint

LOOKED_AT = 64  # data sets
Pattern = tuple[bool, ...]  # of the columns of X and Z, those that a data set has not
OWN = frozenset({"y", "X", "Z", "weights"})  # what lanes have of their own


class Made(Responses):
    """Lanes whose data are at hand, the lanes last."""

    endless, trusted, varies = True, True, frozenset({"made"})

    def __init__(self, data: Any):
        self.data, self.n = data, jax.tree.leaves(data)[0].shape[-1]

    def block(self, first: int, size: int) -> Varying:
        at = np.minimum(np.arange(first, first + size), self.n - 1)
        return Varying(made=jax.tree.map(lambda x: x[..., at], self.data))

    def identity(self) -> dict[str, Any]:
        return {}

    @property
    def lane(self) -> Varying:
        """The shapes of what one lane has."""
        return Varying(made=jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape[:-1], 1), x.dtype), self.data))


# ---------------------------------------------------------------- programs
def filled_up(sizes: np.ndarray, step: int) -> np.ndarray:
    """What numbers of levels and of rows in them are filled up to: 8 times a power of 2^step, the next one."""
    return 8 << step * np.maximum(np.ceil(np.log2(np.maximum(sizes, 1) / 8) / step), 0).astype(int)


def of_shape(model: Any, J: int, H: int) -> Any:
    """A model of the same columns and effects whose one factor has J levels of H rows; what stands there does not
    matter but for the response, which the family can have."""
    d: Design = model.design
    n, rng = J * H, np.random.default_rng(0)
    X = rng.normal(size=(n, len(d.columns)))
    labels = np.arange(J).astype(str).astype(object)
    factor = Factor(d.factors[0].name, labels, np.repeat(np.arange(J, dtype=np.int32), H))
    y, trials = np.resize(d.y, n), None if d.trials is None else np.resize(d.trials, n)
    design = replace(
        d, y=y, X=X, factors=(factor,), weights=None, offset=None, index=pd.RangeIndex(n), kept=np.ones(n, bool),
        terms=tuple(replace(t, Z=rng.normal(size=(n, t.Z.shape[1]))) for t in d.terms), held_out=None, y_all=y,
        weights_all=None, trials=trials, trials_all=trials, further=tuple(constant(p.name, n) for p in d.further),
    )  # fmt: skip
    return model.with_design(design)


class Linear:
    """How data sets become lanes of a linear model: by sums over their levels."""

    quick = costs.DATASETS_QUICK

    def __init__(self, model: Any):
        self.model, self.effects = model, effects_of_terms(model.design, model.elimination.order)

    @property
    def suits(self) -> bool:
        return can_have_blocks(self.model.structure)

    def lanes(self, rows: Any) -> Any:
        return make_lanes(rows, self.model.structure, self.effects)

    def of_shape(self, shape: tuple[int, ...]) -> Any:
        """A model with lanes of this shape."""
        d = self.model.design
        q = sum(t.Z.shape[1] for t in d.terms)
        return of_shape(self.model, shape[0], max(q + 1, -(-(len(d.columns) + 1) // shape[0]) + 1))


class Generalised:
    """The same of a generalised one, whose rows stand in a table of levels."""

    quick = costs.DATASETS_QUICK_ROWS

    def __init__(self, model: Any):
        self.model, self.effects = model, effects_of_terms(model.design, model.elimination.order)

    @property
    def suits(self) -> bool:
        lik, smallest = self.model.likelihood, of_shape(self.model, 8, 8)
        with computing(self.model.device):
            return lik.n_agq == 1 and can_have_table(lik.parts(smallest.accumulator, smallest.design, room=False))

    def lanes(self, rows: Any) -> Any:
        return make_row_lanes(rows, self.model.structure, self.effects, self.model.likelihood.family)

    def of_shape(self, shape: tuple[int, ...]) -> Any:
        return of_shape(self.model, *shape)


class Programs:
    """The problem of lanes of each shape, made as such are met; all threads share them."""

    def __init__(self, kind: Any, batch: int | None, n: int | None, devices: list[Any], workers: int):
        self.kind, self.batch, self.n, self.devices, self.workers = kind, batch, n, devices, workers
        self.made: dict[tuple[int, ...], Any] = {}
        self.lock = threading.Lock()

    def of(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """The model and the problem."""
        with self.lock:
            if shape not in self.made:
                model = self.kind.of_shape(shape)
                self.made[shape] = model, make_problem(model, None, False, OWN)
            return self.made[shape]

    def width(self, shape: tuple[int, ...], lane: Varying) -> int:
        """How many lanes at once; ``lane`` has the shapes of one."""
        if self.batch is not None:
            return int(self.batch)
        return int(lanes_at_once(*self.of(shape), lane, self.n, self.workers, self.devices[0]))


# ---------------------------------------------------------------- the job
class Datasets:
    """One call: ``stacker`` and ``model`` are of the first data sets."""

    def __init__(
        self, stacker: Any, model: Any, n: int | None, batch: int | None, control: Control, keep: Any, stored: bool
    ):
        self.stacker, self.model, self.n, self.control, self.keep = stacker, model, n, control, keep
        self.names = names_of(model, keep)
        self.kind = self._kind(model)
        self.devices = devices_of(control.device)
        on_cpu = self.devices[0].platform == "cpu"
        workers = max(cores(), len(self.devices)) if on_cpu else len(self.devices)
        self.block = costs.DATASETS_BLOCK
        if n is not None and not stored:  # in a folder blocks are the same wherever it goes on
            self.block = min(self.block, max(-(-n // workers), 1))
        self.settings: Any = batch, None if n is None else min(n, self.block), self.devices, workers
        self.workers = workers
        self.mine = threading.local()
        self.turn, self.lock = iter(range(1 << 30)), threading.Lock()
        self.programs: dict[Pattern, Programs] = {}

    @staticmethod
    def _kind(model: Any) -> Any:
        return Linear(model) if model.likelihood.precisions else Generalised(model)

    def _programs(self, lost: Pattern) -> Programs:
        """Of the data sets without these columns."""
        with self.lock:
            if lost not in self.programs:
                kind = self._kind(without_columns(self.model, np.array(lost))) if any(lost) else self.kind
                self.programs[lost] = Programs(kind, *self.settings)
            return self.programs[lost]

    @cached_property
    def in_lanes(self) -> bool:
        """Whether lanes can be made of the data sets; else they are fitted one by one."""
        return self.stacker.can_stack and self.kind.suits

    def run(self, datasets: Iterator[Any], deliver: Any, tick: Any, wanted: Any = None) -> int:
        """Fits the data sets of the blocks that are ``wanted``, all where None; returns how many there are."""

        def work(block: list[Any], first: int) -> None:
            fitted = self._fit if self.in_lanes else self._apart
            with computing(self._device()):
                deliver(fitted(block, first, tick))

        number = 0
        with interrupts.remembered() as check, ThreadPoolExecutor(self.workers) as pool:
            waiting: set[Future] = set()
            try:
                while block := list(islice(datasets, self.block)):
                    if wanted is None or number in wanted:
                        waiting.add(pool.submit(work, block, number))
                    else:
                        tick(len(block))
                    number += len(block)
                    while len(waiting) >= self.workers:
                        waiting = interrupts.still_running(waiting, check)
                while waiting:
                    waiting = interrupts.still_running(waiting, check)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return number

    def _device(self) -> Any:
        if not hasattr(self.mine, "device"):
            with self.lock:
                self.mine.device = self.devices[next(self.turn) % len(self.devices)]
            self.mine.searches = {}
        return self.mine.device

    def _search(self, lost: Pattern, shape: tuple[int, ...], lane: Varying, tick: Any, quick: bool) -> PartSearch:
        key = lost, shape, quick
        if key not in self.mine.searches:
            programs = self._programs(lost)
            problem = jax.device_put(programs.of(shape)[1], self.mine.device)
            width, zero = programs.width(shape, lane), np.zeros((), np.int64)
            options = quick_options if quick else unfused_options
            self.mine.searches[key] = PartSearch(
                problem, None, width, self.control, None, lambda own: zero, tick, Varying(), self.keep, options
            )
        return self.mine.searches[key]

    def _fit(self, block: list[Any], first: int, tick: Any) -> FitBatch:
        """The data sets first, first + 1, .."""
        columns = blank(self.names, len(block))
        columns["replicate"] = first + np.arange(len(block))
        quick = first < self.kind.quick and (self.n is None or self.n <= self.kind.quick)
        waiting: dict[tuple[Pattern, tuple[int, ...]], list[tuple[np.ndarray, Any]]] = {}
        for at in range(0, len(block), costs.DATASETS_STACKED):
            every = self.stacker.rows(block[at : at + costs.DATASETS_STACKED], first + at)
            columns["nobs"][at : at + len(every.rows)] = every.rows
            for lost, which, rows in _by_pattern(every):
                programs = self._programs(lost)
                lanes = programs.kind.lanes(rows)
                columns["status"][at + which] = lanes.status
                to_search, filled = lanes.status[lanes.at] < 0, filled_up(lanes.sizes, 2 if quick else 1)
                tick(len(which) - int(to_search.sum()))
                for shape in sorted(set(map(tuple, filled[to_search].tolist()))):
                    chosen = np.flatnonzero(to_search & (filled == shape).all(axis=1))
                    laid = lanes.padded(chosen, shape, programs.of(shape)[1])
                    waiting.setdefault((lost, shape), []).append((at + which[lanes.at[chosen]], laid))
        for (lost, shape), pieces in sorted(waiting.items(), key=lambda item: item[0]):
            where = np.concatenate([at for at, _ in pieces])
            made = Made(jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *[d for _, d in pieces]))
            found, iterations = self._search(lost, shape, made.lane, tick, quick).run(made, 0, len(where))
            model = self._programs(lost).kind.model
            made_of_it = as_columns(model, found, iterations, 0, self.keep)
            for name, x in placed(made_of_it, names_of(model, self.keep), self.names).items():
                if name not in ("replicate", "nobs"):
                    columns[name][where] = x
        return FitBatch(self.names, columns)

    # ------------------------------------------------------------ one by one
    def _apart(self, block: list[Any], first: int, tick: Any) -> FitBatch:
        columns = blank(self.names, len(block))
        columns["replicate"] = first + np.arange(len(block))
        for k, data in enumerate(block):
            columns["status"][k], own = self._single(data, first + k)
            for name, x in own.items():
                columns[name][k] = x
            tick(1)
        return FitBatch(self.names, columns)

    def _single(self, data: Any, number: int) -> tuple[int, dict[str, Any]]:
        """The status of a data set and its columns, by a fit of its own."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                design = self.stacker.build(data)
            except DataError:
                return _reason(self.stacker, data)
            if self._has_others(design, data, number):
                return Status.ALIASED, {"nobs": len(design.y)}
            try:
                fit = Single(design, self.model.likelihood, device=self.model.device).fit(control=self.control)
            except DataError:
                return _reason(self.stacker, data)
        found = as_columns(
            fit.model,
            side_by_side([found_of(fit.model, fit.estimates, fit._control)]),
            np.array([fit.estimates.iterations]),
            number,
        )
        names = names_of(fit.model)
        if names.theta == self.names.theta:
            found["theta"] = found["theta"][:, _theta_order(fit.model, self.model)]
        found = placed(found, names, self.names)
        del found["replicate"]
        return int(found["status"][0]), {name: x[0] for name, x in found.items()}

    def _has_others(self, design: Design, data: Any, number: int) -> bool:
        """Whether a data set has other columns of X than all, for another reason than that it lacks levels."""
        ours = self.model.design
        if (design.columns, design.dropped, _effects(design)) == (ours.columns, ours.dropped, _effects(ours)):
            return False
        known = {*ours.columns, *ours.dropped}
        new = [c for c in (*design.columns, *design.dropped) if c not in known]
        if new:
            raise DataError(
                f"data set {number} has the column {new[0]!r} of X, which the first data sets have not: make factors "
                "categorical, with the same levels in all data sets"
            )
        rows = self.stacker.rows([data], number)
        lost = {c for c, is_lost in zip(ours.columns, rows.lost[0], strict=False) if is_lost}
        return bool(rows.aliased[0]) or set(design.columns) != set(ours.columns) - lost


def _effects(design: Design) -> list[Any]:
    return [(design.factors[t.factor].name, t.effects) for t in design.terms]


def _by_pattern(rows: Any) -> Iterator[tuple[Pattern, np.ndarray, Any]]:
    """(columns that are lost, which data sets lack these alone, their rows)."""
    if not rows.lost.any():
        yield (False,) * rows.lost.shape[1], np.arange(len(rows.rows)), rows
        return
    patterns, of = np.unique(np.where(rows.aliased[:, None], False, rows.lost), axis=0, return_inverse=True)
    for k, lost in enumerate(patterns):
        some = np.flatnonzero(np.ravel(of) == k)
        yield tuple(lost.tolist()), some, rows.part(some, lost)


class Single(Prepared):
    """A model of one of the data sets."""

    def fit(self, *, start: Any = None, control: Any = None) -> Fitted:
        arrays = self.arrays
        with computing(self.device):
            estimates = self.likelihood.estimate(self.accumulator, arrays, self.design, start, control)
        return Fitted(self, estimates, control)


def _theta_order(model: Any, reference: Any) -> list[int]:
    """Where the elements of theta of one model stand in that of another with other numbers of levels."""
    at, place = 0, {}
    for t, layout in model.theta_terms():
        place[t] = range(at, at + layout.covariance.num_params)
        at += layout.covariance.num_params
    return [k for t, _ in reference.theta_terms() for k in place[t]]


def _reason(stacker: Any, data: Any) -> tuple[int, dict[str, Any]]:
    """Why a data set has no fit of its own, and how many rows it has."""
    try:
        rows = stacker.rows([data], 0)
    except DataError:
        return Status.INVALID, {}
    if rows.bad[0]:
        return Status.INVALID, {}
    n, levels = rows.rows[0], stacker.levels(data)
    if n <= rows.X.shape[1] or min(levels) < 2 or max(levels) >= n:
        return Status.TOO_FEW_ROWS, {"nobs": n}
    return Status.NO_VARIATION if np.ptp(rows.y) == 0 else Status.INVALID, {"nobs": n}


# ---------------------------------------------------------------- from the arguments of fit_many
def are_datasets(given: Any, formula: str | None, Y: Any) -> bool:
    """Whether the first argument of ``fit_many`` is data sets, not a model of responses Y."""
    if formula is not None:
        if hasattr(getattr(given, "model", given), "likelihood"):
            raise TypeError("formula= is for data sets, fit_many(datasets, formula=...): a model has its own")
        return True
    return Y is None and isinstance(given, list | tuple | Iterator)


def check_absent(arguments: Mapping[str, Any], reason: str) -> None:
    """Raises TypeError for the first that is given."""
    for name, value in arguments.items():
        if value is not None:
            raise TypeError(f"{name}= {reason}")


def fit_datasets(
    datasets: Any,
    formula: str | None,
    *,
    family: Any,
    reml: bool | None,
    n_agq: Any,
    contrasts: Any,
    names: Any,
    weights: Any,
    offset: Any,
    batch: int | None,
    out: Any,
    progress: bool,
    control: Control,
    collect: bool,
    keep: Any,
) -> FitBatch:
    """See ``engine.fit_many``."""
    likelihood = choose_likelihood(family, reml, n_agq)
    n = len(datasets) if hasattr(datasets, "__len__") else None
    given, datasets = datasets, checked(datasets, formula)
    first = list(islice(datasets, costs.DATASETS_STACKED))
    if not first:
        raise ValueError("there are no data sets: there is nothing to fit")
    of = None if family is None else likelihood.family
    for name, value in (("weights", weights), ("offset", offset)):
        if value is not None and (formula is None or not isinstance(value, str)):
            raise TypeError(f"{name} of data sets is the name of a column of each table, not {type(value).__name__}")
    if formula is None:
        if contrasts is not None:
            raise TypeError("contrasts= is for a formula: data sets of arrays have their columns as they are")
        read: Any = array_stacker(first, names, of)
    else:
        if names is not None:
            raise TypeError("names= is for data sets of arrays: a formula has its own")
        terms = parse(formula)
        further = {p.name: None for p in likelihood.family.further} if of is not None else None
        read = stacker(terms, first, further, of, weights, offset, contrasts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Single(read.design, likelihood, device=control.device)
    if read.design.dropped:
        warn(
            f"the fixed effects are rank-deficient: dropped {some(read.design.dropped)} in all data sets, a "
            "combination of the columns before"
        )
    if formula is not None:
        _warn_of_aliased(read, first)
    job = Datasets(read, model, n, batch, control, as_keep(model, keep), out is not None)
    if job.keep and not job.in_lanes:
        raise ValueError(
            "keep= is for data sets that are fitted as lanes: linear models of one grouping factor with few effects"
        )
    every = chain(first, datasets)
    if out is None:
        parts: list[FitBatch] = []
        with progress_bar(progress, n) as tick:
            job.run(every, parts.append, tick)
        return concatenate([no_fits(job.names), *parts])
    if n is None:
        raise ValueError(
            "out= needs data sets that can be counted, so that a run can go on where it stopped: give a list, or any "
            "object with a length that gives the same data sets again"
        )
    identity, passes = _identity(job, first), chain([every], (checked(given, formula) for _ in repeat(None)))
    return computed_and_read(
        lambda: _stored(job, next(passes), identity, out, progress),
        lambda store: store.read(n) if collect else no_fits(job.names),
    )


def _warn_of_aliased(read: Any, tables: list[Any]) -> None:
    """Where most of the first data sets lack a level that gives the others their meaning."""
    matrices = (read.design.spec.matrix, *read.design.spec.bars)
    if all(v.labels is None for m in matrices for v in m.variables):
        return
    which = np.unique(np.linspace(0, len(tables) - 1, LOOKED_AT).astype(int))
    aliased = int(read.rows([tables[k] for k in which], 0).aliased.sum())
    if 2 * aliased > len(which):
        warn(
            f"{aliased} of {len(which)} data sets that were looked at lack a level of a factor with which the others "
            "are compared, and are ALIASED: drop a level that few data sets have, or code the factor by contrasts "
            "'treatment'"
        )


def _identity(job: Datasets, first: list[Any]) -> dict[str, Any]:
    """What a folder belongs to, from the ``first`` data sets."""
    d, lik = job.model.design, job.model.likelihood
    which = np.unique(np.linspace(0, len(first) - 1, 64).astype(int))
    rows = job.stacker.rows([first[k] for k in which], 0)
    told = [x for x in (rows.y, rows.X, *rows.Z, rows.weights, rows.offset, rows.trials, rows.level) if x is not None]
    return {
        "formula": d.formula,
        "likelihood": lik.kind,
        "family": f"{lik.family!r}",
        "columns": list(d.columns),
        "source": {"responses": "data sets", "some": fingerprint(*told)},
        "tolerance": job.control.tolerance,
        "max_iterations": job.control.max_iterations,
        **({"keep": list(job.keep)} if job.keep else {}),
        "n": job.n,
    }


def _stored(job: Datasets, every: Iterator[Any], identity: dict[str, Any], out: Any, progress: bool) -> Store:
    """Fits what the folder lacks of ``every`` data set."""
    n: Any = job.n
    store, shard = Store(out, identity), Shard.of(None)
    with at_work(store.folder, shard):
        examine(store, job.names)
        missing = store.missing(n, job.block)
        if missing:
            check_room(store.folder, job.names, sum(size for _, size in missing))
        noted = recorded(store.folder, shard) if missing else nullcontext()
        blocks = {first - first % job.block for first, _ in missing}

        def write(batch: FitBatch) -> None:
            store.write(batch, int(batch.replicate[0]), int(batch.replicate[-1]) + 1)

        with noted, progress_bar(progress, n) as tick:
            count = job.run(every, write, tick, blocks)
        if count != n:
            raise ValueError(f"the data sets said that they are {n}, and gave {count}")
    return store


def checked(datasets: Any, formula: str | None) -> Iterator[Any]:
    """The data sets one by one, of one kind all.

    Raises:
        TypeError: what is no iterable of data sets; tables of several kinds; arrays with a formula, tables without one.
    """
    if (
        isinstance(datasets, str | bytes | Mapping)
        or hasattr(datasets, "columns")
        or not isinstance(datasets, Iterable)
    ):
        raise TypeError(
            f"datasets is a {type(datasets).__name__}: give a list of tables or a generator that yields them; one "
            "table with many data sets in it is [part for _, part in table.groupby(...)]"
        )
    return _checked(datasets, formula)


def _checked(datasets: Iterable[Any], formula: str | None) -> Iterator[Any]:
    first: str | None = None
    for k, data in enumerate(datasets):
        kind = _kind(data, k)
        if kind != (first := first or kind):
            raise TypeError(f"data set {k} is {kind}, and data set 0 {first}: give all of one kind")
        if kind == ARRAYS and formula is not None:
            raise TypeError("data sets of arrays (y, X, Z, codes) have no names for a formula: leave formula= out")
        if kind != ARRAYS and formula is None:
            raise TypeError("data sets that are tables need formula=, such as formula='y ~ x + (x | g)'")
        yield data


ARRAYS = "arrays (y, X, Z, codes)"


def _kind(data: Any, k: int) -> str:
    if isinstance(data, tuple | list):
        if len(data) != 4:
            raise TypeError(f"data set {k} is a {type(data).__name__} of {len(data)}: arrays are (y, X, Z, codes)")
        return ARRAYS
    if isinstance(data, Mapping):
        return "a mapping"
    if not hasattr(data, "columns"):
        raise TypeError(f"data set {k} is a {type(data).__name__}: give a table, a mapping of columns, or {ARRAYS}")
    return f"a {type(data).__module__.split('.')[0]} {type(data).__name__}"
