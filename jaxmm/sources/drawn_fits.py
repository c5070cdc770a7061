"""Responses drawn from the fits of a batch: n from the estimates of each replicate, with its rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmm._random import as_key, replicate_words, words
from jaxmm.prepared import Prepared
from jaxmm.results.result import FitBatch
from jaxmm.sources.drawing import Constants, Drawing, Words
from jaxmm.sources.responses import Responses, Varying, fingerprint


class DrawnFromFits(Responses):
    """Response k n + j is the j-th of the k-th fit.

    Args:
        model: that was fitted.
        batch: its fits; responses of one that did not converge are drawn at zeros, and mean nothing.
        source: what replicates had of their own, for ``model``.
        n: responses of each fit.
        key: a JAX key or a seed.
    """

    endless, trusted = True, True

    def __init__(self, model: Prepared, batch: FitBatch, source: Responses, n: int, key: Any):
        self.batch, self.source, self.each, self.n = batch, source, n, n * len(batch)
        self._key, self._numbers = words(as_key(key)), np.asarray(batch.columns["replicate"])
        self.drawing, self.varies = Drawing(model, own=True), source.varies
        self.at = _constants(model, batch)

    def block(self, first: int, size: int) -> Varying:
        y, own = self._drawn(first, size)
        return own._replace(y=y)

    def on(self, model: Prepared, source: Responses) -> Responses:
        """The same responses for another ``model`` of the same rows, whose replicates have of their own what ``source``
        gives."""
        return _OfModel(self, source)

    def places(self, first: int, size: int) -> np.ndarray:
        """(size,) which fit each response is of; the last one's beyond the end."""
        return np.minimum((first + np.arange(size)) // self.each, len(self.batch) - 1)

    def own(self, source: Responses, first: int, size: int) -> Varying:
        """What the replicates have of their own, from ``source``."""
        numbers = self._numbers[self.places(first, size)]
        low = int(numbers.min())
        block = source.block(low, int(numbers.max()) - low + 1)
        return block.each(lambda x: np.asarray(x)[numbers - low])

    def _drawn(self, first: int, size: int) -> tuple[np.ndarray, Varying]:
        own, k = self.own(self.source, first, size), self.places(first, size)
        at = Constants(
            self.at.beta[k],
            tuple(lam[k] for lam in self.at.lams),
            self.at.sigma[k],
            self.at.phi[k],
            tuple(x[k] for x in self.at.extras),
            self.at.rho[k],
        )
        drawn = Words(*replicate_words(self._key, first, size, 3))
        return self.drawing.y(drawn, at, own.X, own.Z, own.offset), own

    def identity(self) -> dict[str, Any]:
        known = fingerprint(self.at.beta, *self.at.lams, self.at.sigma, self.at.phi, *self.at.extras, self.at.rho)
        return {"responses": "drawn from fits", "n": self.n, "key": [int(x) for x in self._key], "fits": known}


class _OfModel(Responses):
    """Responses drawn from fits of one model, with what lanes of another have of their own."""

    endless, trusted = True, True

    def __init__(self, drawn: DrawnFromFits, source: Responses):
        self.drawn, self.source, self.n, self.varies = drawn, source, drawn.n, source.varies

    def block(self, first: int, size: int) -> Varying:
        return self.drawn.own(self.source, first, size)._replace(y=self.drawn.block(first, size).y)

    def identity(self) -> dict[str, Any]:
        return self.drawn.identity()


def _constants(model: Prepared, batch: FitBatch) -> Constants:
    """The estimates of all replicates, zero where there are none; λ of each factor in absolute units."""
    d, n = model.design, len(batch)
    good = np.asarray(batch.converged)

    def known(x: Any, other: float = 0.0) -> np.ndarray:
        x = np.asarray(x, float)
        return np.where(np.isfinite(x) & good.reshape(-1, *(1,) * (x.ndim - 1)), x, other)

    linear, sigma = model.likelihood.precisions, known(batch.columns["sigma"], 1.0)
    lams = [
        np.zeros((n, q, q))
        for q in (sum(t.Z.shape[1] for t in d.terms if t.factor == f) for f in range(len(d.factors)))
    ]
    theta = known(batch.columns["theta"])
    for (t, layout), at in zip(model.theta_terms(), model.structure.slices(), strict=True):
        inside = slice(layout.at, layout.at + layout.covariance.q)
        term = d.terms[t]
        for k in range(n):
            lam = layout.covariance.lam(theta[k, at], term.inputs)
            lams[term.factor][k, inside, inside] = lam * (sigma[k] if linear else 1.0)
    beta = np.hstack([known(batch.columns["fixef"]), known(batch.columns["further"])])
    phi = known(batch.columns["dispersion"], 1.0)
    family, extras, first = model.likelihood.family, [], 0
    for e in family.extras:
        values = known(batch.columns["family_params"])[:, first : first + len(e.labels)]
        extras.append(values[:, 0] if len(e.labels) == 1 else values)
        first += len(e.labels)
    return Constants(beta, tuple(lams), sigma, phi, tuple(extras), theta[:, model.structure.num_random :])
