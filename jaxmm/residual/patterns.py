"""The times at which each subject was seen -> the few patterns of them, and C of each pattern.

A subject stands here for a level of the factor within which errors are correlated.  Its rows have slots 0 .. H - 1:

    aligned   the slot is the time, one of few; a subject without a row at a time has a gap there
    else      the rows of a subject in the order of their times, and then gaps

Subjects with rows at the same times, and the same set of parameters, share a *pattern*, and C (H, H, K) is made and
factored for each of the K patterns only.  Where a slot is a gap C has a one on its diagonal, and zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._runs import ranks
from jaxmm._types import Array
from jaxmm.structure import ResidualLayout

ALIGNED = 2  # times as many slots as the longest subject has rows, at most: then slots are times


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["there", "place", "sets", "positions", "pattern"],
    meta_fields=["layout"],
)
@dataclass(frozen=True)
class Patterns:
    """``there`` (H, K): 1 where a pattern has a row in the slot, else 0; ``place`` (H, K) which time that is, None
    where slots are times; ``sets`` (G, K): 1 for the set of parameters that it has; ``pattern`` (P,) of each subject;
    ``positions``: what the structure knows of the times, (T, ..), or of each slot (H, .., K), or None.
    """

    there: Array
    place: Array | None
    sets: Array
    positions: Any
    pattern: Array
    layout: ResidualLayout = field(metadata={"static": True})

    def covariances(self, thetas: list[Array]) -> Array:
        """C (H, H, K, ..), from theta (m, ..) of each set."""
        axes = tuple(range(-(thetas[0].ndim - 1), 0))
        there, sets = (jnp.expand_dims(x, axes) for x in (self.there, self.sets))
        C = sum(own * self._of_set(theta) for own, theta in zip(sets, thetas, strict=True))
        gaps = jnp.eye(len(there), dtype=there.dtype).reshape(*2 * [len(there)], *(there.ndim - 1) * [1]) * (1 - there)
        return jnp.asarray(C) * there[:, None] * there[None] + gaps

    def _of_set(self, theta: Array) -> Array:
        structure: Any = self.layout.covariance
        if self.place is None:
            return structure.covariance(theta, self.positions)[:, :, None]
        if structure.positional:
            return structure.covariance(theta if theta.ndim == 1 else theta[:, None], self.positions)
        return structure.covariance(theta, self.positions)[self.place[:, None], self.place[None]]

    def of_each(self, there: Array) -> Patterns:
        """A pattern for each subject, which has rows in the slots ``there`` (H, P)."""
        at, place, positions = self.pattern, self.place, self.positions
        if place is not None and getattr(self.layout.covariance, "positional", False):
            positions = positions[..., at]
        place = None if place is None else place[:, at]
        return Patterns(1.0 * there, place, self.sets[:, at], positions, jnp.arange(len(at)), self.layout)


# ---------------------------------------------------------------- on the host
def rounded(count: int) -> int:
    """A number of patterns of at least this: at most a quarter more."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step


@dataclass(frozen=True)
class Subjects:
    """Rows laid out by subject: ``rows`` (H, P) the row in each slot, -1 for a gap; ``first`` (P,) some row of each."""

    rows: np.ndarray
    first: np.ndarray
    aligned: bool


def subjects(
    codes: np.ndarray,
    place: np.ndarray,
    times: int,
    order: np.ndarray | None = None,
    there: np.ndarray | None = None,
) -> Subjects:
    """From the subject (n,) and the time (n,) of each row, of T ``times``; subjects come in the ``order`` (P,) given.
    Rows that are not ``there`` (n,) leave gaps."""
    count = int(codes.max()) + 1
    sizes = np.bincount(codes, minlength=count)
    aligned = times <= ALIGNED * sizes.max()
    by = np.lexsort((place, codes))
    rows = np.full((times if aligned else int(sizes.max()), count), -1)
    real = slice(None) if there is None else there
    rows[(place if aligned else ranks(codes, by))[real], codes[real]] = np.arange(len(codes))[real]
    first = by[np.cumsum(sizes) - sizes]
    if order is not None:
        rows, first = rows[:, order], first[order]
    return Subjects(rows, first, aligned)


def number_of(there: Any, sets: Any) -> Any:
    """Which of ``every_pattern`` subjects have, (P, ..), whose rows are ``there`` (H, P, ..) and whose ``sets`` these
    are (P, ..): the times that are seen in pattern k of a set are the bits of k + 1.  -1 without any."""
    xp, H = np if isinstance(there, np.ndarray) else jnp, len(there)
    seen = xp.sum(there * (1 << np.arange(H)).reshape(H, *[1] * (there.ndim - 1)), axis=0)
    return xp.where(seen > 0, sets * (2**H - 1) + seen - 1, -1)


def every_pattern(
    laid: Subjects, positions: np.ndarray | None, sets: np.ndarray | None, layout: ResidualLayout
) -> Patterns:
    """All patterns that subjects can have whose slots are times, whichever of these are missing."""
    H = len(laid.rows)
    which, seen = np.divmod(np.arange(layout.sets * (2**H - 1)), 2**H - 1)
    there = (seen + 1) >> np.arange(H)[:, None] & 1
    own = np.zeros(laid.rows.shape[1], np.int64) if sets is None else sets[laid.first]
    return Patterns(
        there=np.asarray(there, float),  # pyright: ignore
        place=None,
        sets=np.asarray(which == np.arange(layout.sets)[:, None], float),  # pyright: ignore
        positions=positions,
        pattern=number_of(laid.rows >= 0, own).astype(np.int32),  # pyright: ignore
        layout=layout,
    )


def patterns(
    laid: Subjects, place: np.ndarray, positions: np.ndarray | None, sets: np.ndarray | None, layout: ResidualLayout
) -> Patterns:
    """Of ``subjects``; ``place`` (n,) the time of each row, ``positions`` (T, ..) of the times, ``sets`` (n,) the set
    of parameters of each row, the same for all of a subject, None for one."""
    own = np.where(laid.rows >= 0, place[laid.rows], -1)
    which = np.zeros(laid.rows.shape[1], int) if sets is None else sets[laid.first]
    found, pattern = np.unique(np.vstack([which, own]), axis=1, return_inverse=True)
    # data with nearly as many patterns share their programs: what fills up has a row nowhere
    found = np.pad(found, ((0, 0), (0, rounded(found.shape[1]) - found.shape[1])), constant_values=-1)
    found[0] = np.maximum(found[0], 0)
    seen, at = found[1:] >= 0, np.maximum(found[1:], 0)
    positional = bool(getattr(layout.covariance, "positional", False))
    if positions is not None and not laid.aligned and positional:
        positions = np.moveaxis(positions[at], 1, -1)
    return Patterns(
        there=np.asarray(seen, float),  # pyright: ignore
        place=None if laid.aligned else at.astype(np.int32),  # pyright: ignore
        sets=np.asarray(found[0] == np.arange(layout.sets)[:, None], float),  # pyright: ignore
        positions=positions,
        pattern=pattern.ravel().astype(np.int32),  # pyright: ignore
        layout=layout,
    )
