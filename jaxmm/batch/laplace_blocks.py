"""One grouping factor, any family: Laplace's approximation for all lanes at once, with exact derivatives.

The rows stand in a table of H rows for each of J levels and L lanes, (H, J, L), so that every operation is one long
vector and a level's sums run over the first axis.  With h(u) = -Σ w log p(y | u) + ½ u'u, S = h'' = λ'Aλ + I, A = Z'WZ,

    F(psi, u) = -2 Σ w log p + u'u + log|S|,          f(psi) = F(psi, û(psi)),      h'(psi, û(psi)) = 0

The mode depends on psi through that equation only.  From the converged û, two steps with the root of S held fixed,

    u_1 = û - S^-1 h'(psi, û),      u_2 = u_1 - S^-1 h'(psi, u_1)

are û(psi) up to second order, so that the gradient and the Hessian of F(psi, u_2(psi)) are those of f.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.batch.lanes import Value
from jaxmm.batch.small import Matrix, dot, invert, times, transpose
from jaxmm.objective.density import Expansion, as_phi, expansion, term
from jaxmm.objective.mode import MAX_ITERATIONS, SLACK, TOLERANCE
from jaxmm.objective.parameters import scaled_factors
from jaxmm.structure import Structure

MAX_EFFECTS = 4  # q above which the graph is too long to compile


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["X", "Z", "weights", "offset", "trials"],
    meta_fields=["structure", "family"],
)
@dataclass(frozen=True)
class Table:
    """What all lanes share of the rows: ``X`` (p, H, J), ``Z`` (q, H, J) in the scaled columns, the others (H, J); rows
    of weight zero fill the shorter levels."""

    X: Array
    Z: Array
    weights: Array
    offset: Array
    trials: Array
    structure: Structure
    family: Any


class Own(NamedTuple):
    """What a lane has of its own: ``y`` (H, J, L), ``constant`` (L,) the part of the log density without parameters,
    ``copies`` (J, L) how often each level counts, or None."""

    y: Array
    constant: Array
    copies: Array | None


class Kept(NamedTuple):
    """The mode (q, J, L), and whether its search ended (L,)."""

    u: Array
    found: Array


def _eta(psi: Array, u: Array, t: Table) -> tuple[Array, Matrix]:
    """Linear predictor (H, J, L), and lam entry by entry (L,)."""
    s = t.structure
    lam = scaled_factors(psi[s.p : s.p + s.num_theta], s)[0]
    q = len(lam)
    b = [sum(lam[a, c] * u[c] for c in range(q)) for a in range(q)]
    eta = t.offset[..., None] + sum(t.Z[a][..., None] * b[a] for a in range(q))
    for k in range(s.p):
        eta = eta + t.X[k][..., None] * psi[k]
    return eta, [[lam[a, c] for c in range(q)] for a in range(q)]


def _root(psi: Array, W: Array, lam: Matrix, t: Table) -> tuple[Array, Matrix]:
    """|S| and S^-1 from the weights (H, J, L)."""
    q = len(lam)
    A = [
        [jnp.sum(t.Z[max(a, b)][..., None] * (t.Z[min(a, b)][..., None] * W), axis=0) for b in range(q)]
        for a in range(q)
    ]
    S = times(transpose(lam), times(A, lam))
    return invert([[S[a][b] + (1.0 if a == b else 0.0) for b in range(q)] for a in range(q)])


def _slope(score: Array, u: Array, lam: Matrix, t: Table) -> list[Array]:
    """-h' = λ'Z's - u."""
    q = len(lam)
    pull = [jnp.sum(t.Z[a][..., None] * score, axis=0) for a in range(q)]
    return [dot([lam[a][c] for a in range(q)], pull) - u[c] for c in range(q)]


def _phi(psi: Array, s: Structure) -> Array:
    return psi[s.p + s.num_theta :]


def _density(eta: Array, log_phi: Array, y: Array, t: Table) -> Array:
    return t.family.density(y, eta, as_phi(log_phi), t.trials[..., None])


