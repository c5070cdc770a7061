"""One grouping factor, Gaussian responses: the deviance with its exact gradient and Hessian in closed form.

Level j has A_j = Z_j'WZ_j = KK' and, whitened, the columns B = K^+ Z_j'W[X y] (q, p + 1).  With S = I + K'DK,

    Z_j'V_j^-1 Z_j = K S^-1 K' = H      Z_j'V_j^-1 [X y] = K S^-1 B      log|M_j| = log|S|
    C* = [X y]'V^-1[X y] = C - Σ B'B + Σ B'S^-1 B

so that nothing is subtracted but the part within levels, once and for all.  Let s = K S^-1 B (-beta, 1)', kappa = df /
r², G = K S^-1 B_X, and dD, eD two directions of D; the sums run over levels:

    f'       = Σ tr(H dD) - kappa Σ s'dD s                                        [- Σ tr(M_X^-1 G'dD G)]
    f''      = Σ tr(H dD Y eD) - 2 kappa u_d'M_X^-1 u_e - kappa²/df (Σ s'dD s)(Σ s'eD s)
                                                                                  [- tr(M_X^-1 W_d M_X^-1 W_e)]
    Y        = 2 kappa ss' - H [+ 2 G M_X^-1 G'],  u_d = Σ G'dD s,  W_d = Σ G'dD G,          [..] by REML

An exact Hessian thus costs little more than the value, where differentiating twice costs 30 times as much.

*Collapse.*  Levels with the same A_j form a pattern.  An orthogonal change of its levels keeps every sum above, and it
can be chosen so that X touches only the first few of the new ones, at most pq: what is left of y in the others enters
through its cross-product alone, R = Σ B_y B_y' (q, q).  A pattern thus costs as much as a few levels, however many it
has: a balanced design is one pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.lanes.advance import Value
from jaxmm.lanes.entrywise import Matrix, cells_of_factor, cholesky, dot, forward, invert, times, transpose
from jaxmm.lanes.statistics import Statistics
from jaxmm.objective.parameters import scaled_factors
from jaxmm.solver import level_systems
from jaxmm.solver.spd import BLOCKS
from jaxmm.start import Moments, level_weights, moment_equations
from jaxmm.structure import Structure

SAME = 1e-11  # relative difference of cross-products that are the same
RANK = 1e-10  # relative size of a direction of A_j or of the X of a pattern that is not there


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "K",
        "B",
        "counts",
        "within",
        "whiten",
        "rotate",
        "members",
        "others",
        "df",
        "rank",
        "root",
        "weigh",
        "moments",
    ],
    meta_fields=["structure", "cells"],
)
@dataclass(frozen=True)
class Blocks:
    """What all lanes share.  Of R levels, after the collapse: ``K`` (q, q, R) lower triangular, ``B`` (q, p, R) the
    whitened X, ``counts`` (R,) how many levels log|S| stands for.  ``within`` (p, p): X'WX - Σ B'B.  Of the data's J
    levels: ``whiten`` (q, q, J) = K^+.  ``rotate`` (R, J) and ``members`` (R, J) lead from one to the other, None
    without a collapse; ``others`` (R,) is how many levels stand in R of a pattern, 0 where there is none; ``rank``
    (R,) that of A_j, ``root`` (p, p) a root of ``within`` with a column of zeros for each direction that is not
    there, and ``df`` n less the ranks of Z and of X beside it: for ``direct``; ``weigh`` (q, q, R) and ``moments``
    are for the start; ``cells`` as of ``entrywise.cells_of_factor``.
    """

    K: Array
    B: Array
    counts: Array
    within: Array
    whiten: Array
    rotate: Array | None
    members: Array | None
    others: Array
    rank: Array
    df: Any
    root: Array
    weigh: Array
    moments: Moments
    structure: Structure
    cells: tuple[tuple[int, int], ...] | None

    def systems(self, gram: Gram) -> Systems:
        """As ``evaluate`` takes them."""
        numbers = (jnp.reshape(x, (1,)) for x in (gram.n_obs, gram.sum_log_weights, gram.logdet_T))
        return Systems(*(x[..., None] for x in (self.K, self.B, self.counts, self.within)), *numbers)


class Systems(NamedTuple):
    """What the criterion is made of beside the response; the last axis is the lanes', or 1 where they share it.  ``K``
    (q, q, R, ..), ``B`` (q, p, R, ..), ``counts`` (R, ..) and ``within`` (p, p, ..) as of ``Blocks``; of ``Gram``
    ``n_obs``, ``sum_log_weights`` and ``logdet_T`` (..)."""

    K: Any
    B: Any
    counts: Any
    within: Any
    n_obs: Any
    sum_log_weights: Any
    logdet_T: Any


@partial(jax.tree_util.register_dataclass, data_fields=["b", "rest", "xy", "yy", "beta0"], meta_fields=[])
@dataclass(frozen=True)
class BlockData:
    """What a lane has of its own: ``b`` (q, R, L) whitened, ``rest`` (q, q, R, L) = R of each pattern or None, ``xy``
    (p, L) and ``yy`` (L,) within levels, ``beta0`` (p, L)."""

    b: Array
    rest: Array | None
    xy: Array
    yy: Array
    beta0: Array


def can_have_blocks(s: Structure) -> bool:
    """Whether the closed form applies: one factor, few effects, few columns."""
    if not s.solver.by_level or s.num_factors != 1 or s.chain[0] > costs.CLOSED_EFFECTS or s.p > costs.CLOSED_COLUMNS:
        return False
    # λ is written out by entries: those that are θ, or where θ is no entry all of them
    entries = (t.covariance.num_params if t.covariance.free_form else t.covariance.q**2 for t in s.terms)
    if sum(entries) > costs.CLOSED_ENTRIES:
        return False
    return not s.reml or s.p * s.chain[0] <= costs.CLOSED_REML


def make_blocks(gram: Gram, collapse: bool = True) -> Blocks:
    """From the arrays of a model, on the host; call it with x64 enabled."""
    s, p = gram.structure, gram.structure.p
    ((A, columns),) = level_systems(gram)
    ZX = columns[..., :p]
    K, whiten, rank = _roots(A)
    pattern = patterns(A)
    # one root for each pattern, whatever the rounding
    first = np.unique(pattern, return_index=True)[1][pattern]
    K, whiten, rank = K[first], whiten[first], rank[first]
    B = whiten @ ZX
    J = len(A)
    rows, counts, others, members = _rotation(B, pattern, A.shape[1])
    collapsed = collapse and len(rows) <= costs.COLLAPSED_SHARE * J
    XX = np.asarray(gram.total)[:p, :p] - np.einsum("jap,jak->pk", B, B)
    v, U = np.linalg.eigh(XX)
    left = v > RANK * float(gram.n_obs)  # the columns have unit mean square
    df = float(gram.n_obs) - rank.sum() - left.sum()
    if collapsed:
        rotate, at = (
            np.array(rows),
            np.array([np.flatnonzero(r if r.any() else m)[0] for r, m in zip(rows, members, strict=True)]),
        )
        B_R, K_R, rank = np.einsum("rj,jap->rap", rotate, B), K[at], rank[at]
        counts, others = np.array(counts, float), np.array(others, float)
        members = np.array(members)
    else:
        rotate = members = None
        B_R, K_R, counts, others = B, K, np.ones(J), np.zeros(J)
    shared: Any = dict(
        K=np.ascontiguousarray(np.moveaxis(K_R, 0, -1)),
        B=np.ascontiguousarray(np.moveaxis(B_R, 0, -1)),
        counts=counts,
        within=XX,
        whiten=np.ascontiguousarray(np.moveaxis(whiten, 0, -1)),
        rotate=rotate,
        members=members,
        others=others,
        rank=rank.astype(float),
        df=np.asarray(df),
        root=U * np.sqrt(np.where(left, v, 0.0)),
        weigh=np.ascontiguousarray(np.moveaxis(level_weights(K_R @ np.swapaxes(K_R, 1, 2)) @ K_R, 0, -1)),
        moments=moment_equations(A, np.ones(J), float(gram.n_obs), s, gram.inputs),
    )
    return jax.device_put(Blocks(**shared, structure=s, cells=cells_of_factor(gram)))


def _roots(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of A (J, q, q) K and K^+ (J, q, q), and the ranks (J,)."""
    K = cholesky(np.moveaxis(A, 0, -1), RANK)
    eye: Any = [[np.full(len(A), float(a == c)) for c in range(A.shape[1])] for a in range(A.shape[1])]
    rank = np.sum(np.diagonal(K) > 0, axis=1)
    return np.moveaxis(K, -1, 0), np.moveaxis(np.array(forward(K, eye)), -1, 0), rank


