"""The errors of a fit together: those of its parameters, and those of the effects that it predicts.

Let ψ be the parameters whose errors count, with estimates of covariance V, and b̂(ψ) the modes of the effects.  Then

    b̂(ψ̂) - b  =  (b̂(ψ) - b) + G (ψ̂ - ψ),       G = db̂/dψ,       Var(b - b̂(ψ) | data) = s² N,   N = ΛM^-1Λ'

and the two parts are uncorrelated, so that with β = Bψ

    Var [β̂ - β; b̂ - b]  =  [B; G] V [B; G]' + [0 0; 0 s²N]

In a linear model at known variances (ψ = β, G = -N Z'WX, s = σ) this is σ² times the inverse of Henderson's matrix
[X'WX X'WZ; Z'WX Z'WZ + (ΛΛ')^-1] (Henderson 1975, Biometrics 31, 423-447), exact for any data, and nothing is divided
by a variance, which may be zero.  In a generalised model it is the normal law at the mode (s = 1), V from the Hessian
of the marginal likelihood and G by the implicit function theorem (Booth & Hobert 1998, JASA 93, 262-272; Kass &
Steffey 1989, JASA 84, 717-726).  The variances, too, may be among ψ: G then has what their errors do to b̂, and in a
linear model B what they do to β̂ (Kackar & Harville 1984, JASA 79, 853-862).

N of two levels of different factors is had by solving in M for the columns of the one, by any solver.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm import costs, solver
from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.design import NewData
from jaxmm.estimate import Estimates, explained
from jaxmm.estimate_glmm import GlmmEstimates, covariance_matrix
from jaxmm.fitted import Fitted
from jaxmm.gram import Gram
from jaxmm.objective.laplace import at_mode, scaled_point
from jaxmm.objective.lmm import eliminate
from jaxmm.objective.mode import effects
from jaxmm.objective.parameters import resolved
from jaxmm.rows import Rows

LARGEST = 4000  # rows of a joint covariance matrix: 128 MB
PARTS = ("fixed", "random", "variances")  # what may be uncertain of a mean: β̂; b; θ̂ and the constants of the family


class Errors(NamedTuple):
    """How ψ moves what is predicted, in the data's columns; factors in elimination order.

    ``beta`` (p, k): the coefficients of all predictors; ``constants`` (c, k): log φ and its kin; ``effects`` (J, q, k)
    of each factor: G; ``covariance`` (k, k): V; ``is_beta`` (k,): which of ψ are coefficients.
    """

    beta: np.ndarray
    constants: np.ndarray
    effects: list[np.ndarray]
    covariance: np.ndarray
    is_beta: np.ndarray

    def counting(self, uncertain: Collection[str]) -> np.ndarray:
        """V without what is taken for known."""
        counts = np.where(self.is_beta, "fixed" in uncertain, "variances" in uncertain)
        return np.where(counts[:, None] & counts, self.covariance, 0.0)


class Factored(NamedTuple):
    """M at the estimates: ``lams`` as to Z_s, ``roots`` the same as to Z (T λ), and s²."""

    lams: tuple[Any, ...]
    gram: Gram
    done: Any
    roots: list[np.ndarray]
    scale: float


# ---------------------------------------------------------------- a linear model
@Program
def _by_theta(theta: Array, gram: Gram) -> tuple[Array, tuple[Array, ...]]:
    """Derivatives of beta_s (m, p) and of the modes (m, J, q) in the data's columns by theta (m,) as to Z_s."""

    def found(t):
        lams, alike = resolved(t, gram)
        beta = eliminate(lams, alike).beta
        weights = jnp.append(-beta, 1.0)
        NB = solver.explained(lams, alike)
        return beta, tuple((x @ weights) @ jnp.asarray(T).T for x, T in zip(NB, gram.T, strict=True))

    _, push = jax.linearize(found, theta)
    return jax.lax.map(push, jnp.eye(len(theta), dtype=theta.dtype))


