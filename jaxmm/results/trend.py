"""What a prior of many responses depends on: a covariate -> the columns of a natural spline in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm.design.splines import ns_basis, ns_knots


def trend_basis(used: np.ndarray, trend: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the used responses and of all: a constant, or a natural spline with up to four columns.

    Raises:
        ValueError: a covariate that is constant.
    """
    n = int(used.sum())
    if trend is None:
        return np.ones((n, 1)), np.ones((len(used), 1))
    distinct = len(np.unique(trend[used]))
    columns = min(1 + (n >= 3) + (n >= 6) + (n >= 30), max(distinct, 2))
    knots = ns_knots(trend[used], columns, None, True, None)
    if isinstance(knots, str):
        raise ValueError(f"trend: {knots}; leave it out, or give what variances depend on")
    whole = np.full((len(used), columns), np.nan)
    there = np.isfinite(trend)
    whole[there] = ns_basis(trend[there], *knots)
    return whole[used], whole


def covariate(batch: Any, trend: Any) -> np.ndarray | None:
    """(n,): numbers as they are, or the estimates of a coefficient by its name; None for None.

    Raises:
        ValueError: neither, or another number of them; one that is not finite, of a response with a fit.
    """
    if trend is None:
        return None
    if isinstance(trend, str):
        names = list(batch.names.fixef)
        if trend not in names:
            known = ", ".join(map(repr, names))
            raise ValueError(f"trend must be numbers or a coefficient, {known}; not {trend!r}")
        return batch.fixef[:, names.index(trend)]
    try:
        x = np.asarray(trend, float)
    except (TypeError, ValueError):
        x = np.zeros(())
    if x.shape != (len(batch),):
        raise ValueError(
            f"trend must have a number for each of the {len(batch)} responses, as their means; not {trend!r}"
        )
    bad = np.flatnonzero(batch.converged & ~np.isfinite(x))
    if len(bad):
        raise ValueError(
            f"trend is {x[bad[0]]:g} for response {bad[0]} (from 0), which has a fit, and for {len(bad) - 1} more: "
            "give a finite number for each, such as np.nanmean(Y, axis=1)"
        )
    return x
