"""Replicate: one fit of many, with its labels, so that a function of a ``Fit``'s estimates takes either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.inference import wald
from jaxmm.optimize import Status
from jaxmm.results.kept import absent, unpacked
from jaxmm.results.schema import DECLARED, Names
from jaxmm.tables import Block, VarCorr, pairs


class Replicate:
    """One replicate of a batch, with labels: what a function of a ``Fit``'s estimates needs.

    Series and numbers are named as those of ``Fit``: ``statistic(fit)`` and ``statistic(batch[k])`` are the same.
    Where the fit failed they are NaN. There are no modes, residuals or predictions. ``row`` holds the replicate's
    part of each column of the batch; a column without a property here is an attribute all the same.
    """

    def __init__(self, names: Names, row: Mapping[str, np.ndarray]):
        self._names, self._row = names, row

    @property
    def replicate(self) -> int:
        """Its number."""
        return int(self._row["replicate"])

    @property
    def fixef(self) -> pd.Series:
        """β̂."""
        return self._labelled("fixef", "estimate")

    @property
    def bse(self) -> pd.Series:
        """Standard errors of β̂."""
        return self._labelled("bse", "std_error")

    @property
    def tvalues(self) -> pd.Series:
        """β̂ over its standard error: called t in a linear model, z in a generalised one."""
        return pd.Series(wald.each(self.fixef, self.bse).statistic, self.fixef.index, name=self._names.statistic)

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values of ``tvalues`` from the normal distribution."""
        return pd.Series(wald.each(self.fixef, self.bse).p, self.fixef.index, name="p_normal")

    @property
    def theta(self) -> np.ndarray:
        """(m,) as ``Fit.theta``."""
        return self._row["theta"].copy()

    @property
    def sigma(self) -> float:
        """Residual standard deviation, 1.0 where the family has none."""
        return float(self._row["sigma"])

    @property
    def scale(self) -> float:
        """σ²."""
        return self.sigma**2

    @property
    def dispersion(self) -> float | None:
        """φ, the first where there are several; None where the family has none."""
        return float(self._row["dispersion"]) if self._names.has_phi else None

    @property
    def family_params(self) -> dict[str, float]:
        """Further parameters of the family by name; {} where there are none."""
        return dict(zip(self._names.family_params, self._row["family_params"].tolist(), strict=True))

    @property
    def further(self) -> pd.Series:
        """Coefficients of the predictors after the mean's, as ``Fit.further``."""
        return self._labelled("further", "estimate")

    @property
    def loglik(self) -> float:
        """Restricted where the model is."""
        return float(self._row["loglik"])

    @property
    def deviance(self) -> float:
        """-2 log-likelihood."""
        return -2 * self.loglik

    @property
    def reml(self) -> bool:
        return self._names.reml

    @property
    def status(self) -> Status:
        """How the search ended."""
        return Status(int(self._row["status"]))

    @property
    def converged(self) -> bool:
        return self.status == Status.CONVERGED

    @property
    def is_singular(self) -> bool:
        return bool(self._row["is_singular"])

    params = fe_params = fixef
    llf = loglik

    def vcov(self) -> pd.DataFrame:
        """Covariance matrix of β̂, where it was kept: ``fit_many(..., keep="vcov")``."""
        if "fixef_cov" not in self._row:
            raise AttributeError(absent("fixef_cov"))
        names = pd.Index(self._names.fixef)
        return pd.DataFrame(unpacked(self._row["fixef_cov"], len(names)), names, names)

    def varcorr(self) -> VarCorr:
        """The covariances of the random effects by grouping factor, and σ."""
        names, blocks = self._names, []
        sds, corrs = self._row["varcorr_sd"], self._row["varcorr_corr"]
        for group in dict.fromkeys(g for g, _ in names.sd):
            effects = tuple(e for g, e in names.sd if g == group)
            sd = sds[[g == group for g, _ in names.sd]]
            cov, estimated = np.diag(sd**2), np.eye(len(sd), dtype=bool)
            for (g, *pair), r in zip(names.corr, corrs, strict=True):
                if g == group:
                    a, b = _places(effects, *pair)
                    scale = sd[a] * sd[b]
                    cov[a, b] = cov[b, a] = 0.0 if scale == 0 else scale * r
                    estimated[a, b] = estimated[b, a] = True
            blocks.append(Block(group, effects, cov, estimated))
        return VarCorr(blocks, self.sigma if names.has_scale else None)

    def _labelled(self, column: str, name: str) -> pd.Series:
        labels = DECLARED[column](self._names).labels
        assert labels is not None
        return pd.Series(self._row[column].copy(), list(labels), name=name, dtype=float)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._row:
            return self._labelled(name, name) if np.ndim(self._row[name]) else self._row[name].item()
        if reason := absent(name):
            raise AttributeError(reason)
        raise AttributeError(
            f"a replicate has no {name!r}, only estimates (fixef, bse, theta, sigma, dispersion, varcorr(), loglik): "
            "for more, fit its response by itself with fit.refit(y)"
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {x:.4g}" for name, x in self.fixef.items())
        return f"Replicate {self.replicate}: {self.status.message}; {values}"


def _places(effects: tuple[str, ...], a: str, b: str) -> tuple[int, int]:
    """Of two effects of one term: where another term has effects of the same names, it stands before or after both."""
    found = [(i, k) for i, k in pairs(len(effects)) if (effects[i], effects[k]) == (a, b)]
    return min(found, key=lambda pair: pair[1] - pair[0])
