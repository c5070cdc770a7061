"""Errors that are correlated, or of unequal variances: what makes of their parameters a ``Gram`` without them.

    rho (k,), the sums or rows of a model  --gram-->  [Z X y]'C^-1[Z X y], log|C|  =  a ``Gram`` of independent errors

``Gram.residual`` is one of two: ``sums.PatternSums``, whose size depends on the patterns of times that occur alone, for
models without random effects, and ``rows.PatternRows``.  ``prepare`` chooses, on the host.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxmm import costs
from jaxmm.design.residual import ResidualDesign
from jaxmm.gram import Accumulator, Gram
from jaxmm.mixed import make_mixed
from jaxmm.residual.patterns import Patterns as Patterns
from jaxmm.residual.patterns import patterns, subjects
from jaxmm.residual.rows import PatternRows as PatternRows
from jaxmm.residual.sums import PatternSums as PatternSums
from jaxmm.residual.sums import pattern_sums, work
from jaxmm.rows import Laid, make_rows
from jaxmm.structure import ResidualLayout


def layout_of(d: ResidualDesign) -> ResidualLayout:
    """What of it is static."""
    sigma = "searched" if d.searched else "profiled" if d.sigma is None else "known"
    return ResidualLayout(d.covariance, d.num_sets, 0 if d.V is None else d.V.shape[1], sigma)


def prepare(a: Accumulator, gram: Gram, d: ResidualDesign, y: np.ndarray, family: Any) -> PatternSums | PatternRows:
    """Of the columns of a model, the ``gram`` that errors alike would have, its errors, and a response (n,) less the
    offset; rows without weight are not there.  With x64 enabled."""
    layout = a.structure.residual
    assert layout is not None
    there = None if a.weights is None else a.weights > 0
    e = y - a.X.rows(slice(0, a.n)) @ np.asarray(gram.beta0)
    V = np.zeros((a.n, 0)) if d.V is None else d.V
    if d.subject is None or d.place is None:
        rows = make_rows(a, family, e, np.ones(a.n), [np.zeros(a.n), *V.T], room=False)
        return _put(rows, None)
    order, level = _order(a, d)
    laid = subjects(d.subject.codes, d.place, len(d.times), order, there)
    found = patterns(laid, d.place, d.positions, None if d.sets is None else d.sets.codes, layout)
    kept, dense = work(laid, found, a.structure.p + 1)
    if not a.groupings and not layout.columns and kept < costs.PATTERN_SUMS * dense:
        columns = np.column_stack([a.X.rows(slice(0, a.n)), e])
        root = 1.0 if a.weights is None else np.sqrt(a.weights)[:, None]
        return jax.device_put(pattern_sums(laid, found, columns * root))
    source = np.where(laid.rows >= 0, laid.rows, laid.first)
    main = Laid(laid.rows, source.ravel(), level)
    own = _chain_of(a) if a.plan.mixed else a
    rows = make_rows(own, family, e, np.ones(a.n), [np.zeros(a.n), *V.T], room=False, laid=main)
    return _put(replace(rows, mixed=make_mixed(a, main) if a.plan.mixed else None), jax.device_put(found))


def _chain_of(a: Accumulator) -> Accumulator:
    """Without the factors that are not of the chain."""
    k = len(a.structure.chain)
    structure, plan = replace(a.structure, rest=()), replace(a.plan, rest=())
    return replace(a, structure=structure, plan=plan, groupings=a.groupings[:k], Z=a.Z[:k])


def _put(rows: Any, found: Patterns | None) -> PatternRows:
    """The columns of log φ are laid out as offsets of further predictors, and taken out again."""
    V = np.stack(rows.further_offsets) if rows.further_offsets else np.zeros((0, *rows.weights.shape))
    return jax.device_put(PatternRows(replace(rows, further_offsets=()), found, V))  # pyright: ignore


def _order(a: Accumulator, d: ResidualDesign) -> tuple[np.ndarray | None, np.ndarray | None]:
    """In which order the subjects come, and the level of the chain's first factor of each in that order: None and None
    where these are the same, or there is no such factor."""
    assert d.subject is not None
    count = len(d.subject.levels)
    if not a.plan.chain:
        return None, None
    level = np.zeros(count, np.int64)
    level[d.subject.codes] = a.groupings[0].codes
    order = np.argsort(level, kind="stable")
    if count == a.groupings[0].levels:
        return order, None
    return order, level[order].astype(np.int32)
