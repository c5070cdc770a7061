"""Prepared: a design with its likelihood, analysed, and the arrays that a program needs; what a model is before a fit.

Batches and studies take it for a model; ``model.Model`` adds the ways in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np

from jaxmm._context import choose_device, computing
from jaxmm.design import Design, RandomTerm
from jaxmm.design.checks import check_response
from jaxmm.design.predictor import MEAN
from jaxmm.gram import Accumulator, Columns, Gram, change_columns
from jaxmm.likelihood import Likelihood
from jaxmm.plan import Plan, check_mixed, check_size
from jaxmm.residual import layout_of
from jaxmm.rows import Rows
from jaxmm.solver import BlockElimination, Solver
from jaxmm.structure import Elimination, Grouping, Predictors, Structure, TermLayout, analyse


class Prepared(ABC):
    """A design and a likelihood, the structure that was decided for them, and the arrays."""

    def __init__(
        self, design: Design, likelihood: Likelihood, *, device: Any = "auto", elimination: Elimination | None = None
    ):
        """``elimination``: how the factors are eliminated, decided from the codes where None."""
        likelihood.check(design)
        likelihood = likelihood.bind(design)
        self.design, self.likelihood = design, likelihood
        self.elimination, self.structure, self.groupings = _analyse(design, likelihood.reml, elimination)
        likelihood.check_structure(self.structure)
        self.device = choose_device(device, self.structure)
        check_size(self.plan)
        if self.elimination.mixed:
            check_mixed(self.plan, design.residual)

    @property
    def reml(self) -> bool:
        """Whether the likelihood is the restricted one."""
        return self.likelihood.reml

    # ------------------------------------------------------------ what a program needs
    @cached_property
    def unit(self) -> float:
        """What the parameters are searched in units of; see ``Generalised.unit``.

        This, the parts and the arrays are computed at once, also where they are first asked for inside ``jit``.
        """
        with computing(self.device), jax.ensure_compile_time_eval():
            return self.likelihood.unit(self.design)

    @cached_property
    def accumulator(self) -> Accumulator:
        """The columns of the design in elimination order, changed as a search wants them."""
        d, order, unit = self.design, self.elimination.order, self.unit
        units = [unit if f.predictor == MEAN else 1.0 for f in d.factors]
        by_factor = tuple(tuple(_changed(d.terms[t], units[f]) for t in _terms_of(d, f)) for f in order)
        return Accumulator(
            plan=self.elimination,
            structure=self.structure,
            groupings=tuple(self.groupings[f] for f in order),
            Z=by_factor,
            X=change_columns(d.X, "linear").times(unit),
            weights=d.weights,
            inputs=tuple(d.terms[t].inputs for t in theta_order(d)),
            further=tuple(change_columns(p.X, "linear") for p in d.further),
        )

    @cached_property
    def parts(self) -> Any:
        """What the arrays are made of and does not depend on the response."""
        with computing(self.device), jax.ensure_compile_time_eval():
            return self.likelihood.parts(self.accumulator, self.design)

    @cached_property
    def arrays(self) -> Gram | Rows:
        """What the likelihood needs of the data, a pytree in float64 on ``device``: sufficient statistics (``Gram``) of
        a linear model, the rows (``Rows``) of a generalised one."""
        parts = self.parts
        with computing(self.device), jax.ensure_compile_time_eval():
            return self.likelihood.arrays(self.accumulator, parts, self.design)

    def arrays_for(self, y: Any = None, *, weights: Any = None, offset: Any = None) -> Gram | Rows:
        """``arrays`` for another response, weights or offset: a pure function of these, safe under ``jit``, ``vmap``
        and ``grad``, for ``estimate``, ``deviance`` and ``neg2_loglik``.

        Args:
            y: (n,) of the rows that count, in their order, as ``design.y``: counts of successes where there are trials.
            weights: (n,) above zero; of a linear model precisions, else what multiplies the log density of a row.
            offset: (n,) of the mean's predictor. What is None is the model's.

        Raises:
            ValueError: another length.

        Example:
            >>> with jax.enable_x64(True):
            ...     arrays = fit.model.arrays_for(2 * fit.model.design.y)
            ...     print(mm.estimate(arrays).beta.round(1))
            [502.8  20.9]
        """
        n = self.design.y.shape
        for name, x in (("y", y), ("weights", weights), ("offset", offset)):
            if x is not None and np.shape(x) != n:
                raise ValueError(f"{name} must have shape {n}, a number for each row that counts, not {np.shape(x)}")
        return self.likelihood.arrays_for(self.arrays, self.rows, y, weights, offset)

    @cached_property
    def rows(self) -> Rows:
        """The rows, also of a linear model, which keeps sums of them otherwise."""
        with computing(self.device), jax.ensure_compile_time_eval():
            return self.likelihood.rows(self.accumulator, self.arrays, self.design)

    def with_response(self, y: Any) -> Self:
        """The same design with another response; compiles nothing.

        Args:
            y: (n,) for the rows that count; counts of successes where there are trials. A Series must have the labels
                of those rows, in their order.

        Raises:
            DataError: another length, values that are not finite or not the family's.
        """
        y = check_response(self.design, self.likelihood.family, y)
        _ = self.parts  # made once, here, and shared by every copy
        y_all = self.design.y_all.copy()
        y_all[self.design.kept] = y
        return self._copy(design=replace(self.design, y=y, y_all=y_all, stand_in=False))

    def with_design(self, design: Design) -> Self:
        """A model of another design, by the same likelihood, on the same device."""
        return type(self)(design, self.likelihood, device=self.device)

    def with_likelihood(self, likelihood: Likelihood) -> Self:
        """The same data by ``likelihood``, another criterion of the same family."""
        return self._copy(likelihood=likelihood, structure=replace(self.structure, reml=likelihood.reml))

    def with_arrays(self, arrays: Gram | Rows, design: Design) -> Self:
        """The same structure with other ``arrays``, such as those of one lane, and the ``design`` that is read beside
        them; nobody looks whether one is made of the other."""
        return self._copy(arrays=arrays, design=design)

    def with_solver(self, solver: Solver) -> Self:
        """The same model, whose M another solver factors."""
        other = self._copy(structure=replace(self.structure, solver=solver))
        check_size(other.plan)
        for name in ("accumulator", "parts"):
            vars(other).pop(name, None)
        return other

    def by_ml(self) -> Self:
        """The same model by maximum likelihood."""
        return self.with_likelihood(self.likelihood.by_ml())

    @property
    def plan(self) -> Plan:
        """How each grouping factor is eliminated, and what that takes; print it."""
        return self.structure.solver.plan(self.structure, self.elimination, self.groupings)

    @property
    def solver(self) -> str:
        """What the plan comes to: "blocks", "nested chain" or "Schur complement"."""
        return self.plan.name

    def theta_terms(self) -> list[tuple[int, TermLayout]]:
        """(index of the design's term, its layout) in the order of theta."""
        return list(zip(theta_order(self.design), self.structure.terms, strict=True))

    def _copy(self, **changes: Any) -> Self:
        other: Any = object.__new__(type(self))
        other.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("arrays", "rows")})
        other.__dict__.update(changes)
        if "structure" in changes and "accumulator" in other.__dict__:
            other.__dict__["accumulator"] = replace(self.accumulator, structure=changes["structure"])
        return other

    def __getstate__(self) -> dict:
        state = {
            k: v for k, v in self.__dict__.items() if k not in ("arrays", "rows", "device", "accumulator", "parts")
        }
        return {**state, "platform": self.device.platform}

    def __setstate__(self, state: dict) -> None:
        platform = state.pop("platform")
        vars(self).update(state)
        try:
            self.device = choose_device(platform, self.structure)
        except ValueError:  # pickled on a machine with another kind of device
            self.device = choose_device("auto", self.structure)

    @abstractmethod
    def fit(self, *, start: Any = None, control: Any = None) -> Any:
        """See ``model.Model.fit``."""
        ...


