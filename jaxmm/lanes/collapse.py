"""Levels that are alike, in a linear model with crossed factors: fewer levels with the same likelihood.

Of the first factor to be eliminated, levels j of a pattern have the same Z_j'WZ_j and the same Z_j'W[Z_rest X] = B;
only z_j = Z_j'Wy differs.  With J of them, M one for all, z̄ their mean and FF' = Σ (z_j - z̄)(z_j - z̄)',

    Σ [B z_j]'M^-1 [B z_j]  =  J [B z̄]'M^-1 [B z̄]  +  Σ_c [0 F_c]'M^-1 [0 F_c]

so that J levels may be replaced by one that counts J - q times, with its border scaled by √(J / (J - q)), and q levels
with nothing but F_c in theirs (``Gram.copies``): log|M| then counts J times, as before.  Where every subject sees the
same items this leaves a handful of levels, however many subjects there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmm import costs
from jaxmm._types import Array
from jaxmm.gram import Gram
from jaxmm.lanes.closed_form import patterns
from jaxmm.lanes.entrywise import cholesky
from jaxmm.solver import level_systems


@partial(jax.tree_util.register_dataclass, data_fields=["gram", "combine", "members", "sizes"], meta_fields=[])
@dataclass(frozen=True)
class Alike:
    """``gram`` with the levels replaced.  ``combine`` (E, J) makes z of the first E of them, ``members`` (K, J) tells
    the levels of each of the K patterns, ``sizes`` (K,) how many they are."""

    gram: Gram
    combine: Array
    members: Array
    sizes: Array

    def columns(self, z: Array) -> Array:
        """z (q, J, L) of the data's levels -> of those in their place (q, E + K q, L)."""
        q, L = len(z), z.shape[-1]
        first = jnp.einsum("ej,qjl->qel", self.combine, z)
        total = jnp.einsum("kj,qjl->qkl", self.members, z)
        centred = [
            [self.members @ (z[a] * z[b]) - total[a] * total[b] / self.sizes[:, None] for b in range(q)]
            for a in range(q)
        ]
        F = cholesky(jnp.stack([jnp.stack(row) for row in centred]))  # (q, q, K, L)
        return jnp.concatenate([first, jnp.moveaxis(F, 1, 2).reshape(q, -1, L)], axis=1)


def find_alike(gram: Gram) -> Alike | None:
    """None where there are too few alike to be worth it; on the host, with x64 enabled."""
    s = gram.structure
    border = s.solver.border(gram)
    if border is None:
        return None
    A, border = np.moveaxis(level_systems(gram)[0][0], 0, -1), np.asarray(border)
    q, J = A.shape[1], A.shape[2]
    flat = np.concatenate([A.reshape(-1, J), border[:, :-1].reshape(-1, J)]).T
    pattern = patterns(flat)
    sizes = np.bincount(pattern)
    large = np.flatnonzero(sizes > q + 1)
    single = np.flatnonzero(~np.isin(pattern, large))
    if len(single) + len(large) * (1 + q) > costs.COLLAPSED_SHARE * J:
        return None
    place = np.concatenate([single, [np.flatnonzero(pattern == k)[0] for k in large]]).astype(int)
    n, count = sizes[large].astype(float), sizes[large] - q
    members = (pattern[None] == large[:, None]).astype(float)
    combine = np.concatenate([np.eye(J)[single], members / np.sqrt(n * count)[:, None]])
    scale = np.concatenate([np.ones(len(single)), np.sqrt(n / count)])
    extra = np.repeat(place[len(single) :], q)
    nothing = np.zeros((*border.shape[:2], len(extra)))
    copies = np.concatenate([np.ones(len(single)), count, np.ones(len(extra))])
    fewer = s.solver.with_levels(
        gram,
        np.concatenate([A[..., place], A[..., extra]], axis=-1),
        np.concatenate([border[..., place] * scale, nothing], axis=-1),
    )
    smaller = replace(gram, couplings=fewer, copies=(copies,))  # pyright: ignore
    return jax.device_put(Alike(smaller, combine, members, n))  # pyright: ignore
