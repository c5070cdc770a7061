"""R² and the intraclass correlation of a fit: shares of the variance on the scale of the linear predictor.

    fixed       s²(Xβ̂) over the rows, the offset left out
    random      Σ_f mean_i z_if' D_f z_if                    of each grouping factor f (Johnson 2014: slopes too)
    residual    Var g(y) about the mean, and the variance of a factor with a level for each row (overdispersion)

    R²    marginal fixed / total           conditional (fixed + random) / total        total = the sum of the three
    ICC   adjusted random / (random + residual)                unadjusted random / total

(Nakagawa & Schielzeth 2013, Methods Ecol. Evol. 4; Johnson 2014, ibid. 5; Nakagawa, Johnson & Schielzeth 2017, J. R.
Soc. Interface 14.)  The residual part is σ² in a linear model (of a row of weight 1; where errors have a covariance of
their own, the mean of their variances over the rows: correlations within a subject are no part of it, nor of what is
random), the variance of the latent variable where a link has one and the response counts successes of trials (π²/3 of
the logit), and else one of ``Link.spreads`` of the mean and the variance of y.  Where it depends on the mean, that is
g⁻¹(β₀ + offset) of the same model without covariates, which is fitted once for a fit.  A dispersion with a formula, and
zero inflation, count row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm._context import computing
from jaxmm.batch.engine import fit_many
from jaxmm.design.predictor import MEAN
from jaxmm.errors import row_errors
from jaxmm.estimate_glmm import estimate_within
from jaxmm.fitted import Fitted
from jaxmm.inference.wald import check_level, check_no_level
from jaxmm.predict import Parameters, parameters
from jaxmm.prepared import Prepared
from jaxmm.rows import Rows
from jaxmm.sources.draw import Simulated
from jaxmm.studies.bootstrap import bootstrap

REPLICATES = 999
CONSTANT = 1e-9  # of one: the columns of X make it up
ALIKE = 1e-9  # relative: spreads that do not depend on the mean
INTERVALS = (None, "bootstrap")

Spread = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Parts:
    """The three parts of the variance; ``random`` by grouping factor."""

    fixed: float
    random: dict[str, float]
    residual: float

    def r2(self) -> pd.Series:
        total = self.fixed + sum(self.random.values()) + self.residual
        explained = np.array([self.fixed, self.fixed + sum(self.random.values())])
        return pd.Series(_share(explained, total), ["marginal", "conditional"], name="r2")

    def icc(self, by_group: bool) -> pd.Series:
        values = np.array(list(self.random.values()), float)
        within = values.sum() + self.residual
        if by_group:
            return pd.Series(_share(values, within), list(self.random), name="icc")
        shares = _share(values.sum(), np.array([within, within + self.fixed]))
        return pd.Series(shares, ["adjusted", "unadjusted"], name="icc")


def _share(part: Any, whole: Any) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / whole, float)


class Moments(NamedTuple):
    """Of the rows: ``X`` (p, p) the covariance of the mean's columns, and by factor of the mean ``Z`` (q, q), the mean
    of z z'; ``each``: the factors with a level for each row."""

    X: np.ndarray
    Z: dict[str, np.ndarray]
    each: frozenset[str]


def moments(model: Prepared) -> Moments:
    """Of the rows that count."""
    d = model.design
    n = len(d.y)
    centred = d.X - d.X.mean(axis=0)
    by_factor, each = {}, set()
    for f, factor in enumerate(d.factors):
        if factor.predictor != MEAN:
            continue
        Z = np.hstack([t.Z for t in d.terms if t.factor == f])
        by_factor[factor.name] = Z.T @ Z / n
        if len(factor.levels) == n:
            each.add(factor.name)
    return Moments(centred.T @ centred / max(n - 1, 1), by_factor, frozenset(each))


# ---------------------------------------------------------------- the residual part
def approximations(family: Any) -> dict[str, Spread]:
    """Name -> function of the mean and the variance of y; the default first."""
    latent = family.link.latent_variance if family.has_trials else None
    found: dict[str, Spread] = {} if latent is None else {"latent": lambda mu, V: jnp.full_like(mu, latent)}
    return found | family.link.spreads


