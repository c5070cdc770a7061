"""How data come about beyond a truth: shapes of effects and errors, covariates drawn anew, rows that are missing.

    key of a replicate  ->  columns  ->  X, Z  ->  y  ->  which rows are there

Replicates are drawn 64 at a time, 0-63, 64-127, and so on, whatever is asked for: so that every one comes out of the
same program, and its numbers and its missing rows do not depend on how a study is cut.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._random import as_keys, replicate_words
from jaxmm._types import Array
from jaxmm.design import DataError, Design
from jaxmm.design.replaced import replaced
from jaxmm.prepared import Prepared
from jaxmm.sources.columns import Columns, by_level, levels_of
from jaxmm.sources.drawing import Constants, Drawing, Words
from jaxmm.sources.draws import Draw, Per, as_draw, standardised
from jaxmm.sources.missing import as_patterns
from jaxmm.sources.responses import Varying
from jaxmm.sources.truth import Truth

AT_ONCE = 64  # replicates that are drawn together
REMEMBERED = 4  # such blocks: lanes are filled up a few at a time
COLUMNS, MISSING = 1 << 16, 1 << 17  # folded into the key of a replicate, beyond the grouping factors


@dataclass(frozen=True)
class Spread:
    """Standard deviations of errors in proportion to ``ratios``, one for each level of the column ``by``.

    Example:
        >>> mm.Spread("arm", {"placebo": 1.0, "drug": 1.5}).by
        'arm'
    """

    by: Any
    ratios: Mapping[Any, float]


@dataclass(frozen=True)
class Mechanism:
    """What is random in a simulated study beyond normal effects and errors; ``Simulated``, ``study`` and ``power`` take
    one.

    The variances of the truth remain those of what is drawn: shapes have mean 0 and variance 1, and the mean square of
    the spread is 1.  Independent numbers of the shape are multiplied by the factor of the truth's covariance, of errors
    that are correlated too.

    Args:
        effects: the shape of the random effects: a distribution of ``mm.draws``, its name, or a function of a key and a
            shape, taken as it is; or grouping factor -> any of these.
        errors: that of the errors of a linear model.
        spread: errors of unequal size: a ``Spread`` by a column; a function of the columns, ``lambda c: 1 + c["x"]``;
            or a positive number for each row.
        columns: column of the formula -> what it is drawn from in each replicate: a distribution, for each row; a
            ``mm.draws.Per``, for each level; or a function of a key that gives (nobs,) numbers.
        missing: a pattern of ``mm.missing``, or several.

    Raises:
        TypeError: what is no distribution, no pattern.
        ValueError: an unknown name.

    Example:
        >>> heavy = mm.Mechanism(effects="t", errors=mm.draws.SkewNormal(0.9), missing=mm.missing.AtRandom(0.1))
        >>> block = mm.Simulated(fit.model, fit, 10, key=1, mechanism=heavy).block(0, 2)
        >>> block.y.shape, block.weights.shape
        ((2, 180), (2, 180))
    """

    effects: Any = None
    errors: Any = None
    spread: Any = None
    columns: Mapping[str, Any] | None = None
    missing: Any = None

    def __post_init__(self):
        as_patterns(self.missing)
        for what in ("effects", "errors"):
            given = getattr(self, what)
            for one in given.values() if isinstance(given, Mapping) else () if given is None else (given,):
                standardised(what, one)
        if self.columns is not None and not isinstance(self.columns, Mapping):
            raise TypeError(
                f"columns must map a name to what it is drawn from, {{'x': 'normal'}}, not {self.columns!r}"
            )


class Mechanised:
    """A ``mechanism`` on a model, with its truth and the words of a key."""

    def __init__(self, mechanism: Mechanism, model: Prepared, truth: Truth, own: np.ndarray):
        d = self.design = model.design
        if mechanism.errors is not None and not model.likelihood.precisions:
            raise ValueError(
                f"errors are those of a linear model; of a {model.likelihood.family.name} response the family draws: "
                "leave errors out"
            )
        if mechanism.spread is not None and not model.likelihood.precisions:
            raise ValueError("spread is of the errors of a linear model: give the model dispersion= in its place")
        self.own, self.columns = own, _columns(mechanism.columns or {}, d)
        self.replaced = replaced(d, list(self.columns)) if self.columns else None
        self.patterns = [pattern.on(d) for pattern in as_patterns(mechanism.missing)]
        errors = None if mechanism.errors is None else standardised("errors", mechanism.errors)
        self.drawing = Drawing(model, _shapes(mechanism.effects, d), errors, _spread(mechanism.spread, d))
        rho = () if truth.rho is None else truth.rho
        self.at = Constants(truth.beta, truth.lams, truth.sigma, truth.phi, truth.extras, rho)
        self._draw_columns, self._draw_missing = jax.jit(jax.vmap(self._columns)), jax.jit(jax.vmap(self._there))
        self._kept: OrderedDict[int, tuple[Varying, dict[str, np.ndarray]]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def varies(self) -> frozenset[str]:
        """As of a source."""
        r = self.replaced
        return frozenset({"y"} | ({"weights"} if self.patterns else set()) | (of_own(r) if r else set()))

    def block(self, first: int, size: int) -> tuple[Varying, dict[str, np.ndarray]]:
        """Replicates first .. first + size - 1, and the columns that were drawn for them."""
        parts = []
        for k in range(first // AT_ONCE, (first + size - 1) // AT_ONCE + 1):
            at = slice(max(first - k * AT_ONCE, 0), min(first + size - k * AT_ONCE, AT_ONCE))
            own, columns = self._chunk(k)
            parts.append((own.each(lambda x, at=at: x[at]), {name: x[at] for name, x in columns.items()}))
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    def _chunk(self, k: int) -> tuple[Varying, dict[str, np.ndarray]]:
        with self._lock:
            if k not in self._kept:
                self._kept[k] = self._drawn(k * AT_ONCE)
                while len(self._kept) > REMEMBERED:
                    self._kept.popitem(last=False)
            return self._kept[k]

    def _drawn(self, first: int) -> tuple[Varying, dict[str, np.ndarray]]:
        with jax.enable_x64(True):
            words = Words(*replicate_words(self.own, first, AT_ONCE, 3))
            columns = {name: np.asarray(x) for name, x in self._draw_columns(words.more).items()}
            own = Varying() if self.replaced is None else lanes_of(self.replaced, columns)
            y = self.drawing.y(words, self.at, own.X, own.Z, own.offset)
            own = own._replace(y=y)
            if self.patterns:
                there = np.asarray(self._draw_missing(words.more, y))
                d = self.design
                own = own._replace(weights=there * (np.ones(len(d.y)) if d.weights is None else d.weights))
        return own, columns

    def _columns(self, more: Array) -> dict[str, Array]:
        key = as_keys(more)
        return {name: draw(jax.random.fold_in(key, COLUMNS + k)) for k, (name, draw) in enumerate(self.columns.items())}

    def _there(self, more: Array, y: Array) -> Array:
        key, there = as_keys(more), jnp.ones(y.shape, bool)
        for k, pattern in enumerate(self.patterns):
            there = there & pattern(jax.random.fold_in(key, MISSING + k), y)
        return there


# ---------------------------------------------------------------- columns of lanes
def of_own(r: Any) -> set[str]:
    """What of ``Varying`` lanes with other columns have of their own."""
    return {name for name, own in (("X", r.in_X), ("Z", r.bars), ("offset", r.in_offset)) if own}


def lanes_of(r: Any, columns: Mapping[str, np.ndarray]) -> Varying:
    """X, Z and offset of lanes from their columns (L, n).

    Raises:
        DataError: columns of which the formula makes what is not finite.
    """
    made = r.lanes(columns)
    bad = (made.gone | made.impossible).any(axis=1)
    if bad.any():
        lane = int(np.argmax(bad))
        raise DataError(
            f"columns: what is drawn for {', '.join(map(repr, columns))} has, or gives the formula, values that are "
            f"not finite, as in the {lane + 1}th replicate of a block: draw what the formula can take"
        )
    Z = None if made.Z is None else tuple(made.Z)
    return Varying(X=made.X, Z=Z, offset=made.offset)


def _columns(given: Mapping[str, Any], design: Design) -> dict[str, Callable[[jax.Array], Array]]:
    """Of each column a function of a key that gives its values (n,)."""
    n, out = len(design.y), {}
    for name, draw in given.items():
        what = f"columns[{name!r}]"
        if isinstance(draw, Per):
            codes, labels = levels_of(f"unit of {what}", draw.unit, design)
            of, J = as_draw(what, draw.draw), len(labels)
            out[name] = lambda key, of=of, codes=codes, J=J: of.sample(key, (J,))[codes]
        elif callable(draw) and not isinstance(draw, type) and not isinstance(draw, Draw):
            with jax.enable_x64(True):
                shape = getattr(jax.eval_shape(draw, jax.random.key(0)), "shape", None)
            if shape != (n,):
                raise DataError(f"{what} must give {n} numbers, one for each row, for a key; it gave shape {shape}")
            out[name] = lambda key, draw=draw: jnp.asarray(draw(key), jnp.float64)
        else:
            of = as_draw(what, draw)
            out[name] = lambda key, of=of: of.sample(key, (n,))
    return out


def _shapes(given: Any, design: Design) -> dict[int, Any]:
    """Index of a grouping factor -> shape of its effects, of those that are not normal."""
    names = [f.name for f in design.factors]
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return {f: standardised("effects", given) for f in range(len(names))}
    for name in given:
        if name not in names:
            raise ValueError(f"effects has no grouping factor {name!r}; there are {', '.join(map(repr, names))}")
    return {f: standardised(f"effects[{name!r}]", given[name]) for f, name in enumerate(names) if name in given}


def _spread(given: Any, design: Design) -> np.ndarray | None:
    """(n,) with a mean square of 1.

    Raises:
        ValueError: what is not a positive number for each row.
    """
    if given is None:
        return None
    if isinstance(given, Spread):
        codes, labels = levels_of("by of Spread", given.by, design)
        try:
            ratios = np.asarray(by_level("ratios of Spread", given.ratios, labels), float)[codes]
        except TypeError:
            raise ValueError(f"ratios of Spread must be level -> number, not {given.ratios!r}") from None
    else:
        ratios = np.asarray(given(Columns(design)) if callable(given) else given, float)
    if ratios.shape != (len(design.y),) or not np.all(np.isfinite(ratios) & (ratios > 0)):
        raise ValueError(
            f"spread must be a positive number for each of {len(design.y)} rows, a function of the columns that gives "
            f"them, or mm.Spread(by, ratios); got shape {ratios.shape}"
            + (f" with the least value {np.min(ratios):g}" if ratios.size else "")
        )
    return ratios / np.sqrt(np.mean(ratios**2))
