"""What a fit says of its errors: their covariance within a subject, by time, and the predictor of log φ.

Cov(ε)  =  σ² diag(s) C diag(s)        C of the times, from the residual's part of theta,    log s² = V γ - log w
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm import _text
from jaxmm._runs import same_size
from jaxmm.covariance import simpler
from jaxmm.design.residual import ResidualDesign
from jaxmm.structure import ResidualLayout
from jaxmm.tables import correlation

MOST_SHOWN = 12  # times whose correlations are printed


@dataclass(frozen=True, eq=False)
class ResidualCovariance:
    """The errors of a linear mixed model with ``residual=`` or ``dispersion=``; ``fit.residual``.

    Where parameters differ ``by`` a factor, ``cov``, ``corr`` and ``sd`` are mappings by its levels.  With weights or
    a formula of log φ they are of a row whose weight and whose exp(V γ) are one.

    Attributes:
        text: the argument ``residual``, or the formula of log φ, with the columns that it does without.
        times: what stands on the left of the bar, T values.
        params: what the structure itself is made of, first σ, the standard deviation at the first time: those of other
            times relative to it, correlations (``rho`` where one says all: of any two times, or of times one step
            apart), rates, and the coefficients γ of log φ.  Where they differ ``by`` a factor, σ is of its first
            level, and ``sd ratio`` of another is its standard deviation at the first time over σ.

    Example:
        >>> mmrm = mm.lmm("Reaction ~ Days", mm.datasets.load("sleepstudy"), residual="ar1(Days | Subject)")
        >>> mmrm.residual.corr.iloc[:2, :2].round(2).to_numpy().tolist()
        [[1.0, 0.78], [0.78, 1.0]]
    """

    text: str
    times: tuple[str, ...]
    sets: tuple[str, ...]
    matrices: tuple[np.ndarray, ...]
    params: pd.Series

    def _by(self, values: list[Any]) -> Any:
        if not values:
            return None
        return dict(zip(self.sets, values, strict=True)) if self.sets else values[0]

    @property
    def cov(self) -> Any:
        """(T, T) of the errors of one subject; None where they are independent."""
        return self._by([self._frame(V) for V in self.matrices])

    @property
    def corr(self) -> Any:
        """(T, T) their correlations."""
        return self._by([self._frame(correlation(V)) for V in self.matrices])

    @property
    def sd(self) -> Any:
        """(T,) their standard deviations."""
        return self._by([pd.Series(np.sqrt(np.diag(V)), list(self.times), name="sd") for V in self.matrices])

    def _frame(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, list(self.times), list(self.times))

    def __str__(self) -> str:
        lines = [f"Residual covariance: {self.text}"]
        for name, V in zip(self.sets or ("",), self.matrices, strict=False):
            lines += [f" {name}"] if name else []
            lines += [" " + line for line in _shown(V, self.times)]
        if len(self.params) and (not self.matrices or len(self.times) > MOST_SHOWN or len(self.params) <= 4):
            values = _text.number_column(self.params.to_numpy(float), 4)
            lines += [" " + x for x in _text.align([list(map(str, self.params.index)), values], [True] * len(values))]
        return "\n".join(lines)

    __repr__ = __str__


def _shown(V: np.ndarray, times: tuple[str, ...]) -> list[str]:
    """Standard deviation and correlations of each time."""
    if len(times) > MOST_SHOWN:
        return []
    R, sd = correlation(V), _text.number_column(np.sqrt(np.diag(V)), 4)
    rows = [["", "Std.Dev.", "Corr", *[""] * (len(times) - 2)][: len(times) + 1]]
    for k, name in enumerate(times):
        shown = [f"{R[k, l]:.2f}" if l < k else "" for l in range(len(times) - 1)]
        rows.append([name, sd[k], *shown])
    return _text.align(rows, [False, *[True] * len(times)])


def residual_covariance(d: ResidualDesign, layout: ResidualLayout, rho: np.ndarray, sigma: float) -> ResidualCovariance:
    """Of the residual's part ``rho`` (k,) of theta."""
    thetas, gamma = layout.split(np.asarray(rho, float))
    matrices, params = [], {"sigma": sigma}
    names = () if d.sets is None else tuple(map(str, d.sets.levels))
    structure: Any = d.covariance
    for k, theta in enumerate(thetas):
        matrices.append(sigma**2 * np.asarray(structure.covariance(theta, d.positions)))
        own: Mapping[str, float] = structure.parameters(theta, d.times)
        if k:
            own = {"sd ratio": float(np.sqrt(matrices[k][0, 0] / matrices[0][0, 0])), **own}
        params |= {f"{name} ({names[k]})" if names else name: value for name, value in own.items()}
    if d.dispersion is not None and d.constant is not None:
        params |= dict(zip([f"log phi~{c}" for c in d.dispersion.columns], log_phi(d, gamma, sigma), strict=True))
    return ResidualCovariance(d.shown, d.times, names, tuple(matrices), pd.Series(params, name="estimate", dtype=float))