def _spread(fit: Fitted, p: Parameters, spread: Spread) -> np.ndarray:
    """Var g(y) of each row (n,), of one trial where there are any; rows that are alike are computed once."""
    family, by_row = fit.family, "phi" in fit.model.design.predictors
    rows = np.column_stack(np.broadcast_arrays(p.mu, *p.further, *([p.phi] if by_row else [])))
    same = np.all(rows == rows[:1])
    distinct, back = (rows[:1], np.zeros(len(rows), int)) if same else np.unique(rows, axis=0, return_inverse=True)
    with computing(fit.model.device), np.errstate(divide="ignore", invalid="ignore"):
        mu, *others = (jnp.asarray(x) for x in distinct.T)
        phi = others.pop() if by_row else jnp.asarray(p.phi)
        others += map(jnp.asarray, p.extras)
        V = (phi if family.has_scale else 1.0) * family.variance(mu, phi, 1.0, *others)
        return (np.asarray(spread(family.mean(mu, phi, *others), V)) + np.zeros(len(distinct)))[back.ravel()]


def _predictors(model: Prepared, beta: np.ndarray, null: float | None) -> dict[str, np.ndarray]:
    """Xβ + offset of every parameter at b = 0; of the mean β₀ + offset where ``null`` is given."""
    d = model.design
    sides = [(d.X, d.offset), *((p.X, p.offset) for p in d.further)]
    etas = {}
    for (name, at), (X, offset) in zip(d.predictors.items(), sides, strict=True):
        eta = np.full(len(d.y), null) if name == MEAN and null is not None else X @ beta[at]
        etas[name] = eta if offset is None else eta + offset
    return etas


def null_model(model: Prepared) -> Prepared:
    """The model with an intercept as all there is of X; random effects and other predictors stay."""
    d = model.design
    held_out = None if d.held_out is None else replace(d.held_out, X=np.ones((len(d.held_out.X), 1)))
    spec: Any = None
    changes = {"X": np.ones((len(d.y), 1)), "columns": ("(Intercept)",), "dropped": (), "held_out": held_out}
    return model.with_design(replace(d, formula=f"{d.formula}, intercept alone", spec=spec, **changes))


def null_intercept(fit: Fitted) -> float:
    """Of ``null_model``; where the columns of X have the constant among their combinations, it is searched for along
    that one by the fit's own program."""
    model, e, rows = fit.model, fit.estimates, fit.model.arrays
    X = model.design.X
    c = np.linalg.lstsq(X, np.ones(len(X)), rcond=None)[0]
    if isinstance(rows, Rows) and np.allclose(X @ c, 1.0, rtol=0, atol=CONSTANT):
        own = np.linalg.solve(np.asarray(rows.T_X)[: len(c), : len(c)], c)
        psi, p = np.asarray(e.psi), len(c)
        basis = np.eye(len(psi))[:, p - 1 :]
        basis[:p, 0] = own
        start = np.append(np.mean(X @ np.asarray(fit.fixef)), psi[p:])
        with computing(model.device):
            found = estimate_within(rows, basis, start, fit._control, fit.n_agq)
        if found is not None:
            return float(found.theta[0])
    return float(null_model(model).fit(control=fit._control).fixef.iloc[0])


def _depends_on_mean(fit: Fitted, spread: Spread) -> bool:
    """Whether another mean would change a row's spread."""
    p = parameters(fit, _predictors(fit.model, np.asarray(fit.estimates.beta), None))
    ends = np.array([np.min(p.mu), np.max(p.mu)])
    phi = p.phi[:1] if "phi" in fit.model.design.predictors else p.phi
    low, high = _spread(fit, Parameters(ends, phi, tuple(x[:1] for x in p.further), p.extras), spread)
    return not np.isclose(low, high, rtol=ALIKE, atol=0, equal_nan=True)


