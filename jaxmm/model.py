"""Model: the path from a formula and a table to arrays, one line per step, before any fitting.

    formula --parse--> Terms --build--> Design --analyse--> Structure --gram--> arrays --estimate--> Fit

``lmm()`` is ``Model.from_formula(...).fit()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import covariance
from jaxmm._context import choose_device, computing
from jaxmm._keywords import FITTING, known_keywords
from jaxmm.design import DataError, Design, Factor, RandomTerm, build, check_lmm
from jaxmm.estimate import estimate_on_host
from jaxmm.fit import Fit, spell
from jaxmm.formula import parse
from jaxmm.gram import Accumulator, Gram, assemble, change_columns
from jaxmm.optimize import Control, as_control
from jaxmm.structure import Elimination, Grouping, Structure, TermLayout, analyse


@dataclass(frozen=True)
class Term:
    """A random-effects term given as arrays.

    Attributes:
        Z: (n, q) columns of the effects, or (n,) for one.
        codes: (n,) the level of each row: integers or labels.
        name: of the grouping factor; terms with the same name share it and must have the same codes.
        effects: names of the columns of Z.
        kind: covariance structure, "us" or "diag".
    """

    Z: Any
    codes: Any
    name: str | None = None
    effects: Sequence[str] | None = None
    kind: str = "us"


class Model:
    """A linear mixed model that has its data but is not fitted.

    Make one with ``from_formula`` or ``from_arrays``; ``fit()`` fits it, ``arrays`` is what a program needs of it.
    ``print(model)`` shows how it will be computed.
    """

    def __init__(self, design: Design, *, reml: bool = True, device: Any = "auto"):
        check_lmm(design)
        self.design, self.reml = design, reml
        self.elimination, self.structure, self._groupings = _analyse(design, reml)
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
            groupings=tuple(self._groupings[f] for f in order),
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
        if start is not None:
            start = check_start(start, self.structure.num_theta)
        arrays = self.arrays
        with computing(self.device):
            estimates = estimate_on_host(arrays, start, settings)
        return Fit(self, estimates, settings)

    def with_response(self, y: Any) -> Model:
        """The same design with another response (n,), for the rows of positive weight; compiles nothing."""
        try:
            y = np.asarray(y, float)
        except (TypeError, ValueError):
            raise DataError("the response holds text or other things where numbers are due") from None
        n = len(self.design.y)
        if y.shape != (n,):
            raise DataError(f"the response must have {n} values, one per row used; got shape {y.shape}")
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


def gram_bytes(model: Model) -> int:
    """Bytes of the arrays, estimated before they are made."""
    s, plan, groups = model.structure, model.elimination, model._groupings
    columns, size = s.p + 1, s.rest_size
    total = 8 * (size + columns) ** 2
    for i, f in enumerate(plan.chain):
        g = groups[f]
        wide = columns + (0 if s.sparse and i == 0 else size)
        total += 8 * g.levels * g.q * (g.q * (len(plan.chain) - i) + wide)
    return total


def check_size(model: Model) -> None:
    """Refuse what cannot be held: the dense part and its derivatives take about ten times its size."""
    size = model.structure.rest_size
    need = 10 * 8 * size**2
    try:
        import os

        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # pragma: no cover
        return
    if need > have:
        rest = ", ".join(repr(model._groupings[f].name) for f in model.elimination.rest)
        raise MemoryError(
            f"the crossed factors {rest} leave a dense part of {size:,} x {size:,}, which with its derivatives takes "
            f"about {need / 2**30:,.0f} GiB; this machine has {have / 2**30:,.0f} GiB. Use a coarser factor or fewer "
            "effects per level"
        )


def describe(model: Model) -> str:
    """What ``print(model)`` shows: terms, levels, elimination, sizes, device."""
    d, s, plan = model.design, model.structure, model.elimination
    lines = [
        f"Linear mixed model, {'REML' if model.reml else 'ML'}, not fitted",
        f"  formula   {d.formula}",
        f"  rows      {len(d.y):,} used" + (f", {d.n_missing:,} dropped for missing values" if d.n_missing else ""),
        f"  X         {s.p} columns" + (f", aliased and dropped: {', '.join(d.dropped)}" if d.dropped else ""),
        "  terms",
    ]
    for t in theta_order(d):
        term = d.terms[t]
        factor = d.factors[term.factor]
        lines.append(
            f"    ({spell(term.effects)} | {factor.name})  {len(factor.levels):,} levels x {len(term.effects)}, "
            f"{term.kind}"
        )
    names = [model._groupings[f] for f in plan.chain]
    nested = " inside ".join(g.name for g in names)
    lines.append(f"  eliminated first   {nested}: block diagonal, {sum(g.levels * g.q for g in names):,} effects")
    if plan.rest:
        rest = " + ".join(model._groupings[f].name for f in plan.rest)
        coupling = "list of the cells that occur" if s.sparse else "dense border"
        lines.append(f"  then by Cholesky   {rest}: dense {s.rest_size:,} x {s.rest_size:,}; coupling as {coupling}")
    lines.append(f"  solver    {model.solver}; arrays {_bytes(gram_bytes(model))}; {s.num_theta} covariance parameters")
    lines.append(f"  device    {model.device.platform}:{model.device.id}, float64")
    return "\n".join(lines)


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} GB"


def design_from_arrays(y, X, terms, weights, offset, names) -> Design:
    """A ``Design`` without a formula: the checks that a table would have had."""
    y = np.asarray(y, float)
    X = np.asarray(X, float)
    if y.ndim != 1 or X.ndim != 2 or len(X) != len(y):
        raise DataError(f"y must be (n,) and X (n, p); got {y.shape} and {X.shape}")
    n = len(y)
    if not terms:
        raise DataError("give at least one Term: a model without random effects is an ordinary regression")
    columns = tuple(names) if names is not None else tuple(f"x{j}" for j in range(X.shape[1]))
    if len(columns) != X.shape[1]:
        raise DataError(f"names has {len(columns)} entries for {X.shape[1]} columns of X")
    factors: list[Factor] = []
    random: list[RandomTerm] = []
    for k, term in enumerate(terms):
        Z = np.asarray(term.Z, float)
        Z = Z[:, None] if Z.ndim == 1 else Z
        codes = np.asarray(term.codes)
        if Z.shape[0] != n or codes.shape != (n,):
            raise DataError(f"term {k}: Z {Z.shape} and codes {codes.shape} must have {n} rows")
        check_finite_array(f"Z of term {k}", Z)
        labels, codes = np.unique(codes, return_inverse=True)
        name = term.name or f"g{k}"
        known = next((i for i, f in enumerate(factors) if f.name == name), None)
        if known is None:
            factors.append(Factor(name, labels.astype(str).astype(object), codes.astype(np.int32)))
            known = len(factors) - 1
        elif not np.array_equal(factors[known].codes, codes):
            raise DataError(f"two terms are called {name!r} but have different codes: give them different names")
        effects = tuple(term.effects) if term.effects is not None else tuple(f"z{j}" for j in range(Z.shape[1]))
        random.append(RandomTerm(known, effects, Z, term.kind))
    for label, values in (("y", y), ("X", X), ("weights", weights), ("offset", offset)):
        if values is not None:
            check_finite_array(label, np.asarray(values, float))
    if weights is not None and (np.shape(weights) != (n,) or np.min(weights) <= 0):
        raise DataError("weights must be n positive numbers; leave rows of weight zero out of the arrays")
    if X.shape[1] >= n or (X.shape[1] and np.linalg.matrix_rank(X) < X.shape[1]):
        raise DataError("X must have fewer columns than rows and full column rank")
    return Design(
        formula=" + ".join(["y ~ X", *(f"({' + '.join(t.effects)} | {factors[t.factor].name})" for t in random)]),
        response="y", y=y, X=X, columns=columns, dropped=(), factors=tuple(factors), terms=tuple(random),
        weights=None if weights is None else np.asarray(weights, float),
        offset=None if offset is None else np.broadcast_to(np.asarray(offset, float), (n,)),
        index=pd.RangeIndex(n), kept=np.ones(n, bool), held_out=None, n_missing=0, y_all=y,
        weights_all=None if weights is None else np.asarray(weights, float), spec=None,  # pyright: ignore
    )  # fmt: skip


def check_finite_array(label: str, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(f"{label} is not finite in row {int(np.argwhere(bad)[0][0])} (from 0)")
