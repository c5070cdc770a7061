"""cross_validate: a model and groups of its rows -> how well each group is predicted by the others.

With θ̂_(f) the estimates without fold f, and y_g the rows of group g of that fold,

    elpd = Σ_g log p(y_g | θ̂_(f(g)))        se = √(G var_g)        difference of two models: Σ_g d_g,  √(G var d_g)

(Vehtari, Gelman & Gabry 2017, Stat. Comput. 27, 1413-1432, eqs. 4 and 23, with estimates in the place of draws).  All
folds are lanes of one batch, in which the rows left out weigh nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._keywords import known_keywords
from jaxmm._text import Grid, Printed, frame_parts, number_text, some
from jaxmm.batch.apart import without_each
from jaxmm.crossval.density import estimated, of_fit, predictive
from jaxmm.crossval.folds import Folds, make_folds
from jaxmm.fit import Fit
from jaxmm.frames import as_backend
from jaxmm.inference.influence import told_without
from jaxmm.optimize import Status
from jaxmm.results.result import FitBatch
from jaxmm.sources.resample import outermost
from jaxmm.sources.responses import unfitted

_HINTS = {
    "k": "folds=", "K": "folds=", "n_folds": "folds=", "group": "by=", "groups": "by=", "cluster": "by=",
    "seed": "key=seed", "data": "the data are the model's",
}  # fmt: skip


@known_keywords(_HINTS)
def cross_validate(model: Any, *, by: Any = None, folds: int | None = None, key: Any = None) -> CrossValidation:
    """How well a model predicts groups of rows that it has not seen: its log predictive density, and its errors.

        cross_validate(fit)                            without each level of the outermost factor
        cross_validate(fit, by="school", folds=10, key=1)

    Args:
        model: a ``Fit``, or a ``Model``, which is fitted first.
        by: what is left out: a grouping factor's name, the factor within which errors are correlated, or a label for
            each row used. By default the factor in whose levels those of all others lie.
        folds: how many groups of groups to leave out, put together at random; each group by itself where None.
        key: of the folds, a seed, such as 1, or a key, such as ``jax.random.key(1)``.

    A group is predicted as a new one, its random effects averaged over. Where it shares some with rows that stay (a
    subject left out of subjects × items), or its errors are correlated with theirs, it is predicted given these, in a
    linear model of 3,000 rows at most.

    Returns:
        ``CrossValidation``: ``elpd`` and ``se``, ``rmse``, ``frame``, ``compare(other)``; print it.

    Raises:
        ValueError: groups that are none of the model's factors, or share random effects where that cannot be computed;
            a number of folds that does not suit.
        TypeError: folds without a key; what is no model.
        DataError: labels of another length than the rows.

    Vehtari, Gelman & Gabry (2017), Stat. Comput. 27, 1413-1432, on the density and its error.

    Example:
        >>> found = mm.cross_validate(fit)
        >>> round(found.elpd, 1), found.frame.shape[0]
        (-891.6, 18)
    """
    design = unfitted(model).design
    plan = make_folds(design, by, folds, key, outermost(unfitted(model)))
    fit: Fit = model if isinstance(model, Fit) else model.fit()
    of_rows = plan.of_rows
    batch = without_each(fit, of_rows, plan.count, plan.apart and outermost(fit.model) is not None)
    good = batch.converged & told_without(design.X, of_rows, plan.count)
    density, mean = predictive(fit, plan, estimated(fit, batch), good)
    inside, _ = predictive(fit, plan, of_fit(fit, plan.count), np.ones(plan.count, bool))
    return CrossValidation(fit, plan, batch, good, density, inside, mean)


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidation(Printed):
    """What ``cross_validate`` found.

    Attributes:
        fit: to all rows.
        folds: the groups and what is left out together.
        batch: the fits without each fold.
        good: (K,) whether what is left in a fold has estimates: a fit that converged, with data for every coefficient.
        density: (G,) the log predictive density of each group; NaN where its fold is not good.
        inside: (G,) the same at the estimates of all rows.
        predicted: (n,) of each row that counts, shares where there are trials.

    Example:
        >>> found = mm.cross_validate(fit, folds=6, key=1)
        >>> found.folds.count, bool(found.good.all()), found.optimism > 0
        (6, True, True)
    """

    fit: Fit
    folds: Folds
    batch: FitBatch
    good: np.ndarray
    density: np.ndarray
    inside: np.ndarray
    predicted: np.ndarray

    @property
    def _known(self) -> np.ndarray:
        return np.isfinite(self.density)

    @property
    def elpd(self) -> float:
        """The sum of the log densities, over the groups that have one."""
        return float(np.sum(self.density[self._known]))

    @property
    def se(self) -> float:
        """Its standard error, from how groups differ."""
        return _error(self.density[self._known])

    @property
    def optimism(self) -> float:
        """What the log density loses out of sample, over the same groups: near the number of parameters of a model that
        is right."""
        return float(np.sum(self.inside[self._known])) - self.elpd

    @property
    def observed(self) -> np.ndarray:
        """(n,) the responses, shares where there are trials."""
        d = self.fit.model.design
        return d.y if d.trials is None else d.y / d.trials

    @property
    def rmse(self) -> float:
        """The root of the mean square of observed less predicted, over the rows that have a prediction; NaN without
        any."""
        square = (self.observed - self.predicted) ** 2
        return float(np.sqrt(np.mean(square[np.isfinite(square)]))) if np.isfinite(square).any() else np.nan

    @property
    def frame(self) -> pd.DataFrame:
        """A row per group: ``fold``, ``rows``, ``elpd``, ``inside``, ``rmse``, ``status`` of the fit without its
        fold."""
        d, codes, count = self.fit.model.design, self.folds.codes, len(self.folds.fold)
        square = np.bincount(codes, (self.observed - self.predicted) ** 2, count)
        rows = np.bincount(codes, minlength=count)
        names = np.array([s.name.lower() for s in Status])[np.asarray(self.batch.status, int)]
        names = np.where(self.batch.converged & ~self.good, "not estimable", names)
        columns = {
            "fold": self.folds.fold, "rows": rows, "elpd": self.density, "inside": self.inside,
            "rmse": np.sqrt(square / rows), "status": names[self.folds.fold],
        }  # fmt: skip
        name = self.folds.name if self.folds.name in {f.name for f in d.factors} else "group"
        return pd.DataFrame(columns, pd.Index(self.folds.labels, name=name))

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``frame``. ``backend``: "pandas" or "polars"."""
        return as_backend(self.frame, backend, "group")

    def compare(self, other: CrossValidation) -> Difference:
        """This model less another one, group by group.

        Args:
            other: of the same response and groups.

        Raises:
            TypeError: what is no result of ``cross_validate``.
            ValueError: of other rows or groups.
        """
        if not isinstance(other, CrossValidation):
            raise TypeError(f"compare takes what cross_validate returns, not {type(other).__name__}")
        ours, theirs = self.fit.model.design, other.fit.model.design
        if not np.array_equal(ours.y, theirs.y):
            raise ValueError("the models are of different responses or rows: fit both to one table")
        if not np.array_equal(self.folds.codes, other.folds.codes):
            raise ValueError(
                f"the groups left out differ, {self.folds.name} and {other.folds.name}: give both the same by="
            )
        return Difference(
            pd.Series(self.density - other.density, self.frame.index, name="elpd"),
            not np.array_equal(self.folds.fold, other.folds.fold),
        )

    def _parts(self) -> list[str | Grid]:
        d, count = self.fit.model.design, self.folds.count
        each = "each left out by itself" if self.folds.alone else f"left out in {count} folds"
        table = pd.DataFrame(
            {"estimate": [self.elpd, self.optimism, self.rmse], "se": [self.se, np.nan, np.nan]},
            ["elpd", "optimism", "rmse"],
        )
        parts: list[str | Grid] = [
            f"Cross-validation: {d.formula}",
            f"{len(self.folds.fold):,} groups, {self.folds.name}, {each}",
            "",
            *frame_parts(table, none=""),
        ]
        failed = np.flatnonzero(~self.good)
        if len(failed):
            gone = int(np.sum(~self._known))
            parts.append(
                f"{len(failed)} of {count} folds have no estimates ({some([str(k) for k in failed])}): their {gone} "
                "groups are left out of the sums"
            )
        return parts