class Account:
    """The parts of a fit, and of its replicates: what does not change between them is kept."""

    def __init__(self, fit: Fitted, approximation: str | None):
        known = approximations(fit.family)
        if approximation is not None and approximation not in known:
            raise ValueError(f"approximation must be one of {', '.join(map(repr, known))}, not {approximation!r}")
        self.fit, self.moments = fit, moments(fit.model)
        self.spread = known[approximation or next(iter(known))]
        self.null: float | None = None  # the intercept of the model without covariates, where it matters
        self.null_beta: dict[int, float] = {}
        eta = fit.model.design.X @ np.asarray(fit.fixef)
        if _depends_on_mean(fit, self.spread) and not np.all(eta == eta[:1]):
            kept: dict[str, Any] = vars(fit)
            if "_null" not in kept:
                kept["_null"] = null_intercept(fit)
            self.null = kept["_null"]

    def parts(self, f: Any) -> Parts:
        """Of the fit, or of a replicate of its bootstrap."""
        beta = np.concatenate([f.fixef, f.further])
        variances = {
            block.group: float(np.sum(self.moments.Z[block.group] * block.cov))
            for block in f.varcorr().blocks
            if block.group in self.moments.Z
        }
        each = sum(variances.pop(name) for name in self.moments.each)
        replicate = None if isinstance(f, Fitted) else int(f.replicate)
        residual = self._of_errors(f)
        if residual is None:
            residual = float(np.mean(_spread(self.fit, self._parameters(f, beta, replicate), self.spread)))
        mean = beta[: len(self.moments.X)]
        return Parts(float(mean @ self.moments.X @ mean), variances, residual + each)

    def _of_errors(self, f: Any) -> float | None:
        """The mean variance of errors that have a covariance, those of one subject together or not."""
        model = self.fit.model
        if model.design.residual is None:
            return None
        sd = row_errors(model, np.asarray(f.theta), model.design.residual, None, len(model.design.y)).sd
        return float(f.sigma) ** 2 * float(np.mean(sd**2))

    def _parameters(self, f: Any, beta: np.ndarray, replicate: int | None) -> Parameters:
        null = None
        if self.null is not None:
            null = self.null if replicate is None else self.null_beta[replicate]
        found = parameters(self.fit, _predictors(self.fit.model, beta, null))
        if replicate is None or "phi" in self.fit.model.design.predictors or f.dispersion is None:
            return found
        return found._replace(phi=f.dispersion)

    def follow(self, n: int, key: Any) -> None:
        """Fit the model without covariates to the responses of the bootstrap too."""
        if self.null is not None:
            source, model = Simulated(self.fit.model, self.fit, n, key), null_model(self.fit.model)
            nulls = fit_many(model, source, start=model.fit(control=self.fit._control), progress=False)
            values = np.where(nulls.converged, nulls.fixef[:, 0], np.nan)
            self.null_beta = dict(zip(nulls.replicate.tolist(), values.tolist(), strict=True))


# ---------------------------------------------------------------- the verbs
class How(NamedTuple):
    """What ``Fit.r2`` and ``Fit.icc`` take."""

    interval: str | None
    level: float
    n: int | None
    key: Any
    approximation: str | None


def r2(fit: Fitted, how: How) -> pd.Series | pd.DataFrame:
    """See ``Fit.r2``."""
    return _table(fit, Parts.r2, how)


def icc(fit: Fitted, by_group: bool, how: How) -> pd.Series | pd.DataFrame:
    """See ``Fit.icc``."""
    return _table(fit, lambda parts: parts.icc(by_group), how)


def _table(fit: Fitted, what: Callable[[Parts], pd.Series], how: How) -> pd.Series | pd.DataFrame:
    """A Series; with an interval a frame: ``estimate``, ``lower``, ``upper``.

    Raises:
        ValueError: an unknown interval or approximation, a level outside (0, 1), or what is for intervals without one.
        TypeError: a bootstrap without a key.
    """
    check_level(how.level)
    if how.interval not in INTERVALS:
        raise ValueError(f"interval must be None or 'bootstrap', not {how.interval!r}")
    if how.interval is None and (how.key is not None or how.n is not None):
        raise ValueError("key= and n= are for interval='bootstrap'")
    check_no_level(how.level, how.interval, "'bootstrap'")
    if how.interval is not None and how.key is None:
        raise TypeError("interval='bootstrap' needs a key, such as key=1 or key=jax.random.key(1)")
    account = Account(fit, how.approximation)
    if how.interval is None:
        return what(account.parts(fit))
    family, n = fit.family, REPLICATES if how.n is None else how.n
    if family.num_extras or family.num_phi > 1:
        raise ValueError(f"there are no bootstrap intervals for the several parameters of the {family.name} family")
    found = bootstrap(fit, n, key=how.key, statistic=lambda f: what(account.parts(f)), progress=False)
    account.follow(n, how.key)
    return found.confint("percentile", how.level)[["estimate", "lower", "upper"]]
