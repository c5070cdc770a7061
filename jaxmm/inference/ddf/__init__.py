"""Degrees of freedom of tests of fixed effects, by the name of the method: prepared model, estimates → ``Reference``.

A method of one's own is a function with an entry in ``METHODS``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxmm.inference.ddf._base import Denominator as Denominator
from jaxmm.inference.ddf._base import Reference as Reference
from jaxmm.inference.ddf.constant import Constant as Constant
from jaxmm.inference.ddf.constant import asymptotic, between_within, residual
from jaxmm.inference.ddf.kenward_roger import kenward_roger, kenward_roger_linear
from jaxmm.inference.ddf.satterthwaite import satterthwaite

METHODS: dict[str, Callable[[Any, Any], Reference]] = {
    "satterthwaite": satterthwaite,
    "kenward-roger": kenward_roger,
    "kenward-roger-linear": kenward_roger_linear,
    "between-within": between_within,
    "residual": residual,
    "asymptotic": asymptotic,
}

OTHER_NAMES = {
    "kr": "kenward-roger",
    "z": "asymptotic",
    "normal": "asymptotic",
    "inf": "asymptotic",
    "bw": "between-within",
}


def reference(model: Any, estimates: Any, ddf: str | None = None) -> Reference:
    """What tests of a fit's coefficients are made with; ``ddf`` None is the default of its kind of model.

    Raises:
        ValueError: a method that there is not, or that does not hold for the model.
    """
    accepted = model.likelihood.ddf
    name = accepted[0] if ddf is None else ddf.lower() if isinstance(ddf, str) else ddf
    if name in accepted:
        return METHODS[name](model, estimates)
    shown = ", ".join(map(repr, accepted))
    if name in METHODS:
        raise ValueError(f"ddf={ddf!r} is for linear mixed models; this one takes {shown}")
    close = difflib.get_close_matches(OTHER_NAMES.get(str(name), str(name)), accepted, 1)
    meant = [m for m in accepted if isinstance(name, str) and name and m.startswith(name)] or close
    raise ValueError(f"ddf must be one of {shown}, not {ddf!r}" + (f"; did you mean {meant[0]!r}?" if meant else ""))


def with_covariance(method: Reference, vcov: Any, names: Sequence[str]) -> Reference:
    """The same with another covariance: a matrix of all coefficients (p, p), or of those of the mean, which ``names``
    are; the others keep theirs.  A table may have its rows and columns in another order.

    Raises:
        ValueError: a matrix of another shape, with other names, or one that is no covariance.
    """
    if isinstance(vcov, pd.DataFrame):
        if set(vcov.index) == set(vcov.columns) == set(names):
            vcov = vcov.loc[list(names), list(names)]
        elif not vcov.index.equals(vcov.columns) or len(vcov) == len(names):
            raise ValueError(f"the rows and columns of vcov must be {', '.join(map(repr, names))}")
    V, whole, k = np.asarray(vcov, float), np.array(method.vcov), len(names)
    if V.shape not in ((k, k), whole.shape):
        raise ValueError(f"vcov must be a matrix ({k}, {k}), not of shape {V.shape}")
    if not np.allclose(V, V.T, rtol=1e-8, atol=0, equal_nan=True):
        raise ValueError("vcov must be a symmetric matrix")
    variance = np.diag(V)
    if np.any(variance <= 0) or (
        np.all(np.isfinite(V)) and np.linalg.eigvalsh(V / np.sqrt(np.outer(variance, variance)))[0] < -1e-8
    ):
        raise ValueError("vcov is no covariance matrix: some variances of sums of the coefficients are not above zero")
    whole[: len(V), : len(V)] = V
    return WithCovariance(method, whole)


GIVEN = "standard errors by the covariance given"


@dataclass(frozen=True, eq=False)
class WithCovariance:
    """Another covariance matrix of β̂ (p, p), on which there are notes of its ``own``; degrees of freedom as ``method``
    has them for its own."""

    method: Reference
    vcov: np.ndarray
    own: tuple[str, ...] = (GIVEN,)

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def beta(self) -> np.ndarray:
        return self.method.beta

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.method.notes, *self.own)

    def df(self, L: np.ndarray) -> np.ndarray:
        return self.method.df(L)

    def denominator(self, L: np.ndarray) -> Denominator:
        return self.method.denominator(L)
