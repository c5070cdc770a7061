"""Where a search begins: rough values of theta, as to Z_s, from the sufficient statistics alone.

*One factor.*  With A_j = Z_j'WZ_j and B_j = Z_j'We of the residuals e of least squares, h_j = (A_j + I/v)^-1 B_j has

    E Σ h_j h_j' / σ² = Σ R_j A_j R_j + Σ G_j D G_j,      R_j = (A_j + I/v)^-1,  G_j = R_j A_j,

linear in D, which is solved for; σ² is what the levels' own fits leave.  The weights are those of generalised least
squares where D = v I.  In a balanced design the solution is the maximum, where that has no variance of zero.

*Once more from inside.*  Where levels are few the criterion may have two minima, often one of them with a variance of
zero.  A search that ends there (``on_boundary``) is made once more from effects that are independent and large, and any
search then from small ones (``independent_theta``).  Where a structure ties variances and covariances to each other
there may be several minima too, for either sign of a correlation say: then a search is also made from effects that are
nearly the same (``alike_theta``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxmm import solver
from jaxmm.gram import Gram
from jaxmm.structure import Structure, TermLayout

WEIGHT = 0.1  # v, the variances relative to the error's that weigh the levels
LEAST_SD, LARGEST_SD = 0.1, 1e6  # relative to the error's, of a start
BOUNDARY = 1e-2  # on the diagonal of a factor of D, as to Z_s: the effects have no variance in some direction
SECOND_SD = 1.0  # of every effect in a second start
NEAR_ZERO = 0.1  # of every effect in a third start
# Correlation and size of effects that are nearly the same: of 600 data sets of ar1 with one row a cell all came to the
# random intercept's likelihood at least; with 0.99 and 0.5 four did not, with 0.9 and 1 fourteen.
ALIKE, ALIKE_SD = 0.999, 0.5
SHARES = (1.0, 0.3, 0.03)  # of a deviation, that a sigma beside a known covariance may begin with
WIDEST = 30  # effects of a level, up to which the equations for all entries of their D are set up: q⁴ numbers
FEW = 4  # levels for each parameter of their covariance, below which a second start may be worth while


class Moments(NamedTuple):
    """The equations for D of one factor: ``noise`` (q, q) is Σ R_j A_j R_j, ``solve`` (q², q²) leads from what is left
    to the entries of D that the terms have; ``df`` the rows that the levels' own fits leave."""

    noise: np.ndarray
    solve: np.ndarray
    df: float


def moment_equations(A: np.ndarray, counts: np.ndarray, n: float, s: Structure, inputs: tuple[Any, ...]) -> Moments:
    """From A (J, q, q) of the levels, each counted ``counts`` (J,) times."""
    q = A.shape[-1]
    R = level_weights(A)
    G = R @ A
    free = np.zeros((q, q), bool)
    for term, at in zip(s.terms, inputs, strict=True):
        own = np.arange(term.at, term.at + term.covariance.q)
        free[np.ix_(own, own)] |= term.covariance.free(at)
    M = np.einsum("j,jac,jbd->abcd", counts, G, G)
    at = np.flatnonzero(free.ravel())
    solve = np.zeros((q * q, q * q))
    solve[np.ix_(at, at)] = np.linalg.pinv(M.reshape(q * q, q * q)[np.ix_(at, at)], rcond=1e-10, hermitian=True)
    w = np.linalg.eigvalsh(A)
    rank = np.sum(counts * np.sum(w > 1e-10 * np.maximum(w[:, -1:], 1e-300), axis=1))
    return Moments(np.einsum("j,jab,jcb->ac", counts, G, R), solve, float(n - rank))


def level_weights(A: np.ndarray) -> np.ndarray:
    """R_j = (A_j + I/v)^-1."""
    return np.linalg.inv(A + np.eye(A.shape[-1]) / WEIGHT)


def error_variance(within: Any, total: Any, n: Any, df: Any, xp: Any = np) -> Any:
    """σ² from the sum of squares within levels, or of rows that leave none half the variance."""
    return xp.where(df >= 1, xp.maximum(within / xp.maximum(df, 1.0), 1e-12 * total / n), 0.5 * total / n)


