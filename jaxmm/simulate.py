"""New responses from a fitted model: y | b from its family at Xβ + Zb, with b ~ N(0, D) drawn anew, or at its modes.

Replicate k depends on the key and on k alone, whatever the number of replicates.  They are drawn in
blocks of one size, so that one program serves every number of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm import costs
from jaxmm._context import computing
from jaxmm._random import as_key, normals, replicate_keys
from jaxmm.design import DataError, NewData
from jaxmm.errors import RowErrors
from jaxmm.fitted import Fitted
from jaxmm.predict import errors_at, linear_predictors, rows_used


def simulate(fit: Fitted, n: int, key: Any, newdata: Any, re: str, weights: Any, offset: Any) -> np.ndarray:
    """See ``Fit.simulate``."""
    key = as_key(key)
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a positive number of replicates, not {n!r}")
    if re not in ("new", "conditional"):
        raise ValueError(f"re must be 'new' or 'conditional', not {re!r}")
    d, lik = fit.model.design, fit.model.likelihood
    if newdata is None:
        if weights is not None or offset is not None:
            raise ValueError("weights= and offset= are for new data: the rows of the fit have their own")
        rows, given, trials = rows_used(fit), d.weights, d.trials
    elif d.spec is None:
        raise DataError("this model was made from arrays: simulate(newdata=...) needs a formula")
    else:
        rows = d.evaluate(newdata, offset=offset)
        given, trials = new_weights(fit, newdata, weights, len(rows.X))
        if re == "conditional" and rows.new_levels:
            group, labels = next(iter(rows.new_levels.items()))
            raise DataError(f"the fit has not seen the level {labels[0]!r} of '{group}': it has no mode; use re='new'")
    etas = linear_predictors(fit, rows, {f.name for f in d.factors} if re == "conditional" else set())
    counts = [len(f.levels) + len(rows.new_levels.get(f.name, [])) for f in d.factors]
    widths = [b.shape[1] for b in fit.modes]
    sizes = [J * q for J, q in zip(counts, widths, strict=True)] if re == "new" else []
    together = max(1, costs.SIMULATED_AT_ONCE // max(1, len(rows.X), sum(sizes)))
    few = n * len(rows.X) <= costs.SIMULATED_QUICKLY

    errors = errors_of(fit, rows, given)

    def block(first: int) -> np.ndarray:
        with computing(fit.model.device):
            for_effects, for_response = replicate_keys(key, first, together)
            draws = np.asarray(normals(for_effects, sum(sizes)))
        total, at = {name: np.repeat(eta[None], together, axis=0) for name, eta in etas.items()}, 0
        for f, size, q in zip(range(len(sizes)), sizes, widths, strict=False):
            own = _random_part(fit, rows, f, draws[:, at : at + size].reshape(together, counts[f], q))
            total[d.factors[f].predictor] += own
            at += size
        with computing(fit.model.device):
            if errors is None:
                return lik.draw(for_response, total, fit.estimates, given, trials, few)
            return total["mu"] + fit.sigma * errors.coloured(np.array(normals(for_response, len(rows.X))))

    return np.concatenate([block(first) for first in range(0, n, together)])[:n]


def errors_of(fit: Fitted, rows: NewData, weights: np.ndarray | None) -> RowErrors | None:
    """Those of rows, None where they are independent and of one variance over the weights."""
    return None if fit.model.design.residual is None else errors_at(fit, rows, weights)


def new_weights(fit: Fitted, newdata: Any, weights: Any, m: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The weights of new rows (m,), and the trials where the family counts successes (``weights`` gives them).

    Raises:
        DataError: the fit had weights or trials and none are given, or not one positive number for each row.
    """
    d = fit.model.design
    if d.trials is None and not fit.model.likelihood.precisions:
        if weights is not None:
            raise DataError(
                "weights of a generalised model count rows, and say nothing of a new response: leave them out"
            )
        return None, None
    if d.trials is None:
        had, what = d.weights is not None, "weights"
    else:
        had, what = bool(np.any(d.trials != 1)), "numbers of trials"
    if weights is None:
        if had:
            raise DataError(
                f"the fit had {what}: pass weights= for the new rows, a column's name or an array (1 for all)"
            )
        return None, None if d.trials is None else np.ones(m)
    try:
        values = np.broadcast_to(np.asarray(newdata[weights] if isinstance(weights, str) else weights, float), (m,))
    except (KeyError, TypeError, ValueError):
        raise DataError(f"weights must be a column of the new data, a number or {m} numbers") from None
    if not np.all(values > 0) or not np.all(np.isfinite(values)):
        raise DataError("weights of new rows must be positive and finite")
    if d.trials is None:
        return values, None
    if np.any(values != np.round(values)):
        raise DataError("weights of new rows are their numbers of trials: they must be whole numbers")
    return None, values


def _random_part(fit: Fitted, rows: NewData, f: int, u: np.ndarray) -> np.ndarray:
    d = fit.model.design
    Z = np.hstack([z for z, term in zip(rows.Z, d.terms, strict=True) if term.factor == f])
    scale = np.sqrt(fit.model.likelihood.effects_scale(fit.estimates))
    effects = scale * u @ fit.factor_lam(f).T  # (n, J, q)
    codes = rows.codes[f]
    out = np.einsum("mq,nmq->nm", Z, effects[:, np.maximum(codes, 0)])
    return np.where(codes >= 0, out, np.nan)
