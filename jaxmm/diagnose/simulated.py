"""Simulated (randomised quantile) residuals of a fit: its responses among responses that it would give itself.

    conditional   y* | b̂    at the modes of the levels at hand: what the rows do given their levels
    new           y*         with effects drawn anew: the whole model, and rows of a level have them in common

Given the modes the residuals are a little less spread than uniform, since the modes were fitted to the same rows: by
the share edf / n of the rows' freedom (``effective``).  Tests of ``re="conditional"`` are then conservative where that
share is small or rows are few, and too quick to reject where many rows have few rows a level; those of ``"new"``
compare with simulated responses that have the same dependence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._random import as_key, words
from jaxmm._text import Printed
from jaxmm.design import DataError
from jaxmm.diagnose import pit, residual_tests, simulated_plot
from jaxmm.diagnose.effective import effective_df, leverages
from jaxmm.diagnose.residual_tests import ResidualTest, not_tested, simulated_p
from jaxmm.fitted import Fitted
from jaxmm.frames import as_backend
from jaxmm.predict import linear_predictors, on_scale, rows_used
from jaxmm.simulate import simulate

LEAST = 20  # simulations: with fewer no p is below 0.05
BLOCK = 4_000_000  # numbers that are ranked at once
SHARE = 0.1  # of the rows' freedom in the modes: worth a note
IN_BIN = 20  # rows in a bin of predictions, at least; MOST bins
MOST = 10


def simulated_residuals(fit: Fitted, n: int, key: Any, re: str) -> SimulatedResiduals:
    """See ``Fit.simulated_residuals``."""
    key = as_key(key)
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < LEAST:
        raise ValueError(f"n must be a number of simulations, at least {LEAST}, not {n!r}")
    simulations = simulate(fit, int(n), key, None, re, None, None)
    d, rows = fit.model.design, rows_used(fit)
    predicted = on_scale(fit, linear_predictors(fit, rows, set()), "response")
    known = np.all(np.isfinite(simulations), axis=0)
    own = words(key)
    # host numbers of the key, apart from those of the simulations; the observed row's come first
    generator = np.random.Generator(np.random.Philox(key=(1 << 64) | (int(own[0]) << 32) | int(own[1])))
    v = generator.random((n + 1, len(d.y)))
    return SimulatedResiduals(
        fit=fit,
        re=re,
        simulations=simulations[:, known],
        observed=pd.Series(d.y[known], d.index[d.kept][known], name=d.response),
        predicted=predicted[known],
        lost=int(np.sum(~known)),
        kept=known,
        v=v[:, known],
    )


@dataclass(frozen=True, eq=False, repr=False)
class SimulatedResiduals(Printed):
    """The residuals with their tests; print it, or ``plot()``.

    Attributes:
        fit: whose they are.
        re: "conditional" or "new".
        simulations: (n, rows), responses of the fitted model on the rows of positive weight.
        observed: the response there; counts of successes where there are trials.
        predicted: the mean at b = 0, by which rows are ordered. Not the conditional one: the modes are drawn towards
            zero, so that residuals rise with it in any model.
        lost: rows whose simulations are not finite, left out.

    Example:
        >>> fit.simulated_residuals(20, key=1).test_dispersion().n
        180
    """

    fit: Fitted
    re: str
    simulations: np.ndarray
    observed: pd.Series
    predicted: np.ndarray
    lost: int
    kept: np.ndarray
    v: np.ndarray

    @cached_property
    def residuals(self) -> pd.Series:
        """In (0, 1), uniform where the model is right: the observed response's place among the simulated ones,
        at random between the distribution function below it and at it (Dunn & Smyth 1996); see ``pit``."""
        values = pit.transform(self.observed.to_numpy(), self.simulations, self.v[0])
        return pd.Series(values, self.observed.index, name="residual")

    @cached_property
    def transforms(self) -> np.ndarray:
        """(n + 1, rows) the residuals, and those that each simulated response would have in their place."""
        out = np.empty((len(self.simulations) + 1, len(self.observed)))
        width = max(1, BLOCK // len(out))
        for first in range(0, out.shape[1], width):
            own = slice(first, first + width)
            values = np.vstack([self.observed.to_numpy()[None, own], self.simulations[:, own]])
            out[:, own] = pit.transforms(values, self.v[:, own])
        return out

    @cached_property
    def taken(self) -> float:
        """The share of the rows' freedom that the conditional means have used, edf / n; 0 for new effects."""
        return effective_df(self.fit) / len(self.observed) if self.re == "conditional" else 0.0

    @cached_property
    def _left(self) -> float:
        """The share of Σ (y - mean)² that the conditional means leave, 1 for new effects."""
        if self.re != "conditional":
            return 1.0
        V = self.simulations.var(axis=0)
        return float(np.sum(V * (1 - leverages(self.fit)[self.kept])) / np.sum(V))

    @property
    def independent(self) -> bool:
        """Whether rows are, given what is held fixed."""
        return self.re == "conditional"

    # ------------------------------------------------------------ tests
    def test_uniformity(self) -> ResidualTest:
        """Kolmogorov and Smirnov's test; for new effects, whose rows are dependent, D by simulation."""
        m, name = len(self.observed), "uniformity"
        if self.independent:
            D = float(residual_tests.kolmogorov(self.residuals.to_numpy()))
            return ResidualTest(name, "D", D, residual_tests.kolmogorov_p(D, m), m, "Kolmogorov-Smirnov")
        D = residual_tests.kolmogorov(self.transforms)
        return ResidualTest(name, "D", float(D[0]), simulated_p(D[0], D[1:]), m, self._by_simulation)

    def test_dispersion(self, alternative: str = "two-sided") -> ResidualTest:
        """Σ (y - mean)² over what it is in the simulations, each about the means of all: above 1 is overdispersion.

        Given the modes, which have taken their part of it, the observed sum is divided by Σ V_i (1 - h_i) / Σ V_i
        first, V_i of the simulations and h_i the leverages (``effective``): without that the test of counts in small
        groups rejects a true model in a quarter of data sets. A family with a dispersion of its own (a linear model's
        σ, φ) has fitted it, so that the ratio is near 1 whatever the data. ``alternative``: "two-sided", "greater" or
        "less".
        """
        m, name, symbol = len(self.observed), "dispersion", "ratio"
        T = residual_tests.spread(np.vstack([self.observed.to_numpy(), self.simulations]))
        if not np.mean(T[1:]) > 0:
            return not_tested(name, symbol, m, "the simulated responses do not vary")
        if self.taken >= 1 or not self._left > 0:
            return not_tested(name, symbol, m, "the modes take up all of the rows' freedom")
        own = T[0] / self._left
        p = simulated_p(own, T[1:], alternative)
        return ResidualTest(name, symbol, float(own / np.mean(T[1:])), p, m, self._sided(alternative))

    def test_outliers(self, alternative: str = "greater") -> ResidualTest:
        """The share of rows beyond all simulated values, 2/(n + 1) expected: binomial, or by simulation where rows are
        dependent. For more of them than expected, unless ``alternative`` says "two-sided" or "less"."""
        m, n, name, symbol = len(self.observed), len(self.simulations), "outliers", "share"
        if self.independent:
            count = int(residual_tests.outside(self.residuals.to_numpy(), n))
            p = residual_tests.binomial_p(count, m, 2 / (n + 1), alternative)
            how = f"binomial, {2 / (n + 1):.2g} expected"
        else:
            counts = residual_tests.outside(self.transforms, n)
            count, p, how = int(counts[0]), simulated_p(counts[0], counts[1:], alternative), self._by_simulation
        return ResidualTest(name, symbol, count / m, p, m, how)

    def test_zero_inflation(self, alternative: str = "two-sided") -> ResidualTest:
        """The number of zeros over the mean number in the simulations; ``alternative`` as in ``test_dispersion``."""
        m, name, symbol = len(self.observed), "zeros", "ratio"
        own, simulated = np.sum(self.observed.to_numpy() == 0), np.sum(self.simulations == 0, axis=1)
        p = simulated_p(own, simulated, alternative)
        if not own and not simulated.any():
            return not_tested(name, symbol, m, "neither the response nor the simulations have any")
        mean = np.mean(simulated)
        return ResidualTest(name, symbol, float(own / mean) if mean else np.inf, p, m, self._sided(alternative))

    def test_quantiles(self, bins: int | None = None) -> ResidualTest:
        """Whether the quartiles are 0.25, 0.5 and 0.75 wherever the prediction lies.

        The rows are cut into bins of their predictions (``bins`` of about equal size; one per 20 rows, 10 at most, by
        default), and the rows between the quartiles counted in each: χ² over all cells, p by simulation. Quantile
        regression, which DHARMa uses, finds the same departures; ``table`` says in which bin they are.
        """
        m = len(self.observed)
        given, bins = bins, int(np.clip(m // IN_BIN, 1, MOST)) if bins is None else bins
        if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
            raise ValueError(f"bins must be a positive number of bins, not {bins!r}")
        edges = np.unique(np.quantile(self.predicted, np.arange(1, bins) / bins))
        group = np.searchsorted(edges, self.predicted, side="right")
        _, group = np.unique(group, return_inverse=True)
        low = [self.predicted[group == g].min() for g in range(group.max() + 1)]
        high = [self.predicted[group == g].max() for g in range(group.max() + 1)]
        labels = [f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True)]
        found = len(labels)
        if self.predicted.max() == self.predicted.min():
            how = "1 bin: the prediction is the same in every row"
        elif found < bins:
            how = f"{found} bin{'s' * (found > 1)} of the prediction, which ties in many rows"
        elif found == 1:
            how = "1 bin, as asked for" if given is not None else f"1 bin: fewer than {2 * IN_BIN} rows"
        else:
            how = f"{found} bins of the prediction"
        return self._quartiles("quantiles", group, labels, how)

    def test_by(self, column: Any) -> ResidualTest:
        """Whether the residuals are uniform at each value of a category: χ² of the counts between the quartiles.

        ``column``: a grouping factor or a column of X by name, or one value for each row.
        """
        name, values = self._column(column, "column")
        group, labels = pd.factorize(values, sort=True)
        if np.any(group < 0):
            raise DataError(f"{name}: {int(np.sum(group < 0))} rows have no value")
        return self._quartiles(f"by {name}", group, labels, f"{len(labels)} values")

    def test_autocorrelation(self, column: Any, by: Any = None, alternative: str = "greater") -> ResidualTest:
        """The correlation of the residuals' normal scores with the next ones along ``column``, p by simulation.

        Args:
            column: time or place, by name (a column of X) or one number for each row. Rows that tie count as one, by
                their mean score.
            by: a grouping factor or one value for each row: neighbours are then those of the same value, as visits of
                a subject are.
            alternative: "greater", for positive correlation, unless told: given the modes the residuals of a level add
                to nearly nothing, so that they are negatively correlated, by about 1/(rows a level), in any model.
        """
        name, at = self._column(column, "column")
        at = np.asarray(at)
        m, what = len(self.observed), f"autocorrelation along {name}"
        within = np.zeros(m, int) if by is None else pd.factorize(self._column(by, "by")[1])[0]
        try:
            place, tied = np.unique(np.column_stack([within, at.astype(float)]), axis=0, return_inverse=True)
        except (TypeError, ValueError):
            raise DataError(f"{name} must be numbers to go along, not {at.dtype}") from None
        tied = np.ravel(tied)
        linked = place[1:, 0] == place[:-1, 0]
        if np.sum(linked) < 2:
            return not_tested(what, "r", m, "no two places follow each other")
        count = np.bincount(tied)

        def order(z: np.ndarray) -> np.ndarray:
            if len(count) == m:
                return z[:, np.argsort(tied)]
            return np.stack([np.bincount(tied, row) for row in z]) / np.sqrt(count)

        r = residual_tests.lag_correlation(self.transforms, order, linked)
        return ResidualTest(what, "r", float(r[0]), simulated_p(r[0], r[1:], alternative), m, self._sided(alternative))

    def _quartiles(self, name: str, group: np.ndarray, labels: Any, what: str) -> ResidualTest:
        T = residual_tests.quartile_distance(self.transforms, group, len(labels))
        table = residual_tests.quartile_table(self.residuals.to_numpy(), group, labels)
        p = simulated_p(T[0], T[1:])
        return ResidualTest(name, "chi2", float(T[0]), p, len(group), f"{what}, {self._by_simulation}", table=table)

    @property
    def _by_simulation(self) -> str:
        return f"by {len(self.simulations)} simulations"

    def _sided(self, alternative: str) -> str:
        return self._by_simulation + ("" if alternative == "two-sided" else f", {alternative}")

    def _column(self, column: Any, argument: str) -> tuple[str, Any]:
        """Its name, and a value for each row.

        Raises:
            ValueError: an unknown name.
            DataError: another number of values than rows.
        """
        d = self.fit.model.design
        if isinstance(column, str):
            factors = {f.name: np.asarray(f.levels)[f.codes] for f in d.factors}
            own = factors | {name: d.X[:, k] for k, name in enumerate(d.columns) if name not in factors}
            if column not in own:
                raise ValueError(
                    f"{argument}={column!r}: the fit keeps the columns {', '.join(map(repr, own))}; pass others "
                    f"themselves, as data[{column!r}]"
                )
            return column, own[column][self.kept]
        name = str(getattr(column, "name", None) or argument)
        if isinstance(column, pd.Series) and d.index.is_unique and column.index.is_unique:
            if d.index.isin(column.index).all():
                return name, column.reindex(self.observed.index).to_numpy()
        values = np.asarray(column)
        for rows, chosen in ((len(d.index), d.kept), (len(d.y), slice(None))):
            if values.shape == (rows,):
                return name, values[chosen][self.kept]
        raise DataError(f"{name} of shape {values.shape}: give one value for each of the {len(d.y)} rows used")

    # ------------------------------------------------------------ all of them
    def tests(self) -> list[ResidualTest]:
        """Those that need no column: uniformity, dispersion, outliers, quantiles, and zeros where there are any."""
        found = [self.test_uniformity(), self.test_dispersion(), self.test_outliers(), self.test_quantiles()]
        zeros = self.test_zero_inflation()
        return found if zeros.reason else [*found, zeros]

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``tests()`` as a table: statistic, p, n, how. ``backend``: "pandas" or "polars"."""
        found = self.tests()
        columns = {name: [getattr(t, name) for t in found] for name in ("statistic", "p", "n", "how")}
        return as_backend(pd.DataFrame(columns, index=[t.name for t in found]), backend, "test")

    def plot(self, axes: Any = None) -> Any:
        """Q-Q plot of the residuals, and the residuals along the ranked predictions with their quartiles.

        ``axes``: two to draw into. Returns them.
        """
        return simulated_plot.plot(self, axes)

    @property
    def notes(self) -> list[str]:
        """What limits the meaning of the tests, a sentence each."""
        out = []
        if self.lost:
            out.append(f"{self.lost} rows without finite simulations left out")
        if self.taken > SHARE:
            out.append(
                f"the effects have taken up {100 * self.taken:.0f} % of the rows' freedom: residuals given them are "
                "less spread than uniform, and many rows show that; re='new' compares like with like"
            )
        return out

    def _parts(self) -> list[str]:
        n, m = self.simulations.shape
        what = "given the fitted random effects" if self.re == "conditional" else "with new random effects"
        lines = [f"Simulated residuals of {self.fit.formula}", f"{n} simulations of {m} rows, {what}"]
        return [*lines, *(t.sentence for t in self.tests()), *self.notes]
