"""A fit -> the surface that profiles are cut from: the deviance f of x with nothing profiled out that is to be held,
and every parameter h as a function of x (``quantities``).

    linear         x = (θ_s, log σ² - log σ̂², t)      f = criterion(θ, log σ²) + (t - a'(β_s(θ) - β̂_s)/σ̂)² σ̂²/σ² / v
    generalised    x = ψ = (β_s, θ_s, log φ)          f = -2 log-likelihood

Where σ² is known, or a part of θ, x has no element of its own for it.

In a linear model β_s(θ) is the best β at θ, M_X = X_s'V⁻¹X_s, v = a'M_X⁻¹a: f is the least deviance with the
coefficient a'β_s (a row of T_X) held at σ̂t from its estimate, and t stands for the one coefficient that is looked at.
Where another parameter is held t is free, and the term zero at the minimum.  A generalised x has every coefficient.

Points are evaluated together, in blocks that memory allows; each is first moved onto its h(x) = c, along ∇h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.estimate import is_dear
from jaxmm.estimate_glmm import is_large
from jaxmm.fitted import Fitted
from jaxmm.gram import Gram
from jaxmm.inference.paths import Asked, Point
from jaxmm.inference.quantities import Quantities, Shape, quantities, spreads
from jaxmm.objective.laplace import scaled_point
from jaxmm.objective.lmm import eliminate
from jaxmm.objective.mode import find_mode
from jaxmm.objective.parameters import resolved, scaled_factors
from jaxmm.objective.quadrature import neg2_loglik
from jaxmm.rows import Rows
from jaxmm.solver import spd
from jaxmm.solver.spd import DENSE

ONTO = 8  # Newton steps onto h(x) = c: a sphere takes one or two, an angle a few


@dataclass(frozen=True)
class Surface:
    """What ``paths`` need of a fit.

    Attributes:
        of: its quantities.
        x: (n,) the estimate.
        kept: (U,) the modes there, from which others are searched.
        thetas: where x has the θ of each factor, in elimination order.
        evaluate: asked points, each with the number of its quantity -> what is there.
    """

    of: Quantities
    x: np.ndarray
    kept: np.ndarray
    thetas: list[np.ndarray]
    evaluate: Callable[[Sequence[tuple[int, Asked]]], list[Point]]


# ---------------------------------------------------------------- the two functions
def _linear(x: Array, h: dict[str, Any], gram: Gram) -> Array:
    """f of x; ``h`` the data of the quantities, with a of the coefficient that t is."""
    moved = _log_scale(x, h, gram)
    lams, gram = resolved(x[: gram.structure.num_theta], gram)
    at, log_sigma2 = eliminate(lams, gram), h["log_sigma2"] + moved
    value = at.logdet + at.df * (jnp.log(2 * jnp.pi) + log_sigma2) + at.pwrss * jnp.exp(-log_sigma2)
    if gram.structure.p:
        a = h["a"]
        v = spd.quad(DENSE, at.M_X, DENSE.factor(at.M_X), a[:, None])[0, 0]
        off = a @ (at.beta - h["beta"]) * jnp.exp(-0.5 * h["log_sigma2"])
        value = value + (x[-1] - off) ** 2 * jnp.exp(-moved) / v
    return value - gram.sum_log_weights


def _log_scale(x: Array, h: dict[str, Any], gram: Gram) -> Array:
    """log σ² - log σ̂² at x."""
    s = gram.structure
    if s.profiles_sigma:
        return x[s.num_theta]
    return jnp.zeros(()) if s.knows_sigma else s.log_sigma2(x[: s.num_theta]) - h["log_sigma2"]


def _of_linear(x: Array, shape: Shape, h: dict[str, Any], gram: Gram) -> Array:
    """h of every quantity (K,)."""
    m, moved = gram.structure.num_theta, _log_scale(x, h, gram)
    sds, angles = spreads(scaled_factors(x[:m], gram), shape, h["rows"])
    sds = [jnp.exp(0.5 * moved) * sd for sd in sds]
    parts = [x[-1]] * shape.columns + sds + angles + [0.5 * (h["log_sigma2"] + moved)]
    if shape.errors is not None:
        parts += shape.errors.values(x[gram.structure.num_random : m], h["log_sigma2"] + moved, h["positions"])
    return jnp.stack(parts)


def _of_generalised(x: Array, shape: Shape, h: dict[str, Any], rows: Rows) -> Array:
    beta, theta, log_phi = rows.layout.split(x)
    sds, angles = spreads(scaled_factors(theta, rows), shape, h["rows"])
    moved = h["T_X"] @ (beta - h["beta"])
    parts = [moved[: shape.columns], *([jnp.stack(sds + angles)] if sds else [])]
    if shape.scale:
        parts.append(log_phi[:1])
    if shape.constants:
        phi, extras = rows.family.constants(log_phi)
        parts += [jnp.ravel(phi)[1:], *map(jnp.ravel, extras)]
    return jnp.concatenate([*parts, moved[shape.columns :]])


# ---------------------------------------------------------------- one point
def _onto(x: Array, c: Array, one: Callable[[Array], Array]) -> Array:
    """x moved along ∇h until h(x) = c."""

    def step(_, x):
        value, slope = jax.value_and_grad(one)(x)
        square = slope @ slope
        return x + jnp.where(square > 0, (c - value) / jnp.where(square > 0, square, 1.0), 0.0) * slope

    moved = jax.lax.fori_loop(0, ONTO, step, x)
    return jnp.where(jnp.isnan(c), x, moved)


def _derivatives(f: Callable[[Array], Array], x: Array, one_by_one: bool) -> tuple[Array, Array, Array]:
    """f, its gradient and Hessian, whose columns come together, or one after another to save memory."""

    def first(x):
        value, g = jax.value_and_grad(f)(x)
        return g, value

    g, push, value = jax.linearize(first, x, has_aux=True)
    eye = jnp.eye(len(x), dtype=x.dtype)
    H = jax.lax.map(push, eye) if one_by_one else jax.vmap(push)(eye)
    return value, g, 0.5 * (H + H.T)


def _points_linear(asked: dict[str, Array], h: dict[str, Any], gram: Gram, shape: Shape, one_by_one: bool):
    """x, h, f and their derivatives, and what is kept, of each point that is asked for."""

    def point(q):
        own = h | {"a": q["a"]}

        def one(x):
            return _of_linear(x, shape, own, gram)[q["k"]]

        x = _onto(q["x"], q["c"], one)
        of_h = _derivatives(one, x, False)
        return x, of_h, _derivatives(lambda x: _linear(x, own, gram), x, one_by_one), q["kept"]

    return jax.vmap(point)(asked)


def _points_generalised(
    asked: dict[str, Array], h: dict[str, Any], rows: Rows, shape: Shape, one_by_one: bool, n_agq: int
):
    like = h["u"]

    def point(q):
        def one(x):
            return _of_generalised(x, shape, h, rows)[q["k"]]

        x = _onto(q["x"], q["c"], one)
        mode = find_mode(scaled_point(x, rows), rows, _unflat(q["kept"], like))

        def f(x):
            return neg2_loglik(scaled_point(x, rows), rows, mode.u, n_agq, 4)

        kept = jnp.concatenate([jnp.ravel(u) for u in mode.u])
        return x, _derivatives(one, x, False), _derivatives(f, x, one_by_one), kept

    return jax.vmap(point)(asked)


def _unflat(flat: Array, like: Sequence[Array]) -> tuple[Array, ...]:
    ends = np.cumsum([u.size for u in like])
    return tuple(flat[end - u.size : end].reshape(u.shape) for end, u in zip(ends, like, strict=True))


def _size_linear(asked: Any, h: Any, gram: Gram, *_: Any) -> int:
    return len(asked["c"]) * gram.structure.solver.size(gram)


def _size_generalised(asked: Any, h: Any, rows: Rows, shape: Shape, one_by_one: bool, n_agq: int) -> int:
    return len(asked["c"]) * (rows.y.size * n_agq + rows.structure.rest_size**2)


_linear_program = Program(_points_linear, (3, 4), _size_linear)
_generalised_program = Program(_points_generalised, (3, 4, 5), _size_generalised)


# ---------------------------------------------------------------- of a fit
def surface(fit: Fitted) -> Surface:
    """The surface of a fit by maximum likelihood."""
    arrays = fit.model.arrays
    return _of_rows(fit, arrays) if isinstance(arrays, Rows) else _of_gram(fit, arrays)


def _of_gram(fit: Fitted, gram: Gram) -> Surface:
    e, of = fit.estimates, quantities(fit, True)
    p = gram.structure.p
    x = np.concatenate([np.asarray(e.theta_scaled), np.zeros(gram.structure.profiles_sigma + (p > 0))])
    A = np.zeros((len(of.names), p))
    A[:p], A[p:] = of.T_X, of.T_X[0] if p else 0.0
    h = {"log_sigma2": 2 * np.log(fit.sigma), "beta": np.asarray(e.beta_scaled), "rows": of.rows}
    h["positions"] = of.positions
    work = gram.structure.solver.size(gram) * len(x)

    def call(asked):
        return _linear_program(asked, h, gram, of.shape, is_dear(gram))

    return Surface(of, x, np.zeros(0), _thetas(fit, 0), _in_blocks(call, work, A, of.usual, fit))


def _of_rows(fit: Fitted, rows: Rows) -> Surface:
    e, of, layout = fit.estimates, quantities(fit, False), rows.layout
    psi = np.asarray(e.psi)
    h = {
        "T_X": of.T_X,
        "beta": psi[layout.at("beta")],
        "rows": of.rows,
        "u": tuple(np.asarray(u) for u in e.u),
    }
    kept = np.concatenate([np.ravel(u) for u in h["u"]])
    work = (rows.y.size * e.n_agq + rows.structure.rest_size**2) * len(psi)

    def call(asked):
        return _generalised_program(asked, h, rows, of.shape, is_large(rows), e.n_agq)

    return Surface(
        of,
        psi,
        kept,
        _thetas(fit, layout.at("theta").start),
        _in_blocks(call, work, np.zeros((len(of.names), 0)), of.usual, fit),
    )


def _thetas(fit: Fitted, start: int) -> list[np.ndarray]:
    s, found = fit.model.structure, [[] for _ in fit.model.structure.widths]
    for term, at in zip(s.terms, s.slices(), strict=True):
        found[term.position] += range(start + at.start, start + at.stop)
    return [np.array(own, int) for own in found]


def _in_blocks(call: Callable, work: int, A: np.ndarray, usual: int, fit: Fitted) -> Callable:
    """``Surface.evaluate``; a block has as many points as may be computed together, the last filled with copies."""
    most = int(np.clip(costs.HESSIAN_AT_ONCE // max(work, 1), 1, costs.POINTS_AT_ONCE))

    def evaluate(waiting: Sequence[tuple[int, Asked]]) -> list[Point]:
        found: list[Point] = []
        width = min(most, 2 * usual)
        for start in range(0, len(waiting), width):
            block = waiting[start : start + width]
            k = [number for number, _ in block]
            asked = {
                "x": np.stack([q.x for _, q in block]),
                "c": np.array([q.c for _, q in block]),
                "kept": np.stack([q.kept for _, q in block]),
                "k": np.array(k, np.int32),
                "a": A[k],
            }
            filled = {name: np.concatenate([v, np.repeat(v[:1], width - len(k), 0)]) for name, v in asked.items()}
            with computing(fit.model.device):
                x, of_h, of_f, kept = jax.tree.map(np.asarray, call(filled))
            (h, dh, ddh), (f, g, H) = of_h, of_f
            parts = zip(x, map(float, h), map(float, f), g, H, dh, ddh, kept, strict=True)
            found += [Point(*part) for _, part in zip(block, parts, strict=False)]
        return found

    return evaluate
