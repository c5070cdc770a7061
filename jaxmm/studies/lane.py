"""One replicate of a linear study by itself: its data, the end of its search -> a prepared model and estimates.

The search goes on from where that of the batch has ended, so that it takes a step or two; what a method of degrees of
freedom reads of a fit is there then, also of a replicate with its own rows, X and Z.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm.batch.singly import lane_arrays
from jaxmm.design import Design
from jaxmm.estimate import estimate_on_host
from jaxmm.objective.parameters import change_theta
from jaxmm.optimize import Control
from jaxmm.pure import gram_from_rows
from jaxmm.results.result import FitBatch
from jaxmm.sources.responses import Responses, Varying
from jaxmm.start_given import scaled_theta

AT_ONCE = 256  # replicates that are read of a source together


def _counted(gram: Any, rows: Any, y: Any, weights: Any, counts: Any, offset: Any) -> Any:
    return gram_from_rows(gram, rows, y, weights=weights, offset=offset, counts=counts)


_gram = Program(_counted)


def lane_design(design: Design, own: Varying) -> Design:
    """The design with the X, Z and offset of one lane, where it has any."""
    terms = design.terms
    if own.Z is not None:
        terms = tuple(replace(t, Z=np.asarray(Z)) for t, Z in zip(terms, own.Z, strict=True))
    X = design.X if own.X is None else np.asarray(own.X)
    offset = design.offset if own.offset is None else np.asarray(own.offset)
    return replace(design, X=X, terms=terms, offset=offset)


def lane_model(model: Any, own: Varying) -> Any:
    """The model with the data of one lane: ``y``, and what else it has of its own."""
    d = model.design
    if own.X is not None or own.Z is not None or own.offset is not None:
        model = model.with_design(lane_design(d, own))
    n = len(d.y)
    weights = np.ones(n) if d.weights is None else d.weights
    weights = weights if own.weights is None else np.asarray(own.weights)
    offset = np.zeros(n) if model.design.offset is None else model.design.offset
    there = weights > 0
    with computing(model.device):
        if model.structure.residual is not None:
            gram = lane_arrays(model, own)
        else:
            each = np.asarray(own.y), np.where(there, weights, 1.0), 1.0 * there, np.asarray(offset)
            gram = _gram(model.arrays, model.rows, *each)
    # rows that are not there are zero in X, as far as a method reads it
    return model.with_arrays(gram, replace(model.design, X=model.design.X * there[:, None]))


def lane_estimates(model: Any, theta: np.ndarray) -> Any:
    """Estimates of a ``lane_model`` from theta, which is near."""
    gram = model.arrays
    with computing(model.device):
        start = change_theta(scaled_theta(theta, gram), [np.asarray(t) for t in gram.T], gram)
        return estimate_on_host(gram, start, Control())


def lanes(source: Responses, batch: FitBatch) -> Iterator[tuple[int, Varying]]:
    """(place in the batch, what the replicate has of its own), of the converged ones."""
    numbers, good = np.asarray(batch.columns["replicate"]), np.asarray(batch.converged)
    for first in range(0, len(numbers), AT_ONCE):
        some = numbers[first : first + AT_ONCE]
        if not good[first : first + AT_ONCE].any():
            continue
        low = int(some.min())
        block = source.block(low, int(some.max()) - low + 1).each(np.asarray)
        for k in np.flatnonzero(good[first : first + AT_ONCE]):
            yield first + int(k), block.each(lambda x, at=int(some[k]) - low: x[at])
