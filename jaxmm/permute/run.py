"""The fits of a permutation test: of the null model once, of the full model to every permutation, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm import costs
from jaxmm.batch.engine import fit_many
from jaxmm.design import DataError
from jaxmm.optimize import Status
from jaxmm.permute.inputs import Lanes
from jaxmm.permute.schemes import Move, Permutations
from jaxmm.permute.source import Rearranged, Residuals
from jaxmm.permute.statistics import Score, wald
from jaxmm.permute.tally import Kept, Tally
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
    """The fits of all permutations, in blocks; ``observed``: of the data as they are, a ``FitBatch`` of V."""

    def __init__(
        self, model: Any, columns: tuple[str, ...], null: NullFits, moves: Permutations, score: Score, options: dict
    ):
        self.model, self.columns, self.null, self.moves = model, columns, null, moves
        self.score, self.options = score, options
        self.responses = len(null.status)

    def all(self, kept: Kept | None, tick: Any) -> tuple[Tally, dict[str, np.ndarray]]:
        """The tally, and what was observed."""
        held = None if kept is None else kept.read()
        n, U = self.moves.n, len(self.null.usable)
        if held is None:
            tally, observed = None, {}
        else:
            observed = {name[1:]: x for name, x in held.items() if name.startswith("_")}
            tally = Tally.of_arrays({name: x for name, x in held.items() if not name.startswith("_")})
            tick(tally.done * U)
        if not U:
            return self._nothing()
        blocks = max(1, round(n * U / costs.PERMUTED_AT_ONCE))
        size = max(1, -(-n // blocks))
        first = 0 if tally is None else tally.done
        while first < n:
            count = min(size, n - first)
            maps, fits = self._block(first, count)
            if tally is None:
                observed = self._observed(fits)
                tally = Tally.begin(maps[0], self.score, n)
                maps = maps[1:]
            tally.add(maps, self.score)
            first += count
            tick(count * U)
            if kept is not None:
                kept.write({**tally.arrays(), **{f"_{name}": x for name, x in observed.items()}})
        assert tally is not None
        return tally, observed

    def _block(self, first: int, count: int) -> tuple[np.ndarray, FitBatch]:
        """t (count, V) of some permutations, and their fits."""
        moves = [self.moves[k] for k in range(first, first + count)]
        fits = fit_many(self.model, Rearranged(self.null.residuals, moves), **self.options)
        maps = np.full((count, self.responses), np.nan)
        maps[:, self.null.usable] = wald(fits, self.columns)[2].reshape(count, -1)
        return maps, fits

    def _observed(self, fits: FitBatch) -> dict[str, np.ndarray]:
        """Estimates and standard errors (V, k) and the status (V,)."""
        U = len(self.null.usable)
        own = fits.take(slice(0, U))
        estimate, se, _ = wald(own, self.columns)
        status = np.array(self.null.status)
        status[self.null.usable] = own.status
        whole = {name: np.full((self.responses, len(self.columns)), np.nan) for name in ("estimate", "se")}
        whole["estimate"][self.null.usable], whole["se"][self.null.usable] = estimate, se
        return {**whole, "status": status}

    def _nothing(self) -> tuple[Tally, dict[str, np.ndarray]]:
        """Raises DataError: no response can be fitted."""
        worst = Status(int(np.bincount(self.null.status).argmax()))
        raise DataError(f"none of the {self.responses} responses can be fitted: {worst.message}")

    def notes(self, tally: Tally) -> tuple[str, ...]:
        """Sentences for the reader."""
        notes = []
        lost = self.responses - int(np.sum(~np.isnan(tally.t)))
        if lost:
            notes.append(f"{lost} of {self.responses} responses could not be fitted, and are not in the family")
        failed = tally.failed
        if failed:
            share = failed / (tally.done * max(1, self.responses - lost))
            notes.append(
                f"{failed:,} fits of permuted responses failed ({share:.2%}): they are left out of the maximum of "
                "their permutation"
            )
        return tuple(notes)
