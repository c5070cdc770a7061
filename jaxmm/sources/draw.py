"""Responses drawn from a truth: y | b from the family at Xβ + Zb + offset, b ~ N(0, D) anew for each replicate.

With D = λλ' and u ~ N(0, I), row i of Zb is Σ_c l_ci u[d_ci]: over the q effects of all factors, l_c is a column of Zλ
and d_ci says which number among those of a replicate belongs to the level of the row.  Several programs draw a block of
replicates, for the bits, u and y: in a single one the compiler would draw u again for each row that it touches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._compiled import Program
from jaxmm._keywords import SIMULATING, known_keywords
from jaxmm._random import (
    ZERO,
    apart,
    as_key,
    as_keys,
    from_bits,
    normals_of,
    random_bits,
    replicate_words,
    words,
)
from jaxmm._types import Array
from jaxmm.design.replaced import replaced
from jaxmm.errors import row_errors
from jaxmm.families import Family
from jaxmm.fitted import Fitted
from jaxmm.generalised import sample
from jaxmm.predict import Etas, linear_predictors, rows_used
from jaxmm.prepared import Prepared
from jaxmm.sources.columns import Columns
from jaxmm.sources.mechanism import Mechanised, Mechanism, lanes_of, of_own
from jaxmm.sources.responses import Responses, Varying, fingerprint, unfitted
from jaxmm.sources.truth import Truth, as_truth

MOST = 2**32  # replicates: their numbers are one word of the generator's counter
MANY = 64  # responses that are equal only where the key has no effect


class Simulated(Responses):
    """Responses simulated from a model and a truth: a source for ``fit_many``.

    Replicate k depends on ``key`` and k alone, to the bit, and is that of ``Fit.simulate`` but for rounding.

    Args:
        model: its design, family, offset and weights (precisions in a linear model) or trials.
        truth: a ``Truth``, or what ``as_truth`` takes.
        n: number of replicates, below 2^32.
        key: a seed, a whole number, or a JAX key.
        re: "new", random effects drawn anew for each replicate; "conditional", at the modes of ``fit``.
        fit: for "conditional" the ``Fit`` whose parameters are the truth and whose rows are the model's; unless truth
            is itself a Fit.
        mechanism: a ``Mechanism``: effects and errors of other shapes, covariates drawn anew, missing rows; None for
            normal effects and errors, the model's rows and columns.

    Raises:
        ValueError: ``n`` that is no positive whole number; another ``re``; "conditional" without its fit, or with a
            mechanism; a mechanism that does not suit the model.
        TypeError: no key.

    Example:
        >>> truth = {"fixef": {"(Intercept)": 250.0, "Days": 10.0}, "sd": {"Subject": [25.0, 6.0]}, "sigma": 25.0}
        >>> mm.Simulated(fit.model, truth, 100, key=1).block(0, 2).y.shape
        (2, 180)
    """

    endless, trusted = True, True  # replicates beyond n may be asked for; every value is the family's

    @known_keywords(SIMULATING)
    def __init__(
        self,
        model: Prepared,
        truth: Any,
        n: int,
        key: Any,
        re: str = "new",
        fit: Fitted | None = None,
        mechanism: Mechanism | None = None,
    ):
        self.n, self._key = check_n(n), words(as_key(key))
        if re not in ("new", "conditional"):
            raise ValueError(f"re must be 'new' or 'conditional', not {re!r}")
        if re == "new" and fit is not None:
            raise ValueError("fit= is for re='conditional': new random effects need no modes")
        model = unfitted(model)
        fit = truth if fit is None and isinstance(truth, Fitted) else fit
        self.truth = as_truth(model, truth)
        d, self.re = model.design, re
        self._family = None if model.likelihood.precisions else model.likelihood.family
        if re == "conditional":
            self._effects, self._etas = _no_effects(model), _at_modes(model, self.truth, fit)
        else:
            self._effects, self._etas = _loadings(model, self.truth), _without_effects(model, self.truth)
        spread = np.full(len(d.y), self.truth.sigma)
        self._spread = spread if d.weights is None else spread / np.sqrt(d.weights)
        self._errors = None
        if d.residual is not None:
            self._errors = row_errors(model, self.truth.theta(model), d.residual, d.weights, len(d.y))
        self._trials = np.ones(len(d.y)) if d.trials is None else d.trials
        self.mechanised = None if mechanism is None else self._mechanised(model, mechanism)

    def _mechanised(self, model: Prepared, mechanism: Any) -> Mechanised:
        if not isinstance(mechanism, Mechanism):
            raise TypeError(f"mechanism must be a Mechanism, such as mm.Mechanism(errors='t'), not {mechanism!r}")
        if self.re != "new":
            raise ValueError("a mechanism draws new random effects: leave re='conditional' out")
        found = Mechanised(mechanism, model, self.truth, self._key)
        self.varies = found.varies
        return found

    def on(self, model: Prepared) -> Responses:
        """The same responses and missing rows for another ``model`` of the same rows, whose columns are made of what is
        drawn for the columns of its formula."""
        return (
            self if self.mechanised is None or not self.mechanised.columns else _OnModel(self, self.mechanised, model)
        )

    def block(self, first: int, size: int) -> Varying:
        """Replicates first .. first + size - 1: ``y`` (size, nobs), of float64, and what a mechanism varies."""
        if self.mechanised is not None:
            return self.mechanised.block(first, size)[0]
        size_u, by = self._effects
        with jax.enable_x64(True):
            for_effects, for_response = replicate_words(self._key, first, size)
            u = normals_of(for_effects, size_u)
            if self._family is None:
                eta = self._etas["mu"]
                bits = random_bits(for_response, len(eta))
                if self._errors is not None:
                    mean = np.asarray(_linear_predictor(u, eta, *by["mu"], ZERO))
                    z = np.asarray(_normals(*bits, len(eta), ZERO))
                    return Varying(mean + self.truth.sigma * self._errors.coloured(z))
                return Varying(_linear(*bits, u, eta, *by["mu"], self._spread, ZERO))
            etas = tuple(_linear_predictor(u, eta, *by[name], ZERO) for name, eta in self._etas.items())
            names = tuple(self._etas)
            own = self.truth.phi, self._trials, self.truth.extras
            return Varying(_sample(self._family, names, for_response, etas, *own))

    def identity(self) -> dict[str, Any]:
        """What tells these responses from others: ``n``, the key, and hashes of the parameters and the design."""
        placed = [array for pair in self._effects[1].values() for array in pair]
        return {
            "responses": "simulated",
            "n": self.n,
            "key": [int(x) for x in self._key],
            "re": self.re,
            "family": "linear" if self._family is None else repr(self._family),
            "truth": fingerprint(
                self.truth.beta,
                *self.truth.lams,
                self.truth.sigma,
                self.truth.phi,
                *self.truth.extras,
                *(() if self.truth.rho is None else (self.truth.rho,)),
            ),
            "design": fingerprint(*self._etas.values(), *placed, self._spread, self._trials),
            **({} if self.mechanised is None else {"mechanism": _first(self.mechanised)}),
        }


class _OnModel(Responses):
    """What a mechanism draws, for another model of the same rows."""

    endless = True

    def __init__(self, source: Simulated, mechanised: Mechanised, model: Prepared):
        self.source, self.mechanised, self.n, self.trusted = source, mechanised, source.n, source.trusted
        known = Columns(model.design)
        self.names = [name for name in mechanised.columns if name in known or model.design.spec is None]
        self.replaced = replaced(model.design, self.names) if self.names else None
        shared = mechanised.varies & {"y", "weights"}
        self.varies = shared | (of_own(self.replaced) if self.replaced else frozenset())

    def block(self, first: int, size: int) -> Varying:
        own, columns = self.mechanised.block(first, size)
        own = Varying(y=own.y, weights=own.weights)
        if self.replaced is None:
            return own
        more = lanes_of(self.replaced, {name: columns[name] for name in self.names})
        return more._replace(y=own.y, weights=own.weights)

    def identity(self) -> dict[str, Any]:
        return self.source.identity()


def _first(mechanised: Mechanised) -> str:
    """A hash of what is drawn first."""
    own, columns = mechanised.block(0, 1)
    return fingerprint(own.y, *(() if own.weights is None else (own.weights,)), *columns.values())


class Generated(Responses):
    """Responses from a function of one's own: a source for ``fit_many``.

    Args:
        function: key -> y (nobs,), of JAX operations alone; it is vectorised and compiled, and computes in float64.
            Whatever is random in it must come from the key: it is called once, so that the numbers of a NumPy generator
            would be the same in every replicate.
        n: number of replicates, below 2^32.
        key: a seed, a whole number, or a JAX key; replicate k is ``function`` of the key with k folded in, and
            depends on nothing else.

    Raises:
        ValueError: ``n`` that is no positive whole number, or a function whose value is not one array (nobs,); from
            ``block`` also a function that gives one and the same response for every key.
        TypeError: no key, or a function that cannot be called.

    Example:
        >>> noise = mm.Generated(lambda key: jax.random.normal(key, (180,)), 100, key=1)
        >>> noise.block(0, 2).y.shape
        (2, 180)
    """

    endless = True
    library = True  # the function may call the library's matrix routines

    @known_keywords(SIMULATING)
    def __init__(self, function: Callable[[jax.Array], Any], n: int, key: Any):
        if not callable(function):
            raise TypeError(f"function must map a key to a response (nobs,), not {function!r}")
        self.n, self._key, self.function = check_n(n), words(as_key(key)), function
        self._checked = False  # whether it was looked at that the key has an effect
        self._program = jax.jit(jax.vmap(lambda data: jnp.asarray(function(as_keys(data)), jnp.float64)))
        with jax.enable_x64(True):
            found = jax.eval_shape(function, as_keys(jnp.asarray(self._key)))
        if not hasattr(found, "shape") or len(found.shape) != 1:
            shape = f"an array of shape {found.shape}" if hasattr(found, "shape") else repr(found)
            raise ValueError(f"function must return one response (nobs,), not {shape}")

    def block(self, first: int, size: int) -> Varying:
        """Replicates first .. first + size - 1: ``y`` (size, nobs), a JAX array of float64."""
        with jax.enable_x64(True):
            keys, _ = replicate_words(self._key, first, size)
            y = self._program(keys)
        if size > 1 and not self._checked:
            self._check_varies(y)
        return Varying(y)

    def _check_varies(self, y: Array) -> None:
        """Raises ValueError where the key has no effect; rare counts may well be equal in a few replicates."""
        with jax.enable_x64(True):
            if np.ptp(y[0]) > 0 and np.all(y == y[0]):
                more = self._program(replicate_words(self._key, 0, MANY)[0])
                if np.all(more == more[0]):
                    raise ValueError(
                        "function gives one and the same response for every key: all that is random in it must come "
                        "from the key by jax.random; a NumPy generator, say, is called only once"
                    )
        self._checked = True

    def identity(self) -> dict[str, Any]:
        """What tells these responses from others: ``n``, the key, and a hash of the first response."""
        return {
            "responses": "generated",
            "n": self.n,
            "key": [int(x) for x in self._key],
            "first": fingerprint(self.block(0, 1).y),
        }


# ---------------------------------------------------------------- the programs
def _predictor(u: Array, eta: Array, index: Array, loading: Array, zero: Array) -> Array:
    """(k, nobs) of u (k, J q): Xβ + offset + Zb."""
    total = jnp.broadcast_to(eta, (len(u), eta.shape[-1]))
    for at, scale in zip(index, loading, strict=True):
        total = total + apart(scale * u.at[:, at].get(mode="promise_in_bounds"), zero)
    return total


@Program
def _linear(
    a: Array, b: Array, u: Array, eta: Array, index: Array, loading: Array, spread: Array, zero: Array
) -> Array:
    return _predictor(u, eta, index, loading, zero) + apart(spread * from_bits(a, b, len(eta), zero), zero)


_linear_predictor = Program(_predictor)
_normals = Program(from_bits, (2,))


@partial(Program, static_argnums=(0, 1))
def _sample(
    family: Family,
    names: tuple[str, ...],
    data: Array,
    etas: tuple[Array, ...],
    phi: Array,
    trials: Array,
    extras: tuple[Array, ...],
) -> Array:
    return sample(family, names, as_keys(data), etas, phi, trials, extras)


# ---------------------------------------------------------------- their arrays
Loadings = tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]


def _loadings(model: Prepared, truth: Truth) -> Loadings:
    """How many u a replicate has, and of each predictor which of them each row takes (C, nobs), and by how much
    (C, nobs)."""
    (_, by), d, start = _no_effects(model), model.design, 0
    for f, (factor, lam) in enumerate(zip(d.factors, truth.lams, strict=True)):
        q = len(lam)
        index = (start + q * factor.codes + np.arange(q)[:, None]).astype(np.int32)
        loading = (np.hstack([t.Z for t in d.terms if t.factor == f]) @ lam).T
        before = by[factor.predictor]
        by[factor.predictor] = np.concatenate([before[0], index]), np.concatenate([before[1], loading])
        start += q * len(factor.levels)
    return start, by


def _no_effects(model: Prepared) -> Loadings:
    n = len(model.design.y)
    return 0, {name: (np.zeros((0, n), np.int32), np.zeros((0, n))) for name in model.design.predictors}


def _without_effects(model: Prepared, truth: Truth) -> Etas:
    """(nobs,) Xβ + offset of each predictor."""
    d = model.design
    sides = [(d.X, d.offset), *((p.X, p.offset) for p in d.further)]
    return {
        name: X @ truth.beta[at] + (0.0 if offset is None else offset)
        for (name, at), (X, offset) in zip(d.predictors.items(), sides, strict=True)
    }


def _at_modes(model: Prepared, truth: Truth, fit: Any) -> Etas:
    """(nobs,) the linear predictors of a fit, its modes included.

    Raises:
        ValueError: no fit, one of other rows, or one whose parameters are not the truth.
    """
    if not isinstance(fit, Fitted):
        raise ValueError("re='conditional' needs the Fit whose modes the random effects are to have: pass fit=")
    d, theirs = model.design, fit.model.design
    pairs = [(d.X, theirs.X), *((a.codes, b.codes) for a, b in zip(d.factors, theirs.factors, strict=False))]
    if not all(np.array_equal(a, b) for a, b in pairs):
        raise ValueError(
            "re='conditional': the fit has other rows than the model, so that its modes are of other levels"
        )
    own = as_truth(model, fit)
    parameters = zip((truth.beta, *truth.lams, truth.sigma), (own.beta, *own.lams, own.sigma), strict=True)
    if truth.phi != own.phi or not all(np.array_equal(a, b) for a, b in parameters):
        raise ValueError("re='conditional': the truth differs from the fit, whose modes hold with its own parameters")
    return linear_predictors(fit, rows_used(fit), {f.name for f in d.factors})


def check_n(n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n < MOST:
        raise ValueError(f"n must be a positive number of replicates below 2^32, not {n!r}")
    return int(n)
