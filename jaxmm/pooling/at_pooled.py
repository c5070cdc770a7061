"""-2 log-likelihood of each imputation at the pooled estimates (Meng & Rubin 1992).

These are the means of β̂, of the covariances of the random effects, of σ² or φ, and of the family's further parameters.

A structure whose covariances have no such mean among its own (compound symmetry, autoregression) takes the nearest.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from jaxmm._compiled import Program
from jaxmm._context import computing
from jaxmm.errors import check_alike
from jaxmm.layout import Parameters
from jaxmm.objective import laplace, lmm, quadrature
from jaxmm.objective.mode import find_mode, zero_effects
from jaxmm.pooling.datasets import Data, DataSets
from jaxmm.rows import Rows
from jaxmm.sources.truth import Truth, as_start

SAME = 1e-6  # relative: a deviance computed twice

_linear = Program(lambda parameters, gram: lmm.neg2_loglik(parameters, gram))


@partial(Program, static_argnums=(2,))
def _generalised(parameters: Parameters, rows: Rows, n_agq: int) -> Any:
    point = laplace.original_point(parameters, rows)
    return quadrature.neg2_loglik(point, rows, find_mode(point, rows, zero_effects(rows)).u, n_agq)


def neg2_logliks(sets: DataSets) -> np.ndarray:
    """(m,) by maximum likelihood; nothing is profiled out.

    Raises:
        ValueError: a batch without its data, or with other data than it was fitted to.
    """
    truth, found = None, []
    for k in range(len(sets)):
        data = sets.data(k)
        check_alike(data.model, "method='D3'")
        truth = pooled_truth(sets, data.model) if truth is None else truth
        if not sets.fits:
            own = _at(as_start(data.model, pooled_truth(sets.take(np.array([k])), data.model)), data)
            if not abs(own - sets.deviance[k]) <= SAME * (1 + abs(own)):
                raise ValueError(
                    f"data set {sets.kept[k]} has the deviance {own:.6g} at its estimates, and in the batch "
                    f"{sets.deviance[k]:.6g}: Y is not what fit_many was given, or the lanes had columns, weights or "
                    "offsets of their own: pool a list of fits for method='D3'"
                )
        found.append(_at(as_start(data.model, truth), data))
    return np.array(found)


def _at(parameters: Any, data: Data) -> float:
    with computing(data.model.device):
        if isinstance(data.arrays, Rows):
            return float(_generalised(_arrays(parameters), data.arrays, data.n_agq))
        return float(_linear(_arrays(parameters), data.arrays)[0])


def _arrays(parameters: Parameters) -> Parameters:
    """Of NumPy; log φ is (k,), (1,) of a linear model."""
    beta, theta, log_phi = parameters
    return Parameters(np.asarray(beta, float), np.asarray(theta, float), np.asarray(log_phi, float))  # pyright: ignore


def pooled_truth(sets: DataSets, model: Any) -> Truth:
    """The pooled estimates as the parameters of a model.

    Raises:
        ValueError: σ̂ or φ̂ is not above zero in any imputation.
    """
    vc = sets.varcorr()
    by_group = {b.group: b.cov for b in vc.blocks}
    lams = tuple(_root(by_group[f.name]) for f in model.design.factors)
    sigma = 1.0 if vc.sigma is None else vc.sigma
    phi = sigma**2 if sets.dispersion is None else float(np.mean(sets.dispersion))
    family, means = model.likelihood.family, np.mean(sets.family_params, axis=0)
    values = dict(zip(sets.params, means, strict=True))
    own = [np.array([values[label] for label in e.labels]) for e in family.extras]
    extras = tuple(x[0] if len(x) == 1 else x for x in own)
    return Truth(np.mean(sets.Q, axis=0), lams, sigma, phi, extras)


def _root(D: np.ndarray) -> np.ndarray:
    """L (q, q) lower triangular with LL' = D, also of a singular one."""
    w, Q = np.linalg.eigh(D)
    L = np.asarray(np.linalg.qr((Q * np.sqrt(np.maximum(w, 0.0))).T, mode="r")).T
    return L * np.where(np.diag(L) < 0, -1.0, 1.0)
