"""Many hypotheses at once: p-values -> adjusted ones.

With m p-values sorted upwards, p_(1) <= .. <= p_(m), and c = 1 + 1/2 + .. + 1/m:

    bonferroni   m p                                 family-wise error, any dependence
    holm         max over j <= i of (m - j + 1) p_(j)      the same, never larger (Holm 1979, Scand. J. Stat. 6)
    fdr_bh       min over j >= i of m p_(j) / j      false discovery rate of independent or positively dependent tests
                                                     (Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57)
    fdr_by       c times that                        under any dependence (Benjamini & Yekutieli 2001, Ann. Stat. 29)

all cut at 1.  NaN stands for a test that could not be made; it is not counted in m.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def _bonferroni(p: np.ndarray) -> np.ndarray:
    return len(p) * p


def _holm(p: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate((len(p) - np.arange(len(p))) * p)


def _fdr_bh(p: np.ndarray) -> np.ndarray:
    m = len(p)
    return np.minimum.accumulate((m / np.arange(1, m + 1) * p)[::-1])[::-1]


def _fdr_by(p: np.ndarray) -> np.ndarray:
    return np.sum(1 / np.arange(1, len(p) + 1)) * _fdr_bh(p)


METHODS = {"fdr_bh": _fdr_bh, "fdr_by": _fdr_by, "bonferroni": _bonferroni, "holm": _holm}  # of sorted p-values


def adjust(p: Any, method: str | None = "fdr_bh") -> np.ndarray:
    """Adjusted p-values (m,): those below a level q are the hypotheses to reject at it.

    Args:
        p: (m,) in 0..1, NaN where there was no test.
        method: "fdr_bh", "fdr_by", "bonferroni", "holm", or None for the p-values as they are.

    Raises:
        ValueError: an unknown method; a p-value outside 0..1.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"adjust must be one of {', '.join(map(repr, METHODS))} or None, not {method!r}")
    p = np.array(p, float)
    if p.ndim != 1:
        raise ValueError(f"p-values must be (m,), one family of tests; got shape {p.shape}")
    known = np.flatnonzero(~np.isnan(p))
    if np.any((p[known] < 0) | (p[known] > 1)):
        raise ValueError(f"p-values lie between 0 and 1, and there is {p[known][(p[known] < 0) | (p[known] > 1)][0]:g}")
    if method is not None and len(known):
        by_size = known[np.argsort(p[known], kind="stable")]
        p[by_size] = np.minimum(METHODS[method](p[by_size]), 1.0)
    return p
