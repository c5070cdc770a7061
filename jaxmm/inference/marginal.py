"""Population-averaged means and coefficients of a generalised model.

For one row Zb is normal with mean 0 and variance v = z'Dz (summed over the factors), so that

    μ_marginal = E[g⁻¹(Xβ + offset + √v t)],   t ~ N(0, 1)

is an integral in one variable whatever the model: by the trapezoidal rule, whose error falls exponentially for an
integrand as smooth as this.  The coefficients are those of the least-squares fit of g(μ_marginal) - offset on X
(Hedeker, du Toit, Demirtas & Gibbons 2018, Biometrics 74, 354-361); their standard errors are by the delta method from
the joint covariance of beta and theta.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm._types import Array
from jaxmm.design import NewData
from jaxmm.fitted import Fitted
from jaxmm.inference.wald import variances
from jaxmm.layout import Layout
from jaxmm.objective.parameters import factors
from jaxmm.predict import link_for, rows_used
from jaxmm.structure import Structure

REACH, SPACING = 12.0, 0.125  # in standard deviations: room for exp(√v t), whose mass lies √v away
GRID = np.arange(-REACH, REACH + SPACING / 2, SPACING)
MASS = SPACING * np.exp(-0.5 * GRID**2) / np.sqrt(2 * np.pi)


class Of(NamedTuple):
    """What a compiled program is for: static."""

    family: Any
    structure: Structure
    layout: Layout
    scale: str
    averaged: bool  # over the effects; else at b = 0


def _mean(psi: Array, of: Of, data: dict[str, Any]) -> Array:
    """The mean (m,) on the scale at psi = (beta_s, theta_s, ..), for X (m, p) and an offset of each predictor, and Z
    (m, q) per factor, in the data's columns.  Effects of different predictors are independent, and the mean of y is
    linear in each of the further parameters."""
    s, predictors = of.structure, of.structure.predictors
    beta, theta, log_phi = of.layout.split(psi)
    beta, lams = data["T_X"] @ beta, factors(theta, s, data["inputs"])

    def average(name: str, f: Callable[[Array], Array]) -> Array:
        k = predictors.names.index(name)
        eta = data["offset"][k] + data["X"][k] @ beta[predictors.slices(s.p)[k]]
        own = [f for f in range(len(lams)) if predictors.of(f) == k] if of.averaged else []
        if not own:
            return f(eta)
        v = sum(jnp.sum((data["Z"][f] @ (data["T"][f] @ lams[f])) ** 2, axis=1) for f in own)
        sd = jnp.sqrt(jnp.where(v > 0, v, 1.0)) * (v > 0)

        def add(total, node):
            t, mass = node
            return total + mass * f(eta + sd * t), None

        return jax.lax.scan(add, jnp.zeros_like(eta), (jnp.asarray(GRID), jnp.asarray(MASS)))[0]

    family, formula = of.family, "phi" in predictors.names
    phi, extras = family.constants(log_phi)
    further = {p.name: p.link.inverse for p in family.further}
    if of.scale == "dispersion":
        return average("phi", jnp.exp) if formula else jnp.zeros_like(data["offset"][0]) + phi
    if of.scale == "zero":
        return average("zi", further["zi"])
    if of.scale != "response" or not family.mean_apart:
        return average("mu", family.link.inverse)
    values = (*(average(name, inverse) for name, inverse in further.items()), *extras)

    def mean(phi: Array) -> Array:
        return average("mu", lambda eta: family.mean(family.link.inverse(eta), phi, *values))

    return average("phi", lambda eta: mean(jnp.exp(eta))) if formula else mean(phi)


def _on_link(psi: Array, link: Any, of: Of, data: dict[str, Any]) -> Array:
    return link.link(_mean(psi, of, data))


_mean_of_rows, _link_of_rows = Program(_mean, (1,)), Program(_on_link, (1, 2))


@partial(Program, static_argnums=(1,))
def _coefficients(psi: Array, of: Of, data: dict[str, Any]) -> tuple[Array, Array]:
    """The coefficients (p,) and their derivatives by psi (d, p)."""
    X = data["X"][0]

    def coefficients(x):
        eta = _on_link(x, of.family.link, of, data) - data["offset"][0]
        return jnp.linalg.solve(X.T @ X, X.T @ eta)

    value, push = jax.linearize(coefficients, psi)
    return value, jax.lax.map(push, jnp.eye(len(psi), dtype=psi.dtype))


@partial(Program, static_argnums=(1, 2))
def _slopes_of_link(psi: Array, link: Any, of: Of, data: dict[str, Any]) -> Array:
    """Derivatives of g(mean) by psi: (d, m)."""
    _, push = jax.linearize(lambda x: _on_link(x, link, of, data), psi)
    return jax.lax.map(push, jnp.eye(len(psi), dtype=psi.dtype))


@partial(Program, static_argnums=(1,))
def _averages(psi: Array, of: Of, data: dict[str, Any], weights: Array) -> tuple[Array, Array]:
    """g of the weighted sums (k,) and their derivatives by psi (d, k)."""

    def averages(x):
        mu = _mean(x, of, data).reshape(weights.shape)
        return of.family.link.link(jnp.sum(weights * mu, axis=1))

    value, push = jax.linearize(averages, psi)
    return value, jax.lax.map(push, jnp.eye(len(psi), dtype=psi.dtype))


def _of(fit: Fitted, scale: str, averaged: bool = True) -> Of:
    model = fit.model
    return Of(model.likelihood.family, model.structure, model.arrays.layout, scale, averaged)  # pyright: ignore


def _data(fit: Fitted, rows: NewData) -> dict[str, Any]:
    d, arrays, order = fit.model.design, fit.model.arrays, fit.model.elimination.order
    Z = [np.hstack([z for z, t in zip(rows.Z, d.terms, strict=True) if t.factor == f]) for f in order]
    X, offset = zip((rows.X, rows.offset), *rows.further, strict=True)
    return {"X": X, "Z": Z, "offset": offset, "T": list(arrays.T), "T_X": arrays.T_X, "inputs": arrays.inputs}


def mean(fit: Fitted, rows: NewData, scale: str) -> np.ndarray:
    """The mean of each row on a scale of ``predict.SCALES``, averaged over the effects of every factor; "link" is that
    of μ before the link."""
    with computing(fit.model.device):
        return np.asarray(_mean_of_rows(fit.estimates.psi, _of(fit, scale), _data(fit, rows)))


def on_link(fit: Fitted, rows: NewData, scale: str, averaged: bool) -> tuple[np.ndarray, np.ndarray]:
    """g of each row's mean, or of it at b = 0, and its standard error by the delta method."""
    link, e, of = link_for(fit, scale), fit.estimates, _of(fit, scale, averaged)
    with computing(fit.model.device):
        data = _data(fit, rows)
        value = np.asarray(_link_of_rows(e.psi, link, of, data))
        slopes = np.asarray(_slopes_of_link(e.psi, link, of, data))
    return value, np.sqrt(np.maximum(variances(slopes.T, e.covariance), 0.0))


def averages(fit: Fitted, rows: NewData, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """g of the weighted sums of the rows' means, averaged over the effects: k sums of r rows each, ``weights`` (k, r),
    and their covariance (k, k) by the delta method; the means are those before zeros are added."""
    e = fit.estimates
    with computing(fit.model.device):
        found = _averages(e.psi, _of(fit, "conditional"), _data(fit, rows), weights)
        value, slopes = (np.asarray(x) for x in found)
    return value, slopes.T @ np.asarray(e.covariance) @ slopes


def coefficients(fit: Fitted) -> pd.DataFrame:
    """``estimate`` and ``std_error``, indexed as ``fixef``; of the mean before zeros are added, where they are."""
    e = fit.estimates
    with computing(fit.model.device):
        data = _data(fit, rows_used(fit))
        value, slopes = (np.asarray(x) for x in _coefficients(e.psi, _of(fit, "conditional"), data))
    se = np.sqrt(np.maximum(variances(slopes.T, e.covariance), 0.0))
    return pd.DataFrame({"estimate": value, "std_error": se}, index=fit.fixef.index)
