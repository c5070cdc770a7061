"""Design columns + Structure -> Gram: the cross-products [Z X y]'W[Z X y], all that a fit needs of the data.

One pass over the rows, in chunks; the size of the result does not depend on n.  Forming cross-products squares
the condition number, so the columns are changed first, and the change is carried along:

    X_s = XT_X   centred where there is an intercept, scaled, then made orthogonal (QR of the centred columns)
    Z_s = ZT     the same per unstructured term (D takes any value there); other terms are scaled only
    y_s = y - offset - X_s beta0   with beta0 from least squares, added back to beta afterwards

b = T b_s and lam = T lam_s up to a rotation; beta = T_X (beta_s + beta0); and the restricted likelihood of X is
that of X_s with log|X_s'V^-1 X_s| - 2 log|det T_X| in the place of log|X'V^-1 X|.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.covariance import Closed
from jaxmm.structure import Elimination, Grouping, Structure


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "couplings",
        "T",
        "T_X",
        "beta0",
        "logdet_T",
        "n_obs",
        "sum_log_weights",
        "inputs",
        "copies",
        "residual",
        "log_sigma2",
    ],
    meta_fields=["structure"],
)
@dataclass(frozen=True)
class Gram:
    """Sufficient statistics of a linear mixed model; a pytree whose one static field is ``structure``.

    ``couplings`` are the cross-products [Z X y]'W[Z X y] as the structure's ``solver`` keeps them; what anybody else
    wants of them it asks the solver for.  ``T`` per factor (q, q), ``T_X`` (p, p), ``beta0`` (p,): the changes of
    columns of the module's head.  ``n_obs`` and ``sum_log_weights`` run over the rows of positive weight.  ``copies``
    (J_i,) of each chain factor: how often each level counts, None for once each.  ``inputs``: what the structure of
    each term, in the order of theta, needs to know beside its parameters, mostly None.  ``residual``: where errors have
    a covariance with parameters of its own, what makes of these the statistics that ``objective.parameters.resolved``
    asks for; the rest here is then of errors that are independent and of one variance.  ``log_sigma2``: of σ² that is
    known; None where it is profiled, and where it is theta's, until theta is known.
    """

    couplings: Any
    T: tuple[Any, ...]
    T_X: Any
    beta0: Any
    logdet_T: Any
    n_obs: Any
    sum_log_weights: Any
    inputs: tuple[Any, ...]
    structure: Structure = field(metadata={"static": True})
    copies: tuple[Array, ...] | None = None
    residual: Any = None
    log_sigma2: Any = None

    @property
    def total(self) -> Array:
        """[X y]'W[X y], (p + 1, p + 1)."""
        return self.structure.solver.total(self)

    @property
    def dtype(self) -> Any:
        return self.total.dtype


# ---------------------------------------------------------------- changes of columns
@dataclass(frozen=True)
class Columns:
    """Columns A (n, k) and their change AT, applied a chunk at a time: ((A - mean) / scale) rotation."""

    A: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    rotation: np.ndarray
    T: np.ndarray

    def rows(self, at: slice) -> np.ndarray:
        if len(self.A) <= costs.CHUNK_ROWS:
            return self._whole[at]
        return self._changed(at)

    @cached_property
    def _whole(self) -> np.ndarray:
        return self._changed(slice(None))

    def times(self, unit: float) -> Columns:
        """The changed columns multiplied by a number: their coefficients are then in units of it."""
        return self if unit == 1.0 else replace(self, rotation=unit * self.rotation, T=unit * self.T)

    def _changed(self, at: slice) -> np.ndarray:
        rows = (self.A[at] - self.mean) / self.scale
        if len(self.rotation) == 1:
            return rows * self.rotation
        return np.einsum("nk,kj->nj", rows, self.rotation) if len(self.rotation) <= 8 else rows @ self.rotation


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + costs.CHUNK_ROWS, n)) for start in range(0, n, costs.CHUNK_ROWS))


def change_columns(A: np.ndarray, change: Closed) -> Columns:
    """Better conditioned columns spanning those of A: rescaled each, or together ("scalar"); centred and orthogonal
    too where any change will do ("linear"); as they are ("none")."""
    recombine = change == "linear"
    n, k = A.shape
    mean, rotation = np.zeros(k), np.eye(k)
    constant = np.array([np.all(A[:, j] == A[0, j]) and A[0, j] != 0 for j in range(k)], bool)
    centre = recombine and bool(constant.any())
    if centre:
        mean = np.where(constant, 0.0, A.mean(axis=0))
    square = np.zeros(k)
    for at in _chunks(n):
        square += np.sum((A[at] - mean) ** 2, axis=0)
    scale = np.sqrt(square / n)
    if change == "scalar":
        scale[:] = np.sqrt(np.mean(scale**2))
    scale[(scale == 0) | (change == "none")] = 1.0
    if recombine and k > 1:
        R = np.zeros((0, k))
        for at in _chunks(n):  # QR of a tall matrix chunk by chunk
            R = np.linalg.qr(np.vstack([R, (A[at] - mean) / scale]), mode="r")
        pivots = np.abs(np.diag(R))
        if len(pivots) == k and pivots.min() > 1e-10 * np.sqrt(n):
            rotation = np.linalg.inv(R) * np.sqrt(n)
    T = np.diag(1 / scale)
    if centre:
        j = int(np.argmax(constant))  # a column minus its mean = column - (mean / c) x the constant column c
        shift = np.eye(k)
        shift[j] -= mean / A[0, j]
        T = shift @ T
    return Columns(A, mean, scale, rotation, T @ rotation)


