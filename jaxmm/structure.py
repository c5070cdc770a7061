"""Grouping factors -> Structure: which factor is eliminated how, decided once from the codes.

M = Λ'Z'WZΛ + I has one small block per level on its diagonal.  Two facts decide how it is factored:

* levels of one factor do not touch each other, so eliminating one factor costs O(levels) and no fill;
* where each level of a lies in one level of b (*nested*, whatever the formula says), eliminating a leaves b
  block diagonal, so b can follow.  Such factors form the **chain**.

Every other factor goes to the dense **rest**: after the chain is gone, its Schur complement (Q_R x Q_R) is
factored as one matrix.  One factor is a chain of one with no rest; crossed factors are a chain of one and a rest.

Where errors are correlated within subjects, A = Z'R^-1Z: levels of a factor do touch each other where one subject has
rows in both.  Then a factor of the chain must hold each subject in one of its levels, and the chain may be empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm.covariance import Covariance


class Grouping(NamedTuple):
    """One grouping factor with all its effects: ``codes`` (n,) in 0..levels-1, ``q`` effects per level."""

    name: str
    codes: np.ndarray
    levels: int
    q: int


@dataclass(frozen=True)
class TermLayout:
    """Where a term's effects stand: factor ``position`` in elimination order, effects ``at`` .. ``at + q``."""

    position: int
    at: int
    covariance: Covariance


@dataclass(frozen=True)
class ResidualLayout:
    """The covariance of the errors over σ², within the levels of a factor and by predictors of log φ: static.

    ``covariance`` of the times of a level, None where errors are independent; ``sets`` of its parameters, one for each
    level of another factor that the errors differ by; ``columns`` of log φ beside its constant, which is log σ².
    ``sigma`` says where σ² is from: "profiled", the mean square that is left; "known", from the data; "searched", in
    theta of a term of a known covariance.

        rho (k,)  =  theta of the first set, without its first element, which is 1  |  theta of each further set  |  γ
    """

    covariance: Covariance | None
    sets: int = 1
    columns: int = 0
    sigma: str = "profiled"

    @property
    def num_params(self) -> int:
        """k."""
        each = 0 if self.covariance is None else self.covariance.num_params
        return max(self.sets * each - 1, 0) + self.columns

    def split(self, rho: Any) -> tuple[list[Any], Any]:
        """theta (m, ..) of each set, and γ (columns, ..); of NumPy's or of JAX's arrays, as ``rho`` is."""
        xp = np if isinstance(rho, np.ndarray) else jnp
        gamma = rho[len(rho) - self.columns :]
        if self.covariance is None:
            return [], gamma
        one = xp.ones((1, *rho.shape[1:]), rho.dtype)
        whole = xp.concatenate([one, rho[: len(rho) - self.columns]])
        m = self.covariance.num_params
        return [whole[k * m : (k + 1) * m] for k in range(self.sets)], gamma

    def join(self, thetas: list[np.ndarray], gamma: np.ndarray) -> np.ndarray:
        """The way back; the first element of the first theta is left out."""
        if self.covariance is None:
            return gamma
        return np.concatenate([*[t[1:] if k == 0 else t for k, t in enumerate(thetas)], gamma])


