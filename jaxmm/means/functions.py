"""Functions of a fit's parameters that are nearly linear: values, their covariance, and their degrees of freedom.

    value = Lβ̂ + offset,       covariance L V L'          the link scale
    value = m(ψ̂),              covariance J C J'          a mean of means, J its derivatives (delta method)

Either has rows L (k, p) of coefficients, by which ``Reference`` knows degrees of freedom, and ``excess`` (k, d): with
X₂ = X₁A the columns that the fit left out, lβ of a row l = (l₁, l₂) over all columns has one value whatever solution β
of the normal equations is taken iff l₂ = l₁A, so that l₂ - l₁A is zero where a function can be estimated (Searle 1971,
Linear Models, §5.4).  All of it goes linearly into contrasts C: value Cv, covariance CVC', rows CL, excess CE.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from jaxmm.inference.ddf import Reference

TOLERANCE = 1e-8  # of the largest element of a row
NOT_ESTIMABLE = (
    "NaN: not estimable. The data do not tell it, for the columns of X depend on each other (some combination of "
    "levels has no rows, mostly: weights='flat' averages over those that have)"
)


@dataclass(frozen=True, eq=False)
class Functions:
    """``value`` (k,), ``vcov`` (k, k), ``rows`` (k, p), ``excess`` (k, d), ``size`` (k,) the largest elements, NaN
    where a row has no value, as log(x) at x = 0."""

    value: np.ndarray
    vcov: np.ndarray
    rows: np.ndarray
    excess: np.ndarray
    size: np.ndarray
    reference: Reference

    @cached_property
    def undefined(self) -> np.ndarray:
        """(k,) whether a row itself has no value, whatever the data."""
        return np.isnan(self.size)

    @cached_property
    def untold(self) -> bool:
        """Whether some of them are defined, and the data do not tell them."""
        return bool(np.any(~self.known & ~self.undefined))

    @cached_property
    def estimable(self) -> np.ndarray:
        """(k,) whether the data tell it."""
        return np.max(np.abs(self.excess), axis=1, initial=0.0) <= TOLERANCE * np.maximum(self.size, 1e-300)

    @cached_property
    def known(self) -> np.ndarray:
        """(k,) whether it has a value and can be estimated."""
        return self.estimable & np.isfinite(self.value)

    @cached_property
    def estimate(self) -> np.ndarray:
        """(k,) NaN where it cannot be had."""
        return np.where(self.known, self.value, np.nan)

    @cached_property
    def se(self) -> np.ndarray:
        """(k,) standard errors."""
        return np.where(self.known, np.sqrt(np.maximum(np.diag(self.vcov), 0.0)), np.nan)

    @cached_property
    def df(self) -> np.ndarray:
        """(k,) degrees of freedom."""
        out = np.full(len(self.value), np.nan)
        if self.known.any():
            out[self.known] = self.reference.df(self.rows[self.known])
        return out

    def combine(self, C: np.ndarray) -> Functions:
        """The functions Cv, C (m, k); what has no value counts only where its coefficient is not zero."""
        bad = ~(np.isfinite(self.value) & np.all(np.isfinite(self.rows), axis=1))
        lost = np.any(C[:, bad] != 0, axis=1)
        value, rows = np.where(bad, 0.0, self.value), np.where(bad[:, None], 0.0, self.rows)
        excess = np.where(bad[:, None], 0.0, self.excess)
        V = np.where(bad[:, None] | bad, 0.0, self.vcov)
        size = np.abs(C) @ np.where(bad, 0.0, self.size)
        size = np.where(np.any(C[:, self.undefined] != 0, axis=1), np.nan, size)
        out = Functions(C @ value, C @ V @ C.T, C @ rows, C @ excess, size, self.reference)
        return replace(out, value=np.where(lost, np.nan, out.value)) if lost.any() else out

    def scaled(self, slopes: np.ndarray, value: np.ndarray) -> Functions:
        """A transform of each, with its slopes: the delta method."""
        return replace(
            self, value=value, vcov=slopes[:, None] * self.vcov * slopes, rows=slopes[:, None] * self.rows,
            excess=slopes[:, None] * self.excess, size=np.abs(slopes) * self.size,
        )  # fmt: skip


def correlation(V: np.ndarray) -> np.ndarray:
    """(m, m); zero for what has no variance."""
    sd = np.sqrt(np.maximum(np.diag(V), 0.0))
    safe = np.where(sd > 0, sd, 1.0)
    R = np.where((sd > 0)[:, None] & (sd > 0), V / np.outer(safe, safe), 0.0)
    np.fill_diagonal(R, 1.0)
    return R
