"""Residuals of a fit, row by row, by the family's variance, density and link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm._compiled import Elementwise
from jaxmm._context import computing
from jaxmm.predict import fitted_values, link_of

if TYPE_CHECKING:
    from jaxmm.fit import Fit

EPS = float(np.finfo(float).eps)
KINDS = ("response", "pearson", "deviance", "working")

_variance = Elementwise(lambda family, phi, mu: family.variance(mu, phi))
_slope = Elementwise(lambda link, eta: jax.jvp(link.inverse, (eta,), (jnp.ones_like(eta),))[1])  # dμ/dη


def residuals(fit: Fit, kind: str) -> pd.Series:
    """See ``Fit.residuals``.

    Raises:
        ValueError: ``kind`` is not one of KINDS.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be 'response', 'pearson', 'deviance' or 'working', not {kind!r}")
    d, family = fit.model.design, fit.family
    mu = fitted_values(fit).to_numpy()
    values = np.asarray(d.observed) - mu
    if d.trials_all is not None:  # a mean that rounds to 0 or 1 would have no variance
        mu = np.clip(mu, EPS, 1 - EPS)
    if kind == "response":
        return pd.Series(values, d.index, name="residual")
    weights = np.ones(len(mu)) if d.weights_all is None else d.weights_all
    trials = np.ones(len(mu)) if d.trials_all is None else d.trials_all
    phi = fit.model.likelihood.phi(fit.estimates)
    with computing(fit.model.device), np.errstate(invalid="ignore", divide="ignore"):
        if kind == "pearson":
            root = np.sqrt(weights * trials / _variance(family, mu, shared=(phi,)))
            values = np.where(values == 0, 0.0, values * root)  # V = 0 where a mean is at the end of its range
        elif kind == "deviance":
            unit = np.asarray(family.unit_deviance(jnp.asarray(d.y_all), jnp.asarray(mu), phi, jnp.asarray(trials)))
            values = np.where(values == 0, 0.0, np.sign(values) * np.sqrt(weights * np.maximum(unit, 0.0)))
        else:
            values = values / _slope(family.link, link_of(fit, mu))
    return pd.Series(values, d.index, name="residual")
