"""One grouping factor, any family: Laplace's approximation for all lanes at once, with its derivatives in closed form.

With l(t) the log density of a level as a function of its coordinates t = (beta, b, log phi), b = λu, A = -l_bb,
S = λ'Aλ + I and h(u) = u'u/2 - l,

    F(psi, u) = 2 h + log|S|,          f(psi) = F(psi, û(psi)),          h_u(psi, û(psi)) = 0

psi = (beta, theta, log phi), where theta are entries of λ.  Along direction i of psi, t moves by τ_i and λ by Λ_i;

    u_i   =  S^-1 (Λ_i' l_b + λ' l_bt τ_i)                 with u fixed in τ_i, from h_u = 0;   then τ_i with u_i in it
    dA_i  =  Σ_c A_c τ_ic,      dS_i = λ'dA_i λ + Λ_i'Aλ + λ'AΛ_i,      v_c = tr(λS^-1λ' A_c)
    f_i   =  -2 l_t τ_i + v'τ_i + 2 tr(S^-1 λ'A Λ_i)       with u fixed in the first τ_i
    f_ij  =  τ_i'W τ_j + n'(Λ_i u_j + Λ_j u_i) + 2 u_i'u_j - tr(S^-1 dS_i S^-1 dS_j) + 2 tr(S^-1 Λ_i'A Λ_j)
             + 2 tr(S^-1 λ'(dA_j Λ_i + dA_i Λ_j)) + a'(Λ_i' l_bt τ_j + Λ_j' l_bt τ_i)

with a = S^-1 λ'v_b, n = v_b - 2 l_b + l_bb λa, and W the sum over rows of r r' (-2 d2 - d4 z'λS^-1λ'z + d3 z'λa), where
r = (x, z) and dk is the kth derivative of log p.  Beside d0, .., d4 everything has the size of the levels, so that a
Hessian costs about as much as the value, and none of it goes through the search for û.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmm._pieces import hold
from jaxmm._types import Array
from jaxmm.lanes.advance import Value
from jaxmm.lanes.entrywise import lower_pairs, unpacked
from jaxmm.lanes.laplace_table import (
    Kept,
    Own,
    RowTable,
    Sums,
    factor,
    find_modes,
    linear_predictor,
    log_density,
    log_of_phi,
    root,
)
from jaxmm.objective.density import Expansion, expansion


class _Space(NamedTuple):
    """The coordinates of a level, c = p + q + f of them: beta, b, log phi; and ``cells`` (row, column), the entry of λ
    that each theta is.  Vectors over effects are (q, J, ..), matrices (q, q, J, ..)."""

    p: int
    q: int
    f: int
    cells: tuple[tuple[int, int], ...]

    def b(self, vector: Array) -> Array:
        """Of coordinates (.., J, c, L) those of b, first: (q, .., J, L)."""
        return jnp.moveaxis(vector[..., self.p : self.p + self.q, :], -2, 0)

    def fixed(self, vector: Array) -> Array:
        """τ_i'vector with u fixed, but for theta: (.., J, c, L) -> (.., J, k, L)."""
        gap = jnp.zeros((*vector.shape[:-2], len(self.cells), vector.shape[-1]), vector.dtype)
        return jnp.concatenate([vector[..., : self.p, :], gap, vector[..., self.p + self.q :, :]], axis=-2)

    def of_theta(self, values: list[Array]) -> Array:
        """What theta alone moves: each (.., J, L) -> (.., J, k, L)."""
        whole = jnp.stack(values, axis=-2)
        before, after = (jnp.zeros((*whole.shape[:-2], n, whole.shape[-1]), whole.dtype) for n in (self.p, self.f))
        return jnp.concatenate([before, whole, after], axis=-2)


class _Rows(NamedTuple):
    """Derivatives of log p at the rows, (J, H, L), by the weights of a lane, and their sums over the rows of levels."""

    C: Expansion
    over: Sums
    space: _Space

    def d(self, by_eta: int, *by_phi: int) -> Array:
        """log p differentiated so often by eta, and by each log phi that is named."""
        return self.C[(by_eta, *(by_phi.count(j) for j in range(self.space.f)))]

    def coordinates(self, by_r: Array, by_phi: list[Array], n: int) -> Array:
        """(J, n r, L), and (J, n, L) for each log phi -> (n, J, c, L)."""
        J, _, L = by_r.shape
        parts = [by_r.reshape(J, n, -1, L), *(x[:, :, None] for x in by_phi)]
        return jnp.moveaxis(jnp.concatenate(parts, axis=2), 1, 0)


class _Level(NamedTuple):
    """Levels at their modes: ``u``, ``l_b`` (q, J, L), ``l_bt`` (q, J, c, L), ``A``, ``inverse`` = S^-1 (q, q, J, L),
    ``A_t`` (q, q, J, c, L), ``lam`` (q, q, 1, L), ``v`` (J, c, L), ``a`` and ``moved`` = λa (q, J, L), ``spread`` =
    λS^-1λ', ``det`` (J, L)."""

    lam: Array
    u: Array
    l_b: Array
    l_bt: Array
    A: Array
    A_t: Array
    inverse: Array
    det: Array
    spread: Array
    v: Array
    a: Array
    moved: Array


