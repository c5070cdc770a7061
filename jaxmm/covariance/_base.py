"""What a covariance structure of random effects is: theta -> lam, the factor of D = sigma^2 lam lam'.

A structure is one small class.  ``factor`` is the one defining method; standard deviations, correlations and
their derivatives follow from it.  theta is unbounded: a diagonal element of lam may be negative or zero during
the search (the criterion is even in the sign of each column); ``from_factor``, which takes any factor of D back to
theta, makes the diagonal non-negative.  A variance of zero is thus an ordinary point, and D is never inverted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Covariance(ABC):
    """A structure for ``q`` effects.  Instances are hashable: they are static in compiled programs.

    ``recombines`` tells which changes of the columns of Z the structure survives: True when Z may be replaced
    by ZT for any invertible T (D takes any value), False when columns may only be rescaled.
    """

    q: int
    name: ClassVar[str]
    recombines: ClassVar[bool] = False

    @property
    @abstractmethod
    def num_params(self) -> int:
        """m, how many numbers theta has."""

    @abstractmethod
    def factor(self, theta: Any) -> Any:
        """lam (q, q, ..) at theta (m, ..), a NumPy array or one of JAX."""

    @abstractmethod
    def from_factor(self, lam: Any, xp: Any = np) -> Any:
        """theta (m,) of any square factor lam (q, q) of D, also a singular one."""

    @abstractmethod
    def from_lower(self, lam: Any) -> Any:
        """theta (m, ..) of a lower triangular factor (q, q, ..) with a diagonal >= 0."""

    def variance_rows(self) -> list[np.ndarray]:
        """Where each row of lam stands in theta, if there are several numbers: their sum of squares is a variance."""
        return []

    def free(self) -> np.ndarray:
        """(q, q) True on the diagonal and where the structure has a covariance: what of D may differ from zero."""
        lams = [self.factor(theta) for theta in np.random.default_rng(0).normal(1, 0.3, (3, self.num_params))]
        return np.any([np.abs(np.asarray(lam @ lam.T)) > 1e-12 for lam in lams], axis=0) | np.eye(self.q, dtype=bool)


def fill(q: int, cells: tuple[np.ndarray, ...], theta: Any) -> Any:
    """(q, q, ..) with theta (m, ..) in the cells (rows, columns), and zeros."""
    shape = (q, q, *theta.shape[1:])
    if isinstance(theta, np.ndarray):
        lam = np.zeros(shape, theta.dtype)
        lam[cells] = theta
        return lam
    return jnp.zeros(shape, theta.dtype).at[cells].set(theta)
