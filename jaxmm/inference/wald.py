"""Wald's test and interval of Lβ, from estimates and their covariance: NumPy arrays, with any axes before the last.

With V (p, p) the covariance of the estimates β̂ (p,), and a row l of L (k, p),

    variances   l V l' = se²
    each        t = l β̂ / se,      p = 2 T_df(-|t|)            a row by itself; df = ∞ is the normal distribution
    together    χ² = z' S⁻¹ z,     p = P(χ²_k > χ²)            k rows at once; S (k, k) the correlations of Lβ̂
    ratio       F = χ² / k,        p = P(F_k,df > F)
    interval    l β̂ ± q se,        q = T_df⁻¹(½ + level / 2)

z and S have no units, so neither do the tests.  With df = ∞ V is taken for known: with few levels p is too small and
the interval too short; ``ddf`` has degrees of freedom.  What cannot be tested (no estimate; a standard error of zero,
or not a number) is NaN and no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import chdtrc, fdtrc, stdtr, stdtrit

LEVEL = 0.95  # of intervals, unless told
FEW_LEVELS = 10  # of a factor: a z test with fewer of them is not to be trusted
ROUNDING = 1e-12  # of a correlation matrix's eigenvalues, or a matrix's singular values: none is left below it


class Tested(NamedTuple):
    """``statistic`` and ``p``, a number per test; ``df``: how many restrictions each of them tests."""

    statistic: np.ndarray
    df: int
    p: np.ndarray


def variances(L: Any, vcov: Any) -> np.ndarray:
    """l V l' (.., k) of each row of ``L`` (.., k, p), with ``vcov`` (.., p, p)."""
    return np.einsum("...kp,...pq,...kq->...k", L, vcov, L)


def each(estimate: Any, se: Any, df: Any = np.inf) -> Tested:
    """Each of ``estimate`` by itself, against zero: t and its two-sided p, by the normal distribution without df; NaN
    where the standard error is zero, as it is of what rounding alone is left of."""
    se = np.asarray(se, float)
    t = np.asarray(estimate, float) / np.where(se == 0, np.nan, se)
    return Tested(t, 1, 2 * stdtr(df, -np.abs(t)))


def ratio(chisq: Any, k: int, df: Any) -> np.ndarray:
    """p of F = χ² / k with k and ``df`` degrees of freedom."""
    F, df = np.asarray(chisq, float) / k, np.asarray(df, float)
    return np.where(np.isinf(df), chdtrc(k, chisq), fdtrc(k, np.where(np.isinf(df), 1.0, df), F))


def together(L: Any, estimate: Any, vcov: Any, value: Any = 0.0) -> Tested:
    """Lβ = value, all rows at once: χ² (..) and its p, of ``estimate`` (.., p) with ``vcov`` (.., p, p).

    Args:
        L: (k, p), a row per restriction; one row may be (p,).
        value: (k,), what Lβ is compared with.

    Raises:
        ValueError: rows that do not fit the estimates, or of which one follows from the others.
    """
    L, estimate, vcov = np.atleast_2d(np.asarray(L, float)), np.asarray(estimate, float), np.asarray(vcov, float)
    k, p = L.shape
    if p != estimate.shape[-1]:
        raise ValueError(f"L has {p} columns for {estimate.shape[-1]} coefficients: give a number for each")
    rows = L / np.maximum(np.linalg.norm(L, axis=1, keepdims=True), np.finfo(float).tiny)
    if np.linalg.matrix_rank(rows, ROUNDING) < k:
        raise ValueError("the rows of L are not independent: leave out those that follow from the others")
    with np.errstate(invalid="ignore", divide="ignore"):
        V = L @ vcov @ L.T
        se = np.sqrt(np.diagonal(V, axis1=-2, axis2=-1))
        z, S = (estimate @ L.T - value) / se, V / (se[..., :, None] * se[..., None, :])
    known = np.all(np.isfinite(z), axis=-1) & np.all(np.isfinite(S), axis=(-2, -1))
    w, Q = np.linalg.eigh(np.where(known[..., None, None], S, np.eye(k)))
    known &= w[..., 0] > ROUNDING
    turned = np.einsum("...ij,...i->...j", Q, np.where(known[..., None], z, 0.0))
    statistic = np.where(known, np.sum(turned**2 / np.where(known[..., None], w, 1.0), axis=-1), np.nan)
    return Tested(statistic, k, chdtrc(k, statistic))


def few_levels(n_groups: Mapping[str, int]) -> str | None:
    """What z tests are worth where a factor has fewer than ``FEW_LEVELS`` levels, as text; None where none has.

    Cameron, Gelbach & Miller (2008, Rev. Econ. Stat. 90, 414-427) on few clusters.
    """
    few = [f"{levels} levels of {name}" for name, levels in n_groups.items() if levels < FEW_LEVELS]
    if not few:
        return None
    return f"z tests take standard errors for known: with {' and '.join(few)} p is too small and intervals too short"


def check_level(level: float, name: str = "level", example: str = "0.95 for a 95 % interval") -> float:
    """``level``, a number between 0 and 1.

    Raises:
        ValueError: another one; ``name`` is what the caller calls it, and ``example`` one that would do.
    """
    if not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {level!r}; {example}")
    return float(level)


def check_no_level(level: float, interval: Any, kinds: str) -> None:
    """``level`` says nothing where there is no ``interval``: one of ``kinds``.

    Raises:
        ValueError: another level than the default, without an interval.
    """
    if interval is None and check_level(level) != LEVEL:
        raise ValueError(f"level={level!r} is the share of an interval: pass interval={kinds} with it")


def quantile(level: float, df: Any = np.inf) -> Any:
    """q such that ± q holds the share ``level`` of a t distribution, without df of a normal one."""
    return stdtrit(df, 0.5 + check_level(level) / 2)


def interval(estimate: Any, se: Any, level: float, df: Any = np.inf) -> tuple[Any, Any]:
    """Lower and upper ends, as ``estimate`` (an array or a Series) is."""
    half = quantile(level, df) * se
    return estimate - half, estimate + half
