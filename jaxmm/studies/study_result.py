"""StudyResult: the fits of a study beside the truth, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._text import Grid, Printed
from jaxmm.frames import as_backend
from jaxmm.results.result import FitBatch
from jaxmm.studies.hypotheses import Columns, Fits
from jaxmm.studies.montecarlo import accuracy, exact_interval, share

RECOVERY = ("bias", "rmse", "sd", "mean_se", "coverage")


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult(Printed):
    """What ``study`` found; every ``…_mc`` is the Monte-Carlo standard error of the column before it.

    ``recovery``, ``tests`` and ``rates`` are tables; ``batch`` has the fits themselves, ``null_batches`` those of the
    null models by their missing columns, ``to_frame()`` one row per replicate; ``notes`` what the tests say of
    themselves.

    Attributes:
        formula, kind, nobs: of the model: its formula, how it is fitted, its rows.
        truth: the parameters, as a batch of one.
        fits: of the model and of the null models, which the tests used.
        p_values: by (test, columns): (n,), NaN where a fit gave none.
        statistics: name -> function, as given to ``study``.
        level, alpha: of the intervals, and of the tests.

    Example:
        >>> mm.study(fit, None, 4, key=1, progress=False).tests["coef"].tolist()
        ['(Intercept)', 'Days']
    """

    formula: str
    kind: str
    nobs: int
    truth: FitBatch
    fits: Fits
    p_values: Mapping[tuple[str, Columns], np.ndarray]
    statistics: Mapping[str, Callable[[FitBatch], Any]]
    level: float
    alpha: float
    notes: tuple[str, ...] = ()

    @property
    def batch(self) -> FitBatch:
        """The fits of the model."""
        return self.fits.batch

    @property
    def null_batches(self) -> dict[str, FitBatch]:
        """The fits of the null models, by the columns they lack (joined by ", ")."""
        return {", ".join(columns): batch for columns, batch in self.fits.nulls.items()}

    def __len__(self) -> int:
        return len(self.batch)

    # ------------------------------------------------------------ the tables
    @cached_property
    def recovery(self) -> pd.DataFrame:
        """A row per parameter: ``truth``, ``n`` (converged fits that gave a value), ``mean``, ``bias``, ``rmse`` and
        ``sd`` of the estimates; of the coefficients also ``mean_se`` and ``coverage`` of the Wald intervals."""
        fits = self.batch.take(self.batch.converged)
        estimates, truth = _parameters(fits, self.statistics), _parameters(self.truth, self.statistics)
        errors = dict(zip(fits.names.fixef, fits.bse.T, strict=True))
        errors |= dict(zip(fits.names.further, fits.further_bse.T, strict=True))
        rows = {name: accuracy(x, float(truth[name][0]), errors.get(name), self.level) for name, x in estimates.items()}
        columns = ["truth", "n", "mean", *(c for name in RECOVERY for c in (name, f"{name}_mc"))]
        return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)

    @cached_property
    def tests(self) -> pd.DataFrame:
        """A row per hypothesis: ``test``, ``coef``, ``truth`` (the coefficient; of several the largest in size), what
        the rate ``is`` ("type I error" where the hypothesis is true, else "power"; "no truth" where it has none),
        ``rate`` of p <= alpha with its error and exact interval ``lower``, ``upper``, ``rejections`` of the ``n`` fits
        that gave a p-value."""
        rows = []
        names = self.truth.names.fixef
        for (test, columns), p in self.p_values.items():
            effects = np.array([self.truth.fixef[0, names.index(c)] for c in columns])
            hits = p[np.isfinite(p)] <= self.alpha
            found = share(hits)
            lower, upper = exact_interval(int(np.sum(hits)), len(hits), self.level)
            rows.append(
                {
                    "test": test,
                    "coef": ", ".join(columns),
                    "truth": effects[np.argmax(np.abs(effects))],
                    "is": "no truth" if np.any(np.isnan(effects)) else "power" if np.any(effects) else "type I error",
                    "rate": found["rate"],
                    "rate_mc": found["rate_mc"],
                    "lower": lower,
                    "upper": upper,
                    "rejections": int(np.sum(hits)),
                    "n": len(hits),
                }
            )
        return pd.DataFrame(rows)

    @cached_property
    def rates(self) -> pd.DataFrame:
        """A row per model fitted: of ``n`` fits the shares that are ``singular`` (among those that gave estimates),
        ``failed`` (no estimates) and ``not_converged`` (failed ones included)."""
        rows = {}
        for name, batch in self.models.items():
            failed = ~np.isfinite(batch.loglik)
            row: dict[str, float] = {"n": len(batch)}
            for what, hits in (
                ("singular", batch.is_singular[~failed]),
                ("failed", failed),
                ("not_converged", ~batch.converged),
            ):
                found = share(hits)
                row |= {what: found["rate"], f"{what}_mc": found["rate_mc"]}
            rows[name] = row
        return pd.DataFrame.from_dict(rows, orient="index").astype({"n": int})

    @property
    def models(self) -> dict[str, FitBatch]:
        """The fits of every model, by its name in ``rates``."""
        by_ml = self.fits.by_ml
        out = {"full": self.batch}
        if by_ml is not None and by_ml is not self.batch:
            out["full, by ML"] = by_ml
        return out | {f"without {name}": batch for name, batch in self.null_batches.items()}

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """One row per replicate: ``batch.to_frame()`` and a column of p-values for each test.

        ``backend``: "pandas" or "polars".
        """
        p = {f"p_{', '.join(columns)} ({test})": x for (test, columns), x in self.p_values.items()}
        return as_backend(self.batch.to_frame().assign(**p), backend)

    # ------------------------------------------------------------ print
    def _parts(self) -> list[str | Grid]:
        parts = [
            f"Study of {len(self):,} responses of {self.nobs:,} rows: {self.formula}",
            f"{self.kind}; value ± its Monte-Carlo standard error",
            "",
            *_recovery(self.recovery, self.level),
            "",
            power_grid(self.tests, self.alpha, self.level),
        ]
        if self.fits.by_ml is not None and self.fits.by_ml is not self.batch:
            parts.append("likelihood ratios compare fits by maximum likelihood, all else here is by REML")
        return [*parts, *self.notes, "", rate_grid(self.rates)]


def _parameters(batch: FitBatch, statistics: Mapping[str, Callable[[FitBatch], Any]]) -> dict[str, np.ndarray]:
    """Name -> (n,): coefficients, variance parameters, statistics."""
    out = batch.estimates()
    for name, function in statistics.items():
        values = np.asarray(function(batch), float)
        if values.shape != (len(batch),):
            raise ValueError(
                f"the statistic {name!r} gave shape {values.shape} for {len(batch)} fits: one number for each"
            )
        out[name] = values
    return out


def _recovery(table: pd.DataFrame, level: float) -> list[str | Grid]:
    header = ["parameter", "truth", "mean", "bias", "RMSE", "SD", "mean SE", f"coverage of {100 * level:g}%"]
    rows = [header]
    for name, row in table.to_dict("index").items():
        cells = [with_error(row[c], row[f"{c}_mc"]) for c in RECOVERY[:-1]]
        cover = with_error(100 * row["coverage"], 100 * row["coverage_mc"], "%")
        rows.append([str(name), _plain(row["truth"], ".5g"), f"{row['mean']:.5g}", *cells, cover])
    counts = table["n"].to_numpy(int)
    fewest, n = counts.min(), counts.max()
    note = [] if fewest == n else [f"from {fewest:,.0f} to {n:,.0f} fits: a correlation needs two variances above zero"]
    return [Grid(rows, [False] + [True] * 7), *note]


def power_grid(table: pd.DataFrame, alpha: float, level: float) -> str | Grid:
    """``StudyResult.tests`` as it is printed."""
    if table.empty:
        return "no tests"
    rows = [["test", "coefficient", "truth", "", f"p <= {alpha:g}", f"{100 * level:g}% interval", "of"]]
    for row in table.to_dict("records"):
        between = f"{100 * row['lower']:.1f}-{100 * row['upper']:.1f}%"
        rate = with_error(100 * row["rate"], 100 * row["rate_mc"], "%")
        rows.append([row["test"], row["coef"], _plain(row["truth"], ".4g"), row["is"], rate, between, f"{row['n']:,}"])
    return Grid(rows, [False, False, True, False, True, True, True], names=2)


def rate_grid(table: pd.DataFrame) -> Grid:
    """``StudyResult.rates`` as it is printed."""
    rows = [["fits of", "singular", "failed", "not converged", "of"]]
    for name, row in table.to_dict("index").items():
        shares = [with_error(100 * row[c], 100 * row[f"{c}_mc"], "%") for c in ("singular", "failed", "not_converged")]
        rows.append([str(name), *shares, f"{row['n']:,.0f}"])
    return Grid(rows, [False, True, True, True, True])


def _plain(value: float, digits: str) -> str:
    """Empty for NaN."""
    return f"{value:{digits}}" if np.isfinite(value) else ""


def with_error(value: float, error: float, unit: str = "") -> str:
    """ "0.0123 ± 0.0045": as many decimals as two digits of the error have; empty for NaN."""
    if not np.isfinite(value):
        return ""
    if not np.isfinite(error) or error == 0:
        return f"{value:.4g}{unit}"
    decimals = int(np.clip(1 - np.floor(np.log10(error)), 0, 12))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}{unit}"
