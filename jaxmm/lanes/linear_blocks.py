"""A linear model with one grouping factor, many responses: Newton's method with the closed forms of ``closed_form``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.lanes.advance import Lanes, Value
from jaxmm.lanes.closed_form import BlockData, Blocks, block_data, evaluate
from jaxmm.lanes.entrywise import dot
from jaxmm.lanes.linear_lanes import (
    doubtful_linear,
    further_linear,
    linear_found,
    linear_outcome,
    nothing_linear,
    refuse,
    residual_linear,
)
from jaxmm.lanes.moments import theta_near
from jaxmm.lanes.problem import Found
from jaxmm.lanes.statistics import ResponseMap, statistics
from jaxmm.sources.responses import Varying
from jaxmm.start import error_variance


@partial(jax.tree_util.register_dataclass, data_fields=["gram", "by", "harmless", "blocks"], meta_fields=[])
@dataclass(frozen=True)
class LinearBlocks:
    """As ``LinearLanes``, and what of its ``gram`` all lanes share, in ``blocks``."""

    gram: Gram
    by: ResponseMap
    harmless: Array
    blocks: Blocks
    accepts = frozenset({"y", "statistics", "offset"})
    takes_any = True
    forgiving = False
    polished = False
    steady = 0.0
    temporaries = 4

    @property
    def library(self) -> frozenset[str]:
        large = self.gram.structure.p > costs.UNROLLED_ROOT
        return frozenset({"start", "evaluate"} if large else ())

    @property
    def rows_of_theta(self) -> list:
        return self.gram.structure.variance_rows()

    def data(self, own: Varying) -> BlockData:
        if own.statistics is not None:
            return own.statistics.data(self.blocks)
        return block_data(statistics(own.y, self.by, offset=own.offset), self.blocks)

    def refuse(self, own: Varying) -> Array:
        return refuse(own, self.by)

    def start(self, data: BlockData) -> Array:
        """Joint moments, as ``start.joint_start``."""
        shared, q = self.blocks, len(self.blocks.K)
        n, L = self.gram.n_obs, data.yy.shape[-1]
        columns = [data.b] if data.rest is None else [data.b, *(data.rest[:, k] for k in range(q))]
        total = jnp.maximum(data.yy + sum(jnp.sum(y * y, axis=(0, 1)) for y in columns), 1e-300)
        sigma2 = error_variance(data.yy, total, n, shared.moments.df, jnp)
        S = jnp.zeros((q, q, L))
        for y in columns:
            h = [dot([w[:, None] for w in row], list(y)) for row in shared.weigh]
            S = S + jnp.stack([jnp.stack([jnp.sum(a * b, axis=0) for b in h]) for a in h])
        left = (S / sigma2 - shared.moments.noise[:, :, None]).reshape(q * q, L)
        D = jnp.einsum("ij,jl->il", shared.moments.solve, left, precision="highest").reshape(q, q, L)
        return theta_near(D, self.gram)

    def prepare(self, theta: Array, data: BlockData) -> Any:
        return nothing_linear(self.gram.structure, data.yy)

    def guess(self, theta: Array) -> Array:
        return jnp.zeros((len(theta), *theta.shape), theta.dtype)

    def evaluate(self, theta: Array, data: BlockData, kept: Any) -> Value:
        at = evaluate(theta, data, self.blocks.systems(self.gram), self.gram, self.blocks.cells)
        beta, sigma2, M_inverse = at.kept
        return at._replace(kept=(beta + data.beta0, sigma2, M_inverse))

    def doubtful(self, s: Lanes) -> Array:
        return doubtful_linear(s, self.gram)

    def again(self, s: Lanes) -> tuple[Array, Any, Array]:
        theta, number = further_linear(s, self.gram)
        return theta, s.kept, number

    def outcome(self, s: Lanes, data: Any) -> Any:
        return linear_outcome(s)

    def found(self, outcome: Any) -> Found:
        return linear_found(outcome, self.gram)

    def residual(self, data: BlockData) -> Any:
        return residual_linear(self.gram.structure, self.gram.n_obs)