def log_phi(d: ResidualDesign, gamma: np.ndarray, sigma: float) -> np.ndarray:
    """(k,) the coefficients of log φ as the formula has them."""
    assert d.constant is not None
    return 2 * np.log(sigma) * d.constant + np.insert(np.asarray(gamma, float), d.left, 0.0)


def borne_text(d: ResidualDesign) -> str:
    """What parameters a covariance of the errors has, what the data have for them, and which structures have fewer."""
    structure, subject = d.covariance, d.subject
    assert structure is not None and subject is not None
    if structure.known:
        return f"so is the matrix of {d.text}: add a little to its diagonal"
    sizes, each = np.bincount(subject.codes), ""
    most, k = int(sizes.max()), structure.num_params
    longest = int(np.sum(sizes == most))
    if d.sets is not None:
        each = f" for each of {len(d.sets.levels)} levels of '{d.sets.name}'"
    fewer = simpler(structure)
    return (
        f"{d.text} has {k} parameters{each}, sigma among them, and of {len(sizes)} levels of '{subject.name}' "
        f"{longest} {'has' if longest == 1 else 'have'} {most} rows and none has more; "
        f"{', '.join(fewer) or 'no structure of correlations'} {'have' if len(fewer) > 1 else 'has'} fewer"
    )


def check_alike(model: Any, what: str) -> None:
    """Raises NotImplementedError, of ``what`` is asked for, where the errors of a model have a covariance of their own;
    nothing of what is no model."""
    check_sigma(model, what)
    own = getattr(getattr(model, "design", None), "residual", None)
    if own is not None:
        raise NotImplementedError(
            f"{what} cannot be had yet of a model whose errors are correlated or of unequal variances, {own.text!r}"
        )


def check_sigma(model: Any, what: str) -> None:
    """The same where a covariance is known itself, so that sigma is not the mean square that is left."""
    own = getattr(getattr(model, "design", None), "residual", None)
    if own is not None and (own.searched or own.sigma is not None):
        raise NotImplementedError(f"{what} cannot be had yet of a model with a covariance that is known, {own.text!r}")


