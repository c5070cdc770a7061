"""A covariance of the errors as users state it -> σ and rho, the parameters that a model has of it.

    {"residual": cov (T, T)}  or  {"residual": {"sd": .., "corr": ..}}      by level where parameters differ ``by=``
    {"dispersion": γ}                                                       of log φ

With C stated and u of the formula of log φ, Cov(ε) = diag(e^(u/2)) C diag(e^(u/2)) within a subject.  C is that of a
structure if C(theta) = C for some theta: that of the nearest C is looked for, and compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from jaxmm import covariance
from jaxmm.covariance import Covariance
from jaxmm.design.residual import ResidualDesign
from jaxmm.sources.given import check_names, listed, matrix, number, vector
from jaxmm.structure import ResidualLayout
from jaxmm.tables import correlation

OTHER = 1e-4  # a share of the largest variance: another covariance, not the same one given in decimals
ROUNDING = 1e-8  # of the largest: what decimals may take from symmetry
EXACT = 1e-12  # the same, where nothing is left to look for
PARTS = ("sd", "corr")


def stated_errors(d: ResidualDesign, layout: ResidualLayout, truth: Mapping[str, Any]) -> tuple[float, np.ndarray]:
    """σ and rho (k,) from ``truth["residual"]`` and ``truth["dispersion"]``, of what the model has.

    Raises:
        ValueError: one that is lacking, or that the model has no parameters for; a covariance that is none, or not one
            of the structure.
    """
    for name, there, what in (
        ("residual", d.covariance is not None, "errors that are independent"),
        ("dispersion", d.dispersion is not None, "no formula of log φ"),
    ):
        if truth.get(name) is not None and not there:
            raise ValueError(f"the model has {what}: leave {name!r} out of truth")
    if d.sigma is not None:
        for name in ("residual", "sigma"):
            if truth.get(name) is not None:
                raise ValueError(f"the covariance of the errors is known, {d.text}: leave {name!r} out of truth")
        return d.sigma, np.zeros(0)
    if truth.get("residual") is None and d.covariance is not None:
        raise ValueError(
            f"truth lacks 'residual', the covariance of the errors by {d.text}, of the times {listed(d.times)}: a "
            "matrix, or {'sd': .., 'corr': ..}"
        )
    if truth.get("sigma") is not None:
        rest = "'residual' says" if d.covariance is not None else "'dispersion' says"
        raise ValueError(f"{rest} how large the errors are: leave 'sigma' out of truth")
    log_unit, gamma = (0.0, np.zeros(0)) if d.dispersion is None else _log_phi(d, truth)
    if d.covariance is None:
        return float(np.exp(0.5 * log_unit)), gamma
    thetas = [_theta_of(d, what, given) for what, given in _of_sets(d, truth["residual"])]
    power = d.covariance.scale_power
    sigma = thetas[0][0] ** (power[0] / 2)  # in its units theta of the first set begins with 1
    relative = [theta * np.where(power > 0, sigma ** (-2 / np.maximum(power, 1)), 1.0) for theta in thetas]
    return float(sigma * np.exp(0.5 * log_unit)), layout.join(relative, gamma)


# ---------------------------------------------------------------- log φ
def _log_phi(d: ResidualDesign, truth: Mapping[str, Any]) -> tuple[float, np.ndarray]:
    """What is added to log σ², and γ (columns,) beside it: log φ = Xg = a + Vγ."""
    assert d.dispersion is not None and d.constant is not None
    names = d.dispersion.columns
    if truth.get("dispersion") is None:
        raise ValueError(f"truth lacks 'dispersion', the coefficients of log φ: {listed(names)}")
    given = truth["dispersion"]
    if d.covariance is not None and np.sum(d.constant != 0) == 1 and isinstance(given, Mapping):
        given = {names[d.left]: 0.0, **given}  # the covariance has the size already
    g = vector("dispersion", "column", given, names)
    a = g[d.left] / d.constant[d.left]
    return float(a), np.delete(g - a * d.constant, d.left)


# ---------------------------------------------------------------- a covariance
def _of_sets(d: ResidualDesign, given: Any) -> list[tuple[str, Any]]:
    """What is stated of each set of parameters, with what to call it; one for all sets may be given."""
    if d.sets is None:
        return [("residual", given)]
    levels = [str(x) for x in d.sets.levels]
    if not isinstance(given, Mapping) or set(given) <= set(PARTS):
        return [("residual", given)] * len(levels)
    by = {str(level): one for level, one in given.items()}
    check_names("residual", by, levels, f"level of {d.sets.name!r}")
    lacking = [level for level in levels if level not in by]
    if lacking:
        raise ValueError(f"residual lacks {listed(lacking)} of {d.sets.name!r}: it needs {listed(levels)}")
    return [(f"residual[{level!r}]", by[level]) for level in levels]


def _theta_of(d: ResidualDesign, what: str, given: Any) -> np.ndarray:
    """theta (m,) of the structure's covariance that is stated."""
    C = _from_parts(d, what, given) if isinstance(given, Mapping) else matrix(what, given, d.times)
    if not np.all(np.isfinite(C)):
        raise ValueError(f"{what} has numbers that are not finite: {C.tolist()}")
    if np.any(np.abs(C - C.T) > ROUNDING * np.max(np.abs(C))):
        raise ValueError(f"{what} must be symmetric: {C.tolist()}")
    C = (C + C.T) / 2
    least = np.linalg.eigvalsh(C)[0]
    if not least > 0:
        raise ValueError(
            f"{what} is no covariance of errors, as its least eigenvalue is {least:.3g}, which must be above zero: "
            f"{np.round(C, 6).tolist()}"
        )
    structure: Any = d.covariance
    theta = nearest(structure, C, d.positions)
    found = np.asarray(structure.covariance(theta, d.positions))
    if not np.max(np.abs(found - C)) <= OTHER * np.max(np.diag(C)):
        sd, R = np.sqrt(np.diag(found)), correlation(found)
        raise ValueError(
            f"{what}: {d.text} cannot have this covariance; near to it are the standard deviations "
            f"{np.round(sd, 4).tolist()} and correlations {np.round(R, 4).tolist()}; state one of that structure, or "
            "make the model with another, such as us(...)"
        )
    return theta


