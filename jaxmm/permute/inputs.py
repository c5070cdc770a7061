"""What users give to ``permutation_test`` -> columns, a scheme, a score, rows, weights; or errors with a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.design import DataError
from jaxmm.inference.wald import check_level
from jaxmm.permute.adjacency import as_adjacency
from jaxmm.permute.schemes import SCHEMES, Permutations
from jaxmm.permute.statistics import FORMING, Enhanced, Largest, Mass, Score, height
from jaxmm.sources.labelled import Labels
from jaxmm.sources.responses import as_responses
from jaxmm.studies.hypotheses import columns_of

STATISTICS = ("max", "cluster", "tfce")
READ = 4096  # responses that are read at a time


@dataclass(frozen=True)
class Lanes:
    """The responses (V, nobs), NaN where a row is missing; their weights, zero there, or None where none is missing.
    ``own``: whether complete responses have weights other than the model's too."""

    rows: np.ndarray
    weights: np.ndarray | None
    own: bool

    @property
    def missing(self) -> np.ndarray:
        """(V,) rows that a response lacks."""
        gone = np.isnan(self.rows) if self.weights is None else self.weights == 0
        return gone.sum(axis=1)

    def kinds(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Which responses (U,), and their weights (U, nobs) or None: those of the model's weights, which are the
        quicker, and those with weights of their own.  A response of which all is missing is in neither."""
        some = ~np.all(np.isnan(self.rows), axis=1)
        plain = some & ~np.any(np.isnan(self.rows), axis=1) & (not self.own)
        found: list[tuple[np.ndarray, np.ndarray | None]] = [(np.flatnonzero(plain), None)]
        if self.weights is not None:
            others = np.flatnonzero(some & ~plain)
            found.append((others, self.weights[others]))
        return [(which, w) for which, w in found if len(which)]


def tested_columns(model: Any, term: Any) -> tuple[str, ...]:
    """Raises ValueError for a model or a term that cannot be tested so, TypeError for what is no name."""
    if not model.likelihood.exact:
        raise ValueError(
            f"permutation_test is for linear models, whose residuals may change places, and this is a "
            f"{model.likelihood.family.name} model: fit_many(...).test_table() tests many responses, bootstrap() one"
        )
    listed = isinstance(term, list | tuple | set | frozenset) or hasattr(term, "tolist")
    names: Any = list(term) if listed and not isinstance(term, str) else [term]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"term must be a column or a term of the formula, or a list of them, not {term!r}; the model has "
            f"{', '.join(map(repr, model.design.columns))}"
        )
    columns = columns_of(model.design, names)
    if not columns:
        raise ValueError("term names no column: give a term of the formula, such as 'Days'")
    return columns


def as_scheme(model: Any, columns: tuple[str, ...], scheme: Any) -> Any:
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}, not {scheme!r}")
    return SCHEMES[scheme](model, columns)


def check_number(n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
        raise ValueError(f"n must be a number of permutations, the data as they are among them, from 2 on, not {n!r}")
    return int(n)


def as_score(
    statistic: Any,
    adjacency: Any,
    thresholds: tuple[float | None, float | None],
    size: int,
    labels: Labels | None,
    k: int,
) -> Score:
    """Raises ValueError for an unknown statistic, and for what it needs and has not, or has and does not need."""
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {', '.join(map(repr, STATISTICS))}, not {statistic!r}")
    given = [name for name, x in zip(("threshold", "threshold_p"), thresholds, strict=True) if x is not None]
    if given and statistic != "cluster":
        raise ValueError(f"{given[0]}= is for statistic='cluster', not {statistic!r}")
    if len(given) == 2:
        raise ValueError("threshold= and threshold_p= say the same: give one of them")
    if statistic == "max":
        if adjacency is not None:
            raise ValueError("adjacency= is for statistic='cluster' and 'tfce': 'max' takes each response by itself")
        return Largest()
    if adjacency is None:
        raise ValueError(
            f"statistic={statistic!r} needs adjacency=, the neighbours among the {size} responses: a sparse matrix, "
            "pairs, grid_adjacency(shape) or adjacency_of(time=..., channel=...)"
        )
    neighbours = as_adjacency(adjacency, size, None if labels is None else labels.shape)
    if statistic == "tfce":
        return Enhanced(neighbours)
    at, p = thresholds
    if at is None:
        at = height(check_level(FORMING if p is None else p, "threshold_p", "0.01 for two-sided 1 %"), k)
    elif isinstance(at, bool) or not isinstance(at, int | float | np.number) or not 0 < at < np.inf:
        raise ValueError(f"threshold must be a positive number, a |t|, not {at!r}")
    return Mass(neighbours, float(at))


def read_rows(Y: Any, model: Any, missing: str) -> np.ndarray:
    """(V, nobs), NaN where a row is missing."""
    if missing not in ("drop", "refuse"):
        raise ValueError(f"missing must be 'drop' or 'refuse', not {missing!r}")
    source: Any = as_responses(Y, len(model.design.y))
    if source.n is None:
        raise TypeError("Y is an iterator, which can be gone through once: pass an array (V, nobs)")
    if source.varies != {"y"}:
        raise TypeError(f"Y is a {type(source).__name__}, whose lanes differ in more than y: pass an array (V, nobs)")
    blocks = [np.asarray(source.block(a, min(READ, source.n - a)).y, float) for a in range(0, source.n, READ)]
    rows = np.concatenate(blocks)
    if missing == "refuse" and np.isnan(rows).any():
        v, i = np.argwhere(np.isnan(rows))[0]
        raise DataError(f"Y has NaN, the first in response {v}, row {i}: missing='drop' leaves such rows out")
    return rows


def as_lanes(given: Any, rows: np.ndarray, model: Any, moves: Permutations) -> Lanes:
    """The rows with their weights, ``given`` or the model's.

    Raises:
        DataError: another shape, or weights that are negative, not finite or all zero in a response.
    """
    gone, own = np.isnan(rows), model.design.weights
    if given is not None:
        try:
            given = np.array(given, float)
        except (TypeError, ValueError):
            raise DataError("weights hold text or other things where numbers are due") from None
        if given.shape != rows.shape:
            raise DataError(f"weights must have a number for each of Y, {rows.shape}; got shape {given.shape}")
        wrong = ~(np.isfinite(given) & (given >= 0))
        if wrong.any():
            v, i = np.argwhere(wrong)[0]
            raise DataError(f"weights are finite and not negative, and response {v} has {given[v, i]:g} in row {i}")
        empty = np.flatnonzero(~np.any(given > 0, axis=1))
        if len(empty):
            raise DataError(f"weights of response {empty[0]} are all zero: leave such responses out")
        return Lanes(rows, np.where(gone, 0.0, given), True)
    moving = own is not None and moves[min(1, moves.n - 1)].index is not None  # a weight goes with its residual
    if not (gone.any() or moving):
        return Lanes(rows, None, False)
    return Lanes(rows, np.where(gone, 0.0, 1.0 if own is None else own), moving)
