"""All lanes of a block, L at a time: the loop on the host around the compiled programs.

A worker searches L lanes at once.  A step of the search costs the same for all, so a lane that has ended gives its
place to the next one of the pool at once, and no lane waits for the slowest.  Every few seconds the results up to the
first lane that still runs are handed on: a part, for which no lane has to stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._compiled import Program, quick_options
from jaxmm.design import DataError
from jaxmm.lanes import kept
from jaxmm.lanes.advance import RUNNING, Lanes, advance, begin, choose
from jaxmm.lanes.problem import Found
from jaxmm.optimize import Control, Status, is_better
from jaxmm.sources.responses import Responses, Varying, check_rows

# Two programs at once that call the library's matrix routines for many matrices wait for each other for ever on a CPU,
# as they fill the threads that they wait for (jaxlib 0.10.2): those that do go one at a time.
LIBRARY = threading.Lock()
REFUSED = (Status.INVALID, Status.NO_VARIATION, Status.TOO_FEW_ROWS, Status.ALIASED)  # which no search will change


# ---------------------------------------------------------------- the compiled programs
@partial(Program, static_argnums=(2,))
def _steps(problem: Any, both: tuple[Lanes, Any], control: Control) -> tuple[tuple[Lanes, Any], Any]:
    """Lanes and data after some steps, and which lanes to search once more if they have ended."""
    lanes, data = both

    def step(_, lanes):
        return advance(
            lambda theta, kept: problem.evaluate(theta, data, kept),
            lanes,
            control,
            problem.rows_of_theta,
            problem.polished,
            problem.steady,
        )

    lanes = jax.lax.fori_loop(0, costs.POOL_STEPS, step, lanes)
    return (lanes, data), problem.doubtful(lanes)


@Program
def _again(problem: Any, both: tuple[Lanes, Any], mask: Any) -> tuple[Lanes, Any]:
    """The lanes of the mask (L,) at the start of a further search."""
    lanes, data = both
    theta, kept, number = problem.again(lanes)
    bar = jnp.minimum(lanes.bar, jnp.where(lanes.status == Status.CONVERGED, lanes.value, jnp.inf))
    fresh = begin(theta, problem.guess(theta), kept)
    return choose(mask, fresh._replace(bar=bar, round=number), lanes), data


@partial(Program, static_argnums=(4,))
def _pool(problem: Any, own: Varying, theta: Any, invalid: Any, turned: bool) -> tuple[Lanes, Any]:
    """Fresh lanes and their data, from what they have of their own, the lanes first unless they were ``turned``;
    ``theta`` (m,) to start from, or None, unless lanes have a start of their own; ``invalid`` (L,) or None: which
    responses the family cannot have."""
    own, refused = own if turned else own.each(lambda x: jnp.moveaxis(x, 0, -1)), None
    if own.y is not None:
        refused = problem.refuse(own)
        if invalid is not None:
            refused = jnp.where(invalid, Status.INVALID, refused)
        if not problem.forgiving:
            own = own._replace(y=jnp.where(refused < 0, own.y, problem.harmless[:, None]))
        if not problem.forgiving and own.weights is not None:
            own = own._replace(weights=jnp.where(refused < 0, own.weights, 1.0))
    data = problem.data(own)
    L = jax.tree.leaves(data)[0].shape[-1]
    if own.start is not None:
        start = own.start
    else:
        start = problem.start(data) if theta is None else jnp.broadcast_to(theta[:, None], (len(theta), L))
    if refused is not None:  # what is not a number would keep the others waiting
        start = jnp.where((refused < 0) | jnp.isfinite(start), start, 0.0)
    lanes = begin(start, problem.guess(start), problem.prepare(start, data))
    if refused is not None:
        lanes = lanes._replace(status=jnp.where(refused < 0, RUNNING, refused).astype(jnp.int32))
    return lanes, data


@Program
def _refill(both: tuple[Lanes, Any], pool: tuple[Lanes, Any], at: Any) -> tuple[Lanes, Any]:
    """The lanes ``at`` (L,) of the pool, where that is not negative, in the place of those that have ended."""
    taken = jax.tree.map(lambda x: jnp.take(x, jnp.maximum(at, 0), axis=-1), pool)
    return choose(at >= 0, taken, both)


@partial(Program, static_argnums=(2,))
def _found(problem: Any, ends: Any, keep: kept.Keep) -> Found:
    return kept.found(problem, ends, keep)


def called(alone: bool, program: Any, *arguments: Any) -> Any:
    """``alone``: it calls the library, and waits for all that do, here or in another thread's ``fit_many``."""
    if not alone:
        return program(*arguments)
    with LIBRARY:
        return jax.block_until_ready(program(*arguments))


