"""Systems in M = Λ'Z'WZΛ + I.

``_base.Solver`` is what a solver does; the functions here ask the one that a model's structure has.  ``elimination``
serves any mixture of nested and crossed factors; ``dense``, M written out, is the oracle of the tests.  ``spd`` holds
the differentiable pieces.
"""

from __future__ import annotations

from typing import Any

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.solver._base import Factorised as Factorised
from jaxmm.solver._base import Solver as Solver
from jaxmm.solver.elimination import BlockElimination as BlockElimination


def reduce(lams: tuple[Array, ...], gram: Gram) -> tuple[Array, Array]:
    """log|M| and C* = [X y]'V^-1[X y], for the factors ``lams`` (q, q) of each grouping factor, as to Z_s."""
    return gram.structure.solver.reduce(lams, gram)


def factorise(lams: tuple[Array, ...], gram: Gram, roots: Any = None) -> Any:
    """M of a generalised model, factored; ``roots`` saves work when they are known at this point."""
    return gram.structure.solver.factorise(lams, gram, roots)


def solve(done: Any, lams: tuple[Array, ...], gram: Gram, right: tuple[Array, ...]) -> tuple[Array, ...]:
    """M^-1 right, for ``right`` one array (q, J) per grouping factor; linear in it."""
    return gram.structure.solver.solve(done, lams, gram, right)
