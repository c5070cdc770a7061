"""What a model needs beyond its design, as lme4 asks for it: a response that varies, and effects that can be told
apart from each other and, where the family has a scale, from the residuals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design import Design, RandomTerm
from jaxmm.design.columns import DataError
from jaxmm.design.identified import check_told_apart
from jaxmm.design.response import by_position, check_counts, check_support, check_varies
from jaxmm.families import Family

__all__ = ["REPRODUCED", "check_glmm", "check_left", "check_lmm", "check_response"]

REPRODUCED = 1e-26  # of its sum of squares: what is left of a response that the fixed effects reproduce
ROUGHLY = 1e-18  # the same by cross-products, whose rounding is larger: above it something is left for certain


def check_lmm(design: Design) -> None:
    """What a linear mixed model needs; raises DataError.

    Each grouping factor has two levels or more, or more effects than its structure has parameters, and
    fewer levels than there are rows; an unstructured term has fewer random effects (levels × effects) than rows; no
    effect is given twice or is zero; the response varies; the data tell the parameters of the errors apart.
    """
    _check(design, None)
    check_told_apart(design)


def check_glmm(design: Design, family: Family) -> None:
    """What a generalised linear mixed model needs; raises DataError.

    As `check_lmm` where the family has a scale. Without one there is no residual to confuse an effect with, so that a
    factor may have a level for each row; and only a response of nothing but failures, successes or zeros is constant.
    """
    _check(design, family)


def check_left(design: Design, columns: Callable[[], np.ndarray], left: float) -> None:
    """Raises DataError where nothing is left of the response but what the fixed effects and the offset make.

    Args:
        columns: gives X (n, p), in columns that are well apart from each other; called where there is a doubt.
        left: the (weighted) sum of squares that is left, as far as it is known.
    """
    e = design.y if design.offset is None else design.y - design.offset
    w = np.ones(len(e)) if design.weights is None else np.sqrt(design.weights)
    if left > ROUGHLY * np.sum((w * e) ** 2):
        return
    X, rest = columns(), e
    for _ in range(2):  # the second time takes the rounding of the first
        rest = rest - X @ np.linalg.lstsq(X * w[:, None], w * rest, rcond=None)[0]
    if np.sum(rest**2) <= REPRODUCED * np.sum(e**2):
        also = "" if design.offset is None else " and the offset"
        raise DataError(
            f"the fixed effects{also} reproduce the response '{design.response}' exactly: there is nothing left for "
            "random effects and error to explain; leave out the column that the response was made from"
        )


def check_response(design: Design, family: Family | None, y: Any) -> np.ndarray:
    """Another response for the rows of a design that count, as (n,) float64: counts where there are trials.

    A Series must have the labels of those rows, in their order, or none of its own (0, 1, ...).

    Raises:
        DataError: of another length, not numbers, not counts within the trials, outside the support, constant.
    """
    labels = design.index[design.kept]
    if isinstance(y, pd.Series) and len(y) == len(labels) and not y.index.equals(labels):
        if not y.index.equals(pd.RangeIndex(len(y))):
            raise DataError(
                "the response is a Series with other labels than the rows used: reindex it "
                "(y.reindex(fit.fitted().index)), or pass y.to_numpy() to take it by position"
            )
    try:
        y = np.array(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("the response holds text or other things where numbers are due") from None
    n = len(design.y)
    if y.shape != (n,):
        zero = int((~design.kept).sum())
        without = f" (without the {zero} of weight zero)" if zero else ""
        raise DataError(f"the response must have {n} values, one per row used{without}; got shape {y.shape}")
    if not np.all(np.isfinite(y)):
        raise DataError(f"the response is not finite in row {int(np.flatnonzero(~np.isfinite(y))[0])} (from 0)")
    if design.trials is not None:
        check_counts(y, design.trials, "the response", by_position)
    check_support(y, family, "the response", by_position)
    check_varies(y, design.trials, family, "the response")
    return y


def _check(design: Design, family: Family | None) -> None:
    _check_repeats(design)
    check_varies(design.y, design.trials, family, f"the response '{design.response}'")
    for term in design.terms:
        _check_columns(design, term)
        factor = design.factors[term.factor]
        if len(factor.levels) < 2 and term.covariance.num_params >= len(term.effects):
            raise DataError(
                f"the grouping factor '{factor.name}' has the one level {str(factor.levels[0])!r}: its "
                "variance cannot be estimated; leave the term out"
            )
        known = design.residual is not None and design.residual.sigma is not None
        if (family is None or family.has_scale) and not known:
            _check_residuals(design, term)


def _check_repeats(design: Design) -> None:
    seen: set[tuple[int, str]] = set()
    for term in design.terms:
        for effect in term.effects:
            if (term.factor, effect) in seen:
                raise DataError(
                    f"two terms give the grouping factor '{design.factors[term.factor].name}' the same effect "
                    f"{effect!r}: their variances cannot be told apart; write it in one term only (0 + x leaves the "
                    "intercept out)"
                )
            seen.add((term.factor, effect))


def _check_columns(design: Design, term: RandomTerm) -> None:
    for effect, column in zip(term.effects, term.Z.T, strict=True):
        if not column.any():
            raise DataError(
                f"the effect {effect!r} of ({' + '.join(term.effects)} | {design.factors[term.factor].name}) is zero "
                "in every row: its variance cannot be estimated; leave it out"
            )


def _check_residuals(design: Design, term: RandomTerm) -> None:
    """Fewer effects than rows: else they fit the residuals."""
    n = len(design.y)
    factor = design.factors[term.factor]
    J, q = len(factor.levels), len(term.effects)
    if J >= n:
        raise DataError(
            f"the grouping factor '{factor.name}' has {J} levels and the data have {n} rows: the number "
            "of levels must be below the number of observations, or the random effects cannot be "
            "told from the residuals; group by something coarser"
        )
    if term.covariance.closed_under == "linear" and J * term.covariance.rank >= n:
        some = [*term.effects[:4], "..."] if q > 5 else term.effects
        shown = f"({' + '.join(some)} | {factor.name})"
        raise DataError(
            f"the term {shown} has {J} levels × {q} effects = {J * q} random effects and the data have "
            f"{n} rows: they cannot be told from the residuals; use fewer effects, such as "
            f"(1 | {factor.name})"
        )
