"""The case bootstrap of a model whose errors are correlated: subjects drawn with replacement, and a fit to each draw.

A copy of a subject, or of a level of the outermost factor with all subjects in it, is one of its own: its rows are
repeated, with a level of their own in every factor.  So a draw is a design of other rows, and searched as a single fit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from jaxmm.batch.progress import progress_bar
from jaxmm.batch.singly import found_of, nothing_found, side_by_side
from jaxmm.design import DataError, Design
from jaxmm.design.predictor import Factor
from jaxmm.fitted import Fitted
from jaxmm.optimize import Control, Status, as_control
from jaxmm.results.result import FitBatch
from jaxmm.results.schema import as_columns, names_of
from jaxmm.sources.resample import Case


def fits_to_cases(fit: Fitted, source: Case, progress: bool, control: Control | dict | None) -> FitBatch:
    """A replicate for each draw of the ``source``; one whose rows do not tell the parameters apart is INVALID."""
    model, found, iterations, nobs = fit.model, [], [], []
    settings = fit._control if control is None else as_control(control)
    _check_alike(model.design, source)
    with progress_bar(progress, source.n) as tick:
        for k in range(source.n):
            copies = np.asarray(source.block(k, 1).copies)[0].astype(int)
            design = repeated(model.design, source.codes, copies)
            nobs.append(len(design.y))
            try:
                own = model.with_design(design)
                estimates = own.fit(start=fit.theta, control=settings).estimates
                found.append(found_of(model, estimates, settings))
                iterations.append(int(estimates.iterations))
            except DataError:
                found.append(nothing_found(model, Status.INVALID))
                iterations.append(0)
            tick(1)
    together = side_by_side(found)._replace(columns={"nobs": np.array(nobs, np.int64)})
    return FitBatch(names_of(model), as_columns(model, together, np.array(iterations, np.int32), 0))


def _check_alike(d: Design, source: Case) -> None:
    """Raises NotImplementedError where draws would differ in how many subjects they have: each would be compiled."""
    subject = None if d.residual is None else d.residual.subject
    if subject is None:
        return
    pairs = np.unique(np.column_stack([source.codes, subject.codes]), axis=0)[:, 0]
    if len(set(np.bincount(pairs).tolist())) > 1:
        raise NotImplementedError(
            f"the case bootstrap of errors that are correlated within '{subject.name}' draws levels of "
            f"'{source.name}', which have to hold as many of these each, and do not: use kind='parametric'"
        )


def repeated(d: Design, codes: np.ndarray, copies: np.ndarray) -> Design:
    """The design in which each group of rows ``codes`` (n,) stands as often as ``copies`` (J,) says."""
    by_group = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=len(copies)))[:-1])
    parts = [rows for rows, count in zip(by_group, copies, strict=True) for _ in range(count)]
    rows = np.concatenate(parts)
    copy = np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def factor(f: Factor) -> Factor:
        """Levels of each copy by themselves."""
        _, own = np.unique(copy.astype(np.int64) * len(f.levels) + f.codes[rows], return_inverse=True)
        return replace(f, codes=own.ravel().astype(np.int32), levels=np.arange(int(own.max()) + 1).astype(str))

    def some(x: Any) -> Any:
        return None if x is None else x[rows]

    assert d.residual is not None
    subject = None if d.residual.subject is None else factor(d.residual.subject)
    return replace(
        d,
        y=d.y[rows],
        X=d.X[rows],
        factors=tuple(map(factor, d.factors)),
        terms=tuple(replace(t, Z=t.Z[rows]) for t in d.terms),
        weights=some(d.weights),
        offset=some(d.offset),
        index=d.index[d.kept][rows],
        kept=np.ones(len(rows), bool),
        held_out=None,
        y_all=d.y[rows],
        weights_all=some(d.weights),
        residual=d.residual.take(rows, None if subject is None else (subject.codes, subject.levels)),
    )
