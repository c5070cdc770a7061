"""What a solver is: a way to factor M = Λ'Z'WZΛ + I, and the cross-products that it keeps for that.

A solver is static and hashable; it stands in ``Structure.solver`` and owns ``Gram.couplings``, a pytree that nobody
else looks into.  Everything that the library wants of them is a method here: the criterion and its derivatives of a
linear model, Newton's step and log|M| of a generalised one, what starts and standard errors read.

    reduce      log|M|  and  C* = [X y]'V^-1[X y],   V = ZΛΛ'Z' + W^-1          differentiable, to any order
    factorise   the same for Z alone, kept for ``solve`` and for the derivatives at the same point
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from jaxmm._types import Array
from jaxmm.gram import Accumulator, Gram
from jaxmm.rows import Rows

Lams = tuple[Array, ...]  # λ (q, q) of each grouping factor in elimination order, as to Z_s


class Factorised(Protocol):
    """M at one point: ``logdet``, and ``roots``, constants that save ``factorise`` work at the same point."""

    @property
    def logdet(self) -> Array: ...
    @property
    def roots(self) -> Any: ...


class Solver(Protocol):
    """``by_level``: whether the couplings hold the levels of one factor apart, so that lanes may have closed forms."""

    @property
    def name(self) -> str: ...
    @property
    def by_level(self) -> bool: ...

    # ------------------------------------------------------------ couplings
    def design(self, a: Accumulator) -> Any:
        """What of them does not depend on the response; on the host."""
        ...

    def couplings(self, a: Accumulator, parts: Any, residual: np.ndarray) -> Any:
        """All of a linear model, with a response (n,) less X_s beta0; ``parts`` are ``design``'s."""
        ...

    def of_rows(self, rows: Rows, W: tuple[Array, ...], columns: Array | None = None) -> Any:
        """Z'WZ in a program; W as in ``Rows.gram``.  With the ``columns`` [X y] (p + 1, H, P) those of a linear
        model."""
        ...

    def with_response(self, gram: Gram, z: tuple[Array, ...], xy: Array, yy: Array, XX: Array | None = None) -> Gram:
        """Another response: Z'Wy (q, J) of each factor, X'Wy (p,), y'Wy; and X'WX where that is another."""
        ...

    # ------------------------------------------------------------ what is wanted of them
    def reduce(self, lams: Lams, gram: Gram) -> tuple[Array, Array]:
        """log|M| and C* (p + 1, p + 1)."""
        ...

    def factorise(self, lams: Lams, gram: Gram, roots: Any = None) -> Factorised: ...

    def solve(self, done: Any, lams: Lams, gram: Gram, right: tuple[Array, ...]) -> tuple[Array, ...]:
        """M^-1 right, one array (q, J) for each factor; linear in it."""
        ...

    def level_matrices(self, done: Any, gram: Gram) -> Array:
        """M (q, q, J) of each level, where there is one factor."""
        ...

    def explained(self, lams: Lams, gram: Gram) -> list[Array]:
        """NB = ΛM^-1Λ'Z'W[X y] of each factor, (J, q, p + 1)."""
        ...

    def level_covariances(self, lams: Lams, gram: Gram) -> list[Array]:
        """The blocks of N = ΛM^-1Λ' of each level of each factor, (J, q, q)."""
        ...

    # ------------------------------------------------------------ what is read off
    def total(self, gram: Gram) -> Array:
        """[X y]'W[X y], (p + 1, p + 1)."""
        ...

    def level_counts(self, gram: Gram) -> list[int]:
        """J of each factor."""
        ...

    def level_systems(self, gram: Gram) -> list[tuple[np.ndarray, np.ndarray]]:
        """Z_j'WZ_j (J, q, q) and Z_j'W[X y] (J, q, p + 1) of each factor; on the host."""
        ...

    def diagonals(self, gram: Gram, xp: Any) -> list[tuple[Any, Any]]:
        """The diagonal of Z'WZ, and Z'Wy, of each factor: (q, J) both; ``xp`` is numpy or jax.numpy."""
        ...

    def size(self, gram: Gram) -> int:
        """Numbers in the largest coupling."""
        ...
