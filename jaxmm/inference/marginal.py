"""Population-averaged means and coefficients of a generalised model.

For one row Zb is normal with mean 0 and variance v = z'Dz (summed over the factors), so that

    μ_marginal = E[g⁻¹(Xβ + offset + √v t)],   t ~ N(0, 1)

is an integral in one variable whatever the model: by the trapezoidal rule, whose error falls exponentially for an
integrand as smooth as this.  The coefficients are those of the least-squares fit of g(μ_marginal) - offset on X
(Hedeker, du Toit, Demirtas & Gibbons 2018, Biometrics 74, 354-361); their standard errors are by the delta method from
the joint covariance of beta and theta.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.design import NewData
from jaxmm.inference.wald import variances
from jaxmm.layout import Layout
from jaxmm.objective.parameters import factors
from jaxmm.predict import rows_used
from jaxmm.structure import Structure

if TYPE_CHECKING:
    from jaxmm.fit import Fit

REACH, SPACING = 12.0, 0.125  # in standard deviations: room for exp(√v t), whose mass lies √v away
GRID = np.arange(-REACH, REACH + SPACING / 2, SPACING)
MASS = SPACING * np.exp(-0.5 * GRID**2) / np.sqrt(2 * np.pi)


def _mean(psi: Array, link: Any, of: tuple[Structure, Layout], data: dict[str, Any]) -> Array:
    """μ_marginal (m,) at psi = (beta_s, theta_s, ..) for X (m, p) and Z (m, q) per factor, in the data's columns."""
    structure, layout = of
    beta, theta, _ = layout.split(psi)
    eta = data["offset"] + data["X"] @ (data["T_X"] @ beta)
    lams = factors(theta, structure, data["inputs"])
    v = sum(jnp.sum((Z @ (T @ lam)) ** 2, axis=1) for Z, T, lam in zip(data["Z"], data["T"], lams, strict=True))
    sd = jnp.sqrt(jnp.where(v > 0, v, 1.0)) * (v > 0)

    def add(total, node):
        t, mass = node
        return total + mass * link.inverse(eta + sd * t), None

    return jax.lax.scan(add, jnp.zeros_like(eta), (jnp.asarray(GRID), jnp.asarray(MASS)))[0]


_mean_of_rows = Program(_mean, (1, 2))


@partial(Program, static_argnums=(1, 2))
def _coefficients(psi: Array, link: Any, of: tuple[Structure, Layout], data: dict[str, Any]) -> tuple[Array, Array]:
    """The coefficients (p,) and their derivatives by psi (d, p)."""

    def coefficients(x):
        eta = link.link(_mean(x, link, of, data)) - data["offset"]
        return jnp.linalg.solve(data["X"].T @ data["X"], data["X"].T @ eta)

    value, push = jax.linearize(coefficients, psi)
    return value, jax.lax.map(push, jnp.eye(len(psi), dtype=psi.dtype))


@partial(Program, static_argnums=(1, 2))
def _slopes_of_link(psi: Array, link: Any, of: tuple[Structure, Layout], data: dict[str, Any]) -> Array:
    """Derivatives of g(μ_marginal) by psi: (d, m)."""
    _, push = jax.linearize(lambda x: link.link(_mean(x, link, of, data)), psi)
    return jax.lax.map(push, jnp.eye(len(psi), dtype=psi.dtype))


def _of(fit: Fit) -> tuple[Structure, Layout]:
    return fit.model.structure, fit.model.arrays.layout  # pyright: ignore[reportAttributeAccessIssue]


def _data(fit: Fit, rows: NewData) -> dict[str, Any]:
    d, arrays, order = fit.model.design, fit.model.arrays, fit.model.elimination.order
    Z = [np.hstack([z for z, t in zip(rows.Z, d.terms, strict=True) if t.factor == f]) for f in order]
    return {"X": rows.X, "Z": Z, "offset": rows.offset, "T": list(arrays.T), "T_X": arrays.T_X, "inputs": arrays.inputs}


def mean(fit: Fit, rows: NewData) -> np.ndarray:
    """μ_marginal of each row, averaged over the random effects of every factor."""
    with computing(fit.model.device):
        data = _data(fit, rows)
        return np.asarray(_mean_of_rows(fit.estimates.psi, fit.model.likelihood.family.link, _of(fit), data))


def mean_se(fit: Fit, rows: NewData) -> np.ndarray:
    """The standard error of g(μ_marginal) of each row."""
    link, e = fit.model.likelihood.family.link, fit.estimates
    with computing(fit.model.device):
        slopes = np.asarray(_slopes_of_link(e.psi, link, _of(fit), _data(fit, rows)))
    return np.sqrt(np.maximum(variances(slopes.T, e.covariance), 0.0))


def coefficients(fit: Fit) -> pd.DataFrame:
    """``estimate`` and ``std_error``, indexed as ``fixef``."""
    e, link = fit.estimates, fit.model.likelihood.family.link
    with computing(fit.model.device):
        data = _data(fit, rows_used(fit))
        value, slopes = (np.asarray(x) for x in _coefficients(e.psi, link, _of(fit), data))
    se = np.sqrt(np.maximum(variances(slopes.T, e.covariance), 0.0))
    return pd.DataFrame({"estimate": value, "std_error": se}, index=fit.fixef.index)
