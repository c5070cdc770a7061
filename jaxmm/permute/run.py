"""The fits of a permutation test: of the null model once, of the full model to every permutation, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm import costs
from jaxmm.batch.engine import fit_many
from jaxmm.batch.progress import progress_bar
from jaxmm.design import DataError
from jaxmm.optimize import Status
from jaxmm.permute import statistics
from jaxmm.permute.inputs import Lanes
from jaxmm.permute.schemes import Move, Permutations
from jaxmm.permute.source import Rearranged, Residuals
from jaxmm.permute.statistics import Score
from jaxmm.permute.tally import Kept, Observed, Tally
from jaxmm.results.ahead import check_takes_files
from jaxmm.studies.hypotheses import without


class NullFits:
    """The model without the term, fitted to each response: ``status`` (V,), and what it leaves of those that could be
    fitted, in ``parts`` of one kind: which responses (U,), and their residuals."""

    def __init__(self, model: Any, columns: tuple[str, ...], lanes: Lanes, options: dict[str, Any]):
        d, less = model.design, without(model, columns)
        self.status = np.full(len(lanes.rows), Status.TOO_FEW_ROWS, np.int8)
        self.parts: list[tuple[np.ndarray, Residuals]] = []
        for which, weights in lanes.kinds():
            rows = lanes.rows[which]
            rows = rows if weights is None else np.where(weights > 0, rows, 0.0)
            fits = fit_many(less, Rearranged(Residuals(rows, weights), [Move()]), **options)
            self.status[which] = fits.status
            good = fits.converged
            if not good.any():
                continue
            r = rows[good] - fits.fixef[good] @ less.design.X.T - (0.0 if d.offset is None else d.offset)
            own = None if weights is None else weights[good]
            r = r if own is None else np.where(own > 0, r, 0.0)
            self.parts.append((which[good], Residuals(r, own, d.offset)))

    @property
    def usable(self) -> int:
        """How many could be fitted."""
        return sum(len(which) for which, _ in self.parts)


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
        if tally is not None and tally.done > n and kept is not None:
            raise ValueError(
                f"'{kept.path.parent}' holds {tally.done} permutations, and n = {n} is asked for: ask for "
                f"n = {tally.done} or more, or take another folder"
            )
        if tally is not None:
            tally = tally.longer(n)
        if tally is not None and tally.done >= n:
            return tally
        if kept is not None:
            check_takes_files(kept.path.parent)
        null = NullFits(self.model, self.columns, self.lanes, self.options)
        U = null.usable
        if not U:
            worst = Status(int(np.bincount(null.status).argmax()))
            raise DataError(f"none of the {len(null.status)} responses can be fitted: {worst.message}")
        size = -(-n // max(1, round(n * U / costs.PERMUTED_AT_ONCE)))
        with progress_bar(progress, n * U) as tick:
            tick(0 if tally is None else tally.done * U)
            while tally is None or tally.done < n:
                first = 0 if tally is None else tally.done
                count = min(size, n - first)
                maps, observed = self._block(null, first, count)
                if tally is None:
                    tally, maps = Tally.begin(maps[0], observed, self.score, n), maps[1:]
                tally.add(maps, self.score)
                tick(count * U)
                if kept is not None:
                    kept.write(tally)
        return tally

    def _block(self, null: NullFits, first: int, count: int) -> tuple[np.ndarray, Observed]:
        """t (count, V) of some permutations, and the estimates of the first of them."""
        moves, V = [self.moves[k] for k in range(first, first + count)], len(null.status)
        maps, status = np.full((count, V), np.nan), null.status.copy()
        estimate, se = (np.full((V, len(self.columns)), np.nan) for _ in range(2))
        for which, residuals in null.parts:
            lanes = Rearranged(residuals, moves)
            fits = fit_many(self.model, lanes, keep=statistics.kept(self.columns), **self.options)
            at, U = [fits.names.fixef.index(name) for name in self.columns], len(which)
            maps[:, which] = statistics.wald(fits, self.columns).reshape(count, U)
            estimate[which], se[which], status[which] = fits.fixef[:U, at], fits.bse[:U, at], fits.status[:U]
        return maps, Observed(estimate, se, status)


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
