"""A fit -> the same search from many random starts, as one batch: whether another end is better.

A start is drawn in the columns that the search works in, in which an effect of standard deviation one is as large as
the error, or as one unit of η:

    effects      lam = diag(s) L,  log s ~ U(log LEAST_SD, log LARGEST_SD),  rows of L lower triangular, of length one,
                 in directions drawn at random: any correlation
    β, log φ     of a generalised model, which searches for them too: those of the fit and AWAY standard errors times
                 N(0, 1); log φ by FAR at most

    errors       of a model with a covariance of them: standard deviations likewise, correlations at random or falling
                 with the distance, and coefficients of log φ that are N(0, 1) in units of their columns

The criterion of a linear model has θ alone: β and σ follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._context import computing
from jaxmm._random import as_key, words
from jaxmm._text import Printed
from jaxmm.batch.apart import can_be_apart, fits_apart
from jaxmm.batch.engine import fit_many
from jaxmm.covariance import lower
from jaxmm.fitted import Fitted
from jaxmm.frames import as_backend
from jaxmm.layout import Parameters
from jaxmm.optimize import Status
from jaxmm.residual.starts import random_errors
from jaxmm.results.result import FitBatch
from jaxmm.rows import Rows
from jaxmm.sources.responses import Responses, Varying, fingerprint
from jaxmm.sources.truth import Truth

LEAST_SD, LARGEST_SD = 0.03, 10.0
AWAY, FAR = 3.0, 2.0
SAME = 1e-4  # in log-likelihood: two ends that are one, to what lanes are searched to
SHOWN = 8  # ends in print


# ---------------------------------------------------------------- the starts
class Starts(Responses):
    """A source of lanes with a start each; the response is the fit's."""

    varies = frozenset({"y", "start"})
    trusted = True

    def __init__(self, fit: Fitted, n: int, key: Any):
        self.n, self.y = n, np.asarray(fit.model.design.y, float)
        self.starts = random_starts(fit, n, key)

    def block(self, first: int, size: int) -> Varying:
        own = self.starts[first : first + size]
        return Varying(np.tile(self.y, (len(own), 1)), start=own)

    def identity(self) -> dict[str, Any]:
        return {"responses": "one, from many starts", "n": self.n, "starts": fingerprint(self.y, self.starts)}


def random_starts(fit: Fitted, n: int, key: Any) -> np.ndarray:
    """(n, m) theta, or psi of a generalised model, as to the scaled columns; start k depends on ``key`` and k alone."""
    own, arrays, e = words(as_key(key)), fit.model.arrays, fit.estimates
    rows = arrays if isinstance(arrays, Rows) else None
    if rows is not None:
        beta, _, log_phi = rows.layout.split(np.asarray(e.psi))
        se = np.sqrt(np.maximum(np.diag(np.asarray(e.covariance)), 0.0))
        se_beta, _, se_phi = rows.layout.split(np.where(np.isfinite(se), se, 0.0))
    out = []
    for k in range(n):
        # host numbers of the key's words, a stream for each start
        random = np.random.default_rng([int(own[0]), int(own[1]), k])
        theta = _theta(arrays, random)
        if rows is None:
            out.append(theta)
            continue
        moved = log_phi + np.clip(AWAY * se_phi * random.normal(size=len(log_phi)), -FAR, FAR)
        moved_beta = beta + AWAY * se_beta * random.normal(size=len(beta))
        out.append(rows.layout.join(Parameters(moved_beta, theta, moved)))  # pyright: ignore[reportArgumentType]
    return np.stack(out)


def _theta(arrays: Any, random: np.random.Generator) -> np.ndarray:
    parts = []
    for term, at in zip(arrays.structure.terms, arrays.inputs, strict=True):
        q = term.covariance.q
        L = np.tril(random.normal(size=(q, q)))
        L /= np.linalg.norm(L, axis=1, keepdims=True)
        sd = np.exp(random.uniform(np.log(LEAST_SD), np.log(LARGEST_SD), q))
        parts.append(term.covariance.from_factor(sd[:, None] * L, at))
    if arrays.structure.residual is not None:
        parts.append(random_errors(arrays, random))
    return np.concatenate(parts)


