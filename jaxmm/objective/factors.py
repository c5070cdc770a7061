"""theta -> the factor lam (q, q) of each grouping factor, in elimination order."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from jaxmm._types import Array
from jaxmm.structure import Structure


def scaled_factors(theta: Array, structure: Structure) -> tuple[Array, ...]:
    """theta -> lam of every factor (q, q), in the columns that the criterion works in (Z_s)."""
    widths = list(structure.chain) + [q for _, q in structure.rest]
    lams = [jnp.zeros((q, q), theta.dtype) for q in widths]
    for term, at in zip(structure.terms, structure.slices(), strict=True):
        lam = term.covariance.factor(theta[at])
        if lam.shape == lams[term.position].shape:
            lams[term.position] = lam
        else:
            inside = slice(term.at, term.at + term.covariance.q)
            lams[term.position] = lams[term.position].at[inside, inside].set(lam)
    return tuple(lams)


def original_factors(theta: Array, structure: Structure, T: Sequence[Array]) -> tuple[Array, ...]:
    """theta as to the original columns of Z -> lam as to Z_s = ZT: Z lam = Z_s (T^-1 lam)."""
    lams = scaled_factors(theta, structure)
    return tuple(jnp.linalg.solve(t, lam) for t, lam in zip(T, lams, strict=True))
