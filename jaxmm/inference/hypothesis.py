"""Lβ = value -> t of each row, F of all of them; z and χ² where no degrees of freedom are counted.

    F = s χ² / k,    χ² = (Lβ̂ − value)' (L V L')⁻¹ (Lβ̂ − value)

with V, the scale s and the denominator's degrees of freedom from the ``ddf.Reference``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._text import Grid, Printed, frame_parts, number_text, p_value
from jaxmm.inference import wald
from jaxmm.inference.ddf import Reference
from jaxmm.inference.restrictions import Restrictions

NOT_ESTIMABLE = "the data do not tell {}: its columns follow from others"
NO_ERROR = "{}: a standard error of zero, and no test"


@dataclass(frozen=True, eq=False, repr=False)
class LinearTest(Printed):
    """A test of Lβ = value.  ``frame``: a row each, ``estimate`` (Lβ̂), ``value``, ``se``, ``df``, ``statistic``, ``p``;
    ``F``, ``num_df``, ``den_df`` and ``p`` of all rows together, ``chisq`` = s χ²; ``notes``.

    Example:
        >>> fit.test("Days = 10").frame[["estimate", "value"]].round(2).to_numpy().tolist()
        [[10.47, 10.0]]
    """

    frame: pd.DataFrame
    F: float
    num_df: int
    den_df: float
    p: float
    method: str
    notes: tuple[str, ...] = ()

    @property
    def chisq(self) -> float:
        """s χ² of all s rows together, F times its numerator's degrees of freedom."""
        return self.F * self.num_df

    def _parts(self) -> list[str | Grid]:
        named = "z" if np.isinf(self.frame["df"]).all() else "t"
        shown = self.frame.rename(columns={"statistic": named})
        if np.isinf(self.den_df):
            joint = f"chi-squared = {number_text(self.chisq, '.5g')} on {self.num_df} df, p = {p_value(self.p)}"
        else:
            F, den_df = (number_text(x, ".5g") for x in (self.F, self.den_df))
            joint = f"F = {F} on {self.num_df} and {den_df} df, p = {p_value(self.p)}"
        return [f"Test of linear hypotheses ({self.method})", *frame_parts(shown), "", joint, *self.notes]


def joint(L: np.ndarray, value: Any, reference: Reference) -> tuple[float, float, float]:
    """F of independent rows (k, p), its denominator's degrees of freedom, and p; all NaN where there is none."""
    k = len(L)
    chisq = float(wald.together(L, reference.beta, reference.vcov, value).statistic)
    scale, df = reference.denominator(L)
    F = scale * chisq / k
    return F, df, float(wald.ratio(k * F, k, df))


def linear_test(asked: Restrictions, reference: Reference, remarks: Sequence[str] = ()) -> LinearTest:
    """Of what the user wrote; NaN with the reason in ``notes`` where the data do not tell it.

    Raises:
        ValueError: rows of which one follows from the others.
    """
    L, known, notes = asked.L, asked.known, [*reference.notes, *remarks]
    estimate = L @ reference.beta
    se, df = np.sqrt(np.maximum(wald.variances(L, reference.vcov), 0.0)), reference.df(L)
    for column in (estimate, se, df):
        column[~known] = np.nan
    notes += [NO_ERROR.format(label) for label, none in zip(asked.labels, se == 0, strict=True) if none]
    t = wald.each(estimate - asked.value, se, df)
    columns = {"estimate": estimate, "value": asked.value, "se": se, "df": df, "statistic": t.statistic, "p": t.p}
    frame = pd.DataFrame(columns, list(asked.labels))
    if known.all():
        F, den_df, p = joint(L, asked.value, reference)
    else:
        notes += [NOT_ESTIMABLE.format(label) for label, told in zip(asked.labels, known, strict=True) if not told]
        F, den_df, p = np.nan, np.nan, np.nan
    return LinearTest(frame, F, len(L), den_df, p, reference.name, tuple(notes))
