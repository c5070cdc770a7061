"""Two models of the same rows -> whether what the smaller one says of them is a case of what the larger one says.

    fixed effects      span X ⊆ span X', predictor by predictor, and the offsets differ by something in span X'
    random effects     the covariances  Σ_t [codes_i = codes_j] z_i' D_t z_j  of rows i, j: D = CD'C' of one of the
                       larger model's terms, where Z = Z'C and the structure allows any D'
    errors             correlations of the same structure, or of any where the larger one's are any, with parameters
                       that differ by no more; columns of log s² in the span of the larger one's, and of what its
                       structure has of its own

The second is enough and not needed: subjects by conditions are a case of conditions within subjects.  Needed is that
the matrices which the smaller model's covariances are sums of lie in the span of the larger one's, D being any
symmetric matrix; that is seen on pairs of rows, some for each factor.  What passes the one and not the other, and
other families, cannot be decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmm.covariance import Covariance
from jaxmm.design import Design, RandomTerm
from jaxmm.design.predictor import Factor
from jaxmm.design.residual import ResidualDesign
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
    """Whether the errors of the smaller model are known to be a case of the larger one's: correlations that the larger
    one has too, and an s within each subject that it can have."""
    own, other = a.residual, b.residual
    if other is None:
        return own is None
    if own is None:  # independent and of one variance: a case of every structure, but of a known matrix
        return other.covariance is None or not other.covariance.known
    if (own.searched, own.sigma) != (other.searched, other.sigma) or not _correlations_within(own, other):
        return False
    cells, nothing = _cells(other, len(b.y)), np.zeros((len(b.y), 0))
    V, larger = (_beside(cells, nothing if d.V is None else d.V) for d in (own, other))
    return _spans(larger, V)


def _correlations_within(own: ResidualDesign, other: ResidualDesign) -> bool:
    """Whether C of each subject is one that the other structure has: of the same structure at the same times, or of any
    where the other's is any; with parameters that differ by no more."""
    if other.covariance is None:
        return own.covariance is None
    if own.covariance is None:  # independent errors
        return not other.covariance.known
    same = own.subject is not None and other.subject is not None and same_factor(own.subject, other.subject)
    if not same or own.times != other.times or not np.array_equal(own.place, other.place):  # pyright: ignore
        return False
    known = is_any(other.covariance)
    known = known or (own.covariance == other.covariance and _same(own.positions, other.positions))
    return known and _coarser(own.sets, other.sets)


def _cells(d: ResidualDesign, n: int) -> np.ndarray:
    """(n,) rows of one number have one factor of s that is the structure's own: the same for all, one for each set of
    parameters where it has a size of its own, one for each time in each set where it has one at each time."""
    closed = "none" if d.covariance is None else d.covariance.closed_under
    if closed == "none":
        return np.zeros(n, int)
    return d.set_codes if closed == "scalar" else d.set_codes * len(d.times) + np.asarray(d.place)


def _beside(cells: np.ndarray, V: np.ndarray) -> np.ndarray:
    """V (n, k) less its means in the cells."""
    _, cells = np.unique(cells, return_inverse=True)
    count = np.bincount(cells)
    left = V - np.stack([np.bincount(cells, v) / count for v in V.T], axis=1)[cells] if V.size else V
    return np.where(np.linalg.norm(left, axis=0) > OUTSIDE * np.linalg.norm(V, axis=0), left, 0.0)


def _same(a: Any, b: Any) -> bool:
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))


def _coarser(f: Factor | None, g: Factor | None) -> bool:
    """Whether all rows that are alike in g are alike in f."""
    if f is None or g is None:
        return f is None
    pairs = np.unique(f.codes.astype(np.int64) * len(g.levels) + g.codes)
    return len(pairs) == len(np.unique(g.codes))


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
