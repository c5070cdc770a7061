"""Levels in their order → the coefficients C (m, k) of named contrasts between their means, a row each.

    pairwise      a - b, a - c, b - c            revpairwise   b - a, c - a, c - b
    trt.vs.ctrl   each other level - ref         consec        b - a, c - b
    poly          linear, quadratic, ...: orthogonal polynomials in the level's number, in whole numbers
    eff           each level - the mean of all

A method of one's own is an entry in ``METHODS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from math import gcd, lcm
from typing import Any, NamedTuple

import numpy as np

POWERS = ("linear", "quadratic", "cubic", "quartic")
MOST_POWERS = 6
OPERATORS = frozenset("+-*/")


class Contrasts(NamedTuple):
    """``C`` (m, k); ``names`` with the sign that joins two levels; ``adjust``: how p-values are adjusted by default."""

    C: np.ndarray
    names: tuple[str, ...]
    adjust: str


def _joined(labels: Sequence[str], ratio: bool) -> Callable[[int, int], str]:
    sign = " / " if ratio else " - "
    shown = [f"({x})" if OPERATORS & set(x) else x for x in labels]
    return lambda i, j: f"{shown[i]}{sign}{shown[j]}"


def _differences(pairs: Sequence[tuple[int, int]], labels: Sequence[str], ratio: bool, adjust: str) -> Contrasts:
    C, name = np.zeros((len(pairs), len(labels))), _joined(labels, ratio)
    for row, (i, j) in enumerate(pairs):
        C[row, i], C[row, j] = 1.0, -1.0
    return Contrasts(C, tuple(name(i, j) for i, j in pairs), adjust)


def pairwise(labels: Sequence[str], ratio: bool, ref: Any) -> Contrasts:
    """Each level with each later one."""
    return _differences(list(combinations(range(len(labels)), 2)), labels, ratio, "tukey")


def revpairwise(labels: Sequence[str], ratio: bool, ref: Any) -> Contrasts:
    """Each level with each earlier one."""
    pairs = [(j, i) for j in range(len(labels)) for i in range(j)]
    return _differences(pairs, labels, ratio, "tukey")


def trt_vs_ctrl(labels: Sequence[str], ratio: bool, ref: Any) -> Contrasts:
    """Each level with that of reference, the first unless given."""
    r = reference_level(labels, ref)
    return _differences([(i, r) for i in range(len(labels)) if i != r], labels, ratio, "dunnett")


def consec(labels: Sequence[str], ratio: bool, ref: Any) -> Contrasts:
    """Each level with the one before it."""
    return _differences([(i, i - 1) for i in range(1, len(labels))], labels, ratio, "mvt")


def eff(labels: Sequence[str], ratio: bool, ref: Any) -> Contrasts:
    """Each level with the mean of all."""
    k = len(labels)
    return Contrasts(np.eye(k) - 1 / k, tuple(f"{x} effect" for x in labels), "fdr")


def poly(labels: Sequence[str], ratio: bool, ref: Any) -> Contrasts:
    """Powers of the level's number, each orthogonal to those before it: the smallest whole numbers."""
    k = len(labels)
    basis: list[list[Fraction]] = [[Fraction(1)] * k]
    for degree in range(1, min(k - 1, MOST_POWERS) + 1):
        v = [Fraction(i) ** degree for i in range(k)]
        for b in basis:
            share = sum((x * y for x, y in zip(v, b, strict=True)), Fraction(0)) / sum((y * y for y in b), Fraction(0))
            v = [x - share * y for x, y in zip(v, b, strict=True)]
        basis.append(v)
    rows = []
    for v in basis[1:]:
        scale = lcm(*(x.denominator for x in v))
        whole = [int(x * scale) for x in v]
        rows.append(np.array(whole, float) / gcd(*whole))
    names = [POWERS[i] if i < len(POWERS) else f"degree {i + 1}" for i in range(len(rows))]
    return Contrasts(np.array(rows).reshape(len(rows), k), tuple(names), "none")


METHODS: dict[str, Callable[[Sequence[str], bool, Any], Contrasts]] = {
    "pairwise": pairwise,
    "revpairwise": revpairwise,
    "trt.vs.ctrl": trt_vs_ctrl,
    "consec": consec,
    "poly": poly,
    "eff": eff,
}


def reference_level(labels: Sequence[str], ref: Any) -> int:
    """The place of ``ref``, a level or its number from 0; of None the first.

    Raises:
        ValueError: another one.
    """
    if ref is None:
        return 0
    if str(ref) in labels and isinstance(ref, str):
        return list(labels).index(ref)
    if isinstance(ref, int | np.integer) and not isinstance(ref, bool) and -len(labels) <= ref < len(labels):
        return int(ref) % len(labels)
    shown = ", ".join(map(repr, labels[:10])) + (", ..." if len(labels) > 10 else "")
    raise ValueError(f"ref must be one of the levels {shown}, or its number from 0, not {ref!r}")


def contrasts(method: Any, labels: Sequence[str], *, ratio: bool = False, ref: Any = None) -> Contrasts:
    """The contrasts of a method between the means of ``labels``.

    Args:
        method: a name of ``METHODS``; a matrix (m, k), or one contrast (k,); or a mapping from names to contrasts (k,).
        ratio: whether differences are shown as ratios, "a / b".
        ref: the level that "trt.vs.ctrl" compares with.

    Raises:
        ValueError: another method, a ``ref`` without use, or contrasts of another length.
    """
    if isinstance(method, str):
        if method not in METHODS:
            known = ", ".join(map(repr, METHODS))
            raise ValueError(f"method must be one of {known}, a matrix or a mapping of contrasts, not {method!r}")
        if ref is not None and method != "trt.vs.ctrl":
            raise ValueError(f"ref= is the level that method='trt.vs.ctrl' compares with; {method!r} has none")
        return METHODS[method](labels, ratio, ref)
    if ref is not None:
        raise ValueError("ref= is the level that method='trt.vs.ctrl' compares with; contrasts of your own have none")
    own = method.items() if isinstance(method, Mapping) else None
    try:
        C = np.atleast_2d(np.array([v for _, v in own] if own is not None else method, float))
    except (TypeError, ValueError):
        raise ValueError(
            f"method must be one of {', '.join(map(repr, METHODS))}, a matrix of numbers with {len(labels)} columns or "
            f"a mapping from names to {len(labels)} numbers, not {method!r}"
        ) from None
    if C.ndim != 2 or C.shape[1] != len(labels) or not len(C) or not np.all(np.isfinite(C)):
        raise ValueError(
            f"a contrast has {len(labels)} numbers, one for each of {', '.join(map(str, labels[:6]))}"
            f"{', ...' if len(labels) > 6 else ''}; got an array of shape {C.shape}"
        )
    return Contrasts(C, tuple(map(str, method)) if own is not None else tuple(_written(c) for c in C), "none")


def _written(c: np.ndarray) -> str:
    """A contrast as its numbers: "(1, -0.5, -0.5)"."""
    return f"({', '.join(f'{x:g}' for x in c)})"