# ---------------------------------------------------------------- row by row
@dataclass(frozen=True, eq=False)
class RowErrors:
    """The errors of some rows at the estimates, relative to σ²: ``C`` (T, T) of each set of parameters, and of each row
    its subject, its time, its set, and s (n,)."""

    C: list[np.ndarray]
    subject: np.ndarray | None
    place: np.ndarray | None
    sets: np.ndarray
    s: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """(n,) of each row, relative to σ."""
        if self.place is None:
            return self.s
        return self.s * np.sqrt(np.stack(self.C)[self.sets, self.place, self.place])

    def blocks(self, rows: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
        """Covariances (.., a, b) between ``rows`` (.., a) and ``others`` (.., b), which are the same by default."""
        others = rows if others is None else others
        scale = self.s[rows][..., :, None] * self.s[others][..., None, :]
        if self.place is None or self.subject is None:
            return scale * (rows[..., :, None] == others[..., None, :])
        same = self.subject[rows][..., :, None] == self.subject[others][..., None, :]
        of = self.sets[rows][..., :, None]
        C = np.stack(self.C)[of, self.place[rows][..., :, None], self.place[others][..., None, :]]
        return scale * same * C

    def coloured(self, z: np.ndarray) -> np.ndarray:
        """Errors over σ (m, n) from standard normal z (m, n): the lower triangular root of each subject's block."""
        if self.subject is None:
            return z * self.s
        out = np.empty_like(z)
        for rows in same_size(self.subject):
            root = np.linalg.cholesky(self.blocks(rows))
            out[:, rows] = np.einsum("cab,mcb->mca", root, z[:, rows])
        return out

    def whitened(self, e: np.ndarray) -> np.ndarray:
        """(n,) what ``coloured`` makes e (n,) of."""
        if self.subject is None:
            return e / self.s
        out = np.empty_like(e)
        for rows in same_size(self.subject):
            out[rows] = np.linalg.solve(np.linalg.cholesky(self.blocks(rows)), e[rows][..., None])[..., 0]
        return out

    def solved(self, A: np.ndarray) -> np.ndarray:
        """R^-1 A of rows A (n, p)."""
        if self.subject is None:
            return A / self.s[:, None] ** 2
        out = np.empty_like(A)
        for rows in same_size(self.subject):
            out[rows] = np.linalg.solve(self.blocks(rows), A[rows])
        return out


def row_errors(model: Any, theta: np.ndarray, d: ResidualDesign | None, weights: Any, n: int) -> RowErrors:
    """Of n rows, whose ``d`` it is, at theta (m,) of a fit; ``weights`` (n,) or None.  Without ``d`` of errors that are
    independent."""
    if d is None:
        return RowErrors([], None, None, np.zeros(n, int), np.ones(n) if weights is None else 1 / np.sqrt(weights))
    return _of_rows(_matrices(model, theta, d), model, theta, (d, weights, n))


Rows = tuple[ResidualDesign, Any, int]  # what ``row_errors`` takes of some rows


def both_errors(model: Any, theta: np.ndarray, seen: Rows, new: Rows) -> RowErrors:
    """Of rows of the fit, and after them new ones, which may have further times."""
    C = _matrices(model, theta, new[0])
    a, b = (_of_rows(C, model, theta, rows) for rows in (seen, new))

    def of(x: Any, y: Any) -> Any:
        return None if x is None or y is None else np.concatenate([x, y])

    return RowErrors(C, of(a.subject, b.subject), of(a.place, b.place), of(a.sets, b.sets), of(a.s, b.s))


def _matrices(model: Any, theta: np.ndarray, d: ResidualDesign) -> list[np.ndarray]:
    """C (T, T) of each set of parameters."""
    structure: Any = d.covariance
    thetas = model.structure.residual.split(np.asarray(theta, float)[model.structure.num_random :])[0]
    return [np.asarray(structure.covariance(t, d.positions)) for t in thetas]


def _of_rows(C: list[np.ndarray], model: Any, theta: np.ndarray, rows: Rows) -> RowErrors:
    d, weights, n = rows
    layout: ResidualLayout = model.structure.residual
    gamma = layout.split(np.asarray(theta, float)[model.structure.num_random :])[1]
    log_s2 = np.zeros(n) if d.V is None else d.V @ gamma
    s = np.exp(0.5 * log_s2) / (1.0 if weights is None else np.sqrt(weights))
    sets = np.zeros(n, int) if d.sets is None else d.sets.codes
    subject = None if d.subject is None else d.subject.codes
    return RowErrors(C, subject, d.place, sets, s)
