"""Emmeans: marginal means, or slopes, with their intervals, and what compares them.

A mean's interval is made on the link scale, by t with the degrees of freedom of its row, and carried back; its standard
error there is by the delta method.  A difference of two means on a scale whose link says so is shown as a ratio
(``links.Link.difference``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm._compiled import Elementwise
from jaxmm._context import computing
from jaxmm.frames import as_backend
from jaxmm.inference import wald
from jaxmm.links import Identity, Link
from jaxmm.means import adjust as adjusting
from jaxmm.means import contrasts as named
from jaxmm.means import joint, plot
from jaxmm.means.comparisons import Comparisons
from jaxmm.means.functions import Functions
from jaxmm.means.printing import level_text, named_level, parts

MOST = 10_000  # contrasts
_inverse = Elementwise(lambda link, eta: link.inverse(eta))
_slope = Elementwise(lambda link, eta: jax.jvp(link.inverse, (eta,), (jnp.ones_like(eta),))[1])


@dataclass(frozen=True, eq=False, repr=False)
class Emmeans(_text.Printed):
    """Marginal means, or slopes, with what compares them; ``Fit.emmeans`` makes one, and print shows it.

    ``frame`` has the levels, ``emmean`` (``trend`` of slopes), ``se``, ``df``, ``lower``, ``upper``; ``header`` and
    ``notes`` say what the numbers are of.

    Example:
        >>> herds.emmeans("period").contrasts("pairwise").frame.shape[0]
        6
    """

    functions: Functions
    levels: pd.DataFrame
    specs: tuple[str, ...]
    by: tuple[str, ...]
    what: str
    link: Link
    scale: str
    level: float
    header: tuple[str, ...]
    notes: tuple[str, ...]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row for each mean, the first of ``specs`` fastest."""
        return self.confint(self.level)

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``frame``. ``backend``: "pandas" or "polars"."""
        return as_backend(self.frame.copy(), backend)

    def confint(self, level: float | None = None) -> pd.DataFrame:
        """``frame`` with intervals of another level."""
        f, level = self.functions, self.level if level is None else level
        ends = np.stack(wald.interval(f.estimate, f.se, level, f.df))
        value, se = f.estimate, f.se
        if self.scale == "response":
            ends = np.sort(self._carried(_inverse, ends), axis=0)
            value, se = self._carried(_inverse, value), np.abs(self._carried(_slope, f.estimate)) * f.se
        out = self.levels.copy()
        out[[self.what, "se", "df", "lower", "upper"]] = np.stack([value, se, f.df, *ends], axis=1)
        return out

    def vcov(self) -> pd.DataFrame:
        """The covariance of the means on the link scale."""
        names = self.labels([*self.specs, *self.by])
        return pd.DataFrame(self.functions.vcov, names, names)

    def _carried(self, program: Elementwise, eta: np.ndarray) -> np.ndarray:
        with computing(jax.local_devices(backend="cpu")[0]):  # a few numbers
            return np.where(np.isnan(eta), np.nan, program(self.link, np.where(np.isnan(eta), 0.5, eta)))

    def regrid(self) -> Emmeans:
        """The means themselves in the place of those on the link scale: contrasts of it are differences of means, with
        standard errors by the delta method."""
        f = self.functions
        slopes_ = self._carried(_slope, f.value)
        functions = f.scaled(np.where(np.isnan(slopes_), 0.0, slopes_), self._carried(_inverse, f.value))
        return replace(self, functions=functions, link=Identity(), scale="response")

    def labels(self, names: Sequence[str]) -> list[str]:
        """The levels of the columns ``names`` in one text for each row; a number has its column's name before it."""
        return [" ".join(named_level(n, v) for n, v in zip(names, row, strict=True)) for row in self._values(names)]

    def _values(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        return list(zip(*(self.levels[n] for n in names), strict=True)) if names else [()] * len(self.levels)

    # ------------------------------------------------------------ comparisons
    def contrasts(
        self, method: Any = "pairwise", *, adjust: str | None = None, ref: Any = None, by: Any = None
    ) -> Comparisons:
        """Contrasts of the means within each group of ``by``.

        Args:
            method: "pairwise", "revpairwise", "trt.vs.ctrl" (against ``ref``, a level or its number; the first unless
                given), "consec", "poly", "eff", a matrix (m, k) in the order of ``frame``, or {name: (k,)}.
            adjust: "tukey", "dunnett", "mvt", "sidak", "scheffe", "holm", "bonferroni", "fdr" or "none", within each
                group; by default what belongs to the method (tukey, dunnett, mvt for "consec", fdr for "eff", none
                else). "dunnett" is emmeans' approximation, "mvt" the distribution itself: see ``means.adjust``.
            by: groups in the place of the means' own.

        Raises:
            ValueError: an unknown method, adjustment or level, or an adjustment that does not suit the method.
        """
        groups = list(self.by) if by is None else [by] if isinstance(by, str) else list(by)
        unknown = [g for g in groups if g not in self.levels]
        if unknown:
            raise ValueError(f"by names {unknown[0]!r}; the means have {', '.join(map(repr, self.levels.columns))}")
        inner = [n for n in (*self.specs, *self.by) if n not in groups]
        labels, keys = np.array(self.labels(inner), dtype=object), self._values(groups)
        ratio = self._ratio
        if len(inner) == 1 and not isinstance(ref, int | None):  # a level as it stands in the data
            ref = next((named_level(n, v) for n in inner for v in self.levels[n] if level_text(v) == str(ref)), ref)
        blocks, rows = [], []
        for key in dict.fromkeys(keys):
            at = np.flatnonzero([k == key for k in keys])
            found = named.contrasts(method, labels[at].tolist(), ratio=bool(ratio), ref=ref)
            C = np.zeros((len(found.C), len(keys)))
            C[:, at] = found.C
            blocks.append((C, found.adjust, len(at)))
            rows += [(*key, name) for name in found.names]
        if len(rows) > MOST:
            raise ValueError(
                f"there would be {len(rows)} contrasts, with as many squared correlations: choose levels by at=, or "
                "compare with one of them (method='trt.vs.ctrl')"
            )
        chosen = blocks[0][1] if adjust is None else adjusting.method(adjust)
        if chosen == "tukey" and not (isinstance(method, str) and method.endswith("pairwise")):
            raise ValueError("adjust='tukey' is for method='pairwise' or 'revpairwise': 'mvt' holds for any contrasts")
        if chosen == "dunnett" and method != "trt.vs.ctrl":
            raise ValueError("adjust='dunnett' is for method='trt.vs.ctrl': 'mvt' holds for any contrasts")
        functions = self.functions.combine(np.concatenate([C for C, *_ in blocks]))
        sizes = tuple((len(C), k) for C, _, k in blocks)
        table = pd.DataFrame(rows, columns=[*groups, "contrast"])[["contrast", *groups]]
        return Comparisons(functions, table, sizes, chosen, ratio, self.level, self._words())

    @property
    def _ratio(self) -> str:
        return self.link.difference if self.scale == "response" and self.link.difference != "difference" else ""

    def _words(self) -> tuple[str, ...]:
        if self.scale == "response" and not self.link.difference:
            return (f"contrasts are on the {self.link.name} scale; .regrid() has differences of the means", *self.notes)
        if self._ratio:
            return (f"{self._ratio}s; tests and intervals are made on the {self.link.name} scale", *self.notes)
        return self.notes

    def joint_tests(self) -> pd.DataFrame:
        """F tests of the main effects and interactions of ``specs`` on these means, in each group of ``by``: ``F``,
        ``num_df``, ``den_df``, ``p``."""
        sizes = [len(dict.fromkeys(self.levels[n])) for n in self.specs]
        found = []
        for chosen in _subsets([n for n, s in zip(self.specs, sizes, strict=True) if s > 1]):
            C = np.ones((1, 1))
            for n, s in zip(self.specs, sizes, strict=True):
                C = np.kron(np.diff(np.eye(s), axis=0) if n in chosen else np.full((1, s), 1 / s), C)
            found += joint.tested(":".join(chosen), self.functions, C, self.levels[list(self.by)])
        return joint.table(found, self.by)

    def plot(self, x: str | None = None, trace: str | None = None, *, arrows: bool = False, ax: Any = None) -> Any:
        """The means with their intervals, a line for each level of ``trace``, a panel for each group of the others.

        Args:
            x, trace: columns of ``frame``: the first and second of ``specs`` and ``by`` unless given.
            arrows: arrows beside the intervals, of which those of two means overlap where their pairwise comparison
                (Tukey) is not significant, as nearly as lengths can be found.
            ax: axes to draw into, where there is one panel.

        Returns:
            The axes, an array of them for several panels.
        """
        half = self._arrows() if arrows else None
        return plot.plot(
            self.frame, (*self.specs, *self.by), self.what, x, trace, half, self._axis_label(), self.header[1:], ax
        )

    def _axis_label(self) -> str:
        return f"{self.header[0].split(':')[0]}, {100 * self.level:g}% interval"

    def _arrows(self) -> np.ndarray:
        if self.scale == "response" and self.link.difference != "difference":
            raise ValueError("arrows=True compares means on the link scale: use scale='link', or .regrid()")
        found = self.contrasts("pairwise")
        return plot.arrow_lengths(self.functions.combine(np.eye(len(self.levels))).se, found.half, found.pairs)

    def _parts(self) -> list[str | _text.Grid]:
        df = np.asarray(self.functions.df)
        by = self.functions.reference.name
        known = df[np.isfinite(df)]
        normal = not len(known) and np.isinf(df).any()
        about = "by the normal distribution" if normal else f"degrees of freedom: {by}"
        end = [f"{100 * self.level:g}% intervals, {about}"]
        if self.scale == "response" and self.link.difference != "difference":
            end[0] += f", made on the {self.link.name} scale"
        return parts(self.header, self.frame, self.by, (*end, *self.notes))


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    out: list[tuple[str, ...]] = [()]
    for n in names:
        out += [(*s, n) for s in out]
    return sorted(out[1:], key=lambda s: (len(s), [names.index(n) for n in s]))
