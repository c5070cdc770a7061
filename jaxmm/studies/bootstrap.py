"""bootstrap: a fit -> how far its estimates can be trusted, by fitting the model again to responses made from it.

    parametric   y* ~ the fitted model, with new random effects (or those at hand: re="conditional")
    residual     y* of resampled modes and residuals, reflated to the fitted variances        linear models
    case         the data's own groups, drawn with replacement                                one factor, or nested ones

Parametric replicates say what the model implies of itself; residual ones do without the normal distribution, case ones
without the model of the variances too.  All take the levels of the outermost factor as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm._keywords import known_keywords
from jaxmm._random import as_key
from jaxmm._warn import warn
from jaxmm.batch.engine import fit_many
from jaxmm.fitted import Fitted
from jaxmm.inference.wald import check_level
from jaxmm.optimize import Status
from jaxmm.results.result import FitBatch
from jaxmm.results.schema import cor_label, sd_label
from jaxmm.sources.draw import Simulated
from jaxmm.sources.resample import Case, Residual
from jaxmm.studies import draws, intervals
from jaxmm.studies.cases import fits_to_cases
from jaxmm.studies.jackknife import leave_out
from jaxmm.tables import pairs

Statistic = Callable[[Any], Any]
METHODS = ("percentile", "basic", "normal", "bca")
_MANY = 0.01  # of the replicates failed: worth a warning
_SHOWN = 20  # parameters in a printed bootstrap
_FEW_CASES = 20  # levels to draw from: with 10 a percentile interval of level 0.95 covered in 78 % of data sets
BOOTSTRAPPING = {
    "nsim": "the number of replicates is n=",
    "R": "the number of replicates is n=",
    "B": "the number of replicates is n=",
    "seed": "key=seed",
    "type": "kind='parametric', 'residual' or 'case'",
    "use_u": "re='conditional' keeps the random effects at their modes",
    "FUN": "statistic=",
    "level": "bootstrap(...).confint(level=...)",
    "method": "bootstrap(...).confint(method=...)",
}


@known_keywords(BOOTSTRAPPING)
def bootstrap(
    fit: Fitted,
    n: int,
    *,
    key: Any,
    kind: str = "parametric",
    re: str = "new",
    statistic: Statistic | None = None,
    batch: int | None = None,
    out: Any = None,
    progress: bool = True,
    control: Any = None,
) -> Bootstrap:
    """Fit a model again to ``n`` responses made from its fit.

    Args:
        fit: from ``lmm``, ``glmm`` or ``Model.fit``.
        n: replicates, at least 2; 1,999 are few enough to wait for and enough for intervals of level 0.95.
        key: a seed, such as 1, or a key, such as ``jax.random.key(1)``; replicate k depends on it and on k alone.
        kind: "parametric" (responses drawn from the fitted model), "residual" (from its modes and residuals, reflated
            to the fitted variances; Carpenter, Goldstein & Rasbash 2003; linear models), or "case" (the levels of the
            only factor, or of the outermost of nested ones, drawn with replacement; of a model with ``residual=`` and
            no random effects its subjects, one fit after another).
        re: of a parametric bootstrap: "new" random effects in each replicate, or "conditional", at the modes of the fit
            (for statements about these levels; it makes variance components look surer than they are).
        statistic: a function of a fit that returns a number, an array (k,) or a Series. It is called with ``fit`` and
            with every replicate, which has ``fixef``, ``bse``, ``theta``, ``sigma``, ``dispersion``, ``varcorr()``,
            ``loglik``. By default the fixed effects, the standard deviations and correlations of the random effects,
            and sigma or the dispersion, under the names that ``to_frame`` has.
        batch, out, progress, control: as in ``fit_many``; the same call with the same folder ``out`` goes on where an
            interrupted one stopped.

    Returns:
        ``Bootstrap``: a ``FitBatch`` with ``confint()``, ``bias``, ``se``; print it.

    Raises:
        ValueError: fewer than two replicates, an unknown kind, or one that the model does not allow.
        TypeError: no fit, no key, or a statistic that returns something else.

    Davison & Hinkley (1997), Bootstrap Methods and their Application.

    Example:
        >>> mm.bootstrap(fit, 2, key=1, progress=False).fixef.shape
        (2, 2)
    """
    if not isinstance(fit, Fitted):
        raise TypeError(f"bootstrap takes a fit, as from lmm(), glmm() or model.fit(), not {type(fit).__name__}")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
        raise ValueError(f"n must be a number of replicates, at least 2, not {n!r}")
    as_key(key)
    source = _source(fit, int(n), key, kind, re)
    if statistic is not None:
        if not callable(statistic):
            raise TypeError(f"statistic must be a function of a fit, such as lambda f: f.sigma, not {statistic!r}")
        _as_series(statistic(fit), statistic)
    if not fit.converged:
        why = Status(int(fit.estimates.status)).message
        warn(f"the fit did not converge ({why}): the bootstrap is of where it stopped")
    if getattr(source, "levels", _FEW_CASES) < _FEW_CASES:
        warn(
            f"a case bootstrap of {source.levels} levels: resamples of so few are too much alike, and intervals too "
            "short (with 10 levels those of level 0.95 covered in 78 % of data sets); use kind='parametric'"
        )
    if isinstance(source, Case) and fit.model.structure.residual is not None:
        for name, value in (("batch", batch), ("out", out)):
            if value is not None:
                raise ValueError(
                    f"{name}= is not for cases of a model with errors of its own, fitted one after another"
                )
        found = fits_to_cases(fit, source, progress, control)
    else:
        found = fit_many(fit.model, source, start=fit, batch=batch, out=out, progress=progress, control=control)
    boot = Bootstrap(found.names, found.columns, fit, kind, statistic)
    if boot.failed > _MANY * len(boot):
        warn(
            f"{boot.failed} of {len(boot)} replicates failed and are left out ({100 * boot.failed / len(boot):.1f} %): "
            "intervals from the others are too narrow if those that fail are the extreme ones"
        )
    return boot


def _source(fit: Fitted, n: int, key: Any, kind: str, re: str) -> Any:
    if re not in ("new", "conditional"):
        raise ValueError(f"re must be 'new' or 'conditional', not {re!r}")
    if re == "conditional" and kind != "parametric":
        raise ValueError(f"re='conditional' is for kind='parametric': a {kind} bootstrap resamples the levels")
    sources: dict[str, Callable[[], Any]] = {
        "parametric": lambda: Simulated(fit.model, fit, n, key, re),
        "residual": lambda: Residual(fit, n, key),
        "case": lambda: Case(fit, n, key),
    }
    if kind not in sources:
        raise ValueError(f"kind must be one of {', '.join(map(repr, sources))}, not {kind!r}")
    return sources[kind]()


# ---------------------------------------------------------------- statistics
def parameters(fit: Any) -> pd.Series:
    """The default statistic, of a ``Fit`` or a replicate: β̂, the standard deviations and correlations of the random
    effects, σ̂ or φ̂, the family's other parameters, and the coefficients of predictors after the mean's, under the names
    of ``FitBatch.to_frame``."""
    out = dict(fit.fixef)
    varcorr = fit.varcorr()
    out |= {sd_label(b.group, e): sd for b in varcorr.blocks for e, sd in zip(b.effects, b.sd(), strict=True)}
    for b in varcorr.blocks:
        estimated, corr, e = b.estimated, b.corr(), b.effects
        out |= {cor_label(b.group, e[i], e[j]): corr[i, j] for i, j in pairs(len(e)) if estimated[i, j]}
    if varcorr.sigma is not None:
        out["sigma"] = varcorr.sigma
    elif fit.dispersion is not None:
        out["dispersion"] = fit.dispersion
    return pd.Series(out | fit.family_params | dict(fit.further), dtype=float)


def _as_series(value: Any, statistic: Statistic) -> pd.Series:
    """What a statistic returned, labelled.

    Raises:
        TypeError: neither a number, nor an array (k,), nor a Series.
    """
    name = getattr(statistic, "__name__", "statistic").replace("<lambda>", "statistic")
    try:
        if isinstance(value, pd.Series):
            return value.astype(float).rename(None)
        x = np.asarray(() if value is None else value, float)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must return a number, an array (k,) or a Series, not {value!r}") from None
    if x.ndim > 1 or not x.size:
        what = f"an array of shape {x.shape}" if value is not None else "None"
        raise TypeError(f"{name} must return a number, an array (k,) or a Series, not {what}")
    return pd.Series(x[None], [name]) if x.ndim == 0 else pd.Series(x, [f"{name}[{k}]" for k in range(len(x))])


def _evaluate(fits: Any, statistic: Statistic, names: pd.Index) -> np.ndarray:
    """(n, k) over fits or replicates; NaN for None, and for a replicate that failed.

    Raises:
        ValueError: a replicate has other numbers than the fit.
    """
    rows = []
    for k, f in enumerate(fits):
        if f is None or not f.converged:
            rows.append(np.full(len(names), np.nan))
            continue
        row = _as_series(statistic(f), statistic)
        if not row.index.equals(names):
            if len(row) != len(names) or set(row.index) != set(names) or not row.index.is_unique:
                had, has = ", ".join(map(str, names)), ", ".join(map(str, row.index))
                raise ValueError(f"statistic returned {had} for the fit, but {has} for replicate {k}")
            row = row.reindex(names)
        rows.append(row.to_numpy())
    return np.array(rows).reshape(len(rows), len(names))


# ---------------------------------------------------------------- the result
@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap(FitBatch):
    """The fits to the replicates of one fit: a ``FitBatch`` with the fit itself, and what the two say together.

    Whatever is computed over replicates leaves out those that failed, and for a correlation those where it does not
    exist because a standard deviation is zero.

    Attributes:
        fit: whose bootstrap this is.
        kind: "parametric", "residual" or "case".
        statistic: what is looked at, or None for all parameters.

    Example:
        >>> boot = fit.bootstrap(4, key=1, progress=False)
        >>> boot.observed.round(1).head(2).tolist(), boot.failed
        ([251.4, 10.5], 0)
    """

    fit: Fitted
    kind: str
    statistic: Statistic | None

    # ------------------------------------------------------------ values
    @cached_property
    def observed(self) -> pd.Series:
        """(k,) the statistic of the fit; by default its parameters."""
        if self.statistic is None:
            return parameters(self.fit).rename("estimate")
        return _as_series(self.statistic(self.fit), self.statistic).rename("estimate")

    @cached_property
    def statistics(self) -> pd.DataFrame:
        """(n, k) the statistic of each replicate, NaN where it failed."""
        names = self.observed.index
        values = self._values(self)
        if lacking := self._lacking(values):
            warn(f"{lacking}, and these are left out: intervals say nothing of them")
        return pd.DataFrame(values, pd.Index(self.replicate, name="replicate"), names)

    def _lacking(self, values: np.ndarray) -> str | None:
        """How many replicates of a statistic of the user's have no value; None where all do."""
        if self.statistic is None:
            return None
        lacking = int(np.sum(np.isnan(values).any(axis=1) & self.converged))
        whole = len(self) - self.failed
        return f"the statistic is NaN for {lacking} of {whole} replicates that converged" if lacking else None

    def _values(self, batch: FitBatch) -> np.ndarray:
        if self.statistic is not None:
            return _evaluate(batch, self.statistic, self.observed.index)
        values = np.column_stack(list(batch.estimates().values()))
        return np.where(batch.converged[:, None], values, np.nan)

    @property
    def failed(self) -> int:
        """Replicates that did not converge."""
        return int(np.sum(~self.converged))

    @property
    def singular(self) -> int:
        """Replicates with a singular fit, which count as any other."""
        return int(np.sum(self.is_singular & self.converged))

    @property
    def bias(self) -> pd.Series:
        """(k,) mean of the replicates minus ``observed``."""
        mean, _ = intervals.mean_and_sd(self.statistics.to_numpy())
        return pd.Series(mean - self.observed.to_numpy(), self.observed.index, name="bias")

    @property
    def se(self) -> pd.Series:
        """(k,) standard deviation of the replicates, the bootstrap's standard error."""
        _, sd = intervals.mean_and_sd(self.statistics.to_numpy())
        return pd.Series(sd, self.observed.index, name="se")

    # ------------------------------------------------------------ intervals
    @known_keywords({"type": f"method={', '.join(map(repr, METHODS))}", "alpha": "level=1 - alpha"})
    def confint(
        self, method: str = "percentile", level: float = 0.95, parm: str | Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Confidence intervals; see ``intervals`` for the formulas.

        Args:
            method: "percentile"; "basic"; "normal" (estimate - bias ± z se); or "bca" (bias-corrected and accelerated,
                which fits the model once more for every level of the outermost factor).
            level: of the intervals.
            parm: a parameter or several, as ``observed`` names them; by default all.

        Returns:
            ``lower``, ``upper``, ``estimate`` for each parameter. NaN where a parameter has no replicates, and by "bca"
            where they all lie on one side of the estimate (a warning names it).

        Raises:
            ValueError: an unknown method, or a level that is not between 0 and 1.
            ValueError: an unknown parameter.

        Davison & Hinkley (1997), Bootstrap Methods and their Application, chapter 5; "bca": Efron (1987), JASA 82.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, not {method!r}")
        check_level(level)
        at = self._places(parm)
        t, values = self.observed.to_numpy()[at], self.statistics.to_numpy()[:, at]
        if method != "normal":
            self._check_number(level)
        if method == "percentile":
            ends = intervals.percentile(values, level)
        elif method == "basic":
            ends = intervals.basic(t, values, level)
        elif method == "normal":
            ends = intervals.normal(t, values, level)
        else:
            ends = intervals.bca(t, values, self.acceleration.to_numpy()[at], level)
        names = self.observed.index[at]
        none = np.asarray(np.isnan(ends).any(axis=1) & ~np.isnan(values).all(axis=0))
        if none.any():
            warn(
                f"no BCa interval for {', '.join(map(str, names[none]))}: all replicates lie on one side of the "
                "estimate, or the groups differ too much; use method='percentile'"
            )
        return pd.DataFrame({"lower": ends[:, 0], "upper": ends[:, 1], "estimate": t}, names)

    @cached_property
    def acceleration(self) -> pd.Series:
        """(k,) BCa's a, from the fits without each level of one factor in turn.

        The only factor, or the outermost of nested ones; of crossed factors, which have no independent groups, that
        with the fewest levels.
        """
        left = leave_out(self.fit)
        if isinstance(left, FitBatch):
            values = self._values(left)
        else:
            values = _evaluate(left, self.statistic or parameters, self.observed.index)
        return pd.Series(intervals.acceleration(values), self.observed.index, name="acceleration")

    def _places(self, parm: str | Sequence[str] | None) -> np.ndarray:
        names = self.observed.index
        if parm is None:
            return np.arange(len(names))
        asked = [parm] if isinstance(parm, str) else list(parm)
        for name in asked:
            if name not in names:
                raise ValueError(f"there is no parameter {name!r}; there are {', '.join(map(repr, names))}")
        return np.concatenate([np.flatnonzero(names == name) for name in asked]).astype(int)

    def _check_number(self, level: float) -> None:
        n, needed = len(self) - self.failed, int(np.ceil(2 / (1 - level) - 1 - 1e-9))
        if n < needed:
            warn(
                f"{n} replicates are too few for intervals of level {level:g}, which then end at the outermost of "
                f"them: take n = {needed} at the very least"
            )

    def to_arviz(self) -> Any:
        """The replicates that converged as an ``arviz.InferenceData`` (a ``DataTree`` from ArviZ 1.0 on).

        The group ``posterior`` has one chain of ``fixef``, ``varcorr_sd``, ``varcorr_corr`` and ``sigma`` or
        ``dispersion``, with the names of coefficients, standard deviations and correlations as coordinates, or the
        ``statistic``; ``observed_data`` the response. They are draws of the estimators and not from a posterior.
        ``arviz.summary(boot.to_arviz(), kind="stats")``

        Raises:
            ImportError: arviz is not installed.
        """
        return draws.to_arviz(self)

    # ------------------------------------------------------------ print
    def _parts(self) -> list[str | _text.Grid]:
        n = len(self)
        name = self.kind.capitalize()
        lines = [f"{name} bootstrap of {self.fit.formula}", f"{n} replicates, {self.singular} singular"]
        lines += [f"{self.failed} failed and {'is' if self.failed == 1 else 'are'} left out"] if self.failed else []
        values = self.statistics.to_numpy()
        lines += [lacking] if (lacking := self._lacking(values)) else []
        ends = intervals.percentile(values, 0.95)
        columns = {
            "estimate": self.observed.to_numpy(),
            "bias": self.bias.to_numpy(),
            "SE": self.se.to_numpy(),
            "2.5 %": ends[:, 0],
            "97.5 %": ends[:, 1],
        }
        counts = np.sum(~np.isnan(values), axis=0)
        cells = [_text.number_column(x[:_SHOWN], 4) for x in columns.values()]
        if np.any(counts != n - self.failed):
            columns["of"] = counts
            cells.append(_text.fixed_column(counts[:_SHOWN], 0))
        rows = [("", *columns), *zip(map(str, self.observed.index[:_SHOWN]), *cells, strict=True)]
        more = len(self.observed) - _SHOWN
        rest = [f"... {more} more: confint()"] if more > 0 else []
        return [*lines, "", _text.Grid(rows, [False] + [True] * len(columns)), *rest]
