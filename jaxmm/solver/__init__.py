"""Systems in M = Λ'Z'WZΛ + I.

``_base.Solver`` is what a solver does.  The functions here ask the one that a model's structure has, and derive from
its ``reduce``, with A = Z'WZ and B = Z'W[X y],

    NB = -½ d tr C* / dB        N_jj = d log|M| / dA_jj        N = ΛM^-1Λ'

of which modes and covariances of the effects are made.  ``elimination`` serves any mixture of nested and crossed
factors; ``dense``, M written out, is the oracle of the tests.  ``spd`` holds the differentiable pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


# ---------------------------------------------------------------- derived: effects of each level
def _by_couplings(value: Callable[[Gram], Array], gram: Gram) -> list[tuple[Array, Array]]:
    """Derivatives of ``value`` by A_j (q, q, J) and B_j (q, p + 1, J) of each factor."""

    def of(couplings):
        return value(replace(gram, couplings=couplings))

    slopes = jax.grad(of, allow_int=True)(gram.couplings)  # indices among them have none
    return gram.structure.solver.levels(replace(gram, couplings=slopes))


def explained(lams: tuple[Array, ...], gram: Gram) -> list[Array]:
    """NB of each factor, (J, q, p + 1)."""
    slopes = _by_couplings(lambda g: jnp.trace(reduce(lams, g)[1]), gram)
    return [jnp.moveaxis(-0.5 * B, -1, 0) for _, B in slopes]


def level_covariances(lams: tuple[Array, ...], gram: Gram) -> list[Array]:
    """The blocks of N of each level of each factor, (J, q, q)."""
    return [jnp.moveaxis(A, -1, 0) for A, _ in _by_couplings(lambda g: reduce(lams, g)[0], gram)]


# ---------------------------------------------------------------- derived: what starts read
def level_counts(gram: Gram) -> list[int]:
    """J of each factor."""
    shapes = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), gram.couplings)
    return [A.shape[-1] for A, _ in gram.structure.solver.levels(replace(gram, couplings=shapes))]


def _on_host(gram: Gram) -> list[tuple[Any, Any]]:
    return gram.structure.solver.levels(replace(gram, couplings=jax.tree.map(np.asarray, gram.couplings)))


def level_systems(gram: Gram) -> list[tuple[np.ndarray, np.ndarray]]:
    """A_j (J, q, q) and B_j (J, q, p + 1) of each factor; on the host."""
    return [(np.moveaxis(A, -1, 0), np.moveaxis(B, -1, 0)) for A, B in _on_host(gram)]


def diagonals(gram: Gram, xp: Any) -> list[tuple[Any, Any]]:
    """The diagonals of A_j, and Z_j'Wy, of each factor: (q, J) both; ``xp`` is numpy or jax.numpy."""
    pairs = _on_host(gram) if xp is np else gram.structure.solver.levels(gram)
    return [(xp.stack([A[k, k] for k in range(len(A))]), B[:, -1]) for A, B in pairs]
