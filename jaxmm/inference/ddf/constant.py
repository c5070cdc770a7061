"""Degrees of freedom that belong to the coefficients, not to their variances.

asymptotic       ∞: t is z, k F is χ²
residual         n − rank X, as if there were no random effects
between-within   a column of X that is constant within the levels of a factor is estimated between them, with
                 (levels) − (levels of the factor above) − (columns estimated there) degrees of freedom; the others
                 within, with n − (levels of the finest factor) − (such columns)

The last is Schluchter & Elashoff's (1990, J. Stat. Comput. Simul. 37, 69-87) for one factor, and Pinheiro & Bates's
(2000, §2.4.2) for nested ones, the intercept counted at the top.  Lβ has the fewest of the coefficients it touches.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from jaxmm.design import Design
from jaxmm.inference.ddf._base import Denominator

ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Constant:
    """``each`` (p,): the degrees of freedom of each coefficient."""

    name: str
    beta: np.ndarray
    vcov: np.ndarray
    each: np.ndarray
    notes: tuple[str, ...] = ()

    def df(self, L: np.ndarray) -> np.ndarray:
        # in units of the standard errors: what rounding leaves of a zero is no coefficient that is touched
        size = np.abs(L) * np.where(self.vcov.diagonal() > 0, np.sqrt(np.abs(self.vcov.diagonal())), 1.0)
        touched = size > ROUNDING * size.max(axis=1, keepdims=True, initial=0.0)
        return np.array([np.min(self.each[row], initial=np.inf) for row in touched])

    def denominator(self, L: np.ndarray) -> Denominator:
        return Denominator(1.0, float(np.min(self.df(L), initial=np.inf)))


def asymptotic(model: Any, estimates: Any) -> Constant:
    """The normal distribution, and χ²."""
    beta, vcov = np.asarray(estimates.beta), np.asarray(estimates.vcov)
    return Constant("asymptotic", beta, vcov, np.full(len(beta), np.inf))


def residual(model: Any, estimates: Any) -> Constant:
    """n − rank X for every coefficient."""
    beta, vcov = np.asarray(estimates.beta), np.asarray(estimates.vcov)
    left = len(model.design.y) - len(beta)
    return Constant("residual", beta, vcov, np.full(len(beta), float(left) if left > 0 else np.nan), _few(left))


def between_within(model: Any, estimates: Any) -> Constant:
    """By the level at which each column of X varies.

    Raises:
        ValueError: grouping factors that are not nested in each other.
    """
    beta, vcov = np.asarray(estimates.beta), np.asarray(estimates.vcov)
    d: Design = model.design
    factors = sorted({f.codes.tobytes(): f for f in d.correlated_within}.values(), key=lambda f: len(f.levels))
    for outer, inner in pairwise(factors):
        if not _constant_within(outer.codes[:, None].astype(float), inner.codes).all():
            raise ValueError(
                f"ddf='between-within' is for nested grouping factors, and '{inner.name}' is not nested in "
                f"'{outer.name}': use 'satterthwaite' or 'kenward-roger'"
            )
    sizes = [0, *(len(f.levels) for f in factors), len(d.y)]
    columns = np.hstack([d.X, *(p.X for p in d.further)])
    stratum = np.full(columns.shape[1], len(factors))
    for k in reversed(range(len(factors))):
        stratum[_constant_within(columns, factors[k].codes)] = k
    left = np.array([b - a - np.sum(stratum == k) for k, (a, b) in enumerate(pairwise(sizes))])
    each = np.where(left > 0, left, np.nan).astype(float)[stratum]
    return Constant("between-within", beta, vcov, each, _few(np.min(left[stratum], initial=1)))


def _constant_within(columns: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Which columns (n, p) have one value in all rows of each level."""
    order = np.argsort(codes, kind="stable")
    same = (np.diff(codes[order]) == 0)[:, None]
    jumps = np.abs(np.diff(columns[order], axis=0)) > 1e-12 * np.max(np.abs(columns), axis=0, initial=1e-300)
    return ~np.any(jumps & same, axis=0)


def _few(left: Any) -> tuple[str, ...]:
    return () if left > 0 else ("no degrees of freedom are left for some coefficients: their p-values are NaN",)
