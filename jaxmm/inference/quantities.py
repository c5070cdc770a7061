"""The parameters that people read, as smooth functions h of the vector that a search moves.

    coefficient      (T_X β_s)_k, from the estimate
    sd               |(Tλ)_a|                      a row of Tλ for each effect of a factor; times σ in a linear model
    correlation      arcsin ρ,  ρ = (Tλ)_a · (Tλ)_b / (|(Tλ)_a| |(Tλ)_b|)
    σ, φ             their logarithms
    others           as the family names them

An arcsine has a slope at ρ = 1, where ρ itself has none in θ; by Lagrange's identity it is exact there:

    arcsin ρ = atan2(a · b, √Σ_{i<j} (a_i b_j - a_j b_i)²)

Rows and coefficients are divided by what the changes of columns make of their size, so that h is of about unit size;
``Quantities.value`` leads back.  Names and order are those of ``studies.bootstrap.parameters``: "Days",
"sd_Days|Subject", "cor_(Intercept).Days|Subject", "sigma" or "dispersion", the family's others, "zi~(Intercept)".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.covariance import free
from jaxmm.fitted import Fitted
from jaxmm.inference.of_errors import ErrorShape, error_quantities
from jaxmm.studies.bootstrap import parameters
from jaxmm.tables import pairs

EDGE = 1e-4  # of an angle, or of a standard deviation's estimate: nearer to the end of its range than a profile goes
FAR = 25.0  # from log φ or 2 log σ: further than that from its estimate no profile goes
COEFFICIENT, SD, CORRELATION, SCALE, CONSTANT, ANGLE = range(6)  # what a quantity is; an angle is one of the errors'
ERRORS = "errors_"  # stands for all of the errors' covariance


class Shape(NamedTuple):
    """Which quantities there are, in the order of h: static.  How many coefficients of the mean; (factor in elimination
    order, effect) of each sd; (factor, effect, effect) of each correlation; whether there is σ or φ; how many constants
    of the family after it; how many coefficients of further predictors; those of the errors' covariance."""

    columns: int
    sds: tuple[tuple[int, int], ...]
    correlations: tuple[tuple[int, int, int], ...]
    scale: bool
    constants: int
    further: int
    errors: ErrorShape | None = None

    def kinds(self) -> list[int]:
        numbers = {COEFFICIENT: self.columns, SD: len(self.sds), CORRELATION: len(self.correlations)}
        numbers |= {SCALE: int(self.scale), CONSTANT: self.constants}
        usual = [kind for kind, n in numbers.items() for _ in range(n)] + [COEFFICIENT] * self.further
        if self.errors is None:
            return usual
        own = {SCALE: self.errors.sds, ANGLE: self.errors.correlations, CONSTANT: self.errors.constant}
        return usual + [kind for kind, several in own.items() for _ in several]