def linear_errors(arrays: Gram, e: Estimates, variances: bool) -> Errors:
    """Of beta, and with ``variances`` of theta after it; σ moves neither β̂ nor b̂."""
    p, T_X = arrays.structure.p, np.asarray(arrays.T_X)
    inverse = np.linalg.inv(T_X) if p else T_X
    by_beta = [-np.asarray(x)[:, :, :p] @ inverse for x in explained(e.theta_scaled, arrays)]
    V, own = np.asarray(e.vcov), np.eye(p)
    if variances:
        beta, modes = _by_theta(e.theta_scaled, arrays)
        own = np.hstack([own, T_X @ np.asarray(beta).T])
        by_beta = [
            np.concatenate([x, np.moveaxis(np.asarray(m), 0, -1)], axis=2) for x, m in zip(by_beta, modes, strict=True)
        ]
        m = own.shape[1] - p
        V = np.block([[V, np.zeros((p, m))], [np.zeros((m, p)), covariance_matrix(np.asarray(e.hessian), 0)]])
    return Errors(own, np.zeros((0, own.shape[1])), by_beta, V, np.arange(own.shape[1]) < p)


@Program
def _factored(theta: Array, gram: Gram) -> tuple[Any, Gram, Any]:
    lams, gram = resolved(theta, gram)
    return lams, gram, solver.factorise(lams, gram)


def linear_factored(arrays: Gram, e: Estimates) -> Factored:
    lams, gram, done = _factored(e.theta_scaled, arrays)
    return Factored(lams, gram, done, _roots(arrays, lams), float(e.sigma) ** 2)


def _roots(arrays: Any, lams: tuple[Any, ...]) -> list[np.ndarray]:
    return [np.asarray(T) @ np.asarray(lam) for T, lam in zip(arrays.T, lams, strict=True)]


# ---------------------------------------------------------------- a generalised model
def _size(psi: Array, rows: Rows, *_: Any) -> int:
    return rows.y.size + rows.structure.rest_size**2


def _modes_by_psi(psi: Array, rows: Rows, u: tuple[Array, ...], directions: Array) -> tuple[Array, ...]:
    """Derivatives of the modes (d, q, J), in the data's columns, along the directions (d, k) of psi."""

    def modes(x):
        point = scaled_point(x, rows)
        b = effects(point.lams, at_mode(point, rows, u, 3).u)
        return tuple(jnp.asarray(T) @ x for T, x in zip(rows.T, b, strict=True))

    _, push = jax.linearize(modes, psi)
    return jax.lax.map(push, directions)


modes_by_psi = Program(_modes_by_psi, size=_size)


def generalised_errors(arrays: Rows, e: GlmmEstimates, variances: bool) -> Errors:
    """Of beta_s, and with ``variances`` of all of psi: what theta's errors do to β̂ is in V already."""
    p, k = arrays.structure.p, arrays.layout.size if variances else arrays.structure.p
    moved = modes_by_psi(e.psi, arrays, e.u, np.eye(k, arrays.layout.size))
    constants = np.eye(arrays.layout.size)[arrays.layout.at("log_phi"), :k]
    return Errors(
        np.asarray(arrays.T_X) @ np.eye(p, k) if p else np.zeros((0, k)),
        constants if variances else constants[:0],
        [np.moveaxis(np.asarray(x), (0, 1, 2), (2, 1, 0)) for x in moved],
        np.asarray(e.covariance)[:k, :k],
        np.arange(k) < p,
    )


def _factored_at_mode(psi: Array, rows: Rows, u: tuple[Array, ...]) -> tuple[Any, Gram, Any]:
    point = scaled_point(psi, rows)
    at = at_mode(point, rows, u, 2)
    return point.lams, at.gram, at.done


factored_at_mode = Program(_factored_at_mode, size=_size)


