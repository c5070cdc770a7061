"""A fit of jaxmm for the package marginaleffects: predictions, comparisons and slopes of the population mean.

    from jaxmm_marginaleffects import adapter
    marginaleffects.avg_slopes(adapter(fit, data), variables="Days")

This file is no part of the package jaxmm, nothing in jaxmm imports it, and jaxmm does not depend on marginaleffects. It
subclasses a class of marginaleffects, which its authors license under the GPL, version 3 or later: whoever distributes
this file together with that package follows its licence. The file holds no code of theirs and is licensed as jaxmm is.
To use it, copy it beside your program, or put this folder on Python's path.

What is predicted is g⁻¹(Xβ + offset), the mean at b = 0: of a linear model the mean of the population; of a generalised
one that of a typical level, which is not the average over levels (``Fit.predict(re="marginal")``, and
``Fit.emmeans(integrate=True)``, are). Errors are by the delta method from the covariance of β̂ alone, with the normal
distribution; marginaleffects takes derivatives by finite differences.

Tried with marginaleffects 0.6.0, whose comparisons of factors need polars below 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from marginaleffects.classes.model import ModelAbstract, ModelVault

from jaxmm import Fit
from jaxmm.frames import as_backend
from jaxmm.predict import on_scale

SCALES = ("response", "link")


class JaxmmModel(ModelAbstract):
    """The protocol that marginaleffects asks a model for; ``adapter`` makes one."""

    def __init__(self, fit: Fit, data: Any, scale: str, vcov: np.ndarray):
        self.fit, self.scale = fit, scale
        design = fit.model.design
        vault = ModelVault(
            coef=fit.fixef.to_numpy(),
            coefnames=np.array(design.columns),
            vcov=vcov,
            modeldata=data,
            variable_names=[str(design.response), *design.spec.seen.columns],
            package="jaxmm",
            formula=self._matrices,  # pyright: ignore  # a function: then no formula is parsed
        )
        super().__init__(fit, vault)

    def validation(self) -> None:
        """What is taken from the model once, at the start: here all of it is known to be right."""
        self.coef, self.response_name, self.formula = self.vault.coef, self.vault.variable_names[0], self.vault.formula
        self.vault.variables_type = {column.name: _kind(column) for column in self.vault.modeldata}

    def _matrices(self, newdata: pl.DataFrame) -> tuple[None, np.ndarray]:
        return None, self.get_exog(newdata)

    def get_exog(self, newdata: pl.DataFrame) -> np.ndarray:
        """(m, p + 1) X of new rows, and their offset as the last column."""
        rows = self.fit.model.design.evaluate(newdata, need_groups=False)
        return np.column_stack([rows.X, rows.offset])

    def get_predict(self, params: np.ndarray, newdata: np.ndarray) -> pl.DataFrame:
        """The mean, or the linear predictor, at other coefficients."""
        eta = newdata[:, :-1] @ np.asarray(params) + newdata[:, -1]
        mean = on_scale(self.fit, {"mu": eta}, self.scale)
        return pl.DataFrame({"rowid": np.arange(len(eta), dtype=np.int32), "estimate": np.asarray(mean)})


def adapter(fit: Fit, data: Any, scale: str = "response", vcov: Any = None, cluster: Any = None) -> JaxmmModel:
    """A fit as marginaleffects takes a model.

    Args:
        fit: from ``lmm`` or ``glmm``, with a formula.
        data: the table of the fit, pandas or polars; rows that the fit left out are left out.
        scale: "response", or "link" for the linear predictor.
        vcov, cluster: a covariance of the coefficients, as in ``Fit.coef_table``: "CR2", a matrix.

    Raises:
        TypeError: no fit.
        ValueError: a fit from arrays, one whose mean has a predictor beside the first (zero inflation), an unknown
            scale, or a table of other rows than the fit's.

    Example:
        >>> marginaleffects.avg_slopes(adapter(fit, sleepstudy), variables="Days")
    """
    if not isinstance(fit, Fit):
        raise TypeError(f"fit must be a jaxmm.Fit, not {type(fit).__name__}")
    if fit.model.design.spec is None:
        raise ValueError("the fit was made from arrays: marginaleffects needs the columns of a formula")
    if fit.family.further and scale == "response":
        raise ValueError("the mean depends on further predictors (zero inflation): only scale='link' can be had")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}, not {scale!r}")
    p = len(fit.fixef)
    V = np.asarray(fit.reference(None, vcov, cluster).vcov)[:p, :p]
    return JaxmmModel(fit, _rows(fit, data), scale, V)


def _kind(column: pl.Series) -> str:
    """The type of a variable, in the words of marginaleffects."""
    if column.dtype.is_numeric():
        if set(column.unique()) <= {0, 1}:
            return "binary"
        return "integer" if column.dtype.is_integer() else "numeric"
    return "boolean" if column.dtype == pl.Boolean else "character"


def _rows(fit: Fit, data: Any) -> pl.DataFrame:
    """The rows that the fit used, with texts as categories in the order of the fit's levels."""
    index = fit.model.design.index
    if isinstance(data, pl.DataFrame):
        data = pd.DataFrame({c: data[c].to_list() for c in data.columns})
    if len(data) != len(index):
        data = data.loc[index] if index.isin(data.index).all() else data
    if len(data) != len(index):
        raise ValueError(f"data has {len(data)} rows and the fit used {len(index)}: give the table that was fitted")
    table = as_backend(data.reset_index(drop=True), "polars")
    levels = {n: c.labels for n, c in fit.model.design.spec.seen.columns.items() if c.labels is not None}
    casts = [
        pl.col(name).cast(pl.String).cast(pl.Enum([str(v) for v in labels]))
        for name, labels in levels.items()
        if table[name].dtype != pl.Boolean
    ]
    others = [pl.col(n).cast(pl.Categorical) for n, t in table.schema.items() if t == pl.String and n not in levels]
    return table.with_columns(*casts, *others)
