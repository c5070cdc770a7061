"""Completed data sets of one trial, as an array and as tables; and the same with what is imputed moved, for tipping
points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._text import Grid, Printed
from jaxmm.design.columns import row_text
from jaxmm.results.result import FitBatch

WORDS = {
    "mar": "missing at random",
    "j2r": "jump to reference",
    "cir": "copy increments in reference",
    "cr": "copy reference",
}


@dataclass(frozen=True, eq=False, repr=False)
class Imputed(Printed):
    """What ``impute_reference`` gives: n completed data sets; iterate over them for tables.

    Attributes:
        Y: (n, m) the completed responses, in the order of the m rows of the table: what ``fit_many`` takes.
        data: the table as it was given.
        response: the name of the column that was completed.
        missing: (m,) whether a row was imputed.
        after: (m,) whether it was, after the last visit at which its subject was seen.
        arms: (m,) the arm of each row.
        reference: the reference arm.
        method: the rule.
        parameters: the fits whose estimates the data sets were drawn from, one each.

    Example:
        >>> data = mm.datasets.load("sleepstudy").query("Days < 3")
        >>> data["arm"] = np.where(data["Subject"].astype(int) % 2 == 0, "a", "b")
        >>> data.iloc[[5, 8], 0] = np.nan
        >>> mmrm = mm.lmm("Reaction ~ arm * factor(Days)", data, residual="homcs(Days | Subject)")
        >>> found = mm.impute_reference(mmrm, data, arm="arm", reference="a", n=4, key=1, progress=False)
        >>> found.Y.shape, int(found.missing.sum()), len(found)
        ((4, 54), 2, 4)
        >>> moved = found.shift(-10.0)
        >>> float((moved.Y - found.Y).min().round(6))
        -10.0
    """

    Y: np.ndarray
    data: pd.DataFrame
    response: str
    missing: np.ndarray
    after: np.ndarray
    arms: np.ndarray
    reference: Any
    method: str
    parameters: FitBatch

    def __len__(self) -> int:
        return len(self.Y)

    def __getitem__(self, k: int) -> pd.DataFrame:
        return self.data.assign(**{self.response: self.Y[k]})

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return (self[k] for k in range(len(self)))

    def shift(self, delta: Any) -> Imputed:
        """The same data sets with ``delta`` added to what was imputed after a subject had left.

        Args:
            delta: a number, for all arms but the reference; arm -> number, the others being left alone; or (m,) a
                number for each row, of which those of rows that were seen, or missed before others, count nowhere.

        Raises:
            ValueError: an unknown arm, numbers that are not finite, another length.
        """
        m = len(self.missing)
        if isinstance(delta, Mapping):
            unknown = [name for name in delta if not (self.arms == name).any()]
            if unknown:
                has = ", ".join(row_text(a) for a in pd.unique(self.arms))
                raise ValueError(f"delta names the arm {row_text(unknown[0])}; there are {has}")
            added: Any = np.zeros(m)
            for name, value in delta.items():
                added = np.where(self.arms == name, value, added)
        elif np.ndim(delta) == 0:
            added = np.where(self.arms != self.reference, delta, 0.0)
        else:
            added = np.asarray(delta, float)
        if added.shape != (m,) or not np.all(np.isfinite(added)):
            raise ValueError(f"delta must be a finite number, arm -> number, or one number for each of {m} rows")
        return replace(self, Y=self.Y + np.where(self.after, added, 0.0))

    def _parts(self) -> list[str | Grid]:
        counts = [f"{np.sum(self.missing & (self.arms == a))} of {a}" for a in pd.unique(self.arms)]
        return [
            f"{len(self)} imputations of {self.response}: {WORDS[self.method]}, reference {self.reference!r}",
            f"{int(self.missing.sum())} of {len(self.missing)} rows are imputed ({', '.join(counts)}), "
            f"{int(self.after.sum())} of them after the last visit seen",
        ]
