"""M and the cross-products written out, (Q + p + 1) square: the oracle that every other solver is tested against.

Only for small data.  Everything is textbook algebra on A = [Z X y]'W[Z X y], and every derivative JAX's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import block_diag

from jaxmm._types import Array
from jaxmm.gram import Accumulator, Gram
from jaxmm.plan import DENSE, Part, Plan
from jaxmm.rows import Rows
from jaxmm.structure import Elimination, Grouping, Structure


class Written(NamedTuple):
    """M (Q, Q) and log|M|."""

    M: Array
    logdet: Array
    roots: Any = None


@dataclass(frozen=True)
class Dense:
    """See ``_base.Solver``; ``counts`` are the levels of each factor.  Its couplings are A, whose rows are those of Z
    level by level, factor by factor, then X and y.  Levels that stand for several (``Gram.copies``) it does not know.
    """

    counts: tuple[int, ...]
    name = "dense"
    by_level = False

    # ------------------------------------------------------------ couplings
    def design(self, a: Accumulator) -> np.ndarray:
        """[Z X] (n, Q + p)."""
        rows = slice(0, a.n)
        return np.hstack(
            [*(_spread(a.z(f, rows), g.codes, g.levels) for f, g in enumerate(a.groupings)), a.X.rows(rows)]
        )

    def couplings(self, a: Accumulator, parts: np.ndarray, residual: np.ndarray) -> Array:
        columns = np.column_stack([parts, residual])
        return columns.T @ a.weighted(columns, slice(0, a.n))  # pyright: ignore

    def of_rows(self, rows: Rows, W: tuple[Array, ...], columns: Array | None = None) -> Array:
        sides = []
        for f, J in enumerate(self.counts[: len(rows.Z)]):
            indicators = rows.spread(f, jnp.eye(J, dtype=W[0].dtype))  # (J, H, P)
            sides.append((indicators[:, None] * rows.Z[f][None]).reshape(-1, rows.y.size))
        if rows.mixed is not None:
            m = rows.mixed
            at = jnp.arange(len(m.side.there))[:, None, None, None] == m.column[:, None]  # (Q, C, 1, P)
            sides.append(jnp.sum(at * m.Z, axis=1).reshape(len(at), -1))
        weights = [[rows.between(W, f, o).ravel() for o in range(len(sides))] for f in range(len(sides))]
        if columns is not None:
            sides.append(columns.reshape(len(columns), -1))
            weights = [[W[0].ravel()] * len(sides)] * len(sides)
        pairs = zip(sides, weights, strict=True)
        return jnp.block([[a @ (w * b).T for b, w in zip(sides, row, strict=True)] for a, row in pairs])

    def with_response(self, gram: Gram, z: tuple[Array, ...], xy: Array, yy: Array, XX: Array | None = None) -> Gram:
        A = gram.couplings
        column = jnp.concatenate([*(x.T.ravel() for x in z), xy, yy[None]])
        A = A.at[:, -1].set(column).at[-1, :].set(column)
        if XX is not None:
            A = A.at[-len(XX) - 1 : -1, -len(XX) - 1 : -1].set(XX)
        return replace(gram, couplings=A)

    # ------------------------------------------------------------ what is wanted of them
    def parts(self, lams: tuple[Array, ...], gram: Gram) -> tuple[Array, Array, Array]:
        """Λ (Q, Q), M and [A B] with B = Z'W[X y]."""
        assert gram.copies is None, "the dense solver has one copy of each level"
        L = block_diag(*(jnp.kron(jnp.eye(J, dtype=lam.dtype), lam) for J, lam in zip(self.counts, lams, strict=True)))
        A = gram.couplings
        M = L.T @ A[: len(L), : len(L)] @ L + jnp.eye(len(L), dtype=A.dtype)
        return L, M, A[: len(L)]

    def reduce(self, lams: tuple[Array, ...], gram: Gram) -> tuple[Array, Array]:
        L, M, half = self.parts(lams, gram)
        B = L.T @ half[:, len(L) :]
        return jnp.linalg.slogdet(M)[1], gram.couplings[len(L) :, len(L) :] - B.T @ jnp.linalg.solve(M, B)

    def factorise(self, lams: tuple[Array, ...], gram: Gram, roots: Any = None) -> Written:
        M = self.parts(lams, gram)[1]
        return Written(M, jnp.linalg.slogdet(M)[1])

    def solve(self, done: Written, lams: tuple[Array, ...], gram: Gram, right: tuple[Array, ...]) -> tuple[Array, ...]:
        flat = jnp.linalg.solve(done.M, jnp.concatenate([x.T.ravel() for x in right]))
        return tuple(x.T for x in self._split(flat, lams))

    def level_matrices(self, done: Written, gram: Gram) -> Array:
        (J,) = self.counts
        return jnp.einsum("jajb->abj", done.M.reshape(J, len(done.M) // J, J, -1))

    def _split(self, flat: Array, lams: tuple[Array, ...]) -> list[Array]:
        """(Q, ..) -> (J, q, ..) of each factor."""
        ends = np.cumsum([J * len(lam) for J, lam in zip(self.counts, lams, strict=True)])[:-1]
        parts = jnp.split(flat, ends)
        return [x.reshape(J, -1, *flat.shape[1:]) for J, x in zip(self.counts, parts, strict=True)]

    # ------------------------------------------------------------ what is read off
    def total(self, gram: Gram) -> Array:
        size = gram.structure.p + 1
        return gram.couplings[-size:, -size:]

    def levels(self, gram: Gram) -> list[tuple[Array, Array]]:
        A, widths = gram.couplings, gram.structure.widths
        sizes = [J * q for J, q in zip(self.counts, widths, strict=True)]
        out, at = [], 0
        for J, q in zip(self.counts, widths, strict=True):
            inside = at + np.arange(J * q).reshape(J, q)
            own, border = A[inside[:, :, None], inside[:, None, :]], A[inside, sum(sizes) :]
            out.append((own.transpose(1, 2, 0), border.transpose(1, 2, 0)))
            at += J * q
        return out

    def size(self, gram: Gram) -> int:
        return gram.couplings.size

    def plan(self, s: Structure, elimination: Elimination, groups: list[Grouping]) -> Plan:
        parts = tuple(Part(groups[f].name, DENSE, groups[f].levels, groups[f].q) for f in elimination.order)
        return Plan(parts, None, (sum(part.size for part in parts) + s.p + 1) ** 2)

    def border(self, gram: Gram) -> None:
        return None

    def with_levels(self, gram: Gram, A: Any, border: Any) -> Any:
        raise NotImplementedError("there is no border")


def _spread(Z: np.ndarray, codes: np.ndarray, levels: int) -> np.ndarray:
    """Z (n, q) and codes (n,) -> the full (n, levels * q) matrix, level by level."""
    full = np.zeros((len(Z), levels, Z.shape[1]))
    full[np.arange(len(Z)), codes] = Z
    return full.reshape(len(Z), -1)
