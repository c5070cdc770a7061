"""-2 log-likelihood by adaptive Gauss-Hermite quadrature: one grouping factor, q <= 3 effects per level.

With û_j and M_j = L_j L_j' of Laplace's method, nodes z_k and weights w_k for exp(-z'z) (product rule, n_agq^q of
them), u_k = û_j + √2 L_j^-T z_k:

    log l_j = -½ log|M_j| - (q/2) log π + log Σ_k w_k exp(z_k'z_k) p(y_j | u_k) exp(-½ u_k'u_k)

û and L are differentiated too.  One node is Laplace's method (Liu & Pierce 1994; Pinheiro & Bates 1995).
"""

from __future__ import annotations

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.objective.density import expand, log_density, term
from jaxmm.objective.laplace import at_mode, laplace
from jaxmm.objective.mode import Point, effects, fixed_part, linear_predictors
from jaxmm.rows import Rows
from jaxmm.solver.spd import BLOCKS

MAX_EFFECTS = 3


@cache
def nodes(n_agq: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """z (K, q) and log w + z'z (K,) of the product rule with K = n_agq^q nodes."""
    z, w = np.polynomial.hermite.hermgauss(n_agq)
    grid = np.array(list(product(z, repeat=q)))
    log_w = np.array([sum(c) for c in product(np.log(w) + z**2, repeat=q)])
    return grid, log_w


def neg2_loglik(point: Point, rows: Rows, found: tuple[Array, ...], n_agq: int, order: int | None = None) -> Array:
    """-2 log-likelihood at ``point``, where the mode is ``found``; Laplace's with one node.

    ``order`` as in ``laplace.at_mode``.
    """
    if n_agq == 1:
        return laplace(point, rows, found, order)
    a = at_mode(point, rows, found, order)
    q, dtype = rows.structure.chain[0], rows.y.dtype
    z, log_w = (jnp.asarray(x, dtype) for x in nodes(n_agq, q))
    root = BLOCKS.inverse_root(rows.structure.solver.level_matrices(a.done, a.gram))
    fixed = fixed_part(point, rows)

    def node(z_k, log_w_k, expanded):
        u = a.u[0] + jnp.sqrt(2.0) * jnp.einsum("abj,a->bj", root, z_k)
        etas = linear_predictors(fixed, effects(point.lams, (u,)), rows)
        if expanded:
            C = expand(etas, point.log_phi, rows, order - 2, 0)  # pyright: ignore
            density = term((0,) * (len(etas) + len(point.log_phi)), etas, point.log_phi, C)
        else:
            density = log_density(etas, point.log_phi, rows)
        return log_w_k + rows.main.collect(rows.weights * density) - 0.5 * jnp.sum(u * u, axis=0)

    if len(z) * rows.y.size <= costs.NODES_AT_ONCE:
        each = jax.vmap(lambda z_k, w_k: node(z_k, w_k, order is not None))(z, log_w)
    else:  # through the family's formulas: a loop forgets, in second derivatives, what ``term`` stands for
        each = jax.lax.map(lambda k: node(k[0], k[1], False), (z, log_w))
    by_level = jax.nn.logsumexp(each, axis=0)
    levels = rows.main.levels
    copies = jnp.ones(levels, dtype) if rows.copies is None else rows.copies[0]
    constant = jnp.sum(copies) * q * jnp.log(jnp.pi) - 2 * rows.log_constant
    return a.done.logdet + constant - 2 * jnp.sum(copies * by_level)
