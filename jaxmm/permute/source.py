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
    ``offset`` (nobs,) or None, of the places; ``start`` (V, m) where searches begin, or None."""

    r: np.ndarray
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None
    start: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.r)


class Rearranged(Responses):
    """``residuals`` rearranged by each of the ``moves``, all responses of a permutation by the same one."""

    trusted = True

    def __init__(self, residuals: Residuals, moves: Sequence[Move]):
        self.residuals, self.moves = residuals, moves
        self.n = len(residuals) * len(moves)
        own = {"weights": residuals.weights, "start": residuals.start}
        self.varies = frozenset({"y", *(name for name, x in own.items() if x is not None)})

    def block(self, first: int, size: int) -> Varying:
        """Replicates first .. first + size - 1."""
        V, stop = len(self.residuals), first + size
        parts = []
        for b in range(first // V, -(-stop // V)):
            rows = slice(max(first - b * V, 0), min(stop - b * V, V))
            parts.append(self._of(self.moves[b], rows))
        joined = [None if x[0] is None else np.concatenate(x) for x in zip(*parts, strict=True)]
        return Varying(joined[0], weights=joined[1], start=joined[2])

    def _of(self, move: Move, rows: slice) -> tuple[Any, Any, Any]:
        """y, weights and start of some responses in one permutation."""
        d = self.residuals
        y, w = d.r[rows], None if d.weights is None else d.weights[rows]
        if move.index is not None:
            y, w = y[:, move.index], None if w is None else w[:, move.index]
        if move.factor is not None:
            y = y * move.factor
        if d.offset is not None:
            y = y + d.offset
        return y, w, None if d.start is None else d.start[rows]

    def identity(self) -> dict[str, Any]:
        """Told by all of it."""
        moved = [x for move in self.moves for x in move if x is not None]
        return {"responses": "rearranged", "n": self.n, "of": fingerprint(self.residuals.r, *moved)}
