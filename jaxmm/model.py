"""Model: the path from a formula and a table to arrays, one line per step, before any fitting.

    formula --parse--> Terms --build--> Design --analyse--> Structure --gram--> arrays --estimate--> Fit

``lmm()`` is ``Model.from_formula(...).fit()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import covariance
from jaxmm._context import choose_device, computing
from jaxmm._keywords import FITTING, known_keywords
from jaxmm._warn import warn
from jaxmm.describe import check_size, describe
from jaxmm.design import DataError, Design, build, check_lmm
from jaxmm.estimate import estimate_on_host
from jaxmm.fit import Fit
from jaxmm.formula import parse
from jaxmm.from_arrays import Term, design_from_arrays
from jaxmm.gram import Accumulator, Gram, assemble, change_columns
from jaxmm.optimize import Control, as_control
from jaxmm.structure import Elimination, Grouping, Structure, TermLayout, analyse


class Model:
    """A linear mixed model that has its data but is not fitted.

    Make one with ``from_formula`` or ``from_arrays``; ``fit()`` fits it, ``arrays`` is what a program needs of it.
    ``print(model)`` shows how it will be computed.
    """

    def __init__(self, design: Design, *, reml: bool = True, device: Any = "auto"):
        check_lmm(design)
        self.design, self.reml = design, reml
        self.elimination, self.structure, self.groupings = _analyse(design, reml)
        self.device = choose_device(device, self.structure)
        check_size(self)

    # ------------------------------------------------------------ ways in
    @classmethod
    @known_keywords(FITTING)
    def from_formula(
        cls,
        formula: str,
        data: Any,
        family: Any = None,
        *,
        reml: bool = True,
        weights: Any = None,
        offset: Any = None,
        contrasts: dict[str, str] | None = None,
        missing: str = "drop",
        device: Any = "auto",
    ) -> Model:
        """The model of a formula on a table; the keywords are those of ``lmm``.

        Raises:
            FormulaError: the formula cannot be read; the message names the token and the accepted spelling.
            DataError: the data cannot be used; the message names column, row and remedy.
            NotImplementedError: a ``family`` (generalised models are not part of this version).
        """
        if family is not None:
            raise NotImplementedError("generalised linear mixed models are not available yet: leave family out")
        check_flag("reml", reml)
        design = build(
            parse(formula),
            data,
            weights=weights,
            offset=offset,
            contrasts=contrasts,
            missing=missing,  # pyright: ignore
        )
        if design.dropped:
            warn(
                f"the fixed effects are rank-deficient: dropped {', '.join(design.dropped)}, a combination of the "
                "columns before (fit.dropped)"
            )
        return cls(design, reml=reml, device=device)

    @classmethod
    @known_keywords(FITTING)
    def from_arrays(
        cls,
        y: Any,
        X: Any,
        terms: Sequence[Term],
        *,
        reml: bool = True,
        weights: Any = None,
        offset: Any = None,
        names: Sequence[str] | None = None,
        device: Any = "auto",
    ) -> Model:
        """The model of plain arrays: y (n,), X (n, p) with its intercept column, and one ``Term`` per bar.

        Raises:
            DataError: lengths that differ, values that are not finite, too few or too many levels.
        """
        check_flag("reml", reml)
        return cls(design_from_arrays(y, X, terms, weights, offset, names), reml=reml, device=device)

    # ------------------------------------------------------------ what a program needs
    @cached_property
    def _accumulator(self) -> Accumulator:
        d, order = self.design, self.elimination.order
        by_factor = tuple(
            tuple(
                change_columns(d.terms[t].Z, covariance.get(d.terms[t].kind, d.terms[t].Z.shape[1]).recombines)
                for t in _terms_of(d, f)
            )
            for f in order
        )
        return Accumulator(
            plan=self.elimination,
            structure=self.structure,
            groupings=tuple(self.groupings[f] for f in order),
            Z=by_factor,
            X=change_columns(d.X, True),
            weights=d.weights,
        )

    @cached_property
    def _parts(self) -> dict:
        return self._accumulator.design()

    @cached_property
    def arrays(self) -> Gram:
        """The sufficient statistics, a pytree in float64 on ``device``."""
        return self._arrays_for(self.design.y)

    def _arrays_for(self, y: np.ndarray) -> Gram:
        offset = self.design.offset
        response = self._accumulator.response(y if offset is None else y - offset)
        with computing(self.device):
            return assemble(self._accumulator, self._parts, response)

    # ------------------------------------------------------------ fitting
    @known_keywords(FITTING)
    def fit(self, *, start: Any = None, control: Control | dict | None = None) -> Fit:
        """Fit by (restricted) maximum likelihood.

        Args:
            start: theta (m,) to start from, in the order of ``fit.theta``; by default moments of the data.
            control: ``jaxmm.Control`` or a dictionary of its settings.
        """
        settings = as_control(control)
        if settings.device != "auto" and choose_device(settings.device, self.structure) != self.device:
            raise ValueError(
                f"this model computes on {self.device}, not on control.device = {settings.device!r}: give device= when "
                "the model is made"
            )
        if start is not None:
            start = check_start(start, self.structure.num_theta)
        arrays = self.arrays
        with computing(self.device):
            estimates = estimate_on_host(arrays, start, settings)
        return Fit(self, estimates, replace(settings, device="auto"))  # a refit goes where the model is

    def with_response(self, y: Any) -> Model:
        """The same design with another response (n,), for the rows of positive weight; compiles nothing.

        A Series must have the labels of those rows, in their order.
        """
        labels = self.design.index[self.design.kept]
        if isinstance(y, pd.Series) and len(y) == len(labels) and not y.index.equals(labels):
            if not y.index.equals(pd.RangeIndex(len(y))):
                raise DataError(
                    "the response is a Series with other labels than the rows used: reindex it "
                    "(y.reindex(fit.fitted().index)), or pass y.to_numpy() to take it by position"
                )
        try:
            y = np.asarray(y, float)
        except (TypeError, ValueError):
            raise DataError("the response holds text or other things where numbers are due") from None
        n = len(self.design.y)
        if y.shape != (n,):
            zero = int((~self.design.kept).sum())
            without = f" (without the {zero} of weight zero)" if zero else ""
            raise DataError(f"the response must have {n} values, one per row used{without}; got shape {y.shape}")
        if not np.all(np.isfinite(y)):
            raise DataError(f"the response is not finite in row {int(np.flatnonzero(~np.isfinite(y))[0])} (from 0)")
        if np.ptp(y) == 0:
            raise DataError("the response is constant: there is nothing to explain")
        _ = self._parts  # made once, here, and shared by every copy
        y_all = self.design.y_all.copy()
        y_all[self.design.kept] = y
        return self._copy(design=replace(self.design, y=y, y_all=y_all))

    def with_reml(self, reml: bool) -> Model:
        """The same model by the other criterion."""
        return self._copy(reml=reml, structure=replace(self.structure, reml=reml))

    @property
    def solver(self) -> str:
        """What the structure asks for: "blocks", "nested chain" or "Schur complement"."""
        if self.elimination.rest:
            return "Schur complement"
        return "nested chain" if len(self.elimination.chain) > 1 else "blocks"

    def theta_terms(self) -> list[tuple[int, TermLayout]]:
        """(index of the design's term, its layout) in the order of theta."""
        return list(zip(theta_order(self.design), self.structure.terms, strict=True))

    def _copy(self, **changes: Any) -> Model:
        other = object.__new__(Model)
        other.__dict__.update({k: v for k, v in self.__dict__.items() if k != "arrays"})
        other.__dict__.update(changes)
        if "structure" in changes and "_accumulator" in other.__dict__:
            other.__dict__["_accumulator"] = replace(self._accumulator, structure=changes["structure"])
        return other

    def __getstate__(self) -> dict:
        state = {k: v for k, v in self.__dict__.items() if k not in ("arrays", "device", "_accumulator", "_parts")}
        return {**state, "platform": self.device.platform}

    def __setstate__(self, state: dict) -> None:
        platform = state.pop("platform")
        self.__dict__.update(state)
        try:
            self.device = choose_device(platform, self.structure)
        except ValueError:  # pickled on a machine with another kind of device
            self.device = choose_device("auto", self.structure)

    def __repr__(self) -> str:
        return describe(self)


@known_keywords(FITTING)
def lmm(
    formula: str,
    data: Any,
    *,
    reml: bool = True,
    weights: Any = None,
    offset: Any = None,
    contrasts: dict[str, str] | None = None,
    missing: str = "drop",
    start: Any = None,
    control: Control | dict | None = None,
) -> Fit:
    """Fit a linear mixed model: y = Xβ + Zb + ε, b ~ N(0, D), ε ~ N(0, σ²/w).

    Args:
        formula: in R's spelling, ``"Reaction ~ Days + (Days | Subject)"``.
        data: a pandas, polars or pyarrow table, or a mapping of columns.
        reml: restricted maximum likelihood (the default), or maximum likelihood.
        weights: precision weights, Var ε = σ²/w: a column's name or an array. A row of weight 0 counts nowhere
            and still gets a fitted value.
        offset: added to Xβ: a column's name or an array; ``offset(...)`` in the formula adds to it.
        contrasts: ``{"column": "treatment" | "sum" | "helmert" | "poly"}``; by default treatment, and polynomial
            for ordered categoricals.
        missing: "drop" rows with a missing value in a column of the model (the summary says how many), or "raise".
        start: theta to start from.
        control: ``jaxmm.Control`` or a dictionary of its settings.

    Returns:
        A ``Fit``. A fit that did not converge or lies on the boundary is returned too, with its flags set.

    Raises:
        FormulaError, DataError: the message names the token or the column, the value and the remedy.

    The criterion is that of Bates, Mächler, Bolker & Walker (2015), J. Stat. Softw. 67(1).
    """
    settings = as_control(control)
    model = Model.from_formula(
        formula, data, reml=reml, weights=weights, offset=offset, contrasts=contrasts, missing=missing,
        device=settings.device,
    )  # fmt: skip
    return model.fit(start=start, control=settings)


# ---------------------------------------------------------------- the steps
def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def check_start(start: Any, num_theta: int) -> np.ndarray:
    """theta to start from, (num_theta,) finite."""
    try:
        array = np.asarray(start, float)
    except (TypeError, ValueError):
        array = np.full((), np.nan)
    if array.shape != (num_theta,) or not np.all(np.isfinite(array)):
        raise ValueError(
            f"start must be {num_theta} finite number{'s' if num_theta > 1 else ''}, the relative covariance "
            f"factor as in fit.theta; got {start!r}"
        )
    return array


def _terms_of(design: Design, factor: int) -> list[int]:
    return [t for t, term in enumerate(design.terms) if term.factor == factor]


def _analyse(design: Design, reml: bool) -> tuple[Elimination, Structure, list[Grouping]]:
    groupings = [
        Grouping(f.name, f.codes, len(f.levels), sum(design.terms[t].Z.shape[1] for t in _terms_of(design, i)))
        for i, f in enumerate(design.factors)
    ]
    plan = analyse(groupings)
    layouts = []
    for t in theta_order(design):
        term = design.terms[t]
        before = [design.terms[o].Z.shape[1] for o in _terms_of(design, term.factor) if o < t]
        layouts.append(
            TermLayout(plan.order.index(term.factor), sum(before), covariance.get(term.kind, term.Z.shape[1]))
        )
    structure = Structure(
        chain=tuple(groupings[f].q for f in plan.chain),
        rest=tuple((groupings[f].levels, groupings[f].q) for f in plan.rest),
        terms=tuple(layouts),
        sparse=plan.sparse,
        p=design.X.shape[1],
        reml=bool(reml),
    )
    return plan, structure, groupings


def theta_order(design: Design) -> list[int]:
    """The terms by decreasing number of levels, then in the formula's order, as lme4 keeps theta."""
    return sorted(range(len(design.terms)), key=lambda t: (-len(design.factors[design.terms[t].factor].levels), t))
