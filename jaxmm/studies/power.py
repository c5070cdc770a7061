"""Power by simulation: of one design, and over a grid of sizes.

power          a model and a truth -> the share of responses in which a test rejects
power_curve    the same at several numbers of subjects, items, repeats -> a table, the smallest number that does
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmm._keywords import STUDYING, known_keywords
from jaxmm._text import Grid, Printed
from jaxmm.frames import as_backend
from jaxmm.model import Model
from jaxmm.results.store import as_folder
from jaxmm.sources.draw import Simulated
from jaxmm.sources.mechanism import Mechanism
from jaxmm.sources.responses import Responses, Varying, fingerprint, unfitted
from jaxmm.sources.truth import Truth, as_truth
from jaxmm.studies.curve import Point, PowerCurve
from jaxmm.studies.extending import REPEATS, extend_model, first_levels
from jaxmm.studies.hypotheses import Test, columns_of
from jaxmm.studies.named_tests import NAMED
from jaxmm.studies.study import Run, check_settings, examine, truth_of
from jaxmm.studies.study_result import StudyResult, power_grid, rate_grid

METHODS = ("wald", *NAMED)  # "wald" is "z"


@dataclass(frozen=True, eq=False, repr=False)
class Power(Printed):
    """The power of some tests in one design: ``table``, ``rates``, the ``study`` behind them.

    Example:
        >>> found = mm.power(fit, n=4, key=1, test="Days", progress=False)
        >>> found.table["rate"].tolist(), len(found.study)
        ([1.0], 4)
    """

    study: StudyResult

    @property
    def table(self) -> pd.DataFrame:
        """As ``StudyResult.tests``: ``rate`` is the power (of a coefficient of zero the type I error), ``lower`` and
        ``upper`` its exact interval (Clopper-Pearson)."""
        return self.study.tests

    @property
    def rates(self) -> pd.DataFrame:
        """As ``StudyResult.rates``: fits that are singular, failed, not converged."""
        return self.study.rates

    def to_frame(self, backend: str = "pandas") -> pd.DataFrame:
        """``table``. ``backend``: "pandas" or "polars"."""
        return as_backend(self.table.copy(), backend, "test")

    def _parts(self) -> list[str | Grid]:
        s = self.study
        return [
            f"Power, {len(s):,} responses of {s.nobs:,} rows: {s.formula}",
            f"{s.kind}; value ± its Monte-Carlo standard error",
            "",
            power_grid(self.table, s.alpha, s.level),
            *s.notes,
            "",
            rate_grid(self.rates),
        ]


@known_keywords(STUDYING)
def power(
    model: Any,
    truth: Any = None,
    n: int = 1000,
    *,
    key: Any,
    test: Any = None,
    method: str | Test = "wald",
    effects: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    level: float = 0.95,
    batch: int | None = None,
    out: Any = None,
    progress: bool = True,
    control: Any = None,
    mechanism: Mechanism | None = None,
) -> Power:
    """The power to find effects, by simulation from a truth.

        power(fit, key=key, test="Days", effects={"Days": 5.0})
        power(plan("y ~ cond + (1 | subject)", table), {"fixef": .., "sd": .., "sigma": ..}, key=key)

    Args:
        model: a ``Fit``, or a ``Model`` (``plan`` makes one of a table without a response).
        truth: as in ``study``; a ``Fit`` is its own where None.
        n: simulated responses.
        test: a coefficient, a term of the formula, or a list of these; every coefficient but the intercept where None.
        method: "wald" (z; a term's coefficients one by one), "lrt" (likelihood ratio; a term's coefficients together;
            the model is then fitted by ML), "satterthwaite", "kenward-roger", "kenward-roger-linear", "bootstrap",
            "permutation" (as in ``study``), or an object with the members of ``hypotheses.Test``.
        effects: coefficients that differ from those of the truth: the effect that one would not want to miss is a
            better question than the one that was estimated.
        alpha: a test rejects where p <= alpha.
        level: of the intervals of the power.
        batch, out, progress, control, mechanism: as in ``study``.

    Returns:
        ``Power``. Fits that fail or do not converge count neither for nor against; ``rates`` says how many.

    Raises:
        ValueError: an unknown coefficient or method; what ``study`` raises.

    Green & MacLeod (2016), Methods Ecol. Evol. 7, on power of mixed models by simulation.

    Example:
        >>> mm.power(fit, n=4, key=1, test="Days", effects={"Days": 12.0}, progress=False).table["rate"].tolist()
        [1.0]
    """
    options = {"batch": batch, "progress": progress, "control": control}
    question, design = _Question(n, key, test, method, effects, alpha, level, options, mechanism), unfitted(model)
    return question.of(Planned({}, design, design, None, truth_of(model, design, truth)), out)


@known_keywords(STUDYING)
def power_curve(
    model: Any,
    truth: Any = None,
    n: int = 1000,
    *,
    along: Mapping[str, Any],
    key: Any,
    test: Any = None,
    method: str | Test = "wald",
    effects: Mapping[str, float] | None = None,
    target: float = 0.8,
    alpha: float = 0.05,
    level: float = 0.95,
    batch: int | None = None,
    out: Any = None,
    progress: bool = True,
    control: Any = None,
    mechanism: Mechanism | None = None,
) -> PowerCurve:
    """The power at several sizes of a design, and the smallest size that reaches ``target``.

        power_curve(fit, along={"Subject": [10, 20, 40]}, key=key, test="Days")

    Args:
        model: as in ``power``; its levels are recycled as by ``extend_model``. Or a function of the sizes that returns
            a ``Model``: ``lambda subject: plan(formula, make_design({"subject": subject, "item": 20}))``.
        along: grouping factor, or "repeats" (how often every row occurs) -> sizes; of several all combinations.
        target: the power wanted.
        truth, n, key, test, method, effects, alpha, level, batch, out, progress, control, mechanism: as in ``power``; n
            responses for each size; in ``out`` a folder for each. Of a ``mechanism`` nothing may be given row by row
            where the rows are those of a larger design.

    Returns:
        ``PowerCurve``: ``table``, ``smallest``, ``plot()``.

    The sizes have their random numbers in common: replicate k of a smaller size is replicate k of the largest without
    the rows of its later levels, with the same effects and errors. What differs between two sizes is thus less subject
    to chance than either power. Designs that a function builds have the key in common and nothing more.

    Raises:
        DataError: an unknown factor, a size that is too small.
        ValueError: no sizes, a target outside (alpha, 1).
        TypeError: a function that returns no model.

    Example:
        >>> curve = mm.power_curve(fit, n=4, along={"Subject": [9, 18]}, key=1, test="Days", progress=False)
        >>> curve.table[["Subject", "nobs"]].to_numpy().tolist()
        [[9, 90], [18, 180]]
    """
    grid = _grid(along)
    options = {"batch": batch, "progress": progress, "control": control}
    question = _Question(n, key, test, method, effects, alpha, level, options, mechanism)
    if not alpha < target < 1:
        raise ValueError(f"target must lie between alpha = {alpha:g} and 1, not {target!r}")
    if _builds(model) and truth is None:
        raise ValueError("a function that builds models has no parameters: give truth={'fixef', 'sd', 'sigma'}")
    points = []
    for plan in _built(model, truth, grid) if _builds(model) else _nested(model, truth, grid):
        folder = ",".join(f"{name}={size}" for name, size in plan.sizes.items())
        found = question.of(plan, None if out is None else as_folder(out) / folder)
        s = found.study
        points.append(Point(plan.sizes, found.table, found.rates, s.p_values, s.nobs, s.notes))
    return PowerCurve(points, n, float(target), float(alpha), float(level))


class RowsOf(Responses):
    """Some rows of the responses of another source."""

    def __init__(self, source: Responses, rows: np.ndarray):
        self.source, self.rows, self.n, self.varies = source, rows, source.n, source.varies

    def on(self, model: Model) -> Responses:
        """The same for another model of these rows, where nothing is drawn for its columns."""
        if self.varies - {"y", "weights"}:
            raise ValueError(
                "columns drawn anew are those of one model: give power_curve a function that builds models"
            )
        return self

    def block(self, first: int, size: int) -> Varying:
        own = self.source.block(first, size)
        return own.each(lambda x: x[:, self.rows])

    def identity(self) -> dict[str, Any]:
        return {**self.source.identity(), "rows": fingerprint(self.rows)}


class Planned(NamedTuple):
    """One size: its model, whose rows are ``rows`` of the largest one's (None for all), and the truth."""

    sizes: dict[str, int]
    model: Model
    largest: Model
    rows: np.ndarray | None
    truth: Truth