def generalised_factored(arrays: Rows, e: GlmmEstimates) -> Factored:
    lams, gram, done = factored_at_mode(e.psi, arrays, e.u)
    return Factored(lams, gram, done, _roots(arrays, lams), 1.0)


# ---------------------------------------------------------------- columns of s²N
@Program
def _solved(done: Any, lams: tuple[Array, ...], gram: Gram, right: tuple[Array, ...]) -> tuple[Array, ...]:
    return jax.vmap(lambda r: solver.solve(done, lams, gram, r))(right)


def level_blocks(fit: Fitted) -> list[int]:
    """J of each factor, in elimination order."""
    return [len(fit.model.design.factors[k].levels) for k in fit.model.elimination.order]


def some_levels(levels: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray, int]]:
    """``levels`` in parts, of which one level takes ``size`` numbers: their places, themselves, and the length of all
    parts, filled up."""
    most = max(1, costs.COLUMNS_AT_ONCE // size)
    together = min(most, 1 << max(0, int(len(levels) - 1).bit_length()))
    for first in range(0, len(levels), together):
        own = levels[first : first + together]
        yield slice(first, first + len(own)), own, together


def columns(fit: Fitted, at: Factored, f: int, levels: np.ndarray) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """s²N between ``levels`` of factor ``f`` and every effect, some levels at a time: which of them, and of each factor
    an array (levels, q_f, q, J); factors in elimination order."""
    shapes = [(len(root), J) for J, root in zip(level_blocks(fit), at.roots, strict=True)]
    q = shapes[f][0]
    for inside, own, together in some_levels(levels, q * sum(a * J for a, J in shapes)):
        right = [np.zeros((together, q, *shape)) for shape in shapes]
        right[f][np.arange(len(own)), :, :, own] = at.roots[f]
        flat = tuple(x.reshape(together * q, *x.shape[2:]) for x in right)
        with computing(fit.model.device):
            x = [np.asarray(part) for part in _solved(at.done, at.lams, at.gram, flat)]
        yield (
            inside,
            [
                at.scale * np.einsum("ab,cbj->caj", root, part).reshape(together, q, *part.shape[1:])
                for root, part in zip(at.roots, x, strict=True)
            ],
        )


# ---------------------------------------------------------------- rows
class Touched(NamedTuple):
    """One factor's effects at m rows: its place in elimination order, the predictor that it adds to, Z (m, q), the
    level of each row, and whether the fit has it."""

    place: int
    predictor: int
    Z: np.ndarray
    codes: np.ndarray
    known: np.ndarray


def touched(fit: Fitted, rows: NewData, counted: Collection[str], all_new: bool) -> list[Touched]:
    """The factors ``counted``, in elimination order; with ``all_new`` no level is one of the fit's."""
    d, names, out = fit.model.design, list(fit.model.design.predictors), []
    for place, f in enumerate(fit.model.elimination.order):
        factor, codes = d.factors[f], rows.codes[f]
        if factor.name in counted:
            Z = np.hstack([z for z, term in zip(rows.Z, d.terms, strict=True) if term.factor == f])
            known = (codes >= 0) & (codes < len(factor.levels)) & (not all_new)
            out.append(Touched(place, names.index(factor.predictor), Z, np.where(known, codes, 0), known))
    return out


def covariances(fit: Fitted, rows: NewData, effects_at: list[Touched], uncertain: Collection[str], sampled: bool):
    """Of the errors of each row's linear predictors and of the constants (m, K + c, K + c), the latter with
    "variances" alone.

    A level that the fit has not seen has its own variance, z'Dz, where it is ``sampled``, and else none: b = 0.
    """
    d, model = fit.model.design, fit.model
    K, m = len(d.predictors), len(rows.X)
    with computing(model.device):
        errors = model.likelihood.errors(model.arrays, fit.estimates, "variances" in uncertain)
    V, c = errors.counting(uncertain), len(errors.constants)
    effects_at = effects_at if "random" in uncertain else []
    out = np.empty((m, K + c, K + c))
    for first in range(0, m, costs.PREDICTED_AT_ONCE):
        at = slice(first, first + costs.PREDICTED_AT_ONCE)
        A = np.zeros((len(rows.X[at]), K + c, len(V)))
        A[:, K:] = errors.constants
        for k, (X, own) in enumerate(zip((rows.X, *(X for X, _ in rows.further)), d.predictors.values(), strict=True)):
            A[:, k] = X[at] @ errors.beta[own]
        for t in effects_at:
            moved = np.einsum("nq,nqk->nk", t.Z[at], errors.effects[t.place][t.codes[at]])
            A[:, t.predictor] += np.where(t.known[at, None], moved, 0.0)
        out[at] = np.einsum("nak,kl,nbl->nab", A, V, A, optimize=True)
    for t in effects_at:
        f = model.elimination.order[t.place]
        given = np.einsum("na,nab,nb->n", t.Z, fit.effects.conditional[f][t.codes], t.Z)
        root = np.sqrt(model.likelihood.effects_scale(fit.estimates)) * fit.factor_lam(f)
        new = np.sum((t.Z @ root) ** 2, axis=1) if sampled else 0.0
        out[:, t.predictor, t.predictor] += np.where(t.known, given, new)

    def blocks(f: int, levels: np.ndarray):
        return columns(fit, factored_of(fit), f, levels)

    for both, a, b, value in pair_terms(effects_at, blocks):
        out[both, a.predictor, b.predictor] += value
        out[both, b.predictor, a.predictor] += value
    return out


def pair_terms(
    effects_at: list[Touched], blocks: Callable[[int, np.ndarray], Iterator[tuple[slice, list[np.ndarray]]]]
) -> Iterator[tuple[np.ndarray, Touched, Touched, np.ndarray]]:
    """z_f'N_fg z_g (k, ..) of each pair of factors, at the rows where the fit has the levels of both: these k rows, the
    two, the values.  The factors with few levels are solved for: ``blocks(place, levels)`` as ``columns``."""
    order = sorted(effects_at, key=lambda t: len(np.unique(t.codes[t.known])))
    for i, a in enumerate(order):
        others = [b for b in order[i + 1 :] if np.any(a.known & b.known)]
        some = np.flatnonzero(a.known)
        levels, place = np.unique(a.codes[some], return_inverse=True)
        for at, N in blocks(a.place, levels) if others else ():
            inside = (place >= at.start) & (place < at.stop)
            for b in others:
                here = inside & b.known[some]
                both, own = some[here], place[here] - at.start
                found = N[b.place][own, :, :, b.codes[both]]
                yield both, a, b, np.einsum("na,nab...,nb->n...", a.Z[both], found, b.Z[both])


def factored_of(fit: Fitted) -> Factored:
    """M at a fit's estimates."""
    with computing(fit.model.device):
        return fit.model.likelihood.factored(fit.model.arrays, fit.estimates)


# ---------------------------------------------------------------- the matrix
def joint_vcov(fit: Fitted, levels: Mapping[str, Any] | None, uncertain: Collection[str]) -> pd.DataFrame:
    """See ``Fit.joint_vcov``."""
    uncertain = check_uncertain(uncertain, PARTS)
    d, model = fit.model.design, fit.model
    chosen = _chosen_levels(fit, levels)
    labels = [("fixed", "", name) for name in d.coefficients]
    places, at = {}, len(labels)
    for f in (f for f in range(len(d.factors)) if len(chosen[f])):
        names = [e for t in d.terms if t.factor == f for e in t.effects]
        labels += [(d.factors[f].name, str(d.factors[f].levels[j]), e) for j in chosen[f] for e in names]
        places[f] = slice(at, at + len(chosen[f]) * len(names))
        at += len(chosen[f]) * len(names)
    if at > LARGEST:
        raise ValueError(
            f"the joint covariance matrix would have {at:,} rows, and {LARGEST:,} are the most: name fewer levels, as "
            f"levels={{{d.factors[0].name!r}: [...]}}; predict(interval=...) needs no such matrix"
        )
    with computing(model.device):
        errors = model.likelihood.errors(model.arrays, fit.estimates, "variances" in uncertain)
    slopes = np.zeros((at, len(errors.covariance)))
    slopes[: len(errors.beta)] = errors.beta
    for f in places if "random" in uncertain else ():
        own = errors.effects[model.elimination.order.index(f)][chosen[f]]
        slopes[places[f]] = own.reshape(-1, own.shape[-1])
    out = slopes @ errors.counting(uncertain) @ slopes.T
    if places and "random" in uncertain:
        _add_columns(out, fit, chosen, places)
    index = pd.MultiIndex.from_tuples(labels, names=["part", "level", "effect"])
    return pd.DataFrame(0.5 * (out + out.T), index, index)


def _add_columns(out: np.ndarray, fit: Fitted, chosen: list[np.ndarray], places: dict[int, slice]) -> None:
    """s²N of the levels ``chosen`` of each factor of the design, at their ``places``."""
    factored, order = factored_of(fit), fit.model.elimination.order
    for f, own in places.items():
        for some, N in columns(fit, factored, order.index(f), chosen[f]):
            q = N[0].shape[1]
            rows = slice(own.start + some.start * q, own.start + some.stop * q)
            for g, other in places.items():
                block = N[order.index(g)][: some.stop - some.start, :, :, chosen[g]]
                out[rows, other] += block.transpose(0, 1, 3, 2).reshape(rows.stop - rows.start, -1)


def _chosen_levels(fit: Fitted, levels: Mapping[str, Any] | None) -> list[np.ndarray]:
    """The places of the levels asked for, of each factor of the design.

    Raises:
        TypeError: no mapping.
        ValueError: a factor, or a level, that the fit has not.
    """
    factors = fit.model.design.factors
    if levels is None:
        return [np.arange(len(f.levels)) for f in factors]
    if not isinstance(levels, Mapping):
        raise TypeError(f"levels must be a mapping such as {{{factors[0].name!r}: [...]}}, or None, not {levels!r}")
    out = {f.name: np.arange(0) for f in factors}
    for name, wanted in levels.items():
        if name not in out:
            raise ValueError(f"levels: there is no grouping factor {name!r}; the model has {', '.join(map(repr, out))}")
        if isinstance(wanted, str) or not isinstance(wanted, Collection):
            raise ValueError(f"levels[{name!r}] must be a list of levels, not {wanted!r}")
        known = {str(level): j for j, level in enumerate(next(f.levels for f in factors if f.name == name))}
        unknown = [level for level in wanted if str(level) not in known]
        if unknown:
            shown = ", ".join(map(repr, list(known)[:5])) + (", ..." if len(known) > 5 else "")
            raise ValueError(f"levels[{name!r}]: the fit has not seen {unknown[0]!r}; its levels are {shown}")
        out[name] = np.array(list(dict.fromkeys(known[str(level)] for level in wanted)), int)
    return [out[f.name] for f in factors]


def check_uncertain(uncertain: Any, accepted: Collection[str]) -> tuple[str, ...]:
    """``uncertain`` in the order of what is accepted; one name may stand alone.

    Raises:
        ValueError: nothing, or something else.
    """
    given = (uncertain,) if isinstance(uncertain, str) else uncertain
    shown = ", ".join(map(repr, accepted))
    if not isinstance(given, Collection) or not given:
        raise ValueError(f"uncertain must hold one or more of {shown}, not {uncertain!r}")
    unknown = [name for name in given if name not in accepted]
    if unknown:
        raise ValueError(f"uncertain may hold {shown}, and has {unknown[0]!r}")
    return tuple(name for name in accepted if name in given)
