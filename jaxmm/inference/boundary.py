"""Where a likelihood ratio tests a variance, which lies on the boundary of its range under the hypothesis: the mixture.

Of two nested models with the same X, the larger one with

    one more term of one variance                 ½ χ²₀ + ½ χ²₁              half of the time the estimate is zero
    one more effect in a term of q correlated     ½ χ²_q + ½ χ²_{q+1}         a variance, and q covariances

(Self & Liang 1987, J. Am. Stat. Assoc. 82, cases 5 and 6; Stram & Lee 1994, Biometrics 50), as the number of
independent units grows, which are the levels of the outermost factor, and while the other variances are not zero.  With
crossed factors there are no such units and the mixture does not hold; χ² with all degrees of freedom is conservative.
Whether two models are so is read off their designs: codes, columns, and what a covariance structure says of itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import chdtrc

from jaxmm.design import Design, RandomTerm
from jaxmm.design.predictor import Factor
from jaxmm.prepared import Prepared

RANK = 1e-9  # relative: singular values of columns that depend on each other


@dataclass(frozen=True)
class Added:
    """What of the random effects the larger model has beyond the smaller: ``term`` is the index of its term, ``before``
    how many effects the smaller model has in it."""

    term: int
    before: int


@dataclass(frozen=True)
class Mixture:
    """½ χ²_q + ½ χ²_{q+1} with ``q``; ``units``: the name of the outermost factor and how many levels it has."""

    q: int
    units: tuple[str, int]

    def p(self, statistic: Any) -> np.ndarray:
        """P(≥ statistic); 1 at zero with q = 0, where half of the mass lies."""
        x = np.asarray(statistic, float)
        lower = np.where(x > 0, 0.0, 1.0) if self.q == 0 else chdtrc(self.q, x)
        return 0.5 * lower + 0.5 * chdtrc(self.q + 1, x)

    def __str__(self) -> str:
        return f"½χ²({self.q}) + ½χ²({self.q + 1})"


def added(smaller: Prepared, larger: Prepared) -> Added | None:
    """The one term by which two models of the same X differ, where the smaller one lacks it, or one of its correlated
    effects; None where they differ in another way."""
    a, b = smaller.design, larger.design
    if not (same_span(a.X, b.X) and _same_further(a, b) and smaller.likelihood.family == larger.likelihood.family):
        return None
    left = list(range(len(a.terms)))
    more = []
    for t in range(len(b.terms)):
        match = next((s for s in left if alike(a, s, b, t)), None)
        if match is None:
            more.append(t)
        else:
            left.remove(match)
    if len(more) != 1 or len(left) > 1:
        return None
    term = b.terms[more[0]]
    if not left:
        return Added(more[0], 0) if term.covariance.num_params == 1 else None
    old = a.terms[left[0]]
    grows = (
        same_factor(a.factors[old.factor], b.factors[term.factor])
        and is_full(old)
        and is_full(term)
        and term.covariance.q == old.covariance.q + 1
        and rank(np.hstack([old.Z, term.Z])) == rank(term.Z)
    )
    return Added(more[0], old.covariance.q) if grows else None


def mixture(smaller: Any, larger: Any) -> Mixture | str | None:
    """The distribution of the likelihood ratio of two fits; a sentence where it would be one but does not hold, and
    None where no variance is tested in this way."""
    one = added(smaller.model, larger.model)
    if one is None:
        return None
    if smaller.is_singular:
        return "the smaller model is singular itself"
    factors = sorted(larger.model.design.factors, key=lambda f: -len(f.levels))
    if not all(_nested(inner, outer) for inner, outer in pairwise(factors)):
        return "crossed factors have no independent units"
    return Mixture(one.before, (factors[-1].name, len(factors[-1].levels)))


def differs_in_effects(smaller: Prepared, larger: Prepared) -> bool:
    """Whether the larger model has other random effects."""
    a, b = smaller.design, larger.design
    if len(a.terms) != len(b.terms):
        return True
    return not all(any(alike(a, s, b, t) for s in range(len(a.terms))) for t in range(len(b.terms)))


# ---------------------------------------------------------------- comparisons of parts
def same_span(A: np.ndarray, B: np.ndarray) -> bool:
    """Whether the columns span the same space."""
    return rank(A) == rank(B) == rank(np.hstack([A, B]))


def rank(A: np.ndarray) -> int:
    size = np.linalg.norm(A, axis=0)
    return int(np.linalg.matrix_rank(A / np.where(size > 0, size, 1.0), RANK)) if A.size else 0


def _same_further(a: Design, b: Design) -> bool:
    return [p.name for p in a.further] == [p.name for p in b.further] and all(
        same_span(p.X, q.X) for p, q in zip(a.further, b.further, strict=True)
    )


def same_factor(f: Factor, g: Factor) -> bool:
    """Whether they divide the rows alike, and add to the same parameter."""
    pairs = np.unique(f.codes.astype(np.int64) * len(g.levels) + g.codes).size
    return f.predictor == g.predictor and pairs == len(f.levels) == len(g.levels)


def alike(a: Design, s: int, b: Design, t: int) -> bool:
    """Whether two terms allow the same covariances of the rows."""
    old, new = a.terms[s], b.terms[t]
    if not same_factor(a.factors[old.factor], b.factors[new.factor]):
        return False
    if not np.array_equal(_or_none(old.inputs), _or_none(new.inputs)):
        return False
    if old.covariance != new.covariance:
        return False
    return np.array_equal(old.Z, new.Z) or (is_full(old) and same_span(old.Z, new.Z))


def _or_none(x: np.ndarray | None) -> np.ndarray:
    return np.zeros(0) if x is None else x


def is_full(term: RandomTerm) -> bool:
    """Whether any covariance matrix of the effects is one of the structure's."""
    q = term.covariance.q
    return term.covariance.closed_under == "linear" and term.covariance.num_params == q * (q + 1) // 2


def _nested(inner: Factor, outer: Factor) -> bool:
    pairs = np.unique(inner.codes.astype(np.int64) * len(outer.levels) + outer.codes).size
    return pairs == len(inner.levels)