def joint_start(gram: Gram) -> np.ndarray | None:
    """theta (m,) of one factor by the equations above; None for several factors, and for very many effects."""
    s, n = gram.structure, float(gram.n_obs)
    if s.num_factors != 1 or s.widths[0] > WIDEST:
        return None
    ((A, B),) = level_systems(gram)
    counts = np.ones(len(A)) if gram.copies is None else np.asarray(gram.copies[0])
    total = max(float(np.asarray(gram.total)[-1, -1]), 1e-300)
    equations = moment_equations(A, counts, n, s, gram.inputs)
    explained = np.einsum("j,ja,jab,jb->", counts, B, np.linalg.pinv(A, rcond=1e-10, hermitian=True), B)
    sigma2 = error_variance(total - explained, total, n, equations.df)
    h = np.einsum("jab,jb->ja", level_weights(A), B)
    S = np.einsum("j,ja,jb->ab", counts, h, h) / sigma2
    D = (equations.solve @ (S - equations.noise).ravel()).reshape(S.shape)
    w, Q = np.linalg.eigh(0.5 * (D + D.T))
    root = Q * np.clip(np.sqrt(np.maximum(w, 0.0)), LEAST_SD, LARGEST_SD)
    theta = []
    for term, at in zip(s.terms, gram.inputs, strict=True):
        # rows of a root of D are one of the part of D that is theirs
        own = np.linalg.cholesky(
            (root @ root.T)[term.at : term.at + term.covariance.q, term.at : term.at + term.covariance.q]
        )
        theta.append(term.covariance.from_factor(own, at))
    return np.concatenate(theta)


def on_boundary(theta: Any, arrays: Any, xp: Any = np) -> Any:
    """Whether a factor of D at theta (m, ..) is singular, (..); ``xp`` is numpy or jax.numpy."""
    s = arrays.structure
    pivots = [
        t.covariance.pivots(theta[at], own) for t, at, own in zip(s.terms, s.slices(), arrays.inputs, strict=True)
    ]
    return xp.min(xp.concatenate(pivots), axis=0) < BOUNDARY


def independent_theta(arrays: Any, sd: float, xp: Any = np) -> Any:
    """(m,) of independent effects of one standard deviation, as to Z_s; ``xp`` as above."""
    terms = zip(arrays.structure.terms, arrays.inputs, strict=True)
    return xp.concatenate([t.covariance.from_factor(sd * np.eye(t.covariance.q), own) for t, own in terms])


def is_restricted(s: Structure) -> bool:
    """Whether the structure of a term is."""
    return any(t.covariance.restricted for t in s.terms)


def alike_theta(arrays: Any, xp: Any = np) -> Any:
    """(m,) of effects that are nearly the same, of terms that are restricted, and of small ones of the others."""
    out = []
    for t, own in zip(arrays.structure.terms, arrays.inputs, strict=True):
        q, restricted = t.covariance.q, t.covariance.restricted
        root = ALIKE_SD * np.linalg.cholesky((1 - ALIKE) * np.eye(q) + ALIKE) if restricted else NEAR_ZERO * np.eye(q)
        out.append(t.covariance.from_factor(root, own))
    return xp.concatenate(out)


def with_sigmas(gram: Gram, thetas: list[np.ndarray]) -> list[np.ndarray]:
    """Each of ``thetas`` (m,) with some sigmas, where it has one: parts of the response's deviation that is left."""
    s, out = gram.structure, []
    left = 0.5 * np.log(np.asarray(gram.total)[-1, -1] / float(gram.n_obs))
    for theta in thetas:
        for share in SHARES:
            moved = np.array(theta)
            for term, at in zip(s.terms, s.slices(), strict=True):
                if term.covariance.absolute:
                    moved[at] = left + np.log(share)
            out.append(moved)
    return out


def levels_with_rows(gram: Gram) -> list[int]:
    """Of each factor; on the host."""
    return [int(np.sum(np.any(square > 0, axis=0))) for square, _ in solver.diagonals(gram, np)]


def has_few_levels(gram: Gram, levels: list[int] | None = None) -> bool:
    """Whether a factor has so few levels that its covariance may well be estimated in two ways; ``levels`` of each
    factor, by default all that there are."""
    s = gram.structure
    levels = solver.level_counts(gram) if levels is None else levels
    parameters = np.zeros(s.num_factors)
    for term in s.terms:
        parameters[term.position] += term.covariance.num_params
    return bool(np.any((np.array(levels) < FEW * parameters) & (parameters > 1)))


