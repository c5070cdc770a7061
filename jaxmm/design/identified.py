"""The errors' covariance and the rows -> whether the data tell all of its parameters apart.

The likelihood tells what moves V = ZDZ' + R, R = diag(s) C diag(s) within a subject, log s² = V γ, at a pair of rows
that there is.  A direction of (θ_C, γ, θ_D) that moves it at none,

    dV_ij  =  z_i' dD z_j + s_i s_j [dC_st + C_st (v_i + v_j)' dγ / 2]  =  0        for rows i, j at the times s, t,

cannot be estimated from any response.  Without random effects that is, of C alone,

    d corr_st  =  0   for the times s < t that some subject has together,      d log C_ss + v_i' dγ  =  0   at each row

so that which times occur together, and the mean and the spread of v at each, are all that is looked at.  Derivatives
are differences at one point that is in no way special.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from jaxmm import covariance
from jaxmm._runs import ranks
from jaxmm.design.columns import DataError
from jaxmm.design.design import Design
from jaxmm.design.predictor import RandomTerm
from jaxmm.design.residual import ResidualDesign

STEP = 1e-5  # of the differences, in the parameters' own units
NULL = 1e-9  # of the largest eigenvalue of J'J, J of columns of length one
TOLD = 1e-3  # a pivot of its root, above which no combination of the columns is zero
ROUNDING = 1e-14  # of the largest diagonal element of J'J
MOVES = 1e-3  # an element of a direction, or what it moves, from which it is not rounding
LIKELY = 0.5  # correlation of neighbours at the point
MOST = 4_000_000  # numbers of the derivatives of C; of more times some are looked at, where a structure lets one
MOST_TIMES = 40  # of these
FIRST = 40  # pairs of subjects that are looked at first, where there are random effects
AT_ONCE = 2_000_000  # numbers of J


def check_told_apart(design: Design) -> None:
    """Raises DataError, of the errors of a linear model, where the data do not bear their covariance, or where it, the
    formula of log φ and the random effects say the same; nothing where it cannot be known without all of many rows."""
    d = design.residual
    if d is None or d.subject is None or d.covariance is None or d.sigma is not None:
        return
    _check_enough(d)
    looked = _looked_at(d)
    if looked is None or any(t.Z.shape[1] > MOST_TIMES for t in design.terms):
        return
    if not design.terms:
        null = _null(_of_times(d, looked))
        if null.along.shape[1] and looked.whole:
            raise _error(design, looked, null)
        return
    pairs = _subject_pairs(design, looked)
    some = np.unique(np.linspace(0, len(pairs) - 1, FIRST).astype(int))
    for which in (pairs[some], pairs):
        null = _null(_of_pairs(design, looked, which))
        if not null.along.shape[1]:
            return
    if looked.whole:
        raise _error(design, looked, null)


def _check_enough(d: ResidualDesign) -> None:
    """Of a structure that is any matrix: fewer subjects than one of them has rows, and the likelihood has no bound, as
    C may be singular within what the subjects' residuals span."""
    assert d.covariance is not None and d.subject is not None
    if d.covariance.closed_under != "linear":
        return
    sizes = np.bincount(d.subject.codes)
    sets = np.zeros(len(sizes), int)
    if d.sets is not None:
        sets[d.subject.codes] = d.sets.codes
    for g in np.unique(sets):
        own = sizes[sets == g]
        if len(own) < own.max():
            where = "" if d.sets is None else f" of '{d.sets.name}' {str(d.sets.levels[g])!r}"
            raise DataError(
                f"{d.text}: the data do not bear a covariance of any form: there are {len(own)} levels of "
                f"'{d.subject.name}'{where}, and one has {own.max()} rows, so that the likelihood has no bound: take a "
                "structure with fewer parameters, such as toep, ar1 or homcs"
            )


# ---------------------------------------------------------------- at one point
class Looked(NamedTuple):
    """``C`` (T, T) and its derivatives ``dC`` (T, T, m) at the times looked at, which are called ``times``; ``rows``
    (k,) those of the design at these, and ``place`` (k,) which; ``whole``: whether these are all."""

    C: np.ndarray
    dC: np.ndarray
    times: tuple[str, ...]
    rows: np.ndarray
    place: np.ndarray
    whole: bool


