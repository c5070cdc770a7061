"""Kenward & Roger's covariance of β̂ and scaled F (1997, Biometrics 53, 983-997), without an n × n matrix.

Let V = σ² I + Z D Z' be linear in variances and covariances v_i, with V_i = ∂V/∂v_i, M = X'V⁻¹X and Φ = M⁻¹.  Then

    P_i = ∂M/∂v_i = −X'V⁻¹V_iV⁻¹X                Q_ij + Q_ji = ∂²M/∂v_i∂v_j,   Q_ij = X'V⁻¹V_iV⁻¹V_jV⁻¹X
    tr V⁻¹V_iV⁻¹V_j = −∂² log|V| / ∂v_i∂v_j

so that first and second derivatives of ``reduce`` are all there is to compute, whatever the factors.  With W the
inverse of the expected information ½ (tr V⁻¹V_iV⁻¹V_j − 2 tr ΦQ_ij + tr ΦP_iΦP_j) by REML,

    Φ_A = Φ + 2 Φ (Σ_ij W_ij (Q_ij − P_iΦP_j)) Φ

and the F of Lβ is scaled and has degrees of freedom that match its approximate mean and variance (p. 987).

What their Σ W_ij R_ij / 4 adds, R_ij = X'V⁻¹(∂²V/∂v_i∂v_j)V⁻¹X, is zero where V is linear in the parameters, as with
free variances and covariances.  Elsewhere it depends on how the parameters are written, and "kenward-roger-linear"
leaves it out, as SAS's DDFM=KENWARDROGER(FIRSTORDER), with V_i the derivatives at the estimates.

Of errors with a covariance and no random effects W is the inverse of the observed information, as SAS's PROC MIXED has
it, which for missing visits is another; by the expected one degrees of freedom of its published examples come out up to
a sixth larger.

A singular D is no obstacle to V⁻¹, only to its root: the derivatives are taken at D + εI, at four ε so small that V is
a polynomial there, and extrapolated to ε = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.covariance import Covariance
from jaxmm.estimate import joint_hessian
from jaxmm.gram import Gram
from jaxmm.inference.ddf._base import Denominator
from jaxmm.objective.parameters import scaled_factors
from jaxmm.solver import level_systems, reduce

SINGULAR_BELOW = 1e-5  # least eigenvalue of D, in units of what a level's data tell
SHIFT = 1e-3  # in the same units; the error of the extrapolation is of fourth order
SHIFTS, EXTRAPOLATE = (1.0, 2.0, 3.0, 4.0), (4.0, -6.0, 4.0, -1.0)
UNTOLD = 1e-9  # of the largest eigenvalue of the information on the variances, in units of their own
UNKNOWN = "Kenward & Roger's degrees of freedom are NaN: the data do not tell all variances and covariances apart"


def _criterion(v: Array, directions: tuple[Array, ...], roots: tuple[Array, ...], gram: Gram, errors: Any) -> Array:
    """log|V| and M (1 + p²,) as functions of v = (coefficients of the directions of each factor's D, of those of the
    errors' covariance, σ²)."""
    s2, at, lams = 1 + v[-1], 0, []
    for B, D in zip(directions, roots, strict=True):
        moved = D + jnp.tensordot(v[at : at + len(B)], B, 1)
        lams.append(jnp.linalg.cholesky(moved / s2))
        at += len(B)
    if errors is not None:
        R, dR = errors
        gram = gram.residual.whitened(R + jnp.tensordot(v[at:-1] / s2, dR, 1), gram)
    logdet, C = reduce(tuple(lams), gram)
    p = gram.structure.p
    whole = logdet - gram.sum_log_weights + gram.n_obs * jnp.log(s2)
    return jnp.concatenate([whole[None], (C[:p, :p] / s2).ravel()])


@partial(Program, size=lambda directions, D, gram, errors: gram.structure.solver.size(gram))
def _expansion(
    directions: tuple[Array, ...], D: tuple[Array, ...], gram: Gram, errors: Any
) -> tuple[Array, Array, Array]:
    """Value (1 + p²,), first (k, ..) and second derivatives (k, k, ..) by v, at 0; σ² = 1, D relative to it."""
    k = 1 + sum(len(B) for B in directions) + (0 if errors is None else len(errors[1]))
    zero, eye = jnp.zeros(k, gram.dtype), jnp.eye(k, dtype=gram.dtype)

    def first(v):
        value, push = jax.linearize(lambda x: _criterion(x, directions, D, gram, errors), v)
        return value, jax.vmap(push)(eye)

    def second(e):
        return jax.jvp(lambda v: first(v)[1], (zero,), (e,))[1]

    return *first(zero), jax.lax.map(second, eye)


@dataclass(frozen=True, eq=False)
class KenwardRoger:
    """``T`` (p, p) the columns X_s; in these, relative to σ², ``Phi`` (p, p) and ``P`` (k, p, p); ``W`` (k, k)."""

    name: str
    beta: np.ndarray
    vcov: np.ndarray
    T: np.ndarray
    Phi: np.ndarray
    P: np.ndarray
    W: np.ndarray
    notes: tuple[str, ...] = ()

    def df(self, L: np.ndarray) -> np.ndarray:
        return np.array([self.denominator(row[None]).df for row in L])

    def denominator(self, L: np.ndarray) -> Denominator:
        """The moments of F matched by one scaled, as in the paper's section 3."""
        rows, k = L @ self.T, len(L)
        V = rows @ self.Phi @ rows.T
        if not (np.all(np.isfinite(V)) and np.all(np.isfinite(self.W)) and np.all(np.diag(V) > 0)):
            return Denominator(np.nan, np.nan)
        left = np.linalg.solve(V, rows @ self.Phi)  # of ΘΦ, Θ = L'(LΦL')⁻¹L
        each = left @ self.P @ (self.Phi @ rows.T)  # (.., k, k); its traces and products are those of ΘΦPΦ
        traces = np.trace(each, axis1=1, axis2=2)
        A1 = traces @ self.W @ traces
        A2 = np.einsum("ij,iab,jba->", self.W, each, each)
        return _matched(A1, A2, k)


def _matched(A1: float, A2: float, k: int) -> Denominator:
    if A2 <= 0:
        return Denominator(1.0, np.inf)
    if k == 1:  # A1 = A2: what follows comes to this, by 0 / 0 where df = 2
        return Denominator(1.0, float(2 / A2))
    B = (A1 + 6 * A2) / (2 * k)
    g = ((k + 1) * A1 - (k + 4) * A2) / ((k + 2) * A2)
    c = np.array([g, k - g, k + 2 - g]) / (3 * k + 2 * (1 - g))
    low, mid, high = 1 + c[0] * B, 1 - c[1] * B, 1 - c[2] * B
    both = max(abs(mid), abs(1 - A2 / k)) < 1e-8
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = low / high * (1.0 if both else (1 - A2 / k) / mid) ** 2  # k V* / (2 E*²)
        df = 4 + (k + 2) / (rho - 1)
        scale = df * (1 - A2 / k) / (df - 2)
    if not np.isfinite(df) or df <= 0:
        return Denominator(np.nan, np.nan)
    return Denominator(1.0 if abs(df - 2) < 1e-2 else float(scale), float(df))


# ---------------------------------------------------------------- which V there are
def _span(structure: Covariance, at: Any) -> np.ndarray:
    """A basis (d, q, q) of the smallest linear space that holds all D = lam lam' of the structure."""
    draws = np.random.default_rng(0).normal([[1.0], [0.3], [-1.0]], 0.5, (3, structure.num_params))
    more = np.random.default_rng(1).normal(0.0, 1.0, (4 * structure.q**2, structure.num_params))
    Ds = [lam @ lam.T for lam in (structure.lam(t, at) for t in np.vstack([draws, more]))]
    flat = np.stack([D / np.linalg.norm(D) for D in Ds]).reshape(len(Ds), -1)
    _, size, rows = np.linalg.svd(flat, full_matrices=False)
    return rows[size > 1e-8 * size[0]].reshape(-1, structure.q, structure.q)


def _directions(theta: np.ndarray, gram: Gram) -> tuple[list[np.ndarray], str | None]:
    """Of each factor the directions (d, q, q) of its D, and a term whose D are not linear in its parameters."""
    s, curved = gram.structure, None
    widths = [*s.chain, *(q for _, q in s.rest)]
    found: list[list[np.ndarray]] = [[] for _ in widths]
    for term, own, at in zip(s.terms, s.slices(), gram.inputs, strict=True):
        structure = term.covariance
        if structure.absolute:  # a part of V that is known
            continue
        basis = _span(structure, at)
        if len(basis) > structure.num_params:
            curved = structure.name
            lam, moved = structure.lam(theta[own], at), structure.derivative(theta[own], at)
            basis = moved @ lam.T + lam @ np.swapaxes(moved, 1, 2)
        inside = slice(term.at, term.at + structure.q)
        whole = np.zeros((len(basis), widths[term.position], widths[term.position]))
        whole[:, inside, inside] = basis
        found[term.position].append(whole)
    return [np.concatenate([np.zeros((0, q, q)), *f]) for f, q in zip(found, widths, strict=True)], curved


# ---------------------------------------------------------------- the parts put together
def kenward_roger(model: Any, estimates: Any) -> KenwardRoger:
    """Of a linear model by REML whose V is linear in the variances and covariances.

    Raises:
        ValueError: a fit by ML, or a structure whose D is not linear in its parameters.
    """
    return _made(model, estimates, "kenward-roger")


def kenward_roger_linear(model: Any, estimates: Any) -> KenwardRoger:
    """The same without second derivatives of V; of any structure.

    Raises:
        ValueError: a fit by ML.
    """
    return _made(model, estimates, "kenward-roger-linear")


def _made(model: Any, e: Any, name: str) -> KenwardRoger:
    if not model.reml:
        raise ValueError(f"ddf={name!r} is for fits by REML: fit with reml=True, or use 'satterthwaite'")
    gram: Gram = model.arrays
    theta, p, T = np.asarray(e.theta_scaled), gram.structure.p, np.asarray(gram.T_X)
    directions, curved = _directions(theta, gram)
    if curved and name == "kenward-roger":
        raise ValueError(
            f"ddf='kenward-roger' depends on how the parameters of {curved}(...) are written: use "
            "'kenward-roger-linear', which does not, or 'satterthwaite'"
        )
    if name == "kenward-roger" and gram.residual is not None and not errors_are_linear(gram):
        raise ValueError(
            f"ddf='kenward-roger' depends on how the parameters of {model.design.residual.text} are written: use "
            "'kenward-roger-linear', which does not, or 'satterthwaite'"
        )
    beta, sigma2 = np.asarray(e.beta), float(e.sigma) ** 2
    if not p:
        k = 1 + sum(map(len, directions)) + gram.structure.num_theta - gram.structure.num_random
        return KenwardRoger(name, beta, np.zeros((0, 0)), T, np.zeros((0, 0)), np.zeros((k, 0, 0)), np.eye(k))
    with computing(model.device):
        factors = [np.asarray(lam) for lam in scaled_factors(e.theta_scaled, gram)]
        errors = None if gram.residual is None else _errors(e.theta_scaled[gram.structure.num_random :], gram)
        D, share = [lam @ lam.T for lam in factors], 1.0
        if errors is None:
            D, share = _shared(D, directions, gram)
        value, first, second = _derivatives(directions, D, gram, errors)
        observed = None if errors is None or directions else 0.5 * joint_hessian(e, gram)
    if gram.log_sigma2 is not None:  # σ² is known: none of the variances that are estimated
        first, second = first[:-1], second[:-1, :-1]
    sigma2 *= share
    M, P, Q = (
        value[1:].reshape(p, p),
        first[:, 1:].reshape(-1, p, p),
        0.5 * second[..., 1:].reshape(*second.shape[:2], p, p),
    )
    Phi = np.linalg.inv(M)
    PhiP = Phi @ P
    information = 0.5 * (-second[..., 0] - 2 * np.einsum("ab,ijba->ij", Phi, Q) + np.einsum("iab,jba->ij", PhiP, PhiP))
    information = information if observed is None else observed  # by rho and log σ², which are the directions
    unit = np.sqrt(np.abs(np.diag(information))) + 1e-300
    scaled = information / np.outer(unit, unit)
    W, notes = _inverse(scaled, Phi @ P @ Phi / unit[:, None, None]), ()
    if W is None:
        W, notes = np.full(information.shape, np.nan), (UNKNOWN,)
    W = W / np.outer(unit, unit)
    inner = np.einsum("ij,ijab->ab", W, Q) - np.einsum("ij,iab,jbc->ac", W, P, PhiP)
    adjusted = Phi + Phi @ (inner + inner.T) @ Phi
    return KenwardRoger(name, beta, sigma2 * T @ adjusted @ T.T, T, Phi, P, W, notes)


def _inverse(information: np.ndarray, moves: np.ndarray) -> np.ndarray | None:
    """The inverse without the directions that the data do not tell; None if Φ changes (k, p, p) along one of these."""
    if not np.all(np.isfinite(information)):
        return None
    if not len(information):
        return information
    w, Q = np.linalg.eigh(information)
    told = w > UNTOLD * w[-1]
    lost = np.abs(np.tensordot(Q[:, ~told].T, moves, 1)).max(initial=0.0)
    if lost > np.sqrt(UNTOLD) * np.abs(moves).max(initial=0.0):
        return None
    return (Q[:, told] / w[told]) @ Q[:, told].T


def _shared(D: list[np.ndarray], directions: list[np.ndarray], gram: Gram) -> tuple[list[np.ndarray], float]:
    """The same V with a larger σ², and the factor of σ², if D could take over all of it: ZBZ' = I for a direction B.

    Two visits with variances of their own are an example: the likelihood does not tell σ² from these, and a fit may end
    with a σ² so small beside D that derivatives by it are rounding error.
    """
    systems = list(level_systems(gram))
    if len(D) > 1 or np.linalg.eigvalsh(D[0])[0] <= 0:
        return D, 1.0
    BA = np.einsum("iab,jbc->ijac", directions[0], np.asarray(systems[0][0]))
    G, h, n = np.einsum("ijab,kjba->ik", BA, BA), np.einsum("ijaa->i", BA), float(np.asarray(gram.n_obs))
    c = np.linalg.lstsq(G, h, rcond=None)[0]
    if n - h @ c > 1e-9 * n:
        return D, 1.0
    B, root = np.tensordot(c, directions[0], 1), np.linalg.inv(np.linalg.cholesky(D[0]))
    t = 0.5 / np.linalg.eigvalsh(root @ B @ root.T)[-1]
    return [(D[0] - t * B) / (1 + t)], 1 + t


@Program
def _errors(rho: Array, gram: Gram) -> tuple[Array, Array]:
    """The errors' covariances over σ², and their derivatives (k, ..) by rho (k,)."""
    R, push = jax.linearize(gram.residual.covariances, rho)
    return R, jax.vmap(push)(jnp.eye(len(rho), dtype=rho.dtype))


def errors_are_linear(gram: Gram) -> bool:
    """Whether the errors' covariances are all of a linear space."""
    layout = gram.structure.residual
    if layout is None or layout.columns:
        return layout is None
    structure, own = layout.covariance, gram.residual.patterns
    if structure is None or structure.free_form or not structure.num_params:
        return True
    return own.place is None and len(_span(structure, own.positions)) == structure.num_params


def _derivatives(
    directions: Sequence[np.ndarray], D: Sequence[np.ndarray], gram: Gram, errors: Any
) -> list[np.ndarray]:
    """``_expansion`` at D; where it is singular, extrapolated."""
    if not len(D):
        return [np.asarray(x) for x in _expansion((), (), gram, errors)]
    told = sum(float(np.max(np.trace(A, axis1=1, axis2=2), initial=0.0)) for A, _ in level_systems(gram))
    least = min(float(np.linalg.eigvalsh(d)[0]) for d in D)
    if least * told > SINGULAR_BELOW:
        return [np.asarray(x) for x in _expansion(tuple(directions), tuple(D), gram, errors)]
    total: list[Any] = [0.0, 0.0, 0.0]
    for shift, weight in zip(SHIFTS, EXTRAPOLATE, strict=True):
        moved = tuple(d + shift * SHIFT / told * np.eye(len(d)) for d in D)
        found = _expansion(tuple(directions), moved, gram, errors)
        total = [t + weight * np.asarray(x) for t, x in zip(total, found, strict=True)]
    return total