# ---------------------------------------------------------------- the steps
def _changed(term: RandomTerm, unit: float) -> Columns:
    """The term's columns as its structure lets them be changed."""
    closed = term.covariance.closed_under
    return change_columns(term.Z, closed).times(1.0 if closed == "none" else unit)


def _terms_of(design: Design, factor: int) -> list[int]:
    return [t for t, term in enumerate(design.terms) if term.factor == factor]


def _analyse(
    design: Design, reml: bool, elimination: Elimination | None
) -> tuple[Elimination, Structure, list[Grouping]]:
    groupings = [
        Grouping(f.name, f.codes, len(f.levels), sum(design.terms[t].Z.shape[1] for t in _terms_of(design, i)))
        for i, f in enumerate(design.factors)
    ]
    plan = analyse(groupings, _subjects(design)) if elimination is None else elimination
    layouts = []
    for t in theta_order(design):
        term = design.terms[t]
        before = [design.terms[o].Z.shape[1] for o in _terms_of(design, term.factor) if o < t]
        layouts.append(TermLayout(plan.order.index(term.factor), sum(before), term.covariance))
    structure = Structure(
        chain=tuple(groupings[f].q for f in plan.chain),
        rest=tuple((groupings[f].levels, groupings[f].q) for f in plan.rest),
        terms=tuple(layouts),
        sparse=plan.sparse,
        p=len(design.coefficients),
        reml=bool(reml),
        predictors=_predictors(design, plan),
        solver=BlockElimination(),
        residual=None if design.residual is None else layout_of(design.residual),
    )
    return plan, structure, groupings


def _subjects(design: Design) -> Grouping | None:
    """Within whose levels errors are correlated."""
    subject = None if design.residual is None else design.residual.subject
    return None if subject is None else Grouping(subject.name, subject.codes, len(subject.levels), 0)


def _predictors(design: Design, plan: Elimination) -> Predictors:
    if not design.further:
        return Predictors()
    names = tuple(design.predictors)
    feeds = tuple(names.index(design.factors[f].predictor) for f in plan.order)
    return Predictors(names, tuple(len(p.columns) for p in design.further), feeds)


def theta_order(design: Design) -> list[int]:
    """The terms by decreasing number of levels, then in the formula's order, as lme4 keeps theta."""
    return sorted(range(len(design.terms)), key=lambda t: (-len(design.factors[design.terms[t].factor].levels), t))
