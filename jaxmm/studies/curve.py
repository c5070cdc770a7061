"""PowerCurve: the power at several sizes, as a table, a picture, and the smallest size that is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmm._axes import FONT, HEIGHT, POPULATION, SEVERAL, WIDTH, labelled, pyplot
from jaxmm._text import Grid, Printed
from jaxmm.frames import as_backend
from jaxmm.studies.hypotheses import Columns
from jaxmm.studies.smallest import Size, fit_curve, smallest_size
from jaxmm.studies.study_result import with_error
from jaxmm.studies.surface import PowerSurface, Terms, fit_surface


class Point(NamedTuple):
    """One size: its ``Power.table`` and ``rates``, p-values by (test, columns), rows of the design, and the study's
    notes."""

    sizes: dict[str, int]
    table: pd.DataFrame
    rates: pd.DataFrame
    p_values: Mapping[tuple[str, Columns], np.ndarray]
    nobs: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class PowerCurve(Printed):
    """What ``power_curve`` found: ``table``, ``smallest``, ``to_frame()``, ``plot()``; print it.

    Attributes:
        points: the sizes, each with its tables and p-values.
        n: responses at each size.
        target: the power wanted.
        alpha: a test rejects where p <= alpha.
        level: of the intervals.

    Example:
        >>> curve = mm.power_curve(fit, n=4, along={"Subject": [9, 18]}, key=1, test="Days", progress=False)
        >>> curve.factors, curve.smallest["coef"].tolist()
        (['Subject'], ['Days'])
    """

    points: Sequence[Point]
    n: int
    target: float
    alpha: float
    level: float

    @property
    def factors(self) -> list[str]:
        """What varies; the curves run along the first."""
        return list(self.points[0].sizes)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per size and test: the sizes, ``nobs``, ``test``, ``coef``, ``truth``, ``power`` with its error and
        exact interval, ``smooth`` (the curve there; see ``studies.smallest``), ``n`` p-values, the share of fits that
        are ``singular`` and ``not_converged``."""
        smooth = {}
        for group in self._groups():
            curve = group.curve(self.alpha)
            values = np.full(len(group.sizes), np.nan) if curve is None else curve.power(group.sizes)
            smooth |= {(k, group.test): v for k, v in zip(group.places, values, strict=True)}
        rows = []
        for k, point in enumerate(self.points):
            full = point.rates.loc["full"]
            for test, row in zip(point.p_values, point.table.to_dict("records"), strict=True):
                rows.append(
                    {
                        **point.sizes,
                        "nobs": point.nobs,
                        "test": row["test"],
                        "coef": row["coef"],
                        "truth": row["truth"],
                        "power": row["rate"],
                        "power_mc": row["rate_mc"],
                        "lower": row["lower"],
                        "upper": row["upper"],
                        "smooth": smooth[k, test],
                        "n": row["n"],
                        "singular": full["singular"],
                        "not_converged": full["not_converged"],
                    }
                )
        return pd.DataFrame(rows)

    @cached_property
    def smallest(self) -> pd.DataFrame:
        """A row per test, and per combination of the other factors' sizes: the smallest ``size`` of the first factor
        that reaches the target, its interval ``lower`` to ``upper``, ``by`` what it was found (see
        ``studies.smallest``), and a ``note`` where there is none."""
        rows = []
        for group in self._groups():
            rejected = group.rejected(self.alpha)
            found = Size.none("not known: at some size no fit gave a p-value")
            if np.isfinite(rejected).any(axis=0).all():
                found = smallest_size(group.sizes, rejected, len(group.test[1]), self.alpha, self.target, self.level)
            rows.append({"test": group.test[0], "coef": ", ".join(group.test[1]), **group.others, **found._asdict()})
        return pd.DataFrame(rows)

    def smooth(self, coef: str | None = None, *, terms: Terms | None = None) -> PowerSurface:
        """The power as a smooth function of all sizes, with its Monte-Carlo error: ``at``, ``gradient``, ``smallest``,
        ``plot``; see ``studies.surface``.

        Args:
            coef: of which test, the coefficient (several separated by commas, as in ``table``); the only one where
                None.
            terms: sizes -> a list of the terms whose sum is the variance of the estimate, written so that it takes
                numbers and arrays: ``lambda s: [1 / s["cluster"], s["icc"] / s["cluster"]]``. By default 1 over every
                product of the sizes, and 1.

        Raises:
            ValueError: a coefficient that was not tested, or none named where several were; fewer sizes than terms; the
                same power everywhere.

        Westfall, Kenny & Judd (2014), J. Exp. Psychol. Gen. 143, 2020-2045, on the variance.
        """
        tests = {", ".join(columns): (name, columns) for name, columns in self.points[0].p_values}
        if (coef is None and len(tests) > 1) or (coef is not None and coef not in tests):
            raise ValueError(f"name the coefficient of the surface, one of {', '.join(map(repr, tests))}, not {coef!r}")
        test = tests[coef or next(iter(tests))]
        p = np.column_stack([point.p_values[test] for point in self.points])
        rejected = np.where(np.isfinite(p), p <= self.alpha, np.nan)
        return fit_surface(test, [point.sizes for point in self.points], rejected, terms, self.alpha, self.level)

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``table``. ``backend``: "pandas" or "polars"."""
        return as_backend(self.table.copy(), backend, "test")

    def _groups(self) -> list[_Group]:
        """The points along the first factor, for each test and combination of the other sizes."""
        first, *others = self.factors
        found: dict[tuple, _Group] = {}
        for k, point in enumerate(self.points):
            fixed = {name: point.sizes[name] for name in others}
            for test, p in point.p_values.items():
                group = found.setdefault((test, *fixed.values()), _Group(test, fixed, [], [], []))
                group.places.append(k)
                group.along.append(point.sizes[first])
                group.p.append(p)
        return list(found.values())

    # ------------------------------------------------------------ print and draw
    def _parts(self) -> list[str | Grid]:
        first = self.factors[0]
        header = [*self.factors, "rows", "test", "coefficient", "power", f"{100 * self.level:g}% interval", "smooth",
                  "singular", "not converged"]  # fmt: skip
        rows = [header]
        for row in self.table.to_dict("records"):
            share = with_error(100 * row["power"], 100 * row["power_mc"], "%")
            between = f"{100 * row['lower']:.1f}-{100 * row['upper']:.1f}%"
            smooth = "" if np.isnan(row["smooth"]) else f"{100 * row['smooth']:.1f}%"
            sizes = [f"{row[name]:,}" for name in self.factors]
            rows.append([*sizes, f"{row['nobs']:,}", row["test"], row["coef"], share, between, smooth,
                         f"{100 * row['singular']:.1f}%", f"{100 * row['not_converged']:.1f}%"])  # fmt: skip
        right = [True] * (len(self.factors) + 1) + [False, False] + [True] * 5
        parts: list[str | Grid] = [
            f"Power over {' and '.join(self.factors)}: {self.n:,} responses at each size, p <= {self.alpha:g}",
            "",
        ]
        parts += [Grid(rows, right, names=len(self.factors) + 3), *self._notes(), ""]
        for row in self.smallest.to_dict("records"):
            where = "".join(f", {name} = {row[name]}" for name in self.factors[1:])
            what = f"{row['coef']} ({row['test']}{where})"
            if row["note"]:
                parts.append(f"{what}: a power of {row['note']}")
                continue
            how = "" if row["by"] == "curve" else ", the nearest sizes tried"
            interval = f"{100 * self.level:g}% interval {row['lower']:,.0f} to {row['upper']:,.0f}"
            parts.append(f"{what}: a power of {self.target:g} needs {first} = {row['size']:,.0f} ({interval}{how})")
        return parts

    def _notes(self) -> list[str]:
        """The notes of the smallest size that has one stand for all."""
        noted = [p for p in self.points if p.notes]
        if not noted:
            return []
        where = ", ".join(f"{name} = {size}" for name, size in noted[0].sizes.items())
        more = f" (and at {len(noted) - 1} more of the sizes)" if len(noted) > 1 else ""
        return [f"at {where}{more}: {note}" for note in noted[0].notes]

    def plot(self, ax: Any = None) -> Any:
        """The power over the sizes of the first factor with exact intervals, the smooth curves, the target, and a band:
        the interval of the smallest size that reaches it.

        Args:
            ax: the axes to draw into.

        Returns:
            The axes.

        Raises:
            ImportError: without matplotlib.
        """
        plt = pyplot()
        from matplotlib.ticker import MaxNLocator

        if ax is None:
            _, ax = plt.subplots(figsize=(WIDTH, HEIGHT + 0.6), layout="constrained")
        groups = self._groups()
        for k, (group, found) in enumerate(zip(groups, self.smallest.to_dict("records"), strict=True)):
            self._draw(ax, group, found, SEVERAL[k % len(SEVERAL)])
        ax.axhline(self.target, color=POPULATION, lw=0.8, ls=(0, (4, 2)), label=f"target {self.target:g}")
        ax.set_ylim(0, 1.02)
        ax.xaxis.set_major_locator(
            MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10])
        )  # there is no half a subject
        labelled(ax, "", f"levels of {self.factors[0]}", f"power, the share of p ≤ {self.alpha:g}")
        ax.legend(frameon=False, fontsize=FONT - 1, loc="lower center", bbox_to_anchor=(0.45, 1.0))
        return ax

    def _draw(self, ax: Any, group: _Group, found: dict, colour: str) -> None:
        table = self.table
        keep = (table["test"] == group.test[0]) & (table["coef"] == ", ".join(group.test[1]))
        for name, size in group.others.items():
            keep &= table[name] == size
        rows = table.loc[keep].sort_values(by=[self.factors[0]])
        x, y = rows[self.factors[0]].to_numpy(), rows["power"].to_numpy()
        others = "".join(f", {name} = {size}" for name, size in group.others.items())
        label = f"{', '.join(group.test[1])}, {group.test[0]}{others}"
        ax.errorbar(x, y, [y - rows["lower"], rows["upper"] - y], fmt="o", color=colour, ms=4, capsize=3, label=label)
        curve = group.curve(self.alpha)
        if curve is not None:
            fine = np.geomspace(x.min(), x.max(), 200)
            ax.plot(fine, curve.power(fine), color=colour, lw=1.2)
        if not found["note"]:
            interval = f"{100 * self.level:g}% interval of the size needed, {found['size']:,.0f}"
            ax.axvspan(found["lower"], found["upper"], color=colour, alpha=0.12, lw=0, label=interval)
            ax.plot([found["size"]] * 2, [0, self.target], color=colour, lw=1.0, ls=(0, (1, 2)))


class _Group(NamedTuple):
    """The points of one curve."""

    test: tuple[str, Columns]
    others: dict[str, int]
    places: list[int]
    along: list[int]
    p: list[np.ndarray]

    @property
    def sizes(self) -> np.ndarray:
        return np.array(self.along, float)

    def rejected(self, alpha: float) -> np.ndarray:
        """(n, sizes) 1, 0, or NaN."""
        p = np.column_stack(self.p)
        return np.where(np.isfinite(p), p <= alpha, np.nan)

    def curve(self, alpha: float) -> Any:
        rejected = self.rejected(alpha)
        if not np.isfinite(rejected).any(axis=0).all():
            return None
        return fit_curve(self.sizes, rejected, len(self.test[1]), alpha)
