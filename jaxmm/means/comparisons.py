"""Contrasts of marginal means: estimates, tests and intervals, adjusted within each group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm.frames import as_backend
from jaxmm.inference import wald
from jaxmm.means import adjust as adjusting
from jaxmm.means import joint
from jaxmm.means.functions import NOT_ESTIMABLE, Functions, correlation
from jaxmm.means.printing import parts


@dataclass(frozen=True, eq=False, repr=False)
class Comparisons(_text.Printed):
    """Contrasts of means: ``frame`` has ``contrast``, the columns of by, ``estimate``, ``se``, ``df``, ``statistic``,
    ``p``, adjusted within each group; ratios where ``ratio`` names one, with the test of 1 made on the link scale."""

    functions: Functions
    table: Any
    sizes: tuple[tuple[int, int], ...]
    adjust: str
    ratio: str
    level: float
    notes: tuple[str, ...]

    @cached_property
    def families(self) -> list[adjusting.Family]:
        """What is adjusted together."""
        f, out, at = self.functions, [], 0
        t = wald.each(f.estimate, f.se, f.df).statistic
        for m, k in self.sizes:
            own = slice(at, at + m)
            out.append(adjusting.Family(t[own], f.df[own], k, correlation(f.vcov[own, own])))
            at += m
        return out

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row for each contrast."""
        f = self.functions
        p = np.concatenate([adjusting.p_values(x, self.adjust) for x in self.families])
        value, se = self._shown()
        t = np.concatenate([x.t for x in self.families])
        return self.table.assign(estimate=value, se=se, df=f.df, statistic=t, p=p)

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``frame``. ``backend``: "pandas" or "polars"."""
        return as_backend(self.frame.copy(), backend)

    def _shown(self) -> tuple[np.ndarray, np.ndarray]:
        f = self.functions
        if not self.ratio:
            return f.estimate, f.se
        return np.exp(f.estimate), np.exp(f.estimate) * f.se

    @cached_property
    def half(self) -> np.ndarray:
        """(m,) half the widths of the adjusted intervals, on the scale of the test."""
        return self._half(self.level)

    def _half(self, level: float) -> np.ndarray:
        wald.check_level(level)
        return np.concatenate([adjusting.critical(x, self.adjust, level) for x in self.families]) * self.functions.se

    @property
    def pairs(self) -> np.ndarray:
        """(m, 2) the rows compared, of pairwise contrasts over all groups; ends of each contrast in its group."""
        out, at = [], 0
        for m, k in self.sizes:
            out.append(at + np.stack(np.triu_indices(k, 1), axis=1)[:m])
            at += k
        return np.concatenate(out)

    def confint(self, level: float | None = None) -> pd.DataFrame:
        """``contrast``, ``estimate``, ``se``, ``df``, ``lower``, ``upper``: intervals that hold together in each group,
        by the adjustment; Bonferroni's where it has none of its own ("holm", "fdr")."""
        level = self.level if level is None else level
        half, f = self._half(level), self.functions
        lower, upper = f.estimate - half, f.estimate + half
        if self.ratio:
            lower, upper = np.exp(lower), np.exp(upper)
        value, se = self._shown()
        return self.table.assign(estimate=value, se=se, df=f.df, lower=lower, upper=upper)

    @property
    def error(self) -> float:
        """The largest standard error of the p-values: of the quasi-Monte Carlo of "mvt", 0 of the others."""
        return max(adjusting.error(x, self.adjust) for x in self.families)

    def joint(self) -> joint.Joint:
        """F of all contrasts at once."""
        return joint.test(self.functions)

    def __getitem__(self, key: Any) -> Any:
        return self.frame[key]

    def __len__(self) -> int:
        return len(self.table)

    def _parts(self) -> list[str | _text.Grid]:
        if not len(self):
            return ["nothing to compare: there is one mean"]
        m, k = adjusting.counted(self.families[0]), self.sizes[0][1]
        several, of = (k > 2, f"{k} means") if self.adjust == "tukey" else (m > 1, f"{m} contrasts")
        words = [f"p adjusted by {self.adjust}, a family of {of}"] if self.adjust != "none" and several else []
        if self.adjust == "mvt":
            words[-1:] = [f"{w}; standard error of the p-values {self.error:.1g}" for w in words[-1:]]
        if self.functions.untold:
            words.append(NOT_ESTIMABLE)
        groups = [c for c in self.table.columns if c != "contrast"]
        frame = self.frame.rename(columns={"estimate": self.ratio}) if self.ratio else self.frame
        notes = [n for n in self.notes if n != NOT_ESTIMABLE]
        return parts((), frame, groups, (*words, *notes))
