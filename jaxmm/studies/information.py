"""The expected information on the coefficients of a linear model of nested factors, at any numbers of levels and rows.

A design of rows in levels of one factor in levels of another .. is the unit, in which every row is measured r times and
every level of factor f is copied s_f times within the level above.  With C = [X Z] of a row, w its weight and λ the
factor of a level's covariance, D = λλ',

    M = r Σ w C C'/σ²                      of the rows of each level of the innermost factor
    M ← M - M_z λ (λ'M_zz λ + I)⁻¹ λ'M_z'    its own effects averaged over, z their columns
    M ← s_f Σ M                            of the levels in each level above

up to the outermost factor, is X'V⁻¹X: r and s_f need not be whole numbers, and it can be differentiated by them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.errors import check_alike
from jaxmm.sources.truth import Truth


class Stage(NamedTuple):
    """Of one factor, the inner before the outer: its ``name``, ``levels``, where its effects stand among the columns
    (``own``), λ (q, q), and the level above of each level, () of the outermost."""

    name: str
    levels: int
    own: np.ndarray
    lam: np.ndarray
    above: np.ndarray


class Unit(NamedTuple):
    """``inner`` (J, P, P) Σ w C C'/σ² of each level of the innermost factor; the ``stages``; ``p`` columns of X."""

    inner: np.ndarray
    stages: tuple[Stage, ...]
    p: int


def unit_of(model: Any, truth: Truth) -> Unit:
    """The unit of a linear model.

    Raises:
        ValueError: a generalised model, whose information depends on the responses; crossed factors.
    """
    check_alike(model, "expected information")
    d, plan = model.design, model.elimination
    if not model.likelihood.exact:
        raise ValueError(
            f"the expected information is of linear models, and this is a {model.likelihood.family.name} model: use "
            "power_curve() over some sizes"
        )
    if plan.rest:
        names = " and ".join(f"'{f.name}'" for f in d.factors)
        raise ValueError(f"{names} are crossed: the allocation is of factors that are nested in each other")
    Z = [np.hstack([t.Z for t in d.terms if t.factor == f]) for f in range(len(d.factors))]
    C = np.hstack([d.X, *(Z[f] for f in plan.chain)])
    weights = (np.ones(len(d.y)) if d.weights is None else d.weights) / truth.sigma**2
    first = d.factors[plan.chain[0]]
    inner = np.zeros((len(first.levels), C.shape[1], C.shape[1]))
    np.add.at(inner, first.codes, C[:, :, None] * C[:, None, :] * weights[:, None, None])
    stages, start = [], d.X.shape[1]
    for k, f in enumerate(plan.chain):
        factor, above = d.factors[f], np.zeros(0, np.int64)
        if k + 1 < len(plan.chain):
            above = np.zeros(len(factor.levels), np.int64)
            above[factor.codes] = d.factors[plan.chain[k + 1]].codes
        own = np.arange(start, start + Z[f].shape[1])
        stages.append(Stage(factor.name, len(factor.levels), own, np.asarray(truth.lams[f]), above))
        start = own[-1] + 1
    return Unit(inner, tuple(stages), d.X.shape[1])


def information(unit: Unit, repeats: Any, copies: Any) -> Array:
    """X'V⁻¹X (p, p) with every row measured ``repeats`` times and ``copies`` (F,) of the levels of each factor, the
    inner before the outer."""
    M = repeats * jnp.asarray(unit.inner)
    for k, stage in enumerate(unit.stages):
        right = M[:, :, stage.own] @ stage.lam  # (J, P, q)
        inside = jnp.swapaxes(right[:, stage.own], 1, 2) @ stage.lam + jnp.eye(len(stage.own))
        M = M - right @ jnp.linalg.solve(jnp.swapaxes(inside, 1, 2), jnp.swapaxes(right, 1, 2))
        if k + 1 < len(unit.stages):
            total = jnp.zeros((unit.stages[k + 1].levels, *M.shape[1:]), M.dtype)
            M = copies[k] * total.at[stage.above].add(M)
    return (copies[-1] * jnp.sum(M, axis=0))[: unit.p, : unit.p]
