"""Results of lanes -> FitBatch: the columns get the names that a ``Fit`` has for them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxmm.batch.problem import Found
from jaxmm.batch.result import FitBatch, names_of
from jaxmm.diagnostics import SINGULAR
from jaxmm.optimize import Status

NO_ESTIMATE = (Status.NOT_FINITE, Status.INVALID, Status.NO_VARIATION)


class _Place(NamedTuple):
    """Where an effect stands: its factor in elimination order, its row of the factor's lam, and its term."""

    factor: int
    row: int
    term: int


def _places(model: Any) -> dict[tuple[str, str], _Place]:
    """(group, effect) -> its place, in the order of ``names_of``."""
    d, order = model.design, model.elimination.order
    out: dict[tuple[str, str], _Place] = {}
    for f in dict.fromkeys(d.terms[t].factor for t, _ in model.theta_terms()):
        row = 0
        for t, term in enumerate(d.terms):
            if term.factor == f:
                for effect in term.effects:
                    out[d.factors[f].name, effect] = _Place(order.index(f), row, t)
                    row += 1
    return out


def label(model: Any, found: Found, iterations: np.ndarray, first: int) -> FitBatch:
    """Results of replicates first, first + 1, .. with their names."""
    s, family, names = model.structure, model.likelihood.family, names_of(model)
    failed = np.isin(found.status, NO_ESTIMATE)
    places, count = _places(model), len(failed)
    rows = {key: found.lams[at.factor][at.row] for key, at in places.items()}  # (q, L)
    sd = {key: np.sqrt(np.sum(row**2, axis=0)) for key, row in rows.items()}
    corr = []
    for group, a, b in names.corr:
        with np.errstate(all="ignore"):
            product = np.sum(rows[group, a] * rows[group, b], axis=0)
            corr.append(np.clip(product / (sd[group, a] * sd[group, b]), -1.0, 1.0))
    singular = np.zeros(count, bool)
    for (t, term), at in zip(model.theta_terms(), s.slices(), strict=True):
        pivots = term.covariance.pivots(np.asarray(found.theta[at]), model.design.terms[t].inputs)
        singular |= np.min(pivots, axis=0) < SINGULAR * model.unit

    def column(x: Any) -> np.ndarray:
        return np.ascontiguousarray(np.where(failed, np.nan, np.asarray(x, float)).T)

    empty = np.zeros((0, count))
    phi = np.asarray(found.phi)
    return FitBatch(
        names=names,
        replicate=first + np.arange(count),
        fixef=column(found.beta),
        bse=column(found.bse),
        theta=column(found.theta),
        sigma=column(np.sqrt(phi) if family.has_scale else np.ones(count)),
        dispersion=column(phi if family.num_phi else np.full(count, np.nan)),
        family_params=column(found.further if names.family_params else empty),
        loglik=column(-0.5 * np.asarray(found.deviance)),
        varcorr_sd=column(np.stack([sd[key] for key in names.sd]) if names.sd else empty),
        varcorr_corr=column(np.stack(corr) if corr else empty),
        is_singular=singular & ~failed,
        status=np.asarray(found.status, np.int8),
        iterations=np.asarray(iterations, np.int32),
    )