def _rotation(B: np.ndarray, pattern: np.ndarray, q: int) -> tuple[list, list, list, list]:
    """Of the levels of each pattern as many rows (J,) as their B (q, p) span, and how many levels stand behind each row
    that begins a pattern, how many of them it leaves for a cross-product, and which: zero in the other rows."""
    rows, counts, others, members = [], [], [], []
    J = len(B)
    for k in range(pattern.max() + 1):
        inside = np.flatnonzero(pattern == k)
        flat = B[inside].reshape(len(inside), -1)
        U, size, _ = np.linalg.svd(flat, full_matrices=False)
        keep = U[:, size > RANK * max(size.max(initial=0.0), 1e-300)].T if B.shape[2] else U[:, :0].T
        if not len(keep):
            keep = np.zeros((1, len(inside)))
        if len(inside) - len(keep) < q:  # too few would be left for their cross-product to be worth it
            keep = np.eye(len(inside))
        for i, row in enumerate(keep):
            full = np.zeros(J)
            full[inside] = row
            rows.append(full)
            counts.append(len(inside) if i == 0 else 0)
            left = len(inside) - int(np.any(keep, axis=1).sum())
            others.append(left if i == 0 else 0)
            members.append(np.isin(np.arange(J), inside) * float(i == 0 and left > 0))
    return rows, counts, others, members