def _looked_at(d: ResidualDesign) -> Looked | None:
    """None where there are too many times."""
    structure, place = d.covariance, d.place
    assert structure is not None and place is not None and d.subject is not None
    T, positions, times, rows, whole = len(d.times), d.positions, d.times, np.arange(len(place)), True
    if T**2 * structure.num_params > MOST:
        if not structure.positional:
            return None
        some = _some_times(d.subject.codes, place)
        rows = rows[np.isin(place, some)]
        place, whole = np.searchsorted(some, place[rows]), False
        positions, times = np.asarray(positions)[some], tuple(times[k] for k in some)
    if structure.positional and positions is not None:  # of steps some have no time
        structure = covariance.resized(structure, len(positions))
    C, dC = moved_by(structure, positions)
    size = len(times)
    return Looked(C[:size, :size], dC[:size, :size], times, rows, place, whole)


def _some_times(codes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Those of the subjects with the most rows."""
    sizes = np.bincount(codes)
    some: set[int] = set()
    for subject in np.argsort(-sizes, kind="stable"):
        some |= set(place[codes == subject][:MOST_TIMES].tolist())
        if len(some) >= MOST_TIMES:
            break
    return np.array(sorted(some))


def moved_by(structure: Any, at: Any) -> tuple[np.ndarray, np.ndarray]:
    """C (T, T) at a point, and its derivatives (T, T, m) there."""
    return _moved_in_order(structure) if at is None else _moved(structure, at)


@lru_cache(maxsize=8)
def _moved_in_order(structure: Any) -> tuple[np.ndarray, np.ndarray]:
    """Without positions it is the same for all data."""
    found = _moved(structure, None)
    for x in found:
        x.flags.writeable = False
    return found


def _moved(structure: Any, at: Any) -> tuple[np.ndarray, np.ndarray]:
    theta = _point(structure, at)
    steps = STEP * np.maximum(np.abs(theta), 1.0)
    lanes = np.concatenate([theta[:, None] + np.diag(steps), theta[:, None] - np.diag(steps), theta[:, None]], axis=1)
    found = np.asarray(structure.covariance(lanes, at), float)
    m = len(theta)
    return found[..., -1], (found[..., :m] - found[..., m : 2 * m]) / (2 * steps)


def as_correlations(C: np.ndarray, dC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From C (T, T) and its derivatives (T, T, m) those of the logarithms of its variances (T, m), and of its
    correlations (T, T, m)."""
    variance = np.diag(C)
    log_variance = np.einsum("ttm->tm", dC) / variance[:, None]
    half = 0.5 * (log_variance[:, None] + log_variance[None])
    return log_variance, (dC - C[..., None] * half) / np.sqrt(np.outer(variance, variance))[..., None]


def _point(structure: Any, at: Any) -> np.ndarray:
    """theta (m,) at which correlations fall with the distance, a little off."""
    q = structure.q
    where, unit = np.arange(q, dtype=float)[:, None], 1.0
    if structure.positional and at is not None and len(at) == q:
        where = np.asarray(at, float).reshape(q, -1)
    apart = np.sqrt(np.sum((where[:, None] - where[None]) ** 2, axis=2))
    if q > 1:
        unit = np.median(apart[np.triu_indices(q, 1)])
    L = np.linalg.cholesky(LIKELY ** (apart / unit) + 1e-6 * np.eye(q))
    theta, k = np.asarray(structure.from_factor(L, at), float), np.arange(structure.num_params)
    if structure.positional:  # a correlation of neighbours a little less may be none of the times that there are
        return theta
    return theta * (1 + 0.1 * np.cos(1.0 + 7.0 * k)) + 0.05 * np.sin(2.0 + 3.0 * k)


class Null(NamedTuple):
    """Directions (k, j) that J'J is zero ``along``, and the ``share`` (k, j) that each parameter has in them."""

    along: np.ndarray
    share: np.ndarray


def _null(G: np.ndarray) -> Null:
    """Of J'J (k, k)."""
    size = np.diag(G)
    length = np.sqrt(np.where(size > ROUNDING * np.max(size), size, 1.0))
    unit = G / np.outer(length, length)
    try:
        if np.min(np.diag(np.linalg.cholesky(unit))) > TOLD:  # quicker than eigenvalues, and mostly enough
            return Null(np.zeros((len(G), 0)), np.zeros((len(G), 0)))
    except np.linalg.LinAlgError:
        pass
    w, Q = np.linalg.eigh(unit)
    share = Q[:, w <= NULL * w[-1]]
    return Null(share / length[:, None], share)


# ---------------------------------------------------------------- without random effects
def _spread(d: ResidualDesign) -> np.ndarray:
    """(n, columns) of log φ beside its constant, each of about unit size."""
    assert d.place is not None
    if d.V is None:
        return np.zeros((len(d.place), 0))
    V = d.V - d.V.mean(axis=0)
    return V / np.maximum(V.std(axis=0), 1e-300)


def _of_times(d: ResidualDesign, at: Looked) -> np.ndarray:
    """J'J by (θ of each set, γ)."""
    assert d.subject is not None
    T, m, V = len(at.times), at.dC.shape[-1], _spread(d)[at.rows]
    sets, count, k = d.set_codes[at.rows], d.num_sets, V.shape[1]
    log_variance, correlation = as_correlations(at.C, at.dC)
    s, t = np.triu_indices(T, 1)
    G = np.zeros((count * m + k, count * m + k))
    for g in range(count):
        own = sets == g
        there = np.zeros((len(d.subject.levels), T))
        there[d.subject.codes[at.rows[own]], at.place[own]] = 1.0
        together = (there.T @ there)[s, t] > 0
        seen = np.bincount(at.place[own], minlength=T)
        total = [np.bincount(at.place[own], v, T) for v in V[own].T]
        mean = np.array(total).reshape(k, T).T / np.maximum(seen, 1)[:, None]
        J = np.hstack([log_variance, mean])[seen > 0]
        inside = np.r_[g * m : (g + 1) * m, count * m : count * m + k]
        G[np.ix_(inside, inside)] += J.T @ J
        J = correlation[s[together], t[together]]
        G[g * m : (g + 1) * m, g * m : (g + 1) * m] += J.T @ J
        apart = V[own] - mean[at.place[own]]
        G[count * m :, count * m :] += apart.T @ apart / max(len(apart), 1)
    return G


# ---------------------------------------------------------------- with random effects
def _subject_pairs(design: Design, at: Looked) -> np.ndarray:
    """(pairs, 2) of subjects: each with itself, and neighbours in each level of a factor."""
    d = design.residual
    assert d is not None and d.subject is not None
    codes = d.subject.codes[at.rows]
    of = np.array([f.codes[at.rows] for f in design.factors])
    subjects = np.unique(codes)
    out = [np.column_stack([subjects, subjects])]
    for f in range(len(of)):
        order = np.lexsort((codes, *np.delete(of, f, axis=0), of[f]))
        both = np.column_stack([codes[order[:-1]], codes[order[1:]]])
        same = (of[f][order[1:]] == of[f][order[:-1]]) & (both[:, 0] != both[:, 1])
        out.append(np.unique(both[same], axis=0))
    return np.concatenate(out)


def _of_pairs(design: Design, at: Looked, pairs: np.ndarray) -> np.ndarray:
    """J'J by (θ of each set, γ, θ_D of each term), over the rows of the pairs of subjects."""
    d = design.residual
    assert d is not None and d.subject is not None
    codes = d.subject.codes[at.rows]
    by = np.argsort(codes, kind="stable")
    H = int(np.bincount(codes).max())
    slots = np.full((int(codes.max()) + 1, H), -1)
    slots[codes[by], ranks(codes, by)[by]] = by
    count, V = d.num_sets, _spread(d)
    moves = [moved_by(t.covariance, t.inputs)[1] for t in design.terms]
    k = count * at.dC.shape[-1] + V.shape[1] + sum(x.shape[-1] for x in moves)
    G, step = np.zeros((k, k)), max(1, AT_ONCE // (k * H * H))
    for start in range(0, len(pairs), step):
        a, b = (slots[own] for own in pairs[start : start + step].T)  # (.., H)
        i, j = (x.ravel() for x in np.broadcast_arrays(a[:, :, None], b[:, None, :]))
        real = (i >= 0) & (j >= 0)
        J = _rows_of(design, at, V, moves, i[real], j[real], count)
        G += J.T @ J
    return G


def _rows_of(
    design: Design, at: Looked, V: np.ndarray, moves: list[np.ndarray], i: np.ndarray, j: np.ndarray, count: int
) -> np.ndarray:
    """J of the pairs of rows (i, j), places in ``at.rows``."""
    d = design.residual
    assert d is not None and d.subject is not None
    one, two, m = at.rows[i], at.rows[j], at.dC.shape[-1]
    same = d.subject.codes[one] == d.subject.codes[two]
    gamma = 0.1 * np.cos(1.0 + np.arange(V.shape[1]))
    s = np.exp(0.5 * (V[one] + V[two]) @ gamma) * same
    own, columns = at.dC[at.place[i], at.place[j]] * s[:, None], np.zeros((len(i), count * m))
    sets = d.set_codes[one]
    for g in range(count):
        columns[:, g * m : (g + 1) * m] = own * (sets == g)[:, None]
    by_gamma = (at.C[at.place[i], at.place[j]] * s)[:, None] * 0.5 * (V[one] + V[two])
    parts = [columns, by_gamma]
    for term, dD in zip(design.terms, moves, strict=True):
        level = design.factors[term.factor].codes
        shared = (level[one] == level[two])[:, None]
        parts.append(shared * np.einsum("na,abm,nb->nm", term.Z[one], dD, term.Z[two], optimize=True))
    return np.hstack(parts)


# ---------------------------------------------------------------- what is said
def _error(design: Design, at: Looked, null: Null) -> DataError:
    d = design.residual
    assert d is not None and d.subject is not None
    count, m = d.num_sets, at.dC.shape[-1]
    k = 0 if d.V is None else d.V.shape[1]
    moves = np.linalg.norm(null.share, axis=1) > MOVES
    gamma, effects = moves[count * m : count * m + k], moves[count * m + k :]
    if effects.any():
        ends = np.cumsum([t.covariance.num_params for t in design.terms])
        own = [t for t, moved in zip(design.terms, np.split(effects, ends[:-1]), strict=True) if moved.any()]
        return DataError(
            f"the random effects {_shown(design, own)} and the errors, {_errors_text(d)}, say the same: the data do "
            f"not tell their parameters apart: leave the random effects out{_or_simpler(d, ' of the errors')}"
        )
    if gamma.any():
        assert d.dispersion is not None
        names = ", ".join(map(repr, np.delete(np.array(d.dispersion.columns), d.left)[gamma][:3].tolist()))
        return DataError(
            f"residual={d.text!r} and dispersion='{d.dispersion.formula}' both have parameters of the same variances "
            f"({names}), which the data do not tell apart: leave dispersion= out, or "
            "take a structure with one variance for all times, such as homdiag, homcs, ar1 or homtoep"
        )
    return _unseen(d, at, null, count)


def _unseen(d: ResidualDesign, at: Looked, null: Null, count: int) -> DataError:
    """Of times that no subject has together."""
    assert d.subject is not None and d.bar is not None
    m, T = at.dC.shape[-1], len(at.times)
    remedy = f"leave one of the times out{_or_simpler(d)}"
    if np.bincount(d.subject.codes).max() < 2:
        return DataError(
            f"{d.text}: each level of '{d.subject.name}' has one row only, so that there is nothing to tell of "
            "correlations: leave residual= out, or take diag, which has none, for unequal variances"
        )
    for g in range(count):
        moved = np.linalg.norm(at.dC @ null.along[g * m : (g + 1) * m], axis=2)
        pairs = [(s, t) for s in range(T) for t in range(s + 1, T) if moved[s, t] > MOVES * moved.max(initial=1e-300)]
        if not pairs or not moved.max() > MOVES:
            continue
        where = "" if d.sets is None else f" of '{d.sets.name}' {str(d.sets.levels[g])!r}"
        (s, t), time = pairs[0], 1 if d.bar.time is None else d.bar.time
        more = f", one of {len(pairs)} such pairs" if len(pairs) > 1 else ""
        return DataError(
            f"{d.text}: no level of '{d.subject.name}'{where} has rows at both {at.times[s]!r} and {at.times[t]!r} of "
            f"'{time}'{more}, so that the data do not tell their covariance: {remedy}"
        )
    return DataError(f"{d.text}: the data do not tell its parameters apart: {remedy}")


def _or_simpler(d: ResidualDesign, of: str = "") -> str:
    """Structures that have fewer parameters, where there are."""
    names = covariance.simpler(d.covariance)  # pyright: ignore
    return f", or take a structure{of} with fewer parameters, such as {' or '.join(names[-2:])}" if names else ""


def _errors_text(d: ResidualDesign) -> str:
    also = "" if d.dispersion is None else f" and dispersion='{d.dispersion.formula}'"
    return f"residual={d.text!r}{also}"


def _shown(design: Design, terms: list[RandomTerm]) -> str:
    effects = [[("1" if e == "(Intercept)" else e) for e in t.effects] for t in terms]
    texts = [f"({' + '.join(e)} | {design.factors[t.factor].name})" for e, t in zip(effects, terms, strict=True)]
    return " and ".join(texts)