# ---------------------------------------------------------------- small matrices on the first axes
def _times(A: Array, B: Array) -> Array:
    return sum(A[:, c, None] * B[c] for c in range(len(B)))  # pyright: ignore


def _apply(A: Array, x: Array) -> Array:
    return sum(A[:, c] * x[c] for c in range(len(x)))  # pyright: ignore


def _turned(A: Array) -> Array:
    return jnp.swapaxes(A, 0, 1)


def _wide(x: Array) -> Array:
    """The same for all directions, coordinates or rows: (.., J, L) -> (.., J, 1, L)."""
    return x[..., None, :]


# ---------------------------------------------------------------- the parts
def _at_modes(rows: _Rows, u: Array, lam: Array) -> _Level:
    sums, q, phis = rows.over.by_level, rows.space.q, range(rows.space.f)
    l_b = jnp.moveaxis(sums("z", rows.d(1)), 1, 0)
    l_bt = rows.coordinates(sums("zr", rows.d(2)), [sums("z", rows.d(1, j)) for j in phis], q)
    packed = rows.coordinates(sums("zzr", rows.d(3)), [sums("zz", rows.d(2, j)) for j in phis], len(lower_pairs(q)))
    A_t = -jnp.stack([jnp.stack(row) for row in unpacked(packed, q)])
    A = -_turned(rows.space.b(l_bt))
    det, inverse = root([list(row) for row in A], [list(row) for row in lam])
    inverse = jnp.stack([jnp.stack(row) for row in inverse])
    spread = _times(lam, _times(inverse, _turned(lam)))
    v = jnp.sum(_wide(spread) * A_t, axis=(0, 1))
    a = _apply(inverse, _apply(_turned(lam), rows.space.b(v)))
    return _Level(lam, u, l_b, l_bt, A, A_t, inverse, det, spread, v, a, _apply(lam, a))


class _Curvature(NamedTuple):
    """W: the rows of b (q, J, c, L); summed over the levels, (beta, log phi) in the places of psi (k, k, L)."""

    W_bt: Array
    summed: Array


def _curvature(rows: _Rows, at: _Level, copies: Array | None) -> _Curvature:
    (p, q, f, cells), over, Z = rows.space, rows.over, rows.over.Z
    spread = [(a, b, at.spread[a, b] * (1.0 if a == b else 2.0)) for a, b in lower_pairs(q)]
    bent = sum((Z[a] * Z[b]) * _wide(x) for a, b, x in spread)
    tilt = sum(Z[a] * _wide(at.moved[a]) for a in range(q))

    def omega(by_eta: int, *by_phi: int) -> Array:
        return -2 * rows.d(by_eta, *by_phi) - rows.d(by_eta + 2, *by_phi) * bent + rows.d(by_eta + 1, *by_phi) * tilt

    of_eta, mixed = omega(2), [omega(1, j) for j in range(f)]
    W_bt = rows.coordinates(over.by_level("zr", of_eta), [over.by_level("z", x) for x in mixed], q)
    k, L = p + len(cells) + f, of_eta.shape[-1]
    summed = jnp.zeros((k, k, L), of_eta.dtype)
    if p:
        both = unpacked(over.total("xx", of_eta, copies), p)
        summed = summed.at[:p, :p].set(jnp.stack([jnp.stack(row) for row in both]))
    for j in range(f):
        x = over.total("x", mixed[j], copies)
        summed = summed.at[:p, k - f + j].set(x).at[k - f + j, :p].set(x)
        for i in range(f):
            own = _over_levels(over.by_level("one", omega(0, i, j))[:, 0], copies)
            summed = summed.at[k - f + i, k - f + j].set(own)
    return _Curvature(W_bt, summed)


def _over_levels(x: Array, copies: Array | None) -> Array:
    """Sums (J, .., L) -> (.., L), each level as often as it counts."""
    return jnp.sum(x if copies is None else x * copies.reshape(len(x), *[1] * (x.ndim - 2), -1), axis=0)


def _moves(at: _Level, space: _Space) -> tuple[Array, Array]:
    """u_i and the part of τ_i in b, along each direction: (q, J, k, L)."""
    lam, turned, u, none = _wide(at.lam), _wide(_turned(at.lam)), at.u, jnp.zeros_like(at.det)
    l_bb = space.b(at.l_bt)
    push = space.fixed(at.l_bt) + space.of_theta([l_bb[i] * u[c] for i, c in space.cells])
    own = space.of_theta([jnp.stack([at.l_b[i] if c == d else none for d in range(space.q)]) for i, c in space.cells])
    u_i = hold(_apply(_wide(at.inverse), hold(_apply(turned, push) + own)))
    own = space.of_theta([jnp.stack([u[c] if i == a else none for a in range(space.q)]) for i, c in space.cells])
    return u_i, hold(_apply(lam, u_i) + own)


