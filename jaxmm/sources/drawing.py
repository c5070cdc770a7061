"""y of lanes from parameters, shared or of each lane: Xβ + Zb + offset, b = λu, and an error or the family's response.

u and the errors are standard normal numbers, or of another shape with mean 0 and variance 1; errors that are correlated
are made of such numbers by the root of their covariance.  X and Z are the model's or those of each lane.  All
lanes are drawn by one program; what a lane has depends on its key and its own arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._random import as_keys, normals_of
from jaxmm._types import Array
from jaxmm.inference.predictive import one_response
from jaxmm.prepared import Prepared
from jaxmm.sources.coloured import Coloured

Shape = Callable[[jax.Array, tuple[int, ...]], Array]


class Constants(NamedTuple):
    """Parameters as ``Truth`` has them, or with the lanes first in every array."""

    beta: Any
    lams: tuple[Any, ...]
    sigma: Any
    phi: Any
    extras: tuple[Any, ...] = ()
    rho: Any = ()


class Words(NamedTuple):
    """Of L lanes (L, 2) words of keys: for the effects, the response, and what else there is to draw."""

    effects: Any
    response: Any
    more: Any


class Drawing:
    """Responses of ``model``.

    Args:
        effects: index of a grouping factor -> the shape of its u, where it is not normal.
        errors: the shape of the errors of a linear model, None for the normal one.
        spread: (n,) what the standard deviation of each row's error is multiplied by.
        own: whether parameters are those of each lane.
    """

    def __init__(
        self,
        model: Prepared,
        effects: Mapping[int, Shape] | None = None,
        errors: Shape | None = None,
        spread: np.ndarray | None = None,
        own: bool = False,
    ):
        d = self.design = model.design
        self.family = None if model.likelihood.precisions else model.likelihood.family
        self.effects, self.errors, self.own = dict(effects or {}), errors, own
        spread = np.ones(len(d.y)) if spread is None else spread
        self.spread = spread if d.weights is None else spread / np.sqrt(d.weights)
        self.trials = np.ones(len(d.y)) if d.trials is None else d.trials
        layout = model.structure.residual
        self.coloured = None if layout is None else Coloured(d.residual, layout, len(d.y))  # pyright: ignore
        self.sizes = [
            (len(f.levels), sum(t.Z.shape[1] for t in d.terms if t.factor == k)) for k, f in enumerate(d.factors)
        ]

    def y(self, words: Words, at: Constants, X: Any = None, Z: Any = None, offset: Any = None) -> np.ndarray:
        """(L, n); X (L, n, p), Z of each term (L, n, q) and offset (L, n) where lanes have their own."""
        with jax.enable_x64(True):
            u = normals_of(words.effects, sum(J * q for J, q in self.sizes))
            if self.family is None and self.errors is None:
                noise = normals_of(words.response, len(self.design.y))
            else:
                noise = jnp.zeros((len(u), 0))
            program = self._programs[X is not None, Z is not None, offset is not None]
            return np.asarray(program(u, noise, words.response, words.more, at, X, Z, offset))

    @cached_property
    def _programs(self) -> Mapping[tuple[bool, bool, bool], Any]:
        def made(*given: bool) -> Any:
            axes = [0 if has else None for has in given]
            return jax.jit(jax.vmap(self._one, (0, 0, 0, 0, 0 if self.own else None, *axes)))

        return {(a, b, c): made(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)}

    def _one(self, u: Array, noise: Array, response: Array, more: Array, at: Constants, X: Any, Z: Any, offset: Any):
        d = self.design
        etas = self._etas(at, X, offset)
        for f, b in enumerate(self._levels(u, more, at)):
            terms, first = [t for t in range(len(d.terms)) if d.terms[t].factor == f], 0
            factor = d.factors[f]
            for t in terms:
                columns = jnp.asarray(d.terms[t].Z) if Z is None else Z[t]
                own = b[factor.codes, first : first + columns.shape[1]]
                etas[factor.predictor] = etas[factor.predictor] + jnp.sum(columns * own, axis=1)
                first += columns.shape[1]
        if self.family is not None:
            extras = tuple(at.extras)
            return one_response(
                self.family, tuple(etas), as_keys(response), tuple(etas.values()), at.phi, self.trials, extras
            )
        if self.errors is not None:
            noise = jnp.asarray(self.errors(jax.random.fold_in(as_keys(more), 0), (len(d.y),)), jnp.float64)
        if self.coloured is not None:
            noise = self.coloured(noise, at.rho)
        return etas["mu"] + at.sigma * self.spread * noise

    def _etas(self, at: Constants, X: Any, offset: Any) -> dict[str, Array]:
        d = self.design
        sides = [(d.X if X is None else X, d.offset if offset is None else offset)]
        sides += [(p.X, p.offset) for p in d.further]
        return {
            name: jnp.asarray(X) @ jnp.asarray(at.beta)[own] + (0.0 if offset is None else jnp.asarray(offset))
            for (name, own), (X, offset) in zip(d.predictors.items(), sides, strict=True)
        }

    def _levels(self, u: Array, more: Array, at: Constants) -> list[Array]:
        """(J, q) the effects of each grouping factor."""
        out, first = [], 0
        for f, (J, q) in enumerate(self.sizes):
            own = u[first : first + J * q].reshape(J, q)
            if f in self.effects:
                own = jnp.asarray(self.effects[f](jax.random.fold_in(as_keys(more), 1 + f), (J, q)), jnp.float64)
            out.append(own @ jnp.asarray(at.lams[f]).T)
            first += J * q
        return out
