"""The exact distribution of the restricted likelihood ratio of one variance, by simulation of its spectrum.

y = Xβ + Zb + ε, b ~ N(0, λσ² I), λ = 0 tested, n rows, X of rank p.  With P₀ the projection off X and μ₁ .. μ_K the
eigenvalues of Z'P₀Z, and independent w_s ~ N(0, 1),

    RLRT  =  sup_{λ ≥ 0}  (n − p) log(1 + N(λ) / D(λ)) − Σ_s log(1 + λ μ_s)

    N(λ) = Σ_s λ μ_s / (1 + λ μ_s) w_s²        D(λ) = Σ_s w_s² / (1 + λ μ_s) + χ²_{n − p − K}

(Crainiceanu & Ruppert 2004, J. R. Stat. Soc. B 66, theorem 1): exact in any sample, where ½χ²₀ + ½χ²₁ is the limit of
many levels and puts too little mass on zero with few.  With precisions w all rows are scaled by √w.  Where the model
has other variance components too, Z is that of the tested one alone, as if the others were known (Greven, Crainiceanu,
Küchenhoff & Peters 2008, J. Comput. Graph. Stat. 17): an approximation, and it says so.

Equal eigenvalues are summed: their w² together are χ².  The supremum is taken over a grid in log λ, and through the
three points about the highest a parabola.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmm._context import computing
from jaxmm._keywords import known_keywords
from jaxmm._random import as_key, words
from jaxmm._text import as_html, as_text, p_value
from jaxmm.describe import spell
from jaxmm.design import Design
from jaxmm.errors import check_alike
from jaxmm.fitted import Fitted
from jaxmm.objective.lmm import deviance

DRAWS = 10_000
LOWEST, HIGHEST, POINTS = -7.0, 5.0, 301  # of the grid: log₁₀ of λ times the mean eigenvalue
LARGEST = 6000  # eigenvalues: their matrix is dense
OTHERS = (
    "the other variances are taken for known: the distribution is that of the tested effects alone (Greven et al. 2008)"
)
ALIKE = 1e-9  # relative: eigenvalues that are equal
BLOCK = 1 << 22  # numbers at once


class ExactTest(NamedTuple):
    """``statistic``, the restricted likelihood ratio; ``p``, (1 + those of ``n`` draws that reach it) / (n + 1);
    ``zero``, the share of the draws that are zero; ``term``; ``notes``, a sentence each.

    Example:
        >>> batches = mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff"))
        >>> mm.exact_rlrt(batches, key=1).p < 0.05
        True
    """

    statistic: float
    p: float
    n: int
    zero: float
    term: str
    notes: tuple[str, ...]

    def _parts(self) -> list[str]:
        title = f"Exact restricted likelihood ratio test that the variance of {self.term} is zero"
        drawn = f"{self.n} draws, {100 * self.zero:.1f} % of them zero"
        return [title, f"RLRT = {self.statistic:.5g}, p = {p_value(self.p)} ({drawn})", *self.notes]

    def __repr__(self) -> str:
        return as_text(self._parts())

    def _repr_html_(self) -> str:
        return as_html(self._parts())


@known_keywords({"seed": "key=seed", "nsim": "the number of draws is n="})
def exact_rlrt(fit: Fitted, term: str | None = None, *, key: Any, n: int = DRAWS) -> ExactTest:
    """Test one variance of a linear model for zero, exactly in samples of any size where it is the only one.

    Args:
        fit: of a linear model, by REML.
        term: which bar, as ``fit.singular_terms`` writes them, ``"(1 | batch)"``, or by its grouping factor where that
            has one bar; it has one effect. Not needed where there is one bar.
        key: a seed, such as 1, or a key, such as ``jax.random.key(1)``; the draws depend on it alone.
        n: draws of the statistic under the hypothesis.

    Returns:
        ``ExactTest``: ``statistic``, ``p``, ``zero``; print it.

    With other bars beside it the model is fitted once more without the tested one.  ``mm.anova(fit0, fit1,
    method="exact")`` takes both fits.  Crainiceanu & Ruppert (2004, J. R. Stat. Soc. B 66), Greven et al. (2008, J.
    Comput. Graph. Stat. 17).

    Raises:
        ValueError: a fit by maximum likelihood or of another family, an unknown term, or one of several effects.

    Example:
        >>> yields = mm.lmm("Yield ~ 1 + (1 | Batch)", mm.datasets.load("dyestuff"))
        >>> test = mm.exact_rlrt(yields, key=1)  # print it
    """
    check(fit, n)
    d = fit.model.design
    t = _term(d, term)
    if len(d.terms) == 1:
        arrays: Any = fit.model.arrays
        with computing(fit.model.device):
            null = float(deviance(jnp.zeros(len(fit.theta)), arrays))
    else:
        null = without_term(fit.model, t).fit(control=fit._control).deviance
    return tested(fit, t, null - fit.deviance, n, key)


def check(fit: Any, n: Any) -> None:
    """Raises TypeError for what is no fit, and ValueError, with what would be accepted."""
    check_alike(getattr(fit, "model", None), "exact_rlrt()")
    if not isinstance(fit, Fitted):
        raise TypeError(f"the exact test takes a fit, as from lmm(), not {type(fit).__name__}")
    if not fit.reml:
        raise ValueError(
            "the exact test is of restricted likelihoods of linear models: fit with lmm(..., reml=True), or use "
            "mm.anova(..., method='bootstrap')"
        )
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a positive number of draws, not {n!r}")


def tested(fit: Any, t: int, statistic: float, n: int, key: Any) -> ExactTest:
    """Of the variance of the ``t``-th term of a fit, whose restricted likelihood ratio is known.

    Raises:
        ValueError: a term of several effects, or of too many levels.
    """
    d: Design = fit.model.design
    term, name = d.terms[t], names(d)[t]
    factor = d.factors[term.factor]
    if len(term.effects) != 1:
        raise ValueError(f"the exact test is of one variance, and {name} has {len(term.effects)} effects")
    if len(factor.levels) > LARGEST:
        raise ValueError(f"{name} has {len(factor.levels)} levels, more than {LARGEST}: use the mixture, method='lrt'")
    statistic = max(float(statistic), 0.0)
    mu = spectrum(d.X, term.Z, factor.codes, len(factor.levels), d.weights)
    draws = draw(mu, len(d.y) - d.X.shape[1], int(n), key)
    p = (1 + int(np.sum(draws >= statistic))) / (n + 1) if statistic > 0 else 1.0
    return ExactTest(statistic, p, int(n), float(np.mean(draws == 0)), name, (OTHERS,) if len(d.terms) > 1 else ())


def names(d: Design) -> list[str]:
    """The terms as they are written in a formula."""
    return [f"({spell(t.effects)} | {d.factors[t.factor].name})" for t in d.terms]


def _term(d: Design, asked: str | None) -> int:
    known = names(d)
    places: Sequence[int] = range(len(known))
    if asked is not None:
        factors = [d.factors[t.factor].name for t in d.terms]
        places = [k for k in places if asked in (known[k], factors[k])]
    if len(places) != 1:
        what = f"there is no one term {asked!r}" if asked is not None else "there are several terms"
        raise ValueError(f"{what}: term must be one of {', '.join(map(repr, known))}")
    return places[0]


def without_term(model: Any, t: int) -> Any:
    """The model without its ``t``-th term, and without the factor that has no other."""
    d: Design = model.design
    terms = [term for k, term in enumerate(d.terms) if k != t]
    used = sorted({term.factor for term in terms})
    moved = tuple(replace(term, factor=used.index(term.factor)) for term in terms)
    spec: Any = None
    name = names(d)[t]
    return model.with_design(
        replace(d, formula=f"{d.formula}, without {name}", terms=moved, factors=tuple(d.factors[f] for f in used),
                spec=spec, held_out=None)
    )  # fmt: skip


def spectrum(X: np.ndarray, Z: np.ndarray, codes: np.ndarray, levels: int, weights: np.ndarray | None) -> np.ndarray:
    """The eigenvalues of Z'P₀Z (J q, J q) that are not zero, with Z (n, q) that of a row's own level."""
    root = np.ones(len(X)) if weights is None else np.sqrt(weights)
    Q = np.linalg.qr(X * root[:, None])[0] if X.shape[1] else np.zeros((len(X), 0))
    q = Z.shape[1]
    own, cross = np.zeros((levels, q, q)), np.zeros((levels, q, Q.shape[1]))
    scaled = Z * root[:, None]
    np.add.at(own, codes, scaled[:, :, None] * scaled[:, None, :])
    np.add.at(cross, codes, scaled[:, :, None] * Q[:, None, :])
    M = -np.einsum("jap,kbp->jakb", cross, cross)
    at = np.arange(levels)
    M[at, :, at, :] += own
    mu = np.linalg.eigvalsh(M.reshape(levels * q, levels * q))[::-1]
    return mu[mu > 1e-10 * max(mu[0], 0.0)]


def draw(mu: np.ndarray, left: int, n: int, key: Any) -> np.ndarray:
    """(n,) of the statistic under the hypothesis, with the eigenvalues ``mu`` and n − p = ``left``."""
    rng = np.random.Generator(np.random.Philox(key=np.asarray(words(as_key(key)), np.uint64)))
    values, counts = _distinct(mu)
    rest = left - int(counts.sum())
    steps = np.linspace(LOWEST, HIGHEST, POINTS)
    lam = np.exp(np.log(10) * steps) / np.mean(mu)
    a = np.outer(values, lam)  # λ μ
    logdet = counts @ np.log1p(a)
    out, size = [], max(1, BLOCK // max(POINTS, len(values)))
    for first in range(0, n, size):
        m = min(size, n - first)
        w = rng.chisquare(counts.astype(float), (m, len(values)))
        beyond = rng.chisquare(rest, m) if rest > 0 else np.zeros(m)
        down = w @ (1 / (1 + a)) + beyond[:, None]
        total = w.sum(axis=1) + beyond
        height = left * np.log(total[:, None] / down) - logdet  # N + D is the sum of all w²
        out.append(_peak(height))
    return np.concatenate(out)


def _distinct(mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues that differ, and how many there are of each."""
    starts = np.flatnonzero(np.concatenate([[True], -np.diff(mu) > ALIKE * mu[0]]))
    counts = np.diff(np.append(starts, len(mu)))
    return np.add.reduceat(mu, starts) / counts, counts


def _peak(height: np.ndarray) -> np.ndarray:
    """The highest of each row (m, points), through it and its neighbours a parabola; not below zero, as at λ = 0."""
    k = np.clip(np.argmax(height, axis=1), 1, height.shape[1] - 2)
    rows = np.arange(len(height))
    a, b, c = (height[rows, k + d] for d in (-1, 0, 1))
    bend = a - 2 * b + c
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = np.where(bend < 0, -((c - a) ** 2) / (8 * bend), 0.0)
    top = np.where((b >= a) & (b >= c), b + lift, np.maximum(a, c))
    return np.maximum(top, 0.0)
