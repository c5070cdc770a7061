"""The covariance D of each factor's effects -> its principal components.

    D = Q diag(s²) Q',      b_j = Σ_k Q_k c_jk,   Var c_jk = s_k²,   uncorrelated

s_k over Σ s_k² says how much of the effects' variance lies in direction k.  Where some s_k are zero D is singular: the
data ask for fewer dimensions than the model has, and a simpler model has the same likelihood (Bates, Kliegl, Vasishth &
Baayen 2015, arXiv:1506.04967).  How many are zero does not depend on the units of the effects; the shares do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._text import Grid, Printed, frame_parts
from jaxmm.fitted import Fitted
from jaxmm.frames import as_backend

NULL = 1e-4  # of the largest standard deviation: a direction without variance; relative, as lme4's tolerance for Λ
ROUNDING = 1e-8  # of it: roots of an eigenvalue's rounding


@dataclass(frozen=True, eq=False, repr=False)
class GroupComponents:
    """Of one grouping factor: ``sd`` (q,) of the components, falling; ``loadings`` (q, q), effects × components,
    columns of length one, their largest number positive; ``rank``, how many have any variance; ``restricted``, whether
    a structure ties variances and covariances to each other.

    Example:
        >>> fit.re_pca()["Subject"].rank
        2
    """

    group: str
    sd: pd.Series
    loadings: pd.DataFrame
    rank: int
    restricted: bool

    @property
    def proportion(self) -> pd.Series:
        """Share of the variance, NaN where there is none at all."""
        v = self.sd**2
        total = float(v.sum())
        return (v / total if total > 0 else v * np.nan).rename("proportion")

    @property
    def cumulative(self) -> pd.Series:
        """Share of this component and of those before it."""
        return self.proportion.cumsum().rename("cumulative")

    @property
    def needless(self) -> list[str]:
        """The largest effect of each direction that has no variance."""
        return list(dict.fromkeys(self.loadings.iloc[:, self.rank :].abs().idxmax().tolist()))


class RePCA(Printed, Mapping[str, GroupComponents]):
    """Components of every factor, by its name; print it.

    ``relative_to`` is σ in a linear model, else 1: standard deviations over it are those that lme4's ``rePCA`` gives.

    Example:
        >>> fit.re_pca().sd["Subject"].round(1).tolist()
        [24.7, 5.9]
    """

    def __init__(self, groups: dict[str, GroupComponents], relative_to: float):
        self._groups, self.relative_to = groups, relative_to

    def __getitem__(self, group: str) -> GroupComponents:
        if group not in self._groups:
            raise KeyError(f"no grouping factor {group!r}; the model has {', '.join(map(repr, self._groups))}")
        return self._groups[group]

    def __iter__(self):
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def sd(self) -> dict[str, pd.Series]:
        """Standard deviations of the components, by factor."""
        return {name: g.sd for name, g in self.items()}

    @property
    def proportion(self) -> dict[str, pd.Series]:
        """Shares of the variance, by factor."""
        return {name: g.proportion for name, g in self.items()}

    @property
    def loadings(self) -> dict[str, pd.DataFrame]:
        """Loadings, effects × components, by factor."""
        return {name: g.loadings for name, g in self.items()}

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """A row for each component: ``sd``, ``relative_sd`` (over σ, as lme4's), ``proportion``, ``cumulative``.
        ``backend``: "pandas" or "polars"."""
        rows = {
            (name, k): (sd, sd / self.relative_to, share, total)
            for name, g in self.items()
            for k, sd, share, total in zip(g.sd.index, g.sd, g.proportion, g.cumulative, strict=True)
        }
        index = pd.MultiIndex.from_tuples(rows, names=["group", "component"])
        table = pd.DataFrame(list(rows.values()), index, ["sd", "relative_sd", "proportion", "cumulative"])
        return as_backend(table, backend)

    @property
    def notes(self) -> list[str]:
        """What is superfluous, a sentence for each factor that has directions without variance."""
        out = []
        for name, g in self.items():
            q = len(g.sd)
            if g.rank == q:
                continue
            what = ", ".join(g.needless)
            if g.restricted and g.rank:
                out.append(
                    f"{name}: {g.rank} of {q} components have variance; a correlation is at the end of its range"
                )
            elif g.rank == 0:
                out.append(f"{name}: no effect has any variance; without this factor the fit is the same")
            else:
                out.append(
                    f"{name}: {g.rank} of {q} components have variance; a model with {g.rank} effect"
                    f"{'s' if g.rank > 1 else ''} fits as well (mostly {what} to be left out, or its correlations)"
                )
        return out

    def _parts(self) -> list[str | Grid]:
        parts: list[str | Grid] = ["Principal components of the random effects"]
        for name, g in self.items():
            table = pd.DataFrame(
                {"sd": g.sd.map("{:.4g}".format), "share": _percent(g.proportion), "together": _percent(g.cumulative)}
            )
            loadings = g.loadings.T.map("{:.3f}".format)
            parts += ["", f"{name}", *frame_parts(pd.concat([table, loadings], axis=1))]
        return [*parts, *([""] if self.notes else []), *self.notes]


def _percent(shares: pd.Series) -> pd.Series:
    return (100 * shares).map(lambda x: "" if np.isnan(x) else f"{x:.1f} %")


def re_pca(fit: Fitted) -> RePCA:
    """See ``Fit.re_pca``."""
    groups, d = {}, fit.model.design
    for b in fit.varcorr().blocks:
        w, Q = np.linalg.eigh(b.cov)
        sd, Q = np.sqrt(np.maximum(w[::-1], 0.0)), Q[:, ::-1]
        Q = Q * np.where(Q[np.abs(Q).argmax(axis=0), np.arange(len(Q))] < 0, -1.0, 1.0)
        labels = [f"PC{k + 1}" for k in range(len(sd))]
        rank = int(np.sum(sd > max(NULL * sd[0], _least(fit))))
        sd = np.where(sd > ROUNDING * sd[0], sd, 0.0)
        loadings = pd.DataFrame(Q, list(b.effects), labels)
        tied = any(t.covariance.restricted for t in d.terms if d.factors[t.factor].name == b.group)
        groups[b.group] = GroupComponents(b.group, pd.Series(sd, labels, name="sd"), loadings, rank, tied)
    return RePCA(groups, float(np.sqrt(fit.model.likelihood.effects_scale(fit.estimates))))


def _least(fit: Any) -> float:
    """A standard deviation that is none: NULL of the unit of η."""
    return NULL * fit.model.unit * float(np.sqrt(fit.model.likelihood.effects_scale(fit.estimates)))
