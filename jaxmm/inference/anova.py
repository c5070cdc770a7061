"""A fit -> the table of F tests of its terms, χ² where no degrees of freedom are counted for estimated variances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._text import Grid, Printed, frame_parts
from jaxmm.design import Design
from jaxmm.inference.ddf import Reference
from jaxmm.inference.hypothesis import NOT_ESTIMABLE, joint
from jaxmm.inference.terms import rows_of_terms, type_number

NONE = "no terms: the fixed part has an intercept at most"
ROMAN = {1: "I", 2: "II", 3: "III"}


class TermTests(Printed, pd.DataFrame):
    """A table with a row for each term; prints what it is, and ``attrs["notes"]`` below it.

    Example:
        >>> fit.anova().index.tolist()
        ['Days']
    """

    @property
    def _constructor(self):
        return pd.DataFrame  # a selection of it is a table like any other

    def _parts(self) -> list[str | Grid]:
        return [self.attrs["heading"], *(frame_parts(self) if len(self) else [NONE]), *self.attrs["notes"]]


def term_tests(design: Design, reference: Reference, kind: Any, chisq: bool, remarks: Sequence[str] = ()) -> TermTests:
    """See ``Fit.anova``; ``chisq``: whether the columns are those of a χ² test."""
    kind, p, k = type_number(kind), len(reference.beta), len(design.columns)
    own_vcov = reference.vcov[:k, :k]
    root = design.X
    if chisq and np.all(np.isfinite(own_vcov)) and k:
        unit = np.sqrt(np.diag(own_vcov))
        root = np.linalg.cholesky(np.linalg.inv(own_vcov / np.outer(unit, unit))).T / unit
    rows, notes, out = rows_of_terms(design, kind, root), [*reference.notes, *remarks], []
    for term, own in rows.items():
        L = np.hstack([own, np.zeros((len(own), p - own.shape[1]))])
        if not len(L):
            notes.append(NOT_ESTIMABLE.format(term))
            out.append((np.nan, 0, np.nan, np.nan))
            continue
        F, df, value = joint(L, 0.0, reference)
        out.append((F, len(L), df, value))
    F, k, df, value = (np.array(column) for column in zip(*out, strict=True)) if out else np.zeros((4, 0))
    columns = {"chisq": F * k, "df": k, "p": value} if chisq else {"F": F, "num_df": k, "den_df": df, "p": value}
    table = TermTests(columns, pd.Index(list(rows), name="term"))
    how = "Wald chi-squared tests" if chisq else f"F tests, degrees of freedom: {reference.name}"
    table.attrs = {"heading": f"Type {ROMAN[kind]} analysis of variance: {how}", "notes": tuple(notes)}
    return table
