"""Influence: a fit -> what each row, or each level of a factor, does to its estimates.

Without row or level i the estimates are those of a fit without it (all these fits are one batch), or what derivatives
at the estimates of all say (``derivatives``).  Of them are made, with V the covariance of β̂,

    Cook's distance   (β̂ − β̂_(i))' V⁻¹ (β̂ − β̂_(i)) / p                   Cook 1977, Technometrics 19, 15-18
    dfbetas           (β̂ − β̂_(i)) / se_(i), the standard error without i   Belsley, Kuh & Welsch 1980, §2.1
    leverage          of rows; of levels the sum over their rows: ``leverage``
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm.batch.apart import without_each
from jaxmm.fitted import Fitted
from jaxmm.inference.influence.derivatives import Groups, derivative, infinitesimal, labels_of
from jaxmm.inference.influence.leverage import leverage, marginal_leverage
from jaxmm.inference.influence.picture import draw
from jaxmm.optimize import Status
from jaxmm.results.result import FitBatch
from jaxmm.sources.resample import outermost
from jaxmm.studies.bootstrap import parameters

CASE = "case"
ALONE = 1e-9  # of one: a coefficient is that of a row or level alone
SHOWN = 8  # the most influential, in print


def influence(fit: Fitted, by: str, refit: bool) -> Influence:
    """See ``Fit.influence``."""
    groups = groups_of(fit, by)
    if fit.model.design.residual is not None and not refit:
        raise NotImplementedError(
            "derivatives by rows cannot be had yet where errors have a covariance of their own, "
            f"{fit.model.design.residual.text!r}: refit=True fits again without each"
        )
    batch = without_each(fit, groups.codes, groups.count, groups.outermost) if refit else None
    return Influence(fit, groups, batch, np.bincount(groups.codes, leverage(fit), groups.count))


def groups_of(fit: Fitted, by: str) -> Groups:
    """Rows, or the levels of a factor.

    Raises:
        ValueError: neither "case" nor a factor of the model, or a factor of one level.
    """
    d = fit.model.design
    if by == CASE:
        return Groups(np.arange(len(d.y)), np.asarray(d.index[d.kept]), by, False)
    for f, factor in enumerate(d.correlated_within):
        if factor.name == by and len(factor.levels) == 1:
            raise ValueError(f"by={by!r} has one level, without which no rows are left: leave out rows, by='case'")
        if factor.name == by:
            return Groups(factor.codes, factor.levels, by, outermost(fit.model) == f)
    known = ", ".join(repr(name) for name in (CASE, *dict.fromkeys(f.name for f in d.correlated_within)))
    raise ValueError(f"by must be one of {known}, not {by!r}")


def told_without(X: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """(count,) whether X (n, p) without each group of rows ``codes`` (n,) still has full rank."""
    Q = np.linalg.qr(X / np.maximum(np.linalg.norm(X, axis=0), 1e-300))[0]
    if count == len(codes):  # a row each
        own = np.empty(count)
        own[codes] = np.sum(Q**2, axis=1)
        return own < 1 - ALONE
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=count))[:-1]
    return np.array([np.linalg.norm(q, 2) ** 2 < 1 - ALONE if q.size else True for q in np.split(Q[order], ends)])


@dataclass(frozen=True, eq=False, repr=False)
class Influence(_text.Printed):
    """Of each row or level what leaving it out does; print it, or see ``frame``.

    Attributes:
        fit: the fit itself.
        groups: what is left out.
        batch: the fits without each, or None.

    Example:
        >>> fit.influence("Subject", refit=False).leverage.shape
        (18,)
    """

    fit: Any
    groups: Groups
    batch: FitBatch | None
    _leverage: np.ndarray

    @property
    def index(self) -> pd.Index:
        """What is left out: labels of rows, or levels."""
        return pd.Index(self.groups.labels, name=self.groups.by)

    @cached_property
    def told(self) -> np.ndarray:
        """Whether X without each row or level still has full rank: Q_i'Q_i, X = QR, has no eigenvalue of one.  Where it
        has not, some coefficient has no data left, and everything here is NaN."""
        return told_without(self.fit.model.design.X, self.groups.codes, self.groups.count)

    def _labelled(self, values: np.ndarray) -> pd.DataFrame:
        known = np.where(self.told[:, None], values, np.nan)
        return pd.DataFrame(known, self.index, labels_of(self.fit.model))

    @cached_property
    def derivative(self) -> pd.DataFrame:
        """Change of every parameter if it is left out, by derivatives at the estimates: rows or levels × parameters,
        under the names that ``FitBatch.to_frame`` has. One Newton step; see ``derivatives`` for where it is less."""
        return self._labelled(derivative(self.fit, self.groups))

    @cached_property
    def infinitesimal(self) -> pd.DataFrame:
        """The infinitesimal jackknife: minus the derivative of every parameter by how often it counts. Near
        ``derivative`` where none has much leverage."""
        return self._labelled(infinitesimal(self.fit, self.groups))

    @cached_property
    def exact(self) -> pd.DataFrame:
        """The same by fitting again; NaN where what is left cannot be fitted.

        Raises:
            ValueError: ``influence(refit=False)``, without these fits.
        """
        if self.batch is None:
            raise ValueError("there are no fits without each of them: influence(refit=True) makes them")
        labels = labels_of(self.fit.model)
        found = self.batch.estimates()
        table = np.stack([np.where(self.batch.converged, found[name], np.nan) for name in labels], axis=1)
        return self._labelled(table - np.asarray(parameters(self.fit)[labels]))

    @property
    def changes(self) -> pd.DataFrame:
        """``exact`` where there is it, else ``derivative``."""
        return self.derivative if self.batch is None else self.exact

    @property
    def dfbeta(self) -> pd.DataFrame:
        """β̂ − β̂_(i), as of ``lm``: lme4's have the other sign."""
        return -self.changes.loc[:, list(self.fit.fixef.index)]

    @property
    def dfbetas(self) -> pd.DataFrame:
        """β̂ − β̂_(i) in standard errors, those without i where it was fitted again."""
        se = self.fit.bse.to_numpy() if self.batch is None else self.batch.bse
        return self.dfbeta / se

    @property
    def cooks_distance(self) -> pd.Series:
        """(β̂ − β̂_(i))' V⁻¹ (β̂ − β̂_(i)) / p."""
        d, V = self.dfbeta.to_numpy(), self.fit.vcov().to_numpy()
        unit = np.sqrt(np.diag(V))
        half = np.linalg.solve(np.linalg.cholesky(V / np.outer(unit, unit)), (d / unit).T)
        return pd.Series(np.sum(half**2, axis=0) / max(d.shape[1], 1), self.index, name="cooks_distance")

    @property
    def leverage(self) -> pd.Series:
        """Of each row on its own fitted value, random effects included; of a level the sum over its rows. NaN where
        several parameters of the distribution have formulas."""
        return pd.Series(self._leverage, self.index, name="leverage")

    @property
    def marginal_leverage(self) -> pd.Series:
        """That of the fixed effects alone, of a linear model; its sum is p.

        Raises:
            ValueError: a generalised model.
        """
        if not self.fit.model.likelihood.exact:
            raise ValueError("the marginal leverage is of linear models: a generalised one has that of all effects")
        own = np.bincount(self.groups.codes, marginal_leverage(self.fit), self.groups.count)
        return pd.Series(own, self.index, name="marginal_leverage")

    @property
    def status(self) -> pd.Series:
        """How the fit without each has ended, "converged" for most; "not estimable" where a coefficient has no data
        left; "not fitted again" without these fits."""
        if self.batch is None:
            return pd.Series("not fitted again", self.index, name="status")
        found = zip(self.batch.status, self.told, strict=True)
        names = [Status(int(s)).name.lower() if told else "not estimable" for s, told in found]
        return pd.Series(names, self.index, name="status")

    @property
    def frame(self) -> pd.DataFrame:
        """``cooks_distance``, ``leverage``, ``dfbetas_…`` of each coefficient, ``status``."""
        betas = self.dfbetas.add_prefix("dfbetas_")
        return pd.concat([self.cooks_distance, self.leverage, betas, self.status], axis=1)

    def plot(self, ax: Any = None) -> Any:
        """Cook's distance over leverage, or in order where there is none, the largest named, drawn into ``ax``; returns
        the axes. Needs matplotlib."""
        return draw(self.cooks_distance, self.leverage, self.groups.by, ax)

    def _parts(self) -> list[str | _text.Grid]:
        how = "by derivative" if self.batch is None else "by fits without each"
        first = self.frame.sort_values("cooks_distance", ascending=False).iloc[:SHOWN]
        what = "rows" if self.groups.by == CASE else f"levels of {self.groups.by}"
        title = f"Influence of {self.groups.count} {what}, {how}; the largest Cook's distances:"
        numbers = [c for c in first.columns if c != "status"]
        cells = [_text.number_column(first[c].to_numpy(dtype=float), 4) for c in numbers]
        rows = zip(map(str, first.index), *cells, strict=True)
        table = _text.Grid([("", *numbers), *rows], [False, *[True] * len(numbers)])
        failed = int(np.sum(self.status != "converged")) if self.batch is not None else 0
        notes = []
        if failed:
            notes.append(f"{failed} of the fits did not converge or have no data for a coefficient: NaN")
        if not np.isfinite(self._leverage).any():
            notes.append("leverage: NaN, not defined where several parameters of the distribution have formulas")
        return [title, table, *notes]