@dataclass(frozen=True)
class _Question:
    """What is asked of every size: the arguments that ``power`` and ``power_curve`` have in common."""

    n: int
    key: Any
    test: Any
    method: str | Test
    effects: Mapping[str, float] | None
    alpha: float
    level: float
    options: dict[str, Any]  # of ``fit_many``
    mechanism: Mechanism | None = None

    def __post_init__(self):
        check_settings(self.n, self.level, self.alpha)

    def of(self, plan: Planned, out: Any) -> Power:
        true = _changed(plan.model, plan.truth, self.effects)
        source: Responses = Simulated(plan.largest, true, self.n, self.key, mechanism=self.mechanism)
        if plan.rows is not None:
            source = RowsOf(source, plan.rows)
        chosen = _tests(plan.model, self.test, self.method)
        model = plan.model.by_ml() if self.method == "lrt" else plan.model
        return Power(examine(model, true, Run(source, out, self.options, self.key), chosen, self.level, self.alpha))


def _built(build: Any, truth: Any, grid: list[dict[str, int]]) -> Iterator[Planned]:
    """The designs of a function, each by itself."""
    for sizes in grid:
        model = build(**sizes)
        if not isinstance(model, Model):
            asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise TypeError(
                f"the function gave a {type(model).__name__} for {asked}: it must return a Model, as plan(formula, "
                "make_design(...)) makes one"
            )
        yield Planned(sizes, model, model, None, as_truth(model, truth))


