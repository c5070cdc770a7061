"""The conditional mode û of the random effects: the minimum of

    h(u) = -2 Σ w log p(y | η) + u'u,       η = Xβ + offset + ZΛu,    b = Λu

by Newton's method with M = Λ'Z'WZΛ + I and the observed weights W = -w d²log p/dη².  Levels of the outermost factor of
a chain are independent *parts*, each damped and finished by itself; crossed factors make one part.  A step that does
not lower h is halved; where M is not positive definite (W may be negative for links that are not canonical) one
step is made with the negative weights set to zero.  Newton's last step is taken without looking: it squares what
error is left.

A link with an edge gives some rows no density at some u, perhaps at every u that is known.  Such a part first seeks a u
where all of its rows have one: each step is the shortest that brings the rows without density to the link of the mean
response, as far as one step can (projections onto what they allow, one after the other; Gubin, Polyak & Raik 1967).

``attach`` gives û its derivatives.  From dh/du = 0, dû = -M^-1 d(u - Λ'Z'w dlog p/dη), a linear solve that is itself
differentiable (``lax.custom_linear_solve``), so that derivatives of every order follow and none goes through the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxmm._pieces import apart
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.objective.density import Etas, Expansion, RowTerms, expanded_terms, pairs_of, safe_level, terms
from jaxmm.rows import Rows
from jaxmm.solver import Factorised, factorise, solve

TOLERANCE = 1e-9  # of the Newton decrement, per part; the closing step leaves about its square
MAX_ITERATIONS = 100
SLACK = 1e-11  # relative rise of h that counts as rounding
SEEKING = 20  # iterations until a part in which no u gives all rows a density is given up
PULL = 1e8  # weight of a row without density while one is sought, relative to the square of where it should go


class Point(NamedTuple):
    """Where the mode is looked for: ``beta`` (p,) as to X_s, ``lams`` (q, q) per factor as to Z_s, and log phi (k,)."""

    beta: Array
    lams: tuple[Array, ...]
    log_phi: Array


def fixed_part(point: Point, rows: Rows) -> Etas:
    """Xβ + offset of each predictor, (H, P)."""
    slices = rows.structure.predictors.slices(len(point.beta))
    return tuple(
        offset + jnp.tensordot(point.beta[at], rows.X[at], 1) if at.stop > at.start else offset
        for offset, at in zip((rows.offset, *rows.further_offsets), slices, strict=True)
    )


def linear_predictors(fixed: Etas, b: tuple[Array, ...], rows: Rows) -> Etas:
    """Xβ + offset + Zb of each predictor."""
    return tuple(eta if Zb is None else eta + Zb for eta, Zb in zip(fixed, rows.effects(b), strict=True))


def weighted(W: tuple[Array, ...], moves: Etas) -> tuple[Array, ...]:
    """Σ_b W_ab moves_b of each moving predictor a; ``W`` of their pairs."""
    pairs = pairs_of(len(moves))
    return tuple(
        sum(W[pairs.index((min(a, b), max(a, b)))] * move for b, move in enumerate(moves)) for a in range(len(moves))
    )  # pyright: ignore


def effects(lams: tuple[Array, ...], u: tuple[Array, ...]) -> tuple[Array, ...]:
    """b = Λu: (q, J) of each factor."""
    return tuple(lam @ x if len(lam) > 1 else lam[0, 0] * x for lam, x in zip(lams, u, strict=True))


def effects_transposed(lams: tuple[Array, ...], x: tuple[Array, ...]) -> tuple[Array, ...]:
    return effects(tuple(lam.T for lam in lams), x)


class Parts:
    """The independent parts of the random effects; values by part are (parts,)."""

    def __init__(self, rows: Rows):
        self.rows, self.last = rows, len(rows.structure.chain) - 1
        self.one = bool(rows.structure.rest)

    def of_rows(self, x: Array) -> Array:
        return jnp.sum(x)[None] if self.one else self.rows.collect(self.last, x)

    def to_rows(self, x: Array) -> Array:
        return x if self.one else self.rows.spread(self.last, x)

    def of_levels(self, f: int, x: Array) -> Array:
        if self.one:
            return jnp.sum(x)[None]
        if f == self.last:
            return x
        total = jnp.zeros(self.rows.levels_of(self.last), x.dtype)
        return total.at[self.rows.parents[f][self.last - f - 1]].add(x)

    def to_levels(self, f: int, x: Array) -> Array:
        return x if self.one or f == self.last else x[self.rows.parents[f][self.last - f - 1]]

    def dot(self, a: tuple[Array, ...], b: tuple[Array, ...]) -> Array:
        """Σ a b over the effects of each part."""
        return sum(self.of_levels(f, jnp.sum(x * y, axis=0)) for f, (x, y) in enumerate(zip(a, b, strict=True)))  # pyright: ignore

    def where(self, chosen: Array, a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(jnp.where(self.to_levels(f, chosen), x, y) for f, (x, y) in enumerate(zip(a, b, strict=True)))


def pull_inside(t: RowTerms, eta: Array, level: Array, seeking: Array) -> RowTerms:
    """The terms where, in parts that are ``seeking`` (by row), rows without density are drawn to ``level`` of the first
    moving predictor, whose ``eta`` that is, and the others let go."""
    k = PULL / jnp.maximum(level * level, 1e-300)
    lost = ~jnp.isfinite(t.log_density)

    def instead(first: Any, x: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(jnp.where(seeking, jnp.where(lost, 0.0 if i else first, 0.0), v) for i, v in enumerate(x))

    return RowTerms(t.log_density, instead(k * (level - eta), t.score), instead(k, t.W))


def clipped(W: tuple[Array, ...], clip: Array, count: int) -> tuple[Array, ...]:
    """The weights by pairs of ``count`` predictors, where ``clip`` without those that are negative or of two."""
    return tuple(
        jnp.where(clip, jnp.maximum(x, 0.0) if a == b else 0.0, x) for x, (a, b) in zip(W, pairs_of(count), strict=True)
    )


# ---------------------------------------------------------------- the search
class Newton(NamedTuple):
    """The step in some form of linear algebra: u is a pytree, and what is said of the parts an array over them.

    ``evaluate``: u -> (h of each part, what else is known at u).  ``step``: (u, that, seeking, clip) -> (M^-1 times
    -½ dh/du, Newton's decrement of each part); parts that are ``seeking`` are treated as ``pull_inside`` says (None: no
    part ever is), and in those to ``clip`` negative weights are set to zero.  ``where``: (parts, u, u) -> u.
    """

    evaluate: Callable[[Any], tuple[Array, Any]]
    step: Callable[[Any, Any, Array | None, Array], tuple[Any, Array]]
    where: Callable[[Array, Any, Any], Any]


class _State(NamedTuple):
    u: Any
    step: Any
    value: Array
    closing: Array
    clip: Array
    iteration: Array


def search(newton: Newton, start: Any, infinite: Array, has_edge: bool, tolerance: float, slack: float) -> _State:
    """The end of the search from ``start``, its last step taken; ``infinite`` over the parts.

    ``closing`` of it says which parts have converged.
    """
    where = newton.where

    def body(s: _State) -> _State:
        trial = jax.tree.map(jnp.add, s.u, s.step)
        value, at = newton.evaluate(trial)
        ok = jnp.isfinite(value) & (value <= s.value + slack * (jnp.abs(value) + 1.0))
        lost = ~ok & (s.iteration == 0)  # a start out of the family's reach: from zero then
        seeking, given_up = None, False
        if has_edge:
            seeking = ~jnp.isfinite(value) & ~jnp.isfinite(s.value) & ~lost
            given_up = seeking & (s.iteration >= SEEKING)
            ok = ok | seeking
        full, decrement = newton.step(trial, at, seeking, s.clip)
        good = jnp.isfinite(decrement) & (decrement >= 0)
        near = (ok & good & (decrement <= tolerance)) | given_up
        zero, shorter = jax.tree.map(jnp.zeros_like, trial), jax.tree.map(lambda x: 0.5 * x, s.step)
        step = where(ok & good, full, where(ok | lost, zero, shorter))
        return _State(
            u=where(s.closing | ~ok, where(lost, zero, s.u), trial),
            step=where(s.closing, s.step, step),
            value=jnp.where(ok & ~s.closing, value, s.value),
            closing=s.closing | near,
            clip=ok & ~good,
            iteration=s.iteration + 1,
        )

    zero, none = jax.tree.map(jnp.zeros_like, start), jnp.zeros(infinite.shape, bool)
    state = _State(start, zero, infinite, none, none, jnp.zeros((), jnp.int32))
    s = jax.lax.while_loop(lambda s: ~jnp.all(s.closing) & (s.iteration < MAX_ITERATIONS), body, state)
    return s._replace(u=jax.tree.map(jnp.add, s.u, where(s.closing, s.step, zero)))


class Mode(NamedTuple):
    """``u`` (q, J) per factor; whether every part converged; iterations."""

    u: tuple[Array, ...]
    converged: Array
    iterations: Array


def zero_effects(rows: Rows, xp: Any = jnp) -> tuple[Any, ...]:
    """u = 0, where every search may begin; ``xp`` is numpy, which compiles nothing, or jax.numpy."""
    s = rows.structure
    widths = [*s.chain, *(q for _, q in s.rest)]
    return tuple(xp.zeros((q, rows.levels_of(f)), rows.y.dtype) for f, q in enumerate(widths))


def find_mode(point: Point, rows: Rows, start: tuple[Array, ...]) -> Mode:
    """û from ``start``; a constant to every derivative."""
    point, rows, start = jax.lax.stop_gradient((point, rows, start))
    parts, fixed = Parts(rows), fixed_part(point, rows)
    dtype = rows.y.dtype
    rounding = float(jnp.finfo(dtype).eps) / float(jnp.finfo(jnp.float64).eps)
    tolerance, slack = TOLERANCE * max(1.0, rounding / 1e3), SLACK * max(1.0, rounding)
    moving = rows.structure.predictors.moving
    has_edge = rows.family.has_edge and moving[0] == 0
    level = safe_level(rows.y, rows.weights, rows.trials, rows.family) if has_edge else None

    def evaluate(u: tuple[Array, ...]) -> tuple[Array, tuple[Array, RowTerms]]:
        etas = linear_predictors(fixed, effects(point.lams, u), rows)
        t: RowTerms = apart(lambda e: terms(e, point.log_phi, rows), etas)
        return parts.dot(u, u) - 2 * parts.of_rows(t.log_density), (etas[0], t)

    def step(u, at, seeking, clip):
        (eta, t), prior = at, u
        if level is not None:
            t = pull_inside(t, eta, level, parts.to_rows(seeking))
            prior = parts.where(seeking, tuple(jnp.zeros_like(x) for x in u), u)
        gram = rows.gram(clipped(t.W, parts.to_rows(clip), len(moving)))
        pull = effects_transposed(point.lams, rows.pull(t.score))
        right = tuple(x - u for x, u in zip(pull, prior, strict=True))
        full = solve(factorise(point.lams, gram), point.lams, gram, right)
        return full, parts.dot(right, full)

    infinite = parts.of_rows(jnp.zeros_like(rows.y)) + jnp.inf
    s = search(Newton(evaluate, step, parts.where), start, infinite, has_edge, tolerance, slack)
    return Mode(s.u, jnp.all(s.closing), s.iteration)


# ---------------------------------------------------------------- derivatives of the mode
class Known(NamedTuple):
    """What is known at the mode, constants: the elimination of M there, its cross-products, and the expansion of the
    log density, if that is to be used."""

    done: Factorised
    gram: Gram
    expansion: Expansion | None


def terms_at(etas: Etas, point: Point, rows: Rows, expansion: Expansion | None) -> RowTerms:
    if expansion is None:
        return terms(etas, point.log_phi, rows)
    return expanded_terms(etas, point.log_phi, rows, expansion)


@jax.custom_jvp
def attach(u: tuple[Array, ...], point: Point, rows: Rows, known: Known) -> tuple[Array, ...]:
    """The mode ``u`` at (point, rows) as a function of them."""
    return u


@partial(attach.defjvp, symbolic_zeros=True)
def _(primals, tangents):
    u, point, rows, known = primals
    mode = attach(u, point, rows, known)
    leaves, tree = jax.tree.flatten((point, rows))
    moves = jax.tree.leaves(tangents[1:3], is_leaf=lambda x: isinstance(x, SymbolicZero))
    moving = [i for i, t in enumerate(moves) if not isinstance(t, SymbolicZero)]
    if not moving:
        return mode, tuple(jnp.zeros_like(x) for x in mode)

    def slope(values):
        changed = list(leaves)
        for i, value in zip(moving, values, strict=True):
            changed[i] = value
        p, r = jax.tree.unflatten(tree, changed)
        etas = linear_predictors(fixed_part(p, r), effects(p.lams, mode), r)
        return effects_transposed(p.lams, r.pull(terms_at(etas, p, r, known.expansion).score))

    _, right = jax.jvp(slope, ([leaves[i] for i in moving],), ([moves[i] for i in moving],))
    etas = linear_predictors(fixed_part(point, rows), effects(point.lams, mode), rows)
    W = terms_at(etas, point, rows, known.expansion).W

    def times_M(x):
        moves = tuple(Zb for Zb in rows.effects(effects(point.lams, x)) if Zb is not None)
        pulled = effects_transposed(point.lams, rows.pull(weighted(W, moves)))
        return tuple(a + b for a, b in zip(x, pulled, strict=True))

    lams = jax.lax.stop_gradient(point.lams)
    done, gram = jax.lax.stop_gradient((known.done, known.gram))

    def by_factors(_, r):
        return solve(done, lams, gram, r)

    return mode, jax.lax.custom_linear_solve(times_M, right, by_factors, symmetric=True)
