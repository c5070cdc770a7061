"""Responses of a fit's own data, resampled: its residuals and modes, or its groups.

    Residual      y* = Xβ̂ + offset + Zu* + L r*       u* of the reflated modes, r* of the reflated residuals L⁻¹e,
                                                      LL' = R, which is diag(1/w) where errors are independent
    Case          the response itself; level j of the outermost factor counts as often as it was drawn
    LeaveOneOut   the response itself; replicate j is without level j
    WithoutRows   the response itself; replicate j is without some rows

Replicate k depends on the key and on k alone, to the bit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program
from jaxmm._random import as_key, as_keys, replicate_words, words
from jaxmm._types import Array
from jaxmm.errors import row_errors
from jaxmm.predict import linear_predictor, rows_used
from jaxmm.sources.responses import Responses, Varying, fingerprint

SINGULAR = 1e-8  # of an effect's variance: what is left of it, given the effects before it, is rounding


# ---------------------------------------------------------------- reflation
# With S = U'U/J the covariance of the centred modes and D = L_D L_D' that of the population (S is the smaller: modes
# are shrunken), U* = U L_S^-T L_D' has the covariance D exactly (Carpenter, Goldstein & Rasbash 2003).  From U = QR,
# L_S = R'/√J, so that U* = √J Q L_D'.  Where D is singular, an effect that the ones before it determine has no column
# in L_D, and needs none in Q.
def reflate(modes: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Modes (J, q) -> (J, q) with mean zero and covariance ``D`` (divisor J).

    Raises:
        ValueError: the modes do not vary in a direction in which D does.
    """
    L, free = singular_lower(D)
    U = (modes - modes.mean(axis=0))[:, free]
    if not U.shape[1]:
        return np.zeros_like(modes)
    scale = np.sqrt(np.mean(U**2, axis=0))
    if len(U) <= U.shape[1] or np.any(scale == 0):
        raise ValueError(f"{len(U)} levels do not vary in {U.shape[1]} directions, as the random effects do")
    Q, R = np.linalg.qr(U / scale)
    pivots = np.diag(R)
    if np.any(np.abs(pivots) <= 1e-12 * np.sqrt(len(U))):
        raise ValueError("the modes do not vary in all directions in which the random effects do")
    return np.sqrt(len(U)) * (Q * np.sign(pivots)) @ L[:, free].T