@dataclass(frozen=True)
class Quantities:
    """The quantities of a fit, in the order of h; all lists have one entry for each.

    Attributes:
        names: what tables call them.
        kinds: COEFFICIENT, SD, CORRELATION, SCALE, CONSTANT or ANGLE.
        estimates: (K,) in the units of the data.
        units: (K,) of an h of one; what φ and σ are powers of: value = exp(h units).
        rows: per factor T (q, q) with rows of length one.
        T_X: (p, p) likewise.
        usual: how many there are before those of the errors' covariance.
        known: which of them are not estimated: of a covariance that is known.
        floor: log σ where a covariance that is known is all there is, as well as can be told.
        positions: of the errors' times.
    """

    shape: Shape
    names: list[str]
    kinds: list[int]
    estimates: np.ndarray
    units: np.ndarray
    rows: list[np.ndarray]
    T_X: np.ndarray
    usual: int
    known: frozenset[int] = frozenset()
    floor: float = -np.inf
    positions: Any = None

    def value(self, k: int, h: Any) -> Any:
        """Of quantity k in the units of the data, from h; increasing."""
        kind, unit = self.kinds[k], self.units[k]
        if kind == COEFFICIENT:
            return self.estimates[k] + unit * np.asarray(h)
        if kind in (CORRELATION, ANGLE):
            return np.sin(h)
        return np.exp(unit * np.asarray(h)) if kind == SCALE else unit * np.asarray(h)

    def slope(self, k: int, h: Any) -> Any:
        """dvalue/dh."""
        kind, unit = self.kinds[k], self.units[k]
        if kind in (CORRELATION, ANGLE):
            return np.cos(h)
        return unit * np.exp(unit * np.asarray(h)) if kind == SCALE else unit * np.ones_like(h)

    def ends(self, k: int, h: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """How far a profile of quantity k goes from its estimate h, down and up: (the last h, the value that this
        stands for)."""
        kind = self.kinds[k]
        if kind == SD:
            return (EDGE * h, 0.0), (np.inf, np.inf)
        if kind in (CORRELATION, ANGLE):
            return (EDGE - np.pi / 2, -1.0), (np.pi / 2 - EDGE, 1.0)
        if kind == SCALE:
            return (max(h - FAR, self.floor), 0.0), (h + FAR, np.inf)
        return (-np.inf, -np.inf), (np.inf, np.inf)

    def place(self, k: int) -> tuple[int, ...]:
        """(factor in elimination order, effect, ..) of a standard deviation or a correlation."""
        return (self.shape.sds + self.shape.correlations)[k - self.shape.columns]


def quantities(fit: Fitted, relative: bool) -> Quantities:
    """Those of a fit; ``relative``: θ is so to σ, and the scale log σ from its estimate."""
    d, s, arrays, family = fit.model.design, fit.model.structure, fit.model.arrays, fit.family
    sigma = fit.sigma if relative else 1.0
    T, T_X = [np.asarray(t) for t in arrays.T], np.asarray(arrays.T_X)
    lengths, length = [np.linalg.norm(t, axis=1) for t in T], np.linalg.norm(T_X, axis=1)
    sds, correlations, given, floor = [], [], set(), -np.inf
    for f in dict.fromkeys(term.factor for term, _ in fit._term_layouts()):
        terms = [t for t in d.terms if t.factor == f]
        related, place = free(terms), fit.model.elimination.order.index(f)
        sds += [(place, a) for a in range(len(related))]
        of_effect = [t.covariance.absolute for t in terms for _ in range(t.covariance.q)]
        given |= {(place, a) for a, absolute in enumerate(of_effect) if absolute}
        if any(of_effect) and not (s.profiles_sigma or s.knows_sigma):
            floor = np.log(EDGE * np.sqrt(np.mean(np.diag(fit.varcorr().cov[d.factors[f].name])[of_effect])))
        correlations += [(place, a, b) for a, b in pairs(len(related)) if related[a, b]]
    columns, scale = len(d.columns), bool(family.num_phi) and "phi" not in d.predictors
    further, constants = len(T_X) - columns, len(fit.family_params)
    errors = error_quantities(fit)
    own = None if errors is None else errors.shape
    shape = Shape(columns, tuple(sds), tuple(correlations), scale, constants, further, own)
    found = parameters(fit)
    power = 0.5 if family.has_scale and not relative else 1.0  # of what the search moves: φ, or σ
    units = [*sigma * length[:columns], *(sigma * lengths[f][a] for f, a in sds), *np.ones(len(correlations))]
    units += [*[power] * scale, *np.ones(constants), *length[columns:]]
    rows = [t / size[:, None] for t, size in zip(T, lengths, strict=True)]
    estimates, names, at, usual = found.to_numpy(float), list(found.index), None, len(found)
    if errors is not None:
        names, at = names + errors.names, errors.positions
        estimates, units = np.append(estimates, errors.estimates), [*units, *np.ones(len(errors.names))]
    known = {columns + k for k, place in enumerate(sds + correlations) if set(_effects(place)) <= given}
    known |= {columns + len(sds) + len(correlations)} if s.knows_sigma else set()
    T_X = T_X / length[:, None]
    values = shape, names, shape.kinds(), estimates, np.array(units), rows, T_X, usual
    return Quantities(*values, frozenset(known), floor, at)


def _effects(place: tuple[int, ...]) -> list[tuple[int, int]]:
    """(factor, effect) of each effect of an sd or a correlation."""
    return [(place[0], a) for a in place[1:]]


def spreads(lams: Sequence[Array], shape: Shape, rows: Sequence[Any]) -> tuple[list[Array], list[Array]]:
    """|a| of each sd and arcsin ρ of each correlation, from λ of every factor; a variance of zero has no slope."""
    spread = [row @ lam for row, lam in zip(rows, lams, strict=True)]

    def length(square: Array) -> Array:
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

    def angle(a: Array, b: Array) -> Array:
        i, j = np.triu_indices(len(a), 1)
        along, across = a @ b, length(jnp.sum((a[i] * b[j] - a[j] * b[i]) ** 2))
        none = (along == 0) & (across == 0)  # a standard deviation of zero: no angle, and a slope that spoils no other
        return jnp.arctan2(along, jnp.where(none, 1.0, across))

    sds = [length(jnp.sum(spread[f][a] ** 2)) for f, a in shape.sds]
    return sds, [angle(spread[f][a], spread[f][b]) for f, a, b in shape.correlations]


def chosen(fit: Fitted, parm: Any, default: Sequence[str], errors: Sequence[str] = ()) -> list[str]:
    """The names that ``parm`` stands for: None for ``default``, a name or several of ``parameters(fit)``, "all", or
    lme4's "beta_" (all coefficients) and "theta_" (all others); of a profile also those of the ``errors``' covariance,
    or "errors_".

    Raises:
        ValueError: a parameter that there is not.
    """
    if parm is None:
        return list(default)
    names, beta = list(parameters(fit).index), fit.model.design.coefficients
    meant = {name: [name] for name in names}
    meant |= {name: [name] for name in errors} | ({ERRORS: list(errors)} if errors else {})
    meant |= {"all": names, "beta_": list(beta), "theta_": [name for name in names if name not in beta]}
    out = []
    for name in [parm] if isinstance(parm, str) or not isinstance(parm, Iterable) else parm:
        if not isinstance(name, str) or name not in meant:
            also = f", {ERRORS!r}" if errors else ""
            known = ", ".join(map(repr, [*names, *errors]))
            raise ValueError(f"there is no parameter {name!r}; parm takes {known}{also}, or 'all'")
        out += meant[name]
    return list(dict.fromkeys(out))