def _from_parts(d: ResidualDesign, what: str, given: Mapping[str, Any]) -> np.ndarray:
    """C (T, T) from standard deviations and correlations."""
    check_names(what, given, PARTS)
    if "sd" not in given:
        raise ValueError(f"{what} lacks 'sd', the standard deviations of the errors: a number, or one for each time")
    sd = given["sd"]
    sd = vector(
        f"sd of {what}", "time", np.full(len(d.times), sd) if np.ndim(sd) == 0 and not _named(sd) else sd, d.times
    )
    if not np.all(sd > 0):
        raise ValueError(
            f"sd of {what} must be above zero, and that of {d.times[int(np.argmin(sd))]!r} is {sd.min():g}"
        )
    R = given.get("corr")
    if R is None:
        R = np.eye(len(sd))
    elif np.ndim(R) == 0:
        R = _from_one(d, what, number(f"corr of {what}", R))
    else:
        R = matrix(f"corr of {what}", R, d.times)
        if np.any(np.abs(np.diag(R) - 1) > ROUNDING):
            raise ValueError(f"corr of {what} must have ones on its diagonal: {R.tolist()}")
    return sd[:, None] * R * sd


def _named(x: Any) -> bool:
    return isinstance(x, Mapping) or hasattr(x, "index")


def _from_one(d: ResidualDesign, what: str, rho: float) -> np.ndarray:
    """R (T, T) of the structure from one correlation: of any two times, or of two that are a step apart, whichever the
    structure has.

    Raises:
        ValueError: a structure that has both, or neither.
    """
    if not -1 < rho < 1:
        raise ValueError(f"corr of {what} must lie between -1 and 1, not {rho:g}")
    T, structure = len(d.times), d.covariance
    assert structure is not None
    if structure.positional:
        at = np.arange(T)[:, None] if d.positions is None else np.asarray(d.positions)
        ends = np.zeros((2, at.shape[1]), at.dtype)
        ends[1, 0] = 1
        two, R = covariance.resized(structure, 2), np.array([[1.0, rho], [rho, 1.0]])
        theta = two.from_factor(np.linalg.cholesky(R), ends)
        own = np.max(np.abs(np.asarray(two.covariance(theta, ends)) - R)) <= OTHER
        tried = [np.asarray(two.covariance(theta, at))] if own else []
    else:
        places = np.arange(T)
        tried = [np.where(np.eye(T, dtype=bool), 1.0, rho), rho ** np.abs(np.subtract.outer(places, places))]
    fitting = [R for R in tried if np.linalg.eigvalsh(R)[0] > 0 and _has(structure, R, d.positions)]
    if not fitting or np.max(np.abs(fitting[-1] - fitting[0])) > ROUNDING:
        raise ValueError(
            f"corr of {what}: one number says not which correlations {d.text} has; give a matrix of {listed(d.times)}"
        )
    return fitting[0]


def _has(structure: Covariance, R: np.ndarray, at: Any) -> bool:
    found = np.asarray(structure.covariance(nearest(structure, R, at), at))
    return bool(np.max(np.abs(found - R)) <= OTHER)


# ---------------------------------------------------------------- the inverse
def nearest(structure: Covariance, C: np.ndarray, at: Any) -> np.ndarray:
    """theta (m,) of the covariance of a structure that is nearest to ``C`` (T, T); exactly, where C is one of its own.

    A factor tells theta where the T times are the effects of the structure; of a longer series with gaps, of which only
    some times are there, least squares go on from what the factor of these tells.
    """
    T = len(C)
    of = structure if structure.q == T else covariance.resized(structure, T)
    theta = np.asarray(of.from_factor(np.linalg.cholesky(C), at), float)
    size = np.max(np.diag(C))
    if len(theta) == structure.num_params and _apart(structure, theta, C, at) <= EXACT * size:
        return theta
    with jax.enable_x64(True):
        low = np.tril_indices(T)

        def residual(x: Any) -> Any:
            return ((structure.covariance(x, at) - C) / size)[low]

        f, slope = jax.jit(residual), jax.jit(jax.jacfwd(residual))
        jac: Any = lambda x: np.asarray(slope(jnp.asarray(x)))  # noqa: E731
        found = least_squares(lambda x: np.asarray(f(jnp.asarray(x))), theta, jac, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    better = _apart(structure, found.x, C, at) < _apart(structure, theta, C, at)
    return np.asarray(found.x if better else theta)


def _apart(structure: Covariance, theta: np.ndarray, C: np.ndarray, at: Any) -> float:
    return float(np.max(np.abs(np.asarray(structure.covariance(theta, at)) - C)))
