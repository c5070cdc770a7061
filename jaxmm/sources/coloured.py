"""Independent numbers -> errors with the covariance of a model, in a program: of each subject Lz, LL' its block of C.

Subjects with rows at the same times, and the same set of parameters, share a root L, which is made once for all lanes
or, where parameters are those of each lane, once for each.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmm._runs import same_size
from jaxmm._types import Array
from jaxmm.design.residual import ResidualDesign
from jaxmm.structure import ResidualLayout

NOTHING = 1e-12  # of a variance: what is left of it given the errors before is rounding


class Coloured:
    """The errors of a design's rows over σ, without its weights."""

    def __init__(self, d: ResidualDesign, layout: ResidualLayout, n: int):
        self.d, self.layout, self.n = d, layout, n
        self.groups: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        if d.subject is None or d.place is None:
            return
        for rows in same_size(d.subject.codes):  # (m, k)
            found, pattern = np.unique(
                np.column_stack([d.set_codes[rows[:, 0]], d.place[rows]]), axis=0, return_inverse=True
            )
            self.groups.append((rows, np.ravel(pattern), found[:, 0], found[:, 1:]))
        order = np.concatenate([rows.ravel() for rows, *_ in self.groups])
        self.back = np.argsort(order)

    def __call__(self, z: Array, rho: Array) -> Array:
        """(n,) of independent z (n,) and the parameters (k,) of the errors."""
        thetas, gamma = self.layout.split(jnp.asarray(rho))
        s = 1.0 if self.d.V is None else jnp.exp(0.5 * jnp.asarray(self.d.V) @ gamma)
        if not self.groups:
            return s * z
        structure: Any = self.d.covariance
        C = jnp.stack([structure.covariance(theta, self.d.positions) for theta in thetas])
        parts = []
        for rows, pattern, which, place in self.groups:
            blocks = C[which[:, None, None], place[:, :, None], place[:, None, :]]  # (K, k, k)
            root = singular_root(jnp.moveaxis(blocks, 0, -1))
            parts.append(jnp.sum(jnp.moveaxis(root, -1, 0)[pattern] * z[rows][:, None, :], axis=2).ravel())
        return s * jnp.concatenate(parts)[self.back]


def singular_root(C: Array) -> Array:
    """L (k, k, ..) lower triangular with LL' = C, also of a singular C: an error that the ones before it determine has
    no column."""
    columns, left = [], C
    for k in range(len(C)):
        pivot = left[k, k]
        real = pivot > NOTHING * C[k, k]
        below = jnp.asarray(np.arange(len(C)) >= k, C.dtype).reshape(len(C), *(1,) * (C.ndim - 2))
        column = jnp.where(real, below * left[:, k] / jnp.sqrt(jnp.where(real, pivot, 1.0)), 0.0)
        columns.append(column)
        left = left - column[:, None] * column[None]
    return jnp.stack(columns, axis=1)
