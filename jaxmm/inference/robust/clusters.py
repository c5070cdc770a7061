"""What is given as ``cluster=`` -> the cluster of each row, of which no level of a random effect spans two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.design import DataError, Design


@dataclass(frozen=True, eq=False)
class Clusters:
    """``codes`` (n,) in 0 .. count - 1 of the rows that count, and what they are called."""

    codes: np.ndarray
    count: int
    name: str

    def note(self, kind: str) -> str:
        """What a table says of it."""
        return f"standard errors robust within clusters: {kind}, {self.count} of {self.name}"

    def of_levels(self, codes: np.ndarray, levels: int) -> np.ndarray:
        """The cluster in which each level of a factor lies."""
        own = np.zeros(levels, np.int32)
        own[codes] = self.codes
        return own


def clusters_of(design: Design, cluster: Any = None) -> Clusters:
    """The clusters of a model's rows.

    Args:
        cluster: the name of a grouping factor, the column itself (a label for each row used), or None for the factor
            with the fewest levels.

    Raises:
        ValueError: an unknown name, or clusters that are not independent under the model, or fewer than two.
        DataError: a column of another length, or with missing values.
    """
    factors = design.correlated_within
    if cluster is None and not factors:
        raise ValueError("cluster: the model has no grouping factor; give a column of labels, one for each row used")
    if cluster is None:
        factor = min(factors, key=lambda f: len(f.levels))
        codes, name = factor.codes, f"'{factor.name}'"
    elif isinstance(cluster, str):
        codes, name = _named(design, cluster), f"'{cluster}'"
    else:
        codes, name = _column(design, cluster), "the clusters given"
    found, codes = np.unique(codes, return_inverse=True)
    clusters = Clusters(codes.ravel().astype(np.int32), len(found), name)
    for factor in factors:
        own = clusters.of_levels(factor.codes, len(factor.levels))
        split = np.flatnonzero(own[factor.codes] != clusters.codes)
        if len(split):
            level = factor.levels[factor.codes[split[0]]]
            raise ValueError(
                f"cluster: the level {level!r} of '{factor.name}' has rows in several of {name}; these share its "
                "random effect and are not independent: give coarser clusters, so that every level lies in one"
            )
    if clusters.count < 2:
        raise ValueError(f"cluster: there is one cluster only, {name}, and two are needed to see how clusters vary")
    return clusters


def _named(design: Design, name: str) -> np.ndarray:
    for factor in design.correlated_within:
        if factor.name == name:
            return factor.codes
    known = ", ".join(repr(f.name) for f in design.correlated_within)
    raise ValueError(
        f"cluster must be a grouping factor of the model ({known}) or a column of labels, one for each row used, not "
        f"{name!r}: the fit keeps no other columns, so give cluster=data[{name!r}]"
    )


def _column(design: Design, cluster: Any) -> np.ndarray:
    """Codes (n,) of the rows that count; a Series is taken by its labels where it has all of them."""
    index = design.index
    if isinstance(cluster, pd.Series) and cluster.index.is_unique and index.isin(cluster.index).all():
        cluster = cluster.loc[index]
    labels = np.asarray(cluster)
    if labels.shape == index.shape:
        labels = labels[design.kept]
    if labels.shape != design.y.shape:
        raise DataError(f"cluster must hold a label for each of the {len(index)} rows used, not {labels.shape}")
    codes = pd.factorize(labels)[0]
    if np.any(codes < 0):
        raise DataError(f"cluster has {int(np.sum(codes < 0))} missing labels: every row needs one")
    return codes
