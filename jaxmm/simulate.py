"""New responses from a fitted model: y = Xβ + Zb + ε with b ~ N(0, D) drawn anew, or at its modes.

Replicate k depends on the key and on k alone (``fold_in``), whatever the number of replicates.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._context import computing
from jaxmm.design import DataError, NewData
from jaxmm.predict import linear_predictor, rows_used

if TYPE_CHECKING:
    from jaxmm.fit import Fit


def check_key(key: Any) -> jax.Array:
    """A PRNG key.

    Raises:
        TypeError: no key, with how to make one.
    """
    is_key = isinstance(key, jax.Array) and (
        key.shape == () if jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        else key.dtype == jnp.uint32 and key.shape == (2,)
    )  # fmt: skip
    if not is_key:
        given = f"an array of shape {np.shape(key)}" if np.ndim(key) else repr(key)
        raise TypeError(
            f"key must be one JAX key such as jax.random.key(0), not {given}: results are reproducible by it alone"
        )
    return key


@partial(jax.jit, static_argnums=(1, 2))
def normals(key: jax.Array, n: int, size: int) -> jax.Array:
    """(n, size) standard normal numbers; row k from ``fold_in(key, k)``."""

    def draw(k):
        return jax.random.normal(jax.random.fold_in(key, k), (size,), jnp.float64)

    return jax.vmap(draw)(jnp.arange(n))


def simulate(fit: Fit, n: int, key: Any, newdata: Any, re: str, weights: Any, offset: Any) -> np.ndarray:
    """See ``Fit.simulate``."""
    key = check_key(key)
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a positive number of replicates, not {n!r}")
    if re not in ("new", "conditional"):
        raise ValueError(f"re must be 'new' or 'conditional', not {re!r}")
    d = fit.model.design
    if newdata is None:
        if weights is not None or offset is not None:
            raise ValueError("weights= and offset= are for new data: the rows of the fit have their own")
        rows, precision = rows_used(fit), d.weights
    elif d.spec is None:
        raise DataError("this model was made from arrays: simulate(newdata=...) needs a formula")
    else:
        rows = d.evaluate(newdata, offset=offset)
        precision = new_weights(fit, newdata, weights, len(rows.X))
        if re == "conditional" and rows.new_levels:
            group, labels = next(iter(rows.new_levels.items()))
            raise DataError(f"the fit has not seen the level {labels[0]!r} of '{group}': it has no mode; use re='new'")
    mean = linear_predictor(fit, rows, {f.name for f in d.factors} if re == "conditional" else set())
    counts = [len(f.levels) + len(rows.new_levels.get(f.name, [])) for f in d.factors]
    widths = [b.shape[1] for b in fit.modes]
    sizes = [J * q for J, q in zip(counts, widths, strict=True)] if re == "new" else []
    m = len(mean)
    with computing(fit.model.device):
        draws = np.asarray(normals(key, int(n), m + sum(sizes)))
    noise = draws[:, :m] if precision is None else draws[:, :m] / np.sqrt(precision)
    y = mean + fit.sigma * noise
    at = m
    for f, size, q in zip(range(len(sizes)), sizes, widths, strict=False):
        u = draws[:, at : at + size].reshape(int(n), counts[f], q)
        y += _random_part(fit, rows, f, u)
        at += size
    return y


def new_weights(fit: Fit, newdata: Any, weights: Any, m: int) -> np.ndarray | None:
    """The precision weights of new rows, (m,).

    Raises:
        DataError: the fit had weights and none are given, or not one positive number for each row.
    """
    if weights is None:
        if fit.model.design.weights is not None:
            raise DataError(
                "the fit had weights: pass weights= for the new rows, a column's name or an array (1 for all)"
            )
        return None
    try:
        values = np.broadcast_to(np.asarray(newdata[weights] if isinstance(weights, str) else weights, float), (m,))
    except (KeyError, TypeError, ValueError):
        raise DataError(f"weights must be a column of the new data, a number or {m} numbers") from None
    if not np.all(values > 0) or not np.all(np.isfinite(values)):
        raise DataError("weights of new rows must be positive and finite")
    return values


def _random_part(fit: Fit, rows: NewData, f: int, u: np.ndarray) -> np.ndarray:
    d = fit.model.design
    Z = np.hstack([z for z, term in zip(rows.Z, d.terms, strict=True) if term.factor == f])
    effects = fit.sigma * u @ fit.factor_lam(f).T  # (n, J, q)
    codes = rows.codes[f]
    out = np.einsum("mq,nmq->nm", Z, effects[:, np.maximum(codes, 0)])
    return np.where(codes >= 0, out, np.nan)
