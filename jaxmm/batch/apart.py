"""A few replicates, one after another, each searched as a single fit is: by programs that the model's own fit has
compiled.

Lanes share their work, but a program for them takes 10 to 60 s to compile, in which a single fit's program makes
hundreds of searches of small data.  What is found is the same, to what a search is ended by.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm import costs, estimate_glmm
from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm.batch.engine import fit_many
from jaxmm.batch.progress import progress_bar
from jaxmm.batch.setup import has_program, without_rows
from jaxmm.batch.singly import found_of, lane_arrays, side_by_side
from jaxmm.estimate import is_dear
from jaxmm.estimate_glmm import are_few
from jaxmm.fitted import Fitted
from jaxmm.gram import Gram
from jaxmm.prepared import Prepared
from jaxmm.results.result import FitBatch
from jaxmm.results.schema import as_columns, names_of
from jaxmm.rows import Rows
from jaxmm.sources.resample import LeaveOneOut, WithoutRows
from jaxmm.sources.resample import outermost as outermost_of
from jaxmm.sources.responses import Responses, Varying
from jaxmm.sources.truth import as_start
from jaxmm.start_given import scaled_psi, scaled_theta

ACCEPTED = frozenset({"y", "weights", "start"})  # what replicates may have of their own; y is the fit's


def can_be_apart(fit: Fitted, count: int) -> bool:
    """Whether so many replicates of the fit's model are better searched one by one."""
    arrays: Any = fit.model.arrays
    if isinstance(arrays, Rows):
        return are_few(arrays, count)
    s = arrays.structure
    if not has_program(fit.model, frozenset({"y", "weights"})):
        return True
    work = s.solver.size(arrays) * s.num_theta
    return not is_dear(arrays) and count <= costs.APART and count * work <= costs.APART_ROWS


def without_each(fit: Fitted, codes: np.ndarray, count: int, outermost: bool) -> FitBatch:
    """The model without each group of rows ``codes`` (n,); ``outermost``: no level of the outermost factor has rows of
    several of them."""
    rows = WithoutRows(fit, codes, count)
    if can_be_apart(fit, count):
        return fits_apart(fit, rows)
    if not outermost or fit.model.structure.residual is not None:
        return fit_many(fit.model, rows, start=fit, progress=False)
    factor = fit.model.design.factors[outermost_of(fit.model)]  # pyright: ignore
    groups = np.empty(len(factor.levels), np.int64)
    groups[factor.codes] = codes
    return fit_many(fit.model, LeaveOneOut(fit, groups), start=fit, progress=False)


def fits_apart(fit: Fitted, source: Responses, progress: bool = False) -> FitBatch:
    """The replicates of a ``source`` that has the fit's own response in each; where it gives no start, they begin at
    the fit's estimates."""
    assert source.varies <= ACCEPTED
    model, found = fit.model, []
    with computing(model.device), progress_bar(progress, source.n) as tick:
        at_fit = _start(fit)
        for k in range(source.n):
            own = source.block(k, 1).each(lambda x: np.asarray(x)[0])
            start = at_fit if own.start is None else own.start
            found.append(_search(fit, _counting(model, own.weights), start))
            tick(1)
        together = side_by_side([found_of(model, e, fit._control) for e in found])
    iterations = np.array([e.iterations for e in found], np.int32)
    return FitBatch(names_of(model), as_columns(model, together, iterations, 0))


def _start(fit: Fitted) -> np.ndarray:
    """theta, or psi of a generalised model, in the scaled columns; no variance is zero, as no search leaves that."""
    arrays: Any = fit.model.arrays
    given: Any = as_start(fit.model, fit)
    if isinstance(arrays, Rows):
        return scaled_psi(given, arrays, np.asarray(fit.estimates.psi))
    return scaled_theta(given.theta, arrays)


def _counting(model: Prepared, weights: np.ndarray | None) -> Gram | Rows:
    """The arrays without the rows whose weight (n,) is zero."""
    arrays = model.arrays
    if weights is None:
        return arrays
    if model.structure.residual is not None:
        own = weights if model.design.weights is None else np.where(weights > 0, model.design.weights, 0.0)
        return lane_arrays(model, Varying(weights=own))
    return (
        _weighted(arrays, weights)
        if isinstance(arrays, Rows)
        else without_rows(arrays, model.rows, 1.0 * (weights > 0))
    )


_weighted = Program(lambda rows, weights: rows.with_data(weights=weights))


def _search(fit: Fitted, arrays: Any, start: np.ndarray) -> Any:
    """Estimates, from the host, as those of a single fit, with the nodes that this fit has."""
    if isinstance(arrays, Rows):
        return estimate_glmm.estimate_on_host(arrays, np.asarray(start), fit._control, fit.n_agq)
    return fit.model.likelihood.search(arrays, start, fit._control)
