"""The parameters of the errors' covariance that people read, as smooth functions h of what a search moves, beside those
of ``quantities``.

    sd             log σ √C_tt        of a time
    correlation    arcsin C_st / √(C_ss C_tt)
    log φ          its coefficients as the formula has them

A structure has as many standard deviations and correlations as its parameters tell apart: each time's where these
differ, of ``us`` every correlation, of ``toep`` one for each lag, of ``ar1`` that of neighbours, from which the others
follow.  They are found by the rank of derivatives, near pairs first; of very many times there are none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.covariance import resized
from jaxmm.design.identified import MOST, MOST_TIMES, as_correlations, moved_by
from jaxmm.errors import log_phi
from jaxmm.fitted import Fitted
from jaxmm.structure import ResidualLayout
from jaxmm.tables import correlation

RANK = 1e-6  # of the length of a row: what is left of it, given those before, is rounding
SAME = 1e-12  # of one: a variance over σ² that is none of its own


class ErrorShape(NamedTuple):
    """Which there are, in the order of h: static.  (set of parameters, time) of each sd, (set, time, time) of each
    correlation; ``constant`` (k,) of log φ and ``left``, as of a ``ResidualDesign``, () without a formula."""

    layout: ResidualLayout
    sds: tuple[tuple[int, int], ...]
    correlations: tuple[tuple[int, int, int], ...]
    constant: tuple[float, ...]
    left: int

    def values(self, rho: Array, log_sigma2: Array, positions: Any) -> list[Array]:
        """h of each."""
        thetas, gamma = self.layout.split(rho)
        structure: Any = self.layout.covariance
        C = [structure.covariance(theta, positions) for theta in thetas]
        sds = [0.5 * (log_sigma2 + jnp.log(C[g][t, t])) for g, t in self.sds]
        angles = [jnp.arcsin(C[g][s, t] / jnp.sqrt(C[g][s, s] * C[g][t, t])) for g, s, t in self.correlations]
        if not self.constant:
            return sds + angles
        gamma = jnp.insert(gamma, self.left, 0.0)
        return sds + angles + [c * log_sigma2 + gamma[k] for k, c in enumerate(self.constant)]


class ErrorQuantities(NamedTuple):
    """``shape``, ``names`` and ``estimates`` (K,); ``positions`` of the times looked at."""

    shape: ErrorShape
    names: list[str]
    estimates: np.ndarray
    positions: Any


def error_quantities(fit: Fitted) -> ErrorQuantities | None:
    """Those of a fit; None of errors that are independent and of one variance."""
    d, s = fit.model.design.residual, fit.model.structure
    layout = s.residual
    if d is None or layout is None:
        return None
    sds: tuple = ()
    correlations: tuple = ()
    structure, positions, names, values = layout.covariance, d.positions, [], []
    if structure is not None and (structure.positional or len(d.times) ** 2 * structure.num_params <= MOST):
        if structure.positional and len(d.times) > MOST_TIMES:
            structure, positions = resized(structure, MOST_TIMES), np.asarray(positions)[:MOST_TIMES]
        layout = replace(layout, covariance=structure)
        found = layout.split(np.asarray(fit.theta)[s.num_random :])[0]
        C = [np.asarray(structure.covariance(theta, positions)) for theta in found]
        alone = len(C) == 1 and np.max(np.abs(np.diag(C[0]) - 1)) < SAME  # σ says it
        times, pairs = _told(structure, positions, C[0].shape[0])
        sds = () if alone else tuple((g, t) for g in range(len(C)) for t in times)
        correlations = tuple((g, *pair) for g in range(len(C)) for pair in pairs)
        where = [f"|errors ({x})" for x in d.sets.levels] if d.sets is not None else ["|errors"]
        one = len(times) == 1
        names += [f"sd{'' if one else '_' + d.times[t]}{where[g]}" for g, t in sds]
        names += [f"cor_{d.times[a]}.{d.times[b]}{where[g]}" for g, a, b in correlations]
        values += [fit.sigma * np.sqrt(C[g][t, t]) for g, t in sds]
        values += [correlation(C[g])[a, b] for g, a, b in correlations]
    constant: tuple[float, ...] = ()
    if d.dispersion is not None and d.constant is not None:
        gamma = layout.split(np.asarray(fit.theta)[s.num_random :])[1]
        constant = tuple(d.constant.tolist())
        names += [f"phi~{c}" for c in d.dispersion.columns]
        values += log_phi(d, gamma, fit.sigma).tolist()
    shape = ErrorShape(layout, sds, correlations, constant, d.left)
    return ErrorQuantities(shape, names, np.array(values, float), positions)


def _told(structure: Any, positions: Any, T: int) -> tuple[list[int], list[tuple[int, int]]]:
    """The times whose variances, and the pairs whose correlations, the parameters tell apart."""
    C, dC = moved_by(structure, positions)
    slopes, turned = as_correlations(C[:T, :T], dC[:T, :T])
    pairs = [(t, t + lag) for lag in range(1, T) for t in range(T - lag)]
    own = _basis(np.array([turned[pair] for pair in pairs]).reshape(len(pairs), -1))
    return _basis(slopes), [pairs[k] for k in own]


def _basis(rows: np.ndarray) -> list[int]:
    """Which rows are no combination of those before them."""
    found: list[int] = []
    Q = np.zeros((0, rows.shape[1]))
    for k, row in enumerate(rows):
        left = row - (row @ Q.T) @ Q
        left = left - (left @ Q.T) @ Q
        size = np.linalg.norm(left)
        if size > RANK * max(np.linalg.norm(row), RANK):
            Q, found = np.vstack([Q, left / size]), [*found, k]
        if len(Q) == rows.shape[1]:
            break
    return found
