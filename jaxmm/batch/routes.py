"""The lanes of a part, each to the problem of its kind (``sources.inputs``), and their results put back in order.

A lane's kind depends on its own data, and on which patterns of missing rows all the responses have: not on the part
that it is in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmm import costs
from jaxmm._context import computing
from jaxmm.batch.aliased import Kept, estimable, expanded, kept_columns
from jaxmm.batch.pool import Clock, PartSearch, block_of
from jaxmm.batch.setup import example, has_program, make_problem
from jaxmm.batch.singly import ACCEPTED, SingleSearch, are_better_singly
from jaxmm.batch.width import lanes_at_once
from jaxmm.lanes.kept import Keep
from jaxmm.lanes.problem import Found
from jaxmm.optimize import Control
from jaxmm.sources.inputs import OWN, SHARED, Inputs
from jaxmm.sources.responses import Responses, Varying


class Way(NamedTuple):
    """How lanes of a kind are searched: their ``problem``, ``theta`` (m,) to start from or None, the ``width`` of a
    batch; ``check`` says which lanes (L,) the family cannot have, or is None; ``example`` has the shapes of what one
    lane has of its own."""

    problem: Any
    theta: Any
    width: int
    check: Callable[[Varying], np.ndarray] | None
    example: Varying

    @property
    def alone(self) -> bool:
        """Whether one worker must do."""
        return "evaluate" in self.problem.library

    def search(self, model: Any, device: Any, control: Control, tick: Any, keep: Keep) -> PartSearch:
        problem = jax.device_put(self.problem, device)
        settings = control, self.check, rows_counted(model), tick, self.example, keep
        return PartSearch(problem, self.theta, self.width, *settings)


class SingleWay(Way):
    """One after another, each as a single fit; ``problem`` says which of them are refused."""

    @property
    def alone(self) -> bool:
        return True

    def search(self, model: Any, device: Any, control: Control, tick: Any, keep: Keep) -> SingleSearch:
        return SingleSearch(model, self, control, rows_counted(model), tick)


class Ways:
    """The ways of a job, made as lanes of their kinds are met; all its threads share them."""

    def __init__(
        self,
        model: Any,
        source: Any,
        inputs: Inputs,
        theta: Any,
        batch: int | None,
        collapse: bool,
        devices: list[Any],
        workers: int,
        keep: Keep,
    ):
        self.model, self.source, self.theta = model, source, theta
        self.batch, self.collapse, self.devices, self.workers = batch, collapse, devices, workers
        self.given = example(model, source.varies)
        theirs = source.varies | inputs.of_own
        possible = theirs <= ACCEPTED and not keep and batch is None and source.n is not None and not source.of_many
        at_hand = devices[0].platform == "cpu" == model.device.platform
        self.singly = possible and at_hand and are_better_singly(model, int(source.n))  # pyright: ignore
        # lanes that share a pattern share nothing else where they are searched one by one
        shared = not self.singly and has_program(model, source.varies)
        self.inputs = inputs if shared else replace(inputs, patterns=None)
        _check_errors(model, theirs if inputs.may_lack else self.varies(self.common), keep)
        self.keep = keep
        self._made: dict[int, Way] = {}
        self._reduced: dict[Kept, Ways] = {}
        self._lock = threading.Lock()

    @property
    def routed(self) -> bool:
        """Whether a part may hold lanes of several kinds."""
        return not self.inputs.plain or (self.inputs.may_lack and not self.source.trusted)

    @property
    def common(self) -> int:
        """The kind that lanes have as a rule."""
        return OWN if self.inputs.weights is not None or self.inputs.always - {"offset"} else SHARED

    def varies(self, kind: int) -> frozenset[str]:
        """What lanes of a kind have of their own."""
        given = self.source.varies | (self.inputs.always if self.routed else frozenset())
        return given | {"weights"} if kind == OWN else given

    def of(self, kind: int) -> Way:
        """The way of lanes of a kind."""
        with self._lock:
            if kind not in self._made:
                self._made[kind] = self._make(kind)
            return self._made[kind]

    def reduced(self, kept: Kept) -> Ways:
        """Of the model that has some columns of X alone."""
        with self._lock:
            if kept not in self._reduced:
                d = self.model.design
                left_out = [name for j, name in enumerate(d.columns) if j not in kept]
                model = self.model.with_design(d.without(left_out))
                theta = self.theta if model.likelihood.exact else None  # psi has coefficients, of which some are gone
                settings = self.batch, self.collapse, self.devices, self.workers, self.keep
                self._reduced[kept] = Ways(model, self.source, self.inputs, theta, *settings)
            return self._reduced[kept]

    def _make(self, kind: int) -> Way:
        patterns, varies = self.inputs.patterns, self.varies(kind)
        counts = patterns[kind - 1] if patterns is not None and kind > SHARED else None
        together = not self.singly and has_program(self.model, varies)
        with computing(self.model.device):
            problem = make_problem(self.model, self.theta, self.collapse, varies, counts, together)
        own = example(self.model, varies)
        if not together:
            return SingleWay(problem, self.theta, costs.SINGLY_AT_ONCE, self._check(problem), own)
        width = self.batch or lanes_at_once(self.model, problem, own, self.source.n, self.workers, self.devices[0])
        return Way(problem, self.theta, int(width), self._check(problem), own)

    def _check(self, problem: Any) -> Callable[[Varying], np.ndarray] | None:
        family, trials = self.model.likelihood.family, self.model.design.trials
        if self.source.trusted or problem.takes_any:
            return None

        def invalid(own: Varying) -> np.ndarray:
            y = np.asarray(own.y)
            with np.errstate(invalid="ignore"):
                most = own.trials if own.trials is not None else np.inf if trials is None else trials
                good = np.asarray(family.valid(y)) & (y <= most)
            if own.weights is not None:
                good = good | (np.asarray(own.weights) == 0)
            return ~np.all(good, axis=1)

        return invalid


def _check_errors(model: Any, varies: frozenset[str], keep: Keep) -> None:
    """Lanes of a model whose errors are correlated or of unequal variances may have to be searched one after another.

    Raises:
        NotImplementedError: something of their own that cannot be had so.
    """
    if has_program(model, varies):
        return
    wrong = [*sorted(varies - ACCEPTED), *(f"keep={name!r}" for name in keep)]
    if wrong:
        raise NotImplementedError(
            f"lanes of a model with {model.design.residual.text!r} of the errors cannot have {wrong[0]} yet: they may "
            "differ in the response, weights, offset and missing rows"
        )


class Held(Responses):
    """Lanes that are at hand."""

    def __init__(self, own: Varying):
        self.own, self.n, self.varies = own, len(own.y), own.given()

    def block(self, first: int, size: int) -> Varying:
        return self.own.each(lambda x: x[first : first + size])

    def identity(self) -> dict[str, Any]:
        return {}


class PartRoutes:
    """Searches the lanes of parts, on the device that is JAX's default in this thread; as ``pool.PartSearch``."""

    def __init__(self, ways: Ways, device: Any, control: Control, tick: Any, keep: Keep):
        self.ways, self.device, self.control, self.tick, self.keep = ways, device, control, tick, keep
        self.searches: dict[int | Kept, PartSearch | SingleSearch] = {}
        self.clock: Clock | None = None
        self.some = 0  # lanes of several kinds that are searched before their results are delivered

    def run(
        self, source: Any, first: int, size: int, deliver: Callable[[Any], None] | None = None
    ) -> tuple[Found, np.ndarray]:
        """As ``PartSearch.run``; where lanes are of several kinds, some of the block after another."""
        if not self.ways.routed:
            return self._search(self.ways.common).run(source, first, size, deliver)
        if deliver is None:
            return self._all(source, first, size)
        stop, self.some = first + size, self.some or 4 * self.ways.of(self.ways.common).width
        self.clock, waiting = self.clock or Clock(), []
        while first + self.some < stop:
            count, began = self.some, time.monotonic()
            waiting.append(self._all(source, first, count))
            if self.clock.is_due():
                deliver(_together(waiting))
                self.clock.begin()
                waiting = []
            first, spent = first + count, time.monotonic() - began
            longer, shorter = spent < 0.5 * costs.PART_SECONDS, spent > 2 * costs.PART_SECONDS
            self.some = 2 * count if longer else max(1, count // 2) if shorter else count
        return _together([*waiting, self._all(source, first, stop - first)])

    def _all(self, source: Any, first: int, size: int) -> tuple[Found, np.ndarray]:
        """The lanes of each kind together."""
        own, kind = self._lanes(source, first, size)
        whole: Any = None
        for k in np.unique(kind).tolist():
            at = np.flatnonzero(kind == k)
            lanes = own if len(at) == size else own.each(lambda x, at=at: x[at])
            if k != OWN:
                lanes = lanes._replace(weights=None)
            found = self._search(k).run(Held(lanes), 0, len(at))
            if whole is None:
                whole = jax.tree.map(lambda x: np.zeros((*x.shape[:-1], size), x.dtype), found)
            _put(whole, found, at)
        d = self.ways.model.design
        for kept, at in kept_columns(whole[0], own, d.X).items():
            lanes = own.each(lambda x, at=at: x[at])
            told = estimable(lanes, d.X, kept)
            lanes = lanes if lanes.X is None else lanes._replace(X=lanes.X[..., kept])
            found, iterations = self._search(kept).run(Held(lanes), 0, len(at))
            _put(whole, (expanded(found, kept, told), iterations), at)
        whole[0].columns["nobs"][:] = rows_counted(self.ways.model)(own)  # also of rows that a pattern leaves out
        return whole

    def _search(self, kind: int | Kept) -> PartSearch | SingleSearch:
        if kind not in self.searches:
            ways = self.ways if isinstance(kind, int) else self.ways.reduced(kind)
            way = ways.of(kind if isinstance(kind, int) else OWN)
            self.searches[kind] = way.search(ways.model, self.device, self.control, self.tick, self.keep)
        return self.searches[kind]

    def _lanes(self, source: Any, first: int, size: int) -> tuple[Varying, np.ndarray]:
        """The lanes of a part with their inputs, and their kinds; a source that computes gives blocks of one size."""
        step = self.ways.of(self.ways.common).width if source.endless else size
        pieces, kinds = [], []
        for at in range(first, first + size, step):
            count = min(step, first + size - at)
            block = block_of(source, at, step if source.endless else count, self.ways.given)
            own, kind = self.ways.inputs.lanes(block.each(lambda x, count=count: np.asarray(x)[:count]), at)
            pieces.append(own)
            kinds.append(kind)
        return joined(pieces), np.concatenate(kinds)


def _together(found: list[Any]) -> Any:
    """Results one after another."""
    return found[0] if len(found) == 1 else jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *found)


