"""A linear model with one grouping factor, many responses: Newton's method with the closed forms of ``blocks``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.batch.blocks import BlockData, Blocks, block_data, evaluate
from jaxmm.batch.lanes import Lanes, Value
from jaxmm.batch.linear_lanes import linear_found, linear_outcome, nothing_linear, refuse
from jaxmm.batch.problem import Found
from jaxmm.batch.statistics import ResponseMap, statistics
from jaxmm.gram import Gram
from jaxmm.solver.spd import UNROLLED


@partial(jax.tree_util.register_dataclass, data_fields=["gram", "by", "harmless", "blocks"], meta_fields=[])
@dataclass(frozen=True)
class LinearBlocks:
    """As ``LinearLanes``, and what of its ``gram`` all lanes share, in ``blocks``."""

    gram: Gram
    by: ResponseMap
    harmless: Array
    blocks: Blocks
    polished = False
    temporaries = 4

    @property
    def library(self) -> frozenset[str]:
        large = self.gram.structure.p > UNROLLED
        return frozenset({"start", "evaluate"} if large else {"start"})

    @property
    def rows_of_theta(self) -> list:
        return self.gram.structure.variance_rows()

    def data(self, y: Array, copies: Array | None) -> BlockData:
        return block_data(statistics(y, self.by), self.blocks)

    def refuse(self, y: Array) -> Array:
        return refuse(y, self.by)

    def start(self, data: BlockData) -> Array:
        """Moments: the whitened columns of y have the variance 1 + k'Dk over sigma², on average over levels."""
        s, K = self.gram.structure, self.blocks.K
        q = len(K)
        counts = self.blocks.counts + 0.0
        levels = jnp.sum(counts)
        square = jnp.sum(K * K, axis=0)  # (q, R): of each direction
        seen = jnp.sum(data.b**2, axis=(0, 1))
        if data.rest is not None:
            seen = seen + jnp.sum(data.rest**2, axis=(0, 1, 2))
        rank = jnp.sum(jnp.where(self.blocks.others > 0, self.blocks.others * self.blocks.rank, 0.0)) + jnp.sum(
            self.blocks.rank
        )
        sigma2 = jnp.maximum(data.yy / jnp.maximum(self.blocks.df, 1.0), 1e-30)
        excess = jnp.maximum(seen / sigma2 - rank, 0.0)
        weight = jnp.sum(jnp.sum(square, axis=0) * counts) / levels
        sd = jnp.clip(jnp.sqrt(excess / levels / jnp.maximum(weight, 1e-300)), 0.05, 20.0)
        eye: list[Any] = [t.covariance.from_factor(jnp.eye(t.covariance.q), jnp) for t in s.terms]
        return jnp.concatenate(eye)[:, None] * sd

    def prepare(self, theta: Array, data: BlockData) -> Any:
        return nothing_linear(self.gram.structure, data.yy)

    def guess(self, theta: Array) -> Array:
        return jnp.zeros((len(theta), *theta.shape), theta.dtype)

    def evaluate(self, theta: Array, data: BlockData, kept: Any) -> Value:
        at = evaluate(theta, data, self.blocks, self.gram)
        beta, sigma2, M_inverse = at.kept
        return at._replace(kept=(beta + data.beta0, sigma2, M_inverse))

    def outcome(self, s: Lanes, data: Any) -> Any:
        return linear_outcome(s)

    def found(self, outcome: Any) -> Found:
        return linear_found(outcome, self.gram)