@dataclass(frozen=True, eq=False, repr=False)
class Difference(Printed):
    """The difference in log predictive density of two models: ``elpd``, above zero where the first predicts better, its
    ``se``; ``by_group``, a number for each group; ``other_folds``, whether their folds differ.

    Example:
        >>> intercepts = mm.lmm("Reaction ~ Days + (1 | Subject)", mm.datasets.load("sleepstudy"))
        >>> found = mm.cross_validate(fit).compare(mm.cross_validate(intercepts))
        >>> found.elpd > found.se
        True
    """

    by_group: pd.Series
    other_folds: bool = False

    @property
    def elpd(self) -> float:
        """The sum over the groups that both models have a density of."""
        return float(np.nansum(self.by_group))

    @property
    def se(self) -> float:
        """Its standard error, from how the differences vary between groups."""
        x = self.by_group.to_numpy(float)
        return _error(x[np.isfinite(x)])

    def _parts(self) -> list[str | Grid]:
        known = int(np.sum(np.isfinite(self.by_group)))
        elpd, se = number_text(self.elpd, ".5g"), number_text(self.se, ".3g")
        parts: list[str | Grid] = [
            "Difference in log predictive density, the first model less the second",
            f"elpd {elpd}, standard error {se}, of {known} groups",
        ]
        if known < len(self.by_group):
            parts.append(f"{len(self.by_group) - known} groups have no density in one of the models and are left out")
        if self.other_folds:
            parts.append("the folds of the two models differ, which adds chance: give both the same key")
        return parts


def _error(x: np.ndarray) -> float:
    """Of the sum of independent numbers."""
    return float(np.sqrt(len(x)) * np.std(x, ddof=1)) if len(x) > 1 else np.nan
