"""Rows of subjects -> the same with errors that are independent and of one variance: L^-1 diag(1/s) [Z X y].

L L' = C_k of the subject's pattern, s² = exp(V γ) / w of each row: what is left is a linear model as any other, whose
cross-products the solver makes of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.residual.patterns import Patterns
from jaxmm.rows import Rows
from jaxmm.solver import spd
from jaxmm.structure import Structure


@partial(jax.tree_util.register_dataclass, data_fields=["rows", "patterns", "V"], meta_fields=[])
@dataclass(frozen=True)
class PatternRows:
    """``rows`` in pieces that are subjects, or any where ``patterns`` is None and errors independent; their y is what
    is left of the response by least squares, their weights are known.  ``V`` (columns, H, P) of log φ."""

    rows: Rows
    patterns: Patterns | None
    V: Array

    how = "rows"
    has_expected = False  # the one Hessian is the exact one
    work = 0  # which is not too dear but for what the random effects make it

    def has_hessian(self, structure: Structure) -> bool:
        """As ``sums.PatternSums.has_hessian``."""
        return False

    @property
    def size(self) -> int:
        """Numbers in the rows."""
        rows = self.rows
        parts = [rows.X, rows.y, *rows.Z, *(() if rows.mixed is None else (rows.mixed.Z,))]
        return sum(int(np.prod(x.shape)) for x in parts)

    def gram(self, rho: Array, gram: Gram) -> Gram:
        """As ``sums.PatternSums.gram``."""
        thetas, log_phi = self._split(rho)
        real = self.rows.weights > 0
        half = jnp.where(real, jnp.exp(-0.5 * log_phi), 0.0) * jnp.sqrt(self.rows.weights)
        logdet = jnp.sum(jnp.where(real, log_phi, 0.0))
        if self.patterns is None:
            return self._made(half, None, logdet, gram)
        Linv, at = spd.inverse_root(self.patterns.covariances(thetas)), self.patterns.pattern
        return self._made(half, Linv[:, :, at], logdet + jnp.sum(_logdets(Linv)[at]), gram)

    def covariances(self, rho: Array) -> Array:
        """Over σ², without the weights: of each subject (H, H, P), or of rows that are independent (H, P)."""
        thetas, log_phi = self._split(rho)
        if self.patterns is None:
            return jnp.exp(log_phi)
        s = jnp.exp(0.5 * jnp.where(self.rows.weights > 0, log_phi, 0.0))
        return s[:, None] * s[None] * self.patterns.covariances(thetas)[:, :, self.patterns.pattern]

    def whitened(self, R: Array, gram: Gram) -> Gram:
        """As ``sums.PatternSums.whitened``."""
        real, root = self.rows.weights > 0, jnp.sqrt(self.rows.weights)
        if self.patterns is None:
            half = jnp.where(real, R**-0.5, 0.0) * root
            return self._made(half, None, jnp.sum(jnp.where(real, jnp.log(R), 0.0)), gram)
        Linv = spd.inverse_root(R)
        return self._made(root, Linv, jnp.sum(_logdets(Linv)), gram)

    def _split(self, rho: Array) -> tuple[list[Array], Array]:
        """theta of each set, and log φ (H, P) beside its constant."""
        layout = self.rows.structure.residual
        thetas, gamma = layout.split(rho)  # pyright: ignore
        return thetas, jnp.tensordot(gamma, self.V, 1) if layout.columns else jnp.zeros_like(self.rows.weights)  # pyright: ignore

    def _made(self, scale: Array, Linv: Array | None, logdet: Array, gram: Gram) -> Gram:
        """Of the columns times ``scale`` (H, P), and then Linv (H, H, P) of each subject where its rows are mixed."""
        rows = self.rows

        def white(x: Array) -> Array:
            """(c, H, P)"""
            x = x * scale
            return x if Linv is None or not len(x) else jnp.swapaxes(spd.products(Linv, jnp.swapaxes(x, 0, 1)), 0, 1)

        mixed = rows.mixed
        parts = [rows.X, rows.y[None], *rows.Z, *(() if mixed is None else (mixed.Z,))]
        X, e, *Z = jnp.split(white(jnp.concatenate(parts)), np.cumsum([len(x) for x in parts])[:-1])
        if mixed is not None:
            mixed = replace(mixed, Z=Z.pop())
        own = replace(rows, X=X, Z=tuple(Z), mixed=mixed)
        couplings = gram.structure.solver.of_rows(own, (jnp.ones_like(e[0]),), jnp.concatenate([X, e]))
        return replace(gram, couplings=couplings, sum_log_weights=gram.sum_log_weights - logdet, residual=None)


def _logdets(Linv: Array) -> Array:
    """log|C| of each (K,), differentiated by way of its factor's inverse."""
    return -2 * jnp.sum(jnp.log(spd.BLOCKS.diagonal(Linv)), axis=0)
