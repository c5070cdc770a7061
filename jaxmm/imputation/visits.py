"""A table of a trial, with a row for each visit of each subject, and its fit -> subjects by visits.

Rows whose response is missing are to be imputed; the others must be those of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm._text import some
from jaxmm.design import DataError, NewData
from jaxmm.design.columns import row_text
from jaxmm.design.residual import ResidualDesign
from jaxmm.errors import row_errors
from jaxmm.imputation.rules import RULES, Normal, completed


@dataclass(frozen=True, eq=False)
class Visits:
    """The m rows of a table as S subjects by T visits.

    ``at`` (S, T) the row of each visit; ``y`` (m,) the response, NaN where it is missing; of each row what its own arm
    and what the reference arm has: ``X`` and offset in ``rows``, ``errors``.  ``elsewhere`` (m,): the rows of other
    arms than the reference.
    """

    fit: Any
    at: np.ndarray
    y: np.ndarray
    rows: tuple[NewData, NewData]
    errors: tuple[ResidualDesign, ResidualDesign]
    elsewhere: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """(m,) the rows without a response."""
        return np.isnan(self.y)

    @property
    def after(self) -> np.ndarray:
        """(m,) those of them after the last visit that was seen of their subject."""
        there = ~self.missing[self.at]
        out = np.zeros(len(self.y), bool)
        out[self.at] = np.cumsum(there[:, ::-1], axis=1)[:, ::-1] == 0
        return out

    def complete(self, beta: np.ndarray, theta: np.ndarray, sigma: float, method: str, z: np.ndarray) -> np.ndarray:
        """(m,) the response with what is missing drawn at some parameters, from standard normal z (m,)."""
        means = [r.X @ beta + r.offset for r in self.rows]
        sizes = [row_errors(self.fit.model, theta, e, None, len(self.y)) for e in self.errors]
        there, out = ~self.missing[self.at], self.y.copy()
        kinds, of = np.unique(there, axis=0, return_inverse=True)
        for k, kind in enumerate(kinds):
            if kind.all():
                continue
            at = self.at[np.ravel(of) == k]
            own, ref = (Normal(m[at], sigma**2 * e.blocks(at)) for m, e in zip(means, sizes, strict=True))
            seen = int(np.max(np.flatnonzero(kind), initial=-1)) + 1
            out[at] = completed(self.y[at], kind, RULES[method](own, ref, seen), z[at])
        return out


def read_visits(fit: Any, table: pd.DataFrame, arm: str, reference: Any) -> Visits:
    """Of a ``table`` for which ``fit`` holds.

    Raises:
        ValueError: a fit that has no covariance of visits, or more than that.
        DataError: a column that there is not, a subject without a row at a visit or in several arms, an explanatory
            variable that is missing, other responses than those of the fit.
    """
    response = _check_fit(fit)
    d = fit.model.design
    for name, what in ((response, "the response"), (arm, "arm=")):
        if name not in table:
            raise DataError(f"data has no column {name!r}, {what}; it has {', '.join(map(repr, table.columns))}")
    y = pd.Series(pd.to_numeric(table[response])).to_numpy(float, na_value=np.nan)
    arms = table[arm].to_numpy()
    lacking = np.asarray(pd.isna(arms))
    if lacking.any():
        raise DataError(f"the arm {arm!r} is missing at row {int(np.argmax(lacking))}, from 0")
    if not (arms == reference).any():
        has = some([row_text(a) for a in pd.unique(arms)])
        raise DataError(f"reference={row_text(reference)} is no value of {arm!r}: it has {has}")
    if arm not in d.spec.held:
        raise DataError(f"arm={arm!r} is not in the formula {d.formula!r}, so that the arms have the same means")
    other = table.drop(columns=response)
    tables = other, other.assign(**{arm: np.full(len(table), reference, table[arm].to_numpy().dtype)})
    rows = tuple(d.evaluate(t) for t in tables)
    bad = ~np.isfinite(rows[0].X).all(axis=1)
    if bad.any():
        raise DataError(
            f"an explanatory variable of the formula is missing at row {int(np.argmax(bad))}, from 0: only the "
            "response is imputed; leave such subjects out, or fill in what is missing of them first"
        )
    errors = tuple(r.errors() for r in rows)  # pyright: ignore[reportOptionalCall]
    at = _laid_out(errors[0], table, arms, arm)
    visits = Visits(fit, at, y, rows, errors, arms != reference)  # pyright: ignore[reportArgumentType]
    _check_same(visits)
    return visits


def _check_fit(fit: Any) -> str:
    """The name of the response."""
    d = fit.model.design
    own, response = d.residual, str(d.response).strip("`")
    wrong = None
    if own is None or own.subject is None or own.bar is None or d.spec is None:
        wrong = "has no covariance of the visits: fit it with residual='us(visit | subject)'"
    elif own.bar.time is None:
        wrong = f"goes by the order of the rows, {own.text}, which those that are missing have not: name the visit"
    elif d.factors:
        wrong = "has random effects too: leave them to the covariance of the errors, as us(visit | subject) does"
    elif d.weights is not None:
        wrong = "has weights, of which rows that are missing have none"
    elif not response.isidentifier():
        wrong = f"has the response {response!r}: make it a column of its own, so that a column can be filled in"
    if wrong:
        raise ValueError(f"impute_reference is for models of repeated measures, and this one {wrong}")
    return response


def _laid_out(errors: ResidualDesign, table: pd.DataFrame, arms: np.ndarray, arm: str) -> np.ndarray:
    """(S, T) the row of each visit of each subject."""
    assert errors.subject is not None and errors.place is not None
    codes, place = errors.subject.codes, errors.place
    used, subject = np.unique(codes, return_inverse=True)
    at = np.full((len(used), len(errors.times)), -1)
    at[subject, place] = np.arange(len(codes))

    def who(s: int) -> str:
        row = int(np.max(at[s]))
        names = [str(e) for e in errors.groupings[0].exprs]
        return ", ".join(f"{name} {table[name].iloc[row]!s}" for name in names if name in table)

    if np.any(at < 0):
        s, t = map(int, np.argwhere(at < 0)[0])
        raise DataError(
            f"data has no row of {who(s)} at the visit {errors.times[t]!r}: it needs one for each visit of each "
            "subject, with a missing response where nothing was seen"
        )
    several = np.flatnonzero(np.any(arms[at] != arms[at[:, :1]], axis=1))
    if len(several):
        raise DataError(f"{who(int(several[0]))} is in several arms of {arm!r}: a subject must be in one")
    return at


def _check_same(v: Visits) -> None:
    """Raises DataError where the responses are not those of the fit."""
    d = v.fit.model.design
    own, J = d.residual, len(d.residual.subject.levels)
    ours = np.full((J, len(v.errors[0].times)), np.nan)
    ours[own.subject.codes, own.place] = d.y
    codes, place = v.errors[0].subject.codes, v.errors[0].place  # pyright: ignore
    theirs = np.full((max(int(codes.max()) + 1, J), ours.shape[1]), np.nan)
    theirs[codes, place] = v.y
    lacking = np.setdiff1d(np.arange(J), codes)
    if len(lacking):
        raise DataError(
            f"data has no row of {own.subject.levels[lacking[0]]!s}, one of {len(lacking)} of '{own.subject.name}' "
            "that the fit has: give the data that it was fitted to, with a row for each visit"
        )
    ours = np.pad(ours, ((0, len(theirs) - J), (0, 0)), constant_values=np.nan)
    other = np.argwhere(~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs))))
    if len(other):
        s, t = map(int, other[0])
        subject = str(own.subject.levels[s]) if s < J else "a subject that the fit has not seen"
        raise DataError(
            f"data has the response {theirs[s, t]:g} of {subject} at the visit {v.errors[0].times[t]!r}, and the fit "
            f"{ours[s, t]:g} (nan: none): give the data that it was fitted to, with a row for each visit"
        )
