"""The parameters that people read, as smooth functions h of the vector that a search moves.

    coefficient      (T_X β_s)_k, from the estimate
    sd               |(Tλ)_a|                      a row of Tλ for each effect of a factor; times σ in a linear model
    correlation      arcsin ρ,  ρ = (Tλ)_a · (Tλ)_b / (|(Tλ)_a| |(Tλ)_b|)
    σ, φ             their logarithms
    others           as the family names them

An arcsine has a slope at ρ = 1, where ρ itself has none in θ; by Lagrange's identity it is exact there:

    arcsin ρ = atan2(a · b, √Σ_{i<j} (a_i b_j - a_j b_i)²)

Rows and coefficients are divided by what the changes of columns make of their size, so that h is of about unit size;
``Quantities.value`` leads back.  Names are those of ``FitBatch.to_frame``: "Days", "sd_Days|Subject",
"cor_(Intercept).Days|Subject", "sigma", "dispersion", "zi~(Intercept)".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.covariance import free
from jaxmm.fitted import Fitted
from jaxmm.results.schema import cor_label, sd_label
from jaxmm.tables import pairs

EDGE = 1e-4  # of an angle, or of a standard deviation's estimate: nearer to the end of its range than a profile goes
FAR = 25.0  # from log φ or 2 log σ: further than that from its estimate no profile goes
COEFFICIENT, SD, CORRELATION, SCALE, CONSTANT = range(5)  # what a quantity is


class Shape(NamedTuple):
    """Which quantities there are, in the order of h: static.  ``p`` coefficients; (factor in elimination order, effect)
    of each sd; (factor, effect, effect) of each correlation; whether there is σ or φ; how many constants after it."""

    p: int
    sds: tuple[tuple[int, int], ...]
    correlations: tuple[tuple[int, int, int], ...]
    scale: bool
    constants: int


@dataclass(frozen=True)
class Quantities:
    """The quantities of a fit, in the order of h; all lists have one entry for each.

    Attributes:
        names: what tables call them.
        terms: what ``tidy`` calls them.
        kinds: COEFFICIENT, SD, CORRELATION, SCALE or CONSTANT.
        estimates: (K,) in the units of the data.
        units: (K,) of an h of one; what φ and σ are powers of: value = exp(h units).
        rows: per factor T (q, q) with rows of length one.
        shown: the order of tables.
    """

    shape: Shape
    names: list[str]
    terms: list[str]
    kinds: list[int]
    estimates: np.ndarray
    units: np.ndarray
    rows: list[np.ndarray]
    shown: list[int]

    def value(self, k: int, h: Any) -> Any:
        """Of quantity k in the units of the data, from h; increasing."""
        kind, unit = self.kinds[k], self.units[k]
        if kind == COEFFICIENT:
            return self.estimates[k] + unit * np.asarray(h)
        if kind == CORRELATION:
            return np.sin(h)
        return np.exp(unit * np.asarray(h)) if kind == SCALE else unit * np.asarray(h)

    def slope(self, k: int, h: Any) -> Any:
        """dvalue/dh."""
        kind, unit = self.kinds[k], self.units[k]
        if kind == CORRELATION:
            return np.cos(h)
        return unit * np.exp(unit * np.asarray(h)) if kind == SCALE else unit * np.ones_like(h)

    def ends(self, k: int, h: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """How far a profile of quantity k goes from its estimate h, down and up: (the last h, the value that this
        stands for)."""
        kind = self.kinds[k]
        if kind == SD:
            return (EDGE * h, 0.0), (np.inf, np.inf)
        if kind == CORRELATION:
            return (EDGE - np.pi / 2, -1.0), (np.pi / 2 - EDGE, 1.0)
        if kind == SCALE:
            return (h - FAR, 0.0), (h + FAR, np.inf)
        return (-np.inf, -np.inf), (np.inf, np.inf)


def quantities(fit: Fitted, relative: bool) -> Quantities:
    """Those of a fit; ``relative``: θ is so to σ, and the scale log σ from its estimate."""
    d, arrays, family, e = fit.model.design, fit.model.arrays, fit.family, fit.estimates
    sigma = fit.sigma if relative else 1.0
    T, T_X = [np.asarray(t) for t in arrays.T], np.asarray(arrays.T_X)
    lengths = [np.linalg.norm(t, axis=1) for t in T]
    found: list[tuple[str, str, int, float, float]] = [
        (name, name, COEFFICIENT, float(beta), sigma * float(np.linalg.norm(row)))
        for name, beta, row in zip(d.coefficients, np.asarray(e.beta), T_X, strict=True)
    ]
    sds, correlations, spreads, angles = [], [], [], []
    blocks = {b.group: b for b in fit.varcorr().blocks}
    for f in dict.fromkeys(term.factor for term, _ in fit._term_layouts()):
        own = [t for t in d.terms if t.factor == f]
        group, effects, related = d.factors[f].name, [x for t in own for x in t.effects], free(own)
        place, sd, corr = fit.model.elimination.order.index(f), blocks[group].sd(), blocks[group].corr()
        for a, effect in enumerate(effects):
            sds.append((place, a))
            name, unit = sd_label(group, effect), sigma * lengths[place][a]
            spreads.append((name, f"sd__{effect}", SD, float(sd[a]), float(unit)))
        for a, b in pairs(len(effects)):
            if related[a, b]:
                correlations.append((place, a, b))
                name, term = cor_label(group, effects[a], effects[b]), f"cor__{effects[a]}.{effects[b]}"
                angles.append((name, term, CORRELATION, float(corr[b, a]), 1.0))
    found += spreads + angles
    scale = bool(family.num_phi) and "phi" not in d.predictors
    if scale and family.has_scale:
        found.append(("sigma", "sd__Observation", SCALE, fit.sigma, 1.0 if relative else 0.5))
    elif scale:
        found.append(("dispersion", "phi", SCALE, float(fit.dispersion or np.nan), 1.0))
    found += [(name, name, CONSTANT, value, 1.0) for name, value in fit.family_params.items()]
    shape = Shape(len(T_X), tuple(sds), tuple(correlations), scale, len(fit.family_params))
    names, terms, kinds, estimates, units = (list(x) for x in zip(*found, strict=True))
    p, columns = shape.p, len(d.columns)
    shown = [*range(columns), *range(p, len(names)), *range(columns, p)]
    rows = [t / length[:, None] for t, length in zip(T, lengths, strict=True)]
    return Quantities(shape, names, terms, kinds, np.array(estimates), np.array(units), rows, shown)


def spreads(lams: Sequence[Array], shape: Shape, rows: Sequence[Any]) -> tuple[list[Array], list[Array]]:
    """|a| of each sd and arcsin ρ of each correlation, from λ of every factor; a variance of zero has no slope."""
    spread = [row @ lam for row, lam in zip(rows, lams, strict=True)]

    def length(square: Array) -> Array:
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

    def angle(a: Array, b: Array) -> Array:
        i, j = np.triu_indices(len(a), 1)
        across = length(jnp.sum((a[i] * b[j] - a[j] * b[i]) ** 2))
        return jnp.arctan2(a @ b, across)

    sds = [length(jnp.sum(spread[f][a] ** 2)) for f, a in shape.sds]
    return sds, [angle(spread[f][a], spread[f][b]) for f, a, b in shape.correlations]


# ---------------------------------------------------------------- names
GROUPS = {"beta_": (COEFFICIENT,), "theta_": (SD, CORRELATION, SCALE, CONSTANT)}  # lme4's names of many at once


def chosen(of: Quantities, parm: str | Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The names that ``parm`` stands for: None for ``default``, "all", a name or several; those of ``tidy``'s terms
    too ("sd__Days"), and lme4's "beta_" and "theta_".

    Raises:
        KeyError: a parameter that there is not.
    """
    if parm is None:
        return list(default)
    asked, out = [parm] if isinstance(parm, str) else list(parm), []
    names = [of.names[k] for k in of.shown]
    for name in asked:
        meant = names if name == "all" else [x for x in names if x == name]
        if not meant and isinstance(name, str):
            kinds = GROUPS.get(name, ())
            meant = [of.names[k] for k in of.shown if of.terms[k] == name or of.kinds[k] in kinds]
        if not meant:
            raise KeyError(f"there is no parameter {name!r}; there are {', '.join(map(repr, names))}, and 'all'")
        out += meant
    return list(dict.fromkeys(out))
