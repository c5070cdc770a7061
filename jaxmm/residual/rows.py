"""Rows of subjects -> the same with errors that are independent and of one variance: L^-1 diag(1/s) [Z X y].

L L' = C_k of the subject's pattern, s² = exp(V γ) / w of each row: what is left is a linear model as any other, whose
cross-products the solver makes of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.residual.patterns import Patterns
from jaxmm.rows import Rows
from jaxmm.solver import spd


@partial(jax.tree_util.register_dataclass, data_fields=["rows", "patterns", "V"], meta_fields=[])
@dataclass(frozen=True)
class PatternRows:
    """``rows`` in pieces that are subjects, or any where ``patterns`` is None and errors independent; their y is what
    is left of the response by least squares, their weights are known.  ``V`` (columns, H, P) of log φ."""

    rows: Rows
    patterns: Patterns | None
    V: Array

    how = "rows"

    @property
    def work(self) -> int:
        """There is no other Hessian than the exact one."""
        return 0

    def gram(self, rho: Array, gram: Gram) -> Gram:
        """As ``sums.PatternSums.gram``."""
        rows, residual = self.rows, gram.structure.residual
        thetas, gamma = residual.split(rho)  # pyright: ignore
        real = rows.weights > 0
        log_phi = jnp.tensordot(gamma, self.V, 1) if residual.columns else jnp.zeros_like(rows.weights)  # pyright: ignore
        half = jnp.where(real, jnp.exp(-0.5 * log_phi), 0.0) * jnp.sqrt(rows.weights)
        logdet = jnp.sum(jnp.where(real, log_phi, 0.0))
        X, e, Z = rows.X * half, rows.y * half, tuple(z * half for z in rows.Z)
        if self.patterns is not None:
            C = self.patterns.covariances(thetas)
            Linv = spd.inverse_root(C)
            each = -2 * jnp.sum(jnp.log(jnp.stack([Linv[k, k] for k in range(len(Linv))])), axis=0)
            at = self.patterns.pattern
            logdet = logdet + jnp.sum(each[at])
            own = Linv[:, :, at]

            def white(x: Array) -> Array:
                """(c, H, P), the slots mixed."""
                return jnp.swapaxes(spd.products(own, jnp.swapaxes(x, 0, 1)), 0, 1) if len(x) else x

            X, e, Z = white(X), white(e[None])[0], tuple(white(z) for z in Z)
        return self._made(X, e, Z, logdet, gram)

    def covariances(self, rho: Array) -> Array:
        """Over σ², without the weights: of each subject (H, H, P), or of rows that are independent (H, P)."""
        rows, layout = self.rows, self.rows.structure.residual
        thetas, gamma = layout.split(rho)  # pyright: ignore
        log_phi = jnp.tensordot(gamma, self.V, 1) if layout.columns else jnp.zeros_like(rows.weights)  # pyright: ignore
        if self.patterns is None:
            return jnp.exp(log_phi)
        s = jnp.exp(0.5 * jnp.where(rows.weights > 0, log_phi, 0.0))
        return s[:, None] * s[None] * self.patterns.covariances(thetas)[:, :, self.patterns.pattern]

    def whitened(self, R: Array, gram: Gram) -> Gram:
        """As ``sums.PatternSums.whitened``."""
        rows = self.rows
        real, root = rows.weights > 0, jnp.sqrt(rows.weights)
        if self.patterns is None:
            half = jnp.where(real, R**-0.5, 0.0) * root
            logdet = jnp.sum(jnp.where(real, jnp.log(R), 0.0))
            return self._made(rows.X * half, rows.y * half, tuple(z * half for z in rows.Z), logdet, gram)
        Linv = spd.inverse_root(R)
        logdet = -2 * jnp.sum(jnp.log(jnp.stack([Linv[k, k] for k in range(len(Linv))])))

        def white(x: Array) -> Array:
            return jnp.swapaxes(spd.products(Linv, jnp.swapaxes(x * root, 0, 1)), 0, 1) if len(x) else x

        return self._made(white(rows.X), white(rows.y[None])[0], tuple(white(z) for z in rows.Z), logdet, gram)

    def _made(self, X: Array, e: Array, Z: tuple[Array, ...], logdet: Array, gram: Gram) -> Gram:
        rows = replace(self.rows, X=X, Z=Z)
        couplings = gram.structure.solver.of_rows(rows, (jnp.ones_like(e),), jnp.concatenate([X, e[None]]))
        return replace(gram, couplings=couplings, sum_log_weights=gram.sum_log_weights - logdet, residual=None)
