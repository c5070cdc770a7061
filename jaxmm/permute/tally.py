"""Permutations, some at a time -> what is kept of them: a maximum each, and counts by response.

Memory does not grow with responses × permutations, and a file of it is rewritten whole after each block, so that a run
that was cut off goes on.  A score that reaches another to within ``TIE`` of it counts as reaching it: rounding differs
between lanes, and equal arrangements must count as equal.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxmm.permute.statistics import Score
from jaxmm.results import files
from jaxmm.results.shards import Shard, at_work

TIE = 1e-6
FILE = "permutations.npz"
_ARRAYS = ("t", "scores", "null", "reached", "counted", "stepped", "done")


class Observed(NamedTuple):
    """The data as they are: ``estimate`` and ``se`` (V, k) of the columns tested, ``status`` (V,)."""

    estimate: np.ndarray
    se: np.ndarray
    status: np.ndarray


@dataclass
class Tally:
    """Of V responses and ``null.size`` permutations, of which ``done`` are in it.

    ``t`` (V,) is that of ``observed``, with its ``scores``; ``null`` (n,) the largest score of each permutation, NaN
    where none could be computed; ``reached`` (V,) how many permutations had a |t| of at least the observed, of
    ``counted`` (V,) that could be fitted; ``stepped`` (V,) how many reached it among the responses with scores no
    larger than it.
    """

    observed: Observed
    t: np.ndarray
    scores: np.ndarray
    null: np.ndarray
    reached: np.ndarray
    counted: np.ndarray
    stepped: np.ndarray
    done: int = 0
    order: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        self.order = np.argsort(np.where(np.isnan(self.scores), -np.inf, self.scores), kind="stable")

    @classmethod
    def begin(cls, t: np.ndarray, observed: Observed, score: Score, n: int) -> Tally:
        """With the data as they are, permutation 0, in it."""
        scores = score.scores(t)
        known = (~np.isnan(t)).astype(np.int64)
        null = np.full(n, np.nan)
        null[0] = _largest(scores)
        return cls(observed, t, scores, null, known.copy(), known.copy(), known.copy(), 1)

    def add(self, maps: np.ndarray, score: Score) -> None:
        """Further permutations, maps (B, V)."""
        size = np.abs(self.t)
        least, bar = size - TIE * size, self.scores - TIE * self.scores
        for t in np.where(np.isnan(self.t), np.nan, maps):  # the family is of those that could be fitted as observed
            scores = score.scores(t)
            with np.errstate(invalid="ignore"):
                self.reached += np.abs(t) >= least
                self.counted += ~np.isnan(t)
                running = np.maximum.accumulate(np.where(np.isnan(scores), -np.inf, scores)[self.order])
                self.stepped[self.order] += running >= bar[self.order]
            self.null[self.done] = _largest(scores)
            self.done += 1

    @property
    def failed(self) -> int:
        """How many fits of permuted responses, of those that could be fitted as observed, gave no statistic."""
        return int(np.sum(self.done - self.counted[~np.isnan(self.t)]))

    def longer(self, n: int) -> Tally:
        """With room for n permutations, or as it is where it has more."""
        more = np.full(max(0, n - len(self.null)), np.nan)
        return replace(self, null=np.concatenate([self.null, more]))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name."""
        own = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        return own | self.observed._asdict()

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Tally:
        """As ``arrays`` gave them."""
        own: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        return cls(Observed(*(arrays[name] for name in Observed._fields)), **{**own, "done": int(own["done"])})

    @property
    def p(self) -> np.ndarray:
        """(V,) of each response by itself."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.counted > 0, self.reached / self.counted, np.nan)

    def p_fwe(self, step_down: bool) -> np.ndarray:
        """(V,) family-wise, in one step or step-down (Westfall & Young 1993, algorithm 2.8)."""
        n = self.done
        if step_down:
            p = np.full(len(self.t), np.nan)
            p[self.order[::-1]] = np.maximum.accumulate(self.stepped[self.order[::-1]] / n)
        else:
            ranked = np.sort(np.where(np.isnan(self.null[:n]), -np.inf, self.null[:n]))
            p = (n - np.searchsorted(ranked, self.scores - TIE * self.scores, side="left")) / n
        return np.where(np.isnan(self.t), np.nan, p)


def _largest(scores: np.ndarray) -> float:
    known = scores[~np.isnan(scores)]
    return float(known.max()) if len(known) else np.nan


# ---------------------------------------------------------------- a file of it
def _is_ours(name: str) -> bool:
    return name in (FILE, ".lock") or files.is_temporary(name)


class Kept:
    """A folder in which a tally, and what was observed, outlives the process.

    Raises:
        ValueError: the folder holds other files, or another test; nothing is touched.
        NotADirectoryError: the path is a file.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"'{folder}' is a file: a test needs a folder of its own")
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.identity = folder / FILE, json.loads(json.dumps(identity))
        others = sorted(p.name for p in folder.iterdir() if not _is_ours(p.name))
        if others and not self.path.exists():
            raise ValueError(f"'{folder}' is not empty ({others[0]}): choose a new or an empty folder for a test")
        files.remove_leftovers(folder)

    def at_work(self) -> AbstractContextManager[None]:
        """Holds the folder while a test writes to it, as ``shards.at_work``."""
        return at_work(self.path.parent, Shard())

    def read(self) -> Tally | None:
        """As written last; None where nothing was."""
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            there = json.loads(str(arrays.pop("identity")))
            tally = Tally.of_arrays(arrays)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"'{self.path}' is damaged, or none of a permutation test: remove it") from error
        for name, own in self.identity.items():
            if there.get(name) != own:
                raise ValueError(
                    f"'{self.path.parent}' holds another test: {name} is {there.get(name)!r} there and {own!r} now; "
                    "choose another folder, nothing was overwritten"
                )
        return tally

    def write(self, tally: Tally) -> None:
        own: dict[str, Any] = {**tally.arrays(), "identity": json.dumps(self.identity)}
        files.publish(self.path, lambda file: np.savez(file, **own), overwrite=True)
