"""``residual="us(visit | subject, by=arm)"`` and ``dispersion="~ sex"``, and a table -> the covariance of the errors.

    Cov(ε) over σ²  =  diag(s) C diag(s) within each level of the subject,    log s² = V γ - log w

The time on the left of the bar is a factor, whose levels are seen in their order, or numbers; ``1`` is the order of a
subject's rows.  Each set of parameters of C belongs to a level of ``by``, in which a subject must lie whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import covariance
from jaxmm._runs import ranks, same_size
from jaxmm.covariance import Covariance
from jaxmm.design.columns import DataError, row_text
from jaxmm.design.errorbar import ErrorBar
from jaxmm.design.grouping import SeenFactor, fit_grouping
from jaxmm.design.known import known_root
from jaxmm.design.predictor import Factor, Predictor, RandomTerm
from jaxmm.design.syntax import Expr
from jaxmm.design.times import STEP, positions_of, read_times, whole_steps

SINGULAR = 1e-6  # of the largest element of a known matrix's root: a pivot below it is rounding


@dataclass(frozen=True)
class ResidualDesign:
    """The errors of the n rows.

    ``text`` as given; ``covariance`` of the T ``times``, None where errors are independent; ``place`` (n,) the time of
    each row, ``positions`` (T, d) of the times where the structure has a use of them; ``subject``, the factor within
    whose levels errors are correlated; ``sets``, the factor by which parameters differ, or None.  ``dispersion``: the
    predictor of log φ, or None; ``V`` (n, columns) is what of it moves beside σ², ``constant`` (k,) the sum of its
    columns that is one in each row, and ``left`` the column that V does without.  ``values`` (T, d): the numbers that
    the times are, None of a factor.  ``sigma``: what σ is where the covariance is known, the root of its mean variance;
    ``searched``: whether σ stands in the parameters of a term, beside which it is estimated (``beside_sigma``).
    """

    text: str
    covariance: Covariance | None = None
    times: tuple[str, ...] = ()
    place: np.ndarray | None = None
    positions: np.ndarray | None = None
    subject: Factor | None = None
    sets: Factor | None = None
    dispersion: Predictor | None = None
    V: np.ndarray | None = None
    constant: np.ndarray | None = None
    left: int = 0
    bar: ErrorBar | None = None
    groupings: tuple[SeenFactor, ...] = ()
    values: np.ndarray | None = None
    sigma: float | None = None
    searched: bool = False

    @property
    def plain(self) -> bool:
        """Whether the errors are independent and of one variance, which alone is what is special of them."""
        return self.covariance is None and self.dispersion is None

    @property
    def shown(self) -> str:
        """``text``; and the formula of log φ with the columns that it does without, where there are."""
        if self.dispersion is None or not self.dispersion.dropped:
            return self.text
        formula = f"{self.dispersion.formula}, without {', '.join(self.dispersion.dropped)}"
        return formula if self.bar is None else f"{self.text}; {formula}"

    @property
    def num_sets(self) -> int:
        """How many sets of parameters there are."""
        return 1 if self.sets is None else len(self.sets.levels)

    @property
    def set_codes(self) -> np.ndarray:
        """(n,) the set of each row, of errors with a covariance."""
        assert self.place is not None
        return np.zeros(len(self.place), int) if self.sets is None else self.sets.codes

    def at_rows(self, frame: Mapping, memory: dict[str, Any], labels: pd.Index) -> ResidualDesign:
        """The same of other rows, `labels`: subjects that the fit has not seen have codes from J on, and times that it
        has not seen come after its own, where the structure goes by their distance.

        Raises:
            DataError: a time, or a level of ``by``, that the parameters say nothing of; a subject twice at one time.
        """
        own, n = self, len(labels)
        if self.dispersion is not None:
            X, _ = self.dispersion.rows(frame, n, memory)  # pyright: ignore
            own = replace(own, V=np.delete(X, self.left, axis=1))
        if self.bar is None or self.subject is None:
            return own
        codes = _seen_codes(self.groupings[0], frame, n)
        subject = replace(self.subject, codes=codes)
        place, times, positions = _new_places(self, frame, memory, codes, labels)
        if self.sets is not None:
            found, unknown, _ = self.groupings[1].rows(frame)
            if unknown:
                raise DataError(
                    f"{self.text}: the fit has not seen {unknown[0]!r} of '{self.sets.name}', by which the parameters "
                    f"differ; it has {', '.join(map(repr, map(str, self.sets.levels)))}"
                )
            own = replace(own, sets=replace(self.sets, codes=found))
        shown = np.append(subject.levels, [f"new {k + 1}" for k in range(int(codes.max(initial=0)) + 1)])
        _check_once(self.bar, replace(subject, levels=shown), place, times, labels)
        return replace(own, subject=subject, place=place, times=times, positions=positions)

    def take(self, rows: np.ndarray, subject: tuple[np.ndarray, np.ndarray] | None = None) -> ResidualDesign:
        """The errors of the ``rows`` (k,), with codes (k,) and levels of their subjects where these are others; all
        times and sets of parameters stay."""

        def of(x: Any) -> Any:
            return None if x is None else x[rows]

        def factor(x: Factor | None) -> Factor | None:
            return None if x is None else replace(x, codes=x.codes[rows])

        own = factor(self.subject)
        if own is not None and subject is not None:
            own = replace(own, codes=subject[0].astype(np.int32), levels=subject[1])
        dispersion = None if self.dispersion is None else self.dispersion.take(rows)
        return replace(
            self, place=of(self.place), V=of(self.V), subject=own, sets=factor(self.sets), dispersion=dispersion
        )


def fit_residual(
    bar: ErrorBar | None,
    dispersion: Predictor | None,
    frame: Mapping,
    memory: dict[str, Any],
    labels: pd.Index,
    matrices: Mapping[str, Any] | None = None,
) -> ResidualDesign | None:
    """What the two arguments say of the rows that count, `labels`; None where they say nothing.

    Raises:
        DataError: a subject twice at one time or in two levels of ``by``, times that are not numbers where they must
            be, a formula of log φ whose columns do not add up to a constant.
    """
    own = None if bar is None else _fit_bar(bar, frame, memory, labels, matrices or {})
    if dispersion is None:
        return own
    if own is not None and own.sigma is not None:
        raise DataError(
            f"{own.text} says how large each error is, and dispersion={dispersion.formula!r} would say it again: leave "
            "one of them out, or take propto(...)"
        )
    V, constant, left = _beside_constant(dispersion)
    own = ResidualDesign(dispersion.formula) if own is None else own
    return replace(own, dispersion=dispersion, V=V, constant=constant, left=left)


# ---------------------------------------------------------------- the bar
def _fit_bar(
    bar: ErrorBar, frame: Mapping, memory: dict[str, Any], labels: pd.Index, matrices: Mapping[str, Any]
) -> ResidualDesign:
    n = len(labels)
    subject, seen = _factor(bar.name, bar.group, frame, n)
    if bar.time is None:
        place = ranks(subject.codes)
        times, values = tuple(str(k + 1) for k in range(int(place.max()) + 1)), None
    else:
        place, times, values = read_times(bar.time, frame, memory, labels)
    _check_once(bar, subject, place, times, labels)
    structure = covariance.STRUCTURES[bar.kind](len(times), **dict(bar.options))
    _check_errors(bar, structure)
    if bar.matrix is None:
        positions = positions_of(bar, structure, times, values)
    else:
        positions = known_root(bar.text, bar.matrix, times, matrices[bar.matrix])
        _check_definite(bar, positions, subject, place, values is not None)
    sigma = None
    if structure.absolute:
        sigma = float(np.sqrt(np.sum(positions**2) / len(times)))
        positions = positions / sigma
    if structure.levels and structure.positional:  # of all steps from the first to the last, also those not seen
        structure = covariance.resized(structure, int(positions.max()) + 1)
    sets, groupings = None, (seen,)
    if bar.by:
        sets, by = _factor(":".join(map(str, bar.by)), bar.by, frame, n)
        groupings = (seen, by)
        _check_whole(bar, subject, sets)
    return ResidualDesign(
        bar.text, structure, times, place, positions, subject, sets, bar=bar, groupings=groupings, values=values,
        sigma=sigma,
    )  # fmt: skip


def _check_errors(bar: ErrorBar, structure: Covariance) -> None:
    """Whether errors may have the structure."""
    if structure.amiss is not None:
        raise DataError(f"{bar.text}: {structure.amiss}")
    if structure.rank < structure.q:
        raise DataError(
            f"{bar.text}: {bar.kind}(...) has rank {structure.rank}, and errors at {structure.q} times are no "
            f"combinations of {structure.rank}: take us(...) or ante(...), or give random effects that rank, "
            f"{bar.kind}(0 + f | {bar.name}) in the formula"
        )
    if bar.by and not structure.num_params:
        raise DataError(f"{bar.text}: {bar.kind}(...) has no parameters that could differ: leave by= out")


def beside_sigma(
    terms: tuple[RandomTerm, ...], factors: Sequence[Factor], own: ResidualDesign | None
) -> tuple[tuple[RandomTerm, ...], ResidualDesign | None]:
    """Of a linear model the terms and the errors, where one of the terms has a covariance that is known itself: where
    sigma is estimated beside it, that is among the term's parameters.

    Raises:
        DataError: several such terms, or a formula of log φ.
    """
    absolute = [k for k, term in enumerate(terms) if term.covariance.absolute]
    if not absolute or (own is not None and own.sigma is not None):  # errors that are known: nothing is relative
        return _over_sigma(terms, 1.0 if own is None or own.sigma is None else own.sigma), own
    first = terms[absolute[0]]
    text = f"{first.covariance.name}(... | {factors[first.factor].name})"
    if len(absolute) > 1:
        raise DataError(
            f"{text}: a linear model has one term of a covariance that is known itself: add their matrices, or use "
            "glmm(formula, data, 'gaussian', matrices=...)"
        )
    if own is not None and own.dispersion is not None:
        raise DataError(
            f"{text} together with dispersion= cannot be had yet: leave one of them out, or use propto(...)"
        )
    changed = tuple(replace(term, covariance=term.covariance.beside_sigma()) for term in terms)
    return changed, replace(ResidualDesign(text) if own is None else own, searched=True)


def _over_sigma(terms: tuple[RandomTerm, ...], sigma: float) -> tuple[RandomTerm, ...]:
    """Roots of matrices that are known, relative to a sigma that is."""
    return tuple(
        replace(term, inputs=term.inputs / sigma) if term.covariance.absolute and term.inputs is not None else term
        for term in terms
    )


def _seen_codes(seen: SeenFactor, frame: Mapping, n: int) -> np.ndarray:
    return seen.rows(frame)[0] if seen.exprs else np.zeros(n, np.int32)


def _new_places(
    d: ResidualDesign, frame: Mapping, memory: dict[str, Any], codes: np.ndarray, labels: pd.Index
) -> tuple[np.ndarray, tuple[str, ...], Any]:
    """The place (n,) of other rows, the times with new ones behind those of the fit, and what the structure knows of
    them."""
    bar, structure = d.bar, d.covariance
    assert bar is not None and structure is not None
    if bar.time is None:
        place, names, values = ranks(codes), (), None
        names = tuple(str(k + 1) for k in range(int(place.max(initial=-1)) + 1))
    else:
        place, names, values = read_times(bar.time, frame, memory, labels)
    known = {name: k for k, name in enumerate(d.times)}
    new = [name for name in names if name not in known]
    times = (*d.times, *new)
    at = np.array([known.get(name, len(d.times) + (new.index(name) if name in new else 0)) for name in names], int)
    place = at[place]
    if not new:
        return place, times, d.positions
    if not structure.positional:
        raise DataError(
            f"{d.text}: the fit has not seen the time {new[0]!r}, whose variance is a parameter of its own; it has "
            f"{', '.join(map(repr, d.times[:8]))}"
        )
    if values is None:
        return place, times, np.arange(len(times))[:, None].astype(np.asarray(d.positions).dtype)
    numbers = values[[names.index(name) for name in new]]
    if structure.levels and d.values is not None:
        step = np.min(np.diff(d.values[:, 0])) if len(d.values) > 1 else 1.0
        steps = (numbers - d.values[0]) / step
        if np.max(np.abs(steps - np.round(steps))) > STEP:
            raise DataError(f"{d.text}: the time {new[0]!r} lies between the steps of {step:g} that the fit has seen")
        numbers = whole_steps(d.text, steps, new)
    return place, times, np.vstack([np.asarray(d.positions), numbers])


def _factor(name: str, exprs: tuple[Expr, ...], frame: Mapping, n: int) -> tuple[Factor, SeenFactor]:
    if not exprs:  # all rows together
        one = np.array(["1"], dtype=object)
        return Factor("1", one, np.zeros(n, np.int32)), SeenFactor("1", (), (), np.zeros(1, np.int64), one)
    grouping, codes = fit_grouping(name, exprs, frame)
    return Factor(grouping.name, grouping.labels, codes), grouping


def _check_definite(bar: ErrorBar, root: np.ndarray, subject: Factor, place: np.ndarray, numbers: bool) -> None:
    """Raises DataError where the known matrix of some subject's times is singular: errors have an inverse."""
    if np.min(np.abs(np.diag(root))) > SINGULAR * np.max(np.abs(root)):
        return
    for rows in same_size(subject.codes):
        L = root[place[rows]]
        w = np.linalg.eigvalsh(L @ np.swapaxes(L, 1, 2))
        bad = np.flatnonzero(w[:, 0] <= SINGULAR**2 * w[:, -1])
        if len(bad):
            where = f"of '{subject.name}' {str(subject.levels[subject.codes[rows[bad[0], 0]]])!r}"
            where = f"at the times {where}" if bar.group else "at the times of all rows together"
            raise DataError(
                f"{bar.text}: {bar.matrix} is singular {where}, and errors need a positive definite matrix: add a "
                f"little to its diagonal{_as_effects(bar, numbers)}"
            )


