"""Covariance structures of the random effects: theta -> lam, the factor of D = sigma^2 lam lam'.

A structure is one small class.  ``factor`` is the one defining method; standard deviations, correlations and
their derivatives follow from it.  theta is unbounded: a diagonal element of lam may be negative or zero during
the search (the criterion is even in the sign of each column); ``from_factor``, which takes any factor of D back to
theta, makes the diagonal non-negative.  A variance of zero is thus an ordinary point, and D is never inverted.

    name   theta                                                lam
    us     column-major lower triangle, q (q + 1) / 2           lower triangular
    diag   q standard deviations relative to sigma              diagonal
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np


class Covariance(Protocol):
    """What a structure supplies.  Instances are hashable: they are static in compiled programs.

    ``recombines`` tells which changes of the columns of Z the structure survives: True when Z may be replaced
    by ZT for any invertible T (D takes any value), False when columns may only be rescaled.
    """

    name: str
    q: int
    recombines: bool

    @property
    def num_params(self) -> int: ...
    def variance_rows(self) -> list[np.ndarray]: ...
    def factor(self, theta: Any) -> Any: ...
    def from_lower(self, lam): ...
    def from_factor(self, lam, xp=np): ...


def _fill(shape: tuple[int, ...], cells, theta):
    shape = (*shape, *theta.shape[1:])
    if isinstance(theta, np.ndarray):
        lam = np.zeros(shape, theta.dtype)
        lam[cells] = theta
        return lam
    return jnp.zeros(shape, theta.dtype).at[cells].set(theta)


@dataclass(frozen=True)
class Unstructured:
    """Any covariance matrix: lam is lower triangular (Bates et al. 2015, J. Stat. Softw. 67(1), eq. 4)."""

    q: int
    name: str = "us"
    recombines: bool = True

    @property
    def num_params(self) -> int:
        return self.q * (self.q + 1) // 2

    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        columns, rows = np.triu_indices(self.q)  # column-major lower triangle = row-major upper one, transposed
        return rows, columns

    def variance_rows(self) -> list[np.ndarray]:
        """Where each row of lam stands in theta, if there are several numbers: their sum of squares is a variance."""
        rows, _ = self._cells()
        return [np.flatnonzero(rows == i) for i in range(1, self.q)]

    def factor(self, theta: Any) -> Any:
        return _fill((self.q, self.q), self._cells(), theta)

    def from_factor(self, lam, xp=np):
        """theta of the lower triangular factor of lam lam', for any square lam (singular too): L of lam = LQ."""
        L = xp.linalg.qr(lam.T, mode="r").T
        return self.from_lower(L * xp.where(xp.diagonal(L) < 0, -1.0, 1.0))

    def from_lower(self, lam):
        """theta (m, ..) of a lower triangular factor (q, q, ..) with a diagonal >= 0."""
        return lam[self._cells()]


@dataclass(frozen=True)
class Diagonal:
    """Independent effects, each with its own variance: ``(x || g)``, ``diag(x | g)``."""

    q: int
    name: str = "diag"
    recombines: bool = False

    @property
    def num_params(self) -> int:
        return self.q

    def variance_rows(self) -> list[np.ndarray]:
        return []

    def factor(self, theta: Any) -> Any:
        return _fill((self.q, self.q), np.diag_indices(self.q), theta)

    def from_lower(self, lam):
        return lam[np.diag_indices(self.q)]

    def from_factor(self, lam, xp=np):
        return xp.abs(xp.diagonal(lam))


STRUCTURES: dict[str, type] = {"us": Unstructured, "diag": Diagonal}


def get(kind: str | Covariance, q: int) -> Covariance:
    """The structure called ``kind`` for ``q`` effects, or ``kind`` itself when it is one.

    Raises:
        ValueError: for a name that is not in ``STRUCTURES``, or an instance made for another number of effects.
    """
    if not isinstance(kind, str):
        if kind.q != q:
            raise ValueError(f"the covariance structure {kind.name!r} is for {kind.q} effects, the term has {q}")
        return kind
    if kind not in STRUCTURES:
        raise ValueError(f"covariance structure {kind!r} is not available; accepted: {', '.join(STRUCTURES)}")
    return STRUCTURES[kind](q)
