"""optimal_allocation: how many clusters and how many measurements of each, at a cost, by expected information.

With N_f the levels of factor f, N the rows and v = l'(X'V⁻¹X)⁻¹l the variance of the coefficient or contrast l,

    minimise v  with  Σ_f c_f N_f + c N <= budget,      or the cost with  v <= (effect / (z_{1-α/2} + z_power))²

``information`` has X'V⁻¹X at numbers that need not be whole.  v falls as 1 over the number of clusters, so that in both
the numbers within a cluster are those for which v × cost is least: by Newton's steps with derivatives by JAX, on the
logarithms.  Of a cluster-randomised trial with correlation ρ within clusters these are √((1 - ρ)/ρ · c_cluster/c)
members (Raudenbush 1997, Psychol. Methods 2, 173-185).  The variances of the effects are taken for known.

A design of whole numbers has so many of each kind of level and row that the kinds keep their shares; the best of those
near the optimum is sought one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import product
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri

from jaxmm._axes import HEIGHT, POPULATION, WIDTH, labelled, pyplot
from jaxmm._context import check_not_forked
from jaxmm._keywords import known_keywords
from jaxmm._text import Grid, Printed, frame_parts
from jaxmm.inference.restrictions import restrictions
from jaxmm.inference.wald import check_level
from jaxmm.sources.responses import unfitted
from jaxmm.studies.information import Unit, information, unit_of
from jaxmm.studies.study import truth_of

ROWS = "rows"
NEAR = 3  # whole numbers on either side of the optimum that are tried
MOST = 1e6  # of what one level holds

_HINTS = {
    "costs": "cost=", "data": "a model without a response is plan(formula, table)", "target": "power=",
    "effect": "effects={'x': value}",
}  # fmt: skip


@known_keywords(
    _HINTS,
    required={
        "coef": "what is estimated, such as 'arm'",
        "cost": "what a level and a row cost, such as {'cluster': 20, 'rows': 1}",
    },
)
def optimal_allocation(
    model: Any,
    truth: Any = None,
    *,
    coef: Any,
    cost: Mapping[str, float],
    budget: float | None = None,
    power: float | None = None,
    effects: Mapping[str, float] | None = None,
    most: Mapping[str, float] | None = None,
    alpha: float = 0.05,
) -> Allocation:
    """The numbers of levels and rows that estimate a coefficient best for a budget, or most cheaply for a power.

        table = make_design({"cluster": 8}, between={"cluster": {"arm": [0, 1]}}, repeats=4)
        unit = plan("y ~ arm + (1 | cluster)", table)
        optimal_allocation(unit, truth, coef="arm", cost={"cluster": 20, "rows": 1}, budget=2000)

    Args:
        model: a linear model of one factor or nested ones, or a fit of it: the kinds of levels and rows that there are,
            and their shares. How many there are of each is what is sought.
        truth: as in ``study``: the variances, and for a power the effect. A ``Fit`` is its own where None.
        coef: a coefficient, or a contrast as ``Fit.test`` takes it, of one row.
        cost: of a level of each factor, by its name, and of a row, "rows"; 0 where not given.
        budget: what may be spent: the variance of ``coef`` is made least.
        power: of a two-sided z test of size ``alpha``: the cost is made least. One of the two is given.
        effects: coefficients that differ from those of the truth, as in ``power``.
        most: "rows" -> the most rows of a level of the innermost factor, factor -> its most levels within one of the
            factor above: where more of them would always be better.
        alpha: the size of that test.

    Returns:
        ``Allocation``: ``frame``, ``continuous``, ``best``, ``plot()``; print it.

    The variances are taken for known, so that with few clusters the power is less: try the design by ``power``.

    Raises:
        ValueError: a generalised model or crossed factors; a contrast of several rows or of an effect of zero; costs
            that are negative or all zero, of unknown names; both or neither of ``budget`` and ``power``; a budget for
            less than one cluster of each kind; an ``alpha`` outside (0, 1); numbers without an optimum, such as
            measurements that cost nothing.
        TypeError: a budget or a power that is no number.

    Raudenbush (1997), Psychol. Methods 2, 173-185; Moerbeek, van Breukelen & Berger (2000), J. Educ. Behav. Stat. 25.

    Example:
        >>> found = mm.optimal_allocation(fit, coef="Days", cost={"Subject": 50, "rows": 1}, budget=6000)
        >>> bool(found.best["Subject"] > 18), bool(found.best["cost"] <= 6000)
        (True, True)
    """
    check_not_forked()
    check_level(alpha, "alpha", "0.05 for tests at 5 %")
    for name, value in (("budget", budget), ("power", power)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | np.number)):
            raise TypeError(f"{name} must be a number, not {value!r}")
    given, model = model, unfitted(model)
    true = truth_of(given, model, truth)
    true = replace(true, beta=_with_effects(model, true.beta, effects))
    asked = restrictions(coef, model.design)
    if len(asked.L) != 1:
        raise ValueError(f"coef must be one coefficient or contrast, and {coef!r} is {len(asked.L)}: name one of them")
    if (budget is None) == (power is None):
        raise ValueError("give one of budget=, what may be spent, and power=, what is wanted")
    gap = float(asked.L[0] @ true.beta - asked.value[0])
    problem = _problem(model, true, asked.L[0], cost, most)
    if budget is not None:
        if not np.isfinite(budget) or not budget > 0:
            raise ValueError(f"budget must be a number above 0, not {budget!r}")
        return _solved(problem, asked.labels[0], gap, alpha, budget=float(budget))
    if not alpha < power < 1:  # pyright: ignore
        raise ValueError(f"power must lie between alpha = {alpha:g} and 1, not {power!r}")
    if gap == 0:
        raise ValueError(f"{asked.labels[0]} is as the hypothesis has it, and no design finds that: give effects=")
    variance = (gap / (ndtri(1 - alpha / 2) + ndtri(power))) ** 2
    return _solved(problem, asked.labels[0], gap, alpha, variance=float(variance))


@dataclass(frozen=True, eq=False, repr=False)
class Allocation(Printed):
    """What ``optimal_allocation`` found.

    Attributes:
        frame: a row for the "continuous" optimum, the "best" whole numbers and the design that was "given": the levels
            of each factor, "x per y" within a level above, ``rows``, ``rows per`` innermost level, ``cost``, ``se`` of
            the coefficient and ``power`` of its z test.
        coef: what is estimated.
        alpha: the size of the test.
        inner: what one level of the innermost factor holds -> v × cost over its least, to draw.

    Example:
        >>> found = mm.optimal_allocation(fit, coef="Days", cost={"Subject": 50, "rows": 1}, power=0.9)
        >>> bool(found.best["power"] >= 0.9)
        True
    """

    frame: pd.DataFrame
    coef: str
    alpha: float
    inner: pd.Series

    @property
    def continuous(self) -> pd.Series:
        """The optimum of numbers that need not be whole."""
        return self.frame.loc["continuous"].rename("continuous")

    @property
    def best(self) -> pd.Series:
        """The best whole numbers near it."""
        return self.frame.loc["best"].rename("best")

    def to_frame(self) -> pd.DataFrame:
        """``frame``."""
        return self.frame.copy()

    def plot(self, ax: Any = None) -> Any:
        """What a given precision costs, relative to the optimum, by the rows of a level of the innermost factor; drawn
        into ``ax``; returns the axes. Needs matplotlib."""
        if ax is None:
            _, ax = pyplot().subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
        ax.plot(self.inner.index, self.inner, color=POPULATION)
        ax.set_xscale("log")
        ax.set_ylim(bottom=1, top=min(3, float(self.inner.max()) * 1.05))
        labelled(ax, "", str(self.inner.index.name), "cost of a given precision, 1 at best")
        return ax

    def _parts(self) -> list[str | Grid]:
        shown = self.frame.T
        return [f"Optimal allocation for {self.coef}, z test at {self.alpha:g}", *frame_parts(shown, none="")]


# ---------------------------------------------------------------- the problem
# A design is x = (r, s_1 .. s_F): rows, then levels of each factor, the inner first, as multiples of the unit.
@dataclass(frozen=True, eq=False)
class _Problem:
    """``row`` l (p,); ``nobs`` rows of the unit; ``steps`` (1 + F,) of x between whole numbers; ``costs`` (1 + F,) of a
    row and of a level of each factor; ``most`` (F,) that x may be, of all but the last."""

    unit: Unit
    row: np.ndarray
    nobs: int
    steps: np.ndarray
    costs: np.ndarray
    most: np.ndarray

    @cached_property
    def variances(self) -> Any:
        """x (k, 1 + F) -> v (k,)."""
        return jax.jit(jax.vmap(self._variance))

    def _variance(self, x: Any) -> Any:
        return self.row @ jnp.linalg.solve(information(self.unit, x[0], x[1:]), jnp.asarray(self.row))

    @property
    def numbers(self) -> np.ndarray:
        """(1 + F,) of the unit: rows, and levels of each factor."""
        return np.array([self.nobs, *(s.levels for s in self.unit.stages)], float)

    def cost(self, x: Any) -> Any:
        """Of x (.., 1 + F)."""
        xp = jnp if isinstance(x, jax.Array) else np
        return xp.cumprod(x[..., ::-1], axis=-1)[..., ::-1] @ (self.costs * self.numbers)

    def whole(self, inner: np.ndarray) -> np.ndarray:
        """(k, F) whole numbers of rows and of levels of the inner factors near the optimum, and all the way down."""
        each = []
        for at, step, most in zip(inner / self.steps[:-1], self.steps[:-1], self.most, strict=True):
            near = np.arange(max(1, int(at) - NEAR), int(at) + NEAR + 2)
            down = np.unique(np.geomspace(1, max(at, 1.0), 8).astype(int))
            own = step * np.union1d(near, down)
            each.append(own[own <= most * (1 + 1e-9)])
        return np.array(list(product(*each))).reshape(-1, len(inner))

    def optimum(self) -> np.ndarray:
        """(F,) all of x but the outermost factor's, for which v × cost is least.

        Raises:
            ValueError: there is none.
        """
        count = len(self.steps) - 1

        def objective(log_x: Any) -> Any:
            x = jnp.append(jnp.exp(log_x), 1.0)
            return jnp.log(self._variance(x)) + jnp.log(self.cost(x))

        value = jax.jit(jax.value_and_grad(objective))
        low, high = np.log(self.steps[:-1]), np.log(self.most)
        first, bounds = np.clip(np.zeros(count), low, high), list(zip(low, high, strict=True))
        found = minimize(
            lambda z: tuple(np.asarray(o, float) for o in value(jnp.asarray(z))), first, jac=True, method="L-BFGS-B",
            bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9},
        )  # fmt: skip
        endless = (found.x > high - 1e-3) & (self.most >= MOST)
        if np.any(endless):
            name = _names(self.unit)[int(np.argmax(endless))]
            raise ValueError(
                f"there is no optimum: the more {name!r} within a level the better, at this cost: say how many there "
                f"may be, most={{{name!r}: number}}, or give another cost"
            )
        return np.exp(found.x)


def _problem(model: Any, true: Any, row: np.ndarray, cost: Mapping[str, float], most: Any) -> _Problem:
    unit, nobs = unit_of(model, true), len(model.design.y)
    steps = _steps(model, unit)
    return _Problem(unit, row, nobs, steps, _costs(unit, cost), _bounds(unit, nobs, steps, most))


def _names(unit: Unit) -> list[str]:
    return [ROWS, *(s.name for s in unit.stages)]


def _bounds(unit: Unit, nobs: int, steps: np.ndarray, most: Mapping[str, float] | None) -> np.ndarray:
    """(F,) the most that x may be, of all but the outermost factor.

    Raises:
        ValueError: names that are none, and fewer than one of each kind.
    """
    numbers, names = np.array([nobs, *(s.levels for s in unit.stages)], float), _names(unit)
    own = np.full(len(names) - 1, MOST)
    for name, value in (most or {}).items():
        if name not in names[:-1]:
            raise ValueError(f"most names {name!r}, which is none of {', '.join(map(repr, names[:-1]))}")
        k = names.index(name)
        own[k] = value / (numbers[k] / numbers[k + 1])
        if not own[k] >= steps[k] * (1 - 1e-9):
            least = steps[k] * numbers[k] / numbers[k + 1]
            raise ValueError(f"most[{name!r}] must be a number of at least {least:g}, one of each kind, not {value!r}")
    return own


def _costs(unit: Unit, cost: Any) -> np.ndarray:
    """Raises ValueError for names that are none, and numbers that are no costs."""
    names = _names(unit)
    if not isinstance(cost, Mapping) or not cost:
        raise ValueError(f"cost must be what a level and a row cost, such as {{{names[-1]!r}: 20, 'rows': 1}}")
    for name, value in cost.items():
        if name not in names:
            raise ValueError(f"cost names {name!r}, which is none of {', '.join(map(repr, names))}")
        if not np.isfinite(value) or value < 0:
            raise ValueError(f"cost[{name!r}] must be a number from 0, not {value!r}")
    own = np.array([float(cost.get(name, 0.0)) for name in names])
    if not own.any():
        raise ValueError("cost is zero throughout: give what a level or a row costs")
    return own


def _steps(model: Any, unit: Unit) -> np.ndarray:
    """1 over how often the kinds of rows, and of levels of each factor, are repeated in the unit."""
    d, chain = model.design, model.elimination.chain
    weights = np.ones(len(d.y)) if d.weights is None else d.weights
    kinds = np.round(np.column_stack([d.X, *(t.Z for t in d.terms), weights]), 10)
    keys = np.unique(kinds, axis=0, return_inverse=True)[1].ravel().tolist()
    steps, above = [], d.factors[chain[0]].codes
    for k in range(len(chain) + 1):
        levels = unit.stages[k].levels if k < len(chain) else 1
        held: list[Counter] = [Counter() for _ in range(levels)]
        for key, level in zip(keys, above, strict=True):
            held[level][key] += 1
        common = reduce(gcd, (n for c in held for n in c.values()))
        steps.append(1.0 / common)
        keys = [frozenset(c.items()) for c in held]
        outer = k + 1 < len(chain)
        above = unit.stages[k].above if outer else np.zeros(levels, np.int64)
    return np.array(steps)


def _solved(
    problem: _Problem, label: str, gap: float, alpha: float, budget: float | None = None, variance: float | None = None
) -> Allocation:
    """Raises ValueError where the budget buys no whole design."""
    with jax.enable_x64(True):
        inner = problem.optimum()
        best = np.append(inner, 1.0)
        best[-1] = _outer(problem, best[None], budget, variance)[0]
        some = np.column_stack([problem.whole(inner), np.ones(len(problem.whole(inner)))])
        exact, step = _outer(problem, some, budget, variance), problem.steps[-1]
        some[:, -1] = step * (np.floor(exact / step + 1e-9) if variance is None else np.ceil(exact / step - 1e-9))
        some = some[some[:, -1] > 0]
        if not len(some):
            raise ValueError(f"budget={budget:g} is less than one level of each kind costs: raise it")
        v, cost = np.asarray(problem.variances(some)), problem.cost(some)
        chosen = some[np.lexsort((cost, v) if variance is None else (v, cost))[0]]
        table = np.stack([best, chosen, np.ones(len(best))])
        frame = _frame(problem, table, np.sqrt(np.asarray(problem.variances(table))), gap, alpha)
        return Allocation(frame, label, alpha, _along_rows(problem, inner))


def _outer(problem: _Problem, x: np.ndarray, budget: float | None, variance: float | None) -> np.ndarray:
    """(k,) of the outermost factor what the budget buys or the variance needs, of x (k, 1 + F) with 1 there."""
    if variance is None:
        return budget / problem.cost(x)  # pyright: ignore
    return np.asarray(problem.variances(x)) / variance


def _frame(problem: _Problem, x: np.ndarray, se: np.ndarray, gap: float, alpha: float) -> pd.DataFrame:
    stages, numbers = problem.unit.stages, problem.numbers * np.cumprod(x[:, ::-1], axis=1)[:, ::-1]
    columns: dict[str, Any] = {}
    for k in range(len(stages), 0, -1):
        columns[stages[k - 1].name] = numbers[:, k]
        if k < len(stages):
            columns[f"{stages[k - 1].name} per {stages[k].name}"] = numbers[:, k] / numbers[:, k + 1]
    columns |= {ROWS: numbers[:, 0], f"{ROWS} per {stages[0].name}": numbers[:, 0] / numbers[:, 1]}
    q, z = ndtri(1 - alpha / 2), gap / se
    columns |= {"cost": problem.cost(x), "se": se, "power": ndtr(z - q) + ndtr(-z - q)}
    return pd.DataFrame(columns, ["continuous", "best", "given"])


def _along_rows(problem: _Problem, inner: np.ndarray) -> pd.Series:
    """v × cost over its least, by the rows of a level of the innermost factor."""
    first = problem.steps[0]
    r = np.unique(np.concatenate([np.geomspace(first, max(20 * inner[0], 20 * first), 80), inner[:1]]))
    x = np.column_stack([r, np.broadcast_to(np.append(inner[1:], 1.0), (len(r), len(inner)))])
    value = np.asarray(problem.variances(x)) * problem.cost(x)
    stage = problem.unit.stages[0]
    per = pd.Index(r * problem.nobs / stage.levels, name=f"rows per {stage.name}")
    return pd.Series(value / value.min(), per, name="relative cost")


def _with_effects(model: Any, beta: np.ndarray, effects: Mapping[str, float] | None) -> np.ndarray:
    names, beta = list(model.design.coefficients), np.array(beta, float)
    for name, value in (effects or {}).items():
        if name not in names:
            shown = ", ".join(map(repr, names))
            raise ValueError(f"effects names {name!r}, which is no coefficient; there are {shown}")
        beta[names.index(name)] = value
    return beta
