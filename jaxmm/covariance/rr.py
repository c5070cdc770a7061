"""``rr``, reduced rank: D = LL' of d columns of loadings and no more, rr(0 + trait | g, d = 2).

L (q, d) is zero above its diagonal, which any can be turned to be: q d - d (d - 1)/2 loadings.  D has rank d and is
singular where d < q.  That is what the structure says, and no end of its range: this is where a column of loadings adds
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmm.covariance._base import Covariance, each, fill, lower, lower_cells, namespace

NOTHING = 1e-20  # of the sum of squares, beside the first d columns


@dataclass(frozen=True)
class ReducedRank(Covariance):
    """theta is the loadings, column by column; ``d`` how many columns there are, q where that is less.

    Example:
        >>> mm.covariance.ReducedRank(3, 1).covariance(np.array([1.0, 2.0, 0.5])).round(2).tolist()
        [[1.0, 2.0, 0.5], [2.0, 4.0, 1.0], [0.5, 1.0, 0.25]]
    """

    d: int = 2

    name = "rr"
    closed_under = "linear"
    lanes = True
    takes_inputs = False
    triangular = True
    options = ("d",)

    @property
    def rank(self) -> int:
        return min(self.d, self.q)

    @property
    def amiss(self) -> str | None:
        d, q = self.d, self.q
        if d != int(d) or d < 1:
            return f"d = {d:g} is no number of columns of loadings: give a whole number from 1, rr(... | g, d = 2)"
        if d > q:
            there = "the one effect there is: give d = 1" if q == 1 else f"the {q} effects there are: give d = 1"
            return f"d = {d:g} columns of loadings are more than {there}{f' to {q}' if q > 1 else ''}, or take us(...)"
        return None

    @property
    def num_params(self) -> int:
        return self.q * self.rank - self.rank * (self.rank - 1) // 2

    @property
    def restricted(self) -> bool:
        return self.rank < self.q

    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = lower_cells(self.q)
        return rows[columns < self.rank], columns[columns < self.rank]

    def factor(self, theta: Any, at: Any = None) -> Any:
        return fill(self.q, self._cells(), theta)

    def from_lower(self, lam: Any, at: Any = None) -> Any:
        return each(self._loadings, lam, 2, at)

    def _loadings(self, lam: Any) -> Any:
        """Of the D of rank d that is nearest to lam lam'."""
        d, q = self.rank, self.q
        member = jnp.sum(lam[:, d:] ** 2) <= NOTHING * jnp.sum(lam**2)
        # singular values that are the same have no derivatives: none are asked for of what is one already
        U, size, _ = jnp.linalg.svd(jnp.where(member, jnp.diag(jnp.arange(1.0, q + 1, dtype=lam.dtype)), lam))
        nearest = jnp.pad(U[:, :d] * size[:d], ((0, 0), (0, q - d)))
        return jnp.where(member, lam, lower(nearest))[self._cells()]

    def pivots(self, theta: Any, at: Any = None) -> Any:
        """(d, ..) the diagonal of a root of L'L: zero where the columns do not span d dimensions."""
        L = self.lam(theta, at)[:, : self.rank]
        R = lower(namespace(L).swapaxes(L, 0, 1))
        return abs(namespace(R).stack([R[k, k] for k in range(self.rank)]))
