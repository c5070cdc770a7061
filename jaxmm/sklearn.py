"""A mixed model as an estimator of scikit-learn: X (n, d), y (n,) and groups -> predictions.

    (X, y, groups)  --_table-->  columns, "y ~ a + b + (1 + a | g)"  --lmm or glmm-->  Fit  --predict-->  (m,)

``jaxmm.sklearn`` is imported when it is first asked for: the rest of jaxmm does without scikit-learn.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Self

import numpy as np

from jaxmm.design import DataError
from jaxmm.families import Family
from jaxmm.model import glmm, lmm

try:
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.utils.validation import (
        check_array,
        check_consistent_length,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ImportError as error:
    raise ImportError("jaxmm.sklearn needs scikit-learn: pip install 'jaxmm[sklearn]'") from error


class MixedRegressor(RegressorMixin, BaseEstimator):
    """A linear or generalised mixed model for ``Pipeline``, ``cross_val_score``, ``GridSearchCV``.

    Args:
        groups: the column of X that says which rows belong together, by name or by number, or a list of such columns,
            crossed. It is no predictor then. Without it ``fit`` takes ``groups=``, an array (n,).
        random_slopes: columns of X whose slopes differ between groups, beside the intercept, by name or number.
        formula: a formula in the place of the above, over the columns of X (``x0``, ``x1``, .. of an array without
            names): ``"~ dose + (dose | clinic)"``. What stands left of ``~`` is what y is called.
        family: None for a linear mixed model, else as in ``jaxmm.glmm``.
        reml: whether a linear model is fitted by REML.

    Every other column of X is a predictor: numbers, and in a table also text and categories.

    Attributes:
        fit_: the ``jaxmm.Fit``, with all that it can do: ``est.fit_.summary()``.
        formula_: that was fitted.
        coef_: (k,) estimates of the fixed effects without the intercept, 0 of one that is a combination of others;
            ``coef_names_`` are their names, (d,) one for each column where all predictors are numbers.
        intercept_: of a typical group, 0.0 where the formula has none.
        n_features_in_, feature_names_in_: of X.

    A row of a group that was seen is predicted with the group's own effects (BLUPs), every other with b = 0: the mean
    of the population in a linear model, a typical group's in a generalised one. ``GroupKFold`` therefore measures how
    well new groups are predicted, ``KFold`` how well new rows of old ones are. scikit-learn hands ``groups`` to the
    splitter alone unless ``sklearn.set_config(enable_metadata_routing=True)`` and ``set_fit_request(groups=True)`` say
    otherwise; a column of X goes everywhere.

    Example:
        >>> from sklearn.model_selection import GroupKFold, cross_val_score
        >>> data = mm.datasets.load("sleepstudy")
        >>> model = mm.sklearn.MixedRegressor(groups="Subject", random_slopes=["Days"])
        >>> scores = cross_val_score(
        ...     model, data[["Days", "Subject"]], data["Reaction"], groups=data["Subject"], cv=GroupKFold(5)
        ... )
    """

    def __init__(
        self,
        groups: Any = None,
        random_slopes: Any = (),
        formula: str | None = None,
        family: str | Family | None = None,
        reml: bool = True,
    ):
        self.groups = groups
        self.random_slopes = random_slopes
        self.formula = formula
        self.family = family
        self.reml = reml

    # ------------------------------------------------------------ verbs
    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit the model.

        Args:
            X: (n, d), an array of numbers or a table.
            y: (n,).
            groups: (n,) labels of the group of each row, where neither a column nor a formula says it.

        Raises:
            ValueError: groups that are not given, or twice; an unknown column; X or y that are not finite.
        """
        table, y = self._table(X, y=y)
        names = list(table)
        response, own = _free("y", names), _free("group", names)
        if self.formula is not None:
            if self.groups is not None or groups is not None or len(_listed(self.random_slopes)):
                raise ValueError("formula= says what groups= and random_slopes= would: give one or the other")
            left, _, right = self.formula.partition("~")
            response = left.strip().strip("`") or response
            formula = f"{_quoted(response)} ~ {right.strip()}"
        else:
            formula = f"{_quoted(response)} ~ {self._right_side(names, own, groups is not None)}"
        self.own_group_ = own if groups is not None else None
        data = {**table, response: y, **self._own_group(groups, len(y))}
        if self.family is None:
            self.fit_ = lmm(formula, data, reml=self.reml, missing="raise")
        else:
            self.fit_ = glmm(formula, data, self.family, missing="raise")
        self.formula_ = formula
        self._keep_coefficients(names)
        return self

    def predict(self, X: Any, groups: Any = None) -> np.ndarray:
        """(m,) the mean of the response in the rows of X: with the group's own effects where ``fit`` has seen it, else
        with b = 0.

        ``groups``: (m,) labels, where ``fit`` was given some; without them every row is one of a new group.
        """
        check_is_fitted(self, "fit_")
        table, _ = self._table(X)
        known = self.own_group_ is None or groups is not None
        if self.own_group_ is None and groups is not None:
            raise ValueError("groups= is for a model that was fitted with groups=; this one reads them from X")
        data = {**table, **self._own_group(groups, len(next(iter(table.values()))))}
        re = "conditional" if known else "population"
        return self.fit_.predict(data, re=re, new_levels="population").to_numpy()

    # ------------------------------------------------------------ columns
    def _table(self, X: Any, **target: Any) -> tuple[dict[str, Any], Any]:
        """The columns of X by name and, of a fit, y as numbers; and n_features_in_ and feature_names_in_, set by a fit,
        else compared."""
        fitting = "y" in target
        if not hasattr(X, "columns"):
            least: Any = {"ensure_min_samples": 2, "y_numeric": True} if fitting else {}
            checked = validate_data(self, X, reset=fitting, **target, **least)
            numbers, y = checked if fitting else (checked, None)
            return {f"x{j}": column for j, column in enumerate(np.asarray(numbers, float).T)}, y
        validate_data(self, X, reset=fitting, skip_check_array=True, **target)
        names = [str(c) for c in X.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"X has several columns {next(n for n in names if names.count(n) > 1)!r}")
        table = {name: X[column] for name, column in zip(names, X.columns, strict=True)}
        if not fitting:
            return table, None
        y = check_array(column_or_1d(target["y"], warn=True), ensure_2d=False, input_name="y", dtype="float64")
        check_consistent_length(X, y)
        return table, y

    def _own_group(self, groups: Any, n: int) -> dict[str, Any]:
        """The column of ``groups=``, under its name."""
        if groups is None or self.own_group_ is None:
            return {}
        labels = np.asarray(groups)
        if labels.shape != (n,):
            raise ValueError(f"groups must be ({n},), a label for each row; got shape {labels.shape}")
        return {self.own_group_: labels}

    def _right_side(self, names: list[str], own: str, given: bool) -> str:
        """What stands right of ~ without a formula."""
        columns = _chosen("groups", self.groups, names)
        slopes = _chosen("random_slopes", self.random_slopes, names)
        if given and columns:
            raise ValueError("groups are given twice: as a column of X in MixedRegressor(groups=) and in fit(groups=)")
        if not given and not columns:
            raise ValueError(
                "which rows belong together? Give MixedRegressor(groups=) a column of X, or fit(X, y, groups=labels); "
                "cross_val_score hands its groups to the splitter alone unless metadata are routed"
            )
        inside = " + ".join(["1", *map(_quoted, slopes)])
        fixed = [_quoted(name) for name in names if name not in columns]
        return " + ".join([*(fixed or ["1"]), *(f"({inside} | {_quoted(g)})" for g in columns or [own])])

    def _keep_coefficients(self, names: list[str]) -> None:
        """``coef_``, ``intercept_``, ``coef_names_``."""
        fixef = self.fit_.fixef.to_dict()
        self.intercept_ = float(fixef.pop("(Intercept)", 0.0))
        dropped = [name for name in self.fit_.model.design.dropped if name != "(Intercept)"]
        found = fixef | dict.fromkeys(dropped, 0.0)
        order = [n for n in names if n in found] + [n for n in found if n not in names]
        self.coef_names_ = np.array(order, dtype=object)
        self.coef_ = np.array([found[n] for n in order], float)


def _listed(given: Any) -> list[Any]:
    """One column or several, as a list."""
    if given is None:
        return []
    several = isinstance(given, Iterable) and not isinstance(given, str | Mapping)
    return list(given) if several else [given]


def _chosen(argument: str, given: Any, names: list[str]) -> list[str]:
    """Names of columns, of names or numbers.

    Raises:
        ValueError: a column that is not there.
    """
    out = []
    for one in _listed(given):
        number = isinstance(one, int | np.integer) and not isinstance(one, bool)
        if not (number and -len(names) <= one < len(names)) and one not in names:
            raise ValueError(f"{argument}: X has no column {one!r}; it has {', '.join(map(repr, names))}")
        out.append(names[one] if number else one)
    return out


def _free(name: str, taken: list[str]) -> str:
    """The name, with as many underscores as make it one that no column has."""
    while name in taken:
        name += "_"
    return name


def _quoted(name: Hashable) -> str:
    """A name as a formula reads it.

    Raises:
        DataError: one with a back quote.
    """
    if "`" in str(name):
        raise DataError(f"column {name!r} has a back quote in its name: rename it")
    return f"`{name}`"