def block_of(source: Responses, first: int, size: int, example: Varying) -> Varying:
    """What a source gives, looked at; ``example`` has the shapes of what one lane has of its own, the lane last.

    Raises:
        DataError: rows of another length than the model's, or what stands beside them of another shape.
        ValueError: lanes without responses, or with something of their own that the source does not name.
    """
    own = called(source.library, source.block, first, size)
    given, kind = own.given(), type(source).__name__
    if unknown := given - source.varies:
        raise ValueError(f"{kind} gives lanes {', '.join(sorted(unknown))} of their own: say so in {kind}.varies")
    if not given & {"y", "statistics", "made"}:
        raise ValueError(f"{kind} gives lanes no responses: its blocks need y")
    if "y" in given:  # and what stands beside it
        check_rows(own.y, len(example.y))
        check_shapes(own, example)
    return own


# ---------------------------------------------------------------- one block, on one device
class PartSearch:
    """Searches the lanes of blocks, on the device that is JAX's default in this thread; ``theta`` (m,) is where all of
    them start, or None; ``check`` says of lanes (L,) which the family cannot have, None where it has all; ``rows`` how
    many rows count in each; ``tick`` is told how many lanes have ended; ``example`` has the shapes of what one lane has
    of its own, the lane last; ``keep`` as of ``lanes.kept``; ``options`` as of ``Program.bind``."""

    def __init__(
        self,
        problem: Any,
        theta: Any,
        width: int,
        control: Control,
        check: Any,
        rows: Any,
        tick: Any,
        example: Varying,
        keep: kept.Keep,
        options: Callable[[], dict[str, Any]] | None = None,
    ):
        self.options = options
        self.problem, self.theta, self.width, self.control = problem, theta, width, control
        self.check, self.rows, self.tick, self.example, self.keep = check, rows, tick, example, keep
        # whether working out the results takes less time than compiling it well, for many thousands of lanes
        self.light = not ({"evaluate", "found"} <= problem.library or kept.OF_DATA & set(keep))
        self.bound: dict[Program, Any] = {}  # the shapes of all blocks are the same
        self.clock: Clock | None = None

    def _call(self, alone: bool, program: Program, *arguments: Any) -> Any:
        if program not in self.bound:
            light = program is _again or (program is _found and self.light)
            self.bound[program] = program.bind(*arguments, options=quick_options if light else self.options)
        return called(alone, self.bound[program], *arguments)

    def run(
        self, source: Responses, first: int, size: int, deliver: Callable[[Any], None] | None = None
    ) -> tuple[Found, np.ndarray]:
        """Results of replicates first .. first + size - 1, the replicates last, and their iterations.

        ``deliver`` is given the same of the first of them, and then of those that follow, as often as ``costs`` says:
        only what is left is then returned, which is one replicate at least.
        """
        self.source, self.first, self.size, self.read = source, first, size, 0
        self.waiting, self.count, self.results, self.before = [], 0, None, {}
        self.nobs = np.zeros(size, np.int64)
        self.delivered = 0
        both = self._next_pool()
        index = self.index.copy()  # the replicate in each lane, -1 where there is none
        self.index[:] = -1
        spare = None  # a pool that is being handed out
        while True:
            both, doubtful = self._advance(both)
            self.clock = self.clock or Clock()  # from when the programs have been compiled
            self.tick(0)  # which ends the search where it has been interrupted
            status = np.asarray(both[0].status)
            ended = (status != RUNNING) & (index >= 0)
            again = ended & np.asarray(doubtful) & ~np.isin(status, REFUSED)
            if ended.any():
                self._record(both, ended, again, index)
                index[ended & ~again] = -1
            if again.any():
                both = self._call(False, _again, self.problem, both, again)
            while (empty := np.flatnonzero(index < 0)).size:
                if spare is None or not (self.index >= 0).any():
                    if self.read >= size:
                        break
                    spare = self._next_pool()
                ready = np.flatnonzero(self.index >= 0)[: len(empty)]
                at = np.full(self.width, -1, np.int32)
                at[empty[: len(ready)]] = ready
                both = self._call(False, _refill, both, spare, at)
                index[empty[: len(ready)]] = self.index[ready]
                self.index[ready] = -1
            if not (index >= 0).any():
                return self._take(size)
            if deliver is not None and self.clock.is_due():
                stop = min(self.read, *(x[x >= 0].min(initial=size) for x in (index, self.index)))
                if stop > self.delivered:
                    deliver(self._take(int(stop)))

    def _take(self, stop: int) -> Any:
        """What was found of the replicates from the last one that was delivered to before ``stop``."""
        if self.count:
            self._work_out(self.count)
        assert self.clock is not None
        self.clock.begin()
        first, self.delivered = self.delivered, stop
        found, iterations = jax.tree.map(lambda x: x[..., first:stop], self.results)
        return found._replace(columns={**found.columns, "nobs": self.nobs[first:stop]}), iterations

    def _advance(self, both: tuple[Lanes, Any]) -> tuple[tuple[Lanes, Any], Any]:
        return self._call("evaluate" in self.problem.library, _steps, self.problem, both, self.control)

    def _next_pool(self) -> tuple[Lanes, Any]:
        """The next L replicates as fresh lanes; ``index`` says which replicate each is."""
        count = min(self.width, self.size - self.read)
        asked = self.width if self.source.endless else count
        first = self.first + self.read
        self.index = np.where(np.arange(self.width) < count, np.arange(self.width) + self.read, -1)
        own = self._block(first, asked)
        rows = self.rows(own)
        self.nobs[self.read : self.read + count] = rows[:count] if rows.ndim else rows
        self.read += count
        invalid = None if self.check is None else self.check(own)
        library = self.problem.library
        alone = "data" in library or ("start" in library and self.theta is None)
        # turned here the arrays are read once; a program turns them wherever it reads them
        held = all(isinstance(x, np.ndarray) for x in jax.tree.leaves(own))
        own = own.each(lambda x: np.ascontiguousarray(np.moveaxis(x, 0, -1))) if held else own
        return self._call(alone, _pool, self.problem, own, self.theta, invalid, held)

    def _block(self, first: int, size: int) -> Varying:
        return block_of(self.source, first, size, self.example).each(lambda x: filled_up(x, self.width))

    def _record(self, both: tuple[Lanes, Any], ended: np.ndarray, again: np.ndarray, index: np.ndarray) -> None:
        """Lanes that have ended join those before them; as soon as there are L, their results are worked out.

        Those that are searched ``again`` are put aside, and come to the others with the better of their two ends.
        """
        lanes, data = both
        outcome = kept.outcome(self.problem, lanes, data, self.keep)
        ends = jax.tree.map(np.asarray, (outcome, lanes.iteration, lanes.value, lanes.status))

        def best(lane: Any) -> Any:
            own = jax.tree.map(lambda x: x[..., lane].copy(), ends)
            before = self.before.pop(index[lane], None)
            return own if before is None else _better(before, own)

        for lane in np.flatnonzero(again):
            self.before[index[lane]] = best(lane)
        done = np.flatnonzero(ended & ~again)
        chosen = jax.tree.map(lambda x: x[..., done], ends[:2])
        for k, lane in enumerate(done):
            if index[lane] in self.before:
                for whole, x in zip(jax.tree.leaves(chosen), jax.tree.leaves(best(lane)[:2]), strict=True):
                    whole[..., k] = x
        self.waiting.append((index[done], chosen))
        self.count += len(done)
        self.tick(len(done))
        while self.count >= self.width:
            self._work_out(self.width)

    def _work_out(self, count: int) -> None:
        """The results of the first ``count`` of the lanes that wait."""
        index = np.concatenate([i for i, _ in self.waiting])
        both = jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *[o for _, o in self.waiting])
        outcome, iterations = jax.tree.map(lambda x: filled_up(x[..., :count].T, self.width).T, both)
        library = self.problem.library
        alone = "found" in library or ("evaluate" in library and bool(kept.OF_DATA & set(self.keep)))
        found = self._call(alone, _found, self.problem, outcome, self.keep)
        found = jax.tree.map(np.asarray, (found, np.maximum(iterations - 1, 0)))  # none where it is refused
        if self.results is None:
            self.results = jax.tree.map(lambda x: np.zeros((*x.shape[:-1], self.size), x.dtype), found)
        for whole, x in zip(jax.tree.leaves(self.results), jax.tree.leaves(found), strict=True):
            whole[..., index[:count]] = x[..., :count]
        self.waiting = [(index[count:], jax.tree.map(lambda x: x[..., count:], both))]
        self.count -= count


