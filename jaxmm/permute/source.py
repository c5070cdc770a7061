"""Rearranged residuals of many responses as lanes: replicate b V + v is permutation b of response v."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm.permute.schemes import Move
from jaxmm.sources.responses import Responses, Varying, fingerprint


@dataclass(frozen=True)
class Residuals:
    """Of V responses: ``r`` (V, nobs), zero where a row is missing; ``weights`` (V, nobs) or None, zero there;
    ``offset`` (nobs,) or None, of the places."""

    r: np.ndarray
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.r)


class Rearranged(Responses):
    """``residuals`` rearranged by each of the ``moves``, all responses of a permutation by the same one.

    Searches begin at moments of what is fitted: from the null model's variances they take half a step more.
    """

    trusted = of_many = True

    def __init__(self, residuals: Residuals, moves: Sequence[Move]):
        self.residuals, self.moves = residuals, moves
        self.n = len(residuals) * len(moves)
        self.varies = frozenset({"y"} if residuals.weights is None else {"y", "weights"})

    def block(self, first: int, size: int) -> Varying:
        """Replicates first .. first + size - 1."""
        V, stop, y, weights = len(self.residuals), first + size, [], []
        for b in range(first // V, -(-stop // V)):
            rows = slice(max(first - b * V, 0), min(stop - b * V, V))
            y.append(self._y(self.moves[b], rows))
            weights.append(self._weights(self.moves[b], rows))
        own = None if self.residuals.weights is None else np.concatenate(weights)
        return Varying(np.concatenate(y), weights=own)

    def _y(self, move: Move, rows: slice) -> np.ndarray:
        """Some responses in one permutation."""
        y, offset = self.residuals.r[rows], self.residuals.offset
        y = y if move.index is None else y[:, move.index]
        y = y if move.factor is None else y * move.factor
        return y if offset is None else y + offset

    def _weights(self, move: Move, rows: slice) -> np.ndarray | None:
        w = self.residuals.weights
        return w if w is None else w[rows] if move.index is None else w[rows][:, move.index]

    def identity(self) -> dict[str, Any]:
        """Told by all of it."""
        moved = [x for move in self.moves for x in move if x is not None]
        return {"responses": "rearranged", "n": self.n, "of": fingerprint(self.residuals.r, *moved)}