def patterns(A: np.ndarray) -> np.ndarray:
    """(J,) a number for each level, the same where A_j is."""
    scale = np.abs(A).max(initial=1e-300)
    # the grid is moved, so that round numbers do not lie on its lines
    cells = np.round(A.reshape(len(A), -1) / (SAME * scale) + 0.381966)
    return np.unique(cells, axis=0, return_inverse=True)[1].ravel()


def block_data(stats: Statistics, shared: Blocks) -> BlockData:
    """Whitened, and collapsed where the design is."""
    z = stats.z[0]
    q = len(z)
    b = jnp.stack([sum(shared.whiten[a, c][:, None] * z[c] for c in range(q)) for a in range(q)])  # pyright: ignore
    yy = stats.yy - jnp.sum(b * b, axis=(0, 1))
    rest = None
    if shared.rotate is not None and shared.members is not None:
        rotated = jnp.stack([shared.rotate @ b[a] for a in range(q)])
        square = [[shared.members @ (b[a] * b[c]) for c in range(a + 1)] for a in range(q)]
        mine = _pattern_sums(rotated, shared)
        rest = jnp.stack([jnp.stack([square[max(a, c)][min(a, c)] for c in range(q)]) for a in range(q)]) - mine
        rest = cholesky(rest)
        b = rotated
    xy = stats.xy - jnp.sum(shared.B[:, :, :, None] * b[:, None], axis=(0, 2))
    return BlockData(b, rest, xy, yy, stats.beta0)


def _pattern_sums(b: Array, shared: Blocks) -> Array:
    """Σ bb' over the changed levels of each pattern that has others, at the place of its first one: (q, q, R, L)."""
    R = len(shared.counts)
    start = jnp.cumsum(shared.counts > 0) - 1  # the pattern of each changed level
    same = (start[:, None] == start[None, :]) & (shared.counts > 0)[:, None] & (shared.others > 0)[:, None]
    gather = same.astype(b.dtype)
    q = len(b)
    return jnp.stack([jnp.stack([(gather @ (b[a] * b[c])).reshape(R, -1) for c in range(q)]) for a in range(q)])


