"""What is assumed of subjects who left: the normal distribution of all their visits, from two arms, theirs and the
reference.

With μ, A the mean and covariance of the own arm, m, R those of the reference arm at the same covariates, 1 the visits
up to the last one that was seen, and 2 those after it:

    mar   μ,  A                                      as those of the own arm who stayed
    j2r   (μ1, m2)                                   jump to reference
    cir   (μ1, μ_d + m2 - m_d), d the last of 1      copy increments in reference
    cr    m,  R                                      copy reference: as if always in the reference arm

j2r and cir have the covariance Σ with Σ11 = A11 and, given 1, that of the reference arm: with B = R21 R11^-1,

    Σ21 = B A11,      Σ22 = R22 - B (R11 - A11) B'

(Carpenter, Roger & Kenward 2013, J. Biopharm. Stat. 23, 1352-1371).  Who was never seen has m and R but by mar.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Normal(NamedTuple):
    """Means (S, T) and covariances (S, T, T) of subjects."""

    mean: np.ndarray
    cov: np.ndarray


Rule = Callable[[Normal, Normal, int], Normal]


def _mar(own: Normal, reference: Normal, seen: int) -> Normal:
    return own


def _j2r(own: Normal, reference: Normal, seen: int) -> Normal:
    mean = np.concatenate([own.mean[:, :seen], reference.mean[:, seen:]], axis=1)
    return Normal(mean, joined(own.cov, reference.cov, seen))


def _cir(own: Normal, reference: Normal, seen: int) -> Normal:
    if not seen:
        return reference
    gap = own.mean[:, seen - 1] - reference.mean[:, seen - 1]
    mean = np.concatenate([own.mean[:, :seen], reference.mean[:, seen:] + gap[:, None]], axis=1)
    return Normal(mean, joined(own.cov, reference.cov, seen))


def _cr(own: Normal, reference: Normal, seen: int) -> Normal:
    return reference


RULES: dict[str, Rule] = {"mar": _mar, "j2r": _j2r, "cir": _cir, "cr": _cr}


def joined(A: np.ndarray, R: np.ndarray, seen: int) -> np.ndarray:
    """Σ (S, T, T) of the module's head, from the first ``seen`` of T visits."""
    if seen == 0:
        return R
    one, two = slice(None, seen), slice(seen, None)
    A11, R11, R21 = A[:, one, one], R[:, one, one], R[:, two, one]
    B = np.swapaxes(np.linalg.solve(R11, np.swapaxes(R21, 1, 2)), 1, 2)
    across = B @ A11
    after = R[:, two, two] - B @ (R11 - A11) @ np.swapaxes(B, 1, 2)
    return np.block([[A11, np.swapaxes(across, 1, 2)], [across, after]])


def completed(y: np.ndarray, there: np.ndarray, of: Normal, z: np.ndarray) -> np.ndarray:
    """y (S, T) with the visits that are not ``there`` (T,) drawn given the others, from standard normal z (S, T)."""
    o, m = np.flatnonzero(there), np.flatnonzero(~there)
    mean, cov = of.mean[:, m], of.cov[:, m[:, None], m]
    if len(o):
        across = of.cov[:, o[:, None], m]
        B = np.linalg.solve(of.cov[:, o[:, None], o], across)  # (S, o, m)
        mean = mean + np.einsum("som,so->sm", B, y[:, o] - of.mean[:, o])
        cov = cov - np.swapaxes(across, 1, 2) @ B
    out = y.copy()
    out[:, m] = mean + np.einsum("sab,sb->sa", np.linalg.cholesky((cov + np.swapaxes(cov, 1, 2)) / 2), z[:, m])
    return out
