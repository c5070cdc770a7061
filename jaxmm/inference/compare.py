"""Nested fits side by side: the likelihood-ratio test.

The statistic is the difference of -2 log-likelihood; its reference distribution chi-squared with as many degrees
of freedom as there are more parameters (Wilks 1938).  Where the smaller model sets a variance to zero the truth lies
on the boundary and the p-value is conservative (Self & Liang 1987).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from jaxmm._text import p_value
from jaxmm.families import Family
from jaxmm.fit import Fit
from jaxmm.inference.wald import Tested


def likelihood_ratio(smaller: Any, larger: Any, df: int) -> Tested:
    """The test of ``df`` restrictions from the deviances with and without them, by maximum likelihood; NaN for p where
    there are none.  Arrays of both will do."""
    chisq = np.maximum(0.0, np.subtract(smaller, larger))
    return Tested(chisq, df, chdtrc(df, chisq) if df > 0 else np.full_like(chisq, np.nan))


class Comparison:
    """The table of ``anova``: ``to_frame()``, with ``notes`` on what was done before comparing."""

    def __init__(self, table: pd.DataFrame, formulas: dict[str, str], notes: tuple[str, ...]):
        self.table, self.formulas, self.notes = table, formulas, notes

    def to_frame(self) -> pd.DataFrame:
        return self.table.copy()

    def __repr__(self) -> str:
        lines = list(self.notes) + [f"{name}: {formula}" for name, formula in self.formulas.items()]
        return "\n".join([*lines, self._shown().to_string(na_rep="", float_format=lambda x: f"{x:.5g}")])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{n}</p>" for n in self.notes)
        return notes + self._shown().to_html(na_rep="", float_format=lambda x: f"{x:.5g}")

    def _shown(self) -> pd.DataFrame:
        return self.table.assign(p=["" if np.isnan(p) else p_value(p, 5) for p in self.table["p"]])


def anova(*fits: Fit) -> Comparison:
    """Compare fits of the same response by likelihood ratio, from the smallest to the largest.

    REML fits are refitted by maximum likelihood first, and the result says so: likelihoods by REML are comparable only
    between models with the same X. Those that have the same are refitted too, as lme4 does by default.

    Returns:
        ``Comparison`` with columns ``npar``, ``aic``, ``bic``, ``loglik``, ``deviance``, ``chisq``, ``df``, ``p``.

    Families may differ where they take the same response, as nbinom2 and poisson do.

    Raises:
        TypeError: something that is not a ``Fit``.
        ValueError: fewer than two fits, or fits to different responses or rows, or of densities beside probabilities.
    """
    if len(fits) < 2:
        raise ValueError("anova compares two fits or more: mm.anova(fit0, fit1)")
    for f in fits:
        if not hasattr(f, "estimates"):
            raise TypeError(f"anova compares jaxmm fits, not {type(f).__name__}")
    for f in fits[1:]:
        _check_data(fits[0], f)
        _check_families(fits[0], f)
    notes = []
    nodes = sorted({f.n_agq for f in fits})
    if len(nodes) > 1:
        notes.append(
            f"likelihoods by {' and '.join(map(str, nodes))} quadrature nodes (1 is Laplace's method): part of the "
            "difference is that of the methods; fit all models with one n_agq"
        )
    if any(f.reml for f in fits):
        notes.append("refitted by maximum likelihood (instead of REML) before comparing")
    used = [f.refit_ml() for f in fits]
    order = sorted(range(len(used)), key=lambda i: (used[i].df, i))
    rows = []
    for k, i in enumerate(order):
        f = used[i]
        row = {"npar": f.df, "aic": f.aic, "bic": f.bic, "loglik": f.loglik, "deviance": f.deviance}
        row |= {"chisq": np.nan, "df": np.nan, "p": np.nan}
        if k:
            before = used[order[k - 1]]
            test = likelihood_ratio(before.deviance, f.deviance, f.df - before.df)
            row |= {"chisq": float(test.statistic), "df": test.df, "p": float(test.p)}
        rows.append(row)
    names = [f"fit{i}" for i in order]
    table = pd.DataFrame(rows, index=names)
    families = {f"fit{i}": f", {used[i].family.name} ({used[i].family.link.name})" for i in order}
    one = len(set(families.values())) == 1
    formulas = {f"fit{i}": used[i].formula + ("" if one else families[f"fit{i}"]) for i in order}
    unconverged = [f"fit{i}" for i in order if not used[i].converged]
    if unconverged:
        notes.append(f"not converged: {', '.join(unconverged)}; the comparison may be wrong")
    return Comparison(table, formulas, tuple(notes))


def _check_data(a: Fit, b: Fit) -> None:
    """Raises ValueError where two fits are not of the same rows, responses and weights."""
    first, d = a.model.design, b.model.design
    if len(d.y) == len(first.y) and not np.array_equal(d.y, first.y):
        raise ValueError(
            f"the fits are to different responses, or to the same rows in another order ({first.response!r} and "
            f"{d.response!r}): fit all models to one table"
        )
    if len(d.y) != len(first.y):
        raise ValueError(
            f"the fits are to different data: {len(first.y)} rows of {first.response!r} and {len(d.y)} of "
            f"{d.response!r}; drop the rows with missing values before fitting, so that all models use the same"
        )
    if not _same(d.weights, first.weights):
        raise ValueError("the fits have different weights: their likelihoods cannot be compared")


def _check_families(a: Fit, b: Fit) -> None:
    """Raises ValueError where two likelihoods are not of the same data, or not of the same kind."""
    ours, theirs = a.model.design.trials, b.model.design.trials
    if not _same(ours, theirs):
        if ours is not None and theirs is not None:
            raise ValueError("the fits have different numbers of trials: their likelihoods cannot be compared")
        raise ValueError(
            f"the fits are to different responses: {a.family.name} and {b.family.name}, one of which counts successes "
            "among trials; their likelihoods cannot be compared"
        )
    if _is_discrete(a.family) != _is_discrete(b.family):
        raise ValueError(
            f"{a.family.name} and {b.family.name}: a likelihood of probabilities and one of densities cannot be "
            "compared"
        )


def _is_discrete(family: Family) -> bool:
    return not np.all(family.valid(np.array([0.5])))


def _same(a, b) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
