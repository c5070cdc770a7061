"""A linear model of any structure, many responses: the profiled deviance and its gradient, lane by lane by ``vmap``.

The Hessian would cost ten times as much as the gradient: it is learnt from the gradients, beginning with the expected
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.design.checks import REPRODUCED
from jaxmm.estimate import ZERO
from jaxmm.gram import Gram
from jaxmm.lanes.advance import LAST, Lanes, Value
from jaxmm.lanes.collapse import Alike
from jaxmm.lanes.problem import Found, original_theta
from jaxmm.lanes.statistics import ResponseMap, Statistics, counted, gram_of, resampled, statistics, without_offset
from jaxmm.lanes.systems import is_aliased
from jaxmm.objective.lmm import profile
from jaxmm.objective.parameters import resolved
from jaxmm.optimize import Status
from jaxmm.solver import level_counts
from jaxmm.sources.responses import Varying
from jaxmm.start import (
    NEAR_ZERO,
    SECOND_SD,
    alike_theta,
    has_few_levels,
    independent_theta,
    is_restricted,
    moment_start,
    on_boundary,
)
from jaxmm.structure import Structure

TINY = 1e-250  # a sum of squares below it has lost digits, and so has all that is computed from it


def refuse(own: Varying, by: ResponseMap) -> Array:
    """Responses y (n, L) that are not finite, whose squares leave the range of numbers, or that have nothing for random
    effects and error to explain: constant ones, whatever the offset, and those of ``checks.check_left``.  Rows that do
    not count are not looked at."""
    rows = None if own.copies is None else own.copies[by.outer]
    if by.W is not None:
        rows = (by.W > 0)[:, None] * (jnp.ones_like(own.y) if rows is None else rows)
    e = without_offset(own.y, by, own.offset)
    e, there = counted(e, rows), jnp.ones(e.shape, bool) if rows is None else rows > 0
    left = e
    for _ in range(2 if len(by.X) else 0):
        left = counted(left - by.X.T @ (by.project @ left), rows)
    status = left_status(e, left)
    highest, lowest = jnp.where(there, own.y, -jnp.inf), jnp.where(there, own.y, jnp.inf)
    same = jnp.max(highest, axis=0) <= jnp.min(lowest, axis=0)
    status = jnp.where(same, Status.NO_VARIATION, status)
    return jnp.where(jnp.all(jnp.isfinite(e), axis=0), status, Status.INVALID).astype(jnp.int32)


def left_status(e: Array, left: Array) -> Array:
    """Of responses less the offset (.., L) and what fixed effects leave of them."""
    rows = tuple(range(e.ndim - 1))
    size = jnp.sum(e * e, axis=rows)
    status = jnp.where(jnp.sum(left * left, axis=rows) <= REPRODUCED * size, Status.NO_VARIATION, -1)
    lost = jnp.isinf(size) | ((size < TINY) & jnp.any(e != 0, axis=rows))
    return jnp.where(lost, Status.NOT_FINITE, status)


def too_few(count: Array, levels: list[Array], s: Structure, aliased: Any, p: int, has_error: bool = True) -> Array:
    """(L,) which lanes with ``count`` rows, in so many ``levels`` of each factor, leave effects and error that cannot
    be told apart, as ``checks`` has it.

    Of ``p`` columns, where these are ``aliased`` (L,), some will be left out.  Without an error, or another scale, or
    where errors are known, a factor may have a level for each row.
    """
    bad = (count <= p) & ~jnp.asarray(aliased)
    for f, J in enumerate(levels):
        own = [t.covariance for t in s.terms if t.position == f]
        if any(c.num_params >= c.q for c in own):
            bad = bad | (J < 2)
        effects = [c.rank for c in own if c.closed_under == "linear"]
        if has_error and not s.knows_sigma:
            bad = bad | (J * max(effects, default=1) >= count)
    return bad


def doubtful_linear(s: Lanes, gram: Gram, few: Array | None = None) -> Array:
    """(L,) as in ``estimate.estimate_on_host``; ``few`` (L,) where lanes differ in whether their levels are few."""
    if few is None and not (has_few_levels(gram) or is_restricted(gram.structure)):
        return jnp.zeros(s.status.shape, bool)
    doubt = (s.status != Status.NOT_FINITE) & (s.round < LAST)
    return doubt if few is None or is_restricted(gram.structure) else doubt & few


def further_linear(s: Lanes, gram: Gram, few: Array | None = None) -> tuple[Array, Array]:
    """theta (m, L) of the starts there, and the number of the search: with few levels from large effects where the
    first has ended at the boundary, and then from small ones; at last, of a restricted structure, from effects that are
    alike."""
    restricted = is_restricted(gram.structure)
    few = jnp.asarray(has_few_levels(gram)) if few is None else few
    inside, small = (independent_theta(gram, sd, jnp)[:, None] for sd in (SECOND_SD, NEAR_ZERO))
    large = (s.round == 0) & on_boundary(s.theta, gram, jnp)
    theta, number = jnp.where(large, inside, small), jnp.where(large, 1, 2 if restricted else LAST)
    if restricted:
        at_last = (s.round == 2) | ~few
        theta, number = jnp.where(at_last, alike_theta(gram, jnp)[:, None], theta), jnp.where(at_last, LAST, number)
    return theta.astype(s.theta.dtype), number.astype(s.round.dtype)


def linear_outcome(s: Lanes) -> Any:
    return s.theta, s.value, s.kept, s.status


def linear_found(outcome: Any, gram: Gram, T_X: Array | None = None, T: tuple[Array, ...] | None = None) -> Found:
    """From theta as to Z_s and what is kept: beta (with beta0), sigma² and M_X^-1.  ``T_X`` (p, p, L), and ``T`` (q, q,
    L) of each factor, where the lanes have changes of columns of their own."""
    theta, value, (beta, sigma2, M_inverse), status = outcome
    s = gram.structure
    theta, lams = original_theta(jnp.where(jnp.abs(theta) < ZERO, 0.0, theta), gram, T)
    T_X = jnp.asarray(gram.T_X)[:, :, None] if T_X is None else T_X
    half = jnp.sum(T_X[:, :, None] * M_inverse[None], axis=1)  # (p, p, L)
    vcov = jnp.sum(half[:, None] * T_X[None], axis=2)
    sigma = jnp.sqrt(sigma2)
    variance = jnp.sum(half * T_X, axis=1) if s.p else beta
    return Found(
        beta=jnp.sum(T_X * beta[None], axis=1),
        bse=sigma * jnp.sqrt(variance),
        theta=theta,
        lams=tuple(sigma * lam for lam in lams),
        phi=sigma2,
        deviance=value,
        status=status,
        vcov=sigma2 * vcov,
    )


def residual_linear(s: Any, n_obs: Any) -> Any:
    """What r² is divided by for σ²."""
    return n_obs - (s.p if s.reml else 0)


def nothing_linear(s: Any, like: Array) -> Any:
    """Beta, sigma² and M_X^-1 before the first evaluation; ``like`` (L,)."""
    return jnp.zeros((s.p, *like.shape), like.dtype), like * 0, jnp.zeros((s.p, s.p, *like.shape), like.dtype)


def evaluate_lanes(theta: Array, data: Any, lane: Callable[[Any], Gram]) -> Value:
    """The profiled deviance of each lane at theta (m, L), and its gradient; kept: beta, sigma² and M_X^-1."""

    def one(t, own):
        gram = lane(own)

        def criterion(x):
            at = profile(*resolved(x, gram))
            return at.deviance, at

        (value, at), g = jax.value_and_grad(criterion, has_aux=True)(t)
        s = gram.structure
        df = residual_linear(s, gram.n_obs)
        return value, g, (at.beta + gram.beta0, at.pwrss / df, jnp.linalg.inv(at.M_X))

    value, g, kept = jax.vmap(one, -1, -1)(theta, data)
    return Value(value, g, None, kept)


@partial(jax.tree_util.register_dataclass, data_fields=["gram", "by", "harmless", "hessian", "alike"], meta_fields=[])
@dataclass(frozen=True)
class LinearLanes:
    """``gram`` of the model, whose response does not matter; ``hessian`` (m, m), the first guess; ``harmless`` (n,), a
    response to stand where there is no usable one; ``alike`` the same with fewer levels, or None."""

    gram: Gram
    by: ResponseMap
    harmless: Array
    hessian: Array
    alike: Alike | None
    accepts = frozenset({"y", "copies", "offset"})
    takes_any = True
    forgiving = False
    library = frozenset({"start", "evaluate"})
    polished = False
    steady = 0.0

    @property
    def temporaries(self) -> int:
        """Beside the levels, the dense part and what it is made of."""
        s, gram = self.gram.structure, self.searched
        own = s.p + s.rest_size + sum(q * J for q, J in zip(s.chain, level_counts(gram), strict=False))
        return costs.LANE_TEMPORARIES + costs.DENSE_TEMPORARIES * s.rest_size**2 // own

    @property
    def rows_of_theta(self) -> list:
        return self.gram.structure.variance_rows()

    def data(self, own: Varying) -> Statistics:
        made = statistics(own.y, self.by, own.copies, own.offset)
        return made if self.alike is None else made._replace(z=(self.alike.columns(made.z[0]), *made.z[1:]))

    @property
    def searched(self) -> Gram:
        """What the search works with."""
        return self.gram if self.alike is None else self.alike.gram

    def refuse(self, own: Varying) -> Array:
        status = refuse(own, self.by)
        if own.copies is None:
            return status
        s, r = self.gram.structure, resampled(own.copies, self.by)
        bad = too_few(r.n_obs, [jnp.sum(x, axis=0) for x in r.copies], s, False, s.p)
        if s.p:
            status = jnp.where((status < 0) & is_aliased(r.XX), Status.ALIASED, status)
        return jnp.where((status != Status.INVALID) & bad, Status.TOO_FEW_ROWS, status).astype(jnp.int32)

    def start(self, data: Statistics) -> Array:
        return jax.vmap(lambda own: moment_start(gram_of(self.searched, own), jnp), -1, -1)(data)

    def prepare(self, theta: Array, data: Statistics) -> Any:
        return nothing_linear(self.gram.structure, data.yy)

    def guess(self, theta: Array) -> Array:
        return jnp.broadcast_to(self.hessian[:, :, None], (*self.hessian.shape, theta.shape[-1]))

    def evaluate(self, theta: Array, data: Statistics, kept: Any) -> Value:
        return evaluate_lanes(theta, data, lambda own: gram_of(self.searched, own))

    def doubtful(self, s: Lanes) -> Array:
        return doubtful_linear(s, self.gram)

    def again(self, s: Lanes) -> tuple[Array, Any, Array]:
        theta, number = further_linear(s, self.gram)
        return theta, s.kept, number

    def outcome(self, s: Lanes, data: Any) -> Any:
        return linear_outcome(s)

    def found(self, outcome: Any) -> Found:
        return linear_found(outcome, self.gram)

    def residual(self, data: Statistics) -> Any:
        own = data.resampled
        return residual_linear(self.gram.structure, self.gram.n_obs if own is None else own.n_obs)
