"""Data sets of different sizes, as lanes of a few programs.

    data sets --Stacker, a thousand at a time--> rows --sums by level--> lanes of as many levels --PartSearch--> results

The levels of a data set are filled up to a power of two, where an empty level changes nothing: one program serves all
data sets between two such numbers.  Data sets that lack the same levels of factors have a model of their own, without
the columns of these (``lacking``).  What no lanes can be made of is fitted one by one, by the same models.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import Any

import jax
import numpy as np

from jaxmm import costs
from jaxmm._compiled import quick_options, unfused_options
from jaxmm._context import computing, cores, devices_of
from jaxmm.batch import interrupts
from jaxmm.batch.dataset_programs import Generalised, Linear, Made, Programs, filled_up
from jaxmm.batch.lacking import placed, without_columns
from jaxmm.batch.pool import PartSearch
from jaxmm.batch.singly import found_of, side_by_side
from jaxmm.design import DataError, Design
from jaxmm.fitted import Fitted
from jaxmm.optimize import Control, Status
from jaxmm.prepared import Prepared
from jaxmm.results.result import FitBatch
from jaxmm.results.schema import as_columns, blank, names_of
from jaxmm.sources.responses import Varying

Pattern = tuple[bool, ...]  # of the columns of X and Z, those that a data set has not


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