# ---------------------------------------------------------------- the result
def multistart(fit: Fitted, n: int, key: Any, batch: int | None = None, progress: bool = False) -> Multistart:
    """See ``Fit.multistart``."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a positive number of starts, not {n!r}")
    own = fit.model.design.residual
    if own is not None and batch is not None:
        raise ValueError(
            f"batch= is for searches side by side, and those of a model with {own.text!r} of the errors go one after "
            "another from their starts: leave it out"
        )
    with computing(fit.model.device):
        source = Starts(fit, int(n), key)
    if own is not None or (batch is None and can_be_apart(fit, source.n)):
        return Multistart(fit, fits_apart(fit, source, progress))
    return Multistart(fit, fit_many(fit.model, source, batch=batch, progress=progress, control=fit._control))


@dataclass(frozen=True, eq=False, repr=False)
class Multistart(Printed):
    """Where searches from random starts have ended; print it.

    Attributes:
        original: the fit that was asked.
        fits: a ``FitBatch``, a replicate for each start.

    Example:
        >>> fit.multistart(2, key=1).frame.shape[0]
        2
    """

    original: Fitted
    fits: FitBatch

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per start: ``loglik``; ``gain``, by how much that is above the fit's; ``distance``, the largest change
        of a coefficient in its standard errors, or of an effect's standard deviation at the rows in σ (in units of η
        where there is none); ``converged``, ``iterations``, ``status``."""
        b = self.fits
        columns = {
            "loglik": b.loglik,
            "gain": b.loglik - self.original.loglik,
            "distance": _distance(self.original, b),
            "converged": b.converged,
            "iterations": b.iterations,
            "status": [Status(int(s)).name.lower() for s in b.status],
        }
        return pd.DataFrame(columns, pd.Index(b.replicate, name="start"))

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``frame``. ``backend``: "pandas" or "polars"."""
        return as_backend(self.frame, backend)

    @property
    def best(self) -> int | None:
        """The start whose end has the highest likelihood of those that converged; None where none did."""
        known = np.flatnonzero(self.fits.converged)
        return int(known[np.argmax(self.fits.loglik[known])]) if len(known) else None

    @property
    def better(self) -> bool:
        """Whether a search has ended higher than the fit, or converged where the fit did not."""
        if self.best is None:
            return False
        return not self.original.converged or float(self.frame["gain"].iloc[self.best]) > SAME

    @property
    def optima(self) -> pd.DataFrame:
        """The different ends of searches that converged, the highest first: ``loglik``, ``gain``, ``starts``."""
        own = self.frame.loc[self.frame["converged"]].sort_values(by="loglik", ascending=False)
        end = (-own["loglik"].diff().fillna(0.0) > SAME).cumsum()
        table = own.groupby(end, sort=True).agg(loglik=("loglik", "max"), gain=("gain", "max"), starts=("gain", "size"))
        return table.reset_index(drop=True)

    @cached_property
    def fit(self) -> Any:
        """The better fit, searched to its end from where the best start has led; the original one where none is
        better."""
        if not self.better:
            return self.original
        assert self.best is not None
        start = _truth(self.original, self.fits[self.best])
        found = self.original.model.fit(start=start, control=self.original._control)
        return found if not self.original.converged or found.loglik > self.original.loglik else self.original

    def _parts(self) -> list[str]:
        n, ended = len(self.fits), int(self.fits.converged.sum())
        lines = [f"{n} random starts of {self.original.formula}", f"{ended} searches converged, {n - ended} did not"]
        if self.better:
            gain = float(self.frame["gain"].iloc[self.best])
            lines.append(f"a better optimum was found: log-likelihood higher by {gain:.4g}; it is .fit")
        elif ended:
            lines.append("no better optimum was found")
        else:
            lines.append("what is wrong is not the start: see the original's check()")
        table = self.optima
        if len(table) > 1:
            lines.append(f"{len(table)} different ends:")
        for loglik, gain, starts in table.head(SHOWN).to_numpy().tolist():
            gain = 0.0 if abs(gain) <= SAME else gain
            lines.append(f"  log-likelihood {loglik:.4f} ({gain:+.4g}) from {starts:.0f} of the starts")
        return [*lines, *([f"  and {len(table) - SHOWN} more"] if len(table) > SHOWN else [])]


def _distance(fit: Any, batch: FitBatch) -> np.ndarray:
    """(n,) see ``Multistart.frame``."""
    d, sigma = fit.model.design, fit.sigma if np.isfinite(fit.sigma) else 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        changes = [np.abs(batch.fixef - fit.fixef.to_numpy()) / fit.bse.to_numpy()]
    varcorr = fit.varcorr()
    for group, sd in varcorr.sd.items():
        f = [factor.name for factor in d.factors].index(group)
        size = np.sqrt(np.mean(np.hstack([t.Z for t in d.terms if t.factor == f]) ** 2, axis=0))
        own = batch.varcorr_sd[:, [g == group for g, _ in batch.names.sd]]
        changes.append(np.abs(own - sd.to_numpy()) * size / sigma)
    return np.max(np.hstack(changes), axis=1)


def _truth(fit: Any, one: Any) -> Truth:
    """The parameters of a replicate."""
    d, family = fit.model.design, fit.family
    blocks = {b.group: b.cov for b in one.varcorr().blocks}
    lams = []
    for factor in d.factors:
        w, Q = np.linalg.eigh(blocks[factor.name])
        lams.append(lower(Q * np.sqrt(np.maximum(w, 0.0))))
    extras = [np.array([one.family_params[label] for label in e.labels]) for e in family.extras]
    phi = one.dispersion
    return Truth(
        np.concatenate([one.fixef, one.further]),
        tuple(lams),
        one.sigma if np.isfinite(one.sigma) else 1.0,
        1.0 if phi is None else phi,
        tuple(x[0] if len(x) == 1 else x for x in extras),
        None if fit.model.structure.residual is None else np.asarray(one.theta)[fit.model.structure.num_random :],
    )
