"""Residuals of a fit, row by row, by the family's variance, density and link."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm._compiled import Elementwise
from jaxmm._context import computing
from jaxmm.errors import row_errors
from jaxmm.fitted import Fitted
from jaxmm.predict import fitted_predictors, link_of, parameters


def _error_variances(fit: Fitted) -> np.ndarray:
    """Over σ², of every row used, without the weights; 1 of rows of weight zero, which these make zero anyway."""
    d = fit.model.design
    out = np.ones(len(d.kept))
    out[d.kept] = row_errors(fit.model, fit.theta, d.residual, None, len(d.y)).sd ** 2
    return out


EPS = float(np.finfo(float).eps)
KINDS = ("response", "pearson", "deviance", "working")

_variance = Elementwise(lambda family, phi, mu: family.variance(mu, phi))
_own_variance = Elementwise(
    lambda family, extras, mu, phi, trials, *further: family.variance(mu, phi, trials, *further, *extras)
)
_slope = Elementwise(lambda link, eta: jax.jvp(link.inverse, (eta,), (jnp.ones_like(eta),))[1])  # dμ/dη


def residuals(fit: Fitted, kind: str) -> pd.Series:
    """See ``Fit.residuals``.

    Raises:
        ValueError: ``kind`` is not one of KINDS.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be 'response', 'pearson', 'deviance' or 'working', not {kind!r}")
    d, family = fit.model.design, fit.family
    mu, phi, further, extras = parameters(fit, fitted_predictors(fit))
    values = np.asarray(d.observed) - family.mean(mu, *further, *extras)
    if d.trials_all is not None:  # a mean that rounds to 0 or 1 would have no variance
        mu = np.clip(mu, EPS, 1 - EPS)
    if kind == "response":
        return pd.Series(values, d.index, name="residual")
    weights = np.ones(len(mu)) if d.weights_all is None else d.weights_all
    trials = np.ones(len(mu)) if d.trials_all is None else d.trials_all
    with computing(fit.model.device), np.errstate(invalid="ignore", divide="ignore"):
        if kind == "pearson":
            if d.further or extras:  # of each row its own; with a formula for the scale, V has the scale in it
                variance = _own_variance(family, mu, phi, trials, *further, shared=(extras,))
                variance = variance * phi if family.has_scale and np.ndim(phi) else variance
            elif d.residual is not None:
                variance = _error_variances(fit)
            else:
                variance = _variance(family, mu, shared=(phi,))
            root = np.sqrt(weights * trials / variance)
            values = np.where(values == 0, 0.0, values * root)  # V = 0 where a mean is at the end of its range
        elif kind == "deviance":
            y, n = jnp.asarray(d.y_all), jnp.asarray(trials)
            others = map(jnp.asarray, (*further, *extras))
            unit = np.asarray(family.unit_deviance(y, jnp.asarray(mu), phi, n, *others))
            unit = unit / phi if family.has_scale and np.ndim(phi) else unit
            values = np.where(values == 0, 0.0, np.sign(values) * np.sqrt(weights * np.maximum(unit, 0.0)))
        else:
            values = values / _slope(family.link, link_of(fit, mu))
    return pd.Series(values, d.index, name="residual")
