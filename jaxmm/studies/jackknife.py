"""The fit without each level of one factor in turn: what the acceleration of BCa intervals is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from jaxmm.batch.apart import without_each
from jaxmm.design import DataError, Design
from jaxmm.design.from_arrays import Term, design_from_arrays
from jaxmm.fitted import Fitted
from jaxmm.prepared import Prepared
from jaxmm.results.result import FitBatch
from jaxmm.sources.resample import outermost


def leave_out(fit: Fitted) -> FitBatch | Iterator[Fitted | None]:
    """The levels of the only factor, or of the outermost of nested ones (without any, of that within which errors are
    correlated), as one batch; of crossed factors the levels of
    that with the fewest, fit by fit, None where what is left cannot be fitted."""
    outer, factors = outermost(fit.model), fit.model.design.factors
    if not factors:
        subjects = fit.model.design.correlated_within
        if not subjects:
            raise ValueError(
                "BCa intervals leave out the levels of a factor, and the model has none: method='percentile'"
            )
        return without_each(fit, subjects[0].codes, len(subjects[0].levels), False)
    if outer is not None:
        return without_each(fit, factors[outer].codes, len(factors[outer].levels), True)
    fewest = min(range(len(factors)), key=lambda f: len(factors[f].levels))
    return (_without(fit.model, fewest, j) for j in range(len(factors[fewest].levels)))


def _without(model: Prepared, factor: int, level: int) -> Fitted | None:
    try:
        design = _rows(model.design, model.design.factors[factor].codes != level, model)
        return model.with_design(design).fit()
    except DataError:
        return None


def _rows(d: Design, kept: np.ndarray, model: Prepared) -> Design:
    def of(x: Any) -> Any:
        return None if x is None else x[kept]

    terms = [
        Term(t.Z[kept], d.factors[t.factor].codes[kept], d.factors[t.factor].name, t.effects, t.covariance)
        for t in d.terms
    ]
    family = None if model.likelihood.exact else model.likelihood.family
    design = design_from_arrays(of(d.y), of(d.X), terms, of(d.weights), of(d.offset), d.columns, family, of(d.trials))
    feeds = {f.name: f.predictor for f in d.factors}
    factors = tuple(replace(f, predictor=feeds[f.name]) for f in design.factors)
    return replace(design, factors=factors, further=tuple(p.take(kept) for p in d.further))
