"""Programs for data sets of different sizes: levels and rows are filled up, so that a few serve all."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmm import costs
from jaxmm._context import computing
from jaxmm.batch.setup import make_problem
from jaxmm.batch.width import lanes_at_once
from jaxmm.design import Design
from jaxmm.design.predictor import Factor, constant
from jaxmm.lanes.closed_form import can_have_blocks
from jaxmm.lanes.laplace_table import can_have_table
from jaxmm.lanes.own_rows import effects_of_terms
from jaxmm.lanes.segment_rows import make_row_lanes
from jaxmm.lanes.segments import make_lanes
from jaxmm.sources.responses import Responses, Varying

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