class Clock:
    """When the next part is due: soon at first, and then every ``costs.PART_SECONDS``."""

    def __init__(self):
        self.seconds = costs.FIRST_PART_SECONDS
        self.since = monotonic()

    def is_due(self) -> bool:
        return monotonic() - self.since >= self.seconds

    def begin(self) -> None:
        """A part was just handed on."""
        self.since, self.seconds = monotonic(), min(2 * self.seconds, costs.PART_SECONDS)


def _better(first: Any, second: Any) -> Any:
    """The better of two ends (outcome, iterations, value, status)."""
    if is_better(*second[2:], *first[2:]):
        return second[0], first[1] + second[1], *second[2:]
    return first


def check_shapes(own: Varying, example: Varying) -> None:
    """Raises DataError where an array is of another shape than ``example``, whose lanes are last, has it."""
    count, whole = len(own.y), example.given()
    for name in own.given() & whole - {"y"}:
        due, have = getattr(example, name), getattr(own, name)
        several = isinstance(due, tuple)
        if several and len(have) != len(due):
            raise DataError(
                f"{name} of {len(have)} terms: there must be one of each of the {len(due)} terms of the design"
            )
        for x, shape in zip(have, due, strict=True) if several else [(have, due)]:
            wanted = (count, *shape.shape[:-1])
            if np.shape(x) != wanted:
                raise DataError(
                    f"{name} of shape {np.shape(x)} for responses of shape {np.shape(own.y)}: it must be {wanted}"
                )


def filled_up(x: Any, width: int) -> Any:
    """x (k, ..) with copies of its last row up to ``width`` rows: one shape, one program."""
    if len(x) == width:
        return x
    xp = np if isinstance(x, np.ndarray) else jnp
    return xp.concatenate([x, xp.repeat(x[-1:], width - len(x), axis=0)])
