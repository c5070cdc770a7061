"""Rows of subjects that have others in the fit: what the errors of these say of theirs, in a model without random
effects.

    y_i | y_o  ~  N(x_i'β + k_i'(y_o - X_oβ),  σ²(R_ii - k_i'R_oi)),        k_i = R_oo^-1 R_oi

over the rows o of the subject, of which there are none where the fit has not seen it.  At β̂ the error of that mean is
a_i'(β̂ - β), a_i = x_i - X_o'k_i.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxmm.design import NewData
from jaxmm.errors import both_errors
from jaxmm.fitted import Fitted

SEEN = 1e-10  # of its variance: what is left of a row is rounding


class Given(NamedTuple):
    """Of m rows: ``shift`` (m,) = k'(y_o - X_oβ̂), ``A`` (m, p) of a, and ``left`` (m,), what is left of the variance
    over σ²."""

    shift: np.ndarray
    A: np.ndarray
    left: np.ndarray


def given_others(fit: Fitted, rows: NewData, theta: Any = None, weights: np.ndarray | None = None) -> Given:
    """Of new rows, whose ``weights`` (m,) are one where None; at another ``theta`` (m,) than the fit's, β̂ as it is."""
    d, m = fit.model.design, len(rows.X)
    assert rows.errors is not None and d.residual is not None
    new, n = rows.errors(), len(d.y)
    both = both_errors(fit.model, fit.theta if theta is None else theta, (d.residual, d.weights, n), (new, weights, m))
    out = Given(np.zeros(m), rows.X.copy(), both.sd[n:] ** 2)
    if new.subject is None or d.residual.subject is None:
        return out
    e = d.y - d.X @ np.asarray(fit.estimates.beta) - (0.0 if d.offset is None else d.offset)
    codes, theirs = new.subject.codes, d.residual.subject.codes
    for code in np.unique(codes[(codes >= 0) & (codes < len(d.residual.subject.levels))]):
        seen, ahead = np.flatnonzero(theirs == code), np.flatnonzero(codes == code)
        between = both.blocks(n + ahead, seen)
        k = np.linalg.solve(both.blocks(seen), between.T)
        out.shift[ahead] = e[seen] @ k
        out.A[ahead] -= k.T @ d.X[seen]
        out.left[ahead] -= np.einsum("os,so->o", between, k)
    known = out.left <= SEEN * both.sd[n:] ** 2  # the row itself is among them
    return out._replace(A=np.where(known[:, None], 0.0, out.A), left=np.where(known, 0.0, out.left))
