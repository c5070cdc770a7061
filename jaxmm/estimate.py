"""Arrays -> Estimates: the search, and what is read off at its end.

With N and B of ``solver``,

    modes       b = NB (-beta, 1)                         (the BLUPs)
    covariance  Var(b | y, beta, theta) = sigma² N_jj

in the columns Z_s, carried back by b = T b_s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs, solver
from jaxmm._compiled import Program, quick_options
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.objective.lmm import Profile, profile, scaled_deviance
from jaxmm.objective.parameters import change_theta, resolved
from jaxmm.optimize import Control, Objective, Search, minimise, minimise_in_loop, search_again
from jaxmm.residual import sums
from jaxmm.residual.starts import candidates
from jaxmm.start import (
    NEAR_ZERO,
    SECOND_SD,
    alike_theta,
    has_few_levels,
    independent_theta,
    is_restricted,
    joint_start,
    level_start,
    levels_with_rows,
    moment_start,
    on_boundary,
    with_sigmas,
)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "beta", "theta", "sigma", "deviance", "vcov", "theta_scaled", "gradient", "hessian",
        "decrement", "eigenvalue", "iterations", "status", "beta_scaled",
    ],
    meta_fields=[],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Estimates:
    """A fit as arrays, a pytree.

    ``beta`` (p,) and ``vcov`` (p, p) in the data's columns; ``theta`` (m,) relative covariance factor in the
    data's columns, rectified; ``sigma``, the residual standard deviation; ``deviance``, −2 log-likelihood, the
    restricted one by REML; ``theta_scaled`` where the search ended, as to Z_s, with the ``gradient``, ``hessian``,
    Newton ``decrement`` and least ``eigenvalue`` there; ``iterations`` of the search; ``status`` an
    ``optimize.Status``; ``beta_scaled`` as to X_s, beside beta0.

    Example:
        >>> fit.estimates.beta.round(2).tolist()
        [251.41, 10.47]
    """

    beta: Array
    theta: Array
    sigma: Array
    deviance: Array
    vcov: Array
    theta_scaled: Array
    gradient: Array
    hessian: Array
    decrement: Array
    eigenvalue: Array
    iterations: Array
    status: Array
    beta_scaled: Array


# ---------------------------------------------------------------- compiled programs, one per structure
def _criterion(theta: Array, gram: Gram, restricted: Array | None = None) -> tuple[Array, Profile]:
    at = profile(*resolved(theta, gram), restricted)
    return at.deviance, at


def _value_and_derivatives(theta: Array, gram: Gram, one_by_one: bool, restricted: Array | None = None):
    """Deviance, gradient, Hessian, profile; the Hessian's columns at once, or one after another to save memory, where
    it is not known in closed form."""
    if _has_hessian(gram):
        share = jnp.asarray(gram.structure.reml if restricted is None else restricted, gram.dtype)
        (value, at), gradient = jax.value_and_grad(_criterion, has_aux=True)(theta, gram, restricted)
        return value, gradient, gram.residual.hessian(theta, gram, share), at

    def first(t):
        (value, at), gradient = jax.value_and_grad(_criterion, has_aux=True)(t, gram, restricted)
        return gradient, (value, at)

    gradient, push, (value, at) = jax.linearize(first, theta, has_aux=True)
    eye = jnp.eye(len(theta), dtype=theta.dtype)
    columns = jax.lax.map(push, eye) if one_by_one else jax.vmap(push)(eye)
    return value, gradient, 0.5 * (columns + columns.T), at


def _has_hessian(gram: Gram) -> bool:
    return gram.residual is not None and gram.residual.has_hessian(gram.structure)


derivatives = Program(_value_and_derivatives, (2,))
gradient_only = Program(jax.value_and_grad(_criterion, has_aux=True))


def either(gram: Gram) -> Gram:
    """The same arrays, whose programs are those of both criteria."""
    return dataclasses.replace(gram, structure=dataclasses.replace(gram.structure, reml=True))


def objective(gram: Gram) -> Objective:
    """The criterion on the host: NumPy in, NumPy out.  REML and ML are one program, for the refits of comparisons."""
    dear, restricted = is_dear(gram) and not _has_hessian(gram), np.asarray(gram.structure.reml, gram.dtype)
    like, both = np.zeros(gram.structure.num_theta), either(gram)
    told = [_options(gram, times) for times in (0 if dear else costs.CALLED_ONCE, costs.CALLED_SELDOM)]
    first = gradient_only.bind(like, both, restricted, options=told[0])
    second = derivatives.bind(like, both, dear, restricted, options=told[1])

    def gradient(theta):
        (value, at), g = first(theta, both, restricted)
        return float(value), np.asarray(g), at

    def hessian(theta):
        value, g, H, at = second(theta, both, dear, restricted)
        return float(value), np.asarray(g), np.asarray(H), at

    rough = dear and (gram.residual is None or gram.residual.has_expected)
    return Objective(gradient, hessian, dear, partial(rough_hessian, gram=gram) if rough else None)


def _options(gram: Gram, times: int) -> Callable[[], dict[str, Any]] | None:
    """What the compiler is told of the criterion where errors have a covariance, whose program takes seconds: not to
    optimise it for so few ``times`` as many numbers.  The gradient is for comparing starts alone, but where a Hessian
    is ``dear``."""
    small = gram.residual is not None and gram.residual.size < times * costs.SMALL_PROGRAM
    return quick_options if small else None


def rough_hessian(theta: np.ndarray, gram: Gram) -> np.ndarray:
    """Expected Hessian of the deviance as if each factor were alone, from some of its levels; on the host.

    For one factor it is Σ_j tr(H_j dD_i H_j dD_k) with H_j = A_j (I + D A_j)^-1 (fixed effects aside).
    """
    s = gram.structure
    if gram.residual is not None:
        return np.asarray(sums.expected_hessian(theta, gram.residual))
    H = np.zeros((len(theta), len(theta)))
    diagonal_blocks = [A for A, _ in solver.level_systems(gram)]
    for term, own, at in zip(s.terms, s.slices(), gram.inputs, strict=True):
        if not term.covariance.num_params:
            continue
        A = diagonal_blocks[term.position][:, term.at : term.at + term.covariance.q, :]
        A = A[:, :, term.at : term.at + term.covariance.q]
        some = A[:: max(1, len(A) // costs.ROUGH_LEVELS)]
        lam = term.covariance.lam(theta[own], at)
        moves = term.covariance.derivative(theta[own], at)
        H_j = some @ np.linalg.inv(np.eye(len(lam)) + lam @ lam.T @ some)
        each = np.stack([H_j @ (m @ lam.T + lam @ m.T) for m in moves])
        H[own, own] = np.einsum("ijab,kjba->ik", each, each) * (len(A) / len(some))
    return H


def is_dear(gram: Gram) -> bool:
    """Whether a Hessian costs so much more than a gradient that a second program is worth compiling."""
    s = gram.structure
    if gram.residual is not None:
        return s.rest_size > costs.DEAR_REST or gram.residual.work * s.num_theta > costs.DEAR_PATTERNS
    work = s.solver.size(gram) * s.num_theta
    return s.rest_size > costs.DEAR_REST or work > costs.DEAR_WORK


def _size(theta: Array, gram: Gram) -> int:
    return gram.structure.solver.size(gram)


@partial(Program, size=_size)
def pwrss_slope(theta: Array, gram: Gram) -> Array:
    """The derivatives of r² by ``theta`` (as to Z_s)."""
    return jax.grad(lambda t: profile(*resolved(t, gram)).pwrss)(theta)


def joint_hessian(e: Estimates, gram: Gram) -> np.ndarray:
    """That of ``objective.lmm.criterion`` by (theta_s, log σ²) at its minimum, from P, that of the profiled deviance;
    P itself where nothing was profiled.

    There r² = df σ², so that with h = -∂r²/∂theta / σ², the mixed derivatives,

        [ P + h h'/df   h  ]
        [      h'       df ]

    P is the Schur complement, and what is new costs a gradient.
    """
    s, sigma2 = gram.structure, float(e.sigma) ** 2
    if not s.profiles_sigma:
        return np.asarray(e.hessian)
    df = float(gram.n_obs) - (s.p if s.reml else 0)
    h = -np.asarray(pwrss_slope(e.theta_scaled, gram)) / sigma2
    P = np.asarray(e.hessian)
    return np.block([[P + np.outer(h, h) / df, h[:, None]], [h[None], np.full((1, 1), df)]])


@partial(Program, size=_size)
def explained(theta: Array, gram: Gram) -> tuple[Array, ...]:
    """NB = ΛM^-1Λ'Z'W[X_s y] at ``theta`` (as to Z_s), per factor (J, q, p + 1), in the data's columns of Z.

    The modes are NB (-beta_s, 1): what of the residual the random effects take up.
    """
    NB = solver.explained(*resolved(theta, gram))
    return tuple(jnp.einsum("ab,jbr->jar", T, x) for T, x in zip(gram.T, NB, strict=True))


def covariance_of_effects(theta: Array, gram: Gram) -> tuple[Array, ...]:
    """N_jj, the covariance of the effects of each level given the data, beta and theta, over sigma²: (J, q, q)."""
    N = solver.level_covariances(*resolved(theta, gram))
    return tuple(T @ (0.5 * (x + jnp.swapaxes(x, 1, 2))) @ T.T for T, x in zip(gram.T, N, strict=True))


conditional_covariance = Program(covariance_of_effects, size=_size)


# ---------------------------------------------------------------- the start and the end of a search
ZERO = 1e-8  # an element of lam, as to Z_s, below which it is zero: the deviance moves by rounding only


def _finish(found: Search, at: Profile, gram: Gram, xp=np) -> Estimates:
    s = gram.structure
    found = found._replace(theta=xp.where(xp.abs(found.theta) < ZERO, 0.0, found.theta))
    T, T_X = [xp.asarray(t) for t in gram.T], xp.asarray(gram.T_X)
    M_X, beta = xp.asarray(at.M_X), xp.asarray(at.beta)
    if s.profiles_sigma:
        sigma2 = xp.asarray(at.pwrss) / (xp.asarray(gram.n_obs) - (s.p if s.reml else 0))
    else:
        sigma2 = xp.exp(xp.asarray(at.log_sigma2))
    # of a matrix that is not finite there is no inverse, and NumPy would raise
    inverse = xp.linalg.inv(xp.where(xp.all(xp.isfinite(M_X)), M_X, xp.eye(s.p, dtype=M_X.dtype))) * xp.where(
        xp.all(xp.isfinite(M_X)), 1.0, xp.nan
    )
    return Estimates(
        beta=T_X @ (beta + xp.asarray(gram.beta0)),
        theta=change_theta(found.theta, T, gram, xp),
        sigma=xp.sqrt(sigma2),
        deviance=at.deviance if xp is jnp else found.value,
        vcov=sigma2 * T_X @ (0.5 * (inverse + inverse.T)) @ T_X.T,
        theta_scaled=found.theta,
        gradient=found.gradient,
        hessian=found.hessian,
        decrement=found.decrement,
        eigenvalue=found.eigenvalue,
        iterations=found.iterations,
        status=found.status,
        beta_scaled=beta,
    )


def estimate_on_host(gram: Gram, start: np.ndarray | None, control: Control) -> Estimates:
    """The search from the host, and NumPy estimates; call it with x64 enabled.  ``start`` is in the data's columns."""
    if gram.residual is not None:
        return _with_errors(gram, start, control)
    if start is None:
        first = joint_start(gram)
        starts = [moment_start(gram) if first is None else first]
        second = level_start(gram)
        if second is not None:
            starts.append(second)
    else:
        starts = [change_theta(start, [np.linalg.inv(np.asarray(t)) for t in gram.T], gram)]
    criterion = objective(gram)
    searches = [minimise(criterion, np.asarray(theta), control) for theta in starts]
    found = min(searches, key=lambda search: np.inf if np.isnan(search.value) else search.value)
    if has_few_levels(gram, levels_with_rows(gram)):
        if on_boundary(found.theta, gram):
            found = search_again(criterion, found, independent_theta(gram, SECOND_SD), control)
        found = search_again(criterion, found, independent_theta(gram, NEAR_ZERO), control)
    if is_restricted(gram.structure):
        found = search_again(criterion, found, alike_theta(gram), control)
    return _finish(found, found.aux, gram)


def _with_errors(gram: Gram, start: np.ndarray | None, control: Control) -> Estimates:
    """``estimate_on_host`` where errors have a covariance: from the best of some starts, and where there are random
    effects too from the second best."""
    s, criterion = gram.structure, objective(gram)
    control = dataclasses.replace(control, newton_limit=max(control.newton_limit, s.num_theta))  # from a good start
    if start is not None:
        starts = [change_theta(start, [np.linalg.inv(np.asarray(t)) for t in gram.T], gram)]
    else:
        random = [moment_start(gram), independent_theta(gram, NEAR_ZERO)] if s.terms else []
        random = with_sigmas(gram, random) if s.residual.sigma == "searched" else random  # pyright: ignore
        tried = [(criterion.gradient(theta)[0], k, theta) for k, theta in enumerate(candidates(gram, random))]
        order = sorted((np.inf if np.isnan(value) else value, k) for value, k, _ in tried)
        starts = [tried[k][2] for _, k in order[: 2 if s.terms else 1]]
    found = minimise(criterion, np.asarray(starts[0]), control)
    for theta in starts[1:]:
        found = search_again(criterion, found, np.asarray(theta), control)
    return _finish(found, found.aux, gram)


# ---------------------------------------------------------------- the same as one program
def estimate(arrays: Gram, *, start: Array | None = None, control: Control | None = None) -> Estimates:
    """See ``programs.estimate``.  There is one start; ``Model.fit`` tries a second one where a factor has several
    independent effects (``start.level_start``)."""
    control = control or Control()
    dtype = arrays.dtype
    if start is None:
        theta = moment_start(arrays, jnp)
    else:
        theta = change_theta(jnp.asarray(start, dtype), [jnp.linalg.inv(t) for t in arrays.T], arrays, jnp)
    found = _argmin(arrays, jax.lax.stop_gradient(theta.astype(dtype)), control)
    at = profile(*resolved(found.theta, arrays))
    return _finish(found, at, arrays, jnp)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _argmin(gram: Gram, start: Array, control: Control) -> Search:
    def evaluate(theta, carried):
        value, g, H, _ = _value_and_derivatives(theta, gram, False)
        return value, g, H, carried

    return minimise_in_loop(evaluate, start, control)


@_argmin.defjvp
def _(control, primals, tangents):
    gram, start = primals
    found = _argmin(gram, start, control)

    def slope(g):
        return jax.grad(scaled_deviance)(found.theta, g)

    _, mixed = jax.jvp(slope, (gram,), (tangents[0],))
    w, Q = jnp.linalg.eigh(found.hessian)
    # along a ridge (a singular Λ is rotation-invariant) the estimate does not move
    inverse = jnp.where(w > 1e-10 * jnp.max(jnp.abs(w)), 1 / jnp.where(w == 0, 1.0, w), 0.0)
    moved = -Q @ (inverse * (Q.T @ mixed))
    still = jax.tree.map(no_tangent, found)
    return found, still._replace(theta=moved)


def no_tangent(x: Array):
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)