# ---------------------------------------------------------------- the criterion
def evaluate(
    theta: Array, data: BlockData, own: Systems, gram: Gram, cells: tuple[tuple[int, int], ...] | None
) -> Value:
    """Deviance, gradient and Hessian at theta (m, L) as to Z_s; keeps beta_s, sigma² and M_X^-1.

    Of ``gram`` the structure and its inputs; ``cells`` as of ``Blocks``."""
    s, by_entries = gram.structure, cells is None
    p, q, L = s.p, s.chain[0], theta.shape[-1]
    R, counts, cells = own.K.shape[2], own.counts, cells or _every_cell(q)

    def total(x: Array) -> Array:
        return jnp.sum(jnp.broadcast_to(x, (R, L)), axis=0)

    K: Any = [[own.K[a, b] if b <= a else None for b in range(q)] for a in range(q)]
    A = _symmetric(lambda a, b: dot(K[a][: b + 1], K[b][: b + 1]), q)
    B = [[own.B[a, c] for c in range(p)] for a in range(q)]
    lam = _entries(scaled_factors(theta, gram)[0], cells)
    lA = _product(transpose(lam), A)
    M = _product(transpose(lam), transpose(lA))
    det, M_inverse = invert([[M[a][b] + (1.0 if a == b else 0.0) for b in range(q)] for a in range(q)])
    F = times(M_inverse, lA)
    H = _symmetric(lambda i, k: A[i][k] - dot([r[i] for r in lA], [r[k] for r in F]), q)
    # the columns of y: the response, and of the levels that a pattern stands for a root of their cross-product; then X
    Y = [[data.b[a]] for a in range(q)]
    if data.rest is not None:
        Y = [[*Y[a], *(data.rest[a, k] for k in range(q))] for a in range(q)]
    first = len(Y[0])
    YX = [[*Y[a], *B[a]] for a in range(q)]
    U = times(M_inverse, _product(transpose(lam), _product(K, YX)))
    lU = _product(transpose(K), _product(lam, U))
    E = [[YX[a][k] - lU[a][k] for k in range(len(YX[a]))] for a in range(q)]
    G = _product(K, E)
    (U, UX), (E, EX), (G, GX) = (([r[:first] for r in x], [r[first:] for r in x]) for x in (U, E, G))
    logdet = total(counts * jnp.log(det))
    C = [[total(dot([r[c] for r in B], [r[d] for r in EX])) for d in range(c + 1)] for c in range(p)]
    C.append([total(dot([r[c] for r in B], [r[0] for r in E])) for c in range(p)])
    C[p].append(total(sum(x * x for r in (*E, *U) for x in r)))  # pyright: ignore
    yy = data.yy + C[p][p]
    n = own.n_obs
    df, log_X = n, jnp.zeros(L, theta.dtype)
    X_inverse, beta, pwrss = jnp.zeros((0, 0, L), theta.dtype), jnp.zeros((0, L), theta.dtype), yy
    if p:
        M_X = jnp.stack([jnp.stack([own.within[c, d] + C[max(c, d)][min(c, d)] for d in range(p)]) for c in range(p)])
        right = jnp.stack([data.xy[c] + C[p][c] for c in range(p)])
        Linv = BLOCKS.inverse_root(M_X)
        X_inverse = BLOCKS.gram(Linv)
        half = jnp.sum(Linv * right[None], axis=1)
        beta = jnp.sum(X_inverse * right[None], axis=1)
        pwrss = yy - jnp.sum(half * half, axis=0)
        if s.reml:
            df = n - p
            log_X = -2 * jnp.sum(jnp.log(jnp.stack([Linv[c, c] for c in range(p)])), axis=0) - 2 * own.logdet_T
    value = logdet + df * (1 + jnp.log(2 * jnp.pi * pwrss / df)) + log_X - own.sum_log_weights

    # ------------------------------------------------------------ derivatives by the entries of λ
    kappa = df / pwrss
    e = [G[i][0] - sum((GX[i][c] * beta[c] for c in range(p)), 0.0) for i in range(q)]
    u = [U[c][0] - sum((UX[c][d] * beta[d] for d in range(p)), 0.0) for c in range(q)]
    es, us = [[e[i], *G[i][1:]] for i in range(q)], [[u[c], *U[c][1:]] for c in range(q)]
    scaled = [[kappa * x for x in r] for r in us]
    ee = _symmetric(lambda i, k: kappa * dot(es[i], es[k]), q)
    uu = _symmetric(lambda c, f: dot(scaled[c], us[f]), q)
    eu = [[dot(es[i], scaled[c]) for c in range(q)] for i in range(q)]
    moved = [total(eu[i][c]) for i, c in cells]
    if s.reml and p:
        GM, UM = ([[sum(r[d] * X_inverse[d, c] for d in range(p)) for c in range(p)] for r in x] for x in (GX, UX))
        ee = _symmetric(lambda i, k, ee=ee: ee[i][k] + dot(GM[i], GX[k]), q)
        uu = _symmetric(lambda c, f, uu=uu: uu[c][f] + dot(UM[c], UX[f]), q)
        eu = [[eu[i][c] + dot(GM[i], UX[c]) for c in range(q)] for i in range(q)]
    slope = [[counts * F[c][i] - eu[i][c] for c in range(q)] for i in range(q)]
    inner = _symmetric(lambda i, k: counts * H[i][k] - ee[i][k], q)
    g = [2 * total(slope[i][c]) for i, c in cells]
    h = [jnp.stack([total(UX[c][d] * e[i] + u[c] * GX[i][d]) for d in range(p)]) for i, c in cells] if p else []
    Xh = [jnp.sum(X_inverse * x[None], axis=1) for x in h]
    W = [_width(UX[c], GX[i], total, p) for i, c in cells] if s.reml and p else []
    XW = [jnp.sum(X_inverse[:, :, None] * x[None], axis=1) for x in W]
    rows: list[list[Any]] = [[None] * len(cells) for _ in cells]
    for a, (i, c) in enumerate(cells):
        for b, (k, f) in enumerate(cells[: a + 1]):
            each = M_inverse[c][f] * inner[i][k] + uu[c][f] * H[i][k] - F[c][k] * slope[i][f] + F[f][i] * eu[k][c]
            x = 2 * total(each) - 4 / df * moved[a] * moved[b]
            if p:
                x = x - 2 * kappa * jnp.sum(h[a] * Xh[b], axis=0)
            if s.reml and p:
                x = x - jnp.sum(XW[a] * jnp.swapaxes(XW[b], 0, 1), axis=(0, 1))
            rows[a][b] = rows[b][a] = x
    gradient, hessian = jnp.stack(g), jnp.stack([jnp.stack(r) for r in rows])
    if by_entries:
        gradient, hessian = _by_theta(theta, gradient, hessian, gram)
    return Value(value, gradient, hessian, (beta, pwrss / df, X_inverse))


