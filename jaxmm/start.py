"""Where a search begins: rough values of theta, as to Z_s, from the sufficient statistics alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmm.gram import Gram
from jaxmm.structure import TermLayout


def moment_start(gram: Gram, xp: Any = np) -> Any:
    """A rough theta (m,) as to Z_s from one pass over the statistics; ``xp`` is numpy or jax.numpy.

    For one effect with columns of unit mean square, S = Σ_j (z_j'e)²/z_j'z_j has expectation (v - d) J + d n when
    v is the total variance and d the effect's: method of moments, one effect at a time.  Never zero, where the
    search would be stuck.
    """
    s, n, size = gram.structure, xp.asarray(gram.n_obs), gram.structure.rest_size
    corner = xp.asarray(gram.corner)
    pairs = []
    for A, border in zip(gram.blocks, gram.borders, strict=True):
        A = xp.asarray(A)
        pairs.append((xp.stack([A[k, k] for k in range(A.shape[0])]), xp.asarray(border)[:, -1]))
    rest = zip(s.split_rest(xp.diagonal(corner)[:size]), s.split_rest(corner[:size, -1]), strict=True)
    pairs += [(square.T, cross.T) for square, cross in rest]
    total = xp.maximum(corner[-1, -1] / n, 1e-30)
    copies = () if gram.copies is None else gram.copies
    variances = []
    for f, (square, cross) in enumerate(pairs):
        seen = (square > 1e-12 * xp.max(square)) * (xp.asarray(copies[f]) if f < len(copies) else 1.0)
        explained = xp.sum(seen * cross**2 / xp.where(seen > 0, square, 1.0), axis=1)
        levels = xp.sum(seen, axis=1)
        variances.append(xp.clip((explained - levels * total) / xp.maximum(n - levels, 1.0), 0.0, total))
    residual = xp.maximum(total - sum(xp.sum(v) for v in variances), 0.02 * total)
    theta = []
    for term in s.terms:
        own = variances[term.position][term.at : term.at + term.covariance.q]
        theta.append(term.covariance.from_factor(xp.diag(xp.clip(xp.sqrt(own / residual), 0.05, 20.0)), xp))
    return xp.concatenate(theta)


def level_start(gram: Gram) -> np.ndarray | None:
    """A second start (m,), for factors with several independent effects; None where there is no such factor.

    Their columns may not be centred (that would change the model), so that they are nearly collinear when a
    predictor is far from zero; then moments of one effect at a time say nothing, and the criterion has an inferior
    minimum at small variances.  Here each level is fitted by least squares: with c_j = A_j^-1 B_j the mean of
    c_j c_j' is D + σ² mean A_j^-1, and σ² comes from what all the levels' own fits leave.
    """
    s, n = gram.structure, float(gram.n_obs)
    total = float(np.asarray(gram.corner)[-1, -1])
    joint = [
        not any(t.position == f and _whole(t, q) for t in s.terms)
        for f, q in enumerate([*s.chain, *(q for _, q in s.rest)])
    ]
    if not any(joint):
        return None
    theta, found = moment_start(gram), False
    for position, (A, B) in enumerate(level_systems(gram)):
        if not joint[position]:
            continue
        terms = [(t, at) for t, at in zip(s.terms, s.slices(), strict=True) if t.position == position]
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
        for term, at in terms:
            theta[at] = term.covariance.from_factor(np.diag(sd[term.at : term.at + term.covariance.q]))
        found = True
    return theta if found else None


def _whole(term: TermLayout, q: int) -> bool:
    """Whether one term has all q effects of its factor, and they are one or correlated."""
    return term.covariance.q == q and (q == 1 or term.covariance.recombines)


def level_systems(gram: Gram) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Z_j'WZ_j (J, q, q) and Z_j'We (J, q) of each factor, in elimination order."""
    for A, border in zip(gram.blocks, gram.borders, strict=True):
        yield np.moveaxis(np.asarray(A), -1, 0), np.asarray(border)[:, -1].T
    corner = np.asarray(gram.corner)
    for inside in gram.structure.rest_places():
        yield corner[inside[:, :, None], inside[:, None, :]], corner[inside, -1]
