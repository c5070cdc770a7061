"""Lanes one after another, each searched as a single fit is, by programs that the model's own fit has compiled.

Lanes share their work, but a program for them takes 5 to 15 s to compile, in which a single fit's program makes
hundreds of searches of small data; and where the data of a lane do not fit a core's cache, lanes have no advantage.
What is found is the same, to what a search is ended by.  ``are_better_singly`` chooses, by the model and the number of
lanes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm.batch.pool import LIBRARY, Clock, block_of, called, filled_up
from jaxmm.fitted import Fitted
from jaxmm.lanes.problem import Found
from jaxmm.optimize import Control, Status
from jaxmm.sources.responses import Responses, Varying

ACCEPTED = frozenset({"y", "weights", "offset", "start", "trials"})  # what such lanes may have of their own


def are_better_singly(model: Any, n: int) -> bool:
    """Whether n lanes take less time one after another than side by side, by a program that is still to be compiled."""
    s, price = model.structure, model.likelihood.price
    size = len(model.design.y) * (s.p + s.num_theta)
    if s.rest_size > costs.DEAR_REST:
        return False
    lane = price.far if size > costs.CACHED else price.lane
    return n * (price.least + price.single * size) <= price.compiled + n * lane * size


# ---------------------------------------------------------------- one lane
_arrays_for = Program(
    lambda likelihood, *given: likelihood.arrays_for(*given), (0,), lambda likelihood, arrays, rows, *_: rows.y.size
)


def lane_arrays(model: Any, own: Varying) -> Any:
    if model.structure.residual is not None:  # patterns of missing rows are found on the host
        return model.likelihood.arrays_of_lane(model.accumulator, model.design, own.y, own.weights, own.offset)
    return _arrays_for(model.likelihood, model.arrays, model.rows, own.y, own.weights, own.offset, own.trials)


def search(model: Any, own: Varying, theta: np.ndarray | None, control: Control) -> Any:
    """The estimates of one lane, of what it has of its own, arrays (nobs,); it begins at its own start, at ``theta``
    in the scaled columns, or else where a single fit does."""
    lik, d = model.likelihood, model.design
    arrays = lane_arrays(model, own)
    start = theta if own.start is None else own.start
    if start is None:
        weights = d.weights if own.weights is None else own.weights
        offset = d.offset if own.offset is None else own.offset
        trials = d.trials if own.trials is None else own.trials
        data = replace(d, y=own.y, weights=weights, offset=offset, trials=trials)
        start = lik.begin(model.accumulator, arrays, data)
    return lik.search(arrays, start, control)


def found_of(model: Any, estimates: Any, control: Control) -> Found:
    """What lanes give of it, without their axis."""
    lik, fit = model.likelihood, Fitted(model, estimates, control)
    root = np.sqrt(lik.effects_scale(estimates))
    return Found(
        beta=np.asarray(estimates.beta),  # pyright: ignore
        bse=np.sqrt(np.maximum(np.diag(estimates.vcov), 0.0)),  # pyright: ignore
        theta=np.asarray(estimates.theta),  # pyright: ignore
        lams=tuple(root * fit.factor_lam(k) for k in model.elimination.order),  # pyright: ignore
        phi=np.asarray(np.ravel(lik.phi(estimates))[0], float),  # pyright: ignore
        deviance=np.asarray(estimates.deviance, float),  # pyright: ignore
        status=np.asarray(int(estimates.status), np.int32),  # pyright: ignore
        further=np.array([*lik.family_params(estimates).values()], float) if lik.family.constant_names else (),
    )


def nothing_found(model: Any, status: int) -> Found:
    """Of a lane that is refused."""
    s, names = model.structure, model.likelihood.family.constant_names
    nan: Any = partial(np.full, fill_value=np.nan)
    return Found(
        beta=nan(s.p),
        bse=nan(s.p),
        theta=nan(s.num_theta),
        lams=tuple(nan((q, q)) for q in s.widths),
        phi=nan(()),
        deviance=nan(()),
        status=np.asarray(status, np.int32),  # pyright: ignore
        further=nan(len(names)) if names else (),
    )


def side_by_side(found: list[Found]) -> Found:
    """The lanes last."""
    return jax.tree.map(lambda *x: np.stack(x, axis=-1), *found)


# ---------------------------------------------------------------- the lanes of a block
@partial(Program, size=lambda problem, own, invalid: own.y.shape[-1])
def _refused(problem: Any, own: Varying, invalid: Any) -> Any:
    """(L,) as ``pool`` has it: a status, -1 where there is none."""
    refused = problem.refuse(own.each(lambda x: jnp.moveaxis(x, 0, -1)))
    return refused if invalid is None else jnp.where(invalid, Status.INVALID, refused)


class SingleSearch:
    """Searches lanes of blocks, as ``pool.PartSearch`` does, whose arguments these are.

    One search goes on at a time in the process: XLA spreads its work over the cores, and it may call the library.
    """

    def __init__(
        self, model: Any, way: Any, control: Control, rows: Callable[[Varying], np.ndarray], tick: Callable[[int], Any]
    ):
        self.model, self.way, self.control, self.rows, self.tick = model, way, control, rows, tick
        self.clock: Clock | None = None

    def run(
        self, source: Responses, first: int, size: int, deliver: Callable[[Any], None] | None = None
    ) -> tuple[Found, np.ndarray]:
        """Results of replicates first .. first + size - 1 and their iterations, as of ``pool.PartSearch.run``."""
        done: list[tuple[Found, int, int]] = []
        for at in range(first, first + size, self.way.width):
            count = min(self.way.width, first + size - at)
            own, refused, nobs = self._block(source, at, count)
            for k in range(count):
                if deliver is not None and done and self.clock is not None and self.clock.is_due():
                    deliver(_results(done))
                    done = []
                    self.clock.begin()
                done.append((*self._one(own.each(lambda x, k=k: x[k]), int(refused[k])), int(nobs[k])))
                self.clock = self.clock or Clock()
                self.tick(1)
        return _results(done)

    def _block(self, source: Responses, first: int, count: int) -> tuple[Varying, np.ndarray, np.ndarray]:
        """Lanes with what they have of their own, which of them are refused, and how many rows count in each."""
        way = self.way
        own = block_of(source, first, way.width if source.endless else count, way.example).each(np.asarray)
        whole = own.each(lambda x: filled_up(x, way.width))
        invalid = None if way.check is None else way.check(whole)
        alone = "data" in way.problem.library
        refused = np.asarray(called(alone, _refused, way.problem, whole._replace(start=None), invalid))
        return own, refused, np.broadcast_to(self.rows(own), len(own.y))

    def _one(self, own: Varying, refused: int) -> tuple[Found, int]:
        if refused >= 0:
            return nothing_found(self.model, refused), 0
        with computing(self.model.device), LIBRARY:
            estimates = search(self.model, own, self.way.theta, self.control)
        return found_of(self.model, estimates, self.control), int(estimates.iterations)


def _results(done: list[tuple[Found, int, int]]) -> tuple[Found, np.ndarray]:
    found = side_by_side([one for one, _, _ in done])
    columns = {"nobs": np.array([nobs for _, _, nobs in done], np.int64)}
    return found._replace(columns=columns), np.array([iterations for _, iterations, _ in done], np.int32)