def singular_lower(D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L (q, q) lower triangular with LL' = D, and (q,) whether an effect varies given those before it; where it does
    not, its column is zero."""
    q = len(D)
    L, free = np.zeros((q, q)), np.zeros(q, bool)
    for k in range(q):
        pivot = D[k, k] - L[k, :k] @ L[k, :k]
        free[k] = pivot > SINGULAR * D[k, k]
        if free[k]:
            L[k, k] = np.sqrt(pivot)
            L[k + 1 :, k] = (D[k + 1 :, k] - L[k + 1 :, :k] @ L[k, :k]) / L[k, k]
    return L, free


# ---------------------------------------------------------------- sources of responses
class Residual(Responses):
    """The residual bootstrap of a linear model (Carpenter, Goldstein & Rasbash 2003, Applied Statistics 52, 431-443).

    The modes of each factor are centred and reflated to the covariance D̂, the residuals L⁻¹(y - Xβ̂ - Zû) to the
    variance σ̂², where LL' is the errors' covariance over σ².  The levels of each factor draw from its modes with
    replacement, all effects of a level together; the rows draw from the residuals.

    Args:
        fit: of a linear model.
        n: replicates.
        key: a seed, such as 1, or a key, such as ``jax.random.key(1)``.

    Raises:
        ValueError: a generalised model, whose residuals have no common distribution; or modes that do not vary in a
            direction in which the random effects do.
    """

    endless = True  # a block may go beyond n

    def __init__(self, fit: Any, n: int, key: Any):
        model = fit.model
        if not model.likelihood.exact:
            raise ValueError(
                f"a residual bootstrap is for models of lmm, and this is a {model.likelihood.family.name} model of "
                "glmm, whose residuals have distributions of their own: use kind='parametric' or kind='case'"
            )
        d, rows = model.design, rows_used(fit)
        self.errors = row_errors(model, fit.theta, d.residual, d.weights, len(d.y))
        residuals = self.errors.whitened(d.y - linear_predictor(fit, rows, {f.name for f in d.factors}))
        residuals = residuals - residuals.mean()
        size = np.sqrt(np.mean(residuals**2))
        cov = fit.varcorr().cov
        effects = []
        for f, factor in enumerate(d.factors):
            try:
                effects.append(reflate(fit.modes[f], cov[factor.name].to_numpy()))
            except ValueError as error:
                raise ValueError(f"'{factor.name}': {error}; use kind='parametric'") from None
        self.n, self._key, self.y = n, words(as_key(key)), d.y
        self.effects, self.residuals = effects, residuals * (fit.sigma / size if size > 0 else 0.0)
        Z = [np.hstack([t.Z for t in d.terms if t.factor == f]) for f in range(len(d.factors))]
        self._arrays = (
            linear_predictor(fit, rows, set()),
            tuple((np.ascontiguousarray(z.T), f.codes, u) for z, f, u in zip(Z, d.factors, effects, strict=True)),
            self.residuals,
        )

    def block(self, first: int, size: int) -> Varying:
        with jax.enable_x64(True):
            for_effects, for_rows = replicate_words(self._key, first, size)
            total, drawn = (np.asarray(x) for x in _residual(self._arrays, for_effects, for_rows))
            return Varying(total + self.errors.coloured(drawn))

    def identity(self) -> dict[str, Any]:
        return {
            "responses": "residual bootstrap",
            "n": self.n,
            "key": [int(x) for x in self._key],
            "y": fingerprint(self.y),
        }


@Program
def _residual(arrays: Any, for_effects: Array, for_rows: Array) -> tuple[Array, Array]:
    """What the effects make of it and the residuals drawn, (size, nobs) each, from two keys for each replicate."""
    eta, factors, residuals = arrays

    def one(by_level: Array, by_row: Array) -> tuple[Array, Array]:
        total = jnp.asarray(eta)
        for own, (Z, codes, effects) in zip(jax.random.split(by_level, len(factors)), factors, strict=True):
            drawn = jnp.asarray(effects)[_with_replacement(own, len(effects))]
            total = total + sum(z * drawn[:, a][codes] for a, z in enumerate(Z))
        return total, jnp.asarray(residuals)[_with_replacement(by_row, len(eta))]

    return jax.vmap(one)(as_keys(for_effects), as_keys(for_rows))


class Case(Responses):
    """The case bootstrap: as many levels of the outermost factor as there are (without any, of the one within which
    errors are correlated), drawn with replacement.

    The rows stay as they are, and ``Varying.copies`` (size, J) says how often each level counts; the levels of an inner
    factor go with the outer one in which they lie, and each copy has its own random effects.

    Args: as for ``Residual``, of any model.

    Raises:
        ValueError: crossed factors, none of which holds all of the others' levels.
    """

    endless = True
    varies = frozenset({"y", "copies"})

    def __init__(self, fit: Any, n: int, key: Any):
        d, outer = fit.model.design, outermost(fit.model)
        if outer is None and not d.correlated_within:
            raise ValueError("the model has no factor whose levels could be drawn: use kind='parametric' or 'residual'")
        if outer is None and d.factors:
            names = " and ".join(f"'{f.name}'" for f in fit.model.design.factors)
            raise ValueError(
                f"{names} are crossed, so that there are no independent groups to draw: use kind='parametric', or "
                "kind='residual' for a linear model"
            )
        factor = d.correlated_within[0 if outer is None else outer]
        self.n, self._key, self.y = n, words(as_key(key)), d.y
        self.levels, self.codes, self.name = len(factor.levels), factor.codes, factor.name

    def block(self, first: int, size: int) -> Varying:
        with jax.enable_x64(True):
            for_levels, _ = replicate_words(self._key, first, size)
            return Varying(jnp.broadcast_to(self.y, (size, len(self.y))), copies=_copies(for_levels, self.levels))

    def identity(self) -> dict[str, Any]:
        return {
            "responses": "case bootstrap",
            "n": self.n,
            "key": [int(x) for x in self._key],
            "y": fingerprint(self.y),
        }


@partial(Program, static_argnums=(1,))
def _copies(data: Array, levels: int) -> Array:
    """(size, levels) float64, from a key for each replicate."""

    def one(key: Array) -> Array:
        return jnp.zeros(levels).at[_with_replacement(key, levels)].add(1.0)

    return jax.vmap(one)(as_keys(data))


class LeaveOneOut(Responses):
    """The fit's response without each level of the outermost factor in turn, or each group of them, as ``copies`` of 0
    and 1.

    Args:
        fit: of a model whose factors are nested in each other, or has one.
        groups: (J,) the group 0, 1, .. of each level, a replicate each; every level by itself where None.
    """

    varies = frozenset({"y", "copies"})

    def __init__(self, fit: Any, groups: np.ndarray | None = None):
        outer = outermost(fit.model)
        assert outer is not None
        self.y = fit.model.design.y
        levels = len(fit.model.design.factors[outer].levels)
        self.groups = np.arange(levels) if groups is None else np.asarray(groups)
        self.n = int(self.groups.max()) + 1

    def block(self, first: int, size: int) -> Varying:
        copies = np.where(self.groups == first + np.arange(size)[:, None], 0.0, 1.0)
        return Varying(np.broadcast_to(self.y, (size, len(self.y))), copies=copies)

    def identity(self) -> dict[str, Any]:
        return {"responses": "leave one out", "n": self.n, "y": fingerprint(self.y, self.groups)}


class WithoutRows(Responses):
    """The fit's response without each group of rows in turn, which weigh nothing.

    Args:
        fit: of any model.
        codes: (n,) the group 0 .. count - 1 of each row that counts.
        count: groups, and replicates.
    """

    varies = frozenset({"y", "weights"})

    def __init__(self, fit: Any, codes: np.ndarray, count: int):
        d = fit.model.design
        self.y, self.codes, self.n = d.y, codes, count
        self.weights = np.ones(len(d.y)) if d.weights is None else d.weights

    def block(self, first: int, size: int) -> Varying:
        group = first + np.arange(size)[:, None]
        return Varying(
            np.broadcast_to(self.y, (size, len(self.y))), weights=np.where(self.codes == group, 0.0, self.weights)
        )

    def identity(self) -> dict[str, Any]:
        return {"responses": "without rows", "n": self.n, "y": fingerprint(self.y, self.codes)}


def outermost(model: Any) -> int | None:
    """The factor of the design in whose levels all other factors' levels lie; None if there is none."""
    plan = model.elimination
    return plan.chain[-1] if plan.chain and not plan.rest else None


def _with_replacement(key: Array, size: int) -> Array:
    """As many of 0 .. size - 1."""
    return jax.random.randint(key, (size,), 0, size, jnp.int32)
