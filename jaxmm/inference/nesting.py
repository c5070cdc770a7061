"""Two models of the same rows -> whether what the smaller one says of them is a case of what the larger one says.

    fixed effects      span X ⊆ span X', predictor by predictor, and the offsets differ by something in span X'
    random effects     the covariances  Σ_t [codes_i = codes_j] z_i' D_t z_j  of rows i, j: D = CD'C' of one of the
                       larger model's terms, where Z = Z'C and the structure allows any D'

The second is enough and not needed: subjects by conditions are a case of conditions within subjects.  Needed is that
the matrices which the smaller model's covariances are sums of lie in the span of the larger one's, D being any
symmetric matrix; that is seen on pairs of rows, some for each factor.  What passes the one and not the other, and
other families, cannot be decided here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxmm.covariance import Covariance
from jaxmm.design import Design, RandomTerm
from jaxmm.inference.boundary import alike, is_full, rank, same_factor
from jaxmm.prepared import Prepared

PAIRS = 1000  # of rows, for each factor
STEPS = (0, 1, 2, 3, 5, 8)  # between the rows of a pair, in the order of a factor's levels
OUTSIDE = 1e-6  # of a column's length: what of it may be left outside a span by rounding


def obstacle(smaller: Prepared, larger: Prepared) -> str | None:
    """Why the smaller model is no case of the larger one; None where it is, or where that is not known."""
    a, b = smaller.design, larger.design
    if not _spans(b.X, a.X):
        return "its fixed effects do not include those of the other"
    if not _spans(b.X, (_offset(a) - _offset(b))[:, None]):
        return "the offsets differ"
    further = {p.name: p for p in b.further}
    for p in a.further:
        if p.name in further and not _spans(further[p.name].X, p.X):
            return f"its fixed effects of {p.name} do not include those of the other"
    if a.residual is not None and b.residual is None:
        return "its errors are independent and of one variance"
    if a.residual is not None or b.residual is not None:
        return None
    if smaller.likelihood.family == larger.likelihood.family and not _covers(a, b, smaller.likelihood.precisions):
        return "its random effects do not include those of the other"
    return None


def doubt(smaller: Prepared, larger: Prepared) -> str | None:
    """What keeps one from knowing that the smaller model is a case of the larger one, if nothing is in the way."""
    a, b = smaller.design, larger.design
    if smaller.likelihood.family != larger.likelihood.family:
        return "the families differ"
    if [p.name for p in a.further] != [p.name for p in b.further]:
        return "other parameters have predictors"
    if not _errors_within(a, b):
        return "the covariances of the errors are written in ways that do not tell"
    left = list(range(len(b.terms)))
    for s, term in enumerate(a.terms):
        own = next((t for t in left if alike(a, s, b, t) or _within(a, term, b, b.terms[t])), None)
        if own is None:
            return "the random effects are written in ways that do not tell"
        if not _adds_up(b.terms[own]):
            left.remove(own)
    return None


def _errors_within(a: Design, b: Design) -> bool:
    """Whether the errors of the smaller model are known to be a case of the larger one's: the same, or any within the
    same subjects at the same times where the larger one's covariance is any."""
    own, other = a.residual, b.residual
    if other is None:
        return own is None
    if own is None:
        return True  # independent and of one variance: a case of every structure
    if own.text == other.text and (own.V is None) == (other.V is None):
        return own.V is None or other.V is None or _spans(other.V, own.V)
    if other.covariance is None or not is_any(other.covariance) or own.dispersion is not None:
        return False
    same = own.subject is not None and other.subject is not None and same_factor(own.subject, other.subject)
    return same and own.times == other.times and own.sets is None and np.array_equal(own.place, other.place)  # pyright: ignore


def is_any(structure: Covariance) -> bool:
    """Whether every covariance matrix is one of the structure's."""
    return structure.closed_under == "linear"


def _offset(d: Design) -> np.ndarray:
    return np.zeros(len(d.y)) if d.offset is None else np.asarray(d.offset, float)


def _spans(B: np.ndarray, A: np.ndarray) -> bool:
    """Whether the columns of A lie in the span of B's."""
    return not np.any(A) or rank(np.hstack([B, A])) == rank(B)


def _within(a: Design, term: RandomTerm, b: Design, other: RandomTerm) -> bool:
    """Whether the covariances of a term are some of another's, which may have more effects."""
    if not same_factor(a.factors[term.factor], b.factors[other.factor]):
        return False
    if is_full(other):
        return _spans(other.Z, term.Z)
    if other.covariance.closed_under != "diagonal" or not is_full(term) or term.covariance.q > 1:
        return False
    return any(rank(np.hstack([other.Z[:, [k]], term.Z])) == 1 for k in range(other.covariance.q))


def _adds_up(term: RandomTerm) -> bool:
    """Whether sums of the structure's matrices are some of its own, so that several terms have a place in it."""
    return is_full(term) or (
        term.covariance.closed_under == "diagonal" and term.covariance.num_params == term.covariance.q
    )


def _covers(a: Design, b: Design, precisions: bool) -> bool:
    """Whether the span of the larger model's covariances has those of the smaller one, on pairs of rows."""
    i, j = _pairs(a, b)
    for predictor in {f.predictor for f in a.factors}:
        of_a, of_b = (np.column_stack([*_parts(d, predictor, i, j), np.zeros(len(i))]) for d in (a, b))
        if precisions:  # the residuals' variance, which may take up what an effect of every row is
            weights = np.ones(len(a.y)) if a.weights is None else a.weights
            of_b = np.column_stack([of_b, (i == j) / weights[i]])
        size = np.linalg.norm(of_b, axis=0)
        of_b = of_b / np.where(size > 0, size, 1.0)
        rest = of_a - of_b @ np.linalg.lstsq(of_b, of_a, rcond=None)[0]
        if np.any(np.linalg.norm(rest, axis=0) > OUTSIDE * np.linalg.norm(of_a, axis=0)):
            return False
    return True


def _pairs(a: Design, b: Design) -> tuple[np.ndarray, np.ndarray]:
    """Rows (m,) and (m,), those of a pair in one level of some factor."""
    found = []
    for f in (*a.factors, *b.factors):
        order = np.argsort(f.codes, kind="stable")
        at = np.unique(np.linspace(0, len(order) - 1, PAIRS).astype(int))
        for step in STEPS:
            first = at[at + step < len(order)]
            pair = np.stack([order[first], order[first + step]])
            found.append(pair[:, f.codes[pair[0]] == f.codes[pair[1]]])
    i, j = np.hstack(found) if found else np.zeros((2, 0), int)
    return i, j


def _parts(d: Design, predictor: str, i: np.ndarray, j: np.ndarray) -> Iterator[np.ndarray]:
    """What the covariances of the pairs are sums of, (m,) each: an entry of D at a time."""
    for term in d.terms:
        f, Z = d.factors[term.factor], term.Z
        if f.predictor != predictor:
            continue
        same = f.codes[i] == f.codes[j]
        for k in range(Z.shape[1]):
            for m in range(k + 1):
                yield same * (Z[i, k] * Z[j, m] + Z[i, m] * Z[j, k])