def moment_start(gram: Gram, xp: Any = np) -> Any:
    """A rough theta (m,) as to Z_s from one pass over the statistics; ``xp`` is numpy or jax.numpy.

    For one effect with columns of unit mean square, S = Σ_j (z_j'e)²/z_j'z_j has expectation (v - d) J + d n when
    v is the total variance and d the effect's: method of moments, one effect at a time.  Never zero, where the
    search would be stuck.
    """
    s, n = gram.structure, xp.asarray(gram.n_obs)
    pairs = solver.diagonals(gram, xp)
    total = xp.maximum(xp.asarray(gram.total)[-1, -1] / n, 1e-30)
    copies = () if gram.copies is None else gram.copies
    variances = []
    for f, (square, cross) in enumerate(pairs):
        seen = (square > 1e-12 * xp.max(square)) * (xp.asarray(copies[f]) if f < len(copies) else 1.0)
        explained = xp.sum(seen * cross**2 / xp.where(seen > 0, square, 1.0), axis=1)
        levels = xp.sum(seen, axis=1)
        variances.append(xp.clip((explained - levels * total) / xp.maximum(n - levels, 1.0), 0.0, total))
    residual = xp.maximum(total - sum(xp.sum(v) for v in variances), 0.02 * total)
    theta = []
    for term, at in zip(s.terms, gram.inputs, strict=True):
        own = variances[term.position][term.at : term.at + term.covariance.q]
        theta.append(term.covariance.from_factor(xp.diag(xp.clip(xp.sqrt(own / residual), 0.05, 20.0)), at))
    return xp.concatenate(theta)


def level_start(gram: Gram) -> np.ndarray | None:
    """A second start (m,), for factors with several independent effects; None where there is no such factor.

    Their columns may not be centred (that would change the model), so that they are nearly collinear when a
    predictor is far from zero; then moments of one effect at a time say nothing, and the criterion has an inferior
    minimum at small variances.  Here each level is fitted by least squares: with c_j = A_j^-1 B_j the mean of
    c_j c_j' is D + σ² mean A_j^-1, and σ² comes from what all the levels' own fits leave.
    """
    s, n = gram.structure, float(gram.n_obs)
    total = float(np.asarray(gram.total)[-1, -1])
    joint = [not any(t.position == f and _whole(t, q) for t in s.terms) for f, q in enumerate(s.widths)]
    if not any(joint):
        return None
    theta, found = moment_start(gram), False
    for position, (A, B) in enumerate(level_systems(gram)):
        if not joint[position] or len(A) < 2:
            continue
        terms = [x for x in zip(s.terms, s.slices(), gram.inputs, strict=True) if x[0].position == position]
        w = np.linalg.eigvalsh(A)
        full = (w[:, 0] > 1e-9 * w[:, -1]) & (w[:, -1] > 0)
        if full.sum() < 2:
            continue
        inverse = np.linalg.inv(A[full])
        c = np.einsum("jab,jb->ja", inverse, B[full])
        left = total - np.sum(B[full] * c)
        sigma2 = max(left / max(n - c.size, 1.0), 1e-9 * total / n)
        error = np.einsum("jaa->ja", inverse)  # variances of c over σ²
        weights = 1 / (error / np.median(error, axis=0) + 1) ** 2
        D = np.clip(np.sum(weights * (c**2 - sigma2 * error), axis=0) / weights.sum(axis=0), 0.0, None)
        sd = np.clip(np.sqrt(D / sigma2), 0.05, 1e6)
        for term, at, own in terms:
            theta[at] = term.covariance.from_factor(np.diag(sd[term.at : term.at + term.covariance.q]), own)
        found = True
    return theta if found else None


def _whole(term: TermLayout, q: int) -> bool:
    """Whether one term has all q effects of its factor, and they are one or correlated."""
    return term.covariance.q == q and (q == 1 or term.covariance.closed_under == "linear")


def level_systems(gram: Gram) -> list[tuple[np.ndarray, np.ndarray]]:
    """Z_j'WZ_j (J, q, q) and Z_j'We (J, q) of each factor, in elimination order."""
    return [(A, B[..., -1]) for A, B in solver.level_systems(gram)]