def value_and_derivatives(psi: Array, own: Own, kept: Kept, t: RowTable) -> Value:
    """-2 log-likelihood (L,) at psi (k, L), its gradient and Hessian; the modes from where ``kept`` predicts them."""
    over, copies = Sums(own, t), own.copies
    beta, theta, log_phi = t.layout.split(psi)
    lam, space = factor(theta, t.structure), _Space(len(beta), len(t.Z), len(log_phi), t.cells)
    u = find_modes(psi, own, kept.u + jnp.sum(kept.slope * (psi - kept.psi), axis=2), t)
    eta = linear_predictor(beta, u, lam, own, t)
    C = expansion(lambda e, phi: log_density(e[0], phi, own, t), (eta,), log_phi, 4)
    rows = _Rows({index: own.weigh(x) for index, x in C.items()}, over, space)
    at = _at_modes(rows, jnp.moveaxis(u, 1, 0), jnp.stack([jnp.stack(row) for row in lam])[:, :, None])
    by_level = jnp.sum(u * u, axis=1) + jnp.log(at.det) - 2 * over.by_level("one", rows.d(0))[:, 0]
    apart, slope, bend = _of_phi(log_phi, own, over, t)
    value = _over_levels(by_level, copies) - 2 * (own.constant + apart)
    u_i, b_i = _moves(at, space)

    def moving(vector: Array) -> Array:
        """τ_i'vector, u moving too: (.., J, c, L) -> (.., J, k, L)."""
        return space.fixed(vector) + sum(_wide(x) * y for x, y in zip(space.b(vector), b_i, strict=True))

    # the gradient
    Al = _times(at.A, at.lam)
    SA = _times(at.inverse, _turned(Al))
    direct = space.of_theta([2 * SA[c, i] - 2 * at.l_b[i] * at.u[c] for i, c in t.cells])
    g = _over_levels(moving(at.v) + direct, copies)
    parts = [over.total("x", rows.d(1), copies), jnp.zeros_like(theta)]
    parts += [_over_levels(over.by_level("one", rows.d(0, j)), copies) + slope[j] for j in range(space.f)]
    g = g - 2 * jnp.concatenate(parts)

    # the Hessian: first the sums over levels of products of two directions
    W = _curvature(rows, at, copies)
    turned, inverse = _wide(_turned(at.lam)), _wide(at.inverse)
    half = hold(_times(turned, hold(moving(at.A_t))))  # λ'dA_i
    bent = space.of_theta([_corner(Al[i], c, space.q) for i, c in t.cells])
    B = _times(inverse, hold(_times(half, _wide(at.lam)) + bent + _turned(bent)))
    left = [u_i, space.fixed(W.W_bt), b_i, *B]
    right = [2 * u_i, b_i, moving(W.W_bt), *-_turned(B)]
    right = right if copies is None else [x * _wide(copies) for x in right]
    left, right = (hold(jnp.concatenate(x)).reshape(-1, *psi.shape) for x in (left, right))
    H = W.summed + jnp.einsum("ril,rjl->ijl", left, right, precision="highest")

    # then what the factor λ enters by itself
    n = space.b(at.v) - 2 * at.l_b + _apply(space.b(at.l_bt), at.moved)
    mixed = _wide(n)[:, None] * u_i + 2 * _turned(_times(inverse, half)) + _wide(at.a) * moving(at.l_bt)[:, None]
    mixed = _over_levels(jnp.moveaxis(mixed, 2, 0), copies)
    counted = at.A if copies is None else at.A * copies
    twice = jnp.einsum("abjl,cdjl->abcdl", counted, at.inverse, precision="highest")
    for e, (i, c) in enumerate(t.cells, len(beta)):
        H = H.at[e].add(mixed[i, c]).at[:, e].add(mixed[i, c])
        for o, (j, d) in enumerate(t.cells, len(beta)):
            H = H.at[e, o].add(2 * twice[i, j, d, c])
    if space.f:
        H = H.at[-space.f :, -space.f :].add(-2 * bend)
    return Value(value, g, H, Kept(psi, u, jnp.moveaxis(u_i, 0, 1)))


def _of_phi(log_phi: Array, own: Own, over: Sums, t: RowTable) -> tuple[Array, Array, Array]:
    """What no eta moves of the log density, over all rows (L,), and its derivatives by log phi (f, L), (f, f, L)."""
    units = [jnp.zeros_like(log_phi).at[j].set(1.0) for j in range(len(log_phi))]

    def total(x: Array) -> Array:
        by_level = over.by_level("one", own.weigh(log_of_phi(x, own, t)))[:, 0]
        return _over_levels(by_level, own.copies)

    def slope(x: Array) -> Array:
        return jnp.stack([jax.jvp(total, (x,), (unit,))[1] for unit in units])

    if not units:
        none = jnp.zeros((0, own.y.shape[-1]), own.y.dtype)
        return total(log_phi), none, none[None]
    return total(log_phi), slope(log_phi), jnp.stack([jax.jvp(slope, (log_phi,), (unit,))[1] for unit in units])


def _corner(row: Array, c: int, q: int) -> Array:
    """(q, J, L) as row c of a matrix (q, q, J, L) of zeros."""
    return jnp.stack([row if d == c else jnp.zeros_like(row) for d in range(q)])