@dataclass(frozen=True)
class Predictors:
    """The linear predictors of a distribution's parameters, and what feeds each: static.

    ``names`` are of the parameters, μ's first; ``columns`` how many columns of X the further ones have, the last ones
    of X in their order; ``feeds`` of each factor in elimination order, the predictor that its effects add to (() where
    all add to the first).
    """

    names: tuple[str, ...] = ("mu",)
    columns: tuple[int, ...] = ()
    feeds: tuple[int, ...] = ()

    def slices(self, p: int) -> list[slice]:
        """Which of p columns of X each predictor has."""
        ends = np.cumsum([p - sum(self.columns), *self.columns]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def of(self, factor: int) -> int:
        """The predictor that a factor's effects add to."""
        return self.feeds[factor] if self.feeds else 0

    @property
    def moving(self) -> tuple[int, ...]:
        """The predictors that have random effects."""
        return tuple(sorted(set(self.feeds))) or (0,)


@dataclass(frozen=True)
class Structure:
    """Static and hashable: all that a compiled program needs to know beside the shapes of its arrays.

    ``chain`` holds q of each chain factor, innermost first; ``rest`` (levels, q) of each other factor; ``terms``
    stand in the order of theta.  ``sparse``: the coupling of the first chain factor to the rest is kept as a list
    of the cells that occur, not as a dense border.  ``predictors`` has one in a linear model; p counts the columns of
    all.  ``solver`` factors M, and owns the cross-products that it needs for that.  ``residual``: the covariance of the
    errors, where these are not independent of one variance.
    """

    chain: tuple[int, ...]
    rest: tuple[tuple[int, int], ...]
    terms: tuple[TermLayout, ...]
    sparse: bool
    p: int
    reml: bool
    predictors: Predictors = Predictors()
    solver: Any = None  # a solver.Solver
    residual: ResidualLayout | None = None

    @property
    def num_random(self) -> int:
        """Parameters of the terms; those of the residual covariance follow them in theta."""
        return sum(t.covariance.num_params for t in self.terms)

    @property
    def num_theta(self) -> int:
        return self.num_random + (0 if self.residual is None else self.residual.num_params)

    @property
    def profiles_sigma(self) -> bool:
        """Whether σ² is the mean square that is left, at any theta."""
        return self.residual is None or self.residual.sigma == "profiled"

    @property
    def knows_sigma(self) -> bool:
        """Whether σ² is known before anything is estimated."""
        return self.residual is not None and self.residual.sigma == "known"

    def log_sigma2(self, theta: Any) -> Any:
        """Of theta (m, ..) that has it."""
        found = [2 * t.covariance.log_sigma(theta[at]) for t, at in zip(self.terms, self.slices(), strict=True)
                 if t.covariance.absolute]  # fmt: skip
        return found[0]

    @property
    def rest_size(self) -> int:
        """Q_R, the order of the dense part."""
        return sum(levels * q for levels, q in self.rest)

    @property
    def num_factors(self) -> int:
        return len(self.chain) + len(self.rest)

    @property
    def widths(self) -> tuple[int, ...]:
        """q of each factor in elimination order."""
        return (*self.chain, *(q for _, q in self.rest))

    def rest_places(self) -> list[np.ndarray]:
        """Where each factor of the rest has its effects among the columns of the dense part: (levels, q) each."""
        starts = np.cumsum([0] + [levels * q for levels, q in self.rest])
        return [
            int(start) + q * np.arange(levels)[:, None] + np.arange(q)
            for start, (levels, q) in zip(starts, self.rest, strict=False)
        ]

    def split_rest(self, flat) -> list:
        """(Q_R, ...) -> (levels, q, ...) of each factor of the rest."""
        out, at = [], 0
        for levels, q in self.rest:
            out.append(flat[at : at + levels * q].reshape(levels, q, *flat.shape[1:]))
            at += levels * q
        return out

    def variance_rows(self) -> list[np.ndarray]:
        """Where theta has the rows of factors whose sums of squares are variances; see ``covariance``."""
        return [
            at.start + row
            for t, at in zip(self.terms, self.slices(), strict=True)
            for row in t.covariance.variance_rows()
        ]

    def slices(self) -> list[slice]:
        """Where each term's parameters stand in theta."""
        ends = np.cumsum([t.covariance.num_params for t in self.terms])
        return [slice(int(e) - t.covariance.num_params, int(e)) for e, t in zip(ends, self.terms, strict=True)]


@dataclass(frozen=True)
class Elimination:
    """The plan in terms of the caller's factors: ``chain`` and ``rest`` are indices into the list analysed."""

    chain: tuple[int, ...]
    rest: tuple[int, ...]
    parents: dict[tuple[int, int], np.ndarray]  # (inner, outer) -> the outer level of each inner level
    sparse: bool
    pairs: int = 0  # of cells of one level: what the sparse coupling scatters
    mixed: bool = False  # whether rows of one subject lie in several levels of a factor of the rest

    @property
    def order(self) -> tuple[int, ...]:
        return self.chain + self.rest


def parent_levels(inner: Grouping, outer: Grouping) -> np.ndarray | None:
    """The outer level in which each inner level lies, (J_inner,) int32; None if one lies in two."""
    if inner.levels < outer.levels:
        return None
    parent = np.zeros(inner.levels, np.int32)
    parent[inner.codes] = outer.codes
    return parent if np.array_equal(parent[inner.codes], outer.codes) else None


def parents_of(plan: Elimination) -> list[list[np.ndarray]]:
    """Of each factor of the chain, for each one further out: the level in which each of its levels lies."""
    return [[plan.parents[inner, outer] for outer in plan.chain[i + 1 :]] for i, inner in enumerate(plan.chain)]


def analyse(groupings: list[Grouping], subjects: Grouping | None = None) -> Elimination:
    """The chain that eliminates most effects, and the rest.

    All chains of nested factors are tried: there are few factors.  A tie goes to the chain whose first factor
    has more levels, then to the earlier factor.  ``subjects``: within whose levels errors are correlated, if any.
    """
    if not groupings:
        return Elimination((), (), {}, False)
    order = sorted(range(len(groupings)), key=lambda f: (-groupings[f].levels, f))
    whole = [f for f in order if subjects is None or parent_levels(subjects, groupings[f]) is not None]
    parents = {}
    for a, b in combinations(order, 2):
        parent = parent_levels(groupings[a], groupings[b])
        if parent is not None:
            parents[a, b] = parent
    best: tuple[int, ...] = tuple(whole[:1])

    def size(factors: tuple[int, ...]) -> int:
        return sum(groupings[f].levels * groupings[f].q for f in factors)

    for length in range(1, len(whole) + 1):
        for chain in combinations(whole, length):
            if all(pair in parents for pair in combinations(chain, 2)) and size(chain) > size(best):
                best = chain
    rest = tuple(f for f in order if f not in best)
    if len(whole) < len(order):
        return Elimination(best, rest, parents, False, mixed=True)
    pairs, dense = _coupling_cost(groupings, best, rest)
    sparse = pairs * costs.PAIR_NS < dense * costs.DENSE_NS
    return Elimination(best, rest, parents, sparse, pairs if sparse else 0)


def _coupling_cost(groupings: list[Grouping], chain: tuple[int, ...], rest: tuple[int, ...]) -> tuple[int, float]:
    """What the first elimination costs either way: pairs of cells to scatter, or flops of a dense product."""
    if not rest:
        return 0, 0.0
    first = groupings[chain[0]]
    cells = np.zeros(first.levels, np.int64)
    for f in rest:
        pairs = np.unique(first.codes.astype(np.int64) * groupings[f].levels + groupings[f].codes)
        cells += np.bincount(pairs // groupings[f].levels, minlength=first.levels) * groupings[f].q
    size = sum(groupings[f].levels * groupings[f].q for f in rest)
    return int(np.sum(cells * (cells + 1) // 2)), 2.0 * first.levels * first.q * size**2
