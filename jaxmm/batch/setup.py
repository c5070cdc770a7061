"""A model -> the problem that all its lanes share, and where their searches begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm.estimate import rough_hessian
from jaxmm.estimate_glmm import derivatives, guess_on_host
from jaxmm.generalised import can_have_nodes
from jaxmm.gram import Accumulator, Gram
from jaxmm.lanes.closed_form import can_have_blocks, make_blocks
from jaxmm.lanes.collapse import find_alike
from jaxmm.lanes.generalised_blocks import GeneralisedBlocks
from jaxmm.lanes.generalised_lanes import GeneralisedLanes
from jaxmm.lanes.laplace_table import can_have_table, make_table
from jaxmm.lanes.linear_blocks import LinearBlocks
from jaxmm.lanes.linear_errors import LinearErrors, can_have_errors, linear_errors
from jaxmm.lanes.linear_lanes import LinearLanes
from jaxmm.lanes.linear_own import LinearOwn, table_rows
from jaxmm.lanes.linear_patterns import LinearPatterns, can_have_patterns, linear_patterns
from jaxmm.lanes.linear_rows import LinearRows
from jaxmm.lanes.linear_weighted import LinearWeighted
from jaxmm.lanes.own_rows import effects_of_terms
from jaxmm.lanes.problem import Problem
from jaxmm.lanes.products import make_products
from jaxmm.lanes.statistics import response_map
from jaxmm.objective.mode import zero_effects
from jaxmm.optimize import Control
from jaxmm.pure import gram_from_rows
from jaxmm.rows import Rows
from jaxmm.sources.responses import Varying
from jaxmm.sources.truth import as_start
from jaxmm.start import moment_start
from jaxmm.start_given import scaled_psi, scaled_theta

without_rows = Program(lambda gram, rows, counts: gram_from_rows(gram, rows, counts=counts))
OF_POOL = frozenset({"start"})  # what lanes may have of their own and no problem needs to know

# problems that suit a structure, the quickest first, and what makes them
Candidates = list[tuple[type, Callable[[], Any]]]


def make_problem(
    model: Any,
    start: np.ndarray | None,
    collapse: bool,
    varies: frozenset[str],
    counts: np.ndarray | None = None,
    together: bool = True,
) -> Problem:
    """The first of the problems that suit the model which accepts all that ``varies`` between lanes.

    Args:
        start: (m,) as to the scaled columns, or None.
        collapse: whether levels that are alike may share their factor.
        varies: names of ``Varying``.
        counts: (n,) the rows that count in all of these lanes, of a linear model; None for all rows.
        together: whether lanes are searched side by side; else all that is asked is which are refused.

    Raises:
        ValueError: none accepts it, with what lanes of this model may have of their own.
    """
    with computing(model.device):
        varies, collapse = varies - OF_POOL, collapse and "copies" not in varies
        if isinstance(model.arrays, Rows):
            candidates = _generalised(model, start)
        elif model.arrays.residual is not None:
            candidates = _with_errors(model, counts, varies, together)
        else:
            candidates = _linear(model, start, collapse, counts)
        for problem, make in candidates:
            if varies <= problem.accepts:
                return make()
    accepted = frozenset().union(*(problem.accepts for problem, _ in candidates))
    raise ValueError(
        f"lanes of this model may have {_listed(accepted)} of their own, not {_listed(varies - accepted or varies)}: "
        "fit such replicates one by one"
    )


def has_program(model: Any, varies: frozenset[str]) -> bool:
    """Whether lanes can be searched side by side, with what they have of their own."""
    own = varies - OF_POOL
    return model.structure.residual is None or can_have_patterns(model, own) or can_have_errors(model, own)


def _columns(model: Any, counts: np.ndarray | None) -> Accumulator:
    """Of the rows that count."""
    columns = model.accumulator
    if counts is None:
        return columns
    weights = np.ones(columns.n) if columns.weights is None else columns.weights
    return replace(columns, weights=weights * counts)


def _linear(model: Any, start: np.ndarray | None, collapse: bool, counts: np.ndarray | None) -> Candidates:
    gram, harmless, columns = model.arrays, np.array(model.design.y, float), _columns(model, counts)
    if counts is not None:
        gram = without_rows(gram, model.rows, 1.0 * counts)
    by = response_map(columns, model.design.offset)

    def lanes() -> Any:
        theta = moment_start(gram) if start is None else start
        return LinearLanes(gram, by, harmless, _first_hessian(theta, gram), find_alike(gram) if collapse else None)  # pyright: ignore

    closed: Candidates = [(LinearBlocks, lambda: LinearBlocks(gram, by, harmless, make_blocks(gram, collapse)))]  # pyright: ignore

    effects = effects_of_terms(model.design, model.elimination.order)

    def weighted() -> Any:
        products, every = make_products(model.accumulator, model.design.offset), make_blocks(gram, collapse=False)
        return LinearWeighted(gram, harmless, every.systems(gram), every.cells, products)  # pyright: ignore

    def own() -> Any:
        rows, every = table_rows(model.accumulator, model.design.offset), make_blocks(gram, collapse=False)
        return LinearOwn(gram, harmless, every.systems(gram), every.cells, rows, effects)  # pyright: ignore

    def any_rows() -> Any:
        theta = moment_start(gram) if start is None else start
        return LinearRows(gram, model.rows, harmless, _first_hessian(theta, gram), effects)  # pyright: ignore

    closed += [(LinearWeighted, weighted), (LinearOwn, own)]
    return [*(closed if can_have_blocks(gram.structure) else []), (LinearLanes, lanes), (LinearRows, any_rows)]


def _with_errors(model: Any, counts: np.ndarray | None, varies: frozenset[str], together: bool) -> Candidates:
    """Errors with a covariance.  The last says no more than which lanes are refused: those of other models are searched
    one by one (``singly``)."""
    gram, harmless, columns = model.arrays, np.array(model.design.y, float), _columns(model, counts)
    rows = model.rows if counts is None else model.rows.with_data(weights=columns.weights)
    alike, none = replace(gram, residual=None), np.eye(gram.structure.num_theta)
    effects = effects_of_terms(model.design, model.elimination.order)
    checks = LinearRows(alike, rows, harmless, none, effects)  # pyright: ignore
    own = "weights" in varies

    def patterns() -> Any:
        return linear_patterns(columns, gram, model.design, checks, harmless, own)

    def rows_of_subjects() -> Any:
        e = model.likelihood.search(gram, None, Control())
        return linear_errors(gram, model.design, np.asarray(e.theta_scaled), _positive(e.hessian), checks, harmless)

    closed: Candidates = [(LinearPatterns, patterns)] if can_have_patterns(model, varies) else []
    by_rows: Candidates = [(LinearErrors, rows_of_subjects)] if together and can_have_errors(model, varies) else []
    return [*closed, *by_rows, (LinearRows, lambda: checks)]


def _generalised(model: Any, start: np.ndarray | None) -> Candidates:
    """The first Hessian of lanes is the exact one of the model's own response.

    The lanes have rows without room: what many of them share need not be shared with other designs.

    Raises:
        ValueError: a number of nodes that each response would choose for itself.
    """
    rows, n_agq = model.likelihood.parts(model.accumulator, model.design, room=False), model.likelihood.n_agq
    if n_agq == "auto" and can_have_nodes(rows.structure):
        raise ValueError(
            "n_agq='auto' chooses the nodes anew for each response, and a batch has one number for all: make the model "
            "with n_agq=9, say, or with the fit.n_agq of a fit by 'auto'"
        )
    nodes = 1 if n_agq == "auto" else int(n_agq)  # "auto" is Laplace's method where there can be no nodes
    harmless = np.array(model.design.y, float)
    unit, effects = np.asarray(float(model.unit)), effects_of_terms(model.design, model.elimination.order)

    def lanes() -> Any:
        psi = np.asarray(guess_on_host(model.arrays)) if start is None else start
        H = _positive(derivatives(psi, model.arrays, zero_effects(rows, np), nodes, False)[2])
        return GeneralisedLanes(rows, harmless, H, unit, nodes, effects)  # pyright: ignore

    def blocks() -> Any:
        return GeneralisedBlocks(rows, make_table(rows), harmless, unit, effects)  # pyright: ignore

    closed: Candidates = [(GeneralisedBlocks, blocks)]
    return [*(closed if nodes == 1 and can_have_table(rows) else []), (GeneralisedLanes, lanes)]


def example(model: Any, varies: frozenset[str]) -> Varying:
    """The shapes of what one lane has of its own, the lane last."""

    def shape(*axes: int) -> Any:
        return jax.ShapeDtypeStruct((*axes, 1), "float64")

    d, n = model.design, len(model.design.y)
    levels = [len(d.factors[f].levels) for f in model.elimination.chain[-1:]]
    shapes = {
        "X": shape(n, len(d.columns)),
        "Z": tuple(shape(n, t.Z.shape[1]) for t in d.terms),
        "weights": shape(n),
        "offset": shape(n),
        "copies": shape(*levels),
        "trials": shape(n),
    }
    return Varying(shape(n), **{name: shapes[name] for name in varies & shapes.keys()})


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _positive(H: Any) -> np.ndarray:
    """A Hessian with its eigenvalues made positive, none of them small."""
    H = np.asarray(H)
    w, Q = np.linalg.eigh(np.where(np.isfinite(H), H, 0.0))
    w = np.maximum(np.abs(w), 1e-3 * np.abs(w).max(initial=1e-3))
    return (Q * w) @ Q.T


def _first_hessian(theta: np.ndarray, gram: Gram) -> np.ndarray:
    H = np.array(rough_hessian(np.asarray(theta), gram))
    return H + 1e-3 * np.trace(H) / len(H) * np.eye(len(H))


def scaled_start(model: Any, start: Any) -> np.ndarray | None:
    """What ``as_start`` takes -> where every search begins, in the scaled columns: theta or psi; None for None."""
    given = as_start(model, start)
    if given is None:
        return None
    if not isinstance(model.arrays, Rows):
        return scaled_theta(given.theta, model.arrays)
    return scaled_psi(given, model.arrays, np.array(guess_on_host(model.arrays)))
