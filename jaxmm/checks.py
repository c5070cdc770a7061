"""What a model needs beyond its design, as lme4 asks for it: a response that varies, and effects that can be told
apart from each other and, where the family has a scale, from the residuals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxmm._columns import DataError
from jaxmm.design import Design, RandomTerm
from jaxmm.response import check_varies

if TYPE_CHECKING:
    from jaxmm.families import Family

__all__ = ["check_glmm", "check_lmm"]


def check_lmm(design: Design) -> None:
    """What a linear mixed model needs; raises DataError.

    Each grouping factor has two levels or more and fewer levels than there are rows; an unstructured term has
    fewer random effects (levels × effects) than rows; no effect is given twice or is zero; the response varies.
    """
    _check(design, None)


def check_glmm(design: Design, family: Family) -> None:
    """What a generalised linear mixed model needs; raises DataError.

    As `check_lmm` where the family has a scale. Without one there is no residual to confuse an effect with, so that a
    factor may have a level for each row; and only a response of nothing but failures, successes or zeros is constant.
    """
    _check(design, family)


def _check(design: Design, family: Family | None) -> None:
    _check_repeats(design)
    check_varies(design.y, design.trials, family, f"the response '{design.response}'")
    for term in design.terms:
        _check_columns(design, term)
        factor = design.factors[term.factor]
        if len(factor.levels) < 2:
            raise DataError(
                f"the grouping factor '{factor.name}' has the one level {str(factor.levels[0])!r}: its "
                "variance cannot be estimated; leave the term out"
            )
        if family is None or family.has_scale:
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
    if term.kind == "us" and J * q >= n:
        some = [*term.effects[:4], "..."] if q > 5 else term.effects
        shown = f"({' + '.join(some)} | {factor.name})"
        raise DataError(
            f"the term {shown} has {J} levels × {q} effects = {J * q} random effects and the data have "
            f"{n} rows: they cannot be told from the residuals; use fewer effects, such as "
            f"(1 | {factor.name})"
        )
