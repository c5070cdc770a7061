"""What a solver is: a way to factor M = Λ'Z'WZΛ + I, and the cross-products that it keeps for that.

A solver is static and hashable; it stands in ``Structure.solver`` and owns ``Gram.couplings``, a pytree that nobody
else looks into (``lanes.linear_rows`` splits its leaves into numbers, which lanes have of their own, and indices,
which are integers and shared).  Its methods are what cannot be derived:

    levels      where the couplings have  A_j = Z_j'WZ_j  and  B_j = Z_j'W[X y]
    reduce      log|M|  and  C* = [X y]'V^-1[X y],   V = ZΛΛ'Z' + W^-1          differentiable, to any order
    factorise   the same for Z alone, kept for ``solve`` and for the derivatives at the same point; of a linear
                model's couplings too, whose X and y it leaves alone

The rest is the same for all, in ``solver``: modes and covariances of the effects are derivatives of ``reduce`` by what
``levels`` reads.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from jaxmm._types import Array
from jaxmm.gram import Accumulator, Gram
from jaxmm.plan import Plan
from jaxmm.rows import Rows
from jaxmm.structure import Elimination, Grouping, Structure

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

    # ------------------------------------------------------------ what is read off
    def total(self, gram: Gram) -> Array:
        """[X y]'W[X y], (p + 1, p + 1)."""
        ...

    def levels(self, gram: Gram) -> list[tuple[Array, Array]]:
        """A_j (q, q, J) and B_j (q, p + 1, J) of each factor, picked from the couplings, of which nothing but those is
        asked: of their derivatives it picks those by A_j and B_j."""
        ...

    def size(self, gram: Gram) -> int:
        """Numbers in the largest coupling."""
        ...

    def plan(self, s: Structure, elimination: Elimination, groups: list[Grouping]) -> Plan:
        """What it does with each grouping factor, and the numbers that it keeps; before there are arrays."""
        ...

    # ------------------------------------------------------------ levels that are alike, ``lanes.collapse``
    def border(self, gram: Gram) -> Array | None:
        """Z'W[Z_rest X y] (q, r, J) of a factor whose levels meet in others' alone, those in a dense rest; None where
        there is no such factor, or the solver does not hold it so."""
        ...

    def with_levels(self, gram: Gram, A: Any, border: Any) -> Any:
        """The couplings with other levels of that factor: A_j (q, q, J) and their border."""
        ...
