"""The power over a grid of sizes -> a smooth surface with its Monte-Carlo error, its slope, the sizes that are enough.

What ``smallest`` has of one size holds of several: in a balanced design the variance of an estimate is a sum of parts
that shrink with some of the sizes, of subjects × items, say,

    u = A + B / N₁ + C / N₂ + D / (N₁ N₂)   in units of the squared effect,      π = P(χ²_k(1/u) > c)

(Westfall, Kenny & Judd 2014, J. Exp. Psychol. Gen. 143, 2020-2045, of crossed factors).  The coefficients maximise the
binomial likelihood of the rejections at all points of the grid; their covariance counts the random numbers that the
points have in common.  An interval of π is one of log u, carried over; the slope is dπ/du ∂u/∂N.  Other terms, of any
number that a design depends on, may be given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.optimize import brentq, nnls
from scipy.special import chdtrc

from jaxmm._axes import FONT, HEIGHT, POPULATION, WIDTH, labelled, pyplot
from jaxmm._context import check_not_forked
from jaxmm._text import Grid, Printed, number_text, p_value
from jaxmm.inference.wald import quantile
from jaxmm.studies.hypotheses import Columns
from jaxmm.studies.smallest import MISFIT, counted, inverse_power, maximised, power_at

Terms = Callable[[Mapping[str, Any]], Sequence[Any]]
HIGHEST = 1e7  # of a size that is sought


def reciprocal_terms(names: Sequence[str]) -> tuple[Terms, list[str]]:
    """1, and 1 over the products of every set of the sizes; what they are called."""
    sets = [s for k in range(len(names) + 1) for s in combinations(names, k)]

    def terms(sizes: Mapping[str, Any]) -> list[Any]:
        out = []
        for s in sets:
            product: Any = 1.0
            for name in s:
                product = product * sizes[name]
            out.append(1.0 / product)
        return out

    named = ["1" if not s else "1/" + (f"({' '.join(s)})" if len(s) > 1 else s[0]) for s in map(list, sets)]
    return terms, named


@dataclass(frozen=True, eq=False, repr=False)
class PowerSurface(Printed):
    """The power of one test as a smooth function of the sizes; ``PowerCurve.smooth`` makes it.

    Attributes:
        test: its name and the coefficients that it tests.
        ranges: size -> the smallest and largest that were tried.
        terms: sizes -> the terms of u, of NumPy or JAX.
        names: what the terms are called.
        coefficients: (t,) of the terms.
        covariance: (t, t) their Monte-Carlo covariance.
        alpha: a test rejects where p <= alpha.
        level: of the intervals.
        misfit: the p-value of Pearson's X² of the rates about the surface; NaN where no degrees of freedom are left.

    Example:
        >>> sizes = {"Subject": [6, 9, 12], "repeats": [1, 2]}
        >>> curve = mm.power_curve(fit, n=20, along=sizes, key=1, test="Days", effects={"Days": 5.0}, progress=False)
        >>> surface = curve.smooth()
        >>> list(surface.gradient(Subject=10, repeats=1).index), surface.at(Subject=[8, 10], repeats=1).shape
        (['Subject', 'repeats'], (2, 7))
    """

    test: tuple[str, Columns]
    ranges: dict[str, tuple[float, float]]
    terms: Terms
    names: list[str]
    coefficients: np.ndarray
    covariance: np.ndarray
    alpha: float
    level: float
    misfit: float

    @property
    def df(self) -> int:
        """Coefficients that are tested together."""
        return len(self.test[1])

    def at(self, **sizes: Any) -> pd.DataFrame:
        """A row per size: the sizes, ``power`` with its Monte-Carlo error ``power_mc`` and interval, and ``outside``:
        whether a size lies beyond those that were tried. NaN where the surface says nothing, u <= 0.

        Args:
            sizes: every one by its name, numbers or arrays of one length.

        Raises:
            ValueError: a size that is not there, lacking, or not above zero.

        ``surface.at(subject=[30, 40], item=20)``
        """
        own = self._sizes(sizes)
        x = self._matrix(own)
        u = x @ self.coefficients
        u = np.where(u > 0, u, np.nan)
        relative = np.sqrt(np.maximum(np.einsum("st,tv,sv->s", x, self.covariance, x), 0.0)) / u
        q = quantile(self.level)
        with np.errstate(invalid="ignore"):
            power, slope = power_at(u, self.df, self.alpha)
            lower, upper = (power_at(u * np.exp(sign * q * relative), self.df, self.alpha)[0] for sign in (1, -1))
        outside = np.any([(v < self.ranges[k][0]) | (v > self.ranges[k][1]) for k, v in own.items()], axis=0)
        columns = {"power": power, "power_mc": -slope * u * relative, "lower": lower, "upper": upper}
        return pd.DataFrame({**own, **columns, "outside": outside})

    def gradient(self, **sizes: float) -> pd.Series:
        """How fast the power grows with each size there: ∂π/∂N.

        Args:
            sizes: as in ``at``, a number each.

        Raises:
            ValueError: as ``at``; several numbers of a size; where the surface says nothing.
        """
        own = {name: float(x[0]) for name, x in self._sizes(sizes).items() if len(x) == 1}
        if len(own) < len(self.ranges):
            raise ValueError("gradient is at one point: give one number for each size")
        check_not_forked()
        with jax.enable_x64(True):
            found = jax.grad(
                lambda s: jnp.dot(jnp.stack([jnp.asarray(t, float) for t in self.terms(s)]), self.coefficients)
            )(own)
        u = float((self._matrix({k: np.array([v]) for k, v in own.items()}) @ self.coefficients)[0])
        if not u > 0:
            raise ValueError(f"the surface says nothing at {own}: it lies too far from the sizes that were tried")
        slope = float(power_at(np.array([u]), self.df, self.alpha)[1][0])
        return pd.Series({name: slope * float(found[name]) for name in self.ranges}, name="gradient")

    def smallest(self, power: float = 0.8, **fixed: float) -> pd.Series:
        """The smallest whole number of the one size that is not ``fixed`` at which the power is reached: ``size``, its
        interval ``lower`` to ``upper`` from the Monte-Carlo error, and ``outside``: beyond the sizes that were tried.

        Args:
            power: that is wanted.
            fixed: the other sizes.

        Raises:
            ValueError: a power outside (alpha, 1), sizes of which not just one is left, or a power that no such size
                reaches.

        ``surface.smallest(0.9, item=20)``
        """
        free = [name for name in self.ranges if name not in fixed]
        if len(free) != 1:
            raise ValueError(f"smallest seeks one size: fix all others but one of {', '.join(self.ranges)}")
        if not self.alpha < power < 1:
            raise ValueError(f"power must lie between alpha = {self.alpha:g} and 1, not {power!r}")
        (name,) = free
        wanted = float(np.interp(power, *inverse_power(self.df, self.alpha)))

        def gap(size: float, shift: float) -> float:
            x = self._matrix(self._sizes({**fixed, name: size}))[0]
            error = np.sqrt(max(float(x @ self.covariance @ x), 0.0))
            return float(x @ self.coefficients) + shift * error - wanted

        q = quantile(self.level)
        size, lower, upper = (self._root(gap, shift) for shift in (0.0, -q, q))
        if not np.isfinite(size):
            raise ValueError(f"a power of {power:g} is not reached by any {name} with {fixed or 'these terms'}")
        ends = [float(np.ceil(v - 1e-9)) for v in (size, lower, upper)]
        low, high = self.ranges[name]
        outside = not low <= ends[0] <= high
        return pd.Series(
            {"size": ends[0], "lower": ends[1], "upper": ends[2], "outside": outside}, name=name, dtype=object
        )

    def _root(self, gap: Callable[[float, float], float], shift: float) -> float:
        low, high = 1.0, HIGHEST
        if gap(low, shift) <= 0:
            return low
        return float(brentq(gap, low, high, args=(shift,))) if gap(high, shift) < 0 else np.inf  # pyright: ignore

    def _sizes(self, sizes: Mapping[str, Any]) -> dict[str, np.ndarray]:
        for name in sizes:
            if name not in self.ranges:
                raise ValueError(f"there is no size {name!r}; the surface is over {', '.join(self.ranges)}")
        lacking = [name for name in self.ranges if name not in sizes]
        if lacking:
            raise ValueError(f"give a number for {lacking[0]!r} too: the surface is over {', '.join(self.ranges)}")
        own = [np.atleast_1d(np.asarray(sizes[name], float)) for name in self.ranges]
        try:
            own = np.broadcast_arrays(*own)
        except ValueError:
            raise ValueError("the sizes must be numbers, or arrays of one length") from None
        for name, x in zip(self.ranges, own, strict=True):
            if not np.all(np.isfinite(x)):
                raise ValueError(f"{name} must be finite numbers, not {x.tolist()}")
            if self.ranges[name][0] > 0 and not np.all(x > 0):
                raise ValueError(f"{name} must be above zero, as the sizes that were tried, not {x.tolist()}")
        return dict(zip(self.ranges, own, strict=True))

    def _matrix(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        return _matrix(self.terms, sizes)

    def _parts(self) -> list[str | Grid]:
        coef = ", ".join(self.test[1])
        errors = np.sqrt(np.diag(self.covariance))
        rows = [("term", "coefficient", "error")]
        rows += [
            (n, number_text(c, ".4g"), number_text(e, ".2g"))
            for n, c, e in zip(self.names, self.coefficients, errors, strict=True)
        ]
        over = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in self.ranges.items())
        parts: list[str | Grid] = [f"Power surface of {coef} ({self.test[0]}), p <= {self.alpha:g}", f"over {over}", ""]
        parts.append(Grid(rows, [False, True, True]))
        if self.misfit < MISFIT:
            parts.append(
                f"the rates do not lie on the surface (Pearson's X², p = {p_value(self.misfit)}): give other terms, or "
                "a grid that is less wide"
            )
        return parts

    # ------------------------------------------------------------ drawing
    def plot(self, ax: Any = None, **fixed: float) -> Any:
        """The power over the sizes that are not ``fixed``, drawn into ``ax``: a curve with its band over one, contours
        over two; returns the axes. Needs matplotlib.

        Raises:
            ValueError: more than two sizes that are not fixed, or none.
        """
        free = [name for name in self.ranges if name not in fixed]
        if len(free) not in (1, 2):
            raise ValueError(f"a picture is over one size or two, and {len(free)} are not fixed: plot(name=number)")
        if ax is None:
            _, ax = pyplot().subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = [
            np.geomspace(*self.ranges[name], 60) if self.ranges[name][0] > 0 else np.linspace(*self.ranges[name], 60)
            for name in free
        ]
        if len(free) == 1:
            table = self.at(**fixed, **{free[0]: axes[0]})
            ax.plot(axes[0], table["power"], color=POPULATION)
            ax.fill_between(axes[0], table["lower"], table["upper"], color=POPULATION, alpha=0.2, lw=0)
            ax.set_ylim(0, 1)
            labelled(ax, "", free[0], f"power, the share of p ≤ {self.alpha:g}")
            return ax
        across, up = np.meshgrid(*axes)
        values = self.at(**fixed, **{free[0]: across.ravel(), free[1]: up.ravel()})["power"].to_numpy()
        lines = ax.contour(
            across, up, values.reshape(across.shape), [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95], colors=POPULATION
        )
        ax.clabel(lines, fmt="%g", fontsize=FONT - 1)
        labelled(ax, f"power of {', '.join(self.test[1])}", free[0], free[1])
        return ax


def _matrix(terms: Terms, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
    """(S, t)"""
    length, says = len(next(iter(sizes.values()))), f"terms must be a function of the sizes, {', '.join(sizes)}"
    if not callable(terms):
        raise TypeError(f"{says}, that returns a list of numbers or arrays, not {terms!r}")
    try:
        found = terms(sizes)
    except KeyError as error:
        raise ValueError(f"{says}: it asked for {error}, which is none of them") from error
    if not isinstance(found, list | tuple) or not found:
        raise ValueError(f"{says}, that returns a list such as [1 / s[{next(iter(sizes))!r}], 1.0], not {found!r}")
    try:
        return np.column_stack([np.broadcast_to(np.asarray(t, float), length) for t in found])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{says}: each of its terms must be a number or an array like the sizes ({error})") from error


def fit_surface(
    test: tuple[str, Columns],
    grid: Sequence[Mapping[str, Any]],
    rejected: np.ndarray,
    terms: Terms | None,
    alpha: float,
    level: float,
) -> PowerSurface:
    """The surface through ``rejected`` (n, S), 1 or 0, NaN where a fit gave no p-value.

    Raises:
        ValueError: fewer points than terms, terms that cannot be told apart on the grid, a power that is the same
            everywhere, or a point without p-values.
    """
    sizes = {name: np.array([point[name] for point in grid], float) for name in grid[0]}
    varying = [name for name, x in sizes.items() if len(np.unique(x)) > 1]
    if not varying:
        raise ValueError("the curve has one size only: a surface needs several")
    own, names = reciprocal_terms(varying) if terms is None else (terms, [])
    x = _matrix(own, sizes)
    names = names or [f"term {k + 1}" for k in range(x.shape[1])]
    unit = np.max(np.abs(x), axis=0)
    if np.linalg.matrix_rank(x / np.where(unit > 0, unit, 1.0), 1e-10) < x.shape[1]:
        raise ValueError(
            f"{x.shape[1]} terms ({', '.join(names)}) cannot be told apart at {len(grid)} sizes: try more sizes, or "
            "give fewer terms="
        )
    if not np.isfinite(rejected).any(axis=0).all():
        raise ValueError("at some size no fit gave a p-value")
    counts, rates = counted(rejected)
    if np.ptp(rates) == 0:
        raise ValueError(f"the power is {rates[0]:g} at every size: try sizes at which it differs")
    df, scaled = len(test[1]), x / unit
    u = np.interp(np.clip(rates, 0.5 / counts, 1 - 0.5 / counts), *inverse_power(df, alpha))
    start = np.maximum(nnls(scaled / u[:, None], np.ones(len(u)))[0], 1e-6 * float(np.median(u)))
    w, covariance, _ = maximised(scaled, rejected, df, alpha, start)
    p = power_at(scaled @ w, df, alpha)[0]
    left = len(rates) - len(w)
    misfit = chdtrc(left, np.sum(counts * (rates - p) ** 2 / (p * (1 - p)))) if left > 0 else np.nan
    ranges = {name: (float(v.min()), float(v.max())) for name, v in sizes.items()}
    return PowerSurface(
        test, ranges, own, names, w / unit, covariance / np.outer(unit, unit), alpha, level, float(misfit)
    )
