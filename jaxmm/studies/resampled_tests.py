"""Tests in studies whose distribution is drawn: of each replicate from its own null fit, by bootstrap or sign flips.

    BootstrapLRT   n responses from the null fit of each replicate, fitted by both models; p = (1 + #{T* ≥ T}) / (n + 1)
    SignFlip       the scores of independent groups with random signs, and nothing fitted again

With β₀, V of the null fit (by maximum likelihood), X₀ its columns and x those that are tested, the effective scores of
group g, whose rows have V_g,

    s_g = x̃_g' V_g⁻¹ (y − X₀β₀)_g,     x̃ = x − X₀ (X₀'V⁻¹X₀)⁻¹ X₀'V⁻¹x

add up to the score of β.  Under the hypothesis Σ ± s_g has the covariance Σ± C Σ± of the same signs, with C that of the
scores themselves; the statistic is its square in these units, which counts how X₀ is fitted (Hemerik, Goeman & Finos
2020, J. R. Stat. Soc. B 82, 841-864; De Santis et al. 2022, arXiv:2209.13918).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmm._random import apart_key, as_key
from jaxmm.batch.engine import fit_many
from jaxmm.errors import RowErrors, row_errors
from jaxmm.model import Model
from jaxmm.results.result import FitBatch
from jaxmm.sources.drawn_fits import DrawnFromFits
from jaxmm.studies.hypotheses import Columns, Fits, without
from jaxmm.studies.lane import lane_design, lanes

ALIKE = 1e-9  # relative: statistics of two choices of signs that are equal


@dataclass(frozen=True)
class BootstrapLRT:
    """The coefficients of ``without`` together by likelihood ratio, whose distribution is that of ``n`` responses drawn
    from the null fit of each replicate (Davison & Hinkley 1997, sec. 4.4).

    A study of 1,000 replicates makes 2,000 ``n`` fits.  99 suffice for tests of 5 % and 1 % at the cost of a little
    power; ``key`` None takes that of the study; ``name`` in tables.

    Example:
        >>> test = mm.BootstrapLRT(("Days",), n=19)
        >>> p = mm.study(fit, None, 2, key=1, tests=[test], progress=False).p_values["bootstrap", ("Days",)]
        >>> p.tolist()
        [0.05, 0.05]
    """

    without: Columns
    n: int = 99
    key: Any = None
    name: str = "bootstrap"

    def __post_init__(self):
        _check("BootstrapLRT", self.n, self.key)

    def p_values(self, fits: Fits) -> dict[Columns, np.ndarray]:
        """As ``Test.p_values``: of ``fits``, p (n,) by the columns that are tested, NaN where a fit has none."""
        full, null = fits.by_ml, fits.nulls[self.without]
        assert full is not None
        ml = fits.model.by_ml() if fits.model.reml else fits.model
        small = without(ml, self.without)
        key = fits.key if self.key is None else self.key
        drawn = DrawnFromFits(small, null, fits.responses(small), self.n, apart_key(key, "bootstrap"))
        options = {**fits.options, "start": None, "shard": None, "progress": False}
        under = [fit_many(model, drawn.on(model, fits.responses(model)), **options) for model in (small, ml)]
        star = (under[0].deviance - under[1].deviance).reshape(len(null), self.n)
        good = (under[0].converged & under[1].converged).reshape(star.shape)
        seen = np.maximum(null.deviance - full.deviance, 0.0)[:, None]
        beyond = np.sum(good & (np.maximum(star, 0.0) >= seen - ALIKE * np.abs(seen)), axis=1)
        p = (1 + beyond) / (1 + np.sum(good, axis=1))
        return {self.without: np.where(full.converged & null.converged, p, np.nan)}


@dataclass(frozen=True)
class SignFlip:
    """The coefficients of ``without`` together, by the signs of the scores of independent groups; of a linear model
    whose grouping factors are nested in the one with the fewest levels.

    It needs neither normal numbers nor the right covariances, only groups that are independent, and the more the
    better.  ``n`` random choices of signs, or all of them where these are fewer; ``key`` None takes that of the study;
    ``name`` in tables.

    Hemerik, Goeman & Finos (2020), J. R. Stat. Soc. B 82.

    Example:
        >>> test = mm.SignFlip(("Days",), n=99)
        >>> mm.study(fit, None, 2, key=1, tests=[test], progress=False).p_values["permutation", ("Days",)].tolist()
        [0.01, 0.01]
    """

    without: Columns
    n: int = 999
    key: Any = None
    name: str = "permutation"

    def __post_init__(self):
        _check("SignFlip", self.n, self.key)

    def check(self, model: Model) -> None:
        """Raises ValueError for a ``model`` that is not linear, or whose factors are crossed."""
        if not model.likelihood.precisions:
            raise ValueError(f"SignFlip is for linear mixed models: this one is {model.likelihood.kind}")
        _outermost(model)

    def p_values(self, fits: Fits) -> dict[Columns, np.ndarray]:
        """As ``Test.p_values``: of ``fits``, p (n,) by the columns that are tested, NaN where a fit has none."""
        null, ml = fits.nulls[self.without], fits.model.by_ml() if fits.model.reml else fits.model
        names = fits.model.design.columns
        tested = np.array([c in self.without for c in names])
        codes = _outermost(fits.model)
        key = apart_key(fits.key if self.key is None else self.key, "signs")
        p = np.full(len(null), np.nan)
        for k, own in lanes(fits.responses(ml), null):
            number = int(null.columns["replicate"][k])
            p[k] = self._p(ml, own, null, k, tested, codes, np.random.default_rng([*key, number]))
        return {self.without: p}

    def _p(
        self, model: Model, own: Any, null: FitBatch, k: int, tested: np.ndarray, codes: np.ndarray, rng: Any
    ) -> float:
        d = lane_design(model.design, own)
        weights = np.ones(len(d.y)) if d.weights is None else d.weights
        weights = weights if own.weights is None else np.asarray(own.weights)
        there = weights > 0
        left = np.unique(codes[there])
        r = np.asarray(own.y) - d.X[:, ~tested] @ null.fixef[k] - (0.0 if d.offset is None else d.offset)
        pieces = []  # of each group V⁻¹[x X₀ r] and [x X₀ r] themselves
        lams = _lams(model, null, k)
        errors = row_errors(model, null.theta[k], d.residual, np.where(there, weights, 1.0), len(d.y))
        for g in left:
            rows = np.flatnonzero(there & (codes == g))
            A = np.column_stack([d.X[rows][:, tested], d.X[rows][:, ~tested], r[rows]])
            pieces.append((A, np.linalg.solve(_covariance(d, lams, null.sigma[k], errors, rows), A)))
        each = np.stack([A.T @ B for A, B in pieces])  # (G, c, c): all that is needed
        c = int(tested.sum())
        x, rest = slice(0, c), slice(c, each.shape[1] - 1)
        total = each.sum(axis=0)
        move = np.linalg.solve(total[rest, rest], total[rest, x])  # of X₀ that is taken off x
        s = each[:, x, -1] - np.einsum("rc,gr->gc", move, each[:, rest, -1])
        a = each[:, x, rest] - np.einsum("rc,grk->gck", move, each[:, rest, rest])  # x̃_g'V_g⁻¹X₀_g
        b = each[:, x, x] - np.einsum("rc,grk->gck", move, each[:, rest, x]) - a @ move  # x̃_g'V_g⁻¹x̃_g
        return _flipped(s, a, b, np.linalg.inv(total[rest, rest]), self._signs(len(left), rng))

    def _signs(self, groups: int, rng: Any) -> np.ndarray:
        """(n + 1, G), those of the data first; all 2^(G-1) up to an overall sign where these are fewer."""
        if groups <= 1 + np.log2(self.n + 1):
            k = np.arange(1 << max(groups - 1, 0))[:, None]
            bits = (k >> np.arange(max(groups - 1, 0))) & 1
            return np.column_stack([np.ones(len(k)), 1.0 - 2.0 * bits])
        return np.vstack([np.ones(groups), rng.choice([-1.0, 1.0], (self.n, groups))])


def _flipped(s: np.ndarray, a: np.ndarray, b: np.ndarray, M: np.ndarray, signs: np.ndarray) -> float:
    """The share of the choices of signs (n, G), the first that of the data, whose statistic is as large as the first's.

    The residuals have the covariance V − X₀MX₀', so that the scores have C_gh = δ_gh b_g − a_gMa_h'.
    """
    S, A = signs @ s, np.einsum("ng,gcr->ncr", signs, a)
    V = b.sum(axis=0) - A @ M @ np.swapaxes(A, 1, 2)
    w, Q = np.linalg.eigh(V)
    told = w > 1e-10 * np.trace(b.sum(axis=0))
    turned = np.einsum("nij,ni->nj", Q, S)
    T = np.sum(np.where(told, turned**2 / np.where(told, w, 1.0), 0.0), axis=1)
    return float(np.mean(T >= T[0] * (1 - ALIKE)))


def _lams(model: Model, batch: FitBatch, k: int) -> list[np.ndarray]:
    """λ of each term of the design, relative to σ, at the estimates of a replicate."""
    out: list[Any] = [None] * len(model.design.terms)
    for (t, layout), at in zip(model.theta_terms(), model.structure.slices(), strict=True):
        out[t] = layout.covariance.lam(np.asarray(batch.theta[k])[at], model.design.terms[t].inputs)
    return out


def _covariance(d: Any, lams: list[np.ndarray], sigma: float, errors: RowErrors, rows: np.ndarray) -> np.ndarray:
    """V of some rows, with σ²."""
    V = errors.blocks(rows)
    for term, lam in zip(d.terms, lams, strict=True):
        half = term.Z[rows] @ lam
        codes = d.factors[term.factor].codes[rows]
        V = V + (half @ half.T) * (codes[:, None] == codes[None, :])
    return sigma**2 * V


def _outermost(model: Model) -> np.ndarray:
    """Codes (n,) of the factor with the fewest levels, in which all others are nested, that of correlated errors too;
    of each row by itself where rows are independent.

    Raises:
        ValueError: crossed factors.
    """
    factors = sorted(model.design.correlated_within, key=lambda f: len(f.levels))
    if not factors:
        return np.arange(len(model.design.y))
    outer = factors[0]
    for inner in factors[1:]:
        pairs = np.unique(np.stack([inner.codes, outer.codes]), axis=1)
        if pairs.shape[1] > len(np.unique(inner.codes)):
            raise ValueError(
                f"SignFlip needs independent groups, and {inner.name!r} is crossed with {outer.name!r}: test by "
                "KenwardRoger or BootstrapLRT"
            )
    return outer.codes


def _check(who: str, n: Any, key: Any) -> None:
    if key is not None:
        as_key(key)
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 19:
        raise ValueError(f"n of {who} must be a number of draws, at least 19 for a test of 5 %, not {n!r}")
