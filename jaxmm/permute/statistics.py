"""Fits of a permutation -> a statistic per response; a map of statistics -> a score per response, whose maximum counts.

    wald        t = β̂ / se of one column;  F = β̂'V̂⁻¹β̂ / k of k columns
    Largest     |t| itself                                                    max
    Mass        the mass of the cluster that the response is in, 0 in none    cluster
    Enhanced    its threshold-free enhancement                                tfce

The share of permutations whose largest score over all responses reaches that of a response is its family-wise p
(Westfall & Young 1993): the chance that any response of the family would do so if there were no effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import chdtri, ndtri

from jaxmm.inference.wald import together
from jaxmm.permute.adjacency import Adjacency
from jaxmm.permute.enhance import STEP, clusters, masses, tfce
from jaxmm.sources.responses import fingerprint

FORMING = 0.01  # the p of a cluster's threshold unless told


def kept(columns: tuple[str, ...]) -> tuple[str, ...]:
    """What ``fit_many`` has to keep for ``wald``."""
    return ("vcov",) if len(columns) > 1 else ()


def wald(batch: Any, columns: tuple[str, ...]) -> np.ndarray:
    """t of one column, F of several, (n,); NaN where the fit did not converge."""
    at = [batch.names.fixef.index(name) for name in columns]
    if len(at) == 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = batch.fixef[:, at[0]] / batch.bse[:, at[0]]
    else:
        estimate, vcov = batch.fixef[:, at], batch.vcov()[:, at][:, :, at]
        found = together(np.eye(len(at)), estimate, vcov).statistic / len(at)
    return np.where(batch.converged & np.isfinite(found), found, np.nan)


class Score(Protocol):
    """``name`` is what users call it."""

    @property
    def name(self) -> str: ...
    def scores(self, t: np.ndarray) -> np.ndarray:
        """(V,) of a map t (V,), NaN where t is."""
        ...

    def identity(self) -> dict[str, Any]:
        """What tells it from another (JSON)."""
        ...


@dataclass(frozen=True)
class Largest:
    """|t|."""

    name: str = "max"

    def scores(self, t: np.ndarray) -> np.ndarray:
        return np.abs(t)

    def identity(self) -> dict[str, Any]:
        return {"statistic": self.name}


@dataclass(frozen=True, eq=False)
class Mass:
    """Of clusters of |t| >= ``threshold``."""

    adjacency: Adjacency
    threshold: float
    name: str = "cluster"

    def labels(self, t: np.ndarray) -> np.ndarray:
        """(V,) the number of the cluster of each response, -1 in none."""
        return clusters(t, self.adjacency.pairs, self.threshold)

    def scores(self, t: np.ndarray) -> np.ndarray:
        labels = self.labels(t)
        own = np.append(masses(t, labels), 0.0)[labels]
        return np.where(np.isnan(t), np.nan, own)

    def identity(self) -> dict[str, Any]:
        return {"statistic": self.name, "threshold": self.threshold, "neighbours": fingerprint(self.adjacency.pairs)}


@dataclass(frozen=True, eq=False)
class Enhanced:
    """By ``enhance.tfce``."""

    adjacency: Adjacency
    step: float = STEP
    name: str = "tfce"

    def scores(self, t: np.ndarray) -> np.ndarray:
        return tfce(t, self.adjacency.pairs, self.step)

    def identity(self) -> dict[str, Any]:
        return {"statistic": self.name, "step": self.step, "neighbours": fingerprint(self.adjacency.pairs)}


def height(p: float, k: int) -> float:
    """|t| of a two-sided ``p`` by the normal distribution; F of k columns by χ²."""
    return float(-ndtri(p / 2) if k == 1 else chdtri(k, p) / k)
