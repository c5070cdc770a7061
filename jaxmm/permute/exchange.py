"""Units that may change places within classes -> permutations of them, drawn or numbered.

A unit (a row, or a group of rows) keeps its data and goes to the place of another unit of its class; each place has a
label, the same where the design is.  Two permutations differ for the model only if some unit comes to another label, so
that a class of m units whose labels come m_1, m_2, .. times has m! / (m_1! m_2! ..) arrangements, and the classes
together have the product.  They are numbered: the digits of the number, one for each class, count the arrangements of
that class in lexicographic order, beginning with the data as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import factorial, prod

import numpy as np


@dataclass(frozen=True)
class Exchange:
    """``classes``: the units of each, those alone that have two labels or more; ``labels`` (m,) of all units."""

    classes: tuple[np.ndarray, ...]
    labels: np.ndarray

    @classmethod
    def of(cls, class_of: np.ndarray, labels: np.ndarray) -> Exchange:
        """From the class (m,) and the label (m,) of each unit."""
        order = np.argsort(class_of, kind="stable")
        ends = np.flatnonzero(np.diff(class_of[order])) + 1
        found = [np.sort(units) for units in np.split(order, ends)]
        return cls(tuple(units for units in found if len(np.unique(labels[units])) > 1), np.asarray(labels))

    @cached_property
    def count(self) -> int:
        """How many arrangements there are, the data as they are among them."""
        return prod(_arrangements(_counts(self.labels[units])) for units in self.classes)

    def drawn(self, numbers: np.ndarray) -> np.ndarray:
        """(m,) which unit comes to each place, from random ``numbers`` (m,): each class in the order of its own."""
        out = np.arange(len(self.labels))
        for units in self.classes:
            out[units] = units[np.argsort(numbers[units], kind="stable")]
        return out

    def numbered(self, k: int) -> np.ndarray:
        """(m,) which unit comes to each place in arrangement ``k`` of ``count``; 0 leaves all where they are."""
        out = np.arange(len(self.labels))
        for units in self.classes:
            own = self.labels[units]
            counts = _counts(own)
            k, digit = divmod(k, _arrangements(counts))
            kinds = np.unique(own, return_inverse=True)[1].ravel()
            goes = _unranked((_rank(kinds, counts) + digit) % _arrangements(counts), counts)
            for kind in range(len(counts)):
                out[units[kinds == kind]] = units[goes == kind]
        return out


def _counts(labels: np.ndarray) -> list[int]:
    return np.unique(labels, return_counts=True)[1].tolist()


def _arrangements(counts: Sequence[int]) -> int:
    """Of a multiset."""
    return factorial(sum(counts)) // prod(map(factorial, counts))


def _unranked(rank: int, counts: Sequence[int]) -> np.ndarray:
    """The arrangement of that rank, as kinds (m,)."""
    left, out = list(counts), []
    for _ in range(sum(counts)):
        for kind, number in enumerate(left):
            if not number:
                continue
            left[kind] -= 1
            inside = _arrangements(left)
            if rank < inside:
                out.append(kind)
                break
            rank -= inside
            left[kind] += 1
    return np.array(out)


def _rank(kinds: np.ndarray, counts: Sequence[int]) -> int:
    """How many arrangements come before that of ``kinds`` (m,)."""
    left, rank = list(counts), 0
    for kind in kinds:
        for smaller in range(kind):
            if left[smaller]:
                left[smaller] -= 1
                rank += _arrangements(left)
                left[smaller] += 1
        left[kind] -= 1
    return rank