# ---------------------------------------------------------------- sums over the rows of each level
def _level_sums(codes: np.ndarray, levels: int, n: int, rows) -> np.ndarray:
    """Sum of ``rows(at)`` (rows of the chunk, k) over the rows of each level: (levels, k)."""
    total = 0.0
    for at in _chunks(n):
        c = codes[at]
        indicator = sp.csc_matrix((np.ones(len(c)), c, np.arange(len(c) + 1)), shape=(levels, len(c)))
        total = total + indicator @ rows(at)
    return np.asarray(total)


def _cross_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a'b.  Narrow ones without BLAS, whose threads wait for each other when the cores are busy."""
    if a.shape[1] * b.shape[1] <= 64:
        return np.einsum("ni,nj->ij", a, b)
    return a.T @ b


def _outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise products, (rows, ka * kb)."""
    return (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)


@dataclass(frozen=True)
class Accumulator:
    """The rows of one model: columns by factor in elimination order, ready to be summed.

    The structure's solver asks for the sums that it needs.
    """

    plan: Elimination
    structure: Structure
    groupings: tuple[Grouping, ...]  # in elimination order
    Z: tuple[tuple[Columns, ...], ...]  # per factor, its terms
    X: Columns
    weights: np.ndarray | None
    inputs: tuple[Any, ...]
    further: tuple[Columns, ...] = ()  # of predictors after the first

    @property
    def n(self) -> int:
        return len(self.X.A)

    def z(self, position: int, at: slice) -> np.ndarray:
        parts = [columns.rows(at) for columns in self.Z[position]]
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    def weighted(self, rows: np.ndarray, at: slice) -> np.ndarray:
        return rows if self.weights is None else rows * self.weights[at, None]

    def total(self, left, right) -> np.ndarray:
        """Sum over the rows of left'W right."""
        return np.sum([_cross_product(left(at), self.weighted(right(at), at)) for at in _chunks(self.n)], axis=0)

    def per_level(self, position: int, right) -> np.ndarray:
        """Z'W right, (q, k, J)."""
        g = self.groupings[position]
        if g.q >= costs.WIDE_BLOCK and g.levels <= costs.FEW_BLOCKS:  # rows' products would be n q k numbers
            return np.stack([self._of_level(position, right, g.codes == j) for j in range(g.levels)], axis=-1)
        sums = _level_sums(
            g.codes, g.levels, self.n, lambda at: _outer(self.z(position, at), self.weighted(right(at), at))
        )
        return np.ascontiguousarray(np.moveaxis(sums.reshape(g.levels, g.q, -1), 0, -1))

    def _of_level(self, position: int, right, rows: np.ndarray) -> np.ndarray:
        """Z'W right of the ``rows`` (n,) of one level, (q, k)."""
        return np.sum(
            [self.z(position, at)[rows[at]].T @ self.weighted(right(at), at)[rows[at]] for at in _chunks(self.n)],
            axis=0,
        )

    def cross(self, a: int, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Z_a'WZ_b over the pairs of levels that occur: levels of a, levels of b, values (pairs, q_a, q_b)."""
        ga, gb = self.groupings[a], self.groupings[b]
        keys = ga.codes.astype(np.int64) * gb.levels + gb.codes
        pairs, codes = np.unique(keys, return_inverse=True)
        sums = _level_sums(
            codes, len(pairs), self.n, lambda at: _outer(self.z(a, at), self.weighted(self.z(b, at), at))
        )
        return pairs // gb.levels, pairs % gb.levels, sums.reshape(len(pairs), ga.q, gb.q)

    def changes(self) -> list[np.ndarray]:
        """T (q, q) of each factor: block diagonal over its terms."""
        out = []
        for columns in self.Z:
            size = sum(len(c.T) for c in columns)
            block, at = np.zeros((size, size)), 0
            for c in columns:
                block[at : at + len(c.T), at : at + len(c.T)] = c.T
                at += len(c.T)
            out.append(block)
        return out

    def least_squares(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """beta0 (p,) and y - X_s beta0; twice, so that a large mean leaves no rounding behind."""
        p = self.structure.p
        beta0, residual = np.zeros(p), y.astype(float)
        if p == 0:
            return beta0, residual
        gram = self.total(self.X.rows, self.X.rows)
        for _ in range(2):
            right = self.total(self.X.rows, lambda at, r=residual: r[at, None])
            step = np.linalg.lstsq(gram, right[:, 0], rcond=None)[0]
            beta0 = beta0 + step
            residual = np.concatenate([residual[at] - self.X.rows(at) @ step for at in _chunks(self.n)])
        return beta0, residual


def assemble(a: Accumulator, parts: Any, y: np.ndarray) -> Gram:
    """The pytree, from what the solver made of the design and a response (n,); call it with x64 enabled."""
    s = a.structure
    beta0, residual = a.least_squares(y)
    weights = np.ones(a.n) if a.weights is None else a.weights[a.weights > 0]
    tree: Any = Gram(
        couplings=s.solver.couplings(a, parts, residual),
        T=tuple(a.changes()),
        T_X=a.X.T,
        beta0=np.asarray(beta0),
        logdet_T=np.asarray(np.linalg.slogdet(a.X.T)[1] if s.p else 0.0),
        n_obs=np.asarray(float(len(weights))),
        sum_log_weights=np.asarray(np.sum(np.log(weights))),
        inputs=a.inputs,
        structure=s,
    )
    return jax.device_put(tree)
