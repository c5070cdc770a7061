"""A solver of somebody's own, in one file: conjugate gradients on Z'WZ, of which it keeps a block for each pair of
factors.  log|M| alone needs M as one matrix."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

from jaxmm.plan import Part, Plan

ITERATIVE = "conjugate gradients"


class Pairs(NamedTuple):
    """``A[f][o]`` (q_f, J_f, q_o, J_o): Z_f'WZ_o; ``B[f]`` (q_f, J_f, c): Z_f'W[X y]; ``C`` (c, c): [X y]'W[X y]."""

    A: tuple
    B: tuple
    C: jnp.ndarray


class Point(NamedTuple):
    logdet: jnp.ndarray
    roots: None = None


@dataclass(frozen=True)
class ConjugateGradients:
    """``counts``: the levels of each factor."""

    counts: tuple
    name = "own"
    by_level = False

    # ------------------------------------------------------------ couplings
    def design(self, a):
        rows, Z = slice(0, a.n), []
        for f, g in enumerate(a.groupings):
            indicators = np.eye(g.levels)[g.codes]
            Z.append(np.einsum("nq,nj->qjn", a.z(f, rows), indicators))
        return Z, a.X.rows(rows).T, np.ones(a.n) if a.weights is None else a.weights

    def couplings(self, a, parts, residual):
        Z, X, w = parts
        columns = np.vstack([X, residual])
        A = tuple(tuple(np.einsum("qjn,n,rkn->qjrk", z, w, other) for other in Z) for z in Z)
        return Pairs(A, tuple(np.einsum("qjn,n,cn->qjc", z, w, columns) for z in Z), columns * w @ columns.T)

    def of_rows(self, rows, W, columns=None):
        Z = [rows.Z[f][:, None] * rows.spread(f, jnp.eye(J)) for f, J in enumerate(self.counts)]
        columns = jnp.zeros((0, *rows.y.shape)) if columns is None else columns
        A = tuple(
            tuple(jnp.einsum("qjhp,hp,rkhp->qjrk", z, rows.between(W, f, o), other) for o, other in enumerate(Z))
            for f, z in enumerate(Z)
        )
        B = tuple(jnp.einsum("qjhp,hp,chp->qjc", z, W[0], columns) for z in Z)
        return Pairs(A, B, jnp.einsum("chp,hp,dhp->cd", columns, W[0], columns))

    def with_response(self, gram, z, xy, yy, XX=None):
        A, B, C = gram.couplings
        C = C if XX is None else C.at[:-1, :-1].set(XX)
        column = jnp.append(xy, yy)
        B = tuple(b.at[:, :, -1].set(x) for b, x in zip(B, z, strict=True))
        return replace(gram, couplings=Pairs(A, B, C.at[:, -1].set(column).at[-1].set(column)))

    # ------------------------------------------------------------ M
    def _times(self, lams, gram, u):
        """M u, for u (q, J, c) of each factor."""
        b = [jnp.einsum("ab,bjc->ajc", lam, x) for lam, x in zip(lams, u, strict=True)]
        pulled = [
            sum(jnp.einsum("qjrk,rkc->qjc", A, x) for A, x in zip(row, b, strict=True)) for row in gram.couplings.A
        ]
        return tuple(x + jnp.einsum("ba,bjc->ajc", lam, p) for x, lam, p in zip(u, lams, pulled, strict=True))

    def _solved(self, lams, gram, right):
        return cg(lambda u: self._times(lams, gram, u), right, tol=1e-13)[0]

    def _logdet(self, lams, gram):
        sizes = [J * len(lam) for J, lam in zip(self.counts, lams, strict=True)]
        unit = jnp.split(jnp.eye(sum(sizes)), np.cumsum(sizes)[:-1])
        u = tuple(x.reshape(len(lam), J, -1) for x, lam, J in zip(unit, lams, self.counts, strict=True))
        M = jnp.concatenate([x.reshape(-1, sum(sizes)) for x in self._times(lams, gram, u)])
        return jnp.linalg.slogdet(M)[1]

    def reduce(self, lams, gram):
        right = tuple(jnp.einsum("ba,bjc->ajc", lam, b) for lam, b in zip(lams, gram.couplings.B, strict=True))
        taken = zip(right, self._solved(lams, gram, right), strict=True)
        return self._logdet(lams, gram), gram.couplings.C - sum(jnp.einsum("qjc,qjd->cd", r, x) for r, x in taken)

    def factorise(self, lams, gram, roots=None):
        return Point(self._logdet(lams, gram))

    def solve(self, done, lams, gram, right):
        return tuple(x[..., 0] for x in self._solved(lams, gram, tuple(r[..., None] for r in right)))

    def level_matrices(self, done, gram):
        raise NotImplementedError("for quadrature, which this solver leaves to others")

    # ------------------------------------------------------------ what is read off
    def total(self, gram):
        return gram.couplings.C

    def levels(self, gram):
        A, B, _ = gram.couplings
        own = [A[f][f][:, np.arange(J), :, np.arange(J)] for f, J in enumerate(self.counts)]  # (J, q, q)
        return [(a.transpose(1, 2, 0), b.transpose(0, 2, 1)) for a, b in zip(own, B, strict=True)]

    def size(self, gram):
        return gram.couplings.A[0][0].size

    def plan(self, s, elimination, groups):
        parts = tuple(Part(groups[f].name, ITERATIVE, groups[f].levels, groups[f].q) for f in elimination.order)
        return Plan(parts, None, sum(part.size for part in parts) ** 2)

    def border(self, gram):
        return None

    def with_levels(self, gram, A, border):
        raise NotImplementedError("there is no border")
