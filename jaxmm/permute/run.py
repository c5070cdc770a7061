"""The fits of a permutation test: of the null model once, of the full model to every permutation, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm import costs
from jaxmm.batch.engine import fit_many, progress_bar
from jaxmm.design import DataError
from jaxmm.optimize import Status
from jaxmm.permute.inputs import Lanes
from jaxmm.permute.schemes import Move, Permutations
from jaxmm.permute.source import Rearranged, Residuals
from jaxmm.permute.statistics import Score, wald
from jaxmm.permute.tally import Kept, Observed, Tally
from jaxmm.results.result import FitBatch
from jaxmm.studies.hypotheses import without


class NullFits:
    """The model without the term, fitted to each response: ``usable`` (U,) those that could be, and what they leave;
    ``status`` (V,)."""

    def __init__(self, model: Any, columns: tuple[str, ...], lanes: Lanes, options: dict[str, Any]):
        d, less = model.design, without(model, columns)
        gone = np.isnan(lanes.rows)
        some = ~np.all(gone, axis=1, keepdims=True)  # of the others there is nothing to fit
        rows = np.where(gone & some, 0.0, lanes.rows)
        fits = fit_many(less, Rearranged(Residuals(rows, lanes.weights), [Move()]), **options)
        self.status, self.usable = fits.status, np.flatnonzero(fits.converged)
        fitted = fits.fixef[self.usable] @ less.design.X.T + (0.0 if d.offset is None else d.offset)
        own = None if lanes.weights is None else lanes.weights[self.usable]
        r = rows[self.usable] - fitted
        r = r if own is None else np.where(own > 0, r, 0.0)
        self.residuals = Residuals(r, own, d.offset)


class Run:
    """The fits of all permutations, in blocks."""

    def __init__(
        self,
        model: Any,
        columns: tuple[str, ...],
        lanes: Lanes,
        moves: Permutations,
        score: Score,
        options: dict[str, Any],
    ):
        self.model, self.columns, self.lanes, self.moves = model, columns, lanes, moves
        self.score, self.options = score, options

    def all(self, kept: Kept | None, progress: bool) -> Tally:
        """Of all permutations; those that were kept are not made again."""
        tally, n = None if kept is None else kept.read(), self.moves.n
        if tally is not None:
            tally = tally.longer(n)
        if tally is not None and tally.done >= n:
            return tally
        null = NullFits(self.model, self.columns, self.lanes, self.options)
        U = len(null.usable)
        if not U:
            worst = Status(int(np.bincount(null.status).argmax()))
            raise DataError(f"none of the {len(null.status)} responses can be fitted: {worst.message}")
        size = -(-n // max(1, round(n * U / costs.PERMUTED_AT_ONCE)))
        with progress_bar(progress, n * U) as tick:
            tick(0 if tally is None else tally.done * U)
            while tally is None or tally.done < n:
                first = 0 if tally is None else tally.done
                count = min(size, n - first)
                fits = self._fits(null, first, count)
                maps = np.full((count, len(null.status)), np.nan)
                maps[:, null.usable] = wald(fits, self.columns).reshape(count, -1)
                if tally is None:
                    tally, maps = Tally.begin(maps[0], self._observed(null, fits), self.score, n), maps[1:]
                tally.add(maps, self.score)
                tick(count * U)
                if kept is not None:
                    kept.write(tally)
        return tally

    def _fits(self, null: NullFits, first: int, count: int) -> FitBatch:
        moves = [self.moves[k] for k in range(first, first + count)]
        return fit_many(self.model, Rearranged(null.residuals, moves), **self.options)

    def _observed(self, null: NullFits, fits: FitBatch) -> Observed:
        """Of the data as they are, which come first among the fits."""
        own = fits.take(slice(0, len(null.usable)))
        at = [own.names.fixef.index(name) for name in self.columns]
        estimate, se = (np.full((len(null.status), len(at)), np.nan) for _ in range(2))
        estimate[null.usable], se[null.usable] = own.fixef[:, at], own.bse[:, at]
        status = np.array(null.status)
        status[null.usable] = own.status
        return Observed(estimate, se, status)


def remarks(tally: Tally) -> tuple[str, ...]:
    """Sentences for the reader."""
    notes: list[str] = []
    lost = int(np.sum(np.isnan(tally.t)))
    if lost:
        notes.append(f"{lost} of {len(tally.t)} responses could not be fitted, and are not in the family")
    failed = tally.failed
    if failed:
        share = failed / (tally.done * max(1, len(tally.t) - lost))
        notes.append(
            f"{failed:,} fits of permuted responses failed ({share:.2%}): they are left out of the maximum of "
            "their permutation"
        )
    return tuple(notes)