def _nested(given: Any, truth: Any, grid: list[dict[str, int]]) -> Iterator[Planned]:
    """A model with its levels recycled to the largest sizes, and the first levels of that."""
    model = unfitted(given)
    true = truth_of(given, model, truth)
    most = {name: max(sizes[name] for sizes in grid) for name in sorted(grid[0], key=lambda name: name == REPEATS)}
    largest = extend_model(model, most)
    for sizes in grid:
        here, rows = first_levels(largest, sizes, most.get(REPEATS, 1))
        yield Planned(sizes, here, largest, rows, true)


def _builds(model: Any) -> bool:
    return callable(model) and not isinstance(model, Model) and not hasattr(model, "model")


def _grid(along: Any) -> list[dict[str, int]]:
    if not isinstance(along, Mapping) or not along:
        raise ValueError('along must be factor -> sizes, such as {"subject": [20, 40, 80]}')
    sizes = {}
    for name, values in along.items():
        sizes[name] = [values] if isinstance(values, int | np.integer) else list(values)
        if not sizes[name] or len(set(sizes[name])) < len(sizes[name]):
            raise ValueError(f"along[{name!r}] needs one size or more, each of them once, not {values!r}")
    return [dict(zip(sizes, point, strict=True)) for point in product(*map(sorted, sizes.values()))]


def _changed(model: Model, truth: Truth, effects: Mapping[str, float] | None) -> Truth:
    beta = np.array(truth.beta, float)
    names = list(model.design.coefficients)
    for name, value in (effects or {}).items():
        if name not in names:
            raise ValueError(
                f"effects names {name!r}, which is no coefficient; there are {', '.join(map(repr, names))}"
            )
        if not np.isfinite(value):
            raise ValueError(f"effects[{name!r}] must be a finite number, not {value!r}")
        beta[names.index(name)] = value
    return replace(truth, beta=beta)


def _tests(model: Model, test: Any, method: Any) -> list[Test]:
    d = model.design
    if not isinstance(method, str):
        if test is not None:
            raise ValueError("a test object knows what it tests: leave test= out")
        return [method]
    if method not in METHODS:
        known = ", ".join(map(repr, METHODS))
        raise ValueError(f"method must be 'wald', 'lrt' or a test object, not {method!r}; the names are {known}")
    asked = [c for c in d.columns if c != "(Intercept)"] if test is None else [test] if isinstance(test, str) else test
    hypotheses = [columns_of(d, one) for one in asked]
    if test is not None and not hypotheses:
        raise ValueError(f"test={test!r} names nothing to test: name a coefficient or a term, or leave test= out")
    if not hypotheses:
        raise ValueError("there is nothing to test: the model has no coefficient but the intercept; name it in test=")
    return NAMED["z" if method == "wald" else method](list(dict.fromkeys(hypotheses)))