def _put(whole: Any, found: Any, at: np.ndarray) -> None:
    """The results of the lanes ``at`` into those of all."""
    for out, x in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
        out[..., at] = x


def joined(pieces: list[Varying]) -> Varying:
    """Lanes one after another; weights of one where only some have any."""
    if len(pieces) == 1:
        return pieces[0]
    given = frozenset().union(*(p.given() for p in pieces))
    if "weights" in given:
        pieces = [p if p.weights is not None else p._replace(weights=np.ones(p.y.shape)) for p in pieces]
    out: dict[str, Any] = {}
    for name in given:
        parts = [getattr(p, name) for p in pieces]
        together = tuple(map(np.concatenate, zip(*parts, strict=True))) if name == "Z" else np.concatenate(parts)
        out[name] = together
    return Varying(**out)


def rows_counted(model: Any) -> Callable[[Varying], np.ndarray]:
    """How many rows count in each lane: (L,), or one number for all."""
    d, chain = model.design, model.elimination.chain
    outer = d.factors[chain[-1]].codes if chain else None

    def rows(own: Varying) -> np.ndarray:
        if own.weights is not None:
            return np.sum(np.asarray(own.weights) > 0, axis=1)
        if own.copies is not None:
            return np.asarray(own.copies) @ np.bincount(outer, minlength=np.shape(own.copies)[1])  # pyright: ignore
        return np.asarray(len(d.y))

    return rows