def find_modes(psi: Array, y: Array, start: Array, t: Table) -> Kept:
    """û of every level and lane from ``start`` (q, J, L): Newton's method, halved where h rises; then one more step."""
    w = t.weights[..., None]
    log_phi = _phi(psi, t.structure)

    def terms(eta):
        def first(e):
            return jax.jvp(lambda e: _density(e, log_phi, y, t), (e,), (jnp.ones_like(e),))

        (value, d1), (_, d2) = jax.jvp(first, (eta,), (jnp.ones_like(eta),))
        return value, d1, d2

    def body(s):
        u, step, value, closing, clip, iteration = s
        trial = u + step
        eta, lam = _eta(psi, trial, t)
        log_p, d1, d2 = terms(eta)
        now = jnp.sum(trial * trial, axis=0) - 2 * jnp.sum(w * log_p, axis=0)
        ok = jnp.isfinite(now) & (now <= value + SLACK * (jnp.abs(now) + 1.0))
        W = -w * d2
        W = jnp.where(clip, jnp.maximum(W, 0.0), W)
        _, inverse = _root(psi, W, lam, t)
        right = _slope(w * d1, trial, lam, t)
        newton = jnp.stack([dot(row, right) for row in inverse])
        decrement = sum(r * x for r, x in zip(right, newton, strict=True))
        good = jnp.isfinite(decrement) & (decrement >= 0)
        near = ok & good & (decrement <= TOLERANCE)
        lost = ~ok & (iteration == 0)
        after = jnp.where(ok & good, newton, jnp.where(ok | lost, 0.0, 0.5 * step))
        return (
            jnp.where(closing | ~ok, jnp.where(lost, 0.0, u), trial),
            jnp.where(closing, step, after),
            jnp.where(ok & ~closing, now, value),
            closing | near,
            ok & ~good,
            iteration + 1,
        )

    none = jnp.zeros(start.shape[1:], bool)
    state = (
        start,
        jnp.zeros_like(start),
        jnp.full(start.shape[1:], jnp.inf, y.dtype),
        none,
        none,
        jnp.zeros((), jnp.int32),
    )
    u, step, _, closing, _, _ = jax.lax.while_loop(lambda s: ~jnp.all(s[3]) & (s[5] < MAX_ITERATIONS), body, state)
    return Kept(u + jnp.where(closing, step, 0.0), jnp.all(closing, axis=0))


def _terms(eta: Array, log_phi: Array, C: Expansion, w: Array) -> tuple[Array, Array, Array]:
    zero = (0,) * len(log_phi)
    value, d1, d2 = (term((i, *zero), eta, log_phi, C) for i in range(3))
    return w * value, w * d1, -w * d2


def value_and_derivatives(psi: Array, own: Own, start: Array, t: Table, exact: bool) -> Value:
    """-2 log-likelihood (L,) at psi (k, L), its gradient and, if asked for, Hessian; ``start`` (q, J, L) for the
    mode."""
    s, w, y = t.structure, t.weights[..., None], own.y
    kept = find_modes(psi, y, start, t)
    u = kept.u
    eta, lam = _eta(psi, u, t)
    C = expansion(lambda e, p: _density(e, p, y, t), eta, _phi(psi, s), 4 if exact else 3)
    _, _, W = _terms(eta, _phi(psi, s), C, w)
    _, inverse = _root(psi, W, lam, t)

    def step(p, x):
        e, l = _eta(p, x, t)
        _, score, _ = _terms(e, _phi(p, s), C, w)
        right = _slope(score, x, l, t)
        return x + jnp.stack([dot(row, right) for row in inverse])

    def criterion(p):
        x = step(p, u)
        if exact:
            x = step(p, x)
        e, l = _eta(p, x, t)
        log_p, _, W = _terms(e, _phi(p, s), C, w)
        det, _ = _root(p, W, l, t)
        by_level = jnp.sum(x * x, axis=0) - 2 * jnp.sum(log_p, axis=0) + jnp.log(det)
        each = jnp.sum(by_level if own.copies is None else own.copies * by_level, axis=0)
        return jnp.sum(each), each - 2 * own.constant

    if not exact:
        (_, value), g = jax.value_and_grad(criterion, has_aux=True)(psi)
        return Value(value, g, None, kept)

    def first(p):
        (_, value), g = jax.value_and_grad(criterion, has_aux=True)(p)
        return g, value

    g, push, value = jax.linearize(first, psi, has_aux=True)
    k, L = psi.shape
    units = jnp.broadcast_to(jnp.eye(k, dtype=psi.dtype)[:, :, None], (k, k, L))
    H = jax.vmap(push)(units)
    return Value(value, g, 0.5 * (H + jnp.swapaxes(H, 0, 1)), kept)
