"""Where a search begins: residuals of least squares -> theta of the effects and rho of the errors, several candidates.

The mean of e_s e_t over the subjects seen at both times is about σ² C + ZDZ'.  Where the model has random effects it
cannot be told from the residuals alone which of the two is large: then the candidates give it to one, to the other, and
to both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm import covariance
from jaxmm.covariance import Covariance
from jaxmm.covariance._base import namespace
from jaxmm.covariance._decaying import distances
from jaxmm.gram import Gram
from jaxmm.residual.patterns import Patterns
from jaxmm.residual.rows import PatternRows
from jaxmm.residual.sums import PatternSums
from jaxmm.structure import ResidualLayout

MOST_TIMES = 60  # of which a matrix of moments is made; of more, some
LEAST = 0.05  # eigenvalue of a start's C, in units of its mean variance
LENGTHS = 5  # of a correlation that falls with the distance, that are tried
SPREAD = 3.0  # standard deviations of a start at random, over the mean one, and the other way round
LIKELY = 0.5  # correlation of neighbours in a start that knows nothing


def candidates(gram: Gram, random: list[np.ndarray]) -> list[np.ndarray]:
    """theta (m,), as to Z_s; ``random`` of the terms: as moments have them, and small."""
    own: PatternSums | PatternRows = gram.residual
    rhos = _rhos(own, gram)
    if not len(random):
        return rhos
    return [np.concatenate([theta, rho]) for theta in random for rho in rhos]


def _rhos(own: PatternSums | PatternRows, gram: Gram) -> list[np.ndarray]:
    layout = gram.structure.residual
    assert layout is not None
    gammas = [np.zeros(layout.columns)]
    if isinstance(own, PatternRows) and layout.columns:
        gammas.append(_log_regression(own))
    if own.patterns is None or layout.covariance is None:
        return gammas
    found = _moments(own, layout.sets)
    sizes = [float(np.mean(np.diag(S))) for S in found] if found else [1.0] * layout.sets
    rhos = usual(own.patterns, layout, sizes)
    if found:
        at, some = _some(own.patterns, layout.covariance)
        thetas = [_nearest(layout.covariance, S[np.ix_(some, some)] / sizes[0], at, len(some)) for S in found]
        rhos.append(layout.join(in_unit_of_first(layout.covariance, thetas), np.zeros(0)))
    return [np.concatenate([rho, gamma]) for rho in rhos for gamma in gammas]


def usual_errors(own: PatternRows, layout: ResidualLayout) -> list[np.ndarray]:
    """As ``usual``, also of errors that are independent, where the variance does not move."""
    if own.patterns is None or layout.covariance is None:
        return [np.zeros(layout.columns)]
    gamma = np.zeros(layout.columns)
    return [np.concatenate([rho, gamma]) for rho in usual(own.patterns, layout, [1.0] * layout.sets)]


def usual(p: Patterns, layout: ResidualLayout, sizes: list[float]) -> list[np.ndarray]:
    """rho of errors that are independent, and of some whose correlation falls, whatever the data; ``sizes`` of the
    variances of each set of parameters."""
    structure: Any = layout.covariance
    at, some = _some(p, structure)
    matrices = [np.eye(len(some)), _likely(len(some))]
    matrices += [np.exp(-distances(np.asarray(at, float)) / length) for length in _lengths(structure, at)]
    out = []
    for C in matrices:
        thetas = [_nearest(structure, s / sizes[0] * C, at, len(some)) for s in sizes]
        out.append(layout.join(in_unit_of_first(structure, thetas), np.zeros(0)))
    return out


def random_errors(gram: Gram, random: np.random.Generator) -> np.ndarray:
    """rho at random: standard deviations of the times, their correlations, or how far these reach, and γ in units of
    the columns of log φ."""
    own, layout = gram.residual, gram.structure.residual
    assert layout is not None
    gamma = np.zeros(layout.columns)
    if layout.columns:
        V = np.asarray(own.V)[:, np.asarray(own.rows.weights) > 0]
        gamma = random.normal(size=len(V)) / np.maximum(V.std(axis=1), 1e-300)
    if own.patterns is None or layout.covariance is None:
        return gamma
    structure: Any = layout.covariance
    at, some = _some(own.patterns, structure)
    lengths, thetas = _lengths(structure, at), []
    for _ in range(layout.sets):
        L = np.tril(random.normal(size=(len(some), len(some))))
        L /= np.linalg.norm(L, axis=1, keepdims=True)
        R, sd = L @ L.T, np.exp(random.uniform(-np.log(SPREAD), np.log(SPREAD), len(some)))
        if len(lengths):
            length = np.exp(random.uniform(np.log(lengths[0]), np.log(lengths[-1])))
            R = np.exp(-distances(np.asarray(at, float)) / length)
        thetas.append(_nearest(structure, np.outer(sd, sd) * R, at, len(some)))
    return np.concatenate([layout.join(in_unit_of_first(structure, thetas), np.zeros(0)), gamma])


def _lengths(structure: Covariance, at: Any) -> np.ndarray:
    """From the least to the largest distance, where the structure goes by distances: it may have several maxima.  Of
    times that are a step apart there is no need."""
    if not structure.positional or at is None or len(at) < 2:
        return np.zeros(0)
    d = distances(np.asarray(at, float))
    if structure.levels and np.max(np.diff(np.sort(np.asarray(at)[:, 0]))) <= 1:
        return np.zeros(0)
    d = d[d > 0]
    return np.geomspace(d.min(), d.max(), LENGTHS)


def _likely(T: int) -> np.ndarray:
    return LIKELY ** np.abs(np.subtract.outer(np.arange(T), np.arange(T)))


def _some(p: Patterns, structure: Covariance) -> tuple[Any, np.ndarray]:
    """Positions of some of the times, and which these are."""
    positions = p.positions
    if p.place is not None and structure.positional and positions is not None:
        flat = np.asarray(positions).reshape(len(positions), -1, positions.shape[-1])
        real = np.asarray(p.there) > 0
        values = np.unique(np.moveaxis(flat, 1, -1)[real], axis=0)
        some = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_TIMES)).astype(int))
        return values[some], np.arange(len(some))
    T = len(p.there) if p.place is None else structure.q
    if not structure.positional or T <= MOST_TIMES:
        return positions, np.arange(T)
    some = np.unique(np.linspace(0, T - 1, MOST_TIMES).astype(int))
    return (None if positions is None else np.asarray(positions)[some]), some


def _nearest(structure: Covariance, D: np.ndarray, at: Any, q: int) -> np.ndarray:
    w, Q = np.linalg.eigh(0.5 * (D + D.T))
    D = Q * np.maximum(w, LEAST * np.mean(np.diag(D))) @ Q.T
    of = structure if structure.q == q else covariance.resized(structure, q)
    return np.asarray(of.from_factor(np.linalg.cholesky(D), at))


def in_unit_of_first(structure: Covariance, thetas: list[Any]) -> list[Any]:
    """theta (m, ..) of each set, with one unit for all, in which the first element of the first is 1."""
    if not len(thetas[0]):
        return thetas
    xp, power = namespace(thetas[0]), structure.scale_power
    unit = 1 / xp.maximum(abs(thetas[0][0]), 1e-3)  # of theta's first element
    exponent = np.where(power > 0, power[0] / np.maximum(power, 1), 0.0)
    by = unit ** exponent.reshape(-1, *[1] * (thetas[0].ndim - 1))
    return [theta * by for theta in thetas]


def _moments(own: PatternSums | PatternRows, sets: int) -> list[np.ndarray]:
    """Of each set of parameters the mean of e_s e_t (T, T); [] where slots are not times, or are too many."""
    p = own.patterns
    assert p is not None
    H = len(p.there)
    if p.place is not None or H > MOST_TIMES:
        return []
    which = np.argmax(np.asarray(p.sets), axis=0)
    there = np.asarray(p.there)
    if isinstance(own, PatternSums):
        squares, (a, b, k) = np.zeros((H, H, there.shape[1])), np.asarray(own.cells)
        flat = 0.5 * np.asarray(own.sums)[:, -1]
        np.add.at(squares, (a, b, k), flat)
        np.add.at(squares, (b, a, k), flat)
        counts = there[:, None] * there[None] * np.asarray(own.counts)
    else:
        e = np.asarray(own.rows.y) * np.sqrt(np.asarray(own.rows.weights))
        seen, at = np.asarray(own.rows.weights) > 0, np.asarray(p.pattern)
        squares, counts = e[:, None] * e[None], (seen[:, None] & seen[None]).astype(float)
        which = which[at]
    out = []
    for k in range(sets):
        out.append(moments_of_sums(*(np.sum(x[:, :, which == k], axis=-1) for x in (counts, squares))))
    return out


def moments_of_sums(n: Any, squares: Any) -> Any:
    """The mean of e_s e_t (T, T, ..) from how many there are and their sums: zero where there is one at most, and the
    mean variance of a time that no subject has."""
    xp, T = namespace(squares), len(squares)
    S = squares / xp.maximum(n, 1.0)
    variance, seen = (xp.stack([x[k, k] for k in range(T)]) for x in (S, n > 0))
    mean = xp.sum(xp.where(seen, variance, 0.0), axis=0) / xp.maximum(xp.sum(seen, axis=0), 1)
    variance = xp.maximum(xp.where(seen, variance, mean), 1e-8 * mean)
    diagonal = np.eye(T, dtype=bool).reshape(T, T, *[1] * (S.ndim - 2))
    return xp.where(diagonal, variance[None], xp.where(n > 1, S, 0.0))


def _log_regression(own: PatternRows) -> np.ndarray:
    """γ of log e² on V."""
    rows = own.rows
    real = np.asarray(rows.weights) > 0
    e2 = (np.asarray(rows.y) ** 2 * np.asarray(rows.weights))[real]
    V = np.asarray(own.V)[:, real].T
    z = np.log(e2 + 1e-3 * e2.mean())
    return np.linalg.lstsq(np.column_stack([np.ones(len(z)), V]), z, rcond=None)[0][1:]