def _as_effects(bar: ErrorBar, numbers: bool) -> str:
    """How the formula has the same covariance for random effects, where it has; ``numbers``: whether the times are."""
    if bar.time is None:
        return ""
    time = f"factor({bar.time})" if numbers else bar.time
    group = bar.name if bar.group else "one"
    made = "" if bar.group else ", where the column 'one' has the same value in all rows"
    return (
        f", or let it be the covariance of random effects, {bar.kind}(0 + {time} | {group}, {bar.matrix}) in the "
        f"formula{made}"
    )


def _check_once(bar: ErrorBar, subject: Factor, place: np.ndarray, times: tuple[str, ...], labels: pd.Index) -> None:
    keys = subject.codes.astype(np.int64) * len(times) + place
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(again):
        first, second = order[again[0]], order[again[0] + 1]
        one = (
            f"'{subject.name}' {str(subject.levels[subject.codes[first]])!r}" if bar.group else "1, all rows together,"
        )
        a, b = row_text(labels[first]), row_text(labels[second])
        rows = f"rows {a} and {b}" if a != b else f"both rows are called {a}"
        more = f", one of {len(again)} such pairs" if len(again) > 1 else ""
        raise DataError(
            f"{bar.text}: {one} has two rows at '{bar.time}' {times[place[first]]!r} ({rows}){more}: keep one of them, "
            "or let a finer factor stand behind the bar"
        )


def _check_whole(bar: ErrorBar, subject: Factor, sets: Factor) -> None:
    of = np.full(len(subject.levels), -1)
    of[subject.codes] = sets.codes
    split = np.flatnonzero(of[subject.codes] != sets.codes)
    if len(split):
        level = str(subject.levels[subject.codes[split[0]]])
        raise DataError(
            f"{bar.text}: '{subject.name}' {level!r} has rows in several levels of '{sets.name}', by which the "
            "parameters differ: each subject must lie in one"
        )


# ---------------------------------------------------------------- log φ
def _beside_constant(p: Predictor) -> tuple[np.ndarray, np.ndarray, int]:
    """V, ``constant`` and ``left`` of the predictor of log φ."""
    constant = np.linalg.lstsq(p.X, np.ones(len(p.X)), rcond=None)[0]
    if np.max(np.abs(p.X @ constant - 1)) > 1e-8:
        raise DataError(
            f"dispersion='{p.formula}' has no intercept, so that it says how large the errors are but not in which "
            "unit: leave out '0 +' or '- 1'"
        )
    constant[np.abs(constant) < 1e-10] = 0.0
    left = int(np.flatnonzero(constant)[0])
    return np.delete(p.X, left, axis=1), constant, left
