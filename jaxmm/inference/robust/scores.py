"""Cluster-robust covariance of the estimates of a generalised model, from exact scores of the marginal likelihood.

Clusters that hold whole levels are independent under the model, and −2 log-likelihood, by Laplace's method or
quadrature, is a sum d = Σ_i d_i over them.  With g_i = ∂d_i/∂ψ and H = ∂²d/∂ψ² at ψ̂, where Σ g_i = 0,

    CR0   H⁻¹ (Σ g_i g_i') H⁻¹                       (Huber 1967; White 1982, Econometrica 50, 1-25)
    CR1   m / (m − 1) times that
    CR3   Σ s_i s_i',   s_i = (H − H_i)⁻¹ g_i         ψ̂ without cluster i less ψ̂, by one Newton step

for β, θ and φ together: what the estimate of a variance does to β is counted in.  d is linear in how often each level
of the outermost factor counts (``Rows.copies``), and d_i its derivative by that.  It is also d with the weights of all
other rows set to zero, which needs no program but the fit's: so with few clusters, and where factors are crossed
within them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.estimate_glmm import are_few, covariance_matrix, is_large
from jaxmm.estimate_glmm import derivatives as of_model
from jaxmm.inference.ddf.constant import Constant
from jaxmm.inference.robust.clusters import Clusters
from jaxmm.objective.laplace import scaled_point
from jaxmm.objective.quadrature import neg2_loglik
from jaxmm.rows import Rows

KINDS = ("CR0", "CR1", "CR3")
FEW = 30
LOST = "the likelihood without some cluster curves the wrong way at the estimates: CR3 leaves that direction out"


def robust(model: Any, estimates: Any, kind: str, clusters: Clusters) -> Constant:
    """The covariance of the kind, one of ``KINDS``, with the normal distribution."""
    e, rows = estimates, model.arrays
    layout, T_X = rows.layout, np.asarray(rows.T_X)
    scores, hessians = derivatives(model, estimates, clusters, kind == "CR3")
    notes: tuple[str, ...] = (clusters.note(kind),)
    if hessians is None:
        steps = 0.5 * scores @ np.asarray(e.covariance)
        steps = steps * np.sqrt(clusters.count / (clusters.count - 1)) if kind == "CR1" else steps
    else:
        without = np.asarray(e.hessian) - hessians
        p = rows.structure.p
        steps = np.stack([0.5 * covariance_matrix(H, p) @ g for H, g in zip(without, scores, strict=True)])
        notes += (LOST,) if np.any(np.linalg.eigvalsh(without)[:, 0] <= 0) else ()
    moved = steps[:, layout.at("beta")] @ T_X.T
    if clusters.count < FEW:
        notes += (f"{clusters.count} clusters are few for z tests with a robust covariance: p-values are too small",)
    beta = np.asarray(e.beta)
    return Constant("asymptotic", beta, moved.T @ moved, np.full(len(beta), np.inf), notes)


def derivatives(model: Any, estimates: Any, clusters: Clusters, second: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """g_i (m, k) and H_i (m, k, k), or None, by psi, at the estimates."""
    e, rows = estimates, model.arrays
    with computing(model.device):
        if rows.structure.rest or are_few(rows, clusters.count):
            source = np.asarray(rows.source)
            found = _one_by_one(e.psi, rows, e.u, clusters.codes[source], clusters.count, e.n_agq)
        else:
            chain = [model.groupings[f] for f in model.elimination.chain]
            own = tuple(clusters.of_levels(g.codes, g.levels) for g in chain)
            found = _all_at_once(e.psi, rows, e.u, own, clusters.count, e.n_agq, second)
        scores, hessians = (None if x is None else np.asarray(x) for x in found)
    return scores, hessians if second else None  # pyright: ignore


@partial(Program, static_argnums=(4, 5, 6))
def _all_at_once(
    psi: Array, rows: Rows, u: tuple[Array, ...], own: tuple[Array, ...], count: int, n_agq: int, second: bool
) -> tuple[Array, Array | None]:
    """``own``: the cluster of each level of each factor of the chain."""
    order, eye = (4 if second else 3), jnp.eye(len(psi), dtype=psi.dtype)

    def value(copies: Array, psi: Array) -> Array:
        counted = replace(rows, copies=tuple(copies[k] for k in own))
        return neg2_loglik(scaled_point(psi, rows), counted, u, n_agq, order)

    def first(psi: Array) -> Array:
        """(k, m)"""
        _, push = jax.linearize(partial(jax.grad(value), jnp.ones(count, psi.dtype)), psi)
        return jax.vmap(push)(eye)

    if not second:
        return first(psi).T, None
    scores, push = jax.linearize(first, psi)
    return scores.T, jnp.moveaxis(jax.vmap(push)(eye), 2, 0)


def _one_by_one(
    psi: Array, rows: Rows, u: tuple[Array, ...], own: np.ndarray, count: int, n_agq: int
) -> tuple[np.ndarray, np.ndarray]:
    """``own`` (H, P): the cluster of each row.  By the program of the fit's search, which is there."""
    weights, large, found = np.asarray(rows.weights), is_large(rows), []
    for k in range(count):
        alone = replace(rows, weights=np.where(own == k, weights, 0.0))
        found.append(of_model(psi, alone, u, n_agq, large)[1:3])
    scores, hessians = (np.stack([np.asarray(x) for x in each]) for each in zip(*found, strict=True))
    return scores, hessians