def _symmetric(entry: Any, n: int) -> Matrix:
    """From (a, b) -> the entry of a symmetric matrix there."""
    rows = [[entry(a, b) for b in range(a + 1)] for a in range(n)]
    return [[rows[max(a, b)][min(a, b)] for b in range(n)] for a in range(n)]


def _entries(lam: Array, cells: tuple[tuple[int, int], ...]) -> list[list[Any]]:
    """λ entry by entry, None where it has a zero that is known beforehand."""
    q = len(lam)
    return [[lam[i, c] if (i, c) in cells else None for c in range(q)] for i in range(q)]


def _product(A: list[list[Any]], B: list[list[Any]]) -> Matrix:
    """AB, where both may have None for zero."""

    def entry(row: list[Any], j: int) -> Any:
        return sum(x * r[j] for x, r in zip(row, B, strict=True) if x is not None and r[j] is not None)

    return [[entry(row, j) for j in range(len(B[0]))] for row in A]


def _width(U: list[Array], G: list[Array], total: Any, p: int) -> Array:
    """Σ U'G + G'U (p, p, L) of one entry of λ."""
    x = _symmetric(lambda a, b: total(U[a] * G[b] + G[a] * U[b]), p)
    return jnp.stack([jnp.stack(row) for row in x])


def _every_cell(q: int) -> tuple[tuple[int, int], ...]:
    return tuple((i, c) for i in range(q) for c in range(q))


def _by_theta(theta: Array, g: Array, H: Array, gram: Gram) -> tuple[Array, Array]:
    """Derivatives by the q² entries of λ -> by theta, of which they are any function."""

    def entries(t: Array) -> Array:
        return scaled_factors(t, gram)[0].reshape(-1, *t.shape[1:])

    def first(t: Array) -> list[Array]:
        return [jax.jvp(entries, (t,), (e,))[1] for e in units]

    units = [jnp.zeros_like(theta).at[i].set(1.0) for i in range(len(theta))]
    J = jnp.stack(first(theta))
    second = jnp.stack([jnp.stack(jax.jvp(first, (theta,), (e,))[1]) for e in units])
    bent = jnp.einsum("ikcl,cl->ikl", second, g, precision="highest")
    return jnp.einsum("icl,cl->il", J, g, precision="highest"), bent + jnp.einsum(
        "ial,abl,kbl->ikl", J, H, J, precision="highest"
    )
